"""Runs of the history into an MLflow server: once, however often that is asked for."""

from __future__ import annotations

import hashlib
import json
import re
import time
import urllib.parse

from aml_jupyter import artifacts
from aml_jupyter.errors import AmlError
from aml_jupyter.frozen import Value
from aml_jupyter.interchange.server import NotThere, Server, identifier, part
from aml_jupyter.interchange.words import (
    ExportFailed,
    Point,
    ended,
    finite,
    image_bytes,
    log_blocks,
    log_size,
    milliseconds,
    parameters,
    points,
    tables_and_images,
    texts,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from aml_jupyter.runs import Record, RunDirectory

UUID_TAG, ID_TAG = "aml.run_uuid", "aml.run_id"
# what was sent completely, in one word: all of the run, all of its files
DONE_TAG, FILES_TAG = "aml.exported", "aml.exported_files"
STATUS = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}
KEY, PARAM, TAG = 250, 6000, 5000  # characters that servers take
METRICS_AT_ONCE, WORDS_AT_ONCE = 1000, 100
TELL_EVERY = 2.0  # seconds
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
# what an MLflow client had logged inside the run gets the path it had for it
OWN_FOLDERS = ("outputs/mlflow/", "outputs/mlflow-models/")
_STRANGE = re.compile(r"[^/\w.\- :]")


class Exported(Value):
    """One run at the server; `state` is exported, completed (the rest of it was sent) or unchanged."""

    run_id: str
    mlflow_run_id: str
    experiment_id: str
    url: str
    state: str
    metrics: int = 0
    artifacts: int = 0


class _File(Value):
    """One artifact on its way: its path there, size, and the bytes anew each time."""

    path: str
    size: int
    blocks: Callable[[], Iterator[bytes]]


def export(
    directory: RunDirectory,
    server: Server,
    *,
    experiment: str | None = None,
    with_artifacts: bool = True,
    tell: Callable[[str], None] = lambda _text: None,
) -> Exported:
    """Bring one run to the server: times, status, parameters, metrics with their steps, tags, artifacts, log.

    A run that is there already gets only what it lacks.  Raises ExportFailed, ArtifactError.
    """
    record = ended(directory)
    where = _experiment(server, experiment or record.project or "Default")
    found = _search(server, where, UUID_TAG, record.uuid or record.run_id)
    files = _fingerprint([(item.path, item.sha256) for item in _kept(directory)]) if with_artifacts else ""
    mark = _fingerprint(_facts(record, files))
    state = "exported"
    tags: dict[str, str] = {}
    if found is not None:
        tags = _tags(found)
        if tags.get(DONE_TAG) == mark:
            return _result(server, record, part(found, "info"), "unchanged")
        state = "completed"
    else:
        found = _create(server, where, record)
    info = part(found, "info")
    run_id = identifier(info.get("run_id"))
    _words(server, run_id, record, _parent(server, where, record))
    sent = _send_points(server, run_id, points(directory, record), resumed=state == "completed")
    count = 0
    if with_artifacts and tags.get(FILES_TAG) != files:
        count = _send_files(server, str(info.get("artifact_uri", "")), directory, record, tell)
        server.post("runs/set-tag", {"run_id": run_id, "key": FILES_TAG, "value": files})
    server.post(
        "runs/update",
        {
            "run_id": run_id,
            "status": STATUS.get(record.status, "FAILED"),
            "end_time": milliseconds(record.end_time_utc),
            "run_name": record.name or record.run_id,
        },
    )
    server.post("runs/set-tag", {"run_id": run_id, "key": DONE_TAG, "value": mark})
    return _result(server, record, info, state, metrics=sent, artifacts=count)


