"""Host keys: which ones a machine shows, and writing them down as trusted, which is a person's decision."""

from __future__ import annotations

import os

from aml_jupyter.connection.failures import Whom, login_failure
from aml_jupyter.connection.master import (
    Login,
    Timing,
    checked,
    environment,
    further_options,
    program,
    resolved,
)
from aml_jupyter.errors import TargetUnavailable
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

# one connection for each, since a connection shows one key
_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521",
    "rsa-sha2-512,rsa-sha2-256",
)
_NAMES = {"ssh-ed25519": "ED25519", "ssh-rsa": "RSA"}


class KeyFound(Value):
    """A host key: its type as people name it, its fingerprint, and its line of a known_hosts file."""

    type: str
    fingerprint: str
    line: str


def fingerprints(
    host: str, port: int | None = None, *, options: tuple[str, ...] = (), timing: Timing | None = None
) -> list[KeyFound]:
    """The host keys that a machine shows now, asked for as ssh itself would; nothing is written.

    The user's configuration is honoured: other names, proxies and jump hosts.
    Raises TargetUnavailable when it shows none.
    """
    import tempfile

    checked(host, port, None)
    login = _asking(host, port, options, timing)
    with tempfile.TemporaryDirectory(prefix="aml-keys-") as folder:
        asked = [_ask(login, algorithms, f"{folder}/{at}") for at, algorithms in enumerate(_ALGORITHMS)]
        said = [_finish(process, login) for process in asked]
        found = [_key(line) for at in range(len(said)) for line in _lines(f"{folder}/{at}")]
    if not found:
        raise login_failure(said[0], login.whom)
    return found


def accept(
    keys: Sequence[KeyFound],
    host: str,
    port: int | None = None,
    replace: bool = False,
    known_hosts: str | None = None,
) -> list[KeyFound]:
    """Write keys down as trusted, in `known_hosts` or in the file that ssh uses; returns those that are new.

    Raises TargetUnavailable `target.hostkey_changed` when other keys of that machine are known and
    `replace` is not given.
    """
    path = known_hosts or _users_file(host, port)
    known = [line for key in keys for line in _known(_name(key), path)]
    new = [key for key in keys if _words(key.line) not in map(_words, known)]
    foreign = {tuple(_words(line)) for line in known} - {tuple(_words(key.line)) for key in keys}
    if foreign and new and not replace:
        address = Whom(name=host, host=host, port=port).address
        raise TargetUnavailable(
            f"{path} holds another key of {address} than it shows now",
            code="target.hostkey_changed",
            hint="Compare the fingerprints with its owner's; --replace forgets the old key.",
        )
    if foreign and replace:
        for name in {_name(key) for key in keys}:
            _tool("ssh-keygen", "-R", name, "-f", path)
        new = list(keys)
    _append(path, new)
    return new


def trust(
    host: str,
    port: int | None = None,
    *,
    confirm: Callable[[list[KeyFound]], bool],
    replace: bool = False,
    known_hosts: str | None = None,
    options: tuple[str, ...] = (),
) -> list[KeyFound]:
    """Show a machine's keys to `confirm`, write them down when it agrees; returns those that are new."""
    found = fingerprints(host, port, options=options)
    return accept(found, host, port, replace, known_hosts) if confirm(found) else []


def _asking(host: str, port: int | None, options: tuple[str, ...], timing: Timing | None = None) -> Login:
    whom = Whom(name=host, host=host, port=port)
    return Login(whom=whom, options=(*options, *further_options()), timing=timing or Timing())


def _ask(login: Login, algorithms: str, path: str) -> subprocess.Popen[bytes]:
    """Start an ssh that writes the key it is shown to `path` and does not log in."""
    import subprocess

    options = (
        *("StrictHostKeyChecking=accept-new", f"UserKnownHostsFile={path}", "GlobalKnownHostsFile=none"),
        *("KnownHostsCommand=none", "VerifyHostKeyDNS=no", "UpdateHostKeys=no", "HashKnownHosts=no"),
        *("PreferredAuthentications=none", "ControlPath=none", "LogLevel=DEBUG1"),
        f"HostKeyAlgorithms={algorithms}",
    )
    # ssh takes the first value that it is given
    ours = [word for option in options for word in ("-o", option)]
    return subprocess.Popen(
        [program("ssh"), "-N", "-T", *ours, *login.arguments()],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _finish(process: subprocess.Popen[bytes], login: Login) -> str:
    import subprocess

    try:
        return str(
            process.communicate(timeout=login.timing.connect + login.timing.login)[1], "utf-8", "replace"
        )
    except subprocess.TimeoutExpired:
        process.kill()
        return str(process.communicate()[1], "utf-8", "replace")


def _key(line: str) -> KeyFound:
    import base64
    import hashlib

    kind, blob = _words(line)
    digest = base64.b64encode(hashlib.sha256(base64.b64decode(blob)).digest()).decode().rstrip("=")
    named = _NAMES.get(kind, "ECDSA" if kind.startswith("ecdsa") else kind)
    return KeyFound(type=named, fingerprint=f"SHA256:{digest}", line=line)


def _words(line: str) -> list[str]:
    """Type and key of a line."""
    return line.split()[1:3]


def _name(key: KeyFound) -> str:
    """The name under which ssh looks for it."""
    return key.line.split()[0].split(",")[0]


def _users_file(host: str, port: int | None) -> str:
    """The first file of known hosts that the user's configuration names for a machine."""
    found = resolved(_asking(host, port, ())).get("userknownhostsfile", "~/.ssh/known_hosts")
    first = os.path.expanduser(found.split()[0])
    if first in ("none", os.devnull):
        raise TargetUnavailable(
            f"your ssh configuration keeps no host keys of {host} (UserKnownHostsFile {first})",
            code="ssh.config",
            hint="Take that line out of ~/.ssh/config for this machine.",
        )
    return first


def _known(name: str, path: str) -> list[str]:
    """The lines of a file that are about a machine, also where names are hashed."""
    if not os.path.exists(path):
        return []
    lines = _tool("ssh-keygen", "-F", name, "-f", path).splitlines()
    return [line for line in lines if line and line[0] not in "#@"]


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file if len(line.split()) >= 3]
    except FileNotFoundError:
        return []


def _append(path: str, keys: Sequence[KeyFound]) -> None:
    if not keys:
        return
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        joint = b"\n" if size and os.pread(fd, 1, size - 1) != b"\n" else b""
        os.write(fd, joint + b"".join(key.line.encode() + b"\n" for key in keys))
        os.fsync(fd)
    finally:
        os.close(fd)


def _tool(name: str, *arguments: str) -> str:
    import subprocess

    answer = subprocess.run(
        [program(name), *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return answer.stdout.decode("utf-8", "replace")
