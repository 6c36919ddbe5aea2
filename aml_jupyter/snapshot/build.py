"""Taking what changed: decide about entries, read and hash files, keep them, write the manifest.

Nothing is read before the walk has shown that the project is within its limits. A file counts as read only if
it was, at the end, the one the walk saw; otherwise everything is compared once more, at most three times.
"""

from __future__ import annotations

import os
import stat
import time
from struct import unpack

from aml_jupyter.errors import SnapshotError
from aml_jupyter.snapshot import checks, memory
from aml_jupyter.snapshot.contents import Contents, ReadError
from aml_jupyter.snapshot.excludes import IGNORE_FILES, IGNORE_LIMIT, Context, Fixed
from aml_jupyter.snapshot.manifest import HEADER, dir_line
from aml_jupyter.snapshot.objects import Locked, Objects, Writer, publish_file, refuse_store, sha256, sweep
from aml_jupyter.snapshot.scan import (
    FILES,
    HIDDEN,
    LINES,
    NAMES,
    NOTES,
    SIZE,
    SKIPPED,
    STATS,
    WIDTH,
    Cursor,
    listing,
    open_below,
    packed,
)
from aml_jupyter.snapshot.upkeep import merge_packs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.snapshot.scan import Record, Scan

_ATTEMPTS = 4
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
# a change within one tick of the clock that stamps files would not show; file systems that keep whole
# seconds have ticks of two
_TICK = 20_000_000
_COARSE_TICK = 2_010_000_000
_NO_LINE = b"\n"  # keeps the place of a file that could not be read
_ITEM = 8 * WIDTH


def build(
    scan: Scan, objects: Objects, key: memory.Key, seen_id: str
) -> tuple[str, int, int, tuple[str, ...]]:
    """Finish a scan into a snapshot: its id, files, bytes and warnings."""
    store = objects.path
    with Locked(store):
        writer = Writer(objects)
        try:
            sweep(store)
            if seen_id and not memory.confirm(store, seen_id):
                scan = scan.afresh()  # what was read then may be gone
            scan, dropped = _settle(scan, writer)
            return _finish(scan, dropped, writer, store, key)
        except OSError as error:
            refuse_store(error, store)
        finally:
            writer.drop()


def _settle(scan: Scan, writer: Writer) -> tuple[Scan, dict[str, str]]:
    """Scan and read until nothing moves; the scan, and the links that are not sent."""
    for attempt in range(_ATTEMPTS):
        if attempt:
            scan = scan.again()
        builder = scan.builder or Builder(scan)
        if scan.faults.moved:
            continue
        checks.before_reading(scan, builder)
        _Reading(scan, builder, writer).run()
        if not scan.faults.moved:
            return scan, checks.after_reading(scan, builder)
    raise checks.changed(scan.faults.moved)


def _finish(
    scan: Scan, dropped: dict[str, str], writer: Writer, store: str, key: memory.Key
) -> tuple[str, int, int, tuple[str, ...]]:
    paths = sorted(scan.now)
    manifest = HEADER + b"".join([scan.now[path][LINES] for path in paths])
    if dropped:
        manifest = checks.without_links(manifest, dropped)
    snapshot_id = sha256(manifest).hex()
    files = sum(record[FILES] for record in scan.now.values()) - len(dropped)
    size = sum(record[SIZE] for record in scan.now.values())
    notes = [note for path in paths for note in scan.now[path][NOTES]]
    warnings = tuple(checks.warnings(files, dropped, notes))
    writer.commit()
    path = f"{store}/manifests/{snapshot_id}"
    if not memory.confirm(store, snapshot_id):
        publish_file(store, path, manifest)
    merge_packs(Objects(store))
    memory.save(store, key, memory.Memory(snapshot_id, files, size, warnings, scan.now))
    return snapshot_id, files, size, warnings


