"""What code reads that no record holds: variables of the environment, the shared folder.

A run that is submitted with `--needed` records the variables by which another one is told from it, as keyed
hashes: the key never leaves this computer, and without it nothing can be said of a value.
"""

from __future__ import annotations

import os
import re

from aml_jupyter import demands
from aml_jupyter.confined import MissingFile, read_bounded
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aml_jupyter.experiment.request import Plan

# bytes of a Python file that is searched
LARGEST_CODE = 4 << 20
KEY_FILE, KEY_SIZE = "needed.key", 32
# where code reads variables, and which, where it says so
_ENVIRONMENT = re.compile(rb"\b(?:environb?|getenvb?)\b")
_NAMED = re.compile(
    rb"""\b(?:environ(?:\.get|\.setdefault|\.pop)?\s*[\[(]|getenv\s*\()\s*[rbu]?["']([A-Za-z_]\w*)["']"""
)
_CHOOSING = ("PYTHONPATH", "PYTHONHASHSEED")
_SPARK = ("SPARK_HOME", "SPARK_CONF_DIR", "PYSPARK_PYTHON")
_OURS = (b"AML_", b"AZUREML_", b"MLFLOW_")


class Reads(Value):
    """What tells a run from others beside its record: keyed hashes by the names of variables.

    `why` is not empty where nothing can.
    """

    fingerprint: Mapping[str, str] = {}
    why: str = ""


def reads(planned: Plan, snapshot_id: str, home: str) -> Reads:
    """What the code of a planned run seems to read, and what it is given without a record."""
    from aml_jupyter.share import IN_CONTAINER, VARIABLE

    given = {**planned.request.environment, **planned.request.secrets}
    words = (VARIABLE.encode(), IN_CONTAINER.rstrip("/").encode())
    # a container has the variables that it is given; a process of this computer has the caller's too
    inherits = planned.target.kind not in demands.CONTAINERS
    known = {name.encode() for name in planned.configuration.environment_variables}
    names = set(given)
    if inherits:
        # whatever the code says, these choose what it runs on
        names |= {name for name in _CHOOSING if name in os.environ}
        names |= set(_SPARK if planned.spark else ())
    for text in _code(planned, snapshot_id, home):
        if planned.share is not None and any(word in text for word in words):
            return Reads(why="its code uses the shared folder, which may hold something else now")
        found = _variables(text) if inherits else set()
        if found is None:
            return Reads(why="its code reads the environment without saying which variables")
        names |= {name.decode() for name in found - known if not name.startswith(_OURS)}
    values = {**{name: os.environ.get(name) for name in names}, **given}
    return Reads(fingerprint=_hashed(values, home))


def _code(planned: Plan, snapshot_id: str, home: str) -> Iterator[bytes]:
    from aml_jupyter.snapshot import Store

    store = Store(home + "/snapshots")
    if planned.request.cell is not None:
        yield planned.request.cell
    for entry in store.manifest(snapshot_id):
        if entry.kind == "file" and entry.path.endswith(".py") and entry.size <= LARGEST_CODE:
            yield store.read(snapshot_id, entry.path)


def _variables(text: bytes) -> set[bytes] | None:
    """The variables that code reads; None where it does not say which."""
    named = _NAMED.findall(text)
    return None if len(_ENVIRONMENT.findall(text)) > len(named) else set(named)


def _hashed(values: Mapping[str, str | None], home: str) -> dict[str, str]:
    if not values:
        return {}
    import hashlib
    import hmac

    key = _key(home)

    def of(name: str, value: str | None) -> str:
        said = f"{name}\0{'' if value is None else '=' + value}".encode("utf-8", "surrogateescape")
        return hmac.new(key, said, hashlib.sha256).hexdigest()

    return {name: of(name, value) for name, value in sorted(values.items())}


def _key(home: str) -> bytes:
    """A key of this home, made once; whoever loses it has runs done again, and nothing worse."""
    path = f"{home}/{KEY_FILE}"
    try:
        found = read_bounded(path, KEY_SIZE)
        if len(found) == KEY_SIZE:
            return found
        os.unlink(path)  # half written by one that was killed
    except MissingFile:
        pass
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, os.urandom(KEY_SIZE))
        os.fsync(fd)
        os.link(temporary, path)
    except FileExistsError:  # another process was faster
        pass
    finally:
        os.close(fd)
        os.unlink(temporary)
    return read_bounded(path, KEY_SIZE)
