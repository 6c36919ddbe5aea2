"""Writing a snapshot back: real copies, never links into the store."""

from __future__ import annotations

import errno
import os
import stat

from aml_jupyter.errors import SnapshotError
from aml_jupyter.snapshot.manifest import read_manifest, rows
from aml_jupyter.snapshot.objects import Objects
from aml_jupyter.snapshot.scan import Cursor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from aml_jupyter.snapshot import Store

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_WINDOW = 256 << 10
_ATTEMPTS = 3


def restore(store: Store, snapshot_id: str, into: str, *, force: bool = False) -> None:
    """Write a snapshot into a folder; over one that is not empty only with `force`.

    With `force` files of the same names are replaced and all others stay. Raises SnapshotError
    `restore.not_empty`, `snapshot.unknown`, `store.damaged`, `store.no_space`.
    """
    plan = rows(read_manifest(store.path, snapshot_id))
    fd = _open_empty(into, force=force)
    try:
        with Source(store.objects()) as source:
            _Copy(fd, source, replace=force).run(plan)
    except OSError as error:
        _refuse(error, into)
    finally:
        os.close(fd)


def materialize(store: Store, snapshot_id: str, into: str) -> None:
    """Write a snapshot into a new or empty folder."""
    restore(store, snapshot_id, into)


def read(store: Store, snapshot_id: str, path: str) -> bytes:
    """The bytes of one file.

    Raises SnapshotError `snapshot.unknown`, `snapshot.no_file`, `store.damaged`.
    """
    for row in rows(read_manifest(store.path, snapshot_id)):
        if row[0] == "file" and row[1] == path:
            with Source(store.objects()) as source:
                return source.read(bytes.fromhex(str(row[4])))
    raise SnapshotError(f"there is no file {path} in snapshot {snapshot_id[:12]}", code="snapshot.no_file")


