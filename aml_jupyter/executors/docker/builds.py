"""Building the image of an environment: a container that installs, and is then committed.

A Dockerfile cannot mount anything, so what an index asks for would stay in the image.  Here settings reach
single commands as variables, files lie in a volume that no image takes up, and the container lives only as
long as the process that builds: it waits for a word on its standard input and ends when that is closed.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager

from aml_jupyter import locks
from aml_jupyter.config import aml_home
from aml_jupyter.confined import make_root, remove_tree
from aml_jupyter.errors import EnvironmentFailed
from aml_jupyter.executors.docker import sdk
from aml_jupyter.executors.docker.containers import home_label, labels, owner
from aml_jupyter.executors.docker.engine import Engine, EngineRefused
from aml_jupyter.executors.docker.images import (
    PREFIX,
    REPOSITORY,
    environment_reference,
    missing,
    probe_image,
    remember,
)
from aml_jupyter.executors.docker.installing import Installation, ended
from aml_jupyter.executors.docker.probing import DEFAULT_PATH, variables
from aml_jupyter.printable import shown_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from aml_jupyter.environment.lock import Lock, Package
    from aml_jupyter.executors import Tell

# images upon images: engines stop at about 120 layers
DEEPEST = 20
# seconds between two looks at what another one builds
PAUSE = 0.3
# seconds that the removal of a container may take
PATIENCE = 15.0
# seconds after which a container that nobody is known to build in is in the way: one that was never
# started, one that runs (it would have ended with its builder, unless the line to it hangs)
STALE_CREATED, STALE_RUNNING = 600.0, 6 * 3600.0
# ends by itself when its standard input does, which is when whoever builds ends
_WAITS = ["/bin/sh", "-c", "read -r _"]


class Build:
    """One environment upon one base, built by one process at a time."""

    def __init__(
        self,
        socket: str,
        base: str,
        lock: Lock,
        *,
        tell: Tell,
        local: bool,
        credentials: Mapping[str, str],
    ) -> None:
        self.engine = Engine(socket)
        self.base = base
        self.lock = lock
        self.tell = tell
        self.local = local
        self.credentials = credentials
        self.reference = environment_reference(base, lock)
        self.tag = self.reference.partition(":")[2]
        self.name = f"aml-build-{self.tag}"
        self.parent: dict[str, Any] | None = None

    def make(self, *, again: bool = False) -> str:
        """The name of the image, built unless somebody else does that meanwhile.

        Raises TargetUnavailable, EnvironmentFailed `environment.build_failed`.
        """
        home = aml_home()
        scratch = f"{home}/builds/{self.name}"
        with _alone(f"{home}/locks", self.name, self.tell):
            _sweep(home)
            _discard(scratch)
            if not again and self.engine.image(self.reference) is not None:
                return self.reference
            began = time.monotonic()
            try:
                built = self._build(scratch, again=again)
            finally:
                _discard(scratch)
            if built:
                self.tell(f"environment image {self.reference} in {shown_seconds(time.monotonic() - began)}")
        return self.reference

    def _build(self, scratch: str, *, again: bool) -> bool:
        """Whether the image was built here; False when somebody else did."""
        old = self.engine.image(self.reference) if again else None
        probe = probe_image(self.engine.path, self.base, self.tell)
        with sdk.client(self.engine.path) as client:
            installation = Installation(
                client,
                self.engine,
                self.lock,
                probe,
                user=self._user(),
                local=self.local,
                credentials=self.credentials,
                tell=self.tell,
            )
            _prune(client)
            if not again:
                self.parent = self._parent(client, installation.user)
            with self._container(client, installation, again=again) as container:
                if container is None:
                    return False
                seen = installation.run(container, scratch)
                image = self._commit(client, container, installation.user)
        remember(seen.replace(image=image))
        if old is not None and old["Id"] != image:
            self._forget(str(old["Id"]))
        return True

    def _user(self) -> str:
        """`uid:gid` that installs: the caller where a cache of the caller's is written."""
        if not self.local or os.getuid() == 0:
            return "0:0"
        rootless = "name=rootless" in (self.engine.info().get("SecurityOptions") or [])
        return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"

    # what it is built upon

    def _parent(self, client: Any, user: str) -> dict[str, Any] | None:
        """The image of an earlier environment of the same base that lacks the least of this one."""
        wanted = set(identities(self.lock))
        conda = {one for one in wanted if one.startswith("conda ")}
        found = client.images(filters={"label": ["aml.made=1", f"aml.base={self.base}"]})
        best: tuple[int, int, str] | None = None
        for image in found:
            marks = image.get("Labels") or {}
            try:
                have = set(json.loads(marks["aml.packages"]))
                depth = int(marks["aml.depth"])
            except (KeyError, ValueError, TypeError):  # not one of this form
                continue
            fits = have and have < wanted and conda == {one for one in have if one.startswith("conda ")}
            if fits and depth < DEEPEST and marks.get("aml.user") == user:
                best = max(best or (0, 0, ""), (len(have), -depth, str(image["Id"])))
        if best is None:
            return None
        self.tell(f"{best[0]} of {len(wanted)} packages are in an image that is there")
        return self.engine.image(best[2])

    # the container

    @contextmanager
    def _container(self, client: Any, installation: Installation, *, again: bool) -> Iterator[str | None]:
        """A running container that is gone with this process; None when somebody else has built the image."""
        container = self._create(client, installation, again=again)
        if container is None:
            yield None
            return
        line = None
        try:
            line = client.attach_socket(container, params={"stdin": 1, "stream": 1})
            client.start(container)
            yield container
        except sdk.api_error() as error:
            if self._is_gone(container):
                raise ended() from error
            raise self._failed(sdk.explanation(error)) from error
        except EngineRefused as error:
            if self._is_gone(container):
                raise ended() from error
            raise
        finally:
            if line is not None:
                sdk.hang_up(line)
            self._end(client, container)

    def _is_gone(self, container: str) -> bool:
        found = self.engine.container(container)
        return found is None or found["State"]["Status"] not in ("created", "running")

    def _end(self, client: Any, container: str) -> None:
        """End a container.  The engine removes it by itself: that takes seconds, and nobody waits for it."""
        found = self.engine.container(container)
        state = found["State"]["Status"] if found else ""
        if state == "running":
            self.engine.kill(container, "SIGKILL")
        elif state == "created":
            self.engine.remove(container)
        else:
            # somebody else removes it, and may leave its volume
            due = time.monotonic() + PATIENCE
            while self.engine.container(container) is not None and time.monotonic() < due:
                time.sleep(PAUSE)
            _prune(client)

    def _create(self, client: Any, installation: Installation, *, again: bool) -> str | None:
        marks = labels("build", environment=self.lock.digest)
        waiting = _Waiting(self.tell)
        while True:
            if waiting.waited and not again and self.engine.image(self.reference) is not None:
                return None
            installation.extends = self.parent is not None
            try:
                made = client.create_container(
                    str(self.parent["Id"]) if self.parent else self.base,
                    entrypoint=_WAITS,
                    name=self.name,
                    labels=marks,
                    stdin_open=True,
                    working_dir="/",
                    host_config=client.create_host_config(
                        mounts=installation.mounts(),
                        auto_remove=True,
                        network_mode="host" if installation.needs_host_network else None,
                    ),
                )
                return str(made["Id"])
            except sdk.api_error() as error:
                status, why = error.status_code, sdk.explanation(error)
                if status == 404 and self.parent is not None:  # removed meanwhile
                    self.parent = None
                elif status == 404:
                    raise missing(self.base, why) from error
                elif installation.local and "bind source path does not exist" in why:
                    installation.local = False  # an engine that sees other files than this process
                elif status != 409:
                    raise self._failed(why) from error
                else:
                    self._wait_for_other(waiting)

    def _wait_for_other(self, waiting: _Waiting) -> None:
        """Wait a moment for who has the container of this name, or remove it when that is nobody."""
        found = self.engine.container(self.name)
        if found is not None and _abandoned(found, self.engine):
            self.engine.remove(str(found["Id"]))
        elif found is not None:
            waiting.tell_once(found)
            time.sleep(PAUSE)
        waiting.waited = True

    # the image

    def _commit(self, client: Any, container: str, user: str) -> str:
        base = self.engine.image(self.base)
        if base is None:
            raise missing(self.base, "it was removed while an environment was built upon it")
        config = base.get("Config") or {}
        self.tell("keeping it as an image")
        path = variables(config).get("PATH") or DEFAULT_PATH
        environ = {"PATH": f"{PREFIX}/bin:{path}"}
        marks = labels(
            "environment",
            environment=self.lock.digest,
            base=self.base,
            depth=str(_depth(self.parent) + 1),
            packages=json.dumps(identities(self.lock)),
            user=user,
        )
        # what says who builds is of the container, not of the image
        marks.update({"aml.owner": "", "aml.namespace": ""})
        made = client.commit(
            container,
            repository=REPOSITORY,
            tag=self.tag,
            pause=False,  # nothing runs in it but the shell that waits
            conf={
                "Env": [f"{name}={value}" for name, value in environ.items()],
                "Labels": marks,
                "Entrypoint": config.get("Entrypoint") or [],
                "Cmd": config.get("Cmd") or [],
                "WorkingDir": config.get("WorkingDir") or "/",
            },
        )
        return str(made["Id"])

    def _forget(self, image: str) -> None:
        """Remove the image that had the name before, unless something stands on it or runs in it."""
        with sdk.client(self.engine.path) as client:
            try:
                client.remove_image(image)
            except sdk.api_error():
                self.tell("the earlier image of this environment is still in use and stays")

    def _failed(self, why: str) -> EnvironmentFailed:
        return EnvironmentFailed(
            f"the environment cannot be built: {why}",
            code="environment.build_failed",
            hint="Nothing is left of it. control.log of the run has the whole output.",
        )


