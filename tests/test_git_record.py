"""What a run remembers of the checkout that it was started from."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.experiment import Request
from aml_jupyter.runs import Record
from tests.requirements import need


@pytest.fixture
def checkout(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    need("git")
    folder = tmp_path / "checkout"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "script.py").write_text("print('first')\n")
    git("init", "-q", "-b", "main")
    git("remote", "add", "origin", "https://me:planted-remote@git.contoso.net/thing.git")
    return folder


def git(*words: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout


def run() -> tuple[Record, runs.RunDirectory]:
    directory = experiment.submit(Request(script="script.py"))
    return experiment.wait(directory, 30), directory


def test_commit_branch_and_uncommitted_changes_are_kept(checkout: Path, tmp_path: Path) -> None:
    git("add", "script.py")
    git("commit", "-q", "-m", "first")
    clean, _ = run()
    assert clean.git == {
        "commit": git("rev-parse", "HEAD").strip(),
        "branch": "main",
        "dirty": False,
        "diff_sha256": None,
        "withheld": "",
    }
    (checkout / "script.py").write_text("print('second')\n")
    record, directory = run()
    assert record.status == "Completed"
    assert record.git is not None
    patch = Path(directory.git_diff).read_bytes()
    assert record.git["dirty"]
    assert record.git["diff_sha256"] == hashlib.sha256(patch).hexdigest()
    # commit and patch give the code that ran
    git("worktree", "add", "-q", str(tmp_path / "again"), record.git["commit"])
    subprocess.run(["git", "apply", "-"], input=patch, cwd=tmp_path / "again", check=True)
    assert (tmp_path / "again/script.py").read_text() == "print('second')\n"


def test_the_code_of_an_earlier_run_keeps_the_state_of_its_checkout(checkout: Path) -> None:
    git("add", "script.py")
    git("commit", "-q", "-m", "first")
    earlier, directory = run()
    git("commit", "-q", "--allow-empty", "-m", "second")
    later = experiment.wait(experiment.submit(Request(script="script.py", from_run=directory.run_id)), 30)
    assert later.git == earlier.git


def test_a_checkout_without_a_commit_says_why_there_is_no_patch(checkout: Path) -> None:
    record, directory = run()
    assert record.status == "Completed"
    assert record.git is not None
    assert record.git["dirty"]
    assert record.git["withheld"]
    assert not Path(directory.git_diff).exists()


CREDENTIALS = (".pgpass", ".aws/credentials", "deep/kaggle.json", "keys/id_ed25519_sk", ".ssh/config")


@pytest.mark.parametrize("name", CREDENTIALS)
def test_X3_what_a_snapshot_leaves_out_as_a_credential_is_in_no_patch(checkout: Path, name: str) -> None:
    secret = checkout / name
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("old planted words\n" * 9)
    (checkout / ".env.example").write_text("TOKEN=\n")
    git("add", "-f", ".")
    git("commit", "-q", "-m", "first")
    secret.write_text("old planted words\n" * 9 + "new planted words\n")
    (checkout / ".env.example").write_text("TOKEN=yours\n")
    for moved in (False, True):
        if moved:
            git("mv", name, "renamed.pem")
        record, directory = run()
        patch = Path(directory.git_diff).read_bytes()
        assert record.git is not None
        assert record.git["dirty"]
        assert b"+TOKEN=yours" in patch
        assert b"planted" not in patch


def test_X3_a_login_in_the_address_of_a_remote_is_not_kept(checkout: Path, home: str) -> None:
    git("add", "script.py")
    run()
    files = [path for path in Path(home).rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"planted-remote" in path.read_bytes()]


FILTERS = ("clean", "process")


@pytest.mark.parametrize("how", FILTERS)
def test_X6_the_filters_of_a_hostile_checkout_are_not_executed(
    checkout: Path, tmp_path: Path, how: str
) -> None:
    """Asking git for the state of files runs the programs that the checkout's own configuration names."""
    git("add", "script.py")
    git("commit", "-q", "-m", "first")
    proof = tmp_path / "executed"
    (checkout / ".gitattributes").write_text("*.py filter=Evil.One diff=evil\n")
    (checkout / ".git/more").write_text(f'[filter "Evil.One"]\n\t{how} = touch {proof}\n\trequired = true\n')
    with open(checkout / ".git/config", "a", encoding="utf-8") as file:
        file.write(f'[diff "evil"]\n\ttextconv = touch {proof}\n\tcommand = touch {proof}\n')
        file.write(
            f"[core]\n\tfsmonitor = touch {proof}\n\thooksPath = {checkout}\n[include]\n\tpath = more\n"
        )
    (checkout / "script.py").write_text("print('changed')\n")
    record, _ = run()
    assert record.status == "Completed"
    assert not proof.exists()
    assert record.git is not None
    assert record.git["dirty"]
    assert record.git["diff_sha256"]
