"""`log`: bytes in order of arrival, to a limit, and what is done when they cannot be kept.

Nothing here ever blocks or stops the user's process: what cannot be written is counted and dropped.
"""

import posix
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from events import Journal
    from masking import Mask

TAIL = 1 << 20  # of what comes after the limit, kept in memory and appended at the end
RETRY = 1.0  # seconds before a full disk is tried again
STRETCHES = 20000
NAME, COPY = "log", ".log.partial"
HEAD = 64  # bytes at the beginning by which a file that was cut and written on is recognised
BLOCK = 1 << 20  # of a copy
PUT_BACK_LIMIT = 20  # each time all of the log is copied; the end of the run has one more
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
        self.head = b""  # what the file begins with, unless somebody else shortened it
        self.put_back = 0  # how often the file was put back in its place
        self.stretches = Stretches(journal)
        self.mask: "Mask | None" = None  # where the run has secrets
        self.fd = -1
        self._open()

    def _open(self) -> None:
        try:
            self.fd = posix.open(NAME, FLAGS, 0o600)
        except OSError as error:  # no more files in this file system: tried again later
            self._fail(error)

    def write(self, data: "bytes | memoryview", is_error: bool, in_message: bool = False) -> None:
        """Append bytes of stdout or, with `is_error`, stderr, without secrets; counts what is not written."""
        if self.mask is not None:
            data = self.mask.take(data, is_error, in_message)
        if data:
            self._write(data, is_error)

    def _write(self, data: "bytes | memoryview", is_error: bool) -> None:
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
        self.stretches.turn(is_error, self.offset)
        # what happened before these bytes is known to whoever sees them
        if self.journal.pending:
            self.journal.flush()
        start = self.offset
        missing = len(data) - self._put(data)
        if start == 0:
            self.head = bytes(data[: min(HEAD, self.offset)])
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
        self.stretches.turn(False, before)
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
        """Try a full disk again; see to a log that the job itself shortened, removed or replaced."""
        self._write_held(last=False)
        if self.lost:
            self._recovered()
        self._look_after(last=False)

    def _write_held(self, last: bool) -> None:
        if self.mask is not None:
            for is_error, data in self.mask.rest(last):
                self._write(data, is_error)

    def _look_after(self, last: bool) -> None:
        if self.fd < 0:
            return
        if not self.truncated and self._was_shortened():
            self.truncated = True
            self.journal.warn("log.truncated", "the log was truncated by the job itself")
        if not self._in_place() and (last or self.put_back < PUT_BACK_LIMIT):
            self._put_back(last)

    def _was_shortened(self) -> bool:
        try:
            size = posix.fstat(self.fd).st_size
            return size < self.offset or posix.pread(self.fd, len(self.head), 0) != self.head
        except OSError:  # it cannot be read now, which is another matter
            return False

    def _in_place(self) -> bool:
        held = posix.fstat(self.fd)
        try:
            named = posix.stat(NAME, follow_symlinks=False)
        except OSError:
            return False
        return (named.st_ino, named.st_dev) == (held.st_ino, held.st_dev)

    def _put_back(self, last: bool) -> None:
        """Give a copy the log's name: a file without one cannot get it back."""
        self.put_back += 1
        fd, done, cause = -1, 0, ""
        try:
            _remove_quietly(COPY)
            fd = posix.open(COPY, FLAGS | posix.O_EXCL, 0o600)
            done, cause = self._copy_to(fd)
            if done == self.offset or last:
                _take_name(COPY, NAME)
        except OSError as error:
            done, cause = 0, error.strerror or str(error)
        missing = self.offset - done
        if not missing or last:
            self.fd, fd = fd, self.fd
            self._say_removed(missing, cause)
        else:  # tried once more at the end: not to fill the disk again and again
            self.put_back = PUT_BACK_LIMIT
        if fd >= 0:
            posix.close(fd)
        _remove_quietly(COPY)

    def _copy_to(self, fd: int) -> "tuple[int, str]":
        """How many bytes of the log another file got, and why not all."""
        done = 0
        try:
            while done < self.offset:
                size = min(BLOCK, self.offset - done)
                # zeros where the job cut something off
                done += posix.pwrite(fd, posix.pread(self.fd, size, done) or bytes(size), done)
        except OSError as error:
            return done, error.strerror or str(error)
        return done, ""

    def _say_removed(self, missing: int, cause: str) -> None:
        self.dropped += missing
        text = "the log was removed or replaced by the job itself"
        if missing:
            self.journal.warn("log.lost", "%s; %d bytes of output were lost: %s" % (text, missing, cause))
        else:
            self.journal.warn("log.removed", text + "; what was printed was put back")

    def finish(self) -> None:
        """Append the marker and the tail that the limit left out, or the marker of bytes lost at the end."""
        self._write_held(last=True)
        self.stretches.turn(False, self.offset)
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
        self._look_after(last=True)

    def sync(self) -> None:
        """Make the log durable where the file system can."""
        try:
            posix.fsync(self.fd)
        except OSError:
            pass


def _take_name(path: str, name: str) -> None:
    try:
        posix.rename(path, name)
    except (IsADirectoryError, NotADirectoryError):
        posix.rename(name, "%s.replaced.%d" % (name, time.monotonic_ns()))
        posix.rename(path, name)


def _remove_quietly(path: str) -> None:
    try:
        posix.unlink(path)
    except OSError:  # it is not there
        pass


class Stretches:
    """Which bytes of the log are stderr, told ahead of them: whoever sees a byte can know its stream.

    One event opens a stretch before its first byte is written, a second one closes it before what follows is
    written; however much it grows there are no more.  After 20,000 stretches one warning says that no more
    are told.
    """

    def __init__(self, journal: "Journal") -> None:
        self.journal = journal
        self.start = 0
        self.is_open = False
        self.count = 0

    def turn(self, is_error: bool, at: int) -> None:
        """What will be written from `at` on is stderr, or is not."""
        if is_error == self.is_open:
            return
        if self.is_open:
            self.is_open = False
            self.journal.emit("stderr", {"start": self.start, "end": at}, at=at)
        elif self.count < STRETCHES:
            self.start, self.is_open = at, True
            self.count += 1
            self.journal.emit("stderr", {"start": at, "end": at, "more": True}, at=at)
        elif self.count == STRETCHES:
            self.count += 1
            self.journal.warn("log.stderr_unmarked", "stderr is no longer told apart from here on")
