"""Rows of the fault matrix that a store over a network must survive: a real Azurite, a proxy that spoils."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

from aml_jupyter.artifacts.azblob import BlobStore
from aml_jupyter.artifacts.azblob.patience import Patience, patience_of
from aml_jupyter.artifacts.names import HASHED, key_of, path_of
from aml_jupyter.artifacts.opening import open_store
from aml_jupyter.artifacts.transfer import Upload, upload
from aml_jupyter.errors import ArtifactError
from aml_jupyter.testing.artifact_store import BAD_KEYS, ODD_PATHS
from tests.azurite import ACCOUNT, Azurite
from tests.faulty_http import FaultyHTTP
from tests.requirements import need

if TYPE_CHECKING:
    from aml_jupyter.artifacts.store import ArtifactStore

PART = 64 << 10
SHORT = Patience(connect=5, read=5, budget=1)
LONG = Patience(connect=10, read=10, budget=60)
KEY = "ExperimentRun/iris_1/outputs/model"


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aml_jupyter.artifacts.azblob.PART", PART)


@pytest.fixture
def proxy(azurite: Azurite) -> Iterator[FaultyHTTP]:
    with FaultyHTTP(azurite.port) as running:
        yield running


@pytest.fixture
def container(azurite: Azurite) -> str:
    return azurite.container()


@pytest.fixture
def through(azurite: Azurite, proxy: FaultyHTTP, container: str) -> BlobStore:
    """The store as it is reached through the proxy, with much patience."""
    return store_through(azurite, proxy, container)


STORES: list[BlobStore] = []


def store_through(
    azurite: Azurite, proxy: FaultyHTTP, container: str, patience: Patience = LONG
) -> BlobStore:
    connection = azurite.connection_string(proxy.endpoint(ACCOUNT))
    store = BlobStore(container, "", {"AZURE_STORAGE_CONNECTION_STRING": connection}, patience)
    STORES.append(store)
    return store


@pytest.fixture(autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    """Whatever happened, nothing is on its way any more, and nothing takes room for it."""
    yield
    for store in STORES:
        assert store.room.free == store.room.size
    STORES.clear()


@pytest.fixture
def direct(azurite: Azurite, container: str) -> ArtifactStore:
    """The same store without the proxy."""
    return open_store(f"azblob://{container}", azurite.environ)


class Files:
    """Files to be sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, size: int) -> tuple[int, bytes]:
        """A descriptor and its bytes."""
        data = os.urandom(size)
        path = self.folder / os.urandom(8).hex()
        path.write_bytes(data)
        return os.open(path, os.O_RDWR), data

    def empty(self) -> int:
        return os.open(self.folder / os.urandom(8).hex(), os.O_RDWR | os.O_CREAT)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "files").mkdir()
    return Files(tmp_path / "files")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def refusal(caught: pytest.ExceptionInfo[ArtifactError]) -> tuple[str, str]:
    return caught.value.code, str(caught.value)


# --- names


def corpus() -> list[str]:
    """Paths that a hostile run may make."""
    odd = [path for path in BAD_KEYS if path]
    parts = [*"%#?&=+;:,@'\"<>|*\\^`{}[]~$!", "%2e%2e", "..%2f", "\u00e4", "e\u0301", "\U0001f600", "\u3000x"]
    odd += [f"a{part}b" for part in parts] + list(parts)
    odd += [chr(number) for number in range(1, 32)] + [
        f"x{chr(number)}" for number in (127, 128, 0x200B, 0xFEFF)
    ]
    odd += [
        "../x",
        "/abs",
        "a//b",
        "a/",
        "./a",
        "a/./b",
        "..\\x",
        "x" * 255,
        "x/" * 500 + "x",
        "d/" * 253 + "x",
    ]
    return [f"outputs/{path}" for path in dict.fromkeys(odd)] + list(ODD_PATHS)


