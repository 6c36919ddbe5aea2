"""The commands of 2017 beyond those that start and list runs: options, clean, diagnostics, credentials."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from aml_jupyter import az, cli, environment
from aml_jupyter.commands.workbench import OwnFiles
from aml_jupyter.config import find_project
from tests.terminal import aml, data

PLAIN = 'ArgumentVector: ["$file"]\nTarget: local\nFramework: Python\n'


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "iris"
    (folder / "aml_config").mkdir(parents=True)
    (folder / "aml_config" / "local.runconfig").write_text(PLAIN)
    (folder / "train.py").write_text(
        "import sys\nopen('outputs/model.txt', 'w').write(sys.argv[1])\nprint('trained', *sys.argv[1:])\n"
    )
    monkeypatch.chdir(folder)
    return folder


def test_an_untracked_run_is_in_no_list(project: Path) -> None:
    assert aml("experiment", "submit", "-u", "-c", "local", "train.py", "1").stdout == "trained 1\n"
    assert data("runs") == []
    assert [run["status"] for run in data("runs", "--hidden")] == ["Completed"]


def test_a_run_configuration_may_name_the_script_itself(project: Path) -> None:
    (project / "aml_config" / "whole.runconfig").write_text(
        'ArgumentVector: ["train.py", "0.5"]\nTarget: local\nFramework: Python\n'
    )
    assert aml("experiment", "submit", "aml_config/whole.runconfig").stdout == "trained 0.5\n"
    assert "Name one" in aml("experiment", "submit", "local.runconfig").stderr


def test_other_files_of_dependencies_may_be_named(project: Path) -> None:
    (project / "deps").mkdir()
    (project / "deps" / "conda.yml").write_text("dependencies:\n  - numpy\n")
    found = find_project(str(project))
    own = OwnFiles(**found.as_dict(), conda="deps/conda.yml")
    configuration, _ = own.resolve("local")
    loaded = environment.load(own, configuration)
    assert loaded.conda
    assert loaded.conda.dependencies == ("numpy",)
    assert "deps/conda.yml" in own.dependency_files()
    assert own.replace(name="other").resolve("local")[0].conda_dependencies_file == "deps/conda.yml"
    words = ("-d", "deps/conda.yml", "-s", str(project / "train.py"), "train.py", "1")
    assert aml("experiment", "submit", *words).stdout == "trained 1\n"
    for wrong in ("nothing.yml", "/etc/hosts", "../outside.yml"):
        done = aml("experiment", "submit", "-d", wrong, "train.py")
        assert done.returncode == 2
        assert f"-d {wrong}: there is no such file in the project" in done.stderr


def test_working_copies_are_cleaned_and_results_stay(project: Path) -> None:
    for number in "12":
        aml("experiment", "submit", "train.py", number)
    first, second = (Path(data("show", run)["directory"]) / "work" for run in ("@last~1", "@last"))
    assert aml("experiment", "clean", "-r", "@last", "-t", "docker").stdout == ""
    assert data("experiment", "clean", "-r", "@last") == [second.parent.name]
    assert (first.is_dir(), second.is_dir()) == (True, False)
    assert data("experiment", "clean", "--all", "-t", "local") == [first.parent.name]
    assert data("experiment", "clean", "--all") == []
    assert aml("cat", "@last", "outputs/model.txt").stdout == "2"
    for words in ((), ("-r", "@last", "-a")):
        assert aml("experiment", "clean", *words).returncode == 2


def test_a_run_that_goes_on_keeps_its_working_copy(project: Path) -> None:
    (project / "waits.py").write_text("import os, time\nwhile not os.path.exists('stop'): time.sleep(0.05)\n")
    aml("experiment", "submit", "-a", "waits.py")
    work = Path(data("show", "@last")["directory"]) / "work"
    done = aml("experiment", "clean", "--all")
    assert (done.returncode, done.stdout) == (0, "")
    assert "has not ended" in done.stderr
    assert aml("experiment", "cancel", "-r", "@last", "-t", "local").returncode == 0
    aml("wait", "@last")
    assert work.is_dir()
    assert data("experiment", "status", "-r", "@last")["status"] == "Canceled"


def test_diagnostics_are_an_archive_without_values_of_variables(project: Path) -> None:
    (project / "aml_config" / "local.runconfig").write_text(
        PLAIN + "EnvironmentVariables:\n  KEY: planted-value\n"
    )
    aml("experiment", "submit", "train.py", "1")
    path = aml("experiment", "diagnostics", "-r", "@last").stdout.strip()
    assert path == f"{project}/diagnostics.zip"
    run_id = data("show", "@last")["run_id"]
    with zipfile.ZipFile(path) as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} == {run_id}
        assert archive.read(f"{run_id}/job/log") == b"trained 1\n"
        assert json.loads(archive.read(f"{run_id}/run.json"))["status"] == "Completed"
        assert not any(b"planted-value" in archive.read(name) for name in archive.namelist())
    os.replace("diagnostics.zip", "elsewhere.zip")
    (project / "diagnostics.zip").symlink_to("train.py")
    aml("experiment", "diagnostics", "-r", "@last")
    assert (project / "train.py").read_text().startswith("import sys")


def test_outputs_return_to_the_project(project: Path) -> None:
    aml("experiment", "submit", "train.py", "1")
    aml("experiment", "return", "-r", "@last", "-t", "local")
    assert (project / "outputs" / "model.txt").read_text() == "1"
    (project / "outputs" / "model.txt").write_text("mine")
    assert aml("experiment", "return", "-r", "@last").returncode == 2
    assert aml("experiment", "return", "-r", "@last", "-f").returncode == 0
    assert (project / "outputs" / "model.txt").read_text() == "1"


@pytest.mark.parametrize(
    "words", [["remotedocker"], ["--type", "remotedocker"], ["--type", "remotedocker", "-k"]]
)
def test_targets_are_attached_as_in_every_version(project: Path, words: list[str]) -> None:
    done = aml("computetarget", "attach", *words, "-n", "box", "-a", "10.0.0.1", "-u", "me")
    assert done.returncode == 0, done.stderr
    text = (project / "aml_config" / "box.compute").read_text()
    assert "10.0.0.1" in text
    assert "password: null" in text


def test_a_cluster_has_a_word_of_its_own(project: Path) -> None:
    assert (
        aml("computetarget", "attach", "--cluster", "-n", "c", "-a", "h-ssh.net", "-u", "x").returncode == 0
    )
    assert "type: cluster" in (project / "aml_config" / "c.compute").read_text()
    assert "no kind is named" in aml("computetarget", "attach", "-n", "d").stderr


def test_a_password_goes_into_the_keyring_and_into_no_file(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "tests.keyring_in_file.FileKeyring")
    monkeypatch.setenv("KEYRING_FILE", str(tmp_path / "keyring.json"))
    words = ("computetarget", "attach", "remotedocker", "-n", "box", "-a", "10.0.0.1:2222", "-u", "me")
    done = aml(*words, "-w", "planted-pass")
    assert done.returncode == 0, done.stderr
    assert "read by others" in done.stderr
    assert "planted" not in done.stdout + done.stderr
    assert json.loads((tmp_path / "keyring.json").read_text()) == {"aml_jupyter me@10.0.0.1": "planted-pass"}
    assert not any(b"planted" in path.read_bytes() for path in project.rglob("*") if path.is_file())
    assert "password: prompt" in (project / "aml_config" / "box.compute").read_text()
    assert "AML_PASSWORD_BOX" in aml(*words, "-w").stderr
    assert "ssh-add" in aml(*words, "--private-key-passphrase", "x").stderr
    aml(*words, "--private-key-file", "~/.ssh/key")
    assert "privateKey: ~/.ssh/key" in (project / "aml_config" / "box.compute").read_text()


def test_a_run_configuration_is_named_either_way(project: Path) -> None:
    aml("runconfiguration", "create", "-n", "one", "-t", "local")
    aml("runconfiguration", "create", "two", "-t", "local")
    assert {path.name for path in (project / "aml_config").iterdir()} >= {"one.runconfig", "two.runconfig"}
    assert "no name" in aml("runconfiguration", "create", "-t", "local").stderr


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("computetarget list -o table", "computetarget list"),
        ("computetarget list --output=json", "computetarget list --json"),
        ("experiment status -r x -o jsonc", "experiment status -r x --json"),
        ("experiment submit a.py -o table", "experiment submit a.py -o table"),
        ("history list -o table", "history list -o table"),
    ],
)
def test_every_command_takes_the_output_option_of_the_azure_cli(line: str, found: str) -> None:
    assert az.translate(line.split()) == found.split()


@pytest.mark.parametrize(
    "action", ["submit", "prepare", "cancel", "status", "clean", "diagnostics", "return"]
)
def test_every_action_explains_itself(action: str, capsys: pytest.CaptureFixture[str], home: str) -> None:
    assert cli.main(["experiment", action, "--help"]) == 0
    assert f"usage: aml experiment {action}" in capsys.readouterr().out
