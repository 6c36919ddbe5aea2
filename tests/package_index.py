"""A package index on loopback that wants a password, with wheels made by hand, and locks of what is in it."""

from __future__ import annotations

import base64
import hashlib
import http.server
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aml_jupyter.environment.lock import Lock, Package
from aml_jupyter.environment.prefix import platform_here
from tests.wheel_index import wheel


class Index:
    """Wheels by file name; `requests` are the paths that were asked for, `login` is `user:password`.

    Downloads wait while `open` is not set.
    """

    def __init__(self, user: str, password: str) -> None:
        self.login = f"{user}:{password}"
        # no two indexes serve the same bytes: images are named by what is in them
        self.mark = secrets.token_hex(8)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.port = 0

    def address(self, *, login: bool = True) -> str:
        """The address of the server, with or without the password."""
        return f"http://{self.login + '@' if login else ''}127.0.0.1:{self.port}"

    @property
    def simple(self) -> str:
        """The address of the index, with the password."""
        return self.address() + "/simple"

    def add(self, name: str, version: str = "1.0", **more: str) -> Package:
        """Put a wheel with one module (and `more` files by name) into the index; it as part of a lock."""
        text = f"version = {version!r}\nmark = {self.mark!r}\n"
        file, content = wheel(name, version, text=text, more=more)
        self.files[file] = content
        url, digest = f"{self.address(login=False)}/files/{file}", hashlib.sha256(content).hexdigest()
        return Package(
            name=name, version=version, source="pypi", url=url, sha256=digest, files=((url, digest),)
        )

    def answer(self, path: str) -> bytes | None:
        """The content of a path, or None where there is nothing."""
        if path.startswith("/files/"):
            self.open.wait(60)
            return self.files.get(path.removeprefix("/files/"))
        name = path.removeprefix("/simple/").strip("/")
        links = [
            f'<a href="/files/{file}#sha256={hashlib.sha256(content).hexdigest()}">{file}</a>'
            for file, content in sorted(self.files.items())
            if file.split("-")[0].lower() == name
        ]
        return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode() if links else None


@contextmanager
def served(user: str, password: str) -> Iterator[Index]:
    """An index on a port of loopback."""
    index = Index(user, password)
    wanted = "Basic " + base64.b64encode(index.login.encode()).decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            index.requests.append(self.path)
            if self.headers.get("Authorization") != wanted:
                self._send(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
                return
            content = index.answer(self.path.partition("?")[0])
            self._send(404 if content is None else 200, content or b"", {})

        do_HEAD = do_GET  # noqa: N815 - the name that the class looks for

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            kind = "text/html" if self.path.startswith("/simple") else "application/octet-stream"
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            try:
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)
            except ConnectionError:
                pass  # whoever asked was killed, or has seen enough

        def log_message(self, *_: Any) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        index.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield index
        finally:
            index.open.set()
            server.shutdown()
            thread.join()


def lock_of(*packages: Package) -> Lock:
    """A lock of packages upon a base with Python 3.11."""
    return Lock(
        platform=platform_here(), python="3.11", owns_python=False, packages=packages, request="0" * 64
    )
