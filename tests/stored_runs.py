"""Runs in stores, for tests: projects, machines that share a store, and a wait for what happens by itself."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import artifacts, commands, pending, pushing, runs
from aml_jupyter.commands.screen import Screen
from aml_jupyter.config import settings
from aml_jupyter.runs import RunDirectory
from tests.azurite import Azurite
from tests.made_runs import PROJECT, Project, end, submit, write

# seconds: nobody waits so long on a machine that is not overwhelmed
PATIENCE = 60.0


def aml(*words: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of a line of `aml`."""
    screen = Screen(io.StringIO(), io.StringIO())
    status = commands.execute(words, screen)
    return status, screen.out.getvalue(), screen.err.getvalue()  # type: ignore[union-attr]


def until(what: Callable[[], Any]) -> Any:
    """Wait for something to be true."""
    due = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < due, "it did not come about"
        time.sleep(0.02)
    return found


def stored(directory: RunDirectory) -> str:
    """Wait until nothing of a run is pending; the state in its record."""
    until(lambda: pending.marked(directory.home, directory.run_id) is None)
    return runs.load_record(directory).artifacts_state


@contextmanager
def machine(home: str, store: str) -> Iterator[str]:
    """From here on everything happens on another machine: its AML_HOME."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AML_HOME", home)
        settings.put(None, settings.STORE, store)
        yield home


def ended_run(
    home: str, outputs: dict[str, bytes], project: Project = PROJECT, **fields: Any
) -> RunDirectory:
    """A run with outputs that has ended, as its supervisor leaves it; nobody has stored it."""
    directory = submit(home, project, **fields)
    write(directory.started_json, {"format": 1})
    for name, data in outputs.items():
        path = Path(os.fsdecode(directory.work)) / "outputs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    Path(directory.log).write_bytes(b"said\n")
    kept = artifacts.collect(directory)
    end(directory, artifacts_state=kept.state, artifacts=kept.count)
    return directory


def push(directory: RunDirectory, store: str) -> pushing.Pushed:
    """Store a run; it must go well."""
    pending.mark(directory.home, directory.run_id, store)
    [done] = pushing.push_marked(directory.home, now=True)
    assert not done.error, done.error
    return done


def blob_store(azurite: Azurite, monkeypatch: pytest.MonkeyPatch, endpoint: str | None = None) -> str:
    """The address of a new container, for this process and all that it starts."""
    connection = azurite.connection_string(endpoint)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
    return f"azblob://{azurite.container()}/team"


def all_files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
