"""`aml rm`, `undelete`, `gc`, `check`: what is kept, what goes, what is damaged."""

from __future__ import annotations

import os

from aml_jupyter import runs
from aml_jupyter.commands import add_json
from aml_jupyter.commands.submit import project_of
from aml_jupyter.commands.watch import find_run, here
from aml_jupyter.config import aml_home
from aml_jupyter.errors import UsageError
from aml_jupyter.printable import shown_size
from aml_jupyter.runs import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterable
    from typing import Any

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.retention import Freed
    from aml_jupyter.retention.copies import Dropped
    from aml_jupyter.retention.remote import Cleared
    from aml_jupyter.retention.rules import Choice, Swept
    from aml_jupyter.runs import RunDirectory
    from aml_jupyter.runs.damage import Finding

# the exit status of a damaged history, as for the errors that it causes
DAMAGED = 5
# seconds that a removal waits for somebody who stores runs
STORE_PATIENCE = 5.0
# seconds after which it is told that a store is being waited for
TOLD_AFTER = 2.0


def arguments_rm(parser: ArgumentParser) -> None:
    """Options of `aml rm`."""
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", help="an id, its beginning, a name, @last")
    add("--now", action="store_true", help="for good: not into the trash; runs in the trash too")
    add("--store", action="store_true", help="--now: also from the store that a run was brought from")
    add("--force", action="store_true", help="pinned runs too, and runs whose labels are damaged")
    add_json(parser)


def do_rm(options: Namespace, screen: Screen) -> int:
    """Remove runs with their artifacts; all of them are looked up before the first one goes."""
    if options.store and not options.now:
        raise UsageError("--store needs --now", hint="A run in the trash stays in its store until it goes.")
    found = list({one.path: one for one in (_to_remove(word, options) for word in options.runs)}.values())
    # with --force nobody asks, so that damaged labels do not keep a run for ever
    pinned = [] if options.force else [one.run_id for one in found if runs.read_labels(one).pinned]
    if pinned:
        raise UsageError(f"pinned: {', '.join(pinned)}", hint="aml pin RUN --off, or --force")
    from aml_jupyter import retention

    for directory in found:
        if options.now:
            retention.remove_now(directory, pulled=options.store)
        else:
            trash.throw_away(directory)
        if not options.json:
            screen.write(f"{directory.run_id}\n")
    if options.json:
        screen.json([directory.run_id for directory in found])
    if options.now:
        _tell_stores(_clear(aml_home(), screen, thorough=False), screen)
    elif not options.json:
        words = found[0].run_id if len(found) == 1 else "RUN"
        screen.remark(f"aml: in the trash; aml undelete {words} brings it back")
    return 0


def _clear(home: str, screen: Screen, *, thorough: bool) -> Cleared:
    """Remove in stores what was removed here; says so when that takes a while."""
    from threading import Timer

    from aml_jupyter.retention import remote

    words = "aml: removing in the store what was removed here; an interrupt leaves it to the next aml gc"
    timer = Timer(TOLD_AFTER, lambda: screen.progress(words))
    timer.daemon = True
    timer.start()
    try:
        return remote.clear(home, patience=STORE_PATIENCE, thorough=thorough)
    finally:
        timer.cancel()


def _tell_stores(cleared: Cleared, screen: Screen) -> None:
    """Tell what could not be removed in a store yet; it is for a person, whatever was asked for."""
    for run_id, why in cleared.waiting:
        screen.remark(f"aml: {run_id} is still in its store ({why}); aml gc or aml push removes it there")


def _to_remove(word: str, options: Namespace) -> RunDirectory:
    """The run that a word means; with --now one in the trash as well, by its full id."""
    home = aml_home()
    if options.now and trash.is_trashed(home, word):
        return trash.find(word, home)
    return find_run(word, whole=False)


def arguments_undelete(parser: ArgumentParser) -> None:
    """Options of `aml undelete`."""
    help_text = "a run in the trash; @last is the one of this project that was removed last"
    parser.add_argument("runs", metavar="RUN", nargs="+", help=help_text)
    add_json(parser)


