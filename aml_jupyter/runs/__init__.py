"""Runs: their directories, records and labels.  The files are the truth; the index only answers questions.

create, discard           a new run directory; it becomes a run with its first record
new_record, write_record  the record: replaced whole, its ending written once
read_record               the record with everything that happened since, writing nothing
set_labels                what people add later
find                      the run that a reference means
History                   rows of many runs (its module is loaded when it is first used)
check, remove             what is damaged; the end of a run's files
"""

from __future__ import annotations

from aml_jupyter.runs.directory import (
    RunDirectory,
    all_directories,
    at,
    create,
    discard,
    mark_changed,
    payload,
    write_json,
)
from aml_jupyter.runs.evidence import (
    ABANDON,
    KILL,
    TERMINATE,
    Labels,
    append_status,
    cancel_request,
    heartbeat_age,
    job_alive,
    mark_starting,
    phases_over,
    read_labels,
    read_record,
    request_cancel,
    supervised,
    supervisor_identity,
    unfinished,
)
from aml_jupyter.runs.record import Record, clock_skew, load_record, new_record, times, utc, write_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aml_jupyter.runs.damage import Finding as Finding
    from aml_jupyter.runs.damage import check as check
    from aml_jupyter.runs.index import History as History
    from aml_jupyter.runs.index import runs_frame as runs_frame
    from aml_jupyter.runs.labels import add_tag as add_tag
    from aml_jupyter.runs.labels import hide as hide
    from aml_jupyter.runs.labels import pin as pin
    from aml_jupyter.runs.labels import remove_tag as remove_tag
    from aml_jupyter.runs.labels import set_labels as set_labels
    from aml_jupyter.runs.labels import set_name as set_name
    from aml_jupyter.runs.labels import set_note as set_note
    from aml_jupyter.runs.references import find as find
    from aml_jupyter.runs.removal import remove as remove

__all__ = [
    "ABANDON",
    "KILL",
    "TERMINATE",
    "Finding",
    "History",
    "Labels",
    "Record",
    "RunDirectory",
    "add_tag",
    "all_directories",
    "append_status",
    "at",
    "cancel_request",
    "check",
    "clock_skew",
    "create",
    "discard",
    "find",
    "heartbeat_age",
    "hide",
    "job_alive",
    "load_record",
    "mark_changed",
    "mark_starting",
    "new_record",
    "payload",
    "phases_over",
    "pin",
    "read_labels",
    "read_record",
    "remove",
    "remove_tag",
    "request_cancel",
    "runs_frame",
    "set_labels",
    "set_name",
    "set_note",
    "supervised",
    "supervisor_identity",
    "times",
    "unfinished",
    "utc",
    "write_json",
    "write_record",
]

# what a run itself never needs is loaded when it is first asked for
_LATER = {
    "Finding": "damage",
    "check": "damage",
    "History": "index",
    "runs_frame": "index",
    "add_tag": "labels",
    "hide": "labels",
    "pin": "labels",
    "remove_tag": "labels",
    "set_labels": "labels",
    "set_name": "labels",
    "set_note": "labels",
    "find": "references",
    "remove": "removal",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = found
    return found
