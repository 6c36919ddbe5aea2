"""Opening, copying and replacing single files: never a FIFO or device, never through a link, never half."""

from __future__ import annotations

import errno
import os
import stat
import sys

from aml_jupyter.confined.names import FileFault, shown
from aml_jupyter.errors import ConfinedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NOCTTY
# O_PATH also passes through folders that may be searched but not listed; macOS has no such flag
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", 0)
_CHUNK = 1 << 20
_FICLONE = 0x40049409

# pairs of devices between which one of the fast ways of copying was refused
_refused: dict[tuple[str, int, int], bool] = {}


def open_folder(name: str, dir_fd: int, *, readable: bool = True) -> int:
    """A descriptor of the folder `name` in `dir_fd`, never through a link; OSError.

    Without `readable` it serves only to go on from there.
    """
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK if readable else _FOLDER
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except NotADirectoryError:
        if _is_link(name, dir_fd):  # Linux answers ENOTDIR for a link, macOS ELOOP
            raise OSError(errno.ELOOP, "is a symbolic link", name) from None
        raise


def _is_link(name: str, dir_fd: int) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(name, dir_fd=dir_fd).st_mode)
    except OSError:  # gone meanwhile: the first error tells enough
        return False


def open_regular(name: str, dir_fd: int | None = None, *, follow: bool = False) -> tuple[int, os.stat_result]:
    """A read descriptor and its fstat of a regular file `name` (one component of `dir_fd`).

    The kind is looked at before the opening, because opening a FIFO wakes its writer, and again after it,
    because the name may mean something else by then. Raises OSError, ConfinedError `path.link`,
    `path.not_regular`.
    """
    _require_regular(os.stat(name, dir_fd=dir_fd, follow_symlinks=follow), name)
    fd = os.open(name, _READ if follow else _READ | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        found = os.fstat(fd)
        _require_regular(found, name)
    except BaseException:
        os.close(fd)
        raise
    return fd, found


def _require_regular(found: os.stat_result, name: str) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "is a symbolic link", name)
    what = "a folder" if stat.S_ISDIR(found.st_mode) else "a FIFO, socket or device"
    raise ConfinedError(f"{shown(name)} is {what}, not a regular file", code="path.not_regular")


def read_all(fd: int, limit: int | None, path: str, size: int) -> bytes:
    """All bytes from the position of `fd` on; more than `limit` raise ConfinedError `file.too_big`."""
    if limit is not None and size > limit:
        raise _too_big(path, size, limit)
    most = sys.maxsize if limit is None else limit + 1
    chunks: list[bytes] = []
    total = 0
    while total < most:
        chunk = os.read(fd, min(most - total, max(_CHUNK, size + 1)))
        if not chunk:
            break
        chunks.append(chunk)
        total += len(chunk)
    if limit is not None and total > limit:
        raise _too_big(path, total, limit)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_big(path: str, size: int, limit: int) -> ConfinedError:
    return ConfinedError(
        f"{shown(path)} has {size} bytes or more; at most {limit} are read", code="file.too_big"
    )


def read_bounded(path: str, limit: int) -> bytes:
    """The bytes of a regular file named by an absolute path; a link to a regular file is followed.

    Raises MissingFile and other FileFault, ConfinedError `path.not_regular`, `file.too_big`; never blocks.
    """
    try:
        fd, found = open_regular(path, follow=True)
        try:
            return read_all(fd, limit, path, found.st_size)
        finally:
            os.close(fd)
    except OSError as error:
        raise FileFault.of(error, path) from error


