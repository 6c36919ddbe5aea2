"""A machine behind ssh for tests: a real sshd and a real engine of its own, a home, and a line to them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.experiment import Request
from aml_jupyter.runs import Record, RunDirectory
from tests.engines import BASE_IMAGE, PrivateEngine
from tests.line import Line
from tests.sshd import Sshd
from tests.terminal import until

# says that it began, once for each time
STARTED = """
share = os.environ["AZUREML_NATIVE_SHARE_DIRECTORY"]
open(share + "started", "a").write(os.environ["AZUREML_RUN_ID"] + "\\n")
"""
# prints until it is told to end, so that what is missing or twice in the log can be seen
COUNTING = f"""
import os, time
{STARTED}
number = 0
while not os.path.exists(share + "go"):
    print("line", number, time.time(), flush=True)
    number += 1
    time.sleep(0.02)
open("outputs/result", "w").write("whole")
print("done", number)
"""
# says what it found, so that a wrong snapshot can be seen
FILES = f"""
import glob, hashlib, os
{STARTED}
for name in sorted(glob.glob("data/*")):
    print(name, hashlib.sha256(open(name, "rb").read()).hexdigest())
open("outputs/result", "w").write("whole")
"""
# a line that is dead is known to be after three seconds
QUICK = ("ServerAliveInterval=1", "ServerAliveCountMax=2", "ControlPersist=20")


class Box:
    """The machine: `home` is that of the login `user`, `line` leads to its sshd."""

    def __init__(self, sshd: Sshd, line: Line, engine: PrivateEngine, home: Path, user: str = "root") -> None:
        self.sshd, self.line, self.engine, self.home, self.user = sshd, line, engine, home, user

    @property
    def options(self) -> str:
        """What AML_SSH_OPTIONS must hold."""
        return " ".join((*self.sshd.options, *QUICK))

    def use(self, project: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
        """Let the target `box` of a project be this machine."""
        monkeypatch.setenv("AML_SSH_OPTIONS", self.options)
        (project / "aml_config/box.compute").write_text(self.compute(**changes))

    def compute(self, **changes: object) -> str:
        """A `.compute` file; a key set to None is left out."""
        lines = {
            "type": "remotedocker",
            "address": f"127.0.0.1:{self.line.port}",
            "username": self.user,
            "baseDockerImage": BASE_IMAGE,
            "sharedVolumes": "true",
            "nativeSharedDirectory": "~/share/",
            "privateKey": self.sshd.user_key,
            "dockerHost": self.engine.host,
            **changes,
        }
        return "".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None)

    def trust(self) -> None:
        """Have its key known, under the port of the line too."""
        kind, blob = self.sshd.host_key.with_suffix(".pub").read_text().split()[:2]
        names = ",".join(f"[127.0.0.1]:{port}" for port in (self.sshd.port, self.line.port))
        Path(self.sshd.known_hosts).write_text(f"{names} {kind} {blob}\n")

    @property
    def remote(self) -> Path:
        """What is kept there."""
        return self.home / ".azureml/remote"

    @property
    def share(self) -> Path:
        """The shared folder of a project that is called `project`."""
        return self.home / "share/local/default/project"

    def left(self) -> list[str]:
        """Folders of runs there."""
        return sorted(path.name for path in (self.remote / "runs").glob("*"))


@contextmanager
def machine(folder: Path, engine: PrivateEngine, user: str = "root", **settings: object) -> Iterator[Box]:
    """A machine with a home below `folder`, or of a `user` with a home of its own."""
    home = folder / "login"
    if user == "root":
        home.mkdir()
        settings["SetEnv"] = f"HOME={home}"
    else:
        home = Path(os.path.expanduser(f"~{user}"))
    with Sshd(**{"MaxSessions": 30, **settings}) as sshd, Line(sshd.port) as line:
        box = Box(sshd, line, engine, home, user)
        box.trust()
        yield box


def end_connections(home: str) -> None:
    """End what still holds a connection of an AML_HOME: the masters of ssh outlive those who made them."""
    for pid in masters(home):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def masters(home: str) -> list[int]:
    """Pids of the ssh processes that keep connections of an AML_HOME."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if words and words[0].endswith(b"ssh") and b"-M" in words and _is_below(words, home):
                found.append(int(entry.name))
    return found


