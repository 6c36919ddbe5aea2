"""Rows of a large history beside plain sqlite3 and beside MLflow's SQLite store.

    python benchmarks/history.py [--runs 10000 100000] [--mlflow PYTHON] [--rounds 30]

For each size, in one session and in turn: the newest 50 and the top 50 by a metric, each run with ten
metrics and five parameters, from a warm connection.  The floor is what a person would write by hand for the
same answer: an indexed table read with `fetchall`, its JSON columns left as text; beside it one that reads
only run ids.  "nothing remembered" decodes every row anew.  `--mlflow` names an interpreter with mlflow; its
store is filled by SQL into its own schema and asked by `mlflow.search_runs` of a warm process.
Ratios are medians of the ratios of each round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from aml_jupyter.runs import History, Record
from aml_jupyter.runs.rows import KEYS
from aml_jupyter.sealed import seal

METRICS = [f"metric_{number}" for number in range(9)]
PARAMS = ["learning_rate", "epochs", "layers", "seed", "optimizer"]


class Project:
    """Where the runs belong."""

    account, workspace, name, root = "local", "default", "bench", "/project"


def record(number: int, chance: random.Random) -> Record:
    """A finished run as a training script leaves it."""
    milliseconds = 1_700_000_000_000 + number * 1000
    moment = time.strftime("%Y-%m-%dT%H:%M:%S.000000+00:00", time.gmtime(milliseconds // 1000))
    metrics = {name: chance.random() for name in METRICS}
    return Record(
        run_id=f"bench_{milliseconds}",
        uuid=f"{number:032x}",
        run_number=number + 1,
        account=Project.account,
        workspace=Project.workspace,
        project=Project.name,
        target="local",
        script_name="train.py",
        arguments=("--epochs", "10"),
        created_utc=moment,
        start_time_utc=moment,
        end_time_utc=moment,
        duration=chance.random() * 100,
        status="Completed",
        exit_code=0,
        snapshot_id=f"{number:064x}",
        metrics={"acc": chance.random(), **metrics},
        params={name: chance.randrange(100) for name in PARAMS},
        phases={"snapshot": 0.01, "prepare": 0.1, "start": 0.02, "run": 3.5, "collect": 0.01},
    )


def make_runs(home: Path, count: int) -> float:
    """Run directories in bulk, as the product writes them but for the fsync; seconds."""
    began = time.perf_counter()
    chance = random.Random(7)
    folder = home / "runs/local/default/bench"
    for path in (folder, home / "ids", home / "dirty"):
        path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        one = record(number, chance)
        (folder / one.run_id).mkdir()
        (folder / one.run_id / "run.json").write_bytes(seal(one.to_json()))
        (home / "ids" / one.run_id).write_text(f"runs/local/default/bench/{one.run_id}\n")
    return time.perf_counter() - began


def make_floor(path: Path, rows: list[dict[str, object]]) -> sqlite3.Connection:
    """The plain tables: one for runs, one for metrics with an index by (key, value, run)."""
    db = sqlite3.connect(path)
    columns = ", ".join(KEYS)
    db.execute(f"CREATE TABLE runs (id INTEGER PRIMARY KEY, {columns})")
    db.execute("CREATE TABLE metrics (run INTEGER, key TEXT, value REAL)")
    marks = ", ".join("?" * len(KEYS))
    for number, row in enumerate(rows):
        values = [json.dumps(v) if isinstance(v, (dict, list)) else v for v in (row[key] for key in KEYS)]
        db.execute(f"INSERT INTO runs VALUES (?, {marks})", [number, *values])
        metrics: dict[str, float] = row["metrics"]  # type: ignore[assignment]
        db.executemany("INSERT INTO metrics VALUES (?, ?, ?)", [(number, *one) for one in metrics.items()])
    db.execute("CREATE INDEX runs_created ON runs (created_utc)")
    db.execute("CREATE INDEX metrics_value ON metrics (key, value, run)")
    db.commit()
    return db


NEWEST = f"SELECT {', '.join(KEYS)} FROM runs ORDER BY created_utc DESC LIMIT 50"
TOP = (
    f"SELECT {', '.join('r.' + key for key in KEYS)} FROM metrics m CROSS JOIN runs r ON r.id = m.run"
    " WHERE m.key = 'acc' ORDER BY m.value DESC LIMIT 50"
)


IDS = "SELECT run_id FROM runs ORDER BY created_utc DESC LIMIT 50"


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The mean of some calls in a row, without the first."""
    work()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - began) / repeats


def compare(
    history: History, floor: sqlite3.Connection, rounds: int
) -> dict[str, tuple[float, float, float]]:
    """For each question: product ms, floor ms, median ratio."""

    def forgetful() -> object:
        history.forget()
        return history.rows()

    def ask(sql: str) -> Callable[[], object]:
        return lambda: floor.execute(sql).fetchall()

    def top(project: str | None = None) -> Callable[[], object]:
        return lambda: history.rows(order_by="metrics.acc DESC", project=project)

    questions: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "newest 50": (history.rows, ask(NEWEST)),
        "  nothing remembered": (forgetful, ask(NEWEST)),
        "  beside ids only": (history.rows, ask(IDS)),
        "top 50 by a metric": (top(), ask(TOP)),
        "  in its project": (top("local/default/bench"), ask(TOP)),
    }
    found = {}
    for name, (product, plain) in questions.items():
        pairs = [(seconds(product, 20), seconds(plain, 20)) for _ in range(rounds)]
        found[name] = (
            statistics.median(p for p, _ in pairs) * 1000,
            statistics.median(f for _, f in pairs) * 1000,
            statistics.median(p / f for p, f in pairs),
        )
    return found


