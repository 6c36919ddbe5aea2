"""What a run can be given: variables, parameters and arguments, refused by name before anything is made.

`problem_of_request` looks so at what another run was given, which a store may have from anybody.
"""

from __future__ import annotations

import os

from aml_jupyter import plainjson
from aml_jupyter.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

# seconds, and the size of any other number, of what a run was asked for
_LONGEST = 1e10
_LARGEST = 1e18
_TEXTS = ("kind", "cwd", "python", "share", "snapshot_id", "snapshots")
# of a target, of resources, of an environment and of a Spark session
_WORDS = (
    *("name", "file", "image", "address", "username", "private_key", "engine", "pull", "network"),
    *("python", "digest", "root", "lock", "location", "master"),
)
_LISTS = ("channels", "dependencies", "pip", "repositories", "packages", "given")


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


def problem_of_request(document: object) -> str:
    """What is wrong with a `request.json`; "" for one that a run can be repeated from.

    Every key that is read later has its type and a value that can be; others are left alone.
    """
    if not isinstance(document, dict):
        return "it is no document"
    command = document.get("command")
    if not command or not _is_words(command):
        return "its command is none"
    rules: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(_TEXTS, _is_word),
        "timeout": lambda value: _is_amount(value) and value <= _LONGEST,
        "cell": lambda value: isinstance(value, bool),
        "environment": _is_variables,
        "secrets": _is_words,
        "target": _is_settings,
        "resources": _is_settings,
        "dependencies": _is_settings,
        "spark": _is_settings,
    }
    wrong = [key for key, check in rules.items() if not (document.get(key) is None or check(document[key]))]
    return f"its {wrong[0]} is not what one is" if wrong else ""


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _passable(value)


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_word, value))


def _is_variables(value: object) -> bool:
    try:
        check_environment(value)  # type: ignore[arg-type]
    except (UsageError, AttributeError):
        return False
    return True


def _is_amount(value: object) -> bool:
    # NaN compares with nothing
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_settings(value: object) -> bool:
    """Whether a mapping of settings has such values as the executors read."""
    return isinstance(value, dict) and all(_is_setting(name, one) for name, one in value.items())


def _is_setting(name: str, value: object) -> bool:
    if name in _LISTS:
        return value is None or _is_words(value)
    if name in _WORDS:
        return value is None or _is_word(value)
    if name == "configuration" and isinstance(value, dict):
        return all(isinstance(one, str | int | float) for one in value.values())
    if isinstance(value, str) and value and name in _FORMS:
        return _FORMS[name](value)
    return value is None or isinstance(value, bool) or _is_word(value) or _is_amount(value)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def _is_amount_text(text: str) -> bool:
    return _is_amount(_number(text))


# what the text of a setting may be
_FORMS: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys(("cpus", "memory", "shm_size"), _is_amount_text),
    "gpus": lambda text: text == "all" or text.startswith("device=") or text.isdecimal(),
    "port": str.isdecimal,
}
