"""Where artifacts are kept: what every store can do, and the store that is a folder."""

from __future__ import annotations

import os
import stat

from aml_jupyter.confined import FileFault, FileThere, MissingFile, Root, check_name, is_temporary
from aml_jupyter.errors import ArtifactError, ConfinedError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import hashlib
    from collections.abc import Callable, Iterator
    from typing import BinaryIO, Protocol

    class ArtifactStore(Protocol):
        """Bytes under keys: relative POSIX paths of ordinary names.  Constructors do no I/O.

        All methods raise ArtifactError: `artifact.name` for a key that is none, `artifact.unknown`,
        `store.corrupt`, `store.no_space`, `store.denied`, `store.unavailable`; stores that are reached over
        a network also `store.auth`, `store.clock`, `store.missing`. A store may be used by several threads.
        """

        kind: str
        # where it is, for people and records: never with credentials
        url: str

        def claim(self, run_id: str, uuid: str) -> str:
            """The prefix for the artifacts of a run; the same again for the same run, and for no other."""

        def put(
            self, key: str, source: int, *, sha256: str | None = None, progress: Progress | None = None
        ) -> Stored:
            """Keep the bytes of a file open for reading, whole or not at all, in place of what was there.

            Bytes that do not have the hash are refused with `store.corrupt`. Bytes that are there already
            are not sent again. `progress` is told how many more bytes are there, from any thread.
            """

        def stat(self, key: str) -> Stored | None:
            """Size of what is kept, or None; the hash is empty where the store would have to read for it."""

        def open(self, key: str) -> BinaryIO:
            """The bytes, as a file that the caller closes; what comes is not verified."""

        def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
            """Some of the bytes, or all from `start` on; fewer, or none, where the end comes before."""

        def fetch(
            self,
            key: str,
            destination: int,
            *,
            sha256: str | None = None,
            size: int | None = None,
            have: int = 0,
            progress: Progress | None = None,
        ) -> Stored:
            """Write all bytes into a file open for reading and writing, which begins empty; verified.

            The first `have` bytes are there from an earlier attempt and are not fetched again. Without
            `sha256` the hash that the store knows is what is compared. Of what has more than `size` bytes
            no more than those are written. Raises `store.corrupt`; what the file holds then is nothing to
            go on from.
            """

        def list(self, prefix: str) -> Iterator[Stored]:
            """Everything below a prefix, in order of keys; with hashes where that costs nothing."""

        def children(self, prefix: str) -> Iterator[str]:
            """The names right below a prefix, of files and of folders, in no order."""

        def delete(self, key: str) -> None:
            """Remove a key and everything below it; nothing there is no error."""

    Progress = Callable[[int], object]


CHUNK = 1 << 20
# beside the artifacts of a run: which run that is
OWNER = ".uuid"
RUNS = "ExperimentRun"


class Stored(Value):
    """What a store keeps under a key: bytes, and their SHA-256 in hex where it is known."""

    key: str
    size: int
    sha256: str = ""


