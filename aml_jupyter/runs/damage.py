"""Looks for damage everywhere below AML_HOME but in the snapshot store, which has its own check."""

from __future__ import annotations

import json
import os
import sqlite3
import time

from aml_jupyter.confined import MissingFile, Root, is_temporary, open_regular, read_bounded
from aml_jupyter.errors import AmlError
from aml_jupyter.frozen import Value
from aml_jupyter.runs.directory import (
    LARGEST,
    RunDirectory,
    all_directories,
    at,
    entered,
    project_folders,
    trash_of,
)
from aml_jupyter.runs.evidence import read_labels
from aml_jupyter.runs.groups import group_files, read_group
from aml_jupyter.runs.record import load_record
from aml_jupyter.sealed import unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from aml_jupyter.runs.index import History
    from aml_jupyter.runs.record import Record

# a submit takes no longer; until then its directory is being made, not broken; seconds
BEING_MADE = 600.0
_REBUILD = "aml check --rebuild makes the index anew from the run directories; no run is lost."


class Finding(Value):
    """One damage: a stable code, the file, what is wrong with it, and what to do."""

    code: str
    path: str
    message: str = ""
    hint: str = ""
    run_id: str = ""


def check(home: str, *, history: History | None = None) -> list[Finding]:
    """Every damage in ids, runs, artifacts and index.  Changes nothing but what is due in the index."""
    from aml_jupyter.runs.index import History

    if history is None:
        with History(home) as opened:
            return check(home, history=opened)
    directories = {one.run_id: one for one in all_directories(home)}
    findings = [*_check_ids(home, directories), *_check_leftovers(home)]
    for run_id in sorted(directories):
        findings += check_run(directories[run_id])
    findings += [*_check_unclaimed(home, directories), *_check_groups(home)]
    return findings + _check_index(history, directories)


def check_run(directory: RunDirectory) -> list[Finding]:
    """Every damage of one run; none of one that is removed meanwhile."""
    try:
        findings = [finding.replace(run_id=directory.run_id) for finding in _check_run(directory)]
    except FileNotFoundError:
        if os.path.lexists(directory.path):
            raise
    return findings if os.path.lexists(directory.path) else []


def _check_run(directory: RunDirectory) -> Iterator[Finding]:
    if not os.path.lexists(directory.run_json):
        if _age(directory.path) <= BEING_MADE:
            return
        if has_run(directory):
            yield Finding(
                code="record.missing",
                path=directory.run_json,
                message="the run has no record any more",
                hint=f"Its log, events and artifacts are still in {directory.path}; nothing removes them.",
            )
        else:
            yield Finding(
                code="run.half_made",
                path=directory.path,
                message="a submit was ended before the run was whole",
                hint="aml gc removes it; nothing of it ever ran.",
            )
        return
    try:
        record = load_record(directory)
    except AmlError as error:
        yield Finding(
            code=error.code,
            path=directory.run_json,
            message=error.message,
            hint=f"Its log, events and artifacts are still in {directory.path}; aml rm removes the run.",
        )
        return
    if record.run_id != directory.run_id:
        yield Finding(
            code="record.misplaced",
            path=directory.run_json,
            message=f"it is the record of {record.run_id}",
            hint="Give the folder its own name again.",
        )
    if not os.path.lexists(f"{directory.home}/ids/{directory.run_id}"):
        yield Finding(
            code="id.missing",
            path=f"{directory.home}/ids/{directory.run_id}",
            message="the run has no entry among the ids",
            hint="aml check --rebuild puts it back.",
        )
    yield from _check_labels(directory)
    yield from _check_job(directory, record)
    yield from _check_artifacts(directory, record)


def has_run(directory: RunDirectory) -> bool:
    """Whether something was started in a run directory, so that there is something to lose."""
    paths = (directory.started_json, directory.exit_json, directory.artifacts_json, directory.starting)
    return any(map(os.path.lexists, paths))


def _check_labels(directory: RunDirectory) -> Iterator[Finding]:
    try:
        read_labels(directory)
    except AmlError as error:
        yield Finding(
            code="labels.corrupt",
            path=directory.labels_json,
            message=error.message,
            hint="Remove the file and add name and tags again.",
        )


