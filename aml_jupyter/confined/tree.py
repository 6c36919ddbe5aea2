"""Listing and removing folder trees: no link is followed, nothing left out in silence, at any depth."""

from __future__ import annotations

import errno
import os
import stat

from aml_jupyter.confined.files import open_folder, set_folder_mode, temporary_name
from aml_jupyter.confined.names import MAX_DEPTH, MAX_FOUND, FileFault, shown
from aml_jupyter.errors import ConfinedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# of the folders on the way down, so many stay open, and beyond them every 64th
_WINDOW = 32
_ANCHOR = 64
# a removal moves what lies deeper to the top, so that it needs no more levels
_REMOVE_DEPTH = 512

_KINDS = {1: "fifo", 2: "device", 4: "dir", 6: "device", 8: "file", 10: "link", 12: "socket"}


class Entry:
    """One name that a walk found.

    `path` is relative to where the walk began, `kind` one of file, dir, link, fifo, socket, device, unknown.
    `error` says why a folder could not be listed or a name not be looked at; `target` is a link's text.
    """

    __slots__ = ("error", "kind", "name", "path", "stat", "target")

    def __init__(self, path: str, name: str, found: os.stat_result | None) -> None:
        self.path = path
        self.name = name
        self.stat = found
        self.kind = "unknown" if found is None else _KINDS.get(found.st_mode >> 12, "unknown")
        self.error: str | None = None
        self.target: str | None = None

    @property
    def size(self) -> int:
        """Bytes (the logical size of a sparse file)."""
        return self.stat.st_size if self.stat else 0

    @property
    def mtime_ns(self) -> int:
        """Time of the last change of content, in nanoseconds."""
        return self.stat.st_mtime_ns if self.stat else 0

    @property
    def ctime_ns(self) -> int:
        """Time of the last change of content or attributes, in nanoseconds."""
        return self.stat.st_ctime_ns if self.stat else 0

    @property
    def ino(self) -> int:
        """Inode number."""
        return self.stat.st_ino if self.stat else 0

    @property
    def mode(self) -> int:
        """Permission bits."""
        return stat.S_IMODE(self.stat.st_mode) if self.stat else 0

    @property
    def nlink(self) -> int:
        """Number of names of the file."""
        return self.stat.st_nlink if self.stat else 0

    def __repr__(self) -> str:
        return f"Entry({self.path!r}, {self.kind}, {self.error or self.size})"


