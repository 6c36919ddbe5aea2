"""The order of the modules is held by import-linter, and import-linter is shown to hold it."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# (module file, a line that breaks the order, what the report must name)
VIOLATIONS = [
    ("executors/local.py", "from aml_jupyter import runs", "aml_jupyter.executors.local -> aml_jupyter.runs"),
    (
        "executors/local.py",
        "from aml_jupyter import artifacts",
        "aml_jupyter.executors.local -> aml_jupyter.artifacts",
    ),
    ("config/__init__.py", "from aml_jupyter import snapshot", "aml_jupyter.config -> aml_jupyter.snapshot"),
    (
        "supervisor.py",
        "from aml_jupyter import experiment",
        "aml_jupyter.supervisor -> aml_jupyter.experiment",
    ),
    (
        "experiment.py",
        "from aml_jupyter import supervisor",
        "aml_jupyter.experiment -> aml_jupyter.supervisor",
    ),
    ("cli.py", "from aml_jupyter import magics", "aml_jupyter.cli -> aml_jupyter.magics"),
    ("share.py", "import docker", "aml_jupyter.share -> docker"),
    ("snapshot/__init__.py", "import yaml", "aml_jupyter.snapshot -> yaml"),
    ("commands.py", "import sqlite3", "aml_jupyter.commands -> sqlite3"),
    ("runs/__init__.py", "import pydantic", "aml_jupyter.runs -> pydantic"),
    ("experiment.py", "import IPython", "aml_jupyter.experiment -> IPython"),
    ("card.py", "from aml_jupyter import testing", "aml_jupyter.card -> aml_jupyter.testing"),
    ("helpers.py", "", "aml_jupyter.helpers"),
]


def lint(folder: Path) -> tuple[int, str]:
    """Exit status and report of import-linter for the package in `folder`."""
    program = (
        "import sys; sys.path.insert(0, ''); from importlinter.cli import lint_imports_command as run; run()"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": str(folder), "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return answer.returncode, answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def report_of_violations(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("violations")
    package = folder / "aml_jupyter"
    shutil.copytree(ROOT / "aml_jupyter", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, line, _ in VIOLATIONS:
        # inside a function: a late import counts like any other
        with (package / name).open("a") as file:
            file.write(f"\n\ndef _violation() -> None:\n    {line or 'pass'}\n")
    code, report = lint(folder)
    assert code != 0
    return report


def test_the_package_keeps_its_contracts() -> None:
    code, report = lint(ROOT)
    assert code == 0, report


@pytest.mark.parametrize(("name", "line", "named"), VIOLATIONS)
def test_an_import_against_the_order_is_reported(
    report_of_violations: str, name: str, line: str, named: str
) -> None:
    assert named in report_of_violations


def imports(path: Path) -> set[str]:
    """The top names that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_the_runtime_and_the_package_do_not_import_each_other() -> None:
    package = ROOT / "aml_jupyter"
    runtime = package / "runtime"
    for path in package.rglob("*.py"):
        if runtime in path.parents:
            assert not {name for name in imports(path) if name.split(".")[0] == "aml_jupyter"}, path
        else:
            assert not {name for name in imports(path) if name.startswith("aml_jupyter.runtime")}, path


def test_the_runtime_is_started_with_the_standard_library_alone() -> None:
    runtime = ROOT / "aml_jupyter" / "runtime"
    own = {path.stem for path in runtime.glob("*.py")}
    for path in runtime.glob("*.py"):
        if path.stem != "run_cell":  # runs in the user's process, and uses IPython where it finds it
            tops = {name.split(".")[0] for name in imports(path)}
            assert tops <= sys.stdlib_module_names | own, path


# which calls a module makes that open by name, follow links or copy trees, and why it may; `confined` has the
# others' way to do it
PLAIN_ACCESS = {
    "az.py": ({"open"}, "programs on PATH, which the person put there"),
    "cell.py": ({"open"}, "writes into a job folder that it is the first to fill"),
    "cli.py": ({"open"}, "standard streams that are missing"),
    "connection/trust.py": ({"open"}, "the user's own known_hosts, which is theirs to link"),
    "environment/conda_packages.py": ({"open"}, "notes of rattler in a prefix that is being made"),
    "environment/conda_worker.py": ({"open", "pathlib"}, "a channel's file, and rattler's own cache"),
    "environment/prefix.py": ({"open"}, "notes of installers in a prefix that is being made"),
    "environment/pip_packages.py": ({"open"}, "what uv wrote into a temporary folder of ours"),
    "executors/docker/engine.py": ({"open"}, "docker's own configuration"),
    "executors/docker/gathering.py": ({"open"}, "a list of its own beside the working copy"),
    "executors/docker/here.py": ({"open"}, "/proc"),
    "executors/docker/mirroring.py": ({"open"}, "payloads, named by hashes alone, which come in blocks"),
    "environment/indexes.py": ({"open"}, "uv's and pip's configuration, and the user's certificates"),
    "executors/docker/packing.py": ({"open"}, "installed programs and objects of the store, which we name"),
    "installation.py": (
        {"open", "os.walk", "shutil.copytree", "shutil.rmtree"},
        "copies the installed package, which no project names",
    ),
    "locks.py": ({"open"}, "/proc"),
    "packages.py": ({"open"}, "this interpreter's own pyvenv.cfg"),
    "processes.py": ({"open"}, "/proc"),
    "snapshot/manifest.py": ({"open"}, "the store's own file, by its digest"),
    "snapshot/memory.py": ({"open"}, "the store's own file"),
    "snapshot/restoring.py": ({"open"}, "/proc"),
    "starting.py": ({"open"}, "/proc"),
}
_BANNED = ("io.open", "os.fwalk", "os.walk", "shutil.")


def plain_access(source: str) -> set[str]:
    """The calls and imports of some source that reach files past `confined`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            method = called.rpartition(".")[2] if isinstance(node.func, ast.Attribute) else ""
            if called == "open" or called.startswith(_BANNED) or method in ("read_text", "write_text"):
                found.add(called)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names}
            module = node.module if isinstance(node, ast.ImportFrom) else None
            found |= {"pathlib"} & {*names, module}
            if module in ("os", "shutil", "io"):
                found |= {f"{module}.{name}" for name in names if f"{module}.{name}".startswith(_BANNED)}
    return found - {"shutil.which", "shutil.get_terminal_size", "shutil.ignore_patterns"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("open(path)", {"open"}),
        ("import os\nfor x in os.walk(p): pass", {"os.walk"}),
        ("def f():\n    from shutil import copyfile", {"shutil.copyfile"}),
        ("import shutil\nshutil.copytree(a, b)", {"shutil.copytree"}),
        ("from pathlib import Path", {"pathlib"}),
        ("path.read_text()", {"path.read_text"}),
        ("root.open_file(p)\nstore.open(key)\nshutil.which('git')", set()),
    ],
)
def test_access_past_confined_is_seen(source: str, found: set[str]) -> None:
    assert plain_access(source) == found


def test_only_modules_that_say_why_reach_files_past_confined() -> None:
    package = ROOT / "aml_jupyter"
    # what travels to targets has nothing of the package; tests that ship make files on purpose
    elsewhere = ("confined", "runtime", "testing")
    found = {}
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if name.split("/")[0] not in elsewhere and (calls := plain_access(path.read_text(encoding="utf-8"))):
            found[name] = calls
    assert {
        name: calls for name, calls in found.items() if not calls <= PLAIN_ACCESS.get(name, (set(),))[0]
    } == {}
    assert set(PLAIN_ACCESS) <= set(found), "what no module needs any more is not allowed any more"
