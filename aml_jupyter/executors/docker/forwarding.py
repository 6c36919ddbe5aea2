"""The engine of another machine behind a forwarded socket: when it does not answer, the machine says why."""

from __future__ import annotations

from aml_jupyter.connection import quote
from aml_jupyter.errors import TargetUnavailable
from aml_jupyter.executors.docker.engine import Engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.connection import Answer, Connection

COMMAND = 60.0
# what is wrong with a socket, as far as sh can tell; the kernel lists those on which somebody listens
_LOOK = r"""
id -un; s={socket}
if [ ! -S "$s" ]; then echo missing; command -v docker || command -v dockerd; exit 0; fi
if [ ! -r "$s" ] || [ ! -w "$s" ]; then echo denied; ls -lL "$s"; exit 0; fi
d=$(cd "${{s%/*}}/" && pwd -P); t=/proc/net/unix
if [ -r $t ] && ! grep -q -e " 00010000 .* $s\$" -e " 00010000 .* $d/${{s##*/}}\$" $t; then
  docker -H "unix://$s" version >/dev/null 2>&1 || {{ echo silent; exit 0; }}
fi
echo fine
"""


class Forwarded(Engine):
    """An engine by the path of its socket on the machine of a connection."""

    def __init__(self, connection: Connection, socket: str) -> None:
        super().__init__(connection.forward(socket), where=f"{socket} on {connection.whom.host}")
        self._connection = connection
        self._socket = socket

    def unavailable(self, why: str) -> TargetUnavailable:
        """The error with its cause: the line is gone, nobody listens, the login may not, sshd forbids it."""
        try:
            answer = self._connection.run(_LOOK.format(socket=quote(self._socket)), timeout=COMMAND)
            return self._cause(answer, why)
        except TargetUnavailable as error:
            return error

    def _cause(self, answer: Answer, why: str) -> TargetUnavailable:
        user, found, *more = [*answer.out.decode(errors="replace").splitlines(), "", ""]
        host = self._connection.whom.host
        if found == "missing":
            docker = f"docker is {more[0]}" if more[0] else "and no docker on the search path"
            return _unavailable(
                f"there is no Docker engine on {host}: no socket {self._socket} there, {docker}",
                "Start Docker there (sudo systemctl start docker), or name its socket in the .compute file:"
                " dockerHost: unix:///path",
            )
        if found == "denied":
            return _unavailable(
                f"{user} may not use the Docker engine on {host}: {more[0]}",
                f"On {host}: sudo usermod -aG docker {user}; then try again in a minute, with a new login.",
            )
        if found == "silent":
            return _unavailable(
                f"the Docker engine on {host} does not run: nobody listens at {self._socket}",
                "Start it there: sudo systemctl start docker",
            )
        return self._broken(why)

    def _broken(self, why: str) -> TargetUnavailable:
        """All is well there: it was the line, or sshd, which opens no such connection."""
        host = self._connection.whom.host
        if self._answers():
            return TargetUnavailable(f"the connection to the Docker engine on {host} broke: {why}")
        # had the line broken meanwhile, this would say so
        if self._connection.run("true", timeout=COMMAND).code != 0 or self._answers():
            return TargetUnavailable(f"the connection to the Docker engine on {host} broke: {why}")
        return TargetUnavailable(
            f"sshd on {host} lets no connection through to the socket {self._socket}, or its engine hangs",
            code="target.no_forwarding",
            hint=f"In sshd_config on {host}: AllowStreamLocalForwarding yes, and DisableForwarding no; in"
            " ~/.ssh/authorized_keys there neither restrict nor no-port-forwarding before the key.",
        )

    def _answers(self) -> bool:
        try:
            Engine(self._connection.forward(self._socket)).version()
        except TargetUnavailable:
            return False
        return True


def _unavailable(what: str, hint: str) -> TargetUnavailable:
    return TargetUnavailable(what, code="engine.unavailable", hint=hint)
