"""PySpark runs in a real Spark: scripts and cells, how they end, what reaches Spark and what does not."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aml_jupyter
from aml_jupyter import experiment, processes
from aml_jupyter.experiment import Request
from aml_jupyter.runs import Record, RunDirectory
from tests.requirements import need

# a session takes ten seconds of a processor: these are few, and what needs none is in test_spark.py
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IRIS = Path(__file__).resolve().parent.parent / "notebooks" / "iris"
KEY = "spark.hadoop.fs.azure.account.key.mine.blob.core.windows.net"
SETTINGS = f"""
configuration:
  "spark.app.name": "two words"
  "spark.sql.shuffle.partitions": 2
  "{KEY}": "planted: ü = \\\\ key=="
"""
SEES = f"""
import os, sys
import aml_run
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
aml_run.log("name", spark.sparkContext.appName)
aml_run.log("master", spark.sparkContext.master)
aml_run.log("partitions", spark.conf.get("spark.sql.shuffle.partitions"))
key = spark.sparkContext._jsc.hadoopConfiguration().get("{KEY.removeprefix("spark.hadoop.")}")
assert aml_run.storage("RAW").attach(spark) is spark
raw = spark.sparkContext._jsc.hadoopConfiguration().get("fs.azure.account.key.raw.blob.core.windows.net")
aml_run.log("attached", raw == "cGxhbnRlZA==")
try:
    aml_run.storage("ONE").attach(spark)
except aml_run.blob.StorageError as error:
    aml_run.log("refused", "container=NAME" in str(error))
aml_run.storage("ONE").attach(spark, container="c")
token = spark.sparkContext._jsc.hadoopConfiguration().get("fs.azure.sas.c.one.blob.core.windows.net")
aml_run.log("token", token == "sv=1&sig=cGxhbnRlZA==")
aml_run.log("path", aml_run.storage("RAW").path("data", "rows.csv"))
aml_run.log("key_arrived", key == "planted: ü = \\\\ key==")
everybody_sees = [open(f"/proc/{{pid}}/cmdline", "rb").read() for pid in os.listdir("/proc") if pid.isdigit()]
aml_run.log("key_seen", any(b"planted" in line for line in everybody_sees))
aml_run.log("python", sys.executable)
squares = spark.sparkContext.parallelize(range(4), 2).map(lambda n: (n * n, sys.executable)).collect()
aml_run.log("squares", [square for square, _ in squares])
aml_run.log("workers", sorted({{python for _, python in squares}}))
print("to stdout")
print("to stderr", file=sys.stderr)
sys.exit(3)
"""
CELL = b"""
import sys, time
from pyspark.sql import SparkSession
import aml_run

spark = SparkSession.builder.getOrCreate()
print("to stdout")
print("to stderr", file=sys.stderr)
aml_run.log("rows", spark.range(rows).count())

class Shown:
    def _repr_html_(self):
        return f"<b>{spark.range(rows).count()} rows</b>"

display(Shown())
if sys.argv[1:] == ["waits"]:
    spark.sparkContext.parallelize(range(2), 2).map(lambda n: time.sleep(600)).collect()
if sys.argv[1:] == ["fails"]:
    spark.sql("SELECT nonsense FROM nowhere")
