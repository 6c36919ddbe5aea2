"""Stores runs that have ended where their project wants them, as often as it takes.

push            one run, whole: outputs, log, record, snapshot, environment lock
push_marked     every run that is marked, as far as its store answers
take_turn       one pusher at a time
contents        what is sent of a run, and how it is called in the store

Order in the store: what a run consists of, then `artifacts.json`, then `run.json`, then the entry in the list
of runs.  Others see a run when it is whole; killed at any moment, the next push finds what is there and sends
the rest.  A store never changes how a run ended.
"""

from __future__ import annotations

import os
import time

from aml_jupyter import artifacts, pending, runs
from aml_jupyter.artifacts.collecting import collecting_lock
from aml_jupyter.artifacts.names import key_of
from aml_jupyter.artifacts.remote import DETAILS, Place, fetch, is_here, origin, place_of, write_place
from aml_jupyter.artifacts.store import copy_hashed
from aml_jupyter.artifacts.transfer import OF_THE_STORE, Upload, upload
from aml_jupyter.errors import AmlError, ArtifactError, HistoryError
from aml_jupyter.frozen import Value
from aml_jupyter.locks import try_lock
from aml_jupyter.pushing import contents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from typing import Self

    from aml_jupyter.artifacts import Artifact, Manifest
    from aml_jupyter.artifacts.store import ArtifactStore
    from aml_jupyter.artifacts.transfer import Outcome, Progress
    from aml_jupyter.runs import Record, RunDirectory

    Report = Callable[[str, Progress], object]


