"""An exception of a cell: its traceback in the cell's own lines, as text and as an event."""

import os
import sys

from aml_run import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    import traceback

DRIVER = os.path.dirname(os.path.abspath(__file__)) + os.sep
hidden = [DRIVER]  # folders whose frames are no part of the user's program
LONGEST, WIDEST = 60, 400  # lines of a traceback in an event, characters of a line; the log has all of it
RUNNER = os.path.join(os.path.dirname(os.path.dirname(DRIVER[:-1])), "run_cell.py")


def _own(filename):
    return filename.startswith((DRIVER, "<frozen ")) or os.path.abspath(filename) == RUNNER


def trimmed(traceback, cell):
    """A traceback that begins in the cell; without frames of the driver where the cell was not reached."""
    first = traceback
    while first is not None and first.tb_frame.f_code.co_filename != cell.filename:
        first = first.tb_next
    if first is not None:
        return first
    while traceback is not None and _own(traceback.tb_frame.f_code.co_filename):
        traceback = traceback.tb_next
    return traceback


def lines(error, cell):
    """The text of a traceback as a list of pieces that end in newlines."""
    import linecache
    import traceback

    cell.register(linecache)
    story = traceback.TracebackException(type(error), error, trimmed(error.__traceback__, cell))
    _leave_out_driver(story)
    return list(story.format())


def _leave_out_driver(story):
    """Drop the driver's frames below the cell's, of the exception and of all it is chained to."""
    seen: "list[traceback.TracebackException]" = []
    ours = tuple(hidden)
    waiting = [story]
    while waiting:
        one = waiting.pop()
        if one is None or any(one is other for other in seen):
            continue
        seen.append(one)
        if one.stack:
            one.stack[:] = [frame for frame in one.stack if not frame.filename.startswith(ours)]
        waiting += [one.__cause__, one.__context__]
        waiting += getattr(one, "exceptions", None) or []


def report(error, cell):
    """Print an exception and send it; the exit status a Python program has after it."""
    text = lines(error, cell)
    _emit(error, text)
    if sys.excepthook is not sys.__excepthook__:
        sys.excepthook(type(error), error, trimmed(error.__traceback__, cell))
    else:
        sys.stderr.write("".join(text))
    if isinstance(error, KeyboardInterrupt):
        return _interrupted()
    return 1


def _emit(error, text):
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - whatever the exception's own __str__ raises
        message = "<exception str() failed>"
    pieces = [line[:WIDEST] for line in "".join(text).rstrip("\n").split("\n")]
    if len(pieces) > LONGEST:
        half = LONGEST // 2
        pieces[half:-half] = ["  ... %d lines ..." % (len(pieces) - LONGEST)]
    event = {
        "type": "error",
        "ename": type(error).__name__,
        "evalue": message[:WIDEST],
        "traceback": pieces,
        "printed": True,  # the same text follows on standard error
    }
    channel.emit(event)


def _interrupted():
    """End as Python does after Ctrl-C: by the signal itself, so that whoever waits can tell."""
    import signal

    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    return 130
