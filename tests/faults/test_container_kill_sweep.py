"""A supervisor that is killed at any word with its engine: its run has one container, and ends once."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.config import find_project
from aml_jupyter.experiment import Request
from aml_jupyter.runs import RunDirectory
from tests.container_runs import BOTH, kept, project_in
from tests.engines import PrivateEngine
from tests.requirements import need
from tests.terminal import ROOT, aml, until

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.root]


@pytest.fixture
def project(
    tmp_path: Path, home: str, private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> Path:
    return project_in(tmp_path, monkeypatch)


SUPERVISE = """
import sys
sys.path[0] = {parent!r}
from aml_jupyter.supervisor import supervise
supervise({directory!r}, {{}})
"""
MODEL = "open('outputs/result', 'w').write('whole'); print('done', 0)"


def prepared_run(project: Path, target: str) -> RunDirectory:
    """A run that is written and that nobody supervises yet."""
    (project / "script.py").write_text(MODEL)
    return experiment.write(experiment.plan(Request(script="script.py", target=target), find_project()))


def supervise_command(directory: RunDirectory) -> list[str]:
    code = SUPERVISE.format(parent=ROOT, directory=directory.path)
    return [sys.executable, "-S", "-E", "-s", "-c", code]


def talks(directory: RunDirectory, trace: Path) -> list[tuple[str, int]]:
    """(call, how many of it) for each call by which a supervisor talks to the engine."""
    calls = "connect,sendto,recvfrom"
    traced = ["strace", "-o", str(trace), "-e", f"trace={calls}", *supervise_command(directory)]
    subprocess.run(traced, check=True, timeout=60, stdin=subprocess.DEVNULL)
    seen: Counter[str] = Counter()
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        if call := re.match(r"(\w+)\(", line):
            seen[call[1]] += 1
            found.append((call[1], seen[call[1]]))
    return found


@BOTH
def test_D14_a_supervisor_killed_at_any_word_with_the_engine_starts_no_second_container(
    project: Path, private_engine: PrivateEngine, tmp_path: Path, target: str
) -> None:
    strace = need("strace")
    warm_up = prepared_run(project, target)
    subprocess.run(supervise_command(warm_up), check=True, timeout=60, stdin=subprocess.DEVNULL)
    points = talks(prepared_run(project, target), tmp_path / "trace")
    assert len(points) > 10
    # a half of them where there are many: whole archives are sent and received
    points = points[:: 1 + len(points) // 40]
    since = datetime.now(UTC).isoformat()
    killed = 0
    directories = []
    for call, number in points:
        directory = prepared_run(project, target)
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
        done = subprocess.run(
            [strace, "-o", "/dev/null", *inject, *supervise_command(directory)],
            timeout=60,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        killed += done.returncode == -signal.SIGKILL
        record = experiment.wait(directory, 60)
        assert record.status == "Completed", (call, number, record.error)
        assert kept(directory) == ["result"], (call, number)
        assert Path(directory.log).read_text() == "done 0\n", (call, number)
        directories.append(directory)
    assert killed > len(points) * 0.8
    until(lambda: not any(map(runs.supervised, directories)))
    # one that was killed after the ending was written had no time to remove its container
    assert aml("targets", "sweep").returncode == 0
    assert private_engine.containers() == []
    for directory in directories:
        assert starts(private_engine, directory, since) == 1, directory.run_id


def starts(engine: PrivateEngine, directory: RunDirectory, since: str) -> int:
    """How many containers of a run an engine has started."""
    filters = [f"--filter=label=aml.run={directory.run_id}", "--filter=event=start"]
    until_now = ["--since", since, "--until", datetime.now(UTC).isoformat()]
    return len(engine.docker("events", *until_now, *filters).splitlines())
