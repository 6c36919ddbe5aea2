"""Whether a run that is asked for has completed already, so that it need not be done again.

A wrong answer is worse than none: a run is reused only where all that is known of its making is equal, and
nothing is part of it that no record holds (values of `-e`, variables of the caller, the shared folder, an
environment that is to be made anew).
"""

from __future__ import annotations

import os
import re

from aml_jupyter import artifacts, demands, experiment, runs
from aml_jupyter.artifacts.store import check_key
from aml_jupyter.config import aml_home, registered
from aml_jupyter.errors import AmlError
from aml_jupyter.experiment.again import request_json, workdir_of
from aml_jupyter.experiment.writing import linked_by, take_snapshot
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Plan, Request
    from aml_jupyter.runs import Record, RunDirectory
    from aml_jupyter.snapshot import Snapshot

# runs of the same code that are looked at, newest first; bytes of a Python file that is searched
MOST, LARGEST_CODE = 100, 4 << 20
# where code reads variables, and which, where it says so
_ENVIRONMENT = re.compile(rb"\b(?:environb?|getenvb?)\b")
_NAMED = re.compile(
    rb"""\b(?:environ(?:\.get|\.setdefault|\.pop)?\s*[\[(]|getenv\s*\()\s*[rbu]?["']([A-Za-z_]\w*)["']"""
)
_OURS = (b"AML_", b"AZUREML_", b"MLFLOW_")
# options that ask for something new
ANEW = ("relock", "no_cache")
# of what a target is told: names and files do not change what a run does
_NAMES = ("name", "file", "image_id", "password", "private_key")


class Answer(Value):
    """The run that need not be done again, or None and why it has to be."""

    directory: RunDirectory | None
    why: str = ""


def look(request: Request, project: Project | None) -> Answer:
    """The newest completed run of the same snapshot, cell, parameters, arguments, inputs and environment.

    Raises what `experiment.plan` raises.
    """
    from aml_jupyter.snapshot import Store

    home = aml_home()
    planned = experiment.plan(request, project)
    if planned.repeats is None:
        planned = planned.replace(project=registered(planned.project))
    if why := _unknown(planned):
        return Answer(directory=None, why=why)
    snapshot = take_snapshot(planned, Store(home + "/snapshots"))
    if why := _reads_elsewhere(planned, snapshot, home):
        return Answer(directory=None, why=why)
    with runs.History(home) as history:
        candidates = history.completed(snapshot.id, planned.project.key)[:MOST]
    if not candidates:
        return Answer(directory=None, why="no run of this code has completed")
    wanted = _wanted(planned, snapshot, home)
    environment = _environment_now(planned)
    if environment is None:
        return Answer(directory=None, why="its environment is not made yet, or not known here")
    closest: list[str] = []
    for directory in candidates:
        others = _differences(directory, wanted, environment)
        if not others:
            return Answer(directory=directory)
        if not closest or len(others) < len(closest):
            closest, who = others, directory.run_id
    return Answer(directory=None, why=f"{who} had {' and '.join(closest[:3])}")


def _unknown(planned: Plan) -> str:
    """What keeps a run from being compared with any other; empty for nothing."""
    request = planned.request
    if names := sorted({**request.environment, **request.secrets}):
        return f"it is given {', '.join(names)}, and no record holds such values"
    resources = request.resources
    if any(resources.get(name) for name in ANEW) or resources.get("pull") == "always":
        return "it asks for a new environment"
    return ""


def _reads_elsewhere(planned: Plan, snapshot: Snapshot, home: str) -> str:
    """What the code seems to read that no record holds; empty for nothing."""
    from aml_jupyter.share import IN_CONTAINER, VARIABLE

    words = (VARIABLE.encode(), IN_CONTAINER.rstrip("/").encode())
    known = {name.encode() for name in planned.configuration.environment_variables}
    for text in _code(planned, snapshot, home):
        if planned.share is not None and any(word in text for word in words):
            return "its code uses the shared folder, which may hold something else now"
        # a container has the variables that it is given; a process of this computer has the caller's too
        if planned.target.kind not in demands.CONTAINERS and (name := _variable(text, known)):
            return f"its code reads {name} of the environment, which no record holds"
    return ""


def _code(planned: Plan, snapshot: Snapshot, home: str) -> Iterator[bytes]:
    from aml_jupyter.snapshot import Store

    store = Store(home + "/snapshots")
    if planned.request.cell is not None:
        yield planned.request.cell
    for entry in store.manifest(snapshot.id):
        if entry.kind == "file" and entry.path.endswith(".py") and entry.size <= LARGEST_CODE:
            yield store.read(snapshot.id, entry.path)


def _variable(text: bytes, known: set[bytes]) -> str:
    """A variable of the caller that code reads; any of them where the code does not say which."""
    uses = len(_ENVIRONMENT.findall(text))
    named = _NAMED.findall(text)
    if uses > len(named):
        return "variables"
    unknown = [name for name in named if name not in known and not name.startswith(_OURS)]
    return unknown[0].decode() if unknown else ""


def _wanted(planned: Plan, snapshot: Snapshot, home: str) -> dict[str, Any]:
    """All that a run is made of besides its snapshot and environment, in words that a person knows."""
    request = planned.request
    linked = linked_by(planned, snapshot, home)
    given = (*planned.given, *(linked.given if linked else ()))
    told = planned.demand or demands.of_target(planned.project, planned.target, request.resources)
    spark = planned.spark
    return {
        "another cell": _sha256(request.cell) if request.cell is not None else None,
        "another script or other arguments": list(planned.command[1:]),
        "other parameters": dict(request.params),
        "other values": _values(planned),
        "other inputs": sorted([one.link or one.name, one.kind, one.sha256] for one in given),
        "another working folder": os.path.normpath(request.workdir or "."),
        "another kind of target": planned.target.kind,
        "another target": _bare(told),
        "another framework": planned.framework,
        "other variables of its run configuration": dict(planned.configuration.environment_variables),
        "another shared folder": planned.share.path if planned.share else None,
        "other Spark settings": dict(spark.settings) if spark else None,
        "other resources": _asked_for(request.resources),
    }


