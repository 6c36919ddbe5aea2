"""A job folder and the runtime started on it, as a submitter would."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.requirements import python_versions

RUNTIME = Path(__file__).parent.parent / "aml_jupyter" / "runtime"
VERSIONS = python_versions() or {"this": sys.executable}
OLDEST, *_, NEWEST = [*VERSIONS, *VERSIONS]

# for scripts: the sending side of the protocol in its barest form
SENDER = """
import hashlib, json, os, socket, sys, time
_socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
_socket.connect(os.environ["AML_EVENTS"])
def send(data):
    _socket.send(data)
def send_json(**message):
    send(b"j" + json.dumps(message).encode())
def store(data, name=None):
    name = name or hashlib.sha256(data).hexdigest()
    with open(os.environ["AML_JOB"] + "/data/" + name, "wb") as file:
        file.write(data)
    return name
"""


class RuntimeJob:
    """A job in `folder`; `script` is the text of a Python program unless `command` is given."""

    def __init__(self, folder: Path, script: str = "", python: str = sys.executable, **request: Any) -> None:
        self.folder, self.python = folder, python
        self.job, self.work = folder / "job", folder / "work"
        self.work.mkdir(parents=True)
        shutil.copytree(RUNTIME, self.job / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
        self.script = folder / "script.py"
        self.script.write_text(script)
        self.request = {
            "format": 1,
            "run_id": "test_1500000000000",
            "command": [python, str(self.script)],
            "cwd": str(self.work),
            "environment": {},
            "timeout": None,
            "grace": 10.0,
            "log_limit": 1 << 30,
            **request,
        }
        (self.job / "request.json").write_text(json.dumps(self.request))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *prefix: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start the runtime, behind another program when there is a prefix."""
        command = [
            *prefix,
            self.python,
            "-S",
            "-E",
            "-s",
            str(self.job / "runtime" / "main.py"),
            str(self.job),
        ]
        # what most people have not set, and what changes how output is passed on
        usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        self.process = subprocess.Popen(command, **{"env": usual, **options})
        return self.process

    def run(self, timeout: float = 60, **options: Any) -> dict[str, Any]:
        """Run to the end; the ending."""
        self.start(**options)
        return self.wait(timeout)

    def wait(self, timeout: float = 60) -> dict[str, Any]:
        """The ending, once the runtime is gone."""
        assert self.process is not None
        try:
            assert self.process.wait(timeout) == 0, self.diagnosis()
        finally:
            self.process.kill()
            self.process.wait()
        return self.ending()

    def ending(self) -> dict[str, Any]:
        """`exit.json`."""
        ending: dict[str, Any] = json.loads((self.job / "exit.json").read_text())
        return ending

    def diagnosis(self) -> str:
        """What the runtime said of itself."""
        path = self.job / "runtime.log"
        return path.read_text() if path.exists() else ""

    @property
    def log(self) -> bytes:
        """The log now."""
        path = self.job / "log"
        return path.read_bytes() if path.exists() else b""

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Whole lines of `events.jsonl`, the first left out."""
        lines = (self.job / "events.jsonl").read_text().split("\n")
        found = [json.loads(line, parse_constant=_refuse) for line in lines[1:-1]]
        return [event for event in found if kind in (None, event["type"])]

    def warnings(self) -> list[str]:
        """Codes of the warnings."""
        return [event["code"] for event in self.events("warning")]

    def stderr(self) -> bytes:
        """The bytes of the log that the events say are stderr."""
        log = self.log
        return b"".join(log[event["start"] : event["end"]] for event in self.events("stderr"))

    def wait_for(self, condition: Callable[[], object], timeout: float = 20) -> None:
        """Poll until something holds."""
        until = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < until, f"it never held; log {self.log[-500:]!r} {self.diagnosis()}"
            time.sleep(0.005)

    def wait_for_log(self, text: bytes, timeout: float = 20) -> None:
        """Until the log holds a text."""
        self.wait_for(lambda: text in self.log, timeout)

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Signal the runtime."""
        assert self.process is not None
        self.process.send_signal(number)


def _refuse(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def start_time(pid: int) -> str:
    """Field 22 of the process's stat."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def end(pid: int) -> None:
    """Kill what a failed test left."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
