"""Runs leave for an MLflow server or an RO-Crate with all that is known of them, once."""

from __future__ import annotations

import json
import os
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.errors import AmlError, UsageError
from aml_jupyter.experiment import Request
from aml_jupyter.interchange import mlflow, rocrate
from aml_jupyter.interchange.server import Server
from aml_jupyter.interchange.words import ExportFailed
from aml_jupyter.runs import RunDirectory
from tests.made_runs import end, finished, submit
from tests.mlflow_server import PASSWORD, TOKEN, USER, MlflowServer
from tests.requirements import need
from tests.terminal import aml

SCRIPT = """
import os
import aml_run
for step in range(2500):
    aml_run.log("loss", 1 / (step + 1), step=step)
aml_run.log("acc", 0.5)
aml_run.log("acc", 0.9)
aml_run.log("many", [1, 2, float("nan")])
aml_run.log("strange %name\\u00e9", 4)
aml_run.log("word", "hello")
aml_run.log_table("folds", {"fold": [1, 2], "accuracy": [0.91, 0.93]})
aml_run.log_image("dot", bytes=b"\\x89PNG\\r\\n\\x1a\\n not a real one")
os.makedirs("outputs/plots")
os.makedirs("outputs/mlflow")
open("outputs/model.bin", "wb").write(bytes(range(256)) * 20000)
open("outputs/plots/a b#?.txt", "w").write("plot")
open("outputs/mlflow/logged.txt", "w").write("by a client")
open("outputs/empty", "w").close()
print("what it said")
"""


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    # its name is that of the experiment, and the server is shared
    folder = tmp_path / f"p{abs(hash(str(tmp_path)))}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in [one for one in os.environ if one.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    return folder


def made(project: Path, source: str = SCRIPT, **options: Any) -> RunDirectory:
    (project / "script.py").write_text(source)
    directory = experiment.submit(Request(script="script.py", **options))
    record = experiment.wait(directory, 60)
    assert record.ended
    return directory


def experiment_of(server: MlflowServer, project: Path) -> str:
    found = server.ask("experiments/get-by-name", experiment_name=project.name)
    return str(found["experiment"]["experiment_id"])


def the_run(server: MlflowServer, project: Path) -> dict[str, Any]:
    (run,) = server.search(experiment_of(server, project))
    return run


def words(run: dict[str, Any], kind: str) -> dict[str, Any]:
    return {one["key"]: one["value"] for one in run["data"].get(kind, [])}


@pytest.mark.slow
def test_a_run_arrives_whole_at_a_real_mlflow_server_and_only_once(
    project: Path, mlflow_server: MlflowServer
) -> None:
    directory = made(project, params={"rate": 0.1, "kind": "tree"}, arguments=("--flag", "two words"))
    runs.set_labels(directory, name="the one", tags={"team": "red"}, note="worth a look")
    record = runs.read_record(directory)
    answer = aml("export", directory.run_id, "--mlflow", mlflow_server.url)
    assert answer.returncode == 0, answer.stderr
    assert f"{directory.run_id} exported" in answer.stdout
    run = the_run(mlflow_server, project)
    info = run["info"]
    assert (info["status"], info["run_name"]) == ("FINISHED", "the one")
    assert abs((info["end_time"] - info["start_time"]) / 1000 - record.duration) < 0.1
    assert words(run, "params") == {"rate": "0.1", "kind": "tree"}
    tags = words(run, "tags")
    assert (tags["aml.run_uuid"], tags["team"]) == (record.uuid, "red")
    assert (tags["mlflow.note.content"], tags["mlflow.source.name"]) == ("worth a look", "script.py")
    assert tags["text.word"] == "hello"
    last = words(run, "metrics")
    assert (last["acc"], last["strange _name\u00e9"], last["many"]) == (0.9, 4.0, "NaN")
    history = mlflow_server.ask("metrics/get-history", run_id=info["run_id"], metric_key="loss")["metrics"]
    assert sorted((one["step"], one["value"]) for one in history) == [(s, 1 / (s + 1)) for s in range(2500)]
    assert all(info["start_time"] <= one["timestamp"] <= info["end_time"] for one in history)
    files = mlflow_server.artifacts(run)
    assert files["outputs/model.bin"] == bytes(range(256)) * 20000
    assert files["outputs/plots/a b__.txt"] == b"plot"
    assert json.loads(files["aml/names.json"]) == {"outputs/plots/a b__.txt": "outputs/plots/a b#?.txt"}
    assert files["logged.txt"] == b"by a client"
    assert files["outputs/empty"] == b""
    assert files["aml/log.txt"] == b"what it said\n"
    assert files["aml/images/dot.png"].startswith(b"\x89PNG")
    assert json.loads(files["aml/tables/folds.json"])["columns"] == ["fold", "accuracy"]
    assert record.project_root.encode() not in files["aml/run.json"]
    again = aml("export", directory.run_id, "--mlflow", mlflow_server.url, "--json")
    (told,) = json.loads(again.stdout)
    assert (told["state"], told["mlflow_run_id"]) == ("unchanged", info["run_id"])
    # what people add later follows, nothing else is sent twice
    runs.set_labels(directory, tags={"later": "yes"})
    told = mlflow.export(directory, Server(mlflow_server.url))
    assert (told.state, told.metrics, told.artifacts) == ("completed", 0, 0)
    run = the_run(mlflow_server, project)
    assert words(run, "tags")["later"] == "yes"


