"""Runs that others stored: brought into this history, and what they left fetched when it is asked for.

sync              the runs of a store that are not known here yet become runs here
complete          log, events and the like of such a run
need_snapshot, need_lock   its project and the lock of its environment
check             whether what was stored is still there

A run that was brought is a run directory like any other, with `remote.json` beside it.  A store may hold
anything: see `foreign`.
"""

from __future__ import annotations

import os

from aml_jupyter import artifacts, runs
from aml_jupyter.artifacts.collecting import collecting_lock
from aml_jupyter.artifacts.names import key_of
from aml_jupyter.artifacts.remote import DETAILS, Place, fetch, gone, origin, place_of, write_place
from aml_jupyter.artifacts.store import RUNS
from aml_jupyter.confined import make_root, read_bounded, remove_tree, write_atomic
from aml_jupyter.errors import AmlError, ArtifactError, HistoryError
from aml_jupyter.frozen import Value
from aml_jupyter.locks import exclusive
from aml_jupyter.runs.directory import RunDirectory, enter, entered, mark_changed, trash_of
from aml_jupyter.sealed import seal, unseal
from aml_jupyter.syncing import foreign
from aml_jupyter.syncing.ahead import in_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from aml_jupyter.artifacts.store import ArtifactStore
    from aml_jupyter.runs import Record

    Report = Callable[[int, int], object]

# runs at once
WORKERS = 16
# bytes of a file that is fetched without anybody asking for it by name
SMALL = 8 << 20
# files of a run directory that are fetched so, and seconds that the store has for each answer then
FEW = 500
SHORT = 5.0
# bytes of a log, and of any other file of a run directory
LARGEST_LOG = 4 << 30
LARGEST = 256 << 20
_STATE_LIMIT = 1 << 30
PULLING = ".pulling-"


class Problem(Value):
    """A run of the store that was not taken, and why."""

    name: str
    code: str
    message: str


class Synced(Value):
    """What a look into a store brought: ids of new runs, of runs whose labels changed, and what was refused.

    `known` counts the runs that were here already.
    """

    store: str
    pulled: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    known: int = 0
    problems: tuple[Problem, ...] = ()


def sync(
    home: str,
    url: str,
    project_key: str | None = None,
    *,
    report: Report | None = None,
    store: ArtifactStore | None = None,
) -> Synced:
    """Bring the runs of a store that are not known here, of one project or of all.

    Records, labels and lists of artifacts are brought; everything else is fetched when it is asked for. A run
    that was removed here does not come back.  Raises ArtifactError when the store cannot be used.
    """
    make_root(home)
    with exclusive(home + "/synced.lock"):
        return _Sync(home, url, store or origin(Place(store=url, prefix="")), report).run(project_key)


