"""Kills in the middle of storing a run: nothing is lost, half visible, or sent twice without need."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

import aml_jupyter
from aml_jupyter import artifacts, experiment, locks, pending, processes, pushing, runs, syncing
from aml_jupyter.artifacts.opening import open_store
from aml_jupyter.artifacts.transfer import WORKERS
from aml_jupyter.config import settings
from aml_jupyter.runs import RunDirectory
from tests.azurite import ACCOUNT, Azurite
from tests.faulty_http import FaultyHTTP
from tests.stored_runs import blob_store, ended_run, push, stored, until

pytestmark = [pytest.mark.faults, pytest.mark.slow]

KILLS = 5


def kill_pusher(home: str) -> bool:
    """Kill whoever stores runs; False when nobody does any more."""
    for pid in locks.holders(f"{home}/{pending.LOCK}"):
        os.kill(pid, signal.SIGKILL)
        until(lambda: not locks.holders(f"{home}/{pending.LOCK}"))
        return True
    return False


def seen_whole_or_not(tmp_path: Path, store: str, run_id: str) -> bool:
    """Whether a machine that comes new sees the run; if so, all of it is there."""
    fresh = str(tmp_path / f"fresh-{os.urandom(4).hex()}")
    found = syncing.sync(fresh, store)
    assert found.problems == ()
    if not found.pulled:
        return False
    assert found.pulled == (run_id,)
    assert syncing.check(fresh) == []
    return True


def test_A14_a_pusher_that_is_killed_again_and_again_sends_each_of_1000_files_once(
    home: str, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    store = f"folder://{shared}"
    directory = ended_run(home, {f"{number % 7}/{number}": b"%d" % number * 200 for number in range(1000)})
    pending.mark(home, directory.run_id, store)
    inodes: dict[str, int] = {}
    kills = 0
    while kills < KILLS and pending.marked(home, directory.run_id) is not None:
        wanted = len(inodes) + random.randint(1, 150)
        assert pending.start(home)
        until(lambda: len(files_in(shared)) >= wanted or not pending.all_marks(home))  # noqa: B023
        kills += kill_pusher(home)
        for path, inode in files_in(shared).items():
            assert inodes.setdefault(path, inode) == inode
        if pending.marked(home, directory.run_id) is not None:
            assert runs.load_record(directory).status == "Completed"
            seen_whole_or_not(tmp_path, store, directory.run_id)
    pending.start(home)
    assert stored(directory) == "stored"
    assert files_in(shared).items() >= inodes.items()
    assert len(files_in(shared)) == 1000
    assert kills > 0
    assert seen_whole_or_not(tmp_path, store, directory.run_id)


def files_in(shared: Path) -> dict[str, int]:
    """The artifacts that a store has, each with its inode: another one means that it was written anew."""
    return {
        entry.path: entry.inode()
        for folder in (shared / "ExperimentRun").glob("*/outputs/*")
        for entry in os.scandir(folder)
        if not entry.name.startswith(".aml-")
    }


def test_A14_on_blob_storage_only_what_was_on_its_way_at_a_kill_is_sent_again(
    home: str, azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyHTTP(azurite.port) as proxy:
        store = blob_store(azurite, monkeypatch, proxy.endpoint(ACCOUNT))
        directory = ended_run(home, {f"{number:03}": b"%d" % number * 100 for number in range(150)})
        pending.mark(home, directory.run_id, store)
        kills = 0
        while kills < KILLS and pending.marked(home, directory.run_id) is not None:
            before = len(proxy.seen("PUT .*/outputs/"))
            assert pending.start(home)
            wanted = random.randint(1, 40)
            until(
                lambda: (
                    len(proxy.seen("PUT .*/outputs/")) >= before + wanted  # noqa: B023
                    or not pending.all_marks(home)
                )
            )
            kills += kill_pusher(home)
            if pending.marked(home, directory.run_id) is not None:
                seen_whole_or_not(tmp_path, store, directory.run_id)
        pending.start(home)
        assert stored(directory) == "stored"
        assert kills > 0
        done = Counter(one.line for one in proxy.seen("PUT .*/outputs/") if one.status == 201)
        assert len(done) == 150
        assert sum(done.values()) <= 150 + kills * WORKERS
        assert seen_whole_or_not(tmp_path, store, directory.run_id)


def test_a_supervisor_that_is_killed_at_any_moment_leaves_a_run_that_is_stored_in_the_end(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, shared, released = tmp_path / "iris", tmp_path / "shared", tmp_path / "released"
    project.mkdir()
    shared.mkdir()
    monkeypatch.chdir(project)
    (project / "train.py").write_text(
        "import os, time\n"
        "for n in range(20):\n    open(f'outputs/{n}', 'w').write(str(n) * 1000)\n"
        f"while not os.path.exists({str(released)!r}): time.sleep(0.01)\n"
    )
    settings.put(None, settings.STORE, f"folder://{shared}")
    kills = 0
    for _ in range(KILLS):
        run = aml_jupyter.submit("local", "train.py")
        directory = runs.find(run.id, home)
        # the first run cannot end before the kill; of the others a supervisor may be done sooner
        kills += kill_supervisor(directory, random.uniform(0, 0.25))
        assert kills
        released.touch()
        record = experiment.wait(directory, timeout=120)
        assert record.status == "Completed"
        # whoever ended it left a mark, and the next one stores what nobody stores
        pending.start(home)
        assert stored(directory) == "stored"
        assert {item.state for item in artifacts.listing(directory)} == {"stored"}
        assert len(artifacts.listing(directory)) == 20
    fresh = str(tmp_path / "fresh")
    assert len(syncing.sync(fresh, f"folder://{shared}").pulled) == KILLS
    assert syncing.check(fresh) == []


def kill_supervisor(directory: RunDirectory, after: float) -> bool:
    """Kill who sees a run through, that many seconds from now; False when it was done."""
    who = until(lambda: runs.supervisor_identity(directory))
    time.sleep(after)
    if not processes.is_alive(who):
        return False
    try:
        os.kill(int(who["pid"]), signal.SIGKILL)
    except ProcessLookupError:
        return False
    until(lambda: not processes.is_alive(who))
    return True


def test_A8_a_store_that_answers_503_for_a_while_has_everything_in_the_end(
    home: str, azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyHTTP(azurite.port) as proxy:
        store = blob_store(azurite, monkeypatch, proxy.endpoint(ACCOUNT))
        directory = ended_run(home, {f"{number}": b"%d" % number for number in range(20)})
        proxy.spoil("status", "PUT .*/outputs/", times=10)
        proxy.spoil("unheard", r"PUT .*/\.aml/run\.json", times=1)
        assert push(directory, store).state == "stored"
        assert {one.key for one in open_store(store).list("Runs")}


def test_A9_a_token_that_expires_in_the_middle_leaves_the_rest_pending_until_there_is_another(
    home: str, azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = azurite.container()
    store = f"azblob://{container}"
    with FaultyHTTP(azurite.port) as proxy:
        endpoint = proxy.endpoint(ACCOUNT)
        for name, value in azurite.sas_environ(azurite.sas(container), endpoint).items():
            monkeypatch.setenv(name, value)
        directory = ended_run(home, {f"{number:02}": b"%d" % number for number in range(60)})
        proxy.spoil("status", "PUT .*/outputs/", status=403, code="AuthenticationFailed", after=10)
        pending.mark(home, directory.run_id, store)
        [done] = pushing.push_marked(home)
        assert done.error["code"] in ("store.auth", "store.denied")
        assert not seen_whole_or_not(tmp_path, store, directory.run_id)
        proxy.heal()
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", azurite.sas(container))
        assert push(directory, store).files < 60
        assert seen_whole_or_not(tmp_path, store, directory.run_id)