def _had(directory: RunDirectory, record: Record, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a run that was."""
    from aml_jupyter.inputs import VARIABLE as INPUT
    from aml_jupyter.share import VARIABLE

    cell = bool(asked.get("cell"))
    variables = asked.get("environment") or {}
    return {
        "another cell": record.cell_sha256,
        "another script or other arguments": list(asked["command"][2 if cell else 1 :]),
        "other parameters": dict(record.params),
        "other values": asked.get("values", []),
        "other inputs": sorted(
            [one.get("link") or one.get("name"), one.get("kind"), one.get("sha256")] for one in record.inputs
        ),
        "another working folder": workdir_of(directory, record, asked),
        "another kind of target": record.kind,
        "another target": _bare(asked.get("target") or {}),
        "another framework": record.framework,
        "other variables of its run configuration": {
            name: value
            for name, value in variables.items()
            if name != VARIABLE and not name.startswith(INPUT)
        },
        "another shared folder": asked.get("share"),
        "other Spark settings": asked.get("spark"),
        "other resources": _asked_for(asked.get("resources") or {}),
    }


def _bare(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in _NAMES}


def _asked_for(resources: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resources.items() if value and name not in ("relock", "pull")}


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _values(planned: Plan) -> list[Any]:
    """The variables that travel into a cell, by their contents, and the names that it gives back."""
    request = planned.request
    if request.cell is None:
        return []
    if planned.repeats:
        return values_of(planned.repeats.job)
    import tempfile

    from aml_jupyter.cell import write_cell

    with tempfile.TemporaryDirectory() as folder:
        write_cell(folder, request.cell, request.inputs, request.outputs, {})
        return values_of(folder)


def values_of(job: str) -> list[Any]:
    """The same of the job of a run; raises ValueError for one that is not whole."""
    from aml_jupyter import plainjson
    from aml_jupyter.confined import read_bounded

    asked = plainjson.loads(read_bounded(job + "/cell.json", 16 << 20))
    sent = sorted([one["name"], one["encoding"], one["file"]] for one in asked["inputs"])
    return [sent, sorted(asked["outputs"])]


# ---- environment


def _environment_now(planned: Plan) -> dict[str, Any] | None:
    """What the run would run on, without making anything; None where that is not known."""
    if planned.target.kind in demands.CONTAINERS:
        return _image_now(planned)
    if planned.dependencies is not None:
        return _lock_now(planned.dependencies)
    from aml_jupyter.packages import record_environment

    found = record_environment(aml_home(), planned.python)
    return {name: found[name] for name in ("python", "version", "digest")}


def _lock_now(dependencies: Mapping[str, Any]) -> dict[str, Any] | None:
    import sys

    from aml_jupyter.environment.keeping import kept
    from aml_jupyter.environment.prefix import platform_here

    here = ".".join(map(str, sys.version_info[:3]))
    lock = kept(dependencies, platform=platform_here(), base_python=here)
    return {"lock": lock.digest} if lock else None


def _image_now(planned: Plan) -> dict[str, Any] | None:
    from aml_jupyter.executors.docker import environments, place_of
    from aml_jupyter.job import Job

    resources = planned.request.resources
    job = Job(
        run_id="",
        directory="",
        kind=planned.target.kind,
        python="",
        command=(),
        environment={},
        target=planned.demand or demands.of_target(planned.project, planned.target, resources),
        resources=resources,
        dependencies=planned.dependencies and {**planned.dependencies, "relock": False},
        spark=planned.spark.settings if planned.spark else None,
    )
    try:
        found = environments.known(place_of(job), job)
    except (AmlError, OSError):  # an engine that does not answer tells nothing; the run itself will say so
        return None
    return {name: found[name] for name in ("base", "image", "lock") if name in found} if found else None


def _differences(
    directory: RunDirectory, wanted: Mapping[str, Any], environment: Mapping[str, Any]
) -> list[str]:
    """What a run had that the one that is asked for has not; nothing when it stands for it."""
    try:
        record = runs.read_record(directory)
        asked = request_json(directory)
        if asked.get("cell"):
            asked["values"] = values_of(directory.job)
        had = _had(directory, record, asked)
    except (AmlError, ValueError, KeyError, TypeError, AttributeError):  # damaged, or half removed
        return ["a record that is not whole"]
    kept = record.status == "Completed" and record.artifacts_state not in ("failed", "partial")
    found = {
        "outputs that were not kept": not kept,
        "variables that no record holds": bool(record.environment_secret),
        **{name: had[name] != value for name, value in wanted.items()},
        "another environment": any(record.environment.get(name) != one for name, one in environment.items()),
    }
    different = [name for name, differs in found.items() if differs]
    return different or ([] if _has_outputs(directory) else ["outputs that are gone"])


def _has_outputs(directory: RunDirectory) -> bool:
    """Whether every artifact is here with the size that it had."""
    store = artifacts.store_of(directory)
    try:
        for item in artifacts.listing(directory):
            check_key(item.key)
            found = store.stat(item.key)
            if found is None or found.size != item.size:
                return False
    except AmlError:
        return False
    return True
