"""Artifacts out of the store again: verified, into new files, never through a link.

Every supervisor loads this with the package: what only whoever reads needs is imported where it is needed.
"""

from __future__ import annotations

import os

from aml_jupyter.artifacts.manifest import Artifact, find, listing, unknown
from aml_jupyter.artifacts.store import CHUNK, copy_hashed, corrupt
from aml_jupyter.confined import FileThere, Root
from aml_jupyter.confined.names import check_found
from aml_jupyter.errors import ArtifactError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aml_jupyter.artifacts.manifest import Folder
    from aml_jupyter.artifacts.store import ArtifactStore
    from aml_jupyter.artifacts.transfer import Report


def read_blocks(directory: Folder, path: str) -> Iterator[bytes]:
    """The bytes of an artifact of any size, block by block.

    Raises ArtifactError `artifact.unknown`, and behind the last block `store.corrupt` when they are not those
    that were kept.
    """
    import hashlib

    from aml_jupyter.artifacts.remote import opened

    item = find(directory, path)
    hashing = hashlib.sha256()
    with opened(directory, item) as file:
        while block := file.read(CHUNK):
            hashing.update(block)
            yield block
    if hashing.hexdigest() != item.sha256:
        raise corrupt(path, item.sha256, hashing.hexdigest())


def read_artifact(directory: Folder, path: str, limit: int | None = None) -> bytes:
    """The verified bytes of an artifact.

    Raises ArtifactError `artifact.unknown`, `store.corrupt`, `artifact.too_big` beyond `limit` bytes.
    """
    import hashlib

    from aml_jupyter.artifacts.remote import opened

    item = find(directory, path)
    if limit is not None and item.size > limit:
        from shlex import quote

        raise ArtifactError(
            f"{path} has {item.size} bytes; at most {limit} are shown",
            code="artifact.too_big",
            hint=f"aml get {directory.run_id} {quote(path)}",
        )
    with opened(directory, item) as file:
        data = file.read()
    found = hashlib.sha256(data).hexdigest()
    if found != item.sha256:
        raise corrupt(path, item.sha256, found)
    return data


def get(
    directory: Folder,
    path: str = "",
    destination: str = ".",
    *,
    overwrite: bool = False,
    resume: bool = False,
    store: ArtifactStore | None = None,
    report: Report | None = None,
) -> list[str]:
    """Copy an artifact, all below a folder (`outputs/plots`), or with "" all of them; the paths written.

    A file goes to `destination/<its name>`, a folder's content below `destination`. Bytes are verified before
    a name appears; of a large file that was cut off the rest is brought. With `resume` files that are there
    with the very bytes are left alone. Raises ArtifactError `artifact.exists` unless `overwrite`,
    `artifact.unknown`, `store.corrupt`, `store.no_space`.
    """
    from aml_jupyter.artifacts.remote import fetch, opened
    from aml_jupyter.artifacts.saving import bring, is_there, there

    found = chosen(directory, path)
    for item, _ in found:  # all names before the first byte: a manifest may be anybody's
        check_found(item.path)
    with Root.create(os.path.abspath(destination)) as into:
        whole = {name for item, name in found if resume and is_there(into, name, item)}
        if not overwrite:
            for _, name in found:
                if name not in whole and into.exists(name):
                    raise there(into.path, name)
        wanted = [(item, name) for item, name in found if name not in whole]
        if store is None:
            fetch(directory, [item for item, _ in wanted], report=report)
        told = _Told(found, sum(item.size for item, name in found if name in whole), report)
        for item, name in wanted:
            with store.open(item.key) if store else opened(directory, item) as file:
                bring(file, into, name, item, overwrite=overwrite, told=told)
    return [f"{into.path}/{name}" for _, name in found]


class _Told:
    """Tells how far a download is."""

    def __init__(self, found: Sequence[tuple[Artifact, str]], done: int, report: Report | None) -> None:
        self.files, self.bytes = len(found), sum(item.size for item, _ in found)
        self.done, self.report = done, report

    def __call__(self, count: int) -> None:
        self.done += count
        if self.report is not None:
            from aml_jupyter.artifacts.transfer import Progress

            self.report(Progress(files=self.files, bytes=self.bytes, bytes_done=self.done))


def chosen(directory: Folder, path: str) -> list[tuple[Artifact, str]]:
    """What a path means, each with its name below the destination.  Raises ArtifactError."""
    kept = [item for item in listing(directory) if item.state != "rejected"]
    path = path.strip("/")
    for prefix in (path, "outputs/" + path):
        one = [(item, item.path.rpartition("/")[2]) for item in kept if item.path == prefix]
        if one:
            return one
        inside = [
            (item, below(item.path, prefix))
            for item in kept
            if not prefix or item.path.startswith(prefix + "/")
        ]
        if inside:
            return inside
    raise unknown(directory, path or "outputs", [item.path for item in kept])


def below(path: str, prefix: str) -> str:
    """A path relative to a folder above it; a file's own path gives its name."""
    return path.rpartition("/")[2] if path == prefix else path[len(prefix) :].lstrip("/")


def save(
    source: int, into: Root, name: str, *, overwrite: bool, sha256: str | None = None, close: bool = True
) -> str:
    """Copy an open file to a new one below a folder, verified when a hash is given; its absolute path."""

    def fill(destination: int) -> None:
        found = copy_hashed(source, destination, name)
        if sha256 is not None and found.sha256 != sha256:
            raise corrupt(name, sha256, found.sha256)

    try:
        into.publish(name, fill, overwrite=overwrite)
    except FileThere:
        from aml_jupyter.artifacts.saving import there

        raise there(into.path, name) from None
    finally:
        if close:
            os.close(source)
    return f"{into.path}/{name}"
