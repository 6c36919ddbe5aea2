"""Use cases of one project: submit a run, look after it, cancel it.

A submit takes the snapshot, writes the run directory and hands it to a supervisor; nothing here is needed by
the run afterwards.
"""

from __future__ import annotations

import os
import sys
import time

from aml_jupyter import demands, installation, processes, runs
from aml_jupyter.config import aml_home, find_project, registered
from aml_jupyter.confined import read_bounded, write_atomic
from aml_jupyter.errors import AmlError, ConfigError, ConfinedError, RunFailed, RunNotFound, UsageError
from aml_jupyter.executors import executor_for
from aml_jupyter.frozen import Value
from aml_jupyter.job import TERMINAL, Job
from aml_jupyter.starting import Starter, SupervisorGone, umask
from aml_jupyter.validation import check_environment, check_params, check_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from aml_jupyter.config import Project, RunConfiguration, Target
    from aml_jupyter.executors import Executor
    from aml_jupyter.runs import Record, RunDirectory
    from aml_jupyter.share import Share
    from aml_jupyter.snapshot import Rules, Snapshot
    from aml_jupyter.spark import Session

# seconds in which a run directory that its own script deleted gets its record back
REWRITTEN = 5.0
# bytes of a script that are looked through before the run
LARGEST_SCRIPT = 4 << 20


class Request(Value):
    """What a person asked for.

    `cell` is the cell's bytes, or None for a script; `secrets` are variables that are written nowhere;
    `timeout` in seconds; `warnings` are what the front door has to remark already; `resources` are what the
    run may use of its target (`cpus`, `memory`, `gpus`, `image`, ...).
    """

    target: str = "local"
    compute: str | None = None
    script: str | None = None
    arguments: tuple[str, ...] = ()
    cell: bytes | None = None
    inputs: Mapping[str, object] = {}
    outputs: tuple[str, ...] = ()
    params: Mapping[str, object] = {}
    environment: Mapping[str, str] = {}
    secrets: Mapping[str, str] = {}
    timeout: float | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    message: str = ""
    workdir: str | None = None
    notebook: str | None = None
    cell_id: str | None = None
    rules: Rules | None = None
    warnings: tuple[str, ...] = ()
    from_run: str | None = None
    parent_run_id: str | None = None
    experiment_id: str = ""
    resources: Mapping[str, object] = {}


class Plan(Value):
    """A request resolved against the configuration: all that can be told before the snapshot is taken."""

    request: Request
    project: Project
    configuration: RunConfiguration
    target: Target
    python: str
    framework: str
    command: tuple[str, ...]
    share: Share | None
    warnings: tuple[str, ...]
    spark: Session | None = None
    dependencies: Mapping[str, Any] | None = None
    source_run: RunDirectory | None = None


def plan(request: Request, project: Project | None = None) -> Plan:
    """Resolve a request against the configuration; nothing is copied, sent or started.

    Raises ConfigError, TargetUnavailable, UsageError or CellError.
    """
    project = project or find_project()
    source = runs.find(request.from_run, aml_home(), project) if request.from_run else None
    if source:
        request = _like(source, request)
    _check_workdir(request, project)
    check_environment({**request.environment, **request.secrets})
    check_params(request.params)
    configuration, target = project.resolve(request.target, request.compute)
    executor = executor_for(target.kind)
    executor.check(target, request.resources)
    python = demands.PYTHON_OF_TARGET if demands.manages_environment(target) else executor.python(target)
    warnings = [*request.warnings, *configuration.warnings, *target.warnings]
    if project.notice:
        warnings.append(project.notice)
    command = _command(request, configuration, python, project.root if source is None else None)
    check_words(command)
    framework, session = _framework(request, project, configuration, target, command, warnings)
    share = _share(project, target, _source(request, command, project), warnings)
    wanted = demands.dependencies(project, configuration, target, request.resources)
    return Plan(
        request=request,
        project=project,
        configuration=configuration,
        target=target,
        python=python,
        framework=framework,
        command=command,
        share=share,
        warnings=tuple(warnings),
        spark=session,
        dependencies=wanted,
        source_run=source,
    )


