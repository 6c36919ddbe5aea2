"""Projects with configuration files, for tests."""

from __future__ import annotations

from pathlib import Path

from aml_jupyter.config import Project, find_project


def project_with(folder: Path, files: dict[str, str | bytes]) -> Project:
    """A project below `folder` with these files in its `aml_config/`, byte for byte."""
    root = folder / "iris"
    (root / "aml_config").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / "aml_config" / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return find_project(str(root))
