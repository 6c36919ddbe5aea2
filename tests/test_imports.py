"""What an import costs: no SDK before it is used, no slow standard module on the way of every run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SDKS = "docker azure yaml pydantic pandas numpy pyarrow jsonschema jupyter_server ipywidgets sqlite3 tornado"

# each costs as much as starting an interpreter, and every run starts several
SLOW = (
    "dataclasses typing pathlib subprocess inspect tempfile logging traceback shutil sqlite3 yaml pydantic "
    "asyncio psutil argparse.gettext importlib.metadata urllib.request email http ssl socket"
)

HOT = [
    *("errors", "frozen", "job", "processes", "confined", "config", "snapshot", "share", "runs"),
    *("experiment", "follow", "executors", "executors.local", "supervisor", "commands", "cli"),
]


def loaded_by(code: str, *flags: str) -> set[str]:
    """The modules that a fresh interpreter holds after running `code`."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}\nprint('LOADED', *sys.modules)"
    answer = subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.rpartition("LOADED")[2].split())


def test_a_bare_import_loads_no_sdk() -> None:
    assert not loaded_by("import aml_jupyter") & set(SDKS.split())


def test_loading_the_extension_loads_no_sdk() -> None:
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "before = set(sys.modules)\n"
        "shell.run_line_magic('load_ext', 'aml_jupyter')\n"
        "after = set(sys.modules) - before\n"
        "sys.modules.clear(); sys.modules.update(dict.fromkeys(after))"
    )
    loaded = loaded_by(code)
    assert "aml_jupyter.magics" in loaded
    assert not loaded & set(SDKS.split())


@pytest.mark.parametrize("module", HOT)
def test_a_module_that_every_run_imports_loads_nothing_slow(module: str) -> None:
    loaded = loaded_by(f"import aml_jupyter.{module}", "-S", "-E", "-s")
    assert not loaded & set(SLOW.split())


def test_a_plain_run_loads_nothing_that_only_other_runs_and_readers_need(home: str, tmp_path: Path) -> None:
    project, seen = tmp_path / "project", tmp_path / "seen"
    project.mkdir()
    (project / "quick.py").write_text("print('quick')")
    # an audit hook goes on in what is forked, which closes what was open
    code = (
        "import os, sys\n"
        "def hook(event, found):\n"
        "    if event != 'import': return\n"
        f"    fd = os.open({str(seen)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "    os.write(fd, f'{os.getpid()} {found[0]}\\n'.encode())\n"
        "    os.close(fd)\n"
        "sys.addaudithook(hook)\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from aml_jupyter import cli\n"
        "sys.exit(cli.main(['run', 'local', 'quick.py']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project)
    assert (done.returncode, done.stdout) == (0, "quick\n"), done.stderr
    loaded: dict[str, set[str]] = {}
    for line in seen.read_text().splitlines():
        pid, module = line.split(" ", 1)
        loaded.setdefault(pid, set()).add(module)
    # one process collected what the run left
    assert [pid for pid, modules in loaded.items() if "aml_jupyter.artifacts.collecting" in modules]
    everything = set().union(*loaded.values())
    unneeded = {"remote", "saving", "transfer", "opening"}
    assert not everything & {f"aml_jupyter.artifacts.{name}" for name in unneeded}
    assert "aml_jupyter.unfinished" not in everything
    # options are the command's: a supervisor has them only by being its fork
    assert sum("aml_jupyter.commands.variables" in modules for modules in loaded.values()) == 1
