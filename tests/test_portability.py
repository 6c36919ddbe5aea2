"""One snapshot on several targets: what is compared, what is said of it, and what is kept."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import aml_jupyter
from aml_jupyter import portability, retention, runs
from aml_jupyter.artifacts import Artifact
from aml_jupyter.errors import AmlError, UsageError
from aml_jupyter.portability.shown import html, plain
from aml_jupyter.portability.sides import Lines
from aml_jupyter.portability.verdicts import MOST, Side, Verdict, verdict
from aml_jupyter.run import RunSet
from aml_jupyter.runs import Record
from aml_jupyter.runs.groups import Group, read_group, write_group
from tests import engines, made_runs
from tests.engines import Engine
from tests.requirements import python_versions
from tests.terminal import aml, data, terminal, until

SAME = """
import sys, aml_run
print("hello")
aml_run.log("rate", 0.5)
open("outputs/model.txt", "w").write("a model")
"""
OTHER = """
import sys, aml_run
print(sys.version_info[:2])
aml_run.log("version", sys.version_info[1])
open("outputs/version.txt", "w").write(str(sys.version_info[:2]))
open("outputs/same.txt", "w").write("same")
"""
MEET = """
import os, sys, time
folder = sys.argv[1]
open(os.path.join(folder, os.environ["AZUREML_RUN_ID"]), "w").close()
due = time.monotonic() + 30
while len(os.listdir(folder)) < 2:
    assert time.monotonic() < due, "the other run has not begun"
    time.sleep(0.01)
print("met")
"""


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the targets `old` and `new`: the oldest interpreter of this machine and this one."""
    folder = tmp_path / "iris"
    (folder / "aml_config").mkdir(parents=True)
    share = "nativeSharedDirectory: ~/.azureml/share/\n"
    for name, python in (("old", next(iter(python_versions().values()))), ("new", sys.executable)):
        text = f'type: local\npythonLocation: "{python}"\n{share}'
        (folder / "aml_config" / f"{name}.compute").write_text(text)
    (folder / "aml_config" / "broken.compute").write_text("type: local\npythonLocation: /nowhere/python\n")
    scripts = {"same": SAME, "other": OTHER, "meet": MEET, "fails": "import sys; sys.exit(7)"}
    for name, text in scripts.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "half.py").write_text("import sys\nsys.exit(7 if sys.version_info[:2] < (3, 11) else 0)\n")
    (folder / "sleeps.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    monkeypatch.chdir(folder)
    return folder


def two_versions() -> None:
    """Skip where there is but one interpreter."""
    if next(iter(python_versions())) == f"3.{sys.version_info[1]}":
        pytest.skip("needs python3.8 or another older interpreter: there is only this one")


# ---- what is compared


def side(target: str = "local", **fields: Any) -> Side:
    own = {name: fields.pop(name) for name in list(fields) if name in Side._fields}
    record = {"run_id": f"iris_{target}", "status": "Completed", "exit_code": 0, **fields}
    return Side(target=target, record=Record(**record), **own)


def word(first: Side, second: Side, tolerance: float = 1e-6) -> str:
    return verdict("exp_1", [first, second], tolerance).word


def file(path: str = "outputs/a", sha256: str = "ab" * 32, size: int = 3, **fields: Any) -> Artifact:
    return Artifact(path=path, sha256=sha256, size=size, **fields)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0.5, 0.5, "identical"),
        (1, 1.0, "identical"),
        (NAN, NAN, "identical"),
        (INF, INF, "identical"),
        ("text", "text", "identical"),
        ([], [], "identical"),
        (10**400, 10**400, "identical"),
        (1.0, 1.0 + 1e-7, "within tolerance"),
        ([1.0, 2.0], [1.0, 2.0000001], "within tolerance"),
        ({"a": [1.0]}, {"a": [1.0000001]}, "within tolerance"),
        (-1e12, -1e12 - 1, "within tolerance"),
        (1.0, 1.0 + 1e-5, "different"),
        (0.0, 1e-300, "different"),
        (1.0, -1.0, "different"),
        (INF, -INF, "different"),
        (INF, 1.0, "different"),
        (NAN, 1.0, "different"),
        ([1.0], [1.0, 1.0], "different"),
        ([1.0], 1.0, "different"),
        ({"a": 1}, {"b": 1}, "different"),
        ("1.0", 1.0, "different"),
        ("text", "other", "different"),
        (None, 0, "different"),
        (10**400, 1, "different"),
        (True, 1.0, "identical"),
    ],
)
def test_metrics_are_compared_by_their_relative_difference(first: Any, second: Any, expected: str) -> None:
    sides = side(metrics={"loss": first}), side("docker", metrics={"loss": second})
    assert word(*sides) == expected
    assert word(sides[1], sides[0]) == expected


