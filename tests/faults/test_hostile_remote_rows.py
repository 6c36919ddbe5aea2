"""What a machine behind ssh may answer that is not what was asked: nothing of it leaves the run directory."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import socket
import socketserver
import struct
import tarfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aml_jupyter.connection import Answer, Connection
from aml_jupyter.errors import AmlError, ArtifactError, EnvironmentFailed, TargetUnavailable
from aml_jupyter.executors.docker.engine import Engine, EngineRefused
from aml_jupyter.executors.docker.gathering import gather
from aml_jupyter.executors.docker.installing import lines_of
from aml_jupyter.executors.docker.looking import on_machine
from aml_jupyter.executors.docker.mirroring import Mirror
from aml_jupyter.executors.docker.sending import Parcel, Sending
from aml_jupyter.job import Job
from tests.executors.docker_jobs import maker
from tests.sshd import Sshd

pytestmark = pytest.mark.faults

LIMIT = 1 << 20


# --- files of job/ ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    with Sshd(MaxSessions=30) as server:
        yield server.connect()


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """`job/` of a run as it lies on the other machine."""
    folder = tmp_path / "there"
    (folder / "data").mkdir(parents=True)
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """`job/` of that run here; `tmp_path/outside` is what must not be written."""
    folder = tmp_path / "run/job"
    folder.mkdir(parents=True)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_R14_links_and_folders_in_the_place_of_files_are_not_read(
    connection: Connection, there: Path, here: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of another one")
    for name in ("log", "events.jsonl", "started.json", "exit.json", f"data/{'a' * 64}"):
        (there / name).symlink_to(secret)
    (there / "heartbeat").mkdir()
    assert not Mirror(connection, str(there), str(here), LIMIT).bring()
    assert names(here) == []


def test_R14_payloads_come_by_their_hash_or_not_at_all(
    connection: Connection, there: Path, here: Path
) -> None:
    content = b"a picture"
    good = hashlib.sha256(content).hexdigest()
    (there / "data" / good).write_bytes(content)
    for name in ("f" * 64, good.upper(), good[:-1], good + "0", "..", "x\ny", "-rf", "$(touch it)", "ä" * 64):
        if name != "..":
            (there / "data" / name[:120]).write_bytes(b"not that")
    assert Mirror(connection, str(there), str(here), LIMIT).bring()
    assert names(here) == [f"data/{good}"]


def test_R14_a_log_over_its_limit_is_not_brought(connection: Connection, there: Path, here: Path) -> None:
    with open(there / "log", "wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(TargetUnavailable) as caught:
        Mirror(connection, str(there), str(here), LIMIT).bring()
    assert caught.value.code == "budget.bytes"
    assert not (here / "log").exists()


@pytest.mark.parametrize(
    "ending",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"[" * 100_000,
        b'{"format": 99}',
        b'{"format": 1}',
        b'{"format": 1, "run_id": "r", "exit_code": "0", "signal": null}',
        b'{"format": 1, "run_id": "r", "exit_code": 0, "signal": null, "duration": "long"}',
        b'{"format": 1, "run_id": "r", "exit_code": 0, "signal": [], "duration": 1}',
    ],
)
def test_R14_an_ending_that_is_none_ends_nothing(
    connection: Connection, there: Path, here: Path, ending: bytes
) -> None:
    (there / "exit.json").write_bytes(ending)
    with pytest.raises(TargetUnavailable) as caught:
        Mirror(connection, str(there), str(here), LIMIT).bring()
    assert caught.value.code == "store.unavailable"
    assert not (here / "exit.json").exists()


class Liar:
    """A connection whose machine answers what it likes."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked = 0

    def stream(self, _command: str, **_limits: float) -> Answer:
        self.asked += 1
        return Answer(code=0, out=self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])

    def read(self, _path: str, _position: int, limit: int) -> bytes:
        return bytes(limit)


