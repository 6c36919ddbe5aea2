"""`aml queue`: what waits for its turn, in which order, how many at a time."""

from __future__ import annotations

from aml_jupyter import experiment, queueing, runs
from aml_jupyter.commands import add_json
from aml_jupyter.commands.watch import find_run
from aml_jupyter.config import aml_home
from aml_jupyter.errors import AmlError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.queueing import Entry

ACTIONS = ("list", "rm", "move", "pause", "resume", "jobs")


def arguments_queue(parser: ArgumentParser) -> None:
    """Options of `aml queue`."""
    add = parser.add_argument
    add("action", nargs="?", choices=ACTIONS, default="list", metavar="|".join(ACTIONS),
        help="list unless said; rm RUN..., move RUN PLACE, pause, resume, jobs N [TARGET]")  # fmt: skip
    add(
        "words",
        nargs="*",
        metavar="RUN|PLACE|N|TARGET",
        help="what the action is about; PLACE is 1, 2, ... or last",
    )
    add("-j", "--jobs", type=int, metavar="N", help="from now on run N at a time")
    add_json(parser)


def do_queue(options: Namespace, screen: Screen) -> int:
    """List or change the queue; where work is left and no worker, one is started."""
    home = aml_home()
    if options.jobs is not None:
        queueing.set_settings(home, jobs=options.jobs)
    do = {"rm": _remove, "move": _move, "pause": _pause, "resume": _resume, "jobs": _jobs, "list": _nothing}
    do[options.action](options, screen)
    queueing.ensure_worker(home)
    _list(options, screen)
    return 0


def _nothing(options: Namespace, _screen: Screen) -> None:
    _words(options, 0, "")


def _words(options: Namespace, count: int | None, usage: str) -> list[str]:
    words: list[str] = options.words
    if (count is None and not words) or (count is not None and len(words) != count):
        raise UsageError(f"aml queue {options.action} takes {usage or 'nothing behind it'}")
    return words


def _remove(options: Namespace, _screen: Screen) -> None:
    """Take runs out of the queue: they are canceled, and stay in the history."""
    found = [find_run(word) for word in _words(options, None, "one or more runs")]
    for directory in found:
        if queueing.read_entry(directory.home, directory.run_id) is None:
            raise queueing.not_in_queue(directory.run_id)
        status = runs.read_record(directory).status
        if status != "Queued":
            raise UsageError(
                f"{directory.run_id} does not wait any more: it is {status}",
                hint=f"aml stop {directory.run_id}",
            )
    for directory in found:
        experiment.cancel(directory)
        experiment.wait(directory)


def _move(options: Namespace, _screen: Screen) -> None:
    run, place = _words(options, 2, "a run and its new place: 1, 2, ... or last")
    if place not in ("first", "last") and not (place.isdigit() and int(place) > 0):
        raise UsageError(f"{place!r} is no place in the queue", hint="It is 1, 2, ..., first or last.")
    position = {"first": 1, "last": 1 << 30}.get(place) or int(place)
    directory = find_run(run)
    queueing.move(directory.home, directory.run_id, position)
    queueing.wake(directory.home)


def _pause(options: Namespace, _screen: Screen) -> None:
    _words(options, 0, "")
    queueing.set_settings(aml_home(), paused=True)


def _resume(options: Namespace, _screen: Screen) -> None:
    _words(options, 0, "")
    queueing.set_settings(aml_home(), paused=False)


def _jobs(options: Namespace, _screen: Screen) -> None:
    words = _words(options, None, "a number, and a target if it is for that one alone")
    if len(words) > 2 or not words[0].isdigit():
        raise UsageError(
            f"{' '.join(words)!r} is no number of runs",
            hint="Such as: aml queue jobs 2, or for one target: aml queue jobs 1 docker",
        )
    queueing.set_settings(aml_home(), jobs=int(words[0]), target=words[1] if words[1:] else None)


def _list(options: Namespace, screen: Screen) -> None:
    home = aml_home()
    settings = queueing.settings(home)
    entries = queueing.entries(home)
    waiting = [entry.run_id for entry in entries if not entry.direct]
    found = [_described(home, entry, waiting) for entry in entries]
    if options.json:
        screen.json({**settings.as_dict(), "worker": queueing.worker(home), "entries": found})
        return
    if found:
        heads = ["place", "run_id", "name", "status", "target", "what", "note"]
        screen.table(heads, [[str(one[name] or "-") for name in heads] for one in found])
    paused = "; paused: aml queue resume starts it again" if settings.paused else ""
    empty = "The queue is empty. " if not found else ""
    limits = "".join(f", {most} on {name}" for name, most in sorted(settings.targets.items()))
    screen.remark(f"aml: {empty}{settings.jobs} at a time{limits}{paused}")


def _described(home: str, entry: Entry, waiting: list[str]) -> dict[str, Any]:
    """A line of the list."""
    directory = runs.at(home, entry.run_id)
    row: dict[str, Any] = {
        "place": None if entry.direct else waiting.index(entry.run_id) + 1,
        "run_id": entry.run_id,
        "name": None,
        "status": "being written",
        "target": "",
        "what": "",
        "note": "",
        "trials": len(entry.trials),
    }
    if directory is None:
        return row
    try:
        record = runs.read_record(directory)
    except AmlError as error:  # damaged or removed meanwhile
        return {**row, "status": "damaged", "note": error.message}
    note = "beside the queue" if entry.direct else ""
    if record.reason == queueing.NEEDS_SECRETS:
        note = (record.error or {}).get("hint", "") or record.reason
    return {
        **row,
        "name": record.name,
        "status": record.status,
        "target": record.target,
        "what": record.script_name or "",
        "note": note,
    }