def do_undelete(options: Namespace, screen: Screen) -> int:
    """Bring runs back from the trash."""
    home, project = aml_home(), here()
    found = {one.path: one for one in (trash.find(word, home, project) for word in options.runs)}
    from aml_jupyter import retention

    back = [retention.bring_back(one) for one in found.values()]
    if options.json:
        screen.json([one.run_id for one in back])
        return 0
    for one in back:
        screen.write(f"{one.run_id}\n")
    return 0


def arguments_gc(parser: ArgumentParser) -> None:
    """Options of `aml gc`."""
    add = parser.add_argument
    add("--keep-last", type=_count, metavar="N", help="let runs go, but not the newest N of a project")
    add("--keep-best", type=_count, metavar="N", help="let runs go, but not the best N by --metric")
    add("--metric", metavar="NAME[:max|min]", help="such as acc or loss:min; the largest is best unless said")
    add("--older-than", type=_age, metavar="AGE", help="let runs go that ended longer ago: 12h, 90d, 8w, 1y")
    add("--max-bytes", type=_size, metavar="SIZE", help="let the oldest runs go until the rest fits: 20GB")
    add("--drop-inputs", action="store_true", help="also runs that gave a file to a run that stays")
    add("--no-rules", action="store_true", help="no runs, whatever the settings retention.* say")
    add("--now", action="store_true", help="runs that go by a rule go for good, not into the trash")
    add("--empty-trash", action="store_true", help="the trash at once, not only what is old in it")
    add(
        "--drop-local",
        type=_age,
        nargs="?",
        const=0.0,
        metavar="AGE",
        help="drop copies of artifacts that a store has, of runs that ended that long ago",
    )
    add("--all-projects", action="store_true", help="rules for the runs of every project, not of this one")
    add("--project", metavar="DIR", help="the project; found from the working folder unless said")
    add("--dry-run", action="store_true", help="say what would go and why, remove nothing")
    add_json(parser)


def _read(parse: Callable[[str], Any], text: str) -> Any:
    from argparse import ArgumentTypeError

    try:
        return parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _age(text: str) -> float:
    from aml_jupyter.retention.policy import parse_age

    return float(_read(parse_age, text))


def _size(text: str) -> int:
    from aml_jupyter.retention.policy import parse_bytes

    return int(_read(parse_bytes, text))


def _count(text: str) -> int:
    from argparse import ArgumentTypeError

    if not text.isascii() or not text.isdigit():
        raise ArgumentTypeError(f"{text!r} is no number of runs")
    return int(text)


def do_gc(options: Namespace, screen: Screen) -> int:
    """Remove runs by rules, and what no run needs any more."""
    from aml_jupyter import retention
    from aml_jupyter.retention import policy, rules

    home = aml_home()
    choice = None if options.no_rules else _chosen(options, home)
    if choice is not None and not options.dry_run:
        swept = rules.carry_out(choice, _removal(options.now))
    else:
        swept = rules.Swept(gone=choice.going if choice else ())
    dropped = _dropped(options, home)
    age = -1.0 if options.empty_trash else policy.trash_age()
    freed = retention.collect_garbage(home, dry_run=options.dry_run, trash_age=age)
    cleared = _cleared(options, home, screen)
    if options.json:
        screen.json(_gc_json(options, choice, swept, freed, dropped, cleared))
        return 0
    _tell_runs(options, choice, swept, screen)
    _tell_dropped(options, dropped, screen)
    gone_at_once = swept.bytes if options.now else 0
    _tell_freed(options, freed, gone_at_once + sum(one.bytes for one in dropped), screen)
    _tell_stores(cleared, screen)
    if count := len(trash.trashed(home)) - len(freed.runs) * options.dry_run:
        screen.remark(f"aml: {_runs(count)} in the trash; aml gc --empty-trash frees what they occupy")
    return 0


def _is_nowhere(options: Namespace) -> bool:
    """Whether no project is meant: the working folder is gone or broken, and none is named."""
    return not options.all_projects and options.project is None and here() is None


