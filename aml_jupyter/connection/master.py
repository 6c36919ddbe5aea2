"""The one connection to a machine that all commands of this user share: ssh's control master.

Its socket lies in a folder of this user alone.  Whoever finds it dead makes it again, one at a time; it
leaves by itself when nobody has used it for a while, and lives on when whoever made it is killed.
"""

from __future__ import annotations

import _thread
import os
import re
import time

from aml_jupyter import credentials
from aml_jupyter.connection.askpass import Askpass
from aml_jupyter.connection.failures import Busy, Refused, Whom, last_words, login_failure
from aml_jupyter.errors import ConfigError, TargetUnavailable
from aml_jupyter.frozen import Value
from aml_jupyter.locks import try_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from aml_jupyter.config import Secret

# an address of a socket holds 107 bytes, ssh adds 17 while it makes one
_LONGEST_FOLDER = 72
# a variable with further settings of ssh, each `Key=value`
OPTIONS = "AML_SSH_OPTIONS"
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")
_USER = re.compile(r"[^\s\x00-\x1f\x7f'\"`$;&|<>()\\@-][^\s\x00-\x1f\x7f'\"`$;&|<>()\\@]*")


class Timing(Value):
    """How long to wait, in seconds, and how often to try."""

    connect: float = 10.0
    login: float = 30.0
    alive_interval: int = 15
    alive_count: int = 3
    persist: int = 60
    attempts: int = 6
    pause: float = 0.25

    def sleep(self, attempt: int) -> None:
        """Wait before the next attempt: twice as long each time, and never all at the same moment."""
        import random

        time.sleep(min(self.pause * 2**attempt, 4.0) * random.uniform(0.5, 1.5))  # noqa: S311 - jitter


class Login(Value):
    """Where to and as whom; `options` are further settings of ssh, each `Key=value`."""

    whom: Whom
    password: Secret | None = None
    password_hint: str = ""
    identity: str | None = None
    options: tuple[str, ...] = ()
    timing: Timing = Timing()

    def arguments(self) -> list[str]:
        """What ssh is told to reach the machine; the user's own configuration adds to it, and never wins."""
        timing, whom = self.timing, self.whom
        given = [
            *("StrictHostKeyChecking=yes", "ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes"),
            *("PermitLocalCommand=no", "RemoteCommand=none", "RequestTTY=no", "Tunnel=no"),
            *self._ways(),
            # the first of two values counts: what follows can be set otherwise
            *self.options,
            f"ConnectTimeout={max(1, round(timing.connect))}",
            f"ServerAliveInterval={timing.alive_interval}",
            f"ServerAliveCountMax={timing.alive_count}",
            f"ControlPersist={timing.persist}",
        ]
        arguments = [word for option in given for word in ("-o", option)]
        arguments += ["-p", str(whom.port)] if whom.port else []
        arguments += ["-l", whom.username] if whom.username else []
        arguments += ["-i", self.identity] if self.identity else []
        return [*arguments, "--", whom.host]

    def _ways(self) -> list[str]:
        if self.password is None:
            return ["BatchMode=yes", *(["IdentitiesOnly=yes"] if self.identity else [])]
        # keys come first only when one was named: a full agent uses up the attempts before the password
        ways = "password,keyboard-interactive"
        key = ["IdentitiesOnly=yes"] if self.identity else []
        order = f"publickey,{ways}" if self.identity else ways
        return ["BatchMode=no", "NumberOfPasswordPrompts=1", f"PreferredAuthentications={order}", *key]


def checked(host: str, port: int | None, username: str | None) -> None:
    """Refuse what is no name of a machine or user, or what ssh would read as an option.

    Raises ConfigError `config.invalid`.
    """
    if len(host) > 255 or not _HOST.fullmatch(host):
        raise ConfigError(f"{host!r} is no name of a machine", hint="Write a host name or an IP address.")
    if username is not None and (len(username) > 255 or not _USER.fullmatch(username)):
        raise ConfigError(f"{username!r} is no login name", hint="Write the name alone.")
    if port is not None and not 0 < port < 65536:
        raise ConfigError(f"port {port} does not exist", hint="Ports are 1 to 65535.")


def program(name: str) -> str:
    """The path of a program of OpenSSH.  Raises TargetUnavailable `ssh.missing`."""
    import shutil

    found = shutil.which(name)
    if found is None:
        raise TargetUnavailable(
            f"there is no {name} on the search path of this computer",
            code="ssh.missing",
            hint="Install OpenSSH's client (Debian: openssh-client).",
        )
    return found


def further_options() -> tuple[str, ...]:
    """Settings of ssh that this user gives for all connections."""
    return tuple(os.environ.get(OPTIONS, "").split())


