"""`aml run`: start runs; what every other way to submit shares with it."""

from __future__ import annotations

import os

from aml_jupyter import plainjson
from aml_jupyter.commands import add_json, parse_pair, parse_seconds
from aml_jupyter.commands.resources import (
    add_environment_options,
    add_resource_options,
    parse_size,
    resources_of,
)
from aml_jupyter.commands.variables import add_variable_options, environment_of, secrets_of
from aml_jupyter.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from typing import Any

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Request
    from aml_jupyter.runs import RunDirectory
    from aml_jupyter.snapshot import Rules


TARGET_HELP = "a run configuration, failing that a compute target; several with commas are compared"
# an argument named like one of these should not stand in a record
SECRET_WORDS = ("password", "passwd", "secret", "token", "api-key", "apikey", "api_key", "credential")


def arguments_run(parser: ArgumentParser) -> None:
    """Options of `aml run`; `%amlrun` has the same."""
    parser.add_argument("target", metavar="TARGET", help=TARGET_HELP)
    parser.add_argument("script", nargs="?", help="a script of the project")
    parser.add_argument("arguments", nargs="*", help="arguments of the script; those with dashes behind --")
    add_run_options(parser)
    add_json(parser)


def add_run_options(parser: ArgumentParser) -> None:
    """What a cell, a line and a command have in common."""
    add = parser.add_argument
    add("-t", "--compute", metavar="NAME", help="another compute target than the run configuration's")
    add("-n", "--name", help="a name for the run")
    add("--tag", action="append", default=[], metavar="TAG", help="a tag; may be repeated")
    add("--message", default="", help="a note on the run")
    add("-p", "--param", action="append", default=[], type=parse_pair, metavar="NAME=VALUE",
        help="a parameter: a variable of a cell, --NAME=VALUE for a script")  # fmt: skip
    add_variable_options(parser)
    add("-d", "--detach", "--bg", "--no-wait", action="store_true", help="return at once; the run goes on")
    add("-q", "--quiet", action="store_true", help="do not print what the run prints")
    add("-w", "--workdir", metavar="DIR", help="the folder in the copy to start in")
    add("--timeout", type=parse_seconds, metavar="TIME", help="end the run when it has run for 30s, 10m, 2h")
    add("--from-run", metavar="RUN", help="the code of an earlier run instead of the folder as it is now")
    add("--input", dest="given", action="append", default=[], type=parse_pair, metavar="NAME=RUN:PATH",
        help="an artifact of an earlier run, or asset:NAME; a read-only copy below inputs/NAME")  # fmt: skip
    add("--needed", action="store_true",
        help="not where a run of the same code, values, inputs and environment has completed")  # fmt: skip
    add("--dry-run", action="store_true", help="say what would be run and sent, and stop")
    add(
        "--include", action="append", default=[], metavar="GLOB", help="send it although a rule leaves it out"
    )
    add("--exclude", action="append", default=[], metavar="GLOB", help="leave it out")
    add("--max-size", type=parse_size, metavar="SIZE", help="the most that may be sent; 25MB unless said")
    add("--allow-secrets", action="store_true", help="send files that look like they hold credentials")
    add_environment_options(parser)
    add("--prepare-only", action="store_true", help="make the environment ready, and stop")
    add_resource_options(parser)
    add("--tolerance", type=parse_tolerance, default=1e-6, metavar="NUMBER",
        help="the relative difference that metrics of TARGET,TARGET may have; 1e-6 unless said")  # fmt: skip
    add("--project", metavar="DIR", help="the project; found from the working folder unless said")
    add("--no-raise-error", dest="raise_error", action="store_false", help="a failed run is only reported")
    _add_sweep_options(parser)


# what the options of sweeps and of the queue are called behind the dashes
_SWEEP_OPTIONS = ("sweep", "jobs", "max_trials", "random", "seed", "metric", "fail_fast", "queue")


def _add_sweep_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--sweep", action="append", default=[], metavar="NAME=VALUES",
        help="a run for each value: lr=0.1,0.01, depth=1..5, rate=0.1..1:0.1; repeated, a grid")  # fmt: skip
    add("-j", "--jobs", type=int, metavar="N", help="trials of the sweep that go on at a time; 1 unless said")
    add("--max-trials", type=int, metavar="N", help="the most trials; the first ones of the grid")
    add("--random", type=int, metavar="N", help="N trials of the grid, drawn by chance")
    add("--seed", type=int, metavar="N", help="have --random draw the same trials again")
    add(
        "--metric",
        default="",
        metavar="NAME[:min]",
        help="what the best trial has most of, or with :min least",
    )
    add("--fail-fast", action="store_true", help="the first trial that does not complete ends the others")
    add("--queue", action="store_true", help="put it into the queue, and return at once; aml queue lists it")


def parse_tolerance(text: str) -> float:
    """A number from 0 on.  Raises ArgumentTypeError."""
    import argparse

    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a relative difference such as 1e-6 or 0")
    return number


def rules_of(options: Namespace) -> Rules:
    """The rules of the snapshot that the options ask for."""
    from aml_jupyter.snapshot import Rules

    rules = Rules(
        include=tuple(options.include),
        exclude=tuple(options.exclude),
        allow_secrets=options.allow_secrets,
    )
    return rules if options.max_size is None else rules.replace(max_bytes=options.max_size)


