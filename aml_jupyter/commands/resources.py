"""What a run is given of its target, with the names and formats of docker: options and their meaning."""

from __future__ import annotations

import argparse
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

PULLS = ("missing", "always", "never")
# the least memory with which an engine starts a container
LEAST_MEMORY = 6 << 20
# option -> key of a request's resources
_KEYS = {
    **{name: name for name in ("image", "pull", "no_cache", "relock")},
    "relax_pins": "relax",
    **{name: name for name in ("cpus", "memory", "gpus", "shm_size", "network")},
}
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def add_environment_options(parser: ArgumentParser) -> None:
    """The image and what is put on top of it."""
    add = parser.add_argument
    add("--image", type=_image, metavar="NAME",
        help="the image to start from instead of the target's baseDockerImage")  # fmt: skip
    add("--pull", choices=PULLS, metavar="|".join(PULLS), help="when to pull that image; missing unless said")
    add("--no-cache", action="store_true", help="make the environment anew although it is there")
    add("--relax-pins", action="store_true", help="loosen the pins that nothing satisfies, and say which")
    add("--relock", action="store_true", help="solve the dependencies again instead of taking the kept lock")


def add_resource_options(parser: ArgumentParser) -> None:
    """Processors, memory, network."""
    add = parser.add_argument
    add("--cpus", type=_cpus, metavar="N", help="processors, such as 1.5")
    add("-m", "--memory", type=_memory, metavar="SIZE",
        help="the most memory, such as 512m or 2g; beyond it the run is ended")  # fmt: skip
    add("--gpus", type=_gpus, metavar="all|N|device=A,B", help="which GPUs")
    add("--shm-size", type=_some, metavar="SIZE", help="the size of /dev/shm, such as 1g")
    add("--network", type=_network, metavar="NAME", help="the network, such as bridge, host or none")


def resources_of(options: Namespace) -> dict[str, object]:
    """What was asked for by those options and nothing else: sizes in bytes, cpus as a number."""
    asked = {key: getattr(options, name, None) for name, key in _KEYS.items()}
    # an option that is a switch and was not given
    return {key: value for key, value in asked.items() if value not in (None, False)}


def parse_size(text: str) -> int:
    """Bytes of `512m`, `25MB`, `1GiB` or a number; units are powers of 1024.  Raises ArgumentTypeError."""
    bare = text.upper().removesuffix("B").removesuffix("I")
    factor = _UNITS.get(bare[-1:], 1)
    try:
        size = float(bare[:-1] if bare[-1:] in _UNITS else bare) * factor
    except ValueError:
        size = -1.0
    if not 0 <= size < 1 << 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500kB, 512m, 25MB or 1GB")
    return int(size)


def _some(text: str) -> int:
    size = parse_size(text)
    if not size:
        raise argparse.ArgumentTypeError("there is nothing in 0 bytes")
    return size


def _memory(text: str) -> int:
    size = parse_size(text)
    if size < LEAST_MEMORY:
        raise argparse.ArgumentTypeError(f"{text!r}: a container needs 6m at least")
    return size


def _cpus(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.01 <= number <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processors such as 2 or 0.5")
    return number


def _gpus(text: str) -> str:
    """`all`, a number, or `device=0,1`; docker wants that last one in quotes, which are let go."""
    bare = text.strip("\"'").removeprefix("count=")
    if bare == "all" or re.fullmatch(r"[1-9][0-9]{0,3}|device=[\w.:-]+(?:,[\w.:-]+)*", bare):
        return bare
    raise argparse.ArgumentTypeError(f"{text!r} is not all, a number or device=0,1")


def _network(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*|container:[A-Za-z0-9][\w.-]*", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not the name of a network such as bridge, host or none")


def _image(text: str) -> str:
    from aml_jupyter.config import images

    if problem := images.problem(text):
        raise argparse.ArgumentTypeError(f"{text!r} {problem}")
    return text
