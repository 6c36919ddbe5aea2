"""The history under kills, full disks and stuck neighbours: nothing is lost, who is in the way is named."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path

import pytest

import aml_jupyter
from aml_jupyter import artifacts, runs
from aml_jupyter.errors import HistoryError
from aml_jupyter.runs import History, RunDirectory
from tests.made_runs import change, finished, submit
from tests.requirements import need

pytestmark = [pytest.mark.faults, pytest.mark.slow]

PARENT = str(Path(aml_jupyter.__file__).parent.parent)
CALLS = (
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "rmdir"),
    *("fsync", "fdatasync", "openat", "ftruncate", "pwrite64"),
)
PROLOGUE = f"import sys, os; sys.path.insert(0, {PARENT!r}); from aml_jupyter import runs, artifacts\n"
PROLOGUE += "directory = runs.RunDirectory(sys.argv[1])\n"


def command(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-S", "-E", "-s", "-B", "-c", PROLOGUE + textwrap.dedent(program), *arguments]


def kill_points(
    argv: list[str], below: str, trace: Path, calls: tuple[str, ...] = CALLS
) -> list[tuple[str, int]]:
    """(call, how many of it) for every call that changes or opens something below a folder."""
    traced = ["strace", "-y", "-s", "4096", "-o", str(trace), "-e", f"trace=?{',?'.join(calls)}"]
    subprocess.run([*traced, *argv], check=True, timeout=60)
    seen: Counter[str] = Counter()
    points = []
    for line in trace.read_text(errors="replace").splitlines():
        found = re.match(r"(\w+)\(", line)
        if found:
            seen[found[1]] += 1
            if below in line:
                points.append((found[1], seen[found[1]]))
    return points


def killed_at(argv: list[str], call: str, number: int) -> bool:
    """Run until the n-th of a call, and no further; False when it was done before that."""
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    done = subprocess.run(["strace", "-o", "/dev/null", *inject, *argv], timeout=60, capture_output=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode != 0


def sweep(
    program: str, make: object, home: str, tmp_path: Path, *, calls: tuple[str, ...] = CALLS
) -> list[RunDirectory]:
    """Each kill point on a run of its own; the runs."""
    need("strace")
    assert callable(make)
    rehearsal: RunDirectory = make()
    points = kill_points(command(program, rehearsal.path), home, tmp_path / "trace", calls)
    assert points
    swept = []
    killed = 0
    for call, number in points:
        directory: RunDirectory = make()
        killed += killed_at(command(program, directory.path), call, number)
        swept.append(directory)
    assert killed > len(points) * 0.8
    return swept


def test_H1_an_ending_that_is_killed_at_any_call_is_there_or_not(home: str, tmp_path: Path) -> None:
    program = """
        record = runs.load_record(directory)
        runs.write_record(directory, record.replace(status="Completed", metrics={"acc": 0.5}))
    """

    def make() -> RunDirectory:
        directory = submit(home)
        with History(home) as history:
            history.refresh()
        return directory

    for directory in sweep(program, make, home, tmp_path):
        record = runs.load_record(directory)
        assert (record.status, record.metrics) in (("NotStarted", {}), ("Completed", {"acc": 0.5}))
        with History(home) as history:
            row = next(row for row in history.rows(limit=None) if row["run_id"] == directory.run_id)
            assert row["metrics"] == record.metrics
    with History(home) as history:
        assert history.check() == []


def test_H1_labels_that_are_killed_at_any_call_are_there_or_not(home: str, tmp_path: Path) -> None:
    program = "runs.set_labels(directory, name='second', tags=('b',))"

    def make() -> RunDirectory:
        directory = finished(home)
        runs.set_labels(directory, name="first", tags=("a",))
        return directory

    for directory in sweep(program, make, home, tmp_path):
        labels = runs.read_labels(directory)
        assert (labels.name, dict(labels.tags)) in (("first", {"a": ""}), ("second", {"a": "", "b": ""}))
        runs.set_labels(directory, name="third")
        assert runs.read_labels(directory).name == "third"
    with History(home) as history:
        assert {row["name"] for row in history.rows(limit=None)} == {"second", "third"}
        assert history.check() == []


def test_H1_a_reader_that_is_killed_at_any_call_loses_no_change(home: str, tmp_path: Path) -> None:
    program = """
        from aml_jupyter.runs import History
        with History(directory.home) as history:
            history.rows()
    """
    finished(home)
    with History(home) as history:
        history.rows()

    def make() -> RunDirectory:
        directory = finished(home)
        change(directory, metrics={"acc": 0.5})
        return directory

    swept = sweep(program, make, home, tmp_path)
    with History(home) as history:
        found = {row["run_id"]: row["metrics"] for row in history.rows(limit=None)}
        assert all(found[directory.run_id] == {"acc": 0.5} for directory in swept)
        assert history.notice == ""
        assert history.check() == []


def test_H1_making_the_index_killed_at_any_call_leaves_the_old_or_the_new(home: str, tmp_path: Path) -> None:
    made = [finished(home).run_id for _ in range(3)]
    program = """
        from aml_jupyter.runs import History
        with History(directory.home) as history:
            history.rebuild()
    """
    sweep(program, lambda: runs.at(home, made[0]), home, tmp_path)
    with History(home) as history:
        assert [row["run_id"] for row in history.rows()] == made[::-1]
        assert history.check() == []


def test_H1_a_collection_killed_at_any_call_is_finished_by_the_next(home: str, tmp_path: Path) -> None:
    program = "artifacts.collect(directory)"

    def make() -> RunDirectory:
        directory = submit(home)
        outputs = Path(directory.work) / "outputs"
        (outputs / "sub").mkdir()
        for name in ("a", "b\n", "sub/c"):
            (outputs / name).write_bytes(name.encode() * 100)
        (outputs / "link").symlink_to("a")
        return directory

    for directory in sweep(program, make, home, tmp_path):
        manifest = artifacts.collect(directory)
        assert manifest.state == "stored"
        assert [item.path for item in manifest.stored] == [
            f"outputs/{name}" for name in ("a", "b\n", "link", "sub/c")
        ]
        for name in ("a", "b\n", "sub/c"):
            assert artifacts.read_artifact(directory, "outputs/" + name) == name.encode() * 100
    with History(home) as history:
        assert history.check() == []


def test_H1_a_removal_killed_at_any_call_leaves_the_run_or_what_check_finds(
    home: str, tmp_path: Path
) -> None:
    program = "runs.remove(directory)"
    finished(home)

    def make() -> RunDirectory:
        directory = submit(home)
        (Path(directory.work) / "outputs/a").write_bytes(b"x")
        artifacts.collect(directory)
        return directory

    for directory in sweep(program, make, home, tmp_path):
        with History(home) as history:
            rows = {row["run_id"] for row in history.rows(limit=None)}
            assert (directory.run_id in rows) == os.path.exists(directory.run_json)
            found = {finding.code for finding in history.check()}
        if os.path.exists(directory.run_json):
            assert artifacts.read_artifact(directory, "a") == b"x"
            runs.remove(directory)
        assert found <= {"run.half_removed", "artifact.orphan", "id.orphan"}


# -- neighbours


def test_H3_writers_and_readers_at_once_lose_nothing(home: str) -> None:
    program = """
        class Project:
            account, workspace, name, root = "local", "default", "busy", "/"
        from aml_jupyter.runs import History
        for number in range(5):
            one = runs.create(directory.home, Project)
            record = runs.new_record(one, Project)
            runs.write_record(one, record)
            runs.set_labels(one, name=f"n{number}")
            runs.write_record(one, record.replace(status="Completed", metrics={"acc": number}))
            with History(directory.home) as history:
                assert one.run_id in [row["run_id"] for row in history.rows(limit=None)]
    """
    anchor = finished(home)
    processes = [subprocess.Popen(command(program, anchor.path), stderr=subprocess.PIPE) for _ in range(20)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    with History(home) as history:
        rows = history.rows(limit=None, project="local/default/busy")
        assert len(rows) == 100
        assert {row["status"] for row in rows} == {"Completed"}
        assert all(row["name"] == f"n{row['metrics']['acc']}" for row in rows)
        assert history.check() == []
    assert os.listdir(home + "/dirty") == []


@pytest.mark.parametrize("lock", ["index.lock", "index.sqlite"])
def test_H3_a_stuck_writer_is_named_and_nothing_is_lost(
    home: str, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    directory = finished(home)
    with History(home) as history:
        history.rows()
    hold = {
        "index.lock": "import fcntl; f = open(path, 'w'); fcntl.flock(f, 2)",
        "index.sqlite": "import sqlite3; f = sqlite3.connect(path); f.execute('BEGIN EXCLUSIVE')",
    }[lock]
    program = f"import sys; path = sys.argv[1]; {hold}; print(flush=True); input('stuck')"
    monkeypatch.setattr("aml_jupyter.locks.PATIENCE", 1.0)
    monkeypatch.setattr("aml_jupyter.runs.schema.PATIENCE", 1.0)
    with subprocess.Popen(
        [sys.executable, "-c", program, f"{home}/{lock}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        os.kill(holder.pid, signal.SIGSTOP)
        change(directory, metrics={"acc": 1})
        runs.set_labels(directory, name="meanwhile")
        with History(home) as history, pytest.raises(HistoryError) as caught:
            history.rows()
        assert caught.value.code == "history.locked"
        assert f"process {holder.pid}" in caught.value.message
        assert sys.executable in caught.value.message
        holder.kill()
    with History(home) as history:
        row = history.rows()[0]
        assert (row["name"], row["metrics"]) == ("meanwhile", {"acc": 1})


def test_H3_whoever_waits_gets_its_turn(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aml_jupyter.locks.PATIENCE", 1000.0)
    monkeypatch.setattr("aml_jupyter.runs.schema.PATIENCE", 1000.0)
    directory = finished(home)
    with History(home) as history:
        history.rows()
    change(directory, metrics={"acc": 1})
    program = "import sys, fcntl; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, home + "/index.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        threading.Timer(1.0, holder.kill).start()
        with History(home) as history:
            assert history.rows()[0]["metrics"] == {"acc": 1}


# -- full disks

FULL_DISK = """
    import errno, json
    home = sys.argv[2]
    class Project:
        account, workspace, name, root = "local", "default", "full", "/"

    def fill():
        fd = os.open(home + "/filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        size = 1 << 20
        while size:
            try:
                os.write(fd, bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                size //= 2
        os.close(fd)

    live = []
    for number in range(5):
        one = runs.create(home, Project)
        os.makedirs(one.work + "/outputs")
        runs.write_record(one, runs.new_record(one, Project, arguments=["x" * 3000]))
        live.append(one)
    from aml_jupyter.runs import History
    with History(home) as history:
        assert history.count() == 5
    with open(live[0].work + "/outputs/model", "wb") as file:
        file.write(bytes(1000))
    os.link(live[0].work + "/outputs/model", live[0].work + "/second")
    fill()
    # an ending is always written: the reserve is given back for it
    assert os.path.exists(home + "/reserve")
    for one in live:
        record = runs.load_record(one)
        assert runs.write_record(one, record.replace(status="Failed", reason="run.exit_nonzero"))
    assert not os.path.exists(home + "/reserve")
    with History(home) as history:
        assert {row["status"] for row in history.rows()} == {"Failed"}
    fill()
    # with nothing left at all, what was there stays whole, and the error says what to do
    from aml_jupyter.errors import AmlError
    told = []
    for attempt in (
        lambda: runs.set_labels(live[1], name="x", note="n" * 60000),
        lambda: artifacts.collect(live[0]),
        lambda: runs.create(home, Project) and runs.write_record(live[2], runs.load_record(live[2]).replace(
            warnings=("w" * 60000,))),
    ):
        try:
            attempt()
        except (AmlError, OSError) as error:
            told.append(getattr(error, "code", "?"))
    with History(home) as history:
        assert len(history.rows()) == 5
        assert {row["status"] for row in history.rows()} == {"Failed"}
    os.unlink(home + "/filler")
    runs.set_labels(live[1], name="x")
    manifest = artifacts.collect(live[0])
    assert (manifest.state, manifest.count) == ("stored", 1)
    again = runs.create(home, Project)
    assert os.path.exists(home + "/reserve")
    with History(home) as history:
        assert {row["name"] for row in history.rows()} == {None, "x"}
        found = [finding.code for finding in history.check()]
    print(json.dumps([told, found]))
"""


@pytest.mark.root
@pytest.mark.parametrize("inodes", [0, 150])
def test_H4_N8_on_a_full_disk_endings_are_written_and_the_history_is_read(
    home: str, tmp_path: Path, inodes: int
) -> None:
    need("root")
    need("unshare")
    mount = tmp_path / "small"
    mount.mkdir()
    script = f'mount -t tmpfs -o size=24m,mode=700,nr_inodes={inodes or 4000} none {mount} && exec "$@"'
    argv = command(FULL_DISK, str(mount / "x"), str(mount))
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *argv],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "mount" in done.stderr and "ermission" in done.stderr:
        pytest.skip("file systems may not be mounted here")
    assert done.returncode == 0, done.stderr
    import json

    told, found = json.loads(done.stdout.splitlines()[-1])
    assert set(told) <= {"history.no_space", "store.no_space"}
    assert found == []


# -- power cuts

WRITER = """
    class Project:
        account, workspace, name, root = "local", "default", "cut", "/"
    home = sys.argv[2]
    number = 0
    while True:
        number += 1
        one = runs.create(home, Project)
        os.makedirs(one.work + "/outputs")
        record = runs.new_record(one, Project)
        runs.write_record(one, record)
        os.write(1, f"submitted {one.run_id} -\\n".encode())
        for name in range(number % 20):
            with open(f"{one.work}/outputs/{name}", "wb") as file:
                file.write(os.urandom(3000))
        kept = artifacts.collect(one)
        runs.write_record(one, record.replace(status="Completed", artifacts=kept.count))
        os.write(1, f"ended {one.run_id} {kept.count}\\n".encode())
"""
CUT = """
    import fcntl, json, random, signal, subprocess, time
    image, mount, seed, writer = sys.argv[1:5]
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    home = mount + "/home"
    process = subprocess.Popen(json.loads(writer), stdout=subprocess.PIPE)
    time.sleep(0.3 + random.Random(int(seed)).random())
    # in-flight calls must not count as acknowledged: the writer stands still before the power goes
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.05)
    os.set_blocking(process.stdout.fileno(), False)
    acknowledged = [line.split() for line in (process.stdout.read() or b"").decode().splitlines(True)
                    if line.endswith("\\n")]
    fd = os.open(mount, os.O_RDONLY)
    fcntl.ioctl(fd, 0x8004587D, (2).to_bytes(4, "little"))  # FS_IOC_SHUTDOWN without flushing the log
    os.close(fd)
    process.kill()
    process.wait()
    subprocess.run(["umount", mount], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    with open(mount + "/writable", "w") as file:
        file.write("yes")
    lost = []
    for what, run_id, count in acknowledged:
        try:
            one = runs.at(home, run_id)
            record = runs.load_record(one)
            if what == "ended":
                assert record.status == "Completed", record.status
                kept = artifacts.listing(one)
                assert len(kept) == int(count)
                for item in kept:
                    artifacts.read_artifact(one, item.path)
        except Exception as error:
            lost.append([what, run_id, repr(error)])
    from aml_jupyter.runs import History
    with History(home) as history:
        listed = {row["run_id"] for row in history.rows(limit=None)}
    lost += [["listed", run_id, ""] for _, run_id, _ in acknowledged if run_id not in listed]
    subprocess.run(["umount", mount], check=True)
    print(json.dumps([len(acknowledged), lost]))
"""


@pytest.mark.root
@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(int(os.environ.get("AML_POWER_CUTS", "20"))))
def test_H2_N3_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    import json

    for name in ("root", "unshare", "mkfs.ext4"):
        need(name)
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    writer = json.dumps(command(WRITER, "/", f"{mount}/home"))
    argv = command(CUT, str(image), str(mount), str(seed), writer)
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", *argv], capture_output=True, text=True, timeout=120
    )
    if "failed to setup loop device" in done.stderr:
        pytest.skip("no loop devices here")
    assert done.returncode == 0, done.stderr
    acknowledged, lost = json.loads(done.stdout)
    assert acknowledged
    assert lost == []
