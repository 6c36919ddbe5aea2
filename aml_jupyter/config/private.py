"""Which settings are secrets by their name."""

from __future__ import annotations

import re

_PRIVATE = re.compile(
    r"(?i)password|passwd|secret|token|credential|(?:access|account|private|api)[._-]?key|\.sas\."
)


def is_private(setting: str) -> bool:
    """Whether the value of a Spark setting is for its user's eyes only."""
    return _PRIVATE.search(setting) is not None
