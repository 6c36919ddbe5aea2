"""The outputs so far of a run that goes on: read where they are written, whole or not.

On this computer they are looked at in place; out of a container that mounts nothing, and from another
machine, they are brought by the executor.
"""

from __future__ import annotations

import os

from aml_jupyter import plainjson, runs
from aml_jupyter.artifacts.downloads import below
from aml_jupyter.artifacts.manifest import Artifact, read_manifest, unknown
from aml_jupyter.artifacts.saving import there
from aml_jupyter.artifacts.store import CHUNK
from aml_jupyter.confined import FileThere, Root, read_bounded
from aml_jupyter.confined.names import check_found
from aml_jupyter.errors import ArtifactError, ConfinedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from aml_jupyter.executors import Take
    from aml_jupyter.job import Handle
    from aml_jupyter.runs import RunDirectory

STATE = "unfinished"
TOP = "outputs"
# files that are listed, bytes of what finds a job
LOOKED_AT, LARGEST = 100_000, 16 << 20
# how it is told that there is no regular file, or no folder, of a name
ABSENT = ("path.missing", "path.not_folder", "path.not_regular", "path.link")
# bytes of this disk that what is brought leaves free
RESERVE = 64 << 20


def goes_on(directory: RunDirectory) -> bool:
    """Whether a run has not ended, so that its outputs are where it writes them."""
    return not runs.read_record(directory).ended and read_manifest(directory) is None


def so_far(directory: RunDirectory) -> list[Artifact]:
    """The regular files in `outputs/` now, in order of paths, each with state `unfinished` and no hash.

    Raises, where they are written elsewhere, TargetUnavailable and ArtifactError `outputs.changed`.
    """
    found: list[Artifact] = []

    def take(path: str, size: int, _data: Iterator[bytes]) -> None:
        if len(found) >= LOOKED_AT:
            raise ArtifactError(
                f"{directory.run_id} has more than {LOOKED_AT} outputs so far", code="artifact.too_many"
            )
        found.append(Artifact(path=path, size=size, state=STATE))

    _take(directory, TOP, take, content=False)
    return sorted(found, key=lambda one: one.path)


def blocks(directory: RunDirectory, path: str, limit: int | None = None) -> Iterator[bytes]:
    """The bytes that a file has now; what is added meanwhile is not waited for.

    Raises ArtifactError `artifact.unknown`, `outputs.changed`, `artifact.too_big` beyond `limit` bytes.
    """
    found = _opened(directory, path) if _elsewhere(directory) is None else _aside(directory, path, limit)
    with found as file:
        _check_limit(path, os.fstat(file.fileno()).st_size, limit)
        yield from _up_to_now(file)


def read(directory: RunDirectory, path: str, limit: int) -> bytes:
    """All bytes that a file has now.  Raises ArtifactError `artifact.too_big` beyond `limit`."""
    return b"".join(blocks(directory, path, limit))


def get(directory: RunDirectory, path: str, destination: str, *, overwrite: bool = False) -> list[str]:
    """Copy outputs as they are now into a folder; the paths written.  Raises ArtifactError."""
    destination = os.path.abspath(destination)
    written: list[str] = []

    def take(name: str, size: int, data: Iterator[bytes]) -> None:
        with Root.create(destination) as into:
            _save(into, name, size, data, overwrite=overwrite)
            written.append(f"{into.path}/{name}")

    for prefix in _prefixes(path):
        _take(directory, prefix or TOP, _named(take, prefix), content=True)
        if written:
            return written
    raise _unknown(directory, path)


def _named(take: Take, prefix: str) -> Take:
    """The same with the names that files have below a destination."""
    return lambda path, size, data: take(below(path, prefix), size, data)


def _prefixes(path: str) -> list[str]:
    """What a path may mean: `model.pkl` also finds `outputs/model.pkl`; empty for all of them."""
    path = path.strip("/")
    return [
        one for one in ((path, f"{TOP}/{path}") if path else ("",)) if one in ("", TOP) or _is_inside(one)
    ]


def _is_inside(path: str) -> bool:
    try:
        check_found(path)
    except ConfinedError:  # no file has such a name
        return False
    return path.startswith(TOP + "/")


def _unknown(directory: RunDirectory, path: str) -> ArtifactError:
    return unknown(directory, path.strip("/") or TOP, [one.path for one in so_far(directory)])


def _elsewhere(directory: RunDirectory) -> Handle | None:
    """What finds a job whose files are not on this computer; None where they are, or nothing has begun."""
    if os.path.isdir(directory.work):
        return None
    try:
        handle = plainjson.loads(read_bounded(directory.handle_json, LARGEST))
    except (ConfinedError, ValueError, RecursionError):
        return None
    return handle if isinstance(handle, dict) and "kind" in handle else None


