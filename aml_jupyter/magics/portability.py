"""`%%amlrun a,b`: a card for each run, the output of one after the other in sections, and the verdict.

A page has one place for output: a run that is not at the head of the line goes on all the same, its card
shows the end of its log, and everything it printed is shown when its turn comes.
"""

from __future__ import annotations

import time
from html import escape

from aml_jupyter import experiment, portability, runs
from aml_jupyter.config import aml_home
from aml_jupyter.errors import RunFailed
from aml_jupyter.follow import Follower
from aml_jupyter.magics import submit as one_run
from aml_jupyter.magics.live import CardShown, Live, error_lines
from aml_jupyter.portability.shown import bundle, headline
from aml_jupyter.run import RunSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence
    from typing import Any

    from aml_jupyter.config import Project
    from aml_jupyter.errors import AmlError
    from aml_jupyter.experiment import Request
    from aml_jupyter.magics.page import Page
    from aml_jupyter.magics.submit import Interrupts
    from aml_jupyter.runs import Record, RunDirectory

# seconds between two looks at a run that waits for its section
LOOK = 0.1


def submit_and_compare(page: Page, options: Namespace, request: Request, project: Project) -> None:
    """Submit a run for each target, show them and the verdict; raise for a failed run or a difference."""
    with one_run.Interrupts() as interrupts:
        group = portability.submit(request, project, one_run.STANDBY.take, tolerance=options.tolerance)
        page.define({options.run: RunSet(group)})
        directories = group.directories(aml_home())
        try:
            if options.detach:
                _detach(page, list(directories.values()), interrupts)
                return
            secrets = {**request.environment, **request.secrets}
            waiting = [_Waiting(page, one, experiment.Lost(secrets)) for one in directories.values()]
            failed = _attend(page, options, dict(zip(directories, waiting, strict=True)), interrupts)
        finally:
            one_run.STANDBY.refill()
    verdict = portability.judge(group, keep=True)
    page.publish(bundle(verdict), display_id=f"aml-verdict-{group.experiment_id}")
    if failed is None and not verdict.good:
        failed = RunFailed(
            headline(verdict),
            code="run.different",
            hint=f"%aml show {verdict.runs[0]['run_id']} --json has every difference.",
            run_id=verdict.runs[0]["run_id"],
        )
    if failed is not None and options.raise_error:
        raise failed


def _detach(page: Page, directories: Sequence[RunDirectory], interrupts: Interrupts) -> None:
    from aml_jupyter.magics.keeper import keep

    for directory in directories:
        one_run.obey(page, directory, interrupts)
        keep(page, directory)


def _attend(
    page: Page, options: Namespace, waiting: Mapping[str, _Waiting], interrupts: Interrupts
) -> AmlError | None:
    """Show all runs to their ends; what the cell has to raise, which is the first failure."""
    for one in waiting.values():
        one.card.show()
    failed: AmlError | None = None
    others = list(waiting.values())
    for target, one in waiting.items():
        # variables come back from the first target: the rest of the notebook goes on with one value of each
        outputs = options.outputs if one is others[0] and len(others) == len(waiting) else ()
        others = others[1:]
        section = Section(page, one.card, target)
        live = Live(
            section,
            one.directory,
            quiet=options.quiet,
            hold_error=options.raise_error,
            outputs=outputs,
        )
        live.show()
        record = one_run.follow(page, one.directory, live, interrupts, one.lost, others)
        live.finish(record)
        problem = one_run.bring_back(page, one.directory, live)
        found = one_run.failure_of(live, record) if record.status != "Completed" else problem
        if found is not None and (failed or not options.raise_error):
            _tell(section, live, found, told=not options.raise_error)
        failed = failed or found
    return failed


def _tell(page: Section, live: Live, failed: AmlError, *, told: bool) -> None:
    """Print a failure that the cell does not raise; `told` is whether its traceback was printed."""
    if live.error is None:
        page.write("stderr", f"{failed}\n")
    elif not told:
        page.write("stderr", "\n".join(error_lines(live.error)) + "\n")


def _heading(target: str) -> dict[str, str]:
    style = "margin:8px 0 2px;padding-bottom:1px;border-bottom:1px solid rgba(128,128,128,.35)"
    return {"text/html": f'<div style="{style}"><b>{escape(target)}</b></div>', "text/plain": f"── {target}"}


class _Waiting:
    """A run whose output is not shown yet: its card follows it."""

    def __init__(self, page: Page, directory: RunDirectory, lost: experiment.Lost) -> None:
        self.directory = directory
        self.lost = lost
        self.card = CardShown(page, directory, output_shown=False)
        # the end of what it prints is in the card, which reads it by itself
        self.follower = Follower(directory, tail=0)
        self.ended = False
        self.at = 0.0

    def look(self) -> None:
        """Replace the card when something changed; a run that lost its supervisor gets another."""
        if self.ended or time.monotonic() - self.at < LOOK:
            return
        self.at = time.monotonic()
        for output in self.follower.read():
            self.card.take(output)
        record = runs.read_record(self.directory)
        if record.ended:
            self.ended = True
            self._finish(record)
        else:
            self.lost.resume(self.directory, record)
            self.card.refresh()

    def _finish(self, record: Record) -> None:
        if self.card.page.live:  # elsewhere a card is shown once, with its section
            self.card.finish(record)

    def cancel(self, *, kill: bool) -> None:
        """Ask the run to end, unless it has."""
        if not runs.read_record(self.directory).ended:
            experiment.cancel(self.directory, kill=kill)


class Section:
    """The place of one of several runs on a page: its card stands above, and what others showed stays.

    Its heading comes with the first that it shows.
    """

    def __init__(self, page: Page, card: CardShown, target: str) -> None:
        self.page = page
        self.card = card
        self.target = target
        self._begun = False

    @property
    def live(self) -> bool:
        """Whether what was shown can be replaced."""
        return self.page.live

    def publish(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        display_id: str | None = None,
        update: bool = False,
    ) -> None:
        """Show a bundle or replace what an id shows."""
        shown = self.live and display_id == self.card.display_id
        if not shown:
            self._begin()
        self.page.publish(data, metadata, display_id=display_id, update=update or shown)

    def write(self, stream: str, text: str) -> None:
        """Print."""
        self._begin()
        self.page.write(stream, text)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self.page.publish(_heading(self.target))

    def clear(self, *, wait: bool) -> None:
        """Leave everything: it would take the output of the other runs away."""
