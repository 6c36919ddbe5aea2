"""What `aml targets test` looks at on a machine reached by ssh, before its engine."""

from __future__ import annotations

import os
import time

from aml_jupyter.connection import quote
from aml_jupyter.errors import TargetUnavailable
from aml_jupyter.trial import LEAST_HOME, Check, clock, failed, skew, space

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from aml_jupyter.connection import Connection

# seconds for a few small commands on a machine that is busy
PATIENCE = 60.0
_STEPS = {
    "target.hostkey_unknown": "host key",
    "target.hostkey_changed": "host key",
    "target.auth_failed": "login",
    "target.no_shell": "shell",
}
_LOOK = """
try() { if mkdir -p "$2" 2>/dev/null && ( : >"$2/.aml-test-$$" ) 2>/dev/null
        then echo "$1=yes"; rm -f "$2/.aml-test-$$"; else echo "$1=no"; fi; }
umask 077
echo user=$(id -un)
echo clock=$(date +%s)
try home "$HOME/.azureml"
[ -z "$share" ] || try share "$share"
echo disk=$(df -Pk "$HOME" 2>/dev/null | tail -n 1)
"""


def machine(connection: Connection, share: str | None) -> Iterator[Check]:
    """Host key, login, home, share and clock of a machine; `share` is the folder there, or None."""
    before = time.time()
    try:
        home = connection.home()
        answer = connection.run(f"share={quote(share or '')}; {_LOOK}", timeout=PATIENCE)
    except TargetUnavailable as error:
        step = _STEPS.get(error.code, "connection")
        for passed in ("host key", "login"):
            if step in ("login", "shell") and passed != step:
                yield Check(name=passed, ok=True, message="is accepted")
        yield failed(step, error)
        return
    after = time.time()
    lines = (line.partition("=") for line in answer.out.decode(errors="replace").splitlines())
    said = {name: value.strip() for name, _, value in lines}
    address = connection.whom.address
    yield Check(name="host key", ok=True, message=f"the key of {address} is known")
    yield Check(name="login", ok=True, message=f"{said.get('user', 'somebody')} at {address}")
    yield _written("home there", f"{home}/.azureml", said.get("home") == "yes")
    free = said.get("disk", "").split()
    if len(free) >= 4 and free[3].isdigit():
        yield space("disk there", home, int(free[3]) << 10, LEAST_HOME, f"Make room on {address}.")
    if share:
        yield _written("share there", share, said.get("share") == "yes")
    if said.get("clock", "").isdigit():
        yield clock(skew(int(said["clock"]), before, after), f"the clock of {address}")


def _written(name: str, folder: str, fine: bool) -> Check:
    if fine:
        return Check(name=name, ok=True, message=f"{folder} can be written")
    return Check(
        name=name,
        ok=False,
        message=f"{folder} cannot be made or written by this login",
        fix="Have it made there for that user: sudo install -d -o USER -m 700 " + folder,
    )


class Scratch:
    """A folder of that machine that a test mounts as a run's `job/` is; gone when it is left."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.path = f"{connection.home()}/.azureml/trial-{os.urandom(5).hex()}"

    def __enter__(self) -> str:
        self._connection.put(self.path + "/here", [], 0)
        return self.path

    def __exit__(self, *_: object) -> None:
        self._connection.run(f"rm -rf {quote(self.path)}", timeout=PATIENCE)