def _result(
    server: Server, record: Record, info: dict[str, Any], state: str, metrics: int = 0, artifacts: int = 0
) -> Exported:
    experiment, run_id = identifier(info.get("experiment_id")), identifier(info.get("run_id"))
    return Exported(
        run_id=record.run_id,
        mlflow_run_id=run_id,
        experiment_id=experiment,
        url=f"{server.url}/#/experiments/{experiment}/runs/{run_id}",
        state=state,
        metrics=metrics,
        artifacts=artifacts,
    )


def _fingerprint(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode("ascii")).hexdigest()


def _facts(record: Record, files: str) -> list[object]:
    """What an export sends: where it is another one, something is to be sent."""
    labels = [record.name, record.note, record.description, sorted(record.tags.items())]
    words = [sorted(parameters(record).items()), record.parent_run_id]
    return [record.status, record.end_time_utc, labels, words, files]


# ---- experiments and runs ----------------------------------------------------------------------------------


def _experiment(server: Server, name: str) -> str:
    try:
        found = part(server.get("experiments/get-by-name", experiment_name=name), "experiment")
    except NotThere:
        try:
            return identifier(
                server.post("experiments/create", {"name": name}, again=False).get("experiment_id")
            )
        except ExportFailed:  # somebody else was faster
            found = part(server.get("experiments/get-by-name", experiment_name=name), "experiment")
    if found.get("lifecycle_stage") == "deleted":
        raise ExportFailed(
            f"the experiment {name!r} of {server.url} was deleted",
            hint="Restore it there, or name another one: --experiment NAME",
        )
    return identifier(found.get("experiment_id"))


def _search(server: Server, experiment: str, tag: str, value: str) -> dict[str, Any] | None:
    quoted = value.replace("'", "")
    body = {"experiment_ids": [experiment], "filter": f"tags.`{tag}` = '{quoted}'", "max_results": 1}
    found = server.post("runs/search", body).get("runs") or []
    return part({"run": found[0]}, "run") if isinstance(found, list) and found else None


def _tags(run: dict[str, Any]) -> dict[str, str]:
    data = run.get("data")
    tags = data.get("tags") if isinstance(data, dict) else None
    pairs = tags if isinstance(tags, list) else []
    return {str(one.get("key")): str(one.get("value", "")) for one in pairs if isinstance(one, dict)}


def _create(server: Server, experiment: str, record: Record) -> dict[str, Any]:
    identity = {UUID_TAG: record.uuid or record.run_id, ID_TAG: record.run_id}
    body = {
        "experiment_id": experiment,
        "run_name": record.name or record.run_id,
        "user_id": record.user_id,
        "start_time": milliseconds(record.start_time_utc or record.created_utc),
        "tags": [{"key": key, "value": value} for key, value in identity.items()],
    }
    try:
        return part(server.post("runs/create", body, again=False), "run")
    except ExportFailed:
        found = _search(server, experiment, UUID_TAG, identity[UUID_TAG])
        if found is None:
            raise
        return found  # it was made, and the answer lost


def _parent(server: Server, experiment: str, record: Record) -> str | None:
    if not record.parent_run_id:
        return None
    found = _search(server, experiment, ID_TAG, record.parent_run_id)
    return identifier(part(found, "info").get("run_id")) if found else None


# ---- words -------------------------------------------------------------------------------------------------


def _words(server: Server, run_id: str, record: Record, parent: str | None) -> None:
    """Send parameters and tags; a parameter that is there with the same value is taken once more."""
    params = _named({name: value[:PARAM] for name, value in parameters(record).items()})
    tags = _all_tags(record, parent)
    for batch in _batches(list(params.items())):
        body = [{"key": key, "value": value} for key, value in batch]
        server.post("runs/log-batch", {"run_id": run_id, "params": body})
    for batch in _batches(list(tags.items())):
        body = [{"key": key, "value": value[:TAG]} for key, value in batch]
        server.post("runs/log-batch", {"run_id": run_id, "tags": body})


