"""What a run's program said of its run beside metrics: parameters, tags and datasets, by way of MLflow."""

from __future__ import annotations

from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

NAMES = 1000  # of each kind; a sweep inside one run may log more, which its artifacts can hold
# characters: those of labels and records
NAME, VALUE, TAG_VALUE = 250, 6000, 5000
SIZE = 4 << 20  # characters of all of it, in a record that is read whole
RUN_NAME, NOTE = "mlflow.runName", "mlflow.note.content"
# of the client's own making: where it was called from is known better here
OURS = ("mlflow.source.", "mlflow.user", "mlflow.log-model.")


class Logged(Value):
    """Parameters by name; tags as people give them; a name and a note; what MLflow itself tells."""

    params: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    name: str = ""
    note: str = ""
    mlflow: Mapping[str, Any] = {}


def gather(events: Sequence[Mapping[str, Any]], warnings: list[str]) -> Logged:
    """What these events say, in order; limits that were reached are told in `warnings`."""
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    inner: set[str] = set()
    datasets: list[dict[str, str]] = []
    left_out = size = 0
    for event in events:
        name, value = event.get("name"), event.get("value")
        if not isinstance(name, str) or not name or not name.isprintable() or len(name) > NAME:
            left_out += 1
            continue
        if event["type"] == "tag" and event.get("run"):
            inner.add(name)
        if event["type"] == "tag" and value is None:
            tags.pop(name, None)
            continue
        words = {key: str(event.get(key, ""))[:1000] for key in ("name", "digest", "source_type", "source")}
        size += len(name) + sum(map(len, words.values())) + len(str(value))
        room = {"param": params, "tag": tags, "dataset": datasets}[event["type"]]
        if size > SIZE or (name not in room and len(room) >= NAMES):
            left_out += 1
        elif event["type"] == "dataset":
            datasets.append(words)
        elif event["type"] == "param":
            params.setdefault(name, str(value)[:VALUE])
        else:
            tags[name] = str(value)[:TAG_VALUE]
    if left_out:
        warnings.append(f"{left_out} parameters, tags or datasets that were logged are not in the record")
    return _sorted_out(params, tags, inner, datasets)


def _sorted_out(
    params: dict[str, str], tags: dict[str, str], inner: set[str], datasets: list[dict[str, str]]
) -> Logged:
    name = tags.pop(RUN_NAME, "")
    note = tags.pop(NOTE, "")
    told = {key: value for key, value in tags.items() if key.startswith("mlflow.") or key in inner}
    kept = {key: value for key, value in told.items() if not key.startswith(OURS) and "/mlflow." not in key}
    mlflow: dict[str, Any] = {"tags": kept} if kept else {}
    if datasets:
        mlflow["datasets"] = datasets
    return Logged(
        params=params,
        tags={key: value for key, value in tags.items() if key not in told},
        name=name,
        note=note,
        mlflow=mlflow,
    )
