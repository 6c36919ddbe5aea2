"""Runs on a machine behind ssh whose disk, engine, user or honesty is not what a run needs."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.executors.docker.containers import container_name
from aml_jupyter.job import Job
from aml_jupyter.runs import RunDirectory
from tests import machines, sshd
from tests.engines import PrivateEngine
from tests.machines import (
    COUNTING,
    FILES,
    STARTED,
    Box,
    add_files,
    assert_completed,
    assert_whole,
    go,
    run,
    submit,
    told,
    wait_for,
)
from tests.requirements import need
from tests.terminal import AML, data, environment, until

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.root]

# as COUNTING, but ends by itself
SHORT = f"""
import time
{STARTED.replace("share =", "import os; share =", 1)}
for number in range(50):
    print("line", number, time.time(), flush=True)
    time.sleep(0.02)
open("outputs/result", "w").write("whole")
print("done", 50)
"""


# --- the supervisor is killed -------------------------------------------------------------------------------


def moments(directory: RunDirectory) -> list[tuple[str, float]]:
    """Moments within the phases of a run of this kind: the status, and seconds since it was told."""
    lines = [json.loads(line) for line in Path(directory.status_jsonl).read_text().splitlines()]
    known = {one["status"]: dt.datetime.fromisoformat(one["utc"]).timestamp() for one in lines}
    prepare, start, end, over = (known[one] for one in ("Preparing", "Running", "Finalizing", "Completed"))
    found = [("Preparing", (start - prepare) * part) for part in (0, 0.3, 0.6, 0.75, 0.85, 0.93, 0.98)]
    found += [("Running", (end - start) * part) for part in (0, 0.5, 0.98)]
    found += [("Finalizing", (over - end) * part) for part in (0, 0.2, 0.5, 0.8, 0.98)]
    return [*found, ("Completed", 0.05)]


def test_R5_a_supervisor_that_is_killed_at_any_moment_is_followed_by_another(
    box: Box, remote_project: Path
) -> None:
    first = submit(remote_project, SHORT)
    assert_completed(first, box)
    met = set()
    for status, seconds in moments(first):
        directory = submit(remote_project, SHORT)
        until(lambda: status in {one for one, _ in machines.states(directory)}, 60)  # noqa: B023
        time.sleep(seconds)
        machines.kill_supervisor(directory)
        met |= {one for one, _ in machines.states(directory)[-1:]}
        # what it was just starting may hold its lock for another moment
        until(lambda: runs.load_record(directory).ended or experiment.resume(directory))  # noqa: B023
        assert_completed_or_swept(directory, box)
        assert_whole(directory)
    assert {"Preparing", "Running", "Finalizing"} <= met


def assert_completed_or_swept(directory: RunDirectory, box: Box) -> None:
    """As assert_completed; whoever was killed after the ending was written has left something to sweep."""
    experiment.wait(directory, 90)
    until(lambda: not runs.supervised(directory))
    if box.left():
        swept = data("targets", "sweep", "box")
        assert {one["kind"] for one in swept} <= {"folder", "container"}
    assert_completed(directory, box)


def test_R6_one_session_at_a_time_is_enough(
    remote_project: Path, tmp_path: Path, private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machines.machine(tmp_path, private_engine, MaxSessions=1, MaxStartups="1:100:1") as box:
        box.use(remote_project, monkeypatch)
        two = [submit(remote_project, SHORT) for _ in range(2)]
        for directory in two:
            experiment.wait(directory, 90)
            until(lambda one=directory: not runs.supervised(one))  # type: ignore[misc]
        for directory in two:
            assert_completed(directory, box)
            assert_whole(directory)
        machines.end_connections(os.environ["AML_HOME"])


def test_R5_what_was_left_there_is_swept_by_a_word(box: Box, remote_project: Path) -> None:
    directory = submit(remote_project, FILES)
    assert_completed(directory, box)
    old = random.choice(list(box.remote.glob("objects/*/*")))
    os.utime(old, (0, 0))
    half = old.with_name(old.name + ".0123456789abcdef")
    half.write_bytes(b"half")
    os.utime(half, (0, 0))
    request = json.loads(Path(directory.job, "request.json").read_text())
    name = container_name(Job.from_request(directory.path, request))
    (box.remote / "runs" / name / "work").mkdir(parents=True)
    (box.remote / "runs/aml-of-somebody-else").mkdir()
    found = data("targets", "sweep", "box", "--dry-run")
    assert {one["kind"] for one in found} == {"folder", "files"}
    assert box.left() == ["aml-of-somebody-else", name]
    data("targets", "sweep", "box")
    assert box.left() == ["aml-of-somebody-else"]
    assert not old.exists()
    assert not half.exists()
    # what is missing now is sent again
    again = run(remote_project, FILES)
    assert again.status == "Completed", again.error


# --- slow lines and full disks ------------------------------------------------------------------------------


def test_R7_a_slow_line_takes_its_time_and_says_how_far_it_is(box: Box, remote_project: Path) -> None:
    add_files(remote_project, 3, 500_000)
    box.line.rate = 125_000  # 1 Mbit/s
    box.line.delay = 0.02
    directory = submit(remote_project, FILES)
    assert_completed(directory, box, 120)
    sent = [float(found) for found in re.findall(r"sent (\S+) of \S+ MB", told(directory))]
    assert sent
    assert sent == sorted(sent)
    assert "again" not in told(directory)


@contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    """A disk of its own for a folder."""
    subprocess.run([need("mount"), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run([need("umount"), "-l", str(folder)], check=True)


def test_R8_a_full_disk_there_is_told_with_machine_and_folder_and_nothing_stays(
    box: Box, remote_project: Path
) -> None:
    add_files(remote_project, 8, 1 << 20)
    with disk(box.home, "6m"):
        record = run(remote_project, FILES)
        assert (record.status, record.reason) == ("Failed", "store.no_space")
        error = record.error or {}
        assert "127.0.0.1" in error["message"]
        assert str(box.remote) in error["message"]
        assert "aml targets sweep box" in error["hint"]
        assert not box.left()
        assert not list(box.remote.glob("objects/*/*.*"))
        # one that fits still runs
        for path in (remote_project / "data").iterdir():
            path.write_bytes(b"small")
        subprocess.run(["mount", "-o", "remount,size=16m", str(box.home)], check=True)
        assert run(remote_project, FILES).status == "Completed"


def test_R8_a_home_there_that_cannot_be_written_is_told(box: Box, remote_project: Path) -> None:
    with disk(box.home, "1m"):
        subprocess.run(["mount", "-o", "remount,ro", str(box.home)], check=True)
        record = run(remote_project, FILES)
    assert (record.status, record.reason) == ("Failed", "store.denied")
    assert "Read-only file system" in (record.error or {})["message"]


def test_R8_a_full_disk_of_the_engine_there_is_told(
    remote_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PrivateEngine(disk=900 << 20) as small, machines.machine(tmp_path, small) as box:
        small.load_base()
        box.use(remote_project, monkeypatch)
        with open(small.data / "filler", "wb") as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        record = run(remote_project, FILES)
        assert (record.status, record.reason) == ("Failed", "store.no_space"), record
        (small.data / "filler").unlink()
        assert run(remote_project, FILES).status == "Completed"
        small.remove_containers()


# --- the engine there ---------------------------------------------------------------------------------------


def test_R9_a_machine_without_an_engine_says_so(
    box: Box, remote_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.use(remote_project, monkeypatch, dockerHost="unix:///nowhere/docker.sock")
    record = run(remote_project, FILES)
    assert (record.status, record.reason) == ("Failed", "engine.unavailable")
    assert "no socket /nowhere/docker.sock there" in (record.error or {})["message"]
    assert not box.left()


def test_R9_an_engine_that_was_stopped_is_told_from_a_line_that_is_down(
    box: Box, remote_project: Path
) -> None:
    box.engine.stop()
    record = run(remote_project, FILES)
    assert (record.status, record.reason) == ("Failed", "engine.unavailable")
    assert "no socket" in (record.error or {})["message"]
    # as one that was killed leaves it
    box.engine.start()
    box.engine.kill()
    record = run(remote_project, FILES)
    assert (record.status, record.reason) == ("Failed", "engine.unavailable")
    assert "does not run" in (record.error or {})["message"]
    box.engine.start()
    assert run(remote_project, FILES).status == "Completed"


@contextmanager
def socket_for_all(engine: PrivateEngine) -> Iterator[None]:
    os.chmod(engine.socket, 0o666)
    try:
        yield
    finally:
        os.chmod(engine.socket, 0o660)


def test_R9_a_user_who_may_not_use_the_engine_is_told_by_name(
    remote_project: Path, tmp_path: Path, private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sshd.user() as (name, _), machines.machine(tmp_path, private_engine, name) as box:
        box.use(remote_project, monkeypatch)
        os.chmod(private_engine.socket, 0o660)
        record = run(remote_project, FILES)
        assert (record.status, record.reason) == ("Failed", "engine.unavailable")
        error = record.error or {}
        assert f"{name} may not use the Docker engine" in error["message"]
        assert f"usermod -aG docker {name}" in error["hint"]
        with socket_for_all(private_engine):
            assert run(remote_project, FILES).status == "Completed"
        machines.end_connections(os.environ["AML_HOME"])


def test_R9_a_login_that_is_not_root_owns_what_its_runs_write(
    remote_project: Path, tmp_path: Path, private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = COUNTING.replace('print("done"', 'print("user", os.getuid(), os.getgid())\nprint("done"')
    with (
        sshd.user() as (name, _),
        machines.machine(tmp_path, private_engine, name) as box,
        socket_for_all(private_engine),
    ):
        box.use(remote_project, monkeypatch)
        directory = submit(remote_project, source)
        wait_for(directory, "line 3")
        go(box)
        assert_completed(directory, box)
        owner = os.stat(box.home)
        assert f"user {owner.st_uid} {owner.st_gid}" in machines.log(directory)
        theirs = [path for path in box.home.rglob("*") if path.name != "go"]
        assert not [path for path in theirs if path.lstat().st_uid != owner.st_uid]
        stored = Path(directory.home, "artifacts/ExperimentRun", directory.run_id, "outputs/result")
        assert stored.stat().st_uid == os.getuid()
        machines.end_connections(os.environ["AML_HOME"])


def test_a_server_that_forwards_no_sockets_is_told_with_the_setting(
    remote_project: Path, tmp_path: Path, private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machines.machine(tmp_path, private_engine, AllowStreamLocalForwarding="no") as box:
        box.use(remote_project, monkeypatch)
        record = run(remote_project, FILES)
    assert (record.status, record.reason) == ("Failed", "target.no_forwarding")
    assert "AllowStreamLocalForwarding yes" in (record.error or {})["hint"]


def test_R12_an_engine_there_that_is_restarted_ends_the_run_and_is_named(
    box: Box, remote_project: Path
) -> None:
    for way in (PrivateEngine.stop, PrivateEngine.kill):
        directory = submit(remote_project, COUNTING)
        wait_for(directory, "line 20")
        way(box.engine)
        until(lambda one=directory: runs.read_record(one).status == "NotResponding")  # type: ignore[misc]
        box.engine.start()
        record = experiment.wait(directory, 60)
        assert (record.status, record.reason) == ("Failed", "run.engine_restarted"), way
        # what it printed until then is here
        lines = machines.log(directory).splitlines()
        assert [line.rsplit(" ", 1)[0] for line in lines] == [f"line {at}" for at in range(len(lines))]
        until(lambda one=directory: not runs.supervised(one))  # type: ignore[misc]
        assert not box.left()


def test_R12_a_machine_that_was_restarted_is_told_by_its_boot_id(
    box: Box, remote_project: Path, tmp_path: Path
) -> None:
    directory = submit(remote_project, COUNTING)
    wait_for(directory, "line 20")
    box.sshd.stop()
    box.engine.kill()
    for pid in box.engine.container_processes():
        with suppress(ProcessLookupError):  # a child of one that was killed before
            os.kill(pid, 9)
    (tmp_path / "boot_id").write_text("00000000-0000-4000-8000-000000000000\n")
    restarted = tmp_path / "sshd"
    restarted.write_text(
        "#!/bin/sh\n"
        f"exec unshare -m sh -c 'mount --bind {tmp_path}/boot_id /proc/sys/kernel/random/boot_id;"
        f' exec {box.sshd._program} "$@"\' sshd "$@"\n'
    )
    restarted.chmod(0o755)
    box.sshd._program = str(restarted)
    box.engine.start()
    box.sshd.start()
    record = experiment.wait(directory, 60)
    assert (record.status, record.reason) == ("Failed", "run.lost")
    assert "127.0.0.1 was restarted" in (record.error or {})["message"]
    assert "line 20" in machines.log(directory)


# --- two who use one machine --------------------------------------------------------------------------------


def test_R11_two_who_send_the_same_project_at_once_do_not_meet(
    box: Box, remote_project: Path, tmp_path: Path
) -> None:
    files = add_files(remote_project, 12, 200_000)
    (remote_project / "script.py").write_text(FILES)
    homes = [str(tmp_path / "home/.azureml"), str(tmp_path / "home/other")]
    commands = [
        (home, subprocess.Popen(
            [*AML, "run", "--json", "-q", "box", "script.py"],
            cwd=remote_project,
            env=environment(AML_HOME=home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ))
        for home in homes * 3
    ]  # fmt: skip
    for home, command in commands:
        out, said = command.communicate(timeout=200)
        assert command.returncode == 0, said
        record = json.loads(out)
        log = Path(home, "runs/local/default/project", record["run_id"], "job/log").read_text()
        assert dict(line.split() for line in log.splitlines()) == files
    assert len(machines.started(box)) == 6
    until(lambda: not box.left())
    for home in homes:
        machines.end_connections(home)
