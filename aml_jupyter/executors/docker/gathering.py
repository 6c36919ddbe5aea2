"""What a run on another machine added or changed in its working copy, brought onto a copy of its snapshot."""

from __future__ import annotations

import os

from aml_jupyter import inputs, plainjson, processes
from aml_jupyter.confined import remove_tree
from aml_jupyter.errors import ArtifactError
from aml_jupyter.executors.docker import containers
from aml_jupyter.executors.docker.copying import unpack
from aml_jupyter.executors.docker.helper import Helper, ordered
from aml_jupyter.snapshot import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from aml_jupyter.executors.docker.there import There
    from aml_jupyter.job import Job


def gather(place: There, job: Job, into: str) -> None:
    """Bring what a run has left; what had come before the line broke is not sent again.

    Raises TargetUnavailable, ArtifactError for an archive that no budget holds.
    """
    partial = into + ".partial"
    brought = _Brought(into + ".brought")
    if not brought.known and os.path.lexists(partial):
        remove_tree(partial)
    if not os.path.isdir(partial):
        _lay_out(job, partial)
    with brought, Helper(place, job, "gather") as helper:
        document = {"run": containers.container_name(job), "have": brought.known}
        helper.conversation.send(ordered({"do": "gather"}, document))
        _unpack(helper, partial, brought)
    os.rename(partial, into)
    brought.forget()


def _unpack(helper: Helper, into: str, brought: _Brought) -> None:
    try:
        unpack(helper.conversation.output(), into, replace=True, placed=brought.add)
    except ArtifactError as error:
        if error.code == "artifact.invalid":
            helper.confirm()  # an archive that is not whole because the line broke can be asked for again
        raise
    helper.confirm()


def _lay_out(job: Job, folder: str) -> None:
    """The working copy as the run found it, whole or not at all."""
    unfinished = folder + ".copy"
    if os.path.lexists(unfinished):
        remove_tree(unfinished)
    Store(job.snapshots).materialize(job.snapshot_id, unfinished)
    os.makedirs(unfinished + "/outputs", exist_ok=True)
    inputs.place(job, unfinished)
    os.rename(unfinished, folder)


class _Brought:
    """Which files of a run's working copy have come whole, and what they were like there: a line for each.

    The first line says since which start of this computer: what was not on the disk when it lost its power
    would look whole.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.known: dict[str, str] = {}
        try:
            with open(path, encoding="ascii") as file:
                first, *lines = file.read().split("\n")
        except FileNotFoundError:
            return
        if first != processes.boot_id():
            os.unlink(path)
            return
        for line in lines[:-1]:
            try:
                name, seen = plainjson.loads(line)
            except (ValueError, TypeError):  # a supervisor was killed within it: that file comes again
                continue
            self.known[name] = seen

    def __enter__(self) -> Self:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size == 0:
            os.write(self._fd, processes.boot_id().encode("ascii") + b"\n")
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)

    def add(self, path: str, headers: Mapping[str, str]) -> None:
        """A file has come whole."""
        if seen := headers.get("AML.seen"):
            os.write(self._fd, plainjson.dumps([path, seen]).encode("ascii") + b"\n")

    def forget(self) -> None:
        """All of it has come."""
        os.unlink(self._path)
