"""Runs in a store that others can reach: stored by themselves, whole or not at all, and brought elsewhere."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import threading
from pathlib import Path

import pytest

import aml_jupyter
from aml_jupyter import artifacts, locks, magics, pending, pushing, runs, syncing
from aml_jupyter.artifacts import Limits
from aml_jupyter.artifacts.collecting import collecting_lock
from aml_jupyter.artifacts.opening import open_store
from aml_jupyter.artifacts.remote import place_of
from aml_jupyter.config import settings
from aml_jupyter.errors import AmlError, ArtifactError, HistoryError
from aml_jupyter.runs import RunDirectory
from aml_jupyter.runs.directory import enter
from aml_jupyter.sealed import seal, unseal
from aml_jupyter.snapshot import Rules, Store
from tests.azurite import ACCOUNT, KEY, Azurite
from tests.faulty_http import FaultyHTTP
from tests.made_runs import submit, write
from tests.stored_runs import all_files, aml, blob_store, ended_run, machine, push, stored, until


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that machines have in common."""
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture(params=["folder", "azblob"])
def store(request: pytest.FixtureRequest, shared: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty store: a folder, and a container of Blob storage."""
    if request.param == "folder":
        return f"folder://{shared}"
    return blob_store(request.getfixturevalue("azurite"), monkeypatch)


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a script that leaves outputs."""
    folder = tmp_path / "iris"
    folder.mkdir()
    (folder / "train.py").write_text(
        "import os\nos.makedirs('outputs/plots')\n"
        "open('outputs/model.pkl', 'w').write('model')\n"
        "open('outputs/plots/a b#?%\\u00e4.csv', 'w').write('1,2')\n"
        "print('trained')\n"
    )
    monkeypatch.chdir(folder)
    return folder


def run_script() -> RunDirectory:
    """A run that has ended."""
    run = aml_jupyter.submit("local", "train.py").wait()
    assert run.status == "Completed"
    return runs.find(run.id, os.environ["AML_HOME"])


def states(directory: RunDirectory) -> set[str]:
    """The states of the artifacts of a run."""
    return {item.state for item in artifacts.listing(directory)}


def test_a_run_is_stored_by_itself_and_another_machine_lists_shows_gets_restores_and_repeats_it(
    project: Path, home: str, store: str, tmp_path: Path
) -> None:
    settings.put(None, settings.STORE, store)
    directory = run_script()
    assert stored(directory) == "stored"
    assert states(directory) == {"stored"}
    there = open_store(store)
    assert there.read(f"ExperimentRun/{directory.run_id}/outputs/model.pkl") == b"model"

    with machine(str(tmp_path / "other"), store) as other:
        status, out, _ = aml("runs", "--from-store", "--json")
        assert (status, [row["run_id"] for row in json.loads(out)]) == (0, [directory.run_id])
        fresh = runs.find(directory.run_id, other)
        assert runs.read_record(fresh).properties["origin"] == store
        assert not os.path.exists(fresh.log)
        assert aml("logs", directory.run_id)[1] == "trained\n"
        assert "trained" in aml("show", directory.run_id)[1]
        assert aml("get", directory.run_id, "-d", str(tmp_path / "got"))[0] == 0
        assert (tmp_path / "got/outputs/model.pkl").read_text() == "model"
        assert (tmp_path / "got/outputs/plots/a b#?%ä.csv").read_text() == "1,2"
        assert aml("restore", directory.run_id, str(tmp_path / "code"))[0] == 0
        assert (tmp_path / "code/train.py").read_bytes() == (project / "train.py").read_bytes()
        assert aml("check")[0] == 0
        assert json.loads(aml("history", "sync", "--json")[1])["known"] == 1
        assert aml("rerun", directory.run_id)[0] == 0
        assert stored(runs.find("@last", other)) == "stored"
    with machine(home, store):
        assert json.loads(aml("history", "sync", "--json")[1])["pulled"] != []


def test_A8_a_store_that_is_absent_leaves_the_run_completed_and_pending_and_push_finishes_it(
    project: Path, home: str, shared: Path
) -> None:
    settings.put(None, settings.STORE, f"folder://{shared}")
    shared.rmdir()
    status, _, told = aml("run", "local", "train.py")
    assert status == 0
    assert "artifacts: pending" in told
    assert "aml push" in told
    directory = runs.find("@last", home)
    record = runs.load_record(directory)
    assert (record.status, record.artifacts_state) == ("Completed", "pending")
    assert states(directory) == {"pending"}
    assert artifacts.read_artifact(directory, "model.pkl") == b"model"
    assert "pending" in aml("show")[1]
    until(lambda: "not stored yet" in aml("show")[2])
    # the pusher has left: only a person can bring the folder back
    until(lambda: not locks.holders(f"{home}/push.lock"))
    status, out, told = aml("push")
    assert (status, out) == (5, f"{directory.run_id} pending\n")
    assert "store.missing" in told
    mark = pending.marked(home, directory.run_id)
    assert mark is not None
    assert mark.error["code"] == "store.missing"
    shared.mkdir()
    status, out, _ = aml("push", "--json")
    assert (status, json.loads(out)[0]["state"]) == (0, "stored")
    after = runs.load_record(directory)
    assert (after.status, after.artifacts_state) == ("Completed", "stored")
    assert after.replace(artifacts_state="pending") == record
    assert aml("push")[2] == "aml: nothing is pending\n"


def test_A8_the_end_of_the_next_run_and_a_load_of_the_extension_store_what_was_left(
    project: Path, home: str, shared: Path
) -> None:
    first, second = (ended_run(home, {"a": b"1"}) for _ in range(2))
    gone = f"folder://{shared}/gone"
    pending.mark(home, first.run_id, gone, tries=3, next=1.0)
    settings.put(None, settings.STORE, gone)
    os.mkdir(f"{shared}/gone")
    assert stored(run_script()) == "stored"
    assert stored(first) == "stored"
    pending.mark(home, second.run_id, gone)
    magics._store_runs()
    assert stored(second) == "stored"


def test_a_run_without_a_store_is_as_it_always_was_and_starts_nothing(project: Path, home: str) -> None:
    directory = run_script()
    assert runs.load_record(directory).artifacts_state == "stored"
    assert states(directory) == {"stored"}
    for name in ("push", "push.lock", "synced"):
        assert not os.path.exists(f"{home}/{name}")
    with pytest.raises(ArtifactError) as caught:
        aml("push", directory.run_id)
    assert caught.value.code == "store.none"
    assert "aml config set artifacts.store" in caught.value.hint


def test_A14_what_is_there_is_not_sent_again(home: str, store: str) -> None:
    outputs = {f"part-{number}": b"%d" % number * 1000 for number in range(40)}
    directory = ended_run(home, outputs)
    first = push(directory, store)
    assert (first.state, first.files > 40) == ("stored", True)
    assert push(directory, store).files == 0
    os.unlink(directory.path + "/remote.json")  # nothing is remembered here
    assert push(directory, store).files == 0
    open_store(store).delete(f"ExperimentRun/{directory.run_id}/outputs/part-7")
    again = push(directory, store)
    assert (again.files, again.bytes) == (1, 1000)


def test_a_run_is_seen_by_others_only_when_it_is_whole(
    home: str, azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever write to the store fails first, others see nothing of the run."""
    with FaultyHTTP(azurite.port) as proxy:
        for number, pattern in enumerate(
            (
                r"PUT .*/outputs/b",
                r"PUT .*/\.aml/log",
                r"PUT .*artifacts\.json",
                r"PUT .*run\.json",
                "PUT .*/Runs/",
            )
        ):
            store = blob_store(azurite, monkeypatch, proxy.endpoint(ACCOUNT))
            directory = ended_run(home, {"a": b"1", "b": b"2"})
            fault = proxy.spoil("status", pattern, status=403, code="AuthorizationFailure")
            pending.mark(home, directory.run_id, store)
            [done] = pushing.push_marked(home, now=True)
            assert (done.state, bool(done.error), fault.count > 0) == ("pending", True, True), pattern
            assert syncing.sync(str(tmp_path / f"{number}"), store).pulled == ()
            proxy.heal()
            assert push(directory, store).state == "stored"
            assert syncing.sync(str(tmp_path / f"{number}"), store).pulled == (directory.run_id,)
            sent = proxy.seen(rf"PUT .*/{directory.run_id}/outputs/a")
            assert len([one for one in sent if one.status == 201]) == 1


def test_A8_the_one_who_waits_for_a_run_does_not_wait_for_a_store_that_does_not_answer(
    project: Path, home: str, azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyHTTP(azurite.port) as proxy:
        settings.put(None, settings.STORE, blob_store(azurite, monkeypatch, proxy.endpoint(ACCOUNT)))
        proxy.spoil("silence", seconds=300)
        assert aml("run", "local", "train.py")[0] == 0
        directory = runs.find("@last", home)
        assert runs.load_record(directory).artifacts_state == "pending"
        until(lambda: proxy.requests)  # it is being tried
        [pusher] = until(lambda: locks.holders(f"{home}/push.lock"))
        os.kill(pusher, signal.SIGKILL)


def test_labels_that_change_later_reach_others_with_the_next_push(
    home: str, store: str, tmp_path: Path
) -> None:
    directory = ended_run(home, {"a": b"1"})
    push(directory, store)
    other = str(tmp_path / "other")
    assert syncing.sync(other, store).pulled == (directory.run_id,)
    runs.set_labels(directory, name="best", tags=("good=1",), note="look")
    [done] = pushing.push_marked(home)
    assert (done.state, done.files) == ("stored", 0)
    assert syncing.sync(other, store).updated == (directory.run_id,)
    there = runs.find("best", other)
    assert runs.read_record(there).tags == {"good": "1"}
    # what is added elsewhere stays there, and what is stored later does not undo it
    runs.set_labels(there, note="mine")
    assert [one.state for one in pushing.push_marked(other)] == ["none"]
    runs.set_labels(directory, note="theirs")
    list(pushing.push_marked(home))
    syncing.sync(other, store)
    assert runs.read_record(there).note == "mine"
    assert len(list(open_store(store).list("Runs"))) == 1


def test_files_that_are_rescued_later_are_stored_as_well(home: str, store: str) -> None:
    directory = ended_run(home, {"a": b"1"})
    push(directory, store)
    (Path(directory.work) / "left.txt").write_text("left")
    assert aml("rescue", directory.run_id, "left.txt")[0] == 0
    assert states(directory) == {"stored", "pending"}
    assert [one.state for one in pushing.push_marked(home)] == ["stored"]
    assert open_store(store).read(f"ExperimentRun/{directory.run_id}/rescued/left.txt") == b"left"
    assert states(directory) == {"stored"}


def test_two_machines_may_have_runs_of_the_same_id(home: str, store: str, tmp_path: Path) -> None:
    one = ended_run(home, {"a": b"one"})
    other = str(tmp_path / "other")
    two = ended_run(other, {"a": b"two"})
    two = _renamed(two, one.run_id)
    for directory in (one, two):
        push(directory, store)
    uuids = {runs.load_record(directory).uuid for directory in (one, two)}
    assert len(uuids) == 2
    for place in (home, other, str(tmp_path / "third")):
        syncing.sync(place, store)
        found = runs.all_directories(place)
        assert {runs.load_record(directory).uuid for directory in found} == uuids
        assert {artifacts.read_artifact(directory, "a") for directory in found} == {b"one", b"two"}
        assert runs.check(place) == []
    # what another machine has of this id never became this machine's
    assert artifacts.read_artifact(one, "a") == b"one"


def _renamed(directory: RunDirectory, run_id: str) -> RunDirectory:
    """The same run as if it had been submitted in another millisecond."""
    home, old = directory.home, directory.run_id
    path = os.path.dirname(directory.path) + "/" + run_id
    for folder in ("ids", "dirty"):
        shutil.rmtree(f"{home}/{folder}")
        os.mkdir(f"{home}/{folder}")
    os.rename(directory.path, path)
    os.rename(f"{home}/artifacts/ExperimentRun/{old}", f"{home}/artifacts/ExperimentRun/{run_id}")
    for name in ("run.json", "artifacts.json"):
        document = unseal(Path(path, name).read_bytes(), name)
        Path(path, name).write_bytes(seal(json.loads(json.dumps(document).replace(old, run_id))))
    enter(RunDirectory(path))
    return RunDirectory(path)


def test_A17_what_is_over_a_limit_is_refused_before_anything_is_sent_and_others_are_told(
    home: str, store: str, tmp_path: Path
) -> None:
    directory = submit(home)
    write(directory.started_json, {"format": 1})
    outputs = Path(directory.work) / "outputs"
    for number in range(30):
        (outputs / f"{number:02}").write_bytes(b"x" * 100)
    bomb = outputs / "00.zip"
    bomb.write_bytes(b"PK\x03\x04" + b"\0" * 200)
    os.truncate(outputs / "29", 3 << 30)
    limits = Limits(files=20, bytes=1500)
    kept = artifacts.collect(directory, limits=limits)
    assert {item.code for item in kept.rejected} == {"artifact.too_many", "artifact.too_big"}
    runs.write_record(
        directory, runs.load_record(directory).replace(status="Completed", artifacts=kept.count)
    )
    assert push(directory, store).state == "partial"
    there = {one.key: one.size for one in open_store(store).list(f"ExperimentRun/{directory.run_id}/outputs")}
    assert len(there) == kept.count
    assert max(there.values()) == 204  # an archive is bytes like any other
    other = str(tmp_path / "other")
    syncing.sync(other, store)
    seen = artifacts.read_manifest(runs.find(directory.run_id, other))
    assert seen is not None
    assert [(item.path, item.code) for item in seen.rejected] == [
        (item.path, item.code) for item in kept.rejected
    ]
    assert runs.load_record(runs.find(directory.run_id, other)).artifacts_state == "partial"


def test_A19_what_somebody_removed_or_changed_in_the_store_is_found_and_told(
    home: str, store: str, tmp_path: Path
) -> None:
    directory = ended_run(home, {"gone": b"1", "altered": b"2", "shorter": b"333", "whole": b"4"})
    push(directory, store)
    other = str(tmp_path / "other")
    syncing.sync(other, store)
    brought = runs.find(directory.run_id, other)
    assert syncing.check(other) == syncing.check(home) == []
    there, prefix = open_store(store), f"ExperimentRun/{directory.run_id}/outputs"
    there.delete(f"{prefix}/gone")
    for name, data in (("altered", b"x"), ("shorter", b"x")):
        path = tmp_path / "other-bytes"
        path.write_bytes(data)
        fd = os.open(path, os.O_RDONLY)
        there.put(f"{prefix}/{name}", fd)
        os.close(fd)
    found = {finding.message.split()[1]: finding.code for finding in syncing.check(other)}
    assert found == {
        "outputs/gone": "store.gone",
        "outputs/altered": "store.changed",
        "outputs/shorter": "store.changed",
    }
    assert artifacts.read_artifact(brought, "whole") == b"4"
    for name, code in (("gone", "store.gone"), ("altered", "store.corrupt"), ("shorter", "store.corrupt")):
        with pytest.raises(ArtifactError) as caught:
            artifacts.read_artifact(brought, name)
        assert caught.value.code == code
        assert caught.value.hint
        assert not os.path.exists(f"{other}/artifacts/ExperimentRun/{brought.run_id}/outputs/{name}")
    with machine(home, store):
        status, out, _ = aml("check", "--store", "--json")
        assert (status, {one["code"] for one in json.loads(out)}) == (5, {"store.gone", "store.changed"})
        assert aml("push", directory.run_id)[0] == 0  # where the run was made everything is still there
        assert aml("check", "--store")[0] == 0
    assert artifacts.read_artifact(brought, "gone") == b"1"


def test_A19_a_run_that_its_maker_removed_is_told_once_and_keeps_what_was_fetched(
    home: str, store: str, tmp_path: Path
) -> None:
    directory = ended_run(home, {"one": b"1", "two": b"2"})
    push(directory, store)
    other = str(tmp_path / "other")
    syncing.sync(other, store)
    brought = runs.find(directory.run_id, other)
    assert artifacts.read_artifact(brought, "one") == b"1"
    with machine(home, store):
        assert aml("rm", directory.run_id, "--now")[0] == 0
    [found] = syncing.check(other)
    assert (found.code, found.run_id) == ("store.gone", directory.run_id)
    assert f"aml rm {directory.run_id} --now" in found.hint
    assert "aml push" not in found.hint
    assert artifacts.read_artifact(brought, "one") == b"1"


def test_a_file_that_is_damaged_here_is_told_and_keeps_nothing_else_from_the_store(
    home: str, store: str, tmp_path: Path
) -> None:
    directory = ended_run(home, {"good": b"1", "bad": b"2"})
    Path(home, "artifacts/ExperimentRun", directory.run_id, "outputs/bad").write_bytes(b"3")
    done = push(directory, store)
    assert done.state == "partial"
    assert runs.load_record(directory).artifacts_state == "partial"
    other = str(tmp_path / "other")
    syncing.sync(other, store)
    brought = runs.find(directory.run_id, other)
    assert artifacts.read_artifact(brought, "good") == b"1"
    with pytest.raises(ArtifactError) as caught:
        artifacts.read_artifact(brought, "bad")
    assert caught.value.code == "store.corrupt"


SECRET = "planted-4f1c"


def test_X2_no_secret_reaches_a_store_and_none_of_a_store_is_kept(
    project: Path, home: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.put(None, settings.STORE, store)
    (project / "aml_config").mkdir()
    (project / "aml_config/local.compute").write_text(f"type: local\npassword: {SECRET}\n")
    (project / "aml_config/local.runconfig").write_text(
        "Target: local\nFramework: Python\n"
        f"EnvironmentVariables:\n  TOKEN: {SECRET}-configured\n  EPOCHS: '3'\n"
    )
    (project / ".env").write_text(f"KEY={SECRET}\n")
    monkeypatch.setenv("MY_KEY", SECRET)
    for number in range(50):
        monkeypatch.setenv(f"KEY_{number}", f"{SECRET}-{number}")
    given = [word for number in range(0, 50, 2) for word in ("-e", f"KEY_{number}")]
    monkeypatch.setenv("AZURE_STORAGE_KEY", SECRET)
    (project / "vars").write_text(f"FROM_FILE={SECRET}\n")
    status, _, told = aml(
        "run", "local", "train.py", "-e", "MY_KEY", "-e", f"OTHER={SECRET}", "--env-file", "vars",
        "--exclude", "vars", *given,
    )  # fmt: skip
    assert status == 0, told
    directory = runs.find("@last", home)
    assert stored(directory) == "stored"
    there = open_store(store)
    keys = [one.key for root in ("ExperimentRun", "Snapshots", "Locks", "Runs") for one in there.list(root)]
    blobs = {key: there.read(key) for key in keys}
    assert len(blobs) > 8
    # what a run configuration sets stands in the project, which the snapshot is; it stands nowhere else
    request = json.loads(blobs[f"ExperimentRun/{directory.run_id}/.aml/job/request.json"])
    assert request["environment"]["EPOCHS"] == "3"
    found = [name for name, data in blobs.items() if SECRET.encode() in data or SECRET in name]
    assert [name for name in found if not name.startswith("Snapshots/")] == []
    for name in found:
        assert blobs[name].count(SECRET.encode()) == blobs[name].count(f"{SECRET}-configured".encode())
    with machine(str(tmp_path / "other"), store) as other:
        assert aml("runs", "--from-store")[0] == 0
        assert aml("get", directory.run_id, "-d", str(tmp_path / "got"))[0] == 0
    for folder in (home, other):
        assert [name for name, data in all_files(Path(folder)).items() if KEY.encode() in data] == []


def test_a_run_that_goes_on_is_not_stored_and_one_that_is_gone_is_forgotten(home: str, shared: Path) -> None:
    directory = submit(home)
    with pytest.raises(HistoryError) as caught:
        pushing.push_run(directory)
    assert caught.value.code == "run.alive"
    pending.mark(home, directory.run_id, f"folder://{shared}")
    [done] = pushing.push_marked(home)
    assert done.error["code"] == "run.alive"
    assert os.listdir(shared) == []
    runs.remove(directory)
    assert list(pushing.push_marked(home, now=True)) == []
    assert pending.all_marks(home) == []


def test_one_store_that_fails_is_asked_once_and_the_others_are_not_held_up(home: str, shared: Path) -> None:
    directories = [ended_run(home, {"a": b"1"}) for _ in range(3)]
    bad, good = f"folder://{shared}/none", f"folder://{shared}"
    for directory, store in zip(directories, (bad, bad, good), strict=True):
        pending.mark(home, directory.run_id, store)
    done = {one.run_id: one.state for one in pushing.push_marked(home)}
    assert [done[one.run_id] for one in directories] == ["pending", "pending", "stored"]
    assert not any(mark.due for mark in pending.all_marks(home))
    assert list(pushing.push_marked(home)) == []


def test_a_run_that_cannot_be_packed_here_keeps_no_other_from_its_store(
    home: str, shared: Path, project: Path
) -> None:
    (project / "large.bin").write_bytes(os.urandom(1 << 20))
    taken = Store(home + "/snapshots").take(str(project), Rules())
    large = ended_run(home, {"a": b"1"}, snapshot_id=taken.id)
    good = ended_run(home, {"a": b"1"})
    for one in (large, good):
        pending.mark(home, one.run_id, f"folder://{shared}")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # no file of this process may be larger: a folder for temporary files that is too small
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, before[1]))
    try:
        done = {one.run_id: one for one in pushing.push_marked(home)}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done[good.run_id].state == "stored"
    assert done[large.run_id].state == "pending"
    [mark] = pending.all_marks(home)
    assert (mark.run_id, mark.tries, mark.due) == (large.run_id, 1, False)
    assert os.strerror(errno.EFBIG) in mark.error["message"]
    assert [one.state for one in pushing.push_marked(home, now=True)] == ["stored"]


def test_a_file_that_is_rescued_while_an_ending_is_written_is_stored_as_well(home: str, shared: Path) -> None:
    settings.put(None, settings.STORE, f"folder://{shared}")
    directory = ended_run(home, {"a": b"1"})
    ending = threading.Thread(target=lambda: pending.expect(directory, runs.load_record(directory)))
    with collecting_lock(directory):
        ending.start()
        ending.join(0.3)
        manifest = artifacts.read_manifest(directory)
        assert manifest
        more = manifest.files[0].replace(path="outputs/b", key=manifest.files[0].key.replace("/a", "/b"))
        artifacts.write_manifest(directory, manifest.replace(files=(*manifest.files, more)))
    ending.join()
    assert {item.path: item.state for item in artifacts.listing(directory)} == {
        "outputs/a": "pending",
        "outputs/b": "pending",
    }


def test_push_all_stores_what_was_made_before_a_store_was_set(home: str, shared: Path) -> None:
    old = [ended_run(home, {"a": b"1"}) for _ in range(2)]
    settings.put(None, settings.STORE, f"folder://{shared}")
    status, out, _ = aml("push", "--all", "--json")
    assert status == 0
    assert {one["run_id"] for one in json.loads(out)} == {one.run_id for one in old}
    assert json.loads(aml("push", "--all", "--json")[1]) == []


def test_a_run_moves_to_another_store_with_what_only_the_old_one_has(
    home: str, store: str, shared: Path
) -> None:
    directory = ended_run(home, {"a": b"1", "b": b"2"})
    push(directory, store)
    for item in artifacts.listing(directory):
        artifacts.store_of(directory).delete(item.key)
    another = shared / "another"
    another.mkdir()
    assert push(directory, f"folder://{another}").state == "stored"
    there = another / f"ExperimentRun/{directory.run_id}/outputs"
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {"a": b"1", "b": b"2"}
    assert artifacts.read_artifact(directory, "a") == b"1"


def test_a_damaged_mark_or_place_is_no_reason_to_lose_a_run(home: str, shared: Path) -> None:
    settings.put(None, settings.STORE, f"folder://{shared}")
    directory = ended_run(home, {"a": b"1"})
    for damage in (b"", b"{", b"[]", b'{"next": "x"}', b'{"tries": [], "error": 3}', b"\xff"):
        os.makedirs(home + "/push", exist_ok=True)
        Path(home, "push", directory.run_id).write_bytes(damage)
        assert [one.state for one in pushing.push_marked(home, now=True)] == ["stored"], damage
    Path(directory.path, "remote.json").write_bytes(b"no json")
    assert aml("push", directory.run_id)[0] == 0
    assert place_of(directory) is not None


def test_a_setting_that_names_no_store_is_refused_with_what_there_is(home: str, project: Path) -> None:
    for url in ("azblob://x", "nonsense", "folder://relative", "azblob://k:secret@c"):
        with pytest.raises(AmlError) as caught:
            aml("config", "set", "artifacts.store", url)
        assert caught.value.hint
        assert "secret" not in str(caught.value)
    assert settings.value(None, settings.STORE) is None
    assert aml("config", "set", "artifacts.store", "azblob://azureml/team")[0] == 0


def test_brought_runs_are_compared_and_are_inputs_of_later_ones_without_a_word(
    project: Path, home: str, store: str, tmp_path: Path
) -> None:
    settings.put(None, settings.STORE, store)
    first = run_script()
    (project / "train.py").write_text((project / "train.py").read_text().replace("trained", "other"))
    second = run_script()
    assert {stored(first), stored(second)} == {"stored"}
    (project / "use.py").write_text("import sys; print(open('inputs/model/model.pkl').read())\n")
    with machine(str(tmp_path / "other"), store):
        assert aml("history", "sync", "--all-projects")[0] == 0
        status, out, _ = aml("diff", first.run_id, second.run_id)
        assert status in (0, 1)
        assert "train.py" in out
        assert "+print('other')" in out
        status, _, told = aml(
            "run", "local", "use.py", "-q", "--input", f"model={first.run_id}:outputs/model.pkl"
        )
        assert (status, "") == (0, told.partition("RunId")[0])
        assert aml("logs")[1] == "model\n"
        assert stored(runs.find("@last", os.environ["AML_HOME"])) == "none"
