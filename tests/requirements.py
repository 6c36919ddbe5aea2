"""What a test needs beyond Python: what is missing skips by name, and AML_REQUIRE makes that a failure."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

# read before any test moves HOME
_PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"


def missing(name: str, reason: str) -> NoReturn:
    """Skip the test by the name of what it lacks, or fail where that is required."""
    required = os.environ.get("AML_REQUIRE", "").split(",")
    if name in required or "all" in required:
        pytest.fail(f"{name} is required here: {reason}")
    pytest.skip(f"needs {name}: {reason}")


def need(name: str) -> str:
    """The path of a program, or skip the test by its name; `root` is user id 0, `pyspark` the package,
    `index` the package index that uv and pip use here.
    """
    if name == "root":
        if os.geteuid() != 0:
            missing(name, "not running as user id 0")
        return ""
    if name == "index":
        return _index()
    if name == "azurite":
        return _azurite()
    if name == "mlflow-server":
        return _mlflow()
    if name == "pyspark":
        if importlib.util.find_spec(name) is None:
            missing(name, "no such package in this interpreter")
        return ""
    # daemons lie where only root's PATH leads
    found = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    if found is None:
        missing(name, "no such program on PATH")
    return str(found)


def _azurite() -> str:
    """What `make test` installs beside the packages of Python; it needs node."""
    program = Path(sys.prefix) / "azurite" / "node_modules" / ".bin" / "azurite-blob"
    if shutil.which("node") is None or not program.exists():
        missing("azurite", "it is not installed below the virtual environment, or there is no node")
    return str(program)


def _mlflow() -> str:
    """The Python of an environment of its own that `make test` puts MLflow into: its packages are many."""
    python = Path(sys.prefix) / "mlflow" / "bin" / "python"
    if not python.exists():
        missing("mlflow-server", "it is not installed below the virtual environment")
    return str(python)


def _index() -> str:
    from aml_jupyter.environment.pip_packages import find_uv

    asked = [find_uv(), "pip", "compile", "-", "--quiet", "--no-deps", "--no-cache"]
    answer = subprocess.run(asked, input=b"six", capture_output=True, check=False)
    if answer.returncode != 0:
        missing("index", answer.stderr.decode(errors="replace"))
    return ""


def python_versions() -> dict[str, str]:
    """Every CPython from 3.8 up that this machine has, by minor version, oldest first."""
    found: dict[str, str] = {}
    for minor in range(8, 20):
        version = f"3.{minor}"
        candidates = sorted(_PYENV.glob(f"{version}.*/bin/python{version}"))
        path = str(candidates[-1]) if candidates else shutil.which(f"python{version}")
        if path and "shims" not in path:
            found[version] = path
    return found
