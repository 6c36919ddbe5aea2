"""What a run leaves is collected without ever changing how it ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aml_jupyter import artifacts, experiment, runs
from aml_jupyter.experiment import Request
from aml_jupyter.runs import RunDirectory


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(project: Path, source: str) -> RunDirectory:
    (project / "script.py").write_text(source)
    directory = experiment.submit(Request(script="script.py"))
    experiment.wait(directory, 60)
    return directory


def test_a_store_that_cannot_be_written_leaves_the_ending_true(project: Path, home: str) -> None:
    os.makedirs(home)
    Path(home, "artifacts").write_text("not a folder")
    directory = run(project, "open('outputs/model', 'w').write('kept'); open('lost', 'w').write('x')")
    record = runs.read_record(directory)
    assert (record.status, record.artifacts_state) == ("Completed", "failed")
    assert any(text.startswith("artifacts are not in the record") for text in record.warnings)
    assert record.not_kept == ("lost",)
    # nothing is lost: once the store can be written, the same collection goes on
    Path(home, "artifacts").unlink()
    assert [item.path for item in artifacts.collect(directory).stored] == ["outputs/model"]


def test_a_snapshot_that_is_gone_costs_only_the_list_of_what_was_not_kept(project: Path, home: str) -> None:
    source = "import os, shutil; shutil.rmtree(os.environ['AML_HOME'] + '/snapshots'); open('outputs/m', 'w')"
    directory = run(project, source)
    record = runs.read_record(directory)
    assert (record.status, record.artifacts_state, record.artifacts) == ("Completed", "stored", 1)
    assert any(text.startswith("files written elsewhere are not in the record") for text in record.warnings)


def test_what_the_runtime_warned_of_is_in_the_record_once(project: Path) -> None:
    source = (
        "import os\nfor _ in range(3): os.truncate(os.environ['AML_JOB'] + '/log', 0); print('x', flush=True)"
    )
    warnings = runs.read_record(run(project, source)).warnings
    assert len([text for text in warnings if "truncated" in text]) <= 1


def test_a_failed_script_keeps_outputs_and_metrics(project: Path) -> None:
    source = (
        "from azureml.logging import get_azureml_logger\n"
        "get_azureml_logger().log('accuracy', 0.9)\n"
        "open('outputs/model', 'w').write('kept')\n"
        "import os; os.chdir('/'); 1 / 0\n"
    )
    directory = run(project, source)
    record = runs.read_record(directory)
    assert (record.status, record.reason, record.exit_code) == ("Failed", "run.exit_nonzero", 1)
    assert (record.metrics, record.artifacts) == ({"accuracy": 0.9}, 1)
    assert (record.error or {})["message"] == "ZeroDivisionError: division by zero"
