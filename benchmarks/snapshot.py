"""Snapshots against their peers, in turn and in one run.

    python benchmarks/snapshot.py [--rounds N] [SIZE ...]

SIZE is `a` (2,000 files, 25 MB), `b` (20,000, 200 MB) or `c` (100,000, 10 MB). Every row is a process of its
own; a ratio is the median of the ratios of the rounds, processor time first. Floors: a scan with lstat in
Python for an unchanged project, `cp -r` for a cold one, a plain copy for the run folder.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {"a": (2_000, 25_000_000), "b": (20_000, 200_000_000), "c": (100_000, 10_000_000)}
PER_FOLDER = 20
ROOT = Path(__file__).resolve().parent.parent

SCAN = """
import os, sys
def scan(path):
    n = 0
    with os.scandir(path) as entries:
        for entry in entries:
            st = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                n += scan(entry.path)
            else:
                n += 1
    return n
scan(sys.argv[1])
"""
TAKE = """
import sys
from aml_jupyter.snapshot import Rules, Store
print(Store(sys.argv[2]).take(sys.argv[1], Rules(max_bytes=1 << 40)).id)
"""
MATERIALIZE = """
import sys
from aml_jupyter.snapshot import Store
Store(sys.argv[1]).materialize(sys.argv[2], sys.argv[3])
"""
COPYTREE = """
import shutil, sys
shutil.copytree(sys.argv[1], sys.argv[2], symlinks=True)
"""


class Measured:
    """Processor and wall seconds of one process."""

    def __init__(self, cpu: float, wall: float, output: str) -> None:
        self.cpu = cpu
        self.wall = wall
        self.output = output


def measure(*command: str) -> Measured:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, text=True, check=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Measured(cpu, wall, done.stdout.strip())


def python(code: str, *arguments: str) -> Measured:
    return measure(
        sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}", *arguments
    )


def make_project(folder: Path, files: int, size: int) -> None:
    """A tree of text: four in five files are code, one in five is a table of numbers."""
    chance = random.Random(7)
    words = [
        path.read_text("utf-8", "replace") for path in sorted(Path(os.__file__).parent.glob("*.py"))[:60]
    ]
    code = "".join(words).encode()
    table = "\n".join(",".join(f"{chance.gauss(0, 1):.6f}" for _ in range(8)) for _ in range(20_000)).encode()
    each = size // files
    for number in range(files):
        at = folder / f"part{number // 1000}" / f"folder{number // PER_FOLDER}"
        if number % PER_FOLDER == 0:
            at.mkdir(parents=True)
        text = table if number % 5 == 0 else code
        length = chance.randint(each // 2, each + each // 2)
        begin = chance.randrange(len(text) - length)
        # a number of its own makes every content another one
        (at / f"file{number}.{'csv' if number % 5 == 0 else 'py'}").write_bytes(
            b"%d\n" % number + text[begin : begin + length]
        )


def rounds_of(work: Path, project: Path, rounds: int) -> dict[str, list[Measured]]:
    rows: dict[str, list[Measured]] = {}

    def row(name: str, measured: Measured) -> Measured:
        rows.setdefault(name, []).append(measured)
        return measured

    for number in range(rounds):
        # nothing is removed before the end: ext4 is slow to make files where some were just removed
        store = str(work / f"home{number}" / "snapshots")
        outs = iter([str(work / f"out{number}-{copy}") for copy in range(3)])
        repository = work / f"git{number}"
        row("python -S -c pass", python("pass"))
        row("cp -r", measure("cp", "-r", str(project), next(outs)))
        taken = row("take, cold", python(TAKE, str(project), store))
        row("scan + lstat", python(SCAN, str(project)))
        again = row("take, unchanged", python(TAKE, str(project), store))
        assert again.output == taken.output
        changed = project / "part0" / "folder0" / "file1.py"
        changed.write_bytes(b"%d\n" % time.time_ns())
        row("scan + lstat", python(SCAN, str(project)))
        one = row("take, one changed", python(TAKE, str(project), store))
        row("materialize", python(MATERIALIZE, store, one.output, next(outs)))
        row("shutil.copytree", python(COPYTREE, str(project), next(outs)))
        row("git add (cold)", git_add(project, repository))
        row("git add (unchanged)", git_add(project, repository))
    return rows


def git_add(project: Path, repository: Path) -> Measured:
    if not repository.exists():
        subprocess.run(["git", "init", "-q", "--bare", str(repository)], check=True)
    return measure(
        "git", f"--git-dir={repository}", f"--work-tree={project}", "-c", "core.bare=false", "add", "-A"
    )


RATIOS = [
    ("take, unchanged", "scan + lstat", {"a": 2.0, "b": 2.5, "c": 4.0}),
    ("take, one changed", "scan + lstat", {"a": 2.0, "b": 2.5, "c": 4.0}),
    ("take, cold", "cp -r", {"a": 1.2, "b": 0.25, "c": 0.6}),
    ("take, cold", "git add (cold)", {}),
    ("materialize", "cp -r", {"a": 1.0, "b": 1.0, "c": 1.0}),
    ("materialize", "shutil.copytree", {"a": 1.0, "b": 1.0, "c": 1.0}),
]


def report(size: str, rows: dict[str, list[Measured]]) -> None:
    print(
        f"\n{size}: {SIZES[size][0]} files, {SIZES[size][1] // 1_000_000} MB; load {os.getloadavg()[0]:.1f}"
    )
    for name, values in rows.items():
        cpu = statistics.median(value.cpu for value in values) * 1e3
        wall = statistics.median(value.wall for value in values) * 1e3
        print(f"  {name:22} cpu {cpu:8.0f} ms   wall {wall:8.0f} ms")
    for name, floor, bars in RATIOS:
        floors = rows[floor][: len(rows[name])]
        cpu = statistics.median(a.cpu / b.cpu for a, b in zip(rows[name], floors, strict=True))
        wall = statistics.median(a.wall / b.wall for a, b in zip(rows[name], floors, strict=True))
        bar = bars.get(size)
        told = "" if bar is None else f"   bar {bar}: {'reached' if cpu <= bar else 'MISSED'}"
        print(f"  {name} / {floor}: cpu {cpu:.2f}, wall {wall:.2f}{told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sizes", nargs="*", default=["a", "b", "c"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for folder in ("aml_jupyter",):
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(ROOT / folder)], check=True)
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            project = work / "project"
            make_project(project, *SIZES[size])
            time.sleep(0.1)
            report(size, rounds_of(work, project, options.rounds))


if __name__ == "__main__":
    main()
