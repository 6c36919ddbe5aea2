"""A comparison as HTML with nothing but inline styles: its colours are those of the page it stands on.

Every word of a run is escaped; pictures are those that `contents` took for harmless, as data.
"""

from __future__ import annotations

from html import escape

from aml_jupyter.compare.words import SIGNS, grids, headline, names, run_line, sections, word
from aml_jupyter.printable import page_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from aml_jupyter.compare.findings import Comparison, Image
    from aml_jupyter.compare.words import Block, Grid, Section

_LINE, _SHADE, _MUTED = "rgba(128,128,128,.35)", "rgba(128,128,128,.10)", "opacity:.72"
_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:12px"
_SPACED = f"{_MONO};white-space:pre-wrap"
# the colours keep 3:1 against white and against black
_GREEN, _RED, _BLUE, _AMBER = "#2a9d5c", "#d9534f", "#2f81d6", "#b9770e"
_TINTS = {"+": "rgba(42,157,92,.18)", "-": "rgba(217,83,79,.18)", "@": "rgba(47,129,214,.12)"}
_KINDS = {"added": _GREEN, "removed": _RED, "changed": _AMBER}
# of the runs; nothing is told by them alone
_COLOURS = (_BLUE, "#c2630a", _GREEN, "#a05cc8", _RED, "#7a8a1f", "#1795a8", "#c04f8f")
_LETTERS = "ABCDEFGHIJKLMNOPQRST"


def html(comparison: Comparison, *, every: bool = False) -> str:
    """The comparison as a page shows it."""
    title = headline(comparison)
    outcome = _GREEN if comparison.same else _AMBER
    labels = _LETTERS[: len(comparison.runs)]
    lines = map(_text, map(run_line, comparison.runs))
    runs = "".join(
        f'<div><b style="color:{colour}">{label}</b>&ensp;<span style="{_SPACED}">{line}</span></div>'
        for label, line, colour in zip(labels, lines, _run_colours(len(labels)), strict=True)
    )
    tables = "".join(_grid(grid, labels) for grid in grids(comparison, every=every))
    return (
        f'<div role="group" aria-label="{escape(_clean(title), quote=True)}" style="box-sizing:border-box;'
        f"max-width:1080px;margin:4px 0;padding:10px 14px 12px;border:1px solid {_LINE};border-left:4px solid"
        f" {outcome};border-radius:6px;font-size:13px;line-height:1.5;text-align:left;overflow-wrap:anywhere;"
        'print-color-adjust:exact;-webkit-print-color-adjust:exact">'
        f'<div><span style="color:{outcome};font-weight:700;font-size:15px">{title[:1]}</span>&nbsp;'
        f'<b>{_text(title[2:])}</b></div><div style="margin:6px 0 2px">{runs}</div>'
        f"{tables}{_pairs(comparison)}</div>"
    )


def _pairs(comparison: Comparison) -> str:
    shown = names(comparison)
    several = len(comparison.pairs) > 1
    pieces = []
    for at, pair in enumerate(comparison.pairs, 1):
        body = "".join(_section(section, opened=not several) for section in sections(pair))
        if body and several:
            heading = f"{_LETTERS[0]} | {_LETTERS[at]}&ensp;{_text(shown[0])} | {_text(shown[at])}"
            style = f"margin-top:12px;border-top:1px solid {_LINE};padding-top:6px"
            pieces.append(f'<div style="{style}"><b>{heading}</b></div>')
        pieces.append(body)
    return "".join(pieces)


def _heading(label: str, summary: str) -> str:
    return f'<b>{_text(label)}</b>&ensp;<span style="{_MUTED}">{_text(summary)}</span>'


def _grid(grid: Grid, labels: str) -> str:
    heading = f'<div style="margin-top:10px">{_heading(grid.label, grid.summary)}</div>'
    if not grid.rows:
        return heading
    colours = [_BLUE, *_run_colours(len(labels))]
    named = zip(["", *labels], colours, strict=True)
    head = "".join(_cell("th", label, f"color:{colour};font-weight:700") for label, colour in named)
    body = "".join(_grid_row(row, grid, runs=len(labels)) for row in grid.rows)
    return f"{heading}{_table(f'<thead><tr>{head}</tr></thead><tbody>{body}</tbody>')}"


def _run_colours(runs: int) -> list[str]:
    """A colour for each of the first runs, and one for all others."""
    return [*_COLOURS, *["#808a96"] * runs][:runs]


def _grid_row(row: Sequence[str], grid: Grid, *, runs: int) -> str:
    apart = row[0] in grid.apart
    shade = f"background:{_SHADE};" if apart else ""
    cells = [_cell("th", row[0], f"{_MUTED};font-weight:400")]
    cells += [_cell("td", one, f"{_MONO};font-weight:{600 if apart else 400}") for one in row[1 : runs + 1]]
    cells += [_cell("td", one, f"{_MUTED};font-size:12px") for one in row[runs + 1 :]]
    if grid.courses:
        lines = _lines(grid.courses[row[0]], row[0]) if row[0] in grid.courses else ""
        cells.append(f'<td style="padding:1px 0;border:0">{lines}</td>')
    return f'<tr style="{shade}">{"".join(cells)}</tr>'


