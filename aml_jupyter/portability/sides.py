"""A run as far as it is compared: read from its directory, without what only its place makes different."""

from __future__ import annotations

import os
import re

from aml_jupyter import artifacts, plainjson
from aml_jupyter.collection import read_events
from aml_jupyter.confined import open_regular, read_bounded
from aml_jupyter.errors import ConfinedError
from aml_jupyter.portability.verdicts import Side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from aml_jupyter.runs import Record, RunDirectory

# what is compared of a log, and of one line of it, in bytes; displays
LARGEST_LOG, LONGEST_LINE, MOST_SHOWN = 64 << 20, 1 << 16, 10_000
_LARGEST_LIST = 16 << 20
# the same folders as a container names them
_IN_CONTAINER = (("/azureml-run", "<work>"), ("/azureml-share", "<share>"))
_ADDRESS = r"\b0x[0-9a-fA-F]{6,}"


def side_of(directory: RunDirectory, target: str, record: Record) -> Side:
    """All of a run that is compared; its log is read when it is asked for."""
    manifest = artifacts.read_manifest(directory) or artifacts.Manifest()
    return Side(
        target=target,
        record=record,
        artifacts=manifest.files,
        lines=Lines(directory, record),
        shown=Shown(directory, record),
        packages=packages_of(directory.home, record.environment),
    )


def packages_of(home: str, environment: Mapping[str, Any]) -> dict[str, str] | None:
    """Versions by name of the packages that a record names; None where the list is gone or never was."""
    digest = str(environment.get("digest") or "")
    if not digest.isalnum():
        return None
    try:
        found = plainjson.loads(read_bounded(f"{home}/environments/{digest}.json", _LARGEST_LIST))
        return {str(name): str(version) for name, version in found["packages"].items()}
    except (ConfinedError, ValueError, KeyError, TypeError, AttributeError):
        return None


class _Texts:
    """Texts of a run without its id, its folders and addresses in memory."""

    def __init__(self, directory: RunDirectory, record: Record) -> None:
        self.directory = directory
        share = (record.share or "").rstrip("/")
        self.places = [
            (directory.work, "<work>"),
            (directory.path, "<run>"),
            *([(share, "<share>")] if share else []),
            *_IN_CONTAINER,
            (directory.run_id, "<run id>"),
        ]

    def plain(self, text: str) -> str:
        for place, name in self.places:
            if place in text:
                text = text.replace(place, name)
        return re.sub(_ADDRESS, "0x…", text) if "0x" in text else text


class Lines(_Texts):
    """The lines of a log, at most its first 64 MiB."""

    def __iter__(self) -> Iterator[str]:
        try:
            fd, _ = open_regular(self.directory.log)
        except (OSError, ConfinedError):  # nothing was printed, or it is none of ours
            return
        done = 0
        with os.fdopen(fd, "rb") as file:
            while done < LARGEST_LOG and (line := file.readline(LONGEST_LINE)):
                done += len(line)
                yield self.plain(line.decode(errors="replace").rstrip("\r\n"))


class Shown(_Texts):
    """The texts of what a cell displayed, the value of its last expression among them."""

    def __iter__(self) -> Iterator[str]:
        left = MOST_SHOWN
        for event in read_events(self.directory.events_jsonl):
            data = event.get("data")
            if event["type"] in ("display", "result") and isinstance(data, dict) and left:
                left -= 1
                yield self.plain(str(data.get("text/plain", "")))