class Source:
    """Reads contents from a store, each checked against its digest; a context manager."""

    def __init__(self, objects: Objects) -> None:
        from hashlib import sha256

        self._sha256 = sha256
        self._objects = objects
        self._fds: dict[str, int] = {}
        # the part of a pack that is in memory
        self._view = memoryview(bytearray(_WINDOW))
        self._name, self._begin, self._end = "", 0, 0

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    def find(self, digest: bytes) -> memoryview | None:
        """A small content, valid until the next call; None for one that has a file of its own."""
        for _ in range(_ATTEMPTS):
            place = self._objects.places().get(digest)
            if place is None:
                if digest in self._objects.large():
                    return None
                raise _damaged(digest)
            name, offset, size = place
            if name != self._name or offset < self._begin or offset + size > self._end:
                try:
                    self._load(name, offset, size)
                except FileNotFoundError:  # packs were merged meanwhile
                    self._objects.reload()
                    continue
            offset -= self._begin
            data = self._view[offset : offset + size]
            if self._sha256(data).digest() != digest:
                raise _damaged(digest)
            return data
        raise _damaged(digest)

    def _load(self, name: str, offset: int, size: int) -> None:
        """Read the part of a pack that begins with a content: its neighbours are asked for next."""
        fd = self._fds.get(name, -1)
        if fd < 0:
            fd = self._fds[name] = os.open(self._objects.pack_path(name), os.O_RDONLY | os.O_NOFOLLOW)
        if size > len(self._view):
            self._view = memoryview(bytearray(size))
        self._name, self._begin = name, offset
        self._end = offset + os.preadv(fd, [self._view], offset)
        if self._end < offset + size:
            self._view[self._end - offset : size] = bytes(offset + size - self._end)  # never what was there

    def open_large(self, digest: bytes) -> int:
        """A read descriptor of a large content."""
        try:
            return os.open(self._objects.large_path(digest), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise _damaged(digest) from None

    def read(self, digest: bytes) -> bytes:
        """A content."""
        small = self.find(digest)
        return self._read_large(digest) if small is None else bytes(small)

    def _read_large(self, digest: bytes) -> bytes:
        fd = self.open_large(digest)
        try:
            data = b"".join(iter(lambda: os.read(fd, _CHUNK), b""))
            self.verify(fd, digest)
        finally:
            os.close(fd)
        return data

    def verify(self, fd: int, digest: bytes) -> None:
        """Raise SnapshotError `store.damaged` unless an open file has this digest."""
        os.lseek(fd, 0, os.SEEK_SET)
        found = self._sha256()
        while count := os.readv(fd, [self._view]):
            found.update(self._view[:count])
        self._name = ""  # the window was used for this
        if found.digest() != digest:
            raise _damaged(digest)


def _damaged(digest: bytes) -> SnapshotError:
    return SnapshotError(
        f"content {digest.hex()[:12]} of a snapshot is damaged or missing",
        code="store.damaged",
        hint="`aml check` lists what is damaged; the next run of the unchanged project stores it again.",
    )


class _Copy:
    """Fills a folder; with `replace` one that may hold something."""

    def __init__(self, fd: int, source: Source, *, replace: bool = False) -> None:
        self._fd = fd
        self._replace = replace
        self._source = source
        self._umask = _umask()
        self._late: list[tuple[str, int]] = []  # folders that get their mode at the end

    def run(self, plan: list[list[str | int]]) -> None:
        """Write every entry."""
        cursor = Cursor(self._fd)
        here, dir_fd = "", self._fd
        try:
            for row in plan:
                path = str(row[1])
                folder, _, name = path.rpartition("/")
                if folder != here:
                    here, dir_fd = folder, cursor.go(folder)
                if row[0] == "file":
                    self._file(dir_fd, name, int(str(row[2]), 8), bytes.fromhex(str(row[4])))
                elif row[0] == "link":
                    self._make_room(dir_fd, name)
                    os.symlink(str(row[2]), name, dir_fd=dir_fd)
                else:
                    self._folder(dir_fd, name, path, int(str(row[2]), 8))
            for path, mode in reversed(self._late):
                folder, _, name = path.rpartition("/")
                os.chmod(name, mode, dir_fd=cursor.go(folder))
        finally:
            cursor.close()

    def _make_room(self, dir_fd: int, name: str) -> None:
        if self._replace:
            try:
                os.unlink(name, dir_fd=dir_fd)
            except FileNotFoundError:
                pass

    def _folder(self, dir_fd: int, name: str, path: str, mode: int) -> None:
        # written to before it gets a mode that forbids it
        first = mode if mode & 0o300 == 0o300 and not self._masks(mode) else 0o700
        if first != mode or self._replace:
            self._late.append((path, mode))
        try:
            os.mkdir(name, first, dir_fd=dir_fd)
        except FileExistsError:
            if not self._replace:
                raise
            if stat.S_ISDIR(os.lstat(name, dir_fd=dir_fd).st_mode):
                os.chmod(name, 0o700, dir_fd=dir_fd)
            else:
                os.unlink(name, dir_fd=dir_fd)
                os.mkdir(name, 0o700, dir_fd=dir_fd)

    def _file(self, dir_fd: int, name: str, mode: int, digest: bytes) -> None:
        data = self._source.find(digest)
        if self._replace:
            self._make_room(dir_fd, name)
        fd = os.open(name, _NEW, mode, dir_fd=dir_fd)
        try:
            if self._masks(mode):
                os.fchmod(fd, mode)
            if data is None:
                self._copy_large(fd, digest)
            elif os.write(fd, data) < len(data):
                _write_rest(fd, data)
        finally:
            os.close(fd)

    def _masks(self, mode: int) -> bool:
        """Whether the umask takes something from a mode."""
        return bool(mode & self._umask)

    def _copy_large(self, fd: int, digest: bytes) -> None:
        from aml_jupyter.confined import copy_fd

        source = self._source.open_large(digest)
        try:
            copy_fd(source, fd)
            self._source.verify(source, digest)
        finally:
            os.close(source)


def _write_rest(fd: int, data: memoryview) -> None:
    """Go on behind what a short write took; the next one says why it was short."""
    data = data[os.lseek(fd, 0, os.SEEK_CUR) :]
    while data:
        data = data[os.write(fd, data) :]


def _umask() -> int:
    """The process's umask, read without the moment in which it would be another one."""
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:  # no Linux: every mode is set
        pass
    return 0o777


def _open_empty(into: str, *, force: bool) -> int:
    try:
        os.makedirs(into, 0o700, exist_ok=True)
        fd = os.open(into, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        _refuse(error, into)
    with os.scandir(fd) as entries:
        if not force and next(entries, None) is not None:
            os.close(fd)
            raise SnapshotError(
                f"{into} is not empty",
                code="restore.not_empty",
                hint="Name a new folder, or use --force: it replaces files of the same names.",
            )
    return fd


def _refuse(error: OSError, into: str) -> NoReturn:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    raise SnapshotError(
        f"the snapshot cannot be written to {into}: {error.strerror}",
        code="store.no_space" if full else "restore.failed",
    ) from error
