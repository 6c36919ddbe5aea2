"""The language of filters: MLflow's grammar for runs, read into a tree.

    metrics.acc > 0.9 and params.model = 'tree' and tags.kind LIKE 'small%'
    status = 'Failed' and created >= '2026-01-31' and (params.lr < 0.1 or tags.`my tag` IS NULL)

Whatever MLflow takes means the same here.  `or`, parentheses, numbers for parameters, lists and NULL for
everything, and times as text are taken as well.  A mistake is told with its column and what to write.
"""

from __future__ import annotations

import re

from aml_jupyter.errors import UsageError
from aml_jupyter.frozen import Value
from aml_jupyter.printable import safe_name, shortened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta
    from typing import NoReturn

METRIC, PARAM, TAG, ATTRIBUTE = "metrics", "params", "tags", "attributes"
_ENTITIES = {
    **dict.fromkeys(("metric", "metrics"), METRIC),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), PARAM),
    **dict.fromkeys(("tag", "tags"), TAG),
    **dict.fromkeys(("attr", "attribute", "attributes", "run"), ATTRIBUTE),
}
TEXT, NUMBER, TIME, TRUTH = "text", "number", "time", "truth"
# attribute -> what it is; the words of the record, and below them the other words for the same
ATTRIBUTES = {
    "run_id": TEXT,
    "name": TEXT,
    "status": TEXT,
    "reason": TEXT,
    "target": TEXT,
    "kind": TEXT,
    "script_name": TEXT,
    "framework": TEXT,
    "python_version": TEXT,
    "run_configuration": TEXT,
    "user_id": TEXT,
    "project": TEXT,
    "experiment_id": TEXT,
    "parent_run_id": TEXT,
    "snapshot_id": TEXT,
    "artifacts_state": TEXT,
    "note": TEXT,
    "description": TEXT,
    "run_number": NUMBER,
    "exit_code": NUMBER,
    "duration": NUMBER,
    "artifacts": NUMBER,
    "created_utc": TIME,
    "start_time_utc": TIME,
    "end_time_utc": TIME,
    "pinned": TRUTH,
}
ALIASES = {
    **dict.fromkeys(("run_name", "run name", "Run name", "Run Name"), "name"),
    "script": "script_name",
    "user": "user_id",
    "number": "run_number",
    **dict.fromkeys(("created", "Created", "created_time"), "created_utc"),
    **dict.fromkeys(("start_time", "started"), "start_time_utc"),
    **dict.fromkeys(("end_time", "ended"), "end_time_utc"),
}
# a filter is typed, or put together by a program of the person's own
LONGEST, DEEPEST, MOST = 20_000, 40, 200
# characters of a pattern, times in a list: SQLite takes somewhat more of both
LONGEST_PATTERN, MOST_TIMES = 5000, 200
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>'(?:[^']|'')*' | "(?:[^"]|"")*")
      | (?P<tick>`[^`]*`)
      | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<operator><=|>=|!=|<>|==|=>|=<|=|<|>|&&|\|\|)
      | (?P<mark>[(),])
      | (?P<word>[^\s'"`()<>=!,&|]+)""",
    re.VERBOSE,
)
_COMPARE = ("=", "!=", "<", "<=", ">", ">=")
_ORDERED = ("<", "<=", ">", ">=")
_MEANT = {"==": "=", "<>": "!=", "=>": ">=", "=<": "<=", "&&": "and", "||": "or"}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


class Condition(Value):
    """One comparison: `operator` is one of = != < <= > >= LIKE ILIKE IN NULL, `denied` its opposite.

    `operand` is a number, a text, a truth value, a tuple of them, or None for NULL; `column` counts from 1.
    """

    entity: str
    key: str
    operator: str
    operand: float | int | str | bool | tuple[float | int | str | bool, ...] | None = None
    denied: bool = False
    column: int = 1


class Group(Value):
    """Conditions of which all (`AND`) or any (`OR`) must hold."""

    word: str
    parts: tuple[Group | Condition, ...]


class _Token(Value):
    kind: str
    text: str
    column: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.upper() in words


def parse(text: str) -> Group:
    """The tree of a filter; an empty one has no conditions.  Raises UsageError `run.filter`."""
    if len(text) > LONGEST:
        raise UsageError(f"a filter has at most {LONGEST} characters, not {len(text)}", code="run.filter")
    return _Parser(text).whole()


def name_of(text: str) -> tuple[str, str]:
    """Entity and key of a name as `--order-by` has it, where a key with spaces need not be quoted.

    A key of an attribute is the record's word for it, failing that the text as it is.
    """
    head, dot, rest = text.partition(".")
    entity = _ENTITIES.get(_bare(head), "") if dot else ATTRIBUTE
    if not entity:
        return "", text
    key = _bare(rest if dot else head)
    return entity, ALIASES.get(key, key) if entity == ATTRIBUTE else key


def is_text_operator(word: str) -> bool:
    """Whether a text stands behind a word."""
    return word.upper() in ("=", "!=", "LIKE", "ILIKE")


def is_value(word: str) -> bool:
    """Whether a word is a value as it stands: a number, a quoted text, a truth."""
    found = _TOKEN.fullmatch(word)
    return bool(found and found.lastgroup in ("number", "text")) or word.upper() in ("TRUE", "FALSE")


def _bare(text: str) -> str:
    """A name without the quotes around it."""
    for mark in "`\"'":
        if len(text) >= 2 and text[0] == text[-1] == mark:
            return text[1:-1]
    return text


class _Parser:
    """Reads a filter from left to right, once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._tokens()
        self.at = 0
        self.count = 0

    def _tokens(self) -> list[_Token]:
        tokens, place = [], 0
        while place < len(self.text):
            found = _TOKEN.match(self.text, place)
            if found is None:
                self._wrong(place + 1, *_unreadable(self.text[place]))
            kind = str(found.lastgroup)
            if kind != "space":
                tokens.append(_Token(kind=kind, text=found[0], column=place + 1))
            place = found.end()
        return [*tokens, _Token(kind="end", text="", column=len(self.text) + 1)]

    def _wrong(self, column: int, what: str, fix: str) -> NoReturn:
        raise wrong(self.text, column, what, fix)

    @property
    def next(self) -> _Token:
        return self.tokens[self.at]

    def _take(self) -> _Token:
        token = self.next
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def whole(self) -> Group:
        """Everything."""
        if self.next.kind == "end":
            return Group(word="AND", parts=())
        found = self._any(0)
        rest = self.next
        if rest.kind != "end":
            self._wrong(rest.column, *self._after_condition(rest))
        return found if isinstance(found, Group) else Group(word="AND", parts=(found,))

    def _after_condition(self, token: _Token) -> tuple[str, str]:
        if token.text in _MEANT:
            return f"{token.text} is not known", f"Write {_MEANT[token.text]}."
        if token.text == ")":
            return "this ) closes nothing", "Take it away, or open it with ( before."
        if token.is_word("ORDER"):
            return "the order is no part of a filter", "Give it with --order-by, in Python with order_by=."
        if token.text == ",":
            return "conditions are not parted by commas", "Write and between them."
        return (
            f"{_brief(token.text)} stands where a condition has ended",
            "Write and or or between conditions.",
        )

    def _any(self, depth: int) -> Group | Condition:
        return self._series("OR", depth)

    def _series(self, word: str, depth: int) -> Group | Condition:
        """Conditions parted by `or`, each of which may be some parted by `and`."""

        def part() -> Group | Condition:
            return self._series("AND", depth) if word == "OR" else self._one(depth)

        parts = [part()]
        while self.next.is_word(word):
            self._take()
            parts.append(part())
        return parts[0] if len(parts) == 1 else Group(word=word, parts=tuple(parts))

    def _one(self, depth: int) -> Group | Condition:
        token = self.next
        if token.text == "(" and token.kind == "mark":
            if depth >= DEEPEST:
                self._wrong(token.column, f"more than {DEEPEST} parentheses in each other", "Use fewer.")
            self._take()
            found = self._any(depth + 1)
            if self.next.text != ")":
                told = self._after_condition(self.next)
                self._wrong(token.column, "this ( is not closed", "Write ) behind its last condition.") if (
                    self.next.kind == "end"
                ) else self._wrong(self.next.column, *told)
            self._take()
            return found
        self.count += 1
        if self.count > MOST:
            self._wrong(token.column, f"more than {MOST} conditions", "Use IN ('a', 'b') for many values.")
        return self._condition()

    def _condition(self) -> Condition:
        entity, key, column = self._name()
        operator, denied = self._operator(entity, key)
        made = Condition(entity=entity, key=key, operator=operator, denied=denied, column=column)
        if operator == "NULL":
            return made
        self._check_operator(made)
        if operator == "IN":
            return made.replace(operand=self._list(made))
        return made.replace(operand=self._value(made))

    # -- names

    def _name(self) -> tuple[str, str, int]:
        token = self._take()
        if token.kind == "end":
            self._wrong(token.column, "a condition is missing here", "Such as metrics.acc > 0.9")
        if token.is_word("NOT"):
            self._wrong(token.column, "NOT stands only before IN and NULL", "Write != or NOT IN ('a', 'b').")
        if token.is_word("AND", "OR"):
            self._wrong(token.column, f"{token.text} has no condition before it", "Take it away.")
        if token.kind in ("number", "operator", "mark") or token.text.startswith("'"):
            self._misplaced(token)
        head, key = self._parts(token)
        if head is None:
            return ATTRIBUTE, self._attribute(key, token), token.column
        entity = _ENTITIES.get(head, "")
        if not entity:
            self._unknown_entity(head, token)
        if entity == ATTRIBUTE:
            key = self._attribute(key, token)
        elif not key:
            self._wrong(token.column, f"{head}. names nothing", f"Such as {entity}.acc")
        return entity, key, token.column

    def _misplaced(self, token: _Token) -> NoReturn:
        shown = _brief(token.text)
        operator, name = self.tokens[self.at], self.tokens[min(self.at + 1, len(self.tokens) - 1)]
        fix = "Such as metrics.acc > 0.9"
        if operator.text in _TURNED and name.kind == "word":
            fix = f"Turn it around: {_brief(name.text)} {_TURNED[operator.text]} {shown}"
        self._wrong(token.column, f"a condition begins with a name, not with {shown}", fix)

    def _parts(self, token: _Token) -> tuple[str | None, str]:
        """The part before the first dot, None where there is no dot, and the rest; either may be quoted."""
        if token.kind in ("tick", "text"):
            following = self.next
            if following.text.startswith(".") and following.column == token.column + len(token.text):
                self._take()
                return self._quoted(token), self._rest(following.text[1:], following)
            return None, self._quoted(token)
        head, dot, rest = token.text.partition(".")
        return (head, self._rest(rest, token)) if dot else (None, head)

    def _rest(self, rest: str, token: _Token) -> str:
        """What stands behind the dot."""
        following = self.next
        touches = following.column == token.column + len(token.text)
        if rest or not touches or following.kind not in ("tick", "text") or following.text[0] == "'":
            return rest
        return self._quoted(self._take())

    def _quoted(self, token: _Token) -> str:
        inner = token.text[1:-1]
        return inner.replace(token.text[0] * 2, token.text[0]) if token.kind == "text" else inner

    def _attribute(self, key: str, token: _Token) -> str:
        found = ALIASES.get(key, key)
        if found in ATTRIBUTES:
            return found
        if key in ("artifact_uri", "lifecycle_stage"):
            self._wrong(
                token.column, f"runs have no {key} here", "artifacts_state tells whether they are kept."
            )
        near = _nearest(key, [*ATTRIBUTES, *ALIASES])
        also = f"A metric is metrics.{_brief(key)}, a parameter params.{_brief(key)}."
        fix = f"Did you mean {near}? {also}" if near else f"{also} Attributes: {', '.join(ATTRIBUTES)}."
        return self._wrong(token.column, f"runs have no attribute {_brief(key)!r}", fix)

    def _unknown_entity(self, head: str, token: _Token) -> NoReturn:
        if head in ("dataset", "datasets"):
            self._wrong(token.column, "runs have no datasets here", "Tag the run and ask for tags.NAME.")
        near = _nearest(head, _ENTITIES)
        fix = f"Did you mean {near}?" if near else "Names begin with metrics., params., tags. or attributes."
        self._wrong(token.column, f"{_brief(head)}. is not known", fix)

    # -- operators

    def _operator(self, entity: str, key: str) -> tuple[str, bool]:
        token = self._take()
        word = token.text.upper()
        if token.kind == "operator" and word in _COMPARE:
            return word, False
        if token.is_word("LIKE", "ILIKE", "IN"):
            return word, False
        if token.is_word("IS"):
            denied = self.next.is_word("NOT")
            if denied:
                self._take()
            if not self.next.is_word("NULL"):
                self._wrong(self.next.column, "IS stands before NULL or NOT NULL", "Write = for a value.")
            self._take()
            return "NULL", denied
        if token.is_word("NOT"):
            if not self.next.is_word("IN"):
                self._wrong(
                    token.column, "NOT stands only before IN and NULL", "Write != or NOT IN ('a', 'b')."
                )
            self._take()
            return "IN", True
        return self._no_operator(token, f"{entity}.{key}" if entity != ATTRIBUTE else key)

    def _no_operator(self, token: _Token, name: str) -> NoReturn:
        shown = _brief(name)
        if token.text in _MEANT:
            self._wrong(token.column, f"{token.text} is not known", f"Write {_MEANT[token.text]}.")
        instead = {"BETWEEN": ">= 1 and {} <= 2", "CONTAINS": "LIKE '%a%'"}.get(token.text.upper())
        if instead:
            fix = f"Write {shown} {instead.format(shown)}"
            self._wrong(token.column, f"{token.text} is not known", fix)
        if token.kind == "word" and self.next.kind == "operator":
            whole = _brief(f"{name} {token.text}")
            head, _, key = whole.partition(".")
            fix = f"A name with spaces stands in backticks: {head}.`{key}`" if key else "Quote it: `a b`"
            self._wrong(token.column, f"{shown} is followed by another word", fix)
        self._wrong(
            token.column,
            f"{shown} is not compared with anything",
            "Write = != < <= > >= LIKE ILIKE IN or IS NULL behind it.",
        )

    def _check_operator(self, made: Condition) -> None:
        """Refuse comparisons that this kind of value does not have."""
        token = self.tokens[self.at - 1]
        kind = kind_of(made)
        if made.operator in ("LIKE", "ILIKE") and kind != TEXT:
            what = {NUMBER: "a number", TIME: "a time", TRUTH: "true or false"}[kind]
            self._wrong(token.column, f"{_shown(made)} is {what}, which no pattern fits", "Write = or >.")
        text_alone = kind == TEXT and made.entity == ATTRIBUTE
        if made.operator in _ORDERED and (text_alone or kind == TRUTH):
            self._wrong(
                token.column,
                f"{_shown(made)} is {'text' if text_alone else 'true or false'}, which has no order here",
                "Write = != LIKE ILIKE or IN." if text_alone else "Write = true.",
            )

    # -- values

    def _list(self, made: Condition) -> tuple[float | int | str | bool, ...]:
        opening = self._take()
        if opening.text != "(":
            self._wrong(opening.column, "IN stands before a list", "Write it in parentheses: ('a', 'b')")
        found: list[float | int | str | bool] = []
        while True:
            if self.next.text == ")" and not found:
                self._wrong(self.next.column, "the list is empty", "Write at least one value: ('a')")
            found.append(self._value(made))
            if kind_of(made) == TIME and len(found) > MOST_TIMES:
                self._wrong(opening.column, f"more than {MOST_TIMES} times", "Write >= and < around them.")
            token = self._take()
            if token.text == ")":
                return tuple(found)
            if token.text != ",":
                self._wrong(
                    token.column,
                    "the values of a list are parted by commas and end with )",
                    "Such as ('a', 'b')",
                )

    def _value(self, made: Condition) -> float | int | str | bool:
        token = self._take()
        if token.kind == "text":
            return self._text(made, token)
        if token.kind == "number":
            return self._number(made, token)
        kind = kind_of(made)
        if token.is_word("TRUE", "FALSE") and (kind == TRUTH or made.entity in (PARAM, TAG)):
            truth = token.text.upper() == "TRUE"
            return truth if kind == TRUTH else str(truth)
        return self._no_value(made, token)

    def _no_value(self, made: Condition, token: _Token) -> NoReturn:
        shown, name = _brief(token.text), _shown(made)
        if token.kind == "end" or token.text in (")", ","):
            self._wrong(token.column, f"{name} {made.operator} has no value behind it", _example(made))
        if token.is_word("NULL"):
            self._wrong(token.column, "NULL is compared with IS", f"Write {name} IS NULL.")
        if token.text == "(":
            self._wrong(token.column, "a list stands behind IN", f"Write {name} IN ('a', 'b').")
        if kind_of(made) == TEXT:
            fix = f"Put it in quotes: {name} {made.operator} '{shown.strip('`')}'"
            self._wrong(token.column, f"{shown} is not quoted", fix)
        self._wrong(token.column, f"{shown} is no value for {name}", _example(made))

    def _text(self, made: Condition, token: _Token) -> str:
        found = self._quoted(token)
        kind = kind_of(made)
        if made.operator in ("LIKE", "ILIKE") and len(found) > LONGEST_PATTERN:
            self._wrong(
                token.column, f"a pattern of more than {LONGEST_PATTERN} characters", "Use a shorter one."
            )
        if kind == TIME:
            if interval(found) is None:
                fix = "Such as '2026-01-31', '2026-01-31T14:30' or '2026-01-31T14:30:05+01:00'."
                self._wrong(token.column, f"{_brief(token.text)} is no time", fix)
            return found
        if kind != TEXT or (made.operator in _ORDERED and made.entity != ATTRIBUTE):
            inner = _brief(found)
            numeric = re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", found)
            fix = (
                f"Take the quotes away: {_shown(made)} {made.operator} {inner}" if numeric else _example(made)
            )
            what = "is compared with true or false" if kind == TRUTH else "is compared with a number"
            if kind == TEXT:
                what = f"{made.operator} compares numbers, which this is not"
            self._wrong(token.column, what if kind == TEXT else f"{_shown(made)} {what}", fix)
        return found

    def _number(self, made: Condition, token: _Token) -> float | int | bool:
        plain = token.text.lstrip("+-").isdigit()
        value: float | int = int(token.text) if plain and len(token.text) < 19 else float(token.text)
        kind = kind_of(made)
        if kind == TRUTH and value in (0, 1):
            return bool(value)
        pattern = made.operator in ("LIKE", "ILIKE")
        if kind == TRUTH or pattern or (kind == TEXT and made.entity == ATTRIBUTE):
            fix = f"Put it in quotes: {_shown(made)} {made.operator} '{token.text}'"
            what = "is text" if kind == TEXT else "is true or false"
            self._wrong(token.column, f"{_shown(made)} {what}", fix if kind == TEXT else "Write = true.")
        if kind == TIME and not abs(value) < 2**53:
            self._wrong(token.column, f"{token.text} is no time", "Milliseconds since 1970, or '2026-01-31'.")
        return value


