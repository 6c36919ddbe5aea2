"""Looking for secrets in the text files of a project: known forms only, so that a finding is worth stopping for."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LOOKED_AT = 1 << 20  # bytes of a file; what is larger is data


class Finding:
    """A secret: the file, the line (from 1) and its kind; never the secret itself."""

    __slots__ = ("kind", "line", "path")

    def __init__(self, path: str, line: int, kind: str) -> None:
        self.path = path
        self.line = line
        self.kind = kind

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind}"


def find(path: str, data: bytes) -> Iterator[Finding]:
    """The secrets in a text file; nothing is looked for in binary files."""
    return iter(())
