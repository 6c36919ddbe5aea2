"""Where nobody knows whether a job was started, a supervisor does not say that it failed."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import experiment, runs, supervisor
from aml_jupyter.experiment import Request, plan, write
from aml_jupyter.runs import RunDirectory
from aml_jupyter.runs.evidence import last_status
from aml_jupyter.starting import Starter
from tests.terminal import until

pytestmark = pytest.mark.faults


class OutOfOrder(socketserver.BaseRequestHandler):
    """An engine whose store is damaged."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(b'HTTP/1.1 500 no\r\nContent-Length: 22\r\n\r\n{"message": "damaged"}')


@pytest.fixture
def damaged_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = f"{tmp_path}/engine.sock"
    with socketserver.ThreadingUnixStreamServer(path, OutOfOrder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        yield
        server.shutdown()


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "script.py").write_text("")
    monkeypatch.chdir(folder)
    return folder


def prepared(**fields: object) -> RunDirectory:
    """A run whose supervisor was killed when all was ready for its start."""
    directory = write(plan(Request(script="script.py", target="docker", **fields)))  # type: ignore[arg-type]
    Path(directory.path, "prepared.json").write_text("{}")
    return directory


@pytest.mark.usefixtures("project", "damaged_engine")
def test_an_engine_that_cannot_tell_whether_a_job_runs_does_not_end_it() -> None:
    directory = prepared()
    Path(directory.starting).touch()
    supervisor.supervise(directory.path, {})
    assert last_status(directory) == ("NotResponding", "engine.refused")
    assert not runs.load_record(directory).ended


@pytest.mark.usefixtures("project")
def test_a_run_that_waits_for_its_secrets_asks_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    directory = prepared(secrets={"TOKEN": "hush"})
    supervisor.supervise(directory.path, {})
    assert last_status(directory) == ("NotResponding", "secret.needed")


@pytest.mark.usefixtures("project")
def test_who_waits_for_a_run_that_was_just_given_its_secrets_is_not_told_the_old_need() -> None:
    for _ in range(3):
        directory = write(plan(Request(script="script.py", secrets={"TOKEN": "hush"})))
        Starter().go(directory.path, {})
        until(lambda: last_status(directory) == ("NotResponding", "secret.needed"))  # noqa: B023
        until(lambda: not runs.supervised(directory))  # noqa: B023
        assert experiment.resume(directory, {"TOKEN": "hush"})
        assert experiment.wait(directory, 60).status == "Completed"
