"""The steps of a dataflow: what their arguments mean, checked before anything is done."""

import csv
import os
import random

from . import _tables as tables
from ._documents import DataPrepException, shown

PREFIX = "Microsoft.DPrep."
ENCODINGS = (
    "utf-8-sig", "iso-8859-1", "latin-1", "ascii", "utf-16", "utf-32", "utf-8-sig", "windows-1252",
)  # fmt: skip
TOP, RANDOM, PERCENT, FULL = range(4)
KEEP_ROWS, REMOVE_ROWS = 0, 1
REMOVE, KEEP, REPLACE = range(3)
INVALID, MISSING = tables.Invalid, None


class Arguments:
    """The arguments of one step; what is wrong with them is told with where they stand."""

    def __init__(self, block, told, place=None, beside="", sampling=None):
        found = block.get("arguments")
        self.found = found if isinstance(found, dict) else {}
        self.told = told
        self.place, self.beside, self.sampling = place, beside, sampling

    def wrong(self, why):
        """An exception that says where."""
        return DataPrepException("%s: %s" % (self.told, why))

    def get(self, name, kind, default=None):
        """A value of one kind.  Raises DataPrepException."""
        value = self.found.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise self.wrong("%s is %.60r" % (name, value))
        return value

    def choice(self, name, known, default=None):
        """One of a few numbers.  Raises DataPrepException."""
        value = self.get(name, int, default)
        if value not in known:
            raise self.wrong("%s is %r, which is not done here" % (name, value))
        return value

    def columns(self):
        """The names of columns that a step is for."""
        names = self.found.get("columnIds")
        if names is None:
            names = self.found.get("columns")
            if isinstance(names, dict):
                names = (names.get("details") or {}).get("selectedColumns")
        if names is None and isinstance(self.found.get("columnId"), str):
            names = [self.found["columnId"]]
        if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
            raise self.wrong("it names no columns")
        return names

    def require(self, table, names):
        """Raise DataPrepException for columns that are not there."""
        for name in names:
            if name not in table.columns:
                known = ", ".join(map(shown, table.names))
                raise self.wrong("there is no column %r; there are %s" % (shown(name), known))


def column_rename(asked):
    old, new = asked.get("columnId", str), asked.get("newColumnId", str)

    def step(table):
        asked.require(table, [old])
        if new in table.columns and new != old:
            raise asked.wrong("there is a column %r already" % shown(new))
        return table.renamed(old, new)

    return step


def delete_column(asked):
    names = asked.columns()

    def step(table):
        asked.require(table, names)
        return table.only([name for name in table.names if name not in names])

    return step


def keep_column(asked):
    names = asked.columns()

    def step(table):
        asked.require(table, names)
        return table.only([name for name in table.names if name in names])

    return step


def _as_text(value):
    return value if isinstance(value, str) else "" if value is None else tables.to_text(value)


def _as_number(value):
    value = tables.to_number(value)
    return value if isinstance(value, float) else None


_ANY = {
    2: lambda value, _: value is MISSING,
    3: lambda value, _: value is not MISSING,
    4: lambda value, _: isinstance(value, INVALID),
    5: lambda value, _: not isinstance(value, INVALID),
}
_TEXTS = {
    0: lambda text, asked: text == asked,
    1: lambda text, asked: text != asked,
    6: lambda text, _: text == "",
    7: lambda text, _: text != "",
    8: lambda text, asked: text.startswith(asked),
    9: lambda text, asked: not text.startswith(asked),
    10: lambda text, asked: text.endswith(asked),
    11: lambda text, asked: not text.endswith(asked),
    12: lambda text, asked: asked in text,
    13: lambda text, asked: asked not in text,
}
_NUMBERS = {
    0: lambda number, asked: number == asked,
    1: lambda number, asked: number != asked,
    6: lambda number, asked: number > asked,
    7: lambda number, asked: number >= asked,
    8: lambda number, asked: number < asked,
    9: lambda number, asked: number <= asked,
}
# comparisons that a missing value passes: it is none of what is looked for
_NEGATIVE_TEXTS, _NEGATIVE_NUMBERS = (1, 9, 11, 13), (1,)
_WITHOUT_VALUE = (2, 3, 4, 5, 6, 7)


def filter_string(asked):
    return _filter(asked, _TEXTS, _NEGATIVE_TEXTS, _as_text, _WITHOUT_VALUE)


def filter_number(asked):
    return _filter(asked, _NUMBERS, _NEGATIVE_NUMBERS, _as_number, tuple(_ANY))


def _filter(asked, operators, negative, convert, without_value):
    """Keep or remove the rows that all or any of some clauses are true of."""
    name = asked.get("columnId", str)
    remove = asked.choice("filterResult", (KEEP_ROWS, REMOVE_ROWS), KEEP_ROWS) == REMOVE_ROWS
    together = any if asked.choice("clauseRelationship", (0, 1), 0) else all
    tests = [
        _clause(asked, clause, operators, negative, convert, without_value)
        for clause in asked.get("clauses", list)
    ]
    if not tests:
        raise asked.wrong("it has no clauses")

    def step(table):
        asked.require(table, [name])
        values = table.columns[name]
        return table.keep([together(test(value) for test in tests) != remove for value in values])

    return step


