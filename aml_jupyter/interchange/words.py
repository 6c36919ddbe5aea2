"""What every export takes from a run: its metrics with steps and times, its events, its facts in words."""

from __future__ import annotations

import os
from datetime import datetime

from aml_jupyter import plainjson, runs
from aml_jupyter.confined import open_regular
from aml_jupyter.errors import AmlError, ConfinedError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from aml_jupyter.runs import Record, RunDirectory

LARGEST_VALUE = 64 << 20  # bytes of a logged list, table or image
LARGEST_LINE = 4 << 20
BLOCK = 1 << 20
_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class ExportFailed(AmlError):
    """A run could not be brought to where it was to go."""

    code = "export.refused"


class Point(Value):
    """One value of a metric; `moment` is milliseconds since 1970."""

    name: str
    value: float
    moment: int
    step: int


class Shown(Value):
    """A table or an image that was logged: a table's columns by name, or where an image's bytes are."""

    name: str
    kind: str
    value: Mapping[str, Any]


def milliseconds(moment: str | None) -> int:
    """Milliseconds since 1970 of a moment as records have it; 0 for none."""
    if not moment:
        return 0
    try:
        return int(datetime.fromisoformat(moment).timestamp() * 1000)
    except (ValueError, OverflowError):
        return 0


def ended(directory: RunDirectory) -> Record:
    """The record of a run that is over.  Raises ExportFailed `export.running`."""
    record = runs.read_record(directory)
    if not record.ended:
        raise ExportFailed(
            f"{record.run_id} is {record.status}; a run is exported when it has ended",
            code="export.running",
            hint=f"aml wait {record.run_id}",
        )
    return record


def points(directory: RunDirectory, record: Record) -> Iterator[Point]:
    """Every number that was logged, in order; without events those that the record holds."""
    steps: dict[str, int] = {}
    found = False
    for event in _metrics(directory):
        if event.get("kind", "scalar") not in ("scalar", "list"):
            continue
        found = True
        name, value = str(event.get("name", "")), _whole_value(directory, event)
        moment = event.get("time")
        if not isinstance(moment, int):
            moment = milliseconds(str(event.get("utc", "")))
        for one in value if isinstance(value, list) else [value]:
            number = _number(one)
            if number is None:
                continue
            step = event.get("step")
            if not isinstance(step, (int, float)) or isinstance(value, list) or step != int(step):
                step = steps.get(name, 0)
            steps[name] = int(step) + 1
            yield Point(name=name, value=number, moment=moment, step=int(step))
    if not found:
        moment = milliseconds(record.end_time_utc)
        for name, value in record.metrics.items():
            for step, one in enumerate(value if isinstance(value, list) else [value]):
                number = _number(one)
                if number is not None:
                    yield Point(name=name, value=number, moment=moment, step=step)


def texts(record: Record) -> dict[str, str]:
    """Logged values that are words, the last of each name."""
    last = {
        name: value[-1] if isinstance(value, list) and value else value
        for name, value in record.metrics.items()
    }
    return {name: value for name, value in last.items() if isinstance(value, str)}


def tables_and_images(directory: RunDirectory) -> list[Shown]:
    """The last table and image of each name."""
    found: dict[str, Shown] = {}
    for event in _metrics(directory):
        kind = event.get("kind")
        if kind in ("table", "image"):
            value = _whole_value(directory, event) if kind == "table" else event.get("value")
            if isinstance(value, dict):
                name = str(event.get("name", ""))
                found[name] = Shown(name=name, kind=kind, value=value)
    return list(found.values())


def image_bytes(directory: RunDirectory, image: Shown) -> bytes:
    """The bytes of a logged image.  Raises ConfinedError, HistoryError."""
    return runs.payload(directory, str(image.value.get("$data", "")), LARGEST_VALUE)


def log_size(directory: RunDirectory) -> int:
    """Bytes of the log; 0 where there is none."""
    try:
        fd, found = open_regular(directory.log)
    except (OSError, ConfinedError):  # none, or none of ours
        return 0
    os.close(fd)
    return found.st_size


def log_blocks(directory: RunDirectory, size: int) -> Iterator[bytes]:
    """The first `size` bytes of the log.  Raises ConfinedError, OSError."""
    fd, _ = open_regular(directory.log)
    with os.fdopen(fd, "rb") as file:
        while size > 0 and (block := file.read(min(size, BLOCK))):
            size -= len(block)
            yield block


def _metrics(directory: RunDirectory) -> Iterator[dict[str, Any]]:
    try:
        fd, _ = open_regular(directory.events_jsonl)
    except (OSError, ConfinedError):  # none, or none of ours
        return
    with os.fdopen(fd, "rb") as file:
        while line := file.readline(LARGEST_LINE):
            if b'"metric"' not in line or not line.endswith(b"\n"):
                continue
            try:
                event = plainjson.loads(line)
            except (ValueError, RecursionError):  # by a script's own hand
                continue
            if isinstance(event, dict) and event.get("type") == "metric":
                yield event


def _whole_value(directory: RunDirectory, event: dict[str, Any]) -> Any:
    value = event.get("value")
    if isinstance(value, dict) and "$data" in value and value.get("encoding") == "json":
        try:
            return plainjson.loads(runs.payload(directory, str(value["$data"]), LARGEST_VALUE))
        except (OSError, ValueError, RecursionError, AmlError):  # lost or damaged: the record tells of it
            return None
    return value


def _number(value: object) -> float | None:
    if isinstance(value, str):
        return _NOT_FINITE.get(value)
    if isinstance(value, (int, float)):
        try:
            return float(value)
        except OverflowError:
            return None
    return None


def parameters(record: Record) -> dict[str, str]:
    """The parameters as text."""
    return {
        name: value if isinstance(value, str) else plainjson.dumps(value)
        for name, value in record.all_params.items()
    }


def plain_text(text: str) -> str:
    """Text that any JSON reader takes: no half of a character."""
    return text.encode("utf-8", "replace").decode()


def finite(value: Any) -> Any:
    """A value without NaN and infinities, which JSON does not have: their names instead."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    if hasattr(value, "items"):
        return {plain_text(str(name)): finite(one) for name, one in value.items()}
    return plain_text(value) if isinstance(value, str) else value
