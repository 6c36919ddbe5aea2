"""Packages that only have a source archive: built where that works, named where not, given up when asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter.environment import building, prefix
from aml_jupyter.environment.building import failed_build
from aml_jupyter.environment.lock import Lock
from aml_jupyter.environment.solving import solve
from aml_jupyter.errors import EnvironmentFailed
from tests.base_image import BASE_IMAGE
from tests.configuration import project_with
from tests.engines import Engine
from tests.terminal import aml, data
from tests.wheel_index import Index, served

VERSION = ".".join(map(str, sys.version_info[:3]))
WHY = "no way to build"


@pytest.fixture
def index(home: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    made = Index()
    for name in ("amlold", "amlolder"):
        made.add_source(name, "1.0", fails=f"{WHY} {name}")
        made.add(name, "2.0")
    made.add("amlneedy", "1.0", ["amlold<2"])
    made.add("amlneedy", "2.0")
    made.add_source("amlpure", "1.0")
    with served(made) as running:
        yield running


def asked(index: Index, *pip: str, **more: Any) -> dict[str, Any]:
    return {"pip": [index.option, *pip], "file": "conda.yml", **more}


def locked(index: Index, told: list[str], *pip: str, relax: bool = False) -> Lock:
    return solve(
        asked(index, *pip, relax=relax),
        platform=prefix.platform_here(),
        base_python=VERSION,
        tell=told.append,
    )


def versions(lock: Lock) -> dict[str, str]:
    return {package.name: package.version for package in lock.packages if package.name != "pip"}


def test_everything_that_cannot_be_had_is_listed_at_once(index: Index) -> None:
    pins = ("amlneedy==9.9", "nosuchpackage", "amlold==1.0", "amlpure==1.0")
    with pytest.raises(EnvironmentFailed) as caught:
        locked(index, [], *pins)
    assert caught.value.code == "environment.unsolvable"
    lines = caught.value.message.splitlines()[1:]
    assert [line.partition(": ")[0] for line in lines] == [
        "  - amlneedy==9.9",
        "  - nosuchpackage",
        "  - amlold==1.0",
    ]
    assert (
        lines[2].partition(": ")[2]
        == f"has only a source archive, which cannot be built: RuntimeError: {WHY} amlold"
    )
    assert "the newest that can be had" in caught.value.hint
    told: list[str] = []
    lock = locked(index, told, *pins, relax=True)
    assert versions(lock) == {"amlneedy": "2.0", "amlold": "2.0", "amlpure": "1.0"}
    assert [change.split(": ")[0] for change in lock.changes] == [
        "amlneedy==9.9 became amlneedy",
        "nosuchpackage was left out",
        "amlold==1.0 became amlold",
    ]


def test_what_takes_too_long_to_build_is_not_said_to_fail(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "PATIENCE", 0.0)
    with pytest.raises(EnvironmentFailed) as caught:
        locked(index, [], "nosuchpackage", "amlold==1.0")
    assert "amlold" not in caught.value.message


def test_an_environment_here_names_each_that_cannot_be_built(index: Index, home: str) -> None:
    told: list[str] = []
    pins = ("amlold==1.0", "amlolder==1.0", "amlpure==1.0")
    with pytest.raises(EnvironmentFailed) as caught:
        prefix.of_target(asked(index, *pins), told.append)
    assert caught.value.code == "environment.build_failed"
    assert sorted(caught.value.message.splitlines()[1:]) == [
        f"  - amlold==1.0: RuntimeError: {WHY} amlold",
        f"  - amlolder==1.0: RuntimeError: {WHY} amlolder",
    ]
    assert "--relax-pins" in caught.value.hint
    told.clear()
    made = prefix.of_target(asked(index, *pins, relax=True), told.append)
    assert "amlpure" in " ".join(
        os.listdir(f"{made.prefix}/lib/python{VERSION.rpartition('.')[0]}/site-packages")
    )
    relaxed = [line for line in told if line.startswith("relaxed: ")]
    assert sorted(relaxed) == [
        f"relaxed: {name}==1.0 became {name}: has only a source archive, which cannot be built:"
        f" RuntimeError: {WHY} {name}"
        for name in ("amlold", "amlolder")
    ]
    # what was found out is kept
    told.clear()
    assert prefix.of_target(asked(index, *pins, relax=True), told.append) == made
    assert told == []


def test_a_pin_whose_dependency_cannot_be_built_is_given_up(index: Index) -> None:
    told: list[str] = []
    prefix.of_target(asked(index, "amlneedy==1.0", relax=True), told.append)
    relaxed = [line for line in told if line.startswith("relaxed: ")]
    assert len(relaxed) == 1
    assert "amlneedy==1.0 became amlneedy" in relaxed[0]


def test_an_image_names_what_cannot_be_built_and_relaxes_it(
    index: Index, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    pip = "".join(f"  - {item}\n" for item in (index.option, "amlold==1.0", "amlpure==1.0"))
    compute = f"type: localdocker\nbaseDockerImage: {BASE_IMAGE}\n"
    project = project_with(
        tmp_path, {"conda_dependencies.yml": f"dependencies:\n- pip:\n{pip}", "docker.compute": compute}
    )
    (Path(project.root) / "s.py").write_text(
        "import amlold, amlpure\nprint(amlold.version, amlpure.version)\n"
    )
    monkeypatch.chdir(project.root)
    done = aml("run", "docker", "s.py")
    assert done.returncode != 0
    assert "environment.build_failed" in done.stderr
    assert f"  - amlold==1.0: RuntimeError: {WHY} amlold" in done.stderr
    assert "--relax-pins" in done.stderr
    done = aml("run", "docker", "s.py", "--relax-pins")
    assert done.returncode == 0, done.stderr
    assert "2.0 1.0" in done.stdout
    assert "relaxed: amlold==1.0 became amlold" in done.stderr
    engine.docker("image", "rm", "--force", data("show", "@last")["environment"]["image"])


UV = """error: Failed to build `numpy==1.8.0`
  cause: The build backend returned an error
  cause: Call to `setuptools.build_meta:__legacy__.get_requires_for_build_wheel` failed (exit status: 1)

         [stderr]
         Traceback (most recent call last):
           File "<string>", line 14, in <module>
         NameError: name 'CCompiler' is not defined

