"""`aml runs`, `show`, `tag`, `note`, `pin`, `rm`, `gc`, `check`: the run history."""

from __future__ import annotations

from aml_jupyter import runs
from aml_jupyter.commands import add_json
from aml_jupyter.commands.submit import project_of
from aml_jupyter.commands.watch import find_run
from aml_jupyter.config import aml_home
from aml_jupyter.errors import UsageError
from aml_jupyter.printable import shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.portability import Verdict
    from aml_jupyter.runs import RunDirectory

# what `aml runs` shows unless told otherwise
COLUMNS = ["run_id", "name", "status", "target", "script_name", "created_utc", "duration", "metrics"]
# the exit status of a damaged history, as for the errors that it causes
DAMAGED = 5


def arguments_runs(parser: ArgumentParser) -> None:
    """Options of `aml runs`."""
    add = parser.add_argument
    add("--order-by", metavar="KEY", help="such as created_utc, 'metrics.acc DESC', 'params.lr ASC'")
    add("--columns", metavar="A,B", help="such as run_id,status,metrics.acc")
    add("--limit", type=int, default=50, metavar="N", help="the most rows; 50 unless said")
    add("--all-projects", action="store_true", help="not only the project of this folder")
    add("--hidden", action="store_true", help="hidden runs too")
    add_json(parser)
    add("--project", metavar="DIR", help="the project; found from the working folder unless said")


def rows_of(options: Namespace, screen: Screen) -> list[dict[str, Any]]:
    """The rows that the options ask for."""
    if options.limit < 1:
        raise UsageError("--limit must be 1 or more")
    project = None if options.all_projects else project_of(options).key
    with runs.History(aml_home()) as history:
        rows = history.rows(
            order_by=options.order_by, limit=options.limit, project=project, hidden=options.hidden
        )
        if history.notice:
            screen.remark(f"aml: {history.notice}")
    return rows


def do_runs(options: Namespace, screen: Screen) -> int:
    """List runs."""
    rows = rows_of(options, screen)
    columns = [name.strip() for name in options.columns.split(",")] if options.columns else None
    for name in columns or ():
        check_column(name)
    if options.json:
        screen.json([{name: cell(row, name) for name in columns} for row in rows] if columns else rows)
    elif not rows:
        screen.remark("No runs yet: aml run local script.py")
    else:
        shown = columns or COLUMNS
        screen.table(shown, [[_shown(row, name) for name in shown] for row in rows])
    return 0


def cell(row: dict[str, Any], name: str) -> Any:
    """A value of a row; `metrics.acc` looks inside."""
    head, dot, rest = name.partition(".")
    return (row[head] or {}).get(rest) if dot else row[head]


def check_column(name: str) -> None:
    """Raise UsageError for a column that cannot be."""
    from difflib import get_close_matches

    from aml_jupyter.runs.rows import KEYS, NESTED

    head, dot, _ = name.partition(".")
    if head not in KEYS or (dot and head not in NESTED):
        near = get_close_matches(head, KEYS, n=1)
        raise UsageError(
            f"no column {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
            hint=f"Columns: {', '.join(KEYS)}, and metrics.NAME, params.NAME, tags.NAME, phases.NAME.",
        )


def _shown(row: dict[str, Any], name: str) -> str:
    value = cell(row, name)
    # to the second, without the offset that the column's name tells
    return value[:19].replace("T", " ") if name.endswith("_utc") and value else shown_cell(value)


def shown_cell(value: Any) -> str:
    """A value as a person reads it in a narrow column."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{name}={shown_cell(one)}" for name, one in value.items())[:60]
    if isinstance(value, (list, tuple)):
        return ",".join(map(shown_cell, value))[:40]
    return str(value)


def record_json(directory: RunDirectory) -> dict[str, Any]:
    """The record of a run with its labels and artifacts, as `aml show --json` prints it."""
    from aml_jupyter import artifacts

    record = runs.read_record(directory)
    return {
        **record.to_json(),
        "name": record.name,
        "description": record.description,
        "pinned": record.pinned,
        "hidden": record.hidden,
        "tags": dict(record.tags),
        "note": record.note,
        "artifacts": [item.as_dict() for item in artifacts.listing(directory)],
        "directory": directory.path,
    }


def arguments_show(parser: ArgumentParser) -> None:
    """Options of `aml show`."""
    parser.add_argument("run_reference", metavar="RUN", nargs="?", default="@last", help="@last unless said")
    add_json(parser)


def do_show(options: Namespace, screen: Screen) -> int:
    """Everything that is known of one run."""
    directory = find_run(options.run_reference)
    verdict = verdict_of(directory)
    if options.json:
        told = {"portability": verdict.as_json()} if verdict else {}
        screen.json({**record_json(directory), **told})
        return 0
    from aml_jupyter.card import plain_card

    screen.write(plain_card(directory) + "\n")
    if verdict is not None:
        from aml_jupyter.portability.shown import plain

        screen.write(plain(verdict) + "\n")
    return 0


def verdict_of(directory: RunDirectory) -> Verdict | None:
    """The verdict on the runs that a run was submitted together with; None for a run on its own."""
    record = runs.load_record(directory)
    if record.experiment_id in ("", record.project):
        return None
    from aml_jupyter import portability

    group = portability.group_of(record)
    return portability.judge(group) if group else None


def arguments_tag(parser: ArgumentParser) -> None:
    """Options of `aml tag`."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("tags", metavar="TAG", nargs="*")
    parser.add_argument("--remove", action="append", default=[], metavar="TAG")
    parser.add_argument("--name", help="another name for the run; empty takes it away")
    add_json(parser)