class Pending:
    """A folder whose lines wait for files to be read: `todo` has names and where their stat values are."""

    __slots__ = ("distrusted", "kept", "lines", "notes", "todo")

    def __init__(self) -> None:
        self.distrusted: list[int] = []
        self.kept: list[int] = []
        self.lines: dict[str, bytes] = {}
        self.notes: list[str] = []
        self.todo: list[tuple[str, int]] = []

    def trusted(self) -> bytes:
        """The stat values as they are recorded: zeros for what must be looked at again."""
        values = list(self.kept)
        for at in self.distrusted:
            values[at : at + WIDTH] = (0,) * WIDTH
        return packed(values)


class Builder:
    """Makes the records of folders that changed."""

    def __init__(self, scan: Scan) -> None:
        rules = scan.rules
        self._scan = scan
        self._top = Context(Fixed(rules.include, rules.exclude, rules.leave_out))
        self._contexts: dict[str, Context] = {}
        self._started = time.time_ns()
        self.pending: dict[str, Pending] = {}
        self.special: list[tuple[str, int]] = []
        self.files = 0

    def context(self, path: str, fd: int = -1, names: list[str] | None = None) -> Context:
        """The rules in a folder, read when they are first asked for."""
        found = self._contexts.get(path)
        if found is None:
            parent = self.around(path)
            texts = self._ignore_files(path, fd, names)
            found = self._contexts[path] = parent.below(path, texts)
        return found

    def around(self, path: str) -> Context:
        """The rules that decide about a folder itself."""
        return self.context(path.rpartition("/")[0]) if path else self._top

    def _ignore_files(self, path: str, fd: int, names: list[str] | None) -> dict[str, bytes]:
        wanted = [name for name in IGNORE_FILES if names is None or name in names]
        if not wanted:
            return {}
        own = fd if fd >= 0 else open_below(self._scan.fd, path)
        try:
            texts = {name: self._ignore_file(own, name, path) for name in wanted}
        finally:
            if fd < 0:
                os.close(own)
        return {name: text for name, text in texts.items() if text is not None}

    def _ignore_file(self, dir_fd: int, name: str, path: str) -> bytes | None:
        try:
            fd = os.open(name, _READ, dir_fd=dir_fd)
        except OSError as error:
            if isinstance(error, PermissionError):
                self._scan.faults.add(f"{path}/{name}" if path else name, error)
            return None  # gone, or a link, which git does not follow either
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            text = os.read(fd, IGNORE_LIMIT + 1)
        finally:
            os.close(fd)
        if len(text) > IGNORE_LIMIT:
            raise SnapshotError(f"{path}/{name} is larger than 4 MiB", code="snapshot.unreadable")
        return text

    def folder(
        self, path: str, fd: int, names: list[str], values: list[int], seen: Record | None, forced: bool
    ) -> tuple[tuple[str, ...], bool]:
        """Record a folder; the folders in it that are sent, and whether decisions there must be made anew."""
        self.files += len(names)
        if self.files > 2 * self._scan.rules.max_files + 1000:
            checks.too_many_files(self._scan)
        joined = "\0".join(names)
        if path and self.around(path).environment(path, names) is not None:
            files = tuple(name for name in names if not name.endswith("/"))
            self._scan.now[path] = (joined, packed(values[:1]), files, (), (), b"", 0, 0, ())
            return (), False
        ignores = _ignore_stats(names, values, seen[SKIPPED] if seen is not None and not forced else ())
        if not forced and (seen is None or ignores != _ignore_stats_of(seen)):
            forced = True
            names, values = listing(fd, ())
            joined = "\0".join(names)
        context = self.context(path, fd, names)
        work = _Folder(path, context, seen, None if forced else seen, self._started)
        work.sort(names, values)
        for entry in work.special:
            if stat.S_ISDIR(entry[1]):  # it became a folder after its name was read
                self._scan.faults.moved.append(entry[0])
            else:
                self.special.append(entry)
        pending = work.pending
        if path:
            pending.lines[""] = dir_line(path, values[0])
        record = (
            joined,
            pending.trusted(),
            tuple(work.skipped),
            tuple(work.hidden),
            tuple(sorted(work.folders)),
            _joined(pending.lines),
            work.files,
            work.size,
            tuple(pending.notes),
        )
        self._scan.now[path] = record
        if pending.todo:
            self.pending[path] = pending
        return record[4], forced


