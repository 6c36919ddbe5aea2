"""What no run needs any more, and what is damaged."""

from __future__ import annotations

import os
import time

from aml_jupyter import installation, queueing, runs
from aml_jupyter.artifacts.transfer import PARTIAL, drop_partial
from aml_jupyter.confined import Root, is_temporary, read_bounded, remove_tree
from aml_jupyter.errors import AmlError, RunNotFound
from aml_jupyter.frozen import Value
from aml_jupyter.job import TERMINAL
from aml_jupyter.locks import exclusive, holders
from aml_jupyter.retention import remote
from aml_jupyter.retention.policy import TRASH_AGE
from aml_jupyter.retention.sizes import places_of, size_of
from aml_jupyter.runs import trash
from aml_jupyter.runs.damage import BEING_MADE, Finding, has_run
from aml_jupyter.runs.directory import RunDirectory, project_folders, trash_of
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

# beginnings of downloads that were cut off stay this long, to be gone on with; seconds
BEGINNING_AGE = 86400

# environments and locks that nothing asks for stay this long, in case something does again; seconds
ENVIRONMENT_AGE = 30 * 86400


class Freed(Value):
    """What a collection removed, or would remove: bytes on disk, those in the snapshot store, counts.

    `runs` are the ids of those that were removed for good.

    `environments` are the paths of folders, locks and caches of environments.
    """

    bytes: int = 0
    snapshot_bytes: int = 0
    working_copies: int = 0
    half_made: int = 0
    leftovers: int = 0
    runs: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()


def remove_now(directory: RunDirectory, *, pulled: bool = False) -> None:
    """Remove a run for good, from the history or from the trash; its snapshot goes with the next collection.

    It is noted for its store (with `pulled` also for the one that it was brought from), where `remote.clear`
    removes it.  Raises HistoryError `run.alive`, RunNotFound `run.missing`.
    """
    remote.bury(directory, pulled=pulled)
    if directory.home.endswith(trash_of("")):
        trash.remove_for_good(directory)
    else:
        runs.remove(directory)


def bring_back(there: RunDirectory) -> RunDirectory:
    """Bring a run back from the trash, and have it stored where that was not done before."""
    directory = trash.bring_back(there)
    remote.mark_pending(directory)
    return directory


def collect_garbage(home: str, *, dry_run: bool = False, trash_age: float = TRASH_AGE) -> Freed:
    """Remove snapshots no run refers to, old working copies, half-made runs and leftovers of killed writers.

    Runs that have been in the trash for `trash_age` seconds go for good.
    Environments on this computer go too, with their locks, when no run and no project asks for them.

    Nothing of a run that goes on, of a pinned run or of a submit in progress is touched.  Raises HistoryError
    `record.corrupt`: nothing is removed while it is unknown what a run refers to.
    """
    if not os.path.isdir(home):
        return Freed()
    with exclusive(home + "/gc.lock"):
        return _collect(home, dry_run, trash_age)


def _collect(home: str, dry_run: bool, trash_age: float) -> Freed:
    # before and after the others: a run may be moved in either direction meanwhile
    in_trash = list(_known(trash.trashed(home)))
    directories = runs.all_directories(home)
    # before the records are read: what is submitted meanwhile is in neither list, and its snapshot is young
    unrecorded = [one for one in directories if not os.path.lexists(one.run_json)]
    # one that ran and lost its record is damaged, which `check` tells: nothing of it goes
    half_made = [one for one in unrecorded if _old(one.path, BEING_MADE) and not has_run(one)]
    records = list(_records(directories))
    expired, kept = _sorted_trash(home, trash_age)
    records += [*_known(kept), *(pair for pair in in_trash if pair[0] not in expired)]
    referenced = {record.snapshot_id for _, record in records} | set(_being_made([*unrecorded, *kept]))
    copies = [one for one, record in records if _is_old_copy(one, record)]
    half_removed, orphans = list(_half_removed(home)), list(_orphan_ids(home, directories))
    leftovers, runtimes = list(_temporary(home)), list(_old_runtimes(home, records, half_made))
    beginnings = list(_beginnings(home))
    folders = [one.work for one in copies] + [one.path for one in half_made]
    folders += [folder for one in half_removed for folder in left_of(one)]
    environments = list(_old_environments(home, records))
    folders += [folder for one in expired for folder in places_of(one)]
    freed = sum(map(size_of, folders + leftovers + beginnings + runtimes + environments))
    emptied = [one.run_id for one in expired]
    if not dry_run:
        emptied = _empty(expired)
        trash.settle(home)
        for one in copies:
            remove_tree(one.work)
        for one in half_made:
            runs.discard(one)
        for one in half_removed:
            (trash.finish_trashed if one.home != home else finish_removal)(one)
        for run_id in orphans:
            drop_id(home, run_id)
        for path in leftovers:
            _remove(path)
        for path in beginnings:
            drop_partial(path)
        _remove_runtimes(home, runtimes)
        for path in environments:
            _remove_environment(path)
    groups = drop_groups(home, dry_run=dry_run)
    snapshots = Store(home + "/snapshots").gc(referenced, dry_run=dry_run)
    return Freed(
        bytes=freed + snapshots,
        snapshot_bytes=snapshots,
        working_copies=len(copies),
        half_made=len(half_made),
        runs=tuple(emptied),
        leftovers=len([*leftovers, *beginnings, *runtimes, *half_removed, *orphans]) + groups,
        environments=tuple(environments),
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
                code="queue.damaged",
                path=path,
                message=message,
                hint="Remove the file. What waited in it starts with: aml resume RUN",
            )
            for path, message in queueing.damaged(home)
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
        *remote.check(home),
    ]