def do_tag(options: Namespace, screen: Screen) -> int:
    """Add and remove tags, or rename."""
    directory = find_run(options.run)
    runs.set_labels(directory, name=options.name, tags=tuple(options.tags), remove_tags=tuple(options.remove))
    return _tell_labels(directory, options, screen)


def _tell_labels(directory: RunDirectory, options: Namespace, screen: Screen) -> int:
    labels = runs.read_labels(directory)
    if options.json:
        screen.json({"run_id": directory.run_id, **labels.as_dict(), "tags": dict(labels.tags)})
        return 0
    words = [directory.run_id, *filter(None, [labels.name, "pinned" * labels.pinned])]
    words += [shown_tag(*tag) for tag in labels.tags.items()]
    screen.path(" ".join(words))
    return 0


def shown_tag(name: str, value: str) -> str:
    """A tag as it is typed."""
    return f"{name}={value}" if value else name


def arguments_note(parser: ArgumentParser) -> None:
    """Options of `aml note`."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("text", nargs="+", help="replaces the note that is there; '' takes it away")
    add_json(parser)


def do_note(options: Namespace, screen: Screen) -> int:
    """Write a note on a run."""
    directory = find_run(options.run)
    runs.set_labels(directory, note=" ".join(options.text))
    return _tell_labels(directory, options, screen)


def arguments_pin(parser: ArgumentParser) -> None:
    """Options of `aml pin`."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--off", action="store_true", help="take the protection away")
    add_json(parser)


def do_pin(options: Namespace, screen: Screen) -> int:
    """Protect a run from rm and gc."""
    directory = find_run(options.run)
    runs.set_labels(directory, pinned=not options.off)
    return _tell_labels(directory, options, screen)


def arguments_rm(parser: ArgumentParser) -> None:
    """Options of `aml rm`."""
    parser.add_argument("runs", metavar="RUN", nargs="+")
    parser.add_argument(
        "--force", action="store_true", help="pinned runs too, and runs whose labels are damaged"
    )
    add_json(parser)


def do_rm(options: Namespace, screen: Screen) -> int:
    """Remove runs with their artifacts; all of them are looked up before the first one goes."""
    found = list({one.run_id: one for one in map(find_run, options.runs)}.values())
    # with --force nobody asks, so that damaged labels do not keep a run for ever
    pinned = [] if options.force else [one.run_id for one in found if runs.read_labels(one).pinned]
    if pinned:
        raise UsageError(f"pinned: {', '.join(pinned)}", hint="aml pin RUN --off, or --force")
    for directory in found:
        runs.remove(directory)
        if not options.json:
            screen.write(f"{directory.run_id}\n")
    if options.json:
        screen.json([directory.run_id for directory in found])
    return 0


def arguments_gc(parser: ArgumentParser) -> None:
    """Options of `aml gc`."""
    parser.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    add_json(parser)


def do_gc(options: Namespace, screen: Screen) -> int:
    """Remove what no run needs any more."""
    from aml_jupyter import retention

    freed = retention.collect_garbage(aml_home(), dry_run=options.dry_run)
    if options.json:
        screen.json(freed.as_dict())
        return 0
    word = "would free" if options.dry_run else "freed"
    screen.write(
        f"{word} {shown_size(freed.bytes)}: {shown_size(freed.snapshot_bytes)} of snapshots,"
        f" {freed.working_copies} working copies, {freed.half_made} half-made runs,"
        f" {freed.leftovers} leftovers, {len(freed.environments)} of environments\n"
    )
    if options.dry_run:
        for path in freed.environments:
            screen.path(path)
    return 0


def arguments_check(parser: ArgumentParser) -> None:
    """Options of `aml check`."""
    add_json(parser)
    parser.add_argument("--rebuild", action="store_true", help="make the index anew from the run directories")


def do_check(options: Namespace, screen: Screen) -> int:
    """Look for damage; exit status 5 when there is any."""
    from aml_jupyter import retention

    home = aml_home()
    if options.rebuild:
        with runs.History(home) as history:
            screen.remark(f"aml: the index holds {history.rebuild()} runs")
    findings = retention.check(home)
    if options.json:
        screen.json([finding.as_dict() for finding in findings])
    elif not findings:
        screen.remark("aml: no damage found")
    else:
        for finding in findings:
            screen.path(f"{finding.code}: {finding.path}")
            for text in filter(None, (finding.message, finding.hint)):
                screen.path(f"    {text}")
    return DAMAGED if findings else 0
