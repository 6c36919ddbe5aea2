"""`aml promote` and `aml asset`: artifacts that a project names; and what a run was made from, in words."""

from __future__ import annotations

import os

from aml_jupyter import assets, lineage, runs
from aml_jupyter.commands import add_json
from aml_jupyter.commands.submit import project_of
from aml_jupyter.commands.watch import find_run
from aml_jupyter.config import aml_home
from aml_jupyter.errors import UsageError
from aml_jupyter.printable import page_text, safe_name, shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any

    from aml_jupyter.assets import Link
    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.runs import RunDirectory

# runs that are named where there may be many
MOST = 8


def arguments_promote(parser: ArgumentParser) -> None:
    """Options of `aml promote`."""
    add = parser.add_argument
    add("run", metavar="RUN", help="which one")
    add("path", metavar="PATH", help="an artifact such as outputs/model.pkl, or a folder of them")
    add("name", metavar="NAME", nargs="?", help="the asset's name; the file's own unless said")
    add("--note", default="", metavar="TEXT", help="what this version is")
    add("--project", metavar="DIR", help="the project; found from the working folder unless said")
    add_json(parser)


def do_promote(options: Namespace, screen: Screen) -> int:
    """Write a new version of assets/NAME.link into the project."""
    root = project_of(options).root
    directory = find_run(options.run)
    asset = lineage.promote(root, directory, options.path, options.name, note=options.note)
    if options.json:
        screen.json(_document(asset.newest))
    else:
        screen.path(asset.file)
        screen.remark(f"aml: {asset.name} is version {asset.newest.version}: {_what(asset.newest)}")
    return 0


def _what(link: Link) -> str:
    files = f", {link.files} file{'s' * (link.files != 1)}" if link.kind == "folder" else ""
    return f"{safe_name(link.path)} of {safe_name(link.run_id)}, {shown_size(link.size)}{files}"


def _document(link: Link) -> dict[str, Any]:
    return {"name": link.name, **link.as_document(), "file": link.file}


def arguments_asset(parser: ArgumentParser) -> None:
    """Options of `aml asset list` and `aml asset download`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|download")
    listed = actions.add_parser("list", help="the assets of the project")
    listed.add_argument("--versions", action="store_true", help="every version, not the newest alone")
    download = actions.add_parser("download", help="the files of a link file, or of a run")
    add = download.add_argument
    add("-l", "--link-file", metavar="FILE", help="such as assets/model.link")
    add("--version", type=int, metavar="N", help="--link-file: another version than the newest")
    add("-r", "--run", metavar="RUN", help="the artifacts of a run instead")
    add("--path", default="", metavar="PATH", help="--run: only what is below it")
    add("-d", "--dest", "--output-directory", default=".", metavar="DIR",
        help="where to; this folder unless said")  # fmt: skip
    add("--overwrite", action="store_true", help="replace files that are there")
    for action in (listed, download):
        add_json(action)
        action.add_argument(
            "--project", metavar="DIR", help="the project; found from the working folder unless said"
        )


def do_asset(options: Namespace, screen: Screen) -> int:
    """List the assets of the project, or download one."""
    if options.action == "list":
        return _list(options, screen)
    if bool(options.link_file) == bool(options.run):
        raise UsageError("aml asset download: --link-file FILE or --run RUN, one of them")
    into = os.path.abspath(options.dest)
    directory, path = _wanted(options)
    from aml_jupyter import artifacts

    paths = artifacts.get(directory, path, into, overwrite=options.overwrite)
    if options.json:
        screen.json(paths)
    else:
        for one in paths:
            screen.path(one)
    return 0


def _wanted(options: Namespace) -> tuple[RunDirectory, str]:
    """The run and the path that are meant; of a link file only what was promoted."""
    if options.run:
        return find_run(options.run), options.path
    asset = assets.load_file(options.link_file)
    link = asset.newest
    if options.version is not None:
        known = {one.version: one for one in asset.versions}
        if options.version not in known:
            raise UsageError(
                f"{options.link_file} has no version {options.version}",
                code="asset.unknown",
                hint=f"There is {', '.join(map(str, known))}.",
            )
        link = known[options.version]
    lineage.of_link("asset", link, aml_home())
    return runs.find(link.run_id, aml_home()), link.path


def _list(options: Namespace, screen: Screen) -> int:
    found = assets.listing(project_of(options).root)
    links = [link for asset in found for link in (asset.versions if options.versions else [asset.newest])]
    if options.json:
        screen.json([_document(link) for link in links])
    elif links:
        rows = [
            [
                link.name,
                str(link.version),
                shown_size(link.size),
                link.run_id,
                link.path,
                link.created_utc[:19],
            ]
            for link in links
        ]
        screen.table(["name", "version", "size", "run", "path", "promoted"], rows)
    else:
        screen.remark("aml: no assets: aml promote RUN PATH NAME")
    return 0


# ---- what a run was made from


def lineage_json(directory: RunDirectory) -> dict[str, Any]:
    """What a run was made from and what was made from it, as JSON values."""
    record = runs.load_record(directory)
    users = lineage.used_by(record, directory.home)
    return {
        "made_from": lineage.made_from(record),
        "used_by": [{"kind": kind, "run_id": run_id} for kind, run_id in users],
    }


def lineage_lines(directory: RunDirectory) -> list[str]:
    """The same as lines of text, none for a run that stands alone."""
    record = runs.load_record(directory)
    lines = []
    if original := record.properties.get("rerun_of"):
        lines.append(f"repeats    {safe_name(str(original))}")
    for one in lineage.made_from(record):
        size = one.get("size")
        words = [
            f"{one.get('path')} of {one.get('run_id')}",
            shown_size(size) if isinstance(size, int) else "",
            str(one.get("sha256"))[:12],
            str(one.get("asset") or ""),
        ]
        lines.append(f"made from  {safe_name(str(one['name']))}: {safe_name('  '.join(filter(None, words)))}")
    users = lineage.used_by(record, directory.home)
    for kind, label in (("input", "used by  "), ("rerun", "repeated ")):
        ids = [run_id for one, run_id in users if one == kind]
        more = f" and {len(ids) - MOST} more" if len(ids) > MOST else ""
        if ids:
            lines.append(f"{label}  {', '.join(ids[:MOST])}{more}")
    return lines


def lineage_bundle(directory: RunDirectory) -> dict[str, str] | None:
    """The same for a page of a notebook; None for a run that stands alone."""
    from html import escape

    lines = lineage_lines(directory)
    if not lines:
        return None
    text = "\n".join(lines)
    return {
        "text/html": f'<pre style="margin:2px 0 0 14px;font-size:12px">{escape(page_text(text))}</pre>',
        "text/plain": text,
    }
