"""Any file system of fsspec as a store of artifacts: S3, Google Cloud Storage, whatever is installed."""

from __future__ import annotations

import os
import threading

from aml_jupyter.artifacts.store import (
    CHUNK,
    OWNER,
    Faults,
    Stored,
    check_key,
    claim_first,
    copy_hashed,
    corrupt,
    hash_beginning,
    is_ours,
    too_large,
    write_all,
)
from aml_jupyter.errors import ArtifactError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from aml_jupyter.artifacts.store import Progress

_EXTRAS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


class FsspecStore:
    """Artifacts below a folder or bucket that fsspec opens; credentials are the driver's own business.

    What was written is read again before it counts as stored: not every driver confirms a hash.
    """

    kind = "fsspec"

    def __init__(self, scheme: str, path: str) -> None:
        self.scheme = scheme
        self.path = path
        self.url = f"{scheme}://{self.path}"
        self._opened: Any = None
        # what was written is read again: of two that write the same key here, the second waits
        self._writing = [threading.Lock() for _ in range(64)]

    @property
    def _fs(self) -> Any:
        """The driver, loaded when it is first needed."""
        if self._opened is None:
            try:
                import fsspec
            except ImportError:
                raise _missing("fsspec", self.scheme) from None
            try:
                # without its own memory of listings: others write to the store
                self._opened = fsspec.filesystem(self.scheme, use_listings_cache=False)
            except ImportError:
                raise _missing(_EXTRAS.get(self.scheme, "its driver"), self.scheme) from None
            except ValueError as error:
                raise ArtifactError(
                    f"fsspec knows no {self.scheme}://: {error}",
                    code="store.url",
                    hint="See `fsspec.available_protocols()`.",
                ) from None
        return self._opened

    def _at(self, key: str) -> str:
        return f"{self.path}/{key}" if self.path else key

    def claim(self, run_id: str, uuid: str) -> str:
        """By a small file that is made once; see ArtifactStore."""
        return claim_first(run_id, uuid, self._claimed)

    def _claimed(self, prefix: str, uuid: str) -> bool:
        name = self._at(f"{prefix}/{OWNER}")
        with _Faults(prefix, missing=self.url):
            try:
                self._make_parent(name)
                self._fs.pipe_file(name, uuid.encode(), mode="create")
            except FileExistsError:  # which of us it was is in it
                pass
            return bool(self._fs.cat_file(name) == uuid.encode())

    def put(
        self, key: str, source: int, *, sha256: str | None = None, progress: Progress | None = None
    ) -> Stored:
        """Written, then read again; see ArtifactStore."""
        check_key(key)
        meant = copy_hashed(source, None, key)
        if sha256 is not None and meant.sha256 != sha256:
            raise corrupt(key, sha256, meant.sha256)
        with _Faults(key, missing=self.url), self._writing[hash(key) % len(self._writing)]:
            if not self._is_there(self._at(key), meant):
                self._write(self._at(key), source)
                found = self._hash(self._at(key))
                if found != meant.sha256:
                    raise corrupt(key, meant.sha256, found)
        if progress is not None:
            progress(meant.size)
        return meant

    def _is_there(self, name: str, meant: Stored) -> bool:
        return self._size(name) == meant.size and self._hash(name) == meant.sha256

    def _make_parent(self, name: str) -> None:
        """Folders, where the file system has any; a bucket is never made."""
        parent = name.rpartition("/")[0]
        if self.scheme in ("memory", "sftp", "ssh", "smb", "hdfs") and parent:
            self._fs.makedirs(parent, exist_ok=True)

    def _write(self, name: str, source: int) -> None:
        self._make_parent(name)
        # what is closed has its name, and what was never closed has none
        temporary = f"{name}.{os.urandom(4).hex()}~" if self.scheme in ("sftp", "ssh", "smb") else ""
        with self._fs.open(temporary or name, "wb") as file:
            at = 0
            while block := os.pread(source, CHUNK, at):
                file.write(block)
                at += len(block)
        if temporary:
            self._fs.mv(temporary, name)

    def _hash(self, name: str) -> str:
        import hashlib

        hashing = hashlib.sha256()
        with self._fs.open(name, "rb") as file:
            while block := file.read(CHUNK):
                hashing.update(block)
        return hashing.hexdigest()

    def _size(self, name: str) -> int | None:
        try:
            found = self._fs.info(name)
        except FileNotFoundError:
            return None
        return int(found["size"] or 0) if found["type"] == "file" else None

    def stat(self, key: str) -> Stored | None:
        """The size; see ArtifactStore."""
        check_key(key)
        with _Faults(key):
            size = self._size(self._at(key))
        return None if size is None else Stored(key=key, size=size)

    def open(self, key: str) -> BinaryIO:
        """A file of the driver; see ArtifactStore."""
        check_key(key)
        with _Faults(key):
            file: BinaryIO = self._fs.open(self._at(key), "rb")
            return file

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Some bytes; see ArtifactStore."""
        check_key(key)
        with _Faults(key):
            size = self._size(self._at(key))
            if size is None:
                raise FileNotFoundError(key)
            end = size if length is None else min(size, start + length)
            if start >= end:
                return b""
            return bytes(self._fs.cat_file(self._at(key), start=start, end=end))

    def fetch(
        self,
        key: str,
        destination: int,
        *,
        sha256: str | None = None,
        size: int | None = None,
        have: int = 0,
        progress: Progress | None = None,
    ) -> Stored:
        """What is missing, in order; see ArtifactStore."""
        check_key(key)
        hashing, at = hash_beginning(destination, have if size is None else min(have, size))
        with _Faults(key), self._fs.open(self._at(key), "rb") as file:
            file.seek(at)
            # one byte more than there should be tells that there are too many
            while block := file.read(CHUNK if size is None else min(CHUNK, size + 1 - at)):
                if size is not None and at + len(block) > size:
                    raise too_large(key, size)
                with Faults(key):
                    write_all(destination, block, at)
                hashing.update(block)
                at += len(block)
                if progress is not None:
                    progress(len(block))
        os.ftruncate(destination, at)
        if sha256 is not None and hashing.hexdigest() != sha256:
            raise corrupt(key, sha256, hashing.hexdigest())
        return Stored(key=key, size=at, sha256=hashing.hexdigest())

    def list(self, prefix: str) -> Iterator[Stored]:
        """Files below a folder; see ArtifactStore."""
        check_key(prefix)
        top = self._at(prefix)
        with _Faults(prefix):
            found = self._fs.find(top, detail=True) if self._fs.isdir(top) else {}
        listed = {self._key(prefix, name, top): int(one["size"] or 0) for name, one in found.items()}
        for key in sorted(listed):
            if not is_ours(key):
                yield Stored(key=key, size=listed[key])

    @staticmethod
    def _key(prefix: str, name: str, top: str) -> str:
        return prefix + name.lstrip("/")[len(top.strip("/")) :]

    def children(self, prefix: str) -> Iterator[str]:
        """Names in a folder; see ArtifactStore."""
        check_key(prefix)
        try:
            with _Faults(prefix):
                found = self._fs.ls(self._at(prefix), detail=False)
        except ArtifactError as error:
            if error.code != "artifact.unknown":
                raise
            return
        names = {name.rstrip("/").rpartition("/")[2] for name in found}
        yield from (name for name in sorted(names) if name != OWNER)

    def delete(self, key: str) -> None:
        """Files and folders; see ArtifactStore."""
        check_key(key)
        try:
            with _Faults(key):
                self._fs.rm(self._at(key), recursive=True)
        except ArtifactError as error:
            if error.code != "artifact.unknown":
                raise


class _Faults:
    """Turns what a driver raises into the errors of a store; `missing` is what else may not be there."""

    def __init__(self, key: str, *, missing: str = "") -> None:
        self.key = key
        self.missing = missing

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, ArtifactError) or not isinstance(error, Exception):
            return
        words = f"{self.key}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if isinstance(error, FileNotFoundError) and self.missing:
            hint = "Make the bucket, or name another in artifacts.store."
            raise ArtifactError(f"{self.missing} is not there", code="store.missing", hint=hint) from None
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise ArtifactError(f"{self.key} is not in the store", code="artifact.unknown") from None
        if isinstance(error, PermissionError) or "credential" in words.lower():
            raise ArtifactError(
                words, code="store.auth", hint="Check the credentials of the driver in the environment."
            ) from error
        raise ArtifactError(words, code="store.unavailable", hint="It can be tried again.") from error


def _missing(package: str, scheme: str) -> ArtifactError:
    return ArtifactError(
        f"{scheme}:// needs the package {package}, which is not installed",
        code="store.extra",
        hint="pip install 'aml_jupyter[s3]' or 'aml_jupyter[gs]' brings it."
        if scheme in ("s3", "gs")
        else f"pip install {package}",
    )
