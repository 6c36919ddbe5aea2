"""The system's ssh: commands, files and forwarded sockets of a machine that is reached by it.

Of that machine only `sh` is taken for granted, whatever the login shell is and whatever it prints.  The
user's configuration, keys, agent and jump hosts are honoured; host keys are always checked, and the agent
is never forwarded.
"""

from __future__ import annotations

import os
import posixpath

from aml_jupyter.connection.failures import Whom, last_words
from aml_jupyter.connection.framing import LAUNCH, PIECE, Answer, Collector, Session, TooMuchOutput, head
from aml_jupyter.connection.master import Login, Master, Timing, checked, environment, further_options
from aml_jupyter.connection.trust import KeyFound, accept, fingerprints, trust
from aml_jupyter.errors import ConfigError, TargetUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from aml_jupyter.config import Secret, Target
    from aml_jupyter.connection.framing import Ended, Sink

__all__ = [
    "Answer",
    "Connection",
    "KeyFound",
    "Timing",
    "accept",
    "connection_to",
    "fingerprints",
    "quote",
    "trust",
]

# bytes of output that `run` keeps in memory
_LARGEST = 64 * 1024 * 1024
_NOT_OPENED = ("Session open refused by peer", "open failed")
_NEVER_SENT = "port 65535"


class Connection:
    """A machine reached by ssh; the constructor does no I/O, every method connects when nobody has.

    `folder` holds the sockets of connections, which all processes that give the same folder share.  `name`
    stands in hints: the target's.  `options` are further settings of ssh, each `Key=value`.  `password_hint`
    is for a machine that wants a password: what to do when none was given and keys do not log in, which then
    is `secret.needed`.
    Every method raises TargetUnavailable: `target.hostkey_unknown`, `target.hostkey_changed`,
    `target.auth_failed`, `target.unreachable`, `target.busy`, `target.no_shell`, `ssh.missing`, `ssh.config`;
    the constructor ConfigError for what is no name of a machine or user.
    """

    def __init__(  # noqa: PLR0913 - all but the machine by name
        self,
        host: str,
        *,
        folder: str,
        port: int | None = None,
        username: str | None = None,
        password: Secret | None = None,
        identity: str | None = None,
        name: str = "",
        password_hint: str = "",
        options: tuple[str, ...] = (),
        timing: Timing | None = None,
    ) -> None:
        checked(host, port, username)
        whom = Whom(name=name or host, host=host, port=port, username=username)
        self.whom = whom
        self._timing = timing or Timing()
        self._master = Master(
            Login(
                whom=whom,
                password=password,
                password_hint=password_hint,
                identity=os.path.expanduser(identity) if identity else None,
                options=(*options, *further_options()),
                timing=self._timing,
            ),
            folder,
        )
        self._home = ""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, command: str, *, input: bytes = b"", timeout: float, limit: int = _LARGEST) -> Answer:  # noqa: A002
        """Run a POSIX sh command there, with LC_ALL=C; its exit code, output and stderr.

        A command that was cut short is never run again by itself: it may have done its work.  After
        `timeout` seconds the answer is given up, while the command may go on; so it is over `limit` bytes.
        """
        output = Collector(limit, strict=True)
        pieces = [input[at : at + PIECE] for at in range(0, len(input), PIECE)]
        answer = self._converse(command, pieces, output, timeout=timeout, stall=None)
        return answer.replace(out=output.bytes())

    def stream(
        self,
        command: str,
        source: Iterable[bytes] = (),
        *,
        sink: Sink | None = None,
        stall: float = 300.0,
        limit: int = _LARGEST,
    ) -> Answer:
        """As `run`, with standard input from an iterator and, when `sink` is given, output to it in pieces.

        Gives up after `stall` seconds in which nothing moved.  When the line breaks, or `source` raises, the
        command sees the end of its input there: it must know by other means whether it has got all of it.
        """
        output = Collector(limit, strict=True)
        answer = self._converse(command, source, sink or output, timeout=None, stall=stall)
        return answer.replace(out=output.bytes())

    def put(
        self, path: str, source: Iterable[bytes], size: int, *, mode: int = 0o600, stall: float = 300.0
    ) -> None:
        """Write a file of `size` bytes there: whole or not at all, with its folders.

        Raises TargetUnavailable, also `store.no_space`, `store.denied`, `store.unavailable`.
        """
        command = (
            f"umask 077; f={quote(path)}; t=$f.part.$$; trap 'rm -f \"$t\"' EXIT; "
            # whoever complains to a line that is cut dies of it, and must not leave the part behind
            "trap 'exit 1' HUP INT PIPE TERM; "
            f'mkdir -p {quote(posixpath.dirname(path) or ".")} && cat >"$t" && '
            f'{{ [ $(wc -c <"$t") -eq {size} ] || {{ echo "not all of it came" >&2; false; }}; }} && '
            f'chmod {mode:o} "$t" && mv -f "$t" "$f"'
        )
        answer = self.stream(command, source, stall=stall)
        if answer.code != 0:
            raise self._not_written(path, answer)

    def read(
        self, path: str, position: int = 0, limit: int = 1024 * 1024, *, timeout: float = 60.0
    ) -> bytes | None:
        """Up to `limit` bytes of a regular file there, from a byte position; None when there is no such file.

        Raises TargetUnavailable, also `store.denied`, `store.unavailable`.
        """
        command = f'f={quote(path)}; [ -f "$f" ] || exit 44; tail -c +{position + 1} <"$f" | head -c {limit}'
        answer = self.run(command, timeout=timeout, limit=limit)
        if answer.code == 44:
            return None
        if answer.code != 0:
            raise self.failure(f"{path} cannot be read", answer)
        return answer.out

    def forward(self, remote_socket: str) -> str:
        """The path of a socket here that leads to a Unix socket there; cheap when it exists already.

        Ask before each use: it is made again when the connection has died.  That nobody listens there, or
        that sshd forbids forwarding, shows as a connection that is closed at once.
        """
        if not remote_socket.startswith("/") or ":" in remote_socket:
            raise ConfigError(f"{remote_socket!r} is no absolute path of a socket", code="config.invalid")
        return self._master.forward(remote_socket)

    def home(self) -> str:
        """The home folder of the login there; asked once."""
        if not self._home:
            answer = self.run('cd && [ -n "$HOME" ] && printf %s "$HOME"', timeout=self._timing.login)
            home = os.fsdecode(answer.out)
            if answer.code != 0 or not home.startswith("/"):
                raise TargetUnavailable(
                    f"the login at {self.whom.address} has no home folder: {answer.complaint}",
                    code="store.unavailable",
                    hint="Make one there that belongs to that user.",
                )
            self._home = home
        return self._home

    def is_connected(self) -> bool:
        """Whether a connection stands, as far as this machine can tell without asking the other."""
        return self._master.is_alive()

    def close(self) -> None:
        """End the connection unless another process uses it; not to call is fine, it ends by itself."""
        self._master.close()

    def _converse(
        self, command: str, source: Iterable[bytes], sink: Sink, *, timeout: float | None, stall: float | None
    ) -> Answer:
        """One command; tried again only while it is certain that it was not begun."""
        attempts = self._timing.attempts
        for attempt in range(attempts):
            self._master.ensure()
            nonce = os.urandom(16).hex()
            session = Session(self._master.session(LAUNCH), environment(), nonce, sink)
            try:
                ended = session.converse(head(nonce, command), source, timeout=timeout, stall=stall)
            except TooMuchOutput:
                raise TargetUnavailable(
                    f"{self.whom.address} sends more than was asked for; it was cut off", code="budget.bytes"
                ) from None
            if ended.answer is not None:
                return ended.answer
            error, again = self._broken(ended, timeout if timeout is not None else stall)
            if not again or attempt + 1 == attempts:
                raise error
            self._timing.sleep(attempt)
        raise AssertionError("a connection is tried at least once")

    def _broken(self, ended: Ended, patience: float | None) -> tuple[TargetUnavailable, bool]:
        """What went wrong with a session, and whether the command was certainly not begun."""
        address, said = self.whom.address, last_words(ended.said)
        if ended.timed_out:
            return TargetUnavailable(f"{address} gave no answer within {patience:g} s"), False
        if ended.started:
            return TargetUnavailable(f"the connection to {address} broke while a command ran there"), False
        if any(words in ended.said for words in _NOT_OPENED):
            return TargetUnavailable(
                f"{address} opens no more sessions on this connection",
                code="target.busy",
                hint="Too many commands at once there (MaxSessions). Try again later.",
            ), True
        if ended.status == 255 and _NEVER_SENT in ended.said and "mux_client" not in ended.said:
            return TargetUnavailable(f"the connection to {address} is gone"), True
        if ended.status == 255:
            return TargetUnavailable(f"the connection to {address} broke: {said}"), False
        return TargetUnavailable(
            f"the login at {address} runs no POSIX shell: {said}",
            code="target.no_shell",
            hint=f"This must print ok: {self.whom.by_hand} \"sh -c 'echo ok'\"",
        ), False

    def _not_written(self, path: str, answer: Answer) -> TargetUnavailable:
        return self.failure(f"{path} was not written", answer)

    def failure(self, what: str, answer: Answer) -> TargetUnavailable:
        """The error for a command that could not write or read there: `store.no_space` and its like."""
        said = answer.err.decode("utf-8", "replace")
        code, hint = "store.unavailable", ""
        if "No space left" in said or "quota exceeded" in said:
            code, hint = "store.no_space", f"Make room on {self.whom.host}, or have its quota raised."
        elif "Permission denied" in said or "Read-only file system" in said:
            code, hint = "store.denied", f"The login on {self.whom.host} must be able to write there."
        return TargetUnavailable(f"{what} on {self.whom.address}: {answer.complaint}", code=code, hint=hint)


def connection_to(target: Target, folder: str, password: Secret | None = None) -> Connection:
    """The connection to a target's machine; `password` when it is not the one that its file names.

    Raises ConfigError when the target names no address.
    """
    if not target.host:
        raise ConfigError(f"the target {target.name} has no address", hint="Add `address:` to its file.")
    if password is None and target.password is not None and target.password.is_itself:
        password = target.password
    return Connection(
        target.host,
        folder=folder,
        port=target.port,
        username=target.username,
        password=password,
        identity=target.private_key,
        name=target.name,
    )


def quote(text: str) -> str:
    """A text as one word of a POSIX sh command."""
    return "'" + text.replace("'", "'\\''") + "'"
