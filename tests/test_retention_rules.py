"""`aml gc` by rules: what goes, what stays, and why."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import retention, runs
from aml_jupyter.config import settings
from aml_jupyter.errors import ConfigError, UsageError
from aml_jupyter.retention.rules import Rules, carry_out, choose
from aml_jupyter.runs import RunDirectory, trash
from tests.made_runs import PROJECT, Project, end, finished, submit
from tests.test_trash import aml, listed

DAY = 86400


@pytest.fixture
def project(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the project whose runs are made."""
    folder = tmp_path / "iris"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def made(
    home: str, days: float = 0, size: int = 0, project: Project = PROJECT, **fields: Any
) -> RunDirectory:
    """A run that ended some days ago, with a file of some bytes."""
    directory = submit(home, project)
    then = int((time.time() - days * DAY) * 1e9)
    end(directory, **fields)
    record = runs.load_record(directory)
    runs.write_record(directory, record.replace(created_utc=runs.utc(then)), sync=False)
    set_end(directory, runs.utc(then))
    if size:
        (Path(directory.job) / "log").write_bytes(bytes(size))
    return directory


def set_end(directory: RunDirectory, moment: str) -> None:
    """Have a run ended at a moment."""
    from aml_jupyter.confined import write_atomic
    from aml_jupyter.sealed import seal

    record = runs.load_record(directory).replace(end_time_utc=moment, created_utc=moment)
    write_atomic(directory.run_json, seal(record.to_json()))
    runs.mark_changed(directory)


def going(home: str, rules: Rules, **options: Any) -> list[str]:
    choice = choose(home, lambda *_: rules, **options)
    return [one.run_id for one in choice.going]


def test_without_a_rule_no_run_goes(home: str, project: Path) -> None:
    directory = made(home, days=1000)
    status, out, _ = aml("gc")
    assert status == 0
    assert out.startswith("freed ")
    assert listed(home) == [directory.run_id]


def test_a_run_goes_only_if_every_rule_lets_it_go(home: str) -> None:
    old_best = made(home, days=100, metrics={"acc": 0.9})
    old_worse = made(home, days=99, metrics={"acc": [0.9, 0.1]})
    old_bare = made(home, days=98)
    young = made(home, days=2, metrics={"acc": 0.2})
    newest = made(home, days=1)
    ids = {name: one.run_id for name, one in locals().items() if isinstance(one, RunDirectory)}

    def names(**rules: Any) -> set[str]:
        found = going(home, Rules(**rules))
        return {name for name, run_id in ids.items() if run_id in found}

    assert names() == set()
    assert names(keep_last=2) == {"old_best", "old_worse", "old_bare"}
    assert names(keep_last=0) == set(ids)
    assert names(older_than=90.0 * DAY) == {"old_best", "old_worse", "old_bare"}
    assert names(keep_best=1, metric="acc") == set(ids) - {"old_best"}
    assert names(keep_best=1, metric="acc", largest=False) == set(ids) - {"old_worse"}
    assert names(keep_best=1, metric="acc", older_than=90.0 * DAY) == {"old_worse", "old_bare"}
    assert names(keep_best=1, metric="acc", keep_last=3) == {"old_worse"}
    assert young.run_id
    assert newest.run_id


def test_runs_that_were_brought_never_push_out_those_that_were_made_here(home: str) -> None:
    mine = [made(home, days=30 - n, size=1 << 20, metrics={"acc": 0.1 * n}).run_id for n in range(3)]
    store: dict[str, Any] = {"properties": {"origin": "folder:///x"}, "metrics": {"acc": 1e300}}
    others = [made(home, days=2 - n, size=1 << 20, **store).run_id for n in range(3)]
    assert going(home, Rules(keep_last=2)) == [mine[0], others[0]]
    assert going(home, Rules(keep_best=1, metric="acc")) == [*mine[:2], *others[:2]]
    assert going(home, Rules(keep_last=3)) == []
    assert going(home, Rules(max_bytes=7 << 19)) == others
    assert going(home, Rules(max_bytes=5 << 19)) == [mine[0], *others]
    (own, brought) = choose(home, lambda *_: Rules(keep_last=2)).going
    assert own.rule == "not among the last 2"
    assert brought.rule == "not among the last 2 that were brought"


