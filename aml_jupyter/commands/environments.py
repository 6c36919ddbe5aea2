"""`aml env`: what the project's environment is: show, lock, diff, export."""

from __future__ import annotations

import os
import re
from argparse import SUPPRESS

from aml_jupyter.commands import add_json
from aml_jupyter.commands.submit import project_of
from aml_jupyter.commands.watch import find_run
from aml_jupyter.config import aml_home
from aml_jupyter.errors import ConfigError, RunNotFound, UsageError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.environment.lock import Lock

WHAT = "a run configuration or compute target, a run, or the first letters of a lock"
FORMS = ("conda", "pip", "json")
PLATFORMS = ("linux-64", "linux-aarch64", "osx-64", "osx-arm64")
# exit status of `diff`, as of diff(1)
DIFFERENT = 1


class Asked(Value):
    """The dependencies of a target, and the platform and Python that they are solved for."""

    dependencies: dict[str, Any]
    platform: str
    base_python: str


def arguments_env(parser: ArgumentParser) -> None:
    """`aml env show WHAT`, `lock TARGET`, `diff A B`, `export WHAT`."""
    parser.add_argument(
        "--project", metavar="DIR", help="the project; found from the working folder unless said"
    )
    add_json(parser)
    actions = parser.add_subparsers(dest="action", required=True, metavar="show|lock|diff|export")
    show = actions.add_parser("show", help="what is asked for, and the packages it was solved to")
    show.add_argument("what", metavar="WHAT", help=WHAT)
    lock = actions.add_parser("lock", help="solve the dependencies of a target, unless that was done")
    lock.add_argument("what", metavar="TARGET", help="a run configuration, failing that a compute target")
    lock.add_argument("--relock", action="store_true", help="solve again although a lock is kept")
    lock.add_argument("--relax-pins", action="store_true",
                      help="loosen the pins that nothing satisfies, and say which")  # fmt: skip
    diff = actions.add_parser("diff", help="what differs between two environments; exit status 1 if anything")
    diff.add_argument("first", metavar="A", help=WHAT)
    diff.add_argument("second", metavar="B", help=WHAT)
    export = actions.add_parser("export", help="a lock for other tools")
    export.add_argument("what", metavar="WHAT", help=WHAT)
    export.add_argument("--format", choices=FORMS, metavar="|".join(FORMS), default="json",
                        help="conda's list, pip's requirements with hashes, or the lock itself")  # fmt: skip
    export.add_argument("-o", "--output", metavar="FILE", help="write it there")
    for action in (show, lock, diff, export):
        action.add_argument("--platform", choices=PLATFORMS, metavar="NAME",
                            help="such as linux-64; the target's unless said")  # fmt: skip
        action.add_argument("--python", metavar="VERSION",
                            help="of the interpreter or image to stand on, such as 3.11")  # fmt: skip
        action.add_argument("--project", metavar="DIR", default=SUPPRESS, help="the project")
        action.add_argument("--json", action="store_true", default=SUPPRESS, help="print JSON")


def do_env(options: Namespace, screen: Screen) -> int:
    """Do one action."""
    if options.python and not re.fullmatch(r"3\.\d+(\.\d+)?", options.python):
        raise UsageError(f"--python {options.python!r} is not a version such as 3.11")
    actions = {"show": _show, "lock": _lock, "diff": _diff, "export": _export}
    return actions[options.action](options, screen)


# --- the actions --------------------------------------------------------------------------------------------


def _show(options: Namespace, screen: Screen) -> int:
    if sentence := _as_it_is(options.what, options):
        if options.json:
            screen.json({"asked": None, "lock": None})
        else:
            screen.write(f"{sentence}\n")
        return 0
    asked = _asked(options.what, options)
    lock = _kept(asked) if asked else _of_name(options.what)
    if options.json:
        screen.json({"asked": _public(asked), "lock": lock.to_json() if lock else None})
        return 0
    if asked:
        screen.table(["asked for", ""], _rows_of_asked(asked))
    if lock is None:
        screen.remark(f"aml: not solved yet; aml env lock {options.what} solves it")
        return 0
    if asked:
        screen.write("\n")
    _show_lock(lock, screen)
    return 0


