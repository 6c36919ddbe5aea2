"""Snapshots while files change, disks fill, rights are missing and processes are killed."""

from __future__ import annotations

# ruff: noqa: PT017 - some turns may succeed, and what a failed one says is looked at
import ctypes
import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aml_jupyter.errors import HistoryError, SnapshotError
from aml_jupyter.snapshot import Rules, Store
from tests.holders import stuck_holder
from tests.requirements import need

pytestmark = pytest.mark.faults

MIB = 1 << 20
TAKE = "import sys\nfrom aml_jupyter.snapshot import Store\nprint(Store(sys.argv[1]).take(sys.argv[2]).id)"


@pytest.fixture
def store(home: str) -> Store:
    return Store(home + "/snapshots")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for number in range(40):
        path = folder / f"part{number % 4}" / f"file{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 300)
    return folder


class During:
    """Repeats an action in a thread while the block runs."""

    def __init__(self, action: Callable[[int], object]) -> None:
        self._action = action
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.turns = 0

    def _run(self) -> None:
        while not self._stop.is_set():
            self._action(self.turns)
            self.turns += 1

    def __enter__(self) -> During:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _whole(data: bytes) -> bool:
    """Whether every byte of a content is the same: no mix of two versions."""
    return data == data[:1] * len(data)


def _append(path: Path, turn: int) -> None:
    with open(path, "ab") as file:
        file.write(b"x" * 64)
    if turn % 2000 == 0:
        os.truncate(path, 0)


def _overwrite(path: Path, turn: int) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, bytes((97 + turn % 26,)) * (3 * MIB), 0)
    os.close(fd)


def _keep_times(path: Path, turn: int) -> None:
    _overwrite(path, turn)
    os.utime(path, ns=(0, 0))


def _replace(path: Path, turn: int) -> None:
    path.with_name("new").write_bytes(bytes((97 + turn % 26,)) * (3 * MIB))
    os.replace(path.with_name("new"), path)


def _truncate(path: Path, turn: int) -> None:
    os.truncate(path, 3 * MIB if turn % 2 else MIB)


@pytest.mark.parametrize("change", [_append, _overwrite, _keep_times, _replace, _truncate])
def test_S3_a_file_that_changes_while_it_is_read_is_whole_or_named(
    store: Store, project: Path, change: Callable[[Path, int], None]
) -> None:
    path = project / "moving.bin"
    path.write_bytes(b"a" * (3 * MIB))
    rules = Rules(exclude=("new",))
    with During(lambda turn: change(path, turn)):
        for _ in range(5):
            try:
                taken = store.take(str(project), rules)
            except SnapshotError as error:
                assert error.code == "snapshot.changed", error
                assert "moving.bin" in error.message
                assert "/moving.bin" in error.hint
                continue
            data = store.read(taken.id, "moving.bin")
            assert change in (_append, _truncate) or _whole(data)
    assert store.check() == []
    store.take(str(project), rules)


