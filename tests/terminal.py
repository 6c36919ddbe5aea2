"""The command `aml` as people run it: a process, with pipes or with a terminal of its own."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# as the installed script does: the working folder, which may be anybody's, is not on the path
AML = [sys.executable, "-P", "-m", "aml_jupyter.cli"]
ROOT = str(Path(__file__).resolve().parent.parent)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, with the package on the path wherever the command starts."""
    return {**os.environ, "PYTHONPATH": ROOT, **changes}


def aml(
    *words: str, cwd: str | Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*AML, *words],
        cwd=cwd,
        env=environment(**(env or {})),
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )


def data(*words: str, status: int = 0, **options: Any) -> Any:
    """The JSON that a command prints; it must end with `status` and show no traceback."""
    done = aml(*words, "--json", **options)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def detached(*words: str, **options: Any) -> str:
    """Submit without waiting; the run id."""
    return str(data("run", "-d", "local", *words, **options)["run_id"])


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait for a condition and return what it says."""
    due = time.monotonic() + seconds
    while time.monotonic() < due:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {condition}")


class Terminal:
    """A command in a session of its own that looks at a terminal; `screen` is all it showed."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.fd = fd
        self.screen = b""

    def read(self, seconds: float = 0.05) -> bool:
        """Take in what is there; False at the end."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            block = os.read(self.fd, 65536)
        except OSError:  # the other end is closed
            return False
        self.screen += block
        return bool(block)

    def expect(self, text: bytes, seconds: float = 30) -> None:
        """Wait until the screen shows a text."""
        due = time.monotonic() + seconds
        while text not in self.screen:
            assert time.monotonic() < due, (text, self.screen)
            assert self.read() or text in self.screen, (text, self.screen)

    def send(self, keys: bytes) -> None:
        """Type."""
        os.write(self.fd, keys)

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self.fd)
        self.fd = -1

    def end(self) -> int:
        """Wait for the command; its exit status, or minus its signal."""
        while self.fd >= 0 and self.read(1.0):
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                while self.read(0.05) and select.select([self.fd], [], [], 0.05)[0]:
                    pass
                break
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


@contextmanager
def terminal(*words: str, cwd: str | Path | None = None, **changes: str) -> Iterator[Terminal]:
    """Run a command on a terminal."""
    command = [*AML, *words]
    variables = environment(TERM="xterm", **changes)
    main, other = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=variables,
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        preexec_fn=_take_terminal,  # noqa: PLW1509 - the tests that use it have one thread
    )
    os.close(other)
    shown = Terminal(process.pid, main)
    try:
        yield shown
    finally:
        if shown.fd >= 0:
            os.close(shown.fd)
        process.poll()
        if process.returncode is None:
            process.kill()
            process.wait()


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
