"""Packages of conda channels, solved and installed without a conda: by rattler, in a process of its own."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile

from aml_jupyter.config import aml_home
from aml_jupyter.environment import credentials as private
from aml_jupyter.environment.lock import Package
from aml_jupyter.errors import EnvironmentFailed
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from aml_jupyter.environment.lock import Lock

WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "conda_worker.py")
# of each file that does not come
RETRIES = 2
INSTALL = "python -m pip install 'aml_jupyter[conda]'"

# what every machine of a platform is taken to have; a lock is for the target, not for the machine that solves
_GLIBC = {"__unix": ["0", "0"], "__linux": ["4.18", "0"], "__glibc": ["2.28", "0"]}
_MACOS = {"__unix": ["0", "0"], "__osx": ["13.0", "0"]}
_ARCHITECTURES = {"64": "x86_64", "aarch64": "aarch64", "arm64": "arm64", "ppc64le": "ppc64le"}

# what a channel says of a package and installing needs; the rest of a lock's fields have names of their own
_RECORD = (
    *("build_number", "subdir", "noarch", "depends", "constrains", "md5", "size", "license", "fn"),
    "python_site_packages_path",
)


class Answer(Value):
    """What solving gave: packages, or why there are none (`problem`)."""

    packages: tuple[Package, ...] = ()
    problem: str = ""


def require() -> None:
    """Raise EnvironmentFailed `environment.tool_missing` where there is no rattler."""
    from importlib.util import find_spec

    if find_spec("rattler") is None:
        raise _missing("No module named 'rattler'")


def solve_conda(
    channels: Sequence[str],
    questions: Sequence[Sequence[str]],
    platform: str,
    tell: Callable[[str], None],
    *,
    credentials: Mapping[str, str] | None = None,
) -> list[Answer]:
    """The packages for each list of specs, every one solved apart from the others.

    Raises EnvironmentFailed `environment.channel_unreachable`, `environment.tool_missing`.
    """
    answers = _work(
        {
            "do": "solve",
            "channels": [private.insert(channel, _tokens(credentials)) for channel in channels],
            "questions": [list(question) for question in questions],
            "platform": platform,
            "virtual": _virtual(platform),
        },
        credentials or {},
        tell,
    )
    return [_answer(one, channels) for one in answers]


def install_conda(
    lock: Lock,
    prefix_here: str,
    target_prefix: str,
    tell: Callable[[str], None],
    *,
    credentials: Mapping[str, str] | None = None,
) -> None:
    """Install the conda packages of a lock into `prefix_here`, to be used at `target_prefix`.

    Does nothing for a lock without conda packages.
    Raises EnvironmentFailed `environment.channel_unreachable`, `environment.build_failed`,
    `environment.tool_missing`.
    """
    if not lock.conda:
        return
    tell(f"conda packages to install: {len(lock.conda)}")
    _work(
        {
            "do": "install",
            "records": [_document(package, credentials or {}) for package in lock.conda],
            "prefix": prefix_here,
            "target_prefix": target_prefix,
            "platform": lock.platform,
        },
        credentials or {},
        tell,
    )
    if _tokens(credentials):
        _clean_addresses(f"{prefix_here}/conda-meta")


def _clean_addresses(folder: str) -> None:
    """Take credentials out of the files in which is noted where each package came from."""
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        if name.endswith(".json"):
            with open(path, encoding="utf-8") as file:
                text = file.read()
            if private.strip(text) != text:
                with open(path, "w", encoding="utf-8") as file:
                    file.write(private.strip(text))


# --- questions and answers ----------------------------------------------------------------------------------


def _answer(found: dict[str, Any], channels: Sequence[str]) -> Answer:
    if "error" not in found:
        return Answer(packages=tuple(map(_package, found["records"])))
    kind, text = found["error"]["kind"], private.strip(found["error"]["text"]).strip()
    if kind == "GatewayError":
        raise _unreachable(text, channels)
    return Answer(problem=_sentence(text))


def _package(record: dict[str, Any]) -> Package:
    return Package(
        name=record["name"],
        version=record["version"],
        source="conda",
        url=private.strip(record["url"]),
        sha256=record.get("sha256") or "",
        channel=private.strip(record["channel"]),
        build=record["build"],
        record={name: record[name] for name in _RECORD if record.get(name) is not None},
    )


def _document(package: Package, credentials: Mapping[str, str]) -> dict[str, Any]:
    return {
        **package.record,
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "sha256": package.sha256 or None,
        "url": private.insert(package.url, _tokens(credentials)),
        "channel": package.channel,
    }


def _sentence(text: str) -> str:
    """A solver's tree of reasons as one line."""
    text = text.removeprefix("Cannot solve the request because of:")
    lines = [line.strip("│├└─ \t") for line in text.splitlines()]
    return " ".join(line for line in lines if line).rstrip(".")