REST = b"started.json -1 0\nheartbeat -1 0\nruntime.log -1 0\nexit.json -1 0\n1 1\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\n",
        b"log\n",
        b"log x 0\n",
        b"log 1 -5\nabc",
        b"log 5 999999999999\nabc",
        b"log 99999999999999999999999 0\n",
        b"log 5 7\nabcdefg" + REST,
        b"../../.ssh/authorized_keys 4 4\nevil" + REST,
        b"log 4 4\nevil/etc/passwd 4 4\nevil" + REST,
        b"log 5 5\nabc",
        b"log \xff 0\n",
        b"log " + b"1" * 5000 + b" 0\n",
    ],
)
def test_R14_an_answer_of_another_form_brings_nothing(here: Path, answer: bytes) -> None:
    with pytest.raises(TargetUnavailable) as caught:
        Mirror(Liar(answer), "/there", str(here), LIMIT).bring()  # type: ignore[arg-type]
    assert caught.value.code == "target.unreachable"
    assert names(here) == []


def test_R14_a_log_that_is_promised_and_never_given_is_not_waited_for(here: Path) -> None:
    liar = Liar(b"log 1000 0\nevents.jsonl 1000 0\n" + REST)
    assert not Mirror(liar, "/there", str(here), LIMIT).bring()  # type: ignore[arg-type]
    assert liar.asked == 1


def test_R14_a_payload_without_an_end_is_given_up(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aml_jupyter.executors.docker.mirroring.LARGEST_PAYLOAD", 8 << 20)
    name = "ab" * 32
    listing = b"log -1 0\nevents.jsonl -1 0\n" + REST + name.encode() + b"\n"
    liar = Liar(listing, b"%s 99999999 4\nabcd" % name.encode())
    assert not Mirror(liar, "/there", str(here), LIMIT).bring()  # type: ignore[arg-type]
    assert names(here) == []


# --- an engine that serves what it likes --------------------------------------------------------------------


class HostileEngine:
    """Speaks as an engine does until a container is attached to; then `serve` has the connection."""

    def __init__(self, path: str, serve: Callable[[socket.socket], None]) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += self.request.recv(65536)
                words = head.split(b" ")
                if b"/attach" in words[1]:
                    self.request.sendall(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
                    with_suppressed(lambda: serve(self.request))
                    return
                body = b'{"Id": "c0ffee"}' if b"/create" in words[1] else b""
                answer = b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                self.request.sendall(answer)

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        self.server = Server(path, Handler)

    def __enter__(self) -> HostileEngine:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def with_suppressed(call: Callable[[], None]) -> None:
    try:
        call()
    except OSError:  # the other end has had enough
        return


def frame(data: bytes, stream: int = 1) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


@pytest.fixture
def job(tmp_path: Path, home: str) -> Job:
    made = maker(tmp_path, home, "remotedocker", {"name": "box", "address": "box"})("print(1)")
    facts = {"image": "sha256:1", "python": "/usr/bin/python3"}
    Path(made.directory, "prepared.json").write_text(json.dumps(facts))
    return made


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], Any]]:
    """A place whose engine serves so."""
    engines: list[HostileEngine] = []

    def made(serve: Callable[[socket.socket], None]) -> Any:
        path = f"{tmp_path}/engine{len(engines)}"
        engines.append(HostileEngine(path, serve).__enter__())
        return SimpleNamespace(
            engine=lambda: Engine(path, where="box"),
            user=lambda: "0:0",
            folder=lambda: "/there",
            target={"name": "box", "address": "box"},
        )

    yield made
    for engine in engines:
        engine.__exit__()


def answers(*data: bytes) -> Callable[[socket.socket], None]:
    """Answer so, and end."""

    def serve(line: socket.socket) -> None:
        for one in data:
            line.sendall(one)
        line.shutdown(socket.SHUT_WR)
        while line.recv(65536):
            pass

    return serve


@pytest.mark.parametrize(
    ("served", "code"),
    [
        ((frame(b'{"missing": [-1]}\n'),), "store.unavailable"),
        ((frame(b'{"missing": [1000000]}\n'),), "store.unavailable"),
        ((frame(b'{"missing": "all"}\n'),), "store.unavailable"),
        ((frame(b'{"missing": {"a": 1}}\n'),), "store.unavailable"),
        ((frame(b"[1, 2]\n"),), "store.unavailable"),
        ((frame(b"GET / HTTP/1.1\n"),), "store.unavailable"),
        ((frame(b'{"missing": []}\n{"done": false}\n'),), "store.unavailable"),
        ((frame(b'{"missing": [0]}\n{"missing": [0]}\n'),), "store.unavailable"),
        ((frame(b'{"error": "No space", "errno": 28}\n'),), "store.no_space"),
        ((frame(b'{"error": ["x"], "errno": "28"}\n'),), "store.unavailable"),
    ],
)
def test_R14_a_helper_that_answers_otherwise_gets_nothing_laid_out(
    job: Job, serving: Callable[..., Any], served: tuple[bytes, ...], code: str
) -> None:
    place = serving(answers(*served))
    with pytest.raises(TargetUnavailable) as caught:
        Sending(place, job, Parcel(job, "run", "1"), lambda _: None).surely()
    assert caught.value.code == code


