"""Logged values: what becomes a metric of the run, and in which form it travels."""

import sys

from aml_run import channel

MOST = 100_000  # elements of one logged array; a larger one is recorded by its repr
SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"<svg", "image/svg+xml"),
    (b"<?xml", "image/svg+xml"),
    (b"%PDF", "application/pdf"),
)
_warned = False


def convert(value):
    """A logged value as numbers, text and lists of them; anything else becomes its repr."""
    if value is True or value is False:
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() <= 1024 else hex(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [convert(one) for one in value] if len(value) <= MOST else repr(value)
    return _convert_array(value)


def _convert_array(value):
    """Arrays, scalars and columns of numpy, pandas, torch and their like: they have a dtype."""
    try:
        if not isinstance(value, type) and hasattr(value, "dtype"):
            if hasattr(value, "numpy") and not hasattr(value, "tolist"):
                value = value.numpy()
            if _count(value) <= MOST:
                items = value.tolist()
                if type(items) is not type(value):
                    return convert(items)
    except Exception:  # noqa: BLE001 - an object that only looks like an array is recorded by its repr
        pass
    return repr(value)


def _count(value):
    count = 1
    for length in getattr(value, "shape", ()):
        count *= length
    return count


def _sendable(value):
    """`(value, whether)`: JSON has no NaN and no infinities, they travel as text and are marked."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124
        return ("NaN" if value != value else "Infinity" if value > 0 else "-Infinity"), True  # noqa: PLR0124
    if isinstance(value, list):
        pairs = [_sendable(one) for one in value]
        return [one for one, _ in pairs], any(marked for _, marked in pairs)
    if isinstance(value, dict):
        named = {name: _sendable(one) for name, one in value.items()}
        return {name: one for name, (one, _) in named.items()}, any(marked for _, marked in named.values())
    return value, False


def _send(name, value, kind, step):
    value, marked = _sendable(value)
    event = {"type": "metric", "name": str(name)[:1000], "value": value, "kind": kind}
    if step is not None:
        event["step"] = convert(step)
    if marked:
        event["nonfinite"] = True
    if not channel.emit(event):
        _say_once()


def _say_once():
    global _warned
    if not _warned:
        _warned = True
        sys.stderr.write("aml_run: this program is not part of a run; what it logs is not kept\n")


def log(name, value, step=None):
    """Record a value under a name: a number, text, or a list; logged again, the name holds all the values."""
    value = convert(value)
    _send(name, value, "list" if isinstance(value, list) else "scalar", step)


def log_table(name, value, step=None):
    """Record a table: columns by name, a list of rows (as tables or lists), or a data frame."""
    _send(name, _columns(value), "table", step)


def _columns(value):
    if hasattr(value, "columns") and hasattr(value, "iloc"):
        return {str(column): convert(list(value.iloc[:, i])) for i, column in enumerate(value.columns)}
    if isinstance(value, dict):
        return {str(column): _column(items) for column, items in value.items()}
    rows = list(value)
    if all(isinstance(row, dict) for row in rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
        return {str(name): [_cell(row.get(name)) for row in rows] for name in names}
    rows = [list(row) if isinstance(row, (list, tuple)) or hasattr(row, "dtype") else [row] for row in rows]
    width = max((len(row) for row in rows), default=0)
    return {str(i): [_cell(row[i]) if i < len(row) else None for row in rows] for i in range(width)}


def _column(items):
    items = convert(items) if hasattr(items, "dtype") else items
    return [_cell(one) for one in items] if isinstance(items, (list, tuple)) else [_cell(items)]


def _cell(value):
    return None if value is None else convert(value)


def log_image(name, path=None, plot=None, bytes=None, step=None):  # noqa: A002 - the word the caller knows
    """Record an image: a file, a matplotlib figure (or pyplot, or axes), or the bytes of an image."""
    if sum(one is not None for one in (path, plot, bytes)) != 1:
        raise ValueError("log_image takes one of path, plot and bytes")
    if path is not None:
        with open(path, "rb") as file:
            data = file.read()
    else:
        data = bytes if plot is None else _drawn(plot)
    mime = next((mime for start, mime in SIGNATURES if data[:16].lstrip().startswith(start)), None)
    if mime is None:
        raise ValueError("these bytes are no image that a notebook can show (PNG, JPEG, GIF, SVG, PDF)")
    if not channel.inside():
        _say_once()
        return
    place = {"$data": channel.store(data), "size": len(data), "encoding": "base64", "mime": mime}
    _send(name, place, "image", step)


def _drawn(plot):
    from aml_run import figures

    if hasattr(plot, "gcf"):
        plot = plot.gcf()
    if not hasattr(plot, "savefig"):
        plot = plot.figure
    return figures.png(plot)
