"""Listing a project folder by folder, through folder descriptors, compared with what was seen last time.

A folder's names and the stat values of its files are two flat strings; a folder whose strings are those of
the last time is not looked at any closer. All that costs is one lstat a file.
"""

from __future__ import annotations

import errno
import os
from struct import error as struct_error
from struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Final

    from aml_jupyter.snapshot import Rules
    from aml_jupyter.snapshot.build import Builder

    Record = tuple[
        str, bytes, tuple[str, ...], tuple[str, ...], tuple[str, ...], bytes, int, int, tuple[str, ...]
    ]

WIDTH = 5  # mode, size, mtime, ctime, inode
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FOLDERS = 64
_MASK = (1 << 64) - 1


# a folder's Record: all that is known of it, in one tuple that marshal writes
NAMES: Final = 0  # entries in the order of the system, joined by NUL; folders end with a slash
STATS: Final = 1  # the folder's mode, then WIDTH numbers for each entry that is neither folder nor skipped
SKIPPED: Final = 2  # entries (no folders) that are left out and not even looked at
HIDDEN: Final = 3  # entries (no folders) that are left out but looked at: ignore files
FOLDERS: Final = 4  # folders in it that are sent, sorted
LINES: Final = 5  # its part of the manifest
FILES: Final = 6  # number of files and links
SIZE: Final = 7  # bytes of its files
NOTES: Final = 8  # warnings about its files


class Scan:
    """One walk over a project: `now` is what it is, with the records of `seen` where nothing changed."""

    def __init__(self, fd: int, seen: dict[str, Record], rules: Rules) -> None:
        self.fd = fd
        self.rules = rules
        self.seen = seen
        self.now: dict[str, Record] = {}
        self.faults = Faults()
        self.builder: Builder | None = None

    @property
    def unchanged(self) -> bool:
        """Whether everything is as it was."""
        return self.builder is None and not self.faults.any()

    def run(self) -> None:
        """Walk, once."""
        walk(self.fd, self._visit, self.faults)

    def again(self) -> Scan:
        """A second scan that starts from what this one found."""
        unread = self.builder.pending if self.builder is not None else {}
        return self._next(self.seen | {path: now for path, now in self.now.items() if path not in unread})

    def afresh(self) -> Scan:
        """A second scan that believes nothing."""
        return self._next({})

    def _next(self, seen: dict[str, Record]) -> Scan:
        scan = Scan(self.fd, seen, self.rules)
        scan.run()
        return scan

    def _visit(self, path: str, fd: int, forced: bool) -> tuple[tuple[str, ...], bool]:
        seen = self.seen.get(path)
        if seen is not None and not forced:
            names, values = listing(fd, seen[SKIPPED])
            if "\0".join(names) == seen[NAMES] and packed(values) == seen[STATS]:
                self.now[path] = seen
                return seen[FOLDERS], False
        else:
            names, values = listing(fd, ())
        if self.builder is None:
            from aml_jupyter.snapshot.build import Builder

            self.builder = Builder(self)
        return self.builder.folder(path, fd, names, values, seen, forced)


def listing(fd: int, skipped: Collection[str]) -> tuple[list[str], list[int]]:
    """The names in an open folder and, flat, the stat values of what is neither folder nor skipped."""
    names: list[str] = []
    values: list[int] = [os.fstat(fd).st_mode & 0o777]
    add = names.append
    with os.scandir(fd) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_dir(follow_symlinks=False):
                add(name + "/")
            elif skipped and name in skipped:
                add(name)
            else:
                try:
                    st = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # removed while the folder was listed: as if it had never been
                    continue
                add(name)
                values += (st.st_mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_ino)
    return names, values


def packed(values: list[int]) -> bytes:
    """Stat values as bytes; times before 1678 and after 2262 are folded."""
    try:
        return pack(f"={len(values)}q", *values)
    except struct_error:
        return pack(f"={len(values)}Q", *[value & _MASK for value in values])


class Faults:
    """What a walk met and could not list."""

    __slots__ = ("moved", "unreadable")

    def __init__(self) -> None:
        self.moved: list[str] = []
        self.unreadable: list[tuple[str, str]] = []

    def any(self) -> bool:
        """Whether there was anything."""
        return bool(self.moved or self.unreadable)

    def add(self, path: str, error: OSError) -> None:
        """File an error under what it means: the tree moved under the walk, or may not be read."""
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE):
            self.moved.append(path)
        elif error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise error
        else:
            self.unreadable.append((path, error.strerror or str(error)))


