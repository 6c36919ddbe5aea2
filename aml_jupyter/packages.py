"""Which packages an interpreter has, read from the names of its metadata folders without starting it."""

from __future__ import annotations

import os

from aml_jupyter import plainjson
from aml_jupyter.confined import write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def record_environment(home: str, python: str) -> dict[str, Any]:
    """What a run's record says of its interpreter; the list of packages is kept once for each content.

    `{"python", "version", "packages", "digest"}`: path, version as far as it is known, number of packages,
    and the name of the list below `environments/`.
    """
    return {"python": python, "version": version(python), **keep(home, python, installed(python))}


def keep(home: str, python: str, packages: Mapping[str, str]) -> dict[str, Any]:
    """Keep a list of packages by its content: their number `packages`, and the `digest` that names it."""
    data = plainjson.dumps({"format": 1, "python": python, "packages": packages}, sort_keys=True).encode()
    import hashlib

    digest = hashlib.sha256(data).hexdigest()
    path = f"{home}/environments/{digest}.json"
    if not os.path.exists(path):
        os.makedirs(f"{home}/environments", mode=0o700, exist_ok=True)
        write_atomic(path, data, sync=False)
    return {"packages": len(packages), "digest": digest}


def installed(python: str) -> dict[str, str]:
    """Versions by package name, as normalised by PEP 503 but for dots; empty where the layout is unknown."""
    found: dict[str, str] = {}
    for folder in _site_packages(_prefix(python)):
        found.update(_in_folder(folder))
    return found


def version(python: str) -> str:
    """The version of an interpreter as its installation tells it, perhaps only `3.11`; else empty."""
    prefix = _prefix(python)
    settings = _settings(prefix)
    if told := settings.get("version") or settings.get("version_info"):
        return told
    try:
        names = [name for name in os.listdir(prefix + "/lib") if name.startswith("python3")]
    except OSError:
        return ""
    return names[0].removeprefix("python") if len(names) == 1 else ""


def _prefix(python: str) -> str:
    return os.path.dirname(os.path.dirname(python))


def _site_packages(prefix: str) -> list[str]:
    """The folders of an installation or virtual environment, and of what the latter stands on."""
    settings = _settings(prefix)
    prefixes = [prefix]
    if settings.get("include-system-site-packages") == "true" and settings.get("home"):
        prefixes.insert(0, os.path.dirname(settings["home"]))
    found = []
    for one in prefixes:
        try:
            names = os.listdir(one + "/lib")
        except OSError:  # an interpreter that is laid out in another way
            continue
        found += [f"{one}/lib/{name}/site-packages" for name in sorted(names) if name.startswith("python3")]
        found += [f"{one}/lib/{name}/dist-packages" for name in sorted(names) if name.startswith("python3")]
    return found


def _in_folder(folder: str) -> dict[str, str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    found = {}
    for name in names:
        stem, dot, ending = name.rpartition(".")
        if dot and ending in ("dist-info", "egg-info"):
            package, _, version = stem.partition("-")
            found[package.lower().replace("_", "-")] = version.partition("-py")[0]
    return found


def _settings(prefix: str) -> dict[str, str]:
    try:
        with open(prefix + "/pyvenv.cfg", encoding="utf-8") as file:
            pairs = (line.partition("=") for line in file)
            return {name.strip(): value.strip() for name, _, value in pairs}
    except (OSError, ValueError):
        return {}
