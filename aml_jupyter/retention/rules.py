"""Which runs may go: rules that a person gives, and what no rule lets go.

A run goes only if every rule that was given lets it go.  Kept in any case are pinned runs, runs that have not
ended, runs that were promoted to an asset, runs whose record cannot be read, and, unless told otherwise, runs
that a kept run took a file of.  Sizes are those of run directory and artifacts, in bytes.

Runs that were brought from a store say of themselves when they were and how good: they are counted among
themselves, and go first where bytes are bounded, so that none pushes out a run that was made here.
"""

from __future__ import annotations

import os
import time

from aml_jupyter import runs
from aml_jupyter.confined import Root
from aml_jupyter.errors import AmlError, RunNotFound, UsageError
from aml_jupyter.frozen import Value
from aml_jupyter.retention.sizes import bytes_of
from aml_jupyter.runs.rows import metric_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from aml_jupyter.runs import Record, RunDirectory


class Rules(Value):
    """What keeps runs of a project; None is a rule that was not given.

    `keep_last` newest ones, `keep_best` ones by the last value of `metric`, those that ended less than
    `older_than` seconds ago, and as many of the others as fit into `max_bytes`, the newest ones.  The first
    two hold for the runs that were made here and for those that were brought, each by themselves.
    """

    keep_last: int | None = None
    keep_best: int | None = None
    metric: str = ""
    largest: bool = True
    older_than: float | None = None
    max_bytes: int | None = None

    @property
    def given(self) -> bool:
        """Whether there is any rule."""
        return any(
            one is not None for one in (self.keep_last, self.keep_best, self.older_than, self.max_bytes)
        )


class Leaving(Value):
    """A run that goes: its size and what let it go."""

    directory: RunDirectory
    bytes: int
    rule: str

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.directory.run_id


class Choice(Value):
    """What rules come to: the runs that go, oldest first, and how many stay, by the reason."""

    going: tuple[Leaving, ...] = ()
    kept: Mapping[str, int] = {}
    bytes_kept: int = 0


class _Run(Value):
    """A run with what rules ask of it; `keeps` is why it stays whatever the rules say."""

    directory: RunDirectory
    record: Record | None
    created: str = ""
    ended: float = 0.0
    keeps: str = ""

    @property
    def brought(self) -> bool:
        """Whether a store had it."""
        return self.record is not None and "origin" in self.record.properties


def choose(
    home: str,
    rules_of: Callable[[str, str], Rules],
    *,
    project: str | None = None,
    most: int | None = None,
    promoted: Collection[str] = (),
    keep_inputs: bool = True,
) -> Choice:
    """Look at the runs of a project (`account/workspace/name`), or of all, and say which go.

    `rules_of(key, root)` gives the rules of each project; `most` are the bytes that all runs together may
    have; `promoted` the ids of runs that assets point to.
    """
    everything = [_look(one, promoted) for one in runs.all_directories(home)]
    chosen = [one for one in everything if project in (None, one.directory.project_key)]
    let_go: dict[str, list[str]] = {}
    bounded: list[tuple[list[_Run], int]] = []
    for key in sorted({one.directory.project_key for one in chosen}):
        own = sorted(
            (one for one in chosen if one.directory.project_key == key),
            key=lambda one: (one.created, one.directory.run_id),
        )
        rules = rules_of(key, _root_of(own))
        if not rules.given and most is None:
            continue
        let_go |= _let_go(own, rules)
        if rules.max_bytes is not None:
            bounded.append((own, rules.max_bytes))
    if most is not None:
        bounded.append((chosen, most))
    return _settled(everything, chosen, let_go, bounded, keep_inputs)


def _root_of(own: list[_Run]) -> str:
    """The folder of a project by its newest run; what a store says of it only where no other does."""
    here = [one for one in own if not one.brought] or own
    return next((one.record.project_root for one in reversed(here) if one.record), "")


def _look(directory: RunDirectory, promoted: Collection[str]) -> _Run:
    try:
        record = runs.read_record(directory)
        labels = runs.read_labels(directory)
    except RunNotFound:
        return _Run(directory=directory, record=None, keeps="being made or removed")
    except AmlError:
        return _Run(directory=directory, record=None, keeps="damaged: aml check tells")
    keeps = ""
    if not record.ended:
        keeps = "not ended"
    elif labels.pinned:
        keeps = "pinned"
    elif directory.run_id in promoted:
        keeps = "promoted to an asset"
    moment = record.end_time_utc or record.created_utc
    return _Run(
        directory=directory,
        record=record,
        created=record.created_utc,
        ended=seconds_of(moment) if moment else 0.0,
        keeps=keeps,
    )


