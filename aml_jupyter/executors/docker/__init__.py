"""Jobs in containers: one container a run, on the engine of this computer or of a machine reached by ssh.

engine      the calls that every run makes
images      images and environments, through the SDK
containers  what a container is made with
ahead       the container of a run, started while the run is written
warm        containers that wait for a run
users       a name for the user of a container
copying     the working copy into a container and out of it, where nothing is mounted
looking     the outputs of a run that goes on, where they are written
here, there where the engine is: this computer, or a machine behind ssh
login       what a supervisor needs to log in there
"""

from __future__ import annotations

import os
import time

from aml_jupyter import plainjson, processes
from aml_jupyter.confined import MissingFile, read_bounded, write_atomic
from aml_jupyter.errors import AmlError, ConfigError, ConfinedError, TargetUnavailable
from aml_jupyter.executors.docker import ahead, containers, warm
from aml_jupyter.executors.docker.engine import NO_SPACE, EngineRefused
from aml_jupyter.executors.docker.here import Here
from aml_jupyter.job import Alive, Gone, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.config import Target
    from aml_jupyter.executors import Take, Tell
    from aml_jupyter.executors.docker.place import Place
    from aml_jupyter.job import Handle, Job, Liveness

# from <signal.h>; the signal module itself imports enum
SIGTERM, SIGUSR1 = 15, 10
LARGEST = 1 << 20
# bytes of a cell
LARGEST_CELL = 64 << 20
# seconds: three heartbeats, and between two questions whether a container is still paused
SILENCE, PAUSED_LOOK = 6.0, 1.0


