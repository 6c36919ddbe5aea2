"""Workers of the queue, submitters and supervisors are killed: nothing is lost, nothing runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aml_jupyter import experiment, processes, queueing, retention, runs, sweep
from aml_jupyter.config import find_project
from aml_jupyter.errors import AmlError, RunFailed
from aml_jupyter.experiment import Request
from aml_jupyter.experiment.queued import enqueue
from aml_jupyter.runs import RunDirectory
from aml_jupyter.runs.evidence import read_json
from aml_jupyter.sweep import Asked, axes
from aml_jupyter.sweep.table import Trials
from tests.faults.test_kill_sweep import PACKAGE_PARENT, kill_points, run_and_kill, started_runs
from tests.requirements import need
from tests.terminal import aml, data, until

pytestmark = pytest.mark.faults

# tells that it has begun, and waits until it is told to go on
SCRIPT = """
import os, sys, time
folder = os.environ["AZUREML_NATIVE_SHARE_DIRECTORY"]
with open(folder + "started", "a") as file:
    file.write(os.environ["AZUREML_RUN_ID"] + "\\n")
while not os.path.exists(folder + "go"):
    time.sleep(0.01)
with open("outputs/model", "w") as file:
    file.write("model")
"""
SUBMIT = """
from aml_jupyter import sweep
from aml_jupyter.experiment import Request
from aml_jupyter.sweep import Asked, axes
sweep.submit(Request(script="script.py"), Asked(axes=(axes.parse("v=1..3"),), jobs=2))
"""
ENQUEUE = """
from aml_jupyter.experiment import Request
from aml_jupyter.experiment.queued import enqueue
enqueue(Request(script="script.py"))
"""
WORK = """
import sys
sys.path[0] = {parent!r}
from aml_jupyter import worker
worker.main({home!r})
"""


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    share(go=False)
    monkeypatch.chdir(folder)
    return folder


def share(*, go: bool) -> Path:
    """The shared folder; scripts go on when they may."""
    folder = Path.home() / ".azureml/share/local/default/project"
    folder.mkdir(parents=True, exist_ok=True)
    if go:
        (folder / "go").touch()
    return folder


def submit(values: str = "v=1..4", jobs: int = 2) -> RunDirectory:
    return sweep.submit(Request(script="script.py"), Asked(axes=(axes.parse(values),), jobs=jobs))


def statuses(parent: RunDirectory) -> list[str]:
    return [one.status for one in Trials(parent).look().trials]


def kill_worker(home: str) -> None:
    """Kill the worker that there is, and wait until it is gone."""
    who = until(lambda: (queueing.worker(home) or {}).get("start_time") and queueing.worker(home), 60)
    processes.send_signal(who, signal.SIGKILL)
    processes.wait_end(who, 30)


def assert_each_trial_ran_once(parent: RunDirectory) -> None:
    assert statuses(parent) == ["Completed"] * len(Trials(parent).look().trials)
    assert sorted(started_runs()) == sorted(one.run_id for one in Trials(parent).look().trials)


@pytest.mark.parametrize("by", ["wait", "resume", "load"])
def test_K4_a_sweep_whose_worker_was_killed_goes_on_and_runs_no_trial_twice(
    project: Path, home: str, by: str
) -> None:
    parent = submit()
    until(lambda: len(started_runs()) == 2, 60)
    kill_worker(home)
    record = runs.read_record(parent)
    assert (record.status, record.reason) == ("NotResponding", "supervisor.gone")
    assert statuses(parent) == ["Running", "Running", "Queued", "Queued"]
    share(go=True)
    if by == "resume":
        assert data("resume", parent.run_id) == {parent.run_id: True}
    elif by == "load":
        from aml_jupyter.magics.keeper import continue_runs

        assert continue_runs() >= 1
    assert experiment.wait(parent, 60).status == "Completed"
    assert_each_trial_ran_once(parent)


def test_K4_a_worker_that_is_killed_again_and_again_loses_nothing(project: Path, home: str) -> None:
    share(go=True)
    parent = submit("v=1..12", jobs=3)
    for _ in range(8):
        if queueing.is_empty(home):
            break
        queueing.ensure_worker(home)
        who = queueing.worker(home)
        if who is not None:
            os.kill(int(who["pid"]), signal.SIGKILL)
    assert experiment.wait(parent, 60).status == "Completed"
    assert_each_trial_ran_once(parent)


def test_queued_runs_outlive_their_worker_and_start_in_their_order(project: Path, home: str) -> None:
    found = [enqueue(Request(script="script.py")) for _ in range(3)]
    until(lambda: len(started_runs()) == 1, 60)
    kill_worker(home)
    assert [runs.read_record(one).status for one in found] == ["Running", "Queued", "Queued"]
    share(go=True)
    # whoever lists the queue has it go on
    assert aml("queue").returncode == 0
    assert [experiment.wait(one, 60).status for one in found] == ["Completed"] * 3
    assert started_runs() == [one.run_id for one in found]


def test_of_many_workers_that_start_at_once_one_stays(project: Path, home: str) -> None:
    enqueue(Request(script="script.py"))
    until(lambda: len(started_runs()) == 1, 60)
    command = [sys.executable, "-S", "-E", "-s", queueing.WORKER, home]
    started = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(6)]
    for one in started:
        one.wait(60)
    until(lambda: len(workers_of(home)) == 1, 60)
    kill_worker(home)
    started = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(6)]
    for one in started:
        one.wait(60)
    until(lambda: len(workers_of(home)) == 1, 60)
    share(go=True)
    until(lambda: queueing.is_empty(home) and not workers_of(home), 60)
    assert len(started_runs()) == 1


def workers_of(home: str) -> list[int]:
    """Pids of the workers of a home."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if queueing.WORKER.encode() in command and home.encode() in command:
                found.append(int(name))
    return found


