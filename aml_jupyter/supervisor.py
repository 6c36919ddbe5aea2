"""Sees one run through, from the copy of the project to the ending, and can be killed at any moment.

Started by file path as `python -S -E -s supervisor.py`, before the run exists, so that its start overlaps
with the snapshot.  It waits on standard input for one line of JSON,
`{"directory": ..., "environment": {...}, "secrets": {...}}`: the run directory, the environment of the run,
and variables that may not be written anywhere.  End of input without a line: nothing was submitted.
Lines `{"expect": KIND, "directory": ..., "demand": ...}` before it say what kind of target it will be and,
when the run has a name, what is known of its `request.json`.
"""

from __future__ import annotations

import os
import sys
import time

if __name__ == "__main__":
    # whoever started this waits until its first process has ended
    if os.fork():
        os._exit(0)
    # started by path, without site: the package's parent takes the place of its folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import fcntl

from aml_jupyter import endings, plainjson, processes, runs
from aml_jupyter.confined import read_bounded
from aml_jupyter.controllog import ControlLog
from aml_jupyter.errors import AmlError, ConfinedError, TargetUnavailable
from aml_jupyter.executors import executor_for, load
from aml_jupyter.job import TERMINAL, Exit, Gone, Job, Unreachable
from aml_jupyter.pacing import Abandoned, CanceledMeanwhile, Looking, Phase, pauses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    from aml_jupyter.executors import Executor
    from aml_jupyter.job import Handle, Liveness
    from aml_jupyter.runs import Record, RunDirectory

    T = TypeVar("T")

# how often a request to cancel is looked for: one stat() a look
CANCEL_LOOK = 0.2
# seconds
PATIENCE = 3.0
# seconds between two tries at a target that does not answer: to start a job or bring its files, to look at it
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
LONGEST_LOOK = 10.0
# bytes of a JSON file of the job
LARGEST = 16 << 20


def main() -> None:
    """Wait for a run, see it through."""
    os.umask(0o077)
    _get_ready()
    order = _read_order()
    if order is None:
        _forsake()
        return
    os.chdir("/")
    os.environ.clear()
    os.environ.update(order["environment"])
    if "AML_INDEX_CREDENTIALS" in os.environ:
        from aml_jupyter.environment import credentials

        credentials.take_over(os.environ)
    supervise(order["directory"], order["secrets"])


def _read_order() -> dict[str, Any] | None:
    """What descriptor 0 says, read as it is: a fork of a command may have no standard input object."""
    data = b""
    while True:
        line, newline, rest = data.partition(b"\n")
        if newline:
            order: dict[str, Any] = plainjson.loads(line)
            if "expect" not in order:
                return order
            _anticipate(order)
            data = rest
        elif part := os.read(0, 1 << 16):
            data += part
        else:
            return None


# the job of which something was begun
_anticipated: list[Job] = []


def _anticipate(order: Mapping[str, Any]) -> None:
    """Load what a kind of run needs, and begin what can be begun of one that is being written."""
    load(order["expect"])
    if order["demand"] is None:
        return
    job = Job.from_request(order["directory"], order["demand"])
    _anticipated.append(job)
    try:
        executor_for(job.kind).anticipate(job)
    except (AmlError, OSError):  # whoever starts the run meets it again, and can say so
        return


def _forsake() -> None:
    """Nothing was submitted: leave nothing of it."""
    for job in _anticipated:
        try:
            executor_for(job.kind).forsake(job)
        except (AmlError, OSError):  # a container to which nobody comes ends by itself
            return


def _get_ready() -> None:
    """Load what most runs need while the submitter still writes the run."""
    import hashlib  # noqa: F401

    import aml_jupyter.executors.local
    import aml_jupyter.snapshot.restoring  # noqa: F401


