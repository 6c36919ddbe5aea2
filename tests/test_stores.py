"""Stores that outlive the machine: the same contract for each, keys both ways, transfers side by side."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aml_jupyter.artifacts.opening import open_store
from aml_jupyter.errors import ArtifactError
from aml_jupyter.testing.artifact_store import ArtifactStoreContract
from tests.azurite import Azurite

TYPE_CHECKING = False
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
