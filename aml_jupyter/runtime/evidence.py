"""Evidence that the kernel killed something for want of memory, from counters it keeps."""

import posix


def _lines(path: str) -> "list[str]":
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return []
    try:
        return posix.read(fd, 1 << 16).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    finally:
        posix.close(fd)


def _counter(path: str) -> int:
    for line in _lines(path):
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return -1


def _own_groups() -> "list[str]":
    """Files that may count this control group's kills; in a container the mount is the group already."""
    found = []
    for line in _lines("/proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                found += [mount + path.rstrip("/") + "/memory.events", mount + "/memory.events"]
        elif "memory" in controllers.split(","):
            mount = "/sys/fs/cgroup/memory"
            found += [mount + path.rstrip("/") + "/memory.oom_control", mount + "/memory.oom_control"]
    return found


class MemoryKills:
    """Counts kills for want of memory since it was made.

    `exact` says that the counter is of this process's own control group, not of the whole machine.
    """

    def __init__(self) -> None:
        self.path = ""
        self.exact = True
        for path in _own_groups():
            self.before = _counter(path)
            if self.before >= 0:
                self.path = path
                return
        self.exact = False
        self.path = "/proc/vmstat"
        self.before = _counter(self.path)

    def count(self) -> int:
        """How many there were; 0 where the system does not say."""
        now = _counter(self.path)
        return max(0, now - self.before) if self.before >= 0 else 0