class FolderStore:
    """Artifacts as files of a folder: of this machine, where it is made with the first one, or of a team."""

    kind = "folder"

    def __init__(self, path: str, *, shared: bool = False) -> None:
        self.path = path
        self.url = "folder://" + path
        # of a team: what is made in it is for those who may use the folder itself
        self.shared = shared

    def claim(self, run_id: str, uuid: str) -> str:
        """`ExperimentRun/<run id>`, or with four more characters where another run has that."""
        return claim_first(run_id, uuid, self._claimed)

    def _claimed(self, prefix: str, uuid: str) -> bool:
        with Faults(prefix), self._root() as root:
            name = f"{prefix}/{OWNER}"
            try:
                self._publish(root, name, lambda fd: os.write(fd, uuid.encode()), sync=False)
            except FileThere:
                return root.read_bytes(name, 200).decode("ascii", "replace") == uuid
            return True

    def put(
        self, key: str, source: int, *, sha256: str | None = None, progress: Progress | None = None
    ) -> Stored:
        """Copy, hashing on the way; see ArtifactStore."""
        check_key(key)
        found: list[Stored] = []

        def fill(destination: int) -> None:
            copied = copy_hashed(source, destination, key, progress=progress)
            if sha256 is not None and copied.sha256 != sha256:
                raise corrupt(key, sha256, copied.sha256)
            found.append(copied)

        with Faults(key), self._root() as root:
            self._publish(root, key, fill, overwrite=True)
        return found[0]

    def _root(self) -> Root:
        """The folder to write to, made where it is ours."""
        return self._there() if self.shared else Root.create(self.path)

    def _there(self) -> Root:
        """The folder; one of a team that is not there is not mounted."""
        try:
            return Root(self.path)
        except MissingFile:
            if not self.shared:
                raise
            raise ArtifactError(
                f"{self.path}, where artifacts are kept, is not there",
                code="store.missing",
                hint="Mount or make the folder; what is pending is stored later by `aml push`.",
            ) from None

    def _publish(
        self,
        root: Root,
        name: str,
        fill: Callable[[int], object],
        *,
        overwrite: bool = False,
        sync: bool = True,
    ) -> None:
        if not self.shared:
            root.publish(name, fill, overwrite=overwrite, sync=sync)
            return
        mode = os.fstat(root.fd).st_mode & 0o777
        if "/" in name:
            root.make_dirs(name.rpartition("/")[0], mode)
        root.publish(name, fill, overwrite=overwrite, sync=sync, mode=mode & 0o666)

    def adopt(self, key: str, folder_fd: int, name: str) -> bool:
        """Take a file over by renaming it; False where that cannot be (it is gone, another file system)."""
        check_key(key)
        parent, _, last = key.rpartition("/")
        with Faults(key), Root.create(self.path) as root:
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
        with Faults(key), Root(self.path) as root, root.folder(parent) as into:
            try:
                os.link(last, name, src_dir_fd=into.fd, dst_dir_fd=folder_fd, follow_symlinks=False)
            except FileExistsError:
                pass
            os.unlink(last, dir_fd=into.fd)

    def tidy(self, prefix: str) -> None:
        """Remove what killed writers left below a prefix that nobody else writes to now."""
        check_key(prefix)
        with Faults(prefix), Root.create(self.path) as root:
            left = [entry.path for entry in root.walk(prefix) if is_temporary(entry.name)]
            for path in left:
                root.remove_tree(path)

    def device(self) -> int:
        """The number of the file system that the folder is on."""
        with Faults(""), Root.create(self.path) as root:
            return os.fstat(root.fd).st_dev

    def stat(self, key: str) -> Stored | None:
        """Size of a file; see ArtifactStore."""
        check_key(key)
        try:
            with Faults(key), self._there() as root:
                found = root.lstat(key)
        except ArtifactError as error:
            if error.code == "artifact.unknown":
                return None
            raise
        return Stored(key=key, size=found.st_size) if stat.S_ISREG(found.st_mode) else None

    def open(self, key: str) -> BinaryIO:
        """The file itself, open for reading; see ArtifactStore."""
        check_key(key)
        with Faults(key), self._there() as root:
            return os.fdopen(root.open_file(key), "rb")

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Some bytes of the file; see ArtifactStore."""
        with self.open(key) as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def fetch(
        self,
        key: str,
        destination: int,
        *,
        sha256: str | None = None,
        size: int | None = None,
        have: int = 0,
        progress: Progress | None = None,
    ) -> Stored:
        """Copy all of it again, whatever there was; see ArtifactStore."""
        os.ftruncate(destination, 0)
        os.lseek(destination, 0, os.SEEK_SET)
        report = progress and _Later(progress, have)
        with self.open(key) as file, Faults(key):
            stored = copy_hashed(file.fileno(), destination, key, most=size, progress=report)
        if sha256 is not None and stored.sha256 != sha256:
            raise corrupt(key, sha256, stored.sha256)
        return stored

    def children(self, prefix: str) -> Iterator[str]:
        """Files and folders of a folder; see ArtifactStore."""
        check_key(prefix)
        try:
            with Faults(prefix), self._there() as root, root.folder(prefix) as folder:
                names = os.listdir(folder.fd)
        except ArtifactError as error:
            if error.code != "artifact.unknown":
                raise
            return
        yield from (name for name in names if name != OWNER and not is_temporary(name))

    def list(self, prefix: str) -> Iterator[Stored]:
        """Regular files below a folder; see ArtifactStore."""
        check_key(prefix)
        with Faults(prefix):
            try:
                with self._there() as root:
                    for entry in root.walk(prefix):
                        if entry.kind == "file" and not is_ours(entry.path) and not is_temporary(entry.name):
                            yield Stored(key=entry.path, size=entry.size)
            except FileFault as error:
                if error.code not in ("path.missing", "path.not_folder"):
                    raise

    def delete(self, key: str) -> None:
        """Remove files and folders; see ArtifactStore."""
        check_key(key)
        try:
            with Faults(key), self._there() as root:
                root.remove_tree(key)
        except ArtifactError as error:
            if error.code != "artifact.unknown":
                raise


def claim_first(run_id: str, uuid: str, claimed: Callable[[str, str], bool]) -> str:
    """The first prefix of a run that `claimed` says is its own.  Raises ArtifactError `store.taken`."""
    for prefix in (f"{RUNS}/{run_id}", f"{RUNS}/{run_id}-{uuid[:4]}"):
        check_key(prefix)
        if claimed(prefix, uuid):
            return prefix
    raise ArtifactError(f"the place for the artifacts of {run_id} is taken", code="store.taken")


def is_ours(key: str) -> bool:
    """Whether a key is a mark of the store itself, which no listing shows."""
    return key.endswith("/" + OWNER) and key.count("/") == 2


def check_key(key: str) -> None:
    """Refuse what is no key of an artifact: ArtifactError `artifact.name`."""
    try:
        check_name(key, portable=True)
    except ConfinedError as error:
        raise ArtifactError(error.message, code="artifact.name", hint=error.hint) from error


def copy_hashed(
    source: int,
    destination: int | None,
    key: str,
    *,
    most: int | None = None,
    progress: Progress | None = None,
) -> Stored:
    """Read an open file once from its beginning, write it elsewhere (or nowhere), hash it.

    Raises ArtifactError `store.corrupt` when it has more than `most` bytes.
    """
    import hashlib

    hashing = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    total = 0
    while count := os.preadv(source, [buffer], total):
        if most is not None and total + count > most:
            raise too_large(key, most)
        hashing.update(view[:count])
        done = 0
        while destination is not None and done < count:
            done += os.write(destination, view[done:count])
        total += count
        if progress is not None:
            progress(count)
    return Stored(key=key, size=total, sha256=hashing.hexdigest())


def hash_of(store: ArtifactStore, key: str) -> str:
    """The SHA-256 of what a store keeps, in hex; reads all of it.  Raises ArtifactError."""
    import hashlib

    hashing = hashlib.sha256()
    with store.open(key) as file:
        while block := file.read(CHUNK):
            hashing.update(block)
    return hashing.hexdigest()


def hash_beginning(fd: int, length: int) -> tuple[hashlib._Hash, int]:
    """The hashing of the first bytes of an open file, to be gone on with, and how many there were."""
    import hashlib

    hashing = hashlib.sha256()
    at = 0
    # in blocks: of what is asked for at once all must be held, and Linux gives no more than 2 GiB
    while at < length and (block := os.pread(fd, min(CHUNK, length - at), at)):
        hashing.update(block)
        at += len(block)
    return hashing, at


def write_all(fd: int, data: bytes, at: int) -> None:
    """Write bytes at a position of a file, all of them.  Raises OSError."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, at)
        view = view[count:]
        at += count


def corrupt(key: str, expected: str, found: str) -> ArtifactError:
    """The error for bytes that are not those that were kept."""
    return ArtifactError(
        f"{key} is damaged: its SHA-256 is {found[:12]}..., {expected[:12]}... was expected",
        code="store.corrupt",
        hint="`aml check` lists every damage. The run can be repeated from its snapshot.",
    )


def too_large(key: str, expected: int) -> ArtifactError:
    """The error for more bytes than were kept."""
    return ArtifactError(
        f"{key} is damaged: it has more than the {expected} bytes that were expected",
        code="store.corrupt",
        hint="`aml check` lists every damage. The run can be repeated from its snapshot.",
    )


class _Later:
    """Progress that was told of some bytes before."""

    def __init__(self, progress: Progress, told: int) -> None:
        self.progress = progress
        self.told = told

    def __call__(self, count: int) -> None:
        news = max(0, count - self.told)
        self.told = max(0, self.told - count)
        if news:
            self.progress(news)


class Faults:
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
