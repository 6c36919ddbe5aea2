"""What was seen of a project last time, so that the next snapshot only compares.

One file a project and set of rules below `seen/`. It may be lost or damaged at any time: then everything is
read again. It belongs to one Python version, because marshal's format does.
"""

from __future__ import annotations

import marshal
import os
import sys
from zlib import crc32

from aml_jupyter.confined import write_atomic
from aml_jupyter.locks import wait_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aml_jupyter.snapshot.scan import Record

# raise it whenever built-in rules, records or the manifest change
_VERSION = 1
_MAGIC = b"amlseen\n"


class Key:
    """Where a project's memory lies and what it must say to be believed."""

    __slots__ = ("identity", "name")

    def __init__(self, name: str, identity: tuple[object, ...]) -> None:
        self.name = name
        self.identity = identity


class Memory:
    """A project as it was when its last snapshot was taken."""

    __slots__ = ("files", "folders", "size", "snapshot_id", "warnings")

    def __init__(
        self, snapshot_id: str, files: int, size: int, warnings: tuple[str, ...], folders: dict[str, Record]
    ) -> None:
        self.snapshot_id = snapshot_id
        self.files = files
        self.size = size
        self.warnings = warnings
        self.folders = folders


def key(fd: int, root: str, rules: tuple[object, ...]) -> Key:
    """The key of an open project folder under these rules."""
    st = os.fstat(fd)
    identity = (_VERSION, sys.hexversion, st.st_dev, st.st_ino, root, rules)
    return Key(
        f"{st.st_dev:x}-{st.st_ino:x}-{crc32(repr(identity).encode('utf-8', 'replace')):08x}", identity
    )


def load(store: str, key: Key) -> Memory | None:
    """What was saved under a key, or None."""
    try:
        with open(f"{store}/seen/{key.name}", "rb") as file:
            data = file.read()
    except OSError:  # never saved, removed or unreadable: all the same
        return None
    if (
        len(data) < 12
        or data[:8] != _MAGIC
        or crc32(memoryview(data)[12:]) != int.from_bytes(data[8:12], "big")
    ):
        return None
    identity, *rest = marshal.loads(memoryview(data)[12:])  # noqa: S302 - our own file, under a checksum
    return Memory(*rest) if identity == key.identity else None


def save(store: str, key: Key, memory: Memory) -> None:
    """Keep what was seen; a failure costs time, not correctness, and is passed over."""
    fields: Any = (
        key.identity,
        memory.snapshot_id,
        memory.files,
        memory.size,
        memory.warnings,
        memory.folders,
    )
    body = marshal.dumps(fields)
    head = _MAGIC + crc32(body).to_bytes(4, "big")
    try:
        write_atomic(f"{store}/seen/{key.name}", head + body, sync=False)
    except OSError:  # a full or read-only disk
        pass


def confirm(store: str, snapshot_id: str) -> bool:
    """Whether a snapshot is still in the store; if so `gc` is told that it was wanted just now.

    Raises HistoryError `history.locked`, naming the holder, when the store stays locked.
    """
    path = f"{store}/lock"
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:  # no store
        return False
    try:
        wait_lock(lock, path, shared=True)
        os.utime(f"{store}/manifests/{snapshot_id}")
    except OSError:  # collected, or the store may not be written to
        return os.path.exists(f"{store}/manifests/{snapshot_id}")
    finally:
        os.close(lock)
    return True
