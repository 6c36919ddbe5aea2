"""What a snapshot would hold and why, for `aml snapshot --dry-run` and every other --dry-run."""

from __future__ import annotations

from aml_jupyter.config import aml_home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.config import Project
    from aml_jupyter.snapshot import Rules
    from aml_jupyter.snapshot.explain import Decision, Explanation


def explain(project: Project, rules: Rules, screen: Screen, *, as_json: bool) -> int:
    """List every file with its size and the reason it is in or out; status 2 when it would be refused."""
    from aml_jupyter.snapshot.explain import explain as explain_snapshot

    found = explain_snapshot(project.root, rules)
    if as_json:
        screen.json(found.as_json())
        return 0
    _list_files(found, screen)
    _list_largest(found, screen)
    _list_changes(project, found, screen)
    for problem in found.problems:
        screen.remark(f"aml: {problem}")
    return 2 if found.problems else 0


def _list_files(found: Explanation, screen: Screen) -> None:
    from aml_jupyter.commands.files import shown_size

    screen.table(
        ["", "size", "path", "why"],
        [
            [
                "in" if one.included else "out",
                shown_size(one.size),
                one.path,
                _why(one.reason, one.rule_source),
            ]
            for one in found.decisions
        ],
    )
    included = sum(one.included for one in found.decisions)
    screen.write(
        f"\n{included} files, {shown_size(found.total_bytes)} would be sent;"
        f" {shown_size(found.counted_bytes)} of at most {shown_size(found.max_bytes)} count\n"
    )


def _verdict(included: bool) -> str:
    return "in" if included else "out"


def _why(one: Decision) -> str:
    return f"{one.reason} ({one.rule_source})" if one.rule_source else one.reason


def _list_largest(found: Explanation, screen: Screen) -> None:
    from aml_jupyter.commands.files import shown_size

    if found.largest:
        screen.write("\nlargest:\n")
        screen.table(["size", "path"], [[shown_size(one.size), one.path] for one in found.largest])


def _list_changes(project: Project, found: Explanation, screen: Screen) -> None:
    """The change since the project's last run."""
    from aml_jupyter import runs
    from aml_jupyter.errors import RunNotFound
    from aml_jupyter.snapshot.explain import changes_since

    try:
        last = runs.load_record(runs.find("@last", aml_home(), project))
    except RunNotFound:
        return
    added, removed, changed = changes_since(aml_home() + "/snapshots", last.snapshot_id, project.root, found)
    screen.write(f"\nsince {last.run_id}: ")
    if not (added or removed or changed):
        screen.write("no change\n")
        return
    screen.write(f"{len(added)} added, {len(changed)} changed, {len(removed)} removed\n")
    for mark, paths in (("+", added), ("~", changed), ("-", removed)):
        for path in paths[:20]:
            screen.write(f"  {mark} {path}\n")
