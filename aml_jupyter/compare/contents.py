"""Two files beside each other: lines of text, cells of a table, pictures, and hashes of the rest.

Whoever wrote the files may be anybody: everything is bounded, and nothing is believed but the bytes.
"""

from __future__ import annotations

from aml_jupyter.compare.findings import Cell, Cells, Change, Image, Text
from aml_jupyter.errors import AmlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Read = Callable[[], bytes]
    Table = list[list[str]]

# bytes of a file that is looked into, of a table, of a picture; points along the side of one
LARGEST_TEXT, LARGEST_TABLE, LARGEST_IMAGE, LONGEST_SIDE = 2 << 20, 8 << 20, 512 << 10, 8192
# lines that are compared of one file, lines and characters of a line that are shown
LINES, SHOWN, LONGEST = 4000, 200, 300
# rows that are compared, rows in the middle that are matched with each other, cells that are listed
ROWS, MATCHED, LISTED = 100_000, 2000, 100
_TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


class Budget:
    """What may be read and shown of one of some pairs of runs, however many files there are."""

    def __init__(self, pairs: int = 1) -> None:
        self.bytes = (256 << 20) // (pairs + 3)
        self.lines = 12_000 // (pairs + 3)
        self.images = (12 << 20) // (pairs + 3)

    def take(self, size: int) -> bool:
        """Whether so many bytes may still be read."""
        self.bytes -= size
        return self.bytes >= 0


def compared(change: Change, readers: tuple[Read | None, Read | None], budget: Budget) -> Change:
    """A change with what differs inside; as it is where that cannot be told."""
    sides = [side for side in (change.first, change.second) if side is not None]
    largest = max((side.size for side in sides), default=0)
    if any(side.link or side.state for side in sides) or largest > LARGEST_TABLE:
        return change
    if not budget.take(sum(side.size for side in sides)):
        return change.replace(note="not looked into: too much differs")
    try:
        first, second = (read() if read is not None else None for read in readers)
    except AmlError as error:
        return change.replace(note=error.message)
    if first == second:
        return change
    return _inside(change, first, second, budget)


def _inside(change: Change, first: bytes | None, second: bytes | None, budget: Budget) -> Change:
    given = [data for data in (first, second) if data is not None]
    pictures = [image_of(data) if data is not None else None for data in (first, second)]
    if any(pictures) and sum(map(len, given)) <= budget.images:
        budget.images -= sum(map(len, given))
        return change.replace(images=(pictures[0], pictures[1]))
    texts = [text_of(data) for data in given]
    if any(text is None for text in texts):
        return change
    delimiter = _TABLES.get("." + change.path.rpartition(".")[2].lower())
    if delimiter and first is not None and second is not None:
        cells = cells_of(texts[0] or "", texts[1] or "", delimiter)
        if cells is not None:
            return change.replace(cells=cells)
    if any(len(data) > LARGEST_TEXT for data in given):
        return change
    before = (texts[0] or "") if first is not None else ""
    after = (texts[-1] or "") if second is not None else ""
    found = diff_of(before.splitlines(), after.splitlines(), min(SHOWN, budget.lines))
    budget.lines -= len(found.lines)
    return (
        change.replace(text=found)
        if found.lines or found.cut
        else change.replace(note="only the ends of lines differ")
    )


def text_of(data: bytes) -> str | None:
    """The text of bytes in UTF-8; None when they are none."""
    if b"\0" in data[:8192]:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def diff_of(before: Sequence[str], after: Sequence[str], most: int, start: int = 0) -> Text:
    """A unified diff of lines, of which `start` came before; at most `most` lines of it."""
    from difflib import unified_diff

    head = _same_head(before, after)
    tail = _same_tail(before[head:], after[head:])
    # what is the same around the differences would only be compared
    low = max(0, head - 3)
    one, other = before[low : len(before) - max(0, tail - 3)], after[low : len(after) - max(0, tail - 3)]
    cut = max(0, len(one) - LINES) + max(0, len(other) - LINES)
    lines: list[str] = []
    for number, line in enumerate(unified_diff(one[:LINES], other[:LINES], lineterm="", n=3)):
        if number < 2:  # the names of two files
            continue
        if len(lines) < most:
            lines.append(_moved(line, low + start) if line.startswith("@@") else _short(line))
        else:
            cut += 1
    return Text(lines=tuple(lines), cut=cut)


def _short(line: str) -> str:
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _moved(line: str, by: int) -> str:
    """The head of a hunk as of lines that begin later."""
    words = line.split(" ")
    for at in (1, 2):
        sign, (number, comma, count) = words[at][0], words[at][1:].partition(",")
        words[at] = f"{sign}{int(number) + by}{comma}{count}"
    return " ".join(words)


