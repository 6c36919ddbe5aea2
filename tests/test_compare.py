"""Runs beside each other: what is the same, what differs, and that nothing in them can do harm."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import artifacts, cli, runs
from aml_jupyter.compare import PARTS, compare
from aml_jupyter.compare.contents import cells_of, diff_of, image_of
from aml_jupyter.compare.findings import Comparison, Packages
from aml_jupyter.compare.page import html
from aml_jupyter.compare.plain import text
from aml_jupyter.environment.keeping import keep
from aml_jupyter.environment.lock import Lock, Package
from aml_jupyter.errors import UsageError
from aml_jupyter.runs import RunDirectory
from aml_jupyter.snapshot import Store
from tests.made_runs import Project, end, submit
from tests.notebooks import Notebook
from tests.test_card import HOSTILE, Elements


class Made:
    """Runs with code, outputs and a log, in one home."""

    def __init__(self, home: str, tmp_path: Path) -> None:
        self.home = home
        self.tmp_path = tmp_path

    def run(
        self,
        code: dict[str, str] | None = None,
        outputs: dict[str, str | bytes] | None = None,
        log: str | bytes = "",
        packages: dict[str, str] | None = None,
        cell: str | None = None,
        status: str = "Completed",
        **fields: Any,
    ) -> RunDirectory:
        snapshot_id = self._snapshot(code) if code is not None else ""
        environment = self._environment(packages) if packages is not None else {}
        if cell is not None:
            fields["cell_sha256"] = base64.b16encode(cell.encode()).decode().lower()[:64]
        directory = submit(self.home, snapshot_id=snapshot_id, environment=environment, **fields)
        for name, data in (outputs or {}).items():
            path = Path(directory.work) / "outputs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        Path(directory.log).write_bytes(log if isinstance(log, bytes) else log.encode())
        if cell is not None:
            Path(directory.job, "cell.py").write_text(cell)
        kept = artifacts.collect(directory)
        end(directory, status, artifacts=kept.count, artifacts_state=kept.state)
        return directory

    def _snapshot(self, code: dict[str, str]) -> str:
        folder = self.tmp_path / "project"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in code.items():
            (folder / name).write_text(content)
        return Store(self.home + "/snapshots").take(str(folder)).id

    def _environment(self, packages: dict[str, str]) -> dict[str, Any]:
        document = json.dumps({"packages": packages})
        digest = f"{zlib.crc32(document.encode()):064x}"
        os.makedirs(self.home + "/environments", exist_ok=True)
        Path(self.home, "environments", f"{digest}.json").write_text(document)
        return {"digest": digest, "packages": len(packages)}


@pytest.fixture
def made(home: str, tmp_path: Path) -> Made:
    return Made(home, tmp_path)


def of(*directories: RunDirectory, **options: Any) -> Comparison:
    return compare(directories, **options)


def png(shade: int, width: int = 4) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, 4, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes([0, *[shade] * width]) * 4)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


ONE: dict[str, Any] = {
    "code": {"train.py": "a = 1\nb = 2\n", "gone.py": "x\n", "same.py": "s\n"},
    "outputs": {
        "model.bin": b"\0\1\2",
        "scores.csv": "id,score\n1,0.5\n2,0.6\n",
        "report.txt": "fine\nlr 0.1\n",
        "curve.png": png(10),
        "same.txt": "same",
    },
    "log": "start\nloss 0.5\nend\n",
    "packages": {"numpy": "1.26", "six": "1.16", "old": "1"},
    "params": {"lr": 0.1, "depth": 3},
    "metrics": {"acc": 0.9, "loss": [3.0, 2.0, 1.0], "note": "a"},
    "script_name": "train.py",
    "arguments": ("--lr", "0.1"),
    "target": "local",
}
OTHER: dict[str, Any] = {
    **ONE,
    "code": {"train.py": "a = 1\nb = 3\n", "new.py": "n\n", "same.py": "s\n"},
    "outputs": {
        "model.bin": b"\0\1\3",
        "scores.csv": "id,score\n1,0.5\n2,0.7\n3,0.8\n",
        "report.txt": "fine\nlr 0.2\n",
        "curve.png": png(200),
        "same.txt": "same",
        "more.txt": "new",
    },
    "log": "start\nloss 0.4\nend\n",
    "packages": {"numpy": "2.0", "six": "1.16", "new": "2"},
    "params": {"lr": 0.2, "depth": 3, "extra": None},
    "metrics": {"acc": 0.8, "loss": [3.0, 2.5, 1.0], "note": "a"},
    "arguments": ("--lr", "0.2"),
}


def test_runs_that_did_the_same_show_no_difference(made: Made) -> None:
    found = of(made.run(**ONE), made.run(**ONE))
    assert found.same
    assert str(found).startswith("= no difference")
    assert "no difference" in html(found)
    assert repr(found) == "<Comparison of 2 runs: = no difference>"
    assert found.as_json()["same"] is True


def test_everything_that_differs_is_told(made: Made) -> None:
    first, second = made.run(**ONE), made.run(**OTHER)
    found = of(first, second)
    assert not found.same
    rows = {row.name: row for table in found.tables.values() for row in table if not row.same}
    assert rows["lr"].values == (0.1, 0.2)
    assert rows["extra"].values == (None, None)
    assert rows["arguments"].values == (["--lr", "0.1"], ["--lr", "0.2"])
    assert rows["acc"].values == (0.9, 0.8)
    assert rows["loss"].values == (1.0, 1.0)
    assert rows["loss"].note == "3 values, different from value 2 on"
    assert not {"depth", "note", "script", "status"} & rows.keys()
    pair = found.pairs[0]
    assert pair.environment
    assert set(pair.environment.rows) == {("numpy", "1.26", "2.0"), ("old", "1", ""), ("new", "", "2")}
    assert pair.environment.same == 1
    assert pair.code
    code = {change.path: change for change in pair.code.changes}
    assert {path: change.kind for path, change in code.items()} == {
        "train.py": "changed",
        "gone.py": "removed",
        "new.py": "added",
    }
    assert code["train.py"].text
    assert code["train.py"].text.lines == ("@@ -1,2 +1,2 @@", " a = 1", "-b = 2", "+b = 3")
    assert pair.artifacts
    outputs = {change.path: change for change in pair.artifacts.changes}
    assert pair.artifacts.same == 1
    assert outputs["outputs/model.bin"].first
    assert outputs["outputs/model.bin"].first.sha256 != outputs["outputs/model.bin"].second.sha256  # type: ignore[union-attr]
    cells = outputs["outputs/scores.csv"].cells
    assert cells
    assert [(one.row, one.column, one.first, one.second) for one in cells.cells] == [
        (3, "score", "0.6", "0.7")
    ]
    assert cells.rows_added == (4,)
    assert outputs["outputs/report.txt"].text
    assert all(outputs["outputs/curve.png"].images or ())
    assert outputs["outputs/more.txt"].kind == "added"
    assert pair.log
    assert (pair.log.what, pair.log.first, pair.log.second) == ("line 2", "loss 0.5", "loss 0.4")


def test_what_was_found_is_json_in_the_terminal_and_on_the_page(made: Made) -> None:
    found = of(made.run(**ONE), made.run(**OTHER))
    document = json.dumps(found.as_json(), allow_nan=False)
    for shown in (str(found), html(found)):
        for word in ("lr", "0.2", "numpy", "1.26", "+b = 3", "score", "0.7", "gone.py", "loss 0.4", "-0.1"):
            assert word in shown
    assert "data" not in json.loads(document)["pairs"][0]["artifacts"]["changes"][0]
    assert base64.b64encode(png(200)).decode() not in document
    assert html(found).count("<img ") == 2
    assert html(found).count("<polyline ") == 2
    assert "\x1b" not in str(found)
    coloured = text(found, colour=True)
    assert "\x1b[32m" in coloured
    assert re.sub(r"\x1b\[\d*m", "", coloured) == str(found)


def test_many_runs_stand_beside_each_other(made: Made) -> None:
    some = [made.run(**{**ONE, "params": {"lr": n}, "metrics": {"acc": n / 10}}) for n in range(5)]
    found = of(*some, parts=["params", "metrics", "log"])
    assert [row.values for row in found.tables["params"]] == [(0, 1, 2, 3, 4)]
    assert len(found.pairs) == 4
    assert all(pair.code is None and pair.log and pair.log.same for pair in found.pairs)
    shown = str(found)
    assert re.search(r"acc +0 +0\.1 +0\.2 +0\.3 +0\.4", shown)
    assert "settings" not in shown
    for wrong in (some[:1], some * 5):
        with pytest.raises(UsageError):
            of(*wrong)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (float("nan"), float("nan"), True),
        (1, 1.0, True),
        (1, True, False),
        ([1, 2], [1, 2], True),
        ([1, 2], [1, 2, 2], False),
        ("a", "b", False),
        (0, float("inf"), False),
        (10**400, 1, False),
        ([1e308, -1e308], [0, 10**400], False),
        ([1.0, float("nan")], [2, 2], False),
        ([1, "a", None, True], [1, "b"], False),
        ({"a": [1]}, {"a": [1]}, True),
    ],
    ids=lambda one: repr(one)[:12],
)
def test_metrics_of_every_kind_are_compared(made: Made, one: Any, other: Any, same: bool) -> None:
    found = of(made.run(metrics={"m": one}), made.run(metrics={"m": other}), parts=["metrics"])
    assert found.same is same
    json.dumps(found.as_json(), allow_nan=False)
    assert "m" in text(found, every=True)
    assert html(found, every=True)


def test_a_run_without_anything_can_be_compared(made: Made) -> None:
    empty = submit(made.home)
    found = of(empty, made.run(**ONE))
    assert not found.same
    assert "not known" in str(found)
    assert of(empty, empty).same
    for every in (False, True):
        assert html(found, every=every)
        assert text(found, every=every)


def test_runs_that_go_on_are_compared_as_far_as_they_are(made: Made) -> None:
    running = submit(made.home, params={"lr": 1})
    with open(running.events_jsonl, "w") as file:
        file.write(json.dumps({"format": 1, "run_id": running.run_id}) + "\n")
        file.writelines(
            json.dumps({"type": "metric", "name": "acc", "value": number / 10}) + "\n" for number in range(3)
        )
    Path(running.log).write_text("one line\n")
    found = of(running, made.run(metrics={"acc": 0.9}, log="one line\n"))
    assert found.tables["metrics"][0].values == (0.2, 0.9)


def test_environments_are_compared_by_their_locks(made: Made) -> None:
    def locked(**versions: str) -> RunDirectory:
        packages = tuple(
            Package(name=name, version=version, source="pypi", sha256=f"{name}{version}")
            for name, version in versions.items()
        )
        lock = Lock(
            platform="linux-64", python="3.11", owns_python=False, packages=packages, request="ab" * 32
        )
        keep(lock, f"{made.home}/environments/locks/x.json")
        directory = submit(made.home, environment={"lock": lock.digest})
        end(directory)
        return directory

    os.makedirs(made.home + "/environments/locks")
    first, second = locked(numpy="1.26", six="1.16", old="1"), locked(numpy="2.0", six="1.16", new="2")
    packages = of(first, second).pairs[0].environment
    assert packages
    assert (packages.how, packages.same, packages.differ) == ("lock", 1, 3)
    assert packages.rows[0] == ("numpy", "1.26", "2.0")
    assert {row[0] for row in packages.rows} == {"numpy", "old", "new"}
    assert "as locked" in str(of(first, second, parts=["environment"]))
    assert of(first, first, parts=["environment"]).same
    # a lock that is gone, or a name that is none
    for digest in ("ab" * 32, "../../x"):
        third = submit(made.home, environment={"lock": digest})
        end(third)
        assert of(first, third).pairs[0].environment == Packages(
            note="the packages of one of the runs are not known"
        )


def test_cells_are_code(made: Made) -> None:
    found = of(made.run(cell="x = 1\n", code={}), made.run(cell="x = 2\n", code={}), parts=["code"])
    assert "+x = 2" in str(found)
    assert "<cell>" in str(found)
    assert of(made.run(cell="x = 1\n", code={}), made.run(cell="x = 1\n", code={}), parts=["code"]).same
    added = of(made.run(code={}), made.run(cell="x = 2\n", code={}), parts=["code"]).pairs[0].code
    assert added
    assert added.changes[0].kind == "added"


def test_what_is_gone_or_damaged_is_told_and_hides_nothing_else(made: Made) -> None:
    first, second = made.run(**ONE), made.run(**OTHER)
    shutil.rmtree(made.home + "/snapshots")
    stored = Path(made.home, "artifacts", "ExperimentRun", second.run_id, "outputs")
    (stored / "report.txt").write_text("fine\nlr 0.9\n")
    (stored / "scores.csv").unlink()
    found = of(first, second)
    pair = found.pairs[0]
    assert pair.code
    assert "is not in" in pair.code.note
    assert pair.artifacts
    notes = {change.path: change.note for change in pair.artifacts.changes}
    assert notes["outputs/report.txt"]
    assert notes["outputs/scores.csv"]
    assert pair.log
    assert pair.log.what == "line 2"
    assert str(found)


def test_the_log_is_compared_without_what_only_its_place_makes_different(made: Made) -> None:
    first, second = (made.run(log="") for _ in range(2))
    for one in (first, second):
        Path(one.log).write_text(f"in {one.work} of {one.run_id}\nobject at 0x{os.urandom(6).hex()}\n")
    found = of(first, second, parts=["log"])
    assert found.same


def test_a_log_without_an_end_is_compared_to_its_bound(made: Made) -> None:
    first = made.run(log="".join(f"line {n}\n" for n in range(50_000)))
    second = made.run(log="".join(f"line {n}\n" for n in range(40_000)) + "x" * 100_000 + "\n" * 20_000)
    log = of(first, second, parts=["log"]).pairs[0].log
    assert log
    assert log.what == "line 40001"
    assert log.text
    assert log.text.lines[0].startswith("@@ -39998,")
    assert len(log.text.lines) <= 100
    assert max(map(len, log.text.lines)) <= 300
    assert len(str(of(first, second))) < 100_000


def test_large_files_are_bounded(made: Made) -> None:
    many = {f"f{n:03}.txt": f"{n}\n" for n in range(300)}
    long = "\n".join(map(str, range(60_000)))
    first = made.run(outputs={**many, "long.txt": long, "wide.txt": "x" * (3 << 20), "same.txt": "s"})
    changed = {name: content + "more\n" for name, content in many.items()}
    second = made.run(
        outputs={**changed, "long.txt": long.replace("1", "2"), "wide.txt": "y" * (3 << 20), "same.txt": "s"}
    )
    found = of(first, second, parts=["artifacts"])
    files = found.pairs[0].artifacts
    assert files
    assert len(files.changes) == 200
    assert (files.differ, files.same) == (302, 1)
    assert sum(len(one.text.lines) for one in files.changes if one.text) <= 3000
    assert len(html(found)) < 1 << 20
    assert len(str(found).splitlines()) < 2000


# -- contents


@pytest.mark.parametrize(
    ("first", "second", "cells", "added", "removed"),
    [
        ("a,b\n1,2\n", "a,b\n1,3\n", [(2, "b", "2", "3")], (), ()),
        ("b,a\n2,1\n", "a,b\n1,3\n", [(2, "b", "2", "3")], (), ()),
        ("1,2\n3,4\n", "1,2\n3,5\n", [(2, "column 2", "4", "5")], (), ()),
        ("a\n1\n2\n3\n", "a\n2\n3\n", [], (), (2,)),
        ("a\n1\n2\n", "a\n0\n1\n2\n", [], (2,), ()),
        ("a,b\n1,2\n", "a,b\n1,2,3\n", [], (), ()),
        ('a\n"x, y"\n', "a\nx\n", [(2, "a", "x, y", "x")], (), ()),
        ("a,a\n1,2\n", "a,a\n1,3\n", [(2, "column 2", "2", "3")], (), ()),
    ],
)
def test_tables_are_compared_by_cells(
    first: str, second: str, cells: list[tuple[int, str, str, str]], added: tuple[int], removed: tuple[int]
) -> None:
    found = cells_of(first, second, ",")
    assert found
    assert [(one.row, one.column, one.first, one.second) for one in found.cells] == cells
    assert (found.rows_added, found.rows_removed) == (added, removed)


def test_tables_name_the_columns_that_only_one_has() -> None:
    found = cells_of("a,b\n1,2\n", "a,c\n1,2\n", ",")
    assert found
    assert (found.columns_removed, found.columns_added, found.differ) == (("b",), ("c",), 0)


def test_what_is_no_table_is_not_taken_for_one() -> None:
    assert cells_of("", "a\n", ",") is None
    assert cells_of('"' + "x" * 200_000, "a\n", ",") is None
    assert cells_of("x," * 5000, "a\n", ",") is None


def test_a_large_table_is_compared_by_position() -> None:
    rows = [f"{n},{n}" for n in range(50_000)]
    others = [f"{n},{n + 1}" for n in range(50_001)]
    found = cells_of("\n".join(["a,b", *rows]), "\n".join(["a,b", *others]), ",")
    assert found
    assert (found.differ, len(found.cells), found.rows_added) == (50_000, 100, (50_002,))


def test_a_diff_names_the_lines_as_the_files_have_them() -> None:
    before = [str(n) for n in range(100)]
    after = [*before[:50], "x", *before[51:]]
    found = diff_of(before, after, 50)
    assert found.lines == ("@@ -48,7 +48,7 @@", " 47", " 48", " 49", "-50", "+x", " 51", " 52", " 53")
    short = diff_of(before, ["y"] * 100, 10)
    assert (len(short.lines), short.cut) == (10, 191)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(1), (4, 4)),
        (b"GIF89a\x05\0\x06\0" + b"\0" * 20, (5, 6)),
        (b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08\0\x07\0\x08" + b"\0" * 20, (8, 7)),
        (png(1, 9000), None),
        (b"\xff\xd8\xff" + b"\xff" * 100, None),
        (png(1)[:20], None),
        (b"<svg onload=alert(1)>", None),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"", None),
        (png(1) + b"\0" * (1 << 20), None),
    ],
)
def test_only_small_pictures_of_known_types_are_shown(data: bytes, size: tuple[int, int] | None) -> None:
    found = image_of(data)
    assert (found and (found.width, found.height)) == size


# -- words of strangers


KNOWN_TAGS = {"div", "span", "b", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre"}
KNOWN_TAGS |= {"svg", "polyline"}


def hostile(made: Made, words: str, number: int) -> RunDirectory:
    name = "".join(char for char in words if char not in "\0/")[:60] or "x"
    name = name.encode("utf-8", "replace").decode()
    directory = made.run(
        outputs={f"{name}.txt": f"{words}{number}".encode("utf-8", "replace"), "t.csv": f"a\n{number}\n"},
        log=f"{words} {number}\n".encode("utf-8", "replace"),
        packages={words: str(number), f"{words}{number}": words},
        cell=f"{words} {number}".encode("utf-8", "replace").decode(),
        params={words: f"{words}{number}", f"{words}{number}": [words]},
        metrics={words: [1, number], f"{words} text": f"{words}{number}"},
        script_name=words,
        arguments=(words, str(number)),
        target=words,
        kind=words,
        user_id=words,
        reason=words,
        error={"message": f"{words}{number}"},
        git={"commit": words, "branch": f"{words}{number}"},
    )
    runs.set_labels(directory, name=re.sub(r"[^ -~]", "", words)[:50].lstrip("@") or "name")
    return directory


@pytest.mark.parametrize("words", HOSTILE)
def test_W1_hostile_words_are_text_in_every_place_of_a_comparison(made: Made, words: str) -> None:
    directories = [hostile(made, words, number) for number in range(2)]
    found = of(*directories)
    for every in (False, True):
        page = html(found, every=every)
        seen = Elements(page)
        assert seen.tags <= KNOWN_TAGS
        assert seen.open == []
        assert not {name for name in seen.attributes if name.startswith(("on", "data-", "href", "src", "id"))}
        assert not any(word in value for value in seen.values for word in ("url(", "javascript:", "http"))
        page.encode()
        for shown in (page, text(found, every=every)):
            assert not re.search(
                "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown
            )
    json.dumps(found.as_json(), allow_nan=False)


# -- front doors


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "iris"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_diff_ends_like_diff(made: Made, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = made.run(**ONE), made.run(**OTHER)
    assert cli.main(["diff", first.run_id, second.run_id]) == 1
    assert capsys.readouterr().out.startswith("≠ different")
    assert cli.main(["diff", first.run_id, first.run_id]) == 0
    assert cli.main(["diff", first.run_id, second.run_id, "--code", "--json"]) == 1
    document = json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))
    assert set(document) == {"same", "runs", "pairs"}
    assert cli.main(["compare", first.run_id, second.run_id, first.run_id]) == 0
    assert cli.main(["compare", first.run_id]) == 2
    assert cli.main(["diff", first.run_id, "nobody"]) == 3


def test_a_filter_lists_runs_from_the_command(
    made: Made, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields: dict[str, Any] = {"project": Project()}
    good = submit(made.home, **fields, metrics={"acc": 0.9}, params={"model": "a tree"})
    bad = submit(made.home, **fields, metrics={"acc": 0.5}, params={"model": "it's"})
    end(good)
    end(bad, "Failed")

    def listed(*words: str) -> list[str]:
        assert cli.main(["runs", "--all-projects", *words, "--json"]) == 0
        return [row["run_id"] for row in json.loads(capsys.readouterr().out)]

    assert listed("metrics.acc > 0.8") == [good.run_id]
    # a shell, or the line of a magic, takes quotes away
    assert listed("params.model", "=", "a tree") == [good.run_id]
    assert listed("params.model", "=", "it's") == [bad.run_id]
    assert listed("metrics.acc", ">", "0.1", "and", "status", "!=", "Failed") == [good.run_id]
    assert listed("--order-by", "status DESC", "--order-by", "created") == [bad.run_id, good.run_id]
    assert cli.main(["runs", "--all-projects", "metrics.acc > 5"]) == 0
    assert "no run answers to the filter" in capsys.readouterr().err
    assert cli.main(["runs", "metrics.acc >"]) == 2
    assert "column 14" in capsys.readouterr().err


@pytest.mark.slow
def test_a_notebook_shows_a_comparison(tmp_path: Path) -> None:
    folder = tmp_path / "iris"
    folder.mkdir()
    kernel = Notebook(str(folder), AML_HOME=str(tmp_path / "home"), HOME=str(tmp_path))
    try:
        kernel.run("%load_ext aml_jupyter")
        for value in (1, 2):
            kernel.run(f"%%amlrun local --name r{value} -p v={value}\nprint('value', v)")
        shown = kernel.run("%aml diff r1 r2")
        assert shown.status == "ok"
        bundle = shown.displays[0]
        assert "value 2" in bundle["text/html"]
        assert "+value 2" in bundle["text/plain"]
        result = kernel.run("import aml_jupyter\naml_jupyter.compare('r1', 'r2', parts=['params'])")
        assert result.of("execute_result")[0]["data"]["text/html"].startswith("<div")
        listed = kernel.run("%aml runs params.v = 2 --columns name")
        assert "r2" in listed.displays[0]["text/html"]
        assert "r1" not in listed.displays[0]["text/html"]
        found = kernel.run("print(len(aml_jupyter.runs(\"params.v = '1' and status = 'FINISHED'\")))")
        assert found.text() == "1\n"
    finally:
        kernel.close()


def test_the_parts_are_those_that_the_options_name() -> None:
    from aml_jupyter.commands.compare import _PARTS

    assert {part for part, _ in _PARTS.values()} == set(PARTS)
