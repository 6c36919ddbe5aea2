"""Text of strangers made fit to print: what a run, a file name or an error says never steers what shows it.

Numbers, sizes and times as a person reads them stand beside it, since every front door prints those too.
"""

from __future__ import annotations

import math
import re

# patterns are compiled when they are first used: that takes longer than most commands do
# colours and weights may pass; everything else that moves a cursor, names a window or makes a link may not
_COLOUR = r"\x1b\[[0-9;]*m"
_ESCAPE = (
    r"\x1b(?:\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|\[[0-?]*[ -/]*[@-~]?|[@-Z\\-_a-z]?)"
)
_CONTROL = "[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
# a page in UTF-8 cannot carry half a surrogate pair
_SURROGATE = "[\ud800-\udfff]"


def safe_text(text: str, *, colour: bool = True) -> str:
    """Text of a run without what would steer a terminal; new lines, tabs and `\\r` stay."""
    if "\x1b" in text:
        keep = _COLOUR if colour else "(?!)"
        text = re.sub(_ESCAPE, lambda found: found[0] if re.fullmatch(keep, found[0]) else "", text)
        text = text.replace("\x1b", "") if not colour else text
    return re.sub(_CONTROL, "\ufffd", text)


def safe_name(name: str) -> str:
    """A name on one line, with every unprintable character escaped."""
    if name.isprintable():
        return name
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in name
    )


def page_text(text: str) -> str:
    """Text for a page: no colours, no control characters, lines as a terminal would leave them."""
    text = re.sub(_SURROGATE, "\ufffd", safe_text(fold_returns(text), colour=False))
    return text.replace("\r", "")


def fold_returns(text: str) -> str:
    """What is left of lines that were written over with `\\r`, as progress bars do.

    A line's own beginning is kept when it is a `\\r`: what stands before it was written earlier.
    """
    if "\r" not in text:
        return text
    return "\n".join(map(_fold_line, text.split("\n")))


def _fold_line(line: str) -> str:
    if "\r" not in line:
        return line
    first, *others = line.split("\r")
    ending = ""
    if others[-1] == "":  # \r\n, or more to come
        others.pop()
        ending = "\r"
    shown = first
    for one in others:
        shown = one + shown[len(one) :]
    return ("\r" if not first and others else "") + shown + ending


def shortened(text: str, most: int) -> str:
    """Text of at most `most` characters; an ellipsis stands for what is left out."""
    return text if len(text) <= most else text[: most - 1] + "…"


def shown_size(size: float) -> str:
    """Bytes as a person reads them."""
    for unit, factor in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{int(size)} B"


def shown_seconds(seconds: float) -> str:
    """A duration as a person reads it: `12 ms`, `2.31 s`, `1 min 15 s`, `3 h 2 min`."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def shown_number(value: object) -> str:
    """A metric or parameter as a person reads it; text stays text, on one line."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        if abs(value) < 10**15:
            return f"{value:,}".replace(",", " ")
        # beyond the largest float only its digits are left to show
        return f"{value:.4g}" if abs(value) < 10**300 else shortened(str(value), 20)
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return safe_name(str(value))
