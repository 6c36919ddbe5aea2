"""`%aml exec`: a program below a cell, with what it prints as it comes; the stop button interrupts it."""

from __future__ import annotations

import codecs
import os
import selectors
import signal
import subprocess
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# seconds that what a program left behind may keep its output open after its end
LINGERING = 0.5
BLOCK = 65536


def run(
    words: Sequence[str],
    variables: Mapping[str, str],
    folder: str | None,
    show: Callable[[str, str], None],
) -> int:
    """Run a program and show what it prints on `stdout` and `stderr`; its exit status, minus a signal.

    Raises OSError for a program that cannot be started.
    """
    process = subprocess.Popen(
        list(words),
        env=dict(variables),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    asked = 0
    with process, _Pump(process, show) as pump:
        while True:
            try:
                return pump.rest()
            except KeyboardInterrupt:
                asked += 1
                _signal(process, signal.SIGINT if asked == 1 else signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:  # it has just ended
        pass


class _Pump:
    """Shows what two pipes bring until both are closed, or the program has ended and they are silent."""

    def __init__(self, process: subprocess.Popen[bytes], show: Callable[[str, str], None]) -> None:
        self.process = process
        self.show = show
        self.selector = selectors.DefaultSelector()
        self.decoders = {}
        for name in ("stdout", "stderr"):
            pipe = getattr(process, name)
            self.selector.register(pipe, selectors.EVENT_READ, name)
            self.decoders[name] = codecs.getincrementaldecoder("utf-8")("replace")

    def __enter__(self) -> _Pump:
        return self

    def __exit__(self, *_: object) -> None:
        self.selector.close()

    def rest(self) -> int:
        """Show everything up to the end; the exit status."""
        ended: float | None = None
        while self.selector.get_map():
            found = self.selector.select(0.1)
            for key, _ in found:
                self._take(key.fd, key.data, key.fileobj)
            if self.process.poll() is not None:
                ended = time.monotonic() if ended is None else ended
                if not found and time.monotonic() - ended > LINGERING:
                    break
        return self.process.wait()

    def _take(self, fd: int, name: str, pipe: object) -> None:
        block = os.read(fd, BLOCK)
        text = self.decoders[name].decode(block, final=not block)
        if text:
            self.show(name, text)
        if not block:
            self.selector.unregister(pipe)  # type: ignore[arg-type]  # the file that was registered
