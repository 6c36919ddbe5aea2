"""A registry of images that serves one image, over HTTP on this machine, for tests of pulling."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_TYPES = {
    "manifest": "application/vnd.docker.distribution.manifest.v2+json",
    "config": "application/vnd.docker.container.image.v1+json",
    "layer": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _layer(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("data")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _error(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@contextmanager
def registry(data: bytes, *, denied: bool = False, seconds: float = 0.0) -> Iterator[str]:
    """`host:port` of a registry whose every image holds one file; it takes `seconds` to send that.

    `denied` has it ask for a login that nobody has.
    """
    layer = _layer(data)
    packed = gzip.compress(layer, 1, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()
    parts = {
        kind: {"mediaType": _TYPES[kind], "size": len(body), "digest": _digest(body)}
        for kind, body in (("config", config), ("layer", packed))
    }
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _TYPES["manifest"],
            "config": parts["config"],
            "layers": [parts["layer"]],
        }
    ).encode()
    blobs = {_digest(body): body for body in (config, packed)}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if denied:
                self._send(
                    401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}'
                )
            elif self.path == "/v2/":
                self._send(200, b"{}")
            elif "/manifests/" in self.path:
                self._send(200, manifest, _TYPES["manifest"], _digest(manifest))
            elif (name := self.path.rpartition("/")[2]) in blobs:
                self._send(200, blobs[name], "application/octet-stream", name)
            else:
                self._send(404, _error("MANIFEST_UNKNOWN", "manifest unknown"))

        do_HEAD = do_GET  # noqa: N815

        def _send(self, status: int, body: bytes, kind: str = "application/json", digest: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            if digest:
                self.send_header("Docker-Content-Digest", digest)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="test"')
            self.end_headers()
            if self.command == "GET":
                self._write(body)

        def _write(self, body: bytes) -> None:
            pieces = 20 if body is packed and seconds else 1
            size = -(-len(body) // pieces)
            for at in range(0, len(body), size):
                self.wfile.write(body[at : at + size])
                time.sleep(seconds / pieces if pieces > 1 else 0)

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
