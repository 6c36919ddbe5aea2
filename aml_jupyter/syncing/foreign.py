"""Documents that somebody else wrote into a store: nothing of them is believed before it was looked at.

A document that passes has the types that every reader expects, and names that may be names of files here.
Text stays what it was: whoever shows it escapes it.
"""

from __future__ import annotations

import re
import time
from datetime import datetime

from aml_jupyter import runs
from aml_jupyter.artifacts import Artifact
from aml_jupyter.confined.names import check_found
from aml_jupyter.errors import AmlError, HistoryError, UsageError
from aml_jupyter.job import FORMAT, TERMINAL
from aml_jupyter.runs import Record
from aml_jupyter.runs.labels import check_labels
from aml_jupyter.sealed import unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# bytes, files, and levels of what one run may have
LARGEST_RECORD = 64 << 20
LARGEST_MANIFEST = 256 << 20
MOST_FILES = 200_000
MOST_DETAILS = 100_000
DEEPEST = 60
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?\+00:00")
_LONGEST_NAME = 120
# seconds that the clock of another computer may be ahead
_AHEAD = 86_400

_TEXTS = (
    *("target", "kind", "run_configuration", "interpreter", "python_version", "reason", "user_id"),
    *("project_root", "experiment_id", "artifacts_state"),
)
_TEXTS_OR_NONE = ("framework", "script_name", "cell_sha256", "notebook", "cell_id", "share", "parent_run_id")
_NUMBERS = ("run_number", "snapshot_files", "snapshot_bytes", "artifacts", "not_kept_count")
_NUMBERS_OR_NONE = ("exit_code", "signal")
_LISTS = ("arguments", "environment_names", "environment_secret", "not_kept", "warnings")
_MAPPINGS = ("params", "metrics", "environment", "properties")


def is_name(text: object) -> bool:
    """Whether a text may be the name of a folder below `runs` or `ExperimentRun`."""
    return (
        isinstance(text, str)
        and 0 < len(text.encode("utf-8", "replace")) <= _LONGEST_NAME
        and all(char.isalnum() or char in "._-" for char in text)
        and text[0] not in "-."
        and text[-1] != "."
    )


