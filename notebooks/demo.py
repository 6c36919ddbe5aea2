"""Run quickstart.ipynb as a person would, its first cell in a container too, and print what the runs left.

    python notebooks/demo.py [NOTEBOOK_TO_WRITE]

The executed notebook is written where the argument says, `build/quickstart.ipynb` by default; the one of the
container stands beside it. Where no container can be had the demo says why and is a success all the same,
unless AML_REQUIRE holds `docker`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).resolve().parent
PROJECT = HERE / "iris"


def execute(notebook: Path, target: Path, folder: Path | None = None) -> None:
    """Run every cell in a kernel of this interpreter; what it printed is saved even when one fails.

    `folder` is where the kernel starts, beside the notebook unless said.  A failing cell ends the program.
    """
    # a kernel of the same name in the user's folder would belong to another Python
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    document = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        document,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder or notebook.parent)}},
        # of the kernel's own log only errors: its remarks on loopback sockets are not about this project
        extra_arguments=["--IPKernelApp.log_level=40"],
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        client.execute()
    except CellExecutionError as error:
        sys.exit(f"a cell of {notebook.name} failed; all of it: {target}\n{error}")
    finally:
        nbformat.write(document, target)


def aml(*arguments: str, check: bool = True) -> Any:
    """What the `aml` of this environment answers, as JSON."""
    command = [os.path.join(sysconfig.get_path("scripts"), "aml"), *arguments, "--json"]
    answer = subprocess.run(command, cwd=PROJECT, check=check, stdout=subprocess.PIPE)
    return json.loads(answer.stdout)


def print_runs(since: datetime) -> list[Any]:
    """Print id, status, metrics and artifacts of every run since then; their rows, oldest first."""
    rows = [row for row in aml("runs") if datetime.fromisoformat(row["created_utc"]) >= since][::-1]
    for row in rows:
        title = row["name"] or row["script_name"]
        spent = f"{row['duration']:.2f} s" if row["duration"] is not None else "-"
        print(f"\n{row['run_id']}  {row['status']}  {spent}  {title} on {row['target']}")
        for name, value in row["metrics"].items():
            print(f"  metric    {name} = {value}")
        for artifact in aml("ls", row["run_id"]):
            print(f"  artifact  {artifact['path']}  {artifact['size']} bytes")
    return rows


def on_local(target: Path) -> None:
    """Execute the quickstart and print its runs."""
    started = datetime.now(UTC)
    print("running notebooks/quickstart.ipynb on local ...", flush=True)
    execute(HERE / "quickstart.ipynb", target)
    if not print_runs(started):
        sys.exit("the notebook left no run in the history")
    print(f"\nthe executed notebook: {os.path.relpath(target)}")


def on_docker(target: Path) -> None:
    """Execute the first run of the quickstart on `docker` and print it, or say what is missing."""
    problems = [
        check for check in aml("targets", "test", "docker", check=False)["checks"] if check["ok"] is False
    ]
    if problems:
        not_run([f"{check['name']}: {check['message']}\n{check['fix']}".strip() for check in problems])
        return
    started = datetime.now(UTC)
    print("\nrunning its first cell on docker (the first time makes the environment) ...", flush=True)
    notebook = target.with_name(target.stem + "-docker.ipynb")
    notebook.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(first_run_on_docker(), notebook)
    execute(notebook, notebook, folder=HERE)
    run = aml("show", "@last")
    if run["status"] != "Completed" and "start" not in run["phases"]:
        not_run([f"{run['error']['message']}\n{run['error']['hint']}".strip()])
        return
    print_runs(started)
    if run["status"] != "Completed":
        sys.exit(f"its run on docker failed: {run['error']['message']}")
    print(f"\nits environment stays in the engine as {run['environment']['image']}:")
    print("  aml targets sweep docker --images   removes what no run has used for a while")
    print(f"the executed notebook: {os.path.relpath(notebook)}")


def first_run_on_docker() -> Any:
    """The quickstart up to its first run, with another target."""
    document = nbformat.read(HERE / "quickstart.ipynb", as_version=4)
    at = next(at for at, cell in enumerate(document.cells) if cell.source.startswith("%%amlrun local"))
    document.cells = [cell for cell in document.cells[: at + 1] if cell.cell_type == "code"]
    first = document.cells[-1]
    line = "%%amlrun docker --no-raise-error --name in-a-container"
    first.source = first.source.replace("%%amlrun local --name first-model", line, 1)
    return document


def not_run(reasons: list[str]) -> None:
    """Say why there is no run on docker; an error where one is required."""
    print("\nnot run on docker:")
    for line in "\n".join(reasons).splitlines():
        print(f"  {line}")
    if {"docker", "all"} & set(os.environ.get("AML_REQUIRE", "").split(",")):
        sys.exit("AML_REQUIRE asks for docker")


def main() -> None:
    """On `local`, then on `docker`."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "build" / "quickstart.ipynb"
    on_local(target)
    on_docker(target)


if __name__ == "__main__":
    main()
