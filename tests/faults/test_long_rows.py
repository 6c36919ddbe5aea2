"""What only shows after many runs, and what a system must have before the first.

AML_SOAK_RUNS says how many runs `make soak` does; 1,000 unless said.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import artifacts, experiment, processes, runs
from aml_jupyter.experiment import Request
from aml_jupyter.starting import Standby
from aml_jupyter.supervisor import supervise
from tests.notebooks import Notebook
from tests.requirements import need
from tests.terminal import until

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# --- X4: floors ---------------------------------------------------------------------------------------------


def floor(requirement: str) -> tuple[str, tuple[int, ...]]:
    found = re.match(r"([A-Za-z0-9_.-]+)(?:\[.*\])?>=([0-9.]+)", requirement)
    assert found, f"{requirement} has no floor"
    return found[1].lower(), tuple(int(part) for part in found[2].split("."))


def test_X4_no_dependency_may_be_older_than_its_security_fixes() -> None:
    """jupyter-server 2.20 has six fixes of 2026 for what it serves; every dependency has a floor at all."""
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = described["optional-dependencies"]
    asked = [*described["dependencies"], *(one for extra in extras.values() for one in extra)]
    floors = dict(floor(one) for one in asked)
    assert floors["jupyter-server"] >= (2, 20)
    assert floors.get("jupyterlab", (4, 6, 2)) >= (4, 6, 2)
    assert floors["pyyaml"] >= (6, 0, 1)


# --- X5: nothing grows --------------------------------------------------------------------------------------

MEASURED = """
import gc, os, threading
gc.collect()
fields = open("/proc/self/statm").read().split()
print("MEASURED", len(os.listdir("/proc/self/fd")), len(threading.enumerate()), int(fields[1]) * 4096)
"""


def open_files() -> list[str]:
    """What the descriptors of this process mean, its own look apart."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return sorted(found)


def test_X5_a_supervised_run_leaves_no_descriptor_open(project: Path, home: str) -> None:
    """Submit, see through, collect a hundred folders, list and check, all in this process."""
    (project / "script.py").write_text(
        "import os\nfor n in range(100):\n"
        "    os.makedirs(f'outputs/{n}'); open(f'outputs/{n}/x', 'w').write('x' * n)\n"
        "os.symlink('1/x', 'outputs/link'); os.mkfifo('outputs/fifo'); open('lost', 'w')\n"
    )
    before = open_files()
    directory = experiment.write(experiment.plan(Request(script="script.py")))
    assert supervise(directory.path, {})
    record = runs.load_record(directory)
    assert (record.status, record.artifacts, record.not_kept) == ("Completed", 101, ("lost",))
    with runs.History(home) as history:
        history.rows()
        runs.check(home, history=history)
    assert artifacts.read_artifact(directory, "outputs/7/x") == b"x" * 7
    assert open_files() == before


def test_X5_a_thousand_folders_of_outputs_need_few_descriptors(project: Path, home: str) -> None:
    (project / "script.py").write_text(
        "import os\nfor n in range(1000):\n"
        "    os.makedirs(f'outputs/{n}'); open(f'outputs/{n}/x', 'w').write('x')\n"
    )
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from aml_jupyter.experiment import Request, submit, wait\n"
        "record = wait(submit(Request(script='script.py')), 60)\n"
        "print(record.status, record.artifacts_state, record.artifacts)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert done.stdout == "Completed stored 1000\n", done.stdout + done.stderr


def measure(notebook: Notebook) -> tuple[int, int, int]:
    """Descriptors, threads and resident bytes of a kernel."""
    cell = notebook.run(MEASURED)
    _, fds, threads, size = cell.text().split()
    return int(fds), int(threads), int(size)


