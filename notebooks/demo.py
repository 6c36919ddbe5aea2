"""Run quickstart.ipynb as a person would, and print what its runs left in the history.

    python notebooks/demo.py [NOTEBOOK_TO_WRITE]

The executed notebook is written where the argument says, `build/quickstart.ipynb` by default.
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


def execute(notebook: Path, target: Path) -> None:
    """Run every cell in a kernel of this interpreter; what it printed is saved even when one fails."""
    # a kernel of the same name in the user's folder would belong to another Python
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    document = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        document,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(notebook.parent)}},
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


def aml(*arguments: str) -> Any:
    """What the `aml` of this environment answers, as JSON."""
    command = [os.path.join(sysconfig.get_path("scripts"), "aml"), *arguments, "--json"]
    answer = subprocess.run(command, cwd=HERE / "iris", check=True, stdout=subprocess.PIPE)
    return json.loads(answer.stdout)


def main() -> None:
    """Execute, then print id, status, metrics and artifacts of every run that the notebook made."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "build" / "quickstart.ipynb"
    started = datetime.now(UTC)
    print("running notebooks/quickstart.ipynb on local ...", flush=True)
    execute(HERE / "quickstart.ipynb", target)
    runs = [row for row in aml("runs") if datetime.fromisoformat(row["created_utc"]) >= started]
    for row in reversed(runs):
        title = row["name"] or row["script_name"]
        print(f"\n{row['run_id']}  {row['status']}  {row['duration']:.2f} s  {title}")
        for name, value in row["metrics"].items():
            print(f"  metric    {name} = {value}")
        for artifact in aml("ls", row["run_id"]):
            print(f"  artifact  {artifact['path']}  {artifact['size']} bytes")
    if not runs:
        sys.exit("the notebook left no run in the history")
    print(f"\nthe executed notebook: {os.path.relpath(target)}")


if __name__ == "__main__":
    main()
