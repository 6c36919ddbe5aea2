"""PySpark runs, without a Spark: which runs they are, where Spark is looked for, what is handed to it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.config import RunConfiguration, Target
from aml_jupyter.environment import Spark
from aml_jupyter.errors import ConfigError, UsageError
from aml_jupyter.experiment import Request
from aml_jupyter.spark import Asked, choose, session, submit_command
from tests.configuration import project_with
from tests.runtime_job import NEWEST, OLDEST, RUNTIME, VERSIONS, RuntimeJob

# a spark-submit that says how it was started and what it was given, and runs the script as Spark does
PROGRAM = """#!/bin/sh
for word in "$@"; do printf '<%s>' "$word"; done
echo
env | sort | grep -E '^(SPARK_|PYSPARK_|JAVA_HOME)'
while [ "${1#--}" != "$1" ]; do
  [ "$1" = --properties-file ] && cat "$2"
  shift 2
done
exec "$PYSPARK_DRIVER_PYTHON" "$@"
"""
FIND = """
import json, sys
sys.path.insert(0, {runtime!r})
import sparksubmit
location, python, environment = json.loads(sys.argv[1])
try:
    print(json.dumps(vars(sparksubmit.find(location, python, environment))))
except sparksubmit.SparkMissing as error:
    print(json.dumps([str(error), error.hint]))
"""


def program(path: Path, text: str = PROGRAM) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def spark_home(folder: Path) -> Path:
    """A folder laid out as a Spark is."""
    (folder / "jars").mkdir(parents=True)
    program(folder / "bin" / "spark-submit")
    return folder


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment with Java and without Spark, for this process, too."""
    program(tmp_path / "java" / "bin" / "java", "#!/bin/sh\n")
    variables = {"PATH": f"{tmp_path}/java/bin:/usr/bin:/bin"}
    for name in ("SPARK_HOME", "SPARK_CONF_DIR", "JAVA_HOME", "PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", variables["PATH"])
    return variables


@pytest.fixture(params=[OLDEST, NEWEST])
def find(request: pytest.FixtureRequest) -> Callable[..., Any]:
    def found(location: str | None, python: str, environment: dict[str, str]) -> Any:
        command = [VERSIONS[request.param], "-c", FIND.format(runtime=str(RUNTIME))]
        asked = json.dumps([location, python, environment])
        return json.loads(subprocess.run([*command, asked], check=True, stdout=subprocess.PIPE).stdout)

    return found


def test_spark_is_looked_for_in_the_order_that_the_documentation_gives(
    tmp_path: Path, bare: dict[str, str], find: Callable[..., Any]
) -> None:
    python = str(program(tmp_path / "venv" / "bin" / "python", "#!/bin/sh\n"))
    text, hint = find(None, python, bare)
    assert text == f"there is neither a spark-submit on PATH nor a pyspark package in {python}"
    assert "pip install pyspark" in hint
    package = spark_home(tmp_path / "venv/lib/python3.12/site-packages/pyspark")
    assert find(None, python, bare)["home"] == str(package)
    on_path = spark_home(tmp_path / "on_path")
    bare["PATH"] = f"{on_path}/bin:{bare['PATH']}"
    assert find("spark-submit", python, bare)["submit"] == f"{on_path}/bin/spark-submit"
    named = spark_home(tmp_path / "named")
    bare["SPARK_HOME"] = str(named)
    assert find(None, python, bare)["home"] == str(named)
    written = spark_home(tmp_path / "written")
    assert find(f"{written}/bin/spark-submit", python, bare)["home"] == str(written)
    text, hint = find("/nowhere/spark-submit", python, bare)
    assert text == "sparkSubmitLocation '/nowhere/spark-submit' is not a program"
    assert "sparkSubmitLocation" in hint


