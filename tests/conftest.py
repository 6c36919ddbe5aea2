"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.requirements import python_versions


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh place for everything the product keeps; also HOME, so that no test meets the caller's own."""
    path = tmp_path / "home" / ".azureml"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AML_HOME", str(path))
    (tmp_path / "home").mkdir()
    return str(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Versions of Python between the oldest and the newest are for the whole suite, not for the fast one."""
    between = list(python_versions())[1:-1]
    for item in items:
        if isinstance(item, pytest.Function) and _version(item) in between:
            item.add_marker(pytest.mark.slow)


def _version(item: pytest.Function) -> object:
    return item.callspec.params.get("version") if hasattr(item, "callspec") else None