class Pushed(Value):
    """What became of one run: its state, files and bytes that were sent now, and `error` why not all.

    `state` is that of its record, `pulled` for a run that came from a store, `gone` for one that was removed.
    """

    run_id: str
    state: str
    store: str = ""
    files: int = 0
    bytes: int = 0
    error: Mapping[str, str] = {}

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to push."""
        return not self.error


class Turn:
    """The right to push, for as long as it is held: a context manager."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def take_turn(home: str, patience: float = 0.0, waiting: Callable[[], object] = lambda: None) -> Turn | None:
    """The right to push, or None when somebody else has it for longer than `patience` seconds.

    `waiting` is called once when it has to be waited for.
    """
    from aml_jupyter.confined import make_root

    make_root(home)
    fd = os.open(f"{home}/{pending.LOCK}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    due = time.monotonic() + patience
    told = False
    try:
        while not try_lock(fd):
            if time.monotonic() >= due:
                os.close(fd)
                return None
            if not told:
                waiting()
                told = True
            time.sleep(0.05)
    except BaseException:
        os.close(fd)
        raise
    return Turn(fd)


def push_marked(
    home: str, *, report: Report | None = None, now: bool = False, but: Collection[str] = ()
) -> Iterator[Pushed]:
    """Push every run that is marked and due (with `now` also those that wait); whoever calls has the turn.

    A store that cannot be used is not asked again for the others: their marks say when it will be. Runs with
    ids in `but` are left alone.
    """
    failed: dict[str, AmlError] = {}
    for mark in pending.all_marks(home):
        if mark.run_id in but or not (now or mark.due):
            continue
        directory = runs.at(home, mark.run_id)
        if directory is None:
            pending.forget(home, mark.run_id)
            continue
        yield _push_one(directory, mark, failed, report)


def push_run(directory: RunDirectory, report: Report | None = None) -> Pushed:
    """Push one run where its project wants it, whatever it was tried before.

    Raises ArtifactError `store.none` where no store is set, HistoryError `run.alive`.
    """
    record = runs.load_record(directory)
    place = _place(directory, record)
    if place is not None and place.pulled:
        return Pushed(run_id=directory.run_id, state="pulled", store=place.store)
    if not record.ended:
        raise _alive(directory)
    mark = pending.marked(directory.home, directory.run_id)
    wanted = pending.wanted_store(directory.home, record.project_root)
    store = wanted or (mark.store if mark else "") or (place.store if place else "")
    if not store:
        raise ArtifactError(
            f"{directory.run_id}: no store is set for its project",
            code="store.none",
            hint="aml config set artifacts.store azblob://CONTAINER    (or folder:///PATH)",
        )
    tries = mark.tries if mark and mark.store == store else 0
    pending.mark(directory.home, directory.run_id, store, tries=tries)
    return _push_one(directory, pending.Mark(run_id=directory.run_id, store=store, tries=tries), {}, report)


def _place(directory: RunDirectory, record: Record) -> Place | None:
    """Where a run of ours is; where that note is damaged it is found out anew."""
    try:
        return place_of(directory)
    except HistoryError:
        if "origin" in record.properties:
            raise
        return None


def _alive(directory: RunDirectory) -> HistoryError:
    return HistoryError(
        f"{directory.run_id} has not ended yet", code="run.alive", hint="It is stored by itself when it has."
    )


def _push_one(
    directory: RunDirectory, mark: pending.Mark, failed: dict[str, AmlError], report: Report | None
) -> Pushed:
    """Push a run and keep its mark, with the error and the time of the next try, when that fails."""
    home, run_id = directory.home, directory.run_id
    store = mark.store
    try:
        if not store:
            store = _known_store(directory)
        if not store:
            pending.forget(home, run_id)
            return Pushed(run_id=run_id, state="none")
        if store in failed:
            raise failed[store]
        pushed = push(directory, store, report=report)
    except (AmlError, OSError) as error:
        if isinstance(error, FileNotFoundError) and not os.path.lexists(directory.run_json):
            pending.forget(home, run_id)  # removed meanwhile
            return Pushed(run_id=run_id, state="gone")
        fault = error if isinstance(error, AmlError) else _of_this_computer(directory, error)
        if fault.code in OF_THE_STORE:
            failed[store] = fault
        _put_off(directory, mark.replace(store=store), fault)
        return Pushed(run_id=run_id, state="pending", store=store, error=fault.as_json())
    if not pushed.error:
        _done(directory)
    return pushed


def _of_this_computer(directory: RunDirectory, error: OSError) -> ArtifactError:
    """What was to be sent cannot be read or packed here: the other runs can be sent all the same."""
    words = f"{directory.run_id} cannot be read or packed: {error}"
    return ArtifactError(
        words, code="artifact.unreadable", hint="aml check says what is damaged; df -h /tmp what is full."
    )


def _known_store(directory: RunDirectory) -> str:
    record = runs.load_record(directory)
    place = _place(directory, record)
    if place is not None and place.pulled:
        return ""  # what people add here to a colleague's run stays here
    wanted = pending.wanted_store(directory.home, record.project_root)
    return wanted or (place.store if place else "")


def _put_off(directory: RunDirectory, mark: pending.Mark, error: AmlError) -> None:
    """Say why it failed and when it is tried again."""
    until = time.time() + pending.pause_after(mark.tries)
    pending.mark(
        directory.home,
        directory.run_id,
        mark.store,
        tries=mark.tries + 1,
        next=until,
        error={**error.as_json(), "utc": runs.utc()},
    )


def _done(directory: RunDirectory) -> None:
    """Take the mark away, unless something was changed since it was read."""
    pending.forget(directory.home, directory.run_id)
    place = place_of(directory)
    if (
        place is not None
        and not place.pulled
        and place.sent.get(_LABELS) != contents.digest(contents.labels(directory))
    ):
        pending.mark(directory.home, directory.run_id, place.store)


_LABELS = f"{DETAILS}/labels.json"


def push(
    directory: RunDirectory,
    url: str,
    *,
    report: Report | None = None,
    store: ArtifactStore | None = None,
) -> Pushed:
    """Store everything of a run that has ended; what is there already is not sent again.

    Raises HistoryError `run.alive`; ArtifactError when the store fails: what was confirmed until then is
    kept in mind.
    """
    record = runs.load_record(directory)
    if not record.ended:  # its supervisor died between mark and ending, and will come back
        raise _alive(directory)
    return _Push(directory, record, url, store, report).run()


class _Push:
    """One push of one run."""

    def __init__(
        self,
        directory: RunDirectory,
        record: Record,
        url: str,
        store: ArtifactStore | None,
        report: Report | None,
    ) -> None:
        known = _place(directory, record)
        if known is not None and known.store != url:
            # before the old place is forgotten: what was dropped here is there alone
            fetch(directory, artifacts.listing(directory), known)
        place = known if known is not None and known.store == url else Place(store=url, prefix="")
        self.directory = directory
        self.record = record
        self.store = store or origin(place)
        self.report = report
        self.place = place.replace(prefix=self.store.claim(record.run_id, record.uuid))
        self.sent = dict(self.place.sent)
        self.files = self.bytes = 0
        self.damaged: dict[str, ArtifactError] = {}

    def run(self) -> Pushed:
        """Send, confirm, and write down what is there now."""
        manifest = artifacts.read_manifest(self.directory) or artifacts.Manifest()
        try:
            contents.put_snapshot_and_lock(self.directory, self.record, self.store)
            details = contents.details(self.directory)
            sent = [item for item in manifest.stored if not self._is_settled(item)]
            self._send([*self._outputs(sent), *self._below(details)])
            known = {one.name: one.facts for one in details}
            state = self._state(manifest)
            self._publish(manifest, known, state)
        finally:
            # also after a fault: what was confirmed need not be asked for again
            write_place(self.directory, self.place.replace(sent=self.sent))
        left = self._settle(state)
        return Pushed(
            run_id=self.directory.run_id,
            state=left,
            store=self.place.store,
            files=self.files,
            bytes=self.bytes,
            error=_left_error() if left == "pending" else {},
        )

    def _is_settled(self, item: Artifact) -> bool:
        """Whether it was dropped here because the store has it."""
        return self.sent.get(item.path) == item.sha256 and not is_here(self.directory, item)

    def _outputs(self, items: Sequence[Artifact]) -> Iterator[tuple[str, Upload]]:
        local = artifacts.store_of(self.directory)
        for item in items:

            def open_(key: str = item.key) -> int:
                with local.open(key) as file:
                    return os.dup(file.fileno())

            key = key_of(self.place.prefix, item.path)
            yield item.path, Upload(key=key, open=open_, size=item.size, sha256=item.sha256)

    def _below(self, details: Sequence[contents.Detail]) -> Iterator[tuple[str, Upload]]:
        for one in details:
            name = f"{DETAILS}/{one.name}"
            yield name, one.upload(f"{self.place.prefix}/{name}")

    def _send(self, named: Sequence[tuple[str, Upload]]) -> None:
        """Upload, and remember what was confirmed.  Raises the first error that concerns the store."""
        names = {item.key: (name, item) for name, item in named}
        fatal: ArtifactError | None = None
        uploads = [item for _, item in named]
        told = self._told if self.report else None
        for outcome in upload(self.store, self.place.prefix, uploads, progress=told):
            name, item = names[outcome.key]
            if outcome.error is None:
                self.sent[name] = item.sha256
                self.files += outcome.sent
                self.bytes += item.size if outcome.sent else 0
            elif self._is_local(name, item, outcome):
                self.damaged[name] = outcome.error
            else:
                fatal = fatal or outcome.error
        if fatal is not None:
            raise fatal

    def _told(self, now: Progress) -> None:
        if self.report is not None:
            self.report(self.directory.run_id, now)

    def _is_local(self, name: str, item: Upload, outcome: Outcome) -> bool:
        """Whether a file could not be sent because it is damaged or gone here: no store can help that."""
        code = outcome.error.code if outcome.error else ""
        if name.startswith(f"{DETAILS}/") or code not in (
            "store.corrupt",
            "artifact.unknown",
            "artifact.unreadable",
        ):
            return False
        try:
            fd = item.open()
        except (OSError, AmlError):
            return True
        try:
            return copy_hashed(fd, None, name).sha256 != item.sha256
        finally:
            os.close(fd)

    def _state(self, manifest: Manifest) -> str:
        if self.record.artifacts_state == "failed":
            return "failed"
        if not manifest.files:
            return "none"
        return "partial" if manifest.rejected or self.damaged else "stored"

    def _publish(self, manifest: Manifest, details: Mapping[str, object], state: str) -> None:
        """Make the run visible: its manifest, its labels, its record, its entry in the list of runs."""
        seen = contents.Seen(
            manifest=contents.remote_manifest(manifest, self.place.prefix, self.damaged, state, details),
            labels=contents.labels(self.directory),
            record=contents.record(self.record, state),
        )
        for name, data in seen.files():
            found = contents.of_bytes(f"{self.place.prefix}/{DETAILS}/{name}", data)
            if self.sent.get(f"{DETAILS}/{name}") != found.sha256 or self._is_gone(found):
                self._put(found)
                self.sent[f"{DETAILS}/{name}"] = found.sha256
        folder = contents.entry_folder(self.directory.project_key, self.place.prefix)
        entry = f"{folder}/{seen.digest}"
        if entry != self.place.entry or self.store.stat(entry) is None:
            body = contents.entry(self.record, self.place.prefix)
            self._put(contents.of_bytes(entry, body))
            for other in list(self.store.list(folder)):
                if other.key != entry:
                    self.store.delete(other.key)
        self.place = self.place.replace(entry=entry)

    def _put(self, item: Upload) -> None:
        fd = item.open()
        try:
            self.store.put(item.key, fd, sha256=item.sha256)
        finally:
            os.close(fd)

    def _is_gone(self, item: Upload) -> bool:
        there = self.store.stat(item.key)
        return there is None or there.size != item.size

    def _settle(self, state: str) -> str:
        """Say in manifest and record what is stored; `pending` when more came while this was sent."""
        with collecting_lock(self.directory):
            manifest = artifacts.read_manifest(self.directory)
            if manifest is not None:
                files = tuple(self._settled(item) for item in manifest.files)
                left = [item for item in files if item.state == "pending" and not item.code]
                state = "pending" if left else state
                if (files, state) != (manifest.files, manifest.state):
                    artifacts.write_manifest(self.directory, manifest.replace(files=files, state=state))
            record = runs.load_record(self.directory)
            if record.artifacts_state != state:
                runs.write_record(self.directory, record.replace(artifacts_state=state))
        return state

    def _settled(self, item: Artifact) -> Artifact:
        if item.state == "rejected":
            return item
        if self.sent.get(item.path) == item.sha256:
            return item.replace(state="stored", code="", reason="")
        if (error := self.damaged.get(item.path)) is not None:
            return item.replace(state="pending", code=error.code, reason=error.message)
        return item.replace(state="pending")


def _left_error() -> dict[str, str]:
    return {"code": "artifacts.more", "message": "files were added while it was stored", "hint": "aml push"}


def remove(home: str, url: str, prefix: str, uuid: str, project_key: str) -> bool:
    """Remove a run from a store; False when what is there is another run's.

    First it cannot be seen any more, then it is removed.  Raises ArtifactError: doing it again goes on.
    """
    store = origin(Place(store=url, prefix=prefix))
    run_id = prefix.rpartition("/")[2]
    if not contents.owned(store, prefix, uuid):
        return False
    store.delete(contents.entry_folder(project_key, prefix))
    store.delete(f"{prefix}/{DETAILS}/run.json")
    store.delete(prefix)
    pending.forget(home, run_id)
    return True


__all__ = [
    "Pushed",
    "Turn",
    "push",
    "push_marked",
    "push_run",
    "remove",
    "take_turn",
]