def _check_job(directory: RunDirectory, record: Record) -> Iterator[Finding]:
    documents = {}
    names = ("request.json", "started.json", "exit.json", "cell.json")
    for path in [*(f"{directory.job}/{name}" for name in names), directory.handle_json, directory.cancel]:
        try:
            documents[os.path.basename(path)] = json.loads(read_bounded(path, LARGEST))
        except MissingFile:
            continue
        except (AmlError, ValueError, RecursionError) as error:
            yield Finding(code="job.corrupt", path=path, message=str(error), hint=_AGAIN)
    ending = documents.get("exit.json")
    if isinstance(ending, dict):
        yield from _check_ending(directory, record, ending)
    yield from _check_events(directory)
    not_fetched = _elsewhere(directory) is None and not os.path.lexists(directory.job + "/cell.py")
    if record.cell_sha256 and not not_fetched and _sha256(directory.job + "/cell.py") != record.cell_sha256:
        yield Finding(
            code="cell.changed",
            path=directory.job + "/cell.py",
            message="it is not the cell that ran",
            hint="The result stands; it cannot be run again from here.",
        )


def _check_ending(directory: RunDirectory, record: Record, ending: dict[str, object]) -> Iterator[Finding]:
    if ending.get("run_id") != directory.run_id or (
        record.ended and (ending.get("exit_code"), ending.get("signal")) != (record.exit_code, record.signal)
    ):
        yield Finding(
            code="job.corrupt",
            path=directory.exit_json,
            message="it does not fit the record of the run",
            hint="The record holds the ending; aml show prints it.",
        )
    size = ending.get("log_bytes")
    if isinstance(size, int) and not ending.get("log_dropped") and size != _size(directory.log):
        yield Finding(
            code="log.changed",
            path=directory.log,
            message=f"it should have {size} bytes and has {_size(directory.log)}",
            hint=_AGAIN,
        )


_AGAIN = "The result stands; run it again from its snapshot to have this whole again."


def _check_events(directory: RunDirectory) -> Iterator[Finding]:
    try:
        # a script may have put anything there: a FIFO would be waited for, for ever
        with os.fdopen(open_regular(directory.events_jsonl, follow=True)[0], "rb") as file:
            for line in file:
                if line.endswith(b"\n"):  # what a crash cut off is no damage
                    json.loads(line)
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError, AmlError) as error:
        yield Finding(code="events.corrupt", path=directory.events_jsonl, message=str(error), hint=_AGAIN)


def _check_artifacts(directory: RunDirectory, record: Record) -> Iterator[Finding]:
    path = directory.artifacts_json
    try:
        manifest = unseal(read_bounded(path, LARGEST), path)
    except MissingFile:
        if record.artifacts:
            message = f"{record.artifacts} artifacts were kept, and their list is gone"
            yield Finding(code="artifacts.missing", path=path, message=message, hint=_IN_STORE)
        return
    except AmlError as error:
        yield Finding(code="artifacts.corrupt", path=path, message=error.message, hint=_IN_STORE)
        return
    folder = directory.home + "/artifacts"
    if manifest.get("store") != "folder" or not manifest.get("files"):
        return
    try:
        with Root(folder) as root:
            yield from _check_stored(root, manifest, _elsewhere(directory))
    except MissingFile as error:
        if _elsewhere(directory) == {}:
            yield Finding(code="artifact.missing", path=folder, message=error.message, hint=_AGAIN)


_IN_STORE = "The files themselves are below artifacts/ExperimentRun/ in AML_HOME, by the run's id."


def _elsewhere(directory: RunDirectory) -> dict[str, Any] | None:
    """What a store confirmed to have of a run, by path; None where it has all, {} where there is no store."""
    try:
        place = unseal(read_bounded(directory.path + "/remote.json", LARGEST), directory.path)
    except AmlError:  # none, or damaged: then the copies here are all there is
        return {}
    sent = place.get("sent")
    return None if place.get("pulled") else sent if isinstance(sent, dict) else {}