def _records(directories: list[RunDirectory]) -> Iterator[tuple[RunDirectory, Record]]:
    for one in directories:
        try:
            if os.path.lexists(one.run_json):
                yield one, runs.load_record(one)
        except RunNotFound:  # removed at this moment
            continue


def _sorted_trash(home: str, age: float) -> tuple[list[RunDirectory], list[RunDirectory]]:
    """The runs in the trash that have been there for longer than an age, and the others."""
    expired: list[RunDirectory] = []
    kept: list[RunDirectory] = []
    for one in sorted(trash.trashed(home), key=lambda one: one.run_id):
        try:
            (expired if _age(trash.moved(one).seconds) > age else kept).append(one)
        except RunNotFound:  # brought back at this moment: its snapshot is still asked for
            kept.append(one)
    return expired, kept


def _empty(expired: list[RunDirectory]) -> list[str]:
    """Remove runs in the trash for good; the ids of those that were still there."""
    gone = []
    for one in expired:
        try:
            remove_now(one)
        except RunNotFound:  # brought back at this moment
            continue
        gone.append(one.run_id)
    return gone


def _known(directories: list[RunDirectory]) -> Iterator[tuple[RunDirectory, Record]]:
    """The records of runs in the trash; a damaged one, which may be why it was removed, holds nothing up."""
    for one in directories:
        try:
            yield from _records([one])
        except AmlError:
            continue


def _being_made(directories: list[RunDirectory]) -> Iterator[str]:
    """The snapshots of runs that have no record yet."""
    import json

    for one in directories:
        try:
            request = json.loads(read_bounded(one.job + "/request.json", 1 << 24))
        except (AmlError, ValueError, RecursionError):
            # not written yet: its snapshot is too young to be removed; or none of ours, which names none
            continue
        if isinstance(request, dict):
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
    for folder in project_folders(home) + project_folders(trash_of(home)):
        for name in sorted(os.listdir(folder)):
            # renaming a folder changes its status, not its content's time: one that is young is being removed
            if name.startswith(REMOVING) and _age(os.lstat(f"{folder}/{name}").st_ctime) > BEING_MADE:
                yield RunDirectory(f"{folder}/{name}")


