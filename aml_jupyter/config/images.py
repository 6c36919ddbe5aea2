"""Names of container images: what may be one, and when two mean the same image."""

from __future__ import annotations

import re

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
# a first part is a registry when it holds a dot or a port, or is localhost
_REGISTRY = rf"(?:(?:localhost|(?=[^/]*[.:]){_HOST})(?::[0-9]+)?/)"
_NAME = (
    rf"{_REGISTRY}?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)
_LONGEST = 500


def problem(name: str) -> str:
    """Why this cannot be the name of an image; empty when it can."""
    if len(name) > _LONGEST:
        return f"is longer than {_LONGEST} characters"
    if re.fullmatch(_NAME, name):
        return ""
    if re.fullmatch(_NAME, name.lower()):
        return "has capital letters, which only a registry's host or a tag may have"
    return "is not the name of an image such as python:3.11-slim or host:5000/group/name:tag"


def same(name: str) -> str:
    """One spelling for all that mean the same image: `docker.io/library/x:latest` is `x`."""
    for host in ("docker.io/", "index.docker.io/"):
        name = name.removeprefix(host)
    if name.count("/") == 1:
        name = name.removeprefix("library/")
    return name if "@" in name else name.removesuffix(":latest")
