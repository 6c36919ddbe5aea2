"""What the ends of the trials mean for the parent of a sweep; written once, by the worker of the queue."""

from __future__ import annotations

from aml_jupyter import pending, runs
from aml_jupyter.errors import AmlError
from aml_jupyter.sweep.table import REMOVED, Trials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aml_jupyter.runs import RunDirectory
    from aml_jupyter.sweep.table import Table

FAILED = "sweep.trials_failed"


def end(parent: RunDirectory, *, fail_fast: bool = False) -> None:
    """Write the ending of a sweep all of whose trials have ended."""
    record = runs.load_record(parent)
    if record.ended:
        return
    table = Trials(parent).look()
    fields = _fields(parent, table, fail_fast=fail_fast)
    with pending.Ending(parent, record):
        runs.write_record(parent, record.replace(**fields, **_times(parent, table)))
    runs.append_status(parent, fields["status"], fields["reason"])


def _fields(parent: RunDirectory, table: Table, *, fail_fast: bool) -> dict[str, Any]:
    record = table.record
    found: dict[str, Any] = {"status": "Completed", "reason": "", "exit_code": 0}
    done, whole = table.count("Completed"), len(table.trials)
    if done < whole - table.count(REMOVED):
        told = f"{whole - done} of {whole} trials did not complete"
        if fail_fast:
            told += ", and --fail-fast ended the others with the first of them"
        hint = f"aml show {record.run_id} lists them; aml logs TRIAL says what happened in one."
        found = {"status": "Failed", "reason": FAILED, "exit_code": 1}
        found["error"] = {"code": FAILED, "message": told, "hint": hint}
    if runs.cancel_request(parent) and table.count("Canceled"):
        found = {"status": "Canceled", "reason": "", "error": None, "exit_code": None}
    found["metrics"] = {"trials": whole, "completed": done}
    described = record.properties.get("sweep")
    if table.best and isinstance(described, dict):
        best = next(one for one in table.trials if one.run_id == table.best)
        # not by the metric's own name: @best:METRIC means a run that has artifacts
        found["metrics"][f"best.{table.metric}"] = best.metric
        found["properties"] = {**record.properties, "sweep": {**described, "best": table.best}}
    elif table.metric and done:
        told = f"no trial logged a number as {table.metric}: which one is best is not known"
        found["warnings"] = (*record.warnings, told)
    return found


def _times(parent: RunDirectory, table: Table) -> dict[str, Any]:
    """From the start of the first trial to now; by the clock, since no process lived all that time."""
    from datetime import datetime

    starts = []
    for one in table.trials:
        directory = runs.at(parent.home, one.run_id)
        try:
            start = runs.load_record(directory).start_time_utc if directory else None
        except AmlError:  # damaged: the others tell
            continue
        if start:
            starts.append(start)
    now = runs.utc()
    start = min(starts, default=None)
    if start is None:
        return {"end_time_utc": now}
    try:
        seconds = (datetime.fromisoformat(now) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError):  # a time of another machine, without its zone
        return {"start_time_utc": start, "end_time_utc": now}
    return {"start_time_utc": start, "end_time_utc": now, "duration": max(0.0, seconds)}
