"""Assets: `assets/NAME.link` in a project names an artifact of a run, and which versions of it there were.

The file holds no bytes of the artifact and no credentials; it belongs to the project and may be kept in git.
"""

from __future__ import annotations

import os
import re

from aml_jupyter import plainjson
from aml_jupyter.confined import ConfinedError, MissingFile, Root, check_name
from aml_jupyter.errors import ConfigError, UsageError
from aml_jupyter.frozen import Value
from aml_jupyter.job import check_format

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FOLDER, SUFFIX = "assets", ".link"
FORMAT = 1
# bytes of a link file, versions that it keeps
LARGEST, MOST_VERSIONS = 1 << 20, 1000
_FIELDS = (
    "version", "run_id", "uuid", "path", "kind", "sha256", "size", "files", "store", "created_utc", "note",
)  # fmt: skip


class Link(Value):
    """One version of an asset: which artifact of which run it is; `file` is where that was read."""

    name: str
    version: int
    run_id: str
    uuid: str = ""
    path: str = ""
    kind: str = "file"
    sha256: str = ""
    size: int = 0
    files: int = 1
    store: str = "folder"
    created_utc: str = ""
    note: str = ""
    file: str = ""

    def as_document(self) -> dict[str, Any]:
        """The version as JSON values."""
        return {name: getattr(self, name) for name in _FIELDS}


class Asset(Value):
    """An asset of a project: its versions, newest first."""

    name: str
    file: str
    versions: tuple[Link, ...]

    @property
    def newest(self) -> Link:
        """The version that a link file means by itself."""
        return self.versions[0]


def read(path: str, data: bytes) -> Asset:
    """An asset out of the bytes of a link file.  Raises ConfigError `asset.invalid`, FormatError."""
    name = os.path.basename(path).removesuffix(SUFFIX)
    try:
        document = plainjson.loads(data.decode())
        if isinstance(document, dict) and "assetSource" in document:
            raise ValueError("it is one of 2017, into an account that was closed")
        check_format(document, path)
        older = document.get("versions", ())
        versions = tuple(_link(name, path, one) for one in (document, *older))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is no link to an artifact: {error}",
            code="asset.invalid",
            hint="aml promote RUN PATH NAME writes one.",
        ) from error
    return Asset(name=name, file=path, versions=versions)


def _link(name: str, path: str, document: dict[str, Any]) -> Link:
    found = {key: document[key] for key in _FIELDS if key in document}
    link = Link(name=name, file=path, **found)
    numbers = (link.version, link.size, link.files)
    texts = (
        link.run_id,
        link.uuid,
        link.path,
        link.kind,
        link.sha256,
        link.store,
        link.created_utc,
        link.note,
    )
    if not all(isinstance(one, int) for one in numbers) or not all(isinstance(one, str) for one in texts):
        raise ValueError("a value is of the wrong kind")
    if not re.fullmatch("[0-9a-f]{64}", link.sha256):
        raise ValueError("its sha256 is none")
    return link


def load(root: str, name: str) -> Asset:
    """An asset of a project by its name.  Raises ConfigError `asset.unknown` with those there are."""
    name = checked_name(name)
    relative = f"{FOLDER}/{name}{SUFFIX}"
    try:
        with Root(root) as project:
            return read(f"{root}/{relative}", project.read_bytes(relative, LARGEST))
    except MissingFile:
        known = [one.name for one in listing(root)]
        raise ConfigError(
            f"the project {root} has no asset {name!r}",
            code="asset.unknown",
            hint=f"There is {', '.join(known[:10])}." if known else "aml promote RUN PATH NAME makes one.",
        ) from None
    except ConfinedError as error:
        raise ConfigError(error.message, code="asset.invalid", hint=error.hint) from error


def load_file(path: str) -> Asset:
    """The asset of a link file anywhere.  Raises ConfigError `asset.unknown`, `asset.invalid`."""
    folder, name = os.path.split(os.path.abspath(path))
    try:
        with Root(folder) as root:
            return read(path, root.read_bytes(name, LARGEST))
    except MissingFile:
        raise ConfigError(f"there is no link file {path}", code="asset.unknown") from None
    except ConfinedError as error:
        raise ConfigError(error.message, code="asset.invalid", hint=error.hint) from error


def listing(root: str) -> list[Asset]:
    """The assets of a project, by name; files that are no link files are passed over."""
    try:
        names = sorted(os.listdir(f"{root}/{FOLDER}"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for name in names:
        if name.endswith(SUFFIX) and name != SUFFIX:
            try:
                found.append(load(root, name.removesuffix(SUFFIX)))
            except (ConfigError, UsageError):  # not ours; whoever names it is told
                continue
    return found


def find(root: str, reference: str) -> Link:
    """The version that `NAME` or `NAME@2` means.  Raises ConfigError `asset.unknown`, UsageError."""
    name, at, number = reference.partition("@")
    asset = load(root, name)
    if not at:
        return asset.newest
    for link in asset.versions:
        if str(link.version) == number:
            return link
    known = ", ".join(str(link.version) for link in asset.versions[:10])
    raise ConfigError(f"{name} has no version {number!r}", code="asset.unknown", hint=f"There is {known}.")


def checked_name(name: str) -> str:
    """A name that every file system can hold, without `.link`.  Raises UsageError."""
    bare = name.removesuffix(SUFFIX)
    try:
        if len(check_name(bare + SUFFIX, portable=True)) == 1 and bare and "@" not in bare:
            return bare
        why = "it holds a / or @"
    except ConfinedError as error:
        why = error.message
    raise UsageError(f"{name!r} cannot be the name of an asset: {why}", hint="Such as model or iris-model")


def add(root: str, name: str, link: Link) -> Asset:
    """Write a new version of an asset into a project; the older ones stay in the file.

    Raises ConfigError `asset.invalid` for a file of that name that is none of ours, OSError.
    """
    import fcntl

    name = checked_name(name)
    with Root(root) as project:
        # a folder of the project, not of ours alone
        project.make_dirs(FOLDER, 0o755)
        with project.folder(FOLDER) as folder:
            # of two that promote at once both versions stay
            fcntl.flock(folder.fd, fcntl.LOCK_EX)
            return _added(project, root, name, link)


def _added(project: Root, root: str, name: str, link: Link) -> Asset:
    import json

    relative = f"{FOLDER}/{name}{SUFFIX}"
    try:
        before = load(root, name).versions
    except ConfigError as error:
        if error.code != "asset.unknown":
            raise
        before = ()
    version = max((one.version for one in before), default=0) + 1
    fresh = link.replace(name=name, version=version, file=f"{root}/{relative}")
    document = {
        "format": FORMAT,
        "name": name,
        **fresh.as_document(),
        "versions": [one.as_document() for one in before[: MOST_VERSIONS - 1]],
    }
    data = json.dumps(document, indent=1, ensure_ascii=True).encode() + b"\n"
    project.replace_file(relative, data, mode=0o644)
    return Asset(name=name, file=fresh.file, versions=(fresh, *before))