def _check_stored(
    root: Root, manifest: dict[str, Any], elsewhere: dict[str, Any] | None
) -> Iterator[Finding]:
    import hashlib

    known = set()
    for item in manifest["files"]:
        # what is still to be stored elsewhere is here alone
        if item.get("state") not in ("stored", "pending"):
            continue
        known.add(item["key"])
        code, message = "artifact.corrupt", "its bytes are not those that were kept"
        try:
            with os.fdopen(root.open_file(item["key"]), "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == item.get("sha256"):
                    continue
        except AmlError as error:
            if error.code == "path.missing" and (
                elsewhere is None or elsewhere.get(item["path"]) == item.get("sha256")
            ):
                continue  # it is fetched when somebody asks for it
            code, message = "artifact.missing", error.message
        except OSError as error:
            code, message = "artifact.unreadable", os.strerror(error.errno or 5)
        yield Finding(
            code=code, path=f"{root.path}/{item['key']}", message=f"{item['path']}: {message}", hint=_AGAIN
        )
    for entry in root.walk(str(manifest["prefix"])):
        # what a killed writer left is no damage: aml gc takes it away
        ours = entry.name == ".uuid" or is_temporary(entry.name)
        if entry.kind == "file" and entry.path not in known and not ours:
            path = f"{root.path}/{entry.path}"
            yield Finding(
                code="artifact.unlisted",
                path=path,
                message="no manifest lists it",
                hint="Remove it when you do not need it.",
            )


def _check_ids(home: str, directories: dict[str, RunDirectory]) -> Iterator[Finding]:
    try:
        names = sorted(os.listdir(home + "/ids"))
    except FileNotFoundError:
        return
    for run_id in names:
        path = f"{home}/ids/{run_id}"
        if run_id not in directories:
            if _age(path) > BEING_MADE and at(trash_of(home), run_id) is None:
                message = "there is no run of this id"
                yield Finding(
                    code="id.orphan", path=path, message=message, hint="Remove the file.", run_id=run_id
                )
        elif entered(home, run_id) is None and os.path.exists(directories[run_id].run_json):
            message = "it does not say where the run is"
            hint = "aml check --rebuild writes it again."
            yield Finding(code="id.damaged", path=path, message=message, hint=hint, run_id=run_id)


def _check_leftovers(home: str) -> Iterator[Finding]:
    for folder in project_folders(home) + project_folders(trash_of(home)):
        for name in sorted(os.listdir(folder)):
            if name.startswith(".removing-"):
                yield Finding(
                    code="run.half_removed",
                    path=f"{folder}/{name}",
                    message="a run was removed only in part",
                    hint="aml gc removes the rest.",
                )


def _check_groups(home: str) -> Iterator[Finding]:
    for experiment_id, path in group_files(home):
        try:
            read_group(home, experiment_id)
        except AmlError as error:
            yield Finding(
                code=error.code,
                path=path,
                message=error.message,
                hint="Remove the file: only which runs were compared, and the verdict, is lost.",
            )


def _check_unclaimed(home: str, directories: dict[str, RunDirectory]) -> Iterator[Finding]:
    try:
        names = sorted(os.listdir(home + "/artifacts/ExperimentRun"))
    except FileNotFoundError:
        return
    for name in names:
        if name not in directories and name[:-5] not in directories and not _in_trash(home, name):
            yield Finding(
                code="artifact.orphan",
                path=f"{home}/artifacts/ExperimentRun/{name}",
                message="these artifacts belong to no run",
                hint="Remove the folder when you do not need them.",
            )


def _in_trash(home: str, name: str) -> bool:
    """Whether artifacts are those of a run in the trash, whose move was killed before they followed it."""
    return any(at(trash_of(home), run_id) is not None for run_id in (name, name[:-5]))


def _check_index(history: History, directories: dict[str, RunDirectory]) -> list[Finding]:
    path = history.path
    if not os.path.lexists(path):
        return []
    findings = []
    try:
        findings = [
            Finding(code="index.corrupt", path=path, message=text, hint=_REBUILD)
            for text in history.integrity()
        ]
        history.refresh()
        for run_id, message in history.differences(directories):
            findings.append(
                Finding(code="index.differs", path=path, message=message, hint=_REBUILD, run_id=run_id)
            )
    except (sqlite3.Error, UnicodeError) as error:
        findings.append(Finding(code="index.corrupt", path=path, message=str(error), hint=_REBUILD))
    if history.notice:
        findings.append(Finding(code="index.corrupt", path=path, message=history.notice, hint=_REBUILD))
    return findings


def _age(path: str) -> float:
    """Seconds since a change; 0 for what somebody has just removed."""
    try:
        return time.time() - os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def _sha256(path: str) -> str:
    import hashlib

    try:
        return hashlib.sha256(read_bounded(path, LARGEST)).hexdigest()
    except AmlError:
        return ""
