"""What comparing runs found: values alone, with their JSON."""

from __future__ import annotations

from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# the kinds of things that are compared, in the order in which they are shown
SETTINGS, PARAMS, METRICS, ENVIRONMENT = "settings", "params", "metrics", "environment"
CODE, ARTIFACTS, LOG = "code", "artifacts", "log"
PARTS = (SETTINGS, PARAMS, METRICS, ENVIRONMENT, CODE, ARTIFACTS, LOG)
ADDED, REMOVED, CHANGED = "added", "removed", "changed"


class Row(Value):
    """A fact of every run, None where one has none; `told` ones differ by nature and decide nothing."""

    name: str
    values: tuple[Any, ...]
    same: bool
    note: str = ""
    told: bool = False
    # of a metric that was logged several times a line for each run, empty for none; not in JSON
    courses: tuple[tuple[float, ...], ...] = ()


class Text(Value):
    """A unified diff, its lines without ends; `cut` is how many more there are, as far as is known."""

    lines: tuple[str, ...]
    cut: int = 0


class Cell(Value):
    """A cell of a table that differs: its row in the file, counted from 1, and its column."""

    row: int
    column: str
    first: str
    second: str


class Cells(Value):
    """How two tables differ: `differ` cells of which some are listed; rows and columns that only one has."""

    differ: int = 0
    cells: tuple[Cell, ...] = ()
    rows: tuple[int, int] = (0, 0)
    rows_added: tuple[int, ...] = ()
    rows_removed: tuple[int, ...] = ()
    columns_added: tuple[str, ...] = ()
    columns_removed: tuple[str, ...] = ()


class Image(Value):
    """A picture of a type that shows nothing but itself: its bytes, never in JSON."""

    type: str
    data: bytes
    width: int
    height: int


class File(Value):
    """A file at one side; `state` says why it is not kept."""

    size: int = 0
    sha256: str = ""
    mode: int = 0
    link: str = ""
    state: str = ""


class Change(Value):
    """A file that differs: `kind` is added, removed or changed, and what differs in it as far as is known."""

    path: str
    kind: str
    first: File | None = None
    second: File | None = None
    text: Text | None = None
    cells: Cells | None = None
    images: tuple[Image | None, Image | None] | None = None
    note: str = ""


class Files(Value):
    """Files of both sides: how many are the same, those that differ, and how many more of these there are."""

    same: int = 0
    changes: tuple[Change, ...] = ()
    more: int = 0
    note: str = ""

    @property
    def differ(self) -> int:
        """How many differ."""
        return len(self.changes) + self.more


class Packages(Value):
    """Packages that differ, with both versions, "" for none; `how` all are known, "" when they are not."""

    how: str = ""
    same: int = 0
    rows: tuple[tuple[str, str, str], ...] = ()
    more: int = 0
    note: str = ""

    @property
    def differ(self) -> int:
        """How many differ."""
        return len(self.rows) + self.more


class Log(Value):
    """The first line that differs, its number and what both sides have there, None for the end."""

    same: bool
    lines: int = 0
    what: str = ""
    first: str | None = None
    second: str | None = None
    text: Text | None = None

    @property
    def differ(self) -> int:
        """1 where they do."""
        return int(not self.same)


class Pair(Value):
    """The first run and another one, as far as that was asked."""

    run_id: str
    environment: Packages | None = None
    code: Files | None = None
    artifacts: Files | None = None
    log: Log | None = None

    @property
    def same(self) -> bool:
        """Whether none of it differs."""
        found = (self.environment, self.code, self.artifacts, self.log)
        return not any(one.differ for one in found if one is not None)


class Comparison(Value):
    """Runs beside each other; files, packages and logs are compared with those of the first.

    `runs` are facts of each; `tables` the rows by part.  `str` gives the text, a notebook shows it as a page.
    """

    runs: tuple[Mapping[str, Any], ...]
    parts: tuple[str, ...]
    tables: Mapping[str, tuple[Row, ...]]
    pairs: tuple[Pair, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs but names, times and durations."""
        rows = (row for table in self.tables.values() for row in table)
        return all(row.same or row.told for row in rows) and all(pair.same for pair in self.pairs)

    def as_json(self) -> dict[str, Any]:
        """The comparison as JSON values; pictures are left out."""
        return {
            "same": self.same,
            "runs": [dict(one) for one in self.runs],
            **{name: [_json(row) for row in rows] for name, rows in self.tables.items()},
            "pairs": [_json(pair) for pair in self.pairs],
        }

    def __repr__(self) -> str:
        from aml_jupyter.compare.words import headline

        return f"<Comparison of {len(self.runs)} runs: {headline(self)}>"

    def __str__(self) -> str:
        from aml_jupyter.compare.plain import text

        return text(self)

    def _repr_html_(self) -> str:
        from aml_jupyter.compare.page import html

        return html(self)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": str(self)}


def _json(value: Any) -> Any:
    if isinstance(value, Image):
        return {"type": value.type, "width": value.width, "height": value.height}
    if isinstance(value, File):
        found = {name: one for name, one in value.as_dict().items() if one}
        return {**found, "mode": f"{value.mode:o}"} if value.mode else found
    if isinstance(value, Value):
        fields = value.as_dict()
        fields.pop("courses", None)
        return {name: _json(one) for name, one in fields.items() if one is not None}
    if isinstance(value, (list, tuple)):
        return [_json(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _json(one) for name, one in value.items()}
    # NaN is no JSON
    return str(value) if isinstance(value, float) and value - value != 0.0 else value
