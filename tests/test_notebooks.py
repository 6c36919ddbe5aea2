"""The quickstart does what it shows: executed in a real kernel, in a copy, with a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


class Executed:
    """The quickstart after its execution, and the history that it left."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "notebooks" / "iris"
        self.environment = {**os.environ, "HOME": str(folder), "AML_HOME": str(folder / "kept")}
        shutil.copytree(NOTEBOOKS, folder / "notebooks", ignore=shutil.ignore_patterns(".*", "__pycache__"))
        self.before = self.files()
        answer = subprocess.run(
            [sys.executable, str(folder / "notebooks" / "demo.py"), str(folder / "executed.ipynb")],
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        self.printed = answer.stdout
        self.cells = [
            cell
            for cell in nbformat.read(folder / "executed.ipynb", as_version=4).cells
            if cell.cell_type == "code"
        ]
        self.runs: dict[str, Any] = {run["name"] or "script": run for run in self.aml("runs")}

    def aml(self, *arguments: str) -> Any:
        command = [os.path.join(sysconfig.get_path("scripts"), "aml"), *arguments, "--json"]
        answer = subprocess.run(
            command, cwd=self.project, env=self.environment, stdout=subprocess.PIPE, check=True
        )
        return json.loads(answer.stdout)

    def files(self) -> set[str]:
        return {path.relative_to(self.project).as_posix() for path in self.project.rglob("*")}

    def artifacts(self, run: str) -> dict[str, int]:
        return {item["path"]: item["size"] for item in self.aml("ls", self.runs[run]["run_id"])}

    def outputs(self, begins: str) -> list[Any]:
        """The outputs of the one cell whose text begins so."""
        (cell,) = (cell for cell in self.cells if cell.source.startswith(begins))
        return list(cell.outputs)

    def text(self, begins: str) -> str:
        return "".join(output.text for output in self.outputs(begins) if output.output_type == "stream")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    return Executed(tmp_path_factory.mktemp("quickstart"))


def test_every_run_of_the_quickstart_completes(executed: Executed) -> None:
    assert {run["status"] for run in executed.runs.values()} == {"Completed"}
    assert set(executed.runs) == {"first-model", "look-at-the-share", "predict", "script"}


def test_metrics_and_parameters_are_in_the_history(executed: Executed) -> None:
    run = executed.runs["first-model"]
    assert run["metrics"]["accuracy"] > 0.9
    assert run["metrics"]["regularization"] == 0.01
    assert run["params"] == {"regularization": 0.01}
    assert executed.runs["script"]["metrics"]["regularization"] == 10


def test_outputs_are_artifacts(executed: Executed) -> None:
    trained = executed.artifacts("first-model")
    assert trained["outputs/model.pkl"] > 500
    assert trained["outputs/petals.png"] > 1000
    assert "outputs/confusion.png" in executed.artifacts("script")


def test_figure_result_and_output_appear_under_the_cell(executed: Executed) -> None:
    bundles = [output.data for output in executed.outputs("%%amlrun local --name first") if "data" in output]
    assert any("image/png" in bundle for bundle in bundles)
    assert any("LogisticRegression" in bundle.get("text/plain", "") for bundle in bundles)
    assert "97 flowers to learn from, 53 to test with" in executed.text("%%amlrun local --name first")


def test_the_share_outlives_the_run(executed: Executed) -> None:
    assert "Counter({" in executed.text("%%amlrun local --name look")


def test_a_model_goes_into_a_run_and_its_answer_comes_back(executed: Executed) -> None:
    assert "this flower is a virginica" in executed.text("%%amlrun local --name predict")
    assert executed.outputs("answer")[0].data["text/plain"] == "'virginica'"


def test_the_history_is_a_table_in_the_notebook(executed: Executed) -> None:
    assert "look-at-the-share" in executed.outputs("history =")[0].data["text/html"]


def test_nothing_is_written_back_to_the_project(executed: Executed) -> None:
    assert executed.files() == executed.before


def test_the_demo_prints_id_status_metrics_and_artifacts(executed: Executed) -> None:
    assert f"{executed.runs['first-model']['run_id']}  Completed" in executed.printed
    assert "accuracy = 0.9" in executed.printed
    assert "outputs/model.pkl" in executed.printed
