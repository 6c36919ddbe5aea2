"""The working copy into a container before it starts and out of it after its end, as uncompressed tar.

The archive that comes back is the work of whatever ran in the container: it is walked member by member, and
only folders, regular files and links, which nobody follows, come out of it.
"""

from __future__ import annotations

import io
import os
import tarfile
from contextlib import contextmanager

from aml_jupyter import inputs
from aml_jupyter.confined import Root, remove_tree
from aml_jupyter.demands import WORK_IN_CONTAINER
from aml_jupyter.errors import AmlError, ArtifactError, ConfinedError
from aml_jupyter.executors.docker import packing
from aml_jupyter.snapshot import Store
from aml_jupyter.snapshot.restoring import Source
from aml_jupyter.working_copy import script_missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import IO

    from aml_jupyter.executors.docker.engine import Engine
    from aml_jupyter.job import Job
    from aml_jupyter.snapshot.manifest import Entry

TOP = WORK_IN_CONTAINER.lstrip("/")
MOST_MEMBERS = 1_000_000
# bytes of the disk that a working copy from a container leaves free
RESERVE = 256 << 20
BLOCK = 1 << 20
# bytes of names and attributes of one member
LARGEST_HEADER = 1 << 20
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def copy_in(engine: Engine, container: str, job: Job, *, user: str) -> None:
    """Put the snapshot of a job into a container that has not started, as files of `user` (`uid:gid`)."""
    store = Store(job.snapshots)
    entries = store.manifest(job.snapshot_id)
    if not job.cell and not any(entry.path == job.command[1] for entry in entries):
        raise script_missing(job)
    given = packed_inputs(job, {entry.path for entry in entries}, user)
    engine.put_archive(container, "/", packing.archive(packed(store, entries, user), given))


def packed(store: Store, entries: Iterable[Entry], user: str) -> Iterator[bytes]:
    """A working copy as members of an uncompressed tar."""
    packer = packing.Packer(user)
    yield from packer.folder(TOP)
    yield from packer.folder(f"{TOP}/outputs")
    with Source(store.objects()) as source:
        for entry in entries:
            path = f"{TOP}/{entry.path}"
            if entry.kind == "dir":
                yield from packer.folder(path, entry.mode)
            elif entry.kind == "link":
                yield from packer.link(path, entry.target)
            else:
                yield from packer.data(path, source.read(bytes.fromhex(entry.sha256)), entry.mode)


def packed_inputs(job: Job, there: set[str], user: str) -> Iterator[bytes]:
    """The files of earlier runs that a job is given, as members of the same archive."""
    packer = packing.Packer(user)
    for folder in inputs.folders(job):
        if folder not in there:
            yield from packer.folder(f"{TOP}/{folder}")
    for one in job.inputs:
        size = int(one["size"])
        yield from packer.blocks(f"{TOP}/{one['path']}", inputs.blocks(job, one), size, inputs.MODE)


def copy_out(engine: Engine, container: str, into: str) -> None:
    """Bring the working copy out of a container that has ended, whole or not at all.

    Raises ArtifactError for an archive that no budget holds, TargetUnavailable.
    """
    if os.path.isdir(into):  # brought by a supervisor that was killed afterwards
        return
    partial = into + ".partial"
    if os.path.lexists(partial):
        remove_tree(partial)
    try:
        os.makedirs(partial + "/outputs", mode=0o700)
        # no slash at the end: a link in its place is brought as a link, and nothing behind it
        with engine.get_archive(container, WORK_IN_CONTAINER) as blocks:
            unpack(blocks, partial)
        os.rename(partial, into)
    except BaseException:
        remove_tree(partial)
        raise


class _Member(tarfile.TarInfo):
    """A member whose headers have a limit: tarfile takes each whole into memory, whatever size it claims."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


class _Stream(io.RawIOBase):
    """Blocks as a file that can only be read forward."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.blocks = blocks
        self.rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, wanted = [], size if size >= 0 else 1 << 62
        while wanted > 0:
            if not self.rest:
                self.rest = next(self.blocks, b"")
                if not self.rest:
                    break
            parts.append(self.rest[:wanted])
            wanted -= len(parts[-1])
            self.rest = self.rest[len(parts[-1]) :]
        return b"".join(parts)


