"""Immutable copies of projects: taken fast, kept once, never half.

    Rules, Snapshot, Store       what to take, what was taken, where it is kept
    explain, restore, git_state  why each file is in or out; put one back; what git says of the project
    Entry, Damage, Difference    what a store says of its snapshots

A snapshot's id is the SHA-256 of its manifest, so equal trees share one. A project that has not changed costs
one lstat a file; that way loads nothing beyond this module and `scan`.
"""

from __future__ import annotations

import os

from aml_jupyter.errors import SnapshotError
from aml_jupyter.frozen import Value
from aml_jupyter.snapshot import memory
from aml_jupyter.snapshot.scan import Scan, refuse_places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from aml_jupyter.snapshot.explanation import Decision, Explanation, explain
    from aml_jupyter.snapshot.git import GitState, git_state
    from aml_jupyter.snapshot.manifest import Difference, Entry
    from aml_jupyter.snapshot.objects import Objects
    from aml_jupyter.snapshot.restoring import restore
    from aml_jupyter.snapshot.upkeep import Damage

__all__ = [
    "Damage",
    "Decision",
    "Difference",
    "Entry",
    "Explanation",
    "GitState",
    "Rules",
    "Snapshot",
    "SnapshotError",
    "Store",
    "explain",
    "git_state",
    "restore",
]

_HOMES = {
    "Damage": "upkeep",
    "Decision": "explanation",
    "Difference": "manifest",
    "Entry": "manifest",
    "Explanation": "explanation",
    "GitState": "git",
    "explain": "explanation",
    "git_state": "git",
    "restore": "restoring",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


class Rules(Value):
    """What goes into a snapshot.

    `include` and `exclude` are patterns as in ignore files and come after them; `leave_out` are exact paths
    relative to the project. `max_bytes` counts everything sent but the top-level `docs`. `links` says what
    happens to links that lead out of the project: "error", or "skip" with a warning. `portable` refuses names
    that a case-insensitive or Windows file system cannot hold. `allow_secrets` turns findings into warnings.
    `dependency_files` are exact paths of files that are sent without the credentials in their addresses.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_bytes: int = 25 * 1024 * 1024
    max_files: int = 100_000
    leave_out: tuple[str, ...] = ()
    allow_secrets: bool = False
    links: str = "error"
    portable: bool = False
    dependency_files: tuple[str, ...] = ()


class Snapshot(Value):
    """A snapshot that is in the store: id (SHA-256 of the manifest, hex), files, bytes as stored."""

    id: str
    files: int
    bytes: int
    warnings: tuple[str, ...] = ()


class Store:
    """The snapshots below a folder: manifests, packs of small files, objects of large ones, what was seen.

    Any number of processes may use one at a time. Nothing is touched before the first call.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)

    def take(self, root: str, rules: Rules | None = None) -> Snapshot:
        """Take a project's files as they are now.

        Raises SnapshotError: `snapshot.too_large`, `too_many_files`, `changed`, `unreadable`, `special_file`,
        `link_escape`, `name_unportable`, `case_collision`, `secret`, `refused`; `store.no_space`,
        `store.unavailable`.
        """
        rules = rules or Rules()
        fd = _open_project(root)
        try:
            return self._take(fd, os.path.realpath(root), rules)
        finally:
            os.close(fd)

    def _take(self, fd: int, root: str, rules: Rules) -> Snapshot:
        refuse_places(fd, root, self.path)
        key = memory.key(fd, root, tuple(rules.as_dict().values()))
        seen = memory.load(self.path, key)
        scan = Scan(fd, seen.folders if seen is not None else {}, rules)
        scan.run()
        if seen is not None and scan.unchanged and memory.confirm(self.path, seen.snapshot_id):
            return Snapshot(id=seen.snapshot_id, files=seen.files, bytes=seen.size, warnings=seen.warnings)
        from aml_jupyter.snapshot.build import build

        snapshot_id, files, size, warnings = build(
            scan, self.objects(), key, seen.snapshot_id if seen is not None else ""
        )
        return Snapshot(id=snapshot_id, files=files, bytes=size, warnings=warnings)

    def materialize(self, snapshot_id: str, into: str) -> None:
        """Write a snapshot's files into a new or empty folder: real copies, modes kept."""
        from aml_jupyter.snapshot.restoring import materialize

        materialize(self, snapshot_id, into)

    def manifest(self, snapshot_id: str) -> list[Entry]:
        """All folders, files and links of a snapshot, parents first."""
        from aml_jupyter.snapshot.manifest import entries, read_manifest

        return entries(read_manifest(self.path, snapshot_id))

    def read(self, snapshot_id: str, path: str) -> bytes:
        """The bytes of one file."""
        from aml_jupyter.snapshot.restoring import read

        return read(self, snapshot_id, path)

    def difference(self, a_id: str | None, b_id: str) -> Difference:
        """Paths that `b` has more, less or otherwise than `a` (None: an empty one)."""
        from aml_jupyter.snapshot.manifest import difference

        return difference(self.manifest(a_id) if a_id else [], self.manifest(b_id))

    def gc(self, referenced: Collection[str], *, dry_run: bool = False, grace: float = 600.0) -> int:
        """Remove what none of the `referenced` snapshots needs; the bytes freed.

        Snapshots taken within the last `grace` seconds stay, since their run may not be recorded yet.
        """
        from aml_jupyter.snapshot.upkeep import gc

        return gc(self.objects(), frozenset(referenced), dry_run=dry_run, grace=grace)

    def check(self, *, repair: bool = False) -> list[Damage]:
        """Read everything; every manifest and content that is damaged or missing.

        `repair` removes what is damaged and the snapshots that it belonged to, so that the next take of the
        project stores it again.
        """
        from aml_jupyter.snapshot.upkeep import check

        return check(self.objects(), repair=repair)

    def objects(self) -> Objects:
        """The contents, by SHA-256."""
        from aml_jupyter.snapshot.objects import Objects

        return Objects(self.path)


def _open_project(root: str) -> int:
    try:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SnapshotError(
            f"the project folder {root} cannot be opened: {error.strerror}", code="snapshot.unreadable"
        ) from error
