"""A sweep: one snapshot, a trial for each combination of values, and a parent run that has them.

axes      the values, and the combinations of them
submit    writes trials and parent; the worker of the queue starts them and ends the parent
table     the trials as they stand
ending    what the ends of the trials mean for the parent
shown     a table as text and HTML
"""

from __future__ import annotations

import os

from aml_jupyter import queueing, runs
from aml_jupyter.errors import UsageError
from aml_jupyter.experiment.queued import Parent, enqueue_trials
from aml_jupyter.frozen import Value
from aml_jupyter.sweep.axes import Axis, trials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Plan, Request
    from aml_jupyter.runs import Record, RunDirectory

SWEEP = queueing.SWEEP
# trials that go on at a time unless said
JOBS = 1


class Asked(Value):
    """What a person asked of a sweep.

    `jobs` trials go on at a time; `metric` is `NAME`, `NAME:max` or `NAME:min`; `random` draws that many
    combinations, by `seed`; `queue` has the trials wait in the queue, behind what is there.
    """

    axes: tuple[Axis, ...]
    jobs: int = JOBS
    max_trials: int | None = None
    random: int | None = None
    seed: int | None = None
    metric: str = ""
    fail_fast: bool = False
    queue: bool = False


def is_sweep(record: Record) -> bool:
    """Whether a run is the parent of a sweep."""
    return record.kind == SWEEP


def plan(request: Request, asked: Asked) -> list[Request]:
    """A request for each trial.  Raises UsageError."""
    return [request.replace(params={**request.params, **one}) for one in _combinations(request, asked)[0]]


def _combinations(request: Request, asked: Asked) -> tuple[list[dict[str, Any]], int | None]:
    """The parameters of every trial, and the seed they were drawn with."""
    split_metric(asked.metric)
    if not asked.axes:
        raise UsageError(
            "a sweep needs values to try", code="sweep.invalid", hint="Such as --sweep lr=0.1,0.01"
        )
    if "," in request.target:
        raise UsageError(
            f"a sweep runs on one target, not on {request.target}",
            code="sweep.invalid",
            hint="Run it on one, then compare the best trial on several.",
        )
    for one in asked.axes:
        if one.name in request.params:
            raise UsageError(
                f"{one.name} is given with -p and with --sweep", code="sweep.invalid", hint="Give it once."
            )
    if not 1 <= asked.jobs <= queueing.MOST_JOBS:
        raise UsageError(
            f"-j {asked.jobs}: from 1 to {queueing.MOST_JOBS} trials go on at a time", code="sweep.invalid"
        )
    seed = asked.seed
    if asked.random is not None and seed is None:
        seed = int.from_bytes(os.urandom(4), "big")
    found = trials(asked.axes, most=asked.max_trials, random=asked.random, seed=seed)
    return found, seed if asked.random is not None else None


def submit(
    request: Request,
    asked: Asked,
    project: Project | None = None,
    completed: Callable[[Request], RunDirectory | None] | None = None,
) -> RunDirectory:
    """Start a sweep; its parent, as soon as that exists.

    `completed` finds a run that makes a trial unnecessary: that run is then the trial.
    Raises UsageError, and what `experiment.submit` raises; nothing is left then.
    """
    combinations, seed = _combinations(request, asked)
    requests = [
        # names and notes are the parent's: a name is to mean one run
        request.replace(params={**request.params, **one}, name=None, message="")
        for one in combinations
    ]

    found = {number: completed(one) for number, one in enumerate(requests)} if completed else {}
    done = {number: one for number, one in found.items() if one is not None}

    def parent_fields(first: Plan, directories: Sequence[RunDirectory]) -> Mapping[str, Any]:
        described = {
            "axes": {one.name: list(one.values) for one in asked.axes},
            "trials": [one.run_id for one in directories],
            "jobs": asked.jobs,
            "metric": asked.metric,
            "fail_fast": asked.fail_fast,
            "seed": seed,
        }
        return {
            "arguments": _common_arguments(first),
            "metrics": {"trials": len(directories)},
            "params": {**request.params, **{one.name: one.text for one in asked.axes}},
            "properties": {"CommitId": runs.load_record(directories[0]).snapshot_id, "sweep": described},
        }

    entry = queueing.Entry(
        sweep=True, run_id="", jobs=asked.jobs, direct=not asked.queue, fail_fast=asked.fail_fast
    )
    labelled = requests[0].replace(name=request.name, message=request.message)
    parent = enqueue_trials(requests, done, project, entry, Parent(fields=parent_fields, request=labelled))
    if len(done) == len(requests):
        from aml_jupyter.sweep.ending import end

        end(parent)
    return parent


def _common_arguments(first: Plan) -> tuple[str, ...]:
    """What every trial is given beside its parameters, which stand at the end of a script's."""
    if first.request.cell is not None:
        return first.command[1:]
    return first.command[2 : len(first.command) - len(first.request.params)]


def split_metric(text: str) -> tuple[str, bool]:
    """`NAME[:max|min]` as a name and whether more is better.  Raises UsageError."""
    name, colon, way = text.rpartition(":")
    if not colon:
        return text, True
    if way not in ("max", "min") or not name:
        raise UsageError(
            f"--metric {text}: it is NAME, NAME:max or NAME:min",
            code="sweep.invalid",
            hint="Such as --metric accuracy or --metric loss:min",
        )
    return name, way == "max"