class DockerExecutor:
    """Runs each job in a container of its own."""

    def check(self, target: Target, resources: Mapping[str, Any]) -> None:
        """Raise ConfigError for what no engine could be asked for."""
        from aml_jupyter.config.images import problem

        name = resources.get("image") or target.base_docker_image
        if name and (why := problem(str(name))):
            raise ConfigError(
                f"{target.file or target.name}: baseDockerImage: {name!r} {why}", code="config.invalid"
            )
        if target.kind == "remotedocker" and not target.host:
            raise ConfigError(
                f"{target.file or target.name}: address is missing",
                hint="Write for example  address: gpu-box.example.org  and  username: me",
            )

    def python(self, _target: Target, /) -> str:
        """Empty: the interpreter is the image's, which is looked at when the run is prepared."""
        return ""

    def make_environment(self, job: Job, tell: Tell) -> dict[str, Any]:
        """The image of a job, made when it is not there.

        `image` its id, `python` the path in it, `version`, `packages` their number, `digest` of their list.
        Raises TargetUnavailable, ConfigError `image.missing`, AmlError of the environment.
        """
        from aml_jupyter.executors.docker.environments import image_for

        place = _place(job)
        try:
            return image_for(place, job, tell)
        except TargetUnavailable as error:
            raise place.explained(error) from error

    def prepare(self, job: Job, tell: Tell) -> None:
        """Make image, environment and working copy ready."""
        facts = self.make_environment(job, tell)
        if job.cell and not facts["ipython"]:
            _check_cell(job)
        write_atomic(_prepared(job), plainjson.dumps(facts).encode(), sync=False)
        place = _place(job)
        if not warm.expected(place, job, tell):
            place.lay_out(job, tell)

    def environment(self, job: Job) -> dict[str, Any]:
        """What the preparation found."""
        return _facts(job)

    def anticipate(self, job: Job) -> None:
        """Start the container while the job is written, where its image is there."""
        ahead.begin(_place(job), job)

    def forsake(self, job: Job) -> None:
        """Remove the container that was started ahead, and what was sent to another machine."""
        place = _place(job)
        if ahead.begun(job):
            ahead.forsake(place.engine(), job)
        if not place.local and os.path.exists(_prepared(job)):  # else nothing was sent
            place.remove(_place_of_job(place, job))

    def find(self, job: Job) -> Handle | None:
        """The handle of a container of this job that was started, or that needs nothing to be."""
        if not os.path.exists(_prepared(job)):
            return None  # nobody came as far as to start it
        place = _place(job)
        found = place.engine().container(warm.container_of(job.directory) or containers.container_name(job))
        if found is None:
            return self._without_container(place, job)
        stdin_pending = found["Config"].get("OpenStdin") and not place.has_started(job)
        if stdin_pending or found["State"]["Status"] == "created":
            return None  # start goes on where it was left
        return _handle(place, job, found)

    def _without_container(self, place: Place, job: Job) -> Handle | None:
        """A job whose container is gone has been started all the same."""
        if not place.has_started(job):
            return None
        return {**_place_of_job(place, job), "container": "", "process": None}

    def start(self, job: Job, secrets: Mapping[str, str]) -> Handle:
        """Create and start the container, or go on with the one there is."""
        place, facts = _place(job), _facts(job)
        waited = warm.start(place, job, facts, secrets)
        if waited is not None:
            state = {"Id": waited.container, "State": {"Pid": (waited.process or {}).get("pid")}}
            handle = _handle(place, job, state)
        elif ahead.begun(job) and (found := ahead.let_go(place, place.engine(), job, facts, secrets)):
            handle = _handle(place, job, found)
        else:
            if place.local:  # what was left to a container that waited
                place.lay_out(job, _ignore)
            handle = self._start(place, job, facts, secrets)
        warm.after_start(place, job, facts, handle["process"])
        return handle

    def _start(self, place: Place, job: Job, facts: Mapping[str, Any], secrets: Mapping[str, str]) -> Handle:
        engine = place.engine()
        name = containers.container_name(job)
        places = place.places(job)
        body = containers.body(job, places, facts, user=place.user(), stdin=bool(secrets))
        container = ""
        try:
            container = engine.create(name, body)
            if job.spark:
                from aml_jupyter.executors.docker import users

                users.make_known(engine, container, place.user())
            if places.work is None and not place.has_started(job):
                from aml_jupyter.executors.docker.copying import copy_in

                copy_in(engine, container, job, user=place.user())
            engine.start(container)
            if secrets and not place.has_started(job):
                engine.send(
                    container, containers.line(secrets), lambda: place.local and place.has_started(job)
                )
        except EngineRefused as error:
            if container:
                engine.remove(container)
            raise _not_started(error, job) from error
        except TargetUnavailable:
            raise  # nobody knows how far it came: whoever starts it again goes on from there
        except BaseException:
            if container:
                engine.remove(container)
            raise
        found = engine.container(container)
        if found is None:
            raise TargetUnavailable(
                f"the container {name} was removed while it started", code="engine.refused"
            )
        return _handle(place, job, found)

    def check_warm(self, job: Job) -> None:
        """Raise ConfigError `target.not_warmable` for a target for which no container can wait."""
        warm.check(_place(job), job)

    def keep_warm(self, job: Job, project: str, idle: float, tell: Tell) -> None:
        """Have a container wait for each next run of a project's target, the first one now.

        `project` is `account/workspace/name`; without a run a container leaves after `idle` seconds.
        Raises what `make_environment` raises.
        """
        warm.keep(_place(job), job, self.make_environment(job, tell), project, idle)

    def poll(self, handle: Handle, wait: float = 0.0) -> Liveness:
        """Alive while the container's first process lives, seen by the kernel where that is shared."""
        place = _place_of(handle)
        who = handle["process"]
        if who:
            processes.wait_end(who, wait)
            if processes.is_alive(who):
                return _alive(place, handle)
            if place.ended(handle):
                return Gone(evidence="the runtime has ended")
            return _evidence(place, handle)
        return place.look(handle, wait)

    def read(self, handle: Handle, name: str, position: int) -> bytes:
        """Up to 1 MiB of a file of `job/`; empty when it is not there or ends before `position`."""
        return _place_of(handle).read(handle, name, position)

    def mirror(self, handle: Handle, into: str) -> None:
        """Bring what is new of `job/` on another machine."""
        _place_of(handle).mirror(handle, into)

    def cancel(self, handle: Handle, *, kill: bool = False) -> None:
        """Signal the runtime; where it is gone and `kill` is asked, end the container."""
        who = handle["process"]
        sent = who and processes.send_signal(who, SIGUSR1 if kill else SIGTERM)
        if not handle["container"]:
            return
        engine = _place_of(handle).engine()
        try:
            engine.unpause(handle["container"])
        except TargetUnavailable:
            if not sent:
                raise
        if sent:
            return
        engine.kill(handle["container"], "SIGUSR1" if kill else "SIGTERM")

    def ended_by_target(self, handle: Handle) -> Gone | None:
        """Whether the engine ended the container because it was stopped itself."""
        from aml_jupyter.executors.docker.evidence import engine_ended_it

        place = _place_of(handle)
        return place.restarted(handle) or engine_ended_it(place.engine, handle)

    def outputs(self, handle: Handle, path: str, take: Take, *, content: bool) -> None:
        """Regular files at or below a path of the working copy as they are now; none where it is mounted."""
        place = _place_of(handle)
        try:
            place.outputs(handle, path, take, content=content)
        except TargetUnavailable as error:
            raise place.explained(error) from error

    def collect(self, handle: Handle, into: str) -> None:
        """Bring the working copy out of a container that mounts none."""
        _place_of(handle).collect(handle, into)

    def discard(self, handle: Handle) -> None:
        """Remove the container and what the job has at the engine's machine."""
        place = _place_of(handle)
        if handle["container"]:
            place.engine().remove(handle["container"])
        place.remove(handle)
        warm.discard(handle["job"])


