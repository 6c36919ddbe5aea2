"""The runtime on full disks, in little memory, killed, and with what scripts do to their own folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requirements import need
from tests.runtime_job import NEWEST, OLDEST, SENDER, VERSIONS, RuntimeJob, alive

pytestmark = pytest.mark.faults


@pytest.fixture(params=sorted({OLDEST, NEWEST}))
def python(request: pytest.FixtureRequest) -> str:
    return VERSIONS[request.param]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    need("root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run([need("mount"), "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run([need("umount"), "-l", folder], check=True)


FILL = """
import os, time
ballast = os.environ["AML_JOB"] + "/../ballast"
def fill():
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    for size in (65536, 1024, 1):
        try:
            while True:
                os.write(fd, b"b" * size)
        except OSError:
            pass
    os.close(fd)
"""


def on_disk(disk: Path, folder: Path, script: str, python: str, **request: object) -> RuntimeJob:
    """A job whose files, save the runtime's own, lie on another file system."""
    job = RuntimeJob(folder / "elsewhere", script, python, **request)
    runtime = job.job / "runtime"
    target = disk / "job"
    target.mkdir()
    (target / "runtime").symlink_to(runtime)
    (target / "request.json").write_text(json.dumps(job.request))
    job.job = target
    return job


@pytest.mark.root
def test_G5_a_full_disk_neither_blocks_nor_hides_the_ending(
    tmp_path: Path, small_disk: Path, python: str
) -> None:
    script = """
import os
for n in range(100):
    os.write(1, b"y" * 65536)
"""
    job = on_disk(small_disk, tmp_path, script, python)
    ending = job.run(timeout=20)
    assert ending["exit_code"] == 0
    assert ending["log_dropped"] > 5_000_000
    # the last words fit into what was set aside
    assert b"bytes of output were lost here: No space left" in job.log
    assert "log.lost" in job.warnings()
    assert len(job.events("ended")) == 1


@pytest.mark.root
def test_G5_one_marker_stands_for_what_was_lost_when_space_returns(tmp_path: Path, small_disk: Path) -> None:
    script = (
        FILL
        + """
os.write(1, b"first\\n")
time.sleep(0.1)
fill()
os.write(1, b"y" * 300000)
time.sleep(0.1)
os.unlink(ballast)
time.sleep(1.2)
os.write(1, b"last\\n")
"""
    )
    job = on_disk(small_disk, tmp_path, script, VERSIONS[NEWEST])
    ending = job.run(timeout=20)
    assert job.log.startswith(b"first\n")
    assert job.log.endswith(b"last\n")
    assert job.log.count(b"bytes of output were lost here") == 1
    assert len(job.log) == ending["log_bytes"]
    lost = int(job.log.partition(b"[aml: ")[2].split()[0])
    assert lost == ending["log_dropped"]
    assert job.log.count(b"yy") <= (300000 - lost) // 2 + 1


@pytest.mark.root
def test_G5_events_wait_for_space_and_stay_whole(tmp_path: Path, small_disk: Path) -> None:
    script = (
        SENDER
        + FILL
        + """
fill()
for n in range(500):
    send_json(type="metric", name="m", value=n)
time.sleep(0.1)
os.unlink(ballast)
time.sleep(1.2)
"""
    )
    job = on_disk(small_disk, tmp_path, script, VERSIONS[NEWEST])
    job.run(timeout=20)
    assert [event["value"] for event in job.events("metric")] == list(range(500))


@pytest.mark.root
def test_L10_a_disk_full_from_the_beginning_to_the_end_still_has_an_ending(
    tmp_path: Path, small_disk: Path, python: str
) -> None:
    script = (
        SENDER
        + FILL
        + """
fill()
for n in range(30000):
    send_json(type="metric", name="m", value=n)
os.write(1, b"y" * 3000000)
sys.exit(3)
"""
    )
    ending = on_disk(small_disk, tmp_path, script, python).run(timeout=30)
    assert ending["exit_code"] == 3
    assert ending["log_dropped"] > 2_000_000


def test_L10_a_limit_on_file_size_loses_output_and_nothing_else(tmp_path: Path) -> None:
    import resource

    job = RuntimeJob(tmp_path, "import os\nfor _ in range(9): os.write(1, b'x' * 30000)\nos._exit(2)")
    ending = job.run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))
    assert ending["exit_code"] == 2
    assert ending["log_bytes"] == 100_000
    assert ending["log_dropped"] == 170_000


def test_L10_an_address_space_limit_is_the_scripts_own_error(tmp_path: Path) -> None:
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28)); x = b'x' * (1 << 30)"
    )
    job = RuntimeJob(tmp_path, script)
    ending = job.run()
    assert (ending["exit_code"], ending["oom"]) == (1, False)
    assert b"MemoryError" in job.log


