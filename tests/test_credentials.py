"""Machines that want a password: where it comes from, how it travels, and where it is not to be found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from aml_jupyter import credentials, experiment, runs
from aml_jupyter.config import Secret, find_project
from aml_jupyter.errors import AmlError, ConfigError, TargetUnavailable
from aml_jupyter.executors.docker import there
from aml_jupyter.executors.docker.there import control_folder
from aml_jupyter.starting import run_environment
from tests import machines
from tests.engines import PrivateEngine
from tests.machines import Box, kill_supervisor, log, states, submit, told, wait_for
from tests.notebooks import Notebook
from tests.sshd import user
from tests.terminal import aml, terminal, until

VARIABLE = "AML_PASSWORD_BOX"
REFERENCE = "AzureMlSecret=box#me#0123456789abcdef0123456789abcdef"
# what the run sees, and a moment in which somebody can look for what others see
SCRIPT = """
import os, time
print([name for name in os.environ if "PASSWORD" in name], flush=True)
share = os.environ["AZUREML_NATIVE_SHARE_DIRECTORY"]
while not os.path.exists(share + "go"):
    time.sleep(0.02)
open("outputs/result", "w").write("whole")
"""


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test meets passwords of another one, or of whoever runs the tests."""
    monkeypatch.setattr(credentials, "_remembered", {})
    monkeypatch.setattr(there, "_known", {})
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    with suppress(ImportError):
        import keyring
        from keyring.backends.fail import Keyring

        keyring.set_keyring(Keyring())


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "project"
    (folder / "aml_config").mkdir(parents=True)
    monkeypatch.chdir(folder)
    yield folder
    machines.end_connections(home)
    if control_folder().startswith("/tmp/aml-"):
        shutil.rmtree(control_folder())


def use_keyring(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = pytest.importorskip("keyring")
    from tests.keyring_in_file import FileKeyring

    monkeypatch.setenv("KEYRING_FILE", str(path))
    keyring.set_keyring(FileKeyring())  # type: ignore[no-untyped-call]


def assert_in_no_file(home: str, word: bytes) -> None:
    for path in Path(home).rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert word not in path.read_bytes(), path


class Locked:
    """A machine that lets in by password alone."""

    def __init__(self, box: Box, password: str, project: Path) -> None:
        self.box, self.password, self.project = box, password, project

    def configure(self, password: str | None) -> None:
        """Write the `.compute` file; `password` is what stands in it."""
        text = self.box.compute(privateKey=None, password=password)
        (self.project / "aml_config/box.compute").write_text(text)

    def go(self) -> None:
        """Let the script end."""
        (self.box.share / "go").touch()

    def assert_nowhere(self, home: str) -> None:
        """The password is in no file of ours, on no command line, and not with ssh."""
        word = self.password.encode()
        assert_in_no_file(home, word)
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                assert not entry.name.isdigit() or word not in (entry / "cmdline").read_bytes(), entry
        masters = machines.masters(home)
        assert masters
        for pid in masters:
            assert word not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.fixture
def locked(
    project: Path, tmp_path: Path, private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Locked]:
    with (
        user() as (name, password),
        machines.machine(tmp_path, private_engine, name, PasswordAuthentication="yes") as box,
    ):
        mode = os.stat(private_engine.socket).st_mode & 0o777
        os.chmod(private_engine.socket, 0o666)  # as a member of the group docker may
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        monkeypatch.setenv("AML_SSH_OPTIONS", box.options)
        yield Locked(box, password, project)
        with suppress(FileNotFoundError):
            os.chmod(private_engine.socket, mode)


# --- without a machine


@pytest.mark.parametrize(
    ("name", "expected"),
    [("box", "AML_PASSWORD_BOX"), ("gpu-box.2", "AML_PASSWORD_GPU_BOX_2"), ("büro", "AML_PASSWORD_B_RO")],
)
def test_the_variable_of_a_target_can_be_set_in_a_shell(name: str, expected: str) -> None:
    assert credentials.variable(name) == expected


def test_a_variable_comes_before_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert credentials.password_of("box", "host", "me") is None
    credentials.remember("box", "host", "me", Secret("typed"))
    assert credentials.password_of("box", "host", "me") == Secret("typed")
    assert credentials.password_of("box", "elsewhere", "me") is None
    monkeypatch.setenv(VARIABLE, "set")
    assert credentials.password_of("box", "elsewhere", "me") == Secret("set")


def test_a_keyring_that_is_not_there_has_nothing_and_takes_nothing() -> None:
    assert credentials.password_of("box", "host", "me") is None
    with pytest.raises(ConfigError) as raised:
        credentials.keep("box", "host", "me", Secret("hidden"))
    assert raised.value.code == "secret.no_keyring"
    assert VARIABLE in raised.value.hint
    assert "hidden" not in str(raised.value)


def test_the_environment_of_a_run_has_no_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "hidden")
    assert VARIABLE not in run_environment()


