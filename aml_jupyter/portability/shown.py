"""A verdict as lines of text and as HTML; every word of a run in it is made fit to be shown."""

from __future__ import annotations

from html import escape

from aml_jupyter.frozen import Value
from aml_jupyter.portability.verdicts import DIFFERENT, IDENTICAL, INCOMPLETE, PENDING, WITHIN
from aml_jupyter.printable import page_text, safe_name, shortened, shown_number, shown_seconds, shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from aml_jupyter.portability.verdicts import Comparison, Difference, Part, Verdict

# differences of a kind that are shown; --json has fifty
MOST, LONGEST = 8, 100
# word -> symbol, colour; the colours keep 3:1 against white and against black
_LOOKS = {
    IDENTICAL: ("=", "#2a9d5c"),
    WITHIN: ("≈", "#2a9d5c"),
    DIFFERENT: ("≠", "#d9534f"),
    INCOMPLETE: ("?", "#b9770e"),
    PENDING: ("…", "#2f81d6"),
}
_LINE, _MUTED = "rgba(128,128,128,.35)", "opacity:.72"
_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:12px"


class Row(Value):
    """What was compared, a sentence on it, and of each difference the name and both values."""

    label: str
    words: str
    details: tuple[tuple[str, str, str], ...] = ()


def bundle(verdict: Verdict) -> dict[str, str]:
    """The verdict as `text/html` and `text/plain`."""
    return {"text/html": html(verdict), "text/plain": plain(verdict)}


def headline(verdict: Verdict) -> str:
    """The verdict in one line."""
    symbol, _ = _LOOKS[verdict.word]
    targets = ", ".join(_word(run["target"]) for run in verdict.runs)
    return f"{symbol} Portability: {verdict.word} on {targets}"


def plain(verdict: Verdict) -> str:
    """The verdict as lines of text."""
    lines = [f"{headline(verdict)}  {_word(verdict.experiment_id)}"]
    lines += [f"  {_word(run['target'])}  {_run_words(run)}" for run in verdict.runs]
    for one in verdict.comparisons:
        if len(verdict.comparisons) > 1:
            lines.append(f"  {_word(one.target)}: {one.word}")
        for row in rows(one, verdict):
            lines.append(f"  {row.label:<13}{row.words}")
            lines += [f"    {_detail(*detail)}" for detail in row.details]
    return "\n".join(lines)


def rows(comparison: Comparison, verdict: Verdict) -> Iterator[Row]:
    """What one comparison found, a row for each kind of thing."""
    ending = comparison.ending
    yield Row(label="ending", words=_counted(ending, "same", "different"), details=_details(ending))
    yield _outputs(comparison.outputs)
    yield _metrics(comparison, verdict.tolerance)
    log = comparison.log
    first = next(iter(log.differences), None)
    words = f"first difference in {first.name}" if first else f"the same, {_count(log.same, 'line')}"
    yield Row(label="log", words=words, details=_log_details(comparison, verdict))
    if comparison.environment.differ:
        environment = comparison.environment
        yield Row(label="environment", words=_counted(environment, "same"), details=_details(environment))
    packages = comparison.packages
    if packages.same or packages.differ:
        yield Row(label="packages", words=_counted(packages, "the same"), details=_details(packages))


def _outputs(part: Part) -> Row:
    if not part.same and not part.differ:
        return Row(label="outputs", words="none")
    details = tuple((_word(one.name), _content(one.first), _content(one.second)) for one in _some(part))
    return Row(label="outputs", words=_counted(part, "identical"), details=(*details, *_rest(part)))


def _content(value: Any) -> str:
    if not isinstance(value, dict):
        return "-"
    if "not_kept" in value:
        return f"not kept [{_word(value['not_kept'])}]"
    return f"{shown_size(value.get('size', 0))} {str(value.get('sha256', ''))[:8]}"


def _metrics(comparison: Comparison, tolerance: float) -> Row:
    out, within = comparison.metrics, comparison.tolerated
    if not (out.same or out.differ or within.differ):
        return Row(label="metrics", words="none")
    told = [f"{out.same} equal"]
    if within.differ:
        told.append(f"{within.differ} within {tolerance:g}")
    if out.differ:
        told.append(f"{out.differ} out of tolerance")
    return Row(label="metrics", words=", ".join(told), details=(*_details(out), *_details(within)))


def _log_details(comparison: Comparison, verdict: Verdict) -> tuple[tuple[str, str, str], ...]:
    if not comparison.log.differences:
        return ()
    one = comparison.log.differences[0]
    first = verdict.runs[0]["target"]
    return ((_word(first), _line(one.first), ""), (_word(comparison.target), _line(one.second), ""))


def _line(text: Any) -> str:
    return "(the end)" if text is None else _word(page_text(str(text)))