def test_a_tolerance_of_zero_takes_only_what_is_equal() -> None:
    sides = side(metrics={"a": 1.0}), side("docker", metrics={"a": 1.0 + 1e-15})
    assert word(*sides) == "within tolerance"
    assert word(*sides, tolerance=0.0) == "different"


def test_a_difference_says_where_in_a_metric_it_is() -> None:
    one, other = {"loss": [0.3, 0.2, 0.1], "only": 1}, {"loss": [0.3, 0.4, 0.1]}
    found = verdict("exp_1", [side(metrics=one), side("docker", metrics=other)]).comparisons[0].metrics
    assert found.differ == 2
    loss, only = found.differences
    assert (loss.name, loss.first, loss.second, loss.note) == ("loss", 0.2, 0.4, "value 2, relative 0.5")
    assert (only.name, only.first, only.second) == ("only", 1, None)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([file()], [file()], "identical"),
        ([file()], [file(sha256="cd" * 32)], "different"),
        ([file()], [file("outputs/b")], "different"),
        ([file()], [], "different"),
        ([file(state="rejected", code="artifact.link_escape")], [file()], "different"),
        (
            [file(state="rejected", code="artifact.link_escape")],
            [file(state="rejected", code="artifact.link_escape")],
            "identical",
        ),
    ],
)
def test_outputs_are_compared_by_path_and_hash(
    first: list[Artifact], second: list[Artifact], expected: str
) -> None:
    assert word(side(artifacts=tuple(first)), side("docker", artifacts=tuple(second))) == expected


def test_a_log_is_told_and_decides_only_where_nothing_else_was_left() -> None:
    lines = {"first": ["a", "b", "c"], "second": ["a", "x", "c"]}
    sides = side(lines=lines["first"]), side("docker", lines=lines["second"])
    assert word(*sides) == "different"
    with_output = [one.replace(artifacts=(file(),)) for one in sides]
    found = verdict("exp_1", with_output)
    assert found.word == "identical"
    first = found.comparisons[0].log.differences[0]
    assert (first.name, first.first, first.second) == ("line 2", "b", "x")
    shorter = side("docker", lines=["a"])
    told = verdict("exp_1", [sides[0], shorter]).comparisons[0].log.differences[0]
    assert (told.name, told.first, told.second) == ("line 2", "b", None)
    shown = verdict("exp_1", [side(lines=["a"], shown=["9"]), side("docker", lines=["a"], shown=["13"])])
    assert shown.word == "different"
    assert shown.comparisons[0].log.differences[0].name == "display 1"


FAILED = {"status": "Failed", "reason": "run.exit_nonzero", "exit_code": 1}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "identical"),
        ({"status": "Running", "exit_code": None}, "pending"),
        ({"status": "NotResponding", "exit_code": None}, "pending"),
        ({"status": "Canceled", "reason": "canceled"}, "incomplete"),
        ({"status": "Failed", "reason": "run.lost", "exit_code": None}, "incomplete"),
        ({"status": "Failed", "reason": "run.timeout"}, "incomplete"),
        ({"status": "Failed", "reason": "environment.unsolvable", "exit_code": None}, "incomplete"),
        ({"artifacts_state": "failed"}, "incomplete"),
        (FAILED, "different"),
        ({"status": "Failed", "reason": "run.signal", "exit_code": None, "signal": 11}, "different"),
    ],
)
def test_a_run_that_did_not_complete_is_not_the_same(fields: dict[str, Any], expected: str) -> None:
    assert word(side(), side("docker", **fields)) == expected


