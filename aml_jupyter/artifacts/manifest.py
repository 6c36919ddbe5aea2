"""What became of the outputs of a run: `artifacts.json`, written whole when everything in it is kept."""

from __future__ import annotations

import os

from aml_jupyter.artifacts.store import FolderStore
from aml_jupyter.confined import MissingFile, make_root, read_bounded, write_atomic
from aml_jupyter.errors import ArtifactError
from aml_jupyter.frozen import Value
from aml_jupyter.job import FORMAT, check_format
from aml_jupyter.sealed import seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol, Self

    class Folder(Protocol):
        """The run directory, as far as artifacts need it; `runs.RunDirectory` is one."""

        @property
        def path(self) -> str: ...  # noqa: D102
        @property
        def run_id(self) -> str: ...  # noqa: D102
        @property
        def home(self) -> str: ...  # noqa: D102


_LARGEST = 256 << 20


class Artifact(Value):
    """One output: `path` as people know it, `key` in the store.

    `state` is stored, pending or rejected; `code` and `reason` say why it is not stored.
    """

    path: str
    size: int = 0
    sha256: str = ""
    key: str = ""
    state: str = "stored"
    code: str = ""
    reason: str = ""


class Manifest(Value):
    """All outputs of a run.  `dropped` counts those that are not even listed, because there were too many."""

    state: str = "none"
    store: str = "folder"
    prefix: str = ""
    files: tuple[Artifact, ...] = ()
    dropped: int = 0

    @property
    def stored(self) -> tuple[Artifact, ...]:
        """The artifacts that can be opened; pending ones are not yet in the store that the project names."""
        return tuple(item for item in self.files if item.state != "rejected")

    @property
    def rejected(self) -> tuple[Artifact, ...]:
        """What was not taken, each with its reason."""
        return tuple(item for item in self.files if item.state == "rejected")

    @property
    def count(self) -> int:
        """How many artifacts are stored."""
        return len(self.stored)

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(item.size for item in self.stored)

    def to_json(self) -> dict[str, Any]:
        """The document of artifacts.json, without its checksum."""
        files = [{name: value for name, value in one.as_dict().items() if value != ""} for one in self.files]
        return {"format": FORMAT, **self.as_dict(), "files": files}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read artifacts.json; unknown keys are ignored."""
        fields = {name: document[name] for name in cls._fields if name in document}
        fields["files"] = tuple(
            Artifact(**{name: one[name] for name in Artifact._fields if name in one})
            for one in document.get("files", ())
        )
        return cls(**fields)


def manifest_path(directory: Folder) -> str:
    """Where the manifest of a run lies."""
    return directory.path + "/artifacts.json"


def read_manifest(directory: Folder) -> Manifest | None:
    """The manifest of a run, or None before it was written.  Raises HistoryError `record.corrupt`."""
    path = manifest_path(directory)
    try:
        return Manifest.from_json(unseal(read_bounded(path, _LARGEST), path))
    except MissingFile:
        return None


def write_manifest(directory: Folder, manifest: Manifest) -> None:
    """Replace the manifest, whole or not at all.  Raises FormatError over one of a newer version; OSError."""
    path = manifest_path(directory)
    try:
        check_format(unseal(read_bounded(path, _LARGEST), path), path)
    except MissingFile:
        pass
    _mark(directory)
    write_atomic(path, seal(manifest.to_json()))
    _mark(directory)


def _mark(directory: Folder) -> None:
    """Have readers of the history look at the run again, which is told by a file of its id in `dirty`."""
    make_root(directory.home + "/dirty")
    name = f"{directory.home}/dirty/{directory.run_id}"
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def listing(directory: Folder) -> tuple[Artifact, ...]:
    """The artifacts of a run, in order of paths; what was rejected is in `read_manifest` alone."""
    manifest = read_manifest(directory)
    return tuple(item for item in manifest.files if item.state != "rejected") if manifest else ()


def store_of(directory: Folder) -> FolderStore:
    """The store on this machine."""
    return FolderStore(directory.home + "/artifacts")


def find(directory: Folder, path: str, manifest: Manifest | None = None) -> Artifact:
    """The artifact of a path; `model.pkl` finds `outputs/model.pkl`.

    Raises ArtifactError `artifact.unknown` with the nearest names, or the code why it was not stored.
    """
    manifest = manifest or read_manifest(directory) or Manifest()
    files = manifest.files
    for name in (path, "outputs/" + path):
        for item in files:
            if item.path == name:
                if item.state != "rejected":
                    return item
                raise ArtifactError(
                    f"{path} was not kept: {item.reason}", code=item.code or "artifact.unknown"
                )
    raise unknown(directory, path, [item.path for item in files])


def unknown(directory: Folder, path: str, known: list[str]) -> ArtifactError:
    """The error for a path that is no artifact, with the nearest that are."""
    from difflib import get_close_matches

    near = get_close_matches(path, known[:2000], n=3, cutoff=0.4) or known[:3]
    hint = f"There is {', '.join(near)}." if near else "The run has no artifacts."
    return ArtifactError(f"{directory.run_id} has no artifact {path!r}", hint=hint)
