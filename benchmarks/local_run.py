"""A run of `print("hi")` on `local` beside a bare start of the same script.

    python benchmarks/local_run.py [--rounds 15]

In turn, in one session: the script alone; runs from a warm process, with and without a supervisor on standby
as a notebook keeps one; `aml run`.
CPU counts every process that belongs to a run, its supervisor and runtime included: this process adopts them.
Ratios are medians of the ratios of each round.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from aml_jupyter.starting import Standby, Starter

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of whatever is left alone, so that its time is counted here."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> None:
    """Take the times of every process that has ended; a supervisor on standby goes on."""
    time.sleep(0.05)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def measure(work: Callable[[], object], afterwards: Callable[[], None] = lambda: None) -> tuple[float, float]:
    """Wall seconds of `work`, CPU seconds of it and of what is done afterwards; own and children's."""
    before, began = _cpu(), time.perf_counter()
    work()
    wall = time.perf_counter() - began
    afterwards()
    reap()
    return wall, _cpu() - before


def _cpu() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def make_project(folder: Path, files: int, size: int) -> Path:
    """A project of `files` files with the script among them."""
    folder.mkdir(parents=True)
    (folder / "hi.py").write_text('print("hi")\n')
    for number in range(files - 1):
        below = folder / f"d{number // 50:03d}"
        below.mkdir(exist_ok=True)
        (below / f"f{number}.txt").write_bytes(os.urandom(size))
    return folder


def in_process(project: Path, standby: Standby | None = None) -> Callable[[], object]:
    """A run from this warm process, to its final record."""
    from aml_jupyter import experiment
    from aml_jupyter.config import find_project

    found = find_project(str(project))
    start = standby.take if standby else Starter

    def run() -> None:
        record = experiment.wait(experiment.submit(experiment.Request(script="hi.py"), found, start))
        assert record.status == "Completed", record

    return run


def returning(project: Path, standby: Standby | None = None) -> Callable[[], float]:
    """Seconds that a detached call takes beyond its snapshot."""
    from aml_jupyter import experiment, runs
    from aml_jupyter.config import find_project

    found = find_project(str(project))

    def submit() -> float:
        began = time.perf_counter()
        start = standby.take if standby else Starter
        directory = experiment.submit(experiment.Request(script="hi.py"), found, start)
        spent = time.perf_counter() - began
        experiment.wait(directory)
        if standby:
            standby.refill()
            time.sleep(0.1)
        return spent - runs.load_record(directory).phases["snapshot"]

    return submit


def command(*words: str, folder: Path) -> Callable[[], object]:
    """A command, with nothing of its output kept."""
    return lambda: subprocess.run(words, cwd=folder, check=True, capture_output=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    # without byte code every import is compiled again, which is not what an installed package does
    for name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
    adopt_orphans()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(AML_HOME=f"{scratch}/home", HOME=scratch)
        small = make_project(Path(scratch, "small"), 10, 500)
        large = make_project(Path(scratch, "large"), 2000, 12_500)
        aml = str(Path(sys.executable).parent / "aml")
        script = [sys.executable, "hi.py"]
        copies, standby = iter(range(10_000)), Standby()
        cases: dict[str, Callable[[], object]] = {
            "bare script": command(*script, folder=small),
            "run, 10 files": in_process(small),
            "run, 10 files, standby": in_process(small, standby),
            "run, 2,000 files": in_process(large),
            "run, 2,000 files, standby": in_process(large, standby),
            "plain copy, 2,000 files": lambda: shutil.copytree(large, f"{scratch}/copy{next(copies)}"),
            "aml run, 10 files": command(aml, "run", "local", "hi.py", folder=small),
        }
        for work in cases.values():
            measure(work)  # caches, byte code, the stat cache of the snapshot
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, work in cases.items():
                results[name].append(measure(work, standby.refill if "standby" in name else lambda: None))
        both = (returning(small), returning(small, standby))
        returns = [statistics.median(detached() for _ in range(rounds)) for detached in both]
        standby.close()
        reap()
    report(results, returns)


def report(results: dict[str, list[tuple[float, float]]], returns: list[float]) -> None:
    """Print medians, and ratios to the bare script of the same round."""
    floor = results["bare script"]
    print(f"{'':<28}{'wall ms':>9}{'CPU ms':>9}{'wall x':>9}{'CPU x':>9}")
    for name, rows in results.items():
        wall, cpu = (statistics.median(row[i] for row in rows) * 1000 for i in (0, 1))
        ratios = [
            statistics.median(row[i] / base[i] for row, base in zip(rows, floor, strict=True)) for i in (0, 1)
        ]
        print(f"{name:<28}{wall:9.1f}{cpu:9.1f}{ratios[0]:9.2f}{ratios[1]:9.2f}")
    copies = results["plain copy, 2,000 files"]
    both = [base[0] * 3 + copy[0] for base, copy in zip(floor, copies, strict=True)]
    large = statistics.median(
        row[0] / allowed for row, allowed in zip(results["run, 2,000 files, standby"], both, strict=True)
    )
    print(f"\n2,000 files, standby / (3 x bare + one copy): {large:.2f}")
    alone, ready = (seconds * 1000 for seconds in returns)
    print(f"a detached call returns {alone:.1f} ms after its snapshot, with a standby {ready:.1f} ms")
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