def test_runs_that_fail_alike_are_the_same_whatever_words_their_versions_have() -> None:
    def failed(message: str, target: str) -> Side:
        return side(target, **FAILED, error={"message": message}, lines=[message])

    assert word(failed("NameError: name 'a'", "old"), failed("NameError: did you mean", "new")) == "identical"
    assert word(failed("NameError: name 'a'", "old"), failed("ValueError: a", "new")) == "different"


def test_the_environments_are_told_and_decide_nothing() -> None:
    one = side("old", python_version="3.8.18", packages={"numpy": "1.24.4", "pip": "24"})
    other = side("new", python_version="3.13.0", packages={"numpy": "2.1.0", "pip": "24"}, kind="docker")
    found = verdict("exp_1", [one, other])
    assert found.word == "identical"
    told = found.comparisons[0]
    assert {d.name: (d.first, d.second) for d in told.environment.differences} == {
        "kind": ("local", "docker"),
        "python_version": ("3.8.18", "3.13.0"),
    }
    assert [(d.name, d.first, d.second) for d in told.packages.differences] == [("numpy", "1.24.4", "2.1.0")]
    assert "numpy  1.24.4 | 2.1.0" in plain(found)
    unknown = verdict("exp_1", [one, other.replace(packages=None)]).comparisons[0]
    assert unknown.packages.differ == 0


def test_of_three_targets_the_worst_comparison_is_the_verdict() -> None:
    sides = [
        side("a", metrics={"x": 1.0}),
        side("b", metrics={"x": 1.0000001}),
        side("c", metrics={"x": 2.0}),
    ]
    found = verdict("exp_1", sides)
    assert [one.word for one in found.comparisons] == ["within tolerance", "different"]
    assert found.word == "different"
    assert "b: within tolerance" in plain(found)
    assert "c: different" in plain(found)


def test_a_verdict_stays_small_and_survives_its_json() -> None:
    many = tuple(file(f"outputs/{n}", sha256=f"{n:064}") for n in range(1000))
    metrics = {"t" * 5000: "x" * 100_000, "list": list(range(100_000)), "deep": [[[[[1] * 99] * 99] * 99]]}
    found = verdict("exp_1", [side(artifacts=many, metrics=metrics), side("docker")])
    part = found.comparisons[0].outputs
    assert (part.same, part.differ, len(part.differences)) == (0, 1000, MOST)
    text = json.dumps(found.as_json())
    assert len(text) < 20_000
    again = Verdict.from_json(json.loads(text))
    assert again.as_json() == found.as_json()
    assert plain(again) == plain(found)
    assert "and 992 more" in plain(found)


HOSTILE = "<script>alert(1)</script>\x1b[2J\x1b]0;t\x07\ud800\r\n'\""


def test_nothing_that_a_run_says_steers_a_terminal_or_a_page() -> None:
    one = side(
        artifacts=(file(HOSTILE),),
        metrics={HOSTILE: HOSTILE},
        lines=[HOSTILE],
        python_version=HOSTILE,
        packages={HOSTILE: HOSTILE},
    )
    found = verdict(HOSTILE, [one, side(HOSTILE, packages={})])
    text = plain(found)
    page = html(found)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "<script" not in page
    assert "\x1b" not in page
    assert page.encode()
    assert "'\"" not in page.replace("&#x27;&quot;", "")


def test_a_log_is_compared_without_the_run_its_folders_and_addresses(home: str) -> None:
    directory = made_runs.finished(home, share="/data/share/")
    text = (
        f"{directory.run_id} in {directory.work}/outputs\n"
        f"/data/share/x <object at 0x7f3a2b1c0d00>\r\n/azureml-run/outputs /azureml-share/x\n\xff"
    )
    Path(directory.log).parent.mkdir(exist_ok=True)
    Path(directory.log).write_bytes(text.encode("latin-1"))
    assert list(Lines(directory, runs.load_record(directory))) == [
        "<run id> in <work>/outputs",
        "<share>/x <object at 0x…>",
        "<work>/outputs <share>/x",
        "\ufffd",
    ]
    os.unlink(directory.log)
    os.mkfifo(directory.log)
    assert list(Lines(directory, runs.load_record(directory))) == []