def test_a_queued_run_whose_secrets_died_with_the_worker_waits_and_says_how_to_go_on(
    project: Path, home: str
) -> None:
    first = enqueue(Request(script="script.py"))
    second = enqueue(Request(script="script.py", environment={"KEY": "s3cret"}))
    third = enqueue(Request(script="script.py"))
    until(lambda: len(started_runs()) == 1, 60)
    kill_worker(home)
    queueing.ensure_worker(home)
    share(go=True)
    # nobody waits for those that can go on
    for one in (first, third):
        assert experiment.wait(one, 60).status == "Completed"
    record = until(lambda: (found := runs.read_record(second)).reason and found, 60)
    assert (record.status, record.reason) == ("Queued", "secret.needed")
    assert f"aml resume {second.run_id} -e KEY=..." in (record.error or {})["hint"]
    assert f"aml resume {second.run_id} -e KEY=..." in aml("queue").stdout
    with pytest.raises(AmlError) as refused:
        experiment.wait(second, 60)
    assert refused.value.code == "secret.needed"
    # with nothing to do but wait for a person there is no worker
    until(lambda: queueing.worker(home) is None, 60)
    assert aml("resume", second.run_id, "-e", "KEY=s3cret").returncode == 0
    assert experiment.wait(second, 60).status == "Completed"
    assert started_runs().count(second.run_id) == 1


def test_a_sweep_whose_secrets_died_with_the_worker_waits_and_goes_on_when_they_are_given(
    project: Path, home: str
) -> None:
    request = Request(script="script.py", environment={"KEY": "s3cret"})
    parent = sweep.submit(request, Asked(axes=(axes.parse("v=1..3"),), jobs=1))
    until(lambda: len(started_runs()) == 1, 60)
    kill_worker(home)
    share(go=True)
    queueing.ensure_worker(home)
    record = until(lambda: (found := runs.read_record(parent)).reason == "secret.needed" and found, 60)
    assert f"aml resume {parent.run_id} -e KEY=..." in (record.error or {})["hint"]
    assert statuses(parent) == ["Completed", "Queued", "Queued"]
    assert aml("resume", parent.run_id, "-e", "KEY=s3cret").returncode == 0
    assert experiment.wait(parent, 60, {"KEY": "s3cret"}).status == "Completed"
    assert_each_trial_ran_once(parent)


