"""Packages of Python indexes, resolved and installed by uv, which is a program and no library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

from aml_jupyter.config import aml_home
from aml_jupyter.environment import building, indexes
from aml_jupyter.environment import credentials as private
from aml_jupyter.environment.lock import Package
from aml_jupyter.errors import EnvironmentFailed
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from aml_jupyter.environment.asked import Asked
    from aml_jupyter.environment.lock import Lock

INSTALL = "python -m pip install 'aml_jupyter[conda]'"

_PLATFORMS = {
    "linux-64": "x86_64-manylinux_2_28",
    "linux-aarch64": "aarch64-manylinux_2_28",
    "osx-64": "x86_64-apple-darwin",
    "osx-arm64": "aarch64-apple-darwin",
}
# in the words of newer and of older versions
_FIRST = re.compile(r"(?:error:|\s*×)\s*(.*)")  # noqa: RUF001 - uv's own sign
_CAUSE = re.compile(r"\s*(?:cause:|Caused by:|[╰├]─▶)\s*(.*)")


class Answer(Value):
    """What resolving gave: packages, or why there are none (`problem`), and whether that was the network.

    `unbuildable` is the package whose source archive cannot be built, where that is the problem.
    """

    packages: tuple[Package, ...] = ()
    problem: str = ""
    network: bool = False
    unbuildable: str = ""


def find_uv() -> str:
    """The program uv: beside this interpreter, beside its packages, or on PATH.

    Raises EnvironmentFailed `environment.tool_missing`.
    """
    import sysconfig

    beside = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    folders = [
        os.path.dirname(sys.executable),
        sysconfig.get_path("scripts"),
        *(os.path.normpath(f"{entry}/../../../bin") for entry in beside),
        os.path.expanduser("~/.local/bin"),
    ]
    for folder in folders:
        if os.access(f"{folder}/uv", os.X_OK):
            return f"{folder}/uv"
    if found := shutil.which("uv"):
        return found
    raise EnvironmentFailed(
        "pip packages are resolved by uv, which is not there", code="environment.tool_missing", hint=INSTALL
    )


# --- resolving ----------------------------------------------------------------------------------------------


def resolve(
    asked: Asked,
    *,
    python: str,
    platform: str,
    tell: Callable[[str], None],
    constraints: Sequence[str] = (),
    credentials: Mapping[str, str] | None = None,
    quick: bool = False,
    only_wheels: Sequence[str] = (),
) -> Answer:
    """All packages that the pip items need on a Python version and platform; `quick` never tries twice.

    Of the packages `only_wheels` no source archive is taken.
    Raises EnvironmentFailed `environment.tool_missing`, `environment.unsupported`.
    """
    if platform not in _PLATFORMS:
        raise EnvironmentFailed(
            f"pip packages cannot be resolved for {platform}",
            code="environment.unsupported",
            hint=f"Known platforms are {', '.join(_PLATFORMS)}.",
        )
    if not asked.pip:
        return Answer()
    with tempfile.TemporaryDirectory(prefix="aml-lock-") as folder:
        # 0700; addresses with credentials are in the environment or in these files, never in arguments
        _write(f"{folder}/asked.txt", [private.insert(item, credentials or {}) for item in asked.pip])
        _write(f"{folder}/constraints.txt", constraints)
        command = [
            *(find_uv(), "pip", "compile", "asked.txt"),
            *(("--constraints", "constraints.txt") if constraints else ()),
            *("--format", "pylock.toml", "--output-file", "pylock.toml", "--no-header", "--no-annotate"),
            *("--python-version", python, "--python-platform", _PLATFORMS[platform]),
            *("--python", sys.executable, "--custom-compile-command", "aml env lock", "--color", "never"),
            *_words(asked.options),
            *(word for name in only_wheels for word in ("--only-binary", name)),
        ]
        environ = _environ(index_environment(asked, credentials))
        if quick:
            environ["UV_HTTP_RETRIES"] = "0"
        code, said = _run(command, folder, environ, tell)
        if code != 0:
            return problem(said)
        with open(f"{folder}/pylock.toml", "rb") as file:
            document = tomllib.load(file)
    return Answer(packages=tuple(_package(one) for one in document.get("packages", ())))


def _words(options: Sequence[str]) -> list[str]:
    words = []
    for option in options:
        words += ["--prerelease", "allow"] if option == "--pre" else [option]
    return words


def _package(found: dict[str, Any]) -> Package:
    name, version = found["name"], str(found.get("version", ""))
    if archive := found.get("archive"):
        url, digest = private.strip(archive["url"]), archive.get("hashes", {}).get("sha256", "")
        return Package(name=name, version=version, source="url", url=url, sha256=digest)
    if vcs := found.get("vcs"):
        url = private.strip(f"{vcs['type']}+{vcs['url']}@{vcs['commit-id']}")
        folder = f"#subdirectory={vcs['subdirectory']}" if vcs.get("subdirectory") else ""
        return Package(name=name, version=version or vcs["commit-id"], source="git", url=url + folder)
    # a source archive is only for where no wheel fits
    candidates = found.get("wheels") or [found["sdist"]]
    files = tuple((private.strip(one["url"]), one["hashes"]["sha256"]) for one in candidates)
    return Package(
        name=name, version=version, source="pypi", url=files[0][0], sha256=files[0][1], files=files
    )


def problem(said: Sequence[str]) -> Answer:
    """The words of uv, or of pip, as one sentence."""
    name, reason = building.failed_build(said)
    if name:
        return Answer(problem=f"{name} cannot be built from source: {reason}", unbuildable=name)
    said = _unwrapped(said)
    causes = [found[1] for line in said if (found := _CAUSE.match(line))]
    first = next((found[1] for line in said if (found := _FIRST.match(line))), "")
    hints = [line.removeprefix("hint:").strip() for line in said if line.startswith("hint:")]
    network = any(word in line for line in said for word in building.NETWORK)
    if network:
        text = ": ".join(filter(None, [first, causes[-1] if causes else ""]))
    elif first.startswith("No solution found") and causes:
        text = causes[0].removeprefix("Because ").split(", we can conclude that")[0]
        # one item that has no answer need not be told that it is asked for
        text = re.sub(r"^([^,]*?) and you require \S+$", r"\1", text)
        text += f" ({hints[0]})" if hints else ""
    else:
        text = ": ".join([*filter(None, [first]), *causes[:2]])
    return Answer(problem=text.rstrip(".") or "uv said nothing", network=network)


def _unwrapped(said: Sequence[str]) -> list[str]:
    """Lines that an older uv broke, whole again; what a build printed stays apart."""
    lines: list[str] = []
    for line in said:
        text = line.strip("│ \t")
        begins = _FIRST.match(line) or _CAUSE.match(line) or not line.startswith(" ")
        if begins or not lines or not lines[-1] or text.startswith(("[", "---")):
            lines.append("" if text.startswith(("[", "---")) else line)
        elif text:
            lines[-1] += f" {text}"
        else:
            lines.append("")
    return lines


# --- installing ---------------------------------------------------------------------------------------------


def install_command(uv: str, python: str, requirements_path: str, lock: Lock) -> list[str]:
    """The command that installs `requirements(lock)` for an interpreter; run it with `index_environment`."""
    hosts = [word for host in lock.trusted_hosts for word in ("--allow-insecure-host", host)]
    return [
        *(uv, "pip", "install", "--python", python, "--no-deps", "--requirements", requirements_path),
        *("--color", "never", *hosts, *_words(lock.options)),
    ]


def index_environment(sources: Asked | Lock, credentials: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables that name the indexes with their credentials, for the process that fetches and no other."""
    given = credentials or {}
    found = {}
    if sources.index:
        found["UV_DEFAULT_INDEX"] = private.insert(sources.index, given)
    if sources.extra_indexes:
        found["UV_INDEX"] = " ".join(private.insert(one, given) for one in sources.extra_indexes)
    if sources.find_links:
        found["UV_FIND_LINKS"] = ",".join(private.insert(one, given) for one in sources.find_links)
    if sources.trusted_hosts:
        found["UV_INSECURE_HOST"] = " ".join(sources.trusted_hosts)
    if private.are_signed(given):
        found["UV_NO_CACHE"] = "1"
    return found