@pytest.mark.slow
def test_a_run_on_this_computer_does_not_get_passwords_of_machines(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "pl4nted-word")
    (project / "script.py").write_text("import os; print('pl4nted-word' in str(os.environ))")
    done = aml("run", "local", "script.py", cwd=project)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("text", ["prompt", REFERENCE])
def test_a_word_that_stands_for_a_password_is_none(project: Path, text: str) -> None:
    lines = f"type: remotedocker\naddress: host\nusername: me\npassword: {text}\n"
    (project / "aml_config/box.compute").write_text(lines)
    target = find_project().target("box")
    assert target.password is not None
    assert not target.password.is_itself
    assert not target.warnings


@pytest.mark.slow
def test_a_password_is_kept_in_the_keyring_and_found_there(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("keyring")
    lines = "type: remotedocker\naddress: host\nusername: me\npassword: prompt\n"
    (project / "aml_config/box.compute").write_text(lines)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "tests.keyring_in_file.FileKeyring")
    monkeypatch.setenv("KEYRING_FILE", str(tmp_path / "ring"))
    with terminal("targets", "password", "box", cwd=project) as shown:
        shown.expect(b"Password of me@host: ")
        shown.send(b"pl4nted-word\n")
        assert shown.end() == 0, shown.screen
    assert b"pl4nted" not in shown.screen
    use_keyring(tmp_path / "ring", monkeypatch)
    assert credentials.password_of("box", "host", "me") == Secret("pl4nted-word")


