"""A process of its own that pushes what is marked, one at a time for an AML_HOME.

Started by file path with AML_HOME and entries of sys.path.  It stays a while where a store does not answer,
and leaves: whoever ends a run or loads the extension next starts another.
"""

from __future__ import annotations

import os
import sys
import time

if __name__ == "__main__":
    # whoever started this waits until its first process has ended
    if os.fork():
        os._exit(0)
    # started by path: the package's parent takes the place of its folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from aml_jupyter import pending, plainjson

# seconds that a store that does not answer is waited for
PATIENCE = 600.0
# what goes by, while this process has the same environment and the same credentials
PASSING = ("store.unavailable", "run.alive", "history.locked")


def main() -> None:
    """Push what is marked."""
    os.umask(0o077)
    os.chdir("/")
    os.nice(10)  # whoever starts the next run comes first
    home, paths = sys.argv[1], plainjson.loads(sys.argv[2])
    sys.path += [path for path in paths if path not in sys.path]
    try:
        work(home)
    # the outermost edge of a process that nobody watches: what is marked stays marked
    except Exception:  # noqa: BLE001
        _tell(home)


def _tell(home: str) -> None:
    import traceback

    if os.path.isdir(home):
        fd = os.open(home + "/push.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        os.write(fd, traceback.format_exc().encode(errors="backslashreplace"))
        os.close(fd)


def work(home: str, patience: float = PATIENCE) -> None:
    """Push until nothing is marked, or nothing went on for `patience` seconds."""
    from aml_jupyter import pushing

    due = time.monotonic() + patience
    while True:
        turn = pushing.take_turn(home, patience=0.0)
        if turn is None:  # whoever has it looks once more when it is done
            return
        with turn:
            for one in pushing.push_marked(home):
                if one.ended:
                    due = time.monotonic() + patience
        # after the turn: a mark that was made meanwhile found it taken
        if not _await_due(home, due):
            return


def _await_due(home: str, until: float) -> bool:
    """Wait until a marked run is due; False when none is, or not soon enough, or only a person can help."""
    while marks := pending.all_marks(home):
        if any(one.due for one in marks):
            return True
        marks = [one for one in marks if one.error.get("code") in PASSING]
        if not marks:
            return False
        pause = min(one.next for one in marks) - time.time()
        if time.monotonic() + pause > until:
            return False
        time.sleep(min(pause, 1.0))  # a new one may be marked at any moment
    return False


if __name__ == "__main__":
    main()
    os._exit(0)
