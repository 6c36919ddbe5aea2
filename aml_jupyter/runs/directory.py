"""Where everything of a run lies, and what lies beside runs: ids, numbers, marks of change, the reserve."""

from __future__ import annotations

import errno
import os
import time

from aml_jupyter import plainjson
from aml_jupyter.confined import Root, make_root, read_bounded, remove_tree, write_atomic
from aml_jupyter.errors import ConfinedError, HistoryError, RunNotFound
from aml_jupyter.frozen import Value
from aml_jupyter.locks import exclusive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    class Scope(Protocol):
        """What names the project of a run; `config.Project` is one."""

        @property
        def account(self) -> str: ...  # noqa: D102
        @property
        def workspace(self) -> str: ...  # noqa: D102
        @property
        def name(self) -> str: ...  # noqa: D102
        @property
        def root(self) -> str: ...  # noqa: D102


# kept free so that endings can be written on a full disk, in bytes
RESERVE = 8 << 20
# tries to remove a directory in which somebody else may be writing
DISCARDED = 10
# a file of ours larger than this is damage, in bytes
LARGEST = 64 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class RunDirectory(Value):
    """The files of one run, by path; the files need not exist.  No I/O."""

    path: str

    def __init__(self, path: str) -> None:
        super().__init__(path=os.path.abspath(path))

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return os.path.basename(self.path)

    @property
    def home(self) -> str:
        """AML_HOME: runs/<account>/<workspace>/<project>/<run id> lie below it."""
        return self.path.rsplit("/", 5)[0]

    @property
    def project_key(self) -> str:
        """`account/workspace/project`, as the folders above are named."""
        return "/".join(self.path.split("/")[-4:-1])

    @property
    def run_json(self) -> str:
        """The record."""
        return self.path + "/run.json"

    @property
    def status_jsonl(self) -> str:
        """Changes of state, a line each."""
        return self.path + "/status.jsonl"

    @property
    def control_log(self) -> str:
        """What preparation and collection did, for people."""
        return self.path + "/control.log"

    @property
    def starting(self) -> str:
        """There from the moment a target is asked to start the job."""
        return self.path + "/starting"

    @property
    def handle_json(self) -> str:
        """What finds the job again."""
        return self.path + "/handle.json"

    @property
    def supervisor_lock(self) -> str:
        """Locked by the supervisor while it lives; holds its identity."""
        return self.path + "/supervisor.lock"

    @property
    def cancel(self) -> str:
        """Exists when somebody asked for the end of the run."""
        return self.path + "/cancel"

    @property
    def labels_json(self) -> str:
        """What people add: name, description, tags, notes, pinned, hidden."""
        return self.path + "/labels.json"

    @property
    def artifacts_json(self) -> str:
        """The manifest of the artifacts."""
        return self.path + "/artifacts.json"

    @property
    def git_diff(self) -> str:
        """What was not committed when the snapshot was taken, as a patch; absent when there was nothing."""
        return self.path + "/git.diff"

    @property
    def job(self) -> str:
        """All that crosses between machines."""
        return self.path + "/job"

    @property
    def started_json(self) -> str:
        """The identity of the runtime, created by its first act."""
        return self.path + "/job/started.json"

    @property
    def exit_json(self) -> str:
        """The ending as the runtime saw it."""
        return self.path + "/job/exit.json"

    @property
    def heartbeat(self) -> str:
        """Counter, monotonic seconds and UTC, rewritten every two seconds."""
        return self.path + "/job/heartbeat"

    @property
    def events_jsonl(self) -> str:
        """Display data, metrics and the like, numbered."""
        return self.path + "/job/events.jsonl"

    @property
    def log(self) -> str:
        """What the run printed."""
        return self.path + "/job/log"

    @property
    def work(self) -> str:
        """The working copy of the project."""
        return self.path + "/work"

    @property
    def mark(self) -> str:
        """Tells readers of the history that this run changed."""
        return f"{self.home}/dirty/{self.run_id}"


