"""`aml ls`, `cat`, `get`, `rescue`, `restore`, `snapshot`, `share`: files of runs, projects and the share."""

from __future__ import annotations

import os

from aml_jupyter.commands.submit import parse_size, project_of, rules_of
from aml_jupyter.commands.watch import find_run
from aml_jupyter.config import aml_home
from aml_jupyter.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.experiment import Plan
    from aml_jupyter.share import Share


def shown_size(size: int) -> str:
    """Bytes as a person reads them."""
    for unit, factor in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def arguments_ls(parser: ArgumentParser) -> None:
    """Options of `aml ls`."""
    parser.add_argument("run", metavar="RUN", nargs="?", default="@last")
    parser.add_argument("path", nargs="?", default="", help="only what is below it")
    parser.add_argument("--json", action="store_true")


def do_ls(options: Namespace, screen: Screen) -> int:
    """List a run's artifacts."""
    from aml_jupyter import artifacts

    wanted = options.path.strip("/")
    items = [
        item
        for item in artifacts.listing(find_run(options.run))
        if not wanted or item.path == wanted or item.path.startswith(wanted + "/")
    ]
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


def do_cat(options: Namespace, screen: Screen) -> int:
    """Print an artifact, byte for byte."""
    from aml_jupyter import artifacts

    fd = artifacts.open_artifact(find_run(options.run), options.path)
    with os.fdopen(fd, "rb") as file:
        while block := file.read(1 << 20):
            screen.write_bytes(block)
    return 0


def arguments_get(parser: ArgumentParser) -> None:
    """Options of `aml get`."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("path", nargs="?", default="", help="a file or folder; everything unless said")
    parser.add_argument("-d", "--dest", default=".", metavar="DIR", help="where to; this folder unless said")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def do_get(options: Namespace, screen: Screen) -> int:
    """Download artifacts."""
    from aml_jupyter import artifacts

    for path in artifacts.get(
        find_run(options.run), options.path, os.path.abspath(options.dest), overwrite=options.overwrite
    ):
        screen.write(f"{path}\n")
    return 0


def arguments_rescue(parser: ArgumentParser) -> None:
    """Options of `aml rescue`."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("path", nargs="?", help="a file that is listed as not kept; lists them unless given")
    parser.add_argument("-d", "--dest", metavar="DIR", help="a folder; among the run's artifacts unless said")


def do_rescue(options: Namespace, screen: Screen) -> int:
    """Fetch a file that a run wrote outside outputs/ while its folder exists."""
    from aml_jupyter import artifacts, runs

    directory = find_run(options.run)
    if options.path is None:
        for path in runs.read_record(directory).not_kept:
            screen.write(f"{path}\n")
        return 0
    destination = os.path.abspath(options.dest) if options.dest else None
    screen.write(f"{artifacts.rescue(directory, options.path, destination)}\n")
    return 0


def arguments_restore(parser: ArgumentParser) -> None:
    """Options of `aml restore`."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--force", action="store_true", help="into a folder that is not empty")


def do_restore(options: Namespace, screen: Screen) -> int:
    """Put the snapshot of a run into a folder, with its cell beside it."""
    from aml_jupyter.experiment import restore

    directory = find_run(options.run)
    into = os.path.abspath(options.directory)
    restore(directory, into, force=options.force)
    screen.write(f"{directory.run_id} is in {into}\n")
    return 0


def arguments_snapshot(parser: ArgumentParser) -> None:
    """Options of `aml snapshot`."""
    add = parser.add_argument
    add("--dry-run", action="store_true", help="list every file with the reason it is in or out")
    add("--include", action="append", default=[], metavar="GLOB")
    add("--exclude", action="append", default=[], metavar="GLOB")
    add("--max-size", type=parse_size, metavar="SIZE")
    add("--allow-secrets", action="store_true")
    add("--project", metavar="DIR")
    add("--json", action="store_true")


def do_snapshot(options: Namespace, screen: Screen) -> int:
    """Take a snapshot, or with --dry-run explain what one would hold."""
    project, rules = project_of(options), rules_of(options)
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
    from aml_jupyter.commands.explain import explain
    from aml_jupyter.snapshot import Rules

    facts = {
        "project": planned.project.root,
        "run_configuration": planned.configuration.name,
        "target": f"{planned.target.name} ({planned.target.kind})",
        "framework": planned.framework,
        "command": list(planned.command),
        "share": planned.share.path if planned.share else None,
        "warnings": list(planned.warnings),
    }
    if as_json:
        screen.json(facts)
        return 0
    for name, value in facts.items():
        if value:
            text = " ".join(value) if name == "command" else value
            screen.write(f"{name}: {text}\n")
    return explain(planned.project, planned.request.rules or Rules(), screen, as_json=False)


def arguments_share(parser: ArgumentParser) -> None:
    """Options of `aml share`."""
    parser.add_argument("action", choices=("path", "ls", "put", "get", "rm"))
    parser.add_argument("paths", nargs="*", metavar="PATH", help="put FILE [NAME]; get NAME [FILE]; rm NAME")
    parser.add_argument("-c", "--target", default="local", metavar="TARGET")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--recursive", action="store_true", help="rm: a folder with all that is in it")
    parser.add_argument("--project", metavar="DIR")
    parser.add_argument("--json", action="store_true")


def do_share(options: Namespace, screen: Screen) -> int:
    """Show, list and change the shared folder of a target."""
    from aml_jupyter import share

    project = project_of(options)
    _, target = project.resolve(options.target)
    found = share.resolve(project, target)
    if found is None:
        raise UsageError(
            f"target {target.name!r} has no shared folder: {share.share_reason(target)}", code="share.none"
        )
    if options.action == "path":
        screen.json({"path": found.path}) if options.json else screen.write(f"{found.path}\n")
        return 0
    share.create(found)
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

    if not 1 <= len(options.paths) <= (1 if options.action == "rm" else 2):
        raise UsageError(f"aml share {options.action}: wrong number of paths", hint="aml share --help")
    first, *second = options.paths
    name = os.path.basename(first.rstrip("/"))
    if options.action == "put":
        share.put(found, os.path.abspath(first), second[0] if second else name, overwrite=options.overwrite)
    elif options.action == "get":
        into = os.path.abspath(second[0] if second else name)
        share.get(found, first, into, overwrite=options.overwrite)
        screen.write(f"{into}\n")
    else:
        share.rm(found, first, recursive=options.recursive)
    return 0
