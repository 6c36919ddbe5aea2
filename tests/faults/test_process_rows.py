"""Processes that are gone, and processes that only bear the same number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aml_jupyter import experiment, processes, runs
from aml_jupyter.experiment import Request
from aml_jupyter.runs import RunDirectory
from tests.requirements import need
from tests.terminal import until

pytestmark = pytest.mark.faults

PARENT = str(Path(__file__).parents[2])
SCRIPT = """
import os, time
with open(os.environ["AZUREML_NATIVE_SHARE_DIRECTORY"] + "started", "a") as file:
    file.write("once\\n")
with open("outputs/half", "w") as file:
    file.write("so far")
print("before the lights went out", flush=True)
time.sleep(600)
"""


def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run in the middle of its script."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "script.py").write_text(SCRIPT)
    monkeypatch.chdir(project)
    directory = experiment.submit(Request(script="script.py"))
    until(lambda: os.path.exists(directory.log) and b"lights" in Path(directory.log).read_bytes())
    return directory


def identity_in(path: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(path).read_bytes())
    return found


def stop_as_a_machine_does(directory: RunDirectory) -> None:
    """Everything of a run ends at once, and nothing can write a last word."""
    supervisor = runs.supervisor_identity(directory)
    assert supervisor is not None
    who = [supervisor, identity_in(directory.started_json)]
    for one in who:
        assert processes.send_signal(one, signal.SIGSTOP)
    for one in who:
        assert processes.send_signal(one, signal.SIGKILL)
    until(lambda: not any(processes.is_alive(one) for one in who))


@pytest.mark.parametrize("pids", ["unused", "used again"])
def test_L4_a_run_of_an_earlier_start_of_the_machine_is_lost_with_its_record_whole(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch, pids: str
) -> None:
    directory = running(tmp_path, monkeypatch)
    before = runs.load_record(directory)
    stop_as_a_machine_does(directory)
    for path in (directory.started_json, directory.supervisor_lock):
        who = identity_in(path)
        if pids == "used again":
            # the same number and even the same start time, for another process
            who.update(processes.identity(os.getpid()))
        Path(path).write_text(json.dumps({**who, "boot_id": "00000000-0000-4000-8000-000000000000"}))
    seen = runs.read_record(directory)
    assert (seen.status, seen.reason) == ("NotResponding", "run.lost")
    record = experiment.wait(directory, 30)
    assert (record.status, record.reason) == ("Failed", "run.lost")
    assert "restarted" in (record.error or {})["message"]
    kept = ("run_id", "uuid", "run_number", "snapshot_id", "created_utc", "script_name", "interpreter")
    assert {name: getattr(record, name) for name in kept} == {name: getattr(before, name) for name in kept}
    assert b"before the lights" in Path(directory.log).read_bytes()
    artifact = Path(home, "artifacts/ExperimentRun", directory.run_id, "outputs/half")
    assert artifact.read_text() == "so far"
    assert Path(record.share or "", "started").read_text() == "once\n"
    with runs.History(home) as history:
        assert [row["status"] for row in history.rows()] == ["Failed"]


def test_L4_what_a_power_cut_left_empty_becomes_an_ending_and_no_second_start(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are not synced before the next step may be there and empty afterwards."""
    directory = running(tmp_path, monkeypatch)
    stop_as_a_machine_does(directory)
    for path in (directory.started_json, directory.handle_json, directory.job + "/request.json"):
        os.truncate(path, 0)
    record = experiment.wait(directory, 30)
    assert (record.status, record.reason) == ("Failed", "run.lost"), record.error
    assert Path(record.share or "", "started").read_text() == "once\n"
    assert Path(home, "artifacts/ExperimentRun", directory.run_id, "outputs/half").read_text() == "so far"


def test_L4_an_empty_handle_and_request_do_not_lose_a_live_job(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = running(tmp_path, monkeypatch)
    supervisor = runs.supervisor_identity(directory)
    assert supervisor is not None
    processes.send_signal(supervisor, signal.SIGKILL)
    until(lambda: not runs.supervised(directory))
    for path in (directory.handle_json, directory.job + "/request.json"):
        os.truncate(path, 0)
    assert experiment.resume(directory)
    experiment.cancel(directory)
    record = experiment.wait(directory, 30)
    assert record.status == "Canceled"
    assert Path(record.share or "", "started").read_text() == "once\n"


def test_L4_a_run_whose_request_is_gone_before_its_start_says_how_to_have_it_again(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "script.py").write_text("print('again')")
    monkeypatch.chdir(project)
    directory = experiment.write(experiment.plan(Request(script="script.py")))
    os.truncate(directory.job + "/request.json", 0)
    os.utime(directory.run_json, (1, 1))  # long ago: nobody is about to start it
    record = experiment.wait(directory, 30)
    assert (record.status, record.reason) == ("Failed", "run.lost")
    assert f"--from-run {directory.run_id}" in (record.error or {})["hint"]
    again = experiment.submit(Request(script="script.py", from_run=directory.run_id))
    assert experiment.wait(again, 30).status == "Completed"


REUSE = """
import os, signal, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from aml_jupyter import processes
first = subprocess.Popen(["sleep", "60"])
who = processes.identity(first.pid)
assert processes.is_alive(who)
first.kill()
first.wait()
assert not processes.is_alive(who)
time.sleep(0.03)  # start times count hundredths of a second
for _ in range(50):
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(who["pid"] - 1))
    second = subprocess.Popen(["sleep", "60"])
    if second.pid == who["pid"]:
        break
    second.kill()
    second.wait()
assert second.pid == who["pid"], "the pid was not given again"
assert processes.is_alive(processes.identity(second.pid))
assert not processes.is_alive(who)
assert not processes.send_signal(who, signal.SIGKILL)
processes.wait_end(who, 1000)
assert second.poll() is None
second.kill()
second.wait()
print("reused", who["pid"])
"""


@pytest.mark.root
def test_L13_a_pid_that_is_really_given_to_another_process_is_not_the_job(tmp_path: Path) -> None:
    need("root")
    if not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK):
        pytest.skip("needs ns_last_pid: this kernel cannot be told the next pid")
    inside = [need("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child"]
    done = subprocess.run(
        [*inside, sys.executable, "-c", REUSE, PARENT],
        capture_output=True, text=True, timeout=30, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reused")