def _lock(options: Namespace, screen: Screen) -> int:
    asked = _asked(options.what, options)
    if asked is None:
        project_of(options).resolve(options.what)  # says which targets there are
        raise UsageError(f"{options.what!r} is no target")
    from aml_jupyter.environment.solving import solve

    wanted = {**asked.dependencies, "relock": options.relock, "relax": options.relax_pins}
    lock = solve(
        wanted,
        platform=asked.platform,
        base_python=asked.base_python,
        tell=lambda text: screen.remark(f"aml: {text}"),
    )
    if options.json:
        screen.json(lock.to_json())
    else:
        _show_lock(lock, screen)
    return 0


def _diff(options: Namespace, screen: Screen) -> int:
    from aml_jupyter.environment.difference import by_version, diff

    first, second = _found(options.first, options), _found(options.second, options)
    if not (first.request and second.request):
        # of an interpreter that was used as it is only names and versions are known
        first, second = by_version(first), by_version(second)
    found = diff(first, second)
    if options.json:
        screen.json(found.as_json())
        return 0 if found.same else DIFFERENT
    rows = [
        ["platform", *found.platform] if found.platform[0] != found.platform[1] else [],
        ["python", *found.python] if found.python[0] != found.python[1] else [],
        *([name, old or "-", new or "-"] for name, old, new in sorted(found.rows)),
    ]
    if found.same:
        screen.remark("aml: no difference")
        return 0
    screen.table(["package", options.first, options.second], [row for row in rows if row])
    return DIFFERENT


def _export(options: Namespace, screen: Screen) -> int:
    from aml_jupyter.environment.exporting import export

    lock = _found(options.what, options)
    if not lock.request:
        raise UsageError(
            f"{options.what} used an interpreter as it was: there is no lock of it",
            hint="Runs in an environment that is made from conda_dependencies.yml have one.",
        )
    text = export(lock, "json" if options.json else options.format)
    if options.output:
        from aml_jupyter.confined import write_atomic

        write_atomic(_absolute(options.output), text.encode(), mode=0o644)
    else:
        screen.write(text)
    return 0


def _absolute(path: str) -> str:
    import os

    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise UsageError(f"--output {path!r} is not a file in a folder that is there")
    return os.path.abspath(path)


# --- words to locks -----------------------------------------------------------------------------------------


def _found(what: str, options: Namespace) -> Lock:
    """The lock of a target, a run or a digest.  Raises UsageError where none is kept."""
    asked = _asked(what, options)
    if asked is None:
        return _of_name(what)
    lock = _kept(asked)
    if lock is None:
        raise UsageError(f"the environment of {what} is not solved yet", hint=f"aml env lock {what}")
    return lock


def _of_name(what: str) -> Lock:
    """The lock of a run, or the one whose digest begins so.  Raises RunNotFound, UsageError."""
    from aml_jupyter.environment.keeping import by_digest

    if re.fullmatch(r"[0-9a-f]{6,64}", what) and (lock := by_digest(what)):
        return lock
    try:
        run = find_run(what)
    except RunNotFound as error:
        if error.code == "run.unknown":
            error.hint = f"{what} is no target, no run and no lock. {error.hint}".strip()
        raise
    from aml_jupyter import runs

    if os.path.exists(run.path + "/remote.json"):
        from aml_jupyter import syncing

        syncing.need_lock(run)
    environment = runs.load_record(run).environment
    digest = str(environment.get("lock") or "")
    if digest and (lock := by_digest(digest)):
        return lock
    return _listed(what, environment)


def _listed(what: str, environment: Any) -> Lock:
    """The packages of an interpreter that was used as it is, as a lock without a request."""
    from aml_jupyter import plainjson
    from aml_jupyter.confined import read_bounded
    from aml_jupyter.environment.lock import Lock, Package
    from aml_jupyter.environment.prefix import platform_here

    digest = environment.get("digest")
    try:
        path = f"{aml_home()}/environments/{digest}.json"
        packages = plainjson.loads(read_bounded(path, 64 << 20))["packages"]
    except (OSError, ValueError, KeyError):
        raise UsageError(
            f"of the environment of {what} nothing is kept",
            hint="It is known from the moment a run starts.",
        ) from None
    return Lock(
        platform=platform_here(),
        python=str(environment.get("version") or ""),
        owns_python=False,
        packages=tuple(
            Package(name=name, version=version, source="pypi") for name, version in packages.items()
        ),
        request="",
    )


