"""A cell through the runtime: from `cell.py` to the log and the events of its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter.cell import write_cell
from aml_jupyter.metrics import merge_metrics
from aml_jupyter.values import decode, restored
from tests.runtime_job import VERSIONS, RuntimeJob

SOURCE = b"""
import subprocess, sys
print("one")
print("two", file=sys.stderr)
display({"three": 3})
import aml_run
aml_run.log("loss", 0.5); aml_run.log("loss", 0.25); aml_run.log("many", [0.5] * 20000)
print("four")
sent["n"] += 1
big = "x" * 200_000
big
"""


def events_of(job: RuntimeJob) -> list[dict[str, Any]]:
    lines = (job.job / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


@pytest.mark.parametrize("version", list(VERSIONS))
def test_a_cell_through_the_runtime(tmp_path: Path, version: str) -> None:
    job = RuntimeJob(tmp_path, python=VERSIONS[version])
    job.request["command"] = [VERSIONS[version], str(job.job / "runtime" / "run_cell.py"), "a"]
    (job.job / "request.json").write_text(json.dumps(job.request))
    write_cell(str(job.job), SOURCE, {"sent": {"n": 1}}, ("sent",), {})
    ending = job.run()
    log = (job.job / "log").read_bytes()
    assert ending["exit_code"] == 0, log
    assert log == b"one\ntwo\nfour\n"

    def read(name: str) -> bytes:
        return (job.job / "data" / name).read_bytes()

    events = events_of(job)
    kinds = [event["type"] for event in events if event["type"] not in ("started", "ended", "stderr")]
    assert kinds == ["display", "metric", "metric", "metric", "result", "value"]
    assert not [event for event in events if event["type"] == "warning"]
    shown = next(event for event in events if event["type"] == "display")
    assert shown["at"] == len(b"one\ntwo\n")
    assert merge_metrics(events, read) == {"loss": [0.5, 0.25], "many": [0.5] * 10000 + [0.5]}
    result = next(event for event in events if event["type"] == "result")
    assert restored(result, read)["data"]["text/plain"] == repr("x" * 200_000)
    value = next(event for event in events if event["type"] == "value")
    assert decode(value, read) == {"n": 2}


def test_a_failing_cell_through_the_runtime_keeps_its_error(tmp_path: Path) -> None:
    job = RuntimeJob(tmp_path)
    job.request["command"] = [job.python, str(job.job / "runtime" / "run_cell.py")]
    (job.job / "request.json").write_text(json.dumps(job.request))
    write_cell(str(job.job), b"def f():\n    1 / 0\n\nf()", {}, (), {})
    assert job.run()["exit_code"] == 1
    (error,) = [event for event in events_of(job) if event["type"] == "error"]
    assert error["traceback"][1] == '  File "<cell>", line 4, in <module>'
    assert (job.job / "log").read_text() == "\n".join(error["traceback"]) + "\n"
