"""Filters: what MLflow takes means the same here, what it has not means what it says, mistakes are told."""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

from aml_jupyter import runs
from aml_jupyter.errors import UsageError
from aml_jupyter.runs import History, filtering
from aml_jupyter.runs.filtering import interval, parse
from aml_jupyter.sealed import seal
from tests.made_runs import Project, change, end, submit
from tests.requirements import missing

DAY = "2026-01-3{}T12:00:00.250000+00:00"


@pytest.fixture
def history(home: str) -> Iterator[History]:
    with History(home) as opened:
        yield opened


def made(home: str, name: str, **fields: Any) -> str:
    """A run that ended, of this name; `tags` and the fields of a record."""
    tags, created = fields.pop("tags", {}), fields.pop("created_utc", None)
    status = fields.pop("status", "Completed")
    directory = submit(home, fields.pop("project", Project()), **fields)
    end(directory, status, **({"start_time_utc": created} if created else {}))
    if created:
        change(directory, created_utc=created)
    runs.set_labels(directory, name=name, tags=tags)
    return name


def asked(history: History, where: str, **more: Any) -> list[str]:
    return [row["name"] for row in history.rows(where=where, limit=None, **more)]


@pytest.fixture
def some(home: str, history: History) -> History:
    """Runs a, b, c and d, in this order."""
    made(
        home,
        "a",
        metrics={"acc": 0.95, "val/loss": [3, 1]},
        params={"lr": 0.1, "model": "tree", "deep": True, "layers": [1, 2]},
        tags={"kind": "small", "my tag": "x"},
        created_utc=DAY.format(0),
        user_id="ann",
    )
    made(
        home,
        "b",
        metrics={"acc": 0.5},
        params={"lr": "0.10", "model": "Tree's"},
        created_utc=DAY.format(1),
        duration=2.5,
    )
    made(home, "c", metrics={"acc": float("nan")}, params={"lr": 1}, status="Failed", exit_code=3)
    made(home, "d", metrics={"acc": "good"}, tags={"kind": "50%_*"}, script_name="a/b.py", status="Canceled")
    return history


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("", "dcba"),
        ("  ", "dcba"),
        ("metrics.acc > 0.9", "a"),
        ("metric.acc<=.5", "b"),
        ("metrics.`val/loss` = 1", "a"),
        ('metrics."val/loss" = 1', "a"),
        ("metrics.val/loss < 1e1", "a"),
        ("`metrics`.acc >= +0.5", "ba"),
        ("metrics.acc != 0.5", "dca"),
        ("metrics.acc IN (0.5, 0.95)", "ba"),
        ("metrics.acc is null", ""),
        ("metrics.none IS NULL", "dcba"),
        ("metrics.acc IS NOT NULL", "dcba"),
        ("params.lr = '0.1'", "a"),
        ("params.lr = 0.1", "ba"),
        ("params.lr >= 0.5", "c"),
        ("params.lr != 0.1", "c"),
        ("params.lr IN (1, '0.1')", "ca"),
        ("params.lr NOT IN (1, '0.1')", "b"),
        ("param.model = 'tree'", "a"),
        ("param.model = 'Tree''s'", "b"),
        ('parameters.model = "Tree\'s"', "b"),
        ("params.model LIKE 'T%'", "b"),
        ("params.model ILIKE 't%'", "ba"),
        ("params.model like '%_e_%'", "ba"),
        ("params.deep = 'True' and params.deep = true", "a"),
        ("params.layers = '[1,2]'", "a"),
        ("tags.kind LIKE '50%'", "d"),
        ("tags.kind = '50%_*'", "d"),
        ("tags.kind LIKE '%*'", "d"),
        ("tag.`my tag` = 'x'", "a"),
        ("tags.kind IS NULL", "cb"),
        ("status = 'Failed'", "c"),
        ("attributes.status = 'FINISHED'", "ba"),
        ("status != 'FINISHED' AND status != 'KILLED'", "c"),
        ("status NOT IN ('Failed', 'Canceled')", "ba"),
        ("run.exit_code = 3", "c"),
        ("duration > 2 and duration < 3", "b"),
        ("name IN ('a', 'c')", "ca"),
        ("`Run name` = 'b'", "b"),
        ('attr."run name" LIKE "B"', ""),
        ("script_name ILIKE 'A/%.PY'", "d"),
        ("user = 'ann'", "a"),
        ("project = 'iris'", "dcba"),
        ("created = '2026-01-30'", "a"),
        ("created > '2026-01-30' and created <= '2026-01-31'", "b"),
        ("created_utc = '2026-01-31T13:00:00.25+01:00'", "b"),
        ("created IN ('2026-01-30', '2026-01-31T12:00')", "ba"),
        ("start_time = 1769774400250", "a"),
        ("pinned = false", "dcba"),
        ("pinned = 1", ""),
        ("note IS NOT NULL and note = ''", "dcba"),
        ("status = 'Failed' or metrics.acc > 0.9", "ca"),
        ("(status = 'Failed' or metrics.acc > 0.4) and params.lr < 1", "ba"),
        ("status = 'Failed' or status = 'Canceled' and tags.kind is null", "c"),
        ("((name = 'a'))", "a"),
    ],
)
def test_a_filter_means_what_it_says(some: History, where: str, expected: str) -> None:
    assert "".join(asked(some, where)) == expected
    assert some.count(where=where) == len(expected)


