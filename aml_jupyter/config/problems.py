"""What is wrong with a file: all of it at once, each with line, key, the line itself and what to write."""

from __future__ import annotations

import difflib
import re

from aml_jupyter.config import private
from aml_jupyter.errors import ConfigError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_HIDDEN_NAME = (
    r"[\w.-]*(?:password|passwd|secret|token|privatekey|passphrase|account_?key|connection_?string)[\w.-]*"
)
_SECRET_KEY = re.compile(rf"(?i)(?P<head>[\"']?\b{_HIDDEN_NAME}[\"']?\s*:)(?P<value>\s*\S.*)")
_ANY_KEY = re.compile(r"^\s*(?:-\s+)?[\"']?(?P<name>[\w.-]+)[\"']?\s*:")
_WIDEST = 120


class Problem(Value):
    """One mistake: `line` and `column` count from 1, 0 when the file as a whole is meant."""

    message: str
    line: int = 0
    column: int = 0
    key: str = ""
    fix: str = ""


def is_secret_name(name: str) -> bool:
    """Whether a key of this name usually holds something that may not be shown or copied."""
    return re.fullmatch(f"(?i){_HIDDEN_NAME}", name) is not None


def nearest(name: str, known: Iterable[str], cutoff: float = 0.7) -> str:
    """The known name that `name` was probably meant to be, or the empty string."""
    by_lower = {word.lower(): word for word in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else ""


def invalid_file(path: str, text: str, problems: Sequence[Problem], *, code: str = "") -> ConfigError:
    """One error that tells every problem of a file in order of lines, with the line and a caret."""
    lines = text.splitlines()
    ordered = sorted(problems, key=lambda problem: (problem.line, problem.column))
    if len(ordered) == 1:
        only = ordered[0]
        return ConfigError("\n".join(_told(path, lines, only)), code=code or None, hint=only.fix)
    told = [f"{path}: {len(ordered)} problems"]
    for problem in ordered:
        told += _told(path, lines, problem)
        if problem.fix:
            told.append(f"    fix: {problem.fix}")
    return ConfigError("\n".join(told), code=code or None, hint="Correct these lines and try again.")


def _told(path: str, lines: list[str], problem: Problem) -> list[str]:
    place = f"{path}:{problem.line}" if problem.line else path
    hidden = 0 < problem.line <= len(lines) and _goes_on_a_secret(lines, problem.line - 1)
    key = f"{problem.key}: " if problem.key and not hidden else ""
    told = [f"{place}: {_printable(key + problem.message)}"]
    if 0 < problem.line <= len(lines):
        shown, hidden_from = _without_secrets(lines, problem.line - 1)
        shown = _printable(shown.replace("\t", " "))
        column = max(0, min(problem.column - 1, len(shown), hidden_from))
        start = max(0, column - _WIDEST // 2) if len(shown) > _WIDEST else 0
        told.append(f"    {shown[start : start + _WIDEST]}")
        told.append(f"    {' ' * (column - start)}^")
    return told


def _without_secrets(lines: list[str], number: int) -> tuple[str, int]:
    """The line with secret values replaced, and the column from which on it is no longer as written."""
    if _goes_on_a_secret(lines, number):
        return "***", 0
    line = private.blank(lines[number])[0]
    found = _SECRET_KEY.search(line)
    if found:
        return line[: found.end("head")] + " ***", found.end("head") + 1
    return line, len(line)


def _goes_on_a_secret(lines: list[str], number: int) -> bool:
    """Whether a line is part of the value of a secret key above it."""
    depth = _depth(lines[number])
    bare = _ANY_KEY.match(lines[number]) is None
    for line in reversed(lines[:number]):
        key = _ANY_KEY.match(line)
        if key and (bare or _depth(line) < depth):
            if is_secret_name(key["name"]):
                return True
            bare = False
        depth = min(depth, _depth(line))
    return False


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip()) if line.strip() else 1 << 30


def _printable(text: str) -> str:
    """The text without what would steer a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
