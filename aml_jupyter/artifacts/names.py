"""Which key the artifact of a path has, and which path a key tells: one grammar for every store.

A path that every store, file system and browser can carry is its own key below the prefix of its run. Any
other (control characters, bytes that are no text, `..`-like components, over 900 bytes, over 200 levels) is
kept under the hash of its name, and only the manifest says how it is called.
"""

from __future__ import annotations

import os

from aml_jupyter.confined import check_name
from aml_jupyter.errors import ArtifactError, ConfinedError

# S3 takes 1,024 bytes and Azure 1,024 characters and 254 levels, with whatever prefix a store is given
LONGEST = 900
LONGEST_PREFIX = 120
DEEPEST = 200
HASHED = ".names"


def key_of(prefix: str, path: str) -> str:
    """The key of an artifact of the run that has the prefix (`ExperimentRun/<run id>`)."""
    key = f"{prefix}/{path}"
    if is_plain(key):
        return key
    import hashlib

    return f"{prefix}/{HASHED}/{hashlib.sha256(os.fsencode(path)).hexdigest()}"


def path_of(prefix: str, key: str) -> str | None:
    """The path that a key tells; None for a key of another run, and for one that is made of a hash."""
    if not key.startswith(prefix + "/") or not is_plain(key):
        return None
    path = key[len(prefix) + 1 :]
    return None if path.startswith(HASHED + "/") else path


def is_plain(key: str) -> bool:
    """Whether every store can carry this as it is."""
    try:
        check_name(key, portable=True, limit=LONGEST)
    except ConfinedError:
        return False
    return len(key.encode()) <= LONGEST and key.count("/") < DEEPEST


def check_prefix(prefix: str) -> str:
    """The prefix of a store, without slashes at its ends.  Raises ArtifactError `store.url`."""
    prefix = prefix.strip("/")
    if not prefix:
        return ""
    try:
        check_name(prefix, portable=True, limit=LONGEST_PREFIX)
    except ConfinedError as error:
        raise ArtifactError(f"the folder of the store: {error.message}", code="store.url") from None
    return prefix
