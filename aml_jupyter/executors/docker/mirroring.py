"""Brings `job/` of a run on another machine here, byte for byte, by the sizes of what is here already.

What comes is the work of whatever ran there, on a machine that may lie: names are not taken from it, sizes
are held to limits and to the room on this disk, payloads to their hashes.
"""

from __future__ import annotations

import hashlib
import os

from aml_jupyter import plainjson
from aml_jupyter.confined import write_atomic
from aml_jupyter.connection import quote
from aml_jupyter.errors import AmlError, TargetUnavailable
from aml_jupyter.job import Exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aml_jupyter.connection import Connection

    # size there, bytes from the position that was asked for
    Found = tuple[int, bytes]

BLOCK = 1 << 20
# seconds without a byte: a slow line takes its time for an answer
STALL = 60.0
# what the runtime itself lets a run have
LARGEST_PAYLOAD = 8 << 30
MOST_PAYLOADS = 10_000
# payloads that are asked for at once
TOGETHER = 32
# bytes of this disk that stay free
RESERVE = 32 << 20
# in the order in which they are looked at: events that precede bytes of the log are there before these are
GROWING = ("log", "events.jsonl")
# each is written once or replaced whole
SMALL = ("started.json", "heartbeat", "runtime.log")
GONE = 44
ENOSPC, EDQUOT = 28, 122
HINT = "Free space here; the run goes on meanwhile, and what it wrote is brought then."
_HEXADECIMAL = frozenset("0123456789abcdef")

# for each file a line `name size bytes`, then the bytes
_GIVE = """
cd {folder} 2>/dev/null || exit 44
give() {{
  if [ -f "$1" ] && [ ! -L "$1" ]; then
    s=$(($(wc -c <"$1"))); n=$((s - $2)); [ "$n" -gt {block} ] && n={block}; [ "$n" -lt 0 ] && n=0
    printf '%s %s %s\\n' "${{1##*/}}" "$s" "$n"
    [ "$n" -eq 0 ] || tail -c +$(($2 + 1)) <"$1" | head -c "$n"
  else printf '%s -1 0\\n' "${{1##*/}}"; fi
}}
"""
# the ending is given only when it was there before all else was looked at; then the names of payloads, unless
# they are those that `known` is the checksum of
_LOOK = """
ended=0; [ -f exit.json ] && ended=1
{gives}
if [ $ended = 1 ]; then give exit.json 0; else printf 'exit.json -1 0\\n'; fi
set -- data/*; k=$(printf '%s\\n' "$@" | cksum); printf '%s\\n' "$k"
[ "$k" = {known} ] && exit 0
n=0; for f do [ -f "$f" ] && [ ! -L "$f" ] || continue
  n=$((n + 1)); [ $n -gt {payloads} ] && break; printf '%s\\n' "${{f#data/}}"; done
"""


