"""Images: the one of a name, what is in it, and the one with an environment in it.

What has been done before costs one question to the engine and one small file: the SDK is loaded only by who
pulls, looks into an image for the first time, or builds.
"""

from __future__ import annotations

import hashlib

from aml_jupyter import plainjson
from aml_jupyter.config import aml_home
from aml_jupyter.confined import make_root, read_bounded, write_atomic
from aml_jupyter.errors import ConfinedError, TargetUnavailable
from aml_jupyter.executors.docker.engine import Engine
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.environment.lock import Lock
    from aml_jupyter.executors import Tell

REPOSITORY = "aml-env"
# where environments lie in their images
PREFIX = "/opt/aml/env"
FORMAT = 1
_LARGEST = 16 << 20


class Probe(Value):
    """What is in an image, by its id.

    `machine` as `uname` says it, `platform` as conda does (`linux-64`), `libc` `glibc`, `musl` or empty.
    `python`, `uv`, `java` and `spark_submit` are absolute paths, None where there is none; `version` is
    Python's (`3.11.2`).  `venv` says whether that Python makes environments with a pip in them.
    `packages` are versions by name, `user` and `variables` what the image sets for its containers.
    """

    image: str
    machine: str
    platform: str
    libc: str
    libc_version: str = ""
    python: str | None = None
    version: str | None = None
    venv: bool = False
    uv: str | None = None
    java: str | None = None
    spark_submit: str | None = None
    user: str = ""
    packages: Mapping[str, str] = {}
    modules: tuple[str, ...] = ()
    variables: Mapping[str, str] = {}

    @property
    def pip(self) -> bool:
        """Whether that Python has pip."""
        return "pip" in self.packages

    @property
    def ipython(self) -> bool:
        """Whether that Python can import IPython."""
        return "IPython" in self.modules

    @property
    def pyspark(self) -> bool:
        """Whether that Python can import pyspark."""
        return "pyspark" in self.modules

    @property
    def spark(self) -> bool:
        """Whether a Spark session can be started: Spark itself and a Java."""
        return bool(self.java and (self.pyspark or self.spark_submit))


def ensure_image(
    socket: str, name: str, *, pull: str = "missing", platform: str | None = None, tell: Tell
) -> str:
    """The id of the image of a name, pulled when it is not there; `pull` is `missing`, `always` or `never`.

    `platform` (`linux/amd64`) asks for the image of another machine.
    Raises TargetUnavailable `engine.unavailable`, `image.missing`, `image.pull_denied`.
    """
    engine = Engine(socket)
    if pull != "always":
        found = engine.image(name)
        if found is not None and _fits(found, platform):
            return str(found["Id"])
        if pull == "never":
            raise missing(name, "it is not in that engine, and is not to be pulled")
    from aml_jupyter.executors.docker.pulling import pull_image

    pull_image(socket, name, platform, tell)
    found = engine.image(name)
    if found is None or not _fits(found, platform):
        raise missing(name, f"there is none for {platform}" if platform else "it was removed at once")
    return str(found["Id"])


def missing(name: str, why: str) -> TargetUnavailable:
    """The error for an image that is not there and did not come."""
    return TargetUnavailable(
        f"the image {name} cannot be had: {why}",
        code="image.missing",
        hint=(
            f"Bring it to that engine (docker pull {name}, or docker load -i FILE), or use another in its"
            f" place: aml config set image.{name} OTHER"
        ),
    )


def _fits(found: Mapping[str, Any], platform: str | None) -> bool:
    if not platform:
        return True
    wanted = platform.lower().split("/")
    have = [str(found.get(key) or "").lower() for key in ("Os", "Architecture", "Variant")]
    return have[: len(wanted)] == wanted


def probe_image(socket: str, image: str, tell: Tell) -> Probe:
    """What is in an image, by id or name: looked at once, in a container without a network.

    Raises TargetUnavailable `engine.unavailable`, `image.missing`, `image.unusable`.
    """
    if not image.startswith("sha256:"):
        image = ensure_image(socket, image, pull="never", tell=tell)
    known = remembered(image)
    if known is None:
        from aml_jupyter.executors.docker.probing import look_into

        known = look_into(socket, image, tell)
        remember(known)
    return known


def remember(probe: Probe) -> None:
    """Keep what was seen in an image; an id never means another one."""
    path = _memory(probe.image)
    make_root(path.rpartition("/")[0])
    document = {"format": FORMAT, **probe.as_dict()}
    write_atomic(path, plainjson.dumps(document).encode(), sync=False)


def remembered(image: str) -> Probe | None:
    """What was seen in an image of this id, if it was looked into."""
    try:
        document = plainjson.loads(read_bounded(_memory(image), _LARGEST))
        if document["format"] != FORMAT or document["image"] != image:
            return None
        given = {name: document[name] for name in Probe._fields if name in document}
        return Probe(**{**given, "modules": tuple(document["modules"])})
    except (OSError, ConfinedError, ValueError, KeyError, TypeError):
        return None  # never looked at, or the file is damaged: look again


def _memory(image: str) -> str:
    return f"{aml_home()}/cache/images/{image.removeprefix('sha256:')}.json"


def environment_reference(base: str, lock: Lock) -> str:
    """The name of the image that holds an environment upon a base, whether there is one or not."""
    return f"{REPOSITORY}:{hashlib.sha256(f'{base} {lock.digest}'.encode()).hexdigest()[:24]}"


def built_environment(socket: str, base: str, lock: Lock) -> str | None:
    """The name of the image with a lock's environment upon the base of this id; None when it is not built."""
    reference = environment_reference(base, lock)
    return reference if Engine(socket).image(reference) is not None else None


def environment_image(
    socket: str,
    base: str,
    lock: Lock,
    *,
    tell: Tell,
    no_cache: bool = False,
    local: bool = True,
    credentials: Mapping[str, str] | None = None,
) -> str:
    """The name of the image with a lock's environment upon the base of this id, built unless it is there.

    `local` says that the engine sees the files of this machine, `no_cache` that the image is to be built
    again from its base.  `credentials` are `user:password` by `scheme://host[:port]`.
    Raises TargetUnavailable `engine.unavailable`, EnvironmentFailed `environment.build_failed`.
    """
    if not no_cache and (found := built_environment(socket, base, lock)):
        return found
    from aml_jupyter.executors.docker.builds import Build

    return Build(socket, base, lock, tell=tell, local=local, credentials=credentials or {}).make(
        again=no_cache
    )
