"""A secret that was found: where it stands and what kind it is, never the secret itself."""

from __future__ import annotations


class Finding:
    """The file, the line (from 1) and the kind of a secret."""

    __slots__ = ("kind", "line", "path")

    def __init__(self, path: str, line: int, kind: str) -> None:
        self.path = path
        self.line = line
        self.kind = kind

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind}"
