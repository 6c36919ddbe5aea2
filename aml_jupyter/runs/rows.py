"""A run as one row of a table: its keys, its text in the index, its place in an order."""

from __future__ import annotations

import binascii
import math

from aml_jupyter.confined import read_bounded
from aml_jupyter.errors import AmlError, UsageError
from aml_jupyter.sealed import canonical, parse, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from aml_jupyter.runs.directory import RunDirectory
    from aml_jupyter.runs.record import Record

    Row = dict[str, Any]

KEYS = (
    "run_id",
    "name",
    "status",
    "reason",
    "target",
    "script_name",
    "arguments",
    "created_utc",
    "start_time_utc",
    "end_time_utc",
    "duration",
    "exit_code",
    "snapshot_id",
    "metrics",
    "params",
    "tags",
    "artifacts",
    "phases",
)
# keys whose values hold others
NESTED = ("metrics", "params", "tags", "phases")
# artifacts that a row names; `aml ls` lists all
NAMED_ARTIFACTS = 100
_MANIFEST_LIMIT = 256 << 20


def row_of(directory: RunDirectory, record: Record) -> Row:
    """The row of a record that was merged with its evidence and labels."""
    row = {name: getattr(record, name) for name in KEYS}
    row["params"] = record.all_params
    # a record that was brought from elsewhere may hold anything, and one run never spoils a list
    row.update({name: {} for name in NESTED if not isinstance(row[name], dict)})
    row["artifacts"] = _artifact_paths(directory) if record.ended else []
    return row


def manifest_of(directory: RunDirectory) -> Row | None:
    """The document of artifacts.json; None when there is none or it is damaged, which `aml check` tells."""
    try:
        return unseal(read_bounded(directory.artifacts_json, _MANIFEST_LIMIT), directory.artifacts_json)
    except AmlError:
        return None


def _artifact_paths(directory: RunDirectory) -> list[str]:
    files = (manifest_of(directory) or {}).get("files", ())
    kept = (item["path"] for item in files if item.get("state") != "rejected")
    return [path for path, _ in zip(kept, range(NAMED_ARTIFACTS), strict=False)]


def encode(row: Row) -> tuple[str, int]:
    """A row as JSON with its checksum."""
    text = canonical(row)
    return text.decode("ascii"), binascii.crc32(text)


def decode(text: str, crc: int) -> Row:
    """The row of a JSON text; ValueError when it is not what was written."""
    if binascii.crc32(text.encode("utf-8", "surrogatepass")) != crc:
        raise ValueError("checksum")
    found = parse(text)
    return {name: found[name] for name in KEYS}


def copy_of(row: Row) -> Row:
    """A row that the caller may change without changing this one."""
    copy = row.copy()
    copy["arguments"] = row["arguments"].copy()
    copy["artifacts"] = row["artifacts"].copy()
    for name in NESTED:
        inner = row[name]
        copy[name] = inner.copy() if inner else {}
    return copy


def is_flat(row: Row) -> bool:
    """Whether `copy_of` copies everything that can be changed."""
    return not any(isinstance(one, (list, dict)) for name in NESTED for one in row[name].values())


def metric_values(row: Row) -> Iterator[tuple[str, float | None]]:
    """The last number of every metric; None for what is no number, which has no order."""
    for name, value in row["metrics"].items():
        last = value[-1] if isinstance(value, list) and value else value
        number = None
        if isinstance(last, (int, float)):
            try:
                number = float(last)
            except OverflowError:
                pass
        yield name, None if number is not None and math.isnan(number) else number


def text_values(row: Row, head: str) -> Iterator[tuple[str, str, float | None]]:
    """Every parameter or tag as text, as Python prints it, and the number that it is."""
    for name, value in row[head].items():
        nested = isinstance(value, (list, dict))
        text = canonical(value).decode("ascii") if nested else str(value)
        yield name, text, None if nested or isinstance(value, bool) else _number(text)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and "_" not in text else None


def value_of(row: Row, name: str) -> Any:
    """A value by key, or inside one (`metrics.acc`; None when it is not there).  Raises UsageError."""
    head, dot, rest = name.partition(".")
    if head not in row or (dot and head not in NESTED):
        raise UsageError(
            f"there is no column {name!r}",
            hint=f"Columns: {', '.join(KEYS)}, metrics.NAME, params.NAME, tags.NAME, phases.NAME.",
        )
    return row[head].get(rest) if dot else row[head]


def sort_rows(rows: Iterable[Row], key: str, *, descending: bool) -> list[Row]:
    """Rows by a value: numbers (also as text) before text, those without it last."""
    with_value, without = [], []
    for row in rows:
        place = _place(value_of(row, key))
        if place is None:
            without.append(row)
        else:
            with_value.append((place, row))
    with_value.sort(key=lambda pair: pair[0], reverse=descending)
    return [row for _, row in with_value] + without


def _place(value: Any) -> tuple[bool, float, str] | None:
    if value is None or value in ("", [], {}):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return True, 0.0, str(value)
    return (False, number, "") if not math.isnan(number) else None


def split_order(order_by: str) -> tuple[str, bool]:
    """`"metrics.acc DESC"` as key and whether it descends."""
    key, _, direction = order_by.strip().rpartition(" ")
    if key and direction.upper() in ("ASC", "DESC"):
        return key.strip(), direction.upper() == "DESC"
    return order_by.strip(), False


def runs_frame(rows: Iterable[Row]) -> Any:
    """Rows as a pandas DataFrame; what is nested becomes columns `metrics.acc`, `params.lr`, `tags.x`.

    Of a metric that was logged several times the last value is there, as MLflow has it. Raises ImportError
    without pandas.
    """
    import pandas as pd

    flat = []
    for row in rows:
        one = {name: value for name, value in row.items() if name not in NESTED}
        for head in NESTED:
            for name, value in (row.get(head) or {}).items():
                last = value[-1] if head == "metrics" and isinstance(value, list) and value else value
                one[f"{head}.{name}"] = last
        flat.append(one)
    frame = pd.DataFrame(flat, columns=None if flat else [name for name in KEYS if name not in NESTED])
    for name in ("created_utc", "start_time_utc", "end_time_utc"):
        if name in frame:
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601")
    return frame
