"""Notebooks that move, and installations in which packages are broken or missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import runs
from aml_jupyter.snapshot import Store
from tests.notebooks import Notebook
from tests.terminal import aml, data

pytestmark = [pytest.mark.faults, pytest.mark.slow]

CELL = "%%amlrun local\nimport os\nprint(sorted(os.listdir()))\nprint('cell bytes')\n"


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "iris"
    folder.mkdir()
    (folder / "script.py").write_text("print('ran')")
    monkeypatch.chdir(folder)
    return folder


def saved_notebook(text: str) -> str:
    cell: dict[str, object] = {
        "cell_type": "code",
        "id": "a",
        "metadata": {},
        "source": text,
        "outputs": [],
        "execution_count": None,
    }
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]})


@pytest.fixture
def notebook(project: Path, home: str) -> Iterator[Notebook]:
    path = project / "analysis.ipynb"
    path.write_text(saved_notebook("print('what was saved')"))
    # as a server tells its kernels where their notebook lies
    kernel = Notebook(str(project), AML_HOME=home, JPY_SESSION_NAME=str(path))
    assert kernel.run("%load_ext aml_jupyter").status == "ok"
    yield kernel
    kernel.close()


def test_K6_an_unsaved_renamed_moved_or_deleted_notebook_runs_the_cell_that_was_sent(
    notebook: Notebook, project: Path, home: str
) -> None:
    path = project / "analysis.ipynb"
    (project / "sub").mkdir()

    def run() -> str:
        cell = notebook.run(CELL)
        assert cell.status == "ok", cell.error
        directory = runs.at(home, cell.run_id)
        assert directory is not None
        # the bytes that were sent, whatever is saved
        assert "cell bytes" in Path(directory.job, "cell.py").read_text()
        assert "cell bytes" in cell.text()
        return cell.text()

    # unsaved: the file on the disk says something else, and is left out
    assert "analysis.ipynb" not in run()
    path.write_text("half a note")
    assert "analysis.ipynb" not in run()
    # renamed and moved: the kernel still knows the old name; what lies there now is a file as any other
    path.rename(project / "renamed.ipynb")
    assert "renamed.ipynb" in run()
    (project / "renamed.ipynb").rename(project / "sub/analysis.ipynb")
    assert "sub" in run()
    (project / "sub/analysis.ipynb").unlink()
    run()
    path.mkdir()  # a folder of that name
    run()


def test_K6_a_notebook_that_is_saved_all_the_time_delays_no_submit(
    notebook: Notebook, project: Path, home: str
) -> None:
    """What is saved in place while the snapshot is taken is the notebook itself: it is not part of it."""
    saving = notebook.run(
        "import threading, time\ndef save():\n"
        "    for number in range(3000):\n"
        f"        open({str(project / 'analysis.ipynb')!r}, 'w').write('x' * number)\n"
        "        time.sleep(0.001)\n"
        "threading.Thread(target=save, daemon=True).start()"
    )
    assert saving.status == "ok"
    cells = [notebook.run(CELL) for _ in range(3)]
    assert [cell.status for cell in cells] == ["ok"] * 3
    ids = set()
    for cell in cells:
        directory = runs.at(home, cell.run_id)
        assert directory is not None
        record = runs.load_record(directory)
        ids.add(record.snapshot_id)
        names = [entry.path for entry in Store(home + "/snapshots").manifest(record.snapshot_id)]
        assert names == ["script.py"]
    assert len(ids) == 1


BROKEN = (
    "docker",
    "azure",
    "azure/storage",
    "azure/storage/blob",
    "jupyter_server",
    "ipywidgets",
    "pyarrow",
    "yaml",
)


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A folder whose packages fail to import, before everything else on the path."""
    folder = tmp_path / "broken"
    for name in BROKEN:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(
            "raise ImportError('libssl.so.1.1: cannot open shared object')"
        )
    return str(folder)


def test_K8_the_extension_loads_and_runs_with_packages_that_cannot_be_imported(
    project: Path, home: str, broken: str
) -> None:
    kernel = Notebook(str(project), AML_HOME=home, PYTHONPATH=broken)
    try:
        assert "libssl" in kernel.run("import docker").error
        loaded = kernel.run("%load_ext aml_jupyter")
        assert loaded.status == "ok", loaded.error
        cell = kernel.run("%%amlrun local\nprint('ran')\n")
        assert cell.status == "ok", cell.error
        assert "ran" in cell.text()
        line = kernel.run("%amlrun local script.py")
        assert line.status == "ok", line.error
        assert kernel.run("%aml runs").status == "ok"
    finally:
        kernel.close()


def test_K8_the_command_works_with_packages_that_cannot_be_imported(
    project: Path, home: str, broken: str
) -> None:
    here = str(Path(__file__).parents[2])
    path = {"PYTHONPATH": f"{broken}:{here}"}
    done = aml("run", "local", "script.py", env=path)
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    assert len(data("runs", env=path)) == 1
    # the one package that is needed, when there is a file to read: named, with what to do
    (project / "aml_config").mkdir()
    (project / "aml_config/local.compute").write_text("type: local\n")
    for words in (("targets",), ("run", "local", "script.py")):
        done = aml(*words, env=path)
        assert "libssl" in done.stdout + done.stderr, words
        assert "pip install" in done.stdout + done.stderr, words
        assert "Traceback" not in done.stderr, words
    assert done.returncode == 2