# ---- real runs


def test_one_snapshot_runs_on_both_targets_and_both_tell_of_each_other(project: Path, home: str) -> None:
    done = aml("run", "old,new", "same.py", "--name", "twice", "--tag", "mine")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["new | hello", "old | hello"]
    assert "= Portability: identical on old, new" in done.stderr
    rows = {row["target"]: row for row in data("runs")}
    assert len({row["snapshot_id"] for row in rows.values()}) == 1
    assert [rows[name]["name"] for name in ("old", "new")] == ["twice-old", "twice-new"]
    first, second = (data("show", rows[name]["run_id"]) for name in ("old", "new"))
    assert first["experiment_id"] == second["experiment_id"] != first["project"]
    assert first["portability"] == second["portability"]
    for row in rows.values():
        assert row["tags"] == {
            "mine": "",
            "experiment": first["experiment_id"],
            "portability": "identical",
        }
    told = first["portability"]
    assert told["verdict"] == "identical"
    assert {one["target"]: one["run_id"] for one in told["runs"]} == {
        name: row["run_id"] for name, row in rows.items()
    }
    assert "Portability: identical" in aml("show", rows["old"]["run_id"]).stdout
    assert retention.check(home) == []


def test_the_runs_go_on_at_the_same_time(project: Path, tmp_path: Path) -> None:
    (tmp_path / "meeting").mkdir()
    done = aml("run", "old,new", "meet.py", "--", str(tmp_path / "meeting"))
    assert done.returncode == 0, done.stderr


def test_a_difference_is_told_and_ends_with_status_one(project: Path) -> None:
    two_versions()
    done = aml("run", "old,new", "other.py")
    assert done.returncode == 1
    for told in ("outputs/version.txt", "1 identical, 1 different", "1 out of tolerance", "line 1", "(3, "):
        assert told in done.stderr
    assert "outputs/same.txt" not in done.stderr
    found = data("run", "old,new", "other.py", "--tolerance", "10", status=1)
    comparison = found["comparisons"][0]
    assert (found["verdict"], found["tolerance"]) == ("different", 10.0)
    assert comparison["tolerated"]["differ"] == 1
    assert comparison["outputs"]["differences"][0]["name"] == "outputs/version.txt"
    assert comparison["environment"]["differences"][0]["name"] == "python_version"
    assert [one["target"] for one in found["runs"]] == ["old", "new"]
    assert all(one["status"] == "Completed" and one["artifacts"] for one in found["runs"])
    assert aml("run", "old,new", "other.py", "--no-raise-error").returncode == 0


def test_the_failure_of_a_run_is_the_exit_status(project: Path) -> None:
    two_versions()
    done = aml("run", "old,new", "half.py")
    assert done.returncode == 7
    assert "≠ Portability: different" in done.stderr
    assert "exit_code  7 | 0" in done.stderr
    alike = aml("run", "old,new", "fails.py")
    assert alike.returncode == 7
    assert "= Portability: identical" in alike.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("old,broken",), "target.python_missing"),
        (("old,nosuch",), "target.unknown"),
        (("old,",), "between the commas"),
        ((",",), "between the commas"),
        (("old,new", "-t", "old"), "same compute target"),
        (("old,new", "--tolerance", "-1"), "relative difference"),
        (("old,new", "--tolerance", "nan"), "relative difference"),
        (("old,new", "--max-size", "1"), "snapshot.too_large"),
        # the labels of the first can be written, those of the second cannot
        (("new,new", "--name", "n" * 246), "label.invalid"),
    ],
)
def test_when_one_target_cannot_be_used_nothing_is_started_anywhere(
    project: Path, home: str, words: tuple[str, ...], told: str
) -> None:
    done = aml("run", *words, "same.py")
    assert done.returncode in (2, 125), done.stderr
    assert told in done.stderr
    assert runs.all_directories(home) == []
    assert not os.path.exists(home + "/experiments")


