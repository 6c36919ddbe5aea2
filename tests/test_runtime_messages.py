"""What the user's processes may send to the runtime, and what it makes of anything else."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.runtime_job import NEWEST, OLDEST, SENDER, VERSIONS, RuntimeJob


@pytest.fixture(params=sorted({OLDEST, NEWEST}))
def python(request: pytest.FixtureRequest) -> str:
    return VERSIONS[request.param]


def run(tmp_path: Path, script: str, python: str = VERSIONS[NEWEST], **request: object) -> RuntimeJob:
    job = RuntimeJob(tmp_path, SENDER + script, python, **request)
    ending = job.run()
    assert ending["exit_code"] == 0, job.log
    assert job.diagnosis() == ""
    return job


def test_text_messages_keep_the_order_of_both_streams(tmp_path: Path, python: str) -> None:
    job = run(tmp_path, "for n in range(500): send((b'o' if n % 2 else b'e') + b'%d\\n' % n)", python)
    assert job.log == b"".join(b"%d\n" % n for n in range(500))
    assert job.stderr() == b"".join(b"%d\n" % n for n in range(0, 500, 2))


def test_a_message_becomes_an_event_at_its_place_in_the_log(tmp_path: Path, python: str) -> None:
    script = """
send(b"ohello\\n")
send_json(type="display", data={"text/plain": "x"}, metadata={}, seq=99, utc="never", m=-1, at=-1)
send(b"obye\\n")
send_json(type="metric", name="loss", value=0.5, step=3)
"""
    job = run(tmp_path, script, python)
    display, metric = job.events("display")[0], job.events("metric")[0]
    assert (display["at"], metric["at"]) == (6, 10)
    assert display["seq"] < metric["seq"] < 10
    assert display["data"] == {"text/plain": "x"}
    assert display["m"] >= 0
    assert (metric["name"], metric["value"], metric["step"]) == ("loss", 0.5, 3)


def streams_of(events: bytes, size: int) -> bytes:
    """For each of the first `size` bytes of a log the letter of the stream that the events say, o or e."""
    said = bytearray(b"o" * size)
    for event in map(json.loads, events[: events.rfind(b"\n") + 1].splitlines()[1:]):
        if event["type"] == "stderr":
            end = size if event.get("more") else min(event["end"], size)
            start = min(event["start"], size)
            said[start:] = b"e" * (end - start) + b"o" * (size - end)
    return bytes(said)


def test_whoever_sees_a_byte_knows_its_stream_and_what_happened_before_it(
    tmp_path: Path, python: str
) -> None:
    # each message names a payload, which takes the runtime a while to check
    script = """
for n in range(150):
    send(b"e" * 51)  # the first letter is the stream
    send(b"e" * 51)
    send_json(type="value", name="z", encoding="bytes", file=store(b"%d" % n * 300000))
    send(b"o" * 101 if n % 3 else b"e" * 101)
"""
    job = RuntimeJob(tmp_path, SENDER + script, python)
    process = job.start()
    looks = set()
    while process.poll() is None:
        log = job.log
        path = job.job / "events.jsonl"
        events = path.read_bytes() if log else b""
        assert streams_of(events, len(log)) == log
        assert events.count(b'"value"') >= (len(log) - 1) // 200
        looks.add(len(log))
    job.wait()
    assert len(looks) > 10
    assert len(job.log) == 30000


def test_stderr_is_told_before_what_happened_behind_it(tmp_path: Path, python: str) -> None:
    script = """
send_json(type="error", ename="E", evalue="", traceback=["line"], printed=True)
send(b"e" * 61)
send(b"e" * 65)
send_json(type="value", name="z", encoding="bytes", file=store(b"z" * 1000))
"""
    events = run(tmp_path, script, python).events()
    kinds = [(event["type"], event["at"]) for event in events]
    assert kinds[1:-1] == [("error", 0), ("stderr", 0), ("value", 124), ("stderr", 124)]
    assert (events[2]["start"], events[2]["more"]) == (0, True)
    assert (events[4]["start"], events[4]["end"]) == (0, 124)


def test_stderr_that_grows_for_long_is_two_events(tmp_path: Path) -> None:
    script = """
for n in range(100):
    send(b"e%d\\n" % n)
    time.sleep(0.002)
"""
    job = run(tmp_path, script)
    assert len(job.events("stderr")) == 2
    assert job.stderr() == job.log


def test_what_json_cannot_hold_becomes_text(tmp_path: Path, python: str) -> None:
    script = """