def write_all(fd: int, data: bytes) -> None:
    """Write every byte; a short write goes on where it stopped."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync(fd: int) -> None:
    """Bring a file or folder to the disk; some file systems cannot for folders, and say so by EINVAL."""
    try:
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync alone leaves the bytes in the drive's memory there
        else:
            os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def new_file(name: str, dir_fd: int, mode: int) -> int:
    """A write descriptor of a file that was not there, with exactly `mode` whatever the umask."""
    fd = os.open(name, _NEW, mode & 0o700, dir_fd=dir_fd)
    try:
        os.fchmod(fd, mode)
    except BaseException:
        os.close(fd)
        os.unlink(name, dir_fd=dir_fd)
        raise
    return fd


def new_folder(name: str, dir_fd: int, mode: int) -> None:
    """A folder that was not there, with exactly `mode` whatever the umask; OSError."""
    os.mkdir(name, 0o700, dir_fd=dir_fd)
    try:
        fd = open_folder(name, dir_fd)
    except PermissionError:  # a umask that takes the owner's own rights
        set_folder_mode(name, dir_fd, mode)
        return
    try:
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def set_folder_mode(name: str, dir_fd: int, mode: int) -> None:
    """Change the mode of a folder that may not be opened for reading, never through a link; OSError."""
    fd = open_folder(name, dir_fd, readable=False)
    try:
        if sys.platform == "linux":
            os.chmod(f"/proc/self/fd/{fd}", mode)
        else:
            os.chmod(name, mode, dir_fd=dir_fd, follow_symlinks=False)
    finally:
        os.close(fd)


def temporary_name() -> str:
    """A name no one else uses; files of this form are leftovers when nobody writes."""
    return f".aml-{os.urandom(8).hex()}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a name is one that `temporary_name` gives, and nobody's own that only looks like it."""
    middle = name[len(".aml-") : -len(".tmp")]
    return (
        len(name) == len(".aml-.tmp") + 16
        and name == f".aml-{middle}.tmp"
        and not middle.strip("0123456789abcdef")
    )


def replace(
    name: str,
    dir_fd: int,
    write: Callable[[int], object],
    *,
    mode: int,
    durable: bool,
    overwrite: bool = True,
) -> None:
    """Write a new file and put it in the place of `name` in one step; a failure leaves the old one whole."""
    temporary = temporary_name()
    fd = new_file(temporary, dir_fd, mode)
    try:
        try:
            write(fd)
            if durable:
                sync(fd)
        finally:
            os.close(fd)
        if overwrite:
            os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        else:
            _put_beside(temporary, name, dir_fd)
    except BaseException:
        _discard(temporary, dir_fd)
        raise
    if durable:
        sync(dir_fd)


def _put_beside(temporary: str, name: str, dir_fd: int) -> None:
    """Give the new file its name unless the name is taken: a second name, then the first one goes."""
    try:
        os.link(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without hard links: look, then rename
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if exists_at(name, dir_fd):
            raise FileExistsError(errno.EEXIST, "exists", name) from None
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    else:
        os.unlink(temporary, dir_fd=dir_fd)


def exists_at(name: str, dir_fd: int) -> bool:
    """Whether a folder holds the name; OSError."""
    try:
        os.lstat(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return False
    return True


def open_partial(name: str, dir_fd: int) -> int:
    """A descriptor of a file that may have been begun, never through a link and never of a second name."""
    try:
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=dir_fd)
    except FileExistsError:
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=dir_fd)
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.getuid():
        return fd
    os.close(fd)
    raise ConfinedError(f"{shown(name)} is not a file of yours alone", code="path.not_regular")