_WIDTH, _HEIGHT = 180, 36


def _lines(courses: Sequence[Sequence[float]], name: str) -> str:
    """The courses of a metric, a line for each run in its colour, on one scale."""
    numbers = [one for course in courses for one in course]
    low, high = min(numbers), max(numbers)
    # of numbers far apart the difference may be no number
    reach = (high / 2 - low / 2) or 0.5
    lines = []
    for course, colour in zip(courses, _run_colours(len(courses)), strict=True):
        step = (_WIDTH - 6) / max(1, len(course) - 1)
        places = (
            f"{3 + at * step:.1f},{_HEIGHT - 3 - (_HEIGHT - 6) * (one / 2 - low / 2) / reach:.1f}"
            for at, one in enumerate(course)
        )
        points = " ".join(places)
        line = f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"'
        lines.append(f'{line} stroke-linejoin="round"/>' if points else "")
    label = escape(_clean(f"{name}: the course of each run"), quote=True)
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg {size} role="img" aria-label="{label}">{"".join(lines)}</svg>'


def _table(inner: str) -> str:
    # notebooks stripe tables, align them to the right and make their text small
    style = "border-collapse:collapse;margin:2px 0 0;font-size:13px;border:0;color:inherit"
    return f'<div style="overflow-x:auto"><table style="{style}">{inner}</table></div>'


def _cell(tag: str, text: str, style: str) -> str:
    scope = ' scope="row"' if tag == "th" else ""
    base = "text-align:left;padding:1px 16px 1px 0;vertical-align:top;max-width:420px;border:0;color:inherit"
    return f'<{tag}{scope} style="{base};{style}">{_text(text)}</{tag}>'


def _section(section: Section, *, opened: bool) -> str:
    heading = _heading(section.label, section.summary)
    inner = "".join(map(_block, section.blocks))
    if section.rows:
        rows = ("".join(_cell("td", one, _MONO) for one in row) for row in section.rows)
        inner = _table("<tbody>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</tbody>") + inner
    if not inner:
        return f'<div style="margin-top:10px">{heading}</div>'
    is_open = " open" if opened else ""
    return (
        f'<details{is_open} style="margin-top:10px"><summary style="cursor:pointer">{heading}</summary>'
        f'<div style="margin-left:14px">{inner}</div></details>'
    )


def _block(block: Block) -> str:
    sign = SIGNS.get(block.kind, "" if block.kind == "told" else "~")
    mark = (
        f'<b style="color:{_KINDS.get(block.kind, _AMBER)};{_MONO}">{escape(sign)}</b>&ensp;' if sign else ""
    )
    title = f'<div style="margin-top:4px">{mark}<span style="{_SPACED}">{_text(block.title)}</span></div>'
    rows = "".join(
        "<tr>" + "".join(_cell("td", one, _MONO) for one in line) + "</tr>" for line in block.lines
    )
    cells = _table(f"<tbody>{rows}</tbody>") if rows else ""
    more = f'<div style="{_MUTED};font-size:12px">{_text(block.more)}</div>' if block.more else ""
    return (title if block.title else "") + cells + _pictures(block) + _diff(block.diff) + more


def _diff(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    spans = "".join(_diff_line(line) for line in lines)
    style = (
        f"{_MONO};margin:2px 0 6px;padding:4px 0;background:transparent;color:inherit;"
        f"border:1px solid {_LINE};border-radius:4px;white-space:pre-wrap;max-height:420px;"
        "overflow:auto;line-height:1.45"
    )
    return f'<pre style="{style}">{spans}</pre>'


def _diff_line(line: str) -> str:
    tint = _TINTS.get(line[:1], "")
    shade = f"background:{tint}" if tint else ""
    return f'<span style="display:block;padding:0 8px;{shade}">{_text(line) or " "}</span>'


def _pictures(block: Block) -> str:
    change = block.change
    if change is None or change.images is None:
        return ""
    sides = "".join(
        _picture(image, f"{word(change.path)} of {side}", gone=there is None)
        for image, side, there in zip(change.images, "AB", (change.first, change.second), strict=True)
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px;margin:4px 0 8px">{sides}</div>'


def _picture(image: Image | None, label: str, *, gone: bool) -> str:
    if image is None:
        told = "not there" if gone else "no picture that can be shown"
        return f'<div style="{_MUTED};padding:20px;border:1px dashed {_LINE}">{told}</div>'
    from base64 import b64encode

    data = b64encode(image.data).decode("ascii")
    name = escape(_clean(label), quote=True)
    return (
        f'<figure style="margin:0;max-width:480px"><img src="data:{image.type};base64,{data}" alt="{name}"'
        f' style="max-width:100%;max-height:360px;border:1px solid {_LINE};background:#fff">'
        f'<figcaption style="{_MUTED};font-size:12px">{name} · {image.width} x {image.height}</figcaption>'
        "</figure>"
    )


def _clean(text: str) -> str:
    return page_text(text)


def _text(text: str) -> str:
    return escape(page_text(text))
