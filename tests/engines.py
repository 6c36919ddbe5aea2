"""Docker engines for tests: the machine's own, and private ones that can be killed.

A private engine shares nothing with another engine of the machine: roots, socket, containerd namespaces,
bridge, packet rules and parent of its control groups are its own, and all of them are gone after `remove`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from aml_jupyter import processes
from aml_jupyter.executors.docker.containers import home_label
from tests.base_image import BASE_IMAGE, DEFAULT_IMAGE, RECIPE_DIGEST, archive, locked
from tests.requirements import missing, need

__all__ = ["BASE_IMAGE", "DEFAULT_IMAGE", "Engine", "PrivateEngine"]

DEFAULT_SOCKET = "/var/run/docker.sock"
# programs that an engine starts
_PROGRAMS = ("dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker-proxy", "docker-init")
_SUBNET = "172.30.{}"
_PREFIX = "aml-engine-"
_STATE = "state.json"

# every AML_HOME of this process's tests
HOMES: list[str] = []
# references of environment images that tests keep on purpose, because making them takes long
KEPT_IMAGES: list[str] = []
# engines of the machine that this process's tests used
_USED: list[Engine] = []


class Engine:
    """A Docker engine behind a Unix socket."""

    def __init__(self, path: str) -> None:
        self.socket = path

    @property
    def host(self) -> str:
        """Its address as DOCKER_HOST has it."""
        return "unix://" + self.socket

    def ask(self, path: str, seconds: float = 10) -> tuple[int, bytes]:
        """Status and body of a GET; status 0 when nothing answers."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds)
            try:
                connection.connect(self.socket)
                connection.sendall(f"GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            except OSError:
                return 0, b""
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]) if head else 0, body

    def get(self, path: str) -> Any:
        """The JSON of a GET that must succeed."""
        status, body = self.ask(path)
        assert status == 200, (path, status, body)
        return json.loads(body)

    def answers(self) -> bool:
        """Whether it can be used now."""
        return self.ask("/_ping")[0] == 200

    def docker(self, *words: str, check: bool = True, timeout: float = 120) -> str:
        """Run the command `docker` against this engine; what it printed."""
        done = subprocess.run(
            [need("docker"), "--host", self.host, *words],
            env={name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def containers(self, *filters: str) -> list[dict[str, Any]]:
        """Inspected containers in any state, by filters such as `label=aml.made=1`."""
        given = [word for one in filters for word in ("--filter", one)]
        ids = self.docker("ps", "--all", "--quiet", "--no-trunc", *given).split()
        # another process may remove one in between
        answers = [self.ask(f"/containers/{one}/json") for one in ids]
        return [json.loads(body) for status, body in answers if status == 200]

    def load_base(self) -> None:
        """Have the base image, under both of its names."""
        if self._recipe() != RECIPE_DIGEST:
            tar = _archive()
            if tar is not None:
                label = f"LABEL aml.test.recipe={RECIPE_DIGEST}"
                self.docker("import", "--change", label, "--change", 'CMD ["python3"]', str(tar), BASE_IMAGE)
            else:
                self.docker("pull", "--quiet", DEFAULT_IMAGE, check=False, timeout=600)
                if self.ask(f"/images/{DEFAULT_IMAGE}/json")[0] != 200:
                    missing(
                        "docker", f"no mmdebstrap to make a base image, and {DEFAULT_IMAGE} cannot be pulled"
                    )
                self.docker("tag", DEFAULT_IMAGE, BASE_IMAGE)
        if self.ask(f"/images/{DEFAULT_IMAGE}/json")[0] != 200:
            self.docker("tag", BASE_IMAGE, DEFAULT_IMAGE)

    def _recipe(self) -> str:
        """What the base image that is there was made by; one of a registry counts where none is made."""
        status, body = self.ask(f"/images/{BASE_IMAGE}/json")
        if status != 200:
            return ""
        labels = json.loads(body)["Config"]["Labels"] or {}
        return str(labels.get("aml.test.recipe", "" if shutil.which("mmdebstrap") else RECIPE_DIGEST))

    def remove_containers(self) -> None:
        """Kill and remove every container, whosever it is."""
        if ids := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", "--volumes", *ids, check=False)


def _archive() -> Path | None:
    try:
        return archive()
    except RuntimeError as error:
        missing("docker", str(error))
        raise


# --- the machine's own engine -------------------------------------------------------------------------------


def shared_engine(scratch: Path) -> Engine:
    """The engine that DOCKER_HOST names or that answers on the usual socket, else one started now.

    `scratch` is a folder that all workers of a suite share; `end_shared_engine` ends what was started.
    """
    need("docker")
    given = os.environ.get("DOCKER_HOST", "")
    engine = Engine(given.removeprefix("unix://") if given.startswith("unix://") else DEFAULT_SOCKET)
    with locked(scratch / "engine.lock"):
        if not engine.answers():
            if given or os.geteuid() != 0 or not shutil.which("dockerd"):
                missing(
                    "docker", f"no engine answers at {given or DEFAULT_SOCKET}, and none can be started here"
                )
            if not any(_program(pid) == "dockerd" for pid in _pids()):
                # of one that was killed: the next would wait for whoever has these ids now
                for stale in ("docker.pid", "docker/containerd/containerd.pid"):
                    Path("/var/run", stale).unlink(missing_ok=True)
            pid = _spawn([need("dockerd")], scratch / "dockerd.log")
            (scratch / "engine.pid").write_text(str(pid))
            _wait_for_engine(engine, pid, scratch / "dockerd.log", 60)
        engine.load_base()
    _USED.append(engine)
    return engine


def end_shared_engine(scratch: Path) -> None:
    """End the engine that `shared_engine` started, if it did."""
    with contextlib.suppress(FileNotFoundError):
        pid = int((scratch / "engine.pid").read_text())
        if _program(pid) == "dockerd":
            _end([pid], signal.SIGTERM, 30)


def left_in_shared_engines() -> list[str]:
    """What the runs of this process's tests left in engines that outlive it."""
    return [line for engine in _USED for line in leftovers(engine, HOMES)]


def leftovers(engine: Engine, homes: list[str], seconds: float = 20) -> list[str]:
    """Containers, volumes and images that runs of these homes left; what is being removed has some time."""
    began = time.monotonic()
    while found := _made_by(engine, homes):
        # a removal that was accepted has taken an engine over a minute
        going = all("Removal In Progress" in line for line in found)
        if time.monotonic() > began + (180 if going else seconds):
            break
        time.sleep(0.2)
    return found


def home_mark(home: str) -> str:
    """What the label `aml.home` says of everything made for a home."""
    return home_label(home)


def _made_by(engine: Engine, homes: list[str]) -> list[str]:
    kinds = {
        "container": ("ps", "--all", "--format", "{{.ID}} {{.Names}} {{.Status}}"),
        "volume": ("volume", "ls", "--format", "{{.Name}}"),
        "image": ("image", "ls", "--all", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"),
    }
    found = []
    for kind, words in kinds.items():
        # one listing says whether there is anything to look at: labels cannot be asked for by "one of"
        if engine.docker(*words, "--filter", "label=aml.made=1"):
            for home in homes:
                mark = home_mark(home)
                lines = engine.docker(*words, "--filter", f"label=aml.home={mark}").splitlines()
                found += [
                    f"{kind} {line} of {home}" for line in lines if not {*line.split()} & {*KEPT_IMAGES}
                ]
    return found


# --- engines of a test's own --------------------------------------------------------------------------------


class PrivateEngine(Engine):
    """An engine that a test may stop, kill and start again; needs root.

    `live_restore` lets containers outlive it.  `disk` gives its data a disk of that many bytes.
    """

    def __init__(self, *, live_restore: bool = False, disk: int = 0) -> None:
        need("root")
        for program in ("dockerd", "docker", "ip", "iptables"):
            need(program)
        remove_abandoned()
        # a short path: addresses of sockets end at 107 bytes
        self._is(Path(tempfile.mkdtemp(prefix=_PREFIX)), "aml" + secrets.token_hex(4), "")
        self.folder.chmod(0o711)
        self.live_restore = live_restore
        self.data.mkdir()
        (self.folder / "daemon.json").write_text("{}")
        try:
            if disk:
                self._make_disk(disk)
            else:  # in memory: removing the files of an image from a disk takes longer than most tests
                _run(need("mount"), "-t", "tmpfs", "-o", "size=4g,mode=711", "aml-tests", str(self.data))
            self._make_bridge()
        except BaseException:
            self.remove()
            raise

    def _is(self, folder: Path, mark: str, subnet: str) -> None:
        super().__init__(str(folder / "docker.sock"))
        self.folder, self.mark, self.subnet = folder, mark, subnet
        self.data = folder / "data"
        self.log = folder / "log"
        self.pid = 0

    def __enter__(self) -> PrivateEngine:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *problem: object) -> None:
        self.remove()

    # what it is made of

    def _make_disk(self, size: int) -> None:
        image = self.folder / "disk"
        with image.open("wb") as file:
            file.truncate(size)
        _run(need("mkfs.ext4"), "-q", str(image))
        _run(need("mount"), "-o", "loop", str(image), str(self.data))

    def _make_bridge(self) -> None:
        with locked(Path(tempfile.gettempdir()) / "aml-bridges.lock"):
            taken = _run("ip", "-4", "-oneline", "route")
            numbers = [n for n in range(1, 255) if _SUBNET.format(n) + "." not in taken]
            self.subnet = _SUBNET.format(random.choice(numbers))
            # for whoever finds this after its process was killed
            state = [self.mark, self.subnet, processes.identity(os.getpid())]
            (self.folder / _STATE).write_text(json.dumps(state))
            _run("ip", "link", "add", self.mark, "type", "bridge")
            _run("ip", "address", "add", f"{self.subnet}.1/24", "dev", self.mark)
            _run("ip", "link", "set", self.mark, "up")
        for table, *rule in self._rules():
            _run("iptables", "-w", "-t", table, "-I", *rule)

    def _rules(self) -> list[list[str]]:
        """Its packet rules: an engine that made its own would flush those of every other when it starts."""
        return [
            ["nat", "POSTROUTING", "-s", f"{self.subnet}.0/24", "!", "-o", self.mark, "-j", "MASQUERADE"],
            ["filter", "FORWARD", "-i", self.mark, "-j", "ACCEPT"],
            ["filter", "FORWARD", "-o", self.mark, "-j", "ACCEPT"],
        ]

    def _command(self) -> list[str]:
        folder = self.folder
        return [
            need("dockerd"),
            f"--config-file={folder}/daemon.json",
            f"--data-root={self.data}",
            f"--exec-root={folder}/exec",
            f"--pidfile={folder}/docker.pid",
            f"--host={self.host}",
            f"--containerd-namespace={self.mark}",
            f"--containerd-plugins-namespace={self.mark}p",
            f"--bridge={self.mark}",
            "--iptables=false",
            # by this the processes of its containers are found, whatever became of their parents
            f"--cgroup-parent={self._control_group}",
            "--shutdown-timeout=10",
            "--log-level=warn",
            *(["--live-restore"] if self.live_restore else []),
        ]

    @property
    def _control_group(self) -> str:
        # a name that systemd takes as well
        return f"{self.mark}.slice"

    # its life

    def start(self) -> None:
        """Start it and wait until it answers; removes what a killed one left that would stop it."""
        for stale in ("docker.pid", "exec/containerd/containerd.pid", "docker.sock"):
            (self.folder / stale).unlink(missing_ok=True)
        self.pid = _spawn(self._command(), self.log)
        _wait_for_engine(self, self.pid, self.log, 60)

    def stop(self) -> None:
        """End it as a service manager does; it ends its containers first, unless they may live on."""
        _end(self._taken_pid(), signal.SIGTERM, 40)

    def _taken_pid(self) -> list[int]:
        """The pid of the engine, for the last time: 0 would be everybody of this process's group."""
        self.pid, pid = 0, self.pid
        return [pid] if pid else []

    def kill(self) -> None:
        """Kill it with its containerd, as a crash does; containers and their shims live on."""
        _end(self._taken_pid(), signal.SIGKILL, 10)
        _end(self.processes("containerd"), signal.SIGKILL, 10)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def processes(self, *programs: str) -> list[int]:
        """Pids of the engine's own programs, all unless named; containers not counted."""
        found = []
        for pid in _pids():
            # the folder is in the arguments of each of them
            arguments = _read(f"/proc/{pid}/cmdline")
            if str(self.folder).encode() in arguments and _program(pid) in (programs or _PROGRAMS):
                found.append(pid)
        return found

    def container_processes(self) -> list[int]:
        """Pids of all that runs in its containers."""
        mark = self._control_group.encode()
        return [pid for pid in _pids() if mark in _read(f"/proc/{pid}/cgroup") and not _gone(pid)]

    def remove(self) -> None:
        """End all of it and leave nothing behind; may be repeated."""
        if self.answers() and self.processes("containerd"):
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                self.remove_containers()
        # first whoever would start others again
        _end(self._taken_pid(), signal.SIGKILL, 10)
        _end(self.processes("dockerd", "containerd"), signal.SIGKILL, 10)
        _end(self.processes(), signal.SIGKILL, 10)
        _end(self.container_processes(), signal.SIGKILL, 10)
        self._unmount()
        self._remove_control_groups()
        for table, *rule in self._rules():
            _run("iptables", "-w", "-t", table, "-D", *rule, check=False)
        if Path("/sys/class/net", self.mark).exists():
            _run("ip", "link", "delete", self.mark)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _unmount(self) -> None:
        inside = str(self.folder) + "/"
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in sorted((one for one in points if one.startswith(inside)), reverse=True):
            _run("umount", "--lazy", point, check=False)

    def _remove_control_groups(self) -> None:
        for top in Path("/sys/fs/cgroup").glob(f"**/{self._control_group}"):
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):  # a process that is being reaped
                    os.rmdir(folder)


def remove_abandoned() -> None:
    """Remove private engines whose process was killed before it could."""
    for state in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_STATE}"):
        # another one may be removing it, too
        with contextlib.suppress(FileNotFoundError, ValueError):
            mark, subnet, owner = json.loads(state.read_text())
            if not processes.is_alive(owner):
                engine = PrivateEngine.__new__(PrivateEngine)
                engine._is(state.parent, mark, subnet)
                engine.remove()


