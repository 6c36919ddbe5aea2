"""A run below its cell: the card, what it prints and shows in order, all of it within limits.

text       real stream messages for the first 256 KiB; after that its end, replaced four times a second
displays   as a cell's own, under ids of this run; updates are merged, at most ten a second of an id
card       one of a run, replaced in place as its state changes
"""

from __future__ import annotations

import os
import time
from collections import deque
from html import escape

from aml_jupyter import card as cards
from aml_jupyter import runs
from aml_jupyter.follow import Event, Follower, Progress, Status, Text
from aml_jupyter.job import TERMINAL
from aml_jupyter.printable import fold_returns, page_text, safe_text, shortened, shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Protocol

    from aml_jupyter.card import Card
    from aml_jupyter.follow import Output
    from aml_jupyter.runs import Record, RunDirectory

    class Surface(Protocol):
        """What `page.Page` is to a run."""

        @property
        def live(self) -> bool:
            """Whether what was shown can be replaced."""

        def publish(
            self,
            data: Mapping[str, Any],
            metadata: Mapping[str, Any] | None = None,
            *,
            display_id: str | None = None,
            update: bool = False,
        ) -> None:
            """Show a bundle or replace what an id shows."""

        def write(self, stream: str, text: str) -> None:
            """Print."""

        def clear(self, *, wait: bool) -> None:
            """Take away what the cell has shown."""


# characters that are printed as they come; the server drops what goes beyond 1 MB/s
TEXT_BUDGET = 256 << 10
# messages in all, how many at once, and how many a second after that; the server drops beyond 1,000/s
MESSAGES, BURST, RATE = 2000, 600, 400
DISPLAY_BYTES = 64 << 20
PAYLOAD = 32 << 20
# seconds between two replacements
CARD_EVERY, TAIL_EVERY, UPDATE_EVERY = 0.25, 0.25, 0.1
TAIL = 16 << 10
# metric events kept for the card while the run goes on
POINTS = 4000


