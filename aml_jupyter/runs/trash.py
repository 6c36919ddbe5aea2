"""The trash: runs that were removed and can still be brought back.

It is a home of its own below AML_HOME, so that whatever reads runs reads these as well:

    trash/runs/<account>/<workspace>/<project>/<run id>    the run directory
    trash/artifacts/ExperimentRun/<run id>/                its artifacts
    trash/moved/<run id>.json                              when it came here, and why

A run is where its directory is, and that moves by one rename.  Its artifacts follow it into the trash and go
ahead of it on the way back; whoever was killed in between left a run in the trash whose artifacts are still
with the others, which is as good, and `settle` moves them.  The entry among the ids stays: no other run gets
the id of one that may come back.
"""

from __future__ import annotations

import os
import time

from aml_jupyter.confined import make_root, read_bounded, sync, write_atomic
from aml_jupyter.errors import AmlError, HistoryError, RunNotFound
from aml_jupyter.frozen import Value
from aml_jupyter.job import FORMAT
from aml_jupyter.locks import exclusive
from aml_jupyter.runs.directory import (
    RunDirectory,
    all_directories,
    at,
    enter,
    history_fault,
    mark_changed,
    not_a_run,
    project_folders,
    trash_of,
    unlink_quietly,
    with_reserve,
)
from aml_jupyter.runs.record import utc
from aml_jupyter.runs.removal import REMOVING, artifacts_of, drop_id, finish_removal, held_still, put_away
from aml_jupyter.sealed import seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from aml_jupyter.runs.directory import Scope

_SMALL = 1 << 16


class Moved(Value):
    """How a run came into the trash: when (seconds since 1970, and UTC), and the rule that took it, or ""."""

    seconds: float
    moved_utc: str
    rule: str = ""


def is_trashed(home: str, run_id: str) -> bool:
    """Whether the run of exactly this id is in the trash."""
    return at(trash_of(home), run_id) is not None


def trashed(home: str) -> list[RunDirectory]:
    """The runs in the trash, in no order; their `home` is the trash."""
    return all_directories(trash_of(home))


def throw_away(directory: RunDirectory, *, rule: str = "") -> RunDirectory:
    """Move a run with its artifacts into the trash; where it is then.

    Killed at any moment it leaves the run where it was or in the trash.  Raises HistoryError `run.alive`
    while its supervisor or job lives, `trash.occupied`; RunNotFound `run.missing`.
    """
    home, trash = directory.home, trash_of(directory.home)
    there = RunDirectory(trash + directory.path[len(home) :])
    try:
        make_root(trash)
        with held_still(directory), _alone(trash):
            if os.path.lexists(there.path):
                raise _occupied(there)
            _write_moved(there, rule)
            make_root(os.path.dirname(there.path))
            mark_changed(directory)
            os.rename(directory.path, there.path)
            # once more: a reader may have taken the first mark while the run was still there
            mark_changed(directory)
            mark_changed(there)
            _follow(there, home)
            _sync(directory, there)
    except FileNotFoundError:
        raise not_a_run(directory) from None
    except OSError as error:
        if isinstance(error, AmlError):
            raise
        raise history_fault(error, trash) from error
    return there


def bring_back(there: RunDirectory) -> RunDirectory:
    """Put a run from the trash back where it was, with its artifacts and labels; where it is then.

    Killed at any moment it leaves the run in the trash or where it was.  Raises HistoryError `trash.occupied`
    when something else lies there meanwhile, RunNotFound `run.missing`.
    """
    trash = there.home
    home = os.path.dirname(trash)
    directory = RunDirectory(home + there.path[len(trash) :])
    try:
        with _alone(trash):
            if not os.path.isdir(there.path):
                raise not_a_run(there)
            if os.path.lexists(directory.path) or at(home, there.run_id) is not None:
                raise _occupied(directory)
            _lead(there, home)
            make_root(os.path.dirname(directory.path))
            if not os.path.lexists(f"{home}/ids/{there.run_id}"):
                enter(directory)
            for one in (there, directory):
                mark_changed(one)
            os.rename(there.path, directory.path)
            for one in (there, directory):
                mark_changed(one)
            _sync(there, directory)
            unlink_quietly(_moved_path(there))
    except OSError as error:
        if isinstance(error, AmlError):
            raise
        raise history_fault(error, home) from error
    return directory


