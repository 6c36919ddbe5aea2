"""Outputs downloaded in parts, looked at while the run goes on, and handed to a desktop."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import artifacts, cli, runs
from aml_jupyter.artifacts.saving import RESUMED, partial_name
from aml_jupyter.artifacts.transfer import Progress
from aml_jupyter.commands.outputs import find_opener, unsafe
from aml_jupyter.errors import ArtifactError, ConfinedError
from aml_jupyter.runs import RunDirectory
from tests import made_runs
from tests.requirements import need
from tests.terminal import aml, data, detached, environment, terminal, until

SIZE = RESUMED + (3 << 20)
# about an eighth of the file is there when it is cut off
CUT = 1 << 20


@pytest.fixture
def kept(home: str) -> RunDirectory:
    """A run with a large artifact and two small ones."""
    directory = made_runs.submit(home)
    made_runs.write(directory.started_json, {"format": 1})
    outputs = Path(directory.work) / "outputs"
    pattern = b"".join(number.to_bytes(4, "big") for number in range(1 << 18))
    (outputs / "large.bin").write_bytes((pattern * 16)[:SIZE])
    (outputs / "notes.txt").write_text("hello\nworld\n")
    (outputs / "plots").mkdir()
    (outputs / "plots/a.png").write_bytes(b"\x89PNG")
    artifacts.collect(directory)
    made_runs.end(directory)
    return directory


def cut_off(progress: Progress) -> None:
    if progress.bytes_done >= CUT:
        raise KeyboardInterrupt


def large(kept: RunDirectory) -> bytes:
    return artifacts.read_artifact(kept, "large.bin")


def partial(kept: RunDirectory, into: Path) -> Path:
    return into / partial_name("large.bin", artifacts.find(kept, "large.bin").sha256)


def test_a_download_that_was_interrupted_goes_on_where_it_ended(kept: RunDirectory, tmp_path: Path) -> None:
    into = tmp_path / "into"
    with pytest.raises(KeyboardInterrupt):
        artifacts.get(kept, "large.bin", str(into), report=cut_off)
    assert os.listdir(into) == [partial(kept, into).name]
    have = partial(kept, into).stat().st_size
    assert CUT <= have < SIZE
    told: list[int] = []
    artifacts.get(kept, "large.bin", str(into), report=lambda one: told.append(one.bytes_done))
    assert told[0] == have
    assert told[-1] == SIZE
    assert os.listdir(into) == ["large.bin"]
    assert (into / "large.bin").read_bytes() == large(kept)


def test_a_download_that_was_killed_goes_on_too(kept: RunDirectory, tmp_path: Path) -> None:
    into = tmp_path / "into"
    code = (
        "import os, signal\nfrom aml_jupyter import artifacts, runs\n"
        "def told(one):\n    if one.bytes_done >= 1 << 20: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"artifacts.get(runs.RunDirectory({kept.path!r}), 'large.bin', {str(into)!r}, report=told)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not (into / "large.bin").exists()
    assert partial(kept, into).stat().st_size >= CUT
    artifacts.get(kept, "large.bin", str(into))
    assert (into / "large.bin").read_bytes() == large(kept)


def test_a_beginning_that_was_changed_is_not_believed(kept: RunDirectory, tmp_path: Path) -> None:
    partial(kept, tmp_path).write_bytes(b"x" * (4 << 20))
    artifacts.get(kept, "large.bin", str(tmp_path))
    assert (tmp_path / "large.bin").read_bytes() == large(kept)
    assert not partial(kept, tmp_path).exists()


def test_A7_the_beginning_of_a_download_is_never_written_through_a_link(
    kept: RunDirectory, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    into = tmp_path / "into"
    into.mkdir()
    for link in (partial(kept, into).symlink_to, partial(kept, into).hardlink_to):
        link(victim)
        with pytest.raises(ConfinedError, match=r"link|yours"):
            artifacts.get(kept, "large.bin", str(into))
        assert victim.read_bytes() == b"mine"
        partial(kept, into).unlink()


def test_A7_a_large_file_that_is_there_stays_unless_told(kept: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(b"mine")
    with pytest.raises(ArtifactError) as caught:
        artifacts.get(kept, "large.bin", str(tmp_path))
    assert caught.value.code == "artifact.exists"
    assert (tmp_path / "large.bin").read_bytes() == b"mine"
    artifacts.get(kept, "large.bin", str(tmp_path), overwrite=True)
    assert (tmp_path / "large.bin").stat().st_size == SIZE


def test_a_folder_goes_on_with_what_has_not_come_whole(
    kept: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["get", kept.run_id, "outputs", "-d", str(tmp_path), "--json"]
    assert cli.main(words) == 0
    (tmp_path / "plots/a.png").unlink()
    before = (tmp_path / "large.bin").stat().st_ino
    assert cli.main(words) != 0
    assert cli.main([*words, "--resume"]) == 0
    assert (tmp_path / "plots/a.png").read_bytes() == b"\x89PNG"
    assert (tmp_path / "large.bin").stat().st_ino == before
    # a file of that name that is another one is nobody's to replace
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main([*words, "--resume"]) != 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    capsys.readouterr()


def test_A19_a_damaged_artifact_leaves_nothing(kept: RunDirectory, tmp_path: Path, home: str) -> None:
    key = artifacts.find(kept, "large.bin").key
    with open(f"{home}/artifacts/{key}", "r+b") as file:
        file.seek(9 << 20)
        file.write(b"other")
    with pytest.raises(ArtifactError) as caught:
        artifacts.get(kept, "large.bin", str(tmp_path / "into"))
    assert caught.value.code == "store.corrupt"
    assert os.listdir(tmp_path / "into") == []


@pytest.mark.root
def test_A18_a_disk_that_is_full_keeps_what_was_there(kept: RunDirectory, tmp_path: Path) -> None:
    need("root")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run([need("mount"), "-t", "tmpfs", "-o", "size=4m", "none", small]).returncode:
        pytest.skip("needs the right to mount")
    try:
        (small / "large.bin").write_bytes(b"old")
        with pytest.raises(ArtifactError) as caught:
            artifacts.get(kept, "large.bin", str(small), overwrite=True)
        assert caught.value.code == "store.no_space"
        assert os.listdir(small) == ["large.bin"]
        assert (small / "large.bin").read_bytes() == b"old"
    finally:
        subprocess.run(["umount", small], check=True)


def test_how_far_a_download_is_stands_on_a_terminal_alone(kept: RunDirectory, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom aml_jupyter.commands.outputs import Shown\n"
        "from aml_jupyter.commands.screen import Screen\n"
        "from aml_jupyter.artifacts.transfer import Progress\n"
        "with Shown(Screen()) as shown:\n    shown.due = 0\n"
        "    shown.tell(Progress(files=1, bytes=200, bytes_done=50))\n"
    )
    quiet = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, timeout=60)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")
    with terminal("get", kept.run_id, "large.bin", "-d", str(tmp_path)) as shown:
        assert shown.end() == 0
    assert b"large.bin" in shown.screen


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--range", "0-4"], b"hello"),
        (["--range", "6-"], b"world\n"),
        (["--range=-6"], b"world\n"),
        (["--range", "3-7"], b"lo\nwo"),
        (["--range", "100-"], b""),
    ],
)
def test_a_range_of_an_artifact_is_printed(kept: RunDirectory, words: list[str], expected: bytes) -> None:
    done = aml("cat", kept.run_id, "notes.txt", *words)
    assert (done.returncode, done.stdout.encode()) == (0, expected), done.stderr


@pytest.mark.parametrize("text", ["5-2", "x", "-", "1-x"])
def test_a_range_that_is_none_is_refused(
    kept: RunDirectory, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["cat", kept.run_id, "notes.txt", f"--range={text}"]) == 2
    assert "no range of bytes" in capsys.readouterr().err


# ---- a run that goes on


@pytest.fixture
def running(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A run that has written a file and waits."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "wait.py").write_text(
        "import os, time\nopen('outputs/part.txt', 'w').write('so far')\n"
        "os.symlink('/etc/passwd', 'outputs/link')\nos.mkfifo('outputs/pipe')\nprint('ready', flush=True)\n"
        "while not os.path.exists('go'):\n    time.sleep(0.05)\n"
    )
    monkeypatch.chdir(project)
    run_id = detached("wait.py")
    yield run_id
    aml("stop", run_id, "--kill")


def test_the_outputs_of_a_run_that_goes_on_are_there_already(running: str, home: str, tmp_path: Path) -> None:
    until(lambda: "ready" in aml("logs", running).stdout, 60)
    listed = data("ls", running)
    assert [(one["path"], one["state"]) for one in listed] == [("outputs/part.txt", "unfinished")]
    shown = aml("cat", running, "part.txt")
    assert shown.stdout == "so far"
    assert "goes on" in shown.stderr
    into = tmp_path / "into"
    assert aml("get", running, "-d", str(into)).returncode == 0
    assert [str(one.relative_to(into)) for one in into.rglob("*") if not one.is_dir()] == ["outputs/part.txt"]
    refused = aml("cat", running, "none.txt")
    assert refused.returncode != 0
    assert "part.txt" in refused.stderr
    Path(runs.RunDirectory(runs.find(running, home).path).work, "go").touch()
    assert aml("wait", running).returncode == 0
    assert {one["state"] for one in data("ls", running) if one["path"] == "outputs/part.txt"} == {"stored"}


def test_a_run_that_has_not_begun_on_another_machine_has_no_outputs(home: str) -> None:
    directory = made_runs.submit(home, kind="remotedocker")
    assert data("ls", directory.run_id) == []
    done = aml("cat", directory.run_id, "model.pkl")
    assert "artifact.unknown" in done.stderr


# ---- open


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A desktop whose opener writes down what it was given."""
    tools = tmp_path / "tools"
    tools.mkdir()
    opener = tools / "xdg-open"
    opener.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {tools}/opened\n')
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":0")
    return tools / "opened"


