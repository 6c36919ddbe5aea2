"""What a run can be given: variables, parameters and arguments, refused by name before anything is made."""

from __future__ import annotations

import os

from aml_jupyter import plainjson
from aml_jupyter.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def check_environment(variables: Mapping[str, str]) -> None:
    """Raise UsageError for a variable that no process can have; the message never holds a value."""
    for name, value in variables.items():
        if not isinstance(name, str) or not name or "=" in name or not _passable(name):
            raise UsageError(
                f"{name!r} cannot be the name of an environment variable",
                hint="A name is text without = and NUL; the value stands apart from it.",
            )
        if not isinstance(value, str):
            raise UsageError(
                f"environment variable {name}: its value is of type {type(value).__name__}, not text",
                hint=f"Give text, such as str(...); programs read {name} as text.",
            )
        if not _passable(value):
            raise UsageError(
                f"environment variable {name}: its value holds a NUL or half a character",
                hint="Take it out; no process can be given such text.",
            )


def check_params(params: Mapping[str, object]) -> None:
    """Raise UsageError for a parameter that JSON has no form for."""
    for name, value in params.items():
        try:
            plainjson.dumps({name: value})
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"parameter {name!r} cannot be kept with the run: {error}",
                hint="Parameters are numbers, text, True, False, None, and lists and dicts of them;"
                " other objects go into a cell as inputs.",
            ) from error


def check_words(command: Sequence[str]) -> None:
    """Raise UsageError for an argument that no process can be given."""
    for word in command:
        if not _passable(word):
            raise UsageError(
                f"{word!r} cannot be an argument: it holds a NUL or half a character",
                hint="Take it out, or put it into a file that the script reads.",
            )


def _passable(text: str) -> bool:
    """Whether a process can be given a text."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
