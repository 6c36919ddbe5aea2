"""An sshd of a test's own on loopback: own key, own configuration, up in some 30 ms, stopped by pid."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from aml_jupyter.connection import Connection, Timing
from tests.requirements import need

# quick to notice a dead line, quick to give up, gone soon after the test
QUICK = Timing(connect=3, login=15, alive_interval=1, alive_count=2, persist=20, attempts=4, pause=0.05)


class Sshd:
    """A running sshd; `port`, `user_key` (the private key that it lets in), `known_hosts` (holds its key).

    Settings are lines of sshd_config by name, such as `MaxSessions=1`.
    """

    def __init__(self, **settings: object) -> None:
        self._program = need("sshd")
        need("ssh")
        # other users must be able to come to the list of keys
        self.folder = Path(tempfile.mkdtemp(prefix="aml-sshd-"))
        self.folder.chmod(0o755)
        self.settings = settings
        self.port = _free_port()
        self.user_key = str(make_key(self.folder / "user_key"))
        self.host_key = make_key(self.folder / "host_key")
        self.known_hosts = str(self.folder / "known_hosts")
        self.log = self.folder / "log"
        self.connections: list[Connection] = []
        self._process: subprocess.Popen[bytes] | None = None
        shutil.copy(self.folder / "user_key.pub", self.folder / "authorized_keys")
        self.write_known_hosts()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.connections:
            connection.close()
        self.stop()
        shutil.rmtree(self.folder)

    @property
    def known_name(self) -> str:
        """The name under which a file of known hosts has this machine."""
        return f"[127.0.0.1]:{self.port}"

    @property
    def options(self) -> tuple[str, ...]:
        """What ssh must be told to meet neither keys nor known hosts of whoever runs the tests."""
        return (
            *(f"UserKnownHostsFile={self.known_hosts}", "GlobalKnownHostsFile=none"),
            *("IdentityAgent=none", "UpdateHostKeys=no"),
        )

    def connect(self, folder: str | Path = "c", **changes: Any) -> Connection:
        """A connection that is closed with the server; it knows the host key and has the user's key.

        `folder`, where its sockets lie, is one of this server's unless it is absolute.
        """
        given: dict[str, Any] = {
            "port": self.port,
            "identity": self.user_key,
            "options": self.options,
            "timing": QUICK,
            "name": "box",
            **changes,
        }
        connection = Connection("127.0.0.1", folder=str(self.folder / folder), **given)
        self.connections.append(connection)
        return connection

    def write_known_hosts(self, public: str | None = None) -> None:
        """Let the known hosts hold the server's key, or another one."""
        kind, blob = (public or self.host_key.with_suffix(".pub").read_text()).split()[:2]
        Path(self.known_hosts).write_text(f"{self.known_name} {kind} {blob}\n")

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        config = self.folder / "config"
        config.write_text("".join(f"{key} {value}\n" for key, value in self._config().items()))
        self._process = subprocess.Popen([self._program, "-D", "-f", str(config), "-E", str(self.log)])
        deadline = time.monotonic() + 10
        while not self._listens():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.005)

    def stop(self) -> None:
        """Stop taking connections and end those there are."""
        if self._process is None:
            return
        for pid in [*_descendants(self._process.pid), self._process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _config(self) -> dict[str, object]:
        return {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": self.host_key,
            "AuthorizedKeysFile": self.folder / "authorized_keys",
            "PidFile": self.folder / "pid",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "Subsystem": "sftp internal-sftp",
            **self.settings,
        }

    def _listens(self) -> bool:
        # a probe that connects would count as a login: the kernel's table tells as much
        with open("/proc/net/tcp", encoding="ascii") as file:
            listening = f"0100007F:{self.port:04X} 00000000:0000 0A"
            return any(listening in line for line in file)


def make_key(path: Path, passphrase: str = "") -> Path:
    """A new key pair."""
    command = [need("ssh-keygen"), "-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


@contextmanager
def user(shell: str = "/bin/sh", password: str = "") -> Iterator[tuple[str, str]]:
    """A second user of this machine with a home and a password, for as long as a test needs one."""
    need("root")
    need("useradd")
    name, password = f"aml{secrets.token_hex(4)}", password or secrets.token_hex(8)
    _administer("useradd", "-m", "-s", shell, name)
    try:
        _administer("chpasswd", given=f"{name}:{password}\n")
        yield name, password
    finally:
        for pid in _of_user(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _administer("userdel", "-f", "-r", name)


@contextmanager
def silence(port: int) -> Iterator[None]:
    """Drop every packet from and to a port of loopback, as a line that is cut without a word."""
    need("root")
    iptables = need("iptables")
    rules = [
        ["INPUT", "-i", "lo", "-p", "tcp", way, str(port), "-j", "DROP"] for way in ("--dport", "--sport")
    ]
    done = []
    try:
        for rule in rules:
            subprocess.run([iptables, "-w", "10", "-I", *rule], check=True, capture_output=True)
            done.append(rule)
        yield
    finally:
        for rule in done:
            subprocess.run([iptables, "-w", "10", "-D", *rule], check=True, capture_output=True)


def _administer(program: str, *arguments: str, given: str = "") -> None:
    for _ in range(50):
        answer = subprocess.run([need(program), *arguments], input=given, capture_output=True, text=True)
        # userdel says so of a mail folder that was never made
        if answer.returncode == 0 or (program == "userdel" and answer.returncode == 12):
            return
        if "lock" not in answer.stderr:
            raise AssertionError(answer.stderr)
        time.sleep(0.1)
    raise AssertionError(answer.stderr)


def _of_user(name: str) -> list[int]:
    import pwd

    uid = pwd.getpwnam(name).pw_uid
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                found.append(int(entry.name))
    return found


def _descendants(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [*_descendants(int(child)), int(child)]
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
