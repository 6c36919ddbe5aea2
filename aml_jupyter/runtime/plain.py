"""JSON by the C parts of the interpreter's own package: importing that package (re, enum) takes 7 ms."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Context:
    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int
    # NaN and Infinity are no JSON; as texts they stay readable
    parse_constant = str
    memo: "dict[str, str]" = {}  # noqa: RUF012 - read by the C scanner of some versions, never filled here


def _refuse(value: object) -> object:
    raise TypeError("%s is not JSON" % type(value).__name__)


try:
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    _scan = make_scanner(_Context)  # type: ignore[arg-type]  # it takes whatever has these attributes
    _encode = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)
    if _scan('{"a": [1]}', 0) != ({"a": [1]}, 10) or "".join(_encode({"a": [1]}, 0)) != '{"a":[1]}':
        raise ImportError("an interpreter of another kind")
except (ImportError, TypeError):
    import json

    def loads(text: str) -> "Any":
        """Like `json.loads`, with NaN and Infinity as texts."""
        return json.loads(text, parse_constant=str)

    def dumps(value: object) -> str:
        """One line of ASCII; raises ValueError for NaN and Infinity."""
        return json.dumps(value, allow_nan=False, separators=(",", ":"))

else:

    def loads(text: str) -> "Any":
        """Like `json.loads`, with NaN and Infinity as texts; raises ValueError or RecursionError."""
        text = text.strip()
        try:
            value, end = _scan(text, 0)
        except StopIteration:
            raise ValueError("no JSON value") from None
        if end != len(text):
            raise ValueError("text after the JSON value")
        return value

    def dumps(value: object) -> str:
        """One line of ASCII; raises ValueError for NaN and Infinity."""
        return "".join(_encode(value, 0))
