"""Locks between processes: a killed holder gives them back, waiting has a limit, the holder has a name."""

from __future__ import annotations

import errno
import fcntl
import os
import time

from aml_jupyter.errors import HistoryError

TYPE_CHECKING = False

# seconds that anybody waits for anybody else
PATIENCE = 30.0
# locks that a network file system does not know; the rename is still whole without them
_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL)


class exclusive:  # noqa: N801 - used as a statement: with exclusive(path)
    """Hold the lock of a file (made when missing) or folder; gives its descriptor.

    Raises HistoryError `history.locked`, naming the holder, after `patience` seconds (PATIENCE).
    """

    def __init__(self, path: str, patience: float | None = None) -> None:
        self.path = path
        self.patience = PATIENCE if patience is None else patience

    def __enter__(self) -> int:
        folder = os.path.isdir(self.path)
        flags = os.O_RDONLY | os.O_DIRECTORY if folder else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        self.fd = os.open(self.path, flags | os.O_CLOEXEC, 0o600)
        try:
            wait_lock(self.fd, self.path, patience=self.patience)
        except BaseException:
            os.close(self.fd)
            raise
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def wait_lock(fd: int, path: str, *, shared: bool = False, patience: float | None = None) -> None:
    """Take the lock of an open file, exclusive or shared with others who ask for a shared one.

    Raises HistoryError `history.locked`, naming the holder, after `patience` seconds (PATIENCE).
    """
    patience = PATIENCE if patience is None else patience
    due = time.monotonic() + patience
    pause = 0.0005
    while not try_lock(fd, shared=shared):
        if time.monotonic() >= due:
            raise locked(path, patience)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take the lock of an open file now, or say that somebody holds it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    return True


def locked(path: str, waited: float) -> HistoryError:
    """The error for a lock that was not given in time; names who holds it where the system tells."""
    pids = holders(path)
    who = ", ".join(f"process {pid} ({_command(pid)})" for pid in pids) or "another process"
    return HistoryError(
        f"{path} was locked for {waited:g} s by {who}",
        code="history.locked",
        hint="Nothing is lost. End that process or continue it (kill -CONT), then try again.",
    )


def holders(path: str) -> list[int]:
    """Pids of the processes that hold a lock on a file, as far as Linux tells (elsewhere none)."""
    try:
        found = os.stat(path)
        with open("/proc/locks", encoding="ascii") as file:
            lines = file.read().splitlines()
    except OSError:  # no such file, or not Linux
        return []
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    # 1: FLOCK ADVISORY WRITE pid major:minor:inode ...; those who wait have an arrow before the kind
    fields = [line.split() for line in lines if " -> " not in line]
    return sorted({int(f[4]) for f in fields if len(f) > 5 and f[5] == device and int(f[4]) > 0})


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read(500).replace(b"\0", b" ").strip())
    except OSError:  # ended meanwhile, or somebody else's
        return "command unknown"
