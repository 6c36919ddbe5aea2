"""`aml export`: runs to an MLflow server, or one run as an RO-Crate."""

from __future__ import annotations

import os

from aml_jupyter.commands import add_json
from aml_jupyter.commands.watch import find_run
from aml_jupyter.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.runs import RunDirectory


def arguments_export(parser: ArgumentParser) -> None:
    """Options of `aml export`."""
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", help="id, prefix, name, @last, ...")
    add("--mlflow", metavar="URL", help="an MLflow server, such as http://127.0.0.1:5000")
    add("--experiment", metavar="NAME", help="where in the server; the project's name unless said")
    add("--no-artifacts", action="store_true", help="send no files to the server")
    add("--ro-crate", metavar="PATH", help="a new folder, or a file that ends in .zip")
    add("--license", metavar="TEXT", help="what the crate says of its license, best by its address")
    add_json(parser)


def do_export(options: Namespace, screen: Screen) -> int:
    """Export runs."""
    if bool(options.mlflow) == bool(options.ro_crate):
        raise UsageError("export where to?", hint="aml export RUN --mlflow URL, or --ro-crate DIR|FILE.zip")
    found = list({one.run_id: one for one in map(find_run, options.runs)}.values())
    if options.mlflow:
        return _to_mlflow(found, options, screen)
    if len(found) != 1:
        raise UsageError("a crate holds one run", hint="Export each run to a crate of its own.")
    return _to_crate(found[0], options, screen)


def _to_mlflow(found: list[RunDirectory], options: Namespace, screen: Screen) -> int:
    from aml_jupyter import runs
    from aml_jupyter.interchange import mlflow
    from aml_jupyter.interchange.server import Server

    server = Server(options.mlflow)
    # a parent has to be there before its children can name it
    found.sort(key=lambda one: runs.load_record(one).parent_run_id is not None)
    told = []
    for directory in found:
        one = mlflow.export(
            directory,
            server,
            experiment=options.experiment,
            with_artifacts=not options.no_artifacts,
            tell=screen.progress if screen.interactive else lambda _text: None,
        )
        told.append(one.as_dict())
        if not options.json:
            what = (
                f"{one.metrics} values, {one.artifacts} files"
                if one.state != "unchanged"
                else "nothing to send"
            )
            screen.write(f"{one.run_id} {one.state} ({what}): {one.url}\n")
    if options.json:
        screen.json(told)
    return 0


def _to_crate(directory: RunDirectory, options: Namespace, screen: Screen) -> int:
    from aml_jupyter.interchange import rocrate

    path = os.path.abspath(options.ro_crate)
    files = rocrate.export(directory, path, license_=options.license)
    if options.json:
        screen.json({"run_id": directory.run_id, "path": path, "files": files})
    else:
        screen.path(path)
    return 0