def unpack(
    blocks: Iterator[bytes],
    into: str,
    *,
    replace: bool = False,
    placed: Callable[[str, Mapping[str, str]], None] = lambda _path, _headers: None,
) -> None:
    """Write the members of an archive below a folder; what may not be written is left out.

    Members are files, folders, links (kept as links, never followed) and hard links (copied); the name of
    each lies below `/azureml-run`; with `replace` a member takes the place of what is there.  `placed` is
    called with the path and the headers of each when it is there.
    Raises ArtifactError `artifact.too_big`, `artifact.invalid`.
    """
    with opened(blocks) as archive, Root(into) as root:
        for member in members(archive):
            path = _place(archive, member, root, replace=replace)
            if path:
                placed(path, member.pax_headers)


@contextmanager
def opened(blocks: Iterator[bytes]) -> Iterator[tarfile.TarFile]:
    """Blocks as an archive to be read forward.  Raises ArtifactError `artifact.invalid` for one not whole."""
    try:
        with tarfile.open(fileobj=_Stream(blocks), mode="r|", tarinfo=_Member) as archive:
            yield archive
    except (tarfile.TarError, EOFError) as error:
        raise ArtifactError(
            f"what the engine sent of the container's files is not whole: {error}", code="artifact.invalid"
        ) from error


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an archive, one after another.  Raises ArtifactError `artifact.too_big`."""
    for number, member in enumerate(archive):
        if number >= MOST_MEMBERS:
            raise ArtifactError(
                f"the working copy in the container holds more than {MOST_MEMBERS} files",
                code="artifact.too_big",
                hint="Write many small results into one archive.",
            )
        yield member


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Root, *, replace: bool) -> str:
    """The path below the folder where a member was put; empty when it was left out."""
    head, _, path = member.name.partition("/")
    if head != TOP or not path:
        return ""
    try:
        if replace and not member.isdir():
            root.remove_tree(path)
        if member.isdir():
            root.make_dirs(path, 0o700)
        elif member.isreg():
            source = archive.extractfile(member)
            assert source is not None
            _write(source, member.size, root, path, member.mode)
        elif member.islnk():
            _copy(root, member.linkname.removeprefix(TOP + "/"), path, member.mode)
        elif member.issym():
            _link(root, member.linkname, path)
        else:  # a device or FIFO: a FIFO in its place is told of like those that a mounted copy has
            _special(root, path)
    except ConfinedError:  # a name or place that no honest archive has; the rest is worth having
        return ""
    return path


def _write(source: IO[bytes], size: int, root: Root, path: str, mode: int) -> None:
    free = os.fstatvfs(root.fd)
    if size > free.f_bavail * free.f_frsize - RESERVE:
        raise ArtifactError(
            f"{path} of the container has {size} bytes, more than this disk has free",
            code="artifact.too_big",
            hint="Free space and run again; the container is kept until the run's ending is written.",
        )
    fd = root.create_file(path, mode & 0o777 | 0o600, exclusive=False)
    try:
        while block := source.read(BLOCK):
            while block:
                block = block[os.write(fd, block) :]
    finally:
        os.close(fd)


def _copy(root: Root, source: str, path: str, mode: int) -> None:
    fd = root.open_file(source)
    with os.fdopen(fd, "rb") as file:
        _write(file, os.fstat(fd).st_size, root, path, mode)


def _special(root: Root, path: str) -> None:
    folder, _, name = path.rpartition("/")
    if folder:
        root.make_dirs(folder, 0o700)
    with root.folder(folder) as below:
        root.remove_tree(path)
        os.mkfifo(name, 0o600, dir_fd=below.fd)


def _link(root: Root, target: str, path: str) -> None:
    folder, _, name = path.rpartition("/")
    if folder:
        root.make_dirs(folder, 0o700)
    with root.folder(folder) as below:
        root.remove_tree(path)
        try:
            os.symlink(target, name, dir_fd=below.fd)
        except (OSError, ValueError) as error:
            raise AmlError(f"{path}: {error}", code="artifact.invalid") from error
