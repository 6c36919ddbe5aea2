"""`aml check --repair`: mends what can be mended without losing anything.

Damaged files are set aside below `AML_HOME/damaged/`, never deleted.  What nobody has any more stays as it
is, and `check` goes on telling of it.
"""

from __future__ import annotations

import os
import time
from typing import Generic, TypeVar

from aml_jupyter import artifacts, runs
from aml_jupyter.artifacts.collecting import collecting_lock
from aml_jupyter.artifacts.manifest import Artifact
from aml_jupyter.artifacts.names import key_of
from aml_jupyter.artifacts.remote import NAME, origin
from aml_jupyter.artifacts.store import copy_hashed, hash_of
from aml_jupyter.artifacts.transfer import PARTIAL, Download, download
from aml_jupyter.confined import Root, make_root, read_bounded, write_atomic
from aml_jupyter.confined.files import temporary_name
from aml_jupyter.errors import AmlError, RunNotFound
from aml_jupyter.frozen import Value
from aml_jupyter.job import TERMINAL
from aml_jupyter.locks import exclusive
from aml_jupyter.retention import check
from aml_jupyter.retention.original import Original, archive, known_place, sealed_labels
from aml_jupyter.runs import trash
from aml_jupyter.runs.damage import BEING_MADE
from aml_jupyter.runs.directory import LARGEST, RunDirectory, enter, trash_of, unlink_quietly
from aml_jupyter.runs.removal import REMOVING, drop_id, finish_removal
from aml_jupyter.sealed import seal
from aml_jupyter.snapshot import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from aml_jupyter.artifacts.remote import Place
    from aml_jupyter.artifacts.store import ArtifactStore
    from aml_jupyter.runs import Record
    from aml_jupyter.runs.damage import Finding

    Resume = Callable[[RunDirectory], object]

_T = TypeVar("_T")
ASIDE = "damaged"
# seconds that a run whose job has ended is given to be finished
FINISHED_WITHIN = 60.0
# a record that came back shows what else is damaged of its run
MOST_ROUNDS = 3
# of the index: all are mended at once, by making it anew
_INDEX = ("index.corrupt", "index.differs")
_ENDED = ("supervisor.gone", "run.lost")


class Step(Value):
    """One thing that was done, or would be: the finding's code, the path, and what became of it."""

    code: str
    path: str
    done: str
    run_id: str = ""


class Repaired(Value):
    """The steps that were done (or, of a dry run, that would be tried), and the damage that is left."""

    steps: tuple[Step, ...] = ()
    left: tuple[Finding, ...] = ()


def repair(home: str, resume: Resume, *, dry_run: bool = False, stores: bool = False) -> Repaired:
    """Look for damage and mend it.  `resume` gives a run that nobody looks after a supervisor.

    With `dry_run` nothing is changed and `left` is all that was found.  `stores` looks into the stores of the
    runs too, where what is missing is stored again.
    """

    def look() -> list[Finding]:
        if not stores:
            return check(home)
        from aml_jupyter import syncing

        return [*check(home), *syncing.check(home)]

    findings = look()
    steps = _Repair(home, resume, dry_run)
    steps.unfinished()
    steps.leftovers()
    for _ in range(MOST_ROUNDS):
        before = len(steps.done)
        steps.begin()
        for finding in findings:
            steps.mend(finding)
        steps.snapshots([one for one in findings if one.code == "snapshot.corrupt"])
        steps.index([one for one in findings if one.code in _INDEX])
        if dry_run or not findings:
            break
        findings = look()
        if len(steps.done) == before:
            break
    return Repaired(steps=tuple(steps.done), left=tuple(findings))


