"""What a notebook pays: `%load_ext aml_jupyter` over a bare kernel, and the way of a line to the client.

    python benchmarks/notebook.py [--rounds 7]

CPU of a kernel process from its start until it has executed one cell, with and without the extension; and the
time from a `print` in a run to its message at the client of the kernel.  Medians, and the largest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.manager import start_new_kernel

SCRIPT = """
import time
for _ in range(40):
    print("at", time.time(), flush=True)
    time.sleep(0.15)
"""


def kernel_cpu(code: str) -> float:
    """CPU seconds of a kernel that has executed one cell."""
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        client.execute_interactive(code, timeout=60, output_hook=lambda _message: None)
        provisioner: Any = manager.provisioner
        times = psutil.Process(provisioner.pid).cpu_times()
        return float(times.user + times.system)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def delays() -> list[float]:
    """Seconds from each print of a run to its message at the client."""
    found: list[float] = []

    def hook(message: dict[str, Any]) -> None:
        now = time.time()
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            lines = message["content"]["text"].splitlines()
            found.extend(now - float(line.split()[1]) for line in lines if line.startswith("at "))

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        client.execute_interactive("%load_ext aml_jupyter", timeout=60, output_hook=hook)
        client.execute_interactive("%amlrun local script.py", timeout=120, output_hook=hook)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    # without byte code every import is compiled again, which is not what an installed package does
    for name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(AML_HOME=f"{scratch}/home", HOME=scratch)
        project = Path(scratch, "project")
        project.mkdir()
        (project / "script.py").write_text(SCRIPT)
        os.chdir(project)
        pairs = [(kernel_cpu("pass"), kernel_cpu("%load_ext aml_jupyter")) for _ in range(rounds)]
        waits = delays()
        os.chdir("/")
    over = statistics.median(loaded - bare for bare, loaded in pairs)
    bare = statistics.median(bare for bare, _ in pairs)
    print(f"a bare kernel: {bare * 1000:.0f} ms of CPU; %load_ext adds {over * 1000:.0f} ms (bar 66)")
    print(f"a line reaches the client in {statistics.median(waits) * 1000:.0f} ms,"
          f" at most {max(waits) * 1000:.0f} ms, of {len(waits)} (bar 100)")  # fmt: skip
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
