"""Environments on this computer: whole or not at all, made once, found again at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter.environment import prefix
from aml_jupyter.environment.lock import Lock
from aml_jupyter.environment.solving import solve
from aml_jupyter.errors import EnvironmentFailed
from tests.conda_channel import MINOR, OTHER_PLATFORM, PLATFORM, VERSION, conda_channel
from tests.requirements import missing, python_versions
from tests.wheel_index import Index, served

__all__ = ["conda_channel"]

pytestmark = pytest.mark.usefixtures("home")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def index() -> Iterator[Index]:
    made = Index()
    made.add("amlpip", "1.0")
    with served(made) as running:
        yield running


def asked(index: Index, **more: Any) -> dict[str, Any]:
    return {"pip": [index.option, "amlpip"], **more}


def of(python: str, code: str) -> str:
    answer = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def lock_for(dependencies: dict[str, Any], **more: Any) -> Lock:
    given = {"platform": PLATFORM, "base_python": VERSION, "tell": lambda _: None, **more}
    return solve(dependencies, **given)


# --- made ---------------------------------------------------------------------------------------------------


def test_pip_packages_stand_on_the_interpreter_and_apart_from_it(index: Index, home: str) -> None:
    made = prefix.of_target(asked(index), lambda _: None)
    assert made.prefix.startswith(f"{home}/envs/")
    code = "import amlpip, sys; print(amlpip.version, sys.prefix, sys.base_prefix)"
    assert of(made.python, code) == f"1.0 {made.prefix} {sys.base_prefix}"
    # what this interpreter has, pytest for one, is not there
    assert "False" in of(made.python, "import importlib.util as u; print(u.find_spec('pytest') is not None)")
    assert of(made.python, "import pip; print(pip.version)") == "99.0"


def test_conda_packages_bring_their_own_python(index: Index, conda_channel: str) -> None:
    told: list[str] = []
    wanted = asked(index, channels=[conda_channel], dependencies=[f"python={MINOR}", "amlneeds"])
    made = prefix.of_target(wanted, told.append)
    code = "import amlpip, amlneeds, amlcheck, sys; print(amlcheck.version, sys.prefix, sys.base_prefix)"
    assert of(made.python, code) == f"2.0 {made.prefix} {made.prefix}"
    assert any(line.startswith("conda packages to install: 3") for line in told)


def test_an_environment_of_another_interpreter_has_its_version(index: Index) -> None:
    versions = python_versions()
    other = next((path for version, path in versions.items() if version != MINOR), None)
    if other is None:
        missing("python", "only one interpreter")
    made = prefix.of_target(asked(index), lambda _: None, python=other)
    said = of(made.python, "import amlpip, sys; print('%d.%d' % sys.version_info[:2])")
    assert versions[said] == other
    assert made != prefix.of_target(asked(index), lambda _: None)


def test_what_is_there_is_found_again_without_a_word(index: Index) -> None:
    made = prefix.of_target(asked(index), lambda _: None)
    requests = len(index.asked)
    told: list[str] = []
    assert prefix.of_target(asked(index), told.append) == made
    assert (told, len(index.asked)) == ([], requests)


def test_what_is_there_is_found_again_without_a_solver_or_a_process(index: Index) -> None:
    made = prefix.of_target(asked(index), lambda _: None)
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from aml_jupyter.environment import prefix\n"
        f"print(prefix.of_target({asked(index)!r}, print, python={sys.executable!r}).prefix)\n"
        "print(*sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-S", "-E", "-s", "-c", program], capture_output=True, text=True, check=True
    )
    where, loaded = answer.stdout.splitlines()
    assert where == made.prefix
    slow = "rattler pydantic yaml subprocess tomllib tempfile asyncio dataclasses typing pathlib"
    assert not set(loaded.split()) & set(slow.split())


def test_the_same_lock_of_another_file_is_not_made_again(index: Index) -> None:
    made = prefix.of_target(asked(index), lambda _: None)
    told: list[str] = []
    again = prefix.of_target({"pip": [index.option, "amlpip==1.0"]}, told.append)
    assert again == made
    assert not any("making" in line for line in told)


def test_relock_leads_to_another_folder_and_leaves_the_first(index: Index) -> None:
    first = prefix.of_target(asked(index), lambda _: None)
    index.add("amlpip", "2.0")
    second = prefix.of_target(asked(index, relock=True), lambda _: None)
    assert of(first.python, "import amlpip; print(amlpip.version)") == "1.0"
    assert of(second.python, "import amlpip; print(amlpip.version)") == "2.0"
    assert prefix.of_target(asked(index), lambda _: None) == second


def test_what_is_not_prepared_is_not_made_unasked(index: Index) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        prefix.of_target(asked(index, prepare=False, configuration="iris"), lambda _: None)
    assert caught.value.code == "environment.not_prepared"
    assert "aml experiment prepare -c iris" in caught.value.hint
    made = prefix.of_target(asked(index, prepare=True), lambda _: None)
    assert prefix.of_target(asked(index, prepare=False), lambda _: None) == made


def test_a_lock_for_another_platform_is_not_installed(conda_channel: str) -> None:
    lock = lock_for({"channels": [conda_channel], "dependencies": ["amlcheck"]}, platform=OTHER_PLATFORM)
    with pytest.raises(EnvironmentFailed, match=f"{OTHER_PLATFORM} cannot be installed on {PLATFORM}"):
        prefix.make(lock, lambda _: None)


# --- whole or not at all ------------------------------------------------------------------------------------


def test_an_installation_that_fails_leaves_nothing(index: Index, home: str) -> None:
    lock = lock_for(asked(index))
    (wrong,) = [package for package in lock.packages if package.name == "amlpip"]
    wrong = wrong.replace(sha256="0" * 64, files=((wrong.url, "0" * 64),))
    with pytest.raises(EnvironmentFailed, match=r"[Hh]ash") as caught:
        prefix.make(lock.replace(packages=(wrong,)), lambda _: None)
    assert caught.value.code == "environment.build_failed"
    assert [name for name in os.listdir(f"{home}/envs") if not name.endswith(".lock")] == []


def test_a_folder_without_its_mark_is_made_again(index: Index) -> None:
    made = prefix.of_target(asked(index), lambda _: None)
    os.remove(f"{made.prefix}/{prefix.MARK}")
    Path(made.prefix, "half").touch()
    told: list[str] = []
    assert prefix.of_target(asked(index), told.append) == made
    assert any(line.startswith("making") for line in told)
    assert not Path(made.prefix, "half").exists()


def test_an_environment_whose_interpreter_is_gone_is_made_again(index: Index) -> None:
    made = prefix.of_target(asked(index), lambda _: None)
    os.remove(made.python)
    assert prefix.of_target(asked(index), lambda _: None) == made
    assert of(made.python, "print(1)") == "1"


def started(dependencies: dict[str, Any]) -> subprocess.Popen[str]:
    """A process that makes an environment and prints what it is told, then where it is."""
    program = (
        "import json, sys\n"
        "from aml_jupyter.environment import prefix\n"
        "tell = lambda text: print(text, flush=True)\n"
        "print(prefix.of_target(json.loads(sys.argv[1]), tell).prefix)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(dependencies)], stdout=subprocess.PIPE, text=True
    )


def until(true: Callable[[], bool]) -> None:
    due = time.monotonic() + 30
    while not true():
        assert time.monotonic() < due
        time.sleep(0.01)


@pytest.mark.faults
def test_a_maker_that_is_killed_leaves_nothing_that_looks_whole(index: Index, home: str) -> None:
    lock_for(asked(index))
    index.hold.clear()
    before = len(index.asked)
    process = started(asked(index))
    until(lambda: any(path.startswith("/files/") for path in index.asked[before:]))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (half,) = [name for name in os.listdir(f"{home}/envs") if not name.endswith(".lock")]
    assert not Path(home, "envs", half, prefix.MARK).exists()
    index.hold.set()
    made = prefix.of_target(asked(index), lambda _: None)
    assert os.path.basename(made.prefix) == half
    assert of(made.python, "import amlpip; print(amlpip.version)") == "1.0"


def test_two_who_want_the_same_make_it_once(index: Index) -> None:
    lock_for(asked(index))
    index.hold.clear()
    both = [started(asked(index)) for _ in range(2)]
    until(lambda: any(path.startswith("/files/amlpip") for path in index.asked))
    index.hold.set()
    said = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0][-1] == said[1][-1]
    assert sum(line.startswith("making") for lines in said for line in lines) == 1
