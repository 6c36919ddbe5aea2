"""What starts, streams and records a job at the target, on the oldest and the newest interpreter."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runtime_job import NEWEST, OLDEST, VERSIONS, RuntimeJob, alive, start_time


@pytest.fixture(params=sorted({OLDEST, NEWEST}))
def python(request: pytest.FixtureRequest) -> str:
    return VERSIONS[request.param]


def test_a_script_leaves_its_output_and_its_ending(tmp_path: Path, python: str) -> None:
    job = RuntimeJob(tmp_path, "import sys; print('hi'); sys.stderr.write('oh\\n'); sys.exit(3)", python)
    ending = job.run()
    assert job.log == b"hi\noh\n"
    assert job.stderr() == b"oh\n"
    assert (ending["exit_code"], ending["signal"]) == (3, None)
    assert (ending["oom"], ending["timeout"], ending["cancel"], ending["error"]) == (False, False, None, None)
    assert (ending["log_bytes"], ending["log_dropped"], ending["leftovers"]) == (6, 0, 0)
    assert ending["events"] == len(job.events())
    assert 0 < ending["duration"] < 10
    assert ending["max_rss"] > 1_000_000


def test_events_are_numbered_and_timed_in_order(tmp_path: Path, python: str) -> None:
    # one write: a print may leave in two pieces, each of them a stretch
    job = RuntimeJob(tmp_path, "import os; os.write(2, b'a\\n')", python)
    job.run()
    first = json.loads((job.job / "events.jsonl").read_text().splitlines()[0])
    assert first == {"format": 1, "run_id": "test_1500000000000", "stderr": "ahead"}
    events = job.events()
    assert [event["type"] for event in events] == ["started", "stderr", "stderr", "ended"]
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert [event["m"] for event in events] == sorted(event["m"] for event in events)
    assert all(event["utc"].endswith("Z") for event in events)


ENDINGS = {
    "return": ("pass", 0, None),
    "exit 7": ("import sys; sys.exit(7)", 7, None),
    "exit 255": ("import sys; sys.exit(255)", 255, None),
    "exit with a text": ("import sys; sys.exit('no')", 1, None),
    "an exception": ("1 / 0", 1, None),
    "os._exit": ("import os; os._exit(9)", 9, None),
    "abort": ("import os; os.abort()", None, signal.SIGABRT),
    "terminate": ("import os; os.kill(os.getpid(), 15)", None, signal.SIGTERM),
    "kill": ("import os; os.kill(os.getpid(), 9)", None, signal.SIGKILL),
    "segmentation fault": ("import os; os.kill(os.getpid(), 11)", None, signal.SIGSEGV),
    "another program": ("import os; os.execv('/bin/sh', ['sh', '-c', 'exit 5'])", 5, None),
    "closed streams": (
        "import os; os.close(1); os.close(2); import time; time.sleep(0.2); os._exit(4)",
        4,
        None,
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_L3_every_way_to_end_is_recorded_exactly(tmp_path: Path, name: str) -> None:
    script, code, number = ENDINGS[name]
    ending = RuntimeJob(tmp_path, script, VERSIONS[NEWEST]).run()
    assert (ending["exit_code"], ending["signal"]) == (code, number)
    assert ending["oom"] is False


@pytest.mark.slow
def test_L3_a_stopped_process_is_not_dead(tmp_path: Path) -> None:
    script = (
        "import os, signal; print(os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGSTOP); print('on')"
    )
    job = RuntimeJob(tmp_path, script)
    job.start()
    job.wait_for_log(b"\n")
    beat = (job.job / "heartbeat").read_text()
    time.sleep(2.5)
    assert not (job.job / "exit.json").exists()
    assert (job.job / "heartbeat").read_text() != beat
    os.kill(int(job.log), signal.SIGCONT)
    assert job.wait()["exit_code"] == 0
    assert job.log.endswith(b"on\n")


@pytest.mark.parametrize(
    ("command", "code", "error", "text"),
    [
        (["no-such-program-here", "x"], 127, "run.command_missing", "no-such-program-here"),
        (["/no/such/file"], 127, "run.command_missing", "/no/such/file"),
        (["/etc/passwd"], 126, "run.command", "Permission denied"),
        (["/"], 126, "run.command", "Permission denied"),
        (["a\0b"], 126, "run.command", "Invalid argument"),
    ],
)
def test_L11_a_command_that_cannot_start_says_so(
    tmp_path: Path, command: list[str], code: int, error: str, text: str
) -> None:
    job = RuntimeJob(tmp_path, command=command)
    ending = job.run()
    assert (ending["exit_code"], ending["signal"]) == (code, None)
    assert ending["error"]["code"] == error
    assert text in ending["error"]["message"]
    assert text.encode() in job.stderr()
    assert [event["ename"] for event in job.events("error")] == [error]
    assert job.events("started") == []


def test_a_working_folder_that_is_not_there_says_so(tmp_path: Path, python: str) -> None:
    job = RuntimeJob(tmp_path, python=python, cwd=str(tmp_path / "nowhere"))
    ending = job.run()
    assert ending["exit_code"] == 126
    assert ending["error"]["code"] == "run.folder"


SURROGATE = '{"format": 1, "run_id": "r", "cwd": "/tmp", "command": ["x"], "environment": {"A": "\\ud800"}}'


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1}', '{"format": 2, "command": ["x"]}', "\xff", SURROGATE]
)
def test_a_request_that_cannot_be_used_ends_the_job(tmp_path: Path, python: str, text: str) -> None:
    job = RuntimeJob(tmp_path, python=python)
    (job.job / "request.json").write_bytes(text.encode("latin-1"))
    ending = job.run()
    assert ending["exit_code"] == 125
    assert ending["error"]["code"] == "request.invalid"


def test_the_environment_of_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("PYTHONPATH", "/inherited")
    monkeypatch.setenv("KEPT", "yes")
    odd = os.fsdecode(b"caf\xe9")
    script = "import json, os; print(json.dumps([dict(os.environ), os.getcwd(), os.path.isdir('outputs')]))"
    job = RuntimeJob(tmp_path, script, python, environment={"MINE": odd, "AML_JOB": "/elsewhere"})
    assert job.run()["exit_code"] == 0
    environment, cwd, outputs = json.loads(job.log)
    assert cwd == str(job.work)
    assert outputs
    assert "JPY_PARENT_PID" not in environment
    assert environment["KEPT"] == "yes"
    assert environment["MINE"] == odd
    assert environment["AML_JOB"] == str(job.job)
    assert environment["AML_EVENTS"] == str(job.job / "events.sock")
    assert environment["AZUREML_RUN_ID"] == "test_1500000000000"
    assert environment["AZUREML_OUTPUT_DIRECTORY"] == str(job.work / "outputs")
    assert environment["MPLBACKEND"] == "module://aml_run.figures"
    assert environment["PYTHONPATH"] == f"{job.job}/runtime/site:/inherited"


def test_what_the_request_sets_wins_but_the_shims_stay_first(tmp_path: Path) -> None:
    asked = {"MPLBACKEND": "Agg", "PYTHONPATH": "/mine"}
    job = RuntimeJob(
        tmp_path, "import os; print(os.environ['MPLBACKEND'], os.environ['PYTHONPATH'])", environment=asked
    )
    job.run()
    assert job.log.decode().split() == ["Agg", f"{job.job}/runtime/site:/mine"]


@pytest.mark.parametrize(
    ("activated", "asked", "seen"),
    [
        (
            os.path.dirname(os.path.dirname(sys.executable)),
            {},
            os.path.dirname(os.path.dirname(sys.executable)),
        ),
        ("/another", {}, "None"),
        (os.path.dirname(sys.executable)[:-1], {}, "None"),
        ("/another", {"VIRTUAL_ENV": "/asked"}, "/asked"),
    ],
    ids=["its own", "another", "a name that begins alike", "asked for"],
)
def test_the_environment_that_the_submitter_activated_is_left_to_its_own_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, activated: str, asked: dict[str, str], seen: str
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", activated)
    job = RuntimeJob(tmp_path, "import os; print(os.environ.get('VIRTUAL_ENV'))", environment=asked)
    job.run()
    assert job.log.decode().strip() == seen


def test_signals_are_as_in_a_fresh_process_and_input_is_empty(tmp_path: Path, python: str) -> None:
    script = """
