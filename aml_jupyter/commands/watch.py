"""`aml logs`, `attach`, `wait`, `stop`, `resume`: look after runs from any process."""

from __future__ import annotations

import os
import time

from aml_jupyter import experiment, runs
from aml_jupyter.commands import add_json, parse_seconds
from aml_jupyter.commands.variables import add_variable_options
from aml_jupyter.config import aml_home
from aml_jupyter.errors import ConfigError, RunFailed, RunNotFound, UsageError
from aml_jupyter.follow import Event, Follower, Progress, Text, open_job_file
from aml_jupyter.job import TERMINAL
from aml_jupyter.printable import safe_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Mapping

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.config import Project
    from aml_jupyter.follow import Output
    from aml_jupyter.runs import Record, RunDirectory

# exit statuses of endings that have none of their own, as shells and coreutils number them
CANCELED, TIMED_OUT, LOST = 130, 124, 125
# seconds between two looks for a supervisor that is about to start
LOOK = 0.01
# the same at a run that waits in the queue
QUEUED_LOOK = 0.25


def find_run(reference: str, *, whole: bool = True) -> RunDirectory:
    """The run of a reference, looking at the project of the working folder first.

    `whole` is whether its cell, events and the like are read: of a run that came from a store they are
    fetched, as far as that answers.
    """
    directory = runs.find(reference, aml_home(), here())
    if whole and os.path.exists(directory.path + "/remote.json"):
        from aml_jupyter import syncing

        syncing.complete_quietly(directory)
    return directory


def _fetch_log(directory: RunDirectory) -> None:
    """Have the log of a run that came from a store, however long it is.  Raises ArtifactError."""
    if os.path.exists(directory.path + "/remote.json"):
        from aml_jupyter import syncing

        syncing.complete(directory, everything=True)


def here() -> Project | None:
    """The project of the working folder; None where that is gone or broken, which its runs are not."""
    from aml_jupyter.config import find_project

    try:
        return find_project()
    except (FileNotFoundError, ConfigError):
        return None


def exit_status(record: Record) -> int:
    """The run's own exit status, or the one that stands for how it ended."""
    if record.status == "Completed":
        return 0
    if record.status == "Canceled":
        return CANCELED
    if record.reason == "run.timeout":
        return TIMED_OUT
    if record.reason in ("run.lost", "run.engine_restarted", "run.outputs_lost"):
        return LOST
    if record.exit_code:
        return int(record.exit_code)
    return 128 + record.signal if record.signal else LOST


def show(output: Output, screen: Screen) -> None:
    """Print one piece of output for a terminal."""
    if isinstance(output, Text):
        screen.output(output.stream, output.text)
    elif isinstance(output, Event):
        _show_event(output.event, screen)
    elif isinstance(output, Progress):
        screen.remark(output.text)


def _show_event(event: dict[str, object], screen: Screen) -> None:
    kind = event["type"]
    if kind in ("display", "result") and isinstance(data := event.get("data"), dict):
        text = data.get("text/plain")
        if isinstance(text, str) and not event.get("update"):
            screen.output("stdout", text + "\n")
    elif kind == "error" and isinstance(lines := event.get("traceback"), list):
        screen.output("stderr", "\n".join(map(str, lines)) + "\n")
    elif kind == "warning":
        screen.remark(f"aml: {event.get('text')}")


def follow_to_end(
    directory: RunDirectory,
    screen: Screen,
    *,
    quiet: bool = False,
    secrets: Mapping[str, str] | None = None,
) -> int:
    """Print a run's output as it happens; Ctrl-C cancels it, a second one kills it.

    `secrets` are what the submitter still holds, should the run need another supervisor.
    """
    begun = experiment.rewritten(directory)
    if begun.kind == experiment.SWEEP:
        from aml_jupyter.commands import sweep

        return sweep.follow_to_end(directory, screen, quiet=quiet, secrets=secrets)
    told = tell_warnings(begun, screen)
    follower = Follower(directory)
    lost = experiment.Lost(secrets)
    interrupts = 0
    record = None
    while record is None:
        try:
            for output in follower.follow():
                if not quiet:
                    show(output, screen)
            record = ending_of(directory, follower, lost)
        except KeyboardInterrupt:
            interrupts += 1
            screen.remark("aml: canceling" if interrupts == 1 else "aml: killing")
            experiment.cancel(directory, kill=interrupts > 1)
        except OSError:  # nobody reads on, or there is no room for what it prints
            screen.remark(f"aml: the run goes on: aml attach {directory.run_id}")
            raise
    for output in follower.rest():
        if not quiet:
            show(output, screen)
    tell_ending(record, screen, told)
    return exit_status(record)


