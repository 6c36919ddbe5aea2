"""Dataflows: their steps in order, those of the files they refer to first; then done one after the other."""

import csv
import json
import os

from . import _tables as tables
from ._blocks import ENCODINGS, STEPS, Arguments, name_of, path_of, unknown
from ._documents import DataPrepException, Place, load, read, shown

# what the run configuration says of data sources: {"sampling", "settings", "substitutions"}
VARIABLE = "AML_DATA_SOURCES"
# files and dataflows that refer to others, one behind the other
DEEPEST = 20
LOCAL = 0
NOTHING, FILE, ANONYMOUS = 0, 1, 2


def execute(path, index, memory=None):
    """The table of a dataflow.  Raises DataPrepException; nothing was written then but by earlier steps."""
    path = os.fspath(path)
    flow = _Flow(path, memory)
    path = flow.first()
    activities = load(path)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(activities):
        names = ", ".join("%d %s" % (at, shown(one.get("name"))) for at, one in enumerate(activities))
        raise DataPrepException("%s has no dataflow %r; there is %s" % (shown(path), index, names))
    source, steps = flow.steps(path, activities, activities[index], ())
    table = source()
    for step in steps:
        table = step(table)
    return tables.without_invalid(table)


def to_frame(table, spark):
    """What a script gets: a pandas DataFrame, or a Spark one where that is meant."""
    if spark is None:
        spark = tables.in_spark()
    return tables.to_spark(table, spark) if spark else tables.to_pandas(table)


