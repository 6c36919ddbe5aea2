"""The calls to a Docker engine that every run makes, over its socket.

Importing the engine's SDK takes half as long as starting a container, so what lies between a submit and the
first output speaks HTTP itself; everything that is done once for an image goes through the SDK (`images`).
"""

from __future__ import annotations

import _socket
import os
import time

from aml_jupyter import plainjson
from aml_jupyter.errors import AmlError, ConfigError, TargetUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

DEFAULT_SOCKET = "/var/run/docker.sock"
# seconds; a start waits for the network of the container
PATIENCE = 120.0
# seconds in which a container that runs reads what is sent to it
TAKEN = 2.0
LARGEST_ANSWER = 64 << 20
# bytes that are sent at once to a container
PIECE = 64 << 10
# bytes of standard error that are kept
LARGEST_COMPLAINT = 1 << 16
# bytes of an archive that are sent at once
GATHERED = 256 << 10
NO_SPACE = "store.no_space"
# words of systems whose disk or quota is full
_FULL = ("no space left on device", "disk quota exceeded")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/:@")


class Line(_socket.socket):
    """A connection; the module socket itself would import enum and selectors."""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class EngineRefused(AmlError):
    """The engine answered that it will not: `status` is that of HTTP."""

    code = "engine.refused"
    status = 0


class NoAnswer(TargetUnavailable):
    """The engine took a question and does not answer it in time."""

    code = "engine.unavailable"