def _dropped(options: Namespace, home: str) -> list[Dropped]:
    from aml_jupyter.retention import copies, policy

    age = options.drop_local
    if age is None and (options.no_rules or _is_nowhere(options)):
        return []
    project = None if options.all_projects else project_of(options)
    if age is None:
        age = policy.drop_age(project.root if project else None)
    if age is None:
        return []
    return copies.drop_copies(
        home, age=age, project=project.key if project else None, dry_run=options.dry_run
    )


def _cleared(options: Namespace, home: str, screen: Screen) -> Cleared:
    from aml_jupyter.retention import remote

    if options.dry_run:
        return remote.Cleared(
            waiting=tuple((one.run_id, one.error or "not tried yet") for one in remote.tombstones(home))
        )
    return _clear(home, screen, thorough=True)


def _removal(now: bool) -> Callable[[RunDirectory, str], object]:
    from aml_jupyter import retention

    if now:
        return lambda directory, _rule: retention.remove_now(directory)
    return lambda directory, rule: trash.throw_away(directory, rule=rule)


def _chosen(options: Namespace, home: str) -> Choice | None:
    """What the rules of the options, else of the settings, come to; None where there is no rule."""
    from aml_jupyter.retention import policy, rules

    metric, largest = rules.parse_metric(options.metric) if options.metric else ("", True)
    asked = {
        "keep_last": options.keep_last,
        "keep_best": options.keep_best,
        "older_than": options.older_than,
        "max_bytes": options.max_bytes,
    }
    asked = {name: value for name, value in asked.items() if value is not None}

    if not asked and _is_nowhere(options):
        return None
    project = None if options.all_projects else project_of(options)

    def rules_of(_key: str, root: str) -> rules.Rules:
        root = project.root if project else root
        found = policy.rules_set(root if root and os.path.isdir(root) else None)
        # whoever gives a rule on the line means that one, not the ones that are set beside it
        found = rules.Rules(metric=found.metric, largest=found.largest) if asked else found
        found = found.replace(**asked)
        if metric:
            found = found.replace(metric=metric, largest=largest)
        if found.keep_best is not None and not found.metric:
            raise UsageError("--keep-best needs a metric", hint="--keep-best 5 --metric acc, or loss:min")
        return found.replace(max_bytes=None) if options.all_projects else found

    most = None
    if project is None:
        most = asked.get("max_bytes") if asked else policy.rules_set(None).max_bytes
    elif not rules_of(project.key, project.root).given:
        return None
    return rules.choose(
        home,
        rules_of,
        project=project.key if project else None,
        most=most,
        promoted=rules.promoted_runs(home),
        keep_inputs=not options.drop_inputs,
    )


def _gc_json(
    options: Namespace,
    choice: Choice | None,
    swept: Swept,
    freed: Freed,
    dropped: list[Dropped],
    cleared: Cleared,
) -> dict[str, Any]:
    return {
        **freed.as_dict(),
        "dry_run": options.dry_run,
        "by_rule": [{"run_id": one.run_id, "bytes": one.bytes, "rule": one.rule} for one in swept.gone],
        "by_rule_bytes": swept.bytes,
        "to_trash": not options.now,
        "stayed": dict(swept.stayed),
        "kept": dict(choice.kept) if choice else {},
        "copies": [one.as_dict() for one in dropped],
        "stores": {
            "gone": list(cleared.gone),
            "waiting": dict(cleared.waiting),
            "unneeded": list(cleared.unneeded),
        },
    }