@pytest.mark.parametrize(
    ("where", "column", "what", "fix"),
    [
        ("metrics.acc > '0.9'", 15, "number", "metrics.acc > 0.9"),
        ("0.9 < metrics.acc", 1, "begins with a name", "metrics.acc > 0.9"),
        ("params.model = tree", 16, "not quoted", "params.model = 'tree'"),
        ("params.model > 'tree'", 16, "compares numbers", "params.model > 0.9"),
        ("metrics.acc == 1", 13, "==", "Write =."),
        ("metrics.acc <> 1", 13, "<>", "Write !=."),
        ("metrics.acc => 1", 13, "=>", "Write >=."),
        ("metrics.acc between 1 and 2", 13, "between", "metrics.acc >= 1 and metrics.acc <= 2"),
        ("name contains 'a'", 6, "contains", "name LIKE '%a%'"),
        ("metrics.acc > 1 order by name", 17, "order", "--order-by"),
        ("duration > '5 min'", 12, "a number", "duration > 60"),
        ("metrics.acc > 1 && status = 'x'", 17, "&&", "Write and."),
        ("metrics.acc > 1, status = 'x'", 16, "commas", "Write and"),
        ("metrics.my metric > 1", 12, "another word", "metrics.`my metric`"),
        ("metrics.acc", 12, "not compared", "Write ="),
        ("metrics.acc >", 14, "no value", "metrics.acc > 0.9"),
        ("metrics. > 1", 1, "names nothing", "metrics.acc"),
        ("metrics.acc > 1 and", 20, "missing", "metrics.acc > 0.9"),
        ("and metrics.acc > 1", 1, "no condition before", "Take it away"),
        ("metric.acc > 1 status = 'x'", 16, "has ended", "and"),
        ("(metrics.acc > 1", 1, "not closed", ")"),
        ("metrics.acc > 1)", 16, "closes nothing", "Take it away"),
        ("not metrics.acc > 1", 1, "NOT", "!="),
        ("metrics.acc NOT LIKE 'a'", 13, "NOT", "NOT IN"),
        ("metrics.acc LIKE 'a%'", 13, "a number", "="),
        ("metrics.acc = NULL", 15, "IS", "metrics.acc IS NULL"),
        ("params.a IS 3", 13, "NULL", "="),
        ("params.a IN 'b'", 13, "list", "('a', 'b')"),
        ("params.a IN ()", 14, "empty", "('a')"),
        ("params.a IN ('b'", 17, "commas", "('a', 'b')"),
        ("params.a = ('b')", 12, "IN", "params.a IN"),
        ("metrcs.acc > 1", 1, "metrcs", "Did you mean metrics"),
        ("metics = 1", 1, "no attribute 'metics'", "metrics.metics"),
        ("stats = 'Failed'", 1, "stats", "status"),
        ("acc > 0.9", 1, "acc", "metrics.acc"),
        ("artifact_uri = 'a'", 1, "artifact_uri", "artifacts_state"),
        ("datasets.name = 'a'", 1, "datasets", "Tag"),
        ("status > 'a'", 8, "no order", "LIKE"),
        ("status = 3", 10, "is text", "status = '3'"),
        ("status LIKE 3", 13, "is text", "'3'"),
        ("created > 'yesterday'", 11, "no time", "2026-01-31"),
        ("created > '2026-02-30'", 11, "no time", "2026-01-31"),
        ("created LIKE '2026%'", 9, "a time", "="),
        ("pinned > true", 8, "no order", "true"),
        ("pinned = 'yes'", 10, "true or false", "true"),
        ("params.a = 'b", 12, "not closed", "twice"),
        ("params.`a = 'b'", 8, "not closed", "`"),
        ("params.a ! 'b'", 10, "!=", "NOT IN"),
        ("params.a = `b`", 12, "not quoted", "'b'"),
        ("'a' = params.b", 1, "begins with a name", "params.b = 'a'"),
        ("a\x1b[2J = 1", 1, "no attribute", "metrics."),
    ],
)
def test_a_mistake_is_told_with_its_column_and_what_to_write(
    where: str, column: int, what: str, fix: str
) -> None:
    with pytest.raises(UsageError) as told:
        parse(where)
    error = told.value
    assert error.code == "run.filter"
    first, line, mark = error.message.split("\n")
    assert f"column {column}:" in first
    assert what in first
    assert fix in error.hint
    assert mark.index("^") - 4 == len(re.sub("[^ -~]", "....", where[: column - 1]))
    assert not re.search("[\x00-\x08\x0b-\x1f]", first + line + error.hint)


