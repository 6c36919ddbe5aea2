"""Every verb does what it says, one process each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from aml_jupyter import runs
from aml_jupyter.runs.rows import KEYS
from tests.terminal import aml, data, detached

SCRIPT = """
import os, sys
print("hello", *sys.argv[1:])
os.makedirs("outputs/plots")
open("outputs/model.bin", "wb").write(bytes(range(256)))
open("outputs/plots/a.svg", "w").write("<svg/>")
open("stray.txt", "w").write("stray")
open(os.environ["AZUREML_NATIVE_SHARE_DIRECTORY"] + "seen", "a").write("x")
"""


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    monkeypatch.chdir(folder)
    return folder


def test_a_run_can_be_found_looked_at_and_taken_apart(project: Path) -> None:
    options = ["--name", "first", "--tag", "good", "--tag", "lr=3", "--message", "a note", "-p", "rate=0.5"]
    record = data("run", *options, "local", "script.py", "a")
    run = record["run_id"]
    assert record["status"] == "Completed"
    assert (record["name"], record["note"], record["tags"]) == ("first", "a note", {"good": "", "lr": "3"})
    assert record["params"] == {"rate": 0.5}
    for reference in (run, run[:-3], "first", "@last"):
        assert data("show", reference)["run_id"] == run
    assert aml("logs", "first").stdout == "hello a --rate=0.5\n"
    assert [item["path"] for item in data("ls")] == ["outputs/model.bin", "outputs/plots/a.svg"]
    assert [item["path"] for item in data("ls", "first", "outputs/plots")] == ["outputs/plots/a.svg"]
    assert aml("cat", "first", "outputs/plots/a.svg").stdout == "<svg/>"
    assert data("get", "first", "outputs/plots", "-d", "got") == [str(project / "got/a.svg")]
    assert data("get", "first", "outputs/plots", "-d", "got", status=2)["error"]["code"] == "artifact.exists"
    assert aml("get", "first", "outputs/plots", "-d", "got", "--overwrite").returncode == 0
    assert data("rescue", "first") == ["stray.txt"]
    assert data("rescue", "first", "stray.txt", "-d", "got") == [str(project / "got/stray.txt")]
    assert data("rescue", "first", "stray.txt") == ["rescued/stray.txt"]
    assert aml("cat", "first", "rescued/stray.txt").stdout == "stray"
    shown = aml("show").stdout
    for part in ("Completed", run, "script.py", "outputs/model.bin", "stray.txt", "hello a"):
        assert part in shown


def test_people_label_runs(project: Path, home: str) -> None:
    run = detached("script.py")
    aml("wait")
    assert data("tag", run, "a", "b=2")["tags"] == {"a": "", "b": "2"}
    assert data("tag", run, "c", "--remove", "a", "--name", "mine")["tags"] == {"b": "2", "c": ""}
    assert data("note", "mine", "two", "words")["note"] == "two words"
    assert data("pin", "mine")["pinned"] is True
    assert data("rm", "mine", status=2)["error"]["message"].startswith("pinned")
    assert data("pin", "mine", "--off")["pinned"] is False
    assert data("rm", "mine", run) == [run]
    assert data("show", run, status=3)["error"]["code"] == "run.unknown"
    damaged = detached("script.py")
    aml("wait")
    Path(runs.find(damaged, home).labels_json).write_text("{")
    assert data("rm", damaged, status=5)["error"]["code"] == "record.corrupt"
    assert data("rm", damaged, "--force") == [damaged]
    for wrong in (["--name", "@x"], ["--name", "x\ny"], [" "], ["x" * 300]):
        assert data("tag", detached("script.py"), *wrong, status=2)["error"]["code"] == "label.invalid"
        aml("wait")


def test_runs_are_listed_in_any_order_with_any_columns(project: Path) -> None:
    names = [detached("script.py", "--name", name, "-p", f"n={n}") for n, name in enumerate("abc")]
    aml("wait", *names)
    rows = data("runs")
    assert [row["name"] for row in rows] == ["c", "b", "a"]
    assert set(KEYS) <= set(rows[0])
    assert [row["name"] for row in data("runs", "--order-by", "params.n ASC", "--limit", "2")] == ["a", "b"]
    assert data("runs", "--columns", "name, params.n", "--limit", "1") == [{"name": "c", "params.n": 2}]
    table = aml("runs", "--columns", "name,status").stdout.splitlines()
    assert table[0].split() == ["name", "status"]
    assert table[1].split() == ["c", "Completed"]
    for wrong in (
        ["--limit", "0"],
        ["--order-by", "nosuch"],
        ["--columns", "nosuch"],
        ["--columns", "name.x"],
    ):
        assert aml("runs", *wrong).returncode == 2
    # another project has its own
    other = project.parent / "other"
    other.mkdir()
    assert data("runs", cwd=other) == []
    assert aml("runs", cwd=other).stderr.startswith("No runs yet")
    assert len(data("runs", "--all-projects", cwd=other)) == 3
    assert len(data("runs", "--project", str(project), cwd=other)) == 3


def test_a_dry_run_explains_every_file_and_starts_nothing(project: Path) -> None:
    (project / ".gitignore").write_text("*.csv\n")
    (project / "big.csv").write_text("1\n" * 100)
    (project / ".env").write_text("TOKEN=hush\n")
    (project / "notes.txt").write_text("n")
    found = data("snapshot", "--dry-run")
    why = {one["path"]: one for one in found["files"]}
    assert why["script.py"]["included"]
    assert not why["big.csv"]["included"]
    assert ".gitignore" in why["big.csv"]["rule_source"]
    assert not why[".env"]["included"]
    assert found["largest"][0]["path"] == "script.py"
    assert found["since"] is None
    shown = aml(
        "run", "--dry-run", "local", "script.py", "--include", "*.csv", "--exclude", "notes.txt"
    ).stdout
    assert "would be sent" in shown
    lines = {line.split()[3]: line.split()[0] for line in shown.splitlines() if line[:3] in ("in ", "out")}
    assert lines["big.csv"] == "in"
    assert lines["notes.txt"] == "out"
    assert data("runs") == []
    run = detached("script.py")
    (project / "notes.txt").write_text("changed")
    (project / "new.txt").write_text("new")
    (project / "script.py").unlink()
    change = data("snapshot", "--dry-run")
    assert change["since"] == run
    assert change["change"] == {"added": ["new.txt"], "removed": ["script.py"], "changed": ["notes.txt"]}
    assert "1 added, 1 changed, 1 removed" in aml("snapshot", "--dry-run").stdout
    plan = data("run", "--dry-run", "local", "notes.txt", "--max-size", "1", status=2)
    assert plan["snapshot"]["refusals"][0]["code"] == "snapshot.too_large"
    assert (
        data("run", "local", "notes.txt", "--max-size", "1", status=2)["error"]["code"]
        == "snapshot.too_large"
    )
    aml("wait", run)


def test_a_snapshot_is_restored_and_never_over_what_is_there(project: Path) -> None:
    run = detached("script.py")
    aml("wait")
    (project / "script.py").write_text("changed")
    assert data("restore", run, "back")["directory"] == str(project / "back")
    assert (project / "back/script.py").read_text() == SCRIPT
    (project / "back/script.py").write_text("edited")
    (project / "back/mine").write_text("mine")
    assert data("restore", run, "back", status=2)["error"]["code"] == "restore.not_empty"
    assert (project / "back/script.py").read_text() == "edited"
    assert aml("restore", run, "back", "--force").returncode == 0
    assert (project / "back/script.py").read_text() == SCRIPT
    assert (project / "back/mine").read_text() == "mine"


def test_the_code_of_an_earlier_run_runs_again(project: Path) -> None:
    first = data("run", "local", "script.py", "--name", "first")
    (project / "script.py").write_text("raise SystemExit(9)")
    again = data("run", "local", "script.py", "--from-run", "first")
    assert (again["status"], again["snapshot_id"]) == ("Completed", first["snapshot_id"])


def test_the_share_is_one_for_all_runs_of_a_project(project: Path) -> None:
    for _ in range(2):
        aml("run", "local", "script.py")
    (path,) = data("share", "path")
    assert Path(path, "seen").read_text() == "xx"
    assert data("share", "put", "script.py", "code/") == ["code/script.py"]
    assert [one["path"] for one in data("share", "ls", "code")] == ["code/script.py"]
    assert data("share", "get", "code/script.py", "copy.py") == [str(project / "copy.py")]
    assert aml("share", "get", "code/script.py", "copy.py").returncode == 2
    assert aml("share", "rm", "code").returncode == 2
    assert data("share", "rm", "code", "--recursive") == ["code"]
    for wrong in (
        ["put"],
        ["rm"],
        ["get", "../x"],
        ["ls", "/etc"],
        ["rm", "a", "b"],
        ["path", "x"],
        ["rm", "."],
    ):
        done = aml("share", *wrong)
        assert done.returncode == 2, (wrong, done.stderr)


def test_targets_and_run_configurations_are_written_listed_and_removed(project: Path) -> None:
    written = data("computetarget", "attach", "local", "-n", "old", "--set", "pythonLocation=/no/python")
    assert [os.path.basename(path) for path in written] == ["old.compute", "old.runconfig"]
    assert [one["name"] for one in data("computetarget", "list")["targets"]] == ["docker", "local", "old"]
    (created,) = data("runconfiguration", "create", "fast", "-t", "local", "--set", "Framework=Python")
    assert os.path.basename(created) == "fast.runconfig"
    assert {one["name"]: one["target"] for one in data("runconfiguration", "list")} == {
        "docker": "docker", "fast": "local", "local": "local", "old": "old",
    }  # fmt: skip
    assert aml("run", "fast", "script.py").returncode == 0
    (project / "aml_config/broken.compute").write_text("type: [\n")
    listed = aml("targets")
    assert listed.returncode == 0
    assert "broken.compute" in listed.stderr
    assert len(data("computetarget", "detach", "-n", "old")) == 2
    assert aml("computetarget", "detach", "-n", "old").returncode == 2
    assert aml("computetarget", "attach", "nosuch", "-n", "x").returncode == 2
    assert aml("computetarget", "attach", "local", "-n", "../x").returncode == 2
    assert aml("runconfiguration", "create", "x", "-t", "nosuch").returncode == 2
    assert not (project.parent / "x.compute").exists()


def test_config_says_where_everything_is_and_names_a_project(project: Path, home: str) -> None:
    facts = data("config")
    assert (facts["AML_HOME"], facts["project"], facts["name"]) == (home, str(project), "project")
    assert data("config", "--name", "iris")["name"] == "iris"
    assert json.loads((project / ".azureml/project.json").read_text())["Scope"].endswith("/projects/iris")
    assert data("run", "local", "script.py")["run_id"].startswith("iris_")
    assert aml("config", "--name", "../x").returncode == 2


def test_the_names_of_2018_submit_tell_and_cancel(project: Path) -> None:
    (project / "script.py").write_text("import sys, time\nprint(sys.argv[1:], flush=True)\ntime.sleep(60)")
    done = aml("experiment", "submit", "-a", "-c", "local", "script.py", "--rate", "1")
    assert done.stdout.startswith("RunId: project_")
    run = done.stdout.split()[1]
    assert data("experiment", "status", "-r", run)["arguments"] == ["--rate", "1"]
    assert data("experiment", "cancel", "-r", run)[0]["status"] == "Canceled"
    assert aml("experiment", "submit", "-c", "local").returncode == 2
    assert aml("experiment", "submit", "-c", "nosuch", "script.py").returncode == 2


def test_check_finds_nothing_in_a_sound_history_and_damage_in_a_broken_one(project: Path, home: str) -> None:
    run = detached("script.py")
    aml("wait")
    assert data("check") == []
    Path(home, "index.sqlite").unlink()
    assert len(data("runs")) == 1
    assert aml("check", "--rebuild").returncode == 0
    model = Path(home, "artifacts/ExperimentRun", run, "outputs/model.bin")
    model.chmod(0o600)
    model.write_bytes(b"other")
    (pack,) = (
        Path(home, "snapshots/packs").glob("*.pack") if Path(home, "snapshots/packs").is_dir() else [None]
    )
    if pack is not None:
        pack.write_bytes(pack.read_bytes()[:-1] + b"?")
    codes = {finding["code"] for finding in data("check", status=5)}
    assert "artifact.corrupt" in codes
    told = aml("check")
    assert told.returncode == 5
    assert "artifact.corrupt" in told.stdout
    cat = aml("cat", run, "outputs/model.bin")
    assert cat.returncode == 5
    assert "store.corrupt" in cat.stderr
    assert data("get", run, "outputs/model.bin", "-d", "got", status=5)["error"]["code"] == "store.corrupt"
    assert not (project / "got/model.bin").exists()


def test_looking_around_does_not_take_the_name_of_the_project(
    project: Path, tmp_path: Path, home: str
) -> None:
    other = tmp_path / "elsewhere" / "project"
    other.mkdir(parents=True)
    for line in (["runs"], ["targets"], ["config"], ["runs", "--all-projects"]):
        assert aml(*line, cwd=other).returncode == 0
    assert aml("share", "ls", cwd=other).returncode == 0
    assert aml("run", "--dry-run", "local", "script.py").returncode == 0
    assert not os.path.exists(home + "/projects")
    assert data("run", "local", "script.py")["project"] == "project"
    (other / "script.py").write_text("")
    told = "is therefore called project-2"
    assert told in aml("share", "put", "script.py", cwd=other).stderr
    assert os.path.exists(f"{os.path.dirname(home)}/.azureml/share/local/default/project-2/script.py")
    assert told not in aml("run", "local", "script.py", cwd=other).stderr


def test_a_control_log_that_is_a_pipe_does_not_hold_who_reads_it(project: Path) -> None:
    run = data("run", "local", "script.py")["run_id"]
    path = Path(data("show", run)["directory"], "control.log")
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    aml("logs", run, "--control", timeout=30)