def _check_cell(job: Job) -> None:
    """Refuse a cell with lines for IPython.  Raises CellError `cell.ipython`."""
    source = read_bounded(job.job + "/cell.py", LARGEST_CELL)
    # most cells have nothing that could be one, and reading Python takes as long as starting it
    if any(_may_be_magic(line) for line in source.splitlines()):
        from aml_jupyter.cell import refuse_magic

        refuse_magic(source.decode(errors="replace"))


def _may_be_magic(line: bytes) -> bool:
    bare = line.strip()
    if bare[:1] in (b"%", b"!", b"?") or bare.endswith(b"?"):
        return True
    return any(mark in bare.replace(b" ", b"") for mark in (b"=%", b"=!"))


def _ignore(_text: str) -> None:
    """Say nothing."""


def place_of(job: Job) -> Place:
    """Where the engine of a job is."""
    return _place(job)


def _place(job: Job) -> Place:
    if job.kind == "docker":
        return Here()
    from aml_jupyter.executors.docker.there import There

    return There.of(job.target)


def _place_of(handle: Handle) -> Place:
    if handle["kind"] == "docker":
        return Here(handle["socket"])
    from aml_jupyter.executors.docker.there import There

    return There.of(handle["target"])


def _place_of_job(place: Place, job: Job) -> Handle:
    return {
        "format": 1,
        "kind": job.kind,
        "run_id": job.run_id,
        "job": job.job,
        "shared": bool(job.target.get("shared_volumes")),
        "waited": bool(warm.mark_of(job.directory)),
        **place.handle(job),
    }


def _handle(place: Place, job: Job, found: Mapping[str, Any]) -> Handle:
    return {
        **_place_of_job(place, job),
        "container": found["Id"],
        "started_at": found["State"].get("StartedAt", ""),
        "process": place.process(found),
    }


def _prepared(job: Job) -> str:
    return job.directory + "/prepared.json"


def _facts(job: Job) -> dict[str, Any]:
    try:
        found = plainjson.loads(read_bounded(_prepared(job), LARGEST))
    except (MissingFile, ConfinedError, ValueError) as error:
        raise AmlError(
            f"{_prepared(job)} is not whole: what the run was prepared with is not known",
            code="run.lost",
        ) from error
    assert isinstance(found, dict)
    return found


def _not_started(error: EngineRefused, job: Job) -> AmlError:
    text = error.message
    if error.code == NO_SPACE:
        return error
    if "could not select device driver" in text or "nvidia" in text:
        hint = "The engine's machine has no GPU runtime for containers: run without --gpus and nvidiaDocker."
    elif "network" in text and "not found" in text:
        hint = "docker network ls lists the networks there are."
    else:
        hint = "aml targets test " + str(job.target.get("name")) + " looks for the cause."
    return ConfigError(text, code="container.refused", hint=hint)


def _alive(place: Place, handle: Handle) -> Liveness:
    """Alive, unless the container is paused: then nothing of it runs, and nobody can tell from outside."""
    try:
        silent = time.time() - os.stat(handle["job"] + "/heartbeat").st_mtime
    except FileNotFoundError:  # it has hardly begun
        return Alive()
    # a clock that was set costs a question
    if abs(silent) < SILENCE:
        return Alive()
    found = place.engine().container(handle["container"])
    if found is None or found["State"]["Status"] != "paused":
        return Alive()
    processes.wait_end(handle["process"], PAUSED_LOOK)
    return Unreachable(cause="container.paused")


def _evidence(place: Place, handle: Handle) -> Gone:
    """Why a container without an ending is gone, as far as its engine can tell."""
    from aml_jupyter.executors.docker.evidence import why_gone

    return why_gone(place.engine(), handle)
