"""A real MLflow server on this machine, from an environment of its own, shared by the workers of a suite."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.base_image import locked
from tests.requirements import need

TOKEN, USER, PASSWORD = "its-token", "its-user", "its password"
# MLflow's own application, at three ports: open to all, behind a login, and busy once `busy` holds a number
PROGRAM = """
import base64, os, sys, threading, time
folder, token, login = sys.argv[1:]
os.environ.update(
    _MLFLOW_SERVER_FILE_STORE="sqlite:///%s/runs.sqlite" % folder,
    _MLFLOW_SERVER_ARTIFACT_DESTINATION=folder + "/artifacts",
    _MLFLOW_SERVER_ARTIFACT_ROOT="mlflow-artifacts:/",
    _MLFLOW_SERVER_SERVE_ARTIFACTS="true",
)
from mlflow.server import app
from werkzeug.serving import make_server
accepted = ("Bearer " + token, "Basic " + base64.b64encode(login.encode()).decode())
def answer(status, start):
    start(status, [("Content-Type", "text/html"), ("Connection", "close")])
    return [b"<html>not today</html>"]
def locked(environ, start):
    if environ.get("HTTP_AUTHORIZATION") not in accepted:
        return answer("401 Unauthorized", start)
    return app(environ, start)
seen = 0
def busy(environ, start):
    global seen
    path = folder + "/busy"
    if os.path.exists(path):
        seen += 1
        if seen > int(open(path).read()):
            return answer("503 Service Unavailable", start)
    else:
        seen = 0
    return app(environ, start)
servers = [make_server("127.0.0.1", 0, one, threaded=True) for one in (app, locked, busy)]
for one in servers:
    threading.Thread(target=one.serve_forever, daemon=True).start()
print("ports", *[one.port for one in servers], flush=True)
while os.path.exists(folder):
    time.sleep(0.5)
os._exit(0)
"""


class MlflowServer:
    """One server; `url` is open, `locked` wants a login, `busy` fails when `fail_after` says so.

    It is started by the first who asks, keeps its files in `folder`, and ends when that is removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        log = folder / "log"
        with locked(folder.with_suffix(".lock")):
            if not folder.exists():
                folder.mkdir()
                log.touch()
                self._start(log)
            due = time.monotonic() + 120
            while not (found := [one for one in log.read_text().splitlines() if one.startswith("ports ")]):
                assert time.monotonic() < due, log.read_text()
                time.sleep(0.05)
        self.url, self.locked, self.busy = (f"http://127.0.0.1:{port}" for port in found[0].split()[1:])

    def _start(self, log: Path) -> None:
        python = need("mlflow-server")
        words = [python, "-c", PROGRAM, str(self.folder), TOKEN, f"{USER}:{PASSWORD}"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        command = shlex.join(words) + f" >{shlex.quote(str(log))} 2>&1 </dev/null &"
        # the shell leaves at once: the server is nobody's child, and outlives the worker that asked first
        subprocess.run(["sh", "-c", command], cwd=self.folder, env=kept, check=True, start_new_session=True)

    def fail_after(self, requests: int | None) -> None:
        """Let that many requests to `busy` through, or all of them again."""
        path = self.folder / "busy"
        if requests is None:
            path.unlink()
        else:
            path.write_text(str(requests))

    def ask(self, path: str, **query: object) -> dict[str, Any]:
        """What the server itself says."""
        words = urllib.parse.urlencode({name: str(value) for name, value in query.items()})
        with urllib.request.urlopen(f"{self.url}/api/2.0/mlflow/{path}?{words}", timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def search(self, experiment_id: str, **more: object) -> list[dict[str, Any]]:
        """The runs of an experiment."""
        body = json.dumps({"experiment_ids": [experiment_id], **more}).encode()
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer).get("runs", [])
            return found

    def artifacts(self, run: dict[str, Any]) -> dict[str, bytes]:
        """Every file of a run, from the disk of the server."""
        root = self.folder / "artifacts" / run["info"]["artifact_uri"].partition(":/")[2]
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