def supervise(path: str, secrets: Mapping[str, str]) -> bool:
    """See the run of a directory through; False when another supervisor holds it or it has ended."""
    directory = runs.RunDirectory(path)
    lock = os.open(directory.supervisor_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _lock(lock, PATIENCE if secrets else 0.0):
            return False
        os.ftruncate(lock, 0)
        os.pwrite(lock, plainjson.dumps({"format": 1, **processes.identity(os.getpid())}).encode(), 0)
        record = runs.load_record(directory)
        if record.status in TERMINAL:
            return False
        supervision = _Supervision(directory, record, secrets)
        supervision.see_through()
        supervision.push()
        return True
    finally:
        os.close(lock)


def _lock(fd: int, patience: float) -> bool:
    """Take the lock; who brings secrets waits a little for one that has none and is about to leave."""
    due = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= due:
                return False
        time.sleep(0.05)


class _Supervision:
    """One run, one supervisor: nothing here that the run directory does not hold as well."""

    def __init__(self, directory: RunDirectory, record: Record, secrets: Mapping[str, str]) -> None:
        self.directory = directory
        self.record = record
        self.secrets = secrets
        self._log = ControlLog(directory.control_log).add
        self.phases = {**record.phases, **runs.phases_over(directory)}
        self.cancel_sent: str | None = None
        self.cancel_seen: str | None = None
        self.rested_with: str | None = None
        self.told = ""
        self.looks = pauses(CANCEL_LOOK, LONGEST_LOOK)

    def see_through(self) -> None:
        """Start the job unless it was started, wait for its end, write the ending; never raises."""
        try:
            self._take_up()
            self._see_through()
        # the outermost edge: whatever it is must become a state that people can read
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def _take_up(self) -> None:
        self.request = _load(self.directory.job + "/request.json")
        self.job = Job.from_request(self.directory.path, self.request or _remembered(self.record))
        self.executor: Executor = executor_for(self.job.kind)

    def _see_through(self) -> None:
        if missing := self._missing_secrets():
            # neither an ending nor a defect: whoever resumes the run gives them
            self._log(f"needs {missing}, which is kept nowhere: aml resume {self.job.run_id} -e NAME=VALUE")
            self._state("NotResponding", "secret.needed")
            return
        try:
            handle = self._handle()
            if handle is None:
                self._end("Canceled", "canceled before it was started")
            else:
                self._finish(handle, *self._watch(handle))
        except Abandoned as found:
            self._abandon(found.said)

    def _abandon(self, said: str) -> None:
        """End a run whose target does not answer, because somebody gave the target up."""
        self._log(f"given up, without its target, which was: {said}")
        left = "what runs at its target was not ended, what it wrote there was not brought"
        hint = f"aml targets sweep {self.record.target} removes it, should the target answer again"
        self.record = self.record.replace(warnings=(*self.record.warnings, f"{left}: {hint}"))
        self._end("Canceled", "run.abandoned")

    def _fail(self, error: Exception) -> None:
        """What can still be said: an ending when the job has one or never began, else that nobody watches."""
        known = error.as_json() if isinstance(error, AmlError) else endings.defect(self.directory.control_log)
        if not isinstance(error, AmlError):
            self._log(_traceback())
        try:
            ending = _load(self.directory.exit_json)
            if known["code"] == "secret.needed":
                # neither an ending nor a defect: whoever resumes the run has it
                self._state("NotResponding", known["code"])
                self._log(str(error))
            elif ending is not None:
                self._end_without_files(Exit.from_json(ending), known)
            elif self._may_run():
                # the job may still run: only its own record or its absence can end it
                self._state("NotResponding", known["code"])
                self._log(str(error))
            else:
                self._write("Failed", known["code"], error=known)
        # the last thing there is to do: the run can be resumed, and the log says why it has to be
        except Exception:  # noqa: BLE001
            self._log(_traceback())
            self._state("NotResponding", known["code"])

    def _end_without_files(self, exit_: Exit, problem: dict[str, str]) -> None:
        """The ending as the job wrote it; what was to be collected is told to be missing."""
        status, reason = endings.status_of(exit_, self._cancel_request() is not None)
        warning = f"not everything was collected: {problem['message']}"
        self._write(
            status,
            reason,
            exit_=exit_,
            error=None if status != "Failed" else endings.error_of(self.directory, self.job, reason, exit_),
            artifacts_state="failed",
            warnings=(*self.record.warnings, warning),
            exit_code=exit_.exit_code,
            signal=exit_.signal,
        )

    def _may_run(self) -> bool:
        """Whether a job may exist at the target: it was started, or somebody was about to."""
        return self._may_be_there() or os.path.exists(self.directory.handle_json)

    def _handle(self) -> Handle | None:
        """The handle of the job, started now if it never was; None when it was canceled before that."""
        known = self._find()
        if known is None:
            known = self._start()
        if known is not None and not os.path.exists(self.directory.handle_json):
            try:
                runs.write_json(self.directory.handle_json, known, sync=False)
            except AmlError as error:  # no space: whoever comes after finds the job without it
                self._log(f"handle.json: {error}")
        return known

    def _find(self) -> Handle | None:
        """The handle of a job that was started before, by whomever."""
        known: Handle | None = _load(self.directory.handle_json)
        if known is None and self._may_be_there():
            known = self._surely(lambda: self.executor.find(self.job), "whether it was started is not known")
        return known

    def _may_be_there(self) -> bool:
        """Whether somebody was about to start the job: only then is there anything to look for."""
        return os.path.exists(self.directory.starting) or os.path.exists(self.directory.started_json)

    def _missing_secrets(self) -> str:
        """Names of variables that a run which has not started needs and this supervisor was not given."""
        missing = ", ".join(name for name in self.record.environment_secret if name not in self.secrets)
        if missing and (self._cancel_request() or self._find()):
            return ""
        return missing

    def _start(self) -> Handle | None:
        if self.request is None:
            raise AmlError(
                f"it was never started, and {self.directory.job}/request.json is not whole any more",
                code="run.lost",
                hint=f"Its code is kept: aml run TARGET SCRIPT --from-run {self.job.run_id}",
            )
        try:
            with Phase(self.phases, "prepare"), Looking(self._tell):
                self._state("Preparing")
                self._tell("")  # nothing is prepared for a run that was canceled in the meantime
                self.executor.prepare(self.job, self._tell)
            self._tell("")
        except CanceledMeanwhile:
            self._forsake()
            return None
        except Exception:
            self._forsake()
            raise
        with Phase(self.phases, "start"):
            handle = self._start_surely()
        try:
            runs.mark_starting(self.directory, self.phases)
        except OSError:  # another supervisor would not know how long it took
            pass
        return handle

    def _forsake(self) -> None:
        """Leave nothing at the target of a job that is not started."""
        try:
            self.executor.forsake(self.job)
        except AmlError as error:
            self._log(f"left at the target: {error}; aml targets sweep removes it")

    def _start_surely(self) -> Handle:
        """Start the job; where the target does not answer nobody knows whether it did: ask until it does."""
        runs.mark_starting(self.directory, self.phases)
        try:
            return self._surely(lambda: self.executor.start(self.job, self.secrets), "it is not started")
        except (TargetUnavailable, Abandoned):
            raise  # nobody knows how far it came
        except Exception:
            os.unlink(self.directory.starting)  # a start that fails leaves nothing behind
            raise

    def _surely(self, ask: Callable[[], T], what: str) -> T:
        """The answer of a target, which is asked until it gives one."""
        said = ""
        for pause in pauses(SHORTEST_PAUSE, LONGEST_PAUSE):
            try:
                return ask()
            except TargetUnavailable as error:
                if not error.passing:
                    raise
                if str(error) != said:  # it may be away for weeks
                    self._log(f"{what}: {error}; trying again")
                    said = str(error)
                self._state("NotResponding", error.code)
            if self._rest(pause) == runs.ABANDON:
                raise Abandoned(said)
        raise AssertionError("there is always one more pause")

    def _tell(self, text: str) -> None:
        """Show progress of the preparation.  Raises CanceledMeanwhile: a request to cancel ends it here."""
        if text:
            self._log(text)
        if self._cancel_request():
            raise CanceledMeanwhile

    def _watch(self, handle: Handle) -> tuple[Exit | None, Gone | None]:
        self._state("Running")
        self._note_environment()
        # loaded while the job runs, not when it has ended
        import aml_jupyter.collection
        import aml_jupyter.pending  # noqa: F401

        while True:
            liveness = self._poll(handle)
            # looked for after the poll: a job that is gone has written its ending, if it ever will
            ending = _load(self.directory.exit_json)
            if ending is not None:
                return Exit.from_json(ending), None
            if isinstance(liveness, Gone):
                return None, liveness
            if isinstance(liveness, Unreachable):
                self._state("NotResponding", liveness.cause)
            elif self.told == "NotResponding":
                self._state("CancelRequested" if self.cancel_sent else "Running")
            self._forward_cancel(handle)

    def _poll(self, handle: Handle) -> Liveness:
        try:
            liveness = self.executor.poll(handle, CANCEL_LOOK)
            self.executor.mirror(handle, self.directory.job)
        except AmlError as error:  # nothing is known for the moment: no reason to end anything
            if error.code == "secret.needed":
                raise
            if self.told != "NotResponding":
                self._log(str(error))
            if self._rest(next(self.looks)) == runs.ABANDON:
                raise Abandoned(str(error)) from None
            return Unreachable(cause=error.code)
        self.looks = pauses(CANCEL_LOOK, LONGEST_LOOK)
        return liveness

    def _rest(self, seconds: float) -> str | None:
        """Wait before the next look at a target that does not answer; a new request to cancel ends it.

        The request there is.
        """
        due = time.monotonic() + seconds
        while (wanted := self._cancel_request()) == self.rested_with and time.monotonic() < due:
            time.sleep(CANCEL_LOOK)
        self.rested_with = wanted
        return wanted

    def _note_environment(self) -> None:
        """What the interpreter had installed when the job began."""
        try:
            found = self.executor.environment(self.job)
        except (OSError, AmlError) as error:  # the run is worth more than the list
            self._log(f"the packages of {self.job.python} are not recorded: {error}")
            return
        self.record = self.record.replace(environment=found, python_version=found["version"])

    def _cancel_request(self) -> str | None:
        return runs.cancel_request(self.directory)

    def _forward_cancel(self, handle: Handle) -> None:
        wanted = self._cancel_request()
        if not wanted or wanted == self.cancel_sent:
            return
        try:
            if self.told != "NotResponding":
                self._state("CancelRequested")
            self.executor.cancel(handle, kill=wanted != runs.TERMINATE)
            self.cancel_sent = wanted
        except AmlError as error:  # asked again at the next look
            if wanted != self.cancel_seen:
                self._log(f"the request to cancel did not arrive: {error}")
        self.cancel_seen = wanted

    def _finish(self, handle: Handle, exit_: Exit | None, gone: Gone | None) -> None:
        self._state("Finalizing")
        if exit_ is None:
            self._end_what_is_left(handle)
        elif exit_.cancel and not self._cancel_request():
            gone = self._ended_by_target(handle)
            if gone is None:
                told = "somebody else asked it to end, not by aml: a signal to its process, or docker stop"
                self.record = self.record.replace(warnings=(*self.record.warnings, told))
        status, reason = endings.status_of(exit_, self._cancel_request() is not None, gone)
        error = (
            None if status != "Failed" else endings.error_of(self.directory, self.job, reason, exit_, gone)
        )
        changes = {"exit_code": exit_.exit_code, "signal": exit_.signal} if exit_ else {}
        if exit_:
            self.phases["run"] = exit_.duration
        self._end(status, reason, error=error, exit_=exit_, handle=handle, **changes)

    def _end_what_is_left(self, handle: Handle) -> None:
        """The runtime is gone without an ending: what it left behind may still write."""
        try:
            self.executor.cancel(handle, kill=True)
        except AmlError as error:  # what is brought may be half of what is written; the ending is the same
            self._log(f"what the run left may still run: {error}")

    def _ended_by_target(self, handle: Handle) -> Gone | None:
        try:
            return self._surely(lambda: self.executor.ended_by_target(handle), "who ended it is not known")
        except AmlError as error:  # it stays the end that somebody asked for
            self._log(f"who asked the job to end is not known: {error}")
            return None

    def _end(
        self,
        status: str,
        reason: str,
        *,
        error: dict[str, str] | None = None,
        exit_: Exit | None = None,
        handle: Handle | None = None,
        **changes: Any,
    ) -> None:
        """Collect what the run left and write the ending, once."""
        from aml_jupyter.collection import collect

        with Phase(self.phases, "collect"):
            lost = self._bring(handle) if handle is not None else ""
            changes.update(collect(self.directory, self.record, exit_, self._log))
        if lost:
            changes.update(artifacts_state="failed", warnings=(*changes["warnings"], lost))
            if status == "Completed":  # whoever looks for its outputs must not be told that all is well
                status, reason = "Failed", "run.outputs_lost"
                error = {"code": reason, "message": lost, "hint": f"Its output: aml logs {self.job.run_id}"}
        self._write(status, reason, exit_=exit_, error=error, **changes)
        if handle is not None:
            self._discard(handle)

    def _bring(self, handle: Handle) -> str:
        """Bring the working copy from the target; one that does not answer is asked until it does.

        Why it was not brought, or empty.  A request to kill ends the wait: the run then has no outputs.
        """
        for pause in pauses(SHORTEST_PAUSE, LONGEST_PAUSE):
            try:
                self.executor.collect(handle, self.job.work)
                return ""
            except TargetUnavailable as error:
                if error.code == "secret.needed":
                    raise
                self._log(f"the outputs cannot be brought now: {error}")
                if not error.mendable or self._cancel_request() in (runs.KILL, runs.ABANDON):
                    return f"the outputs were not brought from the target: {error.message}"
                self._state("NotResponding", error.code)
            self._rest(pause)
        raise AssertionError("there is always one more pause")

    def _discard(self, handle: Handle) -> None:
        """Clean up at the target: the run has ended for everybody, so what goes wrong is only told."""
        try:
            self.executor.discard(handle)
        except AmlError as error:
            self._log(f"left at the target: {error}; aml targets sweep removes it")

    def _write(self, status: str, reason: str, *, exit_: Exit | None = None, **changes: Any) -> None:
        """Write the ending; the one thing that is written also on a full disk."""
        changes.update(status=status, reason=reason, phases=self.phases)
        changes.update(runs.times(self.record, exit_))
        if (state := self._expect_push()) and changes.get("artifacts_state") != "failed":
            changes["artifacts_state"] = state
        runs.write_record(self.directory, self.record.replace(**changes))
        self._state(status, reason)
        if self.record.framework == "PySpark":
            self._forget_private()

    def _expect_push(self) -> str | None:
        """Note that the run is to be stored elsewhere where its project says so; never stops its end."""
        from aml_jupyter import pending

        try:
            return pending.expect(self.directory, self.record)
        except (AmlError, OSError) as error:  # `aml push RUN` stores it all the same
            self._log(f"it is not stored by itself: {error}")
            return None

    def push(self) -> None:
        """Have the run stored elsewhere by another process, when it has ended and that is wanted."""
        from aml_jupyter import pending

        if pending.marked(self.directory.home, self.directory.run_id) is None:
            return
        paths = [str(path) for path in self.record.supervisor.get("sys_path", ())]
        try:
            pending.start(self.directory.home, paths, python=sys.executable, wait=False)
        except OSError as error:  # whoever ends a run next starts it
            self._log(f"it is stored later: {error}")

    def _forget_private(self) -> None:
        """Remove the private Spark settings, which a runtime elsewhere, or one that was killed, has left."""
        try:
            os.unlink(self.directory.job + "/spark.properties")
        except OSError:  # there were none, or the runtime did it
            pass

    def _state(self, status: str, reason: str = "") -> None:
        runs.append_status(self.directory, status, reason)
        self.told = status


def _load(path: str) -> Any:
    """A JSON file, or None where there is none.

    A power cut can leave one of ours empty, and a script can put anything in its place: that is none, too.
    """
    try:
        return plainjson.loads(read_bounded(path, LARGEST))
    except (ConfinedError, ValueError, RecursionError):
        return None


def _remembered(record: Record) -> dict[str, Any]:
    """What the record alone says of a job: enough to find it, not to start it."""
    return {
        "format": 1,
        "run_id": record.run_id,
        "kind": record.kind,
        "python": record.interpreter,
        "command": [],
        "environment": {},
    }


def _traceback() -> str:
    import traceback

    return traceback.format_exc()


if __name__ == "__main__":
    main()
    # whoever waits for the run waits for this process: nothing is left that had to be put in order
    os._exit(0)