def test_R14_a_helper_that_never_ends_its_answer_is_cut_off(job: Job, serving: Callable[..., Any]) -> None:
    def serve(line: socket.socket) -> None:
        line.sendall(struct.pack(">BxxxL", 1, 0xFFFFFFFF))
        while True:
            line.sendall(bytes(1 << 20))

    place = serving(serve)
    with pytest.raises(TargetUnavailable, match="does not end its answer"):
        Sending(place, job, Parcel(job, "run", "1"), lambda _: None).surely()


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data) if data else None)
    return out.getvalue()


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), target
    return info, data


DONE = frame(b'{"done": true}\n', 2)


def test_R14_members_with_names_of_elsewhere_stay_out(
    job: Job, serving: Callable[..., Any], tmp_path: Path
) -> None:
    evil = b"evil"
    whole = archive(
        member("azureml-run/outputs/good", b"good"),
        member("azureml-run/../../escaped", evil),
        member("/etc/escaped", evil),
        member("azureml-run//etc/escaped", evil),
        member("elsewhere/escaped", evil),
        member("azureml-run/folder", b"", tarfile.SYMTYPE, str(tmp_path)),
        member("azureml-run/folder/escaped", evil),
        member("azureml-run/hard", b"", tarfile.LNKTYPE, "azureml-run/../../project0/script.py"),
        member("azureml-run/device", b"", tarfile.CHRTYPE),
    )
    place = serving(answers(frame(whole), DONE))
    before = names(tmp_path)
    gather(place, job, job.work)
    assert Path(job.work, "outputs/good").read_bytes() == b"good"
    assert not list(tmp_path.rglob("escaped"))
    assert not Path("/etc/escaped").exists()
    assert not Path(job.work, "hard").exists()
    assert {name for name in names(tmp_path) if not name.startswith("run0/work")} == {*before}


def test_R14_of_the_outputs_so_far_only_those_come_that_were_asked_for(
    job: Job, serving: Callable[..., Any]
) -> None:
    claimed = member("azureml-run/outputs/claimed", b"")
    claimed[0].pax_headers = {"AML.size": "-5"}
    whole = archive(
        member("azureml-run/outputs/good", b"good"),
        member("azureml-run/outputs/good", b"again"),
        claimed,
        member("azureml-run/outputs/../escaped", b"evil"),
        member("azureml-run/outputs", b"evil"),
        member("azureml-run/script.py", b"evil"),
        member("azureml-run/../../escaped", b"evil"),
        member("/azureml-run/outputs/escaped", b"evil"),
        member("azureml-run/outputs2/escaped", b"evil"),
        member("azureml-run/outputs/link", b"", tarfile.SYMTYPE, "/etc/passwd"),
        member("azureml-run/outputs/hard", b"", tarfile.LNKTYPE, "azureml-run/script.py"),
        member("azureml-run/outputs/device", b"", tarfile.CHRTYPE),
    )
    taken: list[tuple[str, int, bytes]] = []

    def take(path: str, size: int, data: Iterator[bytes]) -> None:
        taken.append((path, size, b"".join(data)))

    on_machine(serving(answers(frame(whole), DONE)), job, "outputs", take, content=True)
    assert taken[:2] == [("outputs/good", 4, b"good"), ("outputs/claimed", 0, b"")]
    assert [path for path, _, _ in taken[2:]] == ["outputs"]
    for served, error, code in (
        ((frame(whole[:700]), DONE), ArtifactError, "artifact.invalid"),
        ((frame(whole),), TargetUnavailable, "target.unreachable"),
        ((frame(b'{"error": "no", "errno": 2}\n', 2),), ArtifactError, "artifact.invalid"),
        ((frame(whole), frame(bytes(3 << 20)), DONE), TargetUnavailable, "store.unavailable"),
    ):
        with pytest.raises(error) as caught:
            on_machine(serving(answers(*served)), job, "outputs", take, content=False)
        assert caught.value.code == code


