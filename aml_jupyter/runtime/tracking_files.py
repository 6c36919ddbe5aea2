"""Artifacts of MLflow clients below `outputs/`: by folder descriptors, never through a link, whole or none.

What a client calls `run/...` lies in `outputs/mlflow`, `runs/NAME/...` in `outputs/mlflow-runs/NAME`,
`models/NAME/...` in `outputs/mlflow-models/NAME`.
"""

import os
import stat
import threading
from contextlib import contextmanager

from tracking_errors import Refused, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO

FOLDERS = {b"run": b"mlflow", b"runs": b"mlflow-runs", b"models": b"mlflow-models"}
DEPTH = 100
LISTED = 10000
LARGEST_FILE = 1 << 40
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def split(path: bytes) -> "list[bytes]":
    """The components of a path that a client gave, the first one a key of FOLDERS.  Raises Refused."""
    parts = path.strip(b"/").split(b"/")
    if parts[0] not in FOLDERS:
        raise Refused(404, "RESOURCE_DOES_NOT_EXIST", "this run has no artifacts in %s" % _shown(path))
    for part in parts:
        if part in (b"", b".", b"..") or len(part) > 255 or any(one < 32 or one == 127 for one in part):
            raise invalid("the artifact path %s has a part that no file can be called" % _shown(path))
    if len(parts) > DEPTH or len(path) > 4096:
        raise invalid("the artifact path %s is too deep" % _shown(path))
    return parts


def _shown(path: bytes) -> str:
    return repr(path[:200].decode("utf-8", "replace"))


class Files:
    """The artifacts in `outputs`; `partial` names the files that are being written."""

    def __init__(self, outputs: bytes, partial: "set[bytes]") -> None:
        self.outputs = outputs
        self.partial = partial
        self.count = 0
        self.lock = threading.Lock()

    def put(self, parts: "list[bytes]", blocks: "Iterable[bytes]") -> None:
        """Keep a file; one of that name is replaced when all of it is there.  Raises Refused."""
        if len(parts) < 2:
            raise invalid("an artifact needs a name")
        with self.lock:
            self.count += 1
            temporary = b".mlflow-%d-%d.partial" % (os.getpid(), self.count)
        with _told(parts), self._folder(parts[:-1], make=True) as folder:
            path = b"/".join([self.outputs, FOLDERS[parts[0]]] + parts[1:-1] + [temporary])
            self.partial.add(path)
            try:
                self._write(folder, temporary, blocks)
                os.rename(temporary, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                try:
                    os.unlink(temporary, dir_fd=folder)
                except OSError:  # it was never made
                    pass
                raise
            finally:
                self.partial.discard(path)

    def _write(self, folder: int, name: bytes, blocks: "Iterable[bytes]") -> None:
        size = 0
        with open(os.open(name, NEW, 0o644, dir_fd=folder), "wb", buffering=0) as file:
            for block in blocks:
                size += len(block)
                if size > LARGEST_FILE:
                    raise Refused(413, "INVALID_PARAMETER_VALUE", "an artifact has at most 1 TiB")
                view = memoryview(block)
                while view:
                    view = view[file.write(view) :]

    @contextmanager
    def open(self, parts: "list[bytes]") -> "Iterator[tuple[BinaryIO, int]]":
        """A regular file and its size.  Raises Refused."""
        with _told(parts), self._folder(parts[:-1]) as folder:
            fd = os.open(parts[-1] if parts[1:] else b".", READ, dir_fd=folder)
        with open(fd, "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Refused(404, "RESOURCE_DOES_NOT_EXIST", "%s is no file" % _shown(b"/".join(parts)))
            yield file, found.st_size

    def listing(self, parts: "list[bytes]") -> "list[dict[str, Any]]":
        """Files and folders of a folder, as clients want them; a file has nothing below it."""
        try:
            with self._folder(parts) as folder:
                names = sorted(os.listdir(folder))[:LISTED]
                return [one for name in names if (one := _entry(folder, name)) is not None]
        except OSError:  # there is none
            return []

    def remove(self, parts: "list[bytes]") -> None:
        """Remove one file.  Raises Refused."""
        with _told(parts), self._folder(parts[:-1]) as folder:
            os.unlink(parts[-1], dir_fd=folder)

    @contextmanager
    def _folder(self, parts: "list[bytes]", make: bool = False) -> "Iterator[int]":
        if make:
            _make(self.outputs, None)
        fd = os.open(self.outputs, FOLDER)
        try:
            for name in [FOLDERS[parts[0]]] + parts[1:] if parts else []:
                if make:
                    _make(name, fd)
                inner = os.open(name, FOLDER, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)


def _make(name: bytes, folder: "int | None") -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=folder)
    except FileExistsError:
        pass


def _entry(folder: int, name: str) -> "dict[str, Any] | None":
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        text = os.fsencode(name).decode("utf-8")
    except (OSError, UnicodeDecodeError):  # gone meanwhile; or a name that no client can be told
        return None
    if stat.S_ISDIR(found.st_mode):
        return {"path": text, "is_dir": True}
    return (
        {"path": text, "is_dir": False, "file_size": found.st_size} if stat.S_ISREG(found.st_mode) else None
    )


@contextmanager
def _told(parts: "list[bytes]") -> "Iterator[None]":
    """Errors of files as answers that a person understands."""
    shown = _shown(b"/".join(parts))
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise Refused(404, "RESOURCE_DOES_NOT_EXIST", "there is no artifact %s" % shown) from None
    except (BrokenPipeError, ConnectionError):
        raise
    except OSError as error:
        if error.errno is None:  # the client said nothing for too long
            raise
        raise Refused(
            507,
            "RESOURCE_EXHAUSTED",
            "the artifact %s cannot be kept in outputs/: %s" % (shown, error.strerror),
        ) from None


def fits(name: str) -> bool:
    """Whether a file can be called so."""
    data = name.encode("utf-8", "surrogatepass")
    return data not in (b"", b".", b"..") and len(data) <= 200 and name.isprintable() and "/" not in name