def _clause(asked, clause, operators, negative, convert, without_value):
    operator = clause.get("operator") if isinstance(clause, dict) else None
    if isinstance(operator, bool) or (operator not in operators and operator not in _ANY):
        raise asked.wrong("a clause has the operator %r, which is not done here" % (operator,))
    if operator in _ANY:
        return lambda value: _ANY[operator](value, None)
    wanted = None
    if operator not in without_value:
        wanted = convert(clause.get("value"))
        if wanted is None or clause.get("value") is None:
            raise asked.wrong("a clause compares with %.60r" % (clause.get("value"),))
    compare = operators[operator]

    def test(value):
        if value is None or isinstance(value, INVALID):
            return operator in negative
        value = convert(value)
        return operator in negative if value is None else compare(value, wanted)

    return test


def set_column_types(asked):
    changes = []
    for one in asked.get("columnConversion", list):
        name = one.get("columnId") if isinstance(one, dict) else None
        if not isinstance(name, str):
            raise asked.wrong("a conversion names no column")
        kind = one.get("typeProperty")
        options = one.get("typeArguments") or {}
        if kind == 5:  # unknown: it stays what it is
            continue
        if kind not in _CONVERSIONS or isinstance(kind, bool):
            raise asked.wrong("column %r gets the type %r, which is not done here" % (shown(name), kind))
        changes.append((name, kind, _formats(asked, options) if kind == 4 else ()))
    return _converter(asked, changes)


_CONVERSIONS = {0: tables.STRING, 1: tables.BOOLEAN, 2: tables.INTEGER, 3: tables.NUMBER, 4: tables.DATE}


def _formats(asked, options):
    found = options.get("dateTimeFormats") or options.get("dateTimeFormat") or []
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise asked.wrong("the formats of dates are %.60r" % (found,))
    return found


def _converter(asked, changes, *, comma=False):
    convert = {
        tables.STRING: lambda value, _: tables.to_text(value),
        tables.BOOLEAN: lambda value, _: tables.to_boolean(value),
        tables.INTEGER: lambda value, _: tables.to_integer(value),
        tables.NUMBER: lambda value, _: tables.to_number(value, comma),
        tables.DATE: tables.to_date,
    }

    def step(table):
        for name, number, formats in changes:
            asked.require(table, [name])
            kind = _CONVERSIONS[number]
            values = [convert[kind](value, formats) for value in table.columns[name]]
            table = table.changed(name, values, kind)
        return table

    return step


def convert_to_number(asked):
    comma = asked.choice("decimalPoint", (0, 1), 0) == 1
    return _converter(asked, [(name, 3, ()) for name in asked.columns()], comma=comma)


def convert_to_string(asked):
    return _converter(asked, [(name, 0, ()) for name in asked.columns()])


def convert_to_date(asked):
    formats = _formats(asked, asked.found)
    return _converter(asked, [(name, 4, formats) for name in asked.columns()])


def _is_missing(value):
    return value is None or value == ""


def missing_values(asked):
    names, action = asked.columns(), asked.choice("action", (REMOVE, KEEP, REPLACE))
    text = asked.found.get("replacementValue")
    if action == REPLACE and not isinstance(text, (str, int, float)):
        raise asked.wrong("it replaces missing values by %.60r" % (text,))

    def step(table):
        asked.require(table, names)
        if action == REMOVE:
            rows = zip(*[table.columns[name] for name in names])
            return table.keep([not any(map(_is_missing, row)) for row in rows])
        for name in names if action == REPLACE else ():
            fill = _of_kind(asked, text, table.kinds[name], name)
            values = [fill if _is_missing(one) else one for one in table.columns[name]]
            table = table.changed(name, values)
        return table

    return step


def _of_kind(asked, text, kind, name):
    """A replacement as a value of a column."""
    convert = {
        tables.BOOLEAN: tables.to_boolean,
        tables.INTEGER: tables.to_integer,
        tables.NUMBER: tables.to_number,
        tables.DATE: lambda value: tables.to_date(value, ()),
    }.get(kind, tables.to_text)
    found = convert(text)
    if isinstance(found, INVALID):
        raise asked.wrong("%r is no %s, which column %r holds" % (shown(text), kind, shown(name)))
    return found


def remove_missing(asked):
    names = asked.columns()

    def step(table):
        asked.require(table, names)
        rows = zip(*[table.columns[name] for name in names])
        return table.keep([not any(map(_is_missing, row)) for row in rows])

    return step


def distinct(asked):
    names = asked.columns()

    def step(table):
        asked.require(table, names)
        seen, chosen = set(), []
        for row in zip(*[table.columns[name] for name in names]):
            key = tuple(("", one.text) if isinstance(one, INVALID) else one for one in row)
            chosen.append(key not in seen)
            seen.add(key)
        return table.keep(chosen)

    return step


