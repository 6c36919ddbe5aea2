"""Jobs on this computer: the run directory's own `job/` and `work/` are used in place."""

from __future__ import annotations

import os
import sys

from aml_jupyter import plainjson, processes, working_copy
from aml_jupyter.config import aml_home
from aml_jupyter.confined import Root, make_root, read_bounded, write_atomic
from aml_jupyter.errors import ConfinedError, TargetUnavailable, UsageError
from aml_jupyter.job import Alive, Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.config import Target
    from aml_jupyter.executors import Take, Tell
    from aml_jupyter.job import Handle, Job, Liveness

READ_SIZE = 1 << 20
CONTAINER_ONLY = ("image", "pull", "no_cache", "cpus", "memory", "gpus", "shm_size", "network")
# the oldest Python that the runtime and what runs inside the user's process are made for
OLDEST = "3.8"
# from <signal.h>; the signal module itself imports enum, which takes longer than starting a job
SIGTERM, SIGKILL, SIGUSR1 = 15, 9, 10 if sys.platform.startswith("linux") else 30


class LocalExecutor:
    """Runs jobs as processes of the calling user on this machine."""

    def check(self, target: Target, resources: Mapping[str, Any]) -> None:
        """Raise TargetUnavailable when `pythonLocation` is no program, UsageError for options of Docker."""
        asked = [name for name in CONTAINER_ONLY if resources.get(name)]
        if asked:
            options = ", ".join("--" + name.replace("_", "-") for name in asked)
            raise UsageError(
                f"{options}: target {target.name!r} is this computer, where a run takes what there is",
                hint="These options are for docker targets.",
            )
        self.python(target)

    def python(self, target: Target) -> str:
        """`pythonLocation` as an absolute path; `python` and nothing at all mean the running interpreter."""
        wanted = target.python_location
        if not wanted or wanted == "python":
            return sys.executable
        found = find_program(wanted)
        if found is None:
            raise TargetUnavailable(
                f"{target.file or target.name}: pythonLocation {wanted!r} is not a program here",
                code="target.python_missing",
                hint="Set pythonLocation to the path of a Python, or remove the line to use this one.",
            )
        _check_version(found, f"{target.file or target.name}: pythonLocation {wanted!r}")
        return found

    def make_environment(self, job: Job, tell: Tell, /) -> dict[str, Any]:
        """The interpreter of the job: `pythonLocation`, or that of the project's environment, made here."""
        from aml_jupyter.packages import record_environment

        if job.dependencies is None:
            return record_environment(aml_home(), job.python)
        from aml_jupyter.environment import prefix

        made = prefix.of_target(job.dependencies, tell)
        return {**record_environment(aml_home(), made.python), "lock": made.lock}

    def prepare(self, job: Job, tell: Tell, /) -> None:
        """Make the working copy, whole or not at all, with an empty `outputs/`, and the environment."""
        working_copy.make(job)
        if job.dependencies is not None:
            facts = self.make_environment(job, tell)
            write_atomic(job.directory + "/prepared.json", plainjson.dumps(facts).encode(), sync=False)
        elif not os.access(job.python, os.X_OK):
            raise TargetUnavailable(
                f"the interpreter {job.python} is not there any more", code="target.python_missing"
            )

    def anticipate(self, job: Job) -> None:
        """Nothing takes long enough to begin it before the job is written."""

    def forsake(self, job: Job) -> None:
        """Nothing was begun."""

    def find(self, job: Job) -> Handle | None:
        """A handle when the runtime of this job has started, by whomever it was started."""
        if not os.path.exists(job.job + "/started.json"):
            return None
        return {"format": 1, "kind": "local", "run_id": job.run_id, "job": job.job, "spawned": None}

    def environment(self, job: Job) -> dict[str, Any]:
        """The interpreter of the job and what is installed for it."""
        from aml_jupyter.packages import record_environment

        return _prepared(job) or record_environment(aml_home(), job.python)

    def start(self, job: Job, secrets: Mapping[str, str]) -> Handle:
        """Start the runtime in a session of its own."""
        os.environ.update(secrets)
        if job.dependencies is not None:
            pid = _spawn_runtime(job.job, str(_prepared(job)["python"]))
        else:
            pid = _fork_runtime(job.job) if _single_threaded() else _spawn_runtime(job.job, sys.executable)
        spawned = processes.identity(pid)
        return {"format": 1, "kind": "local", "run_id": job.run_id, "job": job.job, "spawned": spawned}

    def poll(self, handle: Handle, wait: float = 0.0) -> Liveness:
        """Alive while the runtime runs; waits for its end through a pidfd where there is one."""
        if who := _runtime(handle):
            processes.wait_end(who, wait)
            _reap(int(who["pid"]))
        # asked again: of two that were started one leaves at once, and the other says who it is
        who = _runtime(handle)
        if who is None:
            return Gone(evidence="the runtime never started")
        if processes.is_alive(who):
            return Alive()
        return Gone(evidence=_evidence(who))

    def read(self, handle: Handle, name: str, position: int) -> bytes:
        """Up to 1 MiB of a file of `job/`; empty when it is not there or ends before `position`."""
        try:
            with Root(handle["job"]) as root:
                fd = root.open_file(name)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(fd, READ_SIZE, position)
        finally:
            os.close(fd)

    def mirror(self, handle: Handle, into: str) -> None:
        """Nothing to bring: `job/` is the run directory's own."""

    def cancel(self, handle: Handle, *, kill: bool = False) -> None:
        """Signal the runtime; where it is gone and `kill` is asked, end what it left."""
        who = _runtime(handle)
        if who and processes.send_signal(who, SIGUSR1 if kill else SIGTERM):
            return
        if kill:
            for pid in processes.with_environment(f"AZUREML_RUN_ID={handle['run_id']}".encode()):
                try:
                    os.kill(pid, SIGKILL)
                except ProcessLookupError:
                    continue

    def ended_by_target(self, handle: Handle) -> Gone | None:  # noqa: ARG002
        """Nobody: whoever signals a process of this computer is a person, or acts for one."""
        return None

    def outputs(self, handle: Handle, path: str, take: Take, *, content: bool) -> None:
        """Nothing to take: the working copy is already here."""

    def collect(self, handle: Handle, into: str) -> None:
        """Nothing to bring: the working copy is already here."""

    def discard(self, handle: Handle) -> None:
        """Nothing to remove: the run directory is the run's own."""


