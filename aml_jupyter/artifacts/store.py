"""Where artifacts are kept: what every store can do, and the store that is a folder."""

from __future__ import annotations

import os
import stat

from aml_jupyter.confined import FileFault, FileThere, Root, check_name, is_temporary
from aml_jupyter.errors import ArtifactError, ConfinedError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, Protocol

    class ArtifactStore(Protocol):
        """Bytes under keys: relative POSIX paths of ordinary names.  Constructors do no I/O.

        All methods raise ArtifactError: `artifact.name` for a key that is none, `artifact.unknown`,
        `store.corrupt`, `store.no_space`, `store.denied`, `store.unavailable`.
        """

        kind: str

        def claim(self, run_id: str, uuid: str) -> str:
            """The prefix for the artifacts of a run; the same again for the same run, and for no other."""

        def put(self, key: str, source: int, *, sha256: str | None = None) -> Stored:
            """Keep the bytes of a file open for reading, whole or not at all, in place of what was there.

            Bytes that do not have the hash are refused with `store.corrupt`.
            """

        def stat(self, key: str) -> Stored | None:
            """Size of what is kept, or None; the hash is empty where the store would have to read for it."""

        def open(self, key: str) -> BinaryIO:
            """The bytes, as a file that the caller closes."""

        def list(self, prefix: str) -> Iterator[Stored]:
            """Everything below a prefix, in order of keys."""

        def delete(self, key: str) -> None:
            """Remove a key and everything below it; nothing there is no error."""


CHUNK = 1 << 20
# beside the artifacts of a run: which run that is
_OWNER = ".uuid"


class Stored(Value):
    """What a store keeps under a key: bytes, and their SHA-256 in hex where it is known."""

    key: str
    size: int
    sha256: str = ""


class FolderStore:
    """Artifacts as files of a folder of this machine, made when the first one comes."""

    kind = "folder"

    def __init__(self, path: str) -> None:
        self.path = path

    def claim(self, run_id: str, uuid: str) -> str:
        """`ExperimentRun/<run id>`, or with four more characters where another run has that."""
        for prefix in (f"ExperimentRun/{run_id}", f"ExperimentRun/{run_id}-{uuid[:4]}"):
            if self._claimed(prefix, uuid):
                return prefix
        raise ArtifactError(f"the place for the artifacts of {run_id} is taken", code="store.taken")

    def _claimed(self, prefix: str, uuid: str) -> bool:
        with _Faults(prefix), Root.create(self.path) as root:
            name = f"{prefix}/{_OWNER}"
            try:
                root.publish(name, lambda fd: os.write(fd, uuid.encode()), sync=False)
            except FileThere:
                return root.read_bytes(name, 200).decode("ascii", "replace") == uuid
            return True

    def put(self, key: str, source: int, *, sha256: str | None = None) -> Stored:
        """Copy, hashing on the way; see ArtifactStore."""
        check_key(key)
        found: list[Stored] = []

        def fill(destination: int) -> None:
            copied = copy_hashed(source, destination, key)
            if sha256 is not None and copied.sha256 != sha256:
                raise corrupt(key, sha256, copied.sha256)
            found.append(copied)

        with _Faults(key), Root.create(self.path) as root:
            root.publish(key, fill, overwrite=True)
        return found[0]

    def adopt(self, key: str, folder_fd: int, name: str) -> bool:
        """Take a file over by renaming it; False where that cannot be (it is gone, another file system)."""
        check_key(key)
        parent, _, last = key.rpartition("/")
        with _Faults(key), Root.create(self.path) as root:
            root.make_dirs(parent)
            with root.folder(parent) as into:
                try:
                    os.rename(name, last, src_dir_fd=folder_fd, dst_dir_fd=into.fd)
                except OSError:  # then it is copied, and the copying tells what is wrong
                    return False
        return True

    def give_back(self, key: str, folder_fd: int, name: str) -> None:
        """Undo `adopt`; where another file has got the name meanwhile, that is the one that counts."""
        check_key(key)
        parent, _, last = key.rpartition("/")
        with _Faults(key), Root(self.path) as root, root.folder(parent) as into:
            try:
                os.link(last, name, src_dir_fd=into.fd, dst_dir_fd=folder_fd, follow_symlinks=False)
            except FileExistsError:
                pass
            os.unlink(last, dir_fd=into.fd)

    def tidy(self, prefix: str) -> None:
        """Remove what killed writers left below a prefix that nobody else writes to now."""
        check_key(prefix)
        with _Faults(prefix), Root.create(self.path) as root:
            left = [entry.path for entry in root.walk(prefix) if is_temporary(entry.name)]
            for path in left:
                root.remove_tree(path)

    def device(self) -> int:
        """The number of the file system that the folder is on."""
        with _Faults(""), Root.create(self.path) as root:
            return os.fstat(root.fd).st_dev

    def stat(self, key: str) -> Stored | None:
        """Size of a file; see ArtifactStore."""
        check_key(key)
        try:
            with _Faults(key), Root(self.path) as root:
                found = root.lstat(key)
        except ArtifactError as error:
            if error.code == "artifact.unknown":
                return None
            raise
        return Stored(key=key, size=found.st_size) if stat.S_ISREG(found.st_mode) else None

    def open(self, key: str) -> BinaryIO:
        """The file itself, open for reading; see ArtifactStore."""
        check_key(key)
        with _Faults(key), Root(self.path) as root:
            return os.fdopen(root.open_file(key), "rb")

    def list(self, prefix: str) -> Iterator[Stored]:
        """Regular files below a folder; see ArtifactStore."""
        check_key(prefix)
        with _Faults(prefix):
            try:
                with Root(self.path) as root:
                    for entry in root.walk(prefix):
                        if entry.kind == "file" and entry.name != _OWNER and not is_temporary(entry.name):
                            yield Stored(key=entry.path, size=entry.size)
            except FileFault as error:
                if error.code not in ("path.missing", "path.not_folder"):
                    raise

    def delete(self, key: str) -> None:
        """Remove files and folders; see ArtifactStore."""
        check_key(key)
        try:
            with _Faults(key), Root(self.path) as root:
                root.remove_tree(key)
        except ArtifactError as error:
            if error.code != "artifact.unknown":
                raise


