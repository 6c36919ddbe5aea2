"""What happens to a run when something happens to the kernel that started it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aml_jupyter import runs
from tests.notebooks import PATIENCE, Cell, Notebook

pytestmark = pytest.mark.slow

Start = Callable[[], Notebook]

LONG = "import time\nprint('begun', flush=True)\nfor _ in range(600): time.sleep(0.1)\n"
SHORT = (
    "import time\nprint('begun', flush=True)\ntime.sleep(3)\nprint('ended')\n"
    "open('outputs/x', 'w').write('x')\n"
)
STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('begun', flush=True)\nfor _ in range(600): time.sleep(0.1)\n"
)


@pytest.fixture
def project(tmp_path: Path, home: str) -> Path:
    folder = tmp_path / "iris"
    folder.mkdir()
    return folder


@pytest.fixture
def start(project: Path, home: str) -> Iterator[Start]:
    started: list[Notebook] = []

    def start() -> Notebook:
        notebook = Notebook(str(project), AML_HOME=home)
        started.append(notebook)
        assert notebook.run("%load_ext aml_jupyter").status == "ok"
        return notebook

    yield start
    for notebook in started:
        notebook.close()


def begin(notebook: Notebook, source: str) -> Cell:
    """Start a run and wait for its first output."""
    cell = notebook.start("%%amlrun local\n" + source)
    notebook.until(lambda: "begun" in cell.text())
    return cell


def ended(home: str, run_id: str, within: float = PATIENCE) -> runs.Record:
    """The record of a run once it has ended."""
    directory = runs.at(home, run_id)
    assert directory is not None
    due = time.monotonic() + within
    while time.monotonic() < due:
        record = runs.read_record(directory)
        if record.ended:
            return record
        time.sleep(0.05)
    raise TimeoutError(f"{run_id} is still {record.status}: {record.reason}")


def nothing_left(run_id: str) -> bool:
    """Whether no process carries the run's id any more."""
    marker = f"AZUREML_RUN_ID={run_id}".encode()
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and marker in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                return False
        except OSError:  # gone meanwhile
            continue
    return True


def test_K3_an_interrupt_cancels_the_run_and_the_kernel_lives(start: Start, home: str) -> None:
    notebook = start()
    cell = begin(notebook, LONG)
    notebook.interrupt()
    notebook.finish(cell)
    assert cell.status == "error"
    assert "Canceled" in cell.error
    assert "Canceled" in cell.card["text/plain"]
    assert ended(home, cell.run_id).status == "Canceled"
    assert nothing_left(cell.run_id)
    assert notebook.run("print(_run.status)").text() == "Canceled\n"


def test_K3_a_second_interrupt_kills_a_run_that_will_not_end(start: Start, home: str) -> None:
    notebook = start()
    cell = begin(notebook, STUBBORN)
    notebook.interrupt()
    notebook.until(lambda: "Cancel requested" in cell.card["text/plain"])
    notebook.interrupt()
    notebook.finish(cell)
    assert ended(home, cell.run_id).status == "Canceled"
    asked = runs.find(cell.run_id, home).cancel
    assert json.loads(Path(asked).read_text())["mode"] == "kill"
    assert nothing_left(cell.run_id)


def test_K3_an_interrupt_while_the_snapshot_is_taken_leaves_no_run_going(
    start: Start, home: str, project: Path
) -> None:
    for folder in range(20):
        (project / f"f{folder}").mkdir()
        for name in range(250):
            (project / f"f{folder}" / f"{name}.txt").write_text(f"{folder} {name}" * 20)
    notebook = start()
    cell = notebook.start("%%amlrun local\n" + LONG)
    time.sleep(0.15)
    notebook.interrupt()
    notebook.finish(cell)
    assert cell.status == "error"
    for run_id in os.listdir(home + "/ids") if os.path.isdir(home + "/ids") else []:
        assert ended(home, run_id).status == "Canceled"


def test_K3_a_restart_of_the_kernel_does_not_cancel_the_run(start: Start, home: str) -> None:
    notebook = start()
    cell = begin(notebook, SHORT)
    notebook.manager.restart_kernel()
    record = ended(home, cell.run_id)
    assert record.status == "Completed"
    assert record.artifacts == 1
    notebook.client.wait_for_ready(timeout=PATIENCE)
    assert notebook.run("%load_ext aml_jupyter").status == "ok"
    again = notebook.run(f"%aml attach {cell.run_id}")
    assert again.text() == "begun\nended\n"


def test_K3_a_shutdown_of_the_kernel_does_not_cancel_the_run(start: Start, home: str) -> None:
    notebook = start()
    cell = begin(notebook, SHORT)
    notebook.manager.shutdown_kernel()
    assert ended(home, cell.run_id).status == "Completed"


def test_K4_a_killed_kernel_does_not_end_the_run_and_another_one_takes_it_up(start: Start, home: str) -> None:
    notebook = start()
    cell = begin(notebook, SHORT)
    pid = notebook.manager.provisioner.process.pid  # type: ignore[union-attr]
    os.kill(pid, signal.SIGKILL)
    other = start()
    again = other.run(f"%aml attach {cell.run_id}")
    assert again.text() == "begun\nended\n"
    assert again.status == "ok"
    assert ended(home, cell.run_id).status == "Completed"


def test_L1_kernel_and_supervisor_killed_the_run_is_continued_by_loading_the_extension(
    start: Start, home: str
) -> None:
    notebook = start()
    cell = begin(notebook, SHORT)
    directory = runs.at(home, cell.run_id)
    assert directory is not None
    who = runs.supervisor_identity(directory)
    assert who is not None
    os.kill(who["pid"], signal.SIGKILL)
    os.kill(notebook.manager.provisioner.process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    time.sleep(0.2)
    assert runs.read_record(directory).status == "NotResponding"
    start()
    assert ended(home, cell.run_id).status == "Completed"


def test_a_supervisor_that_dies_under_a_watched_cell_is_replaced(start: Start, home: str) -> None:
    notebook = start()
    cell = begin(notebook, SHORT)
    directory = runs.at(home, cell.run_id)
    assert directory is not None
    who = runs.supervisor_identity(directory)
    assert who is not None
    os.kill(who["pid"], signal.SIGKILL)
    notebook.finish(cell)
    assert cell.status == "ok", cell.error
    assert cell.text() == "begun\nended\n"
    assert "Completed" in cell.card["text/plain"]


def test_K7_the_last_card_of_a_killed_kernel_says_when_it_was_true(start: Start) -> None:
    notebook = start()
    cell = begin(notebook, SHORT)
    notebook.until(lambda: "Running" in cell.card["text/plain"])
    assert " UTC" in cell.card["text/plain"]
    assert "as of" in cell.card["text/html"]


def test_two_kernels_submit_at_once_and_neither_waits_for_the_other(start: Start, home: str) -> None:
    one, two = start(), start()
    cells = [notebook.start("%%amlrun local\nprint('hi')") for notebook in (one, two)]
    for notebook, cell in zip((one, two), cells, strict=True):
        notebook.finish(cell)
        assert cell.text() == "hi\n", cell.error
    assert cells[0].run_id != cells[1].run_id
