"""`aml history`: runs with the fields, and in the forms, of `az ml history`."""

from __future__ import annotations

import os

from aml_jupyter import runs
from aml_jupyter.commands import add_json, as_verb
from aml_jupyter.commands.submit import project_of
from aml_jupyter.commands.watch import find_run
from aml_jupyter.config import aml_home
from aml_jupyter.errors import RunNotFound, UsageError
from aml_jupyter.follow import open_job_file
from aml_jupyter.printable import safe_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.runs import Record, RunDirectory

FORMS = ("json", "jsonc", "table", "tsv", "none")
# fields of a record that have the same name here
_SAME = (
    "arguments", "created_utc", "description", "end_time_utc", "experiment_id", "heartbeat_enabled", "hidden",
    "name", "parent_run_id", "run_id", "run_number", "script_name", "start_time_utc", "status", "target",
    "user_id",
)  # fmt: skip
FIELDS = (*_SAME, "attachments", "duration", "properties")
# what a table shows behind the metrics
_SHOWN = ("duration", "run_id", "script_name", "start_time_utc", "status")
# attachments that are no artifacts
LOGS = ("control_log", "driver_log")


def arguments_history(parser: ArgumentParser) -> None:
    """`aml history list|info|last|compare|download|promote|sync`."""
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="list|info|last|compare|download|promote|sync"
    )
    listed = actions.add_parser("list", help="the runs of the project, newest first")
    listed.add_argument("--top", type=int, metavar="N", help="the newest N; all unless said")
    listed.add_argument("--hidden", action="store_true", help="hidden runs too")
    info = actions.add_parser("info", help="one run; with -a the content of an attachment")
    info.add_argument("-r", "--run", required=True, metavar="RUN", help="which one")
    info.add_argument("-a", "--artifact", metavar="PATH",
                      help="such as driver_log, control_log or outputs/model.txt")  # fmt: skip
    last = actions.add_parser("last", help="the newest run of the project")
    compare = actions.add_parser("compare", help="the fields in which two runs differ")
    compare.add_argument("-r", "--run", "--runs", nargs="+", action="extend", default=[], metavar="RUN",
                         help="which ones; may be repeated")  # fmt: skip
    compare.add_argument("ids", nargs="*", metavar="RUN", help="which ones")
    for action in (listed, info, last, compare):
        _add_form(action)
    _add_changes(actions)
    for action in {id(one): one for one in actions.choices.values()}.values():
        add_json(action)
        action.add_argument("-p", "--project", "--path", metavar="DIR",
                            help="the project; found from the working folder unless said")  # fmt: skip


def _add_form(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", choices=FORMS, default="json", help="how to print; json unless said"
    )
    parser.add_argument("--query", metavar="JMESPATH",
                        help="what to print of it, such as '[?status==`Completed`].run_id'")  # fmt: skip


def _add_changes(actions: Any) -> None:
    download = actions.add_parser("download", help="the artifacts of a run")
    add = download.add_argument
    add("-r", "--run", required=True, metavar="RUN", help="which one")
    add("-a", "--artifact", default="", metavar="PATH", help="a file or folder; everything unless said")
    add("-d", "--destination", "--output-directory", dest="dest", default=".", metavar="DIR",
        help="where to; this folder unless said")  # fmt: skip
    add("--overwrite", action="store_true", help="replace files that are there")
    sync = actions.add_parser("sync", help="bring the runs that others stored in artifacts.store")
    sync.add_argument("--all-projects", action="store_true", help="not only the project of this folder")
    promote = actions.add_parser("promote", help="write assets/NAME.link into the project")
    add = promote.add_argument
    add("-r", "--run", required=True, metavar="RUN", help="which one")
    add("-ap", "--artifact-path", required=True, dest="artifact", metavar="PATH",
        help="such as outputs/model.pkl")  # fmt: skip
    add("-n", "--name", metavar="NAME", help="the asset's name; the file's own unless said")


def do_history(options: Namespace, screen: Screen) -> int:
    """What `az ml history` did, by the names it had."""
    doers = {
        "list": _list,
        "info": _info,
        "last": _last,
        "compare": _compare,
        "download": _download,
        "promote": _promote,
        "sync": _sync,
    }
    return doers[options.action](options, screen)


def _sync(options: Namespace, screen: Screen) -> int:
    from aml_jupyter.commands.store import do_sync

    return do_sync(options, screen)


def fields_of(directory: RunDirectory, record: Record | None = None) -> dict[str, Any]:
    """A run as its fields were named in 2018: every metric is a field of its own.

    A metric that has the name of a field is called `metrics.NAME`.
    """
    from aml_jupyter import artifacts

    record = record or runs.read_record(directory)
    found = {name: getattr(record, name) for name in _SAME}
    found["arguments"] = list(record.arguments)
    found["duration"] = shown_duration(record.duration)
    found["properties"] = dict(record.properties)
    paths = [item.path for item in artifacts.listing(directory) if item.state != "rejected"]
    found["attachments"] = ",".join([*LOGS, *paths])
    for name, value in record.metrics.items():
        found[f"metrics.{name}" if name in FIELDS else name] = value
    return dict(sorted(found.items()))


def shown_duration(seconds: float | None) -> str | None:
    """Seconds as `0:00:04.892389`."""
    from datetime import timedelta

    return None if seconds is None else str(timedelta(seconds=seconds))