# --- whole runs


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("source", ["variable", "keyring", "clear"])
def test_a_run_logs_in_by_password_which_is_nowhere_to_be_read(
    locked: Locked, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    locked.configure(locked.password if source == "clear" else "prompt")
    if source == "variable":
        monkeypatch.setenv(VARIABLE, locked.password)
    if source == "keyring":
        use_keyring(tmp_path / "ring", monkeypatch)
        credentials.keep("box", "127.0.0.1", locked.box.user, Secret(locked.password))
    directory = submit(locked.project, SCRIPT)
    wait_for(directory, "[]\n")
    locked.assert_nowhere(home)
    locked.go()
    record = experiment.wait(directory, 60)
    assert record.status == "Completed", told(directory)
    assert any("clear text" in text for text in record.warnings) == (source == "clear")
    assert log(directory) == "[]\n"
    locked.assert_nowhere(home)
    until(lambda: not locked.box.left())


@pytest.mark.slow
@pytest.mark.root
def test_a_wrong_password_ends_the_run_and_is_not_shown(
    locked: Locked, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked.configure("prompt")
    monkeypatch.setenv(VARIABLE, "mist4ken")
    directory = submit(locked.project, SCRIPT)
    record = experiment.wait(directory, 60)
    assert (record.status, record.reason) == ("Failed", "target.auth_failed")
    assert_in_no_file(home, b"mist4ken")


@pytest.mark.slow
@pytest.mark.root
def test_where_nobody_can_be_asked_no_run_is_made_and_the_ways_are_told(locked: Locked, home: str) -> None:
    locked.configure(REFERENCE)
    with pytest.raises(TargetUnavailable) as raised:
        submit(locked.project, SCRIPT)
    assert raised.value.code == "secret.needed"
    for words in (VARIABLE, "aml targets password box", "SSH key"):
        assert words in raised.value.hint
    assert not list(runs.all_directories(home))
    done = aml("targets", "test", "box", cwd=locked.project)
    assert done.returncode == 1
    assert VARIABLE in done.stdout


@pytest.mark.slow
@pytest.mark.root
def test_keys_that_log_in_make_a_password_unnecessary(locked: Locked) -> None:
    path = locked.project / "aml_config/box.compute"
    path.write_text(locked.box.compute(password=REFERENCE))
    directory = submit(locked.project, SCRIPT)
    wait_for(directory, "[]\n")
    locked.go()
    assert experiment.wait(directory, 60).status == "Completed", told(directory)


@pytest.mark.slow
@pytest.mark.root
def test_a_run_whose_supervisor_died_goes_on_when_somebody_has_the_password(
    locked: Locked, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked.configure("prompt")
    monkeypatch.setenv(VARIABLE, locked.password)
    directory = submit(locked.project, SCRIPT)
    wait_for(directory, "[]\n")
    kill_supervisor(directory)
    machines.end_connections(home)
    monkeypatch.delenv(VARIABLE)

    assert experiment.resume(directory)
    until(lambda: states(directory)[-1] == ("NotResponding", "secret.needed"), 40)
    until(lambda: not runs.supervised(directory))
    record = runs.read_record(directory)
    assert (record.status, record.reason) == ("NotResponding", "secret.needed")
    assert VARIABLE in (record.error or {})["hint"]
    with pytest.raises(AmlError) as raised:
        experiment.wait(directory, 20)
    assert raised.value.code == "secret.needed"
    assert VARIABLE in raised.value.hint

    done = aml("resume", directory.run_id, cwd=locked.project, env={VARIABLE: locked.password})
    assert done.stdout == f"{directory.run_id} resumed\n", done.stderr
    locked.go()
    until(lambda: runs.read_record(directory).ended, 60)
    record = runs.read_record(directory)
    assert (record.status, record.artifacts) == ("Completed", 1), told(directory)
    locked.assert_nowhere(home)


@pytest.mark.slow
@pytest.mark.root
def test_a_password_in_clear_is_read_again_by_whoever_resumes_the_run(locked: Locked, home: str) -> None:
    locked.configure(locked.password)
    directory = submit(locked.project, SCRIPT)
    wait_for(directory, "[]\n")
    kill_supervisor(directory)
    machines.end_connections(home)
    done = aml("resume", directory.run_id, cwd=home)
    assert done.stdout == f"{directory.run_id} resumed\n", done.stderr
    locked.go()
    until(lambda: runs.read_record(directory).ended, 60)
    assert runs.read_record(directory).status == "Completed", told(directory)
    for path in locked.box.remote.rglob("*"):
        assert not path.is_file() or locked.password.encode() not in path.read_bytes(), path


@pytest.mark.slow
@pytest.mark.root
def test_a_terminal_asks_for_the_password_and_says_when_it_is_wrong(locked: Locked, home: str) -> None:
    locked.configure("prompt")
    (locked.project / "script.py").write_text(SCRIPT)
    with terminal("run", "box", "script.py", cwd=locked.project) as shown:
        shown.expect(b"Password of ")
        shown.send(b"mist4ken\n")
        assert shown.end() == 125, shown.screen
    assert b"target.auth_failed" in shown.screen
    with terminal("run", "box", "script.py", cwd=locked.project) as shown:
        shown.expect(b"Password of ")
        shown.send(locked.password.encode() + b"\n")
        shown.expect(b"[]", 60)
        locked.assert_nowhere(home)
        locked.go()
        assert shown.end() == 0, shown.screen
    assert locked.password.encode() not in shown.screen


@pytest.mark.slow
@pytest.mark.root
def test_a_notebook_asks_once_for_the_password(locked: Locked, home: str) -> None:
    locked.configure("prompt")
    notebook = Notebook(str(locked.project), AML_HOME=home, PYTHONPATH=str(Path(__file__).parent.parent))
    asked: list[str] = []

    def answer(message: dict[str, dict[str, str]]) -> None:
        asked.append(message["content"]["prompt"])
        notebook.client.input(locked.password)

    def run(code: str) -> dict[str, object]:
        found: dict[str, object] = notebook.client.execute_interactive(
            code, allow_stdin=True, stdin_hook=answer, output_hook=lambda _: None, timeout=90
        )["content"]
        return found

    try:
        run("%load_ext aml_jupyter")
        for _ in range(2):
            assert run("%%amlrun box\nopen('outputs/a', 'w').write('x')")["status"] == "ok"
        assert len(asked) == 1, asked
        locked.assert_nowhere(home)
    finally:
        notebook.close()


@pytest.mark.slow
@pytest.mark.root
def test_the_question_of_a_notebook_can_be_interrupted_and_needs_somebody_to_answer(
    locked: Locked, home: str
) -> None:
    locked.configure("prompt")
    notebook = Notebook(str(locked.project), AML_HOME=home, PYTHONPATH=str(Path(__file__).parent.parent))
    try:
        notebook.run("%load_ext aml_jupyter")
        cell = notebook.run("%%amlrun box\n1")
        assert "secret.needed" in cell.error
        assert VARIABLE in cell.error
        asked = notebook.client.execute("%%amlrun box\n1", allow_stdin=True)
        notebook.client.get_stdin_msg(timeout=30)
        notebook.interrupt()
        while (reply := notebook.client.get_shell_msg(timeout=30))["parent_header"].get("msg_id") != asked:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert not list(runs.all_directories(home))
    finally:
        notebook.close()


@pytest.mark.slow
@pytest.mark.root
def test_a_run_canceled_while_it_is_prepared_leaves_nothing_on_the_machine(
    locked: Locked, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked.configure("prompt")
    monkeypatch.setenv(VARIABLE, locked.password)
    (locked.project / "large").write_bytes(os.urandom(20 << 20))
    directory = submit(locked.project, SCRIPT)
    until(locked.box.left, 60)
    experiment.cancel(directory)
    record = experiment.wait(directory, 90)
    assert record.status == "Canceled", told(directory)
    assert not os.path.exists(directory.starting)  # it was in time
    assert not locked.box.left(), told(directory)