def submit(
    request: Request, project: Project | None = None, start: Callable[[], Starter] = Starter
) -> RunDirectory:
    """Take the snapshot, write the run and hand it to a supervisor; returns as soon as the run exists.

    `start` makes the supervisor: a new process unless the caller has one ready.  Raises what `plan` raises,
    SnapshotError, ValueTransferError.  Nothing is left when it raises.
    """
    return submit_together([request], project, start)[0]


def submit_together(
    requests: Sequence[Request],
    project: Project | None = None,
    start: Callable[[], Starter] = Starter,
    before: Callable[[Sequence[RunDirectory]], None] = lambda _: None,
) -> list[RunDirectory]:
    """Start several runs with the snapshot of the first, all of them or none; raises what `submit` raises.

    `before` is called when all are written and none is started.
    """
    planned = [plan(request, project) for request in requests]
    named = registered(planned[0].project)
    if named.key != planned[0].project.key:  # another folder took the name meanwhile
        planned = [plan(request, named) for request in requests]
    starters: list[Starter] = []
    directories: list[RunDirectory] = []
    try:
        # their interpreters start while the snapshot is taken; those that did are let go if one cannot
        starters.extend(start() for _ in planned)
        for one in planned:
            directories.append(_write(one.replace(source_run=directories[0]) if directories else one))
        before(directories)
    except BaseException:
        for starter in starters:
            starter.leave()
        for directory in directories:
            runs.discard(directory)
        raise
    for starter, directory, request in zip(starters, directories, requests, strict=True):
        secrets = {**request.environment, **request.secrets}
        try:
            starter.go(directory.path, secrets)
        except SupervisorGone:  # one that was ready has died since
            Starter().go(directory.path, secrets)
    return directories


def prepare(request: Request, project: Project, tell: Callable[[str], None]) -> dict[str, Any]:
    """Make the environment of a target ready without a run; what it is, as `Executor.environment` says.

    Raises ConfigError, TargetUnavailable, EnvironmentFailed.
    """
    executor, job = _job_of_target(request, project)
    return executor.make_environment(job, tell)


def keep_warm(request: Request, project: Project, idle: float, tell: Callable[[str], None]) -> str:
    """Have a container wait for each next run of a target, the first one now; the target's name.

    A container to which no run comes leaves after `idle` seconds.
    Raises what `prepare` raises, and ConfigError `target.not_warmable`.
    """
    project = registered(project)
    _, job = _job_of_target(request, project)
    if job.kind not in demands.CONTAINERS:
        raise ConfigError(
            f"target {job.target['name']!r} is of kind {job.kind}: only containers are kept warm",
            code="target.not_warmable",
        )
    from aml_jupyter import share
    from aml_jupyter.executors.docker import DockerExecutor

    executor = DockerExecutor()
    executor.check_warm(job)
    found = share.resolve(project, project.resolve(request.target, request.compute)[1])
    if found is not None and found.local:
        share.create(found)
        job = job.replace(share=found.path)
    executor.keep_warm(job, project.key, idle, tell)
    return str(job.target["name"])


def _job_of_target(request: Request, project: Project) -> tuple[Executor, Job]:
    """What a run of a target would be told of it, without a run."""
    configuration, target = project.resolve(request.target, request.compute)
    executor = executor_for(target.kind)
    executor.check(target, request.resources)
    wanted = demands.dependencies(project, configuration, target, request.resources)
    return executor, Job(
        run_id="",
        directory="",
        kind=target.kind,
        python=executor.python(target) if wanted is None else demands.PYTHON_OF_TARGET,
        command=(),
        environment={},
        target=demands.of_target(project, target, request.resources),
        resources=request.resources,
        dependencies=wanted and {**wanted, "prepare": True},
    )


