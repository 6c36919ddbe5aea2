"""The end of a run's files."""

from __future__ import annotations

import fcntl
import os

from aml_jupyter import processes
from aml_jupyter.confined import check_name, remove_tree
from aml_jupyter.errors import HistoryError
from aml_jupyter.runs.directory import RunDirectory, mark_changed, not_a_run, unlink_quietly
from aml_jupyter.runs.evidence import job_alive, supervisor_identity
from aml_jupyter.runs.rows import manifest_of

REMOVING = ".removing-"


def remove(directory: RunDirectory) -> None:
    """Remove a run with its artifacts; killed at any point, what is left is found by `aml check`.

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
            # held until the directory has another name: nobody starts a supervisor in between
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _alive(directory) from None
        if _names_living_supervisor(directory) or job_alive(directory):
            raise _alive(directory)
        mark_changed(directory)
        gone = os.path.dirname(directory.path) + "/" + REMOVING + directory.run_id
        prefix = _artifacts_prefix(directory)
        os.rename(directory.path, gone)
    except FileNotFoundError:
        raise not_a_run(directory) from None
    finally:
        os.close(lock)
    remove_tree(f"{directory.home}/artifacts/{prefix}")
    unlink_quietly(f"{directory.home}/ids/{directory.run_id}")
    mark_changed(directory)
    remove_tree(gone)


def _names_living_supervisor(directory: RunDirectory) -> bool:
    # not by the lock, which is ours now
    who = supervisor_identity(directory)
    return who is not None and processes.is_alive(who)


def _artifacts_prefix(directory: RunDirectory) -> str:
    plain = "ExperimentRun/" + directory.run_id
    prefix = str((manifest_of(directory) or {}).get("prefix") or plain)
    # only what is this run's own: a manifest may be anybody's
    parts = check_name(prefix)
    return (
        prefix
        if len(parts) == 2 and prefix.startswith(plain) and len(prefix) - len(plain) in (0, 5)
        else plain
    )


def _alive(directory: RunDirectory) -> HistoryError:
    return HistoryError(
        f"{directory.run_id} is still running",
        code="run.alive",
        hint=f"aml stop {directory.run_id}, then remove it.",
    )
