"""Where a command's words go: a terminal, a pipe or a notebook cell."""

from __future__ import annotations

import os
import sys

from aml_jupyter.printable import safe_name, safe_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO, Any


class Screen:
    """Writes for a person or for a program; a notebook has its own subclass.

    `as_json` is whether the line asked for JSON.
    """

    def __init__(self, out: IO[str] | None = None, err: IO[str] | None = None) -> None:
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self.as_json = False

    @property
    def interactive(self) -> bool:
        """Whether a person looks at a terminal."""
        return self.out.isatty()

    def write(self, text: str) -> None:
        """Print data as it is."""
        self.out.write(text)

    def path(self, path: str) -> None:
        """Print a path on a line of its own: as it is for a program, escaped on a terminal."""
        self.write((safe_name(path) if self.interactive else path) + "\n")

    def write_bytes(self, data: bytes) -> None:
        """Print data that need not be text; on a terminal without what would steer it."""
        if self.interactive:
            self.write(safe_text(data.decode(errors="replace")))
            return
        self.out.flush()
        sink = self.out.buffer  # type: ignore[union-attr]
        sink.write(data)
        sink.flush()

    def output(self, stream: str, text: str) -> None:
        """Print what a run printed, at once."""
        sink = self.err if stream == "stderr" else self.out
        sink.write(safe_text(text, colour=_colour()) if sink.isatty() else text)
        sink.flush()

    def remark(self, text: str) -> None:
        """Tell the person something that is not data."""
        try:
            self.out.flush()
        finally:
            # no name in it may move a cursor or begin a line
            self.err.write(safe_text(text, colour=False).replace("\r", "\\r") + "\n")
            self.err.flush()

    def progress(self, text: str) -> None:
        """Tell at once what is being done."""
        self.remark(text)

    def ask(self, question: str) -> str | None:
        """The line that a person types, or None where no terminal is there to ask on."""
        if not (sys.stdin and sys.stdin.isatty() and self.err.isatty()):
            return None
        self.err.write(question)
        self.err.flush()
        return sys.stdin.readline()

    def become(self, words: Sequence[str], variables: Mapping[str, str], folder: str | None) -> int:
        """Let a program take the place of this process: signals and exit status are then its own.

        A notebook waits for it instead and returns its exit status.  Raises OSError.
        """
        import signal

        self.out.flush()
        self.err.flush()
        if folder is not None:
            os.chdir(folder)
        # ignored in Python, and what is ignored stays so in programs
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(words[0], list(words), dict(variables))  # noqa: S606 - its words are a list

    def json(self, value: Any) -> None:
        """Print a value as JSON."""
        import json

        self.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")

    def table(self, columns: list[str], rows: list[list[str]]) -> None:
        """Print rows below their columns, left aligned."""
        cells = [[safe_name(cell) for cell in row] for row in [columns, *rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        for row in cells:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.write(line.rstrip() + "\n")


def _colour() -> bool:
    return "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
