"""The image that tests run containers from, made of Debian packages: no registry is needed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BASE_IMAGE = "aml-test-base:bookworm"
# what a run on a Python 3.11 takes that names no image
DEFAULT_IMAGE = "python:3.11-slim"

_MIRROR = "http://deb.debian.org/debian"
# no manuals and translations: half as many files to import
_RECIPE = (
    "--variant=minbase",
    "--include=python3,python3-pip,python3-venv,ca-certificates",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--format=tar",
    "bookworm",
)
RECIPE_DIGEST = hashlib.sha256(" ".join(_RECIPE).encode()).hexdigest()[:8]
# read before any test moves HOME
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aml_jupyter-tests"


def archive() -> Path | None:
    """The root file system as a tar, made the first time (20 to 50 s); None without mmdebstrap.

    Raises RuntimeError with what mmdebstrap said when it failed.
    """
    path = _CACHE / f"base-bookworm-{_architecture()}-{RECIPE_DIGEST}.tar"
    if path.exists():
        return path
    if not shutil.which("mmdebstrap"):
        return None
    _CACHE.mkdir(parents=True, exist_ok=True)
    with locked(_CACHE / "lock"):
        if not path.exists():
            _make(path)
    return path


def _make(path: Path) -> None:
    part = path.with_suffix(".part")
    done = subprocess.run(
        ["mmdebstrap", "--quiet", *_RECIPE, str(part), _mirror()],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        part.unlink(missing_ok=True)
        raise RuntimeError(f"mmdebstrap failed: {done.stderr[-2000:]}")
    part.rename(path)


def _architecture() -> str:
    return os.uname().machine


def _mirror() -> str:
    """Where this machine's own packages come from, when it is a Debian."""
    if not shutil.which("apt-get"):
        return _MIRROR
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"],
        capture_output=True,
        text=True,
    )
    for line in listed.stdout.splitlines():
        uri, _, codename = line.partition(" ")
        if codename == "bookworm" and "debian" in uri and "security" not in uri:
            return uri
    return _MIRROR


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes wait for."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
