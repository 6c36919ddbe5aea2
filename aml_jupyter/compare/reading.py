"""Runs as far as they are compared: read from their directories, snapshots and artifacts."""

from __future__ import annotations

import os

from aml_jupyter import artifacts
from aml_jupyter.card import thinned
from aml_jupyter.compare.contents import Budget, compared, diff_of
from aml_jupyter.compare.findings import (
    ADDED,
    CHANGED,
    REMOVED,
    Change,
    File,
    Files,
    Log,
    Packages,
    Row,
)
from aml_jupyter.confined import read_bounded
from aml_jupyter.errors import AmlError
from aml_jupyter.frozen import Value
from aml_jupyter.portability.sides import Lines, Shown, packages_of
from aml_jupyter.portability.verdicts import largest_difference
from aml_jupyter.runs import payload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from aml_jupyter.artifacts import Artifact
    from aml_jupyter.compare.contents import Read
    from aml_jupyter.environment.lock import Lock
    from aml_jupyter.runs import Record, RunDirectory
    from aml_jupyter.snapshot import Entry

# files, packages and rows of a table that are listed
MOST_FILES, MOST_PACKAGES, MOST_ROWS = 200, 300, 500
LARGEST_CELL, LARGEST_FILE = 2 << 20, 8 << 20
# lines of a log around and behind the first that differs
BEFORE, BEHIND = 3, 400
# points of a line
POINTS = 80
_MISSING = object()
CELL = "<cell>"


class Side(Value):
    """A run that is compared."""

    directory: RunDirectory
    record: Record


# -- facts


def facts(side: Side) -> dict[str, Any]:
    """What tells a run from others."""
    record = side.record
    names = (
        *("run_id", "name", "status", "reason", "project", "target", "kind", "script_name"),
        *("created_utc", "duration", "snapshot_id"),
    )
    return {name: getattr(record, name) for name in names}


def settings(sides: Sequence[Side]) -> tuple[Row, ...]:
    """How the runs were started, on what, and how they ended."""
    records = [side.record for side in sides]
    deciding: dict[str, Callable[[Record], Any]] = {
        "status": lambda one: one.status,
        "reason": lambda one: one.reason,
        "exit code": lambda one: one.exit_code,
        "signal": lambda one: one.signal,
        "error": lambda one: (one.error or {}).get("message"),
        "target": lambda one: one.target,
        "kind": lambda one: one.kind,
        "run configuration": lambda one: one.run_configuration,
        "script": lambda one: one.script_name,
        "arguments": lambda one: list(one.arguments),
        "framework": lambda one: one.framework,
        "python": lambda one: one.python_version,
        "image": lambda one: one.environment.get("image"),
        "variables": lambda one: sorted(one.environment_names),
    }
    telling: dict[str, Callable[[Record], Any]] = {
        "git commit": lambda one: (one.git or {}).get("commit"),
        "git branch": lambda one: (one.git or {}).get("branch"),
        "user": lambda one: one.user_id,
        "created": lambda one: one.created_utc,
        "duration": lambda one: one.duration,
    }
    rows = [_row(name, [find(one) for one in records]) for name, find in deciding.items()]
    told = [_row(name, [find(one) for one in records]).replace(told=True) for name, find in telling.items()]
    return tuple(row for row in rows + told if any(value not in (None, "", []) for value in row.values))


def _row(name: str, values: Sequence[Any]) -> Row:
    return Row(name=name, values=tuple(values), same=all(one == values[0] for one in values[1:]))


def params(sides: Sequence[Side]) -> tuple[Row, ...]:
    """Parameters by name, those of the first run first."""
    found = [side.record.all_params for side in sides]
    rows = []
    for name in _names(found):
        values = [one.get(name, _MISSING) for one in found]
        same = all(_equal(one, values[0]) for one in values[1:])
        rows.append(Row(name=name, values=tuple(map(_given, values)), same=same))
    return tuple(rows)


def metrics(sides: Sequence[Side]) -> tuple[Row, ...]:
    """Metrics by name with their last values; the note tells how their courses differ."""
    found = [side.record.metrics if side.record.ended else _so_far(side) for side in sides]
    rows = []
    for name in _names(found):
        values = [one.get(name, _MISSING) for one in found]
        same = all(_equal(one, values[0]) for one in values[1:])
        note = "" if same else _course(values)
        courses = tuple(map(_points, values))
        drawn = courses if any(courses) else ()
        rows.append(Row(name=name, values=tuple(map(_last, values)), same=same, note=note, courses=drawn))
    return tuple(rows)


def _points(value: Any) -> tuple[float, ...]:
    """A few of the numbers that were logged in turn; none of what has no place on a line."""
    if not isinstance(value, (list, tuple)) or len(value) < 2:
        return ()
    try:
        numbers = [float(one) for one in value if isinstance(one, (int, float))]
    except OverflowError:
        return ()
    finite = [one for one in numbers if one - one == 0.0]
    return tuple(thinned(finite, POINTS)) if len(finite) == len(value) else ()


