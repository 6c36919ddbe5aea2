"""What no run needs any more, and what is damaged."""

from __future__ import annotations

import os
import time

from aml_jupyter import runs
from aml_jupyter.confined import remove_tree
from aml_jupyter.frozen import Value
from aml_jupyter.job import TERMINAL
from aml_jupyter.snapshot import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from aml_jupyter.runs.index import Finding

# working copies of ended runs stay this long, so that what was not kept can still be rescued; seconds
WORKING_COPY_AGE = 7 * 86400
# a run directory without a record is a submit that was killed, unless it is younger than this; seconds
HALF_MADE_AGE = 3600


class Freed(Value):
    """What a collection removed, or would remove; `bytes` on disk."""

    bytes: int = 0
    snapshot_objects: int = 0
    working_copies: int = 0
    half_made: int = 0


def collect_garbage(home: str, *, dry_run: bool = False) -> Freed:
    """Remove snapshot objects no run refers to, old working copies and half-made runs.  Raises HistoryError."""
    directories = runs.all_directories(home)
    half_made = [
        one for one in directories if not os.path.exists(one.run_json) and _old(one.path, HALF_MADE_AGE)
    ]
    referenced, copies = set(), []
    for one in directories:
        if not os.path.exists(one.run_json):
            continue
        record = runs.load_record(one)
        referenced.add(record.snapshot_id)
        if record.status in TERMINAL and _old(one.run_json, WORKING_COPY_AGE) and os.path.isdir(one.work):
            if not runs.read_labels(one).pinned:
                copies.append(one)
    freed = sum(_size(one.work) for one in copies) + sum(_size(one.path) for one in half_made)
    if not dry_run:
        for one in copies:
            remove_tree(one.work)
        for one in half_made:
            runs.discard(one)
    objects = Store(home + "/snapshots").gc(referenced, dry_run=dry_run)
    return Freed(
        bytes=freed + objects.bytes,
        snapshot_objects=objects.objects,
        working_copies=len(copies),
        half_made=len(half_made),
    )


def check(home: str) -> list[Finding]:
    """Every damage in history, artifacts and snapshots, with what to do about it."""
    from aml_jupyter.runs.index import Finding, History

    findings = list(History(home).check())
    for damage in Store(home + "/snapshots").check():
        findings.append(Finding(code="snapshot.corrupt", path=damage.path, hint=damage.hint))
    return findings


def _old(path: str, seconds: float) -> bool:
    return time.time() - os.lstat(path).st_mtime > seconds


def _size(path: str) -> int:
    return sum(_files(path))


def _files(path: str) -> Iterator[int]:
    from aml_jupyter.confined import Root

    with Root(path) as root:
        for entry in root.walk():
            if entry.kind == "file":
                yield entry.size
