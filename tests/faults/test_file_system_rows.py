"""Projects and runs on file systems that are not this machine's own kind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requirements import need
from tests.terminal import aml, data

pytestmark = [pytest.mark.faults, pytest.mark.root, pytest.mark.slow]

SCRIPT = """
import os
print(sorted(os.listdir()))
open("outputs/model", "w").write("m" * 1000)
open("elsewhere", "w").write("x")
"""


@pytest.fixture
def exfat(tmp_path: Path) -> Iterator[Path]:
    """A disk without links and modes, on which upper and lower case are one."""
    need("root")
    image, folder = tmp_path / "image", tmp_path / "exfat"
    folder.mkdir()
    program = need("mount.exfat-fuse")
    subprocess.run(["truncate", "-s", "64M", image], check=True)
    subprocess.run([need("mkfs.exfat"), image], check=True, capture_output=True)
    device = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True)
    if device.returncode:
        pytest.skip("needs loop devices: " + device.stderr.strip())
    loop = device.stdout.strip()
    try:
        subprocess.run([program, loop, folder], check=True, capture_output=True)
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder])
        subprocess.run(["losetup", "-d", loop])


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[Path]:
    """A folder seen through a program, as network disks and clouds are."""
    need("root")
    behind, folder = tmp_path / "behind", tmp_path / "fuse"
    behind.mkdir()
    folder.mkdir()
    subprocess.run([need("bindfs"), behind, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def make_project(folder: Path) -> Path:
    (folder / "project/data").mkdir(parents=True)
    (folder / "project/script.py").write_text(SCRIPT)
    for number in range(200):
        (folder / f"project/data/{number}").write_text(str(number))
    return folder / "project"


def assert_runs(project: Path) -> None:
    """A run, a second one of the unchanged project, one of a changed file; and the history of them."""
    for twin in (False, False, True):
        if twin:
            (project / "twin").write_text("x")
        done = aml("run", "local", "script.py", cwd=project)
        assert done.returncode == 0, done.stderr
        assert ("'twin'" in done.stdout) == twin
    rows = data("runs", cwd=project)
    assert [row["status"] for row in rows] == ["Completed"] * 3
    assert [item["path"] for item in data("ls", rows[0]["run_id"], cwd=project)] == ["outputs/model"]
    assert aml("check", cwd=project).returncode == 0


def test_S19_a_project_on_exfat_runs(exfat: Path, home: str) -> None:
    project = make_project(exfat)
    done = aml("run", "local", "script.py", cwd=project)
    assert done.returncode == 0, done.stderr
    (project / "script.py").write_text(SCRIPT.replace("1000", "2000"))
    again = aml("run", "local", "script.py", cwd=project)
    assert again.returncode == 0, again.stderr
    first, second = reversed(data("runs", cwd=project))
    assert first["snapshot_id"] != second["snapshot_id"]
    assert aml("cat", second["run_id"], "outputs/model", cwd=project).stdout == "m" * 2000
    assert os.listdir(project / "data")
    assert not (project / "outputs").exists()


def test_S19_a_change_on_exfat_that_keeps_size_and_second_is_seen(exfat: Path, home: str) -> None:
    """Times there count two hundredths of a second or whole ones: a change right after a run must show."""
    project = make_project(exfat)
    ids = set()
    for number in range(3):
        (project / "data/7").write_text(f"value {number}")
        ids.add(data("snapshot", cwd=project)["id"])
    assert len(ids) == 3


def test_H7_a_home_without_links_is_refused_with_what_to_do_and_nothing_is_left(
    exfat: Path, home: str
) -> None:
    project = make_project(exfat)
    done = aml("run", "local", "script.py", cwd=project, env={"AML_HOME": str(exfat / "home")})
    assert done.returncode != 0
    assert "history.unsafe_filesystem" in done.stderr
    assert "AML_HOME" in done.stderr
    assert "Traceback" not in done.stderr
    assert data("runs", cwd=project, env={"AML_HOME": str(exfat / "home")}) == []


def test_S19_H7_project_and_home_behind_a_program_run_and_keep_their_history(
    fuse: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AML_HOME", str(fuse / "home"))
    assert_runs(make_project(fuse))
    journals = [name for name in os.listdir(fuse / "home") if name.endswith(("-wal", "-shm"))]
    assert journals == []
