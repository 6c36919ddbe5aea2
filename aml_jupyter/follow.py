"""Follows the output of a run from any process: text and events in the order in which they happened."""

from __future__ import annotations

import codecs
import errno
import os
import stat
import time
from collections import deque

from aml_jupyter import plainjson, processes, runs
from aml_jupyter.confined import open_regular
from aml_jupyter.controllog import read_lines
from aml_jupyter.errors import ConfinedError
from aml_jupyter.frozen import Value
from aml_jupyter.job import TERMINAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from aml_jupyter.runs import RunDirectory

# the most that is read of a log or of events at once, in bytes: bounds the memory of whoever follows
BLOCK = 1 << 20
# seconds between two looks: short while something happens, longer while nothing does
SHORTEST_LOOK, LONGEST_LOOK = 0.01, 0.1
# seconds in which whoever begins to follow a run looks often: a container takes a third of one to start
AT_FIRST = 1.0
# while a run is in one of these, what its supervisor says is how the preparation goes
BEFORE = ("", "NotStarted", "Preparing")
# seconds within which older runtimes told that bytes of the log are stderr; newer ones do so ahead of them
TOLD = 0.06
# where a stretch of stderr ends that goes on
OPEN = 1 << 62


class Text(Value):
    """Characters a run printed; `stream` is "stdout" or "stderr"."""

    stream: str
    text: str


class Event(Value):
    """One line of `events.jsonl`."""

    event: dict[str, Any]


class Status(Value):
    """A change of state."""

    status: str
    reason: str = ""


class Progress(Value):
    """A line that the preparation of a run told."""

    text: str


Output = Text | Event | Status | Progress


def is_first(began: float) -> bool:
    """Whether following that began at a monotonic time is still about the first output."""
    return time.monotonic() - began < AT_FIRST


