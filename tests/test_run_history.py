"""`aml history`: the fields and forms that scripts of 2017 read."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter.commands.run_history import shown_duration, tab_separated, table_of
from tests.terminal import AML, aml, environment

SCRIPT = """
import sys
from azureml.logging import get_azureml_logger
rate = float(sys.argv[1])
logger = get_azureml_logger()
logger.log("Regularization Rate", rate)
logger.log("Accuracy", 1 - rate)
logger.log("Curve", [1, 2])
logger.log("status", "mine")
print("rate is", rate)
with open("outputs/model one.pkl", "w") as file:
    file.write(str(rate))
sys.exit(rate > 0.5)
"""


class Folder:
    """A project with three runs, the newest failed."""

    def __init__(self, path: Path) -> None:
        self.path = path / "iris"
        self.env = {"AML_HOME": str(path / "home"), "HOME": str(path)}
        self.path.mkdir()
        (self.path / "train.py").write_text(SCRIPT)
        for rate in ("0.25", "0.125", "0.75"):
            self.do("experiment", "submit", "-c", "local", "train.py", rate, status=rate == "0.75")

    def do(self, *words: str, status: int = 0, **options: Any) -> str:
        """What a command prints."""
        done = subprocess.run(
            [*AML, *words], cwd=options.get("cwd", self.path), env=environment(**self.env),
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if status == 0 else done.stderr

    def history(self, *words: str) -> Any:
        """The JSON that `aml history` prints."""
        return json.loads(self.do("history", *words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("history"))


def test_a_run_has_the_fields_of_2018_and_its_metrics_beside_them(folder: Folder) -> None:
    found = folder.history("info", "-r", "@last~1")
    assert list(found) == sorted(found)
    assert found["Accuracy"] == 0.875
    assert found["Regularization Rate"] == 0.125
    assert found["Curve"] == [1, 2]
    assert found["status"] == "Completed"
    assert found["metrics.status"] == "mine"
    assert found["attachments"] == "control_log,driver_log,outputs/model one.pkl"
    assert re.fullmatch(r"0:00:\d\d\.\d{6}", found["duration"])
    assert found["created_utc"].endswith("+00:00")
    assert re.fullmatch("[0-9a-f]{64}", found["properties"]["CommitId"])
    assert {
        "run_number": 2,
        "script_name": "train.py",
        "target": "local",
        "arguments": ["0.125"],
    }.items() <= (found.items())
    assert {"description", "end_time_utc", "experiment_id", "heartbeat_enabled", "hidden", "name",
            "parent_run_id", "run_id", "start_time_utc", "user_id"} <= found.keys()  # fmt: skip


def test_runs_are_listed_newest_first(folder: Folder) -> None:
    assert [run["run_number"] for run in folder.history("list")] == [3, 2, 1]
    assert [run["run_number"] for run in folder.history("list", "--top", "1")] == [3]
    assert folder.history("last") == folder.history("list")[0]


def test_queries_choose_sort_and_shape(folder: Folder) -> None:
    assert folder.history("list", "--query", "[?status=='Completed'].Accuracy") == [0.875, 0.75]
    best = "[?status=='Completed'] | max_by(@, &Accuracy).{accuracy: Accuracy, id: run_id}"
    assert folder.history("list", "--query", best)["accuracy"] == 0.875
    told = folder.do("history", "list", "--query", "[?status", status=2)
    assert "--query [?status" in told
    assert "JMESPath" in told


def test_a_value_for_a_shell_is_printed_bare(folder: Folder) -> None:
    newest = folder.history("last")["run_id"]
    assert folder.do("history", "last", "--query", "run_id", "-o", "tsv") == f"{newest}\n"
    pairs = folder.do("history", "list", "--query", "[].[run_number, Accuracy]", "-o", "tsv")
    assert pairs == "3\t0.25\n2\t0.875\n1\t0.75\n"
    assert folder.do("history", "list", "-o", "none") == ""


def test_a_table_begins_with_the_metrics(folder: Folder) -> None:
    lines = folder.do("history", "list", "-o", "table").splitlines()
    assert re.split(" {2,}", lines[0]) == [
        "Accuracy", "Regularization Rate", "Metrics.status",
        "Duration", "Run_id", "Script_name", "Start_time_utc", "Status",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[1:]] == ["0.25", "0.875", "0.75"]
    shaped = folder.do("history", "list", "--query", "[].{rate: Accuracy}", "-o", "table")
    assert shaped.split() == ["Rate", "0.25", "0.875", "0.75"]


def test_two_runs_are_compared_by_what_differs(folder: Folder) -> None:
    found = folder.history("compare", "@last", "@last~1")
    assert found["differences"]["Accuracy"] == [0.25, 0.875]
    assert found["differences"]["status"] == ["Failed", "Completed"]
    assert "script_name" not in found["differences"]
    table = folder.do("history", "compare", "-r", "@last", "@last~1", "-o", "table").splitlines()
    assert table[0].split() == ["Field", *found["run_ids"]]
    for words in (["@last"], ["@last"] * 3):
        assert "two runs" in folder.do("history", "compare", *words, status=2)


def test_attachments_are_printed(folder: Folder) -> None:
    assert folder.do("history", "info", "-r", "@last", "-a", "driver_log.txt") == "rate is 0.75\n"
    assert folder.do("history", "info", "-r", "@last", "-a", "outputs/model one.pkl") == "0.75"
    assert "rate" not in folder.do("history", "info", "-r", "@last", "-a", "control_log")
    assert "outputs/none" in folder.do("history", "info", "-r", "@last", "-a", "outputs/none", status=2)


def test_artifacts_are_downloaded(folder: Folder, tmp_path: Path) -> None:
    folder.do("history", "download", "-r", "@last~1", "-d", str(tmp_path))
    assert (tmp_path / "outputs" / "model one.pkl").read_text() == "0.125"
    words = ("history", "download", "-r", "@last~2", "-a", "outputs/model one.pkl", "-d", str(tmp_path))
    folder.do(*words)
    assert (tmp_path / "model one.pkl").read_text() == "0.25"
    assert "--overwrite" in folder.do(*words, status=2)


def test_promoting_twice_makes_two_versions_and_a_link_brings_the_bytes_back(
    folder: Folder, tmp_path: Path
) -> None:
    for run in ("@last~2", "@last~1"):
        folder.do("history", "promote", "-r", run, "-ap", "outputs/model one.pkl", "-n", "model.pkl")
    link = folder.path / "assets" / "model.pkl.link"
    assert json.loads(link.read_text())["version"] == 2
    folder.do("asset", "download", "-l", str(link), "-d", str(tmp_path))
    assert (tmp_path / "model one.pkl").read_text() == "0.125"


def test_a_link_of_2017_is_told_as_what_it_is(folder: Folder, tmp_path: Path) -> None:
    link = tmp_path / "old.link"
    link.write_text('{"assetSource":"azureml","name":"model.pkl","version":"1"}')
    told = folder.do("asset", "download", "-l", str(link), status=2)
    assert "one of 2017, into an account that was closed" in told
    assert "aml promote" in told


def test_another_project_and_another_folder(folder: Folder, tmp_path: Path) -> None:
    elsewhere = folder.do("history", "list", "--path", str(folder.path), "--query", "length(@)", cwd=tmp_path)
    assert elsewhere == "3\n"
    assert folder.do("history", "list", cwd=tmp_path) == "[]\n"
    assert folder.do("history", "list", "-o", "table", cwd=tmp_path) == ""


def test_the_history_of_others_is_taken_in(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "iris"
    project.mkdir()
    (project / "train.py").write_text(SCRIPT)
    monkeypatch.chdir(project)
    assert "artifacts.store" in aml("history", "sync").stderr
    (tmp_path / "team").mkdir()
    stored = {"AML_HOME": str(tmp_path / "colleague")}
    for env in (stored, {}):
        aml("config", "set", "artifacts.store", f"folder://{tmp_path}/team", env=env)
    aml("experiment", "submit", "-c", "local", "train.py", "0.25", env=stored)
    assert aml("push", "--all", env=stored).returncode == 0
    assert json.loads(aml("history", "list").stdout) == []
    assert aml("history", "sync").returncode == 0
    found = json.loads(aml("history", "last").stdout)
    assert found["Accuracy"] == 0.75
    assert aml("history", "info", "-r", "@last", "-a", "driver_log").stdout == "rate is 0.25\n"
    aml("history", "download", "-r", "@last")
    assert (project / "outputs" / "model one.pkl").read_text() == "0.25"


def test_az_has_the_same_history(folder: Folder) -> None:
    words = ("az", "ml", "history", "list", "--query", "[0].run_number", "-o", "tsv")
    assert folder.do("exec", *words) == "3\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.892389, "0:00:04.892389"), (3661, "1:01:01"), (90000, "1 day, 1:00:00")]
)
def test_durations_are_written_as_they_were(seconds: float, text: str) -> None:
    assert shown_duration(seconds) == text
    assert shown_duration(None) is None


def test_values_stay_on_their_line() -> None:
    assert tab_separated([["a\tb\nc", None, [1]], ["x"], {"k": True}]) == [
        ["a b c", "", "[1]"],
        ["x"],
        ["True"],
    ]
    assert tab_separated(None) == []
    assert table_of([["a", 1], ["b"]], whole=False) == (["Column1", "Column2"], [["a", "1"], ["b", ""]])
    assert table_of("x", whole=False) == (["Result"], [["x"]])
    assert table_of([], whole=True) == ([], [])
