"""The card: complete, bounded, and harmless whatever a run calls its things."""

from __future__ import annotations

import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter.card import Card, File, bundle, card_of, html, last_lines, plain, thinned
from aml_jupyter.job import STATUSES
from aml_jupyter.printable import fold_returns, page_text, safe_text, shown_number, shown_seconds, shown_size
from tests.requirements import need

HOSTILE = [
    "<script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    '"><svg onload="document.title=\'pwned\'">',
    "' onmouseover='document.title=1' x='",
    "</pre></div><iframe src=\"javascript:parent.document.title='pwned'\">",
    '<button data-commandlinker-command="filebrowser:delete" data-commandlinker-args="{}">x</button>',
    "<style>*{background:url(http://example.invalid/x)}</style>",
    "<a href=\"javascript:document.title='pwned'\">x</a>",
    "<form id=location action=x><input name=submit>",
    "\x1b]8;;http://example.invalid\x07link\x1b]8;;\x07",
    "\x1b[2J\x1b[31mred\x1b[0m",
    "evil\u202egpj.exe",
    "a\x00b\x08\x7f\x9b",
    "half \ud800 a pair",
    "line\r\nbreak\u2028\u2029",
    "&lt;b&gt; &amp; {{x}} ${y} %s `z`",
]


def full_card(text: str = "x", **changes: Any) -> Card:
    """A card with the same text everywhere."""
    fields: dict[str, Any] = {
        "run_id": "iris_1764300000123",
        "status": "Failed",
        "name": text,
        "target": text,
        "what": text,
        "reason": text,
        "duration": 2.5,
        "phases": {"snapshot": 0.01, "run": 2.4, text: 0.1},
        "metrics": {text: text, text + "2": [0.1, 0.2], text + "3": {text: [1]}, text + "4": [text]},
        "params": {text: text},
        "tags": {text: text},
        "note": text,
        "artifacts": (File(path="outputs/" + text, size=12),),
        "artifacts_count": 3,
        "not_kept": (text,),
        "not_kept_count": 2,
        "warnings": (text,),
        "error": {"code": text, "message": text, "hint": text},
        "tail": text,
        "preparation": text,
    }
    return Card(**{**fields, **changes})


