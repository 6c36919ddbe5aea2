"""Runs on this computer under every ending a script can take, and under what others do to them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import artifacts, experiment, processes, runs
from aml_jupyter.experiment import Request
from aml_jupyter.job import TERMINAL
from aml_jupyter.runs import Record, RunDirectory
from tests.requirements import need
from tests.terminal import AML, aml, data, environment, until

pytestmark = pytest.mark.faults


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def submit(project: Path, source: str, **options: Any) -> RunDirectory:
    (project / "script.py").write_text(source)
    return experiment.submit(Request(script="script.py", **options))


def run(project: Path, source: str, **options: Any) -> Record:
    """Submit a script and wait for its end."""
    return experiment.wait(submit(project, source, **options), 60)


def states(directory: RunDirectory) -> list[str]:
    lines = Path(directory.status_jsonl).read_text().splitlines()
    return [json.loads(line)["status"] for line in lines]


def assert_one_ending(directory: RunDirectory) -> Record:
    record = runs.read_record(directory)
    assert record.status in TERMINAL
    told = [status for status in states(directory) if status in TERMINAL]
    assert told == [record.status]
    return record


def wait_for(directory: RunDirectory, text: str) -> None:
    """Until the run has printed a text."""
    log = Path(directory.log)
    until(lambda: log.exists() and text.encode() in log.read_bytes())


# --- L1, L2b: the processes around a run --------------------------------------------------------------------

SUBMIT_AND_STAY = """
import time
from aml_jupyter.experiment import Request, submit
print(submit(Request(script="script.py")).path, flush=True)
time.sleep(60)
"""
UNTIL_TOLD = """
import os, time
print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
print("done")
open("outputs/result", "w").write("whole")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_L1_the_end_of_the_submitting_process_is_not_the_end_of_the_run(
    project: Path, number: signal.Signals
) -> None:
    (project / "script.py").write_text(UNTIL_TOLD)
    with subprocess.Popen(
        [sys.executable, "-c", SUBMIT_AND_STAY],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as kernel:
        assert kernel.stdout
        directory = RunDirectory(kernel.stdout.readline().strip())
        wait_for(directory, "ready")
        # as a terminal or a server would: the whole group
        os.killpg(kernel.pid, number)
        kernel.wait(10)
    assert runs.read_record(directory).status == "Running"
    Path(directory.work, "go").touch()
    done = aml("attach", directory.run_id)
    assert (done.returncode, done.stdout) == (0, "ready\ndone\n")
    assert assert_one_ending(directory).artifacts == 1


def kill_supervisor(directory: RunDirectory) -> None:
    who = until(lambda: runs.supervised(directory) and runs.supervisor_identity(directory))
    os.kill(who["pid"], signal.SIGKILL)
    until(lambda: not runs.supervised(directory))


def test_L2b_a_killed_supervisor_is_replaced_while_the_job_goes_on(project: Path) -> None:
    directory = submit(project, UNTIL_TOLD)
    wait_for(directory, "ready")
    kill_supervisor(directory)
    assert runs.job_alive(directory)
    assert runs.read_record(directory).status == "NotResponding"
    assert data("resume") == {directory.run_id: True}
    until(lambda: runs.read_record(directory).status == "Running")
    Path(directory.work, "go").touch()
    assert aml("wait", directory.run_id).stdout == f"{directory.run_id} Completed\n"
    assert Path(directory.log).read_text() == "ready\ndone\n"


def test_L2b_a_job_that_ended_without_a_supervisor_is_taken_in_by_whoever_asks(project: Path) -> None:
    directory = submit(project, UNTIL_TOLD)
    wait_for(directory, "ready")
    kill_supervisor(directory)
    Path(directory.work, "go").touch()
    until(lambda: os.path.exists(directory.exit_json))
    record = runs.read_record(directory)
    assert (record.status, record.reason) == ("NotResponding", "supervisor.gone")
    # a reader writes nothing
    assert not runs.load_record(directory).ended
    done = aml("attach", directory.run_id)
    assert (done.returncode, done.stdout) == (0, "ready\ndone\n")
    assert assert_one_ending(directory).artifacts == 1


def test_L2b_a_supervisor_killed_while_a_command_follows_is_not_noticed(project: Path) -> None:
    directory = submit(project, UNTIL_TOLD)
    wait_for(directory, "ready")
    followed = subprocess.Popen(
        [*AML, "attach", directory.run_id], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert followed.stdout
    assert followed.stdout.readline() == "ready\n"
    kill_supervisor(directory)
    time.sleep(0.3)
    Path(directory.work, "go").touch()
    assert followed.communicate(timeout=30)[0] == "done\n"
    assert followed.returncode == 0
    assert_one_ending(directory)


def test_L2_a_killed_runtime_is_a_lost_run_with_what_it_left(project: Path) -> None:
    source = (
        "open('outputs/half', 'w').write('so far')\nprint('ready', flush=True)\nimport time; time.sleep(60)"
    )
    directory = submit(project, source)
    wait_for(directory, "ready")
    started = json.loads(Path(directory.started_json).read_text())
    os.kill(started["pid"], signal.SIGKILL)
    record = experiment.wait(directory, 30)
    assert (record.status, record.reason) == ("Failed", "run.lost")
    assert "gone" in (record.error or {})["message"]
    assert artifacts.read_artifact(directory, "outputs/half") == b"so far"
    marker = f"AZUREML_RUN_ID={directory.run_id}".encode()
    until(lambda: not list(processes.with_environment(marker)))
    assert aml("attach", directory.run_id).returncode == 125
    assert_one_ending(directory)


# --- L3: endings --------------------------------------------------------------------------------------------

ENDINGS = {
    "returns": ("print(1)", "Completed", "", 0, None),
    "exit 0": ("raise SystemExit(0)", "Completed", "", 0, None),
    "exit 3": ("raise SystemExit(3)", "Failed", "run.exit_nonzero", 3, None),
    "exit with text": ("raise SystemExit('bad')", "Failed", "run.exit_nonzero", 1, None),
    "exit 255": ("import os; os._exit(255)", "Failed", "run.exit_nonzero", 255, None),
    "leaves at once": ("import os; os._exit(0)", "Completed", "", 0, None),
    "raises": ("1/0", "Failed", "run.exit_nonzero", 1, None),
    "does not parse": ("def", "Failed", "run.exit_nonzero", 1, None),
    "terminates itself": ("import os; os.kill(os.getpid(), 15)", "Failed", "run.signal", None, 15),
    "is killed": ("import os; os.kill(os.getpid(), 9)", "Failed", "run.signal", None, 9),
    "dumps core": ("import os; os.abort()", "Failed", "run.signal", None, 6),
    "reads bad memory": ("import ctypes; ctypes.string_at(0)", "Failed", "run.signal", None, 11),
    "hangs up": ("import os; os.kill(os.getpid(), 1)", "Failed", "run.signal", None, 1),
    "interrupts itself": (
        "import os; os.kill(os.getpid(), 2); import time; time.sleep(5)",
        "Failed",
        None,
        None,
        None,
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_L3_every_ending_of_a_script_is_recorded_as_it_was(project: Path, name: str) -> None:
    source, status, reason, code, number = ENDINGS[name]
    record = run(
        project, f"open('outputs/kept', 'w').write('x')\n{source}" if name != "does not parse" else source
    )
    assert record.status == status
    if reason is not None:
        assert (record.reason, record.exit_code, record.signal) == (reason, code, number)
    assert record.artifacts == (name != "does not parse")
    if status == "Failed":
        assert record.error
        assert record.error["message"]
        assert record.error["hint"]


def test_L3_a_stopped_script_is_running_and_goes_on(project: Path) -> None:
    source = "import os\nprint(os.getpid(), flush=True)\nos.kill(os.getpid(), 19)\nprint('done')"
    directory = submit(project, source)
    pid = int(until(lambda: os.path.exists(directory.log) and Path(directory.log).read_text().strip()))
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T")
    time.sleep(0.5)
    assert runs.read_record(directory).status == "Running"
    os.kill(pid, signal.SIGCONT)
    assert experiment.wait(directory, 30).status == "Completed"


def test_L3_a_stopped_script_can_be_canceled(project: Path) -> None:
    directory = submit(project, "import os\nprint('ready', flush=True)\nos.kill(os.getpid(), 19)")
    wait_for(directory, "ready")
    experiment.cancel(directory, kill=True)
    assert experiment.wait(directory, 30).status == "Canceled"


# --- L5, L6: what a script leaves or refuses ----------------------------------------------------------------

DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("pid", "w").write(str(os.getpid()))
        os.execve("/bin/sleep", ["sleep", "300"], {})
    os._exit(0)
while not os.path.exists("pid") or not open("pid").read():
    time.sleep(0.01)
print("main is done")
"""


def test_L5_a_daemon_that_holds_the_output_does_not_hold_the_run(project: Path) -> None:
    directory = submit(project, DAEMON)
    record = experiment.wait(directory, 100)  # the daemon would live for 300 s
    assert record.status == "Completed"
    pid = int(Path(directory.work, "pid").read_text())
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert aml("logs", directory.run_id).stdout == "main is done\n"


STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
children = 20
for _ in range(children):
    if os.fork() == 0:
        time.sleep(300)
print("ready", flush=True)
time.sleep(300)
"""


@pytest.mark.slow
def test_L6_a_tree_that_ignores_the_request_is_killed_after_its_grace(project: Path) -> None:
    directory = submit(project, STUBBORN)
    wait_for(directory, "ready")
    done = aml("stop", directory.run_id)
    assert done.stdout == f"{directory.run_id} Canceled\n"
    assert json.loads(Path(directory.job, "exit.json").read_text())["cancel"] == "kill"
    marker = f"AZUREML_RUN_ID={directory.run_id}".encode()
    assert not list(processes.with_environment(marker))


def test_L6_stop_with_kill_asks_nobody_first(project: Path) -> None:
    told = "signal.signal(signal.SIGTERM, lambda *_: print('was asked', flush=True))"
    directory = submit(project, STUBBORN.replace("signal.signal(signal.SIGTERM, signal.SIG_IGN)", told))
    wait_for(directory, "ready")
    assert data("stop", "--kill", directory.run_id)[0]["status"] == "Canceled"
    assert "was asked" not in aml("logs", directory.run_id).stdout
    marker = f"AZUREML_RUN_ID={directory.run_id}".encode()
    assert not list(processes.with_environment(marker))


# --- L7: a cancel that races the end ------------------------------------------------------------------------


def race(project: Path, count: int, seed: int) -> set[str]:
    """Cancel short runs after random delays; the endings that were met."""
    dice = random.Random(seed)
    seen = set()
    for number in range(count):
        directory = submit(project, f"import time; time.sleep({dice.random() * 0.03})")
        time.sleep(dice.random() * 0.12)
        experiment.cancel(directory, kill=dice.random() < 0.2)
        experiment.wait(directory, 30)
        record = assert_one_ending(directory)
        exit_ = (
            json.loads(Path(directory.exit_json).read_text()) if os.path.exists(directory.exit_json) else {}
        )
        # whichever commit came first: what the runtime wrote is what the record says
        if record.status == "Completed":
            assert (exit_["exit_code"], exit_["cancel"]) == (0, None), (seed, number)
        else:
            assert record.status == "Canceled", (seed, number, record.reason, record.error)
        seen.add(record.status)
    return seen


@pytest.mark.slow
def test_L7_a_cancel_that_races_the_end_leaves_exactly_one_ending(project: Path) -> None:
    assert race(project, 100, 7) == {"Completed", "Canceled"}


@pytest.mark.soak
def test_L7_a_thousand_races_leave_one_ending_each(project: Path) -> None:
    assert race(project, 1000, time.time_ns()) == {"Completed", "Canceled"}


@pytest.mark.slow
def test_L7_many_who_cancel_at_once_make_one_ending(project: Path) -> None:
    directory = submit(project, "print('ready', flush=True)\nimport time; time.sleep(60)")
    wait_for(directory, "ready")
    stops = [
        subprocess.Popen(
            [*AML, "stop", directory.run_id], env=environment(), stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    assert {one.communicate(timeout=30)[0] for one in stops} == {f"{directory.run_id} Canceled\n"}
    assert_one_ending(directory)


# --- L8, L9: what a script does to its own folders ----------------------------------------------------------

OUTPUTS = {
    "removed": "import shutil; shutil.rmtree('outputs')",
    "a file": "import os; os.rmdir('outputs'); open('outputs', 'w').write('x')",
    "a link": "import os; os.rmdir('outputs'); os.symlink('/etc', 'outputs')",
    "closed": "import os; os.chmod('outputs', 0)",
    "full of links": "import os; os.symlink('/etc/passwd', 'outputs/a'); os.symlink('/etc', 'outputs/b')",
    "full of pipes": "import os; os.mkfifo('outputs/fifo')",
    "a loop": "import os; os.symlink('.', 'outputs/here')",
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_L8_whatever_becomes_of_outputs_the_ending_stands_and_nothing_comes_from_outside(
    project: Path, home: str, what: str
) -> None:
    directory = submit(project, OUTPUTS[what])
    record = experiment.wait(directory, 30)
    assert (record.status, record.exit_code) == ("Completed", 0)
    passwd = Path("/etc/passwd").read_bytes()
    for path in Path(home, "artifacts").rglob("*"):
        assert not path.is_symlink()
        assert not path.is_file() or path.read_bytes() != passwd
    if what in ("full of links", "full of pipes", "a loop"):
        assert record.warnings, what
    assert data("check") == []


def tree(folder: Path) -> str:
    """One hash of every name and byte of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(os.fsencode(path.relative_to(folder)) + (path.read_bytes() if path.is_file() else b"/"))
    return digest.hexdigest()


def test_L9_a_script_that_rewrites_everything_leaves_the_project_as_it_was(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data/numbers.csv").write_text("1,2\n")
    (project / "script.py").write_text(
        "import os, pathlib\n"
        "here = pathlib.Path.cwd()\n"
        "for path in list(here.rglob('*')):\n"
        "    if path.is_file(): path.write_text('gone')\n"
        "os.chdir('/')\n"
        "(here / 'outputs/result').write_text('kept')\n"
    )
    before = tree(project)
    directory = experiment.submit(Request(script="script.py"))
    record = experiment.wait(directory, 30)
    assert tree(project) == before
    assert record.status == "Completed"
    assert artifacts.read_artifact(directory, "outputs/result") == b"kept"
    assert set(record.not_kept) == {"script.py", "data/numbers.csv"}
    # and the next run gets the project, not what the first one made of it
    assert experiment.wait(experiment.submit(Request(script="script.py")), 30).status == "Completed"


@pytest.mark.parametrize("gone", ["work", "job"])
def test_L9_a_script_that_deletes_its_run_folder_is_still_in_the_history(project: Path, gone: str) -> None:
    source = f"import os, shutil\nshutil.rmtree(os.environ['AML_JOB'] + '/../{gone}')"
    directory = submit(project, source)
    record = experiment.wait(directory, 30)
    assert record.status in TERMINAL
    if gone == "job":
        assert (record.status, record.reason) == ("Failed", "run.lost")
    assert data("runs")[0]["run_id"] == directory.run_id


def test_L9_a_script_that_deletes_the_whole_run_leaves_the_rest_alone(project: Path, home: str) -> None:
    first = submit(project, "print(1)")
    experiment.wait(first, 30)
    second = submit(project, "import os, shutil\nshutil.rmtree(os.environ['AML_JOB'] + '/..')")
    until(lambda: os.path.exists(second.run_json) and runs.load_record(second).ended)
    lost = runs.load_record(second)
    assert (lost.status, lost.reason) == ("Failed", "run.lost")
    assert [row["run_id"] for row in data("runs")] == [second.run_id, first.run_id]
    # and who follows it is told the same
    done = aml("run", "local", "script.py")
    assert done.returncode == 125
    assert "Traceback" not in done.stderr
    assert data("show", first.run_id)["status"] == "Completed"


# --- L12: many at once --------------------------------------------------------------------------------------

NOTEBOOK = """
import sys
from aml_jupyter.experiment import Request, submit, wait
sys.stdin.readline()
me, count = sys.argv[1], int(sys.argv[2])
found = [submit(Request(script="script.py", arguments=(me, str(i)))) for i in range(count)]
for one in found:
    record = wait(one, 120)
    print(one.run_id, record.status, record.run_number, flush=True)
"""


def submit_together(project: Path, notebooks: int, each: int) -> list[tuple[str, str, int]]:
    """Several processes submit at the same moment; (run id, status, number) of every run."""
    (project / "script.py").write_text(
        "import os, sys\nopen('outputs/who', 'w').write(' '.join(sys.argv[1:]))\n"
        "assert os.listdir('outputs') == ['who']\n"
    )
    command = [sys.executable, "-c", NOTEBOOK]
    kernels = [
        subprocess.Popen(
            [*command, str(number), str(each)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(notebooks)
    ]
    for kernel in kernels:
        assert kernel.stdin
        kernel.stdin.write("go\n")
        kernel.stdin.flush()
    found = []
    for kernel in kernels:
        out, err = kernel.communicate(timeout=200)
        assert not err
        found += [line.split() for line in out.splitlines()]
    return [(run_id, status, int(number)) for run_id, status, number in found]


@pytest.mark.slow
def test_L12_a_hundred_submits_of_processes_and_two_notebooks_are_a_hundred_runs(
    project: Path, home: str
) -> None:
    found = submit_together(project, 2, 35) + submit_together(project, 6, 5)
    assert len({run_id for run_id, _, _ in found}) == 100
    assert {status for _, status, _ in found} == {"Completed"}
    assert sorted(number for _, _, number in found) == list(range(1, 101))
    rows = data("runs", "--limit", "1000")
    assert {row["run_id"] for row in rows} == {run_id for run_id, _, _ in found}
    said = [artifacts.read_artifact(one, "outputs/who") for one in runs.all_directories(home)]
    # each isolated, and each what was asked for
    assert len(said) == 100
    assert len(set(said)) == 35 * 2 + 4 * 5
    assert data("check") == []


# --- L14: clocks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-365 * 86400, -3600, 3600, 365 * 86400])
def test_L14_a_clock_that_jumped_neither_loses_a_run_nor_bends_its_duration(
    project: Path, jump: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = submit(project, UNTIL_TOLD)
    wait_for(directory, "ready")
    real, real_ns = time.time, time.time_ns
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: real() + jump)
        clock.setattr(time, "time_ns", lambda: real_ns() + jump * 10**9)
        assert runs.read_record(directory).status == "Running"
        other = experiment.submit(Request(script="script.py"))
        wait_for(other, "ready")
        assert runs.read_record(other).status == "Running"
    for one in (directory, other):
        Path(one.work, "go").touch()
        record = experiment.wait(one, 30)
        assert record.status == "Completed"
        assert 0 <= (record.duration or 0) < 60
        assert all(0 <= spent < 60 for spent in record.phases.values())
    assert {row["run_id"] for row in data("runs")} == {directory.run_id, other.run_id}


@pytest.mark.slow
@pytest.mark.parametrize("jump", ["-1y", "+1y", "-1h", "+1h"])
def test_L14_a_whole_run_under_another_clock(project: Path, jump: str) -> None:
    need("faketime")
    (project / "script.py").write_text("import time; time.sleep(0.2); print('done')")
    command = ["faketime", "-f", jump, *AML, "run", "local", "script.py"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    record = data("show")
    assert 0.1 < record["duration"] < 30
    assert data("check") == []
