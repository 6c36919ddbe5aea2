"""Metrics of a run from what its processes logged: one value a name, or all of them in order."""

from __future__ import annotations

from aml_jupyter import plainjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

NAMES = 1000  # metrics of one run
POINTS = 10_000  # values kept of one metric; a longer one is thinned evenly and keeps its last
TEXT = 1000  # characters of a name or of a logged text
SIZE = 1 << 20  # numbers and characters of all metrics of a run together

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


def merge_metrics(
    events: Iterable[Mapping[str, Any]],
    read: Callable[[str], bytes] | None = None,
    warnings: list[str] | None = None,
) -> dict[str, Any]:
    """The metrics of a run by name; a name logged again is a list in order, lists and scalars concatenate.

    Of tables (columns by name) and images (where the bytes are) the last one logged counts.  `read` returns a
    file of `data/` by its SHA-256: without it a value too long for an event is left out.  Limits that were
    reached are told in `warnings`, once each.
    """
    series: dict[str, _Series] = {}
    whole: dict[str, Any] = {}
    told: dict[str, None] = {}
    size = 0
    for event in events:
        if event.get("type") != "metric":
            continue
        name = str(event.get("name", ""))[:TEXT]
        if name not in series and name not in whole and len(series) + len(whole) >= NAMES:
            told[f"more than {NAMES} names were logged; {name!r} and later ones are not kept"] = None
            continue
        try:
            value = _value(event, read)
        except (OSError, ValueError, KeyError, TypeError):  # damaged, or written by something else
            told[f"a value of metric {name!r} cannot be read and is not kept"] = None
            continue
        size += _weight(value)
        if size > SIZE:
            told[f"the metrics of this run are too large; {name!r} and later values are not kept"] = None
            break
        if event.get("kind") in ("table", "image"):
            whole[name] = value
        else:
            _add(series.setdefault(name, _Series()), value)
    for name, one in series.items():
        if one.stride > 1:
            told[f"metric {name!r} has {one.seen} values; one in {one.stride} is kept"] = None
    if warnings is not None:
        warnings.extend(told)
    return {**{name: one.value() for name, one in series.items()}, **whole}


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


def _weight(value: object) -> int:
    if isinstance(value, str):
        return 1 + len(value)
    if isinstance(value, list):
        return 1 + sum(map(_weight, value))
    if isinstance(value, dict):
        return 1 + sum(len(str(name)) + _weight(item) for name, item in value.items())
    return 1
