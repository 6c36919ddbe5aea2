"""A filter of two conditions over a large history beside plain sqlite3.

    python benchmarks/query.py [--runs 10000 100000] [--rounds 15]

Each run has ten metrics and five parameters.  The questions differ in how many runs each condition means,
since that decides which way to the answer is short.  The floor is what a person would write by hand for the
same answer: indexed tables of metrics and parameters after ANALYZE, several ways to write it of which the
fastest counts, `fetchall` of the columns with JSON left as text.  What is remembered of rows is forgotten
before each question, so that every answer decodes its fifty rows and counts anew what the choice of its way
rests on; "seen before" does not.  Ratios are medians of those of each round.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from aml_jupyter.runs import History
from aml_jupyter.runs.rows import KEYS

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from history import make_floor, make_runs, seconds

# name -> filter, order, and the same by hand: conditions on `a` (a metric) and `b`, with the table of `b`
QUESTIONS: dict[str, tuple[str, str | None, str, str, str]] = {
    "common and rare, newest 50": (
        "metrics.acc > 0.5 and params.seed = '7'",
        None,
        "a.key = 'acc' AND a.value > 0.5",
        "params b",
        "b.key = 'seed' AND b.value = '7'",
    ),
    "common and rare, top 50": (
        "metrics.acc > 0.5 and params.seed = '7'",
        "metrics.acc DESC",
        "a.key = 'acc' AND a.value > 0.5",
        "params b",
        "b.key = 'seed' AND b.value = '7'",
    ),
    "two metrics, one run in ten each, top 50": (
        "metrics.acc > 0.9 and metrics.metric_3 < 0.1",
        "metrics.acc DESC",
        "a.key = 'acc' AND a.value > 0.9",
        "metrics b",
        "b.key = 'metric_3' AND b.value < 0.1",
    ),
    "two common metrics, newest 50": (
        "metrics.acc > 0.5 and metrics.metric_3 < 0.5",
        None,
        "a.key = 'acc' AND a.value > 0.5",
        "metrics b",
        "b.key = 'metric_3' AND b.value < 0.5",
    ),
    "two rare ones, no run at all": (
        "metrics.acc > 0.9999 and params.seed = '7'",
        None,
        "a.key = 'acc' AND a.value > 0.9999",
        "params b",
        "b.key = 'seed' AND b.value = '7'",
    ),
    "two that exclude each other, half of all": (
        "metrics.acc > 0.5 and metrics.acc < 0.4999",
        None,
        "a.key = 'acc' AND a.value > 0.5",
        "metrics b",
        "b.key = 'acc' AND b.value < 0.4999",
    ),
}


def by_hand(question: tuple[str, str | None, str, str, str]) -> list[str]:
    """The ways in which a person would write it."""
    _, order, first, table, second = question
    columns = ", ".join("r." + key for key in KEYS)
    last = f"WHERE {first} AND {second} ORDER BY {'a.value DESC' if order else 'r.created_utc DESC'} LIMIT 50"
    runs = "CROSS JOIN runs r ON r.id = a.run"
    ways = [f"FROM metrics a CROSS JOIN {table} ON b.run = a.run {runs} {last}"]
    ways.append(f"FROM {table} CROSS JOIN metrics a ON a.run = b.run {runs} {last}")
    ways.append(f"FROM metrics a JOIN {table} ON b.run = a.run JOIN runs r ON r.id = a.run {last}")
    if not order:
        a, b = first.replace("a.", ""), second.replace("b.", "")
        exists = "EXISTS (SELECT 1 FROM {} WHERE run = r.id AND {})"
        where = f"{exists.format('metrics', a)} AND {exists.format(table.split(' ')[0], b)}"
        ways.append(f"FROM runs r WHERE {where} ORDER BY r.created_utc DESC LIMIT 50")
    return [f"SELECT {columns} {way}" for way in ways]


def add_params(floor: sqlite3.Connection, rows: list[dict[str, object]]) -> None:
    """The parameters as a table like that of the metrics, both findable by run as well."""
    floor.execute("CREATE TABLE params (run INTEGER, key TEXT, value TEXT)")
    for number, row in enumerate(rows):
        params: dict[str, object] = row["params"]  # type: ignore[assignment]
        lines = [(number, name, str(value)) for name, value in params.items()]
        floor.executemany("INSERT INTO params VALUES (?, ?, ?)", lines)
    floor.execute("CREATE INDEX params_value ON params (key, value, run)")
    floor.execute("CREATE INDEX params_run ON params (run, key, value)")
    floor.execute("CREATE INDEX metrics_run ON metrics (run, key, value)")
    floor.execute("ANALYZE")
    floor.commit()


def spent(floor: sqlite3.Connection, way: str) -> float:
    """Seconds of one way by hand."""
    return seconds(lambda: floor.execute(way).fetchall(), 3)


def compare(history: History, floor: sqlite3.Connection, rounds: int) -> None:
    """Each question: product ms, the best way by hand in ms, median ratio."""
    print(f"  {'':44}{'rows ms':>10}{'by hand ms':>12}{'ratio':>8}{'seen before':>13}")
    for name, question in QUESTIONS.items():
        where, order = question[:2]
        ways = by_hand(question)
        answers = [[row[0] for row in floor.execute(way)] for way in ways]
        found = [row["run_id"] for row in history.rows(order, where=where)]
        assert all(answer == found for answer in answers), name
        best = min((spent(floor, way), way) for way in ways)[1]

        def ask(where: str = where, order: str | None = order) -> object:
            return history.rows(order, where=where)

        def forgetful(ask: Callable[[], object] = ask) -> object:
            history.forget()
            return ask()

        def plain(way: str = best) -> object:
            return floor.execute(way).fetchall()

        timed = [(seconds(forgetful, 5), seconds(plain, 5), seconds(ask, 5)) for _ in range(rounds)]
        ours = statistics.median(one for one, _, _ in timed) * 1000
        theirs = statistics.median(one for _, one, _ in timed) * 1000
        ratio = statistics.median(one / other for one, other, _ in timed)
        seen = statistics.median(warm / other for _, other, warm in timed)
        print(f"  {name:44}{ours:10.2f}{theirs:12.2f}{ratio:8.2f}{seen:13.2f}")


def measure(count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "home"
        print(f"\n{count} runs: written in {make_runs(home, count):.1f} s")
        with History(str(home)) as history:
            began = time.perf_counter()
            rows = history.rows(limit=None)
            print(f"  index made from the run directories   {time.perf_counter() - began:8.2f} s")
            floor = make_floor(folder / "plain.sqlite", rows)
            add_params(floor, rows)
            del rows
            print(f"  size of the index                     {os.path.getsize(history.path) / 1e6:8.1f} MB")
            compare(history, floor, rounds)
            floor.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    for count in options.runs:
        measure(count, options.rounds)


if __name__ == "__main__":
    main()
