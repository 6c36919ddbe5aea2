"""The engine of a machine reached by ssh: its socket is forwarded, files go through a container of its own.

    ~/.azureml/remote/objects    contents that were sent, each once
    ~/.azureml/remote/runtimes   the runtime, each version once
    ~/.azureml/remote/runs       job and working copy of each run that is not over

There is nothing to take for granted there but Docker and `sh`.
"""

from __future__ import annotations

import hashlib
import os
import time

from aml_jupyter import credentials, plainjson
from aml_jupyter.config import aml_home
from aml_jupyter.confined import make_root, read_bounded
from aml_jupyter.connection import Connection, quote
from aml_jupyter.errors import ConfigError, TargetUnavailable
from aml_jupyter.executors.docker import containers
from aml_jupyter.executors.docker.containers import Places
from aml_jupyter.executors.docker.engine import DEFAULT_SOCKET, NoAnswer
from aml_jupyter.executors.docker.evidence import evidence_of
from aml_jupyter.executors.docker.forwarding import Forwarded
from aml_jupyter.job import Alive, Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self

    from aml_jupyter.config import Secret
    from aml_jupyter.executors import Take, Tell
    from aml_jupyter.executors.docker.engine import Engine
    from aml_jupyter.executors.docker.mirroring import Mirror
    from aml_jupyter.job import Handle, Job, Liveness

# where all of it is there, below the home of the login
FOLDER = ".azureml/remote"
# seconds: for one short command there, and between two looks while nothing happens
COMMAND = 60.0
# for the end of a helper
HELPER = 3.0
SHORTEST_LOOK, LONGEST_LOOK = 0.1, 1.0
BLOCK = 1 << 20
# bytes of log and events beyond what the runtime itself allows
SLACK = 64 << 20
# which start of the machine it is
BOOT_ID = "/proc/sys/kernel/random/boot_id"

_known: dict[str, There] = {}


