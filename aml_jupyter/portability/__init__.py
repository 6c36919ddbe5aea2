"""A portability run: one snapshot on several targets at once, and the verdict whether they did the same.

submit        `a,b` as a target: a run on each, all of them planned before anything is done
group_of      the runs that were submitted together with one
judge         the verdict on them, once it is known kept with them
verdicts      what is compared, and how; a function of values alone
sides         those values, read from run directories
shown         a verdict as text and as HTML
"""

from __future__ import annotations

import os
import time

from aml_jupyter import experiment, runs
from aml_jupyter.config import aml_home
from aml_jupyter.errors import UsageError
from aml_jupyter.portability.verdicts import INCOMPLETE, PENDING, TOLERANCE, Verdict, verdict
from aml_jupyter.runs.groups import Group, read_group, write_group
from aml_jupyter.starting import Starter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Request
    from aml_jupyter.runs import Record, RunDirectory

__all__ = [
    "TOLERANCE",
    "Group",
    "Verdict",
    "group_of",
    "is_several",
    "judge",
    "requests",
    "submit",
    "verdict",
]

# tags of the runs, by which a list of runs tells which belong together and what was found
EXPERIMENT_TAG, VERDICT_TAG = "experiment", "portability"


def is_several(target: str) -> bool:
    """Whether a target means several."""
    return "," in target


def requests(request: Request) -> dict[str, Request]:
    """A request for each target of `a,b`, by its name; a target that stands there twice is run twice.

    Raises UsageError.
    """
    words = [word.strip() for word in request.target.split(",")]
    if not all(words):
        raise UsageError(
            f"{request.target!r}: a target between the commas has no name", hint="Such as local,docker"
        )
    if request.compute:
        raise UsageError(
            f"-t {request.compute} would put every run of {request.target} on the same compute target",
            hint="Name run configurations or compute targets with commas between them, without -t.",
        )
    experiment_id = f"exp_{time.time_ns() // 1_000_000}_{os.urandom(2).hex()}"
    tags = (*request.tags, f"{EXPERIMENT_TAG}={experiment_id}")
    found: dict[str, Request] = {}
    for at, word in enumerate(words):
        before = words[:at].count(word)
        label = f"{word}#{before + 1}" if before else word
        name = f"{request.name}-{label}" if request.name else request.name
        found[label] = request.replace(target=word, name=name, tags=tags, experiment_id=experiment_id)
    return found


def submit(
    request: Request,
    project: Project | None = None,
    start: Callable[[], Starter] = Starter,
    *,
    tolerance: float = TOLERANCE,
) -> Group:
    """Start a run of one snapshot on each target of `a,b`.

    Raises what `experiment.submit` raises; nothing is left then, and none was started.
    """
    found = requests(request)
    experiment_id = next(iter(found.values())).experiment_id

    def group_for(directories: Sequence[RunDirectory]) -> Group:
        pairs = zip(found, (one.run_id for one in directories), strict=True)
        return Group(experiment_id=experiment_id, runs=tuple(pairs), tolerance=tolerance)

    def note(directories: Sequence[RunDirectory]) -> None:
        write_group(directories[0].home, group_for(directories))

    return group_for(experiment.submit_together(list(found.values()), project, start, note))


def group_of(record: Record, home: str | None = None) -> Group | None:
    """The runs that a run was submitted together with, itself among them; None for one on its own.

    Raises HistoryError `record.corrupt`.
    """
    if record.experiment_id in ("", record.project):
        return None
    return read_group(home or aml_home(), record.experiment_id)


def judge(group: Group, home: str | None = None, *, keep: bool = False) -> Verdict:
    """The verdict on runs that were submitted together, `pending` while one goes on.

    With `keep` it is written down once it is known, and stays when runs are removed.
    """
    from aml_jupyter.portability.sides import side_of

    home = home or aml_home()
    # another process may have kept one since
    known = group.verdict or (read_group(home, group.experiment_id) or group).verdict
    if known is not None:
        return Verdict.from_json(known)
    directories = group.directories(home)
    sides = [side_of(one, target, runs.read_record(one)) for target, one in directories.items()]
    found = verdict(group.experiment_id, sides, group.tolerance)
    if len(sides) < len(group.runs):  # one was removed before they could be compared
        found = found.replace(word=INCOMPLETE)
    if keep and found.word != PENDING:
        write_group(home, group.replace(verdict=found.as_json()))
        for one in directories.values():
            runs.set_labels(one, tags={VERDICT_TAG: found.word})
    return found
