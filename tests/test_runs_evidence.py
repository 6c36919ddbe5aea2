"""What a record says while its run lives, is left alone, or is lost: real processes, nothing written."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from aml_jupyter import processes, runs
from aml_jupyter.runs import evidence
from tests.made_runs import (
    end,
    ended_identity,
    exited,
    set_back,
    sleeper,
    started,
    submit,
    supervised_by,
    write,
)


@pytest.fixture
def living() -> Iterator[dict[str, Any]]:
    """The identity of a process that lives."""
    process = sleeper()
    yield processes.identity(process.pid)
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def gone() -> dict[str, Any]:
    """The identity of a process that has gone."""
    return ended_identity()


# supervisor, job, exit.json, what the supervisor told last -> status, reason
Case = tuple[str | None, str | None, bool, str | None, str, str]
CASES: list[Case] = [
    ("living", None, False, "Preparing", "Preparing", ""),
    ("living", None, False, "Queued", "Queued", ""),
    ("living", "living", False, "Running", "Running", ""),
    ("living", "living", False, "Preparing", "Preparing", ""),
    ("living", "living", False, "Finalizing", "Finalizing", ""),
    ("living", "living", False, "NotResponding", "NotResponding", "ssh: no route to host"),
    ("living", "gone", False, "Running", "NotResponding", "run.lost"),
    ("living", "gone", True, "Running", "Finalizing", ""),
    ("living", "living", True, "Running", "Finalizing", ""),
    ("gone", None, False, "Preparing", "NotResponding", "supervisor.gone"),
    ("gone", "living", False, "Running", "NotResponding", "supervisor.gone"),
    ("gone", "gone", False, "Running", "NotResponding", "run.lost"),
    ("gone", "gone", True, "Running", "NotResponding", "supervisor.gone"),
    ("gone", "gone", True, "Completed", "NotResponding", "supervisor.gone"),
    (None, None, False, None, "NotStarted", ""),
]


@pytest.mark.parametrize("case", CASES, ids=["-".join(map(str, case)) for case in CASES])
def test_G3_G4_a_record_says_what_its_processes_show(
    home: str,
    living: dict[str, Any],
    gone: dict[str, Any],
    case: Case,
) -> None:
    supervisor, job, ended, told, status, reason = case
    who = {"living": living, "gone": gone}
    directory = submit(home)
    if supervisor:
        supervised_by(directory, who[supervisor])
    if job:
        started(directory, who[job])
    if ended:
        exited(directory, 3)
    if told:
        runs.append_status(directory, told, reason if told == "NotResponding" else "")
    before = tree(directory.path)
    record = runs.read_record(directory)
    assert (record.status, record.reason) == (status, reason)
    assert tree(directory.path) == before
    if reason in ("run.lost", "supervisor.gone"):
        assert record.error is not None
        assert f"aml resume {directory.run_id}" in record.error["hint"]
    if ended:
        assert (record.exit_code, record.duration) == (3, 1.5)


def tree(path: str) -> list[tuple[str, int, int]]:
    """Every file with size and time of change."""
    found = []
    for folder, _, files in os.walk(path):
        for name in files:
            stat = os.stat(f"{folder}/{name}")
            found.append((f"{folder}/{name}", stat.st_size, stat.st_mtime_ns))
    return sorted(found)


def test_L4_after_a_start_of_the_machine_no_process_is_taken_for_the_job(
    home: str, living: dict[str, Any]
) -> None:
    directory = submit(home)
    before_the_start = {**living, "boot_id": "00000000-0000-0000-0000-000000000000"}
    supervised_by(directory, before_the_start)
    started(directory, before_the_start)
    runs.append_status(directory, "Running")
    assert runs.read_record(directory).reason == "run.lost"


def test_a_job_elsewhere_is_not_looked_for_here(
    home: str, living: dict[str, Any], gone: dict[str, Any]
) -> None:
    directory = submit(home, kind="remotedocker")
    supervised_by(directory, living)
    started(directory, gone)
    runs.append_status(directory, "Running")
    assert runs.read_record(directory).status == "Running"
    supervised_by(directory, gone)
    assert runs.read_record(directory).reason == "supervisor.gone"


def test_N19_a_silent_job_is_not_responding_and_recovers(home: str, living: dict[str, Any]) -> None:
    directory = submit(home)
    supervised_by(directory, living)
    started(directory, living)
    runs.append_status(directory, "Running")
    for age, status in ((0.0, "Running"), (20.0, "Running"), (40.0, "NotResponding"), (1.0, "Running")):
        with open(directory.heartbeat, "w") as file:
            file.write(f"7 {time.monotonic() - age:.3f} {runs.utc()}\n")
        assert runs.read_record(directory).status == status
    with open(directory.heartbeat, "w") as file:
        file.write("7 ")
    assert runs.read_record(directory).status == "Running"


@pytest.mark.parametrize("jump", [-365 * 86400, -3600, 3600, 365 * 86400])
def test_L14_a_jump_of_the_clock_changes_no_state(
    home: str, living: dict[str, Any], monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    directory = submit(home)
    supervised_by(directory, living)
    started(directory, living)
    runs.append_status(directory, "Running")
    with open(directory.heartbeat, "w") as file:
        file.write(f"7 {time.monotonic():.3f} {runs.utc()}\n")
    now = time.time() + jump
    monkeypatch.setattr(time, "time", lambda: now)
    assert runs.read_record(directory).status == "Running"


def test_a_run_may_take_a_moment_to_find_its_supervisor_and_no_longer(home: str) -> None:
    directory = submit(home)
    assert runs.read_record(directory).status == "NotStarted"
    set_back(directory.run_json, evidence.STARTING + 1)
    assert runs.read_record(directory).reason == "supervisor.gone"


def test_a_supervisor_is_known_before_it_has_written_its_name(home: str) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc/locks")
    directory = submit(home)
    program = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program, directory.supervisor_lock],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert runs.supervised(directory)
        assert runs.read_record(directory).status == "NotStarted"
        # asking has not taken the lock, not even for a moment
        lock = os.open(directory.supervisor_lock, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
        holder.communicate(b"\n")
    assert not runs.supervised(directory)


def test_a_request_to_cancel_shows_until_the_run_has_ended(home: str, living: dict[str, Any]) -> None:
    directory = submit(home)
    supervised_by(directory, living)
    started(directory, living)
    runs.append_status(directory, "Running")
    runs.request_cancel(directory)
    assert runs.read_record(directory).status == "CancelRequested"
    exited(directory)
    assert runs.read_record(directory).status == "Finalizing"
    end(directory, "Canceled")
    assert runs.read_record(directory).status == "Canceled"


def test_an_ending_is_an_ending_whatever_the_processes_show(home: str, living: dict[str, Any]) -> None:
    directory = submit(home)
    started(directory, living)
    end(directory, "Failed", reason="run.exit_nonzero")
    assert (runs.read_record(directory).status, runs.read_record(directory).reason) == (
        "Failed",
        "run.exit_nonzero",
    )


def test_a_state_that_a_full_disk_cut_off_is_passed_over(home: str, living: dict[str, Any]) -> None:
    directory = submit(home)
    supervised_by(directory, living)
    runs.append_status(directory, "Preparing")
    with open(directory.status_jsonl, "ab") as file:
        file.write(b'{"utc": "2026-')
    assert runs.read_record(directory).status == "Preparing"
    runs.append_status(directory, "Queued")
    assert runs.read_record(directory).status == "Queued"
    with open(directory.status_jsonl, "rb") as file:
        lines = file.read().splitlines()
    assert len(lines) == 3


def test_the_same_state_is_told_once(home: str) -> None:
    directory = submit(home)
    for _ in range(3):
        runs.append_status(directory, "NotResponding", "no route to host")
    with open(directory.status_jsonl, "rb") as file:
        assert len(file.readlines()) == 1


def test_the_phases_that_were_over_are_known_to_the_next_supervisor(home: str) -> None:
    directory = submit(home)
    assert runs.phases_over(directory) == {}
    for phases in ({"snapshot": 0.1, "prepare": 2.5}, {"snapshot": 0.1, "prepare": 2.5, "start": 0.25}):
        runs.mark_starting(directory, phases)
        assert runs.phases_over(directory) == phases


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"phases": 1}', b'{"phases": {"prepare": "long"}}', b'{"phases"', b"\xff"],
)
def test_phases_that_nobody_told_are_left_out(home: str, content: bytes) -> None:
    directory = submit(home)
    with open(directory.starting, "wb") as file:
        file.write(content)
    assert runs.phases_over(directory) == {}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 9999, b'{"pid": "x"}', b"{}"])
def test_damaged_evidence_is_no_evidence(home: str, content: bytes) -> None:
    directory = submit(home)
    for path in (directory.started_json, directory.supervisor_lock, directory.exit_json):
        with open(path, "wb") as file:
            file.write(content)
    assert runs.read_record(directory).status in ("NotResponding", "Finalizing")


def test_evidence_that_is_a_fifo_or_a_folder_is_no_evidence(home: str) -> None:
    directory = submit(home)
    os.mkfifo(directory.started_json)
    os.mkdir(directory.exit_json)
    os.mkfifo(directory.status_jsonl)
    set_back(directory.run_json, 60)
    assert runs.read_record(directory).status == "NotResponding"


def test_a_reader_that_may_not_write_reads(home: str) -> None:
    directory = submit(home)
    write(directory.supervisor_lock, {"pid": 1, "start_time": "x", "boot_id": "x"})
    os.chmod(directory.path, 0o500)
    try:
        assert runs.read_record(directory).reason == "supervisor.gone"
    finally:
        os.chmod(directory.path, 0o700)
