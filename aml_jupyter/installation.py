"""The runtime as it is installed, kept once for each version so that a run ends with what it began with."""

from __future__ import annotations

import errno
import os
import sys

from aml_jupyter.errors import HistoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# what exFAT, FAT and some network file systems say
_NO_LINKS = (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)
SOURCE = os.path.dirname(os.path.abspath(__file__)) + "/runtime"


def place(home: str, job: str) -> None:
    """Give a job its runtime: a link to a copy that never changes, made by the first run that needs it."""
    version = _version()
    kept = f"{home}/runtimes/{version}"
    if not os.path.isdir(kept):
        _keep(kept)
    try:
        # relative: AML_HOME may be moved as a whole
        os.symlink(os.path.relpath(kept, job), job + "/runtime")
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise HistoryError(
            f"{home} is on a file system without links, on which runs cannot be kept",
            code="history.unsafe_filesystem",
            hint="Set AML_HOME to a folder of a file system of this machine; the project may stay there.",
        ) from error


def _version() -> str:
    """Names, sizes and times of the installed files, and the interpreter whose byte code is beside them."""
    import binascii

    told = [f"{path}:{found.st_size}:{found.st_mtime_ns}" for path, found in _files(SOURCE, "")]
    sums = [binascii.crc32("\n".join(sorted(told)[i::2]).encode()) for i in (0, 1)]
    return f"{sys.implementation.cache_tag}-{sums[0]:08x}{sums[1]:08x}"


def _files(folder: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == "__pycache__":
                continue
            if entry.is_dir():
                yield from _files(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry.stat()


def _sync(folder: str) -> None:
    """Bring a tree to the disk, the caller's alone: it will be used by every run, also after a power cut."""
    for path, folders, names in os.walk(folder, topdown=False):
        for name in [*names, *folders, ""]:
            fd = os.open(os.path.join(path, name), os.O_RDONLY)
            os.fchmod(fd, 0o600 if name in names else 0o700)
            os.fsync(fd)
            os.close(fd)


def _keep(kept: str) -> None:
    """Copy the installed files with byte code, whole or not at all."""
    import compileall
    import shutil

    os.makedirs(os.path.dirname(kept), 0o700, exist_ok=True)
    partial = f"{kept}.{os.getpid()}.partial"
    shutil.copytree(SOURCE, partial, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(partial, quiet=2, stripdir=partial, force=True)
    _sync(partial)
    try:
        os.rename(partial, kept)
    except OSError:
        if not os.path.isdir(kept):
            raise
        # another run was first, with the same content
        shutil.rmtree(partial)
