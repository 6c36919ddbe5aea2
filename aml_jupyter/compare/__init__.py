"""Runs beside each other: how they were started, parameters, metrics, environment, code, artifacts, log.

compare    the comparison of two or more runs
findings   what it found, as values and JSON
reading    what is compared, read from runs
contents   two files: lines, cells, pictures
plain      a comparison for a terminal
page       a comparison for a notebook
"""

from __future__ import annotations

from aml_jupyter import runs
from aml_jupyter.compare.findings import PARTS, Comparison
from aml_jupyter.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from aml_jupyter.compare.contents import Budget
    from aml_jupyter.compare.findings import Pair
    from aml_jupyter.compare.reading import Side
    from aml_jupyter.runs import RunDirectory

__all__ = ["MOST", "PARTS", "Comparison", "compare"]

# runs beside each other
MOST = 20


def compare(directories: Sequence[RunDirectory], parts: Sequence[str] = PARTS) -> Comparison:
    """Compare runs, each with the first; `parts` are some of `PARTS`.

    Raises UsageError for fewer than two runs or more than 20, RunNotFound for one that was removed.
    """
    from aml_jupyter.compare import reading
    from aml_jupyter.compare.contents import Budget

    if not 2 <= len(directories) <= MOST:
        raise UsageError(f"{len(directories)} runs cannot be compared: from 2 to {MOST} can")
    sides = [reading.Side(directory=one, record=runs.read_record(one)) for one in directories]
    tables = {"settings": reading.settings, "params": reading.params, "metrics": reading.metrics}
    return Comparison(
        runs=tuple(map(reading.facts, sides)),
        parts=tuple(part for part in PARTS if part in parts),
        tables={name: read(sides) for name, read in tables.items() if name in parts},
        pairs=tuple(_pair(sides[0], other, parts, Budget(len(sides) - 1)) for other in sides[1:]),
    )


def _pair(first: Side, second: Side, parts: Sequence[str], budget: Budget) -> Pair:
    from aml_jupyter.compare import reading
    from aml_jupyter.compare.findings import Pair

    return Pair(
        run_id=second.record.run_id,
        environment=reading.environment(first, second) if "environment" in parts else None,
        code=reading.code(first, second, budget) if "code" in parts else None,
        artifacts=reading.outputs(first, second, budget) if "artifacts" in parts else None,
        log=reading.log(first, second) if "log" in parts else None,
    )