def test_what_pip_and_packagers_put_on_path_is_followed_to_its_spark(
    tmp_path: Path, bare: dict[str, str], find: Callable[..., Any]
) -> None:
    package = spark_home(tmp_path / "venv/lib/python3.11/site-packages/pyspark")
    program(tmp_path / "venv/bin/spark-submit")
    program(tmp_path / "venv/bin/find_spark_home.py")
    bare["PATH"] = f"{tmp_path}/venv/bin:{bare['PATH']}"
    assert find(None, sys.executable, bare)["submit"] == f"{package}/bin/spark-submit"
    # a link, and a script of a distribution's own
    (tmp_path / "links").mkdir()
    (tmp_path / "links/spark-submit").symlink_to(spark_home(tmp_path / "opt") / "bin/spark-submit")
    assert find(f"{tmp_path}/links/spark-submit", sys.executable, bare)["home"] == f"{tmp_path}/opt"
    own = program(tmp_path / "own" / "spark-submit")
    found = find(str(own), sys.executable, bare)
    assert (found["submit"], found["home"], found["configured"]) == (str(own), "", False)


def test_an_interpreter_is_asked_for_a_package_that_lies_elsewhere(
    tmp_path: Path, bare: dict[str, str], find: Callable[..., Any]
) -> None:
    package = spark_home(tmp_path / "library" / "pyspark")
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    bare["PYTHONPATH"] = str(tmp_path / "library")
    assert find(None, VERSIONS[NEWEST], bare)["home"] == str(package)
    (package / "jars").rmdir()  # pyspark-client has none
    assert isinstance(find(None, VERSIONS[OLDEST], bare), list)


def test_a_spark_without_java_is_none(tmp_path: Path, bare: dict[str, str], find: Callable[..., Any]) -> None:
    home = spark_home(tmp_path / "spark")
    python = str(program(tmp_path / "conda" / "bin" / "python", "#!/bin/sh\n"))
    without = {"PATH": "/nowhere", "SPARK_HOME": str(home)}
    text, hint = find(None, python, without)
    assert text == f"Spark ({home}/bin/spark-submit) needs Java, and there is none on PATH"
    assert "openjdk" in hint
    text, _ = find(None, python, {**bare, **without, "JAVA_HOME": "/nowhere"})
    assert text.endswith("JAVA_HOME=/nowhere holds none")
    program(tmp_path / "conda" / "bin" / "java")
    assert find(None, python, without)["java_home"] == f"{tmp_path}/conda"


def test_settings_become_options_of_spark_submit() -> None:
    spark = Spark(
        configuration={"spark.driver.memory": "6g", "spark.app.name": "a b"},
        repositories=("https://mmlspark.azureedge.net/maven", "https://two.example.org"),
        packages=("com.microsoft.ml.spark:mmlspark_2.11:0.7.91", "org.example:two:2.10"),
    )
    assert submit_command(spark, submit=["spark-submit"], script="t.py", arguments=["--conf", "", "x"]) == (
        *("spark-submit", "--master", "local[*]"),
        *("--repositories", "https://mmlspark.azureedge.net/maven,https://two.example.org"),
        *("--packages", "com.microsoft.ml.spark:mmlspark_2.11:0.7.91,org.example:two:2.10"),
        *("--conf", "spark.driver.memory=6g", "--conf", "spark.app.name=a b"),
        *("t.py", "--conf", "", "x"),
    )
    bare = submit_command(None, submit=["/opt/spark-submit"], script="t.py", arguments=(), master="")
    assert bare == ("/opt/spark-submit", "t.py")
    settings = {"configuration": {"spark.master": "local[2]"}}
    assert submit_command(settings, submit=["s"], script="t.py", arguments=(), master="yarn") == (
        *("s", "--conf", "spark.master=local[2]", "t.py"),
    )


def asked(tmp_path: Path, files: dict[str, str | bytes], **fields: Any) -> Asked:
    framework = fields.pop("framework", "PySpark")
    target = Target(**{"name": "t", "kind": "docker", **fields.pop("target", {})})
    return Asked(
        **{
            "project": project_with(tmp_path, files),
            "configuration": RunConfiguration(
                name="r", target="t", framework=framework, file="aml_config/r.runconfig"
            ),
            "target": target,
            "python": "",
            "variables": {},
            **fields,
        }
    )


