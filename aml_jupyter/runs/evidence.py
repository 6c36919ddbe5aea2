"""What happened since the record was written, told by files and processes themselves.

Written here are only what the supervisor tells and anybody's request to cancel.

    status.jsonl      the last state the supervisor told
    starting          that the job may exist, and how long the phases took that were over then
    supervisor.lock   who supervises, and whether that process still lives
    job/started.json  who the job is; job/heartbeat whether it is well; job/exit.json that it has ended
    cancel            that somebody asked for its end
    labels.json       what people added
"""

from __future__ import annotations

import os
import time

from aml_jupyter import plainjson, processes
from aml_jupyter.confined import MissingFile, read_bounded, write_atomic
from aml_jupyter.errors import AmlError, ConfinedError
from aml_jupyter.frozen import Value
from aml_jupyter.job import FORMAT, STATUSES, TERMINAL
from aml_jupyter.locks import holders
from aml_jupyter.runs.directory import RunDirectory, at, mark_changed, with_reserve
from aml_jupyter.runs.record import Record, load_record, mark_changed_if_possible, utc, with_offset
from aml_jupyter.sealed import unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# how a run is asked to end
TERMINATE, KILL, ABANDON = "terminate", "kill", "abandon"
# seconds without a heartbeat after which a job counts as not responding: three of the slowest
SILENCE = 30.0
# seconds a submitted run may take until its supervisor has announced itself
STARTING = 3.0
# kinds whose job is a process that this machine can look at
HERE = ("local",)
# bytes of what people may add to a run, and of other small files of ours
LARGEST_LABELS = 1 << 20
_SMALL = 1 << 20
_TAIL = 4096


def read_record(directory: RunDirectory) -> Record:
    """The record with everything that happened since: never `Running` for a job that no longer exists.

    Reads only.  Raises RunNotFound `run.missing`, HistoryError `record.corrupt`.
    """
    record = load_record(directory)
    if record.status not in TERMINAL:
        record = _live(directory, record)
    try:
        labels = read_labels(directory)
    except AmlError as error:  # what people added is damaged; what happened is not
        return record.replace(warnings=(*record.warnings, error.message))
    return record if labels is _NO_LABELS else record.replace(**labels.as_dict())


def _live(directory: RunDirectory, record: Record) -> Record:
    told, reason = last_status(directory)
    if told is None or told in TERMINAL:
        # an ending counts when it is in the record
        told, reason = ("Finalizing", "") if told else (record.status, record.reason)
    asked = cancel_request(directory) is not None
    if record.status == "Queued" and last_status(directory)[0] is None and not asked:
        waiting = _queued(directory, record)
        if waiting is not None:
            return waiting
    if asked and told in ("NotStarted", "Preparing", "Queued", "Running"):
        told = "CancelRequested"
    lost = _not_responding(directory, record)
    if lost in (_UNWATCHED, _UNTAKEN) and told == "NotResponding" and reason == "secret.needed":
        lost = _LOCKED_OUT if _wants_password(directory) else _WAITING if lost == _UNWATCHED else lost
    if lost == _UNWATCHED and os.path.exists(f"{directory.home}/queue/{record.run_id}.waits"):
        lost = _WAITING  # a sweep whose next trials nobody can start
    if lost is not None:
        again = load_record(directory)
        if again.status in TERMINAL:  # it ended while we looked
            return again
        return record.replace(
            status="NotResponding", reason=lost[0], error=_error(record, *lost), **_known(directory)
        )
    if os.path.isfile(directory.exit_json):
        told, reason = "Finalizing", ""
    return record.replace(status=told, reason=reason, **_known(directory))


_LOST = ("run.lost", "the process of the run is gone and left no ending")
_UNTAKEN = ("supervisor.gone", "the job has ended and nobody has taken in its ending yet")
_UNWATCHED = ("supervisor.gone", "nobody looks after the run: the process that supervised it is gone")
_WAITING = ("secret.needed", "it was not started: it needs variables that are kept nowhere")
_LOCKED_OUT = ("secret.needed", "its machine wants a password, or it needs variables, that are kept nowhere")


def _not_responding(directory: RunDirectory, record: Record) -> tuple[str, str] | None:
    """Reason and message when nobody sees the run through or its job is gone or silent."""
    job = _identity(directory.started_json)
    here = record.kind in HERE and job is not None
    gone = here and not processes.is_alive(job or {})
    ended = os.path.isfile(directory.exit_json)  # looked for after the process, which writes it last
    if not supervised(directory):
        if job is None and not ended and _starting(directory):
            return None
        return _UNTAKEN if ended else _LOST if gone else _UNWATCHED
    if gone and not ended:
        return _LOST
    silent = heartbeat_age(directory) if here and not ended else None
    if silent is not None and silent > SILENCE:
        return "run.no_heartbeat", f"the job has given no sign of life for {silent:.0f} s"
    return None