class Mirror:
    """One run's `job/` there and here; remembers which payloads it has seen."""

    def __init__(self, connection: Connection, folder: str, into: str, limit: int) -> None:
        self._connection = connection
        self._folder = folder
        self._into = into
        self._limit = limit
        self._known = ""

    def bring(self) -> bool:
        """Bring what is new; whether there was anything.  The ending comes when all that precedes it is here.

        Raises TargetUnavailable, also for a machine that sends more than may be, AmlError `store.no_space`.
        """
        try:
            return self._bring()
        except OSError as error:
            raise AmlError(
                f"{self._into}: {error.strerror or error}",
                code="store.no_space" if error.errno in (ENOSPC, EDQUOT) else "store.unavailable",
                hint=HINT,
            ) from error

    def _bring(self) -> bool:
        something = False
        while True:
            answer = self._look()
            if answer is None:  # nothing more will come of it: what became of the run shows elsewhere
                return something
            found, known, payloads = answer
            fetched = self._payloads(payloads)
            self._known = known
            grown = [self._append(*self._held(name, found)) for name in reversed(GROWING)]
            for name in SMALL:
                self._take_small(name, *found[name])
            something = something or fetched or any(grown)
            if any(grown) and any(_size(self._into, name) < found[name][0] for name in GROWING):
                continue
            if found["exit.json"][0] >= 0:
                write_atomic(self._into + "/exit.json", _ending(found["exit.json"][1]))
                return True
            return something

    def _held(self, name: str, found: dict[str, Found]) -> tuple[str, int, bytes]:
        """What came of a growing file; of the log nothing before all of the events is here."""
        size, data = found[name]
        behind = _size(self._into, "events.jsonl") < found["events.jsonl"][0]
        return name, size, b"" if name == "log" and behind else data

    def _look(self) -> tuple[dict[str, Found], str, list[str]] | None:
        names = (*GROWING, *SMALL)
        sizes = {name: _size(self._into, name) if name in GROWING else 0 for name in names}
        script = _LOOK.format(
            gives="\n".join(f"give {name} {sizes[name]}" for name in names),
            known=quote(self._known),
            payloads=MOST_PAYLOADS,
        )
        data = self._ask(script)
        if data is None:
            return None
        found, rest = _parsed(data, (*names, "exit.json"))
        known, *payloads = rest.decode("latin-1").split("\n")
        return found, known[:80], [name for name in payloads if name]

    def _ask(self, script: str) -> bytes | None:
        """What a script says in the folder there; None where that is gone."""
        whole = _GIVE.format(folder=quote(self._folder), block=BLOCK) + script
        answer = self._connection.stream(whole, stall=STALL, limit=64 * BLOCK)
        return None if answer.code == GONE else answer.out

    def _append(self, name: str, size: int, data: bytes) -> bool:
        if size > self._limit:
            raise TargetUnavailable(
                f"{name} of the run has {size} bytes there, more than it may", code="budget.bytes"
            )
        if not data:
            return False
        self._make_room(len(data))
        fd = os.open(f"{self._into}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            while data:
                data = data[os.write(fd, data) :]
        finally:
            os.close(fd)
        return True

    def _take_small(self, name: str, size: int, data: bytes) -> None:
        path = f"{self._into}/{name}"
        if size < 0:
            return
        if name == "heartbeat":
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                os.pwrite(fd, data, 0)
            finally:
                os.close(fd)
        elif _size(self._into, name) != len(data):
            write_atomic(path, data, sync=False)

    def _payloads(self, names: list[str]) -> bool:
        """Bring payloads that are not here, each verified by its name, which is its SHA-256."""
        wanted = [name for name in names if len(name) == 64 and not set(name) - _HEXADECIMAL]
        wanted = [name for name in wanted if not os.path.exists(f"{self._into}/data/{name}")]
        fetched = False
        for at in range(0, len(wanted), TOGETHER):
            some = wanted[at : at + TOGETHER]
            data = self._ask("\n".join(f"give data/{name} 0" for name in some))
            if data is None:
                return fetched
            for name, (size, first) in _parsed(data, some)[0].items():
                fetched = self._payload(name, size, first) or fetched
        return fetched

    def _payload(self, name: str, size: int, first: bytes) -> bool:
        """Bring a payload block by block; False for one that is not what its name says."""
        if not 0 <= size <= LARGEST_PAYLOAD:
            return False
        os.makedirs(self._into + "/data", mode=0o700, exist_ok=True)
        path = f"{self._into}/data/{name}"
        partial = path + ".partial"
        found = hashlib.sha256()
        try:
            with open(partial, "wb") as file:
                for part in self._parts(f"data/{name}", size, first):
                    self._make_room(len(part))
                    found.update(part)
                    file.write(part)
            right = found.hexdigest() == name
            if right:
                os.rename(partial, path)
            return right
        finally:
            if os.path.exists(partial):
                os.unlink(partial)

    def _parts(self, path: str, size: int, first: bytes) -> Iterator[bytes]:
        yield first
        have = len(first)
        while have < size and (part := self._connection.read(f"{self._folder}/{path}", have, BLOCK)):
            have += len(part)
            yield part

    def _make_room(self, size: int) -> None:
        about = os.statvfs(self._into)
        if size > about.f_bavail * about.f_frsize - RESERVE:
            raise AmlError(
                f"what the run writes does not fit on the disk of {self._into}",
                code="store.no_space",
                hint=HINT,
            )


def _parsed(data: bytes, names: Sequence[str]) -> tuple[dict[str, Found], bytes]:
    """The files of an answer, and what follows them."""
    found: dict[str, Found] = {}
    at = 0
    for name in names:
        end = data.find(b"\n", at)
        words = data[at:end].split(b" ") if end >= 0 else []
        if len(words) != 3 or words[0] != name.encode() or not all(map(_is_number, words[1:])):
            raise TargetUnavailable("the machine's answer is not whole")
        size, count = int(words[1]), int(words[2])
        at = end + 1 + count
        if not 0 <= count <= BLOCK or count > max(size, 0) or len(data) < at:
            raise TargetUnavailable("the machine's answer is not whole")
        found[name] = (size, data[end + 1 : at])
    return found, data[at:]


def _is_number(word: bytes) -> bool:
    return word == b"-1" or (word.isdigit() and len(word) < 19)


def _ending(data: bytes) -> bytes:
    """An ending as it came, when it is one.  Raises TargetUnavailable."""
    try:
        document = plainjson.loads(data)
        ending = Exit.from_json(document)
        whole = all(isinstance(one, int | None) for one in (ending.exit_code, ending.signal)) and all(
            isinstance(one, int | float) for one in (ending.duration, ending.log_bytes, ending.leftovers)
        )
    except (ValueError, TypeError, AttributeError, AmlError, RecursionError):
        whole = False
    if not whole:
        raise TargetUnavailable("what the run left as its ending is none", code="store.unavailable")
    return data


def _size(into: str, name: str) -> int:
    try:
        return os.stat(f"{into}/{name}").st_size
    except FileNotFoundError:
        return 0
