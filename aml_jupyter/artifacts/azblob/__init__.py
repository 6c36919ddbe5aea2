"""A container of Azure Blob storage as a store of artifacts.

Every request has limits of time and is tried again within one budget (`patience`). What is sent carries its
MD5, which the store compares; what is kept carries its SHA-256 as metadata. Bytes that are there are not sent
again, whether the answer to an earlier request was lost or another process sent them. Memory is bounded by
the size of a part times `PARALLEL`, however many threads and files there are.
"""

from __future__ import annotations

import io
import os
import threading

from aml_jupyter.artifacts.azblob.account import Account
from aml_jupyter.artifacts.azblob.patience import patience_of, persist
from aml_jupyter.artifacts.store import OWNER, Stored, check_key, claim_first, is_ours
from aml_jupyter.errors import ArtifactError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import ThreadPoolExecutor
    from typing import Any, BinaryIO, TypeVar

    from azure.storage.blob import BlobClient, BlobProperties, ContainerClient

    from aml_jupyter.artifacts.azblob.patience import Patience
    from aml_jupyter.artifacts.store import Progress

    T = TypeVar("T")

PART = 8 << 20
# parts at once; the most blocks that Azure takes are 50,000
PARALLEL = 8
MOST_PARTS = 45_000
# how often something is begun again that another process changed meanwhile
ATTEMPTS = 4
# the metadata that holds the SHA-256
HASH = "sha256"


