"""MLflow's REST interface to this very run, on the loopback of wherever it runs: HTTP, and nothing else.

An unmodified client logs to it: what its calls mean is in tracking_calls.py, where files go in
tracking_files.py.  Loaded in a thread of its own when the first client connects.
"""

import hmac
import json
import socket
import socketserver
import sys
from base64 import b64encode
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

import tracking_calls
import tracking_files
from tracking_errors import Refused, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from inbox import Inbox
    from launch import Started

LARGEST_CALL = 32 << 20  # bytes of one call's JSON; clients send a thousand metrics at once
LARGEST_LINE = 1 << 16
IDLE = 3600.0  # seconds that a connection may say nothing: training goes on between two values
MANY = 32  # connections; one more is closed behind its answer
MOST = 256  # connections; one more is closed at once
BLOCK = 1 << 20
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


def serve(started: "Started", inbox: "Inbox") -> None:
    """Answer clients until the process ends."""
    assert started.tracking is not None
    server = Server(started, inbox)
    server.serve_forever()


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves a socket that listens already; each connection has a thread."""

    daemon_threads = True

    def __init__(self, started: "Started", inbox: "Inbox") -> None:
        assert started.tracking is not None
        listener = socket.socket(fileno=started.tracking.detach())
        socketserver.TCPServer.__init__(self, listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.open = 0
        self.accepted = _accepted(started.variables)
        folder = started.request["cwd"].encode("utf-8", "surrogateescape") + b"/outputs"
        self.files = tracking_files.Files(folder, inbox.partial)
        self.calls = tracking_calls.Calls(started, inbox.put, self.files)

    def verify_request(self, request: "Any", client_address: "Any") -> bool:  # noqa: ARG002 - as it is called
        """Whether one more connection is served."""
        return self.open < MOST

    def handle_error(self, request: "Any", client_address: "Any") -> None:
        """A connection broke: its client knows."""


def _accepted(variables: "dict[bytes, bytes]") -> "list[bytes]":
    """Values of the header Authorization that the variables of the run lead to."""
    accepted = [b"Bearer " + variables[b"MLFLOW_TRACKING_TOKEN"]]
    user = variables.get(b"MLFLOW_TRACKING_USERNAME")
    password = variables.get(b"MLFLOW_TRACKING_PASSWORD")
    if user and password:  # clients prefer them to the token
        accepted.append(b"Basic " + b64encode(user + b":" + password))
    return accepted


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server
    timeout = IDLE
    wbufsize = -1
    disable_nagle_algorithm = True
    body_left = 0  # bytes of the body that nobody has read

    def setup(self) -> None:
        """Count the connection."""
        self.server.open += 1
        super().setup()

    def finish(self) -> None:
        """Count it no longer."""
        self.server.open -= 1
        super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that is overridden
        """Say nothing: there is no one to read it."""

    def do_GET(self) -> None:
        """Answer a call of any method."""
        if self.server.open > MANY:
            self.close_connection = True
        try:
            self._answer()
        except Refused as refused:
            self._send_json(refused.status, {"error_code": refused.code, "message": refused.message})
        except (BrokenPipeError, ConnectionResetError, socket.timeout):
            self.close_connection = True
        except Exception as error:  # noqa: BLE001 - whatever a client sent, the others are served on
            self._send_json(400, {"error_code": "INTERNAL_ERROR", "message": _defect(error)})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _answer(self) -> None:
        self.body = self._body()
        address = urlsplit(self.path)
        if address.path == "/health":
            self._send(200, b"OK", "text/plain")
            return
        self._authorize()
        if address.path == "/version":
            self._send(200, tracking_calls.VERSION.encode(), "text/plain")
        elif address.path == ARTIFACTS or address.path.startswith(ARTIFACTS + "/"):
            self._answer_artifacts(address.path[len(ARTIFACTS) + 1 :], dict(parse_qsl(address.query)))
        else:
            arguments = self._arguments(address.query)
            self._send_json(200, self.server.calls.call(self.command, address.path, arguments))

    def _authorize(self) -> None:
        given = self.headers.get("Authorization", "").encode("latin-1", "replace")
        if not any(hmac.compare_digest(given, one) for one in self.server.accepted):
            raise Refused(
                401,
                "UNAUTHENTICATED",
                "this run wants the token in MLFLOW_TRACKING_TOKEN, which only its own processes have",
            )

    # ---- what comes ----------------------------------------------------------------------------------------

    def _body(self) -> "Iterator[bytes]":
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            self.body_left = -1
            return self._chunks()
        text = self.headers.get("Content-Length") or "0"
        if not (text.isascii() and text.isdigit()):
            self.close_connection = True
            raise invalid("Content-Length is no number")
        self.body_left = int(text)
        return self._blocks()

    def _blocks(self) -> "Iterator[bytes]":
        while self.body_left:
            block = self.rfile.read(min(BLOCK, self.body_left))
            if not block:
                raise ConnectionResetError("the body ended early")
            self.body_left -= len(block)
            yield block

    def _chunks(self) -> "Iterator[bytes]":
        while True:
            line = self.rfile.readline(LARGEST_LINE)
            try:
                left = int(line.split(b";")[0], 16)
            except ValueError:
                left = -1
            if left < 0 or not line.endswith(b"\n"):
                raise ConnectionResetError("the body is not in chunks")
            if left == 0:
                break
            while left:
                block = self.rfile.read(min(BLOCK, left))
                if not block:
                    raise ConnectionResetError("the body ended early")
                left -= len(block)
                yield block
            self.rfile.readline(3)
        while self.rfile.readline(LARGEST_LINE) not in (b"\r\n", b"\n", b""):
            pass
        self.body_left = 0

    def _arguments(self, query: str) -> "dict[str, Any]":
        parts, size = [], 0
        for block in self.body:
            size += len(block)
            if size > LARGEST_CALL:
                raise Refused(413, "INVALID_PARAMETER_VALUE", "a call holds at most %d bytes" % LARGEST_CALL)
            parts.append(block)
        arguments: "dict[str, Any]" = dict(parse_qsl(query))
        if parts:
            try:
                given = json.loads(b"".join(parts).decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise invalid("the body is not JSON: %s" % str(error)[:200]) from None
            if not isinstance(given, dict):
                raise invalid("the body is not a JSON object")
            arguments.update(given)
        return arguments

    # ---- artifacts -----------------------------------------------------------------------------------------

    def _answer_artifacts(self, path: str, query: "dict[str, str]") -> None:
        files = self.server.files
        if self.command == "GET" and not path:
            where = query.get("path", "").encode("utf-8", "surrogateescape")
            self._send_json(200, {"files": files.listing(tracking_files.split(where))})
            return
        parts = tracking_files.split(unquote_to_bytes(path))
        if self.command == "PUT":
            files.put(parts, self.body)
            self._send_json(200, {})
        elif self.command == "GET":
            with files.open(parts) as (file, size):
                self._send_head(200, "application/octet-stream", size)
                left = size
                while left > 0:
                    block = file.read(min(BLOCK, left))
                    left -= len(block)
                    if not block:  # cut meanwhile: the client sees that bytes are missing
                        self.close_connection = True
                        break
                    self.wfile.write(block)
                self.wfile.flush()
        elif self.command == "DELETE":
            files.remove(parts)
            self._send_json(200, {})
        else:
            raise Refused(405, "INVALID_PARAMETER_VALUE", "artifacts are got, put and deleted")

    # ---- what goes -----------------------------------------------------------------------------------------

    def _send_json(self, status: int, answer: "dict[str, Any]") -> None:
        self._send(status, json.dumps(answer, allow_nan=False).encode("ascii"), "application/json")

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self._send_head(status, kind, len(data))
        self.wfile.write(data)
        self.wfile.flush()

    def _send_head(self, status: int, kind: str, size: int) -> None:
        if self.body_left:  # unread, and it may be long: the next call would begin in the middle of it
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _defect(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "%s:%d" % (trace.tb_frame.f_code.co_name, trace.tb_lineno) if trace else "?"
    return "the run cannot answer this call: %s: %s (%s, Python %s)" % (
        type(error).__name__,
        error,
        where,
        sys.version.split()[0],
    )
