"""Runs that were submitted together: which they are, and what was found when they were compared.

One sealed file `experiments/<experiment id>.json` for each.
"""

from __future__ import annotations

import os

from aml_jupyter.confined import MissingFile, make_root, read_bounded, write_atomic
from aml_jupyter.errors import ConfinedError, HistoryError
from aml_jupyter.frozen import Value
from aml_jupyter.job import FORMAT, check_format
from aml_jupyter.runs.directory import at, trash_of, unlink_quietly, with_reserve
from aml_jupyter.sealed import seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from aml_jupyter.runs.directory import RunDirectory

_FOLDER = "/experiments"
_LARGEST = 16 << 20


class Group(Value):
    """Runs of one snapshot: `runs` are pairs of target and run id in the order of the request.

    `tolerance` is the relative difference that metrics may have; `verdict` is JSON, None before the ending.
    """

    experiment_id: str
    runs: tuple[tuple[str, str], ...]
    tolerance: float = 0.0
    verdict: Mapping[str, Any] | None = None

    def directories(self, home: str) -> dict[str, RunDirectory]:
        """The runs that are still there, by target."""
        found = {target: at(home, run_id) for target, run_id in self.runs}
        return {target: one for target, one in found.items() if one is not None}


def write_group(home: str, group: Group) -> None:
    """Replace the file of a group.  Raises HistoryError; FormatError over one of a newer version."""
    path = _path(home, group.experiment_id)
    try:
        check_format(unseal(read_bounded(path, _LARGEST), path), path)
    except (MissingFile, HistoryError):  # none yet, or damaged: the new one is better
        pass
    make_root(home + _FOLDER)
    runs = [{"target": target, "run_id": run_id} for target, run_id in group.runs]
    data = seal({"format": FORMAT, **group.as_dict(), "runs": runs})
    with_reserve(path, lambda: write_atomic(path, data))


def read_group(home: str, experiment_id: str) -> Group | None:
    """The group of an experiment id; None where runs have it that were not submitted together.

    Raises HistoryError `record.corrupt`.
    """
    path = _path(home, experiment_id)
    try:
        document = unseal(read_bounded(path, _LARGEST), path)
    except MissingFile:
        return None
    except ConfinedError as error:  # a folder, a FIFO, unreadable, or no name of ours
        raise HistoryError(error.message, code="record.corrupt", hint="Run `aml check`.") from error
    fields = {name: document[name] for name in Group._fields if name in document}
    fields["runs"] = tuple((one["target"], one["run_id"]) for one in document.get("runs", ()))
    return Group(**fields)


def group_files(home: str) -> Iterator[tuple[str, str]]:
    """Experiment id and path of every group."""
    try:
        names = sorted(os.listdir(home + _FOLDER))
    except FileNotFoundError:
        return
    for name in names:
        if name.endswith(".json"):
            yield name[: -len(".json")], f"{home}{_FOLDER}/{name}"


def drop_groups(home: str, *, dry_run: bool = False) -> int:
    """Remove the files of groups of which no run is left, not even in the trash; how many there were.

    A group whose file is damaged stays: `aml check` tells of it.
    """
    count = 0
    for experiment_id, path in group_files(home):
        try:
            group = read_group(home, experiment_id)
        except HistoryError:
            continue
        if group is not None and not group.directories(home) and not group.directories(trash_of(home)):
            count += 1
            if not dry_run:
                unlink_quietly(path)
    return count


def _path(home: str, experiment_id: str) -> str:
    # a project of any name may be an experiment id
    safe = experiment_id and experiment_id[0] != "." and not {"/", "\0"} & set(experiment_id)
    return f"{home}{_FOLDER}/{experiment_id if safe else '-'}.json"
