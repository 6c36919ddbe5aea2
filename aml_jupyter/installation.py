"""The runtime as it is installed, kept once for each version so that a run ends with what it began with."""

from __future__ import annotations

import errno
import os
import sys

from aml_jupyter.confined import MissingFile, Root, make_root, read_bounded, write_atomic
from aml_jupyter.errors import AmlError, HistoryError
from aml_jupyter.job import FORMAT
from aml_jupyter.locks import wait_lock
from aml_jupyter.sealed import seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# what exFAT, FAT and some network file systems say
_NO_LINKS = (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)
SOURCE = os.path.dirname(os.path.abspath(__file__)) + "/runtime"


# in a kept copy: size, time and CRC-32 of its files by path
FILES = "files.json"
PARTIAL = ".partial"
_LARGEST = 1 << 20


def place(home: str, job: str) -> None:
    """Give a job its runtime: a link to a copy that never changes, made by the first run that needs it."""
    folder = home + "/runtimes"
    make_root(folder)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # shared with other submits; who removes old copies waits until the link is there
        wait_lock(lock, folder, shared=True)
        _link(_whole(f"{folder}/{_version()}"), job, home)
    finally:
        os.close(lock)


def _whole(first: str) -> str:
    """A copy with all its files, young from now on; one that is not whole stays for the runs that use it."""
    kept, number = first, 1
    while os.path.lexists(kept):
        if _looks_whole(kept):
            os.utime(kept)
            return kept
        number += 1
        kept = f"{first}-{number}"
    _keep(kept)
    return kept


def _looks_whole(kept: str) -> bool:
    """Whether every file is there with its size and time, which is all that a submit has time for."""
    try:
        for path, (size, moment, _) in _listed(kept).items():
            found = os.stat(f"{kept}/{path}")
            if (found.st_size, found.st_mtime_ns) != (size, moment):
                return False
    except (OSError, AmlError):  # gone, damaged, or of a version that kept no list
        return False
    return True


def _listed(kept: str) -> dict[str, Any]:
    """Size, time and CRC-32 of the files of a copy.  Raises ConfinedError, HistoryError `record.corrupt`."""
    path = f"{kept}/{FILES}"
    found = unseal(read_bounded(path, _LARGEST), path).get("files")
    return found if isinstance(found, dict) else {}


def check(home: str) -> Iterator[tuple[str, str]]:
    """The kept copies that are not as they were kept: the path of each, and what is wrong with it."""
    folder = home + "/runtimes"
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    for name in names:
        if name.endswith(PARTIAL):  # being made, or left to gc
            continue
        try:
            changed = list(_changed(f"{folder}/{name}"))
        except AmlError as error:
            if isinstance(error, MissingFile) and not os.path.lexists(f"{folder}/{name}"):
                continue  # removed meanwhile
            yield f"{folder}/{name}", error.message
            continue
        if changed:
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            yield f"{folder}/{name}", f"missing or changed: {', '.join(changed[:5])}{more}"


def _changed(kept: str) -> Iterator[str]:
    import binascii

    with Root(kept) as root:
        for path, (size, _, crc) in _listed(kept).items():
            try:
                data = root.read_bytes(path, _LARGEST)
            except AmlError:  # gone, unreadable, or no file any more
                yield path
                continue
            if (len(data), binascii.crc32(data)) != (size, crc):
                yield path


def _link(kept: str, job: str, home: str) -> None:
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
    """Copy the installed files with byte code and a list of both, whole or not at all."""
    import compileall
    import shutil
    from py_compile import PycInvalidationMode

    # not by the process id, which two containers with one home may share
    partial = f"{kept}.{os.urandom(8).hex()}{PARTIAL}"
    try:
        shutil.copytree(SOURCE, partial, ignore=shutil.ignore_patterns("__pycache__"))
        # the copy never changes, so nobody needs to compare its byte code with it, or to write it anew
        unchecked = PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(partial, quiet=2, stripdir=partial, force=True, invalidation_mode=unchecked)
        write_atomic(f"{partial}/{FILES}", seal({"format": FORMAT, "files": _list(partial)}))
        _sync(partial)
        os.rename(partial, kept)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        # else another run was first, with the same content
        if not os.path.isdir(kept):
            raise


def _list(folder: str) -> dict[str, tuple[int, int, int]]:
    import binascii

    found = {}
    for path, names, files in os.walk(folder):
        names.sort()
        for name in files:
            where = os.path.join(path, name)
            with open(where, "rb") as file:
                crc = binascii.crc32(file.read())
            about = os.stat(where)
            found[os.path.relpath(where, folder)] = (about.st_size, about.st_mtime_ns, crc)
    return found
