"""The trash under kills and full disks: a run is in one place, whole, and comes back from there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aml_jupyter import artifacts, pushing, retention, runs, syncing
from aml_jupyter.retention.repair import repair
from aml_jupyter.runs import History, RunDirectory, trash
from tests.faults.test_history_faults import CALLS, command, kill_points, killed_at, sweep
from tests.faults.test_history_rows import disk, fill  # noqa: F401 - a fixture
from tests.made_runs import finished
from tests.requirements import need
from tests.test_trash import with_artifacts

MOVES = tuple(call for call in CALLS if call.startswith(("rename", "link", "unlink", "rmdir")))
pytestmark = [pytest.mark.faults, pytest.mark.slow]


def place_of(home: str, directory: RunDirectory) -> RunDirectory:
    """Where a run is: in the history or in the trash, in one of them, and every list says so."""
    here, there = os.path.exists(directory.run_json), trash.is_trashed(home, directory.run_id)
    assert here != there
    with History(home) as history:
        assert (directory.run_id in {row["run_id"] for row in history.rows(limit=None)}) == here
        assert [finding.code for finding in history.check()] == []
    with History(home + "/trash") as history:
        assert (directory.run_id in {row["run_id"] for row in history.rows(limit=None)}) == there
    return directory if here else trash.find(directory.run_id, home)


def is_whole(directory: RunDirectory) -> None:
    """Labels, record and artifacts are all there."""
    assert runs.read_labels(directory).name == "best"
    assert runs.load_record(directory).status == "Completed"
    assert artifacts.read_artifact(directory, "model.pkl") == b"model " * 100
    assert len(artifacts.listing(directory)) == 2


def labelled(home: str) -> RunDirectory:
    directory = with_artifacts(home)
    runs.set_labels(directory, name="best")
    with History(home) as history:
        history.refresh()
    return directory


def test_H1_a_run_killed_on_its_way_to_the_trash_is_here_or_there_and_never_half(
    home: str, tmp_path: Path
) -> None:
    program = "from aml_jupyter.runs import trash; trash.throw_away(directory)"
    trash.throw_away(labelled(home))  # the folders are there
    for directory in sweep(program, lambda: labelled(home), home, tmp_path):
        place = place_of(home, directory)
        if place.path != directory.path:
            trash.bring_back(place)
        is_whole(directory)
        assert place_of(home, directory) == directory
    retention.collect_garbage(home)
    assert trash.unsettled(home) == []
    assert retention.check(home) == []


def test_H1_a_run_killed_on_its_way_back_is_here_or_there_and_never_half(home: str, tmp_path: Path) -> None:
    program = """
        from aml_jupyter.runs import trash
        trash.bring_back(trash.find(directory.run_id, directory.home))
    """

    def make() -> RunDirectory:
        directory = labelled(home)
        trash.throw_away(directory)
        return directory

    for directory in sweep(program, make, home, tmp_path):
        place = place_of(home, directory)
        if place.path != directory.path:
            trash.bring_back(place)
        is_whole(directory)
    retention.collect_garbage(home)
    assert os.listdir(home + "/trash/moved") == []
    assert retention.check(home) == []


def test_H1_a_removal_from_the_trash_killed_at_any_call_is_finished_by_the_next_collection(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
        from aml_jupyter.runs import trash
        trash.remove_for_good(trash.find(directory.run_id, directory.home))
    """
    kept = finished(home)

    def make() -> RunDirectory:
        directory = labelled(home)
        trash.throw_away(directory)
        return directory

    for directory in sweep(program, make, home, tmp_path):
        if trash.is_trashed(home, directory.run_id):
            is_whole(trash.bring_back(trash.find(directory.run_id, home)))
            trash.remove_for_good(trash.throw_away(directory))
        assert not os.path.exists(directory.path)
        found = {finding.code for finding in runs.check(home)}
        assert found <= {"run.half_removed", "id.orphan"}
    monkeypatch.setattr("aml_jupyter.retention.BEING_MADE", -1.0)
    retention.collect_garbage(home)
    assert runs.check(home) == []
    assert os.listdir(home + "/ids") == [kept.run_id]
    for folder in ("artifacts/ExperimentRun", "moved"):
        assert os.listdir(f"{home}/trash/{folder}") == []


