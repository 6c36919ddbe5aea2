"""A comparison as lines of text, with colours where a terminal asks for them."""

from __future__ import annotations

from aml_jupyter.compare.words import SIGNS, grids, headline, names, run_line, sections
from aml_jupyter.printable import shortened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aml_jupyter.compare.findings import Comparison
    from aml_jupyter.compare.words import Block, Grid, Section

    Line = tuple[str, str]

_STYLES = {"head": "1", "+": "32", "-": "31", "@": "36", "apart": "33", "dim": "2", "": ""}
# width of the columns of labels, and of values unless there is more room
_LABEL, WIDTH, NARROWEST = 13, 100, 12


def text(comparison: Comparison, *, colour: bool = False, every: bool = False, width: int = WIDTH) -> str:
    """A comparison in lines of about `width` characters; diffs and names may be longer."""
    lines = _lines(comparison, every=every, width=width)
    return "\n".join(_painted(style, line.rstrip()) if colour else line.rstrip() for style, line in lines)


def _painted(style: str, line: str) -> str:
    code = _STYLES[style]
    return f"\x1b[{code}m{line}\x1b[0m" if code and line else line


def _lines(comparison: Comparison, *, every: bool, width: int) -> Iterator[Line]:
    yield "head", headline(comparison)
    for label, run in zip("ABCDEFGHIJKLMNOPQRST", comparison.runs, strict=False):
        yield "", f"  {label}  {run_line(run)}"
    labels = list("ABCDEFGHIJKLMNOPQRST"[: len(comparison.runs)])
    for grid in grids(comparison, every=every):
        yield from _grid(grid, labels, width)
    shown = names(comparison)
    for at, pair in enumerate(comparison.pairs, 1):
        found = list(sections(pair))
        if found and len(comparison.pairs) > 1:
            yield "", ""
            yield "head", f"A | {labels[at]}  {shown[0]} | {shown[at]}"
        for section in found:
            yield from _section(section)


def _grid(grid: Grid, labels: Sequence[str], width: int) -> Iterator[Line]:
    yield "head", f"{grid.label:<{_LABEL}}{grid.summary}"
    if not grid.rows:
        return
    room = max(NARROWEST, (width - 24) // len(labels) - 2)
    rows = [("", *labels), *grid.rows]
    cut = [[shortened(one, 60 if at > len(labels) else room) for at, one in enumerate(row)] for row in rows]
    widths = [max(len(row[at]) for row in cut if at < len(row)) for at in range(max(map(len, cut)))]
    for number, row in enumerate(cut):
        line = "  ".join(one.ljust(width_) for one, width_ in zip(row, widths, strict=False))
        style = "dim" if number == 0 else "apart" if rows[number][0] in grid.apart else ""
        yield style, "  " + line


def _section(section: Section) -> Iterator[Line]:
    yield "head", f"{section.label:<{_LABEL}}{section.summary}"
    if section.rows:
        widths = [max(len(row[at]) for row in section.rows) for at in range(len(section.rows[0]))]
        for row in section.rows:
            style = row[0] if row[0] in ("+", "-") else ""
            yield (
                style,
                "  " + "  ".join(one.ljust(min(width, 40)) for one, width in zip(row, widths, strict=True)),
            )
    for block in section.blocks:
        yield from _block(block)


def _block(block: Block) -> Iterator[Line]:
    if block.title:
        sign = SIGNS.get(block.kind, "" if block.kind == "told" else "~")
        yield sign if sign in ("+", "-") else "apart" if sign else "", f"  {sign or ' '} {block.title}"
    for where, column, first, second in (line for line in block.lines if len(line) == 4):
        yield "", f"      {where}, {column}: {first} | {second}"
    for line in block.diff:
        yield line[:1] if line[:1] in ("+", "-", "@") else "", f"      {line}"
    if block.more:
        yield "dim", f"      {block.more}"
