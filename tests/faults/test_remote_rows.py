"""Runs on a machine behind ssh, and what happens to the line, the sshd, the engine and the disk meanwhile."""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.experiment import Request
from aml_jupyter.starting import Starter
from tests import machines, sshd
from tests.machines import (
    COUNTING,
    FILES,
    Box,
    add_files,
    assert_completed,
    assert_whole,
    go,
    run,
    submit,
    told,
    wait_for,
)
from tests.terminal import aml, until

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.root]

# --- who is there -------------------------------------------------------------------------------------------


def test_R1_R2_no_byte_goes_to_a_machine_whose_key_is_not_known_or_has_changed(
    box: Box, remote_project: Path
) -> None:
    Path(box.sshd.known_hosts).write_text("")
    first = submit(remote_project, FILES)
    record = experiment.wait(first, 60)
    error = record.error or {}
    assert (record.status, record.reason) == ("Failed", "target.hostkey_unknown")
    assert "SHA256:" in error["message"]
    assert "aml targets trust box" in error["hint"]
    assert "Accepted" not in box.sshd.log.read_text()
    assert not list(box.home.iterdir())
    assert aml("targets", "trust", "box", "--yes", cwd=remote_project).returncode == 0
    assert run(remote_project, FILES).status == "Completed"

    machines.end_connections(os.environ["AML_HOME"])
    box.sshd.stop()
    for path in (box.sshd.host_key, box.sshd.host_key.with_suffix(".pub")):
        path.unlink()
    sshd.make_key(box.sshd.host_key)
    box.sshd.start()
    accepted = box.sshd.log.read_text().count("Accepted")
    record = run(remote_project, FILES)
    error = record.error or {}
    assert (record.status, record.reason) == ("Failed", "target.hostkey_changed")
    assert "aml targets trust box --replace" in error["hint"]
    assert box.sshd.log.read_text().count("Accepted") == accepted
    assert "--replace" in aml("targets", "trust", "box", "--yes", cwd=remote_project).stderr
    assert aml("targets", "trust", "box", "--yes", "--replace", cwd=remote_project).returncode == 0
    assert run(remote_project, FILES).status == "Completed"


# --- the line breaks while files are sent -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_R3_a_line_that_is_cut_during_the_upload_costs_no_more_than_a_second_try(
    box: Box, remote_project: Path, seed: int
) -> None:
    random.seed(seed)
    files = add_files(remote_project, 24, 131072)
    size = random.randrange(20_000, 3_000_000)
    box.line.rate = 12e6
    box.line.cut_after(size, how=("cut", "freeze")[seed % 2])
    directory = submit(remote_project, FILES)
    assert_completed(directory, box)
    assert not box.line.armed
    assert dict(line.split() for line in machines.log(directory).splitlines()) == files


def test_R3_what_came_before_a_cut_is_not_sent_again(box: Box, remote_project: Path) -> None:
    add_files(remote_project, 24, 131072)
    box.line.rate = 4e6
    box.line.cut_after(2_000_000)
    directory = submit(remote_project, FILES)
    assert_completed(directory, box)
    first, second = map(float, re.findall(r"sending \d+ files, (\S+) MB", told(directory)))
    assert second < first * 0.75
    assert "sending again" in told(directory)


def test_R3_a_changed_file_of_a_large_project_is_all_that_is_sent(box: Box, remote_project: Path) -> None:
    add_files(remote_project, 96, 262144)
    assert run(remote_project, FILES).status == "Completed"
    (remote_project / "data/007").write_bytes(random.randbytes(1000))
    before = box.line.up
    directory = submit(remote_project, FILES)
    assert_completed(directory, box)
    sent = box.line.up - before
    assert "sending 2 files, 0.0 MB" in told(directory)
    # the whole conversation of the run, which looks at it several times a second
    assert sent < 0.01 * 96 * 262144


def test_R3_the_ssh_process_is_killed_during_the_upload(box: Box, remote_project: Path) -> None:
    add_files(remote_project, 24, 131072)
    box.line.rate = 3e6
    directory = submit(remote_project, FILES)
    until(lambda: "sending" in told(directory))
    until(lambda: box.line.up > 800_000)
    machines.end_connections(os.environ["AML_HOME"])
    assert_completed(directory, box)
    assert "sending again" in told(directory)


