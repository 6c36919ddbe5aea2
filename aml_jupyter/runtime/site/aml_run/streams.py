"""Standard output and error of a cell: text streams whose bytes leave as datagrams, in exact order."""

import _thread
import io
import os
import sys

from aml_run import channel

# before this version two threads that print at once can make a text stream send stray memory (gh-119506)
SAFE_FOR_THREADS = (3, 12, 4)


class _Sender(io.RawIOBase):
    """Where the bytes of a stream go; `fileno` is the real descriptor, for programs that the cell starts."""

    def __init__(self, kind, number, before):
        self.kind, self.number, self.before = kind, number, before
        self.name = "<stdout>" if number == 1 else "<stderr>"
        self.mode = "wb"

    def writable(self):
        return True

    def isatty(self):
        return False

    def fileno(self):
        return self.number

    def write(self, data):
        if self.before is not None:
            try:
                self.before.flush()
            except (ValueError, OSError):  # closed by the program
                pass
        size = len(data)
        channel.send_text(self.kind, data)
        return size


class _Locked(io.TextIOWrapper):
    """A text stream that one thread at a time writes to."""

    def __init__(self, *args, **options):
        self.renew_lock()
        os.register_at_fork(after_in_child=self.renew_lock)  # its holder may be a thread of the parent
        io.TextIOWrapper.__init__(self, *args, **options)

    def renew_lock(self):
        self.lock = _thread.RLock()

    def write(self, text):
        with self.lock:
            return io.TextIOWrapper.write(self, text)

    def flush(self):
        # a thread that the ending interpreter has stopped never gives its lock back
        if self.lock.acquire(True, 1 if sys.is_finalizing() else -1):
            try:
                io.TextIOWrapper.flush(self)
            finally:
                self.lock.release()


def _text(binary, through):
    kind = io.TextIOWrapper if sys.version_info >= SAFE_FOR_THREADS else _Locked
    return kind(binary, encoding="utf-8", errors="backslashreplace", newline="\n", write_through=through)


def install():
    """Replace sys.stdout and sys.stderr; standard error leaves at once, after what stdout still held."""
    through = bool(getattr(sys.stdout, "write_through", False))
    for old in (sys.stdout, sys.stderr):
        if old is not None:
            old.flush()
    raw = _Sender(b"o", 1, None)
    out = _text(raw if through else io.BufferedWriter(raw, channel.LIMIT - 1), through)
    err = _text(_Sender(b"e", 2, out), True)
    # a pool ends its processes by a signal: what they print must not wait for anything
    os.register_at_fork(after_in_child=lambda: out.closed or out.reconfigure(line_buffering=True))
    sys.stdout = sys.__stdout__ = out
    sys.stderr = sys.__stderr__ = err
