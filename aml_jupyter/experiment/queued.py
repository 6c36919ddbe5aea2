"""Runs that are written now and started in their turn: one, or the trials of a sweep with their parent."""

from __future__ import annotations

import os

from aml_jupyter import queueing, runs
from aml_jupyter.cell import share_values
from aml_jupyter.config import aml_home, registered
from aml_jupyter.confined import read_bounded, write_atomic
from aml_jupyter.experiment.logins import handed_over
from aml_jupyter.experiment.planning import LARGEST_SCRIPT, plan
from aml_jupyter.experiment.writing import begin, write
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from aml_jupyter.config import Project
    from aml_jupyter.experiment.request import Plan, Request
    from aml_jupyter.queueing import Entry
    from aml_jupyter.runs import RunDirectory


def enqueue(request: Request, project: Project | None = None) -> RunDirectory:
    """Take the snapshot, write the run and put it at the end of the queue; raises what `submit` raises.

    Nothing is left when it raises.
    """
    (planned,), named = _planned([request], project)
    passwords = handed_over(planned)
    planned, directory = begin(planned.replace(project=named, queued=True))
    home = directory.home
    try:
        queueing.add(home, queueing.Entry(run_id=directory.run_id))
        write(planned, directory)
    except BaseException:
        queueing.drop(home, directory.run_id)
        runs.discard(directory)
        raise
    queueing.hand_over(home, [directory.run_id], _secrets(request), passwords)
    return directory


def enqueue_trials(
    requests: Sequence[Request],
    done: Mapping[int, RunDirectory],
    project: Project | None,
    entry: Entry,
    parent: Parent,
) -> RunDirectory:
    """Write the trials of a sweep, with the snapshot of the first, then their parent, which is returned.

    They exist for the queue when the parent does; all of them or none.  `done` are runs, by the numbers of
    their requests, that are trials without being run again; `entry` says how the others are to be started,
    its names are filled in.  Raises what `submit` raises.
    """
    planned, named = _planned(requests, project)
    passwords = handed_over(planned[0])
    made = _Made()
    try:
        for number, one in enumerate(planned):
            if number not in done:
                made.begin(number, one.replace(project=named, queued=True))
        directories = [done.get(number) or made.trials[number][1] for number in range(len(planned))]
        # the last: it is the newest run, which @last means
        made.parent = runs.create(aml_home(), named)
        if made.trials:
            queueing.add(made.parent.home, entry.replace(run_id=made.parent.run_id, trials=made.run_ids()))
        made.write()
        _write_parent(made.parent, planned[0].replace(project=named), directories, parent)
    except BaseException:
        made.discard()
        raise
    if made.trials:
        queueing.hand_over(made.parent.home, made.run_ids(), _secrets(requests[0]), passwords)
    return made.parent


class Parent(Value):
    """What the parent of a sweep has for itself: `fields` of its record; `request` has name, tags, note."""

    fields: Callable[[Plan, Sequence[RunDirectory]], Mapping[str, Any]]
    request: Request


class _Made:
    """What exists of a sweep that is being written: trials by number, and their parent."""

    def __init__(self) -> None:
        self.trials: dict[int, tuple[Plan, RunDirectory]] = {}
        self.parent: RunDirectory | None = None

    def begin(self, number: int, planned: Plan) -> None:
        """Begin one trial."""
        self.trials[number] = begin(planned)

    def run_ids(self) -> tuple[str, ...]:
        """The ids of the trials."""
        return tuple(directory.run_id for _, directory in self.trials.values())

    def write(self) -> None:
        """Write all trials; snapshot and values that travel along are those of the first."""
        first: RunDirectory | None = None
        for planned, directory in self.trials.values():
            request = planned.request.replace(parent_run_id=self.parent and self.parent.run_id)
            if first is None:
                first = write(planned.replace(request=request), directory)
                continue
            write(planned.replace(request=request.replace(inputs={}), source_run=first), directory)
            if request.inputs:
                share_values(first.job, directory.job)

    def discard(self) -> None:
        """Take everything back."""
        if self.parent is not None:
            queueing.drop(self.parent.home, self.parent.run_id)
            runs.discard(self.parent)
        for _, directory in self.trials.values():
            runs.discard(directory)


def _write_parent(
    directory: RunDirectory, planned: Plan, trials: Sequence[RunDirectory], parent: Parent
) -> None:
    """The record of the run that has the trials: what they have in common, and no job."""
    trial = runs.load_record(trials[0])
    common = (
        "target", "run_configuration", "framework", "script_name", "arguments", "cell_sha256", "notebook",
        "cell_id", "environment_names", "environment_secret", "interpreter", "snapshot_id", "snapshot_files",
        "snapshot_bytes", "git", "share", "warnings", "experiment_id", "supervisor",
    )  # fmt: skip
    values = {name: getattr(trial, name) for name in common}
    values.update(kind=queueing.SWEEP, status="Queued", heartbeat_enabled=False)
    record = runs.new_record(directory, planned.project, **{**values, **parent.fields(planned, trials)})
    if trial.cell_sha256:
        # restored and repeated as the cell of any run is
        os.mkdir(directory.job, 0o700)
        write_atomic(directory.job + "/cell.py", read_bounded(trials[0].job + "/cell.py", LARGEST_SCRIPT))
    request = parent.request
    if request.name or request.tags or request.message:
        runs.set_labels(directory, name=request.name, tags=request.tags, note=request.message)
    runs.write_record(directory, record)


def _planned(requests: Sequence[Request], project: Project | None) -> tuple[list[Plan], Project]:
    planned = [plan(request, project) for request in requests]
    named = registered(planned[0].project)
    if named.key != planned[0].project.key:  # another folder took the name meanwhile
        planned = [plan(request, named) for request in requests]
    return planned, named


def _secrets(request: Request) -> dict[str, str]:
    return {**request.environment, **request.secrets}