def remove_for_good(there: RunDirectory) -> None:
    """Remove a run in the trash with its artifacts.  Raises RunNotFound `run.missing`."""
    trash = there.home
    home = os.path.dirname(trash)
    with _alone(trash):
        if not os.path.isdir(there.path):
            raise not_a_run(there)
        _follow(there, home)
        gone = put_away(there)
    finish_trashed(gone)


def finish_trashed(gone: RunDirectory) -> None:
    """Remove what is left of a run in the trash whose directory has the name of one that is being removed."""
    home, run_id = os.path.dirname(gone.home), gone.run_id[len(REMOVING) :]
    if not is_trashed(home, run_id):
        unlink_quietly(f"{gone.home}/moved/{run_id}.json")
        drop_id(home, run_id)
    finish_removal(gone)


def half_removed(home: str) -> Iterator[RunDirectory]:
    """What is left in the trash of runs whose removal was killed."""
    for folder in project_folders(trash_of(home)):
        for name in sorted(os.listdir(folder)):
            if name.startswith(REMOVING):
                yield RunDirectory(f"{folder}/{name}")


def settle(home: str) -> int:
    """Finish what was killed between two moves; how many runs had artifacts or notes left behind."""
    trash = trash_of(home)
    if not os.path.isdir(trash):
        return 0
    with _alone(trash):
        done = sum(_follow(there, home) for there in trashed(home))
        for run_id in _notes_of_nobody(home):
            unlink_quietly(f"{trash}/moved/{run_id}.json")
            done += 1
    return done


def unsettled(home: str) -> list[str]:
    """The ids of runs that `settle` would finish moving."""
    left = [one.run_id for one in trashed(home) if os.path.isdir(f"{home}/artifacts/{artifacts_of(one)}")]
    return left + list(_notes_of_nobody(home))


def moved(there: RunDirectory) -> Moved:
    """How a run came into the trash; where that is not known any more, when its directory was renamed."""
    try:
        document = unseal(read_bounded(_moved_path(there), _SMALL), _moved_path(there))
        seconds = float(document["seconds"])
        rule = str(document.get("rule", ""))
    except (AmlError, KeyError, TypeError, ValueError):
        try:
            seconds, rule = os.lstat(there.path).st_ctime, ""
        except FileNotFoundError:
            raise not_a_run(there) from None
    return Moved(seconds=seconds, moved_utc=utc(int(seconds * 1e9)), rule=rule)


def add_moves(home: str, rows: Iterable[dict[str, Any]]) -> None:
    """Add `removed_utc` and `rule` (why, or "") to rows of the history of the trash."""
    for row in rows:
        there = at(trash_of(home), row["run_id"])
        try:
            found = moved(there) if there is not None else None
        except RunNotFound:  # brought back at this moment
            found = None
        row["removed_utc"], row["rule"] = (found.moved_utc, found.rule) if found else (None, "")


def find(reference: str, home: str, project: Scope | None = None) -> RunDirectory:
    """The run in the trash that a reference means; `@last` is the one of the project that came in last.

    Raises RunNotFound.
    """
    from aml_jupyter.runs import references

    if reference == "@last":
        return _last(home, project)
    try:
        return references.find(reference, trash_of(home), project)
    except RunNotFound as error:
        if at(home, reference) is not None:
            message, hint = f"{reference} is not in the trash: it is in the history", f"aml show {reference}"
        elif not trashed(home):
            message, hint = "the trash is empty", "What was emptied from the trash cannot be brought back."
        else:
            message = error.message.replace("no run answers", "no run in the trash answers")
            hint = f"{error.hint} aml runs --trash lists what is there."
        raise RunNotFound(message, code=error.code, hint=hint) from None


