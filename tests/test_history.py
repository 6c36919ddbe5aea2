"""The index of the history: what it answers, what it survives, what check finds."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aml_jupyter import runs
from aml_jupyter.errors import UsageError
from aml_jupyter.runs import History, schema
from aml_jupyter.runs.rows import KEYS
from aml_jupyter.sealed import seal
from tests.made_runs import Project, change, end, finished, started, submit, supervised_by
from tests.requirements import need


@pytest.fixture
def history(home: str) -> Iterator[History]:
    with History(home) as opened:
        yield opened


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["run_id"] for row in rows]


def index(home: str) -> str:
    return home + "/index.sqlite"


# -- answers


def test_a_row_has_exactly_its_keys(home: str, history: History) -> None:
    directory = finished(
        home,
        target="local",
        script_name="train.py",
        arguments=("--lr", "0.1"),
        metrics={"acc": 0.9, "loss": [0.5, 0.25]},
        params={"lr": 0.1},
        phases={"run": 1.5},
        snapshot_id="ab" * 32,
    )
    runs.set_labels(directory, name="baseline", tags=("good", "kind=small"))
    row = history.rows()[0]
    assert tuple(row) == KEYS
    assert row["run_id"] == directory.run_id
    assert (row["name"], row["status"], row["target"]) == ("baseline", "Completed", "local")
    assert row["arguments"] == ["--lr", "0.1"]
    assert row["metrics"] == {"acc": 0.9, "loss": [0.5, 0.25]}
    assert row["tags"] == {"good": "", "kind": "small"}
    assert row["phases"] == {"run": 1.5}


def test_the_newest_run_comes_first(home: str, history: History) -> None:
    made = [finished(home).run_id for _ in range(5)]
    assert ids(history.rows()) == made[::-1]
    assert ids(history.rows(limit=2)) == made[:2:-1]
    assert ids(history.rows(order_by="created_utc")) == made
    assert history.rows(limit=0) == []
    assert len(history.rows(limit=None)) == 5


def test_runs_are_ordered_by_the_last_value_of_a_metric(home: str, history: History) -> None:
    low = finished(home, metrics={"acc": [0.9, 0.1]}).run_id
    without = finished(home).run_id
    high = finished(home, metrics={"acc": 0.8}).run_id
    text = finished(home, metrics={"acc": "good"}).run_id
    broken = finished(home, metrics={"acc": float("nan")}).run_id
    assert ids(history.rows(order_by="metrics.acc DESC")) == [high, low, broken, text, without]
    assert ids(history.rows(order_by="metrics.acc")) == [low, high, broken, text, without]
    assert ids(history.rows(order_by="metrics.acc DESC", limit=1)) == [high]


def test_a_metric_of_any_name_and_size_can_order(home: str, history: History) -> None:
    name = "val acc'; DROP TABLE runs; --"
    small = finished(home, metrics={name: 1}).run_id
    large = finished(home, metrics={name: 10**400, "n": 1}).run_id
    infinite = finished(home, metrics={name: float("inf")}).run_id
    assert ids(history.rows(order_by=f"metrics.{name} DESC")) == [infinite, small, large]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("params.lr", ["9e-3", "0.1", "10", "fast", None]),
        ("params.lr DESC", ["fast", "10", "0.1", "9e-3", None]),
        ("duration", ["9e-3", "0.1", "10", "fast", None]),
        ("duration desc", ["fast", "10", "0.1", "9e-3", None]),
    ],
)
def test_numbers_come_before_text_and_nothing_last(
    home: str, history: History, order: str, expected: list[str | None]
) -> None:
    for duration, rate in ((3.0, "10"), (1.0, "9e-3"), (None, None), (4.0, "fast"), (2.0, "0.1")):
        directory = submit(home, params={"lr": rate} if rate else {})
        end(directory, duration=duration)
    assert [row["params"].get("lr") for row in history.rows(order_by=order)] == expected


@pytest.mark.parametrize(
    "order", ["colour", "metrics", "status.x", "created_utc; DROP TABLE runs", "row", ""]
)
def test_an_order_that_cannot_be_is_a_mistake_of_the_asker(home: str, history: History, order: str) -> None:
    finished(home)
    if order in ("", "metrics"):
        assert len(history.rows(order_by=order)) == 1
        return
    with pytest.raises(UsageError):
        history.rows(order_by=order)


def test_columns_choose_and_look_inside(home: str, history: History) -> None:
    finished(home, metrics={"acc": 0.5})
    row = history.rows(columns=["status", "metrics.acc", "metrics.none", "params"])[0]
    assert row == {"status": "Completed", "metrics.acc": 0.5, "metrics.none": None, "params": {}}
    with pytest.raises(UsageError):
        history.rows(columns=["colour"])


def test_projects_hidden_runs_and_states_are_told_apart(home: str, history: History) -> None:
    ours = finished(home, Project("ours"), metrics={"acc": 1})
    theirs = finished(home, Project("theirs"), metrics={"acc": 2})
    failed = submit(home, Project("ours"))
    end(failed, "Failed")
    runs.hide(theirs)
    assert ids(history.rows()) == [failed.run_id, ours.run_id]
    assert ids(history.rows(hidden=True)) == [failed.run_id, theirs.run_id, ours.run_id]
    assert ids(history.rows(project="local/default/ours", status="Failed")) == [failed.run_id]
    assert ids(history.rows("metrics.acc DESC", hidden=True, status=["Completed"]))[0] == theirs.run_id
    assert ids(history.rows("metrics.acc DESC", project="local/default/ours")) == [ours.run_id, failed.run_id]
    assert history.rows(project="local/default/none") == []


def test_a_large_project_gives_the_same_order_as_a_small_one(
    home: str, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        finished(home, Project("ab"[number % 2]), metrics={"acc": number * 7 % 30})
    ask = {"order_by": "metrics.acc DESC", "project": "local/default/a", "limit": 5}
    small = history.rows(**ask)  # type: ignore[arg-type]
    monkeypatch.setattr("aml_jupyter.runs.searching.SMALL_PROJECT", 3)
    assert history.rows(**ask) == small  # type: ignore[arg-type]


def test_what_the_caller_does_with_a_row_changes_no_other_answer(home: str, history: History) -> None:
    finished(home, metrics={"acc": [1, 2]}, params={"lr": 1}, arguments=("a",))
    first = history.rows()[0]
    first["metrics"]["acc"].append(3)
    first["params"]["lr"] = 2
    first["arguments"].append("b")
    again = history.rows()[0]
    assert (again["metrics"], again["params"], again["arguments"]) == ({"acc": [1, 2]}, {"lr": 1}, ["a"])


def test_a_name_that_is_not_utf8_is_listed(home: str, history: History) -> None:
    name = os.fsdecode(b"\xff.py")
    finished(home, script_name=name, params={name: name})
    row = history.rows(order_by="script_name")[0]
    assert row["script_name"] == name
    assert row["params"] == {name: name}


def test_rows_name_the_artifacts_of_ended_runs(home: str, history: History) -> None:
    directory = submit(home)
    files = [{"path": f"outputs/{n:03}.txt", "state": "stored"} for n in range(150)]
    files.append({"path": "outputs/link", "state": "rejected"})
    with open(directory.artifacts_json, "wb") as file:
        file.write(seal({"format": 1, "files": files}))
    end(directory)
    names = history.rows()[0]["artifacts"]
    assert len(names) == 100
    assert names[0] == "outputs/000.txt"


def test_rows_become_a_frame_with_columns_as_mlflow_has_them(home: str, history: History) -> None:
    pytest.importorskip("pandas")
    directory = finished(home, metrics={"acc": [0.1, 0.5]}, params={"lr": 0.1})
    runs.add_tag(directory, "kind", "small")
    frame = runs.runs_frame(history.rows())
    assert frame.loc[0, "metrics.acc"] == 0.5
    assert frame.loc[0, "params.lr"] == 0.1
    assert frame.loc[0, "tags.kind"] == "small"
    assert "metrics" not in frame
    assert str(frame["created_utc"].dt.tz) == "UTC"
    assert next(iter(runs.runs_frame([]).columns)) == "run_id"


# -- taking in


def test_every_change_is_in_the_next_answer(home: str, history: History) -> None:
    directory = submit(home)
    assert history.rows()[0]["status"] == "NotStarted"
    end(directory, metrics={"acc": 1.0})
    assert history.rows()[0]["metrics"] == {"acc": 1.0}
    runs.set_labels(directory, name="x")
    assert history.rows()[0]["name"] == "x"
    runs.remove(directory)
    assert history.rows() == []
    assert os.listdir(home + "/dirty") == []


def test_a_live_run_shows_its_state_of_this_moment(home: str, history: History) -> None:
    from aml_jupyter import processes

    directory = submit(home)
    me = processes.identity(os.getpid())
    supervised_by(directory, me)
    runs.append_status(directory, "Preparing")
    assert history.rows()[0]["status"] == "Preparing"
    started(directory, me)
    runs.append_status(directory, "Running")
    assert history.rows()[0]["status"] == "Running"
    supervised_by(directory, {**me, "start_time": "0"})
    assert (history.rows()[0]["status"], history.rows()[0]["reason"]) == ("NotResponding", "supervisor.gone")
    assert history.rows(status="Running") == []


def test_a_run_that_is_being_made_keeps_its_mark(home: str, history: History) -> None:
    finished(home)
    directory = runs.create(home, Project())
    runs.mark_changed(directory)
    assert history.count() == 1
    assert os.listdir(home + "/dirty") == [directory.run_id]
    runs.discard(directory)
    runs.mark_changed(directory)
    assert history.count() == 1
    assert os.listdir(home + "/dirty") == []


def test_a_mark_that_a_killed_reader_put_aside_is_taken_in(home: str, history: History) -> None:
    directory = finished(home)
    history.rows()
    change(directory, metrics={"acc": 1})
    os.rename(directory.mark, f"{home}/dirty/.{directory.run_id}")
    assert history.rows()[0]["metrics"] == {"acc": 1}
    assert os.listdir(home + "/dirty") == []


def test_two_readers_and_a_writer_lose_nothing(home: str, history: History) -> None:
    directory = submit(home)
    with History(home) as other:
        for number in range(50):
            runs.set_labels(directory, note=str(number), tags={"n": str(number)})
            assert history.rows()[0]["tags"] == {"n": str(number)}
            assert other.rows()[0]["tags"] == {"n": str(number)}


def test_after_a_start_of_the_machine_lost_marks_do_not_matter(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, changed, gone = finished(home), finished(home), finished(home)
    with History(home) as history:
        history.rows()
    change(changed, metrics={"acc": 1})
    new = finished(home)
    runs.remove(gone)
    for name in os.listdir(home + "/dirty"):
        os.unlink(f"{home}/dirty/{name}")
    monkeypatch.setattr(schema, "this_boot", lambda: "the next one")
    with History(home) as history:
        assert ids(history.rows()) == [new.run_id, changed.run_id, kept.run_id]
        assert history.rows()[1]["metrics"] == {"acc": 1}


def test_a_history_of_nothing_is_empty_and_makes_no_folder(home: str, history: History) -> None:
    assert history.rows() == []
    assert not os.path.exists(home)
    finished(home)
    assert len(history.rows()) == 1


# -- damage


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "header zeroed": lambda data: bytes(100) + data[100:],
    "page zeroed": lambda data: data[:4096] + bytes(4096) + data[8192:],
    "truncated": lambda data: data[: len(data) // 2 + 7],
    "text": lambda _: b"this is no database\n" * 300,
    "empty": lambda _: b"",
    "another database": lambda _: other_database(),
}


def other_database() -> bytes:
    """A whole SQLite file that is not ours."""
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE runs (id)")
    return db.serialize()


@pytest.mark.parametrize("kind", DAMAGE)
def test_H5_a_damaged_index_is_set_aside_and_made_anew(home: str, kind: str) -> None:
    made = [finished(home, metrics={f"m{n}": n for n in range(20)}).run_id for _ in range(40)]
    with History(home) as history:
        assert history.count() == 40
    with open(index(home), "rb") as file:
        data = DAMAGE[kind](file.read())
    with open(index(home), "wb") as file:
        file.write(data)
    with History(home) as history:
        assert sorted(ids(history.rows("metrics.m3", limit=None))) == sorted(made)
        assert ids(history.rows(limit=None)) == made[::-1]
        assert "set aside" in history.notice
        aside = index(home) + ".damaged-1"
        with open(aside, "rb") as file:
            assert file.read()[:100] == data[:100]
        assert [finding.code for finding in history.check()] == ["index.corrupt"]
    with History(home) as history:
        assert history.check() == []


@pytest.mark.slow
def test_H5_N17_no_flipped_bit_gives_a_wrong_row_and_check_finds_every_one(home: str) -> None:
    for number in range(30):
        # long enough that the pages of every table are full
        params = {f"param {at} {'x' * 40}": number for at in range(16)}
        finished(home, metrics={"acc": number / 7, "n": number}, params={"lr": number, **params})
    with History(home) as history:
        right = history.rows(limit=None)
    with open(index(home), "rb") as file:
        data = file.read()
    chance = random.Random(17)
    silent = 0
    for _ in range(100):
        position, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        with open(index(home), "wb") as file:
            file.write(data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :])
        with History(home) as history:
            found = history.check()
        with History(home) as history:
            if found:
                history.rebuild()
            else:
                silent += 1
            # what check does not name has changed nothing
            assert history.rows(limit=None) == right, (position, bit)
            assert [row["run_id"] for row in history.rows("metrics.n", limit=None)] == ids(right)[::-1]
            assert ids(history.rows(where="params.lr != '-1'", limit=None)) == ids(right)
        for name in os.listdir(home):
            if ".damaged-" in name:
                os.unlink(f"{home}/{name}")
    assert silent < 60  # free space of pages


def test_H6_check_finds_rows_that_were_changed(home: str, history: History) -> None:
    directories = [finished(home, metrics={"acc": n}) for n in range(5)]
    history.rows()
    db = sqlite3.connect(index(home))
    a, b, c, d, _ = (one.run_id for one in directories)
    db.execute("UPDATE runs SET status = 'Failed' WHERE run_id = ?", [a])
    db.execute("UPDATE metrics SET value = 9 WHERE run = (SELECT id FROM runs WHERE run_id = ?)", [b])
    db.execute("DELETE FROM runs WHERE run_id = ?", [c])
    db.execute("UPDATE runs SET run_id = 'ghost_1' WHERE run_id = ?", [d])
    db.commit()
    db.close()
    found = history.check()
    assert {finding.run_id for finding in found} == {a, b, c, d, "ghost_1"}
    assert {finding.code for finding in found} == {"index.differs"}
    assert all("--rebuild" in finding.hint for finding in found)
    assert history.rebuild() == 5
    assert history.check() == []


def test_H5_a_row_that_was_changed_is_not_shown(home: str, history: History) -> None:
    finished(home, metrics={"acc": 0.5})
    history.rows()
    db = sqlite3.connect(index(home))
    db.execute("UPDATE runs SET row = replace(row, '0.5', '0.9')")
    db.commit()
    db.close()
    assert history.rows()[0]["metrics"] == {"acc": 0.5}
    assert "checksum" in history.notice


def test_H8_an_index_of_an_older_format_is_made_anew_and_kept(home: str) -> None:
    finished(home)
    db = sqlite3.connect(index(home))
    db.execute("CREATE TABLE old (x)")
    db.execute("PRAGMA user_version = 0")
    db.close()
    with History(home) as history:
        assert history.count() == 1
    assert os.path.exists(index(home) + ".damaged-1")


def test_H8_an_index_of_a_newer_format_is_left_as_it_is(home: str) -> None:
    finished(home)
    with History(home) as history:
        history.rows()
    db = sqlite3.connect(index(home))
    db.execute("PRAGMA user_version = 99")
    db.close()
    finished(home)
    with open(index(home), "rb") as file:
        before = file.read()
    with History(home) as history:
        assert history.count() == 2
        assert "newer" in history.notice
        finished(home)
        assert history.count() == 3
    with open(index(home), "rb") as file:
        assert file.read() == before


def test_H9_the_write_ahead_log_is_never_chosen(home: str, history: History) -> None:
    finished(home)
    history.rows()
    db = sqlite3.connect(index(home))
    assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    db.close()


def test_the_tables_are_strict_where_sqlite_can_be(home: str, history: History) -> None:
    finished(home)
    history.rows()
    db = sqlite3.connect(index(home))
    strict = {row[1]: row[5] for row in db.execute("PRAGMA table_list")}
    db.close()
    assert strict["runs"] == strict["metrics"] == int(sqlite3.sqlite_version_info >= (3, 37))


def test_an_index_that_another_process_made_anew_is_taken_up(home: str, history: History) -> None:
    finished(home)
    history.rows()
    with History(home) as other:
        other.rebuild()
    new = finished(home)
    assert ids(history.rows())[0] == new.run_id
    os.unlink(index(home))
    assert len(history.rows()) == 2


def test_a_journal_of_a_lost_index_is_not_played_into_the_new_one(home: str) -> None:
    finished(home)
    with History(home) as history:
        history.rows()
    os.unlink(index(home))
    with open(index(home) + "-journal", "wb") as file:
        file.write(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(4000))
    with History(home) as history:
        assert history.count() == 1
        assert history.notice == ""
    assert not os.path.exists(index(home) + "-journal")


@pytest.mark.root
def test_H10_a_home_that_may_not_be_written_to_can_be_read(home: str) -> None:
    need("root")
    need("setpriv")
    finished(home, metrics={"acc": 1})
    with History(home) as history:
        history.rows()
    unindexed = finished(home, metrics={"acc": 2})
    for folder in (home, *(os.path.join(at, name) for at, names, _ in os.walk(home) for name in names)):
        os.chmod(folder, 0o755)
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            if stat.S_ISREG(os.lstat(path).st_mode):
                os.chmod(path, 0o644)
    top = home
    while top != "/":
        os.chmod(top, os.stat(top).st_mode | 0o055)
        top = os.path.dirname(top)
    program = (
        "import sys, json; sys.path.insert(0, sys.argv[2]); from aml_jupyter.runs import History;"
        "h = History(sys.argv[1]); found = [r['run_id'] for r in h.rows('metrics.acc DESC')];"
        "print(json.dumps([found, h.notice]))"
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-B", "-c", program, home, root],
        capture_output=True,
        text=True,
    )
    if "Permission denied" in done.stderr and "aml_jupyter" not in done.stderr:
        pytest.skip("another user may not run this interpreter")
    assert done.returncode == 0, done.stderr
    import json

    found, notice = json.loads(done.stdout)
    assert found[0] == unindexed.run_id
    assert len(found) == 2
    assert "may not be written" in notice


# -- check


def codes(home: str) -> dict[str, str]:
    with History(home) as history:
        return {finding.code: finding.path for finding in history.check()}


def test_G11_check_says_nothing_about_whole_runs(home: str) -> None:
    finished(home)
    submit(home)
    assert codes(home) == {}


def test_G11_check_finds_damage_of_every_kind(home: str) -> None:
    directories = [finished(home) for _ in range(9)]
    with History(home) as history:
        history.rows()
    record, labels, manifest, ending, misplaced, no_id, bad_id, events, half = directories
    with open(record.run_json, "r+b") as file:
        file.write(b"[")
    runs.set_labels(labels, name="x")
    with open(labels.labels_json, "ab") as file:
        file.write(b"x")
    with open(manifest.artifacts_json, "wb") as file:
        file.write(b"{}")
    with open(ending.exit_json, "wb") as file:
        file.write(b'{"format": 1')
    with open(misplaced.run_json, "wb") as file:
        file.write(seal(runs.load_record(ending).to_json()))
    os.unlink(f"{home}/ids/{no_id.run_id}")
    with open(f"{home}/ids/{bad_id.run_id}", "wb") as file:
        file.write(b"runs/elsewhere")
    with open(events.events_jsonl, "wb") as file:
        file.write(b'{"format":1}\n{"seq":\n')
    os.unlink(half.run_json)
    os.utime(half.path, (0, 0))
    with open(home + "/ids/gone_1", "wb"):
        os.utime(home + "/ids/gone_1", (0, 0))
    os.makedirs(home + "/artifacts/ExperimentRun/gone_2")
    os.makedirs(os.path.dirname(half.path) + "/.removing-x")
    found = codes(home)
    assert found.keys() >= {
        "record.corrupt",
        "labels.corrupt",
        "artifacts.corrupt",
        "job.corrupt",
        "record.misplaced",
        "id.missing",
        "id.damaged",
        "id.orphan",
        "events.corrupt",
        "run.half_made",
        "run.half_removed",
        "artifact.orphan",
    }
    assert found["record.corrupt"] == record.run_json
    assert found["run.half_made"] == half.path


@pytest.mark.parametrize("what", ["fifo", "folder", "link", "deep"])
def test_H6_check_ends_whatever_a_script_put_among_the_files_of_its_run(home: str, what: str) -> None:
    directory = finished(home, cell_sha256="ab" * 32)
    names = ("events.jsonl", "exit.json", "started.json", "request.json", "cell.json", "cell.py", "log")
    for path in (*(f"{directory.job}/{name}" for name in names), directory.labels_json, directory.cancel):
        if what == "fifo":
            os.mkfifo(path)
        elif what == "folder":
            os.mkdir(path)
        elif what == "link":
            os.symlink("/dev/tty", path)
        else:
            with open(path, "wb") as file:
                file.write(b"[" * 100_000 + b"\n")
    # in a process of its own, which can be ended
    program = (
        "import sys; from aml_jupyter import retention\n"
        "for one in retention.check(sys.argv[1]): print(one.code, one.path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, home], capture_output=True, text=True, timeout=120, check=True
    )
    assert f"events.corrupt {directory.events_jsonl}" in done.stdout
    assert f"job.corrupt {directory.exit_json}" in done.stdout
    assert f"cell.changed {directory.job}/cell.py" in done.stdout


def test_a_run_whose_record_is_damaged_is_still_listed(home: str, history: History) -> None:
    directory = finished(home)
    with open(directory.run_json, "wb") as file:
        file.write(b"\0" * 100)
    runs.mark_changed(directory)
    row = history.rows()[0]
    assert (row["run_id"], row["status"], row["reason"]) == (
        directory.run_id,
        "NotResponding",
        "record.corrupt",
    )
    assert history.rebuild() == 1


def test_rebuilding_puts_lost_ids_back(home: str, history: History) -> None:
    lost, damaged = finished(home), finished(home)
    os.unlink(f"{home}/ids/{lost.run_id}")
    with open(f"{home}/ids/{damaged.run_id}", "w") as file:
        file.write("x")
    assert history.rebuild() == 2
    assert runs.at(home, lost.run_id) == lost
    assert runs.at(home, damaged.run_id) == damaged
    assert history.check() == []
