"""The docker executor keeps the contract of every executor, with a real engine, mounted and copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter.executors.docker import DockerExecutor
from aml_jupyter.executors.docker.containers import home_label
from aml_jupyter.executors.docker.engine import Engine
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
class TestDockerExecutor(ExecutorContract):
    """Every test of the contract, in containers of this computer's engine."""
