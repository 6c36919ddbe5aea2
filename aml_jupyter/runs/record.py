"""The record of a run: a value, its sealed JSON, and the one way to replace it."""

from __future__ import annotations

import os
import time

from aml_jupyter.confined import MissingFile, read_bounded, write_atomic
from aml_jupyter.errors import AmlError, ConfinedError, HistoryError
from aml_jupyter.frozen import Value
from aml_jupyter.job import FORMAT, TERMINAL, check_format
from aml_jupyter.locks import exclusive
from aml_jupyter.runs.directory import (
    LARGEST,
    RunDirectory,
    mark_changed,
    next_run_number,
    not_a_run,
    with_reserve,
)
from aml_jupyter.sealed import seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self

    from aml_jupyter.job import Exit
    from aml_jupyter.runs.directory import Scope

_EMPTY: Mapping[str, Any] = {}
# fields that are kept in labels.json
LABELS = ("name", "description", "tags", "note", "pinned", "hidden")
_TUPLES = frozenset(
    ["arguments", "environment_names", "environment_secret", "inputs", "not_kept", "warnings"]
)
# of a record that would be larger than is read: paths and warnings that stay, and characters of each
_FEW = 100
_SHORT = 1000
_ENDING = ("status", "reason", "exit_code", "signal", "end_time_utc")


