"""Submitting from Python: what is told before a run exists, and that a refusal leaves nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import aml_jupyter
from aml_jupyter import experiment, runs
from aml_jupyter.errors import AmlError, ConfigError, RunFailed, SnapshotError, UsageError
from aml_jupyter.experiment import Request
from aml_jupyter.snapshot import Rules


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "code").mkdir(parents=True)
    (folder / "code/script.py").write_text("import sys; print(*sys.argv)")
    monkeypatch.chdir(folder)
    return folder


def test_a_plan_tells_everything_and_makes_nothing(project: Path, home: str) -> None:
    planned = experiment.plan(Request(script="code/script.py", arguments=("a",), params={"rate": 1}))
    assert planned.command[1:] == ("code/script.py", "a", "--rate=1")
    assert (planned.target.name, planned.framework) == ("local", "Python")
    assert planned.share is not None
    assert not os.path.exists(home + "/runs")
    assert not os.path.exists(planned.share.path)


def test_a_script_is_named_from_the_working_folder_or_from_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "aml_config").mkdir()
    for folder, name in (
        (project, "code/script.py"),
        (project / "code", "script.py"),
        (project, "code\\script.py"),
    ):
        monkeypatch.chdir(folder)
        assert experiment.plan(Request(script=name)).command[1] == "code/script.py"
    monkeypatch.chdir(project / "code")
    assert experiment.plan(Request(script="code/script.py")).command[1] == "code/script.py"


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"environment": {"A": 1}}, "variable A: its value is of type int"),
        ({"environment": {"A": None}}, "variable A: its value is of type NoneType"),
        ({"environment": {"A": "planted\0"}}, "variable A: its value holds a NUL"),
        ({"environment": {"A": "planted\ud800"}}, "variable A: its value holds"),
        ({"environment": {"A=B": "planted"}}, "'A=B' cannot be the name"),
        ({"environment": {"A\0": "planted"}}, r"'A\\x00' cannot be the name"),
        ({"environment": {"": "planted"}}, "'' cannot be the name"),
        ({"environment": {1: "planted"}}, "1 cannot be the name"),
        ({"params": {"rate": object()}}, "parameter 'rate' .* object is not JSON"),
        ({"params": {"rate": [{"a": {1, 2}}]}}, "parameter 'rate' .* set is not JSON"),
        ({"params": {"rate": LOOP}}, "parameter 'rate'"),
        ({"params": {(1, 2): 1}}, r"parameter \(1, 2\)"),
        ({"params": {"rate": "a\0"}}, "cannot be an argument"),
        ({"arguments": ["a\0"]}, "cannot be an argument"),
    ],
)
def test_what_no_process_can_be_given_is_refused_by_name_with_what_to_do(
    project: Path, home: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        aml_jupyter.submit("local", "code/script.py", **options)
    assert caught.value.hint
    assert "planted" not in str(caught.value)
    assert not os.path.exists(home + "/runs")


def test_parameters_may_be_anything_that_is_json(project: Path) -> None:
    params = {"a": [1, None, True, "x"], "b": {"c": 1.5}, "nan": float("inf")}
    run = aml_jupyter.submit("local", cell="print(a, b, nan)", params=params).wait()
    assert run.logs() == "[1, None, True, 'x'] {'c': 1.5} inf\n"
    assert run.params == params


REFUSED: list[tuple[Request, type[AmlError]]] = [
    (Request(), UsageError),
    (Request(script="nosuch.py"), UsageError),
    (Request(script="code"), UsageError),
    (Request(script="../outside.py"), UsageError),
    (Request(script="/etc/passwd"), UsageError),
    (Request(script="code/script.py", target="nosuch"), ConfigError),
    (Request(script="code/script.py", compute="nosuch"), ConfigError),
    (Request(script="code/script.py", rules=Rules(max_bytes=1)), SnapshotError),
    (Request(script="code/script.py", rules=Rules(max_files=0)), SnapshotError),
    (Request(script="code/script.py", name="@last"), UsageError),
    (Request(script="code/script.py", from_run="nosuch"), AmlError),
]


@pytest.mark.parametrize(("request_", "kind"), REFUSED)
def test_what_is_refused_leaves_no_run(
    project: Path, home: str, request_: Request, kind: type[AmlError]
) -> None:
    (project.parent / "outside.py").write_text("")
    with pytest.raises(kind) as caught:
        experiment.submit(request_)
    assert caught.value.message
    assert runs.all_directories(home) == []
    assert not os.path.isdir(home + "/ids") or os.listdir(home + "/ids") == []


def test_waiting_has_an_end_and_the_run_has_another(project: Path) -> None:
    (project / "code/script.py").write_text("import time; time.sleep(60)")
    directory = experiment.submit(Request(script="code/script.py"))
    with pytest.raises(RunFailed) as caught:
        experiment.wait(directory, 0.1)
    assert (caught.value.code, caught.value.exit_code) == ("run.wait_timeout", 124)
    experiment.cancel(directory, kill=True)
    assert experiment.wait(directory, 30).status == "Canceled"
    assert experiment.resume(directory) is False


def test_a_run_canceled_before_it_began_was_never_started(project: Path) -> None:
    directory = experiment.write(experiment.plan(Request(script="code/script.py")))
    runs.request_cancel(directory)
    # nobody supervises it, and its submit is a minute old
    os.utime(directory.run_json, (0, 0))
    record = experiment.wait(directory, 30)
    assert record.status == "Canceled"
    assert not os.path.exists(directory.started_json)