class Elements(HTMLParser):
    """Every element and attribute of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.values: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.values += [value or "" for name, value in attrs if name != "aria-label"]
        if tag not in ("br", "polyline", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("polyline", "circle"):
            assert self.open.pop() == tag


KNOWN_TAGS = {"div", "span", "b", "code", "dl", "dt", "dd", "pre", "details", "summary", "br"}
KNOWN_TAGS |= {"svg", "polyline", "circle"}


@pytest.mark.parametrize("text", HOSTILE)
def test_W1_hostile_words_are_text_in_every_place_of_the_card(text: str) -> None:
    page = html(full_card(text))
    found = Elements(page)
    assert found.tags <= KNOWN_TAGS
    assert found.open == []
    assert not {name for name in found.attributes if name.startswith(("on", "data-", "href", "src", "id"))}
    assert not any(word in value for value in found.values for word in ("url(", "javascript:", "http"))
    page.encode()


@pytest.mark.parametrize("text", HOSTILE)
def test_W1_hostile_words_cannot_steer_a_terminal_or_turn_text_around(text: str) -> None:
    for shown in bundle(full_card(text)).values():
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)


@pytest.mark.slow
def test_W2_a_browser_runs_nothing_of_a_hostile_card(tmp_path: Path) -> None:
    chromium = need("chromium")
    body = "".join(html(full_card(text)) for text in HOSTILE)
    page = tmp_path / "cards.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><title>calm</title>{body}", encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    answer = subprocess.run(
        [*command, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
        capture_output=True,
        timeout=120,
    )
    dom = answer.stdout.decode()
    assert "<title>calm</title>" in dom
    assert "Failed" in dom
    assert "<iframe" not in dom


@pytest.mark.parametrize("status", STATUSES)
def test_every_state_is_told_by_a_word_and_a_symbol_not_by_colour_alone(status: str) -> None:
    card = Card(run_id="r_1", status=status)
    words = re.sub("([a-z])([A-Z])", r"\1 \2", status).capitalize()
    first = plain(card).split("  ")[0]
    assert first.endswith(words)
    assert first[0] not in words
    assert f"<b>{words}</b>" in html(card)
    assert first[0] in html(card)


def test_a_card_says_what_it_must_without_any_style() -> None:
    card = full_card(
        "plain", status="Completed", error=None, metrics={"loss": [3.0, 2.0, 1.5], "accuracy": 0.9667}
    )
    for text in (plain(card), html(card)):
        for word in ("Completed", "iris_1764300000123", "2.4 s", "0.9667", "1.5", "outputs/plain", "12 B"):
            assert word in text
        assert "%aml get iris_1764300000123" in text
        assert "%aml rescue iris_1764300000123 plain" in text
        assert "and 2 more" in text
    assert "<svg" in html(card)
    assert "3 values from 1.5 to 3" in plain(card)


def test_numbers_that_are_no_places_on_a_line_do_not_break_the_sparkline() -> None:
    page = html(
        Card(run_id="r_1", status="Completed", metrics={"loss": [1.0, float("nan"), float("inf"), 2.0]})
    )
    points = re.search('points="([^"]*)"', page)
    assert points is not None
    assert "nan" not in points[1]
    assert html(Card(run_id="r_1", status="Completed", metrics={"flat": [1, 1, 1], "none": [], "one": [4]}))


def test_a_long_series_keeps_its_peaks() -> None:
    numbers = [0.0] * 10_000
    numbers[5_003] = 9.0
    numbers[-1] = 3.0
    kept = thinned(numbers, 48)
    assert len(kept) <= 48
    assert max(kept) == 9.0
    assert kept[-1] == 3.0


def test_W5_a_card_stays_small_whatever_the_run_has() -> None:
    huge = "y" * 1_000_000
    many = {f"{n}{'m' * 1000}": list(range(5000)) for n in range(300)}
    card = full_card(huge, metrics=many, params=many, tags=dict.fromkeys(many, "v"), warnings=(huge,) * 50)
    card = card.replace(artifacts=(File(path=huge, size=1),) * 8, tail=(huge + "\n") * 20)
    assert len(html(card)) < 64_000
    assert len(plain(card)) < 32_000


def test_text_for_a_page_reads_as_a_terminal_would_leave_it() -> None:
    assert page_text("10%\r50%\r100%\ndone") == "100%\ndone"
    assert page_text("long line\rshort") == "shortline"
    assert page_text("dos\r\nlines\r\n") == "dos\nlines\n"
    assert fold_returns("\r20%\r30%") == "\r30%"
    assert page_text("\x1b[1;31mred\x1b[0m \x1b]0;title\x07") == "red "
    assert safe_text("\x1b[31mred\x1b[0m\x1b[2J") == "\x1b[31mred\x1b[0m"
    assert last_lines("a\nb\nc\n", lines=2) == "b\nc"
    assert last_lines("half\nwhole", cut=True) == "whole"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (shown_seconds(0.0), "0 ms"),
        (shown_seconds(0.0124), "12 ms"),
        (shown_seconds(2.314), "2.31 s"),
        (shown_seconds(59.99), "60 s"),
        (shown_seconds(75), "1 min 15 s"),
        (shown_seconds(7320), "2 h 2 min"),
        (shown_size(0), "0 B"),
        (shown_size(1234), "1.2 kB"),
        (shown_size(3 << 30), "3.0 GB"),
        (shown_number(0.96666), "0.9667"),
        (shown_number(60), "60"),
        (shown_number(1234567), "1 234 567"),
        (shown_number(True), "True"),
        (shown_number(None), "None"),
        (shown_number(float("nan")), "nan"),
    ],
)
def test_numbers_are_shown_as_people_read_them(value: str, shown: str) -> None:
    assert value == shown


def test_a_card_names_no_folder_of_this_machine(home: str, tmp_path: Path) -> None:
    from aml_jupyter.runs import Record, RunDirectory

    directory = RunDirectory(f"{home}/runs/local/default/iris/iris_1")
    root = str(tmp_path / "projects" / "iris")
    record = Record(
        run_id="iris_1",
        project_root=root,
        status="Failed",
        warnings=(f"{root}/aml_config/local.runconfig names no Framework",),
        error={"code": "c", "message": f"{directory.work}/train.py failed; see {home}/x", "hint": ""},
    )
    text = "".join(bundle(card_of(directory, record)).values())
    assert str(tmp_path) not in text
    assert "aml_config/local.runconfig" in text
    assert "~/.azureml/x" in text


PREPARED = "making the environment\nResolved 18 packages\ninstalling a\ninstalling b\n"


def card_while(status: str, **changes: Any) -> dict[str, str]:
    card = Card(run_id="iris_1", status=status, output_shown=True, preparation=PREPARED)
    return bundle(card.replace(**changes))


def test_what_is_told_of_a_preparation_is_in_the_card_while_it_goes_on() -> None:
    shown = card_while("Preparing")
    assert PREPARED.strip() in shown["text/html"]
    assert "<details" not in shown["text/html"]
    assert shown["text/plain"].splitlines()[1:] == [
        "  preparing  Resolved 18 packages",
        "             installing a",
        "             installing b",
    ]
    assert PREPARED.strip() not in card_while("Running")["text/html"]


def test_a_long_preparation_can_be_looked_at_afterwards() -> None:
    phases = {"prepare": 9.0, "start": 0.5, "run": 1.0}
    shown = card_while("Completed", phases=phases)
    assert '<details style="margin-top:8px"><summary' in shown["text/html"]
    assert PREPARED.strip() in shown["text/html"]
    assert "preparing" not in shown["text/plain"]
    short = card_while("Completed", phases={**phases, "prepare": 0.1})
    assert PREPARED.strip() not in short["text/html"]


def test_a_failed_preparation_is_open_and_that_of_a_defect_is_not_shown() -> None:
    failed = {"phases": {"snapshot": 0.1, "prepare": 9.0}, "error": {"code": "environment.build_failed"}}
    shown = card_while("Failed", **failed)
    assert "<details open" in shown["text/html"]
    assert "preparing  Resolved" in shown["text/plain"]
    later = card_while("Failed", phases={"prepare": 9.0, "start": 0.5, "run": 1.0})
    assert "<details open" not in later["text/html"]
    defect = card_while("Failed", phases={"prepare": 9.0}, error={"code": "supervisor.error"})
    assert "Resolved" not in "".join(defect.values())


def test_a_log_that_is_a_pipe_does_not_hold_the_card(home: str) -> None:
    from aml_jupyter.runs import Record, RunDirectory

    directory = RunDirectory(f"{home}/runs/local/default/iris/iris_1")
    os.makedirs(directory.job)
    for path in (directory.log, directory.control_log):
        os.mkfifo(path)
    card = card_of(directory, Record(run_id="iris_1", status="Running"))
    assert (card.tail, card.preparation) == ("", "")