def _asked(what: str, options: Namespace) -> Asked | None:
    """What a target asks for, or None where the word names no target.

    Raises ConfigError for a damaged file, and where the project asks for nothing.
    """
    project = project_of(options)
    if what not in {*project.run_configurations(), *project.targets()}:
        return None
    from aml_jupyter import demands, environment
    from aml_jupyter.environment.prefix import platform_here

    if sentence := _as_it_is(what, options):
        raise ConfigError(sentence, hint="Name packages in that file to have an environment made.")
    configuration, target = project.resolve(what)
    conda = environment.load(project, configuration).conda
    assert conda
    python = options.python
    if python is None and target.kind in demands.CONTAINERS:
        python = _of_image(str(demands.of_target(project, target, {})["image"]))
    return Asked(
        dependencies=conda.asked(),
        platform=options.platform or (platform_here() if target.kind != "remotedocker" else "linux-64"),
        base_python=python or _of_interpreter(target.python_location),
    )


def _as_it_is(what: str, options: Namespace) -> str:
    """A sentence where a target asks for no package, so that what it has is used; else ""."""
    project = project_of(options)
    if what not in {*project.run_configurations(), *project.targets()}:
        return ""
    from aml_jupyter import demands, environment

    configuration, target = project.resolve(what)
    conda = environment.load(project, configuration).conda
    file = configuration.conda_dependencies_file
    used = "image" if target.kind in demands.CONTAINERS else "Python"
    if conda is None:
        return f"the project has no {file}: {what} uses its {used} as it is"
    if conda.is_empty and target.kind in demands.CONTAINERS:
        return f"{file} names no package: {what} uses its {used} as it is"
    return ""


def _kept(asked: Asked) -> Lock | None:
    """The kept lock of a target; also one for another base, where there is only one."""
    from aml_jupyter.environment.keeping import all_kept, kept

    found = kept(asked.dependencies, platform=asked.platform, base_python=asked.base_python)
    if found is None:
        others = [lock for lock in all_kept(asked.dependencies) if lock.platform == asked.platform]
        found = others[0] if len({lock.digest for lock in others}) == 1 else None
    return found


def _of_image(image: str) -> str | None:
    """The version of Python that an image's name tells (`python:3.11-slim`)."""
    found = re.search(r"(?:^|/)python:(3\.\d+(?:\.\d+)?)", image)
    return found[1] if found else None


def _of_interpreter(location: str | None) -> str:
    import sys

    from aml_jupyter.packages import version

    found = version(location) if location and location.startswith("/") else ""
    return found or ".".join(map(str, sys.version_info[:3]))


# --- on the screen ------------------------------------------------------------------------------------------


def _public(asked: Asked | None) -> dict[str, Any] | None:
    if asked is None:
        return None
    return {**asked.dependencies, "platform": asked.platform, "base_python": asked.base_python}


def _rows_of_asked(asked: Asked) -> list[list[str]]:
    given = asked.dependencies
    rows = [["file", _from_here(str(given["file"]))], ["channels", ", ".join(given["channels"])]]
    rows += [["conda", item] for item in given["dependencies"]]
    return rows + [["pip", item] for item in given["pip"]]


def _from_here(path: str) -> str:
    """A path below the working folder without it."""
    import os

    return path.removeprefix(os.getcwd() + "/")


def _show_lock(lock: Lock, screen: Screen) -> None:
    facts = [["platform", lock.platform], ["python", lock.python + ("" if lock.owns_python else " (base)")]]
    facts += [["relaxed", change] for change in lock.changes]
    screen.table(["lock", lock.digest if lock.request else "-"], facts)
    screen.write("\n")
    screen.table(
        ["package", "version", "build", "source", "sha256"],
        [[p.name, p.version, p.build or "-", p.source, p.sha256[:12] or "-"] for p in lock.packages],
    )