class There:
    """A machine behind ssh as the place of an engine."""

    local = False

    def __init__(self, target: Mapping[str, Any], password: Secret | None = None) -> None:
        self.target = dict(target)
        name = str(target["name"])
        password = password or _password(target)
        self.without_password = password is None
        self.connection = Connection(
            str(target["address"]),
            folder=control_folder(),
            port=target.get("port"),
            username=target.get("username"),
            password=password,
            password_hint=credentials.ways(name) if target.get("password") else "",
            identity=target.get("private_key"),
            name=name,
        )
        self._facts: dict[str, str] = {}
        self._look_at = 0.0
        self._pause = SHORTEST_LOOK
        self._mirrors: dict[str, Mirror] = {}

    @classmethod
    def of(cls, target: Mapping[str, Any]) -> Self:
        """The one object for a target: what was asked of its machine is remembered in this process."""
        key = plainjson.dumps(dict(target), sort_keys=True)
        found = _known.get(key)
        # a password may have come since
        if not isinstance(found, cls) or (found.without_password and _at_hand(target)):
            found = _known[key] = cls(target)
        return found

    def engine(self) -> Engine:
        """The engine, through the forwarded socket."""
        return self._engine_at(self._machine()["engine"])

    def _engine_at(self, socket: str) -> Forwarded:
        return Forwarded(self.connection, socket)

    def explained(self, error: TargetUnavailable) -> TargetUnavailable:
        """An error of the engine with its cause: the line, or what is wrong there."""
        if error.code != "engine.unavailable" or not self._facts:
            return error
        return self._engine_at(self._facts["engine"]).unavailable(error.message)

    def handle(self, job: Job) -> dict[str, Any]:
        """What finds this place and the job's files on it again."""
        boot_id = self._machine()["boot_id"]
        return {"target": self.target, "folder": self._run(job), "limit": job.log_limit, "boot_id": boot_id}

    def user(self) -> str:
        """`uid:gid` of the login there, or root where root of a container is that user."""
        return self._machine()["user"]

    def _machine(self) -> dict[str, str]:
        """What is to be known of the machine, asked once: home, user, socket of the engine."""
        if not self._facts:
            folders = " ".join(f"{FOLDER}/{name}" for name in ("objects", "runtimes", "runs"))
            answer = self.connection.run(
                f"cd && umask 077 && mkdir -p {folders} && pwd -P && id -u && id -g"
                f' && printf "%s\\n" "${{DOCKER_HOST:-}}" && {{ cat {BOOT_ID} 2>/dev/null || echo; }}',
                timeout=COMMAND,
            )
            lines = os.fsdecode(answer.out).split("\n")
            if answer.code != 0 or len(lines) < 5:
                raise self.connection.failure(f"~/{FOLDER} cannot be made", answer)
            engine = str(self.target.get("engine") or lines[3] or f"unix://{DEFAULT_SOCKET}")
            facts = {
                "home": lines[0],
                "user": f"{lines[1]}:{lines[2]}",
                "engine": _socket_path(engine),
                "boot_id": lines[4],
            }
            if lines[1] != "0" and self._is_rootless(facts["engine"]):
                facts["user"] = "0:0"
            self._facts = facts
        return self._facts

    def _is_rootless(self, socket: str) -> bool:
        return "name=rootless" in (self._engine_at(socket).info().get("SecurityOptions") or [])

    def folder(self) -> str:
        """What is kept on that machine lies below it."""
        return f"{self._machine()['home']}/{FOLDER}"

    def _run(self, job: Job) -> str:
        return f"{self.folder()}/runs/{containers.container_name(job)}"

    def places(self, job: Job) -> Places:
        """Where the parts of a job lie; the working copy is the engine's own, and always mounted."""
        run = self._run(job)
        return Places(
            job=run + "/job",
            runtime=f"{self.folder()}/runtimes/{_runtime_version(job)}",
            work=run + "/work",
            share=self._share(job),
        )

    def _share(self, job: Job) -> str | None:
        if not job.target.get("shared_volumes") or not job.share:
            return None
        return job.share.replace("~", self._machine()["home"], 1) if job.share.startswith("~") else job.share

    def lay_out(self, job: Job, tell: Tell) -> None:
        """Send what the machine lacks of snapshot, job and runtime, and lay the run out there.

        Tried again when the line breaks: what had come by then is not sent again.
        """
        from aml_jupyter.executors.docker.sending import Parcel, Sending

        if share := self._share(job):
            self._must(f"umask 077; mkdir -p {quote(share)}", f"the share {share} cannot be made")
        parcel = Parcel(job, containers.container_name(job), _runtime_version(job))
        try:
            Sending(self, job, parcel, tell).surely()
        except TargetUnavailable as error:
            if not error.passing:
                self._remove_quietly(self._run(job))
            raise

    def _remove_quietly(self, folder: str) -> None:
        """Leave nothing of a run that was not started; what cannot be removed now is swept later."""
        try:
            self._remove(folder)
        except TargetUnavailable:
            return

    def _must(self, command: str, what: str) -> None:
        answer = self.connection.run(command, timeout=COMMAND)
        if answer.code != 0:
            raise self.connection.failure(what, answer)

    def has_started(self, job: Job) -> bool:
        """Whether a runtime has taken the job."""
        if os.path.exists(job.job + "/started.json"):
            return True
        return (
            self.connection.run(f"[ -e {quote(self._run(job))}/job/started.json ]", timeout=COMMAND).code == 0
        )

    def process(self, _found: Mapping[str, Any], /) -> None:
        """Unknown to this kernel."""
        return

    def ended(self, handle: Handle) -> bool:
        """Whether the ending was brought here."""
        return os.path.exists(handle["job"] + "/exit.json")

    def look(self, handle: Handle, wait: float) -> Liveness:
        """Ask the engine there, as often as something happens and once a second while nothing does."""
        if self.ended(handle):
            return Gone(evidence="the runtime has ended")
        if time.monotonic() < self._look_at:
            time.sleep(min(wait, max(0.0, self._look_at - time.monotonic())))
            if time.monotonic() < self._look_at:
                return Alive()
        engine = self.engine()
        found = engine.container(handle["container"]) if handle["container"] else None
        if found is not None and found["State"]["Status"] in ("running", "paused", "restarting"):
            return Alive()
        self._look_at = 0.0  # what it has left is to be brought at once
        ended, boot_id = self._after_the_end(handle)
        if ended:
            return Gone(evidence="the runtime has ended")
        return self._was_restarted(handle, boot_id) or evidence_of(engine, handle)

    def _after_the_end(self, handle: Handle) -> tuple[bool, str]:
        """Whether an ending lies there, and which start of the machine this is."""
        ending = quote(f"{handle['folder']}/job/exit.json")
        command = f"[ -f {ending} ] && echo yes || echo no; cat {BOOT_ID} 2>/dev/null"
        ended, _, boot_id = os.fsdecode(self.connection.run(command, timeout=COMMAND).out).partition("\n")
        return ended == "yes", boot_id.strip()

    def restarted(self, handle: Handle) -> Gone | None:
        """Whether the machine was restarted since the job began."""
        return self._was_restarted(handle, self._after_the_end(handle)[1])

    def _was_restarted(self, handle: Handle, boot_id: str) -> Gone | None:
        if handle.get("boot_id") and boot_id and boot_id != handle["boot_id"]:
            return Gone(evidence=f"{self.target['address']} was restarted while the run was on")
        return None

    def read(self, handle: Handle, name: str, position: int) -> bytes:
        """Up to 1 MiB of a file of `job/` there."""
        return self.connection.read(f"{handle['folder']}/job/{name}", position, BLOCK) or b""

    def mirror(self, handle: Handle, into: str) -> None:
        """Bring what is new of `job/`: payloads, events, log, and the ending when all else is here."""
        if time.monotonic() < self._look_at or os.path.exists(into + "/exit.json"):
            return
        from aml_jupyter.executors.docker.mirroring import Mirror

        folder = f"{handle['folder']}/job"
        mirror = self._mirrors.get(folder)
        if mirror is None:
            mirror = self._mirrors[folder] = Mirror(self.connection, folder, into, handle["limit"] + SLACK)
        new = mirror.bring()
        self._pause = SHORTEST_LOOK if new else min(LONGEST_LOOK, self._pause * 1.3)
        self._look_at = time.monotonic() + self._pause

    def outputs(self, handle: Handle, path: str, take: Take, *, content: bool) -> None:
        """Regular files at or below a path of the working copy there."""
        from aml_jupyter.executors.docker.looking import on_machine

        on_machine(self, _job_of(handle), path, take, content=content)

    def collect(self, handle: Handle, into: str) -> None:
        """Bring what the run added or changed, onto a copy of its snapshot made here.

        What had come before the line broke is not sent again.
        """
        if os.path.isdir(into):
            return
        from aml_jupyter.executors.docker.gathering import gather

        gather(self, _job_of(handle), into)

    def remove(self, handle: Handle) -> None:
        """Remove the folder of the run there, and helpers that a line fell silent on."""
        engine = self.engine()
        for one in engine.containers({"aml.run": handle["run_id"], "aml.role": "store"}):
            try:
                engine.remove(one["Id"], patience=HELPER)
            except NoAnswer:  # it cannot end before that line does, and then it removes itself
                continue
        # last: a helper that was interrupted writes until it has ended
        self._remove(handle["folder"])

    def _remove(self, folder: str) -> None:
        name = quote(folder)
        self._must(
            f"[ ! -d {name} ] || {{ chmod -R u+rwX {name} 2>/dev/null; rm -rf {name}; }}",
            f"{folder} cannot be removed",
        )