def test_whoever_submitted_and_still_waits_gives_the_secrets_again(project: Path, home: str) -> None:
    first = enqueue(Request(script="script.py"))
    second = enqueue(Request(script="script.py", environment={"KEY": "s3cret"}))
    until(lambda: len(started_runs()) == 1, 60)
    kill_worker(home)
    share(go=True)
    assert experiment.wait(second, 60, {"KEY": "s3cret"}).status == "Completed"
    assert experiment.wait(first, 60).status == "Completed"


def test_L2b_a_trial_whose_supervisor_was_killed_gets_another_one(project: Path, home: str) -> None:
    parent = submit("v=1..3", jobs=1)
    until(lambda: len(started_runs()) == 1, 60)
    first = runs.at(home, started_runs()[0])
    assert first is not None
    who = runs.supervisor_identity(first)
    assert who is not None
    processes.send_signal(who, signal.SIGKILL)
    until(lambda: runs.supervisor_identity(first) not in (None, who), 60)
    share(go=True)
    assert experiment.wait(parent, 60).status == "Completed"
    assert_each_trial_ran_once(parent)


def test_after_a_power_cut_what_ran_is_lost_and_what_waited_is_run(project: Path, home: str) -> None:
    parent = submit("v=1..4", jobs=2)
    until(lambda: len(started_runs()) == 2, 60)
    lost = started_runs()
    kill_worker(home)
    for run_id in lost:
        directory = runs.at(home, run_id)
        assert directory is not None
        for who in (runs.supervisor_identity(directory), read_json(directory.started_json)):
            assert who is not None
            processes.send_signal(who, signal.SIGKILL)
        for pid in processes.with_environment(b"AZUREML_RUN_ID=" + run_id.encode()):
            os.kill(pid, signal.SIGKILL)
    share(go=True)
    record = experiment.wait(parent, 60)
    assert record.status == "Failed"
    trials = Trials(parent).look().trials
    assert [(one.status, one.reason) for one in trials if one.run_id in lost] == [("Failed", "run.lost")] * 2
    assert [one.status for one in trials if one.run_id not in lost] == ["Completed"] * 2
    assert len(started_runs()) == 4


def test_a_sweep_is_stopped_also_where_its_worker_was_killed(project: Path, home: str) -> None:
    parent = submit()
    until(lambda: len(started_runs()) == 2, 60)
    kill_worker(home)
    assert aml("stop", parent.run_id).stdout.strip() == f"{parent.run_id} Canceled"
    assert statuses(parent) == ["Canceled"] * 4
    assert len(started_runs()) == 2


def test_what_a_killed_maker_left_is_taken_back_and_no_other_run(project: Path, home: str) -> None:
    share(go=True)
    parent = submit("v=1,2")
    assert experiment.wait(parent, 60).status == "Completed"
    done = Trials(parent).look().trials[0].run_id
    until(lambda: queueing.is_empty(home), 60)
    queueing.add(home, queueing.Entry(run_id="never_1", trials=(done,), direct=True))
    queueing.change(home, "never_1", maker={"pid": 1, "start_time": "0", "boot_id": "none"})
    finish(home)
    assert statuses(parent) == ["Completed"] * 2


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_a_sweep_whose_entry_is_lost_is_continued_from_its_record(
    project: Path, home: str, damage: str
) -> None:
    parent = submit("v=1..4", jobs=2)
    until(lambda: len(started_runs()) == 2, 60)
    kill_worker(home)
    entry = Path(queueing.folder(home), parent.run_id + ".json")
    if damage == "gone":
        entry.unlink()
    else:
        entry.write_bytes(b"{")
        findings = {(one.code, one.path) for one in retention.check(home)}
        assert ("queue.damaged", str(entry)) in findings
    share(go=True)
    assert experiment.wait(parent, 60).status == "Completed"
    assert_each_trial_ran_once(parent)


