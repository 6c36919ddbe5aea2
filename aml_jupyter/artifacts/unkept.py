"""What a run wrote outside `outputs` and the share: listed when it ends, rescued while its folder exists."""

from __future__ import annotations

import os

from aml_jupyter import plainjson
from aml_jupyter.artifacts.collecting import collecting_lock, run_uuid
from aml_jupyter.artifacts.downloads import below, save
from aml_jupyter.artifacts.manifest import Artifact, Manifest, read_manifest, store_of, write_manifest
from aml_jupyter.artifacts.store import copy_hashed
from aml_jupyter.confined import MissingFile, Root, read_bounded
from aml_jupyter.confined.names import check_found
from aml_jupyter.errors import ArtifactError, ConfinedError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aml_jupyter.artifacts.manifest import Folder
    from aml_jupyter.artifacts.store import ArtifactStore
    from aml_jupyter.confined import Entry
    from aml_jupyter.snapshot import Entry as SnapshotEntry

# paths that are listed; further ones are counted
LISTED = 1000
# names that are looked at in a working copy
LOOKED_AT = 1_000_000
# bytes of what a run was asked for
_LARGEST = 16 << 20
# written by Python and Jupyter, not by the person
_NOISE = ("__pycache__", ".ipynb_checkpoints")


class Unkept(Value):
    """Files written or changed outside `outputs`: the first paths, their number and their bytes.

    `more` is true when the working copy has more names than are looked at.
    """

    paths: tuple[str, ...] = ()
    count: int = 0
    bytes: int = 0
    more: bool = False


def not_kept(directory: Folder, snapshot_id: str) -> Unkept:
    """What a run wrote or changed in its working copy outside `outputs`.

    A file that is as long as in the snapshot and older than the job is the snapshot's; others are compared by
    hash.  Reads only.  Raises SnapshotError when the snapshot is gone.
    """
    try:
        since = os.stat(directory.path + "/job/started.json").st_mtime_ns
        run = Root(directory.path)
    except FileNotFoundError:  # it never began, so it wrote nothing; or all is gone
        return Unkept()
    paths: list[str] = []
    count = size = 0
    with run:
        try:
            with run.folder("work") as work:
                for entry in _changed(work, _sent(directory, snapshot_id), since):
                    count += 1
                    size += entry.size
                    if len(paths) < LISTED:
                        paths.append(entry.path)
        except ConfinedError as error:
            return Unkept(paths=tuple(paths), count=count, bytes=size, more=error.code == "budget.files")
    return Unkept(paths=tuple(paths), count=count, bytes=size)


def _sent(directory: Folder, snapshot_id: str) -> dict[str, SnapshotEntry]:
    if not snapshot_id:
        return {}
    from aml_jupyter.snapshot import Store

    sent = {entry.path: entry for entry in Store(directory.home + "/snapshots").manifest(snapshot_id)}
    return {**sent, **_given(directory)}


def _given(directory: Folder) -> dict[str, SnapshotEntry]:
    """The files of earlier runs that the run was given."""
    from aml_jupyter.snapshot import Entry as Sent

    try:
        asked = plainjson.loads(read_bounded(directory.path + "/job/request.json", _LARGEST))
        return {
            one["path"]: Sent(path=one["path"], kind="file", size=one["size"], sha256=one["sha256"])
            for one in asked.get("inputs", ())
        }
    except (ConfinedError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}  # not whole any more: then they are listed


def _changed(work: Root, sent: dict[str, SnapshotEntry], since: int) -> Iterator[Entry]:
    for entry in work.walk(budget_files=LOOKED_AT, enter=_is_theirs):
        if entry.kind not in ("file", "link"):
            continue
        before = sent.get(entry.path)
        if before is None or before.kind != entry.kind or _differs(work, entry, before, since):
            yield entry


def _is_theirs(folder: Entry) -> bool:
    return folder.path != "outputs" and folder.name not in _NOISE


def _differs(work: Root, entry: Entry, before: SnapshotEntry, since: int) -> bool:
    if entry.kind == "link":
        return entry.target != before.target
    if entry.size != before.size:
        return True
    if max(entry.mtime_ns, entry.ctime_ns) < since:
        return False
    try:
        fd = work.open_file(entry.path)
    except ConfinedError:  # unreadable now: it was not when it was sent
        return True
    try:
        return copy_hashed(fd, None, entry.path).sha256 != before.sha256
    finally:
        os.close(fd)


def rescue(
    directory: Folder, path: str, destination: str | None = None, *, overwrite: bool = False
) -> list[str]:
    """Fetch a file or folder out of the working copy of a run, while that exists; what was written.

    Into a folder of this machine, or without `destination` among the run's artifacts, as `rescued/<path>`.
    Raises ArtifactError `artifact.unknown`, `artifact.exists`; links are never followed.
    """
    try:
        with Root(directory.path) as run, run.folder("work") as work:
            found = _files(work, path)
            if destination is None:
                return _add(directory, work, found)
            with Root.create(os.path.abspath(destination)) as into:
                return [
                    save(work.open_file(one), into, below(one, path), overwrite=overwrite) for one in found
                ]
    except MissingFile as error:
        raise ArtifactError(
            f"{directory.run_id}: there is no {path!r} in its working copy",
            hint="Working copies are removed a week after the run by `aml gc`; outputs/ is kept.",
        ) from error


def _files(work: Root, path: str) -> list[str]:
    check_found(path)
    if (work.lstat(path).st_mode & 0o170000) != 0o040000:
        return [path]
    return [entry.path for entry in work.walk(path) if entry.kind == "file"]


def _add(directory: Folder, work: Root, paths: Sequence[str]) -> list[str]:
    store: ArtifactStore = store_of(directory)
    with collecting_lock(directory):
        manifest = read_manifest(directory) or Manifest(
            prefix=store.claim(directory.run_id, run_uuid(directory))
        )
        added = []
        for path in paths:
            fd = work.open_file(path)
            try:
                kept = store.put(f"{manifest.prefix}/rescued/{path}", fd)
            finally:
                os.close(fd)
            added.append(Artifact(path="rescued/" + path, size=kept.size, sha256=kept.sha256, key=kept.key))
        names = {item.path for item in added}
        state = "stored" if manifest.state == "none" else manifest.state
        if os.path.exists(directory.path + "/remote.json"):  # it is to be in that store as well
            added = [item.replace(state="pending") for item in added]
            state = "pending"
        files = (*(item for item in manifest.files if item.path not in names), *added)
        write_manifest(directory, manifest.replace(files=files, state=state))
    return [item.path for item in added]
