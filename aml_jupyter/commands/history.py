"""`aml runs`, `show`, `tag`, `note`, `pin`: the run history."""

from __future__ import annotations

from aml_jupyter import runs
from aml_jupyter.commands import add_json
from aml_jupyter.commands.submit import project_of
from aml_jupyter.commands.watch import find_run
from aml_jupyter.config import aml_home
from aml_jupyter.errors import UsageError
from aml_jupyter.experiment import SWEEP
from aml_jupyter.printable import safe_name, shortened
from aml_jupyter.runs.directory import trash_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from typing import Any

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.portability import Verdict
    from aml_jupyter.runs import RunDirectory

# what `aml runs` shows unless told otherwise
COLUMNS = ["run_id", "name", "status", "target", "script_name", "created_utc", "duration", "metrics"]
TRASH_COLUMNS = ["run_id", "name", "status", "created_utc", "metrics", "removed_utc", "rule"]

# characters of a column, whatever a stranger called a run
WIDEST = 80


def arguments_runs(parser: ArgumentParser) -> None:
    """Options of `aml runs`."""
    add = parser.add_argument
    add("filter", nargs="*", metavar="FILTER", help="such as \"metrics.acc > 0.9 and params.lr = '0.1'\"")
    add(
        "--order-by",
        action="append",
        metavar="KEY",
        help="such as created_utc, 'metrics.acc DESC', 'params.lr ASC'; again for a second one",
    )
    add("--columns", metavar="A,B", help="such as run_id,status,metrics.acc")
    add("--limit", type=int, default=50, metavar="N", help="the most rows; 50 unless said")
    add("--all-projects", action="store_true", help="not only the project of this folder")
    add("--from-store", action="store_true", help="look first for runs that others stored in artifacts.store")
    add("--hidden", action="store_true", help="hidden runs too")
    add("--trash", action="store_true", help="the runs in the trash instead")
    add("--parent", metavar="RUN", help="only the trials of a sweep")
    add_json(parser)
    add("--project", metavar="DIR", help="the project; found from the working folder unless said")


def rows_of(options: Namespace, screen: Screen) -> list[dict[str, Any]]:
    """The rows that the options ask for."""
    if options.limit < 1:
        raise UsageError("--limit must be 1 or more")
    if options.from_store:
        from aml_jupyter.commands.store import sync_from_store

        sync_from_store(options, screen)
    project = None if options.all_projects else project_of(options).key
    home = trash_of(aml_home()) if options.trash else aml_home()
    with runs.History(home) as history:
        rows = history.rows(
            order_by=options.order_by,
            limit=options.limit,
            project=project,
            hidden=options.hidden,
            where=_within(options.parent, filter_of(options.filter)),
        )
        if history.notice:
            screen.remark(f"aml: {history.notice}")
    if options.trash:
        from aml_jupyter.runs.trash import add_moves

        add_moves(aml_home(), rows)
    return rows


def _within(parent: str | None, where: str) -> str:
    """A filter that holds for trials of a sweep alone."""
    if parent is None:
        return where
    run_id = find_run(parent).run_id.replace("'", "''")
    return f"parent_run_id = '{run_id}'" + (f" and ({where})" if where else "")


def filter_of(words: Sequence[str]) -> str:
    """The filter of a line; where a shell took the quotes of its texts away they come back."""
    if len(words) < 2:
        return "".join(words)
    from aml_jupyter.runs.filtering import is_text_operator, is_value

    before = ["", *words]
    quoted = [
        "'" + word.replace("'", "''") + "'" if is_text_operator(before[at]) and not is_value(word) else word
        for at, word in enumerate(words)
    ]
    return " ".join(quoted)


def do_runs(options: Namespace, screen: Screen) -> int:
    """List runs."""
    rows = rows_of(options, screen)
    columns = [name.strip() for name in options.columns.split(",")] if options.columns else None
    for name in columns or ():
        check_column(name)
    if options.json:
        screen.json([{name: cell(row, name) for name in columns} for row in rows] if columns else rows)
    elif not rows:
        empty = "The trash is empty." if options.trash else "No runs yet: aml run local script.py"
        screen.remark("aml: no run answers to the filter" if options.filter else empty)
    else:
        shown = columns or (TRASH_COLUMNS if options.trash else COLUMNS)
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
    if name.endswith("_utc") and value:
        return str(value)[:19].replace("T", " ")
    text = safe_name(shown_cell(value))
    # an id is copied from here
    return text if name == "run_id" else shortened(text, WIDEST)


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
    from aml_jupyter.commands.assets import lineage_json, lineage_lines

    directory = find_run(options.run_reference)
    verdict = verdict_of(directory)
    if options.json:
        told = {"portability": verdict.as_json()} if verdict else {}
        screen.json({**record_json(directory), **told, **_sweep_json(directory), **lineage_json(directory)})
        return 0
    from aml_jupyter.card import plain_card

    screen.write(plain_card(directory) + "\n")
    _tell_pending(directory, screen)
    for line in lineage_lines(directory):
        screen.write(f"  {line}\n")
    if verdict is not None:
        from aml_jupyter.portability.shown import plain

        screen.write(plain(verdict) + "\n")
    if runs.load_record(directory).kind == SWEEP:
        from aml_jupyter.commands import sweep

        sweep.show(directory, screen)
    return 0


def _sweep_json(directory: RunDirectory) -> dict[str, Any]:
    """The trials of a sweep; nothing for any other run."""
    if runs.load_record(directory).kind != SWEEP:
        return {}
    from aml_jupyter.sweep.table import Trials

    return {"sweep": Trials(directory).look().as_json()}


def _tell_pending(directory: RunDirectory, screen: Screen) -> None:
    """Why a run could not be stored in the store of its project when that was last tried."""
    from aml_jupyter import pending

    mark = pending.marked(directory.home, directory.run_id)
    if mark is not None and mark.error:
        told = mark.error.get("message", "")
        screen.remark(f"aml: not stored yet: {told} [{mark.error.get('code', '')}]")


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
    directory = find_run(options.run, whole=False)
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
    directory = find_run(options.run, whole=False)
    runs.set_labels(directory, note=" ".join(options.text))
    return _tell_labels(directory, options, screen)


def arguments_pin(parser: ArgumentParser) -> None:
    """Options of `aml pin`."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--off", action="store_true", help="take the protection away")
    add_json(parser)


def do_pin(options: Namespace, screen: Screen) -> int:
    """Protect a run from rm and gc."""
    directory = find_run(options.run, whole=False)
    runs.set_labels(directory, pinned=not options.off)
    return _tell_labels(directory, options, screen)
