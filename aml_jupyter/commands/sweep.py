"""Sweeps on the command line: `--sweep NAME=VALUES`, the table of trials, and following them to the end."""

from __future__ import annotations

import time

from aml_jupyter import experiment, queueing, runs, sweep
from aml_jupyter.commands.watch import exit_status, tell_ending, tell_warnings
from aml_jupyter.errors import UsageError
from aml_jupyter.sweep import axes
from aml_jupyter.sweep.shown import line, plain
from aml_jupyter.sweep.table import Table, Trials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Request
    from aml_jupyter.runs import RunDirectory
    from aml_jupyter.sweep import Asked

# seconds between two looks at trials: a look reads what has not ended
SHORTEST_LOOK, LONGEST_LOOK = 0.05, 0.5


def asked_of(options: Namespace) -> Asked:
    """What the options of a line ask of a sweep.  Raises UsageError."""
    return sweep.Asked(
        axes=tuple(map(axes.parse, options.sweep)),
        jobs=sweep.JOBS if options.jobs is None else options.jobs,
        max_trials=options.max_trials,
        random=options.random,
        seed=options.seed,
        metric=options.metric,
        fail_fast=options.fail_fast,
        queue=options.queue,
    )


def completed_by(
    options: Namespace, project: Project, tell: Callable[[str], None]
) -> Callable[[Request], RunDirectory | None] | None:
    """What finds runs that make trials unnecessary, where `--needed` asks for it; tells why it finds none."""
    if not getattr(options, "needed", False):
        return None
    from aml_jupyter import reuse

    told: list[str] = []

    def completed(request: Request) -> RunDirectory | None:
        answer = reuse.look(request, project)
        if answer.directory is None and not told and not options.quiet:
            # once: for a hundred trials it is mostly the same
            told.append(answer.why)
            tell(f"aml: --needed: trials are run: {answer.why}")
        return answer.directory

    return completed


def check_alone(options: Namespace) -> None:
    """Refuse options of a sweep where there is none.  Raises UsageError."""
    given = {
        "-j": options.jobs,
        "--max-trials": options.max_trials,
        "--random": options.random,
        "--seed": options.seed,
        "--metric": options.metric,
        "--fail-fast": options.fail_fast,
    }
    for word, value in given.items():
        if value is not None and value is not False and value != "":
            hint = "aml queue jobs N says how many runs of the queue go on at a time." if word == "-j" else ""
            raise UsageError(f"{word} is for a sweep: add --sweep NAME=VALUES", hint=hint)


def submit_and_follow(request: Request, project: Project, options: Namespace, screen: Screen) -> int:
    """Start a sweep, or put a run into the queue; unless detached follow the sweep to its end."""
    if not options.sweep:
        return _enqueue(request, project, options, screen)
    parent = sweep.submit(request, asked_of(options), project, completed_by(options, project, screen.remark))
    table = Trials(parent).look()
    if options.detach or options.queue:
        return _tell_detached(parent, table, options, screen)
    screen.remark(f"RunId: {parent.run_id} ({len(table.trials)} trials)")
    secrets = {**request.environment, **request.secrets}
    status = follow_to_end(parent, screen, quiet=options.quiet or options.json, secrets=secrets)
    if options.json:
        from aml_jupyter.commands.history import record_json

        screen.json({**record_json(parent), "sweep": Trials(parent).look().as_json()})
    return status if options.raise_error else 0


def _tell_detached(parent: RunDirectory, table: Table, options: Namespace, screen: Screen) -> int:
    if options.json:
        screen.json({"run_id": parent.run_id, "trials": [one.run_id for one in table.trials]})
    else:
        screen.write(f"RunId: {parent.run_id}\n")
        where = _place_in_queue(parent) if options.queue else ""
        screen.remark(f"aml: {len(table.trials)} trials{where}; aml show {parent.run_id} lists them")
    tell_warnings(table.record, screen)
    return 0


