"""Runs that wait for their turn, in which order, and who starts them: files below `AML_HOME/queue`.

    <run id>.waits   there while an entry cannot be started for want of secrets
    <run id>.json    an entry: a run, or the parent of a sweep with its trials; from before they exist until
                     they have ended, so that a killed worker's successor knows what is already going on
    settings.json    how many runs at a time, and whether none is to be started
    change.lock      held for a moment by whoever changes an entry or decides whether there is a worker
    worker.lock      held by the worker while it lives; says who it is
    inbox            a pipe with a name: wakes the worker, and brings what may be in no file
    worker.log       what went wrong in a worker

The worker (`worker.py`, started by its path) has at most one process in an AML_HOME.  Who adds a run hands
its environment and secrets to the worker; they are lost with it, and a run that needs secrets then waits.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

from aml_jupyter import pending, plainjson, processes, runs
from aml_jupyter.confined import make_root, read_bounded, write_atomic
from aml_jupyter.errors import (
    AmlError,
    ConfinedError,
    FormatError,
    HistoryError,
    RunNotFound,
    UsageError,
)
from aml_jupyter.frozen import Value
from aml_jupyter.job import FORMAT, check_format
from aml_jupyter.locks import exclusive, holders, try_lock
from aml_jupyter.runs.directory import unlink_quietly, with_reserve
from aml_jupyter.runs.evidence import read_json
from aml_jupyter.sealed import seal, unseal
from aml_jupyter.starting import run_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from aml_jupyter.runs import Record, RunDirectory

WORKER = os.path.dirname(os.path.abspath(__file__)) + "/worker.py"
# the kind of a run that has trials and no job of its own
SWEEP = "sweep"
# the most that anybody may ask to run at a time
MOST_JOBS = 64
# seconds that a worker may leave its inbox unread
INBOX_PATIENCE = 5.0
# bytes that the inbox holds
INBOX_SIZE = 1 << 20
# seconds that a fork may hold what its parent had open
FORKING = 2.0
NEEDS_SECRETS = "secret.needed"
CANCELED_EARLY = "canceled before it was started"
_LARGEST = 4 << 20
_SETTINGS, _INBOX, _WORKER_LOCK, _CHANGE_LOCK = "settings.json", "inbox", "worker.lock", "change.lock"


class Entry(Value):
    """What waits or goes on: one run, or the parent of a `sweep` whose `trials` are run ids in order.

    `jobs` is how many trials may go on at a time; `direct` means beside the queue, without waiting in it;
    `maker` is the process that still writes the run; `waits` says why nobody starts it.
    """

    run_id: str
    place: float = 0.0
    sweep: bool = False
    trials: tuple[str, ...] = ()
    jobs: int = 1
    direct: bool = False
    fail_fast: bool = False
    added_utc: str = ""
    maker: Mapping[str, Any] = {}
    waits: str = ""

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of the runs that have jobs."""
        return self.trials if self.sweep else (self.run_id,)


class Settings(Value):
    """How many runs of the queue go on at a time, and on targets by name; `paused` starts none."""

    jobs: int = 1
    targets: Mapping[str, int] = {}
    paused: bool = False


# --- entries ------------------------------------------------------------------------------------------------


def folder(home: str) -> str:
    """Where the queue lies."""
    return home + "/queue"


def entries(home: str) -> list[Entry]:
    """Everything that waits or goes on, in order; damaged entries are left out, which `aml check` tells."""
    found = []
    for run_id in _names(home):
        entry = read_entry(home, run_id)
        if entry is not None:
            found.append(entry)
    return sorted(found, key=lambda one: (one.place, one.run_id))


def is_empty(home: str) -> bool:
    """Whether nothing waits and nothing goes on."""
    return not _names(home)


def _names(home: str) -> list[str]:
    try:
        names = os.listdir(folder(home))
    except FileNotFoundError:
        return []
    return [name[: -len(".json")] for name in names if name.endswith(".json") and name != _SETTINGS]


def read_entry(home: str, run_id: str) -> Entry | None:
    """The entry of a run or sweep; None where there is none, or it is damaged or of a newer version."""
    path = _entry_path(home, run_id)
    try:
        document = unseal(read_bounded(path, _LARGEST), path)
        check_format(document, path)
        fields = {name: document[name] for name in Entry._fields if name in document}
        fields.update(run_id=run_id, trials=tuple(map(str, document.get("trials", ()))))
        fields["waits"] = NEEDS_SECRETS if os.path.exists(_waits_path(home, run_id)) else ""
        return Entry(**fields)
    except (AmlError, TypeError, ValueError):
        return None


