"""Errors a person can act on.

    AmlError                 base: stable code, message, hint
    ├── ConfigError          a configuration file, an option or a name is wrong
    │   ├── TargetNotFound   lists the targets there are
    │   └── FormatError      written by a newer version: read only
    ├── ConfinedError        a name or file that may not be opened
    ├── SnapshotError        the project cannot be copied as it is
    ├── RunNotFound          no run, or more than one, answers to a reference
    ├── ArtifactError        an artifact is missing, damaged or may not be written
    ├── HistoryError         the history is locked, damaged or full
    ├── TargetUnavailable    the machine or interpreter cannot be used now; safe to retry
    ├── EnvironmentFailed    the packages of a run cannot be solved, fetched or installed
    ├── ValueTransferError   a variable cannot be sent or brought back
    ├── CellError            a cell asks for what the target will not have
    ├── UsageError           an option or argument is wrong
    └── RunFailed            the user's code failed; carries the exit code

Anything else that is raised is a defect of this package and keeps its traceback.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class AmlError(Exception):
    """An expected failure: `code` is stable, `message` says what happened, `hint` what to do next."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code:
            self.code = code

    def __str__(self) -> str:
        text = f"{self.message} [{self.code}]"
        return f"{text}\n{self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.code, self.hint))

    def as_json(self) -> dict[str, str]:
        """The error as `{"code", "message", "hint"}`."""
        return {"code": self.code, "message": self.message, "hint": self.hint}

    def _render_traceback_(self) -> list[str]:
        # IPython calls this instead of printing a stack: a user's mistake gets a sentence
        return str(self).splitlines()


def _rebuild(kind: type[AmlError], message: str, code: str, hint: str) -> AmlError:
    return kind(message, code=code, hint=hint)


class ConfigError(AmlError):
    """A configuration file, an option or a name is wrong; names file, line and key."""

    code = "config.invalid"


class TargetNotFound(ConfigError):
    """No run configuration or compute target of that name; lists those there are."""

    code = "target.unknown"


class FormatError(ConfigError):
    """A file was written by a newer version of this package and is read only."""

    code = "record.newer"


class ConfinedError(AmlError):
    """A relative name or a file that may not be opened below a folder."""

    code = "path.invalid"


class SnapshotError(AmlError):
    """The project cannot be copied as it is; names the files and what to change."""

    code = "snapshot.unreadable"


class RunNotFound(AmlError):
    """No run answers to a reference, or more than one does."""

    code = "run.unknown"


class ArtifactError(AmlError):
    """An artifact is missing, damaged, or its name may not be used."""

    code = "artifact.unknown"


class HistoryError(AmlError):
    """The history is locked, damaged, read only or out of space."""

    code = "history.corrupt"


class TargetUnavailable(AmlError):
    """The target's machine or interpreter cannot be used now; trying again is safe."""

    code = "target.unreachable"

    @property
    def passing(self) -> bool:
        """Whether nothing answered: what was asked for may have happened all the same."""
        return self.code in ("target.unreachable", "target.busy", "engine.unavailable")

    @property
    def mendable(self) -> bool:
        """Whether what is there now can be reached later, by itself or once a person has seen to it."""
        return self.passing or self.code in (
            *("target.hostkey_unknown", "target.hostkey_changed", "target.auth_failed"),
            *("target.no_shell", "ssh.missing", "ssh.config"),
        )


class EnvironmentFailed(AmlError):
    """The packages that a run asks for cannot be solved, fetched or installed; names each."""

    code = "environment.unsolvable"
    # packages that only have a source archive and cannot be built, with the reason
    unbuildable: Mapping[str, str] = {}


class ValueTransferError(AmlError):
    """A variable cannot be sent to the run or brought back from it."""

    code = "value.unsupported"


class CellError(AmlError):
    """A cell asks for something that the target will not have."""

    code = "cell.invalid"


class UsageError(AmlError):
    """An option or argument of a magic or command is wrong."""

    code = "usage"


class RunFailed(AmlError):
    """The user's code failed, or the run was canceled or lost; carries the run id and exit code."""

    code = "run.exit_nonzero"

    def __init__(
        self, message: str, *, code: str | None = None, hint: str = "", run_id: str = "", exit_code: int = 1
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.run_id = run_id
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_failed, (self.message, self.code, self.hint, self.run_id, self.exit_code))


def _rebuild_failed(message: str, code: str, hint: str, run_id: str, exit_code: int) -> RunFailed:
    return RunFailed(message, code=code, hint=hint, run_id=run_id, exit_code=exit_code)
