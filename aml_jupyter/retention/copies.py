"""Copies of artifacts that a store has as well: dropped here, and fetched again when asked for."""

from __future__ import annotations

import os
import time

from aml_jupyter import artifacts, runs
from aml_jupyter.artifacts.collecting import collecting_lock
from aml_jupyter.artifacts.names import key_of
from aml_jupyter.artifacts.remote import origin, place_of
from aml_jupyter.artifacts.store import hash_of
from aml_jupyter.errors import AmlError, ArtifactError, RunNotFound
from aml_jupyter.frozen import Value
from aml_jupyter.retention.rules import seconds_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aml_jupyter.artifacts import Artifact
    from aml_jupyter.artifacts.remote import Place
    from aml_jupyter.artifacts.store import ArtifactStore
    from aml_jupyter.runs import RunDirectory


class Dropped(Value):
    """What became of the copies of one run: how many went and their bytes; `kept` says why others did not."""

    run_id: str
    files: int = 0
    bytes: int = 0
    kept: Mapping[str, str] = {}


def drop_copies(
    home: str, *, age: float = 0.0, project: str | None = None, dry_run: bool = False
) -> list[Dropped]:
    """Drop copies of runs that ended `age` seconds ago, of a project (`account/workspace/name`) or of all.

    Pinned runs keep theirs.  Nothing goes before the store confirmed size and SHA-256 once more.
    """
    done = []
    failed: dict[str, str] = {}
    stores: dict[str, ArtifactStore] = {}
    for directory in sorted(runs.all_directories(home), key=lambda one: one.run_id):
        if project not in (None, directory.project_key):
            continue
        try:
            if not _may(directory, age):
                continue
            found = drop(directory, failed, dry_run=dry_run, stores=stores)
            if found is not None:
                done.append(found)
        except RunNotFound:  # removed at this moment
            continue
        except FileNotFoundError:
            if os.path.lexists(directory.path):
                raise
        except AmlError as error:  # damaged: nothing of it goes, `aml check` tells
            done.append(Dropped(run_id=directory.run_id, kept={"": error.message}))
    return done


def _may(directory: RunDirectory, age: float) -> bool:
    record = runs.load_record(directory)
    if not record.ended or runs.read_labels(directory).pinned:
        return False
    return time.time() - seconds_of(record.end_time_utc or record.created_utc) >= age


def drop(
    directory: RunDirectory,
    failed: dict[str, str],
    *,
    dry_run: bool = False,
    stores: dict[str, ArtifactStore] | None = None,
) -> Dropped | None:
    """Drop the copies of one run; None when no store has it, or none is here.

    `failed` remembers stores that do not answer, with the reason, and `stores` those that are open.
    """
    place = place_of(directory)
    if place is None:
        return None
    local = artifacts.store_of(directory)
    here = [item for item in _confirmed(directory, place) if local.stat(item.key) is not None]
    if not here:
        return None
    # the store may take its time: nobody who changes the artifacts of the run waits for it
    stores = {} if stores is None else stores
    kept: dict[str, str] = {}
    for item in here:
        why = failed.get(place.store) or ("" if dry_run else _doubt(item, place, stores, failed))
        if why:
            kept[item.path] = why
    gone = [item for item in here if item.path not in kept]
    if not dry_run:
        with collecting_lock(directory):
            gone, changed = _delete(directory, place, gone)
        kept.update(changed)
    return Dropped(run_id=directory.run_id, files=len(gone), bytes=sum(item.size for item in gone), kept=kept)


def _confirmed(directory: RunDirectory, place: Place) -> list[Artifact]:
    """The artifacts of a run that its store is known to have."""
    manifest = artifacts.read_manifest(directory)
    listed = manifest.stored if manifest else ()
    return [item for item in listed if place.pulled or place.sent.get(item.path) == item.sha256]


def _delete(
    directory: RunDirectory, place: Place, items: Sequence[Artifact]
) -> tuple[list[Artifact], dict[str, str]]:
    """Remove copies that are still those that were confirmed; which went, and why others did not."""
    now = place_of(directory)
    moved = now is None or (now.store, now.prefix) != (place.store, place.prefix)
    confirmed = [] if now is None or moved else _confirmed(directory, now)
    known = {(item.path, item.key, item.sha256) for item in confirmed}
    local = artifacts.store_of(directory)
    gone: list[Artifact] = []
    kept: dict[str, str] = {}
    for item in items:
        if (item.path, item.key, item.sha256) not in known:
            kept[item.path] = "it was changed meanwhile"
            continue
        local.delete(item.key)
        gone.append(item)
    return gone, kept


def _doubt(item: Artifact, place: Place, stores: dict[str, ArtifactStore], failed: dict[str, str]) -> str:
    """Why the store cannot be trusted to have an artifact; "" when it has."""
    try:
        if place.store not in stores:
            stores[place.store] = origin(place)
        return differs(stores[place.store], key_of(place.prefix, item.path), item)
    except ArtifactError as error:
        failed[place.store] = error.message
        return error.message


def differs(store: ArtifactStore, key: str, item: Artifact) -> str:
    """What is wrong with an artifact as a store has it, by size and SHA-256; "" when nothing is."""
    there = store.stat(key)
    if there is None:
        return f"it is missing in {store.url}"
    if there.size != item.size:
        return f"it has {there.size} bytes in {store.url}, not {item.size}"
    if (there.sha256 or hash_of(store, key)) != item.sha256:
        return f"its bytes have changed in {store.url}"
    return ""
