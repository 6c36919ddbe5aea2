"""Resolves a request against the configuration, before anything is copied, sent or started."""

from __future__ import annotations

import os

from aml_jupyter import demands, runs
from aml_jupyter.config import aml_home, find_project, registered
from aml_jupyter.confined import read_bounded
from aml_jupyter.errors import ConfigError, ConfinedError, UsageError
from aml_jupyter.executors import executor_for
from aml_jupyter.experiment.logins import passwords_for
from aml_jupyter.experiment.request import Plan
from aml_jupyter.job import Job
from aml_jupyter.validation import check_environment, check_params, check_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from aml_jupyter.config import Project, RunConfiguration, Target
    from aml_jupyter.executors import Executor
    from aml_jupyter.experiment.request import Request
    from aml_jupyter.lineage import Given
    from aml_jupyter.runs import RunDirectory
    from aml_jupyter.share import Share
    from aml_jupyter.spark import Session

# bytes of a script that are looked through before the run
LARGEST_SCRIPT = 4 << 20


def fetch_code(source: RunDirectory) -> None:
    """Have here what a run was made of, where only its store has it.  Raises ArtifactError."""
    if os.path.exists(source.path + "/remote.json"):
        from aml_jupyter import syncing

        syncing.complete(source)
        syncing.need_snapshot(source)
        syncing.need_lock(source)


def plan(request: Request, project: Project | None = None) -> Plan:
    """Resolve a request against the configuration; nothing is copied, sent or started.

    Raises ConfigError, TargetUnavailable, UsageError or CellError.
    """
    if request.rerun_of:
        from aml_jupyter.experiment.again import plan_again

        return plan_again(request)
    project = project or find_project()
    source = runs.find(request.from_run, aml_home(), project) if request.from_run else None
    if source:
        fetch_code(source)
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
    if source and wanted is None and demands.manages_environment(target):
        _check_no_environment(source, configuration, project)
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
        given=given_to(request, project),
    )


def given_to(request: Request, project: Project) -> tuple[Given, ...]:
    """The files of earlier runs that a request names.  Raises what `lineage.resolve` raises."""
    if not request.given:
        return ()
    from aml_jupyter import lineage

    return lineage.resolve(request.given, aml_home(), project)


def _check_no_environment(source: RunDirectory, configuration: RunConfiguration, project: Project) -> None:
    """Refuse code that has a dependency file where the project, from which that is read, has none.

    The snapshot's own copy is not used: credentials are missing in it.  Raises ConfigError.
    """
    from aml_jupyter.snapshot import Store

    record = runs.read_record(source)
    path = configuration.conda_dependencies_file.replace("\\", "/").removeprefix("./")
    if os.path.lexists(f"{project.root}/{path}"):  # it asks for nothing
        return
    if any(one.path == path for one in Store(aml_home() + "/snapshots").manifest(record.snapshot_id)):
        raise ConfigError(
            f"the code of {record.run_id} has {path}, which the project {project.root} no longer has:"
            " its environment cannot be made",
            code="environment.file_gone",
            hint=f"Put it back (aml restore {record.run_id} has it, without credentials), or an empty file to"
            " run in the image as it is.",
        )


def prepare(request: Request, project: Project, tell: Callable[[str], None]) -> dict[str, Any]:
    """Make the environment of a target ready without a run; what it is, as `Executor.environment` says.

    Raises ConfigError, TargetUnavailable, EnvironmentFailed.
    """
    executor, job = _job_of_target(request, project)
    passwords_for(project, project.resolve(request.target, request.compute)[1])
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
