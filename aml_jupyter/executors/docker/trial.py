"""What `aml targets test` looks at in an engine: one container that looks around, and is gone."""

from __future__ import annotations

import os
import time

from aml_jupyter.confined import Root, make_root, remove_tree
from aml_jupyter.errors import AmlError
from aml_jupyter.executors.docker import containers
from aml_jupyter.executors.docker.engine import Engine, EngineRefused, quoted
from aml_jupyter.frozen import Value
from aml_jupyter.printable import shown_size
from aml_jupyter.share import IN_CONTAINER as SHARE
from aml_jupyter.trial import LEAST_ENGINE, Check, clock, failed, skew, space

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from aml_jupyter.executors.docker.place import Place

# seconds that looking around may take, on a machine that is busy
PATIENCE = 60.0
# every line is NAME=VALUE; whatever an image lacks of this is left out
_LOOK = r"""
echo clock=$(date +%s)
for one in /opt/aml/env/bin/python python3 python; do
    if command -v "$one" >/dev/null 2>&1; then
        echo python=$(command -v "$one")
        echo version=$("$one" -E -s -c 'import platform; print(platform.python_version())' 2>&1 | tail -n 1)
        break
    fi
done
try() { if ( : >"$2.aml-test-$AML_TEST" ) 2>/dev/null; then echo "$1=yes"; rm -f "$2.aml-test-$AML_TEST"
        else echo "$1=no"; fi }
[ -d /azureml-share ] && try share /azureml-share/
[ -d /run/aml ] && { [ -f /run/aml/here ] && try job /run/aml/ || echo job=empty; }
echo disk=$(df -Pk / 2>/dev/null | tail -n 1)
echo user=$(id -u):$(id -g)
"""
_MORE_SPACE = "aml targets sweep --images and docker system prune remove what nothing needs."
_NO_PYTHON = "Write python=3.11 into aml_config/conda_dependencies.yml, or use another baseDockerImage."


class Asked(Value):
    """What a target is tested for.

    `image` is the name after mapping; `share` and `job` are folders on the engine's machine, `share` None
    where none is mounted, for `reason`; `job` is a folder of this test alone, None where none can be made.
    `environment` is whether the project brings a Python of its own.
    """

    image: str
    gpu: bool = False
    share: str | None = None
    reason: str = ""
    job: str | None = None
    environment: bool = False


def trial(place: Place, asked: Asked) -> Iterator[Check]:
    """Look at an engine and what a run of the target would find there; each check as soon as it is known."""
    try:
        engine = place.engine()
        version, info = engine.version(), engine.info()
        user = place.user()
    except AmlError as error:
        yield failed("engine", error)
        return
    yield Check(
        name="engine",
        ok=True,
        message=f"Docker {version.get('Version')} (API {version.get('ApiVersion')},"
        f" {version.get('Os')}/{version.get('Arch')}) at {engine.path}",
    )
    there, check = _image(Registry(engine.path), asked.image)
    yield check
    if not there:
        for name in ("python", "job folder", "share", "disk of the engine", "clock"):
            yield Check(name=name, ok=None, message="is looked at from inside the image, which is not there")
        return
    yield from _look_around(Registry(engine.path), asked, user, str(info.get("DockerRootDir", "/")))


class Registry(Engine):
    """The calls that only a test makes."""

    def distribution(self, name: str) -> None:
        """Ask the registry of an image for it, through the engine.  Raises EngineRefused."""
        self._ask("GET", f"/distribution/{quoted(name)}/json", patience=PATIENCE)

    def output(self, container: str) -> str:
        """What a container that has no terminal printed."""
        data = self._exchange(
            "GET", f"/containers/{quoted(container)}/logs?stdout=1&stderr=1", None, PATIENCE
        )[1]
        found, at = b"", 0
        while at + 8 <= len(data):  # a head of eight bytes: stream, three zeros, length
            size = int.from_bytes(data[at + 4 : at + 8], "big")
            found += data[at + 8 : at + 8 + size]
            at += 8 + size
        return found.decode(errors="replace")


def _image(engine: Registry, name: str) -> tuple[bool, Check]:
    found = engine.image(name)
    if found is not None:
        size = shown_size(int(found.get("Size", 0)))
        return True, Check(name="image", ok=True, message=f"{name} is there ({size})")
    try:
        engine.distribution(name)
    except (AmlError, TimeoutError) as error:
        said = error.message if isinstance(error, AmlError) else "its registry does not answer"
        return False, Check(
            name="image",
            ok=False,
            message=f"{name} is not there and cannot be pulled: {said}",
            fix=f"docker login, when it is private; docker pull {name} shows more.\n"
            f"Another one in its place: aml config set image.{name} OTHER, or --image OTHER.",
        )
    return False, Check(name="image", ok=True, message=f"{name} is not there; the first run pulls it")


