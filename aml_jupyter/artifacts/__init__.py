"""Artifacts: what a run left in `outputs`, kept with a SHA-256 each, and what it left elsewhere.

collect                   outputs into the store, when the run has ended
listing, read_manifest    what was kept and what was not, with reasons
read_artifact, read_blocks, get
saving                    one of them into a person's folder, gone on with where it was cut off
not_kept, rescue          files written outside `outputs`
ArtifactStore             what a store must do; FolderStore is one
"""

from __future__ import annotations

from aml_jupyter.artifacts.collecting import Limits, collect
from aml_jupyter.artifacts.downloads import chosen, get, read_artifact, read_blocks
from aml_jupyter.artifacts.manifest import (
    Artifact,
    Manifest,
    find,
    listing,
    read_manifest,
    store_of,
    write_manifest,
)
from aml_jupyter.artifacts.store import FolderStore, Stored
from aml_jupyter.artifacts.unkept import Unkept, not_kept, rescue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.artifacts.store import ArtifactStore as ArtifactStore

__all__ = [
    "Artifact",
    "FolderStore",
    "Limits",
    "Manifest",
    "Stored",
    "Unkept",
    "chosen",
    "collect",
    "find",
    "get",
    "listing",
    "not_kept",
    "read_artifact",
    "read_blocks",
    "read_manifest",
    "rescue",
    "store_of",
    "write_manifest",
]
