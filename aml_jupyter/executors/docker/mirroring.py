"""Brings `job/` of a run on another machine here, byte for byte, by the sizes of what is here already."""

from __future__ import annotations

import hashlib
import os

from aml_jupyter.confined import write_atomic
from aml_jupyter.connection import quote
from aml_jupyter.errors import TargetUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.connection import Connection

BLOCK = 1 << 20
COMMAND = 60.0
LARGEST_PAYLOAD = 256 << 20
MOST_PAYLOADS = 10_000
GROWING = ("events.jsonl", "log")
# each is written once or replaced whole
SMALL = ("started.json", "heartbeat", "runtime.log")

# one answer: for each file a line `name size bytes`, then the bytes; then the names of the payloads
_SCRIPT = """
cd {folder} 2>/dev/null || exit 44
ended=0; [ -f exit.json ] && ended=1
give() {{
  if [ -f "$1" ] && [ ! -L "$1" ]; then
    s=$(($(wc -c <"$1"))); n=$((s - $2)); [ "$n" -gt {block} ] && n={block}; [ "$n" -lt 0 ] && n=0
    printf '%s %s %s\\n' "$1" "$s" "$n"
    [ "$n" -eq 0 ] || tail -c +$(($2 + 1)) <"$1" | head -c "$n"
  else printf '%s -1 0\\n' "$1"; fi
}}
{gives}
if [ $ended = 1 ]; then give exit.json 0; else printf 'exit.json -1 0\\n'; fi
n=0; for f in data/*; do [ -f "$f" ] && [ ! -L "$f" ] || continue
  n=$((n + 1)); [ $n -gt {payloads} ] && break; printf '%s\\n' "${{f#data/}}"; done
"""


def bring(connection: Connection, folder: str, into: str, limit: int) -> bool:
    """Bring what is new; whether there was anything.  The ending comes when all that precedes it is here.

    Raises TargetUnavailable, also for a machine that sends more than `limit` bytes of log or events.
    """
    something = False
    while True:
        found, payloads = _ask(connection, folder, into)
        fetched = _payloads(connection, folder, into, payloads)
        grown = [_append(into, name, *found[name], limit) for name in GROWING]
        for name in SMALL:
            size, data = found[name]
            if size >= 0 and name != "heartbeat":
                _replace(into, name, data)
            elif size >= 0:
                _overwrite(into, name, data)
        something = something or fetched or any(grown)
        if any(_size(into, name) < found[name][0] for name in GROWING):
            continue
        if found["exit.json"][0] >= 0:
            write_atomic(into + "/exit.json", found["exit.json"][1])
            return True
        return something


def _ask(connection: Connection, folder: str, into: str) -> tuple[dict[str, tuple[int, bytes]], list[str]]:
    gives = [f"give {name} {_size(into, name)}" for name in GROWING] + [f"give {name} 0" for name in SMALL]
    script = _SCRIPT.format(folder=quote(folder), block=BLOCK, payloads=MOST_PAYLOADS, gives="\n".join(gives))
    answer = connection.run(script, timeout=COMMAND, limit=16 * BLOCK)
    if answer.code == 44:
        raise TargetUnavailable(f"the folder {folder} of the run is gone there", code="store.unavailable")
    return _parsed(answer.out)


def _parsed(data: bytes) -> tuple[dict[str, tuple[int, bytes]], list[str]]:
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    for name in (*GROWING, *SMALL, "exit.json"):
        end = data.find(b"\n", at)
        words = data[at:end].split(b" ")
        if end < 0 or len(words) != 3 or words[0] != name.encode():
            raise TargetUnavailable("the machine's answer is not whole")
        size, count = int(words[1]), int(words[2])
        at = end + 1 + count
        if len(data) < at:
            raise TargetUnavailable("the machine's answer is not whole")
        found[name] = (size, data[end + 1 : at])
    return found, [line.decode("latin-1") for line in data[at:].split(b"\n") if line]


def _size(into: str, name: str) -> int:
    try:
        return os.stat(f"{into}/{name}").st_size
    except FileNotFoundError:
        return 0


def _append(into: str, name: str, size: int, data: bytes, limit: int) -> bool:
    if size > limit:
        raise TargetUnavailable(
            f"{name} of the run has {size} bytes there, more than it may", code="budget.bytes"
        )
    if not data:
        return False
    fd = os.open(f"{into}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
    return True


def _replace(into: str, name: str, data: bytes) -> None:
    if _size(into, name) != len(data):
        write_atomic(f"{into}/{name}", data, sync=False)


def _overwrite(into: str, name: str, data: bytes) -> None:
    fd = os.open(f"{into}/{name}", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.pwrite(fd, data, 0)
    finally:
        os.close(fd)


def _payloads(connection: Connection, folder: str, into: str, names: list[str]) -> bool:
    """Bring payloads that are not here, each verified by its name, which is its SHA-256."""
    fetched = False
    for name in names:
        if len(name) != 64 or set(name) - set("0123456789abcdef"):
            continue
        path = f"{into}/data/{name}"
        if os.path.exists(path):
            continue
        data = _whole(connection, f"{folder}/data/{name}")
        if hashlib.sha256(data).hexdigest() == name:
            os.makedirs(into + "/data", mode=0o700, exist_ok=True)
            write_atomic(path, data, sync=False)
            fetched = True
    return fetched


def _whole(connection: Connection, path: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := connection.read(path, size, 16 * BLOCK):
        parts.append(part)
        size += len(part)
        if size > LARGEST_PAYLOAD:
            break
    return b"".join(parts)
