"""What every artifact store does, as tests: subclass the contract and give it a store.

class TestFolderStore(ArtifactStoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return FolderStore(str(tmp_path / "artifacts"))
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING

import pytest

from aml_jupyter.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

    from aml_jupyter.artifacts import Stored
    from aml_jupyter.artifacts.store import ArtifactStore

# names that lead elsewhere in some file system, browser, URL or object store
BAD_KEYS = (
    "",
    "/",
    "/etc/passwd",
    "..",
    "../other/x",
    "runs/../../x",
    "runs//x",
    "runs/./x",
    "runs/x/",
    "runs\\x",
    "runs/..\\x",
    "runs/%2e%2e/x",
    "runs/..%2fx",
    "runs/\0",
    "runs/\n",
    "runs/\x1b[31m",
    "runs/\u202egpj.exe",
    "runs/\ufffe",
    "runs/\udcff",
    "runs/CON",
    "runs/x.",
    "runs/x ",
    "runs/" + "x" * 1025,
)


class ArtifactStoreContract:
    """Tests that any store passes against the real thing; `store` is empty."""

    @pytest.fixture
    def store(self) -> ArtifactStore:
        """The store under test."""
        raise NotImplementedError

    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        """Makes files to store."""
        return Source(tmp_path / "source")

    def test_what_is_put_can_be_opened(self, store: ArtifactStore, source: Source) -> None:
        """Bytes come back as they were, with size and hash told."""
        data = os.urandom(3_000_001)
        stored = source.put(store, "a/b/model.pkl", data)
        assert (stored.key, stored.size) == ("a/b/model.pkl", len(data))
        assert stored.sha256 == hashlib.sha256(data).hexdigest()
        assert read(store, "a/b/model.pkl") == data

    def test_an_empty_file_is_kept(self, store: ArtifactStore, source: Source) -> None:
        """Nothing is something."""
        assert source.put(store, "empty", b"").size == 0
        assert read(store, "empty") == b""

    def test_a_key_is_put_again_with_the_last_bytes(self, store: ArtifactStore, source: Source) -> None:
        """Putting is idempotent, and a later version takes the place of an earlier one."""
        source.put(store, "k", b"first")
        source.put(store, "k", b"first")
        source.put(store, "k", b"second, and longer")
        assert read(store, "k") == b"second, and longer"
        assert list(store.list("k")) == []  # nothing lies below it

    def test_the_whole_file_is_read_wherever_its_position_is(
        self, store: ArtifactStore, source: Source
    ) -> None:
        """A descriptor that was read before is stored from its beginning."""
        fd = source.open(b"0123456789")
        try:
            os.read(fd, 5)
            assert store.put("k", fd).size == 10
        finally:
            os.close(fd)
        assert read(store, "k") == b"0123456789"

    def test_bytes_without_the_expected_hash_are_refused(self, store: ArtifactStore, source: Source) -> None:
        """Nothing of them is kept, and what was there stays."""
        good = hashlib.sha256(b"good").hexdigest()
        source.put(store, "k", b"good", sha256=good)
        with pytest.raises(ArtifactError) as caught:
            source.put(store, "k", b"evil", sha256=good)
        assert caught.value.code == "store.corrupt"
        assert read(store, "k") == b"good"
        with pytest.raises(ArtifactError):
            source.put(store, "new", b"evil", sha256=good)
        assert store.stat("new") is None

    def test_what_is_not_there_is_unknown(self, store: ArtifactStore) -> None:
        """Opening raises, asking says None, listing is empty, deleting is no error."""
        with pytest.raises(ArtifactError) as caught:
            store.open("none/at/all")
        assert caught.value.code == "artifact.unknown"
        assert store.stat("none/at/all") is None
        assert list(store.list("none")) == []
        store.delete("none")

    def test_keys_are_listed_below_a_prefix(self, store: ArtifactStore, source: Source) -> None:
        """Whole components, in order, with sizes."""
        for key in ("run/b", "run/a/x", "run/a/y", "runs/c"):
            source.put(store, key, key.encode())
        assert [(one.key, one.size) for one in store.list("run")] == [
            ("run/a/x", 7),
            ("run/a/y", 7),
            ("run/b", 5),
        ]
        found = store.stat("run/b")
        assert found is not None
        assert found.size == 5

    def test_a_prefix_is_deleted_with_all_below_it(self, store: ArtifactStore, source: Source) -> None:
        """And nothing beside it."""
        for key in ("run/b", "run/a/x", "runs/c"):
            source.put(store, key, b"x")
        store.delete("run")
        assert list(store.list("run")) == []
        assert read(store, "runs/c") == b"x"
        store.delete("runs/c")
        assert store.stat("runs/c") is None

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_a_key_that_leads_elsewhere_is_refused(
        self, store: ArtifactStore, source: Source, key: str
    ) -> None:
        """By every operation, before anything is opened."""
        fd = source.open(b"x")
        try:
            for attempt in (
                lambda: store.put(key, fd),
                lambda: store.open(key),
                lambda: store.stat(key),
                lambda: list(store.list(key)),
                lambda: store.delete(key),
            ):
                with pytest.raises(ArtifactError) as caught:
                    attempt()
                assert caught.value.code == "artifact.name"
        finally:
            os.close(fd)

    def test_a_run_has_a_place_of_its_own(self, store: ArtifactStore) -> None:
        """The same again for the same run; another run of that id goes elsewhere."""
        mine = store.claim("iris_1", "1111aaaa")
        assert store.claim("iris_1", "1111aaaa") == mine
        other = store.claim("iris_1", "2222bbbb")
        assert other != mine
        assert "iris_1" in mine
        assert other.startswith(mine)
        assert list(store.list(mine)) == []

    def test_two_that_put_a_key_at_once_leave_one_of_the_two(
        self, store: ArtifactStore, source: Source
    ) -> None:
        """Never a mixture."""
        contents = [bytes([number]) * 300_000 for number in range(4)]
        threads = [threading.Thread(target=source.put, args=(store, "k", data)) for data in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert read(store, "k") in contents


class Source:
    """Files to be stored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def open(self, data: bytes) -> int:
        """A descriptor of a file with these bytes; the caller closes it."""
        path = self.folder / os.urandom(8).hex()
        path.write_bytes(data)
        return os.open(path, os.O_RDONLY)

    def put(self, store: ArtifactStore, key: str, data: bytes, sha256: str | None = None) -> Stored:
        """Store these bytes."""
        fd = self.open(data)
        try:
            return store.put(key, fd, sha256=sha256)
        finally:
            os.close(fd)


def read(store: ArtifactStore, key: str) -> bytes:
    """All bytes of a key."""
    with store.open(key) as file:
        return file.read()
