"""`log`: bytes in order of arrival, to a limit, and what is done when they cannot be kept.

Nothing here ever blocks or stops the user's process: what cannot be written is counted and dropped.
"""

import posix
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from events import Journal

TAIL = 1 << 20  # of what comes after the limit, kept in memory and appended at the end
RETRY = 1.0  # seconds before a full disk is tried again
STRETCHES = 20000
FLAGS = posix.O_RDWR | posix.O_CREAT | posix.O_TRUNC | posix.O_NOFOLLOW | posix.O_CLOEXEC


class Log:
    """The log of a job; `offset` is where the next byte goes, whatever somebody else does to the file."""

    def __init__(self, limit: int, journal: "Journal") -> None:
        self.journal = journal
        self.limit = limit
        self.offset = 0
        self.dropped = 0  # bytes that are in no place of the file
        self.capped = False
        self.tail = bytearray()
        self.after_limit = 0
        self.lost = 0  # bytes dropped since the last one that could be written
        self.retry_at = 0.0
        self.cause = ""
        self.truncated = False
        self.stretches = Stretches(journal)
        self.fd = -1
        self._open()

    def _open(self) -> None:
        try:
            self.fd = posix.open("log", FLAGS, 0o600)
        except OSError as error:  # no more files in this file system: tried again later
            self._fail(error)

    def write(self, data: "bytes | memoryview", is_error: bool) -> None:
        """Append bytes of stdout or, with `is_error`, stderr; counts what cannot be written."""
        if self.capped:
            self._keep_tail(data)
            return
        room = self.limit - self.offset
        if len(data) > room:
            self._append(data[:room], is_error)
            self._cap()
            self._keep_tail(data[room:])
        else:
            self._append(data, is_error)

    def _append(self, data: "bytes | memoryview", is_error: bool) -> None:
        if self.lost and not self._recovered():
            self.lost += len(data)
            self.dropped += len(data)
            return
        start = self.offset
        missing = len(data) - self._put(data)
        if self.offset > start:
            self.stretches.note(start, self.offset, is_error)
        self.lost += missing
        self.dropped += missing

    def _put(self, data: "bytes | memoryview") -> int:
        """Write at the log's own position; returns how many bytes found a place."""
        done = 0
        while done < len(data):
            try:
                count = posix.pwrite(self.fd, data[done:] if done else data, self.offset)
            except OSError as error:
                self._fail(error)
                break
            self.offset += count
            done += count
        return done

    def _fail(self, error: OSError) -> None:
        if self.fd >= 0 or not self.cause:
            self.cause = error.strerror or str(error)
        self.retry_at = time.monotonic() + RETRY

    def _recovered(self, last: bool = False) -> bool:
        """Whether there is space again; if so the gap has got its one marker."""
        if not last and time.monotonic() < self.retry_at:
            return False
        if self.fd < 0:
            self._open()
        marker = ("\n[aml: %d bytes of output were lost here: %s]\n" % (self.lost, self.cause)).encode(
            "utf-8"
        )
        before = self.offset
        if self._put(marker) < len(marker):
            self._forget_from(before)
            return False
        self.journal.warn("log.lost", "%d bytes of output were lost: %s" % (self.lost, self.cause))
        self.lost = 0
        return True

    def _forget_from(self, offset: int) -> None:
        self.offset = offset
        try:
            posix.ftruncate(self.fd, offset)
        except OSError:
            pass

    def _cap(self) -> None:
        self.capped = True
        self.journal.warn(
            "log.capped",
            "the log reached its limit of %d bytes; the last %d bytes will be added at the end"
            % (self.limit, TAIL),
        )

    def _keep_tail(self, data: "bytes | memoryview") -> None:
        self.after_limit += len(data)
        self.tail += data[-TAIL:]
        if len(self.tail) > 2 * TAIL:
            del self.tail[:-TAIL]

    def check(self) -> None:
        """Try a full disk again; say once when somebody else shortened the file."""
        if self.lost:
            self._recovered()
        if self.truncated or self.fd < 0:
            return
        found = posix.fstat(self.fd)
        if found.st_size < self.offset or found.st_nlink == 0:
            self.truncated = True
            self.journal.warn("log.truncated", "the log was truncated or removed by the job itself")

    def finish(self) -> None:
        """Append the marker and the tail that the limit left out, or the marker of bytes lost at the end."""
        if self.lost:
            self._recovered(last=True)
        if self.capped:
            del self.tail[:-TAIL]
            left_out = self.after_limit - len(self.tail)
            if left_out:
                text = "\n[aml: the log reached its limit: %d bytes are left out here]\n" % left_out
                self._put(text.encode("ascii"))
            kept = self._put(bytes(self.tail))
            self.dropped += self.after_limit - kept
        self.stretches.flush()

    def sync(self) -> None:
        """Make the log durable where the file system can."""
        try:
            posix.fsync(self.fd)
        except OSError:
            pass


class Stretches:
    """Which bytes of the log are stderr, as few events as will do.

    A stretch that stands alone is told at once, one that grows is told in parts: at first every 50 ms, ever
    less often the more there were.  After 20,000 of them one warning says that no more are told.
    """

    def __init__(self, journal: "Journal") -> None:
        self.journal = journal
        self.start = self.end = 0
        self.count = 0
        self.told = 0.0

    def note(self, start: int, end: int, is_error: bool) -> None:
        """Bytes `start` to `end` were just written."""
        if not is_error:
            self.flush()
        elif self.end == start and self.end > self.start:
            self.end = end
        else:
            self.flush()
            self.start, self.end = start, end

    def due(self) -> float:
        """When the open stretch is to be told, on the monotonic clock; infinite without one."""
        if self.end == self.start:
            return float("inf")
        return self.told + (0.05 if self.count < 1000 else 0.5 if self.count < 10000 else 5.0)

    def flush(self) -> None:
        """Tell the open stretch, if there is one."""
        if self.end == self.start:
            return
        if self.count < STRETCHES:
            self.journal.emit("stderr", {"start": self.start, "end": self.end}, at=self.start)
        elif self.count == STRETCHES:
            self.journal.warn("log.stderr_unmarked", "stderr is no longer told apart from here on")
        self.count += 1
        self.start = self.end
        self.told = time.monotonic()
