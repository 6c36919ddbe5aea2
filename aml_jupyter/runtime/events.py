"""`events.jsonl`: the one place where events get their number, their times and their place in the log."""

import posix
import time

import plain
from launch import utc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from launch import Clock
    from pump import Log

COUNT_LIMIT = 1000000
BYTES_LIMIT = 256 << 20
PENDING_LIMIT = 4 << 20  # bytes held in memory while the disk is full
WARNINGS_OF_A_KIND = 100
KINDS_OF_WARNINGS = 200
FLAGS = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_APPEND | posix.O_NOFOLLOW | posix.O_CLOEXEC
RETRY = 1.0
# the runtime says these, with or without a limit
OWN = ("started", "ended", "warning", "stderr")


class Journal:
    """Numbers events and appends them; what cannot be kept is counted, never waited for."""

    def __init__(self, run_id: str, clock: "Clock") -> None:
        self.clock = clock
        self.log: "Log | None" = None  # set when there is one: gives events their place in it
        self.count = 0
        self.bytes = 0
        self.dropped = 0
        self.capped = False
        self.retry_at = 0.0
        self.warnings: "dict[str, int]" = {}
        # what is said of stderr stands here before its bytes stand in the log: see pump.Stretches
        first = {"format": 1, "run_id": run_id, "stderr": "ahead"}
        self.pending = bytearray(plain.dumps(first).encode("ascii") + b"\n")
        try:
            self.fd = posix.open("events.jsonl", FLAGS, 0o600)
        except OSError:
            self.fd = -1

    def emit(self, kind: str, fields: "Mapping[str, object]", at: "int | None" = None) -> None:
        """Append an event; `fields` must be JSON, and cannot change number, times or type."""
        if kind not in OWN and (self.count >= COUNT_LIMIT or self.bytes >= BYTES_LIMIT):
            self._cap()
            return
        if len(self.pending) > PENDING_LIMIT and kind != "ended":
            self.dropped += 1
            return
        event: "dict[str, object]" = {
            "seq": self.count + 1,
            "utc": utc(time.time()),
            "m": round(self.clock.elapsed(), 6),
            "at": (self.log.offset if self.log else 0) if at is None else at,
            "type": kind,
        }
        event.update((name, value) for name, value in fields.items() if name not in event)
        line = _dumps(event)
        self.count += 1
        self.bytes += len(line)
        self.pending += line

    def warn(self, code: str, text: str) -> None:
        """Append a warning; after a hundred of one code they are only counted."""
        if len(self.warnings) >= KINDS_OF_WARNINGS and code not in self.warnings:
            code = "other"
        told = self.warnings.get(code, 0) + 1
        self.warnings[code] = told
        if told <= WARNINGS_OF_A_KIND:
            self.emit("warning", {"code": code, "text": text})

    def _cap(self) -> None:
        self.dropped += 1
        if not self.capped:
            self.capped = True
            self.warn("events.capped", "the events reached their limit; later ones are not kept")

    def flush(self, last: bool = False) -> None:
        """Write what is pending; on a full disk it stays in memory and is tried again a second later."""
        if not self.pending or self.fd < 0 or (not last and self.retry_at > time.monotonic()):
            return
        try:
            while self.pending:
                count = posix.write(self.fd, self.pending)
                del self.pending[:count]
            self.retry_at = 0.0
        except OSError:
            self.retry_at = time.monotonic() + RETRY

    def sync(self) -> None:
        """Make the events durable where the file system can."""
        try:
            posix.fsync(self.fd)
        except OSError:
            pass


def _dumps(event: "dict[str, object]") -> bytes:
    try:
        text = plain.dumps(event)
    except ValueError:  # not a number, infinity: JSON has no such thing, so they become texts
        text = plain.dumps(_without_nan(event))
    return text.encode("ascii") + b"\n"


def _without_nan(value: object) -> object:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"  # noqa: PLR0124
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return value