def install_pip(
    lock: Lock,
    python: str,
    tell: Callable[[str], None],
    *,
    credentials: Mapping[str, str] | None = None,
) -> None:
    """Install the pip packages of a lock for an interpreter of this machine.

    Raises EnvironmentFailed `environment.build_failed`, `environment.channel_unreachable`,
    `environment.tool_missing`.
    """
    from aml_jupyter.environment.lock import requirements

    if not lock.pip:
        return
    tell(f"packages for pip to install: {len(lock.pip)}")
    with tempfile.TemporaryDirectory(prefix="aml-install-") as folder:
        environ = _environ(index_environment(lock, credentials))
        uv = find_uv()

        def install(part: Lock, tell: Callable[[str], None]) -> tuple[int, list[str]]:
            name = f"{part.digest}.txt"
            _write(f"{folder}/{name}", [private.insert(requirements(part), credentials or {})])
            return _run(install_command(uv, python, name, part), folder, environ, tell)

        code, said = install(lock, tell)
        if code == 0:
            return
        building.raise_for(lock, said, lambda part: install(part, lambda _: None)[1])
    if code != 0:
        answer = problem(said)
        raise EnvironmentFailed(
            f"pip packages cannot be installed: {answer.problem}",
            code="environment.channel_unreachable" if answer.network else "environment.build_failed",
            hint="The lock stays; nothing is left of the installation. Try again, or change the package's "
            "version and solve again.",
        )


