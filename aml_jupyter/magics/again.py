"""`%aml rerun` and `--needed` in a notebook: a run once more, or one that need not be done again."""

from __future__ import annotations

from aml_jupyter import rerunning
from aml_jupyter.commands import HelpShown, build, split_after_dashes
from aml_jupyter.commands.rerun import rerun_request
from aml_jupyter.commands.watch import find_run
from aml_jupyter.errors import RunFailed, UsageError
from aml_jupyter.magics import submit as one_run
from aml_jupyter.magics.live import Live
from aml_jupyter.run import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Request
    from aml_jupyter.magics.page import Page
    from aml_jupyter.runs import RunDirectory


def rerun(page: Page, words: list[str]) -> None:
    """Do `%aml rerun`; the new run is `_run` afterwards.  Raises RunFailed `run.different` for --verify."""
    parser, _ = build("rerun", prog="%aml")
    before, after = split_after_dashes(words)
    try:
        options = parser.parse_args(before)
    except HelpShown:
        return
    options.after = after
    request = rerun_request(options)
    original = find_run(options.run)
    if options.verify:
        rerunning.require_ended(original)
    if options.needed and (found := completed(page, request, None)):
        page.define({"_run": Run(found)})
        show_completed(page, found, options)
        return
    with one_run.Interrupts() as interrupts:
        directory = rerunning.submit(request, one_run.STANDBY.take)
        page.define({"_run": Run(directory)})
        if options.detach:
            from aml_jupyter.magics.keeper import keep

            one_run.obey(page, directory, interrupts)
            keep(page, directory)
            one_run.STANDBY.refill()
            return
        _attend(page, directory, request, options, interrupts)
    if options.verify:
        _verify(page, original, directory, options)


def _attend(
    page: Page,
    directory: RunDirectory,
    request: Request,
    options: Namespace,
    interrupts: one_run.Interrupts,
) -> None:
    # how it ended is part of the comparison
    raise_error = options.raise_error and not options.verify
    live = Live(page, directory, quiet=options.quiet, hold_error=raise_error, outputs=_outputs(directory))
    secrets = {**request.environment, **request.secrets}
    try:
        one_run.attend(page, directory, live, interrupts, raise_error=raise_error, secrets=secrets)
    finally:
        one_run.STANDBY.refill()


def _outputs(directory: RunDirectory) -> tuple[str, ...]:
    from aml_jupyter.cell import outputs_of

    return outputs_of(directory.job)


def _verify(page: Page, original: RunDirectory, directory: RunDirectory, options: Namespace) -> None:
    found = rerunning.verify(original, directory, options.tolerance)
    page.publish(found._repr_mimebundle_(), display_id=f"aml-verification-{found.rerun}")
    if not found.same and options.raise_error:
        raise RunFailed(
            f"{found.rerun} did not give the same results as {found.original}: {found.word}",
            code="run.different",
            hint=f"%aml show {found.rerun}",
            run_id=found.rerun,
        )


def completed(page: Page, request: Request, project: Project | None) -> RunDirectory | None:
    """The run that makes one unnecessary, or None, and the person is told why.  Raises UsageError."""
    from aml_jupyter import reuse

    if "," in request.target:
        raise UsageError("--needed is for a run on one target", hint="Several are there to be compared anew.")
    answer = reuse.look(request, project)
    if answer.directory is None:
        page.write("stdout", f"--needed: it is run: {answer.why}\n")
    return answer.directory


def show_completed(page: Page, directory: RunDirectory, options: Namespace) -> None:
    """Show what a run that is not done again printed and left, and define the variables that it brought."""
    page.write("stdout", f"not run again: {directory.run_id} completed with the same\n")
    live = Live(page, directory, quiet=options.quiet, outputs=_outputs(directory))
    with one_run.Interrupts() as interrupts:
        one_run.attend(page, directory, live, interrupts)
