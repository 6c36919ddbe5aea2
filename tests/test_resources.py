"""What a run asks of its target: the same words in a cell, a line and a command."""

from __future__ import annotations

import pytest

from aml_jupyter.commands import build, split_after_dashes
from aml_jupyter.commands.submit import request_of
from aml_jupyter.errors import UsageError
from aml_jupyter.magics import options as magic

ASKED = [
    *("--image", "host:5000/group/name:1.0", "--pull", "never", "--no-cache", "--relax-pins", "--relock"),
    *("--cpus", "1.5", "-m", "512m", "--gpus", "device=0,1", "--shm-size", "1g", "--network", "none"),
]
MEANT = {
    "image": "host:5000/group/name:1.0",
    "pull": "never",
    "no_cache": True,
    "relax": True,
    "relock": True,
    "cpus": 1.5,
    "memory": 512 << 20,
    "gpus": "device=0,1",
    "shm_size": 1 << 30,
    "network": "none",
}


def asked(*words: str) -> dict[str, object]:
    parser, _ = build("run")
    options = parser.parse_args(["docker", "script.py", *words])
    return dict(request_of(options).resources)


def test_a_command_and_both_magics_understand_the_same_words() -> None:
    assert asked(*ASKED) == MEANT
    for name in ("%%amlrun", "%amlrun"):
        before, _ = split_after_dashes(ASKED)
        options = magic.parser_of(name).parse_args(["docker", *before])
        assert request_of(options).resources == MEANT


def test_what_was_not_asked_for_is_not_there() -> None:
    assert asked() == {}


@pytest.mark.parametrize(
    ("words", "key", "meaning"),
    [
        (["--memory", "2GiB"], "memory", 2 << 30),
        (["--memory=0.5t"], "memory", 1 << 39),
        (["--memory", "67108864"], "memory", 64 << 20),
        (["--shm-size", "64MB"], "shm_size", 64 << 20),
        (["--gpus", "all"], "gpus", "all"),
        (["--gpus", "2"], "gpus", "2"),
        (["--gpus", "count=2"], "gpus", "2"),
        (["--gpus", '"device=0,GPU-1a2b"'], "gpus", "device=0,GPU-1a2b"),
        (["--cpus", "2"], "cpus", 2.0),
        (["--network", "container:abc"], "network", "container:abc"),
        (["--pull=missing"], "pull", "missing"),
    ],
)
def test_formats_are_those_of_docker(words: list[str], key: str, meaning: object) -> None:
    assert asked(*words) == {key: meaning}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "lots"], "is not a size such as 500kB, 512m"),
        (["-m", "1m"], "needs 6m at least"),
        (["-m", "nan"], "is not a size"),
        (["--shm-size", "0"], "nothing in 0 bytes"),
        (["--cpus", "0"], "is not a number of processors"),
        (["--cpus", "nan"], "is not a number of processors"),
        (["--gpus", "0"], "is not all, a number or device=0,1"),
        (["--gpus", "driver=nvidia"], "is not all"),
        (["--pull", "sometimes"], "invalid choice"),
        (["--network", "-x"], "--network"),
        (["--network", "a b"], "is not the name of a network"),
        (["--image", "My/Image"], "capital letters"),
        (["--image", "a b"], "is not the name of an image"),
        (["--imgae", "x"], "did you mean --image"),
    ],
)
def test_what_docker_would_not_take_is_refused_at_once(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        asked(*words)
