"""Targets and run configurations as plain data, for tables and JSON."""

from __future__ import annotations

from aml_jupyter.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from aml_jupyter.config import Project, RunConfiguration, Target


def compute_targets(project: Project) -> list[dict[str, Any]]:
    """Every target as `{name, kind, file, warnings, error}`; a damaged file is told in `error`."""
    return [_row(project.target, name, ("kind",)) for name in project.targets()]


def run_configurations(project: Project) -> list[dict[str, Any]]:
    """Every run configuration as `{name, target, framework, file, warnings, error}`."""
    return [
        _row(project.run_configuration, name, ("target", "framework"))
        for name in project.run_configurations()
    ]


def _row(
    read: Callable[[str], Target | RunConfiguration], name: str, columns: tuple[str, ...]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        **dict.fromkeys(columns),
        "file": None,
        "warnings": [],
        "error": None,
    }
    try:
        found = read(name)
    except ConfigError as error:
        return {**row, "error": str(error)}
    values = {column: getattr(found, column) for column in columns}
    return {**row, **values, "file": found.file, "warnings": list(found.warnings)}
