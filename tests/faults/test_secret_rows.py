"""Secrets on the line, in the environment and in the configuration: none of them is kept anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import experiment, processes, runs
from aml_jupyter.snapshot import Store
from tests.notebooks import Notebook
from tests.terminal import aml, detached, until

pytestmark = pytest.mark.faults

SECRETS = {f"PLANTED_{number}": f"planted-{number}-value" for number in range(50)}


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "aml_config").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def files_with(needle: str, folder: str) -> list[str]:
    """Files below a folder whose bytes or whose name hold a text."""
    found = []
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            if needle in path or (os.path.isfile(path) and needle.encode() in Path(path).read_bytes()):
                found.append(path)
    return found


def in_snapshots(needle: str, home: str) -> list[str]:
    """Files of the snapshots of all runs that hold a text, read through the store."""
    store = Store(home + "/snapshots")
    return [
        entry.path
        for directory in runs.all_directories(home)
        for snapshot_id in [runs.load_record(directory).snapshot_id]
        for entry in store.manifest(snapshot_id)
        if entry.kind == "file" and needle.encode() in store.read(snapshot_id, entry.path)
    ]


def assert_kept_nowhere(needle: str, home: str, *more: str) -> None:
    for folder in (home, *more):
        assert files_with(needle, folder) == []
    assert in_snapshots(needle, home) == []


@pytest.fixture
def notebook(project: Path, home: str) -> Iterator[Notebook]:
    kernel = Notebook(str(project), AML_HOME=home, **SECRETS)
    yield kernel
    kernel.close()


@pytest.mark.slow
def test_X2_a_notebook_shows_and_keeps_none_of_them(notebook: Notebook, home: str) -> None:
    notebook.run("%load_ext aml_jupyter")
    cell = notebook.run(
        "%%amlrun local -e TYPED=planted-typed-value -e PLANTED_0\n"
        "import os\nprint('used' if os.environ['TYPED'].endswith('value') else 'not')\n"
        "assert os.environ['PLANTED_0']\n"
    )
    assert cell.status == "ok"
    assert "used" in cell.text()
    shown = [one for one in cell.messages if one["msg_type"] != "execute_input"]
    assert "planted-" not in json.dumps(shown, default=str)
    assert_kept_nowhere("planted-", home)


WAITS = """
import os, time
assert os.environ["TOKEN"].startswith("planted-")
print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
"""


def command_lines_with(needle: str) -> list[str]:
    """Command lines of all processes that hold a text."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            line = Path(f"/proc/{entry}/cmdline").read_bytes() if entry.isdigit() else b""
        except OSError:  # gone meanwhile
            continue
        if needle.encode() in line:
            found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_Z5_X1_a_secret_on_the_line_is_seen_no_longer_than_the_command(project: Path, home: str) -> None:
    """Everybody on a machine can read command lines: those of what goes on after the command hold none."""
    (project / "script.py").write_text(WAITS)
    run_id = detached("script.py", "-e", "TOKEN=planted-on-the-line")
    directory = runs.at(home, run_id)
    assert directory is not None
    try:
        until(lambda: os.path.exists(directory.log) and b"ready" in Path(directory.log).read_bytes())
        assert command_lines_with("planted-on-the-line") == []
        supervisor = runs.supervisor_identity(directory)
        assert supervisor is not None
        assert processes.is_alive(supervisor)
    finally:
        Path(directory.work, "go").touch()
    assert experiment.wait(directory, 30).status == "Completed"
    assert_kept_nowhere("planted-on-the-line", home)


def test_X3_logins_in_addresses_are_left_out_and_neither_shown_nor_kept(project: Path, home: str) -> None:
    config = project / "aml_config"
    (config / "local.runconfig").write_text(
        "Target: local\nFramework: Python\nCondaDependenciesFile: aml_config/conda_dependencies.yml\n"
        "SparkDependenciesFile: aml_config/spark_dependencies.yml\n"
    )
    (config / "conda_dependencies.yml").write_text(
        "channels:\n  - https://me:planted-channel@conda.contoso.net/channel\n"
        "dependencies:\n  - python=3.11\n  - pip:\n"
        "    - --extra-index-url https://me:planted-index@pypi.contoso.net/simple\n"
    )
    (config / "spark_dependencies.yml").write_text(
        "repositories:\n  - https://me:planted-repository@maven.contoso.net/maven\npackages: []\n"
    )
    (project / "script.py").write_text("print('used')")
    shown = ""
    for words in (
        ("run", "local", "script.py"),
        ("run", "local", "script.py", "--dry-run"),
        ("snapshot", "--dry-run"),
        ("targets",),
        ("runs", "--json"),
    ):
        done = aml(*words)
        assert "Traceback" not in done.stderr
        shown += done.stdout + done.stderr
    assert "planted-" not in shown
    assert "aml_config/conda_dependencies.yml: credentials in addresses left out of the snapshot" in shown
    assert "aml_config/spark_dependencies.yml: credentials in addresses left out of the snapshot" in shown
    assert_kept_nowhere("planted-", home)
    (kept,) = runs.all_directories(home)
    copied = (Path(kept.work) / "aml_config/conda_dependencies.yml").read_text()
    assert "conda.contoso.net" in copied
