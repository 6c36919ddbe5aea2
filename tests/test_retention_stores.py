"""What is removed here is gone in its store too; copies that a store has can be dropped."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import artifacts, pending, pushing, retention, runs, syncing
from aml_jupyter.artifacts.remote import place_of, write_place
from aml_jupyter.artifacts.store import FolderStore
from aml_jupyter.config import settings
from aml_jupyter.errors import ArtifactError, UsageError
from aml_jupyter.retention import copies, remote
from aml_jupyter.runs import RunDirectory, trash
from aml_jupyter.sealed import seal
from aml_jupyter.snapshot import Rules, Store
from tests.stored_runs import ended_run
from tests.test_syncing import Failing
from tests.test_trash import aml, listed, with_artifacts


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A folder that serves as a store for a team."""
    folder = tmp_path / "team"
    folder.mkdir()
    return folder


@pytest.fixture
def project(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder is the project of the runs."""
    folder = tmp_path / "iris"
    folder.mkdir()
    (folder / "train.py").write_text("print(1)\n")
    monkeypatch.chdir(folder)
    return folder


def stored(home: str, team: Path, **fields: Any) -> RunDirectory:
    """A run with two artifacts that a store has."""
    directory = with_artifacts(home, **fields)
    assert pushing.push(directory, f"folder://{team}").state == "stored"
    return directory


def there(team: Path) -> list[str]:
    return sorted(str(one.relative_to(team)) for one in team.rglob("*") if one.is_file())


def test_a_run_in_the_trash_stays_in_its_store_until_it_goes_for_good(
    home: str, project: Path, team: Path
) -> None:
    directory, other = stored(home, team), stored(home, team)
    before = there(team)
    aml("rm", directory.run_id)
    aml("gc")
    assert there(team) == before
    aml("undelete", directory.run_id)
    aml("rm", directory.run_id)
    aml("gc", "--empty-trash")
    assert not [name for name in there(team) if directory.run_id in name]
    assert [name for name in there(team) if other.run_id in name]
    assert list(remote.tombstones(home)) == []
    aml("rm", other.run_id, "--now")
    assert not [name for name in there(team) if other.run_id in name]
    assert list(remote.tombstones(home)) == []


def test_A17_a_removal_that_cannot_reach_the_store_is_done_by_the_next_collection(
    home: str, project: Path, team: Path
) -> None:
    directory = stored(home, team)
    away = team.with_name("unmounted")
    team.rename(away)
    _, _, told = aml("rm", directory.run_id, "--now")
    assert f"{directory.run_id} is still in its store" in told
    assert listed(home) == []
    (note,) = remote.tombstones(home)
    assert note.run_id == directory.run_id
    assert directory.run_id in aml("gc", "--dry-run")[2]
    away.rename(team)
    # nobody brings it back meanwhile
    found = syncing.sync(home, f"folder://{team}", None)
    assert found.pulled == ()
    aml("push")
    assert not [name for name in there(team) if directory.run_id in name]
    assert list(remote.tombstones(home)) == []


def test_a_snapshot_goes_from_the_store_with_the_last_run_that_needs_it(
    home: str, project: Path, team: Path
) -> None:
    taken = Store(home + "/snapshots").take(str(project), Rules())
    first, second = stored(home, team, snapshot_id=taken.id), stored(home, team, snapshot_id=taken.id)
    key = team / "Snapshots" / taken.id
    assert key.is_file()
    aml("rm", first.run_id, "--now")
    aml("gc")
    assert key.is_file()
    aml("rm", second.run_id, "--now")
    assert key.is_file()
    # a colleague's run that is not whole yet may need it
    half = team / "ExperimentRun/other_1"
    half.mkdir()
    (half / ".uuid").write_text("x")
    aml("gc")
    assert key.is_file()
    (half / ".uuid").unlink()
    half.rmdir()
    aml("gc")
    assert not key.exists()
    assert there(team) == []


def test_a_run_that_was_brought_from_a_store_stays_there_unless_a_person_says_otherwise(
    home: str, project: Path, team: Path
) -> None:
    first, second = stored(home, team), stored(home, team)
    for one in (first, second):
        place = place_of(one)
        assert place
        write_place(one, place.replace(pulled=True))
    aml("rm", first.run_id, "--now")
    assert [name for name in there(team) if first.run_id in name]
    with pytest.raises(UsageError):
        aml("rm", second.run_id, "--store")
    aml("rm", second.run_id, "--now", "--store")
    assert not [name for name in there(team) if second.run_id in name]


def test_a_tombstone_of_a_run_that_is_still_here_removes_nothing_in_the_store(
    home: str, project: Path, team: Path
) -> None:
    directory = stored(home, team)
    before = there(team)
    assert remote.bury(directory)
    assert remote.clear(home) == remote.Cleared()
    assert there(team) == before
    (note,) = remote.tombstones(home)
    remote._write(home, note.replace(seconds=time.time() - 3600))
    remote.clear(home)
    assert list(remote.tombstones(home)) == []
    assert there(team) == before


def test_copies_go_only_when_the_store_has_the_same_bytes_and_come_back_when_asked_for(
    home: str, project: Path, team: Path
) -> None:
    directory, other, local = stored(home, team), stored(home, team), with_artifacts(home)
    changed = team / f"ExperimentRun/{other.run_id}/outputs/model.pkl"
    changed.write_bytes(b"MODEL " * 100)
    (team / f"ExperimentRun/{other.run_id}/outputs/sub/é%.txt").unlink()
    status, out, _ = aml("gc", "--drop-local", "--dry-run")
    assert "4 copies" in out
    status, out, told = aml("gc", "--drop-local")
    assert status == 0
    assert "2 copies (604 B) of 1 run went" in out
    assert "its bytes have changed" in told
    assert "it is missing" in told
    kept = artifacts.store_of(directory)
    for one, here in ((directory, False), (other, True), (local, True)):
        manifest = artifacts.read_manifest(one)
        assert manifest
        assert [kept.stat(item.key) is not None for item in manifest.stored] == [here, here]
    assert retention.check(home) == []
    assert artifacts.read_artifact(directory, "model.pkl") == b"model " * 100
    assert retention.check(home) == []
    assert copies.drop_copies(home, age=3600.0) == []
    runs.pin(directory)
    aml("gc", "--drop-local")
    manifest = artifacts.read_manifest(directory)
    assert manifest
    assert kept.stat(f"{manifest.prefix}/outputs/model.pkl")


def test_nothing_is_dropped_while_the_store_does_not_answer(home: str, project: Path, team: Path) -> None:
    directory = stored(home, team)
    os.rename(team, f"{team}-away")
    (found,) = copies.drop_copies(home)
    assert found.files == 0
    assert len(found.kept) == 2
    assert artifacts.read_artifact(directory, "model.pkl") == b"model " * 100


def test_a_run_whose_copies_were_dropped_comes_back_from_the_trash(
    home: str, project: Path, team: Path
) -> None:
    directory = stored(home, team)
    aml("gc", "--drop-local")
    aml("rm", directory.run_id)
    assert trash.is_trashed(home, directory.run_id)
    aml("undelete", "@last")
    assert artifacts.read_artifact(directory, "model.pkl") == b"model " * 100


def test_a_store_that_fails_while_it_is_asked_what_is_needed_is_asked_for_little_more(team: Path) -> None:
    for number in range(300):
        (team / f"ExperimentRun/other_{number:05}/.aml").mkdir(parents=True)
        (team / f"ExperimentRun/other_{number:05}/.aml/run.json").write_bytes(seal({"snapshot_id": "a"}))
    store = Failing(str(team), answers=2)
    with pytest.raises(ArtifactError):
        remote._needed(store, set(store.children("ExperimentRun")))
    assert store.asked <= 2 * remote.READERS + 4


def test_a_removal_that_fails_for_itself_keeps_no_other_of_its_store_waiting(
    home: str, project: Path, team: Path
) -> None:
    first, second = stored(home, team), stored(home, team)
    # a name that no key has: nothing but this one can be wrong with it
    note = remote.Tombstone(
        run_id="a_1",
        uuid="u",
        store=f"folder://{team}",
        prefix="ExperimentRun/a\\1",
        project_key="local/default/iris",
        seconds=time.time(),
    )
    os.makedirs(home + "/tombstones")
    remote._write(home, note)
    for one in (first, second):
        remote.bury(one)
        runs.remove(one)
    cleared = remote.clear(home)
    assert sorted(cleared.gone) == sorted([first.run_id, second.run_id])
    ((waiting, why),) = cleared.waiting
    assert waiting == "a_1"
    assert why
    (kept,) = remote.tombstones(home)
    assert kept.error == why
    assert there(team) == []


class Killed(FolderStore):
    """A folder whose user is killed as soon as a snapshot is removed."""

    def delete(self, key: str) -> None:
        super().delete(key)
        if key.startswith("Snapshots/"):
            os.kill(os.getpid(), signal.SIGKILL)


def test_A17_a_snapshot_that_is_removed_when_its_remover_is_killed_comes_back(
    home: str, project: Path, team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Store(home + "/snapshots").take(str(project), Rules())
    directory = stored(home, team, snapshot_id=taken.id)
    key = team / "Snapshots" / taken.id
    data = key.read_bytes()
    remote.bury(directory)
    runs.remove(directory)
    child = os.fork()
    if not child:
        monkeypatch.setattr(remote, "origin", lambda _: Killed(str(team), shared=True))
        remote.clear(home, thorough=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not key.exists()
    # a colleague's run that saw it there is whole by now
    other = team / "ExperimentRun/other_1/.aml/run.json"
    other.parent.mkdir(parents=True)
    other.write_bytes(seal({"snapshot_id": taken.id}))
    away = team.with_name("unmounted")
    team.rename(away)
    remote.clear(home)
    away.rename(team)
    assert remote.clear(home).unneeded == ()
    assert key.read_bytes() == data
    assert sorted(os.listdir(home + "/tombstones")) == ["unneeded.json"]
    other.unlink()
    other.parent.rmdir()
    other.parent.parent.rmdir()
    assert remote.clear(home, thorough=True).unneeded == (f"Snapshots/{taken.id}",)
    assert os.listdir(home + "/tombstones") == []
    assert there(team) == []


def test_a_run_that_was_in_the_trash_when_it_was_to_be_stored_is_stored_when_it_is_back(
    home: str, project: Path, team: Path
) -> None:
    without, alone = ended_run(home, {}), ended_run(home, {})
    labelled, same = stored(home, team), stored(home, team)
    brought = stored(home, team)
    place = place_of(brought)
    assert place
    write_place(brought, place.replace(pulled=True, sent={}))
    pending.mark(home, without.run_id, f"folder://{team}")
    runs.set_labels(labelled, note="better")
    directories = (without, alone, labelled, same, brought)
    away = {one.run_id: trash.throw_away(one) for one in directories}
    assert list(pushing.push_marked(home, now=True)) == []
    assert pending.all_marks(home) == []
    # where no store is set, nobody asked for any
    retention.bring_back(away[alone.run_id])
    assert pending.all_marks(home) == []
    settings.put(None, settings.STORE, f"folder://{team}")
    for one in (without, labelled, same, brought):
        retention.bring_back(away[one.run_id])
    done = {one.run_id for one in pushing.push_marked(home) if one.ended}
    assert done == {without.run_id, labelled.run_id}
    assert f"ExperimentRun/{without.run_id}/.aml/run.json" in there(team)
