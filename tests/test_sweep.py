"""Sweeps: which trials there are, how they go on, what becomes of their parent, and how that is shown."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import aml_jupyter
from aml_jupyter import experiment, queueing, runs, sweep
from aml_jupyter.errors import UsageError
from aml_jupyter.experiment import Request
from aml_jupyter.run import Sweep
from aml_jupyter.runs import Record, RunDirectory
from aml_jupyter.sweep import Asked, axes
from aml_jupyter.sweep.shown import MOST, html, plain
from aml_jupyter.sweep.table import Table, Trial, Trials
from tests.terminal import aml, data, terminal, until

TRAIN = """
import sys, time, aml_run
given = dict(word.lstrip("-").split("=") for word in sys.argv[1:])
with open("where", "a") as file:
    file.write("trained")
if given["rate"] == "13":
    sys.exit("unlucky")
aml_run.log("accuracy", 1 / float(given["rate"]))
open("outputs/model", "w").write(given["rate"])
"""
# tells that it has begun, waits until it is told to go on
GATE = """
import os, sys, time
folder = os.environ["AZUREML_NATIVE_SHARE_DIRECTORY"]
rate = sys.argv[1].partition("=")[2]
open(folder + "begun-" + rate, "w").close()
while not os.path.exists(folder + "go-" + rate):
    time.sleep(0.02)
