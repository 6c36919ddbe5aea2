# ruff: noqa: S608 - statements are put together from our own names; values are always parameters
"""The tables of `index.sqlite`: made, recognised, filled."""

from __future__ import annotations

import os
import sqlite3

from aml_jupyter import processes
from aml_jupyter.frozen import Value
from aml_jupyter.locks import PATIENCE
from aml_jupyter.runs.rows import encode, metric_values, text_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from aml_jupyter.runs.rows import Row

VERSION = 2
# tells this file from any other database ("amlj")
_APPLICATION = 0x616D6C6A
_STRICT = " STRICT" if sqlite3.sqlite_version_info >= (3, 37) else ""
_NO_ROWID = " STRICT, WITHOUT ROWID" if _STRICT else " WITHOUT ROWID"
_TABLES = (
    "CREATE TABLE runs (id INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, project TEXT NOT NULL,"
    " path TEXT NOT NULL, created TEXT NOT NULL, started TEXT, ended TEXT, duration REAL,"
    " status TEXT NOT NULL, target TEXT NOT NULL, name TEXT, script TEXT, exit_code INTEGER, cell_id TEXT,"
    " hidden INTEGER NOT NULL, stamp TEXT NOT NULL, crc INTEGER NOT NULL, reason TEXT, kind TEXT,"
    " framework TEXT, python_version TEXT, run_configuration TEXT, user_id TEXT, project_name TEXT,"
    " experiment_id TEXT, parent_run_id TEXT, snapshot_id TEXT, artifacts_state TEXT, run_number INTEGER,"
    " artifacts INTEGER, pinned INTEGER, note TEXT, description TEXT, row TEXT NOT NULL)" + _STRICT,
    # a value that is no number is NULL
    "CREATE TABLE metrics (run INTEGER NOT NULL REFERENCES runs (id), key TEXT NOT NULL, value REAL,"
    " PRIMARY KEY (run, key))" + _NO_ROWID,
    "CREATE TABLE params (run INTEGER NOT NULL REFERENCES runs (id), key TEXT NOT NULL, value TEXT NOT NULL,"
    " number REAL, PRIMARY KEY (run, key))" + _NO_ROWID,
    "CREATE TABLE tags (run INTEGER NOT NULL REFERENCES runs (id), key TEXT NOT NULL, value TEXT NOT NULL,"
    " number REAL, PRIMARY KEY (run, key))" + _NO_ROWID,
    # which runs were made from a run: `target` is its UUID, `kind` is input or rerun
    "CREATE TABLE uses (target TEXT NOT NULL, kind TEXT NOT NULL, run INTEGER NOT NULL REFERENCES runs (id),"
    " PRIMARY KEY (target, kind, run))" + _NO_ROWID,
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)" + _STRICT,
)
_INDEXES = (
    "CREATE INDEX runs_created ON runs (created, id)",
    "CREATE INDEX runs_project ON runs (project, created, id)",
    "CREATE INDEX runs_status ON runs (status, created, id)",
    "CREATE INDEX runs_name ON runs (name) WHERE name IS NOT NULL",
    "CREATE INDEX runs_cell ON runs (cell_id, created) WHERE cell_id IS NOT NULL",
    "CREATE INDEX runs_parent ON runs (parent_run_id, created) WHERE parent_run_id IS NOT NULL",
    "CREATE INDEX runs_snapshot ON runs (snapshot_id, created) WHERE snapshot_id <> ''",
    "CREATE INDEX uses_run ON uses (run)",
    "CREATE INDEX metrics_value ON metrics (key, value, run)",
    "CREATE INDEX params_value ON params (key, value, run)",
    "CREATE INDEX tags_value ON tags (key, value, run)",
)
# keys of a row that are columns as well, and those of them that may be empty
SORTED = {
    "run_id": "run_id",
    "name": "name",
    "status": "status",
    "target": "target",
    "script_name": "script",
    "created_utc": "created",
    "start_time_utc": "started",
    "end_time_utc": "ended",
    "duration": "duration",
    "exit_code": "exit_code",
}
NULLABLE = frozenset(["name", "script", "started", "ended", "duration", "exit_code"])
_COLUMNS = (
    "run_id", "project", "path", "created", "started", "ended", "duration", "status", "target", "name",
    "script", "exit_code", "cell_id", "hidden", "stamp", "crc", "reason", "kind", "framework",
    "python_version", "run_configuration", "user_id", "project_name", "experiment_id", "parent_run_id",
    "snapshot_id", "artifacts_state", "run_number", "artifacts", "pinned", "note", "description", "row",
)  # fmt: skip
_NUMBERS = frozenset(["duration", "exit_code", "hidden", "crc", "run_number", "artifacts", "pinned"])
_NEEDED = frozenset(["created", "status", "target"])
# tables with a line for each value of a run
_VALUES = ("metrics", "params", "tags")


