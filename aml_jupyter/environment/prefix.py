"""Environments on this computer: a folder below `AML_HOME/envs/`, named by its lock.

A folder is whole once `aml-environment.json` stands in it, which is written last: what a killed builder
leaves has none and is removed by the next one.  `envs/requests/<request>` leads from what was asked for to
the folder, so that a prepared environment costs a few looks at the file system.
"""

from __future__ import annotations

import os
import sys

from aml_jupyter.config import aml_home
from aml_jupyter.environment import credentials as private
from aml_jupyter.environment.keeping import lock_name, only_one, pinned
from aml_jupyter.errors import EnvironmentFailed
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from aml_jupyter.environment.lock import Lock

MARK = "aml-environment.json"


class Made(Value):
    """An environment that is there: its folder, its interpreter, the digest of its lock."""

    prefix: str
    python: str
    lock: str


def of_target(
    dependencies: Mapping[str, Any], tell: Callable[[str], None], *, python: str | None = None
) -> Made:
    """The environment of a job's `dependencies` on this computer, solved and made where that is not done.

    `python` is the interpreter that it may stand on, this one unless said.
    Raises EnvironmentFailed; `environment.not_prepared` where `dependencies["prepare"]` is false.
    """
    base = python or sys.executable
    version = _version(base)
    clean, found = private.separate_all(dependencies)
    if fixed := pinned(clean, platform=platform_here(), base_python=version):
        return make(fixed, tell, python=base, credentials={**private.of_file(clean.get("file")), **found})
    name = f"{lock_name(clean, platform_here(), version)}-{_short(base)}"
    if not clean.get("relock") and (made := _of_request(name)):
        return made
    if clean.get("prepare") is False:
        configuration = clean.get("configuration") or "NAME"
        raise EnvironmentFailed(
            f"the environment of {configuration!r} is not prepared, and its run configuration says"
            " PrepareEnvironment: false",
            code="environment.not_prepared",
            hint=f"aml experiment prepare -c {configuration}   or set PrepareEnvironment: true",
        )
    from aml_jupyter.environment.building import until_built
    from aml_jupyter.environment.solving import solve

    given = {**private.of_file(clean.get("file")), **found}

    def solved(unbuildable: Mapping[str, str]) -> Lock:
        return solve(
            clean,
            platform=platform_here(),
            base_python=version,
            tell=tell,
            credentials=given,
            unbuildable=unbuildable,
        )

    _, fresh = until_built(clean, solved, lambda lock: make(lock, tell, python=base, credentials=given), tell)
    _remember(name, fresh)
    return fresh


def make(
    lock: Lock,
    tell: Callable[[str], None],
    *,
    python: str | None = None,
    credentials: Mapping[str, str] | None = None,
) -> Made:
    """The environment of a lock on this computer, whole or not at all; two at once make it once.

    `python` is the interpreter that a lock without a Python of its own stands on, this one unless said.
    Raises EnvironmentFailed `environment.build_failed`, `environment.channel_unreachable`,
    `environment.tool_missing`, `environment.unsupported`.
    """
    base = python or sys.executable
    made = _place(lock, base)
    if _is_whole(made):
        return made
    if lock.platform != platform_here():
        raise EnvironmentFailed(
            f"a lock for {lock.platform} cannot be installed on {platform_here()}",
            code="environment.unsupported",
        )
    with only_one(made.prefix, tell):
        if not _is_whole(made):
            _build(lock, made, base, tell, credentials or {})
    return made


def _build(
    lock: Lock, made: Made, base: str, tell: Callable[[str], None], credentials: Mapping[str, str]
) -> None:
    from aml_jupyter.confined import make_root, remove_tree, write_atomic
    from aml_jupyter.environment import conda_packages, pip_packages

    tell(f"making the environment {made.prefix}")
    _clear(made.prefix)
    try:
        make_root(made.prefix)
        if lock.owns_python:
            conda_packages.install_conda(lock, made.prefix, made.prefix, tell, credentials=credentials)
        else:
            pip_packages.make_venv(base, made.prefix, tell)
        pip_packages.install_pip(lock, made.python, tell, credentials=credentials)
        _clean_addresses(lock, made.prefix)
        _try(made.python)
        _sync(made.prefix)
        write_atomic(f"{made.prefix}/{MARK}", b'{"format": 1, "lock": "%s"}\n' % lock.digest.encode())
    except BaseException:
        remove_tree(made.prefix)
        raise


