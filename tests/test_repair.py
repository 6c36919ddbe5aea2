"""`aml check --repair`: what can be mended is, what cannot is told, and nothing is deleted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aml_jupyter import artifacts, experiment, pushing, retention, runs, syncing
from aml_jupyter.artifacts import FolderStore, Stored
from aml_jupyter.artifacts.remote import place_of, write_place
from aml_jupyter.errors import ArtifactError, UsageError
from aml_jupyter.locks import exclusive
from aml_jupyter.retention import original
from aml_jupyter.retention import repair as mending
from aml_jupyter.retention.repair import Repaired, repair
from aml_jupyter.runs import History, RunDirectory, trash
from aml_jupyter.sealed import seal, unseal
from aml_jupyter.snapshot import Rules, Store
from tests.made_runs import ended_identity, finished, started, submit
from tests.stored_runs import ended_run
from tests.test_trash import aml, files_below, with_artifacts


@pytest.fixture
def project(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder is the project of the runs."""
    folder = tmp_path / "iris"
    folder.mkdir()
    (folder / "train.py").write_text("print(1)\n")
    (folder / "data.csv").write_text("1,2\n" * 10)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def team(tmp_path: Path) -> str:
    """The address of a store."""
    (tmp_path / "team").mkdir()
    return f"folder://{tmp_path}/team"


def codes(home: str) -> list[str]:
    return sorted(finding.code for finding in retention.check(home))


def mended(home: str) -> Repaired:
    return repair(home, experiment.resume)


def flip(path: str) -> bytes:
    """Change one bit in the middle of a file; what it held before."""
    data = Path(path).read_bytes()
    middle = len(data) // 2
    Path(path).write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    return data


def aside(home: str) -> list[str]:
    return list(files_below(home + "/damaged"))


def test_a_sound_history_is_left_alone(home: str, project: Path) -> None:
    with_artifacts(home)
    with History(home) as history:
        history.refresh()
    before = files_below(home)
    assert mended(home) == Repaired()
    assert files_below(home) == before
    assert aml("check", "--repair") == (0, "", "aml: no damage found\n")
    with pytest.raises(UsageError):
        aml("check", "--dry-run")


def test_H6_an_index_that_lies_and_ids_that_are_gone_are_made_anew(home: str) -> None:
    import sqlite3

    directory, other = finished(home), finished(home)
    with History(home) as history:
        assert history.count() == 2
    db = sqlite3.connect(home + "/index.sqlite")
    db.execute("UPDATE runs SET status = 'Failed' WHERE run_id = ?", [directory.run_id])
    db.commit()
    db.close()
    os.unlink(f"{home}/ids/{other.run_id}")
    Path(f"{home}/ids/gone_1").write_text("runs/local/default/iris/gone_1\n")
    os.utime(f"{home}/ids/gone_1", (0, 0))
    Path(f"{home}/dirty/gone_2").touch()
    os.utime(f"{home}/dirty/gone_2", (0, 0))
    assert codes(home) == ["id.missing", "id.orphan", "index.differs"]
    would = repair(home, experiment.resume, dry_run=True)
    assert len(would.left) == 3
    assert codes(home) == ["id.missing", "id.orphan", "index.differs"]
    done = mended(home)
    assert done.left == ()
    assert {step.code for step in done.steps} >= {"id.missing", "id.orphan", "index.differs"}
    assert retention.check(home) == []
    assert os.path.exists(f"{home}/ids/{other.run_id}")


def test_a_removal_and_a_move_that_were_killed_are_finished(home: str) -> None:
    removed, moved = with_artifacts(home), with_artifacts(home)
    os.rename(removed.path, f"{os.path.dirname(removed.path)}/.removing-{removed.run_id}")
    runs.mark_changed(removed)
    there = trash.throw_away(moved)
    store = f"artifacts/ExperimentRun/{moved.run_id}"
    os.rename(f"{home}/trash/{store}", f"{home}/{store}")
    done = mended(home)
    assert done.left == ()
    assert {step.code for step in done.steps} == {"run.half_removed", "trash.unsettled"}
    assert os.listdir(home + "/artifacts/ExperimentRun") == []
    assert artifacts.read_artifact(trash.bring_back(there), "model.pkl") == b"model " * 100


