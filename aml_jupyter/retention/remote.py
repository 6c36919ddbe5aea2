"""What is removed here is removed in its store too, at once or as soon as that answers.

    AML_HOME/tombstones/<run id>.json     a run that is to go from a store; written before it goes here
    AML_HOME/tombstones/unneeded.json     snapshots and locks in stores that may have lost their last run
    AML_HOME/tombstones/<hash>.bytes, .of   one that was just removed in a store, until nobody can need it

Only runs that this AML_HOME stored are removed there; one that was brought from a store stays in it unless a
person says otherwise.
"""

from __future__ import annotations

import os
import time

from aml_jupyter import runs
from aml_jupyter.artifacts.remote import DETAILS, Place, origin, place_of
from aml_jupyter.artifacts.store import RUNS
from aml_jupyter.confined import MissingFile, make_root, read_bounded, write_atomic
from aml_jupyter.errors import AmlError, ArtifactError
from aml_jupyter.frozen import Value
from aml_jupyter.job import FORMAT
from aml_jupyter.locks import exclusive
from aml_jupyter.runs import trash
from aml_jupyter.runs.damage import Finding
from aml_jupyter.runs.directory import trash_of, unlink_quietly, with_reserve
from aml_jupyter.sealed import seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from aml_jupyter.artifacts.store import ArtifactStore
    from aml_jupyter.runs import Record, RunDirectory

FOLDER = "tombstones"
_SMALL = 1 << 20
# a removal here takes no longer between its tombstone and the end of the run; seconds
REMOVED_WITHIN = 600.0
# records that are read at a time from a store, to learn which snapshots are needed
READERS = 16
# bytes of a record
_RECORD = 64 << 20


class Tombstone(Value):
    """A run that is to go from a store; `prefix` is "" where it is not known how far it was stored."""

    run_id: str
    uuid: str
    store: str
    prefix: str
    project_key: str
    unneeded: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""

    def path(self, home: str) -> str:
        """Where it is kept."""
        return f"{home}/{FOLDER}/{self.run_id}.json"


class Cleared(Value):
    """What became of removals in stores: run ids that are gone there, those that wait with the reason.

    `unneeded` are snapshots and locks that went with them.
    """

    gone: tuple[str, ...] = ()
    waiting: tuple[tuple[str, str], ...] = ()
    unneeded: tuple[str, ...] = ()


def bury(directory: RunDirectory, *, pulled: bool = False) -> bool:
    """Note that a run is to go from its store; False when it is in none, or (unless `pulled`) not ours there.

    A run whose record cannot be read any more leaves no note: nobody could tell that it is this one there.
    """
    home = directory.home.removesuffix(trash_of(""))
    try:
        record = runs.load_record(directory)
    except AmlError:
        return False
    try:
        place = place_of(directory)
    except AmlError:
        if "origin" in record.properties:  # it came from there
            return False
        place = None
    if place is None:
        place = _half_pushed(home, record)
    if place is None or not record.uuid or (place.pulled and not pulled):
        return False
    lock = record.environment.get("lock")
    note = Tombstone(
        run_id=directory.run_id,
        uuid=record.uuid,
        store=place.store,
        prefix=place.prefix,
        project_key=directory.project_key,
        unneeded=(
            *([f"Snapshots/{record.snapshot_id}"] if record.snapshot_id.isalnum() else []),
            *([f"Locks/{lock}"] if isinstance(lock, str) and lock.isalnum() else []),
        ),
        seconds=time.time(),
    )
    _write(home, note)
    return True


def _half_pushed(home: str, record: Record) -> Place | None:
    """Where a run may be on its way to: what it came to there is written down only afterwards."""
    from aml_jupyter import pending

    mark = pending.marked(home, record.run_id)
    try:
        store = mark.store if mark and mark.store else pending.wanted_store(home, record.project_root)
    except AmlError:  # settings that cannot be read: then nobody stored it either
        return None
    return Place(store=store, prefix="") if store else None


def _write(home: str, note: Tombstone) -> None:
    path = note.path(home)
    make_root(os.path.dirname(path))
    data = seal({"format": FORMAT, **note.as_dict(), "unneeded": list(note.unneeded)})
    with_reserve(path, lambda: write_atomic(path, data))


def tombstones(home: str) -> Iterator[Tombstone]:
    """Every removal that a store does not know of yet; a damaged note is left to `aml check`."""
    for path in note_files(home):
        try:
            yield read(path)
        except (AmlError, KeyError, TypeError):
            continue


def note_files(home: str) -> list[str]:
    """The files of all tombstones."""
    try:
        names = sorted(os.listdir(f"{home}/{FOLDER}"))
    except FileNotFoundError:
        return []
    return [f"{home}/{FOLDER}/{name}" for name in names if name.endswith(".json") and name != _UNNEEDED]


def read(path: str) -> Tombstone:
    """One tombstone.  Raises HistoryError `record.corrupt`, KeyError, TypeError."""
    document = unseal(read_bounded(path, _SMALL), path)
    found = {name: document[name] for name in Tombstone._fields if name in document}
    return Tombstone(**{**found, "unneeded": tuple(found.get("unneeded", ()))})


