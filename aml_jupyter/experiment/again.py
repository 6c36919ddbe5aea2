"""Plans a run that repeats another one: from what that run was asked for, not from the project as it is now.

The snapshot, the cell with the values that were sent to it, the command and what the target was told all lie
in the run directory, so that the project may have changed or be gone.  With another target the configuration
is that of the snapshot, failing that the project's.
"""

from __future__ import annotations

import os
from shlex import quote

from aml_jupyter import demands, lineage, plainjson, runs
from aml_jupyter.config import SHARE_BASE, Project, RunConfiguration, Target, aml_home, find_project
from aml_jupyter.confined import Root, make_root, read_bounded, write_atomic
from aml_jupyter.errors import (
    AmlError,
    ConfigError,
    ConfinedError,
    HistoryError,
    TargetUnavailable,
    UsageError,
)
from aml_jupyter.executors import executor_for
from aml_jupyter.experiment import planning
from aml_jupyter.experiment.request import Plan
from aml_jupyter.queueing import SWEEP
from aml_jupyter.validation import check_environment, check_params, check_words, problem_of_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from aml_jupyter.experiment.request import Request
    from aml_jupyter.runs import Record, RunDirectory
    from aml_jupyter.share import Share
    from aml_jupyter.spark import Session

LARGEST = 16 << 20
LARGEST_CELL = 4 << 20
# of a snapshot: where its configuration is, and the most that one file of it may have
_CONFIGURATION = ("aml_config/", ".azureml/")
_LARGEST_FILE = 1 << 20
INPUT_VARIABLE = "AML_INPUT_"


def plan_again(request: Request) -> Plan:
    """Resolve a request that repeats a run.

    Raises RunNotFound, HistoryError `rerun.impossible` for a run whose request is damaged or gone,
    SnapshotError when its code is gone, UsageError `secret.needed` for variables that are kept nowhere, and
    what `plan` raises.
    """
    source, record, asked = _source(request)
    _require_secrets(request, record)
    request = _as_it_was(request, source, record, asked)
    check_environment({**request.environment, **request.secrets})
    check_params(request.params)
    project = project_of(record)
    if request.compute is None and "origin" in record.properties:
        # its target is that of the snapshot, by its name: interpreter, share and addresses are those of here
        request = request.replace(compute=record.target)
    # a target that is named is looked up, its own name too: that is how one gets another interpreter
    if request.compute is not None:
        planned = _elsewhere(request, source, record, asked, project)
    else:
        planned = _at_its_target(request, source, record, asked, project)
    check_words(planned.command)
    return planned


def project_of(record: Record) -> Project:
    """The project of a run by the names that the run has, whether its folder is there or not."""
    return Project(
        root=record.project_root, account=record.account, workspace=record.workspace, name=record.project
    )


def request_json(directory: RunDirectory) -> dict[str, Any]:
    """What a run was asked for.  Raises HistoryError `rerun.impossible`."""
    path = directory.job + "/request.json"
    try:
        found: dict[str, Any] = plainjson.loads(read_bounded(path, LARGEST))
        why = problem_of_request(found)
        if not why:
            return found
    except (ConfinedError, ValueError, RecursionError) as error:
        why = str(getattr(error, "message", error))
    raise HistoryError(
        f"what {directory.run_id} was asked for is not known any more: {why}",
        code="rerun.impossible",
        hint=f"Its code is kept: aml run TARGET SCRIPT --from-run {directory.run_id}",
    )


def _source(request: Request) -> tuple[RunDirectory, Record, dict[str, Any]]:
    from aml_jupyter.snapshot import Store

    try:
        here = find_project()
    except (FileNotFoundError, ConfigError):  # runs of a folder that is gone can be repeated all the same
        here = None
    source = runs.find(str(request.rerun_of), aml_home(), here)
    planning.fetch_code(source)
    record = runs.read_record(source)
    if "origin" in record.properties:  # paths of another machine mean nothing here
        record = record.replace(project_root=here.root if here else aml_home())
    if record.kind == SWEEP:
        raise UsageError(
            f"{record.run_id} is a sweep, which is repeated trial by trial",
            code="rerun.impossible",
            hint=f"aml show {record.run_id} lists its trials: aml rerun TRIAL",
        )
    asked = request_json(source)
    Store(aml_home() + "/snapshots").manifest(record.snapshot_id)
    return source, record, asked


