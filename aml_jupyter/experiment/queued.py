"""Runs that are written now and started in their turn: one, or the trials of a sweep with their parent."""

from __future__ import annotations

import os

from aml_jupyter import queueing, runs
from aml_jupyter.config import aml_home, registered
from aml_jupyter.confined import read_bounded, write_atomic
from aml_jupyter.experiment.logins import handed_over
from aml_jupyter.experiment.planning import LARGEST_SCRIPT, plan
from aml_jupyter.experiment.writing import begin, write

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
    project: Project | None,
    entry: Entry,
    parent_fields: Callable[[Plan, Sequence[RunDirectory]], Mapping[str, Any]],
    labelled: Request,
) -> RunDirectory:
    """Write the trials of a sweep, with the snapshot of the first, then their parent, which is returned.

    They exist for the queue when the parent does; all of them or none.  `entry` says how they are to be
    started, its names are filled in; `parent_fields` are those of the parent's record, `labelled` has its
    name, tags and note.  Raises what `submit` raises.
    """
    planned, named = _planned(requests, project)
    passwords = handed_over(planned[0])
    home = aml_home()
    begun: list[tuple[Plan, RunDirectory]] = []
    parent = None
    try:
        for one in planned:
            # one by one: what was begun is taken back when the next cannot be
            begun.append(begin(one.replace(project=named, queued=True)))  # noqa: PERF401
        trials = [directory for _, directory in begun]
        # the last: it is the newest run, which @last means
        parent = runs.create(home, named)
        names = {"run_id": parent.run_id, "trials": tuple(one.run_id for one in trials)}
        queueing.add(home, entry.replace(**names))
        for number, (one, directory) in enumerate(begun):
            child = one.request.replace(parent_run_id=parent.run_id)
            write(one.replace(request=child, source_run=trials[0] if number else one.source_run), directory)
        _write_parent(parent, begun[0], labelled, parent_fields(begun[0][0], trials))
    except BaseException:
        if parent is not None:
            queueing.drop(home, parent.run_id)
            runs.discard(parent)
        for _, directory in begun:
            runs.discard(directory)
        raise
    queueing.hand_over(home, names["trials"], _secrets(requests[0]), passwords)
    return parent


def _write_parent(
    parent: RunDirectory, first: tuple[Plan, RunDirectory], request: Request, fields: Mapping[str, Any]
) -> None:
    """The record of the run that has the trials: what they have in common, and no job."""
    planned, directory = first
    trial = runs.load_record(directory)
    common = (
        "target", "run_configuration", "framework", "script_name", "arguments", "cell_sha256", "notebook",
        "cell_id", "environment_names", "environment_secret", "interpreter", "snapshot_id", "snapshot_files",
        "snapshot_bytes", "git", "share", "warnings", "experiment_id", "supervisor", "status",
    )  # fmt: skip
    values = {name: getattr(trial, name) for name in common}
    record = runs.new_record(
        parent,
        planned.project,
        **{**values, "kind": queueing.SWEEP, "heartbeat_enabled": False, **fields},
    )
    if trial.cell_sha256:
        # restored and repeated as the cell of any run is
        os.mkdir(parent.job, 0o700)
        write_atomic(parent.job + "/cell.py", read_bounded(directory.job + "/cell.py", LARGEST_SCRIPT))
    if request.name or request.tags or request.message:
        runs.set_labels(parent, name=request.name, tags=request.tags, note=request.message)
    runs.write_record(parent, record)


def _planned(requests: Sequence[Request], project: Project | None) -> tuple[list[Plan], Project]:
    planned = [plan(request, project) for request in requests]
    named = registered(planned[0].project)
    if named.key != planned[0].project.key:  # another folder took the name meanwhile
        planned = [plan(request, named) for request in requests]
    return planned, named


def _secrets(request: Request) -> dict[str, str]:
    return {**request.environment, **request.secrets}
