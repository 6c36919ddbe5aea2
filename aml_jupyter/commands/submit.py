"""`aml run` and `aml experiment`: start runs."""

from __future__ import annotations

import os

from aml_jupyter.commands import parse_pair, parse_seconds
from aml_jupyter.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Request
    from aml_jupyter.snapshot import Rules


def arguments_run(parser: ArgumentParser) -> None:
    """Options of `aml run`; `%amlrun` has the same."""
    parser.add_argument("target", metavar="TARGET", help="a run configuration, failing that a compute target")
    parser.add_argument("script", nargs="?", help="a script of the project")
    parser.add_argument("arguments", nargs="*", help="arguments of the script; those with dashes behind --")
    add_run_options(parser)
    parser.add_argument("--json", action="store_true", help="print the record as JSON at the end")


def add_run_options(parser: ArgumentParser) -> None:
    """What a cell, a line and a command have in common."""
    add = parser.add_argument
    add("-t", "--compute", metavar="NAME", help="another compute target than the run configuration's")
    add("-n", "--name", help="a name for the run")
    add("--tag", action="append", default=[], metavar="TAG", help="a tag; may be repeated")
    add("--message", default="", help="a note on the run")
    add("-p", "--param", action="append", default=[], type=parse_pair, metavar="NAME=VALUE",
        help="a parameter: a variable of a cell, --NAME=VALUE for a script")  # fmt: skip
    add("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]",
        help="an environment variable; without a value, this one's own; written nowhere")  # fmt: skip
    add("--env-file", action="append", default=[], metavar="FILE", help="variables, NAME=VALUE a line")
    add("-d", "--detach", "--bg", "--no-wait", action="store_true", help="return at once; the run goes on")
    add("-q", "--quiet", action="store_true", help="do not print what the run prints")
    add("-w", "--workdir", metavar="DIR", help="the folder in the copy to start in")
    add("--timeout", type=parse_seconds, metavar="TIME", help="end the run after 30s, 10m, 2h")
    add("--from-run", metavar="RUN", help="the code of an earlier run instead of the folder as it is now")
    add("--dry-run", action="store_true", help="say what would be run and sent, and stop")
    add(
        "--include", action="append", default=[], metavar="GLOB", help="send it although a rule leaves it out"
    )
    add("--exclude", action="append", default=[], metavar="GLOB", help="leave it out")
    add("--max-size", type=parse_size, metavar="SIZE", help="the most that may be sent; 25MB unless said")
    add("--allow-secrets", action="store_true", help="send files that look like they hold credentials")
    add("--project", metavar="DIR", help="the project; found from the working folder unless said")
    add("--no-raise-error", dest="raise_error", action="store_false", help="a failed run is only reported")


def parse_size(text: str) -> int:
    """Bytes of `25MB`, `1GiB` or a number; MB and MiB both mean 1024 x 1024.  Raises ValueError."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    bare = text.upper().removesuffix("B").removesuffix("I")
    factor = units.get(bare[-1:], 1)
    return int(float(bare[:-1] if bare[-1:] in units else bare) * factor)


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
    """The project of `--project` or of the working folder."""
    from aml_jupyter.config import find_project

    return find_project(options.project)


def environment_of(options: Namespace) -> dict[str, str]:
    """Variables of `--env-file` and `-e`, the latter winning.  Raises UsageError."""
    found: dict[str, str] = {}
    for path in options.env_file:
        found.update(_read_env_file(path))
    for text in options.env:
        name, equals, value = text.partition("=")
        if not equals and name not in os.environ:
            raise UsageError(f"-e {name}: there is no such variable here", hint=f"-e {name}=VALUE sets one.")
        found[name] = value if equals else os.environ[name]
    for name, value in found.items():
        if not name or "\0" in name + value:
            raise UsageError(f"{name!r} cannot be an environment variable")
    return found


def _read_env_file(path: str) -> Mapping[str, str]:
    from aml_jupyter.confined import read_bounded

    try:
        text = read_bounded(os.path.abspath(path), 1 << 20).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--env-file {path}: {error}") from error
    found = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        if not equals:
            raise UsageError(f"{path}:{number}: a line must be NAME=VALUE")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[name.strip()] = value
    return found


def params_of(options: Namespace) -> dict[str, object]:
    """Parameters by name; a value that is JSON is that value, everything else is text."""
    import json

    found: dict[str, object] = {}
    for name, value in options.param:
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def request_of(options: Namespace, **more: object) -> Request:
    """The request that options of a front door make; `more` are fields of Request."""
    from aml_jupyter.experiment import Request

    return Request(
        target=options.target,
        compute=options.compute,
        params=params_of(options),
        environment=environment_of(options),
        timeout=options.timeout,
        name=options.name,
        tags=tuple(options.tag),
        message=options.message,
        workdir=options.workdir,
        rules=rules_of(options),
        from_run=options.from_run,
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

    if options.dry_run:
        from aml_jupyter.commands.files import show_plan

        return show_plan(experiment.plan(request, project), screen, as_json=options.json)
    directory = experiment.submit(request, project, ForkedStarter)
    if options.detach:
        if options.json:
            screen.json({"run_id": directory.run_id})
        else:
            screen.write(f"RunId: {directory.run_id}\n")
        return 0
    from aml_jupyter.commands.watch import follow_to_end

    if not options.json:
        screen.remark(f"RunId: {directory.run_id}")
    status = follow_to_end(directory, screen, quiet=options.quiet or options.json)
    if options.json:
        from aml_jupyter.commands.history import record_json

        screen.json(record_json(directory))
    return status if options.raise_error else 0


def arguments_experiment(parser: ArgumentParser) -> None:
    """`aml experiment submit -c TARGET script.py args`, `cancel -r RUN`, `status -r RUN`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="submit|cancel|status")
    submit = actions.add_parser("submit", help="run a script; everything behind it belongs to it")
    submit.add_argument("-c", "--run-configuration", dest="target", default="local", metavar="NAME")
    submit.add_argument("-t", "--target", dest="compute", metavar="NAME")
    submit.add_argument("-a", "--async", dest="detach", action="store_true", help="do not wait")
    submit.add_argument("-p", "--project", metavar="DIR")
    submit.add_argument("--wait", dest="detach", action="store_false")
    submit.add_argument("--json", action="store_true")
    submit.add_argument("words", nargs="...", metavar="script args")
    for name in ("cancel", "status"):
        action = actions.add_parser(name)
        action.add_argument("-r", "--run", required=True, metavar="RUN")
        action.add_argument("-t", "--target", dest="compute", metavar="NAME")
        action.add_argument("-p", "--project", metavar="DIR")
        action.add_argument("--json", action="store_true")


def do_experiment(options: Namespace, screen: Screen) -> int:
    """The names of 2018 for run, stop and show."""
    if options.action == "submit":
        return _submit_2018(options, screen)
    from aml_jupyter.commands import history, watch

    if options.action == "cancel":
        options.runs, options.kill = [options.run], False
        return watch.do_stop(options, screen)
    options.run_reference = options.run
    return history.do_show(options, screen)


def _submit_2018(options: Namespace, screen: Screen) -> int:
    from aml_jupyter.experiment import Request

    words = [*options.words, *options.after]
    request = Request(
        target=options.target,
        compute=options.compute,
        script=words[0] if words else None,
        arguments=tuple(words[1:]),
    )
    options.dry_run, options.quiet, options.raise_error = False, False, True
    return submit_and_follow(request, project_of(options), options, screen)