class Look(Value):
    """A run as it is in its directory now; `row` is None when it is gone.

    `settled` means that it can change only with a new mark.
    """

    run_id: str
    path: str = ""
    project: str = ""
    cell_id: str | None = None
    hidden: bool = False
    stamp: str = ""
    row: Row | None = None
    # what a filter may ask for and a row does not hold
    more: Mapping[str, Any] = {}
    # UUIDs of runs that it was made from, each with `input` or `rerun`
    uses: tuple[tuple[str, str], ...] = ()
    settled: bool = False


def connect(path: str) -> sqlite3.Connection:
    """Open a database for one thread; every statement is its own transaction unless one was begun."""
    db = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    # the index can be made again: after a power cut it is compared with the truth, so NORMAL is enough
    for pragma in ("synchronous = NORMAL", "temp_store = MEMORY", "trusted_schema = OFF"):
        db.execute(f"PRAGMA {pragma}")
    # SQLite knows the letters of ASCII alone
    db.create_function("aml_lower", 1, str.lower, deterministic=True)
    return db


def create(db: sqlite3.Connection, fill: Callable[[], None] | None = None) -> None:
    """Make the tables in an empty database; `fill` is called before they are sorted, which is faster."""
    db.execute(f"PRAGMA application_id = {_APPLICATION}")
    for statement in _TABLES:
        db.execute(statement)
    if fill is not None:
        fill()
    for statement in _INDEXES:
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION}")


def version_of(db: sqlite3.Connection) -> int:
    """The format of the tables; 0 when there are none."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def is_old(path: str) -> bool:
    """Whether a file is of an older version of this package."""
    db = connect(path)
    try:
        return version_of(db) < VERSION
    finally:
        db.close()


def is_ours(db: sqlite3.Connection) -> bool:
    """Whether this package made the database, in whatever version."""
    return bool(db.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION)


def is_whole(db: sqlite3.Connection) -> bool:
    """Whether these are our tables, all of them."""
    if not is_ours(db):
        return False
    found = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    return found >= {*_TABLES, *_INDEXES}


def copy_into(db: sqlite3.Connection, path: str) -> bool:
    """Fill an empty database from a file that is only read; False when that holds no tables of ours."""
    from urllib.parse import quote

    try:
        source = sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True)
        try:
            if version_of(source) != VERSION or not is_whole(source):
                return False
            source.backup(db)
            return True
        finally:
            source.close()
    except sqlite3.DatabaseError:  # none there, or damaged: the run directories tell everything
        return False


def this_boot() -> str:
    """What the index was last compared with the directories in."""
    return processes.boot_id()


def boot_of(db: sqlite3.Connection) -> str:
    """The start of the machine in which all run directories were last looked at."""
    found = db.execute("SELECT value FROM meta WHERE key = 'boot'").fetchone()
    return str(found[0]) if found else ""


def set_boot(db: sqlite3.Connection) -> None:
    """Remember that all run directories were looked at."""
    db.execute("INSERT OR REPLACE INTO meta VALUES ('boot', ?)", [this_boot()])


def put(db: sqlite3.Connection, looks: Iterable[Look]) -> None:
    """Write runs as they are now, and forget those that are gone; inside the caller's transaction."""
    for look in looks:
        old = db.execute("SELECT id FROM runs WHERE run_id = ?", [look.run_id]).fetchone()
        if old:
            for table in (*_VALUES, "uses"):
                db.execute(f"DELETE FROM {table} WHERE run = ?", old)
        if look.row is None:
            db.execute("DELETE FROM runs WHERE run_id = ?", [look.run_id])
        elif old:
            assignments = ", ".join(f"{name} = ?" for name in _COLUMNS)
            db.execute(f"UPDATE runs SET {assignments} WHERE id = ?", [*values_of(look), old[0]])
            _put_values(db, old[0], look)
        else:
            _put_values(db, _insert(db, look), look)


