"""A container on the engine's machine that serves the files below ~/.azureml/remote, for one order.

It runs `runtime/store.py`, which it is sent: all that it needs is the engine there and a Python in the image.
"""

from __future__ import annotations

import os
import zlib

from aml_jupyter import plainjson
from aml_jupyter.confined import read_bounded
from aml_jupyter.errors import AmlError, TargetUnavailable
from aml_jupyter.executors.docker import containers
from aml_jupyter.executors.docker.engine import EngineRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Self

    from aml_jupyter.executors.docker.engine import Conversation
    from aml_jupyter.executors.docker.there import There
    from aml_jupyter.job import Job

BLOCK = 1 << 20
# bytes of one answer
LARGEST_ANSWER = 8 << 20
STORE_IN_CONTAINER = "/run/aml-store"
ENOSPC, EDQUOT = 28, 122
_BOOTSTRAP = "import sys;b=sys.stdin.buffer;exec(compile(b.read(int(b.readline())),'store.py','exec'))"


class Helper:
    """A container that serves the files below ~/.azureml/remote, for one order."""

    def __init__(self, place: There, job: Job, what: str) -> None:
        self.place = place
        self.engine = place.engine()
        facts = prepared(job)
        # of one that a line fell silent on nothing can be had, not even its name, until that line is over
        self.name = f"{containers.container_name(job)[:200]}-{what}-{os.urandom(3).hex()}"
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
                "Mounts": [{"Type": "bind", "Source": place.folder(), "Target": STORE_IN_CONTAINER}],
                "NetworkMode": "none",
                "LogConfig": {"Type": "none"},
                # it ends with its input, and with the line
                "AutoRemove": True,
            },
        }

    def __enter__(self) -> Self:
        try:
            container = self.engine.create(self.name, self.body)
        except EngineRefused as error:
            raise _refusal(error, self.place) from error
        try:
            self.conversation = self.engine.converse(container)
            self.engine.start(container)
            script = _store_script()
            self.conversation.send(b"%d\n" % len(script) + script)
        except BaseException:
            self.engine.remove(container)
            raise
        return self

    def confirm(self) -> None:
        """Make sure that an answer that was an archive is whole.  Raises TargetUnavailable."""
        behind = 0
        for block in self.conversation.output():
            behind += len(block)
            if behind > BLOCK:  # an archive ends with less than that
                raise TargetUnavailable(
                    f"{self.place.target['address']} sends more than the files of the run",
                    code="store.unavailable",
                )
        lines = self.conversation.errors.decode(errors="replace").splitlines()
        if '{"done": true}' not in lines:
            raise TargetUnavailable(
                f"{self.place.target['address']} did not send all files of the run: {' '.join(lines)[-300:]}"
            )

    def __exit__(self, *_exc: object) -> None:
        self.conversation.__exit__()


class Answers:
    """Lines of JSON that a helper answers with; `stored` is called with the bytes that it has taken in."""

    def __init__(self, conversation: Conversation, place: There, stored: Callable[[int], None]) -> None:
        self._conversation = conversation
        self._blocks = conversation.output()
        self._place = place
        self._stored = stored
        self._early: dict[str, Any] | None = None
        self._rest = b""

    def next(self) -> dict[str, Any]:
        """The next answer.  Raises TargetUnavailable for an end without one, or for what it complains of."""
        while self._early is None:
            self._take()
        answer, self._early = self._early, None
        return answer

    def take_in(self) -> None:
        """Look at what it says in between, without waiting for it."""
        while self._early is None and self._conversation.says():
            self._take()

    def _take(self) -> None:
        """The next line: how far it is, or an answer, which may come before anybody asks for it."""
        answer = self._line()
        stored = answer.get("stored")
        if isinstance(stored, int):
            self._stored(stored)
        else:
            self._early = answer

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            block = next(self._blocks, None)
            if block is None:
                said = self._conversation.errors.decode(errors="replace").strip()[-300:]
                raise TargetUnavailable(
                    f"{self._place.target['address']} broke off what it was doing: {said}"
                )
            self._rest += block
            if len(self._rest) > LARGEST_ANSWER:
                raise self._problem("does not end its answer")
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = plainjson.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._problem("answers what is none")
        if "error" in answer:
            raise _complaint(answer, self._place)
        return answer

    def _problem(self, what: str) -> TargetUnavailable:
        return TargetUnavailable(f"{self._place.target['address']} {what}", code="store.unavailable")


def _complaint(answer: Mapping[str, Any], place: There) -> TargetUnavailable:
    """The error for what a helper says that it cannot do."""
    what = f"{answer['error']} (below {place.folder()})"
    if answer.get("errno") in (ENOSPC, EDQUOT):
        return _no_space(place, what)
    code = "target.unreachable" if answer.get("again") is True else "store.unavailable"
    return TargetUnavailable(f"{place.target['address']}: {what}", code=code)


def _refusal(error: EngineRefused, place: There) -> AmlError:
    """The error for a helper that the engine there does not make."""
    return _no_space(place, error.message) if "no space left" in error.message.lower() else error


def _no_space(place: There, what: str) -> TargetUnavailable:
    address = place.target["address"]
    return TargetUnavailable(
        f"there is no space on {address}: {what}",
        code="store.no_space",
        hint=f"Make room on {address}: aml targets sweep {place.target['name']} removes what no run needs.",
    )


def ordered(order: Mapping[str, Any], document: Mapping[str, Any]) -> bytes:
    """An order and what belongs to it, compressed."""
    packed = zlib.compress(plainjson.dumps(document).encode("ascii"))
    return plainjson.dumps({**order, "size": len(packed)}).encode() + b"\n" + packed


def _store_script() -> bytes:
    from aml_jupyter.installation import SOURCE

    return read_bounded(SOURCE + "/store.py", BLOCK)


def prepared(job: Job) -> dict[str, Any]:
    """What a job was prepared with."""
    found = plainjson.loads(read_bounded(job.directory + "/prepared.json", BLOCK))
    assert isinstance(found, dict)
    return found