class _Sync:
    """One look into one store."""

    def __init__(self, home: str, url: str, store: ArtifactStore, report: Report | None) -> None:
        self.home = home
        self.url = url
        self.store = store
        self.report = report
        self.state = _State(home, url)
        self.pulled: list[str] = []
        self.updated: list[str] = []
        self.problems: list[Problem] = []
        self.done = 0

    def run(self, project_key: str | None) -> Synced:
        from contextlib import closing

        seen = dict(self._entries(project_key))
        news = {entry: name for entry, name in seen.items() if entry not in self.state.entries}
        try:
            with closing(in_order(lambda one: self._read(one[1]), news.items(), WORKERS)) as answers:
                # written here one by one, in the order of the list: two of the same id must not meet
                for (entry, name), answer in answers:
                    self._take(entry, name, answer)
                    self.done += 1
                    if self.report is not None:
                        self.report(self.done, len(news))
        finally:
            if self.pulled or self.updated:
                os.sync()
            self.state.save()
        return Synced(
            store=self.url,
            pulled=tuple(self.pulled),
            updated=tuple(self.updated),
            known=len(seen) - len(self.pulled) - len(self.problems),
            problems=tuple(self.problems),
        )

    def _entries(self, project_key: str | None) -> Iterator[tuple[str, str]]:
        """Entries of the list of runs, each with the name of its run."""
        from aml_jupyter.pushing.contents import project_folder

        for found in self.store.list(project_folder(project_key) if project_key else "Runs"):
            parts = found.key.split("/")
            if len(parts) == 4 and foreign.is_name(parts[2]):
                yield found.key, parts[2]

    def _read(self, name: str) -> tuple[bytes, bytes, bytes]:
        folder = f"{RUNS}/{name}/{DETAILS}"
        # the record first: where that is not there, nothing else is of any use
        return (
            self._bytes(f"{folder}/run.json", foreign.LARGEST_RECORD),
            self._bytes(f"{folder}/artifacts.json", foreign.LARGEST_MANIFEST),
            self._bytes(f"{folder}/labels.json", 1 << 20),
        )

    def _bytes(self, key: str, limit: int) -> bytes:
        data = self.store.read(key, 0, limit + 1)
        if len(data) > limit:
            raise HistoryError(f"{key} has more than {limit} bytes", code="record.foreign")
        return data

    def _take(self, entry: str, name: str, read: Callable[[], tuple[bytes, bytes, bytes]]) -> None:
        from aml_jupyter.artifacts.transfer import OF_THE_STORE

        try:
            brought = _Brought(name, entry, *read())
            self._keep(brought)
        except AmlError as error:
            if error.code in OF_THE_STORE:
                raise
            self.problems.append(Problem(name=name, code=error.code, message=error.message))
            return
        self.state.entries[entry] = brought.record.run_id

    def _keep(self, brought: _Brought) -> None:
        directory, new = _place_for(self.home, brought.record)
        if directory is None:
            return
        if new:
            _write_run(directory, brought, self.url)
            self.pulled.append(directory.run_id)
        elif _update(directory, brought):
            self.updated.append(directory.run_id)


class _Brought:
    """What a store says of a run, looked at."""

    def __init__(self, name: str, entry: str, record: bytes, manifest: bytes, labels: bytes) -> None:
        self.name = name
        self.entry = entry
        self.record = foreign.record(record, name)
        self.labels = foreign.labels(labels, name)
        self.state, self.dropped, self.files, self.details = foreign.artifacts(manifest, name)

    @property
    def prefix(self) -> str:
        """Where it is in the store."""
        return f"{RUNS}/{self.name}"


class _State:
    """Which entries of a store were taken in, so that they are not read again: `AML_HOME/synced/`."""

    def __init__(self, home: str, url: str) -> None:
        import hashlib

        self.url = url
        self.path = f"{home}/synced/{hashlib.sha256(url.encode()).hexdigest()[:16]}.json"
        self.entries: dict[str, str] = {}
        try:
            document = unseal(read_bounded(self.path, _STATE_LIMIT), self.path)
            self.entries = {str(key): str(run_id) for key, run_id in document["entries"].items()}
        except FileNotFoundError:
            return
        except (AmlError, KeyError, AttributeError):  # everything is looked at once more
            return

    def save(self) -> None:
        """Write it down."""
        make_root(os.path.dirname(self.path))
        write_atomic(self.path, seal({"format": 1, "store": self.url, "entries": self.entries}))


def _place_for(home: str, record: Record) -> tuple[RunDirectory | None, bool]:
    """Where a run is or may be here, and whether it is new; (None, False) for one that is in the trash.

    Another run of the same id stays what it is: the one that comes gets four more characters.
    """
    if os.path.lexists(f"{home}/tombstones/{record.run_id}.json"):
        return None, False  # removed here, and its store does not know yet
    for run_id in (record.run_id, f"{record.run_id}-{record.uuid[:4]}"):
        if (there := runs.at(trash_of(home), run_id)) is not None and _uuid(there) == record.uuid:
            return None, False
        directory = runs.at(home, run_id)
        if directory is not None:
            if _uuid(directory) == record.uuid:
                return directory, False
            continue
        if there is None and _claim(home, record, run_id):
            path = f"{home}/runs/{record.account}/{record.workspace}/{record.project}/{run_id}"
            return RunDirectory(path), True
    raise HistoryError(f"{record.run_id}: two other runs have its id here", code="record.foreign")


