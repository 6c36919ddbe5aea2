"""Solving: from what a dependency file asks for to a lock, once; the answer is kept.

Locks lie in `AML_HOME/environments/`: `locks/<request>-<platform>-<base>.json` answers a request,
`kept/<digest>.json` is the same lock by its own name and stays when the request is solved again.
"""

from __future__ import annotations

import json
import os

from aml_jupyter.config import aml_home
from aml_jupyter.environment import asked as asking
from aml_jupyter.environment import credentials as private
from aml_jupyter.environment.attempt import Found, Question, attempt, examine, stands_on_base
from aml_jupyter.environment.lock import Lock
from aml_jupyter.environment.relaxing import from_index, relax, unsolvable
from aml_jupyter.errors import EnvironmentFailed, HistoryError
from aml_jupyter.locks import exclusive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from aml_jupyter.environment.asked import Asked

# seconds that one solver waits for another that answers the same question
PATIENCE = 1800.0
SIZE_LIMIT = 64 << 20
# each round gives up what the last one found: versions first, then what still has no answer
ROUNDS = 4


def solve(
    dependencies: Mapping[str, Any],
    *,
    platform: str,
    base_python: str | None,
    tell: Callable[[str], None],
    credentials: Mapping[str, str] | None = None,
) -> Lock:
    """The lock of a job's `dependencies` for a platform (`linux-64`), solved or the one that is kept.

    `base_python` is the version (`3.11.4`) of the base that pip packages may stand on, or None.
    `credentials` are those of `credentials.separate_all`.  `dependencies["relock"]` solves again,
    `dependencies["relax"]` gives up pins that nothing satisfies.
    Raises EnvironmentFailed: `environment.unsolvable` lists every pin that nothing satisfies.
    """
    clean, found = private.separate_all(dependencies)
    path = lock_path(clean, platform, base_python)
    if not clean.get("relock") and (lock := _read(path)):
        return lock
    with _only_one(path, tell):
        if not clean.get("relock") and (lock := _read(path)):
            return lock
        question = Question(
            platform=platform,
            base_python=base_python,
            tell=lambda text: tell(private.strip(text)),
            credentials={**found, **(credentials or {})},
        )
        lock = _solved(clean, question)
        _keep(lock, path)
    return lock


def _solved(clean: Mapping[str, Any], question: Question) -> Lock:
    asked = asking.sort(clean)
    given = asked
    changes: list[str] = []
    for _ in range(ROUNDS):
        try:
            found = attempt(asked, question)
        except EnvironmentFailed as error:
            if not clean.get("relax") or not _has_another_way(error, asked, question):
                raise
            asked, more = from_index(asked, error.message)
            changes += _told(more, question)
            found = attempt(asked, question)
        if not found.problem:
            return _lock(given, found, question, _request(clean), changes)
        problems, unasked = examine(asked, question, found.problem)
        failure = unsolvable(problems, unasked, str(clean.get("file") or ""))
        if not clean.get("relax"):
            raise failure
        asked, more = relax(asked, problems)
        if not more:
            raise failure
        changes += _told(more, question)
    raise failure


def _has_another_way(error: EnvironmentFailed, asked: Asked, question: Question) -> bool:
    """Whether what no channel gives may come from the package index."""
    return (
        error.code == "environment.channel_unreachable"
        and question.base_python is not None
        and not stands_on_base(asked, question.base_python)
    )


def _told(changes: list[str], question: Question) -> list[str]:
    for change in changes:
        question.tell(f"relaxed: {change}")
    return changes


def _lock(asked: Asked, found: Found, question: Question, request: str, changes: list[str]) -> Lock:
    return Lock(
        platform=question.platform,
        python=found.python,
        owns_python=found.owns_python,
        packages=tuple(sorted(found.packages, key=lambda one: (one.source != "conda", one.name))),
        request=request,
        index=asked.index,
        extra_indexes=asked.extra_indexes,
        find_links=asked.find_links,
        trusted_hosts=asked.trusted_hosts,
        options=asked.options,
        changes=tuple(changes),
    )


# --- what is kept -------------------------------------------------------------------------------------------


def kept(dependencies: Mapping[str, Any], *, platform: str, base_python: str | None) -> Lock | None:
    """The lock that answers a request already, or None; solves nothing."""
    clean, _ = private.separate_all(dependencies)
    return _read(lock_path(clean, platform, base_python))


def all_kept(dependencies: Mapping[str, Any]) -> list[Lock]:
    """Every lock of a request, whatever its platform and base."""
    clean, _ = private.separate_all(dependencies)
    folder, request = f"{aml_home()}/environments/locks", _request(clean)[:16]
    try:
        names = sorted(name for name in os.listdir(folder) if name.startswith(request))
    except FileNotFoundError:
        return []
    found = (_read(f"{folder}/{name}") for name in names if name.endswith(".json"))
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
    return _read(f"{folder}/{names[0]}") if names else None


def lock_path(dependencies: Mapping[str, Any], platform: str, base_python: str | None) -> str:
    """Where the lock of a request lies; `dependencies` without credentials."""
    base = ".".join(base_python.split(".")[:2]) if base_python else "none"
    if base_python and not stands_on_base(asking.sort(dependencies), base_python):
        base += "-own"
    relaxed = "-relaxed" if dependencies.get("relax") else ""
    return f"{aml_home()}/environments/locks/{_request(dependencies)[:16]}-{platform}-{base}{relaxed}.json"


def _request(dependencies: Mapping[str, Any]) -> str:
    given = dependencies.get("digest")
    if given:
        return str(given)
    from aml_jupyter.environment import Conda

    return Conda(
        channels=tuple(dependencies.get("channels") or ("defaults",)),
        dependencies=tuple(dependencies.get("dependencies") or ()),
        pip=tuple(dependencies.get("pip") or ()),
    ).digest


def _read(path: str) -> Lock | None:
    from aml_jupyter.confined import read_bounded

    try:
        return Lock.from_json(json.loads(read_bounded(path, SIZE_LIMIT)))
    except FileNotFoundError:
        return None
    except (ValueError, EnvironmentFailed):
        return None  # damaged: it is solved again


def _keep(lock: Lock, path: str) -> None:
    from aml_jupyter.confined import make_root, write_atomic

    data = json.dumps(lock.to_json(), indent=1, ensure_ascii=True).encode() + b"\n"
    kept_folder = f"{aml_home()}/environments/kept"
    make_root(kept_folder)
    write_atomic(f"{kept_folder}/{lock.digest}.json", data)
    write_atomic(path, data)


class _only_one:  # noqa: N801 - used as a statement
    """Hold the lock of a path beside it; says so when another process holds it."""

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
