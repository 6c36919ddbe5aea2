"""Where jobs run: the contract of an executor, and one module for each family of targets.

Executors get a frozen Job, return a Handle of plain JSON, keep no state, and never see runs, artifacts
or HTTP.
"""

from __future__ import annotations

from aml_jupyter.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Protocol

    from aml_jupyter.config import Target
    from aml_jupyter.job import Gone, Handle, Job, Liveness

    class Executor(Protocol):
        """What runs jobs on one kind of target; constructors do no I/O, every method may be repeated."""

        def check(self, target: Target, resources: Mapping[str, Any]) -> None:
            """Refuse what the configuration or the resources cannot mean; imports no SDK, touches no machine.

            Raises ConfigError or TargetUnavailable.
            """

        def python(self, target: Target, /) -> str:
            """The interpreter that a job on this target runs, as the target names it."""

        def make_environment(self, job: Job, tell: Tell, /) -> dict[str, Any]:
            """Make the job's environment ready and say what it is, without a working copy."""

        def prepare(self, job: Job, tell: Tell, /) -> None:
            """Probe the target and make the working copy and the environment ready; `tell` shows progress."""

        def environment(self, job: Job) -> dict[str, Any]:
            """What a prepared job finds: `python`, `version`, number of `packages`, `digest` of the list."""

        def anticipate(self, job: Job) -> None:
            """Begin what can be while a job is written: it has a directory, no snapshot and no command."""

        def forsake(self, job: Job) -> None:
            """Undo what was begun of a job that is not to be started; may be repeated."""

        def find(self, job: Job) -> Handle | None:
            """The handle of a job that was started before, by whomever."""

        def start(self, job: Job, secrets: Mapping[str, str]) -> Handle:
            """Start the job; a failure leaves nothing behind, a second start changes nothing.

            `secrets` are variables of the run that may be written nowhere.
            """

        def poll(self, handle: Handle, wait: float = 0.0) -> Liveness:
            """Whether the job exists, waiting up to `wait` seconds for its end; never an exit code."""

        def read(self, handle: Handle, name: str, position: int) -> bytes:
            """Up to 1 MiB of a file of `job/` from a byte position."""

        def mirror(self, handle: Handle, into: str) -> None:
            """Bring what is new of `job/` into the folder `into`; nothing where it is used in place."""

        def cancel(self, handle: Handle, *, kill: bool = False) -> None:
            """Ask the job to end, or end every process of it at once."""

        def ended_by_target(self, handle: Handle) -> Gone | None:
            """Why the target itself asked a job to end that nobody canceled; None where it did not."""

        def outputs(self, handle: Handle, path: str, take: Take, *, content: bool) -> None:
            """Call `take` for each regular file at or below a path of the working copy as it is now.

            For none where that is used in place; with the bytes only where `content` is asked.  What `take`
            raises ends it.  Raises TargetUnavailable, ArtifactError `artifact.invalid` for what changed or
            ended meanwhile, `artifact.too_big`.
            """

        def collect(self, handle: Handle, into: str) -> None:
            """Bring the working copy with its outputs to `into`."""

        def discard(self, handle: Handle) -> None:
            """Remove what the job occupies at the target, when its ending is written; may be repeated."""

    Tell = Callable[[str], None]
    # path in the working copy, size, and the bytes, to be read before it returns
    Take = Callable[[str, int, Iterator[bytes]], None]


def _local() -> Executor:
    from aml_jupyter.executors.local import LocalExecutor

    return LocalExecutor()


def _docker() -> Executor:
    from aml_jupyter.executors.docker import DockerExecutor

    return DockerExecutor()


KINDS: dict[str, Callable[[], Executor]] = {"local": _local, "docker": _docker, "remotedocker": _docker}


def load(kind: str) -> None:
    """Import what most runs of a kind need, so that it is there when the run is."""
    if kind in ("docker", "remotedocker"):
        from aml_jupyter import packages, working_copy  # noqa: F401
        from aml_jupyter.executors.docker import engine, environments, images  # noqa: F401


def executor_for(kind: str) -> Executor:
    """The executor of a kind of target.  Raises ConfigError for a kind this version cannot run."""
    try:
        return KINDS[kind]()
    except KeyError:
        raise ConfigError(
            f"targets of kind {kind!r} cannot be run by this version",
            code="target.unsupported",
            hint=f"Kinds that can: {', '.join(sorted(KINDS))}.",
        ) from None
