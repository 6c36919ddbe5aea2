"""A store may be anybody's: what is taken from it is what a run is, and nothing else happens."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import artifacts, card, runs, syncing
from aml_jupyter.artifacts.collecting import collecting_lock
from aml_jupyter.artifacts.remote import place_of, write_place
from aml_jupyter.artifacts.store import FolderStore, Stored
from aml_jupyter.confined import read_bounded
from aml_jupyter.environment import keeping
from aml_jupyter.environment.lock import Lock, Package
from aml_jupyter.errors import AmlError, ArtifactError, SnapshotError
from aml_jupyter.runs import Record, RunDirectory
from aml_jupyter.sealed import seal, unseal
from aml_jupyter.snapshot import Rules, Store, archive
from aml_jupyter.snapshot.manifest import HEADER, dir_line, file_line, link_line
from aml_jupyter.syncing import foreign
from tests.made_runs import Project
from tests.stored_runs import all_files, aml, ended_run, machine, push

EVIL = "<img src=x onerror=alert(1)>\x1b]0;gone\x07\u202e"


class Place:
    """A store with one run, whose documents a test may change as somebody else would."""

    def __init__(self, shared: Path, directory: RunDirectory) -> None:
        self.shared = shared
        self.url = f"folder://{shared}"
        self.directory = directory
        self.run_id = directory.run_id
        self.folder = shared / f"ExperimentRun/{directory.run_id}/.aml"

    def change(self, name: str, how: Callable[[dict[str, Any]], object]) -> None:
        """Change a document and seal it again."""
        path = self.folder / name
        document = unseal(path.read_bytes(), name)
        how(document)
        path.write_bytes(seal(document))


@pytest.fixture
def place(home: str, tmp_path: Path) -> Place:
    shared = tmp_path / "shared"
    shared.mkdir()
    directory = ended_run(home, {"model.pkl": b"model"}, params={"lr": 0.1}, metrics={"acc": 0.9})
    push(directory, f"folder://{shared}")
    return Place(shared, directory)


@pytest.fixture
def fresh(tmp_path: Path) -> str:
    """The AML_HOME of a machine that has nothing."""
    return str(tmp_path / "fresh/.azureml")


def refused(place: Place, fresh: str) -> str:
    """The code with which the run is refused; nothing of it may be here, and nothing of this machine gone."""
    found = syncing.sync(fresh, place.url)
    assert found.pulled == ()
    [problem] = found.problems
    assert runs.all_directories(fresh) == []
    assert runs.check(fresh) == []
    assert problem.message
    return problem.code


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_id", "../../escaped"),
        ("run_id", "/etc/passwd"),
        ("run_id", ""),
        ("run_id", "x" * 300),
        ("run_id", ".hidden"),
        ("run_id", "iris_1"),
        ("run_id", 7),
        ("account", ".."),
        ("account", "a/b"),
        ("workspace", "\0"),
        ("project", "-rf"),
        ("project", "a\nb"),
        ("uuid", "../x"),
        ("uuid", None),
        ("status", "Running"),
        ("status", "NotStarted"),
        ("status", ["Completed"]),
        ("status", EVIL),
        ("metrics", [1]),
        ("params", "x"),
        ("arguments", [1, 2]),
        ("arguments", "abc"),
        ("warnings", [{}]),
        ("duration", "1 s"),
        ("phases", {"run": "long"}),
        ("phases", {"run": float("inf")}),
        ("duration", float("nan")),
        ("duration", -1),
        ("created_utc", "yesterday"),
        ("created_utc", 3),
        ("created_utc", "9999-99-99T99:99:99.999999999+00:00"),
        ("created_utc", "9999-12-31T23:59:59+00:00"),
        ("created_utc", "2026-02-30T00:00:00+00:00"),
        ("start_time_utc", "0000-00-00T00:00:00+00:00"),
        ("start_time_utc", "0001-01-01T00:00:00+00:00"),
        ("end_time_utc", "2026-01-01T23:59:60+00:00"),
        ("end_time_utc", "2026-01-01T00:00:00+00:00'; DROP TABLE runs"),
        ("exit_code", "0"),
        ("exit_code", 1 << 70),
        ("snapshot_id", "../../x"),
        ("snapshot_id", "A" * 64),
        ("error", {"message": 3}),
        ("inputs", [[]]),
        ("git", "clean"),
        ("environment", []),
        ("properties", 1),
        ("logged_params", {"a": 1}),
        ("artifacts", -1),
        ("artifacts", "many"),
        ("run_number", True),
        ("format", 2),
        ("format", "1"),
    ],
)
def test_a_record_that_is_none_is_refused(place: Place, fresh: str, key: str, value: object) -> None:
    place.change("run.json", lambda document: document.update({key: value}))
    assert refused(place, fresh) in ("record.foreign", "record.newer", "record.corrupt")


def test_every_field_of_a_record_is_looked_at_or_left_out() -> None:
    left_out = set(Record._fields) - foreign.RULED
    assert left_out == {"format", "supervisor", "extra", *runs.record.LABELS}


@pytest.mark.parametrize("missing", ["run_id", "uuid", "status", "project"])
def test_a_record_without_what_makes_it_one_is_refused(place: Place, fresh: str, missing: str) -> None:
    place.change("run.json", lambda document: document.pop(missing))
    assert refused(place, fresh) == "record.foreign"


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../../../escaped"},
        {"path": "/etc/passwd"},
        {"path": "outputs/../../x"},
        {"path": "outputs//x"},
        {"path": "outputs/\0"},
        {"path": "run.json"},
        {"path": ""},
        {"path": 3},
        {"path": "outputs/" + "x" * 40000},
        {"sha256": "short"},
        {"sha256": "../" * 21 + "x"},
        {"size": -1},
        {"size": "big"},
        {"size": 1 << 70},
        {"state": "pending"},
        {"state": 1},
        {"reason": 7, "state": "rejected"},
    ],
)
def test_A6_A7_a_list_of_artifacts_that_is_none_is_refused(
    place: Place, fresh: str, change: dict[str, object]
) -> None:
    place.change("artifacts.json", lambda document: document["files"][0].update(change))
    assert refused(place, fresh) in ("record.foreign", "record.corrupt")


@pytest.mark.parametrize(
    "change",
    [
        {"files": {}},
        {"files": [3]},
        {"files": None},
        {"details": []},
        {"state": "pending"},
        {"state": None},
        {"dropped": -1},
    ],
)
def test_a_list_of_artifacts_of_another_form_is_refused(
    place: Place, fresh: str, change: dict[str, object]
) -> None:
    place.change("artifacts.json", lambda document: document.update(change))
    assert refused(place, fresh) == "record.foreign"


def test_one_artifact_twice_is_refused(place: Place, fresh: str) -> None:
    place.change("artifacts.json", lambda document: document["files"].append(document["files"][0]))
    assert refused(place, fresh) == "record.foreign"


@pytest.mark.parametrize(
    "change",
    [
        {"name": 1},
        {"tags": ["a"]},
        {"tags": {"a": 1}},
        {"pinned": "yes"},
        {"note": None},
        {"description": []},
        {"name": "x" * 251},
        {"name": "@last"},
        {"name": "two\nlines"},
        {"note": "x" * 70_000},
        {"description": "x" * 70_000},
        {"tags": {"x" * 251: ""}},
        {"tags": {"": ""}},
        {"tags": {"a": "x" * 5001}},
        {"tags": {str(number): "" for number in range(1001)}},
    ],
)
def test_labels_that_are_none_are_refused(place: Place, fresh: str, change: dict[str, object]) -> None:
    place.change("labels.json", lambda document: document.update(change))
    assert refused(place, fresh) == "record.foreign"


@pytest.mark.parametrize("name", ["run.json", "artifacts.json", "labels.json"])
@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff" * 100, b"[" * 200_000, b'{"format":1,"crc32":1}', b"null"]
)
def test_a_document_that_is_no_document_is_refused(place: Place, fresh: str, name: str, data: bytes) -> None:
    (place.folder / name).write_bytes(data)
    assert refused(place, fresh) in ("record.corrupt", "record.foreign")


def test_a_document_that_is_missing_or_too_large_is_refused(
    place: Place, fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "LARGEST_RECORD", 100)
    assert refused(place, fresh) == "record.foreign"
    (place.folder / "run.json").unlink()
    assert refused(place, fresh) == "artifact.unknown"


def test_names_in_the_list_of_runs_that_are_no_names_are_passed_over(place: Place, fresh: str) -> None:
    folder = place.shared / "Runs/0123456789abcdef"
    for name in ("-rf", ".git", "a b", "x" * 121):
        (folder / name).mkdir(parents=True)
        (folder / name / "0").write_bytes(b"")
    (folder / "flat").write_bytes(b"")
    (folder / "iris_404").mkdir()
    (folder / "iris_404/0").write_bytes(b"")
    found = syncing.sync(fresh, place.url)
    assert found.pulled == (place.run_id,)
    assert [one.name for one in found.problems] == ["iris_404"]


def test_text_of_a_stranger_is_shown_and_does_nothing(place: Place, fresh: str) -> None:
    evil = {
        "target": EVIL, "script_name": EVIL, "reason": EVIL, "user_id": EVIL, "warnings": [EVIL],
        "params": {EVIL: EVIL}, "metrics": {EVIL: {EVIL: [EVIL]}, "x": None, "acc": [[[]]]},
        "arguments": [EVIL], "kind": EVIL, "framework": EVIL, "artifacts_state": EVIL, "status": "Failed",
        "error": {"code": EVIL, "message": EVIL, "hint": EVIL}, "environment": {EVIL: EVIL, "packages": EVIL},
        "properties": {"origin": EVIL, "rerun_of": EVIL}, "git": {EVIL: EVIL}, "not_kept": [EVIL, "../../x"],
        "inputs": [{"name": EVIL, "path": "../../x"}], "parent_run_id": EVIL, "experiment_id": EVIL,
        "python_version": EVIL, "share": EVIL, "cell_sha256": EVIL, "notebook": EVIL, "phases": {EVIL: 1},
        "project_root": "/etc", "interpreter": "/bin/sh", "logged_params": {EVIL: EVIL},
    }  # fmt: skip
    place.change("run.json", lambda document: document.update(evil))
    page = EVIL.partition("\x1b")[0]  # a name with the rest of it is refused
    place.change("labels.json", lambda document: document.update(name=page, note=EVIL, tags={page: EVIL}))
    place.change(
        "artifacts.json",
        lambda document: document["files"].append(
            {"path": EVIL, "state": "rejected", "code": EVIL, "reason": EVIL}
        ),
    )
    with machine(fresh, place.url):
        assert aml("runs", "--from-store", "--all-projects")[0] == 0
        directory = runs.find(place.run_id, fresh)
        record = runs.read_record(directory)
        assert record.properties["origin"] == place.url
        for words in (
            ("runs", "--all-projects"), ("runs", "--all-projects", "--json"), ("show", place.run_id),
            ("show", place.run_id, "--json"), ("ls", place.run_id), ("logs", place.run_id),
            ("history", "info", "-r", place.run_id), ("check",), ("rescue", place.run_id),
            ("diff", place.run_id, place.run_id),
        ):  # fmt: skip
            try:
                status, out, told = aml(*words)
            except AmlError as error:
                status, out, told = 0, "", error.message
            assert status in (0, 5), words
            if "--json" not in words and words[0] not in ("history", "rescue"):
                assert "\x1b" not in out + told, words
                assert "\u202e" not in out + told, words
        shown = card.bundle(card.card_of(directory))
        assert "<img" not in shown["text/html"]
        assert "\x1b" not in "".join(shown.values())


def test_no_text_of_a_stranger_makes_the_list_of_runs_wide(place: Place, fresh: str) -> None:
    place.change("run.json", lambda document: document.update(target="x" * 100_000, script_name="\0" * 900))
    place.change("labels.json", lambda document: document.update(name="y" * 250))
    with machine(fresh, place.url):
        status, out, _ = aml("runs", "--from-store", "--all-projects")
        assert status == 0
        assert place.run_id in out
        assert "y" * 79 + "\u2026" in out
        assert max(map(len, out.splitlines())) < 500
        assert "x" * 100_000 in aml("runs", "--all-projects", "--json")[1]


def test_a_store_that_lies_about_the_bytes_is_told_so_and_nothing_is_kept(place: Place, fresh: str) -> None:
    syncing.sync(fresh, place.url)
    directory = runs.find(place.run_id, fresh)
    (place.folder / "log").write_bytes(b"other")
    with pytest.raises(ArtifactError) as caught:
        syncing.complete(directory, everything=True)
    assert caught.value.code == "store.corrupt"
    assert not os.path.exists(directory.log)
    (place.folder / "log").unlink()
    with pytest.raises(ArtifactError) as caught:
        syncing.complete(directory)
    assert caught.value.code == "store.gone"
    assert aml_error(fresh, place, "logs", place.run_id) == "store.gone"
    assert [name for name in os.listdir(directory.job) if name.startswith(".aml-")] == []


def aml_error(fresh: str, place: Place, *words: str) -> str:
    """The code of the error of a line of `aml` on the fresh machine."""
    with machine(fresh, place.url), pytest.raises(AmlError) as caught:
        aml(*words)
    assert caught.value.hint
    return caught.value.code


def test_files_that_no_run_directory_has_are_not_fetched(place: Place, fresh: str) -> None:
    fact = {"size": 1, "sha256": "0" * 64}
    odd = ("../x", "job/../../x", "run.json", "supervisor.lock", "job/exit.json", "job/data/../x", "cancel")
    place.change(
        "artifacts.json",
        lambda document: document["details"].update({**dict.fromkeys(odd, fact), "log": {"size": "x"}}),
    )
    syncing.sync(fresh, place.url)
    directory = runs.find(place.run_id, fresh)
    before = set(all_files(Path(fresh)))
    syncing.complete(directory, everything=True)
    new = {name.rpartition("/")[2] for name in set(all_files(Path(fresh))) - before}
    assert new <= {"events.jsonl", "request.json", "status.jsonl", "control.log", place.run_id}


def test_a_sync_that_is_killed_between_id_and_run_goes_on(place: Place, fresh: str) -> None:
    record = runs.load_record(place.directory)
    below = f"runs/{record.account}/{record.workspace}/{record.project}"
    os.makedirs(f"{fresh}/ids")
    os.makedirs(f"{fresh}/{below}/.pulling-{place.run_id}/job")
    Path(fresh, "ids", place.run_id).write_text(f"{below}/{place.run_id}\n")
    assert syncing.sync(fresh, place.url).pulled == (place.run_id,)
    assert runs.check(fresh) == []
    # what it remembers is lost: everything is looked at again, and nothing is doubled
    for name in os.listdir(f"{fresh}/synced"):
        Path(fresh, "synced", name).write_bytes(b"broken")
    again = syncing.sync(fresh, place.url)
    assert (again.pulled, again.known, again.problems) == ((), 1, ())


def test_a_run_that_was_removed_here_does_not_come_back_by_itself(place: Place, fresh: str) -> None:
    syncing.sync(fresh, place.url)
    runs.remove(runs.find(place.run_id, fresh))
    assert syncing.sync(fresh, place.url).pulled == ()
    assert runs.all_directories(fresh) == []


def test_only_the_runs_of_a_project_are_brought_unless_all_are_asked_for(
    place: Place, home: str, fresh: str
) -> None:
    other = ended_run(home, {}, Project("other"))
    push(other, place.url)
    key = place.directory.project_key
    assert syncing.sync(fresh, place.url, key).pulled == (place.run_id,)
    assert syncing.sync(fresh, place.url).pulled == (other.run_id,)


# --- snapshots in a store -----------------------------------------------------------------------------------


def packed(store: Store, snapshot_id: str, path: Path) -> bytes:
    with path.open("wb") as file:
        archive.pack(store, snapshot_id, file.fileno())
    return path.read_bytes()


def unpacked(data: bytes, snapshot_id: str, tmp_path: Path) -> Store:
    """A new store with what an archive holds."""
    into = Store(str(tmp_path / f"into-{os.urandom(4).hex()}"))
    path = tmp_path / "archive"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        archive.unpack(into, snapshot_id, fd)
    finally:
        os.close(fd)
    return into


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "iris"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "train.py").write_text("print(1)\n")
    (folder / "again.py").write_text("print(1)\n")
    (folder / "none").write_bytes(b"")
    (folder / "large.bin").write_bytes(random.randbytes(3 << 20))
    (folder / os.fsdecode(b"n\xffme")).write_text("odd")
    (folder / "deep/er/run.sh").write_text("#!/bin/sh\n")
    (folder / "deep/er/run.sh").chmod(0o755)
    (folder / "link").symlink_to("deep/er/run.sh")
    return folder


def test_a_snapshot_goes_through_a_store_and_is_the_same(project: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "aml/snapshots"))
    snapshot_id = store.take(str(project), Rules()).id
    data = packed(store, snapshot_id, tmp_path / "archive")
    assert data.count(b"print(1)") == 1
    into = unpacked(data, snapshot_id, tmp_path)
    assert into.check() == []
    for one, name in ((store, "a"), (into, "b")):
        one.materialize(snapshot_id, str(tmp_path / name))
    assert all_files(tmp_path / "a") == all_files(tmp_path / "b")
    assert os.readlink(tmp_path / "b/link") == "deep/er/run.sh"
    assert (tmp_path / "b/deep/er/run.sh").stat().st_mode & 0o777 == 0o755


def test_A12_an_archive_that_was_changed_anywhere_is_refused_and_leaves_nothing(
    project: Path, tmp_path: Path
) -> None:
    (project / "large.bin").write_bytes(b"x" * (1 << 20))
    store = Store(str(tmp_path / "aml/snapshots"))
    snapshot_id = store.take(str(project), Rules()).id
    data = packed(store, snapshot_id, tmp_path / "archive")
    broken = [
        b"",
        data[:-1],
        data + b"x",
        data[1:],
        data.replace(b"amlsnap1", b"amlsnap2"),
        b"amlsnap1 999999999",
    ]
    broken += [b"amlsnap1 " + b"9" * 30 + b"\n", b"amlsnap1 -5\n"]
    for _ in range(60):
        at = random.randrange(len(data))
        broken.append(data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :])
    for one in broken:
        into = str(tmp_path / "broken")
        path = tmp_path / "archive"
        path.write_bytes(one)
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(SnapshotError) as caught:
            archive.unpack(Store(into), snapshot_id, fd)
        os.close(fd)
        assert caught.value.code == "snapshot.archive"
        assert not os.path.exists(f"{into}/manifests/{snapshot_id}")


DATA = b"evil"


@pytest.mark.parametrize(
    "lines",
    [
        [("file", "../escaped")],
        [("file", "/etc/cron.d/x")],
        [("file", "a/../../x")],
        [("file", "no-folder/x")],
        [("file", "x"), ("file", "x")],
        [("file", "x\0y")],
        [("file", "")],
        [("link", "out", "/etc")],
        [("link", "out", "../../etc")],
        [("link", "out", "")],
        [("link", "a", "b"), ("link", "b", "../..")],
        [("link", "sub", "."), ("file", "sub/x")],
        [("dir", ".."), ("file", "../x")],
        [("dir", "."), ("file", "./x")],
    ],
)
def test_A7_an_archive_that_would_write_elsewhere_is_refused(
    lines: list[tuple[str, ...]], tmp_path: Path
) -> None:
    made = {
        "file": lambda path: file_line(path, 0o644, len(DATA), hashlib.sha256(DATA).hexdigest()),
        "link": link_line,
        "dir": lambda path: dir_line(path, 0o755),
    }
    manifest = HEADER + b"".join(made[kind](*rest) for kind, *rest in lines)  # type: ignore[operator]
    snapshot_id = hashlib.sha256(manifest).hexdigest()
    data = b"amlsnap1 %d\n" % len(manifest) + manifest + DATA
    with pytest.raises(SnapshotError) as caught:
        unpacked(data, snapshot_id, tmp_path)
    assert caught.value.code == "snapshot.archive"


def test_manifests_that_are_nonsense_are_refused(tmp_path: Path) -> None:
    for body in (
        b'["file","x"]\n', b'["file","x","644","big","' + b"0" * 64 + b'"]\n', b"3\n", b"{}\n", b"[]\n",
        b'["file","x","9z",1,"' + b"0" * 64 + b'"]\n', b'["file","x","644",-1,"' + b"0" * 64 + b'"]\n',
        b'["file","x","7777",1,"' + b"0" * 64 + b'"]\n', b'["file","x","644",1,"zz"]\n', b'["link","x"]\n',
        b'["dir"]\n', b"[" * 5000 + b"\n", b'["file",["x"],"644",1,"' + b"0" * 64 + b'"]\n',
    ):  # fmt: skip
        manifest = HEADER + body
        data = b"amlsnap1 %d\n" % len(manifest) + manifest + b"x"
        with pytest.raises(SnapshotError) as caught:
            unpacked(data, hashlib.sha256(manifest).hexdigest(), tmp_path)
        assert caught.value.code == "snapshot.archive"


def test_the_lock_of_a_run_goes_through_a_store_and_another_one_is_refused(
    home: str, tmp_path: Path, fresh: str
) -> None:
    wheel = Package(
        name="six", version="1.16.0", source="pypi", url="https://example.org/six.whl", sha256="0" * 64
    )
    lock = Lock(platform="linux-64", python="3.11", owns_python=False, packages=(wheel,), request="0" * 64)
    os.makedirs(f"{home}/environments/locks")
    keeping.keep(lock, f"{home}/environments/locks/x.json")
    directory = ended_run(home, {}, environment={"lock": lock.digest})
    shared = tmp_path / "shared"
    shared.mkdir()
    push(directory, f"folder://{shared}")
    syncing.sync(fresh, f"folder://{shared}")
    brought = runs.find(directory.run_id, fresh)
    kept = shared / f"Locks/{lock.digest}"
    whole = kept.read_bytes()
    for data in (
        b"",
        b"{}",
        b"[]",
        whole.replace(b"1.16.0", b"1.15.0"),
        whole.replace(b'"format": 1', b'"format": 9'),
    ):
        kept.write_bytes(data)
        with pytest.raises(AmlError):
            syncing.need_lock(brought)
        assert not os.path.exists(f"{fresh}/environments/kept/{lock.digest}.json")
    kept.write_bytes(whole)
    syncing.need_lock(brought)
    assert keeping.read(f"{fresh}/environments/kept/{lock.digest}.json") == lock


class Failing(FolderStore):
    """A folder that is not there any more after so many requests."""

    def __init__(self, path: str, answers: int) -> None:
        super().__init__(path, shared=True)
        self.answers = answers
        self.asked = 0
        self.lock = threading.Lock()

    def _count(self) -> None:
        with self.lock:
            self.asked += 1
            if self.asked > self.answers:
                raise ArtifactError("it was unplugged", code="store.unavailable")

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self._count()
        return super().read(key, start, length)

    def fetch(self, key: str, destination: int, **more: Any) -> Stored:
        self._count()
        return super().fetch(key, destination, **more)


def listed_beside(place: Place, count: int) -> None:
    """More entries in the list of runs, whose runs are not there."""
    for number in range(count):
        folder = place.shared / f"Runs/0123456789abcdef/other_{number:05}"
        folder.mkdir(parents=True)
        (folder / ("d" * 32)).write_bytes(b"{}")


def test_a_store_that_fails_in_the_middle_of_a_sync_is_asked_for_little_more(
    place: Place, fresh: str
) -> None:
    listed_beside(place, 300)
    store = Failing(str(place.shared), answers=2)
    with pytest.raises(ArtifactError) as failed:
        syncing.sync(fresh, place.url, store=store)
    assert failed.value.code == "store.unavailable"
    assert store.asked <= 2 * syncing.WORKERS + 4


def test_a_sync_has_few_records_in_memory_however_many_runs_there_are(place: Place, fresh: str) -> None:
    listed_beside(place, 300)
    store = Failing(str(place.shared), answers=1 << 30)
    ahead = []

    def report(done: int, _all: int) -> None:
        time.sleep(0.002)  # the disk here is slower than the store
        ahead.append(store.asked - done)

    found = syncing.sync(fresh, place.url, store=store, report=report)
    assert found.pulled == (place.run_id,)
    assert len(found.problems) == 300
    assert max(ahead) <= 2 * syncing.WORKERS + 4


def test_a_store_that_fails_while_a_log_is_fetched_is_asked_for_little_more(
    place: Place, fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncing.sync(fresh, place.url)
    brought = runs.at(fresh, place.run_id)
    assert brought
    there = place_of(brought)
    assert there
    more = {f"job/data/{number:064x}": {"size": 1, "sha256": "0" * 64} for number in range(300)}
    write_place(brought, there.replace(details={**there.details, **more}))
    store = Failing(str(place.shared), answers=1)
    monkeypatch.setattr(syncing, "origin", lambda _place, **_: store)
    with pytest.raises(ArtifactError) as failed:
        syncing.complete(brought)
    assert failed.value.code == "store.unavailable"
    assert store.asked <= 2 * syncing.WORKERS + 4


def test_labels_that_are_set_while_those_of_the_store_are_taken_over_are_kept(
    place: Place, fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncing.sync(fresh, place.url)
    brought = runs.at(fresh, place.run_id)
    assert brought
    runs.set_labels(place.directory, note="from the maker")
    push(place.directory, place.url)
    person = threading.Thread(target=lambda: runs.set_labels(brought, pinned=True))

    def meanwhile(path: str, limit: int) -> bytes:
        data = read_bounded(path, limit)
        if path == brought.labels_json:
            person.start()
            person.join(0.3)  # it waits for its turn, and has it before or after
        return data

    monkeypatch.setattr(syncing, "read_bounded", meanwhile)
    assert syncing.sync(fresh, place.url).updated == (place.run_id,)
    person.join()
    labels = runs.read_labels(brought)
    assert (labels.pinned, labels.note) == (True, "from the maker")


def test_a_list_of_artifacts_is_taken_over_by_nobody_while_another_changes_it(
    place: Place, fresh: str
) -> None:
    syncing.sync(fresh, place.url)
    brought = runs.at(fresh, place.run_id)
    assert brought
    place.change("artifacts.json", lambda document: document["files"].clear())
    for entry in list((place.shared / "Runs").rglob("*")):
        if entry.is_file():  # as whoever pushes it once more does
            entry.rename(entry.with_name("d" * 32))
    other = threading.Thread(target=lambda: syncing.sync(fresh, place.url))
    with collecting_lock(brought):
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert [item.path for item in artifacts.listing(brought)] == ["outputs/model.pkl"]
    other.join()
    assert artifacts.listing(brought) == ()
