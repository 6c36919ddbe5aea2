"""Whether a run that is asked for has completed already, so that it need not be done again.

A wrong answer is worse than none: a run is reused only where all that is known of its making is equal, and
nothing is part of it that no record tells (the shared folder, an environment that is to be made anew); values
of `-e` and variables of the caller are compared by keyed hashes.
"""

from __future__ import annotations

import os

from aml_jupyter import artifacts, demands, experiment, runs
from aml_jupyter.artifacts.store import check_key
from aml_jupyter.config import aml_home, registered
from aml_jupyter.errors import AmlError
from aml_jupyter.experiment.again import request_json, workdir_of
from aml_jupyter.experiment.reading import reads
from aml_jupyter.experiment.writing import linked_by, take_snapshot
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Plan, Request
    from aml_jupyter.runs import Record, RunDirectory
    from aml_jupyter.snapshot import Snapshot

# runs of the same code that are looked at, newest first
MOST = 100
OTHER_VARIABLES = "other variables of the caller, or none that were compared (it was not run with --needed)"
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
    if _asks_anew(planned):
        return Answer(directory=None, why="it asks for a new environment")
    snapshot = take_snapshot(planned, Store(home + "/snapshots"))
    read = reads(planned, snapshot.id, home)
    if read.why:
        return Answer(directory=None, why=read.why)
    with runs.History(home) as history:
        candidates = history.completed(snapshot.id, planned.project.key)[:MOST]
    if not candidates:
        return Answer(directory=None, why="no run of this code has completed")
    wanted = {**_wanted(planned, snapshot, home), OTHER_VARIABLES: dict(read.fingerprint)}
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


def _asks_anew(planned: Plan) -> bool:
    resources = planned.request.resources
    return any(resources.get(name) for name in ANEW) or resources.get("pull") == "always"


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
        "other variables of its run configuration": planned.configuration.variables,
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
        OTHER_VARIABLES: _fingerprint(record),
    }


def _fingerprint(record: Record) -> dict[str, Any] | None:
    """The keyed hashes of what no record holds; None for a run that was given more than it hashed."""
    found = dict(record.properties.get("needed") or {})
    return found if set(record.environment_secret) <= set(found) else None


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
