"""One command at the far side and its answer, whatever the login shell there says before and after.

The login shell is handed one short constant line that every shell reads alike.  The script itself and its
input follow on standard input, so that neither quoting, nor the length of a command line, nor a list of
processes is ever concerned.  The script's output stands between two lines that hold a word nobody else
knows, and the second one carries its exit code.
"""

from __future__ import annotations

import os
import time

from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import IO

    Sink = Callable[[bytes], object]

# no new line, backslash before a quote, or exclamation mark: csh and fish read those otherwise.
# `read` takes byte by byte, so what follows the two lines is left for the script
LAUNCH = (
    "sh -c '"
    "IFS= read -r n && IFS= read -r s || exit 255; LC_ALL=C; export LC_ALL; "
    'printf "\\n%s\\n" "$n"; printf "\\n%s\\n" "$n" >&2; '
    '(eval "$(printf %b "$s")"); s=$?; '
    'printf "\\n%s %s\\n" "$n" "$s"; printf "\\n%s\\n" "$n" >&2\''
)
PIECE = 64 * 1024
# bytes of greetings and complaints that are looked at
_NOISE = 64 * 1024
_ERRORS = 1024 * 1024
# seconds for a session to close after the answer is complete
_FAREWELL = 0.2


class Answer(Value):
    """What a command left: its exit code, its output and what it said on stderr (the first MiB)."""

    code: int
    out: bytes = b""
    err: bytes = b""

    @property
    def complaint(self) -> str:
        """The last line that it said on stderr, else how it ended."""
        lines = self.err.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else f"exit code {self.code}"


class Ended(Value):
    """How one session ended: an answer, or how far it came and what ssh said."""

    answer: Answer | None
    started: bool
    timed_out: bool
    status: int | None
    said: str


class TooMuchOutput(Exception):
    """The far side sends more than was asked for."""


def head(nonce: str, command: str) -> bytes:
    """The two lines that come before a command's own input."""
    script = os.fsencode(command)
    if b"\0" in script:
        raise ValueError("a command cannot hold NUL")
    return nonce.encode() + b"\n" + b"".join(map(_escaped, script)) + b"\n"


def _escaped(byte: int) -> bytes:
    return b"%c" % byte if 32 <= byte < 127 and byte != 92 else b"\\0%03o" % byte


class Framed:
    """Takes a stream apart: noise, the line with the word, the body, the line with the word again."""

    def __init__(self, nonce: str, sink: Sink) -> None:
        self.noise = b""
        self.started = False
        self.tail: bytes | None = None
        self._begin = f"\n{nonce}\n".encode()
        self._end = f"\n{nonce}".encode()
        self._sink = sink
        self._held = b""

    @property
    def done(self) -> bool:
        """Whether the line that ends the body is complete."""
        return self.tail is not None and b"\n" in self.tail

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self.tail is not None:
            self.tail = (self.tail + data)[:64]
            return
        self._held += data
        if not self.started and not self._begins():
            return
        body, found, rest = self._held.partition(self._end)
        if found:
            self.tail, self._held = rest[:64], b""
        else:
            # the beginning of the last line may be here, its end not yet
            keep = len(self._end) - 1
            body, self._held = self._held[:-keep], self._held[-keep:]
        if body:
            self._sink(body)

    def finish(self) -> None:
        """No more will come: what was held back is body or noise."""
        if self.started and self.tail is None:
            self._sink(self._held)
        elif not self.started:
            self.noise = (self.noise + self._held)[-_NOISE:]
        self._held = b""

    def _begins(self) -> bool:
        noise, found, rest = self._held.partition(self._begin)
        if found:
            self.started, self._held = True, rest
        else:
            keep = len(self._begin) - 1
            noise, self._held = self._held[:-keep], self._held[-keep:]
        self.noise = (self.noise + noise)[-_NOISE:]
        return self.started


