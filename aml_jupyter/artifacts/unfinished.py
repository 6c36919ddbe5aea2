"""The outputs so far of a run that goes on: read where they are written, whole or not.

Only a run whose working copy is on this computer, or mounted from it, can be looked into.
"""

from __future__ import annotations

import os

from aml_jupyter import plainjson, runs
from aml_jupyter.artifacts.downloads import below, save
from aml_jupyter.artifacts.manifest import Artifact, read_manifest, unknown
from aml_jupyter.artifacts.store import CHUNK
from aml_jupyter.confined import Root, read_bounded
from aml_jupyter.confined.names import check_found
from aml_jupyter.errors import ArtifactError, ConfinedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from aml_jupyter.artifacts.manifest import Folder
    from aml_jupyter.runs import RunDirectory

STATE = "unfinished"
# names that are looked at, bytes of what a run was asked for
LOOKED_AT, LARGEST = 100_000, 16 << 20


def goes_on(directory: RunDirectory) -> bool:
    """Whether a run has not ended, so that its outputs are where it writes them."""
    return not runs.read_record(directory).ended and read_manifest(directory) is None


def so_far(directory: Folder) -> list[Artifact]:
    """The regular files in `outputs/` now, each with state `unfinished` and no hash.

    Raises ArtifactError `outputs.elsewhere` where they are written in a container or on another machine.
    """
    _require_here(directory)
    try:
        with Root(directory.path) as run, run.folder("work") as work:
            return [
                Artifact(path=entry.path, size=entry.size, state=STATE)
                for entry in work.walk("outputs", budget_files=LOOKED_AT)
                if entry.kind == "file" and not entry.error
            ]
    except ConfinedError as error:
        if error.code in ("path.missing", "path.not_folder", "path.link"):  # it has not begun
            return []
        raise


def _require_here(directory: Folder) -> None:
    try:
        asked = plainjson.loads(read_bounded(directory.path + "/job/request.json", LARGEST))
        kind, target = asked["kind"], asked.get("target") or {}
    except (ConfinedError, ValueError, KeyError, TypeError, AttributeError):
        return  # whatever is here is shown
    if kind == "local" or (kind == "docker" and target.get("shared_volumes")):
        return
    where = f"on {target.get('address')}" if kind == "remotedocker" else "in its container"
    raise ArtifactError(
        f"{directory.run_id} goes on {where}: its outputs are brought when it has ended",
        code="outputs.elsewhere",
        hint=f"aml wait {directory.run_id}; its log is there already: aml logs {directory.run_id} -f",
    )


def find(directory: Folder, path: str) -> list[tuple[Artifact, str]]:
    """What a path means among the outputs so far, each with its name below a destination."""
    files = so_far(directory)
    path = path.strip("/")
    for prefix in (path, "outputs/" + path):
        found = [
            (one, below(one.path, prefix))
            for one in files
            if not prefix or one.path == prefix or one.path.startswith(prefix + "/")
        ]
        if found:
            return found
    raise unknown(directory, path or "outputs", [one.path for one in files])


def blocks(directory: Folder, path: str) -> Iterator[bytes]:
    """The bytes that a file has now; what is added meanwhile is not waited for."""
    found = find(directory, path)
    if len(found) != 1:
        raise unknown(directory, path, [item.path for item, _ in found])
    fd = _open(directory, found[0][0].path)
    with os.fdopen(fd, "rb") as file:
        left = os.fstat(fd).st_size
        while left > 0 and (block := file.read(min(CHUNK, left))):
            left -= len(block)
            yield block


def read(directory: Folder, path: str, limit: int) -> bytes:
    """All bytes that a file has now.  Raises ArtifactError `artifact.too_big` beyond `limit`."""
    found = b""
    for block in blocks(directory, path):
        found += block
        if len(found) > limit:
            raise ArtifactError(f"{path} has more than {limit} bytes", code="artifact.too_big")
    return found


def get(directory: Folder, path: str, destination: str, *, overwrite: bool = False) -> list[str]:
    """Copy outputs as they are now into a folder; the paths written.  Raises ArtifactError."""
    found = find(directory, path)
    for item, _ in found:
        check_found(item.path)
    with Root.create(os.path.abspath(destination)) as into:
        return [save(_open(directory, item.path), into, name, overwrite=overwrite) for item, name in found]


def _open(directory: Folder, path: str) -> int:
    try:
        with Root(directory.path) as run, run.folder("work") as work:
            return work.open_file(path)
    except ConfinedError as error:
        raise ArtifactError(
            f"{path} of {directory.run_id} is not there any more: {error.message}",
            hint="The run removed it, or it has just ended: ask again.",
        ) from error
