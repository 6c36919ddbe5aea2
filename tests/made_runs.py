"""Runs for tests of the history: real directories and real processes, without a supervisor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from aml_jupyter import processes, runs
from aml_jupyter.runs import Record, RunDirectory


class Project:
    """Names a project as the configuration does."""

    def __init__(self, name: str = "iris", account: str = "local", workspace: str = "default") -> None:
        self.account = account
        self.workspace = workspace
        self.name = name
        self.root = "/projects/" + name


PROJECT = Project()


def submit(home: str, project: Project = PROJECT, **fields: Any) -> RunDirectory:
    """A run that was submitted and that nobody started."""
    directory = runs.create(home, project)
    os.makedirs(directory.job)
    os.makedirs(directory.work + "/outputs")
    runs.write_record(directory, runs.new_record(directory, project, **fields), sync=False)
    return directory


def end(directory: RunDirectory, status: str = "Completed", **fields: Any) -> Record:
    """Write the ending of a run."""
    record = runs.load_record(directory).replace(status=status, end_time_utc=runs.utc(), **fields)
    assert runs.write_record(directory, record, sync=False)
    return record


def change(directory: RunDirectory, **fields: Any) -> None:
    """Tell something of an ended run that is known later."""
    assert runs.write_record(directory, runs.load_record(directory).replace(**fields), sync=False)


def finished(home: str, project: Project = PROJECT, **fields: Any) -> RunDirectory:
    """A run that completed."""
    directory = submit(home, project, **fields)
    end(directory)
    return directory


def write(path: str, document: object) -> None:
    """A JSON file as another process would leave it."""
    with open(path, "w", encoding="ascii") as file:
        json.dump(document, file)


def sleeper() -> subprocess.Popen[bytes]:
    """A process that lives until it is killed."""
    return subprocess.Popen(["sleep", "600"])


def ended_identity() -> dict[str, Any]:
    """The identity of a process that has gone."""
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        return processes.identity(process.pid)


def started(directory: RunDirectory, identity: dict[str, Any]) -> None:
    """The runtime's first act."""
    write(directory.started_json, {"format": 1, "run_id": directory.run_id, **identity, "utc": runs.utc()})


def supervised_by(directory: RunDirectory, identity: dict[str, Any]) -> None:
    """A supervisor's name in its lock."""
    write(directory.supervisor_lock, {"format": 1, **identity})


def exited(directory: RunDirectory, exit_code: int = 0) -> None:
    """The runtime's last act."""
    ending = {"exit_code": exit_code, "signal": None, "start_utc": runs.utc(), "end_utc": runs.utc()}
    document = {"format": 1, "run_id": directory.run_id, "duration": 1.5, "log_bytes": 0, **ending}
    write(directory.exit_json, document)


def set_back(path: str, seconds: float) -> None:
    """Make a file older."""
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