def test_A6_any_name_has_a_key_that_the_store_carries_and_lists(
    direct: ArtifactStore, files: Files, tmp_path: Path
) -> None:
    prefix = direct.claim("iris_1", "1111aaaa")
    fd, _ = files.make(10)
    keys = {path: key_of(prefix, path) for path in corpus()}
    assert len(set(keys.values())) == len(keys) > 100
    uploads = [Upload(key=key, open=lambda: os.dup(fd), size=10) for key in keys.values()]
    assert [one.error for one in upload(direct, prefix, uploads) if one.error] == []
    assert sorted(one.key for one in direct.list(prefix)) == sorted(keys.values())
    for path, key in keys.items():
        assert path_of(prefix, key) == (None if f"/{HASHED}/" in key else path)
    os.close(fd)


def test_A6_a_name_that_another_program_put_into_the_container_is_no_key(
    azurite: Azurite, container: str, direct: ArtifactStore
) -> None:
    with azurite.service as service:
        client = service.get_container_client(container)
        for name in ("run/ok", "run/..%2fx", "run/CON", "run/x.", "run/\u202egpj", "other"):
            client.upload_blob(name, b"x")
    assert [one.key for one in direct.list("run")] == ["run/ok"]
    assert list(direct.children("run")) == ["ok"]


@pytest.mark.parametrize("credential", ["key", "sas"])
def test_A20_no_key_reaches_another_container(azurite: Azurite, files: Files, credential: str) -> None:
    mine, other = azurite.container(), azurite.container()
    environ = azurite.environ if credential == "key" else azurite.sas_environ(azurite.sas(mine))
    store = open_store(f"azblob://{mine}", environ)
    fd, _ = files.make(3)
    for key in (f"../{other}/x", f"a/../../{other}/x", f"..%2f{other}%2fx", f"./../{other}/x", f"/{other}/x"):
        for attempt in (
            lambda key=key: store.put(key, fd),
            lambda key=key: store.read(key),
            lambda key=key: list(store.list(key)),
            lambda key=key: store.delete(key),
        ):
            with pytest.raises(ArtifactError) as caught:
                attempt()
            assert caught.value.code == "artifact.name"
    with pytest.raises(ArtifactError):
        store.claim(f"../../{other}/x", "1111aaaa")
    with azurite.service as service:
        assert list(service.get_container_client(other).list_blobs()) == []
    os.close(fd)


# --- a store that is busy, away, or silent


@pytest.mark.parametrize(
    ("status", "code"), [(503, "ServerBusy"), (429, "TooManyRequests"), (500, "InternalError")]
)
def test_A8_a_store_that_is_busy_once_is_asked_again(
    through: BlobStore, direct: ArtifactStore, proxy: FaultyHTTP, files: Files, status: int, code: str
) -> None:
    fault = proxy.spoil("status", "^PUT", 2, status=status, code=code, headers={"Retry-After": "0"})
    fd, data = files.make(1000)
    assert through.put(KEY, fd).sha256 == sha(data)
    assert fault.count == 2
    assert direct.read(KEY) == data


def test_A8_a_store_that_stays_busy_is_given_up_with_its_files_named(
    azurite: Azurite, proxy: FaultyHTTP, container: str, files: Files
) -> None:
    store = store_through(azurite, proxy, container, SHORT)
    proxy.spoil("status", "^PUT", status=503)
    fd, _ = files.make(1000)
    with pytest.raises(ArtifactError) as caught:
        store.put(KEY, fd)
    code, words = refusal(caught)
    assert code == "store.unavailable"
    assert "503" in words
    assert "times in" in words
    assert "aml push" in words


def test_a_store_that_refuses_is_heard_without_addresses(
    through: BlobStore, proxy: FaultyHTTP, files: Files
) -> None:
    said = "Version 9 is not supported, see http://a/b?sig=SECRET.\nRequestId:1"
    fault = proxy.spoil("status", "^PUT", status=400, code="InvalidHeaderValue", said=said)
    fd, _ = files.make(10)
    with pytest.raises(ArtifactError) as caught:
        through.put(KEY, fd)
    code, words = refusal(caught)
    assert code == "store.unavailable"
    assert "400 InvalidHeaderValue: Version 9 is not supported, see ..." in words
    assert "SECRET" not in words
    assert "RequestId" not in words
    assert fault.count == 1


