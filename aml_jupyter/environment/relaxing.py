"""Giving up pins that nothing satisfies, and saying which."""

from __future__ import annotations

from aml_jupyter.environment.asked import conda_as_pip, conda_bare, conda_name, pip_bare
from aml_jupyter.errors import EnvironmentFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aml_jupyter.environment.asked import Asked
    from aml_jupyter.environment.attempt import Problem


def unsolvable(problems: Sequence[Problem], unasked: str, file: str) -> EnvironmentFailed:
    """The one error for everything that cannot be had, a line for each."""
    lines = [f"  - {problem.item}: {problem.reason}" for problem in problems]
    if unasked:
        lines.append(f"  (nothing is known of the other conda packages: {unasked})")
    return EnvironmentFailed(
        f"{file or 'the dependency file'} asks for what cannot be had:\n" + "\n".join(lines),
        hint="Change these items, or have them relaxed: --relax-pins gives their versions up, takes the "
        "newest that can be had, leaves out what does not exist, and says what it changed.",
    )


def relax(asked: Asked, problems: Sequence[Problem]) -> tuple[Asked, list[str]]:
    """What is asked for without the pins of the problems, and a sentence for each change.

    A version is given up, the package is not; an address, or a name that does not exist, is left out.
    """
    changes: list[str] = []
    reasons = {(problem.kind, problem.item): problem.reason for problem in problems}
    if any(problem.kind == "python" for problem in problems):
        reason = next(problem for problem in problems if problem.kind == "python")
        changes.append(f"{reason.item} became any Python: {reason.reason}")
        asked = asked.replace(python=None)
    together = next((problem.reason for problem in problems if problem.kind == "together"), None)
    return asked.replace(
        conda=_relaxed(asked.conda, "conda", conda_bare, reasons, together, changes),
        pip=_relaxed(asked.pip, "pip", pip_bare, reasons, together, changes),
    ), changes


def from_index(asked: Asked, reason: str) -> tuple[Asked, list[str]]:
    """What is asked for with the conda packages taken from the package index, by the same names.

    For where no channel answers; a sentence for each change.
    """
    moved = [item for item in asked.conda if conda_name(item) != "pip"]
    changes = [f"{item} is taken from the package index: {reason}" for item in moved]
    if asked.python:
        changes.append(f"python {asked.python} became the Python of the base: {reason}")
    pip = (*asked.pip, *map(conda_as_pip, moved))
    return asked.replace(conda=(), python=None, pip=pip), changes


def _relaxed(
    items: Sequence[str],
    kind: str,
    bare: Callable[[str], str],
    reasons: dict[tuple[str, str], str],
    together: str | None,
    changes: list[str],
) -> tuple[str, ...]:
    kept = []
    for item in items:
        reason = reasons.get((kind, item), together)
        if reason is None or (together is not None and bare(item) == item):
            kept.append(item)
        elif bare(item) != item:
            kept.append(bare(item))
            changes.append(f"{item} became {bare(item)}: {reason}")
        else:
            changes.append(f"{item} was left out: {reason}")
    return tuple(kept)
