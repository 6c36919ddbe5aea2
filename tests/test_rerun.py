"""Runs that repeat others, runs that need not be done again, artifacts that later runs are given."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import aml_jupyter
from aml_jupyter import artifacts, assets, cli, experiment, reuse, runs
from aml_jupyter.errors import AmlError
from aml_jupyter.experiment import Request
from aml_jupyter.experiment.again import request_json
from aml_jupyter.run import Run
from tests.made_runs import finished

TRAIN = """
import os, sys
from azureml.logging import get_azureml_logger

rate = next((float(w[7:]) for w in sys.argv if w.startswith("--rate=")), 1.0)
get_azureml_logger().log("accuracy", rate / 2 + float(os.environ.get("SHIFT", 0)))
print("rate", rate)
with open("outputs/model.txt", "w") as file:
    file.write("first\\nsecond %s\\n" % (rate + float(os.environ.get("SHIFT", 0))))
"""


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PYTHONPATH", "PYTHONHASHSEED"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    monkeypatch.chdir(folder)
    return folder


def ended(request: Request) -> Run:
    run = Run(experiment.submit(request)).wait(120)
    assert run.status == "Completed", run.logs()
    return run


def trained(**fields: object) -> Run:
    return ended(Request(**{"script": "train.py", "params": {"rate": 0.5}, **fields}))  # type: ignore[arg-type]


def test_a_run_is_repeated_from_what_is_kept_when_its_project_is_gone(
    project: Path, home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (project / "aml_config").mkdir()
    (project / "aml_config/mine.runconfig").write_text(
        "Target: local\nEnvironmentVariables:\n  SHIFT: '0.25'\nFramework: Python\n"
    )
    first = trained(target="mine")
    shutil.rmtree(project)
    monkeypatch.chdir(tmp_path)
    found = first.rerun(verify=True)
    assert found.word == "identical", found
    again = aml_jupyter.run(found.rerun)
    assert again.metrics == {"accuracy": 0.5}
    record = again.record
    assert record.properties["rerun_of"] == first.id
    assert (record.project, record.run_configuration) == (first.record.project, "mine")
    assert record.tags == {"verified": "identical"}
    assert (record.params, record.arguments) == (first.params, first.record.arguments)


def test_a_rerun_is_compared_later(project: Path) -> None:
    first = trained()
    again = first.rerun()
    assert again.verify().same
    with pytest.raises(AmlError, match="repeats no run"):
        first.verify()


def test_nothing_is_compared_with_a_run_that_goes_on(project: Path) -> None:
    (project / "train.py").write_text("import time; time.sleep(600)")
    first = Run(experiment.submit(Request(script="train.py")))
    with pytest.raises(AmlError, match="has not ended"):
        first.rerun(verify=True)
    first.cancel(kill=True).wait(120)


def test_a_changed_project_changes_nothing_about_a_rerun(project: Path) -> None:
    first = trained()
    (project / "train.py").write_text("raise SystemExit(3)")
    assert first.rerun(verify=True).same


def test_what_a_rerun_did_differently_is_told_down_to_the_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained()
    assert cli.main(["rerun", first.id, "--verify", "-p", "rate=0.75"]) == 1
    told = capsys.readouterr().out
    assert "did not give the same results" in told
    assert "outputs/model.txt" in told
    assert "first difference in line 2" in told
    assert "original second 0.5" in told
    assert "accuracy" in told
    assert "first difference in line 1" in told  # of the log


def test_the_exit_status_and_json_of_a_verification(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained()
    assert cli.main(["rerun", first.id, "--verify", "--json"]) == 0
    same = json.loads(capsys.readouterr().out)
    assert (same["same"], same["verdict"], same["original"]) == (True, "identical", first.id)
    assert cli.main(["rerun", first.id, "--verify", "--json", "-p", "rate=0.500000001"]) == 1
    other = json.loads(capsys.readouterr().out)
    assert not other["same"]
    assert other["tolerated"]["differ"] == 1  # the metric is within the tolerance, the bytes are not
    assert other["first_differences"][0]["path"] == "outputs/model.txt"


def test_a_rerun_asks_for_values_that_no_record_holds(project: Path) -> None:
    given = {"SHIFT": "0.125", "$(touch x)": ""}
    first = trained(environment=given)
    with pytest.raises(AmlError) as refused:
        first.rerun()
    assert refused.value.code == "secret.needed"
    assert "SHIFT" in refused.value.message
    # a name may have come from a stranger, and the line is there to be pasted
    assert "-e '$(touch x)'" in refused.value.hint
    assert first.rerun(environment=given, verify=True).same


def test_a_cell_is_repeated_with_the_values_that_were_sent_to_it(project: Path) -> None:
    cell = b"open('outputs/x', 'w').write(repr((table, scale)))"
    first = ended(Request(cell=cell, inputs={"table": [1, 2]}, params={"scale": 3}))
    assert first.rerun(verify=True).same
    other = first.rerun(params={"scale": 4}).wait(120)
    assert other.read("outputs/x") == b"([1, 2], 4)"


def test_a_run_is_repeated_on_another_target_with_its_configuration(project: Path) -> None:
    (project / "aml_config").mkdir()
    (project / "aml_config/other.compute").write_text("type: local\n")
    (project / "aml_config/mine.runconfig").write_text(
        "Target: local\nEnvironmentVariables:\n  SHIFT: '0.25'\nFramework: Python\n"
    )
    first = trained(target="mine")
    (project / "aml_config/new.compute").write_text("type: local\n")
    (project / "aml_config/other.compute").unlink()
    (project / "aml_config/mine.runconfig").unlink()
    # one target is the snapshot's, the other has come since
    for target in ("other", "new"):
        found = first.rerun(target, verify=True)
        assert found.same, found
        record = aml_jupyter.run(found.rerun).record
        assert (record.target, record.run_configuration) == (target, "mine")
    with pytest.raises(AmlError) as refused:
        first.rerun("nowhere")
    assert refused.value.code == "target.unknown"


def test_a_run_whose_request_is_gone_cannot_be_repeated(project: Path, home: str) -> None:
    first = trained()
    os.unlink(runs.find(first.id, home).job + "/request.json")
    with pytest.raises(AmlError) as refused:
        first.rerun()
    assert refused.value.code == "rerun.impossible"


@pytest.mark.parametrize(
    "change",
    [
        {"command": "python"},
        {"command": []},
        {"command": [1, {"a": 2}]},
        {"cwd": 5},
        {"environment": [1]},
        {"environment": {"A=B": "x"}},
        {"environment": {"A": 1}},
        {"target": [1]},
        {"target": {"name": ["x"]}},
        {"target": {"address": 5}},
        {"target": {"address": "h", "port": "x\ny"}},
        {"resources": "x"},
        {"resources": {"cpus": "x"}},
        {"resources": {"memory": {}}},
        {"resources": {"gpus": [1]}},
        {"resources": {"gpus": "many"}},
        {"share": 7},
        {"spark": [1]},
        {"spark": {"packages": "x"}},
        {"spark": {"configuration": {"a": []}}},
        {"cell": "yes"},
        {"python": 3},
        {"timeout": "x"},
        {"timeout": -5},
        {"timeout": [1]},
        {"timeout": True},
        {"timeout": 10**400},
        {"timeout": float("nan")},
        {"dependencies": [1]},
        {"dependencies": {"conda": 5, "pip": [{}]}},
        {"dependencies": {"channels": 3}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_run_that_was_asked_for_nonsense_cannot_be_repeated(
    plain: Path, home: str, change: dict[str, object]
) -> None:
    directory = finished(home)
    path = Path(directory.job) / "request.json"
    whole = {"command": ["python", "train.py"], "environment": {"A": "b"}, "timeout": 1.5, "cell": False}
    runs.write_json(str(path), whole)
    assert request_json(directory) == whole
    path.write_text(json.dumps({**whole, **change}))
    assert cli.main(["rerun", directory.run_id]) == 5
    with pytest.raises(AmlError) as refused:
        request_json(directory)
    assert refused.value.code == "rerun.impossible"


# ---- not needed


def test_a_run_that_completed_is_not_done_again(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "local", "train.py", "-p", "rate=0.5", "--needed", "--json"]
    assert cli.main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert "reused" not in first
    assert cli.main(words) == 0
    second = json.loads(capsys.readouterr().out)
    assert (second["run_id"], second["reused"]) == (first["run_id"], True)


PLAIN = TRAIN.replace(' + float(os.environ.get("SHIFT", 0))', "")


@pytest.fixture
def plain(project: Path) -> Path:
    """A project whose code reads nothing that no record holds."""
    (project / "train.py").write_text(PLAIN)
    return project


def _needed(home: str, **changes: object) -> str:
    """Why a run like the trained one is needed; empty when it is not."""
    fields = {"script": "train.py", "params": {"rate": 0.5}, **changes}
    return reuse.look(Request(**fields), None).why  # type: ignore[arg-type]


def test_whatever_differs_has_it_run(plain: Path, home: str) -> None:
    first = trained()
    assert _needed(home) == ""
    assert "arguments" in _needed(home, params={"rate": 0.6})
    assert "arguments" in _needed(home, arguments=("a",))
    assert "variables" in _needed(home, environment={"SHIFT": "1"})
    assert "inputs" in _needed(home, given={"model": f"{first.id}:model.txt"})
    cell: dict[str, object] = {"script": None, "cell": b"print(1)", "params": {}}
    assert _needed(home, **cell)
    (plain / "new.py").write_text("")
    assert "no run of this code" in _needed(home)


def test_a_run_is_needed_when_the_outputs_of_the_last_one_are_gone(plain: Path, home: str) -> None:
    first = trained()
    item = artifacts.find(runs.find(first.id, home), "model.txt")
    os.unlink(f"{home}/artifacts/{item.key}")
    assert "gone" in _needed(home)


def test_code_that_uses_the_share_is_always_run(plain: Path, home: str) -> None:
    (plain / "extra.py").write_text("import os; os.environ['AZUREML_NATIVE_SHARE_DIRECTORY']")
    trained()
    assert "shared folder" in _needed(home)


def test_values_that_no_record_holds_are_compared_when_both_are_needed(plain: Path, home: str) -> None:
    given = {"SHIFT": "planted-value"}
    trained(environment=given)
    assert "variables" in _needed(home, environment=given)
    assert "variables" in _needed(home)
    run = trained(environment=given, needed=True)
    assert _needed(home, environment=given) == ""
    assert "variables" in _needed(home, environment={"SHIFT": "another"})
    assert "variables" in _needed(home)
    # without the key of this home nobody can try values against what is kept
    kept = Path(runs.find(run.id, home).run_json).read_bytes()
    assert b"planted-value" not in kept
    assert hashlib.sha256(b"planted-value").hexdigest().encode() not in kept
    Path(home, "needed.key").unlink()
    assert "variables" in _needed(home, environment=given)


def test_a_failed_run_stands_for_no_other(plain: Path, home: str) -> None:
    (plain / "train.py").write_text("raise SystemExit(1)")
    Run(experiment.submit(Request(script="train.py", params={"rate": 0.5}))).wait(120)
    assert "no run of this code" in _needed(home)


def test_a_cell_with_other_values_is_needed(plain: Path, home: str) -> None:
    def why(value: object) -> str:
        return reuse.look(Request(cell=b"print(x)", inputs={"x": value}), None).why

    ended(Request(cell=b"print(x)", inputs={"x": [1, 2]}))
    assert why([1, 2]) == ""
    assert "values" in why([1, 3])


@pytest.mark.parametrize(
    "line",
    ["import os; os.environ['RATE']", 'import os; os.environ.get("RATE", 1)', "import os; os.getenv('RATE')"],
)
def test_variables_of_the_caller_that_code_reads_are_compared(
    plain: Path, home: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plain / "extra.py").write_text(line)
    monkeypatch.delenv("RATE", raising=False)
    trained()
    assert "variables" in _needed(home)
    trained(needed=True)
    assert _needed(home) == ""
    monkeypatch.setenv("RATE", "")
    assert "variables" in _needed(home)
    trained(needed=True)
    assert _needed(home) == ""
    monkeypatch.setenv("RATE", "2")
    assert "variables" in _needed(home)


@pytest.mark.parametrize(
    "line",
    ["import os; dict(os.environ)", "import os; os.environ[name]", "from os import getenv; getenv('A')"],
)
def test_code_that_does_not_say_which_variables_it_reads_is_always_run(
    plain: Path, home: str, line: str
) -> None:
    (plain / "extra.py").write_text(line)
    trained(needed=True)
    assert "without saying which" in _needed(home)


def test_variables_that_the_record_holds_are_no_reason(plain: Path, home: str) -> None:
    (plain / "aml_config").mkdir()
    (plain / "aml_config/mine.runconfig").write_text(
        "Target: local\nEnvironmentVariables:\n  SHIFT: '1'\nFramework: Python\n"
    )
    (plain / "extra.py").write_text("import os; os.environ['SHIFT']; os.environ['AZUREML_RUN_ID']")
    trained(target="mine")
    assert _needed(home, target="mine") == ""


# ---- lineage

USE = """
import os, aml_run
path = aml_run.input("model")
assert path == os.environ["AML_INPUT_MODEL"]
print(open(path).read().split()[0], sorted(os.listdir(aml_run.input("all"))))
assert not os.stat(path).st_mode & 0o222
"""


def test_an_artifact_is_the_input_of_a_later_run_and_both_say_so(
    project: Path, home: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained()
    (project / "use.py").write_text(USE)
    words = ["run", "local", "use.py", "--input", f"model={first.id}:outputs/model.txt"]
    assert cli.main([*words, "--input", "all=@last:"]) == 0
    assert capsys.readouterr().out == "first ['model.txt']\n"
    second = aml_jupyter.run("@last")
    item = artifacts.find(runs.find(first.id, home), "model.txt")
    model = second.made_from[0]
    assert (model["run_id"], model["path"], model["sha256"]) == (first.id, "outputs/model.txt", item.sha256)
    assert model["uuid"] == first.record.uuid
    assert first.used_by == [second.id]
    # neither counted in the snapshot nor listed as written elsewhere
    assert second.record.not_kept == ()
    assert cli.main(["show", first.id]) == 0
    assert f"used by    {second.id}" in capsys.readouterr().out
    assert cli.main(["show", second.id]) == 0
    assert f"made from  model: outputs/model.txt of {first.id}" in capsys.readouterr().out
    # a rerun is given the same
    assert second.rerun(verify=True).same


def test_an_input_whose_bytes_are_gone_is_refused_before_the_run(project: Path, home: str) -> None:
    first = trained()
    item = artifacts.find(runs.find(first.id, home), "model.txt")
    os.unlink(f"{home}/artifacts/{item.key}")
    before = os.listdir(home + "/ids")
    with pytest.raises(AmlError) as refused:
        experiment.submit(Request(script="train.py", given={"model": f"{first.id}:outputs/model.txt"}))
    assert refused.value.code == "input.gone"
    assert "deleted" in refused.value.message
    assert os.listdir(home + "/ids") == before


def test_an_input_whose_bytes_have_changed_fails_the_run_before_it_begins(project: Path, home: str) -> None:
    first = trained()
    item = artifacts.find(runs.find(first.id, home), "model.txt")
    path = Path(f"{home}/artifacts/{item.key}")
    path.write_bytes(b"x" * path.stat().st_size)
    given = {"model": f"{first.id}:outputs/model.txt"}
    run = Run(experiment.submit(Request(script="train.py", given=given))).wait(120)
    assert (run.status, run.record.reason) == ("Failed", "store.corrupt")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"a b": "@last:x"}, "usage"),
        ({"x": "nothing"}, "usage"),
        ({"x": "@last:outputs/none.txt"}, "artifact.unknown"),
        ({"x": "@last:model.txt", "X": "@last:model.txt"}, "usage"),
        ({"x": "asset:none"}, "asset.unknown"),
        ({"x": "asset:../../x"}, "usage"),
    ],
)
def test_an_input_that_cannot_be_is_refused(project: Path, given: dict[str, str], code: str) -> None:
    trained()
    with pytest.raises(AmlError) as refused:
        experiment.plan(Request(script="train.py", given=given))
    assert refused.value.code == code


def test_files_of_the_project_are_not_hidden_by_an_input(project: Path) -> None:
    first = trained()
    (project / "inputs/model").mkdir(parents=True)
    (project / "inputs/model/mine.txt").write_text("mine")
    with pytest.raises(AmlError) as refused:
        experiment.submit(Request(script="train.py", given={"model": f"{first.id}:model.txt"}))
    assert refused.value.code == "input.name_taken"


# ---- assets


def test_an_artifact_is_promoted_in_versions_and_used(
    project: Path, home: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained()
    other = trained(params={"rate": 0.25})
    assert cli.main(["promote", first.id, "outputs/model.txt", "iris"]) == 0
    link = Path(first.promote("model.txt", "iris"))
    assert Path(other.promote("model.txt", "iris")) == link == project / "assets/iris.link"
    document = json.loads(link.read_text())
    assert (document["version"], document["run_id"]) == (3, other.id)
    assert [one["version"] for one in document["versions"]] == [2, 1]
    assert document["uuid"] == other.record.uuid
    assert len(document["sha256"]) == 64
    for reference, rate in (("asset:iris", "0.25"), ("asset:iris@1", "0.5")):
        cell = b"import aml_run; print(open(aml_run.input('m')).read().split()[2])"
        run = ended(Request(cell=cell, given={"m": reference}))
        assert run.logs() == rate + "\n"
    capsys.readouterr()
    into = str(project / "down")
    assert cli.main(["asset", "download", "-l", str(link), "-d", into]) == 0
    assert "0.25" in Path(into, "model.txt").read_text()
    assert (
        cli.main(["asset", "download", "--run", first.id, "--path", "outputs/model.txt", "-d", into + "2"])
        == 0
    )
    assert "0.5" in Path(into + "2", "model.txt").read_text()
    capsys.readouterr()
    assert cli.main(["asset", "list", "--versions", "--json"]) == 0
    assert [one["version"] for one in json.loads(capsys.readouterr().out)] == [3, 2, 1]


def test_of_two_that_promote_at_once_both_versions_stay(project: Path) -> None:
    first = trained()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: first.promote("model.txt", "iris"), range(24)))
    asset = assets.load(str(project), "iris")
    assert [link.version for link in asset.versions] == list(range(24, 0, -1))


def test_a_link_of_the_project_is_a_local_path_inside_a_run(project: Path) -> None:
    first = trained()
    first.promote("model.txt", "model.txt")
    trained(params={"rate": 0.25}).promote("model.txt", "other")
    (project / "score.py").write_text(
        "from azureml.assets import get_local_path\n"
        "print(open(get_local_path('model.txt.link')).read().split()[0])\n"
        "print(open(get_local_path('assets/model.txt.link')).read().split()[0])\n"
        "for name in ('oth' + 'er.link', 'none.link'):\n"
        "    try:\n"
        "        get_local_path(name)\n"
        "    except FileNotFoundError as error:\n"
        "        print(error)\n"
    )
    lines = ended(Request(script="score.py")).logs().splitlines()
    assert lines[:2] == ["first", "first"]
    assert "--input NAME=asset:other" in lines[2]
    assert "no such link file" in lines[3]


def test_a_link_whose_artifact_is_gone_is_told_inside_the_run(project: Path, home: str) -> None:
    first = trained()
    first.promote("model.txt", "gone")
    runs.remove(runs.find(first.id, home))
    (project / "score.py").write_text(
        "from azureml.assets import get_local_path\n"
        "try:\n    get_local_path('gone.link')\n"
        "except FileNotFoundError as error:\n    print(error)\n"
    )
    assert first.id in ended(Request(script="score.py")).logs()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 1}', '{"format": 99}', '{"format": 1, "version": "x"}']
)
def test_a_file_that_is_no_link_is_refused(project: Path, text: str) -> None:
    (project / "bad.link").write_text(text)
    with pytest.raises(AmlError) as refused:
        assets.load_file("bad.link")
    assert refused.value.code in ("asset.invalid", "record.newer")


# ---- a run of another machine


def test_a_run_that_came_from_a_store_is_repeated_and_its_artifacts_are_given(
    project: Path,
    home: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "store").mkdir()
    url = f"folder://{tmp_path}/store"
    assert cli.main(["config", "set", "artifacts.store", url]) == 0
    first = trained()
    assert cli.main(["push", first.id]) == 0
    elsewhere = tmp_path / "elsewhere" / project.name
    elsewhere.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(elsewhere.parent))
    monkeypatch.setenv("AML_HOME", str(elsewhere.parent / ".azureml"))
    shutil.rmtree(project)
    os.rename(home, home + ".gone")
    monkeypatch.chdir(elsewhere)
    assert cli.main(["config", "set", "artifacts.store", url]) == 0
    assert cli.main(["history", "sync"]) == 0
    (elsewhere / "use.py").write_text("import aml_run; print(open(aml_run.input('model')).read().split()[2])")
    used = ended(Request(script="use.py", given={"model": f"{first.id}:model.txt"}))
    assert used.logs() == "0.5\n"
    found = aml_jupyter.run(first.id).rerun(verify=True)
    assert found.same, found
    again = aml_jupyter.run(found.rerun).record
    # the folders of the other machine are not this one's
    assert again.share is not None
    assert again.share.startswith(str(elsewhere.parent))
    assert aml_jupyter.run(first.id).used_by == [used.id]
    capsys.readouterr()