def test_A19_artifacts_are_fetched_again_from_the_store_and_damaged_ones_set_aside(
    home: str, team: str
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    folder = f"{home}/artifacts/ExperimentRun/{directory.run_id}/outputs"
    flip(f"{folder}/model.pkl")
    damaged = Path(f"{folder}/model.pkl").read_bytes()
    done = mended(home)
    assert done.left == ()
    assert [step.code for step in done.steps] == ["artifact.corrupt"]
    assert artifacts.read_artifact(directory, "model.pkl") == b"model " * 100
    (name,) = aside(home)
    assert files_below(home + "/damaged")[name] == damaged


def test_nobody_waits_for_the_store_while_an_artifact_is_fetched_and_the_damaged_one_stays_until_then(
    home: str, team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    path = f"{home}/artifacts/ExperimentRun/{directory.run_id}/outputs/model.pkl"
    flip(path)
    damaged = Path(path).read_bytes()
    seen = []
    real = FolderStore.fetch

    def fetch(*given: Any, **named: Any) -> Stored:
        with exclusive(directory.path + "/artifacts.lock", 0.0):
            seen.append(Path(path).read_bytes())
        return real(*given, **named)

    monkeypatch.setattr(FolderStore, "fetch", fetch)
    assert mended(home).left == ()
    assert seen == [damaged]
    assert Path(path).read_bytes() == b"model " * 100
    assert os.listdir(f"{home}/artifacts/.partial") == []


@pytest.mark.parametrize("change", ["list", "file", "store"])
def test_an_artifact_that_changes_while_it_is_fetched_is_left_alone(
    home: str, team: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    path = f"{home}/artifacts/ExperimentRun/{directory.run_id}/outputs/model.pkl"
    flip(path)
    before = Path(path).read_bytes()
    real = FolderStore.fetch

    def fetch(*given: Any, **named: Any) -> Stored:
        found = real(*given, **named)
        manifest = artifacts.read_manifest(directory)
        assert manifest
        if change == "list":
            files = tuple(one.replace(sha256="0" * 64) for one in manifest.files)
            artifacts.write_manifest(directory, manifest.replace(files=files))
        elif change == "file":
            Path(path).write_bytes(b"another")
        else:
            raise ArtifactError("it is gone", code="store.unavailable")
        return found

    with monkeypatch.context() as changing:
        changing.setattr(FolderStore, "fetch", fetch)
        assert [one.code for one in mended(home).steps] == []
    assert Path(path).read_bytes() == (b"another" if change == "file" else before)
    assert aside(home) == []
    if change != "list":
        assert mended(home).left == ()
        assert Path(path).read_bytes() == b"model " * 100


def test_a_history_is_listed_once_a_round_and_what_says_of_a_run_is_read_once_for_all_its_damage(
    home: str, team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = {f"f{number}": b"%d" % number for number in range(20)}
    directories = [ended_run(home, outputs) for _ in range(2)]
    for directory in directories:
        pushing.push(directory, team)
        for name in outputs:
            flip(f"{home}/artifacts/ExperimentRun/{directory.run_id}/outputs/{name}")
    found = retention.check(home)
    assert len(found) == 40
    asked: Counter[str] = Counter()

    def counted(what: ModuleType, name: str) -> None:
        real = getattr(what, name)

        def count(*given: Any, **named: Any) -> Any:
            asked[name] += 1
            return real(*given, **named)

        monkeypatch.setattr(what, name, count)

    for what, name in ((runs, "all_directories"), (artifacts, "read_manifest"), (mending, "origin")):
        counted(what, name)
    monkeypatch.setattr(mending, "check", lambda _: found)
    monkeypatch.setattr(mending, "MOST_ROUNDS", 1)
    assert len(mended(home).steps) == 40
    assert asked == {"all_directories": 1, "read_manifest": 2, "origin": 1}
    monkeypatch.undo()
    assert [one for one in retention.check(home) if one.run_id] == []


def test_an_artifact_without_a_store_is_taken_from_a_run_that_kept_the_same_bytes_or_stays_told(
    home: str,
) -> None:
    directory, other = with_artifacts(home), with_artifacts(home)
    folder = f"{home}/artifacts/ExperimentRun/{directory.run_id}/outputs"
    os.unlink(f"{folder}/model.pkl")
    assert codes(home) == ["artifact.missing"]
    done = mended(home)
    assert done.left == ()
    assert other.run_id in done.steps[0].done
    assert artifacts.read_artifact(directory, "model.pkl") == b"model " * 100
    for one in (directory, other):
        flip(f"{home}/artifacts/ExperimentRun/{one.run_id}/outputs/model.pkl")
    before = files_below(home + "/artifacts")
    left = mended(home).left
    assert [finding.code for finding in left] == ["artifact.corrupt"] * 2
    assert all(finding.hint for finding in left)
    assert files_below(home + "/artifacts") == before
    assert aside(home) == []


def test_records_labels_and_lists_come_back_from_the_store(home: str, team: str) -> None:
    directory = with_artifacts(home)
    runs.set_labels(directory, name="best", tags=("a=1",))
    pushing.push(directory, team)
    for path in (directory.run_json, directory.labels_json, directory.artifacts_json):
        flip(path)
    assert "record.corrupt" in codes(home)
    done = mended(home)
    assert done.left == ()
    assert {"record.corrupt", "labels.corrupt", "artifacts.corrupt"} == {step.code for step in done.steps}
    record = runs.read_record(directory)
    assert (record.name, record.status, record.artifacts) == ("best", "Completed", 2)
    assert artifacts.read_artifact(directory, "model.pkl") == b"model " * 100
    assert len(aside(home)) == 3


def say(team: str, directory: RunDirectory, name: str, **changes: Any) -> None:
    """Have the store say something else of a run, with a checksum that fits."""
    path = Path(team.removeprefix("folder://")) / "ExperimentRun" / directory.run_id / ".aml" / name
    path.write_bytes(seal({**unseal(path.read_bytes(), name), **changes}))


def forget_hashes(directory: RunDirectory) -> None:
    """As if the run had been stored without anybody noting what was sent."""
    place = place_of(directory)
    assert place
    write_place(directory, place.replace(sent={}))


def refused(home: str, directory: RunDirectory, *names: str) -> None:
    """What the store says is not taken: the files stay as damaged as they were, and are told."""
    before = {name: Path(f"{directory.path}/{name}").read_bytes() for name in names}
    done = mended(home)
    assert done.steps == ()
    assert done.left != ()
    assert {name: Path(f"{directory.path}/{name}").read_bytes() for name in names} == before
    assert aside(home) == []


STRANGE: list[dict[str, Any]] = [
    {"status": "NotResponding", "reason": "supervisor.gone"},
    {"project": "../../x"},
    {"project": "another"},
    {"account": "another"},
    {"uuid": "12345678-1234-4234-8234-123456789abc"},
    {"run_id": "iris_1"},
    {"metrics": 7},
]


@pytest.mark.parametrize("changes", STRANGE, ids="-".join)
def test_a_record_that_cannot_be_that_of_the_run_is_not_taken_from_the_store(
    home: str, team: str, changes: dict[str, Any]
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    forget_hashes(directory)
    say(team, directory, "run.json", **changes)
    flip(directory.run_json)
    refused(home, directory, "run.json")


def test_a_record_that_is_not_the_one_that_was_stored_from_here_is_not_taken(home: str, team: str) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    say(team, directory, "run.json", supervisor={"executable": "/tmp/evil", "sys_path": []})
    flip(directory.run_json)
    refused(home, directory, "run.json")


def test_no_program_that_a_store_names_comes_into_a_record(home: str, team: str) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    forget_hashes(directory)
    before = runs.load_record(directory)
    say(team, directory, "run.json", supervisor={"executable": "/tmp/evil", "sys_path": []}, more="x")
    flip(directory.run_json)
    assert mended(home).left == ()
    assert runs.load_record(directory) == before.replace(supervisor={})
    assert b"evil" not in Path(directory.run_json).read_bytes()


def test_an_owner_that_the_store_names_and_that_is_not_ours_is_not_believed(home: str, team: str) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    forget_hashes(directory)
    uuid = "12345678-1234-4234-8234-123456789abc"
    say(team, directory, "run.json", uuid=uuid)
    (Path(team.removeprefix("folder://")) / "ExperimentRun" / directory.run_id / ".uuid").write_text(uuid)
    flip(directory.run_json)
    refused(home, directory, "run.json")


@pytest.mark.parametrize(
    "changes",
    [{"files": [{"path": "../../x", "size": 1, "sha256": "a" * 64}]}, {"state": "odd"}, {"files": 7}],
    ids=["name", "state", "none"],
)
def test_a_list_of_artifacts_that_is_none_is_not_taken_from_the_store(
    home: str, team: str, changes: dict[str, Any]
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    forget_hashes(directory)
    say(team, directory, "artifacts.json", **changes)
    flip(directory.artifacts_json)
    refused(home, directory, "artifacts.json")


def test_labels_that_are_none_are_not_taken_from_the_store(home: str, team: str) -> None:
    directory = with_artifacts(home)
    runs.set_labels(directory, name="best")
    pushing.push(directory, team)
    forget_hashes(directory)
    say(team, directory, "labels.json", tags={"a": 1})
    flip(directory.labels_json)
    assert mended(home).left == ()
    assert runs.read_labels(directory) == runs.Labels(pinned=True)


def test_a_log_that_is_larger_than_logs_are_is_not_fetched(
    home: str, team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = with_artifacts(home)
    Path(directory.events_jsonl).write_text('{"seq": 1}\n')
    pushing.push(directory, team)
    Path(directory.events_jsonl).write_text("{damaged\n")
    assert codes(home) == ["events.corrupt"]
    with monkeypatch.context() as smaller:
        smaller.setattr(original, "LARGEST", 5)
        refused(home, directory, "job/events.jsonl")
    assert mended(home).left == ()
    assert Path(directory.events_jsonl).read_text() == '{"seq": 1}\n'


def pulled(home: str, team: str) -> RunDirectory:
    """The one run of a store, on another computer."""
    [run_id] = syncing.sync(home, team).pulled
    found = runs.at(home, run_id)
    assert found
    return found


def test_a_run_of_a_colleague_keeps_its_origin_when_its_record_list_and_log_are_brought_back(
    home: str, team: str, tmp_path: Path
) -> None:
    directory = with_artifacts(home)
    Path(directory.events_jsonl).write_text('{"seq": 1}\n')
    pushing.push(directory, team)
    other = f"{tmp_path}/other"
    there = pulled(other, team)
    syncing.complete(there)
    before = runs.load_record(there)
    for path in (there.run_json, there.labels_json, there.artifacts_json):
        flip(path)
    Path(there.events_jsonl).write_text("{damaged\n")
    assert mended(other).left == ()
    after = runs.load_record(there)
    assert after.properties["origin"] == team
    assert after.properties["origin_run_id"] == directory.run_id
    assert {**after.properties, "pulled": ""} == {**before.properties, "pulled": ""}
    assert after.replace(properties={}) == before.replace(properties={})
    assert Path(there.events_jsonl).read_text() == '{"seq": 1}\n'
    assert artifacts.read_artifact(there, "model.pkl") == b"model " * 100
    # its labels are still known to be those of the store: a change there is taken over
    runs.set_labels(directory, name="best")
    pushing.push(directory, team)
    assert syncing.sync(other, team).updated == (there.run_id,)
    assert runs.read_labels(there).name == "best"


def test_a_run_of_a_colleague_whose_id_was_taken_here_is_mended_too(
    home: str, team: str, tmp_path: Path
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    other = f"{tmp_path}/other"
    mine = f"{other}/runs/local/default/iris/{directory.run_id}"
    shutil.copytree(directory.path, mine)
    os.unlink(f"{mine}/remote.json")
    os.unlink(f"{mine}/artifacts.json")
    os.makedirs(f"{other}/ids")
    uuid = "12345678-1234-4234-8234-123456789abc"
    record = runs.load_record(directory)
    Path(f"{mine}/run.json").write_bytes(seal(record.replace(uuid=uuid, artifacts=0).to_json()))
    runs.directory.enter(RunDirectory(mine))
    there = pulled(other, team)
    assert there.run_id == f"{directory.run_id}-{record.uuid[:4]}"
    for path in (there.run_json, there.artifacts_json):
        flip(path)
    assert mended(other).left == ()
    after = runs.load_record(there)
    assert (after.run_id, after.uuid) == (there.run_id, record.uuid)
    assert after.properties["origin_run_id"] == directory.run_id
    assert artifacts.read_artifact(there, "model.pkl") == b"model " * 100
    assert runs.load_record(RunDirectory(mine)).uuid == uuid


def test_a_run_that_lost_its_record_is_kept_by_gc_and_gets_it_from_the_store(
    home: str, team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    os.unlink(directory.run_json)
    os.utime(directory.path, (time.time() - 3600,) * 2)
    assert "record.missing" in codes(home)
    now = time.time
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: now() + 3600)
        assert retention.collect_garbage(home).half_made == 0
    assert os.path.exists(directory.artifacts_json)
    assert mended(home).left == ()
    assert artifacts.read_artifact(directory, "model.pkl") == b"model " * 100


def test_labels_that_nobody_else_has_are_set_aside_and_the_run_is_pinned(home: str) -> None:
    directory = finished(home)
    runs.set_labels(directory, name="best", pinned=True)
    flip(directory.labels_json)
    assert codes(home) == ["labels.corrupt"]
    assert mended(home).left == ()
    assert runs.read_labels(directory).pinned
    (name,) = aside(home)
    assert b"best" in files_below(home + "/damaged")[name]


def test_a_record_that_nobody_else_has_is_beyond_repair_and_the_next_step_is_said(
    home: str, project: Path
) -> None:
    directory = finished(home)
    flip(directory.run_json)
    status, out, told = aml("check", "--repair")
    assert status == 5
    assert "beyond repair" in told
    assert "aml rm removes the run" in out
    assert os.path.exists(directory.run_json)
    found = json.loads(aml("check", "--repair", "--dry-run", "--json")[1])
    assert [one["code"] for one in found["left"]] == ["record.corrupt"]
    assert found["dry_run"] is True


def taken(home: str, project: Path, **fields: Any) -> RunDirectory:
    """A run with a snapshot of the project."""
    found = Store(home + "/snapshots").take(str(project), Rules())
    return finished(home, snapshot_id=found.id, project_root=str(project), **fields)


def packs(home: str) -> list[str]:
    return [f"{home}/snapshots/packs/{name}" for name in sorted(os.listdir(f"{home}/snapshots/packs"))]


def test_a_damaged_snapshot_comes_back_from_the_project_it_was_taken_of(home: str, project: Path) -> None:
    (project / "large.bin").write_bytes(os.urandom(2 << 20))
    directory = taken(home, project)
    store, snapshot_id = Store(home + "/snapshots"), runs.load_record(directory).snapshot_id
    (pack,) = packs(home)
    data = Path(pack).read_bytes()
    Path(pack).write_bytes(data.replace(b"print(1)", b"print(2)"))
    (large,) = os.listdir(home + "/snapshots/objects")
    flip(f"{home}/snapshots/objects/{large}")
    assert codes(home) == ["snapshot.corrupt"] * 2
    done = mended(home)
    assert done.left == ()
    assert store.read(snapshot_id, "train.py") == b"print(1)\n"
    assert store.read(snapshot_id, "large.bin") == (project / "large.bin").read_bytes()
    assert len(aside(home)) == 2


def test_a_damaged_snapshot_comes_back_from_the_store_where_the_project_has_gone_on(
    home: str, project: Path, team: str
) -> None:
    directory = taken(home, project)
    pushing.push(directory, team)
    store, snapshot_id = Store(home + "/snapshots"), runs.load_record(directory).snapshot_id
    (project / "train.py").write_text("print('another')\n")
    (project / "data.csv").unlink()
    flip(packs(home)[0])
    flip(f"{home}/snapshots/manifests/{snapshot_id}")
    assert "snapshot.corrupt" in codes(home)
    assert mended(home).left == ()
    assert store.read(snapshot_id, "train.py") == b"print(1)\n"
    assert store.read(snapshot_id, "data.csv") == b"1,2\n" * 10


def test_a_snapshot_that_nobody_has_stays_told_and_what_is_whole_of_it_stays(
    home: str, project: Path
) -> None:
    directory = taken(home, project)
    store, snapshot_id = Store(home + "/snapshots"), runs.load_record(directory).snapshot_id
    (pack,) = packs(home)
    Path(pack).write_bytes(Path(pack).read_bytes().replace(b"print(1)", b"print(2)"))
    (project / "train.py").write_text("print('another')\n")
    left = mended(home).left
    assert [finding.code for finding in left] == ["snapshot.corrupt"]
    assert store.read(snapshot_id, "data.csv") == b"1,2\n" * 10
    assert any(b"print(2)" in data for data in files_below(home + "/damaged").values())


def test_a_run_whose_job_has_ended_unseen_gets_its_ending(home: str, project: Path) -> None:
    directory = submit(home, target="local")
    started(directory, ended_identity())
    now = runs.utc()
    exit_ = {
        "format": 1, "run_id": directory.run_id, "exit_code": 3, "signal": None, "oom": False,
        "timeout": False, "cancel": None, "start_utc": now, "end_utc": now, "duration": 0.5,
        "log_bytes": 0, "log_dropped": 0, "events": 0, "leftovers": [],
    }  # fmt: skip
    Path(directory.exit_json).write_text(json.dumps(exit_))
    Path(directory.log).touch()
    Path(directory.run_json).touch()
    os.utime(directory.run_json, (time.time() - 60,) * 2)
    assert runs.read_record(directory).status == "NotResponding"
    resumed: list[RunDirectory] = []

    def resume(one: RunDirectory) -> None:
        resumed.append(one)
        experiment.resume(one)

    done = repair(home, resume)
    assert resumed == [directory]
    assert [step.code for step in done.steps if step.run_id == directory.run_id] == ["run.unfinished"]
    record = runs.read_record(directory)
    assert (record.status, record.exit_code) == ("Failed", 3)


def test_A19_what_somebody_changed_in_the_store_is_stored_again_from_here(
    home: str, team: str, project: Path
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    there = Path(team.removeprefix("folder://")) / "ExperimentRun" / directory.run_id
    whole = files_below(str(there))
    (there / "outputs/model.pkl").write_bytes(b"MODEL " * 100)
    (there / "outputs/sub/é%.txt").unlink()
    (there / ".aml/run.json").unlink()
    assert aml("check") == (0, "", "aml: no damage found\n")
    assert aml("check", "--store")[0] == 5
    status, out, _ = aml("check", "--repair", "--store", "--json")
    assert status == 0
    assert {step["code"] for step in json.loads(out)["steps"]} == {"store.gone", "store.changed"}
    assert files_below(str(there)) == whole


def test_a_note_for_a_store_that_cannot_be_read_is_told_and_set_aside(
    home: str, team: str, project: Path
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    os.rename(team.removeprefix("folder://"), team.removeprefix("folder://") + "-away")
    assert "still in its store" in aml("rm", directory.run_id, "--now")[2]
    flip(f"{home}/tombstones/{directory.run_id}.json")
    assert codes(home) == ["tombstone.corrupt"]
    assert mended(home).left == ()
    assert len(aside(home)) == 1


def test_H5_any_flipped_bit_of_any_file_is_mended_or_told_and_no_bytes_are_lost(
    home: str, team: str, project: Path
) -> None:
    """Every file that a run left in the home is damaged in turn."""
    directory = taken(home, project)
    outputs = Path(directory.work) / "outputs"
    (outputs / "a").write_bytes(b"artifact")
    manifest = artifacts.collect(directory)
    runs.write_record(
        directory, runs.load_record(directory).replace(artifacts=manifest.count, artifacts_state="stored")
    )
    runs.set_labels(directory, name="n")
    pushing.push(directory, team)
    assert retention.check(home) == []
    for path in (
        directory.run_json,
        directory.labels_json,
        directory.artifacts_json,
        f"{home}/artifacts/{manifest.prefix}/outputs/a",
        packs(home)[0],
    ):
        flip(path)
        damaged = Path(path).read_bytes()
        assert codes(home) != []
        done = mended(home)
        assert done.left == (), path
        assert damaged in files_below(home + "/damaged").values()
        assert artifacts.read_artifact(directory, "a") == b"artifact"


def test_the_repair_of_a_program_prints_json(home: str, project: Path) -> None:
    finished(home)
    done = subprocess.run(
        [sys.executable, "-m", "aml_jupyter.cli", "check", "--repair", "--json"],
        capture_output=True,
        env={**os.environ, "AML_HOME": home},
        timeout=60,
    )
    assert (done.returncode, json.loads(done.stdout)) == (0, {"dry_run": False, "steps": [], "left": []})