sys.exit(rate == "13")
"""


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    (folder / "gate.py").write_text(GATE)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def share(project: Path) -> Path:
    """The shared folder, through which the scripts are told to go on."""
    folder = Path.home() / ".azureml/share/local/default/project"
    folder.mkdir(parents=True)
    return folder


def submit(*values: str, script: str = "train.py", jobs: int = 2, **asked: Any) -> RunDirectory:
    request = Request(script=script, params=asked.pop("params", {}), environment=asked.pop("environment", {}))
    return sweep.submit(request, Asked(axes=tuple(map(axes.parse, values)), jobs=jobs, **asked))


def look(parent: RunDirectory) -> Table:
    return Trials(parent).look()


# ---- which trials there are


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("rate=0.1,0.01", (0.1, 0.01)),
        ("depth=1..5", (1, 2, 3, 4, 5)),
        ("depth=5..1", (5, 4, 3, 2, 1)),
        ("depth=1..10:4", (1, 5, 9)),
        ("rate=0.1..1.0:0.3", (0.1, 0.4, 0.7, 1.0)),
        ("rate=1e-3..2e-3:5e-4", (0.001, 0.0015, 0.002)),
        ("depth=1..3,10", (1, 2, 3, 10)),
        ("solver=adam,sgd", ("adam", "sgd")),
        ("flag=true,false,null", (True, False, None)),
        ("layers=[[8,8],[16]]", ([8, 8], [16])),
        ("date=2020..a", ("2020..a",)),
        ("again=1,2,1", (1, 2)),
        ("one_and_true=1,true", (1, True)),
    ],
)
def test_values_are_numbers_texts_lists_and_ranges_as_they_are_written(
    text: str, values: tuple[object, ...]
) -> None:
    found = axes.parse(text).values
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


@pytest.mark.parametrize(
    "text", ["rate", "rate=", "=1", "rate=1,,2", "rate=0.1..0.5", "rate=1..2:0", "rate=1..1e9", "rate=[]"]
)
def test_values_that_cannot_be_tried_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        axes.parse(text)
    assert refused.value.code == "sweep.invalid"
    assert "--sweep" in str(refused.value)


def test_a_grid_changes_the_last_axis_first_and_stops_at_the_most_trials() -> None:
    grid = [axes.parse("a=1,2"), axes.parse("b=x,y")]
    assert axes.trials(grid) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert axes.trials(grid, most=3) == axes.trials(grid)[:3]


def test_the_same_seed_draws_the_same_trials_none_of_them_twice() -> None:
    grid = [axes.parse("a=1..1000"), axes.parse("b=1..1000")]
    drawn = axes.trials(grid, random=50, seed=7)
    assert drawn == axes.trials(grid, random=50, seed=7) != axes.trials(grid, random=50, seed=8)
    assert len({(one["a"], one["b"]) for one in drawn}) == 50


def test_more_trials_than_can_be_run_are_refused_before_any_exists(project: Path, home: str) -> None:
    with pytest.raises(UsageError, match="1000000 trials") as refused:
        submit("a=1..1000", "b=1..1000")
    assert refused.value.code == "sweep.too_large"
    assert not os.path.exists(home + "/runs")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--sweep", "a=1", "--sweep", "a=2"), "--sweep a is given twice"),
        (("--sweep", "a=1", "-p", "a=2"), "a is given with -p and with --sweep"),
        (("--sweep", "a=1", "-j", "0"), "from 1 to 64"),
        (("--sweep", "a=1", "-j", "65"), "from 1 to 64"),
        (("--sweep", "a=1", "--max-trials", "0"), "--max-trials must be 1 or more"),
        (("--sweep", "a=1", "--metric", "loss:low"), "NAME:max or NAME:min"),
        (("-j", "2"), "-j is for a sweep"),
        (("--metric", "loss", "--queue"), "--metric is for a sweep"),
    ],
)
def test_a_line_that_makes_no_sweep_is_refused_and_leaves_nothing(
    project: Path, home: str, words: tuple[str, ...], told: str
) -> None:
    done = aml("run", "local", "train.py", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not os.path.exists(home + "/runs")


def test_a_sweep_on_several_targets_is_refused(project: Path) -> None:
    with pytest.raises(UsageError, match="one target"):
        sweep.submit(Request(target="local,docker", script="train.py"), Asked(axes=(axes.parse("a=1"),)))


# ---- how they go on


def test_a_sweep_is_one_snapshot_a_trial_for_each_value_and_a_parent_with_the_best(project: Path) -> None:
    done = aml(
        "run", "local", "train.py", "--sweep", "rate=4,2,8", "-j", "2", "--metric", "accuracy", "-n", "n"
    )
    assert done.returncode == 0, done.stderr
    assert "trial 2/3  rate=2  Completed  accuracy=0.5" in done.stderr
    parent = aml_jupyter.run("n")
    assert isinstance(parent, Sweep)
    assert parent.id == aml_jupyter.run("@last").id
    record = parent.record
    assert (record.status, record.kind, record.metrics) == (
        "Completed",
        "sweep",
        {"trials": 3, "completed": 3, "best.accuracy": 0.5},
    )
    assert record.duration is not None
    assert [one.params for one in parent.trials] == [{"rate": 4}, {"rate": 2}, {"rate": 8}]
    assert {one.record.parent_run_id for one in parent.trials} == {parent.id}
    assert {one.record.snapshot_id for one in parent.trials} == {record.snapshot_id}
    best = parent.best
    assert best is not None
    assert best.read("outputs/model") == b"2"
    # the word for the best run means one that has a model
    assert aml_jupyter.run("@best:accuracy").id == best.id
    assert "2*  2     0.5       Completed" in aml("show", parent.id).stdout
    shown = data("show", parent.id)["sweep"]
    assert (shown["best"], [one["status"] for one in shown["trials"]]) == (best.id, ["Completed"] * 3)
    listed = data("runs", "--parent", parent.id)
    assert {one["run_id"] for one in listed} == {one.id for one in parent.trials}


def test_with_min_the_least_is_best(project: Path) -> None:
    parent = Sweep(submit("rate=4,2,8", metric="accuracy:min")).wait()
    assert parent.best is not None
    assert parent.best.params == {"rate": 8}
    assert parent[3] == parent.best


def test_a_metric_that_no_trial_logged_is_told(project: Path) -> None:
    record = experiment.wait(submit("rate=4,2", metric="loss"), 60)
    assert record.status == "Completed"
    assert any("as loss" in warning for warning in record.warnings)


def test_a_trial_that_fails_keeps_no_other_from_running(project: Path) -> None:
    done = aml("run", "local", "train.py", "--sweep", "rate=13,2,4", "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["status"], told["reason"]) == ("Failed", "sweep.trials_failed")
    assert "1 of 3 trials" in told["error"]["message"]
    assert [one["status"] for one in told["sweep"]["trials"]] == ["Failed", "Completed", "Completed"]


def test_with_fail_fast_the_first_failure_ends_the_others(project: Path, share: Path) -> None:
    parent = submit("rate=13,2,4", script="gate.py", fail_fast=True)
    until((share / "begun-2").exists, 60)
    (share / "go-13").touch()
    assert experiment.wait(parent, 60).reason == "sweep.trials_failed"
    assert [one.status for one in look(parent).trials] == ["Failed", "Canceled", "Canceled"]
    assert not (share / "begun-4").exists()


def test_no_more_trials_go_on_than_were_asked_for(project: Path, share: Path) -> None:
    parent = submit("rate=1..4", script="gate.py", jobs=2)
    until(lambda: (share / "begun-1").exists() and (share / "begun-2").exists(), 60)
    assert runs.read_record(parent).status == "Running"
    assert [one.status for one in look(parent).trials][2:] == ["Queued", "Queued"]
    (share / "go-2").touch()
    until((share / "begun-3").exists, 60)
    assert not (share / "begun-4").exists()
    for rate in (1, 3, 4):
        (share / f"go-{rate}").touch()
    assert experiment.wait(parent, 60).status == "Completed"


def test_stopping_the_parent_stops_its_trials_and_starts_no_more(project: Path, share: Path) -> None:
    parent = submit("rate=1..4", script="gate.py", jobs=2)
    until(lambda: (share / "begun-1").exists() and (share / "begun-2").exists(), 60)
    done = aml("stop", parent.run_id)
    assert done.stdout.strip() == f"{parent.run_id} Canceled"
    table = look(parent)
    assert [one.status for one in table.trials] == ["Canceled"] * 4
    assert not (share / "begun-3").exists()
    assert queueing.is_empty(parent.home)


def test_a_trial_that_is_stopped_ends_alone(project: Path, share: Path) -> None:
    parent = submit("rate=1,2,3", script="gate.py", jobs=1)
    until((share / "begun-1").exists, 60)
    second, third = (one.run_id for one in look(parent).trials[1:])
    assert aml("stop", third).returncode == 0
    for rate in (1, 2, 3):
        (share / f"go-{rate}").touch()
    record = experiment.wait(parent, 60)
    assert (record.status, record.reason) == ("Failed", "sweep.trials_failed")
    assert [one.status for one in look(parent).trials] == ["Completed", "Completed", "Canceled"]
    assert aml_jupyter.run(second).status == "Completed"


def test_a_trial_that_is_removed_while_it_waits_is_left_out(project: Path, share: Path) -> None:
    parent = submit("rate=1,2", script="gate.py", jobs=1)
    until((share / "begun-1").exists, 60)
    runs.remove(RunDirectory(str(Path(parent.path).with_name(look(parent).trials[1].run_id))))
    (share / "go-1").touch()
    assert experiment.wait(parent, 60).status == "Completed"
    assert [one.status for one in look(parent).trials] == ["Completed", "Removed"]


def test_an_interrupted_command_cancels_the_sweep(project: Path, share: Path) -> None:
    words = ("run", "local", "gate.py", "--sweep", "rate=1..3", "-j", "2")
    with terminal(*words, cwd=project) as shown:
        until(lambda: (share / "begun-1").exists() and shown.read(), 60)
        os.kill(shown.pid, signal.SIGINT)
        assert shown.end() == 130
    assert aml_jupyter.run("@last").status == "Canceled"


def test_a_detached_sweep_is_attached_to_and_waited_for(project: Path) -> None:
    found = data("run", "-d", "local", "train.py", "--sweep", "rate=1,2")
    assert len(found["trials"]) == 2
    attached = aml("attach", found["run_id"])
    assert attached.returncode == 0
    assert f"{found['run_id']}: 2 trials: 2 completed" in attached.stdout
    assert aml("wait", found["run_id"]).stdout.strip() == f"{found['run_id']} Completed"
    assert "a sweep prints nothing" in aml("logs", found["run_id"]).stderr


def test_a_dry_run_lists_the_trials_and_starts_none(project: Path, home: str) -> None:
    done = aml("run", "local", "train.py", "--sweep", "rate=1,2", "--sweep", "depth=a,b", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "3  rate=2 depth=a" in done.stderr
    assert not os.path.exists(home + "/runs")


def test_secrets_reach_every_trial_and_no_file(project: Path, home: str) -> None:
    (project / "train.py").write_text(
        "import os\nopen('outputs/length', 'w').write(str(len(os.environ['KEY'])))"
    )
    secret = "x" * 50 + "-very-secret"
    parent = Sweep(submit("rate=1..3", environment={"KEY": secret})).wait()
    assert [one.read("outputs/length") for one in parent.trials] == [b"62"] * 3
    for folder, _, names in os.walk(home):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                assert secret.encode() not in Path(path).read_bytes(), path


def test_a_cell_gets_its_values_as_variables(project: Path) -> None:
    cell = "import aml_run\naml_run.log('double', 2 * rate)"
    parent = aml_jupyter.sweep("local", params={"rate": [1, 2.5]}, jobs=2, cell=cell, metric="double").wait()  # type: ignore[operator]
    assert [row["metric"] for row in parent.rows()] == [2, 5]
    assert parent[2].record.params == {"rate": 2.5}
    with pytest.raises(IndexError):
        parent[3]


def test_python_takes_ranges_arrays_and_single_values(project: Path) -> None:
    import numpy as np

    found = axes.of_mapping({"a": range(3), "b": np.array([0.5, 1.5]), "c": 7, "d": "1..2"})
    assert [one.values for one in found] == [(0, 1, 2), (0.5, 1.5), (7,), (1, 2)]


def test_what_travels_along_is_kept_once_for_all_trials(project: Path) -> None:
    cell = "assert len(frame) == 100_000\nopen('outputs/sum', 'w').write(str(sum(frame) + rate))"
    frame = list(range(100_000))
    parent = sweep.submit(
        Request(cell=cell.encode(), inputs={"frame": frame}), Asked(axes=(axes.parse("rate=1..3"),), jobs=3)
    )
    trials = Sweep(parent).wait().trials
    assert [one.read("outputs/sum") for one in trials] == [b"4999950001", b"4999950002", b"4999950003"]
    files = [next(Path(one._directory.job, "inputs").iterdir()) for one in trials]
    assert len({(one.name, one.stat().st_ino) for one in files}) == 1


def test_what_has_completed_is_not_run_again_where_that_is_asked_for(project: Path, home: str) -> None:
    (project / "gate.py").unlink()  # what is in the share may have changed: nothing is reused then
    (project / "train.py").write_text("import sys, aml_run; aml_run.log('a', float(sys.argv[1][7:]))")
    first = data("run", "local", "train.py", "--sweep", "rate=1,2", "--needed")["sweep"]["trials"]
    words = ("run", "local", "train.py", "--sweep", "rate=1..3", "--needed", "--metric", "a")
    second = data(*words)
    trials = second["sweep"]["trials"]
    assert [one["reused"] for one in trials] == [True, True, False]
    assert [one["run_id"] for one in trials[:2]] == [one["run_id"] for one in first]
    assert (second["status"], second["metrics"]) == ("Completed", {"trials": 3, "completed": 3, "best.a": 3})
    third = aml(*words)
    assert "3 trials: 3 completed; best a 3" in third.stdout
    assert "Completed before" in third.stdout
    assert third.returncode == 0
    (project / "train.py").write_text("print('other code')")
    assert "--needed: trials are run: no run of this code has completed" in aml(*words).stderr
    assert queueing.is_empty(home)


# ---- how that is shown


def table(count: int = 3, **changes: Any) -> Table:
    trials = tuple(
        Trial(number=number, run_id=f"p_{number}", params={"rate": number}, status="Completed", metric=1.0)
        for number in range(1, count + 1)
    )
    record = Record(run_id="p_0", kind="sweep", status="Running")
    return Table(record=record, names=("rate",), metric="acc", trials=trials, best="p_1").replace(**changes)


def test_words_of_a_run_never_become_markup_or_move_a_cursor() -> None:
    bad = "<img src=x onerror=alert(1)>\x1b[2J\n"
    trial = Trial(number=1, run_id=bad, params={bad: bad}, status="Failed", message=bad)
    found = table(names=(bad,), metric=bad, trials=(trial,), record=Record(run_id=bad, name=bad), best=bad)
    assert "<img" not in html(found)
    assert "\x1b" not in html(found) + plain(found)
    assert len(plain(found).splitlines()) <= 4


def test_of_many_trials_the_best_and_those_that_failed_are_shown() -> None:
    many = table(500)
    last = many.trials[-1].replace(status="Failed")
    many = many.replace(trials=(*many.trials[:-1], last), best="p_300")
    text = plain(many)
    assert "300*" in text
    assert "p_500" in text
    assert "… 400 more" in text
    assert html(many).count("<tr>") == MOST + 1


def test_a_record_from_elsewhere_that_describes_no_sweep_is_shown_empty(project: Path, home: str) -> None:
    parent = submit("rate=1")
    experiment.wait(parent, 60)
    record = runs.load_record(parent)
    strange: list[Any] = [None, [], {"axes": 1, "trials": {"a": 1}, "metric": ["x"]}, {"metric": "a:b:c"}]
    for described in strange:
        runs.write_record(parent, record.replace(properties={"sweep": described}))
        assert look(parent).trials == ()
