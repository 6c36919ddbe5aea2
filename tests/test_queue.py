"""The queue: in order, so many at a time, with the code and the secrets of the moment of the submit."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import aml_jupyter
from aml_jupyter import experiment, processes, queueing, runs, worker
from aml_jupyter.errors import RunNotFound, UsageError
from aml_jupyter.experiment import Request
from aml_jupyter.experiment.queued import enqueue
from aml_jupyter.queueing import Entry
from aml_jupyter.runs import RunDirectory
from tests.terminal import aml, data, until

# tells that it has begun, waits until it is told to go on
GATE = """
import os, sys, time
folder = os.environ["AZUREML_NATIVE_SHARE_DIRECTORY"]
with open(folder + "begun", "a") as file:
    file.write(sys.argv[1] + " ")
while not os.path.exists(folder + sys.argv[1]):
    time.sleep(0.02)
"""


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "gate.py").write_text(GATE)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def share(project: Path) -> Path:
    """The shared folder, through which the scripts are told to go on."""
    folder = Path.home() / ".azureml/share/local/default/project"
    folder.mkdir(parents=True)
    return folder


def put(name: str, **fields: Any) -> RunDirectory:
    """A run of the gate that opens when a file of that name is in the share."""
    return enqueue(Request(script="gate.py", arguments=(name,), name=name, **fields))


def begun(share: Path) -> list[str]:
    found = share / "begun"
    return found.read_text().split() if found.exists() else []


def statuses(*directories: RunDirectory) -> list[str]:
    return [runs.read_record(one).status for one in directories]


def test_runs_of_the_queue_go_on_one_after_the_other_in_order(project: Path, share: Path, home: str) -> None:
    first, second, third = (put(name) for name in "abc")
    until(lambda: begun(share) == ["a"], 60)
    assert statuses(first, second, third) == ["Running", "Queued", "Queued"]
    (share / "b").touch()
    (share / "a").touch()
    until(lambda: begun(share) == ["a", "b", "c"], 60)
    (share / "c").touch()
    assert [experiment.wait(one, 60).status for one in (first, second, third)] == ["Completed"] * 3
    until(lambda: queueing.is_empty(home) and queueing.worker(home) is None, 60)


def test_a_queued_run_has_the_code_of_the_moment_it_was_put_there(project: Path, share: Path) -> None:
    put("a")
    (project / "late.py").write_text("open('outputs/which', 'w').write('then')")
    late = enqueue(Request(script="late.py"))
    (project / "late.py").write_text("open('outputs/which', 'w').write('now')")
    (share / "a").touch()
    experiment.wait(late, 60)
    assert aml_jupyter.run(late.run_id).read("outputs/which") == b"then"


def test_the_command_returns_at_once_and_lists_what_waits(project: Path, share: Path) -> None:
    ids = [data("run", "local", "gate.py", name, "--queue")["run_id"] for name in "ab"]
    until(lambda: begun(share) == ["a"], 60)
    found = data("queue")
    assert [(one["place"], one["run_id"], one["status"]) for one in found["entries"]] == [
        (1, ids[0], "Running"),
        (2, ids[1], "Queued"),
    ]
    assert found["jobs"] == 1
    assert processes.is_alive(found["worker"])
    shown = aml("queue")
    assert ids[1] in shown.stdout
    assert "1 at a time" in shown.stderr
    for name in "ab":
        (share / name).touch()
    attached = aml("attach", ids[1])
    assert attached.returncode == 0, attached.stderr


def test_more_go_on_when_the_queue_is_told_so(project: Path, share: Path) -> None:
    for name in "abc":
        put(name)
    until(lambda: begun(share) == ["a"], 60)
    assert aml("queue", "jobs", "2").returncode == 0
    until(lambda: begun(share) == ["a", "b"], 60)
    assert aml("queue", "-j", "3").returncode == 0
    until(lambda: begun(share) == ["a", "b", "c"], 60)
    for name in "abc":
        (share / name).touch()


def test_a_target_has_a_limit_of_its_own_and_others_overtake_those_that_wait_for_it(
    project: Path, share: Path, home: str
) -> None:
    (project / "aml_config").mkdir()
    for name in ("slow", "fast"):
        text = "type: local\nnativeSharedDirectory: ~/.azureml/share/\n"
        (project / "aml_config" / f"{name}.compute").write_text(text)
    assert aml("queue", "jobs", "3").returncode == 0
    assert "3 at a time, 1 on slow" in aml("queue", "jobs", "1", "slow").stderr
    first, second = put("a", target="slow"), put("b", target="slow")
    third = put("c", target="fast")
    until(lambda: sorted(begun(share)) == ["a", "c"], 60)
    assert statuses(second) == ["Queued"]
    assert "on slow" not in aml("queue", "jobs", "0", "slow").stderr
    until(lambda: sorted(begun(share)) == ["a", "b", "c"], 60)
    for name in "abc":
        (share / name).touch()
    for one in (first, second, third):
        experiment.wait(one, 60)


def test_of_many_that_are_started_at_once_no_more_than_may_go_on(
    project: Path, share: Path, home: str
) -> None:
    (project / "aml_config").mkdir()
    for name in ("slow", "fast"):
        text = "type: local\nnativeSharedDirectory: ~/.azureml/share/\n"
        (project / "aml_config" / f"{name}.compute").write_text(text)
    queueing.set_settings(home, jobs=3, paused=True)
    queueing.set_settings(home, target="slow", jobs=1)
    put("a", target="slow")
    put("b", target="slow")
    for name in "cde":
        put(name, target="fast")
    queueing.set_settings(home, paused=False)
    until(lambda: sorted(begun(share)) == ["a", "c", "d"], 60)
    (share / "c").touch()
    until(lambda: sorted(begun(share)) == ["a", "c", "d", "e"], 60)
    for name in "abde":
        (share / name).touch()
    until(lambda: queueing.is_empty(home), 60)
    assert sorted(begun(share)) == ["a", "b", "c", "d", "e"]


def test_a_look_at_four_times_as_many_runs_that_wait_takes_four_times_as_long(home: str) -> None:
    def calls(count: int) -> int:
        watched = worker.Worker(home, queueing.Post(home))
        for number in range(count):
            item = watched.items[f"r_{number}"] = worker.Item(watched, Entry(run_id=f"r_{number}"))
            item.states = {f"r_{number}": worker.WAITING}
        # it has the only place
        first = watched.items["r_0"]
        first.states["r_0"] = worker.ACTIVE
        first.active["r_0"] = worker.Active(RunDirectory(f"{home}/runs/a/b/c/r_0"))
        made = 0

        def count_call(*_: object) -> None:
            nonlocal made
            made += 1

        sys.setprofile(count_call)
        try:
            watched._start_waiting()
        finally:
            sys.setprofile(None)
        return made

    assert calls(400) < 5 * calls(100)


def test_damaged_settings_keep_nothing_from_running(project: Path, share: Path, home: str) -> None:
    queueing.set_settings(home, jobs=2)
    Path(queueing.folder(home), "settings.json").write_bytes(b"{")
    (share / "a").touch()
    assert experiment.wait(put("a"), 60).status == "Completed"
    assert queueing.set_settings(home, jobs=3).jobs == 3


def test_a_paused_queue_starts_nothing_until_it_is_resumed(project: Path, share: Path) -> None:
    assert aml("queue", "pause").returncode == 0
    waiting = put("a")
    (share / "a").touch()
    assert "the queue is paused" in aml("run", "local", "gate.py", "a", "--queue").stderr
    assert statuses(waiting) == ["Queued"]
    assert begun(share) == []
    assert aml("queue", "resume").returncode == 0
    assert experiment.wait(waiting, 60).status == "Completed"


def test_a_run_that_is_moved_to_the_front_goes_next(project: Path, share: Path) -> None:
    first, second, third = (put(name) for name in "abc")
    until(lambda: begun(share) == ["a"], 60)
    assert aml("queue", "move", "c", "2").returncode == 0
    for name in "abc":
        (share / name).touch()
    for one in (first, second, third):
        experiment.wait(one, 60)
    assert begun(share) == ["a", "c", "b"]


def test_a_run_that_is_taken_out_or_stopped_ends_without_having_begun(project: Path, share: Path) -> None:
    first, second, third = (put(name) for name in "abc")
    until(lambda: begun(share) == ["a"], 60)
    assert "c" not in aml("queue", "rm", "c").stdout.split()
    assert aml("stop", "b").stdout.strip() == f"{second.run_id} Canceled"
    record = runs.read_record(third)
    assert (record.status, record.reason) == ("Canceled", queueing.CANCELED_EARLY)
    (share / "a").touch()
    assert experiment.wait(first, 60).status == "Completed"
    assert begun(share) == ["a"]


def test_what_is_no_place_or_not_in_the_queue_is_refused(project: Path, share: Path) -> None:
    first = put("a")
    until(lambda: begun(share) == ["a"], 60)
    for words, told in (
        (("move", "a", "0"), "no place"),
        (("move", "a"), "a run and its new place"),
        (("rm",), "one or more runs"),
        (("rm", "a"), "aml stop"),
        (("jobs", "0"), "from 1 to 64"),
        (("jobs", "many"), "no number"),
        (("pause", "now"), "nothing behind it"),
    ):
        done = aml("queue", *words)
        assert (done.returncode, told in done.stderr) == (2, True), (words, done.stderr)
    (share / "a").touch()
    experiment.wait(first, 60)
    until(lambda: queueing.is_empty(first.home), 60)
    with pytest.raises(RunNotFound) as refused:
        queueing.move(first.home, first.run_id, 1)
    assert refused.value.code == "queue.not_there"
    with pytest.raises(UsageError):
        queueing.set_settings(first.home, jobs=65)


def test_a_sweep_in_the_queue_waits_for_its_turn_and_takes_no_more_places_than_there_are(
    project: Path, share: Path, home: str
) -> None:
    (project / "sweep.py").write_text(GATE.replace("sys.argv[1]", "sys.argv[1].rpartition('=')[2]"))
    first = put("a")
    done = data("run", "local", "sweep.py", "--sweep", "v=x,y,z", "-j", "3", "--queue")
    last = put("d")
    until(lambda: begun(share) == ["a"], 60)
    assert aml_jupyter.run(done["run_id"]).status == "Queued"
    queueing.set_settings(home, jobs=2)
    until(lambda: begun(share) == ["a", "x"], 60)
    for name in "axyzd":
        (share / name).touch()
    for one in (first, last):
        experiment.wait(one, 60)
    assert aml_jupyter.run(done["run_id"]).wait(60).status == "Completed"
    # of two that go on together either may be the first to write
    assert sorted(begun(share)) == sorted("axyzd")


def test_a_sweep_beside_the_queue_waits_for_nobody(project: Path, share: Path) -> None:
    put("a")
    until(lambda: begun(share) == ["a"], 60)
    (project / "quick.py").write_text("print('quick')")
    assert aml("run", "local", "quick.py", "--sweep", "v=1,2").returncode == 0
    (share / "a").touch()


def test_variables_of_a_queued_run_are_in_no_file(project: Path, share: Path, home: str) -> None:
    secret = "y" * 40 + "-very-secret"
    (project / "uses.py").write_text(
        "import os\nopen('outputs/length', 'w').write(str(len(os.environ['KEY'])))"
    )
    put("a")
    waiting = enqueue(Request(script="uses.py", environment={"KEY": secret}))
    until(lambda: begun(share) == ["a"], 60)
    for folder, _, names in os.walk(home):
        for name in names:
            path = os.path.join(folder, name)
            assert not os.path.isfile(path) or secret.encode() not in Path(path).read_bytes(), path
    (share / "a").touch()
    assert experiment.wait(waiting, 60).status == "Completed"
    assert aml_jupyter.run(waiting.run_id).read("outputs/length") == b"52"


def test_a_queued_run_has_the_environment_it_was_put_there_with(
    project: Path, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "uses.py").write_text("import os\nopen('outputs/mood', 'w').write(os.environ['MOOD'])")
    put("a")  # its submitter's environment is that of the worker
    monkeypatch.setenv("MOOD", "good")
    waiting = enqueue(Request(script="uses.py"))
    (share / "a").touch()
    experiment.wait(waiting, 60)
    assert aml_jupyter.run(waiting.run_id).read("outputs/mood") == b"good"


def test_python_puts_runs_into_the_queue(project: Path, share: Path) -> None:
    (share / "a").touch()
    run = aml_jupyter.submit("local", "gate.py", ["a"], queue=True)
    assert run.wait(60).status == "Completed"


def test_a_plan_that_fails_leaves_nothing_in_the_queue(project: Path, home: str) -> None:
    with pytest.raises(UsageError):
        enqueue(Request(script="missing.py"))
    (project / "big.bin").write_bytes(bytes(27 << 20))
    assert aml("run", "local", "gate.py", "a", "--queue").returncode != 0
    assert aml("run", "local", "gate.py", "--queue", "--sweep", "v=1,2").returncode != 0
    assert queueing.is_empty(home)
    assert runs.all_directories(home) == []


def test_a_damaged_entry_keeps_no_other_run_from_its_turn(project: Path, share: Path, home: str) -> None:
    (share / "a").touch()
    queueing.set_settings(home, paused=True)
    good = put("a")
    Path(queueing.folder(home), "damaged_1.json").write_bytes(b"{")
    Path(queueing.folder(home), "newer_1.json").write_bytes(b'{"format":99}')
    queueing.set_settings(home, paused=False)
    assert experiment.wait(good, 60).status == "Completed"


def test_the_worker_is_idle_while_runs_go_on(project: Path, share: Path, home: str) -> None:
    put("a")
    put("b")
    until(lambda: begun(share) == ["a"], 60)
    who = queueing.worker(home)
    assert who is not None

    def switches() -> int:
        text = Path(f"/proc/{who['pid']}/status").read_text()
        return int(text.split("voluntary_ctxt_switches:")[1].split()[0])

    # it has nothing to do once it knows the supervisor: nobody wakes it
    def is_still() -> bool:
        before = switches()
        signal.sigtimedwait([], 0.5)
        return switches() == before

    until(is_still, 60)
    for name in "ab":
        (share / name).touch()


def test_names_of_trials_that_are_no_names_are_met_with_a_shrug(project: Path, home: str) -> None:
    (project / "quick.py").write_text("print('quick')")
    with pytest.raises(UsageError):
        enqueue(Request(script="missing.py"))
    queueing.add(home, Entry(run_id="no_1", trials=("../../etc", "a/b", "")))
    queueing.change(home, "no_1", maker={"pid": 1, "start_time": "0", "boot_id": "none"})
    assert experiment.wait(enqueue(Request(script="quick.py")), 60).status == "Completed"
    until(lambda: queueing.is_empty(home), 60)


def test_a_run_whose_record_is_damaged_keeps_no_other_from_its_turn(
    project: Path, share: Path, home: str
) -> None:
    first, second, third = (put(name) for name in "abc")
    until(lambda: begun(share) == ["a"], 60)
    Path(second.run_json).write_bytes(b"\0" * 100)
    for name in "abc":
        (share / name).touch()
    assert [experiment.wait(one, 60).status for one in (first, third)] == ["Completed"] * 2
    assert begun(share) == ["a", "c"]
    until(lambda: queueing.is_empty(home), 60)
