"""A package index and a folder over HTTP on loopback, with a password where one is wanted."""

from __future__ import annotations

import base64
import hashlib
import http.server
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

USER, PASSWORD = "ann", "pl4nted-word"


def wheel(
    name: str,
    version: str,
    requires: Sequence[str] = (),
    tag: str = "py3-none-any",
    text: str = "",
    more: Mapping[str, str] | None = None,
) -> tuple[str, bytes]:
    """File name and content of a wheel with one module, and `more` files beside it."""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": text or f"version = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        **(more or {}),
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path), content)
    return f"{name}-{version}-{tag}.whl", made.getvalue()


# what builds a wheel without anything of an index
_BACKEND = """
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    {before}
    name, version = {name!r}, {version!r}
    info = f"{{name}}-{{version}}.dist-info"
    about = f"Metadata-Version: 2.1\\nName: {{name}}\\nVersion: {{version}}\\n"
    tags = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    made = f"{{name}}-{{version}}-py3-none-any.whl"
    with zipfile.ZipFile(f"{{folder}}/{{made}}", "w") as archive:
        archive.writestr(f"{{name}}/__init__.py", f"version = {{version!r}}\\n")
        archive.writestr(f"{{info}}/METADATA", about)
        archive.writestr(f"{{info}}/WHEEL", tags)
        archive.writestr(f"{{info}}/RECORD", "")
    return made
"""


def source_archive(name: str, version: str, fails: str = "") -> tuple[str, bytes]:
    """File name and content of a source archive of one module; building it `fails` with these words."""
    project = f"""[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "{name}"
version = "{version}"
"""
    before = f"raise RuntimeError({fails!r})" if fails else ""
    top = f"{name}-{version}"
    files = {
        "pyproject.toml": project,
        "backend.py": _BACKEND.format(before=before, name=name, version=version),
        "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n",
    }
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(f"{top}/{path}")
            info.size = len(content)
            archive.addfile(info, BytesIO(content.encode()))
    return f"{top}.tar.gz", made.getvalue()


class Index:
    """An index of wheels, and the files of a folder below `/channel/`; `asked` are the paths that were.

    `hold` keeps back downloads until it is set.
    """

    def __init__(self, *, password: bool = False, folder: Path | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.password = password
        self.folder = folder
        self.asked: list[str] = []
        self.hold = threading.Event()
        self.hold.set()
        self.port = 0
        self.add("pip", "99.0")

    def add(self, name: str, version: str, requires: Sequence[str] = (), **more: Any) -> None:
        """Put a wheel into the index."""
        file, content = wheel(name, version, requires, **more)
        self.files[file] = content

    def add_source(self, name: str, version: str, *, fails: str = "") -> None:
        """Put a source archive into the index; building it `fails` with these words."""
        file, content = source_archive(name, version, fails)
        self.files[file] = content

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The address of the index, with the password where it wants one."""
        user = f"{USER}:{PASSWORD}@" if self.password else ""
        return f"http://{user}{self.host}/simple"

    @property
    def option(self) -> str:
        return f"--index-url {self.url}"

    def answer(self, path: str) -> bytes | None:
        """The content of a path, or None where there is nothing."""
        if path.startswith("/simple/"):
            name = path.removeprefix("/simple/").strip("/")
            found = [file for file in self.files if file.split("-")[0].replace("_", "-").lower() == name]
            links = [
                f'<a href="/files/{file}#sha256={hashlib.sha256(content).hexdigest()}">{file}</a><br>'
                for file, content in sorted(self.files.items())
                if file in found
            ]
            return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode() if found else None
        if path.startswith("/files/"):
            self.hold.wait(60)
            return self.files.get(path.removeprefix("/files/"))
        if path.startswith("/channel/") and self.folder is not None:
            file = self.folder / path.removeprefix("/channel/")
            return file.read_bytes() if file.is_file() else None
        return None


@contextmanager
def served(index: Index) -> Iterator[Index]:
    """Serve an index on a port of loopback."""
    wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            index.asked.append(self.path)
            path = self.path.partition("?")[0]
            # a token in the path does for a password
            with_token = path.startswith(f"/t/{PASSWORD}/")
            path = path.removeprefix(f"/t/{PASSWORD}") if with_token else path
            if index.password and not with_token and self.headers.get("Authorization") != wanted:
                self._send(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
                return
            content = index.answer(path)
            self._send(404 if content is None else 200, content or b"", {})

        do_HEAD = do_GET  # noqa: N815 - the name that the class looks for

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            kind = "text/html" if self.path.startswith("/simple") else "application/octet-stream"
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            try:
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
            index.hold.set()
            server.shutdown()
            thread.join()