def _is_below(words: list[bytes], home: str) -> bool:
    from aml_jupyter.executors.docker.there import control_folder

    path = words[words.index(b"-S") + 1]
    return path.startswith((os.fsencode(home), os.fsencode(control_folder())))


def submit(project: Path, source: str, target: str = "box", **options: Any) -> RunDirectory:
    """Start a script of a project."""
    (project / "script.py").write_text(source)
    return experiment.submit(Request(script="script.py", target=target, **options))


def run(project: Path, source: str, target: str = "box", timeout: float = 90, **options: Any) -> Record:
    """Run a script of a project to its end."""
    return experiment.wait(submit(project, source, target, **options), timeout)


def states(directory: RunDirectory) -> list[tuple[str, str]]:
    """Each state and its reason."""
    path = Path(directory.status_jsonl)
    lines = path.read_text().splitlines() if path.exists() else []
    return [(one["status"], one["reason"]) for one in map(json.loads, lines)]


def told(directory: RunDirectory) -> str:
    """What preparation and collection said."""
    path = Path(directory.control_log)
    return path.read_text() if path.exists() else ""


def log(directory: RunDirectory) -> str:
    """What the run printed, as far as it is here."""
    path = Path(directory.log)
    return path.read_text() if path.exists() else ""


def wait_for(directory: RunDirectory, text: str, seconds: float = 60) -> None:
    """Until the run has printed a text."""
    until(lambda: text in log(directory), seconds)


def wait_for_state(directory: RunDirectory, status: str, seconds: float = 60) -> None:
    """Until the run was in a state."""
    until(lambda: status in [one for one, _ in states(directory)], seconds)


def supervisor(directory: RunDirectory) -> int:
    """The pid of who looks after a run."""

    def pid() -> int:
        with suppress(FileNotFoundError, ValueError):
            return int(json.loads(Path(directory.supervisor_lock).read_text())["pid"])
        return 0

    return int(until(pid))


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2][:2] == b" Z"
    except FileNotFoundError:
        return True


def kill_supervisor(directory: RunDirectory) -> None:
    """Kill it and wait until it is gone."""
    pid = supervisor(directory)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid))


def pause(seconds: float) -> None:
    """Let time pass in which something must not happen."""
    time.sleep(seconds)


def add_files(project: Path, number: int, size: int) -> dict[str, str]:
    """Files of chance in a project; their hashes as FILES prints them."""
    (project / "data").mkdir()
    found = {}
    for at in range(number):
        content = random.randbytes(size)
        (project / f"data/{at:03}").write_bytes(content)
        found[f"data/{at:03}"] = hashlib.sha256(content).hexdigest()
    return found


def started(box: Box) -> list[str]:
    """Ids of runs, once for each time that a script began."""
    path = box.share / "started"
    return path.read_text().split() if path.exists() else []


def go(box: Box) -> None:
    """Tell COUNTING to end."""
    (box.share / "go").touch()


def assert_whole(directory: RunDirectory) -> list[float]:
    """Every line of COUNTING is in the log, once; when each was printed."""
    *lines, last = Path(directory.log).read_text().splitlines()
    assert [line.rsplit(" ", 1)[0] for line in lines] == [f"line {number}" for number in range(len(lines))]
    assert last == f"done {len(lines)}"
    return [float(line.rsplit(" ", 1)[1]) for line in lines]


def assert_completed(directory: RunDirectory, box: Box, seconds: float = 90) -> None:
    """The run began once, ended well, and has left nothing there."""
    record = experiment.wait(directory, seconds)
    assert (record.status, record.reason) == ("Completed", ""), (
        record.error,
        states(directory),
        told(directory),
    )
    assert record.artifacts == 1
    assert started(box).count(directory.run_id) == 1
    until(lambda: not runs.supervised(directory))
    assert not box.left()
    assert not box.engine.containers(f"label=aml.run={directory.run_id}", "label=aml.role=run")
