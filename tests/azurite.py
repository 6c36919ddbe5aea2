"""A real Azurite on this machine: Blob storage for tests, started when first used, ended by its id."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.requirements import need

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient

# of the documentation of Azurite: everybody's, and no secret
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Azurite:
    """One server; `endpoint` is where, `environ` what `open_store` is given to use it."""

    def __init__(self, *, on_disk: bool = False) -> None:
        self.folder = tempfile.mkdtemp(prefix="aml-azurite-")
        self._keep = ["--location", self.folder] if on_disk else ["--inMemoryPersistence"]
        self.port = 0
        self._made = 0
        self.start()

    def start(self) -> None:
        """Start it, on the port it had before if any; on disk, with the blobs it had."""
        command = [need("azurite"), "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        command += [*self._keep, "--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        log = Path(self.folder) / "azurite.log"
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        due = time.monotonic() + 60
        while not (
            found := re.search(
                rb"(?:listening|listens) (?:at|on) http://127\.0\.0\.1:(\d+)", log.read_bytes()
            )
        ):
            if self.process.poll() is not None or time.monotonic() > due:
                self.stop()
                raise RuntimeError("Azurite does not start: " + log.read_text(errors="replace"))
            time.sleep(0.02)
        self.port = int(found[1])

    def stop(self) -> None:
        """End it as a crash does; what it held in memory is gone."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it for good."""
        self.stop()
        shutil.rmtree(self.folder)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    def connection_string(self, endpoint: str | None = None) -> str:
        """With the account's key; `endpoint` may be that of a proxy."""
        parts = ["DefaultEndpointsProtocol=http", f"AccountName={ACCOUNT}", f"AccountKey={KEY}"]
        return ";".join([*parts, f"BlobEndpoint={endpoint or self.endpoint}", ""])

    @property
    def environ(self) -> dict[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection_string()}

    @property
    def service(self) -> BlobServiceClient:
        """The SDK itself, for a look at what is really there."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(self.connection_string(), retry_total=0)

    def container(self, *, make: bool = True) -> str:
        """The name of a container that nobody else uses."""
        self._made += 1
        name = f"test-{os.getpid()}-{self._made}"
        if make:
            with self.service as service:
                service.create_container(name)
        return name

    def sas(self, container: str, permission: str = "rwdlc", minutes: float = 60, start: float = -5) -> str:
        """A token for one container; `minutes` and `start` count from now, by the clock of this process."""
        from datetime import UTC, datetime, timedelta

        from azure.storage.blob import generate_container_sas

        now = datetime.now(UTC)
        token: str = generate_container_sas(
            ACCOUNT,
            container,
            account_key=KEY,
            permission=permission,
            start=now + timedelta(minutes=start),
            expiry=now + timedelta(minutes=minutes),
        )
        return token

    def sas_environ(self, token: str, endpoint: str | None = None) -> dict[str, str]:
        """What `open_store` is given to use a token."""
        return {
            "AZURE_STORAGE_ACCOUNT": ACCOUNT,
            "AZURE_STORAGE_SAS_TOKEN": token,
            "AZURE_STORAGE_SERVICE_ENDPOINT": endpoint or self.endpoint,
        }


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """Blob storage that every test of this process shares; each takes a container of its own."""
    server = Azurite()
    yield server
    server.close()