def _prune(client: Any) -> None:
    """Remove volumes of builds whose container was removed without them: by hand, or by an engine's start."""
    client.prune_volumes(filters={"label": [f"aml.home={home_label()}", "aml.role=build"]})


def identities(lock: Lock) -> list[str]:
    """What is in an environment, as its image's label has it."""
    return sorted(map(_identity, lock.packages))


def _identity(package: Package) -> str:
    from aml_jupyter.config.cache import sha256

    kind = "conda" if package.source == "conda" else "pip"
    digest = sha256(json.dumps(package.identity, separators=(",", ":")).encode())[:12]
    return f"{kind} {package.name}=={package.version} {digest}"


def _depth(parent: Mapping[str, Any] | None) -> int:
    return int(parent["Config"]["Labels"]["aml.depth"]) if parent else 0


class _Waiting:
    """Says once that somebody else builds."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told = False
        self.waited = False

    def tell_once(self, found: Mapping[str, Any]) -> None:
        if not self._told:
            self._told = True
            pid = str((found["Config"].get("Labels") or {}).get("aml.owner") or "").partition(".")[0]
            if pid != str(os.getpid()):  # a container of our own that is being removed is not worth a word
                self._tell(f"somebody else builds this environment (process {pid or 'unknown'}): waiting")


def _abandoned(found: Mapping[str, Any], engine: Engine) -> bool:
    """Whether nobody builds in a container any more."""
    marks = found["Config"].get("Labels") or {}
    who = owner(marks)
    if who in ("alive", "dead"):
        return who == "dead"
    limit = STALE_RUNNING if found["State"].get("Running") else STALE_CREATED
    age = _seconds(engine.info().get("SystemTime")) - _seconds(found.get("Created"))
    return age > limit


def _seconds(text: object) -> float:
    """A time of the engine in seconds since 1970; only differences of two are used."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(str(text)[:19]).timestamp()
    except ValueError:
        return 0.0


# --- what lies on this machine ----------------------------------------------------------------------------


@contextmanager
def _alone(folder: str, name: str, tell: Tell) -> Iterator[None]:
    """Hold the lock of a build on this machine; whoever has it may take minutes, so there is no limit."""
    make_root(folder)
    path = f"{folder}/{name}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        told = False
        while not locks.try_lock(fd):
            if not told:
                told = True
                who = ", ".join(map(str, locks.holders(path))) or "unknown"
                tell(f"another run builds this environment (process {who}): waiting")
            time.sleep(PAUSE)
        yield
    finally:
        os.close(fd)


def _discard(folder: str) -> None:
    if os.path.lexists(folder):
        remove_tree(folder)


def _sweep(home: str) -> None:
    """Remove what builds that were killed have left in scratch folders."""
    try:
        names = os.listdir(f"{home}/builds")
    except FileNotFoundError:
        return
    for name in names:
        fd = os.open(f"{home}/locks/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # the caller's own is held by another descriptor, and is removed all the same: it has just begun
            if locks.try_lock(fd):
                remove_tree(f"{home}/builds/{name}")
        finally:
            os.close(fd)