def kind_of(condition: Condition) -> str:
    """What a condition compares: text, number, time or truth."""
    if condition.entity == ATTRIBUTE:
        return ATTRIBUTES[condition.key]
    return NUMBER if condition.entity == METRIC else TEXT


def _shown(made: Condition) -> str:
    if made.entity == ATTRIBUTE:
        return made.key
    key = made.key if re.fullmatch(r"[\w.]+", made.key) else f"`{made.key}`"
    return _brief(f"{made.entity}.{key}")


def _brief(text: str) -> str:
    return shortened(safe_name(text), 60)


def _example(made: Condition) -> str:
    operator = made.operator if made.operator in _COMPARE else "="
    number = "60" if made.key == "duration" else "0.9"
    value = {NUMBER: number, TIME: "'2026-01-31'", TRUTH: "true", TEXT: "'a'"}[kind_of(made)]
    if operator in _ORDERED and value == "'a'":
        value = "0.9"
    return f"Such as {_shown(made)} {operator} {value}"


def _unreadable(char: str) -> tuple[str, str]:
    if char in "'\"":
        return f"this {char} is not closed", f"Write {char} behind the value; inside it, twice."
    if char == "`":
        return "this ` is not closed", "Write ` behind the name."
    if char == "!":
        return "! stands only in !=", "Write != or NOT IN ('a', 'b')."
    if char in "&|":
        return f"{char} is not known", f"Write {'and' if char == '&' else 'or'}."
    return f"{_brief(char)} means nothing here", "Put what is part of a name or value in quotes."


