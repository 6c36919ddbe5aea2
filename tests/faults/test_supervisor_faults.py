"""Whatever a script or a disk does, the supervisor ends with a state that is true."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.errors import UsageError
from aml_jupyter.experiment import Request
from aml_jupyter.runs import RunDirectory
from aml_jupyter.starting import Starter
from tests import machines
from tests.requirements import need
from tests.terminal import until

pytestmark = pytest.mark.faults


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def submit(project: Path, source: str) -> RunDirectory:
    (project / "script.py").write_text(source)
    return experiment.submit(Request(script="script.py"))


def test_L9_a_pipe_in_the_place_of_the_ending_is_no_ending(project: Path) -> None:
    source = "import os; os.mkfifo(os.environ['AML_JOB'] + '/exit.json'); open('outputs/model', 'w')"
    record = experiment.wait(submit(project, source), 60)
    # the runtime replaces what stands in the place of its own file
    assert (record.status, record.artifacts) == ("Completed", 1)


@pytest.mark.parametrize("name", ["log", "events.jsonl"])
def test_L9_pipes_in_the_places_of_log_and_events_block_nobody(project: Path, name: str) -> None:
    path = f"os.environ['AML_JOB'] + '/{name}'"
    source = f"import os; os.unlink({path}); os.mkfifo({path}); open('outputs/model', 'w')"
    record = experiment.wait(submit(project, source), 60)
    assert (record.status, record.artifacts) == ("Completed", 1)


def test_G3_events_that_are_no_events_do_not_keep_a_run_from_ending(project: Path) -> None:
    source = (
        "import os, aml_run\n"
        "aml_run.log('texts', ['y' * 1000] * 70000)\n"
        "with open(os.environ['AML_JOB'] + '/events.jsonl', 'a') as file:\n"
        "    file.write('[' * 100000 + '\\n' + '{\"type\": [1]}\\n' + 'not json\\n')\n"
        "aml_run.log('kept', 1)\n"
    )
    record = experiment.wait(submit(project, source), 60)
    assert record.status == "Completed"
    assert record.metrics["kept"] == 1


def test_S12_a_copy_that_does_not_fit_ends_the_run_and_gives_its_space_back(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], check=True)
    try:
        monkeypatch.setenv("AML_HOME", str(small / "home"))
        (project / "data.bin").write_bytes(os.urandom(9 << 20))
        first = submit(project, "open('outputs/model', 'w').write('m')")
        record = experiment.wait(first, 60)
        assert record.status == "Failed", record
        assert record.reason in ("store.no_space", "history.no_space")
        assert not os.path.lexists(first.work + ".partial")
        (project / "data.bin").unlink()
        assert experiment.wait(submit(project, "print('fits')"), 60).status == "Completed"
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_handle_that_cannot_be_written_ends_nothing(project: Path) -> None:
    source = "import time; time.sleep(0.3); open('outputs/late', 'w').write('kept')"
    (project / "script.py").write_text(source)
    directory = experiment.write(experiment.plan(Request(script="script.py")))
    # the place of handle.json is taken by a folder that cannot be replaced by a file
    os.makedirs(directory.handle_json + "/taken")
    Starter().go(directory.path, {})
    record = experiment.wait(directory, 60)
    assert (record.status, record.artifacts) == ("Completed", 1)


def test_files_of_a_run_get_the_rights_they_would_have_had_outside(project: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        directory = submit(project, f"open({str(tmp_path / 'group')!r}, 'w'); import os; os.mkdir('made')")
        assert experiment.wait(directory, 60).status == "Completed"
    finally:
        os.umask(before)
    assert (tmp_path / "group").stat().st_mode & 0o777 == 0o640
    assert os.stat(directory.path).st_mode & 0o777 == 0o700


def test_a_run_that_is_resumed_keeps_the_phases_of_its_first_supervisor(project: Path) -> None:
    directory = submit(project, "import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)")
    until(lambda: {"prepare", "start"} <= runs.phases_over(directory).keys())
    until(lambda: runs.read_record(directory).status == "Running")
    over = runs.phases_over(directory)
    for _ in range(2):
        machines.kill_supervisor(directory)
        until(lambda: experiment.resume(directory))
        until(lambda: runs.supervised(directory))
    Path(directory.work, "go").touch()
    record = experiment.wait(directory, 60)
    assert record.status == "Completed"
    assert record.phases.keys() == {"snapshot", "prepare", "start", "run", "collect"}
    assert over.items() <= record.phases.items()


def test_the_phase_of_a_start_that_nobody_saw_the_end_of_is_left_out(project: Path) -> None:
    directory = submit(project, "import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)")
    until(lambda: runs.read_record(directory).status == "Running")
    machines.kill_supervisor(directory)
    # as a supervisor leaves it that is killed while it starts the job
    runs.mark_starting(directory, {"snapshot": 0.5, "prepare": 2.5})
    until(lambda: experiment.resume(directory))
    Path(directory.work, "go").touch()
    record = experiment.wait(directory, 60)
    assert record.phases.keys() == {"snapshot", "prepare", "run", "collect"}
    assert record.phases["prepare"] == 2.5


def test_a_time_limit_is_told_as_the_reason_not_the_last_line(project: Path) -> None:
    (project / "script.py").write_text("print('epoch 1', flush=True); import time; time.sleep(60)")
    directory = experiment.submit(Request(script="script.py", timeout=0.5))
    record = experiment.wait(directory, 60)
    assert record.reason == "run.timeout"
    assert "limit of 0.5 s" in (record.error or {})["message"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("print('bye'); import sys; sys.exit(3)", 'exit code 3; its last line: "bye"'),
        ("print('x', flush=True); import os; os.kill(os.getpid(), 11)", "ended by signal 11 (SIGSEGV)"),
        ("import os; os._exit(4)", "exit code 4"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_L3_the_error_says_how_the_script_ended(project: Path, source: str, said: str) -> None:
    record = experiment.wait(submit(project, source), 60)
    assert (record.error or {})["message"].startswith(said)


def test_L5_what_was_ended_and_what_was_written_beside_the_copy_is_told(project: Path) -> None:
    source = (
        "import subprocess\n"
        "subprocess.Popen(['sleep', '777'], start_new_session=True)\n"
        "open('../escape.txt', 'w').write('lost')\n"
    )
    record = experiment.wait(submit(project, source), 60)
    assert record.status == "Completed"
    assert any("1 processes were still running" in text for text in record.warnings)
    assert any("../escape.txt" in text for text in record.warnings)


def test_a_folder_to_start_in_that_is_not_there_is_refused_before_the_run(project: Path) -> None:
    (project / "script.py").write_text("")
    with pytest.raises(UsageError, match="no such folder"):
        experiment.submit(Request(script="script.py", workdir="nope"))
