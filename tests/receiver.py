"""A small receiver of what a user's process says: one socket and two pipes, read in order of arrival."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

RUNTIME = Path(__file__).parents[1] / "aml_jupyter" / "runtime"


class Outcome:
    """What arrived: `parts` are ("o"|"e"|"1"|"2", bytes) and ("j", event) in order; 1 and 2 are the pipes."""

    def __init__(self, job: Path) -> None:
        self.job = job
        self.parts: list[tuple[str, Any]] = []
        self.times: list[float] = []
        self.status = 0

    def _text(self, kinds: str) -> str:
        return b"".join(data for kind, data in self.parts if kind in kinds).decode(errors="replace")

    @property
    def out(self) -> str:
        """Standard output, through socket or pipe."""
        return self._text("o1")

    @property
    def err(self) -> str:
        """Standard error, through socket or pipe."""
        return self._text("e2")

    @property
    def events(self) -> list[dict[str, Any]]:
        """All messages, in order."""
        return [data for kind, data in self.parts if kind == "j"]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Messages of one type."""
        return [event for event in self.events if event["type"] == kind]

    def data(self, name: str) -> bytes:
        """A file of `data/`."""
        return (self.job / "data" / name).read_bytes()


def make_job(folder: Path, source: str | bytes = "", **cell: Any) -> Path:
    """A job folder with the runtime and a cell in it."""
    job = folder / "job"
    shutil.copytree(RUNTIME, job / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    data = source.encode() if isinstance(source, str) else source
    (job / "cell.py").write_bytes(data)
    asked = {"format": 1, "inputs": [], "outputs": [], "params": {}, **cell}
    (job / "cell.json").write_text(json.dumps(asked))
    (folder / "work" / "outputs").mkdir(parents=True, exist_ok=True)
    return job


def run(
    job: Path, command: list[str], environment: dict[str, str] | None = None, *, timeout: float = 60
) -> Outcome:
    """Run a command as the runtime would, and read all it says until it and its children are done."""
    address = job / "events.sock"
    endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    here = os.open(job, os.O_RDONLY)
    endpoint.bind(f"/proc/self/fd/{here}/events.sock")
    os.close(here)
    unwanted = ("PYTEST", "COV_", "PYTHON", "MPL", "VIRTUAL_ENV")
    values = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
    values.update(
        PYTHONPATH=str(job / "runtime" / "site"),
        AML_JOB=str(job),
        AML_EVENTS=str(address),
        AZUREML_RUN_ID="test_1",
        AZUREML_OUTPUT_DIRECTORY=str(job.parent / "work" / "outputs"),
        MPLBACKEND="module://aml_run.figures",
        HOME=str(job.parent),
        MPLCONFIGDIR=os.environ.get("MPLCONFIGDIR", str(job.parent / "mpl")),
    )
    values.update(environment or {})
    process = subprocess.Popen(
        command, cwd=job.parent / "work", env=values, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    outcome = Outcome(job)
    try:
        _read(process, endpoint, outcome, time.monotonic() + timeout)
        outcome.status = process.wait(5)
    finally:
        process.kill()
        process.wait()
        endpoint.close()
        address.unlink()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
    return outcome


def _read(
    process: subprocess.Popen[bytes], endpoint: socket.socket, outcome: Outcome, deadline: float
) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    pipes = {process.stdout.fileno(): "1", process.stderr.fileno(): "2"}
    while pipes:
        ready, _, _ = select.select([*pipes, endpoint.fileno()], [], [], 0.2)
        assert time.monotonic() < deadline, ("timeout", outcome.out[-2000:], outcome.err[-2000:])
        for fd in [fd for fd in ready if fd in pipes]:
            data = os.read(fd, 1 << 16)
            if data:
                _add(outcome, pipes[fd], data)
            else:
                del pipes[fd]
        if endpoint.fileno() in ready or not pipes:
            _drain(endpoint, outcome)


def _drain(endpoint: socket.socket, outcome: Outcome) -> None:
    while True:
        try:
            message = endpoint.recv(1 << 18, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        kind, payload = message[:1].decode(), message[1:]
        _add(outcome, kind, json.loads(payload) if kind == "j" else payload)


def _add(outcome: Outcome, kind: str, data: Any) -> None:
    outcome.parts.append((kind, data))
    outcome.times.append(time.monotonic())


def run_cell(
    folder: Path,
    python: str,
    source: str | bytes,
    *arguments: str,
    environment: dict[str, str] | None = None,
    **cell: Any,
) -> Outcome:
    """Run a cell with an interpreter."""
    job = make_job(folder, source, **cell)
    return run(job, [python, str(job / "runtime" / "run_cell.py"), *arguments], environment)


def run_script(
    folder: Path, python: str, source: str, *options: str, environment: dict[str, str] | None = None
) -> Outcome:
    """Run a script with an interpreter, with the modules of a run on its path."""
    job = make_job(folder)
    script = folder / "work" / "script.py"
    script.write_text(source)
    return run(job, [python, *options, str(script)], environment)