def _enqueue(request: Request, project: Project, options: Namespace, screen: Screen) -> int:
    from aml_jupyter.experiment.queued import enqueue

    check_alone(options)
    if "," in request.target:
        raise UsageError(
            f"--queue takes one target, not {request.target}", hint="Put a run on each into the queue."
        )
    directory = enqueue(request, project)
    if options.json:
        screen.json({"run_id": directory.run_id})
    else:
        screen.write(f"RunId: {directory.run_id}\n")
        screen.remark(f"aml: it goes on by itself{_place_in_queue(directory)}; aml queue lists what waits")
    tell_warnings(runs.load_record(directory), screen)
    return 0


def _place_in_queue(directory: RunDirectory) -> str:
    before = 0
    for entry in queueing.entries(directory.home):
        if entry.run_id == directory.run_id:
            break
        before += not entry.direct
    paused = ", and the queue is paused" if queueing.settings(directory.home).paused else ""
    count = f"{before} before it" if before else "nothing before it"
    return f" in the queue, {count}{paused}"


def follow_to_end(
    parent: RunDirectory, screen: Screen, *, quiet: bool = False, secrets: Mapping[str, str] | None = None
) -> int:
    """Tell the end of every trial, and the table in the end; Ctrl-C cancels the sweep, a second one kills it.

    `secrets` are what the submitter still holds, should the worker of the queue need them again.
    """
    trials = Trials(parent)
    told = tell_warnings(runs.load_record(parent), screen)
    following = _Following(parent, trials, screen, quiet=quiet, lost=experiment.Lost(secrets))
    interrupts = 0
    while True:
        try:
            table = following.look()
            if table.record.ended:
                break
            time.sleep(following.pause)
        except KeyboardInterrupt:
            interrupts += 1
            screen.remark("aml: canceling" if interrupts == 1 else "aml: killing")
            experiment.cancel(parent, kill=interrupts > 1)
        except OSError:  # nobody reads on
            screen.remark(f"aml: the sweep goes on: aml attach {parent.run_id}")
            raise
    if not quiet:
        screen.write(plain(table) + "\n")
    tell_ending(table.record, screen, told)
    return exit_status(table.record)


class _Following:
    """What was told of a sweep so far."""

    def __init__(
        self, parent: RunDirectory, trials: Trials, screen: Screen, *, quiet: bool, lost: experiment.Lost
    ) -> None:
        self.parent = parent
        self.trials = trials
        self.screen = screen
        self.quiet = quiet
        self.lost = lost
        self.told: set[str] = set()
        self.pause = SHORTEST_LOOK

    def look(self) -> Table:
        """Tell what has ended since; a sweep whose worker was killed gets another."""
        table = self.trials.look()
        new = [one for one in table.trials if one.ended and one.run_id not in self.told]
        for one in new:
            self.told.add(one.run_id)
            if not self.quiet:
                self.screen.remark(line(table, one))
        self.pause = SHORTEST_LOOK if new else min(LONGEST_LOOK, self.pause * 1.3)
        keep_going(self.parent, table, self.lost)
        return table


def keep_going(parent: RunDirectory, table: Table, lost: experiment.Lost) -> None:
    """Have a sweep that lost its worker continued; raises AmlError when nobody stays with it."""
    if table.record.status == "Queued":
        queueing.ensure_worker(parent.home)
    lost.resume(parent, table.record)


def show(directory: RunDirectory, screen: Screen) -> None:
    """Print the trials of a sweep."""
    screen.write(plain(Trials(directory).look()) + "\n")


def plan_trials(request: Request, options: Namespace, screen: Screen, *, as_json: bool) -> Request:
    """Tell the trials that a sweep would have; the request of the first, which stands for all."""
    requests = sweep.plan(request, asked_of(options))
    names = [axes.parse(text).name for text in options.sweep]
    if not as_json:
        screen.remark(
            f"{len(requests)} trials, {sweep.JOBS if options.jobs is None else options.jobs} at a time:"
        )
        for number, one in enumerate(requests, 1):
            screen.remark(f"  {number}  {axes.shown({name: one.params[name] for name in names})}")
        screen.remark("the first of them:")
    return requests[0]