def _last(home: str, project: Scope | None) -> RunDirectory:
    everything = trashed(home)
    key = f"{project.account}/{project.workspace}/{project.name}" if project is not None else None
    own = [one for one in everything if key is None or one.project_key == key]
    if own:
        return max(own, key=lambda one: (moved(one).seconds, one.run_id))
    if everything:
        raise RunNotFound(
            f"no run of the project {key} is in the trash",
            hint="aml runs --trash --all-projects lists those of the others; name one by its id.",
        )
    raise RunNotFound("the trash is empty", hint="What was emptied from the trash cannot be brought back.")


class _alone(exclusive):  # noqa: N801 - used as a statement
    """Nobody else moves anything into the trash or out of it."""

    def __init__(self, trash: str) -> None:
        super().__init__(trash + "/trash.lock")


def _follow(there: RunDirectory, home: str) -> bool:
    """Bring the artifacts of a run in the trash there too; whether there were any left."""
    return _rename_artifacts(artifacts_of(there), home, there.home)


def _lead(there: RunDirectory, home: str) -> None:
    """Put the artifacts of a run back ahead of it."""
    prefix = artifacts_of(there)
    if not _rename_artifacts(prefix, there.home, home) and os.path.isdir(f"{there.home}/artifacts/{prefix}"):
        raise _occupied(RunDirectory(f"{home}/artifacts/{prefix}"))


def _rename_artifacts(prefix: str, before: str, after: str) -> bool:
    source, target = f"{before}/artifacts/{prefix}", f"{after}/artifacts/{prefix}"
    if not os.path.isdir(source) or os.path.lexists(target):
        return False
    make_root(os.path.dirname(target))
    try:
        os.rename(source, target)
    except OSError as error:
        import errno

        if error.errno != errno.EXDEV:  # on another disk they stay where they are, and are found there
            raise
        return False
    return True


def _notes_of_nobody(home: str) -> Iterator[str]:
    """Run ids of which it is written that they were moved, and which are not in the trash."""
    try:
        names = sorted(os.listdir(trash_of(home) + "/moved"))
    except FileNotFoundError:
        return
    for name in names:
        if name.endswith(".json") and not is_trashed(home, name[: -len(".json")]):
            yield name[: -len(".json")]


def _moved_path(there: RunDirectory) -> str:
    return f"{there.home}/moved/{there.run_id}.json"


def _write_moved(there: RunDirectory, rule: str) -> None:
    path = _moved_path(there)
    make_root(os.path.dirname(path))
    data = seal({"format": FORMAT, "run_id": there.run_id, "seconds": time.time(), "rule": rule})
    try:
        with_reserve(path, lambda: write_atomic(path, data, sync=False))
    except HistoryError as error:
        # whoever removes runs may be about to make space; its folder tells when it was moved
        if error.code != "history.no_space":
            raise


def _sync(*directories: RunDirectory) -> None:
    """What was renamed stays renamed after a power cut."""
    for one in directories:
        fd = os.open(os.path.dirname(one.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync(fd)
        finally:
            os.close(fd)


def _occupied(directory: RunDirectory) -> HistoryError:
    return HistoryError(
        f"{directory.path} is in the way: something of that name is there already",
        code="trash.occupied",
        hint="Rename one of the two folders by hand, then try again; aml check lists what belongs to no run.",
    )


__all__ = [
    "Moved",
    "add_moves",
    "bring_back",
    "find",
    "finish_trashed",
    "half_removed",
    "is_trashed",
    "moved",
    "remove_for_good",
    "settle",
    "throw_away",
    "trash_of",
    "trashed",
    "unsettled",
]
