"""Packages that only have a source archive: which of them cannot be built, and how to do without."""

from __future__ import annotations

import re

from aml_jupyter.environment.asked import pip_name
from aml_jupyter.errors import EnvironmentFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeVar

    from aml_jupyter.environment.lock import Lock, Package

    Built = TypeVar("Built")

# packages that are given up before nobody believes in it any more
MOST = 32
# seconds for one package; what takes longer is not known to fail
PATIENCE = 30.0

# words of what fetches, where it does not get through
NETWORK = (
    *("error sending request", "dns error", "Failed to fetch", "Request failed", "Could not resolve host"),
    *("timed out", "unable to access", "onnection refused"),
)

_BY_UV = re.compile(r"Failed to (?:download and )?build `([^`]+)`")
_BY_PIP = re.compile(r"Failed building wheel for ([\w.-]+)|Failed to build '?([\w.-]+)'?")
_COLLECTED = re.compile(r"\s*Collecting (\S+)")
_REASON = re.compile(r"(?:[\w.]*(?:Error|Exception|Exit)|error|fatal error): ")
_BY_COMPILER = re.compile(r": (?:fatal )?error: ")
_COMMAND = re.compile(r"error: command ", re.IGNORECASE)
_OF_THE_TOOL = re.compile(
    r"subprocess-exited|Failed (?:to|building)|\[end of output\]|^note: |^cause: |^\[std"
)
# a machine without this compiler or header says nothing of another one
_LACKS_TOOLS = re.compile(
    r"(?i)^error: command |fatal error: .*no such file|not found|unable to find .*compiler"
)
_WIDEST = 160


def is_source(package: Package) -> bool:
    """Whether a package of an index has no wheel that fits."""
    files = package.files or ((package.url, ""),)
    return package.source == "pypi" and not any(url.endswith(".whl") for url, _ in files)


def failed_build(said: Sequence[str]) -> tuple[str, str]:
    """The requirement that uv or pip could not build, and its last words; "" twice where that was not it."""
    name, at = "", 0
    for number, line in enumerate(said):
        found = _BY_UV.search(line) or _BY_PIP.search(line)
        if found:
            name, at = next(filter(None, found.groups())), number
            if "`" in line:
                break
    text = "\n".join(said)
    if not name and "subprocess-exited-with-error" in text:
        collected = [found[1] for line in said if (found := _COLLECTED.match(line))]
        name, at = (collected[-1], 0) if collected else ("", 0)
    if not name or any(word in text for word in NETWORK):
        return "", ""
    after = said[at:] if any("stderr" in line or "stdout" in line for line in said[at:]) else said
    return name, _last_reason(after)


def _last_reason(lines: Sequence[str]) -> str:
    # what follows is advice
    end = next((number for number, line in enumerate(lines) if line.startswith("hint:")), len(lines))
    plain = [line.strip("│ \t") for line in lines[:end]]
    found = [line for line in plain if _REASON.match(line) and not _OF_THE_TOOL.search(line)]
    if found and not _COMMAND.match(found[-1]):
        return _short(found[-1])
    # a compiler's own words say more than its status
    compiler = [line for line in plain if _BY_COMPILER.search(line)]
    said = [line for line in plain if line and not _OF_THE_TOOL.search(line)]
    causes = [line.removeprefix("cause: ") for line in plain if line.startswith("cause: ")]
    return _short((compiler or found or said or causes or ["it says nothing"])[-1])


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[:_WIDEST] + "..."


def raise_for(lock: Lock, said: Sequence[str], install: Callable[[Lock], Sequence[str]]) -> None:
    """Raise EnvironmentFailed `environment.build_failed` where an installation failed at a build.

    `install` tries a part of the lock and gives what that said: every package is named at once.
    """
    name, reason = failed_build(said)
    if not name:
        return
    found = {_requirement(lock, name): reason}
    for package in lock.pip:
        requirement = f"{package.name}=={package.version}"
        if is_source(package) and requirement not in found:
            name, reason = failed_build(install(lock.replace(packages=(package,))))
            if name:
                found[requirement] = reason
    listed = "\n".join(f"  - {requirement}: {reason}" for requirement, reason in found.items())
    error = EnvironmentFailed(
        f"these have only source archives here, which cannot be built:\n{listed}",
        code="environment.build_failed",
        hint="Name versions that have wheels for this Python, use an image with what the build lacks, or have"
        " them relaxed: --relax-pins gives their versions up and says so.",
    )
    error.unbuildable = found
    raise error


def _requirement(lock: Lock, name: str) -> str:
    """The requirement of a package as pip or uv named it."""
    wanted = pip_name(name)
    found = (f"{one.name}=={one.version}" for one in lock.pip if pip_name(one.name) == wanted)
    return next(found, name)


def try_source(package: Package, options: Sequence[str], environ: Mapping[str, str], folder: str) -> str:
    """Why the source archive of a package cannot be built by this Python; "" where it can, or nobody knows.

    Works in `folder`, which is the caller's.
    """
    import os
    import signal
    import subprocess
    import sys

    from aml_jupyter.environment.pip_packages import find_uv

    target = f"{folder}/{pip_name(package.name)}"
    process = subprocess.Popen(
        [
            *(find_uv(), "pip", "install", "--python", sys.executable, "--target", target, "--no-deps"),
            *("--color", "never", *options, "--", f"{package.name}=={package.version}"),
        ],
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # builds start processes of their own
    )
    try:
        said = process.communicate(timeout=PATIENCE)[1]
    except subprocess.TimeoutExpired:
        return ""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    name, reason = failed_build(said.splitlines()) if process.returncode else ("", "")
    return reason if name and not _LACKS_TOOLS.search(reason) else ""


def is_this_python(python: str, platform: str) -> bool:
    """Whether a version of Python on a platform is the one that runs here."""
    import sys

    from aml_jupyter.environment.prefix import platform_here

    return platform == platform_here() and python.split(".")[:2] == [*map(str, sys.version_info[:2])]


def until_built(
    dependencies: Mapping[str, Any],
    solve: Callable[[Mapping[str, str]], Lock],
    build: Callable[[Lock], Built],
    tell: Callable[[str], None],
) -> tuple[Lock, Built]:
    """A lock and what is made of it; versions that cannot be built are given up where pins are relaxed.

    `solve` is told what cannot be built, with the reasons.  Raises what the two raise.
    """
    unbuildable: dict[str, str] = {}
    while True:
        lock = solve(unbuildable)
        try:
            return lock, build(lock)
        except EnvironmentFailed as error:
            more = {name: reason for name, reason in error.unbuildable.items() if name not in unbuildable}
            if not dependencies.get("relax") or not more or len(unbuildable) > MOST:
                raise
            unbuildable |= more
            for name, reason in more.items():
                tell(f"{name} cannot be built: {reason}; solving without source archives of it")
