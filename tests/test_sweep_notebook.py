"""Sweeps and the queue in a real kernel: table, variables, failures, interrupts, and a kernel that dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import experiment, runs
from tests.notebooks import Cell, Notebook
from tests.terminal import ROOT, until


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps") / "iris"
    folder.mkdir()
    return folder


def opened(project: Path) -> Notebook:
    home = str(project.parent / "home")
    found = Notebook(str(project), AML_HOME=home + "/.azureml", HOME=home, PYTHONPATH=ROOT)
    assert found.run("%load_ext aml_jupyter").status == "ok"
    return found


@pytest.fixture(scope="module")
def kernel(project: Path) -> Iterator[Notebook]:
    found = opened(project)
    try:
        yield found
    finally:
        found.close()


def value(kernel: Notebook, expression: str) -> Any:
    """What an expression is there, as far as it is JSON."""
    cell = kernel.run(f"import json; print(json.dumps({expression}))")
    assert cell.status == "ok", cell.error
    return json.loads(cell.text())


def table(cell: Cell) -> dict[str, str]:
    found: dict[str, str] = next(data for name, data in cell.shown().items() if name.startswith("aml-sweep-"))
    return found


def test_a_cell_is_run_for_each_value_and_its_table_fills(kernel: Notebook) -> None:
    line = "%%amlrun local --sweep rate=1,2,4 -j 2 --metric accuracy"
    cell = kernel.run(f"{line}\nimport aml_run\naml_run.log('accuracy', 1 / rate)")
    assert cell.status == "ok"
    # one table, which was replaced
    assert len(cell.displays) == 1
    shown = table(cell)
    assert "3 trials: 3 completed; best accuracy 1 with rate=1" in shown["text/plain"]
    assert shown["text/html"].count("<tr>") == 4
    assert value(kernel, "[_run.status, _run.best.params, len(_run)]") == ["Completed", {"rate": 1}, 3]


def test_a_failed_trial_is_told_and_fails_the_cell_after_all_have_ended(kernel: Notebook) -> None:
    source = "%%amlrun local --sweep rate=0,1\nprint(1 / rate)"
    cell = kernel.run(source)
    assert cell.status == "error"
    assert "1 of 2 trials did not complete" in cell.error
    assert "1: ZeroDivisionError: division by zero" in table(cell)["text/plain"]
    assert value(kernel, "[one.status for one in _run]") == ["Failed", "Completed"]
    again = kernel.run(source.replace("--sweep", "--no-raise-error --sweep"))
    assert again.status == "ok"


def test_variables_do_not_come_back_from_many_runs(kernel: Notebook) -> None:
    cell = kernel.run("%%amlrun local --sweep rate=0,1 -o rate\npass")
    assert cell.status == "error"
    assert "a sweep has many" in cell.error


def test_an_interrupt_cancels_the_sweep(kernel: Notebook) -> None:
    cell = kernel.start("%%amlrun local --sweep rate=1..3 -j 2\nimport time\nprint('begun')\ntime.sleep(60)")
    kernel.until(lambda: any("2 running" in str(one) for one in cell.messages))
    kernel.interrupt()
    kernel.finish(cell)
    assert cell.status == "error"
    assert value(kernel, "[one.status for one in _run]") == ["Canceled"] * 3


@pytest.mark.slow
def test_a_sweep_goes_on_when_the_kernel_dies_and_is_attached_to_from_another_one(project: Path) -> None:
    first = opened(project)
    try:
        source = "%%amlrun local --sweep rate=1..4 -j 2 -d\nimport time\ntime.sleep(0.3)"
        assert first.run(source).status == "ok"
        run_id = value(first, "_run.id")
    finally:
        os.kill(first.manager.provisioner.process.pid, signal.SIGKILL)  # type: ignore[union-attr]
        first.close()
    parent = runs.at(str(project.parent / "home/.azureml"), run_id)
    assert parent is not None
    second = opened(project)
    try:
        cell = second.run(f"%aml attach {run_id}")
        assert cell.status == "ok"
        assert "4 trials: 4 completed" in table(cell)["text/plain"]
    finally:
        second.close()
    assert experiment.wait(parent, 60).status == "Completed"


def test_a_queued_cell_has_a_card_that_follows_it(kernel: Notebook) -> None:
    cell = kernel.run("%%amlrun local --queue\nprint('in its turn')")
    assert cell.status == "ok"
    assert value(kernel, "_run.wait(60).status") == "Completed"
    until(lambda: "in its turn" in value(kernel, "_run.logs()"), 60)
