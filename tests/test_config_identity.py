"""What a project is called, when folders share names, move, or are registered at the same time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aml_jupyter.config import Project, find_project, registered
from aml_jupyter.config.edit import name_project
from aml_jupyter.config.identity import name_problem, plain_name
from aml_jupyter.errors import ConfigError, HistoryError, UsageError
from tests.holders import stuck_holder

pytestmark = pytest.mark.usefixtures("home")

SCOPE = (
    "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/group/providers/"
    "Microsoft.MachineLearningExperimentation/accounts/{}/workspaces/{}/projects/{}"
)


def folder(parent: Path, name: str = "iris") -> Path:
    path = parent / name
    (path / "aml_config").mkdir(parents=True)
    return path


def scoped(path: Path, scope: str, where: str = ".azureml/project.json") -> Path:
    (path / where).parent.mkdir(parents=True, exist_ok=True)
    (path / where).write_text(json.dumps({"Id": "6d5b0a31", "Scope": scope}))
    return path


def run_in(path: str) -> Project:
    """The project of a folder in which something ran."""
    return registered(find_project(path))


def test_account_workspace_and_project_come_from_the_scope(tmp_path: Path) -> None:
    path = scoped(folder(tmp_path, "some-folder"), SCOPE.format("TeamExperimentation", "Team WS", "iris-2"))
    project = find_project(str(path))
    assert project.key == "TeamExperimentation/Team WS/iris-2"
    assert project.scope_file == str(path / ".azureml" / "project.json")
    assert project.notice is None


def test_the_private_preview_kept_its_scope_in_aml_config(tmp_path: Path) -> None:
    path = folder(tmp_path)
    scope = "/providers/Microsoft.MachineLearningServices/accounts/A/workspaces/W/projects/P/"
    (path / "aml_config" / "project.json").write_text(f'\ufeff{{"Scope": "{scope}", "Id": "1"}}', "utf-8")
    assert find_project(str(path)).key == "A/W/P"


def test_a_scope_of_the_successor_has_no_account(tmp_path: Path) -> None:
    scope = "/subscriptions/1/providers/Microsoft.MachineLearningServices/workspaces/W/projects/P"
    assert find_project(str(scoped(folder(tmp_path), scope))).key == "local/W/P"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("[]", "Scope: is missing"),
        ("{}", "Scope: is missing"),
        ('{"Scope": 3}', "Scope: is missing"),
        ('{"Id": "1",\n"Scope" "x"}', r"json:2: is not JSON"),
        ('{"Id": "1",\n"Scope": "/accounts/a"}', r"json:2: Scope: names no project"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_damaged_scope_file_is_an_error_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = folder(tmp_path)
    (path / ".azureml").mkdir()
    (path / ".azureml" / "project.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        find_project(str(path))


def test_without_a_scope_the_folder_gives_the_name(tmp_path: Path) -> None:
    project = find_project(str(folder(tmp_path)))
    assert (project.key, project.notice, project.scope_file) == ("local/default/iris", None, None)


def test_looking_at_a_folder_takes_no_name(tmp_path: Path, home: str) -> None:
    looked_at, real = folder(tmp_path / "a"), folder(tmp_path / "b")
    assert find_project(str(looked_at)).name == "iris"
    assert not Path(home).exists()
    assert run_in(str(real)).name == "iris"
    found = find_project(str(looked_at))
    assert found.name == "iris-2"
    assert found.notice is not None
    assert run_in(str(looked_at)) == found
    assert find_project(str(looked_at)).notice is None


def test_a_moved_folder_is_known_before_it_runs_again(tmp_path: Path) -> None:
    run_in(str(folder(tmp_path / "a")))
    (tmp_path / "a").rename(tmp_path / "b")
    for _ in range(2):
        assert find_project(str(tmp_path / "b/iris")).name == "iris"
    assert run_in(str(tmp_path / "b/iris")).notice is not None
    assert find_project(str(tmp_path / "b/iris")).notice is None


def test_a_stuck_process_that_registers_is_named(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.makedirs(home + "/projects")
    monkeypatch.setattr("aml_jupyter.locks.PATIENCE", 0.3)
    with stuck_holder(home + "/projects/.lock") as holder, pytest.raises(HistoryError) as caught:
        run_in(str(folder(tmp_path)))
    assert caught.value.code == "history.locked"
    assert f"process {holder.pid}" in caught.value.message


def test_a_second_folder_of_that_name_is_numbered_and_told_once(tmp_path: Path) -> None:
    first, second, third = (folder(tmp_path / letter) for letter in "abc")
    assert run_in(str(first)).name == "iris"
    found = run_in(str(second))
    assert found.name == "iris-2"
    assert found.notice is not None
    assert str(first) in found.notice
    assert "aml config --name NAME" in found.notice
    assert run_in(str(second)) == found.replace(notice=None)
    assert run_in(str(third)).name == "iris-3"
    assert run_in(str(first)).name == "iris"


def test_names_that_differ_only_in_case_are_the_same_on_some_disks(tmp_path: Path) -> None:
    assert run_in(str(folder(tmp_path / "a", "Iris"))).name == "Iris"
    assert run_in(str(folder(tmp_path / "b", "iris"))).name == "iris-2"


def test_a_moved_folder_keeps_its_name_and_history(tmp_path: Path) -> None:
    path = folder(tmp_path / "a")
    run_in(str(path))
    (tmp_path / "b").mkdir()
    path.rename(tmp_path / "b" / "renamed")
    moved = run_in(str(tmp_path / "b" / "renamed"))
    assert moved.name == "iris"
    assert moved.notice is not None
    assert "keeps the name iris" in moved.notice
    assert run_in(moved.root) == moved.replace(notice=None)
    assert run_in(str(folder(tmp_path / "a"))).name == "iris-2"


def test_a_copied_folder_is_another_project(tmp_path: Path) -> None:
    path = folder(tmp_path / "a")
    run_in(str(path))
    shutil.copytree(path, tmp_path / "b" / "iris")
    assert run_in(str(tmp_path / "b" / "iris")).name == "iris-2"


def test_a_folder_made_again_at_its_place_keeps_its_name(tmp_path: Path) -> None:
    path = folder(tmp_path)
    run_in(str(path))
    shutil.rmtree(path)
    assert run_in(str(folder(tmp_path))).name == "iris"


def test_another_folder_does_not_inherit_the_history_of_a_deleted_one(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", "old")
    run_in(str(path))
    shutil.rmtree(path)
    names = {run_in(str(folder(tmp_path / "b", f"new{number}"))).name for number in range(20)}
    assert "old" not in names


def test_naming_a_project_lasts_and_moves_with_the_folder(tmp_path: Path) -> None:
    run_in(str(folder(tmp_path / "a")))
    second = run_in(str(folder(tmp_path / "b")))
    named = name_project(second, "flowers")
    assert named.key == "local/default/flowers"
    shutil.copytree(named.root, tmp_path / "c")
    assert run_in(str(tmp_path / "c")).key == "local/default/flowers"
    assert name_project(named, "roses").key == "local/default/roses"
    with pytest.raises(UsageError):
        name_project(named, "a/b")


def test_naming_keeps_account_workspace_and_id_of_a_scope(tmp_path: Path) -> None:
    project = find_project(str(scoped(folder(tmp_path), SCOPE.format("A", "W", "P"))))
    assert name_project(project, "Q").key == "A/W/Q"
    assert json.loads(Path(str(project.scope_file)).read_text())["Id"] == "6d5b0a31"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": "../..", "root": "/"}', b"\xff"])
def test_a_damaged_record_is_made_again(tmp_path: Path, home: str, content: bytes) -> None:
    path = folder(tmp_path)
    run_in(str(path))
    record = next(Path(home, "projects").glob("*.json"))
    record.write_bytes(content)
    assert run_in(str(path)).name == "iris"
    assert json.loads(record.read_text())["root"] == str(path)


_MANY = """
import sys
from aml_jupyter.config import find_project, registered
for root in sys.argv[1:]:
    print(root, registered(find_project(root)).name)