def test_A8_a_store_that_is_away_ends_the_transfer_of_all_that_are_left(
    azurite: Azurite, proxy: FaultyHTTP, container: str, files: Files
) -> None:
    store = store_through(azurite, proxy, container, SHORT)
    proxy.spoil("status", "^PUT", status=503, after=3)
    fd, _ = files.make(100)
    items = [Upload(key=f"{KEY}{number}", open=lambda: os.dup(fd), size=100) for number in range(200)]
    outcomes = list(upload(store, "ExperimentRun/iris_1", items, workers=4))
    assert len(outcomes) == 200
    assert sum(one.stored is not None for one in outcomes) == 3
    assert {one.error.code for one in outcomes if one.error} == {"store.unavailable"}
    # nothing was tried for those that had not begun
    assert len({one.line for one in proxy.seen("^PUT")}) <= 3 + 8
    os.close(fd)


def test_A8_what_a_store_refused_is_sent_later_and_the_rest_not_again(
    azurite: Azurite, proxy: FaultyHTTP, container: str, files: Files
) -> None:
    made = [files.make(500) for _ in range(20)]
    items = [
        Upload(key=f"{KEY}{number:02}", open=partial(os.dup, fd), size=500, sha256=sha(data))
        for number, (fd, data) in enumerate(made)
    ]
    proxy.spoil("status", r"^PUT .*model1\d", status=403, code="AuthorizationFailure")
    store = store_through(azurite, proxy, container, SHORT)
    first = list(upload(store, "ExperimentRun/iris_1", items, workers=1))
    assert sum(one.sent for one in first) == 10
    proxy.heal()
    proxy.requests.clear()
    second = list(upload(store, "ExperimentRun/iris_1", items))
    assert all(one.stored for one in second)
    assert sum(one.sent for one in second) == 10
    assert len(proxy.seen("^PUT")) == 10


@pytest.mark.parametrize("kind", ["lost", "unheard"])
@pytest.mark.parametrize("size", [1000, 5 * PART + 17], ids=["whole", "parts"])
def test_A10_a_cut_before_or_after_the_store_has_it_changes_nothing(
    through: BlobStore, direct: ArtifactStore, proxy: FaultyHTTP, files: Files, kind: str, size: int
) -> None:
    proxy.spoil(kind, "^PUT", 3)
    fd, data = files.make(size)
    told: list[int] = []
    assert through.put(KEY, fd, progress=told.append).sha256 == sha(data)
    assert sum(told) == size
    assert direct.read(KEY) == data
    stored = direct.stat(KEY)
    assert stored is not None
    assert stored.sha256 == sha(data)


def test_A10_what_arrived_is_not_sent_again(
    through: BlobStore, direct: ArtifactStore, proxy: FaultyHTTP, files: Files
) -> None:
    fd, data = files.make(3 * PART)
    through.put(KEY, fd, sha256=sha(data))
    proxy.requests.clear()
    assert through.put(KEY, fd, sha256=sha(data)).size == len(data)
    assert proxy.seen("^PUT") == []


# --- parts


def test_A11_a_blob_is_not_there_before_all_of_it_is(
    azurite: Azurite, proxy: FaultyHTTP, container: str, direct: ArtifactStore, files: Files
) -> None:
    fd, data = files.make(10 * PART + 1)
    proxy.spoil("status", "^PUT .*comp=block&", status=503, after=6)
    with pytest.raises(ArtifactError):
        store_through(azurite, proxy, container, SHORT).put(KEY, fd)
    assert direct.stat(KEY) is None
    assert list(direct.list("ExperimentRun")) == []
    assert list(direct.children("ExperimentRun")) == []
    # another process goes on with the parts that are there
    proxy.heal()
    proxy.requests.clear()
    told: list[int] = []
    store_through(azurite, proxy, container).put(KEY, fd, progress=told.append)
    assert sum(told) == len(data)
    assert len(proxy.seen("^PUT .*comp=block&")) == 11 - 6
    assert direct.read(KEY) == data