# --- the line breaks while the job runs ---------------------------------------------------------------------


def test_R4_a_line_that_falls_silent_costs_the_run_nothing(box: Box, remote_project: Path) -> None:
    directory = submit(remote_project, COUNTING)
    wait_for(directory, "line 20")
    began = time.time()
    with sshd.silence(box.sshd.port):
        # the line must be found dead, and then the attempts to connect again
        until(lambda: runs.read_record(directory).status == "NotResponding", 90)
        assert runs.read_record(directory).reason == "target.unreachable"
        machines.pause(3)
        ended = time.time()
        assert runs.read_record(directory).status == "NotResponding"
    until(lambda: runs.read_record(directory).status == "Running")
    go(box)
    assert_completed(directory, box)
    moments = assert_whole(directory)
    # it went on meanwhile
    assert len([one for one in moments if began < one < ended]) > (ended - began) * 20


@pytest.mark.parametrize("how", ["master", "sshd", "restart", "freeze", "cut"])
def test_R4_R6_a_run_outlives_its_connection(box: Box, remote_project: Path, how: str) -> None:
    directory = submit(remote_project, COUNTING)
    wait_for(directory, "line 20")
    for _ in range(2):
        if how == "master":
            machines.end_connections(os.environ["AML_HOME"])
        elif how == "sshd":
            box.sshd.stop()
            until(lambda: runs.read_record(directory).status == "NotResponding")
            box.sshd.start()
        elif how == "restart":
            box.sshd.stop()
            box.sshd.start()
        else:
            getattr(box.line, how)()
        printed = len(machines.log(directory).splitlines())
        wait_for(directory, f"line {printed + 20}")
    go(box)
    assert_completed(directory, box)
    assert_whole(directory)


def test_R4_a_request_to_end_waits_for_the_line(box: Box, remote_project: Path) -> None:
    directory = submit(remote_project, COUNTING)
    wait_for(directory, "line 20")
    box.sshd.stop()
    until(lambda: runs.read_record(directory).status == "NotResponding")
    experiment.cancel(directory)
    machines.pause(2)
    assert not machines.gone(machines.supervisor(directory))
    box.sshd.start()
    record = experiment.wait(directory, 60)
    assert (record.status, record.reason) == ("Canceled", "canceled")
    until(lambda: not box.left())


def test_R4_a_run_ends_without_a_machine_that_was_given_up(box: Box, remote_project: Path) -> None:
    directory = submit(remote_project, COUNTING)
    wait_for(directory, "line 20")
    box.sshd.stop()
    until(lambda: runs.read_record(directory).status == "NotResponding")
    experiment.cancel(directory, kill=True)
    machines.pause(1)
    assert not machines.gone(machines.supervisor(directory))
    experiment.cancel(directory, abandon=True)
    record = experiment.wait(directory, 60)
    assert (record.status, record.reason) == ("Canceled", "run.abandoned")
    assert "aml targets sweep box" in record.warnings[-1]
    assert "line 20" in machines.log(directory)
    box.sshd.start()
    assert aml("targets", "sweep", "box").returncode == 0
    until(lambda: not box.left())


def test_R4_a_machine_that_is_away_is_asked_ever_less_often(box: Box, remote_project: Path) -> None:
    directory = submit(remote_project, COUNTING)
    wait_for(directory, "line 20")
    box.sshd.stop()
    until(lambda: runs.read_record(directory).status == "NotResponding")
    with socket.create_server(("127.0.0.1", box.sshd.port), reuse_port=False) as listener:
        listener.settimeout(0.5)
        asked, due = 0, time.monotonic() + 20
        while time.monotonic() < due:
            try:
                listener.accept()[0].close()
                asked += 1
            except TimeoutError:
                continue
    assert 1 <= asked <= 30, asked
    box.sshd.start()
    go(box)
    assert_completed(directory, box)
    assert_whole(directory)


# --- the line breaks while outputs are brought --------------------------------------------------------------

OUTPUTS = f"""
import os, random, time
{machines.STARTED}
random.seed(1)
for number in range(24):
    open("outputs/%03d" % number, "wb").write(random.randbytes(262144))
print("written", flush=True)
while not os.path.exists(share + "go"):
    time.sleep(0.05)
"""


