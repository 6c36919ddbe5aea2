"""What no run needs any more, and what is damaged."""

from __future__ import annotations

import os
import time

from aml_jupyter import installation, runs
from aml_jupyter.confined import MissingFile, Root, is_temporary, read_bounded, remove_tree
from aml_jupyter.errors import AmlError, RunNotFound
from aml_jupyter.frozen import Value
from aml_jupyter.job import TERMINAL
from aml_jupyter.locks import exclusive
from aml_jupyter.runs.damage import BEING_MADE, Finding
from aml_jupyter.runs.directory import RunDirectory, project_folders
from aml_jupyter.runs.groups import drop_groups
from aml_jupyter.runs.removal import REMOVING, drop_id, finish_removal, left_of
from aml_jupyter.snapshot import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from aml_jupyter.confined import Entry
    from aml_jupyter.runs import Record

# working copies of ended runs stay this long, so that what was not kept can still be rescued; seconds
WORKING_COPY_AGE = 7 * 86400


class Freed(Value):
    """What a collection removed, or would remove: bytes on disk, those in the snapshot store, counts."""

    bytes: int = 0
    snapshot_bytes: int = 0
    working_copies: int = 0
    half_made: int = 0
    leftovers: int = 0


def collect_garbage(home: str, *, dry_run: bool = False) -> Freed:
    """Remove snapshots no run refers to, old working copies, half-made runs and leftovers of killed writers.

    Nothing of a run that goes on, of a pinned run or of a submit in progress is touched.  Raises HistoryError
    `record.corrupt`: nothing is removed while it is unknown what a run refers to.
    """
    if not os.path.isdir(home):
        return Freed()
    with exclusive(home + "/gc.lock"):
        return _collect(home, dry_run)


def _collect(home: str, dry_run: bool) -> Freed:
    directories = runs.all_directories(home)
    # before the records are read: what is submitted meanwhile is in neither list, and its snapshot is young
    unrecorded = [one for one in directories if not os.path.lexists(one.run_json)]
    half_made = [one for one in unrecorded if _old(one.path, BEING_MADE)]
    records = list(_records(directories))
    referenced = {record.snapshot_id for _, record in records} | set(_being_made(unrecorded))
    copies = [one for one, record in records if _is_old_copy(one, record)]
    half_removed, orphans = list(_half_removed(home)), list(_orphan_ids(home, directories))
    leftovers, runtimes = list(_temporary(home)), list(_old_runtimes(home, records, half_made))
    folders = [one.work for one in copies] + [one.path for one in half_made]
    folders += [folder for one in half_removed for folder in left_of(one)]
    freed = sum(map(_size, folders + leftovers + runtimes))
    if not dry_run:
        for one in copies:
            remove_tree(one.work)
        for one in half_made:
            runs.discard(one)
        for one in half_removed:
            finish_removal(one)
        for run_id in orphans:
            drop_id(home, run_id)
        for path in leftovers:
            _remove(path)
        _remove_runtimes(home, runtimes)
    groups = drop_groups(home, dry_run=dry_run)
    snapshots = Store(home + "/snapshots").gc(referenced, dry_run=dry_run)
    return Freed(
        bytes=freed + snapshots,
        snapshot_bytes=snapshots,
        working_copies=len(copies),
        half_made=len(half_made),
        leftovers=len(leftovers) + len(runtimes) + len(half_removed) + len(orphans) + groups,
    )


def check(home: str) -> list[Finding]:
    """Every damage in history, artifacts, kept runtimes and snapshots, with what to do about it."""
    damages = Store(home + "/snapshots").check()
    return [
        *runs.check(home),
        *(
            Finding(
                code="runtime.damaged",
                path=path,
                message=message,
                hint="Remove this folder when no run goes on; the next run makes it anew.",
            )
            for path, message in installation.check(home)
        ),
        *(
            Finding(
                code="snapshot.corrupt",
                path=f"{home}/snapshots",
                message=f"{damage.kind} {damage.name[:12]}: {damage.reason}",
                hint="The next run of the unchanged project stores it again."
                if damage.snapshots
                else "No run needs it: aml gc removes it.",
            )
            for damage in damages
        ),
    ]


def _records(directories: list[RunDirectory]) -> Iterator[tuple[RunDirectory, Record]]:
    for one in directories:
        try:
            if os.path.lexists(one.run_json):
                yield one, runs.load_record(one)
        except RunNotFound:  # removed at this moment
            continue


def _being_made(directories: list[RunDirectory]) -> Iterator[str]:
    """The snapshots of runs that have no record yet."""
    import json

    for one in directories:
        try:
            request = json.loads(read_bounded(one.job + "/request.json", 1 << 24))
        except (AmlError, ValueError):  # not written yet: its snapshot is too young to be removed
            continue
        yield str(request.get("snapshot_id", ""))


