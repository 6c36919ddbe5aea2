"""An environment in an image, and a second one with one package more, beside `docker build` of the same.

    python benchmarks/docker_environment.py [--rounds 1] [--without-build]

The first environment is numpy, pandas, scikit-learn and matplotlib upon `python:3.11-slim`, with nothing in
any cache: solved, downloaded, installed, committed.  The second adds tqdm; the third changes nothing.  Beside
them a Dockerfile with `pip install` in one layer, and again with the package more, as people write it.
Takes minutes, and a package index.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aml_jupyter import experiment
from aml_jupyter.config import find_project
from aml_jupyter.executors.docker.containers import home_label

IMAGE = "python:3.11-slim"
PACKAGES = ("numpy", "pandas", "scikit-learn", "matplotlib")
MORE = "tqdm"


def make_project(folder: Path) -> Path:
    """A project whose environment is made from its dependency file."""
    (folder / "aml_config").mkdir(parents=True)
    keys = ("type: localdocker", f"baseDockerImage: {IMAGE}", "userManagedEnvironment: false")
    (folder / "aml_config/docker.compute").write_text("\n".join(keys) + "\n")
    return folder


def prepare(folder: Path, packages: tuple[str, ...]) -> float:
    """Seconds until an environment is ready."""
    lines = ["name: project", "dependencies:", "  - python=3.11", "  - pip:"]
    lines += [f"      - {name}" for name in packages]
    (folder / "aml_config/conda_dependencies.yml").write_text("\n".join(lines) + "\n")
    began = time.perf_counter()
    experiment.prepare(experiment.Request(target="docker"), find_project(str(folder)), lambda _: None)
    return time.perf_counter() - began


def build(folder: Path, packages: tuple[str, ...], tag: str) -> float:
    """Seconds of `docker build` with these packages; `--network host`, for indexes of this computer."""
    folder.mkdir(exist_ok=True)
    install = f"python3 -m venv /env && /env/bin/pip install --no-cache-dir {' '.join(packages)}"
    (folder / "Dockerfile").write_text(f"FROM {IMAGE}\nRUN {install}\n")
    settings = [f"{name}={os.environ[name]}" for name in os.environ if name.startswith("PIP_")]
    words = ["docker", "build", "--quiet", "--network", "host", "--tag", tag, str(folder)]
    began = time.perf_counter()
    subprocess.run(
        [*words, *(word for one in settings for word in ("--build-arg", one))],
        check=True,
        capture_output=True,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
    )
    return time.perf_counter() - began


def clean(tags: list[str]) -> None:
    """Remove every image that was made here."""
    ours = ["docker", "image", "ls", "--all", "--quiet", "--filter", f"label=aml.home={home_label()}"]
    found = subprocess.run(ours, check=True, capture_output=True, text=True).stdout.split()
    subprocess.run(["docker", "rmi", "--force", *found, *tags], check=False, capture_output=True)


def one_round(build_too: bool) -> dict[str, float]:
    """Seconds of each case."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(AML_HOME=f"{scratch}/home")
        folder = make_project(Path(scratch, "project"))
        tags = [f"aml-bench-{os.getpid()}:{number}" for number in range(2)]
        try:
            found = {
                "first": prepare(folder, PACKAGES),
                "one package more": prepare(folder, (*PACKAGES, MORE)),
                "unchanged": prepare(folder, (*PACKAGES, MORE)),
            }
            if build_too:
                found["docker build"] = build(Path(scratch, "a"), PACKAGES, tags[0])
                found["docker build, one more"] = build(Path(scratch, "b"), (*PACKAGES, MORE), tags[1])
        finally:
            clean(tags)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--without-build", action="store_true", help="leave docker build out")
    options = parser.parse_args()
    results = [one_round(not options.without_build) for _ in range(options.rounds)]
    for name in results[0]:
        seconds = statistics.median(one[name] for one in results)
        ratio = statistics.median(one[name] / one["first"] for one in results)
        print(f"{name:<26}{seconds:9.2f} s{ratio:9.3f} of the first")
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
