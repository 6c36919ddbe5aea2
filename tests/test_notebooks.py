"""The notebooks do what they show: executed in real kernels, in copies, with homes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests import engines
from tests.azurite import Azurite
from tests.engines import Engine
from tests.requirements import missing

pytestmark = pytest.mark.slow

NO_ENGINE = "unix:///nowhere/docker.sock"
NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
IRIS_2018 = Path(__file__).resolve().parent / "projects" / "iris_2018"


class Executed:
    """A notebook after its execution by a program of `notebooks/`, and the history that it left."""

    def __init__(self, folder: Path, *program: str, **variables: str) -> None:
        self.folder = folder
        self.project = folder / "notebooks" / "iris"
        self.home = str(folder / "kept")
        self.environment = {**os.environ, "HOME": str(folder), "AML_HOME": self.home, **variables}
        self.environment.pop("AML_REQUIRE", None)
        shutil.copytree(NOTEBOOKS, folder / "notebooks", ignore=shutil.ignore_patterns(".*", "__pycache__"))
        self.before = self.files()
        self.printed = self.python(*program)
        self.cells = [
            cell
            for cell in nbformat.read(folder / "executed.ipynb", as_version=4).cells
            if cell.cell_type == "code"
        ]
        self.runs: dict[str, Any] = {run["name"] or "script": run for run in self.aml("runs")}

    def python(self, *words: str, status: int = 0, **variables: str) -> str:
        """What Python printed where the notebooks are."""
        answer = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder / "notebooks",
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
        )
        assert answer.returncode == status, answer.stdout + answer.stderr
        return answer.stdout

    def aml(self, *arguments: str) -> Any:
        command = [os.path.join(sysconfig.get_path("scripts"), "aml"), *arguments, "--json"]
        answer = subprocess.run(
            command, cwd=self.project, env=self.environment, stdout=subprocess.PIPE, check=True
        )
        return json.loads(answer.stdout)

    def files(self) -> set[str]:
        return {path.relative_to(self.project).as_posix() for path in self.project.rglob("*")}

    def artifacts(self, run: str) -> dict[str, int]:
        return {item["path"]: item["size"] for item in self.aml("ls", self.runs[run]["run_id"])}

    def outputs(self, begins: str) -> list[Any]:
        """The outputs of the one cell whose text begins so."""
        (cell,) = (cell for cell in self.cells if cell.source.startswith(begins))
        return list(cell.outputs)

    def text(self, begins: str) -> str:
        return "".join(output.text for output in self.outputs(begins) if output.output_type == "stream")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    return Executed(
        tmp_path_factory.mktemp("quickstart"), "demo.py", "../executed.ipynb", DOCKER_HOST=NO_ENGINE
    )


def test_every_run_of_the_quickstart_completes(executed: Executed) -> None:
    assert {run["status"] for run in executed.runs.values()} == {"Completed"}
    assert set(executed.runs) == {"first-model", "look-at-the-share", "predict", "script"}


def test_metrics_and_parameters_are_in_the_history(executed: Executed) -> None:
    run = executed.runs["first-model"]
    assert run["metrics"]["accuracy"] > 0.9
    assert run["metrics"]["regularization"] == 0.01
    assert run["params"] == {"regularization": 0.01}
    assert executed.runs["script"]["metrics"]["regularization"] == 10


def test_outputs_are_artifacts(executed: Executed) -> None:
    trained = executed.artifacts("first-model")
    assert trained["outputs/model.pkl"] > 500
    assert trained["outputs/petals.png"] > 1000
    assert "outputs/confusion.png" in executed.artifacts("script")


def test_figure_result_and_output_appear_under_the_cell(executed: Executed) -> None:
    bundles = [output.data for output in executed.outputs("%%amlrun local --name first") if "data" in output]
    assert any("image/png" in bundle for bundle in bundles)
    assert any("LogisticRegression" in bundle.get("text/plain", "") for bundle in bundles)
    assert "97 flowers to learn from, 53 to test with" in executed.text("%%amlrun local --name first")


def test_the_share_outlives_the_run(executed: Executed) -> None:
    assert "Counter({" in executed.text("%%amlrun local --name look")


def test_a_model_goes_into_a_run_and_its_answer_comes_back(executed: Executed) -> None:
    assert "this flower is a virginica" in executed.text("%%amlrun local --name predict")
    assert executed.outputs("answer")[0].data["text/plain"] == "'virginica'"


def test_the_history_is_a_table_in_the_notebook(executed: Executed) -> None:
    assert "look-at-the-share" in executed.outputs("history =")[0].data["text/html"]


def test_nothing_is_written_back_to_the_project(executed: Executed) -> None:
    assert executed.files() == executed.before


def test_the_demo_prints_id_status_metrics_and_artifacts(executed: Executed) -> None:
    assert f"{executed.runs['first-model']['run_id']}  Completed" in executed.printed
    assert "accuracy = 0.9" in executed.printed
    assert "outputs/model.pkl" in executed.printed
    assert "first-model on local" in executed.printed


def test_the_demo_says_that_no_engine_answers(executed: Executed) -> None:
    assert "not run on docker:\n  engine: the Docker engine at /nowhere/docker.sock does not answer" in (
        executed.printed
    )
    assert "Start Docker" in executed.printed


def test_the_demo_fails_for_want_of_an_engine_where_one_is_required(executed: Executed) -> None:
    asked = ("-c", "import demo, pathlib; demo.on_docker(pathlib.Path('../demo.ipynb'))")
    assert "not run on docker:" in executed.python(*asked, status=1, AML_REQUIRE="strace,docker")


# --- in containers ------------------------------------------------------------------------------------------


@pytest.fixture
def made_for(engine: Engine) -> Iterator[Callable[[str], None]]:
    """Told of a home, removes the images that were made for it."""
    homes: list[str] = []

    def note(home: str) -> None:
        homes.append(home)
        engines.HOMES.append(home)

    yield note
    for home in homes:
        mine = f"label=aml.home={engines.home_mark(home)}"
        if found := engine.docker("image", "ls", "--quiet", "--filter", mine).split():
            engine.docker("image", "rm", "--force", *found)


@pytest.mark.timeout(600)
def test_the_docker_notebook_does_what_it_shows(tmp_path: Path, made_for: Callable[[str], None]) -> None:
    made_for(str(tmp_path / "kept"))
    execute = "import demo, pathlib as p; demo.execute(p.Path('docker.ipynb'), p.Path('../executed.ipynb'))"
    executed = Executed(tmp_path, "-c", execute)

    assert {name: run["status"] for name, run in executed.runs.items()} == {
        "first-in-a-container": "Completed",
        "look-from-here": "Completed",
        "look-from-the-container": "Completed",
        "both-local": "Completed",
        "both-docker": "Completed",
        "too-small": "Failed",
    }
    # what was told while the environment was made is in the card: it would look like an error
    shown = executed.outputs("%%amlrun docker --name first")
    assert not [one for one in shown if one.output_type == "stream" and one.name == "stderr"]
    assert any("image/png" in one.data for one in shown if "data" in one)

    assert "FAILED" not in executed.text("%aml targets test")
    assert executed.artifacts("first-in-a-container").keys() == {"outputs/model.pkl", "outputs/petals.png"}
    assert executed.runs["first-in-a-container"]["metrics"]["accuracy"] > 0.9
    assert "Counter({" in executed.text("%%amlrun local --name look")
    assert executed.text("%%amlrun docker --name look") == (
        "working in /azureml-run with the share /azureml-share/\nlooked at on this computer\n"
    )
    verdict = executed.outputs("%%amlrun local,docker")[-1].data["text/plain"]
    assert verdict.startswith("= Portability: identical on local, docker")
    assert "scikit-learn" in executed.outputs("%aml env show")[-1].data["text/html"]
    assert executed.runs["too-small"]["reason"] == "run.oom"
    assert "its limit is 64 MiB (-m)" in executed.text("%%amlrun docker --cpus")
    assert executed.files() == executed.before

    # with the environment that is there now
    printed = executed.python("-c", "import demo, pathlib; demo.on_docker(pathlib.Path('../demo.ipynb'))")
    assert "Completed" in printed
    assert "in-a-container on docker" in printed
    assert "outputs/model.pkl" in printed
    assert "aml targets sweep docker --images" in printed


# --- storage ------------------------------------------------------------------------------------------------


def test_the_storage_notebook_does_what_it_shows(tmp_path: Path, azurite: Azurite) -> None:
    execute = "import demo, pathlib as p; demo.execute(p.Path('storage.ipynb'), p.Path('../executed.ipynb'))"
    executed = Executed(tmp_path, "-c", execute, **azurite.environ)

    assert {name: run["status"] for name, run in executed.runs.items()} == dict.fromkeys(
        ["to-outputs", "to-share", "from-share", "to-blob", "from-blob"], "Completed"
    )
    assert executed.artifacts("to-outputs").keys() == {"outputs/species.json"}
    assert "'setosa': 50" in executed.outputs("import json\n\nimport aml")[0].data["text/plain"]
    assert "['setosa', 'versicolor', 'virginica']" in executed.text("%%amlrun local --name from-share")
    size = (NOTEBOOKS / "iris/iris.csv").stat().st_size
    assert f"measured/iris.csv {size}" in executed.text("%%amlrun local --name from-blob")
    assert executed.runs["from-blob"]["metrics"] == {"flowers": 150}
    with azurite.service as service:
        kept = service.get_blob_client("iris", "measured/iris.csv").download_blob().readall()
    assert kept == (NOTEBOOKS / "iris/iris.csv").read_bytes()
    key = azurite.connection_string().partition("AccountKey=")[2].partition(";")[0].encode()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in files if key in path.read_bytes()] == []
    assert executed.files() == executed.before


def test_the_docker_notebook_has_the_cell_of_the_quickstart() -> None:
    bodies = [
        {cell.source.partition("\n")[2] for cell in nbformat.read(NOTEBOOKS / name, as_version=4).cells}
        for name in ("quickstart.ipynb", "docker.ipynb")
    ]
    assert [body for body in bodies[0] & bodies[1] if "LogisticRegression" in body]


PINNED = ("scikit-learn", "numpy", "scipy", "joblib", "threadpoolctl", "matplotlib", "pillow")


@pytest.mark.timeout(600)
def test_the_iris_scripts_leave_the_same_artifacts_in_a_container(
    home: str, tmp_path: Path, engine: Engine, made_for: Callable[[str], None]
) -> None:
    if sys.version_info[:2] != (3, 11):
        missing("python3.11", "the image has this version, and packages of the same versions are compared")
    made_for(home)
    # something of its own, so that no other test makes or removes the same image
    pins = [*(f"{name}=={version(name)}" for name in PINNED), "idna"]
    text = "dependencies:\n  - pip:\n" + "".join(f"    - {pin}\n" for pin in pins)
    for source, script in ((NOTEBOOKS / "iris", "train.py"), (IRIS_2018, "train_and_share.py")):
        project = tmp_path / source.name
        shutil.copytree(source, project, ignore=shutil.ignore_patterns(".*", "aml_config", "outputs"))
        (project / "aml_config").mkdir()
        (project / "aml_config" / "conda_dependencies.yml").write_text(text)
        left = {target: what_it_leaves(project, target, script) for target in ("local", "docker")}
        assert left["docker"] == left["local"]
        assert "outputs/model.pkl" in left["local"]["artifacts"]


def what_it_leaves(project: Path, target: str, script: str) -> dict[str, Any]:
    """Metrics and artifacts of a run, those with their hashes, and what lies in the share after it."""
    aml = os.path.join(sysconfig.get_path("scripts"), "aml")

    def ask(*words: str) -> Any:
        answer = subprocess.run([aml, *words, "--json"], cwd=project, capture_output=True, check=False)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return json.loads(answer.stdout)

    ask("run", target, script)
    run = ask("show", "@last")
    assert run["target"] == target
    share = next(Path(os.environ["HOME"], ".azureml", "share").glob(f"*/*/{project.name}"))
    return {
        "metrics": run["metrics"],
        "artifacts": {item["path"]: item["sha256"] for item in ask("ls", "@last")},
        "share": {path.name: path.read_bytes() for path in share.iterdir()},
    }