class Live:
    """Shows one run; `take` is told what happens, `settle` sends what is due, `finish` the rest."""

    def __init__(
        self,
        page: Surface,
        directory: RunDirectory,
        *,
        quiet: bool = False,
        hold_error: bool = True,
        outputs: Sequence[str] = (),
    ) -> None:
        """`outputs` are the names whose values are wanted; a run may send any."""
        self.page = page
        self.directory = directory
        self.quiet = quiet
        self.outputs = outputs
        self.card = CardShown(page, directory, output_shown=not quiet)
        self.error: dict[str, Any] | None = None
        self.values: dict[str, dict[str, Any]] = {}
        self._swallow = _Swallow() if hold_error else None
        self._flow = _Flow(page, directory, self.card)

    def show(self) -> None:
        """Show the card, before anything else."""
        self.card.show()

    def take(self, output: Output) -> None:
        """Take in one piece of what happens."""
        if isinstance(output, Text):
            text = self._swallow.rest(output) if self._swallow else output.text
            if text and not self.quiet:
                self._flow.text(output.stream, text)
        elif isinstance(output, Progress) and not self.page.live and not self.quiet:
            self._flow.text("stderr", output.text + "\n")  # no card can be replaced
        else:
            self.card.take(output)
            if isinstance(output, Event):
                self._event(output.event)

    def _event(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "value":
            if event.get("name") in self.outputs:
                self.values[event["name"]] = event
        elif kind == "error":
            self.error = event
            if self._swallow and event.get("printed"):
                self._swallow.expect(event)
        elif not self.quiet and kind in ("display", "result", "clear_output"):
            self._flow.event(event)

    def read(self, follower: Follower, *, last: bool = False) -> bool:
        """Take in what is new, or with `last` all that is left; whether there was anything."""
        something = False
        for output in follower.rest() if last else follower.read():
            something = True
            self.take(output)
            self._flow.settle()
            self._flow.skip(follower)
        return something

    def settle(self) -> None:
        """Send what is due by now."""
        self._flow.settle()
        self.card.refresh()

    def finish(self, record: Record) -> None:
        """Send the rest, and the card as it stays."""
        self._flow.finish()
        self.card.finish(record)


class _Swallow:
    """Takes a traceback out of what is printed, because the cell's own error shows it."""

    def __init__(self) -> None:
        self.expected = ""

    def expect(self, event: dict[str, Any]) -> None:
        lines = event.get("traceback")
        self.expected = "\n".join(lines) + "\n" if isinstance(lines, list) else ""

    def rest(self, output: Text) -> str:
        if not self.expected or output.stream != "stderr":
            return output.text
        both = min(len(self.expected), len(output.text))
        if self.expected[:both] != output.text[:both]:
            self.expected = ""
            return output.text
        self.expected = self.expected[both:]
        return output.text[both:]


class CardShown:
    """The card of a run on a page: shown once, then replaced in place at most four times a second."""

    def __init__(self, page: Surface, directory: RunDirectory, *, output_shown: bool) -> None:
        self.page = page
        self.directory = directory
        self.output_shown = output_shown
        self.display_id = f"aml-card-{directory.run_id}"
        self._changes: dict[str, Any] = {}
        self._metrics: deque[dict[str, Any]] = deque(maxlen=POINTS)
        self._warnings: list[str] = []
        self._sent: dict[str, str] = {}
        self._at = 0.0
        self._changed = True
        self._began = time.monotonic()

    def take(self, output: Output) -> None:
        """Take in what the card tells of: states, metrics, remarks, how the preparation goes."""
        if isinstance(output, Status):
            # the last one is known when the record has it
            self._changes["status"] = "Finalizing" if output.status in TERMINAL else output.status
        elif isinstance(output, Event) and output.event["type"] == "metric":
            self._metrics.append(output.event)
        elif isinstance(output, Event) and output.event["type"] == "warning":
            if len(self._warnings) == cards.MOST:
                return
            self._warnings.append(str(output.event.get("text", "")))
        elif not isinstance(output, Progress):  # its lines are in the preparation's log, which the card reads
            return
        self._changed = True

    def show(self) -> None:
        """Show the card anew, such as after everything was cleared."""
        if self.page.live:
            self._send(self._now(), update=False)

    def refresh(self) -> None:
        """Replace the card when something changed, or when its hour is old."""
        since = time.monotonic() - self._at
        if not self.page.live or since < CARD_EVERY:
            return
        # the longer a run takes the less does a second matter
        if self._changed or since > max(1.0, (time.monotonic() - self._began) / 60):
            self._send(self._now(), update=True)

    def finish(self, record: Record) -> None:
        """Replace the card by the one that stays."""
        self._send(
            cards.card_of(self.directory, record, output_shown=self.output_shown), update=self.page.live
        )

    def _now(self) -> Card:
        card = cards.card_of(self.directory, output_shown=self.output_shown)
        changes = {} if card.ended else dict(self._changes)
        if self._metrics and not card.ended:
            from aml_jupyter.metrics import merge_metrics

            changes["metrics"] = merge_metrics(
                self._metrics, lambda sha256: runs.payload(self.directory, sha256, PAYLOAD)
            )
        if not card.ended:
            changes["warnings"] = (*card.warnings, *self._warnings)
        if self.output_shown:
            # it changes with every line, which is shown below
            changes["tail"] = ""
        return card.replace(**changes)

    def _send(self, card: Card, *, update: bool) -> None:
        bundle = cards.bundle(card)
        if not update or bundle != self._sent:
            self.page.publish(bundle, display_id=self.display_id, update=update)
        self._sent, self._at, self._changed = bundle, time.monotonic(), False


class _Tokens:
    """How many messages may go now."""

    def __init__(self) -> None:
        self.left = float(BURST)
        self.at = time.monotonic()
        self.total = 0

    def take(self) -> bool:
        now = time.monotonic()
        self.left = min(float(BURST), self.left + (now - self.at) * RATE)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        self.total += 1
        return True


class _Flow:
    """Text and displays on their way to the page, in order."""

    def __init__(self, page: Surface, directory: RunDirectory, card: CardShown) -> None:
        self.page = page
        self.directory = directory
        self.card = card
        self.tokens = _Tokens()
        self.prefix = f"{directory.run_id}-{os.urandom(3).hex()}-"
        self.waiting: deque[tuple[str, Any, Any]] = deque()
        self.updates: dict[str, dict[str, Any]] = {}
        self.updated_at = 0.0
        self.printed = 0
        self.display_bytes = 0
        self.dropped = 0
        self.held = ""
        self.clearing = False
        self.tail: _Tail | None = None

    # ---- what happens

    def text(self, stream: str, text: str) -> None:
        if self.tail is not None:
            self.tail.add(text)
            return
        if self.waiting and self.waiting[-1][0] == "text" and self.waiting[-1][1] == stream:
            text = self.waiting.pop()[2] + text
        self.waiting.append(("text", stream, text))
        if len(text) + self.printed > TEXT_BUDGET or len(self.waiting) > BURST:
            self._begin_tail()

    def event(self, event: dict[str, Any]) -> None:
        if event["type"] == "clear_output":
            self.waiting.clear()
            self.updates.clear()
            self.waiting.append(("clear", None, None))
            self.printed, self.tail = 0, None
            return
        name = event.get("display_id")
        if name is not None and event.get("update"):
            self.updates[str(name)] = event
        elif len(self.waiting) > BURST:
            self.dropped += 1
        else:
            self.waiting.append(("display", name, event))

    def skip(self, follower: Follower) -> None:
        """Leave out what no one would see: of a long log only the end is read."""
        if self.tail is None:
            return
        try:
            size = os.stat(self.directory.log).st_size
        except FileNotFoundError:
            return
        if size - follower.position > 4 * TAIL:
            self.tail.left_out(size - 2 * TAIL - follower.position)
            follower.position = size - 2 * TAIL

    # ---- what is due

    def settle(self) -> None:
        """Send what may be sent now."""
        while self.waiting and self.tokens.take():
            self._send(*self.waiting.popleft())
        if self.updates and time.monotonic() - self.updated_at >= UPDATE_EVERY and not self.waiting:
            self._send_updates()
        if self.tail is not None:
            self.tail.refresh()

    def finish(self) -> None:
        """Send everything that is left."""
        while self.waiting:
            self.settle()
            if self.waiting:
                time.sleep(0.02)
        if self.held:
            self.page.write("stdout", safe_text(self.held))
            self.held = ""
        self._send_updates()
        if self.tail is not None:
            self.tail.refresh(last=True)
        if self.clearing:
            self._cleared()
        if self.dropped:
            self.page.write(
                "stderr", f"{self.dropped} displays are not shown here; all are in the run's events\n"
            )

    def _begin_tail(self) -> None:
        """From here on only the end of the text is shown; what has to come before it goes out."""
        rest = []
        for kind, stream, text in self.waiting:
            room = TEXT_BUDGET - self.printed
            if kind == "text" and room < len(text):
                rest.append(text[max(0, room) :])
                text = text[: max(0, room)]  # noqa: PLW2901
            if kind != "text" or text:
                self._send(kind, stream, text)
        self.waiting.clear()
        self.tail = _Tail(self.page, self.directory, self.prefix + "tail")
        for text in rest:
            self.tail.add(text)

    def _send(self, kind: str, stream: Any, what: Any) -> None:
        if kind == "clear":
            self.page.clear(wait=True)
            self.clearing = True
            return
        if self.clearing:
            self._cleared()
        if kind == "text":
            self.printed += len(what)
            text = self._whole(fold_returns(what))
            if text:
                self.page.write(stream, safe_text(text))
        else:
            self._display(stream, what)

    def _cleared(self) -> None:
        # the card was taken away with the rest
        self.clearing = False
        self.card.show()

    def _whole(self, text: str) -> str:
        """The text without an escape sequence that has only begun; that waits for its rest."""
        text = self.held + text
        self.held = ""
        at = text.rfind("\x1b", max(0, len(text) - 64))
        if at >= 0 and not any(char.isalpha() or char == "\x07" for char in text[at + 1 :]):
            text, self.held = text[:at], text[at:]
        return text

    def _display(self, name: str | None, event: dict[str, Any]) -> None:
        data, metadata = shown_data(self.directory, event)
        self.display_bytes += sum(len(one) for one in data.values() if isinstance(one, str))
        if self.tokens.total > MESSAGES or self.display_bytes > DISPLAY_BYTES:
            self.dropped += 1
        elif data:
            shown = self.prefix + str(name) if name is not None else None
            self.page.publish(data, metadata, display_id=shown)

    def _send_updates(self) -> None:
        for name, event in self.updates.items() if self.page.live else ():
            data, metadata = shown_data(self.directory, event)
            if data:
                self.page.publish(data, metadata, display_id=self.prefix + name, update=True)
        self.updates.clear()
        self.updated_at = time.monotonic()


class _Tail:
    """The end of a text that is too long to be shown, replaced in place."""

    def __init__(self, page: Surface, directory: RunDirectory, display_id: str) -> None:
        self.page = page
        self.run_id = directory.run_id
        self.display_id = display_id
        self.end = ""
        self.hidden = 0
        self.at = 0.0
        self.shown = False
        self.changed = True

    def add(self, text: str) -> None:
        self.end += text[-2 * TAIL :]
        self.hidden += len(text)
        if len(self.end) > 4 * TAIL:
            self.end = self.end[-TAIL:]
        self.changed = True

    def left_out(self, count: int) -> None:
        """Text that was not even read."""
        self.hidden += count
        self.end = ""

    def refresh(self, *, last: bool = False) -> None:
        if not self.changed or (time.monotonic() - self.at < TAIL_EVERY and not last):
            return
        if not self.page.live and not last:
            return
        self.page.publish(self._bundle(), display_id=self.display_id, update=self.shown)
        self.shown, self.changed, self.at = self.page.live, False, time.monotonic()

    def _bundle(self) -> dict[str, str]:
        text = cards.last_lines(self.end[-TAIL:], lines=40, cut=len(self.end) < self.hidden)
        head = f"The output is long: {shown_size(self.hidden)} more, of which this is the end."
        command = f"%aml logs {self.run_id} --tail 1000"
        page = (
            f'<div style="margin:6px 0 2px;font-size:13px;opacity:.72">{escape(head)}'
            f' <code>{escape(command)}</code></div><pre style="margin:0;padding:6px 10px;'
            "background:rgba(128,128,128,.10);color:inherit;"
            f'border-radius:4px;white-space:pre-wrap">{escape(text)}</pre>'
        )
        return {"text/html": page, "text/plain": f"{head} {command}\n{text}"}


def shown_data(directory: RunDirectory, event: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """MIME bundle and metadata of a display, with the contents of what lies in files of the job."""
    from aml_jupyter.values import restored

    try:
        full = restored(event, lambda sha256: runs.payload(directory, sha256, PAYLOAD))
    except (OSError, ValueError):  # its metadata is gone: shown without
        full = restored({"data": event.get("data")}, lambda sha256: runs.payload(directory, sha256, PAYLOAD))
    data, metadata = full.get("data"), full.get("metadata")
    return (data if isinstance(data, dict) else {}), (metadata if isinstance(metadata, dict) else {})


def error_lines(event: dict[str, Any]) -> list[str]:
    """The traceback of an error event, fit to be shown: its colours stay, nothing else of a terminal does."""
    lines = event.get("traceback")
    found = [safe_text(str(line)) for line in lines] if isinstance(lines, list) else []
    if not found:
        found = [shortened(page_text(f"{event.get('ename')}: {event.get('evalue')}"), 4000)]
    return found[-400:]
