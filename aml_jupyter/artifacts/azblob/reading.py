"""Bytes out of a blob: ranges, and whole ones in parts side by side, verified."""

from __future__ import annotations

import hashlib
import os
import threading

from aml_jupyter.artifacts.store import Faults, Stored, corrupt, hash_beginning, too_large, write_all
from aml_jupyter.errors import ArtifactError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from concurrent.futures import Future
    from typing import Any

    from azure.storage.blob import BlobClient

    from aml_jupyter.artifacts.azblob import BlobStore
    from aml_jupyter.artifacts.store import Progress


class Changed(Exception):
    """The blob is another one than when the transfer began."""


def read(store: BlobStore, key: str, start: int, length: int | None) -> bytes:
    """The bytes of a range, as far as there are any, all of one version."""
    from aml_jupyter.artifacts.azblob import ATTEMPTS

    for _ in range(ATTEMPTS):
        found = store.properties(key)
        if found is None:
            raise ArtifactError(f"{key} is not in the store")
        size = int(found.size)
        end = size if length is None else min(size, start + length)
        try:
            return read_version(store, key, start, end, str(found.etag))
        except Changed:
            continue
    raise ArtifactError(f"{key} changes in the store all the time", code="store.unavailable")


def read_version(store: BlobStore, key: str, start: int, end: int, etag: str) -> bytes:
    """The bytes of a range that is there.  Raises Changed when the blob is another one by now."""
    from aml_jupyter.artifacts.azblob import PART

    parts = [_range(store, key, at, min(PART, end - at), etag) for at in range(start, end, PART)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _range(
    store: BlobStore,
    key: str,
    start: int,
    length: int,
    etag: str | None,
    stop: threading.Event | None = None,
) -> bytes:
    """One range, all of it, of the version that is named.  Raises Changed."""
    from azure.core import MatchConditions
    from azure.core.exceptions import IncompleteReadError, ResourceModifiedError

    condition: dict[str, Any] = (
        {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}
    )

    def ask(blob: BlobClient) -> bytes:
        try:
            data: bytes = blob.download_blob(offset=start, length=length, **condition).readall()
        except ResourceModifiedError:
            raise Changed from None
        if len(data) != length:
            raise IncompleteReadError(f"{len(data)} of {length} bytes came")
        return data

    return store.ask(key, ask, stop)


def fetch(
    store: BlobStore,
    key: str,
    destination: int,
    sha256: str | None,
    most: int | None,
    have: int,
    progress: Progress | None,
) -> Stored:
    """See BlobStore.fetch."""
    from aml_jupyter.artifacts.azblob import ATTEMPTS

    damage: ArtifactError | None = None
    for _ in range(ATTEMPTS):
        fetching = _Fetching(store, key, destination, progress)
        try:
            stored = fetching.run(have, most)
        except Changed:
            fetching.forget()
            have = 0
            continue
        expected = sha256 or fetching.known
        if not expected or stored.sha256 == expected:
            return stored
        if damage is not None or have:
            # the beginning that was there may be the damage: whoever has it decides
            raise corrupt(key, expected, stored.sha256)
        damage = corrupt(key, expected, stored.sha256)
        fetching.forget()
    raise damage or ArtifactError(f"{key} changes in the store all the time", code="store.unavailable")


class _Fetching:
    """One blob on its way into a file, which always holds a beginning of it and nothing else."""

    def __init__(self, store: BlobStore, key: str, destination: int, progress: Progress | None) -> None:
        self.store = store
        self.key = key
        self.destination = destination
        self.progress = progress
        self.known = ""
        self.told = 0
        self.at = 0
        self.hashing = hashlib.sha256()
        self.stop = threading.Event()

    def run(self, have: int, most: int | None) -> Stored:
        """Fetch all that is missing; size and hash of what the file holds then.

        Raises Changed, and ArtifactError `store.corrupt` when there are more bytes than `most`.
        """
        found = self.store.properties(self.key)
        if found is None:
            raise ArtifactError(f"{self.key} is not in the store")
        size = int(found.size)
        if most is not None and size > most:
            raise too_large(self.key, most)
        self.known = self.store.stored(self.key, found).sha256
        self.hashing, self.at = hash_beginning(self.destination, min(have, size))
        os.ftruncate(self.destination, self.at)
        self._parts(size, str(found.etag))
        return Stored(key=self.key, size=size, sha256=self.hashing.hexdigest())

    def _parts(self, size: int, etag: str) -> None:
        from collections import deque

        from aml_jupyter.artifacts.azblob import PART

        if size - self.at <= PART:
            # in this thread: of many small files each has its own
            if size > self.at:
                with self.store.room.taken(size - self.at):
                    self._write(_range(self.store, self.key, self.at, size - self.at, etag))
            return
        coming: deque[tuple[Future[bytes], int]] = deque()
        start = self.at
        try:
            while start < size or coming:
                start = self._ask_for_more(coming, start, size, etag)
                future, taken = coming[0]
                self._write(future.result())
                coming.popleft()
                self.store.room.give(taken)
        finally:
            self._abandon(coming)

    def _abandon(self, coming: deque[tuple[Future[bytes], int]]) -> None:
        """Have nothing on its way any more."""
        from concurrent.futures import wait

        self.stop.set()
        for future, _ in coming:
            future.cancel()
        wait([future for future, _ in coming])
        for _, taken in coming:
            self.store.room.give(taken)

    def _ask_for_more(
        self, coming: deque[tuple[Future[bytes], int]], start: int, size: int, etag: str
    ) -> int:
        """Ask for as many parts as there is room for, at least for one."""
        from aml_jupyter.artifacts.azblob import PARALLEL, PART

        while start < size and len(coming) < PARALLEL:
            length = min(PART, size - start)
            taken = self.store.room.take_now(length) if coming else self.store.room.take(length)
            if not taken:
                break
            coming.append(
                (self.store.pool.submit(_range, self.store, self.key, start, length, etag, self.stop), taken)
            )
            start += length
        return start

    def _write(self, data: bytes) -> None:
        self.hashing.update(data)
        with Faults(self.key):
            write_all(self.destination, data, self.at)
        self.at += len(data)
        self.told += len(data)
        if self.progress is not None:
            self.progress(len(data))

    def forget(self) -> None:
        """Begin again: what came is not what was meant."""
        os.ftruncate(self.destination, 0)
        if self.progress is not None and self.told:
            self.progress(-self.told)
