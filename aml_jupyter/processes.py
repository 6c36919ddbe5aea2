"""Who a process is: its pid, start time and boot id together, since a pid alone is used again."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

_LINUX = sys.platform.startswith("linux")


def boot_id() -> str:
    """A text that changes with every start of this machine."""
    if _LINUX:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    import psutil

    return str(int(psutil.boot_time()))


def _state_and_start(pid: int) -> tuple[str, str] | None:
    if _LINUX:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                stat = file.read()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # the command name may hold spaces and parentheses: the fields begin after the last one
        fields = stat[stat.rindex(b")") + 2 :].split()
        return fields[0].decode(), fields[19].decode()
    import psutil

    try:
        process = psutil.Process(pid)
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return ("Z" if zombie else "S"), f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def identity(pid: int) -> dict[str, Any]:
    """`{"pid", "start_time", "boot_id"}` of a process; start_time is empty when it is already gone."""
    found = _state_and_start(pid)
    return {"pid": pid, "start_time": found[1] if found else "", "boot_id": boot_id()}


def is_alive(who: Mapping[str, Any]) -> bool:
    """Whether the process of an identity still runs; a zombie does not."""
    if who.get("boot_id") != boot_id():
        return False
    found = _state_and_start(int(who["pid"]))
    return found is not None and found[0] not in "ZX" and found[1] == who.get("start_time")


def send_signal(who: Mapping[str, Any], number: int) -> bool:
    """Signal the process of an identity and no other; False when it is gone."""
    if not is_alive(who):
        return False
    try:
        os.kill(int(who["pid"]), number)
    except ProcessLookupError:
        return False
    return True


def with_environment(marker: bytes) -> Iterator[int]:
    """Pids of this user's processes whose initial environment holds `NAME=value`."""
    if not _LINUX:
        import psutil

        name, _, value = marker.decode().partition("=")
        for process in psutil.process_iter():
            try:
                if process.environ().get(name) == value:
                    yield process.pid
            except psutil.Error:
                continue
        return
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                found = marker in file.read().split(b"\0")
        except OSError:  # gone meanwhile, or somebody else's
            continue
        if found:
            yield int(entry)


def wait_end(who: Mapping[str, Any], seconds: float) -> None:
    """Sleep until the process of an identity ends, but no longer than `seconds`."""
    if seconds <= 0 or not is_alive(who):
        return
    try:
        fd = os.pidfd_open(int(who["pid"]))
    except (AttributeError, OSError):  # no pidfd on this system, or the process has just gone
        import time

        time.sleep(min(seconds, 0.05))
        return
    import select

    try:
        # asked again: the pid may have been given to another process before it was opened
        if is_alive(who):
            select.select([fd], [], [], seconds)
    finally:
        os.close(fd)
