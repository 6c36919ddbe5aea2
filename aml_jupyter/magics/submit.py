"""`%%amlrun` and `%amlrun`: submit, show, and raise what the run raised.

An interrupt cancels the run and a second one kills it.  Restart and shutdown of a kernel reach it as an
interrupt first: only a kernel that still wants to live after 0.3 s was interrupted by a person.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from aml_jupyter import experiment, processes, runs
from aml_jupyter.cell import HERE, check, to_bytes
from aml_jupyter.commands import HelpShown
from aml_jupyter.commands.submit import project_of, request_of, wants_queue
from aml_jupyter.commands.watch import exit_status
from aml_jupyter.errors import AmlError, RunFailed, UsageError, ValueTransferError
from aml_jupyter.executors import executor_for
from aml_jupyter.follow import Follower, is_first
from aml_jupyter.job import TERMINAL
from aml_jupyter.magics import options as words
from aml_jupyter.magics.live import Live, error_lines
from aml_jupyter.magics.page import Page
from aml_jupyter.run import LARGEST_READ, Run
from aml_jupyter.starting import Standby

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence
    from types import FrameType
    from typing import Any, Protocol

    from aml_jupyter.cell import Findings
    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Request
    from aml_jupyter.runs import Record, RunDirectory

    class Other(Protocol):
        """A run that goes on while another is shown."""

        def look(self) -> None:
            """Show how it stands."""

        def cancel(self, *, kill: bool) -> None:
            """Ask it to end."""


# seconds until a kernel that is being shut down says so
SHUTDOWN = 0.3
# seconds between two looks at a run: shorter while it prints
SHORTEST_LOOK, LONGEST_LOOK = 0.01, 0.05
# a supervisor that starts while the person reads the last run's output, and ends with the kernel
STANDBY = Standby()


class CellFailed(RunFailed):
    """A run that failed in a cell: what is shown is the traceback of the target, not the notebook's."""

    def __init__(self, record: Record, lines: list[str], *, name: str = "", value: str = "") -> None:
        error = record.error or {}
        said = f"{name}: {value}" if name else error.get("message") or record.reason or record.status
        super().__init__(
            f"{record.run_id} {record.status}: {said}",
            code=record.reason or "run.failed",
            hint="" if name else error.get("hint", ""),
            run_id=record.run_id,
            exit_code=exit_status(record),
        )
        self.lines = lines
        self.status = record.status

    def _render_traceback_(self) -> list[str]:
        if not self.lines:
            return str(self).splitlines()
        return [*self.lines, f"{self.run_id} {self.status} [{self.code}]"]


def run_cell(shell: Any, line: str, cell: str) -> None:
    """Do `%%amlrun`."""
    page = Page(shell)
    try:
        options = words.parse("%%amlrun", line)
    except HelpShown:
        return
    inputs = _inputs(options, page)
    warnings = _preflight(cell, options, page)
    _submit(
        page,
        options,
        warnings,
        cell=to_bytes(cell),
        inputs=inputs,
        outputs=options.outputs,
        arguments=tuple(options.after),
    )


def run_line(shell: Any, line: str) -> None:
    """Do `%amlrun`."""
    page = Page(shell)
    try:
        options = words.parse("%amlrun", line)
    except HelpShown:
        return
    _submit(page, options, (), script=options.script, arguments=(*options.arguments, *options.after))


def _inputs(options: Namespace, page: Page) -> dict[str, object]:
    names = page.names
    missing = [name for name in options.inputs if name not in names]
    if missing:
        import difflib

        near = difflib.get_close_matches(
            missing[0], [name for name in names if not name.startswith("_")], n=3
        )
        raise UsageError(
            f"--in: this notebook has no variable {', '.join(missing)}",
            hint=f"Near it: {', '.join(near)}" if near else "Run the cell that makes it first.",
        )
    return {name: names[name] for name in options.inputs}


