"""Contracts: what every executor and every artifact store does, as tests to subclass."""

from __future__ import annotations

from aml_jupyter.testing.artifact_store import ArtifactStoreContract
from aml_jupyter.testing.executor import ExecutorContract

__all__ = ["ArtifactStoreContract", "ExecutorContract"]