def _require_secrets(request: Request, record: Record) -> None:
    given = {**request.environment, **request.secrets}
    missing = [name for name in record.environment_secret if name not in given]
    if missing:
        options = " ".join(f"-e {quote(name)}" for name in missing)
        raise UsageError(
            f"{record.run_id} was given {', '.join(missing)}, whose values are kept nowhere",
            code="secret.needed",
            hint=f"aml rerun {record.run_id} {options}   (-e NAME=VALUE where this shell has no such value)",
        )


def _as_it_was(request: Request, source: RunDirectory, record: Record, asked: Mapping[str, Any]) -> Request:
    """The request with everything that it leaves to the run that it repeats."""
    cell = None
    if asked.get("cell"):
        cell = read_bounded(source.job + "/cell.py", LARGEST_CELL)
    given = {
        str(one["name"]): given_reference(one) for one in lineage.made_from(record) if not one.get("link")
    }
    hidden = {
        name: text for name, text in request.environment.items() if name in (asked.get("secrets") or ())
    }
    return request.replace(
        rerun_of=record.run_id,
        secrets={**hidden, **request.secrets},
        target=record.run_configuration or record.target,
        cell=cell,
        script=None if cell is not None else record.script_name,
        arguments=request.arguments or record.arguments,
        params={**record.params, **request.params},
        timeout=request.timeout if request.timeout is not None else asked.get("timeout"),
        workdir=workdir_of(source, record, asked),
        notebook=record.notebook,
        cell_id=request.cell_id or record.cell_id,
        resources={**(asked.get("resources") or {}), **request.resources},
        given={**given, **request.given},
    )


def given_reference(one: Mapping[str, Any]) -> str:
    """What a person would type for an input of a record."""
    return f"{one.get('run_id')}:{one.get('path')}"


def workdir_of(source: RunDirectory, record: Record, asked: Mapping[str, Any]) -> str:
    """The folder in the copy that the run started in."""
    cwd = str(asked.get("cwd") or "")
    top = demands.work_folder(record.kind, source.path)
    if record.kind not in demands.CONTAINERS and not cwd.startswith(top):
        # it was submitted below another AML_HOME
        before, found, after = cwd.rpartition(f"/{record.run_id}/work")
        top = before + found if found and after[:1] in ("", "/") else cwd
    inside = os.path.relpath(cwd, top) if cwd else "."
    return "." if inside.startswith("..") else inside


# ---- at the same target


def _at_its_target(
    request: Request, source: RunDirectory, record: Record, asked: Mapping[str, Any], project: Project
) -> Plan:
    demand = dict(asked.get("target") or {})
    target = _target(record, demand)
    executor_for(target.kind).check(target, request.resources)
    if image := record.environment.get("base") or record.environment.get("image"):
        # a name may mean another image by now
        demand["image_id"] = image
    python = str(asked.get("python") or "")
    if target.kind == "local" and python and not os.access(python, os.X_OK):
        raise TargetUnavailable(
            f"the interpreter of {record.run_id}, {python}, is not there any more",
            code="target.python_missing",
            hint="Run it with the one that the target has now:"
            f" aml rerun {record.run_id} -t {quote(record.target)}",
        )
    environment = _variables(asked)
    configuration = RunConfiguration(
        name=record.run_configuration,
        target=record.target,
        environment_variables=environment,
        framework=record.framework,
    )
    warnings = list(request.warnings)
    return Plan(
        request=request,
        project=project,
        configuration=configuration,
        target=target,
        python=python,
        framework=record.framework or "Python",
        command=_command(request, record, python),
        share=_share(record, asked, project, target),
        warnings=tuple(warnings),
        spark=_spark(record, asked, target, python, warnings),
        dependencies=_pinned(asked.get("dependencies"), record, request, strict=True),
        source_run=source,
        repeats=source,
        demand=demand,
        given=planning.given_to(request, project),
    )


