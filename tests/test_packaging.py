"""What is shipped: the runtime that travels to targets, the marker for type checkers, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def build(kind: str, into: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(into)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = into.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    with zipfile.ZipFile(build("wheel", tmp_path_factory.mktemp("wheel"))) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_runtime(wheel: set[str]) -> None:
    runtime = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "aml_jupyter" / "runtime").rglob("*")
        if path.suffix == ".py"
    }
    assert "aml_jupyter/runtime/main.py" in runtime
    assert runtime <= wheel


def test_the_wheel_is_typed_and_has_the_command(wheel: set[str]) -> None:
    assert "aml_jupyter/py.typed" in wheel
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


def test_the_wheel_holds_nothing_but_the_package(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"aml_jupyter"}
    assert not [name for name in wheel if name.endswith((".pyc", ".ipynb"))]


def test_the_source_distribution_builds_and_holds_tests_and_notebooks(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "tests/conftest.py", "notebooks/iris/iris.csv"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(".venv")]
