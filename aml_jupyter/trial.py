"""What `aml targets test` looks at on this computer: one sentence for each thing, and what mends it."""

from __future__ import annotations

import os

from aml_jupyter.confined import FileFault, Root
from aml_jupyter.errors import AmlError
from aml_jupyter.frozen import Value
from aml_jupyter.printable import shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.share import Share

# bytes below which a run that is ordinary elsewhere fails here
LEAST_HOME = 1 << 30
LEAST_ENGINE = 3 << 30
# seconds by which a clock may differ before times of files and certificates go wrong
MOST_SKEW = 5.0


class Check(Value):
    """One thing that was looked at: `ok` is None where it could not be, or need not be."""

    name: str
    ok: bool | None
    message: str
    fix: str = ""


def failed(name: str, error: AmlError) -> Check:
    """A check that ended with an error of ours."""
    return Check(name=name, ok=False, message=f"{error.message} [{error.code}]", fix=error.hint)


def interpreter(python: str) -> Check:
    """Whether a program of this computer is a Python that runs."""
    import subprocess

    ask = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
    try:
        answer = subprocess.run(
            [python, "-E", "-s", "-c", ask], check=False, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name="python", ok=False, message=f"{python}: {error}", fix=_PYTHON)
    if answer.returncode:
        said = answer.stderr.strip().rpartition("\n")[2]
        return Check(
            name="python", ok=False, message=f"{python} ended with {answer.returncode}: {said}", fix=_PYTHON
        )
    return Check(name="python", ok=True, message=f"{python} is Python {answer.stdout.strip()}")


_PYTHON = "Set pythonLocation in the .compute file to the path of a Python, or remove the line."


def home(path: str) -> Check:
    """Whether AML_HOME, or the folder it will be made in, can be written and has space."""
    folder = _nearest(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check(name="AML_HOME", ok=False, message=f"{folder} may not be written",
                     fix="Set AML_HOME to a folder of your own.")  # fmt: skip
    found = os.statvfs(folder)
    return space("AML_HOME", path, found.f_bavail * found.f_frsize, LEAST_HOME,
                 "aml gc removes what no run needs; AML_HOME may name another disk.")  # fmt: skip


def space(name: str, path: str, free: int, least: int, fix: str) -> Check:
    """Whether a disk has room; `free` and `least` in bytes."""
    message = f"{path} has {shown_size(free)} free"
    if free >= least:
        return Check(name=name, ok=True, message=message)
    return Check(name=name, ok=False, message=f"{message}; {shown_size(least)} are wanted", fix=fix)


def share_here(share: Share | None, reason: str) -> Check:
    """Whether the shared folder on this computer can be made and written; `reason` is why there is none."""
    if share is None:
        return Check(name="share", ok=None, message=reason)
    from aml_jupyter.share import create

    name = f".aml-test-{os.getpid()}"
    try:
        warnings = create(share)
        with Root(share.path) as root:
            os.close(root.create_file(name))
            root.remove(name)
    except FileFault as error:
        return failed("share", error).replace(
            fix=f"ls -ld {share.path} shows owner and mode; nativeSharedDirectory may name another folder."
        )
    except AmlError as error:
        return failed("share", error)
    return Check(name="share", ok=True, message="; ".join([f"{share.path} can be written", *warnings]))


def clock(skew: float, whose: str) -> Check:
    """Whether a clock goes with this one; `skew` in seconds, negative when it is behind."""
    if abs(skew) <= MOST_SKEW:
        return Check(name="clock", ok=True, message=f"{whose} and here agree within {MOST_SKEW:g} s")
    side = "ahead of" if skew > 0 else "behind"
    return Check(
        name="clock",
        ok=False,
        message=f"{whose} is {abs(skew):.0f} s {side} this computer",
        fix="Set both by NTP: sudo timedatectl set-ntp true",
    )


def skew(seen: int, before: float, after: float) -> float:
    """How far a clock that was read between two moments is off, in seconds; it told whole seconds."""
    if seen + 1 < before:
        return seen + 1 - before
    return max(0.0, seen - after)


def _nearest(path: str) -> str:
    while not os.path.isdir(path) and path not in ("/", ""):
        path = os.path.dirname(path)
    return path or "."
