"""Solving: from what a dependency file asks for to a lock, once; the answer is kept."""

from __future__ import annotations

from aml_jupyter.environment.lock import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


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
    `credentials` are `user:password` by `scheme://host[:port]`.  `dependencies["relock"]` solves again,
    `dependencies["relax"]` gives up pins that nothing satisfies.
    Raises EnvironmentFailed: `environment.unsolvable` lists every pin that nothing satisfies.
    """
    raise NotImplementedError
