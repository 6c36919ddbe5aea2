"""Solving: from what a dependency file asks for to a lock, once; the answer is kept."""

from __future__ import annotations

from aml_jupyter.environment import asked as asking
from aml_jupyter.environment import credentials as private
from aml_jupyter.environment.asked import stands_on_base
from aml_jupyter.environment.keeping import keep, kept, lock_path, only_one, pinned, read, request_of
from aml_jupyter.environment.lock import Lock
from aml_jupyter.errors import EnvironmentFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from aml_jupyter.environment.asked import Asked
    from aml_jupyter.environment.attempt import Found, Question

__all__ = ["kept", "solve"]

# each round gives up what the last one found: versions first, then what still has no answer
ROUNDS = 4


def solve(
    dependencies: Mapping[str, Any],
    *,
    platform: str,
    base_python: str | None,
    tell: Callable[[str], None],
    credentials: Mapping[str, str] | None = None,
    unbuildable: Mapping[str, str] | None = None,
) -> Lock:
    """The lock of a job's `dependencies` for a platform (`linux-64`), solved or the one that is kept.

    `base_python` is the version (`3.11.4`) of the base that pip packages may stand on, or None.
    `credentials` are those of `credentials.separate`; the ones in the dependency file itself
    (`dependencies["file"]`) are read from there.  `dependencies["relock"]` solves again,
    `dependencies["relax"]` gives up pins that nothing satisfies.  `unbuildable` are requirements whose source
    archives could not be built from an earlier answer, with the reasons: another one is found.
    Raises EnvironmentFailed: `environment.unsolvable` lists every pin that nothing satisfies.
    """
    if fixed := pinned(dependencies, platform=platform, base_python=base_python):
        return fixed
    clean, found = private.separate_all(dependencies)
    path = lock_path(clean, platform, base_python)
    again = bool(clean.get("relock") or unbuildable)
    if not again and (lock := read(path)):
        return lock
    with only_one(path, tell):
        if not again and (lock := read(path)):
            return lock
        # what has been solved before needs no solver
        from aml_jupyter.environment.attempt import Question

        question = Question(
            platform=platform,
            base_python=base_python,
            tell=lambda text: tell(private.strip(text)),
            credentials={**private.of_file(clean.get("file")), **found, **(credentials or {})},
            unbuildable=unbuildable or {},
        )
        lock = _solved(clean, question)
        keep(lock, path)
    return lock


def _solved(clean: Mapping[str, Any], question: Question) -> Lock:
    from aml_jupyter.environment import conda_packages
    from aml_jupyter.environment.attempt import attempt, examine
    from aml_jupyter.environment.relaxing import from_index, relax, unsolvable

    asked = asking.sort(clean)
    if not stands_on_base(_without_old_python(asked), question.base_python):
        conda_packages.require()
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
            return _lock(given, found, question, request_of(clean), changes)
        problems, unasked = examine(asked, question, found.problem)
        failure = unsolvable(problems, unasked, str(clean.get("file") or ""))
        if not clean.get("relax"):
            raise failure
        asked, more = relax(asked, problems)
        if not more:
            raise failure
        changes += _told(more, question)
    raise failure


def _without_old_python(asked: Asked) -> Asked:
    # a pin that nothing satisfies asks for no channel
    return asked.replace(python=None) if asking.too_old(asked.python) else asked


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
