"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh place for everything the product keeps; also HOME, so that no test meets the caller's own."""
    path = tmp_path / "home" / ".azureml"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AML_HOME", str(path))
    (tmp_path / "home").mkdir()
    return str(path)