class _Repair:
    """One repair."""

    def __init__(self, home: str, resume: Resume, dry_run: bool) -> None:
        self.home = home
        self.resume = resume
        self.dry_run = dry_run
        self.done: list[Step] = []
        self._pushed: set[str] = set()
        self._copies: dict[str, list[tuple[RunDirectory, Artifact]]] | None = None
        self._directories: dict[str, RunDirectory] | None = None
        self._stores: dict[str, ArtifactStore] = {}
        # of the run whose findings are being mended: they come one after the other
        self._items = _Last(_items_of)
        self._places = _Last(known_place)

    def begin(self) -> None:
        """Begin a round: what the one before has changed is looked at anew."""
        self._copies = self._directories = None

    def mend(self, finding: Finding) -> None:
        """Mend one damage where there is a way; one that fails stays a finding."""
        way = _WAYS.get(finding.code)
        if way is None:
            return
        try:
            done = way(self, finding)
        except (AmlError, OSError):  # it stays, and the second look tells of it
            return
        if done:
            self.tell(finding.code, finding.path, done, finding.run_id)

    def tell(self, code: str, path: str, done: str, run_id: str = "") -> None:
        """Note a step."""
        self.done.append(Step(code=code, path=path, done=done, run_id=run_id))

    def directory(self, finding: Finding) -> RunDirectory:
        """The run of a finding, whether its record can be read or not.  Raises RunNotFound."""
        if self._directories is None:
            self._directories = {one.run_id: one for one in runs.all_directories(self.home)}
        if (found := self._directories.get(finding.run_id)) is None:
            raise RunNotFound(f"there is no run {finding.run_id}")
        return found

    def aside(self, path: str) -> str:
        """Move a damaged file of ours away, keeping its path below the home; where it is then."""
        there = self._place_aside(path)
        os.rename(path, there)
        return there

    def copy_aside(self, path: str) -> str:
        """Keep a damaged file that is replaced afterwards: at no moment is there none; where its copy is."""
        there = self._place_aside(path)
        try:
            os.link(path, there, follow_symlinks=False)
        except OSError:  # a file system without hard links
            write_atomic(there, read_bounded(path, LARGEST))
        return there

    def _place_aside(self, path: str) -> str:
        inside = path.startswith(self.home + "/")
        below = path.removeprefix(self.home + "/") if inside else os.path.basename(path)
        number = 1
        while os.path.lexists(there := f"{self.home}/{ASIDE}/{below}.{number}"):
            number += 1
        make_root(os.path.dirname(there))
        return there

    # -- what is not a finding

    def unfinished(self) -> None:
        """Have runs finished whose job has verifiably ended, and whose record does not say so."""
        for directory in runs.unfinished(self.home):
            try:
                record = runs.read_record(directory)
            except AmlError:
                continue
            if record.status != "NotResponding" or not _has_ended(directory, record):
                continue
            if self.dry_run or self._finish(directory):
                self.tell("run.unfinished", directory.run_json, "its ending is written", directory.run_id)

    def _finish(self, directory: RunDirectory) -> bool:
        try:
            self.resume(directory)
        except AmlError:
            return False
        due = time.monotonic() + FINISHED_WITHIN
        while time.monotonic() < due:
            if runs.load_record(directory).status in TERMINAL:
                return True
            time.sleep(0.02)
        return False

    def leftovers(self) -> None:
        """Finish moves into the trash, and take marks of runs away that are no more."""
        if left := trash.unsettled(self.home):
            if not self.dry_run:
                trash.settle(self.home)
            for run_id in left:
                self.tell(
                    "trash.unsettled", trash_of(self.home), "its move into the trash is finished", run_id
                )
        for path in _dead_marks(self.home):
            if not self.dry_run:
                unlink_quietly(path)
            self.tell("mark.orphan", path, "the mark of a run that is no more is gone")

    # -- ids, directories

    def _enter(self, finding: Finding) -> str:
        if not self.dry_run:
            enter(self.directory(finding))
        return "the entry is written again"

    def _drop_id(self, finding: Finding) -> str:
        if not self.dry_run:
            drop_id(self.home, finding.run_id)
        return "the entry of a run that is no more is gone"

    def _half_removed(self, finding: Finding) -> str:
        gone = RunDirectory(finding.path)
        if not self.dry_run:
            (trash.finish_trashed if gone.home != self.home else finish_removal)(gone)
        return f"the removal of {gone.run_id.removeprefix(REMOVING)} is finished"

    # -- files of a run that its store has as well

    def _record(self, finding: Finding) -> str:
        directory = self.directory(finding)
        original = self._original(directory)
        if original is None:
            return ""
        data = seal(original.record().to_json())
        if not self.dry_run:
            if os.path.lexists(directory.run_json):
                self.copy_aside(directory.run_json)
            write_atomic(directory.run_json, data)
            runs.mark_changed(directory)
        return f"it is brought back from {original.place.store}"

    def _labels(self, finding: Finding) -> str:
        directory = self.directory(finding)
        original = self._original(directory)
        data = b""
        if original is not None:
            try:
                data = original.labels()
            except AmlError:
                data = b""
        if self.dry_run:
            return "they are brought back or set aside"
        there = self.copy_aside(directory.labels_json)
        if data and original is not None:
            write_atomic(directory.labels_json, data)
            runs.mark_changed(directory)
            return f"they are brought back from {original.place.store}"
        # it may have been pinned: nothing takes it away until a person looked
        write_atomic(directory.labels_json, sealed_labels(runs.Labels(pinned=True)))
        runs.mark_changed(directory)
        return f"they are set aside as {there}; the run is pinned, for it may have been"

    def _manifest(self, finding: Finding) -> str:
        directory = self.directory(finding)
        original = self._original(directory)
        if original is None:
            return ""
        found = original.manifest(runs.load_record(directory).uuid, claim=not self.dry_run)
        if not self.dry_run:
            with collecting_lock(directory):
                if os.path.lexists(directory.artifacts_json):
                    self.copy_aside(directory.artifacts_json)
                write_atomic(directory.artifacts_json, seal(found.to_json()))
                runs.mark_changed(directory)
        return f"it is brought back from {original.place.store}"

    def _detail(self, finding: Finding) -> str:
        """A file of the job that was stored with its hash."""
        directory = self.directory(finding)
        original = self._original(directory)
        if original is None:
            return ""
        path = finding.path.removeprefix(directory.path + "/")
        name = {"job/log": "log", "job/events.jsonl": "events.jsonl"}.get(path, path)
        # a log of another size was damaged before it was stored
        copy = original.detail(name, _size_of_log(directory) if finding.code == "log.changed" else None)
        if copy is None:
            return ""
        with copy, Root(directory.path) as root:
            if not self.dry_run:
                if os.path.lexists(finding.path):
                    self.copy_aside(finding.path)
                root.publish(path, lambda fd: copy_hashed(copy.fileno(), fd, path), overwrite=True)
        return f"it is brought back from {original.place.store}"

    def _original(self, directory: RunDirectory) -> Original | None:
        """The run as its store has it, where one does."""
        place = self._place(directory)
        return None if place is None else Original(directory, place, self._store(place))

    def _place(self, directory: RunDirectory) -> Place | None:
        return self._places.of(directory, f"{directory.path}/{NAME}")

    def _store(self, place: Place) -> ArtifactStore:
        """The store of a place, opened once."""
        if place.store not in self._stores:
            self._stores[place.store] = origin(place)
        return self._stores[place.store]

    # -- artifacts

    def _artifact(self, finding: Finding) -> str:
        directory = self.directory(finding)
        item = self._listed(directory, finding.path.removeprefix(f"{self.home}/artifacts/"))
        if item is None or not item.sha256:
            return ""
        return self._tried(self._from_store, directory, item) or self._tried(
            self._from_other, directory, item
        )

    def _tried(
        self, way: Callable[[RunDirectory, Artifact], str], directory: RunDirectory, item: Artifact
    ) -> str:
        try:
            return way(directory, item)
        except (AmlError, OSError):  # the next one may do
            return ""

    def _from_store(self, directory: RunDirectory, item: Artifact) -> str:
        place = self._place(directory)
        if place is None:
            return ""
        store, key = self._store(place), key_of(place.prefix, item.path)
        there = store.stat(key)
        if there is None or there.size != item.size:
            return ""
        if not self.dry_run and not self._replace(directory, item, store, key):
            return ""
        return f"it is brought back from {place.store}"

    def _from_other(self, directory: RunDirectory, item: Artifact) -> str:
        """Copy the same bytes from another run of this history."""
        local = artifacts.store_of(directory)
        for owner, other in self._same(item.sha256):
            if other.key == item.key or local.stat(other.key) is None:
                continue
            if hash_of(local, other.key) != item.sha256:
                continue
            if self.dry_run or self._replace(directory, item, local, other.key):
                return f"the same bytes are taken from {owner.run_id}:{other.path}"
        return ""

    def _replace(self, directory: RunDirectory, item: Artifact, store: ArtifactStore, key: str) -> bool:
        """Put the bytes of a store in the place of a damaged artifact; False when somebody else changed it.

        The lock of the run is held, and the damaged file out of the way, only once all bytes are here.
        """
        local, path = artifacts.store_of(directory), f"{self.home}/artifacts/{item.key}"
        ready, before = f"{PARTIAL}/{temporary_name()}", _look(path)
        wanted = Download(key=key, local=ready, size=item.size, sha256=item.sha256)
        for outcome in download(store, local, [wanted]):
            if outcome.error is not None:
                raise outcome.error
        try:
            with collecting_lock(directory), Root(local.path) as root:
                now = self._listed(directory, item.key)
                if now is None or now.sha256 != item.sha256 or _look(path) != before:
                    return False
                with _PutAway(self, path):
                    root.make_dirs(item.key.rpartition("/")[0])
                    root.rename(ready, item.key)
        finally:
            local.delete(ready)
        return True

    def _listed(self, directory: RunDirectory, key: str) -> Artifact | None:
        """What the run's list of artifacts has under a key."""
        return self._items.of(directory, directory.artifacts_json).get(key)

    def _same(self, sha256: str) -> list[tuple[RunDirectory, Artifact]]:
        if self._copies is None:
            self._copies = {}
            for directory in runs.all_directories(self.home):
                try:
                    listed = artifacts.listing(directory)
                except AmlError:
                    continue
                for item in listed:
                    self._copies.setdefault(item.sha256, []).append((directory, item))
        return self._copies.get(sha256, [])

    # -- runtimes, groups, snapshots, index

    def _runtime(self, finding: Finding) -> str:
        if runs.unfinished(self.home):
            return ""
        if not self.dry_run:
            with exclusive(f"{self.home}/runtimes"):
                self.aside(finding.path)
        return "it is set aside; the next run makes it anew"

    def _sealed(self, finding: Finding) -> str:
        if finding.run_id:
            return self._record(finding)
        return self._set_aside(finding) if finding.path.startswith(f"{self.home}/experiments/") else ""

    def _push(self, finding: Finding) -> str:
        """Store what is missing there, or was changed, from the copies here."""
        from aml_jupyter import pushing

        directory = self.directory(finding)
        place = self._place(directory)
        if place is None or place.pulled:
            return ""
        if not self.dry_run and finding.run_id not in self._pushed:
            turn = pushing.take_turn(self.home, FINISHED_WITHIN)
            if turn is None:
                return ""
            with turn:
                if pushing.push_run(directory).error:
                    return ""
            self._pushed.add(finding.run_id)
        return f"it is stored again in {place.store}"

    def _set_aside(self, finding: Finding) -> str:
        if not self.dry_run:
            return f"it is set aside as {self.aside(finding.path)}"
        return "it is set aside"

    def snapshots(self, findings: Sequence[Finding]) -> None:
        """Bring contents back from the projects, or from stores that have the snapshot."""
        if not findings:
            return
        if self.dry_run:
            for one in findings:
                self.tell(one.code, one.path, f"looked for in the project and in its store: {one.message}")
            return
        from aml_jupyter.snapshot.mending import mend

        known = list(self._snapshots())
        try:
            mended = mend(
                Store(self.home + "/snapshots"),
                lambda wanted: sorted(
                    {record.project_root for _, record in known if record.snapshot_id == wanted}
                ),
                lambda wanted: archive(
                    [one for one, record in known if record.snapshot_id == wanted], wanted
                ),
                f"{self.home}/{ASIDE}/snapshots",
            )
        except AmlError:  # no space, or somebody holds the store: the second look tells
            return
        for path in mended.aside:
            self.tell("snapshot.corrupt", path, "what was damaged is set aside")
        if mended.from_projects:
            self.tell(
                "snapshot.corrupt", findings[0].path, f"{mended.from_projects} contents came from the project"
            )
        for name in mended.from_archives:
            self.tell("snapshot.corrupt", findings[0].path, f"snapshot {name[:12]} came from its store")

    def _snapshots(self) -> Iterator[tuple[RunDirectory, Record]]:
        for directory in [*runs.all_directories(self.home), *trash.trashed(self.home)]:
            try:
                yield directory, runs.load_record(directory)
            except AmlError:
                continue

    def index(self, findings: Sequence[Finding]) -> None:
        """Make the index anew, once; what was there is set aside when it is damaged."""
        if not findings:
            return
        path = f"{self.home}/index.sqlite"
        if not self.dry_run:
            if os.path.lexists(path) and any(one.code == "index.corrupt" for one in findings):
                with exclusive(f"{self.home}/index.lock"):
                    self.aside(path)
            with runs.History(self.home) as history:
                history.rebuild()
        self.tell(findings[0].code, path, "it is made anew from the run directories")