def _target(record: Record, demand: Mapping[str, Any]) -> Target:
    """The target as its executor was told of it, with the password that the project still has."""
    address = demand.get("address")
    if address and demand.get("port"):
        bare = f"[{address}]" if ":" in str(address) else address
        address = f"{bare}:{demand['port']}"
    target = Target(
        name=record.target,
        kind=record.kind,
        type_text=record.kind,
        base_docker_image=demand.get("image"),
        shared_volumes=bool(demand.get("shared_volumes")),
        nvidia_docker=bool(demand.get("gpu")),
        address=address,
        username=demand.get("username"),
        private_key=demand.get("private_key"),
        docker_host=demand.get("engine"),
        file=demand.get("file"),
    )
    if not demand.get("password"):
        return target
    try:
        now = find_project(record.project_root).target(record.target)
    except (ConfigError, OSError):  # the keyring or a person may have it
        return target
    same = (now.host, now.username) == (target.host, target.username)
    return target.replace(password=now.password) if same else target


def _variables(asked: Mapping[str, Any]) -> dict[str, str]:
    """The variables of the run configuration: those that the submit adds are added again."""
    from aml_jupyter.share import VARIABLE

    return {
        str(name): str(value)
        for name, value in (asked.get("environment") or {}).items()
        if name != VARIABLE and not name.startswith(INPUT_VARIABLE)
    }


def _share(record: Record, asked: Mapping[str, Any], project: Project, target: Target) -> Share | None:
    from aml_jupyter.share import VARIABLE, Share, resolve

    path, variable = asked.get("share"), (asked.get("environment") or {}).get(VARIABLE)
    if not path or not variable:
        return None
    if record.properties.get("origin"):
        # a folder of somebody else's machine: here it is where shares are, whatever the request names
        return resolve(project, target.replace(native_shared_directory=SHARE_BASE))
    key = f"{record.account}/{record.workspace}/{record.project}"
    return Share(
        path=str(path),
        variable=str(variable),
        local=record.kind in ("local", "docker"),
        base=str(path).rstrip("/").removesuffix(key),
        key=key,
    )


def _spark(
    record: Record, asked: Mapping[str, Any], target: Target, python: str, warnings: list[str]
) -> Session | None:
    """The Spark session as it was; private settings are kept by the snapshot alone."""
    settings = asked.get("spark")
    if not isinstance(settings, dict):
        return None
    from aml_jupyter import spark

    if not settings.get("private"):
        return spark.Session(settings=settings)
    project = project_of(record).replace(root=configuration_of(record))
    configuration = RunConfiguration(name=record.run_configuration, target=record.target)
    if record.run_configuration in project.run_configurations():
        configuration = project.run_configuration(record.run_configuration)
    found = spark.session(
        spark.Asked(
            project=project, configuration=configuration, target=target, python=python, variables=os.environ
        ),
        warnings,
    )
    return spark.Session(settings=settings, properties=found.properties)


def _command(request: Request, record: Record, python: str) -> tuple[str, ...]:
    """The command below the interpreter, with the parameters of this run behind a script's arguments."""
    if request.cell is not None:
        return (python, *request.arguments)
    before = _param_words(record.params)
    words = tuple(request.arguments)
    if before and words[-len(before) :] == before:
        words = words[: -len(before)]
    return (python, str(request.script), *words, *_param_words(request.params))


def _param_words(params: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"--{name}={value}" for name, value in params.items())


def _pinned(
    dependencies: Mapping[str, Any] | None, record: Record, request: Request, *, strict: bool
) -> dict[str, Any] | None:
    """What is asked of an environment, with the lock that the run had."""
    if dependencies is None:
        return None
    again = bool(request.resources.get("relock"))
    found = {**dependencies, "relock": again}
    lock = str(record.environment.get("lock") or "")
    if not lock or again:
        return found
    return {**found, "prepare": True, "lock": lock, "lock_strict": strict}


# ---- at another one


