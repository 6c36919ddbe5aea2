"""JSON by the C parts of the interpreter's own package, for processes that live a few milliseconds.

Importing `json` brings `re` and `enum`: as long as starting an interpreter takes.  On an interpreter without
those C parts, or with others than expected, this is `json`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Context:
    """What the C scanner asks of a decoder."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float
    memo: dict[str, str] = {}  # noqa: RUF012 - read by the scanner of some versions, never filled here


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


def _c_parts() -> tuple[Any, Any] | None:
    try:
        from _json import encode_basestring_ascii, make_encoder, make_scanner
    except ImportError:
        return None

    def encode(value: object, sort_keys: bool) -> str:
        encoder = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", sort_keys, False, True)
        return "".join(encoder(value, 0))

    try:
        scan = make_scanner(_Context)
        usable = scan('{"a": [1]}', 0) == ({"a": [1]}, 10) and encode({"a": [1]}, True) == '{"a":[1]}'
    except TypeError:  # another signature in a later version
        return None
    return (scan, encode) if usable else None


_PARTS = _c_parts()


def loads(data: bytes | str) -> Any:
    """The value of a JSON text, as `json.loads` gives it.  Raises ValueError, RecursionError."""
    text = data.decode() if isinstance(data, bytes) else data
    if _PARTS is None:
        import json

        return json.loads(text)
    text = text.strip(" \t\r\n")
    try:
        value, end = _PARTS[0](text, 0)
    except StopIteration:
        raise ValueError("no JSON value") from None
    if end != len(text):
        raise ValueError(f"text after the JSON value, at character {end}")
    return value


def dumps(value: object, *, sort_keys: bool = False) -> str:
    """One line of ASCII without spaces.  Raises TypeError for what is not JSON, RecursionError."""
    if _PARTS is None:
        import json

        return json.dumps(value, sort_keys=sort_keys, separators=(",", ":"), check_circular=False)
    text: str = _PARTS[1](value, sort_keys)
    return text
