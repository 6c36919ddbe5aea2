"""The wait of a container that was started before its run: everything is loaded, and waiting has an end."""

import _ctypes  # noqa: F401 - what the start of the run needs, loaded ahead of it
import os
import select
import signal
import sys
import time

import follow  # noqa: F401
import plain

# of the clock that goes on while the machine sleeps
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
# seconds of one stretch of waiting: what measures these stands still while the machine sleeps
_STRETCH = 30.0


def wait_for_variables(seconds: float) -> None:
    """Put the variables of the line on standard input into the environment; leave when none comes in time."""
    # the first process of a container is ended only by a signal that it handles
    signal.signal(signal.SIGTERM, _leave)
    due = time.clock_gettime(_CLOCK) + seconds
    line = b""
    while not line.endswith(b"\n"):
        left = due - time.clock_gettime(_CLOCK)
        if left <= 0:
            sys.exit(0)
        if select.select([0], [], [], min(left, _STRETCH))[0]:
            part = os.read(0, 1 << 16)
            if not part:
                sys.exit(0)
            line += part
    os.environ.update(plain.loads(line.decode("ascii")))


def _leave(_number: int, _frame: object) -> None:
    os._exit(0)
