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

from aml_jupyter.artifacts.names import key_of, path_of
from aml_jupyter.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable
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

# names of files that a run may well make: all are kept, the odd ones under their hash
ODD_PATHS = (
    "outputs/a b.txt",
    "outputs/ä é 漢.txt",
    "outputs/100%.txt",
    "outputs/a#b",
    "outputs/a?b",
    "outputs/%41",
    "outputs/..%2fx",
    "outputs/a&b=c+d;e,f@g!'()[]{}~$",
    "outputs/<img onerror=alert(1)>",
    "outputs/CON",
    "outputs/dot.",
    "outputs/ space ",
    "outputs/line\nbreak",
    "outputs/\x1b[31m",
    "outputs/\u202egpj",
    "outputs/\ufffe",
    "outputs/\udcff",
    "outputs/back\\slash",
    "outputs/" + "/".join(["x" * 249] * 4),
    "outputs/" + "d/" * 300 + "x",
    "outputs/.uuid",
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

    def test_of_many_that_claim_a_run_id_at_once_no_two_get_the_same_place(
        self, store: ArtifactStore
    ) -> None:
        """Whoever is first has the plain one."""
        uuids = [f"{number:04x}aaaa" for number in range(8)]
        got: dict[str, str] = {}

        def claim(uuid: str) -> None:
            got[uuid] = store.claim("iris_1", uuid)

        threads = [threading.Thread(target=claim, args=(uuid,)) for uuid in uuids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(got.values())) == len(uuids)
        assert {uuid: store.claim("iris_1", uuid) for uuid in uuids} == got

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

    def test_a_range_is_read(self, store: ArtifactStore, source: Source) -> None:
        """From the middle, beyond the end, and of nothing."""
        source.put(store, "k", b"0123456789")
        source.put(store, "empty", b"")
        assert store.read("k", 3, 4) == b"3456"
        assert store.read("k", 8, 100) == b"89"
        assert store.read("k", 10, 5) == b""
        assert store.read("k", 100, 5) == b""
        assert store.read("k", 4) == b"456789"
        assert store.read("k") == b"0123456789"
        assert store.read("k", 2, 0) == b""
        assert store.read("empty") == b""
        with store.open("k") as file:
            file.seek(-3, os.SEEK_END)
            assert file.read() == b"789"

    def test_a_key_is_fetched_into_a_file_and_verified(self, store: ArtifactStore, source: Source) -> None:
        """Whole, and going on where an earlier attempt ended."""
        data = os.urandom(3_000_001)
        told: list[int] = []
        stored = source.put(store, "k", data, progress=told.append)
        assert sum(told) == len(data)
        for have in (0, 1, 1_234_567, len(data)):
            told.clear()
            fd = source.open(data[:have])
            try:
                assert store.fetch("k", fd, sha256=stored.sha256, have=have, progress=told.append) == stored
                assert os.pread(fd, len(data) + 1, 0) == data
                assert sum(told) == len(data) - have
            finally:
                os.close(fd)

    def test_what_is_fetched_must_have_the_hash(self, store: ArtifactStore, source: Source) -> None:
        """Another hash, or a beginning that was not of these bytes, is told."""
        source.put(store, "k", b"these bytes")
        fd = source.open(b"")
        try:
            with pytest.raises(ArtifactError) as caught:
                store.fetch("k", fd, sha256=hashlib.sha256(b"other").hexdigest())
            assert caught.value.code == "store.corrupt"
            with pytest.raises(ArtifactError) as caught:
                store.fetch("none", fd)
            assert caught.value.code == "artifact.unknown"
        finally:
            os.close(fd)

    @pytest.mark.parametrize("have", [0, 1_500_000])
    def test_what_is_larger_than_expected_is_refused_before_it_fills_the_disk(
        self, store: ArtifactStore, source: Source, have: int
    ) -> None:
        """No byte beyond the expected ones is written; just as many are fine."""
        data = os.urandom(12_000_000)
        source.put(store, "k", data)
        for size in (1_500_000, len(data) - 1):
            fd = source.open(data[:have])
            try:
                with pytest.raises(ArtifactError) as caught:
                    store.fetch("k", fd, sha256="0" * 64, size=size, have=have)
                assert caught.value.code == "store.corrupt"
                assert os.fstat(fd).st_size <= size
            finally:
                os.close(fd)
        fd = source.open(data[:have])
        try:
            assert store.fetch("k", fd, size=len(data), have=have).size == len(data)
        finally:
            os.close(fd)

    def test_the_names_right_below_a_prefix(self, store: ArtifactStore, source: Source) -> None:
        """Files and folders once each; nothing where there is nothing."""
        for key in ("runs/a/x", "runs/a/y", "runs/b/deep/z", "runs/file", "runs2/c"):
            source.put(store, key, b"x")
        assert sorted(store.children("runs")) == ["a", "b", "file"]
        assert list(store.children("none")) == []
        store.claim("iris_1", "1111aaaa")
        assert list(store.children("ExperimentRun")) == ["iris_1"]
        assert list(store.children("ExperimentRun/iris_1")) == []

    def test_a_path_of_any_kind_has_a_key_that_the_store_keeps(
        self, store: ArtifactStore, source: Source
    ) -> None:
        """The name itself where every store carries it, its hash elsewhere; no two paths share one."""
        prefix = store.claim("iris_1", "1111aaaa")
        keys = {path: key_of(prefix, path) for path in ODD_PATHS}
        assert len(set(keys.values())) == len(keys)
        for path, key in keys.items():
            source.put(store, key, path.encode("utf-8", "surrogateescape"))
        assert sorted(one.key for one in store.list(prefix)) == sorted(keys.values())
        for path, key in keys.items():
            assert read(store, key) == path.encode("utf-8", "surrogateescape")
            assert path_of(prefix, key) in (path, None)

    def test_the_address_of_a_store_tells_no_secret(self, store: ArtifactStore) -> None:
        """It stands in records."""
        assert "://" in store.url
        assert not any(mark in store.url.lower() for mark in ("@", "?", "key", "sig="))


class Source:
    """Files to be stored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def open(self, data: bytes) -> int:
        """A descriptor of a file with these bytes; the caller closes it."""
        path = self.folder / os.urandom(8).hex()
        path.write_bytes(data)
        return os.open(path, os.O_RDWR)

    def put(
        self,
        store: ArtifactStore,
        key: str,
        data: bytes,
        sha256: str | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Stored:
        """Store these bytes."""
        fd = self.open(data)
        try:
            return store.put(key, fd, sha256=sha256, progress=progress)
        finally:
            os.close(fd)


def read(store: ArtifactStore, key: str) -> bytes:
    """All bytes of a key."""
    with store.open(key) as file:
        return file.read()
