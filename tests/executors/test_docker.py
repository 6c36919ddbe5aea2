"""The docker executor keeps the contract of every executor, with a real engine, mounted and copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import experiment
from aml_jupyter.errors import ConfigError
from aml_jupyter.executors.docker import DockerExecutor
from aml_jupyter.executors.docker.containers import home_label
from aml_jupyter.executors.docker.engine import Engine
from aml_jupyter.experiment import Request
from aml_jupyter.testing.executor import ExecutorContract, MakeJob
from tests import engines
from tests.executors.docker_jobs import maker


@pytest.fixture
def executor(engine: engines.Engine, home: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerExecutor]:
    """The executor on the engine of the tests; what a test leaves there is removed."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    yield DockerExecutor()
    for found in Engine(engine.socket).containers({"aml.home": home_label()}):
        Engine(engine.socket).remove(found["Id"])


@pytest.fixture(params=[True, False], ids=["mounted", "copied"])
def make_job(request: pytest.FixtureRequest, tmp_path: Path, home: str) -> MakeJob:
    """Jobs in the base image of the tests."""
    target = {"name": "docker", "image": engines.BASE_IMAGE, "shared_volumes": request.param}
    return maker(tmp_path, home, "docker", target)


@pytest.mark.slow
def test_C7_a_container_without_shared_volumes_has_no_share_and_says_so(
    engine: engines.Engine, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    project = tmp_path / "project"
    (project / "aml_config").mkdir(parents=True)
    (project / "aml_config/docker.compute").write_text(
        f"type: localdocker\nbaseDockerImage: {engines.BASE_IMAGE}\nsharedVolumes: false\n"
        "nativeSharedDirectory: ~/.azureml/share/\n"
    )
    (project / "script.py").write_text(
        "import os\n"
        "print([n for n in os.environ if n.endswith('SHARE_DIRECTORY')], os.path.exists('/azureml-share'))"
    )
    monkeypatch.chdir(project)
    record = experiment.wait(directory := experiment.submit(Request(target="docker", script="script.py")))
    assert record.status == "Completed", record.error
    assert Path(directory.log).read_text() == "[] False\n"
    assert any("sharedVolumes: true" in warning for warning in record.warnings)
    (project / "script.py").write_text(
        "import os\nopen(os.environ['AZUREML_NATIVE_SHARE_DIRECTORY'] + 'a', 'w')"
    )
    with pytest.raises(ConfigError, match="sharedVolumes: true"):
        experiment.submit(Request(target="docker", script="script.py"))


@pytest.mark.slow
class TestDockerExecutor(ExecutorContract):
    """Every test of the contract, in containers of this computer's engine."""


@pytest.mark.slow
def test_a_cell_with_lines_for_ipython_is_refused_where_the_image_has_none(
    engine: engines.Engine, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    asked = Request(target="docker", cell=b"x = 7 % 4\n!ls", resources={"image": engines.BASE_IMAGE})
    record = experiment.wait(directory := experiment.submit(asked))
    assert (record.status, record.reason, record.start_time_utc) == ("Failed", "cell.ipython", None)
    assert record.error is not None
    assert "line 2: !ls" in record.error["hint"]
    plain = experiment.submit(asked.replace(cell=b"print(7 % 4)"))
    assert experiment.wait(plain).status == "Completed"
    assert Path(plain.log).read_text() == "3\n"
    assert not Path(directory.log).exists()