def check_key(key: str) -> None:
    """Refuse what is no key of an artifact: ArtifactError `artifact.name`."""
    try:
        check_name(key, portable=True)
    except ConfinedError as error:
        raise ArtifactError(error.message, code="artifact.name", hint=error.hint) from error


def copy_hashed(source: int, destination: int | None, key: str) -> Stored:
    """Read an open file once from its beginning, write it elsewhere (or nowhere), hash it."""
    import hashlib

    hashing = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    total = 0
    while count := os.preadv(source, [buffer], total):
        hashing.update(view[:count])
        done = 0
        while destination is not None and done < count:
            done += os.write(destination, view[done:count])
        total += count
    return Stored(key=key, size=total, sha256=hashing.hexdigest())


def corrupt(key: str, expected: str, found: str) -> ArtifactError:
    """The error for bytes that are not those that were kept."""
    return ArtifactError(
        f"{key} is damaged: its SHA-256 is {found[:12]}..., {expected[:12]}... was expected",
        code="store.corrupt",
        hint="`aml check` lists every damage. The run can be repeated from its snapshot.",
    )


class _Faults:
    """Turns what the file system refuses into the errors of a store."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ConfinedError):
            raise ArtifactError(
                error.message, code=_CODES.get(error.code, "store.unavailable"), hint=error.hint
            )
        if isinstance(error, OSError) and not isinstance(error, ArtifactError):
            self.__exit__(None, FileFault.of(error, self.key), None)


_CODES = {
    "path.missing": "artifact.unknown",
    "path.not_folder": "artifact.unknown",
    "path.link": "artifact.link_escape",
    "path.not_regular": "artifact.rejected_type",
    "path.denied": "store.denied",
    "path.read_only": "store.denied",
    "store.no_space": "store.no_space",
    "name.invalid": "artifact.name",
}