def check(home: str) -> Iterator[Finding]:
    """Notes that cannot be read: what they ask for is not done."""
    for path in note_files(home):
        try:
            read(path)
        except (AmlError, KeyError, TypeError) as error:
            run_id = os.path.basename(path)[: -len(".json")]
            yield Finding(
                code="tombstone.corrupt",
                path=path,
                message=f"{run_id} was removed here and may still be in its store: {error}",
                hint="aml history sync brings it back where it is; then aml rm RUN --now --store removes it.",
            )


def clear(home: str, *, patience: float = 0.0, thorough: bool = False) -> Cleared:
    """Remove in stores what was removed here; `thorough` also looks for snapshots that no run needs there.

    What cannot be done now stays noted: nothing is raised for a store that does not answer.
    """
    if not note_files(home) and not _unneeded(home) and not _held(home):
        return Cleared()
    from aml_jupyter import pushing

    turn = pushing.take_turn(home, patience=patience)
    if turn is None:
        waiting = tuple((one.run_id, "runs are being stored at this moment") for one in tombstones(home))
        return Cleared(waiting=waiting)
    with turn, exclusive(f"{home}/{FOLDER}"):
        return _clear(home, thorough)


def _clear(home: str, thorough: bool) -> Cleared:
    gone, waiting = [], []
    failed: dict[str, str] = {}
    for note in tombstones(home):
        if _is_still_here(home, note):
            # who wrote it was killed before it removed the run
            if time.time() - note.seconds > REMOVED_WITHIN:
                unlink_quietly(note.path(home))
            continue
        why = failed.get(note.store) or _why_not(home, note, failed)
        if why:
            waiting.append((note.run_id, why))
            continue
        _add_unneeded(home, note)
        unlink_quietly(note.path(home))
        gone.append(note.run_id)
    _put_back(home, failed)
    unneeded = _clear_unneeded(home, failed) if thorough else []
    return Cleared(gone=tuple(gone), waiting=tuple(waiting), unneeded=tuple(unneeded))


def _is_still_here(home: str, note: Tombstone) -> bool:
    directory = runs.at(home, note.run_id) or runs.at(trash_of(home), note.run_id)
    try:
        return directory is not None and runs.load_record(directory).uuid == note.uuid
    except AmlError:  # a damaged record may be that run's
        return True


def _why_not(home: str, note: Tombstone, failed: dict[str, str]) -> str:
    """Remove a run from its store; why it waits, kept for all others where the store is the cause."""
    from aml_jupyter.artifacts.transfer import OF_THE_STORE

    try:
        _remove(home, note)
    except AmlError as error:
        if error.code in OF_THE_STORE:
            failed[note.store] = error.message
        _write(home, note.replace(error=error.message))
        return error.message
    return ""


def _remove(home: str, note: Tombstone) -> None:
    from aml_jupyter import pushing

    plain = f"{RUNS}/{note.run_id}"
    for prefix in [note.prefix] if note.prefix else [plain, f"{plain}-{note.uuid[:4]}"]:
        pushing.remove(home, note.store, prefix, note.uuid, note.project_key)


# --- snapshots and locks ------------------------------------------------------------------------------------

_UNNEEDED = "unneeded.json"
_BYTES, _OF = ".bytes", ".of"


def _unneeded(home: str) -> dict[str, list[str]]:
    """Store -> keys of snapshots and locks that may have lost their last run."""
    path = f"{home}/{FOLDER}/{_UNNEEDED}"
    try:
        found = unseal(read_bounded(path, _RECORD), path).get("stores", {})
    except MissingFile:
        return {}
    except AmlError:  # what it named stays in the stores: nothing that anybody misses
        return {}
    return {str(store): [str(key) for key in keys] for store, keys in found.items()}


def _write_unneeded(home: str, stores: dict[str, list[str]]) -> None:
    path = f"{home}/{FOLDER}/{_UNNEEDED}"
    stores = {store: sorted(set(keys)) for store, keys in stores.items() if keys}
    if not stores:
        unlink_quietly(path)
        return
    write_atomic(path, seal({"format": FORMAT, "stores": stores}))


def _add_unneeded(home: str, note: Tombstone) -> None:
    stores = _unneeded(home)
    stores[note.store] = [*stores.get(note.store, []), *note.unneeded]
    _write_unneeded(home, stores)


def _clear_unneeded(home: str, failed: dict[str, str]) -> list[str]:
    stores, gone = _unneeded(home), []
    for url in [url for url in stores if url not in failed]:
        try:
            gone += _remove_unneeded(home, url, stores[url])
        except AmlError:  # asked again by the next collection
            continue
        stores[url] = []
        _write_unneeded(home, stores)
    return gone


def _remove_unneeded(home: str, url: str, keys: list[str]) -> list[str]:
    """Remove those of the keys that no run in the store needs; none while somebody stores a run there."""
    store = origin(Place(store=url, prefix=""))
    prefixes = set(store.children(RUNS))
    needed = _needed(store, prefixes)
    gone = []
    for key in keys:
        if key in needed or store.stat(key) is None:
            continue
        path = _hold(home, url, store, key)
        store.delete(key)
        # whoever began to store a run meanwhile may have seen it there
        later = set(store.children(RUNS)) - prefixes
        if later and key in _needed(store, later, unknown={key}):
            _give_back(store, key, path)
        else:
            gone.append(key)
        _let_go(path)
    return gone


