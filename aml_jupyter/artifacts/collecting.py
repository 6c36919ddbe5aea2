"""Moves the outputs of an ended run into the store.

Files that have no other name are renamed into the store, others copied; each is read once for its hash. The
manifest is written last. Killed at any point and run again, it finds what lies in the store already.
"""

from __future__ import annotations

import os
import posixpath
import stat

from aml_jupyter.artifacts.manifest import Artifact, Manifest, read_manifest, store_of, write_manifest
from aml_jupyter.artifacts.names import key_of
from aml_jupyter.artifacts.store import FolderStore, Stored, copy_hashed
from aml_jupyter.confined import FileFault, MissingFile, Root, read_bounded, shown
from aml_jupyter.errors import ArtifactError, ConfinedError
from aml_jupyter.frozen import Value
from aml_jupyter.locks import exclusive
from aml_jupyter.sealed import unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from aml_jupyter.artifacts.manifest import Folder
    from aml_jupyter.artifacts.store import ArtifactStore
    from aml_jupyter.confined import Entry

OUTPUTS = "work/outputs"
# how often a file is read that changes while it is read
ATTEMPTS = 3
# so many files are brought to the disk one by one, more by one call for the file system
FEW = 16
# names that are looked at beyond the limit, only to say how many there are
_COUNTED = 1_000_000
_KINDS = {"fifo": "a FIFO", "socket": "a socket", "device": "a device", "unknown": "of an unknown kind"}


class Limits(Value):
    """How much of the outputs of one run is kept; bytes are logical sizes."""

    files: int = 100_000
    bytes: int = 100 << 30
    listed: int = 1000


def collect(
    directory: Folder,
    store: ArtifactStore | None = None,
    limits: Limits | None = None,
    *,
    again: bool = False,
) -> Manifest:
    """Keep everything below `work/outputs` in the store and write the manifest; the manifest.

    A manifest that is there already is returned as it is, unless `again`. What is not kept is in it with its
    code: `artifact.link_escape`, `artifact.rejected_type`, `artifact.unreadable`, `artifact.vanished`,
    `artifact.changed`, `artifact.too_big`, `artifact.too_many`, `artifact.name`.
    Raises ArtifactError or OSError when the store itself fails: doing it again goes on.
    """
    if not again and (known := read_manifest(directory)) is not None:
        return known
    if store is None:
        store = store_of(directory)
    if _nothing(directory):
        return Manifest(store=store.kind)
    with collecting_lock(directory):
        if not again and (known := read_manifest(directory)) is not None:
            return known
        manifest = _Collection(directory, store, limits or Limits()).run()
        if manifest.files:
            write_manifest(directory, manifest)
        return manifest


def collecting_lock(directory: Folder) -> exclusive:
    """Held by whoever changes the artifacts of a run."""
    return exclusive(directory.path + "/artifacts.lock")


def _nothing(directory: Folder) -> bool:
    """The usual case of a small run: an empty folder, and nothing in the store from an earlier attempt."""
    path = f"{directory.path}/{OUTPUTS}"
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode) or os.listdir(path):
            return False
    except OSError:
        return False
    return not os.path.exists(f"{directory.home}/artifacts/ExperimentRun/{directory.run_id}")