def _framework(
    request: Request,
    project: Project,
    configuration: RunConfiguration,
    target: Target,
    command: tuple[str, ...],
    warnings: list[str],
) -> tuple[str, Session | None]:
    """The framework of a run; without a file nobody left it open, and Java would cost seconds."""
    if configuration.framework == "Python" or not (configuration.framework or configuration.file):
        return "Python", None
    from aml_jupyter import spark

    given = {**configuration.environment_variables, **request.environment, **request.secrets}
    asked = spark.Asked(
        project=project,
        configuration=configuration,
        target=target,
        python=command[0],
        variables={**os.environ, **given},
        given=tuple(sorted(given)),
    )
    return spark.choose(asked, command[1] if request.cell is None else None, warnings)


def _share(project: Project, target: Target, source: str, warnings: list[str]) -> Share | None:
    from aml_jupyter import share

    share.require(target, source, "the code")
    found = share.resolve(project, target)
    if found is None:
        warnings.append(share.share_reason(target))
    return found


def _source(request: Request, command: tuple[str, ...], project: Project) -> str:
    """The text of what is run, to look for what its target cannot give."""
    if request.cell is not None:
        return request.cell.decode(errors="replace")
    if request.from_run:
        return ""
    try:
        return read_bounded(f"{project.root}/{command[1]}", LARGEST_SCRIPT).decode(errors="replace")
    except ConfinedError:  # too large to be looked through, or unreadable, which the snapshot will tell
        return ""


def _like(source: RunDirectory, request: Request) -> Request:
    """A request that names neither script nor cell repeats those of the run whose code it takes."""
    if request.script is not None or request.cell is not None:
        return request
    record = runs.read_record(source)
    arguments = request.arguments or record.arguments
    params = {**record.params, **request.params}
    if record.cell_sha256 is None:
        # parameters of a script are among its arguments already, unless there are new ones
        script = record.script_name
        return request.replace(script=script, arguments=arguments, params=request.params)
    cell = read_bounded(source.job + "/cell.py", LARGEST_SCRIPT)
    return request.replace(cell=cell, arguments=arguments, params=params)


def _check_workdir(request: Request, project: Project) -> None:
    path = os.path.normpath(request.workdir or ".")
    if os.path.isabs(path) or path.startswith(".."):
        raise UsageError(
            f"--workdir {request.workdir}: it is a folder inside the copy of the project, such as notebooks"
        )
    # the code of an earlier run may have folders that are gone here
    if not request.from_run and not os.path.isdir(os.path.join(project.root, path)):
        raise UsageError(f"--workdir {request.workdir}: the project {project.root} has no such folder")


def _command(
    request: Request, configuration: RunConfiguration, python: str, root: str | None
) -> tuple[str, ...]:
    """The command below the interpreter: the cell's driver is put in when the run directory is known.

    A script is looked for below `root`; None for the code of an earlier run, which need not be there now.
    """
    if request.cell is not None:
        return (python, *(request.arguments or configuration.argument_vector[1:]))
    vector = configuration.command(request.script, request.arguments)
    if not vector:
        raise UsageError(
            "no script was given, and the run configuration's ArgumentVector names none",
            hint="aml run TARGET script.py -- arguments",
        )
    params = tuple(f"--{name}={value}" for name, value in request.params.items())
    script = vector[0] if root is None else _script_in_project(vector[0], root)
    return (python, script, *vector[1:], *params)


def _script_in_project(script: str, root: str) -> str:
    """The script's path below the project, with `/`; as typed from the working folder or from the root."""
    script = script.replace("\\", "/")
    whole = os.path.realpath(root)
    for path in (os.path.abspath(script), os.path.join(root, script)):
        # the folders on the way may be reached by links, the script itself keeps its name
        folder, name = os.path.split(path)
        inside = os.path.relpath(os.path.join(os.path.realpath(folder), name), whole)
        if not inside.startswith("..") and os.path.isfile(path):
            return inside.replace(os.sep, "/")
    raise UsageError(
        f"there is no script {script!r} in the project {root}",
        code="run.script_missing",
        hint="Give a path inside the project; everything else is not copied to the run.",
    )


