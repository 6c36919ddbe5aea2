"""Viewers of a run: slow, many, stopped, gone.  None of them may be felt by the run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.experiment import Request
from tests.terminal import AML, environment, until

pytestmark = [pytest.mark.faults, pytest.mark.slow]

# 16 MB in 200,000 lines, as fast as they are taken; what a process writes to a pipe nobody reads ends at 1 MB
LINES = 200_000
SCRIPT = """
import sys, time
for block in range(200):
    sys.stdout.write("".join(f"{block * 1000 + line:08d} " + "x" * 70 + "\\n" for line in range(1000)))
    sys.stdout.flush()
    time.sleep(0.002)
"""


def seconds_of_a_run(
    viewers: int, **changes: str
) -> tuple[float, runs.RunDirectory, list[subprocess.Popen[bytes]]]:
    """How long the script took, with followers that read nothing."""
    directory = experiment.submit(Request(script="script.py"))
    command = [*AML, "logs", "-f", directory.run_id]
    watching = [
        subprocess.Popen(command, env=environment(**changes), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(viewers)
    ]
    record = experiment.wait(directory, 120)
    assert record.status == "Completed"
    assert record.duration is not None
    return record.duration, directory, watching


def read_slowly(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    parts = [os.read(process.stdout.fileno(), 100)]
    time.sleep(0.2)
    parts.append(process.stdout.read())
    return b"".join(parts)


def end_all(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_G7_viewers_that_read_nothing_slow_no_run_down_and_miss_nothing_later(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/script.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path / "project")
    alone, _, _ = seconds_of_a_run(0)
    watched, directory, watching = seconds_of_a_run(3, PYTHONUNBUFFERED=unbuffered)
    try:
        # three interpreters started on the same two processors meanwhile: far from a stop
        assert watched < 3 * alone + 5
        log = Path(directory.log).read_bytes()
        assert log.count(b"\n") == LINES
        # a pipe holds 64 KiB: they all stand still somewhere near the beginning
        assert all(process.poll() is None for process in watching)
        # one goes, one is stopped for a while, one goes on reading: the same bytes, late
        watching[0].kill()
        watching[1].send_signal(signal.SIGSTOP)
        assert read_slowly(watching[2]) == log
        assert watching[2].wait(10) == 0
        # its write was cut short by the stop
        watching[1].send_signal(signal.SIGCONT)
        assert read_slowly(watching[1]) == log
    finally:
        end_all(watching)


def test_G7_a_viewer_that_leaves_in_the_middle_is_not_noticed(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/script.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path / "project")
    directory = experiment.submit(Request(script="script.py"))
    until(lambda: os.path.exists(directory.log) and os.path.getsize(directory.log) > 100_000)
    command = [*AML, "logs", "-f", directory.run_id]
    viewers = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    try:
        for viewer in viewers:
            assert viewer.stdout is not None
            assert os.read(viewer.stdout.fileno(), 10)
        viewers[0].kill()
        viewers[1].terminate()
        assert viewers[2].stdout is not None
        viewers[2].stdout.close()  # the reader of its pipe is gone
        assert experiment.wait(directory, 120).status == "Completed"
        assert Path(directory.log).read_bytes().count(b"\n") == LINES
        assert viewers[2].wait(30) == 141
    finally:
        end_all(viewers)
