"""The only reader of YAML: bounded, without tags, every value with its place.

Built on the events of PyYAML's pure-Python parser. Its C parser crashes the interpreter on deep nesting,
and its constructors guess types (`3.10`, `no`, `22:22`) that these files never mean. Scalars stay text
here; `models` knows which keys are true or false.
"""

from __future__ import annotations

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from aml_jupyter.config.problems import Problem, invalid_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SIZE_LIMIT = 1 << 20
DEPTH_LIMIT = 64
NODE_LIMIT = 100_000
ALIAS_LIMIT = 1_000  # nodes reached through aliases

Path = tuple[str | int, ...]

_NULLS = ("", "null", "Null", "NULL")


class Plain(str):
    """A scalar that was written without quotes."""

    __slots__ = ()


class Node:
    """A piece of a file: `kind` is text, list or map; lines and columns count from 0.

    `index` and `end` are offsets into the text; `value` is text, a list of nodes,
    or a list of (key node, value node).
    """

    __slots__ = ("column", "end", "flow", "index", "kind", "line", "plain", "value")

    def __init__(self, kind: str, event: yaml.Event, value: Any, *, plain: bool, flow: bool) -> None:
        mark, end = _marks(event)
        self.kind = kind
        self.value = value
        self.line: int = mark.line
        self.column: int = mark.column
        self.index: int = mark.index
        self.end: int = end.index
        self.plain = plain
        self.flow = flow

    @property
    def is_null(self) -> bool:
        """Whether nothing, or the word null, was written."""
        return self.plain and self.value in _NULLS


def _marks(event: yaml.Event) -> tuple[yaml.Mark, yaml.Mark]:
    # the stubs know events without marks; the parser never makes one
    assert isinstance(event.start_mark, yaml.Mark)
    assert isinstance(event.end_mark, yaml.Mark)
    return event.start_mark, event.end_mark


class Document:
    """One file: `data` is made of dict, list, str, Plain and None; `places` says where each value stands."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.root: Node | None = None
        self.data: Any = None
        self.places: dict[Path, Node] = {}
        self.keys: dict[Path, Node] = {}
        self.problems: list[Problem] = []

    def problem(self, path: Path, message: str, fix: str = "", *, at_key: bool = False) -> Problem:
        """A problem at a value, or at the nearest thing around it that stands in the file."""
        value = self.places.get(path)
        block = value is not None and value.kind != "text" and not value.flow
        node = self.keys.get(path) if at_key or block else None
        for length in range(len(path), -1, -1):
            node = node or self.places.get(path[:length])
        line, column = (node.line + 1, node.column + 1) if node else (1 if self.text else 0, 1)
        return Problem(message=message, line=line, column=column, key=key_text(path), fix=fix)


def key_text(path: Path) -> str:
    """A path as a person writes it: `packages[2].group`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class _Loader(Reader, Scanner, Parser):
    """PyYAML's parser, which takes a tab wherever libyaml takes one (`"key":<TAB>"value"`)."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)

    def scan_to_next_token(self) -> None:
        found = False
        while not found:
            while self.peek() == " " or (
                self.peek() == "\t" and (self.flow_level or not self.allow_simple_key)
            ):
                self.forward()
            if self.peek() == "#" or (self.peek() == "\t" and self._only_comment_follows()):
                while self.peek() not in "\0\r\n\x85\u2028\u2029":
                    self.forward()
            if self.scan_line_break():  # type: ignore[no-untyped-call]
                if not self.flow_level:
                    self.allow_simple_key = True
            else:
                found = True

    def _only_comment_follows(self) -> bool:
        # a line of blanks, or of blanks and a comment, means nothing whatever the blanks are
        ahead = 0
        while self.peek(ahead) in " \t":
            ahead += 1
        return self.peek(ahead) in "#\0\r\n\x85\u2028\u2029"


def load(data: bytes, path: str) -> Document:
    """Read one file.  Raises ConfigError with file and line when it is not one plain YAML or JSON document.

    Repeated keys and tags are left in `problems`, so that they are told together with wrong values.
    """
    if len(data) > SIZE_LIMIT:
        raise invalid_file(path, "", [Problem(message="larger than 1 MB")], code="config.too_big")
    document = Document(path, decode(data, path))
    try:
        _build(document)
    except yaml.MarkedYAMLError as error:
        raise invalid_file(path, document.text, [_syntax_problem(error, document.text)]) from None
    except yaml.reader.ReaderError as error:
        raise invalid_file(path, document.text, [_character_problem(error, document.text)]) from None
    return document


def decode(data: bytes, path: str) -> str:
    """The text of a file: UTF-8, with a byte order mark or not, or UTF-16 with one."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        problem = Problem(
            message=f"byte 0x{data[error.start]:02x} is not UTF-8 text",
            line=line,
            column=column,
            fix="Save the file as UTF-8.",
        )
        raise invalid_file(path, data.decode("utf-8", "replace"), [problem]) from None