def _list(options: Namespace, screen: Screen) -> int:
    if options.top is not None and options.top < 1:
        raise UsageError("--top must be 1 or more")
    home = aml_home()
    with runs.History(home) as history:
        rows = history.rows(limit=options.top, project=project_of(options).key, hidden=options.hidden)
    found = []
    for row in rows:
        try:
            found.append(fields_of(runs.find(row["run_id"], home)))
        except RunNotFound:  # removed since
            continue
    return _print(found, options, screen)


def _info(options: Namespace, screen: Screen) -> int:
    directory = find_run(options.run)
    if options.artifact:
        return _print_attachment(directory, options.artifact, screen)
    return _print(fields_of(directory), options, screen)


def _last(options: Namespace, screen: Screen) -> int:
    return _print(fields_of(runs.find("@last", aml_home(), project_of(options))), options, screen)


def _print_attachment(directory: RunDirectory, name: str, screen: Screen) -> int:
    logs = {"control_log": directory.control_log, "driver_log": directory.log}
    path = logs.get(name.removesuffix(".txt"))
    if path is None:
        from aml_jupyter import artifacts

        for block in artifacts.read_blocks(directory, name):
            screen.write_bytes(block)
    elif (fd := open_job_file(path)) is not None:
        with os.fdopen(fd, "rb") as file:
            while block := file.read(1 << 20):
                screen.output("stdout", block.decode(errors="replace"))
    return 0


def _compare(options: Namespace, screen: Screen) -> int:
    references = [*options.run, *options.ids]
    if len(references) != 2:
        raise UsageError(
            f"aml history compare: two runs, not {len(references)}",
            hint="aml compare RUN RUN RUN compares more, and by what they are made of.",
        )
    one, other = (fields_of(find_run(reference)) for reference in references)
    differs = {
        name: [one.get(name), other.get(name)]
        for name in sorted({*one, *other})
        if name != "run_id" and one.get(name) != other.get(name)
    }
    pair = [one["run_id"], other["run_id"]]
    if options.output == "table" and not options.query:
        rows = [[name, *map(shown_value, values)] for name, values in differs.items()]
        screen.table(["Field", *pair], rows)
        return 0
    return _print({"run_ids": pair, "differences": differs}, options, screen)


def _download(options: Namespace, screen: Screen) -> int:
    return as_verb("get", [options.run], options, screen, path=options.artifact, dest=options.dest)


def _promote(options: Namespace, screen: Screen) -> int:
    words = [options.run, options.artifact]
    return as_verb("promote", words, options, screen, name=options.name)


def _print(found: Any, options: Namespace, screen: Screen) -> int:
    """Print what the query leaves of it, in the form that is asked for."""
    found = ask(options.query, found) if options.query else found
    form = "json" if options.json else options.output
    if form == "none":
        return 0
    if form in ("json", "jsonc"):
        screen.json(found)
    elif form == "tsv":
        for cells in tab_separated(found):
            screen.write("\t".join(safe_name(one) if screen.interactive else one for one in cells) + "\n")
    else:
        columns, rows = table_of(found, whole=not options.query)
        if columns:
            screen.table(columns, rows)
    return 0


def ask(query: str, found: Any) -> Any:
    """The answer of a JMESPath expression.  Raises UsageError."""
    import jmespath

    try:
        return jmespath.search(query, found)
    except (jmespath.exceptions.JMESPathError, RecursionError) as error:
        raise UsageError(
            f"--query {query}: {error}",
            hint="It is a JMESPath expression (https://jmespath.org): [?status=='Completed'].run_id",
        ) from error


def tab_separated(found: Any) -> list[list[str]]:
    """Lines of values, as the Azure CLI prints them for programs."""
    if found is None:
        return []
    items = found if isinstance(found, list) else [found]
    return [list(map(shown_value, values_of(item))) for item in items]


def values_of(item: Any) -> list[Any]:
    """The values of one line."""
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else [item]


def table_of(found: Any, *, whole: bool) -> tuple[list[str], list[list[str]]]:
    """Columns and rows; of whole runs the metrics and what tells them apart."""
    items = found if isinstance(found, list) else [] if found is None else [found]
    if not items:
        return [], []
    if not all(isinstance(item, dict) for item in items):
        rows = [values_of(item) for item in items]
        width = max(map(len, rows))
        names = [f"Column{number + 1}" for number in range(width)] if width > 1 else ["Result"]
        return names, [[*map(shown_value, row), *[""] * (width - len(row))] for row in rows]
    keys = list(dict.fromkeys(key for item in items for key in item))
    if whole:
        metrics = [key for key in keys if key not in FIELDS]
        keys = [*metrics, *_SHOWN]
    # a list or table among the metrics would make rows of any width
    keys = [key for key in keys if any(not isinstance(item.get(key), (list, dict)) for item in items)]
    rows = [[shown_value(item.get(key)) for key in keys] for item in items]
    return [key[:1].upper() + key[1:] for key in keys], rows


def shown_value(value: Any) -> str:
    """A value on one line."""
    if value is None:
        return ""
    if isinstance(value, (list, dict)):
        import json

        value = json.dumps(value)
    return str(value).replace("\t", " ").replace("\r", " ").replace("\n", " ")
