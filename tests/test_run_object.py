"""Runs in Python: start, look, wait, read, cancel, restore, list."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aml_jupyter
from aml_jupyter.errors import ArtifactError, RunFailed, RunNotFound, UsageError

ROOT = str(Path(__file__).resolve().parent.parent)
SCRIPT = """
import sys, aml_run
for n in range(3):
    aml_run.log("loss", 1 / (n + 1))
aml_run.log("rate", float(sys.argv[1].partition("=")[2] or 0) if sys.argv[1:] else 0.0)
print("first"); print("second"); print("third")
open("outputs/model.bin", "wb").write(b"12345")
"""


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "iris"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    (folder / "sleeps.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    monkeypatch.chdir(folder)
    return folder


def test_a_run_is_asked_for_everything_it_left(project: Path, tmp_path: Path) -> None:
    run = aml_jupyter.submit("local", "train.py", params={"rate": 0.5}, name="first", tags=["a"]).wait()
    assert run.status == "Completed"
    assert run.metrics["loss"] == [1.0, 0.5, 1 / 3]
    assert run["rate"] == 0.5
    assert run.params == {"rate": 0.5}
    assert run.phases.keys() >= {"snapshot", "prepare", "start", "run", "collect"}
    assert list(run.artifacts) == ["outputs/model.bin"]
    assert run.artifacts["outputs/model.bin"].size == 5
    assert "outputs/model.bin" in run.artifacts
    assert len(run.artifacts) == 1
    assert run.read("outputs/model.bin") == b"12345"
    assert run.get("outputs/model.bin", str(tmp_path / "into"))
    assert (tmp_path / "into" / "model.bin").read_bytes() == b"12345"
    assert run.logs() == "first\nsecond\nthird\n"
    assert run.logs(tail=2) == "second\nthird\n"
    assert run.logs(tail=0) == ""
    assert run.record.name == "first"
    assert run.id in repr(run)
    assert run._ipython_key_completions_() == ["loss", "rate"]
    assert run.artifacts._ipython_key_completions_() == ["outputs/model.bin"]


def test_a_run_shows_its_card_in_html_and_text(project: Path) -> None:
    bundle = aml_jupyter.submit("local", "train.py").wait()._repr_mimebundle_(include=None, exclude=None)
    assert bundle.keys() == {"text/html", "text/plain"}
    for text in bundle.values():
        assert "Completed" in text
        assert "outputs/model.bin" in text
        assert "third" in text


def test_runs_are_found_by_id_name_and_word_and_are_the_same_run(project: Path) -> None:
    run = aml_jupyter.submit("local", "train.py", name="mine").wait()
    for reference in (run.id, "mine", "@last", "@best:loss"):
        assert aml_jupyter.run(reference) == run
    assert aml_jupyter.run() == run
    assert len({run, aml_jupyter.run("mine")}) == 1
    with pytest.raises(RunNotFound):
        aml_jupyter.run("nothing-of-that-name")
    with pytest.raises(ArtifactError):
        run.read("outputs/nothing")


def test_a_run_is_canceled_and_a_wait_can_be_given_up(project: Path) -> None:
    run = aml_jupyter.submit("local", "sleeps.py")
    with pytest.raises(RunFailed, match="has not ended"):
        run.wait(timeout=0.3)
    assert run.cancel().wait(timeout=30).status == "Canceled"
    assert run.cancel().status == "Canceled"


def test_the_code_of_a_run_is_restored(project: Path, tmp_path: Path) -> None:
    run = aml_jupyter.submit("local", cell="print('from a cell')\n").wait()
    assert run.logs() == "from a cell\n"
    folder = Path(run.restore(str(tmp_path / "restored")))
    assert (folder / "train.py").read_text() == SCRIPT
    assert [one.read_text() for one in folder.glob("cell_*.py")] == ["print('from a cell')\n"]


def test_metrics_are_known_while_the_run_goes_on(project: Path) -> None:
    import time

    run = aml_jupyter.submit(
        "local",
        cell="import aml_run, time\naml_run.log('loss', 3)\naml_run.log('many', list(range(9000)))\n"
        "print('begun', flush=True)\ntime.sleep(60)",
    )
    due = time.monotonic() + 30
    while "begun" not in run.logs() and time.monotonic() < due:
        time.sleep(0.02)
    assert run.metrics == {"loss": 3, "many": list(range(9000))}
    assert "loss" in run._repr_mimebundle_()["text/plain"]
    run.cancel(kill=True).wait(timeout=30)


def test_an_option_that_is_none_is_named_with_those_there_are(project: Path) -> None:
    with pytest.raises(UsageError, match="no option tmieout"):
        aml_jupyter.submit("local", "train.py", tmieout=3)


def test_many_runs_are_a_frame_where_pandas_is_and_a_list_where_it_is_not(project: Path) -> None:
    ids = [aml_jupyter.submit("local", "train.py", params={"rate": n}).wait().id for n in (1, 3, 2)]
    history: Any = aml_jupyter.runs  # a module that can be called, which type checkers cannot see
    frame = history(order_by="metrics.rate DESC", limit=2)
    assert list(frame["run_id"]) == [ids[1], ids[2]]
    assert list(frame["metrics.rate"]) == [3, 2]
    program = (
        f"import sys; sys.path.insert(0, {ROOT!r}); import aml_jupyter\n"
        "print(aml_jupyter.runs(columns=['run_id', 'metrics.rate'], limit=1))"
    )
    # an interpreter that sees no installed packages
    bare = subprocess.run([sys.executable, "-S", "-s", "-c", program], capture_output=True, text=True)
    assert bare.stdout.strip() == str([{"run_id": ids[2], "metrics.rate": 2.0}]), bare.stderr
