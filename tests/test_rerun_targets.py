"""Reruns with their very lock and image, and inputs in containers and on another machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import experiment, reuse, runs
from aml_jupyter.environment.keeping import by_digest
from aml_jupyter.errors import AmlError
from aml_jupyter.experiment import Request
from aml_jupyter.run import Run
from aml_jupyter.runs import Record
from tests import container_runs
from tests.engines import PrivateEngine
from tests.wheel_index import Index, served

USE = """
import os, aml_run
path = aml_run.input("model")
print(open(path).read(), sorted(os.listdir(aml_run.input("all"))), os.path.relpath(path))
"""
MAKE = """
import os
os.makedirs("outputs/deep", exist_ok=True)
open("outputs/model.txt", "w").write("the model")
open("outputs/deep/a b.txt", "w").write("deep")
"""


def ended(request: Request) -> Record:
    record = experiment.wait(experiment.submit(request), 120)
    assert record.status == "Completed", (record.error, Run(runs.find(record.run_id, "")).logs())
    return record


def used(made: Record, target: str) -> Run:
    given = {"model": f"{made.run_id}:model.txt", "all": f"{made.run_id}:outputs"}
    record = ended(Request(script="use.py", target=target, given=given))
    assert record.not_kept == ()
    return Run(runs.find(record.run_id, str(Path(record.project_root).parent / "home/.azureml")))


# ---- the very lock


@pytest.fixture
def index() -> Iterator[Index]:
    made = Index()
    made.add("amlpip", "1.0")
    with served(made) as running:
        yield running


@pytest.fixture
def managed(tmp_path: Path, home: str, index: Index, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose environment is made on this computer from an index."""
    for name in ("PYTHONPATH", "PYTHONHASHSEED"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "project"
    (folder / "aml_config").mkdir(parents=True)
    (folder / "aml_config/own.compute").write_text("type: local\nuserManagedEnvironment: false\n")
    (folder / "aml_config/conda_dependencies.yml").write_text(
        f"dependencies:\n- pip:\n  - {index.option}\n  - amlpip\n"
    )
    (folder / "script.py").write_text("import amlpip; open('outputs/v', 'w').write(amlpip.version)")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
def test_a_rerun_has_the_very_lock_though_a_newer_version_would_be_found(
    managed: Path, index: Index, home: str
) -> None:
    request = Request(script="script.py", target="own")
    first = Run(experiment.submit(request)).wait(120)
    assert first.status == "Completed", first.record.error
    index.add("amlpip", "2.0")
    relocked = ended(request.replace(resources={"relock": True}))
    assert relocked.environment["lock"] != first.record.environment["lock"]
    # what is asked for now has another answer: the run's own counts
    found = first.rerun(verify=True)
    assert found.same, found
    again = runs.read_record(runs.find(found.rerun, home))
    assert again.environment["lock"] == first.record.environment["lock"]
    assert reuse.look(Request(rerun_of=first.id), None).directory is not None
    assert reuse.look(request, None).directory == runs.find(relocked.run_id, home)


def test_a_lock_that_is_gone_is_told(managed: Path, home: str) -> None:
    first = Run(experiment.submit(Request(script="script.py", target="own"))).wait(120)
    lock = first.record.environment["lock"]
    assert by_digest(lock) is not None
    Path(f"{home}/environments/kept/{lock}.json").unlink()
    again = first.rerun().wait(120).record
    assert (again.status, again.reason) == ("Failed", "environment.lock_gone")
    assert "--relock" in (again.error or {})["hint"]


# ---- containers


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("target", ["docker", "copied"])
def test_a_container_is_given_artifacts_and_is_run_again(
    private_engine: PrivateEngine, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    project = container_runs.project_in(tmp_path, monkeypatch)
    (project / "make.py").write_text(MAKE)
    (project / "use.py").write_text(USE)
    made = ended(Request(script="make.py", target=target))
    run = used(made, target)
    assert run.logs() == "the model ['deep', 'model.txt'] inputs/model/model.txt\n"
    found = run.rerun(verify=True)
    assert found.same, found
    assert not found.comparison.environment.differ
    request = Request(script="make.py", target=target)
    answer = reuse.look(request, None)
    assert answer.directory is not None, answer.why
    assert "resources" in reuse.look(request.replace(resources={"cpus": 1.0}), None).why


@pytest.mark.slow
@pytest.mark.root
def test_the_outputs_so_far_of_a_container_are_there(
    private_engine: PrivateEngine, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = container_runs.project_in(tmp_path, monkeypatch)
    running = {
        name: container_runs.submit(project, container_runs.FOREVER, name) for name in ("docker", "copied")
    }
    for directory in running.values():
        container_runs.wait_for(directory, "up")
    for name, directory in running.items():
        assert Run(directory).read("result") == b"whole"
        assert [Path(one).name for one in Run(directory).get("", str(tmp_path / name))] == ["result"]
    for directory in running.values():
        experiment.cancel(directory, kill=True)
        experiment.wait(directory, 60)
    assert Run(running["copied"]).read("result") == b"whole"


def test_a_rerun_needs_its_interpreter(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    (folder / "aml_config").mkdir(parents=True)
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    (folder / "aml_config/mine.compute").write_text(f"type: local\npythonLocation: {python}\n")
    (folder / "script.py").write_text("print(1)")
    monkeypatch.chdir(folder)
    first = Run(experiment.submit(Request(script="script.py", target="mine"))).wait(120)
    assert first.status == "Completed", first.record.error
    python.unlink()
    with pytest.raises(AmlError) as refused:
        first.rerun()
    assert refused.value.code == "target.python_missing"
    assert first.rerun("local", verify=True).same
