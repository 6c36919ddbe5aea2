"""The trash: a removed run comes back as it was, or is gone for good."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import artifacts, commands, processes, retention, runs
from aml_jupyter.commands.screen import Screen
from aml_jupyter.errors import AmlError, HistoryError, RunNotFound
from aml_jupyter.runs import History, RunDirectory, trash
from aml_jupyter.snapshot import Rules, Store
from tests.made_runs import PROJECT, Project, end, finished, sleeper, started, submit


def with_artifacts(home: str, project: Project = PROJECT, **fields: Any) -> RunDirectory:
    """A run that completed and kept two artifacts."""
    directory = submit(home, project, **fields)
    outputs = Path(directory.work) / "outputs"
    (outputs / "sub").mkdir(parents=True, exist_ok=True)
    (outputs / "model.pkl").write_bytes(b"model " * 100)
    (outputs / "sub/é%.txt").write_bytes(b"text")
    manifest = artifacts.collect(directory)
    end(directory, artifacts=manifest.count, artifacts_state=manifest.state)
    return directory


def files_below(folder: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != "supervisor.lock"
    }


def listed(home: str) -> list[str]:
    with History(home) as history:
        return [row["run_id"] for row in history.rows(limit=None)]


def aml(*words: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of a line of `aml`."""
    screen = Screen(io.StringIO(), io.StringIO())
    status = commands.execute(words, screen)
    return status, screen.out.getvalue(), screen.err.getvalue()  # type: ignore[union-attr]


