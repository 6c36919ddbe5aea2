"""Many files into a store, or out of one into the folder of this machine: side by side, checked, resumed.

upload     some files under their keys; what is there already with the same bytes is not sent
download   some keys into a FolderStore; what was cut off goes on where it ended
"""

from __future__ import annotations

import os

from aml_jupyter.artifacts.store import Stored, check_key, hash_of
from aml_jupyter.confined import Root
from aml_jupyter.errors import ArtifactError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from typing import Protocol

    from aml_jupyter.artifacts.store import ArtifactStore, FolderStore

    class Item(Protocol):
        """What has a size."""

        @property
        def size(self) -> int: ...  # noqa: D102

    Report = Callable[["Progress"], object]
    Work = Callable[["Report | None", "_Counter"], "Outcome"]

# files at once: a store across the world answers after 30 to 200 ms, and most of that is waiting
WORKERS = 32
# in the folder of this machine: beginnings of files that are being fetched, each by its hash
PARTIAL = ".partial"
# what concerns the store and not one file: nothing more is tried
OF_THE_STORE = frozenset(
    f"store.{word}"
    for word in (
        "unavailable",
        "auth",
        "clock",
        "credentials",
        "missing",
        "denied",
        "no_space",
        "url",
        "extra",
    )
)


class Upload(Value):
    """A file to be stored.  `open` gives a descriptor that is closed here; "" is an unknown hash."""

    key: str
    open: Callable[[], int]
    size: int = 0
    sha256: str = ""


class Download(Value):
    """A key to be fetched: `key` in the store, `local` in the folder of this machine."""

    key: str
    local: str
    size: int = 0
    sha256: str = ""


class Outcome(Value):
    """What became of one file: `stored`, or the error why not.  `sent` unless it was there already."""

    key: str
    stored: Stored | None = None
    error: ArtifactError | None = None
    sent: bool = False


class Progress(Value):
    """How far a transfer is; files and bytes that were there already count as done."""

    files: int
    bytes: int
    files_done: int = 0
    bytes_done: int = 0


def upload(
    store: ArtifactStore,
    prefix: str,
    items: Iterable[Upload],
    *,
    progress: Report | None = None,
    workers: int = WORKERS,
) -> Iterator[Outcome]:
    """Store files below a prefix that is this run's own, an outcome for each as it comes, in any order.

    A failure of one file ends none of the others; a failure of the store itself (`OF_THE_STORE`) is the
    outcome of all that were left. Raises ArtifactError when the store cannot even be listed.
    """
    items = list(items)
    there = {one.key: one for one in store.list(prefix)} if items else {}

    def work(item: Upload, told: _Counter) -> Outcome:
        if (known := there.get(item.key)) is not None and _same(store, known, item):
            return Outcome(key=item.key, stored=known.replace(sha256=item.sha256))
        fd = item.open()
        try:
            stored = store.put(item.key, fd, sha256=item.sha256 or None, progress=told)
        finally:
            os.close(fd)
        return Outcome(key=item.key, stored=stored, sent=True)

    return _Transfer(items, work, progress).outcomes(workers)


def download(
    store: ArtifactStore,
    into: FolderStore,
    items: Iterable[Download],
    *,
    progress: Report | None = None,
    workers: int = WORKERS,
) -> Iterator[Outcome]:
    """Fetch keys into the folder of this machine, an outcome for each as it comes, in any order.

    Bytes are verified before they have their name there. Failures as with `upload`.
    """

    def work(item: Download, told: _Counter) -> Outcome:
        if (known := into.stat(item.local)) is not None:
            known = Stored(key=item.local, size=known.size)
            if _same(into, known, item):
                return Outcome(key=item.key, stored=known.replace(sha256=item.sha256))
        return Outcome(key=item.key, stored=_bring(store, into, item, told), sent=True)

    return _Transfer(list(items), work, progress).outcomes(workers)


def _same(store: ArtifactStore, known: Stored, item: Upload | Download) -> bool:
    """Whether what is kept are the bytes that are meant; reads them where the store knows no hash."""
    if not item.sha256 or known.size != item.size:
        return False
    return (known.sha256 or hash_of(store, known.key)) == item.sha256


