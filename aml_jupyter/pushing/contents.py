"""What is sent of a run besides its outputs, and how it is called in the store.

    ExperimentRun/<run id>/outputs/...                 as the run wrote them
    ExperimentRun/<run id>/.aml/run.json, ...          its record, labels, list of artifacts, log, events, ...
    Snapshots/<snapshot id>                            the project as it was, once
    Locks/<digest>                                     the lock of its environment, once
    Runs/<project>/<run id>/<digest>                   the list of runs: changes when anything above does

No secret is in any of these files: what may hold one is left out or rewritten here.
"""

from __future__ import annotations

import os
import tempfile

from aml_jupyter import plainjson, runs
from aml_jupyter.artifacts.names import key_of
from aml_jupyter.artifacts.store import OWNER, copy_hashed
from aml_jupyter.artifacts.transfer import Upload
from aml_jupyter.confined import MissingFile, Root
from aml_jupyter.errors import AmlError, ArtifactError, ConfinedError
from aml_jupyter.frozen import Value
from aml_jupyter.sealed import seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from aml_jupyter.artifacts import Manifest
    from aml_jupyter.artifacts.store import ArtifactStore
    from aml_jupyter.runs import Record, RunDirectory

# of the run directory: its path there -> its name in the store
FILES = {
    "job/log": "log",
    "job/events.jsonl": "events.jsonl",
    "control.log": "control.log",
    "status.jsonl": "status.jsonl",
    "prepared.json": "prepared.json",
    "git.diff": "git.diff",
    "job/cell.py": "job/cell.py",
    "job/cell.json": "job/cell.json",
}
REQUEST = "job/request.json"
# folders whose files are named by their SHA-256
PAYLOADS = ("job/data", "job/inputs")
# bytes of a request
_LARGEST = 16 << 20


class Detail(Value):
    """A file of a run directory as it is sent: its name in the store, its facts, and what it is made of.

    `path` is below the run directory `folder`; `data` are the bytes of one that is rewritten.
    """

    name: str
    size: int
    sha256: str
    folder: str = ""
    path: str = ""
    data: bytes = b""

    @property
    def facts(self) -> dict[str, Any]:
        """What whoever fetches it has to find."""
        return {"size": self.size, "sha256": self.sha256}

    def open(self) -> int:
        """A descriptor, which the caller closes."""
        if not self.path:
            return file_of(self.data)
        with Root(self.folder) as root:
            return root.open_file(self.path)

    def upload(self, key: str) -> Upload:
        """How it is sent."""
        return Upload(key=key, open=self.open, size=self.size, sha256=self.sha256)


def details(directory: RunDirectory) -> list[Detail]:
    """Everything of a run directory that is sent."""
    with Root(directory.path) as root:
        wanted = [*FILES.items(), *_payloads(root)]
        found = [_detail(root, path, name) for path, name in wanted]
        return [*filter(None, found), *_request(root)]


def _detail(root: Root, path: str, name: str) -> Detail | None:
    try:
        fd = root.open_file(path)
    except ConfinedError:  # there is none, or a script put something else in its place
        return None
    try:
        hashed = copy_hashed(fd, None, name)
    finally:
        os.close(fd)
    return Detail(name=name, size=hashed.size, sha256=hashed.sha256, folder=root.path, path=path)


def _request(root: Root) -> Iterator[Detail]:
    """What was asked for, without the variables whose name or value may be that of a secret."""
    try:
        asked = plainjson.loads(root.read_bytes(REQUEST, _LARGEST))
    except (ConfinedError, ValueError, RecursionError):
        return
    if isinstance(asked, dict):
        given = asked.get("environment")
        given = given if isinstance(given, dict) else {}
        asked["environment"] = {name: text for name, text in given.items() if not _may_be_secret(name, text)}
        data = plainjson.dumps(asked).encode()
        yield Detail(name=REQUEST, size=len(data), sha256=digest(data), data=data)


def _may_be_secret(name: str, text: object) -> bool:
    """Whether a variable of a run configuration may be a password, key or token; better one too many."""
    import re

    from aml_jupyter.config import settings

    words = "pass|secret|token|key|credential|auth|sas|connection"
    return re.search(words, name, re.IGNORECASE) is not None or settings.looks_secret(f"{name}={text}")


def _payloads(root: Root) -> Iterator[tuple[str, str]]:
    for folder in PAYLOADS:
        try:
            names = [entry.name for entry in root.walk(folder) if entry.kind == "file"]
        except MissingFile:
            continue
        for name in names:
            if len(name) == 64 and not name.strip("0123456789abcdef"):
                yield f"{folder}/{name}", f"{folder}/{name}"


