"""Starts supervisors, early: while one starts, the snapshot is taken."""

from __future__ import annotations

import os
import sys

from aml_jupyter import credentials, plainjson
from aml_jupyter.errors import AmlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SUPERVISOR = os.path.dirname(os.path.abspath(__file__)) + "/supervisor.py"
# what a notebook's kernel leaves in its environment and no run should meet
KERNEL_VARIABLES = ("JPY_", "MPLBACKEND", "PYDEVD_")


class SupervisorGone(AmlError):
    """The supervisor ended before it was told its run."""

    code = "supervisor.error"


class Starter:
    """A supervisor that is starting and waits to be told its run.

    A new interpreter without site (`python`; this one unless given): whatever the caller has loaded, holds
    open or shares stays out of it.
    """

    def __init__(self, python: str = "") -> None:
        self._python = python or sys.executable
        self.kind = ""
        read, self._write = os.pipe()
        try:
            self._pid = self._start(read)
        finally:
            os.close(read)

    def _start(self, read: int) -> int:
        return os.posix_spawn(
            self._python,
            [self._python, "-S", "-E", "-s", SUPERVISOR],
            credentials.without_passwords(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, read, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    def expect(self, kind: str, directory: str = "", demand: Mapping[str, Any] | None = None) -> None:
        """Say what kind of target the run is for: what such a run needs is loaded while it is written.

        `directory` is that of the run and `demand` what is known of its `request.json`: what takes long at
        the target may then be begun.
        """
        if kind == self.kind and demand is None:
            return
        self.kind = kind
        line = {"expect": kind, "directory": directory, "demand": demand}
        try:
            _write_all(self._write, plainjson.dumps(line).encode() + b"\n")
        except BrokenPipeError:  # told when it is to go
            return

    def go(
        self,
        directory: str,
        secrets: Mapping[str, str],
        passwords: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Tell the run directory, with this process's environment as it is now and `secrets` on top of it.

        Variables that may be written nowhere go this way; `passwords` are those that the supervisor needs
        and the run does not get; `environment` is that of whoever submitted, where it was another process.
        Raises SupervisorGone.
        """
        base = run_environment() if environment is None else environment
        environment = {**base, **(passwords or {})}
        order = {"directory": directory, "environment": environment, "secrets": dict(secrets)}
        try:
            _write_all(self._write, plainjson.dumps(order).encode() + b"\n")
        except BrokenPipeError:
            hint = f"Start it again: aml resume {os.path.basename(directory)}"
            raise SupervisorGone("the run's supervisor has ended before the run", hint=hint) from None
        finally:
            self.leave()

    def leave(self) -> None:
        """Close the pipe: a supervisor that was told nothing ends by itself."""
        os.close(self._write)
        # the process that was started hands over to its child at once: this does not wait for the run
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:  # this process has its children taken in by somebody else
            return


class ForkedStarter(Starter):
    """A supervisor that is a fork of this process: for a command, which has one thread and nothing to share.

    It costs a fifth of a new interpreter that loads the same modules again.
    """

    def _start(self, read: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            _become_supervisor(read)
        finally:
            os._exit(1)


def _become_supervisor(read: int) -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number, source in enumerate((read, null, null)):
        os.dup2(source, number)
    os.closerange(3, 256)
    _forget_command_line()
    from aml_jupyter import supervisor

    supervisor.main()
    os._exit(0)


def _forget_command_line() -> None:
    """Everybody can read command lines, and `-e NAME=VALUE` should not stay on one for as long as the run."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        begin, end = int(fields[45]), int(fields[46])
        memory = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
    except (OSError, IndexError):  # not Linux, or it keeps that from us
        return
    try:
        os.pwrite(memory, b"aml supervisor".ljust(end - begin, b"\0")[: end - begin], begin)
    except OSError:  # a kernel that lets nobody write there
        return
    finally:
        os.close(memory)


class Standby:
    """Keeps one supervisor started ahead, for a process that submits again and again.

    `take` is what `submit` asks for; `refill` is for a moment in which nobody waits.  A supervisor that was
    started ahead and never told a run ends with this process.
    """

    def __init__(self) -> None:
        self._ready: Starter | None = None
        self._last: Starter | None = None

    def take(self) -> Starter:
        """The one that is ready, or a new one."""
        starter, self._ready = self._ready, None
        self._last = starter or Starter()
        return self._last

    def refill(self) -> None:
        """Start the next one, for a run of the kind of the last one."""
        if self._ready is None:
            self._ready = Starter()
            if self._last and self._last.kind:
                self._ready.expect(self._last.kind)

    def close(self) -> None:
        """Let go of the one that is ready."""
        starter, self._ready = self._ready, None
        if starter:
            starter.leave()


def umask() -> int:
    """This process's umask: what a run creates has the rights it would have had here."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))
    except (OSError, StopIteration):  # not Linux: it can only be read by setting it
        found = os.umask(0o077)
        os.umask(found)
        return found


def run_environment() -> dict[str, str]:
    """This process's environment without what belongs to its kernel, and without passwords of machines."""
    kept = credentials.without_passwords(os.environ)
    return {name: value for name, value in kept.items() if not name.startswith(KERNEL_VARIABLES)}


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
