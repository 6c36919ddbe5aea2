"""What a run prints is kept without its secrets, however it is cut, and nothing else of it changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime_job import NEWEST, OLDEST, SENDER, VERSIONS, RuntimeJob

masking: Any = import_module("aml_jupyter.runtime.masking")
PLANTED = 'pl4nted "välue"/+=='
KEY = "Zm9ybXVsYXRlZCBub3doZXJl"
CONNECTION = f"BlobEndpoint=http://127.0.0.1/;AccountName=me;AccountKey={KEY};"
PEM = "-----BEGIN KEY-----\nMIIEvgIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----\n"
PRINTS = f"""{SENDER}
from functools import partial
print = partial(print, flush=True)
token, connection, pem = os.environ["TOKEN"], os.environ["CONNECTION"], os.environ["PEM"]
print("whole", token, "and", token + token)
data = token.encode()
for number in range(len(data)):
    os.write(1, data[number : number + 1])
    os.write(2, data[number : number + 1])
    time.sleep(0.003)
print()
print(dict(connection=connection), connection.split("AccountKey=")[1])
print(pem.splitlines()[1], file=sys.stderr)
os.system("printenv TOKEN")
send(b"o" + data[:9]), time.sleep(0.2), os.write(1, b"between\\n"), time.sleep(0.2)
send(b"o" + data[9:] + b"\\n")
send_json(type="metric", name="one " + token, value=token)
send_json(type="metric", name="two", columns={{"a": [token, {{token: 1}}]}})
send_json(type="display", data={{"text/plain": token, "text/html": "x" * 70_000 + token}}, metadata={{}})
send_json(type="error", ename="KeyError", evalue=token, traceback=["a", "b " + token])
sys.stdout.write("the end " + token[:7])
"""


def kept(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file of a job with its text, as it is and as JSON escapes it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "runtime" not in path.parts:
            yield path.name, path.read_bytes().decode("utf-8", "replace")


@pytest.mark.parametrize("version", list(VERSIONS))
def test_G8_no_secret_that_a_program_prints_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    values = {"TOKEN": PLANTED, "CONNECTION": CONNECTION, "PEM": PEM}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    job = RuntimeJob(tmp_path, PRINTS, VERSIONS[version], secrets=list(values))
    assert job.run()["exit_code"] == 0
    for name, text in kept(job.job):
        for planted in (PLANTED, json.dumps(PLANTED)[1:-1], KEY, "MIIEvgIBADANBgkq"):
            assert planted not in text, name
    log = job.log.decode()
    assert log.startswith("whole *** and ******\n")
    assert "{'connection': '***'} ***;\n" in log
    assert log.count("***") == 3 + 2 + 2 + 1 + 1 + 1
    assert "between\n" in log
    assert log.endswith(PLANTED[:7])  # the beginning of one alone is none
    assert job.warnings() == []
    assert {one["type"] for one in job.events()} >= {"metric", "display", "error", "ended"}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_G8_a_large_text_beside_the_events_holds_no_secret_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("TOKEN", PLANTED)
    script = """
import os
from aml_run import channel
token, large = os.environ["TOKEN"], "x" * 100_000
for _ in range(2):
    channel.emit({"type": "display", "data": {"text/html": token + large, "text/plain": "a"}, "metadata": {}})
    channel.emit({"type": "display", "data": {"application/json": {"a": [token, large]}}, "metadata": {}})
channel.emit({"type": "display", "data": {"text/html": large}, "metadata": {}})
"""
    job = RuntimeJob(tmp_path, script, VERSIONS[version], secrets=["TOKEN"])
    assert job.run()["exit_code"] == 0, job.log
    for name, text in kept(job.job):
        assert PLANTED not in text, name
        assert json.dumps(PLANTED)[1:-1] not in text, name
    found = [next(iter(one["data"].values())) for one in job.events("display")]
    texts = [(job.job / "data" / one["$data"]).read_text() for one in found]
    large = "x" * 100_000
    page, document = "***" + large, {"a": ["***", large]}
    assert [texts[0], texts[2], texts[4]] == [page, page, large]
    assert [json.loads(texts[1]), json.loads(texts[3])] == [document, document]
    assert job.warnings() == []


def test_G8_what_opens_our_own_stores_is_secret_wherever_a_run_inherits_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", CONNECTION)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
    job = RuntimeJob(tmp_path, "import os; print(dict(os.environ))")
    job.run()
    assert KEY.encode() not in job.log
    assert "'AWS_SECRET_ACCESS_KEY': '***'" in job.log.decode()


def test_G8_values_that_are_not_said_to_be_secret_are_printed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD", PLANTED)
    job = RuntimeJob(tmp_path, "import os; print(os.environ['PASSWORD'])", secrets=["ANOTHER"])
    job.run()
    assert job.log.decode() == PLANTED + "\n"


def test_G8_a_secret_that_is_too_short_to_be_recognised_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIN", "123")
    monkeypatch.setenv("EMPTY", "")
    job = RuntimeJob(tmp_path, "print('0123456')", secrets=["PIN", "EMPTY"])
    job.run()
    assert job.log == b"0123456\n"
    assert [one["text"].split()[0] for one in job.events() if one["type"] == "warning"] == ["PIN"]
    assert job.warnings() == ["secret.short"]


def test_what_waits_for_the_rest_of_a_secret_is_shown_when_none_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "> pl4nted")
    job = RuntimeJob(
        tmp_path, "import time; print('name> ', end='', flush=True); time.sleep(60)", secrets=["TOKEN"]
    )
    job.start()
    job.wait_for(lambda: job.log == b"name> ")
    job.signal()
    job.wait()


@given(
    words=st.lists(st.text("ab", min_size=4, max_size=7), min_size=1, max_size=3),
    texts=st.lists(st.text("abc*", max_size=12), max_size=8),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
def test_cuts_do_not_matter(words: list[str], texts: list[str], cuts: list[int]) -> None:
    whole = "".join(text + words[number % len(words)] for number, text in enumerate(texts)).encode()
    mask = masking.Mask([word.encode() for word in words])
    at = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    shown = b""
    for start, end in pairwise(at):
        shown += mask.take(memoryview(whole)[start:end], False)
        assert mask.take(b"other", True) == b"other"
    shown += b"".join(rest for _, rest in mask.rest(last=True))
    for word in words:
        assert word.encode() not in shown.replace(b"***", b"|")
    assert mask.within({"a": [{"b": {words[0]: "x" + words[0]}}]}) == {"a": [{"b": {"***": "x***"}}]}


def test_words_that_a_message_is_made_of_stay() -> None:
    mask = masking.Mask([b"deadbeef", b"text", b"plain"])
    picture = {"image/png": {"$data": "deadbeef"}}
    message = {"type": "text", "file": "deadbeef", "data": {"text/plain": "a text", **picture}}
    wanted = {"type": "text", "file": "deadbeef", "data": {"text/plain": "a ***", **picture}}
    assert mask.within(message) == wanted
