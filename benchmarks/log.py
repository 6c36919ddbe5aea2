"""The log path: a script that prints, against the same script writing to a file itself.

    python benchmarks/log.py [--megabytes 1000] [--rounds 3] [--unbuffered] [--python PATH]

Floor and product run in turn.  CPU is that of the script and of every process the product adds; the ratio is
the median of the ratios of each round.  The peak of memory is that of the runtime process alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNTIME = Path(__file__).parent.parent / "aml_jupyter" / "runtime"
SCRIPT = """
import sys
line = "x" * 99
for _ in range(int(sys.argv[1])):
    print(line)
"""
BAR = 1.6


def run_floor(python: str, folder: Path, lines: int) -> tuple[float, float]:
    """CPU and wall seconds of the script with a file as its standard output."""
    before, start = os.times(), time.perf_counter()
    with (folder / "floor.txt").open("wb") as file:
        subprocess.run([python, folder / "script.py", str(lines)], stdout=file, check=True)
    return _cpu_since(before), time.perf_counter() - start


def run_product(python: str, folder: Path, lines: int) -> tuple[float, float, int]:
    """CPU and wall seconds and the runtime's peak of resident bytes."""
    job = folder / "job"
    shutil.rmtree(job, ignore_errors=True)
    shutil.copytree(RUNTIME, job / "runtime")
    (folder / "work").mkdir(exist_ok=True)
    request = {
        "format": 1,
        "run_id": "bench_1",
        "command": [python, str(folder / "script.py"), str(lines)],
        "cwd": str(folder / "work"),
        "environment": {},
        "log_limit": 1 << 40,
    }
    (job / "request.json").write_text(json.dumps(request))
    before, start = os.times(), time.perf_counter()
    runtime = subprocess.Popen([python, "-S", "-E", "-s", job / "runtime" / "main.py", job])
    peak = 0
    while runtime.poll() is None:
        peak = max(peak, _peak(runtime.pid))
        time.sleep(0.02)
    wall = time.perf_counter() - start
    record = json.loads((job / "exit.json").read_text())
    if record["exit_code"] != 0 or record["log_bytes"] != 100 * lines:
        raise SystemExit(f"the run did not do what it should: {record}")
    return _cpu_since(before), wall, peak


def _cpu_since(before: os.times_result) -> float:
    now = os.times()
    return now.children_user + now.children_system - before.children_user - before.children_system


def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) * 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--unbuffered", action="store_true", help="one write for each line, in both")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lines = options.megabytes * 10_000
    if options.unbuffered:
        os.environ["PYTHONUNBUFFERED"] = "1"
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "script.py").write_text(SCRIPT)
        for number in range(options.rounds):
            floor_cpu, floor_wall = run_floor(options.python, folder, lines)
            (folder / "floor.txt").unlink()
            cpu, wall, peak = run_product(options.python, folder, lines)
            (folder / "job" / "log").unlink()
            rounds.append({"cpu": cpu / floor_cpu, "wall": wall / floor_wall, "peak": peak})
            if not options.json:
                print(
                    f"round {number + 1}: file {floor_cpu:.2f} CPU s, {floor_wall:.2f} s; "
                    f"runtime {cpu:.2f} CPU s, {wall:.2f} s, {peak / 1e6:.1f} MB; CPU {cpu / floor_cpu:.2f}x"
                )
    result = {
        "megabytes": options.megabytes,
        "cpu_ratio": statistics.median(one["cpu"] for one in rounds),
        "wall_ratio": statistics.median(one["wall"] for one in rounds),
        "peak_rss": max(one["peak"] for one in rounds),
        "bar": BAR,
        "load": os.getloadavg()[0],
    }
    print(json.dumps(result) if options.json else _summary(result))


def _summary(result: dict[str, float]) -> str:
    return (
        f"{result['megabytes']:.0f} MB: CPU {result['cpu_ratio']:.2f}x (bar {result['bar']}x), "
        f"wall {result['wall_ratio']:.2f}x, runtime at most {result['peak_rss'] / 1e6:.1f} MB (bar 64), "
        f"load {result['load']:.1f}"
    )


if __name__ == "__main__":
    main()
