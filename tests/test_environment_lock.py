"""Locks: what is asked for becomes packages with version, source and hash; what cannot be had is listed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter.config import RunConfiguration
from aml_jupyter.environment import Conda, conda_packages, credentials, load
from aml_jupyter.environment.asked import conda_as_pip, pip_bare, satisfies, sort, too_old
from aml_jupyter.environment.conda_packages import install_conda
from aml_jupyter.environment.keeping import by_digest, kept
from aml_jupyter.environment.lock import Lock, Package, requirements
from aml_jupyter.environment.prefix import of_target
from aml_jupyter.environment.solving import solve
from aml_jupyter.errors import EnvironmentFailed, FormatError, UsageError
from tests.conda_channel import MINOR, OTHER_PLATFORM, PLATFORM, VERSION, conda_channel
from tests.configuration import project_with
from tests.requirements import need
from tests.wheel_index import PASSWORD, USER, Index, served

__all__ = ["conda_channel"]

pytestmark = pytest.mark.usefixtures("home")

NOWHERE = "http://127.0.0.1:9/nowhere"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not answer here does not answer later."""
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setattr(conda_packages, "RETRIES", 0)


@pytest.fixture
def index() -> Iterator[Index]:
    made = Index()
    made.add("amlpip", "1.0", ["amlleaf<2"])
    made.add("amlpip", "2.0", ["amlleaf"])
    made.add("amlleaf", "1.5")
    made.add("amlleaf", "2.0")
    made.add("idna", "3.4")
    made.add("idna", "3.20")
    made.add("amlintl", "1.0", ["idna"])
    made.add("amlnew", "1.0", ["idna>=3.10"])
    made.add("amlancient", "1.0", tag="cp27-cp27m-manylinux1_x86_64")
    with served(made) as running:
        yield running


def locked(index: Index | None = None, told: list[str] | None = None, **asked: Any) -> Lock:
    """The lock of what is asked for, for this platform and Python unless said."""
    platform = asked.pop("platform", PLATFORM)
    base = asked.pop("base", VERSION)
    if index is not None:
        asked["pip"] = [index.option, *asked.get("pip", ())]
    tell = (told if told is not None else []).append
    return solve(asked, platform=platform, base_python=base, tell=tell)


def versions(lock: Lock) -> dict[str, str]:
    return {package.name: package.version for package in lock.packages}


# --- what a lock holds --------------------------------------------------------------------------------------


def test_pip_packages_stand_on_the_base_and_have_version_source_and_hash(index: Index) -> None:
    lock = locked(index, pip=["amlpip"])
    assert versions(lock) == {"amlpip": "2.0", "amlleaf": "2.0", "pip": "99.0"}
    assert (lock.owns_python, lock.python, lock.platform) == (False, MINOR, PLATFORM)
    found = next(package for package in lock.packages if package.name == "amlpip")
    assert found.url == f"http://{index.host}/files/amlpip-2.0-py3-none-any.whl"
    assert len(found.sha256) == 64
    assert f"amlpip==2.0 \\\n    --hash=sha256:{found.sha256}\n" in requirements(lock)
    assert Lock.from_json(json.loads(json.dumps(lock.to_json()))) == lock


def test_conda_packages_bring_their_own_python(conda_channel: str, index: Index) -> None:
    lock = locked(
        index, channels=[conda_channel], dependencies=[f"python={MINOR}", "amlneeds"], pip=["amlleaf"]
    )
    expected = {"python": VERSION, "amlneeds": "1.0", "amlcheck": "2.0", "amlleaf": "2.0"}
    assert versions(lock) == expected
    assert lock.owns_python
    assert lock.python == VERSION
    assert [package.name for package in lock.conda] == ["amlcheck", "amlneeds", "python"]
    assert all(len(package.sha256) == 64 and package.channel for package in lock.conda)


def test_nothing_but_python_and_pip_needs_no_channel(index: Index) -> None:
    lock = locked(
        index,
        channels=[NOWHERE],
        dependencies=[f"python={MINOR}", "pip"],
        python=MINOR,
        pip=["amlleaf==1.5"],
    )
    assert versions(lock) == {"amlleaf": "1.5", "pip": "99.0"}