@pytest.mark.root
def test_L10_a_kill_for_want_of_memory_is_recorded_as_one(tmp_path: Path, python: str) -> None:
    need("root")
    parent = Path("/sys/fs/cgroup/memory")
    if not (parent / "memory.limit_in_bytes").exists():
        pytest.skip("needs memory control groups of version 1")
    group = parent / f"aml-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(100 << 20))
        job = RuntimeJob(tmp_path, "x = bytearray(300 << 20)\nx[::4096] = b'x' * len(x[::4096])", python)
        ending = job.run(preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
        assert (ending["exit_code"], ending["signal"], ending["oom"]) == (None, signal.SIGKILL, True)
        child = RuntimeJob(
            tmp_path / "child",
            "import subprocess, sys; subprocess.call([sys.executable, '-c', 'x = b\"x\" * (300 << 20)'])",
            python,
        )
        ending = child.run(preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
        # a child's death is not the script's, yet it is told
        assert (ending["exit_code"], ending["oom"]) == (0, True)
    finally:
        group.rmdir()


def test_L2_the_script_dies_with_the_runtime(tmp_path: Path, python: str) -> None:
    job = RuntimeJob(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(60)", python)
    process = job.start()
    job.wait_for_log(b"\n")
    pid = int(job.log)
    process.kill()
    process.wait()
    job.wait_for(lambda: not alive(pid), 5)
    assert not (job.job / "exit.json").exists()
    assert job.log


def test_L9_a_script_that_deletes_the_run_folder_ends_without_leftovers(tmp_path: Path, python: str) -> None:
    script = """
import os, shutil, subprocess
child = subprocess.Popen(["sleep", "60"])
open(os.environ["AML_JOB"] + "/../../pid", "w").write(str(child.pid))
shutil.rmtree(os.environ["AML_JOB"] + "/..")
print("gone")
"""
    job = RuntimeJob(tmp_path / "run", script, python)
    process = job.start()
    process.wait(15)
    assert not job.job.exists()
    assert not alive(int((tmp_path / "pid").read_text()))


def test_G1_a_log_over_its_limit_keeps_head_and_tail(tmp_path: Path, python: str) -> None:
    script = "for n in range(400_000): print('%09d' % n)"
    job = RuntimeJob(tmp_path, script, python, log_limit=1_000_000)
    ending = job.run()
    head, marker, tail = job.log.partition(b"\n[aml: the log reached its limit: ")
    assert head == b"".join(b"%09d\n" % n for n in range(100_000))[:1_000_000]
    assert len(marker)
    left_out = int(tail.split()[0])
    kept = tail.partition(b"left out here]\n")[2]
    assert len(kept) == 1 << 20
    assert kept.endswith(b"000399999\n")
    assert left_out == 4_000_000 - 1_000_000 - len(kept)
    assert ending["log_dropped"] == left_out
    assert ending["log_bytes"] == len(job.log)
    assert job.warnings() == ["log.capped"]


@pytest.mark.slow
def test_G1_a_gigabyte_of_lines_is_kept_in_little_memory(tmp_path: Path) -> None:
    script = "line = 'x' * 99\nfor _ in range(10_000_000): print(line)"
    job = RuntimeJob(tmp_path, script, log_limit=2 << 30)
    process = job.start()
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)])
        except OSError:
            break
        time.sleep(0.05)
    ending = job.wait(120)
    assert ending["log_bytes"] == 1_000_000_000
    assert (job.job / "log").stat().st_size == 1_000_000_000
    assert peak < 64 * 1024
    (job.job / "log").unlink()


@pytest.mark.parametrize("size", [10_000_000, pytest.param(100_000_000, marks=pytest.mark.slow)])
def test_G2_one_long_line_is_kept_whole(tmp_path: Path, size: int) -> None:
    job = RuntimeJob(tmp_path, f"import sys; sys.stdout.write('z' * {size})")
    job.run()
    assert job.log == b"z" * size


def test_G3_bytes_of_every_kind_are_kept(tmp_path: Path, python: str) -> None:
    odd = (
        bytes(range(256))
        + b"\r50%\r100%\n\x1b[31mred\x1b[0m\x1b]0;title\x07"
        + b"\b" * 1000
        + b"</script>\0\xff\xfe"
    )
    job = RuntimeJob(tmp_path, f"import os; os.write(1, bytes.fromhex({odd.hex()!r}))", python)
    job.run()
    assert job.log == odd


def test_G4_a_script_that_truncates_its_log_loses_what_it_cut_and_no_more(
    tmp_path: Path, python: str
) -> None:
    script = """
import os, time
os.write(1, b"before\\n"); time.sleep(0.2)
os.truncate(os.environ["AML_JOB"] + "/log", 0)
time.sleep(2.2)
os.write(1, b"after\\n")
"""
    job = RuntimeJob(tmp_path, script, python)
    ending = job.run()
    # offsets that readers hold stay true: the cut bytes read as zeros
    assert job.log == b"\0" * 7 + b"after\n"
    assert ending["log_bytes"] == 13
    assert job.warnings() == ["log.truncated"]


