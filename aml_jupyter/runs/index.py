# ruff: noqa: S608 - statements are put together from our own names; values are always parameters
"""Answers about many runs.  The index may be deleted at any time: it is made again from the run directories.

A writer marks its run in `dirty/` before and after it changes a file; whoever asks next takes in what is
marked.  The mark of a run that has not ended stays, so that every answer holds its state of this moment.
After a start of the machine, when marks may be lost, all directories are compared once.

One process writes at a time, under `index.lock`.  The journal is SQLite's rollback journal and never its
write-ahead log, whose race before 3.51.3 damages what two processes write.
"""

from __future__ import annotations

import os
import sqlite3

from aml_jupyter.confined import make_root
from aml_jupyter.errors import UsageError
from aml_jupyter.locks import PATIENCE, exclusive, locked
from aml_jupyter.runs import choosing, schema
from aml_jupyter.runs.choosing import Choice
from aml_jupyter.runs.damage import Finding
from aml_jupyter.runs.directory import (
    RunDirectory,
    all_directories,
    at,
    enter,
    entered,
    history_fault,
    unlink_quietly,
)
from aml_jupyter.runs.looking import look, look_at, same_stamp
from aml_jupyter.runs.rows import (
    KEYS,
    NESTED,
    copy_of,
    decode,
    is_flat,
    runs_frame,
    sort_rows,
    split_order,
    value_of,
)
from aml_jupyter.runs.schema import Look
from aml_jupyter.runs.searching import Search

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, Self

    from aml_jupyter.runs.directory import Scope
    from aml_jupyter.runs.rows import Row

    Found = list[tuple[str, RunDirectory]]

__all__ = ["Finding", "History", "project_key", "runs_frame"]

# decoded rows that are kept for the next question
REMEMBERED = 5000
# runs that one transaction takes in when the index is made anew
BATCH = 1000


def project_key(project: Scope) -> str:
    """`account/workspace/name`, by which projects are told apart."""
    return f"{project.account}/{project.workspace}/{project.name}"