def _queued(directory: RunDirectory, record: Record) -> Record | None:
    """The record of a run that waits for its turn; None where the queue knows nothing of it."""
    for run_id in filter(None, (record.run_id, record.parent_run_id)):
        entry = f"{directory.home}/queue/{run_id}"
        if "/" not in run_id and os.path.exists(entry + ".json"):
            if os.path.exists(entry + ".waits"):
                return record.replace(reason=_WAITING[0], error=_error(record, *_WAITING))
            return record
    return None


def _error(record: Record, code: str, message: str) -> dict[str, str]:
    hint = f"aml resume {record.run_id}"
    if code == _WAITING[0]:
        from shlex import quote

        hint += "".join(f" -e {quote(name)}=..." for name in record.environment_secret)
    if message == _LOCKED_OUT[1]:
        from aml_jupyter import credentials

        hint = f"{credentials.ways(record.target)} Then: {hint}"
    return {"code": code, "message": message, "hint": hint}


def _wants_password(directory: RunDirectory) -> bool:
    request = read_json(directory.job + "/request.json")
    target = request.get("target") if request else None
    return isinstance(target, dict) and bool(target.get("password"))


def _starting(directory: RunDirectory) -> bool:
    """Whether a supervisor may still come: none has been, and the record is a moment old."""
    if os.path.exists(directory.supervisor_lock):
        return False
    try:
        # in either direction: a clock that was set back must not keep it starting for a year
        return abs(time.time() - os.stat(directory.run_json).st_mtime) < STARTING
    except FileNotFoundError:
        return False


def _known(directory: RunDirectory) -> dict[str, Any]:
    """Fields of the record that the job's own files tell before the ending is written."""
    ended = read_json(directory.exit_json)
    if ended:
        return {
            "start_time_utc": with_offset(ended.get("start_utc")),
            "end_time_utc": with_offset(ended.get("end_utc")),
            "duration": ended.get("duration"),
            "exit_code": ended.get("exit_code"),
            "signal": ended.get("signal"),
        }
    started = read_json(directory.started_json)
    return {"start_time_utc": with_offset(started["utc"])} if started and started.get("utc") else {}


def heartbeat_age(directory: RunDirectory) -> float | None:
    """Seconds since the job's last heartbeat by the clock nobody can set; None when there was none."""
    try:
        beat = float(read_bounded(directory.heartbeat, 256).split()[1])
    except (MissingFile, ConfinedError, IndexError, ValueError):  # none yet, or half written
        return None
    age = time.monotonic() - beat
    return age if age >= 0 else None


def supervisor_identity(directory: RunDirectory) -> dict[str, Any] | None:
    """Who supervises or last supervised the run; None when nobody ever did."""
    return _identity(directory.supervisor_lock)


def _identity(path: str) -> dict[str, Any] | None:
    found = read_json(path)
    return found if found is not None and isinstance(found.get("pid"), int) else None


def supervised(directory: RunDirectory) -> bool:
    """Whether a supervisor of this run lives."""
    who = supervisor_identity(directory)
    if who is not None and processes.is_alive(who):
        return True
    # one that has just taken the lock and not yet written its name; asking takes no lock itself,
    # which would send away a supervisor that tries to take it at this moment
    return os.path.exists(directory.supervisor_lock) and bool(holders(directory.supervisor_lock))


def job_alive(directory: RunDirectory) -> bool:
    """Whether the process of a job on this machine lives; False when it never started or runs elsewhere."""
    who = _identity(directory.started_json)
    return who is not None and processes.is_alive(who)


def read_json(path: str) -> dict[str, Any] | None:
    """The JSON object of a small file, or None when there is none or it is not whole."""
    try:
        found = plainjson.loads(read_bounded(path, _SMALL))
    except MissingFile:
        return None
    except (ConfinedError, ValueError, RecursionError):  # being written, or damaged: `aml check` tells
        return None
    return found if isinstance(found, dict) else None