KEY = "spark.hadoop.fs.azure.account.key.mine.blob.core.windows.net"


def test_P9_private_settings_are_kept_out_of_the_request_and_told(tmp_path: Path, home: str) -> None:
    text = (
        f'configuration:\n  "{KEY}": "planted=\\\\ ü\U0001f600 key=="\n  "spark.app.name": open\n'
        '  "spark.ssl.keyPassword": ""\n'
        "repositories:\n  - https://me:planted@maven.example.org/m\n"
    )
    warnings: list[str] = []
    made = session(asked(tmp_path, {"spark_dependencies.yml": text}), warnings)
    assert "planted" not in json.dumps(made.settings)
    assert (made.settings["private"], made.settings["repositories"]) == (True, [])
    assert made.settings["configuration"] == {"spark.app.name": "open", "spark.ssl.keyPassword": ""}
    assert (
        made.properties
        == (
            f"{KEY}=planted\\=\\\\\\ \\u00fc\\ud83d\\ude00\\ key\\=\\=\n"
            "spark.jars.repositories=https\\://me\\:planted@maven.example.org/m\n"
        ).encode()
    )
    (told,) = warnings
    assert KEY in told
    assert "planted" not in told
    for folder, _, names in os.walk(home):
        assert not any(b"planted" in Path(folder, name).read_bytes() for name in names)


def test_the_project_need_not_have_a_file_for_spark(tmp_path: Path, home: str) -> None:
    warnings: list[str] = []
    made = session(asked(tmp_path, {}), warnings)
    assert (made.settings["configuration"], made.settings["private"], made.properties) == ({}, False, b"")
    assert warnings == []


@pytest.mark.parametrize(
    ("conda", "image", "expected", "reason"),
    [
        (
            "dependencies: [pip, {pip: [pyspark==3.5.3]}]",
            None,
            "PySpark",
            "conda_dependencies.yml lists pyspark",
        ),
        ("dependencies: ['conda-forge::pyspark=3.5']", None, "PySpark", "lists pyspark"),
        ("dependencies: [python=3.11]", "microsoft/mmlspark:plus-0.9.9", "PySpark", "mmlspark"),
        ("dependencies: [pyspark-client]", "python:3.11-slim", "Python", "nor the base image names Spark"),
        ("", None, "Python", "nor the base image names Spark"),
    ],
)
def test_without_framework_an_environment_that_is_not_made_yet_is_read(
    tmp_path: Path, home: str, conda: str, image: str | None, expected: str, reason: str
) -> None:
    target = {"base_docker_image": image}
    files: dict[str, str | bytes] = {"conda_dependencies.yml": conda}
    warnings: list[str] = []
    framework, made = choose(asked(tmp_path, files, framework=None, target=target), None, warnings)
    assert (framework, made is not None) == (expected, expected == "PySpark")
    assert warnings[0].startswith(f"aml_config/r.runconfig names no Framework: {expected} is used (")
    assert reason in warnings[0]


def test_who_says_pyspark_of_a_container_is_believed(tmp_path: Path, home: str) -> None:
    assert choose(asked(tmp_path, {}), "a.py", [])[0] == "PySpark"
    with pytest.raises(UsageError, match="takes a file for a Java archive"):
        choose(asked(tmp_path, {}), "train", [])


