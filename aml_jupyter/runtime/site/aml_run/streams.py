"""Standard output and error of a cell: text streams whose bytes leave as datagrams, in exact order."""

import _thread
import io
import os
import sys
import time

from aml_run import channel


class _Sender(io.RawIOBase):
    """Where the bytes of a stream go; `fileno` is the real descriptor, for programs that the cell starts."""

    def __init__(self, kind, number):
        self.kind, self.number = kind, number
        self.name = "<stdout>" if number == 1 else "<stderr>"
        self.mode = "wb"
        self.earlier = None  # standard error, what waits in it was written before what is sent here

    def writable(self):
        return True

    def isatty(self):
        return False

    def fileno(self):
        return self.number

    def write(self, data):
        if self.earlier is not None:
            self.earlier.flush_waiting()
        size = len(data)
        channel.send_text(self.kind, data)
        return size


class _Errors(io.TextIOWrapper):
    """Standard error: leaves with the line, or with the tick when lines follow each other at once.

    What standard output held when a line began is sent before it.
    """

    tick = 0.05  # seconds between two datagrams
    waiting = False
    sent = 0.0

    def __init__(self, out):
        self.out = out
        self.lock = _thread.RLock()
        raw = io.BufferedWriter(_Sender(b"e", 2), channel.LIMIT - 1)
        io.TextIOWrapper.__init__(self, raw, encoding="utf-8", errors="backslashreplace", newline="\n")

    def write(self, text):
        with self.lock:
            if not self.waiting:
                try:
                    self.out.flush()
                except (ValueError, OSError):  # closed by the program
                    pass
                self.waiting = True
            size = io.TextIOWrapper.write(self, text)
            if "\n" in text and time.monotonic() - self.sent >= self.tick:
                self.flush()
            return size

    def flush(self):
        # a thread that the ending interpreter has stopped never gives its lock back
        if self.lock.acquire(True, 1 if sys.is_finalizing() else -1):
            try:
                io.TextIOWrapper.flush(self)
                self.waiting = False
                self.sent = time.monotonic()
            finally:
                self.lock.release()

    def flush_waiting(self):
        """Flush for standard output; a thread that is writing just now keeps its own order."""
        if self.waiting and self.lock.acquire(False):
            try:
                self.flush()
            except (ValueError, OSError):  # closed by the program
                pass
            finally:
                self.lock.release()


class _Lock:
    """Lets one thread at a time write to standard output, from the start of a second thread on.

    Until then a lock would only cost time.  Without one, two threads that print at once can make a text
    stream send stray memory (before Python 3.12.4), and a fork can copy a buffer that is locked for good.
    """

    def __init__(self, out):
        self.out = out
        self.lock = None

    def close(self):
        """Begin to lock: print() looks for `write` on the stream itself first."""
        if self.lock is None:
            self.out.write("")  # whatever waits for the next print has had it
            lock = self.lock = _thread.RLock()
            plain_write, plain_flush = self.out.write, self.out.flush

            def write(text):
                with lock:
                    return plain_write(text)

            def flush():
                # a thread that the ending interpreter has stopped never gives its lock back
                if lock.acquire(True, 1 if sys.is_finalizing() else -1):
                    try:
                        plain_flush()
                    finally:
                        lock.release()

            self.out.write, self.out.flush = write, flush

    def watch_threads(self):
        """Lock before a thread starts, whoever starts it."""
        threading = sys.modules.get("threading")
        for name in ("start_new_thread", "start_joinable_thread"):
            start = getattr(_thread, name, None)
            if start is not None:
                setattr(_thread, name, self._before(start))
                if threading is not None:
                    setattr(threading, "_" + name, getattr(_thread, name))

    def _before(self, start):
        def lock_and_start(*args, **options):
            self.close()
            return start(*args, **options)

        return lock_and_start


class _Forks:
    """Forks only while no other thread is writing: the child would inherit the middle of it."""

    def __init__(self, lock, err):
        self.lock, self.err = lock, err
        self.held = []

    def hold(self):
        self.held = [one for one in (self.err.lock, self.lock.lock) if one and one.acquire(True, 2)]
        _flush(self.lock.out, self.err)

    def let_go(self):
        for one in self.held:
            one.release()
        self.held = []

    def install(self):
        flusher = sys.modules.get("_aml_flusher")
        if flusher is not None:  # which has to be stopped first
            flusher.around_forks.append((self.hold, self.let_go))
        else:
            os.register_at_fork(before=self.hold, after_in_parent=self.let_go, after_in_child=self.let_go)


def _flush(*streams):
    for stream in streams:
        try:
            stream.flush()
        except (ValueError, OSError):  # closed by the program
            pass


def _leave_with_the_line(out):
    """In a forked process: a pool ends its processes by a signal, what they print must not wait."""
    if not out.closed:
        out.reconfigure(line_buffering=True)


def _flush_before_exit(out, err):
    leave = os._exit

    def _exit(status):
        _flush(out, err)
        leave(status)

    os._exit = _exit


def install():
    """Replace sys.stdout and sys.stderr."""
    through = bool(getattr(sys.stdout, "write_through", False))
    for old in (sys.stdout, sys.stderr):
        if old is not None:
            old.flush()
    raw = _Sender(b"o", 1)
    binary = raw if through else io.BufferedWriter(raw, channel.LIMIT - 1)
    out = io.TextIOWrapper(
        binary, encoding="utf-8", errors="backslashreplace", newline="\n", write_through=through
    )
    raw.earlier = err = _Errors(out)
    if through:  # nothing ticks
        err.tick = 0
    lock = _Lock(out)
    lock.watch_threads()
    _Forks(lock, err).install()
    os.register_at_fork(after_in_child=lambda: _leave_with_the_line(out))
    _flush_before_exit(out, err)
    sys.stdout = sys.__stdout__ = out  # type: ignore[misc]  # typeshed's Final; programs print to both
    sys.stderr = sys.__stderr__ = err  # type: ignore[misc]  # the same