def test_the_rules_of_a_project_are_not_looked_for_where_a_store_says(home: str) -> None:
    made(home, days=2)
    made(home, days=1, project_root="/of/a/stranger", properties={"origin": "folder:///x"})
    asked = []

    def rules_of(key: str, root: str) -> Rules:
        asked.append((key, root))
        return Rules()

    choose(home, rules_of)
    assert asked == [("local/default/iris", PROJECT.root)]


@pytest.mark.parametrize(
    "request_json", ["[1, 2]", "[" * 100_000, "3", "null", '{"snapshot_id": [1]}', "\xff"]
)
def test_a_run_in_the_trash_that_was_asked_for_nonsense_holds_nothing_up(
    home: str, project: Path, request_json: str
) -> None:
    directory = made(home, days=1)
    (Path(directory.job) / "request.json").write_text(request_json)
    assert aml("rm", directory.run_id)[0] == 0
    assert aml("gc")[0] == 0
    assert listed(home) == []


def test_bytes_take_the_oldest_that_the_other_rules_let_go(home: str) -> None:
    first, second, third = (made(home, days=30 - n, size=1 << 20) for n in range(3))
    assert going(home, Rules(max_bytes=10 << 20)) == []
    assert going(home, Rules(max_bytes=5 << 19)) == [first.run_id]
    assert going(home, Rules(max_bytes=3 << 19)) == [first.run_id, second.run_id]
    assert going(home, Rules(max_bytes=0, keep_last=1)) == [first.run_id, second.run_id]
    runs.pin(first)
    assert going(home, Rules(max_bytes=3 << 19)) == [second.run_id, third.run_id]
    (found,) = choose(home, lambda *_: Rules(max_bytes=5 << 19)).going
    assert found.rule == "over 2.5 MB, oldest first"
    assert 1 << 20 <= found.bytes < (1 << 20) + 10_000


def test_what_is_pinned_alive_damaged_or_promoted_stays_whatever_the_rules_say(home: str) -> None:
    pinned, alive, damaged, promoted, plain = made(home), submit(home), made(home), made(home), made(home)
    runs.pin(pinned)
    Path(damaged.run_json).write_text("{}")
    choice = choose(home, lambda *_: Rules(keep_last=0), promoted={promoted.run_id})
    assert [one.run_id for one in choice.going] == [plain.run_id]
    assert choice.kept == {
        "pinned": 1,
        "not ended": 1,
        "damaged: aml check tells": 1,
        "promoted to an asset": 1,
    }
    assert os.path.isdir(alive.path)


def test_what_gave_a_file_to_a_run_that_stays_stays_too_unless_told_otherwise(home: str) -> None:
    first = made(home, days=9)
    second = made(home, days=8, inputs=({"run_id": first.run_id, "uuid": uuid(first), "path": "outputs/a"},))
    last = made(home, days=7, inputs=({"run_id": second.run_id, "uuid": uuid(second), "path": "outputs/a"},))
    assert going(home, Rules(keep_last=1)) == []
    assert going(home, Rules(keep_last=1), keep_inputs=False) == [first.run_id, second.run_id]
    # who used it goes as well
    assert going(home, Rules(keep_last=0)) == [first.run_id, second.run_id, last.run_id]


def uuid(directory: RunDirectory) -> str:
    return runs.load_record(directory).uuid


def test_gc_moves_what_goes_to_the_trash_and_says_which_rule_took_it(home: str, project: Path) -> None:
    old, young = made(home, days=100, size=5000), made(home, days=1)
    other = made(home, days=100, project=Project("other"))
    before = runs.read_record(old)
    status, out, _ = aml("gc", "--older-than", "90d", "--dry-run")
    assert status == 0
    assert out.splitlines()[0].startswith(f"{old.run_id}  ")
    assert "older than 90 days" in out
    assert "1 run (" in out
    assert "would go to the trash; kept: 1 by rule" in out
    assert set(listed(home)) == {old.run_id, young.run_id, other.run_id}

    told = json.loads(aml("gc", "--older-than", "90d", "--json")[1])
    assert [(one["run_id"], one["rule"]) for one in told["by_rule"]] == [(old.run_id, "older than 90 days")]
    assert told["by_rule_bytes"] > 5000
    assert told["to_trash"] is True
    assert set(listed(home)) == {young.run_id, other.run_id}
    (there,) = trash.trashed(home)
    assert trash.moved(there).rule == "older than 90 days"
    aml("undelete", old.run_id)
    assert runs.read_record(old) == before

    aml("gc", "--older-than", "90d", "--now")
    assert trash.trashed(home) == []
    assert set(listed(home)) == {young.run_id, other.run_id}
    aml("gc", "--older-than", "90d", "--all-projects")
    assert listed(home) == [young.run_id]
    aml("gc", "--empty-trash")
    assert trash.trashed(home) == []