def _clean_addresses(lock: Lock, prefix: str) -> None:
    """Take credentials out of the files in which installers note where a package came from."""
    import json
    from glob import escape, glob

    if not any(package.source in ("url", "git") for package in lock.pip):
        return
    for path in glob(f"{escape(prefix)}/lib/python*/site-packages/*.dist-info/direct_url.json"):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        found = json.loads(text)
        clean = private.strip(str(found.get("url")))
        if clean != found.get("url"):
            # the installer's file may be a link to its cache
            os.unlink(path)
            with open(path, "x", encoding="utf-8") as file:
                json.dump({**found, "url": clean}, file)


def _clear(prefix: str) -> None:
    from aml_jupyter.confined import remove_tree

    if os.path.lexists(prefix):
        remove_tree(prefix)


def _try(python: str) -> None:
    import subprocess

    try:
        answer = subprocess.run(
            [python, "-I", "-c", "import sys"], check=False, capture_output=True, text=True, timeout=60
        )
        said = answer.stderr.strip().splitlines()
        failure = (said or [f"status {answer.returncode}"])[-1] if answer.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    if failure:
        raise EnvironmentFailed(
            f"the environment's Python does not start: {failure}",
            code="environment.build_failed",
            hint="The package `python` of the channels is not for this system. Name other channels.",
        )


def _sync(prefix: str) -> None:
    # the mark must not reach the disk before the files
    fd = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync_file_system(fd)
    finally:
        os.close(fd)


def _sync_file_system(fd: int) -> None:
    import ctypes

    syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
    if syncfs is None or syncfs(fd) != 0:
        os.sync()


# --- where it is --------------------------------------------------------------------------------------------


def platform_here() -> str:
    """The platform of this computer as channels name it (`linux-64`)."""
    machine = os.uname().machine
    if sys.platform == "darwin":
        return "osx-arm64" if machine == "arm64" else "osx-64"
    return "linux-" + {"x86_64": "64", "arm64": "aarch64", "i686": "32"}.get(machine, machine)


def _place(lock: Lock, base: str) -> Made:
    digest = lock.digest
    name = digest[:16] if lock.owns_python else f"{digest[:16]}-{_short(base)}"
    prefix = f"{aml_home()}/envs/{name}"
    return Made(prefix=prefix, python=f"{prefix}/bin/python", lock=digest)


def _is_whole(made: Made) -> bool:
    # the interpreter may be a link to one that has been removed
    return os.path.exists(f"{made.prefix}/{MARK}") and os.access(made.python, os.X_OK)


def _of_request(name: str) -> Made | None:
    try:
        folder, _, digest = os.readlink(f"{aml_home()}/envs/requests/{name}").rpartition("#")
    except OSError:  # never asked for
        return None
    prefix = f"{aml_home()}/envs/{os.path.basename(folder)}"
    made = Made(prefix=prefix, python=f"{prefix}/bin/python", lock=digest)
    return made if _is_whole(made) else None


def _remember(name: str, made: Made) -> None:
    from aml_jupyter.confined import make_root

    folder = f"{aml_home()}/envs/requests"
    make_root(folder)
    fresh = f"{folder}/.{name}.{os.getpid()}"
    # a link is written whole by one call; its text is data, nothing follows it
    os.symlink(f"{made.prefix}#{made.lock}", fresh)
    os.replace(fresh, f"{folder}/{name}")


def _short(path: str) -> str:
    from binascii import crc32

    return f"{crc32(os.fsencode(os.path.realpath(path))):08x}"


def _version(python: str) -> str:
    if python == sys.executable:
        return ".".join(map(str, sys.version_info[:3]))
    from aml_jupyter.packages import version

    found = version(python)
    if found:
        return found
    raise EnvironmentFailed(
        f"the version of {python} is not known",
        code="environment.build_failed",
        hint="pythonLocation of the .compute file must be a Python 3.8 or newer.",
    )
