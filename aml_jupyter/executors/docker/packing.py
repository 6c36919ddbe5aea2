"""Files and folders of this machine as an uncompressed tar, made while it is sent."""

from __future__ import annotations

import os
import stat
import tarfile
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = 1 << 20


class Packer:
    """Members of an archive that belong to one user (`uid:gid`); each method gives blocks to be sent."""

    def __init__(self, user: str) -> None:
        uid, _, gid = user.partition(":")
        self.uid, self.gid = int(uid), int(gid)
        self.now = time.time()

    def folder(self, path: str, mode: int = 0o755) -> Iterator[bytes]:
        """An empty folder, or one that is there already."""
        yield self._head(path, tarfile.DIRTYPE, mode)

    def data(self, path: str, data: bytes, mode: int = 0o644) -> Iterator[bytes]:
        """A file of some bytes."""
        yield self._head(path, tarfile.REGTYPE, mode, size=len(data))
        yield data + bytes(-len(data) % tarfile.BLOCKSIZE)

    def file(self, path: str, source: str, mode: int = 0o644, mtime: float | None = None) -> Iterator[bytes]:
        """A file of this machine.  Raises OSError."""
        with open(source, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            yield self._head(path, tarfile.REGTYPE, mode, size=size, mtime=mtime)
            left = size
            while left and (block := file.read(min(BLOCK, left))):
                left -= len(block)
                yield block
        if left:
            raise OSError(5, "it became shorter while it was read", source)
        yield bytes(-size % tarfile.BLOCKSIZE)

    def blocks(self, path: str, blocks: Iterable[bytes], size: int, mode: int = 0o644) -> Iterator[bytes]:
        """A file of so many bytes that come in blocks.  Raises OSError when they are more or fewer."""
        yield self._head(path, tarfile.REGTYPE, mode, size=size)
        left = size
        for block in blocks:
            left -= len(block)
            if left < 0:
                break
            yield block
        if left:
            raise OSError(5, "it has another size than it had", path)
        yield bytes(-size % tarfile.BLOCKSIZE)

    def link(self, path: str, target: str) -> Iterator[bytes]:
        """A symbolic link."""
        yield self._head(path, tarfile.SYMTYPE, 0o777, target=target)

    def tree(self, path: str, source: str) -> Iterator[bytes]:
        """A folder of this machine with all that is in it, readable for everybody; links stay links."""
        yield from self.folder(path)
        for entry in sorted(os.scandir(source), key=lambda one: one.name):
            inner, found = f"{path}/{entry.name}", entry.stat(follow_symlinks=False)
            if entry.is_symlink():
                yield from self.link(inner, os.readlink(entry.path))
            elif entry.is_dir():
                yield from self.tree(inner, entry.path)
            elif stat.S_ISREG(found.st_mode):
                mode = 0o755 if found.st_mode & stat.S_IXUSR else 0o644
                yield from self.file(inner, entry.path, mode, found.st_mtime)

    def _head(
        self,
        path: str,
        kind: bytes,
        mode: int,
        *,
        size: int = 0,
        mtime: float | None = None,
        target: str = "",
    ) -> bytes:
        info = tarfile.TarInfo(path.lstrip("/"))
        info.type, info.mode, info.size, info.linkname = kind, mode, size, target
        info.uid, info.gid = self.uid, self.gid
        # whole seconds: what is compiled remembers those of its source
        info.mtime = int(self.now if mtime is None else mtime)
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def archive(*parts: Iterable[bytes]) -> Iterator[bytes]:
    """Members one after another as a whole archive."""
    for part in parts:
        yield from part
    yield bytes(2 * tarfile.BLOCKSIZE)
