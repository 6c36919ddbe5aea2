"""Runs in a store that others can reach: stored by themselves, whole or not at all, and brought elsewhere."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aml_jupyter
from aml_jupyter import artifacts, commands, pending, pushing, runs, syncing
from aml_jupyter.artifacts.remote import place_of
from aml_jupyter.commands.screen import Screen
from aml_jupyter.config import settings
from aml_jupyter.runs import RunDirectory

# seconds: nobody waits so long on a machine that is not overwhelmed
PATIENCE = 60.0


def aml(*words: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of a line of `aml`."""
    screen = Screen(io.StringIO(), io.StringIO())
    status = commands.execute(words, screen)
    return status, screen.out.getvalue(), screen.err.getvalue()  # type: ignore[union-attr]


def until(what: Callable[[], Any]) -> Any:
    """Wait for something to be true."""
    due = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < due, "it did not come about"
        time.sleep(0.02)
    return found


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that two machines have in common."""
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture
def project(tmp_path: Path, home: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose runs are stored in the shared folder."""
    folder = tmp_path / "iris"
    folder.mkdir()
    (folder / "train.py").write_text(
        "import os\nos.makedirs('outputs/plots')\n"
        "open('outputs/model.pkl', 'w').write('model')\n"
        "open('outputs/plots/a b#?%.csv', 'w').write('1,2')\n"
        "print('trained')\n"
    )
    monkeypatch.chdir(folder)
    settings.put(None, settings.STORE, f"folder://{shared}")
    return folder


def another_machine(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, name: str = "other"
) -> str:
    """From here on everything happens on a machine that has never seen a run."""
    home = str(tmp_path / name / ".azureml")
    monkeypatch.setenv("AML_HOME", home)
    settings.put(None, settings.STORE, f"folder://{shared}")
    return home


def stored(directory: RunDirectory) -> str:
    """Wait until nothing of a run is pending; the state in its record."""
    until(lambda: pending.marked(directory.home, directory.run_id) is None)
    return runs.load_record(directory).artifacts_state


def run_script(project: Path) -> RunDirectory:
    """A run that has ended."""
    run = aml_jupyter.submit("local", "train.py").wait()
    assert run.status == "Completed"
    return runs.find(run.id, os.environ["AML_HOME"])


def test_a_run_is_stored_by_itself_and_another_machine_lists_shows_gets_and_restores_it(
    project: Path, home: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = run_script(project)
    assert stored(directory) == "stored"
    manifest = artifacts.read_manifest(directory)
    assert manifest is not None
    assert {item.state for item in manifest.files} == {"stored"}
    assert (shared / f"ExperimentRun/{directory.run_id}/outputs/model.pkl").read_text() == "model"

    other = another_machine(tmp_path, shared, monkeypatch)
    status, out, _ = aml("runs", "--from-store", "--json")
    assert (status, [row["run_id"] for row in json.loads(out)]) == (0, [directory.run_id])
    fresh = runs.find(directory.run_id, other)
    assert runs.read_record(fresh).properties["origin"] == f"folder://{shared}"
    assert not os.path.exists(fresh.log)
    assert aml("logs", directory.run_id)[1] == "trained\n"
    assert "trained" in aml("show", directory.run_id)[1]
    assert aml("get", directory.run_id, "-d", str(tmp_path / "got"))[0] == 0
    assert (tmp_path / "got/outputs/model.pkl").read_text() == "model"
    assert (tmp_path / "got/outputs/plots/a b#?%.csv").read_text() == "1,2"
    assert aml("restore", directory.run_id, str(tmp_path / "code"))[0] == 0
    assert (tmp_path / "code/train.py").read_bytes() == (project / "train.py").read_bytes()
    assert syncing.sync(other, f"folder://{shared}").pulled == ()


_ = (place_of, pushing)
