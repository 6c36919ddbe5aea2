"""The verdict on runs of one snapshot: what is the same, what is not, and in which environments.

    identical          same ending, same outputs byte for byte, same metrics
    within tolerance   the same but for metrics whose relative difference is small
    different          an ending, an output or a metric differs
    incomplete         a run was canceled, lost, timed out or never began: its results are not its script's
    pending            a run has not ended

The log and the environments are told and decide nothing: a log holds times and versions.  Only of runs that
completed and left neither outputs nor metrics it is the log, and what they displayed, that is compared.
"""

from __future__ import annotations

from itertools import zip_longest

from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, Self

    from aml_jupyter.artifacts import Artifact
    from aml_jupyter.runs import Record

IDENTICAL, WITHIN, DIFFERENT = "identical", "within tolerance", "different"
INCOMPLETE, PENDING = "incomplete", "pending"
# from the best to the worst
WORDS = (IDENTICAL, WITHIN, DIFFERENT, INCOMPLETE, PENDING)
GOOD = (IDENTICAL, WITHIN)
# relative difference that metrics may have unless said otherwise
TOLERANCE = 1e-6
# differences of a kind that are listed, and characters of a text in one
MOST, LONGEST = 50, 200
# a script's own way to fail; anything else was done to it
_OWN_FAILURE = ("run.exit_nonzero", "run.signal")


class Side(Value):
    """One run as far as it is compared: `lines` of its log and texts it `shown`, fit to be compared.

    `packages` are versions by name, None where they are not known.
    """

    target: str
    record: Record
    artifacts: tuple[Artifact, ...] = ()
    lines: Iterable[str] = ()
    shown: Iterable[str] = ()
    packages: Mapping[str, str] | None = None


class Difference(Value):
    """One thing that is not the same: what it is at the first target and at the other, None for nothing."""

    name: str
    first: Any = None
    second: Any = None
    note: str = ""


class Part(Value):
    """One kind of things: how many are the same, how many differ; at most 50 of the latter are listed."""

    same: int = 0
    differ: int = 0
    differences: tuple[Difference, ...] = ()

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `as_json` made."""
        listed = tuple(Difference(**one) for one in document["differences"])
        return cls(same=document["same"], differ=document["differ"], differences=listed)


_PARTS = ("ending", "outputs", "metrics", "tolerated", "log", "environment", "packages")


class Comparison(Value):
    """One run against the first: `target` and `run_id` are its own.

    `metrics` are those out of tolerance, `tolerated` those within; `log` is the first line that differs.
    """

    target: str
    run_id: str
    word: str
    ending: Part
    outputs: Part
    metrics: Part
    tolerated: Part
    log: Part
    environment: Part
    packages: Part

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `as_json` made."""
        parts = {name: Part.from_json(document[name]) for name in _PARTS}
        return cls(target=document["target"], run_id=document["run_id"], word=document["verdict"], **parts)

    def as_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        parts = {name: _json(getattr(self, name)) for name in _PARTS}
        return {"target": self.target, "run_id": self.run_id, "verdict": self.word, **parts}


