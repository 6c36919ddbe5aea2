"""What is sent to the machine of an engine: contents by their SHA-256, each announced before it is sent."""

from __future__ import annotations

import os
import zlib

from aml_jupyter import plainjson
from aml_jupyter.confined import Root
from aml_jupyter.errors import TargetUnavailable
from aml_jupyter.snapshot import Store
from aml_jupyter.snapshot.restoring import Source
from aml_jupyter.working_copy import script_missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from aml_jupyter.job import Job

LARGEST = 1 << 30


class Parcel:
    """Snapshot, job folder and runtime of a job, as rows that name contents and the contents themselves."""

    def __init__(self, job: Job, run: str, version: str) -> None:
        self._store = Store(job.snapshots)
        self._digests: dict[str, int] = {}
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
        self._document = {
            "run": run,
            "version": version,
            "work": work,
            "job": self._tree(job.job, leave_out="runtime"),
            "runtime": self._tree(os.path.realpath(job.job + "/runtime")),
        }

    def _content(self, digest: str, size: int) -> int:
        number = self._digests.setdefault(digest, len(self._digests))
        if number == len(self._sizes):
            self._sizes.append(size)
        return number

    def _tree(self, folder: str, leave_out: str = "") -> list[list[Any]]:
        import hashlib

        rows: list[list[Any]] = []
        with Root(folder) as root:
            for entry in root.walk():
                if entry.kind == "dir":
                    rows.append(["dir", entry.path, 0o700, ""])
                elif entry.kind == "file" and entry.path.partition("/")[0] != leave_out:
                    data = root.read_bytes(entry.path, LARGEST)
                    digest = hashlib.sha256(data).hexdigest()
                    number = self._content(digest, len(data))
                    self._files[number] = (folder, entry.path)
                    rows.append(["file", entry.path, 0o600, number])
        return rows

    def announcement(self) -> bytes:
        """The order and the document, compressed: names and hashes, no content."""
        document = {**self._document, "contents": list(self._digests)}
        packed = zlib.compress(plainjson.dumps(document).encode("ascii"))
        order = {"do": "receive", "size": len(packed)}
        return plainjson.dumps(order).encode() + b"\n" + packed

    def wanted(self, missing: object) -> list[int]:
        """The numbers of contents that were asked for.  Raises TargetUnavailable for what are none."""
        most = len(self._sizes)
        if isinstance(missing, list) and all(isinstance(n, int) and 0 <= n < most for n in missing):
            return sorted(set(missing))
        raise TargetUnavailable(
            "the machine asks for files that the run does not have", code="store.unavailable"
        )

    def size(self, number: int) -> int:
        """Bytes of a content."""
        return self._sizes[number]

    def blocks(self, number: int) -> Iterator[bytes]:
        """One content as it is sent: its size on a line, then its bytes."""
        if number in self._files:
            folder, path = self._files[number]
            with Root(folder) as root:
                data = root.read_bytes(path, LARGEST)
        else:
            digest = next(one for one, at in self._digests.items() if at == number)
            with Source(self._store.objects()) as source:
                data = source.read(bytes.fromhex(digest))
        yield b"%d\n" % len(data)
        yield data
