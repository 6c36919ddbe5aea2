"""The end of a run's files."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager

from aml_jupyter import processes
from aml_jupyter.confined import remove_tree
from aml_jupyter.errors import HistoryError
from aml_jupyter.runs.directory import RunDirectory, at, mark_changed, mark_id, not_a_run, unlink_quietly
from aml_jupyter.runs.evidence import job_alive, supervisor_identity
from aml_jupyter.runs.rows import manifest_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

REMOVING = ".removing-"


def remove(directory: RunDirectory) -> None:
    """Remove a run with its artifacts at once; killed at any point, what is left is found by `aml check`.

    Raises HistoryError `run.alive` while its supervisor or job lives, RunNotFound `run.missing`.
    """
    with held_still(directory):
        gone = put_away(directory)
    finish_removal(gone)


@contextmanager
def held_still(directory: RunDirectory) -> Iterator[None]:
    """Nobody starts a supervisor for a run meanwhile.

    Raises HistoryError `run.alive` while its supervisor or job lives, RunNotFound `run.missing`.
    """
    if not os.path.isdir(directory.path):
        raise not_a_run(directory)
    try:
        lock = os.open(directory.supervisor_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # removed by somebody else at this moment
        raise not_a_run(directory) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _alive(directory) from None
        if _names_living_supervisor(directory) or job_alive(directory):
            raise _alive(directory)
        if os.path.exists(f"{directory.home}/queue/{directory.run_id}.json"):
            raise _alive(directory, "waits in the queue")
        yield
    finally:
        os.close(lock)


def put_away(directory: RunDirectory) -> RunDirectory:
    """Give the directory of a run the name of one that is being removed: from here on it is no run."""
    mark_changed(directory)
    gone = RunDirectory(f"{os.path.dirname(directory.path)}/{REMOVING}{directory.run_id}")
    try:
        os.rename(directory.path, gone.path)
    except FileNotFoundError:
        raise not_a_run(directory) from None
    return gone


def finish_removal(gone: RunDirectory) -> None:
    """Remove what is left of a run whose directory has the name of one that is being removed."""
    run_id = gone.run_id[len(REMOVING) :]
    for folder in left_of(gone)[1:]:
        remove_tree(folder)
    drop_id(gone.home, run_id)
    # the last: by it the removal is found again
    remove_tree(gone.path)


def left_of(gone: RunDirectory) -> list[str]:
    """The folders that go with a run being removed: its directory, then its artifacts."""
    run_id = gone.run_id[len(REMOVING) :]
    if not run_id or os.path.lexists(f"{os.path.dirname(gone.path)}/{run_id}"):
        return [gone.path]  # put back from a copy: the artifacts are that run's
    return [gone.path, f"{gone.home}/artifacts/{artifacts_of(gone, run_id)}"]


def drop_id(home: str, run_id: str) -> None:
    """Take a run that is no more from the ids and from the index; one that is there stays."""
    if not run_id or run_id[0] == "." or at(home, run_id) is not None:
        return
    unlink_quietly(f"{home}/ids/{run_id}")
    mark_id(home, run_id)


def _names_living_supervisor(directory: RunDirectory) -> bool:
    # not by the lock, which is ours now
    who = supervisor_identity(directory)
    return who is not None and processes.is_alive(who)


def artifacts_of(directory: RunDirectory, run_id: str = "") -> str:
    """Where the artifacts of a run lie in the store; `run_id` where its directory has another name."""
    run_id = run_id or directory.run_id
    plain = "ExperimentRun/" + run_id
    prefix = str((manifest_of(directory) or {}).get("prefix") or plain)
    # only what is this run's own: a manifest may be anybody's
    start, rest = prefix[: len(plain)], prefix[len(plain) :]
    own = start == plain and len(rest) in (0, 5) and "/" not in rest
    return prefix if own else plain


def _alive(directory: RunDirectory, state: str = "is still running") -> HistoryError:
    return HistoryError(
        f"{directory.run_id} {state}",
        code="run.alive",
        hint=f"aml stop {directory.run_id}, then remove it.",
    )