@pytest.mark.parametrize("size", [10 << 40, (1 << 63) - 1])
def test_R14_a_file_of_more_bytes_than_the_disk_has_is_refused_before_it_comes(
    job: Job, serving: Callable[..., Any], size: int
) -> None:
    info = tarfile.TarInfo("azureml-run/outputs/huge")
    info.size = size
    place = serving(answers(frame(info.tobuf(tarfile.PAX_FORMAT) + bytes(1 << 20)), DONE))
    with pytest.raises(ArtifactError) as caught:
        gather(place, job, job.work)
    assert caught.value.code == "artifact.too_big"
    assert not os.path.exists(job.work)


def test_R14_an_archive_that_breaks_off_can_be_asked_for_again(job: Job, serving: Callable[..., Any]) -> None:
    whole = archive(
        member("azureml-run/outputs/a", b"a" * 5000), member("azureml-run/outputs/b", b"b" * 5000)
    )
    for cut in (0, 300, 700, 6000, len(whole) // 2):
        with pytest.raises(TargetUnavailable) as caught:
            gather(serving(answers(frame(whole[:cut]))), job, job.work)
        assert caught.value.passing
        assert not os.path.exists(job.work)
    gather(serving(answers(frame(whole), DONE)), job, job.work)
    assert Path(job.work, "outputs/b").read_bytes() == b"b" * 5000


def test_R14_what_follows_an_archive_is_not_taken_without_end(job: Job, serving: Callable[..., Any]) -> None:
    def serve(line: socket.socket) -> None:
        line.sendall(frame(archive(member("azureml-run/outputs/a", b"a"))))
        while True:
            line.sendall(frame(bytes(1 << 20)))

    with pytest.raises(AmlError) as caught:
        gather(serving(serve), job, job.work)
    assert caught.value.code == "store.unavailable"
    assert not os.path.exists(job.work)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    ],
)
def test_R14_an_engine_that_does_not_speak_its_own_language_is_an_error_of_ours(
    tmp_path: Path, said: bytes
) -> None:
    path = f"{tmp_path}/engine"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)

        def serve() -> None:
            line = listener.accept()[0]
            with line:
                line.recv(65536)
                line.sendall(said)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises((TargetUnavailable, EngineRefused)):
            Engine(path).version()
        thread.join(10)


@pytest.mark.parametrize("body", [b"", b"4\r\nabcd"])
def test_R14_an_archive_with_a_line_that_does_not_end_is_given_up(tmp_path: Path, body: bytes) -> None:
    path = f"{tmp_path}/engine"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)

        def serve() -> None:
            with listener.accept()[0] as line:
                line.recv(65536)
                line.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
                # an end all the same, for a reader that would wait for it
                with_suppressed(lambda: line.sendall(b"1" * (64 << 20)))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        began = time.monotonic()
        with Engine(path).get_archive("c0ffee", "/work") as blocks, pytest.raises(EngineRefused) as caught:
            b"".join(blocks)
        assert "a line that does not end" in caught.value.message
        thread.join(10)
        assert time.monotonic() - began < 5


def test_R14_what_a_build_prints_is_read_in_lines_whatever_the_blocks() -> None:
    said = b"one\ntwo\r\nthr\xc3\xa9e\rfour\n\nlast"
    expected = ["one", "two", "thr\xe9e", "four", "", "last"]
    assert list(lines_of([said], "pip")) == expected
    halves = ([said[:at], said[at:]] for at in range(len(said)) if said[at - 1 : at + 1] != b"\r\n")
    assert all(list(lines_of(parts, "pip")) == expected for parts in halves)


@pytest.mark.parametrize("block", [b"x" * 32768, b"\n" * 32768, b"ab\n" * 1000, b"x"])
def test_R14_a_build_that_prints_without_end_is_ended_in_time(block: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(EnvironmentFailed) as caught:
        deque(lines_of(itertools.repeat(block), "pip install"), maxlen=0)
    assert caught.value.message.partition(";")[0].endswith("pip install: its output does not end")
    assert time.monotonic() - began < 20