def test_G4_a_log_that_was_cut_and_written_on_is_told_of(tmp_path: Path) -> None:
    script = """
import os, time
os.write(1, b"before\\n"); time.sleep(0.2)
os.truncate(os.environ["AML_JOB"] + "/log", 0)
os.write(1, b"after\\n")
"""
    job = RuntimeJob(tmp_path, script)
    job.run()
    assert job.log == b"\0" * 7 + b"after\n"
    assert job.warnings() == ["log.truncated"]


REPLACE = {
    "unlinked": "os.unlink(log)",
    "renamed": "os.rename(log, log + '.mine')",
    "replaced": "open(log + '.mine', 'w').write('mine' * 1000); os.replace(log + '.mine', log)",
    "a link": "os.unlink(log); os.symlink('/dev/null', log)",
    "a pipe": "os.unlink(log); os.mkfifo(log)",
    "a folder": "os.unlink(log); os.makedirs(log + '/deep/er')",
    "unlinked all the time": "[os.path.exists(log) and os.unlink(log) or time.sleep(.01) for n in range(99)]",
}


@pytest.mark.parametrize("name", REPLACE)
def test_G4_a_log_that_its_script_takes_away_is_put_back(tmp_path: Path, python: str, name: str) -> None:
    script = f"""
import os, time
log = os.environ["AML_JOB"] + "/log"
os.write(1, b"before\\n"); os.write(2, b"error\\n"); time.sleep(0.2)
{REPLACE[name]}
os.write(1, b"after\\n" * 300000)
"""
    job = RuntimeJob(tmp_path, script, python)
    ending = job.run()
    assert job.log == b"before\nerror\n" + b"after\n" * 300000
    assert (ending["log_bytes"], ending["log_dropped"]) == (len(job.log), 0)
    assert set(job.warnings()) == {"log.removed"}
    assert job.stderr() == b"error\n"
    assert not (job.job / ".log.partial").exists()


def test_G4_a_log_that_was_taken_away_is_back_while_the_run_goes_on(tmp_path: Path) -> None:
    script = """
import os, time
os.write(1, b"before\\n"); time.sleep(0.2)
os.unlink(os.environ["AML_JOB"] + "/log")
os.write(1, b"after\\n"); time.sleep(60)
"""
    job = RuntimeJob(tmp_path, script)
    job.start()
    job.wait_for_log(b"before\nafter\n", timeout=10)
    job.wait_for(lambda: job.warnings() == ["log.removed"])
    job.signal()
    job.wait()
    assert job.log == b"before\nafter\n"


@pytest.mark.root
@pytest.mark.parametrize("pause", [0, 2.5])
def test_G4_of_a_log_that_does_not_fit_twice_the_beginning_is_put_back(
    tmp_path: Path, small_disk: Path, pause: float
) -> None:
    script = f"""
import os, time
os.write(1, b"y" * 700000); time.sleep(0.2)
os.unlink(os.environ["AML_JOB"] + "/log")
time.sleep({pause})
os.write(1, b"after\\n")
"""
    job = on_disk(small_disk, tmp_path, script, VERSIONS[NEWEST])
    ending = job.run()
    assert 50_000 < len(job.log) < 700_000
    assert set(job.log) == set(b"y")
    assert ending["log_dropped"] == 700_006 - len(job.log)
    assert job.warnings() == ["log.lost"]
    (told,) = job.events("warning")
    assert f"{ending['log_dropped']} bytes of output were lost" in told["text"]


def test_G6_a_script_that_closes_its_output_is_followed_to_its_end(tmp_path: Path) -> None:
    script = "import os, time; os.write(1, b'x'); os.close(1); os.close(2); time.sleep(0.5); os._exit(6)"
    job = RuntimeJob(tmp_path, script)
    before = os.times()
    assert job.run()["exit_code"] == 6
    after = os.times()
    # closed pipes are not polled round and round
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.3


CALLS = [
    "link",
    "rename",
    "fsync",
    "write",
    "pwrite64",
    "unlink",
    "ftruncate",
    "fallocate",
    "bind",
    "mkdir",
    "clone",
]


@pytest.mark.slow
@pytest.mark.parametrize("call", [*CALLS, "readv", "wait4", "execve", "close", "poll"])
def test_a_runtime_killed_at_any_step_leaves_no_half_record(tmp_path: Path, call: str) -> None:
    strace = need("strace")
    for number in range(1, 100):
        job = RuntimeJob(tmp_path / str(number), "print('hi')", VERSIONS[NEWEST])
        # strace counts each call of the runtime alone: the script is another process and is not followed
        process = job.start(strace, "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={number}")
        killed = process.wait(30) != 0
        started, ending = job.job / "started.json", job.job / "exit.json"
        if started.exists():
            assert json.loads(started.read_text())["format"] == 1
        if ending.exists():
            assert json.loads(ending.read_text())["exit_code"] == 0
            assert job.log == b"hi\n"
        if not killed:
            assert ending.exists()
            break
        if not started.exists():
            # nothing was started, so it may be started again
            assert job.run()["exit_code"] == 0
    assert number > 1 or call == "execve"