def test_A11_a_commit_whose_answer_is_lost_is_found_done(
    through: BlobStore, direct: ArtifactStore, proxy: FaultyHTTP, files: Files
) -> None:
    proxy.spoil("unheard", "^PUT .*comp=blocklist", 1)
    fd, data = files.make(4 * PART)
    assert through.put(KEY, fd).sha256 == sha(data)
    assert direct.read(KEY) == data
    assert len(proxy.seen("^PUT .*comp=block&")) == 4


def test_A11_many_large_files_at_once_share_one_room(
    through: BlobStore, direct: ArtifactStore, files: Files
) -> None:
    made = {f"{KEY}{number}": files.make(5 * PART + number) for number in range(12)}
    items = [
        Upload(key=key, open=partial(os.dup, fd), size=len(data), sha256=sha(data))
        for key, (fd, data) in made.items()
    ]
    least = through.room.size
    lock = threading.Lock()
    take = through.room.take

    def watched(count: int) -> int:
        nonlocal least
        taken = take(count)
        with lock:
            least = min(least, through.room.free)
        return taken

    through.room.take = watched  # type: ignore[method-assign]
    assert all(one.sent for one in upload(through, "ExperimentRun/iris_1", items, workers=6))
    assert 0 <= least < through.room.size
    for key, (_, data) in made.items():
        assert direct.read(key) == data


def test_A11_other_bytes_of_that_name_are_replaced_whole(
    through: BlobStore, direct: ArtifactStore, files: Files
) -> None:
    for size in (5 * PART, 100, 3 * PART + 5, 0):
        fd, data = files.make(size)
        through.put(KEY, fd)
        assert direct.read(KEY) == data
        os.close(fd)


