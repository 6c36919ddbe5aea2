"""What people add to a run at any time: name, description, tags, notes, pinned, hidden."""

from __future__ import annotations

from aml_jupyter.confined import write_atomic
from aml_jupyter.errors import UsageError
from aml_jupyter.job import FORMAT, check_format
from aml_jupyter.locks import exclusive
from aml_jupyter.runs.directory import RunDirectory, ask_push, mark_changed, with_reserve
from aml_jupyter.runs.evidence import LARGEST_LABELS, Labels, labels_document
from aml_jupyter.sealed import seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

# characters; beyond them it is content, not a label
_LIMITS = {"name": 250, "tag": 250, "value": 5000, "note": 65_536, "description": 65_536}
MOST_TAGS = 1000


def set_labels(
    directory: RunDirectory,
    *,
    name: str | None = None,
    tags: Iterable[str] | Mapping[str, str] = (),
    note: str | None = None,
    description: str | None = None,
    remove_tags: Iterable[str] = (),
    pinned: bool | None = None,
    hidden: bool | None = None,
) -> None:
    """Change what is given, keep the rest; `tags` are added as `NAME` or `NAME=VALUE`.

    An empty name, note or description removes it; keys of another version stay.  Raises UsageError
    `label.invalid`, FormatError for labels of a newer version, HistoryError `record.corrupt`.
    """
    added = parse_tags(tags)
    changes: dict[str, Any] = {"name": name, "note": note, "description": description}
    changes = {key: _checked(key, text) for key, text in changes.items() if text is not None}
    changes.update({k: v for k, v in (("pinned", pinned), ("hidden", hidden)) if v is not None})
    with exclusive(directory.path + "/labels.lock"):
        before = labels_document(directory) or {"format": FORMAT}
        check_format(before, directory.labels_json)
        labels = {**Labels().as_dict(), **before, **changes}
        kept = {key: value for key, value in labels["tags"].items() if key not in set(remove_tags)}
        labels["tags"] = {**kept, **added}
        if len(labels["tags"]) > MOST_TAGS:
            raise UsageError(f"a run has at most {MOST_TAGS} tags", code="label.invalid")
        labels["name"] = labels["name"] or None
        data = seal({**labels, "format": FORMAT})
        if len(data) > LARGEST_LABELS:
            raise UsageError(
                f"the labels of a run have at most {LARGEST_LABELS} bytes together", code="label.invalid"
            )
        mark_changed(directory)
        with_reserve(directory.labels_json, lambda: write_atomic(directory.labels_json, data))
        mark_changed(directory)
        ask_push(directory)


def parse_tags(tags: Iterable[str] | Mapping[str, str]) -> dict[str, str]:
    """Tags as name and value; `NAME` alone has an empty value."""
    pairs = tags.items() if hasattr(tags, "items") else (tag.partition("=")[::2] for tag in tags)
    found = {}
    for key, value in pairs:
        if not key.strip():
            raise UsageError("a tag needs a name: NAME or NAME=VALUE", code="label.invalid")
        found[_checked("tag", key.strip())] = _checked("value", str(value))
    return found


def check_labels(labels: Labels) -> None:
    """Raise UsageError `label.invalid` for labels that nobody could have given with `set_labels`."""
    for what, text in (
        ("name", labels.name or ""),
        ("note", labels.note),
        ("description", labels.description),
    ):
        _checked(what, text)
    if len(labels.tags) > MOST_TAGS:
        raise UsageError(f"a run has at most {MOST_TAGS} tags", code="label.invalid")
    parse_tags(labels.tags)


def _checked(what: str, text: str) -> str:
    if len(text) > _LIMITS[what]:
        raise UsageError(
            f"a {what} has at most {_LIMITS[what]} characters, not {len(text)}", code="label.invalid"
        )
    if what in ("name", "tag") and not text.isprintable():
        raise UsageError(f"a {what} may not hold control characters: {text!a}", code="label.invalid")
    if text.startswith("@") and what == "name":
        raise UsageError("a name may not begin with @, which begins a reference", code="label.invalid")
    return text


def set_name(directory: RunDirectory, name: str) -> None:
    """Name a run; an empty name takes it away."""
    set_labels(directory, name=name)


def add_tag(directory: RunDirectory, tag: str, value: str = "") -> None:
    """Add or change a tag."""
    set_labels(directory, tags={tag: value})


def remove_tag(directory: RunDirectory, tag: str) -> None:
    """Take a tag away; one that is not there is no error."""
    set_labels(directory, remove_tags=(tag,))


def set_note(directory: RunDirectory, note: str) -> None:
    """Replace the notes."""
    set_labels(directory, note=note)


def pin(directory: RunDirectory, pinned: bool = True) -> None:
    """Keep a run from being cleaned up, or let go of it."""
    set_labels(directory, pinned=pinned)


def hide(directory: RunDirectory, hidden: bool = True) -> None:
    """Leave a run out of lists, or show it again."""
    set_labels(directory, hidden=hidden)