def seconds_of(moment: str) -> float:
    """Seconds since 1970 of a moment in ISO 8601; now for what is none, which is never old."""
    from datetime import UTC, datetime

    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        return time.time()
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _let_go(own: list[_Run], rules: Rules) -> dict[str, list[str]]:
    """Run id -> what each rule says of a run that all of them let go; `own` is one project, oldest first."""
    here = [one for one in own if not one.brought]
    brought = [one for one in own if one.brought]
    return _let_go_of(here, rules, "") | _let_go_of(brought, rules, " that were brought")


def _let_go_of(own: list[_Run], rules: Rules, which: str) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {one.directory.run_id: [] for one in own}
    if rules.keep_last is not None:
        newest = own[max(0, len(own) - rules.keep_last) :]
        _narrow(said, newest, f"not among the last {rules.keep_last}{which}")
    if rules.keep_best is not None:
        way = "largest" if rules.largest else "smallest"
        best = _best(own, rules)
        _narrow(said, best, f"not among the best {rules.keep_best}{which} by {rules.metric} ({way})")
    if rules.older_than is not None:
        young = [one for one in own if time.time() - one.ended <= rules.older_than]
        _narrow(said, young, f"older than {rules.older_than / 86400:g} days")
    return said


def _narrow(said: dict[str, list[str]], kept: Iterable[_Run], rule: str) -> None:
    for one in kept:
        said.pop(one.directory.run_id, None)
    for words in said.values():
        words.append(rule)


def _best(own: list[_Run], rules: Rules) -> list[_Run]:
    ranked: list[tuple[float, int, _Run]] = []
    for place, one in enumerate(own):
        found = dict(metric_values({"metrics": one.record.metrics})) if one.record else {}
        value = found.get(rules.metric)
        if value is not None:
            # of equal ones the newest
            ranked.append((value if rules.largest else -value, place, one))
    ranked.sort(key=lambda entry: entry[:2], reverse=True)
    return [one for _, _, one in ranked[: rules.keep_best]]


def _settled(
    everything: list[_Run],
    chosen: list[_Run],
    let_go: Mapping[str, list[str]],
    bounded: list[tuple[list[_Run], int]],
    keep_inputs: bool,
) -> Choice:
    """The runs that go in the end: unprotected, used by nobody who stays, and no more than must."""
    users = _users(everything) if keep_inputs else {}
    free = [one for one in chosen if one.directory.run_id in let_go and not one.keeps]
    free.sort(key=lambda one: (not one.brought, one.created, one.directory.run_id))
    sizes = {one.directory.run_id: bytes_of(one.directory) for group, _ in bounded for one in group}
    budget = _Budget(bounded, sizes)
    going: dict[str, _Run] = {}
    waiting, before = free, -1
    while waiting and len(going) != before:
        before = len(going)
        still = []
        for one in waiting:
            run_id = one.directory.run_id
            if users.get(run_id, set()) - going.keys():
                still.append(one)
            elif budget.wants(run_id):
                budget.take(run_id)
                going[run_id] = one
        waiting = still
    leaving = tuple(
        Leaving(
            directory=one.directory,
            bytes=sizes.get(run_id) or bytes_of(one.directory),
            rule="; ".join([*let_go[run_id], *budget.rule(run_id)]),
        )
        for run_id, one in sorted(going.items(), key=lambda pair: (pair[1].created, pair[0]))
    )
    used = {one.directory.run_id for one in waiting}
    kept: dict[str, int] = {}
    for one in chosen:
        if one.directory.run_id not in going:
            reason = one.keeps or ("used by a run that stays" if one.directory.run_id in used else "by rule")
            kept[reason] = kept.get(reason, 0) + 1
    return Choice(going=leaving, kept=kept, bytes_kept=budget.left)


