"""`aml exec`: programs that call `az ml` through the shell, as scripts of 2017 do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import az
from aml_jupyter.commands import program
from aml_jupyter.errors import UsageError
from tests.notebooks import Notebook
from tests.requirements import need
from tests.terminal import AML, aml, data, environment

# what a script of 2017 did to try one parameter after the other
LOOP = """
import os
rate = 4
while rate > 0.4:
    os.system('az ml experiment submit -c local ./train.py {}'.format(rate))
    rate = rate / 2
"""


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my project"
    folder.mkdir()
    (folder / "train.py").write_text(
        "import sys\nfrom azureml.logging import get_azureml_logger\n"
        "get_azureml_logger().log('rate', float(sys.argv[1]))\n"
    )
    (folder / "loop.py").write_text(LOOP)
    monkeypatch.chdir(folder)
    # a PATH without an az, whatever this machine has
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("env", "grep", "printf", "pwd", "sh", "sleep", "touch"):
        (programs / name).symlink_to(need(name))
    monkeypatch.setenv("PATH", str(programs))
    return folder


def real_az(folder: Path) -> Path:
    """A program named az that is none of ours; says what it was told."""
    folder.mkdir()
    path = folder / "az"
    path.write_text('#!/bin/sh\necho "the real az: $*"\nexit 3\n')
    path.chmod(0o755)
    return path


def test_a_loop_of_submits_in_a_script_makes_one_run_each(project: Path) -> None:
    done = aml("exec", sys.executable, "loop.py")
    assert done.returncode == 0, done.stderr
    runs = data("runs")
    assert [run["metrics"] for run in reversed(runs)] == [{"rate": 4.0 / 2**n} for n in range(4)]
    assert {run["status"] for run in runs} == {"Completed"}


def test_the_program_gets_its_words_as_they_are(project: Path) -> None:
    words = ["a b", "$(touch made)", ";", "--json", "--", "'", '"', "ü", "*"]
    done = aml("exec", "--", "printf", "%s\n", *words)
    assert done.stdout.splitlines() == words
    assert not (project / "made").exists()


def test_az_gets_its_words_as_they_are(project: Path) -> None:
    (project / "echo.py").write_text("import sys\nprint(sys.argv[1:])\n")
    words = ["a b", "$(touch made)", ";", "--json", "*"]
    code = f"import subprocess; subprocess.run(['az', 'ml', 'experiment', 'submit', 'echo.py', *{words!r}])"
    assert aml("exec", sys.executable, "-c", code).stdout == f"{words!r}\n"
    assert not (project / "made").exists()


def test_exit_status_and_signal_are_those_of_the_program(project: Path) -> None:
    assert aml("exec", "sh", "-c", "exit 7").returncode == 7
    assert aml("exec", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM
    (project / "fails.py").write_text("import sys; sys.exit(9)")
    assert aml("exec", "az", "ml", "experiment", "submit", "-c", "local", "fails.py").returncode == 9


def test_a_signal_to_aml_is_one_to_the_program(project: Path) -> None:
    started = subprocess.Popen([*AML, "exec", "sh", "-c", "echo ready; exec sleep 60"],
                               env=environment(), stdout=subprocess.PIPE)  # fmt: skip
    assert started.stdout
    assert started.stdout.readline() == b"ready\n"
    started.send_signal(signal.SIGINT)
    assert started.wait(30) == -signal.SIGINT
    started.stdout.close()


def test_signals_that_python_ignores_reach_programs_as_usual(project: Path) -> None:
    line = ["grep", "SigIgn", "/proc/self/status"]
    direct = subprocess.run(line, capture_output=True, text=True).stdout
    assert aml("exec", *line).stdout == direct


def test_a_program_that_is_not_there_is_told_as_a_shell_does(project: Path) -> None:
    done = aml("exec", "no-such-program", "x")
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == "aml: 'no-such-program' cannot be run: there is no such program\n"
    (project / "data.txt").write_text("x")
    assert aml("exec", "./data.txt").returncode == 126
    assert aml("exec").returncode == 2
    assert "aml exec python run.py" in aml("exec").stderr


def test_another_folder_may_be_named(project: Path, tmp_path: Path) -> None:
    assert aml("exec", "--project", str(project), "pwd", cwd=tmp_path).stdout == f"{project}\n"
    assert aml("exec", "--project", "nowhere", "pwd").returncode == 2


def test_everything_else_is_for_the_real_az(project: Path, tmp_path: Path) -> None:
    real_az(tmp_path / "bin")
    path = f"{os.environ['PATH']}:{tmp_path / 'bin'}"
    for line in ("login", "--version", "storage blob list --query [0]", "ml job list"):
        done = aml("exec", "az", *line.split(), env={"PATH": path})
        assert (done.returncode, done.stdout) == (3, f"the real az: {line}\n")
    assert aml("exec", "az", "ml", "runconfigurations", "list", env={"PATH": path}).returncode == 0


def test_without_a_real_az_what_is_missing_is_told(project: Path) -> None:
    done = aml("exec", "az", "login")
    assert done.returncode == 127
    assert "install the Azure CLI" in done.stderr
    done = aml("exec", "az", "--version")
    assert done.returncode == 0
    assert "aml_jupyter" in done.stdout
    done = aml("exec", "az", "ml", "project", "create", "-n", "x")
    assert done.returncode == 2
    assert "A project is a folder" in done.stderr


def test_an_az_of_another_home_is_not_the_real_one(project: Path, tmp_path: Path) -> None:
    other = {"AML_HOME": str(tmp_path / "other")}
    done = aml("exec", *AML, "exec", "az", "login", env=other)
    assert done.returncode == 127
    inner = [*AML, "exec", "env", f"AML_HOME={tmp_path / 'third'}", *AML, "exec", "az", "login"]
    assert subprocess.run(inner, env=environment(), capture_output=True).returncode == 127


def test_a_damaged_az_is_written_anew(home: str) -> None:
    path = Path(program.place_az()) / "az"
    whole = path.read_bytes()
    before = path.stat().st_mtime_ns
    program.place_az()
    assert path.stat().st_mtime_ns == before
    path.write_bytes(b"")
    program.place_az()
    assert path.read_bytes() == whole
    path.chmod(0o600)
    program.place_az()
    assert os.access(path, os.X_OK)


def test_a_home_that_cannot_be_on_a_path_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AML_HOME", str(tmp_path / "a:b"))
    with pytest.raises(UsageError, match="PATH"):
        program.place_az()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("experiment submit -c local a.py --x", "experiment submit -c local a.py --x"),
        ("runconfigurations list", "runconfiguration list"),
        ("execute start -c local a.py", "experiment submit -c local a.py"),
        ("execute -c local a.py start", "experiment submit -c local a.py start"),
        ("computecontext attach", "computetarget attach"),
        ("-h", "--help"),
        ("", "--help"),
    ],
)
def test_older_spellings_mean_the_same(line: str, found: str) -> None:
    assert az.translate(line.split()) == found.split()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("exec") / "project"
    folder.mkdir()
    (folder / "train.py").write_text("import sys\nprint('rate', sys.argv[1])\n")
    (folder / "loop.py").write_text(LOOP)
    found = Notebook(str(folder), AML_HOME=str(folder.parent / "home"), HOME=str(folder.parent))
    try:
        assert found.run("%load_ext aml_jupyter").status == "ok"
        yield found
    finally:
        found.close()


@pytest.mark.slow
def test_a_notebook_runs_such_a_script_below_the_cell(kernel: Notebook) -> None:
    cell = kernel.run(f"%aml exec {sys.executable} loop.py")
    assert cell.status == "ok", cell.error
    assert cell.text("stderr").count("RunId: ") == 4, cell.streams
    assert [line for line in cell.text().splitlines() if line.startswith("rate")] == [
        f"rate {rate}" for rate in (4, 2.0, 1.0, 0.5)
    ]


@pytest.mark.slow
def test_the_stop_button_interrupts_a_program_and_then_kills_it(kernel: Notebook) -> None:
    cell = kernel.start("%aml exec sh -c 'echo ready; exec sleep 600'")
    kernel.until(lambda: "ready" in cell.text())
    kernel.interrupt()
    kernel.finish(cell)
    assert cell.status == "error"
    assert "exit status -2" in cell.error
    loop = "trap 'echo heard' INT; echo ready; while :; do sleep 0.1; done"
    cell = kernel.start(f'%aml exec sh -c "{loop}"')
    kernel.until(lambda: "ready" in cell.text())
    kernel.interrupt()
    kernel.until(lambda: "heard" in cell.text())
    kernel.interrupt()
    kernel.finish(cell)
    assert "exit status -9" in cell.error


@pytest.mark.slow
def test_a_program_that_fails_stops_a_notebook(kernel: Notebook) -> None:
    cell = kernel.run("%aml exec sh -c 'echo out; echo err >&2; exit 4'")
    assert cell.status == "error"
    assert (cell.text(), cell.text("stderr")) == ("out\n", "err\n")
    assert "exit status 4" in json.dumps(cell.error)
    assert kernel.run("%aml exec no-such-program").status == "error"
