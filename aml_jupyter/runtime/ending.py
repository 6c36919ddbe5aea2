"""`exit.json`, the commit point of a run, with room set aside for it while there still is some."""

import posix

import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

RESERVE = 64 * 1024
KEPT = 16 * 1024  # of the reserve, for exit.json itself; the rest is for last words
NAME, TEMPORARY, RESERVED = "exit.json", ".exit.json.partial", "reserve"
FLAGS = posix.O_RDWR | posix.O_CREAT | posix.O_TRUNC | posix.O_NOFOLLOW | posix.O_CLOEXEC


class Ending:
    """Writes `exit.json` once, in space allocated at the start: a full disk does not hide the ending."""

    def __init__(self) -> None:
        self.fd = -1
        try:
            self.fd = posix.open(RESERVED, FLAGS, 0o600)
            _allocate(self.fd, RESERVE)
        except OSError:  # full from the beginning: try again at the end
            self._drop()

    def release(self) -> None:
        """Give back all but what exit.json needs, for the last lines of log and events."""
        if self.fd >= 0:
            try:
                posix.ftruncate(self.fd, KEPT)
            except OSError:
                self._drop()

    def commit(self, record: "Mapping[str, object]") -> None:
        """Write the record, make it durable, give it its name.  Raises OSError when no way is left."""
        data = (plain.dumps(record) + "\n").encode("ascii")
        if self.fd < 0 or not self._commit_reserve(data):
            self._drop()
            _commit_new(data)
        try:
            folder = posix.open(".", posix.O_RDONLY | posix.O_CLOEXEC)
            posix.fsync(folder)
            posix.close(folder)
        except OSError:  # some file systems cannot sync a folder
            pass

    def _commit_reserve(self, data: bytes) -> bool:
        try:
            named = posix.stat(RESERVED, follow_symlinks=False)
            held = posix.fstat(self.fd)
            if (named.st_ino, named.st_dev) != (held.st_ino, held.st_dev):
                return False
            posix.pwrite(self.fd, data, 0)
            posix.ftruncate(self.fd, len(data))
            posix.fsync(self.fd)
            posix.rename(RESERVED, NAME)
        except OSError:
            return False
        return True

    def _drop(self) -> None:
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1
        try:
            posix.unlink(RESERVED)
        except OSError:
            pass


def _allocate(fd: int, size: int) -> None:
    if hasattr(posix, "posix_fallocate"):
        posix.posix_fallocate(fd, 0, size)
    else:
        posix.pwrite(fd, bytes(size), 0)


def _commit_new(data: bytes) -> None:
    fd = posix.open(TEMPORARY, FLAGS, 0o600)
    try:
        if posix.write(fd, data) != len(data):
            raise OSError(28, "no space for exit.json")
        posix.fsync(fd)
    finally:
        posix.close(fd)
    posix.rename(TEMPORARY, NAME)