def _bring(store: ArtifactStore, into: FolderStore, item: Download, told: _Counter) -> Stored:
    """Fetch one key under a name of its content, from where an earlier attempt ended, and give it its own."""
    check_key(item.local)
    known = _is_hash(item.sha256)
    name = item.sha256 if known else os.urandom(16).hex()
    with Root.create(into.path) as root:
        root.make_dirs(PARTIAL)
        with root.folder(PARTIAL) as partial:
            fd = _open_partial(partial.fd, name)
            try:
                stored = _fetch(store, item, fd, told)
                os.fsync(fd)
                root.make_dirs(item.local.rpartition("/")[0])
                root.rename(f"{PARTIAL}/{name}", item.local)
            except BaseException as error:
                # only verified beginnings of known bytes are worth keeping
                if not known or getattr(error, "code", "") in ("store.corrupt", "artifact.unknown"):
                    os.unlink(name, dir_fd=partial.fd)
                raise
            finally:
                os.close(fd)
    return stored.replace(key=item.local)


def _open_partial(folder: int, name: str) -> int:
    """The file that what comes is written to, locked: others who want the same bytes wait for it."""
    import fcntl

    while True:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            if os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino == os.fstat(fd).st_ino:
                return fd
        except FileNotFoundError:  # it was finished, and has its name by now
            pass
        os.close(fd)


def drop_partial(path: str) -> None:
    """Remove the beginning of a download, unless it is being gone on with.  Raises OSError."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # it is whole by now
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # it may have become whole meanwhile, and the name be that of another attempt
        if os.lstat(path).st_ino == os.fstat(fd).st_ino:
            os.unlink(path)
    except (BlockingIOError, FileNotFoundError):
        pass
    finally:
        os.close(fd)


def _is_hash(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _fetch(store: ArtifactStore, item: Download, fd: int, told: _Counter) -> Stored:
    sha256 = item.sha256 or None
    have = os.fstat(fd).st_size
    if have > item.size:
        os.ftruncate(fd, 0)
        have = 0
    told(have)
    try:
        return store.fetch(item.key, fd, sha256=sha256, size=item.size, have=have, progress=told)
    except ArtifactError as error:
        if error.code != "store.corrupt" or not have:
            raise
    # what an earlier attempt left was not the beginning of it
    os.ftruncate(fd, 0)
    told(-told.bytes)
    return store.fetch(item.key, fd, sha256=sha256, size=item.size, progress=told)


class _Counter:
    """Counts the bytes of one file, and tells the transfer."""

    def __init__(self, transfer: _Transfer) -> None:
        self.transfer = transfer
        self.bytes = 0

    def __call__(self, count: int) -> None:
        self.bytes += count
        self.transfer.add(count)


class _Transfer:
    """Runs the work of each file in a pool of threads."""

    def __init__(
        self,
        items: Sequence[Upload | Download],
        work: Callable[..., Outcome],
        report: Report | None,
    ) -> None:
        import threading

        self.items = items
        self.work = work
        self.report = report
        self.lock = threading.Lock()
        self.fatal: ArtifactError | None = None
        self.now = Progress(files=len(items), bytes=sum(item.size for item in items))

    def add(self, count: int, files: int = 0) -> None:
        """Count what has come, and say so."""
        with self.lock:
            now = self.now
            self.now = now.replace(bytes_done=now.bytes_done + count, files_done=now.files_done + files)
            if self.report is not None:
                self.report(self.now)

    def outcomes(self, workers: int) -> Iterator[Outcome]:
        """The outcomes, as they come."""
        if not self.items:
            return
        from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

        remaining = iter(self.items)
        running: set[Future[Outcome]] = set()
        with ThreadPoolExecutor(min(workers, len(self.items)), thread_name_prefix="aml-transfer") as pool:
            try:
                # a few more than there are threads: a list of 100,000 files makes no 100,000 futures
                while True:
                    while len(running) < 2 * workers and (item := next(remaining, None)) is not None:
                        running.add(pool.submit(self._one, item))
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            finally:
                for future in running:
                    future.cancel()

    def _one(self, item: Upload | Download) -> Outcome:
        """One file; what belongs to the store is remembered for those that come."""
        if self.fatal is not None:
            return Outcome(key=item.key, error=self.fatal)
        told = _Counter(self)
        try:
            outcome = self.work(item, told)
        except ArtifactError as error:
            if error.code in OF_THE_STORE:
                self.fatal = error
            self.add(-told.bytes)
            return Outcome(key=item.key, error=error)
        except OSError as error:  # the file that was to be sent cannot be read, or the one here not written
            self.add(-told.bytes)
            words = f"{item.key}: {error.strerror or error}"
            return Outcome(key=item.key, error=ArtifactError(words, code="artifact.unreadable"))
        self.add(item.size - told.bytes, files=1)
        return outcome
