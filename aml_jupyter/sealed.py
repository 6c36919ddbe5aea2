"""JSON with a checksum of itself, for files whose damage must be found."""

from __future__ import annotations

import binascii
import math

from aml_jupyter import plainjson
from aml_jupyter.errors import HistoryError
from aml_jupyter.job import FORMAT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def seal(document: Mapping[str, Any]) -> bytes:
    """A document as canonical JSON that holds its own CRC-32; NaN and the infinities are carried by name."""
    body = {name: value for name, value in document.items() if name != "crc32"}
    body["crc32"] = binascii.crc32(canonical(body))
    return canonical(body) + b"\n"


def unseal(data: bytes, path: str) -> dict[str, Any]:
    """The document of sealed JSON; HistoryError `record.corrupt` when it is damaged.

    The checksum of a newer format is left to the version that knows it.
    """
    try:
        document = parse(data.decode("ascii"))
        crc = document.pop("crc32", None)
        whole = crc == binascii.crc32(canonical(document))
        if not whole and document["format"] > FORMAT:
            # unless it is one of ours whose format alone was damaged
            whole = crc != binascii.crc32(canonical({**document, "format": FORMAT}))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise HistoryError(
            f"{path} is damaged: its checksum does not fit",
            code="record.corrupt",
            hint="`aml check` lists what is damaged and what can be done.",
        )
    return dict(document)


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one way in which a document is written: keys in their order, ASCII, no spaces."""
    try:
        text = plainjson.dumps(document, allow_nan=False)
    except ValueError:  # NaN and the infinities are no JSON: carried by name
        text = plainjson.dumps(_named(document), allow_nan=False)
    return text.encode("ascii")


def parse(text: str) -> Any:
    """What `canonical` wrote.  Raises ValueError."""
    return plainjson.loads(text, object_hook=_numbers if '"$number"' in text else None)


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$number": repr(float(value))}
    if isinstance(value, dict):
        return {name: _named(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_named(inner) for inner in value]
    return value


def _numbers(found: dict[str, Any]) -> Any:
    if found.keys() == {"$number"} and found["$number"] in ("nan", "inf", "-inf"):
        return float(found["$number"])
    return found
