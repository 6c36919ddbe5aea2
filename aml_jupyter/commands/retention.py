"""`aml rm`, `undelete`, `gc`, `check`: what is kept, what goes, what is damaged."""

from __future__ import annotations

from aml_jupyter import runs
from aml_jupyter.commands import add_json
from aml_jupyter.commands.watch import find_run, here
from aml_jupyter.config import aml_home
from aml_jupyter.errors import UsageError
from aml_jupyter.printable import shown_size
from aml_jupyter.runs import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.runs import RunDirectory

# the exit status of a damaged history, as for the errors that it causes
DAMAGED = 5


def arguments_rm(parser: ArgumentParser) -> None:
    """Options of `aml rm`."""
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+")
    add("--now", action="store_true", help="for good: not into the trash; runs in the trash too")
    add("--force", action="store_true", help="pinned runs too, and runs whose labels are damaged")
    add_json(parser)


def do_rm(options: Namespace, screen: Screen) -> int:
    """Remove runs with their artifacts; all of them are looked up before the first one goes."""
    found = list({one.path: one for one in (_to_remove(word, options) for word in options.runs)}.values())
    # with --force nobody asks, so that damaged labels do not keep a run for ever
    pinned = [] if options.force else [one.run_id for one in found if runs.read_labels(one).pinned]
    if pinned:
        raise UsageError(f"pinned: {', '.join(pinned)}", hint="aml pin RUN --off, or --force")
    from aml_jupyter import retention

    for directory in found:
        if options.now:
            retention.remove_now(directory)
        else:
            trash.throw_away(directory)
        if not options.json:
            screen.write(f"{directory.run_id}\n")
    if options.json:
        screen.json([directory.run_id for directory in found])
    elif not options.now:
        words = found[0].run_id if len(found) == 1 else "RUN"
        screen.remark(f"aml: in the trash; aml undelete {words} brings it back")
    return 0


def _to_remove(word: str, options: Namespace) -> RunDirectory:
    """The run that a word means; with --now one in the trash as well, by its full id."""
    home = aml_home()
    if options.now and trash.is_trashed(home, word):
        return trash.find(word, home)
    return find_run(word)


def arguments_undelete(parser: ArgumentParser) -> None:
    """Options of `aml undelete`."""
    help_text = "a run in the trash; @last is the one of this project that was removed last"
    parser.add_argument("runs", metavar="RUN", nargs="+", help=help_text)
    add_json(parser)


def do_undelete(options: Namespace, screen: Screen) -> int:
    """Bring runs back from the trash."""
    home, project = aml_home(), here()
    found = {one.path: one for one in (trash.find(word, home, project) for word in options.runs)}
    back = [trash.bring_back(one) for one in found.values()]
    if options.json:
        screen.json([one.run_id for one in back])
        return 0
    for one in back:
        screen.write(f"{one.run_id}\n")
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