def walk(
    root_fd: int, visit: Callable[[str, int, bool], tuple[tuple[str, ...], bool]], faults: Faults
) -> None:
    """Call `visit(path, fd, forced)` for every folder, parents first; it answers with the folders to enter
    and whether they are forced.

    Depth is not bounded: at most 64 folders are open at a time, a parent that was closed is opened again
    from the root.
    """
    folders, forced = visit("", root_fd, False)
    frames: list[tuple[str, list[str], bool]] = [("", sorted(folders, reverse=True), forced)]
    fds = [root_fd]
    closed = 0  # frames 1..closed have no descriptor now
    try:
        while frames:
            path, rest, forced = frames[-1]
            if not rest:
                frames.pop()
                fd = fds.pop()
                if frames and fd >= 0:
                    os.close(fd)
                closed = min(closed, len(frames) - 1)
                continue
            name = rest.pop()
            below = f"{path}/{name}" if path else name
            try:
                if fds[-1] < 0:
                    fds[-1] = open_below(root_fd, path)
                fd = os.open(name, _FOLDER, dir_fd=fds[-1])
            except OSError as error:
                faults.add(below, error)
                continue
            try:
                folders, forced = visit(below, fd, forced)
            except OSError as error:
                os.close(fd)
                faults.add(below, error)
                continue
            except BaseException:
                os.close(fd)
                raise
            if not folders:
                os.close(fd)
                continue
            frames.append((below, sorted(folders, reverse=True), forced))
            fds.append(fd)
            if len(fds) - closed > _OPEN_FOLDERS:
                closed = _close_one(fds, closed)
    finally:
        for fd in fds[1:]:
            if fd >= 0:
                os.close(fd)


def _close_one(fds: list[int], closed: int) -> int:
    closed += 1
    if fds[closed] >= 0:
        os.close(fds[closed])
        fds[closed] = -1
    return closed


def open_below(root_fd: int, path: str) -> int:
    """A new descriptor of a folder below another, never through a link; OSError."""
    fd = os.dup(root_fd)
    for part in path.split("/") if path else ():
        above = fd
        try:
            fd = os.open(part, _FOLDER, dir_fd=above)
        finally:
            os.close(above)
    return fd


class Cursor:
    """Folders below a root opened one after the other, from the nearest one that is still open."""

    def __init__(self, root_fd: int, make: Callable[[str, int], None] | None = None) -> None:
        self._root = root_fd
        self._parts: list[str] = []
        self._fds: list[int] = []
        self._make = make

    def go(self, path: str) -> int:
        """The descriptor of folder `path`; valid until the next call; OSError."""
        parts = path.split("/") if path else []
        same = 0
        for a, b in zip(parts, self._parts):  # noqa: B905 - the shorter one ends it
            if a != b:
                break
            same += 1
        self._cut(same)
        for part in parts[same:]:
            above = self._fds[-1] if self._fds else self._root
            if above < 0:
                self._fds[-1] = above = open_below(self._root, "/".join(self._parts))
            if self._make is not None:
                self._make(part, above)
            self._fds.append(os.open(part, _FOLDER, dir_fd=above))
            self._parts.append(part)
            if len(self._fds) > _OPEN_FOLDERS and self._fds[-_OPEN_FOLDERS] >= 0:
                os.close(self._fds[-_OPEN_FOLDERS])
                self._fds[-_OPEN_FOLDERS] = -1
        if not self._fds:
            return self._root
        if self._fds[-1] < 0:
            self._fds[-1] = open_below(self._root, path)
        return self._fds[-1]

    def _cut(self, keep: int) -> None:
        while len(self._fds) > keep:
            fd = self._fds.pop()
            self._parts.pop()
            if fd >= 0:
                os.close(fd)

    def close(self) -> None:
        """Close every folder that is open."""
        self._cut(0)


def refuse_places(fd: int, root: str, store: str) -> None:
    """Raise SnapshotError `snapshot.refused` where a copy would hold the world or itself."""
    home = os.path.realpath(os.path.dirname(store))
    why = ""
    if root == "/":
        why = "it is the root of the file system"
    elif os.path.samestat(os.fstat(fd), _stat(os.path.expanduser("~"))):
        why = "it is the home folder"
    elif home == root or home.startswith(root + "/"):
        why = f"it contains {home}, where runs and snapshots are kept: the copy would copy itself"
    elif root.startswith(home + "/"):
        why = f"it lies inside {home}, where runs and snapshots are kept"
    if why:
        from aml_jupyter.errors import SnapshotError

        raise SnapshotError(
            f"{root} cannot be taken as a project: {why}",
            code="snapshot.refused",
            hint="Move the notebook or script into a folder of its own and start it from there.",
        )


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError:  # no home folder: nothing to compare with
        return os.stat_result((0,) * 10)
