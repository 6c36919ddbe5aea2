"""MLflow clients inside a run log into that run, whatever they are and whatever they send."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import artifacts, experiment, logged, runs
from aml_jupyter.experiment import Request
from aml_jupyter.runs import Record, RunDirectory
from tests.engines import BASE_IMAGE, Engine
from tests.runtime_job import VERSIONS, RuntimeJob

# a client in its barest form, for any Python
CLIENT = """
import http.client, json, os, sys
from urllib.parse import urlsplit, quote
where = urlsplit(os.environ["MLFLOW_TRACKING_URI"])
TOKEN = os.environ["MLFLOW_TRACKING_TOKEN"]
RUN = os.environ["MLFLOW_RUN_ID"]
line = http.client.HTTPConnection(where.hostname, where.port)
def ask(method, path, body=None, token=TOKEN, headers={}):
    headers = dict(headers, Authorization="Bearer " + token)
    line.request(method, path, body, headers)
    answer = line.getresponse()
    data = answer.read()
    return answer.status, data
def call(path, body=None, method=None, **more):
    method = method or ("GET" if body is None else "POST")
    data = None if body is None else json.dumps(body)
    status, answer = ask(method, "/api/2.0/mlflow/" + path, data, **more)
    return status, json.loads(answer)
def ok(path, **body):
    answer = call(path, dict(body, run_id=RUN))
    assert answer[0] == 200, answer
    return answer[1]
def put(path, data):
    return ask("PUT", "/api/2.0/mlflow-artifacts/artifacts/" + quote(path), data)
"""


def job(folder: Path, script: str, version: str = "", **request: Any) -> RuntimeJob:
    folder.mkdir(exist_ok=True)
    python = VERSIONS.get(version, sys.executable)
    return RuntimeJob(folder / "run", CLIENT + script, python, **request)


def done(made: RuntimeJob) -> RuntimeJob:
    assert made.run()["exit_code"] == 0, made.log.decode()
    assert not made.diagnosis()
    return made


def values(made: RuntimeJob, kind: str) -> list[tuple[object, ...]]:
    keys = {"metric": ("name", "value", "step"), "param": ("name", "value"), "tag": ("name", "value")}
    return [tuple(event[key] for key in keys[kind]) for event in made.events(kind)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_of_the_standard_library_logs_into_the_run(tmp_path: Path, version: str) -> None:
    script = """
assert call("runs/get?run_id=" + RUN)[1]["run"]["info"]["run_id"] == RUN
for step in range(3):
    ok("runs/log-metric", key="loss", value=1 / (step + 1), step=step, timestamp="1500")
ok("runs/log-parameter", key="lr", value="0.1")
ok("runs/set-tag", key="team", value="red")
metric = {"key": "acc", "value": "NaN", "timestamp": 2, "step": "7"}
param, tag = {"key": "a", "value": "b"}, {"key": "t", "value": ""}
assert ok("runs/log-batch", metrics=[metric], params=[param], tags=[tag]) == {}
ok("runs/delete-tag", key="t")
found = call("metrics/get-history?metric_key=loss&run_id=" + RUN)[1]["metrics"]
assert [one["step"] for one in found] == [0, 1, 2], found
assert put("run/notes/a b.txt", b"hello")[0] == 200
assert put("run/empty", b"")[0] == 200
assert ask("GET", "/api/2.0/mlflow-artifacts/artifacts/run/notes/a%20b.txt") == (200, b"hello")
files = call("artifacts/list?path=notes&run_id=" + RUN)[1]["files"]
assert files == [{"path": "notes/a b.txt", "is_dir": False, "file_size": 5}], files
assert call("experiments/get-by-name?experiment_name=mine")[1]["experiment"]["experiment_id"] == "0"
ok("runs/update", status="FINISHED", end_time=5, run_name="fine")
assert call("runs/get?run_id=" + RUN)[1]["run"]["info"]["run_name"] == "fine"
(found,) = ok("runs/search", experiment_ids=["0"])["runs"]
assert found["data"]["params"][0] == {"key": "lr", "value": "0.1"}
"""
    made = done(job(tmp_path, script, version))
    assert values(made, "metric") == [
        ("loss", 1.0, 0),
        ("loss", 0.5, 1),
        ("loss", 1 / 3, 2),
        ("acc", "NaN", 7),
    ]
    assert made.events("metric")[0]["time"] == 1500
    assert made.events("metric")[3]["nonfinite"] is True
    assert values(made, "param") == [("lr", "0.1"), ("a", "b")]
    assert ("team", "red") in values(made, "tag")
    assert ("t", None) in values(made, "tag")
    assert ("mlflow.runName", "fine") in values(made, "tag")
    folder = made.work / "outputs" / "mlflow"
    assert (folder / "notes" / "a b.txt").read_bytes() == b"hello"
    assert (folder / "empty").read_bytes() == b""
    assert made.warnings() == []


def test_runs_of_a_programs_own_are_kept_inside_with_a_word_about_it(tmp_path: Path) -> None:
    script = """
