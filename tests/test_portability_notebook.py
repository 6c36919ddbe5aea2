"""A cell on several targets, in a real kernel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebooks import Cell, Notebook
from tests.requirements import python_versions
from tests.terminal import ROOT


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portability") / "iris"
    (folder / "aml_config").mkdir(parents=True)
    for name, python in (("old", next(iter(python_versions().values()))), ("new", sys.executable)):
        text = f'type: local\npythonLocation: "{python}"\nnativeSharedDirectory: ~/.azureml/share/\n'
        (folder / "aml_config" / f"{name}.compute").write_text(text)
    (folder / "same.py").write_text("print('same')\nopen('outputs/a', 'w').write('a')\n")
    return folder


@pytest.fixture(scope="module")
def kernel(project: Path) -> Iterator[Notebook]:
    home = str(project.parent / "home")
    found = Notebook(str(project), AML_HOME=home + "/.azureml", HOME=home, PYTHONPATH=ROOT)
    try:
        assert found.run("%load_ext aml_jupyter").status == "ok"
        yield found
    finally:
        found.close()


def verdict(cell: Cell) -> dict[str, str]:
    found: dict[str, str] = next(
        data for name, data in cell.shown().items() if name.startswith("aml-verdict-")
    )
    return found


def cards(cell: Cell) -> list[str]:
    return [data["text/plain"] for name, data in cell.shown().items() if name.startswith("aml-card-")]


def in_order(cell: Cell) -> list[str]:
    """What appeared: the first line of each display, what was printed between two of them as one."""
    found: list[str] = []
    printing = False
    for one in cell.messages:
        if one["msg_type"] == "stream" and printing:
            found[-1] += one["content"]["text"]
        elif one["msg_type"] == "stream":
            found.append(one["content"]["text"])
        elif one["msg_type"] == "display_data":
            found.append(one["content"]["data"]["text/plain"].split("\n")[0])
        printing = one["msg_type"] == "stream" or (printing and one["msg_type"] != "display_data")
    return found


def test_both_cards_stand_on_top_and_outputs_follow_in_sections(kernel: Notebook) -> None:
    cell = kernel.run(
        "%%amlrun old,new -p rate=0.5\nprint('at', rate)\nopen('outputs/a', 'w').write('a')\n'x'"
    )
    assert cell.status == "ok", cell.error
    shown = in_order(cell)
    assert " cell on old" in shown[0]
    assert " cell on new" in shown[1]
    assert shown[2:8] == ["── old", "at 0.5\n", "'x'", "── new", "at 0.5\n", "'x'"]
    assert shown[8].startswith("= Portability: identical on old, new")
    assert len(shown) == 9
    for card, target in zip(cards(cell), ("old", "new"), strict=True):
        assert "✓ Completed" in card
        assert f"cell on {target}" in card
    assert "<dl" in verdict(cell)["text/html"]
    told = kernel.run("print(list(_run), _run['new'].status, _run.verdict.word)")
    assert told.text() == "['old', 'new'] Completed identical\n"


def test_a_difference_fails_the_cell_and_can_be_only_reported(kernel: Notebook) -> None:
    code = "import os\nopen('outputs/id', 'w').write(os.environ['AZUREML_RUN_ID'])"
    cell = kernel.run("%%amlrun old,new\n" + code)
    assert cell.status == "error"
    assert "[run.different]" in cell.error
    assert "Traceback" not in cell.error
    assert "1 different" in verdict(cell)["text/plain"]
    quiet = kernel.run("%%amlrun old,new --no-raise-error\n" + code)
    assert quiet.status == "ok"
    assert "≠ Portability: different" in verdict(quiet)["text/plain"]


def test_the_first_failure_is_raised_and_every_traceback_is_shown_once(kernel: Notebook) -> None:
    cell = kernel.run("%%amlrun old,new\n\n1 / 0")
    assert cell.status == "error"
    assert cell.error.count("ZeroDivisionError") == 1
    assert cell.text("stderr").count("ZeroDivisionError") == 1
    assert "line 2" in cell.error
    assert "= Portability: identical" in verdict(cell)["text/plain"]
    quiet = kernel.run("%%amlrun old,new --no-raise-error\n\n1 / 0")
    assert quiet.status == "ok"
    assert quiet.text("stderr").count("ZeroDivisionError") == 2


def test_variables_come_back_from_the_first_target(kernel: Notebook) -> None:
    cell = kernel.run("%%amlrun new,old -o version\nimport sys\nversion = sys.version_info[:2]")
    assert cell.status == "ok", cell.error
    assert kernel.run("print(tuple(version))").text() == f"{sys.version_info[:2]}\n"


def test_what_one_run_clears_is_not_the_output_of_another(kernel: Notebook) -> None:
    cell = kernel.run(
        "%%amlrun old,new\nimport aml_run\nprint('stays')\naml_run.clear_output()\nprint('too')"
    )
    assert cell.text().count("too") == 2
    assert not cell.of("clear_output")
    assert len(cards(cell)) == 2
    assert sum("cell on" in one["text/plain"] for one in cell.displays) == 2


def test_a_script_is_compared_as_a_cell_is_and_shown_again_later(kernel: Notebook) -> None:
    cell = kernel.run("%amlrun old,new same.py")
    assert cell.status == "ok", cell.error
    assert cell.text() == "same\nsame\n"
    again = kernel.run("%aml show @last")
    assert verdict(again) == verdict(cell)
    table = kernel.run("%aml runs --limit 2 --columns target,tags.portability").displays[0]["text/plain"]
    assert table.count("identical") == 2


def test_an_interrupt_cancels_every_run(kernel: Notebook) -> None:
    cell = kernel.start("%%amlrun old,new\nimport time\nprint('begun', flush=True)\ntime.sleep(60)")
    kernel.until(lambda: "begun" in cell.text())
    kernel.until(lambda: all("▶" in one for one in cards(cell)) and len(cards(cell)) == 2)
    kernel.interrupt()
    kernel.finish(cell)
    assert cell.status == "error"
    assert all("Canceled" in one for one in cards(cell))
    assert "Portability: incomplete" in verdict(cell)["text/plain"]


def test_detached_runs_have_their_cards_and_are_compared_later(kernel: Notebook) -> None:
    cell = kernel.run("%%amlrun old,new -d --run both\nprint('away')")
    assert cell.status == "ok"
    assert len(cards(cell)) == 2
    told = kernel.run("print(both.wait(60).verdict.word)")
    assert told.text() == "identical\n"


def test_a_cell_that_lacks_a_variable_is_refused_before_any_run(kernel: Notebook) -> None:
    kernel.run("mine = 1")
    before = kernel.run("%aml runs --json").text()
    cell = kernel.run("%%amlrun old,new\nprint(mine)")
    assert cell.status == "error"
    assert "--in mine" in cell.error
    assert kernel.run("%aml runs --json").text() == before


def test_targets_are_completed_behind_a_comma(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aml_jupyter.magics.options import complete

    monkeypatch.chdir(project)
    assert complete("%%amlrun old,n") == ["old,new"]
    assert "new" in complete("%%amlrun n")


def test_a_run_that_shows_nothing_has_no_section(kernel: Notebook) -> None:
    silent = kernel.run("%%amlrun old,new\nopen('outputs/a', 'w').write('a');")
    assert [one for one in in_order(silent) if one.startswith("──")] == []