def ending_of(directory: RunDirectory, follower: Follower, lost: experiment.Lost) -> Record | None:
    """The record of a run that has ended; None when there is more to follow, by a new supervisor too."""
    try:
        if follower.status in TERMINAL:
            return experiment.wait(directory)
        record = runs.read_record(directory)
        if record.status == "Queued":
            experiment.resume(directory)
            time.sleep(QUEUED_LOOK)
        elif not record.ended:
            lost.resume(directory, record)
            time.sleep(LOOK)
    except RunNotFound:
        record = experiment.rewritten(directory)
    return record if record.ended else None


def tell_warnings(record: Record, screen: Screen, told: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Say what a run warns of, but for what was said before; everything that now has been said."""
    for warning in record.warnings:
        if warning not in told:
            screen.remark(f"aml: {warning}")
    return record.warnings


def tell_ending(record: Record, screen: Screen, told: tuple[str, ...] = ()) -> None:
    """Say how a run ended and what to do about it."""
    if record.status != "Completed":
        error = record.error or {}
        begun = record.start_time_utc is not None
        code = f" [{record.reason}]" if error and not begun else ""
        screen.remark(f"aml: {record.run_id} {record.status}: {error.get('message') or record.reason}{code}")
        if not begun and (hint := error.get("hint")):  # it has no output to look at
            screen.remark(hint)
    tell_warnings(record, screen, told)
    if record.not_kept:
        count = max(record.not_kept_count, len(record.not_kept))
        shown = ", ".join(map(safe_name, record.not_kept[:5])) + (" ..." if count > 5 else "")
        screen.remark(f"aml: not kept (written outside outputs/ and the share): {shown}")
        screen.remark(f"aml: aml rescue {record.run_id} PATH fetches one")
    if record.artifacts_state == "pending":
        screen.remark(
            f"aml: artifacts: pending; they are being stored, aml push {record.run_id} waits for it"
        )


def arguments_logs(parser: ArgumentParser) -> None:
    """Options of `aml logs`."""
    parser.add_argument("run", metavar="RUN", nargs="?", default="@last", help="@last unless said")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")
    parser.add_argument("--tail", type=int, metavar="N", help="only the last N lines")
    parser.add_argument("--stderr", action="store_true", help="only standard error")
    parser.add_argument("--control", action="store_true", help="what preparation and collection did")


def do_logs(options: Namespace, screen: Screen) -> int:
    """Print the log of a run, byte for byte when nobody looks at a terminal."""
    if options.tail is not None and options.tail < 0:
        raise UsageError("--tail must be 0 or more")
    directory = find_run(options.run)
    _fetch_log(directory)
    if options.control:
        return _print_file(directory.control_log, screen)
    if runs.load_record(directory).kind == experiment.SWEEP:
        run_id = directory.run_id
        screen.remark(f"aml: a sweep prints nothing: aml show {run_id} lists its trials, aml logs TRIAL")
        return 0
    follower = Follower(directory, errors="replace" if screen.interactive else "surrogateescape")
    if options.tail is not None:
        follower.position = _tail_position(directory.log, options.tail)
    begin = follower.position
    if options.follow:
        _await_turn(directory)
    for output in follower.follow() if options.follow else follower.rest():
        if isinstance(output, Text) and (not options.stderr or output.stream == "stderr"):
            screen.output("stdout", output.text)
        elif isinstance(output, Event) and not options.stderr and output.event.get("at", begin) >= begin:
            _show_event(output.event, screen)
    return 0


def _await_turn(directory: RunDirectory) -> None:
    """Wait until a run of the queue is started."""
    while runs.read_record(directory).status == "Queued":
        experiment.resume(directory)
        time.sleep(QUEUED_LOOK)


def _print_file(path: str, screen: Screen) -> int:
    fd = open_job_file(path)
    if fd is not None:  # else nothing was done that had to be told
        with os.fdopen(fd, "rb") as file:
            while block := file.read(1 << 20):
                screen.output("stdout", block.decode(errors="replace"))
    return 0


def _tail_position(path: str, lines: int) -> int:
    """Where the last N lines of a file begin, reading blocks from its end."""
    fd = open_job_file(path)
    if fd is None:
        return 0
    with os.fdopen(fd, "rb") as file:
        position = size = file.seek(0, 2)
        wanted = lines
        if lines == 0:
            return size
        while position > 0:
            begin = max(0, position - (1 << 16))
            file.seek(begin)
            block = file.read(position - begin)
            # the new line that ends the file ends a line, it does not begin one
            end = len(block) - 1 if position == size and block.endswith(b"\n") else len(block)
            while (at := block.rfind(b"\n", 0, end)) >= 0:
                wanted -= 1
                if wanted <= 0:
                    return begin + at + 1
                end = at
            position = begin
        return 0


def arguments_attach(parser: ArgumentParser) -> None:
    """Options of `aml attach`."""
    parser.add_argument("run", metavar="RUN", nargs="?", default="@last", help="@last unless said")
    add_json(parser)


def do_attach(options: Namespace, screen: Screen) -> int:
    """Replay a run's output and follow it to its end."""
    directory = find_run(options.run)
    _fetch_log(directory)
    status = follow_to_end(directory, screen, quiet=options.json)
    if options.json:
        from aml_jupyter.commands.history import record_json

        screen.json(record_json(directory))
    return status


def arguments_wait(parser: ArgumentParser) -> None:
    """Options of `aml wait`."""
    parser.add_argument("runs", metavar="RUN", nargs="*", default=["@last"], help="@last unless said")
    add_json(parser)
    parser.add_argument("--timeout", type=parse_seconds, metavar="TIME", help="give up after 30s, 10m, 2h")


def do_wait(options: Namespace, screen: Screen) -> int:
    """Wait for runs and say how each ended; the exit status is the last one's that did not end well."""
    due = None if options.timeout is None else time.monotonic() + options.timeout
    status = 0
    ended = []
    for directory in [find_run(reference) for reference in options.runs]:
        record = experiment.wait(directory, None if due is None else max(0.0, due - time.monotonic()))
        ended.append(record)
        _tell_status(record, options, screen)
        status = exit_status(record) or status
    if options.json:
        screen.json([_status_json(record) for record in ended])
    _tell_verdicts(ended, screen)
    return status


def _tell_verdicts(records: Iterable[Record], screen: Screen) -> None:
    """Keep and tell the verdicts on runs that were submitted together and have all ended now."""
    several = {one.experiment_id: one for one in records if one.experiment_id not in ("", one.project)}
    if not several:
        return
    from aml_jupyter import portability
    from aml_jupyter.portability.shown import headline

    for group in filter(None, map(portability.group_of, several.values())):
        screen.remark(headline(portability.judge(group, keep=True)))


def _tell_status(record: Record, options: Namespace, screen: Screen) -> None:
    if not options.json:
        screen.write(f"{record.run_id} {record.status}\n")
        screen.out.flush()


def _status_json(record: Record) -> dict[str, object]:
    names = ("run_id", "status", "reason", "exit_code", "signal", "duration")
    return {name: getattr(record, name) for name in names}


def arguments_stop(parser: ArgumentParser) -> None:
    """Options of `aml stop`."""
    parser.add_argument("runs", metavar="RUN", nargs="*", default=["@last"], help="@last unless said")
    add_json(parser)
    parser.add_argument("--kill", action="store_true", help="do not give it time to end by itself")
    parser.add_argument("--abandon", action="store_true",
                        help="end it here, with nothing ended at a target that is away")  # fmt: skip


def do_stop(options: Namespace, screen: Screen) -> int:
    """Cancel runs and wait until they have ended."""
    found = [find_run(reference) for reference in options.runs]
    for directory in found:
        if runs.read_record(directory).status not in TERMINAL:
            experiment.cancel(directory, kill=options.kill, abandon=options.abandon)
    ended = []
    for directory in found:
        ended.append(experiment.wait(directory))
        _tell_status(ended[-1], options, screen)
    if options.json:
        screen.json([_status_json(record) for record in ended])
    return 0


def arguments_resume(parser: ArgumentParser) -> None:
    """Options of `aml resume`."""
    parser.add_argument("runs", metavar="RUN", nargs="*", help="all that need it, unless named")
    add_variable_options(parser)
    add_json(parser)


def do_resume(options: Namespace, screen: Screen) -> int:
    """Give runs without a supervisor a new one."""
    from aml_jupyter.commands.variables import environment_of, secrets_of

    secrets = {**environment_of(options), **secrets_of(options)}
    found = [find_run(reference) for reference in options.runs] or runs.unfinished(aml_home())
    resumed = {one.run_id: experiment.resume(one, secrets) for one in found}
    if options.json:
        screen.json(resumed)
        return 0
    for run_id, done in resumed.items():
        screen.write(f"{run_id} {'resumed' if done else 'needs nothing'}\n")
    return 0


def failure(record: Record) -> RunFailed:
    """The error that stands for a run which did not complete."""
    error = record.error or {}
    return RunFailed(
        f"{record.run_id} {record.status}: {error.get('message') or record.reason}",
        code=record.reason or "run.failed",
        hint=error.get("hint", ""),
        run_id=record.run_id,
        exit_code=exit_status(record),
    )