def damaged(home: str) -> list[tuple[str, str]]:
    """Path and what is wrong of every entry that cannot be read; one of a newer version is none."""
    found = []
    for run_id in _names(home):
        path = _entry_path(home, run_id)
        try:
            unseal(read_bounded(path, _LARGEST), path)
        except FileNotFoundError:  # its run has just ended
            continue
        except AmlError as error:
            found.append((path, error.message))
    return found


def _entry_path(home: str, run_id: str) -> str:
    return f"{folder(home)}/{run_id}.json"


def _waits_path(home: str, run_id: str) -> str:
    return f"{folder(home)}/{run_id}.waits"


def set_waits(home: str, run_id: str, waits: str) -> None:
    """Note that nobody can start an entry, or that somebody can again."""
    path = _waits_path(home, run_id)
    if waits:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    else:
        unlink_quietly(path)


class changing:  # noqa: N801 - used as a statement: with changing(home)
    """Hold the lock under which entries change and workers come and go."""

    def __init__(self, home: str) -> None:
        if not os.path.isdir(folder(home)):
            make_root(folder(home))
        self._lock = exclusive(f"{folder(home)}/{_CHANGE_LOCK}")

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *exc: object) -> None:
        self._lock.__exit__(*exc)


def add(home: str, entry: Entry) -> Entry:
    """Put an entry at the end; it is in place before its run exists, whose maker is this process."""
    with changing(home):
        last = max((one.place for one in entries(home)), default=0.0)
        entry = entry.replace(place=last + 1.0, added_utc=runs.utc(), maker=processes.identity(os.getpid()))
        _write(home, entry)
    return entry


def change(home: str, run_id: str, **fields: Any) -> None:
    """Change fields of an entry that is still there."""
    with changing(home):
        entry = read_entry(home, run_id)
        if entry is not None:
            _write(home, entry.replace(**fields))


def drop(home: str, run_id: str) -> None:
    """Forget an entry."""
    for path in (_entry_path(home, run_id), _waits_path(home, run_id)):
        unlink_quietly(path)


def move(home: str, run_id: str, position: int) -> None:
    """Put an entry at a position (1 is the first) among those of the queue.  Raises RunNotFound."""
    with changing(home):
        waiting = [one for one in entries(home) if not one.direct]
        moved = next((one for one in waiting if one.run_id == run_id), None)
        if moved is None:
            raise not_in_queue(run_id)
        waiting.remove(moved)
        waiting.insert(max(0, position - 1), moved)
        for number, entry in enumerate(waiting, 1):
            if entry.place != number:
                _write(home, entry.replace(place=float(number)))


def not_in_queue(run_id: str) -> RunNotFound:
    """The error for a run that does not wait."""
    return RunNotFound(f"{run_id} is not in the queue", code="queue.not_there", hint="aml queue lists it.")


def _write(home: str, entry: Entry) -> None:
    document = {"format": FORMAT, **entry.as_dict(), "trials": list(entry.trials)}
    del document["waits"]
    _put(_entry_path(home, entry.run_id), document)


def _put(path: str, document: Mapping[str, Any]) -> None:
    data = seal(document)
    with_reserve(path, lambda: write_atomic(path, data))


def settings(home: str) -> Settings:
    """How the queue is set.  Raises HistoryError `record.corrupt`."""
    path = f"{folder(home)}/{_SETTINGS}"
    try:
        document = unseal(read_bounded(path, _LARGEST), path)
    except FileNotFoundError:
        return Settings()
    except ConfinedError as error:
        raise HistoryError(error.message, code="record.corrupt", hint=f"Remove {path}.") from error
    jobs, targets = document.get("jobs"), document.get("targets")
    limits = targets.items() if isinstance(targets, dict) else ()
    return Settings(
        jobs=jobs if isinstance(jobs, int) and jobs > 0 else 1,
        targets={name: most for name, most in limits if isinstance(most, int) and most > 0},
        paused=bool(document.get("paused")),
    )


def set_settings(home: str, *, target: str | None = None, **fields: Any) -> Settings:
    """Change how the queue is set, and tell the worker; with `target`, `jobs` are those of one target.

    There 0 takes the limit away.  Raises UsageError.
    """
    if not (target is None) <= fields.get("jobs", 1) <= MOST_JOBS:
        raise UsageError(f"the queue runs from 1 to {MOST_JOBS} at a time, not {fields['jobs']}")
    with changing(home):
        try:
            found = settings(home)
        except HistoryError:  # damaged: what is set now is better
            found = Settings()
        if target is not None:
            limits = {**found.targets, target: fields.pop("jobs")}
            fields["targets"] = {name: most for name, most in limits.items() if most}
        found = found.replace(**fields)
        _put(f"{folder(home)}/{_SETTINGS}", {"format": FORMAT, **found.as_dict()})
    wake(home)
    return found