class _Collection:
    """One pass over the outputs of one run."""

    def __init__(self, directory: Folder, store: ArtifactStore, limits: Limits) -> None:
        self.directory = directory
        self.store = store
        self.limits = limits
        self.files: list[Artifact] = []
        self.dropped = 0
        self.bytes = 0
        self.rejections = 0
        self.device = store.device() if isinstance(store, FolderStore) else None
        self.prefix = store.claim(directory.run_id, run_uuid(directory))
        if isinstance(store, FolderStore):
            store.tidy(self.prefix)

    def run(self) -> Manifest:
        """Collect; nothing below `outputs` is followed, opened or moved but regular files."""
        try:
            run = Root(self.directory.path)
            with run, run.folder(OUTPUTS) as outputs:
                self._take_all(outputs)
        except MissingFile:
            self._without_outputs()
        except ConfinedError as error:
            code = "artifact.link_escape" if error.code == "path.link" else "artifact.rejected_type"
            self._reject("outputs", 0, _REASONS.get(error.code, code), _words(error, "outputs"))
        self._earlier()
        self._make_durable()
        state = "partial" if self.rejections else "stored" if self.files else "none"
        files = tuple(sorted(self.files, key=lambda item: item.path))
        return Manifest(
            state=state, store=self.store.kind, prefix=self.prefix, files=files, dropped=self.dropped
        )

    def _without_outputs(self) -> None:
        if os.path.exists(self.directory.path + "/job/started.json"):
            self._reject("outputs", 0, "artifact.vanished", "the folder was removed by the run")

    def _take_all(self, outputs: Root) -> None:
        links: list[Entry] = []
        files: list[Entry] = []
        for entry in self._entries(outputs):
            if entry.error is not None:
                self._reject_entry(entry, "artifact.unreadable", f"it could not be read: {entry.error}")
            elif entry.kind == "file":
                files.append(entry)
            elif entry.kind == "link":
                links.append(entry)
            elif entry.kind != "dir":
                self._reject_entry(entry, "artifact.rejected_type", f"it is {_KINDS[entry.kind]}")
        # before the files: those they point to are still where they were
        for entry in links:
            self._take_link(outputs, entry)
        self._take_files(outputs, files)

    def _entries(self, outputs: Root) -> Iterator[Entry]:
        """What is within the limit of names; the rest is only counted."""
        count = 0
        try:
            for entry in outputs.walk(budget_files=self.limits.files + _COUNTED):
                count += entry.kind != "dir" or entry.error is not None
                if count <= self.limits.files:
                    yield entry
        except ConfinedError as error:
            if error.code != "budget.files":
                raise
        self.dropped += max(0, count - self.limits.files)
        if self.dropped:
            words = f"{self.dropped} more files than the {self.limits.files} that are kept"
            self._reject("outputs", 0, "artifact.too_many", words)

    def _take_files(self, outputs: Root, entries: list[Entry]) -> None:
        folder: Root | None = None
        at = None
        for entry in entries:
            parent = entry.path.rpartition("/")[0]
            try:
                if folder is None or parent != at:
                    if folder is not None:
                        folder.close()
                    folder, at = outputs.folder(parent), parent
                self._take_file(folder, entry)
            except FileFault as error:
                code = _REASONS.get(error.code)
                if code is None:
                    raise
                self._reject_entry(entry, code, _words(error, entry.path))
            except ConfinedError as error:
                self._reject_entry(entry, "artifact.rejected_type", _words(error, entry.path))
        if folder is not None:
            folder.close()

    def _take_file(self, folder: Root, entry: Entry) -> None:
        if self.bytes + entry.size > self.limits.bytes:
            words = f"with it the outputs have over {self.limits.bytes} bytes"
            self._reject_entry(entry, "artifact.too_big", words)
            return
        path = "outputs/" + entry.path
        key, portable = self._key(path)
        for _ in range(ATTEMPTS):
            fd = folder.open_file(entry.name)
            try:
                stored = self._keep(folder, entry.name, fd, key, may_move=portable)
            finally:
                os.close(fd)
            if stored is not None:
                self._stored(path, stored)
                return
        self._reject_entry(entry, "artifact.changed", "it was still being written")

    def _keep(self, folder: Root, name: str, fd: int, key: str, *, may_move: bool) -> Stored | None:
        """Rename or copy one open file; None when it changed meanwhile."""
        before = os.fstat(fd)
        ours = before.st_nlink == 1 and before.st_dev == self.device
        if ours and may_move and isinstance(self.store, FolderStore):
            stored = copy_hashed(fd, None, key)
            if _same(before, os.fstat(fd)):
                if before.st_mode & 0o7077:
                    os.fchmod(fd, before.st_mode & 0o700)
                self._sync(fd)
                if self.store.adopt(key, folder.fd, name):
                    if self._is_there(key, before):
                        return stored
                    # still written, or another file by now: it goes back, nothing of it is lost
                    self.store.give_back(key, folder.fd, name)
                    return None
            else:
                return None
        stored = self.store.put(key, fd)
        if _same(before, os.fstat(fd)):
            return stored
        self.store.delete(key)
        return None

    def _is_there(self, key: str, before: os.stat_result) -> bool:
        """Whether what was renamed is the file that was read, not one put in its place at that moment."""
        try:
            with self.store.open(key) as file:
                found = os.fstat(file.fileno())
        except ArtifactError:  # a link or a FIFO was put in its place: then it is that which was renamed
            return False
        return (found.st_ino, found.st_size, found.st_mtime_ns) == (
            before.st_ino,
            before.st_size,
            before.st_mtime_ns,
        )

    def _take_link(self, outputs: Root, entry: Entry) -> None:
        """Keep what a link means when that is a file among the outputs; nothing else is ever opened."""
        path = "outputs/" + entry.path
        key, _ = self._key(path)
        inside = self._inside(entry)
        try:
            if inside is None:
                raise ConfinedError("", code="path.link")
            fd = outputs.open_file(inside)
        except ConfinedError:
            if self.store.stat(key) is None:  # else kept by an earlier attempt, which then moved the file
                words = f"it is a link to {shown(entry.target or '')}, which is not followed"
                self._reject_entry(entry, "artifact.link_escape", words)
            return
        try:
            if self.bytes + os.fstat(fd).st_size > self.limits.bytes:
                self._reject_entry(entry, "artifact.too_big", "with it the outputs are over the limit")
                return
            self._stored(path, self.store.put(key, fd))
        finally:
            os.close(fd)

    def _inside(self, entry: Entry) -> str | None:
        """The path below outputs that a link's text means, or None; decided by the text alone."""
        target = entry.target or ""
        below = f"{self.directory.path}/{OUTPUTS}/"
        if target.startswith(below):
            target = target[len(below) :]
        elif target.startswith("/"):
            return None
        else:
            target = posixpath.join(posixpath.dirname(entry.path), target)
        target = posixpath.normpath(target)
        return None if target.startswith("../") or target in (".", "..") else target

    def _key(self, path: str) -> tuple[str, bool]:
        """The key of a path, and whether it tells the path; an odd name gets one made of its hash."""
        key = key_of(self.prefix, path)
        return key, key == f"{self.prefix}/{path}"

    def _earlier(self) -> None:
        """Take in what an earlier attempt renamed into the store before it was killed."""
        known = {item.key for item in self.files}
        for found in self.store.list(self.prefix):
            path = found.key[len(self.prefix) + 1 :]
            if found.key in known or not path.startswith(("outputs/", "rescued/")):
                continue
            with self.store.open(found.key) as file:
                stored = copy_hashed(file.fileno(), None, found.key)
            self._stored(path, stored)

    def _stored(self, path: str, stored: Stored) -> None:
        self.bytes += stored.size
        self.files.append(Artifact(path=path, size=stored.size, sha256=stored.sha256, key=stored.key))

    def _reject_entry(self, entry: Entry, code: str, words: str) -> None:
        self._reject("outputs/" + entry.path, entry.size, code, words)

    def _reject(self, path: str, size: int, code: str, words: str) -> None:
        self.rejections += 1
        if self.rejections > self.limits.listed:
            self.dropped += 1
            return
        self.files.append(
            Artifact(path=path, size=size, state="rejected", code=code, reason=f"{words} [{code}]")
        )

    def _sync(self, fd: int) -> None:
        if len(self.files) < FEW:
            os.fsync(fd)

    def _make_durable(self) -> None:
        """Have the files on the disk before the manifest says so."""
        if isinstance(self.store, FolderStore) and self.files:
            _sync_tree(self.store.path, self.prefix, whole=len(self.files) >= FEW)