hint: Build failures usually indicate a problem with the package or the build environment
"""
OLD_UV = """  × Failed to build `numpy==1.8.0`
  ├─▶ The build backend returned an error
  ╰─▶ Call to `setuptools.build_meta:__legacy__.build_wheel` failed (exit status: 1)

      [stderr]
      Traceback (most recent call last):
      NameError: name 'CCompiler' is not defined

      hint: This usually indicates a problem with the package or the build environment.
"""  # noqa: RUF001 - uv's own sign
PIP = """Collecting numpy==1.8.0
  Installing build dependencies: finished with status 'done'
  error: subprocess-exited-with-error
      NameError: name 'CCompiler' is not defined
      [end of output]
  note: This error originates from a subprocess, and is likely not a problem with pip.
error: subprocess-exited-with-error
"""
GCC = """error: Failed to build `psycopg2==2.7`
         [stderr]
         psycopg/psycopgmodule.c:921:24: error: lvalue required as left operand of assignment
           921 |     Py_TYPE(&pintType) = &PyType_Type;
         error: Command '['gcc', '-c']' returned non-zero exit status 1.
"""
BARE = """error: Failed to build `pandas==0.13.1`
  cause: The build backend returned an error

         [stderr]
         need setuptools/distribute for Py3k

hint: Build failures usually indicate a problem
"""


@pytest.mark.parametrize(
    ("said", "name", "reason"),
    [
        (UV, "numpy==1.8.0", "NameError: name 'CCompiler' is not defined"),
        (OLD_UV, "numpy==1.8.0", "NameError: name 'CCompiler' is not defined"),
        (PIP, "numpy==1.8.0", "NameError: name 'CCompiler' is not defined"),
        (
            GCC,
            "psycopg2==2.7",
            "psycopg/psycopgmodule.c:921:24: error: lvalue required as left operand of assignment",
        ),
        (BARE, "pandas==0.13.1", "need setuptools/distribute for Py3k"),
        ("error: No solution found when resolving dependencies:\n", "", ""),
    ],
)
def test_the_last_words_of_a_build_are_its_reason(said: str, name: str, reason: str) -> None:
    assert failed_build(said.splitlines()) == (name, reason)
