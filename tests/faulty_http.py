"""A proxy in front of an HTTP server of this machine that spoils what a test tells it to spoil.

    with FaultyHTTP(azurite.port) as proxy:
        proxy.spoil("reset", r"PUT .*comp=block&", times=2)

What a fault does:
    status    answers with `status`, `code` and what the store has `said`; the server never hears of it
    lost      cuts the connection before the server hears of it
    unheard   cuts the connection after the server has done it
    truncate  sends half of the answer's body, then cuts
    flip      flips a bit of the answer's body, `flip_up` one of the request's
    slow      sends the answer's body in pieces, over `seconds`
    silence   answers nothing until `seconds` are over, then cuts
    delay     answers `seconds` later
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class Fault:
    """What is spoilt: requests whose `METHOD path?query` has the pattern, `times` of them or all."""

    def __init__(  # one line of a test each
        self,
        kind: str,
        pattern: str,
        times: int | None,
        *,
        status: int,
        code: str,
        said: str,
        headers: dict[str, str],
        seconds: float,
        after: int,
    ) -> None:
        self.kind = kind
        self.pattern = re.compile(pattern)
        self.left = times
        self.status = status
        self.code = code
        self.said = said
        self.headers = headers
        self.seconds = seconds
        self.after = after
        # how often it happened
        self.count = 0


class Request:
    """A request that came, and the status that was answered; 0 where none was."""

    def __init__(self, line: str, size: int) -> None:
        self.line = line
        self.size = size
        self.status = 0

    def __repr__(self) -> str:
        return f"{self.line} {self.size} {self.status}"


class FaultyHTTP:
    """Passes requests to `127.0.0.1:target` on, at `port`, and remembers them in `requests`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        # called with each request, before it is passed on
        self.on_request: Callable[[str], object] | None = None
        self.closing = threading.Event()
        self._guard = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.cut_all()
        self._server.server_close()
        self._thread.join()

    def endpoint(self, account: str) -> str:
        """Where the account is for whoever goes through the proxy."""
        return f"http://127.0.0.1:{self.port}/{account}"

    def spoil(
        self,
        kind: str,
        pattern: str = "",
        times: int | None = None,
        *,
        status: int = 503,
        code: str = "ServerBusy",
        said: str = "No.",
        headers: dict[str, str] | None = None,
        seconds: float = 0.0,
        after: int = 0,
    ) -> Fault:
        """Spoil requests from now on; the first `after` that match pass."""
        fault = Fault(
            kind,
            pattern,
            times,
            status=status,
            code=code,
            said=said,
            headers=headers or {},
            seconds=seconds,
            after=after,
        )
        with self._guard:
            self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Spoil nothing more."""
        with self._guard:
            self.faults.clear()

    def seen(self, pattern: str) -> list[Request]:
        """The requests whose `METHOD path?query` has a pattern."""
        return [one for one in list(self.requests) if re.search(pattern, one.line)]

    def fault_of(self, line: str) -> Fault | None:
        """The fault that this request meets."""
        with self._guard:
            for fault in self.faults:
                if fault.left == 0 or not fault.pattern.search(line):
                    continue
                if fault.after:
                    fault.after -= 1
                    continue
                if fault.left is not None:
                    fault.left -= 1
                fault.count += 1
                return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        with self._guard:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def cut_all(self) -> None:
        with self._guard:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # it is closed already
                    pass

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FaultyHTTP
    upstream: http.client.HTTPConnection | None = None

    def do_GET(self) -> None:
        line = f"{self.command} {self.path}"
        body = self._body()
        seen = Request(line, len(body))
        self.owner.requests.append(seen)
        if self.owner.on_request is not None:
            self.owner.on_request(line)
        fault = self.owner.fault_of(line)
        kind = fault.kind if fault else ""
        if fault and kind == "status":
            seen.status = fault.status
            self._refuse(fault)
            return
        if fault and kind in ("silence", "delay"):
            self.owner.closing.wait(fault.seconds)
        if kind in ("lost", "silence"):
            self._cut()
            return
        if kind == "flip_up":
            body = _flipped(body)
        status, headers, answer = self._forward(body)
        seen.status = status
        if kind == "unheard":
            seen.status = 0
            self._cut()
            return
        self._answer(status, headers, _flipped(answer) if kind == "flip" else answer, fault)

    do_PUT = do_HEAD = do_DELETE = do_POST = do_GET  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        for last in (False, True):
            if self.upstream is None:
                self.upstream = http.client.HTTPConnection("127.0.0.1", self.owner.target, timeout=60)
            try:
                self.upstream.request(self.command, self.path, body or None, headers)
                answer = self.upstream.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            except (OSError, http.client.HTTPException):
                # the server closes connections that were idle
                self.upstream.close()
                self.upstream = None
                if last:
                    raise
        raise AssertionError

    def _refuse(self, fault: Fault) -> None:
        error = f"<Error><Code>{fault.code}</Code><Message>{fault.said}</Message></Error>"
        body = f'<?xml version="1.0"?>{error}'.encode()
        headers = [("Content-Type", "application/xml"), ("x-ms-error-code", fault.code)]
        headers += fault.headers.items()
        self._answer(fault.status, headers, body, None)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault | None) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in ("content-length", "transfer-encoding", "connection", "keep-alive"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and fault.kind == "truncate":
            self.wfile.write(body[: len(body) // 2])
            self._cut()
        elif fault and fault.kind == "slow":
            for at in range(0, len(body), max(1, len(body) // 10)):
                self.wfile.write(body[at : at + max(1, len(body) // 10)])
                self.owner.closing.wait(fault.seconds / 10)
        else:
            self.wfile.write(body)

    def _cut(self) -> None:
        """End the connection as a machine does that lost power: a reset, no goodbye."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
        try:
            super().finish()
        except OSError:  # it was cut
            pass

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


def _flipped(data: bytes) -> bytes:
    """The same with one bit of the middle the other way."""
    if not data:
        return data
    spoilt = bytearray(data)
    spoilt[len(spoilt) // 2] ^= 0x10
    return bytes(spoilt)


def wait_until(done: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition.  Raises TimeoutError."""
    due = time.monotonic() + seconds
    while not done():
        if time.monotonic() > due:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.01)
