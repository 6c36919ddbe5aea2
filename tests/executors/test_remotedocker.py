"""The docker executor keeps the contract on another machine: a real sshd, and an engine behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter.executors.docker import DockerExecutor
from aml_jupyter.executors.docker.there import There
from aml_jupyter.testing.executor import ExecutorContract, MakeJob, wait_for_end
from tests.engines import BASE_IMAGE, PrivateEngine
from tests.executors.docker_jobs import maker
from tests.sshd import Sshd


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """The remote machine's sshd; its user is the caller's."""
    with Sshd(MaxSessions=30) as server:
        yield server


@pytest.fixture
def box(
    sshd: Sshd, private_engine: PrivateEngine, home: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The remote machine as a job's target."""
    monkeypatch.setenv("AML_SSH_OPTIONS", " ".join(sshd.options))
    return {
        "name": "box",
        "image": BASE_IMAGE,
        "address": "127.0.0.1",
        "port": sshd.port,
        "username": "root",
        "private_key": sshd.user_key,
        "engine": private_engine.host,
        "shared_volumes": True,
    }


@pytest.fixture
def executor(box: dict[str, Any], private_engine: PrivateEngine) -> Iterator[DockerExecutor]:
    """The executor; its connection ends with the test."""
    yield DockerExecutor()
    There.of(box).connection.close()
    private_engine.remove_containers()


@pytest.fixture
def make_job(tmp_path: Path, home: str, box: dict[str, Any]) -> MakeJob:
    """Jobs for the remote machine."""
    return maker(tmp_path, home, "remotedocker", box)


@pytest.mark.slow
@pytest.mark.root
def test_a_target_without_shared_volumes_runs_on_the_same_files(
    executor: DockerExecutor, tmp_path: Path, home: str, box: dict[str, Any]
) -> None:
    job = maker(tmp_path, home, "remotedocker", {**box, "shared_volumes": False})(
        "open('outputs/a', 'w').write(open('script.py').read())"
    )
    executor.prepare(job, print)
    handle = executor.start(job, {})
    wait_for_end(executor, handle)
    executor.collect(handle, job.work)
    with open(job.work + "/outputs/a", encoding="ascii") as file:
        assert "script.py" in file.read()


@pytest.mark.slow
@pytest.mark.root
class TestRemoteDockerExecutor(ExecutorContract):
    """Every test of the contract, in containers of an engine behind ssh."""
