"""What is sent to the machine of an engine: contents by their SHA-256, each announced before it is sent."""

from __future__ import annotations

import os
import time

from aml_jupyter import inputs
from aml_jupyter.confined import Root
from aml_jupyter.errors import TargetUnavailable
from aml_jupyter.executors.docker.helper import Answers, Helper, ordered
from aml_jupyter.snapshot import Store
from aml_jupyter.snapshot.restoring import Source
from aml_jupyter.working_copy import script_missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from aml_jupyter.executors import Tell
    from aml_jupyter.executors.docker.there import There
    from aml_jupyter.job import Job

BLOCK = 1 << 20
# times that it is tried again without a byte that came through; seconds before the first of them
ATTEMPTS, PAUSE = 5, 1.0
# seconds between two words on how far it is
PROGRESS = 5.0
# files of `job/` with what nobody else may read: no copy of them outlives the run
PRIVATE = ("spark.properties",)


class Parcel:
    """Snapshot, job folder and runtime of a job, as rows that name contents and the contents themselves."""

    def __init__(self, job: Job, run: str, version: str) -> None:
        self._store = Store(job.snapshots)
        self._numbers: dict[str, int] = {}
        self._digests: list[str] = []
        self._sizes: list[int] = []
        self._files: dict[int, tuple[str, str]] = {}
        entries = self._store.manifest(job.snapshot_id)
        if not job.cell and not any(entry.path == job.command[1] for entry in entries):
            raise script_missing(job)
        work: list[list[Any]] = []
        for entry in entries:
            if entry.kind == "file":
                work.append(["file", entry.path, entry.mode, self._content(entry.sha256, entry.size)])
            else:
                work.append([entry.kind, entry.path, entry.mode, entry.target])
        work += self._inputs(job, {entry.path for entry in entries})
        own = self._tree(job.job, leave_out="runtime")
        self._document = {
            "run": run,
            "version": version,
            "work": work,
            "job": own,
            "private": [number for _, path, _, number in own if path in PRIVATE],
            "runtime": self._tree(os.path.realpath(job.job + "/runtime")),
        }

    def _content(self, digest: str, size: int) -> int:
        number = self._numbers.setdefault(digest, len(self._digests))
        if number == len(self._digests):
            self._digests.append(digest)
            self._sizes.append(size)
        return number

    def _inputs(self, job: Job, there: set[str]) -> Iterator[list[Any]]:
        for folder in inputs.folders(job):
            if folder not in there:
                yield ["dir", folder, 0o700, ""]
        for one in job.inputs:
            os.close(inputs.open_input(job.artifacts, one))
            number = self._content(str(one["sha256"]), int(one["size"]))
            self._files[number] = (job.artifacts, str(one["key"]))
            yield ["given", str(one["path"]), inputs.MODE, number]

    def _tree(self, folder: str, leave_out: str = "") -> list[list[Any]]:
        import hashlib

        rows: list[list[Any]] = []
        with Root(folder) as root:
            for entry in root.walk():
                if entry.kind == "dir":
                    rows.append(["dir", entry.path, 0o700, ""])
                elif entry.kind == "file" and entry.path.partition("/")[0] != leave_out:
                    found, size = hashlib.sha256(), 0
                    for block in _blocks_of(root.open_file(entry.path)):
                        found.update(block)
                        size += len(block)
                    number = self._content(found.hexdigest(), size)
                    self._files[number] = (folder, entry.path)
                    rows.append(["file", entry.path, 0o600, number])
        return rows

    def announcement(self) -> bytes:
        """The order and the document, compressed: names and hashes, no content."""
        return ordered({"do": "receive"}, {**self._document, "contents": self._digests})

    def wanted(self, missing: object) -> list[int]:
        """The numbers of contents that were asked for.  Raises TargetUnavailable for what are none."""
        most = len(self._sizes)
        if isinstance(missing, list) and all(isinstance(n, int) and 0 <= n < most for n in missing):
            return sorted(set(missing))
        raise TargetUnavailable(
            "the machine asks for files that the run does not have", code="store.unavailable"
        )

    def size(self, numbers: Sequence[int]) -> int:
        """Bytes of contents."""
        return sum(self._sizes[number] for number in numbers)

    def contents(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """Contents as they are sent: the size of each on a line, then its bytes."""
        waiting: list[bytes] = []
        gathered = 0
        with Source(self._store.objects()) as source:
            for number in numbers:
                waiting.append(b"%d\n" % self._sizes[number])
                for block in self._blocks(number, source):
                    waiting.append(block)
                    gathered += len(block)
                    if gathered >= BLOCK // 4:
                        yield b"".join(waiting)
                        waiting, gathered = [], 0
        yield b"".join(waiting)

    def _blocks(self, number: int, source: Source) -> Iterator[bytes]:
        if number not in self._files:
            yield source.read(bytes.fromhex(self._digests[number]))
            return
        folder, path = self._files[number]
        with Root(folder) as root:
            yield from _blocks_of(root.open_file(path))


def _blocks_of(fd: int) -> Iterator[bytes]:
    with os.fdopen(fd, "rb") as file:
        while block := file.read(BLOCK):
            yield block


class Sending:
    """The delivery of one parcel, as often as it takes."""

    def __init__(self, place: There, job: Job, parcel: Parcel, tell: Tell) -> None:
        self.place, self.job, self.parcel, self.tell = place, job, parcel, tell
        self.address = str(place.target["address"])
        self.total = self.stored = 0
        self.told_at = 0.0

    def surely(self) -> None:
        """Deliver; a line that breaks is made again.  Raises TargetUnavailable when nothing gets through."""
        attempt = 0
        while True:
            self.stored = 0
            try:
                self._deliver()
                return
            except TargetUnavailable as error:
                attempt = 0 if self.stored else attempt + 1
                if not error.passing or attempt == ATTEMPTS:
                    raise
                self.tell(f"{error.message}; sending again")
                time.sleep(PAUSE * 2**attempt)

    def _deliver(self) -> None:
        with Helper(self.place, self.job, "receive") as helper:
            helper.conversation.send(self.parcel.announcement())
            answers = Answers(helper.conversation, self.place, self._progress)
            wanted = self.parcel.wanted(answers.next().get("missing"))
            self.total = self.parcel.size(wanted)
            if wanted:
                self.tell(f"sending {len(wanted)} files, {self.total / 1e6:.1f} MB, to {self.address}")
                self.told_at = time.monotonic()
                for block in self.parcel.contents(wanted):
                    helper.conversation.send(block)
                    answers.take_in()
                    self.tell("")
            if not answers.next().get("done"):
                raise TargetUnavailable(f"{self.address} did not lay out the run", code="store.unavailable")

    def _progress(self, stored: int) -> None:
        self.stored = stored
        if time.monotonic() >= self.told_at + PROGRESS and stored < self.total:
            self.tell(f"sent {stored / 1e6:.1f} of {self.total / 1e6:.1f} MB")
            self.told_at = time.monotonic()