def test_an_environment_of_nothing_is_a_lock_too() -> None:
    assert locked(dependencies=[f"python={MINOR}"]).packages == ()


def test_an_image_without_python_gets_one(conda_channel: str) -> None:
    lock = locked(channels=[conda_channel], base=None)
    assert versions(lock) == {"python": VERSION}
    assert lock.owns_python


def test_a_python_that_the_base_has_not_comes_from_a_channel(conda_channel: str) -> None:
    lock = locked(channels=[conda_channel], dependencies=[f"python={MINOR}"], base="3.8.10")
    assert lock.owns_python


def test_a_lock_is_for_the_targets_platform_and_python(conda_channel: str, index: Index) -> None:
    index.add("amlbinary", "1.0", tag="cp38-cp38-manylinux_2_17_x86_64")
    index.add("amlbinary", "1.0", tag="cp312-cp312-manylinux_2_17_x86_64")
    index.add("amlbinary", "1.0", tag="cp312-cp312-manylinux_2_17_aarch64")
    for platform, python, file in (
        ("linux-64", "3.8", "cp38-cp38-manylinux_2_17_x86_64"),
        ("linux-64", "3.12", "cp312-cp312-manylinux_2_17_x86_64"),
        ("linux-aarch64", "3.12", "cp312-cp312-manylinux_2_17_aarch64"),
    ):
        lock = locked(index, pip=["amlbinary"], platform=platform, base=python)
        urls = [package.url for package in lock.packages if package.name == "amlbinary"]
        assert urls == [f"http://{index.host}/files/amlbinary-1.0-{file}.whl"]
    other = locked(channels=[conda_channel], dependencies=["amlcheck"], platform=OTHER_PLATFORM)
    assert f"/{OTHER_PLATFORM}/python" in " ".join(package.url for package in other.packages)


def test_what_conda_brings_pip_does_not_bring_again(conda_channel: str, index: Index) -> None:
    lock = locked(index, channels=[conda_channel], dependencies=["idna"], pip=["amlintl"])
    assert [(one.name, one.version) for one in lock.pip] == [("amlintl", "1.0")]
    assert versions(lock)["idna"] == "3.4"


def test_pip_replaces_what_does_not_fit_and_that_is_told(conda_channel: str, index: Index) -> None:
    told: list[str] = []
    lock = locked(index, told, channels=[conda_channel], dependencies=["idna"], pip=["amlnew"])
    assert {(one.name, one.version) for one in lock.pip} == {("amlnew", "1.0"), ("idna", "3.20")}
    assert "pip packages replace some of the conda packages" in told


def test_an_archive_at_an_address_is_locked_by_its_hash(index: Index) -> None:
    address = f"http://{index.host}/files/amlleaf-1.5-py3-none-any.whl"
    lock = locked(index, pip=[address])
    found = next(package for package in lock.packages if package.name == "amlleaf")
    assert (found.source, found.url, found.version) == ("url", address, "1.5")
    assert f"amlleaf @ {address} \\\n    --hash=sha256:{found.sha256}" in requirements(lock)


def test_packages_of_the_public_index_are_locked() -> None:
    need("index")
    lock = locked(pip=["six==1.16.0"])
    assert versions(lock)["six"] == "1.16.0"


# --- once ---------------------------------------------------------------------------------------------------


def test_the_same_question_is_answered_once(index: Index) -> None:
    first = locked(index, pip=["amlpip"])
    asked = len(index.asked)
    index.add("amlpip", "3.0")
    told: list[str] = []
    assert locked(index, told, pip=["amlpip"]) == first
    assert (len(index.asked), told) == (asked, [])


def test_the_same_file_written_otherwise_is_the_same_question(index: Index) -> None:
    first = locked(index, pip=["amlpip", "amlleaf"])
    asked = len(index.asked)
    assert locked(index, pip=["amlleaf", "amlpip"]) == first
    assert len(index.asked) == asked


