"""Contents by SHA-256: packs for small files, one file each for large ones.

    packs/<name>.pack      magic, contents, index sorted by digest, footer with the index's CRC-32
    objects/<sha256>       a file of LARGE bytes or more
    staged/                   what is being written; a file whose writer died is unlocked and is removed
    lock                   shared by those who add, exclusive for those who remove

A file of the store has its name only once it is whole and on the disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
from struct import Struct
from zlib import crc32

from aml_jupyter.errors import SnapshotError
from aml_jupyter.locks import wait_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

LARGE = 1 << 20
_MAGIC = b"amlpack1"
_FOOTER = Struct(">QQI4x8s")  # where the index is, how many entries, its CRC-32
_ENTRY = Struct(">32sQQ")
_FLUSH = 1 << 20
_MOST_PIECES = 512  # of one writev

Place = tuple[str, int, int]  # pack name, offset, size


def sha256(data: bytes) -> bytes:
    """The digest of some bytes."""
    from hashlib import sha256 as digest

    return digest(data).digest()


class Objects:
    """The contents in a store; no I/O before the first call."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._places: dict[bytes, Place] | None = None
        self._large: set[bytes] = set()

    def places(self) -> dict[bytes, Place]:
        """Where every small content lies; read once."""
        if self._places is None:
            self.reload()
        assert self._places is not None
        return self._places

    def reload(self) -> None:
        """Read the indexes of all packs."""
        places: dict[bytes, Place] = {}
        for name in pack_names(self.path):
            try:
                for digest, offset, size in read_index(self.pack_path(name)):
                    places[digest] = (name, offset, size)
            except (FileNotFoundError, ValueError):  # merged meanwhile, or damaged: then it holds nothing
                continue
        self._large = {bytes.fromhex(name) for name in _names(f"{self.path}/objects") if len(name) == 64}
        self._places = places

    def has(self, digest: bytes) -> bool:
        """Whether a content is there."""
        return digest in self.places() or digest in self._large

    def large(self) -> set[bytes]:
        """The digests of all contents that have a file of their own."""
        self.places()
        return self._large

    def pack_path(self, name: str) -> str:
        """The path of a pack."""
        return f"{self.path}/packs/{name}.pack"

    def large_path(self, digest: bytes) -> str:
        """The path of a large content."""
        return f"{self.path}/objects/{digest.hex()}"


def pack_names(store: str) -> list[str]:
    """The names of all packs, sorted."""
    return sorted(name[:-5] for name in _names(f"{store}/packs") if name.endswith(".pack"))


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def read_index(path: str) -> Iterator[tuple[bytes, int, int]]:
    """The digests, offsets and sizes in a pack.  Raises ValueError when it is damaged, OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        size = os.fstat(fd).st_size
        footer = os.pread(fd, _FOOTER.size, max(0, size - _FOOTER.size))
        if len(footer) < _FOOTER.size:
            raise ValueError("a pack is too short")
        start, count, crc, magic = _FOOTER.unpack(footer)
        if magic != _MAGIC or start + count * _ENTRY.size + _FOOTER.size != size:
            raise ValueError("a pack has no footer")
        index = os.pread(fd, count * _ENTRY.size, start)
    finally:
        os.close(fd)
    if crc32(index) != crc or len(index) != count * _ENTRY.size:
        raise ValueError("a pack's index is damaged")
    return _ENTRY.iter_unpack(index)


class Staged:
    """A file in `staged/` that is locked while its writer lives, and gets its name when it is whole."""

    def __init__(self, store: str) -> None:
        self.path, self.fd = self._create(f"{store}/staged")

    @staticmethod
    def _create(folder: str) -> tuple[str, int]:
        while True:
            path = f"{folder}/{os.getpid()}-{os.urandom(6).hex()}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink:
                    return path, fd
            except BlockingIOError:  # the sweep of another process was faster: it removes the file
                pass
            os.close(fd)

    def write(self, data: bytes) -> None:
        """Append."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]

    def writev(self, pieces: list[bytes]) -> None:
        """Append many."""
        for at in range(0, len(pieces), _MOST_PIECES):
            part = pieces[at : at + _MOST_PIECES]
            want = sum(map(len, part))
            done = os.writev(self.fd, part)
            if done < want:
                self.write(b"".join(part)[done:])

    def sync(self) -> None:
        """Bring it to the disk."""
        os.fsync(self.fd)

    def publish(self, path: str) -> None:
        """Give it its name; the caller syncs the folder."""
        os.rename(self.path, path)
        os.close(self.fd)
        self.fd = -1

    def drop(self) -> None:
        """Remove it, unless it was published."""
        if self.fd >= 0:
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass
            os.close(self.fd)
            self.fd = -1