"""


def test_processes_at_the_same_time_never_share_a_name(tmp_path: Path) -> None:
    roots = [str(folder(tmp_path / str(number))) for number in range(20)]
    here = str(Path(__file__).parent.parent)
    children = [
        subprocess.Popen([sys.executable, "-c", _MANY, *order], stdout=subprocess.PIPE, text=True, cwd=here)
        for order in (roots, roots[::-1], roots[5:] + roots[:5], roots)
    ]
    answers = {}
    for child in children:
        said, _ = child.communicate(timeout=60)
        answers[child.pid] = dict(line.split() for line in said.splitlines())
        assert child.returncode == 0
    names = next(iter(answers.values()))
    assert all(answer == names for answer in answers.values())
    assert len(set(names.values())) == len(roots)


@pytest.mark.faults
def test_a_process_killed_while_registering_leaves_no_damage(tmp_path: Path, home: str) -> None:
    roots = [str(folder(tmp_path / str(number))) for number in range(200)]
    here = str(Path(__file__).parent.parent)
    for wait in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", _MANY, *roots], stdout=subprocess.PIPE, text=True, cwd=here
        )
        assert child.stdout is not None
        for _ in range(1 + 7 * wait):
            child.stdout.readline()
        child.kill()
        child.communicate()
    names = [run_in(root).name for root in roots]
    assert len(set(names)) == len(names)
    for record in Path(home, "projects").glob("*.json"):
        assert json.loads(record.read_text())["format"] == 1


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("iris", "iris"),
        ("My Project (2)", "My-Project--2"),
        ("...", "project"),
        ("CON", "project-CON"),
        ("lpt²", "project-lpt²"),
        ("été", "été"),
        ("a" * 300, "a" * 100),
        (os.fsdecode(b"caf\xe9"), "caf"),
        ("-x", "x"),
        ("", "project"),
    ],
)
def test_a_folder_name_becomes_a_name_that_may_be_a_folder_anywhere(name: str, plain: str) -> None:
    assert plain_name(f"/some/{name}") == plain


@given(st.text())
def test_every_folder_name_becomes_a_fit_name(name: str) -> None:
    assert not name_problem(plain_name("/" + name))


def test_a_folder_whose_name_is_not_text_is_a_project(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9"
    os.makedirs(path + b"/aml_config")
    project = run_in(os.fsdecode(path))
    assert project.name == "caf"
    assert run_in(os.fsdecode(path)) == project