class _Budget:
    """Bounds of bytes: a run is wanted while a bound that it counts for is not met, or where none is set."""

    def __init__(self, bounded: list[tuple[list[_Run], int]], sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.bounds = [({one.directory.run_id for one in group}, most) for group, most in bounded]
        self.totals = [sum(sizes[run_id] for run_id in ids) for ids, _ in self.bounds]

    def wants(self, run_id: str) -> bool:
        own = self._own(run_id)
        return not own or any(self.totals[at] > self.bounds[at][1] for at in own)

    def take(self, run_id: str) -> None:
        for at in self._own(run_id):
            self.totals[at] -= self.sizes[run_id]

    def rule(self, run_id: str) -> list[str]:
        from aml_jupyter.printable import shown_size

        return [f"over {shown_size(self.bounds[at][1])}, oldest first" for at in self._own(run_id)[-1:]]

    @property
    def left(self) -> int:
        return max(self.totals, default=0)

    def _own(self, run_id: str) -> list[int]:
        return [at for at, (ids, _) in enumerate(self.bounds) if run_id in ids]


def _users(everything: list[_Run]) -> dict[str, set[str]]:
    """Run id -> the runs that took a file of it, or that are its children."""
    by_uuid = {one.record.uuid: one.directory.run_id for one in everything if one.record and one.record.uuid}
    found: dict[str, set[str]] = {}
    for one in everything:
        if one.record is None:
            continue
        sources = [
            by_uuid.get(str(given.get("uuid", "")), str(given.get("run_id", "")))
            for given in one.record.inputs
            if isinstance(given, dict)
        ]
        for source in (*sources, one.record.parent_run_id or ""):
            if source and source != one.directory.run_id:
                found.setdefault(source, set()).add(one.directory.run_id)
    return found


def promoted_runs(home: str) -> set[str]:
    """The ids of runs of which an artifact is an asset of a project, in any of its versions.

    Raises ConfigError `asset.invalid` for a link file that cannot be read: who is promoted is not known then.
    """
    from aml_jupyter.assets import FOLDER
    from aml_jupyter.config.identity import known_roots

    roots = set(known_roots(home))
    for directory in runs.all_directories(home):
        try:
            roots.add(runs.load_record(directory).project_root)
        except AmlError:  # damaged or removed at this moment
            continue
    folders = [f"{root}/{FOLDER}" for root in sorted(roots)]
    return {run_id for folder in folders if os.path.isdir(folder) for run_id in _linked(folder)}


def _linked(folder: str) -> Iterator[str]:
    """The runs that the link files of a folder name."""
    from aml_jupyter.assets import LARGEST, SUFFIX, read

    with Root(folder) as root:
        for entry in root.walk(enter=lambda _: False):
            if entry.kind == "file" and entry.name.endswith(SUFFIX):
                data = root.read_bytes(entry.path, LARGEST)
                # a file of that name that is none of ours is passed over
                if data.lstrip().startswith(b"{"):
                    yield from (link.run_id for link in read(f"{folder}/{entry.path}", data).versions)


class Swept(Value):
    """What became of the runs that were to go: ids and bytes of those that went, and why others did not."""

    gone: tuple[Leaving, ...] = ()
    stayed: Mapping[str, str] = {}

    @property
    def bytes(self) -> int:
        """The size of what went."""
        return sum(one.bytes for one in self.gone)


def carry_out(choice: Choice, remove: Callable[[RunDirectory, str], object]) -> Swept:
    """Have each run removed that goes, with its rule; one that was pinned or started meanwhile stays."""
    gone, stayed = [], {}
    for one in choice.going:
        try:
            if runs.read_labels(one.directory).pinned:
                stayed[one.run_id] = "it was pinned meanwhile"
                continue
            remove(one.directory, one.rule)
        except RunNotFound:  # somebody else removed it
            continue
        except AmlError as error:
            stayed[one.run_id] = error.message
            continue
        gone.append(one)
    return Swept(gone=tuple(gone), stayed=stayed)


def parse_metric(text: str) -> tuple[str, bool]:
    """`acc`, `acc:max` or `loss:min` as name and whether the largest is best.  Raises UsageError."""
    name, colon, way = text.rpartition(":")
    if colon and way in ("max", "min") and name:
        return name, way == "max"
    if not text or (colon and not name):
        raise UsageError(f"{text!r} is no metric", hint="NAME, NAME:max or NAME:min, such as acc or loss:min")
    return text, True