class Budget:
    """How many names and bytes a walk may meet; None is no limit."""

    __slots__ = ("bytes", "bytes_left", "files", "files_left")

    def __init__(self, files: int | None, size: int | None) -> None:
        self.files, self.bytes = files, size
        self.files_left: float = float("inf") if files is None else files
        self.bytes_left: float = float("inf") if size is None else size

    def name(self) -> None:
        """Count one name; ConfinedError `budget.files` beyond the limit."""
        self.files_left -= 1
        if self.files_left < 0:
            raise ConfinedError(f"there are more than {self.files} files and folders", code="budget.files")

    def content(self, size: int) -> None:
        """Count bytes of a regular file; ConfinedError `budget.bytes` beyond the limit."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise ConfinedError(f"the files have more than {self.bytes} bytes", code="budget.bytes")


def scan(dir_fd: int, prefix: str = "", budget: Budget | None = None) -> list[Entry]:
    """The names of one folder, sorted, each looked at without following; paths begin with `prefix`.

    `dir_fd` must have been opened for reading. Raises OSError when the folder cannot be read.
    """
    # names and lstat by descriptor are faster than the entries of scandir
    names = os.listdir(dir_fd) if budget is None else _count_names(dir_fd, budget)
    names.sort()
    entries = []
    for name in names:
        try:
            entry = Entry(prefix + name, name, os.lstat(name, dir_fd=dir_fd))
        except OSError as error:
            entry = Entry(prefix + name, name, None)
            entry.error = _reason(error)
        if entry.kind == "link":
            _read_link(entry, dir_fd)
        entries.append(entry)
    if budget is not None:
        budget.content(sum(entry.size for entry in entries if entry.kind == "file"))
    return entries


def _read_link(entry: Entry, dir_fd: int) -> None:
    try:
        entry.target = os.readlink(entry.name, dir_fd=dir_fd)
    except OSError as error:  # gone, or no link any more
        entry.error = _reason(error)


def _count_names(dir_fd: int, budget: Budget) -> list[str]:
    # one by one, so that a folder of a hundred million names ends at the budget and not with the memory
    names = []
    with os.scandir(dir_fd) as found:
        for item in found:
            budget.name()
            names.append(item.name)
    return names


class Chain:
    """The folders from a root down to the current one, with few descriptors however deep.

    A folder that was closed on the way down is opened again from above, by its name, and must still be the
    same one. The root's descriptor belongs to the caller.
    """

    def __init__(self, root_fd: int) -> None:
        self._fds = [root_fd]
        self._names = [""]
        self._identities = [(0, 0)]

    def __len__(self) -> int:
        return len(self._fds)

    def push(self, name: str) -> int:
        """Go into a folder of the current one; its descriptor; OSError."""
        if len(self._fds) > MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, "too many levels", name)
        fd = open_folder(name, self.fd())
        found = os.fstat(fd)
        self._fds.append(fd)
        self._names.append(name)
        self._identities.append((found.st_dev, found.st_ino))
        old = len(self._fds) - 1 - _WINDOW
        if old > 1 and old % _ANCHOR:  # the root and the first level stay open
            self._close(old)
        return fd

    def fd(self) -> int:
        """The descriptor of the current folder, opened again if need be; OSError."""
        if self._fds[-1] < 0:
            self._reopen()
        return self._fds[-1]

    def fd_at(self, level: int) -> int:
        """The descriptor of the root (0) or of the first folder below it (1)."""
        return self._fds[level]

    def pop(self) -> str:
        """Go up; the name of the folder that was left."""
        self._close(len(self._fds) - 1)
        self._fds.pop()
        self._identities.pop()
        return self._names.pop()

    def close(self) -> None:
        """Close all but the root."""
        while len(self._fds) > 1:
            self.pop()

    def _close(self, level: int) -> None:
        if self._fds[level] >= 0:
            os.close(self._fds[level])
            self._fds[level] = -1

    def _reopen(self) -> None:
        last = len(self._fds) - 1
        level = last
        while self._fds[level] < 0:
            level -= 1
        above = self._fds[level]
        for below in range(level + 1, last + 1):
            fd = open_folder(self._names[below], above)
            if above != self._fds[level]:
                os.close(above)
            above = fd
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) != self._identities[below]:
                os.close(fd)
                raise OSError(errno.ESTALE, "moved meanwhile", self._names[below])
        self._fds[last] = above


def walk(
    root_fd: int,
    prefix: str = "",
    *,
    budget: Budget | None = None,
    enter: Callable[[Entry], bool] | None = None,
) -> Iterator[Entry]:
    """Everything below a folder, each folder before what is in it, the names of a folder in order.

    `enter` is asked for every folder whether to list it. A folder that cannot be listed is an Entry with
    `error`. Raises OSError when the first folder itself cannot be read, ConfinedError beyond the budget.
    """
    chain = Chain(root_fd)
    levels = [iter(scan(root_fd, prefix, budget))]
    try:
        while levels:
            for entry in levels[-1]:
                if entry.kind == "dir" and (enter is None or enter(entry)):
                    below = _enter(chain, entry, budget)
                    yield entry
                    if below is not None:
                        levels.append(iter(below))
                        break
                else:
                    yield entry
            else:
                levels.pop()
                if levels:
                    chain.pop()
    finally:
        chain.close()


def _enter(chain: Chain, entry: Entry, budget: Budget | None) -> list[Entry] | None:
    depth = len(chain)
    try:
        if len(entry.path) > MAX_FOUND:
            raise OSError(errno.ENAMETOOLONG, "too long", entry.path)
        return scan(chain.push(entry.name), entry.path + "/", budget)
    except OSError as error:
        if len(chain) > depth:
            chain.pop()
        entry.error = _reason(error)
        return None


def remove_below(root_fd: int, name: str) -> None:
    """Remove a file, link or folder tree `name` of a folder; one that is not there is no error.

    Links are removed, not followed; a folder where another file system is mounted is left alone. What cannot
    be removed does not stop the rest and is told at the end by ConfinedError `path.not_removed`.
    """
    removal = _Removal(root_fd)
    try:
        removal.run(name)
    finally:
        removal.chain.close()
    if removal.kept:
        raise ConfinedError(
            f"{len(removal.kept)} files or folders could not be removed: " + "; ".join(removal.kept[:10]),
            code="path.not_removed",
        )


class _Removal:
    """One removal of a tree: where it is, and what could not be removed."""

    def __init__(self, root_fd: int) -> None:
        self.chain = Chain(root_fd)
        self.kept: list[str] = []
        self._device = os.fstat(root_fd).st_dev
        # names in the topmost folder; what lies too deep is moved there and its name appended
        self._top: list[str] = []

    def run(self, name: str) -> None:
        levels = [iter([name])]
        while levels:
            for item in levels[-1]:
                below = self._remove(item)
                if below is not None:
                    self._top = self._top if len(levels) > 1 else below
                    levels.append(iter(below))
                    break
            else:
                levels.pop()
                if levels:
                    self._leave()

    def _remove(self, name: str) -> list[str] | None:
        """Remove one name; the names below it when it is a folder to go into."""
        depth = len(self.chain)
        try:
            found = os.lstat(name, dir_fd=self.chain.fd())
            if not stat.S_ISDIR(found.st_mode):
                self._unlink(name)
            elif found.st_dev != self._device:
                self._keep(name, "another file system is mounted there")
            elif depth > _REMOVE_DEPTH:
                self._move_up(name)
            else:
                return os.listdir(self._enter(name))
        except FileNotFoundError:  # gone already, which is what was asked for
            pass
        except OSError as error:
            self._keep(name, _reason(error))
        if len(self.chain) > depth:
            self.chain.pop()
        return None

    def _keep(self, name: str, why: str) -> None:
        self.kept.append(f"{shown(name)}: {why}")

    def _unlink(self, name: str) -> None:
        fd = self.chain.fd()
        try:
            os.unlink(name, dir_fd=fd)
        except PermissionError:
            os.fchmod(fd, 0o700)
            os.unlink(name, dir_fd=fd)

    def _enter(self, name: str) -> int:
        try:
            fd = self.chain.push(name)
        except PermissionError:
            set_folder_mode(name, self.chain.fd(), 0o700)
            fd = self.chain.push(name)
        if os.fstat(fd).st_mode & 0o300 != 0o300:
            os.fchmod(fd, 0o700)
        return fd

    def _move_up(self, name: str) -> None:
        moved = temporary_name()
        set_folder_mode(name, self.chain.fd(), 0o700)
        os.rename(name, moved, src_dir_fd=self.chain.fd(), dst_dir_fd=self.chain.fd_at(1))
        self._top.append(moved)

    def _leave(self) -> None:
        name = self.chain.pop()
        try:
            os.rmdir(name, dir_fd=self.chain.fd())
        except FileNotFoundError:
            pass
        except OSError as error:
            if not self.kept:  # else it is not empty because of what was told before
                self._keep(name, _reason(error))


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or errno.EIO)


def remove_tree(path: str) -> None:
    """Remove a file, link or folder tree of ours by its absolute path; one that is not there is no error.

    Raises FileFault when the folder above cannot be opened, ConfinedError `path.not_removed` with the first
    ten names that remain.
    """
    folder, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise ConfinedError(f"{shown(path)} may not be removed", code="name.invalid")
    try:
        dir_fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FileFault.of(error, path) from error
    try:
        remove_below(dir_fd, name)
    finally:
        os.close(dir_fd)