def _orphan_ids(home: str, directories: list[RunDirectory]) -> Iterator[str]:
    """Entries among the ids of which there is no run, nor one that is being made or removed."""
    there = {one.run_id for one in [*directories, *trash.trashed(home)]}
    there |= {
        name[len(REMOVING) :]
        for folder in project_folders(home) + project_folders(trash_of(home))
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


def _beginnings(home: str) -> Iterator[str]:
    """What has come of artifacts whose download was cut off and not gone on with for a day."""
    for folder in (f"{home}/artifacts/{PARTIAL}", f"{trash_of(home)}/artifacts/{PARTIAL}"):
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            continue
        for path in (f"{folder}/{name}" for name in names):
            if _old(path, BEGINNING_AGE) and not holders(path):
                yield path


def _is_ours(folder: Entry) -> bool:
    """Not a working copy, whose names are the user's, nor the snapshot store, which sweeps itself."""
    parts = folder.path.removeprefix("trash/").split("/")
    return folder.path != "snapshots" and not (parts[0] == "runs" and len(parts) == 6 and parts[5] == "work")


def _listed(home: str, path: str, kept: dict[str, set[str]]) -> set[str]:
    """The stored files of the run that a path below the artifacts belongs to: scripts use any name."""
    from aml_jupyter import artifacts

    if path.startswith("trash/"):
        return _listed(trash_of(home), path.removeprefix("trash/"), kept)
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


def _old_environments(home: str, records: list[tuple[RunDirectory, Record]]) -> Iterator[str]:
    """Environments and locks that are old, and that neither a run nor a project's file as it is now needs."""
    requests = _asked_for(home, records)
    unfinished = [record for _, record in records if record.status not in TERMINAL]
    if requests is None or not all(record.environment for record in unfinished):
        return  # what is needed is not known
    answers = {path: os.path.basename(path)[:16] in requests for path in _there(f"{home}/environments/locks")}
    gone = [path for path, asked in answers.items() if not asked and _old(path, ENVIRONMENT_AGE)]
    yield from gone
    answered = {_digest_of(path) for path in answers if path not in gone}
    # a run of the past needs its lock, with which an environment is made again
    locked = answered | {_lock_of(record) for _, record in records}
    in_use = answered | {_lock_of(record) for record in unfinished}
    in_use |= {_lock_of(record) for one, record in records if not _old(one.run_json, ENVIRONMENT_AGE)}
    beginnings = {digest[:16] for digest in in_use}
    for path in _there(f"{home}/environments/kept"):
        if os.path.basename(path).removesuffix(".json") not in locked and _old(path, ENVIRONMENT_AGE):
            yield path
    for path in _there(f"{home}/envs"):
        name = os.path.basename(path)
        if name != "requests" and name[:16] not in beginnings and _old(path, ENVIRONMENT_AGE):
            yield path
    if not unfinished:
        yield from _unneeded_caches(home)


def _unneeded_caches(home: str) -> Iterator[str]:
    """The caches of packages, when for long nothing was solved or made here."""
    folders = ("environments/kept", "environments/locks", "envs", "locks", "cache/conda", "cache/uv")
    if all(_old(path, ENVIRONMENT_AGE) for folder in folders for path in _there(f"{home}/{folder}")):
        yield from (path for name in ("conda", "uv") if os.path.isdir(path := f"{home}/cache/{name}"))


def _there(folder: str) -> list[str]:
    """What lies in a folder; not what keeps others out of it."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    return [f"{folder}/{name}" for name in names if not name.endswith(".lock") and not is_temporary(name)]


def _lock_of(record: Record) -> str:
    return str(record.environment.get("lock") or "")


def _digest_of(path: str) -> str:
    """The digest of a kept lock; "" of one that is damaged, which is nobody's answer."""
    from aml_jupyter.environment.keeping import read

    lock = read(path)
    return lock.digest if lock else ""


def _asked_for(home: str, records: list[tuple[RunDirectory, Record]]) -> set[str] | None:
    """How the names of the locks begin that projects ask for now; None when a file of theirs is damaged."""
    from aml_jupyter import environment
    from aml_jupyter.config import RunConfiguration, find_project
    from aml_jupyter.config.identity import known_roots
    from aml_jupyter.errors import ConfigError

    found = set()
    for root in {*known_roots(home), *(record.project_root for _, record in records)}:
        if not os.path.isdir(root):
            continue
        try:
            project = find_project(root)
            named = [project.run_configuration(name) for name in project.run_configurations()]
            for one in (RunConfiguration(name="", target=""), *named):
                conda = environment.load(project, one.replace(framework="Python")).conda
                found.add(conda.digest[:16] if conda else "")
        except ConfigError:
            return None
    return found


def _remove_environment(path: str) -> None:
    """Remove a lock, a cache or a folder; of the latter first what says that it is whole and who asked."""
    from aml_jupyter.environment.prefix import MARK

    folder, name = os.path.split(path)
    if os.path.basename(folder) == "envs":
        _remove(f"{path}/{MARK}")
        for request in os.scandir(f"{folder}/requests") if os.path.isdir(f"{folder}/requests") else ():
            if os.path.basename(os.readlink(request).partition("#")[0]) == name:
                _remove(request.path)
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