def wrong(text: str, column: int, what: str, fix: str) -> UsageError:
    """The error of a filter: what is wrong, the line with a mark below the place, and the fix."""
    start = max(0, column - 1 - 60)
    before, after = safe_name(text[start : column - 1]), safe_name(text[column - 1 : column + 40])
    lead = "…" if start else ""
    mark = " " * (len(lead) + len(before)) + "^"
    message = f"the filter is wrong at column {column}: {what}\n    {lead}{before}{after}\n    {mark}"
    return UsageError(message, code="run.filter", hint=fix)


def _nearest(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(known), n=1, cutoff=0.6)), "")


def interval(value: str | float) -> tuple[str, str] | None:
    """Beginning and end of the stretch of time that a value names, as the index has times; None for none.

    A day, a minute, a second, or a fraction of one as text, in UTC unless it says otherwise; a number is the
    millisecond since 1970 that it is, or between two of them.
    """
    from datetime import UTC, datetime, timedelta

    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    try:
        if not isinstance(value, str):
            whole = int(value // 1)
            low = epoch + timedelta(milliseconds=whole if whole == value else whole + 1)
            return _moment(low), _moment(low + timedelta(milliseconds=1) if whole == value else low)
        found = _TIME.fullmatch(value.strip())
        if found is None:
            return None
        low = datetime.fromisoformat(value.strip())
        low = low.replace(tzinfo=UTC) if low.tzinfo is None else low.astimezone(UTC)
        return _moment(low), _moment(low + _precision(found))
    except (ValueError, OverflowError):
        return None


_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(?P<minute>[T ]\d\d:\d\d(?P<second>:\d\d(?P<fraction>\.\d{1,6})?)?"
    r"(?:Z|[+-]\d\d:\d\d)?)?"
)


def _precision(found: re.Match[str]) -> timedelta:
    from datetime import timedelta

    if found["fraction"]:
        return timedelta(microseconds=10 ** (7 - len(found["fraction"])))
    if found["second"]:
        return timedelta(seconds=1)
    return timedelta(minutes=1) if found["minute"] else timedelta(days=1)


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