def age_in_trash(directory: RunDirectory, days: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a run in the trash for some days."""
    now = time.time
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: now() - days * 86400)
        trash.throw_away(directory)


def test_a_run_comes_back_from_the_trash_exactly_as_it_was(home: str) -> None:
    directory, other = with_artifacts(home, params={"lr": 0.1}), finished(home)
    runs.set_labels(directory, name="best", tags=("a=1",), note="keep it")
    before = runs.read_record(directory)
    files = files_below(directory.path)
    store = f"{home}/artifacts/{artifacts.read_manifest(directory).prefix}"  # type: ignore[union-attr]
    stored = files_below(store)
    assert listed(home) == [other.run_id, directory.run_id]

    there = trash.throw_away(directory)
    assert not os.path.lexists(directory.path)
    assert not os.path.lexists(store)
    assert listed(home) == [other.run_id]
    with pytest.raises(RunNotFound):
        runs.find("best", home)
    assert trash.is_trashed(home, directory.run_id)
    assert retention.check(home) == []
    # what reads runs reads those in the trash
    assert artifacts.read_artifact(there, "model.pkl") == b"model " * 100
    assert runs.read_labels(there).name == "best"

    assert trash.bring_back(trash.find("best", home)) == directory
    assert files_below(directory.path) == files
    assert files_below(store) == stored
    assert runs.read_record(directory) == before
    assert runs.find("best", home) == directory
    assert listed(home) == [other.run_id, directory.run_id]
    assert trash.trashed(home) == []
    assert retention.check(home) == []


def test_the_snapshot_of_a_run_in_the_trash_stays_until_that_is_emptied(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/train.py").write_text("print(1)\n")
    store = Store(home + "/snapshots")
    taken = store.take(str(tmp_path / "project"), Rules())
    directory = finished(home, snapshot_id=taken.id)
    manifest = f"{home}/snapshots/manifests/{taken.id}"
    os.utime(manifest, (0, 0))
    age_in_trash(directory, 29, monkeypatch)
    assert retention.collect_garbage(home).runs == ()
    assert store.read(taken.id, "train.py") == b"print(1)\n"
    now = time.time
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: now() + 2 * 86400)
        would = retention.collect_garbage(home, dry_run=True)
        assert would.runs == (directory.run_id,)
        assert os.path.exists(manifest)
        assert retention.collect_garbage(home) == would
    assert not os.path.exists(manifest)
    assert trash.trashed(home) == []
    assert os.listdir(home + "/ids") == []
    assert listed(home) == []
    assert retention.check(home) == []


def test_Z4_a_run_that_lives_does_not_come_into_the_trash(home: str) -> None:
    directory = submit(home)
    process = sleeper()
    try:
        started(directory, processes.identity(process.pid))
        with pytest.raises(HistoryError) as caught:
            trash.throw_away(directory)
        assert caught.value.code == "run.alive"
        assert os.path.exists(directory.run_json)
        assert trash.trashed(home) == []
    finally:
        process.kill()
        process.wait()
    trash.throw_away(directory)


def test_what_was_removed_for_good_cannot_come_back_and_the_message_says_so(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "iris").mkdir()
    monkeypatch.chdir(tmp_path / "iris")
    directory, other = with_artifacts(home), with_artifacts(home)
    assert aml("rm", directory.run_id, "--now") == (0, f"{directory.run_id}\n", "")
    status, out, told = aml("rm", other.run_id)
    assert (status, out) == (0, f"{other.run_id}\n")
    assert f"aml undelete {other.run_id}" in told
    assert os.listdir(home + "/artifacts/ExperimentRun") == []
    with pytest.raises(RunNotFound) as caught:
        aml("show", other.run_id)
    assert caught.value.hint == f"It is in the trash: aml undelete {other.run_id}"
    assert f"{other.run_id} of the trash" in aml("gc", "--empty-trash", "--dry-run")[1]
    with pytest.raises(RunNotFound, match="no run in the trash answers"):
        aml("undelete", directory.run_id)
    aml("rm", other.run_id, "--now")
    assert os.listdir(home + "/trash/artifacts/ExperimentRun") == []
    with pytest.raises(RunNotFound, match="the trash is empty"):
        aml("undelete", "@last")


def test_undelete_last_brings_back_the_run_of_the_project_that_was_removed_last(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "iris").mkdir()
    monkeypatch.chdir(tmp_path / "iris")
    first, second = finished(home), finished(home)
    other = finished(home, Project("other"))
    for one in (second, first, other):
        trash.throw_away(one)
    _, out, _ = aml("runs", "--trash", "--json")
    assert {row["run_id"] for row in json.loads(out)} == {first.run_id, second.run_id}
    assert all(row["removed_utc"] > row["created_utc"] and row["rule"] == "" for row in json.loads(out))
    assert "removed_utc" in aml("runs", "--trash")[1]
    assert aml("undelete", "@last")[1] == f"{first.run_id}\n"
    assert listed(home) == [first.run_id]
    assert aml("undelete", "@last", "--json")[1] == json.dumps([second.run_id], indent=2) + "\n"
    with pytest.raises(RunNotFound, match="no run of the project"):
        aml("undelete", "@last")
    with pytest.raises(RunNotFound, match="it is in the history"):
        aml("undelete", first.run_id)


def test_a_pinned_run_is_not_removed_before_the_pin_is(home: str) -> None:
    directory = finished(home)
    runs.pin(directory)
    with pytest.raises(AmlError, match="pinned"):
        aml("rm", directory.run_id)
    assert listed(home) == [directory.run_id]
    aml("rm", directory.run_id, "--force")
    assert listed(home) == []
    aml("undelete", directory.run_id)
    assert runs.read_labels(directory).pinned


def test_nothing_is_overwritten_by_a_run_that_comes_back(home: str) -> None:
    directory = with_artifacts(home)
    there = trash.throw_away(directory)
    prefix = f"{home}/artifacts/ExperimentRun/{directory.run_id}"
    os.makedirs(prefix)
    with pytest.raises(HistoryError) as caught:
        trash.bring_back(there)
    assert caught.value.code == "trash.occupied"
    assert trash.is_trashed(home, directory.run_id)
    os.rmdir(prefix)
    trash.bring_back(there)
    assert artifacts.read_artifact(directory, "model.pkl") == b"model " * 100
