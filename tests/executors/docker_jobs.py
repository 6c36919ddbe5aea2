"""Jobs for the tests of the docker executors: complete run directories without a history."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aml_jupyter import installation
from aml_jupyter.job import Job
from aml_jupyter.snapshot import Rules, Store
from aml_jupyter.testing.executor import MakeJob


def maker(tmp_path: Path, home: str, kind: str, target: Mapping[str, Any]) -> MakeJob:
    """A `make_job` of the executor contract for one kind and target."""

    def make(source: str, **changes: Any) -> Job:
        number = len(list(tmp_path.glob("run*")))
        project, directory = tmp_path / f"project{number}", tmp_path / f"run{number}"
        project.mkdir()
        (project / "script.py").write_text(source)
        (directory / "job").mkdir(parents=True)
        store = Store(home + "/snapshots")
        document = {
            "format": 1,
            "run_id": f"contract_{os.getpid()}_{number}",
            "kind": kind,
            "python": "",
            "command": ["", "script.py"],
            "cwd": "/azureml-run",
            "environment": {},
            "snapshots": home + "/snapshots",
            "snapshot_id": store.take(str(project), Rules()).id,
            "target": target,
            **changes,
        }
        (directory / "job/request.json").write_text(json.dumps(document))
        installation.place(home, str(directory / "job"))
        return Job.from_request(str(directory), document)

    return make