def test_A14_a_removal_in_the_store_killed_at_any_call_leaves_no_run_without_its_copy_and_no_copy(
    home: str, tmp_path: Path
) -> None:
    """Here it is whole and so is its copy; or it is gone here, and the next collection has it gone there."""
    team = tmp_path / "team"
    team.mkdir()
    program = """
        from aml_jupyter import retention
        retention.remove_now(directory)
        retention.remote.clear(directory.home)
    """

    def make() -> RunDirectory:
        directory = labelled(home)
        assert pushing.push(directory, f"folder://{team}").state == "stored"
        return directory

    # what is renamed, linked and removed is what can be left half done
    for directory in sweep(program, make, str(tmp_path), tmp_path, calls=MOVES):
        copy = [one for one in team.rglob("*") if directory.run_id in str(one) and one.is_file()]
        if os.path.exists(directory.run_json):
            is_whole(directory)
            retention.remote.clear(home)  # a note of a run that is here is no order
            assert copy == [one for one in copy if one.exists()]
            assert len(copy) > 5
            retention.remove_now(directory)
        retention.remote.clear(home)
        assert not os.path.exists(directory.path)
        left = [one for one in team.rglob("*") if directory.run_id in str(one) and one.is_file()]
        assert left == []
        assert syncing.sync(home, f"folder://{team}").pulled == ()
    assert list(retention.remote.tombstones(home)) == []


def test_H5_a_repair_killed_at_any_move_loses_nothing_and_is_finished_by_the_next(
    home: str, tmp_path: Path
) -> None:
    team = tmp_path / "team"
    team.mkdir()
    program = """
        from aml_jupyter.retention.repair import repair
        repair(directory.home, lambda _: None)
    """
    damaged: dict[str, bytes] = {}

    def make() -> RunDirectory:
        for one in runs.all_directories(home):  # one at a time: the repair is of all
            retention.remove_now(one)
        directory = labelled(home)
        assert pushing.push(directory, f"folder://{team}").state == "stored"
        for path in (directory.run_json, directory.labels_json, directory.artifacts_json):
            data = Path(path).read_bytes()
            Path(path).write_bytes(data[:20] + b"~" + data[21:])
            damaged[path] = Path(path).read_bytes()
        return directory

    need("strace")
    rehearsal = make()
    points = kill_points(command(program, rehearsal.path), home, tmp_path / "trace", MOVES)[::3]
    is_whole(rehearsal)
    killed = 0
    for call, number in points:
        directory = make()
        killed += killed_at(command(program, directory.path), call, number)
        for path in (directory.run_json, directory.labels_json, directory.artifacts_json):
            assert os.path.exists(path)
        assert repair(home, lambda _: None).left == ()
        is_whole(directory)
        kept = {path.read_bytes() for path in Path(home, "damaged").rglob("*") if path.is_file()}
        assert all(data in kept for path, data in damaged.items() if path.startswith(directory.path))
    assert killed > len(points) * 0.8


@pytest.mark.root
def test_H4_runs_are_removed_on_a_full_disk_and_the_trash_gives_the_space_back(disk: Path) -> None:  # noqa: F811
    home = str(disk / "aml")
    first, second, third = labelled(home), labelled(home), finished(home)
    for one in (first, second):
        (Path(one.work) / "large").write_bytes(bytes(4 << 20))
    fill(disk)
    # the reserve was given back for the first note; then there is nothing left
    trash.throw_away(first)
    fill(disk)
    place = trash.throw_away(second)
    is_whole(trash.bring_back(place))
    retention.remove_now(second)
    assert trash.trashed(home) == [trash.find(first.run_id, home)]
    assert retention.collect_garbage(home, trash_age=-1.0).runs == (first.run_id,)
    assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > 7 << 20
    assert [finding.code for finding in retention.check(home)] == []
    with History(home) as history:
        assert [row["run_id"] for row in history.rows()] == [third.run_id]
