"""Whether a run that repeats another one did the same: artifacts byte for byte, metrics, log, environment.

submit    start a run that repeats another one
verify    compare the two
"""

from __future__ import annotations

from itertools import zip_longest

from aml_jupyter import artifacts, experiment, runs
from aml_jupyter.errors import AmlError, UsageError
from aml_jupyter.frozen import Value
from aml_jupyter.portability.shown import rows
from aml_jupyter.portability.sides import side_of
from aml_jupyter.portability.verdicts import INCOMPLETE, PENDING, TOLERANCE, Verdict, verdict
from aml_jupyter.printable import safe_name, shortened
from aml_jupyter.starting import Starter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from aml_jupyter.experiment import Request
    from aml_jupyter.portability.verdicts import Comparison
    from aml_jupyter.runs import RunDirectory

ORIGINAL, RERUN = "original", "rerun"
# a tag of the rerun that says what comparing it found
TAG = "verified"
# files of which it is told where they begin to differ, bytes of each that are looked through, of a line
MOST_FILES, LARGEST_COMPARED, LONGEST_LINE = 8, 1 << 30, 100
_WORDS = {
    "identical": "gave the same results as",
    "within tolerance": "gave the same results, within the tolerance, as",
    "different": "did not give the same results as",
    INCOMPLETE: "cannot be compared with",
    PENDING: "has not ended, to be compared with",
}


class Where(Value):
    """Where an artifact of two runs begins to differ: `byte` from 0, `line` from 1 where it is text.

    `first` and `second` are that line of each; `second` None means that the rerun's file ends there.
    """

    path: str
    byte: int
    line: int | None = None
    first: str | None = None
    second: str | None = None


class Verification(Value):
    """What comparing a rerun with its original found; `same` is what the exit status says."""

    original: str
    rerun: str
    verdict: Verdict
    where: tuple[Where, ...] = ()

    @property
    def word(self) -> str:
        """`identical`, `within tolerance`, `different`, `incomplete` or `pending`."""
        return self.verdict.word

    @property
    def same(self) -> bool:
        """Whether the rerun did the same."""
        return self.verdict.good

    @property
    def comparison(self) -> Comparison:
        """Ending, outputs, metrics, log, environment and packages, side by side."""
        return self.verdict.comparisons[0]

    def as_json(self) -> dict[str, Any]:
        """The verification as JSON values."""
        found = self.comparison.as_json()
        for name in ("target", "run_id", "verdict"):
            found.pop(name)
        return {
            "original": self.original,
            "rerun": self.rerun,
            "verdict": self.word,
            "same": self.same,
            "tolerance": self.verdict.tolerance,
            "runs": [dict(one) for one in self.verdict.runs],
            **found,
            "first_differences": [one.as_dict() for one in self.where],
        }

    def __repr__(self) -> str:
        return plain(self)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        from html import escape

        from aml_jupyter.printable import page_text

        text = plain(self)
        return {"text/html": f"<pre>{escape(page_text(text))}</pre>", "text/plain": text}


def submit(request: Request, start: Callable[[], Starter] = Starter) -> RunDirectory:
    """Start a run that repeats `request.rerun_of`.  Raises what `experiment.submit` raises."""
    if not request.rerun_of:
        raise UsageError("no run was named that is to be repeated")
    return experiment.submit(request, None, start)


def require_ended(original: RunDirectory) -> None:
    """Raise UsageError for a run with which nothing can be compared yet."""
    if not runs.read_record(original).ended:
        raise UsageError(
            f"{original.run_id} has not ended: nothing can be compared with it",
            hint=f"aml wait {original.run_id}",
        )


def original_of(directory: RunDirectory) -> RunDirectory:
    """The run that a run repeats.  Raises UsageError for one that repeats none, RunNotFound."""
    record = runs.load_record(directory)
    name = record.properties.get("rerun_of")
    if not name:
        raise UsageError(f"{record.run_id} repeats no run", hint=f"aml rerun {record.run_id} --verify")
    return runs.find(str(name), directory.home)


