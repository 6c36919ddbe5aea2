"""Metrics of a run from what its processes logged: one value a name, or all of them in order."""

from __future__ import annotations

from aml_jupyter import plainjson
from aml_jupyter.errors import ConfinedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

NAMES = 1000  # metrics of one run
POINTS = 10_000  # values kept of one metric; a longer one is thinned evenly and keeps its last
TEXT = 1000  # characters of a name or of a logged text
SIZE = 24 << 20  # bytes that all metrics of a run may take in its record, which has at most 64 MiB
NUMBER = 25  # bytes of a number in JSON with what parts it from the next, at most
SHORT = 60  # characters of a name in a warning
LEVELS = 50  # of lists in lists

_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class _Series:
    """The values of one name; `stride` is how many were seen for one that is kept."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.last: Any = None
        self.seen = 0
        self.stride = 1
        self.is_list = False

    def add(self, value: object) -> None:
        """Take one more value."""
        if self.seen % self.stride == 0:
            self.kept.append(value)
            if len(self.kept) > POINTS:
                del self.kept[1::2]
                self.stride *= 2
        self.last = value
        self.seen += 1

    def value(self) -> object:
        """A single value as it is, several as a list."""
        if self.seen == 1 and not self.is_list:
            return self.last
        if self.seen and (self.seen - 1) % self.stride:
            return [*self.kept, self.last]
        return self.kept


class _LeftOut:
    """What is not kept, counted by the reason: one text for each, however many names there are."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, name: str) -> None:
        """One more; the first name is told."""
        count, first = self.found.get(reason, (0, name))
        self.found[reason] = (count + 1, first)

    def texts(self) -> list[str]:
        """A sentence for each reason."""
        return [reason.format(count=count, name=_short(name)) for reason, (count, name) in self.found.items()]


_MANY = f"more than {NAMES} names were logged; {{count}} values of later ones are not kept, as of {{name}}"
_DAMAGED = "{count} logged values cannot be read and are not kept; the first is of metric {name}"
_LARGE = "the metrics of this run are too large; {count} values are not kept, as of {name}"


def merge_metrics(
    events: Iterable[Mapping[str, Any]],
    read: Callable[[str], bytes] | None = None,
    warnings: list[str] | None = None,
) -> dict[str, Any]:
    """The metrics of a run by name; a name logged again is a list in order, lists and scalars concatenate.

    Of tables (columns by name) and images (where the bytes are) the last one logged counts.  `read` returns a
    file of `data/` by its SHA-256: without it a value too long for an event is left out.  Limits that were
    reached are told in `warnings`, one text for each with a count.  All events are read in any case.
    """
    series: dict[str, _Series] = {}
    whole: dict[str, Any] = {}
    left_out = _LeftOut()
    size = 0
    for event in events:
        if event.get("type") != "metric":
            continue
        name = str(event.get("name", ""))[:TEXT]
        new = name not in series and name not in whole
        if new and len(series) + len(whole) >= NAMES:
            left_out.add(_MANY, name)
            continue
        if size > SIZE:
            left_out.add(_LARGE, name)
            continue
        try:
            value = _value(event, read)
            size += _weight(value) + (_weight(name) if new else 0)
        # damaged, written by something else, or far too big
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfinedError):
            left_out.add(_DAMAGED, name)
            continue
        if size > SIZE:
            left_out.add(_LARGE, name)
        elif event.get("kind") in ("table", "image"):
            whole[name] = value
        else:
            _add(series.setdefault(name, _Series()), value)
    if warnings is not None:
        warnings += [*left_out.texts(), *_thinned(series)]
    return {**{name: one.value() for name, one in series.items()}, **whole}


def _thinned(series: Mapping[str, _Series]) -> list[str]:
    thinned = [(one.seen, one.stride, name) for name, one in series.items() if one.stride > 1]
    if not thinned:
        return []
    seen, stride, name = max(thinned)
    others = f" {len(thinned) - 1} other metrics are thinned as well." if len(thinned) > 1 else ""
    return [f"metric {_short(name)} has {seen} values; one in {stride} is kept.{others}"]


def _short(name: str) -> str:
    """A name as a message holds it: it may be a thousand characters of anything."""
    return repr(name if len(name) <= SHORT else name[:SHORT] + "...")


def _add(series: _Series, value: object) -> None:
    if isinstance(value, list):
        series.is_list = True
        for item in value:
            series.add(item)
    else:
        series.add(value)


def _value(event: Mapping[str, Any], read: Callable[[str], bytes] | None) -> Any:
    value = event["value"]
    if isinstance(value, dict) and "$data" in value and value.get("encoding") == "json":
        if read is None:
            raise ValueError("its bytes are in a file")
        value = plainjson.loads(read(value["$data"]))
    value = _restored(value) if event.get("nonfinite") else value
    return value[:TEXT] if isinstance(value, str) else value


def _restored(value: Any) -> Any:
    """NaN and the infinities travel as text, because JSON has no form for them."""
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if isinstance(value, dict):
        return {name: _restored(item) for name, item in value.items()}
    return value


def _weight(value: object, level: int = 0) -> int:
    """Bytes of a value in a record, at most.  Raises ValueError for one that is nested too deeply."""
    if isinstance(value, str):
        return 1 + len(plainjson.dumps(value))
    if isinstance(value, (list, dict)):
        if level == LEVELS:
            raise ValueError("too many levels")
        names = sum(map(_weight, value)) if isinstance(value, dict) else 0
        inside = value.values() if isinstance(value, dict) else value
        return 3 + names + sum(_weight(item, level + 1) for item in inside)
    return max(NUMBER, len(str(value)))
