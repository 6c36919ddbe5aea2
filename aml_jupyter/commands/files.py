"""`aml ls`, `cat`, `get`, `rescue`, `restore`, `snapshot`, `share`: files of runs, projects and the share."""

from __future__ import annotations

import os
import shlex

from aml_jupyter.commands import add_json
from aml_jupyter.commands.outputs import parse_range
from aml_jupyter.commands.resources import parse_size
from aml_jupyter.commands.submit import project_of, rules_of
from aml_jupyter.commands.watch import find_run
from aml_jupyter.config import aml_home
from aml_jupyter.errors import UsageError
from aml_jupyter.printable import shown_size
from aml_jupyter.runs.directory import ask_push

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.experiment import Plan
    from aml_jupyter.share import Share


def arguments_ls(parser: ArgumentParser) -> None:
    """Options of `aml ls`."""
    parser.add_argument("run", metavar="RUN", nargs="?", default="@last")
    parser.add_argument("path", nargs="?", default="", help="only what is below it")
    add_json(parser)


def do_ls(options: Namespace, screen: Screen) -> int:
    """List a run's artifacts."""
    from aml_jupyter.commands.outputs import listed

    items = listed(find_run(options.run, whole=False), options.path, screen)
    if options.json:
        screen.json([item.as_dict() for item in items])
    elif items:
        screen.table(
            ["size", "state", "sha256", "path"],
            [[shown_size(item.size), item.state, (item.sha256 or "-")[:12], item.path] for item in items],
        )
    else:
        screen.remark("aml: no artifacts")
    return 0


def arguments_cat(parser: ArgumentParser) -> None:
    """Options of `aml cat`."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("path", metavar="PATH", help="such as outputs/metrics.csv")
    parser.add_argument("--range", type=parse_range, metavar="START-END",
                        help="only these bytes: 0-99 are the first hundred, =-100 the last")  # fmt: skip


def do_cat(options: Namespace, screen: Screen) -> int:
    """Print an artifact, byte for byte; exit status 5 behind bytes that are not those that were kept."""
    from aml_jupyter.commands.outputs import printed

    for block in printed(find_run(options.run, whole=False), options, screen):
        screen.write_bytes(block)
    return 0


def arguments_get(parser: ArgumentParser) -> None:
    """Options of `aml get`."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("path", nargs="?", default="", help="a file or folder; everything unless said")
    parser.add_argument("-d", "--dest", default=".", metavar="DIR", help="where to; this folder unless said")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument("--resume", action="store_true", help="leave files that have come whole already")
    add_json(parser)


def do_get(options: Namespace, screen: Screen) -> int:
    """Download artifacts, or the outputs so far of a run that goes on."""
    from aml_jupyter.commands.outputs import download

    return _show_paths(download(find_run(options.run), options, screen), options, screen)


def _show_paths(paths: Sequence[str], options: Namespace, screen: Screen) -> int:
    if options.json:
        screen.json(list(paths))
    else:
        for path in paths:
            screen.path(path)
    return 0


def arguments_rescue(parser: ArgumentParser) -> None:
    """Options of `aml rescue`."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("path", nargs="?", help="a file that is listed as not kept; lists them unless given")
    parser.add_argument("-d", "--dest", metavar="DIR", help="a folder; among the run's artifacts unless said")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_json(parser)


def do_rescue(options: Namespace, screen: Screen) -> int:
    """Fetch a file that a run wrote outside outputs/ while its folder exists."""
    from aml_jupyter import artifacts, runs

    directory = find_run(options.run)
    if options.path is None:
        return _show_paths(runs.read_record(directory).not_kept, options, screen)
    into = os.path.abspath(options.dest) if options.dest else None
    found = artifacts.rescue(directory, options.path, into, overwrite=options.overwrite)
    if into is None:
        ask_push(directory)
    return _show_paths(found, options, screen)


def arguments_restore(parser: ArgumentParser) -> None:
    """Options of `aml restore`."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--force", action="store_true", help="into a folder that is not empty")
    add_json(parser)


def do_restore(options: Namespace, screen: Screen) -> int:
    """Put the snapshot of a run into a folder, with its cell beside it."""
    from aml_jupyter.experiment import restore

    directory = find_run(options.run)
    into = os.path.abspath(options.directory)
    restore(directory, into, force=options.force)
    if options.json:
        screen.json({"run_id": directory.run_id, "directory": into})
    else:
        screen.path(into)
    return 0


def arguments_snapshot(parser: ArgumentParser) -> None:
    """Options of `aml snapshot`."""
    add = parser.add_argument
    add("--dry-run", action="store_true", help="list every file with the reason it is in or out")
    add(
        "--include", action="append", default=[], metavar="GLOB", help="take it although a rule leaves it out"
    )
    add("--exclude", action="append", default=[], metavar="GLOB", help="leave it out")
    add("--max-size", type=parse_size, metavar="SIZE", help="the most that may be taken; 25MB unless said")
    add("--allow-secrets", action="store_true", help="take files that look like they hold credentials")
    add("--project", metavar="DIR", help="the project; found from the working folder unless said")
    add_json(parser)


