"""A process of its own that solves and installs conda packages: the door to rattler.

rattler's threads outlive its answer and can end the process that loaded it while that leaves; so nothing but
this loads it, and this leaves without a good-bye.

Reads one JSON document from stdin, writes lines of JSON: `{"tell": text}` while it works, then one
`{"answer": ...}` or `{"error": {"kind", "text"}}`.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """Do what stdin asks for."""
    asked = json.load(sys.stdin)
    sys.path[:] = [*sys.path, *(entry for entry in asked["sys_path"] if entry not in sys.path)]
    try:
        import rattler  # noqa: F401
    except ImportError as error:
        _say({"error": {"kind": "missing", "text": str(error)}})
        return
    import asyncio

    does = {"solve": _solve, "install": _install}[asked["do"]]
    _say(asyncio.run(does(asked)))


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _failure(error: Exception) -> dict[str, Any]:
    return {"error": {"kind": type(error).__name__, "text": str(error)}}


# --- solving ------------------------------------------------------------------------------------------------


async def _solve(asked: dict[str, Any]) -> dict[str, Any]:
    """Records for each list of specs, in `questions`; a question that fails holds its error."""
    import rattler

    gateway = rattler.Gateway(cache_dir=_folder(asked, "repodata"), client=_client(asked))
    answers = [await _one(asked, specs, gateway) for specs in asked["questions"]]
    return {"answer": answers}


async def _one(asked: dict[str, Any], specs: list[str], gateway: Any) -> dict[str, Any]:
    import rattler
    from rattler.exceptions import GatewayError, InvalidMatchSpecError, SolverError

    try:
        parsed = [rattler.MatchSpec(spec) for spec in specs]
        records = await rattler.solve(
            asked["channels"],
            parsed,
            gateway=gateway,
            platforms=[asked["platform"], "noarch"],
            virtual_packages=_virtual_packages(asked["virtual"]),
            add_pip_as_python_dependency=False,
            channel_relations="disabled",
        )
    except (GatewayError, InvalidMatchSpecError, SolverError) as error:
        return _failure(error)
    return {"records": [json.loads(record.to_json()) for record in records]}


def _virtual_packages(virtual: dict[str, list[str]]) -> list[Any]:
    from rattler import BuildString, GenericVirtualPackage, PackageName, Version

    return [
        GenericVirtualPackage(PackageName(name), Version(version), BuildString(build))
        for name, (version, build) in virtual.items()
    ]


# --- installing ---------------------------------------------------------------------------------------------


async def _install(asked: dict[str, Any]) -> dict[str, Any]:
    import rattler
    from rattler.exceptions import InstallerError, IoError, LinkError, TransactionError

    records = [_record(document) for document in asked["records"]]
    if wrong := [text for document in asked["records"] if (text := _mismatch(document))]:
        return {"error": {"kind": "mismatch", "text": "; ".join(wrong)}}
    try:
        await rattler.install(
            records,
            asked["prefix"],
            cache_dir=_folder(asked, "packages"),
            installed_packages=[],
            platform=rattler.Subdir(asked["platform"]),
            execute_link_scripts=False,
            client=_client(asked),
            alternative_target_prefix=asked["target_prefix"],
            reporter=_reporter(),
        )
    except (InstallerError, IoError, LinkError, TransactionError) as error:
        return _failure(error)
    return {"answer": len(records)}


def _reporter() -> Any:
    from rattler import InstallerReporter

    class Reporter(InstallerReporter):
        """Tells what is fetched; what lies in the cache is linked without a word."""

        def __init__(self) -> None:
            self.names: list[str] = []

        def on_populate_cache_start(self, operation: int, package_name: str) -> int:  # noqa: ARG002
            self.names.append(package_name)
            return len(self.names) - 1

        def on_download_start(self, cache_entry: int) -> int:
            _say({"tell": f"fetching {self.names[cache_entry]}"})
            return cache_entry

    return Reporter()  # type: ignore[abstract]  # its methods do nothing, which mypy takes for abstract


def _mismatch(document: dict[str, Any]) -> str:
    """What is wrong with a package of a channel on disk, whose hashes rattler does not look at."""
    import hashlib
    from urllib.parse import unquote, urlsplit

    address = urlsplit(document["url"])
    if address.scheme != "file" or not document.get("sha256"):
        return ""
    try:
        with open(unquote(address.path), "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{document['fn']}: {error.strerror}"
    wanted = document["sha256"]
    return "" if found == wanted else f"{document['fn']} has the hash {found}, the lock says {wanted}"


def _record(document: dict[str, Any]) -> Any:
    from rattler import BuildString, PackageRecord, RepoDataRecord

    given = {name: document[name] for name in _KEPT if document.get(name) is not None}
    for name in ("sha256", "md5"):
        if name in given:
            given[name] = bytes.fromhex(given[name])
    package = PackageRecord(**{**given, "build": BuildString(given["build"])})
    return RepoDataRecord(package, document["fn"], document["url"], document["channel"])


_KEPT = (
    *("name", "version", "build", "build_number", "subdir", "arch", "platform", "noarch", "depends"),
    *("constrains", "sha256", "md5", "size", "license", "python_site_packages_path"),
)


# --- both ---------------------------------------------------------------------------------------------------


def _folder(asked: dict[str, Any], name: str) -> Any:
    from pathlib import Path

    folder = Path(asked[name])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _client(asked: dict[str, Any]) -> Any:
    from rattler.networking import Client
    from rattler.networking.middleware import AddHeadersMiddleware, AuthenticationMiddleware, RetryMiddleware

    headers: dict[str, str] = asked["headers"]

    def of_host(host: str, path: str) -> dict[str, str]:  # noqa: ARG001
        value = headers.get(host)
        return {"Authorization": value} if value else {}

    middlewares: list[Any] = [RetryMiddleware(asked["retries"]), AuthenticationMiddleware()]
    if headers:
        middlewares.append(AddHeadersMiddleware(of_host))
    return Client(middlewares, timeout=120)


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - shown whole, and told by the status
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)
    os._exit(0)
