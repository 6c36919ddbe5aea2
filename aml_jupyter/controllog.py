"""`control.log`: what preparation and supervisor say of a run, within a bound however much that is.

Its beginning stays as it is.  Beyond the bound the middle is left out, one line in its place says how many
bytes that were, and what is said next goes behind the end as before.  Each time as much can be added as is
copied, so that whatever prints without end costs no more than twice its bytes.
"""

from __future__ import annotations

import os
import stat
import time

from aml_jupyter.confined import FileFault, write_atomic

# bytes of the file; of its beginning; of its end when the middle has just been left out
LARGEST = 16 << 20
HEAD = 4 << 20
TAIL = 4 << 20
# bytes in which the end of a line is looked for, so that the end begins with a whole one
NEAR = 1 << 16
# seconds before a full disk is tried again: each time costs a copy
RETRY = 1.0
# stands at HEAD in a file whose middle is left out; the words of the log of a run
_BEFORE, _AFTER = b"\n[aml: the log reached its limit: ", b" bytes are left out here]\n"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ControlLog:
    """The log of one run, for whoever has it to write; a disk that is full costs no more than the line."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._retry_at = 0.0

    def add(self, text: str) -> None:
        """Add a line."""
        data = text.rstrip().encode(errors="backslashreplace") + b"\n"
        try:
            fd = os.open(self.path, _FLAGS, 0o600)
        except OSError:
            return
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return
            if found.st_size + len(data) <= LARGEST:
                os.write(fd, data)
            elif time.monotonic() >= self._retry_at:
                self._shorten(fd, found.st_size, data)
        except OSError:
            return
        finally:
            os.close(fd)

    def _shorten(self, fd: int, size: int, data: bytes) -> None:
        """Put a shorter file in its place, which ends with `data`: who reads the old one has it whole."""
        left_out, begin = _left_out(fd)
        head = os.pread(fd, HEAD, 0)
        if len(head) < HEAD:  # one line that is larger than all of the file may be
            begin = size
            head, data = head + data[: HEAD - size], data[HEAD - size :]
        kept = min(size - begin, max(0, TAIL - len(data)))
        tail = (os.pread(fd, kept, size - kept) + data)[-TAIL:]
        tail = tail[tail.find(b"\n", 0, min(NEAR, len(tail) - 1)) + 1 :]
        left_out += size - begin + len(data) - len(tail)
        try:
            write_atomic(self.path, head + b"%s%d%s" % (_BEFORE, left_out, _AFTER) + tail, sync=False)
        except FileFault:
            self._retry_at = time.monotonic() + RETRY


def _left_out(fd: int) -> tuple[int, int]:
    """How many bytes are left out of an open log, and where in the file goes on what is behind them."""
    found = os.pread(fd, 128, HEAD)
    count, after, _ = found.removeprefix(_BEFORE).partition(_AFTER)
    if found.startswith(_BEFORE) and after and count.isdigit():
        return int(count), HEAD + len(_BEFORE) + len(count) + len(_AFTER)
    return 0, HEAD


def read_lines(fd: int, position: int, most: int) -> tuple[list[str], int]:
    """The whole lines of an open log behind a position, about `most` bytes, and the position behind them.

    Positions count what is left out as well, so they hold whatever is left out between two calls; one within
    what is left out goes on with the line that says so.  A line of more than `most` bytes comes in pieces.
    """
    left_out, begin = _left_out(fd)
    start = position
    if left_out and position > HEAD:
        behind = position - HEAD - left_out
        start = begin + behind if behind >= 0 else HEAD
    data = os.pread(fd, most, start)
    end = data.rfind(b"\n") + 1 or (len(data) if len(data) == most else 0)
    stop = start + end
    if left_out and stop > HEAD:
        stop = HEAD if stop < begin else stop - begin + HEAD + left_out
    return data[:end].decode(errors="replace").splitlines(), stop
