"""The trials of a sweep as they stand: read from their run directories, those that ended only once."""

from __future__ import annotations

import math
import os

from aml_jupyter import runs
from aml_jupyter.errors import AmlError, UsageError
from aml_jupyter.frozen import Value
from aml_jupyter.job import TERMINAL
from aml_jupyter.sweep import split_metric

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.runs import Record, RunDirectory

# a trial whose run was removed
REMOVED = "Removed"


class Trial(Value):
    """One run of a sweep; `metric` is the last value of the metric that the sweep is about.

    `reused` is whether it had completed before, and was not run again.
    """

    number: int
    run_id: str
    params: Mapping[str, Any]
    status: str
    reason: str = ""
    message: str = ""
    metric: float | None = None
    duration: float | None = None
    reused: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.status in TERMINAL or self.status == REMOVED


class Table(Value):
    """A sweep: its parent's record and its trials in order; `best` is the run id of the best one."""

    record: Record
    names: tuple[str, ...]
    metric: str
    trials: tuple[Trial, ...]
    best: str | None = None

    def count(self, *statuses: str) -> int:
        """How many trials are in one of some states."""
        return sum(one.status in statuses for one in self.trials)

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints of the trials."""
        trials = [
            {**one.as_dict(), "params": {name: one.params.get(name) for name in self.names}}
            for one in self.trials
        ]
        return {"metric": self.metric, "best": self.best, "trials": trials}


class Trials:
    """Looks at the trials of one sweep again and again."""

    def __init__(self, parent: RunDirectory) -> None:
        self.parent = parent
        self._ended: dict[str, Trial] = {}
        self._params: dict[str, Mapping[str, Any]] = {}

    def look(self) -> Table:
        """How the sweep stands now.  Raises RunNotFound when the parent was removed."""
        record = runs.read_record(self.parent)
        described = _described(record)
        name, more = described["metric"], described["more"]
        trials = []
        for number, run_id in enumerate(described["trials"], 1):
            trial = self._ended.get(run_id) or self._trial(number, run_id, name)
            if trial.ended:
                self._ended[run_id] = trial
            trials.append(trial)
        return Table(
            record=record,
            names=tuple(described["axes"]),
            metric=name,
            trials=tuple(trials),
            best=_best(trials, more=more),
        )

    def _trial(self, number: int, run_id: str, metric: str) -> Trial:
        directory = runs.at(self.parent.home, run_id)
        try:
            if directory is None:
                return Trial(number=number, run_id=run_id, params={}, status=REMOVED)
            if run_id in self._params and not os.path.exists(directory.status_jsonl):
                # it waits: there may be a thousand of these
                return Trial(number=number, run_id=run_id, params=self._params[run_id], status="Queued")
            record = runs.read_record(directory)
        except AmlError as error:  # removed at this moment, or damaged
            return Trial(
                number=number, run_id=run_id, params={}, status="NotResponding", message=error.message
            )
        self._params[run_id] = record.params
        return Trial(
            number=number,
            run_id=run_id,
            params=record.params,
            status=record.status,
            reason=record.reason,
            message=str((record.error or {}).get("message", "")),
            metric=number_of(record.metrics.get(metric)) if metric else None,
            duration=record.duration,
            reused=record.parent_run_id != self.parent.run_id,
        )


def _described(record: Record) -> dict[str, Any]:
    """What the record says of a sweep, whatever stands there: it may come from another machine."""
    found = record.properties.get("sweep")
    found = found if isinstance(found, dict) else {}
    axes, trials, metric = found.get("axes"), found.get("trials"), found.get("metric")
    try:
        name, more = split_metric(metric if isinstance(metric, str) else "")
    except UsageError:
        name, more = "", True
    return {
        "axes": [str(name) for name in axes] if isinstance(axes, dict) else [],
        "trials": [one for one in trials if isinstance(one, str)] if isinstance(trials, list) else [],
        "metric": name,
        "more": more,
    }


def number_of(value: Any) -> float | None:
    """The last number of a metric; None where there is none."""
    last = value[-1] if isinstance(value, list) and value else value
    if isinstance(last, bool) or not isinstance(last, (int, float)):
        return None
    try:
        number = float(last)
    except OverflowError:
        return None
    return None if math.isnan(number) else number


def _best(trials: list[Trial], *, more: bool) -> str | None:
    """The best of those that completed; of equals the first."""
    done = [one for one in trials if one.metric is not None and one.status == "Completed"]
    if not done:
        return None
    choose = max if more else min
    return choose(done, key=lambda one: one.metric or 0.0).run_id
