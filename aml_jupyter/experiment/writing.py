"""Writes a run directory: the snapshot, the job folder, the record."""

from __future__ import annotations

import os
import sys
import time

from aml_jupyter import demands, installation, runs
from aml_jupyter.config import aml_home
from aml_jupyter.confined import write_atomic
from aml_jupyter.starting import umask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.experiment.request import Plan
    from aml_jupyter.lineage import Linked
    from aml_jupyter.runs import Record, RunDirectory
    from aml_jupyter.snapshot import Snapshot


def take_snapshot(planned: Plan, store: Any) -> Snapshot:
    """The snapshot of a planned run: of the project as it is now, or of the run whose code it takes."""
    from aml_jupyter.snapshot import Rules, Snapshot

    if planned.source_run:
        source = runs.read_record(planned.source_run)
        return Snapshot(
            id=source.snapshot_id, files=source.snapshot_files, bytes=source.snapshot_bytes, warnings=()
        )
    rules = planned.request.rules or Rules()
    rules = rules.replace(dependency_files=planned.project.dependency_files())
    notebook = planned.request.notebook
    if notebook and notebook not in rules.include:
        rules = rules.replace(leave_out=(*rules.leave_out, notebook))
    taken: Snapshot = store.take(planned.project.root, rules)
    return taken


def begin(planned: Plan) -> tuple[Plan, RunDirectory]:
    """A directory for a run, with its runtime, and the shared folder; the plan with what that warned of."""
    home = aml_home()
    directory = runs.create(home, planned.project)
    try:
        os.makedirs(directory.job, mode=0o700, exist_ok=True)
        installation.place(home, directory.job)
        warnings = (*planned.warnings, *_create_share(planned))
    except BaseException:
        runs.discard(directory)
        raise
    return planned.replace(warnings=warnings), directory


def anticipated(planned: Plan, directory: RunDirectory) -> dict[str, Any] | None:
    """What can be told of a job before its snapshot is taken, where a target can begin with that."""
    return _demand(planned, directory) if planned.target.kind in demands.CONTAINERS else None


def _demand(planned: Plan, directory: RunDirectory) -> dict[str, Any]:
    return {
        "format": 1,
        "run_id": directory.run_id,
        "kind": planned.target.kind,
        "python": planned.python,
        "command": [],
        "environment": {},
        "share": planned.share.path if planned.share else None,
        "spark": planned.spark.settings if planned.spark else None,
        "target": planned.demand
        or demands.of_target(planned.project, planned.target, planned.request.resources),
        "resources": dict(planned.request.resources),
        "dependencies": planned.dependencies,
    }


def write(planned: Plan, directory: RunDirectory | None = None) -> RunDirectory:
    """The whole run directory; it becomes a run with the rename of `run.json`, the last thing written.

    `directory` is one that was begun; nothing is left of it when this raises.
    """
    from aml_jupyter.snapshot import Store

    if directory is None:
        planned, directory = begin(planned)
    request, home = planned.request, aml_home()
    try:
        began = time.monotonic()
        snapshot = take_snapshot(planned, Store(home + "/snapshots"))
        spent = round(time.monotonic() - began, 6)
        planned = _with_links(planned, directory, snapshot, home)
        _write_job(planned, directory, snapshot, home)
        record = _record(planned, directory, snapshot, snapshot_seconds=spent)
        if request.name or request.tags or request.message or request.hidden:
            hidden = request.hidden or None
            runs.set_labels(
                directory, name=request.name, tags=request.tags, note=request.message, hidden=hidden
            )
        runs.write_record(directory, record)
    except BaseException:
        runs.discard(directory)
        raise
    return directory


def _create_share(planned: Plan) -> tuple[str, ...]:
    """The shared folder exists before the script starts: scripts open files in it at once."""
    if planned.share is None or not planned.share.local:
        return ()
    from aml_jupyter import share

    return share.create(planned.share)