@pytest.mark.parametrize(
    "where",
    [
        "x" * 30_000,
        "(" * 100 + "metrics.a > 1" + ")" * 100,
        " or ".join(["metrics.a > 1"] * 300),
        f"params.a LIKE '{'x' * 6000}'",
        f"created IN ({', '.join(['2026'] * 300)})",
    ],
)
def test_a_filter_beyond_all_measure_is_refused(where: str) -> None:
    with pytest.raises(UsageError):
        parse(where)


def test_the_largest_filter_that_is_taken_is_answered(some: History) -> None:
    word = " and ".join(["metrics.acc > 0.9"] * filtering.MOST)
    assert asked(some, word) == ["a"]
    values = ", ".join(["'x'"] * 3000)
    assert asked(some, f"params.model IN ({values}, 'tree')") == ["a"]
    mixed = ", ".join(f"'x', {number}" for number in range(1000))
    assert asked(some, f"params.lr IN ({mixed}, '0.10')") == ["c", "b"]
    assert asked(some, f"params.model ILIKE '{'[*?ü' * 1000}%'") == []
    assert asked(some, f"created NOT IN ({', '.join(['2026'] * 199)}) and name = 'a'") == ["a"]
    deep = "(" * filtering.DEEPEST + "name = 'b'" + ")" * filtering.DEEPEST
    assert asked(some, deep) == ["b"]
    # SQLite has refused nothing
    assert some.notice == ""


def test_no_word_of_a_filter_is_ever_sql(some: History) -> None:
    for text in ("'; DROP TABLE runs; --", '" OR 1=1 --', "%s ? ?1 :a @a", "\ud800\x00ü", "x" * 1000):
        quoted = text.replace("'", "''")
        for name in ("params.model", "tags.kind", "name", f"params.`{text.replace('`', '')}`"):
            for operator in ("=", "LIKE", "ILIKE"):
                assert asked(some, f"{name} {operator} '{quoted}'") == []
    assert len(asked(some, "")) == 4
    assert some.notice == ""


def test_patterns_know_letters_beyond_ascii(home: str, history: History) -> None:
    made(home, "a", params={"city": "MÜNCHEN"})
    assert asked(history, "params.city ILIKE 'mün%'") == ["a"]
    assert asked(history, "params.city LIKE 'MÜ_CHEN'") == ["a"]
    assert asked(history, "params.city LIKE 'mün%'") == []


def test_a_filter_goes_with_every_order_and_choice(some: History) -> None:
    where = "metrics.acc IS NOT NULL"
    assert asked(some, where, order_by="metrics.acc") == ["b", "a", "d", "c"]
    assert asked(some, where, order_by=["metrics.acc DESC", "name"]) == ["a", "b", "c", "d"]
    assert asked(some, where, order_by=["status DESC", "attributes.created ASC"]) == ["c", "a", "b", "d"]
    assert asked(some, where, order_by="params.lr DESC") == ["c", "b", "a", "d"]
    assert asked(some, where, order_by="tags.`my tag`") == ["a", "d", "c", "b"]
    assert asked(some, where, order_by=["phases.run", "name DESC"]) == ["d", "c", "b", "a"]
    assert asked(some, where, status="Failed") == ["c"]
    assert asked(some, where, project="local/default/other") == []
    assert [row["name"] for row in some.rows("name", where=where, limit=2)] == ["a", "b"]
    with pytest.raises(UsageError):
        some.rows(["name", "colour"], where=where)


