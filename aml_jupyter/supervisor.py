"""Sees one run through, from the copy of the project to the ending, and can be killed at any moment.

Started by file path as `python -S -E -s supervisor.py`, before the run exists, so that its start overlaps
with the snapshot.  It waits on standard input for one line of JSON,
`{"directory": ..., "environment": {...}, "secrets": {...}}`: the run directory, the environment of the run,
and variables that may not be written anywhere.  End of input without a line: nothing was submitted.
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

from aml_jupyter import plainjson, processes, runs
from aml_jupyter.errors import AmlError
from aml_jupyter.executors import executor_for
from aml_jupyter.job import TERMINAL, Exit, Gone, Job, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.executors import Executor
    from aml_jupyter.job import Handle
    from aml_jupyter.runs import Record, RunDirectory

# how often a request to cancel is looked for: one stat() a look
CANCEL_LOOK = 0.2


def main() -> None:
    """Wait for a run, see it through."""
    os.umask(0o077)
    _get_ready()
    message = _read_order()
    if not message.endswith(b"\n"):
        return
    order = plainjson.loads(message)
    os.chdir("/")
    os.environ.clear()
    os.environ.update(order["environment"])
    supervise(order["directory"], order["secrets"])


def _read_order() -> bytes:
    """The line on descriptor 0, read as it is: a fork of a command may have no standard input object."""
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        part = os.read(0, 1 << 16)
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


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
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(lock, 0)
        os.pwrite(lock, plainjson.dumps({"format": 1, **processes.identity(os.getpid())}).encode(), 0)
        record = runs.load_record(directory)
        if record.status in TERMINAL:
            return False
        _Supervision(directory, record, secrets).see_through()
        return True
    finally:
        os.close(lock)


class _Supervision:
    """One run, one supervisor: nothing here that the run directory does not hold as well."""

    def __init__(self, directory: RunDirectory, record: Record, secrets: Mapping[str, str]) -> None:
        self.directory = directory
        self.record = record
        self.secrets = secrets
        self.request = _load(directory.job + "/request.json")
        self.job = Job.from_request(directory.path, self.request or _remembered(record))
        self.executor: Executor = executor_for(self.job.kind)
        self.phases: dict[str, float] = dict(record.phases)
        self.cancel_sent: str | None = None

    def see_through(self) -> None:
        """Start the job unless it was started, wait for its end, write the ending."""
        if missing := self._missing_secrets():
            # neither an ending nor a defect: whoever resumes the run gives them
            self._log(f"needs {missing}, which is kept nowhere: aml resume {self.job.run_id} -e NAME=VALUE")
            self._state("NotResponding", "secret.needed")
            return
        try:
            handle = self._handle()
            exit_, evidence = self._watch(handle) if handle else (None, None)
        except AmlError as error:
            self._log(f"{error}")
            self._end("Failed", error.code, error=error.as_json())
            return
        # the outermost edge: a defect of ours must still become an ending
        except Exception:  # noqa: BLE001
            import traceback

            self._log(traceback.format_exc())
            self._end("Failed", "supervisor.error", error=_defect(self.directory.control_log))
            return
        if handle is None:
            self._end("Canceled", "canceled before it was started")
        else:
            self._finish(handle, exit_, evidence)

    def _handle(self) -> Handle | None:
        """The handle of the job, started now if it never was; None when it was canceled before that."""
        known: Handle | None = _load(self.directory.handle_json) or self.executor.find(self.job)
        if known is None:
            known = self._start()
        if known is not None and not os.path.exists(self.directory.handle_json):
            runs.write_json(self.directory.handle_json, known, sync=False)
        return known

    def _missing_secrets(self) -> str:
        """Names of variables that a run which has not started needs and this supervisor was not given."""
        if self._cancel_request() or self.executor.find(self.job):
            return ""
        return ", ".join(name for name in self.record.environment_secret if name not in self.secrets)

    def _start(self) -> Handle | None:
        if self.request is None:
            raise AmlError(
                f"it was never started, and {self.directory.job}/request.json is not whole any more",
                code="run.lost",
                hint=f"Its code is kept: aml run TARGET SCRIPT --from-run {self.job.run_id}",
            )
        with _Phase(self.phases, "prepare"):
            self._state("Preparing")
            self.executor.prepare(self.job)
        if self._cancel_request():
            return None
        os.environ.update(self.secrets)
        with _Phase(self.phases, "start"):
            return self.executor.start(self.job)

    def _watch(self, handle: Handle) -> tuple[Exit | None, str | None]:
        self._state("Running")
        self._note_environment()
        # loaded while the job runs, not when it has ended
        import aml_jupyter.collection  # noqa: F401

        while True:
            liveness = self.executor.poll(handle, CANCEL_LOOK)
            # looked for after the poll: a job that is gone has written its ending, if it ever will
            ending = _load(self.directory.job + "/exit.json")
            if ending is not None:
                return Exit.from_json(ending), None
            if isinstance(liveness, Gone):
                return None, liveness.evidence
            if isinstance(liveness, Unreachable):
                self._state("NotResponding", liveness.cause)
            self._forward_cancel(handle)

    def _note_environment(self) -> None:
        """What the interpreter had installed when the job began."""
        from aml_jupyter.packages import record_environment

        try:
            found = record_environment(self.directory.home, self.job.python)
        except OSError as error:  # no space, or no permission: the run is worth more than the list
            self._log(f"the packages of {self.job.python} are not recorded: {error}")
            return
        self.record = self.record.replace(environment=found, python_version=found["version"])

    def _cancel_request(self) -> str | None:
        return runs.cancel_request(self.directory)

    def _forward_cancel(self, handle: Handle) -> None:
        wanted = self._cancel_request()
        if wanted and wanted != self.cancel_sent:
            self._state("CancelRequested")
            self.executor.cancel(handle, kill=wanted == "kill")
            self.cancel_sent = wanted

    def _finish(self, handle: Handle, exit_: Exit | None, evidence: str | None) -> None:
        self._state("Finalizing")
        if exit_ is None:
            # the runtime is gone without an ending: what it left behind may still write
            self.executor.cancel(handle, kill=True)
        status, reason = _ending(exit_, self._cancel_request() is not None)
        error = None if status != "Failed" else self._why(reason, exit_, evidence)
        changes = {"exit_code": exit_.exit_code, "signal": exit_.signal} if exit_ else {}
        if exit_:
            self.phases["run"] = exit_.duration
        self._end(status, reason, error=error, exit_=exit_, handle=handle, **changes)

    def _why(self, reason: str, exit_: Exit | None, evidence: str | None) -> dict[str, str]:
        from aml_jupyter.collection import last_words

        message = evidence or last_words(self.directory) or _ending_words(exit_)
        return {"code": reason, "message": message, "hint": f"Its output: aml logs {self.job.run_id}"}

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

        with _Phase(self.phases, "collect"):
            if handle is not None:
                self.executor.collect(handle, self.job.work)
            changes.update(collect(self.directory, self.record, exit_, self._log))
        changes.update(status=status, reason=reason, error=error, phases=self.phases)
        changes.update(runs.times(self.record, exit_))
        runs.write_record(self.directory, self.record.replace(**changes))
        self._state(status, reason)

    def _state(self, status: str, reason: str = "") -> None:
        runs.append_status(self.directory, status, reason)

    def _log(self, text: str) -> None:
        fd = os.open(self.directory.control_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(fd, text.rstrip().encode(errors="backslashreplace") + b"\n")
        finally:
            os.close(fd)


class _Phase:
    """Adds the seconds spent inside to a phase."""

    def __init__(self, phases: dict[str, float], name: str) -> None:
        self.phases = phases
        self.name = name

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_exc: object) -> None:
        spent = time.monotonic() - self.began
        self.phases[self.name] = round(self.phases.get(self.name, 0.0) + spent, 6)


def _load(path: str) -> Any:
    """A JSON file, or None where there is none; a power cut can leave one of ours empty, which is none."""
    try:
        with open(path, "rb") as file:
            return plainjson.loads(file.read())
    except (FileNotFoundError, ValueError):
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


def _ending(exit_: Exit | None, cancel_requested: bool) -> tuple[str, str]:
    """Status and reason: only the runtime's own record can say that a run completed."""
    if exit_ is None:
        return ("Canceled", "canceled") if cancel_requested else ("Failed", "run.lost")
    if exit_.timeout:
        return "Failed", "run.timeout"
    if exit_.cancel:
        return "Canceled", "canceled"
    if exit_.signal is not None:
        return "Failed", "run.oom" if exit_.oom else "run.signal"
    if exit_.exit_code:
        return "Failed", "run.exit_nonzero"
    return "Completed", ""


def _ending_words(exit_: Exit | None) -> str:
    if exit_ is None:
        return "the run left no ending"
    if exit_.signal is not None:
        return f"ended by signal {exit_.signal}"
    return f"exit code {exit_.exit_code}"


def _defect(log: str) -> dict[str, str]:
    return {
        "code": "supervisor.error",
        "message": "the supervisor met a defect of aml_jupyter",
        "hint": f"Please report it with {log}",
    }


if __name__ == "__main__":
    main()
    # whoever waits for the run waits for this process: nothing is left that had to be put in order
    os._exit(0)
