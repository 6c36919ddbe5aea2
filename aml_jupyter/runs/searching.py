# ruff: noqa: S608 - statements are put together from our own names; values are always parameters
"""The rows that answer a question, by the way to them that is short.

With a filter there are two: through the runs in the order that is asked for, until there are enough, or
through the runs of its rarest condition.  Rare conditions are found by counting a little; of the others the
first runs in order are tried, which is the answer when enough of them fit, and tells else how many would.
"""

from __future__ import annotations

from aml_jupyter.runs import choosing, schema
from aml_jupyter.runs.choosing import Choice, Order, Stretch
from aml_jupyter.runs.filtering import ATTRIBUTE, METRIC
from aml_jupyter.runs.schema import storable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from aml_jupyter.runs.choosing import Ask

    Texts = list[tuple[object, ...]]

# a project with fewer runs is searched through its own runs, not through all values of a metric
SMALL_PROJECT = 2000
# runs that are tried in order for each that is wanted, before more is counted
TRIED = 16


class Search:
    """One question to one index, which is asked by `ask`; a negative limit is none."""

    def __init__(self, ask: Ask, counts: choosing.Counts | None, chosen: Choice, limit: int) -> None:
        self.ask = ask
        self.counts = counts
        self.chosen = chosen
        self.limit = limit

    def count(self) -> int:
        """How many runs are meant."""
        stretches = choosing.stretches(self.chosen)
        counts = self.counts
        rarest = counts.rarest(stretches, counts.whole) if counts and stretches else None
        table, where, values = self._way(rarest)
        return int(self.ask(f"SELECT count(*) FROM {table}{where}", values)[0][0])

    def texts(self, orders: Sequence[Order]) -> Texts:
        """Text and checksum of each row, in order."""
        first = orders[0] if len(orders) == 1 else None
        by_metric = first is not None and first.entity == METRIC
        small = (by_metric or bool(self.chosen.filter.parts)) and self._is_small()
        stretch, found = (None, None) if small else self._begin(orders)
        if found is not None:
            return found
        if stretch is None and first and first.entity == METRIC:
            return self._by_metric(first, small=small)
        order, more = _terms(orders)
        table, where, values = self._way(stretch)
        rest = f"FROM {table}{where} ORDER BY {order} LIMIT ?"
        if stretch is None:
            return self.ask(f"SELECT row, crc {rest}", [*values, *more, self.limit])
        # what is sorted are numbers of runs; their texts are fetched afterwards, in the order that was found
        numbers = f"(SELECT r.id AS run {rest})"
        sql = f"SELECT t.row, t.crc FROM {numbers} AS o CROSS JOIN runs t ON t.id = o.run"
        return self.ask(sql, [*values, *more, self.limit])

    def _is_small(self) -> bool:
        if self.chosen.project is None:
            return False
        sql = f"SELECT 1 FROM runs WHERE project = ? LIMIT 1 OFFSET {SMALL_PROJECT}"
        return not self.ask(sql, [self.chosen.project])

    def _begin(self, orders: Sequence[Order]) -> tuple[Stretch | None, Texts | None]:
        """The stretch to begin with, or none; and the answer where it was found on the way."""
        stretches = choosing.stretches(self.chosen)
        counts = self.counts
        if counts is None or not stretches:
            return None, None
        rare = counts.rare(stretches)
        if rare is not None:
            return rare, None
        steps = counts.whole
        if self.limit > 0 and _is_walk(orders):
            key = (self.chosen.filter, tuple(orders), self.limit)
            if key not in counts.fitting:
                tried = self._try(orders[0] if orders else None)
                if len(tried) >= self.limit:
                    return None, tried
                counts.fitting[key] = len(tried)
            steps = min(steps, TRIED * self.limit * self.limit // max(1, counts.fitting[key]))
        return counts.rarest(stretches, steps), None

    def _try(self, order: Order | None) -> Texts:
        """What the first runs in order give."""
        way = "DESC" if order is None or order.descending else "ASC"
        given, values = self.chosen.given()
        if order is not None and order.entity == METRIC:
            bounds = choosing.bounds(self.chosen, order.key)
            inner = " AND ".join(["m.key = ?", "m.value IS NOT NULL", *(one.sql for one in bounds)])
            numbers = f"SELECT m.run AS run FROM metrics m WHERE {inner} ORDER BY m.value {way}, m.run {way}"
            before = [storable(order.key), *(value for one in bounds for value in one.values)]
            where, after = self.chosen.where()
        else:
            numbers = f"SELECT id AS run FROM runs{given} ORDER BY created {way}, id {way}"
            before = values
            where, after = self.chosen.where(bare=True)
        first = f"({numbers} LIMIT {TRIED * self.limit})"
        sql = f"SELECT r.row, r.crc FROM {first} AS o CROSS JOIN runs r ON r.id = o.run{where} LIMIT ?"
        return self.ask(sql, [*before, *after, self.limit])

    def _way(self, stretch: Stretch | None) -> tuple[str, str, list[object]]:
        """Tables, conditions and values that give the runs `r`, from a stretch on where there is one."""
        if stretch is None or stretch.table == "runs r":
            return "runs r", *self.chosen.where()
        where, values = self.chosen.where(stretch.where.sql, stretch.where.values, stretch)
        return f"{stretch.table} CROSS JOIN runs r ON r.id = {stretch.run}", where, values

    def _by_metric(self, order: Order, *, small: bool) -> Texts:
        way = "DESC" if order.descending else "ASC"
        key = storable(order.key)
        bounds = choosing.bounds(self.chosen, order.key)
        where, values = self.chosen.where(
            " AND ".join(["m.key = ?", "m.value IS NOT NULL", *(one.sql for one in bounds)]),
            [key, *(value for one in bounds for value in one.values)],
        )
        # the order of the join is fixed: SQLite's own guess is fifty times slower at 100,000 runs
        join = "runs r CROSS JOIN metrics m" if small else "metrics m CROSS JOIN runs r"
        terms = f"ORDER BY m.value {way}, m.run {way} LIMIT ?"
        sql = f"SELECT row, crc FROM {join} ON r.id = m.run{where} {terms}"
        found = self.ask(sql, [*values, self.limit])
        if 0 <= self.limit <= len(found) or bounds:
            return found
        where, values = self.chosen.where(
            "NOT EXISTS (SELECT 1 FROM metrics WHERE run = r.id AND key = ? AND value IS NOT NULL)", [key]
        )
        left = self.limit - len(found) if self.limit >= 0 else -1
        sql = f"SELECT row, crc FROM runs r{where} ORDER BY created DESC, id DESC LIMIT ?"
        return found + self.ask(sql, [*values, left])


def _is_walk(orders: Sequence[Order]) -> bool:
    """Whether an index has the runs in this order."""
    if len(orders) > 1:
        return False
    return not orders or orders[0].entity == METRIC or orders[0].key == "created_utc"


def _terms(orders: Sequence[Order]) -> tuple[str, list[object]]:
    """The terms of ORDER BY and their values."""
    first = orders[0] if len(orders) == 1 else None
    if not orders or (first and first.entity == ATTRIBUTE and first.key in schema.SORTED):
        column = schema.SORTED[first.key if first else "created_utc"]
        way = "DESC" if first is None or first.descending else "ASC"
        empty_last = f"r.{column} IS NULL, " if column in schema.NULLABLE else ""
        return f"{empty_last}r.{column} {way}, r.id {way}", []
    terms = [choosing.terms(one) for one in orders]
    found = [value for one in terms for value in one.values]
    return ", ".join([*(one.sql for one in terms), "r.created DESC, r.id DESC"]), found