def environment() -> dict[str, str]:
    """This process's environment as ssh gets it: messages in English, no passwords, no program that asks."""
    return {**credentials.without_passwords(os.environ), "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}


class Master:
    """The shared connection of one login, by the socket through which ssh is told to use it."""

    def __init__(self, login: Login, folder: str) -> None:
        self.login = login
        self._wanted = os.path.abspath(folder)
        self._folder = ""
        self._users = -1
        self._guard = _thread.allocate_lock()
        self._made_before = False

    @property
    def folder(self) -> str:
        """The folder of the sockets, made when it is first asked for."""
        if not self._folder:
            self._folder = _socket_folder(self._wanted)
        return self._folder

    @property
    def path(self) -> str:
        """The control socket."""
        import hashlib

        login = self.login
        shown = (
            *login.whom.as_dict().values(),
            login.password is None,
            login.identity,
            login.options,
            login.timing,
        )
        return f"{self.folder}/{hashlib.sha256(repr(shown[1:]).encode()).hexdigest()[:12]}"

    def is_alive(self) -> bool:
        """Whether somebody answers at the control socket; says nothing of the line to the machine."""
        import socket

        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.path)
            except OSError:
                return False
        return True

    def ensure(self) -> None:
        """Connect unless somebody has.  Raises TargetUnavailable; a busy machine is tried again."""
        with self._guard:
            if self._users < 0:
                # held as long as this process uses the connection, so that who leaves last can end it
                self._users = self._lock(".users", shared=True)
        if self.is_alive():
            self._made_before = True
            return
        lock = self._lock(".lock")
        try:
            if not self.is_alive():
                self._connect_patiently()
            self._made_before = True
        finally:
            os.close(lock)

    def forward(self, remote: str) -> str:
        """A socket here that leads to one there."""
        import hashlib

        self.ensure()
        local = f"{self.path}-{hashlib.sha256(os.fsencode(remote)).hexdigest()[:8]}.sock"
        lock = self._lock(".lock")
        try:
            if not os.path.lexists(local):
                self._control("forward", "-L", f"{local}:{remote}")
        finally:
            os.close(lock)
        return local

    def close(self) -> None:
        """Stop using the connection; who leaves last ends it and leaves nothing behind."""
        with self._guard:
            if self._users < 0:
                return
            # asked for all of it: refused while another one has a share
            if try_lock(self._users):
                self._end()
            os.close(self._users)
            self._users = -1

    def _end(self) -> None:
        if self.is_alive():
            self._control("exit")
        self._sweep()
        for suffix in (".lock", ".users"):
            _remove(self.path + suffix)
        if self._folder != self._wanted:
            try:
                os.rmdir(self._folder)
            except OSError:  # another connection's sockets are there
                pass

    def session(self, command: str) -> list[str]:
        """The command line that runs one command over the connection, and over nothing else.

        It needs no configuration of the user's, whose forwardings would be asked for again; without a live
        master ssh would connect by itself, which the proxy makes impossible.
        """
        options = ("-F", "none", "-S", self.path, "-o", "ControlMaster=no", "-o", "ProxyCommand=false")
        return [program("ssh"), *options, "-T", "-a", "-x", "--", self.login.whom.host, command]

    def _connect_patiently(self) -> None:
        for attempt in range(self.login.timing.attempts):
            try:
                self._connect()
                return
            except Busy:
                if attempt + 1 == self.login.timing.attempts:
                    raise
            except Refused:
                # sshd may be restarting where it was a moment ago; where it never was, say so at once
                if not self._made_before or attempt + 1 >= self.login.timing.attempts:
                    raise
            self.login.timing.sleep(attempt)

    def _connect(self) -> None:
        self._sweep()
        password = self.login.password
        if password is None:
            said, status = self._start(environment())
        else:
            who = _as_prompted(self.login)
            with Askpass(self.folder, password, who, self.login.identity) as askpass:
                said, status = self._start({**environment(), **askpass.environment})
        if status != 0:
            raise self._wanting(login_failure(said, self.login.whom))
        if not self.is_alive():
            raise TargetUnavailable(
                f"ssh connected to {self.login.whom.address}, but made no socket below {self.folder}:"
                f" {last_words(said)}",
                code="ssh.config",
                hint="That folder must be where sockets can be: set AML_HOME or XDG_RUNTIME_DIR.",
            )

    def _wanting(self, error: TargetUnavailable) -> TargetUnavailable:
        """The error of a login for which a password was to be had, and nobody gave one."""
        login = self.login
        if error.code != "target.auth_failed" or login.password is not None or not login.password_hint:
            return error
        return TargetUnavailable(
            f"{login.whom.address} needs a password, and none is to be had: {error.message}",
            code="secret.needed",
            hint=login.password_hint,
        )

    def _start(self, environ: dict[str, str]) -> tuple[str, int | None]:
        """Start the master, which goes into the background after the login: what it said, and its status."""
        import subprocess

        # what is tried and which key is shown stand only in these notes; they end with the login
        first = ["-M", "-N", "-f", "-T", "-S", self.path, "-o", "LogLevel=DEBUG1"]
        extra = ["-o", "StreamLocalBindUnlink=yes", "-o", "StreamLocalBindMask=0177"]
        process = subprocess.Popen(
            [program("ssh"), *first, *extra, *self.login.arguments()],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            return self._listen(process), process.returncode
        finally:
            if process.poll() is None:
                _kill_group(process.pid)
                process.wait()
            assert process.stderr is not None
            process.stderr.close()

    def _listen(self, process: subprocess.Popen[bytes]) -> str:
        import select

        assert process.stderr is not None
        timing = self.login.timing
        due = time.monotonic() + timing.connect + timing.login
        fd = process.stderr.fileno()
        os.set_blocking(fd, False)
        said = b""
        # the master may keep the pipe open behind its back: the end is that of the process
        while True:
            ended = process.poll() is not None
            ready = select.select([fd], [], [], 0 if ended else 0.02)[0]
            data = os.read(fd, 65536) if ready else b""
            said = (said + data)[-262144:]
            if ready and not data:
                _wait(process.poll, due)
                ended = True
            if ended and not data:
                return said.decode("utf-8", "replace")
            if time.monotonic() >= due:
                raise self._silent(said)

    def _silent(self, said: bytes) -> TargetUnavailable:
        seconds = self.login.timing.connect + self.login.timing.login
        return TargetUnavailable(
            f"{self.login.whom.address} did not finish the login within {seconds:g} s:"
            f" {last_words(said.decode('utf-8', 'replace'))}",
            hint=f"To see it by hand: {self.login.whom.by_hand}",
        )

    def _control(self, what: str, *arguments: str) -> None:
        import subprocess

        command = [program("ssh"), "-F", "none", "-S", self.path, "-O", what, *arguments]
        try:
            answer = subprocess.run(
                [*command, "--", self.login.whom.host],
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.login.timing.connect,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TargetUnavailable(f"the connection to {self.login.whom.address} does not answer") from None
        if answer.returncode != 0 and what != "exit":
            raise TargetUnavailable(
                f"ssh could not {what} over the connection to {self.login.whom.address}:"
                f" {last_words(answer.stderr.decode('utf-8', 'replace'))}"
            )

    def _sweep(self) -> None:
        """Remove what a dead master left: its socket, and those that led through it."""
        name = os.path.basename(self.path)
        for entry in os.listdir(self.folder):
            if entry == name or (entry.startswith(name + "-") and entry.endswith(".sock")):
                _remove(f"{self.folder}/{entry}")

    def _lock(self, suffix: str, *, shared: bool = False) -> int:
        """Take a lock that lies beside the socket; whoever ends the connection removes it, so look twice."""
        while True:
            try:
                lock = os.open(
                    self.path + suffix, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
                )
            except FileNotFoundError:
                self._folder = ""
                continue
            try:
                self._take(lock, shared=shared)
                if os.fstat(lock).st_nlink:
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def _take(self, lock: int, *, shared: bool) -> None:
        timing = self.login.timing
        due = time.monotonic() + 2 * (timing.connect + timing.login)
        while not try_lock(lock, shared=shared):
            if time.monotonic() >= due:
                raise TargetUnavailable(
                    f"another process has been connecting to {self.login.whom.address} for too long",
                    hint="End it, or try again.",
                )
            time.sleep(0.005)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:  # it went by itself
        pass


def _wait(ended: Callable[[], int | None], due: float) -> None:
    while ended() is None and time.monotonic() < due:
        time.sleep(0.001)


def _kill_group(pid: int) -> None:
    import signal

    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has just gone
        pass


def _as_prompted(login: Login) -> str:
    """`user@host` as ssh writes them in its prompt, after the user's configuration has had its say."""
    found = resolved(login)
    return f"{found.get('user', '')[:30]}@{found.get('hostname', login.whom.host).lower()[:128]}"


def resolved(login: Login) -> dict[str, str]:
    """The settings that ssh comes to for a login: lower-case names, the first value of each."""
    import subprocess

    answer = subprocess.run(
        [program("ssh"), "-G", *login.arguments()],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=login.timing.connect + login.timing.login,
        check=False,
    )
    if answer.returncode != 0:
        raise login_failure(answer.stderr.decode("utf-8", "replace"), login.whom)
    found: dict[str, str] = {}
    for line in os.fsdecode(answer.stdout).splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key.lower(), value)
    return found


def _socket_folder(wanted: str) -> str:
    """`wanted`, or where its name is too long or too odd for a socket, a folder of this user elsewhere."""
    if len(os.fsencode(wanted)) > _LONGEST_FOLDER or not re.fullmatch(r"[\w/.@+-]+", wanted, re.ASCII):
        import hashlib

        digest = hashlib.sha256(os.fsencode(wanted)).hexdigest()[:8]
        base = os.environ.get("XDG_RUNTIME_DIR", "")
        if not re.fullmatch(r"/[\w/.@+-]{1,30}", base, re.ASCII) or not os.path.isdir(base):
            base = "/tmp"  # noqa: S108 - the folder below it is checked to be ours alone
        wanted = f"{base}/aml-{os.getuid()}-{digest}"
    os.makedirs(wanted, mode=0o700, exist_ok=True)
    found = os.lstat(wanted)
    if found.st_uid != os.getuid() or found.st_mode & 0o170077 != 0o040000:
        raise ConfigError(
            f"{wanted} must be a folder of yours that nobody else may enter",
            hint=f"chmod 700 {wanted}, or remove it when it is not yours.",
        )
    return wanted
