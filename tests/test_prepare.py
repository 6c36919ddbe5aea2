"""The environment of a run without the run: `aml experiment prepare` and `--prepare-only`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.base_image import BASE_IMAGE
from tests.configuration import project_with
from tests.engines import Engine
from tests.terminal import aml, data

RUN = 'Target: docker\nArgumentVector: ["$file"]\nFramework: Python\nPrepareEnvironment: false\n'


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {"docker.compute": f"type: docker\nbaseDockerImage: {BASE_IMAGE}\n", "docker.runconfig": RUN}
    root = Path(project_with(tmp_path, dict(files)).root)
    (root / "script.py").write_text("print('hi')\n")
    monkeypatch.chdir(root)
    return root


def test_this_computer_is_prepared_as_it_is(project: Path) -> None:
    facts = data("run", "local", "--prepare-only")
    assert facts["version"].startswith("3.")
    assert facts == data("experiment", "prepare", "-c", "local")
    assert data("runs") == []
    shown = aml("experiment", "prepare").stdout
    assert f"version: {facts['version']}\n" in shown


def test_an_image_is_prepared_without_a_run(
    project: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    done = aml("experiment", "prepare", "-c", "docker", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["image_name"] == BASE_IMAGE
    assert facts["python"].startswith("/usr/bin/python3")
    assert facts == data("run", "docker", "script.py", "--prepare-only")
    assert data("runs") == []
    missing = data("experiment", "prepare", "-c", "docker", "--image", "localhost:1/nosuch", status=125)
    assert missing["error"]["code"] == "image.missing"
    never = data("experiment", "prepare", "-c", "docker", "--image", "nosuch", "--pull", "never", status=125)
    assert never["error"]["code"] == "image.missing"


def test_an_environment_that_nobody_prepared_is_refused_with_the_command_that_does(
    project: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    (project / "aml_config" / "conda_dependencies.yml").write_text(
        "dependencies:\n- python=3.11\n- six=1.0\n"
    )
    done = aml("run", "docker", "script.py")
    assert done.returncode != 0
    assert "hi" not in done.stdout
    assert "environment.not_prepared" in done.stderr
    assert "aml experiment prepare -c docker" in done.stderr
    record = data("show", "@last")
    assert (record["status"], record["reason"]) == ("Failed", "environment.not_prepared")


def test_what_cannot_be_prepared_is_told(project: Path) -> None:
    assert data("experiment", "prepare", "-c", "nosuch", status=2)["error"]["code"] == "target.unknown"
    assert "prepare" in aml("experiment", "--help").stdout
    wrong = data("run", "local", "--prepare-only", "--cpus", "2", status=2)
    assert "--cpus" in wrong["error"]["message"]


@pytest.mark.parametrize("text", ["", "# numpy\n", "name: iris\ndependencies:\n"])
def test_a_dependency_file_that_names_nothing_takes_the_image_as_it_is(
    text: str, project: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    (project / "aml_config" / "conda_dependencies.yml").write_text(text)
    done = aml("run", "docker", "script.py")
    assert done.returncode == 0, done.stderr
    assert "making the environment" not in done.stderr
    environment = data("show", "@last")["environment"]
    assert environment["image_name"] == BASE_IMAGE
    assert not environment.get("lock")
