"""Which run a person means: a full id, a unique prefix, a name, or a word that begins with @.

@last  @last~1        the newest, the one before it
@best:METRIC          the largest last value of a metric; @max: and @min: say which end is best
@cell                 the newest run of the cell that asks
"""

from __future__ import annotations

from aml_jupyter.errors import RunNotFound, UsageError
from aml_jupyter.runs.directory import RunDirectory, at, trash_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.runs.directory import Scope
    from aml_jupyter.runs.index import History


_WORDS = "@last, @last~1, @best:METRIC, @min:METRIC, @cell, a run id, the beginning of one, or a name."


def find(
    reference: str,
    home: str,
    project: Scope | None = None,
    *,
    cell_id: str | None = None,
    history: History | None = None,
) -> RunDirectory:
    """The run that a reference means; names and @ words are looked for in `project` when it is given.

    Raises RunNotFound `run.unknown` with the nearest ids and names, `run.ambiguous` with the candidates.
    """
    if not reference:
        raise UsageError("a reference to a run may not be empty", code="run.unknown", hint=_WORDS)
    exact = at(home, reference)
    if exact is not None:
        return exact
    from aml_jupyter.runs.index import History, project_key

    if history is None:
        with History(home) as opened:
            return find(reference, home, project, cell_id=cell_id, history=opened)
    within = project_key(project) if project is not None else None
    history.refresh()
    if reference.startswith("@"):
        found = _by_word(reference, history, within, cell_id)
    else:
        found = history.named(reference, within) or history.named(reference, None)
        found = found or history.with_prefix(reference)
    if not found:
        raise _unknown(reference, history, within)
    if len(found) > 1:
        raise _ambiguous(reference, found)
    return found[0][1]


def _by_word(
    reference: str, history: History, within: str | None, cell_id: str | None
) -> list[tuple[str, RunDirectory]]:
    word, _, argument = reference[1:].partition(":")
    if word in ("best", "max", "min") and argument:
        order = "ASC" if word == "min" else "DESC"
        return history.best(argument, order, within)
    if word == "cell":
        if not cell_id:
            raise UsageError("@cell is the run of a notebook's cell; here is no cell", code="run.no_cell")
        return history.newest(within=None, cell_id=cell_id)
    name, _, back = word.partition("~")
    if name == "last" and not argument and (not back or back.isdigit()):
        return history.newest(within, skip=int(back or 0))
    raise UsageError(
        f"{reference!r} is no reference to a run",
        code="run.unknown",
        hint=_WORDS,
    )


def _unknown(reference: str, history: History, within: str | None) -> RunNotFound:
    from difflib import get_close_matches

    known = history.recent_words(within)
    near = get_close_matches(reference, known, n=3, cutoff=0.5) or known[:3]
    hint = f"Near it: {', '.join(near)}" if near else "There are no runs yet."
    if at(trash_of(history.home), reference) is not None:
        hint = f"It is in the trash: aml undelete {reference}"
    return RunNotFound(f"no run answers to {reference!r}", hint=hint)


def _ambiguous(reference: str, found: list[tuple[str, RunDirectory]]) -> RunNotFound:
    shown = ", ".join(text for text, _ in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return RunNotFound(
        f"{reference!r} could be any of {len(found)} runs: {shown}{more}",
        code="run.ambiguous",
        hint="Give more of the run id.",
    )
