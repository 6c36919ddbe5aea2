"""Files of earlier runs that a run is given: verified copies below `inputs/` of its working copy.

They are no part of the snapshot.  A job names each by its path in the working copy and by its key in the
artifact store of this computer; what arrives is compared with the SHA-256 that the job names.
"""

from __future__ import annotations

import os

from aml_jupyter.confined import MissingFile, Root
from aml_jupyter.errors import ArtifactError, ConfinedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from aml_jupyter.job import Job

FOLDER = "inputs"
# what the run's variables begin with
VARIABLE = "AML_INPUT_"
# nobody changes an input by mistake
MODE = 0o444
BLOCK = 1 << 20


def place(job: Job, folder: str) -> None:
    """Write the inputs of a job into its working copy.

    Raises ArtifactError `input.gone`, `store.corrupt` for bytes that are not those that were kept.
    """
    if not job.inputs:
        return
    with Root(folder) as work:
        for one in job.inputs:
            work.publish(str(one["path"]), _Copy(job, one), mode=MODE, sync=False)


class _Copy:
    """Fills a file with the bytes of an input."""

    def __init__(self, job: Job, one: Mapping[str, Any]) -> None:
        self.job, self.one = job, one

    def __call__(self, destination: int) -> None:
        for block in blocks(self.job, self.one):
            view = memoryview(block)
            while view:
                view = view[os.write(destination, view) :]


def blocks(job: Job, one: Mapping[str, Any]) -> Iterator[bytes]:
    """The bytes of an input.  Raises ArtifactError as `place` does, `store.corrupt` behind the last one."""
    import hashlib

    found = hashlib.sha256()
    fd = open_input(job.artifacts, one)
    with os.fdopen(fd, "rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
            yield block
    if found.hexdigest() != one["sha256"]:
        raise ArtifactError(
            f"{one['path']}: its bytes are not those that were kept: SHA-256 {found.hexdigest()[:12]} instead"
            f" of {str(one['sha256'])[:12]}",
            code="store.corrupt",
            hint="aml check tells what else is damaged.",
        )


def open_input(artifacts: str, one: Mapping[str, Any]) -> int:
    """A descriptor of the kept bytes of an input.  Raises ArtifactError `input.gone`."""
    try:
        with Root(artifacts) as store:
            return store.open_file(str(one["key"]))
    except (MissingFile, ConfinedError) as error:
        raise ArtifactError(
            f"{one['path']}: its bytes are not in the artifact store any more",
            code="input.gone",
            hint="The run that made them was removed meanwhile: run that one again.",
        ) from error


def folders(job: Job) -> list[str]:
    """The folders that inputs need in a working copy, parents first."""
    found: dict[str, None] = {}
    for one in job.inputs:
        parts = str(one["path"]).split("/")[:-1]
        for count in range(1, len(parts) + 1):
            found["/".join(parts[:count])] = None
    return list(found)
