"""Outputs of a run: collected whatever the script did to them, kept whole, fetched verified."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import artifacts, runs
from aml_jupyter.artifacts import FolderStore, Limits, Manifest
from aml_jupyter.errors import AmlError, ArtifactError, ConfinedError, HistoryError
from aml_jupyter.runs import RunDirectory
from aml_jupyter.sealed import seal
from aml_jupyter.snapshot import Rules, Store
from aml_jupyter.testing.artifact_store import ArtifactStoreContract
from tests.made_runs import submit, write
from tests.requirements import need


class TestFolderStore(ArtifactStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FolderStore:
        return FolderStore(str(tmp_path / "artifacts"))

    def test_a_link_in_the_store_is_not_followed(self, store: FolderStore, tmp_path: Path) -> None:
        (tmp_path / "artifacts/run").mkdir(parents=True)
        (tmp_path / "artifacts/run/link").symlink_to("/etc/passwd")
        (tmp_path / "artifacts/out").symlink_to(tmp_path)
        for key in ("run/link", "out/x"):
            with pytest.raises(ArtifactError) as caught:
                store.open(key)
            assert caught.value.code == "artifact.link_escape"


@pytest.fixture
def run(home: str) -> RunDirectory:
    """A run whose script has begun."""
    directory = submit(home)
    write(directory.started_json, {"format": 1})
    os.utime(directory.started_json, (0, 0))
    return directory


@pytest.fixture
def outputs(run: RunDirectory) -> Path:
    return Path(run.work) / "outputs"


def codes(manifest: Manifest) -> dict[str, str]:
    return {item.path: item.code for item in manifest.rejected}


def paths(manifest: Manifest) -> list[str]:
    return [item.path for item in manifest.stored]


def test_outputs_are_moved_into_the_store_with_their_hashes(run: RunDirectory, outputs: Path) -> None:
    (outputs / "plots").mkdir()
    (outputs / "model.pkl").write_bytes(b"model")
    (outputs / "plots/a.png").write_bytes(b"png")
    inode = (outputs / "model.pkl").stat().st_ino
    manifest = artifacts.collect(run)
    assert (manifest.state, manifest.count, manifest.bytes) == ("stored", 2, 8)
    assert paths(manifest) == ["outputs/model.pkl", "outputs/plots/a.png"]
    assert manifest.files[0].sha256 == hashlib.sha256(b"model").hexdigest()
    stored = Path(run.home) / f"artifacts/ExperimentRun/{run.run_id}/outputs/model.pkl"
    assert stored.stat().st_ino == inode
    assert artifacts.listing(run) == manifest.files
    assert artifacts.read_artifact(run, "model.pkl") == b"model"


def test_a_run_without_outputs_has_no_artifacts_and_no_manifest(run: RunDirectory) -> None:
    assert artifacts.collect(run) == Manifest()
    assert not os.path.exists(run.artifacts_json)
    assert not os.path.exists(run.home + "/artifacts")


def test_A1_no_link_leads_outside_and_links_inside_are_kept_as_files(
    run: RunDirectory, outputs: Path, tmp_path: Path
) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "share/data").write_bytes(b"secret")
    (outputs / "sub").mkdir()
    (outputs / "sub/model").write_bytes(b"model")
    for name, target in {
        "passwd": "/etc/passwd",
        "share": str(tmp_path / "share"),
        "loop": "loop",
        "up": "../../run.json",
        "dir": "sub",
        "sub/deep": "../../../../secret",
        "nothing": "not/there",
        "inside": "sub/model",
        "sub/sibling": "model",
        "absolute": str(outputs / "sub/model"),
    }.items():
        (outputs / name).symlink_to(target)
    manifest = artifacts.collect(run)
    assert paths(manifest) == [
        "outputs/absolute",
        "outputs/inside",
        "outputs/sub/model",
        "outputs/sub/sibling",
    ]
    assert {item.size for item in manifest.stored} == {5}
    assert codes(manifest) == {
        f"outputs/{name}": "artifact.link_escape"
        for name in ("passwd", "share", "loop", "up", "dir", "sub/deep", "nothing")
    }
    assert manifest.state == "partial"


def test_A2_a_hard_link_is_kept_as_a_full_copy(run: RunDirectory, outputs: Path) -> None:
    (Path(run.work) / "big.bin").write_bytes(b"x" * 10_000)
    os.link(Path(run.work) / "big.bin", outputs / "model.pkl")
    manifest = artifacts.collect(run)
    assert [(item.path, item.size) for item in manifest.stored] == [("outputs/model.pkl", 10_000)]
    stored = Path(run.home) / "artifacts" / manifest.files[0].key
    assert stored.stat().st_nlink == 1
    (Path(run.work) / "big.bin").write_bytes(b"changed")
    assert artifacts.read_artifact(run, "model.pkl") == b"x" * 10_000


def test_A3_what_is_no_file_is_told_and_left(run: RunDirectory, outputs: Path) -> None:
    os.mkfifo(outputs / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(outputs)
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
    (outputs / "setuid").write_bytes(b"x")
    (outputs / "setuid").chmod(0o4755)
    manifest = artifacts.collect(run)
    assert codes(manifest) == {
        "outputs/fifo": "artifact.rejected_type",
        "outputs/socket": "artifact.rejected_type",
    }
    assert "a FIFO [artifact.rejected_type]" in manifest.rejected[0].reason
    stored = Path(run.home) / "artifacts" / manifest.stored[0].key
    assert stat.S_IMODE(stored.stat().st_mode) & 0o7022 == 0


def test_A3_a_sparse_file_counts_with_its_logical_size(run: RunDirectory, outputs: Path) -> None:
    with (outputs / "sparse").open("wb") as file:
        file.truncate(3 << 30)
    (outputs / "tiny").write_bytes(b"x")
    manifest = artifacts.collect(run, limits=Limits(bytes=1 << 30))
    assert codes(manifest) == {"outputs/sparse": "artifact.too_big"}
    assert paths(manifest) == ["outputs/tiny"]
    assert (outputs / "sparse").exists()


@pytest.mark.root
def test_A3_devices_are_not_opened(run: RunDirectory, outputs: Path) -> None:
    need("root")
    try:
        os.mknod(outputs / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("devices may not be made here")
    assert codes(artifacts.collect(run)) == {"outputs/zero": "artifact.rejected_type"}


@pytest.fixture
def writer(outputs: Path) -> Iterator[Path]:
    """A process of the run that was left behind and goes on writing."""
    path = outputs / "growing"
    stop = threading.Event()

    def write_on() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"x" * 100_000)
                time.sleep(0.0005)

    thread = threading.Thread(target=write_on)
    thread.start()
    while not path.exists() or path.stat().st_size < 1_000_000:
        time.sleep(0.01)
    yield path
    stop.set()
    thread.join()


def test_A4_a_file_that_is_still_written_is_not_kept_in_part(run: RunDirectory, writer: Path) -> None:
    manifest = artifacts.collect(run)
    assert codes(manifest) == {"outputs/growing": "artifact.changed"}
    assert manifest.state == "partial"
    assert list(FolderStore(run.home + "/artifacts").list(manifest.prefix)) == []
    # nothing of it is lost: it is where it was, to be rescued or collected again
    assert writer.stat().st_size >= 1_000_000


def test_A5_a_file_that_vanishes_is_told_and_the_others_are_kept(
    run: RunDirectory, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (outputs / name).write_bytes(b"x")

    class Vanishing(FolderStore):
        def adopt(self, key: str, folder_fd: int, name: str) -> bool:
            if name == "a":
                (outputs / "b").unlink()
            return super().adopt(key, folder_fd, name)

    manifest = artifacts.collect(run, Vanishing(run.home + "/artifacts"))
    assert codes(manifest) == {"outputs/b": "artifact.vanished"}
    assert paths(manifest) == ["outputs/a", "outputs/c"]


ODD_NAMES = [
    "..%2f",
    "%2e%2e",
    "..\\",
    "a\nb",
    "\x1b[31mred",
    "\u202egpj.exe",
    "\ufffe",
    os.fsdecode(b"\xff\xfe.bin"),
    "dot.",
    "space ",
    "<img src=x onerror=alert(1)>",
    "CON",
    "a:b",
    "x" * 255,
    "-rf",
    "日本語",
]


def test_A6_files_of_any_name_are_kept_under_keys_of_ordinary_names(run: RunDirectory, outputs: Path) -> None:
    for name in ODD_NAMES:
        (outputs / name).write_bytes(os.fsencode(name))
    manifest = artifacts.collect(run)
    assert manifest.state == "stored"
    assert sorted(paths(manifest)) == sorted("outputs/" + name for name in ODD_NAMES)
    for item in manifest.stored:
        name = item.path.removeprefix("outputs/")
        assert artifacts.read_artifact(run, item.path) == os.fsencode(name)
        portable = name in ("-rf", "日本語", "x" * 255)
        assert item.key.endswith(name) if portable else "/.names/" in item.key
    # again, as after a kill before the manifest: odd names are still known
    os.unlink(run.artifacts_json)
    assert artifacts.collect(run).files == manifest.files


def test_A6_very_deep_outputs_are_kept(run: RunDirectory, outputs: Path) -> None:
    fd = os.open(outputs, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d" * 30, dir_fd=fd)
        below = os.open("d" * 30, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("deep", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    manifest = artifacts.collect(run)
    assert [item.path[-5:] for item in manifest.stored] == ["/deep"]


def test_A17_more_files_than_are_kept_are_counted(run: RunDirectory, outputs: Path) -> None:
    for number in range(50):
        (outputs / f"{number:02}").write_bytes(b"x")
    manifest = artifacts.collect(run, limits=Limits(files=20))
    assert (manifest.count, manifest.dropped, manifest.state) == (20, 30, "partial")
    assert codes(manifest) == {"outputs": "artifact.too_many"}


def test_rejected_names_are_listed_to_a_limit(run: RunDirectory, outputs: Path) -> None:
    for number in range(50):
        (outputs / f"{number:02}").symlink_to("/etc")
    manifest = artifacts.collect(run, limits=Limits(listed=10))
    assert (len(manifest.rejected), manifest.dropped) == (10, 40)


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("removed", "artifact.vanished"),
        ("file", "artifact.vanished"),
        ("link", "artifact.link_escape"),
        ("work a link", "artifact.link_escape"),
    ],
)
def test_L8_whatever_the_script_did_to_the_folder_nothing_outside_is_read(
    run: RunDirectory, outputs: Path, tmp_path: Path, what: str, code: str
) -> None:
    outputs.rmdir()
    if what == "file":
        outputs.write_bytes(b"x")
    elif what == "link":
        outputs.symlink_to("/etc")
    elif what == "work a link":
        (tmp_path / "elsewhere/outputs").mkdir(parents=True)
        (tmp_path / "elsewhere/outputs/secret").write_bytes(b"secret")
        Path(run.work).rmdir()
        Path(run.work).symlink_to(tmp_path / "elsewhere")
    manifest = artifacts.collect(run)
    assert manifest.count == 0
    assert codes(manifest) == {"outputs": code}
    assert manifest.state == "partial"


@pytest.mark.root
@pytest.mark.parametrize("which", ["outputs", "outputs/sub", "outputs/file"])
def test_L8_A3_what_may_not_be_read_is_told(home: str, run: RunDirectory, outputs: Path, which: str) -> None:
    need("root")
    (outputs / "sub").mkdir()
    for name in ("file", "sub/inner", "other"):
        (outputs / name).write_bytes(b"x")
    top = Path(home)
    for path in [top, *top.rglob("*")]:
        os.chown(path, 65534, 65534)
    for path in top.parents:
        path.chmod(path.stat().st_mode | 0o055)
    (Path(run.work) / which).chmod(0)
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(65534, 65534, 65534)
            manifest = artifacts.collect(run)
            assert manifest.state == "partial"
            found = {item.path for item in manifest.rejected if item.code == "artifact.unreadable"}
            os._exit(0 if found == {which} else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_collection_may_be_done_again(run: RunDirectory, outputs: Path) -> None:
    (outputs / "a").write_bytes(b"x")
    first = artifacts.collect(run)
    assert artifacts.collect(run) == first
    (outputs / "late").write_bytes(b"y")
    assert artifacts.collect(run) == first
    assert paths(artifacts.collect(run, again=True)) == ["outputs/a", "outputs/late"]


def test_what_a_killed_collection_moved_is_taken_in_by_the_next(run: RunDirectory, outputs: Path) -> None:
    class Killed(BaseException):
        pass

    class Stops(FolderStore):
        left = 2

        def adopt(self, key: str, folder_fd: int, name: str) -> bool:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return super().adopt(key, folder_fd, name)

    for name in ("a", "b", "c", "d"):
        (outputs / name).write_bytes(name.encode() * 100)
    (outputs / "latest").symlink_to("a")
    with pytest.raises(Killed):
        artifacts.collect(run, Stops(run.home + "/artifacts"))
    assert not (outputs / "a").exists()
    manifest = artifacts.collect(run)
    assert (manifest.state, paths(manifest)) == (
        "stored",
        [f"outputs/{name}" for name in ("a", "b", "c", "d", "latest")],
    )
    assert artifacts.read_artifact(run, "latest") == b"a" * 100
    assert {item.sha256 for item in manifest.stored} >= {
        hashlib.sha256(name * 100).hexdigest() for name in (b"a", b"b", b"c", b"d")
    }


def test_a_collection_that_is_done_again_removes_no_file_of_the_script(
    run: RunDirectory, outputs: Path
) -> None:
    names = ["outputs/.aml-mine.tmp", "outputs/.aml-0123456789abcde.tmp", "outputs/.aml-0123456789ABCDEF.tmp"]
    for name in names:
        (outputs / name.partition("/")[2]).write_bytes(b"mine")
    store = FolderStore(run.home + "/artifacts")
    prefix = store.claim(run.run_id, runs.load_record(run).uuid)
    # what a killed collection had moved, and what it was writing
    for name in os.listdir(outputs):
        Path(store.path, prefix, "outputs").mkdir(parents=True, exist_ok=True)
        os.rename(outputs / name, Path(store.path, prefix, "outputs", name))
    half = Path(store.path, prefix, "outputs/.aml-0123456789abcdef.tmp")
    half.write_bytes(b"half")
    assert paths(artifacts.collect(run)) == sorted(names)
    assert not half.exists()
    assert artifacts.read_artifact(run, ".aml-mine.tmp") == b"mine"
    assert [one.key for one in store.list(prefix)] == sorted(f"{prefix}/{name}" for name in names)


def test_another_run_of_the_same_id_is_not_overwritten(run: RunDirectory, outputs: Path) -> None:
    FolderStore(run.home + "/artifacts").claim(run.run_id, "another-uuid")
    (outputs / "a").write_bytes(b"x")
    manifest = artifacts.collect(run)
    uuid = runs.load_record(run).uuid
    assert manifest.prefix == f"ExperimentRun/{run.run_id}-{uuid[:4]}"
    assert artifacts.read_artifact(run, "a") == b"x"
    runs.remove(run)
    assert os.listdir(run.home + "/artifacts/ExperimentRun") == [run.run_id]


# -- fetching


@pytest.fixture
def kept(run: RunDirectory, outputs: Path) -> RunDirectory:
    (outputs / "plots").mkdir()
    (outputs / "model.pkl").write_bytes(b"model")
    (outputs / "plots/a.png").write_bytes(b"png")
    artifacts.collect(run)
    return run


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ["outputs/model.pkl", "outputs/plots/a.png"]),
        ("outputs", ["model.pkl", "plots/a.png"]),
        ("outputs/plots", ["a.png"]),
        ("plots/", ["a.png"]),
        ("outputs/model.pkl", ["model.pkl"]),
        ("model.pkl", ["model.pkl"]),
    ],
)
def test_artifacts_are_fetched_by_name_by_folder_or_all(
    kept: RunDirectory, tmp_path: Path, path: str, expected: list[str]
) -> None:
    into = tmp_path / "into"
    assert artifacts.get(kept, path, str(into)) == [f"{into}/{name}" for name in expected]
    assert sorted(str(one.relative_to(into)) for one in into.rglob("*") if one.is_file()) == expected


def test_A7_files_that_are_there_stay_unless_told(kept: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"mine")
    with pytest.raises(ArtifactError) as caught:
        artifacts.get(kept, "outputs", str(tmp_path))
    assert caught.value.code == "artifact.exists"
    assert (tmp_path / "model.pkl").read_bytes() == b"mine"
    assert not (tmp_path / "plots").exists()
    artifacts.get(kept, "outputs", str(tmp_path), overwrite=True)
    assert (tmp_path / "model.pkl").read_bytes() == b"model"


def test_A7_nothing_is_written_through_a_link(kept: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "elsewhere").mkdir()
    into = tmp_path / "into"
    into.mkdir()
    (into / "model.pkl").symlink_to(tmp_path / "victim")
    (into / "plots").symlink_to(tmp_path / "elsewhere")
    artifacts.get(kept, "model.pkl", str(into), overwrite=True)
    assert (into / "model.pkl").read_bytes() == b"model"
    assert (tmp_path / "victim").read_bytes() == b"mine"
    with pytest.raises(AmlError):
        artifacts.get(kept, "outputs", str(into), overwrite=True)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("path", ["../../.ssh/authorized_keys", "/etc/cron.d/x", "a/../../b", "a//b", "a\0b"])
def test_A7_a_malicious_manifest_writes_nothing_outside(
    kept: RunDirectory, tmp_path: Path, path: str
) -> None:
    manifest = artifacts.read_manifest(kept)
    assert manifest is not None
    evil = manifest.files[0].replace(path=path)
    with open(kept.artifacts_json, "wb") as file:
        file.write(seal(manifest.replace(files=(manifest.files[1], evil)).to_json()))
    into = tmp_path / "a/b/c"
    with pytest.raises(ConfinedError):
        artifacts.get(kept, "", str(into))
    assert not into.exists()


def test_A7_a_malicious_manifest_reads_nothing_outside(kept: RunDirectory, tmp_path: Path) -> None:
    manifest = artifacts.read_manifest(kept)
    assert manifest is not None
    for key in ("../runs/local", "/etc/passwd", "ExperimentRun/../../x"):
        evil = manifest.files[0].replace(key=key)
        with open(kept.artifacts_json, "wb") as file:
            file.write(seal(manifest.replace(files=(evil,)).to_json()))
        with pytest.raises(ArtifactError) as caught:
            artifacts.get(kept, "", str(tmp_path / "into"))
        assert caught.value.code == "artifact.name"


def test_an_artifact_that_was_changed_in_the_store_is_not_handed_out(
    kept: RunDirectory, tmp_path: Path
) -> None:
    stored = Path(kept.home) / "artifacts" / artifacts.find(kept, "model.pkl").key
    stored.write_bytes(b"evil!")
    with pytest.raises(ArtifactError) as caught:
        artifacts.get(kept, "model.pkl", str(tmp_path))
    assert caught.value.code == "store.corrupt"
    assert not (tmp_path / "model.pkl").exists()
    with pytest.raises(ArtifactError):
        artifacts.read_artifact(kept, "model.pkl")
    with runs.History(kept.home) as history:
        assert [finding.code for finding in history.check()] == ["artifact.corrupt"]
        stored.unlink()
        assert [finding.code for finding in history.check()] == ["artifact.missing"]


def test_an_unknown_artifact_names_the_nearest(kept: RunDirectory) -> None:
    with pytest.raises(ArtifactError) as caught:
        artifacts.read_artifact(kept, "outputs/modle.pkl")
    assert "outputs/model.pkl" in caught.value.hint


def test_a_rejected_artifact_says_why_it_is_not_there(run: RunDirectory, outputs: Path) -> None:
    (outputs / "link").symlink_to("/etc/passwd")
    artifacts.collect(run)
    with pytest.raises(ArtifactError) as caught:
        artifacts.read_artifact(run, "link")
    assert caught.value.code == "artifact.link_escape"


def test_a_limit_keeps_a_large_artifact_off_the_screen(kept: RunDirectory) -> None:
    with pytest.raises(ArtifactError) as caught:
        artifacts.read_artifact(kept, "model.pkl", limit=3)
    assert caught.value.code == "artifact.too_big"
    assert caught.value.hint == f"aml get {kept.run_id} model.pkl"


def test_a_damaged_manifest_is_told(kept: RunDirectory) -> None:
    with open(kept.artifacts_json, "r+b") as file:
        file.write(b"x")
    with pytest.raises(HistoryError) as caught:
        artifacts.listing(kept)
    assert caught.value.code == "record.corrupt"
    # made again from the store
    os.unlink(kept.artifacts_json)
    assert artifacts.collect(kept).count == 2


# -- what was written elsewhere


@pytest.fixture
def snapshot(home: str, run: RunDirectory, tmp_path: Path) -> str:
    """A project that was sent to the run."""
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    for name in ("train.py", "data/a.csv", "data/b.csv"):
        (project / name).write_bytes(name.encode())
    store = Store(home + "/snapshots")
    taken = store.take(str(project), Rules())
    os.rmdir(run.work + "/outputs")
    os.rmdir(run.work)
    store.materialize(taken.id, run.work)
    os.makedirs(run.work + "/outputs", exist_ok=True)
    time.sleep(0.02)
    os.utime(run.started_json)
    time.sleep(0.02)
    return taken.id


def test_what_a_run_wrote_outside_outputs_is_listed(run: RunDirectory, snapshot: str) -> None:
    work = Path(run.work)
    assert artifacts.not_kept(run, snapshot).count == 0
    (work / "outputs/model").write_bytes(b"kept")
    (work / "__pycache__").mkdir()
    (work / "__pycache__/train.pyc").write_bytes(b"noise")
    (work / "new.txt").write_bytes(b"12345")
    (work / "data/a.csv").write_bytes(b"longer than before")
    (work / "data/b.csv").write_bytes(b"data/B.csv")  # as long as before
    (work / "train.py").write_bytes(b"train.py")  # the same bytes again
    (work / "link").symlink_to("/etc")
    lost = artifacts.not_kept(run, snapshot)
    assert lost.paths == ("data/a.csv", "data/b.csv", "link", "new.txt")
    assert (lost.count, lost.more) == (4, False)


def test_L9_a_run_folder_that_is_gone_lists_nothing(run: RunDirectory, snapshot: str) -> None:
    import shutil

    shutil.rmtree(run.work)
    assert artifacts.not_kept(run, snapshot).count == 0
    assert codes(artifacts.collect(run)) == {"outputs": "artifact.vanished"}


def test_a_long_list_is_cut_and_counted(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aml_jupyter.artifacts.unkept.LISTED", 5)
    for number in range(20):
        (Path(run.work) / f"{number:02}").write_bytes(b"ab")
    lost = artifacts.not_kept(run, "")
    assert (len(lost.paths), lost.count, lost.bytes) == (5, 20, 40)


def test_what_was_not_kept_can_be_rescued(run: RunDirectory, tmp_path: Path) -> None:
    work = Path(run.work)
    (work / "data").mkdir()
    (work / "data/a.csv").write_bytes(b"a")
    (work / "link").symlink_to("/etc/passwd")
    into = tmp_path / "into"
    assert artifacts.rescue(run, "data/a.csv", str(into)) == [f"{into}/a.csv"]
    with pytest.raises(ArtifactError) as caught:
        artifacts.rescue(run, "data/a.csv", str(into))
    assert caught.value.code == "artifact.exists"
    assert artifacts.rescue(run, "data", str(tmp_path / "other")) == [f"{tmp_path}/other/a.csv"]
    for path in ("link", "../run.json", "/etc/passwd", "none"):
        with pytest.raises(AmlError):
            artifacts.rescue(run, path, str(into))
    assert sorted(os.listdir(into)) == ["a.csv"]


def test_what_was_not_kept_can_become_an_artifact(kept: RunDirectory) -> None:
    (Path(kept.work) / "notes.txt").write_bytes(b"notes")
    assert artifacts.rescue(kept, "notes.txt") == ["rescued/notes.txt"]
    assert artifacts.read_artifact(kept, "rescued/notes.txt") == b"notes"
    assert [item.path for item in artifacts.listing(kept)] == [
        "outputs/model.pkl",
        "outputs/plots/a.png",
        "rescued/notes.txt",
    ]
    assert len(artifacts.collect(kept, again=True).stored) == 3
