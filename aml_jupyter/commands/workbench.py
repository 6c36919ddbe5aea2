"""`aml experiment`: submit, prepare, cancel and the rest, by the names and options of `az ml experiment`."""

from __future__ import annotations

import os

from aml_jupyter.commands import add_json, as_verb
from aml_jupyter.commands.resources import add_environment_options, resources_of
from aml_jupyter.commands.submit import project_of, submit_and_follow
from aml_jupyter.commands.watch import find_run
from aml_jupyter.config import Project
from aml_jupyter.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.config import RunConfiguration, Target
    from aml_jupyter.runs import RunDirectory

ACTIONS = "submit|prepare|cancel|status|clean|diagnostics|return"
# what a run that ended leaves behind, and where; nothing in it holds a value of a variable
DIAGNOSTICS = (
    "run.json", "status.jsonl", "control.log", "handle.json", "prepared.json", "artifacts.json", "job/log",
    "job/events.jsonl", "job/started.json", "job/exit.json",
)  # fmt: skip
# the most of one file that goes into an archive, in bytes
LARGEST = 64 << 20


def arguments_experiment(parser: ArgumentParser) -> None:
    """`aml experiment submit -c NAME script.py args`, `prepare -c NAME`, `cancel -r RUN`, ..."""
    actions = parser.add_subparsers(dest="action", required=True, metavar=ACTIONS)
    submit = actions.add_parser("submit", help="run a script; everything behind it belongs to it")
    _add_target(submit)
    add = submit.add_argument
    add("-a", "--async", dest="detach", action="store_true", help="do not wait")
    add("--wait", dest="detach", action="store_false", help="wait, which it does unless told otherwise")
    add("--prepare", action="store_true", help="make the environment first, whatever PrepareEnvironment says")
    add("-u", "--untracked", action="store_true", help="hide the run from lists: nothing runs unrecorded")
    add("words", nargs="...", metavar="script args", help="everything behind the script belongs to it")
    prepare = actions.add_parser("prepare", help="make the environment of a run configuration ready")
    _add_target(prepare)
    add = prepare.add_argument
    add("--wait", action="store_true", help="it always does")
    add("-a", "--async", action="store_true", help="not needed any more: it waits")
    add("-u", "--untracked", action="store_true", help="not needed any more")
    add_environment_options(prepare)
    for name, does in (
        ("cancel", "end a run"),
        ("status", "everything that is known of one run"),
        ("diagnostics", "what a run left behind, as diagnostics.zip in the project"),
        ("return", "put the outputs of a run into the project"),
    ):
        action = actions.add_parser(name, help=does)
        action.add_argument("-r", "--run", required=True, metavar="RUN", help="which one")
        _add_rest(action)
        if name == "return":
            action.add_argument("-f", "--overwrite", action="store_true", help="replace files that are there")
    clean = actions.add_parser("clean", help="remove working copies of runs that have ended")
    clean.add_argument("-r", "--run", metavar="RUN", help="of one run")
    clean.add_argument("-a", "--all", action="store_true", help="of all runs of the project")
    _add_rest(clean, "only of runs on this compute target")


def _add_rest(parser: ArgumentParser, target: str = "not needed any more") -> None:
    parser.add_argument("-t", "--target", dest="compute", metavar="NAME", help=target)
    parser.add_argument("-p", "--project", metavar="DIR", help="the project; found from the working folder")
    add_json(parser)


