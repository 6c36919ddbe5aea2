"""Bytes into a blob: in one request, or in parts that are named by their content and committed together.

A part's name holds its number and its MD5, so that whoever goes on after a fault knows by a list of names
which parts are there already. Nothing of a blob can be seen before the commit.
"""

from __future__ import annotations

import hashlib
import os
import threading

from aml_jupyter.artifacts.azblob.faults import code_of
from aml_jupyter.artifacts.store import Stored, corrupt
from aml_jupyter.errors import ArtifactError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any

    from azure.storage.blob import BlobClient, BlobProperties

    from aml_jupyter.artifacts.azblob import BlobStore
    from aml_jupyter.artifacts.store import Progress

# what says that another was faster, or that an earlier request of ours arrived though its answer was lost
_THERE = ("BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet")
# parts that were there are gone: another process committed its own, or they expired
_GONE = ("InvalidBlockList",)


def create(store: BlobStore, key: str, data: bytes) -> bool:
    """Make a small blob where there is none; whether what is there then has these bytes."""
    hashed = hashlib.sha256(data).hexdigest()
    if _send(store, key, data, hashed, None):
        return True
    return store.read(key, 0, len(data) + 1) == data


def put_whole(store: BlobStore, key: str, data: bytes, sha256: str | None) -> Stored:
    """One request, and a second one where other bytes are there."""
    stored = Stored(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    _require(stored, sha256)
    return _settle(store, stored, lambda found: _send(store, key, data, stored.sha256, found))


def _require(stored: Stored, sha256: str | None) -> None:
    if sha256 is not None and stored.sha256 != sha256:
        raise corrupt(stored.key, sha256, stored.sha256)


def _settle(
    store: BlobStore,
    stored: Stored,
    attempt: Callable[[BlobProperties | None], bool],
    found: BlobProperties | None = None,
) -> Stored:
    """Write over nothing but what was seen, until what is there are these bytes."""
    from aml_jupyter.artifacts.azblob import ATTEMPTS

    for _ in range(ATTEMPTS):
        if attempt(found):
            return stored
        found = store.properties(stored.key)
        if found is not None and store.stored(stored.key, found) == stored:
            return stored
    raise ArtifactError(
        f"{stored.key} is being written by others, again and again",
        code="store.unavailable",
        hint="`aml push` tries again later.",
    )


def _condition(found: BlobProperties | None) -> dict[str, Any]:
    from azure.core import MatchConditions

    if found is None:
        return {"match_condition": MatchConditions.IfMissing}
    return {"etag": found.etag, "match_condition": MatchConditions.IfNotModified}


def _done(request: Callable[[], object], *refusals: str) -> bool:
    """Whether a request was done; False where the store refuses it for one of these reasons."""
    from azure.core.exceptions import HttpResponseError

    try:
        request()
    except HttpResponseError as error:
        if code_of(error) in refusals:
            return False
        raise
    return True


def _send(store: BlobStore, key: str, data: bytes, sha256: str, found: BlobProperties | None) -> bool:
    """Whether the blob was written; False where another was there than `found`."""
    from azure.storage.blob import ContentSettings

    from aml_jupyter.artifacts.azblob import HASH

    md5 = bytearray(hashlib.md5(data, usedforsecurity=False).digest())

    def send(blob: BlobClient) -> bool:
        return _done(
            lambda: blob.upload_blob(
                data,
                length=len(data),
                overwrite=True,
                metadata={HASH: sha256},
                # kept with the blob, where `transactional_content_md5` is compared with what arrives
                content_settings=ContentSettings(content_type="application/octet-stream", content_md5=md5),
                transactional_content_md5=md5,
                **_condition(found),
            ),
            *_THERE,
        )

    return store.ask(key, send)


# --- parts --------------------------------------------------------------------------------------------------


def put_parts(
    store: BlobStore, key: str, source: int, sha256: str | None, progress: Progress | None
) -> Stored:
    """Parts side by side but those that are there, then one request that makes them the blob."""
    found = store.properties(key)
    if sha256 is not None and found is not None:
        size = os.fstat(source).st_size
        there = Stored(key=key, size=size, sha256=sha256)
        if store.stored(key, found) == there:
            if progress is not None:
                progress(size)
            return there
    from aml_jupyter.artifacts.azblob import ATTEMPTS

    for _ in range(ATTEMPTS):
        sending = _Parts(store, key, source, progress)
        stored = sending.send()
        _require(stored, sha256)
        try:
            kept = _settle(store, stored, sending.commit, found)
        except _PartsGone:
            if progress is not None:
                progress(-stored.size)
            found = store.properties(key)
            continue
        _confirm(store, kept)
        return kept
    raise ArtifactError(
        f"{key} is being written by others, again and again",
        code="store.unavailable",
        hint="`aml push` tries again later.",
    )


def _confirm(store: BlobStore, stored: Stored) -> None:
    """Compare what the store now says with what was sent."""
    found = store.stat(stored.key)
    if found != stored:
        raise corrupt(stored.key, stored.sha256, found.sha256 if found else "")


class _PartsGone(Exception):
    """What was sent cannot be committed any more."""


class _Parts:
    """One file on its way, part by part."""

    def __init__(self, store: BlobStore, key: str, source: int, progress: Progress | None) -> None:
        from aml_jupyter.artifacts.azblob import MOST_PARTS, PART

        self.store = store
        self.key = key
        self.source = source
        self.progress = progress
        size = os.fstat(source).st_size
        self.part = max(PART, -(-size // MOST_PARTS))
        self.stop = threading.Event()
        # room for one part, which is the same for each
        self.taken = 0
        self.names: list[str] = []
        self.sha256 = ""

    def send(self) -> Stored:
        """Send what is not there yet; size and hash of all."""
        there = self._there()
        hashing = hashlib.sha256()
        total = 0
        pending: list[Future[None]] = []
        try:
            while data := self._read(total):
                self.names.append("")
                # beside this thread, which hashes the whole, each part's own hash and its way there
                pending.append(self.store.pool.submit(self._send, len(self.names) - 1, data, there))
                hashing.update(data)
                total += len(data)
                del data
                pending = [one for one in pending if not _finished(one)]
            for one in pending:
                one.result()
        except BaseException:
            self._abandon(pending)
            raise
        self.sha256 = hashing.hexdigest()
        return Stored(key=self.key, size=total, sha256=self.sha256)

    def _read(self, start: int) -> bytes:
        """The next part, once there is room for it; room is kept for what is not empty."""
        self.taken = self.store.room.take(self.part)
        data = b""
        try:
            data = os.pread(self.source, self.part, start)
        finally:
            if not data:
                self.store.room.give(self.taken)
        return data

    def _abandon(self, pending: list[Future[None]]) -> None:
        """Have nothing on its way any more; what began gives its room back itself."""
        from concurrent.futures import wait

        self.stop.set()
        for one in pending:
            if one.cancel():
                self.store.room.give(self.taken)
        wait(pending)

    def _tell(self, count: int) -> None:
        if self.progress is not None:
            self.progress(count)

    def _send(self, number: int, data: bytes, there: set[tuple[str, int]]) -> None:
        try:
            md5 = hashlib.md5(data, usedforsecurity=False)
            name = self.names[number] = f"{number:06}-{md5.hexdigest()}"
            if (name, len(data)) not in there:
                self.store.ask(
                    self.key,
                    lambda blob: blob.stage_block(
                        name, data, length=len(data), transactional_content_md5=bytearray(md5.digest())
                    ),
                    self.stop,
                )
        finally:
            self.store.room.give(self.taken)
        self._tell(len(data))

    def _there(self) -> set[tuple[str, int]]:
        """Names and sizes of the parts that an earlier attempt left."""
        try:
            _, uncommitted = self.store.ask(self.key, lambda blob: blob.get_block_list("uncommitted"))
        except ArtifactError as error:
            if error.code == "artifact.unknown":
                return set()
            raise
        return {(block.id, block.size) for block in uncommitted}

    def commit(self, found: BlobProperties | None) -> bool:
        """Whether the parts are the blob now; False where another was there than `found`."""
        from azure.core.exceptions import HttpResponseError
        from azure.storage.blob import BlobBlock, ContentSettings

        from aml_jupyter.artifacts.azblob import HASH

        def commit(blob: BlobClient) -> bool:
            try:
                return _done(
                    lambda: blob.commit_block_list(
                        [BlobBlock(name) for name in self.names],
                        content_settings=ContentSettings(content_type="application/octet-stream"),
                        metadata={HASH: self.sha256},
                        **_condition(found),
                    ),
                    *_THERE,
                )
            except HttpResponseError as error:
                if code_of(error) in _GONE:
                    raise _PartsGone from None
                raise

        return self.store.ask(self.key, commit)


def _finished(one: Future[None]) -> bool:
    """Whether a part is there.  Raises what it raised."""
    if not one.done():
        return False
    one.result()
    return True