def _insert(db: sqlite3.Connection, look: Look) -> int:
    marks = ", ".join("?" * len(_COLUMNS))
    sql = f"INSERT INTO runs ({', '.join(_COLUMNS)}) VALUES ({marks})"
    return int(db.execute(sql, values_of(look)).lastrowid or 0)


def _put_values(db: sqlite3.Connection, run: int, look: Look) -> None:
    row = look.row
    assert row is not None
    # two names that differ only in what no index can hold become one
    metrics = [(run, storable(name), value) for name, value in metric_values(row)]
    db.executemany("INSERT OR REPLACE INTO metrics VALUES (?, ?, ?)", metrics)
    for table in ("params", "tags"):
        found = [(run, storable(name), storable(text), n) for name, text, n in text_values(row, table)]
        db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?)", found)
    uses = [(storable(target), kind, run) for target, kind in look.uses]
    db.executemany("INSERT OR REPLACE INTO uses VALUES (?, ?, ?)", uses)


def values_of(look: Look) -> list[object]:
    """The columns of a run, in the order of the table."""
    row = look.row
    assert row is not None
    text, crc = encode(row)
    found = {
        **{column: row[key] for key, column in SORTED.items()},
        "reason": row["reason"],
        "snapshot_id": row["snapshot_id"],
        **look.as_dict(),
        **look.more,
        "row": text,
        "crc": crc,
    }
    found["hidden"] = int(bool(look.hidden))
    return [_fitting(name, found.get(name)) for name in _COLUMNS]


def _fitting(column: str, value: object) -> object:
    """A value that its column takes: a record that was brought from elsewhere may hold anything."""
    if column in _NUMBERS:
        numeric = isinstance(value, (int, float)) and abs(value) < 2**62
        return value if numeric and (column == "duration" or isinstance(value, int)) else None
    if value is None and column in _NEEDED:
        return ""
    return storable(value if value is None or isinstance(value, str) else str(value))


def storable(value: object) -> object:
    """A value as the index has it."""
    # names that are not UTF-8 are told apart by their escapes; the row itself keeps them whole
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def columns_of(db: sqlite3.Connection, run_ids: Iterable[str]) -> dict[str, list[object]]:
    """The columns of runs as they are in the index, by run id."""
    sql = f"SELECT {', '.join(_COLUMNS)} FROM runs WHERE run_id = ?"
    found = {}
    for run_id in run_ids:
        for one in db.execute(sql, [run_id]):
            found[run_id] = list(one)
    return found


def values_differ(db: sqlite3.Connection, run: int, row: Row) -> str:
    """Which of the metrics, parameters and tags in the index are not those of a row; "" for none."""
    for table in _VALUES:
        given = metric_values(row) if table == "metrics" else text_values(row, table)
        wanted = {storable(name): [storable(one) for one in rest] for name, *rest in given}
        columns = "value" if table == "metrics" else "value, number"
        found = db.execute(f"SELECT key, {columns} FROM {table} WHERE run = ?", [run]).fetchall()
        if {key: rest for key, *rest in found} != wanted:
            return {"params": "parameters"}.get(table, table)
    return ""


def remove_files(path: str) -> None:
    """Remove a database and what SQLite keeps beside it."""
    for suffix in ("-journal", "-wal", "-shm", ""):
        if os.path.lexists(path + suffix):
            os.unlink(path + suffix)