def test_relock_solves_again_and_the_old_lock_keeps_its_name(index: Index) -> None:
    first = locked(index, pip=["amlpip"])
    index.add("amlpip", "3.0")
    second = locked(index, pip=["amlpip"], relock=True)
    assert versions(second)["amlpip"] == "3.0"
    assert second.digest != first.digest
    assert locked(index, pip=["amlpip"]) == second
    assert by_digest(first.digest[:10]) == first
    assert by_digest("ffffffffff") is None


def test_the_digest_is_of_what_is_installed_and_not_of_where_it_came_from() -> None:
    one = Package(name="a", version="1", source="pypi", url="https://x.example/a.whl", sha256="0" * 64)
    lock = Lock(platform="linux-64", python="3.11", owns_python=False, packages=(one,), request="r")
    moved = lock.replace(packages=(one.replace(url="https://y.example/a.whl"),), request="s")
    assert moved.digest == lock.digest
    assert lock.replace(packages=(one.replace(sha256="1" * 64),)).digest != lock.digest
    assert lock.replace(python="3.12").digest != lock.digest
    assert lock.replace(platform="linux-aarch64").digest != lock.digest


def test_a_damaged_lock_is_solved_again(index: Index, home: str) -> None:
    first = locked(index, pip=["amlpip"])
    for path in Path(home, "environments/locks").glob("*.json"):
        path.write_text(path.read_text().replace('"2.0"', '"2.1"'))
    assert kept({"pip": [index.option, "amlpip"]}, platform=PLATFORM, base_python=VERSION) is None
    assert locked(index, pip=["amlpip"]) == first


def test_a_lock_of_a_newer_version_is_not_overwritten(index: Index, home: str) -> None:
    locked(index, pip=["amlpip"])
    for path in Path(home, "environments/locks").glob("*.json"):
        path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(FormatError):
        locked(index, pip=["amlpip"])


def test_several_locks_that_begin_alike_are_not_guessed(home: str) -> None:
    folder = Path(home, "environments/kept")
    folder.mkdir(parents=True)
    for name in ("aaaaaa1", "aaaaaa2"):
        (folder / f"{name}.json").write_text("{}")
    with pytest.raises(UsageError, match="begins 2 locks"):
        by_digest("aaaaaa")


def test_two_who_ask_at_once_solve_once(index: Index, home: str) -> None:
    program = (
        "import sys, json\n"
        "from aml_jupyter.environment.solving import solve\n"
        f"lock = solve({{'pip': [{index.option!r}, 'amlpip']}}, platform={PLATFORM!r}, "
        f"base_python={VERSION!r}, tell=lambda text: None)\n"
        "print(lock.digest)"
    )
    index.hold.clear()
    both = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    index.hold.set()
    digests = {process.communicate(timeout=60)[0] for process in both}
    assert len(digests) == 1
    assert sum(path.startswith("/simple/amlpip") for path in index.asked) == 1


# --- what cannot be had -------------------------------------------------------------------------------------

DEAD_WHEEL = "http://127.0.0.1:9/wheels/azureml.assets-1.0.0-py3-none-any.whl"
TROUBLE: dict[str, list[str]] = {
    "dependencies": ["python=3.5.2", "amlcheck=7", "nosuchconda", "amlneeds"],
    "pip": [
        "amlleaf==9.9",
        "nosuchpip",
        DEAD_WHEEL,
        "amlancient==1.0",
        "amlintl",
    ],
}


def test_pins_that_nothing_satisfies_are_listed_each_with_the_reason(
    conda_channel: str, index: Index
) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        locked(index, channels=[conda_channel], file="conda.yml", **TROUBLE)
    error = caught.value
    assert error.code == "environment.unsolvable"
    assert error.message.startswith("conda.yml asks for what cannot be had:\n")
    listed = {
        line.partition(": ")[0].removeprefix("  - "): line.partition(": ")[2]
        for line in error.message.splitlines()[1:]
    }
    assert set(listed) == {
        "python=3.5.2",
        "amlcheck=7",
        "nosuchconda",
        "amlleaf==9.9",
        "nosuchpip",
        DEAD_WHEEL,
        "amlancient==1.0",
    }
    assert "Python 3.8 or newer" in listed["python=3.5.2"]
    assert "No candidates were found for amlcheck 7.*" in listed["amlcheck=7"]
    assert "no version of amlleaf==9.9" in listed["amlleaf==9.9"]
    assert "not found" in listed["nosuchpip"]
    assert "127.0.0.1:9" in listed[DEAD_WHEEL]
    assert "cp27" in listed["amlancient==1.0"]
    assert "--relax-pins" in error.hint


