"""Outputs of runs that go on in a container that mounts nothing, or on another machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aml_jupyter import experiment, runs, unfinished
from aml_jupyter.errors import AmlError, ArtifactError, TargetUnavailable
from aml_jupyter.run import Run
from aml_jupyter.runs import RunDirectory
from tests import container_runs, machines
from tests.engines import BASE_IMAGE, PrivateEngine
from tests.machines import Box
from tests.terminal import aml, data, until

Start = Callable[..., RunDirectory]

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.root]

NESTED = "outputs/deep/er dir/ä/b c.txt"
# never the same twice while it goes on
WRITING = f"""
import os, time
os.makedirs(os.path.dirname({NESTED!r}))
open({NESTED!r}, "w").write("nested")
open("outputs/empty", "w").close()
open("outputs/data.bin", "wb").write(bytes(range(256)) * 20_000)
os.link("outputs/data.bin", "outputs/second.bin")
os.symlink("/etc/passwd", "outputs/passwd")
os.symlink("/etc", "outputs/etc")
os.symlink("data.bin", "outputs/link")
os.mkfifo("outputs/pipe")
os.makedirs("away")
open("away/secret", "w").write("not among the outputs")
os.symlink("../away", "outputs/away")
with open("outputs/growing.log", "w") as growing:
    print("up", flush=True)
    for number in range(10_000_000):
        growing.write(f"line {{number:08}}\\n")
        growing.flush()
        if number > 2000:
            time.sleep(0.0002)
"""
DATA = bytes(range(256)) * 20_000
FILES = ["outputs/data.bin", NESTED, "outputs/empty", "outputs/growing.log", "outputs/second.bin"]


@pytest.fixture(params=["copied", "box"])
def target(
    request: pytest.FixtureRequest,
    remote_project: Path,
    box: Box,
    private_engine: PrivateEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """A target whose working copies are not seen from this computer."""
    name = str(request.param)
    if name == "copied":
        monkeypatch.setenv("DOCKER_HOST", private_engine.host)
        text = container_runs.COMPUTE.format(BASE_IMAGE, "false")
        (remote_project / "aml_config/copied.compute").write_text(text)
    return name


@pytest.fixture
def start(remote_project: Path, box: Box, private_engine: PrivateEngine) -> Iterator[Start]:
    """Starts a run that goes on; nothing of it is left in the engine or on the machine."""
    begun: list[RunDirectory] = []

    def start(source: str, target: str = "box") -> RunDirectory:
        begun.append(machines.submit(remote_project, source, target))
        machines.wait_for(begun[-1], "up")
        return begun[-1]

    yield start
    for directory in begun:
        experiment.cancel(directory, kill=True)
        experiment.wait(directory, 90)
        until(lambda one=directory: not runs.supervised(one))  # type: ignore[misc]
    assert private_engine.containers() == []
    assert box.left() == []


@pytest.fixture
def running(target: str, start: Start) -> RunDirectory:
    """A run that goes on writing where it is not seen from this computer."""
    return start(WRITING, target)


def whole_lines(text: bytes) -> int:
    """How many of the growing file's lines there are; each is the one that belongs there."""
    lines = text.split(b"\n")[:-1]
    assert lines == [b"line %08d" % number for number in range(len(lines))]
    return len(lines)


def test_outputs_so_far_are_listed_read_and_downloaded_wherever_they_are(
    running: RunDirectory, tmp_path: Path
) -> None:
    listed = {one["path"]: one for one in data("ls", running.run_id)}
    assert sorted(listed) == FILES
    assert {one["state"] for one in listed.values()} == {"unfinished"}
    assert listed["outputs/data.bin"]["size"] == listed["outputs/second.bin"]["size"] == len(DATA)
    assert (listed["outputs/empty"]["size"], listed[NESTED]["size"]) == (0, 6)
    assert [one["path"] for one in data("ls", running.run_id, "deep")] == [NESTED]

    shown = aml("cat", running.run_id, NESTED)
    assert shown.stdout == "nested"
    assert "goes on" in shown.stderr
    first = whole_lines(aml("cat", running.run_id, "growing.log").stdout.encode())
    assert first >= 2000
    run = Run(running)
    assert whole_lines(run.read("outputs/growing.log")) > first
    assert run.read("second.bin") == run.read("/outputs/data.bin/") == DATA
    assert run.read("empty") == b""

    into = tmp_path / "into"
    assert run.get("data.bin", str(into)) == [f"{into}/data.bin"]
    assert (into / "data.bin").read_bytes() == DATA
    assert run.get("deep", str(into)) == [f"{into}/er dir/ä/b c.txt"]
    done = aml("get", running.run_id, "-d", str(into / "all"))
    assert done.returncode == 0, done.stderr
    got = {str(one.relative_to(into / "all")): one for one in (into / "all").rglob("*") if not one.is_dir()}
    assert sorted(got) == FILES
    assert not any(one.is_symlink() for one in got.values())
    assert got["outputs/second.bin"].read_bytes() == got["outputs/data.bin"].read_bytes() == DATA
    assert whole_lines(got["outputs/growing.log"].read_bytes()) > first
    # below a destination only what it was given
    assert sorted(os.listdir(into)) == ["all", "data.bin", "er dir"]
    with pytest.raises(ArtifactError) as refused:
        run.get("data.bin", str(into))
    assert refused.value.code == "artifact.exists"
    assert run.get("data.bin", str(into), overwrite=True) == [f"{into}/data.bin"]
    run.cancel(kill=True).wait(90)
    # what was brought before the end is in nobody's way
    assert run.read("data.bin") == DATA
    assert set(FILES) <= set(run.artifacts)


