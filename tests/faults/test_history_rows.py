"""The history with a stuck holder of its locks, on full, read-only and foreign file systems."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.experiment import Request
from aml_jupyter.runs import RunDirectory
from tests.requirements import need
from tests.terminal import aml, data, until

pytestmark = pytest.mark.faults

PARENT = str(Path(__file__).parents[2])


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def submit(project: Path, source: str) -> RunDirectory:
    (project / "script.py").write_text(source)
    return experiment.submit(Request(script="script.py"))


def wait_until_ready(directory: RunDirectory) -> None:
    log = Path(directory.log)
    until(lambda: log.exists() and b"ready" in log.read_bytes())


@pytest.fixture
def holders() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that a test starts; continued and ended behind it."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def stuck_holder(started: list[subprocess.Popen[bytes]], path: str) -> subprocess.Popen[bytes]:
    """A process that took a lock of ours and was stopped while it held it."""
    code = (
        f"import sys; sys.path.insert(0, {PARENT!r})\n"
        "from aml_jupyter.locks import exclusive\n"
        f"with exclusive({path!r}):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.send_signal(signal.SIGSTOP)
    return process


def test_H3_a_stuck_index_holds_no_run_up_and_nothing_is_lost(
    project: Path, home: str, holders: list[subprocess.Popen[bytes]]
) -> None:
    first = submit(project, "print('first')")
    assert experiment.wait(first, 30).status == "Completed"
    holder = stuck_holder(holders, home + "/index.lock")
    second = submit(project, "print('second')")
    assert experiment.wait(second, 30).status == "Completed"
    runs.set_labels(second, name="written-meanwhile")
    assert data("show", second.run_id)["status"] == "Completed"
    holder.send_signal(signal.SIGCONT)
    assert holder.stdin is not None
    holder.stdin.close()
    assert holder.wait(10) == 0
    rows = data("runs")
    assert [(row["name"], row["status"]) for row in rows] == [
        ("written-meanwhile", "Completed"),
        (None, "Completed"),
    ]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 24 MB that holds AML_HOME."""
    need("root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run([need("mount"), "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True)
    monkeypatch.setenv("AML_HOME", str(folder / "aml"))
    try:
        yield folder
    finally:
        subprocess.run([need("umount"), "-l", folder], check=True)


def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (1 << 20, 4096, 1):
        try:
            while True:
                os.write(fd, b"b" * size)
        except OSError:
            continue
    os.close(fd)
    return ballast


UNTIL_TOLD = """
import os, time
print("ready", flush=True)
while not os.path.exists(os.environ["TOLD"]):
    time.sleep(0.02)
print("done", flush=True)
raise SystemExit(7)
"""


@pytest.mark.root
def test_H4_an_ending_is_written_on_a_full_disk_and_everything_works_once_there_is_space(
    project: Path, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = str(disk / "aml")
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    whole = submit(project, "print('whole')")
    assert experiment.wait(whole, 30).status == "Completed"
    directory = submit(project, UNTIL_TOLD)
    wait_until_ready(directory)
    ballast = fill(disk)
    Path(tmp_path, "told").touch()
    record = experiment.wait(directory, 30)
    assert (record.status, record.reason, record.exit_code) == ("Failed", "run.exit_nonzero", 7)
    # the reserve that was given back for it is taken, too: now nothing can be written
    with open(ballast, "ab", buffering=0) as file:
        try:
            while True:
                file.write(b"b")
        except OSError:
            pass
    assert [row["status"] for row in data("runs")] == ["Failed", "Completed"]
    assert data("show", whole.run_id)["status"] == "Completed"
    refused = aml("run", "local", "script.py")
    assert refused.returncode not in (0, 7)
    assert "space" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(data("runs")) == 2
    ballast.unlink()
    monkeypatch.setenv("TOLD", "/")
    again = submit(project, UNTIL_TOLD)
    assert experiment.wait(again, 30).exit_code == 7
    assert len(data("runs")) == 3
    assert [one for one in runs.check(home) if one.code != "run.half_made"] == []


@pytest.mark.root
@pytest.mark.slow
def test_H4_L10_every_fill_level_gives_one_ending_and_no_torn_record(
    project: Path, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk leaves ever less room for the end of a run: from plenty down to nothing."""
    home = str(disk / "aml")
    for number, room in enumerate([200_000, 60_000, 30_000, 16_000, 9_000, 5_000, 1_000, 0]):
        told = tmp_path / f"told{number}"
        monkeypatch.setenv("TOLD", str(told))
        directory = submit(project, UNTIL_TOLD)
        wait_until_ready(directory)
        ballast = fill(disk)
        os.truncate(ballast, max(0, ballast.stat().st_size - room))
        told.touch()
        record = experiment.wait(directory, 30)
        assert (record.status, record.exit_code) == ("Failed", 7), room
        assert runs.load_record(directory).ended
        ballast.unlink()
    assert [one for one in runs.check(home) if one.code != "run.half_made"] == []


@pytest.mark.root
def test_H10_a_file_system_that_became_read_only_is_browsed_and_refused_by_name(
    project: Path, disk: Path
) -> None:
    directory = submit(project, "import time; print('kept'); open('outputs/model', 'w').write('m')")
    assert experiment.wait(directory, 30).status == "Completed"
    subprocess.run([need("mount"), "-o", "remount,ro", disk], check=True)
    assert [row["run_id"] for row in data("runs")] == [directory.run_id]
    assert data("show", directory.run_id)["status"] == "Completed"
    assert aml("logs", directory.run_id).stdout == "kept\n"
    assert aml("cat", directory.run_id, "outputs/model").stdout == "m"
    refused = aml("run", "local", "script.py")
    assert refused.returncode not in (0, 1)
    assert "Traceback" not in refused.stderr
    assert "ead-only" in refused.stderr
    for words in (("tag", directory.run_id, "x"), ("rm", "-y", directory.run_id)):
        refused = aml(*words)
        assert refused.returncode != 0, words
        assert "Traceback" not in refused.stderr, words
    subprocess.run([need("mount"), "-o", "remount,rw", disk], check=True)
    assert aml("tag", directory.run_id, "x").returncode == 0
