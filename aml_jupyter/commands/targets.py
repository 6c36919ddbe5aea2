"""`aml targets`: list them, look whether they work, remove what runs left in their engines."""

from __future__ import annotations

import time
from argparse import SUPPRESS

from aml_jupyter.commands import add_json, parse_seconds
from aml_jupyter.commands.submit import project_of
from aml_jupyter.config import aml_home, listing
from aml_jupyter.demands import CONTAINERS
from aml_jupyter.errors import AmlError, ConfigError, TargetUnavailable, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Iterator
    from typing import Any

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.config import Project, RunConfiguration, Target
    from aml_jupyter.executors.docker.leftovers import Leftover
    from aml_jupyter.executors.docker.place import Place
    from aml_jupyter.executors.docker.there import There
    from aml_jupyter.executors.docker.trial import Asked
    from aml_jupyter.runs import RunDirectory
    from aml_jupyter.trial import Check

BUILT_IN = "(built in)"
# exit statuses: a check failed; an engine could not be asked
CHECK_FAILED, FAILED = 1, 125


def arguments_targets(parser: ArgumentParser) -> None:
    """`aml targets [ls]`, `test NAME`, `sweep [NAME]`, `trust NAME`, `password NAME`, `warm [NAME]`."""
    parser.add_argument(
        "--project", metavar="DIR", help="the project; found from the working folder unless said"
    )
    add_json(parser)
    actions = parser.add_subparsers(dest="action", metavar="ls|test|sweep|trust|password|warm")
    ls = actions.add_parser("ls", help="list them, as without an action")
    test = actions.add_parser("test", help="look whether a target works, and say what mends it")
    test.add_argument("name", metavar="NAME", help="a run configuration, failing that a compute target")
    test.add_argument("--image", metavar="NAME", help="another image than the target's")
    sweep = actions.add_parser("sweep", help="remove what no run needs from engines")
    sweep.add_argument("name", metavar="NAME", nargs="?", help="one target; all Docker targets unless said")
    sweep.add_argument("--dry-run", action="store_true", help="only list it")
    sweep.add_argument("--images", action="store_true", help="also images of environments")
    sweep.add_argument("--unused-for", type=_days, default=30.0, metavar="DAYS",
                       help="days since images and files were last used; 30 unless said")  # fmt: skip
    warm = actions.add_parser("warm", help="have a container wait for each next run of a target")
    warm.add_argument(
        "name", metavar="NAME", nargs="?", help="a target; without one, those that are kept warm"
    )
    warm.add_argument("--idle", type=parse_seconds, default=1800.0, metavar="TIME",
                      help="how long one waits for a run; 30m unless said")  # fmt: skip
    warm.add_argument("--off", action="store_true", help="no longer, and remove the one that waits")
    trust = actions.add_parser("trust", help="accept the host key of a target's machine")
    trust.add_argument("name", metavar="NAME", help="a run configuration, failing that a compute target")
    trust.add_argument("--replace", action="store_true", help="forget the key that is known of it")
    trust.add_argument("--yes", action="store_true", help="do not ask; the fingerprints were compared")
    password = actions.add_parser("password", help="keep the password of a target's machine in the keyring")
    password.add_argument("name", metavar="NAME", help="a run configuration, failing that a compute target")
    for action in (ls, test, sweep, trust, password, warm):
        # what was said before the action is not said anew by its default
        action.add_argument("--project", metavar="DIR", default=SUPPRESS, help="the project")
        action.add_argument("--json", action="store_true", default=SUPPRESS, help="print JSON")


def _days(text: str) -> float:
    import argparse

    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < 36500:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days")
    return days


def do_targets(options: Namespace, screen: Screen) -> int:
    """Do one action; without one, list."""
    actions = {"test": _test, "sweep": _sweep, "trust": _trust, "password": _password, "warm": _warm}
    return actions.get(options.action, list_targets)(options, screen)


def list_targets(options: Namespace, screen: Screen) -> int:
    """List compute targets and the run configurations that use them."""
    project = project_of(options)
    targets, configurations = listing.compute_targets(project), listing.run_configurations(project)
    if options.json:
        screen.json({"targets": targets, "run_configurations": configurations})
        return 0
    users = {
        target["name"]: ", ".join(c["name"] for c in configurations if c["target"] == target["name"])
        for target in targets
    }
    screen.table(
        ["target", "kind", "run configurations", "file"],
        [[t["name"], t["kind"] or "-", users[t["name"]] or "-", t["file"] or BUILT_IN] for t in targets],
    )
    tell_listed([*targets, *configurations], screen)
    return 0