class Collector:
    """A sink that keeps what it gets, up to a limit: over it, it forgets the rest or raises TooMuchOutput."""

    def __init__(self, limit: int, *, strict: bool) -> None:
        self._limit = limit
        self._strict = strict
        self._parts: list[bytes] = []
        self._size = 0

    def __call__(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._size + len(data) > self._limit:
            if self._strict:
                raise TooMuchOutput
            data = data[: self._limit - self._size]
        self._parts.append(data)
        self._size += len(data)

    def bytes(self) -> bytes:
        """All that was kept."""
        return b"".join(self._parts)


class Session:
    """One session of ssh: feeds it, reads it, and ends it."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], nonce: str, sink: Sink) -> None:
        import subprocess

        self._errors = Collector(_ERRORS, strict=False)
        self._output = Framed(nonce, sink)
        self._complaints = Framed(nonce, self._errors)
        # a session of its own: an interrupt meant for us is not one for the job
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )

    def converse(
        self, first: bytes, source: Iterable[bytes], *, timeout: float | None, stall: float | None
    ) -> Ended:
        """Send `first`, and what `source` gives once the far side has begun; read until the answer is there.

        Ends also when ssh does or when time is up: `timeout` is seconds for the whole, `stall` seconds
        without a byte in either direction.
        """
        timed_out = False
        try:
            timed_out = not self._pump(first, iter(source), _Clock(timeout, stall))
        finally:
            self._end()
        self._output.finish()
        self._complaints.finish()
        return Ended(
            answer=None if timed_out else self._answer(),
            started=self._output.started,
            timed_out=timed_out,
            status=self._process.returncode,
            said=(self._output.noise + self._complaints.noise + self._errors.bytes()).decode(
                "utf-8", "replace"
            ),
        )

    def _answer(self) -> Answer | None:
        code = (self._output.tail or b"").partition(b"\n")[0].strip()
        if not self._output.done or not code.isdigit():
            return None
        return Answer(code=int(code), err=self._errors.bytes())

    def _pump(self, first: bytes, source: Iterator[bytes], clock: _Clock) -> bool:
        """Move bytes both ways; False when time was up."""
        import select

        streams = self._streams()
        poll = select.poll()
        for fd in streams:
            os.set_blocking(fd, False)
            poll.register(fd, select.POLLIN)
        writer = _Writer(self._process.stdin, first, source)
        poll.register(writer.fd, select.POLLOUT)
        while streams:
            ready = poll.poll(clock.pause() * 1000)
            for fd, _ in ready:
                if fd == writer.fd:
                    # a session that is refused has taken nothing from the source, and can be tried again
                    if not writer.write(more=self._output.started):
                        poll.unregister(fd)
                elif not _read(fd, streams[fd]):
                    poll.unregister(fd)
                    del streams[fd]
            if self._output.started and writer.waits:
                writer.waits = False
                poll.register(writer.fd, select.POLLOUT)
            clock.tick(moved=bool(ready), complete=self._output.done and self._complaints.done)
            if clock.is_up():
                return clock.complete
        return True

    def _streams(self) -> dict[int, Callable[[bytes], None]]:
        out, err = self._process.stdout, self._process.stderr
        assert out is not None
        assert err is not None
        return {out.fileno(): self._output.feed, err.fileno(): self._complaints.feed}

    def _end(self) -> None:
        import subprocess

        process = self._process
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        try:
            process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Clock:
    """When to give up: limits for the whole and for silence, and a short one once the answer is complete."""

    def __init__(self, timeout: float | None, stall: float | None) -> None:
        self.complete = False
        self._now = time.monotonic()
        self._stall = stall
        self._whole = self._now + timeout if timeout is not None else None
        self._silence = self._now + stall if stall is not None else None

    def tick(self, *, moved: bool, complete: bool) -> None:
        """Take note of what has happened since."""
        self._now = time.monotonic()
        if moved and self._stall is not None:
            self._silence = self._now + self._stall
        if complete and not self.complete:
            self.complete = True
            self._whole = self._now + _FAREWELL

    def pause(self) -> float:
        """Seconds until time is up."""
        due = [moment for moment in (self._whole, self._silence) if moment is not None]
        return max(0.001, min(due, default=self._now + 3600) - time.monotonic())

    def is_up(self) -> bool:
        """Whether a limit has passed."""
        return any(moment is not None and self._now >= moment for moment in (self._whole, self._silence))


def _read(fd: int, feed: Callable[[bytes], None]) -> bool:
    try:
        data = os.read(fd, PIECE)
    except BlockingIOError:
        return True
    feed(data)
    return bool(data)


class _Writer:
    """Gives a pipe what a source has, as fast as it takes it, and closes it behind."""

    def __init__(self, pipe: IO[bytes] | None, first: bytes, source: Iterator[bytes]) -> None:
        assert pipe is not None
        self._pipe = pipe
        self._source = source
        self._rest = memoryview(first)
        self.fd = pipe.fileno()
        self.waits = False
        os.set_blocking(self.fd, False)

    def write(self, *, more: bool) -> bool:
        """Write once, from the source only with `more`; False when there is nothing to write now."""
        while not self._rest:
            if not more:
                self.waits = True
                return False
            piece = next(self._source, None)
            if piece is None:
                return self._close()
            self._rest = memoryview(piece)
        try:
            self._rest = self._rest[os.write(self.fd, self._rest[:PIECE]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:  # the command has read what it wanted; its answer says the rest
            return self._close()
        return True

    def _close(self) -> bool:
        self._pipe.close()
        self.fd = -1
        return False
