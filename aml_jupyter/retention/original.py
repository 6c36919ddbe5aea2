"""What the store of a run says of it, as far as it can be that run: read when what is here is damaged.

A store may hold anything, and a checksum without a key is nobody's signature: see `syncing.foreign`. Of a run
that was stored from here, the hashes of what was sent are known as well.
"""

from __future__ import annotations

import os
import tempfile

from aml_jupyter import artifacts
from aml_jupyter.artifacts.manifest import Manifest
from aml_jupyter.artifacts.names import key_of
from aml_jupyter.artifacts.remote import DETAILS, origin, place_of
from aml_jupyter.artifacts.store import OWNER, RUNS
from aml_jupyter.errors import AmlError, ArtifactError, HistoryError
from aml_jupyter.job import FORMAT
from aml_jupyter.pushing import contents
from aml_jupyter.sealed import seal
from aml_jupyter.syncing import LARGEST, LARGEST_LOG, foreign, localised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from aml_jupyter.artifacts.remote import Place
    from aml_jupyter.artifacts.store import ArtifactStore
    from aml_jupyter.runs import Labels, Record, RunDirectory

# bytes of the labels of a run
_LARGEST_LABELS = 1 << 20


def known_place(directory: RunDirectory) -> Place | None:
    """Where a run is in a store; None where none has it, or what says so is damaged."""
    try:
        place = place_of(directory)
    except AmlError:
        return None
    return place if place is not None and place.prefix else None


def sealed_labels(labels: Labels) -> bytes:
    """What labels.json holds."""
    return seal({"format": FORMAT, **labels.as_dict(), "tags": dict(labels.tags)})


class Original:
    """A run as its store has it.  All methods raise ArtifactError, and HistoryError `record.foreign`."""

    def __init__(self, directory: RunDirectory, place: Place, store: ArtifactStore) -> None:
        self.directory = directory
        self.place = place
        self.store = store

    @property
    def name(self) -> str:
        """How the run is called there."""
        return self.place.prefix.rpartition("/")[2]

    def record(self) -> Record:
        """Its record, as it is kept here: of a run that has ended, and surely of this one."""
        found = foreign.record(self._read("run.json", foreign.LARGEST_RECORD), self.name)
        if problem := self._difference(found):
            raise self._refused(problem)
        return localised(found, self.directory, self.place.store) if self.place.pulled else found

    def labels(self) -> bytes:
        """What people added to it, as labels.json."""
        return sealed_labels(foreign.labels(self._read("labels.json", _LARGEST_LABELS), self.name))

    def manifest(self, uuid: str, *, claim: bool = True) -> Manifest:
        """The list of its artifacts, with their keys on this computer, where their place is claimed."""
        data = self._read("artifacts.json", foreign.LARGEST_MANIFEST)
        state, dropped, files, _ = foreign.artifacts(data, self.name)
        local = artifacts.store_of(self.directory)
        prefix = local.claim(self.directory.run_id, uuid) if claim else self.place.prefix
        keyed = tuple(
            item if item.state == "rejected" else item.replace(key=key_of(prefix, item.path))
            for item in files
        )
        return Manifest(state=state, prefix=prefix, files=keyed, dropped=dropped)

    def detail(self, name: str, size: int | None = None) -> BinaryIO | None:
        """A file of the run directory as an open file without a name; None where it is not known.

        Nothing else is fetched than the bytes that were stored or that were there when the run was brought,
        and nothing of another size than `size`.
        """
        sha256 = self._known_detail(name)
        key = f"{self.place.prefix}/{DETAILS}/{name}"
        there = self.store.stat(key) if sha256 else None
        most = LARGEST_LOG if name == "log" else LARGEST
        if there is None or there.size > most or size not in (None, there.size):
            return None
        copy: BinaryIO = tempfile.TemporaryFile(dir=self.directory.path)
        try:
            self.store.fetch(key, copy.fileno(), sha256=sha256, size=there.size)
        except BaseException:
            copy.close()
            raise
        return copy

    def _known_detail(self, name: str) -> str:
        if self.place.pulled:
            return str(self.place.details.get(name, {}).get("sha256", ""))
        return str(self.place.sent.get(f"{DETAILS}/{name}", ""))

    def _read(self, name: str, limit: int) -> bytes:
        data = self.store.read(f"{self.place.prefix}/{DETAILS}/{name}", 0, limit + 1)
        if len(data) > limit:
            raise self._refused(f"{name} has more than {limit} bytes")
        sent = None if self.place.pulled else self.place.sent.get(f"{DETAILS}/{name}")
        if sent is not None and contents.digest(data) != sent:
            raise self._refused(f"{name} is not the one that was stored from here")
        return data

    def _difference(self, found: Record) -> str:
        """What shows that a record is another run's; "" when nothing does."""
        ids = [found.run_id]
        if self.place.pulled:  # its own id may have been another run's here
            ids.append(f"{found.run_id}-{found.uuid[:4]}")
        if self.directory.run_id not in ids:
            return f"it is the record of {found.run_id[:80]}"
        if f"{found.account}/{found.workspace}/{found.project}" != self.directory.project_key:
            return "it is the record of a run of another project"
        if not self._is_owner(found.uuid):
            return "it is the record of another run of the same id"
        return ""

    def _is_owner(self, uuid: str) -> bool:
        """Whether the artifacts, here and there, are those of the run of this UUID, or nobody's."""
        run_id = self.directory.run_id
        here = [self._owner(f"{RUNS}/{name}") for name in (run_id, f"{run_id}-{uuid[:4]}")]
        return (not here[0] or uuid in here) and contents.owned(self.store, self.place.prefix, uuid)

    def _owner(self, prefix: str) -> str:
        try:
            found = artifacts.store_of(self.directory).read(f"{prefix}/{OWNER}", 0, 200)
        except ArtifactError:
            return ""
        return found.decode("ascii", "replace")

    def _refused(self, why: str) -> HistoryError:
        return HistoryError(
            f"{self.directory.run_id}: what {self.place.store} has cannot be taken: {why}",
            code="record.foreign",
            hint="Nothing of it was taken.",
        )


def archive(directories: Sequence[RunDirectory], snapshot_id: str) -> int | None:
    """The archive of a snapshot, from the first store that has it, as an open file."""
    for place in {one.store: one for one in map(known_place, directories) if one is not None}.values():
        with tempfile.TemporaryFile() as copy:
            try:
                origin(place).fetch(f"Snapshots/{snapshot_id}", copy.fileno())
            except AmlError:
                continue
            copy.seek(0)
            return os.dup(copy.fileno())
    return None