class BlobStore:
    """Artifacts as block blobs of a container, below a prefix where one is given."""

    kind = "azblob"

    def __init__(
        self, container: str, prefix: str, environ: Mapping[str, str], patience: Patience | None = None
    ) -> None:
        self.prefix = prefix
        self.url = f"azblob://{container}" + (f"/{prefix}" if prefix else "")
        self.account = Account(container, environ, patience or patience_of(environ))
        self.room = Room(PART * PARALLEL)
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def name(self, key: str) -> str:
        """The blob of a key."""
        return f"{self.prefix}/{key}" if self.prefix else key

    def ask(self, key: str, operation: Callable[[BlobClient], T], stop: threading.Event | None = None) -> T:
        """Ask for something about one blob, patiently.  Raises ArtifactError."""
        name = self.name(key)
        return persist(self.account, key, lambda client: operation(client.get_blob_client(name)), stop)

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The threads that send and fetch parts of large files."""
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="aml-parts")
            return self._pool

    # --- writing

    def claim(self, run_id: str, uuid: str) -> str:
        """By a small blob that is made once; makes the container where that is allowed; see ArtifactStore."""
        return claim_first(run_id, uuid, self._claimed)

    def _claimed(self, prefix: str, uuid: str) -> bool:
        from aml_jupyter.artifacts.azblob import writing

        key = f"{prefix}/{OWNER}"
        try:
            return writing.create(self, key, uuid.encode())
        except ArtifactError as error:
            if error.code != "store.missing":
                raise
            self._make_container(error)
        return writing.create(self, key, uuid.encode())

    def _make_container(self, missing: ArtifactError) -> None:
        from azure.core.exceptions import ResourceExistsError

        def make(client: ContainerClient) -> None:
            try:
                client.create_container()
            except ResourceExistsError:  # by another process, meanwhile; or it is being deleted
                pass

        try:
            persist(self.account, "", make)
        except ArtifactError as error:
            if error.code in ("store.auth", "store.denied"):
                raise missing from None
            raise

    def put(
        self, key: str, source: int, *, sha256: str | None = None, progress: Progress | None = None
    ) -> Stored:
        """In one request, or in parts; see ArtifactStore."""
        from aml_jupyter.artifacts.azblob import writing

        check_key(key)
        size = os.fstat(source).st_size
        if size <= PART:
            with self.room.taken(size):
                data = os.pread(source, PART + 1, 0)
                if len(data) <= PART:
                    stored = writing.put_whole(self, key, data, sha256)
                    if progress is not None:
                        progress(len(data))
                    return stored
        return writing.put_parts(self, key, source, sha256, progress)

    def delete(self, key: str) -> None:
        """A blob and all below it, with what the account keeps of them but snapshots; see ArtifactStore."""
        check_key(key)
        self._delete(key)
        for _ in self.pool.map(self._delete, [one.key for one in self._listed(key)]):
            pass

    def _delete(self, key: str) -> None:
        try:
            self.ask(key, lambda blob: blob.delete_blob(delete_snapshots="include"))
        except ArtifactError as error:
            if error.code != "artifact.unknown":
                raise

    # --- reading

    def stat(self, key: str) -> Stored | None:
        """Size and hash of a blob; see ArtifactStore."""
        check_key(key)
        found = self.properties(key)
        return None if found is None else self.stored(key, found)

    def properties(self, key: str) -> BlobProperties | None:
        """What the store says about a blob; None where there is none."""
        try:
            return self.ask(key, lambda blob: blob.get_blob_properties())
        except ArtifactError as error:
            if error.code == "artifact.unknown":
                return None
            raise

    @staticmethod
    def stored(key: str, found: BlobProperties) -> Stored:
        """A blob as what is kept under a key."""
        return Stored(key=key, size=int(found.size), sha256=(found.metadata or {}).get(HASH, ""))

    def open(self, key: str) -> BinaryIO:
        """A file that reads ranges as they are asked for; see ArtifactStore."""
        check_key(key)
        found = self.properties(key)
        if found is None:
            raise ArtifactError(f"{key} is not in the store")
        return io.BufferedReader(_Ranges(self, key, found), 1 << 20)

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """A range of a blob, or several one after the other; see ArtifactStore."""
        from aml_jupyter.artifacts.azblob import reading

        check_key(key)
        return reading.read(self, key, start, length)

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
        """Parts side by side, written in order; once more whole where they are damaged; see ArtifactStore."""
        from aml_jupyter.artifacts.azblob import reading

        check_key(key)
        return reading.fetch(self, key, destination, sha256, size, have, progress)

    def list(self, prefix: str) -> Iterator[Stored]:
        """Blobs below a prefix with their hashes; see ArtifactStore."""
        check_key(prefix)
        return (one for one in self._listed(prefix) if not is_ours(one.key))

    def _listed(self, prefix: str) -> Iterator[Stored]:
        start = self.name(prefix) + "/"
        skip = len(self.name(""))
        for found in self._pages(
            prefix,
            lambda client: client.list_blobs(
                name_starts_with=start, include=["metadata"], results_per_page=5000
            ),
        ):
            key = str(found.name)[skip:]
            if _is_key(key):
                yield self.stored(key, found)

    def children(self, prefix: str) -> Iterator[str]:
        """Names up to the next slash; see ArtifactStore."""
        check_key(prefix)
        start = self.name(prefix) + "/"
        before = ""
        for found in self._pages(prefix, lambda client: client.walk_blobs(name_starts_with=start)):
            name = str(found.name)[len(start) :].rstrip("/")
            if name not in (before, OWNER) and _is_key(name):
                yield name
            before = name

    def _pages(self, prefix: str, listing: Callable[[ContainerClient], Any]) -> Iterator[Any]:
        """What a listing gives, each page asked for patiently."""
        token: str | None = None
        while True:

            def page(client: ContainerClient, token: str | None = token) -> tuple[list[Any], str | None]:
                pages = listing(client).by_page(continuation_token=token)
                return list(next(pages)), pages.continuation_token

            found, token = persist(self.account, prefix, page)
            yield from found
            if not token:
                return


def _is_key(key: str) -> bool:
    """Whether a name in the container is one of ours: anybody may have put anything there."""
    try:
        check_key(key)
    except ArtifactError:
        return False
    return True


class Room:
    """So many bytes of memory for everything that is on its way; who needs more waits."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._changed = threading.Condition()

    def take(self, count: int) -> int:
        """Wait for room for some bytes; how many to give back."""
        count = min(count, self.size)
        with self._changed:
            while self.free < count:
                self._changed.wait()
            self.free -= count
        return count

    def take_now(self, count: int) -> int:
        """Like `take`, without waiting: 0 where there is no room."""
        count = min(count, self.size)
        with self._changed:
            if self.free < count:
                return 0
            self.free -= count
        return count

    def give(self, count: int) -> None:
        """Give back what `take` said."""
        with self._changed:
            self.free += count
            self._changed.notify_all()

    def taken(self, count: int) -> _Taken:
        """Room for as long as a block of code runs."""
        return _Taken(self, count)


class _Taken:
    def __init__(self, room: Room, count: int) -> None:
        self.room = room
        self.count = count

    def __enter__(self) -> None:
        self.count = self.room.take(self.count)

    def __exit__(self, *_: object) -> None:
        self.room.give(self.count)


class _Ranges(io.RawIOBase):
    """A blob as a file, of the version that it had when it was opened."""

    def __init__(self, store: BlobStore, key: str, found: BlobProperties) -> None:
        self.store = store
        self.key = key
        self.size = int(found.size)
        self.etag = str(found.etag)
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        self.at = max(0, base + offset)
        return self.at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._next(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._next(self.size)

    def _next(self, count: int) -> bytes:
        from aml_jupyter.artifacts.azblob import reading

        end = min(self.size, self.at + count)
        if end <= self.at:
            return b""
        try:
            data = reading.read_version(self.store, self.key, self.at, end, self.etag)
        except reading.Changed:
            words = f"{self.key} changed in the store while it was read"
            raise ArtifactError(words, code="store.corrupt") from None
        self.at = end
        return data


__all__ = ["ATTEMPTS", "HASH", "MOST_PARTS", "PARALLEL", "PART", "BlobStore", "Room"]