def test_a_target_that_is_named_twice_is_run_twice(project: Path) -> None:
    found = data("run", "new, new", "same.py")
    assert found["verdict"] == "identical"
    assert found["comparisons"][0]["target"] == "new#2"


def test_detached_runs_are_compared_when_they_are_waited_for(project: Path) -> None:
    started = data("run", "-d", "old,new", "same.py")
    ids = [one["run_id"] for one in started["runs"]]
    done = aml("wait", *ids)
    assert done.returncode == 0
    assert "Portability: identical on old, new" in done.stderr
    assert [row["tags"].get("portability") for row in data("runs")] == ["identical"] * 2
    assert data("show", ids[0])["portability"]["experiment_id"] == started["experiment_id"]


def test_a_verdict_is_pending_while_a_run_goes_on_and_kept_by_nobody(project: Path, home: str) -> None:
    started = data("run", "-d", "old,new", "sleeps.py")
    ids = [one["run_id"] for one in started["runs"]]
    assert data("show", ids[1])["portability"]["verdict"] == "pending"
    assert aml("stop", "--kill", *ids).returncode == 0
    assert data("show", ids[1])["portability"]["verdict"] == "incomplete"
    group = read_group(home, started["experiment_id"])
    assert group is not None
    assert group.verdict is None


def test_a_dry_run_tells_of_every_target_and_starts_none(project: Path, home: str) -> None:
    found = data("run", "--dry-run", "old,new", "same.py")
    assert [one["target"] for one in found] == ["old (local)", "new (local)"]
    assert runs.all_directories(home) == []


def test_an_interrupt_cancels_all_runs(project: Path) -> None:
    with terminal("run", "old,new", "sleeps.py", cwd=project) as shown:
        shown.expect(b"old | begun")
        shown.expect(b"new | begun")
        shown.send(b"\x03")
        assert shown.end() == 130
    assert b"Portability: incomplete" in shown.screen
    assert [row["status"] for row in data("runs")] == ["Canceled", "Canceled"]


def test_a_supervisor_that_dies_costs_neither_run(project: Path, home: str) -> None:
    with terminal("run", "old,new", "sleeps.py", cwd=project) as shown:
        shown.expect(b"new | begun")
        for directory in runs.all_directories(home):
            who = until(partial(runs.supervisor_identity, directory))
            os.kill(who["pid"], signal.SIGKILL)
        until(lambda: all(map(runs.supervised, runs.all_directories(home))))
        shown.send(b"\x03")
        assert shown.end() == 130
    assert [row["status"] for row in data("runs")] == ["Canceled", "Canceled"]


def test_a_whole_line_stands_behind_its_target_and_a_last_one_without_end_as_well(project: Path) -> None:
    (project / "pieces.py").write_text(
        "import sys, time\n"
        "for n in range(3):\n    sys.stdout.write('a'); sys.stdout.flush(); time.sleep(.05)\n"
        "sys.stdout.write('\\nlast')\n"
    )
    done = aml("run", "old,new", "pieces.py")
    assert sorted(done.stdout.splitlines()) == ["new | aaa", "new | last", "old | aaa", "old | last"]


def test_a_cell_does_the_same_here_and_in_a_container(project: Path, engine: Engine) -> None:
    (project / "aml_config" / "docker.compute").write_text(
        f"type: docker\nbaseDockerImage: {engines.BASE_IMAGE}\nsharedVolumes: true\n"
        "nativeSharedDirectory: ~/.azureml/share/\n"
    )
    cell = (
        "import os\nfrom azureml.logging import get_azureml_logger\n"
        "get_azureml_logger().log('rate', 0.5)\n"
        "open('outputs/model.txt', 'w').write('a model')\n"
        "print(os.path.abspath('outputs'), os.environ['AZUREML_NATIVE_SHARE_DIRECTORY'])\n"
        "[rate, 1]"
    )
    found = aml_jupyter.submit("new,docker", cell=cell, params={"rate": 0.5}).wait(120)
    one = found.verdict.comparisons[0]
    assert found.verdict.word == "identical", plain(found.verdict)
    assert (one.outputs.same, one.metrics.same) == (1, 1)
    assert one.log.differ == 0, one.log
    assert {"kind", "image"} <= {difference.name for difference in one.environment.differences}
    assert "/azureml-run/outputs /azureml-share/" in found["docker"].logs()
    assert "/azureml-run" not in found["new"].logs()


