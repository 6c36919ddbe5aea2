"""Copies of artifacts that a store has as well: dropped here, and fetched again when asked for."""

from __future__ import annotations

import hashlib
import time

from aml_jupyter import artifacts, runs
from aml_jupyter.artifacts.collecting import collecting_lock
from aml_jupyter.artifacts.names import key_of
from aml_jupyter.artifacts.remote import origin, place_of
from aml_jupyter.errors import AmlError, ArtifactError, RunNotFound
from aml_jupyter.frozen import Value
from aml_jupyter.retention.rules import seconds_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from aml_jupyter.artifacts import Artifact
    from aml_jupyter.artifacts.remote import Place
    from aml_jupyter.artifacts.store import ArtifactStore
    from aml_jupyter.runs import RunDirectory

_CHUNK = 1 << 20


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
    for directory in sorted(runs.all_directories(home), key=lambda one: one.run_id):
        if project not in (None, directory.project_key):
            continue
        try:
            if _may(directory, age) and (found := drop(directory, failed, dry_run=dry_run)) is not None:
                done.append(found)
        except RunNotFound:  # removed at this moment
            continue
        except AmlError as error:  # damaged: nothing of it goes, `aml check` tells
            done.append(Dropped(run_id=directory.run_id, kept={"": error.message}))
    return done


def _may(directory: RunDirectory, age: float) -> bool:
    record = runs.load_record(directory)
    if not record.ended or runs.read_labels(directory).pinned:
        return False
    return time.time() - seconds_of(record.end_time_utc or record.created_utc) >= age


def drop(directory: RunDirectory, failed: dict[str, str], *, dry_run: bool = False) -> Dropped | None:
    """Drop the copies of one run; None when no store has it, or none is here.

    `failed` remembers stores that do not answer, with the reason.
    """
    place = place_of(directory)
    if place is None:
        return None
    local = artifacts.store_of(directory)
    with collecting_lock(directory):
        manifest = artifacts.read_manifest(directory)
        here = [item for item in (manifest.stored if manifest else ()) if local.stat(item.key) is not None]
        confirmed = [item for item in here if place.pulled or place.sent.get(item.path) == item.sha256]
        if not confirmed:
            return None
        kept: dict[str, str] = {}
        gone: list[Artifact] = []
        for item in confirmed:
            why = failed.get(place.store) or ("" if dry_run else _doubt(item, place, failed))
            if why:
                kept[item.path] = why
                continue
            if not dry_run:
                local.delete(item.key)
            gone.append(item)
    return Dropped(run_id=directory.run_id, files=len(gone), bytes=sum(item.size for item in gone), kept=kept)


def _doubt(item: Artifact, place: Place, failed: dict[str, str]) -> str:
    """Why the store cannot be trusted to have an artifact; "" when it has."""
    try:
        return differs(origin(place), key_of(place.prefix, item.path), item)
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
    if (there.sha256 or _hash(store, key)) != item.sha256:
        return f"its bytes have changed in {store.url}"
    return ""


def _hash(store: ArtifactStore, key: str) -> str:
    digest = hashlib.sha256()
    with store.open(key) as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()
