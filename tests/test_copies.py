"""Copies are dropped without anybody waiting for the store, and only while they are what was confirmed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aml_jupyter import artifacts, pushing, runs
from aml_jupyter.artifacts.collecting import collecting_lock
from aml_jupyter.artifacts.remote import Place, origin, place_of, write_place
from aml_jupyter.errors import HistoryError
from aml_jupyter.retention import copies
from aml_jupyter.runs import RunDirectory, trash
from tests.stored_runs import ended_run
from tests.test_trash import with_artifacts

if TYPE_CHECKING:
    from aml_jupyter.artifacts.store import ArtifactStore


@pytest.fixture
def team(tmp_path: Path) -> str:
    """The address of a store."""
    (tmp_path / "team").mkdir()
    return f"folder://{tmp_path}/team"


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something done right after the store has confirmed what it has."""

    def while_asked(do: Callable[[], object]) -> None:
        real = copies.differs

        def differs(*given: Any) -> str:
            found = real(*given)
            do()
            return found

        monkeypatch.setattr(copies, "differs", differs)

    return while_asked


def here(directory: RunDirectory) -> list[str]:
    local = artifacts.store_of(directory)
    return [item.path for item in artifacts.listing(directory) if local.stat(item.key) is not None]


def test_a_store_is_opened_once_for_all_copies_of_all_runs(
    home: str, team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        pushing.push(ended_run(home, {f"f{one}": b"%d" % one for one in range(number, 9)}), team)
    opened: list[Place] = []

    def counted(place: Place) -> ArtifactStore:
        opened.append(place)
        return origin(place)

    monkeypatch.setattr(copies, "origin", counted)
    assert sum(one.files for one in copies.drop_copies(home)) == 9 + 8 + 7
    assert len(opened) == 1


def test_nobody_waits_for_the_store_while_copies_are_confirmed(
    home: str, team: str, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    entered = []

    def enter() -> None:
        with collecting_lock(directory):
            entered.append(here(directory))

    meanwhile(enter)
    found = copies.drop(directory, {})
    assert found
    assert (found.files, found.kept) == (2, {})
    assert [len(one) for one in entered] == [2, 2]  # nothing goes before all were looked at
    assert here(directory) == []


def test_a_copy_that_was_changed_while_the_store_was_asked_stays(
    home: str, team: str, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)

    def change() -> None:
        manifest = artifacts.read_manifest(directory)
        assert manifest
        files = [one.replace(sha256="0" * 64) if one.path.endswith(".pkl") else one for one in manifest.files]
        artifacts.write_manifest(directory, manifest.replace(files=tuple(files)))

    meanwhile(change)
    found = copies.drop(directory, {})
    assert found
    assert found.files == 1
    assert found.kept == {"outputs/model.pkl": "it was changed meanwhile"}
    assert here(directory) == ["outputs/model.pkl"]


@pytest.mark.parametrize("prefix", ["", "ExperimentRun/another"])
def test_all_copies_stay_of_a_run_that_got_another_place_while_the_store_was_asked(
    home: str, team: str, prefix: str, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    place = place_of(directory)
    assert place

    def move() -> None:
        if prefix:
            write_place(directory, place.replace(prefix=prefix))
        elif os.path.lexists(f"{directory.path}/remote.json"):
            os.unlink(f"{directory.path}/remote.json")

    meanwhile(move)
    found = copies.drop(directory, {})
    assert found
    assert (found.files, len(found.kept), len(here(directory))) == (0, 2, 2)


def test_a_run_that_is_removed_while_the_store_is_asked_is_passed_over(
    home: str, team: str, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    meanwhile(lambda: runs.at(home, directory.run_id) and trash.throw_away(directory))
    assert copies.drop_copies(home) == []
    back = trash.bring_back(trash.trashed(home)[0])
    assert len(here(back)) == 2


def test_a_list_that_is_damaged_while_the_store_is_asked_ends_it_with_every_copy_kept(
    home: str, team: str, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    directory = with_artifacts(home)
    pushing.push(directory, team)
    whole = Path(directory.artifacts_json).read_bytes()
    meanwhile(lambda: Path(directory.artifacts_json).write_bytes(b"{"))
    with pytest.raises(HistoryError):
        copies.drop(directory, {})
    Path(directory.artifacts_json).write_bytes(whole)
    assert len(here(directory)) == 2