def _so_far(side: Side) -> dict[str, Any]:
    """What a run that goes on has logged."""
    from aml_jupyter.collection import LARGEST_VALUE, read_events
    from aml_jupyter.metrics import merge_metrics

    def read(sha256: str) -> bytes:
        return payload(side.directory, sha256, LARGEST_VALUE)

    return merge_metrics(read_events(side.directory.events_jsonl), read)


def _names(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return list({name: None for one in found for name in one})[:MOST_ROWS]


def _equal(first: Any, second: Any) -> bool:
    if first is _MISSING or second is _MISSING:
        return first is second
    # 1 and True are not the same, NaN is itself
    return (
        isinstance(first, bool) == isinstance(second, bool)
        and largest_difference(first, second).distance == 0
    )


def _given(value: Any) -> Any:
    return None if value is _MISSING else value


def _last(value: Any) -> Any:
    value = _given(value)
    return value[-1] if isinstance(value, (list, tuple)) and value else value


def _course(values: Sequence[Any]) -> str:
    """What is to be said of values that were logged in turn."""
    lists = [one if isinstance(one, (list, tuple)) else [one] for one in values if one is not _MISSING]
    if max(map(len, lists)) < 2:
        return ""
    lengths = [len(one) for one in lists]
    told = (
        [f"{' and '.join(map(str, lengths))} values"] if len(set(lengths)) > 1 else [f"{lengths[0]} values"]
    )
    for at, several in enumerate(zip(*lists, strict=False), 1):
        if not all(_equal(one, several[0]) for one in several[1:]):
            told.append(f"different from value {at} on")
            break
    return ", ".join(told)


# -- environment


def environment(first: Side, second: Side) -> Packages:
    """Packages that differ: of the locks where both have one, else of what was found at the targets."""
    locks = _lock(first), _lock(second)
    if locks[0] is not None and locks[1] is not None:
        return _of_locks(locks[0], locks[1])
    sides = [packages_of(one.directory.home, one.record.environment) for one in (first, second)]
    if sides[0] is None or sides[1] is None:
        return Packages(note="the packages of one of the runs are not known")
    one, other = sides[0], sides[1]
    rows = [(name, one.get(name, ""), other.get(name, "")) for name in sorted({*one, *other})]
    return _packages("installed", rows)


def _packages(how: str, rows: Sequence[tuple[str, str, str]]) -> Packages:
    # another version tells more than a package that only one has
    apart = sorted((row for row in rows if row[1] != row[2]), key=lambda row: not (row[1] and row[2]))
    listed = tuple(apart[:MOST_PACKAGES])
    return Packages(
        how=how, same=len(rows) - len(apart), rows=listed, more=max(0, len(apart) - MOST_PACKAGES)
    )


def _lock(side: Side) -> Lock | None:
    digest = str(side.record.environment.get("lock") or "")
    if not digest.isalnum():
        return None
    from aml_jupyter.environment.keeping import read

    try:
        _bring(side, "need_lock")
        return read(f"{side.directory.home}/environments/kept/{digest}.json")
    except AmlError:  # damaged or of a newer version: what was installed is known all the same
        return None


def _of_locks(first: Lock, second: Lock) -> Packages:
    from aml_jupyter.environment.difference import diff

    found = diff(first, second)
    facts = [("(platform)", *found.platform), ("(python)", *found.python)]
    rows = [*(row for row in facts if row[1] != row[2]), *found.changed, *found.removed, *found.added]
    same = len({package.name for package in second.packages}) - len(found.changed) - len(found.added)
    listed = tuple(rows[:MOST_PACKAGES])
    return Packages(how="lock", same=max(0, same), rows=listed, more=max(0, len(rows) - MOST_PACKAGES))


def _bring(side: Side, what: str) -> None:
    """Have the snapshot or the lock of a run here that its store has.  Raises AmlError."""
    if os.path.exists(side.directory.path + "/remote.json"):
        from aml_jupyter import syncing

        getattr(syncing, what)(side.directory)


# -- code


def code(first: Side, second: Side, budget: Budget) -> Files:
    """The snapshots, and the cells where the runs had one."""
    from aml_jupyter.snapshot import Store

    changes = _cells(first, second, budget)
    store = Store(first.directory.home + "/snapshots")
    ids = first.record.snapshot_id, second.record.snapshot_id
    same_cell = int(not changes and first.record.cell_sha256 is not None)
    try:
        for side in (first, second):
            _bring(side, "need_snapshot")
        manifests = [{one.path: one for one in store.manifest(id_)} if id_ else {} for id_ in ids]
    except AmlError as error:
        return Files(same=same_cell, changes=tuple(changes), note=error.message)
    sides = [{path: one for path, one in found.items() if one.kind != "dir"} for found in manifests]
    found = _changes(sides[0], sides[1], _entry)

    def read(entry: Entry | None, id_: str) -> Read | None:
        return (lambda: store.read(id_, entry.path)) if entry is not None and entry.kind == "file" else None

    for one in found[:MOST_FILES]:
        readers = read(sides[0].get(one.path), ids[0]), read(sides[1].get(one.path), ids[1])
        changes.append(compared(one, readers, budget))
    same = len(sides[0].keys() | sides[1].keys()) - len(found) + same_cell
    return Files(same=same, changes=tuple(changes), more=max(0, len(found) - MOST_FILES))


def _entry(entry: Entry) -> File:
    return File(size=entry.size, sha256=entry.sha256, mode=entry.mode, link=entry.target or "")


def _cells(first: Side, second: Side, budget: Budget) -> list[Change]:
    """The cell as a file of the code."""
    hashes = [one.record.cell_sha256 for one in (first, second)]
    if hashes[0] == hashes[1]:
        return []
    files = [File(sha256=digest) if digest else None for digest in hashes]

    def read(side: Side) -> Read | None:
        path = side.directory.job + "/cell.py"
        return (lambda: read_bounded(path, LARGEST_CELL)) if side.record.cell_sha256 else None

    return [compared(_change(CELL, files[0], files[1]), (read(first), read(second)), budget)]


def _changes(
    first: Mapping[str, Any], second: Mapping[str, Any], file: Callable[[Any], File]
) -> list[Change]:
    """Paths whose files are not the same, in order; those that both have first."""
    found = []
    for path in sorted({*first, *second}, key=os.fsencode):
        one, other = (file(side[path]) if path in side else None for side in (first, second))
        if one != other:
            found.append(_change(path, one, other))
    return sorted(found, key=lambda change: change.kind != CHANGED)


def _change(path: str, first: File | None, second: File | None) -> Change:
    kind = ADDED if first is None else REMOVED if second is None else CHANGED
    note = ""
    if first and second and first.sha256 == second.sha256 and first.mode != second.mode:
        note = f"mode {first.mode:o} | {second.mode:o}"
    elif first and second and (first.link or second.link):
        note = f"link to {first.link or 'nothing'} | {second.link or 'nothing'}"
    return Change(path=path, kind=kind, first=first, second=second, note=note)


# -- artifacts


def outputs(first: Side, second: Side, budget: Budget) -> Files:
    """The artifacts by their content."""
    try:
        manifests = [artifacts.read_manifest(one.directory) for one in (first, second)]
    except AmlError as error:
        return Files(note=error.message)
    sides = [{item.path: item for item in one.files} if one else {} for one in manifests]
    found = _changes(sides[0], sides[1], _artifact)

    def read(side: Side, item: Artifact | None) -> Read | None:
        if item is None or item.state == "rejected":
            return None
        return lambda: artifacts.read_artifact(side.directory, item.path, LARGEST_FILE)

    changes = [
        compared(one, (read(first, sides[0].get(one.path)), read(second, sides[1].get(one.path))), budget)
        for one in found[:MOST_FILES]
    ]
    same = len(sides[0].keys() | sides[1].keys()) - len(found)
    return Files(same=same, changes=tuple(changes), more=max(0, len(found) - MOST_FILES))


def _artifact(item: Artifact) -> File:
    rejected = item.code if item.state == "rejected" else ""
    return File(size=item.size, sha256=item.sha256, state=rejected)


# -- log


def log(first: Side, second: Side) -> Log:
    """The first line that differs and what follows; ids, folders and addresses in memory are left out."""
    before: list[str] = []
    one, other = (iter(Lines(side.directory, side.record)) for side in (first, second))
    number = 0
    while True:
        number += 1
        here, there = next(one, None), next(other, None)
        if here != there:
            break
        if here is None:
            return _shown(first, second, number - 1)
        before = [*before[-(BEFORE - 1) :], here]
    start = number - 1 - len(before)
    lines = [*before, *_some(here, one)], [*before, *_some(there, other)]
    text = diff_of(lines[0], lines[1], 100, start)
    return Log(same=False, lines=number - 1, what=f"line {number}", first=here, second=there, text=text)


def _some(line: str | None, rest: Iterator[str]) -> Iterable[str]:
    if line is None:
        return []
    return [line, *(one for one, _ in zip(rest, range(BEHIND), strict=False))]


def _shown(first: Side, second: Side, lines: int) -> Log:
    """Of logs that are the same what was displayed beside them."""
    from itertools import zip_longest

    displays = (Shown(side.directory, side.record) for side in (first, second))
    for number, (one, other) in enumerate(zip_longest(*displays), 1):
        if one != other:
            return Log(same=False, lines=lines, what=f"display {number}", first=one, second=other)
    return Log(same=True, lines=lines)