def _tell_runs(options: Namespace, choice: Choice | None, swept: Swept, screen: Screen) -> None:
    if choice is None:
        return
    for one in swept.gone:
        screen.write(f"{one.run_id}  {shown_size(one.bytes)}  {one.rule}\n")
    for run_id, why in swept.stayed.items():
        screen.remark(f"aml: {run_id} stays: {why}")
    where = "for good" if options.now else "to the trash"
    word = "would go" if options.dry_run else "went"
    stays = ", ".join(f"{count} {reason}" for reason, count in sorted(choice.kept.items()))
    screen.write(
        f"{_runs(len(swept.gone))} ({shown_size(swept.bytes)}) {word} {where}; kept: {stays or 'none'}\n"
    )


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _tell_dropped(options: Namespace, dropped: list[Dropped], screen: Screen) -> None:
    for one in dropped:
        for path, why in one.kept.items():
            screen.remark(f"aml: {one.run_id} keeps its copy of {path or 'everything'}: {why}")
    if gone := [one for one in dropped if one.files]:
        word = "would go" if options.dry_run else "went"
        files, size = sum(one.files for one in gone), sum(one.bytes for one in gone)
        screen.write(
            f"{files} copies ({shown_size(size)}) of {_runs(len(gone))} {word}; their store has them\n"
        )


def _tell_freed(options: Namespace, freed: Freed, swept: int, screen: Screen) -> None:
    word = "would free" if options.dry_run else "freed"
    screen.write(
        f"{word} {shown_size(freed.bytes + swept)}: {_runs(len(freed.runs))} of the trash,"
        f" {shown_size(freed.snapshot_bytes)} of snapshots,"
        f" {freed.working_copies} working copies, {freed.half_made} half-made runs,"
        f" {freed.leftovers} leftovers, {len(freed.environments)} of environments\n"
    )
    if options.dry_run:
        for run_id in freed.runs:
            screen.path(f"{run_id} of the trash")
        for path in freed.environments:
            screen.path(path)


def arguments_check(parser: ArgumentParser) -> None:
    """Options of `aml check`."""
    add = parser.add_argument
    add(
        "--repair",
        action="store_true",
        help="mend what can be mended; damaged files are set aside",
    )
    add("--dry-run", action="store_true", help="--repair: say what would be tried, change nothing")
    add("--rebuild", action="store_true", help="make the index anew from the run directories")
    add("--store", action="store_true", help="also whether what was stored is still in its store")
    add_json(parser)


def do_check(options: Namespace, screen: Screen) -> int:
    """Look for damage, and mend it where that is asked for; exit status 5 when there is any left."""
    from aml_jupyter import retention

    if options.dry_run and not options.repair:
        raise UsageError("--dry-run needs --repair", hint="Without --repair aml check changes nothing.")
    home = aml_home()
    if options.rebuild:
        with runs.History(home) as history:
            screen.remark(f"aml: the index holds {history.rebuild()} runs")
    if options.repair:
        return _repair(options, screen)
    findings = retention.check(home)
    if options.store:
        from aml_jupyter import syncing

        findings += syncing.check(home)
    if options.json:
        screen.json([finding.as_dict() for finding in findings])
    elif not findings:
        screen.remark("aml: no damage found")
    else:
        _tell_findings(findings, screen)
    return DAMAGED if findings else 0


def _tell_findings(findings: Iterable[Finding], screen: Screen) -> None:
    for finding in findings:
        screen.path(f"{finding.code}: {finding.path}")
        for text in filter(None, (finding.message, finding.hint)):
            screen.path(f"    {text}")


def _repair(options: Namespace, screen: Screen) -> int:
    from aml_jupyter import experiment
    from aml_jupyter.retention.repair import repair

    done = repair(aml_home(), experiment.resume, dry_run=options.dry_run, stores=options.store)
    if options.json:
        screen.json(
            {
                "dry_run": options.dry_run,
                "steps": [step.as_dict() for step in done.steps],
                "left": [finding.as_dict() for finding in done.left],
            }
        )
        return DAMAGED if done.left else 0
    word = "would try" if options.dry_run else "mended"
    for step in done.steps:
        screen.path(f"{word}: {step.code}: {step.path}")
        screen.path(f"    {step.done}")
    if not done.left:
        left = "aml: nothing else is wrong" if options.dry_run else "aml: no damage is left"
        screen.remark(left if done.steps else "aml: no damage found")
    else:
        screen.remark("aml: damage that was found:" if options.dry_run else "aml: beyond repair:")
        _tell_findings(done.left, screen)
    return DAMAGED if done.left else 0