def test_relaxing_says_what_it_changed_for_each(conda_channel: str, index: Index) -> None:
    told: list[str] = []
    lock = locked(index, told, channels=[conda_channel], relax=True, **TROUBLE)
    expected = {"python": VERSION, "amlneeds": "1.0", "amlcheck": "2.0", "amlleaf": "2.0", "amlintl": "1.0"}
    assert versions(lock) == {**expected, "idna": "3.20"}
    changes = [change.split(": ")[0] for change in lock.changes]
    assert changes == [
        "python=3.5.2 became any Python",
        "amlcheck=7 became amlcheck",
        "nosuchconda was left out",
        "amlleaf==9.9 became amlleaf",
        "nosuchpip was left out",
        f"{DEAD_WHEEL} was left out",
        "amlancient==1.0 became amlancient",
        "amlancient was left out",
    ]
    assert all(f"relaxed: {change}" in told for change in lock.changes)


def test_items_that_only_together_cannot_be_had_are_told_as_such(index: Index) -> None:
    asked = {"pip": ["amlpip==1.0", "amlleaf==2.0"]}
    with pytest.raises(EnvironmentFailed, match=r"all of it together: .*amlleaf"):
        locked(index, **asked)
    lock = locked(index, relax=True, **asked)
    assert len(lock.changes) == 2
    assert versions(lock)["amlpip"] == "2.0"


def test_what_can_be_had_is_not_relaxed(index: Index) -> None:
    lock = locked(index, pip=["amlleaf==1.5"], relax=True)
    assert lock.changes == ()
    assert versions(lock)["amlleaf"] == "1.5"


def test_a_channel_that_does_not_answer_is_no_word_on_the_packages(index: Index) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        locked(index, channels=[NOWHERE], dependencies=["amlleaf"])
    assert caught.value.code == "environment.channel_unreachable"
    assert NOWHERE in caught.value.message


def test_old_pins_are_listed_although_no_channel_answers(index: Index) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        locked(index, channels=[NOWHERE], dependencies=["python=3.5.2", "amlleaf"], pip=["nosuchpip"])
    assert caught.value.code == "environment.unsolvable"
    for part in ("python=3.5.2", "nosuchpip", "nothing is known of the other conda packages"):
        assert part in caught.value.message


def test_relaxing_takes_conda_packages_from_the_index_where_no_channel_answers(index: Index) -> None:
    lock = locked(
        index, channels=[NOWHERE], dependencies=["python=3.5.2", "amlleaf=1.5=py_0", "nosuchpip"], relax=True
    )
    assert versions(lock) == {"amlleaf": "1.5", "pip": "99.0"}
    changes = " ".join(lock.changes)
    assert "amlleaf=1.5=py_0 is taken from the package index" in changes
    assert "nosuchpip was left out" in changes


def test_an_index_that_does_not_answer_is_no_word_on_the_packages() -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        locked(pip=[f"--index-url {NOWHERE}", "amlleaf"])
    assert caught.value.code == "environment.channel_unreachable"


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("wheels/my-1.0-py3-none-any.whl", "is a file of the project"),
        ("./src", "is a file of the project"),
        ("-r requirements.txt", "names a file of the project"),
        ("-e .", "names a file of the project"),
        ("--constraint c.txt", "names a file of the project"),
        ("file:///wheels/my-1.0.whl", "is a file of one machine"),
        ("my @ file:///wheels/my-1.0.whl", "is a file of one machine"),
        ("--find-links wheels", "names a folder"),
        ("--find-links", "lacks its value"),
        ("--install-option=x", "is no option that a dependency file may hold"),
    ],
)
def test_what_no_lock_can_hold_is_refused_by_name(item: str, said: str) -> None:
    with pytest.raises(EnvironmentFailed, match=said) as caught:
        locked(pip=["amlleaf", item])
    assert caught.value.code == "environment.unsupported"
    assert item in caught.value.message
    assert caught.value.hint