def _check_version(python: str, where: str) -> None:
    """Refuse what is no Python that a run can have.  Raises TargetUnavailable `target.python_unusable`."""
    told = _probed_version(python)
    if told and _parts(told) >= _parts(OLDEST):
        return
    what = f"is Python {told}" if told else "is not a Python"
    raise TargetUnavailable(
        f"{where} {what}: a run needs Python {OLDEST} or newer",
        code="target.python_unusable",
        hint="Set pythonLocation to a newer Python, or remove the line to use this one.",
    )


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _probed_version(python: str) -> str:
    """`3.8`, or empty for a program that does not answer as a Python; asked once for each program."""
    found = os.stat(python)
    name = f"{found.st_dev:x}-{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"
    remembered = f"{aml_home()}/cache/interpreters/{name}"
    try:
        return read_bounded(remembered, 64).decode()
    except FileNotFoundError:
        version = _ask_version(python)
    make_root(os.path.dirname(remembered))
    write_atomic(remembered, version.encode(), sync=False)
    return version


def _ask_version(python: str) -> str:
    import subprocess

    ask = [python, "-S", "-E", "-c", "import sys; print('aml %d.%d' % sys.version_info[:2])"]
    try:
        done = subprocess.run(ask, check=False, timeout=20, stdin=subprocess.DEVNULL, capture_output=True)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = done.stdout.split()
    return words[1].decode() if len(words) == 2 and words[0] == b"aml" else ""


def _single_threaded() -> bool:
    """Whether a fork is safe here: a supervisor has one thread, a kernel or a test many."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:  # no such folder on this system: nothing is known
        return False


def _fork_runtime(job: str) -> int:
    """Become the runtime in a child: half as long as starting an interpreter for it."""
    pid = os.fork()
    if pid:
        return pid
    try:
        sys.path.insert(0, job + "/runtime")
        import main  # type: ignore[import-not-found]  # of the run's own copy

        main.main(job)
    finally:
        os._exit(1)


def _prepared(job: Job) -> dict[str, Any]:
    """What the preparation found; empty for a job that runs on an interpreter that was there."""
    if job.dependencies is None:
        return {}
    found = plainjson.loads(read_bounded(job.directory + "/prepared.json", READ_SIZE))
    assert isinstance(found, dict)
    return found


def _spawn_runtime(job: str, python: str) -> int:
    return os.posix_spawn(
        python,
        [python, "-S", "-E", "-s", job + "/runtime/main.py", job],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _runtime(handle: Handle) -> dict[str, Any] | None:
    try:
        started = plainjson.loads(read_bounded(handle["job"] + "/started.json", READ_SIZE))
    except (ConfinedError, ValueError, RecursionError):  # none, not whole, or put there by a script
        started = None
    if isinstance(started, dict) and isinstance(started.get("pid"), int):
        return started
    return handle["spawned"]  # type: ignore[no-any-return]


def _evidence(who: dict[str, Any]) -> str:
    if who.get("boot_id") != processes.boot_id():
        return "this machine was restarted"
    return f"process {who['pid']} of the runtime is gone"


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # started by an earlier supervisor: not ours to wait for
        return


def find_program(name: str) -> str | None:
    """The absolute path of a program: as written with a separator, else from PATH; None when absent."""
    if os.sep in name:
        path = os.path.abspath(os.path.expanduser(name))
        return path if os.access(path, os.X_OK) and not os.path.isdir(path) else None
    for folder in os.get_exec_path():
        candidate = os.path.join(folder, name)
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return os.path.abspath(candidate)
    return None
