"""`aml env`: show, lock, diff, export, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import cli
from aml_jupyter.config import find_project
from aml_jupyter.packages import keep
from tests import made_runs
from tests.conda_channel import MINOR, PLATFORM, VERSION, conda_channel
from tests.wheel_index import PASSWORD, Index, served

__all__ = ["conda_channel"]


@pytest.fixture
def index() -> Iterator[Index]:
    made = Index(password=True)
    made.add("amlpip", "1.0")
    made.add("amlpip", "2.0")
    with served(made) as running:
        yield running


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch, index: Index) -> Path:
    folder = tmp_path / "project" / "aml_config"
    folder.mkdir(parents=True)
    (folder / "docker.compute").write_text("type: localdocker\nbaseDockerImage: python:3.9-slim\n")
    monkeypatch.chdir(folder.parent)
    ask(folder.parent, index, "amlpip==1.0")
    return folder.parent


def ask(project: Path, index: Index, *pip: str, conda: str = "", channel: str = "") -> None:
    """Write the dependency file of a project."""
    items = "".join(f"    - {item}\n" for item in (index.option, *pip))
    channels = f"channels: [{channel}]\n" if channel else ""
    (project / "aml_config" / "conda_dependencies.yml").write_text(
        f"{channels}dependencies:\n{conda}  - pip:\n{items}"
    )


@pytest.fixture
def aml(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str, status: int = 0) -> tuple[str, str]:
        assert cli.main(["env", *words]) == status, capsys.readouterr()
        said = capsys.readouterr()
        assert PASSWORD not in said.out + said.err
        return said.out, said.err

    return run


@pytest.mark.usefixtures("project")
def test_what_is_asked_for_is_shown_before_it_is_solved(aml: Any) -> None:
    out, err = aml("show", "local")
    assert "aml_config/conda_dependencies.yml" in out
    assert "amlpip==1.0" in out
    assert "aml env lock local" in err
    assert json.loads(aml("show", "local", "--json")[0])["lock"] is None


@pytest.mark.usefixtures("project")
def test_a_lock_is_made_and_shown(aml: Any) -> None:
    out, err = aml("lock", "local")
    assert "amlpip   1.0" in out
    assert f"{MINOR} (base)" in out
    assert "Resolved 2 packages" in err
    assert "amlpip   1.0" in aml("show", "local")[0]
    # once
    assert aml("lock", "local")[1] == ""


@pytest.mark.usefixtures("project")
def test_a_lock_is_for_the_python_that_the_image_names(aml: Any) -> None:
    assert json.loads(aml("lock", "docker", "--json")[0])["python"] == "3.9"
    assert json.loads(aml("lock", "docker", "--json", "--python", "3.12")[0])["python"] == "3.12"
    other = json.loads(aml("lock", "docker", "--json", "--platform", "linux-aarch64")[0])
    assert other["platform"] == "linux-aarch64"


def test_two_locks_are_compared(aml: Any, project: Path, index: Index) -> None:
    first = json.loads(aml("lock", "local", "--json")[0])["digest"]
    ask(project, index, "amlpip==2.0")
    aml("lock", "local")
    out, _ = aml("diff", first[:8], "local", status=1)
    assert out.splitlines()[1].split() == ["amlpip", "1.0", "2.0"]
    found = json.loads(aml("diff", first, "local", "--json", status=1)[0])
    assert found["changed"] == [{"name": "amlpip", "from": "1.0", "to": "2.0"}]
    assert (found["same"], found["added"], found["removed"]) == (False, [], [])
    assert "no difference" in aml("diff", "local", "local")[1]


@pytest.mark.usefixtures("project")
def test_relaxed_pins_are_told_and_shown(aml: Any, project: Path, index: Index) -> None:
    ask(project, index, "amlpip==9.0")
    _, err = aml("lock", "local", status=125)
    assert "amlpip==9.0: there is no version of amlpip==9.0" in err
    assert "[environment.unsolvable]" in err
    out, err = aml("lock", "local", "--relax-pins")
    assert "relaxed: amlpip==9.0 became amlpip" in err
    assert "amlpip==9.0 became amlpip" in out


def test_locks_are_exported_for_conda_and_pip(
    aml: Any, project: Path, index: Index, conda_channel: str, tmp_path: Path
) -> None:
    ask(project, index, "amlpip", conda="  - amlneeds\n", channel=conda_channel)
    lock = json.loads(aml("lock", "local", "--json")[0])
    out, _ = aml("export", "local", "--format", "conda")
    python = next(one for one in lock["packages"] if one["name"] == "python")
    assert f"# platform: {PLATFORM}" in out
    assert (
        out.splitlines()[out.splitlines().index("@EXPLICIT") + 3]
        == f"{python['url']}#sha256:{python['sha256']}"
    )
    pip, _ = aml("export", "local", "--format", "pip")
    assert f"--index-url http://{index.host}/simple\n" in pip
    assert "amlpip==2.0 \\\n    --hash=sha256:" in pip
    aml("export", lock["digest"][:12], "-o", str(tmp_path / "lock.json"))
    assert json.loads((tmp_path / "lock.json").read_text()) == lock
    assert lock["python"] == VERSION


@pytest.mark.usefixtures("project")
def test_the_environment_of_a_run_is_that_of_its_record(aml: Any, home: str, tmp_path: Path) -> None:
    project = find_project(str(tmp_path / "project"))
    lock = json.loads(aml("lock", "local", "--json")[0])
    run = made_runs.finished(home, project, environment={"lock": lock["digest"], "digest": "x"})  # type: ignore[arg-type]
    assert lock["digest"] in aml("show", run.run_id)[0]
    assert "no difference" in aml("diff", "@last", "local")[1]
    facts = {"version": MINOR, **keep(home, "/usr/bin/python3", {"amlpip": "3.0", "pip": "99.0"})}
    made_runs.finished(home, project, environment=facts)  # type: ignore[arg-type]
    out, _ = aml("diff", "@last", "local", status=1)
    assert [line.split() for line in out.splitlines()[1:]] == [["amlpip", "3.0", "1.0"]]
    assert "there is no lock of it" in aml("export", "@last", status=2)[1]


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        ("show nosuch", "nosuch is no target, no run and no lock", 3),
        ("lock nosuch", "there is no target 'nosuch'", 2),
        ("export local", "aml env lock local", 2),
        ("lock local --python 2.7", "--python '2.7' is not a version", 2),
        ("", "required", 2),
    ],
)
@pytest.mark.usefixtures("project")
def test_wrong_words_are_told_what_is_right(aml: Any, words: str, said: str, status: int) -> None:
    assert said in aml(*words.split(), status=status)[1]


@pytest.mark.usefixtures("project")
def test_a_project_that_asks_for_nothing_says_so(aml: Any, project: Path) -> None:
    (project / "aml_config" / "conda_dependencies.yml").unlink()
    assert (
        "has no aml_config/conda_dependencies.yml: local uses its Python as it is" in aml("show", "local")[0]
    )
    assert "docker uses its image as it is" in aml("show", "docker")[0]
    assert json.loads(aml("show", "docker", "--json")[0]) == {"asked": None, "lock": None}
    assert "has no aml_config/conda_dependencies.yml" in aml("lock", "docker", status=2)[1]
    (project / "aml_config" / "conda_dependencies.yml").write_text("# nothing yet\n")
    assert "names no package: docker uses its image as it is" in aml("show", "docker")[0]
