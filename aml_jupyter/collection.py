"""What a run leaves behind: metrics from its events, outputs as artifacts, and the list of what is not kept.

Every step may be repeated with the same result: a supervisor can be killed in the middle of it.
"""

from __future__ import annotations

import os

from aml_jupyter import artifacts, plainjson, runs
from aml_jupyter.confined import open_regular
from aml_jupyter.errors import AmlError, ConfinedError
from aml_jupyter.metrics import merge_metrics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from aml_jupyter.job import Exit
    from aml_jupyter.runs import Record, RunDirectory

# how much of the end of a log is searched for the last words of a script, in bytes
TAIL = 4096
MOST_WARNINGS = 100
# events that say something of the run, in words: see logged.py
WORDS = ("param", "tag", "dataset")
MOST_WORDS = 100_000
OURS = frozenset(
    [
        "run.json",
        "status.jsonl",
        "control.log",
        "starting",
        "prepared.json",
        "handle.json",
        "supervisor.lock",
        "cancel",
        "labels.json",
        "labels.lock",
        "git.diff",
        "artifacts.json",
        "artifacts.lock",
        "run.lock",
        "job",
        "work",
        "work.partial",
        "warm",
        "ahead",
        "ahead.json",
    ]
)
# seconds that the clock of a target may be off before that is worth a word
LARGEST_SKEW = 5.0
# bytes of one logged value
LARGEST_VALUE = 64 << 20


def read_events(path: str) -> Iterator[dict[str, Any]]:
    """The events of `events.jsonl` in order; a line that is none, by a script's own hand, is passed over."""
    try:
        fd, _ = open_regular(path)
    except (OSError, ConfinedError):  # none; or a pipe or link that a script put there, which is none of ours
        return
    with os.fdopen(fd, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):  # cut off by a crash
                return
            try:
                event = plainjson.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and isinstance(event.get("type"), str):
                yield event


def collect(
    directory: RunDirectory, record: Record, exit_: Exit | None, log: Callable[[str], None]
) -> dict[str, Any]:
    """Fields of the record that are known at the end.

    A fault of the artifact store goes to the log and into the warnings; it never changes how the run ended.
    """
    warnings = list(record.warnings)
    fields: dict[str, Any] = {}
    for step, what in STEPS:
        try:
            fields.update(step(directory, record, warnings))
        # no space, damage, or what a script made up: the ending matters more than this
        except (OSError, AmlError, RecursionError, MemoryError) as error:
            log(f"{what}: {error}")
            warnings.append(f"{what} are not in the record: {error}")
            if what == ARTIFACTS:
                fields["artifacts_state"] = "failed"
    if exit_ is not None and exit_.oom and not exit_.exit_code and exit_.signal is None:
        warnings.append("a process of the run was ended for lack of memory, yet the script ended well")
    if exit_ is not None and abs(skew := runs.clock_skew(record, exit_)) > LARGEST_SKEW:
        side = "ahead of" if skew > 0 else "behind"
        warnings.append(
            f"the target's clock is {abs(skew):.0f} s {side} this one's: the times are this computer's"
        )
    if exit_ is not None and exit_.leftovers:
        warnings.append(
            f"{exit_.leftovers} processes were still running when the script ended: they were ended"
        )
    if beside := _beside_the_copy(directory):
        warnings.append(f"written beside the working copy, where nothing is kept: {', '.join(beside)}")
    if exit_ is not None and exit_.log_dropped:
        warnings.append(f"{exit_.log_dropped} bytes of output were not kept")
    fields["warnings"] = tuple(warnings)
    return fields


def _merge_metrics(directory: RunDirectory, record: Record, warnings: list[str]) -> dict[str, Any]:
    words: list[dict[str, Any]] = []
    events = _noting(read_events(directory.events_jsonl), warnings, words)

    def read(sha256: str) -> bytes:
        return runs.payload(directory, sha256, LARGEST_VALUE)

    fields: dict[str, Any] = {"metrics": merge_metrics(events, read, warnings)}
    return {**fields, **_keep_words(directory, record, words, warnings)} if words else fields


