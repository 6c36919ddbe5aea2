"""`%aml exec`: a program below a cell, with what it prints as it comes; the stop button interrupts it."""

from __future__ import annotations

import codecs
import os
import selectors
import signal
import subprocess
import time

from aml_jupyter.magics.submit import SHUTDOWN, Interrupts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from aml_jupyter.commands.screen import Screen as Shown
    from aml_jupyter.magics.page import Page

# seconds that what a program left behind may keep its output open after its end
LINGERING = 0.5
# seconds between two looks at whether it was interrupted
LOOK = 0.1
BLOCK = 65536


def run(
    words: Sequence[str], variables: Mapping[str, str], folder: str | None, screen: Shown, page: Page
) -> int:
    """Run a program and show what it prints; its exit status, minus a signal.

    An interrupt is one of the program, a second one kills it.  A kernel that leaves lets it go on, without a
    reader.  Raises OSError for a program that cannot be started.
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
    with Interrupts() as interrupts, _Pump(process, screen) as pump:
        while pump.look():
            _obey(process, interrupts, page)
        return process.wait()


def _obey(process: subprocess.Popen[bytes], interrupts: Interrupts, page: Page) -> None:
    """Interrupt the program, or kill it, when a person has interrupted the cell."""
    if not interrupts.unheard():
        return
    if interrupts.heard == 0:
        interrupts.hear()
        time.sleep(SHUTDOWN)
    if page.leaving:
        raise KeyboardInterrupt
    _signal(process, signal.SIGKILL if interrupts.count > 1 else signal.SIGINT)
    interrupts.hear()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:  # it has just ended
        pass


class _Pump:
    """Shows what two pipes bring until both are closed, or the program has ended and they are silent."""

    def __init__(self, process: subprocess.Popen[bytes], screen: Shown) -> None:
        self.process = process
        self.screen = screen
        self.selector = selectors.DefaultSelector()
        self.decoders: dict[str, codecs.IncrementalDecoder] = {}
        self.ended = 0.0
        for name in ("stdout", "stderr"):
            self.selector.register(getattr(process, name), selectors.EVENT_READ, name)
            self.decoders[name] = codecs.getincrementaldecoder("utf-8")("replace")

    def __enter__(self) -> _Pump:
        return self

    def __exit__(self, *_: object) -> None:
        self.selector.close()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def look(self) -> bool:
        """Show what is there, or wait a moment; whether more may come."""
        found = self.selector.select(LOOK)
        for key, _ in found:
            self._take(key.fd, key.data, key.fileobj)
        if self.process.poll() is not None:
            self.ended = self.ended or time.monotonic()
            if not found and time.monotonic() - self.ended > LINGERING:
                return False
        return bool(self.selector.get_map()) or self.process.returncode is None

    def _take(self, fd: int, name: str, pipe: Any) -> None:
        block = os.read(fd, BLOCK)
        text = self.decoders[name].decode(block, final=not block)
        if text:
            self.screen.output(name, text)
        if not block:
            self.selector.unregister(pipe)