def is_digest(text: object) -> bool:
    """Whether a text is a SHA-256 in hex."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def record(data: bytes, name: str) -> Record:
    """The record of a run that the store has under a name.  Raises HistoryError `record.foreign`."""
    document = _document(data, f"{name}: run.json")
    # what no rule looks at is left out: labels have a file of their own
    known = {key: value for key, value in document.items() if key in RULED}
    problem = next((why for key, check, why in _RULES if key in known and not check(known[key])), "")
    missing = next((key for key in ("run_id", "uuid", "status", "project") if key not in known), "")
    if problem or missing:
        raise _refused(name, problem or f"it has no {missing}")
    if name not in (known["run_id"], f"{known['run_id']}-{known['uuid'][:4]}"):
        raise _refused(name, f"it is the record of {known['run_id'][:80]!r}")
    return Record.from_json(known)


def labels(data: bytes, name: str) -> runs.Labels:
    """What people added to it.  Raises HistoryError `record.foreign`."""
    document = _document(data, f"{name}: labels.json")
    found = {key: document[key] for key in runs.Labels._fields if key in document}
    tags = found.get("tags", {})
    whole = (
        isinstance(found.get("name"), str | None)
        and all(isinstance(found.get(key, ""), str) for key in ("description", "note"))
        and all(isinstance(found.get(key, False), bool) for key in ("pinned", "hidden"))
        and isinstance(tags, dict)
        and all(isinstance(value, str) for value in tags.values())
    )
    if not whole:
        raise _refused(name, "its labels are none")
    given = runs.Labels(**found)
    try:
        check_labels(given)
    except UsageError as error:
        raise _refused(name, error.message) from None
    return given


def artifacts(data: bytes, name: str) -> tuple[str, int, tuple[Artifact, ...], dict[str, Any]]:
    """State, number of unlisted ones, artifacts (without keys) and details.  Raises `record.foreign`."""
    document = _document(data, f"{name}: artifacts.json")
    files, details = document.get("files"), document.get("details", {})
    if not isinstance(files, list) or len(files) > MOST_FILES:
        raise _refused(name, "its list of artifacts is none")
    found = tuple(_artifact(one, name) for one in files)
    if len({item.path for item in found}) < len([item for item in found if item.path]):
        raise _refused(name, "its list of artifacts names one twice")
    if not isinstance(details, dict) or len(details) > MOST_DETAILS:
        raise _refused(name, "its list of files is none")
    state, dropped = document.get("state"), document.get("dropped", 0)
    if state not in ("none", "partial", "stored", "failed") or not _is_count(dropped):
        raise _refused(name, "its list of artifacts has no state")
    return state, dropped, found, {key: one for key, one in details.items() if _is_detail(key, one)}


def _artifact(found: object, name: str) -> Artifact:
    if not isinstance(found, dict):
        raise _refused(name, "an artifact has no description")
    item = Artifact(
        path=found.get("path", ""),
        size=found.get("size", 0),
        sha256=found.get("sha256", ""),
        state=found.get("state", "stored"),
        code=found.get("code", ""),
        reason=found.get("reason", ""),
    )
    if not all(isinstance(text, str) and len(text) < 1 << 16 for text in (item.path, item.code, item.reason)):
        raise _refused(name, "an artifact has no name")
    if item.state == "rejected" and _is_count(item.size):
        return item.replace(sha256="")
    try:
        check_found(item.path)
    except AmlError as error:
        raise _refused(name, error.message) from None
    if not item.path.startswith(("outputs/", "rescued/")):
        raise _refused(name, "an artifact lies where none does")
    if item.state != "stored" or not _is_count(item.size) or not is_digest(item.sha256):
        raise _refused(name, "an artifact has no size or hash")
    return item


def _is_detail(name: str, found: object) -> bool:
    """Whether a file of the run directory may be fetched; others are of a version that knows more."""
    if not isinstance(found, dict) or not _is_count(found.get("size")) or not is_digest(found.get("sha256")):
        return False
    folder, _, last = name.rpartition("/")
    return name in DETAILS or (folder in ("job/data", "job/inputs") and is_digest(last))


DETAILS = {
    "log": "job/log",
    "events.jsonl": "job/events.jsonl",
    "control.log": "control.log",
    "status.jsonl": "status.jsonl",
    "prepared.json": "prepared.json",
    "git.diff": "git.diff",
    "job/cell.py": "job/cell.py",
    "job/cell.json": "job/cell.json",
    "job/request.json": "job/request.json",
}


def _document(data: bytes, what: str) -> dict[str, Any]:
    document = unseal(data, f"the store's {what}")
    if document.get("format") != FORMAT:
        raise HistoryError(
            f"the store's {what} was written by a newer version",
            code="record.newer",
            hint="Update aml_jupyter.",
        )
    if not _is_flat(document):
        raise _refused(what, "it is nested too deeply")
    return document


def _is_flat(value: object, depth: int = 0) -> bool:
    if depth > DEEPEST:
        return False
    inner: Iterable[object] = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    )
    return all(_is_flat(one, depth + 1) for one in inner)


def _refused(name: str, why: str) -> HistoryError:
    return HistoryError(
        f"{name}: what the store has is no run: {why}",
        code="record.foreign",
        hint="Nothing of it was taken. Whoever made the run can store it again: aml push RUN",
    )


# --- what each key may be -----------------------------------------------------------------------------------


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    # NaN and what no clock ever shows fail as well
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12


def _is_moment(value: object) -> bool:
    """Whether a text is a moment that has been: one to come would be the newest of all for ever."""
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        return False
    try:
        return 0 <= datetime.fromisoformat(value).timestamp() <= time.time() + _AHEAD
    except ValueError:
        return False


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _is_phases(value: object) -> bool:
    return isinstance(value, dict) and all(_is_number(one) for one in value.values())


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _are_inputs(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and all(isinstance(x, str | int | None) for x in one.values()) for one in value
    )


def _is_uuid(value: object) -> bool:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _is_snapshot(value: object) -> bool:
    return value == "" or is_digest(value)


def _is_ended(value: object) -> bool:
    return value in TERMINAL


def _rules() -> list[tuple[str, Callable[[Any], bool], str]]:
    rules: list[tuple[str, Callable[[Any], bool]]] = [
        *((key, is_name) for key in ("run_id", "account", "workspace", "project")),
        *((key, _is_text) for key in _TEXTS),
        *((key, _or_none(_is_text)) for key in _TEXTS_OR_NONE),
        *((key, _is_count) for key in _NUMBERS),
        *((key, _or_none(_is_integer)) for key in _NUMBERS_OR_NONE),
        *((key, _is_list) for key in _LISTS),
        *((key, _is_mapping) for key in _MAPPINGS),
        ("uuid", _is_uuid),
        ("status", _is_ended),
        ("snapshot_id", _is_snapshot),
        ("created_utc", _is_moment),
        ("start_time_utc", _or_none(_is_moment)),
        ("end_time_utc", _or_none(_is_moment)),
        ("duration", _or_none(_is_number)),
        ("phases", _is_phases),
        ("error", _or_none(_is_texts)),
        ("logged_params", _is_texts),
        ("git", _or_none(_is_mapping)),
        ("inputs", _are_inputs),
        ("heartbeat_enabled", lambda value: isinstance(value, bool)),
    ]
    return [(key, check, f"its {key} is not what one is") for key, check in rules]


_RULES = _rules()
RULED = frozenset(key for key, _, _ in _RULES)