class History:
    """Rows of the runs of one AML_HOME, for one thread.  No I/O before the first question; `with` closes it.

    All methods raise HistoryError: `history.locked`, which names the holder, or `history.corrupt`.  A damaged
    index is set aside and made again.  Where nothing may be written or the disk is full, answers come from
    memory; `notice` then says why.
    """

    def __init__(self, home: str, *, patience: float | None = None) -> None:
        self.home = home
        self.patience = patience  # seconds that a question waits for whoever takes in changes
        self.path = home + "/index.sqlite"
        self.notice = ""
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._in_memory = False
        self._decoded: dict[str, tuple[Row, bool]] = {}
        self._counts: choosing.Counts | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the index; the next question opens it again."""
        if self._db is not None:
            self._db.close()
        self._db = self._identity = self._counts = None
        self._in_memory = False

    def forget(self) -> None:
        """Decode rows and count the runs of conditions anew from now on."""
        self._decoded.clear()
        self._counts = None

    # -- questions

    def rows(
        self,
        order_by: str | Sequence[str] | None = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = 50,
        project: str | None = None,
        status: str | Sequence[str] | None = None,
        hidden: bool = False,
        where: str | None = None,
    ) -> list[Row]:
        """Runs as dicts with the keys `KEYS`, newest first or by `order_by`: `"metrics.acc DESC"`, or a list.

        `where` is a filter, `project` is `account/workspace/name`; `columns` (`"run_id"`, `"metrics.acc"`)
        gives those keys only.  Runs without the value that orders come last.  Raises UsageError for a key
        that cannot be and for a filter that cannot be read.
        """
        chosen = Choice(project, status, hidden, where)
        orders = [order_by] if isinstance(order_by, str) else list(order_by or ())
        self.refresh()
        found = self._ordered([one for one in orders if one], chosen, -1 if limit is None else limit)
        if columns is None:
            return found
        return [{name: value_of(row, name) for name in columns} for row in found]

    def count(self, project: str | None = None, *, hidden: bool = False, where: str | None = None) -> int:
        """How many runs there are, or how many a filter means."""
        chosen = Choice(project, None, hidden, where)
        self.refresh()
        return self._search(chosen).count()

    # -- steps of one question, which refreshes before the first

    def newest(self, within: str | None = None, *, skip: int = 0, cell_id: str | None = None) -> Found:
        """The newest run of a project or cell, or the one `skip` before it: one or none."""
        more = ("cell_id = ?", [cell_id]) if cell_id is not None else ("", [])
        where, values = Choice(within, None, True).where(*more)
        return self._found(where, "ORDER BY created DESC, id DESC LIMIT 1 OFFSET ?", [*values, skip])

    def best(self, metric: str, direction: str, within: str | None = None) -> Found:
        """The run with the largest (`DESC`) or smallest (`ASC`) last value of a metric: one or none."""
        way = "DESC" if direction == "DESC" else "ASC"
        where, values = Choice(within).where("m.key = ? AND m.value IS NOT NULL", [schema.storable(metric)])
        sql = (
            f"SELECT run_id, path FROM metrics m CROSS JOIN runs r ON r.id = m.run{where}"
            f" ORDER BY m.value {way}, m.run DESC LIMIT 1"
        )
        return self._pairs(self._ask(sql, values))

    def named(self, name: str, within: str | None = None) -> Found:
        """The runs of exactly this name, newest first."""
        where, values = Choice(within, None, True).where("name = ?", [name])
        return self._found(where, "ORDER BY created DESC LIMIT 100", values)

    def with_prefix(self, prefix: str) -> Found:
        """The runs whose id begins so, newest first."""
        where, values = Choice(None, None, True).where("run_id >= ? AND run_id < ?", [prefix, prefix + _LAST])
        return self._found(where, "ORDER BY created DESC LIMIT 100", values)

    def users(self, uuid: str) -> list[tuple[str, RunDirectory]]:
        """The runs that were made from the run of a UUID, newest first, each with `input` or `rerun`."""
        self.refresh()
        sql = (
            "SELECT u.kind, r.path FROM uses u CROSS JOIN runs r ON r.id = u.run WHERE u.target = ?"
            " ORDER BY r.created DESC LIMIT 1000"
        )
        return [(kind, RunDirectory(f"{self.home}/{path}")) for kind, path in self._ask(sql, [uuid])]

    def completed(self, snapshot_id: str, within: str) -> list[RunDirectory]:
        """The runs of a project that completed with a snapshot, newest first."""
        self.refresh()
        sql = (
            "SELECT path FROM runs WHERE snapshot_id = ? AND project = ? AND status = 'Completed'"
            " ORDER BY created DESC LIMIT 1000"
        )
        found = self._ask(sql, [snapshot_id, within])
        return [RunDirectory(f"{self.home}/{path}") for (path,) in found]

    def recent_words(self, within: str | None = None) -> list[str]:
        """Ids and names of the newest runs: what a mistyped reference may have meant."""
        where, values = Choice(within, None, True).where()
        found = self._ask(f"SELECT run_id, name FROM runs{where} ORDER BY created DESC LIMIT 300", values)
        return [word for pair in found for word in pair if word]

    def _found(self, where: str, order: str, values: Sequence[object]) -> Found:
        return self._pairs(self._ask(f"SELECT run_id, path FROM runs{where} {order}", values))

    def _pairs(self, found: list[tuple[Any, ...]]) -> Found:
        return [(run_id, RunDirectory(f"{self.home}/{path}")) for run_id, path in found]

    # -- order

    def _ordered(self, orders: list[str], chosen: Choice, limit: int) -> list[Row]:
        known = [choosing.order_of(one) for one in orders]
        wanted = [one for one in known if one is not None]
        if len(wanted) < len(known):
            return self._ordered_here(orders, chosen, limit)
        return self._rows(lambda: self._search(chosen, limit).texts(wanted))

    def _search(self, chosen: Choice, limit: int = -1) -> Search:
        # without a filter nothing is counted
        if chosen.conditions and (self._counts is None or self._counts.stale):
            self._counts = choosing.Counts(self._ask)
        return Search(self._ask, self._counts, chosen, limit)

    def _ordered_here(self, orders: list[str], chosen: Choice, limit: int) -> list[Row]:
        """Rarely asked, and of any kind."""
        keys = [split_order(one) for one in orders]
        for key, _ in keys:
            head, dot, _ = key.partition(".")
            if head not in KEYS or (dot and head not in NESTED):
                raise UsageError(
                    f"runs cannot be ordered by {key!r}",
                    hint=f"Order by {', '.join(KEYS)}, metrics.NAME, params.NAME or tags.NAME,"
                    " and ASC or DESC.",
                )
        found = self._rows(lambda: self._search(chosen).texts([]))
        for key, descending in reversed(keys):
            found = sort_rows(found, key, descending=descending)
        return found[: None if limit < 0 else limit]

    def _rows(self, ask: Callable[[], Iterable[tuple[Any, ...]]]) -> list[Row]:
        texts = ask()
        try:
            return self._decode(texts)
        except (ValueError, KeyError, TypeError):  # bits of the file have changed
            self._renew("a row does not fit its checksum")
            return self._rows(ask)

    def _decode(self, texts: Iterable[tuple[Any, ...]]) -> list[Row]:
        known = self._decoded
        if len(known) > REMEMBERED:
            known.clear()
        rows = []
        for text, crc in texts:
            found = known.get(text)
            if found is None:
                row = decode(text, crc)
                found = known[text] = (row, is_flat(row))
            row, flat = found
            rows.append(copy_of(row) if flat else decode(text, crc))
        return rows

    def _ask(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query; where the index turns out to be damaged, of a new one."""
        try:
            return self._open().execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            self._recover(error)
            return self._open().execute(sql, values).fetchall()

    # -- opening

    def _open(self) -> sqlite3.Connection:
        """The index that is there now, opened; made when there is none."""
        if self._db is not None and (self._in_memory or self._identity == _identity(self.path)):
            return self._db
        self.close()
        if not os.path.isdir(self.home + "/runs"):
            return self._nothing_yet()
        try:
            self._open_file()
        except sqlite3.DatabaseError as error:
            self._recover(error)
        assert self._db is not None
        return self._db

    def _nothing_yet(self) -> sqlite3.Connection:
        # not kept: the first run may come at any moment
        db = schema.connect(":memory:")
        schema.create(db)
        self._db = db
        return db

    def _open_file(self) -> None:
        found = _identity(self.path)
        if not os.access(self.home, os.W_OK) or (found and not os.access(self.path, os.W_OK)):
            self._open_in_memory(
                "The history may not be written to; the list was made from the runs themselves."
            )
            return
        if found is None:
            self._renew("")
            return
        db = schema.connect(self.path)
        try:
            version = schema.version_of(db)
            whole = version == schema.VERSION and schema.is_whole(db)
            outdated = 0 < version < schema.VERSION and schema.is_ours(db)
        except sqlite3.DatabaseError:
            db.close()
            raise
        if version > schema.VERSION:
            db.close()
            self._open_in_memory(f"{self.path} is of a newer aml_jupyter and stays as it is.")
        elif outdated:
            db.close()
            self._renew("", outdated=True)
        elif not whole:
            db.close()
            self._renew("its tables are not there")
        else:
            self._db, self._identity = db, found
            if schema.boot_of(db) != schema.this_boot():
                self._compare_all()

    def _open_in_memory(self, notice: str) -> None:
        self.close()
        self.notice = notice
        self._db, self._in_memory = schema.connect(":memory:"), True
        if not schema.copy_into(self._db, self.path):
            schema.create(self._db)
        self._compare_all()

    def _recover(self, error: sqlite3.DatabaseError) -> None:
        """Have an index again after SQLite refused; what only another process can mend is raised."""
        if self._db is not None and self._db.in_transaction:
            self._db.execute("ROLLBACK")
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise locked(self.path, PATIENCE) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
            self._open_in_memory(
                "The history may not be written to; the list was made from the runs themselves."
            )
        elif code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            self._open_in_memory(
                "No space is left for the index; the list was made from the runs themselves."
            )
        else:
            self._renew(str(error))

    def _renew(self, damage: str, *, outdated: bool = False) -> None:
        """Make the index anew from the run directories; what was damaged is set aside, never deleted."""
        self.close()
        self.forget()
        try:
            with exclusive(self.home + "/index.lock", self.patience):
                # another process may have made it while this one waited
                if damage or _identity(self.path) is None or (outdated and schema.is_old(self.path)):
                    self._make(damage)
            self._db, self._identity = schema.connect(self.path), _identity(self.path)
        except (OSError, sqlite3.OperationalError) as error:
            if isinstance(error, OSError) and history_fault(error, self.home).code == "history.unwritable":
                raise history_fault(error, self.home) from error
            self._open_in_memory("The index cannot be written; the list was made from the runs themselves.")

    def _make(self, damage: str) -> None:
        new = f"{self.path}.new"
        schema.remove_files(new)
        # its journal will have the same permissions
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        db = schema.connect(new)
        try:
            # nobody sees this file before it is whole
            db.execute("PRAGMA synchronous = OFF")
            schema.create(db, lambda: _take_in(db, self.home))
            schema.set_boot(db)
        except sqlite3.Error:
            db.close()
            schema.remove_files(new)
            raise
        db.close()
        if damage and os.path.lexists(self.path):
            self._set_aside(damage)
        # an old journal must never be played into a new index
        unlink_quietly(self.path + "-journal")
        os.replace(new, self.path)

    def _set_aside(self, damage: str) -> None:
        number = 1
        while os.path.lexists(aside := f"{self.path}.damaged-{number}"):
            number += 1
        if os.path.lexists(self.path + "-journal"):
            os.rename(self.path + "-journal", aside + "-journal")
        os.rename(self.path, aside)
        self.notice = f"The index was damaged ({damage}): it was set aside as {aside} and made anew."

    def rebuild(self) -> int:
        """Make the index anew from the run directories, and entries among the ids; how many runs it holds."""
        self.close()
        self.forget()
        make_root(self.home)
        try:
            with exclusive(self.home + "/index.lock"):
                for directory in all_directories(self.home):
                    if entered(self.home, directory.run_id) is None and os.path.exists(directory.run_json):
                        enter(directory)
                self._make("")
        except OSError as error:
            raise history_fault(error, self.home) from error
        return self.count(hidden=True)

    def check(self) -> list[Finding]:
        """Every damage in runs, artifacts and index, with what to do about it; changes nothing of them."""
        from aml_jupyter.runs.damage import check

        return check(self.home, history=self)

    def integrity(self) -> list[str]:
        """What SQLite itself finds wrong with the file; empty when nothing."""
        found = self._open().execute("PRAGMA integrity_check").fetchall()
        return [] if found == [("ok",)] else [str(text) for (text,) in found]

    def differences(self, directories: Mapping[str, RunDirectory]) -> Iterator[tuple[str, str]]:
        """Run ids whose rows are not what their directories say, each with what is wrong; not live ones."""
        db = self._open()
        known = dict(db.execute("SELECT run_id, id FROM runs").fetchall())
        for run_id in sorted(known.keys() - directories.keys()):
            if at(self.home, run_id) is None and not self._marked(run_id):
                yield run_id, "the index has a run that does not exist"
        for run_id, directory in sorted(directories.items()):
            seen = look(directory)
            # the row of a run that goes on is made anew for every question
            if seen.row is None or not seen.settled or self._marked(run_id):
                continue
            if run_id not in known:
                yield run_id, "the run is missing from the index"
            elif _differs(db, seen):
                yield run_id, "the row is not what the run directory says"
            elif wrong := schema.values_differ(db, known[run_id], seen.row):
                yield run_id, f"the {wrong} are not what the run directory says"

    def _marked(self, run_id: str) -> bool:
        return any(os.path.lexists(f"{self.home}/dirty/{dot}{run_id}") for dot in ("", "."))

    # -- taking in what changed

    def refresh(self) -> None:
        """Take in what is marked as changed; every question does that by itself, before its first step."""
        db = self._open()
        try:
            marks = os.listdir(self.home + "/dirty")
        except FileNotFoundError:
            return
        if marks:
            try:
                self._take_in_marked(db, marks)
            except sqlite3.DatabaseError as error:
                self._recover(error)

    def _take_in_marked(self, db: sqlite3.Connection, marks: list[str]) -> None:
        run_ids = {mark.lstrip(".") for mark in marks}
        looks = [look_at(self.home, run_id) for run_id in run_ids]
        changed = [look for look in looks if _differs(db, look)]
        if self._in_memory:
            _write(db, changed)
            return
        if not changed and not any(look.settled for look in looks):
            return
        with exclusive(self.home + "/index.lock", self.patience):
            if self._identity != _identity(self.path):
                return  # made anew meanwhile, from the same directories
            # a mark that is taken away first cannot hide a change that comes later
            settled = [look.run_id for look in looks if look.settled and self._take_mark(look.run_id)]
            looks = [look_at(self.home, run_id) for run_id in run_ids]
            _write(db, [look for look in looks if _differs(db, look)])
            for run_id in settled:
                unlink_quietly(f"{self.home}/dirty/.{run_id}")

    def _take_mark(self, run_id: str) -> bool:
        """Put a mark aside while its run is taken in: who is killed meanwhile leaves it for the next one."""
        try:
            os.rename(f"{self.home}/dirty/{run_id}", f"{self.home}/dirty/.{run_id}")
        except FileNotFoundError:  # put aside by somebody who was killed
            return os.path.exists(f"{self.home}/dirty/.{run_id}")
        return True

    def _compare_all(self) -> None:
        """Take in every directory whose files are not those that the index knows."""
        db = self._db
        assert db is not None
        known = dict(db.execute("SELECT run_id, stamp FROM runs").fetchall())
        there = {one.run_id: one for one in all_directories(self.home)}
        changed = [look(one) for one in there.values() if not same_stamp(known.get(one.run_id), one)]
        changed += [Look(run_id=run_id) for run_id in known.keys() - there.keys()]
        for start in range(0, len(changed), BATCH):
            _write(db, changed[start : start + BATCH])
        schema.set_boot(db)


_LAST = "\U0010ffff"


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _differs(db: sqlite3.Connection, look: Look) -> bool:
    known = schema.columns_of(db, [look.run_id]).get(look.run_id)
    return known is not None if look.row is None else known != schema.values_of(look)


def _write(db: sqlite3.Connection, looks: Iterable[Look]) -> None:
    looks = list(looks)
    if looks:
        db.execute("BEGIN IMMEDIATE")
        schema.put(db, looks)
        db.execute("COMMIT")


def _take_in(db: sqlite3.Connection, home: str) -> None:
    directories = sorted(all_directories(home), key=_age)
    for start in range(0, len(directories), BATCH):
        looks = [look(one) for one in directories[start : start + BATCH]]
        _write(db, [look for look in looks if look.row is not None])


def _age(directory: RunDirectory) -> tuple[int, str]:
    """Older runs first, so that new rows come to lie at the end of every table."""
    milliseconds = directory.run_id.rpartition("_")[2]
    return (int(milliseconds) if milliseconds.isdigit() else 0), directory.run_id