def test_a_relative_channel_is_refused() -> None:
    with pytest.raises(EnvironmentFailed, match=r"'\./channel' is a folder without its whole path"):
        locked(channels=["./channel"], dependencies=["a"])


def test_a_platform_that_nobody_knows_is_refused(index: Index) -> None:
    with pytest.raises(EnvironmentFailed, match="cannot be resolved for linux-riscv"):
        locked(index, pip=["amlleaf"], platform="linux-riscv")


def test_without_rattler_the_error_says_what_to_install(
    conda_channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])
    for more in ({}, {"python": "3.5.2"}):
        told: list[str] = []
        with pytest.raises(EnvironmentFailed, match="py-rattler") as caught:
            locked(None, told, channels=[conda_channel], dependencies=["amlcheck"], **more)
        assert caught.value.code == "environment.tool_missing"
        assert "aml_jupyter[conda]" in caught.value.hint
        assert told == []


def test_without_rattler_an_old_python_is_still_told_and_relaxed(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])
    with pytest.raises(EnvironmentFailed, match=r"python=3\.5\.2"):
        locked(index, python="3.5.2", dependencies=["python=3.5.2"], pip=["amlleaf"])
    lock = locked(index, python="3.5.2", dependencies=["python=3.5.2"], pip=["amlleaf"], relax=True)
    assert versions(lock)["amlleaf"] == "2.0"


# --- credentials --------------------------------------------------------------------------------------------


@pytest.fixture
def private(conda_channel: str) -> Iterator[Index]:
    made = Index(password=True, folder=Path(conda_channel.removeprefix("file://")))
    made.add("amlleaf", "1.0")
    with served(made) as running:
        yield running


def below(folder: str) -> bytes:
    return b"".join(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())


def test_X3_the_password_of_an_index_is_used_and_never_kept(
    private: Index, tmp_path: Path, home: str
) -> None:
    text = f"dependencies:\n  - pip:\n    - {private.option}\n    - amlleaf\n"
    conda = load(
        project_with(tmp_path, {"conda_dependencies.yml": text}),
        RunConfiguration(name="d", target="docker"),
    ).conda
    assert conda is not None
    assert PASSWORD not in json.dumps(conda.asked())
    told: list[str] = []
    lock = solve(conda.asked(), platform=PLATFORM, base_python=VERSION, tell=told.append)
    assert versions(lock)["amlleaf"] == "1.0"
    assert lock.index == f"http://{private.host}/simple"
    kept_bytes = below(f"{home}/environments") + below(f"{home}/cache/config")
    assert PASSWORD.encode() not in kept_bytes
    assert PASSWORD not in "".join(told) + json.dumps(lock.to_json())


def test_X3_the_password_of_an_index_is_in_no_error(private: Index) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        locked(
            private, pip=["nosuchpip", f"{private.url.replace('/simple', '/files')}/gone-1-py3-none-any.whl"]
        )
    assert PASSWORD not in str(caught.value)
    private.password = False
    wrong = private.option.replace("//", "//ann:wr0ng-word@")
    private.password = True
    with pytest.raises(EnvironmentFailed) as caught:
        locked(pip=[wrong, "amlleaf"])
    assert "wr0ng-word" not in str(caught.value)


def test_X3_the_credentials_of_a_channel_are_used_and_never_kept(private: Index, home: str) -> None:
    with_password = private.url.replace("/simple", "/channel")
    with_token = f"http://{private.host}/t/{PASSWORD}/channel"
    for channel in (with_password, with_token):
        lock = locked(channels=[channel], dependencies=["amlcheck"], relock=True)
        assert versions(lock)["amlcheck"] == "2.0"
        assert PASSWORD not in json.dumps(lock.to_json())
        assert PASSWORD.encode() not in below(f"{home}/environments")


