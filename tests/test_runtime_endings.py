"""How a job is ended: by itself, by a signal, by its time limit, and with all that it started."""

from __future__ import annotations

import os
import random
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.runtime_job import NEWEST, OLDEST, SENDER, VERSIONS, RuntimeJob, alive

POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("bye"), sys.exit(0)))
print("ready", flush=True)
time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
# forks twice, leaves session and group, clears its environment, keeps standard output
DAEMON = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {prepare}
        sys.stdout.flush()
        os.write(1, b"%d\\n" % os.getpid())
        os.execve(sys.executable, [sys.executable, "-S", "-c", {code!r}], {{}})
    os._exit(0)
os.wait()
"""
STUBBORN_CODE = "import signal,time;signal.signal(15,signal.SIG_IGN);print(1,flush=True);time.sleep(60)"


@pytest.fixture(params=sorted({OLDEST, NEWEST}))
def python(request: pytest.FixtureRequest) -> str:
    return VERSIONS[request.param]


def started(tmp_path: Path, script: str, python: str = VERSIONS[NEWEST], **request: object) -> RuntimeJob:
    job = RuntimeJob(tmp_path, script, python, **request)
    job.start()
    job.wait_for_log(b"ready\n")
    return job


def test_cancel_lets_the_script_end_by_itself(tmp_path: Path, python: str) -> None:
    job = started(tmp_path, POLITE, python)
    job.signal()
    ending = job.wait()
    assert (ending["exit_code"], ending["signal"], ending["cancel"]) == (0, None, "terminate")
    assert job.log == b"ready\nbye\n"


def test_a_script_that_does_not_listen_to_cancel_says_signal_15(tmp_path: Path) -> None:
    job = started(tmp_path, "import time; print('ready', flush=True); time.sleep(60)")
    job.signal()
    ending = job.wait()
    assert (ending["exit_code"], ending["signal"], ending["cancel"]) == (None, signal.SIGTERM, "terminate")


def test_L6_a_script_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path, python: str) -> None:
    told = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), print('still here', flush=True)))"
    script = STUBBORN.replace("signal.signal(signal.SIGTERM, signal.SIG_IGN)", told)
    job = started(tmp_path, script.replace("time.sleep(60)", "\nwhile True: time.sleep(60)"), python, grace=2)
    job.signal()
    ending = job.wait()
    assert b"still here" in job.log
    assert (ending["exit_code"], ending["signal"], ending["cancel"]) == (None, signal.SIGKILL, "kill")
    assert ending["oom"] is False


@pytest.mark.parametrize("signals", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGUSR1]])
def test_a_second_request_and_sigusr1_kill_at_once(tmp_path: Path, signals: list[int]) -> None:
    endless = STUBBORN.replace("time.sleep(60)", "time.sleep(1000)")
    job = started(tmp_path, endless, grace=1000)
    for number in signals:
        job.signal(number)
        time.sleep(0.1)
    ending = job.wait(timeout=100)
    assert (ending["signal"], ending["cancel"]) == (signal.SIGKILL, "kill")


def test_a_time_limit_ends_the_script(tmp_path: Path, python: str) -> None:
    job = started(tmp_path, POLITE, python, timeout=0.6)
    ending = job.wait()
    assert (ending["exit_code"], ending["timeout"], ending["cancel"]) == (0, True, None)
    assert ending["duration"] >= 0.6


def test_a_time_limit_kills_what_ignores_it(tmp_path: Path) -> None:
    ending = started(tmp_path, STUBBORN, timeout=0.5, grace=0.3).wait()
    assert (ending["signal"], ending["timeout"], ending["cancel"]) == (signal.SIGKILL, True, None)


def test_cancel_wakes_a_stopped_script(tmp_path: Path) -> None:
    script = POLITE.replace(
        "time.sleep(60)", "import os; os.kill(os.getpid(), signal.SIGSTOP); time.sleep(60)"
    )
    job = started(tmp_path, script)
    time.sleep(0.2)
    job.signal()
    ending = job.wait()
    assert (ending["exit_code"], ending["cancel"]) == (0, "terminate")


def test_cancel_reaches_processes_in_sessions_of_their_own(tmp_path: Path, python: str) -> None:
    script = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
nested = "import subprocess; subprocess.call(['sleep', '60'])"
grandchild = subprocess.Popen([sys.executable, "-S", "-c", nested])
print(child.pid, grandchild.pid, flush=True)
print("ready", flush=True)
time.sleep(60)
"""
    job = started(tmp_path, script, python)
    pids = [int(pid) for pid in job.log.split()[:2]]
    job.signal()
    job.wait()
    assert not any(alive(pid) for pid in pids)


@pytest.mark.slow
@pytest.mark.parametrize("stubborn", [False, True])
def test_L5_a_daemon_that_holds_the_output_neither_survives_nor_delays_the_end(
    tmp_path: Path, python: str, stubborn: bool
) -> None:
    code = STUBBORN_CODE if stubborn else "import time; time.sleep(60)"
    script = DAEMON.format(prepare="pass", code=code) + "time.sleep(0.3); print('main over')"
    job = RuntimeJob(tmp_path, script, python)
    ending = job.run(timeout=10)
    pid = int(job.log.split()[0])
    assert not alive(pid)
    assert ending["exit_code"] == 0
    assert ending["leftovers"] == 1
    assert b"main over" in job.log
    # the time of the main process alone
    assert ending["duration"] < 2
    assert _seconds_to_the_record(ending) < 5