def test_links_among_outputs_so_far_lead_nowhere(running: RunDirectory, tmp_path: Path) -> None:
    names = ("passwd", "etc/passwd", "etc", "link", "away/secret", "away", "pipe", "none", "../away/secret")
    for name in (*names, "../../etc/passwd", "/etc/passwd", "a//b", "\udc80", "deep"):
        with pytest.raises(ArtifactError) as refused:
            Run(running).read(name)
        assert refused.value.code == "artifact.unknown"
    for name in ("passwd", "outputs/etc/hostname", "away", "\udc80"):
        with pytest.raises(ArtifactError) as refused:
            Run(running).get(name, str(tmp_path / "into"))
        assert refused.value.code == "artifact.unknown"
    assert not (tmp_path / "into").exists()
    told = aml("cat", running.run_id, "outputs/data.bim")
    assert (told.returncode, "outputs/data.bin" in told.stderr) == (2, True), told.stderr


def test_what_is_too_large_is_refused_before_it_comes(running: RunDirectory) -> None:
    with pytest.raises(ArtifactError) as refused:
        Run(running).read("data.bin", limit=1000)
    assert refused.value.code == "artifact.too_big"
    assert not [name for name in os.listdir(running.path) if name.startswith("tmp")]


# ---- what fails


# of no size for long
REPLACING = """
import os
print("up", flush=True)
number = 0
while True:
    number += 1
    with open("outputs/checkpoint", "wb") as file:
        for _ in range(1 + number % 7):
            file.write(bytes([number % 256]) * 3_000_000)
    open("outputs/temporary", "w").close()
    os.unlink("outputs/temporary")
"""


def test_files_that_shrink_while_they_are_read_are_told_of_or_whole(
    target: str, start: Start, tmp_path: Path
) -> None:
    directory = start(REPLACING, target)
    told = set()
    for number in range(8):
        for ask in (
            lambda: unfinished.so_far(directory),
            lambda: Run(directory).get("", str(tmp_path / f"into{number}")),  # noqa: B023
            lambda: Run(directory).read("checkpoint"),
        ):
            try:
                ask()
                told.add(("", True))
            except ArtifactError as error:
                told.add((error.code, "ask again" in error.hint))
    assert ("", True) in told
    assert told <= {("", True), ("outputs.changed", True), ("artifact.unknown", False)}
    # nothing half written has a name
    assert all(one.name in ("checkpoint", "temporary") for one in tmp_path.glob("into*/outputs/*"))


@pytest.mark.parametrize("target", ["copied"], indirect=True)
def test_an_engine_that_does_not_answer_is_told_of(running: RunDirectory) -> None:
    handle = Path(running.handle_json)
    known = handle.read_text()
    handle.write_text(json.dumps({**json.loads(known), "socket": running.path + "/none"}))
    for words in (("ls", running.run_id), ("cat", running.run_id, "data.bin"), ("get", running.run_id)):
        done = aml(*words)
        assert (done.returncode, "[engine.unavailable]" in done.stderr) == (125, True), done.stderr
        assert "Traceback" not in done.stderr
    handle.write_text(known)


def test_a_machine_that_cannot_be_reached_is_told_of(start: Start, box: Box) -> None:
    directory = start(WRITING)
    port, box.line.target = box.line.target, 1
    box.line.cut()
    for words in (("ls", directory.run_id), ("get", directory.run_id)):
        done = aml(*words)
        assert done.returncode == 125, done
        assert "[target." in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    box.line.target = port
    until(lambda: "outputs/data.bin" in aml("ls", directory.run_id).stdout, 60)


@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_a_line_that_breaks_within_a_download_is_told_of_and_leaves_no_part(
    start: Start, box: Box, tmp_path: Path, how: str
) -> None:
    directory = start(WRITING)
    into = tmp_path / "into"
    box.line.cut_after(2_000_000, way="down", how=how)
    with pytest.raises(TargetUnavailable) as told:
        Run(directory).get("data.bin", str(into))
    assert told.value.mendable
    assert os.listdir(into) == []
    until(lambda: _got(directory, into), 60)
    assert (into / "data.bin").read_bytes() == DATA


def _got(directory: RunDirectory, into: Path) -> bool:
    try:
        return bool(Run(directory).get("data.bin", str(into)))
    except TargetUnavailable:
        return False


def test_a_container_that_is_gone_is_told_of(
    start: Start, target: str, private_engine: PrivateEngine
) -> None:
    directory = start(WRITING, target)
    machines.kill_supervisor(directory)
    private_engine.remove_containers()
    if target == "copied":
        with pytest.raises(AmlError) as told:
            unfinished.so_far(directory)
        assert told.value.code == "outputs.changed"
        assert "ask again" in told.value.hint
    else:  # its files do not need the container
        assert [one.path for one in unfinished.so_far(directory)] == FILES
    experiment.resume(directory)
    record = experiment.wait(directory, 90)
    assert record.status == "Failed"
