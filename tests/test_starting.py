"""Supervisors are started early, by fork or ahead of time, and none stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aml_jupyter import experiment, processes
from aml_jupyter.experiment import Request
from aml_jupyter.starting import ForkedStarter, Standby, Starter

SHOW = "import os; print(os.environ.get('MOMENT'), os.environ.get('JPY_PARENT_PID'))\n"


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "show.py").write_text(SHOW)
    monkeypatch.chdir(folder)
    return folder


def supervisors_of(home: str) -> list[int]:
    """Processes that were given this AML_HOME, this one apart."""
    return [pid for pid in processes.with_environment(f"AML_HOME={home}".encode()) if pid != os.getpid()]


def wait_until_none(home: str) -> None:
    due = time.monotonic() + 10
    while supervisors_of(home):
        assert time.monotonic() < due, supervisors_of(home)
        time.sleep(0.02)


def test_a_supervisor_started_ahead_meets_the_environment_of_the_submit(
    project: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    standby = Standby()
    monkeypatch.setenv("MOMENT", "when it was started")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    standby.refill()
    monkeypatch.setenv("MOMENT", "when it was submitted")
    directory = experiment.submit(Request(script="show.py"), None, standby.take)
    assert experiment.wait(directory, 30).status == "Completed"
    assert Path(directory.log).read_text() == "when it was submitted None\n"


def test_a_standby_that_is_closed_or_forgotten_leaves_no_process(project: Path, home: str) -> None:
    standby = Standby()
    standby.refill()
    standby.refill()
    standby.close()
    standby.close()
    wait_until_none(home)
    code = "from aml_jupyter.starting import Standby; import os, signal; s = Standby(); s.refill(); "
    killed = subprocess.run([sys.executable, "-c", code + "os.kill(os.getpid(), 9)"], check=False)
    assert killed.returncode == -9
    wait_until_none(home)


def test_a_standby_that_died_is_replaced(project: Path, home: str) -> None:
    standby = Standby()
    standby.refill()
    wait_for_one(home)
    for pid in supervisors_of(home):
        os.kill(pid, 9)
    directory = experiment.submit(Request(script="show.py"), None, standby.take)
    assert experiment.wait(directory, 30).status == "Completed"


def wait_for_one(home: str) -> None:
    due = time.monotonic() + 10
    while not supervisors_of(home):
        assert time.monotonic() < due
        time.sleep(0.02)


@pytest.mark.parametrize("start", [Starter, ForkedStarter])
def test_a_supervisor_that_is_told_nothing_ends(home: str, start: type[Starter]) -> None:
    code = f"from aml_jupyter.starting import {start.__name__}; {start.__name__}().leave()"
    subprocess.run([sys.executable, "-c", code], check=True)
    wait_until_none(home)


def test_a_forked_supervisor_shares_nothing_with_the_command_that_ends(project: Path, home: str) -> None:
    code = (
        "import sys\n"
        "from aml_jupyter.experiment import Request, submit\n"
        "from aml_jupyter.starting import ForkedStarter\n"
        "sys.stdout.write('not flushed yet ')\n"
        "print(submit(Request(script='show.py'), None, ForkedStarter).path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=20
    )
    # its copy of the unwritten text was not written a second time, and the pipe was not held open
    words = done.stdout.split()
    assert words[:3] == ["not", "flushed", "yet"]
    assert len(words) == 4
    from aml_jupyter.runs import RunDirectory

    assert experiment.wait(RunDirectory(words[3]), 30).status == "Completed"