def new(**more):
    return call("runs/create", dict(more, experiment_id="0"))[1]["run"]["info"]
inner = new(run_name="tree", tags=[{"key": "mlflow.parentRunId", "value": RUN}])
again = new(run_name="tree")
nameless = new(run_name="../..")
for info in (inner, again, nameless):
    assert call("runs/log-metric", {"run_id": info["run_id"], "key": "acc", "value": 1})[0] == 200
assert call("runs/set-tag", {"run_id": inner["run_id"], "key": "k", "value": "v"})[0] == 200
assert put(inner["artifact_uri"].partition(":/")[2] + "/m.txt", b"m")[0] == 200
found = call("runs/search", {"filter": "tags.mlflow.parentRunId = '%s'" % RUN})[1]["runs"]
assert [one["info"]["run_id"] for one in found] == [inner["run_id"]]
status, told = call("runs/search", {"filter": "metrics.acc > 0.5"})
assert status == 400 and "aml runs FILTER" in told["message"], told
status, told = call("runs/get?run_id=somebody-elses")
assert status == 404 and told["error_code"] == "RESOURCE_DOES_NOT_EXIST", told
"""
    made = done(job(tmp_path, script))
    assert [name for name, _, _ in values(made, "metric")] == ["tree/acc", "tree-2/acc", "run-3/acc"]
    assert (made.work / "outputs/mlflow-runs/tree/m.txt").read_bytes() == b"m"
    assert made.warnings() == ["run.mlflow_runs"]
    assert [event["run"] for event in made.events("tag") if event["name"] == "tree/k"] == ["tree"]


def test_only_who_has_the_token_is_answered(tmp_path: Path) -> None:
    script = """
status, told = call("runs/get?run_id=" + RUN, token="guessed")
assert status == 401 and TOKEN not in told["message"], told
status, _ = ask("PUT", "/api/2.0/mlflow-artifacts/artifacts/run/x", b"x" * 100, token="")
assert status == 401
"""
    made = done(job(tmp_path, script))
    assert made.events("metric") == []
    assert os.listdir(made.work / "outputs") == []


def test_names_never_lead_out_of_the_outputs_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    script = f"""
os.makedirs("outputs/mlflow")
os.symlink({str(tmp_path / "out")!r}, "outputs/mlflow/link")
os.symlink("/etc/hostname", "outputs/mlflow/file")
for name in ("run/../x", "run//x", "run/.", "../x", "/etc/x", "run/link/x", "runs/../run/x", "else/x",
        "run/a\\x00b", "run/a\\nb", "run", "run/" + "a" * 300, "run/" + "d/" * 200 + "x", ""):
    status, told = put(name, b"bad")
    assert 400 <= status < 600, (name, status)
for name in ("run/file", "run/link", "run/../../../script.py"):
    status, told = ask("GET", "/api/2.0/mlflow-artifacts/artifacts/" + quote(name))
    assert status in (400, 404, 507), (name, status, told)
assert call("artifacts/list?path=../..&run_id=" + RUN)[0] == 400
# a link in the place of a name is replaced, never followed
assert put("run/file", b"mine")[0] == 200
"""
    made = done(job(tmp_path, script))
    assert list((tmp_path / "out").iterdir()) == []
    found = sorted(path.name for path in (made.work / "outputs" / "mlflow").iterdir())
    assert found == ["file", "link"]
    assert (made.work / "outputs/mlflow/file").read_bytes() == b"mine"


def test_whatever_a_client_sends_the_run_goes_on_and_the_next_one_is_served(tmp_path: Path) -> None:
    script = """