def test_a_sweep_that_is_none_of_ours_takes_no_other_run_along(project: Path, home: str) -> None:
    victim = enqueue(Request(script="script.py"))
    until(lambda: len(started_runs()) == 1, 60)
    foreign = {"trials": [victim.run_id, "../../x", ""], "jobs": 99, "axes": {"v": [1]}, "metric": ""}
    parents = []
    for origin in ({}, {"origin": "folder:///team"}):
        parent = runs.create(home, find_project())
        record = runs.new_record(
            parent, find_project(), kind="sweep", status="Queued", properties={"sweep": foreign, **origin}
        )
        runs.write_record(parent, record)
        runs.request_cancel(parent)
        experiment.cancel(parent)
        parents.append(parent)
    assert experiment.wait(parents[0], 60).ended
    assert not runs.load_record(parents[1]).ended
    assert runs.read_record(victim).status == "Running"
    share(go=True)
    assert experiment.wait(victim, 60).status == "Completed"


def without_worker(home: str) -> RunDirectory:
    """A sweep that is written and that nobody starts yet: this process is the worker meanwhile."""
    post = queueing.Post(home)
    assert post.take()
    parent = submit("v=1..3", jobs=2)
    post.read()
    assert post.leave(lambda: True)
    return parent


@pytest.mark.slow
def test_K4_a_worker_killed_at_any_call_is_replaced_and_nothing_starts_twice(
    project: Path, home: str
) -> None:
    need("strace")
    share(go=True)
    command = [sys.executable, "-S", "-E", "-s", "-c", WORK.format(parent=PACKAGE_PARENT, home=home)]
    first = without_worker(home)
    points = kill_points(command, home)
    assert experiment.wait(first, 60).status == "Completed"
    assert len(points) > 20
    killed, tried = 0, points[:: max(1, len(points) // 16)]
    for call, number in tried:
        parent = without_worker(home)
        killed += run_and_kill(command, call, number)
        assert experiment.wait(parent, 60).status == "Completed", (call, number)
        trials = [one.run_id for one in Trials(parent).look().trials]
        assert all(started_runs().count(one) == 1 for one in trials), (call, number)
    # how often it looks depends on what else the machine does
    assert killed > len(tried) * 0.6
    until(lambda: queueing.is_empty(home), 60)


@pytest.mark.slow
@pytest.mark.parametrize("code", [SUBMIT, ENQUEUE], ids=["sweep", "queue"])
def test_S14_a_submit_killed_at_any_call_leaves_all_of_it_or_nothing(
    project: Path, home: str, code: str
) -> None:
    need("strace")
    share(go=True)
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True, timeout=60)
    points = kill_points(command, home)
    tried = points[:: max(1, len(points) // 16)]
    killed = 0
    for call, number in tried:
        finish(home)
        before = set(os.listdir(home + "/ids"))
        killed += run_and_kill(command, call, number)
        finish(home)
        new = [runs.at(home, run_id) for run_id in set(os.listdir(home + "/ids")) - before]
        there = [runs.load_record(one) for one in new if one is not None]
        assert len(there) in (0, 4 if code == SUBMIT else 1), (call, number, there)
        assert {one.status for one in there} <= {"Completed"}, (call, number, there)
    assert killed > len(tried) * 0.6
    assert len(started_runs()) == len(set(started_runs()))
    assert {finding.code for finding in runs.check(home)} <= {"run.half_made"}


def finish(home: str) -> None:
    """Have the queue go on until it is empty."""
    queueing.ensure_worker(home)
    until(lambda: queueing.is_empty(home), 60)


def test_a_run_that_nobody_waits_for_any_more_says_so_in_time(project: Path, home: str) -> None:
    waiting = [enqueue(Request(script="script.py")) for _ in range(2)][1]
    began = time.monotonic()
    with pytest.raises(RunFailed) as refused:
        experiment.wait(waiting, 0.3)
    assert refused.value.code == "run.wait_timeout"
    assert time.monotonic() - began >= 0.3
    share(go=True)
    assert experiment.wait(waiting, 60).status == "Completed"
