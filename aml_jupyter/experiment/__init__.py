"""Use cases of one project: submit a run, look after it, cancel it.

A submit takes the snapshot, writes the run directory and hands it to a supervisor; nothing here is needed by
the run afterwards.

    request    what a person asked for, and what it comes to
    planning   a request resolved against the configuration
    again      a request that repeats a run, resolved against what that run was asked for
    reading    what code reads that no record holds
    writing    the run directory
    logins     passwords of the machines that runs are sent to, and of package indexes
"""

from __future__ import annotations

import os
import time

from aml_jupyter import processes, runs
from aml_jupyter.config import aml_home, registered
from aml_jupyter.confined import read_bounded, write_atomic
from aml_jupyter.errors import AmlError, RunFailed, RunNotFound
from aml_jupyter.experiment.logins import ask_ahead, handed_over, passwords_again, waits_for_password
from aml_jupyter.experiment.planning import LARGEST_SCRIPT, keep_warm, plan, prepare
from aml_jupyter.experiment.request import Plan, Request
from aml_jupyter.experiment.writing import anticipated, begin, write
from aml_jupyter.job import TERMINAL
from aml_jupyter.starting import Starter, SupervisorGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aml_jupyter.config import Project
    from aml_jupyter.runs import Record, RunDirectory

__all__ = [
    "SWEEP",
    "Lost",
    "Plan",
    "Request",
    "ask_ahead",
    "cancel",
    "keep_warm",
    "plan",
    "prepare",
    "restore",
    "resume",
    "rewritten",
    "submit",
    "submit_together",
    "wait",
    "write",
]

# the kind of a run that has trials and no job of its own
SWEEP = "sweep"
# seconds in which a run directory that its own script deleted gets its record back
REWRITTEN = 5.0
# seconds that a supervisor is given to take its run
TAKEN_WITHIN = 5.0


def submit(
    request: Request, project: Project | None = None, start: Callable[[], Starter] = Starter
) -> RunDirectory:
    """Take the snapshot, write the run and hand it to a supervisor; returns as soon as the run exists.

    `start` makes the supervisor: a new process unless the caller has one ready.  Raises what `plan` raises,
    SnapshotError, ValueTransferError.  Nothing is left when it raises.
    """
    return submit_together([request], project, start)[0]


def submit_together(
    requests: Sequence[Request],
    project: Project | None = None,
    start: Callable[[], Starter] = Starter,
    before: Callable[[Sequence[RunDirectory]], None] = lambda _: None,
) -> list[RunDirectory]:
    """Start several runs with the snapshot of the first, all of them or none; raises what `submit` raises.

    `before` is called when all are written and none is started.
    """
    planned = [plan(request, project) for request in requests]
    # a run that repeats another one has its project's name, whatever became of the folder
    repeats = planned[0].repeats is not None
    named = planned[0].project if repeats else registered(planned[0].project)
    if named.key != planned[0].project.key:  # another folder took the name meanwhile
        planned = [plan(request, named) for request in requests]
    passwords = [handed_over(one) for one in planned]
    starters: list[Starter] = []
    directories: list[RunDirectory] = []
    begun: list[tuple[Plan, RunDirectory]] = []
    try:
        # interpreters and containers start while the snapshot is taken; all are let go if one cannot
        for one in planned:
            starters.append(start())
            begun.append(begin(one))
            directories.append(begun[-1][1])
            starters[-1].expect(one.target.kind, directories[-1].path, anticipated(*begun[-1]))
        for number, (one, directory) in enumerate(begun):
            write(one.replace(source_run=directories[0]) if number else one, directory)
        before(directories)
    except BaseException:
        for starter in starters:
            starter.leave()
        for directory in directories:
            runs.discard(directory)
        raise
    for starter, directory, request, given in zip(starters, directories, requests, passwords, strict=True):
        secrets = {**request.environment, **request.secrets}
        try:
            starter.go(directory.path, secrets, given)
        except SupervisorGone:  # one that was ready has died since
            Starter().go(directory.path, secrets, given)
    _wake_queue(directories[0].home)
    return directories


def _wake_queue(home: str) -> None:
    """Have what waits in the queue go on, should its worker have been killed."""
    try:
        names = os.listdir(home + "/queue")
    except FileNotFoundError:
        return
    if any(name.endswith(".json") and name != "settings.json" for name in names):
        from aml_jupyter import queueing

        queueing.ensure_worker(home)


def restore(directory: RunDirectory, into: str, *, force: bool = False) -> None:
    """Put the snapshot of a run into a folder, and its cell, when it had one, beside the snapshot's files.

    Raises SnapshotError for a folder that is not empty unless `force`, or a snapshot that is gone.
    """
    from aml_jupyter.snapshot import Store
    from aml_jupyter.snapshot import restore as restore_snapshot

    if os.path.exists(directory.path + "/remote.json"):
        from aml_jupyter import syncing

        syncing.complete(directory)
        syncing.need_snapshot(directory)
    record = runs.load_record(directory)
    restore_snapshot(Store(aml_home() + "/snapshots"), record.snapshot_id, into, force=force)
    cell = directory.job + "/cell.py"
    if record.cell_sha256 and os.path.exists(cell):
        write_atomic(f"{into}/cell_{record.run_id}.py", read_bounded(cell, LARGEST_SCRIPT))