@pytest.mark.skipif(sys.platform == "darwin", reason="the opener of that desktop is another one")
def test_a_copy_of_an_artifact_is_opened_by_the_desktop(
    kept: RunDirectory, desktop: Path, home: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["open", kept.run_id, "notes.txt"]) == 0
    path = capsys.readouterr().out.rstrip("\n")
    assert desktop.read_text() == path
    assert Path(path).read_text() == "hello\nworld\n"
    # whatever the program does to it, the artifact stays
    Path(path).write_text("changed")
    assert artifacts.read_artifact(kept, "notes.txt") == b"hello\nworld\n"
    assert not os.stat(path).st_mode & stat.S_IXUSR


def test_copies_that_were_opened_long_ago_go(kept: RunDirectory, home: str) -> None:
    old = Path(home, "cache/opened/old")
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    assert cli.main(["open", kept.run_id, "notes.txt", "--print"]) == 0
    assert [one.name for one in old.parent.iterdir()] == [kept.run_id]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.html", b"<script>1</script>"),
        ("icon.svg", b"<svg onload='1'/>"),
        ("run.sh", b"ls"),
        ("app.desktop", b"[Desktop Entry]"),
        ("setup.exe", b"MZ"),
        ("noending", b"x"),
        ("table.csv", b"#!/bin/sh\nrm -rf ~"),
        ("image.png", b"\x7fELF"),
        ("notes.txt", b"\n[Desktop Entry]\nExec=x"),
    ],
)
def test_what_may_run_programs_is_not_handed_to_the_desktop(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert name in unsafe(str(tmp_path / name))


def test_without_a_desktop_the_path_is_printed(
    kept: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    if find_opener() is not None:
        pytest.skip("this desktop has an opener everywhere")
    assert cli.main(["open", kept.run_id, "plots/a.png"]) == 0
    shown = capsys.readouterr()
    assert Path(shown.out.strip()).read_bytes() == b"\x89PNG"
    assert "no desktop" in shown.err
