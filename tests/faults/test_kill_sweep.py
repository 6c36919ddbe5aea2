"""T3: the submitter and the supervisor are killed at every call that changes or opens something.

Whatever the moment, the run is there or it is not, it was started at most once, and it ends once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.config import find_project
from aml_jupyter.experiment import Request
from aml_jupyter.runs import RunDirectory
from tests.requirements import need

pytestmark = [pytest.mark.faults, pytest.mark.slow]

PACKAGE_PARENT = str(Path(experiment.__file__).parents[2])
CALLS = (
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "mkdir",
    "fsync",
    "fdatasync",
    "openat",
    "symlink",
    "symlinkat",
    "flock",
    "ftruncate",
)
# the start of another program: posix_spawn and fork end in one of these
STARTS = ("clone", "clone3", "fork", "vfork")
SUBMIT = """
from aml_jupyter.experiment import Request, submit
submit(Request(script="script.py"))
"""
SUPERVISE = """
import sys
sys.path[0] = {parent!r}
from aml_jupyter.supervisor import supervise
supervise({directory!r}, {{}})
"""
SCRIPT = """
import os
with open(os.environ["AZUREML_NATIVE_SHARE_DIRECTORY"] + "started", "a") as file:
    file.write(os.environ["AZUREML_RUN_ID"] + "\\n")
with open("outputs/model.bin", "wb") as file:
    file.write(b"model" * 1000)
print("done")
"""
# asks for its own end, so that the supervisor meets the request at the same moment every time
CANCELED_SCRIPT = (
    SCRIPT
    + """
import json, time
with open(os.environ["AML_JOB"] + "/../cancel", "x") as file:
    json.dump({"format": 1, "mode": "terminate"}, file)
time.sleep(60)
"""
)


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    monkeypatch.chdir(folder)
    return folder


def prepared_run() -> RunDirectory:
    """A run that is written and that nobody supervises yet."""
    return experiment.write(experiment.plan(Request(script="script.py"), find_project()))


def supervise_command(directory: RunDirectory) -> list[str]:
    code = SUPERVISE.format(parent=PACKAGE_PARENT, directory=directory.path)
    return [sys.executable, "-S", "-E", "-s", "-c", code]


def kill_points(command: list[str], below: str) -> list[tuple[str, int]]:
    """(call, how many of it) for every call that names something below a folder or starts a program."""
    trace = Path(below).parent / "trace"
    calls = ",".join((*CALLS, *STARTS))
    traced = ["strace", "-y", "-s", "4096", "-o", str(trace), "-e", f"trace=?{calls.replace(',', ',?')}"]
    subprocess.run([*traced, *command], check=True, timeout=60, stdin=subprocess.DEVNULL)
    seen: Counter[str] = Counter()
    points = []
    for line in trace.read_text(errors="replace").splitlines():
        found = re.match(r"(\w+)\(", line)
        if not found:
            continue
        seen[found[1]] += 1
        if below in line or found[1] in STARTS:
            points.append((found[1], seen[found[1]]))
    return points


def run_and_kill(command: list[str], call: str, number: int) -> bool:
    """Run a command and kill it as it enters the n-th of a call; whether it was killed."""
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    done = subprocess.run(
        ["strace", "-o", "/dev/null", *inject, *command],
        timeout=60,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return done.returncode == -9


def started_runs() -> list[str]:
    share = Path.home() / ".azureml/share/local/default/project/started"
    return share.read_text().split() if share.exists() else []


def assert_ended_once(directory: RunDirectory, status: str, point: object) -> None:
    record = experiment.wait(directory, 30)
    assert record.status == status, (point, record.reason, record.error)
    assert started_runs().count(directory.run_id) == 1, point
    states = [json.loads(line)["status"] for line in Path(directory.status_jsonl).read_text().splitlines()]
    assert states.count(status) <= 1, (point, states)
    model = Path(directory.home, "artifacts/ExperimentRun", directory.run_id, "outputs/model.bin")
    assert model.read_bytes() == b"model" * 1000, point


@pytest.mark.parametrize("ending", ["Completed", "Canceled"])
def test_L2b_H1_a_supervisor_killed_at_any_call_is_replaced_and_nothing_starts_twice(
    project: Path, home: str, ending: str
) -> None:
    need("strace")
    if ending == "Canceled":
        (project / "script.py").write_text(CANCELED_SCRIPT)
    points = kill_points(supervise_command(prepared_run()), home)
    assert len(points) > 10
    killed = 0
    for call, number in points:
        directory = prepared_run()
        killed += run_and_kill(supervise_command(directory), call, number)
        over = runs.phases_over(directory)
        assert_ended_once(directory, ending, (call, number))
        # what is done again comes on top
        phases = runs.load_record(directory).phases
        assert all(phases[name] >= spent for name, spent in over.items()), (call, number, over, phases)
        assert phases.keys() >= {"snapshot", "run", "collect"}
    # a few calls depend on the moment at which the end of the job is noticed
    assert killed > len(points) * 0.8


@pytest.mark.parametrize("which", ["the first", "a later one"])
def test_S14_K4_G1_a_submit_killed_at_any_call_leaves_a_whole_run_or_none(
    project: Path, home: str, which: str
) -> None:
    need("strace")
    command = [sys.executable, "-c", SUBMIT]
    later = which == "a later one"
    if later:
        subprocess.run(command, check=True, timeout=60)
        (project / "data.txt").write_text("the traced one")
    points = kill_points(command, home)
    finish_all(home)
    assert len(points) > 10
    if not later:  # hundreds, most of them of the copy of the installed files
        points = points[::3]
    killed = 0
    for turn, (call, number) in enumerate(points):
        if not later and os.path.exists(home):
            os.rename(home, f"{home}.{turn}")
        # another content each time, so that every step of the snapshot is taken again
        (project / "data.txt").write_text(f"{call} {number}")
        killed += run_and_kill(command, call, number)
        for directory in finish_all(home):
            assert_ended_once(directory, "Completed", (call, number))
    # a few calls depend on what else the machine does
    assert killed > len(points) * 0.8
    (project / "data.txt").write_text("the end")
    last = experiment.submit(Request(script="script.py"))
    assert_ended_once(last, "Completed", "after all")
    codes = {finding.code for finding in runs.check(home)}
    assert codes <= {"run.half_made"}, codes


def finish_all(home: str) -> list[RunDirectory]:
    """Wait for every run that exists and has not ended."""
    found = [one for one in runs.all_directories(home) if os.path.exists(one.run_json)]
    open_ones = [one for one in found if not runs.load_record(one).ended]
    for directory in open_ones:
        experiment.wait(directory, 30)
    return open_ones