def append_status(directory: RunDirectory, status: str, reason: str = "") -> None:
    """Tell a change of state (supervisors only); the same again is not repeated."""
    try:
        fd = os.open(directory.status_jsonl, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:  # states are for people: what counts is the record, which has a reserve
        return
    try:
        tail = _tail(fd)
        if _last_state(tail) == (status, reason):
            return
        line = plainjson.dumps({"utc": utc(), "status": status, "reason": reason}) + "\n"
        # what a full disk cut off stays a line of its own
        os.write(fd, (line if not tail or tail.endswith(b"\n") else "\n" + line).encode())
    except OSError:
        pass
    finally:
        os.close(fd)
    mark_changed_if_possible(directory)


def mark_starting(directory: RunDirectory, phases: Mapping[str, float]) -> None:
    """Say that the job may exist from here on, and how long the phases took that are over (supervisors only).

    Raises OSError where that cannot be said; on a full disk it is said without the phases.
    """
    fd = os.open(directory.starting, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, plainjson.dumps({"format": FORMAT, "phases": dict(phases)}).encode())
    except OSError:
        return
    finally:
        os.close(fd)


def phases_over(directory: RunDirectory) -> dict[str, float]:
    """Seconds of the phases that earlier supervisors of a run saw the end of."""
    try:
        found = plainjson.loads(read_bounded(directory.starting, _SMALL))["phases"]
        return {str(name): float(spent) for name, spent in found.items()}
    # none yet, a full disk, an earlier version: what is not known is left out
    except (ConfinedError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def last_status(directory: RunDirectory) -> tuple[str | None, str]:
    """The last state and reason in status.jsonl; (None, "") when there is none."""
    try:
        fd = os.open(directory.status_jsonl, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # none yet
        return None, ""
    try:
        return _last_state(_tail(fd))
    except OSError:  # it is no file
        return None, ""
    finally:
        os.close(fd)


def _tail(fd: int) -> bytes:
    return os.pread(fd, _TAIL, max(0, os.fstat(fd).st_size - _TAIL))


def _last_state(tail: bytes) -> tuple[str | None, str]:
    lines = tail.split(b"\n")
    for line in reversed(lines[:-1]):  # the rest behind the last line end is not whole
        try:
            found = plainjson.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found.get("status") in STATUSES:
            return str(found["status"]), str(found.get("reason", ""))
    return None, ""


class Labels(Value):
    """What people added to a run; tags have a value, which may be empty."""

    name: str | None = None
    description: str = ""
    tags: Mapping[str, str] = {}
    note: str = ""
    pinned: bool = False
    hidden: bool = False


def read_labels(directory: RunDirectory) -> Labels:
    """What people added to a run.  Raises HistoryError `record.corrupt`."""
    document = labels_document(directory)
    if document is None:
        return _NO_LABELS
    return Labels(**{name: document[name] for name in Labels._fields if name in document})


def labels_document(directory: RunDirectory) -> dict[str, Any] | None:
    """All of labels.json, or None when nothing was added.  Raises HistoryError `record.corrupt`."""
    path = directory.labels_json
    try:
        return unseal(read_bounded(path, LARGEST_LABELS), path)
    except MissingFile:
        return None


_NO_LABELS = Labels()


def unfinished(home: str) -> list[RunDirectory]:
    """The runs whose ending is not written yet, oldest first."""
    # the mark of a run stays until a reader has met its ending
    try:
        marks = sorted(os.listdir(home + "/dirty"), key=lambda name: name.rpartition("_")[2])
    except FileNotFoundError:
        return []
    found = []
    for run_id in marks:
        directory = at(home, run_id)
        if directory is not None and not _has_ended(directory):
            found.append(directory)
    return found


def _has_ended(directory: RunDirectory) -> bool:
    try:
        return load_record(directory).ended
    except AmlError:  # damaged: `aml check` tells, nobody can continue it
        return True


def request_cancel(directory: RunDirectory, *, mode: str = TERMINATE) -> bool:
    """Ask for the end of a run, gently or by force (also later); False when it was asked before.

    ABANDON is by force, and without its target where that does not answer.
    """
    first = _create_cancel(directory, mode)
    if not first and mode != TERMINATE:
        document = _cancel_document(mode)
        with_reserve(directory.cancel, lambda: write_atomic(directory.cancel, document, sync=False))
    mark_changed(directory)
    return first


def _create_cancel(directory: RunDirectory, mode: str) -> bool:
    try:
        fd = os.open(directory.cancel, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    try:
        os.write(fd, _cancel_document(mode))
    finally:
        os.close(fd)
    return True


def _cancel_document(mode: str) -> bytes:
    return plainjson.dumps({"format": 1, "mode": mode, "utc": utc(), "pid": os.getpid()}).encode()


def cancel_request(directory: RunDirectory) -> str | None:
    """TERMINATE, KILL, ABANDON, or None when nobody asked."""
    try:
        data = read_bounded(directory.cancel, 4096)
    except MissingFile:
        return None
    except AmlError:  # something of that name was put there: a wish all the same
        return TERMINATE
    return next((mode for mode in (KILL, ABANDON) if f'"{mode}"'.encode() in data), TERMINATE)