def test_every_way_to_the_answer_gives_the_same(
    home: str, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        made(
            home,
            f"r{number:02}",
            metrics={"acc": number * 7 % 60 / 60, "n": number},
            params={"lr": str(number % 3)},
            tags={"even": ""} if number % 2 == 0 else {},
        )
    wheres = [
        "metrics.acc > 0.5 and params.lr = '1'",
        "metrics.acc > 0.5 and metrics.acc < 0.7 and tags.even = ''",
        "params.lr LIKE '1%' and status = 'Completed'",
        "params.lr != '1' and metrics.n >= 30",
        "name IN ('r01', 'r02') or metrics.n = 7",
    ]
    orders: list[Any] = [None, "metrics.acc DESC", "metrics.n", "name", ["params.lr DESC", "name"]]
    asks = [(where, order, limit) for where in wheres for order in orders for limit in (3, None)]
    answers = []
    # always from a condition; first some in order; never from a condition
    for short, tried, lookup in ((10**9, 0, 1), (0, 8, 1), (0, 1, 10**9)):
        monkeypatch.setattr("aml_jupyter.runs.choosing.SHORT", short)
        monkeypatch.setattr("aml_jupyter.runs.choosing.LOOKUP", lookup)
        monkeypatch.setattr("aml_jupyter.runs.searching.TRIED", tried)
        history.forget()
        answers.append([history.rows(order, where=where, limit=limit) for where, order, limit in asks])
    assert answers[0] == answers[1] == answers[2]
    assert all(answers[0])


def test_a_changed_label_is_found_by_the_next_question(home: str, history: History) -> None:
    directory = submit(home)
    end(directory)
    assert history.count(where="tags.x = '1' or pinned = true") == 0
    runs.set_labels(directory, tags={"x": "1"})
    assert history.count(where="tags.x = '1'") == 1
    runs.set_labels(directory, remove_tags=["x"], pinned=True, note="look at this")
    assert history.count(where="tags.x = '1'") == 0
    assert history.count(where="pinned = true and note LIKE '%this'") == 1


def test_an_index_of_the_version_before_is_made_anew_without_a_word(home: str) -> None:
    import sqlite3

    made(home, "a", params={"lr": 1})
    with History(home) as history:
        history.rows()
    db = sqlite3.connect(home + "/index.sqlite")
    db.execute("DROP TABLE params")
    db.execute("PRAGMA user_version = 1")
    db.close()
    with History(home) as history:
        assert asked(history, "params.lr = 1") == ["a"]
        assert history.notice == ""


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("2026-01-31", "2026-01-31T00:00:00.000000", "2026-02-01T00:00:00.000000"),
        ("2026-01-31 10:05", "2026-01-31T10:05:00.000000", "2026-01-31T10:06:00.000000"),
        ("2026-01-31T10:05:09Z", "2026-01-31T10:05:09.000000", "2026-01-31T10:05:10.000000"),
        ("2026-01-31T10:05:09.25-02:00", "2026-01-31T12:05:09.250000", "2026-01-31T12:05:09.260000"),
        (1000, "1970-01-01T00:00:01.000000", "1970-01-01T00:00:01.001000"),
        (0.5, "1970-01-01T00:00:00.001000", "1970-01-01T00:00:00.001000"),
    ],
)
def test_a_time_is_a_stretch(value: Any, low: str, high: str) -> None:
    assert interval(value) == (low + "+00:00", high + "+00:00")


@pytest.mark.parametrize(
    "value", ["", "2026", "31.01.2026", "2026-13-01", "2026-01-31T25:00", 1e300, "9999-12-31"]
)
def test_what_is_no_time_is_none(value: Any) -> None:
    assert interval(value) is None