import socket
deep = "[" * 100000
mine = b'{"run_id": "%s", ' % RUN.encode()
for body in (b"", b"{", b"[]", b"\\xff\\xfe", deep.encode(), b'{"run_id": 5}', mine + b'"metrics": 7}',
        mine + b'"metrics": [{"key": "", "value": 1}]}',
        mine + b'"metrics": [{"key": "a", "value": 1, "step": 1e400}]}',
        mine + b'"metrics": [{"key": "a", "value": "x"}]}',
        mine + b'"params": [{"key": "p", "value": [1]}], "tags": {}}'):
    status, answer = ask("POST", "/api/2.0/mlflow/runs/log-batch", body)
    assert status == 400 and json.loads(answer)["message"], (body[:50], status, answer)
for path in ("traces", "registered-models/create", "runs/delete", "nothing", "logged-models/none"):
    assert 400 <= call(path, {"run_id": RUN})[0] < 500, path
assert "aml promote" in call("registered-models/create", {"name": "m"})[1]["message"]
def raw(data):
    with socket.create_connection((where.hostname, where.port)) as line:
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
        while line.recv(65536):
            pass
head = "Authorization: Bearer %s\\r\\n" % TOKEN
raw(b"\\x00\\x01garbage\\r\\n\\r\\n")
def send(name, rest):
    path = "/api/2.0/mlflow-artifacts/artifacts/run/" + name
    raw(("PUT %s HTTP/1.1|%s%s" % (path, head, rest)).replace("|", "\\r\\n").encode())
send("cut", "Content-Length: 1000||only this")
send("cut", "Transfer-Encoding: chunked||5|hel")
send("cut", "Content-Length: -5||")
send("chunked", "Transfer-Encoding: chunked||5|hello|6;x=y| world|0||")
# a parameter never changes, and a batch with a wrong one is taken not at all
ok("runs/log-parameter", key="lr", value="1")
ok("runs/log-parameter", key="lr", value="1")
param = {"key": "lr", "value": "2"}
metric = {"key": "m", "value": 1}
status, told = call("runs/log-batch", {"run_id": RUN, "metrics": [metric], "params": [param]})
assert status == 400 and "not allowed" in told["message"], told
"""
    made = done(job(tmp_path, script))
    assert values(made, "metric") == []
    assert values(made, "param") == [("lr", "1")]
    folder = made.work / "outputs" / "mlflow"
    assert [path.name for path in folder.iterdir()] == ["chunked"]
    assert (folder / "chunked").read_bytes() == b"hello world"


def test_a_thousand_values_at_once_and_a_large_file_arrive_whole_while_output_goes_on(tmp_path: Path) -> None:
    script = """
import threading
def print_much():
    for number in range(20000):
        print("line", number)
printing = threading.Thread(target=print_much)
printing.start()
for start in range(0, 5000, 1000):
    batch = [{"key": "m", "value": one, "timestamp": 1, "step": one} for one in range(start, start + 1000)]
    assert call("runs/log-batch", {"run_id": RUN, "metrics": batch})[0] == 200
assert put("run/large", os.urandom(1 << 20) * 64)[0] == 200
printing.join()
"""
    made = done(job(tmp_path, script))
    assert [step for _, _, step in values(made, "metric")] == list(range(5000))
    assert (made.work / "outputs/mlflow/large").stat().st_size == 64 << 20
    assert made.log == b"".join(b"line %d\n" % number for number in range(20000))


def test_half_a_file_is_no_artifact_when_the_run_ends(tmp_path: Path) -> None:
    script = """
import socket, time
line = socket.create_connection((where.hostname, where.port))
line.sendall(("PUT /api/2.0/mlflow-artifacts/artifacts/run/half HTTP/1.1\\r\\nAuthorization: Bearer %s\\r\\n"
    "Content-Length: 1000000\\r\\n\\r\\nthe beginning" % TOKEN).encode())
while not os.path.isdir("outputs/mlflow") or not os.listdir("outputs/mlflow"):
    time.sleep(0.01)
os._exit(0)
"""
    made = done(job(tmp_path, script))
    assert list((made.work / "outputs" / "mlflow").iterdir()) == []


def test_what_the_user_set_is_left_alone(tmp_path: Path) -> None:
    show = """
