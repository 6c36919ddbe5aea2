"""What is in an engine and nobody needs any more: containers, volumes, and on request images.

Only what carries the labels of this AML_HOME is looked at.  What a living process made is left to it.
"""

from __future__ import annotations

import math
import time

from aml_jupyter import plainjson
from aml_jupyter.executors.docker.containers import home_label, owner
from aml_jupyter.executors.docker.engine import Engine, EngineRefused, quoted
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from typing import Any

# seconds for which the container of a run that this history does not know is left alone: an engine may serve
# several people, and what is in it may be the only copy of their outputs
STRANGER = 86400.0
DAY = 86400.0
_GONE, _IN_USE = 404, 409


class Leftover(Value):
    """One thing that nobody needs: `bytes` is what its removal frees, None where the engine does not tell.

    `removed` is False in a dry run, and where `kept` says why not.
    """

    kind: str
    id: str
    name: str
    why: str
    bytes: int | None = None
    removed: bool = False
    kept: str = ""


def sweep(
    engine: Engine,
    *,
    live: Collection[str],
    ended: Collection[str],
    slots: Collection[str] = (),
    began: float = math.inf,
    dry_run: bool = False,
    images_after: float | None = None,
    used: Mapping[str, float] | None = None,
) -> list[Leftover]:
    """Remove what nobody needs, or with `dry_run` only list it.

    `live` are ids of runs that go on, `ended` of those that do not, `slots` the marks of containers that wait
    or were taken by a run; what was made after these were read (`began`, seconds since 1970) stays.  Images
    go when `images_after` days have passed since they were made, tagged or used (`used`: name or id to
    seconds since 1970).
    Raises TargetUnavailable `engine.unavailable`.
    """
    inventory = Inventory(engine.path)
    needed = Needed(live=live, ended=ended, slots=slots, began=began)
    found = [*_containers(inventory, needed), *_volumes(inventory)]
    if images_after is not None:
        found += _images(inventory, images_after * DAY, used or {})
    return found if dry_run else [one if one.kept else _removed(inventory, one) for one in found]


class Inventory(Engine):
    """The calls that list and remove everything of this AML_HOME."""

    def made_containers(self) -> list[dict[str, Any]]:
        """Containers in any state, with the size of what they wrote."""
        return self._list("/containers/json?all=1&size=1&filters=" + _ours())

    def made_volumes(self) -> list[dict[str, Any]]:
        """Volumes that no container mounts."""
        found = self._object("GET", "/volumes?filters=" + _ours(dangling=["true"]))
        return found.get("Volumes") or []

    def made_images(self) -> list[dict[str, Any]]:
        """Images, those that only other images stand on too."""
        return self._list("/images/json?all=1&filters=" + _ours())

    def volume_sizes(self) -> dict[str, int]:
        """Bytes of each volume, by name; the engine counts them one file after the other."""
        found = self._object("GET", "/system/df").get("Volumes") or []
        sizes = ((one["Name"], (one.get("UsageData") or {}).get("Size", -1)) for one in found)
        return {name: size for name, size in sizes if size >= 0}

    def image_users(self) -> set[str]:
        """Ids of the images that containers were made from, whosever they are."""
        return {one["ImageID"] for one in self._list("/containers/json?all=1")}

    def remove_volume(self, name: str) -> None:
        """Remove a volume that nothing mounts.  Raises EngineRefused."""
        self._ask("DELETE", f"/volumes/{quoted(name)}")

    def remove_image(self, name: str) -> None:
        """Remove an image with all its names.  Raises EngineRefused."""
        self._ask("DELETE", f"/images/{quoted(name)}?force=1")

    def _list(self, path: str) -> list[dict[str, Any]]:
        found = self._ask("GET", path)
        return found if isinstance(found, list) else []


def _ours(**more: list[str]) -> str:
    return quoted(plainjson.dumps({"label": ["aml.made=1", f"aml.home={home_label()}"], **more}))


# --- what is needed no more ---------------------------------------------------------------------------------


class Needed(Value):
    """What is known of runs and of containers that wait for one."""

    live: Collection[str]
    ended: Collection[str]
    slots: Collection[str]
    began: float


