"""PySpark in containers: a user with a name, an image with Java and pyspark, and one without."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from aml_jupyter import experiment
from aml_jupyter.executors.docker.containers import home_label
from aml_jupyter.executors.docker.engine import Engine
from aml_jupyter.executors.docker.users import make_known
from aml_jupyter.experiment import Request
from tests import engines
from tests.base_image import RECIPE_DIGEST, locked
from tests.requirements import missing, need

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IRIS = Path(__file__).resolve().parent.parent.parent / "notebooks" / "iris"
IMAGE = "aml-test-spark:bookworm"
JAVA = (
    "mkdir -p /usr/share/man/man1 && apt-get update -qq"
    " && apt-get install -qq -y --no-install-recommends openjdk-17-jre-headless"
)


@pytest.fixture
def spark_image(engine: engines.Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base image with Java and the pyspark of this interpreter, made once."""
    need("pyspark")
    recipe = f"{RECIPE_DIGEST}-{version('pyspark')}"
    with locked(tmp_path_factory.getbasetemp().parent / "spark-image.lock"):
        label = '{{index .Config.Labels "aml.test.spark"}}'
        if engine.docker("image", "inspect", "--format", label, IMAGE, check=False) == recipe:
            return IMAGE
        # the machine's own network: what installs here installs there
        container = engine.docker("create", "--network", "host", engines.BASE_IMAGE, "sh", "-c", JAVA)
        try:
            engine.docker("start", "--attach", container, check=False, timeout=300)
            if engine.docker("wait", container) != "0":
                missing("docker", "Java cannot be installed in a container: no package server answers")
            for package in ("py4j", "pyspark"):
                (folder,) = importlib.import_module(package).__path__
                engine.docker("cp", folder, f"{container}:/usr/lib/python3/dist-packages/", timeout=300)
            engine.docker(
                "commit", "--change", f"LABEL aml.test.spark={recipe}", container, IMAGE, timeout=300
            )
        finally:
            engine.docker("rm", "--force", container, check=False)
    return IMAGE


@pytest.fixture
def project(
    engine: engines.Engine, tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The Iris project, with Spark's own packages left to the image."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    folder = tmp_path / "iris"
    shutil.copytree(IRIS, folder)
    (folder / "aml_config" / "conda_dependencies.yml").unlink()
    monkeypatch.chdir(folder)
    yield folder
    for found in Engine(engine.socket).containers({"aml.home": home_label()}):
        Engine(engine.socket).remove(found["Id"])


def take(project: Path, image: str) -> None:
    path = project / "aml_config" / "docker.compute"
    path.write_text(path.read_text().replace("python:3.11-slim", image))


SCRIPT = """
import sys
import aml_run
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
aml_run.log("name", spark.sparkContext.appName)
aml_run.log("flowers", spark.read.csv("iris.csv", header=True).count())
aml_run.log("python", sys.executable)
with open("outputs/squares", "w") as file:
    file.write(str(spark.sparkContext.parallelize(range(4), 2).map(lambda n: n * n).collect()))
"""


def test_a_script_runs_in_the_spark_of_its_image(project: Path, spark_image: str) -> None:
    take(project, spark_image)
    (project / "script.py").write_text(SCRIPT)
    (project / "aml_config" / "spark_dependencies.yml").write_text(
        'configuration:\n  "spark.app.name": "in a box"\n  "spark.hadoop.my.secret": planted\n'
    )
    directory = experiment.submit(Request(target="docker-spark", script="script.py"))
    record = experiment.wait(directory, 500)
    assert record.status == "Completed", Path(directory.log).read_text()
    assert record.framework == "PySpark"
    assert record.metrics == {"name": "in a box", "flowers": 150, "python": "/usr/bin/python3"}
    assert not os.path.exists(directory.job + "/spark.properties")
    assert "planted" not in Path(directory.job, "request.json").read_text()


def test_an_image_without_spark_is_refused_before_the_script(project: Path) -> None:
    take(project, engines.BASE_IMAGE)
    (project / "script.py").write_text("print('never')")
    directory = experiment.submit(Request(target="docker-spark", script="script.py"))
    record = experiment.wait(directory, 60)
    assert (record.status, record.reason, record.start_time_utc) == ("Failed", "target.spark_missing", None)
    assert record.error is not None
    assert "no Spark (the pip package pyspark" in record.error["message"]
    assert "no Java (the conda package openjdk" in record.error["message"]
    assert not Path(directory.log).exists()


@pytest.mark.parametrize("user", ["12345:12345", "0:0"])
def test_a_user_whom_the_image_does_not_know_gets_a_name(
    engine: engines.Engine, home: str, user: str
) -> None:
    ask = "import os, pwd; print(pwd.getpwuid(os.getuid()).pw_name, len(pwd.getpwall()))"
    plain = engine.docker("run", "--rm", engines.BASE_IMAGE, "python3", "-c", ask).split()
    container = engine.docker("create", "--user", user, engines.BASE_IMAGE, "python3", "-c", ask)
    try:
        make_known(Engine(engine.socket), container, user)
        make_known(Engine(engine.socket), container, user)
        name, number = engine.docker("start", "--attach", container).split()
    finally:
        engine.docker("rm", "--force", container)
    known = user == "0:0"
    assert (name, int(number)) == ("root" if known else "aml", int(plain[1]) + (0 if known else 1))
