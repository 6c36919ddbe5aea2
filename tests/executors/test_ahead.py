"""A container that starts while its run is written: the run's own, and nothing where no run comes of it."""

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
from aml_jupyter.errors import AmlError
from aml_jupyter.executors.docker import DockerExecutor, ahead
from aml_jupyter.executors.docker.containers import container_name, home_label
from aml_jupyter.executors.docker.engine import Engine
from aml_jupyter.experiment import Request, writing
from aml_jupyter.job import Job
from aml_jupyter.runs import RunDirectory
from aml_jupyter.snapshot import Rules
from tests import engines
from tests.base_image import BASE_IMAGE
from tests.requirements import need
from tests.terminal import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PACKAGE_PARENT = str(Path(experiment.__file__).parents[2])
COMPUTE = f"type: localdocker\nbaseDockerImage: {BASE_IMAGE}\nsharedVolumes: true\n"
SCRIPT = """
import os
with open(os.environ["AZUREML_NATIVE_SHARE_DIRECTORY"] + "started", "a") as file:
    file.write(os.environ["AZUREML_RUN_ID"] + "\\n")
open("outputs/result", "w").write("whole")
print("done", os.environ.get("TOKEN", ""))
"""


@pytest.fixture
def project(
    engine: engines.Engine, tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A project whose image was looked into: nothing but the run itself is to be made."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    folder = tmp_path / "project"
    (folder / "aml_config").mkdir(parents=True)
    (folder / "aml_config/docker.compute").write_text(COMPUTE + "nativeSharedDirectory: ~/share/\n")
    (folder / "script.py").write_text(SCRIPT)
    monkeypatch.chdir(folder)
    experiment.prepare(Request(target="docker"), find_project(), lambda _: None)
    yield folder
    for found in Engine(engine.socket).containers({"aml.home": home_label()}):
        Engine(engine.socket).remove(found["Id"])


def submit(**options: Any) -> RunDirectory:
    return experiment.submit(Request(target="docker", script="script.py", **options))


def begun_run() -> tuple[RunDirectory, Job]:
    """A run that has a directory and nothing else, as its supervisor is told of it."""
    planned, directory = writing.begin(
        experiment.plan(Request(target="docker", script="script.py"), find_project())
    )
    demand = writing.anticipated(planned, directory)
    assert demand is not None
    return directory, Job.from_request(directory.path, demand)


def write(directory: RunDirectory) -> Job:
    """Write the rest of a run that was begun."""
    planned = experiment.plan(Request(target="docker", script="script.py"), find_project())
    experiment.write(planned, directory)
    return Job.from_request(directory.path, json.loads(Path(directory.job, "request.json").read_bytes()))


def states(engine: engines.Engine) -> dict[str, str]:
    """Name and state of every container of this home."""
    found = engine.containers(f"label=aml.home={home_label()}")
    return {one["Name"].lstrip("/"): one["State"]["Status"] for one in found}


def started_runs() -> list[str]:
    return [line for path in (Path.home() / "share").glob("**/started") for line in path.read_text().split()]


def end(executor: DockerExecutor, handle: dict[str, Any]) -> None:
    until(lambda: os.path.exists(handle["job"] + "/exit.json"))
    executor.discard(handle)


def test_the_container_of_a_run_starts_before_the_run_is_written(
    project: Path, engine: engines.Engine
) -> None:
    executor = DockerExecutor()
    directory, early = begun_run()
    executor.anticipate(early)
    (name,) = until(lambda: [name for name, state in states(engine).items() if state == "running"])
    assert name == container_name(early)
    job = write(directory)
    executor.prepare(job, print)
    assert executor.find(job) is None
    handle = executor.start(job, {"TOKEN": "hush-4712"})
    assert handle["container"] == engine.containers(f"name={name}")[0]["Id"]
    end(executor, handle)
    assert Path(directory.log).read_text() == "done hush-4712\n"
    assert Path(directory.work, "outputs/result").read_text() == "whole"
    assert states(engine) == {}


def test_a_submit_uses_the_container_that_it_began(project: Path, engine: engines.Engine) -> None:
    (project / "forever.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    (project / "large").write_bytes(os.urandom(20 << 20))  # the snapshot takes a while
    directory = experiment.submit(Request(target="docker", script="forever.py"))
    until(lambda: Path(directory.log).exists() and b"up" in Path(directory.log).read_bytes())
    (found,) = engine.containers(f"label=aml.run={directory.run_id}")
    written = Path(directory.job, "request.json").stat().st_mtime
    # the engine writes UTC with nanoseconds
    assert found["Created"] < time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(written + 1))
    assert found["Config"]["Cmd"][-1] == str(ahead.WAIT)
    experiment.cancel(directory)
    assert experiment.wait(directory, 60).status == "Canceled"
    until(lambda: not states(engine))


def test_K4_a_submit_that_fails_leaves_no_container_and_no_run(
    project: Path, engine: engines.Engine, home: str
) -> None:
    (project / "large").write_bytes(bytes(2 << 20))
    with pytest.raises(AmlError) as caught:
        submit(rules=Rules(max_bytes=1 << 20))
    assert caught.value.code == "snapshot.too_large"
    until(lambda: not states(engine))
    assert not os.listdir(home + "/runs/local/default/project")
    assert not os.listdir(home + "/ids")


def test_a_run_that_is_canceled_before_it_starts_leaves_no_container(
    project: Path, engine: engines.Engine
) -> None:
    executor = DockerExecutor()
    directory, early = begun_run()
    executor.anticipate(early)
    write(directory)
    experiment.cancel(directory)
    assert experiment.wait(directory, 60).status == "Canceled"
    until(lambda: not states(engine))
    assert started_runs() == []


def test_an_image_that_changed_its_name_meanwhile_gets_another_container(
    project: Path, engine: engines.Engine
) -> None:
    name = f"aml-test-ahead:{os.getpid()}"
    other = engine.docker("commit", engine.docker("create", "--name", f"aml-ahead-{os.getpid()}", BASE_IMAGE))
    try:
        engine.docker("tag", BASE_IMAGE, name)
        compute = project / "aml_config/docker.compute"
        compute.write_text(compute.read_text().replace(BASE_IMAGE, name))
        executor = DockerExecutor()
        directory, early = begun_run()
        executor.anticipate(early)
        (before,) = engine.containers(f"name={container_name(early)}")
        engine.docker("tag", other, name)
        job = write(directory)
        executor.prepare(job, print)
        handle = executor.start(job, {})
        (found,) = engine.containers(f"name={container_name(early)}")
        assert found["Id"] == handle["container"] != before["Id"]
        assert found["Image"] == other
        end(executor, handle)
        assert started_runs() == [directory.run_id]
    finally:
        engine.docker("rm", "--force", f"aml-ahead-{os.getpid()}")
        engine.docker("rmi", "--force", name, other, check=False)


def test_a_container_that_waited_too_long_for_its_run_gets_another_one(
    project: Path, engine: engines.Engine
) -> None:
    executor = DockerExecutor()
    directory, early = begun_run()
    executor.anticipate(early)
    until(lambda: "running" in states(engine).values())

    def exited() -> bool:
        # as at the end of its time; the first signal may come before anything in it listens
        engine.docker("kill", "--signal", "TERM", container_name(early), check=False)
        return "exited" in states(engine).values()

    until(exited)
    job = write(directory)
    executor.prepare(job, print)
    handle = executor.start(job, {})
    end(executor, handle)
    assert started_runs() == [directory.run_id]


SUPERVISE = """
import json, sys
sys.path[0] = {parent!r}
from aml_jupyter.executors.docker import DockerExecutor
from aml_jupyter.job import Job
from aml_jupyter.supervisor import supervise
with open({directory!r} + "/job/request.json") as file:
    DockerExecutor().anticipate(Job.from_request({directory!r}, json.load(file)))
supervise({directory!r}, {{}})
"""
CALLS = (
    *("rename", "renameat", "mkdir", "unlink", "unlinkat", "rmdir"),
    *("connect", "sendto", "shutdown"),
)


def prepared_run() -> RunDirectory:
    planned = experiment.plan(Request(script="script.py", target="docker"), find_project())
    return experiment.write(planned)


def command(directory: RunDirectory) -> list[str]:
    code = SUPERVISE.format(parent=PACKAGE_PARENT, directory=directory.path)
    return [sys.executable, "-S", "-E", "-s", "-c", code]


def kill_points(directory: RunDirectory, trace: Path) -> list[tuple[str, int]]:
    """(call, how many of it) of all that is done from the first word to the engine to the handle's note."""
    traced = ["strace", "-y", "-s", "200", "-o", str(trace), "-e", "trace=?" + ",?".join(CALLS)]
    subprocess.run([*traced, *command(directory)], check=True, timeout=60)
    seen: Counter[str] = Counter()
    points: list[tuple[str, int]] = []
    for line in trace.read_text(errors="replace").splitlines():
        if not (found := re.match(r"(\w+)\(", line)):
            continue
        seen[found[1]] += 1
        if "handle.json" in line:
            break
        points.append((found[1], seen[found[1]]))
    return points


def test_L2b_a_supervisor_killed_around_a_container_that_it_began_is_replaced_and_nothing_starts_twice(
    project: Path, home: str, engine: engines.Engine
) -> None:
    need("strace")
    points = kill_points(prepared_run(), Path(home).parent / "trace")
    assert len(points) > 15
    killed = 0
    for call, number in points:
        directory = prepared_run()
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
        done = subprocess.run(
            ["strace", "-o", "/dev/null", *inject, *command(directory)],
            timeout=60,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        killed += done.returncode == -9
        record = experiment.wait(directory, 60)
        assert record.status == "Completed", (call, number, record.error)
        assert started_runs().count(directory.run_id) == 1, (call, number)
    assert killed > len(points) * 0.8
    until(lambda: not states(engine))


def test_K4_a_submit_that_is_refused_while_its_container_starts_leaves_none(
    project: Path, engine: engines.Engine
) -> None:
    """The snapshot takes longer than the engine: the container is there when the refusal comes."""
    for number in range(3000):
        (project / f"part{number}").write_bytes(os.urandom(14_000))
    for _ in range(3):
        with pytest.raises(AmlError, match="a snapshot takes at most"):
            submit()
    until(lambda: not Engine(engine.socket).containers({"aml.home": home_label()}))