def _take_snapshot(planned: Plan, store: Any) -> Snapshot:
    from aml_jupyter.snapshot import Rules, Snapshot

    if planned.source_run:
        source = runs.read_record(planned.source_run)
        return Snapshot(
            id=source.snapshot_id, files=source.snapshot_files, bytes=source.snapshot_bytes, warnings=()
        )
    rules = planned.request.rules or Rules()
    notebook = planned.request.notebook
    if notebook and notebook not in rules.include:
        rules = rules.replace(leave_out=(*rules.leave_out, notebook))
    taken: Snapshot = store.take(planned.project.root, rules)
    return taken


def _write(planned: Plan) -> RunDirectory:
    """The whole run directory; it becomes a run with the rename of `run.json`, the last thing written."""
    from aml_jupyter.snapshot import Store

    request, project, home = planned.request, planned.project, aml_home()
    began = time.monotonic()
    store = Store(home + "/snapshots")
    snapshot = _take_snapshot(planned, store)
    spent = round(time.monotonic() - began, 6)
    directory = runs.create(home, project)
    try:
        _write_job(planned, directory, snapshot, home)
        share_warnings = _create_share(planned)
        record = _record(planned, directory, snapshot, snapshot_seconds=spent, share_warnings=share_warnings)
        if request.name or request.tags or request.message:
            runs.set_labels(directory, name=request.name, tags=request.tags, note=request.message)
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
    os.makedirs(directory.job, mode=0o700, exist_ok=True)
    installation.place(home, directory.job)
    command = planned.command
    if request.cell is not None:
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
        # what a person typed is kept nowhere else: it is there after a power cut, as the record is
        fd = os.open(directory.job + "/cell.py", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        runtime = demands.runtime_folder(planned.target.kind, directory.path)
        command = (command[0], runtime + "/run_cell.py", *command[1:])
    if planned.spark and planned.spark.properties:
        write_atomic(directory.job + "/spark.properties", planned.spark.properties)
    environment = dict(planned.configuration.environment_variables)
    if planned.share:
        from aml_jupyter.share import VARIABLE

        environment[VARIABLE] = planned.share.variable
    runs.write_json(
        directory.job + "/request.json",
        {
            "format": 1,
            "run_id": directory.run_id,
            "kind": planned.target.kind,
            "python": planned.python,
            "command": list(command),
            "cwd": os.path.normpath(
                os.path.join(demands.work_folder(planned.target.kind, directory.path), request.workdir or ".")
            ),
            "environment": environment,
            "timeout": request.timeout,
            "grace": 10.0,
            "log_limit": 1 << 30,
            "umask": umask(),
            "cell": request.cell is not None,
            "snapshots": home + "/snapshots",
            "snapshot_id": snapshot.id,
            "share": planned.share.path if planned.share else None,
            "spark": planned.spark.settings if planned.spark else None,
            "target": demands.of_target(planned.project, planned.target, request.resources),
            "resources": dict(request.resources),
            "dependencies": planned.dependencies,
        },
    )


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
    share_warnings: tuple[str, ...],
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
        warnings=(*planned.warnings, *snapshot.warnings, *share_warnings),
        phases={"snapshot": snapshot_seconds},
        parent_run_id=request.parent_run_id,
        experiment_id=request.experiment_id or project.name,
        supervisor={"executable": sys.executable, "sys_path": [p for p in sys.path if p]},
    )


def _git(planned: Plan, directory: RunDirectory) -> Mapping[str, Any] | None:
    """Where the checkout stands, and the hash of its uncommitted changes, which are kept as `git.diff`."""
    if planned.source_run:
        return runs.load_record(planned.source_run).git
    if not os.path.exists(planned.project.root + "/.git"):
        return None
    from aml_jupyter.snapshot import git_state

    state = git_state(planned.project.root)
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


def restore(directory: RunDirectory, into: str, *, force: bool = False) -> None:
    """Put the snapshot of a run into a folder, and its cell, when it had one, beside the snapshot's files.

    Raises SnapshotError for a folder that is not empty unless `force`, or a snapshot that is gone.
    """
    from aml_jupyter.snapshot import Store
    from aml_jupyter.snapshot import restore as restore_snapshot

    record = runs.load_record(directory)
    restore_snapshot(Store(aml_home() + "/snapshots"), record.snapshot_id, into, force=force)
    cell = directory.job + "/cell.py"
    if record.cell_sha256 and os.path.exists(cell):
        write_atomic(f"{into}/cell_{record.run_id}.py", read_bounded(cell, LARGEST_SCRIPT))