def test_in_python_several_targets_are_a_set_of_runs(project: Path, home: str) -> None:
    found = aml_jupyter.submit("old,new", cell="print(rate)\n", params={"rate": 0.5}, name="set")
    assert isinstance(found, RunSet)
    assert list(found) == ["old", "new"]
    assert len(found) == 2
    assert found.wait(60).verdict.word == "identical"
    assert found["old"].logs() == "0.5\n"
    assert found["old"].record.cell_sha256 == found["new"].record.cell_sha256
    assert found["old"].record.tags["portability"] == "identical"
    assert "Portability: identical" in found._repr_mimebundle_()["text/html"]
    assert found._ipython_key_completions_() == ["old", "new"]
    assert "identical" in repr(found)
    assert aml_jupyter.submit("old,new", "sleeps.py").cancel(kill=True).wait(60).verdict.word == "incomplete"


def test_a_tolerance_without_anything_to_compare_is_refused(project: Path) -> None:
    with pytest.raises(UsageError, match="tolerance"):
        aml_jupyter.submit("old", "same.py", tolerance=0.1)


def test_the_code_of_an_earlier_run_can_be_tried_elsewhere(project: Path) -> None:
    first = aml_jupyter.submit("new", "same.py").wait()
    (project / "same.py").write_text("raise SystemExit(3)")
    again = aml_jupyter.submit("old,new", from_run=first.id).wait(60)
    assert again.verdict.word == "identical"
    assert {run.record.snapshot_id for run in again.runs.values()} == {first.record.snapshot_id}


# ---- what is kept


def test_a_verdict_outlives_the_runs_and_goes_with_the_last(project: Path, home: str) -> None:
    found = aml_jupyter.submit("old,new", "same.py").wait(60)
    one, other = (run._directory for run in found.runs.values())
    runs.remove(one)
    assert data("show", other.run_id)["portability"]["verdict"] == "identical"
    assert list(found.runs) == ["new"]
    retention.collect_garbage(home)
    assert os.listdir(home + "/experiments") == [f"{found.id}.json"]
    runs.remove(other)
    assert retention.collect_garbage(home, dry_run=True).leftovers == 1
    assert retention.collect_garbage(home).leftovers == 1
    assert os.listdir(home + "/experiments") == []


def test_a_run_that_was_removed_before_cannot_be_compared(project: Path) -> None:
    found = aml_jupyter.submit("old,new", "same.py")
    for run in found.runs.values():
        run.wait()
    runs.remove(found["old"]._directory)
    assert found.verdict.word == "incomplete"
    runs.remove(found["new"]._directory)
    assert found.verdict.word == "incomplete"


def test_a_damaged_group_is_found_and_costs_no_run(project: Path, home: str) -> None:
    found = aml_jupyter.submit("old,new", "same.py").wait(60)
    path = f"{home}/experiments/{found.id}.json"
    Path(path).write_text(Path(path).read_text().replace("identical", "different", 1))
    assert [(one.code, one.path) for one in retention.check(home)] == [("record.corrupt", path)]
    with pytest.raises(AmlError, match="damaged"):
        portability.group_of(found["old"].record)
    assert found["old"].status == "Completed"
    retention.collect_garbage(home)
    assert os.path.exists(path)


def test_a_group_has_the_name_of_no_other_file(home: str) -> None:
    for name in ("../../x", "", ".", "a/b", "a\0b"):
        assert read_group(home, name) is None
    group = Group(experiment_id="exp_1", runs=(("local", "iris_1"),), tolerance=0.5)
    write_group(home, group)
    assert read_group(home, "exp_1") == group
    assert os.stat(home + "/experiments").st_mode & 0o777 == 0o700