def _hold(home: str, url: str, store: ArtifactStore, key: str) -> str:
    """Keep what is about to be removed, maybe the only copy of a team; where, without the ending."""
    import hashlib

    path = f"{home}/{FOLDER}/{hashlib.sha256(f'{url} {key}'.encode()).hexdigest()[:32]}"
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path + _BYTES, flags, 0o600)
    try:
        store.fetch(key, fd)
        os.fsync(fd)
        write_atomic(path + _OF, seal({"format": FORMAT, "store": url, "key": key}))
    except BaseException:
        _let_go(path)
        raise
    finally:
        os.close(fd)
    return path


def _let_go(path: str) -> None:
    # bytes alone are nothing that was removed
    unlink_quietly(path + _OF)
    unlink_quietly(path + _BYTES)


def _held(home: str) -> list[str]:
    """What was removed in a store by somebody who did not come to look once more, without the endings."""
    try:
        names = sorted(os.listdir(f"{home}/{FOLDER}"))
    except FileNotFoundError:
        return []
    return [f"{home}/{FOLDER}/{name.removesuffix(_BYTES)}" for name in names if name.endswith(_BYTES)]


def _put_back(home: str, failed: dict[str, str]) -> None:
    """Put back what is held since a kill or a failure: whether it is needed is found out anew."""
    for path in _held(home):
        try:
            found = unseal(read_bounded(path + _OF, _SMALL), path + _OF)
        except MissingFile:  # it was not removed yet
            _let_go(path)
            continue
        except AmlError:  # it cannot be said where this belongs: it stays
            continue
        url, key = str(found.get("store")), str(found.get("key"))
        if url in failed:
            continue
        try:
            store = origin(Place(store=url, prefix=""))
            if store.stat(key) is None:
                _give_back(store, key, path)
        except AmlError as error:  # asked again the next time; until then what is noted of the store stays
            failed[url] = error.message
            continue
        _let_go(path)


def _give_back(store: ArtifactStore, key: str, path: str) -> None:
    fd = os.open(path + _BYTES, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        store.put(key, fd)
    finally:
        os.close(fd)


def _needed(store: ArtifactStore, prefixes: set[str], unknown: set[str] | None = None) -> set[str]:
    """The snapshots and locks that runs in a store name.  Raises ArtifactError `store.busy`.

    With `unknown`, that is what a run that is not whole yet is taken to need.
    """
    from contextlib import closing

    from aml_jupyter.syncing.ahead import in_order

    found: set[str] = set()
    with closing(in_order(lambda name: _needs(store, name), sorted(prefixes), READERS)) as answers:
        for _, answer in answers:
            keys = answer()
            if keys is None and unknown is None:
                raise ArtifactError("a run is being stored at this moment", code="store.busy")
            found |= (unknown or set()) if keys is None else keys
    return found


def _needs(store: ArtifactStore, name: str) -> set[str] | None:
    """What a run in a store needs besides its own files; None when that is not known (yet)."""
    key = f"{RUNS}/{name}/{DETAILS}/run.json"
    try:
        document = unseal(store.read(key, 0, _RECORD), key)
    except AmlError as error:
        if error.code in ("artifact.unknown", "record.corrupt"):
            return None
        raise
    environment = document.get("environment")
    lock = environment.get("lock") if isinstance(environment, dict) else None
    return {f"Snapshots/{document.get('snapshot_id')}", f"Locks/{lock}"}


def mark_pending(directory: RunDirectory) -> None:
    """Have a run that came back from the trash stored, where that was not done before it went there."""
    from aml_jupyter import pending

    try:
        if _is_to_be_stored(directory):
            pending.mark(directory.home, directory.run_id, "")
    except AmlError:  # `aml check` tells
        return


def _is_to_be_stored(directory: RunDirectory) -> bool:
    """Whether there is something of a run to store; its mark went when it was in the trash."""
    from aml_jupyter import artifacts, pending
    from aml_jupyter.pushing import contents

    manifest = artifacts.read_manifest(directory)
    if manifest is not None and any(item.state == "pending" for item in manifest.files):
        return True
    place = place_of(directory)
    if place is None:
        record = runs.load_record(directory)
        ours = "origin" not in record.properties
        return ours and pending.wanted_store(directory.home, record.project_root) is not None
    now = contents.digest(contents.labels(directory))
    return not place.pulled and place.sent.get(f"{DETAILS}/labels.json") != now


def is_stored(directory: RunDirectory) -> bool:
    """Whether a run, here or in the trash, is in a store that its removal reaches."""
    try:
        place = place_of(directory)
    except AmlError:
        return False
    return place is not None and not place.pulled


__all__ = [
    "Cleared", "Tombstone", "bury", "clear", "is_stored", "mark_pending", "note_files", "read", "tombstones",
    "trash",
]  # fmt: skip
