"""Values to try: `lr=0.1,0.01`, `depth=1..5`, `rate=0.1..1.0:0.1`, and the trials that come of them."""

from __future__ import annotations

import re

from aml_jupyter import plainjson
from aml_jupyter.errors import UsageError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

# the most trials of a sweep: each is a run, with a directory of its own
MOST_TRIALS = 1000
# the most values that one range may have, before anything is taken of it
_MOST_VALUES = 100_000
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = rf"({_NUMBER})\.\.({_NUMBER})(?::({_NUMBER}))?"
_HINT = "Such as --sweep lr=0.1,0.01, --sweep depth=1..5 or --sweep rate=0.1..1.0:0.1"


class Axis(Value):
    """A parameter and the values to try; `text` is how they were asked for."""

    name: str
    values: tuple[Any, ...]
    text: str = ""


def parse(text: str) -> Axis:
    """The axis of `NAME=a,b` or `NAME=from..to[:step]`; commas may stand between ranges.  Raises UsageError.

    A value that is JSON is that value, everything else is text, as for `-p`.
    """
    name, equals, written = text.partition("=")
    name = name.strip()
    if not equals or not name or not written.strip():
        raise UsageError(f"--sweep {text!r} is not NAME=VALUES", code="sweep.invalid", hint=_HINT)
    try:
        whole = plainjson.loads(written)
    except ValueError:
        whole = None
    # a list is meant as its values: it may hold text with commas
    values = list(whole) if isinstance(whole, list) else list(_values(name, written))
    return axis(name, values, written)


def axis(name: str, values: Iterable[Any], text: str = "") -> Axis:
    """An axis of values; one that stands there twice is tried once.  Raises UsageError."""
    found: list[Any] = []
    seen: set[str] = set()
    for value in values:
        try:
            key = plainjson.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"the sweep's parameter {name}: {error}",
                code="sweep.invalid",
                hint="Values are numbers, text, True, False, None, and lists and dicts of them.",
            ) from error
        if key not in seen:
            seen.add(key)
            found.append(value)
    if not found:
        raise UsageError(f"--sweep {name}: there is no value to try", code="sweep.invalid", hint=_HINT)
    return Axis(name=name, values=tuple(found), text=text or ",".join(map(shown_value, found)))


def of_mapping(values: Mapping[str, Any]) -> tuple[Axis, ...]:
    """Axes of `{"lr": [0.1, 0.01], "depth": range(1, 5), "rate": "0.1..1.0:0.1"}`.  Raises UsageError."""
    found = []
    for name, given in values.items():
        if isinstance(given, str):
            found.append(parse(f"{name}={given}"))
        elif isinstance(given, (list, tuple, range, set, frozenset)):
            found.append(axis(name, given))
        else:
            try:
                numbers = [one.item() if hasattr(one, "item") else one for one in given]
            except TypeError:  # one value for all trials
                numbers = [given]
            found.append(axis(name, numbers))
    return tuple(found)


def trials(
    axes: Iterable[Axis],
    *,
    most: int | None = None,
    random: int | None = None,
    seed: int | None = None,
) -> list[dict[str, Any]]:
    """Every combination of values, the last axis changing first, at most `most`; or `random` of them.

    The same seed draws the same ones.  Raises UsageError for an axis twice, and for more than a thousand.
    """
    axes = list(axes)
    names = [one.name for one in axes]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"--sweep {name} is given twice",
                code="sweep.invalid",
                hint=f"Give all its values at once: --sweep {name}=A,B",
            )
    for word, number in (("--max-trials", most), ("--random", random)):
        if number is not None and number < 1:
            raise UsageError(f"{word} must be 1 or more, not {number}", code="sweep.invalid")
    count = 1
    for one in axes:
        count *= len(one.values)
    wanted = min(count, *(number for number in (most, random) if number is not None), count)
    if wanted > MOST_TRIALS:
        raise UsageError(
            f"this sweep has {wanted} trials; at most {MOST_TRIALS} can be run",
            code="sweep.too_large",
            hint=f"Try fewer values, the first ones (--max-trials {MOST_TRIALS}),"
            f" or some by chance (--random 100).",
        )
    return [_combination(axes, number) for number in _chosen(count, wanted, random, seed)]


def _chosen(count: int, wanted: int, random: int | None, seed: int | None) -> Iterable[int]:
    if random is None:
        return range(wanted)
    from random import Random

    return Random(seed).sample(range(count), min(random, count))[:wanted]  # noqa: S311 - nothing secret


def _combination(axes: list[Axis], number: int) -> dict[str, Any]:
    found = []
    for one in reversed(axes):
        number, at = divmod(number, len(one.values))
        found.append((one.name, one.values[at]))
    return dict(reversed(found))


def _values(name: str, written: str) -> Iterator[Any]:
    for word in map(str.strip, written.split(",")):
        if not word:
            raise UsageError(
                f"--sweep {name}={written}: a value between the commas is missing",
                code="sweep.invalid",
                hint=_HINT,
            )
        if between := re.fullmatch(_RANGE, word):
            yield from _range(name, *between.groups())
            continue
        try:
            yield plainjson.loads(word)
        except ValueError:
            yield word


def _range(name: str, first: str, last: str, step: str | None) -> Iterator[int | float]:
    """The numbers from the first to the last, both of them; as they are written, not as floats add up."""
    from decimal import Decimal

    begin, end = Decimal(first), Decimal(last)
    if step is None and (begin % 1 or end % 1):
        raise UsageError(
            f"--sweep {name}={first}..{last} says no step",
            code="sweep.invalid",
            hint=f"Such as --sweep {name}={first}..{last}:0.1",
        )
    by = Decimal(step) if step is not None else Decimal(1 if end >= begin else -1)
    if step is not None and by > 0 and end < begin:
        by = -by
    if not by or (end - begin) / by < 0 or (end - begin) / by > _MOST_VALUES:
        raise UsageError(
            f"--sweep {name}={first}..{last}:{by} is no range that can be tried",
            code="sweep.invalid",
            hint=_HINT,
        )
    whole = not (begin % 1 or by % 1) and not {"."} & set(first + (step or "")) and "e" not in first.lower()
    for number in range(int((end - begin) / by) + 1):
        value = begin + number * by
        yield int(value) if whole else float(value)


def shown_value(value: Any) -> str:
    """A value as it is typed."""
    return value if isinstance(value, str) else plainjson.dumps(value)


def shown(params: Mapping[str, Any]) -> str:
    """Parameters of a trial on a line."""
    return " ".join(f"{name}={shown_value(value)}" for name, value in params.items())
