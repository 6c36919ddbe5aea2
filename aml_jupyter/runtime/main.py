"""Runs one job at the target: `python -S -E -s main.py JOB`, or `main(job)` in a process forked for it.

With a second argument `stdin` it first waits for one line of JSON there: variables that are in no file.
A third one is the seconds after which it leaves when there was none.

This file is compiled anew at every start, so it only finds the modules beside it.  Standard library only,
Python 3.8 and later; everything in this folder is copied into each run.
"""

import sys


def main(job: str) -> None:
    """Run the job in folder `job` to its end and leave the process; never returns."""
    folder = __file__.rpartition("/")[0] or "."
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    import launch

    launch.run(job)


def _take_variables() -> None:
    """Put the variables of the line on standard input into the environment; without one there is no run."""
    import os

    sys.path.insert(0, __file__.rpartition("/")[0] or ".")
    import plain

    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        sys.exit(0)
    os.environ.update(plain.loads(line.decode("ascii")))


def _wait_for_variables(seconds: float) -> None:
    """The same in a container that waits for a run: everything is loaded before, and waiting has an end."""
    import os
    import signal

    # the first process of a container is ended only by a signal that it handles
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    sys.path.insert(0, __file__.rpartition("/")[0] or ".")
    import _ctypes  # noqa: F401
    import select
    import time

    import follow  # noqa: F401
    import plain

    # of the clock that goes on while the machine sleeps
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    due = time.clock_gettime(clock) + seconds
    line = b""
    while not line.endswith(b"\n"):
        left = due - time.clock_gettime(clock)
        if left <= 0:
            sys.exit(0)
        # in short stretches: what measures these stands still while the machine sleeps
        if select.select([0], [], [], min(left, 30.0))[0]:
            part = os.read(0, 1 << 16)
            if not part:
                sys.exit(0)
            line += part
    os.environ.update(plain.loads(line.decode("ascii")))


if __name__ == "__main__":
    if sys.argv[3:]:
        _wait_for_variables(float(sys.argv[3]))
    elif sys.argv[2:] == ["stdin"]:
        _take_variables()
    main(sys.argv[1])
