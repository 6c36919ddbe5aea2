"""A table in memory, without pandas: columns of one kind each, made from text and given as data frames."""

import csv
import datetime as dt
import io
import re
import sys
import warnings

STRING, BOOLEAN, INTEGER, NUMBER, DATE = "string", "boolean", "integer", "number", "date"
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")


class Invalid:
    """A value that could not be converted; `text` is what it was."""

    __slots__ = ("text",)

    def __init__(self, text):
        self.text = text


class Table:
    """Columns by name, in order: lists of values of one length; None is a missing value."""

    def __init__(self, columns, kinds=None):
        self.columns = dict(columns)
        self.kinds = dict(kinds or dict.fromkeys(self.columns, STRING))

    @property
    def names(self):
        """The names of the columns."""
        return list(self.columns)

    def __len__(self):
        return max(map(len, self.columns.values()), default=0)

    def keep(self, chosen):
        """The rows for which a list says so."""
        return Table(
            {
                name: [one for one, kept in zip(values, chosen) if kept]
                for name, values in self.columns.items()
            },
            self.kinds,
        )

    def only(self, names):
        """Some of the columns."""
        return Table({name: self.columns[name] for name in names}, {name: self.kinds[name] for name in names})

    def renamed(self, old, new):
        """With another name for a column, in its place."""
        return Table(
            {new if name == old else name: values for name, values in self.columns.items()},
            {new if name == old else name: kind for name, kind in self.kinds.items()},
        )

    def changed(self, name, values, kind=None):
        """With other values in a column."""
        return Table({**self.columns, name: values}, {**self.kinds, name: kind or self.kinds[name]})


def parse(texts, separator, headers, skip=0, skip_in_all=False, quoted_lines=False, comment=None):
    """Rows of several texts as one table of strings; a value that a row lacks is missing.

    `headers` is 0 for none, 1 for a line in the first text, 2 for one in each, 3 for the same in each.
    """
    names: list[str] = []
    rows: list[list[str]] = []
    for number, text in enumerate(texts):
        found = _rows(text, separator, quoted_lines, comment)
        if skip and (skip_in_all or number == 0):
            found = found[skip:]
        head = found.pop(0) if found and headers and (number == 0 or headers != 1) else []
        if number == 0:
            names = head
        elif head and headers == 2:
            found = _reordered(found, head, names)
        rows += found
    width = max([len(names), *map(len, rows)]) if rows else len(names)
    names = _unique([*names, *["Column%d" % (at + 1) for at in range(len(names), width)]])
    columns = [[row[at] if at < len(row) else None for row in rows] for at in range(width)]
    return Table(zip(names, columns))


def _rows(text, separator, quoted_lines, comment):
    if quoted_lines:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    else:
        rows = []
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if lines and not lines[-1]:  # behind the last end of a line is no line
            lines.pop()
        whole: list[str] = []
        for line in lines:
            if line.count('"') % 2:  # a quotation mark never reaches over the end of a line
                rows += csv.reader(whole, delimiter=separator)
                rows += csv.reader([line], delimiter=separator)
                whole = []
            else:
                whole.append(line)
        rows += csv.reader(whole, delimiter=separator)
    # an empty line is a row whose first value is empty, as the Workbench had it
    rows = [row or [""] for row in rows]
    return [row for row in rows if not row[0].startswith(comment)] if comment else rows


def _reordered(rows, head, names):
    """Rows below another order of the same headers."""
    for name in head:
        if name not in names:
            names.append(name)
    places = [head.index(name) if name in head else -1 for name in names]
    return [[row[at] if 0 <= at < len(row) else None for at in places] for row in rows]


def _unique(names):
    found = []
    for name in names:
        fresh, number = name, 1
        while fresh in found:
            number += 1
            fresh = "%s_%d" % (name, number)
        found.append(fresh)
    return found


def to_number(value, comma=False):
    """A number of a text; None for an empty one, Invalid for any other."""
    if value is None or isinstance(value, (Invalid, float)):
        return value
    if isinstance(value, (bool, int)):
        return float(value)
    text = str(value).strip()
    if not text:
        return None
    if comma:
        text = text.replace(".", "").replace(",", ".")
    return float(text) if _NUMBER.fullmatch(text) else Invalid(value)


