"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import engines
from tests.azurite import azurite
from tests.engines import Engine, PrivateEngine
from tests.mlflow_server import MlflowServer
from tests.other_user import OtherUser
from tests.requirements import python_versions

__all__ = ["azurite"]  # a fixture too

# a machine that is slow for a moment is no failure
hypothesis.settings.register_profile("slow machines", deadline=None)
hypothesis.settings.load_profile("slow machines")

# names the folder that all workers of a suite share
_SCRATCH = "AML_TESTS_SCRATCH"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh place for everything the product keeps; also HOME, so that no test meets the caller's own."""
    path = tmp_path / "home" / ".azureml"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AML_HOME", str(path))
    (tmp_path / "home").mkdir()
    engines.HOMES.append(str(path))
    return str(path)


@pytest.fixture(scope="session")
def engine() -> Engine:
    """A Docker engine with the base image that outlives the test: never stopped, never restarted."""
    return engines.shared_engine(Path(os.environ[_SCRATCH]))


@pytest.fixture(scope="session")
def _engine_of_this_worker() -> Iterator[PrivateEngine]:
    with PrivateEngine() as own:
        own.load_base()
        yield own


@pytest.fixture
def private_engine(
    _engine_of_this_worker: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PrivateEngine]:
    """An engine that the test may stop, kill and start; DOCKER_HOST names it; nothing may be left in it."""
    own, before = _engine_of_this_worker, len(engines.HOMES)
    monkeypatch.setenv("DOCKER_HOST", own.host)
    yield own
    if not own.answers():
        own.kill()
        own.start()
    own.load_base()
    left = engines.leftovers(own, engines.HOMES[max(0, before - 1) :])
    own.remove_containers()
    assert not left


@pytest.fixture(scope="session")
def mlflow_server() -> MlflowServer:
    """A server that all tests share; it ends when the folder of the suite is removed."""
    return MlflowServer(Path(os.environ[_SCRATCH]) / "mlflow")


@pytest.fixture
def other_user() -> Iterator[OtherUser]:
    """A user without privileges, who may not use a Docker engine."""
    other = OtherUser()
    yield other
    other.remove()


@pytest.fixture
def docker_user(private_engine: PrivateEngine) -> Iterator[OtherUser]:
    """A user without privileges who may use the private engine, as a member of the group of its socket."""
    os.chown(private_engine.socket, -1, OtherUser.GROUP)
    other = OtherUser(OtherUser.GROUP)
    engines.HOMES.append(other.aml_home)
    yield other
    other.remove()


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_in_an_engine() -> Iterator[None]:
    """Every worker answers for the homes of its own tests."""
    yield
    left = engines.left_in_shared_engines()
    assert not left, "\n".join(["left in the engine:", *left])


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that workers share, in the process that starts them."""
    if not hasattr(config, "workerinput"):
        os.environ[_SCRATCH] = tempfile.mkdtemp(prefix="aml-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what workers started together, when the last of them has ended."""
    if not hasattr(config, "workerinput"):
        scratch = Path(os.environ.pop(_SCRATCH))
        engines.end_shared_engine(scratch)
        shutil.rmtree(scratch, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Versions of Python between the oldest and the newest are for the whole suite, not for the fast one."""
    between = list(python_versions())[1:-1]
    for item in items:
        if isinstance(item, pytest.Function) and _version(item) in between:
            item.add_marker(pytest.mark.slow)


def _version(item: pytest.Function) -> object:
    return item.callspec.params.get("version") if hasattr(item, "callspec") else None
