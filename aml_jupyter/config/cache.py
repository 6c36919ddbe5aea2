"""Parsed files kept by the hash of their bytes, so that a warm run imports neither yaml nor pydantic."""

from __future__ import annotations

import json
import os
import sys
from binascii import crc32

from aml_jupyter.errors import AmlError, ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from aml_jupyter.config.parse import Parsed

PARSER = 2  # raise it when the same bytes come to mean something else
SIZE_LIMIT = 1 << 20


def read(path: str) -> bytes:
    """The bytes of a file, at most 1 MB.  Raises ConfigError; never waits for a FIFO or device."""
    from aml_jupyter.confined import read_bounded

    try:
        return read_bounded(path, SIZE_LIMIT)
    except AmlError as error:
        code = "config.too_big" if error.code == "file.too_big" else "config.invalid"
        raise ConfigError(f"{path}: {error.message}", code=code, hint=error.hint) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            f"{path}: cannot be read: {reason}", hint="Check the file and its permissions."
        ) from None


def load(path: str, kind: str, home: str) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """The fields and warnings of a file; `kind` is the parser's name.  Raises ConfigError."""
    return meaning(read(path), path, kind, home)


def meaning(data: bytes, path: str, kind: str, home: str) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """The fields and warnings of bytes that were read from `path`.  Raises ConfigError."""
    kept = f"{home}/cache/config/{digest(kind, data)}.json"
    return _kept(kept) or _parse(path, kind, data, kept)


def digest(kind: str, data: bytes) -> str:
    """The name under which what the bytes mean is kept."""
    return sha256(f"{PARSER} {kind}\n".encode() + data)


def sha256(data: bytes) -> str:
    """SHA-256 in hex, without the 4 ms of importing hashlib where the interpreter has it built in."""
    try:
        from _sha2 import sha256 as made  # type: ignore[import-not-found,unused-ignore]  # Python 3.12
    except ImportError:
        try:
            from _sha256 import sha256 as made  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            from hashlib import sha256 as made
    return str(made(data).hexdigest())


def _kept(kept: str) -> tuple[dict[str, Any], list[tuple[int, str]]] | None:
    from aml_jupyter.confined import read_bounded

    try:
        checksum, _, body = read_bounded(kept, 4 * SIZE_LIMIT).partition(b"\n")
        if int(checksum, 16) == crc32(body):
            document = json.loads(body)
            return document["fields"], document["warnings"]
    except (OSError, AmlError, ValueError):
        pass  # absent or damaged: it is made again from the file itself
    return None


def _parse(path: str, kind: str, data: bytes, kept: str) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    parsed = _parser(kind)(data, path)
    if not parsed.secret:
        _keep(kept, parsed)
    return parsed.fields, parsed.warnings


def _parser(kind: str) -> Callable[[bytes, str], Parsed]:
    try:
        from aml_jupyter.config import dependencies, parse
    except ImportError as error:  # yaml or pydantic: missing, or built for another system
        if (error.name or "").startswith("aml_jupyter"):
            raise
        raise ConfigError(
            f"configuration files cannot be read: {error}",
            code="config.no_reader",
            hint=f"Install it again: {sys.executable} -m pip install --force-reinstall pyyaml pydantic",
        ) from error

    parsers = {
        "compute": parse.compute,
        "runconfig": parse.run_configuration,
        "conda": dependencies.conda,
        "spark": dependencies.spark,
    }
    return parsers[kind]


def _keep(kept: str, parsed: Parsed) -> None:
    from aml_jupyter.confined import make_root, write_atomic

    body = json.dumps({"fields": parsed.fields, "warnings": parsed.warnings}).encode()
    try:
        make_root(os.path.dirname(kept))
        write_atomic(kept, b"%08x\n" % crc32(body) + body, sync=False)
    except (OSError, AmlError):
        pass  # the cache only saves time; a full or read-only disk is told where it matters