def _uuid(directory: RunDirectory) -> str:
    try:
        return runs.load_record(directory).uuid
    except AmlError:  # damaged: it keeps its name
        return ""


def _claim(home: str, record: Record, run_id: str) -> bool:
    """Reserve an id; one whose run never came to be is ours."""
    path = f"runs/{record.account}/{record.workspace}/{record.project}/{run_id}"
    for folder in ("ids", "dirty", os.path.dirname(path)):
        make_root(f"{home}/{folder}")
    if os.path.lexists(f"{home}/{path}"):
        return False
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(f"{home}/ids/{run_id}", flags, 0o600)
    except FileExistsError:
        # a submit that is being made here has the id, or a sync that was killed had
        return _named_by(home, run_id) == path
    os.write(fd, os.fsencode(path + "\n"))
    os.close(fd)
    return True


def _named_by(home: str, run_id: str) -> str:
    try:
        return os.fsdecode(read_bounded(f"{home}/ids/{run_id}", 4096)).strip()
    except AmlError:
        return ""


def _write_run(directory: RunDirectory, brought: _Brought, url: str) -> None:
    """The run directory of a run that came from a store; it has its name when it is whole."""
    folder = f"{os.path.dirname(directory.path)}/{PULLING}{directory.run_id}"
    if os.path.lexists(folder):
        remove_tree(folder)
    make_root(folder + "/job")
    record = localised(brought.record, directory, url)
    write_atomic(folder + "/labels.json", _labels_data(brought.labels), sync=False)
    if brought.files:
        manifest = _manifest(directory, brought)
        write_atomic(folder + "/artifacts.json", seal(manifest.to_json()), sync=False)
    place = Place(
        store=url,
        prefix=brought.prefix,
        pulled=True,
        details=brought.details,
        sent={"labels": _digest(_labels_data(brought.labels))},
        entry=brought.entry,
    )
    write_place(RunDirectory(folder), place)
    write_atomic(folder + "/run.json", seal(record.to_json()), sync=False)
    os.rename(folder, directory.path)
    if entered(directory.home, directory.run_id) is None:
        enter(directory)
    mark_changed(directory)


def localised(record: Record, directory: RunDirectory, url: str) -> Record:
    """The record of a run that came from a store as it is kept here: under its id here, with its origin."""
    told = {"origin": url, "origin_run_id": record.run_id, "pulled": runs.utc()}
    return record.replace(run_id=directory.run_id, properties={**record.properties, **told})


def _manifest(directory: RunDirectory, brought: _Brought) -> artifacts.Manifest:
    prefix = artifacts.store_of(directory).claim(directory.run_id, brought.record.uuid)
    files = tuple(
        item if item.state == "rejected" else item.replace(key=key_of(prefix, item.path))
        for item in brought.files
    )
    return artifacts.Manifest(state=brought.state, prefix=prefix, files=files, dropped=brought.dropped)


def _labels_data(labels: runs.Labels) -> bytes:
    return seal({"format": 1, **labels.as_dict(), "tags": dict(labels.tags)})


def _digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _update(directory: RunDirectory, brought: _Brought) -> bool:
    """Take over what was added to a run that came from the store, where nobody changed it here."""
    place = place_of(directory)
    if place is None or not place.pulled or place.prefix != brought.prefix:
        return False
    mark_changed(directory)
    data = _labels_data(brought.labels)
    labels = _update_labels(directory, data, place.sent.get("labels"))
    files = _update_files(directory, brought)
    write_place(
        directory,
        place.replace(
            details=brought.details,
            entry=brought.entry,
            sent=place.sent if labels == "kept" else {**place.sent, "labels": _digest(data)},
        ),
    )
    mark_changed(directory)
    return files or labels == "taken"


def _update_labels(directory: RunDirectory, data: bytes, known: str | None) -> str:
    """Take labels over unless somebody changed those here: `taken`, `kept`, or the `same`."""
    with exclusive(directory.path + "/labels.lock"):
        try:
            mine = read_bounded(directory.labels_json, 1 << 20)
        except AmlError:
            mine = b""
        if mine == data:
            return "same"
        if _digest(mine) != known:
            return "kept"
        write_atomic(directory.labels_json, data, sync=False)
        return "taken"


