"""The card of a run: one MIME bundle that reads well below a cell, in a saved notebook, on paper and as text.

It needs no kernel, script, style sheet or picture from elsewhere.  Every word of a run in it is escaped.
"""

from __future__ import annotations

import os
from html import escape

from aml_jupyter.follow import open_job_file
from aml_jupyter.frozen import Value
from aml_jupyter.job import TERMINAL
from aml_jupyter.printable import (
    page_text,
    safe_name,
    shortened,
    shown_number,
    shown_seconds,
    shown_size,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from aml_jupyter.runs import Record, RunDirectory

# a card shows this many of a kind and names the command for the rest
MOST = 8
TAIL_BYTES, TAIL_LINES, LONGEST_LINE = 8192, 12, 240
# of a preparation as text, and how many seconds one takes that is worth a look afterwards
PLAIN_LINES, LONG = 3, 1.0
LONGEST_WORD, LONGEST_TEXT = 120, 600
PHASES = ("snapshot", "prepare", "start", "run", "collect")

# state -> symbol, words, colour; the colours keep 3:1 against white and against black
_STATES = {
    "NotStarted": ("○", "Not started", "#808a96"),
    "Preparing": ("◔", "Preparing", "#2f81d6"),
    "Queued": ("◌", "Queued", "#808a96"),
    "Running": ("▶", "Running", "#2f81d6"),
    "Finalizing": ("◕", "Finalizing", "#2f81d6"),
    "CancelRequested": ("◼", "Cancel requested", "#b9770e"),
    "Completed": ("✓", "Completed", "#2a9d5c"),
    "Failed": ("✕", "Failed", "#d9534f"),
    "Canceled": ("◼", "Canceled", "#808a96"),
    "NotResponding": ("?", "Not responding", "#b9770e"),
}
_PHASE_COLOURS = {
    "snapshot": "#8e7cc3",
    "prepare": "#b9770e",
    "start": "#808a96",
    "run": "#2f81d6",
    "collect": "#2a9d5c",
}
_LINE = "rgba(128,128,128,.35)"
_SHADE = "rgba(128,128,128,.10)"
_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:12px"
_MUTED = "opacity:.72"
_WARNING = "#b9770e"


class File(Value):
    """An artifact: its path and its size in bytes."""

    path: str
    size: int


class Card(Value):
    """All that a card shows; texts are as the run gave them, times in seconds, `as_of` an hour in UTC."""

    run_id: str
    status: str
    # what the verbs that it names begin with
    prog: str = "%aml"
    name: str | None = None
    target: str = ""
    what: str = ""
    reason: str = ""
    duration: float | None = None
    as_of: str = ""
    phases: Mapping[str, float] = {}
    metrics: Mapping[str, Any] = {}
    params: Mapping[str, Any] = {}
    tags: Mapping[str, str] = {}
    note: str = ""
    artifacts: tuple[File, ...] = ()
    artifacts_count: int = 0
    artifacts_state: str = "none"
    not_kept: tuple[str, ...] = ()
    not_kept_count: int = 0
    warnings: tuple[str, ...] = ()
    error: Mapping[str, str] | None = None
    tail: str = ""
    # the end of what was told while the run was made ready
    preparation: str = ""
    # whether the output is shown beside the card, so that its end in the card can be folded
    output_shown: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing of the card will change any more."""
        return self.status in TERMINAL


def card_of(directory: RunDirectory, record: Record | None = None, **changes: Any) -> Card:
    """The card of a run as it is now; `changes` are fields of Card that the caller knows better."""
    from aml_jupyter import runs

    record = record or runs.read_record(directory)
    hidden = _Paths(directory, record)
    fields: dict[str, Any] = {
        "run_id": record.run_id,
        "status": record.status,
        "name": record.name,
        "target": record.target,
        "what": record.script_name or "",
        "reason": record.reason,
        "duration": record.duration if record.ended else age_of(record),
        "as_of": "" if record.ended else runs.utc()[11:19],
        "phases": record.phases,
        "metrics": record.metrics,
        "params": record.all_params,
        "tags": record.tags,
        "note": record.note,
        "artifacts": _files(directory) if record.artifacts else (),
        "artifacts_count": record.artifacts,
        "artifacts_state": record.artifacts_state,
        "not_kept": record.not_kept[:MOST],
        "not_kept_count": max(record.not_kept_count, len(record.not_kept)),
        "warnings": tuple(hidden.short(text) for text in record.warnings),
        "error": {key: hidden.short(text) for key, text in record.error.items()} if record.error else None,
        "tail": hidden.short(tail_of(directory.log)),
        "preparation": hidden.short(tail_of(directory.control_log)),
    }
    return Card(**{**fields, **changes})


class _Paths:
    """Takes the folders of this machine out of texts that may be published with a notebook."""

    def __init__(self, directory: RunDirectory, record: Record) -> None:
        self.known = [
            (directory.work + "/", ""),
            (directory.path + "/", ""),
            (record.project_root + "/" if record.project_root else "", ""),
            (os.path.expanduser("~") + "/", "~/"),
        ]

    def short(self, text: str) -> str:
        for long, short in self.known:
            if long not in ("", "/") and long in text:
                text = text.replace(long, short)
        return text


def age_of(record: Record) -> float | None:
    """Seconds since a run was created, by this machine's clock."""
    from datetime import UTC, datetime

    try:
        created = datetime.fromisoformat(record.created_utc)
    except ValueError:
        return None
    return max(0.0, (datetime.now(UTC) - created).total_seconds())


def _files(directory: RunDirectory) -> tuple[File, ...]:
    from aml_jupyter import artifacts

    found = [File(path=item.path, size=item.size) for item in artifacts.listing(directory)]
    return tuple(found[:MOST])


def tail_of(path: str) -> str:
    """The last lines of a log; bytes that are no text are replaced."""
    fd = open_job_file(path)
    if fd is None:  # nothing was printed yet
        return ""
    try:
        size = os.fstat(fd).st_size
        data = os.pread(fd, TAIL_BYTES, max(0, size - TAIL_BYTES))
    finally:
        os.close(fd)
    return last_lines(data.decode(errors="replace"), cut=size > TAIL_BYTES)


def last_lines(text: str, *, lines: int = TAIL_LINES, cut: bool = False) -> str:
    """The last lines of a text, long ones shortened; `cut` says that its first line is not whole."""
    found = page_text(text).rstrip("\n").split("\n")
    if cut and len(found) > 1:
        found = found[1:]
    return "\n".join(shortened(line, LONGEST_LINE) for line in found[-lines:])


def bundle(card: Card) -> dict[str, str]:
    """The card as `text/html` and `text/plain`."""
    return {"text/html": html(card), "text/plain": plain(card)}


def plain_card(directory: RunDirectory) -> str:
    """The card of a run as text, for a terminal."""
    return plain(card_of(directory, prog="aml"))


# ---- text


def plain(card: Card) -> str:
    """The card as lines of text."""
    symbol, words, _ = _state(card)
    title = [f"{symbol} {words}", _word(card.name) if card.name else "", card.run_id, _where(card)]
    lines = ["  ".join(part for part in (*title, _duration(card)) if part)]
    for label, rows in _plain_sections(card):
        lines += [f"  {label if at == 0 else '':<11}{row}" for at, row in enumerate(rows)]
    return "\n".join(lines)


def _plain_sections(card: Card) -> Iterable[tuple[str, Sequence[str]]]:
    if card.error:
        yield "error", [line for line in _error_text(card).split("\n") if line]
    if _preparing(card) and (lines := _preparation(card)):
        yield "preparing", lines[-PLAIN_LINES:]
    if card.phases and card.ended:
        yield "phases", [", ".join(f"{name} {shown_seconds(spent)}" for name, spent in _phases(card))]
    if card.metrics:
        yield "metrics", [_metric_line(name, value) for name, value in _first(card.metrics.items())]
    if card.params:
        yield "parameters", [", ".join(f"{_word(k)}={_value(v)}" for k, v in _first(card.params.items()))]
    if card.tags or card.note:
        yield "labels", [" ".join(part for part in (_tags(card), _text(card.note)) if part)]
    yield from _plain_files(card)
    if card.warnings:
        yield "warning", [_text(text).replace("\n", " ") for text in card.warnings[:MOST]]
    if card.tail and not card.output_shown:
        yield "log", last_lines(card.tail).split("\n")
    if more := _unshown(card):
        yield "more", [more]


def _plain_files(card: Card) -> Iterable[tuple[str, Sequence[str]]]:
    if card.artifacts:
        yield "artifacts", [*(f"{_word(f.path)}  {shown_size(f.size)}" for f in card.artifacts), _fetch(card)]
    if card.artifacts_state == "pending":
        yield "pending", [f"being stored: {card.prog} push {card.run_id}"]
    if card.not_kept:
        listed = ", ".join(map(_word, card.not_kept)) + _more(card.not_kept_count - len(card.not_kept))
        yield "not kept", [listed, _rescue(card)]


def _preparing(card: Card) -> bool:
    """Whether the run is being made ready, or that is where it failed."""
    return card.status in ("NotStarted", "Preparing") or (
        card.status == "Failed" and "start" not in card.phases
    )


def _preparation(card: Card) -> list[str]:
    """The last lines told of the preparation: while it goes on, and when it failed or took long."""
    # of a defect the log is a traceback, with files of this machine
    if not card.preparation or (card.error or {}).get("code") == "supervisor.error":
        return []
    if _preparing(card) or (card.ended and card.phases.get("prepare", 0.0) >= LONG):
        return last_lines(card.preparation).split("\n")
    return []


def _state(card: Card) -> tuple[str, str, str]:
    return _STATES.get(card.status, ("?", card.status, "#808a96"))


def _where(card: Card) -> str:
    what = "cell" if card.what == "<cell>" else _word(card.what)
    return f"{what} on {_word(card.target)}" if what and card.target else what


def _duration(card: Card) -> str:
    if card.duration is None:
        return ""
    spent = shown_seconds(card.duration)
    return spent if card.ended else f"{spent} at {card.as_of} UTC" if card.as_of else spent


def _phases(card: Card) -> list[tuple[str, float]]:
    known = [(name, card.phases[name]) for name in PHASES if name in card.phases]
    return known + [(_word(name), spent) for name, spent in card.phases.items() if name not in PHASES]


def _metric_line(name: str, value: object) -> str:
    numbers = _numbers(value)
    if len(numbers) > 1:
        low, high = min(numbers), max(numbers)
        spread = f"{len(numbers)} values from {shown_number(low)} to {shown_number(high)}"
        return f"{_word(name)} = {shown_number(numbers[-1])}  ({spread})"
    return f"{_word(name)} = {_value(value)}"


def _fetch(card: Card) -> str:
    path = card.artifacts[0].path if len(card.artifacts) == 1 else ""
    words = f"{card.prog} get {card.run_id}" + (f" {_quoted(path)}" if path else "")
    return words + _more(card.artifacts_count - len(card.artifacts), f"; {card.prog} ls {card.run_id}")


def _rescue(card: Card) -> str:
    return f"{card.prog} rescue {card.run_id} {_quoted(card.not_kept[0])}"


def _quoted(path: str) -> str:
    word = _word(path)
    if all(char.isalnum() or char in "._-/+@=," for char in word):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"


def _more(count: int, command: str = "") -> str:
    return f"  and {count} more{command}" if count > 0 else ""


def _tags(card: Card) -> str:
    return " ".join("#" + _word(f"{key}={text}" if text else key) for key, text in _first(card.tags.items()))


def _unshown(card: Card) -> str:
    hidden = max(len(card.metrics), len(card.params)) - MOST
    return f"and {hidden} more: {card.prog} show {card.run_id} --json" if hidden > 0 else ""


def _error_text(card: Card) -> str:
    error = card.error or {}
    code = f" [{error['code']}]" if error.get("code") else ""
    return _text(f"{error.get('message', '')}{code}\n{error.get('hint', '')}")


def _first(items: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [item for item, _ in zip(items, range(MOST), strict=False)]


def _word(text: object) -> str:
    return shortened(safe_name(str(text)), LONGEST_WORD)


def _text(text: str) -> str:
    return shortened(page_text(text), LONGEST_TEXT).strip("\n")


def _value(value: object) -> str:
    if isinstance(value, dict):
        return f"{len(value)} columns: {', '.join(map(_word, list(value)[:MOST]))}" if value else "{}"
    if isinstance(value, (list, tuple)):
        more = ", …" if len(value) > MOST else ""
        return shortened(f"[{', '.join(map(shown_number, value[:MOST]))}{more}]", LONGEST_WORD)
    return shortened(shown_number(value), LONGEST_WORD)


def _numbers(value: object) -> list[float]:
    if not isinstance(value, (list, tuple)):
        return []
    found = [float(one) for one in value if isinstance(one, (int, float))]
    # neither NaN nor an infinity has a place on a line
    return [one for one in found if one - one == 0.0] if len(found) == len(value) else []


# ---- page


def html(card: Card) -> str:
    """The card as HTML with nothing but inline styles: colours are those of the page it stands on."""
    _, words, colour = _state(card)
    label = f"Run {card.name or card.run_id}: {words}"
    sections = "".join(_section(name, inner) for name, inner in _page_sections(card))
    return (
        f'<div role="group" aria-label="{_attribute(label)}" style="box-sizing:border-box;max-width:780px;'
        f"margin:4px 0;padding:10px 14px 12px;border:1px solid {_LINE};border-left:4px solid {colour};"
        "border-radius:6px;font-size:13px;line-height:1.5;text-align:left;overflow-wrap:anywhere;"
        f'print-color-adjust:exact;-webkit-print-color-adjust:exact;break-inside:avoid">{_head(card)}'
        f"{_error_box(card)}{_phase_bar(card)}{_tiles(card)}"
        f"{_LIST.format(sections) if sections else ''}{_preparation_box(card)}{_log(card)}</div>"
    )


_LIST = (
    '<dl style="display:grid;grid-template-columns:max-content minmax(0,1fr);gap:3px 14px;'
    'margin:10px 0 0;padding:0">{}</dl>'
)


def _attribute(text: str) -> str:
    return escape(_word(text), quote=True)


def _span(inner: str, style: str) -> str:
    return f'<span style="{style}">{inner}</span>'


def _code(text: str) -> str:
    style = f"{_MONO};background:{_SHADE};color:inherit;padding:1px 5px;border-radius:3px"
    return f'<code style="{style}">{escape(text)}</code>'


def _head(card: Card) -> str:
    symbol, words, colour = _state(card)
    left = _span(symbol, f"color:{colour};font-weight:700;font-size:15px") + f"&nbsp;<b>{escape(words)}</b>"
    if card.name:
        left += " " + _span(escape(_word(card.name)), "font-weight:600;margin-left:8px")
    left += " " + _span(escape(_word(card.run_id)), f"{_MONO};{_MUTED};margin-left:8px")
    right = " · ".join(part for part in (escape(_where(card)), _page_duration(card)) if part)
    return (
        '<div style="display:flex;flex-wrap:wrap;justify-content:space-between;align-items:baseline;'
        f'gap:0 16px"><div>{left}</div><div style="{_MUTED}">{right}</div></div>'
    )


def _page_duration(card: Card) -> str:
    if card.duration is None:
        return ""
    spent = f"<b>{shown_seconds(card.duration)}</b>"
    return spent if card.ended or not card.as_of else f"{spent} as of {escape(card.as_of)} UTC"


def _error_box(card: Card) -> str:
    if not card.error or not (card.error.get("message") or card.error.get("hint")):
        return ""
    error = card.error
    code = _span(f"[{escape(_word(error['code']))}]", f"{_MONO};{_MUTED}") if error.get("code") else ""
    hint = f'<div style="{_MUTED}">{escape(_text(error["hint"]))}</div>' if error.get("hint") else ""
    return (
        '<div style="margin-top:8px;padding:6px 10px;border-radius:4px;background:rgba(217,83,79,.12);'
        f'white-space:pre-wrap"><span>{escape(_text(error.get("message", "")))}</span> {code}{hint}</div>'
    )


def _phase_bar(card: Card) -> str:
    """Where the time went: a bar, and below it the same in numbers."""
    phases = _phases(card)
    if not phases or not card.ended:
        return ""
    whole = sum(spent for _, spent in phases) or 1.0
    bars, numbers = [], []
    for name, spent in phases:
        colour = _PHASE_COLOURS.get(name, "#808a96")
        bars.append(f'<div style="width:{max(0.4, 100 * spent / whole):.1f}%;background:{colour}"></div>')
        dot = _span("", f"display:inline-block;width:8px;height:8px;border-radius:2px;background:{colour}")
        words = f"{dot} {escape(name)} <b>{shown_seconds(spent)}</b>"
        numbers.append(_span(words, "margin-right:14px;white-space:nowrap"))
    return (
        '<div aria-hidden="true" style="display:flex;gap:1px;height:5px;margin-top:10px;border-radius:3px;'
        f'overflow:hidden">{"".join(bars)}</div>'
        f'<div style="margin-top:3px;font-size:12px;{_MUTED}">{" ".join(numbers)}</div>'
    )


def _tiles(card: Card) -> str:
    """Metrics: the last value large, the course of a list as a line."""
    tiles = [_tile(name, value) for name, value in _first(card.metrics.items())]
    if not tiles:
        return ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px;margin-top:10px">{"".join(tiles)}</div>'


def _tile(name: str, value: object) -> str:
    numbers = _numbers(value)
    line = _sparkline(name, numbers) if len(numbers) > 1 else ""
    shown = shown_number(numbers[-1]) if line else _value(value)
    size = 18 if len(shown) <= 14 else 13
    return (
        f'<div style="padding:5px 12px 6px;border:1px solid {_LINE};border-radius:5px;min-width:70px">'
        f'<div style="font-size:12px;{_MUTED}">{escape(_word(name))}</div>'
        f'<div style="display:flex;align-items:center;gap:10px"><span style="font-size:{size}px;'
        f'font-weight:600;font-variant-numeric:tabular-nums">{escape(shown)}</span>{line}</div></div>'
    )


_WIDTH, _HEIGHT, _POINTS = 96, 24, 48


def _sparkline(name: str, numbers: list[float]) -> str:
    low, high = min(numbers), max(numbers)
    points = thinned(numbers, _POINTS)
    reach = (high - low) or 1.0
    step = (_WIDTH - 6) / (len(points) - 1)
    places = [
        (3 + at * step, _HEIGHT - 3 - (_HEIGHT - 6) * ((one - low) / reach if high > low else 0.5))
        for at, one in enumerate(points)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    label = (
        f"{name}: {len(numbers)} values from {shown_number(low)} to {shown_number(high)},"
        f" last {shown_number(numbers[-1])}"
    )
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-label="{_attribute(label)}"><polyline points="{line}" fill="none" stroke="#2f81d6"'
        ' stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round"/>'
        f'<circle cx="{places[-1][0]:.1f}" cy="{places[-1][1]:.1f}" r="2.2" fill="#2f81d6"/></svg>'
        f'<span style="font-size:11px;{_MUTED};white-space:nowrap">{len(numbers)} values<br>'
        f"{escape(shown_number(low))} … {escape(shown_number(high))}</span>"
    )


def thinned(numbers: Sequence[float], most: int) -> list[float]:
    """At most `most` of the numbers, in order, with the peaks of every stretch and the last one."""
    if len(numbers) <= most:
        return list(numbers)
    stretches = max(1, (most - 1) // 2)
    kept: list[float] = []
    for at in range(stretches):
        part = numbers[at * len(numbers) // stretches : (at + 1) * len(numbers) // stretches]
        low, high = min(part), max(part)
        kept += [low, high] if part.index(low) < part.index(high) else [high, low]
    return [*kept, numbers[-1]]


def _page_sections(card: Card) -> Iterable[tuple[str, str]]:
    if card.params:
        pairs = (_code(f"{_word(key)} = {_value(value)}") for key, value in _first(card.params.items()))
        yield "Parameters", " ".join(pairs)
    if card.tags or card.note:
        tags = escape(_tags(card))
        yield "Labels", " ".join(part for part in (tags, escape(_text(card.note))) if part)
    if card.artifacts:
        stored = "<div>pending: to be stored</div>" if card.artifacts_state == "pending" else ""
        yield "Artifacts", _page_artifacts(card) + stored
    elif card.ended and card.artifacts_state in ("failed", "partial"):
        yield "Artifacts", f"{_WARN} {escape(card.artifacts_state)}: {_code(f'{card.prog} ls {card.run_id}')}"
    if card.not_kept:
        yield "Not kept", _page_not_kept(card)
    if card.warnings:
        shown = [f"<div>{_WARN} {escape(_text(text))}</div>" for text in card.warnings[:MOST]]
        yield "Warnings", "".join(shown) + escape(_more(len(card.warnings) - MOST))
    if more := _unshown(card):
        yield "More", _code(more)


_WARN = f'<span style="color:{_WARNING};font-weight:700">▲</span>'


def _section(label: str, inner: str) -> str:
    return (
        # notebooks float the terms of a list and give them a fifth of the page
        f'<dt style="margin:0;padding:0;float:none;width:auto;font-weight:400;{_MUTED}">{label}</dt>'
        f'<dd style="margin:0;padding:0;float:none;width:auto">{inner}</dd>'
    )


def _page_artifacts(card: Card) -> str:
    files = " ".join(
        _span(
            _span(escape(_word(file.path)), _MONO) + " " + _span(shown_size(file.size), _MUTED),
            "margin-right:12px",
        )
        for file in card.artifacts
    )
    rest = escape(_more(card.artifacts_count - len(card.artifacts)))
    first = card.artifacts[0].path
    commands = _code(f"{card.prog} get {card.run_id} {_quoted(first)}")
    if len(first) <= LONGEST_WORD:
        commands += " or " + _code(f"aml_jupyter.run({card.run_id!r}).read({first!a})")
    return f'<div>{files}{rest}</div><div style="margin-top:2px">{commands}</div>'


def _page_not_kept(card: Card) -> str:
    names = ", ".join(_span(escape(_word(path)), _MONO) for path in card.not_kept)
    more = escape(_more(card.not_kept_count - len(card.not_kept)))
    why = _span("written outside outputs/ and the shared folder", _MUTED)
    return f'<div>{_WARN} {names}{more} {why}</div><div style="margin-top:2px">{_code(_rescue(card))}</div>'


def _preparation_box(card: Card) -> str:
    lines = _preparation(card)
    if not lines:
        return ""
    if _preparing(card) and not card.ended:
        return _lines("\n".join(lines), "margin:8px 0 0")
    return _folded("How it was prepared", "\n".join(lines), opened=_preparing(card))


def _log(card: Card) -> str:
    return _folded("End of the log", last_lines(card.tail), opened=not card.output_shown) if card.tail else ""


def _folded(title: str, text: str, *, opened: bool) -> str:
    inner = f'<summary style="cursor:pointer;{_MUTED}">{title}</summary>{_lines(text, "margin:4px 0 0")}'
    return f'<details{" open" if opened else ""} style="margin-top:8px">{inner}</details>'


def _lines(text: str, margin: str) -> str:
    style = (
        f"{_MONO};{margin};padding:6px 10px;background:{_SHADE};color:inherit;border-radius:4px;"
        "white-space:pre-wrap;max-height:260px;overflow:auto"
    )
    return f'<pre style="{style}">{escape(text)}</pre>'
