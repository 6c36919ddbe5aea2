"""Opening, listing and creating files below a folder without ever leaving it.

    check_name, shown            one grammar for names; a form of a name that people may see
    Root                         a folder held open; everything below it goes through folder descriptors
    scan, walk, Entry            listing without following; unreadable folders are entries with an error
    write_atomic, read_bounded   single files of ours by absolute path
    copy_fd, remove_tree

A path is opened component by component with O_NOFOLLOW, so that no exchange of a folder for a link, at any
moment, leads outside. (`openat2` does the same in one call, but ctypes takes 5 ms to load.)
"""

from __future__ import annotations

import errno
import os
import stat

from aml_jupyter.confined import files, tree
from aml_jupyter.confined.files import (
    copy_fd,
    exchange,
    is_temporary,
    make_root,
    open_regular,
    read_bounded,
    sync,
    write_atomic,
)
from aml_jupyter.confined.names import FileFault, FileThere, MissingFile, check_found, check_name, shown
from aml_jupyter.confined.tree import Budget, Entry, remove_tree, scan
from aml_jupyter.errors import ConfinedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

__all__ = [
    "Budget",
    "ConfinedError",
    "Entry",
    "FileFault",
    "FileThere",
    "MissingFile",
    "Root",
    "check_name",
    "copy_fd",
    "exchange",
    "is_temporary",
    "make_root",
    "open_regular",
    "read_bounded",
    "remove_tree",
    "scan",
    "shown",
    "sync",
    "write_atomic",
]