def resume(directory: RunDirectory, secrets: Mapping[str, str] | None = None) -> bool:
    """Give a run that nobody looks after a new supervisor; False when it has one, gets one or has ended."""
    record = runs.read_record(directory)
    if record.status != "NotResponding" or runs.supervised(directory):
        return False
    # the interpreter that the run was submitted with, while it is there
    python = str(record.supervisor.get("executable", ""))
    Starter(python if os.access(python, os.X_OK) else "").go(directory.path, secrets or {})
    return True


def cancel(directory: RunDirectory, *, kill: bool = False) -> None:
    """Ask a run to end; where nobody supervises it, a new supervisor carries the request out."""
    runs.request_cancel(directory, kill=kill)
    resume(directory)


def wait(
    directory: RunDirectory, timeout: float | None = None, secrets: Mapping[str, str] | None = None
) -> Record:
    """Block until a run has ended and return its record; continues a run whose supervisor died.

    `secrets` are what the submitter still holds, for a run that did not start before that.
    Raises RunFailed `run.wait_timeout` after `timeout` seconds, AmlError when no supervisor stays with it.
    """
    due = None if timeout is None else time.monotonic() + timeout
    lost = Lost(secrets)
    while True:
        try:
            if _await_supervisor(directory, due):
                record = runs.read_record(directory)
                if record.status in TERMINAL:
                    return record
                lost.resume(directory, record)
        except RunNotFound:
            rewritten(directory)
        if due is not None and time.monotonic() >= due:
            raise RunFailed(
                f"{directory.run_id} has not ended after {timeout:g} s",
                code="run.wait_timeout",
                run_id=directory.run_id,
                exit_code=124,
            )


def rewritten(directory: RunDirectory) -> Record:
    """The record of a run that was just there: where a script deletes it, its supervisor writes it anew.

    Raises RunNotFound when nobody did.
    """
    due = time.monotonic() + REWRITTEN
    while True:
        try:
            return runs.load_record(directory)
        except RunNotFound:
            if time.monotonic() > due:
                raise
        time.sleep(0.02)


class Lost:
    """Gives a run that lost its supervisor a new one, ever less often, and not for ever."""

    MOST = 5

    def __init__(self, secrets: Mapping[str, str] | None = None) -> None:
        self.secrets = secrets or {}
        self.times = 0
        self.due = 0.0

    def resume(self, directory: RunDirectory, record: Record) -> None:
        """Resume the run unless it is about to start, or it was done a moment ago.

        Raises AmlError `secret.needed` for a run that waits for a person, `supervisor.error` at the end.
        """
        if record.status != "NotResponding" or time.monotonic() < self.due:
            return
        if record.reason == "secret.needed" and not self.secrets.keys() >= set(record.environment_secret):
            error = record.error or {}
            raise AmlError(f"{record.run_id}: {error['message']}", code=record.reason, hint=error["hint"])
        if self.times >= self.MOST:
            raise AmlError(
                f"{record.run_id} has no supervisor, and none stays",
                code="supervisor.error",
                hint=f"aml logs {record.run_id} --control",
            )
        resume(directory, self.secrets)
        self.times += 1
        self.due = time.monotonic() + 0.5 * 2.0**self.times


def _await_supervisor(directory: RunDirectory, due: float | None) -> bool:
    """Sleep until the supervisor has gone, or for a second; True when it is gone."""
    seconds = 1.0 if due is None else max(0.0, min(1.0, due - time.monotonic()))
    who = runs.supervisor_identity(directory)
    if who is not None and processes.is_alive(who):
        processes.wait_end(who, seconds)
    elif runs.load_record(directory).status not in TERMINAL:
        time.sleep(min(seconds, 0.005))
    # the record first: asking who holds a lock takes longer than the run's bookkeeping
    return runs.load_record(directory).status in TERMINAL or not runs.supervised(directory)