def texts(data: Any) -> Iterator[str]:
    """Every text in what a document holds, keys among them."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from texts(key)
            yield from texts(value)
    elif isinstance(data, list):
        for value in data:
            yield from texts(value)


class _Stop(Exception):
    """Reading cannot go on; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def _stop_at(event: yaml.Event, message: str, fix: str = "") -> _Stop:
    mark, _ = _marks(event)
    return _Stop(Problem(message=message, line=mark.line + 1, column=mark.column + 1, fix=fix))


def _build(document: Document) -> None:
    try:
        document.root = _Builder(document).root()
        document.data = _Reading(document).data(document.root, ())
    except _Stop as stop:
        raise invalid_file(
            document.path, document.text, [*document.problems, stop.problem], code=_stop_code(stop)
        ) from None


def _stop_code(stop: _Stop) -> str:
    return "config.too_big" if "more than" in stop.problem.message else ""


class _Builder:
    """Nodes from events, with every limit checked before anything is kept."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.parser = _Loader(document.text)
        self.anchors: dict[str, Node] = {}
        self.nodes = 0

    def root(self) -> Node | None:
        self._next()
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        node = self._node(self._next(), 1)
        self._next()
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise _stop_at(after, "a second document starts here", "Keep one document in a file.")
        return node

    def _next(self) -> yaml.Event:
        event: yaml.Event = self.parser.get_event()  # type: ignore[no-untyped-call]
        return event

    def _node(self, event: yaml.Event, depth: int) -> Node:
        self.nodes += 1
        if depth > DEPTH_LIMIT:
            raise _stop_at(event, f"nested more than {DEPTH_LIMIT} deep")
        if self.nodes > NODE_LIMIT:
            raise _stop_at(event, f"more than {NODE_LIMIT} values")
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event)
        assert isinstance(event, yaml.NodeEvent)  # only a node can follow here
        self._refuse_tag(event)
        flow = bool(getattr(event, "flow_style", False))
        if isinstance(event, yaml.ScalarEvent):
            node = Node("text", event, event.value, plain=event.style is None, flow=False)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Node("list", event, [], plain=False, flow=flow)
        else:
            node = Node("map", event, [], plain=False, flow=flow)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        if node.kind != "text":
            self._fill(node, depth)
        return node

    def _fill(self, node: Node, depth: int) -> None:
        while True:
            event = self._next()
            if isinstance(event, yaml.CollectionEndEvent):
                node.end = _marks(event)[1].index
                return
            child = self._node(event, depth + 1)
            if node.kind == "list":
                node.value.append(child)
            else:
                node.value.append((child, self._node(self._next(), depth + 1)))

    def _aliased(self, event: yaml.AliasEvent) -> Node:
        node = self.anchors.get(event.anchor or "")
        if node is None:
            raise _stop_at(event, "nothing has the name after *", "Put the value in quotes.")
        return node

    def _refuse_tag(self, event: yaml.NodeEvent) -> None:
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            mark, _ = _marks(event)
            problem = Problem(
                message="tags (!name) are not read",
                line=mark.line + 1,
                column=mark.column + 1,
                fix="Remove the tag, or put the whole value in quotes.",
            )
            self.document.problems.append(problem)


class _Reading:
    """Plain data from nodes, and the place of each value."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.seen: set[int] = set()
        self.open: set[int] = set()
        self.repeated = 0

    def data(self, node: Node | None, path: Path) -> Any:
        if node is None:
            return None
        self._count(node, path)
        self.document.places[path] = node
        if node.kind == "text":
            return self._text(node, path)
        self.open.add(id(node))
        try:
            if node.kind == "list":
                return [self.data(child, (*path, number)) for number, child in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self.open.discard(id(node))

    def _count(self, node: Node, path: Path) -> None:
        if id(node) in self.open:
            raise self._stop(node, path, "an alias holds itself")
        self.repeated += id(node) in self.seen
        self.seen.add(id(node))
        if self.repeated > ALIAS_LIMIT:
            raise self._stop(node, path, f"aliases stand for more than {ALIAS_LIMIT} values")

    def _stop(self, node: Node, path: Path, message: str) -> _Stop:
        problem = Problem(message=message, line=node.line + 1, column=node.column + 1, key=key_text(path))
        return _Stop(problem.replace(fix="Write the values out."))

    def _mapping(self, node: Node, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            if key.kind != "text":
                self._report(key, path, "a key must be a word", "Put the key in quotes.")
                continue
            name = self._text(key, path) or ""
            if name in found:
                first = self.document.keys[(*path, name)].line + 1
                self._report(key, (*path, name), f"repeated; line {first} has it too", "Keep one of the two.")
                continue
            self.document.keys[(*path, name)] = key
            found[str(name)] = self.data(value, (*path, name))
        return found

    def _text(self, node: Node, path: Path) -> str | None:
        if node.is_null:
            return None
        text = str(node.value)
        if not text.isascii():
            text = self._whole_characters(node, text, path)
        return Plain(text) if node.plain else text

    def _whole_characters(self, node: Node, text: str, path: Path) -> str:
        # JSON writes one character beyond 16 bits as two escapes
        try:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            self._report(node, path, "half of a character (a lone \\u escape)", "Write the whole character.")
            return text.encode("ascii", "replace").decode()

    def _report(self, node: Node, path: Path, message: str, fix: str) -> None:
        self.document.problems.append(
            Problem(message=message, line=node.line + 1, column=node.column + 1, key=key_text(path), fix=fix)
        )


_FIXES = (
    ("found character '\\t'", "a tab where blanks must be", "Indent with spaces."),
    ("found unknown escape", "a backslash in double quotes", "Use single quotes, / or \\\\."),
    ("escape sequence of", "a backslash in double quotes", "Use single quotes, / or \\\\."),
    ("found unexpected end of stream", "a quote is never closed", "Close the quote."),
    (
        "expected ',' or '}'",
        "a comma or } is missing before this",
        "Put a comma at the end of the line before.",
    ),
    ("expected ',' or ']'", "a comma or ] is missing before this", "Put a comma between the items."),
    ("expected <block end>", "this does not belong here", "Give it the indentation of its neighbours."),
    ("could not find expected ':'", "this line has no `:`", "Write `key: value`."),
    ("mapping values are not allowed", "a second `:` in one value, or wrong indentation", "Quote the value."),
    ("did not find expected", "this does not belong here", "Give it the indentation of its neighbours."),
)


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    said = error.problem or error.context or "cannot be read"
    message, fix = "cannot be read as YAML", "Put the value in quotes."
    for words, ours, remedy in _FIXES:
        if words in said:
            message, fix = ours, remedy
            break
    line, column = (mark.line, mark.column) if mark else (0, 0)
    lines = text.splitlines() or [""]
    line = min(line, len(lines) - 1)
    key = _key_on(lines[line])
    if "tab" in message and "\t" in lines[line]:
        column = lines[line].index("\t")
    return Problem(message=message, line=line + 1, column=column + 1, key=key, fix=fix)


def _key_on(line: str) -> str:
    head, colon, _ = line.partition(":")
    name = head.strip(" \t-{[,\"'")
    return name if colon and name and len(name) < 80 else ""


def _character_problem(error: yaml.reader.ReaderError, text: str) -> Problem:
    before = text[: error.position]
    line = before.count("\n") + 1
    column = error.position - (before.rfind("\n") + 1) + 1
    character = error.character if isinstance(error.character, int) else ord(error.character)
    return Problem(
        message=f"control character U+{character:04X}", line=line, column=column, fix="Remove the character."
    )
