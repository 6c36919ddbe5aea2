"""A damaged store made whole as far as somebody still has the bytes: the project, or another store.

Nothing is thrown away: damaged files are set aside, and what nobody has stays missing and is told by `check`.
"""

from __future__ import annotations

import os

from aml_jupyter.confined import Root, make_root, write_atomic
from aml_jupyter.errors import AmlError
from aml_jupyter.frozen import Value
from aml_jupyter.snapshot.manifest import Entry, entries, read_manifest
from aml_jupyter.snapshot.objects import LARGE, Locked, Objects, Writer, pack_names, sha256, sync_folder
from aml_jupyter.snapshot.upkeep import check, contents_of, file_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aml_jupyter.snapshot import Store
    from aml_jupyter.snapshot.upkeep import Damage

    Roots = Callable[[str], Iterable[str]]
    Archive = Callable[[str], int | None]


class Mended(Value):
    """What was done: files that were set aside, contents that came back and from where."""

    aside: tuple[str, ...] = ()
    from_projects: int = 0
    from_archives: tuple[str, ...] = ()


def mend(store: Store, roots: Roots, archive: Archive, aside: str) -> Mended:
    """Bring back what is damaged or missing; damaged files go into the folder `aside`.

    `roots(snapshot_id)` names folders that the snapshot may have been taken of, `archive(snapshot_id)` gives
    an open file with its archive, or None.  Raises SnapshotError `store.no_space`, `store.unavailable`.
    """
    damage = check(store.objects(), repair=False)
    if not damage:
        return Mended()
    with Locked(store.path, exclusive=True):
        moved = _set_aside(store.objects(), aside)
    wanted = {one.name: one for one in check(store.objects(), repair=False) if one.kind == "content"}
    found = _from_projects(store, wanted, roots)
    from_archives = _from_archives(store, archive, aside)
    return Mended(aside=tuple(moved), from_projects=found, from_archives=tuple(from_archives))


def _set_aside(objects: Objects, aside: str) -> list[str]:
    """Move damaged packs and large contents away; what is whole in a damaged pack is kept in a new one."""
    moved = []
    for name in pack_names(objects.path):
        path = objects.pack_path(name)
        try:
            found = list(contents_of(path))
        except (OSError, ValueError):  # nobody could read anything of it
            moved.append(move_aside(path, aside))
            continue
        whole = [(digest, data) for digest, data in found if sha256(data) == digest]
        if len(whole) < len(found):
            _keep(objects, whole)
            moved.append(move_aside(path, aside))
    for digest in sorted(objects.large()):
        path = objects.large_path(digest)
        try:
            sound = file_digest(path) == digest
        except OSError:
            sound = False
        if not sound:
            moved.append(move_aside(path, aside))
    return moved


def _keep(objects: Objects, whole: list[tuple[bytes, bytes]]) -> None:
    writer = Writer(objects, anew=True)
    try:
        for digest, data in whole:
            writer.add(digest, data)
        writer.commit()
    finally:
        writer.drop()


def move_aside(path: str, aside: str) -> str:
    """Give a file a place in a folder of damaged ones, under a name that is free; that place."""
    make_root(aside)
    number = 1
    while os.path.lexists(there := f"{aside}/{os.path.basename(path)}.{number}"):
        number += 1
    os.rename(path, there)
    sync_folder(os.path.dirname(path))
    return there


def _from_projects(store: Store, wanted: dict[str, Damage], roots: Roots) -> int:
    """Take contents from the folders that the snapshots were taken of, where these are still the same."""
    count = 0
    objects = store.objects()
    with Locked(store.path):
        writer = Writer(objects)
        try:
            for name, damage in wanted.items():
                places = [place for one in damage.snapshots for place in _places(store, one, name, roots)]
                count += any(_take(writer, root, entry) for root, entry in places)
            writer.commit()
        finally:
            writer.drop()
    return count


def _places(store: Store, snapshot_id: str, digest: str, roots: Roots) -> list[tuple[str, Entry]]:
    try:
        found = entries(read_manifest(store.path, snapshot_id))
    except (AmlError, ValueError, TypeError, IndexError):
        return []
    named = [entry for entry in found if entry.kind == "file" and entry.sha256 == digest]
    return [(root, entry) for root in roots(snapshot_id) for entry in named]


def _take(writer: Writer, root: str, entry: Entry) -> bool:
    """Add the content of a file when it is the one that is wanted."""
    digest = bytes.fromhex(entry.sha256)
    try:
        with Root(root) as folder:
            data = folder.read_bytes(entry.path, entry.size)
    except (AmlError, OSError):  # gone, larger now, or no file any more
        return False
    if sha256(data) != digest:
        return False
    if len(data) < LARGE:
        writer.add(digest, data)
    else:
        staged = writer.stage()
        staged.write(data)
        writer.add_large(digest, staged)
    return True


def _from_archives(store: Store, archive: Archive, aside: str) -> list[str]:
    """Take snapshots that still lack something from where else they are."""
    from aml_jupyter.snapshot.archive import unpack

    damage = check(store.objects(), repair=False)
    done = []
    for snapshot_id in sorted({one for found in damage for one in found.snapshots}):
        fd = archive(snapshot_id)
        if fd is None:
            continue
        damaged = _damaged_manifest(store, snapshot_id)
        try:
            unpack(store, snapshot_id, fd)
        except AmlError:  # what is there is not this snapshot: it stays as it is
            continue
        finally:
            os.close(fd)
        if damaged is not None:
            make_root(aside)
            write_atomic(f"{aside}/{snapshot_id}", damaged)
        done.append(snapshot_id)
    return done


def _damaged_manifest(store: Store, snapshot_id: str) -> bytes | None:
    try:
        found = read_manifest(store.path, snapshot_id)
    except AmlError:
        return None
    return None if sha256(found).hex() == snapshot_id else found
