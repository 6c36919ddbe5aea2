"""An exception of a cell: its traceback in the cell's own lines, as text and as an event."""

import os
import sys

from aml_run import channel, streams  # noqa: F401

DRIVER = os.path.dirname(os.path.abspath(__file__)) + os.sep
RUNNER = os.path.join(os.path.dirname(os.path.dirname(DRIVER[:-1])), "run_cell.py")


def _own(filename):
    return filename.startswith(DRIVER) or os.path.abspath(filename) == RUNNER or filename.startswith("<frozen ")


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
    return traceback.format_exception(type(error), error, trimmed(error.__traceback__, cell))


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
    except Exception:  # whatever the exception's own __str__ raises
        message = "<exception str() failed>"
    pieces = [line for piece in text for line in piece.rstrip("\n").split("\n")]
    event = {"type": "error", "ename": type(error).__name__, "evalue": message, "traceback": pieces}
    event["printed"] = True  # the same text follows on standard error
    channel.emit(event)


def _interrupted():
    """End as Python does after Ctrl-C: by the signal itself, so that whoever waits can tell."""
    import signal

    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    return 130
