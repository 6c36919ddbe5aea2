"""The local executor keeps the contract of every executor, with real processes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import installation
from aml_jupyter.config import Target
from aml_jupyter.errors import TargetUnavailable
from aml_jupyter.executors import executor_for
from aml_jupyter.executors.local import LocalExecutor
from aml_jupyter.job import Job
from aml_jupyter.snapshot import Rules, Store
from aml_jupyter.testing.executor import ExecutorContract, MakeJob


@pytest.fixture
def executor() -> LocalExecutor:
    return LocalExecutor()


@pytest.fixture
def make_job(tmp_path: Path, home: str) -> MakeJob:
    """Jobs that are complete run directories without a history."""

    def make(source: str, **changes: Any) -> Job:
        number = len(list(tmp_path.glob("run*")))
        project, directory = tmp_path / f"project{number}", tmp_path / f"run{number}"
        project.mkdir()
        (project / "script.py").write_text(source)
        (directory / "job").mkdir(parents=True)
        store = Store(home + "/snapshots")
        document = {
            "format": 1,
            "run_id": f"contract_{os.getpid()}_{number}",
            "kind": "local",
            "python": sys.executable,
            "command": [sys.executable, "script.py"],
            "cwd": str(directory / "work"),
            "environment": {},
            "snapshots": home + "/snapshots",
            "snapshot_id": store.take(str(project), Rules()).id,
            **changes,
        }
        (directory / "job/request.json").write_text(json.dumps(document))
        installation.place(home, str(directory / "job"))
        return Job.from_request(str(directory), document)

    return make


class TestLocalExecutor(ExecutorContract):
    """Every test of the contract, on this computer."""


def test_a_missing_interpreter_is_told_by_check_with_the_key_to_change() -> None:
    target = Target(name="local", kind="local", python_location="/no/such/python")
    with pytest.raises(TargetUnavailable, match="pythonLocation") as caught:
        executor_for("local").check(target, {})
    assert caught.value.code == "target.python_missing"


def test_a_job_whose_runtime_was_killed_is_gone_with_evidence(
    executor: LocalExecutor, make_job: MakeJob
) -> None:
    job = make_job("import time; time.sleep(60)")
    executor.prepare(job, print)
    handle = executor.start(job, {})
    os.kill(handle["spawned"]["pid"], 9)
    gone = executor.poll(handle, 5)
    assert "is gone" in getattr(gone, "evidence", "")


@pytest.mark.parametrize(("program", "what"), [("ls", "is not a Python"), ("python3.6", "is Python 3.6")])
def test_L11_a_program_that_is_no_usable_python_is_refused_before_anything_is_sent(
    home: str, program: str, what: str
) -> None:
    versions = Path.home().parent.glob("*/.pyenv/versions/3.6*/bin/python3.6")
    found = shutil.which(program) if program == "ls" else next(map(str, versions), None)
    if found is None:
        found = str(Path(home).parent / "old")
        Path(found).write_text("#!/bin/sh\necho aml 3.6\n")
        os.chmod(found, 0o755)
    target = Target(name="local", kind="local", python_location=found)
    for _ in range(2):  # the second time it is remembered
        with pytest.raises(TargetUnavailable, match=what) as caught:
            executor_for("local").check(target, {})
        assert caught.value.code == "target.python_unusable"
