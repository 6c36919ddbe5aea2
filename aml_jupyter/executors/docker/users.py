"""A line in the container's `/etc/passwd` for a user whom the image does not know.

Java and Hadoop take a user's name from there and from nowhere else: without it no Spark session starts.
"""

from __future__ import annotations

import io
import tarfile

from aml_jupyter.executors.docker.engine import EngineRefused
from aml_jupyter.executors.docker.packing import Packer, archive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.executors.docker.engine import Engine

NAME = "etc/passwd"
LARGEST = 4 << 20  # bytes of the archive; a real one is one block


def make_known(engine: Engine, container: str, user: str) -> None:
    """Give the user `uid:gid` a name in a container that has not started; one that has a name keeps it.

    Raises TargetUnavailable.
    """
    uid, _, gid = user.partition(":")
    text = _read(engine, container)
    if any(line.split(":")[2:3] == [uid] for line in text.splitlines()):
        return
    if text and not text.endswith("\n"):
        text += "\n"
    text += f"aml:x:{uid}:{gid}::/tmp:/bin/sh\n"
    data = text.encode("utf-8", "surrogateescape")
    engine.put_archive(container, "/", archive(Packer("0:0").data(NAME, data)))


def _read(engine: Engine, container: str) -> str:
    """The file's text; empty where an image has none, or something that is no such file."""
    data = b""
    try:
        with engine.get_archive(container, "/" + NAME) as blocks:
            for block in blocks:
                data += block
                if len(data) > LARGEST:
                    return ""
        with tarfile.open(fileobj=io.BytesIO(data)) as given:
            found = given.extractfile(given.getmembers()[0])
            return found.read().decode("utf-8", "surrogateescape") if found else ""
    except (EngineRefused, tarfile.TarError, IndexError, KeyError):  # none there, or a link to nothing
        return ""