def settle(partial: str, name: str, dir_fd: int, *, overwrite: bool) -> None:
    """Put a file that is whole in the place of `name` in one step."""
    if overwrite:
        os.rename(partial, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    else:
        _put_beside(partial, name, dir_fd)
    sync(dir_fd)


def _discard(name: str, dir_fd: int) -> None:
    try:
        os.unlink(name, dir_fd=dir_fd)
    except OSError:  # the first error is the one to tell
        pass


def write_atomic(path: str, data: bytes, *, sync: bool = True, mode: int = 0o600) -> None:
    """Replace a file of ours, named by its absolute path, whole or not at all.

    The folder must exist. A link at the last component is replaced, not followed. Raises MissingFile for a
    missing folder and FileFault (`store.no_space`, `path.denied`, ...); no temporary file remains.
    """
    folder, name = os.path.split(path)
    try:
        dir_fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            replace(name, dir_fd, lambda fd: write_all(fd, data), mode=mode, durable=sync)
        finally:
            os.close(dir_fd)
    except OSError as error:
        raise FileFault.of(error, path) from error


def make_root(path: str, mode: int = 0o700) -> None:
    """Make an absolute folder and those above it that are missing, with `mode` whatever the umask."""
    missing = []
    while path and not os.path.isdir(path):
        missing.append(path)
        path, _, _ = path.rstrip("/").rpartition("/")
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:  # another process was faster, or it is a file: then the next step says so
            continue
        os.chmod(folder, mode)


def copy_fd(source: int, destination: int, *, limit: int | None = None) -> int:
    """Copy from the position of one descriptor to that of another until the end; returns bytes.

    Shares blocks where the file system can (only from the beginning of a file to an empty one), else the
    kernel copies, else reads and writes. More than `limit` bytes raise ConfinedError `file.too_big`; OSError.
    """
    found = os.fstat(source)
    if limit is not None and found.st_size > limit:
        raise _too_big("the file", found.st_size, limit)
    total = 0
    if sys.platform == "linux" and found.st_size > 0:
        pair = (found.st_dev, os.fstat(destination).st_dev)
        most = sys.maxsize if limit is None else limit
        total = _clone(source, destination, pair) or _copy_in_kernel(source, destination, pair, most)
        if total > most:
            raise _too_big("the file", total, most)
    return total + _drain(source, destination, total, limit)


def _clone(source: int, destination: int, pair: tuple[int, int]) -> int:
    if ("clone", *pair) in _refused or os.lseek(source, 0, os.SEEK_CUR) or os.fstat(destination).st_size:
        return 0
    import fcntl

    try:
        fcntl.ioctl(destination, _FICLONE, source)
    except OSError:  # this file system shares no blocks: not asked again
        _refused["clone", *pair] = True
        return 0
    size = os.fstat(destination).st_size
    os.lseek(source, size, os.SEEK_SET)
    return os.lseek(destination, size, os.SEEK_SET)


def _copy_in_kernel(source: int, destination: int, pair: tuple[int, int], most: int) -> int:
    total = 0
    for way in ("range", "sendfile"):
        while (way, *pair) not in _refused and total <= most:
            count = min(1 << 30, most - total + 1)
            try:
                if way == "range":
                    copied = os.copy_file_range(source, destination, count)
                else:
                    copied = os.sendfile(destination, source, None, count)
            except OSError as error:
                if error.errno not in _UNABLE:
                    raise
                _refused[way, *pair] = True
                break
            if not copied:
                return total
            total += copied
    return total


_UNABLE = (
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EBADF,
    errno.EPERM,
    errno.ETXTBSY,
)


def _drain(source: int, destination: int, done: int, limit: int | None) -> int:
    # also after the kernel's copy: some file systems end it early without an error
    total = 0
    while True:
        chunk = os.read(source, _CHUNK)
        if not chunk:
            return total
        total += len(chunk)
        if limit is not None and done + total > limit:
            raise _too_big("the file", done + total, limit)
        write_all(destination, chunk)


def exchange(a: str, b: str) -> bool:
    """Let two folders change places in one step; False where the system does not do that."""
    try:
        import _ctypes  # ctypes itself takes 3 ms more

        call = _ctypes.dlsym(_ctypes.dlopen(None, 2), "renameat2")  # type: ignore[arg-type]  # None: this program
    except (ImportError, OSError, AttributeError):
        return False
    here, swap = -100, 2
    done: int = _ctypes.call_cdeclfunction(call, (here, os.fsencode(a), here, os.fsencode(b), swap))
    return done == 0