# --- the worker ---------------------------------------------------------------------------------------------


def worker(home: str) -> dict[str, Any] | None:
    """Who the worker is; None when there is none."""
    path = f"{folder(home)}/{_WORKER_LOCK}"
    who = read_json(path)
    if who is not None and isinstance(who.get("pid"), int) and processes.is_alive(who):
        return who
    pids = holders(path)  # one that has not written its name yet
    return {"pid": pids[0]} if pids else None


def wake(home: str) -> bool:
    """Have the worker look at the queue, and start one where work is left and there is none; True if so."""
    if is_empty(home):
        return False
    with changing(home):
        return _tell(home, b"\n")


def ensure_worker(home: str) -> bool:
    """Start a worker where something waits or goes on and there is none; True if so."""
    if is_empty(home) or worker(home) is not None:
        return False
    return wake(home)


def hand_over(
    home: str,
    run_ids: Iterable[str],
    secrets: Mapping[str, str],
    passwords: Mapping[str, str] | None = None,
) -> bool:
    """Give the worker what runs are to be started with, of which nothing may be in a file.

    That is this process's environment, `secrets` on top of it, and `passwords` for their supervisors.
    True when a worker was started for it.
    """
    message = {
        "runs": list(run_ids),
        "environment": {**run_environment(), **(passwords or {})},
        "secrets": dict(secrets),
    }
    with changing(home):
        return _tell(home, plainjson.dumps(message).encode() + b"\n")


def _tell(home: str, line: bytes) -> bool:
    """Write a line into the inbox of the worker, a new one where there is none; under the lock of changes."""
    inbox = _open_inbox(home)
    try:
        # the pipe keeps the line until the worker that is started now reads it
        started = worker(home) is None
        if started:
            _start(home, inbox)
        _write_line(inbox, line)
    finally:
        os.close(inbox)
    return started


def _open_inbox(home: str) -> int:
    """The inbox, open at both ends, so that neither waits for the other."""
    path = f"{folder(home)}/{_INBOX}"
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        pass
    inbox = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # a whole environment and the names of many trials: nobody reads while this lock is held
        fcntl.fcntl(inbox, getattr(fcntl, "F_SETPIPE_SZ", 0), INBOX_SIZE)
    except OSError:  # not Linux, or no more than the usual 64 KiB is allowed
        pass
    return inbox


def _write_line(inbox: int, line: bytes) -> None:
    """All of a line; a worker that does not read gets what it can, and the entry tells it the rest."""
    due = time.monotonic() + INBOX_PATIENCE
    # what an interrupted writer left stays a line of its own
    line = b"\n" + line
    while line:
        try:
            line = line[os.write(inbox, line) :]
        except BlockingIOError:
            if time.monotonic() > due:
                return
            time.sleep(0.01)


def _start(home: str, inbox: int) -> None:
    """Start a worker, in a session of its own; of two, one leaves.

    It gets the inbox open: a pipe that nobody holds open forgets what was written into it.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-S", "-E", "-s", WORKER, home],
            {**run_environment(), "AML_HOME": home},
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((inbox, null, null))],
            setsid=True,
        )
    finally:
        os.close(null)
    # the process that was started hands over to its child at once
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:  # this process has its children taken in by somebody else
        return


class Post:
    """The worker's side: its lock, which makes it the only one, and its inbox."""

    def __init__(self, home: str) -> None:
        self.home = home
        self._rest = b""
        self._lock = -1
        self.inbox = -1

    def take(self) -> bool:
        """Become the worker; False when there is one."""
        path = f"{folder(self.home)}/{_WORKER_LOCK}"
        with changing(self.home):
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not self._locked():
                os.close(self._lock)
                return False
            os.ftruncate(self._lock, 0)
            document = {"format": FORMAT, **processes.identity(os.getpid())}
            os.pwrite(self._lock, plainjson.dumps(document).encode(), 0)
            self.inbox = _open_inbox(self.home)
        return True

    def _locked(self) -> bool:
        """Take the lock; a supervisor that a killed worker was just forking may hold it for a moment."""
        due = time.monotonic() + FORKING
        while not try_lock(self._lock):
            who = read_json(f"{folder(self.home)}/{_WORKER_LOCK}")
            if (who is not None and processes.is_alive(who)) or time.monotonic() > due:
                return False
            time.sleep(0.01)
        return True

    def leave(self, is_done: Callable[[], bool]) -> bool:
        """Be the worker no longer, unless there is something to do after all or a line to read."""
        if not os.path.isdir(folder(self.home)):  # removed with all that waited
            return True
        with changing(self.home):
            if self._readable() or not is_done():
                return False
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            os.close(self.inbox)
        return True

    def _readable(self) -> bool:
        import select

        return bool(select.select([self.inbox], [], [], 0)[0])

    def read(self) -> list[dict[str, Any]]:
        """What was handed over since; lines that are only to wake are left out."""
        while True:
            try:
                self._rest += os.read(self.inbox, 1 << 16)
            except BlockingIOError:
                break
        *lines, self._rest = self._rest.split(b"\n")
        found = []
        for line in filter(None, lines):
            try:
                message = plainjson.loads(line)
            except (ValueError, RecursionError):  # the end of one whose writer was killed
                continue
            if isinstance(message, dict) and isinstance(message.get("runs"), list):
                found.append(message)
        return found