def _at_hand(target: Mapping[str, Any]) -> Secret | None:
    return credentials.at_hand(str(target["name"]), str(target["address"]), target.get("username"))


def _password(target: Mapping[str, Any]) -> Secret | None:
    """The password, looked for in the keyring only where the target's file wants one."""
    if not target.get("password"):
        return _at_hand(target)
    return credentials.password_of(str(target["name"]), str(target["address"]), target.get("username"))


def _runtime_version(job: Job) -> str:
    return os.path.basename(os.path.realpath(job.job + "/runtime"))


def _job_of(handle: Handle) -> Job:
    from aml_jupyter.job import Job

    directory = os.path.dirname(handle["job"])
    return Job.from_request(
        directory, plainjson.loads(read_bounded(handle["job"] + "/request.json", 16 * BLOCK))
    )


def _socket_path(written: str) -> str:
    if not written.startswith("unix://"):
        raise ConfigError(
            f"DOCKER_HOST on that machine is {written.partition('@')[2] or written}, which is no socket",
            code="engine.unsupported",
            hint="Name the engine's socket in the .compute file:  dockerHost: unix:///var/run/docker.sock",
        )
    return written.removeprefix("unix://")


def control_folder() -> str:
    """The folder of ssh's sockets: below AML_HOME, or where that path is too long in one of this user."""
    inside = aml_home() + "/ssh"
    if len(os.fsencode(inside)) <= 72:
        make_root(inside)
        return inside
    base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"  # noqa: S108 - made for this user alone, and checked
    folder = f"{base}/aml-{os.getuid()}-{hashlib.sha256(aml_home().encode()).hexdigest()[:8]}"
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if found.st_uid != os.getuid() or found.st_mode & 0o170077 != 0o040000:
            raise ConfigError(
                f"{folder} belongs to somebody else", hint="Set AML_HOME to a shorter path."
            ) from None
    return folder