rows + 1
"""


class Finished:
    """A run that has ended, with what it said."""

    def __init__(self, directory: RunDirectory, record: Record) -> None:
        self.directory, self.record = directory, record
        self.log = Path(directory.log).read_text()
        text = Path(directory.job, "events.jsonl").read_text()
        self.events: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()][1:]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Iris project with Spark settings, and a home of its own."""
    need("java")
    need("pyspark")
    folder = tmp_path_factory.mktemp("spark")
    project = folder / "iris"
    shutil.copytree(IRIS, project)
    (project / "aml_config" / "spark_dependencies.yml").write_text(SETTINGS)
    (project / "sees.py").write_text(SEES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("AML_HOME", str(folder / ".azureml"))
        patch.chdir(project)
        for name in ("SPARK_HOME", "SPARK_CONF_DIR", "SPARK_LOCAL_IP"):
            patch.delenv(name, raising=False)
        yield project


def finished(request: Request) -> Finished:
    directory = experiment.submit(request)
    return Finished(directory, experiment.wait(directory, 500))


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    due = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < due
        time.sleep(0.1)


def test_the_iris_script_trains_in_spark(project: Path) -> None:
    run = finished(Request(target="spark", script="train_spark.py", arguments=("0.1",)))
    assert (run.record.status, run.record.framework) == ("Completed", "PySpark")
    assert run.record.metrics["rows"] == 150
    assert run.record.metrics["regularization"] == 0.1
    assert run.record.metrics["accuracy"] > 0.9
    made = json.loads(aml_jupyter.run(run.record.run_id).read("outputs/coefficients.json"))
    assert sorted(made["species"]) == ["setosa", "versicolor", "virginica"]
    assert "on local[*]" in run.log
    assert " INFO " not in run.log.partition("Setting Spark log level")[2]
    assert run.record.not_kept == ()


def test_P1_P9_settings_reach_spark_and_private_ones_nobody_else(project: Path) -> None:
    account = "AccountName=raw;AccountKey=cGxhbnRlZA==;EndpointSuffix=core.windows.net"
    given = {
        "RAW_CONNECTION_STRING": account,
        "ONE_ACCOUNT": "one",
        "ONE_SAS_TOKEN": "?sv=1&sig=cGxhbnRlZA==",
    }
    run = finished(Request(target="spark", script="sees.py", environment=given))
    assert (run.record.status, run.record.exit_code) == ("Failed", 3)
    python = run.record.interpreter
    assert run.record.metrics == {
        "name": "two words",
        "master": "local[*]",
        "partitions": "2",
        "attached": True,
        "refused": True,
        "token": True,
        "path": "wasbs://data@raw.blob.core.windows.net/rows.csv",
        "key_arrived": True,
        "key_seen": False,
        "python": python,
        "squares": [0, 1, 4, 9],
        "workers": [python],
    }
    assert "to stdout\n" in run.log
    assert "to stderr\n" in run.log
    for folder, _, names in os.walk(run.directory.path):
        for name in names:
            path = Path(folder, name)
            if "work" not in path.relative_to(run.directory.path).parts:
                data = path.read_bytes()
                assert b"planted" not in data, path
                assert b"cGxhbnRlZA==" not in data, path


def test_a_cell_in_spark_gives_what_a_cell_gives(project: Path) -> None:
    run = finished(Request(target="spark", cell=CELL, params={"rows": 7}))
    assert (run.record.status, run.record.metrics) == ("Completed", {"rows": 7})
    (shown,) = run.of("display")
    assert shown["data"]["text/html"] == "<b>7 rows</b>"
    (result,) = run.of("result")
    assert result["data"]["text/plain"] == "8"
    at = run.log.encode().index(b"to stderr")
    stretches = [(event["start"], event["end"]) for event in run.of("stderr")]
    assert any(start <= at < end for start, end in stretches)
    at = run.log.encode().index(b"to stdout")
    assert not any(start <= at < end for start, end in stretches)


def test_P1_a_cell_that_fails_in_spark_shows_its_own_line(project: Path) -> None:
    run = finished(Request(target="spark", cell=CELL, arguments=("fails",), params={"rows": 7}))
    assert (run.record.status, run.record.reason, run.record.exit_code) == ("Failed", "run.exit_nonzero", 1)
    assert run.record.metrics == {"rows": 7}
    assert run.record.error is not None
    assert "nowhere" in run.record.error["message"]
    (error,) = run.of("error")
    assert error["ename"] == "AnalysisException"
    assert any('spark.sql("SELECT nonsense FROM nowhere")' in line for line in error["traceback"])


def test_P1_cancelling_ends_java_and_every_worker(project: Path) -> None:
    directory = experiment.submit(
        Request(target="spark", cell=CELL, arguments=("waits",), params={"rows": 7})
    )
    until(lambda: len(workers(directory)) >= 4)
    before = workers(directory)
    experiment.cancel(directory)
    record = experiment.wait(directory, 60)
    assert record.status == "Canceled"
    assert record.metrics == {"rows": 7}
    assert not any(processes.is_alive(one) for one in before)
    assert workers(directory) == []


def workers(directory: RunDirectory) -> list[dict[str, Any]]:
    """The processes of a run: Java, the cell, the daemon of the workers, and the workers."""
    marker = f"AML_JOB={directory.job}".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if marker in Path("/proc", pid, "environ").read_bytes().split(b"\0"):
                found.append(processes.identity(int(pid)))
        except OSError:  # it ended
            continue
    return found


def test_a_run_configuration_without_framework_says_that_it_found_spark(project: Path) -> None:
    (project / "aml_config" / "open.runconfig").write_text("Target: local\n")
    planned = experiment.plan(Request(target="open", script="train.py"))
    assert planned.framework == "PySpark"
    assert "names no Framework: PySpark is used (found " in planned.warnings[0]
    assert experiment.plan(Request(target="local", script="train.py")).framework == "Python"