def _items_of(directory: RunDirectory) -> Mapping[str, Artifact]:
    """The list of artifacts of a run, by key."""
    manifest = artifacts.read_manifest(directory)
    return {one.key: one for one in manifest.files} if manifest else {}


class _Last(Generic[_T]):
    """What was read last of a file of some run, which is read again when that file has changed."""

    def __init__(self, read: Callable[[RunDirectory], _T]) -> None:
        self.read = read
        self.last: tuple[object, _T] | None = None

    def of(self, directory: RunDirectory, path: str) -> _T:
        """What the run's file at this path says now."""
        now = (path, _look(path))
        if self.last is None or self.last[0] != now:
            self.last = (now, self.read(directory))
        return self.last[1]


class _PutAway:
    """A damaged file is out of the way; what comes in its place failing, it is back."""

    def __init__(self, repair: _Repair, path: str) -> None:
        self.repair = repair
        self.path = path
        self.there = ""

    def __enter__(self) -> None:
        if os.path.lexists(self.path):
            self.there = self.repair.aside(self.path)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self.there:
            os.rename(self.there, self.path)


_WAYS: dict[str, Callable[[_Repair, Finding], str]] = {
    "id.missing": _Repair._enter,
    "id.damaged": _Repair._enter,
    "id.orphan": _Repair._drop_id,
    "run.half_removed": _Repair._half_removed,
    "record.corrupt": _Repair._sealed,
    "record.missing": _Repair._record,
    "labels.corrupt": _Repair._labels,
    "artifacts.corrupt": _Repair._manifest,
    "artifacts.missing": _Repair._manifest,
    "artifact.missing": _Repair._artifact,
    "artifact.corrupt": _Repair._artifact,
    "artifact.unreadable": _Repair._artifact,
    "log.changed": _Repair._detail,
    "cell.changed": _Repair._detail,
    "events.corrupt": _Repair._detail,
    "runtime.damaged": _Repair._runtime,
    "store.gone": _Repair._push,
    "store.changed": _Repair._push,
    "tombstone.corrupt": _Repair._set_aside,
}


def _look(path: str) -> tuple[int, int, int] | None:
    """What changes when somebody else changes a file; None where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _has_ended(directory: RunDirectory, record: Record) -> bool:
    """Whether there is evidence that the job is over: its ending, or that its process is gone."""
    if record.reason == "run.lost":
        return True
    return record.reason == "supervisor.gone" and os.path.isfile(directory.exit_json)


def _dead_marks(home: str) -> Iterator[str]:
    """Marks of change of runs that are neither here nor being made."""
    try:
        names = sorted(os.listdir(f"{home}/dirty"))
    except FileNotFoundError:
        return
    for name in names:
        path, run_id = f"{home}/dirty/{name}", name.lstrip(".")
        try:
            young = abs(time.time() - os.lstat(path).st_mtime) < BEING_MADE
        except FileNotFoundError:
            continue
        if not young and runs.at(home, run_id) is None and not os.path.lexists(f"{home}/ids/{run_id}"):
            yield path


def _size_of_log(directory: RunDirectory) -> int:
    import json

    try:
        return int(json.loads(read_bounded(directory.exit_json, LARGEST)).get("log_bytes", -1))
    except (AmlError, ValueError, TypeError, AttributeError):
        return -1
