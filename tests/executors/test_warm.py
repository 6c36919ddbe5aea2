"""Containers that wait for a run: used once, by one run, for what they were made for, and then no longer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import experiment
from aml_jupyter.config import find_project
from aml_jupyter.errors import ConfigError
from aml_jupyter.executors.docker import warm
from aml_jupyter.executors.docker.containers import home_label
from aml_jupyter.executors.docker.engine import Engine
from aml_jupyter.experiment import Request
from aml_jupyter.runs import Record, RunDirectory
from tests import engines
from tests.base_image import BASE_IMAGE
from tests.requirements import need
from tests.terminal import aml, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PACKAGE_PARENT = str(Path(experiment.__file__).parents[2])
COMPUTE = f"type: localdocker\nbaseDockerImage: {BASE_IMAGE}\nsharedVolumes: true\n"
SHARE = "nativeSharedDirectory: ~/share/\n"
SCRIPT = """
import os
with open(os.environ["AZUREML_NATIVE_SHARE_DIRECTORY"] + "started", "a") as file:
    file.write(os.environ["AZUREML_RUN_ID"] + "\\n")
with open("outputs/model.bin", "wb") as file:
    file.write(b"model" * 1000)
print("done", os.environ.get("TOKEN", ""))
"""
FOREVER = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"


@pytest.fixture
def project(
    engine: engines.Engine, tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A project whose target `docker` can be kept warm; nothing of it is left in the engine."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    yield from make_project(tmp_path, monkeypatch)
    for found in Engine(engine.socket).containers({"aml.home": home_label()}):
        Engine(engine.socket).remove(found["Id"])


def make_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "project"
    (folder / "aml_config").mkdir(parents=True)
    (folder / "aml_config/docker.compute").write_text(COMPUTE + SHARE)
    (folder / "aml_config/copied.compute").write_text(COMPUTE.replace("true", "false"))
    (folder / "script.py").write_text(SCRIPT)
    (folder / "forever.py").write_text(FOREVER)
    monkeypatch.chdir(folder)
    yield folder
    for one in warm.kept():
        warm.stop(one.project, one.target)


def keep(idle: float = 300.0) -> str:
    """Keep the target warm; the container that waits."""
    experiment.keep_warm(Request(target="docker"), find_project(), idle, lambda _: None)
    return waits()


def slot_file() -> dict[str, Any]:
    (path,) = Path(os.environ["AML_HOME"], "warm").glob("*/slot/slot.json")
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def is_waiting() -> bool:
    return all(one.waiting for one in warm.kept()) and any(True for _ in warm.kept())


def waits() -> str:
    """The container that waits, as soon as one does."""
    until(is_waiting)
    return str(slot_file()["container"])


def submit(script: str = "script.py", **options: Any) -> RunDirectory:
    return experiment.submit(Request(script=script, target="docker", **options))


def completed(directory: RunDirectory) -> Record:
    record = experiment.wait(directory, 60)
    assert record.status == "Completed", (record.error, told(directory))
    return record


def handle(directory: RunDirectory) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(directory.handle_json).read_bytes())
    return found


def told(directory: RunDirectory) -> str:
    path = Path(directory.control_log)
    return path.read_text() if path.exists() else ""


def model(directory: RunDirectory) -> Path:
    return Path(directory.home, "artifacts/ExperimentRun", directory.run_id, "outputs/model.bin")


class Removed:
    """Whether a container is gone: the engine removes it when its run has ended."""

    def __init__(self, engine: engines.Engine, container: str) -> None:
        self.engine = engine
        self.container = container

    def __call__(self) -> bool:
        return self.engine.ask(f"/containers/{self.container}/json")[0] == 404


def started_runs() -> list[str]:
    (path,) = (Path.home() / "share").glob("**/started")
    return path.read_text().split()


def states(engine: engines.Engine) -> dict[str, str]:
    """Name and state of every container of this home."""
    found = engine.containers(f"label=aml.home={home_label()}")
    return {one["Name"].lstrip("/"): one["State"]["Status"] for one in found}


def test_a_run_takes_the_container_that_waits_and_another_one_waits_for_the_next(
    project: Path, engine: engines.Engine
) -> None:
    waiting = keep()
    for _ in range(2):
        directory = submit()
        record = completed(directory)
        assert (handle(directory)["container"], handle(directory)["waited"]) == (waiting, True)
        assert Path(directory.log).read_text() == "done \n"
        assert model(directory).stat().st_uid == os.getuid()
        assert (record.artifacts, record.warnings) == (1, ())
        until(Removed(engine, waiting))
        assert not Path(directory.path, "warm").exists()
        before, waiting = waiting, waits()
        assert waiting != before
    assert len(started_runs()) == len(set(started_runs())) == 2
    assert list(states(engine).values()) == ["running"]


def test_a_run_in_a_container_that_waited_finds_only_what_is_its_own(project: Path) -> None:
    (project / "look.py").write_text(
        "import os\n"
        "for path in ('/azureml-run', '/run/aml', '/tmp'):\n"
        "    print(path, sorted(name for name in os.listdir(path) if not name.startswith('.')))\n"
    )
    keep()
    directory = submit("look.py")
    completed(directory)
    assert handle(directory)["waited"]
    work, job, temporary = Path(directory.log).read_text().splitlines()
    assert work == "/azureml-run ['aml_config', 'forever.py', 'look.py', 'outputs', 'script.py']"
    assert "request.json" in job
    assert "exit.json" not in job
    assert temporary == "/tmp []"


def test_a_container_that_waited_has_the_name_of_its_run(project: Path, engine: engines.Engine) -> None:
    keep()
    directory = submit("forever.py")
    try:
        until(lambda: any(directory.run_id in name for name in states(engine)))
    finally:
        experiment.cancel(directory)
    assert experiment.wait(directory, 60).status == "Canceled"


def test_two_runs_at_once_have_one_waiting_container_between_them(
    project: Path, engine: engines.Engine
) -> None:
    keep()
    both = experiment.submit_together([Request(script="script.py", target="docker")] * 2)
    for directory in both:
        completed(directory)
    assert sorted(handle(directory)["waited"] for directory in both) == [False, True]
    waits()
    time.sleep(2)  # whoever else might start one would have
    assert list(states(engine).values()) == ["running"]


def test_secrets_reach_a_container_that_waited_and_stay_out_of_files(project: Path, home: str) -> None:
    container = keep()
    directory = submit(secrets={"TOKEN": "hush-4711"})
    completed(directory)
    assert handle(directory)["container"] == container
    assert Path(directory.log).read_text() == "done ***\n"
    for path in Path(home).rglob("*"):
        if path.is_file():
            assert b"hush-4711" not in path.read_bytes(), path


def test_values_of_a_cell_reach_a_container_that_waited(project: Path) -> None:
    keep()
    directory = experiment.submit(
        Request(target="docker", cell=b"print(sum(numbers))\n", inputs={"numbers": list(range(100_000))})
    )
    completed(directory)
    assert handle(directory)["waited"]
    assert Path(directory.log).read_text() == "4999950000\n"


def test_other_limits_are_another_container_which_then_waits_in_its_place(
    project: Path, engine: engines.Engine
) -> None:
    first = keep()
    limited = {"memory": 256 << 20}
    directory = submit(resources=limited)
    completed(directory)
    assert not handle(directory)["waited"]
    assert "other limits" in told(directory)
    until(lambda: is_waiting() and slot_file()["container"] != first)
    until(Removed(engine, first))
    again = submit(resources=limited)
    completed(again)
    assert handle(again)["waited"]
    waits()


def test_a_share_that_was_made_anew_is_another_one(project: Path) -> None:
    keep()
    (share,) = (Path.home() / "share").glob("*/*/*")
    share.rmdir()
    directory = submit()
    completed(directory)
    assert not handle(directory)["waited"]
    assert started_runs() == [directory.run_id]
    waits()


def test_a_container_to_which_no_run_comes_is_gone_after_its_idle_limit(
    project: Path, engine: engines.Engine
) -> None:
    began = time.monotonic()
    keep(2.0)
    until(lambda: not states(engine))
    assert time.monotonic() - began > 1.5
    assert not any(one.waiting for one in warm.kept())
    directory = submit()
    completed(directory)
    assert "its idle limit has passed" in told(directory)


def test_a_container_that_was_removed_by_hand_leaves_an_ordinary_start(
    project: Path, engine: engines.Engine
) -> None:
    engine.docker("rm", "--force", keep())
    directory = submit()
    completed(directory)
    assert not handle(directory)["waited"]
    assert "it is gone" in told(directory)
    waits()


def test_a_paused_container_does_not_keep_a_run_waiting_for_ever(
    project: Path, engine: engines.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = keep()
    engine.docker("pause", container)
    directory = submit()
    completed(directory)
    assert not handle(directory)["waited"]
    assert "did not take this run" in told(directory)
    assert started_runs() == [directory.run_id]
    waits()


def test_the_end_from_outside_of_a_container_that_waited_is_told(
    project: Path, engine: engines.Engine
) -> None:
    container = keep()
    directory = submit("forever.py")
    until(lambda: Path(directory.log).exists() and b"up" in Path(directory.log).read_bytes())
    engine.docker("kill", container)
    record = experiment.wait(directory, 60)
    assert (record.status, record.reason) == ("Failed", "run.lost")
    assert record.error
    assert "exit code 137" in record.error["message"]


def test_a_target_that_is_kept_warm_no_longer_has_nothing_in_the_engine(
    project: Path, engine: engines.Engine, home: str
) -> None:
    keep()
    assert warm.stop(find_project().key, "docker")
    assert not warm.stop(find_project().key, "docker")
    until(lambda: not states(engine))
    assert not os.listdir(home + "/warm")
    directory = submit()
    completed(directory)
    assert not handle(directory)["waited"]
    assert told(directory) == ""
    until(lambda: not states(engine))


@pytest.mark.parametrize("target", ["copied", "local"])
def test_a_target_that_mounts_nothing_cannot_be_kept_warm(project: Path, target: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment.keep_warm(Request(target=target), find_project(), 60, lambda _: None)
    assert caught.value.code == "target.not_warmable"


def test_a_sweep_leaves_a_run_alone_whose_container_had_waited(project: Path, engine: engines.Engine) -> None:
    keep()
    directory = submit("forever.py")
    until(lambda: Path(directory.log).exists() and b"up" in Path(directory.log).read_bytes())
    warm.stop(find_project().key, "docker")
    assert aml("targets", "sweep").returncode == 0
    assert list(states(engine).values()) == ["running"]
    experiment.cancel(directory)
    assert experiment.wait(directory, 60).status == "Canceled"


def test_L2b_a_supervisor_killed_while_it_takes_a_container_is_replaced_and_nothing_starts_twice(
    project: Path, home: str
) -> None:
    need("strace")
    keep()
    points = kill_points(prepared_run(), Path(home).parent / "trace")
    assert len(points) > 15
    took = 0
    for call, number in points:
        keep()  # a supervisor that is killed right after the start leaves the next one to the next run
        directory = prepared_run()
        killed = supervise_and_kill(directory, call, number)
        record = experiment.wait(directory, 60)
        assert record.status == "Completed", (call, number, record.error, told(directory))
        assert started_runs().count(directory.run_id) == 1, (call, number)
        assert model(directory).read_bytes() == b"model" * 1000, (call, number)
        assert not Path(directory.path, "warm").exists(), (call, number)
        took += killed and handle(directory)["waited"]
    # most of those that were killed went on with the container that they had taken
    assert took > len(points) / 2


def prepared_run() -> RunDirectory:
    """A run that is written and that nobody supervises yet."""
    return experiment.write(experiment.plan(Request(script="script.py", target="docker"), find_project()))


SUPERVISE = """
import sys
sys.path[0] = {parent!r}
from aml_jupyter.supervisor import supervise
supervise({directory!r}, {{}})
"""
CALLS = (
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "mkdir", "unlink", "rmdir"),
    *("connect", "sendto", "shutdown", "clone", "fork", "openat"),
)


def supervise_command(directory: RunDirectory) -> list[str]:
    code = SUPERVISE.format(parent=PACKAGE_PARENT, directory=directory.path)
    return [sys.executable, "-S", "-E", "-s", "-c", code]


def kill_points(directory: RunDirectory, trace: Path) -> list[tuple[str, int]]:
    """(call, how many of it) of all that is done from the taking of a container to the note of its handle."""
    traced = ["strace", "-y", "-s", "200", "-o", str(trace), "-e", "trace=?" + ",?".join(CALLS)]
    subprocess.run([*traced, *supervise_command(directory)], check=True, timeout=60)
    seen: Counter[str] = Counter()
    points: list[tuple[str, int]] = []
    for line in trace.read_text(errors="replace").splitlines():
        if not (found := re.match(r"(\w+)\(", line)):
            continue
        seen[found[1]] += 1
        if "handle.json" in line:
            break
        if points or ("/slot" in line and found[1] == "rename"):
            points.append((found[1], seen[found[1]]))
    # of the files that are opened meanwhile a few
    opened = {point for point in points if point[0] == "openat"}
    some = set(sorted(opened)[::5])
    return [point for point in points if point not in opened or point in some]


def supervise_and_kill(directory: RunDirectory, call: str, number: int) -> bool:
    """See a run through and be killed on entering the n-th of a call; whether it was."""
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    done = subprocess.run(
        ["strace", "-o", "/dev/null", *inject, *supervise_command(directory)],
        timeout=60,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return done.returncode == -9


def test_an_engine_that_restarted_has_nothing_waiting_and_a_run_starts_all_the_same(
    private_engine: engines.PrivateEngine, tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in make_project(tmp_path, monkeypatch):
        keep()
        private_engine.restart()
        directory = submit()
        completed(directory)
        assert not handle(directory)["waited"]
        assert "it is gone" in told(directory)
        waits()
