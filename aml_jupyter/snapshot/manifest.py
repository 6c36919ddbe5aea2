"""The manifest of a snapshot: its header, one JSON line an entry, and the lists made from it.

    {"format":1}
    ["dir","src","755"]
    ["file","src/train.py","644",1204,"<sha256>"]
    ["link","latest","src/train.py"]

Folders come in the order of their paths, each with its files and links sorted; the root has no line. Bytes of
names that are not UTF-8 stand as lone surrogates. The SHA-256 of all this is the snapshot's id.
"""

from __future__ import annotations

import os

from aml_jupyter.errors import SnapshotError
from aml_jupyter.frozen import Value
from aml_jupyter.job import check_format
from aml_jupyter.plainjson import loads

try:
    from _json import encode_basestring_ascii as quoted
except ImportError:  # an interpreter without the C parts
    from json.encoder import encode_basestring_ascii as quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

HEADER = b'{"format":1}\n'


class Entry(Value):
    """One entry: `kind` is "file", "link" or "dir"; `mode` the permission bits; `target` a link's text."""

    path: str
    kind: str
    size: int = 0
    mode: int = 0
    sha256: str = ""
    target: str = ""


class Difference(Value):
    """Paths of files and links, sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def file_line(path: str, mode: int, size: int, digest: str) -> bytes:
    """A file's line; `digest` in hex."""
    return b'["file",%s,"%o",%d,"%s"]\n' % (quoted(path).encode(), mode & 0o777, size, digest.encode())


def link_line(path: str, target: str) -> bytes:
    """A link's line."""
    return b'["link",%s,%s]\n' % (quoted(path).encode(), quoted(target).encode())


def dir_line(path: str, mode: int) -> bytes:
    """A folder's line."""
    return b'["dir",%s,"%o"]\n' % (quoted(path).encode(), mode & 0o777)


def read_manifest(store: str, snapshot_id: str) -> bytes:
    """The bytes of a manifest.  Raises SnapshotError `snapshot.unknown`, `store.damaged`."""
    if len(snapshot_id) != 64 or not all(char in "0123456789abcdef" for char in snapshot_id):
        raise SnapshotError(f"{snapshot_id!r} is no snapshot id", code="snapshot.unknown")
    try:
        with open(f"{store}/manifests/{snapshot_id}", "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise SnapshotError(
            f"snapshot {snapshot_id[:12]} is not in {store}",
            code="snapshot.unknown",
            hint="It was removed, or it belongs to another AML_HOME.",
        ) from None
    except OSError as error:
        raise SnapshotError(
            f"snapshot {snapshot_id[:12]} cannot be read: {error.strerror}", code="store.damaged"
        ) from error


def rows(manifest: bytes) -> list[list[str | int]]:
    """The lines as lists.  Raises SnapshotError `store.damaged`, FormatError."""
    head, _, body = manifest.partition(b"\n")
    try:
        header = loads(head)
        # one call for all lines is three times as fast as one a line
        lines: list[list[str | int]] = loads(b"[" + body[:-1].replace(b"\n", b",") + b"]")
    except ValueError as error:
        raise SnapshotError("the manifest of a snapshot is damaged", code="store.damaged") from error
    check_format(header if isinstance(header, dict) else {}, "a snapshot's manifest")
    return lines


def entries(manifest: bytes) -> list[Entry]:
    """All entries, parents first."""
    return [_entry(row) for row in rows(manifest)]


def _entry(row: list[str | int]) -> Entry:
    kind, path, *rest = row
    if kind == "file":
        mode, size, digest = rest
        return Entry(kind="file", path=str(path), mode=int(str(mode), 8), size=int(size), sha256=str(digest))
    if kind == "link":
        return Entry(kind="link", path=str(path), target=str(rest[0]))
    return Entry(kind="dir", path=str(path), mode=int(str(rest[0]), 8))


def difference(a: Iterable[Entry], b: Iterable[Entry]) -> Difference:
    """What differs between two lists of entries; folders are not listed."""
    old = {entry.path: entry for entry in a if entry.kind != "dir"}
    new = {entry.path: entry for entry in b if entry.kind != "dir"}
    return Difference(
        added=tuple(sorted(new.keys() - old.keys(), key=os.fsencode)),
        removed=tuple(sorted(old.keys() - new.keys(), key=os.fsencode)),
        changed=tuple(sorted((p for p in new.keys() & old.keys() if new[p] != old[p]), key=os.fsencode)),
    )