@pytest.mark.parametrize(
    "odd",
    [-(10**40), 10**400, float("nan"), float("-inf"), 1e308, "text", [1], True],
    ids=lambda odd: repr(odd)[:12],
)
def test_a_number_that_is_none_spoils_no_list(home: str, history: History, odd: Any) -> None:
    made(home, "good", metrics={"acc": 1})
    directory = submit(home)
    end(directory)
    record = runs.load_record(directory).to_json()
    numbers = ("exit_code", "duration", "run_number", "artifacts", "user_id", "metrics", "phases")
    with open(directory.run_json, "wb") as file:
        file.write(seal({**record, **dict.fromkeys(numbers, odd), "params": {"a": odd}}))
    runs.mark_changed(directory)
    for where in (
        "",
        "metrics.acc = 1",
        "exit_code != 1 or duration > 0 or name = 'good'",
        "params.a IS NULL",
    ):
        for order in (None, "metrics.acc", "duration DESC", ["status", "run_number"]):
            assert "good" in [row["name"] for row in history.rows(order, where=where)]
    assert history.notice == ""
    assert history.count() == 2


# -- beside MLflow itself


KEYS = ["acc", "loss", "val/acc", "a.b"]
TEXTS = ["tree", "Tree", "t", "0.1", "1", "", "50%", "a_b", "a b", "x*y", "[z]", 'say "hi"']
NUMBERS = [0.0, 0.5, 1.0, -1.5, 1e-3, 2e10, float("nan"), float("inf")]


def random_run(chance: random.Random) -> dict[str, Any]:
    at = 1_769_774_400_000 + chance.randrange(4)
    return {
        "metrics": {key: chance.choice(NUMBERS) for key in KEYS if chance.random() < 0.6},
        "params": {key: chance.choice(TEXTS) for key in KEYS if chance.random() < 0.6},
        "tags": {key: chance.choice(TEXTS) for key in KEYS if chance.random() < 0.6},
        "status": chance.choice(["Completed", "Failed", "Canceled"]),
        "start_time": at,
        "end_time": at + chance.randrange(3),
        "user_id": chance.choice(["ann", "bob"]),
    }


def random_condition(chance: random.Random) -> str:
    kind = chance.choice(["metrics", "metric", "params", "parameter", "tags", "tag", "attributes", ""])
    key = chance.choice(KEYS)
    quoted = chance.choice(["`{}`", '"{}"']).format(key)
    name = f"{kind}.{quoted}"
    if key == "acc" and chance.random() < 0.5:
        name = f"{kind}.{key}"
    compared = ["=", "!=", ">", ">=", "<", "<="]
    if kind.startswith("metric"):
        value = chance.choice(["0", "0.5", "1", "-1.5", "1e-3", "2E10", "1.0", ".5"])
        return f"{name} {chance.choice(compared)} {value}"
    if kind in ("attributes", ""):
        dot = "." if kind else ""
        if chance.random() < 0.5:
            key = chance.choice(["start_time", "end_time", "created", "Created"])
            return f"{kind}{dot}{key} {chance.choice(compared)} {1_769_774_400_000 + chance.randrange(5)}"
        if chance.random() < 0.3:
            ids = ", ".join(f"'r{chance.randrange(9)}'" for _ in range(3))
            return f"{kind}{dot}run_id {chance.choice(['IN', 'NOT IN', 'in'])} ({ids})"
        key, values = chance.choice([
            ("status", ["Completed", "Failed", "fail%", "F%"]),
            ("user_id", ["ann", "A%", "_ob", "bob"]),
            ("run_name", ["n1", "n%", "N_", "n2"]),
            ("`run name`", ["n1", "n%", "N_", "n2"]),
        ])  # fmt: skip
        return f"{kind}{dot}{key} {random_text(chance, values)}"
    if chance.random() < 0.15:
        return f"{name} {chance.choice(['IS NULL', 'IS NOT NULL', 'is not null'])}"
    texts = [text for text in TEXTS if '"' not in text]
    return f"{name} {random_text(chance, [*texts, 't%', '%e%', '_%', 'T_ee'])}"


def random_text(chance: random.Random, values: list[str]) -> str:
    quote = chance.choice("'\"")
    return f"{chance.choice(['=', '!=', 'LIKE', 'ILIKE', 'like'])} {quote}{chance.choice(values)}{quote}"