def sweep(store: str) -> None:
    """Remove what dead writers left in `staged/`."""
    for name in _names(f"{store}/staged"):
        path = f"{store}/staged/{name}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # published or removed meanwhile
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        except OSError:  # its writer lives, or it is gone
            pass
        finally:
            os.close(fd)


class Locked:
    """The store's lock, shared or exclusive, with its folders made; a context manager.

    Raises HistoryError `history.locked`, naming the holder, when it is not given in time.
    """

    def __init__(self, store: str, *, exclusive: bool = False) -> None:
        self._store = store
        self._shared = not exclusive
        self._fd = -1

    def __enter__(self) -> Locked:
        from aml_jupyter.confined import make_root

        path = f"{self._store}/lock"
        try:
            for name in ("/packs", "/objects", "/manifests", "/seen", "/staged"):
                if not os.path.isdir(self._store + name):
                    make_root(self._store + name)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise store_error(error, self._store) from error
        try:
            wait_lock(self._fd, path, shared=self._shared)
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class Writer:
    """Adds contents to a store: one pack, and large files; nothing shows before `commit`."""

    def __init__(self, objects: Objects, *, anew: bool = False) -> None:
        self._objects = objects
        self._anew = anew  # also what is there already
        self._pack: Staged | None = None
        self._index: list[bytes] = []
        self._added: set[bytes] = set()
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._end = len(_MAGIC)
        self._large: dict[bytes, Staged] = {}

    def add(self, digest: bytes, data: bytes) -> None:
        """Add a content unless it is there."""
        if digest in self._added or (not self._anew and self._objects.has(digest)):
            return
        self._added.add(digest)
        size = len(data)
        self._index.append(_ENTRY.pack(digest, self._end, size))
        self._end += size
        self._pieces.append(data)
        self._waiting += size
        if self._waiting >= _FLUSH:
            self._flush()

    def stage(self) -> Staged:
        """A place for a large content; hand it to `add_large` or drop it."""
        return Staged(self._objects.path)

    def add_large(self, digest: bytes, staged: Staged) -> None:
        """Add a content that was written to a staged file."""
        if digest in self._large or self._objects.has(digest):
            staged.drop()
        else:
            self._large[digest] = staged

    def _flush(self) -> None:
        if self._pack is None:
            self._pack = Staged(self._objects.path)
            self._pieces.insert(0, _MAGIC)
        self._pack.writev(self._pieces)
        self._pieces = []
        self._waiting = 0

    def commit(self) -> str:
        """Bring everything to the disk, then show it; the name of the new pack, "" when there is none."""
        self._commit_large()
        if not self._index:
            return ""
        self._index.sort()
        index = b"".join(self._index)
        self._pieces += [index, _FOOTER.pack(self._end, len(self._index), crc32(index), _MAGIC)]
        self._flush()
        assert self._pack is not None
        self._pack.sync()
        # equal packs have equal names
        name = sha256(index).hex()[:40]
        self._pack.publish(self._objects.pack_path(name))
        sync_folder(f"{self._objects.path}/packs")
        return name

    def _commit_large(self) -> None:
        if not self._large:
            return
        for staged in self._large.values():
            staged.sync()
        for digest, staged in self._large.items():
            staged.publish(self._objects.large_path(digest))
        sync_folder(f"{self._objects.path}/objects")

    def drop(self) -> None:
        """Remove what was not committed."""
        for staged in (*self._large.values(), self._pack):
            if staged is not None:
                staged.drop()


def publish_file(store: str, path: str, data: bytes) -> None:
    """Put a file of the store in place, whole and on the disk."""
    staged = Staged(store)
    try:
        staged.write(data)
        staged.sync()
        staged.publish(path)
    finally:
        staged.drop()
    sync_folder(os.path.dirname(path))


def sync_folder(path: str) -> None:
    """Bring a folder's names to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def store_error(error: OSError, store: str) -> SnapshotError:
    """What a failed write to the store means."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return SnapshotError(
            f"no space for snapshots in {store}: {error.strerror}",
            code="store.no_space",
            hint="Free some space, or remove runs and `aml gc`, or set AML_HOME to another disk.",
        )
    return SnapshotError(
        f"the snapshot store {store} cannot be used: {error.strerror}",
        code="store.unavailable",
        hint="Check the folder's owner and permissions, or set AML_HOME to another folder.",
    )


def refuse_store(error: OSError, store: str) -> NoReturn:
    """Raise what `store_error` says."""
    raise store_error(error, store) from error
