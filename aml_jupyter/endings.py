"""What the ending of a job means for its run: status, reason, and the words for a person."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.job import Exit, Gone, Job
    from aml_jupyter.runs import RunDirectory

SIGKILL = 9


def status_of(exit_: Exit | None, cancel_requested: bool, gone: Gone | None = None) -> tuple[str, str]:
    """Status and reason: only the runtime's own record can say that a run completed."""
    if exit_ is None:
        lost = gone.reason if gone else "run.lost"
        return ("Canceled", "canceled") if cancel_requested else ("Failed", lost)
    if exit_.timeout:
        return "Failed", "run.timeout"
    if exit_.cancel:
        by_target = gone is not None and not cancel_requested
        return ("Failed", gone.reason) if gone and by_target else ("Canceled", "canceled")
    if exit_.signal is not None:
        return "Failed", "run.oom" if exit_.oom and exit_.signal == SIGKILL else "run.signal"
    if exit_.exit_code:
        return "Failed", "run.exit_nonzero"
    return "Completed", ""


def error_of(
    directory: RunDirectory, job: Job, reason: str, exit_: Exit | None, gone: Gone | None = None
) -> dict[str, str]:
    """Why a run failed: the evidence there is, else its exception, else how its process ended."""
    from aml_jupyter.collection import error_of as exception_of
    from aml_jupyter.collection import last_line

    killed = exit_ is not None and exit_.signal is not None
    message = gone.evidence if gone else "" if killed else exception_of(directory)
    if not message:
        message = _words(job, exit_)
        line = "" if exit_ and exit_.timeout else last_line(directory)
        message += f'; its last line: "{line}"' if line else ""
    return {"code": reason, "message": message, "hint": f"Its output: aml logs {job.run_id}"}


def _words(job: Job, exit_: Exit | None) -> str:
    if exit_ is None:
        return "the run left no ending"
    if exit_.timeout:
        return f"it was ended after its limit of {job.timeout:g} s"
    if exit_.oom and exit_.signal == SIGKILL:
        limit = job.resources.get("memory")
        return "ended for lack of memory" + (f": its limit is {limit / 2**20:.0f} MiB (-m)" if limit else "")
    if exit_.signal is not None:
        return f"ended by signal {exit_.signal}{_signal_name(exit_.signal)}"
    return f"exit code {exit_.exit_code}"


def _signal_name(number: int) -> str:
    import signal

    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal
        return ""


def defect(log: str) -> dict[str, str]:
    """The error of a run whose supervisor met a defect; `log` is where it is told."""
    return {
        "code": "supervisor.error",
        "message": "the supervisor met a defect of aml_jupyter",
        "hint": f"Please report it with {log}",
    }