def _joined(lines: dict[str, bytes]) -> bytes:
    return b"".join([lines[name] for name in sorted(lines)])


class _Folder:
    """Sorting the entries of one folder into sent, left out, and known from before."""

    def __init__(
        self, path: str, context: Context, seen: Record | None, trusted: Record | None, started: int
    ) -> None:
        self._started = started
        self._prefix = path + "/" if path else ""
        self._context = context
        self._known = _known(seen) if seen is not None else {}
        self._left_out = frozenset(trusted[SKIPPED]) if trusted is not None else frozenset()
        self.pending = Pending()
        self.folders: list[str] = []
        self.skipped: list[str] = []
        self.hidden: list[str] = []
        self.special: list[tuple[str, int]] = []
        self.files = 0
        self.size = 0

    def sort(self, names: list[str], values: list[int]) -> None:
        """Go through the names; `values` as `scan.listing` gives them."""
        sends, prefix, left_out = self._context.sends, self._prefix, self._left_out
        kept = self.pending.kept
        kept.append(values[0])
        at = 1
        for name in names:
            if name[-1] == "/":
                if sends(name[:-1], prefix + name[:-1], True):
                    self.folders.append(name[:-1])
                continue
            if name in left_out:
                self.skipped.append(name)
                continue
            item = values[at : at + WIDTH]
            at += WIDTH
            if sends(name, prefix + name, False):
                self._send(name, item)
            elif name in IGNORE_FILES:
                self.hidden.append(name)
            else:
                self.skipped.append(name)
                continue
            if name in IGNORE_FILES and _fresh(item[3], self._started):
                self.pending.distrusted.append(len(kept))  # it may change once more without showing it
            kept += item

    def _send(self, name: str, item: list[int]) -> None:
        mode = item[0]
        pending = self.pending
        self.files += 1
        if stat.S_ISREG(mode):
            self.size += item[1]
        elif not stat.S_ISLNK(mode):
            self.special.append((self._prefix + name, mode))
            return
        known = self._known.get(name)
        if known is not None and known[0] == packed(item):
            pending.lines[name] = known[1]
            return
        pending.lines[name] = _NO_LINE
        pending.todo.append((name, len(pending.kept)))


def _ignore_stats(names: list[str], values: list[int], skipped: tuple[str, ...]) -> dict[str, list[int]]:
    """The stat values of the ignore files in a folder."""
    found = {}
    if any(name in names for name in IGNORE_FILES):
        looked_at = [name for name in names if name[-1] != "/" and name not in skipped]
        for name in IGNORE_FILES:
            if name in looked_at:
                at = 1 + WIDTH * looked_at.index(name)
                found[name] = values[at : at + WIDTH]
    return found


def _ignore_stats_of(record: Record) -> dict[str, list[int]]:
    names = [name for name in record[NAMES].split("\0") if name]
    if not any(name in names for name in IGNORE_FILES):
        return {}
    values = list(unpack(f"={len(record[STATS]) // 8}q", record[STATS]))
    return _ignore_stats(names, values, record[SKIPPED])


def _fresh(changed: int, now: int) -> int:
    """When a change made at `changed` is old enough that another one would show; 0: it is."""
    until = changed + (_TICK if changed % 1_000_000_000 else _COARSE_TICK)
    return until if until >= now else 0