@pytest.mark.slow
def test_an_export_that_broke_off_is_completed_and_nothing_is_there_twice(
    project: Path, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aml_jupyter.interchange.server.PAUSE", 0.01)
    directory = made(project)
    server = Server(mlflow_server.busy)
    for allowed in (0, 2, 4, 7, 9, 13):
        mlflow_server.fail_after(allowed)
        with pytest.raises(ExportFailed) as told:
            mlflow.export(directory, server)
        assert told.value.code == "export.refused"
        assert "503" in told.value.message
        mlflow_server.fail_after(None)
    done = mlflow.export(directory, server)
    run = the_run(mlflow_server, project)
    assert done.mlflow_run_id == run["info"]["run_id"]
    for name, count in (("loss", 2500), ("acc", 2)):
        found = mlflow_server.ask("metrics/get-history", run_id=run["info"]["run_id"], metric_key=name)
        assert len(found["metrics"]) == count
    assert len(mlflow_server.artifacts(run)) == 9
    assert run["info"]["status"] == "FINISHED"


@pytest.mark.slow
def test_logins_come_from_variables_and_are_never_shown(
    project: Path, mlflow_server: MlflowServer, home: str
) -> None:
    directory = finished(home, metrics={"acc": 0.5})
    for environ, works in (
        ({}, False),
        ({"MLFLOW_TRACKING_TOKEN": "wrong"}, False),
        ({"MLFLOW_TRACKING_TOKEN": TOKEN}, True),
        ({"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}, True),
        ({"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": "wrong"}, False),
    ):
        server = Server(mlflow_server.locked, environ)
        if works:
            mlflow.export(directory, server)
            continue
        with pytest.raises(ExportFailed) as told:
            mlflow.export(directory, server)
        assert told.value.code == "export.denied"
        assert "MLFLOW_TRACKING_TOKEN" in str(told.value)
        assert "wrong" not in str(told.value)


@pytest.mark.slow
def test_children_name_their_parents_there_too(mlflow_server: MlflowServer, home: str, project: Path) -> None:
    parent = finished(home)
    child = submit(home, parent_run_id=parent.run_id)
    end(child, "Failed")
    answer = aml(
        "export", child.run_id, parent.run_id, "--mlflow", mlflow_server.url, "--experiment", project.name
    )
    assert answer.returncode == 0, answer.stderr
    found = {
        words(one, "tags")["aml.run_id"]: one
        for one in mlflow_server.search(experiment_of(mlflow_server, project))
    }
    assert words(found[child.run_id], "tags")["mlflow.parentRunId"] == found[parent.run_id]["info"]["run_id"]
    assert found[child.run_id]["info"]["status"] == "FAILED"


def test_a_run_that_goes_on_is_not_exported(home: str) -> None:
    directory = submit(home)
    with pytest.raises(ExportFailed) as told:
        mlflow.export(directory, Server("http://127.0.0.1:9"))
    assert told.value.code == "export.running"


@pytest.mark.parametrize(
    "url",
    ["", "5000", "ftp://x", "http://", "http://user:secret@host", "http://[::1", "http://h:99999/", "/tmp"],
)
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as told:
        Server(url)
    assert told.value.code == "export.url"
    assert "secret" not in str(told.value)


def test_a_server_that_is_not_there_or_is_none_is_told_in_a_sentence(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aml_jupyter.interchange.server.PAUSE", 0.01)
    directory = finished(home)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ExportFailed) as told:
        mlflow.export(directory, Server(f"http://127.0.0.1:{port}"))
    assert told.value.code == "export.server"
    assert "cannot be reached" in told.value.message


class _Liar(BaseHTTPRequestHandler):
    """Answers every call with the same status and body."""

    status, body, seen = 200, b"", list[str]()

    def do_GET(self) -> None:
        self.seen.append(str(self.headers.get("Authorization")))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Location", "http://127.0.0.1:9/elsewhere\x1b[2J")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (200, b"", "export.server"),
        (200, b"<html>a login page</html>", "export.server"),
        (200, b"[" * 100_000, "export.server"),
        (200, b"[]", "export.server"),
        (200, b'{"experiment": 5}', "export.server"),
        (200, b'{"experiment": {"experiment_id": "\\u001b[2J"}}', "export.server"),
        (200, b'{"experiment": {"experiment_id": "../../x"}}', "export.server"),
        (
            200,
            b'{"experiment": {"experiment_id": "1"}, "runs": [{"info": {"run_id": "a/b"}}]}',
            "export.server",
        ),
        (200, b'{"experiment": {"experiment_id": "1"}, "runs": 7}', "export.server"),
        (302, b"", "export.server"),
        (403, b"secret details", "export.denied"),
        (400, b'{"error_code": "BAD", "message": "no \\u001b[2J"}', "export.refused"),
        (500, b"\xff\xfe", "export.refused"),
    ],
)
def test_a_server_that_answers_anything_gets_a_sentence_and_no_second_look(
    home: str, status: int, body: bytes, code: str
) -> None:
    class Liar(_Liar):
        pass

    Liar.status, Liar.body, Liar.seen = status, body, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            there = Server(f"http://127.0.0.1:{server.server_port}", {"MLFLOW_TRACKING_TOKEN": "s3cret"})
            with pytest.raises(ExportFailed) as told:
                mlflow.export(finished(home), there)
        finally:
            server.shutdown()
            thread.join()
    assert told.value.code == code
    assert "\x1b" not in str(told.value)
    assert "s3cret" not in str(told.value)
    assert set(Liar.seen) == {"Bearer s3cret"}


# ---- RO-Crate ----------------------------------------------------------------------------------------------


def described(metadata: bytes) -> dict[str, dict[str, Any]]:
    return {one["@id"]: one for one in json.loads(metadata)["@graph"]}


@pytest.mark.filterwarnings("ignore")  # of the library that reads it
def test_a_crate_holds_the_run_and_describes_every_file(project: Path, tmp_path: Path) -> None:
    from rocrate.rocrate import ROCrate

    directory = made(project, params={"rate": 0.1})
    crate = tmp_path / "crate"
    answer = aml("export", "@last", "--ro-crate", str(crate), "--license", "https://spdx.org/licenses/MIT")
    assert answer.returncode == 0, answer.stderr
    found = described((crate / "ro-crate-metadata.json").read_bytes())
    root, action = found["./"], found["#" + directory.run_id]
    assert root["conformsTo"]["@id"] == "https://w3id.org/ro/wfrun/process/0.5"
    assert root["mentions"] == {"@id": action["@id"]}
    assert root["license"] == {"@id": "https://spdx.org/licenses/MIT"}
    assert action["@type"] == "CreateAction"
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert action["instrument"] == {"@id": "code/script.py"}
    assert {"@id": "outputs/plots/a%20b%23%3F.txt"} in action["result"]
    assert {"@id": "#parameter-rate"} in action["object"]
    assert found["#metric-acc"]["value"] == 0.9
    assert (crate / "outputs" / "plots" / "a b#?.txt").read_text() == "plot"
    assert (crate / "log.txt").read_text() == "what it said\n"
    assert (crate / "code" / "script.py").read_text() == SCRIPT
    assert len((crate / "metrics.csv").read_text().splitlines()) == 2500 + 2 + 3 + 1 + 1
    # what is referred to is described, what is described as a file is there
    for entity in found.values():
        for value in entity.values():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict) and not one["@id"].startswith("http"):
                    assert one["@id"] in found
    read = ROCrate(crate)
    files = {str(path.relative_to(crate)) for path in crate.rglob("*") if path.is_file()}
    assert len(read.data_entities) == len(files) - 1
    again = aml("export", "@last", "--ro-crate", str(crate))
    assert "export.exists" in again.stderr