def _preflight(cell: str, options: Namespace, page: Page) -> tuple[str, ...]:
    """Refuse a cell that takes from this notebook what a run will not have; what else is odd about it."""
    project = project_of(options)
    found = [
        warning
        for target in options.target.split(",")
        for warning in _preflight_at(target.strip(), cell, options, page, project)
    ]
    return tuple(dict.fromkeys(found))


def _preflight_at(name: str, cell: str, options: Namespace, page: Page, project: Project) -> tuple[str, ...]:
    _, target = project.resolve(name, options.compute)
    python = executor_for(target.kind).python(target)
    own = python == sys.executable

    def findings(ipython: bool | None) -> Findings:
        return check(
            cell,
            page.names,
            inputs=options.inputs,
            parameters=[name for name, _ in options.param]
            + [text.partition("=")[0] for text in options.sweep],
            ipython=ipython,
            root=project.root,
            workdir=options.workdir or "",
            python=HERE if own else None,
        )

    found = findings(None)
    if found.magic_lines and not own and _lacks_ipython(python):
        found = findings(False)
    return found.warnings


_LACKS: dict[str, bool] = {}


def _lacks_ipython(python: str) -> bool:
    """Whether an interpreter on this machine has no IPython; asked once in a kernel's life."""
    if python not in _LACKS:
        import subprocess

        ask = "import sys, importlib.util as u; sys.exit(7 if u.find_spec('IPython') is None else 0)"
        try:
            _LACKS[python] = subprocess.run([python, "-c", ask], check=False, timeout=20).returncode == 7
        except (OSError, subprocess.TimeoutExpired):  # not on this machine, or ill: the run itself will tell
            return False
    return _LACKS[python]


def _submit(page: Page, options: Namespace, warnings: tuple[str, ...], **fields: Any) -> None:
    project = project_of(options)
    fields.update(notebook=_notebook(page, options, project), cell_id=page.cell_id(), warnings=warnings)
    request = request_of(options, **fields)
    if options.dry_run or options.prepare_only:
        _without_run(page, options, request, project)
        return
    experiment.ask_ahead(request, project)
    if options.needed and not options.sweep:
        from aml_jupyter.magics import again

        if done := again.completed(page, request, project):
            page.define({options.run: Run(done)})
            again.show_completed(page, done, options)
            return
    if wants_queue(options):
        from aml_jupyter.magics import sweep

        sweep.submit_and_show(page, options, request, project)
        return
    if "," in request.target:
        from aml_jupyter.magics.portability import submit_and_compare

        submit_and_compare(page, options, request, project)
        return
    with Interrupts() as interrupts:
        directory = experiment.submit(request, project, STANDBY.take)
        page.define({options.run: Run(directory)})
        if options.detach:
            obey(page, directory, interrupts)
            from aml_jupyter.magics.keeper import keep

            keep(page, directory)
            STANDBY.refill()
            return
        live = Live(
            page,
            directory,
            quiet=options.quiet,
            hold_error=options.raise_error,
            outputs=options.outputs,
        )
        secrets = {**request.environment, **request.secrets}
        try:
            attend(page, directory, live, interrupts, raise_error=options.raise_error, secrets=secrets)
        finally:
            STANDBY.refill()


def _notebook(page: Page, options: Namespace, project: Project) -> str | None:
    """The calling notebook's path below the project, where it is known and there."""
    told = os.path.abspath(options.notebook) if options.notebook else page.notebook()
    if told is None:
        return None
    inside = os.path.relpath(os.path.realpath(told), os.path.realpath(project.root))
    return None if inside.startswith("..") else inside.replace(os.sep, "/")


def _without_run(page: Page, options: Namespace, request: Request, project: Project) -> None:
    """Show what would be run and sent, or make the environment ready."""
    from aml_jupyter.commands.submit import without_run
    from aml_jupyter.magics.verbs import NotebookScreen

    screen = NotebookScreen(page)
    try:
        without_run(request, project, options, screen, as_json=False)
    finally:
        screen.finish()


