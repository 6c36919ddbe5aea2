"""Where a run is besides this computer, and its artifacts from there: verified, and kept here from then on.

`remote.json` of a run directory says which store has the run, under which prefix, and what of it was
confirmed to be there.  It is written by whoever pushes the run, or who brought it from a store.
"""

from __future__ import annotations

import os

from aml_jupyter.artifacts.manifest import store_of
from aml_jupyter.artifacts.names import key_of
from aml_jupyter.confined import MissingFile, read_bounded, write_atomic
from aml_jupyter.errors import ArtifactError
from aml_jupyter.frozen import Value
from aml_jupyter.job import FORMAT
from aml_jupyter.sealed import seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, BinaryIO

    from aml_jupyter.artifacts.manifest import Artifact, Folder
    from aml_jupyter.artifacts.store import ArtifactStore
    from aml_jupyter.artifacts.transfer import Report

NAME = "remote.json"
# of a run in its store: its record and all that is not an output
DETAILS = ".aml"
_LARGEST = 64 << 20
_EMPTY: Mapping[str, Any] = {}


class Place(Value):
    """Where a run is in a store: the store's address and the prefix of the run.

    `pulled` is whether it came from there; `sent` are names below the prefix with the SHA-256 that was
    confirmed; `details` is what else the store has of a pulled run (name -> size, sha256); `entry` is its
    line in the store's list of runs.
    """

    store: str
    prefix: str
    pulled: bool = False
    sent: Mapping[str, str] = _EMPTY
    details: Mapping[str, Any] = _EMPTY
    entry: str = ""


def place_of(directory: Folder) -> Place | None:
    """Where a run is besides this computer, or None.  Raises HistoryError `record.corrupt`."""
    path = f"{directory.path}/{NAME}"
    try:
        document = unseal(read_bounded(path, _LARGEST), path)
    except MissingFile:
        return None
    return Place(**{name: document[name] for name in Place._fields if name in document})


def write_place(directory: Folder, place: Place) -> None:
    """Say where a run is, whole or not at all."""
    write_atomic(f"{directory.path}/{NAME}", seal({"format": FORMAT, **place.as_dict()}))


def origin(place: Place, *, patience: float | None = None) -> ArtifactStore:
    """The store of a place; `patience` are seconds that it has for an answer, unless a person set them."""
    from aml_jupyter.artifacts.opening import open_store

    given = {} if patience is None else {"AML_STORE_PATIENCE": str(patience)}
    return open_store(place.store, {**given, **os.environ})


def is_here(directory: Folder, item: Artifact) -> bool:
    """Whether an artifact can be opened without its store."""
    return store_of(directory).stat(item.key) is not None


def opened(directory: Folder, item: Artifact, report: Report | None = None) -> BinaryIO:
    """An artifact as a file, fetched from the store of its run first when it is not on this computer.

    Raises ArtifactError `artifact.unknown`, `store.gone` when its store does not have it any more,
    `store.unavailable`, `store.corrupt`, `store.no_space`.
    """
    local = store_of(directory)
    try:
        return local.open(item.key)
    except ArtifactError as error:
        if error.code != "artifact.unknown" or (place := place_of(directory)) is None:
            raise
    fetch(directory, [item], place, report)
    return local.open(item.key)


def fetch(
    directory: Folder, items: Iterable[Artifact], place: Place | None = None, report: Report | None = None
) -> None:
    """Bring artifacts to this computer, side by side; attempts that were cut off are gone on with.

    Those that are here are left alone.  Raises ArtifactError as `opened`, after all others were tried.
    """
    from aml_jupyter.artifacts.transfer import Download, download

    place = place or place_of(directory)
    missing = [item for item in items if item.state != "rejected" and not is_here(directory, item)]
    if place is None or not missing:
        return
    wanted = {key_of(place.prefix, item.path): item for item in missing}
    asked = [
        Download(key=key, local=item.key, size=item.size, sha256=item.sha256) for key, item in wanted.items()
    ]
    problems = [
        _explained(one.error, wanted[one.key].path, place)
        for one in download(origin(place), store_of(directory), asked, progress=report)
        if one.error is not None
    ]
    if problems:
        raise problems[0]


def _explained(error: ArtifactError, path: str, place: Place) -> ArtifactError:
    return gone(path, place) if error.code == "artifact.unknown" else error


def gone(path: str, place: Place) -> ArtifactError:
    """The error for what a run's store does not have any more."""
    return ArtifactError(
        f"{path} is missing in {place.store}: somebody removed it after it was stored",
        code="store.gone",
        hint="Where the run was made it may still be: `aml push RUN` there stores it again.",
    )
