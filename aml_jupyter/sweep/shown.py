"""The table of a sweep as text and as HTML; every word of a run in it is made fit to be shown."""

from __future__ import annotations

from html import escape

from aml_jupyter.printable import page_text, safe_name, shortened, shown_number, shown_seconds
from aml_jupyter.sweep.axes import shown_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from aml_jupyter.sweep.table import Table, Trial

# trials that are shown at a time; --json has all
MOST, LONGEST = 100, 40
MOST_MESSAGES, LONGEST_MESSAGE = 5, 160
_LIVE = ("Preparing", "Running", "Finalizing", "CancelRequested")
_GOOD, _BAD, _BUSY, _IDLE = "#2a9d5c", "#d9534f", "#2f81d6", "#808080"
_COLOURS = {"Completed": _GOOD, "Failed": _BAD, "NotResponding": "#b9770e", **dict.fromkeys(_LIVE, _BUSY)}
_LINE, _MUTED = "rgba(128,128,128,.35)", "opacity:.72"
_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:12px"


def headline(table: Table) -> str:
    """The sweep in one line: how many trials are where, and the best of them."""
    counts = [
        (table.count("Completed"), "completed"),
        (table.count("Failed"), "failed"),
        (table.count("Canceled"), "canceled"),
        (table.count(*_LIVE), "running"),
        (table.count("Queued", "NotStarted"), "waiting"),
        (table.count("NotResponding"), "not responding"),
        (table.count("Removed"), "removed"),
    ]
    told = ", ".join(f"{count} {word}" for count, word in counts if count)
    best = next((one for one in table.trials if one.run_id == table.best), None)
    if best is not None:
        told += f"; best {safe_name(table.metric)} {_number(best)} with {_params(table, best)}"
        told += f" ({safe_name(best.run_id)})"
    return f"{safe_name(table.record.run_id)}: {len(table.trials)} trials: {told}"


def columns(table: Table) -> list[str]:
    """The heads of the columns."""
    metric = [table.metric] if table.metric else []
    return ["#", *table.names, *metric, "status", "duration", "run id"]


def rows(table: Table) -> list[list[str]]:
    """The trials that are shown, in their order."""
    return [cells(table, one) for one in chosen(table)]


def cells(table: Table, trial: Trial) -> list[str]:
    """One trial, fit to be printed; the best is marked."""
    values = [_value(trial, name) for name in table.names]
    metric = [_number(trial)] if table.metric else []
    mark = "*" if trial.run_id == table.best else ""
    duration = shown_seconds(trial.duration) if trial.duration is not None else "-"
    words = [f"{trial.number}{mark}", *values, *metric, _status(trial), duration, trial.run_id]
    return [safe_name(word) for word in words]


def line(table: Table, trial: Trial) -> str:
    """What is told when a trial has ended."""
    told = f"trial {trial.number}/{len(table.trials)}  {_params(table, trial)}  {_status(trial)}"
    if trial.metric is not None:
        told += f"  {safe_name(table.metric)}={_number(trial)}"
    message = f": {safe_name(shortened(trial.message, 200))}" if trial.status == "Failed" else ""
    return f"{told}  {safe_name(trial.run_id)}{message}"


def chosen(table: Table) -> Sequence[Trial]:
    """The trials that there is room for: the best, those that go on or failed, then the first ones."""
    if len(table.trials) <= MOST:
        return table.trials
    urgent = (*_LIVE, "Failed", "NotResponding")
    order = sorted(
        table.trials, key=lambda one: (one.run_id != table.best, one.status not in urgent, one.number)
    )
    return sorted(order[:MOST], key=lambda one: one.number)


def plain(table: Table) -> str:
    """The table as lines of text."""
    grid = [columns(table), *rows(table)]
    grid[0] = [safe_name(one) for one in grid[0]]
    widths = [max(len(row[at]) for row in grid) for at in range(len(grid[0]))]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in grid
    ]
    return "\n".join([headline(table), *lines, *_notes(table)])