def _update_files(directory: RunDirectory, brought: _Brought) -> bool:
    with collecting_lock(directory):
        known = artifacts.read_manifest(directory) or artifacts.Manifest()
        if [item.replace(key="") for item in known.files] == list(brought.files):
            return False
        artifacts.write_manifest(directory, _manifest(directory, brought))
        return True


# --- what was not brought -----------------------------------------------------------------------------------


def complete(directory: RunDirectory, *, everything: bool = False, patience: float | None = None) -> None:
    """Fetch what is missing here of the run directory of a run that came from a store; else nothing.

    Large files, and very many, only with `everything`; `patience` as for `artifacts.remote.origin`.  Raises
    ArtifactError, `store.gone` for what is missing there.
    """
    if not os.path.exists(directory.path + "/remote.json"):
        return
    place = place_of(directory)
    if place is None or not place.pulled:
        return
    wanted = [
        (name, facts)
        for name, facts in place.details.items()
        if (everything or facts["size"] <= SMALL) and not os.path.lexists(_local(directory, name))
    ]
    wanted = wanted if everything else wanted[:FEW]
    if not wanted:
        return
    from contextlib import closing

    store = origin(place, patience=patience)
    make_root(directory.job)
    # one alone: where the store does not answer, no other is asked for
    _fetch_detail(directory, store, place, *wanted.pop(0))
    if not wanted:
        return

    def fetch_one(one: tuple[str, Any]) -> None:
        _fetch_detail(directory, store, place, *one)

    with closing(in_order(fetch_one, wanted, min(WORKERS, len(wanted)))) as answers:
        for _, answer in answers:
            answer()
    mark_changed(directory)


def complete_quietly(directory: RunDirectory) -> None:
    """`complete` for whoever can go on without."""
    try:
        complete(directory, patience=SHORT)
    except (AmlError, OSError):  # what is shown of the run says less; who asks for the log is told why
        return


def _local(directory: RunDirectory, name: str) -> str:
    return f"{directory.path}/{foreign.DETAILS.get(name, name)}"


def _fetch_detail(
    directory: RunDirectory, store: ArtifactStore, place: Place, name: str, facts: Mapping[str, Any]
) -> None:
    most = LARGEST_LOG if name == "log" else LARGEST
    if facts["size"] > most:
        words = f"{name} of {directory.run_id} has {facts['size']} bytes; at most {most} are fetched"
        raise ArtifactError(words, code="artifact.too_big")
    path = _local(directory, name)
    make_root(os.path.dirname(path))
    what = f"{directory.run_id}: {name}"
    _bring(store, f"{place.prefix}/{DETAILS}/{name}", path, facts["sha256"], place, what)


def _bring(store: ArtifactStore, key: str, path: str, sha256: str, place: Place, what: str) -> None:
    """Fetch a key into a file of ours, which has its name when it is whole."""
    from aml_jupyter.confined.files import temporary_name

    partial = f"{os.path.dirname(path)}/{temporary_name()}"
    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        store.fetch(key, fd, sha256=sha256)
        os.fsync(fd)
        os.rename(partial, path)
    except BaseException as error:
        os.unlink(partial)
        if isinstance(error, ArtifactError) and error.code == "artifact.unknown":
            raise gone(what, place) from None
        raise
    finally:
        os.close(fd)


def need_snapshot(directory: RunDirectory) -> None:
    """Have the snapshot of a run here, from its store when it is not; nothing where no store has the run.

    Raises ArtifactError, SnapshotError `snapshot.archive`.
    """
    from aml_jupyter.snapshot import Store, archive

    snapshots = Store(directory.home + "/snapshots")
    snapshot_id = runs.load_record(directory).snapshot_id
    if not snapshot_id or archive.has(snapshots, snapshot_id) or (place := place_of(directory)) is None:
        return
    import tempfile

    make_root(snapshots.path)
    with tempfile.TemporaryFile(dir=snapshots.path) as file:
        try:
            origin(place).fetch(f"Snapshots/{snapshot_id}", file.fileno())
        except ArtifactError as error:
            if error.code != "artifact.unknown":
                raise
            raise gone(f"the snapshot of {directory.run_id}", place) from None
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        archive.unpack(snapshots, snapshot_id, file.fileno())