def verify(original: RunDirectory, rerun: RunDirectory, tolerance: float = TOLERANCE) -> Verification:
    """Compare a rerun that has ended with its original; the rerun gets a tag that says what was found.

    `tolerance` is the relative difference that metrics may have.
    """
    sides = [
        side_of(one, label, runs.read_record(one)) for label, one in ((ORIGINAL, original), (RERUN, rerun))
    ]
    found = verdict("", sides, tolerance)
    where: list[Where] = []
    for one in found.comparisons[0].outputs.differences[:MOST_FILES]:
        if _has_bytes(one.first) and _has_bytes(one.second):
            where += _first_difference(original, rerun, one.name)
    if found.word != PENDING:
        runs.set_labels(rerun, tags={TAG: found.word})
    return Verification(original=original.run_id, rerun=rerun.run_id, verdict=found, where=tuple(where))


def _has_bytes(content: Any) -> bool:
    return isinstance(content, dict) and "sha256" in content


def _first_difference(original: RunDirectory, rerun: RunDirectory, path: str) -> list[Where]:
    """Where two artifacts begin to differ; nothing where one of them cannot be read any more."""
    line, begun, position = 1, b"", 0
    try:
        for one, other in _in_step(original, rerun, path):
            if one == other:
                line += one.count(b"\n")
                begun = (begun + one).rpartition(b"\n")[2][-LONGEST_LINE:]
                position += len(one)
                if position > LARGEST_COMPARED:
                    return []
                continue
            at = _common(one, other)
            same = one[:at]
            line += same.count(b"\n")
            begun = (begun + same).rpartition(b"\n")[2][-LONGEST_LINE:]
            texts = [_line(begun, rest[at:]) for rest in (one, other)]
            if b"\0" in one[: 1 << 13] or b"\0" in other[: 1 << 13]:
                return [Where(path=path, byte=position + at)]
            return [Where(path=path, byte=position + at, line=line, first=texts[0], second=texts[1])]
    except (AmlError, OSError):  # gone or damaged since: the hashes say that they differ
        return []
    return []


def _in_step(original: RunDirectory, rerun: RunDirectory, path: str) -> Iterator[tuple[bytes, bytes]]:
    sides = (artifacts.read_blocks(one, path) for one in (original, rerun))
    yield from zip_longest(*sides, fillvalue=b"")


def _common(one: bytes, other: bytes) -> int:
    """How many bytes two texts have in common at their beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _line(begun: bytes, rest: bytes) -> str | None:
    if not rest and not begun:
        return None
    return shortened((begun + rest.split(b"\n", 1)[0][:LONGEST_LINE]).decode(errors="replace"), LONGEST_LINE)


def plain(found: Verification) -> str:
    """A verification as lines of text."""
    symbol = "=" if found.same else "?" if found.word in (INCOMPLETE, PENDING) else "≠"
    lines = [f"{symbol} {found.rerun} {_WORDS[found.word]} {found.original}"]
    for row in rows(found.comparison, found.verdict):
        lines.append(f"  {row.label:<13}{row.words}")
        for name, first, second in row.details:
            lines.append(f"    {name}  {first} | {second}" if second else f"    {name}  {first}".rstrip())
            if row.label == "outputs":
                lines += _told(found, name)
    return "\n".join(lines)


def _told(found: Verification, name: str) -> Iterator[str]:
    for one in found.where:
        if shortened(safe_name(one.path), LONGEST_LINE) != name:
            continue
        if one.line is None:
            yield f"      first difference at byte {one.byte}"
        else:
            yield f"      first difference in line {one.line}:"
            for label, text in ((ORIGINAL, one.first), (RERUN, one.second)):
                yield f"        {label:<9}{safe_name(text) if text is not None else '(the end)'}"
