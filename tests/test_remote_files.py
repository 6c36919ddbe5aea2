"""Files between a machine behind ssh and here: payloads, what is kept beside a run, what came already."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import processes
from aml_jupyter.executors.docker.gathering import _Brought
from aml_jupyter.executors.docker.mirroring import BLOCK, Mirror
from aml_jupyter.runtime import store
from tests.sshd import Sshd


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


def test_payloads_of_any_size_come_whole_and_one_that_lies_does_not(sshd: Sshd, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "data").mkdir(parents=True)
    here.mkdir()
    wanted = [b"", b"small", b"x" * BLOCK, bytes(range(256)) * (3 * BLOCK // 256) + b"end"]
    for data in wanted:
        (there / "data" / hashlib.sha256(data).hexdigest()).write_bytes(data)
    (there / "data" / hashlib.sha256(b"honest").hexdigest()).write_bytes(b"other")

    assert Mirror(sshd.connect("payloads"), str(there), str(here), 1 << 30).bring()
    brought = {path.name: path.read_bytes() for path in (here / "data").iterdir()}
    assert brought == {hashlib.sha256(data).hexdigest(): data for data in wanted}


def test_what_nobody_else_may_read_is_not_kept_beside_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = [b"spark.key=secret\n", b"print(1)\n"]
    digests = [hashlib.sha256(data).hexdigest() for data in contents]
    document = {
        "run": "one",
        "version": "1",
        "contents": digests,
        "work": [["file", "script.py", 0o600, 1]],
        "job": [["file", "spark.properties", 0o600, 0]],
        "private": [0],
        "runtime": [["file", "main.py", 0o600, 1]],
    }
    sent = b"".join(b"%d\n" % len(data) + data for data in contents)
    store.receive(document, io.BytesIO(sent), io.BytesIO())

    assert (tmp_path / "runs/one/job/spark.properties").read_bytes() == contents[0]
    assert [path.name for path in (tmp_path / "objects").glob("*/*")] == digests[1:]


def test_a_list_of_what_came_that_was_cut_by_a_kill_costs_one_file(tmp_path: Path) -> None:
    path = tmp_path / "work.brought"
    path.write_text(processes.boot_id() + '\n["a", "1 2 3"]\n["b", "4')
    with _Brought(str(path)) as brought:
        assert brought.known == {"a": "1 2 3"}
        brought.add("c", {"AML.seen": "7 8 9"})
        brought.add("d", {"AML.seen": "7 8 9"})
    assert _Brought(str(path)).known == {"a": "1 2 3", "d": "7 8 9"}


def test_a_list_of_what_came_before_this_computer_started_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "work.brought"
    path.write_text('another-start\n["a", "1 2 3"]\n')
    assert _Brought(str(path)).known == {}
    assert not path.exists()
