"""Cards of detached runs, replaced in place by one thread while the kernel lives.

The thread prints nothing and shows nothing new: it replaces cards by their display ids, each in the
context of the cell that started the run, so that nothing of it can land in another cell.
"""

from __future__ import annotations

import contextvars
import threading

from aml_jupyter import experiment, processes, runs
from aml_jupyter.errors import AmlError
from aml_jupyter.follow import Follower
from aml_jupyter.magics.live import CardShown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from aml_jupyter.magics.page import Page
    from aml_jupyter.runs import Record, RunDirectory

    class Kept(Protocol):
        """What is shown of a run, and the cell it belongs to."""

        directory: RunDirectory
        context: contextvars.Context

        def look(self) -> bool:
            """Replace it when something changed; False when the run has ended."""


# seconds between two looks at a run that goes on
LOOK = 1.0
# the most of unfinished runs that a load of the extension looks at
MOST = 50

_lock = threading.Lock()
_kept: dict[str, Kept] = {}
_wake = threading.Event()
_thread: threading.Thread | None = None


class _Kept:
    """A card and the cell it belongs to."""

    def __init__(self, page: Page, directory: RunDirectory) -> None:
        self.directory = directory
        self.card = CardShown(page, directory, output_shown=False)
        self.context = contextvars.copy_context()
        # of what it prints only the end is shown, which the card reads by itself
        self.follower = Follower(directory, tail=0)

    def look(self) -> bool:
        """Replace the card when something changed; False when the run has ended."""
        for output in self.follower.read():
            self.card.take(output)
        record = runs.read_record(self.directory)
        if record.ended:
            self.card.finish(record)
            return False
        self.card.refresh()
        return True


def keep(page: Page, directory: RunDirectory) -> None:
    """Show the card of a run and replace it as the run goes on."""
    kept = _Kept(page, directory)
    kept.card.show()
    if not page.live:
        page.write("stdout", f"RunId: {directory.run_id}\n")
        return
    look_after(kept)


def look_after(kept: Kept) -> None:
    """Have what is shown of a run replaced as the run goes on."""
    global _thread  # noqa: PLW0603 - one thread for all cards of a kernel
    with _lock:
        _kept[kept.directory.run_id] = kept
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_look_after, name="aml-cards", daemon=True)
            _thread.start()
    _wake.set()


def stop() -> None:
    """Leave all cards as they are."""
    with _lock:
        _kept.clear()
    _wake.set()


def _look_after() -> None:
    while True:
        _wake.clear()
        with _lock:
            now = list(_kept.values())
            if not now:
                global _thread  # noqa: PLW0603
                _thread = None
                return
        for kept in now:
            try:
                goes_on = kept.context.run(kept.look)
            except Exception:  # noqa: BLE001 - removed, or the kernel is ending: a thread may print in no cell
                goes_on = False
            if not goes_on:
                with _lock:
                    _kept.pop(kept.directory.run_id, None)
        _wait(now)


def _wait(now: list[Kept]) -> None:
    """Until it is time to look again: at once when the only run has ended."""
    if len(now) == 1:
        who = runs.supervisor_identity(now[0].directory)
        if who is not None and processes.is_alive(who):
            processes.wait_end(who, LOOK)
            return
    _wake.wait(LOOK)


def continue_runs() -> int:
    """Give unfinished runs whose supervisor died a new one; how many."""
    from aml_jupyter.config import aml_home

    count = 0
    for directory in runs.unfinished(aml_home())[-MOST:]:
        try:
            record = runs.read_record(directory)
            if _can_go_on(record):
                count += experiment.resume(directory)
        except (AmlError, OSError):  # damaged or half removed: `aml check` tells
            continue
    from aml_jupyter import queueing

    return count + queueing.ensure_worker(aml_home())


def _can_go_on(record: Record) -> bool:
    """Whether a supervisor could do something: not when it would lack a secret to start the run with."""
    startable = record.start_time_utc is not None or not record.environment_secret
    return record.status == "NotResponding" and startable