def _write_job(planned: Plan, directory: RunDirectory, snapshot: Snapshot, home: str) -> None:
    request = planned.request
    command = planned.command
    if request.cell is not None and planned.repeats:
        from aml_jupyter.experiment.again import repeat_cell

        repeat_cell(planned.repeats, directory.job, request.params)
    elif request.cell is not None:
        from aml_jupyter.cell import write_cell

        python, arrow = _receiver(planned.python) if request.inputs else ("", False)
        write_cell(
            directory.job,
            request.cell,
            request.inputs,
            request.outputs,
            request.params,
            python=python,
            arrow=arrow,
        )
    if request.cell is not None:
        # what a person typed is kept nowhere else: it is there after a power cut, as the record is
        fd = os.open(directory.job + "/cell.py", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        runtime = demands.runtime_folder(planned.target.kind, directory.path)
        command = (command[0], runtime + "/run_cell.py", *command[1:])
    if planned.spark and planned.spark.properties:
        write_atomic(directory.job + "/spark.properties", planned.spark.properties)
    environment = planned.configuration.variables
    if planned.share:
        from aml_jupyter.share import VARIABLE

        environment[VARIABLE] = planned.share.variable
    work = demands.work_folder(planned.target.kind, directory.path)
    environment.update({one.variable: f"{work}/{one.place}" for one in planned.given if not one.link})
    runs.write_json(
        directory.job + "/request.json",
        {
            **_demand(planned, directory),
            **_given(planned, snapshot, home),
            "command": list(command),
            "cwd": os.path.normpath(os.path.join(work, request.workdir or ".")),
            "environment": environment,
            "secrets": sorted(request.secrets),
            "timeout": request.timeout,
            "grace": 10.0,
            "log_limit": 1 << 30,
            "umask": umask(),
            "cell": request.cell is not None,
            "snapshots": home + "/snapshots",
            "snapshot_id": snapshot.id,
        },
    )


def _with_links(planned: Plan, directory: RunDirectory, snapshot: Snapshot, home: str) -> Plan:
    """The plan with what the link files of the project name; the run is told where it lies."""
    found = linked_by(planned, snapshot, home)
    if found is None:
        return planned
    if placed := found.as_document(demands.work_folder(planned.target.kind, directory.path)):
        runs.write_json(directory.job + "/assets.json", placed)
    return planned.replace(given=(*planned.given, *found.given))


def linked_by(planned: Plan, snapshot: Snapshot, home: str) -> Linked | None:
    """What the link files of a snapshot name; None for a project that has no folder for them."""
    if planned.source_run is None and not os.path.isdir(planned.project.root + "/assets"):
        return None
    from aml_jupyter import lineage
    from aml_jupyter.snapshot import Store

    store = Store(home + "/snapshots")
    return lineage.linked(
        store.manifest(snapshot.id),
        lambda path: store.read(snapshot.id, path),
        planned.request.cell,
        home,
    )


def _given(planned: Plan, snapshot: Snapshot, home: str) -> dict[str, Any]:
    """The files of earlier runs that the job is given, which are no part of its snapshot."""
    if not planned.given:
        return {}
    from aml_jupyter import lineage
    from aml_jupyter.snapshot import Store

    lineage.check_places(planned.given, Store(home + "/snapshots").manifest(snapshot.id))
    files = [file for one in planned.given for file in one.as_job()]
    return {"inputs": files, "artifacts": home + "/artifacts"}


def _receiver(python: str) -> tuple[str, bool]:
    """Minor version of the interpreter that values are sent to, and whether it reads Arrow."""
    from aml_jupyter.packages import installed, version

    return ".".join(version(python).split(".")[:2]), "pyarrow" in installed(python)


def _record(
    planned: Plan,
    directory: RunDirectory,
    snapshot: Snapshot,
    *,
    snapshot_seconds: float,
) -> Record:
    request, project = planned.request, planned.project
    script = None if request.cell is not None else planned.command[1]
    return runs.new_record(
        directory,
        project,
        target=planned.target.name,
        kind=planned.target.kind,
        run_configuration=planned.configuration.name,
        framework=planned.framework,
        script_name=script or "<cell>",
        arguments=planned.command[1:] if request.cell is not None else planned.command[2:],
        cell_sha256=_sha256(request.cell) if request.cell is not None else None,
        notebook=request.notebook,
        cell_id=request.cell_id,
        params=dict(request.params),
        environment_names=tuple(sorted(planned.configuration.environment_variables)),
        environment_secret=tuple(sorted({**request.environment, **request.secrets})),
        interpreter=planned.python,
        snapshot_id=snapshot.id,
        snapshot_files=snapshot.files,
        snapshot_bytes=snapshot.bytes,
        git=_git(planned, directory),
        share=planned.share.path if planned.share else None,
        warnings=(*planned.warnings, *snapshot.warnings),
        phases={"snapshot": snapshot_seconds},
        status="Queued" if planned.queued else "NotStarted",
        parent_run_id=request.parent_run_id,
        experiment_id=request.experiment_id or project.name,
        properties=_properties(planned, snapshot),
        inputs=tuple(one.as_record() for one in planned.given),
        supervisor={"executable": sys.executable, "sys_path": [p for p in sys.path if p]},
    )


def _properties(planned: Plan, snapshot: Snapshot) -> dict[str, Any]:
    found: dict[str, Any] = {"CommitId": snapshot.id}
    if planned.repeats:
        found["rerun_of"] = planned.repeats.run_id
        found["rerun_of_uuid"] = runs.load_record(planned.repeats).uuid
    if planned.request.needed:
        from aml_jupyter.experiment.reading import reads

        if read := reads(planned, snapshot.id, aml_home()).fingerprint:
            found["needed"] = dict(read)
    return found


def _git(planned: Plan, directory: RunDirectory) -> Mapping[str, Any] | None:
    """Where the checkout stands, and the hash of its uncommitted changes, which are kept as `git.diff`."""
    if planned.source_run:
        return runs.load_record(planned.source_run).git
    if not os.path.exists(planned.project.root + "/.git"):
        return None
    from aml_jupyter.snapshot import git_state

    state = git_state(planned.project.root, dependency_files=planned.project.dependency_files())
    if state is None:
        return None
    if state.diff:
        write_atomic(directory.git_diff, state.diff, sync=False)
    return {
        "commit": state.commit,
        "branch": state.branch,
        "dirty": state.dirty,
        "diff_sha256": _sha256(state.diff) if state.diff else None,
        "withheld": state.withheld,
    }


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
