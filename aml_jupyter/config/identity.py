"""What a project is called: by its `Scope`, else by its folder, remembered so that two never share a name."""

from __future__ import annotations

import json
import os
import re
import sys

from aml_jupyter.config import cache
from aml_jupyter.confined.names import is_device
from aml_jupyter.errors import ConfigError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ACCOUNT = "local"
WORKSPACE = "default"
SCOPE_FILES = (".azureml/project.json", "aml_config/project.json")

_LONGEST = 128
# compiled where it is used: a warm run does not need it
_FORBIDDEN = r'[\x00-\x1f\x7f/\\:*?"<>|\ud800-\udfff]'


class Identity(Value):
    """Account, workspace and name of a project; `notice` is what the person is told of it, once."""

    account: str = ACCOUNT
    workspace: str = WORKSPACE
    name: str
    scope_file: str | None = None
    notice: str | None = None


def identify(root: str, home: str, *, register: bool = False) -> Identity:
    """The identity of the project in `root`; a folder keeps the name it is given only with `register`.

    Raises ConfigError for a damaged or hostile scope file, HistoryError `history.locked`.
    """
    for relative in SCOPE_FILES:
        path = f"{root}/{relative}"
        if os.path.lexists(path):
            return _from_scope(path)
    known = _remembered(root, home)
    if known is None:
        return _register(root, home) if register else _choose(root, home).identity
    return known


def name_problem(name: str) -> str:
    """Why this may not be the name of an account, workspace or project; empty when it may."""
    if not name or name != name.strip():
        return "is empty, or begins or ends with a blank"
    if name in (".", "..") or name.endswith(".") or name.startswith("-"):
        return "may not begin with - or end with a dot"
    if len(name) > _LONGEST or len(name.encode("utf-8", "replace")) > _LONGEST:
        return f"is longer than {_LONGEST} bytes"
    if re.search(_FORBIDDEN, name):
        return 'may not hold / \\ : * ? " < > | or control characters'
    if is_device(name):
        return "is a name that Windows keeps for a device"
    return ""


# --- by the scope file --------------------------------------------------------------------------------------


