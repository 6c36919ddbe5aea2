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

    from aml_jupyter.runs import RunDirectory
    from aml_jupyter.runs.check import Finding

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
    """Remove snapshot objects no run refers to, old working copies and half-made runs.

    Raises HistoryError `record.corrupt`: nothing is removed while it is unknown what a run refers to.
    """
    whole, half_made = _sorted_out(home)
    records = [(one, runs.load_record(one)) for one in whole]
    referenced = {record.snapshot_id for _, record in records}
    copies = [
        one
        for one, record in records
        if record.status in TERMINAL
        and os.path.isdir(one.work)
        and _old(one.run_json, WORKING_COPY_AGE)
        and not runs.read_labels(one).pinned
    ]
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

    damages = Store(home + "/snapshots").check()
    return [
        *History(home).check(),
        *(Finding(code="snapshot.corrupt", path=damage.path, hint=damage.hint) for damage in damages),
    ]


def _sorted_out(home: str) -> tuple[list[RunDirectory], list[RunDirectory]]:
    """Run directories with a record, and those that never got one and never will."""
    directories = runs.all_directories(home)
    whole = [one for one in directories if os.path.exists(one.run_json)]
    rest = [one for one in directories if not os.path.exists(one.run_json) and _old(one.path, HALF_MADE_AGE)]
    return whole, rest


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
