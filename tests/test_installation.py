"""The kept runtime: whole for every run, made again when it is not, never removed under a submit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aml_jupyter import installation, retention
from aml_jupyter.errors import HistoryError
from aml_jupyter.locks import exclusive
from tests.made_runs import finished, set_back

PROGRAM = "import sys; from aml_jupyter import installation; installation.place(sys.argv[1], sys.argv[2])"


def placed(home: str) -> Path:
    """The copy that a new run gets."""
    job = finished(home).job
    installation.place(home, job)
    return Path(job, "runtime").resolve()


def starts(kept: Path) -> bool:
    """Whether the runtime can be loaded by the interpreter that runs it."""
    line = [
        sys.executable,
        "-S",
        "-E",
        "-s",
        "-c",
        "import sys; sys.path[0] = sys.argv[1]; import launch, main",
    ]
    return subprocess.run([*line, str(kept)], capture_output=True, check=False).returncode == 0


def codes(home: str) -> list[tuple[str, str]]:
    return [(one.code, one.path) for one in retention.check(home)]


def test_a_copy_is_made_once_and_is_whole(home: str) -> None:
    kept = placed(home)
    before = {str(path): path.stat().st_mtime_ns for path in kept.rglob("*.pyc")}
    assert before
    assert placed(home) == kept
    # also by a run of a copy of the home, whose files have other times
    os.utime(kept / "launch.py")
    assert starts(kept)
    assert {str(path): path.stat().st_mtime_ns for path in kept.rglob("*.pyc")} == before
    assert os.listdir(home + "/runtimes") == [kept.name]
    assert codes(home) == []


@pytest.mark.parametrize("damage", ["gone", "cut", "byte code", "list gone", "list damaged", "folder"])
def test_a_copy_that_is_not_whole_is_told_and_no_further_run_gets_it(home: str, damage: str) -> None:
    kept = placed(home)
    source, listed = kept / "launch.py", kept / installation.FILES
    (byte_code,) = (kept / "__pycache__").glob("launch.*.pyc")
    if damage == "gone":
        source.unlink()
    elif damage == "cut":
        source.write_bytes(source.read_bytes()[:-20])
    elif damage == "byte code":
        byte_code.write_bytes(byte_code.read_bytes()[:100])
    elif damage == "folder":
        source.unlink()
        source.mkdir()
    elif damage == "list gone":
        listed.unlink()
    else:
        listed.write_bytes(b"{}")
    assert codes(home) == [("runtime.damaged", str(kept))]
    assert starts(kept) == (damage in ("cut", "list gone", "list damaged"))
    other = placed(home)
    assert other != kept
    assert starts(other)
    assert placed(home) == other
    assert kept.is_dir()


def test_a_changed_byte_that_a_look_does_not_see_is_found_by_check(home: str) -> None:
    kept = placed(home)
    source = kept / "launch.py"
    found = source.stat()
    data = bytearray(source.read_bytes())
    data[100] ^= 1
    source.write_bytes(data)
    os.utime(source, ns=(found.st_atime_ns, found.st_mtime_ns))
    (finding,) = retention.check(home)
    assert (finding.code, finding.path) == ("runtime.damaged", str(kept))
    assert "launch.py" in finding.message
    assert "Remove" in finding.hint


def test_many_processes_that_need_the_first_copy_make_one(home: str) -> None:
    jobs = [finished(home).job for _ in range(6)]
    busy = [subprocess.Popen([sys.executable, "-c", PROGRAM, home, job]) for job in jobs]
    assert [process.wait(120) for process in busy] == [0] * 6
    assert len({os.path.realpath(job + "/runtime") for job in jobs}) == 1
    assert len(os.listdir(home + "/runtimes")) == 1


def test_a_copy_that_a_killed_process_left_in_part_is_in_nobodys_way(home: str) -> None:
    kept = placed(home)
    left = kept.with_name(f"{kept.name}.{os.getpid()}{installation.PARTIAL}")
    kept.rename(left)
    assert placed(home) == kept
    assert codes(home) == []
    assert left.is_dir()


def test_gc_spares_an_old_copy_from_the_moment_a_submit_takes_it(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = placed(home)
    job = finished(home).job
    now = time.time
    # every run that used it is older than a week
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: now() + 30 * 86400)
        assert str(kept) in retention._old_runtimes(home, [], [])
    set_back(str(kept), 30 * 86400)
    installation.place(home, job)
    retention._remove_runtimes(home, [str(kept)])
    assert starts(Path(job, "runtime"))
    set_back(str(kept), 30 * 86400)
    retention._remove_runtimes(home, [str(kept)])
    assert not kept.exists()


def test_a_submit_waits_for_who_removes_copies(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    placed(home)
    monkeypatch.setattr("aml_jupyter.locks.PATIENCE", 0.05)
    with exclusive(home + "/runtimes"), pytest.raises(HistoryError) as raised:
        placed(home)
    assert raised.value.code == "history.locked"
