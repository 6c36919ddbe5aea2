"""What is to be stored in the store that a project names, and who does it: a mark for each run.

    AML_HOME/push/<run id>   empty, or {"format", "store", "tries", "next", "error"}
    AML_HOME/push.lock       held by whoever pushes

A mark is made before the ending of the run is written and removed when everything is stored, so that a
process killed at any moment leaves something to go on with.  Every run passes here: nothing that most do not
need is imported.
"""

from __future__ import annotations

import os
import sys
import time

from aml_jupyter import plainjson
from aml_jupyter.confined import make_root, read_bounded, write_atomic
from aml_jupyter.errors import AmlError
from aml_jupyter.frozen import Value
from aml_jupyter.locks import try_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.runs import Record, RunDirectory

FOLDER = "push"
LOCK = "push.lock"
_SMALL = 1 << 16
# seconds until a store that failed is asked again: at first, and at most
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 3600.0


class Mark(Value):
    """A run that is to be pushed: where to, how often that failed, when it is tried again (since 1970)."""

    run_id: str
    store: str = ""
    tries: int = 0
    next: float = 0.0
    error: Mapping[str, str] = {}

    @property
    def due(self) -> bool:
        """Whether it may be tried now; a clock that was set back makes nothing wait for years."""
        return not 0 < self.next - time.time() < 2 * LONGEST_PAUSE


def wanted_store(home: str, project_root: str) -> str | None:
    """The store that the settings name for runs of a project; None for the folder of this computer.

    Raises ConfigError for settings that cannot be read.
    """
    project = [f"{project_root}/aml_config/settings.json"] if project_root else []
    for path in (*project, f"{home}/settings.json"):
        try:
            data = read_bounded(path, 1 << 20)
        except AmlError:  # there are none, or they are told to be damaged by whoever needs them
            continue
        if b"artifacts.store" in data:
            from aml_jupyter.config import settings

            return settings.store_url(project_root or None)
    return None


def mark(home: str, run_id: str, store: str, **more: Any) -> None:
    """Have a run pushed, now or by whoever pushes next."""
    make_root(f"{home}/{FOLDER}")
    document = {"format": 1, "store": store, **more}
    write_atomic(f"{home}/{FOLDER}/{run_id}", plainjson.dumps(document).encode())


def forget(home: str, run_id: str) -> None:
    """There is nothing of this run to push any more."""
    try:
        os.unlink(f"{home}/{FOLDER}/{run_id}")
    except FileNotFoundError:
        pass


def marked(home: str, run_id: str) -> Mark | None:
    """The mark of a run, or None."""
    try:
        data = read_bounded(f"{home}/{FOLDER}/{run_id}", _SMALL)
    except FileNotFoundError:
        return None
    except AmlError:  # something else was put there: the run is looked at
        data = b""
    try:
        found = plainjson.loads(data) if data else {}
        return Mark(
            run_id=run_id,
            store=str(found.get("store") or ""),
            tries=int(found.get("tries") or 0),
            next=float(found.get("next") or 0),
            error={str(key): str(text) for key, text in (found.get("error") or {}).items()},
        )
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return Mark(run_id=run_id)


def all_marks(home: str) -> list[Mark]:
    """Every run that is to be pushed, oldest first."""
    try:
        names = [name for name in os.listdir(f"{home}/{FOLDER}") if name[0] != "."]
    except OSError:  # nothing was ever pushed here
        return []
    names.sort(key=lambda name: (name.rpartition("_")[2], name))
    return [found for name in names if (found := marked(home, name)) is not None]


def expect(directory: RunDirectory, record: Record) -> str | None:
    """Before the ending of a run is written: mark it where a store is set; its state is then `pending`."""
    store = wanted_store(directory.home, record.project_root)
    if store is None:
        return None
    mark(directory.home, directory.run_id, store)
    from aml_jupyter import artifacts
    from aml_jupyter.artifacts.collecting import collecting_lock

    if artifacts.read_manifest(directory) is None:
        return None
    with collecting_lock(directory):
        manifest = artifacts.read_manifest(directory)
        if manifest is None or not manifest.stored:
            return None
        files = tuple(
            item.replace(state="pending") if item.state == "stored" else item for item in manifest.files
        )
        artifacts.write_manifest(directory, manifest.replace(files=files, state="pending"))
    return "pending"


class Ending:
    """Around the writing of an ending that no supervisor writes: the run is stored like any other.

    What goes wrong with that is left to `aml push`.
    """

    def __init__(self, directory: RunDirectory, record: Record) -> None:
        self._directory = directory
        self._record = record

    def __enter__(self) -> None:
        try:
            expect(self._directory, self._record)
        except (AmlError, OSError):
            return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None and marked(self._directory.home, self._directory.run_id) is not None:
            try:
                start(
                    self._directory.home, [str(path) for path in self._record.supervisor.get("sys_path", ())]
                )
            except OSError:
                return


def start(home: str, paths: list[str] | None = None, *, python: str = "", wait: bool = True) -> bool:
    """Start a process that pushes what is marked, unless one does; it is nobody's child.

    `paths` are further entries of its sys.path; without `wait` the caller is about to end.  False when there
    is nothing to push now, or somebody is at it, who looks once more before leaving.
    """
    if wait and not any(one.due for one in all_marks(home)):
        return False
    if not _is_free(f"{home}/{LOCK}"):
        return False
    from aml_jupyter.credentials import without_passwords

    python = python or sys.executable
    paths = [path for path in sys.path if path] if paths is None else paths
    worker = os.path.dirname(os.path.abspath(__file__)) + "/pushing/worker.py"
    pid = os.posix_spawn(
        python,
        [python, "-E", worker, home, plainjson.dumps(paths)],
        {**without_passwords(os.environ), "AML_HOME": home},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    if wait:
        try:
            os.waitpid(pid, 0)  # its first act is to leave a child behind
        except ChildProcessError:  # this process has its children taken in by somebody else
            pass
    return True


def _is_free(path: str) -> bool:
    """Whether nobody pushes: who has the lock looks at the marks once more when it has given it back."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        return try_lock(fd)
    finally:
        os.close(fd)


def pause_after(tries: int) -> float:
    """Seconds until the next try."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries, 20))
