"""Standard output and error of a cell: text streams whose bytes leave as datagrams, in exact order."""

import io
import sys

from aml_run import channel


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


def _text(binary, through):
    return io.TextIOWrapper(
        binary, encoding="utf-8", errors="backslashreplace", newline="\n", write_through=through
    )


def install():
    """Replace sys.stdout and sys.stderr; standard error leaves at once, after what stdout still held."""
    through = bool(getattr(sys.stdout, "write_through", False))
    for old in (sys.stdout, sys.stderr):
        if old is not None:
            old.flush()
    raw = _Sender(b"o", 1, None)
    out = _text(raw if through else io.BufferedWriter(raw, channel.LIMIT), through)
    err = _text(_Sender(b"e", 2, out), True)
    sys.stdout = sys.__stdout__ = out
    sys.stderr = sys.__stderr__ = err
