"""Keeping a store small and sound: collect what no run needs, merge small packs, find damage."""

from __future__ import annotations

import fcntl
import os
import time

from aml_jupyter.errors import AmlError, SnapshotError
from aml_jupyter.frozen import Value
from aml_jupyter.snapshot.manifest import read_manifest, rows
from aml_jupyter.snapshot.objects import (
    Locked,
    Objects,
    Writer,
    pack_names,
    read_index,
    refuse_store,
    sha256,
    sweep,
    sync_folder,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Keep = Callable[[bytes], bool]

_CHUNK = 1 << 20
_FORGET_AFTER = 30 * 86400
_MOST_PACKS = 32
_SMALL_PACK = 4 << 20
_WORTH_IT = 4  # a pack is written anew when a quarter of it is dead


class Damage(Value):
    """Something wrong in a store: `kind` is "manifest", "pack" or "content"; `name` its id or SHA-256."""

    kind: str
    name: str
    reason: str
    snapshots: tuple[str, ...] = ()


def gc(objects: Objects, referenced: frozenset[str], *, dry_run: bool, grace: float) -> int:
    """Remove manifests and contents that are not needed; the bytes freed."""
    store = objects.path
    if not os.path.isdir(store):
        return 0
    with Locked(store, exclusive=True):
        try:
            sweep(store)
            young = time.time() - grace
            names = sorted(os.listdir(f"{store}/manifests"))
            kept = [name for name in names if name in referenced or _age(store, name) >= young]
            needed = {digest for name in kept for digest in digests(read_manifest(store, name))}
            gone = sorted(set(names) - set(kept))
            freed = sum(os.path.getsize(f"{store}/manifests/{name}") for name in gone)
            if not dry_run:
                for name in gone:
                    os.unlink(f"{store}/manifests/{name}")
                sync_folder(f"{store}/manifests")
                _forget(store)
            return freed + _collect_large(objects, needed, dry_run) + _collect_packs(objects, needed, dry_run)
        except OSError as error:
            refuse_store(error, store)


def _age(store: str, name: str) -> float:
    return os.stat(f"{store}/manifests/{name}").st_mtime


def digests(manifest: bytes) -> Iterator[bytes]:
    """The digests of the contents that a manifest names."""
    return (bytes.fromhex(str(row[4])) for row in rows(manifest) if row[0] == "file")


def _forget(store: str) -> None:
    """Remove what was seen of projects that were not used for long."""
    folder = f"{store}/seen"
    if not os.path.isdir(folder):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.stat(follow_symlinks=False).st_mtime < time.time() - _FORGET_AFTER:
                os.unlink(entry.path)


def _collect_large(objects: Objects, needed: set[bytes], dry_run: bool) -> int:
    freed = 0
    for digest in objects.large() - needed:
        path = objects.large_path(digest)
        freed += os.path.getsize(path)
        if not dry_run:
            os.unlink(path)
    return freed


def _collect_packs(objects: Objects, needed: set[bytes], dry_run: bool) -> int:
    freed = 0
    live: set[bytes] = set()  # a content may lie in two packs; one is enough
    for name in pack_names(objects.path):
        path = objects.pack_path(name)
        try:
            index = list(read_index(path))
        except ValueError:  # `check` tells of it
            continue
        keep = {digest for digest, _, _ in index if digest in needed and digest not in live}
        live |= keep
        dead = sum(size for digest, _, size in index if digest not in keep)
        total = os.path.getsize(path)
        if not keep:
            freed += total
            if not dry_run:
                os.unlink(path)
        elif dead * _WORTH_IT > total:
            freed += dead
            if not dry_run:
                _rewrite(objects, [name], keep.__contains__)
    return freed


def _rewrite(objects: Objects, names: list[str], keep: Keep) -> None:
    """Replace packs by one with the contents that `keep` says."""
    writer = Writer(Objects(objects.path), anew=True)
    try:
        for name in names:
            for digest, data in contents_of(objects.pack_path(name)):
                if keep(digest):
                    writer.add(digest, data)
        made = writer.commit()
    finally:
        writer.drop()
    for name in names:
        if name != made:
            os.unlink(objects.pack_path(name))
    sync_folder(f"{objects.path}/packs")


def contents_of(path: str) -> Iterator[tuple[bytes, bytes]]:
    """Digests and bytes in a pack, in their order there.  Raises ValueError when it is damaged, OSError."""
    index = sorted(read_index(path), key=lambda entry: entry[1])
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        for digest, offset, size in index:
            yield digest, os.pread(fd, size, offset)
    finally:
        os.close(fd)


def merge_packs(objects: Objects) -> None:
    """Make one pack of the small ones when there are many; the caller holds the store's lock, shared."""
    names = pack_names(objects.path)
    if len(names) <= _MOST_PACKS:
        return
    lock = os.open(f"{objects.path}/merge.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sizes = {name: os.path.getsize(objects.pack_path(name)) for name in pack_names(objects.path)}
        small = [name for name, size in sizes.items() if size < _SMALL_PACK]
        if len(small) > 1:
            _rewrite(objects, small, lambda _: True)
    except BlockingIOError:  # another process is at it
        pass
    except (ValueError, FileNotFoundError):  # a damaged pack stays as it is, for `check`
        pass
    finally:
        os.close(lock)


def check(objects: Objects, *, repair: bool) -> list[Damage]:
    """Everything that is damaged or missing; `repair` removes it, so that it can be stored again."""
    if not os.path.isdir(objects.path):
        return []
    with Locked(objects.path, exclusive=repair):
        needed: dict[bytes, list[str]] = {}
        damage = _check_manifests(objects.path, needed)
        bad_packs, bad, good = _check_packs(objects)
        large_bad, large_good = _check_large(objects)
        good |= large_good
        bad = {digest: why for digest, why in (bad | large_bad).items() if digest not in good}
        damage += [Damage(kind="pack", name=name, reason=why) for name, why in bad_packs.items()]
        for digest in sorted(needed.keys() | bad.keys()):
            if digest not in good:
                users = tuple(sorted(set(needed.get(digest, ()))))
                damage.append(
                    Damage(
                        kind="content", name=digest.hex(), reason=bad.get(digest, "missing"), snapshots=users
                    )
                )
        if repair and damage:
            _repair(objects, bad_packs, good)
        return damage


def _check_manifests(store: str, needed: dict[bytes, list[str]]) -> list[Damage]:
    damage = []
    for name in sorted(os.listdir(f"{store}/manifests")):
        try:
            manifest = read_manifest(store, name)
            if sha256(manifest).hex() != name:
                raise SnapshotError("its bytes are not those of its id")
            for digest in digests(manifest):
                needed.setdefault(digest, []).append(name)
        except AmlError as error:
            damage.append(Damage(kind="manifest", name=name, reason=error.message, snapshots=(name,)))
    return damage


def _check_packs(objects: Objects) -> tuple[dict[str, str], dict[bytes, str], set[bytes]]:
    bad_packs: dict[str, str] = {}
    bad: dict[bytes, str] = {}
    good: set[bytes] = set()
    for name in pack_names(objects.path):
        try:
            for digest, data in contents_of(objects.pack_path(name)):
                if sha256(data) == digest:
                    good.add(digest)
                else:
                    bad[digest] = f"damaged in pack {name}"
        except ValueError as error:
            bad_packs[name] = str(error)
        except OSError as error:
            bad_packs[name] = error.strerror or str(error)
    return bad_packs, bad, good


def _check_large(objects: Objects) -> tuple[dict[bytes, str], set[bytes]]:
    bad: dict[bytes, str] = {}
    good: set[bytes] = set()
    for digest in sorted(objects.large()):
        try:
            if file_digest(objects.large_path(digest)) == digest:
                good.add(digest)
            else:
                bad[digest] = "damaged"
        except OSError as error:
            bad[digest] = error.strerror or str(error)
    return bad, good


def file_digest(path: str) -> bytes:
    """The SHA-256 of a file.  Raises OSError."""
    from hashlib import sha256 as start

    digest = start()
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        while chunk := os.read(fd, _CHUNK):
            digest.update(chunk)
    finally:
        os.close(fd)
    return digest.digest()


def _repair(objects: Objects, bad_packs: dict[str, str], good: set[bytes]) -> None:
    for name in pack_names(objects.path):
        if name in bad_packs:
            os.unlink(objects.pack_path(name))
        elif any(digest not in good for digest, _, _ in read_index(objects.pack_path(name))):
            _rewrite(objects, [name], good.__contains__)
    for digest in objects.large() - good:
        os.unlink(objects.large_path(digest))
    for name in os.listdir(f"{objects.path}/manifests"):
        try:
            sound = sha256(read_manifest(objects.path, name)).hex() == name and all(
                digest in good for digest in digests(read_manifest(objects.path, name))
            )
        except AmlError:
            sound = False
        if not sound:  # it is taken again, from the project, when a run needs it
            os.unlink(f"{objects.path}/manifests/{name}")
