"""Folders and files that are exchanged for links, at full speed, while they are opened, listed or removed."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aml_jupyter import confined
from aml_jupyter.confined import ConfinedError, Root, remove_tree
from tests.requirements import need

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SECONDS = float(os.environ.get("AML_RACE_SECONDS", "2"))
RENAME_EXCHANGE = 2
SECRET = b"outside"


def exchange(first: bytes, second: bytes) -> bool:
    """Two names change places in one step; False where the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.renameat2(-100, first, -100, second, RENAME_EXCHANGE) == 0)


def race(first: bytes, second: bytes, stop: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    while not stop.is_set():  # type: ignore[attr-defined]
        for _ in range(200):
            libc.renameat2(-100, first, -100, second, RENAME_EXCHANGE)


class Arena:
    """`top/there` is a folder (or file) one moment and a link to the outside the next."""

    def __init__(self, base: Path, kind: str) -> None:
        self.outside = base / "outside"
        (self.outside / "sub").mkdir(parents=True)
        (self.outside / "file").write_bytes(SECRET)
        (self.outside / "sub/file").write_bytes(SECRET)
        self.top = base / "top"
        self.top.mkdir()
        if kind == "folder":
            (self.top / "there/sub").mkdir(parents=True)
            (self.top / "there/file").write_bytes(b"inside")
            (self.top / "there/sub/file").write_bytes(b"inside")
            (self.top / "link").symlink_to(self.outside)
        else:
            (self.top / "there").write_bytes(b"inside")
            (self.top / "link").symlink_to(self.outside / "file")
        self.names = (os.fsencode(self.top / "there"), os.fsencode(self.top / "link"))

    def run(self, attempt: Callable[[Root], None]) -> tuple[int, int]:
        """How often `attempt` came through and how often it was refused while the names changed places."""
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        racer = context.Process(target=race, args=(*self.names, stop))
        racer.start()
        through = refused = 0
        try:
            with Root(str(self.top)) as root:
                end = time.monotonic() + SECONDS
                while time.monotonic() < end:
                    try:
                        attempt(root)
                        through += 1
                    except ConfinedError:
                        refused += 1
        finally:
            stop.set()
            racer.join(10)
            racer.kill()
            racer.join()
            racer.close()
        return through, refused

    def outside_untouched(self) -> bool:
        found = sorted(str(p.relative_to(self.outside)) for p in self.outside.rglob("*"))
        return found == ["file", "sub", "sub/file"] and (self.outside / "file").read_bytes() == SECRET


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"")
    if not hasattr(ctypes.CDLL(None), "renameat2") or not exchange(
        os.fsencode(tmp_path / "a"), os.fsencode(tmp_path / "b")
    ):
        pytest.skip("needs a file system that exchanges two names")
    yield tmp_path
    remove_tree(str(tmp_path / "top"))


def both_happened(counts: tuple[int, int]) -> bool:
    return min(counts) > 10


@pytest.mark.parametrize("path", ["there/file", "there/sub/file"])
def test_S5_N6_B2_link_swap_of_a_folder_lets_nothing_be_read_outside(base: Path, path: str) -> None:
    arena = Arena(base, "folder")

    def read(root: Root) -> None:
        assert root.read_bytes(path) == b"inside"

    assert both_happened(arena.run(read))


def test_S5_N6_B2_link_swap_of_a_file_lets_nothing_be_read_outside(base: Path) -> None:
    arena = Arena(base, "file")

    def read(root: Root) -> None:
        assert root.read_bytes("there") == b"inside"

    assert both_happened(arena.run(read))


def test_S5_link_swap_while_walking_lists_and_reads_nothing_outside(base: Path) -> None:
    arena = Arena(base, "folder")
    (arena.outside / "marker").write_bytes(SECRET)
    seen = {"dir": 0, "link": 0}

    def walk(root: Root) -> None:
        for entry in root.walk():
            assert entry.name != "marker"
            if entry.path == "there":
                seen[entry.kind] += 1
            if entry.kind == "file":
                try:
                    assert root.read_bytes(entry.path) == b"inside"
                except ConfinedError:  # it became a link between the listing and the opening
                    continue

    arena.run(walk)
    assert min(seen.values()) > 10


def test_A7_link_swap_while_writing_writes_nothing_outside(base: Path) -> None:
    arena = Arena(base, "folder")
    number = iter(range(10**9))

    def write(root: Root) -> None:
        os.close(root.create_file(f"there/new{next(number)}"))
        root.replace_file("there/sub/replaced", b"mine", sync=False)
        root.make_dirs(f"there/sub/folder{next(number)}")
        root.rename("there/sub/replaced", "there/sub/renamed")

    assert both_happened(arena.run(write))
    assert arena.outside_untouched()


def test_link_swap_while_removing_removes_nothing_outside(base: Path) -> None:
    arena = Arena(base, "folder")

    def remove(root: Root) -> None:
        try:
            root.make_dirs("there/sub/deep/deeper")
            os.close(root.create_file("there/sub/deep/file"))
        except ConfinedError:  # a link just now: what follows is tried all the same
            pass
        root.remove_tree("there/sub")

    assert both_happened(arena.run(remove))
    assert arena.outside_untouched()


REPLACE = """
import sys
sys.path.insert(0, sys.argv[1])
from aml_jupyter.confined import write_atomic
write_atomic(sys.argv[2], b"new" * 3000)
"""


@pytest.mark.parametrize(
    ("call", "times"), [("fchmod", 1), ("write", 1), ("fsync", 2), ("/^rename", 1), ("exit_group", 1)]
)
def test_S14_a_kill_at_any_step_of_a_replacement_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, call: str, times: int
) -> None:
    strace = need("strace")
    package = str(Path(confined.__file__).parents[2])
    for when in range(1, times + 1):
        (tmp_path / "f").write_bytes(b"old" * 1000)
        program = (sys.executable, "-S", "-E", "-B", "-c", REPLACE, package, str(tmp_path / "f"))
        kill = f"inject={call}:signal=KILL:when={when}"
        answer = subprocess.run([strace, "-qq", "-o", "/dev/null", "-e", kill, *program])
        assert answer.returncode == -9
        assert (tmp_path / "f").read_bytes() in (b"old" * 1000, b"new" * 3000)
    # what a killed writer leaves has a name that says so
    assert all(name == "f" or name.endswith(".tmp") for name in os.listdir(tmp_path))


def test_S4_files_and_folders_that_vanish_while_walking_are_told_or_left_out(tmp_path: Path) -> None:
    top = tmp_path / "top"
    with Root.create(str(top)) as root:
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        racer = context.Process(target=come_and_go, args=(str(top), stop))
        racer.start()
        try:
            end = time.monotonic() + min(SECONDS, 2)
            errors = set()
            while time.monotonic() < end:
                errors |= {entry.error for entry in root.walk()}
        finally:
            stop.set()
            racer.join(10)
            racer.kill()
            racer.join()
            racer.close()
    assert errors <= {None, "No such file or directory"}


def come_and_go(top: str, stop: object) -> None:
    with Root(top) as root:
        while not stop.is_set():  # type: ignore[attr-defined]
            for number in range(20):
                os.close(root.create_file(f"d{number}/e/f"))
            for number in range(20):
                root.remove_tree(f"d{number}")
