"""A conda channel on disk: the running Python as a package, and small ones that need it.

It is made once for each interpreter and kept in the system's folder for temporary files, so that every worker
and every later run of the suite finds it.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

VERSION = ".".join(map(str, sys.version_info[:3]))
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
MACHINE = {"x86_64": "64", "arm64": "aarch64"}.get(os.uname().machine, os.uname().machine)
PLATFORM = f"linux-{MACHINE}"
# for another kind of machine there is a Python without files: enough to be solved for
OTHER_PLATFORM = "linux-aarch64" if MACHINE == "64" else "linux-64"

# what a Python of a run never imports, or what needs half a desktop
_LEFT_OUT = ("test", "site-packages", "__pycache__", "config-*", "idlelib", "tkinter", "ensurepip", "lib2to3")
_LEFT_OUT_MODULES = ("_tkinter*", "nis.*", "_curses*", "readline*", "_gdbm*", "_dbm*", "_test*", "xx*")
# the C library belongs to the machine
_OF_THE_SYSTEM = (
    "libc.",
    "libm.",
    "ld-linux",
    "linux-vdso",
    "libpthread",
    "libdl",
    "librt",
    "libutil",
    "libresolv",
)


@pytest.fixture(scope="session")
def conda_channel() -> str:
    """The address of a channel with `python`, `amlcheck` 1.0 and 2.0, `amlneeds` and `amlold`."""
    pytest.importorskip("rattler_build")
    if sys.platform != "linux":
        pytest.skip("the channel is made for Linux")
    key = hashlib.sha256(Path(__file__).read_bytes() + f"{VERSION} {sys.base_prefix}".encode()).hexdigest()[
        :12
    ]
    folder = Path(tempfile.gettempdir()) / f"aml-conda-channel-{os.getuid()}-{key}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            shutil.rmtree(folder / "channel", ignore_errors=True)
            _make(folder / "channel")
            (folder / "whole").touch()
    return f"file://{folder}/channel"


def _make(channel: Path) -> None:
    from rattler.index import index_fs

    with tempfile.TemporaryDirectory() as scratch:
        _python(channel, Path(scratch) / "python")
        _assemble(channel, Path(scratch) / "none", "python", VERSION, OTHER_PLATFORM, [])
        for version in ("1.0", "2.0"):
            _module(channel, Path(scratch) / f"amlcheck-{version}", "amlcheck", version, ["python"])
        _module(channel, Path(scratch) / "amlneeds", "amlneeds", "1.0", ["python", "amlcheck >=2"])
        _module(channel, Path(scratch) / "amlold", "amlold", "1.0", ["python <3.0"])
        # known to the package index too, in other versions
        _module(channel, Path(scratch) / "idna", "idna", "3.4", ["python"])
    asyncio.run(index_fs(channel))


def _module(channel: Path, folder: Path, name: str, version: str, depends: list[str]) -> None:
    package = folder / "site-packages" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"version = {version!r}\n")
    metadata = folder / "site-packages" / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "INSTALLER").write_text("conda\n")
    (metadata / "RECORD").write_text(
        f"{name}/__init__.py,,\n{metadata.name}/METADATA,,\n{metadata.name}/INSTALLER,,\n"
        f"{metadata.name}/RECORD,,\n"
    )
    _assemble(channel, folder, name, version, "noarch", depends)


def _assemble(
    channel: Path, folder: Path, name: str, version: str, platform: str, depends: list[str]
) -> None:
    import rattler_build

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "share").mkdir(exist_ok=True)
    (folder / "share" / f"{name}.txt").write_text(f"{name} {version}\n")
    rattler_build.assemble_package(
        name,
        version,
        platform,
        "py_0" if platform == "noarch" else "h_0",
        channel / platform,
        files_dir=folder,
        depends=depends,
        noarch="python" if platform == "noarch" else None,
        compression_level=1,
    )


def _python(channel: Path, folder: Path) -> None:
    """The running Python with the libraries it needs, able to run from any folder."""
    base = Path(sys.base_prefix)
    library = folder / "lib" / f"python{MINOR}"
    shutil.copytree(base / "lib" / f"python{MINOR}", library, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    for pattern in _LEFT_OUT_MODULES:
        for path in (library / "lib-dynload").glob(pattern):
            path.unlink()
    (library / "site-packages").mkdir()
    (library / "site-packages" / "README.txt").write_text("packages\n")
    (folder / "bin").mkdir()
    shutil.copy2(os.path.realpath(base / "bin" / f"python{MINOR}"), folder / "bin" / f"python{MINOR}")
    for name in ("python", "python3"):
        (folder / "bin" / name).symlink_to(f"python{MINOR}")
    binaries = [folder / "bin" / f"python{MINOR}", *(library / "lib-dynload").glob("*.so")]
    for path in sorted(_libraries(binaries)):
        shutil.copy2(path, folder / "lib" / path.name)
    for path in (*binaries, *(folder / "lib").glob("libpython*")):
        _relocate(path, str(base / "lib"), os.path.relpath(folder / "lib", path.parent))
    _assemble(channel, folder, "python", VERSION, PLATFORM, [])


def _libraries(binaries: list[Path]) -> set[Path]:
    answer = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True)
    found = [line.split(" => ")[1].split(" (")[0] for line in answer.stdout.splitlines() if " => /" in line]
    return {Path(path) for path in found if not Path(path).name.startswith(_OF_THE_SYSTEM)}


def _relocate(path: Path, built_for: str, relative: str) -> None:
    """Let a binary look for its libraries beside itself: its search path is overwritten in place."""
    old, new = built_for.encode() + b"\0", f"$ORIGIN/{relative}".encode() + b"\0"
    data = path.read_bytes()
    if len(new) <= len(old) and old in data:
        path.chmod(0o755)
        path.write_bytes(data.replace(old, new.ljust(len(old), b"\0")))
