"""The processes that came from a job, and how they are ended."""

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # to types they are one module
else:
    import _signal

CHASES = 500
LINUX = sys.platform.startswith("linux")


class Process:
    """A row of the process table."""

    __slots__ = ("group", "parent", "pid")

    def __init__(self, pid: int, parent: int, group: int) -> None:
        self.pid = pid
        self.parent = parent
        self.group = group


def _read(path: str, size: int) -> bytes:
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        parts = [posix.read(fd, size)]
        while len(parts[-1]) == size:
            parts.append(posix.read(fd, size))
        return b"".join(parts)
    finally:
        posix.close(fd)


def _linux_table() -> "list[Process]":
    table = []
    for name in posix.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = _read("/proc/%s/stat" % name, 4096)
        except OSError:  # it ended meanwhile
            continue
        fields = stat.rpartition(b")")[2].split()
        if len(fields) > 2 and fields[0] not in (b"Z", b"X"):
            table.append(Process(int(name), int(fields[1]), int(fields[2])))
    return table


def _ps(*options: str) -> "list[str]":
    import subprocess

    command = ["ps", "-ax", *options]
    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return found.stdout.decode("utf-8", "replace").splitlines()


def _portable_table() -> "list[Process]":
    table = []
    for line in _ps("-o", "pid=", "-o", "ppid=", "-o", "pgid=", "-o", "stat="):
        fields = line.split()
        if len(fields) == 4 and not fields[3].startswith("Z"):
            table.append(Process(*(int(one) for one in fields[:3])))
    return table


def _marked(marker: bytes) -> "set[int]":
    """Pids whose environment at their start held `marker`: what a double fork without sub-reaper hides."""
    if not LINUX:
        text = marker.decode("utf-8", "replace")
        return {int(line.split()[0]) for line in _ps("-E", "-o", "pid=", "-o", "command=") if text in line}
    found = set()
    for name in posix.listdir("/proc"):
        if name.isdigit():
            try:
                if marker in _read("/proc/%s/environ" % name, 1 << 16).split(b"\0"):
                    found.add(int(name))
            except OSError:  # it ended, or belongs to somebody else
                continue
    return found


class Tree:
    """Everything that descends from a job.

    With a sub-reaper every descendant stays below this process; without one, processes that carry the job's
    marker in their environment or are in the main process's group count as well.
    """

    def __init__(self, main: int, marker: bytes, reaper: bool) -> None:
        self.main = main
        self.marker = marker
        self.reaper = reaper

    def processes(self) -> "list[Process]":
        """Living descendants, this process excluded; zombies do not count."""
        table = _linux_table() if LINUX else _portable_table()
        own = posix.getpid()
        children: "dict[int, list[Process]]" = {}
        for process in table:
            children.setdefault(process.parent, []).append(process)
        found = {}
        roots = list(children.get(own, ()))
        if not self.reaper:
            marked = _marked(self.marker)
            roots += [one for one in table if one.pid in marked or one.group == self.main]
        while roots:
            process = roots.pop()
            if process.pid != own and process.pid not in found:
                found[process.pid] = process
                roots += children.get(process.pid, ())
        return list(found.values())

    def signal(self, number: int) -> int:
        """Send a signal to every descendant, by groups first: a fork cannot slip past a signal to its group.

        Returns how many processes there were.
        """
        found = self.processes()
        own_group = posix.getpgrp()
        reached = set()
        for group in {process.group for process in found}:
            if group not in (0, 1, own_group):
                try:
                    posix.killpg(group, number)
                    reached.add(group)
                except OSError:  # it ended, or changed user
                    pass
        for process in found:
            if process.group not in reached:
                _kill(process.pid, number)
        return len(found)

    def terminate(self) -> int:
        """Ask every descendant to end; stopped ones are woken to hear it."""
        count = self.signal(_signal.SIGTERM)
        self.signal(_signal.SIGCONT)
        return count

    def kill(self) -> int:
        """End every descendant that there is now."""
        return self.signal(_signal.SIGKILL)

    def chase(self) -> None:
        """After the main process: end orphans that replace themselves faster than a table is read."""
        for _ in range(CHASES):
            children = _own_children()
            if not children:
                return
            for pid in children:
                _kill(pid, _signal.SIGKILL)
            _reap_all()


def _own_children() -> "list[int]":
    try:
        return [int(pid) for pid in _read("/proc/self/task/%d/children" % posix.getpid(), 1 << 16).split()]
    except OSError:  # not every kernel lists them
        return []


def _reap_all() -> None:
    try:
        while posix.waitpid(-1, posix.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _kill(pid: int, number: int) -> None:
    try:
        posix.kill(pid, number)
    except OSError:  # it ended, or changed user
        pass