def _add_target(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("-c", "--run-configuration", dest="target", default="local", metavar="NAME", help="local unless said")
    add("-t", "--target", dest="compute", metavar="NAME",
        help="another compute target than the run configuration's")  # fmt: skip
    add("-d", "--conda-dependencies", metavar="FILE",
        help="a file of the project instead of the one that the run configuration names")  # fmt: skip
    add("-s", "--spark-dependencies", metavar="FILE", help="the same for Spark")
    add("-p", "--project", metavar="DIR", help="the project; found from the working folder unless said")
    add_json(parser)


def do_experiment(options: Namespace, screen: Screen) -> int:
    """The names of 2018 for run, stop, show and others."""
    doers = {
        "submit": _submit,
        "prepare": _prepare,
        "cancel": _cancel,
        "status": _status,
        "clean": _clean,
        "diagnostics": _diagnostics,
        "return": _return,
    }
    return doers[options.action](options, screen)


class OwnFiles(Project):
    """A project whose run configurations name other files of dependencies for once."""

    conda: str | None = None
    spark: str | None = None

    def resolve(self, name: str, compute: str | None = None) -> tuple[RunConfiguration, Target]:
        """What TARGET means, with the files that were named."""
        found, target = super().resolve(name, compute)
        if self.conda:
            found = found.replace(conda_dependencies_file=self.conda)
        if self.spark:
            found = found.replace(spark_dependencies_file=self.spark)
        return found, target

    def dependency_files(self) -> tuple[str, ...]:
        """Those of the run configurations, and the ones that were named."""
        named = [path for path in (self.conda, self.spark) if path]
        return tuple(sorted({*super().dependency_files(), *named}))


def _project(options: Namespace) -> Project:
    """The project, with the dependency files that the line names.  Raises UsageError."""
    project = project_of(options)
    named: dict[str, str] = {}
    for option, key in (("-d", "conda"), ("-s", "spark")):
        if path := getattr(options, f"{key}_dependencies"):
            named[key] = _inside(project, path, option)
    return OwnFiles(**project.as_dict(), **named) if named else project


def _inside(project: Project, path: str, option: str) -> str:
    """A file named from the working folder or the project, relative to the project."""
    for start in (os.getcwd(), project.root):
        whole = os.path.normpath(os.path.join(start, path))
        if os.path.isfile(whole) and whole.startswith(project.root + "/"):
            return os.path.relpath(whole, project.root)
    raise UsageError(f"{option} {path}: there is no such file in the project {project.root}")


def _submit(options: Namespace, screen: Screen) -> int:
    from aml_jupyter.experiment import Request

    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    script, arguments = words[:1], words[1:]
    if arguments[:1] == ["--"]:  # as one who knows `aml run` writes it
        arguments = arguments[1:]
    if script and script[0].endswith(".runconfig"):  # a file of the project that names script and arguments
        options.target, script = script[0], []
    request = Request(
        target=options.target,
        compute=options.compute,
        script=script[0] if script else None,
        arguments=tuple(arguments),
        hidden=options.untracked,
    )
    project = _project(options)
    if options.prepare:
        from aml_jupyter import experiment

        experiment.prepare(request, project, screen.progress)
    options.dry_run, options.quiet, options.raise_error, options.prepare_only = False, False, True, False
    return submit_and_follow(request, project, options, screen)


def _prepare(options: Namespace, screen: Screen) -> int:
    from aml_jupyter.commands.prepare import prepare
    from aml_jupyter.experiment import Request

    request = Request(target=options.target, compute=options.compute, resources=resources_of(options))
    return prepare(request, _project(options), screen, as_json=options.json)


def _cancel(options: Namespace, screen: Screen) -> int:
    return as_verb("stop", [options.run], options, screen)


def _status(options: Namespace, screen: Screen) -> int:
    return as_verb("show", [options.run], options, screen)


def _return(options: Namespace, screen: Screen) -> int:
    return as_verb("get", [options.run], options, screen, dest=project_of(options).root)


def _clean(options: Namespace, screen: Screen) -> int:
    """Remove working copies; those stay whose outputs could not be kept elsewhere."""
    from aml_jupyter import runs
    from aml_jupyter.confined import remove_tree

    if bool(options.run) == options.all:
        raise UsageError("aml experiment clean: --run RUN or --all, one of them")
    cleaned = []
    for directory in [find_run(options.run)] if options.run else _runs(options):
        record = runs.read_record(directory)
        if options.compute not in (None, record.target) or not os.path.isdir(directory.work):
            continue
        if not record.ended or record.artifacts_state in ("partial", "failed"):
            why = "it has not ended" if not record.ended else "not all of its outputs could be kept"
            screen.remark(f"aml: the working copy of {directory.run_id} stays: {why}")
            continue
        remove_tree(directory.work)
        cleaned.append(directory.run_id)
    if options.json:
        screen.json(cleaned)
    else:
        screen.write("".join(f"{run_id}\n" for run_id in cleaned))
    return 0


def _runs(options: Namespace) -> list[RunDirectory]:
    """Every run of the project."""
    from aml_jupyter import runs
    from aml_jupyter.config import aml_home

    with runs.History(aml_home()) as history:
        rows: list[dict[str, Any]] = history.rows(limit=None, project=project_of(options).key, hidden=True)
    return [runs.find(row["run_id"], aml_home()) for row in rows]


def _diagnostics(options: Namespace, screen: Screen) -> int:
    """Write what a run left behind into an archive in the project."""
    import io
    import zipfile

    from aml_jupyter.confined import MissingFile, Root

    directory, project = find_run(options.run), project_of(options)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as into, Root(directory.path) as run:
        for name in DIAGNOSTICS:
            try:
                fd = run.open_file(name)
            except MissingFile:
                continue
            with os.fdopen(fd, "rb") as file:
                # of a log that is too long its end, where the failure is
                file.seek(max(0, os.fstat(fd).st_size - LARGEST))
                into.writestr(f"{directory.run_id}/{name}", file.read(LARGEST))
    with Root(project.root) as root:
        root.replace_file("diagnostics.zip", archive.getvalue(), mode=0o600)
    path = f"{project.root}/diagnostics.zip"
    if options.json:
        screen.json([path])
    else:
        screen.path(path)
    return 0
