"""`aml gc` and environments: what neither a run nor a project asks for goes after thirty days."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter.environment import prefix
from aml_jupyter.retention import ENVIRONMENT_AGE, Freed, collect_garbage
from tests.configuration import project_with
from tests.terminal import aml, data
from tests.wheel_index import Index, served

FILE = "dependencies:\n- pip:\n  - {}\n  - {}\n"


@pytest.fixture
def index(home: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    made = Index()
    for name in ("amlone", "amltwo", "amlthree"):
        made.add(name, "1.0")
    with served(made) as running:
        yield running


@pytest.fixture
def project(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    compute = "type: local\nuserManagedEnvironment: false\n"
    file = FILE.format(index.option, "amlone")
    root = Path(project_with(tmp_path, {"local.compute": compute, "conda_dependencies.yml": file}).root)
    (root / "s.py").write_text("print('ran')\n")
    monkeypatch.chdir(root)
    assert aml("run", "local", "s.py").returncode == 0
    (root / "aml_config/conda_dependencies.yml").write_text(FILE.format(index.option, "amltwo"))
    assert aml("run", "local", "s.py").returncode == 0
    # made by hand, for no project
    prefix.of_target({"pip": [index.option, "amlthree"]}, lambda _: None)
    return root


def age(home: str, seconds: float) -> None:
    then = time.time() - seconds
    for folder, folders, names in os.walk(home):
        for name in [*folders, *names]:
            os.utime(os.path.join(folder, name), (then, then), follow_symlinks=False)


def kinds(home: str, freed: Freed) -> list[str]:
    """The folders of what goes, of which there may be several."""
    return sorted(os.path.dirname(path.removeprefix(home + "/")) for path in freed.environments)


def test_what_is_young_stays(project: Path, home: str) -> None:
    age(home, ENVIRONMENT_AGE - 86400)
    assert collect_garbage(home).environments == ()


def test_old_environments_that_nobody_asks_for_go_with_their_locks(project: Path, home: str) -> None:
    age(home, ENVIRONMENT_AGE + 86400)
    listed = collect_garbage(home, dry_run=True)
    assert all(map(os.path.exists, listed.environments))
    assert listed.bytes > 0
    # runs keep their locks, the project's file its environment
    assert kinds(home, listed) == [
        "cache",
        "environments/kept",
        "environments/locks",
        "environments/locks",
        "envs",
        "envs",
    ]
    shown = aml("gc", "--dry-run").stdout
    assert all(path in shown.splitlines() for path in listed.environments)
    assert data("gc")["environments"] == list(listed.environments)
    assert not any(map(os.path.lexists, listed.environments))
    assert len(os.listdir(f"{home}/envs/requests")) == 1
    assert collect_garbage(home).environments == ()
    # the lock of the first run, and the environment that the project has now
    assert aml("env", "export", "@last~1").returncode == 0
    done = aml("run", "local", "s.py")
    assert done.returncode == 0, done.stderr
    assert "making the environment" not in done.stderr


def test_the_environment_of_a_run_of_the_last_days_stays(project: Path, home: str) -> None:
    age(home, ENVIRONMENT_AGE + 86400)
    first = data("runs")[-1]["run_id"]
    (path,) = Path(home).glob(f"runs/*/*/*/{first}/run.json")
    lock = json.loads(path.read_text())["environment"]["lock"]
    assert any(lock[:16] in one for one in collect_garbage(home, dry_run=True).environments)
    os.utime(path)
    assert not any(lock[:16] in one for one in collect_garbage(home, dry_run=True).environments)


def test_nothing_goes_while_a_file_of_a_project_cannot_be_understood(project: Path, home: str) -> None:
    age(home, ENVIRONMENT_AGE + 86400)
    (project / "aml_config/conda_dependencies.yml").write_text("dependencies: [\n")
    assert collect_garbage(home).environments == ()


def test_an_environment_that_was_removed_is_made_again(project: Path, index: Index, home: str) -> None:
    age(home, ENVIRONMENT_AGE + 86400)
    asked = {"pip": [index.option, "amlthree"]}
    before = prefix.of_target(asked, lambda _: None)
    collect_garbage(home)
    assert not os.path.exists(before.prefix)
    assert prefix.of_target(asked, lambda _: None).prefix == before.prefix
    assert os.path.exists(before.python), sys.version