class Record(Value):
    """Everything that is known of a run.

    Times are ISO 8601 in UTC, durations and phases seconds; `arguments` are as given to the script;
    `artifacts` counts the artifacts that are kept, `not_kept` names files that were written elsewhere.
    `inputs` are files of earlier runs that it was given, each with run id, UUID, path, SHA-256 and size.
    """

    run_id: str
    format: int = FORMAT
    uuid: str = ""
    run_number: int = 0
    account: str = "local"
    workspace: str = "default"
    project: str = ""
    project_root: str = ""
    target: str = ""
    kind: str = "local"
    run_configuration: str = ""
    framework: str | None = None
    script_name: str | None = None
    arguments: tuple[str, ...] = ()
    cell_sha256: str | None = None
    notebook: str | None = None
    cell_id: str | None = None
    params: Mapping[str, Any] = _EMPTY
    # what its program said that they were, once it runs
    logged_params: Mapping[str, str] = _EMPTY
    environment_names: tuple[str, ...] = ()
    environment_secret: tuple[str, ...] = ()
    interpreter: str = ""
    python_version: str = ""
    environment: Mapping[str, Any] = _EMPTY
    snapshot_id: str = ""
    snapshot_files: int = 0
    snapshot_bytes: int = 0
    git: Mapping[str, Any] | None = None
    share: str | None = None
    created_utc: str = ""
    start_time_utc: str | None = None
    end_time_utc: str | None = None
    duration: float | None = None
    status: str = "NotStarted"
    reason: str = ""
    error: Mapping[str, str] | None = None
    exit_code: int | None = None
    signal: int | None = None
    phases: Mapping[str, float] = _EMPTY
    metrics: Mapping[str, Any] = _EMPTY
    artifacts_state: str = "none"
    artifacts: int = 0
    not_kept: tuple[str, ...] = ()
    not_kept_count: int = 0
    warnings: tuple[str, ...] = ()
    user_id: str = ""
    parent_run_id: str | None = None
    experiment_id: str = ""
    heartbeat_enabled: bool = True
    properties: Mapping[str, Any] = _EMPTY
    inputs: tuple[Mapping[str, Any], ...] = ()
    supervisor: Mapping[str, Any] = _EMPTY
    # from labels.json, never written to run.json
    name: str | None = None
    description: str = ""
    tags: Mapping[str, str] = _EMPTY
    note: str = ""
    pinned: bool = False
    hidden: bool = False
    # keys of run.json that this version does not know; written back as they were
    extra: Mapping[str, Any] = _EMPTY

    @property
    def ended(self) -> bool:
        """Whether the ending is written: it never changes again."""
        return self.status in TERMINAL

    @property
    def all_params(self) -> Mapping[str, Any]:
        """The parameters it was given, and those that its program logged under other names."""
        return {**self.logged_params, **self.params} if self.logged_params else self.params

    def to_json(self) -> dict[str, Any]:
        """The document of run.json, without its checksum."""
        document = {
            name: list(value) if name in _TUPLES else value
            for name, value in self.as_dict().items()
            if name not in LABELS and name != "extra"
        }
        return {**self.extra, **document}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read run.json; of a newer format, whatever this version knows."""
        fields: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, value in document.items():
            if name in _KNOWN:
                fields[name] = tuple(value) if name in _TUPLES else value
            elif name != "crc32":
                extra[name] = value
        return cls(**fields, extra=extra)


_KNOWN = frozenset(Record._fields) - {*LABELS, "extra"}


def new_record(directory: RunDirectory, project: Scope, **fields: Any) -> Record:
    """The first record of a run: its numbers, names and time of creation, and the fields given."""
    given: dict[str, Any] = {
        "run_id": directory.run_id,
        "uuid": _uuid(),
        "run_number": next_run_number(directory),
        "account": project.account,
        "workspace": project.workspace,
        "project": project.name,
        "project_root": project.root,
        "experiment_id": project.name,
        "created_utc": utc(),
        "user_id": os.environ.get("USER") or os.environ.get("LOGNAME") or str(os.getuid()),
        "properties": {"CommitId": fields.get("snapshot_id", "")},
    }
    return Record(**{**given, **fields})


def _uuid() -> str:
    bits = bytearray(os.urandom(16))
    bits[6] = bits[6] & 0x0F | 0x40
    bits[8] = bits[8] & 0x3F | 0x80
    text = bits.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def utc(nanoseconds: int | None = None) -> str:
    """A moment (now, or nanoseconds since 1970) as `2026-01-31T23:59:59.123456+00:00`."""
    whole = time.time_ns() if nanoseconds is None else nanoseconds
    seconds, rest = divmod(whole, 1_000_000_000)
    moment = time.gmtime(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{rest // 1000:06d}+00:00"


def with_offset(moment: str | None) -> str | None:
    """A moment in UTC in the one form that records have: `+00:00`, where runtimes write `Z`."""
    return moment[:-1] + "+00:00" if moment and moment.endswith("Z") else moment or None


def times(record: Record, exit_: Exit | None) -> dict[str, Any]:
    """Beginning, end and duration of a run: those of its runtime where it left an ending.

    Where the clock of another machine is wrong, they are those of this one's.
    """
    if exit_ is None:
        return {"start_time_utc": record.start_time_utc, "end_time_utc": utc(), "duration": record.duration}
    if clock_skew(record, exit_):
        now = time.time_ns()
        start = utc(now - int(max(0.0, exit_.duration) * 1e9))
        return {"start_time_utc": start, "end_time_utc": utc(now), "duration": max(0.0, exit_.duration)}
    return {
        "start_time_utc": with_offset(exit_.start_utc) or record.start_time_utc,
        "end_time_utc": with_offset(exit_.end_utc) or utc(),
        "duration": max(0.0, exit_.duration),
    }


def clock_skew(record: Record, exit_: Exit) -> float:
    """Seconds by which the target's clock is ahead of this one's at least; 0 where it may be right.

    Negative when it is behind.

    A run ends after it was submitted and before its end is noticed.
    """
    start, end = with_offset(exit_.start_utc), with_offset(exit_.end_utc)
    if record.kind == "local" or not start or not end:
        return 0.0
    from datetime import datetime

    try:
        began, ended = datetime.fromisoformat(start), datetime.fromisoformat(end)
        ahead = (ended - datetime.fromisoformat(utc())).total_seconds()
        behind = (began - datetime.fromisoformat(record.created_utc)).total_seconds()
    except (ValueError, TypeError):  # no time at all, or one without its zone
        return 0.0
    return ahead if ahead > 0 else min(behind, 0.0)


def load_record(directory: RunDirectory) -> Record:
    """The record as it was written, without looking at what happened since.

    Raises RunNotFound `run.missing`, HistoryError `record.corrupt`.
    """
    document = _load(directory)
    try:
        return Record.from_json(document)
    except TypeError as error:
        raise HistoryError(
            f"{directory.run_json} has no run id: {error}", code="record.corrupt", hint="Run `aml check`."
        ) from error


def _load(directory: RunDirectory) -> dict[str, Any]:
    try:
        return unseal(read_bounded(directory.run_json, LARGEST), directory.run_json)
    except MissingFile as error:
        raise not_a_run(directory) from error
    except ConfinedError as error:  # a folder, a FIFO, unreadable, far too big
        raise HistoryError(str(error.message), code="record.corrupt", hint="Run `aml check`.") from error


def write_record(directory: RunDirectory, record: Record, *, sync: bool = True) -> bool:
    """Replace run.json, whole or not at all; False when another ending is there already and stays.

    What is known later of an ended run (artifacts, metrics) may be added as long as the ending is the same.
    Of a record that would be too large to be read again the lists and metrics are cut, which it then tells.
    Raises FormatError for a run of a newer version, HistoryError `record.too_big`, `history.no_space`,
    `history.readonly`, `history.locked`.
    """
    check_format({"format": record.format}, directory.run_json)
    data = seal(record.to_json())
    if len(data) > LARGEST:
        data = _cut(record)
    mark_changed_if_possible(directory)
    with exclusive(directory.path):
        if not _may_replace(directory, record):
            return False
        with_reserve(directory.run_json, lambda: write_atomic(directory.run_json, data, sync=sync))
    # again: a reader may have taken the first mark with the record that was there before
    mark_changed_if_possible(directory)
    return True


def _cut(record: Record) -> bytes:
    """A record that can be read again: without what is the least loss, and a warning that says so."""
    listed = tuple(text[:_SHORT] for text in record.not_kept[:_FEW])
    warnings = tuple(text[:_SHORT] for text in record.warnings[:_FEW])
    told = f"{_FEW} paths and warnings are in the record: with all of them it was too large to be read"
    cut = record.replace(not_kept=listed, warnings=(*warnings, told))
    data = seal(cut.to_json())
    if len(data) > LARGEST:
        told = "the metrics are not in the record: with them it was too large to be read"
        data = seal(cut.replace(metrics={}, warnings=(*cut.warnings, told)).to_json())
    if len(data) > LARGEST:
        raise HistoryError(
            f"the record of {record.run_id} would have {len(data)} bytes; at most {LARGEST} are read",
            code="record.too_big",
            hint="Give the run shorter arguments, parameters and variables; put what is long into a file.",
        )
    return data


def mark_changed_if_possible(directory: RunDirectory) -> None:
    """Mark a change; on a full disk the record matters more than the mark."""
    try:
        mark_changed(directory)
    except OSError:  # the index finds the change by the file's time at its next full look
        pass


def _may_replace(directory: RunDirectory, record: Record) -> bool:
    try:
        before = _load(directory)
    except AmlError:  # none yet, or damaged: the new one is better
        return True
    check_format(before, directory.run_json)
    if before.get("status") not in TERMINAL:
        return True
    return all(before.get(name) == getattr(record, name) for name in _ENDING)
