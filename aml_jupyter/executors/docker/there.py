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
import zlib

from aml_jupyter import plainjson
from aml_jupyter.config import Secret, aml_home
from aml_jupyter.confined import make_root, read_bounded, remove_tree
from aml_jupyter.connection import Connection, quote
from aml_jupyter.errors import AmlError, ConfigError, TargetUnavailable
from aml_jupyter.executors.docker import containers
from aml_jupyter.executors.docker.containers import Places
from aml_jupyter.executors.docker.engine import DEFAULT_SOCKET, Engine
from aml_jupyter.executors.docker.evidence import why_gone
from aml_jupyter.job import Alive, Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self

    from aml_jupyter.executors import Tell
    from aml_jupyter.executors.docker.engine import Conversation
    from aml_jupyter.job import Handle, Job, Liveness

# seconds: for one short command there, and between two looks while nothing happens
COMMAND = 60.0
SHORTEST_LOOK, LONGEST_LOOK = 0.1, 1.0
BLOCK = 1 << 20
# bytes of log and events beyond what the runtime itself allows
SLACK = 64 << 20
STORE_IN_CONTAINER = "/run/aml-store"

_known: dict[str, There] = {}
# passwords by the name of the target, for this process alone
passwords: dict[str, Secret] = {}


class There:
    """A machine behind ssh as the place of an engine."""

    local = False

    def __init__(self, target: Mapping[str, Any]) -> None:
        self.target = dict(target)
        name = str(target["name"])
        self.connection = Connection(
            str(target["address"]),
            folder=control_folder(),
            port=target.get("port"),
            username=target.get("username"),
            password=passwords.get(name),
            identity=target.get("private_key"),
            name=name,
        )
        self._facts: dict[str, str] = {}
        self._look_at = 0.0
        self._pause = SHORTEST_LOOK

    @classmethod
    def of(cls, target: Mapping[str, Any]) -> Self:
        """The one object for a target: what was asked of its machine is remembered in this process."""
        key = plainjson.dumps(dict(target), sort_keys=True)
        found = _known.get(key)
        if not isinstance(found, cls):
            found = _known[key] = cls(target)
        return found

    def engine(self) -> Engine:
        """The engine, through the forwarded socket."""
        return Engine(self.connection.forward(self._machine()["engine"]), where=str(self.target["address"]))

    def handle(self, job: Job) -> dict[str, Any]:
        """What finds this place and the job's files on it again."""
        return {"target": self.target, "folder": self._run(job), "limit": job.log_limit}

    def user(self) -> str:
        """`uid:gid` of the login there, or root where root of a container is that user."""
        return self._machine()["user"]

    def _machine(self) -> dict[str, str]:
        """What is to be known of the machine, asked once: home, user, socket of the engine."""
        if not self._facts:
            answer = self.connection.run(
                "cd && umask 077 && mkdir -p .azureml/remote/objects .azureml/remote/runtimes .azureml/remote/runs && pwd -P"
                ' && id -u && id -g && printf "%s\\n" "${DOCKER_HOST:-}"',
                timeout=COMMAND,
            )
            lines = os.fsdecode(answer.out).split("\n")
            if answer.code != 0 or len(lines) < 4:
                raise TargetUnavailable(
                    f"{self.target['address']}: ~/.azureml cannot be made: {answer.complaint}",
                    code="store.unavailable",
                    hint="The login there needs a home folder with room in it.",
                )
            engine = str(self.target.get("engine") or lines[3] or f"unix://{DEFAULT_SOCKET}")
            facts = {"home": lines[0], "user": f"{lines[1]}:{lines[2]}", "engine": _socket_path(engine)}
            if lines[1] != "0" and self._is_rootless(facts["engine"]):
                facts["user"] = "0:0"
            self._facts = facts
        return self._facts

    def _is_rootless(self, socket: str) -> bool:
        engine = Engine(self.connection.forward(socket), where=str(self.target["address"]))
        return "name=rootless" in (engine.info().get("SecurityOptions") or [])

    def _folder(self) -> str:
        return self._machine()["home"] + "/.azureml/remote"

    def _run(self, job: Job) -> str:
        return f"{self._folder()}/runs/{containers.container_name(job)}"

    def places(self, job: Job) -> Places:
        """Where the parts of a job lie; the working copy is the engine's own, and always mounted."""
        run = self._run(job)
        return Places(
            job=run + "/job",
            runtime=f"{self._folder()}/runtimes/{_runtime_version(job)}",
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
        from aml_jupyter.executors.docker.sending import Parcel

        if share := self._share(job):
            self._must(f"umask 077; mkdir -p {quote(share)}", f"the share {share} cannot be made")
        parcel = Parcel(job, containers.container_name(job), _runtime_version(job))
        for attempt in range(4):
            try:
                self._deliver(job, parcel, tell)
                return
            except TargetUnavailable as error:
                if not error.passing or attempt == 3:
                    raise
                tell(f"{error.message}; sending again")
                time.sleep(2.0**attempt)

    def _deliver(self, job: Job, parcel: Any, tell: Tell) -> None:
        with _Helper(self, job, "receive") as helper:
            helper.conversation.send(parcel.announcement())
            answers = _Answers(helper.conversation)
            missing = answers.next(self.target).get("missing")
            wanted = parcel.wanted(missing)
            if wanted:
                size = sum(parcel.size(number) for number in wanted)
                tell(f"sending {len(wanted)} files, {size / 1e6:.1f} MB, to {self.target['address']}")
            for number in wanted:
                for block in parcel.blocks(number):
                    helper.conversation.send(block)
            if not answers.next(self.target).get("done"):
                raise TargetUnavailable(f"{self.target['address']} did not lay out the run")

    def _must(self, command: str, what: str) -> None:
        answer = self.connection.run(command, timeout=COMMAND)
        if answer.code != 0:
            raise TargetUnavailable(
                f"{self.target['address']}: {what}: {answer.complaint}", code="store.unavailable"
            )

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
        exit_json = self.connection.read(f"{handle['folder']}/job/exit.json")
        return Gone(evidence="the runtime has ended") if exit_json else why_gone(engine, handle)

    def read(self, handle: Handle, name: str, position: int) -> bytes:
        """Up to 1 MiB of a file of `job/` there."""
        return self.connection.read(f"{handle['folder']}/job/{name}", position, BLOCK) or b""

    def mirror(self, handle: Handle, into: str) -> None:
        """Bring what is new of `job/`: payloads, events, log, and the ending when all else is here."""
        if time.monotonic() < self._look_at or os.path.exists(into + "/exit.json"):
            return
        from aml_jupyter.executors.docker.mirroring import bring

        new = bring(self.connection, f"{handle['folder']}/job", into, handle["limit"] + SLACK)
        self._pause = SHORTEST_LOOK if new else min(LONGEST_LOOK, self._pause * 1.3)
        self._look_at = time.monotonic() + self._pause

    def collect(self, handle: Handle, into: str) -> None:
        """Bring what the run added or changed, onto a copy of its snapshot made here."""
        if os.path.isdir(into):
            return
        from aml_jupyter.executors.docker.copying import unpack

        job = _job_of(handle)
        partial = into + ".partial"
        if os.path.lexists(partial):
            remove_tree(partial)
        try:
            _lay_out_here(job, partial)
            with _Helper(self, job, "gather") as helper:
                order = {"do": "gather", "run": containers.container_name(job)}
                helper.conversation.send(_ordered(order, {"run": order["run"]}))
                unpack(helper.conversation.output(), partial, replace=True)
                helper.confirm()
            os.rename(partial, into)
        except BaseException:
            remove_tree(partial)
            raise

    def remove(self, handle: Handle) -> None:
        """Remove the folder of the run there."""
        folder = quote(handle["folder"])
        self._must(
            f"[ ! -d {folder} ] || {{ chmod -R u+rwX {folder} 2>/dev/null; rm -rf {folder}; }}",
            f"{handle['folder']} cannot be removed",
        )


class _Helper:
    """A container that serves the files below ~/.azureml/remote, for one order."""

    def __init__(self, place: There, job: Job, what: str) -> None:
        self.place = place
        self.engine = place.engine()
        facts = prepared(job)
        self.name = f"{containers.container_name(job)[:200]}-{what}"
        self.body = {
            "Image": facts["image"],
            "Entrypoint": [],
            "Cmd": [facts["python"], "-S", "-E", "-s", "-c", _BOOTSTRAP, STORE_IN_CONTAINER],
            "User": place.user(),
            "Labels": containers.labels("store", run=job.run_id),
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "OpenStdin": True,
            "StdinOnce": True,
            "HostConfig": {
                "Mounts": [{"Type": "bind", "Source": place._folder(), "Target": STORE_IN_CONTAINER}],
                "NetworkMode": "none",
                "LogConfig": {"Type": "none"},
            },
        }

    def __enter__(self) -> Self:
        self.engine.remove(self.name)  # one that a killed supervisor left
        self.container = self.engine.create(self.name, self.body)
        try:
            self.conversation = self.engine.converse(self.container)
            self.engine.start(self.container)
            script = _store_script()
            self.conversation.send(b"%d\n" % len(script) + script)
        except BaseException:
            self.engine.remove(self.container)
            raise
        return self

    def confirm(self) -> None:
        """Make sure that an answer that was an archive is whole.  Raises TargetUnavailable, ArtifactError."""
        for _ in self.conversation.output():
            continue
        lines = self.conversation.errors.decode(errors="replace").splitlines()
        if '{"done": true}' not in lines:
            raise TargetUnavailable(
                f"{self.place.target['address']} did not send all files of the run: {' '.join(lines)[-300:]}"
            )

    def __exit__(self, *_exc: object) -> None:
        self.conversation.__exit__()
        try:
            self.engine.remove(self.container)
        except TargetUnavailable:  # the line is gone: the helper ends with it, the sweep removes it
            return


_BOOTSTRAP = "import sys;b=sys.stdin.buffer;exec(compile(b.read(int(b.readline())),'store.py','exec'))"


class _Answers:
    """Lines of JSON that a helper answers with."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._blocks = conversation.output()
        self._rest = b""

    def next(self, target: Mapping[str, Any]) -> dict[str, Any]:
        """The next answer.  Raises TargetUnavailable for an end without one, or for what it complains of."""
        while b"\n" not in self._rest:
            block = next(self._blocks, None)
            if block is None or len(self._rest) > SLACK:
                said = self._conversation.errors.decode(errors="replace").strip()[-300:]
                raise TargetUnavailable(f"{target['address']} broke off what it was doing: {said}")
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = plainjson.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise TargetUnavailable(f"{target['address']} answers what is none", code="store.unavailable")
        if "error" in answer:
            raise _complaint(answer, target)
        return answer


def _complaint(answer: Mapping[str, Any], target: Mapping[str, Any]) -> AmlError:
    full = answer.get("errno") in (28, 122)
    return TargetUnavailable(
        f"{target['address']}: {answer['error']} (below ~/.azureml/remote there)",
        code="store.no_space" if full else "store.unavailable",
        hint=f"Make room on {target['address']}: aml targets sweep {target['name']}" if full else "",
    )


def _ordered(order: Mapping[str, Any], document: Mapping[str, Any]) -> bytes:
    packed = zlib.compress(plainjson.dumps(document).encode("ascii"))
    return plainjson.dumps({**order, "size": len(packed)}).encode() + b"\n" + packed


def _store_script() -> bytes:
    from aml_jupyter.installation import SOURCE

    return read_bounded(SOURCE + "/store.py", BLOCK)


def _runtime_version(job: Job) -> str:
    return os.path.basename(os.path.realpath(job.job + "/runtime"))


def prepared(job: Job) -> dict[str, Any]:
    """What a job was prepared with."""
    found = plainjson.loads(read_bounded(job.directory + "/prepared.json", BLOCK))
    assert isinstance(found, dict)
    return found


def _job_of(handle: Handle) -> Job:
    from aml_jupyter.job import Job

    directory = os.path.dirname(handle["job"])
    return Job.from_request(
        directory, plainjson.loads(read_bounded(handle["job"] + "/request.json", 16 * BLOCK))
    )


def _lay_out_here(job: Job, folder: str) -> None:
    from aml_jupyter.snapshot import Store

    Store(job.snapshots).materialize(job.snapshot_id, folder)
    os.makedirs(folder + "/outputs", exist_ok=True)


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
