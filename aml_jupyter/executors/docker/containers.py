"""What a container is made with: names, labels, mounts, limits."""

from __future__ import annotations

import hashlib
import os

from aml_jupyter import plainjson, processes
from aml_jupyter.config import aml_home
from aml_jupyter.confined import read_bounded
from aml_jupyter.demands import RUNTIME_IN_CONTAINER, WORK_IN_CONTAINER
from aml_jupyter.errors import AmlError
from aml_jupyter.share import IN_CONTAINER as SHARE_IN_CONTAINER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.job import Job

JOB_IN_CONTAINER = "/run/aml"
# the engine's own log holds only what is said before the runtime has taken over
LOG = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}


class Places:
    """Where the parts of a job lie on the engine's machine; `work` and `share` are None where copied."""

    def __init__(self, job: str, runtime: str, work: str | None, share: str | None) -> None:
        self.job = job
        self.runtime = runtime
        self.work = work
        self.share = share


def container_name(job: Job) -> str:
    """The one name under which a container of this job can exist."""
    safe = "".join(one if one.isascii() and (one.isalnum() or one in "_.-") else "-" for one in job.run_id)
    return f"aml-{safe[:180]}-{hashlib.sha256(job.directory.encode()).hexdigest()[:8]}"


def home_label(home: str = "") -> str:
    """Which AML_HOME, of which machine, something was made for: several may use one engine."""
    try:
        machine = read_bounded("/etc/machine-id", 64).strip()
    except AmlError:  # a container, or no Linux
        machine = os.uname().nodename.encode()
    return hashlib.sha256(machine + b"\n" + (home or aml_home()).encode()).hexdigest()[:16]


def labels(role: str, **more: str) -> dict[str, str]:
    """Labels of everything that is made in an engine: who made it, for what, and by which process."""
    who = processes.identity(os.getpid())
    return {
        "aml.made": "1",
        "aml.home": home_label(),
        "aml.role": role,
        "aml.owner": f"{who['pid']}.{who['start_time']}.{who['boot_id']}",
        "aml.namespace": _namespace(),
        **{f"aml.{name}": value for name, value in more.items()},
    }


def owner(labels: Mapping[str, str]) -> str:
    """Whether who made something is `alive`, `dead`, or `elsewhere`; empty where the labels name nobody.

    Elsewhere is another start, machine or container than this process's: it cannot see whether they live.
    """
    pid, _, rest = str(labels.get("aml.owner") or "").partition(".")
    start, _, boot = rest.rpartition(".")
    if not pid.isdigit() or not boot:
        return ""
    if boot != processes.boot_id() or labels.get("aml.namespace", "") != _namespace():
        return "elsewhere"
    who = {"pid": int(pid), "start_time": start, "boot_id": boot}
    return "alive" if processes.is_alive(who) else "dead"


def _namespace() -> str:
    """Which processes this one can see."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return ""


def body(
    job: Job,
    places: Places,
    facts: Mapping[str, Any],
    *,
    user: str,
    stdin: bool,
) -> dict[str, Any]:
    """The body of the call that creates the container of a job."""
    python = str(facts["python"])
    command = [python, "-S", "-E", "-s", RUNTIME_IN_CONTAINER + "/main.py", JOB_IN_CONTAINER]
    return {
        "Image": facts["image"],
        "Entrypoint": [],
        "Cmd": [*command, "stdin"] if stdin else command,
        "Env": [f"{name}={value}" for name, value in user_variables(user).items()],
        "User": user,
        "WorkingDir": "/",
        "Labels": labels("run", run=job.run_id),
        "AttachStdin": stdin,
        "OpenStdin": stdin,
        "StdinOnce": stdin,
        "HostConfig": {**limits(job.resources, job.target), "Mounts": mounts(places), "LogConfig": LOG},
    }


def line(variables: Mapping[str, str]) -> bytes:
    """What a runtime that waits on its standard input is told: variables that are in no file."""
    return plainjson.dumps(dict(variables)).encode() + b"\n"


def user_variables(user: str) -> dict[str, str]:
    """What a user whom the image does not know needs in order to have a home and a name."""
    if user.startswith("0:"):
        return {}
    return {"HOME": "/tmp", "USER": "aml", "LOGNAME": "aml"}  # noqa: S108 - the container's own


def mounts(places: Places) -> list[dict[str, Any]]:
    """Bind mounts of a job."""
    found = [
        _bind(places.job, JOB_IN_CONTAINER),
        {**_bind(places.runtime, RUNTIME_IN_CONTAINER), "ReadOnly": True},
    ]
    if places.work is not None:
        found.append(_bind(places.work, WORK_IN_CONTAINER))
    if places.share is not None:
        found.append(_bind(places.share.rstrip("/"), SHARE_IN_CONTAINER.rstrip("/")))
    return found


def _bind(source: str, target: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target}


def limits(resources: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
    """Limits and devices as the engine calls them."""
    found: dict[str, Any] = {}
    if cpus := resources.get("cpus"):
        found["NanoCpus"] = int(float(cpus) * 1e9)
    if memory := resources.get("memory"):
        # without more swap than memory, as a limit is meant
        found.update(Memory=int(memory), MemorySwap=int(memory))
    if shm_size := resources.get("shm_size"):
        found["ShmSize"] = int(shm_size)
    if network := resources.get("network"):
        found["NetworkMode"] = str(network)
    if gpus := resources.get("gpus") or ("all" if target.get("gpu") else None):
        found["DeviceRequests"] = [_gpus(str(gpus))]
    return found


def _gpus(asked: str) -> dict[str, Any]:
    request: dict[str, Any] = {"Driver": "", "Capabilities": [["gpu"]]}
    if asked.startswith("device="):
        request["DeviceIDs"] = asked.removeprefix("device=").split(",")
    else:
        request["Count"] = -1 if asked == "all" else int(asked)
    return request
