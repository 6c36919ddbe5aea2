"""Why each file of a project is in its snapshot or not, without taking one."""

from __future__ import annotations

import os

from aml_jupyter.errors import SnapshotError
from aml_jupyter.frozen import Value
from aml_jupyter.snapshot import Rules, checks
from aml_jupyter.snapshot.build import Builder
from aml_jupyter.snapshot.contents import Contents, ReadError
from aml_jupyter.snapshot.manifest import Difference, Entry, difference, entries
from aml_jupyter.snapshot.objects import Objects, Writer
from aml_jupyter.snapshot.scan import FOLDERS, HIDDEN, NAMES, SKIPPED, WIDTH, Cursor, Scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from aml_jupyter.snapshot import Store
    from aml_jupyter.snapshot.excludes import Verdict


class Decision(Value):
    """One file or link, or a folder (path with a slash) that is left out whole and was not looked into.

    `size` in bytes; `reason` in words; `rule_source` is the ignore file with line and pattern, or the option.
    """

    path: str
    size: int
    included: bool
    reason: str
    rule_source: str = ""


class Explanation(Value):
    """What a snapshot would hold.

    `counted_bytes` leaves out the top-level `docs`; `largest` are the ten largest files that are sent;
    `change` is against the snapshot that was asked about; `refusals` are the errors `take` would raise, and
    `secrets` what makes it raise `snapshot.secret`.
    """

    decisions: tuple[Decision, ...]
    total_files: int
    total_bytes: int
    counted_bytes: int
    largest: tuple[Decision, ...]
    change: Difference | None = None
    refusals: tuple[SnapshotError, ...] = ()
    secrets: tuple[str, ...] = ()


def explain(
    root: str, rules: Rules | None = None, *, store: Store | None = None, since: str | None = None
) -> Explanation:
    """Decide about every file of a project; with `store` and `since`, also what changed since a snapshot.

    Writes nothing. Raises SnapshotError when the project folder cannot be opened or `since` is unknown.
    """
    rules = rules or Rules()
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SnapshotError(f"the project folder {root} cannot be opened: {error.strerror}") from error
    try:
        return _explain(fd, rules.replace(max_files=1 << 60), rules, store, since)
    finally:
        os.close(fd)


def _explain(fd: int, rules: Rules, limits: Rules, store: Store | None, since: str | None) -> Explanation:
    scan = Scan(fd, {}, rules)
    scan.run()
    builder = scan.builder or Builder(scan)
    decisions = tuple(sorted(_decisions(scan, builder), key=lambda decision: os.fsencode(decision.path)))
    included = [decision for decision in decisions if decision.included]
    now, secrets, refusals = _read(scan, builder, store)
    scan.rules = limits
    refusals += _refusals(scan, builder)
    change = None
    if store is not None and since is not None:
        change = difference(store.manifest(since), now)
    return Explanation(
        decisions=decisions,
        total_files=len(included),
        total_bytes=sum(decision.size for decision in included),
        counted_bytes=checks.counted_bytes(scan.now),
        largest=tuple(sorted(included, key=lambda decision: -decision.size)[:10]),
        change=change,
        refusals=tuple(refusals),
        secrets=tuple(secrets),
    )


def _decisions(scan: Scan, builder: Builder) -> Iterator[Decision]:
    sizes = dict(checks.sent(scan.now))
    for folder, record in scan.now.items():
        prefix = folder + "/" if folder else ""
        names = [name for name in record[NAMES].split("\0") if name]
        whole = builder.around(folder).environment(folder, names) if folder else None
        if whole is not None:
            yield _decision(prefix, 0, whole)
            continue
        context = builder.context(folder)
        entered = frozenset(record[FOLDERS])
        left_out = frozenset(record[SKIPPED]) | frozenset(record[HIDDEN])
        for name in names:
            bare = name.rstrip("/")
            if bare in entered and name.endswith("/"):
                continue
            verdict = context.decide(bare, prefix + bare, name.endswith("/"))
            size = _size(scan.fd, prefix + bare) if name in left_out else sizes.get(prefix + name, 0)
            yield _decision(prefix + name, size, verdict)


def _decision(path: str, size: int, verdict: Verdict) -> Decision:
    reason = verdict.reason or ("sent" if verdict.included else "left out")
    rule = str(verdict.rule) if verdict.rule is not None else ""
    return Decision(path=path, size=size, included=verdict.included, reason=reason, rule_source=rule)


def _size(root_fd: int, path: str) -> int:
    try:
        return os.lstat(path, dir_fd=root_fd).st_size
    except OSError:  # gone, or too deep to be named in one
        return 0


class _Nowhere(Writer):
    """Keeps nothing."""

    def __init__(self) -> None:
        super().__init__(Objects(""))

    def add(self, digest: bytes, data: bytes) -> None:
        """Forget it."""


def _read(
    scan: Scan, builder: Builder, store: Store | None
) -> tuple[list[Entry], list[str], list[SnapshotError]]:
    """The entries as a manifest would have them, the secrets, and what could not be read."""
    contents = Contents(_Nowhere(), scan.rules.replace(allow_secrets=True))
    notes: list[str] = []
    lines: list[bytes] = [b""]
    cursor = Cursor(scan.fd)
    try:
        for path, pending in builder.pending.items():
            prefix = path + "/" if path else ""
            for name, at in pending.todo:
                try:
                    fd = cursor.go(path)
                    lines.append(contents.line(fd, prefix + name, name, pending.kept[at : at + WIDTH], notes))
                except OSError as error:
                    scan.faults.add(prefix + name, error)
                except ReadError as error:
                    scan.faults.add(prefix + name, error.cause)
    finally:
        cursor.close()
    del store
    return entries(b'{"format":1}\n' + b"".join(lines)), notes, []


def _refusals(scan: Scan, builder: Builder) -> list[SnapshotError]:
    found = []
    for check in (checks.before_reading, checks.after_reading):
        try:
            check(scan, builder)
        except SnapshotError as error:
            found.append(error)
    return found