def sample(asked):
    """The active sample, or the one that the run configuration names; all where it says so."""
    samples = [one for one in asked.get("samples", list) if isinstance(one, dict)]
    use, named = asked.sampling
    if named is not None:
        chosen = [one for one in samples if one.get("sampleName") == named]
        if not chosen:
            known = ", ".join(shown(one.get("sampleName")) for one in samples)
            raise asked.wrong("DataSourceSettings name the sample %r; there is %s" % (shown(named), known))
    else:
        active = asked.found.get("activeSample")
        chosen = [one for one in samples if one.get("sampleId") == active]
    if not use or not chosen or chosen[0].get("isDisabled"):
        return lambda table: table
    return _sampler(asked, chosen[0])


def _sampler(asked, chosen):
    strategy = chosen.get("sampleStrategy", FULL)
    if strategy not in (TOP, RANDOM, PERCENT, FULL):
        raise asked.wrong("a sample has the strategy %r, which is not done here" % (strategy,))
    options = chosen.get(("topArguments", "randomNArguments", "randomPercentArguments", "")[strategy]) or {}
    count, probability = options.get("sampleCount", 0), options.get("probability", 0)
    if strategy in (TOP, RANDOM) and (not isinstance(count, int) or count < 1):
        raise asked.wrong("a sample has %.60r rows" % (count,))
    if strategy == PERCENT and (not isinstance(probability, (int, float)) or not 0 <= probability <= 1):
        raise asked.wrong("a sample takes rows with probability %.60r" % (probability,))

    def step(table):
        rows = len(table)
        # the same rows in every run
        dice = random.Random(options.get("seed") or 0)  # noqa: S311 - a sample is no secret
        if strategy == TOP:
            return table.keep([at < count for at in range(rows)])
        if strategy == RANDOM:
            chosen = set(dice.sample(range(rows), min(count, rows)))
            return table.keep([at in chosen for at in range(rows)])
        return (
            table.keep([dice.random() < probability for _ in range(rows)]) if strategy == PERCENT else table
        )

    return step


def path_column(asked):
    if asked.choice("pathColumnOperation", (0, 1), 0) == 1:
        raise asked.wrong("a column with the paths of files is not made here: remove the step")
    return lambda table: table


def write_csv(asked):
    """Write the table as it is at this step, into the project's copy or the share."""
    separator = asked.get("separator", str, ",")
    if len(separator) != 1:
        raise asked.wrong("separator is %.60r" % separator)
    path = _destination(asked)
    missing, invalid = asked.get("na", str, ""), asked.get("error", str, "")

    def text(value):
        if value is None:
            return missing
        return invalid if isinstance(value, INVALID) else tables.to_text(value)

    def step(table):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=separator, lineterminator="\n")
            writer.writerow(table.names)
            writer.writerows([text(one) for one in row] for row in zip(*table.columns.values()))
        return table

    return step


def _destination(asked):
    for key in ("filePath", "localPath", "path", "directoryPath"):
        named = path_of(asked.found.get(key))
        if named is not None:
            path = asked.place.resolve(named, asked.beside, asked.told)
            return os.path.join(path, "part-00000.csv") if key == "directoryPath" else path
    raise asked.wrong("it names no file to write")


def path_of(value):
    """The path of a local file in any of the forms that arguments have; None for another."""
    if isinstance(value, dict):
        details = value.get("resourceDetails")
        value = details[0] if isinstance(details, list) and len(details) == 1 else value
        value = value.get("path") if isinstance(value, dict) else None
    return value if isinstance(value, str) and value else None


STEPS = {
    "ColumnRenameBlock": column_rename,
    "ConvertColumnFieldTypeBlock": convert_to_number,
    "ConvertColumnFieldTypeToDateBlock": convert_to_date,
    "ConvertColumnFieldTypeToStringBlock": convert_to_string,
    "DeleteColumnBlock": delete_column,
    "DropColumnsBlock": delete_column,
    "FilterNumberColumnBlock": filter_number,
    "FilterStringColumnBlock": filter_string,
    "HandlePathColumnBlock": path_column,
    "KeepColumnBlock": keep_column,
    "KeepColumnsBlock": keep_column,
    "MissingValuesBlock": missing_values,
    "RemoveRowOnColumnMissingValuesBlock": remove_missing,
    "SampleBlock": sample,
    "SelectRowsOnDistinctValuesInColumnBlock": distinct,
    "SetColumnTypesBlock": set_column_types,
    "WriteToCsvBlock": write_csv,
}
SOURCES = ("DataSourceBlock", "ReferenceActivityBlock")


def name_of(block):
    """The name of a step without its prefix."""
    name = block.get("type")
    if not isinstance(name, str):
        return "(none)"
    return name[len(PREFIX) :] if name.startswith(PREFIX) else name


def unknown(told, name):
    """An exception for a step that is not done here."""
    return DataPrepException(
        "%s: %s is not done here. Do this step in Python on what the steps before it give, or let the script"
        " read a CSV file with the result. Steps that are done: %s, ParseDelimitedBlock, %s."
        % (told, shown(name), ", ".join(SOURCES), ", ".join(sorted(STEPS)))
    )