def _seconds_to_the_record(ending: dict[str, Any]) -> float:
    start, end = (datetime.fromisoformat(ending[name].rstrip("Z")) for name in ("start_utc", "end_utc"))
    return (end - start).total_seconds() - float(ending["duration"])


def test_L5_a_daemon_that_closed_every_descriptor_is_found(tmp_path: Path) -> None:
    script = DAEMON.format(
        prepare="print('pid', os.getpid(), flush=True)",
        code="import os,time; os.closerange(0, 99); time.sleep(60)",
    )
    job = RuntimeJob(tmp_path, script)
    ending = job.run(timeout=10)
    assert ending["leftovers"] == 1
    assert not alive(int(job.log.split()[1]))


@pytest.mark.slow
def test_L5_a_process_that_replaces_itself_all_the_time_is_caught(tmp_path: Path) -> None:
    script = """
import os, time
if os.fork() == 0:
    while True:  # every generation in a session of its own, living for a moment
        if os.fork():
            os._exit(0)
        os.setsid()
time.sleep(0.3)
"""
    job = RuntimeJob(tmp_path, script)
    job.run(timeout=60)
    assert job.warnings() == []
    marker = f"AML_JOB={job.job}".encode()
    assert [pid for pid in os.listdir("/proc") if pid.isdigit() and _has(int(pid), marker)] == []


def _has(pid: int, marker: bytes) -> bool:
    try:
        return alive(pid) and marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def test_helpers_that_end_with_their_parent_are_not_leftovers(tmp_path: Path, python: str) -> None:
    script = """
import multiprocessing, multiprocessing.shared_memory
if __name__ == "__main__":
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=10)
    memory.close(); memory.unlink()
    print("ready")
"""
    ending = RuntimeJob(tmp_path, script, python).run()
    assert (ending["exit_code"], ending["leftovers"]) == (0, 0)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_L6_thousands_of_children_end_with_the_run(tmp_path: Path, count: int) -> None:
    script = f"""
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
made = 0
for n in range({count}):
    try:
        pid = os.fork()
    except OSError:
        break
    if pid == 0:
        if n % 3 == 0: os.setsid()
        signal.pause()
    made += 1
print("made", made)
print("ready", flush=True)
time.sleep(100)
"""
    job = RuntimeJob(tmp_path, script, grace=0.5)
    job.start()
    job.wait_for_log(b"ready\n", timeout=60)
    job.signal()
    ending = job.wait(timeout=60)
    assert ending["cancel"] == "kill"
    marker = f"AML_JOB={job.job}".encode()
    assert [pid for pid in os.listdir("/proc") if pid.isdigit() and _has(int(pid), marker)] == []


@pytest.mark.slow
def test_L6_a_fork_bomb_ends_with_the_run(tmp_path: Path) -> None:
    # bounded by a count so that a failure of this test does not take the machine with it
    script = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
end = time.monotonic() + 100
depth = 0
while time.monotonic() < end:
    if depth < 7:  # parent and child alike: 128 processes
        os.fork()
        depth += 1
    time.sleep(0.02)
"""
    job = started(tmp_path, script, grace=0.5)
    time.sleep(0.3)
    job.signal()
    ending = job.wait(timeout=60)
    assert ending["cancel"] == "kill"
    marker = f"AML_JOB={job.job}".encode()
    assert [pid for pid in os.listdir("/proc") if pid.isdigit() and _has(int(pid), marker)] == []


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [40, pytest.param(1000, marks=pytest.mark.soak)])
def test_L7_a_cancel_that_meets_the_end_leaves_one_ending(tmp_path: Path, rounds: int) -> None:
    seed = random.Random(11)
    found = set()
    for number in range(rounds):
        job = RuntimeJob(tmp_path / str(number), command=["sleep", "0.02"])
        job.start()
        job.wait_for((job.job / "started.json").exists)
        time.sleep(seed.uniform(0, 0.05))
        job.signal()
        ending = job.wait()
        assert len(job.events("ended")) == 1
        found.add((ending["cancel"], ending["exit_code"], ending["signal"]))
    # asked before the end or after it, and nothing between
    assert found <= {(None, 0, None), ("terminate", None, 15), ("terminate", 0, None)}


def test_a_cancel_in_the_moment_of_the_start_is_not_lost(tmp_path: Path) -> None:
    for number in range(15):
        job = RuntimeJob(tmp_path / str(number), command=["sleep", "20"])
        job.start()
        job.wait_for((job.job / "started.json").exists)
        job.signal()
        ending = job.wait(timeout=10)
        assert (ending["cancel"], ending["signal"]) == ("terminate", 15)


def test_output_of_the_last_moment_is_in_the_log(tmp_path: Path, python: str) -> None:
    script = SENDER + "os.write(1, b'x' * 60000); send_json(type='metric', name='last', value=1); os._exit(0)"
    job = RuntimeJob(tmp_path, script, python)
    job.run()
    assert len(job.log) == 60000
    assert [event["name"] for event in job.events("metric")] == ["last"]


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["_ctypes", "_json"])
def test_an_interpreter_without_a_part_still_runs_and_ends_its_job(
    tmp_path: Path, python: str, missing: str
) -> None:
    code = "import time; time.sleep(60)"
    script = DAEMON.format(prepare="pass", code=code) + "time.sleep(0.3); print('main over')"
    job = RuntimeJob(tmp_path, script.replace("], {})", "], os.environ)"), python)
    (job.job / "runtime" / f"{missing}.py").write_text("raise ImportError('left out')")
    ending = job.run(timeout=10)
    assert (ending["exit_code"], ending["leftovers"]) == (0, 1)
    assert not alive(int(job.log.split()[0]))
    assert job.diagnosis() == ""
