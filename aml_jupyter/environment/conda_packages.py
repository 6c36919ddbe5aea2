"""Packages of conda channels, solved and installed without a conda: the door to rattler."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aml_jupyter.environment.lock import Lock


def install_conda(
    lock: Lock,
    prefix_here: str,
    target_prefix: str,
    tell: Callable[[str], None],
    *,
    credentials: Mapping[str, str] | None = None,
) -> None:
    """Install the conda packages of a lock into `prefix_here`, to be used at `target_prefix`.

    Does nothing for a lock without conda packages.
    Raises EnvironmentFailed `environment.channel_unreachable`, `environment.build_failed`.
    """
    raise NotImplementedError
