"""Locks: every package of an environment with version, source and hash, for one platform.

A lock is what an environment is: images and prefixes are named by its digest.  No address in it holds
credentials.
"""

from __future__ import annotations

import json

from aml_jupyter.config.cache import sha256
from aml_jupyter.errors import EnvironmentFailed
from aml_jupyter.frozen import Value
from aml_jupyter.job import check_format

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self

FORMAT = 1


class Package(Value):
    """One package; `source` is `conda`, `pypi`, `url` (an archive somewhere) or `git`.

    `url` and `sha256` are of the file that is installed; of a package of an index the first that fits.
    `files` are all that fit the platform, as (url, sha256).  `record` is what a channel says of it.
    """

    name: str
    version: str
    source: str
    url: str = ""
    sha256: str = ""
    channel: str = ""
    build: str = ""
    files: tuple[tuple[str, str], ...] = ()
    record: Mapping[str, Any] = {}

    def __hash__(self) -> int:
        return hash((self.name, self.version, self.source, self.url))

    @property
    def identity(self) -> list[object]:
        """What makes it another package: not where it is fetched from."""
        return [self.source, self.name, self.version, self.build, self.sha256 or self.url]


class Lock(Value):
    """An environment for one platform (`linux-64`).

    `python` is the version of its own Python where conda packages bring one (`owns_python`), else the one
    (`3.11`) of the base that it stands on.  `request` is the digest of what was asked for, `changes` what was
    relaxed.  The other fields say where pip packages come from; `index` None is the installer's default.
    """

    platform: str
    python: str
    owns_python: bool
    packages: tuple[Package, ...]
    request: str
    index: str | None = None
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def conda(self) -> tuple[Package, ...]:
        """The packages of channels."""
        return tuple(package for package in self.packages if package.source == "conda")

    @property
    def pip(self) -> tuple[Package, ...]:
        """The packages that pip or uv installs."""
        return tuple(package for package in self.packages if package.source != "conda")

    @property
    def digest(self) -> str:
        """SHA-256 of what is installed: the same digest is the same environment."""
        identities = sorted(package.identity for package in self.packages)
        python = None if self.owns_python else self.python
        return sha256(json.dumps([self.platform, python, identities], separators=(",", ":")).encode())

    def to_json(self) -> dict[str, Any]:
        """The lock as a document, with its format and its digest."""
        body = {**self.as_dict(), "packages": [_plain(package) for package in self.packages]}
        return {"format": FORMAT, "digest": self.digest, **body}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read a document.

        Raises FormatError for a newer format, EnvironmentFailed `environment.lock_damaged` when it is not
        what was written.
        """
        try:
            check_format(document, "the lock")
            given = {name: document[name] for name in cls._fields if name in document}
            for name in ("extra_indexes", "find_links", "trusted_hosts", "options", "changes"):
                given[name] = tuple(given.get(name, ()))
            given["packages"] = tuple(map(_package, given["packages"]))
            lock = cls(**given)
            whole = lock.digest == document["digest"]
        except (KeyError, TypeError, ValueError, AttributeError):
            whole = False
        if not whole:
            raise EnvironmentFailed(
                "a lock is damaged: its digest does not fit what it holds",
                code="environment.lock_damaged",
                hint="Solve the environment again: aml env lock --relock",
            )
        return lock


def _plain(package: Package) -> dict[str, Any]:
    return {name: value for name, value in package.as_dict().items() if value}


def _package(document: Mapping[str, Any]) -> Package:
    files = tuple((str(url), str(digest)) for url, digest in document.get("files", ()))
    return Package(**{**document, "files": files})


def is_of_python(package: Package) -> bool:
    """Whether a conda package is one that Python imports, as far as its dependencies tell."""
    depends = package.record.get("depends", ())
    named = (item.split(" ")[0] for item in depends)
    return package.name not in ("python", "python_abi") and "python" in named


def requirements(lock: Lock) -> str:
    """The pip packages as a requirements file with hashes; "" where there are none.

    Indexes are not in it: whoever installs names them
    (`pip_packages.index_environment`), with the credentials of the moment.
    """
    return "".join(_requirement(package) for package in lock.pip)


def _requirement(package: Package) -> str:
    if package.source == "git":  # the commit is the hash
        return f"{package.name} @ {package.url}\n"
    what = f"{package.name}=={package.version}"
    if package.source == "url":
        what = f"{package.name} @ {package.url}"
    hashes = [digest for _, digest in package.files] or [package.sha256]
    return " \\\n    ".join([what, *(f"--hash=sha256:{one}" for one in hashes if one)]) + "\n"