def _keep_words(
    directory: RunDirectory, record: Record, words: list[dict[str, Any]], warnings: list[str]
) -> dict[str, Any]:
    """Parameters, tags and a name that the program logged; what a person said of the run is left as it is."""
    from aml_jupyter import logged

    found = logged.gather(words, warnings)
    labels = runs.read_labels(directory)
    given = {name: value for name, value in found.tags.items() if name.strip() and name not in labels.tags}
    good = found.name.isprintable() and not found.name.startswith("@") and found.name != record.run_id
    name = found.name[:250] if good and not labels.name else None
    note = found.note if not labels.note else None
    try:
        if given or name or note:
            runs.set_labels(directory, name=name or None, tags=given, note=note or None)
    except (AmlError, OSError) as error:
        warnings.append(f"tags that the program logged are not kept: {error}")
    mlflow = {"mlflow": found.mlflow} if found.mlflow else {}
    return {"logged_params": found.params, "properties": {**record.properties, **mlflow}}


def _keep_artifacts(directory: RunDirectory, _record: Record, warnings: list[str]) -> dict[str, Any]:
    if not os.path.isdir(directory.work):
        return {}
    kept = artifacts.collect(directory)
    warnings.extend(f"{item.path}: {item.reason}" for item in kept.rejected[:MOST_WARNINGS])
    return {"artifacts_state": kept.state, "artifacts": kept.count}


def _list_unkept(directory: RunDirectory, record: Record, _warnings: list[str]) -> dict[str, Any]:
    lost = artifacts.not_kept(directory, record.snapshot_id)
    return {"not_kept": lost.paths, "not_kept_count": lost.count}


def _beside_the_copy(directory: RunDirectory) -> list[str]:
    """Names in the run directory that are none of ours: where a script's `../` leads."""
    names = sorted(set(os.listdir(directory.path)) - OURS)
    return [f"../{name}" for name in names if not name.startswith(".")][:10]


ARTIFACTS = "artifacts"
STEPS = ((_merge_metrics, "metrics"), (_keep_artifacts, ARTIFACTS), (_list_unkept, "files written elsewhere"))


def _noting(
    events: Iterator[dict[str, Any]], warnings: list[str], words: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The events unchanged; what they warn of is added to the warnings, each text once.

    Parameters, tags and datasets are added to `words`, as many as anybody can want.
    """
    for event in events:
        if event["type"] in WORDS and len(words) < MOST_WORDS:
            words.append(event)
        text = event.get("text") if event["type"] == "warning" else None
        if isinstance(text, str) and text not in warnings and len(warnings) < MOST_WARNINGS:
            warnings.append(text)
        yield event


def error_of(directory: RunDirectory) -> str:
    """The exception that ended a cell or a Python script, as Python prints it; empty when none did."""
    error = ""
    for event in read_events(directory.events_jsonl):
        if event["type"] == "error":
            error = f"{event.get('ename')}: {event.get('evalue')}"
    lines = _last_lines(directory.log)
    if not error and any(line.startswith("Traceback (most recent call last)") for line in lines):
        error = next((line for line in reversed(lines) if line.strip()), "")[:500]
    return error


def last_line(directory: RunDirectory) -> str:
    """The last line of the log that is not empty."""
    return next((line.strip()[:200] for line in reversed(_last_lines(directory.log)) if line.strip()), "")


def _last_lines(path: str) -> list[str]:
    try:
        fd, found = open_regular(path)
    except (OSError, ConfinedError):  # none, or none of ours
        return []
    with os.fdopen(fd, "rb") as file:
        file.seek(max(0, found.st_size - TAIL))
        return file.read(TAIL).decode(errors="replace").split("\n")