# --- runs that wait -----------------------------------------------------------------------------------------


def end_unstarted(directory: RunDirectory, reason: str = CANCELED_EARLY) -> bool:
    """Write the ending of a run that was never started; False when it was, or somebody starts it now."""
    try:
        lock = os.open(directory.supervisor_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # removed meanwhile
        return True
    try:
        if not try_lock(lock):
            return False
        record = runs.load_record(directory)
        if record.ended:
            return True
        if any(map(os.path.exists, (directory.starting, directory.started_json, directory.handle_json))):
            return False
        ended = record.replace(status="Canceled", reason=reason, end_time_utc=runs.utc())
        with pending.Ending(directory, record):
            runs.write_record(directory, ended)
        runs.append_status(directory, "Canceled", reason)
    finally:
        os.close(lock)
    return True


def cancel(directory: RunDirectory, record: Record) -> bool:
    """Carry out a request to end a sweep, or a run that waits; False for a run that has a supervisor."""
    if record.kind == SWEEP:
        _restore(directory, record)
        wake(directory.home)
        return True
    if not end_unstarted(directory):
        return False
    drop(directory.home, directory.run_id)
    wake(directory.home)
    return True


def resume(directory: RunDirectory, record: Record, secrets: Mapping[str, str]) -> bool:
    """Have a sweep, or a run that waits, go on; True when something was needed for that."""
    home = directory.home
    if record.ended:
        return False
    if record.kind == SWEEP:
        _restore(directory, record)
    entry = read_entry(home, directory.run_id) or read_entry(home, record.parent_run_id or "")
    if entry is None:
        return False
    if not secrets:
        return ensure_worker(home)
    # whoever asks from now on is told that it waits for its turn; the worker knows whether it is enough
    set_waits(home, entry.run_id, "")
    hand_over(home, entry.runs if entry.run_id == directory.run_id else [directory.run_id], secrets)
    return True


def _restore(parent: RunDirectory, record: Record) -> None:
    """Put the entry of a sweep back that was lost or damaged: the record of its parent says the same."""
    path = _entry_path(parent.home, parent.run_id)
    described = record.properties.get("sweep")
    # one that was fetched from a store is looked at, not continued: it goes on where it was made
    if record.ended or not isinstance(described, dict) or record.properties.get("origin"):
        return
    if read_entry(parent.home, parent.run_id) is not None:
        return
    try:
        check_format(unseal(read_bounded(path, _LARGEST), path), path)
    except FormatError:  # of a newer version, whose worker goes on with it
        return
    except AmlError:
        pass
    trials, jobs = described.get("trials"), described.get("jobs")
    if isinstance(trials, list) and isinstance(jobs, int):
        add(
            parent.home,
            Entry(
                run_id=parent.run_id,
                sweep=True,
                trials=tuple(run_id for run_id in map(str, trials) if _is_trial(parent, run_id)),
                jobs=max(1, min(jobs, MOST_JOBS)),
                direct=True,
                fail_fast=bool(described.get("fail_fast")),
            ),
        )


def _is_trial(parent: RunDirectory, run_id: str) -> bool:
    """Whether a run says itself that it is a trial of a sweep."""
    directory = runs.at(parent.home, run_id)
    try:
        return directory is not None and runs.load_record(directory).parent_run_id == parent.run_id
    except AmlError:  # damaged: the worker leaves it alone
        return False