send(b'j{"type": "metric", "name": "a", "value": NaN}')
send(b'j{"type": "metric", "name": "b", "value": [-Infinity, 1e999, -1e999, 1]}')
send(b'j{"type": "metric", "name": "\\\\ud800", "value": "\\xff"}')
"""
    job = run(tmp_path, script, python)
    assert [event["value"] for event in job.events("metric")] == [
        "NaN",
        ["-Infinity", "Infinity", "-Infinity", 1],
        "�",
    ]


HOSTILE = {
    "empty": b"",
    "unknown kind": b"x123",
    "no JSON": b"jhello",
    "half JSON": b'j{"type": "disp',
    "two values": b"j{} {}",
    "a list": b"j[1]",
    "no type": b'j{"data": 1}',
    "type of another type": b'j{"type": 7}',
    "odd type": b'j{"type": "a b"}',
    "type in other letters": 'j{"type": "й"}'.encode(),
    "long type": b'j{"type": "' + b"a" * 500 + b'"}',
    "our own type": b'j{"type": "ended", "exit_code": 0}',
    "our stderr": b'j{"type": "stderr", "start": 0, "end": 5}',
    "display without data": b'j{"type": "display"}',
    "display of text": b'j{"type": "display", "data": "x"}',
    "metadata of text": b'j{"type": "result", "data": {"a": "b"}, "metadata": 3}',
    "error of numbers": b'j{"type": "error", "ename": "a", "evalue": "b", "traceback": [1]}',
    "metric without name": b'j{"type": "metric", "value": 1}',
    "metric with a long name": b'j{"type": "metric", "name": "' + b"n" * 5000 + b'"}',
    "value without file": b'j{"type": "value", "name": "a", "encoding": "json"}',
    "value with a path": b'j{"type": "value", "name": "a", "encoding": "json", "file": "../../etc/passwd"}',
    "value with a link's length": b'j{"type": "value", "name": "a", "encoding": "json", "file": "'
    + b"/" * 64
    + b'"}',
    "payload of a number": b'j{"type": "display", "data": {"image/png": {"$data": 5}}}',
    "payload that is not there": b'j{"type": "display", "data": {"image/png": {"$data": "'
    + b"0" * 64
    + b'"}}}',
    "deep": b'j{"type": "metric", "name": "a", "value": ' + b"[" * 60000 + b"]" * 60000 + b"}",
    "deep enough to parse": b'j{"type": "metric", "name": "a", "value": ' + b"[" * 900 + b"]" * 900 + b"}",
    "many digits": b'j{"type": "metric", "name": "a", "value": ' + b"9" * 100000 + b"}",
    "binary": b"j" + bytes(range(256)) * 100,
}


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if name not in ("deep enough to parse", "many digits")]
)
def test_a_hostile_message_becomes_a_warning(tmp_path: Path, name: str) -> None:
    script = f"send(bytes.fromhex('{HOSTILE[name].hex()}'))\nsend_json(type='metric', name='after', value=1)"
    job = run(tmp_path, script, VERSIONS[NEWEST])
    assert 1 <= len(job.warnings()) <= 2
    assert [event["name"] for event in job.events("metric")] == ["after"]


def test_all_hostile_messages_together_stop_nothing(tmp_path: Path, python: str) -> None:
    sends = "\n".join(f"send(bytes.fromhex('{data.hex()}'))" for data in HOSTILE.values())
    job = run(tmp_path, sends + "\nsend_json(type='metric', name='after', value=1)", python)
    assert job.events("metric")[-1]["name"] == "after"


def test_random_messages_stop_nothing(tmp_path: Path, python: str) -> None:
    script = """
import random
random.seed(7)
good = b'j{"type": "display", "data": {"text/plain": {"$data": "' + b"a" * 64 + b'"}}, "metadata": {}}'
for _ in range(3000):
    data = bytearray(good)
    for _ in range(random.randrange(1, 6)):
        data[random.randrange(len(data))] = random.randrange(256)
    send(bytes(data[: random.randrange(len(data))] if random.random() < 0.3 else data))
send_json(type="metric", name="after", value=1)
"""
    job = run(tmp_path, script, python)
    assert job.events("metric")[-1]["name"] == "after"
    assert len(job.events()) < 1000


def test_a_message_over_the_limit_is_ignored(tmp_path: Path, python: str) -> None:
    script = """
_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
send(b"o" + b"x" * 300_000)
send(b"oafter")
"""
    job = run(tmp_path, script, python)
    assert job.warnings() == ["message.too_big"]
    assert job.log == b"after"


def test_descriptors_sent_along_are_not_kept(tmp_path: Path) -> None:
    script = """
