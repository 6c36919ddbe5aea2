"""The container of a run, started while the run is still being written.

What takes long is the engine's part: namespaces, network, the first process.  None of it depends on the
snapshot, so it begins as soon as the run has a name.  The container has everything that the run's own has,
and waits for a line on its standard input; `ahead.json` in the run directory says what it was made with.
Where that is not what the run turns out to need, it is removed and another one is made.
"""

from __future__ import annotations

import os
import time

from aml_jupyter import plainjson
from aml_jupyter.confined import read_bounded, remove_tree, write_atomic
from aml_jupyter.errors import ConfinedError
from aml_jupyter.executors.docker import containers, warm
from aml_jupyter.executors.docker.containers import Places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.executors.docker.engine import Engine, Line
    from aml_jupyter.executors.docker.place import Place
    from aml_jupyter.job import Job

FORMAT = 1
# seconds that a container waits for its run to be written
WAIT = 60.0
LARGEST = 1 << 20
# in a run directory: what was begun, and the empty folder that becomes the working copy
MARKER, FOLDER = "/ahead.json", "/ahead"
# what this process began, by the name of the container: the connection on which its start goes on
_begun: dict[str, Line] = {}


def begin(place: Place, job: Job) -> None:
    """Start the container of a job that has no snapshot yet, where all that it takes is known and there.

    Raises TargetUnavailable, EngineRefused; whoever starts the job meets the same.
    """
    if not place.local or not job.target.get("shared_volumes") or job.spark or warm.waits(job):
        return
    from aml_jupyter.executors.docker.environments import known

    facts = known(place, job)
    if facts is None or (job.share and not os.path.isdir(job.share)):
        return
    os.mkdir(job.directory + FOLDER, 0o700)
    planned = place.places(job)
    work = os.path.realpath(job.directory + FOLDER)
    places = Places(job=planned.job, runtime=planned.runtime, work=work, share=planned.share)
    body = containers.body(job, places, facts, user=place.user(), stdin=True)
    body["Cmd"] = [*body["Cmd"], str(WAIT)]
    marker = {"format": FORMAT, "facts": facts, "work": os.stat(work).st_ino}
    write_atomic(job.directory + MARKER, plainjson.dumps(marker).encode(), sync=False)
    engine = place.engine()
    name = containers.container_name(job)
    _begun[name] = engine.begin_start(engine.create(name, body))


def folder(job: Job) -> str | None:
    """The folder that a container which was started ahead mounts as its working copy; empty until filled."""
    path = job.directory + FOLDER
    return path if os.path.isdir(path) else None


def begun(job: Job) -> bool:
    """Whether a container may be there that was started ahead."""
    # the marker goes with the run directory of a submit that was refused
    return containers.container_name(job) in _begun or os.path.exists(job.directory + MARKER)


def let_go(
    place: Place, engine: Engine, job: Job, facts: Mapping[str, Any], secrets: Mapping[str, str]
) -> Mapping[str, Any] | None:
    """Start a prepared job in the container that was started ahead; None when another one is due."""
    from aml_jupyter.executors.docker.engine import EngineRefused

    try:
        found = _running(engine, job) if _fits(job, facts) else None
        if found is not None:
            if not os.path.isdir(job.work):  # only now that it is mounted may it be moved
                os.rename(job.directory + FOLDER, job.work)
            if not place.has_started(job):
                engine.send(found["Id"], containers.line(secrets), lambda: place.has_started(job))
            if _claimed(place, engine, job, found["Id"]):
                return found
    except EngineRefused:  # what it has against this one it will say of the other
        pass
    forsake(engine, job)
    return None


def _running(engine: Engine, job: Job) -> Mapping[str, Any] | None:
    name = containers.container_name(job)
    found = engine.container(name)  # answers when the start that goes on has ended
    _let_be(name)
    if found is not None and found["State"]["Status"] == "created":
        engine.start(name)
        found = engine.container(name)
    return found if found is not None and found["State"]["Running"] else None


def _let_be(name: str) -> None:
    """Close the connection of a start that has ended, or that nobody waits for."""
    if line := _begun.pop(name, None):
        line.close()


def _fits(job: Job, facts: Mapping[str, Any]) -> bool:
    try:
        marker = plainjson.loads(read_bounded(job.directory + MARKER, LARGEST))
        work = os.stat(job.work if os.path.isdir(job.work) else job.directory + FOLDER).st_ino
    except (ConfinedError, OSError, ValueError):
        return False
    return bool(marker == {"format": FORMAT, "facts": dict(facts), "work": work})


def forsake(engine: Engine, job: Job) -> None:
    """Remove the container that was started ahead of a job; only then may another one be made."""
    name = containers.container_name(job)
    engine.remove(name)
    _let_be(name)
    if folder(job):
        remove_tree(job.directory + FOLDER)
    try:
        os.unlink(job.directory + MARKER)
    except FileNotFoundError:
        pass


def _claimed(place: Place, engine: Engine, job: Job, container: str) -> bool:
    """Wait until the runtime of a container that was told to go has the job; False when it has ended."""
    due = time.monotonic() + warm.CLAIMED
    while not place.has_started(job) and time.monotonic() < due:
        found = engine.container(container)
        if found is None or not found["State"]["Running"]:
            break
        time.sleep(0.02)
    return place.has_started(job)
