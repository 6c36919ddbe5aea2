"""How much is on the disk: files, folders, runs."""

from __future__ import annotations

import os

from aml_jupyter.confined import MissingFile, Root
from aml_jupyter.runs.directory import RunDirectory, trash_of
from aml_jupyter.runs.removal import artifacts_of


def places_of(directory: RunDirectory) -> list[str]:
    """Where the files of a run lie: its directory and its artifacts, here or on their way into the trash."""
    prefix = artifacts_of(directory)
    homes = {directory.home, directory.home.removesuffix(trash_of(""))}
    folders = [f"{home}/artifacts/{prefix}" for home in sorted(homes)]
    return [directory.path, *filter(os.path.isdir, folders)]


def bytes_of(directory: RunDirectory) -> int:
    """Bytes of a run: its directory and its artifacts."""
    return sum(map(size_of, places_of(directory)))


def size_of(path: str) -> int:
    """Bytes of a file, or of all files below a folder; 0 when it is gone."""
    try:
        if not os.path.isdir(path):
            return os.lstat(path).st_size
        with Root(path) as root:
            return sum(entry.size for entry in root.walk() if entry.kind == "file")
    except (FileNotFoundError, MissingFile):
        return 0
