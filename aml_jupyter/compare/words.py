"""A comparison in words, for text and page alike: every word of a run in it is made fit to be shown."""

from __future__ import annotations

from aml_jupyter.compare.findings import ADDED, ARTIFACTS, CODE, ENVIRONMENT, LOG, REMOVED
from aml_jupyter.frozen import Value
from aml_jupyter.printable import (
    page_text,
    safe_name,
    shortened,
    shown_number,
    shown_seconds,
    shown_size,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from aml_jupyter.compare.findings import Cells, Change, Comparison, File, Files, Log, Packages, Pair, Row

LONGEST = 200
# rows of a table, packages, files and cells that are shown; --json has more
MOST_ROWS, MOST_PACKAGES, MOST_FILES, MOST_CELLS = 200, 25, 60, 12
LABELS = {"settings": "settings", "params": "parameters", "metrics": "metrics"}
SIGNS = {ADDED: "+", REMOVED: "-"}
_NO_VALUE = "-"


class Grid(Value):
    """A table with a row for each name and a column for each run; `apart` are the names that differ."""

    label: str
    summary: str
    rows: tuple[tuple[str, ...], ...] = ()
    apart: frozenset[str] = frozenset()
    # by the name of a row
    courses: Mapping[str, tuple[tuple[float, ...], ...]] = {}


class Block(Value):
    """A file or log that differs: a line on it, lines below, and where there are any a diff and pictures."""

    title: str
    kind: str = "changed"
    lines: tuple[tuple[str, ...], ...] = ()
    change: Change | None = None
    diff: tuple[str, ...] = ()
    more: str = ""


class Section(Value):
    """One part of what two runs were compared in."""

    label: str
    summary: str
    rows: tuple[tuple[str, ...], ...] = ()
    blocks: tuple[Block, ...] = ()


def headline(comparison: Comparison) -> str:
    """What came out, in one line."""
    if comparison.same:
        return "= no difference"
    apart = [part for part in comparison.parts if not _part_same(comparison, part)]
    named = [LABELS.get(part, part) for part in apart]
    return "≠ different: " + ", ".join(named)


def _part_same(comparison: Comparison, part: str) -> bool:
    if part in comparison.tables:
        return all(row.same or row.told for row in comparison.tables[part])
    return not any(getattr(pair, part).differ for pair in comparison.pairs)


def names(comparison: Comparison) -> list[str]:
    """A short name of each run, told apart from the others."""
    given = [run["name"] or run["run_id"] for run in comparison.runs]
    short = [word(name) for name in given]
    if len(set(short)) < len(short):
        short = [word(run["run_id"]) for run in comparison.runs]
    return [f"{name} ({at})" if short.count(name) > 1 else name for at, name in enumerate(short, 1)]


def run_line(run: Mapping[str, Any]) -> str:
    """A run in one line."""
    script = "cell" if run["script_name"] == "<cell>" else word(run["script_name"] or "")
    spent = run["duration"]
    parts = [
        word(run["run_id"]),
        word(run["name"]) if run["name"] else "",
        word(run["status"]),
        f"{script} on {word(run['target'])}" if script else word(run["target"]),
        shown_seconds(spent) if isinstance(spent, (int, float)) else "",
        str(run["created_utc"])[:19].replace("T", " "),
    ]
    return "  ".join(filter(None, parts))


def grids(comparison: Comparison, *, every: bool) -> Iterator[Grid]:
    """Settings, parameters and metrics; rows that are the same only when `every` one is asked for."""
    two = len(comparison.runs) == 2
    for part, rows in comparison.tables.items():
        apart = [row for row in rows if not row.same]
        deciding = sum(not row.told for row in apart)
        same = sum(row.same for row in rows)
        # when a run was and how long it took stands in its line
        apart_shown = [row for row in apart if row.name not in ("created", "duration")]
        shown = list(rows) if every or (part != "settings" and not two) else apart_shown
        lines = tuple(_grid_row(row, part, two=two) for row in shown[:MOST_ROWS])
        summary = counted(same, deciding, "differ") if rows else "none"
        yield Grid(
            label=LABELS[part],
            summary=summary,
            rows=lines,
            apart=frozenset(word(row.name) for row in apart),
            courses={word(row.name): row.courses for row in shown if row.courses},
        )


def _grid_row(row: Row, part: str, *, two: bool) -> tuple[str, ...]:
    show = _SHOWN.get(row.name, value) if part == "settings" else value
    values = [show(one) for one in row.values]
    if part == "metrics" and two:
        values.append("; ".join(filter(None, [_moved(*row.values), word(row.note)])))
    elif part == "metrics":
        values.append(word(row.note))
    return (word(row.name), *values)


def _duration(given: Any) -> str:
    return shown_seconds(given) if isinstance(given, (int, float)) else value(given)


def _time(given: Any) -> str:
    return value(str(given)[:19].replace("T", " ") if given else None)


# settings that are shown otherwise than as they are
_SHOWN = {"duration": _duration, "created": _time}


def _moved(first: Any, second: Any) -> str:
    """How far a number went."""
    if isinstance(first, bool) or isinstance(second, bool):
        return ""
    if not isinstance(first, (int, float)) or not isinstance(second, (int, float)):
        return ""
    try:
        by = float(second) - float(first)
        share = abs(by) / abs(float(first)) if first else float("inf")
    except OverflowError:
        return ""
    if by != by or not by:  # noqa: PLR0124 - only NaN is not itself
        return ""
    relative = f" ({100 * share:.3g} %)" if share < 100 else ""
    return f"{by:+.4g}{relative}"


def sections(pair: Pair) -> Iterator[Section]:
    """What differs between the first run and another one."""
    if pair.environment is not None:
        yield _environment(pair.environment)
    if pair.code is not None:
        yield _files(CODE, pair.code)
    if pair.artifacts is not None:
        yield _files(ARTIFACTS, pair.artifacts)
    if pair.log is not None:
        yield _log(pair.log)


def _environment(packages: Packages) -> Section:
    if not packages.how:
        return Section(label=ENVIRONMENT, summary=word(packages.note))
    rows = tuple(
        (word(name), word(one or _NO_VALUE), word(other or _NO_VALUE)) for name, one, other in packages.rows
    )
    rest = len(rows) - MOST_PACKAGES + packages.more
    more = ((f"and {rest} more", "", ""),) if rest > 0 else ()
    what = "packages, as locked" if packages.how == "lock" else "packages, as installed"
    differ = len(packages.rows) + packages.more
    summary = f"{counted(packages.same, differ, 'differ')}: {what}"
    return Section(label=ENVIRONMENT, summary=summary, rows=(*rows[:MOST_PACKAGES], *more))


def _files(label: str, files: Files) -> Section:
    changes = files.changes
    blocks = tuple(_block(one) for one in changes[:MOST_FILES])
    rest = len(changes) - MOST_FILES + files.more
    more = (Block(title=f"and {rest} more", kind="told"),) if rest > 0 else ()
    kinds = [(sum(one.kind == kind for one in changes), kind) for kind in ("changed", "added", "removed")]
    told = [f"{count} {kind}" for count, kind in kinds if count]
    if files.more:
        told.append(f"{files.more} not looked into")
    if files.same:
        told.append(f"{files.same} the same")
    summary = "; ".join(filter(None, [", ".join(told), word(files.note)])) or "none"
    return Section(label=label, summary=summary, blocks=(*blocks, *more))


def _block(change: Change) -> Block:
    title = [word(change.path), _sizes(change)]
    lines: tuple[tuple[str, ...], ...] = ()
    more = ""
    if change.note:
        title.append(f"({word(change.note)})")
    if change.cells is not None:
        title.append(_cells(change.cells))
        cells = change.cells.cells[:MOST_CELLS]
        lines = tuple(
            (f"row {one.row}", word(one.column), word(one.first) or '""', word(one.second) or '""')
            for one in cells
        )
        rest = change.cells.differ - len(cells)
        more = f"and {rest} more" if rest else ""
    diff = change.text.lines if change.text else ()
    if change.text and change.text.cut:
        more = f"and {change.text.cut} more lines"
    shown = tuple(page_text(line) for line in diff)
    return Block(
        title="  ".join(filter(None, title)),
        kind=change.kind,
        lines=lines,
        change=change,
        diff=shown,
        more=more,
    )


def _sizes(change: Change) -> str:
    sides = [_file(side) for side in (change.first, change.second) if side is not None]
    if change.text or change.cells or change.images:
        sides = [shown_size(side.size) for side in (change.first, change.second) if side and side.size]
    return " | ".join(dict.fromkeys(sides))


def _file(side: File) -> str:
    if side.state:
        return f"not kept [{word(side.state)}]"
    if side.link:
        return ""
    return f"{shown_size(side.size)} {word(side.sha256[:12])}"


def _cells(cells: Cells) -> str:
    told = [f"{cells.differ} cells differ" if cells.differ != 1 else "1 cell differs"] if cells.differ else []
    for many, word_ in ((cells.rows_added, "added"), (cells.rows_removed, "removed")):
        if many:
            told.append(f"{count(len(many), 'row')} {word_} ({_numbers(many)})")
    for named, word_ in ((cells.columns_added, "added"), (cells.columns_removed, "removed")):
        if named:
            told.append(f"{count(len(named), 'column')} {word_} ({', '.join(map(word, named[:8]))})")
    return ", ".join(told) or "the same cells, written otherwise"


def _numbers(numbers: Sequence[int]) -> str:
    more = ", …" if len(numbers) > 6 else ""
    return ", ".join(map(str, numbers[:6])) + more


def _log(log: Log) -> Section:
    if log.same:
        return Section(label=LOG, summary=f"the same, {count(log.lines, 'line')}")
    summary = f"differs from {log.what} on"
    if log.text is None:
        rows = (("-", _line(log.first)), ("+", _line(log.second)))
        return Section(label=LOG, summary=summary, rows=rows)
    more = f"and {log.text.cut} more lines" if log.text.cut else ""
    shown = tuple(page_text(line) for line in log.text.lines)
    return Section(label=LOG, summary=summary, blocks=(Block(title="", kind="told", diff=shown, more=more),))


def _line(text: str | None) -> str:
    return "(nothing)" if text is None else word(text)


def counted(same: int, differ: int, verb: str) -> str:
    """How many are the same and how many are not."""
    told = [f"{differ} {verb}" if differ != 1 else f"1 {verb}s"] if differ else []
    if same or not differ:
        told.append(f"{same} the same" if same else "the same")
    return ", ".join(told)


def count(number: int, what: str) -> str:
    """A number of things."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def value(given: Any) -> str:
    """A value of a run on one line."""
    if given is None or given == "":
        return _NO_VALUE
    if isinstance(given, float):
        return f"{given:.10g}"
    if isinstance(given, (list, tuple)):
        more = " …" if len(given) > 20 else ""
        return shortened(" ".join(value(one) for one in given[:20]) + more, LONGEST) if given else _NO_VALUE
    if isinstance(given, dict):
        items = list(given.items())[:8]
        more = ", …" if len(given) > 8 else ""
        return shortened(", ".join(f"{word(name)}: {value(one)}" for name, one in items) + more, LONGEST)
    return word(shown_number(given))


def word(text: object) -> str:
    """Any text on one line."""
    return shortened(safe_name(str(text)), LONGEST)
