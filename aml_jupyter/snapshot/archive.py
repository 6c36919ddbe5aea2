"""A snapshot as one stream of bytes, to be kept elsewhere: its manifest, then each content once.

    amlsnap1 <bytes of the manifest>\n
    the manifest, whose SHA-256 is the snapshot's id
    the contents in the order in which the manifest first names them, as long as it says

What comes back from elsewhere is believed in nothing: every name, link, length and hash is looked at before
anything is kept.
"""

from __future__ import annotations

import os

from aml_jupyter.errors import AmlError, SnapshotError
from aml_jupyter.snapshot.checks import escapes
from aml_jupyter.snapshot.manifest import Entry, entries, read_manifest
from aml_jupyter.snapshot.objects import LARGE, Locked, Writer, publish_file, refuse_store
from aml_jupyter.snapshot.restoring import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from aml_jupyter.snapshot import Store

_MAGIC = b"amlsnap1 "
_LONGEST_MANIFEST = 1 << 30
_CHUNK = 1 << 20


def pack(store: Store, snapshot_id: str, fd: int) -> None:
    """Write the archive of a snapshot to an open file.  Raises SnapshotError `snapshot.unknown`, damage."""
    manifest = read_manifest(store.path, snapshot_id)
    _write(fd, _MAGIC + b"%d\n" % len(manifest) + manifest)
    with Source(store.objects()) as source:
        for entry in _contents(entries(manifest)):
            digest = bytes.fromhex(entry.sha256)
            small = source.find(digest)
            if small is not None:
                _write(fd, small)
                continue
            large = source.open_large(digest)
            try:
                while block := os.read(large, _CHUNK):
                    _write(fd, block)
            finally:
                os.close(large)


def unpack(store: Store, snapshot_id: str, fd: int) -> None:
    """Keep a snapshot out of an archive that is open at its beginning, or nothing of it.

    Raises SnapshotError `snapshot.archive` for one that is not this snapshot, or that holds what no snapshot
    may hold; `store.no_space`, `store.unavailable`.
    """
    manifest = _manifest_of(fd, snapshot_id)
    found = _checked(manifest)
    objects = store.objects()
    try:
        with Locked(store.path):
            writer = Writer(objects)
            try:
                for entry in _contents(found):
                    _take(writer, entry, fd)
                if os.read(fd, 1):
                    raise _refused("there is more in it than its manifest names")
                writer.commit()
            finally:
                writer.drop()
            publish_file(store.path, f"{store.path}/manifests/{snapshot_id}", manifest)
    except OSError as error:
        refuse_store(error, store.path)


def has(store: Store, snapshot_id: str) -> bool:
    """Whether a snapshot is in a store."""
    return os.path.exists(f"{store.path}/manifests/{snapshot_id}")


def _contents(found: list[Entry]) -> Iterator[Entry]:
    """The first entry of each content."""
    seen = set()
    for entry in found:
        if entry.kind == "file" and entry.sha256 not in seen:
            seen.add(entry.sha256)
            yield entry


def _manifest_of(fd: int, snapshot_id: str) -> bytes:
    from hashlib import sha256

    head = b""
    while not head.endswith(b"\n") and len(head) < 40:
        head += os.read(fd, 1) or b"\n"
    size = head.removeprefix(_MAGIC).strip()
    if not head.startswith(_MAGIC) or not size.isdigit() or int(size) > _LONGEST_MANIFEST:
        raise _refused("it does not begin as one")
    manifest = _read(fd, int(size))
    if sha256(manifest).hexdigest() != snapshot_id:
        raise _refused("its manifest is another one")
    return manifest


def _checked(manifest: bytes) -> list[Entry]:
    """The entries of a manifest that anybody may have made."""
    try:
        found = entries(manifest)
    except (AmlError, ValueError, TypeError, IndexError, RecursionError) as error:
        raise _refused("its manifest cannot be read") from error
    folders = {""}
    names: set[str] = set()
    links = {entry.path: entry.target for entry in found if entry.kind == "link"}
    for entry in found:
        _check_entry(entry, folders, names, links)
        names.add(entry.path)
        if entry.kind == "dir":
            folders.add(entry.path)
    return found


def _check_entry(entry: Entry, folders: set[str], names: set[str], links: dict[str, str]) -> None:
    from aml_jupyter.confined.names import check_found

    try:
        check_found(entry.path)
    except AmlError as error:
        raise _refused(error.message) from None
    if entry.path in names or entry.path.rpartition("/")[0] not in folders:
        raise _refused("its names are not in order")
    if not 0 <= entry.mode <= 0o777:
        raise _refused("a file has a mode that none can have")
    if entry.kind == "link":
        if not entry.target or "\0" in entry.target or escapes(entry.path, entry.target, links):
            raise _refused(f"the link {entry.path!r} leads out of it")
    elif entry.kind == "file" and (entry.size < 0 or not _is_digest(entry.sha256)):
        raise _refused("a file has no hash")


def _is_digest(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")


def _take(writer: Writer, entry: Entry, fd: int) -> None:
    from hashlib import sha256

    digest = bytes.fromhex(entry.sha256)
    if entry.size < LARGE:
        data = _read(fd, entry.size)
        if sha256(data).digest() != digest:
            raise _refused(f"{entry.path!r} is damaged")
        writer.add(digest, data)
        return
    hashing = sha256()
    staged = writer.stage()
    try:
        left = entry.size
        while left:
            block = _read(fd, min(left, _CHUNK))
            hashing.update(block)
            staged.write(block)
            left -= len(block)
        if hashing.digest() != digest:
            raise _refused(f"{entry.path!r} is damaged")
    except BaseException:
        staged.drop()
        raise
    writer.add_large(digest, staged)


def _read(fd: int, size: int) -> bytes:
    """Exactly so many bytes; what claims to be long costs no memory before it comes."""
    parts = []
    while size:
        part = os.read(fd, min(size, _CHUNK))
        if not part:
            raise _refused("it is cut off")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _refused(why: str) -> SnapshotError:
    return SnapshotError(
        f"what the store has is no archive of this snapshot: {why}",
        code="snapshot.archive",
        hint="Nothing of it was kept. Whoever made the run can store it again: aml push RUN",
    )