def tell_listed(listed: Iterable[dict[str, Any]], screen: Screen) -> None:
    """What is wrong with the files that were listed."""
    for one in listed:
        for text in [*one["warnings"], *filter(None, [one["error"]])]:
            screen.remark(f"aml: {text}")


# --- test ---------------------------------------------------------------------------------------------------


def _test(options: Namespace, screen: Screen) -> int:
    project = project_of(options)
    configuration, target = project.resolve(options.name)
    found = []
    for check in _checks(project, configuration, target, options.image):
        found.append(check)
        if not options.json:
            _tell_check(check, screen)
    fine = all(check.ok is not False for check in found)
    if options.json:
        checks = [check.as_dict() for check in found]
        screen.json({"target": target.name, "kind": target.kind, "ok": fine, "checks": checks})
    return 0 if fine else CHECK_FAILED


def _tell_check(check: Check, screen: Screen) -> None:
    mark = {True: "ok", False: "FAILED", None: "-"}[check.ok]
    lines = [f"{mark:<8}{check.name:<20}{check.message}"]
    if check.ok is False and check.fix:
        lines += [f"{'':<8}{'':<20}{line}" for line in check.fix.splitlines()]
    from aml_jupyter.printable import safe_name

    screen.write("".join(safe_name(line) + "\n" for line in lines))


def _checks(
    project: Project, configuration: RunConfiguration, target: Target, image: str | None
) -> Iterator[Check]:
    from aml_jupyter import trial
    from aml_jupyter.executors import executor_for

    try:
        executor = executor_for(target.kind)
        executor.check(target, {"image": image} if image else {})
    except AmlError as error:
        yield trial.failed("configuration", error)
        return
    if target.kind in CONTAINERS:
        yield from _checks_of_engine(project, configuration, target, image)
        return
    yield trial.interpreter(executor.python(target))
    yield _share_here(project, target)
    yield trial.home(aml_home())


def _share_here(project: Project, target: Target) -> Check:
    from aml_jupyter import share, trial

    try:
        return trial.share_here(share.resolve(project, target), share.share_reason(target))
    except AmlError as error:
        return trial.failed("share", error)


def _checks_of_engine(
    project: Project, configuration: RunConfiguration, target: Target, image: str | None
) -> Iterator[Check]:
    from aml_jupyter import demands, trial
    from aml_jupyter.executors.docker.trial import Asked

    brings_python = False
    try:
        brings_python = demands.dependencies(project, configuration, target, {}) is not None
    except AmlError as error:
        yield trial.failed("environment", error)
    home = trial.home(aml_home())
    yield home
    asked = Asked(
        image=str(demands.of_target(project, target, {"image": image})["image"]),
        gpu=target.nvidia_docker,
        environment=brings_python,
    )
    if target.kind == "remotedocker":
        yield from _checks_there(project, target, asked)
    else:
        yield from _checks_here(project, target, asked, scratch=home.ok is not False)


def _checks_here(project: Project, target: Target, asked: Asked, *, scratch: bool) -> Iterator[Check]:
    import os

    from aml_jupyter import share
    from aml_jupyter.executors.docker.trial import Scratch, trial

    check = _share_here(project, target)
    if check.ok is False:
        yield check
    found = share.resolve(project, target) if check.ok else None
    asked = asked.replace(share=os.path.realpath(found.path) if found else None, reason=check.message)
    place = _place(project, target)
    if not scratch:
        yield from trial(place, asked)
        return
    with Scratch(aml_home()) as folder:
        yield from trial(place, asked.replace(job=folder))


def _checks_there(project: Project, target: Target, asked: Asked) -> Iterator[Check]:
    from aml_jupyter import share
    from aml_jupyter.executors.docker.machine import Scratch, machine
    from aml_jupyter.executors.docker.trial import trial
    from aml_jupyter.trial import failed

    reason, folder, fine = share.share_reason(target), None, True
    there = _there(project, target)
    connection = there.connection
    try:
        if found := share.resolve(project, target, home=connection.home()):
            folder = found.path
    except ConfigError as error:
        yield failed("share", error)
    except TargetUnavailable:  # told below, with the step that failed
        pass
    for check in machine(connection, folder):
        fine = fine and check.ok is not False
        yield check
    if not fine:
        return
    with Scratch(connection) as job:
        yield from trial(there, asked.replace(share=folder, reason=reason, job=job))