def build_each(asked: Asked, packages: Sequence[Package], credentials: Mapping[str, str] | None) -> list[str]:
    """Why the source archive of each package cannot be built here; "" where it can, or nobody knows."""
    from concurrent.futures import ThreadPoolExecutor

    options, environ = _words(asked.options), _environ(index_environment(asked, credentials))
    with tempfile.TemporaryDirectory(prefix="aml-build-") as folder, ThreadPoolExecutor(4) as pool:
        tried = pool.map(lambda one: building.try_source(one, options, environ, folder), packages)
        return [private.strip(reason) for reason in tried]


def make_venv(python: str, prefix: str, tell: Callable[[str], None]) -> None:
    """A virtual environment of an interpreter.  Raises EnvironmentFailed `environment.build_failed`."""
    command = [find_uv(), "venv", "--python", python, "--no-project", "--allow-existing", prefix]
    code, said = _run(command, os.path.dirname(prefix), _environ({}), lambda _: None)
    if code != 0:
        raise EnvironmentFailed(
            f"no virtual environment of {python} can be made: {problem(said).problem}",
            code="environment.build_failed",
            hint="pythonLocation of the .compute file must be a Python 3.8 or newer.",
        )
    tell(f"virtual environment of {python}")


# --- the process --------------------------------------------------------------------------------------------


def _environ(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment for uv: the user's settings of uv and pip stand."""
    environ = {
        name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")
    }
    environ.setdefault("UV_CACHE_DIR", f"{aml_home()}/cache/uv")
    environ.update(indexes.for_solving(environ))
    # a sentence is a line, however long
    shown = {"NO_COLOR": "1", "COLUMNS": "10000", "UV_NO_PROGRESS": "1"}
    ours = {**shown, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_ENV_FILE": "1"}
    joined = {
        name: environ[name] + mark + more[name]
        for name, mark in (("UV_INDEX", " "), ("UV_FIND_LINKS", ","), ("UV_INSECURE_HOST", " "))
        if name in more and environ.get(name)
    }
    return {**environ, **ours, **more, **joined}


def _run(
    command: list[str], folder: str, environ: dict[str, str], tell: Callable[[str], None]
) -> tuple[int, list[str]]:
    """Status and words of a process; each line is told as it comes, without credentials."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    said: list[str] = []
    try:
        assert process.stderr
        with process.stderr:
            for line in process.stderr:
                text = private.strip(line.rstrip())
                said.append(text)
                if text and not text.startswith(("error:", "hint:", " ")):
                    tell(text)
        return process.wait(), said
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _write(path: str, lines: Sequence[str]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


def in_parallel(calls: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """The answers of several calls, four at a time, in their order."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]
