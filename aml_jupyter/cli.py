"""The command `aml`: parse, call, print.  Exit statuses are documented in docs/cli.md."""

from __future__ import annotations

import os
import sys

from aml_jupyter.errors import (
    AmlError,
    ConfigError,
    HistoryError,
    RunFailed,
    RunNotFound,
    SnapshotError,
    UsageError,
)

# the tool itself failed, as docker run says it
FAILED = 125
STATUSES: tuple[tuple[type[AmlError], int], ...] = (
    (UsageError, 2),
    (ConfigError, 2),
    (SnapshotError, 2),
    (RunNotFound, 3),
    (HistoryError, 5),
)
AMBIGUOUS = 4


def exit_status(error: AmlError) -> int:
    """The exit status that stands for an error; a failed run's own is passed through."""
    if isinstance(error, RunFailed):
        return error.exit_code
    if error.code == "run.ambiguous":
        return AMBIGUOUS
    return next((status for kind, status in STATUSES if isinstance(error, kind)), FAILED)


def main(arguments: list[str] | None = None) -> int:
    """Do one command; every expected failure is a sentence on standard error and an exit status."""
    from aml_jupyter.commands import execute
    from aml_jupyter.commands.screen import Screen

    words = sys.argv[1:] if arguments is None else arguments
    # names that are not UTF-8 must be printable whatever the locale is
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    screen = Screen()
    try:
        status = execute(words, screen)
        sys.stdout.flush()
    except AmlError as error:
        status = _report(error, screen, as_json="--json" in words)
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # whoever read our output has left: nobody is there to be told
        _silence_stdout()
        status = 141
    except OSError as error:
        _silence_stdout()
        sys.stderr.write(f"aml: {error}\n")
        status = FAILED
    return status


def _report(error: AmlError, screen: Screen, *, as_json: bool) -> int:
    if as_json:
        screen.json({"error": error.as_json()})
        sys.stdout.flush()
    screen.remark(f"aml: {error}")
    return exit_status(error)


def _silence_stdout() -> None:
    # the interpreter flushes standard output once more at its end, and would complain
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.commands.screen import Screen

if __name__ == "__main__":
    sys.exit(main())
