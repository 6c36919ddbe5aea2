"""How a container is reached: where it is, and by which credentials, which may change while files are sent.

AZURE_STORAGE_CONNECTION_STRING      alone is enough
AZURE_STORAGE_ACCOUNT                with one of
    AZURE_STORAGE_KEY                the key of the account
    AZURE_STORAGE_SAS_TOKEN          a shared access signature
    the keyring                      either, or a connection string, under aml_jupyter, azblob:ACCOUNT
    azure-identity                   whoever is logged in (extra `aad`)
AZURE_STORAGE_SERVICE_ENDPOINT       where the account is not at ACCOUNT.blob.core.windows.net
"""

from __future__ import annotations

import threading

from aml_jupyter.errors import ArtifactError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from azure.storage.blob import ContainerClient

    from aml_jupyter.artifacts.azblob.patience import Patience

# connections that are kept open: one for each thread that transfers
CONNECTIONS = 64
_NAMES = (
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_ACCOUNT",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_SERVICE_ENDPOINT",
)
_HINT = (
    "Set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or"
    " AZURE_STORAGE_SAS_TOKEN; or log in (az login) with the extra aad: pip install 'aml_jupyter[aad]'."
)


class Account:
    """The client of one container, made when first needed and again when its credentials are refused."""

    def __init__(self, container: str, environ: Mapping[str, str], patience: Patience) -> None:
        self.container = container
        self.environ = environ
        self.patience = patience
        self._lock = threading.Lock()
        self._client: ContainerClient | None = None
        self._made_of: tuple[str, ...] = ()

    def client(self) -> ContainerClient:
        """The client.  Raises ArtifactError `store.credentials` where there are none."""
        with self._lock:
            if self._client is None:
                self._made_of = self._secrets()
                self._client = self._connect(*self._made_of)
            return self._client

    def renew(self, refused: ContainerClient) -> bool:
        """Have another client than the one that was refused; False where that would be the same again."""
        with self._lock:
            if self._client is not refused:
                return True
            secrets = self._secrets()
            if secrets == self._made_of and any(secrets[index] for index in (0, 2, 3)):
                return False
            # of a login too: a token may have been withdrawn, another is asked for
            self._client, self._made_of = self._connect(*secrets), secrets
            return True

    @property
    def signature(self) -> str:
        """The shared access signature that is used, for a look at its times; else ""."""
        for secret in self._made_of:
            if "sig=" in secret:
                return secret
        return ""

    def _secrets(self) -> tuple[str, ...]:
        connection, account, key, token, endpoint = (self.environ.get(name, "").strip() for name in _NAMES)
        if account and not (connection or key or token):
            kept = _in_keyring(account)
            if "AccountName=" in kept or "BlobEndpoint=" in kept:
                connection = kept
            elif "sig=" in kept:
                token = kept
            else:
                key = kept
        return connection, account, key, token.lstrip("?"), endpoint

    def _connect(self, connection: str, account: str, key: str, token: str, endpoint: str) -> ContainerClient:
        from azure.storage.blob import ContainerClient

        options = self._options()
        try:
            if connection:
                return ContainerClient.from_connection_string(connection, self.container, **options)
            if not account:
                raise ArtifactError(
                    "there are no credentials for Azure Blob storage", code="store.credentials", hint=_HINT
                )
            where = endpoint or f"https://{account}.blob.core.windows.net"
            credential: Any = {"account_name": account, "account_key": key} if key else None
            if key:
                pass
            elif token:
                where = f"{where}?{token}"
            else:
                credential = _login(account)
            return ContainerClient(where, self.container, credential=credential, **options)
        except ValueError as error:
            # the words of the SDK name what is missing, and never a value
            why = _first_line(error, connection, key)
            raise ArtifactError(
                f"the credentials for Azure Blob storage cannot be used: {why}",
                code="store.credentials",
                hint=_HINT,
            ) from None

    def _options(self) -> dict[str, Any]:
        """Own limits of time, and no tries of the SDK's own: `patience` counts them all."""
        from azure.core.pipeline.transport import RequestsTransport
        from requests import Session
        from requests.adapters import HTTPAdapter

        session = Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
        transport = RequestsTransport(
            session=session,
            session_owner=False,
            connection_timeout=self.patience.connect,
            read_timeout=self.patience.read,
        )
        return {
            "transport": transport,
            "retry_total": 0,
            "max_single_put_size": 256 << 20,
            "max_single_get_size": 64 << 20,
            "max_chunk_get_size": 64 << 20,
        }


def _login(account: str) -> Any:
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError:
        raise ArtifactError(
            f"there are no credentials for the storage account {account}",
            code="store.credentials",
            hint=_HINT,
        ) from None
    import logging

    # a page of attempts on standard error; what came of them is the error that is raised
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    return DefaultAzureCredential()


def _in_keyring(account: str) -> str:
    from aml_jupyter.credentials import kept

    secret = kept(f"azblob:{account}")
    return secret.reveal() if secret else ""


def _first_line(error: ValueError, *secrets: str) -> str:
    words = (str(error).splitlines() or [""])[0][:200]
    return "they are malformed" if any(secret and secret in words for secret in secrets) else words