def _elsewhere(
    request: Request, source: RunDirectory, record: Record, asked: Mapping[str, Any], project: Project
) -> Plan:
    name = str(request.compute)
    words = request.arguments
    before = _param_words(record.params)
    if request.cell is None and before and words[-len(before) :] == before:
        words = words[: -len(before)]
    # limits of the engine it ran on say nothing of another target
    request = request.replace(
        from_run=record.run_id, rerun_of=None, compute=None, target=name, arguments=words, resources={}
    )
    last: AmlError | None = None
    configuration = _configuration_then(record, asked)
    for root in _configurations(record):
        then = _Then(**{**project.as_dict(), "root": root, "configuration": configuration})
        try:
            planned = planning.plan(request, then)
            break
        except ConfigError as error:
            if error.code != "target.unknown":
                raise
            last = last or error
    else:
        assert last is not None
        raise last
    wanted = planned.dependencies
    if wanted is not None and asked.get("dependencies"):
        kept = {**asked["dependencies"], "prepare": wanted["prepare"]}
        wanted = _pinned(kept, record, request, strict=False)
    return planned.replace(
        request=planned.request.replace(rerun_of=record.run_id, from_run=None),
        project=project,
        dependencies=wanted,
        repeats=source,
    )


class _Then(Project):
    """A project in which every target is run with the run configuration that a run had."""

    configuration: RunConfiguration | None = None

    def resolve(self, name: str, compute: str | None = None) -> tuple[RunConfiguration, Target]:
        """The run configuration of the run and the target that TARGET means."""
        _, target = super().resolve(name, compute)
        assert self.configuration is not None
        return self.configuration.replace(target=target.name), target


def _configuration_then(record: Record, asked: Mapping[str, Any]) -> RunConfiguration:
    """The run configuration of a run as far as it does not depend on the target."""
    found = RunConfiguration(
        name=record.run_configuration,
        target=record.target,
        environment_variables=_variables(asked),
        framework=record.framework,
    )
    kept = project_of(record).replace(root=configuration_of(record))
    try:
        written = kept.run_configuration(record.run_configuration)
    except ConfigError:  # there was none, or it was left out of the snapshot
        return found
    return found.replace(
        conda_dependencies_file=written.conda_dependencies_file,
        spark_dependencies_file=written.spark_dependencies_file,
    )


def _configurations(record: Record) -> Sequence[str]:
    """Folders with configurations: the snapshot's, then the project's as it is now."""
    found = [configuration_of(record)]
    if os.path.isdir(record.project_root):
        found.append(record.project_root)
    return found


def configuration_of(record: Record) -> str:
    """A folder that holds the configuration files of a run's snapshot and nothing else; kept as a cache."""
    from aml_jupyter.snapshot import Store

    folder = f"{aml_home()}/cache/configurations/{record.snapshot_id}"
    store = Store(aml_home() + "/snapshots")
    make_root(folder)
    with Root(folder) as root:
        for entry in store.manifest(record.snapshot_id):
            if entry.kind != "file" or entry.size > _LARGEST_FILE or root.exists(entry.path):
                continue
            if entry.path.startswith(_CONFIGURATION):
                root.make_dirs(entry.path.rpartition("/")[0])
                root.replace_file(entry.path, store.read(record.snapshot_id, entry.path))
    return folder


# ---- what the run is given


def repeat_cell(source: RunDirectory, job: str, params: Mapping[str, object]) -> None:
    """Copy the cell of a run into the job folder of another one, with the values that were sent to it.

    Raises HistoryError `rerun.impossible` where a value is not there any more.
    """
    import json

    try:
        with Root(source.job) as old, Root(job) as new:
            asked = plainjson.loads(old.read_bytes("cell.json", LARGEST))
            for one in asked["inputs"]:
                name = f"inputs/{one['file']}"
                if not new.exists(name):
                    new.replace_file(name, old.read_bytes(name))
            asked["params"] = {**asked.get("params", {}), **params}
            write_atomic(job + "/cell.json", json.dumps(asked).encode("ascii"))
            write_atomic(job + "/cell.py", old.read_bytes("cell.py", LARGEST_CELL))
    except (ConfinedError, ValueError, KeyError, TypeError) as error:
        raise HistoryError(
            f"a value that was sent to the cell of {source.run_id} is not there any more: {error}",
            code="rerun.impossible",
            hint=f"Its code is kept: aml restore {source.run_id} DIR",
        ) from error
