"""Who this runtime is: pid, start time and boot together, since a pid alone is used again."""

import posix
import sys

import plain

LINUX = sys.platform.startswith("linux")


def _read(path: str) -> bytes:
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return posix.read(fd, 4096)
    finally:
        posix.close(fd)


def _output(command: "list[str]") -> str:
    import subprocess

    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return found.stdout.decode("utf-8", "replace").strip()


def boot_id() -> str:
    """A text that changes with every start of the machine; empty when that cannot be known."""
    try:
        if LINUX:
            return _read("/proc/sys/kernel/random/boot_id").decode("ascii").strip()
        # { sec = 1500000000, usec = 0 } ...
        return _output(["sysctl", "-n", "kern.boottime"]).split("sec = ")[1].split(",")[0]
    except (OSError, IndexError):
        return ""


def start_time(pid: int) -> str:
    """Field 22 of `/proc/PID/stat`, or seconds since 1970 on systems without it; empty when gone."""
    try:
        if LINUX:
            # the command's name may hold spaces and parentheses: fields begin after the last one
            return _read("/proc/%d/stat" % pid).rpartition(b")")[2].split()[19].decode("ascii")
        import time

        text = _output(["ps", "-o", "lstart=", "-p", str(pid)])
        return "%.2f" % time.mktime(time.strptime(text))
    except (OSError, IndexError, ValueError):
        return ""


def started(run_id: str, utc: str) -> str:
    """The text of `started.json`; ASCII."""
    pid = posix.getpid()
    return '{"format": 1, "run_id": %s, "pid": %d, "start_time": "%s", "boot_id": "%s", "utc": "%s"}\n' % (
        plain.dumps(run_id),
        pid,
        start_time(pid),
        boot_id(),
        utc,
    )
