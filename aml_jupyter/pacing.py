"""Time in a supervisor: how long its phases took, how long it waits, what it looks at meanwhile."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # to types they are one module
    from collections.abc import Callable, Iterator
else:
    import _signal

# seconds between two looks for a request to cancel while a run is prepared
LOOK = 0.5


class Phase:
    """Adds the seconds spent inside to a phase."""

    def __init__(self, phases: dict[str, float], name: str) -> None:
        self.phases = phases
        self.name = name

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_exc: object) -> None:
        spent = time.monotonic() - self.began
        self.phases[self.name] = round(self.phases.get(self.name, 0.0) + spent, 6)


def pauses(shortest: float, longest: float) -> Iterator[float]:
    """Seconds between tries, ever longer."""
    pause = shortest
    while True:
        yield pause
        pause = min(longest, pause * 2)


class CanceledMeanwhile(BaseException):
    """Somebody asked for the end of the run before it was started.

    Raised in the middle of whatever is waited for: no handler of errors on the way may take it for one.
    """


class Abandoned(Exception):
    """Somebody gave up the target of a run while it did not answer; `said` is what it was found to be."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


class Looking:
    """Calls `look` twice a second, in the middle of whatever is waited for: an engine, a solver, a download.

    What it raises is raised there, once.
    """

    def __init__(self, look: Callable[[str], None]) -> None:
        self._look = look

    def __enter__(self) -> None:
        self._handler = _signal.signal(_signal.SIGALRM, self._alarmed)
        self._timer = _signal.setitimer(_signal.ITIMER_REAL, LOOK, LOOK)

    def _alarmed(self, _number: int, _frame: object) -> None:
        try:
            self._look("")
        except CanceledMeanwhile:
            _signal.setitimer(_signal.ITIMER_REAL, 0)
            raise

    def __exit__(self, *_exc: object) -> None:
        _signal.setitimer(_signal.ITIMER_REAL, *self._timer)
        _signal.signal(_signal.SIGALRM, self._handler)
