"""`%%amlrun --sweep` and `--queue`: the table of trials below the cell, replaced as they go on."""

from __future__ import annotations

import contextvars
import time

from aml_jupyter import experiment, runs, sweep
from aml_jupyter.commands.sweep import asked_of, check_alone, completed_by, keep_going
from aml_jupyter.commands.watch import exit_status
from aml_jupyter.errors import AmlError, RunFailed, UsageError
from aml_jupyter.magics import submit as one_run
from aml_jupyter.magics.keeper import keep, look_after
from aml_jupyter.run import Run, Sweep
from aml_jupyter.sweep.shown import bundle, line
from aml_jupyter.sweep.table import Table, Trials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Request
    from aml_jupyter.magics.page import Page
    from aml_jupyter.magics.submit import Interrupts
    from aml_jupyter.runs import Record, RunDirectory

# seconds between two looks at trials, and for which the cell does not see an interrupt
LOOK, NAP = 0.4, 0.05


def submit_and_show(page: Page, options: Namespace, request: Request, project: Project) -> None:
    """Start a sweep and show it, or put a run into the queue; raise when the sweep does not complete."""
    if not options.sweep:
        _enqueue(page, options, request, project)
        return
    if getattr(options, "outputs", ()):
        raise UsageError(
            "-o brings variables back from one run, a sweep has many",
            code="sweep.invalid",
            hint=f"Write what you need to outputs/, and read it from {options.run}.best",
        )
    with one_run.Interrupts() as interrupts:

        def tell(text: str) -> None:
            page.write("stdout", text + "\n")

        parent = sweep.submit(request, asked_of(options), project, completed_by(options, project, tell))
        page.define({options.run: Sweep(parent)})
        shown = _Shown(page, parent, quiet=options.quiet)
        shown.show()
        if options.detach or options.queue:
            one_run.obey(page, parent, interrupts)
            if page.live:
                look_after(shown)
            return
        secrets = {**request.environment, **request.secrets}
        _attend(page, shown, interrupts, secrets=secrets, raise_error=options.raise_error)


def attach(page: Page, parent: RunDirectory) -> None:
    """Show a sweep to its end; raise when it does not complete."""
    with one_run.Interrupts() as interrupts:
        shown = _Shown(page, parent)
        shown.show()
        _attend(page, shown, interrupts, secrets={}, raise_error=True)


def show(page: Page, parent: RunDirectory) -> None:
    """Show a sweep as it stands."""
    page.publish(bundle(Trials(parent).look()), display_id=f"aml-sweep-{parent.run_id}")


def _enqueue(page: Page, options: Namespace, request: Request, project: Project) -> None:
    from aml_jupyter.experiment.queued import enqueue

    check_alone(options)
    if "," in request.target:
        raise UsageError(
            f"--queue takes one target, not {request.target}", hint="Put a run on each into the queue."
        )
    directory = enqueue(request, project)
    page.define({options.run: Run(directory)})
    keep(page, directory)


def _attend(
    page: Page, shown: _Shown, interrupts: Interrupts, *, secrets: Mapping[str, str], raise_error: bool
) -> None:
    lost = experiment.Lost(secrets)
    while shown.look():
        due = time.monotonic() + LOOK
        while time.monotonic() < due:
            one_run.obey(page, shown.directory, interrupts)
            time.sleep(NAP)
        keep_going(shown.directory, shown.table, lost)
    record = shown.table.record
    if record.status == "Completed":
        return
    failed = _failure(record)
    if raise_error:
        raise failed
    page.write("stderr", f"{failed}\n")


def _failure(record: Record) -> RunFailed:
    error = record.error or {}
    told = error.get("message") or record.reason or "the sweep was canceled"
    return RunFailed(
        f"{record.run_id} {record.status}: {told}",
        code=record.reason or "run.failed",
        hint=error.get("hint", ""),
        run_id=record.run_id,
        exit_code=exit_status(record),
    )


class _Shown:
    """The table of a sweep below its cell; in a terminal, which replaces nothing, a line for each end."""

    def __init__(self, page: Page, directory: RunDirectory, *, quiet: bool = False) -> None:
        self.page = page
        self.directory = directory
        self.quiet = quiet
        self.context = contextvars.copy_context()
        self.trials = Trials(directory)
        self.table: Table = self.trials.look()
        self.display_id = f"aml-sweep-{directory.run_id}"
        self._sent: Mapping[str, str] = {}
        self._told: set[str] = set()

    def show(self) -> None:
        """Show it for the first time."""
        if self.page.live:
            self._send(update=False)
        else:
            self.page.write("stdout", f"RunId: {self.directory.run_id} ({len(self.table.trials)} trials)\n")

    def look(self) -> bool:
        """Replace it when something changed; False when the sweep has ended."""
        try:
            self.table = self.trials.look()
        except AmlError:  # removed while it was shown
            if runs.at(self.directory.home, self.directory.run_id) is None:
                return False
            raise
        goes_on = not self.table.record.ended
        if self.page.live:
            self._send(update=True)
        elif not self.quiet:
            self._tell(last=not goes_on)
        return goes_on

    def _send(self, *, update: bool) -> None:
        data = bundle(self.table)
        if data != self._sent:
            self.page.publish(data, display_id=self.display_id, update=update)
            self._sent = data

    def _tell(self, *, last: bool) -> None:
        for one in self.table.trials:
            if one.ended and one.run_id not in self._told:
                self._told.add(one.run_id)
                self.page.write("stdout", line(self.table, one) + "\n")
        if last:
            self.page.write("stdout", bundle(self.table)["text/plain"] + "\n")
