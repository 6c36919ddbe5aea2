"""Where a command's words go: a terminal, a pipe or a notebook cell."""

from __future__ import annotations

import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

# colours and weights may pass; everything else that moves a cursor, names a window or makes a link may not
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ESCAPE = re.compile(
    r"\x1b(?:\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|\[[0-?]*[ -/]*[@-~]?|[@-Z\\-_a-z]?)"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def safe_text(text: str, *, colour: bool = True) -> str:
    """Text of a run without what would steer a terminal; new lines, tabs and `\\r` stay."""
    if "\x1b" in text:
        text = _ESCAPE.sub(lambda found: found[0] if colour and _COLOUR.fullmatch(found[0]) else "", text)
    return _CONTROL.sub("\ufffd", text)


def safe_name(name: str) -> str:
    """A name on one line, with every unprintable character escaped."""
    if name.isprintable():
        return name
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in name
    )


class Screen:
    """Writes for a person or for a program; a notebook has its own subclass."""

    def __init__(self, out: IO[str] | None = None, err: IO[str] | None = None) -> None:
        self.out = out or sys.stdout
        self.err = err or sys.stderr

    @property
    def interactive(self) -> bool:
        """Whether a person looks at a terminal."""
        return self.out.isatty()

    def write(self, text: str) -> None:
        """Print data as it is."""
        self.out.write(text)

    def write_bytes(self, data: bytes) -> None:
        """Print data that need not be text."""
        self.out.flush()
        self.out.buffer.write(data)
        self.out.buffer.flush()

    def output(self, stream: str, text: str) -> None:
        """Print what a run printed, at once."""
        sink = self.err if stream == "stderr" else self.out
        sink.write(safe_text(text) if sink.isatty() else text)
        sink.flush()

    def remark(self, text: str) -> None:
        """Tell the person something that is not data."""
        self.out.flush()
        self.err.write(safe_text(text) + "\n")
        self.err.flush()

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
