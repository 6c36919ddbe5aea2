"""Pulling an image: its progress in a line a second, its failures by name."""

from __future__ import annotations

import time

from aml_jupyter.errors import AmlError, TargetUnavailable
from aml_jupyter.executors.docker import sdk
from aml_jupyter.executors.docker.engine import NO_SPACE, refusal
from aml_jupyter.executors.docker.images import missing
from aml_jupyter.printable import safe_name, shown_seconds, shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.executors import Tell

# seconds between two lines of progress
PAUSE = 1.0
_DENIED = (
    "denied",
    "unauthorized",
    "authentication required",
    "no basic auth credentials",
    "incorrect username or password",
)
# states of a layer that is there
_DONE = ("Pull complete", "Already exists")


def pull_image(socket: str, name: str, platform: str | None, tell: Tell) -> None:
    """Pull an image with the credentials that `docker login` keeps.

    Raises TargetUnavailable `engine.unavailable`, `image.missing`, `image.pull_denied`.
    """
    sdk.load()
    import docker.errors

    tell(f"pulling {name}")
    progress = Progress(name, tell)
    with sdk.client(socket) as client:
        try:
            for event in client.pull(name, stream=True, decode=True, platform=platform):
                if "error" in event:
                    raise failed(name, str(event["error"]))
                progress.take(event)
        except docker.errors.APIError as error:
            raise failed(name, sdk.explanation(error)) from error
        except docker.errors.DockerException as error:
            # a configuration of docker's own that cannot be read, a name it will not take
            raise failed(name, str(error)) from error
    progress.end()


def failed(name: str, why: str) -> AmlError:
    """The error for a pull that the engine or the registry refused, by what it said."""
    why = safe_name(why.strip())
    refused = refusal(why, 0)
    if refused.code == NO_SPACE:
        return refused
    if any(word in why.lower() for word in _DENIED):
        first, slash, _ = name.partition("/")
        login = f"docker login {first}" if slash and ("." in first or ":" in first) else "docker login"
        return TargetUnavailable(
            f"the registry does not give out {name}: {why}",
            code="image.pull_denied",
            hint=(
                f"It needs a login ({login}), or there is no image of that name."
                f" To use another in its place: aml config set image.{name} OTHER"
            ),
        )
    return missing(name, why)


class Progress:
    """What the engine says of a pull, as one line at most every second."""

    def __init__(self, name: str, tell: Tell) -> None:
        self.name = name
        self.tell = tell
        self.began = self.told = time.monotonic()
        self.layers: dict[str, tuple[str, int, int]] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        """Note what became of one layer."""
        layer, status = str(event.get("id", "")), str(event.get("status", ""))
        if not layer or status.startswith("Pulling from"):
            return
        detail = event.get("progressDetail") or {}
        before = self.layers.get(layer, ("", 0, 0))
        have, size = before[1:]
        if status == "Downloading":
            have, size = int(detail.get("current") or 0), int(detail.get("total") or size)
        elif status in ("Download complete", *_DONE):
            have = size
        self.layers[layer] = (status, have, size)
        now = time.monotonic()
        if now - self.told >= PAUSE:
            self.told = now
            self.tell(self.line())

    def line(self) -> str:
        """How far it has come."""
        states = self.layers.values()
        done = sum(status in _DONE for status, _, _ in states)
        have, size = sum(one[1] for one in states), sum(one[2] for one in states)
        return (
            f"pulling {self.name}: {done} of {len(self.layers)} layers,"
            f" {shown_size(have)} of {shown_size(size)}"
        )

    def end(self) -> None:
        """Say that it is there."""
        self.tell(f"pulled {self.name} in {shown_seconds(time.monotonic() - self.began)}")
