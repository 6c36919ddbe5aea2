"""`aml run a,b script.py`: one snapshot on several targets, followed together, and the verdict."""

from __future__ import annotations

import time

from aml_jupyter import experiment, portability, runs
from aml_jupyter.commands.screen import Screen
from aml_jupyter.commands.watch import ending_of, exit_status, show, tell_ending, tell_warnings
from aml_jupyter.config import aml_home
from aml_jupyter.follow import Follower
from aml_jupyter.job import TERMINAL
from aml_jupyter.portability.shown import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Request
    from aml_jupyter.portability import Group, Verdict
    from aml_jupyter.runs import Record, RunDirectory

# seconds between two looks at the runs: short while one prints
SHORTEST_LOOK, LONGEST_LOOK = 0.01, 0.05
# characters of a line that has not ended that are kept back, so that no other run's come between
LONGEST_HELD = 8192
# the exit status of runs that completed and did not do the same
NOT_THE_SAME = 1


def submit_and_compare(request: Request, project: Project, options: Namespace, screen: Screen) -> int:
    """Submit a run for each target; unless detached follow all of them and give the verdict.

    The exit status is that of the first run that did not complete, else 1 when the verdict is not good.
    """
    from aml_jupyter.starting import ForkedStarter

    tolerance = getattr(options, "tolerance", portability.TOLERANCE)
    group = portability.submit(request, project, ForkedStarter, tolerance=tolerance)
    directories = group.directories(aml_home())
    if options.detach:
        return _tell_detached(group, directories, options, screen)
    for target, directory in directories.items():
        screen.remark(f"RunId: {directory.run_id} ({target})")
    secrets = {**request.environment, **request.secrets}
    records = follow_all(directories, screen, quiet=options.quiet or options.json, secrets=secrets)
    verdict = portability.judge(group, keep=True)
    if options.json:
        from aml_jupyter.commands.history import record_json

        screen.json({**verdict.as_json(), "runs": [record_json(one) for one in directories.values()]})
    else:
        screen.remark(plain(verdict))
    return status_of(records, verdict) if options.raise_error else 0


def status_of(records: Iterable[Record], verdict: Verdict) -> int:
    """The exit status of runs that were compared: the first of a run's own, failing that the verdict's."""
    own = next(filter(None, map(exit_status, records)), 0)
    return own or (0 if verdict.good else NOT_THE_SAME)


def _tell_detached(
    group: Group, directories: Mapping[str, RunDirectory], options: Namespace, screen: Screen
) -> int:
    if options.json:
        ids = [{"target": target, "run_id": one.run_id} for target, one in directories.items()]
        screen.json({"experiment_id": group.experiment_id, "runs": ids})
    for target, directory in directories.items():
        if not options.json:
            screen.write(f"RunId: {directory.run_id} ({target})\n")
        tell_warnings(runs.load_record(directory), screen)
    return 0


def plan_each(
    request: Request, screen: Screen, *, do: Callable[[Request, Screen], int], as_json: bool
) -> int:
    """Do what starts no run, such as --dry-run, for each target; JSON is one list. The worst status."""
    status = 0
    kept = _Kept()
    for target, one in portability.requests(request).items():
        if not as_json:
            screen.remark(f"{target}:")
        status = max(status, do(one, kept if as_json else screen))
    if as_json:
        screen.json(kept.values)
    return status


class _Kept(Screen):
    """Keeps what would be printed as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Any] = []

    def json(self, value: Any) -> None:
        """Keep it."""
        self.values.append(value)


class Named(Screen):
    """Writes what one of several runs printed line by line, each with the name of its target in front."""

    def __init__(self, screen: Screen, name: str) -> None:
        super().__init__(screen.out, screen.err)
        self.screen = screen
        self.name = name
        self.held = {"stdout": "", "stderr": ""}

    def output(self, stream: str, text: str) -> None:
        """Print the lines that are whole; what remains waits for its end."""
        *lines, rest = (self.held[stream] + text).split("\n")
        if len(rest) > LONGEST_HELD:
            lines.append(rest)
            rest = ""
        self.held[stream] = rest
        if lines:
            self.screen.output(stream, "".join(f"{self.name} | {line}\n" for line in lines))

    def remark(self, text: str) -> None:
        """Tell something about this run."""
        self.screen.remark(f"{self.name} | {text}")

    def finish(self) -> None:
        """Print what never got an end of line."""
        for stream, rest in self.held.items():
            if rest:
                self.output(stream, "\n")


def follow_all(
    directories: Mapping[str, RunDirectory],
    screen: Screen,
    *,
    quiet: bool = False,
    secrets: Mapping[str, str] | None = None,
) -> list[Record]:
    """Print the output of runs as it happens; Ctrl-C cancels all of them, a second one kills them.

    `secrets` are what the submitter still holds, should a run need another supervisor.
    """
    width = max(map(len, directories))
    followed = [
        _Followed(directory, Named(screen, target.ljust(width)), quiet=quiet, secrets=secrets)
        for target, directory in directories.items()
    ]
    interrupts = 0
    look = SHORTEST_LOOK
    while any(one.record is None for one in followed):
        try:
            something = [one.look() for one in followed]
            look = SHORTEST_LOOK if any(something) else min(LONGEST_LOOK, look * 1.3)
            time.sleep(look)
        except KeyboardInterrupt:
            interrupts += 1
            screen.remark("aml: canceling" if interrupts == 1 else "aml: killing")
            for one in followed:
                one.cancel(kill=interrupts > 1)
        except OSError:  # nobody reads on, or there is no room for what they print
            screen.remark(f"aml: the runs go on: aml attach {followed[0].directory.run_id}")
            raise
    return [one.record for one in followed if one.record is not None]


class _Followed:
    """One of several runs that are followed; `record` is None until it has ended."""

    def __init__(
        self, directory: RunDirectory, screen: Named, *, quiet: bool, secrets: Mapping[str, str] | None
    ) -> None:
        self.directory = directory
        self.screen = screen
        self.quiet = quiet
        self.record: Record | None = None
        self.told = tell_warnings(experiment.rewritten(directory), screen)
        self.follower = Follower(directory)
        self.lost = experiment.Lost(secrets)

    def look(self) -> bool:
        """Print what is new; whether there was anything."""
        if self.record is not None:
            return False
        # asked before reading: what was written before it left is then read
        supervised = runs.supervised(self.directory)
        if self._print():
            return True
        if self.follower.status in TERMINAL or not supervised:
            record = ending_of(self.directory, self.follower, self.lost)
            if record is not None:
                self._print(last=True)
                self.screen.finish()
                tell_ending(record, self.screen, self.told)
                self.record = record
        return False

    def _print(self, *, last: bool = False) -> bool:
        something = False
        for output in self.follower.rest() if last else self.follower.read():
            something = True
            if not self.quiet:
                show(output, self.screen)
        return something

    def cancel(self, *, kill: bool) -> None:
        """Ask the run to end, unless it has."""
        if self.record is None and not runs.read_record(self.directory).ended:
            experiment.cancel(self.directory, kill=kill)