def _counted(part: Part, same: str, different: str = "different") -> str:
    told = [f"{part.same} {same}"] if part.same and part.differ else []
    if part.differ:
        told.append(f"{part.differ} {different}")
    return ", ".join(told) or (f"{part.same} {same}" if same != "same" else same)


def _details(part: Part) -> tuple[tuple[str, str, str], ...]:
    return (*(_shown(one) for one in _some(part)), *_rest(part))


def _shown(one: Difference) -> tuple[str, str, str]:
    second = _value(one.second) + (f"  ({_word(one.note)})" if one.note else "")
    return _word(one.name), _value(one.first), second


def _some(part: Part) -> tuple[Difference, ...]:
    return part.differences[:MOST]


def _rest(part: Part) -> tuple[tuple[str, str, str], ...]:
    more = part.differ - len(_some(part))
    return ((f"and {more} more", "", ""),) if more else ()


def _detail(name: str, first: str, second: str) -> str:
    return f"{name}  {first} | {second}" if second else f"{name}  {first}".rstrip()


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, (list, tuple)):
        return _word("[" + ", ".join(map(_value, value)) + "]")
    if isinstance(value, dict):
        return _word(", ".join(f"{name}: {_value(one)}" for name, one in value.items()))
    return _word(shown_number(value))


def _run_words(run: Any) -> str:
    spent = run.get("duration")
    parts = [
        _word(run["run_id"]),
        _word(run["status"]),
        f"Python {_word(run['python_version'])}" if run.get("python_version") else "",
        shown_seconds(spent) if isinstance(spent, (int, float)) else "",
    ]
    return "  ".join(filter(None, parts))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _word(text: object) -> str:
    return shortened(safe_name(str(text)), LONGEST)


# ---- page


def html(verdict: Verdict) -> str:
    """The verdict as HTML with nothing but inline styles: colours are those of the page it stands on."""
    _, colour = _LOOKS[verdict.word]
    title = escape(page_text(headline(verdict)))
    experiment = _cell(_word(verdict.experiment_id))
    runs = "".join(map(_run_html, verdict.runs))
    several = len(verdict.comparisons) > 1
    body = "".join(_comparison_html(one, verdict, several=several) for one in verdict.comparisons)
    return (
        f'<div role="group" aria-label="{escape(title, quote=True)}" style="box-sizing:border-box;'
        f"max-width:780px;margin:4px 0;padding:10px 14px 12px;border:1px solid {_LINE};"
        f"border-left:4px solid {colour};border-radius:6px;font-size:13px;line-height:1.5;text-align:left;"
        'overflow-wrap:anywhere;print-color-adjust:exact;-webkit-print-color-adjust:exact">'
        f'<div><span style="color:{colour};font-weight:700;font-size:15px">{title[:1]}</span>'
        f'&nbsp;<b>{title[2:]}</b> <span style="{_MONO};{_MUTED};margin-left:8px">'
        f'{experiment}</span></div><div style="margin-top:4px">{runs}</div>{body}</div>'
    )


def _run_html(run: Any) -> str:
    words = f'<span style="{_MONO};{_MUTED}">{_cell(_run_words(run))}</span>'
    return f"<div><b>{_cell(_word(run['target']))}</b> {words}</div>"


def _comparison_html(one: Comparison, verdict: Verdict, *, several: bool) -> str:
    target = f"<b>{_cell(_word(one.target))}</b>"
    head = f'<div style="margin-top:8px">{target} {_cell(one.word)}</div>' if several else ""
    cells = "".join(map(_row_html, rows(one, verdict)))
    return (
        f'{head}<dl style="display:grid;grid-template-columns:max-content minmax(0,1fr);gap:3px 14px;'
        f'margin:8px 0 0;padding:0">{cells}</dl>'
    )


def _row_html(row: Row) -> str:
    details = "".join(_detail_html(*detail) for detail in row.details)
    grid = (
        f'<div style="display:grid;grid-template-columns:repeat(3,minmax(0,max-content));gap:0 18px;{_MONO}">'
        f"{details}</div>"
    )
    return (
        # notebooks float the terms of a list and give them a fifth of the page
        f'<dt style="margin:0;padding:0;float:none;width:auto;font-weight:400;{_MUTED}">{_cell(row.label)}'
        '</dt><dd style="margin:0;padding:0;float:none;width:auto">'
        f"{_cell(row.words)}{grid if details else ''}</dd>"
    )


def _detail_html(name: str, first: str, second: str) -> str:
    if not second:
        value = f'<span style="grid-column:span 2">{_cell(first)}</span>'
        return f'<span style="{_MUTED}">{_cell(name)}</span>{value}'
    return f"<span>{_cell(name)}</span><span>{_cell(first)}</span><span>{_cell(second)}</span>"


def _cell(text: object) -> str:
    return escape(page_text(str(text)))