def _look_around(engine: Registry, asked: Asked, user: str, root: str) -> Iterator[Check]:
    before = time.time()
    try:
        try:
            said = _looked(engine, asked, user, gpu=asked.gpu)
            gpu = Check(name="gpu", ok=True, message="the engine gives containers its GPUs")
        except EngineRefused as error:
            if not asked.gpu:
                raise
            gpu = failed("gpu", error).replace(
                fix="Install the NVIDIA container toolkit on that machine, or set nvidiaDocker: false."
            )
            said = _looked(engine, asked, user, gpu=False)
    except EngineRefused as error:
        yield failed("container", error).replace(fix=_hint(error, asked))
        return
    after = time.time()
    if asked.gpu:
        yield gpu
    yield _python(said, asked)
    if asked.job:
        yield _job(said, asked.job, user)
    yield _share(said, asked, user)
    free = said.get("disk", "").split()
    if len(free) >= 4 and free[3].isdigit():
        yield space("disk of the engine", root, int(free[3]) << 10, LEAST_ENGINE, _MORE_SPACE)
    if said.get("clock", "").isdigit():
        yield clock(skew(int(said["clock"]), before, after), "the engine's clock")


def _looked(engine: Registry, asked: Asked, user: str, *, gpu: bool) -> dict[str, str]:
    """What a container of the image says of itself, by name.  Raises EngineRefused."""
    mark = os.urandom(4).hex()
    container = engine.create(f"aml-test-{mark}", _body(asked, user, mark, gpu=gpu))
    try:
        engine.start(container)
        if not engine.wait(container, PATIENCE):
            raise EngineRefused(f"a container did not end within {PATIENCE:g} s")
        lines = (line.partition("=") for line in engine.output(container).splitlines())
        return {name: value.strip() for name, _, value in lines}
    finally:
        engine.remove(container)


def _body(asked: Asked, user: str, mark: str, *, gpu: bool) -> dict[str, Any]:
    mounts = []
    if asked.share:
        mounts.append({"Type": "bind", "Source": asked.share.rstrip("/"), "Target": SHARE.rstrip("/")})
    if asked.job:
        mounts.append({"Type": "bind", "Source": asked.job, "Target": containers.JOB_IN_CONTAINER})
    variables = {**containers.user_variables(user), "AML_TEST": mark}
    return {
        "Image": asked.image,
        "Entrypoint": ["sh", "-c", _LOOK],
        "Cmd": [],
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "User": user,
        "WorkingDir": "/",
        "Labels": containers.labels("probe"),
        "HostConfig": {
            **containers.limits({}, {"gpu": gpu}),
            "Mounts": mounts,
            "LogConfig": containers.LOG,
            "NetworkMode": "none",
        },
    }


def _python(said: Mapping[str, str], asked: Asked) -> Check:
    python, version = said.get("python"), said.get("version", "")
    if python and version[:1].isdigit():
        old = tuple(map(int, version.split(".")[:2])) < (3, 8)
        fix = _NO_PYTHON if old and not asked.environment else ""
        told = f"{python} is Python {version}" + (", older than 3.8" if old else "")
        return Check(name="python", ok=not old or asked.environment, message=told, fix=fix)
    what = f"{python} does not start: {version}" if python else f"{asked.image} has no Python"
    if asked.environment:
        return Check(name="python", ok=True, message=f"{what}; the project's environment brings its own")
    return Check(name="python", ok=False, message=what, fix=_NO_PYTHON)


def _job(said: Mapping[str, str], folder: str, user: str) -> Check:
    found = said.get("job")
    if found == "yes":
        return Check(
            name="job folder",
            ok=True,
            message=f"containers read and write {os.path.dirname(folder)} as {user}",
        )
    if found == "no":
        return Check(
            name="job folder",
            ok=False,
            message=f"containers of user {user} may not write {folder}",
            fix="The engine may run under another user: sudo chown, or an AML_HOME on a disk it may write.",
        )
    return Check(
        name="job folder",
        ok=False,
        message=f"what containers see as {folder} is another folder: the engine has a file system of its own",
        fix="Share the folder with the engine (Docker Desktop: Settings, Resources, File sharing), or set"
        " AML_HOME to one that it shares.",
    )


def _share(said: Mapping[str, str], asked: Asked, user: str) -> Check:
    if not asked.share:
        return Check(name="share", ok=None, message=asked.reason or "this target has none")
    if said.get("share") == "yes":
        return Check(name="share", ok=True, message=f"{asked.share} can be written by user {user} at {SHARE}")
    return Check(
        name="share",
        ok=False,
        message=f"{asked.share} cannot be written by user {user} of a container",
        fix=f"sudo chown -R {user} {asked.share}",
    )


def _hint(error: EngineRefused, asked: Asked) -> str:
    if '"sh"' in error.message:
        return f"{asked.image} has no shell to look around with; a run needs none."
    if "bind source path" in error.message:
        return "The engine does not see this computer's folders: is it on another machine or in a container?"
    return "docker run --rm " + asked.image + " true   shows whether the engine can start containers at all."


class Scratch:
    """A folder of this computer that a test mounts as a run's `job/` is; gone when it is left."""

    def __init__(self, home: str) -> None:
        self.path = f"{home}/trial-{os.getpid()}-{os.urandom(3).hex()}"

    def __enter__(self) -> str:
        make_root(self.path)
        with Root(self.path) as root:
            os.close(root.create_file("here"))
        return self.path

    def __exit__(self, *_: object) -> None:
        remove_tree(self.path)