import json, os
print(json.dumps({k: v for k, v in os.environ.items() if "MLFLOW" in k or "proxy" in k}))
"""

    def seen(name: str, **environment: str) -> dict[str, str]:
        made = RuntimeJob(tmp_path / name, show, environment=environment)
        assert made.run()["exit_code"] == 0
        found: dict[str, str] = json.loads(made.log)
        return found

    theirs = seen("theirs", MLFLOW_TRACKING_URI="http://server.example:5000")
    assert theirs == {"MLFLOW_TRACKING_URI": "http://server.example:5000"}
    assert seen("off", MLFLOW_TRACKING_URI="") == {"MLFLOW_TRACKING_URI": ""}
    partly = seen("partly", MLFLOW_TRACKING_TOKEN="mine", MLFLOW_RUN_ID="abc")
    assert partly["MLFLOW_TRACKING_URI"].startswith("http://127.0.0.1:")
    assert (partly["MLFLOW_TRACKING_TOKEN"], partly["MLFLOW_RUN_ID"]) == ("mine", "abc")
    # a run that was submitted inside another one is that run's no longer
    outer = seen("outer")
    inner = seen("inner", **outer)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"):
        assert inner[name] != outer[name]
    proxied = seen("proxied", http_proxy="http://proxy.example:3128", no_proxy="example.org")
    assert proxied["no_proxy"] == "example.org,127.0.0.1"


def test_a_run_id_of_the_users_own_is_this_run(tmp_path: Path) -> None:
    script = """
assert RUN == "mine"
assert call("runs/log-metric", {"run_id": "mine", "key": "m", "value": 1})[0] == 200
"""
    made = done(job(tmp_path, script, environment={"MLFLOW_RUN_ID": "mine"}))
    assert [name for name, _, _ in values(made, "metric")] == ["m"]


# ---- the real client ---------------------------------------------------------------------------------------

UNMODIFIED = """
import os, sys, mlflow
# a program that chooses a server of its own does not look for this run there
own = mlflow.get_tracking_uri()
mlflow.set_tracking_uri("http://127.0.0.1:9")
assert not {"MLFLOW_TRACKING_TOKEN", "MLFLOW_RUN_ID"} & set(os.environ)
mlflow.set_tracking_uri(own)
mlflow.set_experiment("flowers")
with mlflow.start_run(run_name="first") as run:
    assert run.info.run_id == os.environ["AZUREML_RUN_ID"], run.info.run_id
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_params({"lr": 0.1, "depth": 3})
    mlflow.set_tag("team", "red")
    mlflow.log_metrics({"acc": 0.9, "strange": float("nan")})
    mlflow.log_text("hello", "notes/hello.txt")
    mlflow.log_dict({"a": 1}, "d.json")
    with mlflow.start_run(run_name="inner", nested=True):
        mlflow.log_metric("m", 3)
client = mlflow.MlflowClient()
run_id = run.info.run_id
assert [one.step for one in client.get_metric_history(run_id, "loss")] == [0, 1, 2, 3, 4]
assert sorted(one.path for one in client.list_artifacts(run_id)) == ["d.json", "notes"]
assert [one.path for one in client.list_artifacts(run_id, "notes")] == ["notes/hello.txt"]
assert mlflow.artifacts.load_text("runs:/%s/notes/hello.txt" % run_id) == "hello"
assert client.get_run(run_id).data.params == {"lr": "0.1", "depth": "3"}

from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
mlflow.sklearn.autolog(log_models=False)
X, y = load_iris(return_X_y=True)
with mlflow.start_run(run_id=run_id):
    model = LogisticRegression(C=0.5, max_iter=200).fit(X, y)
    mlflow.sklearn.log_model(model, name="model", serialization_format="pickle", pip_requirements=[])