@pytest.fixture
def project(tmp_path: Path, home: str, bare: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the run configurations `spark` and `open` on an interpreter that has no pyspark."""
    python = program(tmp_path / "venv" / "bin" / "python", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    target = f"type: local\npythonLocation: {python}\nnativeSharedDirectory: ~/.azureml/share/\n"
    found = project_with(
        tmp_path,
        {
            "here.compute": target,
            "spark.runconfig": "Target: here\nFramework: PySpark\n",
            "open.runconfig": "Target: here\n",
        },
    )
    script = "import os, sys\nprint(sys.argv[1:], os.environ['AML_JOB'])\nopen('outputs/a', 'w').close()\n"
    (Path(found.root) / "train.py").write_text(script)
    monkeypatch.chdir(found.root)
    return Path(found.root)


def test_pyspark_without_spark_is_refused_before_the_run(project: Path, home: str) -> None:
    with pytest.raises(
        ConfigError, match="Framework is PySpark, and for target 'here' there is neither"
    ) as told:
        experiment.submit(Request(target="spark", script="train.py"))
    assert told.value.code == "target.spark_missing"
    assert "pip install pyspark" in told.value.hint
    assert runs.all_directories(home) == []
    planned = experiment.plan(Request(target="open", script="train.py"))
    assert (planned.framework, planned.spark) == ("Python", None)
    assert "names no Framework: Python is used (there is neither" in planned.warnings[0]
    # where nobody wrote a run configuration, nobody left it open
    assert experiment.plan(Request(target="here", script="train.py")).warnings == ()


def test_a_run_is_started_by_spark_submit(
    project: Path, tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spark = spark_home(tmp_path / "spark with a space")
    with open(project / "aml_config" / "here.compute", "a") as file:
        file.write(f'sparkSubmitLocation: "{spark}/bin/spark-submit"\n')
    (project / "aml_config" / "spark_dependencies.yml").write_text(
        f'configuration:\n  "spark.app.name": "two words"\n  "{KEY}": planted-key\n'
    )
    monkeypatch.setenv("PYSPARK_PYTHON", "inherited")
    planned = experiment.plan(Request(target="open", script="train.py"))
    assert planned.framework == "PySpark"
    assert f"PySpark is used (found {spark})" in planned.warnings[0]
    request = Request(
        target="spark", script="train.py", arguments=("--conf", "x y"), environment={"SPARK_LOCAL_IP": "::1"}
    )
    directory = experiment.submit(request)
    record = experiment.wait(directory, 60)
    assert (record.status, record.framework, record.script_name) == ("Completed", "PySpark", "train.py")
    assert record.arguments == ("--conf", "x y")
    first, *variables, private, last = Path(directory.log).read_text().splitlines()
    properties = f"{directory.job}/spark.properties"
    assert first == "".join(
        f"<{word}>"
        for word in (
            *("--master", "local[*]", "--conf", "spark.log.level=WARN", "--conf", "spark.ui.port=0"),
            *("--conf", "spark.redaction.regex=(?i)secret|password|token|credential"),
            *("--conf", "spark.app.name=two words", "--properties-file", properties),
            *("train.py", "--conf", "x y"),
        )
    ).replace("credential>", "credential|(access|account|private)[.]?key>")
    python = f"{tmp_path}/venv/bin/python"
    assert variables == [
        f"PYSPARK_DRIVER_PYTHON={python}",
        f"PYSPARK_PYTHON={python}",
        f"SPARK_HOME={spark}",
        "SPARK_LOCAL_HOSTNAME=localhost",
        "SPARK_LOCAL_IP=::1",
    ]
    assert private == f"{KEY}=planted-key"
    assert last == f"['--conf', 'x y'] {directory.job}"
    assert not os.path.exists(properties)
    for name in ("run.json", "control.log", "job/request.json", "job/events.jsonl", "job/exit.json"):
        path = Path(directory.path, name)
        assert not path.exists() or b"planted-key" not in path.read_bytes(), name


def test_a_cell_is_run_by_spark_submit_and_keeps_what_a_cell_has(
    project: Path, tmp_path: Path, home: str
) -> None:
    spark = spark_home(tmp_path / "spark")
    with open(project / "aml_config" / "here.compute", "a") as file:
        file.write(f"sparkSubmitLocation: {spark}/bin/spark-submit\n")
    cell = b"import aml_run, sys\naml_run.log('rate', rate)\nprint(sys.argv[1:])\nrate + 1"
    directory = experiment.submit(Request(target="spark", cell=cell, arguments=("a",), params={"rate": 2}))
    record = experiment.wait(directory, 60)
    assert (record.status, record.metrics) == ("Completed", {"rate": 2})
    log = Path(directory.log).read_text()
    assert f"<{directory.job}/runtime/run_cell.py><a>\n" in log
    assert log.endswith("['a']\n")
    events = [json.loads(line) for line in Path(directory.job, "events.jsonl").read_text().splitlines()]
    assert [event["data"] for event in events if event.get("type") == "result"] == [{"text/plain": "3"}]


def test_private_settings_do_not_outlive_a_runtime_that_is_killed(
    project: Path, tmp_path: Path, home: str
) -> None:
    spark = spark_home(tmp_path / "spark")
    with open(project / "aml_config" / "here.compute", "a") as file:
        file.write(f"sparkSubmitLocation: {spark}/bin/spark-submit\n")
    (project / "aml_config" / "spark_dependencies.yml").write_text(f'configuration:\n  "{KEY}": planted\n')
    (project / "train.py").write_text("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n")
    directory = experiment.submit(Request(target="spark", script="train.py"))
    record = experiment.wait(directory, 60)
    assert (record.status, record.reason) == ("Failed", "run.lost")
    assert not os.path.exists(directory.job + "/spark.properties")


def test_what_a_person_sets_is_stronger(project: Path, tmp_path: Path, home: str) -> None:
    spark = spark_home(tmp_path / "spark")
    (spark / "conf").mkdir()
    (spark / "conf" / "spark-defaults.conf").touch()
    (project / "aml_config" / "spark_dependencies.yml").write_text(
        'configuration:\n  "spark.master": "spark://elsewhere:7077"\n'
    )
    (project / "aml_config" / "spark.runconfig").write_text(
        "Target: here\nFramework: PySpark\nEnvironmentVariables:\n"
        f"  SPARK_HOME: {shlex.quote(str(spark))}\n  PYSPARK_PYTHON: workers-have-this\n"
    )
    directory = experiment.submit(Request(target="spark", script="train.py"))
    assert experiment.wait(directory, 60).status == "Completed"
    first, *variables, _ = Path(directory.log).read_text().splitlines()
    assert first == "<--conf><spark.master=spark://elsewhere:7077><train.py>"
    assert variables == [
        f"PYSPARK_DRIVER_PYTHON={tmp_path}/venv/bin/python",
        "PYSPARK_PYTHON=workers-have-this",
        f"SPARK_HOME={spark}",
    ]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_a_target_without_spark_says_what_to_add(tmp_path: Path, bare: dict[str, str], version: str) -> None:
    """What the submitter could not know, the runtime refuses before the script."""
    job = RuntimeJob(tmp_path, python=VERSIONS[version], spark={"location": None, "master": "local[*]"})
    ending = job.run(env=bare)
    assert (ending["exit_code"], ending["error"]["code"]) == (125, "target.spark_missing")
    assert ending["error"]["message"].startswith(
        "there is neither a spark-submit on PATH nor a pyspark package"
    )
    assert "conda_dependencies.yml" in ending["error"]["message"]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_python_turns_a_command_into_spark_submit(
    tmp_path: Path, bare: dict[str, str], version: str
) -> None:
    spark = spark_home(tmp_path / "spark")
    settings = {"location": f"{spark}/bin/spark-submit", "master": "local[*]", "packages": ["a:b:1"]}
    job = RuntimeJob(tmp_path, "print('ran')", VERSIONS[version], spark=settings)
    ending = job.run(env=bare)
    assert ending["exit_code"] == 0
    log = (job.job / "log").read_text()
    assert log.startswith("<--master><local[*]><--packages><a:b:1>")
    assert log.endswith("ran\n")