def test_A11_two_processes_that_send_a_large_file_at_once_leave_one_of_the_two(
    azurite: Azurite, container: str, direct: ArtifactStore, files: Files
) -> None:
    made = [files.make(6 * PART) for _ in range(3)]
    stores = [BlobStore(container, "", azurite.environ, LONG) for _ in made]
    threads = [
        threading.Thread(target=store.put, args=(KEY, fd))
        for store, (fd, _) in zip(stores, made, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = direct.read(KEY)
    assert found in [data for _, data in made]
    stored = direct.stat(KEY)
    assert stored is not None
    assert stored.sha256 == sha(found)


# --- damage


@pytest.mark.parametrize("size", [1000, 3 * PART + 17], ids=["whole", "parts"])
def test_A12_a_bit_that_flips_on_the_way_up_is_noticed_and_sent_again(
    through: BlobStore, direct: ArtifactStore, proxy: FaultyHTTP, files: Files, size: int
) -> None:
    fault = proxy.spoil("flip_up", "^PUT .*(comp=block&|model$)", 1)
    fd, data = files.make(size)
    through.put(KEY, fd)
    assert fault.count == 1
    assert direct.read(KEY) == data


def test_A12_bits_that_always_flip_on_the_way_up_store_nothing(
    azurite: Azurite, proxy: FaultyHTTP, container: str, direct: ArtifactStore, files: Files
) -> None:
    proxy.spoil("flip_up", "^PUT")
    fd, _ = files.make(1000)
    with pytest.raises(ArtifactError) as caught:
        store_through(azurite, proxy, container, SHORT).put(KEY, fd)
    assert caught.value.code == "store.corrupt"
    assert direct.stat(KEY) is None


@pytest.mark.parametrize("kind", ["flip", "truncate"])
@pytest.mark.parametrize("size", [1000, 3 * PART + 17], ids=["whole", "parts"])
def test_A12_damage_on_the_way_down_is_noticed_and_fetched_again(
    through: BlobStore, proxy: FaultyHTTP, files: Files, kind: str, size: int
) -> None:
    fd, data = files.make(size)
    through.put(KEY, fd)
    fault = proxy.spoil(kind, "^GET .*model", 1)
    into = files.empty()
    told: list[int] = []
    assert through.fetch(KEY, into, sha256=sha(data), progress=told.append).size == size
    assert os.pread(into, size + 1, 0) == data
    assert fault.count == 1
    assert sum(told) == size


def test_A12_damage_that_stays_is_told(
    azurite: Azurite, proxy: FaultyHTTP, container: str, direct: ArtifactStore, files: Files
) -> None:
    fd, data = files.make(2 * PART)
    direct.put(KEY, fd)
    store = store_through(azurite, proxy, container, SHORT)
    proxy.spoil("flip", "^GET .*model")
    into = files.empty()
    with pytest.raises(ArtifactError) as caught:
        store.fetch(KEY, into, sha256=sha(data))
    assert caught.value.code == "store.corrupt"
    proxy.heal()
    proxy.spoil("truncate", "^GET .*model")
    with pytest.raises(ArtifactError) as caught:
        store.fetch(KEY, into, sha256=sha(data))
    assert caught.value.code == "store.unavailable"


def test_A12_a_blob_that_somebody_altered_is_not_handed_out(
    azurite: Azurite, container: str, direct: ArtifactStore, files: Files
) -> None:
    fd, data = files.make(100)
    direct.put(KEY, fd)
    with azurite.service as service:
        service.get_blob_client(container, KEY).upload_blob(b"evil", overwrite=True)
    into = files.empty()
    with pytest.raises(ArtifactError) as caught:
        direct.fetch(KEY, into, sha256=sha(data))
    assert caught.value.code == "store.corrupt"
    # and put again, it is replaced
    direct.put(KEY, fd, sha256=sha(data))
    assert direct.read(KEY) == data


def test_A12_a_download_goes_on_where_it_was_cut(through: BlobStore, proxy: FaultyHTTP, files: Files) -> None:
    fd, data = files.make(20 * PART)
    through.put(KEY, fd)
    into = files.empty()
    proxy.spoil("status", "^GET .*model", status=403, code="AuthorizationFailure", after=9)
    with pytest.raises(ArtifactError):
        through.fetch(KEY, into, sha256=sha(data))
    have = os.fstat(into).st_size
    assert 0 < have < len(data)
    assert os.pread(into, have, 0) == data[:have]
    proxy.heal()
    proxy.requests.clear()
    through.fetch(KEY, into, sha256=sha(data), have=have)
    assert os.pread(into, len(data) + 1, 0) == data
    assert len(proxy.seen("^GET .*model")) == 20 - have // PART


def test_A13_a_store_that_says_nothing_is_given_up_in_time(
    azurite: Azurite, proxy: FaultyHTTP, container: str, files: Files
) -> None:
    proxy.spoil("silence", "^PUT", seconds=600)
    store = store_through(azurite, proxy, container, Patience(connect=0.5, read=0.5, budget=1.5))
    fd, _ = files.make(100)
    with pytest.raises(ArtifactError) as caught:
        store.put(KEY, fd)
    code, words = refusal(caught)
    assert code == "store.unavailable"
    assert "tried" in words
    assert ACCOUNT not in words


def test_A13_silence_once_is_waited_for_no_longer_than_its_limit(
    azurite: Azurite, proxy: FaultyHTTP, container: str, direct: ArtifactStore, files: Files
) -> None:
    proxy.spoil("silence", "^PUT", 1, seconds=600)
    store = store_through(azurite, proxy, container, Patience(connect=1, read=1, budget=60))
    fd, data = files.make(100)
    store.put(KEY, fd)
    assert direct.read(KEY) == data


def test_A13_a_slow_answer_is_not_silence(through: BlobStore, proxy: FaultyHTTP, files: Files) -> None:
    fd, data = files.make(1000)
    through.put(KEY, fd)
    proxy.spoil("slow", "^GET .*model", seconds=1.0)
    assert through.read(KEY) == data


def test_A13_a_person_says_how_long_is_waited() -> None:
    assert patience_of({}).budget == 60
    assert patience_of({"AML_STORE_PATIENCE": "2.5"}) == Patience(connect=2.5, read=2.5, budget=2.5)
    assert patience_of({"AML_STORE_PATIENCE": "soon"}).budget == 60


def test_A13_an_account_that_does_not_exist_is_told_without_its_signature() -> None:
    environ = {
        "AZURE_STORAGE_ACCOUNT": "nobody",
        "AZURE_STORAGE_SAS_TOKEN": "sv=2024-01-01&sig=topsecret",
        "AZURE_STORAGE_SERVICE_ENDPOINT": "http://127.0.0.1:9/nobody",
    }
    with pytest.raises(ArtifactError) as caught:
        BlobStore("azureml", "", environ, SHORT).stat("k")
    code, words = refusal(caught)
    assert code == "store.unavailable"
    assert "refused" in words
    assert "topsecret" not in words


# --- credentials, clocks, containers


def test_A9_credentials_that_are_refused_are_looked_for_once_more(
    azurite: Azurite, container: str, files: Files
) -> None:
    environ = azurite.sas_environ(azurite.sas(container, minutes=-1, start=-60))
    store = BlobStore(container, "", environ, LONG)
    fd, data = files.make(1000)
    with pytest.raises(ArtifactError) as caught:
        store.put(KEY, fd)
    code, words = refusal(caught)
    assert code == "store.auth"
    assert "expired" in words
    assert "sig=" not in words
    # a person sets a new one, while the process goes on
    environ.update(azurite.sas_environ(azurite.sas(container)))
    store.put(KEY, fd)
    assert store.read(KEY) == data


def test_A9_a_signature_that_expires_in_the_middle_is_replaced(
    azurite: Azurite, proxy: FaultyHTTP, container: str, direct: ArtifactStore, files: Files
) -> None:
    endpoint = proxy.endpoint(ACCOUNT)
    environ = azurite.sas_environ(azurite.sas(container), endpoint)
    store = BlobStore(container, "", environ, LONG)
    fd, data = files.make(10 * PART)
    until = parse_qs(environ["AZURE_STORAGE_SAS_TOKEN"])["se"][0].rpartition("T")[2][:5]
    expired = proxy.spoil(
        "status", f"se=[^&]*{until.replace(':', '%3A')}", status=403, code="AuthenticationFailed", after=5
    )

    def replace(_line: str) -> None:
        if len(proxy.requests) >= 5:
            environ.update(azurite.sas_environ(azurite.sas(container, minutes=90), endpoint))

    proxy.on_request = replace
    store.put(KEY, fd)
    assert expired.count >= 1
    assert direct.read(KEY) == data


def test_A9_a_refusal_is_not_asked_for_again_with_the_same_credentials(
    azurite: Azurite, proxy: FaultyHTTP, container: str, files: Files
) -> None:
    proxy.spoil("status", "^PUT", status=403, code="AuthenticationFailed")
    fd, _ = files.make(100)
    with pytest.raises(ArtifactError) as caught:
        store_through(azurite, proxy, container).put(KEY, fd)
    assert caught.value.code == "store.auth"
    assert len(proxy.seen("^PUT")) == 1


def test_A9_no_credentials_at_all_name_the_variables(home: str) -> None:
    for environ in ({}, {"AZURE_STORAGE_ACCOUNT": "x", "AZURE_STORAGE_KEY": "not base64!"}):
        with pytest.raises(ArtifactError) as caught:
            BlobStore("azureml", "", environ, SHORT).stat("k")
        assert caught.value.code == "store.credentials"
        assert ("malformed" if environ else "AZURE_STORAGE_KEY") in str(caught.value)
        assert "not base64!" not in str(caught.value)


@pytest.mark.parametrize(("shift", "word"), [("-20m", "behind"), ("+20m", "ahead")])
def test_A15_a_wrong_clock_is_told_as_a_wrong_clock(azurite: Azurite, shift: str, word: str) -> None:
    faketime = need("faketime")
    container = azurite.container()
    # signs with its own clock, valid for a few minutes around it
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.azurite import Azurite
from aml_jupyter.artifacts.opening import open_store
from aml_jupyter.errors import ArtifactError
server = Azurite.__new__(Azurite)
server.port = {azurite.port}
store = open_store("azblob://{container}", server.sas_environ(server.sas({container!r}, minutes=5)))
try:
    store.stat("k")
except ArtifactError as error:
    print(error)
"""
    command = [faketime, "-f", shift, sys.executable, "-c", program]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "[store.clock]" in answer.stdout, answer.stdout + answer.stderr
    assert f"20 minutes {word}" in answer.stdout
    assert "Set the clock" in answer.stdout


def test_A16_a_container_that_is_missing_is_named_with_what_makes_it(azurite: Azurite, files: Files) -> None:
    name = azurite.container(make=False)
    store = BlobStore(name, "", azurite.environ, SHORT)
    fd, _ = files.make(10)
    for attempt in (
        lambda: store.put(KEY, fd),
        lambda: store.stat(KEY),
        lambda: store.open(KEY),
        lambda: list(store.list("ExperimentRun")),
        lambda: list(store.children("ExperimentRun")),
        lambda: store.delete(KEY),
    ):
        with pytest.raises(ArtifactError) as caught:
            attempt()
        code, words = refusal(caught)
        assert code == "store.missing"
        assert f"az storage container create --name {name}" in words


def test_A16_the_first_run_makes_the_container_where_that_is_allowed(azurite: Azurite) -> None:
    name = azurite.container(make=False)
    token = azurite.sas(name)
    with pytest.raises(ArtifactError) as caught:
        BlobStore(name, "", azurite.sas_environ(token), SHORT).claim("iris_1", "1111aaaa")
    assert caught.value.code in ("store.missing", "store.auth", "store.denied")
    store = BlobStore(name, "", azurite.environ, SHORT)
    assert store.claim("iris_1", "1111aaaa") == "ExperimentRun/iris_1"


def test_A16_a_signature_that_may_only_read_is_told_so(
    azurite: Azurite, container: str, files: Files
) -> None:
    store = BlobStore(container, "", azurite.sas_environ(azurite.sas(container, "rl")), SHORT)
    fd, _ = files.make(10)
    with pytest.raises(ArtifactError) as caught:
        store.put(KEY, fd)
    code, words = refusal(caught)
    assert code == "store.denied"
    assert "needs read, write" in words
    assert list(store.list("ExperimentRun")) == []


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (409, "ContainerBeingDeleted", "store.missing"),
        (403, "InsufficientAccountPermissions", "store.denied"),
        (403, "AccountIsDisabled", "store.denied"),
        (409, "BlobImmutableDueToPolicy", "store.denied"),
        (412, "LeaseIdMissing", "store.denied"),
        (409, "BlobArchived", "store.denied"),
        (413, "RequestBodyTooLarge", "artifact.too_big"),
        (400, "OutOfRangeInput", "store.url"),
        (403, "KeyBasedAuthenticationNotPermitted", "store.denied"),
        (403, "AuthorizationFailure", "store.auth"),
        (418, "SomethingNew", "store.unavailable"),
    ],
)
def test_A16_each_refusal_has_a_code_of_its_own(
    azurite: Azurite,
    proxy: FaultyHTTP,
    container: str,
    files: Files,
    status: int,
    answer: str,
    code: str,
) -> None:
    proxy.spoil("status", "^PUT", status=status, code=answer)
    fd, _ = files.make(10)
    with pytest.raises(ArtifactError) as caught:
        store_through(azurite, proxy, container, SHORT).put(KEY, fd)
    found, words = refusal(caught)
    assert found == code
    assert answer in words
    assert len(proxy.seen("^PUT")) == 1


def test_A16_a_lease_that_somebody_holds_is_told(
    azurite: Azurite, container: str, direct: ArtifactStore, files: Files
) -> None:
    fd, _ = files.make(10)
    direct.put(KEY, fd)
    other, _ = files.make(20)
    with azurite.service as service:
        lease = service.get_blob_client(container, KEY).acquire_lease()
        with pytest.raises(ArtifactError) as caught:
            direct.put(KEY, other)
        lease.release()
    assert caught.value.code == "store.denied"
    assert "lease" in str(caught.value)
