"""What passes between submitter, supervisor, executor and runtime: values and their JSON.

Every file says its format; a newer one is never written to, only read.
"""

from __future__ import annotations

from aml_jupyter.errors import FormatError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self

FORMAT = 1

TERMINAL = ("Completed", "Failed", "Canceled")
STATUSES = (
    "NotStarted",
    "Preparing",
    "Queued",
    "Running",
    "Finalizing",
    "CancelRequested",
    *TERMINAL,
    "NotResponding",
)

# an executor's own keys; enough for another process to poll, cancel and collect
Handle = dict[str, "Any"]


def check_format(document: Mapping[str, Any], name: str) -> None:
    """Raise FormatError when a document was written by a newer version."""
    found = document.get("format")
    if not isinstance(found, int) or found > FORMAT:
        raise FormatError(
            f"{name} has format {found!r}; this version of aml_jupyter reads formats up to {FORMAT}",
            hint="Update aml_jupyter to change this run; it can be read, not written.",
        )


class Job(Value):
    """All that an executor is told of a run.

    `directory` is the run's directory on the submitting machine; `job` and `work` lie below it.
    `snapshots` is the snapshot store there.  Times in seconds, sizes in bytes.
    `target` is what an executor needs of the compute target, `resources` what the run may use of it;
    `dependencies` asks for an environment (None: what the target has), `spark` for a Spark session.
    `inputs` are files of earlier runs (path in the working copy, key below `artifacts`, SHA-256, size).
    """

    run_id: str
    directory: str
    kind: str
    python: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    timeout: float | None = None
    grace: float = 10.0
    log_limit: int = 1 << 30
    snapshots: str = ""
    snapshot_id: str = ""
    share: str | None = None
    cell: bool = False
    target: Mapping[str, Any] = {}
    resources: Mapping[str, Any] = {}
    dependencies: Mapping[str, Any] | None = None
    spark: Mapping[str, Any] | None = None
    inputs: tuple[Mapping[str, Any], ...] = ()
    artifacts: str = ""

    @classmethod
    def from_request(cls, directory: str, document: Mapping[str, Any]) -> Self:
        """Read `request.json` of a run directory.  Raises FormatError for a newer format."""
        check_format(document, "request.json")
        given = {name: document[name] for name in cls._fields if name in document}
        given["command"] = tuple(given["command"])
        given["inputs"] = tuple(given.get("inputs", ()))
        return cls(**{**given, "directory": directory})

    @property
    def job(self) -> str:
        """The folder that crosses between machines."""
        return self.directory + "/job"

    @property
    def work(self) -> str:
        """The working copy."""
        return self.directory + "/work"


class Exit(Value):
    """The ending that the runtime wrote: times in seconds, `exit_code` or `signal` never both set."""

    run_id: str
    exit_code: int | None
    signal: int | None
    oom: bool = False
    timeout: bool = False
    cancel: str | None = None
    start_utc: str = ""
    end_utc: str = ""
    duration: float = 0.0
    log_bytes: int = 0
    log_dropped: int = 0
    events: int = 0
    leftovers: int = 0

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read `exit.json`; unknown keys are ignored.  Raises FormatError for a newer format."""
        check_format(document, "exit.json")
        return cls(**{name: document[name] for name in cls._fields if name in document})


class Alive(Value):
    """The job exists at the target."""


class Gone(Value):
    """The job no longer exists; `evidence` says how that is known, `reason` ends a run without an ending."""

    evidence: str
    reason: str = "run.lost"


class Unreachable(Value):
    """Nothing can be said about the job now."""

    cause: str


Liveness = Alive | Gone | Unreachable