class _Flow:
    """Puts the steps of a dataflow together; the run configuration may replace its sources."""

    def __init__(self, path, memory):
        self.path = path
        self.place = Place(path)
        try:
            self.asked = json.loads(os.environ.get(VARIABLE) or "{}")
        except ValueError:
            self.asked = {}
        self.memory = {os.path.realpath(name): rows for name, rows in (memory or {}).items()}

    def first(self):
        """The file that is meant, which may be substituted."""
        return self.substituted(os.path.realpath(self.path))

    def substituted(self, path):
        """The file that is read instead of one."""
        for name, other in (self.asked.get("substitutions") or {}).items():
            if self.is_named(path, name):
                return self.place.resolve(
                    other, os.path.join(self.place.root, "x"), "DataSourceSubstitutions"
                )
        return path

    def is_named(self, path, name):
        """Whether a name in the run configuration means a file; it is relative to the project."""
        name = str(name).replace("\\", "/")
        return os.path.realpath(os.path.join(self.place.root, name)) == path or (
            "/" not in name and os.path.basename(path) == name
        )

    def sampling(self, path):
        """Whether the samples of a file are used, and the name of one that is asked for."""
        use = bool(self.asked.get("sampling", True))
        for name, settings in (self.asked.get("settings") or {}).items():
            if use and self.is_named(path, name) and isinstance(settings, dict):
                # the manual of 2017 has Sample beside Sampling instead of below it
                inner = settings.get("Sampling")
                sample = (inner if isinstance(inner, dict) else settings).get("Sample")
                if isinstance(sample, str):
                    return True, sample
        return use, None

    def steps(self, path, activities, activity, behind):
        """What reads the data of a dataflow, and the steps behind it."""
        if path in self.memory:
            return self.from_memory(path), []
        told = "%s, dataflow %s" % (
            shown(os.path.relpath(path, self.place.root)),
            shown(activity.get("name")),
        )
        blocks = activity["blocks"]
        if not blocks:
            raise DataPrepException("%s has no steps" % told)
        key = (path, id(activity) if activity.get("id") is None else activity["id"])
        if key in behind or len(behind) >= DEEPEST:
            raise DataPrepException("%s refers to itself, or to too many others" % told)
        first = name_of(blocks[0])
        asked = Arguments(blocks[0], "%s, step 1 (%s)" % (told, shown(first)), self.place, path)
        if first == "ReferenceActivityBlock":
            source, steps = self.referred(asked, path, activities, (*behind, key))
            rest = 1
        elif first == "DataSourceBlock":
            source, steps, rest = self.files(asked, blocks, told), [], 2
        else:
            raise unknown(asked.told, first)
        for number, block in enumerate(blocks[rest:], rest + 1):
            steps.append(self.step(block, "%s, step %d" % (told, number), path))
        return source, steps

    def step(self, block, told, path):
        """One step, with its arguments checked."""
        name = name_of(block)
        told = "%s (%s)" % (told, shown(name))
        if name not in STEPS:
            raise unknown(told, name)
        return STEPS[name](Arguments(block, told, self.place, path, self.sampling(path)))

    def referred(self, asked, path, activities, behind):
        """The dataflow of another file, or another one of this file."""
        reference = asked.get("reference", dict)
        kind = reference.get("referenceType")
        if kind not in (NOTHING, FILE) or reference.get("anonymousSteps"):
            raise asked.wrong("it refers to steps that have no name, which is not done here")
        if kind == FILE:
            path = self.place.resolve(reference.get("referenceContainerPath"), path, asked.told)
            path = self.substituted(path)
            if path in self.memory:
                return self.from_memory(path), []
            activities = load(path)
        wanted = reference.get("referencedActivityId")
        found = [one for one in activities if one.get("id") == wanted]
        if not found and kind == FILE and len(activities) == 1:
            found = activities  # a file that was put in the place of another one has its own ids
        if not found:
            raise asked.wrong("there is no dataflow %.60r in %s" % (wanted, shown(os.path.basename(path))))
        return self.steps(path, activities, self.up_to(asked, reference, found[0]), behind)

    def up_to(self, asked, reference, activity):
        """A dataflow up to the step that a reference names."""
        step = reference.get("referencedStep")
        wanted = step.get("referencedStepId") if isinstance(step, dict) else None
        if wanted is None:
            return activity
        places = [at for at, block in enumerate(activity["blocks"]) if block.get("id") == wanted]
        if not places:
            raise asked.wrong("there is no step %.60r" % (wanted,))
        return {**activity, "blocks": activity["blocks"][: places[0] + 1]}

    def from_memory(self, path):
        """Rows that a script has given, the first one with the names of the columns."""
        rows = [list(row) for row in self.memory[path]]
        names = [str(one) for one in rows[0]] if rows else []
        columns = {name: [row[at] for row in rows[1:]] for at, name in enumerate(names)}
        kinds = {name: _kind(values) for name, values in columns.items()}
        return lambda: tables.Table(columns, kinds)

    def files(self, asked, blocks, told):
        """What reads the files of a data source: with the step that takes them apart."""
        value = asked.get("path", dict)
        if value.get("target", LOCAL) != LOCAL:
            raise asked.wrong(
                "its data is in a storage account: put the files into the project or the shared folder and"
                " name them here, or replace it by DataSourceSubstitutions in the run configuration"
            )
        details = value.get("resourceDetails")
        if not isinstance(details, list) or not details:
            raise asked.wrong("it names no file")
        paths = [self.place.resolve(path_of(one), asked.beside, asked.told) for one in details]
        if len(blocks) < 2 or name_of(blocks[1]) != "ParseDelimitedBlock":
            name = name_of(blocks[1]) if len(blocks) > 1 else "a data source that nothing takes apart"
            raise unknown("%s, step 2" % told, name)
        options = _delimited(Arguments(blocks[1], "%s, step 2 (ParseDelimitedBlock)" % told))
        encoding = options.pop("encoding")

        def source():
            try:
                return tables.parse([_text(path, encoding, asked) for path in paths], **options)
            except csv.Error as error:
                raise asked.wrong("its files cannot be taken apart: %s" % error) from None

        return source


def _delimited(asked):
    """What is asked for of a text of values."""
    separator = asked.get("separator", str, ",")
    if len(separator) != 1 or separator in '"\r\n':
        raise asked.wrong("separator is %.60r" % separator)
    return {
        "separator": separator,
        "headers": asked.choice("columnHeadersMode", range(4), 0),
        "encoding": ENCODINGS[asked.choice("fileEncoding", range(len(ENCODINGS)), 0)],
        "skip": asked.choice("skipRows", range(1 << 31), 0)
        if asked.choice("skipRowsMode", range(3), 0)
        else 0,
        "skip_in_all": asked.choice("skipRowsMode", range(3), 0) == 2,
        "quoted_lines": asked.get("handleQuotedLineBreaks", bool, False),
        "comment": asked.get("commentLineCharacter", str, "") or None,
    }


def _text(path, encoding, asked):
    try:
        return read(path, most=None).decode(encoding)
    except UnicodeDecodeError as error:
        raise asked.wrong(
            "%s is not %s: byte %d" % (shown(os.path.basename(path)), encoding, error.start)
        ) from None


def _kind(values):
    """The kind of a column that a script has given."""
    there = [one for one in values if one is not None]
    if there and all(isinstance(one, bool) for one in there):
        return tables.BOOLEAN
    if there and all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in there):
        return tables.NUMBER
    return tables.STRING