def to_integer(value):
    """A whole number of a text; None for an empty one, Invalid for any other."""
    number = to_number(value)
    if number is None or isinstance(number, Invalid):
        return number
    text = str(value).strip()
    if text.lstrip("+-").isdigit():
        return int(text)
    return int(number) if number.is_integer() else Invalid(value)


def to_boolean(value):
    """A truth value of a text; None for an empty one, Invalid for any other."""
    if value is None or isinstance(value, (Invalid, bool)):
        return value
    text = to_text(value).strip().lower()
    if not text:
        return None
    return True if text in _TRUE else False if text in _FALSE else Invalid(value)


def to_date(value, formats):
    """A moment of a text in one of several formats; None for an empty one, Invalid for any other."""
    if value is None or isinstance(value, (Invalid, dt.datetime)):
        return value
    text = to_text(value).strip()
    if not text:
        return None
    for one in formats:
        try:
            return dt.datetime.strptime(text, one)
        except ValueError:
            continue
    if not formats:
        try:
            return dt.datetime.fromisoformat(text.replace("Z", "+00:00")).replace(tzinfo=None)
        except ValueError:
            pass
    return Invalid(value)


def to_text(value):
    """A value as text; a whole number without its decimal point."""
    if value is None or isinstance(value, (Invalid, str)):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat(sep=" ") if isinstance(value, dt.datetime) else str(value)


def without_invalid(table):
    """A table in which what could not be converted is missing, and a warning that says how much."""
    for name, values in table.columns.items():
        count = sum(isinstance(one, Invalid) for one in values)
        if count:
            first = next(one.text for one in values if isinstance(one, Invalid))
            warnings.warn(
                "column %r: %d of %d values are no %s, such as %.40r: they are missing"
                % (name, count, len(values), table.kinds[name], first),
                stacklevel=5,
            )
            table = table.changed(name, [None if isinstance(one, Invalid) else one for one in values])
    return table


def to_pandas(table):
    """A pandas DataFrame: float64, int64 and bool columns, moments, and texts as objects."""
    try:
        import pandas as pd
    except ImportError:
        raise ImportError(
            "pandas is not installed here: add it to conda_dependencies.yml, or use spark=True"
        ) from None
    columns = {name: _series(pd, values, table.kinds[name]) for name, values in table.columns.items()}
    return pd.DataFrame(columns, columns=table.names, index=range(len(table)))


def _series(pd, values, kind):
    if kind == DATE:
        return pd.Series(pd.to_datetime(pd.Series(values, dtype=object)))
    whole = None not in values
    types = {
        NUMBER: "float64",
        INTEGER: "int64" if whole else "float64",
        BOOLEAN: "bool" if whole else object,
    }
    kind_there = types.get(kind, object)
    if kind == NUMBER or (kind == INTEGER and not whole):
        values = [float("nan") if one is None else one for one in values]
    return pd.Series(values, dtype=kind_there)


def to_spark(table, session=None):
    """A Spark DataFrame of the session that is there, or of a new one."""
    from pyspark.sql import SparkSession, types

    if not hasattr(session, "createDataFrame"):
        session = SparkSession.builder.getOrCreate()
    kinds = {
        STRING: types.StringType(),
        BOOLEAN: types.BooleanType(),
        INTEGER: types.LongType(),
        NUMBER: types.DoubleType(),
        DATE: types.TimestampType(),
    }
    fields = [types.StructField(name, kinds[table.kinds[name]], True) for name in table.names]
    rows = list(zip(*table.columns.values())) if table.columns else []
    return session.createDataFrame(rows, types.StructType(fields))


def in_spark():
    """Whether this is the driver of a PySpark run."""
    import os

    if "PYSPARK_GATEWAY_PORT" in os.environ:
        return True
    module = sys.modules.get("pyspark")
    return bool(module is not None and getattr(module.SparkContext, "_active_spark_context", None))
