"""What a person asked for, and what it comes to."""

from __future__ import annotations

from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.config import Project, RunConfiguration, Target
    from aml_jupyter.lineage import Given
    from aml_jupyter.runs import RunDirectory
    from aml_jupyter.share import Share
    from aml_jupyter.snapshot import Rules
    from aml_jupyter.spark import Session


class Request(Value):
    """What a person asked for.

    `cell` is the cell's bytes, or None for a script; `environment` are variables whose values are written
    nowhere, `secrets` such that are taken out of what the run prints as well; `timeout` in seconds;
    `warnings` are what the front door has to remark already; `resources` are what the run may use of its
    target (`cpus`, `memory`, `gpus`, `image`, ...).
    `given` are files of earlier runs by name (`RUN:PATH`, `asset:NAME`); `rerun_of` is a run that is
    repeated: what it was asked for counts, but for what is named here.  A `hidden` run is in no list.
    With `needed` the record holds what other runs are told from it by.
    """

    target: str = "local"
    compute: str | None = None
    script: str | None = None
    arguments: tuple[str, ...] = ()
    cell: bytes | None = None
    inputs: Mapping[str, object] = {}
    outputs: tuple[str, ...] = ()
    params: Mapping[str, object] = {}
    environment: Mapping[str, str] = {}
    secrets: Mapping[str, str] = {}
    timeout: float | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    message: str = ""
    workdir: str | None = None
    notebook: str | None = None
    cell_id: str | None = None
    rules: Rules | None = None
    warnings: tuple[str, ...] = ()
    from_run: str | None = None
    parent_run_id: str | None = None
    experiment_id: str = ""
    resources: Mapping[str, object] = {}
    given: Mapping[str, str] = {}
    rerun_of: str | None = None
    needed: bool = False
    hidden: bool = False


class Plan(Value):
    """A request resolved against the configuration: all that can be told before the snapshot is taken.

    `repeats` is the run that is repeated, `demand` what its executor was told of the target.
    """

    request: Request
    project: Project
    configuration: RunConfiguration
    target: Target
    python: str
    framework: str
    command: tuple[str, ...]
    share: Share | None
    warnings: tuple[str, ...]
    spark: Session | None = None
    dependencies: Mapping[str, Any] | None = None
    source_run: RunDirectory | None = None
    queued: bool = False
    repeats: RunDirectory | None = None
    demand: Mapping[str, Any] | None = None
    given: tuple[Given, ...] = ()