class Engine:
    """One Docker engine, by the path of its socket on this machine; the constructor does no I/O.

    `where` names the machine of an engine whose socket is forwarded.
    """

    def __init__(self, path: str, where: str = "") -> None:
        self.path = path
        self.where = where or path

    def unavailable(self, why: str) -> TargetUnavailable:
        """The error for this engine when it does not answer."""
        return unavailable(self.where, why)

    def version(self) -> dict[str, Any]:
        """Version, API version, operating system.  Raises TargetUnavailable `engine.unavailable`."""
        return self._object("GET", "/version")

    def info(self) -> dict[str, Any]:
        """What the engine says of itself: root folder, security options, disk driver."""
        return self._object("GET", "/info")

    def image(self, name: str) -> dict[str, Any] | None:
        """What is known of an image that is there, or None."""
        return self._known("GET", f"/images/{quoted(name)}/json")

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Create a container and return its id; one of that name that is there already is the one meant.

        Raises EngineRefused.
        """
        try:
            return str(self._object("POST", f"/containers/create?name={quoted(name)}", body)["Id"])
        except EngineRefused as error:
            found = self.container(name) if error.status == 409 else None
            if found is None:
                raise
            return str(found["Id"])

    def start(self, container: str) -> None:
        """Start a container; one that has started stays as it is."""
        self._ask("POST", f"/containers/{quoted(container)}/start")

    def begin_start(self, container: str) -> Line:
        """Ask for the start of a container without waiting for it; whoever asks about it waits until then.

        The connection stays open as long as somebody holds it: an engine may give up what nobody waits for.
        """
        line = self._connected(PATIENCE)
        head = f"POST /containers/{quoted(container)}/start HTTP/1.1\r\nHost: docker\r\n"
        line.sendall(f"{head}Connection: close\r\nContent-Length: 0\r\n\r\n".encode())
        return line

    def container(self, name: str) -> dict[str, Any] | None:
        """What is known of a container by name or id, or None when there is none."""
        return self._known("GET", f"/containers/{quoted(name)}/json")

    def containers(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """All containers with these labels, running or not."""
        filters = plainjson.dumps({"label": [f"{name}={value}" for name, value in labels.items()]})
        found = self._ask("GET", f"/containers/json?all=1&filters={quoted(filters)}")
        return found if isinstance(found, list) else []

    def kill(self, container: str, signal: str) -> None:
        """Send a signal to the first process of a container; one that has ended has no use for it."""
        try:
            self._ask("POST", f"/containers/{quoted(container)}/kill?signal={signal}")
        except EngineRefused as error:
            if error.status not in (404, 409):
                raise

    def unpause(self, container: str) -> None:
        """Let a paused container go on: a signal reaches it only then."""
        try:
            self._ask("POST", f"/containers/{quoted(container)}/unpause")
        except EngineRefused:  # it is not paused, or not there
            return

    def wait(self, container: str, seconds: float) -> bool:
        """Whether a container ended within some seconds."""
        try:
            self._ask("POST", f"/containers/{quoted(container)}/wait", patience=max(seconds, 0.01))
        except NoAnswer:
            return False
        except EngineRefused as error:
            return error.status == 404
        return True

    def remove(self, container: str, patience: float = PATIENCE) -> None:
        """End and remove a container with its anonymous volumes; one that is gone is fine."""
        try:
            self._ask("DELETE", f"/containers/{quoted(container)}?force=1&v=1", patience=patience)
        except EngineRefused as error:
            if error.status not in (404, 409):  # 409: its removal is under way
                raise

    def events(self, since: float, until: float) -> list[dict[str, Any]]:
        """What the engine remembers of a stretch of time, in seconds; its memory ends with its process."""
        text = self._exchange("GET", f"/events?since={since:.3f}&until={until:.3f}", None, 10.0)[1]
        found = (plainjson.loads(line) for line in text.decode(errors="replace").splitlines() if line)
        return [event for event in found if isinstance(event, dict)]

    def rename(self, container: str, name: str) -> None:
        """Give a container another name.  Raises EngineRefused."""
        self._ask("POST", f"/containers/{quoted(container)}/rename?name={quoted(name)}")

    def send(self, container: str, data: bytes, taken: Callable[[], bool] = lambda: False) -> None:
        """Write to the standard input of a container that is running or about to, and close it.

        Returns as soon as `taken` says that it was read; the engine tells that only at the container's end.
        """
        with self._spoken_to(PATIENCE) as line:
            self._attach(line, container, "stream=1&stdin=1")
            line.sendall(data)
            line.shutdown(_socket.SHUT_WR)
            due, pause = time.monotonic() + TAKEN, 0.0005
            while not taken() and time.monotonic() < due:
                line.settimeout(pause)
                pause = min(0.05, pause * 1.5)
                try:
                    if not line.recv(4096):
                        return
                except TimeoutError:
                    continue

    def converse(self, container: str) -> Conversation:
        """Talk with the first process of a container that is about to start."""
        line = self._connected(PATIENCE)
        try:
            rest = self._attach(line, container, "stream=1&stdin=1&stdout=1&stderr=1")
        except OSError as error:
            line.close()
            raise self.unavailable(error.strerror or str(error)) from error
        except BaseException:
            line.close()
            raise
        return Conversation(line, rest, self.unavailable)

    def _attach(self, line: Line, container: str, query: str) -> bytes:
        """Make a connection one to a container's streams; what has come of them already."""
        head = f"POST /containers/{quoted(container)}/attach?{query} HTTP/1.1\r\nHost: docker\r\n"
        line.sendall(f"{head}Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode())
        first, _, rest = _read_head(line)
        status = _status(first)
        if status not in (101, 200):
            raise _refused(status, rest, "attach")
        return rest

    def put_archive(self, container: str, path: str, blocks: Iterator[bytes]) -> None:
        """Unpack an uncompressed tar in a container that has not started."""
        head = (
            f"PUT /containers/{quoted(container)}/archive?path={quoted(path)} HTTP/1.1\r\nHost: docker\r\n"
            "Connection: close\r\nContent-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        with self._spoken_to(PATIENCE) as line:
            line.sendall(head.encode())
            try:
                for block in _gathered(blocks):
                    line.sendall(b"%x\r\n" % len(block) + block + b"\r\n")
                line.sendall(b"0\r\n\r\n")
            except (BrokenPipeError, ConnectionResetError):
                pass  # it says why in its answer
            status, data = _read_answer(line)
        if status >= 400:
            raise _refused(status, data, "archive")

    def get_archive(self, container: str, path: str) -> Download:
        """A path of a container as the blocks of a tar; the engine keeps that one locked meanwhile."""
        line = self._connected(PATIENCE)
        try:
            head = f"GET /containers/{quoted(container)}/archive?path={quoted(path)} HTTP/1.1\r\n"
            line.sendall(f"{head}Host: docker\r\nConnection: close\r\n\r\n".encode())
            return Download(line, self.unavailable)
        except OSError as error:
            line.close()
            raise self.unavailable(error.strerror or str(error)) from error
        except BaseException:
            line.close()
            raise

    def _object(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        found = self._ask(method, path, body)
        if not isinstance(found, dict):
            raise EngineRefused(f"the Docker engine answers {path.partition('?')[0]} with no object")
        return found

    def _known(self, method: str, path: str) -> dict[str, Any] | None:
        try:
            return self._object(method, path)
        except EngineRefused as error:
            if error.status == 404:
                return None
            raise

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, patience: float = PATIENCE
    ) -> Any:
        status, data = self._exchange(method, path, body, patience)
        if status >= 400:
            raise _refused(status, data, path)
        try:
            return plainjson.loads(data) if data.strip() else None
        except ValueError as error:
            raise EngineRefused(f"the Docker engine answers {path.partition('?')[0]} with no JSON") from error

    def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, patience: float
    ) -> tuple[int, bytes]:
        data = b"" if body is None else plainjson.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        with self._spoken_to(patience) as line:
            line.sendall(head.encode() + data)
            return _read_answer(line)

    def _spoken_to(self, patience: float) -> _Question:
        return _Question(self, self._connected(patience))

    def _connected(self, patience: float) -> Line:
        line = Line(_socket.AF_UNIX, _socket.SOCK_STREAM)
        line.settimeout(patience)
        try:
            line.connect(self.path)
        except OSError as error:
            line.close()
            raise self.unavailable(error.strerror or str(error)) from error
        return line


class _Question:
    """A connection to an engine for one question: its failures are errors of ours."""

    def __init__(self, engine: Engine, line: Line) -> None:
        self._engine = engine
        self._line = line

    def __enter__(self) -> Line:
        return self._line

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._line.close()
        if isinstance(error, TimeoutError):
            raise NoAnswer(f"the Docker engine at {self._engine.where} gives no answer") from error
        if isinstance(error, OSError):
            raise self._engine.unavailable(error.strerror or str(error)) from error


class Conversation:
    """Standard input, output and error of a container, over one connection.

    Its methods raise TargetUnavailable when the connection ends where it should not.
    """

    def __init__(self, line: Line, rest: bytes, problem: Callable[[str], TargetUnavailable]) -> None:
        self._line = line
        self._rest = rest
        self._problem = problem
        self.errors = b""

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._line.close()

    def send(self, data: bytes) -> None:
        """Write to its standard input; a part that takes longer than a question may is not sent."""
        try:
            for at in range(0, len(data), PIECE):
                self._line.sendall(data[at : at + PIECE])
        except OSError as error:
            raise self._problem(error.strerror or str(error)) from error

    def says(self) -> bool:
        """Whether there is something to read now."""
        import select

        return bool(self._rest or select.select([self._line], [], [], 0)[0])

    def output(self) -> Iterator[bytes]:
        """Blocks of its standard output until it ends; what it says on standard error is kept in `errors`."""
        while head := self._head():
            left = int.from_bytes(head[4:8], "big")
            while left:
                data = self._some(left)
                left -= len(data)
                if head[0] == 1:
                    yield data
                elif head[0] == 2:
                    self.errors = (self.errors + data)[-LARGEST_COMPLAINT:]

    def _head(self) -> bytes:
        """The eight bytes before each block; none at the end."""
        while len(self._rest) < 8:
            part = self._received()
            if not part and self._rest:
                raise self._problem("it closed the connection")
            if not part:
                return b""
            self._rest += part
        head, self._rest = self._rest[:8], self._rest[8:]
        return head

    def _some(self, most: int) -> bytes:
        if not self._rest:
            self._rest = self._received()
            if not self._rest:
                raise self._problem("it closed the connection")
        found, self._rest = self._rest[:most], self._rest[most:]
        return found

    def _received(self) -> bytes:
        try:
            return self._line.recv(1 << 18)
        except OSError as error:
            raise self._problem(error.strerror or str(error)) from error


class Download:
    """The body of an answer, block by block; closing it early ends what the engine sends."""

    def __init__(self, line: Line, problem: Callable[[str], TargetUnavailable]) -> None:
        self._line = line
        self._problem = problem
        first, self._headers, self._rest = _read_head(line)
        status = _status(first)
        if status >= 400:
            length = min(_length(self._headers) or 0, LARGEST_COMPLAINT)
            while len(self._rest) < length and (part := line.recv(1 << 16)):
                self._rest += part
            raise _refused(status, self._rest, "archive")

    def __enter__(self) -> Iterator[bytes]:
        chunked = self._headers.get("transfer-encoding") == "chunked"
        return self._chunks() if chunked else self._plain()

    def __exit__(self, *_exc: object) -> None:
        self._line.close()

    def _plain(self) -> Iterator[bytes]:
        yield self._rest
        while part := self._received():
            yield part

    def _chunks(self) -> Iterator[bytes]:
        while size := _hexadecimal(self._until_line_end()):
            while size:
                if not self._rest:
                    self._more()
                part, self._rest = self._rest[:size], self._rest[size:]
                size -= len(part)
                yield part
            self._until_line_end()

    def _until_line_end(self) -> bytes:
        while b"\r\n" not in self._rest:
            if len(self._rest) > LARGEST_COMPLAINT:
                raise EngineRefused("the Docker engine's answer has a line that does not end")
            self._more()
        found, _, self._rest = self._rest.partition(b"\r\n")
        return found

    def _more(self) -> None:
        part = self._received()
        if not part:
            raise self._problem("it closed the connection")
        self._rest += part

    def _received(self) -> bytes:
        try:
            return self._line.recv(1 << 16)
        except OSError as error:
            raise self._problem(error.strerror or str(error)) from error


def _gathered(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer, larger blocks."""
    waiting: list[bytes] = []
    size = 0
    for block in blocks:
        waiting.append(block)
        size += len(block)
        if size >= GATHERED:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def unavailable(path: str, why: str) -> TargetUnavailable:
    """The error for an engine that does not answer."""
    if "ermission denied" in why:
        hint = "Your user may not use it: sudo usermod -aG docker $USER, and log in again."
    else:
        hint = "Start Docker (sudo systemctl start docker, or Docker Desktop), or set DOCKER_HOST."
    return TargetUnavailable(
        f"the Docker engine at {path} does not answer: {why}", code="engine.unavailable", hint=hint
    )


def local_socket() -> str:
    """The socket of this computer's engine: DOCKER_HOST, else docker's current context, else the usual path.

    Raises ConfigError for an engine that is not reached by a socket of this machine.
    """
    written = os.environ.get("DOCKER_HOST") or _context_host() or f"unix://{DEFAULT_SOCKET}"
    if not written.startswith("unix://"):
        raise ConfigError(
            f"DOCKER_HOST (or docker's current context) is {written.partition('@')[2] or written}:"
            " a docker target is an engine of this computer, by unix://",
            code="engine.unsupported",
            hint="For an engine on another machine use a target of type remotedocker with its address.",
        )
    return written.removeprefix("unix://")


def _context_host() -> str | None:
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    name = os.environ.get("DOCKER_CONTEXT") or _read_json(folder + "/config.json").get("currentContext")
    if not name or name == "default":
        return None
    import hashlib

    meta = _read_json(f"{folder}/contexts/meta/{hashlib.sha256(str(name).encode()).hexdigest()}/meta.json")
    endpoint = meta.get("Endpoints", {}).get("docker", {})
    return endpoint.get("Host") if isinstance(endpoint, dict) else None


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            found = plainjson.loads(file.read())
    except (OSError, ValueError):  # docker itself says what is wrong with its own file
        return {}
    return found if isinstance(found, dict) else {}


def quoted(text: str) -> str:
    """A name as part of a URL."""
    return "".join(
        one if one in _UNRESERVED else "".join(f"%{byte:02X}" for byte in os.fsencode(one)) for one in text
    )


def _refused(status: int, data: bytes, path: str) -> EngineRefused:
    try:
        message = str(plainjson.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        message = data.decode(errors="replace").strip() or f"status {status} of {path.partition('?')[0]}"
    return refusal(message, status)


def refusal(message: str, status: int) -> EngineRefused:
    """The error for what an engine said; a full disk of its own is told apart from all else."""
    if any(word in message.lower() for word in _FULL):
        error = EngineRefused(
            f"the disk of the Docker engine is full: {message}",
            code=NO_SPACE,
            hint="docker system df shows what fills it; aml targets sweep and docker system prune make room.",
        )
    else:
        error = EngineRefused(f"the Docker engine refuses: {message}")
    error.status = status
    return error


def _status(first: str) -> int:
    """The status in the first line of an answer."""
    words = first.split(None, 2)
    if len(words) < 2 or not words[1].isdecimal():
        raise EngineRefused("what answers at the socket of the Docker engine does not speak HTTP")
    return int(words[1])


def _length(headers: Mapping[str, str]) -> int | None:
    """What an answer says of its length, if it does."""
    written = headers.get("content-length", "")
    return int(written) if written.isdecimal() else None


def _hexadecimal(line: bytes) -> int:
    """The size in the line before a chunk."""
    written = line.partition(b";")[0].strip()
    if not written or len(written) > 8 or set(written) - set(b"0123456789abcdefABCDEF"):
        raise EngineRefused("the Docker engine's answer is not whole")
    return int(written, 16)


def _read_head(line: Line) -> tuple[str, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        part = line.recv(1 << 16)
        if len(data) > LARGEST_COMPLAINT:
            raise EngineRefused("the Docker engine's answer has no beginning")
        if not part:
            raise ConnectionResetError(104, "it closed the connection")
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for one in lines:
        name, _, value = one.partition(":")
        headers[name.strip().lower()] = value.strip()
    return first, headers, rest


def _read_answer(line: Line) -> tuple[int, bytes]:
    first, headers, data = _read_head(line)
    status = _status(first)
    if status in (204, 304):
        return status, b""
    parts, size = [data], len(data)
    length = _length(headers)
    while (length is None or size < length) and (part := line.recv(1 << 16)):
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER:
            raise EngineRefused("the Docker engine's answer does not end")
    whole = b"".join(parts)
    if length is not None and size < length:
        raise ConnectionResetError(104, "it closed the connection")
    return status, _unchunked(whole) if headers.get("transfer-encoding") == "chunked" else whole


def _unchunked(data: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:  # the engine was killed within its answer
            raise ConnectionResetError(104, "it closed the connection")
        size = _hexadecimal(data[at:end])
        if size == 0:
            return b"".join(parts)
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