def attend(
    page: Page,
    directory: RunDirectory,
    live: Live,
    interrupts: Interrupts,
    *,
    raise_error: bool = True,
    secrets: Mapping[str, str] | None = None,
) -> None:
    """Show a run from its beginning to its end; raise CellFailed when it does not complete.

    `secrets` are what the submitter still holds, should the run need another supervisor.
    """
    live.show()
    record = follow(page, directory, live, interrupts, experiment.Lost(secrets))
    live.finish(record)
    problem = bring_back(page, directory, live)
    if record.status != "Completed":
        failed = failure_of(live, record)
        if raise_error:
            raise failed
        if not live.error:
            page.write("stderr", f"{failed}\n")
    elif live.error and raise_error:
        # it was held back to be raised, and then the run ended well all the same
        page.write("stderr", "\n".join(error_lines(live.error)) + "\n")
    if problem is not None:
        raise problem


def failure_of(live: Live, record: Record) -> CellFailed:
    """What the cell raises for a run that did not complete."""
    error = live.error
    if error is None:
        return CellFailed(record, [])
    name, value = str(error.get("ename")), str(error.get("evalue"))
    return CellFailed(record, error_lines(error), name=name, value=value)


def follow(
    page: Page,
    directory: RunDirectory,
    live: Live,
    interrupts: Interrupts,
    lost: experiment.Lost,
    others: Sequence[Other] = (),
) -> Record:
    """Show what a run does until it has ended; `others` are runs that go on meanwhile."""
    follower = Follower(directory)
    look, began = SHORTEST_LOOK, time.monotonic()
    while True:
        obey(page, directory, interrupts, others)
        for other in others:
            other.look()
        # asked before reading: what was written before it left is then read
        supervised = runs.supervised(directory)
        who = runs.supervisor_identity(directory)
        something = live.read(follower)
        live.settle()
        if not something and (follower.status in TERMINAL or not supervised):
            record = runs.read_record(directory)
            if record.ended:
                live.read(follower, last=True)
                return record
            if not supervised:
                lost.resume(directory, record)
        look = SHORTEST_LOOK if something or is_first(began) else min(LONGEST_LOOK, look * 1.3)
        if who is None or not supervised:
            time.sleep(look)
        else:
            processes.wait_end(who, look)


def obey(page: Page, directory: RunDirectory, interrupts: Interrupts, others: Sequence[Other] = ()) -> None:
    """Cancel the run, and the others, when a person has interrupted the cell."""
    if not interrupts.unheard():
        return
    if interrupts.heard == 0:
        interrupts.hear()
        time.sleep(SHUTDOWN)
    if page.leaving:
        raise KeyboardInterrupt
    kill = interrupts.count > 1
    interrupts.hear()
    experiment.cancel(directory, kill=kill)
    for other in others:
        other.cancel(kill=kill)


def bring_back(page: Page, directory: RunDirectory, live: Live) -> AmlError | None:
    """Define the variables that `--out` asked for; what is wrong with the first that cannot be."""
    if not live.values:
        return None
    from aml_jupyter import values

    problem = None
    for name, event in live.values.items():
        try:
            value = values.decode(event, lambda sha256: runs.payload(directory, sha256, LARGEST_READ))
        except AmlError as error:
            problem = problem or error
        except FileNotFoundError as error:
            problem = problem or ValueTransferError(f"the bytes of {name} are not in the run: {error}")
        else:
            page.define({name: value})
    return problem


class Interrupts:
    """Counts interrupts instead of raising them, so that none falls between two steps that belong together.

    The third one is raised as usual: whatever hangs, a person gets the cell back.
    """

    MOST = 2

    def __init__(self) -> None:
        self.count = 0
        self.heard = 0
        self._before: Any = None
        self._installed = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count > self.MOST:
            raise KeyboardInterrupt

    def unheard(self) -> bool:
        """Whether there was one that nobody acted on."""
        return self.count > self.heard

    def hear(self) -> None:
        """Note that all so far were acted on."""
        self.heard = self.count
