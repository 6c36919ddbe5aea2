"""What is removed here is gone in a Blob container too, whatever the way to it does meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import artifacts, pushing, retention, runs, syncing
from aml_jupyter.retention import remote
from aml_jupyter.retention.repair import repair
from aml_jupyter.runs import RunDirectory
from aml_jupyter.snapshot import Rules, Store
from tests.azurite import ACCOUNT, Azurite
from tests.faulty_http import FaultyHTTP
from tests.stored_runs import blob_store
from tests.test_trash import aml, listed, with_artifacts


@pytest.fixture
def proxy(azurite: Azurite) -> Iterator[FaultyHTTP]:
    with FaultyHTTP(azurite.port) as found:
        yield found


@pytest.fixture
def store(azurite: Azurite, proxy: FaultyHTTP, monkeypatch: pytest.MonkeyPatch) -> str:
    return blob_store(azurite, monkeypatch, proxy.endpoint(ACCOUNT))


@pytest.fixture
def project(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "iris"
    folder.mkdir()
    (folder / "train.py").write_text("print(1)\n")
    monkeypatch.chdir(folder)
    return folder


def blobs(azurite: Azurite, store: str) -> list[str]:
    """Every blob of the container, uncommitted ones too."""
    container = store.removeprefix("azblob://").partition("/")[0]
    with azurite.service as service:
        found = service.get_container_client(container).list_blobs(include=["uncommittedblobs"])
        return sorted(str(one.name) for one in found)


def stored(home: str, store: str, snapshot_id: str) -> RunDirectory:
    directory = with_artifacts(home, snapshot_id=snapshot_id)
    assert pushing.push(directory, store).state == "stored"
    return directory


def test_a_removed_run_leaves_nothing_in_the_container_and_its_snapshot_goes_with_the_last(
    home: str, azurite: Azurite, store: str, project: Path
) -> None:
    taken = Store(home + "/snapshots").take(str(project), Rules())
    first, second = stored(home, store, taken.id), stored(home, store, taken.id)
    assert [name for name in blobs(azurite, store) if first.run_id in name]
    assert aml("rm", first.run_id, "--now")[2] == ""
    assert not [name for name in blobs(azurite, store) if first.run_id in name]
    aml("gc")
    assert f"team/Snapshots/{taken.id}" in blobs(azurite, store)
    assert syncing.sync(f"{home}-other", store).pulled == (second.run_id,)
    aml("rm", second.run_id)
    aml("gc", "--empty-trash")
    assert blobs(azurite, store) == []
    assert list(remote.tombstones(home)) == []


@pytest.mark.parametrize(
    "pattern",
    [r"GET .*\.uuid", "GET .*restype=container", "DELETE .*/Runs/", r"DELETE .*run\.json", "DELETE .*model"],
)
def test_A8_a_removal_that_the_container_refuses_is_finished_by_the_next_collection(
    home: str, azurite: Azurite, proxy: FaultyHTTP, store: str, project: Path, pattern: str
) -> None:
    directory = stored(home, store, "")
    fault = proxy.spoil("status", pattern, status=403, code="AuthorizationFailure")
    told = aml("rm", directory.run_id, "--now")[2]
    assert fault.count > 0
    assert f"{directory.run_id} is still in its store" in told
    assert listed(home) == []
    if "DELETE" in pattern and "Runs" not in pattern:
        # whatever is left of it, nobody sees it any more
        assert syncing.sync(f"{home}-other", store).pulled == ()
    proxy.heal()
    aml("gc")
    assert blobs(azurite, store) == []
    assert list(remote.tombstones(home)) == []


def test_A11_copies_are_dropped_when_the_container_confirmed_them_and_damage_is_mended_from_there(
    home: str, azurite: Azurite, store: str, project: Path
) -> None:
    directory = stored(home, store, "")
    manifest = artifacts.read_manifest(directory)
    assert manifest
    path = f"{home}/artifacts/{manifest.prefix}/outputs/model.pkl"
    Path(path).write_bytes(b"MODEL " * 100)
    assert repair(home, lambda _: None).left == ()
    assert Path(path).read_bytes() == b"model " * 100
    assert "2 copies" in aml("gc", "--drop-local")[1]
    assert not Path(path).exists()
    assert retention.check(home) == []
    assert artifacts.read_artifact(directory, "model.pkl") == b"model " * 100
    assert runs.load_record(directory).ended
