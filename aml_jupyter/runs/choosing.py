# ruff: noqa: S608 - statements are put together from our own names; values are always parameters
"""Which runs are meant and in which order, as SQL on the index.

Every condition can be asked of one run (`EXISTS ...`); many also name the stretch of an index that holds
all runs they may mean, which can be counted.
"""

from __future__ import annotations

from aml_jupyter.frozen import Value
from aml_jupyter.runs import filtering, schema
from aml_jupyter.runs.filtering import ATTRIBUTE, METRIC, NUMBER, TEXT, TIME, Condition, Group
from aml_jupyter.runs.schema import storable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Ask = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]

# runs of a condition that are few in any case; what a look-up costs beside a step in order
SHORT, LOOKUP = 300, 2
# counts that are kept
REMEMBERED = 2000
_COLUMNS = {**schema.SORTED, "project": "project_name"}
# attributes by which the index finds runs
_INDEXED = ("run_id", "name", "status", "parent_run_id")
# what MLflow calls the states
_STATES = {"FINISHED": "Completed", "FAILED": "Failed", "KILLED": "Canceled", "RUNNING": "Running"}


class Clause(Value):
    """A piece of SQL with its values."""

    sql: str
    values: tuple[object, ...] = ()


class Stretch(Value):
    """Where an index has all runs that a condition means: a table with the column of the run, a clause."""

    table: str
    run: str
    where: Clause
    condition: Condition


class Order(Value):
    """One key of an order; `attribute` is a name of `filtering.ATTRIBUTES` where it is one."""

    entity: str
    key: str
    descending: bool


