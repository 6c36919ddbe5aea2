"""Variables on their way into a run and back: neutral formats, checked before anything is loaded.

The bytes are written and read by `runtime/site/aml_run/codec.py`, the very file that travels with the run, so
that both ends agree on every type.  It is read as data, by its path: nothing of the runtime is imported.
"""

from __future__ import annotations

import functools
import json
import os

from aml_jupyter.errors import ValueTransferError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType
    from typing import Any

CODEC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "runtime", "site", "aml_run", "codec.py")


class EncodedValue(Value):
    """A variable as bytes; `python` is the minor version that encoded it, `kind` the name of its type."""

    name: str
    encoding: str
    data: bytes
    kind: str
    python: str
    preview: str
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """What is recorded of it: everything but the bytes, which lie in a file named by their SHA-256."""
        return {
            "name": self.name,
            "encoding": self.encoding,
            "file": self.sha256,
            "size": len(self.data),
            "kind": self.kind,
            "python": self.python,
            "preview": self.preview,
        }


@functools.cache
def _codec() -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("aml_jupyter_codec", CODEC)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encode(name: str, value: object, *, python: str = "", arrow: bool = False) -> EncodedValue:
    """Encode a variable for a receiver: its Python as "3.11" ("" where unknown), and whether it has pyarrow.

    Raises ValueTransferError, which names the variable and, where a pickle would be needed, both versions.
    """
    from hashlib import sha256

    _refuse_code(name, value)
    codec = _codec()
    try:
        fields = codec.encode(name, value, python, arrow)
    except codec.ValueTransferError as error:
        raise ValueTransferError(str(error), hint=_HINT) from error
    return EncodedValue(**fields, sha256=sha256(fields["data"]).hexdigest())


_HINT = "Arrays, data frames, text, bytes, numbers and lists, dicts and sets of them travel to any Python."


def _refuse_code(name: str, value: object) -> None:
    from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType, ModuleType

    kinds = ((ModuleType, "module"), (type, "class"), (GeneratorType, "generator"))
    functions = (FunctionType, BuiltinFunctionType, MethodType)
    kind = next((word for type_, word in kinds if isinstance(value, type_)), None)
    if kind is None and isinstance(value, functions):
        kind = "function"
    if kind is not None:
        raise ValueTransferError(
            f"{name!r} is a {kind}: code does not travel as a value",
            hint="Import it in the cell, or move it into a file of the project and import that.",
        )


def decode(item: Mapping[str, Any], read: Callable[[str], bytes]) -> object:
    """The variable that a "value" event describes; `read` returns a file of `data/` by its SHA-256.

    Raises ValueTransferError for bytes that are not what was recorded, for types whose library is absent, and
    before loading for a pickle of another Python.
    """
    from hashlib import sha256

    name = item.get("name", "")
    try:
        data = read(item["file"])
    except OSError as error:
        raise ValueTransferError(
            f"the bytes of {name!r} are missing: {error}", code="value.missing"
        ) from error
    if sha256(data).hexdigest() != item["file"]:
        raise ValueTransferError(
            f"the bytes of {name!r} are not those that the run recorded", code="value.damaged"
        )
    codec = _codec()
    try:
        return codec.decode(item, data)
    except codec.ValueTransferError as error:
        raise ValueTransferError(str(error), hint=_HINT) from error


def accepts() -> tuple[str, ...]:
    """What this Python can receive beyond the formats that need nothing."""
    from importlib.util import find_spec

    return ("arrow",) if find_spec("pyarrow") is not None else ()


def restored(event: Mapping[str, Any], read: Callable[[str], bytes]) -> dict[str, Any]:
    """An event with everything in it that was put into files: MIME data, metadata and long metrics.

    `read` returns a file of `data/` by its SHA-256; a MIME type whose file is missing is left out.
    """
    full = dict(event)
    if isinstance(event.get("data"), dict):
        full["data"] = _bundle(event["data"], read)
    for key in ("metadata", "value"):
        if _is_reference(event.get(key)) and event[key].get("encoding") == "json":
            full[key] = json.loads(read(event[key]["$data"]))
    return full


def _bundle(data: Mapping[str, Any], read: Callable[[str], bytes]) -> dict[str, Any]:
    full = {}
    for mime, value in data.items():
        if not _is_reference(value):
            full[mime] = value
            continue
        try:
            text = read(value["$data"]).decode("utf-8", "surrogatepass")
        except OSError:  # the other forms of the object can still be shown
            continue
        is_json = mime == "application/json" or mime.endswith("+json")
        full[mime] = json.loads(text) if is_json else text
    return full


def _is_reference(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("$data"), str)
