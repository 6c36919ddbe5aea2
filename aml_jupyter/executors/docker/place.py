"""Where an engine is: what differs between this computer and a machine reached by ssh."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol

    from aml_jupyter.errors import TargetUnavailable
    from aml_jupyter.executors import Take, Tell
    from aml_jupyter.executors.docker.containers import Places
    from aml_jupyter.executors.docker.engine import Engine
    from aml_jupyter.job import Gone, Handle, Job, Liveness

    class Place(Protocol):
        """The machine of an engine; constructors do no I/O."""

        @property
        def local(self) -> bool:
            """Whether containers can mount folders of this computer."""

        def engine(self) -> Engine:
            """The engine.  Raises TargetUnavailable."""

        def explained(self, error: TargetUnavailable) -> TargetUnavailable:
            """An error of the engine with its cause, as far as it can be found out."""

        def restarted(self, handle: Handle, /) -> Gone | None:
            """Whether the machine was restarted since the job began."""

        def handle(self, job: Job) -> dict[str, Any]:
            """Keys of a handle that find this place, and the job's files on it, again."""

        def user(self) -> str:
            """`uid:gid` that a container runs as so that its files belong to the caller."""

        def lay_out(self, job: Job, tell: Tell, /) -> None:
            """Bring job and working copy to where the container is to see them."""

        def places(self, job: Job) -> Places:
            """Where the parts of a job lie."""

        def has_started(self, job: Job) -> bool:
            """Whether a runtime has taken the job."""

        def process(self, found: Mapping[str, Any]) -> dict[str, Any] | None:
            """Who a container's first process is for the kernel of this computer; None on another one."""

        def ended(self, handle: Handle) -> bool:
            """Whether the runtime has written the ending."""

        def look(self, handle: Handle, wait: float) -> Liveness:
            """Whether the job exists, where this kernel cannot be asked."""

        def read(self, handle: Handle, name: str, position: int) -> bytes:
            """Up to 1 MiB of a file of `job/`; empty when it is not there or ends before `position`."""

        def mirror(self, handle: Handle, into: str) -> None:
            """Bring what is new of `job/` into a folder of this computer."""

        def outputs(self, handle: Handle, path: str, take: Take, *, content: bool) -> None:
            """Regular files at or below a path of the working copy now, where that is not seen from here."""

        def collect(self, handle: Handle, into: str) -> None:
            """Bring the working copy to a folder of this computer."""

        def remove(self, handle: Handle) -> None:
            """Remove what the job has beside its container."""
