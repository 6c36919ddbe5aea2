"""The command `aml`: parse, call, print.  Exit statuses are documented in docs/cli.md."""

from __future__ import annotations

import errno
import io
import os
import sys

from aml_jupyter.errors import (
    AmlError,
    ArtifactError,
    CellError,
    ConfigError,
    ConfinedError,
    HistoryError,
    RunFailed,
    RunNotFound,
    SnapshotError,
    UsageError,
    ValueTransferError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from aml_jupyter.commands.screen import Screen

# the tool itself failed, as docker run says it
FAILED = 125
NOT_FOUND, AMBIGUOUS, DAMAGED = 3, 4, 5
INTERRUPTED, READER_LEFT = 130, 141
# something the person can change: the line, the configuration, the project, the names of files
CHANGE_IT = 2
THEIRS = (
    UsageError,
    ConfigError,
    SnapshotError,
    ArtifactError,
    ConfinedError,
    CellError,
    ValueTransferError,
)
# codes of what is kept rather than of what was asked
OF_THE_STORE = ("store.", "history.", "record.corrupt")
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)


def exit_status(error: AmlError) -> int:
    """The exit status that stands for an error; a failed run's own is passed through."""
    if isinstance(error, RunFailed):
        return error.exit_code
    if error.code == "run.ambiguous":
        return AMBIGUOUS
    if isinstance(error, RunNotFound):
        return NOT_FOUND
    if isinstance(error, HistoryError) or error.code.startswith(OF_THE_STORE):
        return DAMAGED
    if getattr(error, "errno", None) in _MACHINE:
        return FAILED
    return CHANGE_IT if isinstance(error, THEIRS) else FAILED


def main(arguments: list[str] | None = None) -> int:
    """Do one command; every expected failure is a sentence on standard error and an exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        _open_streams()
        status = _do(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has left: nobody is there to be told
        _silence_stdout()
        status = READER_LEFT
    except OSError as error:
        _silence_stdout()
        _complain(f"aml: the output cannot be written: {error.strerror or error}")
        status = FAILED
    return status


def _do(words: list[str]) -> int:
    from aml_jupyter.commands import execute
    from aml_jupyter.commands.screen import Screen

    screen = Screen()
    # until the line is understood
    screen.as_json = "--json" in words[: words.index("--") if "--" in words else None]
    try:
        return execute(words, screen)
    except BrokenPipeError:
        raise
    except AmlError as error:
        return _report(error, screen)
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EBADF, errno.EIO):
            raise  # of a write to one of our own streams
        failed = AmlError(f"{error.filename or 'aml'}: {error.strerror or error}", code="system")
        return _report(failed, screen)
    except Exception as error:  # noqa: BLE001 - the outermost edge: a defect of ours, told as one
        return _report_defect(error, screen)


def _report(error: AmlError, screen: Screen) -> int:
    if screen.as_json:
        screen.json({"error": error.as_json()})
        sys.stdout.flush()
    text = str(error)
    # errors of the parser begin with the verb
    screen.remark(text if text.startswith(("aml ", "aml:")) else f"aml: {text}")
    return exit_status(error)


def _report_defect(error: Exception, screen: Screen) -> int:
    import traceback

    screen.remark(traceback.format_exc().rstrip())
    defect = AmlError(
        f"this is a defect of aml_jupyter: {type(error).__name__}",
        code="defect",
        hint="Please report the lines above.",
    )
    return _report(defect, screen)


def _open_streams() -> None:
    """Have three standard streams whatever the caller closed, that take every name there can be."""
    # a file of ours must never get the number of a standard stream
    while (fd := os.open(os.devnull, os.O_RDONLY)) <= 2:
        pass
    os.close(fd)
    if sys.stdout is None:
        # opened for reading: what is printed fails, and that is told
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    # PYTHONUNBUFFERED leaves out the layer that writes on after a write that took only a part
    if _is_raw(sys.stdout):
        sys.stdout = open(1, "w", encoding=sys.stdout.encoding, closefd=False)
    if _is_raw(sys.stderr):
        sys.stderr = open(2, "w", encoding=sys.stderr.encoding, buffering=1, closefd=False)
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    terminal = sys.stdout.isatty()
    if not terminal:
        import codecs

        codecs.register_error("aml-bytes", _bytes_of)
    sys.stdout.reconfigure(errors="backslashreplace" if terminal else "aml-bytes")  # type: ignore[union-attr]


def _is_raw(stream: TextIO) -> bool:
    return isinstance(getattr(stream, "buffer", None), io.RawIOBase)


def _bytes_of(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a name that is not UTF-8 as they are; what else the locale lacks, escaped."""
    assert isinstance(error, UnicodeEncodeError)
    found = b""
    for char in error.object[error.start : error.end]:
        byte = ord(char) - 0xDC00
        found += bytes([byte]) if 0x80 <= byte <= 0xFF else char.encode("ascii", "backslashreplace")
    return found, error.end


def _silence_stdout() -> None:
    # the interpreter flushes standard output once more at its end, and would complain
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _complain(text: str) -> None:
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:  # nobody can be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
    sys.exit(main())
