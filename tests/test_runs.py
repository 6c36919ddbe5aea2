"""Run directories: ids, sealed records, one ending, labels, references, removal."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aml_jupyter import processes, retention, runs
from aml_jupyter.confined import remove_tree
from aml_jupyter.errors import AmlError, FormatError, HistoryError, RunNotFound, UsageError
from aml_jupyter.job import Exit
from aml_jupyter.runs import Record
from aml_jupyter.runs.directory import entered
from aml_jupyter.sealed import seal, unseal
from tests.made_runs import (
    PROJECT,
    Project,
    change,
    end,
    ended_identity,
    finished,
    set_back,
    sleeper,
    started,
    submit,
    supervised_by,
    write,
)


def at_once(count: int, work: Callable[[int], bytes]) -> list[bytes]:
    """What processes that begin together have to say."""
    gate_read, gate_write = os.pipe()
    children = []
    for number in range(count):
        read, answer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(gate_write)
            os.read(gate_read, 1)
            try:
                os.write(answer, work(number))
            except BaseException:  # noqa: BLE001 - whatever it is, the parent shows it
                os.write(answer, traceback.format_exc().encode())
            finally:
                os._exit(0)
        os.close(answer)
        children.append((pid, read))
    os.close(gate_read)
    os.close(gate_write)  # the gate opens for all
    answers = []
    for pid, read in children:
        answers.append(os.read(read, 65536))
        os.close(read)
        os.waitpid(pid, 0)
    return answers


@pytest.mark.slow
def test_L12_N4_a_hundred_processes_submitting_at_once_get_a_hundred_ids(home: str) -> None:
    def work(number: int) -> bytes:
        directory = submit(home)
        return f"{directory.run_id} {runs.load_record(directory).run_number}".encode()

    answers = [answer.decode().split() for answer in at_once(100, work)]
    assert len({run_id for run_id, _ in answers}) == 100
    assert sorted(int(number) for _, number in answers) == list(range(1, 101))
    with runs.History(home) as history:
        assert history.count() == 100


def test_a_run_id_is_the_project_and_the_milliseconds_of_its_creation(home: str) -> None:
    directory = runs.create(home, PROJECT)
    name, _, milliseconds = directory.run_id.rpartition("_")
    assert name == "iris"
    assert len(milliseconds) == 13
    assert directory.path == f"{home}/runs/local/default/iris/{directory.run_id}"
    assert directory.home == home


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my project", "my-project"),
        ("../../etc", "etc"),
        ("a/b", "a-b"),
        ("", "run"),
        ("...", "run"),
        ("-rf", "rf"),
        ("é" * 300, "é" * 50),
        ("a\nb\x1b[31m", "a-b--31m"),
        ("\udcff\udcfe", "run"),
    ],
)
def test_A6_a_project_of_any_name_gives_a_run_id_that_is_one_ordinary_name(
    home: str, name: str, expected: str
) -> None:
    directory = runs.create(home, Project(name))
    assert directory.run_id.rpartition("_")[0] == expected
    assert directory.path.startswith(home + "/runs/local/default/")


def test_a_directory_becomes_a_run_with_its_first_record(home: str) -> None:
    directory = runs.create(home, PROJECT)
    with pytest.raises(RunNotFound) as caught:
        runs.read_record(directory)
    assert caught.value.code == "run.missing"
    assert runs.at(home, directory.run_id) is None
    runs.discard(directory)
    assert not os.path.exists(directory.path)
    assert os.listdir(home + "/ids") == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(values=st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_H11_any_text_and_any_number_comes_back_from_a_sealed_record(values: dict[str, object]) -> None:
    record = Record(run_id="a_1", metrics=values, params=values)
    again = Record.from_json(unseal(seal(record.to_json()), "run.json"))
    assert repr(again) == repr(record)  # nan is not equal to itself


def test_a_record_holds_what_no_number_is_in_valid_json(home: str) -> None:
    directory = submit(home, metrics={"loss": math.nan, "best": [math.inf, -math.inf]})
    with open(directory.run_json, "rb") as file:
        json.loads(file.read(), parse_constant=pytest.fail)
    found = runs.load_record(directory).metrics
    assert math.isnan(found["loss"])
    assert found["best"] == [math.inf, -math.inf]


def test_H5_no_flipped_bit_of_a_record_goes_unseen(home: str) -> None:
    directory = finished(home, metrics={"acc": 0.75}, params={"lr": "0.1"})
    whole = runs.load_record(directory)
    with open(directory.run_json, "rb") as file:
        data = file.read()
    chance = random.Random(5)
    for _ in range(300):
        position, bit = chance.randrange(len(data) - 1), 1 << chance.randrange(8)
        flipped = data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :]
        with open(directory.run_json, "wb") as file:
            file.write(flipped)
        try:
            assert runs.load_record(directory) == whole, flipped
        except HistoryError as error:
            assert error.code == "record.corrupt"  # noqa: PT017


def test_H8_a_newer_record_is_read_and_never_written(home: str) -> None:
    directory = submit(home)
    newer = {**runs.load_record(directory).to_json(), "format": 2, "colour": "blue", "status": "Completed"}
    with open(directory.run_json, "wb") as file:
        file.write(seal(newer))
    record = runs.read_record(directory)
    assert (record.status, record.format, record.extra["colour"]) == ("Completed", 2, "blue")
    for attempt in (record, record.replace(format=1)):
        with pytest.raises(FormatError):
            runs.write_record(directory, attempt)


def test_H8_keys_of_another_version_of_the_same_format_are_written_back(home: str) -> None:
    directory = submit(home)
    data = seal({**runs.load_record(directory).to_json(), "colour": "blue"})
    with open(directory.run_json, "wb") as file:
        file.write(data)
    end(directory)
    with open(directory.run_json, "rb") as file:
        assert json.loads(file.read())["colour"] == "blue"


def test_an_ending_is_written_once(home: str) -> None:
    directory = submit(home)
    first = end(directory, "Failed", reason="run.exit_nonzero", exit_code=1)
    assert runs.write_record(directory, first.replace(status="Completed")) is False
    assert runs.write_record(directory, first.replace(status="Running")) is False
    assert runs.load_record(directory).status == "Failed"


@pytest.mark.slow
def test_a_record_that_could_not_be_read_again_is_cut_and_says_so(home: str) -> None:
    directory = finished(home)
    change(directory, not_kept=("x" * 4000,) * 40_000, metrics={"a": 1})
    record = runs.load_record(directory)
    assert record.metrics == {"a": 1}
    assert len(record.not_kept) == 100
    assert "too large" in record.warnings[-1]
    change(directory, metrics={"a": ["x" * 1000] * 80_000}, warnings=("w",))
    record = runs.load_record(directory)
    assert record.metrics == {}
    assert record.warnings[0] == "w"
    assert "metrics are not in the record" in record.warnings[-1]
    with pytest.raises(HistoryError) as raised:
        change(directory, params={"a": "x" * (65 << 20)})
    assert raised.value.code == "record.too_big"
    assert runs.load_record(directory) == record


def test_what_became_of_the_artifacts_may_be_told_after_the_ending(home: str) -> None:
    directory = submit(home)
    record = end(directory)
    assert runs.write_record(directory, record.replace(artifacts_state="stored", artifacts=3))
    assert runs.load_record(directory).artifacts == 3


def test_H12_of_two_that_finish_a_run_one_wins_and_the_other_is_told(home: str) -> None:
    for _ in range(300):
        directory = submit(home)
        record = runs.load_record(directory)
        barrier = threading.Barrier(2)
        won: list[str] = []

        def finish(
            status: str,
            directory: runs.RunDirectory = directory,
            record: Record = record,
            barrier: threading.Barrier = barrier,
            won: list[str] = won,
        ) -> None:
            barrier.wait()
            if runs.write_record(directory, record.replace(status=status), sync=False):
                won.append(status)

        threads = [threading.Thread(target=finish, args=(status,)) for status in ("Completed", "Canceled")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [runs.load_record(directory).status]


def test_the_times_of_a_run_are_those_its_runtime_measured(home: str) -> None:
    record = runs.load_record(submit(home))
    ending = Exit(run_id=record.run_id, exit_code=0, signal=None, start_utc="1Z", end_utc="2Z", duration=2.5)
    assert runs.times(record, ending) == {
        "start_time_utc": "1+00:00",
        "end_time_utc": "2+00:00",
        "duration": 2.5,
    }
    lost = runs.times(record, None)
    assert lost["duration"] is None
    assert lost["end_time_utc"] > record.created_utc


def test_X1_everything_that_is_kept_is_for_its_owner_alone(home: str) -> None:
    old = os.umask(0)
    try:
        directory = finished(home)
        runs.set_labels(directory, name="mine")
        runs.request_cancel(directory)
        with runs.History(home) as history:
            history.rows()
    finally:
        os.umask(old)
    for folder, names, files in os.walk(home):
        if "/job" in folder or "/work" in folder:  # made by this test
            continue
        for name in [*names, *files]:
            if name not in ("job", "work"):
                assert os.lstat(f"{folder}/{name}").st_mode & 0o077 == 0, f"{folder}/{name}"


# -- labels


def test_labels_are_added_and_kept_apart_from_the_record(home: str) -> None:
    directory = finished(home)
    runs.set_labels(directory, name="best so far", tags=("good", "lr=0.1"), note="kept for the paper")
    runs.set_labels(directory, tags=("checked",), remove_tags=("good",), pinned=True)
    labels = runs.read_labels(directory)
    assert labels.name == "best so far"
    assert labels.tags == {"lr": "0.1", "checked": ""}
    assert (labels.note, labels.pinned, labels.hidden) == ("kept for the paper", True, False)
    assert runs.read_record(directory).tags == labels.tags
    runs.set_labels(directory, name="")
    assert runs.read_labels(directory).name is None


def test_labels_from_many_processes_at_once_are_all_kept(home: str) -> None:
    directory = finished(home)

    def work(number: int) -> bytes:
        runs.add_tag(directory, f"tag{number}")
        return b"ok"

    assert at_once(20, work) == [b"ok"] * 20
    assert len(runs.read_labels(directory).tags) == 20


@pytest.mark.parametrize(
    "labels",
    [
        {"name": "x" * 10_000_000},
        {"name": "a\nb"},
        {"name": "@last"},
        {"tags": ["=value"]},
        {"tags": ["t" * 300]},
        {"tags": [f"tag{number}" for number in range(1001)]},
        {"note": "n" * 100_000},
    ],
)
def test_H11_labels_have_limits(home: str, labels: dict[str, object]) -> None:
    directory = finished(home)
    with pytest.raises(UsageError) as caught:
        runs.set_labels(directory, **labels)  # type: ignore[arg-type]
    assert caught.value.code == "label.invalid"
    assert runs.read_labels(directory) == runs.Labels()


def test_H8_labels_of_a_newer_version_are_read_and_never_written(home: str) -> None:
    directory = finished(home)
    newer = seal({"format": 2, "name": "theirs", "colour": "red"})
    with open(directory.labels_json, "wb") as file:
        file.write(newer)
    assert runs.read_record(directory).name == "theirs"
    with pytest.raises(FormatError) as raised:
        runs.set_labels(directory, name="mine")
    assert raised.value.code == "record.newer"
    with open(directory.labels_json, "rb") as file:
        assert file.read() == newer


def test_H8_labels_keep_the_keys_of_another_version_of_the_same_format(home: str) -> None:
    directory = finished(home)
    with open(directory.labels_json, "wb") as file:
        file.write(seal({"format": 1, "note": "n", "colour": "red"}))
    runs.set_labels(directory, name="mine")
    with open(directory.labels_json, "rb") as file:
        document = unseal(file.read(), "")
    assert {**document, "tags": {}} == document
    assert (document["name"], document["note"], document["colour"]) == ("mine", "n", "red")


def test_labels_that_could_not_be_read_again_are_not_written(home: str) -> None:
    directory = finished(home)
    runs.set_labels(directory, name="n")
    with pytest.raises(UsageError) as raised:
        runs.set_labels(directory, tags={str(number): "\U0001f600" * 5000 for number in range(30)})
    assert raised.value.code == "label.invalid"
    assert runs.read_labels(directory).name == "n"


def test_damaged_labels_do_not_hide_the_run(home: str) -> None:
    directory = finished(home)
    runs.set_labels(directory, name="x")
    with open(directory.labels_json, "r+b") as file:
        file.write(b"}")
    record = runs.read_record(directory)
    assert record.status == "Completed"
    assert "labels.json" in record.warnings[-1]


# -- cancel


def test_a_request_to_cancel_is_made_once_and_sharpened_later(home: str) -> None:
    directory = submit(home)
    assert runs.cancel_request(directory) is None
    assert runs.request_cancel(directory) is True
    assert runs.request_cancel(directory) is False
    assert runs.cancel_request(directory) == "terminate"
    assert runs.request_cancel(directory, mode=runs.KILL) is False
    assert runs.cancel_request(directory) == "kill"


# -- references


def test_references_find_the_run_they_mean(home: str) -> None:
    first, second, third = (finished(home, metrics={"acc": acc}) for acc in (0.5, 0.9, 0.7))
    runs.set_labels(first, name="baseline")
    for reference, expected in [
        (second.run_id, second),
        ("baseline", first),
        ("@last", third),
        ("@last~0", third),
        ("@last~2", first),
        ("@best:acc", second),
        ("@max:acc", second),
        ("@min:acc", first),
    ]:
        assert runs.find(reference, home, PROJECT) == expected, reference


def test_a_unique_beginning_of_an_id_is_enough(home: str) -> None:
    directory = finished(home, Project("alpha"))
    finished(home, Project("beta"))
    assert runs.find("alph", home) == directory


def test_words_mean_runs_of_the_project_and_ids_any_run(home: str) -> None:
    here, there = finished(home, Project("here")), finished(home, Project("there"))
    assert runs.find("@last", home, Project("here")) == here
    assert runs.find(there.run_id, home, Project("here")) == there


def test_a_reference_looks_once_at_what_changed(home: str) -> None:
    for _ in range(3):
        submit(home)
    program = (
        "import sys; looks = []\n"
        "def look(event, given):\n"
        "    if event == 'os.listdir' and 'dirty' in str(given): looks.append(given)\n"
        "sys.addaudithook(look)\n"
        "from aml_jupyter import errors, runs\n"
        "with runs.History(sys.argv[1]) as history:\n"
        "    history.count(); looks.clear()\n"
        "    try: runs.find('nothing-like-it', sys.argv[1], history=history)\n"
        "    except errors.RunNotFound: print(len(looks))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, home], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_the_run_of_a_cell_is_the_newest_of_that_cell(home: str) -> None:
    finished(home, cell_id="c1")
    newer = finished(home, cell_id="c1")
    finished(home, cell_id="c2")
    assert runs.find("@cell", home, cell_id="c1") == newer
    with pytest.raises(UsageError):
        runs.find("@cell", home)


def test_Z3_an_unknown_run_and_an_ambiguous_one_are_told_apart(home: str) -> None:
    known = finished(home)
    finished(home)
    runs.set_labels(known, name="baseline")
    with pytest.raises(RunNotFound) as caught:
        runs.find("baselin", home)
    assert caught.value.code == "run.unknown"
    assert "baseline" in caught.value.hint
    with pytest.raises(RunNotFound) as caught:
        runs.find("iris_", home)
    assert caught.value.code == "run.ambiguous"
    assert known.run_id in caught.value.message


@pytest.mark.parametrize(
    "reference", ["", "/", "..", "a\0b", "x" * 5000, "@", "@last~x", "@best:", "%", "'; DROP"]
)
def test_H11_a_hostile_reference_is_an_ordinary_mistake(home: str, reference: str) -> None:
    finished(home)
    with pytest.raises(AmlError):
        runs.find(reference, home)


def test_an_id_file_never_leads_outside_the_runs(home: str) -> None:
    directory = finished(home)
    for text in ("../../etc", "/etc/passwd", f"runs/../../x/y/{directory.run_id}", "runs/a/b/c/other"):
        with open(f"{home}/ids/{directory.run_id}", "w") as file:
            file.write(text)
        assert runs.at(home, directory.run_id) == directory
        assert entered(home, directory.run_id) is None


# -- removal


def test_removing_a_run_removes_its_files_its_artifacts_and_its_row(home: str) -> None:
    directory, other = finished(home), finished(home)
    os.makedirs(f"{home}/artifacts/ExperimentRun/{directory.run_id}/outputs")
    with runs.History(home) as history:
        assert history.count() == 2
        runs.remove(directory)
        assert [row["run_id"] for row in history.rows()] == [other.run_id]
    assert not os.path.exists(directory.path)
    assert os.listdir(home + "/artifacts/ExperimentRun") == []
    assert os.listdir(home + "/ids") == [other.run_id]
    with pytest.raises(RunNotFound):
        runs.remove(directory)
    with runs.History(home) as history:
        assert history.check() == []


@pytest.mark.parametrize("who", ["supervisor", "job"])
def test_Z4_a_run_that_lives_is_not_removed(home: str, who: str) -> None:
    directory = submit(home)
    process = sleeper()
    try:
        identity = processes.identity(process.pid)
        (supervised_by if who == "supervisor" else started)(directory, identity)
        with pytest.raises(HistoryError) as caught:
            runs.remove(directory)
        assert caught.value.code == "run.alive"
        assert os.path.exists(directory.run_json)
    finally:
        process.kill()
        process.wait()
    runs.remove(directory)


def test_Z4_two_that_remove_a_run_at_once_do_not_disturb_each_other(home: str) -> None:
    for _ in range(20):
        directory = finished(home)

        def work(number: int, directory: runs.RunDirectory = directory) -> bytes:
            try:
                runs.remove(directory)
            except AmlError as error:
                return error.code.encode()
            return b"removed"

        answers = at_once(2, work)
        assert b"removed" in answers
        assert set(answers) <= {b"removed", b"run.missing", b"run.alive"}
    with runs.History(home) as history:
        assert history.count() == 0


@pytest.mark.parametrize("killed_before", ["artifacts", "id", "directory"])
def test_Z4_gc_finishes_a_removal_that_was_killed(
    home: str, killed_before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, other = finished(home, artifacts=1), finished(home)
    stores = {}
    for one in (directory, other):
        stores[one] = f"{home}/artifacts/ExperimentRun/{one.run_id}"
        os.makedirs(stores[one])
        with open(stores[one] + "/model", "wb") as file:
            file.write(bytes(1000))
    with runs.History(home) as history:
        assert history.count() == 2
    gone = os.path.dirname(directory.path) + "/.removing-" + directory.run_id
    runs.mark_changed(directory)
    os.rename(directory.path, gone)
    if killed_before != "artifacts":
        remove_tree(stores[directory])
    if killed_before == "directory":
        os.unlink(f"{home}/ids/{directory.run_id}")
    assert retention.collect_garbage(home).leftovers == 0
    now = time.time
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: now() + 3600)
        would = retention.collect_garbage(home, dry_run=True)
        assert os.path.exists(gone)
        assert would.leftovers == 1
        assert would.bytes >= (1000 if killed_before == "artifacts" else 0)
        assert retention.collect_garbage(home) == would
    for path in (gone, stores[directory], f"{home}/ids/{directory.run_id}"):
        assert not os.path.lexists(path)
    assert os.path.exists(stores[other] + "/model")
    assert runs.check(home) == []
    with runs.History(home) as history:
        assert history.count() == 1


def test_Z4_gc_drops_ids_of_runs_that_are_gone_and_no_young_ones(home: str) -> None:
    directory, half_made = finished(home), runs.create(home, PROJECT)
    for name in ("old_1", "young_2"):
        with open(f"{home}/ids/{name}", "wb"):
            pass
    for name in ("old_1", directory.run_id):
        set_back(f"{home}/ids/{name}", 3600)
    assert retention.collect_garbage(home).leftovers == 1
    assert sorted(os.listdir(home + "/ids")) == sorted([directory.run_id, half_made.run_id, "young_2"])


def test_a_manifest_cannot_have_another_folder_removed(home: str) -> None:
    directory, other = finished(home), finished(home)
    os.makedirs(f"{home}/artifacts/ExperimentRun/{other.run_id}")
    with open(directory.artifacts_json, "wb") as file:
        file.write(seal({"format": 1, "prefix": f"ExperimentRun/{other.run_id}", "files": []}))
    runs.remove(directory)
    assert os.path.isdir(f"{home}/artifacts/ExperimentRun/{other.run_id}")


def test_runs_that_have_not_ended_can_be_listed_for_continuing(home: str) -> None:
    finished(home)
    first, second = submit(home), submit(home)
    with runs.History(home) as history:
        history.rows()
    assert runs.unfinished(home) == [first, second]
    end(first, "Canceled")
    assert runs.unfinished(home) == [second]


def test_L13_a_process_is_known_by_more_than_its_pid(home: str) -> None:
    gone = ended_identity()
    assert not processes.is_alive(gone)
    mine = processes.identity(os.getpid())
    assert processes.is_alive(mine)
    assert not processes.is_alive({**mine, "start_time": "1"})
    assert not processes.is_alive({**mine, "boot_id": "another"})
    directory = submit(home)
    write(directory.supervisor_lock, {"format": 1, **mine, "start_time": "1"})
    assert not runs.supervised(directory)


def test_a_stopped_process_lives_and_a_zombie_does_not() -> None:
    process = sleeper()
    identity = processes.identity(process.pid)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        assert processes.is_alive(identity)
    finally:
        process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_alive(identity)
    process.wait()