@pytest.mark.parametrize("form", ["http://{user}@{host}/channel", "http://{host}/t/{token}/channel"])
def test_X3_an_environment_holds_no_credentials_of_its_channel(
    form: str, private: Index, home: str, tmp_path: Path
) -> None:
    def channel(user: str, token: str) -> str:
        return form.format(host=private.host, user=user, token=token)

    file = tmp_path / "conda.yml"
    file.write_text(f"channels: ['{channel(f'{USER}:{PASSWORD}', PASSWORD)}']\n")
    asked = {"channels": [f"http://{private.host}/channel"], "dependencies": [f"python={MINOR}", "amlcheck"]}
    made = of_target({**asked, "file": str(file)}, lambda _: None)
    assert os.path.exists(f"{made.prefix}/conda-meta")
    assert PASSWORD.encode() not in below(home)


def test_X3_a_packages_signed_address_is_used_and_never_kept(private: Index) -> None:
    private.password = False
    address = f"http://{private.host}/files/amlleaf-1.0-py3-none-any.whl?sig={PASSWORD}"
    lock = locked(private, pip=[address])
    assert PASSWORD not in json.dumps(lock.to_json())
    assert any(PASSWORD in path for path in private.asked)


@pytest.mark.parametrize(
    ("text", "clean", "found"),
    [
        ("https://u:p@h.example/x", "https://h.example/x", {"https://h.example": "u:p"}),
        ("https://u:p%40q@h:8443/x", "https://h:8443/x", {"https://h:8443": "u:p%40q"}),
        ("https://u:p@q@h/x", "https://h/x", {"https://h": "u:p@q"}),
        ("https://token@h/x", "https://h/x", {"https://h": "token"}),
        ("a @ git+https://u:p@h/r.git@v1", "a @ git+https://h/r.git@v1", {"git+https://h": "u:p"}),
        ("a @ git+ssh://git@h/r.git", "a @ git+ssh://git@h/r.git", {}),
        ("https://h/t/tk-1/chan", "https://h/chan", {"https://h/t": "tk-1"}),
        ("https://h/x.whl?sv=1&sig=abc", "https://h/x.whl", {"https://h/x.whl": "?sv=1&sig=abc"}),
        ("https://h/x?page=2", "https://h/x?page=2", {}),
        ("https://${AML_TEST_USER}:x@h/y", "https://h/y", {"https://h": "ann:x"}),
        ("a==1 ; python_version < '3'", "a==1 ; python_version < '3'", {}),
    ],
)
def test_X3_credentials_are_taken_out_of_addresses_and_put_back(
    text: str, clean: str, found: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AML_TEST_USER", "ann")
    assert credentials.separate(text) == (clean, found)
    assert credentials.strip(text) == clean
    assert credentials.insert(clean, found) == text.replace("${AML_TEST_USER}", "ann")


def test_a_password_does_not_change_the_digest() -> None:
    items = ["--index-url https://{}h.example/simple", "a"]
    clean = Conda(pip=tuple(item.format("") for item in items))
    asked = {"pip": [item.format("ann:pw@") for item in items]}
    separated, _ = credentials.separate_all(asked)
    assert Conda(pip=tuple(separated["pip"])).digest == clean.digest


# --- words of dependency files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "pin", "fits"),
    [
        ("3.11.4", "3.11", True),
        ("3.11.4", "3.11.4", True),
        ("3.11.4", "3.11.5", False),
        ("3.11", "3.11.5", True),
        ("3.1", "3.11", False),
        ("3.11.4", ">=3.8,<3.12", True),
        ("3.12.0", ">=3.8,<3.12", False),
        ("3.12.1", "<=3.12", True),
        ("3.8.1", ">3.8", False),
        ("3.9.0", "!=3.9", False),
        ("3.9.0", "~=3.8", True),
        ("3.9.0", "~=3.8.1", False),
        ("3.9.0", "3.9.*", True),
        ("3.9.0", None, True),
    ],
)
def test_a_python_is_within_a_pin_or_not(version: str, pin: str | None, fits: bool) -> None:
    assert satisfies(version, pin) is fits


