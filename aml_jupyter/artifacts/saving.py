"""A kept file into a folder of a person: verified before it has its name, gone on with where it was cut off.

Of a large file the beginning that has come stays beside its place, under a name made of its hash, when the
person or the machine ends the download; whoever asks again goes on from there.  What no room or no faith is
left for is removed.
"""

from __future__ import annotations

import fcntl
import os

from aml_jupyter.artifacts.store import CHUNK, corrupt, hash_beginning
from aml_jupyter.confined import FileFault, FileThere, Root, shown
from aml_jupyter.errors import ArtifactError, ConfinedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from aml_jupyter.artifacts.manifest import Artifact

    Told = Callable[[int], object]

# what is smaller comes again as fast as its beginning would be checked
RESUMED = 8 << 20


def partial_name(name: str, sha256: str) -> str:
    """Where the beginning of a file lies until it is whole: beside its place."""
    folder, slash, _ = name.rpartition("/")
    return f"{folder}{slash}.aml-{sha256[:16]}.part"


def bring(source: BinaryIO, into: Root, name: str, item: Artifact, *, overwrite: bool, told: Told) -> None:
    """Copy an artifact that is open to a new file below a folder; `told` hears of every block.

    Raises ArtifactError `artifact.exists` unless `overwrite`, `store.corrupt`, `store.no_space`.
    """
    try:
        if item.size < RESUMED or not _bring_on(source, into, name, item, overwrite=overwrite, told=told):
            source.seek(0)
            into.publish(name, _Filling(source, name, item, told), overwrite=overwrite)
    except FileThere:
        raise there(into.path, name) from None
    except OSError as error:
        fault = FileFault.of(error, name)
        if fault.code != "store.no_space":
            raise fault from error
        raise ArtifactError(fault.message, code=fault.code, hint=fault.hint) from error


def there(folder: str, name: str) -> ArtifactError:
    """The error for a name that is taken."""
    return ArtifactError(
        f"{shown(name)} is already in {folder}",
        code="artifact.exists",
        hint="Name another folder, or add --overwrite; --resume leaves what has come whole.",
    )


class _Filling:
    """Writes a file from its beginning, hashing on the way."""

    def __init__(self, source: BinaryIO, name: str, item: Artifact, told: Told) -> None:
        self.source, self.name, self.item, self.told = source, name, item, told

    def __call__(self, destination: int) -> None:
        import hashlib

        _copy(self.source, destination, hashlib.sha256(), self.name, self.item, self.told)


def _copy(source: BinaryIO, destination: int, hashing: object, name: str, item: Artifact, told: Told) -> None:
    while block := source.read(CHUNK):
        hashing.update(block)  # type: ignore[attr-defined]  # hashlib names no type for it
        view = memoryview(block)
        while view:
            view = view[os.write(destination, view) :]
        told(len(block))
    found = hashing.hexdigest()  # type: ignore[attr-defined]
    if found != item.sha256:
        raise corrupt(name, item.sha256, found)


def _bring_on(
    source: BinaryIO, into: Root, name: str, item: Artifact, *, overwrite: bool, told: Told
) -> bool:
    """Go on with the beginning that is there, or begin one; False where another process is doing so."""
    partial = partial_name(name, item.sha256)
    fd = into.open_partial(partial)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            _complete(source, fd, name, item, told)
            os.fsync(fd)
            into.settle(partial, name, overwrite=overwrite)
        # of what a person or the machine ends the beginning stays; of nothing else
        except (OSError, ArtifactError):
            into.remove_tree(partial)
            raise
    finally:
        os.close(fd)
    return True


def _complete(source: BinaryIO, fd: int, name: str, item: Artifact, told: Told) -> None:
    """Write what is missing; a beginning that does not lead to the hash is written anew."""
    import hashlib

    hashing, position = hash_beginning(fd, min(os.fstat(fd).st_size, item.size))
    os.ftruncate(fd, position)
    os.lseek(fd, position, os.SEEK_SET)
    source.seek(position)
    told(position)
    try:
        _copy(source, fd, hashing, name, item, told)
    except ArtifactError:
        if not position:
            raise
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        source.seek(0)
        told(-item.size)
        _copy(source, fd, hashlib.sha256(), name, item, told)


def is_there(into: Root, name: str, item: Artifact) -> bool:
    """Whether a folder has a file with the very bytes of an artifact."""
    import hashlib

    try:
        if into.lstat(name).st_size != item.size:
            return False
        with os.fdopen(into.open_file(name), "rb") as file:
            hashing = hashlib.sha256()
            while block := file.read(CHUNK):
                hashing.update(block)
    except ConfinedError:  # none, a link, a folder
        return False
    return hashing.hexdigest() == item.sha256