def _sync_tree(path: str, prefix: str, *, whole: bool) -> None:
    with Root(path) as root:
        if whole and _sync_file_system(root.fd):
            return
        for entry in root.walk(prefix):
            if entry.kind == "dir":
                with root.folder(entry.path) as folder:
                    os.fsync(folder.fd)
            elif whole and entry.kind == "file":
                fd = root.open_file(entry.path)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)


def _sync_file_system(fd: int) -> bool:
    """Bring a whole file system to the disk; False where the system has no call for it."""
    import ctypes

    try:
        return int(ctypes.CDLL(None, use_errno=True).syncfs(fd)) == 0
    except AttributeError:
        return False


def _same(a: os.stat_result, b: os.stat_result) -> bool:
    return (a.st_size, a.st_mtime_ns, a.st_ctime_ns) == (b.st_size, b.st_mtime_ns, b.st_ctime_ns)


def run_uuid(directory: Folder) -> str:
    """What tells a run from another of the same id; empty before there is a record."""
    path = directory.path + "/run.json"
    try:
        return str(unseal(read_bounded(path, 64 << 20), path).get("uuid", ""))
    except MissingFile:  # a folder that is no run yet has no other name either
        return ""


def _words(error: ConfinedError, path: str) -> str:
    prefix = shown(path.rpartition("/")[2]) + ": "
    return error.message.removeprefix(prefix) or error.code


_REASONS = {
    "path.denied": "artifact.unreadable",
    "path.unreadable": "artifact.unreadable",
    "path.missing": "artifact.vanished",
    "path.link": "artifact.link_escape",
    "path.not_folder": "artifact.vanished",
    "path.not_regular": "artifact.rejected_type",
    "name.invalid": "artifact.name",
}
