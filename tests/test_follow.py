"""What a follower reads of a run: everything once, in order, whatever state the files are in."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.experiment import Request
from aml_jupyter.follow import Event, Follower, Output, Status, Text
from aml_jupyter.runs import RunDirectory
from tests.terminal import aml


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run directory whose files a test writes itself."""
    (tmp_path / "runs/a/w/p/p_1/job").mkdir(parents=True)
    return RunDirectory(str(tmp_path / "runs/a/w/p/p_1"))


def write(directory: RunDirectory, log: bytes, *events: object) -> None:
    with open(directory.log, "ab") as file:
        file.write(log)
    with open(directory.events_jsonl, "ab") as file:
        file.writelines(
            event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n" for event in events
        )


def ended(directory: RunDirectory) -> None:
    Path(directory.status_jsonl).write_text('{"status": "Completed", "reason": ""}\n')


def plain(outputs: list[Output]) -> list[object]:
    """Outputs as short forms, neighbouring pieces of one stream joined."""
    found: list[object] = []
    for output in outputs:
        if isinstance(output, Text):
            if found and isinstance(found[-1], tuple) and found[-1][0] == output.stream:
                found[-1] = (output.stream, found[-1][1] + output.text)
            else:
                found.append((output.stream, output.text))
        elif isinstance(output, Event):
            found.append(output.event["type"])
        elif isinstance(output, Status):
            found.append(output.status)
    return found


def test_events_stand_where_they_happened(directory: RunDirectory) -> None:
    ended(directory)
    write(directory, b"onetwo", {"type": "display", "at": 3, "data": {}}, {"type": "metric", "at": 6})
    follower = Follower(directory)
    assert plain(list(follower.read())) == [
        "Completed", ("stdout", "one"), "display", ("stdout", "two"), "metric",
    ]  # fmt: skip
    assert list(follower.read()) == []
    write(directory, b"three")
    assert plain(list(follower.read())) == [("stdout", "three")]


def test_streams_are_told_apart(directory: RunDirectory) -> None:
    ended(directory)
    write(directory, b"outerrout", {"type": "stderr", "at": 3, "start": 3, "end": 6})
    found = plain(list(Follower(directory).read()))
    assert found == ["Completed", ("stdout", "out"), ("stderr", "err"), ("stdout", "out")]


def test_a_character_in_two_pieces_is_one(directory: RunDirectory) -> None:
    ended(directory)
    snow = "☃".encode()
    follower = Follower(directory)
    write(directory, snow[:2])
    assert plain(list(follower.read())) == ["Completed"]
    write(directory, snow[2:])
    assert plain(list(follower.read())) == [("stdout", "☃")]


def test_a_line_that_is_no_event_is_passed_over(directory: RunDirectory) -> None:
    Path(directory.status_jsonl).write_bytes(b'\xff{"sta\n[1]\n{"status": "Completed"}\n{"stat')
    write(
        directory,
        b"text",
        b"garbage\n[1]\n\xff\xfe\n\n",
        {"type": "stderr"},
        {"type": "stderr", "start": "a", "end": None},
        {"type": "display"},
        {"type": "display", "at": "x"},
        {"at": 3},
        {"type": "metric", "at": 4},
        b'{"type": "cut o',
    )
    assert plain(list(Follower(directory).read())) == ["Completed", ("stdout", "text"), "metric"]


def test_a_run_without_files_has_nothing_to_read(directory: RunDirectory) -> None:
    assert list(Follower(directory).read()) == []


def test_a_follower_may_begin_near_the_end_and_keep_bytes_as_they_are(directory: RunDirectory) -> None:
    ended(directory)
    write(directory, b"x" * 100 + b"\xff\xe9")
    follower = Follower(directory, tail=3, errors="surrogateescape")
    outputs = [*follower.read(), *follower.rest()]
    text = "".join(one.text for one in outputs if isinstance(one, Text))
    assert text.encode("utf-8", "surrogateescape") == b"x\xff\xe9"


def test_a_large_log_is_read_in_bounded_pieces(directory: RunDirectory) -> None:
    ended(directory)
    write(directory, b"y" * (5 << 20))
    pieces = [one.text for one in Follower(directory).read() if isinstance(one, Text)]
    assert sum(map(len, pieces)) == 5 << 20
    assert max(map(len, pieces)) <= 1 << 20