def file_of(data: bytes) -> int:
    """An open file that holds some bytes and has no name."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return os.dup(file.fileno())


def digest(data: bytes) -> str:
    """The SHA-256 of some bytes, in hex."""
    import hashlib

    return hashlib.sha256(data).hexdigest()


def of_bytes(key: str, data: bytes) -> Upload:
    """How a small file is sent."""
    return Upload(key=key, open=lambda: file_of(data), size=len(data), sha256=digest(data))


def put_snapshot_and_lock(directory: RunDirectory, record: Record, store: ArtifactStore) -> None:
    """Store the snapshot and the environment lock of a run where they are not yet."""
    if record.snapshot_id:
        _put_snapshot(directory.home, record.snapshot_id, store)
    lock = record.environment.get("lock")
    if isinstance(lock, str) and lock.isalnum():
        _put_lock(directory.home, lock, store)


def _put_snapshot(home: str, snapshot_id: str, store: ArtifactStore) -> None:
    from aml_jupyter.snapshot import Store, archive

    key = f"Snapshots/{snapshot_id}"
    snapshots = Store(home + "/snapshots")
    if store.stat(key) is not None or not archive.has(snapshots, snapshot_id):
        return
    with tempfile.TemporaryFile() as file:
        archive.pack(snapshots, snapshot_id, file.fileno())
        store.put(key, file.fileno())


def _put_lock(home: str, lock: str, store: ArtifactStore) -> None:
    key = f"Locks/{lock}"
    if store.stat(key) is not None:
        return
    try:
        with Root(f"{home}/environments/kept") as root:
            fd = root.open_file(f"{lock}.json")
    except ConfinedError:  # not kept any more
        return
    try:
        store.put(key, fd)
    finally:
        os.close(fd)


class Seen(Value):
    """The files that make a run visible, in their order."""

    manifest: bytes
    labels: bytes
    record: bytes

    def files(self) -> tuple[tuple[str, bytes], ...]:
        """Names and bytes, the record last."""
        return (("artifacts.json", self.manifest), ("labels.json", self.labels), ("run.json", self.record))

    @property
    def digest(self) -> str:
        """Changes with any of them."""
        return digest(b"".join(digest(data).encode() for _, data in self.files()))[:32]


def remote_manifest(
    manifest: Manifest,
    prefix: str,
    damaged: Mapping[str, ArtifactError],
    state: str,
    details: Mapping[str, object],
) -> bytes:
    """The list of artifacts as the store has it, with what else there is of the run."""
    files = []
    for item in manifest.files:
        if item.state == "rejected":
            files.append(item)
        elif (error := damaged.get(item.path)) is not None:
            files.append(item.replace(state="rejected", key="", code=error.code, reason=error.message))
        else:
            key = key_of(prefix, item.path)
            files.append(item.replace(state="stored", key=key, code="", reason=""))
    there = manifest.replace(state=state, prefix=prefix, store="", files=tuple(files))
    return seal({**there.to_json(), "details": dict(details)})


def labels(directory: RunDirectory) -> bytes:
    """What people added to a run."""
    try:
        found = runs.read_labels(directory)
    except AmlError:  # damaged: `aml check` tells
        found = runs.Labels()
    return seal({"format": 1, **found.as_dict(), "tags": dict(found.tags)})


def record(of: Record, state: str) -> bytes:
    """The record as others see it: without what only this computer can use."""
    return seal(of.replace(artifacts_state=state, supervisor={}).to_json())


def entry_folder(project_key: str, prefix: str) -> str:
    """Where the list of runs has a run; the name of a project may be one that no store carries."""
    return f"{project_folder(project_key)}/{prefix.rpartition('/')[2]}"


def project_folder(project_key: str) -> str:
    """Where the list of runs has a project."""
    return f"Runs/{digest(project_key.encode())[:16]}"


def entry(of: Record, prefix: str) -> bytes:
    """What a line of the list of runs says; the record has all of it."""
    return seal({"format": 1, "prefix": prefix, "uuid": of.uuid, "created_utc": of.created_utc})


def owned(store: ArtifactStore, prefix: str, uuid: str) -> bool:
    """Whether a prefix belongs to a run, or to nobody any more."""
    try:
        return store.read(f"{prefix}/{OWNER}", 0, 200).decode("ascii", "replace") == uuid
    except ArtifactError as error:
        if error.code != "artifact.unknown":
            raise
    return True