def _virtual(platform: str) -> dict[str, list[str]]:
    system, _, machine = platform.partition("-")
    found = dict(_MACOS if system == "osx" else _GLIBC)
    found["__archspec"] = ["1", _ARCHITECTURES.get(machine, machine)]
    if cuda := os.environ.get("CONDA_OVERRIDE_CUDA"):
        found["__cuda"] = [cuda, "0"]
    return found


def _tokens(credentials: Mapping[str, str] | None) -> dict[str, str]:
    # a user name goes into a header, a token is part of the address
    given = (credentials or {}).items()
    return {place: value for place, value in given if place.endswith("/t") or value.startswith("?")}


def _headers(credentials: Mapping[str, str]) -> dict[str, str]:
    from urllib.parse import unquote

    found = {}
    for place, value in credentials.items():
        if not place.endswith("/t") and not value.startswith("?"):
            host = place.partition("://")[2].rpartition(":")[0] or place.partition("://")[2]
            found[host] = "Basic " + base64.b64encode(unquote(value).encode()).decode()
    return found


# --- the process --------------------------------------------------------------------------------------------


def _work(asked: dict[str, Any], credentials: Mapping[str, str], tell: Callable[[str], None]) -> Any:
    if not _tokens(credentials):
        return _work_with(f"{aml_home()}/cache/conda/repodata", asked, credentials, tell)
    # what is kept of a channel has its whole address
    with tempfile.TemporaryDirectory(prefix="aml-repodata-") as folder:
        return _work_with(folder, asked, credentials, tell)


def _work_with(
    repodata: str, asked: dict[str, Any], credentials: Mapping[str, str], tell: Callable[[str], None]
) -> Any:
    document = {
        **asked,
        "repodata": repodata,
        "sys_path": [entry for entry in sys.path if entry],
        "packages": f"{aml_home()}/cache/conda/packages",
        "headers": _headers(credentials),
        "retries": RETRIES,
    }
    process = subprocess.Popen(
        [sys.executable, "-S", "-E", "-s", "-P", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # its words go to pipes; what it prints on its own is kept for the error
        env={**os.environ, "NO_COLOR": "1"},
    )
    try:
        answer, said = _listen(process, json.dumps(document), tell)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    if answer is None:
        raise _failed(f"the conda solver ended with status {process.returncode}: {_last_line(said)}")
    if "error" in answer:
        raise _refused(answer["error"])
    return answer["answer"]


def _listen(
    process: subprocess.Popen[str], document: str, tell: Callable[[str], None]
) -> tuple[dict[str, Any] | None, str]:
    import threading

    assert process.stdin
    assert process.stdout
    assert process.stderr
    said: list[str] = []
    errors = threading.Thread(target=lambda: said.append(process.stderr.read()), daemon=True)  # type: ignore[union-attr]
    errors.start()
    try:
        with process.stdin:
            process.stdin.write(document)
    except BrokenPipeError:
        pass  # it ended before it read all; its status says why
    answer = None
    for line in process.stdout:
        found = json.loads(line)
        if "tell" in found:
            tell(found["tell"])
        else:
            answer = found
    process.stdout.close()
    errors.join(5)
    process.stderr.close()
    return answer, "".join(said)


def _refused(error: dict[str, str]) -> EnvironmentFailed:
    text = private.strip(error["text"])
    if error["kind"] == "missing":
        return _missing(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(word in text for word in ("error sending request", "dns error", "Connection refused")):
        return _unreachable(text, ())
    return _failed("conda packages cannot be installed: " + ": ".join(lines[:3]))


def _missing(text: str) -> EnvironmentFailed:
    return EnvironmentFailed(
        f"conda packages need py-rattler, which cannot be imported: {text}",
        code="environment.tool_missing",
        hint=INSTALL,
    )


def _failed(message: str) -> EnvironmentFailed:
    return EnvironmentFailed(
        private.strip(message),
        code="environment.build_failed",
        hint="The lines above say at which package. Free space and the channel are the usual reasons.",
    )


def _unreachable(text: str, channels: Sequence[str]) -> EnvironmentFailed:
    lines = [line.strip().removeprefix("Caused by: ") for line in text.splitlines() if line.strip()]
    reason = lines[0] + (f" ({lines[-1]})" if len(lines) > 1 else "")
    named = f" (channels: {', '.join(channels)})" if channels else ""
    return EnvironmentFailed(
        f"a conda channel cannot be read: {reason}{named}",
        code="environment.channel_unreachable",
        hint="Name a channel that this machine reaches under channels:, set a proxy (HTTPS_PROXY), "
        "or list the packages in the pip section.",
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