def test_what_mlflow_takes_means_the_same_here(home: str, history: History) -> None:
    if importlib.util.find_spec("mlflow") is None:
        missing("mlflow", "mlflow-skinny is not installed")
    from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag
    from mlflow.utils.search_utils import SearchUtils

    chance = random.Random(11)
    theirs, ids = [], {}
    for number in range(40):
        one = random_run(chance)
        times = {
            "start_time_utc": runs.utc(one["start_time"] * 1_000_000 + 123_000),
            "end_time_utc": runs.utc(one["end_time"] * 1_000_000),
        }
        directory = submit(home, metrics=one["metrics"], params=one["params"], user_id=one["user_id"])
        end(directory, one["status"])
        change(directory, created_utc=times["start_time_utc"], start_time_utc=times["start_time_utc"])
        record = runs.load_record(directory).replace(end_time_utc=times["end_time_utc"])
        # an ending is never changed by the product: written here as it would have been
        with open(directory.run_json, "wb") as file:
            file.write(seal(record.to_json()))
        runs.set_labels(directory, name=f"n{number % 4}", tags=one["tags"])
        ids[directory.run_id] = f"r{number}"
        theirs.append(
            Run(
                RunInfo(
                    run_id=f"r{number}",
                    experiment_id="0",
                    user_id=one["user_id"],
                    status=one["status"],
                    start_time=one["start_time"],
                    end_time=one["end_time"],
                    lifecycle_stage="active",
                    run_name=f"n{number % 4}",
                ),
                RunData(
                    metrics=[Metric(k, v, 0, 0) for k, v in one["metrics"].items()],
                    params=[Param(k, v) for k, v in one["params"].items()],
                    tags=[RunTag(k, v) for k, v in one["tags"].items()],
                ),
            )
        )
    own = {short: run_id for run_id, short in ids.items()}
    for _ in range(1500):
        where = " AND ".join(random_condition(chance) for _ in range(chance.randrange(1, 4)))
        expected = {run.info.run_id for run in SearchUtils.filter(theirs, where)}  # type: ignore[no-untyped-call]
        here = re.sub(r"'(r\d+)'", lambda found: f"'{own[found[1]]}'", where)
        found = {ids[row["run_id"]] for row in history.rows(where=here, limit=None)}
        assert found == expected, where


PIECES = [
    *(
        "metrics.",
        "params.",
        "tags.",
        "attributes.",
        "status",
        "created",
        "pinned",
        "acc",
        "`a b`",
        '"c"',
        "'d'",
    ),
    *("=", "!=", "<", ">=", "LIKE", "ilike", "IN", "NOT", "IS", "NULL", "and", "OR", "(", ")", ",", "true"),
    *(
        "1",
        "-2.5e3",
        "1e999",
        "99999999999999999999999",
        "'2026-01-31'",
        "'%_'",
        ".",
        "`",
        "'",
        "!",
        "\x00",
        "é",
    ),
]


def is_filter(where: str) -> bool:
    """Whether a filter can be read; nothing but UsageError says that it cannot."""
    try:
        parse(where)
    except UsageError as error:
        return not (error.code == "run.filter" and error.hint)
    return True


OPERATORS = ["=", "!=", "<", ">=", "LIKE", "ilike", "IS", "is not", "IN", "NOT IN"]
OPERANDS = [
    "1",
    "-2.5e3",
    "1e999",
    "9" * 25,
    "'2026-01-31'",
    "'%_['",
    "true",
    "NULL",
    "('a', 1)",
    "(2, 3)",
    "'",
]
NAMES = ["metrics.acc", "params.`a b`", "tags.kind", "status", "created", "pinned", "duration", "note"]


def test_whatever_is_typed_is_answered_or_refused(some: History) -> None:
    chance = random.Random(3)
    taken = 0
    for _ in range(3000):
        count = chance.choice([2, 3, 3, 4, 6, 8, 12])
        pieces = [chance.choice(PIECES) for _ in range(count)]
        if chance.random() < 0.7:
            choices = (NAMES, OPERATORS, OPERANDS, ["and", "or", ","], NAMES, OPERATORS, OPERANDS)
            pieces = [chance.choice(choice) for choice in choices][: chance.choice([3, 3, 6, 7, 7])]
        where = chance.choice(["", " ", " "]).join(pieces)
        if not is_filter(where):
            continue
        taken += 1
        some.rows("metrics.acc", where=where)
        some.count(where=where)
    assert taken > 50
    # SQLite has refused nothing
    assert some.notice == ""
