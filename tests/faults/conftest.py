"""Fixtures of the tests of faults."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter.executors.docker.there import control_folder
from tests import machines
from tests.engines import PrivateEngine
from tests.machines import Box


@pytest.fixture
def remote_project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project for a target on another machine, and the working folder; connections end with the test."""
    folder = tmp_path / "project"
    (folder / "aml_config").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    yield folder
    machines.end_connections(home)
    if control_folder().startswith("/tmp/aml-"):
        shutil.rmtree(control_folder())


@pytest.fixture
def box(
    remote_project: Path, tmp_path: Path, private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Box]:
    """Another machine; the target `box` of the project leads to it."""
    with machines.machine(tmp_path, private_engine) as one:
        one.use(remote_project, monkeypatch)
        yield one
