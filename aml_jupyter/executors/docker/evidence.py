"""Why a container ended without a word of its runtime: memory, a person, or its engine."""

from __future__ import annotations

import datetime as dt
import time

from aml_jupyter.errors import TargetUnavailable
from aml_jupyter.job import Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from aml_jupyter.executors.docker.engine import Engine
    from aml_jupyter.job import Handle

ENGINE_RESTARTED = "run.engine_restarted"
# seconds that an engine's clock may write an event before or after the state it belongs to
SLACK = 2.0
# within which an engine notices the end of a container, and within which one that stops ceases to answer
NOTICE, STOPPING = 5.0, 0.5
STOPPED = (
    "the Docker engine was stopped or restarted, and ended the container"
    " (with live-restore in its daemon.json, containers survive that)"
)


def evidence_of(engine: Engine, handle: Handle) -> Gone:
    """The evidence for a container that is gone and has left no ending.  Raises TargetUnavailable."""
    found = _settled(engine, handle["container"]) if handle["container"] else None
    if found is None:
        return _removed(engine, handle)
    return _ended(engine, handle, found["State"])


def why_gone(engine: Engine, handle: Handle) -> Gone:
    """The evidence for a container whose process this kernel knows to be gone, whatever its engine says."""
    try:
        return evidence_of(engine, handle)
    except TargetUnavailable as error:
        return Gone(
            evidence=f"the container's process is gone and {error.message}: the engine ended it",
            reason=ENGINE_RESTARTED,
        )


def _removed(engine: Engine, handle: Handle) -> Gone:
    """The evidence for a container that its engine does not know: it removes those that waited for a run."""
    if not handle.get("waited"):
        return Gone(evidence="the container was removed while it ran")
    events = _events_of(engine, handle["container"])
    if any(event.get("status") == "oom" for event in events):
        return Gone(evidence="the container was ended for lack of memory", reason="run.oom")
    ends = [event for event in events if event.get("status") == "die"]
    if not ends:
        return Gone(evidence=STOPPED, reason=ENGINE_RESTARTED)
    code = ends[-1].get("Actor", {}).get("Attributes", {}).get("exitCode")
    return Gone(evidence=f"the container was ended from outside: exit code {code}")


def _events_of(engine: Engine, container: str) -> list[dict[str, Any]]:
    """What an engine remembers of a container; nothing when its process is a later one."""
    return [event for event in engine.events(1.0, time.time() + SLACK) if event.get("id") == container]


def _settled(engine: Engine, container: str) -> Mapping[str, Any] | None:
    """A container as its engine knows it, when the engine has noticed that its process is gone."""
    due = time.monotonic() + NOTICE
    while (found := engine.container(container)) is not None and time.monotonic() < due:
        if found["State"]["Status"] in ("exited", "dead", "created"):
            break
        time.sleep(0.1)
    return found


def _ended(engine: Engine, handle: Handle, state: Mapping[str, Any]) -> Gone:
    if state.get("OOMKilled"):
        return Gone(evidence="the container was ended for lack of memory", reason="run.oom")
    if state["Status"] not in ("exited", "dead"):
        return Gone(evidence="the container's process is gone, and its engine has not noticed")
    if engine_restarted(engine, handle["container"], state):
        return Gone(evidence=STOPPED, reason=ENGINE_RESTARTED)
    code = state.get("ExitCode")
    return Gone(evidence=f"the container was ended from outside: exit code {code}{_error(state)}")


def engine_ended_it(connect: Callable[[], Engine], handle: Handle) -> Gone | None:
    """The evidence that an engine which was stopped asked a container to end; None when it was not.

    Raises TargetUnavailable for a machine that cannot be reached.
    """
    for pause in (0.0, STOPPING):
        time.sleep(pause)  # one that is about to stop answers for another moment
        try:
            engine = connect()
            found = engine.container(handle["container"]) if handle["container"] else None
            if found is None and handle.get("waited") and not _events_of(engine, handle["container"]):
                return Gone(evidence=STOPPED, reason=ENGINE_RESTARTED)
            if (
                found is not None
                and not found["State"]["Running"]
                and engine_restarted(engine, handle["container"], found["State"])
            ):
                return Gone(evidence=STOPPED, reason=ENGINE_RESTARTED)
        except TargetUnavailable as error:
            if error.code != "engine.unavailable":
                raise
            return Gone(evidence=STOPPED, reason=ENGINE_RESTARTED)
    return None


def _error(state: Mapping[str, Any]) -> str:
    return f", {state['Error']}" if state.get("Error") else ""


def engine_restarted(engine: Engine, container: str, state: Mapping[str, Any]) -> bool:
    """Whether the engine's process is a later one than that which ran the container.

    An engine remembers events only as long as its process lives.  One that ended the container itself
    remembers the end; another one remembers nothing that is older than the end.
    """
    started, finished = _seconds(state.get("StartedAt", "")), _seconds(state.get("FinishedAt", ""))
    for event in engine.events(started - SLACK, finished + SLACK):
        if event.get("id") == container and event.get("status") in ("start", "die", "oom"):
            # an engine that comes back ends what it finds running, without a start of its own
            if event["status"] == "start" or _time(event) < finished - SLACK:
                return False
        elif _time(event) < finished - SLACK:
            return False
    return True


def _time(event: Mapping[str, Any]) -> float:
    return float(event.get("timeNano", 0)) / 1e9


def _seconds(written: str) -> float:
    """A time as the engine writes it, `2018-01-31T12:00:00.123456789Z`, in seconds since 1970."""
    try:
        return dt.datetime.fromisoformat(written[:26].rstrip("Z") + "Z").timestamp()
    except ValueError:
        return 0.0