# --- processes ----------------------------------------------------------------------------------------------


def _spawn(command: list[str], log: Path) -> int:
    """Start a service in a session of its own; it outlives this process."""
    with open(log, "ab") as out, open(os.devnull, "rb") as nothing:
        files = [(os.POSIX_SPAWN_DUP2, nothing.fileno(), 0)]
        files += [(os.POSIX_SPAWN_DUP2, out.fileno(), number) for number in (1, 2)]
        return os.posix_spawn(command[0], command, os.environ, file_actions=files, setsid=True)


def _wait_for_engine(engine: Engine, pid: int, log: Path, seconds: float) -> None:
    due = time.monotonic() + seconds
    while not engine.answers():
        said = log.read_text(errors="replace")[-2000:]
        assert not _gone(pid), f"the engine ended: {said}"
        assert time.monotonic() < due, f"the engine does not answer: {said}"
        time.sleep(0.05)


def _end(pids: list[int], number: int, seconds: float) -> None:
    """Send a signal and wait for the end; SIGKILL when that takes too long."""
    for pid in pids:
        _send(pid, number)
    due = time.monotonic() + seconds
    while not all(map(_gone, pids)):
        if time.monotonic() > due:
            for pid in pids:
                _send(pid, signal.SIGKILL)
            return
        time.sleep(0.02)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _gone(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    # somebody else's child: dead when it is no more than an entry in the table
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2][:2] in (b"", b" Z")


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _program(pid: int) -> str:
    return os.path.basename(_read(f"/proc/{pid}/cmdline").partition(b"\0")[0]).decode(errors="replace")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # it has ended
        return b""


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert not check or done.returncode == 0, (command, done.stderr)
    return done.stdout