def check_same(history: History, floor: sqlite3.Connection) -> None:
    """Both must give the same runs in the same order."""
    for product, plain in ((history.rows(), NEWEST), (history.rows(order_by="metrics.acc DESC"), TOP)):
        assert [row["run_id"] for row in product] == [row[0] for row in floor.execute(plain)]


MLFLOW = """
import json, sqlite3, statistics, sys, time
import mlflow
path, source, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
mlflow.set_tracking_uri("sqlite:///" + path)
experiment = mlflow.create_experiment("bench")
mlflow.search_runs([experiment], max_results=1)
db = sqlite3.connect(path)
def columns(table):
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
def insert(table, rows):
    names = [name for name in columns(table) if name in rows[0]]
    marks = ", ".join("?" * len(names))
    db.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})",
                   [[row[name] for name in names] for row in rows])
batch = []
def flush():
    runs, metrics, params = [], [], []
    for row in batch:
        at = int(row["run_id"].rsplit("_", 1)[1])
        uid = f"{at:032x}"
        runs.append(dict(
            run_uuid=uid, name=row["run_id"], source_type="LOCAL", source_name="train.py",
            entry_point_name="", user_id="me", status="FINISHED", start_time=at, end_time=at + 1000,
            deleted_time=None, source_version="", lifecycle_stage="active", artifact_uri="/tmp/a",
            experiment_id=int(experiment)))
        for key, value in row["metrics"].items():
            metrics.append(dict(key=key, value=value, timestamp=at, run_uuid=uid, step=0, is_nan=0))
        for key, value in row["params"].items():
            params.append(dict(key=key, value=str(value), run_uuid=uid))
    insert("runs", runs)
    insert("params", params)
    for table in ("metrics", "latest_metrics"):
        insert(table, metrics)
    batch.clear()
for line in open(source):
    batch.append(json.loads(line))
    if len(batch) == 5000:
        flush()
if batch:
    flush()
db.execute("ANALYZE"); db.commit(); db.close()
def ask(order):
    began = time.perf_counter()
    found = mlflow.search_runs([experiment], max_results=50, order_by=[order])
    assert len(found) == 50
    return time.perf_counter() - began
result = {}
for name, order in (("newest 50", "attributes.start_time DESC"), ("top 50 by a metric", "metrics.acc DESC")):
    ask(order)
    result[name] = statistics.median(ask(order) for _ in range(rounds)) * 1000
print(json.dumps({"version": mlflow.__version__, "ms": result}))
"""


def ask_mlflow(python: str, folder: Path, rows: list[dict[str, object]]) -> dict[str, object]:
    """MLflow's answers, in ms, from its own interpreter."""
    source = folder / "rows.jsonl"
    with source.open("w") as file:
        for row in rows:
            file.write(json.dumps({key: row[key] for key in ("run_id", "metrics", "params")}) + "\n")
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [python, "-c", MLFLOW, str(folder / "mlflow.db"), str(source), "5"],
        capture_output=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        sys.exit(f"mlflow: {done.stderr.decode()[-2000:]}")
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(count: int, rounds: int, mlflow: str | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "home"
        print(f"\n{count} runs: written in {make_runs(home, count):.1f} s")
        history = History(str(home))
        began = time.perf_counter()
        assert history.count() == count
        print(f"  index made from the run directories   {time.perf_counter() - began:8.2f} s")
        history.close()
        history = History(str(home))
        began = time.perf_counter()
        history.rows()
        print(f"  first answer of a process             {(time.perf_counter() - began) * 1000:8.2f} ms")
        rows = history.rows(limit=None)
        floor = make_floor(folder / "plain.sqlite", rows)
        check_same(history, floor)
        size = os.path.getsize(home / "index.sqlite") / 1e6
        print(f"  size of the index                     {size:8.1f} MB")
        found = compare(history, floor, rounds)
        peer: dict[str, float] = {}
        if mlflow:
            answer = ask_mlflow(mlflow, folder, rows)
            peer = answer["ms"]  # type: ignore[assignment]
            print(f"  mlflow {answer['version']}, SQLite store")
        print(f"  {'':24}{'rows ms':>10}{'plain ms':>10}{'ratio':>8}{'mlflow ms':>12}{'mlflow/rows':>13}")
        for question, (ours, plain, ratio) in found.items():
            line = f"  {question:24}{ours:10.3f}{plain:10.3f}{ratio:8.2f}"
            if question in peer:
                line += f"{peer[question]:12.1f}{peer[question] / ours:13.0f}"
            print(line)
        history.close()
        floor.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--mlflow", metavar="PYTHON", help="an interpreter that has mlflow")
    options = parser.parse_args()
    for count in options.runs:
        measure(count, options.rounds, options.mlflow)


if __name__ == "__main__":
    main()