def project_of(options: Namespace) -> Project:
    """The project of `--project` or of the working folder.  Raises UsageError where there is no folder."""
    from aml_jupyter.config import find_project

    if options.project is not None and not os.path.isdir(options.project):
        raise UsageError(f"--project {options.project!r} is not a folder")
    try:
        return find_project(options.project)
    except FileNotFoundError as error:
        raise UsageError(
            "the working folder is gone", hint="cd into a project, or name it: --project DIR"
        ) from error


def params_of(options: Namespace) -> dict[str, object]:
    """Parameters by name; a value that is JSON is that value, everything else is text."""
    found: dict[str, object] = {}
    for name, value in options.param:
        try:
            found[name] = plainjson.loads(value)
        except ValueError:
            found[name] = value
    return found


def request_of(options: Namespace, **more: Any) -> Request:
    """The request that options of a front door make; `more` are fields of Request."""
    from aml_jupyter.experiment import Request

    return Request(
        target=options.target,
        compute=options.compute,
        params=params_of(options),
        environment=environment_of(options),
        secrets=secrets_of(options),
        timeout=options.timeout,
        name=options.name,
        tags=tuple(options.tag),
        message=options.message,
        workdir=options.workdir,
        rules=rules_of(options),
        from_run=options.from_run,
        given=dict(options.given),
        needed=options.needed,
        resources=resources_of(options),
        **more,
    )


def do_run(options: Namespace, screen: Screen) -> int:
    """Submit a script, and unless detached follow it to its end."""
    request = request_of(options, script=options.script, arguments=(*options.arguments, *options.after))
    return submit_and_follow(request, project_of(options), options, screen)


def submit_and_follow(request: Request, project: Project, options: Namespace, screen: Screen) -> int:
    """What every way to submit from a terminal does."""
    from aml_jupyter import experiment
    from aml_jupyter.starting import ForkedStarter

    if options.dry_run or options.prepare_only:
        return without_run(request, project, options, screen)
    _warn_of_secrets(request.arguments, screen)
    if getattr(options, "needed", False) and not options.sweep:
        from aml_jupyter.commands.needed import completed, show_completed

        if found := completed(request, project, options, screen):
            return show_completed(found, options, screen)
    if wants_queue(options):
        from aml_jupyter.commands import sweep

        return sweep.submit_and_follow(request, project, options, screen)
    if "," in request.target:
        from aml_jupyter.commands.portability import submit_and_compare

        return submit_and_compare(request, project, options, screen)
    # a command has one thread and ends soon: its fork may see the run through
    directory = experiment.submit(request, project, ForkedStarter)
    if options.detach:
        return _tell_detached(directory, options, screen)
    from aml_jupyter.commands.watch import follow_to_end

    screen.remark(f"RunId: {directory.run_id}")
    secrets = {**request.environment, **request.secrets}
    status = follow_to_end(directory, screen, quiet=options.quiet or options.json, secrets=secrets)
    if options.json:
        from aml_jupyter.commands.history import record_json

        screen.json(record_json(directory))
    return status if options.raise_error else 0


def wants_queue(options: Namespace) -> bool:
    """Whether a line asks for a sweep or for the queue, or has an option of them."""
    given = (getattr(options, name, None) for name in _SWEEP_OPTIONS)
    return any(value is not None and value is not False and value not in ("", []) for value in given)


def without_run(
    request: Request, project: Project, options: Namespace, screen: Screen, *, as_json: bool | None = None
) -> int:
    """Show what would be run and sent, or make the environment ready."""
    as_json = options.json if as_json is None else as_json
    if wants_queue(options) and options.sweep:
        from aml_jupyter.commands import sweep

        request = sweep.plan_trials(request, options, screen, as_json=as_json)

    def do(one: Request, into: Screen) -> int:
        if options.dry_run:
            from aml_jupyter import experiment
            from aml_jupyter.commands.files import show_plan

            return show_plan(experiment.plan(one, project), into, as_json=as_json)
        from aml_jupyter.commands.prepare import prepare

        return prepare(one, project, into, as_json=as_json)

    if "," not in request.target:
        return do(request, screen)
    from aml_jupyter.commands.portability import plan_each

    return plan_each(request, screen, do=do, as_json=as_json)


def _tell_detached(directory: RunDirectory, options: Namespace, screen: Screen) -> int:
    from aml_jupyter import runs
    from aml_jupyter.commands.watch import tell_warnings

    if options.json:
        screen.json({"run_id": directory.run_id})
    else:
        screen.write(f"RunId: {directory.run_id}\n")
    tell_warnings(runs.load_record(directory), screen)
    return 0


def _warn_of_secrets(arguments: Sequence[str], screen: Screen) -> None:
    """Arguments are part of the record: say so where one seems to be a password."""
    for word in arguments:
        name = word.partition("=")[0]
        if name.startswith("-") and any(part in name.lower() for part in SECRET_WORDS):
            screen.remark(
                f"aml: arguments are kept with the run, {name} as well:"
                " give it with -e NAME=VALUE, which is written nowhere"
            )