def do_snapshot(options: Namespace, screen: Screen) -> int:
    """Take a snapshot, or with --dry-run explain what one would hold."""
    project = project_of(options)
    rules = rules_of(options).replace(dependency_files=project.dependency_files())
    from aml_jupyter.snapshot import Store

    if options.dry_run:
        from aml_jupyter.commands.explain import explain

        return explain(project, rules, screen, as_json=options.json)
    taken = Store(aml_home() + "/snapshots").take(project.root, rules)
    if options.json:
        screen.json(taken.as_dict())
    else:
        screen.write(f"{taken.id} {taken.files} files, {shown_size(taken.bytes)}\n")
        for warning in taken.warnings:
            screen.remark(f"aml: {warning}")
    return 0


def show_plan(planned: Plan, screen: Screen, *, as_json: bool) -> int:
    """What a run would be: for --dry-run."""
    from aml_jupyter.commands.explain import REFUSED, as_document, explain, explanation
    from aml_jupyter.snapshot import Rules

    rules = planned.request.rules or Rules()
    rules = rules.replace(dependency_files=planned.project.dependency_files())
    facts = {
        "project": planned.project.root,
        "run_configuration": planned.configuration.name,
        "target": f"{planned.target.name} ({planned.target.kind})",
        "framework": planned.framework,
        "command": list(planned.command),
        "share": planned.share.path if planned.share else None,
    }
    if as_json:
        found, last = explanation(planned.project, rules)
        screen.json(
            {**facts, "warnings": list(planned.warnings), "snapshot": as_document(found, rules, last)}
        )
        return REFUSED if found.refusals else 0
    for warning in planned.warnings:
        screen.remark(f"aml: {warning}")
    for name, value in facts.items():
        if value:
            text = shlex.join(planned.command) if name == "command" else value
            screen.path(f"{name}: {text}")
    screen.write("\n")
    return explain(planned.project, rules, screen, as_json=False)


# each with the fewest and the most paths it takes
ACTIONS = {"path": (0, 0), "ls": (0, 1), "put": (1, 2), "get": (1, 2), "rm": (1, 1)}


def arguments_share(parser: ArgumentParser) -> None:
    """Options of `aml share`."""
    parser.add_argument("action", choices=ACTIONS, help="what to do with it")
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="ls [NAME]; put FILE [NAME]; get NAME [FILE]; rm NAME"
    )
    parser.add_argument(
        "-c", "--target", default="local", metavar="TARGET", help="whose share; local unless said"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--recursive", action="store_true", help="rm: a folder with all that is in it")
    parser.add_argument(
        "--project", metavar="DIR", help="the project; found from the working folder unless said"
    )
    add_json(parser)


def do_share(options: Namespace, screen: Screen) -> int:
    """Show, list and change the shared folder of a target."""
    from aml_jupyter import share
    from aml_jupyter.config import registered

    fewest, most = ACTIONS[options.action]
    if not fewest <= len(options.paths) <= most:
        raise UsageError(f"aml share {options.action}: wrong number of paths", hint="aml share --help")
    project = project_of(options)
    _, target = project.resolve(options.target)
    if options.action == "put":  # what is kept there belongs to whoever has the name
        project = registered(project)
        if project.notice:
            screen.remark(f"aml: {project.notice}")
    found = share.resolve(project, target)
    if found is None:
        raise UsageError(
            f"target {target.name!r} has no shared folder: {share.share_reason(target)}", code="share.none"
        )
    if options.action == "path":
        return _show_paths([found.path], options, screen)
    for warning in share.create(found):
        screen.remark(f"aml: {warning}")
    if options.action == "ls":
        return _list_share(found, options, screen)
    return _change_share(found, options, screen)


def _list_share(found: Share, options: Namespace, screen: Screen) -> int:
    from aml_jupyter import share

    entries = share.ls(found, options.paths[0] if options.paths else "")
    if options.json:
        screen.json([{"path": one.path, "kind": one.kind, "size": one.size} for one in entries])
    elif entries:
        screen.table(
            ["kind", "size", "name"], [[one.kind, shown_size(one.size), one.path] for one in entries]
        )
    return 0


def _change_share(found: Share, options: Namespace, screen: Screen) -> int:
    from aml_jupyter import share

    first, *second = options.paths
    name = os.path.basename(first.rstrip("/"))
    if options.action == "rm":
        share.rm(found, first, recursive=options.recursive)
        done = first
    elif options.action == "put":
        into = second[0] if second else name
        done = share.put(found, os.path.abspath(first), into, overwrite=options.overwrite)
    else:
        into = os.path.abspath(second[0] if second else name)
        done = share.get(found, first, into, overwrite=options.overwrite)
    return _show_paths([done], options, screen)