def _notes(table: Table) -> list[str]:
    """Why trials failed, the first of them; and how many trials there are beside those that are shown."""
    failed = [one for one in chosen(table) if one.message and one.status != "Canceled"]
    told = [
        f"{one.number}: {safe_name(shortened(one.message, LONGEST_MESSAGE))}"
        for one in failed[:MOST_MESSAGES]
    ]
    if len(failed) > MOST_MESSAGES:
        told.append(f"… {len(failed) - MOST_MESSAGES} more that failed")
    return told + _rest(table)


def _rest(table: Table) -> list[str]:
    left = len(table.trials) - MOST
    return [f"… {left} more: aml show {safe_name(table.record.run_id)} --json"] if left > 0 else []


def bundle(table: Table) -> dict[str, str]:
    """The table for a notebook."""
    return {"text/html": html(table), "text/plain": plain(table)}


def html(table: Table) -> str:
    """The table as HTML with nothing but inline styles."""
    colour = _COLOURS.get(table.record.status, _IDLE)
    name = f"<b>{_cell(safe_name(table.record.name))}</b> " if table.record.name else ""
    head = "".join(f'<th scope="col" style="{_TH}">{_cell(one)}</th>' for one in columns(table))
    body = "".join(_row(table, one) for one in chosen(table))
    rest = "".join(f'<div style="{_MUTED}">{_cell(one)}</div>' for one in _notes(table))
    label = escape(safe_name(f"Sweep {table.record.run_id}"), quote=True)
    return (
        f'<div role="group" aria-label="{label}" style="box-sizing:border-box;max-width:980px;margin:4px 0;'
        f"padding:10px 14px 12px;border:1px solid {_LINE};border-left:4px solid {colour};border-radius:6px;"
        'font-size:13px;line-height:1.5;text-align:left;overflow-x:auto;print-color-adjust:exact">'
        f'<div>{name}<span style="color:{colour};font-weight:700">{_cell(table.record.status)}</span> '
        f"{_cell(headline(table))}</div>{_bar(table)}"
        f'<table style="border-collapse:collapse;margin:6px 0 0;{_MONO}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>{rest}</div>"
    )


_TH = f"text-align:left;padding:2px 14px 2px 0;border-bottom:1px solid {_LINE};font-weight:600"


def _row(table: Table, trial: Trial) -> str:
    words = cells(table, trial)
    status = len(words) - 3
    weight = ";font-weight:700" if trial.run_id == table.best else ""
    found = []
    for at, word in enumerate(words):
        colour = f";color:{_COLOURS.get(trial.status, _IDLE)}" if at == status else ""
        found.append(f'<td style="text-align:left;padding:1px 14px 1px 0{weight}{colour}">{_cell(word)}</td>')
    return f"<tr>{''.join(found)}</tr>"


def _bar(table: Table) -> str:
    """How much is done, as a line of colours."""
    parts = [
        (table.count("Completed"), _GOOD),
        (table.count("Failed", "NotResponding"), _BAD),
        (table.count("Canceled", "Removed"), _IDLE),
        (table.count(*_LIVE), _BUSY),
    ]
    whole = max(1, len(table.trials))
    inner = "".join(
        f'<span style="display:inline-block;height:4px;width:{100 * count / whole:.1f}%;background:{colour}">'
        "</span>"
        for count, colour in parts
        if count
    )
    return f'<div style="height:4px;line-height:0;margin:6px 0;background:rgba(128,128,128,.2)">{inner}</div>'


def _status(trial: Trial) -> str:
    if trial.reused:
        return f"{trial.status} before"
    return f"{trial.status} ({trial.reason})" if trial.status == "NotResponding" else trial.status


def _number(trial: Trial) -> str:
    return "-" if trial.metric is None else shown_number(trial.metric)


def _params(table: Table, trial: Trial) -> str:
    return " ".join(f"{safe_name(name)}={safe_name(_value(trial, name))}" for name in table.names)


def _value(trial: Trial, name: str) -> str:
    return shortened(shown_value(trial.params[name]), LONGEST) if name in trial.params else "-"


def _cell(text: object) -> str:
    return escape(page_text(str(text)))