def _containers(inventory: Inventory, needed: Needed) -> Iterator[Leftover]:
    for one in inventory.made_containers():
        labels = one["Labels"]
        # a process that lives sees to what it made
        if owner(labels) == "alive":
            continue
        # its run may have been made after runs were looked at; an engine tells whole seconds
        if one["Created"] + 1 > needed.began and labels.get("aml.run") not in needed.ended:
            continue
        if labels.get("aml.role") == "run":
            why, kept = _why_run(one, labels, needed)
        else:
            why, kept = _why_helper(one, labels, needed)
        if why and not _inherited(inventory, one):
            yield Leftover(
                kind="container",
                id=one["Id"],
                name=one["Names"][0].lstrip("/") if one["Names"] else one["Id"][:12],
                why=why,
                bytes=one.get("SizeRw") or 0,
                kept=kept,
            )


def _inherited(inventory: Inventory, one: Mapping[str, Any]) -> bool:
    """Whether a container has these labels only from its image: a person made it from one of ours."""
    image = inventory.image(one["ImageID"])
    of_image = ((image or {}).get("Config") or {}).get("Labels") or {}
    mine = {name: value for name, value in one["Labels"].items() if name.startswith("aml.")}
    return mine.items() <= of_image.items()


def _why_run(one: Mapping[str, Any], labels: Mapping[str, str], needed: Needed) -> tuple[str, str]:
    """Why the container of a run is not needed, or an empty text; and why it stays all the same."""
    run = labels.get("aml.run", "")
    if run in needed.live:
        return "", ""
    if run in needed.ended:
        return f"its run {run} has ended", ""
    why = f"no run {run} is in this history"
    if one["State"] in ("running", "paused", "restarting"):
        return why, f"it runs: docker rm --force {one['Id'][:12]}"
    if time.time() - one["Created"] < STRANGER:
        return why, "it is younger than a day"
    return why, ""


def _why_helper(one: Mapping[str, Any], labels: Mapping[str, str], needed: Needed) -> tuple[str, str]:
    role, maker = labels.get("aml.role", "unknown"), owner(labels)
    # one that waits outlives its maker
    if labels.get("aml.slot") in needed.slots:
        return "", ""
    if not maker and one["State"] in ("running", "paused", "restarting"):
        return "", ""
    why = f"it was made to {_TASKS.get(role, role)}, and whoever made it is gone"
    if maker == "elsewhere" and time.time() - one["Created"] < STRANGER:
        return why, "it is younger than a day, and may belong to another machine"
    return why, ""


_TASKS = {
    "build": "build an image",
    "probe": "look into an image",
    "store": "keep files",
    "warm": "wait for a run",
}


def _volumes(inventory: Inventory) -> Iterator[Leftover]:
    volumes = [one for one in inventory.made_volumes() if owner(one.get("Labels") or {}) != "alive"]
    sizes = inventory.volume_sizes() if volumes else {}
    for one in volumes:
        name = one["Name"]
        yield Leftover(kind="volume", id=name, name=name, why="no container mounts it", bytes=sizes.get(name))


def _images(inventory: Inventory, seconds: float, used: Mapping[str, float]) -> Iterator[Leftover]:
    images = inventory.made_images()
    users = inventory.image_users()
    now = time.time()
    idle = {}
    for one in images:
        names = [name for name in one.get("RepoTags") or [] if name != "<none>:<none>"]
        last = max([float(one["Created"]), *(used.get(name, 0.0) for name in (one["Id"], *names))])
        if one["Id"] not in users and now - last > seconds:
            idle[one["Id"]] = (one, names, last)
    # an image goes only after those that stand on it
    for one, names, last in sorted(idle.values(), key=lambda found: -found[0]["Created"]):
        stays = [other for other in images if other.get("ParentId") == one["Id"] and other["Id"] not in idle]
        if not stays:
            yield Leftover(
                kind="image",
                id=one["Id"],
                name=names[0] if names else one["Id"].removeprefix("sha256:")[:12],
                why=f"no run used it for {(now - last) / DAY:.0f} days",
                # what it shares with its base stays
                bytes=_own_size(inventory, one),
            )


def _own_size(inventory: Inventory, one: Mapping[str, Any]) -> int:
    below = inventory.image(one["ParentId"]) if one.get("ParentId") else None
    return max(0, int(one["Size"]) - int((below or {}).get("Size", 0)))


# --- away with it -------------------------------------------------------------------------------------------


def _removed(inventory: Inventory, one: Leftover) -> Leftover:
    try:
        if one.kind == "container":
            inventory.remove(one.id)
        elif one.kind == "volume":
            inventory.remove_volume(one.id)
        else:
            inventory.remove_image(one.id)
    except EngineRefused as error:
        if error.status == _GONE:
            return one.replace(removed=True)
        return one.replace(kept=error.message)
    return one.replace(removed=True)
