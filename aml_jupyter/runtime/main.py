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


if __name__ == "__main__":
    if sys.argv[3:]:
        sys.path.insert(0, __file__.rpartition("/")[0] or ".")
        import waiting

        waiting.wait_for_variables(float(sys.argv[3]))
    elif sys.argv[2:] == ["stdin"]:
        _take_variables()
    main(sys.argv[1])