def _known(record: Record) -> dict[str, tuple[bytes, bytes]]:
    """The stat values and lines of a folder's entries by name; hidden ones have no line."""
    left_out = frozenset(record[SKIPPED])
    hidden = frozenset(record[HIDDEN])
    stats = record[STATS]
    seen = [name for name in record[NAMES].split("\0") if name and name[-1] != "/" and name not in left_out]
    sent = sorted(name for name in seen if name not in hidden)
    lines = record[LINES].splitlines(keepends=True)
    lines = lines[len(lines) - len(sent) :]
    line_of = dict(zip(sent, lines, strict=False))
    return {
        name: (stats[8 + _ITEM * i : 8 + _ITEM * (i + 1)], line_of.get(name, b""))
        for i, name in enumerate(seen)
    }


class _Reading:
    """Reads what is pending, keeps the contents and completes the records."""

    def __init__(self, scan: Scan, builder: Builder, writer: Writer) -> None:
        self._scan = scan
        self._pending = builder.pending
        self._writer = writer
        self._contents = Contents(writer, scan.rules)
        self._late: list[tuple[str, str, int]] = []
        self._late_until = 0

    def run(self) -> None:
        """Read everything that is pending; files changed a moment ago come last."""
        cursor = Cursor(self._scan.fd)
        try:
            for path, pending in sorted(self._pending.items()):
                pending.todo.sort()  # the order in which they are written back
                self._folder(cursor, path, pending)
            if self._late:
                time.sleep(max(0, self._late_until - time.time_ns()) / 1e9)
                for path, name, at in self._late:
                    self._one(cursor, path, name, at)
        finally:
            cursor.close()
        for path, pending in self._pending.items():
            self._complete(path, pending)
        self._pending.clear()
        self._contents.raise_findings()

    def _folder(self, cursor: Cursor, path: str, pending: Pending) -> None:
        fd = self._go(cursor, path)
        if fd < 0:
            pending.distrusted += [at for _, at in pending.todo]
            return
        prefix = path + "/" if path else ""
        now = time.time_ns()
        kept = pending.kept
        for name, at in pending.todo:
            if kept[at + 3] + _COARSE_TICK >= now and self._put_off(path, name, at, now):
                continue
            self._entry(fd, prefix + name, name, at, pending)

    def _go(self, cursor: Cursor, path: str) -> int:
        try:
            return cursor.go(path)
        except OSError as error:
            self._scan.faults.add(path, error)
            return -1

    def _put_off(self, path: str, name: str, at: int, now: int) -> bool:
        """Whether a file changed so lately that another change might not show; then it is read last."""
        pending = self._pending[path]
        until = _fresh(pending.kept[at + 3], now)
        if until > now + _COARSE_TICK:  # the file system's clock is ahead of ours: read it every time
            pending.distrusted.append(at)
            return False
        if until:
            self._late.append((path, name, at))
            self._late_until = max(self._late_until, until)
        return bool(until)

    def _one(self, cursor: Cursor, path: str, name: str, at: int) -> None:
        fd = self._go(cursor, path)
        pending = self._pending[path]
        if fd < 0:
            pending.distrusted.append(at)
        else:
            self._entry(fd, f"{path}/{name}" if path else name, name, at, pending)

    def _entry(self, fd: int, path: str, name: str, at: int, pending: Pending) -> None:
        item = pending.kept[at : at + WIDTH]
        line = b""
        try:
            line = self._contents.line(fd, path, name, item, pending.notes)
        except ReadError as error:
            self._scan.faults.add(path, error.cause)
        if line:
            pending.lines[name] = line
            return
        pending.distrusted.append(at)
        if not self._scan.faults.unreadable:
            self._scan.faults.moved.append(path)

    def _complete(self, path: str, pending: Pending) -> None:
        names, _, skipped, hidden, folders, _, files, size, _ = self._scan.now[path]
        lines, notes = _joined(pending.lines), tuple(pending.notes)
        self._scan.now[path] = (names, pending.trusted(), skipped, hidden, folders, lines, files, size, notes)