def _from_scope(path: str) -> Identity:
    text = cache.read(path).decode("utf-8-sig", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise ConfigError(
            f"{path}:{line}: is not JSON", hint='It holds {"Id": "...", "Scope": "/.../projects/NAME"}.'
        ) from None
    scope = document.get("Scope") if isinstance(document, dict) else None
    if not isinstance(scope, str):
        raise ConfigError(
            f"{path}:1: Scope: is missing", hint="Scope ends with accounts/A/workspaces/W/projects/P."
        )
    line = text[: max(text.find('"Scope"'), 0)].count("\n") + 1
    named = {kind: _named(scope, kind, f"{path}:{line}") for kind in ("accounts", "workspaces", "projects")}
    if not named["projects"]:
        raise ConfigError(
            f"{path}:{line}: Scope: names no project",
            hint="Scope ends with accounts/A/workspaces/W/projects/P.",
        )
    return Identity(
        account=named["accounts"] or ACCOUNT,
        workspace=named["workspaces"] or WORKSPACE,
        name=named["projects"],
        scope_file=path,
    )


def _named(scope: str, kind: str, place: str) -> str:
    """The name after `kind`: what stands there up to the next kind, so that a slash in a name is seen."""
    found = re.search(rf"(?is)/{kind}/(.*?)(?:/(?:accounts|workspaces|projects)/|/?\Z)", scope)
    if found is None:
        return ""
    problem = name_problem(found[1])
    if problem:
        raise ConfigError(
            f"{place}: Scope: {kind[:-1]} {found[1][:60]!r} {problem}",
            hint="Names become folders: change it here.",
        )
    return found[1]


# --- by the folder ------------------------------------------------------------------------------------------


def _record_path(root: str, home: str) -> str:
    return f"{home}/projects/{cache.sha256(os.fsencode(root))[:32]}.json"


def _read_record(path: str) -> dict[str, Any] | None:
    from aml_jupyter.confined import read_bounded
    from aml_jupyter.errors import AmlError

    try:
        record = json.loads(read_bounded(path, 1 << 16))
        name, root = record["name"], record["root"]
        if (
            isinstance(name, str)
            and isinstance(root, str)
            and os.path.basename(name) == name not in ("", "..", ".")
        ):
            return dict(record)
    except (OSError, AmlError, ValueError, LookupError, TypeError):
        pass  # absent or damaged: the folder is registered again
    return None


def _remembered(root: str, home: str) -> Identity | None:
    record = _read_record(_record_path(root, home))
    return Identity(name=record["name"]) if record and record["root"] == root else None


def _register(root: str, home: str) -> Identity:
    """Give the folder a name that no other folder has, under a lock that dies with its process."""
    from aml_jupyter.confined import make_root
    from aml_jupyter.locks import exclusive

    folder = f"{home}/projects"
    try:
        make_root(folder)
        with exclusive(f"{folder}/.lock"):
            return _remembered(root, home) or _claim(root, home)
    except OSError as error:
        return Identity(name=plain_name(root), notice=_not_remembered(folder, error))


def _not_remembered(folder: str, error: OSError) -> str:
    return f"the project's name cannot be remembered: {folder}: {error.strerror}"


def _claim(root: str, home: str) -> Identity:
    choice = _choose(root, home)
    _write_record(root, home, choice.identity.name, choice.evidence)
    if choice.moved_from:
        os.unlink(f"{home}/projects/{choice.moved_from}")
    return choice.identity


class _Choice(Value):
    """The identity a folder is given; `moved_from` is the record of the place where it was before."""

    identity: Identity
    evidence: dict[str, Any]
    moved_from: str | None = None


def _choose(root: str, home: str) -> _Choice:
    records = _records(f"{home}/projects")
    evidence = _evidence(root)
    wanted = plain_name(root)
    for entry, record in records:
        if _moved(record, evidence, wanted):
            moved = Identity(name=record["name"], notice=_moved_notice(root, record))
            return _Choice(identity=moved, evidence=evidence, moved_from=entry)
    taken = {str(record["name"]).casefold(): str(record["root"]) for _, record in records}
    name, number = wanted, 2
    while name.casefold() in taken:
        name, number = f"{wanted}-{number}", number + 1
    other = taken.get(wanted.casefold())
    notice = _second_notice(root, wanted, name, other) if other else None
    return _Choice(identity=Identity(name=name, notice=notice), evidence=evidence)


def known_roots(home: str) -> list[str]:
    """The folders of all projects that were given a name."""
    return [str(record["root"]) for _, record in _records(f"{home}/projects")]


def _records(folder: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        entries = sorted(os.listdir(folder))
    except OSError:  # nothing was registered yet, or it cannot be read: then nothing is known of others
        return []
    return [
        (entry, record)
        for entry in entries
        if entry.endswith(".json") and (record := _read_record(f"{folder}/{entry}"))
    ]


def _moved_notice(root: str, record: dict[str, Any]) -> str:
    return f"{record['root']} is now {root}: the project keeps the name {record['name']} and its history"


def _second_notice(root: str, wanted: str, name: str, other: str) -> str:
    gone = "" if os.path.isdir(other) else " (which is gone)"
    return (
        f"another folder is already called {wanted}: {other}{gone}. "
        f"{root} is therefore called {name}. Name it for good with: aml config --name NAME"
    )


def _evidence(root: str) -> dict[str, Any]:
    """What a folder keeps when it is moved or renamed on the same file system."""
    try:
        found = os.stat(root)
    except OSError:
        return {}
    return {"device": found.st_dev, "inode": found.st_ino, "born": _born(root, found)}


def _born(path: str, found: os.stat_result) -> int | None:
    """When a folder was made, in ns: an inode is used again as soon as its folder is deleted."""
    known = getattr(found, "st_birthtime", None)
    if known is not None:
        return int(known * 1_000_000_000)
    import ctypes

    statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    answer = ctypes.create_string_buffer(256)
    asked, here = 0x800, -100  # STATX_BTIME, AT_FDCWD
    if statx is None or statx(here, os.fsencode(path), 0, asked, answer) != 0:
        return None
    mask = int.from_bytes(answer.raw[:4], sys.byteorder)
    seconds = int.from_bytes(answer.raw[80:88], sys.byteorder, signed=True)
    nanoseconds = int.from_bytes(answer.raw[88:92], sys.byteorder)
    return seconds * 1_000_000_000 + nanoseconds if mask & asked else None


def _moved(record: dict[str, Any], evidence: dict[str, Any], wanted: str) -> bool:
    """Whether the folder of a record is this one now."""
    if not evidence or os.path.lexists(record["root"]):
        return False
    if any(record.get(key) != evidence[key] for key in ("device", "inode", "born")):
        return False
    return evidence["born"] is not None or plain_name(record["root"]) == wanted


def _write_record(root: str, home: str, name: str, evidence: dict[str, Any]) -> None:
    from aml_jupyter.confined import write_atomic

    document = {"format": 1, "name": name, "root": root, **evidence}
    write_atomic(_record_path(root, home), json.dumps(document).encode())


def plain_name(root: str) -> str:
    """The folder's name as the name of a project: what may not stand in one becomes a dash."""
    name = re.sub(r"[^\w.-]|[\ud800-\udfff]", "-", os.path.basename(root)).strip(".-")
    while len(name.encode()) > 100:
        name = name[:-1]
    name = name.strip(".-")
    if is_device(name):
        name = f"project-{name}"
    return name or "project"