def _batches(words: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    for start in range(0, len(words), WORDS_AT_ONCE):
        yield words[start : start + WORDS_AT_ONCE]


def _all_tags(record: Record, parent: str | None) -> dict[str, str]:
    told = record.properties.get("mlflow")
    logged = told.get("tags") if isinstance(told, dict) else None
    facts: dict[str, object] = {
        **{f"text.{name}": value for name, value in texts(record).items()},
        **(logged if isinstance(logged, dict) else {}),
        **record.tags,
        "mlflow.source.name": record.script_name or record.notebook or "cell",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": (record.git or {}).get("commit"),
        "mlflow.user": record.user_id,
        "mlflow.note.content": record.note or record.description,
        "mlflow.runName": record.name or record.run_id,
        "mlflow.parentRunId": parent,
        ID_TAG: record.run_id,
        UUID_TAG: record.uuid or record.run_id,
        "aml.status": record.status,
        "aml.reason": record.reason,
        "aml.target": record.target,
        "aml.arguments": " ".join(record.arguments),
        "aml.python": record.python_version,
        "aml.snapshot": record.snapshot_id,
        "aml.environment": record.environment.get("lock") or record.environment.get("digest"),
        "aml.duration": record.duration,
        "aml.rerun_of": record.properties.get("rerun_of"),
    }
    return _named({name: str(value) for name, value in facts.items() if value not in (None, "")})


def _named(words: dict[str, str]) -> dict[str, str]:
    """The same under names that servers take; two that become one are told apart."""
    found: dict[str, str] = {}
    for name, value in words.items():
        plain = base = _name(name)
        count = 1
        while plain in found:
            count += 1
            plain = f"{base[: KEY - 6]}_{count}"
        found[plain] = value
    return found


def _name(name: str) -> str:
    """A name in MLflow's grammar: also a path, without empty parts, `.` and `..`."""
    text = _STRANGE.sub("_", name.encode("utf-8", "replace").decode())[:KEY]
    parts = [part if part.strip(".") else "_" * max(1, len(part)) for part in text.split("/")]
    return "/".join(parts)


# ---- metrics -----------------------------------------------------------------------------------------------


def _send_points(server: Server, run_id: str, found: Iterator[Point], *, resumed: bool) -> int:
    there: dict[str, int] = {}
    batch: list[dict[str, object]] = []
    sent = 0
    for point in found:
        name = _name(point.name)
        if resumed and name not in there:
            there[name] = _count(server, run_id, name)
        if there.get(name, 0) > 0:
            there[name] -= 1
            continue
        batch.append(
            {"key": name, "value": _plain(point.value), "timestamp": point.moment, "step": point.step}
        )
        sent += 1
        if len(batch) == METRICS_AT_ONCE:
            server.post("runs/log-batch", {"run_id": run_id, "metrics": batch})
            batch = []
    if batch:
        server.post("runs/log-batch", {"run_id": run_id, "metrics": batch})
    return sent


def _plain(value: float) -> float | str:
    if value != value:  # noqa: PLR0124 - NaN, by the name that it has in MLflow's JSON
        return "NaN"
    return value if abs(value) != float("inf") else "Infinity" if value > 0 else "-Infinity"


def _count(server: Server, run_id: str, name: str) -> int:
    """How many values of a metric the server has."""
    count, token = 0, ""
    while True:
        query = {"run_id": run_id, "metric_key": name, "max_results": 10_000}
        found = server.get("metrics/get-history", **query, **({"page_token": token} if token else {}))
        count += len(found.get("metrics") or [])
        token = str(found.get("next_page_token") or "")
        if not token:
            return count


# ---- artifacts ---------------------------------------------------------------------------------------------


def _send_files(
    server: Server, root: str, directory: RunDirectory, record: Record, tell: Callable[[str], None]
) -> int:
    count, told = 0, time.monotonic()
    for file in _files(directory, record):
        count += 1
        if time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            tell(f"{record.run_id}: {count} files so far")
        _put(server, root, file)
    return count


def _kept(directory: RunDirectory) -> list[artifacts.Artifact]:
    return [item for item in artifacts.listing(directory) if item.state != "rejected"]


def _files(directory: RunDirectory, record: Record) -> Iterator[_File]:
    """Every file to send, under paths that servers take; those that had to change are listed in one more."""
    changed: dict[str, str] = {}
    taken: set[str] = set()
    for file in _all_files(directory, record):
        plain = base = _path(file.path)
        count = 1
        while plain in taken:
            count += 1
            plain = f"{base}_{count}"
        taken.add(plain)
        if plain != file.path:
            changed[plain] = file.path
        yield file.replace(path=plain)
    if changed:
        yield _whole_file("aml/names.json", json.dumps(changed, indent=1).encode("ascii"))


def _path(path: str) -> str:
    """A path without what servers refuse, decode or take for something else."""
    text = path.encode("utf-8", "replace").decode()
    text = "".join(one if one.isprintable() else "_" for one in text)
    return re.sub(r"[#?%;\\]|^(\w+):", lambda found: f"{found[1] or ''}_", text)


def _all_files(directory: RunDirectory, record: Record) -> Iterator[_File]:
    """Artifacts, logged tables and images, the log, the record."""
    kept = _kept(directory)
    taken = {item.path for item in kept}
    for item in kept:
        path = item.path
        for folder in OWN_FOLDERS:
            inner = item.path.removeprefix(folder)
            if inner != item.path and inner not in taken:
                path = inner
                taken.add(inner)
        yield _File(path=path, size=item.size, blocks=_reader(directory, item.path))
    for one in tables_and_images(directory):
        name = _name(one.name).replace(":", "_")
        try:
            if one.kind == "image":
                data = image_bytes(directory, one)
                ending = str(one.value.get("mime", "")).partition("/")[2].partition("+")[0]
                path = f"aml/images/{name}.{ending if ending.isalnum() else 'bin'}"
            else:
                columns = {key: value for key, value in one.value.items() if isinstance(value, list)}
                rows = [list(row) for row in zip(*columns.values(), strict=False)]
                data = json.dumps({"columns": list(columns), "data": rows}).encode("ascii")
                path = f"aml/tables/{name}.json"
        except (AmlError, OSError):  # lost or damaged: the record tells of it
            continue
        yield _whole_file(path, data)
    size = log_size(directory)
    if size:
        yield _File(path="aml/log.txt", size=size, blocks=lambda: log_blocks(directory, size))
    yield _whole_file("aml/run.json", json.dumps(finite(_public(record)), indent=1).encode("ascii"))


def _reader(directory: RunDirectory, path: str) -> Callable[[], Iterator[bytes]]:
    return lambda: artifacts.read_blocks(directory, path)


def _whole_file(path: str, data: bytes) -> _File:
    return _File(path=path, size=len(data), blocks=lambda: iter([data] if data else []))


def _public(record: Record) -> dict[str, Any]:
    """The record without what concerns this computer alone."""
    private = ("supervisor", "project_root", "share", "crc32", "heartbeat_enabled")
    return {name: value for name, value in record.to_json().items() if name not in private}


def _put(server: Server, root: str, file: _File) -> None:
    found = urllib.parse.urlsplit(root)
    if found.scheme != "mlflow-artifacts" or found.netloc not in (
        "",
        urllib.parse.urlsplit(server.url).netloc,
    ):
        shown = urllib.parse.urlunsplit((found.scheme, found.netloc.rpartition("@")[2], found.path, "", ""))
        raise ExportFailed(
            f"{server.url} takes no artifacts itself: clients are to write to {shown[:200]}",
            code="export.artifacts",
            hint="Start it with --serve-artifacts, or leave them out: --no-artifacts",
        )
    parts = [
        urllib.parse.unquote(found.path).strip("/"),
        *file.path.split("/"),
    ]
    path = ARTIFACTS + "/".join(urllib.parse.quote(part, safe="/") for part in parts)
    server.put(path, file.blocks, file.size)