@pytest.mark.filterwarnings("ignore")
def test_an_archive_is_the_same_crate_and_appears_whole(project: Path, tmp_path: Path) -> None:
    directory = made(project, "import sys; open('outputs/kept', 'w').write('x'); sys.exit('too bad')")
    path = tmp_path / "new" / "crate.zip"
    count = rocrate.export(directory, str(path))
    assert [one.name for one in path.parent.iterdir()] == ["crate.zip"]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == count
        action = described(archive.read("ro-crate-metadata.json"))["#" + directory.run_id]
        assert archive.read("outputs/kept") == b"x"
    assert action["actionStatus"].endswith("FailedActionStatus")
    assert action["error"]
    with pytest.raises(UsageError):
        rocrate.export(directory, str(path))


def test_a_damaged_artifact_leaves_no_half_crate(project: Path, tmp_path: Path, home: str) -> None:
    directory = made(project, "open('outputs/kept', 'w').write('x' * 1000)")
    kept = Path(home, "artifacts/ExperimentRun", directory.run_id, "outputs", "kept")
    kept.chmod(0o600)
    kept.write_text("y" * 1000)
    with pytest.raises(AmlError) as told:
        rocrate.export(directory, str(tmp_path / "crate.zip"))
    assert told.value.code == "store.corrupt"
    assert not [one for one in tmp_path.iterdir() if "crate" in one.name]


def test_where_to_is_asked_for(home: str) -> None:
    directory = finished(home)
    answer = aml("export", directory.run_id)
    assert (answer.returncode, "--ro-crate" in answer.stderr) == (2, True)


def test_the_server_of_the_tests_is_installed() -> None:
    assert need("mlflow-server")
