"""Images against a real engine: found, pulled, looked into, and made to hold an environment."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import controllog
from aml_jupyter.controllog import ControlLog
from aml_jupyter.environment import pip_packages, solving
from aml_jupyter.environment.lock import Lock, Package
from aml_jupyter.errors import EnvironmentFailed, TargetUnavailable
from aml_jupyter.executors.docker import builds, images
from aml_jupyter.executors.docker.containers import home_label, labels
from tests.base_image import BASE_IMAGE
from tests.conda_channel import MINOR, PLATFORM, VERSION, conda_channel
from tests.engines import Engine, PrivateEngine
from tests.package_index import Index, lock_of, served
from tests.registry import registry

# a fixture
__all__ = ["conda_channel"]

ROOT = Path(__file__).resolve().parent.parent.parent


def silent(_line: str) -> None:
    """Tell nobody."""


@pytest.fixture
def base(engine: Engine, home: str) -> str:
    """The id of the base image, looked into."""
    found = images.ensure_image(engine.socket, BASE_IMAGE, pull="never", tell=silent)
    images.probe_image(engine.socket, found, silent)
    return found


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index with a password that the user's settings hold, and nothing else of theirs."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with served("reader", "pass" + secrets.token_hex(8)) as found:
        monkeypatch.setenv("UV_DEFAULT_INDEX", found.simple)
        yield found


@pytest.fixture(autouse=True)
def _remove_what_was_made(engine: Engine, home: str) -> Iterator[None]:
    yield
    mark = f"label=aml.home={home_label()}"
    wait_until(lambda: not engine.containers(mark), "containers are gone")

    def removed() -> bool:
        # one that another stands on goes after it
        for image in engine.docker("image", "ls", "--quiet", "--no-trunc", "--filter", mark).split():
            engine.docker("image", "rm", "--force", image, check=False)
        return not engine.docker("image", "ls", "--quiet", "--filter", mark)

    wait_until(removed, "images are gone")
    assert not engine.docker("volume", "ls", "--quiet", "--filter", mark)


def wait_until(true: Callable[[], Any], what: str, seconds: float = 60) -> None:
    due = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < due, what
        time.sleep(0.05)


@contextlib.contextmanager
def image_of(engine: Engine, files: dict[str, bytes], *changes: str) -> Iterator[str]:
    """An image with a few executable files, until the block ends."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
    name = f"aml-test-{secrets.token_hex(4)}"
    words = [word for change in changes for word in ("--change", change)]
    done = subprocess.run(
        ["docker", "--host", engine.host, "import", *words, "-", name],
        input=out.getvalue(),
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    try:
        yield name
    finally:
        engine.docker("image", "rm", "--force", name)


def sh_alone() -> dict[str, bytes]:
    """This machine's `sh` with its libraries: an image in which there is nothing else."""
    shell = os.path.realpath("/bin/sh")
    found = {"bin/sh": Path(shell).read_bytes()}
    for word in subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout.split():
        if word.startswith("/"):
            found[word.lstrip("/")] = Path(word).read_bytes()
    return found


def own_containers(engine: Engine) -> list[dict[str, Any]]:
    return engine.containers(f"label=aml.home={home_label()}")


def in_image(engine: Engine, image: str, *words: str, user: str = "1234:1234") -> str:
    return engine.docker("run", "--rm", "--network", "none", "--user", user, image, *words)


# --- the image of a name ----------------------------------------------------------------------------------


def test_an_image_that_is_there_is_not_pulled(engine: Engine, home: str) -> None:
    told: list[str] = []
    found = images.ensure_image(engine.socket, BASE_IMAGE, tell=told.append)
    assert found == engine.get(f"/images/{BASE_IMAGE}/json")["Id"]
    assert images.ensure_image(engine.socket, BASE_IMAGE, platform="linux/amd64", tell=told.append) == found
    assert told == []


@pytest.mark.parametrize("pull", ["missing", "always", "never"])
def test_an_image_that_cannot_be_had_is_named_with_what_to_do(engine: Engine, home: str, pull: str) -> None:
    name = "registry.invalid/microsoft/mmlspark:plus-0.9.9"
    with pytest.raises(TargetUnavailable) as caught:
        images.ensure_image(engine.socket, name, pull=pull, tell=silent)
    assert caught.value.code == "image.missing"
    assert name in caught.value.message
    for word in (f"docker pull {name}", "docker load", f"aml config set image.{name}"):
        assert word in caught.value.hint


def test_a_pull_tells_how_far_it_is_at_most_every_second(engine: Engine, home: str) -> None:
    told: list[tuple[float, str]] = []
    with registry(os.urandom(2_000_000), seconds=2.5) as host:
        name = f"{host}/group/tiny:1"
        try:
            found = images.ensure_image(
                engine.socket, name, tell=lambda line: told.append((time.monotonic(), line))
            )
            assert found == engine.get(f"/images/{name}/json")["Id"]
        finally:
            engine.docker("image", "rm", name, check=False)
    lines = [line for _, line in told]
    assert lines[0] == f"pulling {name}"
    assert lines[-1].startswith(f"pulled {name} in ")
    between = told[1:-1]
    assert any(" of 1.9 MB" in line for _, line in between), lines
    assert all(b - a > 0.9 for (a, _), (b, _) in itertools.pairwise(between))


def test_a_registry_that_asks_for_a_login_is_told_apart(engine: Engine, home: str) -> None:
    with registry(b"", denied=True) as host, pytest.raises(TargetUnavailable) as caught:
        images.ensure_image(engine.socket, f"{host}/private:1", tell=silent)
    assert caught.value.code == "image.pull_denied"
    assert f"docker login {host}" in caught.value.hint


def test_an_image_that_the_registry_does_not_have_for_that_machine_is_missing(
    engine: Engine, home: str
) -> None:
    with pytest.raises(TargetUnavailable) as caught:
        images.ensure_image(engine.socket, BASE_IMAGE, platform="linux/s390x", pull="never", tell=silent)
    assert caught.value.code == "image.missing"


def test_an_engine_that_does_not_answer_is_named(home: str, tmp_path: Path) -> None:
    from aml_jupyter.executors.docker.pulling import pull_image

    with pytest.raises(TargetUnavailable) as caught:
        images.ensure_image(str(tmp_path / "no.sock"), BASE_IMAGE, tell=silent)
    assert caught.value.code == "engine.unavailable"
    with pytest.raises(TargetUnavailable) as caught:
        pull_image(str(tmp_path / "no.sock"), BASE_IMAGE, None, silent)
    assert caught.value.code == "engine.unavailable"


# --- what is in an image ----------------------------------------------------------------------------------


def test_what_is_in_an_image_is_seen(engine: Engine, home: str) -> None:
    found = images.ensure_image(engine.socket, BASE_IMAGE, pull="never", tell=silent)
    probe = images.probe_image(engine.socket, found, silent)
    said = in_image(
        engine, BASE_IMAGE, "python3", "-c", "import sys; print(sys.executable, *sys.version_info[:3])"
    )
    path, *version = said.split()
    assert (probe.python, probe.version) == (path, ".".join(version))
    assert (probe.machine, probe.libc, probe.venv, probe.pip) == (os.uname().machine, "glibc", True, True)
    assert probe.platform.startswith("linux-")
    assert probe.libc_version.count(".") == 1
    assert "pip" in probe.packages
    assert (probe.uv, probe.java, probe.ipython, probe.spark) == (None, None, False, False)


def test_an_image_is_looked_into_once(engine: Engine, home: str) -> None:
    found = images.ensure_image(engine.socket, BASE_IMAGE, pull="never", tell=silent)
    told: list[str] = []
    first = images.probe_image(engine.socket, found, told.append)
    assert len(told) == 1
    # no engine answers there
    assert images.probe_image("/nonexistent.sock", found, told.append) == first
    assert len(told) == 1
    Path(home, "cache/images", found.removeprefix("sha256:") + ".json").write_text("{")
    assert images.probe_image(engine.socket, found, told.append) == first
    assert len(told) == 2


def test_what_is_remembered_of_an_image_is_read_without_anything_slow(base: str) -> None:
    code = (
        "import sys; from aml_jupyter.executors.docker import images\n"
        f"images.probe_image('/nonexistent.sock', {base!r}, print); print(*sys.modules)"
    )
    program = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    loaded = subprocess.run(program, capture_output=True, text=True, check=True).stdout.split()
    assert not {"docker", "requests", "dataclasses", "typing", "pathlib", "subprocess", "socket"} & set(
        loaded
    )


def test_an_image_with_nothing_but_sh_can_be_looked_into(engine: Engine, home: str) -> None:
    with image_of(engine, sh_alone(), 'ENV GREETING="hello you"', "USER 77") as name:
        probe = images.probe_image(engine.socket, name, silent)
    assert (probe.python, probe.version, probe.packages, probe.user) == (None, None, {}, "77")
    assert probe.variables["GREETING"] == "hello you"
    assert probe.machine == os.uname().machine


def test_spark_java_and_modules_on_other_paths_are_seen(engine: Engine, base: str) -> None:
    script = b"#!/bin/sh\n"
    files = {"opt/java/bin/java": script, "opt/spark/bin/spark-submit": script, "opt/more/pyspark.py": b""}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
    name = f"aml-test-{secrets.token_hex(4)}"
    container = engine.docker("create", "--name", name, BASE_IMAGE)
    try:
        subprocess.run(
            ["docker", "--host", engine.host, "cp", "-", f"{container}:/"], input=out.getvalue(), check=True
        )
        environ = ["ENV JAVA_HOME=/opt/java", "ENV SPARK_HOME=/opt/spark", "ENV PYTHONPATH=/opt/more"]
        engine.docker("commit", *[word for one in environ for word in ("--change", one)], container, name)
        probe = images.probe_image(engine.socket, name, silent)
    finally:
        engine.docker("rm", "--force", container)
        engine.docker("image", "rm", "--force", name, check=False)
    assert (probe.java, probe.spark_submit) == ("/opt/java/bin/java", "/opt/spark/bin/spark-submit")
    assert probe.pyspark
    assert probe.spark


def test_an_image_without_sh_is_refused_by_name(engine: Engine, home: str) -> None:
    with image_of(engine, {"data": b"x"}) as name, pytest.raises(TargetUnavailable) as caught:
        images.probe_image(engine.socket, name, silent)
    assert caught.value.code == "image.unusable"
    assert name in caught.value.message
    assert own_containers(engine) == []


# --- the image of an environment --------------------------------------------------------------------------


def test_an_environment_is_built_once_and_anybody_can_use_it(engine: Engine, base: str, index: Index) -> None:
    lock = lock_of(index.add("alpha"), index.add("beta", "2.5"))
    told: list[str] = []
    found = images.environment_image(engine.socket, base, lock, tell=told.append)
    assert any("alpha==1.0" in line for line in told)
    assert "compiled" in " ".join(told)
    asked = len(index.requests)
    told.clear()
    assert images.environment_image(engine.socket, base, lock, tell=told.append) == found
    assert images.built_environment(engine.socket, base, lock) == found
    assert (told, len(index.requests)) == ([], asked)
    code = "import alpha, beta, sys; print(alpha.version, beta.version, sys.prefix, alpha.__cached__)"
    alpha, beta, prefix, compiled = in_image(engine, found, "python", "-c", code).split()
    assert (alpha, beta, prefix) == ("1.0", "2.5", images.PREFIX)
    in_image(engine, found, "test", "-r", compiled)


def test_what_an_environment_image_says_of_itself(engine: Engine, base: str, index: Index) -> None:
    lock = lock_of(index.add("alpha"))
    found = engine.get(f"/images/{images.environment_image(engine.socket, base, lock, tell=silent)}/json")
    own = engine.get(f"/images/{base}/json")
    config, marks = found["Config"], found["Config"]["Labels"]
    assert config["Cmd"] == own["Config"]["Cmd"]
    assert not config["Entrypoint"]
    assert not config["Volumes"]
    assert config["User"] == own["Config"]["User"]
    assert [one for one in config["Env"] if one.startswith("PATH=/opt/aml/env/bin:/")]
    assert (marks["aml.made"], marks["aml.home"], marks["aml.depth"]) == ("1", home_label(), "1")
    assert (marks["aml.environment"], marks["aml.base"]) == (lock.digest, base)
    assert json.loads(marks["aml.packages"]) == builds.identities(lock)
    assert not marks["aml.owner"]


def test_what_is_in_an_environment_image_is_known_without_looking(
    engine: Engine, base: str, index: Index
) -> None:
    lock = lock_of(index.add("alpha"))
    name = images.environment_image(engine.socket, base, lock, tell=silent)
    identity = engine.get(f"/images/{name}/json")["Id"]
    kept = images.probe_image("/nonexistent.sock", identity, silent)
    Path(os.environ["AML_HOME"], "cache/images", identity.removeprefix("sha256:") + ".json").unlink()
    assert images.probe_image(engine.socket, name, silent) == kept
    assert kept.packages == {"alpha": "1.0"}
    assert (kept.python or "").startswith(images.PREFIX)


def test_one_more_package_is_a_layer_upon_the_environment_without_it(
    engine: Engine, base: str, index: Index
) -> None:
    one, two, three = index.add("alpha"), index.add("beta"), index.add("gamma")
    first = images.environment_image(engine.socket, base, lock_of(one, two), tell=silent)
    images.environment_image(engine.socket, base, lock_of(three), tell=silent)
    told: list[str] = []
    second = images.environment_image(engine.socket, base, lock_of(one, two, three), tell=told.append)
    assert "2 of 3 packages are in an image that is there" in told
    layers = [engine.get(f"/images/{name}/json") for name in (first, second)]
    assert layers[1]["RootFS"]["Layers"][:-1] == layers[0]["RootFS"]["Layers"]
    assert layers[1]["Config"]["Labels"]["aml.depth"] == "2"
    assert layers[1]["Config"]["Env"] == layers[0]["Config"]["Env"]
    assert in_image(engine, second, "python", "-c", "import alpha, beta, gamma; print('all')") == "all"
    # one less stands on its own base again
    images.environment_image(engine.socket, base, lock_of(two, three), tell=told.append)
    assert told.count("2 of 3 packages are in an image that is there") == 1


def test_no_cache_builds_again_from_the_base(engine: Engine, base: str, index: Index) -> None:
    lock = lock_of(index.add("alpha"))
    name = images.environment_image(engine.socket, base, lock, tell=silent)
    before = engine.get(f"/images/{name}/json")["Id"]
    assert images.environment_image(engine.socket, base, lock, tell=silent, no_cache=True) == name
    assert engine.get(f"/images/{name}/json")["Id"] != before
    assert engine.ask(f"/images/{before}/json")[0] == 404


@pytest.mark.slow
def test_nothing_of_the_users_settings_is_in_the_image(
    engine: Engine, base: str, index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    marks = {
        name: f"{name}{secrets.token_hex(8)}" for name in ("netrc", "proxy", "bundle", "extra", "locked")
    }
    with served("other", marks["extra"]) as extra, served("third", marks["locked"]) as third:
        Path(os.environ["HOME"], ".netrc").write_text(
            f"machine 127.0.0.1 login reader password {marks['netrc']}\n"
            f"machine elsewhere login reader password {marks['netrc']}\n"
        )
        bundle = tmp_path / "bundle.pem"
        bundle.write_bytes(_certificates() + f"\n# {marks['bundle']}\n".encode())
        monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:{marks['proxy']}@127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("UV_INDEX", extra.simple)
        url = third.add("delta")
        packages = [index.add("alpha"), extra.add("beta"), url.replace(source="url", files=())]
        told: list[str] = []
        name = images.environment_image(
            engine.socket,
            base,
            lock_of(*packages),
            tell=told.append,
            credentials={third.address(login=False): third.login},
        )
    assert in_image(engine, name, "python", "-c", "import alpha, beta, delta; print('all')") == "all"
    hidden = [index.login.partition(":")[2], *marks.values(), str(bundle)]
    command = ["docker", "--host", engine.host, "save", name]
    saved = subprocess.run(command, capture_output=True, check=True).stdout
    assert [one for one in hidden if one.encode() in saved] == []
    assert [path for path in _paths(saved) if path.startswith(b"run/aml-build/")] == []
    spoken = json.dumps(engine.get(f"/images/{name}/json")) + engine.docker("history", "--no-trunc", name)
    assert [one for one in hidden if one in spoken or one in " ".join(told)] == []


def _certificates() -> bytes:
    for path in (os.environ.get("SSL_CERT_FILE", ""), "/etc/ssl/certs/ca-certificates.crt"):
        if os.path.isfile(path):
            return Path(path).read_bytes()
    return b""


def _paths(saved: bytes) -> list[bytes]:
    """Paths of all files in the layers of an archive that `docker save` made."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        for member in archive:
            if member.name.endswith("layer.tar"):
                file = archive.extractfile(member)
                assert file
                with tarfile.open(fileobj=file) as layer:
                    found += [os.fsencode(name) for name in layer.getnames()]
    return found


def test_an_engine_that_sees_no_file_of_this_machine_gets_them_by_copy(
    engine: Engine, base: str, index: Index, tmp_path: Path
) -> None:
    package = index.add("alpha")
    local = tmp_path / "wheels" / "beta-1.0-py3-none-any.whl"
    local.parent.mkdir()
    other = index.add("beta")
    local.write_bytes(index.files.pop(local.name))
    url = f"file://{local}"
    other = other.replace(url=url, files=((url, other.sha256),))
    mounted: set[str] = set()

    def tell(_line: str) -> None:
        for one in own_containers(engine):
            mounted.update(mount["Type"] for mount in one["Mounts"])

    # the engine's own machine is this one: an index on its loopback is reached all the same
    os.environ["UV_DEFAULT_INDEX"] = index.simple
    found = builds.Build(engine.socket, base, lock_of(other), tell=tell, local=False, credentials={}).make()
    assert mounted == {"volume"}
    assert in_image(engine, found, "python", "-c", "import beta; print(beta.version)") == "1.0"
    mounted.clear()
    both = images.environment_image(engine.socket, base, lock_of(package, other), tell=tell)
    assert mounted == {"volume", "bind"}
    assert in_image(engine, both, "python", "-c", "import alpha, beta; print(beta.version)") == "1.0"


@pytest.mark.slow
def test_where_uv_does_not_run_pip_installs(
    engine: Engine, base: str, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "uv"
    program.parent.mkdir()
    program.write_text("#!/nonexistent/loader\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.parent / "python"))
    told: list[str] = []
    lock = lock_of(index.add("alpha"))
    found = images.environment_image(engine.socket, base, lock, tell=told.append)
    assert any(line.startswith("Successfully installed alpha-1.0") for line in told), told
    assert index.login.partition(":")[2] not in " ".join(told)
    assert in_image(engine, found, "python", "-c", "import alpha; print(alpha.version)") == "1.0"


def test_a_build_that_fails_says_why_and_leaves_nothing(engine: Engine, base: str, index: Index) -> None:
    package = index.add("alpha")
    wrong = package.replace(sha256="0" * 64, files=((package.url, "0" * 64),))
    with pytest.raises(EnvironmentFailed) as caught:
        images.environment_image(engine.socket, base, lock_of(wrong), tell=silent)
    assert caught.value.code == "environment.build_failed"
    assert "Hash mismatch" in caught.value.message
    assert index.login.partition(":")[2] not in str(caught.value)
    wait_until(lambda: not own_containers(engine), "the container is gone")
    assert images.built_environment(engine.socket, base, lock_of(wrong)) is None
    images.environment_image(engine.socket, base, lock_of(package), tell=silent)


def test_a_build_that_prints_without_end_is_ended_and_named(
    engine: Engine, base: str, index: Index, tmp_path: Path
) -> None:
    # what every Python of the environment does when it starts
    package = index.add("alpha", **{"alpha.pth": "import sys; exec(\"while True: print('x' * 1000)\")\n"})
    log = ControlLog(str(tmp_path / "control.log"))
    with pytest.raises(EnvironmentFailed) as caught:
        images.environment_image(engine.socket, base, lock_of(package), tell=log.add)
    assert caught.value.code == "environment.build_failed"
    assert "python -B /run/aml-build/finish.py: its output does not end" in caught.value.message
    kept = (tmp_path / "control.log").read_bytes()
    assert len(kept) <= controllog.LARGEST
    assert kept.count(b"bytes are left out here") == 1
    assert b"Resolved 1 package" in kept[: kept.index(b"xxxx")]
    wait_until(lambda: not own_containers(engine), "the container is gone")


def test_an_interrupted_build_leaves_nothing(engine: Engine, base: str, index: Index) -> None:
    def tell(line: str) -> None:
        if "Resolved" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.environment_image(engine.socket, base, lock_of(index.add("alpha")), tell=tell)
    wait_until(lambda: not own_containers(engine), "the container is gone")


def in_process(engine: Engine, base: str, lock: Lock, log: Path, **environ: str) -> subprocess.Popen[bytes]:
    """A process that builds, and writes what it is told."""
    program = (
        "import json, sys; from aml_jupyter.executors.docker import images\n"
        "from aml_jupyter.environment.lock import Lock\n"
        "lock = Lock.from_json(json.loads(sys.argv[1]))\n"
        "log = sys.stderr = open(sys.argv[2], 'a', buffering=1)\n"
        f"images.environment_image({engine.socket!r}, {base!r}, lock, tell=lambda l: print(l, file=log))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(lock.to_json()), str(log)],
        env={**os.environ, **environ, "PYTHONPATH": str(ROOT)},
    )


def under_way(process: subprocess.Popen[bytes], index: Index, log: Path) -> bool:
    """Whether the build of a process asks for a file."""
    assert process.poll() is None, log.read_text()
    return any("/files/" in one for one in index.requests)


@pytest.mark.faults
def test_a_killed_build_leaves_nothing_and_can_be_repeated(
    engine: Engine, base: str, index: Index, tmp_path: Path
) -> None:
    lock = lock_of(index.add("alpha"))
    index.open.clear()
    process = in_process(engine, base, lock, tmp_path / "log")
    try:
        wait_until(lambda: under_way(process, index, tmp_path / "log"), "the build is under way")
        assert own_containers(engine)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until(lambda: not own_containers(engine), "the container is gone", 15)
    assert not engine.docker("volume", "ls", "--quiet", "--filter", f"label=aml.home={home_label()}")
    index.open.set()
    assert images.environment_image(engine.socket, base, lock, tell=silent)


@pytest.mark.parametrize("homes", ["one home", "two homes"])
def test_two_who_need_the_same_image_build_it_once(
    engine: Engine, base: str, index: Index, tmp_path: Path, homes: str
) -> None:
    lock = lock_of(index.add("alpha"))
    index.open.clear()
    other = os.environ["AML_HOME"]
    if homes == "two homes":
        other = str(tmp_path / "other")
        shutil.copytree(f"{os.environ['AML_HOME']}/cache/images", f"{other}/cache/images")
    logs = [tmp_path / "first", tmp_path / "second"]
    first = in_process(engine, base, lock, logs[0])
    second = None
    try:
        wait_until(lambda: under_way(first, index, logs[0]), "the first is under way")
        second = in_process(engine, base, lock, logs[1], AML_HOME=other)
        wait_until(lambda: logs[1].exists() and "waiting" in logs[1].read_text(), "the second waits")
        index.open.set()
        assert (first.wait(60), second.wait(60)) == (0, 0)
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.wait()
    assert "alpha==1.0" in logs[0].read_text()
    assert "alpha" not in logs[1].read_text()
    assert f"process {first.pid}" in logs[1].read_text()


@pytest.mark.parametrize("state", ["created", "running"])
def test_the_container_of_a_dead_builder_is_taken_over(
    engine: Engine, base: str, index: Index, state: str
) -> None:
    lock = lock_of(index.add("alpha"))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    marks = labels("build")
    marks["aml.owner"] = f"{dead.pid}.{marks['aml.owner'].partition('.')[2]}"
    dead.wait()
    name = "aml-build-" + images.environment_reference(base, lock).partition(":")[2]
    words = [word for key, value in marks.items() for word in ("--label", f"{key}={value}")]
    command = ["create"] if state == "created" else ["run", "--detach"]
    engine.docker(*command, "--name", name, *words, BASE_IMAGE, "sleep", "600")
    assert images.environment_image(engine.socket, base, lock, tell=silent)


def test_a_base_image_keeps_its_entrypoint_user_and_folder(engine: Engine, base: str, index: Index) -> None:
    name = f"aml-test-{secrets.token_hex(4)}"
    container = engine.docker("create", BASE_IMAGE)
    changes = ('ENTRYPOINT ["python3", "-I"]', 'CMD ["-V"]', "USER 4321:4321", "WORKDIR /srv", "ENV A=b")
    engine.docker("commit", *[word for one in changes for word in ("--change", one)], container, name)
    try:
        identity = engine.get(f"/images/{name}/json")["Id"]
        lock = lock_of(index.add("alpha"))
        made = images.environment_image(engine.socket, identity, lock, tell=silent)
        config = engine.get(f"/images/{made}/json")["Config"]
        assert (config["Entrypoint"], config["Cmd"]) == (["python3", "-I"], ["-V"])
        assert (config["User"], config["WorkingDir"]) == ("4321:4321", "/srv")
        assert "A=b" in config["Env"]
        said = engine.docker("run", "--rm", made, "-c", "import alpha, os; print(alpha.version, os.getuid())")
        assert said == "1.0 4321"
        engine.docker("image", "rm", "--force", made)
    finally:
        engine.docker("rm", "--force", container)
        engine.docker("image", "rm", "--force", name, check=False)


def test_an_image_without_python_needs_an_environment_with_one(
    engine: Engine, home: str, index: Index
) -> None:
    lock = lock_of(index.add("alpha"))
    with image_of(engine, sh_alone()) as name:
        identity = images.ensure_image(engine.socket, name, pull="never", tell=silent)
        with pytest.raises(EnvironmentFailed) as caught:
            images.environment_image(engine.socket, identity, lock, tell=silent)
    assert caught.value.code == "environment.build_failed"
    assert "no Python" in caught.value.message


def test_many_layers_are_not_put_upon_each_other(
    engine: Engine, base: str, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "DEEPEST", 2)
    packages: list[Package] = []
    depths = []
    for name in ("alpha", "beta", "gamma"):
        packages.append(index.add(name))
        made = images.environment_image(engine.socket, base, lock_of(*packages), tell=silent)
        depths.append(engine.get(f"/images/{made}/json")["Config"]["Labels"]["aml.depth"])
    assert depths == ["1", "2", "2"]


def test_threads_of_one_process_build_once(engine: Engine, base: str, index: Index) -> None:
    lock = lock_of(index.add("alpha"))
    told: list[str] = []
    threads = [
        threading.Thread(
            target=images.environment_image,
            args=(engine.socket, base, lock),
            kwargs={"tell": told.append},
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("alpha==1.0" in line for line in told) == 1


@pytest.mark.slow
def test_an_image_without_python_gets_the_environments_own(
    engine: Engine, home: str, index: Index, conda_channel: str
) -> None:
    asked = {"channels": [conda_channel], "dependencies": ["amlneeds"], "pip": [], "python": MINOR}
    solved = solving.solve(asked, platform=PLATFORM, base_python=None, tell=silent)
    lock = solved.replace(packages=(*solved.packages, index.add("alpha")))
    told: list[str] = []
    made = ""
    with image_of(engine, {**sh_alone(), **c_library()}) as name:
        identity = images.ensure_image(engine.socket, name, pull="never", tell=silent)
        try:
            made = images.environment_image(engine.socket, identity, lock, tell=told.append)
            code = "import alpha, amlcheck, amlneeds, sys; print(sys.prefix, sys.version_info[0])"
            assert in_image(engine, made, "python", "-c", code) == f"{images.PREFIX} 3"
            probe = images.probe_image(engine.socket, made, silent)
            assert (probe.version, probe.packages["alpha"]) == (VERSION, "1.0")
            # one more pip package stands upon it
            more = lock.replace(packages=(*lock.packages, index.add("beta")))
            again = images.environment_image(engine.socket, identity, more, tell=told.append)
            assert f"{len(lock.packages)} of {len(more.packages)} packages are in an image" in " ".join(told)
            assert in_image(engine, again, "python", "-c", "import alpha, beta, amlcheck; print(1)") == "1"
            engine.docker("image", "rm", "--force", again)
        finally:
            engine.docker("image", "rm", "--force", made or name, check=False)
    assert not Path(home, "builds", "aml-build-" + made.partition(":")[2]).exists()


def c_library() -> dict[str, bytes]:
    """The libraries of this machine's C library and compiler: the environment here brings none of them."""
    libraries = [
        pip_packages.find_uv(),
        sys.executable,
        *map(str, Path(sys.base_prefix, "lib").glob("**/lib-dynload/*.so")),
    ]
    words = subprocess.run(["ldd", *libraries], capture_output=True, text=True).stdout.split()
    kinds = ("libc.", "libm.", "ld-linux", "libpthread", "libdl", "librt", "libutil", "libgcc_s")
    paths = {word for word in words if word.startswith("/") and os.path.basename(word).startswith(kinds)}
    return {path.lstrip("/"): Path(path).read_bytes() for path in paths if os.path.isfile(path)}


def test_a_build_whose_container_is_removed_by_hand_says_so(engine: Engine, base: str, index: Index) -> None:
    lock = lock_of(index.add("alpha"))
    index.open.clear()

    def remove() -> None:
        wait_until(lambda: any("/files/" in one for one in index.requests), "the build is under way")
        for container in own_containers(engine):
            engine.docker("rm", "--force", container["Id"], check=False)
        index.open.set()

    thread = threading.Thread(target=remove)
    thread.start()
    with pytest.raises(EnvironmentFailed) as caught:
        images.environment_image(engine.socket, base, lock, tell=silent)
    thread.join()
    assert caught.value.code == "environment.build_failed"
    assert "ended from outside" in caught.value.message
    assert images.environment_image(engine.socket, base, lock, tell=silent)


@pytest.mark.parametrize("word", ["kill", "rm"])
@pytest.mark.parametrize("when", ["Creating virtual", "Installed", "compiled", "keeping"])
def test_a_build_that_is_ended_by_hand_says_so_whenever_that_is(
    word: str, when: str, engine: Engine, base: str, index: Index
) -> None:
    lock = lock_of(index.add("alpha"))

    def end(line: str) -> None:
        if when in line:
            words = ("rm", "--force") if word == "rm" else ("kill",)
            for container in own_containers(engine):
                engine.docker(*words, container["Id"], check=False)

    with pytest.raises(EnvironmentFailed) as caught:
        images.environment_image(engine.socket, base, lock, tell=end)
    assert caught.value.code == "environment.build_failed"
    assert "ended from outside" in caught.value.message
    assert "repeated" in caught.value.hint
    mark = f"label=aml.home={home_label()}"
    assert not engine.docker("volume", "ls", "--quiet", "--filter", mark)
    assert not own_containers(engine)
    assert images.environment_image(engine.socket, base, lock, tell=silent)


@pytest.mark.faults
@pytest.mark.root
def test_a_build_goes_on_from_nothing_after_its_engine_was_killed(
    private_engine: PrivateEngine, home: str, index: Index
) -> None:
    own = private_engine
    base = images.ensure_image(own.socket, BASE_IMAGE, pull="never", tell=silent)
    lock = lock_of(index.add("alpha"))
    index.open.clear()

    def kill() -> None:
        wait_until(lambda: any("/files/" in one for one in index.requests), "the build is under way")
        own.kill()
        index.open.set()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(TargetUnavailable) as caught:
        images.environment_image(own.socket, base, lock, tell=silent)
    thread.join()
    assert caught.value.code == "engine.unavailable"
    own.start()
    made = images.environment_image(own.socket, base, lock, tell=silent)
    assert in_image(own, made, "python", "-c", "import alpha; print(alpha.version)") == "1.0"
    wait_until(lambda: not own_containers(own), "the container is gone")
    own.docker("image", "rm", "--force", made)
