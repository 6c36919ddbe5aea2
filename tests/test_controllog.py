"""What preparation and supervisor say of a run: bounded on the disk, and followed without a gap."""

from __future__ import annotations

import os
import re
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

from aml_jupyter import controllog, experiment, runs
from aml_jupyter.controllog import ControlLog
from aml_jupyter.experiment import Request
from aml_jupyter.follow import Follower, Progress
from aml_jupyter.runs import RunDirectory
from aml_jupyter.starting import Starter
from tests.requirements import need
from tests.terminal import aml, until

LINE = "line %08d " + "x" * 984
SIZE = len(LINE % 0) + 1
MARKER = re.compile(rb"\n\[aml: the log reached its limit: (\d+) bytes are left out here\]\n")


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run directory whose log a test writes itself."""
    (tmp_path / "runs/a/w/p/p_1/job").mkdir(parents=True)
    return RunDirectory(str(tmp_path / "runs/a/w/p/p_1"))


def add(log: ControlLog, first: int, stop: int) -> None:
    for number in range(first, stop):
        log.add(LINE % number)


def numbers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"^line (\d{8})", text, re.MULTILINE)]


def told(follower: Follower) -> list[str]:
    return [output.text for output in follower.read() if isinstance(output, Progress)]


def test_beginning_and_end_are_kept_and_what_is_left_out_is_counted(directory: RunDirectory) -> None:
    log, path = ControlLog(directory.control_log), Path(directory.control_log)
    largest, most = 0, 50_000
    for first in range(0, most, 1000):
        add(log, first, first + 1000)
        largest = max(largest, path.stat().st_size)
    assert controllog.LARGEST - (1 << 20) < largest <= controllog.LARGEST
    kept = path.read_bytes()
    (found,) = MARKER.finditer(kept)
    assert found.start() == controllog.HEAD
    assert int(found[1]) == most * SIZE - (len(kept) - len(found[0]))
    before, after = numbers(kept[: found.start()].decode()), numbers(kept[found.end() :].decode())
    assert before == list(range(len(before)))
    assert after == list(range(most - len(after), most))
    assert len(after) * SIZE >= controllog.TAIL - SIZE
    assert kept[found.end() :].startswith(b"line ")
    assert sorted(os.listdir(directory.path)) == ["control.log", "job"]


def test_each_line_of_a_log_that_is_shortened_is_followed_once(directory: RunDirectory) -> None:
    log, follower = ControlLog(directory.control_log), Follower(directory)
    lines: list[str] = []
    for first in range(0, 40_000, 1500):
        add(log, first, first + 1500)
        lines += told(follower)
    assert numbers("\n".join(lines)) == list(range(40_500))
    assert told(follower) == []


def test_who_follows_too_slowly_is_told_what_is_missing_and_gets_the_end(directory: RunDirectory) -> None:
    log, follower = ControlLog(directory.control_log), Follower(directory)
    add(log, 0, 5000)
    assert numbers("\n".join(told(follower))) == list(range(5000))
    add(log, 5000, 40_000)
    lines = told(follower)
    assert MARKER.fullmatch(("\n" + lines[1] + "\n").encode())
    found = numbers("\n".join(lines))
    assert found == list(range(found[0], 40_000))
    assert len(found) * SIZE > controllog.TAIL - SIZE
    add(log, 40_000, 40_001)
    assert numbers("\n".join(told(follower))) == [40_000]


def test_who_comes_late_gets_beginning_and_end(directory: RunDirectory) -> None:
    add(ControlLog(directory.control_log), 0, 40_000)
    text = "\n".join(told(Follower(directory)))
    found = numbers(text)
    assert (found[0], found[-1]) == (0, 39_999)
    assert sum(second != first + 1 for first, second in pairwise(found)) == 1
    assert text.count("bytes are left out here") == 1


def test_another_supervisor_goes_on_with_the_bound_and_the_count(directory: RunDirectory) -> None:
    for first in range(0, 50_000, 5000):
        add(ControlLog(directory.control_log), first, first + 5000)
    kept = Path(directory.control_log).read_bytes()
    assert len(kept) <= controllog.LARGEST
    (found,) = MARKER.finditer(kept)
    assert int(found[1]) == 50_000 * SIZE - (len(kept) - len(found[0]))


@pytest.mark.parametrize("before", ["", "first"])
def test_a_line_larger_than_all_of_the_log_does_not_go_beyond(directory: RunDirectory, before: str) -> None:
    log = ControlLog(directory.control_log)
    if before:
        log.add(before)
    log.add("a" * (20 << 20) + "z")
    log.add("behind")
    kept = Path(directory.control_log).read_bytes()
    assert len(kept) <= controllog.LARGEST
    assert kept.startswith(before.encode())
    assert kept.endswith(b"az\nbehind\n")
    (found,) = MARKER.finditer(kept)
    assert int(found[1]) + len(kept) - len(found[0]) == (20 << 20) + 2 + 7 + (
        len(before) + 1 if before else 0
    )
    # a follower does not wait for the end of such a line
    assert told(Follower(directory))[-1] == "behind"


def test_a_large_log_of_an_earlier_version_is_shortened_as_well(directory: RunDirectory) -> None:
    path = Path(directory.control_log)
    path.write_text("".join(LINE % number + "\n" for number in range(40_000)))
    ControlLog(str(path)).add("behind")
    assert path.stat().st_size < controllog.HEAD + controllog.TAIL + 1000
    assert path.read_bytes().endswith(b"\nbehind\n")


def test_a_pipe_or_a_link_in_its_place_is_left_alone(directory: RunDirectory, tmp_path: Path) -> None:
    os.mkfifo(directory.control_log)
    ControlLog(directory.control_log).add("nobody reads this")
    os.unlink(directory.control_log)
    (tmp_path / "other").write_text("mine")
    os.symlink(tmp_path / "other", directory.control_log)
    ControlLog(directory.control_log).add("nobody reads this")
    assert (tmp_path / "other").read_text() == "mine"


@pytest.mark.root
def test_S12_a_disk_with_no_room_for_the_shorter_log_costs_lines_and_no_time(tmp_path: Path) -> None:
    need("root")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run([need("mount"), "-t", "tmpfs", "-o", "size=18m", "none", small]).returncode:
        pytest.skip("needs the right to mount")
    try:
        log = ControlLog(f"{small}/control.log")
        began = time.monotonic()
        add(log, 0, 60_000)
        assert time.monotonic() - began < 20
        assert numbers((small / "control.log").read_text())[0] == 0
        assert os.listdir(small) == ["control.log"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_supervisor_keeps_to_the_bound_and_people_are_shown_what_is_kept(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    (project / "script.py").write_text("print('done')")
    request = Request(script="script.py", secrets={"TOKEN": "hush-hush"})
    directory = experiment.write(experiment.plan(request))
    # what its first supervisor has said, before it died
    path = Path(directory.control_log)
    path.write_text("".join(LINE % number + "\n" for number in range(controllog.LARGEST // SIZE)))
    Starter().go(directory.path, {})
    until(lambda: runs.read_record(directory).reason == "secret.needed", 60)
    assert path.stat().st_size < controllog.HEAD + controllog.TAIL + 1000
    shown = aml("logs", directory.run_id, "--control").stdout
    assert shown.count("bytes are left out here") == 1
    assert numbers(shown)[0] == 0
    assert "needs TOKEN" in shown.splitlines()[-1]
