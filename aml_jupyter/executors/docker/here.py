"""The engine of this computer: containers see the run directory itself, through bind mounts."""

from __future__ import annotations

import os

from aml_jupyter import processes, working_copy
from aml_jupyter.config import aml_home
from aml_jupyter.confined import Root, make_root, read_bounded, remove_tree, write_atomic
from aml_jupyter.errors import TargetUnavailable
from aml_jupyter.executors.docker import ahead
from aml_jupyter.executors.docker.containers import Places
from aml_jupyter.executors.docker.engine import Engine, EngineRefused, local_socket
from aml_jupyter.job import Alive, Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.executors import Take, Tell
    from aml_jupyter.job import Handle, Job, Liveness

READ_SIZE = 1 << 20
# of HTTP
GONE = 404


class Here:
    """This computer as the place of an engine."""

    local = True

    def __init__(self, socket: str | None = None) -> None:
        self._socket = socket

    def engine(self) -> Engine:
        """The engine.  Raises ConfigError for a DOCKER_HOST that is no socket."""
        return Engine(self._socket or local_socket())

    def handle(self, _job: Job) -> dict[str, Any]:
        """What finds this place again."""
        return {"socket": self.engine().path}

    def process(self, found: Mapping[str, Any]) -> dict[str, Any] | None:
        """Who a container's first process is to this kernel; None where the engine has one of its own."""
        pid = found["State"].get("Pid")
        if not pid:
            return None
        try:
            with open(f"/proc/{pid}/cgroup", "rb") as file:
                groups = file.read()
        except OSError:  # it has ended, or this is no Linux
            return None
        return processes.identity(pid) if str(found["Id"]).encode() in groups else None

    def user(self) -> str:
        """`uid:gid` that a container runs as so that its files belong to the caller."""
        # the root of a rootless engine's containers is the caller
        return "0:0" if self._rootless() else f"{os.getuid()}:{os.getgid()}"

    def _rootless(self) -> bool:
        if os.getuid() == 0:
            return False
        engine = self.engine()
        found = os.stat(engine.path)
        remembered = f"{aml_home()}/cache/engines/{found.st_dev:x}-{found.st_ino:x}-{found.st_ctime_ns:x}"
        try:
            return read_bounded(remembered, 64) == b"rootless"
        except FileNotFoundError:
            rootless = "name=rootless" in (engine.info().get("SecurityOptions") or [])
        make_root(os.path.dirname(remembered))
        write_atomic(remembered, b"rootless" if rootless else b"rootful", sync=False)
        return rootless

    def lay_out(self, job: Job, _tell: Tell, /) -> None:
        """Make the working copy where the container is to see it."""
        if job.target.get("shared_volumes"):
            folder = ahead.folder(job)
            if folder and not os.listdir(folder):
                working_copy.fill(job, folder)
                return
            if folder:  # of a supervisor that was killed: nobody knows how far it came
                remove_tree(folder)
            working_copy.make(job)

    def places(self, job: Job) -> Places:
        """Where the parts of a job lie."""
        shared = bool(job.target.get("shared_volumes"))
        return Places(
            job=os.path.realpath(job.job),
            runtime=os.path.realpath(job.job + "/runtime"),
            work=os.path.realpath(job.work) if shared else None,
            share=os.path.realpath(job.share) if shared and job.share else None,
        )

    def read(self, handle: Handle, name: str, position: int) -> bytes:
        """Up to 1 MiB of a file of `job/`; empty when it is not there or ends before `position`."""
        try:
            with Root(handle["job"]) as root:
                fd = root.open_file(name)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(fd, READ_SIZE, position)
        finally:
            os.close(fd)

    def mirror(self, handle: Handle, into: str) -> None:
        """Nothing to bring: the container writes into the run directory."""

    def restarted(self, _handle: Handle, /) -> None:
        """This computer was not restarted under the process that asks."""

    def explained(self, error: TargetUnavailable) -> TargetUnavailable:
        """An error of the engine says all there is to say of one on this computer."""
        return error

    def ended(self, handle: Handle) -> bool:
        """Whether the runtime has written the ending."""
        return os.path.exists(handle["job"] + "/exit.json")

    def has_started(self, job: Job) -> bool:
        """Whether a runtime has taken the job."""
        return os.path.exists(job.job + "/started.json")

    def look(self, handle: Handle, wait: float) -> Liveness:
        """Ask the engine, where the kernel cannot be asked."""
        if self.ended(handle):
            return Gone(evidence="the runtime has ended")
        engine = self.engine()
        found = engine.container(handle["container"]) if handle["container"] else None
        if found is not None and found["State"]["Status"] in ("running", "paused", "restarting"):
            engine.wait(handle["container"], wait)
            return Alive()
        if self.ended(handle):
            return Gone(evidence="the runtime has ended")
        from aml_jupyter.executors.docker.evidence import why_gone

        return why_gone(engine, handle)

    def outputs(self, handle: Handle, path: str, take: Take, *, content: bool) -> None:
        """Regular files at or below a path of a working copy that is not mounted."""
        if not handle["shared"]:
            from aml_jupyter.executors.docker.looking import in_container

            in_container(self.engine(), handle["container"], path, take, content=content)

    def collect(self, handle: Handle, into: str) -> None:
        """Bring the working copy out of a container that does not mount it."""
        if not handle["shared"] and handle["container"]:
            from aml_jupyter.executors.docker.copying import copy_out

            try:
                copy_out(self.engine(), handle["container"], into)
            except EngineRefused as error:
                if error.status != GONE:
                    raise
                raise TargetUnavailable(
                    "the container was removed, and with it what the run wrote", code="run.lost"
                ) from error

    def remove(self, handle: Handle) -> None:
        """Nothing to remove beside the container."""
