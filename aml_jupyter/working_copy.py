"""The working copy of a run: its snapshot as files, with an empty `outputs/`."""

from __future__ import annotations

import os

from aml_jupyter.confined import remove_tree
from aml_jupyter.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.job import Job


def make(job: Job, empty: str | None = None) -> None:
    """Make the working copy of a job, whole or not at all; one that is there stays.

    `empty` is a folder that becomes it, instead of a new one.
    Raises ConfigError `run.script_missing`, SnapshotError.
    """
    if os.path.isdir(job.work):
        return
    partial = job.work + ".partial"
    if os.path.lexists(partial):
        remove_tree(partial)
    if empty is not None:
        os.rename(empty, partial)
    fill(job, partial)
    os.rename(partial, job.work)


def fill(job: Job, folder: str) -> None:
    """Write the working copy of a job into a new or empty folder; nothing is left of it when that fails."""
    from aml_jupyter.snapshot import Store

    try:
        Store(job.snapshots).materialize(job.snapshot_id, folder)
        os.makedirs(folder + "/outputs", exist_ok=True)
        if job.inputs:
            from aml_jupyter import inputs

            inputs.place(job, folder)
        if not job.cell and not os.path.lexists(os.path.join(folder, job.command[1])):
            raise script_missing(job)
    except BaseException:
        # a copy that did not fit must not keep the disk full
        if os.path.lexists(folder):
            remove_tree(folder)
        raise


def script_missing(job: Job) -> ConfigError:
    """The error for a script that the snapshot does not hold."""
    return ConfigError(
        f"{job.command[1]} is not in the snapshot: a rule leaves it out",
        code="run.script_missing",
        hint="aml snapshot --dry-run names the rule; --include sends it all the same.",
    )