def _take(directory: RunDirectory, path: str, take: Take, *, content: bool) -> None:
    """Call `take` for each regular file at or below a path now; what it raises ends it."""
    handle = _elsewhere(directory)
    if handle is None:
        _take_here(directory, path, take)
        return
    from aml_jupyter.executors import executor_for

    try:
        executor_for(handle["kind"]).outputs(handle, path, take, content=content)
    except ArtifactError as error:
        if error.code != "artifact.invalid":
            raise
        raise ArtifactError(
            f"the outputs of {directory.run_id} were not to be had whole: {error.message}",
            code="outputs.changed",
            hint="The run changed them at this moment, or it has just ended: ask again.",
        ) from error


def _take_here(directory: RunDirectory, path: str, take: Take) -> None:
    for found, size in _here(directory):
        if f"{found}/".startswith(path + "/"):
            take(found, size, _data(directory, found))


def _here(directory: RunDirectory) -> list[tuple[str, int]]:
    try:
        with Root(directory.path) as run, run.folder("work") as work:
            return [
                (entry.path, entry.size)
                for entry in work.walk(TOP, budget_files=LOOKED_AT)
                if entry.kind == "file" and not entry.error
            ]
    except ConfinedError as error:
        if error.code in ABSENT:  # it has not begun
            return []
        raise


def _data(directory: RunDirectory, path: str) -> Iterator[bytes]:
    try:
        with Root(directory.path) as run, run.folder("work") as work:
            fd = work.open_file(path)
    except ConfinedError as error:
        raise ArtifactError(
            f"{path} of {directory.run_id} is not there any more: {error.message}",
            code="outputs.changed",
            hint="The run removed it, or it has just ended: ask again.",
        ) from error
    with os.fdopen(fd, "rb") as file:
        yield from _up_to_now(file)


def _up_to_now(file: IO[bytes]) -> Iterator[bytes]:
    left = os.fstat(file.fileno()).st_size
    while left > 0 and (block := file.read(min(CHUNK, left))):
        left -= len(block)
        yield block


def _opened(directory: RunDirectory, path: str) -> IO[bytes]:
    """A file of this computer, open."""
    for prefix in _prefixes(path):
        try:
            with Root(directory.path) as run, run.folder("work") as work:
                return os.fdopen(work.open_file(prefix), "rb")
        except ConfinedError as error:
            if error.code not in ABSENT:
                raise
    raise _unknown(directory, path)


def _aside(directory: RunDirectory, path: str, limit: int | None) -> IO[bytes]:
    """A file that is written elsewhere, brought into one without a name.

    Who reads slowly would keep the engine or the line from what else is to be done with that run.
    """
    import tempfile

    file = tempfile.TemporaryFile(dir=directory.path)
    try:
        for prefix in _prefixes(path):
            if _bring(directory, prefix, file, limit):
                file.seek(0)
                return file
        raise _unknown(directory, path)
    except BaseException:
        file.close()
        raise


def _bring(directory: RunDirectory, path: str, file: IO[bytes], limit: int | None) -> bool:
    """Whether there is a file of that path now, whose bytes were written to another one."""
    met: list[str] = []

    def take(found: str, size: int, data: Iterator[bytes]) -> None:
        if found == path:
            _check_limit(path, size, limit)
            _check_room(file.fileno(), size, path)
            met.append(found)
            file.writelines(data)

    _take(directory, path, take, content=True)
    return bool(met)


def _save(into: Root, name: str, size: int, data: Iterator[bytes], *, overwrite: bool) -> None:
    check_found(name)
    if not overwrite and into.exists(name):  # before bytes come that nobody is to have
        raise there(into.path, name)
    _check_room(into.fd, size, name)

    def fill(destination: int) -> None:
        with os.fdopen(destination, "wb", closefd=False) as file:
            file.writelines(data)

    try:
        into.publish(name, fill, overwrite=overwrite)
    except FileThere:
        raise there(into.path, name) from None


def _check_room(fd: int, size: int, path: str) -> None:
    about = os.fstatvfs(fd)
    if size > about.f_bavail * about.f_frsize - RESERVE:
        raise ArtifactError(f"{path} has {size} bytes, more than this disk has free", code="store.no_space")


def _check_limit(path: str, size: int, limit: int | None) -> None:
    if limit is not None and size > limit:
        raise ArtifactError(f"{path} has more than {limit} bytes", code="artifact.too_big")