def need_lock(directory: RunDirectory) -> None:
    """Have the lock of a run's environment here, from its store when it is not kept here."""
    digest = str(runs.load_record(directory).environment.get("lock") or "")
    path = f"{directory.home}/environments/kept/{digest}.json"
    if not digest.isalnum() or len(digest) > 128 or os.path.lexists(path):
        return
    place = place_of(directory)
    if place is None:
        return
    from aml_jupyter import plainjson
    from aml_jupyter.environment.lock import Lock

    data = origin(place).read(f"Locks/{digest}", 0, LARGEST + 1)
    try:
        lock = Lock.from_json(plainjson.loads(data))
    except (AmlError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        words = f"the lock {digest[:16]} in the store is damaged"
        raise ArtifactError(words, code="store.corrupt") from error
    if lock.digest != digest:
        raise ArtifactError(f"the lock {digest[:16]} in the store is another one", code="store.corrupt")
    make_root(os.path.dirname(path))
    write_atomic(path, data)


# --- whether it is still there ------------------------------------------------------------------------------


def check(home: str) -> list[runs.Finding]:
    """What was stored and is missing or of another size or hash in its store now, of every run.

    Raises ArtifactError when a store cannot be used.
    """
    findings: list[runs.Finding] = []
    for directory in runs.all_directories(home):
        try:
            findings += _check_run(directory)
        except HistoryError:  # a damaged record: the check of this computer tells
            continue
    return findings


def _check_run(directory: RunDirectory) -> list[runs.Finding]:
    place = place_of(directory)
    manifest = artifacts.read_manifest(directory) if place else None
    if place is None:
        return []
    store = origin(place)
    there = {one.key: one for one in store.list(place.prefix)}
    if not there:
        return [_gone(directory, place)]
    files = [item for item in (manifest.files if manifest else ()) if item.state == "stored"]
    expected = {key_of(place.prefix, item.path): (item.path, item.size, item.sha256) for item in files}
    for name, facts in place.details.items():
        expected[f"{place.prefix}/{DETAILS}/{name}"] = (name, facts["size"], facts["sha256"])
    expected[f"{place.prefix}/{DETAILS}/run.json"] = ("run.json", -1, "")
    findings = []
    for key, (name, size, sha256) in expected.items():
        found = there.get(key)
        if found is None:
            findings.append(_finding(directory, place, "store.gone", name, "is missing in the store"))
        elif size >= 0 and (found.size != size or (found.sha256 or _hash(store, key)) != sha256):
            findings.append(_finding(directory, place, "store.changed", name, "was changed in the store"))
    return findings


def _hash(store: ArtifactStore, key: str) -> str:
    import hashlib

    with store.open(key) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _gone(directory: RunDirectory, place: Place) -> runs.Finding:
    """All of a run is missing: a run of somebody else was mostly removed by them."""
    found = _finding(directory, place, "store.gone", "all of it", "is missing in the store")
    if not place.pulled:
        return found
    what = "Whoever made it may have removed it. What was fetched stays here"
    return found.replace(hint=f"{what}; aml rm {directory.run_id} --now removes that.")


def _finding(directory: RunDirectory, place: Place, code: str, name: str, what: str) -> runs.Finding:
    return runs.Finding(
        code=code,
        path=f"{place.store}/{place.prefix}",
        message=f"{directory.run_id}: {name} {what}",
        hint=f"aml push {directory.run_id} stores it again, where the run was made.",
        run_id=directory.run_id,
    )


__all__ = [
    "Problem",
    "Synced",
    "check",
    "complete",
    "complete_quietly",
    "fetch",
    "localised",
    "need_lock",
    "need_snapshot",
    "sync",
]
