"""`aml rerun`: a run once more, from what is kept of it, and whether it does the same."""

from __future__ import annotations

from aml_jupyter import rerunning, runs
from aml_jupyter.commands import add_json, parse_pair, parse_seconds
from aml_jupyter.commands.submit import params_of, parse_tolerance
from aml_jupyter.commands.variables import add_variable_options, environment_of, secrets_of
from aml_jupyter.commands.watch import find_run, follow_to_end, tell_warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.experiment import Request
    from aml_jupyter.rerunning import Verification
    from aml_jupyter.runs import RunDirectory

# the exit status of a rerun that did not do the same
NOT_THE_SAME = 1


def arguments_rerun(parser: ArgumentParser) -> None:
    """Options of `aml rerun`; `%aml rerun` has the same."""
    add = parser.add_argument
    add("run", metavar="RUN", nargs="?", default="@last", help="which one; @last unless said")
    add("-t", "--target", "--compute", metavar="NAME", help="on another target than it ran on")
    add("-p", "--param", action="append", default=[], type=parse_pair, metavar="NAME=VALUE",
        help="another value of a parameter")  # fmt: skip
    add_variable_options(parser)
    add("-n", "--name", help="a name for the new run")
    add("--tag", action="append", default=[], metavar="TAG", help="a tag; may be repeated")
    add("--message", default="", help="a note on the new run")
    add("--timeout", type=parse_seconds, metavar="TIME", help="end the run when it has run for 30s, 10m, 2h")
    add("--verify", action="store_true",
        help="compare both when it has ended; exit status 0 for the same, 1 for a difference")  # fmt: skip
    add("--tolerance", type=parse_tolerance, default=1e-6, metavar="NUMBER",
        help="--verify: the relative difference that metrics may have; 1e-6 unless said")  # fmt: skip
    add("--needed", action="store_true", help="not where a run like this has completed")
    add("--relock", action="store_true", help="solve the environment again instead of taking the run's lock")
    add("-d", "--detach", "--bg", action="store_true", help="return at once; the run goes on")
    add("-q", "--quiet", action="store_true", help="do not print what the run prints")
    add("--no-raise-error", dest="raise_error", action="store_false", help="a failed run is only reported")
    add_json(parser)


def rerun_request(options: Namespace) -> Request:
    """The request that the options make."""
    from aml_jupyter.experiment import Request

    return Request(
        rerun_of=find_run(options.run).run_id,
        compute=options.target,
        arguments=tuple(options.after),
        params=params_of(options),
        environment=environment_of(options),
        secrets=secrets_of(options),
        timeout=options.timeout,
        name=options.name,
        tags=tuple(options.tag),
        message=options.message,
        needed=options.needed,
        resources={"relock": True} if options.relock else {},
    )


def do_rerun(options: Namespace, screen: Screen) -> int:
    """Run it once more, follow it to its end, and with --verify compare."""
    from aml_jupyter.starting import ForkedStarter

    request = rerun_request(options)
    original = find_run(options.run)
    if options.verify:
        rerunning.require_ended(original)
    if options.needed:
        from aml_jupyter.commands.needed import completed, show_completed

        if found := completed(request, None, options, screen):
            return show_completed(found, options, screen)
    directory = rerunning.submit(request, ForkedStarter)
    if options.detach:
        return _tell_detached(directory, original, options, screen)
    screen.remark(f"RunId: {directory.run_id} (again {original.run_id})")
    secrets = {**request.environment, **request.secrets}
    # what is compared is shown by the comparison
    quiet = options.quiet or options.json
    status = follow_to_end(directory, screen, quiet=quiet, secrets=secrets)
    if options.verify:
        return _tell_verification(rerunning.verify(original, directory, options.tolerance), options, screen)
    if options.json:
        from aml_jupyter.commands.history import record_json

        screen.json(record_json(directory))
    return status if options.raise_error else 0


def _tell_verification(found: Verification, options: Namespace, screen: Screen) -> int:
    if options.json:
        screen.json(found.as_json())
    else:
        screen.write(rerunning.plain(found) + "\n")
    return 0 if found.same else NOT_THE_SAME


def _tell_detached(
    directory: RunDirectory, original: RunDirectory, options: Namespace, screen: Screen
) -> int:
    if options.json:
        screen.json({"run_id": directory.run_id, "rerun_of": original.run_id})
    else:
        screen.write(f"RunId: {directory.run_id}\n")
    tell_warnings(runs.load_record(directory), screen)
    if options.verify:
        screen.remark(f"aml: compare them later: aml diff {original.run_id} {directory.run_id}")
    return 0
