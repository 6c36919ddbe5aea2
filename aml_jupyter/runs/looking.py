"""A run as it is in its directory now, for the index."""

from __future__ import annotations

import os

from aml_jupyter.errors import AmlError, RunNotFound
from aml_jupyter.runs.directory import RunDirectory, at, trash_of
from aml_jupyter.runs.evidence import read_record
from aml_jupyter.runs.rows import row_of
from aml_jupyter.runs.schema import Look

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aml_jupyter.runs.record import Record

# fields of a record that a filter may ask for and a row does not hold
_MORE = (
    "kind", "framework", "python_version", "run_configuration", "user_id", "experiment_id", "parent_run_id",
    "artifacts_state", "run_number", "artifacts", "note", "description",
)  # fmt: skip


def look_at(home: str, run_id: str) -> Look:
    """A run as it is now, by its id."""
    directory = at(home, run_id)
    if directory is None:
        # one that is being made keeps its mark; one that was removed has no id any more, or is in the trash
        gone = not os.path.lexists(f"{home}/ids/{run_id}") or at(trash_of(home), run_id) is not None
        return Look(run_id=run_id, settled=gone)
    return look(directory)


def look(directory: RunDirectory) -> Look:
    """A run as it is now."""
    stamp = stamp_of(directory)
    try:
        record = read_record(directory)
    except RunNotFound:
        return Look(run_id=directory.run_id)
    except AmlError:
        return _damaged(directory, stamp)
    return Look(
        run_id=directory.run_id,
        path=directory.path[len(directory.home) + 1 :],
        project=f"{record.account}/{record.workspace}/{record.project}",
        cell_id=record.cell_id,
        hidden=record.hidden,
        # a run that has not ended changes without its files
        stamp=stamp if record.ended else "",
        row=row_of(directory, record),
        more=_more(record),
        uses=_uses(record),
        settled=record.ended,
    )


def _more(record: Record) -> dict[str, Any]:
    found = {name: getattr(record, name) for name in _MORE}
    return {**found, "project_name": record.project, "pinned": int(record.pinned)}


def _uses(record: Record) -> tuple[tuple[str, str], ...]:
    found = [
        (str(one["uuid"]), "input") for one in record.inputs if isinstance(one, dict) and one.get("uuid")
    ]
    if original := record.properties.get("rerun_of_uuid"):
        found.append((str(original), "rerun"))
    return tuple(dict.fromkeys(found))


def _damaged(directory: RunDirectory, stamp: str) -> Look:
    """A run whose record cannot be read is still a run, and still listed."""
    from aml_jupyter.runs.record import Record, utc

    milliseconds = directory.run_id.rpartition("_")[2]
    created = utc(int(milliseconds) * 1_000_000) if milliseconds.isdigit() and len(milliseconds) < 15 else ""
    record = Record(
        run_id=directory.run_id, status="NotResponding", reason="record.corrupt", created_utc=created
    )
    return Look(
        run_id=directory.run_id,
        path=directory.path[len(directory.home) + 1 :],
        project=directory.project_key,
        stamp=stamp,
        row=row_of(directory, record),
        settled=True,
    )


def stamp_of(directory: RunDirectory) -> str:
    """What changes whenever a file changes that a row is made of."""
    parts = []
    for path in (directory.run_json, directory.labels_json, directory.artifacts_json):
        try:
            found = os.lstat(path)
            parts.append(f"{found.st_mtime_ns:x}.{found.st_size:x}.{found.st_ino:x}")
        except OSError:
            parts.append("")
    return " ".join(parts)


def same_stamp(known: str | None, directory: RunDirectory) -> bool:
    """Whether the index knows a run's files as they are."""
    return bool(known) and known == stamp_of(directory)
