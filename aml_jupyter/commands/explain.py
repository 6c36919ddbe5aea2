"""What a snapshot would hold and why, for `aml snapshot --dry-run` and every other --dry-run."""

from __future__ import annotations

from aml_jupyter import runs
from aml_jupyter.config import aml_home
from aml_jupyter.errors import AmlError, SnapshotError
from aml_jupyter.printable import safe_name, shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.config import Project
    from aml_jupyter.snapshot import Decision, Explanation, Rules

# paths that are shown of each kind of change
SHOWN = 20
REFUSED = 2


def explain(project: Project, rules: Rules, screen: Screen, *, as_json: bool) -> int:
    """List every file with its size and the reason it is in or out; status 2 when it would be refused."""
    found, last = explanation(project, rules)
    if as_json:
        screen.json(as_document(found, rules, last))
    else:
        _list_files(found, rules, screen)
        _list_largest(found, screen)
        _list_changes(found, last, screen)
        for refusal in found.refusals:
            screen.remark(f"aml: {refusal}")
    return REFUSED if found.refusals else 0


def explanation(project: Project, rules: Rules) -> tuple[Explanation, str]:
    """What a snapshot would hold, and the run that it is compared with ("" when there is none)."""
    from aml_jupyter.snapshot import Store
    from aml_jupyter.snapshot import explain as explain_snapshot

    try:
        last = runs.load_record(runs.find("@last", aml_home(), project))
        store = Store(aml_home() + "/snapshots")
        return explain_snapshot(project.root, rules, store=store, since=last.snapshot_id), last.run_id
    except AmlError as error:  # no run yet, or its record or snapshot is damaged: nothing to compare with
        if isinstance(error, SnapshotError) and not error.code.startswith(("store.", "snapshot.unknown")):
            raise
        return explain_snapshot(project.root, rules), ""


def as_document(found: Explanation, rules: Rules, last: str) -> dict[str, Any]:
    """An explanation as JSON values; sizes in bytes."""
    change = found.change
    return {
        "files": [one.as_dict() for one in found.decisions],
        "total_files": found.total_files,
        "total_bytes": found.total_bytes,
        "counted_bytes": found.counted_bytes,
        "max_bytes": rules.max_bytes,
        "largest": [one.as_dict() for one in found.largest],
        "since": last or None,
        "change": {name: list(paths) for name, paths in change.as_dict().items()} if change else None,
        "refusals": [error.as_json() for error in found.refusals],
        "secrets": list(found.secrets),
    }


def _list_files(found: Explanation, rules: Rules, screen: Screen) -> None:
    screen.table(
        ["", "size", "path", "why"],
        [
            ["in" if one.included else "out", shown_size(one.size), one.path, _why(one)]
            for one in found.decisions
        ],
    )
    screen.write(
        f"\n{found.total_files} files, {shown_size(found.total_bytes)} would be sent;"
        f" {shown_size(found.counted_bytes)} of at most {shown_size(rules.max_bytes)} count\n"
    )


def _why(one: Decision) -> str:
    return f"{one.reason} ({one.rule_source})" if one.rule_source else one.reason


def _list_largest(found: Explanation, screen: Screen) -> None:
    if found.largest:
        screen.write("\nlargest:\n")
        screen.table(["size", "path"], [[shown_size(one.size), one.path] for one in found.largest])


def _list_changes(found: Explanation, last: str, screen: Screen) -> None:
    """The change since the project's last run."""
    change = found.change
    if change is None:
        return
    screen.write(f"\nsince {last}: ")
    if not (change.added or change.removed or change.changed):
        screen.write("no change\n")
        return
    added, changed, removed = map(len, (change.added, change.changed, change.removed))
    screen.write(f"{added} added, {changed} changed, {removed} removed\n")
    for mark, paths in (("+", change.added), ("~", change.changed), ("-", change.removed)):
        for path in paths[:SHOWN]:
            screen.write(f"  {mark} {safe_name(path)}\n")
        if len(paths) > SHOWN:
            screen.write(f"  {mark} and {len(paths) - SHOWN} more\n")