class Verdict(Value):
    """What comparing runs of one snapshot found; `runs` are facts of each, in the order of the request."""

    experiment_id: str
    word: str
    tolerance: float
    runs: tuple[Mapping[str, Any], ...]
    comparisons: tuple[Comparison, ...]

    @property
    def good(self) -> bool:
        """Whether the runs did the same."""
        return self.word in GOOD

    def as_json(self) -> dict[str, Any]:
        """The verdict as JSON values, as it is kept and printed."""
        return {
            "experiment_id": self.experiment_id,
            "verdict": self.word,
            "tolerance": self.tolerance,
            "runs": [dict(one) for one in self.runs],
            "comparisons": [one.as_json() for one in self.comparisons],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `as_json` made."""
        return cls(
            experiment_id=document["experiment_id"],
            word=document["verdict"],
            tolerance=document["tolerance"],
            runs=tuple(document["runs"]),
            comparisons=tuple(map(Comparison.from_json, document["comparisons"])),
        )


def verdict(experiment_id: str, sides: Sequence[Side], tolerance: float = TOLERANCE) -> Verdict:
    """Compare runs of one snapshot, each with the first; reads nothing but what the sides hold."""
    comparisons = tuple(_compare(sides[0], other, tolerance) for other in sides[1:])
    words = [one.word for one in comparisons] or [_readiness(sides)]
    return Verdict(
        experiment_id=experiment_id,
        word=max(words, key=WORDS.index),
        tolerance=tolerance,
        runs=tuple(map(_facts, sides)),
        comparisons=comparisons,
    )


def _facts(side: Side) -> dict[str, Any]:
    record = side.record
    names = ("run_id", "status", "reason", "exit_code", "signal", "duration", "python_version")
    facts = {name: getattr(record, name) for name in names}
    packages = None if side.packages is None else len(side.packages)
    return {"target": side.target, "kind": record.kind, **facts, "packages": packages}


def _readiness(sides: Sequence[Side]) -> str:
    """The word before anything is compared."""
    records = [side.record for side in sides]
    if not all(record.ended for record in records):
        return PENDING
    own = all(one.status == "Completed" or one.reason in _OWN_FAILURE for one in records)
    kept = all(one.artifacts_state != "failed" for one in records)
    return IDENTICAL if own and kept else INCOMPLETE


def _compare(first: Side, second: Side, tolerance: float) -> Comparison:
    metrics, tolerated = _metrics(first.record.metrics, second.record.metrics, tolerance)
    parts = {
        "ending": _ending(first.record, second.record),
        "outputs": _outputs(first.artifacts, second.artifacts),
        "metrics": metrics,
        "tolerated": tolerated,
        "log": _log(first, second),
        "environment": _environment(first, second),
        "packages": _packages(first.packages, second.packages),
    }
    word = _readiness([first, second])
    if word == IDENTICAL:
        word = _word(parts, bare=_left_nothing(first) and _left_nothing(second))
    return Comparison(target=second.target, run_id=second.record.run_id, word=word, **parts)


def _left_nothing(side: Side) -> bool:
    # of a run that failed the log ends in a traceback, whose words change with versions
    return side.record.status == "Completed" and not side.artifacts and not side.record.metrics


def _word(parts: Mapping[str, Part], *, bare: bool) -> str:
    decisive = ["ending", "outputs", "metrics", *(["log"] if bare else [])]
    if any(parts[name].differ for name in decisive):
        return DIFFERENT
    return WITHIN if parts["tolerated"].differ else IDENTICAL


def _ending(first: Record, second: Record) -> Part:
    names = ("status", "exit_code", "signal")
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in names}
    if first.error or second.error:
        pairs["error"] = (_error(first), _error(second))
    return _of_pairs(pairs)


def _error(record: Record) -> str | None:
    """What a run failed with: the name of an exception without its words, which change with versions."""
    return str(record.error.get("message", "")).partition(":")[0] if record.error else None


def _environment(first: Side, second: Side) -> Part:
    one, other = first.record, second.record
    pairs: dict[str, tuple[Any, Any]] = {
        name: (getattr(one, name) or None, getattr(other, name) or None)
        for name in ("kind", "python_version", "framework")
    }
    for name in ("image", "lock"):
        if name in one.environment or name in other.environment:
            pairs[name] = (one.environment.get(name), other.environment.get(name))
    return _of_pairs(pairs)


def _packages(first: Mapping[str, str] | None, second: Mapping[str, str] | None) -> Part:
    if first is None or second is None:
        return Part()
    # another version of the same package tells more than one that is only at one place
    names = sorted({*first, *second}, key=lambda name: (name not in first or name not in second, name))
    return _of_pairs({name: (first.get(name), second.get(name)) for name in names})


def _outputs(first: Sequence[Artifact], second: Sequence[Artifact]) -> Part:
    """Compared by path and SHA-256; of what was not kept, by the reason."""
    sides = [{item.path: _content(item) for item in items} for items in (first, second)]
    paths = sorted({*sides[0], *sides[1]})
    return _of_pairs({path: (sides[0].get(path), sides[1].get(path)) for path in paths})


def _content(item: Artifact) -> dict[str, Any]:
    if item.state == "rejected":
        return {"not_kept": item.code}
    return {"size": item.size, "sha256": item.sha256}


def _of_pairs(pairs: Mapping[str, tuple[Any, Any]]) -> Part:
    differences = [
        Difference(name=name[:LONGEST], first=_short(first), second=_short(second))
        for name, (first, second) in pairs.items()
        if first != second
    ]
    return _part(len(pairs) - len(differences), differences)


def _part(same: int, differences: Sequence[Difference]) -> Part:
    return Part(same=same, differ=len(differences), differences=tuple(differences[:MOST]))


def _metrics(first: Mapping[str, Any], second: Mapping[str, Any], tolerance: float) -> tuple[Part, Part]:
    """Metrics out of tolerance, and those that are within and not equal."""
    same = 0
    out: list[Difference] = []
    within: list[Difference] = []
    for name in sorted({*first, *second}):
        if name in first and name in second:
            worst = largest_difference(first[name], second[name])
        else:
            worst = Worst(distance=float("inf"), first=first.get(name), second=second.get(name))
        if worst.distance == 0:
            same += 1
        else:
            (within if worst.distance <= tolerance else out).append(worst.difference(name))
    return _part(same, out), _part(0, within)


class Worst(Value):
    """The largest difference within a metric: relative, infinite for what is no number or is not there."""

    distance: float = 0.0
    first: Any = None
    second: Any = None
    where: str = ""

    def difference(self, name: str) -> Difference:
        """As the verdict lists it."""
        known = 0 < self.distance < float("inf")
        note = ", ".join(filter(None, [self.where, f"relative {self.distance:.2g}" if known else ""]))
        first, second = _short(self.first), _short(self.second)
        return Difference(name=name[:LONGEST], first=first, second=second, note=_short(note))


def largest_difference(first: Any, second: Any, where: str = "") -> Worst:
    """The largest difference of two values of a metric, wherever in them; distance 0 where they are equal."""
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        if len(first) != len(second):
            told = f"{len(first)} and {len(second)} values"
            return Worst(distance=float("inf"), first=first, second=second, where=told)
        inside: Iterable[tuple[str, Any, Any]] = (
            (f"value {at}", *pair) for at, pair in enumerate(zip(first, second, strict=True), 1)
        )
    elif isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        inside = ((str(name), first[name], second[name]) for name in first)
    else:
        return Worst(distance=_distance(first, second), first=first, second=second, where=where)
    found = (largest_difference(a, b, f"{where} {name}".strip()) for name, a, b in inside)
    return max(found, key=lambda one: one.distance, default=Worst())


def _distance(first: object, second: object) -> float:
    """Relative to the larger of two numbers; NaN equals NaN; infinite for anything else that differs."""
    if first == second or (first != first and second != second):  # noqa: PLR0124 - only NaN is not itself
        return 0.0
    try:
        one, other = float(first), float(second)  # type: ignore[arg-type] # refused where it is no number
        text = isinstance(first, str) or isinstance(second, str)
        distance = abs(one - other) / max(abs(one), abs(other))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return float("inf")
    return float("inf") if text or distance != distance else distance  # noqa: PLR0124


def _log(first: Side, second: Side) -> Part:
    """The first line of the logs that differs; failing that, the first of the displays."""
    lines = _first_difference(first.lines, second.lines, "line {}".format)
    shown = lines if lines.differ else _first_difference(first.shown, second.shown, "display {}".format)
    return shown if shown.differ else Part(same=lines.same + shown.same)


def _first_difference(first: Iterable[str], second: Iterable[str], name: Callable[[int], str]) -> Part:
    number = 0
    for number, (one, other) in enumerate(zip_longest(first, second), 1):
        if one != other:
            found = Difference(name=name(number), first=_short(one), second=_short(other))
            return _part(number - 1, [found])
    return Part(same=number)


def _short(value: Any, level: int = 0) -> Any:
    """A value that a verdict may hold for ever: JSON, and small."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"
    if isinstance(value, dict):
        return {str(name)[:LONGEST]: _short(one, level + 1) for name, one in _some(value.items(), level)}
    if isinstance(value, (list, tuple)):
        return [_short(one, level + 1) for one in _some(value, level)]
    return value


def _some(items: Iterable[Any], level: int) -> Iterator[Any]:
    most = (8, 4)[level] if level < 2 else 0
    return (item for item, _ in zip(items, range(most), strict=False))


def _json(value: Any) -> Any:
    if isinstance(value, Value):
        return {name: _json(one) for name, one in value.as_dict().items()}
    return [_json(one) for one in value] if isinstance(value, (list, tuple)) else value