@pytest.mark.parametrize("size", [100, 3 * MIB])
def test_S3_every_way_to_change_a_file_under_the_reader_is_seen(
    store: Store, project: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change comes between the reading and the second look; after the third retry it is named."""
    path = project / "moving.bin"
    path.write_bytes(b"a" * size)
    real = os.read
    turns = 0

    def read(fd: int, count: int) -> bytes:
        nonlocal turns
        data = real(fd, count)
        if os.fstat(fd).st_ino == path.stat().st_ino:
            turns += 1
            other = os.open(path, os.O_WRONLY)
            os.pwrite(other, b"b" * size, 0)
            os.close(other)
            os.utime(path, ns=(0, 0))
        return data

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", read)
        with pytest.raises(SnapshotError) as caught:
            store.take(str(project))
    assert caught.value.code == "snapshot.changed"
    assert "moving.bin" in caught.value.message
    assert turns >= 4
    assert store.read(store.take(str(project)).id, "moving.bin") == b"b" * size


def test_S4_what_vanishes_is_retried_or_named_and_never_silently_lost(store: Store, project: Path) -> None:
    def move(_turn: int) -> None:
        (project / "part1").rename(project / "gone")
        (project / "gone").rename(project / "part1")

    with During(move):
        for _ in range(20):
            try:
                taken = store.take(str(project))
            except SnapshotError as error:
                assert error.code == "snapshot.changed", error
                continue
            names = {
                entry.path.rpartition("/")[2] for entry in store.manifest(taken.id) if entry.kind == "file"
            }
            assert len(names) in (30, 40)
    assert store.take(str(project)).files == 40


def _exchange(a: bytes, b: bytes) -> Callable[[int], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def swap(_turn: int) -> None:
        libc.renameat2(-100, a, -100, b, 2)

    return swap


@pytest.mark.parametrize("what", ["file", "folder"])
def test_S5_link_swap_reads_nothing_from_outside(
    store: Store, project: Path, tmp_path: Path, what: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "in").mkdir(parents=True)
    (outside / "secret.txt").write_bytes(b"PRIVATE" * 100)
    (outside / "in/secret.txt").write_bytes(b"PRIVATE" * 100)
    if what == "file":
        mine, link = project / "secret.txt", tmp_path / "link"
        mine.write_bytes(b"mine")
        link.symlink_to(outside / "secret.txt")
    else:
        mine, link = project / "in", tmp_path / "link"
        mine.mkdir()
        (mine / "secret.txt").write_bytes(b"mine")
        link.symlink_to(outside / "in")
    with During(_exchange(os.fsencode(mine), os.fsencode(link))) as racer:
        end = time.monotonic() + 3
        turns = 0
        while time.monotonic() < end:
            turns += 1
            (project / "part0/file0.txt").write_bytes(b"%d" % turns)
            try:
                taken = store.take(str(project), Rules(links="skip"))
            except SnapshotError as error:
                assert error.code == "snapshot.changed", error
                continue
            for entry in store.manifest(taken.id):
                if entry.path.endswith("secret.txt"):
                    assert store.read(taken.id, entry.path) == b"mine"
    assert racer.turns > 100
    assert turns > 10
    for pack in Path(store.path, "packs").iterdir():
        assert b"PRIVATE" not in pack.read_bytes()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users reach; tmp_path is closed to them."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _python_for_all() -> str:
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        probe = [
            need("setpriv"),
            "--reuid",
            "65534",
            path,
            "-c",
            "import sys; sys.exit(sys.version_info < (3, 11))",
        ]
        if os.path.exists(path) and subprocess.run(probe, capture_output=True).returncode == 0:
            return path
    pytest.skip("needs a Python 3.11 that other users may start")


@pytest.mark.root
def test_S9_all_unreadable_files_and_folders_are_named_at_once(project: Path, open_folder: Path) -> None:
    need("root")
    python = _python_for_all()
    shutil.copytree(project, open_folder / "project")
    for name in ("part0", "part1/file1.txt", "part2/file2.txt"):
        (open_folder / "project" / name).chmod(0)
    code = (
        TAKE.replace("print", "try:\n    print")
        + "\nexcept Exception as error:\n    print(error.code, error)"
    )
    package = Path(__file__).resolve().parents[2] / "aml_jupyter"
    shutil.copytree(package, open_folder / "lib/aml_jupyter", ignore=shutil.ignore_patterns("__pycache__"))
    home = open_folder / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    done = subprocess.run(
        [
            *(
                need("setpriv"),
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                python,
                "-B",
                "-c",
                code,
            ),
            *(str(home / "snapshots"), str(open_folder / "project")),
        ],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(open_folder / "lib"), "HOME": str(home / "x")},
        cwd="/",
    )
    assert done.stdout.startswith("snapshot.unreadable"), done.stdout + done.stderr
    for name in ("part0: Permission denied", "part1/file1.txt", "part2/file2.txt"):
        assert name in done.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    need("root")
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
        )
        if done.returncode:
            pytest.skip("may not mount")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.root
@pytest.mark.parametrize(
    "options", ["size=64k", "size=1m", "size=2m", "nr_inodes=4", "nr_inodes=7", "nr_inodes=9"]
)
def test_S12_a_full_disk_leaves_nothing_half_and_the_next_take_works(
    project: Path, small_disk: Callable[[str], Path], options: str
) -> None:
    (project / "large.bin").write_bytes(os.urandom(2 * MIB))
    disk = small_disk(options)
    store = Store(str(disk / "snapshots"))
    with pytest.raises(SnapshotError) as caught:
        store.take(str(project))
    assert caught.value.code == "store.no_space"
    assert "AML_HOME" in caught.value.hint
    for name in ("staged", "packs", "objects", "manifests"):
        folder = disk / "snapshots" / name
        assert not folder.exists() or list(folder.iterdir()) == [] or name in ("packs", "objects")
    subprocess.run(["mount", "-o", "remount,size=16m,nr_inodes=1000", str(disk)], check=True)
    taken = store.take(str(project))
    assert taken.files == 41
    assert store.check() == []


@pytest.mark.root
@pytest.mark.parametrize("size", range(40, 360, 24))
def test_S12_every_fill_level_ends_in_a_snapshot_or_none(
    project: Path, small_disk: Callable[[str], Path], size: int
) -> None:
    disk = small_disk(f"size={size}k")
    store = Store(str(disk / "snapshots"))
    try:
        taken = store.take(str(project))
    except SnapshotError as error:
        assert error.code == "store.no_space"
        assert not os.path.isdir(store.path + "/manifests") or os.listdir(store.path + "/manifests") == []
    else:
        assert len(store.manifest(taken.id)) == 44
    assert store.check() == []


@pytest.mark.root
def test_S12_a_full_disk_under_the_run_folder_is_told(
    store: Store, project: Path, small_disk: Callable[[str], Path]
) -> None:
    (project / "large.bin").write_bytes(os.urandom(2 * MIB))
    taken = store.take(str(project))
    with pytest.raises(SnapshotError) as caught:
        store.materialize(taken.id, str(small_disk("size=1m") / "work"))
    assert caught.value.code == "store.no_space"


def _strace() -> str:
    path = need("strace")
    if subprocess.run([path, "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("may not trace")
    return path


@pytest.mark.parametrize(("code", "name"), [("EIO", errno.EIO), ("ESTALE", errno.ESTALE)])
def test_S13_a_read_error_is_named_and_leaves_no_snapshot(
    store: Store, project: Path, code: str, name: int
) -> None:
    strace = _strace()
    target = str(project / "part0/file0.txt")
    program = (
        TAKE.replace("print", "try:\n    print")
        + "\nexcept Exception as error:\n    print(error.code, error)"
    )
    done = subprocess.run(
        [
            *(strace, "-f", "-o", "/dev/null", "-P", target, "-e", "trace=read"),
            *("-e", f"inject=read:error={code}", sys.executable, "-c", program, store.path, str(project)),
        ],
        capture_output=True,
        text=True,
    )
    expected = "snapshot.unreadable" if code == "EIO" else "snapshot.changed"
    assert done.stdout.startswith(expected), done.stdout + done.stderr
    assert "part0/file0.txt" in done.stdout
    if code == "EIO":
        assert os.strerror(name) in done.stdout
    assert os.listdir(store.path + "/manifests") == []


@pytest.mark.slow
def test_S14_killed_at_every_step_of_writing_the_store_stays_whole(
    home: str, project: Path, tmp_path: Path
) -> None:
    strace = _strace()
    (project / "large.bin").write_bytes(os.urandom(2 * MIB))
    calls = ["rename", "fsync", "write", "writev", "openat", "flock", "mkdir", "unlink", "utime", "utimensat"]
    shots = 0
    for call in calls:
        for number in range(1, 40):
            path = tmp_path / f"kill-{call}-{number}" / "snapshots"
            store = Store(str(path))
            done = subprocess.run(
                [strace, "-f", "-o", "/dev/null", "-P", str(path), "-P", f"{path}/lock"]
                + [
                    part
                    for name in ("packs", "objects", "manifests", "staged", "seen")
                    for part in ("-P", f"{path}/{name}")
                ]
                + ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
                + [
                    sys.executable,
                    "-S",
                    "-c",
                    f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n" + TAKE,
                ]
                + [str(path), str(project)],
                capture_output=True,
                text=True,
            )
            if done.returncode == 0:
                break
            assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
            shots += 1
            if path.exists():
                assert store.check() == [], (call, number)
            taken = store.take(str(project))
            assert taken.files == 41
            assert store.check() == [], (call, number)
            assert os.listdir(store.path + "/staged") == []
            shutil.rmtree(path.parent)
    assert shots >= 10


def _take_many(path: str, project: str, other: str, results: multiprocessing.SimpleQueue[list[str]]) -> None:
    store = Store(path)
    ids = []
    for number in range(10):
        Path(other, f"{os.getpid()}.txt").write_text(str(number))
        ids += [store.take(project).id, store.take(other).id]
    results.put(ids)


def test_many_processes_take_collect_and_read_at_once(store: Store, project: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.SimpleQueue[list[str]] = context.SimpleQueue()
    workers = []
    for number in range(4):
        other = tmp_path / f"other{number}"
        other.mkdir()
        workers.append(
            context.Process(target=_take_many, args=(store.path, str(project), str(other), results))
        )
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        store.gc([])  # the youngest stay
        time.sleep(0.02)
    ids = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    assert len({snapshot for found in ids for snapshot in found[::2]}) == 1
    for number, snapshot in enumerate({snapshot for found in ids for snapshot in found}):
        store.materialize(snapshot, str(tmp_path / f"copy{number}"))
    assert store.check() == []


def test_collecting_everything_while_takes_go_on_breaks_no_snapshot_that_was_just_taken(
    store: Store, project: Path, tmp_path: Path
) -> None:
    with During(lambda _: store.gc([], grace=3)):
        for number in range(40):
            (project / "part0/file0.txt").write_bytes(b"%d" % number)
            taken = store.take(str(project))
            store.materialize(taken.id, str(tmp_path / f"copy{number}"))
    assert store.check() == []


def _damage(store: Store, what: str) -> None:
    packs = sorted(Path(store.path, "packs").iterdir())
    large = sorted(Path(store.path, "objects").iterdir())
    manifests = sorted(Path(store.path, "manifests").iterdir())
    target = {
        "pack": packs,
        "index": packs,
        "footer": packs,
        "lost pack": packs,
        "large": large,
        "lost": large,
    }.get(what, manifests)[0]
    if what.startswith("lost"):
        target.unlink()
        return
    data = bytearray(target.read_bytes())
    at = {"pack": 100, "index": len(data) - 120, "footer": len(data) - 14}.get(what, len(data) // 2)
    data[at] ^= 1
    target.write_bytes(data)


@pytest.mark.parametrize("what", ["pack", "index", "footer", "lost pack", "large", "lost", "manifest"])
def test_damage_is_found_never_written_out_and_repaired_by_the_next_take(
    store: Store, project: Path, tmp_path: Path, what: str
) -> None:
    (project / "large.bin").write_bytes(os.urandom(2 * MIB))
    taken = store.take(str(project))
    _damage(store, what)
    found = store.check()
    assert any(taken.id in damage.snapshots for damage in found), found
    with pytest.raises(SnapshotError) as caught:
        store.materialize(taken.id, str(tmp_path / "copy"))
    assert caught.value.code == "store.damaged"
    store.check(repair=True)
    assert store.check() == []
    assert store.take(str(project)) == taken
    store.materialize(taken.id, str(tmp_path / "whole"))
    assert store.check() == []


@pytest.mark.parametrize("keep", [0, 5, 11, 12, 100, -1])
def test_a_damaged_memory_costs_time_and_nothing_else(store: Store, project: Path, keep: int) -> None:
    taken = store.take(str(project))
    for path in Path(store.path, "seen").iterdir():
        data = path.read_bytes()
        path.write_bytes(data[:keep] if keep >= 0 else data[:50] + b"\xff" + data[51:])
    assert store.take(str(project)) == taken


def test_S19_whole_second_times_are_waited_for(
    store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On file systems that keep whole seconds a change within the same two seconds would not show."""
    from aml_jupyter.snapshot import build

    now = 1_700_000_001_500_000_000
    assert build._fresh(1_700_000_000_000_000_000, now) > 0
    assert build._fresh(1_700_000_000_000_000_001, now) == 0
    assert build._fresh(1_699_999_990_000_000_000, now) == 0


@pytest.mark.parametrize("seen", [False, True], ids=["a new project", "an unchanged project"])
def test_a_gc_that_is_stopped_is_named_by_whoever_waits_for_it(
    store: Store, project: Path, home: str, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    first = store.take(str(project))
    if not seen:
        (project / "more.txt").write_text("more")
    monkeypatch.setattr("aml_jupyter.locks.PATIENCE", 0.3)
    with stuck_holder(home + "/snapshots/lock") as holder, pytest.raises(HistoryError) as caught:
        store.take(str(project))
    assert caught.value.code == "history.locked"
    assert f"process {holder.pid}" in caught.value.message
    assert (store.take(str(project)).id == first.id) is seen
