"""Calls to an MLflow server, by the standard library: where, as whom, and what its refusals mean."""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request

from aml_jupyter.errors import UsageError
from aml_jupyter.interchange.words import ExportFailed
from aml_jupyter.printable import safe_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from http.client import HTTPMessage
    from typing import IO, Any

ATTEMPTS = 4
PAUSE = 0.5  # seconds before the second attempt, doubled before each later one
TIMEOUT = 120.0  # seconds without a word; longer than servers take for a large file
LARGEST_ANSWER = 64 << 20
BUSY = (429, 502, 503, 504)
VARIABLES = "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Stays where it was told to go: what is sent holds credentials."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """Follow nothing."""


class NotThere(ExportFailed):
    """The server knows no such thing."""


_ID = re.compile(r"[A-Za-z0-9][\w\-]{0,255}", re.ASCII)


def identifier(value: object) -> str:
    """An id as servers give it, fit to be shown and put into an address.  Raises ExportFailed."""
    text = str(value) if isinstance(value, (str, int)) else ""
    if not _ID.fullmatch(text):
        raise ExportFailed(
            "the server names a run or an experiment in a way that no server does", code="export.server"
        )
    return text


def part(answer: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object inside an answer.  Raises ExportFailed."""
    found = answer.get(name)
    if not isinstance(found, dict):
        raise ExportFailed(f"the server's answer lacks {name!r}", code="export.server")
    return found


class Server:
    """One MLflow server; credentials come from `environ` and are never shown."""

    def __init__(self, url: str, environ: Mapping[str, str] = os.environ) -> None:
        self.url = _checked(url)
        self._authorization = _authorization(environ)
        handlers: list[Any] = [_NoRedirect()]
        if self.url.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=_trust(environ)))
        if urllib.parse.urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1"):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """The answer to a question.  Raises ExportFailed, NotThere."""
        words = urllib.parse.urlencode({name: str(value) for name, value in query.items()})
        return self._json("GET", f"/api/2.0/mlflow/{path}?{words}", None)

    def post(self, path: str, body: Mapping[str, Any], *, again: bool = True) -> dict[str, Any]:
        """The answer to an order, which is repeated when the server was busy unless `again` is false."""
        return self._json("POST", f"/api/2.0/mlflow/{path}", json.dumps(body).encode("ascii"), again=again)

    def put(self, path: str, blocks: Callable[[], Iterator[bytes]], size: int) -> None:
        """Send a file in blocks; `blocks` begins it anew for another attempt.

        Raises ExportFailed, also when there are more bytes or fewer.
        """

        def measured() -> Iterator[bytes]:
            left = size
            for block in blocks():
                left -= len(block)
                if left < 0:
                    break
                yield block
            if left:
                raise ExportFailed(
                    "a file does not have the size that it is said to have", code="export.artifacts"
                )

        self._attempt(
            "PUT", path, measured, {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        )

    def _json(self, method: str, path: str, body: bytes | None, *, again: bool = True) -> dict[str, Any]:
        answer = self._attempt(method, path, body, {"Content-Type": "application/json"}, again=again)
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ExportFailed(
                f"{self.url} does not answer as an MLflow server does",
                code="export.server",
                hint="Name the address that MLFLOW_TRACKING_URI would have, without what stands behind #.",
            )
        return found

    def _attempt(
        self,
        method: str,
        path: str,
        body: bytes | Callable[[], Iterator[bytes]] | None,
        headers: dict[str, str],
        *,
        again: bool = True,
    ) -> bytes:
        attempt = 0
        while True:
            attempt += 1
            data = body() if callable(body) else body
            request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)  # noqa: S310 - http or https: checked
            if self._authorization:
                request.add_header("Authorization", self._authorization)
            try:
                with self._opener.open(request, timeout=TIMEOUT) as answer:
                    return bytes(answer.read(LARGEST_ANSWER))
            except urllib.error.HTTPError as error:
                with error:
                    refusal = self._refusal(error)
                if error.code not in BUSY or not again or attempt == ATTEMPTS:
                    raise refusal from None
            except (OSError, urllib.error.URLError) as error:
                slow = isinstance(error, TimeoutError) or isinstance(
                    getattr(error, "reason", 0), TimeoutError
                )
                if slow or not again or attempt == ATTEMPTS:
                    raise self._unreachable(error) from None
            time.sleep(PAUSE * 2 ** (attempt - 1))

    def _refusal(self, error: urllib.error.HTTPError) -> ExportFailed:
        code, words = "", ""
        try:
            said = json.loads(error.read(1 << 20))
            code, words = str(said.get("error_code", "")), str(said.get("message", ""))
        except (OSError, ValueError, RecursionError, AttributeError):  # a proxy's page, or nothing
            pass
        if error.code in (401, 403):
            return ExportFailed(
                f"{self.url} refuses the login (HTTP {error.code})",
                code="export.denied",
                hint=f"Set {VARIABLES}.",
            )
        if 300 <= error.code < 400:
            return ExportFailed(
                f"{self.url} sends to {safe_text(str(error.headers.get('Location')), colour=False)[:300]}",
                code="export.server",
                hint="Name that address if it is the right one.",
            )
        told = safe_text(" ".join(words.split()), colour=False)[:1000] or error.reason
        kind = NotThere if code == "RESOURCE_DOES_NOT_EXIST" else ExportFailed
        named = f", {code[:60]}" if code.isidentifier() else ""
        return kind(f"{self.url} answers: {told} (HTTP {error.code}{named})", code="export.refused")

    def _unreachable(self, error: OSError) -> ExportFailed:
        reason = getattr(error, "reason", error)
        return ExportFailed(
            f"{self.url} cannot be reached: {reason}",
            code="export.server",
            hint="Is the server running, and is this its address? What was sent already is not sent again.",
        )


def _checked(url: str) -> str:
    try:
        found = urllib.parse.urlsplit(url)
        _ = found.port
        host = found.hostname
    except ValueError:
        found, host = urllib.parse.urlsplit(""), None
    if found.username or found.password:
        raise UsageError(
            "the address of an MLflow server holds no user and no password",
            code="export.url",
            hint=f"They come from {VARIABLES}.",
        )
    if found.scheme not in ("http", "https") or not host or found.query or not url.isprintable():
        raise UsageError(
            f"{url[:200]!a} is not the address of an MLflow server",
            code="export.url",
            hint="Such as http://127.0.0.1:5000, or https://mlflow.example.org/team",
        )
    return urllib.parse.urlunsplit((found.scheme, found.netloc, found.path, "", "")).rstrip("/")


def _authorization(environ: Mapping[str, str]) -> str:
    user, password = environ.get("MLFLOW_TRACKING_USERNAME"), environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:  # as MLflow's own client chooses
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    token = environ.get("MLFLOW_TRACKING_TOKEN")
    return f"Bearer {token.strip()}" if token else ""


def _trust(environ: Mapping[str, str]) -> ssl.SSLContext:
    trust = ssl.create_default_context(cafile=environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None)
    if environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        trust.check_hostname = False
        trust.verify_mode = ssl.CERT_NONE
    return trust