def create(home: str, project: Scope) -> RunDirectory:
    """A new run directory with a run id that no other run has; it becomes a run with its first record.

    Raises HistoryError `history.readonly` or `history.no_space`.
    """
    below = "/".join(_folder_name(name) for name in (project.account, project.workspace, project.name))
    try:
        for folder in ("ids", "dirty", "runs/" + below):
            if not os.path.isdir(f"{home}/{folder}"):
                make_root(f"{home}/{folder}")
        _keep_reserve(home)
        run_id = _claim_id(home, below, _folder_name(project.name), time.time_ns() // 1_000_000)
        directory = RunDirectory(f"{home}/runs/{below}/{run_id}")
        os.mkdir(directory.path, 0o700)
    except OSError as error:
        raise history_fault(error, home) from error
    return directory


def _claim_id(home: str, below: str, name: str, milliseconds: int) -> str:
    """Reserve an id by exclusive creation; the file says where the run lies."""
    while True:
        run_id = f"{name}_{milliseconds}"
        try:
            fd = os.open(f"{home}/ids/{run_id}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            milliseconds += 1
            continue
        try:
            # the folder as well: an id whose file was lost in a power cut is still taken
            if not os.path.lexists(f"{home}/runs/{below}/{run_id}"):
                os.write(fd, os.fsencode(f"runs/{below}/{run_id}\n"))
                return run_id
        finally:
            os.close(fd)
        milliseconds += 1


def _folder_name(name: str) -> str:
    """A name as one component of a path that every file system, shell and URL can carry."""
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-.")
    while len(safe.encode("utf-8", "replace")) > 100:
        safe = safe[:-1]
    return safe or "run"


def discard(directory: RunDirectory) -> None:
    """Take back a directory that never became a run."""
    for attempt in range(DISCARDED):
        try:
            remove_tree(directory.path)
            break
        except OSError:  # a supervisor that was told of it beforehand may still write into it
            if attempt + 1 == DISCARDED:
                raise
            time.sleep(0.02)
    for path in (directory.mark, f"{directory.home}/ids/{directory.run_id}"):
        unlink_quietly(path)


def next_run_number(directory: RunDirectory) -> int:
    """1, 2, 3, ... within the project, each given once."""
    folder = os.path.dirname(directory.path)
    with exclusive(folder + "/.run_number") as fd:
        text = os.pread(fd, 32, 0).strip()
        # a lost counter goes on behind the runs that are there
        last = int(text) if text.isdigit() else _count_runs(folder)
        os.pwrite(fd, b"%d\n" % (last + 1), 0)
    return last + 1


def _count_runs(folder: str) -> int:
    return sum(os.path.exists(f"{folder}/{name}/run.json") for name in os.listdir(folder))


def mark_changed(directory: RunDirectory) -> None:
    """Have readers of the history look at this run again; before and after every change of its files."""
    mark_id(directory.home, directory.run_id)


def mark_id(home: str, run_id: str) -> None:
    """`mark_changed` for a run that may have no directory any more."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    path = f"{home}/dirty/{run_id}"
    try:
        os.close(os.open(path, flags, 0o600))
    except FileNotFoundError:
        make_root(f"{home}/dirty")
        os.close(os.open(path, flags, 0o600))


def ask_push(directory: RunDirectory) -> None:
    """Have a run that is in a store stored there once more, by whoever stores runs next (`pending`)."""
    if not os.path.exists(directory.path + "/remote.json"):
        return
    make_root(f"{directory.home}/push")
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(f"{directory.home}/push/{directory.run_id}", flags, 0o600))


def at(home: str, run_id: str) -> RunDirectory | None:
    """The directory of exactly this run id, or None."""
    if not run_id or "/" in run_id or "\0" in run_id or run_id[0] == "." or len(run_id) > 200:
        return None
    return entered(home, run_id) or _without_entry(home, run_id)


def entered(home: str, run_id: str) -> RunDirectory | None:
    """The directory that the entry among the ids names; None when that is missing or damaged."""
    try:
        where = os.fsdecode(read_bounded(f"{home}/ids/{run_id}", 4096)).strip()
    except ConfinedError:
        return None
    parts = where.split("/")
    if len(parts) != 5 or parts[0] != "runs" or parts[4] != run_id or not {"", ".", ".."}.isdisjoint(parts):
        return None
    directory = RunDirectory(f"{home}/{where}")
    return directory if os.path.exists(directory.run_json) else None


def _without_entry(home: str, run_id: str) -> RunDirectory | None:
    for folder in project_folders(home):
        if os.path.exists(f"{folder}/{run_id}/run.json"):
            return RunDirectory(f"{folder}/{run_id}")
    return None


def enter(directory: RunDirectory) -> None:
    """Put the entry of a run among the ids back."""
    where = directory.path[len(directory.home) + 1 :]
    write_atomic(f"{directory.home}/ids/{directory.run_id}", os.fsencode(where + "\n"), sync=False)


def trash_of(home: str) -> str:
    """The home of the runs that were removed and can be brought back."""
    return home + "/trash"


def all_directories(home: str) -> list[RunDirectory]:
    """Every run directory of a home, whether its record is whole or not, in no order."""
    found = []
    for project in project_folders(home):
        with os.scandir(project) as entries:
            found += [
                RunDirectory(entry.path)
                for entry in entries
                if entry.name[0] != "." and entry.is_dir(follow_symlinks=False)
            ]
    return found


def project_folders(home: str) -> list[str]:
    """The folders that hold the runs of each project."""
    level = [home + "/runs"]
    for _ in range(3):
        below: list[str] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    below += [e.path for e in entries if e.is_dir(follow_symlinks=False)]
            except FileNotFoundError:
                continue
        level = below
    return sorted(level)


def write_json(path: str, document: Mapping[str, Any], *, sync: bool = True) -> None:
    """Put a JSON file of ours in place, whole or not at all, also on a disk that has just become full."""
    data = plainjson.dumps(document).encode()
    with_reserve(path, lambda: write_atomic(path, data, sync=sync))


def with_reserve(path: str, write: Callable[[], None]) -> None:
    """Do what writes; when the disk is full, give the reserve back to it and do it once more.

    Raises HistoryError `history.no_space` or `history.readonly`.
    """
    try:
        write()
    except OSError as error:
        if error.errno not in _NO_SPACE or not _release_reserve(path):
            raise history_fault(error, path) from error
        try:
            write()
        except OSError as again:
            raise history_fault(again, path) from again


def history_fault(error: OSError, path: str) -> HistoryError:
    """What an OSError means for the history, as an error that says what to do."""
    if error.errno in _NO_SPACE:
        code, hint = "history.no_space", "Free some space; `aml gc` removes what no run refers to."
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        code, hint = "history.readonly", "Check who owns the folder, or set AML_HOME to one you may write to."
    else:
        code, hint = "history.unwritable", "Run `aml check`."
    return HistoryError(f"{path}: {os.strerror(error.errno or errno.EIO)}", code=code, hint=hint)


def _keep_reserve(home: str) -> None:
    """Have some space that nobody else can take, for endings on a full disk."""
    path = home + "/reserve"
    if os.path.exists(path):
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, RESERVE)
        else:
            os.write(fd, bytes(RESERVE))
    except OSError as error:  # no room for it now: the run itself may still fit
        unlink_quietly(path)
        if error.errno not in (*_NO_SPACE, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    finally:
        os.close(fd)


def _release_reserve(path: str) -> bool:
    """Remove the reserve of the home that a path lies in; False when there is none."""
    while len(path) > 1:
        path = os.path.dirname(path)
        if os.path.isdir(path + "/ids") and os.path.isfile(path + "/reserve"):
            unlink_quietly(path + "/reserve")
            return True
    return False


def unlink_quietly(path: str) -> None:
    """Remove a file that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:  # somebody else removed it: the wish is fulfilled
        pass


def not_a_run(directory: RunDirectory) -> RunNotFound:
    """The error for a directory without a record."""
    return RunNotFound(
        f"there is no run {directory.run_id} (no {directory.run_json})",
        code="run.missing",
        hint="`aml runs` lists the runs there are; `aml check` finds what is left of broken ones.",
    )


def payload(directory: RunDirectory, sha256: str, limit: int) -> bytes:
    """A file of the job's `data/`; raises FileNotFoundError when it is not there, no file or too large."""
    try:
        with Root(directory.job) as job:
            return job.read_bytes(f"data/{sha256}", limit)
    except ConfinedError as error:
        raise FileNotFoundError(f"data/{sha256}: {error.message}") from error