def _place(project: Project, target: Target) -> Place:
    if target.kind == "docker":
        from aml_jupyter.executors.docker.here import Here

        return Here()
    return _there(project, target)


def _there(project: Project, target: Target) -> There:
    from aml_jupyter import demands
    from aml_jupyter.executors.docker import login, there

    mapping = demands.of_target(project, target, {})
    try:
        login.passwords(target, mapping)
    except TargetUnavailable:  # whatever is asked of the machine next meets it again
        pass
    return there.There.of(mapping)


# --- sweep --------------------------------------------------------------------------------------------------


class _Known:
    """What is known here of runs, read before any engine is asked."""

    def __init__(self) -> None:
        from aml_jupyter import runs
        from aml_jupyter.executors.docker import warm

        self.began = time.time()
        # those that wait before those that runs have taken: none is missed that changes hands meanwhile
        self.slots = warm.waiting()
        self.live: set[str] = set()
        self.ended: set[str] = set()
        self.names: set[str] = set()
        self.used: dict[str, float] = {}
        for directory in runs.all_directories(aml_home()):
            self._take(directory)

    def _take(self, directory: RunDirectory) -> None:
        from aml_jupyter import runs
        from aml_jupyter.executors.docker import containers, warm
        from aml_jupyter.job import Job

        try:
            record = runs.load_record(directory)
        except AmlError:  # being made, or damaged: what it has in an engine may be all that is left of it
            record = None
        if record is None or not record.ended or runs.supervised(directory):
            self.live.add(directory.run_id)
            self.slots.add(warm.mark_of(directory.path))
        else:
            self.ended.add(directory.run_id)
            job = Job(
                run_id=directory.run_id,
                directory=directory.path,
                kind="",
                python="",
                command=(),
                environment={},
            )
            self.names.add(containers.container_name(job))
        if record is not None and (image := str(record.environment.get("image") or "")):
            self.used[image] = max(self.used.get(image, 0.0), _moment(record.created_utc))


def _sweep(options: Namespace, screen: Screen) -> int:
    project = project_of(options)
    known = _Known()
    found: list[tuple[str, Leftover]] = []
    status = 0
    for name, place in _places(project, options.name):
        try:
            found += [(name, one) for one in _swept(place, known, options)]
        except AmlError as error:
            status = FAILED
            screen.remark(f"aml: {name}: {error}")
    _tell_sweep(found, options, screen)
    return status


def _swept(place: Place, known: _Known, options: Namespace) -> list[Leftover]:
    from aml_jupyter.executors.docker import leftovers

    found = leftovers.sweep(
        place.engine(),
        live=known.live,
        ended=known.ended,
        slots=known.slots,
        began=known.began,
        dry_run=options.dry_run,
        images_after=options.unused_for if options.images else None,
        used=known.used,
    )
    if not place.local:
        from aml_jupyter.executors.docker import machine, there

        assert isinstance(place, there.There)
        found += machine.sweep(place.connection, known.names, options.unused_for, dry_run=options.dry_run)
    return found


def _moment(utc: str | None) -> float:
    import datetime as dt

    try:
        return dt.datetime.fromisoformat(utc or "").timestamp()
    except ValueError:
        return 0.0


def _places(project: Project, name: str | None) -> Iterator[tuple[str, Place]]:
    """Name and place of one target, or of this computer and every machine of the project."""
    if name is not None:
        _, target = project.resolve(name)
        if target.kind not in CONTAINERS:
            raise ConfigError(f"target {target.name!r} is of kind {target.kind}: it has no engine to sweep")
        yield target.name, _place(project, target)
        return
    from aml_jupyter.executors.docker.here import Here

    yield "this computer", Here()
    for one in project.targets():
        try:
            target = project.target(one)
        except ConfigError:  # `aml targets` tells what is wrong with it
            continue
        if target.kind == "remotedocker":
            yield target.name, _place(project, target)


def _tell_sweep(found: list[tuple[str, Leftover]], options: Namespace, screen: Screen) -> None:
    from aml_jupyter.printable import shown_size

    if options.json:
        screen.json([{"target": name, **one.as_dict()} for name, one in found])
        return
    if found:
        screen.table(
            ["target", "what", "name", "size", "why", "state"],
            [
                [name, one.kind, one.name, "-" if one.bytes is None else shown_size(one.bytes), one.why,
                 f"kept: {one.kept}" if one.kept else "removed" if one.removed else "would be removed"]
                for name, one in found
            ],
        )  # fmt: skip
    gone = [one for _, one in found if not one.kept]
    size = shown_size(sum(one.bytes or 0 for one in gone))
    word = "would be removed" if options.dry_run else "removed"
    screen.remark(f"{len(gone)} {word}, {size}" if gone else "Nothing is left over.")