def _is_old_copy(one: RunDirectory, record: Record) -> bool:
    if record.status not in TERMINAL or not os.path.isdir(one.work):
        return False
    if not _old(one.run_json, WORKING_COPY_AGE):
        return False
    try:
        return not runs.read_labels(one).pinned
    except AmlError:  # damaged: it may have been pinned
        return False


def _half_removed(home: str) -> Iterator[RunDirectory]:
    for folder in project_folders(home):
        for name in sorted(os.listdir(folder)):
            # renaming a folder changes its status, not its content's time: one that is young is being removed
            if name.startswith(REMOVING) and _age(os.lstat(f"{folder}/{name}").st_ctime) > BEING_MADE:
                yield RunDirectory(f"{folder}/{name}")


def _orphan_ids(home: str, directories: list[RunDirectory]) -> Iterator[str]:
    """Entries among the ids of which there is no run, nor one that is being made or removed."""
    there = {one.run_id for one in directories}
    there |= {
        name[len(REMOVING) :]
        for folder in project_folders(home)
        for name in os.listdir(folder)
        if name.startswith(REMOVING)
    }
    try:
        names = sorted(os.listdir(home + "/ids"))
    except FileNotFoundError:
        return
    for name in names:
        if name not in there and not is_temporary(name) and _old(f"{home}/ids/{name}", BEING_MADE):
            yield name


def _temporary(home: str) -> Iterator[str]:
    """Files that a killed writer left; never one below a working copy or in the list of a run's artifacts."""
    kept: dict[str, set[str]] = {}
    with Root(home) as root:
        for entry in root.walk(enter=_is_ours):
            if entry.kind != "file" or not is_temporary(entry.name):
                continue
            if entry.path not in _listed(home, entry.path, kept) and _age(entry.mtime_ns / 1e9) > BEING_MADE:
                yield f"{home}/{entry.path}"


def _is_ours(folder: Entry) -> bool:
    """Not a working copy, whose names are the user's, nor the snapshot store, which sweeps itself."""
    parts = folder.path.split("/")
    return folder.path != "snapshots" and not (parts[0] == "runs" and len(parts) == 6 and parts[5] == "work")


def _listed(home: str, path: str, kept: dict[str, set[str]]) -> set[str]:
    """The stored files of the run that a path below the artifacts belongs to: scripts use any name."""
    from aml_jupyter import artifacts

    parts = path.split("/")
    if parts[0] != "artifacts" or len(parts) < 3:
        return set()
    if parts[2] not in kept:
        directory = runs.at(home, parts[2]) or runs.at(home, parts[2][:-5])
        manifest = artifacts.read_manifest(directory) if directory else None
        kept[parts[2]] = {f"artifacts/{item.key}" for item in manifest.files} if manifest else set()
    return kept[parts[2]]


def _old_runtimes(
    home: str, records: list[tuple[RunDirectory, Record]], half_made: list[RunDirectory]
) -> Iterator[str]:
    """Copies of the runtime that no run of the last week used."""
    folder = home + "/runtimes"
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    unfinished = {one.path for one, record in records if record.status not in TERMINAL}
    gone = {one.path for one in half_made}
    used = {
        os.path.basename(os.readlink(one.job + "/runtime"))
        for one in runs.all_directories(home)
        if one.path not in gone
        and (one.path in unfinished or not _old(one.path, WORKING_COPY_AGE))
        and os.path.islink(one.job + "/runtime")
    }
    for name in names:
        if name not in used and _old(f"{folder}/{name}", WORKING_COPY_AGE):
            yield f"{folder}/{name}"


def _remove_runtimes(home: str, paths: list[str]) -> None:
    """Remove copies of the runtime, unless a submit took one of them up meanwhile, which makes it young."""
    if not paths:
        return
    with exclusive(home + "/runtimes"):
        for path in paths:
            if _old(path, WORKING_COPY_AGE):
                _remove(path)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        remove_tree(path)
        return
    try:
        os.unlink(path)
    except FileNotFoundError:  # its writer lives after all, and has just given it its name
        pass


def _old(path: str, seconds: float) -> bool:
    try:
        return _age(os.lstat(path).st_mtime) > seconds
    except FileNotFoundError:
        return False


def _age(moment: float) -> float:
    return time.time() - moment


def _size(path: str) -> int:
    """Bytes of a file, or of all files below a folder; 0 when it is gone."""
    try:
        if not os.path.isdir(path):
            return os.lstat(path).st_size
        with Root(path) as root:
            return sum(entry.size for entry in root.walk() if entry.kind == "file")
    except (FileNotFoundError, MissingFile):
        return 0
