"""Runs one job at the target: `python -S -E -s main.py JOB`, or `main(job)` in a process forked for it.

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


if __name__ == "__main__":
    main(sys.argv[1])
