"""The first output of `print("hi")` in a container, beside `docker run --rm` and a bare interpreter.

    python benchmarks/docker_run.py [--rounds 15] [--network bridge]

In turn, on the engine of this computer, with the same image, network and 10 files in a folder that the
container sees: the command `docker run --rm`; the same calls through the SDK; `aml run docker`, snapshot
included; a run from a warm process with a supervisor on standby, as a notebook submits it, in a new container
and in one that waited.  "From the gate" is from the call that lets a waiting container go.
Ratios are medians of the ratios of each round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from aml_jupyter import experiment, follow, processes, runs
from aml_jupyter.config import Project, find_project
from aml_jupyter.executors.docker import DockerExecutor, warm
from aml_jupyter.job import Job
from aml_jupyter.runs import RunDirectory
from aml_jupyter.starting import Standby, Starter

IMAGE = "python:3.11-slim"
WARM, ORDINARY = "warm", "docker"


def make_project(folder: Path) -> Path:
    """A project of 10 files with two targets alike, one of which is kept warm."""
    (folder / "aml_config").mkdir(parents=True)
    (folder / "hi.py").write_text('print("hi", flush=True)\n')
    for number in range(7):
        (folder / f"data{number}.txt").write_bytes(os.urandom(500))
    for name in (WARM, ORDINARY):
        keys = ("type: localdocker", f"baseDockerImage: {IMAGE}", "sharedVolumes: true")
        (folder / "aml_config" / f"{name}.compute").write_text("\n".join(keys) + "\n")
    return folder


def first_bytes(words: list[str], folder: Path) -> Callable[[], float]:
    """Seconds until a command has printed something."""

    def measure() -> float:
        began = time.perf_counter()
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        with subprocess.Popen(words, cwd=folder, stdout=pipe, stderr=nothing) as process:
            assert process.stdout is not None
            said = os.read(process.stdout.fileno(), 100)
            spent = time.perf_counter() - began
            process.stdout.read()
        assert said.startswith(b"hi"), (words, said)
        return spent

    return measure


def by_sdk(project: Path, network: str) -> Callable[[], float]:
    """The calls of `docker run --rm` from a process that has loaded the SDK."""
    import docker

    client = docker.from_env()

    def measure() -> float:
        began = time.perf_counter()
        container = client.containers.create(
            IMAGE,
            ["python3", "hi.py"],
            volumes={str(project): {"bind": "/azureml-run", "mode": "rw"}},
            working_dir="/azureml-run",
            network=network,
        )
        output = container.attach(stream=True)
        container.start()
        said = next(iter(output))
        spent = time.perf_counter() - began
        container.wait()
        container.remove()
        assert said.startswith(b"hi"), said
        return spent

    return measure


def from_process(project: Project, target: str, standby: Standby, resources: dict[str, object]) -> float:
    """Seconds from the call that submits a run until whoever follows it has the first output."""
    began = time.perf_counter()
    request = experiment.Request(target=target, script="hi.py", resources=resources)
    directory = experiment.submit(request, project, standby.take)
    follower = follow.Follower(directory)
    while not any(isinstance(output, follow.Text) for output in follower.read()):
        time.sleep(0.001)
    spent = time.perf_counter() - began
    record = experiment.wait(directory)
    assert record.status == "Completed", record
    return spent


class Held(Starter):
    """No supervisor: the caller does what one does."""

    def __init__(self) -> None:
        pass

    def go(
        self, directory: str, secrets: object, passwords: object = None, environment: object = None
    ) -> None:
        """Leave it to the caller."""

    def expect(self, kind: str, directory: str = "", demand: object = None) -> None:
        """Nothing is loaded."""

    def leave(self) -> None:
        """Nothing was started."""


def from_gate(project: Project, resources: dict[str, object]) -> float:
    """Seconds from the executor's call that starts a prepared job until there is output."""
    directory = experiment.submit(
        experiment.Request(target=WARM, script="hi.py", resources=resources), project, Held
    )
    executor = DockerExecutor()
    job = Job.from_request(directory.path, json.loads(Path(directory.job, "request.json").read_bytes()))
    executor.prepare(job, print)
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        _await_output(directory, writer)
    began = time.monotonic()
    handle = executor.start(job, {})
    ended = float(os.read(reader, 100))
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    while handle["process"] and processes.is_alive(handle["process"]):
        time.sleep(0.01)
    assert handle["waited"], "no container waited"
    executor.discard(handle)
    runs.discard(directory)
    return ended - began


def _await_output(directory: RunDirectory, writer: int) -> None:
    while True:
        try:
            if os.stat(directory.log).st_size:
                break
        except FileNotFoundError:
            pass
        time.sleep(0.0005)
    os.write(writer, str(time.monotonic()).encode())
    os._exit(0)


def await_slot(seconds: float = 20.0) -> None:
    """Until a container waits again, and what started it is done."""
    due = time.monotonic() + seconds
    while not all(one.waiting for one in warm.kept()):
        assert time.monotonic() < due, [one.as_dict() for one in warm.kept()]
        time.sleep(0.05)
    time.sleep(0.3)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--network", default="bridge")
    options = parser.parse_args()
    # without byte code every import is compiled again, which is not what an installed package does
    for name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(AML_HOME=f"{scratch}/home", HOME=scratch)
        folder = make_project(Path(scratch, "project"))
        report(rounds(folder, options.network, options.rounds))


def rounds(folder: Path, network: str, number: int) -> dict[str, list[float]]:
    """Seconds of every case in every round."""
    project = find_project(str(folder))
    resources: dict[str, object] = {"network": network}
    standby = Standby()
    aml = str(Path(sys.executable).parent / "aml")
    mount = ["-v", f"{folder}:/azureml-run", "-w", "/azureml-run", "--network", network]
    cases: dict[str, Callable[[], float]] = {
        "bare python hi.py": first_bytes([sys.executable, "hi.py"], folder),
        "docker run --rm": first_bytes(["docker", "run", "--rm", *mount, IMAGE, "python3", "hi.py"], folder),
        "SDK: create, attach, start": by_sdk(folder, network),
        "aml run docker": first_bytes([aml, "run", ORDINARY, "--network", network, "hi.py"], folder),
        "submit, new container": lambda: from_process(project, ORDINARY, standby, resources),
        "submit, one that waited": lambda: from_process(project, WARM, standby, resources),
        "one that waited, from the gate": lambda: from_gate(project, resources),
    }
    request = experiment.Request(target=WARM, resources=resources)
    experiment.keep_warm(request, project, 600.0, lambda _: None)
    try:
        results: dict[str, list[float]] = {name: [] for name in cases}
        for turn in range(number + 1):
            for name, work in cases.items():
                standby.refill()
                await_slot()
                spent = work()
                if turn:  # the first time fills caches
                    results[name].append(spent)
    finally:
        warm.stop(project.key, WARM)
        standby.close()
    return results


def report(results: dict[str, list[float]]) -> None:
    """Print medians, and ratios to the bare interpreter and to `docker run` of the same round."""
    bare, run = results["bare python hi.py"], results["docker run --rm"]
    print(f"{'first output after':<34}{'ms':>9}{'min':>9}{'max':>9}{'/ bare':>9}{'/ docker run':>14}")
    for name, rows in results.items():
        ratios = [
            statistics.median(mine / other for mine, other in zip(rows, floor, strict=True))
            for floor in (bare, run)
        ]
        middle, low, high = (1000 * one for one in (statistics.median(rows), min(rows), max(rows)))
        print(f"{name:<34}{middle:9.1f}{low:9.1f}{high:9.1f}{ratios[0]:9.2f}{ratios[1]:14.2f}")
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
