"""Which store a setting means.

folder                         the folder of this machine, `AML_HOME/artifacts`
folder:///mnt/team/runs        a folder that is mounted here
azblob://CONTAINER[/PREFIX]    a container of Azure Blob storage; credentials come from the environment
s3://BUCKET[/PREFIX], gs://... whatever fsspec knows, with the extra `fsspec`
"""

from __future__ import annotations

import os
import re

from aml_jupyter.artifacts.names import check_prefix
from aml_jupyter.artifacts.store import FolderStore
from aml_jupyter.errors import ArtifactError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from aml_jupyter.artifacts.store import ArtifactStore

# what Azure takes as the name of a container
_CONTAINER = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_FORMS = (
    "folder, folder:///PATH, azblob://CONTAINER[/PREFIX], or an address of fsspec such as s3://BUCKET/PREFIX"
)


def open_store(url: str, environ: Mapping[str, str] | None = None) -> ArtifactStore:
    """The store that `artifacts.store` names; nothing is read or connected to yet.

    Credentials are taken from `environ` (os.environ when None) when they are first needed, and once more when
    they are refused. Raises ArtifactError `store.url` for an address that is none.
    """
    check_url(url)
    if url == "folder":
        from aml_jupyter.config import aml_home

        return FolderStore(aml_home() + "/artifacts")
    scheme, _, rest = url.partition("://")
    if scheme == "folder":
        return FolderStore(rest.rstrip("/"), shared=True)
    environ = os.environ if environ is None else environ
    if scheme == "azblob":
        from aml_jupyter.artifacts.azblob import BlobStore

        container, _, prefix = rest.partition("/")
        return BlobStore(container, prefix.strip("/"), environ)
    from aml_jupyter.artifacts.fsspec_store import FsspecStore

    return FsspecStore(scheme, rest.strip("/"))


def is_remote(url: str | None) -> bool:
    """Whether a setting names another place than the folder of this machine."""
    return url not in (None, "", "folder")


def check_url(url: str) -> None:
    """Refuse what is no address of a store: ArtifactError `store.url`; credentials in it are not repeated."""
    if url == "folder":
        return
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+]{0,20}", scheme):
        raise _wrong(f"{_safe(url)!r} is no store of artifacts", f"There are: {_FORMS}.")
    if re.search(r"[@?#;]", rest) or not rest.isprintable():
        raise _wrong(
            f"an address of a store ({scheme}://...) has none of @ ? # ;",
            "Credentials come from the environment, for azblob AZURE_STORAGE_CONNECTION_STRING.",
        )
    if scheme == "folder":
        if not rest.startswith("/") or "/../" in rest + "/" or rest.strip("/") == "":
            raise _wrong(f"{url!r} names no folder by an absolute path", "folder:///mnt/team/runs")
        return
    if scheme in ("file", "local"):
        raise _wrong(f"{scheme}:// is not for artifacts", f"folder:///{rest.strip('/')}")
    container, _, prefix = rest.partition("/")
    check_prefix(prefix)
    if scheme == "azblob" and not _CONTAINER.fullmatch(container):
        raise _wrong(
            f"{container[:80]!r} cannot be the name of a container",
            f"3 to 63 lower-case letters, digits and single hyphens; nearest: azblob://{container_name(container)}",
        )
    if not container and scheme != "memory":
        raise _wrong(f"{url!r} names no bucket", f"{scheme}://BUCKET/PREFIX")


def container_name(name: str) -> str:
    """A legal name of a container that is near to the name of a workspace."""
    name = re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9]+", "-", name.lower())).strip("-")[:63].rstrip("-")
    return name if len(name) >= 3 else f"aml-{name}".rstrip("-")


def _safe(url: str) -> str:
    """The beginning of what was written, as far as it holds no secret."""
    return re.split(r"[@?;=\s]", url)[0][:80]


def _wrong(message: str, hint: str) -> ArtifactError:
    return ArtifactError(message, code="store.url", hint=hint)
