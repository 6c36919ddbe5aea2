"""What is set for retention: by the project, else by the person."""

from __future__ import annotations

from aml_jupyter.config import settings
from aml_jupyter.errors import ConfigError, UsageError
from aml_jupyter.retention.rules import Rules, parse_metric

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

# removed runs stay in the trash this long unless a setting says otherwise; seconds
TRASH_AGE = 30 * 86400.0
_AGES = {"h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def rules_set(project_root: str | None) -> Rules:
    """The rules that settings give; raises ConfigError for a value that cannot be read."""
    metric, largest = _set(project_root, "retention.metric", parse_metric) or ("", True)
    return Rules(
        keep_last=_set(project_root, "retention.keep_last", int),
        keep_best=_set(project_root, "retention.keep_best", int),
        metric=metric,
        largest=largest,
        older_than=_set(project_root, "retention.older_than", parse_age),
        max_bytes=_set(project_root, "retention.max_bytes", parse_bytes),
    )


def trash_age() -> float:
    """How long removed runs stay in the trash, in seconds; a setting of the person, for the trash is one."""
    days = _set(None, "retention.trash_days", int)
    return TRASH_AGE if days is None else days * 86400.0


def drop_age(project_root: str | None) -> float | None:
    """How old a run is when its local copies may go because a store has them, in seconds; None for never."""
    return _set(project_root, "retention.drop_local", parse_age)


def parse_age(text: str) -> float:
    """Seconds of `12h`, `90d`, `8w` or `1y`.  Raises ValueError."""
    number, unit = text[:-1], text[-1:].lower()
    if unit not in _AGES:
        raise ValueError(f"{text!r} is not an age such as 12h, 90d, 8w or 1y")
    seconds = float(number) * _AGES[unit]
    if not 0 <= seconds < 1e11:
        raise ValueError(f"{text!r} is not an age such as 12h, 90d, 8w or 1y")
    return seconds


def parse_bytes(text: str) -> int:
    """Bytes of `500MB`, `20GB`, `1.5TB` or a number; units are powers of 1024.  Raises ValueError."""
    bare = text.upper().removesuffix("B").removesuffix("I")
    factor = _SIZES.get(bare[-1:], 1)
    size = float(bare[:-1] if bare[-1:] in _SIZES else bare) * factor
    if not 0 <= size < 1 << 60:
        raise ValueError(f"{text!r} is not a size such as 500MB or 20GB")
    return int(size)


def _set(project_root: str | None, key: str, read: Callable[[str], T]) -> T | None:
    text = settings.value(project_root, key)
    if text is None:
        return None
    try:
        return read(text)
    except (ValueError, UsageError):
        raise ConfigError(f"{key}: {text!r} cannot be read", hint=f"aml config set {key} VALUE") from None
