"""The power goes while runs are submitted and end: what was acknowledged is there afterwards.

AML_SOAK_CUTS says how often it goes in `make soak`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.requirements import need

PARENT = str(Path(__file__).parents[2])


def cut_the_power(folder: Path, cuts: int, seed: int) -> None:
    need("root")
    need("mkfs.ext4")
    inside = [need("unshare"), "--mount", "--propagation", "private"]
    base = folder / "machine"
    base.mkdir()
    done = subprocess.run(
        [*inside, sys.executable, "-m", "tests.faults.power_cut", str(base), str(cuts), str(seed)],
        cwd=PARENT,
        env={**os.environ, "PYTHONPATH": PARENT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "none lost" in done.stdout


@pytest.mark.root
@pytest.mark.faults
@pytest.mark.slow
def test_H2_L4_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    cut_the_power(tmp_path, 3, 1)


@pytest.mark.root
@pytest.mark.soak
def test_H2_L4_N3_hundreds_of_power_cuts_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    cut_the_power(tmp_path, int(os.environ.get("AML_SOAK_CUTS", "500")), 2)
