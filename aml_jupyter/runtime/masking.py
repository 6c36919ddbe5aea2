"""Secrets of a run that its program prints: taken out before anything of it is written."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

MARK = "***"
# bytes of a secret, and of a line of one: shorter ones would take the log apart
SHORTEST, SHORTEST_LINE = 4, 8
# parts of a connection string that are secret without the rest of it
KEYS = (b"accountkey=", b"sharedaccesssignature=")
# of a message: what other words of it refer to
STRUCTURE = ("type", "file", "encoding", "$data")


class Mask:
    """Replaces values in what two streams carry and in messages; where none is found nothing changes."""

    def __init__(self, values: "Iterable[bytes]") -> None:
        self.words = sorted({word for value in values for word in _words(value)}, key=len, reverse=True)
        self.texts = [word.decode("utf-8", "replace") for word in self.words]
        # by stream, and whether it came in a message: what may be the beginning of a secret, now and before
        self.held: "dict[tuple[bool, bool], bytes]" = {}
        self.old: "dict[tuple[bool, bool], bytes]" = {}

    def take(self, data: "bytes | memoryview", is_error: bool, in_message: bool = False) -> bytes:
        """What may be written now; the beginning of a secret waits for what comes after it the same way."""
        way = (is_error, in_message)
        text = self.held.get(way, b"") + data
        for word in self.words:
            text = text.replace(word, MARK.encode("ascii"))
        end = self._beginning(text)
        self.held[way] = text[end:]
        return text[:end]

    def _beginning(self, text: bytes) -> int:
        """Where a secret begins that goes on behind the text; the text's length where none does."""
        end = len(text)
        for word in self.words:
            at = text.find(word[:1], max(0, len(text) - len(word) + 1))
            while 0 <= at < end and not word.startswith(text[at:]):
                at = text.find(word[:1], at + 1)
            if 0 <= at < end:
                end = at
        return end

    def rest(self, last: bool = False) -> "Iterator[tuple[bool, bytes]]":
        """What was held back since the look before this one, or with `last` all: no secret after all."""
        for way, held in list(self.held.items()):
            if held and (last or held is self.old.get(way)):
                self.held[way] = b""
                yield way[0], held
        self.old = dict(self.held)

    def within(self, value: "Any", depth: int = 0) -> "Any":
        """The same message without secrets in its texts."""
        if isinstance(value, str):
            for text in self.texts:
                value = value.replace(text, MARK)
            return value
        if isinstance(value, list):
            return [self.within(one, depth + 1) for one in value]
        if isinstance(value, dict):
            # names of fields, of MIME types and of columns stay what others look for
            return {
                name if depth < 2 else self.within(name): one
                if name in STRUCTURE
                else self.within(one, depth + 1)
                for name, one in value.items()
            }
        return value

    def text(self, data: bytes, escaped: "Callable[[str], str] | None" = None) -> bytes:
        """A whole text without secrets; in JSON, with its way to write a text, also those that it escapes."""
        whole = text = data.decode("utf-8", "replace")
        for word in self.texts:
            text = text.replace(word, MARK)
            if escaped is not None:
                text = text.replace(escaped(word)[1:-1], MARK)
        return data if text == whole else text.encode("utf-8")


def too_short(secrets: "Mapping[bytes, bytes]") -> "list[str]":
    """The names of secrets that are not recognised."""
    found = [name for name, value in secrets.items() if 0 < len(value) < SHORTEST]
    return [name.decode("utf-8", "replace") for name in sorted(found)]


def _words(value: bytes) -> "Iterator[bytes]":
    """The texts by which a secret is recognised: the whole, its lines, the keys of a connection string."""
    if len(value) >= SHORTEST:
        yield value
    lines = [line.strip() for line in value.splitlines()]
    for line in lines if len(lines) > 1 else []:
        if len(line) >= SHORTEST_LINE:
            yield line
    for part in value.split(b";"):
        name, equals, key = part.strip().partition(b"=")
        if name.lower() + equals in KEYS and len(key) >= SHORTEST_LINE:
            yield key