@pytest.mark.parametrize("seed", range(4))
def test_R3_a_line_that_is_cut_while_outputs_are_brought_loses_none(
    box: Box, remote_project: Path, seed: int
) -> None:
    random.seed(seed)
    directory = submit(remote_project, OUTPUTS)
    wait_for(directory, "written")
    box.line.rate = 12e6
    size = random.randrange(100_000, 6_000_000)
    box.line.cut_after(size, way="down", how=("cut", "freeze")[seed % 2])
    before = box.line.down
    go(box)
    record = experiment.wait(directory, 90)
    assert record.status == "Completed", told(directory)
    assert not box.line.armed
    assert record.artifacts == 24
    assert not [one for one in record.warnings if "output" in one]
    expected = random.Random(1)
    for number in range(24):
        path = Path(directory.home, f"artifacts/ExperimentRun/{directory.run_id}/outputs/{number:03}")
        assert path.read_bytes() == expected.randbytes(262144)
    # what had come is not brought again, but for what was on its way
    assert box.line.down - before < 24 * 262144 * 1.1 + 2_500_000
    until(lambda: not box.left())


# --- an answer is lost --------------------------------------------------------------------------------------


class Between:
    """A socket before an engine's that cuts the line when requests with some patterns have gone through."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.texts: list[bytes] = []
        self.done = False
        self.ends: list[socket.socket] = []
        self.folder = tempfile.mkdtemp(prefix="aml-between-")
        self.path = self.folder + "/socket"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)

    def __enter__(self) -> Between:
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)
        for end in self.ends:
            end.close()
        shutil.rmtree(self.folder)

    def serve(self) -> None:
        while True:
            try:
                here = self.listener.accept()[0]
            except OSError:
                return
            there = socket.socket(socket.AF_UNIX)
            there.connect(self.box.engine.socket)
            self.ends += [here, there]
            threading.Thread(target=self.carry, args=(here, there, True), daemon=True).start()
            threading.Thread(target=self.carry, args=(there, here, False), daemon=True).start()

    def carry(self, source: socket.socket, sink: socket.socket, asking: bool) -> None:
        with suppress(OSError):
            while block := source.recv(65536):
                cut = asking and self.is_last(block)
                if cut:  # nobody is left to hear the answer
                    self.box.line.freeze()
                sink.sendall(block)
                if cut:
                    time.sleep(0.3)
                    self.box.line.cut()
                    self.done = True
            sink.shutdown(socket.SHUT_WR)

    def is_last(self, block: bytes) -> bool:
        if self.texts and re.search(self.texts[0], block):
            del self.texts[0]
            return not self.texts
        return False


CREATE, START = rb"create\?name=aml-project_\d+-[0-9a-f]{8} ", b"/start HTTP"


@pytest.mark.parametrize(
    ("texts", "secrets"),
    [
        ([rb"create\?name=\S+-receive-"], {}),
        ([CREATE], {}),
        ([CREATE, START], {}),
        ([CREATE, START], {"KEY": "sesame"}),
        ([CREATE, rb"/attach\?stream=1&stdin=1 HTTP"], {"KEY": "sesame"}),
    ],
    ids=["receive", "create", "start", "start-secret", "secret"],
)
def test_R5_a_start_whose_answer_is_lost_is_found_and_never_repeated(
    box: Box,
    remote_project: Path,
    monkeypatch: pytest.MonkeyPatch,
    texts: list[bytes],
    secrets: dict[str, str],
) -> None:
    with Between(box) as between:
        box.use(remote_project, monkeypatch, dockerHost=f"unix://{between.path}")
        (remote_project / "script.py").write_text(COUNTING)
        directory = experiment.write(
            experiment.plan(Request(script="script.py", target="box", secrets=secrets))
        )
        between.texts = list(texts)
        Starter().go(directory.path, secrets)
        until(lambda: between.done, 60)
        wait_for(directory, "line 5")
        assert len(box.engine.containers(f"label=aml.run={directory.run_id}", "label=aml.role=run")) == 1
        go(box)
        assert_completed(directory, box)
        assert_whole(directory)
