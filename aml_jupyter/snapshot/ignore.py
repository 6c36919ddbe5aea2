"""Ignore rules with the answers of git, matched byte by byte in time linear in name and pattern.

    parse        the lines of one ignore file, as git reads them
    RuleList     one file's rules, asked for the last one that matches
    Rule         one line: where it stands, what it says

Two things git does and its manual does not say: names are matched as bytes (`?` is not `é`), and the literal
start of a pattern with a slash is compared first and cut off, so that stars right after it count as leading.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Match = Callable[[bytes], object]

_SPECIAL = b"*?[\\"
# git's own isspace knows neither vertical tab nor form feed
_CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"!-~",
    b"lower": rb"a-z",
    b"print": rb" -~",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb" \t\n\r",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}
_WORDS = bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)) + bytes(range(128, 256))
LONGEST_NAME = 255
LONGEST_PATH = 8192
_NEVER: tuple[bytes, int] = (b"", -1)


class Rule:
    """One line of an ignore file; `base` is the folder of the file, "" at the root of the project."""

    __slots__ = ("folder_only", "line", "negated", "pattern", "source")

    def __init__(self, pattern: bytes, source: str, line: int, *, negated: bool, folder_only: bool) -> None:
        self.pattern = pattern
        self.source = source
        self.line = line
        self.negated = negated
        self.folder_only = folder_only

    @property
    def named(self) -> bool:
        """Whether it names something: `!.env` and `!*.pem` do, `!*/` and `!*.*` do not."""
        last = self.pattern.rstrip(b"/").rpartition(b"/")[2]
        return any(char in last for char in _WORDS)

    def __str__(self) -> str:
        text = ("!" if self.negated else "") + self.pattern.decode("utf-8", "backslashreplace")
        return f"{self.source}:{self.line} {text}" if self.line else f"{self.source} {text}"


class RuleList:
    """The rules of one file, in order; the last that matches decides."""

    __slots__ = (
        "_ends",
        "_heads",
        "_names",
        "_paths",
        "_starts",
        "_suffixes",
        "_tail",
        "_wild",
        "_wild_any",
        "base",
        "rules",
    )

    def __init__(self, rules: Iterable[Rule], base: bytes = b"") -> None:
        self.base = base + b"/" if base else b""
        self.rules: list[Rule] = []
        self._names: dict[bytes, list[int]] = {}
        self._suffixes: list[tuple[bytes, int]] = []
        self._ends: list[tuple[bytes, bytes, int]] = []
        self._wild: list[tuple[Match, int]] = []
        self._paths: list[tuple[bytes, Match | None, int]] = []
        patterns: list[bytes] = []
        for rule in rules:
            self._add(rule, patterns)
        self._tail = tuple(suffix for suffix, _ in self._suffixes)
        self._starts = tuple(start for start, _, _ in self._ends)
        self._heads = tuple(prefix for prefix, _, _ in self._paths)
        self._wild_any: Match | None = _compile(b"|".join(patterns)) if patterns else None

    def _add(self, rule: Rule, patterns: list[bytes]) -> None:
        number = len(self.rules)
        self.rules.append(rule)
        pattern = rule.pattern
        if b"/" in pattern:
            prefix, match = _path_pattern(pattern)
            self._paths.append((prefix, match, number))
            return
        cut = _first_special(pattern)
        if cut == len(pattern):
            self._names.setdefault(pattern, []).append(number)
            return
        suffixes = _suffixes(pattern)
        if suffixes:
            self._suffixes += [(suffix, number) for suffix in suffixes]
            return
        start, star, end = pattern.partition(b"*")
        if star and len(start) == cut and _first_special(end) == len(end):
            self._ends.append((start, end, number))
            return
        expression, least = translate(pattern, paths=False)
        if least >= 0:
            patterns.append(b"(?:" + expression + b")")
            self._wild.append((_compile(expression), number))

    def last(self, name: bytes, path: bytes, is_folder: bool) -> Rule | None:  # noqa: C901, PLR0912 - the inner loop of every cold take
        """The rule that decides about `path` (from the project's root; `name` is its last part), or None."""
        best = -1
        rules = self.rules
        for number in self._names.get(name, ()):
            if number > best and (is_folder or not rules[number].folder_only):
                best = number
        if self._tail and name.endswith(self._tail):
            for suffix, number in self._suffixes:
                if number > best and name.endswith(suffix) and (is_folder or not rules[number].folder_only):
                    best = number
        if self._starts and name.startswith(self._starts):
            for start, end, number in self._ends:
                if (
                    number > best
                    and name.startswith(start)
                    and name.endswith(end)
                    and len(name) >= len(start) + len(end)
                    and (is_folder or not rules[number].folder_only)
                ):
                    best = number
        if self._wild_any is not None and self._wild_any(name):
            for match, number in self._wild:
                if number > best and (is_folder or not rules[number].folder_only) and match(name):
                    best = number
        if self._heads:
            rest = path[len(self.base) :] if self.base else path
            if rest.startswith(self._heads):
                best = self._last_path(rest, is_folder, best)
        return rules[best] if best >= 0 else None

    def _last_path(self, path: bytes, is_folder: bool, best: int) -> int:
        for prefix, match, number in self._paths:
            if number <= best or not path.startswith(prefix):
                continue
            if self.rules[number].folder_only and not is_folder:
                continue
            if path == prefix if match is None else match(path[len(prefix) :]):
                best = number
        return best


def parse(text: bytes, source: str) -> list[Rule]:
    """The rules of an ignore file's bytes; `source` names the file in explanations."""
    rules = []
    if text.startswith(b"\xef\xbb\xbf"):
        text = text[3:]
    for number, raw in enumerate(text.split(b"\n"), 1):
        if not raw or raw[0] == 35:
            continue
        line = raw[:-1] if raw[-1] == 13 else raw
        rule = parse_line(line, source, number)
        if rule is not None:
            rules.append(rule)
    return rules


def parse_line(line: bytes, source: str, number: int = 0) -> Rule | None:
    """One pattern; None when it can match nothing."""
    pattern = _without_trailing_spaces(line.partition(b"\0")[0])
    negated = pattern[:1] == b"!"
    if negated:
        pattern = pattern[1:]
    folder_only = pattern[-1:] == b"/"
    if folder_only:
        pattern = pattern[:-1]
    if not pattern:
        return None
    return Rule(pattern, source, number, negated=negated, folder_only=folder_only)


def _without_trailing_spaces(line: bytes) -> bytes:
    end = len(line.rstrip(b" "))
    if end == len(line):
        return line
    # a space is kept when an odd number of backslashes stands before it
    backslashes = end - len(line[:end].rstrip(b"\\"))
    return line[: end + backslashes % 2]


def _path_pattern(pattern: bytes) -> tuple[bytes, Match | None]:
    """The literal start and a matcher of the rest; None when there is no rest."""
    cut = _first_special(pattern)
    prefix, rest = pattern[:cut], pattern[cut:]
    if prefix[:1] == b"/":
        prefix = prefix[1:]
    if not rest:
        return prefix, None
    expression, least = translate(rest, paths=True)
    if least < 0:
        return prefix, _matches_nothing
    match = _compile(expression)
    return prefix, lambda path: len(path) >= least and match(path)


def _first_special(pattern: bytes) -> int:
    """Where the literal start of a pattern ends."""
    found = [at for special in _SPECIAL if (at := pattern.find(special)) >= 0]
    return min(found, default=len(pattern))


def _suffixes(pattern: bytes) -> list[bytes]:
    """The endings a pattern like `*.log` or `*.py[cod]` stands for; none for patterns of another form."""
    if pattern[:1] != b"*":
        return []
    rest = pattern[1:]
    cut = _first_special(rest)
    if cut == len(rest):
        return [rest]
    choice = rest[cut + 1 : -1]
    if rest[cut] == 91 and rest[-1] == 93 and choice.isalnum():
        return [rest[:cut] + bytes((char,)) for char in choice]
    return []


def _matches_nothing(_path: bytes) -> None:
    return None


def _compile(expression: bytes) -> Match:
    import re

    return re.compile(b"(?s:" + expression + rb")\Z").match


def translate(pattern: bytes, *, paths: bool) -> tuple[bytes, int]:
    """A regular expression without backtracking for a pattern, and the least length it matches; -1: none.

    What stands between two stars has a fixed length, so the first place where it fits is as good as any
    later one: each such piece is atomic. `**` between slashes is the outer star, whose pieces are cut the
    same way.
    """
    if _longer_than_any(pattern, paths):
        return _NEVER
    while b"***" in pattern:
        pattern = pattern.replace(b"***", b"**")
    parts: list[bytes] = []  # between outer stars
    pieces: list[bytes] = []  # between inner stars, of the part in hand
    piece: list[bytes] = []
    least = 0
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char != 42:
            atom, at = _atom(pattern, at, paths)
            if at < 0:
                return _NEVER
            piece.append(atom)
            least += 1
            continue
        start = at
        while at < len(pattern) and pattern[at] == 42:
            at += 1
        if paths and at - start > 1 and _bounded(pattern, start, at):
            pieces.append(b"".join(piece))
            parts.append(_inner(pieces, paths))
            pieces, piece = [], []
            if pattern[at : at + 1] == b"/":
                parts.append(b"/")
                at += 1
            elif at < len(pattern):  # `**\/`: no zero folders
                parts.append(b"\\")
            else:
                parts.append(b"$")
        else:
            pieces.append(b"".join(piece))
            piece = []
    pieces.append(b"".join(piece))
    parts.append(_inner(pieces, paths))
    return _outer(parts), least


def _longer_than_any(pattern: bytes, paths: bool) -> bool:
    """Whether a pattern asks for more bytes than a name (a path of ours) has; brackets count as one each."""
    most = LONGEST_PATH if paths else LONGEST_NAME
    size = len(pattern)
    if size > most and b"[" in pattern:
        # the brackets of honest patterns are short
        return size > most * 8
    return size - pattern.count(b"*") - pattern.count(b"\\") > most


def _bounded(pattern: bytes, start: int, end: int) -> bool:
    before = start == 0 or pattern[start - 1] == 47
    return before and (end == len(pattern) or pattern[end] == 47 or pattern[end : end + 2] == b"\\/")


def _inner(pieces: list[bytes], paths: bool) -> bytes:
    star = b"[^/]*" if paths else b".*"
    if len(pieces) == 1:
        return pieces[0]
    middle = b"".join(b"(?>" + star + b"?" + piece + b")" for piece in pieces[1:-1])
    return pieces[0] + middle + star + pieces[-1]


def _outer(parts: list[bytes]) -> bytes:
    """Join parts and the outer stars between them; every part but the last is atomic."""
    out = parts[0]
    for index in range(1, len(parts), 2):
        star, part = parts[index], parts[index + 1]
        last = index + 2 == len(parts)
        if star == b"$":
            return out + b".*"
        lead = b"(?:[^/]*/)*?" if star == b"/" else b".*?"
        out += (b"" if last else b"(?>") + lead + part + (b"" if last else b")")
    return out


def _atom(pattern: bytes, at: int, paths: bool) -> tuple[bytes, int]:
    """The expression of one byte of text and where the pattern goes on; -1 when it can match nothing."""
    char = pattern[at]
    if char == 63:
        return (b"[^/]" if paths else b"."), at + 1
    if char == 91:
        return _bracket(pattern, at + 1, paths)
    if char == 92:
        at += 1
        if at == len(pattern):
            return b"", -1
    return b"\\x%02x" % pattern[at], at + 1


def _bracket(  # noqa: C901, PLR0911, PLR0912 - one state machine, as in git's wildmatch
    pattern: bytes, at: int, paths: bool
) -> tuple[bytes, int]:
    """A bracket expression from behind its `[`, with the ways of git's wildmatch."""
    size = len(pattern)
    negated = at < size and pattern[at] in b"!^"
    at += negated
    allowed: set[int] = set()
    before = 0
    first = True
    while True:
        if at >= size:
            return b"", -1
        char = pattern[at]
        if char == 93 and not first:
            break
        first = False
        if char == 92:
            at += 1
            if at >= size:
                return b"", -1
            before = pattern[at]
            allowed.add(before)
        elif char == 45 and before and at + 1 < size and pattern[at + 1] != 93:
            at += 1
            if pattern[at] == 92:
                at += 1
                if at >= size:
                    return b"", -1
            allowed.update(range(before, pattern[at] + 1))
            before = 0
        elif char == 91 and pattern[at + 1 : at + 2] == b":":
            end = pattern.find(b"]", at + 2)
            if end < 0:
                return b"", -1
            if end - at - 3 < 0 or pattern[end - 1] != 58:
                allowed.add(91)
                before = 91
            else:
                members = _CLASSES.get(pattern[at + 2 : end - 1])
                if members is None:
                    return b"", -1
                allowed.update(_members(members))
                before = 0
                at = end
        else:
            allowed.add(char)
            before = char
        at += 1
    if negated:
        allowed = set(range(256)) - allowed
    if paths:
        allowed.discard(47)
    if not allowed:
        return b"", -1
    return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(allowed)) + b"]", at + 1


def _members(expression: bytes) -> Iterable[int]:
    import re

    match = re.compile(b"[" + expression + b"]").match
    return (byte for byte in range(256) if match(bytes((byte,))))
