"""Secrets that a run gets by their names, and the storage account that they open inside it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.azurite import Azurite
from tests.terminal import aml, data, terminal

blob: Any = import_module("aml_jupyter.runtime.site.aml_run.blob")
PLANTED = "pl4nted-value"
USES = """
import os
value = os.environ["TOKEN"]
print(len(value), value[0], value[-1])
"""
STORES = """
import aml_run
account = aml_run.storage()
print(account)
container = account.container("CONTAINER")
container.upload_blob("a folder/rows.csv", b"1,2", overwrite=True)
aml_run.log("read", container.download_blob("a folder/rows.csv").readall().decode())
"""


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, and a keyring that is a file of this test."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "uses.py").write_text(USES)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TOKEN", raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "tests.keyring_in_file.FileKeyring")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("KEYRING_FILE", str(tmp_path / "ring"))
    return folder


def kept_anywhere(home: str, planted: str) -> list[Path]:
    """Files below the home in which it stands."""
    found = (path for path in Path(home).rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in found if planted.encode() in path.read_bytes()]


def test_a_secret_of_the_keyring_reaches_the_script_and_no_file(project: Path, home: str) -> None:
    pytest.importorskip("keyring")
    with terminal("secret", "set", "TOKEN", cwd=project) as shown:
        shown.expect(b"Value of TOKEN: ")
        shown.send(PLANTED.encode() + b"\n")
        assert shown.end() == 0, shown.screen
    assert PLANTED.encode() not in shown.screen
    run = data("run", "local", "uses.py", "--secret", "TOKEN")
    assert run["status"] == "Completed", run["error"]
    assert run["environment_secret"] == ["TOKEN"]
    assert "13 p e" in aml("logs", run["run_id"]).stdout
    assert kept_anywhere(home, PLANTED) == []

    assert "13 p e" in aml("rerun", run["run_id"], "--secret", "TOKEN").stdout
    assert aml("secret", "forget", "TOKEN").stderr == "TOKEN is no longer in the keyring\n"
    gone = aml("run", "local", "uses.py", "--secret", "TOKEN")
    assert gone.returncode == 2
    assert "secret.unknown" in gone.stderr
    assert "aml secret set TOKEN" in gone.stderr


def test_a_variable_comes_before_the_keyring(project: Path) -> None:
    done = aml("run", "local", "uses.py", "--secret", "TOKEN", env={"TOKEN": "set here"})
    assert "8 s e" in done.stdout


def test_a_name_that_is_no_variable_is_not_kept(project: Path) -> None:
    done = aml("secret", "set", "NO NAME")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_reads_and_writes_the_account_it_was_given(project: Path, home: str, azurite: Azurite) -> None:
    name = azurite.container(make=False)
    (project / "stores.py").write_text(STORES.replace("CONTAINER", name))
    key = azurite.connection_string()
    secret = ("--secret", "AZURE_STORAGE_CONNECTION_STRING")
    run = data("run", "local", "stores.py", *secret, env={secret[1]: key})
    assert run["status"] == "Completed", run["error"]
    assert run["metrics"] == {"read": "1,2"}
    assert f"Storage('devstoreaccount1', endpoint='{azurite.endpoint}')" in aml("logs", run["run_id"]).stdout
    with azurite.service as service:
        assert [one.name for one in service.get_container_client(name).list_blobs()] == ["a folder/rows.csv"]
    assert kept_anywhere(home, key.partition("AccountKey=")[2].partition(";")[0]) == []

    without = data("run", "local", "stores.py", status=1)
    assert "--secret AZURE_STORAGE_CONNECTION_STRING" in without["error"]["message"]


@pytest.mark.parametrize(
    ("variables", "host", "path"),
    [
        (
            {"X_ACCOUNT": "mine", "X_KEY": "a2V5"},
            "mine.blob.core.windows.net",
            "wasbs://c@mine.blob.core.windows.net/a",
        ),
        (
            {"X_CONNECTION_STRING": "AccountName=mine;AccountKey=a2V5;EndpointSuffix=core.chinacloudapi.cn"},
            "mine.blob.core.chinacloudapi.cn",
            "wasbs://c@mine.blob.core.chinacloudapi.cn/a",
        ),
        (
            {
                "X_CONNECTION_STRING": "BlobEndpoint=https://mine.blob.core.windows.net/;"
                "SharedAccessSignature=sv=1&sig=pl4nted"
            },
            "mine.blob.core.windows.net",
            "wasbs://c@mine.blob.core.windows.net/a",
        ),
    ],
)
def test_an_account_has_its_names_from_whatever_it_is_given_by(
    variables: dict[str, str], host: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = blob.storage("X")
    assert (found.account, found.host, found.path("c", "/a")) == ("mine", host, path)
    assert "pl4nted" not in repr(found)
    assert "a2V5" not in repr(found)


@pytest.mark.parametrize("text", ["", "nonsense", "AccountName=mine", "AccountKey=pl4nted"])
def test_credentials_that_are_none_are_told_without_their_text(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X_CONNECTION_STRING", text)
    with pytest.raises(blob.StorageError) as raised:
        blob.storage("X")
    assert "pl4nted" not in str(raised.value)
    assert "X_CONNECTION_STRING" in str(raised.value)
