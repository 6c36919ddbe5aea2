"""`--prepare-only` and `aml experiment prepare`: the environment of a run without the run."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Request

# what a person is told of an environment, in this order
_TOLD = ("image_name", "image", "prefix", "python", "version", "packages", "lock", "digest")


def prepare(request: Request, project: Project, screen: Screen, *, as_json: bool = False) -> int:
    """Make the environment of a request ready, showing what that says as it comes; the exit status."""
    from aml_jupyter import experiment

    made = experiment.prepare(request, project, screen.progress)
    if as_json:
        screen.json(made)
    else:
        screen.write("".join(f"{name}: {made[name]}\n" for name in _TOLD if _known(made.get(name))))
    return 0


def _known(value: Any) -> bool:
    return value not in (None, "")