def run_often(project: Path, home: str, times: int) -> tuple[list[tuple[int, int, int]], int]:
    """What a kernel holds after a tenth, two tenths ... of all runs, and how many processes stayed."""
    (project / "script.py").write_text("print('x' * 1000); open('outputs/x', 'w').write('x')")
    notebook = Notebook(str(project), AML_HOME=home)
    try:
        notebook.run("%load_ext aml_jupyter")
        found = []
        for number in range(times):
            line = "%amlrun local script.py" if number % 2 else "%%amlrun local\nprint('x' * 1000)\n1 + 1"
            cell = notebook.run(line)
            assert cell.status == "ok", cell.error
            notebook.cells.clear()
            if (number + 1) % max(1, times // 10) == 0:
                found.append(measure(notebook))
        # the one that is started ahead may stay
        left = list(processes.with_environment(f"AML_HOME={home}".encode()))
        return found, len(left)
    finally:
        notebook.close()


def assert_flat(found: list[tuple[int, int, int]], slack: int) -> None:
    """From the second tenth on, nothing grows: descriptors and threads exactly, memory within a slack."""
    fds, threads, sizes = zip(*found[1:], strict=True)
    assert max(fds) - fds[0] <= 2, fds
    assert max(threads) - threads[0] <= 1, threads
    assert sizes[-1] - sizes[0] <= slack, sizes


@pytest.mark.slow
def test_X5_thirty_runs_of_a_kernel_leave_nothing_behind(project: Path, home: str) -> None:
    found, left = run_often(project, home, 30)
    assert_flat(found, 8 << 20)
    # the kernel, and the supervisor it keeps ready
    assert left <= 3
    assert len(runs.all_directories(home)) == 30


@pytest.mark.soak
def test_X5_N20_a_thousand_runs_of_a_kernel_leave_nothing_behind(project: Path, home: str) -> None:
    times = int(os.environ.get("AML_SOAK_RUNS", "1000"))
    found, left = run_often(project, home, times)
    # IPython itself keeps each cell and its result
    assert_flat(found, max(8 << 20, found[0][2] // 20 + times * 10_000))
    assert left <= 3
    assert len(runs.all_directories(home)) == times
    assert runs.check(home) == []
    with runs.History(home) as history:
        assert {row["status"] for row in history.rows(limit=None)} == {"Completed"}
        assert history.count() == times


def test_X5_supervisors_that_are_kept_ready_end_with_who_keeps_them(project: Path, home: str) -> None:
    standby = Standby()
    before = open_files()
    for _ in range(3):
        standby.refill()
        standby.refill()
        standby.close()
    assert open_files() == before
    marker = f"AML_HOME={home}".encode()
    until(lambda: [pid for pid in processes.with_environment(marker) if pid != os.getpid()] == [])


# --- X1: another user, while a run goes on ------------------------------------------------------------------


@pytest.fixture
def live(project: Path, home: str) -> Iterator[runs.RunDirectory]:
    (project / "script.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    directory = experiment.submit(Request(script="script.py", secrets={"TOKEN": "planted-secret"}))
    until(lambda: os.path.exists(directory.log) and b"ready" in Path(directory.log).read_bytes())
    yield directory
    experiment.cancel(directory, kill=True)
    experiment.wait(directory, 30)


OTHER = """
import os, socket, sys
socket_path, pids, paths = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
def tried(what, do):
    try:
        do()
    except OSError:
        return
    print("could", what)
def connect():
    one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.connect(socket_path)
    one.send(b"j{}")
tried("connect", connect)
for path in paths:
    tried("read " + path, lambda: open(path, "rb").read())
    tried("write " + path, lambda: open(path, "ab").close())
    tried("list " + path, lambda: os.listdir(path))
    tried("remove " + path, lambda: os.remove(path))
    tried("make in " + path, lambda: open(path + "/x", "x"))
for pid in pids:
    tried("environment of " + pid, lambda: open(f"/proc/{pid}/environ", "rb").read())
    tried("signal " + pid, lambda: os.kill(int(pid), 0))
print("done")
"""


@pytest.mark.root
def test_X1_another_user_reaches_neither_files_nor_socket_nor_processes_of_a_live_run(
    live: runs.RunDirectory, home: str, tmp_path: Path
) -> None:
    need("root")
    # everything above the product's own folder is open, and so are its parents to be sure
    for folder in (tmp_path, *tmp_path.parents, Path(home).parent):
        if str(folder) not in ("/", "/tmp"):
            folder.chmod(0o755)
    sockets = [str(path) for path in Path(live.job).rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
    assert len(sockets) == 1
    mode = Path(sockets[0]).lstat().st_mode & 0o077
    assert mode == 0
    marker = f"AZUREML_RUN_ID={live.run_id}".encode()
    pids = [str(pid) for pid in processes.with_environment(marker)]
    supervisor = runs.supervisor_identity(live)
    assert supervisor is not None
    pids.append(str(supervisor["pid"]))
    paths = [home, *(str(path) for path in Path(home).rglob("*"))]
    other = [need("setpriv"), "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    done = subprocess.run(
        [*other, "/usr/bin/env", "python3", "-c", OTHER, sockets[0], ",".join(pids), *paths],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.stdout == "done\n", done.stdout + done.stderr
    # and nothing listens where everybody may knock
    assert listening(pids) == []


def listening(pids: list[str]) -> list[str]:
    """Addresses on which processes listen, sockets without a file included."""
    inodes = set()
    for pid in pids:
        for name in os.listdir(f"/proc/{pid}/fd"):
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{name}"))
            if found:
                inodes.add(found[1])
    open_to_all = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        lines = Path("/proc/net", table).read_text().splitlines()[1:]
        open_to_all += [line for line in lines if line.split()[9] in inodes]
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[7].startswith("@") and fields[6] in inodes:
            open_to_all.append(line)
    assert socket.AF_UNIX
    return open_to_all


# --- H6: a check while runs come and go ---------------------------------------------------------------------


@pytest.mark.slow
def test_H6_a_check_finds_no_damage_in_runs_that_come_go_on_and_are_removed(project: Path, home: str) -> None:
    (project / "script.py").write_text("print('x'); open('outputs/x', 'w').write('x')")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from aml_jupyter import runs\n"
        "from aml_jupyter.experiment import Request, submit, wait\n"
        "for number in range(13):\n"
        "    directory = submit(Request(script='script.py'))\n"
        "    if number % 2:\n"
        "        wait(directory, 60)\n"
        "        runs.set_labels(directory, note='n')\n"
        "    if number % 4 == 1:\n"
        "        runs.remove(directory)\n"
    )
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    checks = 0
    try:
        while any(process.poll() is None for process in busy):
            found = [one for one in runs.check(home) if one.code.startswith("index.")]
            assert found == []
            checks += 1
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert [process.returncode for process in busy] == [0, 0]
    assert checks > 5
    until(lambda: not runs.unfinished(home))
    assert runs.check(home) == []
