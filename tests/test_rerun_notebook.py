"""Reruns, reuse and lineage below cells of a real kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.notebooks import Notebook
from tests.terminal import ROOT


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("rerun") / "iris"
    folder.mkdir()
    (folder / "train.py").write_text("open('outputs/model.txt', 'w').write('m')\nprint('trained')\n")
    home = str(folder.parent / "home")
    found = Notebook(str(folder), AML_HOME=home + "/.azureml", HOME=home, PYTHONPATH=ROOT)
    try:
        assert found.run("%load_ext aml_jupyter").status == "ok"
        yield found
    finally:
        found.close()


def test_a_run_is_repeated_and_compared_in_a_cell(kernel: Notebook) -> None:
    assert kernel.run("%amlrun local train.py").status == "ok"
    first = kernel.run("print(_run.id)").text().strip()
    cell = kernel.run("%aml rerun @last --verify")
    assert cell.status == "ok", cell.error
    assert "trained" in cell.text()
    shown = "".join(data["text/plain"] for data in cell.shown().values())
    assert f"gave the same results as {first}" in shown
    told = kernel.run("print(_run.record.properties['rerun_of'], _run.rerun(verify=True).same)").text()
    assert told == f"{first} True\n"


def test_a_cell_that_has_completed_is_shown_and_its_variables_come_back(kernel: Notebook) -> None:
    line = "%%amlrun local --needed -p rate=2 -o answer\nprint('computed')\nanswer = [rate, 21 * rate]\n"
    first = kernel.run(line)
    assert first.status == "ok", first.error
    ids = kernel.run("print(_run.id, answer)").text()
    kernel.run("answer = None")
    second = kernel.run(line)
    assert second.status == "ok", second.error
    assert "not run again" in second.text()
    assert "computed" in second.text()
    assert kernel.run("print(_run.id, answer)").text() == ids
    assert "[2, 42]" in ids
    assert kernel.run(line.replace("rate=2", "rate=3")).status == "ok"
    assert kernel.run("print(answer)").text() == "[3, 63]\n"


def test_a_rerun_with_other_results_raises_in_the_cell(kernel: Notebook) -> None:
    assert kernel.run("%%amlrun local -p rate=1\nopen('outputs/x', 'w').write(str(rate))").status == "ok"
    cell = kernel.run("%aml rerun @last --verify -p rate=5")
    assert cell.status == "error"
    assert "did not give the same results" in str(cell.error)


def test_what_a_run_was_made_from_stands_below_its_card(kernel: Notebook) -> None:
    assert kernel.run("%amlrun local train.py").status == "ok"
    made = kernel.run("print(_run.id)").text().strip()
    cell = kernel.run("%%amlrun local --input model=@last:model.txt\nimport aml_run\naml_run.input('model')")
    assert cell.status == "ok", cell.error
    assert kernel.run("print(_run.made_from[0]['run_id'])").text().strip() == made
    shown = "".join(data["text/plain"] for data in kernel.run("%aml show").shown().values())
    assert f"made from  model: outputs/model.txt of {made}" in shown
