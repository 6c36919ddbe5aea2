"""Stores that outlive the machine: the same contract for each, addresses, transfers side by side."""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import os
import resource
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aml_jupyter import commands, pushing, retention
from aml_jupyter.artifacts import FolderStore
from aml_jupyter.artifacts.names import key_of
from aml_jupyter.artifacts.opening import check_url, container_name, open_store
from aml_jupyter.artifacts.store import hash_beginning
from aml_jupyter.artifacts.transfer import Download, Progress, Upload, download, upload
from aml_jupyter.commands.screen import Screen
from aml_jupyter.errors import ArtifactError
from aml_jupyter.testing.artifact_store import ArtifactStoreContract
from tests.azurite import ACCOUNT, KEY, Azurite
from tests.stored_runs import until

if TYPE_CHECKING:
    from aml_jupyter.artifacts.store import ArtifactStore

PREFIX = "ExperimentRun/iris_1"


class TestFolderOfATeam(ArtifactStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ArtifactStore:
        (tmp_path / "team").mkdir()
        return open_store(f"folder://{tmp_path}/team")


class TestBlobs(ArtifactStoreContract):
    @pytest.fixture
    def store(self, azurite: Azurite) -> ArtifactStore:
        return open_store(f"azblob://{azurite.container()}", azurite.environ)


class TestBlobsBelowAPrefix(ArtifactStoreContract):
    @pytest.fixture
    def store(self, azurite: Azurite) -> ArtifactStore:
        container = azurite.container()
        token = azurite.sas(container)
        return open_store(f"azblob://{container}/team/ä b", azurite.sas_environ(token))


class TestFsspecInMemory(ArtifactStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ArtifactStore:
        return open_store(f"memory://{tmp_path.name}")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3, on this machine."""
    moto: Any = pytest.importorskip("moto.server", reason="needs moto")
    make: Callable[..., Any] = moto.ThreadedMotoServer
    server = make(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket that nobody else uses; the environment says how to get at it."""
    from urllib.request import Request, urlopen

    names = {"AWS_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    for name, value in (names | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{os.urandom(6).hex()}"
    # the server takes anybody's word
    urlopen(Request(f"{s3}/{name}", method="PUT")).close()
    return name


class TestFsspecOnS3(ArtifactStoreContract):
    @pytest.fixture
    def store(self, bucket: str) -> ArtifactStore:
        return open_store(f"s3://{bucket}/team")


def test_A16_a_bucket_that_is_missing_is_named(bucket: str, tmp_path: Path) -> None:
    store = open_store("s3://no-such-bucket/team")
    attempts: tuple[Callable[[], object], ...] = (
        lambda: put(store, "k", b"x", tmp_path),
        lambda: store.claim("iris_1", "1111aaaa"),
    )
    for attempt in attempts:
        with pytest.raises(ArtifactError) as caught:
            attempt()
        assert caught.value.code == "store.missing"
        assert "s3://no-such-bucket/team" in str(caught.value)


def test_what_is_kept_in_the_folder_of_a_team_is_for_all_who_may_use_the_folder(tmp_path: Path) -> None:
    team = tmp_path / "team"
    team.mkdir()
    team.chmod(0o770)
    store = open_store(f"folder://{team}")
    store.claim("iris_1", "1111aaaa")
    put(store, "ExperimentRun/iris_1/outputs/a", b"x", tmp_path)
    modes = {path.relative_to(team).as_posix(): path.stat().st_mode & 0o777 for path in team.rglob("*")}
    assert modes == {
        "ExperimentRun": 0o770,
        "ExperimentRun/iris_1": 0o770,
        "ExperimentRun/iris_1/.uuid": 0o660,
        "ExperimentRun/iris_1/outputs": 0o770,
        "ExperimentRun/iris_1/outputs/a": 0o660,
    }


def test_the_folder_of_a_team_that_is_not_mounted_is_not_made(tmp_path: Path) -> None:
    store = open_store(f"folder://{tmp_path}/team")
    for attempt in (
        lambda: store.claim("iris_1", "1111aaaa"),
        lambda: put(store, "k", b"x", tmp_path),
        lambda: list(store.list("ExperimentRun")),
        lambda: list(store.children("ExperimentRun")),
        lambda: store.stat("k"),
    ):
        with pytest.raises(ArtifactError) as caught:
            attempt()
        assert caught.value.code == "store.missing"
    assert not (tmp_path / "team").exists()


def put(store: ArtifactStore, key: str, data: bytes, folder: Path) -> str:
    """Store these bytes; their hash."""
    file = folder / os.urandom(8).hex()
    file.write_bytes(data)
    fd = os.open(file, os.O_RDONLY)
    try:
        return store.put(key, fd).sha256
    finally:
        os.close(fd)
        file.unlink()


# --- addresses


@pytest.mark.parametrize(
    "url",
    [
        "folder",
        "folder:///mnt/team/runs",
        "azblob://azureml",
        "azblob://abc/team/ä b",
        "s3://bucket/a",
        "memory://",
    ],
)
def test_an_address_of_a_store_is_taken(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "no store"),
        ("azureml", "no store"),
        ("azblob:/azureml", "no store"),
        ("azblob://", "name of a container"),
        ("azblob://ab", "3 to 63"),
        ("azblob://My_Container", "nearest: azblob://my-container"),
        ("azblob://a--b", "nearest: azblob://a-b"),
        ("azblob://azureml/../other", "folder of the store"),
        ("azblob://azureml/" + "x" * 200, "folder of the store"),
        ("azblob://azureml?sv=1&sig=topsecret", "Credentials come from the environment"),
        ("azblob://me:topsecret@azureml", "Credentials come from the environment"),
        ("folder://relative", "absolute path"),
        ("folder:///", "absolute path"),
        ("file:///mnt/team", "folder:///mnt/team"),
        ("folder:///a/../b", "absolute path"),
        ("s3://", "no bucket"),
        ("DefaultEndpointsProtocol=https;AccountKey=topsecret", "no store"),
    ],
)
def test_A16_an_address_that_is_none_is_told_with_what_would_be_one(url: str, words: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        open_store(url, {})
    assert caught.value.code == "store.url"
    assert words in str(caught.value)
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("workspace", "container"),
    [
        ("My Workspace", "my-workspace"),
        ("ws", "aml-ws"),
        ("_", "aml"),
        ("a" * 80, "a" * 63),
        ("é__x.", "aml-x"),
    ],
)
def test_A16_any_workspace_has_a_legal_container(workspace: str, container: str) -> None:
    assert container_name(workspace) == container
    check_url(f"azblob://{container}")


def test_a_driver_that_is_not_installed_is_named() -> None:
    with pytest.raises(ArtifactError) as caught:
        open_store("gs://bucket").stat("k")
    assert caught.value.code == "store.extra"
    assert "aml_jupyter[gs]" in caught.value.hint
    with pytest.raises(ArtifactError) as caught:
        open_store("nonsense://bucket").stat("k")
    assert caught.value.code == "store.url"


def test_an_account_without_a_key_is_looked_up_in_the_keyring(
    azurite: Azurite, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keyring
    from keyring.backend import KeyringBackend

    kept: dict[tuple[str, str], str] = {}

    class Memory(KeyringBackend):
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            return kept.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            kept[service, username] = password

    monkeypatch.setattr("keyring.core._keyring_backend", Memory())  # type: ignore[no-untyped-call]
    container = azurite.container()
    environ = {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_SERVICE_ENDPOINT": azurite.endpoint}
    for secret in (KEY, azurite.sas(container), azurite.connection_string()):
        keyring.set_password("aml_jupyter", f"azblob:{ACCOUNT}", secret)
        assert open_store(f"azblob://{container}", environ).stat("k") is None


# --- many files


@pytest.fixture(params=["folder", "blob"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        (tmp_path / "team").mkdir()
        return open_store(f"folder://{tmp_path}/team")
    azurite: Azurite = request.getfixturevalue("azurite")
    return open_store(f"azblob://{azurite.container()}", azurite.environ)


class Outputs:
    """Files of a run, to be sent."""

    def __init__(self, folder: Path, contents: dict[str, bytes]) -> None:
        folder.mkdir()
        self.contents = contents
        self.opened = 0
        for number, data in enumerate(contents.values()):
            (folder / str(number)).write_bytes(data)
        self.uploads = [
            Upload(
                key=key_of(PREFIX, path),
                open=partial(self._open, folder / str(number)),
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
            for number, (path, data) in enumerate(contents.items())
        ]

    def _open(self, path: Path) -> int:
        self.opened += 1
        return os.open(path, os.O_RDONLY)

    @property
    def downloads(self) -> list[Download]:
        return [
            Download(key=one.key, local=one.key, size=one.size, sha256=one.sha256) for one in self.uploads
        ]


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    contents = {f"outputs/{number:03}": os.urandom(number * 97) for number in range(60)}
    contents |= {"outputs/big": os.urandom(3_000_000), "outputs/ünï %#.txt": b"x", "outputs/a?b": b"y"}
    return Outputs(tmp_path / "outputs", contents)


def test_files_are_stored_side_by_side_and_none_twice(remote: ArtifactStore, outputs: Outputs) -> None:
    seen: list[Progress] = []
    outcomes = list(upload(remote, PREFIX, outputs.uploads, progress=seen.append))
    assert all(one.sent and one.stored for one in outcomes)
    assert len(outcomes) == len(outputs.uploads)
    total = sum(map(len, outputs.contents.values()))
    assert (seen[-1].files_done, seen[-1].bytes_done) == (seen[-1].files, seen[-1].bytes) == (63, total)
    assert [one.bytes_done for one in seen] == sorted(one.bytes_done for one in seen)
    for path, data in outputs.contents.items():
        assert remote.read(key_of(PREFIX, path)) == data
    opened = outputs.opened
    again = list(upload(remote, PREFIX, outputs.uploads, progress=seen.append))
    assert not any(one.sent for one in again)
    assert {one.key for one in again} == {one.key for one in outcomes}
    assert outputs.opened == opened
    assert (seen[-1].files_done, seen[-1].bytes_done) == (63, total)


def test_no_files_at_all_ask_nothing() -> None:
    nowhere = open_store("folder:///none/at/all")
    assert list(upload(nowhere, PREFIX, [])) == []


def test_one_file_that_cannot_be_read_ends_no_other(remote: ArtifactStore, outputs: Outputs) -> None:
    def gone() -> int:
        return os.open("/none/at/all", os.O_RDONLY)

    changed = outputs.uploads[3].replace(sha256="0" * 64)
    items = [outputs.uploads[1].replace(open=gone), *outputs.uploads[2:3], changed, *outputs.uploads[4:]]
    outcomes = {one.key: one for one in upload(remote, PREFIX, items)}
    failed = {key: one.error.code for key, one in outcomes.items() if one.error}
    assert failed == {items[0].key: "artifact.unreadable", changed.key: "store.corrupt"}
    assert sum(one.stored is not None for one in outcomes.values()) == len(items) - 2


def test_keys_are_fetched_into_the_folder_of_this_machine(
    remote: ArtifactStore, outputs: Outputs, tmp_path: Path
) -> None:
    list(upload(remote, PREFIX, outputs.uploads))
    here = FolderStore(str(tmp_path / "here"))
    seen: list[Progress] = []
    outcomes = list(download(remote, here, outputs.downloads, progress=seen.append))
    assert [one.error for one in outcomes if one.error] == []
    for path, data in outputs.contents.items():
        assert here.read(key_of(PREFIX, path)) == data
    assert (seen[-1].files_done, seen[-1].bytes_done) == (seen[-1].files, seen[-1].bytes)
    assert not any(one.sent for one in download(remote, here, outputs.downloads))
    assert os.listdir(tmp_path / "here/.partial") == []


def test_what_was_fetched_in_part_goes_on_and_a_wrong_beginning_is_thrown_away(
    remote: ArtifactStore, outputs: Outputs, tmp_path: Path
) -> None:
    list(upload(remote, PREFIX, outputs.uploads))
    big = next(one for one in outputs.downloads if one.key.endswith("/big"))
    data = outputs.contents["outputs/big"]
    here = FolderStore(str(tmp_path / "here"))
    for beginning in (data[:1_000_000], os.urandom(1_000_000), data + b"more", data):
        partial_file = tmp_path / "here/.partial" / big.sha256
        partial_file.parent.mkdir(parents=True, exist_ok=True)
        partial_file.write_bytes(beginning)
        (outcome,) = download(remote, here, [big])
        assert outcome.error is None
        assert here.read(big.local) == data
        here.delete(big.local)


def test_a_key_that_is_gone_or_altered_is_told_and_leaves_nothing(
    remote: ArtifactStore, outputs: Outputs, tmp_path: Path
) -> None:
    list(upload(remote, PREFIX, outputs.uploads))
    remote.delete(outputs.uploads[5].key)
    put(remote, outputs.uploads[6].key, b"x" * outputs.uploads[6].size, tmp_path)
    here = FolderStore(str(tmp_path / "here"))
    outcomes = {one.key: one.error for one in download(remote, here, outputs.downloads)}
    failed = {key: error.code for key, error in outcomes.items() if error}
    assert failed == {outputs.uploads[5].key: "artifact.unknown", outputs.uploads[6].key: "store.corrupt"}
    assert here.stat(outputs.uploads[6].key) is None
    assert os.listdir(tmp_path / "here/.partial") == []


def test_of_an_object_that_was_swapped_for_a_larger_one_no_more_is_fetched_than_was_kept(
    remote: ArtifactStore, outputs: Outputs, tmp_path: Path
) -> None:
    list(upload(remote, PREFIX, outputs.uploads))
    item = outputs.downloads[3]
    put(remote, item.key, b"x" * 3_000_000, tmp_path)
    here = FolderStore(str(tmp_path / "here"))
    seen: list[Progress] = []
    (outcome,) = download(remote, here, [item], progress=seen.append)
    assert outcome.error is not None
    assert outcome.error.code == "store.corrupt"
    assert max((one.bytes_done for one in seen), default=0) <= item.size
    assert os.listdir(tmp_path / "here/.partial") == []


def test_the_beginning_of_a_large_file_is_hashed_without_holding_it(tmp_path: Path) -> None:
    with (tmp_path / "beginning").open("w+b") as file:
        file.truncate(40_000_000)
        tracemalloc.start()
        try:
            hashing, length = hash_beginning(file.fileno(), 1 << 40)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (length, hashing.hexdigest()) == (40_000_000, hashlib.sha256(bytes(40_000_000)).hexdigest())
    assert peak < 5_000_000


def test_hostile_names_of_a_download_write_nothing(
    remote: ArtifactStore, outputs: Outputs, tmp_path: Path
) -> None:
    list(upload(remote, PREFIX, outputs.uploads[:2]))
    here = FolderStore(str(tmp_path / "here/inner"))
    for local in ("../x", "/etc/x", "a/../../x", ""):
        item = outputs.downloads[1].replace(local=local)
        (outcome,) = download(remote, here, [item])
        assert outcome.error is not None
        assert outcome.error.code == "artifact.name"
    assert not (tmp_path / "here/x").exists()


def test_A18_a_full_disk_while_files_are_fetched_is_told_and_nothing_is_half_there(
    remote: ArtifactStore, outputs: Outputs, tmp_path: Path
) -> None:
    list(upload(remote, PREFIX, outputs.uploads))
    here = FolderStore(str(tmp_path / "here"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        outcomes = list(download(remote, here, [one for one in outputs.downloads if one.size > 1_000_000]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert [one.error.code for one in outcomes if one.error] == ["store.no_space"]
    assert list(here.list(PREFIX)) == []
    # when there is room again, it goes on
    assert all(one.stored for one in download(remote, here, outputs.downloads))


def test_a_push_that_has_waited_for_another_one_says_that_nothing_is_left(home: str) -> None:
    told = io.StringIO()
    screen = Screen(io.StringIO(), told)
    turn = pushing.take_turn(home)
    assert turn is not None
    pusher = threading.Thread(target=commands.execute, args=(["push"], screen))
    with turn:
        pusher.start()
        until(lambda: "waiting for it" in told.getvalue())
    pusher.join()
    assert told.getvalue().endswith("aml: nothing is pending any more\n")


def test_a_collection_removes_beginnings_of_downloads_that_nobody_goes_on_with(home: str) -> None:
    folder = Path(home, "artifacts/.partial")
    folder.mkdir(parents=True)
    for name in ("old", "going on", "young"):
        (folder / name).write_bytes(b"beginning")
    yesterday = time.time() - 90_000
    for name in ("old", "going on"):
        os.utime(folder / name, (yesterday, yesterday))
    with (folder / "going on").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert retention.collect_garbage(home, dry_run=True).leftovers == 1
        assert len(os.listdir(folder)) == 3
        assert retention.collect_garbage(home).bytes == 9
        assert sorted(os.listdir(folder)) == ["going on", "young"]
    retention.collect_garbage(home)
    assert os.listdir(folder) == ["young"]