def resume(directory: RunDirectory, secrets: Mapping[str, str] | None = None) -> bool:
    """Give a run that nobody looks after a new supervisor; False when it has one, gets one or has ended."""
    record = runs.read_record(directory)
    if record.kind == SWEEP or record.status == "Queued":
        from aml_jupyter import queueing

        return queueing.resume(directory, record, secrets or {})
    if record.status != "NotResponding" or runs.supervised(directory):
        return False
    # the interpreter that the run was submitted with, while it is there
    python = str(record.supervisor.get("executable", ""))
    passwords = passwords_again(directory, record)
    before = _told(directory)
    Starter(python if os.access(python, os.X_OK) else "").go(directory.path, secrets or {}, passwords)
    # until it has the run, what its predecessor said last still stands: that it needs a secret
    due = time.monotonic() + TAKEN_WITHIN
    while _told(directory) == before and not runs.supervised(directory) and time.monotonic() < due:
        time.sleep(0.005)
    return True


def _told(directory: RunDirectory) -> int:
    """How much was said of the state of a run."""
    try:
        return os.stat(directory.status_jsonl).st_size
    except FileNotFoundError:
        return 0


def cancel(directory: RunDirectory, *, kill: bool = False, abandon: bool = False) -> None:
    """Ask a run to end; where nobody supervises it, a new supervisor carries the request out.

    `abandon` ends it without its target where that does not answer: what runs there is left alone.
    """
    record = runs.load_record(directory)
    mode = runs.ABANDON if abandon else runs.KILL if kill else runs.TERMINATE
    runs.request_cancel(directory, mode=mode)
    if record.kind == SWEEP or record.status == "Queued":
        from aml_jupyter import queueing

        if queueing.cancel(directory, record):
            return
    resume(directory)


def wait(
    directory: RunDirectory, timeout: float | None = None, secrets: Mapping[str, str] | None = None
) -> Record:
    """Block until a run has ended and return its record; continues a run whose supervisor died.

    `secrets` are what the submitter still holds, for a run that did not start before that.
    Raises RunFailed `run.wait_timeout` after `timeout` seconds, AmlError when no supervisor stays with it.
    """
    due = None if timeout is None else time.monotonic() + timeout
    lost = Lost(secrets)
    while True:
        try:
            if _await_supervisor(directory, due):
                record = runs.read_record(directory)
                if record.status in TERMINAL:
                    return record
                lost.resume(directory, record)
                if record.status == "Queued":
                    resume(directory)
                    time.sleep(0.2 if due is None else max(0.0, min(0.2, due - time.monotonic())))
        except RunNotFound:
            rewritten(directory)
        if due is not None and time.monotonic() >= due:
            raise RunFailed(
                f"{directory.run_id} has not ended after {timeout:g} s",
                code="run.wait_timeout",
                run_id=directory.run_id,
                exit_code=124,
            )


def rewritten(directory: RunDirectory) -> Record:
    """The record of a run that was just there: where a script deletes it, its supervisor writes it anew.

    Raises RunNotFound when nobody did.
    """
    due = time.monotonic() + REWRITTEN
    while True:
        try:
            return runs.load_record(directory)
        except RunNotFound:
            if time.monotonic() > due:
                raise
        time.sleep(0.02)


class Lost:
    """Gives a run that lost its supervisor a new one, ever less often, and not for ever."""

    MOST = 5

    def __init__(self, secrets: Mapping[str, str] | None = None) -> None:
        self.secrets = secrets or {}
        self.times = 0
        self.due = 0.0

    def resume(self, directory: RunDirectory, record: Record) -> None:
        """Resume the run unless it is about to start, or it was done a moment ago.

        Raises AmlError `secret.needed` for a run that waits for a person, `supervisor.error` at the end.
        """
        waits = record.status == "Queued" and record.reason == "secret.needed"
        if (record.status != "NotResponding" and not waits) or time.monotonic() < self.due:
            return
        if record.reason == "secret.needed" and runs.supervised(directory):
            return  # somebody who has it took the run a moment ago
        if record.reason == "secret.needed" and self._lacks(directory, record):
            error = record.error or {}
            raise AmlError(f"{record.run_id}: {error['message']}", code=record.reason, hint=error["hint"])
        if self.times >= self.MOST:
            raise AmlError(
                f"{record.run_id} has no supervisor, and none stays",
                code="supervisor.error",
                hint=f"aml logs {record.run_id} --control",
            )
        resume(directory, self.secrets)
        self.times += 1
        self.due = time.monotonic() + 0.5 * 2.0**self.times

    def _lacks(self, directory: RunDirectory, record: Record) -> bool:
        """Whether a run that waits for variables or a password would wait again."""
        if not self.secrets.keys() >= set(record.environment_secret):
            return True
        # where it also had variables to wait for, one try tells whether these were all
        tried = self.times > 0 or not record.environment_secret
        return tried and waits_for_password(directory) and not passwords_again(directory, record)


def _await_supervisor(directory: RunDirectory, due: float | None) -> bool:
    """Sleep until the supervisor has gone, or for a second; True when it is gone."""
    seconds = 1.0 if due is None else max(0.0, min(1.0, due - time.monotonic()))
    who = runs.supervisor_identity(directory)
    if who is not None and processes.is_alive(who):
        processes.wait_end(who, seconds)
    elif runs.load_record(directory).status not in TERMINAL:
        time.sleep(min(seconds, 0.005))
    # the record first: asking who holds a lock takes longer than the run's bookkeeping
    return runs.load_record(directory).status in TERMINAL or not runs.supervised(directory)
