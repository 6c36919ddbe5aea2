"""JSON by the C parts of the interpreter's own package, for processes that live a few milliseconds.

Importing `json` brings `re` and `enum`: as long as starting an interpreter takes.  On an interpreter without
those C parts, or with others than expected, this is `json`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Context:
    """What the C scanner asks of a decoder."""

    strict = True
    object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float

    def __init__(self, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> None:
        self.object_hook = object_hook
        self.memo: dict[str, str] = {}


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


def _c_parts() -> tuple[Any, Any] | None:
    try:
        from _json import encode_basestring_ascii, make_encoder, make_scanner
    except ImportError:
        return None

    def encode(value: object, sort_keys: bool, allow_nan: bool) -> str:
        quote = encode_basestring_ascii
        encoder = make_encoder(None, _refuse, quote, None, ":", ",", sort_keys, False, allow_nan)
        return "".join(encoder(value, 0))

    def scan(text: str, object_hook: Callable[[dict[str, Any]], Any] | None) -> tuple[Any, int]:
        found: tuple[Any, int] = make_scanner(_Context(object_hook))(text, 0)  # type: ignore[arg-type]
        return found

    try:
        usable = (
            scan('{"a": [1]}', None) == ({"a": [1]}, 10) and encode([{"a": 1}], True, True) == '[{"a":1}]'
        )
    except TypeError:  # another signature in a later version
        return None
    return (scan, encode) if usable else None


_PARTS = _c_parts()


def loads(data: bytes | str, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value of a JSON text, as `json.loads` gives it.  Raises ValueError, RecursionError."""
    text = data.decode() if isinstance(data, bytes) else data
    if _PARTS is None:
        import json

        return json.loads(text, object_hook=object_hook)
    text = text.strip(" \t\r\n")
    try:
        value, end = _PARTS[0](text, object_hook)
    except StopIteration:
        raise ValueError("no JSON value") from None
    except SystemError:  # how Python 3.11 says that it would need `json` for the error's message
        raise ValueError("no whole JSON value") from None
    if end != len(text):
        raise ValueError(f"text after the JSON value, at character {end}")
    return value


def dumps(value: object, *, sort_keys: bool = False, allow_nan: bool = True) -> str:
    """One line of ASCII without spaces.

    Raises TypeError for what is not JSON, ValueError for numbers that are none unless `allow_nan`,
    RecursionError.
    """
    if _PARTS is None:
        import json

        return json.dumps(value, sort_keys=sort_keys, allow_nan=allow_nan, separators=(",", ":"))
    text: str = _PARTS[1](value, sort_keys, allow_nan)
    return text
