"""Runs in containers of a private engine, for the tests of what happens to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.experiment import Request
from aml_jupyter.job import TERMINAL
from aml_jupyter.runs import Record, RunDirectory
from tests.engines import BASE_IMAGE, PrivateEngine
from tests.terminal import aml, until

COMPUTE = """
type: localdocker
baseDockerImage: {}
sharedVolumes: {}
nativeSharedDirectory: ~/.azureml/share/
"""
# the working copy is mounted, or copied in and out
BOTH = pytest.mark.parametrize("target", ["docker", "copied"])
# prints until it is told to end, so that a line that is missing or twice is seen
COUNTING = """
import os, time
number = 0
while not os.path.exists("go"):
    print("line", number, flush=True)
    number += 1
    time.sleep(0.02)
open("outputs/result", "w").write("whole")
print("done", number)
"""
FOR_SOME_SECONDS = COUNTING.replace('not os.path.exists("go")', "number < 150")
FOREVER = """
import time
open("outputs/result", "w").write("whole")
print("up", flush=True)
time.sleep(600)
"""


def project_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "aml_config").mkdir(parents=True)
    for name, shared in (("docker", "true"), ("copied", "false")):
        (folder / f"aml_config/{name}.compute").write_text(COMPUTE.format(BASE_IMAGE, shared))
    monkeypatch.chdir(folder)
    return folder


def submit(project: Path, source: str, target: str = "docker", **options: Any) -> RunDirectory:
    (project / "script.py").write_text(source)
    return experiment.submit(Request(script="script.py", target=target, **options))


def run(project: Path, source: str, target: str = "docker", **options: Any) -> Record:
    return experiment.wait(submit(project, source, target, **options), 60)


def states(directory: RunDirectory) -> list[str]:
    lines = Path(directory.status_jsonl).read_text().splitlines()
    return [json.loads(line)["status"] for line in lines]


def ended(directory: RunDirectory, status: str, reason: str = "") -> Record:
    """Wait for the one ending of a run, which must be this."""
    record = experiment.wait(directory, 60)
    assert (record.status, record.reason) == (status, reason), record.error
    until(lambda: not runs.supervised(directory))
    assert [state for state in states(directory) if state in TERMINAL] == [status]
    return record


def message(record: Record) -> str:
    assert record.error is not None
    return record.error["message"]


def hint(record: Record) -> str:
    assert record.error is not None
    return record.error["hint"]


def wait_for(directory: RunDirectory, text: str) -> None:
    """Until the run has printed a text."""
    log = Path(directory.log)
    until(lambda: log.exists() and text.encode() in log.read_bytes())


def let_end(directory: RunDirectory) -> None:
    Path(directory.work, "go").touch()


def container_of(engine: PrivateEngine, directory: RunDirectory) -> str:
    (found,) = engine.containers(f"label=aml.run={directory.run_id}")
    return str(found["Id"])


def assert_no_gap(directory: RunDirectory, *, to_the_end: bool = True) -> None:
    """The lines of COUNTING are in the log, each once; the last one is told when the script ended."""
    lines = Path(directory.log).read_text().splitlines()
    if to_the_end:
        assert lines.pop() == f"done {len(lines)}"
    assert lines == [f"line {number}" for number in range(len(lines))]


def kept(directory: RunDirectory) -> list[str]:
    """Artifacts of a run."""
    top = Path(directory.home, "artifacts/ExperimentRun", directory.run_id, "outputs")
    return sorted(path.name for path in top.iterdir()) if top.exists() else []


def swept(directory: RunDirectory) -> None:
    """What a run could not remove itself goes when somebody sweeps."""
    until(lambda: not runs.supervised(directory))
    assert aml("targets", "sweep").returncode == 0