class Follower:
    """Reads what is new of one run's output; holds positions, not content.

    `position` and `events_position` are bytes already read, for one who comes back; `errors` is what becomes
    of bytes that are not UTF-8, as for `bytes.decode`.
    """

    def __init__(self, directory: RunDirectory, *, tail: int | None = None, errors: str = "replace") -> None:
        self.directory = directory
        self.position = 0
        self.events_position = 0
        self.status = ""
        self._decoders = {
            name: codecs.getincrementaldecoder("utf-8")(errors) for name in ("stdout", "stderr")
        }
        self._status_position = self._control_position = 0
        self._stderr: deque[tuple[int, int]] = deque()
        self._ahead = self._all = False
        self._stderr_end = self._settled = 0
        self._sizes: deque[tuple[float, int]] = deque()
        self._waiting: deque[dict[str, Any]] = deque()
        self._told = 0
        if tail is not None:
            self.position = max(0, _size(directory.job + "/log") - tail)

    def read(self) -> Iterator[Output]:
        """Everything that is new, in order; ends when there is no more for now."""
        preparing = self.status in BEFORE
        changes = list(self._read_status())
        if preparing:  # everything that was told before these changes has been written by now
            yield from self._read_progress()
        yield from changes
        while True:
            # the log's size first: every event that precedes these bytes is then in the events file
            size = min(_size(self.directory.log), self.position + BLOCK)
            before = (self.position, self.events_position)
            more = self._read_events()
            # where more events are to be read, nobody knows yet what belongs behind the last one at hand
            yield from self._until(min(size, self._told) if more else self._known(size))
            if (self.position, self.events_position) == before and not self._due():
                return

    def follow(self) -> Iterator[Output]:
        """Everything until the run has ended; yields nothing while nothing happens.

        Ends as well when a run has no supervisor any more: the caller looks at the record.
        """
        look, began = SHORTEST_LOOK, time.monotonic()
        while True:
            supervised = runs.supervised(self.directory)
            who = runs.supervisor_identity(self.directory)
            something = False
            for output in self.read():
                something = True
                yield output
            if not something and (self.status in TERMINAL or not supervised):
                yield from self.rest()
                return
            look = SHORTEST_LOOK if something or is_first(began) else min(LONGEST_LOOK, look * 1.5)
            if who is None:
                time.sleep(look)
            else:
                processes.wait_end(who, look)

    def rest(self) -> Iterator[Output]:
        """Everything that is left when no more is to come, what is new included.

        That is text whose stream was not told yet, events whose place was in a part of the log that is gone,
        and what there is of a character that the log ends in the middle of.
        """
        self._all = True
        yield from self.read()
        more = bool(self._waiting)
        while more:
            while self._waiting:
                yield Event(event=self._waiting.popleft())
            more = self._read_events() or bool(self._waiting)
        for name, decoder in self._decoders.items():
            if text := decoder.decode(b"", final=True):
                yield Text(stream=name, text=text)

    def _read_progress(self) -> Iterator[Output]:
        fd = open_job_file(self.directory.control_log)
        if fd is None:
            return
        with os.fdopen(fd, "rb"):  # one file to the end of these lines, whatever takes its place meanwhile
            while True:
                lines, position = read_lines(fd, self._control_position, BLOCK)
                if position == self._control_position:
                    return
                self._control_position = position
                for line in lines:
                    yield Progress(text=line)

    def _read_status(self) -> Iterator[Output]:
        path = self.directory.status_jsonl
        lines, self._status_position = _new_lines(path, self._status_position)
        for line in lines:
            status = str(line.get("status", self.status))
            if status != self.status:
                self.status = status
                yield Status(status=status, reason=str(line.get("reason", "")))

    def _read_events(self) -> bool:
        """Take in the next block of events unless those at hand go beyond the next text; are there more?"""
        if self._waiting and self._told > self.position + BLOCK:
            return True
        before = self.events_position
        lines, self.events_position = _new_lines(self.directory.events_jsonl, before)
        for event in lines:
            self._take(event)
        return self.events_position > before and self.events_position < _size(self.directory.events_jsonl)

    def _take(self, event: dict[str, Any]) -> None:
        if isinstance(at := event.get("at"), int):
            self._told = max(self._told, at)
        if event.get("type") == "stderr":
            start, end = event.get("start"), event.get("end")
            if isinstance(start, int) and isinstance(end, int):
                self._take_stretch(start, OPEN if event.get("more") is True else end)
        elif "type" in event and isinstance(at, int):
            self._waiting.append(event)
        elif "type" not in event and event.get("stderr") == "ahead":
            self._ahead = True

    def _take_stretch(self, start: int, end: int) -> None:
        if self._stderr and self._stderr[-1][1] == OPEN:  # this closes it, or its closing was lost
            begin, _ = self._stderr.pop()
            if begin < start:
                self._stderr.append((begin, start))
        self._stderr.append((start, end))
        self._stderr_end = end

    def _known(self, size: int) -> int:
        """Where the text ends whose stream is known: an older runtime may yet tell that it is stderr."""
        if self._ahead or self._all or self.status in TERMINAL:
            return size
        now = time.monotonic()
        if not self._sizes or size > self._sizes[-1][1]:
            self._sizes.append((now, size))
        while self._sizes and now - self._sizes[0][0] > TOLD:
            self._settled = self._sizes.popleft()[1]
        return min(size, max(self.position, self._settled, self._stderr_end))

    def _due(self) -> bool:
        return bool(self._waiting) and self._waiting[0]["at"] <= self.position

    def _until(self, size: int) -> Iterator[Output]:
        """The text up to a position with the events that belong between."""
        while True:
            stop = size
            if self._waiting:
                stop = min(size, max(self._waiting[0]["at"], self.position))
            yield from self._text(stop)
            if not self._due():
                if self.position >= size:
                    return
                continue
            yield Event(event=self._waiting.popleft())

    def _text(self, stop: int) -> Iterator[Output]:
        if stop <= self.position:
            return
        data = _read_at(self.directory.log, self.position, stop - self.position)
        begin, self.position = self.position, stop
        for stream, start, end in self._stretches(begin, begin + len(data)):
            if text := self._decoders[stream].decode(data[start - begin : end - begin]):
                yield Text(stream=stream, text=text)

    def _stretches(self, begin: int, end: int) -> Iterator[tuple[str, int, int]]:
        while begin < end:
            while self._stderr and self._stderr[0][1] <= begin:
                self._stderr.popleft()
            if not self._stderr or self._stderr[0][0] >= end:
                yield "stdout", begin, end
                return
            start, stop = self._stderr[0]
            if start > begin:
                yield "stdout", begin, start
                begin = start
            yield "stderr", begin, min(stop, end)
            begin = min(stop, end)


def open_job_file(path: str) -> int | None:
    """A read descriptor; None where there is none, or a script put a link or a FIFO in its place."""
    try:
        return open_regular(path)[0]
    except (FileNotFoundError, NotADirectoryError, ConfinedError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return None


def _size(path: str) -> int:
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _read_at(path: str, position: int, count: int, *, line: bool = False) -> bytes:
    """At most `count` bytes from a position on; with `line`, all of a line that is longer."""
    fd = open_job_file(path)
    if fd is None:
        return b""
    with os.fdopen(fd, "rb") as file:
        file.seek(position)
        data = file.read(count)
        if line and len(data) == count and b"\n" not in data:
            data += file.readline()
        return data


def _new_lines(path: str, position: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of JSON behind a position, about a block of them, and the position after them."""
    data = _read_at(path, position, BLOCK, line=True)
    whole = data[: data.rfind(b"\n") + 1]
    return list(filter(None, map(_object, whole.splitlines()))), position + len(whole)


def _object(line: bytes) -> dict[str, Any] | None:
    """A line as a JSON object; None for what a full disk cut off or a script put there."""
    try:
        found = plainjson.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
