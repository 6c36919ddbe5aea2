"""A line to a port of this machine that a test can slow down, cut or silence: a TCP proxy in threads."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import Self

PIECE = 16384


class Line:
    """Passes connections to `127.0.0.1:target` on, at `port`.

    `rate` is bytes a second in each direction, `delay` seconds that each piece waits; both may be set at any
    time.  `up` and `down` count the bytes that came through towards the target and back.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.rate = 0.0
        self.delay = 0.0
        self.up = self.down = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._guard = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._frozen: set[socket.socket] = set()
        self._limits: dict[str, tuple[int, str]] = {}
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def cut(self) -> None:
        """Reset every connection that there is."""
        with self._guard:
            pairs, self._pairs = self._pairs, []
        for one in (end for pair in pairs for end in pair):
            # no waiting, no polite end
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with _ignored():
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def freeze(self) -> None:
        """Let nothing through any more on the connections that there are; new ones pass."""
        with self._guard:
            self._frozen |= {end for pair in self._pairs for end in pair}

    def cut_after(self, size: int, *, way: str = "up", how: str = "cut") -> None:
        """Cut, or freeze, when that many more bytes have come through one way."""
        with self._guard:
            self._limits[way] = (getattr(self, way) + size, how)

    @property
    def armed(self) -> bool:
        """Whether a cut is still to come."""
        return bool(self._limits)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                here = self._listener.accept()[0]
            except OSError:
                return
            try:
                there = socket.create_connection(("127.0.0.1", self.target), 10)
            except OSError:
                here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                here.close()
                continue
            there.settimeout(None)
            with self._guard:
                self._pairs.append((here, there))
            if self._closing.is_set():  # it came between the last cut and this
                self.cut()
                return
            self._spawn(self._pass, here, there, "up")
            self._spawn(self._pass, there, here, "down")

    def _spawn(self, what: object, *given: object) -> None:
        thread = threading.Thread(target=what, args=given, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _pass(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        try:
            while data := source.recv(PIECE):
                while source in self._frozen and not self._closing.is_set():
                    time.sleep(0.01)
                if self.delay or self.rate:
                    time.sleep(self.delay + (len(data) / self.rate if self.rate else 0))
                sink.sendall(data)
                self._count(way, len(data))
        except OSError:
            pass
        with _ignored():
            sink.shutdown(socket.SHUT_WR)

    def _count(self, way: str, size: int) -> None:
        with self._guard:
            setattr(self, way, getattr(self, way) + size)
            limit, how = self._limits.get(way, (1 << 62, ""))
            reached = getattr(self, way) >= limit
            if reached:
                del self._limits[way]
        if reached:
            (self.cut if how == "cut" else self.freeze)()


class _ignored:  # noqa: N801 - used as a statement
    """An end that has closed already."""

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        return isinstance(error, OSError)
