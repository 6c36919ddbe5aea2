"""`aml logs`, `attach`, `wait`, `stop`, `resume`: look after runs from any process."""

from __future__ import annotations

from aml_jupyter import experiment, runs
from aml_jupyter.commands import parse_seconds
from aml_jupyter.config import aml_home
from aml_jupyter.errors import RunFailed
from aml_jupyter.follow import Event, Follower, Text
from aml_jupyter.job import TERMINAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.follow import Output
    from aml_jupyter.runs import Record, RunDirectory

# exit statuses of endings that have none of their own, as shells and coreutils number them
CANCELED, TIMED_OUT, LOST = 130, 124, 125


def find_run(reference: str) -> RunDirectory:
    """The run of a reference, looking at the project of the working folder first."""
    from aml_jupyter.config import find_project

    return runs.find(reference, aml_home(), find_project())


def exit_status(record: Record) -> int:
    """The run's own exit status, or the one that stands for how it ended."""
    if record.status == "Completed":
        return 0
    if record.status == "Canceled":
        return CANCELED
    if record.reason == "run.timeout":
        return TIMED_OUT
    if record.exit_code:
        return int(record.exit_code)
    return 128 + record.signal if record.signal else LOST


def show(output: Output, screen: Screen) -> None:
    """Print one piece of output for a terminal."""
    if isinstance(output, Text):
        screen.output(output.stream, output.text)
    elif isinstance(output, Event):
        _show_event(output.event, screen)


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


def follow_to_end(directory: RunDirectory, screen: Screen, *, quiet: bool = False) -> int:
    """Print a run's output as it happens; Ctrl-C cancels it, a second one kills it."""
    interrupts = 0
    follower = Follower(directory)
    while True:
        try:
            for output in follower.follow():
                if not quiet:
                    show(output, screen)
            record = experiment.wait(directory)
            for output in follower.read():
                if not quiet:
                    show(output, screen)
            break
        except KeyboardInterrupt:
            interrupts += 1
            screen.remark("aml: canceling" if interrupts == 1 else "aml: killing")
            experiment.cancel(directory, kill=interrupts > 1)
    tell_ending(record, screen)
    return exit_status(record)


def tell_ending(record: Record, screen: Screen) -> None:
    """Say how a run ended and what to do about it."""
    if record.status != "Completed":
        error = record.error or {}
        screen.remark(f"aml: {record.run_id} {record.status}: {error.get('message') or record.reason}")
    for warning in record.warnings:
        screen.remark(f"aml: {warning}")
    if record.not_kept:
        shown = ", ".join(record.not_kept[:5]) + (" ..." if len(record.not_kept) > 5 else "")
        screen.remark(f"aml: not kept (written outside outputs/ and the share): {shown}")
        screen.remark(f"aml: aml rescue {record.run_id} PATH fetches one")


def arguments_logs(parser: ArgumentParser) -> None:
    """Options of `aml logs`."""
    parser.add_argument("run", metavar="RUN", nargs="?", default="@last")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")
    parser.add_argument("--tail", type=int, metavar="N", help="only the last N lines")
    parser.add_argument("--stderr", action="store_true", help="only standard error")
    parser.add_argument("--control", action="store_true", help="what preparation and collection did")


def do_logs(options: Namespace, screen: Screen) -> int:
    """Print the log of a run, as bytes when nobody looks at a terminal."""
    directory = find_run(options.run)
    if options.control:
        return _print_file(directory.control_log, screen)
    follower = Follower(directory)
    if options.tail is not None:
        follower.position = _tail_position(directory.job + "/log", options.tail)
    for output in follower.follow() if options.follow else follower.read():
        if isinstance(output, Text) and (not options.stderr or output.stream == "stderr"):
            screen.output("stdout", output.text)
        elif isinstance(output, Event) and not options.stderr:
            _show_event(output.event, screen)
    return 0


def _print_file(path: str, screen: Screen) -> int:
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                screen.output("stdout", block.decode(errors="replace"))
    except FileNotFoundError:
        pass  # nothing was done that had to be told
    return 0


def _tail_position(path: str, lines: int) -> int:
    """Where the last N lines of a file begin, reading blocks from its end."""
    try:
        with open(path, "rb") as file:
            position = size = file.seek(0, 2)
            wanted = lines
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
            return 0 if lines > 0 else size
    except FileNotFoundError:
        return 0


def arguments_attach(parser: ArgumentParser) -> None:
    """Options of `aml attach`."""
    parser.add_argument("run", metavar="RUN", nargs="?", default="@last")


def do_attach(options: Namespace, screen: Screen) -> int:
    """Replay a run's output and follow it to its end."""
    return follow_to_end(find_run(options.run), screen)


def arguments_wait(parser: ArgumentParser) -> None:
    """Options of `aml wait`."""
    parser.add_argument("runs", metavar="RUN", nargs="*", default=["@last"])
    parser.add_argument("--timeout", type=parse_seconds, metavar="TIME", help="give up after 30s, 10m, 2h")


def do_wait(options: Namespace, screen: Screen) -> int:
    """Wait for runs and say how each ended; the exit status is the last one's that did not end well."""
    status = 0
    for reference in options.runs:
        record = experiment.wait(find_run(reference), options.timeout)
        screen.write(f"{record.run_id} {record.status}\n")
        status = exit_status(record) or status
    return status


def arguments_stop(parser: ArgumentParser) -> None:
    """Options of `aml stop`."""
    parser.add_argument("runs", metavar="RUN", nargs="*", default=["@last"])
    parser.add_argument("--kill", action="store_true", help="do not give it time to end by itself")


def do_stop(options: Namespace, screen: Screen) -> int:
    """Cancel runs and wait until they have ended."""
    for reference in options.runs:
        directory = find_run(reference)
        if runs.read_record(directory).status not in TERMINAL:
            experiment.cancel(directory, kill=options.kill)
        record = experiment.wait(directory)
        screen.write(f"{record.run_id} {record.status}\n")
    return 0


def arguments_resume(parser: ArgumentParser) -> None:
    """Options of `aml resume`."""
    parser.add_argument("runs", metavar="RUN", nargs="*", help="all that need it, unless named")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]",
                        help="a variable that the run needs and that is kept nowhere")  # fmt: skip
    parser.add_argument("--env-file", action="append", default=[], metavar="FILE")


def do_resume(options: Namespace, screen: Screen) -> int:
    """Give runs without a supervisor a new one."""
    from aml_jupyter.commands.submit import environment_of

    secrets = environment_of(options)
    found = [find_run(reference) for reference in options.runs] or runs.unfinished(aml_home())
    for directory in found:
        word = "resumed" if experiment.resume(directory, secrets) else "needs nothing"
        screen.write(f"{directory.run_id} {word}\n")
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