"""


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    for name in [one for one in os.environ if one.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    return folder


def run(project: Path, source: str, target: str = "local", **options: Any) -> tuple[RunDirectory, Record]:
    (project / "script.py").write_text(source)
    directory = experiment.submit(Request(script="script.py", target=target, **options))
    record = experiment.wait(directory, 250)
    assert record.status == "Completed", Path(directory.log).read_text()
    return directory, record


@pytest.mark.slow
def test_the_unmodified_client_and_autologging_land_in_the_history(project: Path) -> None:
    directory, record = run(project, UNMODIFIED)
    metrics = record.metrics
    assert metrics["loss"] == [1.0, 0.5, 1 / 3, 0.25, 0.2]
    assert metrics["acc"] == 0.9
    assert metrics["strange"] != metrics["strange"]
    assert metrics["inner/m"] == 3.0
    assert 0.9 < metrics["training_accuracy_score"] <= 1
    assert record.params == {}
    assert record.logged_params["lr"] == "0.1"
    assert record.logged_params["C"] == "0.5"
    assert record.tags["team"] == "red"
    assert record.name == "first"
    assert record.properties["mlflow"]["tags"]["mlflow.experimentName"] == "flowers"
    assert record.properties["mlflow"]["datasets"][0]["name"] == "dataset"
    paths = {item.path for item in artifacts.listing(directory)}
    assert {"outputs/mlflow/notes/hello.txt", "outputs/mlflow/d.json"} <= paths
    assert "outputs/mlflow-models/model/MLmodel" in paths
    (row,) = runs.History(directory.home).rows(
        where="params.lr = '0.1' and metrics.acc > 0.5 and tags.team = 'red'"
    )
    assert row["run_id"] == record.run_id


@pytest.mark.slow
def test_a_container_without_any_network_logs_all_the_same(
    project: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    (project / "aml_config").mkdir()
    (project / "aml_config" / "docker.compute").write_text(
        f"type: localdocker\nbaseDockerImage: {BASE_IMAGE}\n"
    )
    script = (
        CLIENT
        + """
assert call("runs/log-metric", {"run_id": RUN, "key": "m", "value": 2, "timestamp": 1, "step": 3})[0] == 200
assert put("run/a.txt", b"from inside")[0] == 200
"""
    )
    directory, record = run(project, script, "docker", resources={"network": "none"})
    assert record.metrics == {"m": 2.0}
    assert artifacts.read_artifact(directory, "outputs/mlflow/a.txt") == b"from inside"


def test_nobody_listens_once_the_run_is_over(tmp_path: Path) -> None:
    made = done(job(tmp_path, 'print(where.port); call("runs/get?run_id=" + RUN)'))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(made.log)))


def test_what_a_person_said_of_a_run_stays_beside_what_its_program_logs(project: Path) -> None:
    script = (
        CLIENT
        + """
for key, value in (("team", "red"), ("size", "small"), ("mlflow.note.content", "n")):
    ok("runs/set-tag", key=key, value=value)
ok("runs/log-batch", params=[{"key": "rate", "value": "0.5"}, {"key": "depth", "value": "3"}])
ok("runs/update", run_name="theirs")
ok("runs/log-inputs", datasets=[{"dataset": {"name": "flowers", "digest": "abc", "source": "here"}}, 7])
"""
    )
    options: dict[str, Any] = {"tags": ("team=blue",), "name": "mine", "params": {"rate": 0.1}}
    _, record = run(project, script, **options)
    assert (record.name, record.note) == ("mine", "n")
    assert dict(record.tags) == {"team": "blue", "size": "small"}
    assert dict(record.params) == {"rate": 0.1}
    assert dict(record.all_params) == {"rate": 0.1, "depth": "3"}
    assert record.properties["mlflow"]["datasets"][0]["digest"] == "abc"
    assert record.properties["CommitId"] == record.snapshot_id


def test_events_of_a_scripts_own_making_cost_only_themselves() -> None:
    def event(kind: str, **fields: object) -> dict[str, object]:
        return {"type": kind, **fields}

    warnings: list[str] = []
    found = logged.gather(
        [
            event("param", name="good", value="1"),
            event("param", name="good", value="2"),
            event("param", name=7, value="x"),
            event("param", value="x"),
            event("param", name="two\nlines", value="x"),
            event("param", name="n" * 251, value="x"),
            event("param", name="nested", value={"a": [1]}),
            event("tag", name="gone", value="x"),
            event("tag", name="gone", value=None),
            event("tag", name="tree/kind", value="inner", run="tree"),
            event("dataset", name="d", digest=["no text"]),
            *[event("tag", name=f"t{number}", value="x") for number in range(1500)],
        ],
        warnings,
    )
    assert found.params == {"good": "1", "nested": "{'a': [1]}"}
    assert len(found.tags) == 999
    assert found.mlflow["tags"] == {"tree/kind": "inner"}
    assert found.mlflow["datasets"][0]["name"] == "d"
    (told,) = warnings
    assert told == "505 parameters, tags or datasets that were logged are not in the record"