@pytest.mark.parametrize(
    ("pin", "old"),
    [("3.5.2", True), ("2.7", True), ("3.7", True), ("<3.8", True), ("3.8", False), (">=3.5", False)],
)
def test_a_pin_that_allows_only_old_pythons_is_known(pin: str, old: bool) -> None:
    assert too_old(pin) is old


@pytest.mark.parametrize(
    ("item", "bare", "as_pip"),
    [
        ("numpy=1.13", None, "numpy==1.13.*"),
        ("numpy==1.13", "numpy", "numpy==1.13"),
        ("numpy=1.13=py_0", None, "numpy==1.13.*"),
        ("c::numpy>=1,<2", None, "numpy>=1,<2"),
        ("a[x]>=1 ; python_version < '3'", "a[x] ; python_version < '3'", None),
        ("https://h/x.whl", "https://h/x.whl", "https://h/x.whl"),
    ],
)
def test_items_lose_their_version_and_change_their_language(
    item: str, bare: str | None, as_pip: str | None
) -> None:
    if bare is not None:
        assert pip_bare(item) == bare
    if as_pip is not None:
        assert conda_as_pip(item) == as_pip


def test_options_of_pip_reach_the_lock() -> None:
    asked = sort(
        {
            "pip": [
                "--index-url https://i.example/simple",
                "--extra-index-url https://j.example/simple",
                "--find-links https://k.example/links",
                "--trusted-host i.example",
                "--pre",
                "--no-binary amlleaf",
                "a",
            ]
        }
    )
    assert (asked.index, asked.extra_indexes) == ("https://i.example/simple", ("https://j.example/simple",))
    assert (asked.find_links, asked.trusted_hosts) == (("https://k.example/links",), ("i.example",))
    assert asked.options == ("--no-binary", "amlleaf", "--pre")
    assert asked.pip == ("a",)


# --- installing elsewhere -----------------------------------------------------------------------------------


def test_conda_packages_are_installed_here_for_another_place(conda_channel: str, tmp_path: Path) -> None:
    lock = locked(channels=[conda_channel], dependencies=["amlneeds"], base=None)
    told: list[str] = []
    prefix = str(tmp_path / "prefix")
    install_conda(lock, prefix, "/opt/aml/env", told.append)
    answer = subprocess.run(
        [f"{prefix}/bin/python", "-c", "import amlneeds, amlcheck, sys; print(amlcheck.version, sys.prefix)"],
        capture_output=True,
        text=True,
    )
    assert answer.stdout.split() == ["2.0", prefix]
    assert "conda packages to install: 3" in told
    assert os.listdir(f"{prefix}/conda-meta")


def test_a_package_that_is_not_what_was_locked_is_not_installed(conda_channel: str, tmp_path: Path) -> None:
    lock = locked(channels=[conda_channel], dependencies=["amlcheck"], base=None)
    wrong = tuple(package.replace(sha256="0" * 64) for package in lock.packages)
    with pytest.raises(EnvironmentFailed) as caught:
        install_conda(lock.replace(packages=wrong), str(tmp_path / "p"), "/opt/aml/env", lambda _: None)
    assert caught.value.code == "environment.build_failed"


# --- the user's own settings --------------------------------------------------------------------------------


def test_the_indexes_of_the_users_pip_are_asked(
    private: Index, index: Index, tmp_path: Path, home: str
) -> None:
    folder = Path(os.environ["HOME"], ".config", "pip")
    folder.mkdir(parents=True)
    (folder / "pip.conf").write_text(f"[global]\nindex-url = {index.url}\nextra-index-url = {private.url}\n")
    index.add("amlleaf", "0.5")
    private.add("amlsecret", "1.0", ["amlleaf"])
    lock = locked(pip=["amlsecret"])
    # the best version of all indexes, as pip itself takes it
    assert versions(lock) == {"amlsecret": "1.0", "amlleaf": "2.0", "pip": "99.0"}
    assert (lock.index, lock.extra_indexes) == (None, ())
    assert PASSWORD.encode() not in below(f"{home}/environments")