class Root:
    """A folder held open by its descriptor; every path is relative to it and never leaves it.

    The folder's own path is trusted (it may lead through links). Paths below are POSIX text as `check_name`
    takes it, "" where the folder itself is meant. All methods raise ConfinedError: `name.invalid`,
    `path.link` (a link on the way or at the end), `path.not_folder`, `path.not_regular`; and FileFault for
    what the system refuses, with MissingFile and FileThere among them.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise FileFault.of(error, path) from error

    @classmethod
    def create(cls, path: str, mode: int = 0o700) -> Self:
        """The folder of an absolute path, made (with those above it) when it is missing."""
        try:
            make_root(path, mode)
        except OSError as error:
            raise FileFault.of(error, path) from error
        return cls(path)

    def folder(self, path: str) -> Root:
        """A Root of a folder below this one."""
        try:
            fd = self._open_folder(path)
        except OSError as error:
            raise FileFault.of(error, path) from error
        below = Root.__new__(Root)
        below.path = f"{self.path}/{path}" if path else self.path
        below.fd = fd
        return below

    def close(self) -> None:
        """Close the descriptor; again is no error."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open_file(self, path: str) -> int:
        """A read descriptor of a regular file; FIFOs and devices are not opened."""
        with _At(self.fd, path) as at:
            return open_regular(at.name, at.fd)[0]

    def read_bytes(self, path: str, limit: int | None = None) -> bytes:
        """The bytes of a regular file; ConfinedError `file.too_big` beyond `limit`."""
        with _At(self.fd, path) as at:
            fd, found = open_regular(at.name, at.fd)
            try:
                return files.read_all(fd, limit, path, found.st_size)
            finally:
                os.close(fd)

    def create_file(self, path: str, mode: int = 0o600, exclusive: bool = True) -> int:
        """A write descriptor of a new file; folders on the way are made (0700).

        Without `exclusive` an existing file or link is removed first; it is never written into, since it may
        have other names elsewhere.
        """
        with _At(self.fd, path, make=True) as at:
            if not exclusive:
                _unlink_quietly(at.name, at.fd)
            return files.new_file(at.name, at.fd, mode)

    def replace_file(self, path: str, data: bytes, mode: int = 0o600, sync: bool = True) -> None:
        """Put a file in place whole, or leave the old one; folders on the way are made."""
        with _At(self.fd, path, make=True) as at:
            files.replace(at.name, at.fd, lambda fd: files.write_all(fd, data), mode=mode, durable=sync)

    def publish(
        self,
        path: str,
        write: Callable[[int], object],
        *,
        mode: int = 0o600,
        overwrite: bool = False,
        sync: bool = True,
    ) -> None:
        """Like `replace_file`, with a function that fills the descriptor it is given.

        Without `overwrite` a name that is taken raises FileThere, also when it was taken meanwhile.
        """
        with _At(self.fd, path, make=True) as at:
            files.replace(at.name, at.fd, write, mode=mode, durable=sync, overwrite=overwrite)

    def open_partial(self, path: str) -> int:
        """A descriptor for reading and writing of a file that an earlier attempt may have begun.

        What is there and is no file of one name is refused: ConfinedError `path.not_regular`.
        """
        with _At(self.fd, path, make=True) as at:
            return files.open_partial(at.name, at.fd)

    def settle(self, partial: str, path: str, *, overwrite: bool = False) -> None:
        """Give a file that is whole its name in the same folder; FileThere where that is taken."""
        with _At(self.fd, path, writes=True) as at:
            files.settle(check_found(partial)[-1], at.name, at.fd, overwrite=overwrite)

    def make_dirs(self, path: str, mode: int = 0o700) -> None:
        """Make a folder and those above it that are missing, each with `mode` whatever the umask."""
        try:
            fd = _descend(self.fd, check_found(path), make=mode)
        except OSError as error:
            raise FileFault.of(error, path) from error
        os.close(fd)

    def remove(self, path: str) -> None:
        """Remove a file, a link or an empty folder."""
        with _At(self.fd, path, writes=True) as at:
            if stat.S_ISDIR(os.lstat(at.name, dir_fd=at.fd).st_mode):
                os.rmdir(at.name, dir_fd=at.fd)
            else:
                os.unlink(at.name, dir_fd=at.fd)

    def remove_tree(self, path: str) -> None:
        """Remove whatever is at a path with all below it; nothing there is no error."""
        try:
            with _At(self.fd, path, writes=True) as at:
                tree.remove_below(at.fd, at.name)
        except MissingFile:
            pass

    def rename(self, old: str, new: str, *, overwrite: bool = True) -> None:
        """Rename a file or folder; folders on the way to the new name must exist."""
        with _At(self.fd, old) as a, _At(self.fd, new) as b:
            if not overwrite and files.exists_at(b.name, b.fd):
                raise FileExistsError(errno.EEXIST, "exists", new)
            os.rename(a.name, b.name, src_dir_fd=a.fd, dst_dir_fd=b.fd)

    def exists(self, path: str) -> bool:
        """Whether there is something of that name (a link counts, whatever it points to)."""
        try:
            self.lstat(path)
        except FileFault as error:
            if error.code in ("path.missing", "path.not_folder", "path.link"):
                return False
            raise
        return True

    def lstat(self, path: str) -> os.stat_result:
        """What the system knows of a name, not following it."""
        if not path:
            return os.fstat(self.fd)
        with _At(self.fd, path) as at:
            return os.lstat(at.name, dir_fd=at.fd)

    def walk(
        self,
        path: str = "",
        *,
        budget_files: int | None = None,
        budget_bytes: int | None = None,
        enter: Callable[[Entry], bool] | None = None,
    ) -> Iterator[Entry]:
        """Everything below a folder as Entry objects with paths relative to this Root.

        Each folder comes before what is in it, the names of a folder in order. `enter` is asked for every
        folder whether to list it. A folder that cannot be listed is an Entry with `error`. ConfinedError
        `budget.files` (names met) or `budget.bytes` (of regular files) beyond the budgets.
        """
        fd = -1
        try:
            fd = self._open_folder(path)
            prefix = path + "/" if path else ""
            limited = budget_files is not None or budget_bytes is not None
            budget = Budget(budget_files, budget_bytes) if limited else None
            yield from tree.walk(fd, prefix, budget=budget, enter=enter)
        except OSError as error:
            raise FileFault.of(error, path or self.path) from error
        finally:
            if fd >= 0:
                os.close(fd)

    def _open_folder(self, path: str) -> int:
        if not path:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.fd)
        with _At(self.fd, path) as at:
            return files.open_folder(at.name, at.fd)


class _At:
    """The open folder of a path's last component; faults of the system inside become FileFault."""

    __slots__ = ("_path", "fd", "name")

    def __init__(self, root_fd: int, path: str, *, writes: bool = False, make: bool = False) -> None:
        *above, self.name = check_found(path)
        self._path = path
        try:
            self.fd = _descend(root_fd, above, make=0o700 if make else None, readable=writes or make)
        except OSError as error:
            raise FileFault.of(error, path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        os.close(self.fd)
        if isinstance(error, OSError) and not isinstance(error, FileFault):
            raise FileFault.of(error, self._path) from error


def _descend(root_fd: int, parts: Sequence[str], *, make: int | None = None, readable: bool = True) -> int:
    """A new descriptor of the folder `parts` below a folder, made with mode `make` if need be; OSError."""
    fd = os.dup(root_fd)
    for part in parts:
        above = fd
        try:
            fd = _open_or_make(part, above, make, readable)
        finally:
            os.close(above)
    return fd


def _open_or_make(name: str, dir_fd: int, make: int | None, readable: bool) -> int:
    try:
        return files.open_folder(name, dir_fd, readable=readable)
    except FileNotFoundError:
        if make is None:
            raise
    try:
        files.new_folder(name, dir_fd, make)
    except FileExistsError:  # another process was faster
        pass
    return files.open_folder(name, dir_fd, readable=readable)


def _unlink_quietly(name: str, dir_fd: int) -> None:
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