def _same_head(first: Sequence[object], second: Sequence[object]) -> int:
    at = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        at += 1
    return at


def _same_tail(first: Sequence[object], second: Sequence[object]) -> int:
    return _same_head(list(reversed(first)), list(reversed(second)))


# -- tables


def cells_of(first: str, second: str, delimiter: str) -> Cells | None:
    """The cells in which two tables differ; None where they are no tables.

    Columns are those of the first row where its names are told apart; rows are matched in their order.
    """
    before, after = _table(first, delimiter), _table(second, delimiter)
    if before is None or after is None or not before or not after:
        return None
    names, others = before[0], after[0]
    if _told_apart(names) and _told_apart(others):
        common = [name for name in names if name in others]
        columns = [(name, names.index(name), others.index(name)) for name in common]
    else:
        columns = [(f"column {at + 1}", at, at) for at in range(max(map(len, before + after)))]
        names, others = [], []
    pairs, removed, added = _matched(before, after, bool(names))
    cells: list[Cell] = []
    differ = 0
    for one, other in pairs:
        for name, at, there in columns:
            values = _cell(before[one], at), _cell(after[other], there)
            if values[0] != values[1]:
                differ += 1
                if len(cells) < LISTED:
                    cells.append(_listed(one + 1, name, *values))
    return Cells(
        differ=differ,
        cells=tuple(cells),
        rows=(len(before), len(after)),
        rows_added=tuple(added),
        rows_removed=tuple(removed),
        columns_added=tuple(name for name in others if name not in names),
        columns_removed=tuple(name for name in names if name not in others),
    )


def _listed(row: int, column: str, first: str, second: str) -> Cell:
    return Cell(row=row, column=_short(column), first=_short(first), second=_short(second))


def _table(text: str, delimiter: str) -> Table | None:
    import csv
    from itertools import islice

    try:
        rows = list(islice(csv.reader(text.splitlines(), delimiter=delimiter), ROWS + 1))
    except csv.Error:
        return None
    return rows if len(rows) <= ROWS and max(map(len, rows), default=0) <= LISTED * 10 else None


def _told_apart(names: Sequence[str]) -> bool:
    """Whether a first row names columns: every word is there once, and is no number."""
    return len(set(names)) == len(names) and all(name and not _is_number(name) for name in names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cell(row: Sequence[str], at: int) -> str:
    return row[at] if at < len(row) else ""


def _matched(before: Table, after: Table, headed: bool) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Rows that belong together, and those that only one side has, counted from 1."""
    begin = 1 if headed else 0
    rows, others = before[begin:], after[begin:]
    head = _same_head(rows, others)
    tail = _same_tail(rows[head:], others[head:])
    middle, other_middle = rows[head : len(rows) - tail], others[head : len(others) - tail]
    start = begin + head
    if len(middle) == len(other_middle):
        return [(start + at, start + at) for at in range(len(middle))], [], []
    pairs: list[tuple[int, int]] = []
    removed: list[int] = []
    added: list[int] = []
    for low, high, there, end in _blocks(middle, other_middle):
        both = min(high - low, end - there)
        pairs += [(start + low + at, start + there + at) for at in range(both)]
        removed += [start + at + 1 for at in range(low + both, high)]
        added += [start + at + 1 for at in range(there + both, end)]
    return pairs, removed, added


def _blocks(first: Table, second: Table) -> Iterable[tuple[int, int, int, int]]:
    """Stretches of rows that differ, as positions in both."""
    if max(len(first), len(second)) > MATCHED:
        return [(0, len(first), 0, len(second))]
    from difflib import SequenceMatcher

    rows, others = [tuple(row) for row in first], [tuple(row) for row in second]
    codes = SequenceMatcher(None, rows, others, autojunk=False).get_opcodes()
    return [code[1:] for code in codes if code[0] != "equal"]


# -- pictures


def image_of(data: bytes) -> Image | None:
    """A picture that a page may show: PNG, JPEG or GIF by its bytes, neither heavy nor vast."""
    if len(data) > LARGEST_IMAGE:
        return None
    for kind, find in (("image/png", _png), ("image/gif", _gif), ("image/jpeg", _jpeg)):
        size = find(data)
        if size is not None:
            width, height = size
            known = 0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE
            return Image(type=kind, data=data, width=width, height=height) if known else None
    return None


def _png(data: bytes) -> tuple[int, int] | None:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _gif(data: bytes) -> tuple[int, int] | None:
    if data[:6] not in (b"GIF87a", b"GIF89a"):
        return None
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


def _jpeg(data: bytes) -> tuple[int, int] | None:
    if data[:3] != b"\xff\xd8\xff":
        return None
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + max(2, length)
    return 0, 0