import array
for _ in range(2000):
    _socket.sendmsg([b"o."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
"""
    assert len(run(tmp_path, script).log) == 2000


def test_payloads_are_checked_and_kept(tmp_path: Path, python: str) -> None:
    script = """
name = store(b"p" * 3_000_000)
send_json(type="value", name="v", encoding="bytes", file=name)
png = {"$data": name, "size": 1, "more": 2}
send_json(type="display", data={"image/png": png, "text/plain": "p"}, metadata={})
"""
    job = run(tmp_path, script, python)
    digest = hashlib.sha256(b"p" * 3_000_000).hexdigest()
    assert job.events("value")[0]["file"] == digest
    assert job.events("display")[0]["data"] == {
        "image/png": {"$data": digest, "size": 3_000_000},
        "text/plain": "p",
    }
    assert job.warnings() == []


def test_a_long_text_moves_to_a_file(tmp_path: Path, python: str) -> None:
    job = run(
        tmp_path,
        "send_json(type='display', data={'text/html': 'h' * 70000, 'text/plain': 'p'}, metadata={})",
        python,
    )
    reference = job.events("display")[0]["data"]["text/html"]
    assert reference == {"$data": hashlib.sha256(b"h" * 70000).hexdigest(), "size": 70000}
    assert (job.job / "data" / reference["$data"]).read_bytes() == b"h" * 70000


def test_a_bad_payload_is_refused_and_what_else_there_is_is_shown(tmp_path: Path, python: str) -> None:
    script = """
data = os.environ["AML_JOB"] + "/data/"
damaged = store(b"one thing", hashlib.sha256(b"another").hexdigest())
fifo, link, folder, device = ("%064x" % n for n in range(4))
os.mkfifo(data + fifo)
os.mkdir(data + folder)
os.symlink("/etc/passwd", data + link)
os.symlink("/dev/zero", data + device)
for name in (damaged, fifo, link, folder, device, "../request.json", "A" * 64, ""):
    send_json(type="display", data={"image/png": {"$data": name}, "text/plain": "p"}, metadata={})
    send_json(type="value", name="v", encoding="bytes", file=name)
"""
    job = run(tmp_path, script, python)
    assert [event["data"] for event in job.events("display")] == [{"text/plain": "p"}] * 8
    assert job.events("value") == []
    assert len(job.warnings()) == 16
    assert "data.damaged" in job.warnings()
    assert not (job.job / "data" / hashlib.sha256(b"another").hexdigest()).exists()
    assert (job.job / "request.json").exists()


def test_payloads_have_a_budget(tmp_path: Path) -> None:
    script = """
for n in range(5):
    send_json(type="value", name="v%d" % n, encoding="bytes", file=store(b"%d" % n * 1000))
"""
    job = run(tmp_path, script, data_bytes=2500)
    assert [event["name"] for event in job.events("value")] == ["v0", "v1"]
    assert job.warnings() == ["data.limit"] * 3
    assert len(os.listdir(job.job / "data")) == 2
    job = run(tmp_path / "count", script, data_files=3)
    assert len(job.events("value")) == 3


def test_a_job_that_takes_away_its_data_folder_goes_on(tmp_path: Path) -> None:
    script = """
import shutil
job = os.environ["AML_JOB"]
shutil.rmtree(job + "/data"); os.symlink("/etc", job + "/data")
send_json(type="display", data={"text/html": "h" * 70000}, metadata={})
send_json(type="metric", name="after", value=1)
"""
    job = run(tmp_path, script)
    assert "data.lost" in job.warnings()
    assert job.events("metric")


def test_warnings_of_a_kind_are_bounded(tmp_path: Path) -> None:
    script = """
for n in range(5000):
    send(b"x")
for n in range(500):
    send_json(type="warning", code="c%d" % n, text="t")
"""
    job = run(tmp_path, script)
    assert len(job.events("warning")) <= 100 * 3 + 200
    assert job.events("ended")[0]["warnings"]["message.unknown"] == 5000


def test_forked_processes_send_at_once_and_nothing_is_lost(tmp_path: Path, python: str) -> None:
    script = """
for worker in range(8):
    if os.fork() == 0:
        for n in range(500):
            send_json(type="metric", name="m%d" % worker, value=n)
        os._exit(0)
for _ in range(8):
    os.wait()
"""
    job = run(tmp_path, script, python)
    values: dict[str, list[int]] = {}
    for event in job.events("metric"):
        values.setdefault(event["name"], []).append(event["value"])
    assert len(values) == 8
    assert all(found == list(range(500)) for found in values.values())


@pytest.mark.slow
def test_output_flows_while_a_large_payload_is_checked(tmp_path: Path) -> None:
    script = """
import signal
name = store(b"p" * 200_000_000)
runtime, job = os.getppid(), os.environ["AML_JOB"]
printing = os.fork()
if printing == 0:
    while True:
        os.write(1, b"x" * 4096)
        time.sleep(0.001)
def state():
    return open("/proc/%d/stat" % runtime).read().rpartition(")")[2].split()[0]
def told(kind):
    return open(job + "/events.jsonl").read().count('"type":"%s"' % kind)
for number in range(1, 6):  # a file that has changed is checked again
    os.utime(job + "/data/" + name, (number, number))
    os.kill(runtime, signal.SIGSTOP)
    while state() != "T":
        time.sleep(0.001)
    send_json(type="value", name="v", encoding="bytes", file=name)
    send_json(type="metric", name="after", value=number)
    os.kill(runtime, signal.SIGCONT)
    while told("metric") < number:
        time.sleep(0.01)
os.kill(printing, signal.SIGKILL)
os.waitpid(printing, 0)
"""
    job = run(tmp_path, script)
    # both messages waited in the socket: what lies between them was read while the payload was; once of five
    # times will do, as a busy machine may leave no turn to the process that prints
    pairs = zip(job.events("value"), job.events("metric"), strict=True)
    assert any(after["at"] > before["at"] for before, after in pairs)


def test_events_stay_whole_json_lines(tmp_path: Path) -> None:
    job = run(tmp_path, "for n in range(20000): send_json(type='metric', name='m', value=n)")
    lines = (job.job / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines[1:]] == list(range(1, len(lines)))
    assert [event["value"] for event in job.events("metric")] == list(range(20000))
