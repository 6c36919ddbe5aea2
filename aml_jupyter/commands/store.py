"""`aml push`, and the looks into a store of `aml history sync` and `aml runs --from-store`."""

from __future__ import annotations

import time

from aml_jupyter import pending, runs
from aml_jupyter.commands import add_json
from aml_jupyter.commands.submit import project_of
from aml_jupyter.commands.watch import find_run
from aml_jupyter.config import aml_home
from aml_jupyter.errors import ArtifactError, UsageError
from aml_jupyter.printable import safe_name, shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from aml_jupyter.artifacts.transfer import Progress
    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.pushing import Pushed
    from aml_jupyter.runs import RunDirectory
    from aml_jupyter.syncing import Synced

# the exit status of what could not be stored now
PENDING = 5
# seconds between two lines of progress, and to wait for another who pushes
EVERY = 1.0
PATIENCE = 86400.0


def arguments_push(parser: ArgumentParser) -> None:
    """Options of `aml push`."""
    parser.add_argument("runs", metavar="RUN", nargs="*", help="which runs; all that are pending unless said")
    parser.add_argument("--all", action="store_true", help="every run that has ended and is not stored yet")
    add_json(parser)


def do_push(options: Namespace, screen: Screen) -> int:
    """Store runs in the store of their project; exit status 5 when some are still pending."""
    from aml_jupyter import pushing

    if options.all and options.runs:
        raise UsageError("give runs, or --all")
    home = aml_home()
    named = [find_run(reference, whole=False) for reference in options.runs]
    waited = False

    def waiting() -> None:
        nonlocal waited
        waited = True
        screen.remark("aml: another process is storing runs; waiting for it")

    turn = pushing.take_turn(home, PATIENCE, waiting)
    if turn is None:
        raise UsageError("another process has been storing runs for a day", code="history.locked")
    if not options.json and (count := len(named) or len(pending.all_marks(home))):
        screen.progress(f"aml: storing {count} runs" if count > 1 else "aml: storing 1 run")
    told = _Told(screen)
    done: list[Pushed] = []
    with turn:
        for directory in [*named, *(_unstored(home) if options.all else ())]:
            done.append(pushing.push_run(directory, told))
            _tell(done[-1], options, screen)
        if not named:
            seen = {one.run_id for one in done}
            for one in pushing.push_marked(home, report=told, now=True, but=seen):
                done.append(one)
                _tell(one, options, screen)
    from aml_jupyter.retention import remote

    for run_id, why in remote.clear(home).waiting:
        screen.remark(f"aml: {safe_name(run_id)} was removed here and is still in its store: {why}")
    if options.json:
        screen.json([one.as_dict() for one in done])
    elif not done:
        screen.remark("aml: nothing is pending any more" if waited else "aml: nothing is pending")
    return PENDING if any(one.error for one in done) else 0


def _unstored(home: str) -> list[RunDirectory]:
    """Runs that have ended and were never stored where their project wants them."""
    from aml_jupyter.artifacts.remote import place_of

    found = []
    for directory in sorted(runs.all_directories(home), key=lambda one: one.run_id):
        record = runs.load_record(directory)
        place = place_of(directory)
        if not record.ended or (place is not None and place.pulled):
            continue
        wanted = pending.wanted_store(home, record.project_root)
        if wanted and (place is None or place.store != wanted or not place.entry):
            found.append(directory)
    return found


class _Told:
    """Progress as lines, not more than one a second."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.last = time.monotonic()

    def __call__(self, run_id: str, now: Progress) -> None:
        moment = time.monotonic()
        if self.screen.as_json or moment - self.last < EVERY:
            return
        self.last = moment
        self.screen.progress(
            f"{safe_name(run_id)}: {now.files_done} of {now.files} files,"
            f" {shown_size(now.bytes_done)} of {shown_size(now.bytes)}"
        )


def _tell(done: Pushed, options: Namespace, screen: Screen) -> None:
    if options.json:
        return
    stored = f"stored in {done.store}; it has no artifacts"
    words = {
        "pulled": f"is in {done.store}, where it came from",
        "gone": "was removed",
        "none": stored if done.store else "no store is set for its project",
        "pending": "pending",
    }.get(done.state, f"{done.state} in {done.store}")
    sent = f" ({done.files} files, {shown_size(done.bytes)} sent)" if done.files else ""
    screen.path(f"{done.run_id} {words}{sent}")
    if done.error:
        screen.remark(f"aml: {done.error['message']} [{done.error['code']}]")
        if done.error.get("hint"):
            screen.remark(f"aml: {done.error['hint']}")


def do_sync(options: Namespace, screen: Screen) -> int:
    """Bring the runs of the store into this history; exit status 5 when some were refused."""
    found = sync_from_store(options, screen)
    if options.json:
        screen.json({**found.as_dict(), "problems": [one.as_dict() for one in found.problems]})
    else:
        screen.write(
            f"runs of {found.store}: {len(found.pulled)} new, {len(found.updated)} changed,"
            f" {found.known} known\n"
        )
        if not options.all_projects and not found.pulled and not found.known:
            name = project_of(options).name
            screen.remark(f"aml: only runs of the project {name} were looked for; --all-projects brings all")
    return PENDING if found.problems else 0


def sync_from_store(options: Namespace, screen: Screen) -> Synced:
    """Look into the store of the project, tell what was refused.  Raises ArtifactError `store.none`."""
    from aml_jupyter import syncing
    from aml_jupyter.config import settings

    project = project_of(options)
    url = settings.store_url(project.root)
    if url is None:
        raise ArtifactError(
            "no store is set",
            code="store.none",
            hint="aml config set artifacts.store azblob://CONTAINER    (or folder:///PATH)",
        )
    found = syncing.sync(aml_home(), url, None if options.all_projects else project.key)
    _tell_problems(found.problems, screen)
    return found


def _tell_problems(problems: Sequence[object], screen: Screen) -> None:
    for one in problems[:20]:
        screen.remark(f"aml: not taken: {getattr(one, 'message', '')} [{getattr(one, 'code', '')}]")
    if len(problems) > 20:
        screen.remark(f"aml: and {len(problems) - 20} more")
