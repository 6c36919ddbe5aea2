"""Locks that are kept, so that nothing is solved twice.

They lie in `AML_HOME/environments/`: `locks/<request>-<platform>-<base>.json` answers a request,
`kept/<digest>.json` is the same lock by its own name and stays when the request is solved again.
"""

from __future__ import annotations

import os

from aml_jupyter import plainjson
from aml_jupyter.config import aml_home
from aml_jupyter.environment import asked as asking
from aml_jupyter.environment import credentials as private
from aml_jupyter.environment.lock import Lock
from aml_jupyter.errors import EnvironmentFailed, HistoryError
from aml_jupyter.locks import exclusive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

# seconds that one waits for another who makes the same
PATIENCE = 1800.0
SIZE_LIMIT = 64 << 20


def kept(dependencies: Mapping[str, Any], *, platform: str, base_python: str | None) -> Lock | None:
    """The lock that answers a request already, or None; solves nothing."""
    if lock := pinned(dependencies, platform=platform, base_python=base_python):
        return lock
    clean, _ = private.separate_all(dependencies)
    return read(lock_path(clean, platform, base_python))


def pinned(dependencies: Mapping[str, Any], *, platform: str, base_python: str | None) -> Lock | None:
    """The lock that `dependencies["lock"]` names, which a run had that is repeated; None where none is named.

    Raises EnvironmentFailed `environment.lock_gone`, or `environment.lock_unfit` for a target of another
    platform or Python; the latter only with `dependencies["lock_strict"]`, else it is None.
    """
    digest = str(dependencies.get("lock") or "")
    if not digest or dependencies.get("relock"):
        return None
    lock = by_digest(digest) if digest.isalnum() else None
    again = "Solve the environment again: aml rerun RUN --relock"
    if lock is None:
        raise EnvironmentFailed(
            f"the lock {digest[:16]} of the run that is repeated is not kept here any more",
            code="environment.lock_gone",
            hint=again,
        )
    here = ".".join((base_python or "").split(".")[:2])
    if lock.platform == platform and (lock.owns_python or lock.python.split(".")[:2] == here.split(".")):
        return lock
    if not dependencies.get("lock_strict"):
        return None
    raise EnvironmentFailed(
        f"the lock {digest[:16]} is for Python {lock.python} on {lock.platform}, and this target has"
        f" Python {here or '?'} on {platform}",
        code="environment.lock_unfit",
        hint=again,
    )


def all_kept(dependencies: Mapping[str, Any]) -> list[Lock]:
    """Every lock of a request, whatever its platform and base."""
    clean, _ = private.separate_all(dependencies)
    folder, request = f"{aml_home()}/environments/locks", request_of(clean)[:16]
    try:
        names = sorted(name for name in os.listdir(folder) if name.startswith(request))
    except FileNotFoundError:
        return []
    found = (read(f"{folder}/{name}") for name in names if name.endswith(".json"))
    return [lock for lock in found if lock]


def by_digest(beginning: str) -> Lock | None:
    """The kept lock whose digest begins so, or None; UsageError where there are several."""
    from aml_jupyter.errors import UsageError

    folder = f"{aml_home()}/environments/kept"
    try:
        names = [name for name in os.listdir(folder) if name.startswith(beginning) and name.endswith(".json")]
    except FileNotFoundError:
        return None
    if len(names) > 1:
        raise UsageError(f"{beginning} begins {len(names)} locks", hint="Give more of its digest.")
    return read(f"{folder}/{names[0]}") if names else None


def lock_path(dependencies: Mapping[str, Any], platform: str, base_python: str | None) -> str:
    """Where the lock of a request lies; `dependencies` without credentials."""
    return f"{aml_home()}/environments/locks/{lock_name(dependencies, platform, base_python)}.json"


def lock_name(dependencies: Mapping[str, Any], platform: str, base_python: str | None) -> str:
    """The name of a request's answer; `dependencies` without credentials."""
    base = ".".join(base_python.split(".")[:2]) if base_python else "none"
    if base_python and not asking.stands_on_base(asking.sort(dependencies), base_python):
        base += "-own"
    relaxed = "-relaxed" if dependencies.get("relax") else ""
    return f"{request_of(dependencies)[:16]}-{platform}-{base}{relaxed}"


def request_of(dependencies: Mapping[str, Any]) -> str:
    """The digest of what is asked for."""
    given = dependencies.get("digest")
    if given:
        return str(given)
    from aml_jupyter.environment import Conda

    return Conda(
        channels=tuple(dependencies.get("channels") or ("defaults",)),
        dependencies=tuple(dependencies.get("dependencies") or ()),
        pip=tuple(dependencies.get("pip") or ()),
    ).digest


def read(path: str) -> Lock | None:
    """The lock of a file; None when it is absent or damaged: it is solved again."""
    from aml_jupyter.confined import read_bounded

    try:
        return Lock.from_json(plainjson.loads(read_bounded(path, SIZE_LIMIT)))
    except FileNotFoundError:
        return None
    except (ValueError, EnvironmentFailed):
        return None


def keep(lock: Lock, path: str) -> None:
    """Keep a lock as the answer of a request and by its own name."""
    import json

    from aml_jupyter.confined import make_root, write_atomic

    data = json.dumps(lock.to_json(), indent=1, ensure_ascii=True).encode() + b"\n"
    kept_folder = f"{aml_home()}/environments/kept"
    make_root(kept_folder)
    write_atomic(f"{kept_folder}/{lock.digest}.json", data)
    write_atomic(path, data)


class only_one:  # noqa: N801 - used as a statement
    """Hold the lock file beside a path; says so when another process holds it.

    Raises HistoryError `history.locked` after `PATIENCE` seconds.
    """

    def __init__(self, path: str, tell: Callable[[str], None]) -> None:
        self.path, self.tell = path + ".lock", tell

    def __enter__(self) -> None:
        from aml_jupyter.confined import make_root

        make_root(os.path.dirname(self.path))
        try:
            self.held = exclusive(self.path, 0.05)
            self.held.__enter__()
        except HistoryError:
            self.tell("another run prepares the same environment; waiting for it")
            self.held = exclusive(self.path, PATIENCE)
            self.held.__enter__()

    def __exit__(self, *_: object) -> None:
        self.held.__exit__()