def test_rules_that_are_set_hold_for_gc_until_the_line_gives_others(home: str, project: Path) -> None:
    (project / "aml_config").mkdir()
    directories = [made(home, days=10 - n, metrics={"loss": n}) for n in range(4)]
    settings.put(None, "retention.keep_last", "3")
    settings.put(str(project), "retention.keep_best", "2")
    settings.put(str(project), "retention.metric", "loss:min")
    told = json.loads(aml("gc", "--json", "--dry-run")[1])
    assert told["by_rule"] == []
    settings.put(str(project), "retention.keep_last", "1")
    told = json.loads(aml("gc", "--json", "--dry-run")[1])
    assert [one["run_id"] for one in told["by_rule"]] == [directories[2].run_id]
    assert json.loads(aml("gc", "--json", "--dry-run", "--no-rules")[1])["by_rule"] == []
    told = json.loads(aml("gc", "--json", "--dry-run", "--keep-last", "3")[1])
    assert [one["run_id"] for one in told["by_rule"]] == [directories[0].run_id]
    settings.put(None, "retention.trash_days", "0")
    aml("gc")
    assert trash.trashed(home) == []
    assert len(listed(home)) == 3


def test_a_rule_that_cannot_be_read_is_refused_with_an_example(home: str, project: Path) -> None:
    for words in (
        ("--older-than", "90"),
        ("--max-bytes", "much"),
        ("--keep-last", "-1"),
        ("--keep-best", "2"),
    ):
        with pytest.raises(UsageError):
            aml("gc", *words)
    with pytest.raises(ConfigError, match="90d"):
        settings.put(None, "retention.older_than", "soon")
    with pytest.raises(UsageError):
        aml("gc", "--keep-best", "1", "--metric", ":max")


def test_a_run_that_was_pinned_after_the_choice_stays(home: str) -> None:
    first, second = made(home, days=2), made(home, days=1)
    choice = choose(home, lambda *_: Rules(keep_last=0))
    runs.pin(first)
    swept = carry_out(choice, lambda one, rule: trash.throw_away(one, rule=rule))
    assert [one.run_id for one in swept.gone] == [second.run_id]
    assert swept.stayed == {first.run_id: "it was pinned meanwhile"}
    retention.collect_garbage(home)
    assert listed(home) == [first.run_id]
    assert finished(home).run_id


def test_a_run_that_an_asset_names_stays_in_any_version_until_the_link_file_is_gone(
    home: str, project: Path
) -> None:
    from tests.test_trash import with_artifacts

    first, second, plain = (with_artifacts(home, project_root=str(project)) for _ in range(3))
    for one in (first, second):
        aml("promote", one.run_id, "outputs/model.pkl", "model")
    aml("gc", "--keep-last", "0")
    assert set(listed(home)) == {first.run_id, second.run_id}
    assert trash.is_trashed(home, plain.run_id)
    link = project / "assets/model.link"
    text = link.read_text()
    link.write_text(text[: len(text) // 2])
    with pytest.raises(ConfigError) as caught:
        aml("gc", "--keep-last", "0")
    assert caught.value.code == "asset.invalid"
    link.unlink()
    aml("gc", "--keep-last", "0")
    assert listed(home) == []


def test_gc_without_a_project_still_collects_what_no_run_needs(
    home: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = made(home, days=100)
    settings.put(None, "retention.keep_last", "0")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert aml("gc")[0] == 0
    assert listed(home) == [directory.run_id]
    with pytest.raises(UsageError, match="working folder is gone"):
        aml("gc", "--keep-last", "1")
    assert aml("gc", "--all-projects", "--keep-last", "1")[0] == 0