class Choice:
    """Which runs are meant: by project, state and filter; hidden ones only when asked for."""

    def __init__(
        self,
        project: str | None = None,
        status: str | Sequence[str] | None = None,
        hidden: bool = False,
        where: str | None = None,
    ) -> None:
        self.project = project
        self.parts: list[str] = []
        self.values: list[object] = []
        if not hidden:
            self.parts.append("hidden = 0")
        if project is not None:
            self.parts.append("project = ?")
            self.values.append(project)
        if status is not None:
            wanted = [status] if isinstance(status, str) else list(status)
            self.parts.append(f"status IN ({', '.join('?' * len(wanted))})")
            self.values += wanted
        self.filter = filtering.parse(where) if where else Group(word="AND", parts=())

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Those that must hold in any case."""
        parts = self.filter.parts if self.filter.word == "AND" else ()
        return tuple(part for part in parts if isinstance(part, Condition))

    def given(self) -> tuple[str, list[object]]:
        """The condition without the filter."""
        return (" WHERE " + " AND ".join(self.parts) if self.parts else ""), list(self.values)

    def where(
        self,
        more: str = "",
        values: Sequence[object] = (),
        stretch: Stretch | None = None,
        *,
        bare: bool = False,
    ) -> tuple[str, list[object]]:
        """The condition, with another one before it, and its values; with a filter `runs` is called `r`.

        What a stretch is for is not asked again; `bare` is the filter alone.
        """
        found, run = self.filter, stretch.run if stretch else "r.id"
        if stretch and found.word == "AND":
            found = found.replace(parts=tuple(part for part in found.parts if part is not stretch.condition))
        clause = _clause(found, run)
        own, given = ([], []) if bare else (self.parts, self.values)
        parts = [part for part in (more, *own, clause.sql) if part]
        return (" WHERE " + " AND ".join(parts) if parts else ""), [*values, *given, *clause.values]


def _clause(part: Group | Condition, run: str) -> Clause:
    """A filter as a condition on a row `r` of `runs`, whose number is also in `run`."""
    if isinstance(part, Condition):
        return _of_run(part, run)
    clauses = [_clause(one, run) for one in part.parts]
    if not clauses:
        return Clause(sql="")
    sql = f" {part.word} ".join(one.sql for one in clauses)
    return Clause(sql=f"({sql})", values=tuple(value for one in clauses for value in one.values))


def _of_run(condition: Condition, run: str) -> Clause:
    if condition.entity == ATTRIBUTE:
        return _of_attribute(condition)
    key = (storable(condition.key),)
    compared = _of_value(condition)
    having = f" AND {compared.sql}" if compared.sql else ""
    no = "NOT " if condition.operator == "NULL" and not condition.denied else ""
    sql = f"{no}EXISTS (SELECT 1 FROM {condition.entity} WHERE run = {run} AND key = ?{having})"
    return Clause(sql=sql, values=(*key, *compared.values))


def _of_value(condition: Condition) -> Clause:
    """What a condition asks of the values of its table."""
    if condition.operator == "NULL":
        return Clause(sql="")
    if condition.entity == METRIC:
        found = _compared("value", condition, numeric=True)
        # NaN, which is kept as NULL, is not equal to any number
        unequal = condition.operator == "!=" or condition.denied
        return Clause(sql=f"({found.sql} OR value IS NULL)", values=found.values) if unequal else found
    operands = condition.operand if isinstance(condition.operand, tuple) else (condition.operand,)
    if all(isinstance(one, str) for one in operands):
        return _compared("value", condition)
    if not any(isinstance(one, str) for one in operands):
        return _compared("number", condition, numeric=True)
    texts = tuple(one for one in operands if isinstance(one, str))
    numbers = tuple(one for one in operands if not isinstance(one, str))
    some, others = (
        _compared("value", condition.replace(denied=False, operand=texts)),
        _compared("number", condition.replace(denied=False, operand=numbers), numeric=True),
    )
    no = "NOT " if condition.denied else ""
    return Clause(sql=f"{no}ifnull({some.sql} OR {others.sql}, 0)", values=(*some.values, *others.values))


def _compared(column: str, condition: Condition, *, numeric: bool = False) -> Clause:
    operator, operand = condition.operator, condition.operand
    if operator == "IN":
        values = operand if isinstance(operand, tuple) else ()
        no = "NOT " if condition.denied else ""
        marks = ", ".join("?" * len(values))
        return Clause(sql=f"{column} {no}IN ({marks})", values=tuple(_bound(one, numeric) for one in values))
    if operator in ("LIKE", "ILIKE"):
        return _pattern(column, str(operand), any_case=operator == "ILIKE")
    if operator == "!=" and numeric and column == "number":
        # a text is not the number either
        return Clause(sql="(number <> ? OR number IS NULL)", values=(_bound(operand, True),))
    return Clause(sql=f"{column} {operator} ?", values=(_bound(operand, numeric),))


def _bound(value: object, numeric: bool) -> object:
    return float(value) if numeric else storable(value)  # type: ignore[arg-type] # the parser saw a number


def _pattern(column: str, pattern: str, *, any_case: bool) -> Clause:
    """`%` and `_` as SQL has them, without an escape."""
    if any_case and pattern.isascii():
        return Clause(sql=f"{column} LIKE ?", values=(pattern,))
    if any_case:
        column, pattern = f"aml_lower({column})", pattern.lower()
    # GLOB tells capitals apart and can use an index
    signs = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    glob = "".join(signs.get(char, char) for char in pattern)
    return Clause(sql=f"{column} GLOB ?", values=(storable(glob),))


def _of_attribute(condition: Condition) -> Clause:
    column = "r." + _COLUMNS.get(condition.key, condition.key)
    if condition.operator == "NULL":
        no = "NOT " if condition.denied else ""
        return Clause(sql=f"{column} IS {no}NULL")
    kind = filtering.ATTRIBUTES[condition.key]
    if kind == TIME:
        return _of_time(column, condition)
    if condition.key == "status":
        condition = condition.replace(operand=_states(condition.operand))
    return _compared(column, condition, numeric=kind == NUMBER)


def _states(operand: Any) -> Any:
    if isinstance(operand, tuple):
        return tuple(_STATES.get(one, one) for one in operand)
    return _STATES.get(operand, operand)


def _of_time(column: str, condition: Condition) -> Clause:
    """A time is a stretch: equal is within, later is behind its end."""
    operands = condition.operand if isinstance(condition.operand, tuple) else (condition.operand,)
    operator = "!=" if condition.denied else "=" if condition.operator == "IN" else condition.operator
    clauses = [_of_moment(column, operator, *(filtering.interval(one) or ("", ""))) for one in operands]  # type: ignore[arg-type] # the parser saw a time
    sql = (" AND " if condition.denied else " OR ").join(one.sql for one in clauses)
    return Clause(sql=f"({sql})", values=tuple(value for one in clauses for value in one.values))


def _of_moment(column: str, operator: str, low: str, high: str) -> Clause:
    if operator == "=":
        return Clause(sql=f"({column} >= ? AND {column} < ?)", values=(low, high))
    if operator == "!=":
        return Clause(sql=f"({column} < ? OR {column} >= ?)", values=(low, high))
    sign, edge = {"<": ("<", low), ">=": (">=", low), ">": (">=", high), "<=": ("<", high)}[operator]
    return Clause(sql=f"{column} {sign} ?", values=(edge,))


# -- the way to the answer


def stretch_of(condition: Condition) -> Stretch | None:
    """Where an index has the runs of a condition; None where none has."""
    if condition.denied and condition.operator != "NULL":
        return None
    if condition.entity == ATTRIBUTE:
        found = condition.key in _INDEXED and condition.operator in ("=", "IN")
        if not found:
            return None
        return Stretch(table="runs r", run="r.id", where=_of_attribute(condition), condition=condition)
    if condition.operator in ("!=", "ILIKE") or (condition.operator == "NULL" and not condition.denied):
        return None
    compared = _of_value(condition)
    if compared.sql.startswith(("number", "ifnull", "(")) or (
        condition.operator == "LIKE" and str(condition.operand)[:1] in ("%", "_", "")
    ):
        return None
    where = Clause(
        sql="c.key = ?" + (f" AND c.{compared.sql}" if compared.sql else ""),
        values=(storable(condition.key), *compared.values),
    )
    return Stretch(table=f"{condition.entity} c", run="c.run", where=where, condition=condition)


def stretches(chosen: Choice) -> list[Stretch]:
    """Those of the conditions that must hold."""
    return [stretch for one in chosen.conditions if (stretch := stretch_of(one)) is not None]


class Counts:
    """How many runs the conditions of this and earlier questions mean: what the choice of a way rests on.

    What has changed since is no matter, because every way gives the same.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._known: dict[tuple[object, ...], int] = {}
        # of the first runs in order too few of which met a filter, how many did
        self.fitting: dict[tuple[object, ...], int] = {}
        self.whole = self._size()

    def _size(self) -> int:
        return int(self._ask("SELECT max(id) FROM runs", ())[0][0] or 0)

    @property
    def stale(self) -> bool:
        """Whether there are many more runs than there were, or too much is remembered."""
        return (
            not self.whole <= self._size() <= self.whole * 1.2 + 100
            or len(self._known) + len(self.fitting) > REMEMBERED
        )

    def rare(self, found: Sequence[Stretch]) -> Stretch | None:
        """The shortest of them where that is short in any case."""
        return self._least(found, SHORT)

    def rarest(self, found: Sequence[Stretch], steps: int) -> Stretch | None:
        """The shortest of them where it is shorter than so many steps in order."""
        return self._least(found, steps // LOOKUP)

    def _least(self, found: Sequence[Stretch], most: int) -> Stretch | None:
        counts = [self._count(one, most) for one in found]
        return found[counts.index(min(counts))] if counts and min(counts) < most else None

    def _count(self, stretch: Stretch, most: int) -> int:
        """How many, as far as `most`."""
        where = stretch.where
        key = (stretch.table, where.sql, where.values)
        known, seen = self._known.get(key, 0), self._known.get((*key, "as far as"), -1)
        if known < seen or most <= seen:
            return min(known, most)
        sql = f"SELECT count(*) FROM (SELECT 1 FROM {stretch.table} WHERE {where.sql} LIMIT {most})"
        self._known[key] = int(self._ask(sql, where.values)[0][0])
        self._known[*key, "as far as"] = most
        return self._known[key]


def is_bound(condition: Condition, metric: str) -> bool:
    """Whether a condition is a stretch of the metric that orders."""
    ordered = condition.operator in ("=", "<", "<=", ">", ">=")
    return condition.entity == METRIC and condition.key == metric and ordered


def bounds(chosen: Choice, metric: str) -> list[Clause]:
    """What the filter asks of the metric that orders, as conditions on a row `m` of `metrics`."""
    clauses = (_of_value(one) for one in chosen.conditions if is_bound(one, metric))
    return [Clause(sql=f"m.{one.sql}", values=one.values) for one in clauses]


# -- order


def order_of(text: str) -> Order | None:
    """A key of `--order-by` that the index can order by; None for another."""
    from aml_jupyter.runs.rows import split_order

    key, descending = split_order(text)
    entity, name = filtering.name_of(key)
    if not entity or (entity == ATTRIBUTE and name not in filtering.ATTRIBUTES):
        return None
    return Order(entity=entity, key=name, descending=descending)


def terms(order: Order) -> Clause:
    """The terms of ORDER BY for a row `r` of `runs`; what has no value comes last, numbers before text."""
    way = "DESC" if order.descending else "ASC"
    if order.entity == ATTRIBUTE:
        column = "r." + _COLUMNS.get(order.key, order.key)
        empty = f"nullif({column}, '')" if filtering.ATTRIBUTES[order.key] == TEXT else column
        return Clause(sql=f"{empty} IS NULL, {column} {way}")
    key = storable(order.key)

    def value(column: str) -> str:
        return f"(SELECT {column} FROM {order.entity} WHERE run = r.id AND key = ?)"

    if order.entity == METRIC:
        return Clause(sql=f"{value('value')} IS NULL, {value('value')} {way}", values=(key, key))
    text, number = value("nullif(value, '')"), value("number")
    sql = f"{text} IS NULL, {number} IS NULL {way}, {number} {way}, {text} {way}"
    return Clause(sql=sql, values=(key,) * 4)
