"""`--needed`: a run that has completed already is shown instead of being done again."""

from __future__ import annotations

from aml_jupyter.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Request
    from aml_jupyter.runs import RunDirectory


def completed(
    request: Request, project: Project | None, options: Namespace, screen: Screen
) -> RunDirectory | None:
    """The run that makes this one unnecessary, or None, and the person is told why.  Raises UsageError."""
    from aml_jupyter import reuse

    if "," in request.target:
        raise UsageError("--needed is for a run on one target", hint="Several are there to be compared anew.")
    answer = reuse.look(request, project)
    if answer.directory is None and not options.quiet and not options.json:
        screen.remark(f"aml: --needed: it is run: {answer.why}")
    return answer.directory


def show_completed(directory: RunDirectory, options: Namespace, screen: Screen) -> int:
    """Say which run it is and how it ended."""
    if options.json:
        from aml_jupyter.commands.history import record_json

        screen.json({**record_json(directory), "reused": True})
        return 0
    screen.remark(
        f"aml: not run again: {directory.run_id} completed with the same code, parameters, inputs and"
        " environment"
    )
    screen.write(f"RunId: {directory.run_id}\n")
    if not options.quiet:
        from aml_jupyter.card import plain_card

        screen.write(plain_card(directory) + "\n")
    return 0
