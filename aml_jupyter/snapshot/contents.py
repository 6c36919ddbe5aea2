"""Reading one file of a project into the store: whole, unchanged while it was read, without passwords."""

from __future__ import annotations

import errno
import os
import stat
import time
from hashlib import sha256

from aml_jupyter.errors import SnapshotError
from aml_jupyter.snapshot.findings import Finding
from aml_jupyter.snapshot.manifest import file_line, link_line
from aml_jupyter.snapshot.objects import LARGE, Staged, Writer
from aml_jupyter.snapshot.secrets import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.snapshot import Rules

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CHUNK = 1 << 20
_LONGEST_WRITE = 2_000_000_000  # ns that writing a small file may take


class ReadError(Exception):
    """A file of the project could not be read; never one of the store."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Contents:
    """Reads files, keeps their contents, and collects the secrets it meets."""

    def __init__(self, writer: Writer, rules: Rules) -> None:
        self._writer = writer
        self._allow = rules.allow_secrets
        self._dependency_files = frozenset(rules.dependency_files)
        self._recent = time.time_ns() - _LONGEST_WRITE
        self._findings: list[Finding] = []

    def take(self, dir_fd: int, path: str, name: str, item: list[int], notes: list[str]) -> bytes | None:
        """Read a regular file whose stat values were `item`; its line, None when it was not that file.

        Raises ReadError.
        """
        size = item[1]
        edited = holds_passwords(path, name) or path in self._dependency_files
        if size >= LARGE and not edited:
            return self._take_large(dir_fd, path, name, item, notes)
        try:
            fd = os.open(name, _READ, dir_fd=dir_fd)
            try:
                if item[3] >= self._recent:
                    _await_writer(fd)
                data = os.read(fd, size + 1)
                while 0 < len(data) < size:
                    more = os.read(fd, size + 1 - len(data))
                    if not more:
                        break
                    data += more
                st = os.fstat(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise ReadError(error) from error
        if len(data) != size or not same(st, item):
            return None
        if edited:
            data = self._clean(path, data, notes)
        self._look(path, data, notes)
        digest = sha256(data)
        self._writer.add(digest.digest(), data)
        return file_line(path, item[0], len(data), digest.hexdigest())

    def line(self, dir_fd: int, path: str, name: str, item: list[int], notes: list[str]) -> bytes:
        """Read a file or link; its manifest line, b"" when it was not the one seen.  Raises ReadError."""
        if stat.S_ISLNK(item[0]):
            return read_link(dir_fd, path, name, item) or b""
        if stat.S_ISREG(item[0]):
            return self.take(dir_fd, path, name, item, notes) or b""
        return b""

    def _clean(self, path: str, data: bytes, notes: list[str]) -> bytes:
        from aml_jupyter.snapshot.passwords import without_credentials, without_passwords

        if path in self._dependency_files:
            data, found = without_credentials(path, data)
            if found:
                notes.append(f"{path}: credentials in addresses left out of the snapshot")
            return data
        data, keys = without_passwords(path, data)
        if keys:
            notes.append(f"{path}: {' and '.join(keys)} left out of the snapshot (null stands there)")
        return data

    def _look(self, path: str, data: bytes, notes: list[str]) -> None:
        for finding in find(path, data):
            if self._allow:
                notes.append(f"{finding} was let in by allow_secrets")
            else:
                self._findings.append(finding)

    def _take_large(
        self, dir_fd: int, path: str, name: str, item: list[int], notes: list[str]
    ) -> bytes | None:
        digest = sha256()
        done = 0
        staged: Staged | None = self._writer.stage()
        assert staged is not None
        try:
            fd = _open(name, dir_fd)
            try:
                _await_writer(fd)
                while done <= item[1]:
                    chunk = _read(fd, _CHUNK)
                    if not chunk:
                        break
                    if not done:
                        self._look(path, chunk, notes)
                    done += len(chunk)
                    digest.update(chunk)
                    staged.write(chunk)
                st = os.fstat(fd)
            finally:
                os.close(fd)
            if done != item[1] or not same(st, item):
                return None
            self._writer.add_large(digest.digest(), staged)
            staged = None
        finally:
            if staged is not None:
                staged.drop()
        return file_line(path, item[0], done, digest.hexdigest())

    def raise_findings(self) -> None:
        """Raise SnapshotError `snapshot.secret` when secrets were met that nobody allowed."""
        if not self._findings:
            return
        shown = "\n".join(f"  {finding}" for finding in self._findings[:10])
        more = len(self._findings) - 10
        if more > 0:
            shown += f"\n  and {more} more"
        first = self._findings[0].path
        raise SnapshotError(
            f"the project seems to hold secrets, which would be copied into the run:\n{shown}",
            code="snapshot.secret",
            hint=f"Move them out of the project, or add /{first} to .amlignore; "
            "what is no secret passes with --allow-secrets, which the run records.",
        )


def holds_passwords(path: str, name: str) -> bool:
    """Whether a file is one of those in which passwords stand: a compute file or a stale copy of one."""
    return ".compute" in name.lower() and "aml_config" in path.lower().split("/")[:-1]


def same(st: os.stat_result, item: list[int]) -> bool:
    """Whether an open file is, unchanged, the one that had these stat values."""
    return (
        st.st_ctime_ns == item[3]
        and st.st_ino == item[4]
        and st.st_size == item[1]
        and st.st_mtime_ns == item[2]
        and st.st_mode == item[0]
    )


def _await_writer(fd: int) -> None:
    """Wait for the end of a write that is going on.

    A write stamps the file when it begins, so that nothing but the bytes would show it. Looking for a hole
    needs the lock that it holds (ext4, btrfs, tmpfs; xfs reads wait by themselves).
    """
    try:
        os.lseek(fd, 0, os.SEEK_HOLE)
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:  # an empty file, or a file system without the call
        pass


def _open(name: str, dir_fd: int) -> int:
    try:
        return os.open(name, _READ, dir_fd=dir_fd)
    except OSError as error:
        raise ReadError(error) from error


def _read(fd: int, size: int) -> bytes:
    try:
        return os.read(fd, size)
    except OSError as error:
        raise ReadError(error) from error


def read_link(dir_fd: int, path: str, name: str, item: list[int]) -> bytes | None:
    """A link's manifest line, None when it was not the one seen.  Raises ReadError."""
    try:
        target = os.readlink(name, dir_fd=dir_fd)
        st = os.lstat(name, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == errno.EINVAL:  # no link any more
            return None
        raise ReadError(error) from error
    if st.st_ino != item[4] or st.st_ctime_ns != item[3]:
        return None
    return link_line(path, target)
