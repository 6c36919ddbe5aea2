"""A machine reached by ssh, beside its engine: what `aml targets test` looks at, and what `sweep` removes."""

from __future__ import annotations

import os
import time

from aml_jupyter.connection import quote
from aml_jupyter.errors import TargetUnavailable
from aml_jupyter.executors.docker.leftovers import Leftover
from aml_jupyter.executors.docker.there import FOLDER
from aml_jupyter.trial import LEAST_HOME, Check, clock, failed, skew, space

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

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
        yield clock(skew(int(said["clock"]), before, after), f"the clock of {address}").replace(
            name="clock there"
        )


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


def sweep(connection: Connection, ended: Collection[str], days: float, *, dry_run: bool) -> list[Leftover]:
    """Remove the folders of runs that have ended, and contents that no run has used for some days.

    `ended` are names of containers, by which the folders are called.  Raises TargetUnavailable.
    """
    found = [*_folders(connection, ended), *_contents(connection, days)]
    if dry_run or not found:
        return found
    paths = " ".join(quote(one.id) for one in found if one.kind == "folder")
    answer = connection.run(
        f"cd {quote(_store(connection))} || exit; "
        + (f"chmod -R u+rwX -- {paths} 2>/dev/null; rm -rf -- {paths}; " if paths else "")
        # of what was not sent or laid out to its end
        + "find runtimes -mindepth 1 -maxdepth 1 -name '*.????????????????' -mmin +1440 -exec rm -rf {} +; "
        + "find objects -type f -name '*.*' -mmin +1440 -exec rm -f {} +; "
        + f"[ ! -d objects ] || {_unused(days)} -exec rm -f {{}} +",
        timeout=_LONG,
    )
    if answer.code != 0:
        return [one.replace(kept=answer.complaint) for one in found]
    return [one.replace(removed=True) for one in found]


def _store(connection: Connection) -> str:
    return f"{connection.home()}/{FOLDER}"


def _folders(connection: Connection, ended: Collection[str]) -> Iterator[Leftover]:
    answer = connection.run(f"cd {quote(_store(connection))}/runs && ls -1", timeout=PATIENCE)
    names = sorted({*answer.out.decode(errors="replace").split("\n")} & {*ended})
    for name in names:
        folder = f"runs/{name}"
        asked = f"du -sk {quote(_store(connection))}/{quote(folder)}"
        size = connection.run(asked, timeout=_LONG).out.split()
        known = int(size[0]) << 10 if size and size[0].isdigit() else None
        yield Leftover(kind="folder", id=folder, name=name, why="its run has ended", bytes=known)


def _contents(connection: Connection, days: float) -> Iterator[Leftover]:
    answer = connection.run(
        f"cd {quote(_store(connection))}/objects && cd .. && {_unused(days)} -exec ls -ln {{}} +",
        timeout=_LONG,
    )
    sizes = [int(line.split()[4]) for line in answer.out.decode(errors="replace").splitlines() if line]
    if sizes:
        why = f"no run used them for {days:g} days"
        yield Leftover(
            kind="files", id="objects", name=f"{len(sizes)} that were sent", why=why, bytes=sum(sizes)
        )


def _unused(days: float) -> str:
    return f"find objects -type f -mmin +{int(days * 1440)}"


# seconds for what goes through all files
_LONG = 600.0