def test_following_ends_with_the_run_and_misses_nothing(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    (project / "script.py").write_text(
        "import sys, time\n"
        "for i in range(200):\n"
        "    print(i, file=sys.stderr if i % 10 == 0 else sys.stdout, flush=True)\n"
        "    time.sleep(0.001)\n"
    )
    directory = experiment.submit(Request(script="script.py"))
    while not runs.supervised(directory):
        time.sleep(0.01)
    outputs = list(Follower(directory).follow())
    printed: dict[str, str] = {"stdout": "", "stderr": ""}
    for one in outputs:
        if isinstance(one, Text):
            printed[one.stream] += one.text
    # two pipes: each in its order
    assert [int(line) for line in printed["stderr"].split()] == list(range(0, 200, 10))
    assert [int(line) for line in printed["stdout"].split()] == [i for i in range(200) if i % 10]
    assert [one.status for one in outputs if isinstance(one, Status)][-1] == "Completed"


def noted(outputs: list[Output]) -> list[tuple[str, int | str]]:
    """Where each event came in the text, and of which stream each line was."""
    found: list[tuple[str, int | str]] = []
    read = 0
    for output in outputs:
        if isinstance(output, Text):
            read += len(output.text)
            found += [(output.stream, line) for line in output.text.split()]
        elif isinstance(output, Event):
            found.append((output.event["type"], read))
    return found


def test_more_events_than_are_read_at_once_keep_their_places_and_all_of_them_come(
    directory: RunDirectory,
) -> None:
    ended(directory)
    padding = "x" * 900
    log, events, wanted = b"", [], []
    for n in range(4000):
        log += b"out%04d " % n
        start = len(log)
        log += b"err%04d " % n
        events += [{"type": "stderr", "at": start, "start": start, "end": len(log)}]
        events += [{"type": "display", "at": len(log), "pad": padding}]
        wanted += [("stdout", f"out{n:04}"), ("stderr", f"err{n:04}"), ("display", len(log))]
    write(directory, log, *events)
    assert Path(directory.events_jsonl).stat().st_size > 3 << 20
    assert noted(list(Follower(directory).read())) == wanted


def test_events_without_text_are_all_read_at_once(directory: RunDirectory) -> None:
    write(directory, b"", *({"type": "metric", "at": 0, "n": n, "pad": "x" * 1000} for n in range(3000)))
    found = [one.event["n"] for one in Follower(directory).read() if isinstance(one, Event)]
    assert found == list(range(3000))


def test_a_long_log_does_not_load_all_of_its_events(directory: RunDirectory) -> None:
    ended(directory)
    places = [n << 19 for n in range(20)]
    write(
        directory, b"y" * (20 << 19), *({"type": "metric", "at": at, "pad": "x" * 500_000} for at in places)
    )
    follower = Follower(directory)
    found = []
    for output in follower.read():
        assert follower.events_position < follower.position + (6 << 20)
        if isinstance(output, Event):
            found.append((output.event["at"], follower.position))
    assert found == [(at, at) for at in places]


def test_events_of_a_log_that_was_shortened_are_told_at_the_end(directory: RunDirectory) -> None:
    ended(directory)
    events = [{"type": "display", "at": 1 << 30, "n": n, "pad": "x" * 1000} for n in range(3000)]
    write(directory, b"text", {"type": "metric", "at": 4}, *events)
    outputs = list(Follower(directory).follow())
    assert plain(outputs)[:3] == ["Completed", ("stdout", "text"), "metric"]
    assert [one.event["n"] for one in outputs[3:] if isinstance(one, Event)] == list(range(3000))


def test_text_behind_stderr_is_printed_although_the_run_goes_on(directory: RunDirectory) -> None:
    write(directory, b"errout", {"type": "stderr", "at": 0, "start": 0, "end": 3})
    assert plain(list(Follower(directory).rest())) == [("stderr", "err"), ("stdout", "out")]


AHEAD = {"format": 1, "run_id": "p_1", "stderr": "ahead"}


def test_stderr_that_goes_on_is_stderr_until_it_is_closed(directory: RunDirectory) -> None:
    follower = Follower(directory)
    write(directory, b"outerr", AHEAD, {"type": "stderr", "at": 3, "start": 3, "end": 3, "more": True})
    assert plain(list(follower.read())) == [("stdout", "out"), ("stderr", "err")]
    write(directory, b"more")
    assert plain(list(follower.read())) == [("stderr", "more")]
    write(directory, b"out", {"type": "stderr", "at": 10, "start": 3, "end": 10})
    assert plain(list(follower.read())) == [("stdout", "out")]


def test_stderr_whose_end_was_lost_ends_at_the_next(directory: RunDirectory) -> None:
    opened = {"type": "stderr", "at": 0, "start": 0, "end": 0, "more": True}
    write(
        directory, b"123456", AHEAD, opened, dict(opened, start=2), dict(opened, start=4, end=5, more=False)
    )
    assert plain(list(Follower(directory).read())) == [("stderr", "12345"), ("stdout", "6")]


def test_text_of_an_older_runtime_waits_until_its_stream_is_told(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aml_jupyter.follow.TOLD", 60.0)
    follower = Follower(directory)
    write(directory, b"err", {"type": "error", "at": 0}, {"type": "value", "at": 3})
    assert plain(list(follower.read())) == ["error"]
    write(directory, b"", {"type": "stderr", "at": 0, "start": 0, "end": 3})
    assert plain(list(follower.read())) == [("stderr", "err"), "value"]
    write(directory, b"out")
    assert list(follower.read()) == []
    monkeypatch.setattr("aml_jupyter.follow.TOLD", 0.0)
    assert plain(list(follower.read())) == [("stdout", "out")]


def test_a_line_that_is_nested_too_deeply_is_no_event(directory: RunDirectory) -> None:
    write(directory, b"", b"[" * 200_000 + b"\n", {"type": "metric", "at": 0})
    assert plain(list(Follower(directory).read())) == ["metric"]


@pytest.mark.parametrize("replace", [os.mkfifo, os.mkdir, lambda path: os.symlink(path + ".old", path)])
@pytest.mark.parametrize("name", ["log", "events.jsonl"])
def test_a_pipe_a_link_or_a_folder_in_the_place_of_a_file_is_not_read(
    directory: RunDirectory, name: str, replace: Callable[[str], None]
) -> None:
    ended(directory)
    write(directory, b"text", {"type": "metric", "at": 0})
    path = f"{directory.job}/{name}"
    os.rename(path, path + ".old")
    replace(path)
    outputs = list(Follower(directory).follow())
    assert plain(outputs) == ["Completed", "metric" if name == "log" else ("stdout", "text")]


def test_the_last_lines_of_a_pipe_in_the_place_of_the_log_are_none(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    directory = experiment.submit(Request(cell=b"print('gone')"))
    experiment.wait(directory)
    os.unlink(directory.log)
    os.mkfifo(directory.log)
    done = aml("logs", "--tail", "1", timeout=30)
    assert (done.returncode, done.stdout) == (0, "")