# --- warm ---------------------------------------------------------------------------------------------------


def _warm(options: Namespace, screen: Screen) -> int:
    from aml_jupyter.executors.docker import warm

    if options.name is None:
        if options.off:
            raise UsageError("aml targets warm --off: name the target", hint="aml targets warm lists them.")
        return _list_warm(options, screen)
    project = project_of(options)
    _, target = project.resolve(options.name)
    if options.off:
        was = warm.stop(project.key, target.name)
        told = f"{target.name} is kept warm no longer" if was else f"{target.name} was not kept warm"
    else:
        from aml_jupyter import experiment

        request = experiment.Request(target=options.name)
        experiment.keep_warm(request, project, options.idle, screen.progress)
        told = f"a container waits for the next run on {target.name}"
    if options.json:
        screen.json({"target": target.name, "warm": not options.off})
    else:
        screen.remark(told)
    return 0


def _list_warm(options: Namespace, screen: Screen) -> int:
    from aml_jupyter.executors.docker import warm
    from aml_jupyter.printable import shown_seconds

    found = list(warm.kept())
    if options.json:
        screen.json([one.as_dict() for one in found])
        return 0
    now = time.time()
    screen.table(
        ["project", "target", "idle limit", "state"],
        [
            [one.project, one.target, shown_seconds(one.idle),
             f"waits for another {shown_seconds(max(0.0, one.until - now))}" if one.waiting
             else one.problem or "none waits; the next run starts one"]
            for one in found
        ],
    )  # fmt: skip
    return 0


# --- trust --------------------------------------------------------------------------------------------------


def _trust(options: Namespace, screen: Screen) -> int:
    """Show the host keys of a machine and, when they are the right ones, write them into known_hosts."""
    from aml_jupyter.connection import accept, fingerprints

    project = project_of(options)
    _, target = project.resolve(options.name)
    if not target.host:
        raise ConfigError(f"target {target.name!r} is this computer: there is no host key to accept")
    keys = fingerprints(target.host, target.port)
    screen.remark(f"{target.address} shows these host keys:")
    for key in keys:
        screen.remark(f"  {key.type:<8} {key.fingerprint}")
    if not options.yes and not _agreed(target, screen):
        return CHECK_FAILED
    new = accept(keys, target.host, target.port, replace=options.replace)
    if options.json:
        shown = [{"type": key.type, "fingerprint": key.fingerprint, "new": key in new} for key in keys]
        screen.json({"target": target.name, "address": target.address, "keys": shown})
    else:
        screen.remark(f"{len(new)} written down as trusted" if new else "They are known already.")
    return 0


def _agreed(target: Target, screen: Screen) -> bool:
    """Whether a person says that these are the keys.  Raises UsageError where nobody can be asked."""
    answer = screen.ask("Are these the ones that its owner told you? [y/N] ")
    if answer is None:
        raise UsageError(
            "nobody can be asked here whether these are the right keys",
            hint=f"Compare them with its owner's; then: aml targets trust {target.name} --yes",
        )
    return answer.strip().lower() in ("y", "yes")


# --- password -----------------------------------------------------------------------------------------------


def _password(options: Namespace, screen: Screen) -> int:
    """Ask for the password of a machine and put it into the keyring."""
    from aml_jupyter import credentials

    _, target = project_of(options).resolve(options.name)
    if not target.host:
        raise ConfigError(f"target {target.name!r} is this computer: there is no password to keep")
    login = credentials.entry(target.host, target.username)
    password = credentials.ask(f"Password of {login}: ")
    if password is None:
        raise UsageError(
            f"no password was given for {login}",
            hint=f"Type it in a terminal, or set {credentials.variable(target.name)} where you submit.",
        )
    credentials.keep(target.name, target.host, target.username, password)
    if target.password is None:
        screen.remark(f"{target.file} names no password: with the line  password: prompt  this one is used")
    if options.json:
        screen.json({"target": target.name, "login": login, "stored": True})
    else:
        screen.remark(f"the password of {login} is in the keyring")
    return 0