import os, signal, sys
status = open("/proc/self/status").read()
print([line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")])
ignored = int([line.split()[1] for line in status.splitlines() if line.startswith("SigIgn")][0], 16)
print(ignored & (1 << 1 | 1 << 9 | 1 << 14 | 1 << 16), os.getsid(0) == os.getpid(), repr(sys.stdin.read()))
print(sorted(int(name) for name in os.listdir("/proc/self/fd"))[:4])
"""
    job = RuntimeJob(tmp_path, script, python)

    def ignore() -> None:  # as nohup and a careless parent would leave it
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    job.run(preexec_fn=ignore)
    assert job.log.decode().splitlines() == ["['0000000000000000']", "0 True ''", "[0, 1, 2, 3]"]


def test_a_quiet_line_reaches_the_log_within_20_ms(tmp_path: Path, python: str) -> None:
    script = "import sys, time\nfor _ in range(15):\n    time.sleep(0.1); print(time.time(), flush=True)"
    job = RuntimeJob(tmp_path, script, python)
    job.start()
    delays, seen = [], 0
    while job.process and job.process.poll() is None:
        lines = job.log.split(b"\n")[:-1]
        delays += [time.time() - float(line) for line in lines[seen:]]
        seen = len(lines)
        time.sleep(0.001)
    job.wait()
    # the median: this machine may be doing something else
    assert len(delays) >= 14
    assert statistics.median(delays) < 0.02


def test_stdout_and_stderr_keep_their_order_when_written_slowly(tmp_path: Path, python: str) -> None:
    # slowly: nothing is written before the runtime has taken what came before, and no order is left to guess
    script = """
import os, time
log, written = os.environ["AML_JOB"] + "/log", 0
for number in range(40):
    written += os.write(1 + number % 2, b"%d\\n" % number)
    while not os.path.exists(log) or os.path.getsize(log) < written:
        time.sleep(0.001)
"""
    job = RuntimeJob(tmp_path, script, python)
    job.run()
    assert job.log == b"".join(b"%d\n" % number for number in range(40))
    assert job.stderr() == b"".join(b"%d\n" % number for number in range(1, 40, 2))


def test_stretches_of_stderr_are_bounded(tmp_path: Path) -> None:
    script = "import os\nfor n in range(60000): os.write(1 + n % 2, b'x')"
    job = RuntimeJob(tmp_path, script)
    job.run()
    assert len(job.log) == 60000
    # each is opened and closed
    assert len(job.events("stderr")) <= 40000
    assert os.path.getsize(job.job / "events.jsonl") < 8_000_000


def test_a_second_runtime_leaves_and_changes_nothing(tmp_path: Path, python: str) -> None:
    job = RuntimeJob(tmp_path, "print('once')", python)
    job.run()
    before = {path.name: path.read_bytes() for path in job.job.iterdir() if path.is_file()}
    assert job.start().wait(20) == 0
    assert {path.name: path.read_bytes() for path in job.job.iterdir() if path.is_file()} == before


def test_of_many_runtimes_started_at_once_one_runs_the_job(tmp_path: Path, python: str) -> None:
    job = RuntimeJob(tmp_path, "print('once')", python)
    processes = [job.start() for _ in range(12)]
    assert [process.wait(30) for process in processes] == [0] * 12
    assert job.log == b"once\n"
    winner = json.loads((job.job / "started.json").read_text())["pid"]
    assert winner in [process.pid for process in processes]
    assert [name for name in os.listdir(job.job) if name.startswith(".")] == []


def test_a_claim_that_was_killed_half_way_does_not_stop_the_next(tmp_path: Path) -> None:
    job = RuntimeJob(tmp_path, "print('once')")
    (job.job / ".started.17.99").write_text('{"format": 1, "ru')
    assert job.run()["exit_code"] == 0


def test_L13_started_names_the_process_by_pid_start_time_and_boot(tmp_path: Path, python: str) -> None:
    job = RuntimeJob(tmp_path, "input()", python, command=["sleep", "60"])
    process = job.start()
    job.wait_for((job.job / "started.json").exists)
    started = json.loads((job.job / "started.json").read_text())
    assert started["format"] == 1
    assert started["run_id"] == "test_1500000000000"
    assert started["pid"] == process.pid
    assert started["start_time"] == start_time(process.pid)
    assert started["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    job.signal()
    job.wait()


def _is_free(path: Path) -> bool:
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_main_runs_a_job_in_a_process_forked_for_it(tmp_path: Path, python: str) -> None:
    script = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('forked')"
    job = RuntimeJob(tmp_path, script, python)
    # the parent holds a lock, ignores signals and has a pipe open: none of it may reach the job
    parent = f"""
import fcntl, os, signal, sys
sys.path.insert(0, {str(job.job / "runtime")!r})
import main
signal.signal(signal.SIGTERM, signal.SIG_IGN)
lock = open({str(tmp_path / "lock")!r}, "w")
fcntl.flock(lock, fcntl.LOCK_EX)
pid = os.fork()
if pid == 0:
    main.main({str(job.job)!r})
print(pid)
"""
    done = subprocess.run([python, "-c", parent], stdout=subprocess.PIPE, timeout=20, check=True)
    pid = int(done.stdout)
    # output and lock are free although the job goes on, once its process has come to closing them
    job.wait_for(lambda: _is_free(tmp_path / "lock"))
    assert not (job.job / "exit.json").exists()
    (job.work / "go").touch()
    job.wait_for((job.job / "exit.json").exists)
    assert job.ending()["exit_code"] == 0
    assert job.log == b"forked\n"
    assert json.loads((job.job / "started.json").read_text())["pid"] == pid
    job.wait_for(lambda: not alive(pid))


def test_importing_main_does_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; old = set(sys.modules); import main; print(sorted(set(sys.modules) - old), sys.path[0])"
    )
    folder = RuntimeJob(tmp_path).job / "runtime"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=folder, stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"['main'] \n"


def test_no_module_that_delays_the_start_is_imported(tmp_path: Path, python: str) -> None:
    folder = RuntimeJob(tmp_path).job / "runtime"
    code = "import launch, follow, sys; print(*sys.modules)"
    done = subprocess.run(
        [python, "-S", "-E", "-s", "-c", code], cwd=folder, stdout=subprocess.PIPE, check=True
    )
    slow = {"os", "json", "re", "enum", "subprocess", "signal", "socket", "ctypes", "threading", "selectors"}
    assert not slow & set(done.stdout.decode().split())


def test_the_log_can_be_followed_by_a_long_path(tmp_path: Path, python: str) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    job = RuntimeJob(deep, "import os; print(len(os.environ['AML_EVENTS']))", python)
    assert job.run()["exit_code"] == 0
    assert int(job.log) > 250
    assert not (job.job / "events.sock").exists()


def test_nothing_but_the_protocol_is_left_in_the_job_folder(tmp_path: Path) -> None:
    job = RuntimeJob(tmp_path, "print(1)")
    job.run()
    kept = {
        "request.json",
        "runtime",
        "started.json",
        "log",
        "events.jsonl",
        "heartbeat",
        "exit.json",
        "data",
    }
    assert set(os.listdir(job.job)) == kept
    assert not (job.job / "runtime" / "__pycache__").exists()
    assert all(
        path.stat().st_mode & 0o077 == 0
        for path in job.job.iterdir()
        if path.name in kept - {"request.json", "runtime"}
    )
