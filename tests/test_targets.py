"""Looking whether a target works, and taking away what runs left in an engine."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from aml_jupyter import processes, trial
from aml_jupyter.executors.docker import leftovers, machine
from aml_jupyter.executors.docker.engine import Engine as OurEngine
from tests import engines
from tests.base_image import BASE_IMAGE
from tests.configuration import project_with
from tests.engines import Engine
from tests.requirements import need
from tests.sshd import Sshd, make_key
from tests.terminal import aml, data, terminal

DOCKER = (
    "type: docker\nbaseDockerImage: aml-test-base:bookworm\nsharedVolumes: true\n"
    "nativeSharedDirectory: ~/.azureml/share/\n"
)


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = Path(project_with(tmp_path, {"docker.compute": DOCKER}).root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def docker(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    return engine


def checks(*words: str, status: int = 0) -> dict[str, tuple[bool | None, str, str]]:
    """What a test found, by name."""
    found = data("targets", "test", *words, status=status)
    assert found["ok"] is (status == 0)
    return {one["name"]: (one["ok"], one["message"], one["fix"]) for one in found["checks"]}


# --- test ---------------------------------------------------------------------------------------------------


def test_this_computer_is_looked_at(project: Path) -> None:
    found = checks("local")
    assert found["python"][1] == f"{sys.executable} is Python {sys.version.split()[0]}"
    assert [name for name, (ok, _, _) in found.items() if ok] == ["python", "share", "AML_HOME"]


def test_a_python_that_is_none_is_told_with_what_mends_it(project: Path) -> None:
    python = project / "python"
    python.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    python.chmod(0o755)
    check = trial.interpreter(str(python))
    assert (check.ok, check.message) == (False, f"{python} ended with 3: broken")
    assert "pythonLocation" in check.fix
    assert trial.interpreter("/nosuch").ok is False


def test_a_share_that_cannot_be_made_fails(project: Path) -> None:
    (project / "aml_config" / "local.compute").write_text(
        f"type: local\nnativeSharedDirectory: {project}/file/\n"
    )
    (project / "file").write_text("not a folder")
    found = checks("local", status=1)
    assert found["share"][0] is False


def test_clocks_and_disks_are_judged() -> None:
    assert trial.clock(3, "it").ok
    assert trial.clock(-60, "it").message == "it is 60 s behind this computer"
    assert "NTP" in trial.clock(60, "it").fix
    assert trial.space("disk", "/x", 1 << 40, 1 << 30, "").ok
    assert trial.space("disk", "/x", 1 << 20, 1 << 30, "do").fix == "do"


def test_an_engine_that_does_not_answer_is_told_with_what_mends_it(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nosuch.sock")
    found = checks("docker", status=1)
    assert found["engine"][0] is False
    assert "engine.unavailable" in found["engine"][1]
    assert "Start Docker" in found["engine"][2]
    assert found["AML_HOME"][0]
    shown = aml("targets", "test", "docker")
    assert shown.returncode == 1
    assert "FAILED  engine" in shown.stdout


def test_a_docker_target_is_looked_at_from_inside(project: Path, home: str, docker: Engine) -> None:
    found = checks("docker")
    order = ["AML_HOME", "engine", "image", "python", "job folder", "share", "disk of the engine", "clock"]
    assert list(found) == order
    assert all(ok for ok, _, _ in found.values())
    assert "is Python 3." in found["python"][1]
    assert f"user {os.getuid()}:{os.getgid()}" in found["share"][1]
    share = Path(home) / "share/local/default/iris"
    assert list(share.iterdir()) == []
    assert engines.leftovers(docker, [home], 0) == []
    assert not [name for name in os.listdir(home) if name.startswith("trial-")]


def test_a_target_without_shared_volumes_says_why_it_has_no_share(project: Path, docker: Engine) -> None:
    path = project / "aml_config" / "docker.compute"
    path.write_text(DOCKER.replace("sharedVolumes: true\n", ""))
    found = checks("docker")
    assert found["share"][0] is None
    assert "sharedVolumes" in found["share"][1]


def test_an_image_that_cannot_be_had_is_told_with_what_mends_it(project: Path, docker: Engine) -> None:
    found = checks("docker", "--image", "localhost:1/nosuch:1", status=1)
    assert found["image"][0] is False
    assert "aml config set image.localhost:1/nosuch:1 OTHER" in found["image"][2]
    assert found["python"][0] is None
    # another image in its place
    data("config", "set", "image.localhost:1/nosuch:1", BASE_IMAGE)
    assert checks("docker", "--image", "localhost:1/nosuch:1")["python"][0]


def test_an_image_without_python_is_told_unless_the_environment_brings_one(
    project: Path, docker: Engine, tmp_path: Path
) -> None:
    name = f"aml-test-shell:{os.getpid()}"
    made = docker.docker("create", "--entrypoint", "sh", BASE_IMAGE, "-c", "rm -f /usr/bin/python3*")
    try:
        docker.docker("start", "--attach", made)
        docker.docker("commit", made, name)
        found = checks("docker", "--image", name, status=1)
        assert found["python"][:2] == (False, f"{name} has no Python")
        (project / "aml_config" / "conda_dependencies.yml").write_text("dependencies:\n- python=3.11\n")
        assert checks("docker", "--image", name)["python"][0]
    finally:
        docker.docker("rm", made)
        docker.docker("rmi", name, check=False)


def test_gpus_that_an_engine_lacks_fail_and_the_rest_is_looked_at(project: Path, docker: Engine) -> None:
    if "nvidia" in docker.docker("info", "--format", "{{.Runtimes}}"):
        pytest.skip("this engine has GPUs")
    (project / "aml_config" / "docker.compute").write_text(DOCKER + "nvidiaDocker: true\n")
    found = checks("docker", status=1)
    assert found["gpu"][0] is False
    assert "nvidiaDocker: false" in found["gpu"][2]
    assert found["python"][0]


# --- sweep --------------------------------------------------------------------------------------------------


class Maker:
    """Makes things in an engine as the executor does."""

    def __init__(self, engine: Engine, home: str) -> None:
        self.engine = engine
        self.labels = {"aml.made": "1", "aml.home": engines.home_mark(home)}

    def container(
        self, role: str, *, owner: int | None, run: str = "", start: bool = False, **more: str
    ) -> str:
        """A container of a role; `owner` is a pid, 0 for a process that is gone, None for none."""
        labels = {**self.labels, "aml.role": role, "aml.run": run, **self.owner(owner)}
        labels.update({f"aml.{name}": value for name, value in more.items()})
        words = [f"--label={name}={value}" for name, value in labels.items() if value]
        made = self.engine.docker("create", *words, BASE_IMAGE, "sleep", "600")
        if start:
            self.engine.docker("start", made)
        return made

    def volume(self, owner: int | None) -> str:
        """A volume that nothing mounts."""
        labels = {**self.labels, **self.owner(owner)}
        return self.engine.docker("volume", "create", *(f"--label={n}={v}" for n, v in labels.items()))

    @staticmethod
    def owner(pid: int | None) -> dict[str, str]:
        """The labels of a process."""
        if pid is None:
            return {}
        who = processes.identity(pid or os.getpid())
        return {
            "aml.owner": f"{who['pid']}.{who['start_time'] if pid else 1}.{who['boot_id']}",
            "aml.namespace": os.readlink("/proc/self/ns/pid"),
        }


@pytest.fixture
def maker(docker: Engine, home: str) -> Maker:
    return Maker(docker, home)


def a_second_later() -> None:
    """What was made in the second in which the runs were read is left alone: it may belong to a later one."""
    time.sleep(1.01)


def swept(
    maker: Maker, *, live: tuple[str, ...] = (), ended: tuple[str, ...] = (), dry_run: bool = False
) -> set[str]:
    found = leftovers.sweep(OurEngine(maker.engine.socket), live=live, ended=ended, dry_run=dry_run)
    return {one.id for one in found if not one.kept}


def test_what_no_living_run_and_no_living_process_needs_is_removed(maker: Maker, docker: Engine) -> None:
    gone, mine = 0, os.getpid()
    needed = {
        maker.container("run", owner=gone, run="r_1"),
        maker.container("run", owner=mine, run="r_2"),
        maker.container("run", owner=gone, run="r_9", start=True),
        maker.container("run", owner=gone, run="r_9"),
        maker.container("build", owner=mine),
        # of a process in another container, which nobody here can see
        maker.container("build", owner=gone, start=True, namespace="pid:[1]"),
        maker.container("warm", owner=None, start=True),
    }
    useless = {
        maker.container("run", owner=gone, run="r_2", start=True),
        maker.container("run", owner=gone, run="r_2"),
        maker.container("build", owner=gone, start=True),
        maker.container("probe", owner=gone),
        maker.container("warm", owner=None),
        maker.volume(gone),
        maker.volume(None),
    }
    kept_volume = maker.volume(mine)
    try:
        assert swept(maker, live=("r_1",), ended=("r_2",), dry_run=True) == useless
        there = {one["Id"] for one in docker.containers("label=aml.made=1")}
        assert there >= {one for one in useless if len(one) == 64 and one in there} | needed
        assert swept(maker, live=("r_1",), ended=("r_2",)) == useless
        there = {one["Id"] for one in docker.containers("label=aml.made=1")}
        assert needed <= there
        assert not useless & there
        assert swept(maker, live=("r_1",), ended=("r_2",)) == set()
        assert kept_volume in docker.docker("volume", "ls", "--quiet")
    finally:
        docker.docker("rm", "--force", *needed)
        docker.docker("volume", "rm", kept_volume)


def test_what_another_home_made_and_what_a_person_made_of_our_image_stay(
    maker: Maker, docker: Engine, tmp_path: Path
) -> None:
    other = Maker(docker, str(tmp_path / "other"))
    theirs = other.container("build", owner=0)
    name = f"aml-test-made:{os.getpid()}"
    built = maker.container("build", owner=0)
    docker.docker("commit", built, name)
    own = docker.docker("create", name, "sleep", "1")
    try:
        assert swept(maker) == {built}
        there = {one["Id"] for one in docker.containers()}
        assert {theirs, own} <= there
    finally:
        docker.docker("rm", theirs, own)
        docker.docker("rmi", name)


def test_images_go_when_nothing_used_them_for_long(maker: Maker, docker: Engine) -> None:
    made = maker.container("build", owner=0)
    name = f"aml-test-image:{os.getpid()}"
    docker.docker("commit", made, name)
    own = OurEngine(docker.socket)
    try:
        assert swept(maker) == {made}
        found = leftovers.sweep(own, live=(), ended=(), images_after=1.0, dry_run=True)
        assert found == []
        (image,) = leftovers.sweep(own, live=(), ended=(), images_after=0.0, dry_run=True)
        assert (image.kind, image.name) == ("image", name)
        later = {name: 2**40}
        assert leftovers.sweep(own, live=(), ended=(), images_after=0.0, used=later) == []
        holder = docker.docker("create", name, "true")
        assert leftovers.sweep(own, live=(), ended=(), images_after=0.0) == []
        docker.docker("rm", holder)
        (image,) = leftovers.sweep(own, live=(), ended=(), images_after=0.0)
        assert image.removed
        assert name not in docker.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
    finally:
        docker.docker("rmi", name, check=False)


def test_the_verb_tells_what_it_removes(project: Path, maker: Maker) -> None:
    made = maker.container("probe", owner=0)
    a_second_later()
    shown = aml("targets", "sweep", "--dry-run")
    assert "would be removed" in shown.stdout
    assert "whoever made it is gone" in shown.stdout
    (one,) = data("targets", "sweep", "docker")
    assert (one["id"], one["removed"], one["kind"]) == (made, True, "container")
    assert "Nothing is left over." in aml("targets", "sweep").stderr
    assert data("targets", "sweep", "local", status=2)["error"]["code"] == "config.invalid"


def test_a_run_of_this_history_is_known_by_the_verb(project: Path, maker: Maker) -> None:
    (project / "script.py").write_text("print(1)")
    run = data("run", "local", "script.py")["run_id"]
    made = maker.container("run", owner=0, run=run)
    (one,) = data("targets", "sweep")
    assert (one["id"], one["why"]) == (made, f"its run {run} has ended")


def test_what_was_made_while_runs_were_read_stays(maker: Maker) -> None:
    made = maker.container("build", owner=0)
    engine = OurEngine(maker.engine.socket)
    assert leftovers.sweep(engine, live=(), ended=(), began=time.time() - 5) == []
    # a run that has ended makes no more
    of_ended = maker.container("run", owner=0, run="iris_1")
    (gone,) = leftovers.sweep(engine, live=(), ended=("iris_1",), began=time.time() - 5)
    assert (gone.id, gone.removed) == (of_ended, True)
    assert swept(maker) == {made}


def test_a_container_that_waits_outlives_its_maker(maker: Maker, docker: Engine) -> None:
    maker.labels["aml.slot"] = "a1b2"
    made = maker.container("warm", owner=0, start=True)
    engine = OurEngine(maker.engine.socket)
    assert leftovers.sweep(engine, live=(), ended=(), slots=("a1b2",)) == []
    assert swept(maker) == {made}


def test_an_engine_that_does_not_answer_is_told_and_is_the_exit_status(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nosuch.sock")
    done = aml("targets", "sweep")
    assert done.returncode == 125
    assert "engine.unavailable" in done.stderr


def test_a_process_that_ends_gives_up_what_it_made(maker: Maker, docker: Engine) -> None:
    owner = subprocess.Popen(["sleep", "600"])
    try:
        made = maker.container("build", owner=owner.pid)
        assert swept(maker) == set()
    finally:
        owner.kill()
        owner.wait()
    assert swept(maker) == {made}


def test_a_target_is_kept_warm_and_no_longer(project: Path, home: str, docker: Engine) -> None:
    assert data("targets", "warm") == []
    assert data("targets", "warm", "docker", "--idle", "10m") == {"target": "docker", "warm": True}
    try:
        (kept,) = data("targets", "warm")
        assert (kept["target"], kept["idle"], kept["waiting"]) == ("docker", 600.0, True)
        assert "waits for another" in aml("targets", "warm").stdout
        a_second_later()
        # the command that made it has ended, and it is needed all the same
        assert data("targets", "sweep") == []
    finally:
        assert "kept warm no longer" in aml("targets", "warm", "docker", "--off").stderr
    assert data("targets", "warm") == []
    assert engines.leftovers(docker, [home], 5) == []
    assert "was not kept warm" in aml("targets", "warm", "docker", "--off").stderr
    assert data("targets", "warm", "--off", status=2)["error"]["code"] == "usage"
    assert data("targets", "warm", "local", status=2)["error"]["code"] == "target.not_warmable"


# --- listing ------------------------------------------------------------------------------------------------


def test_targets_are_listed_with_and_without_the_word(project: Path) -> None:
    for words in (["targets"], ["targets", "ls"], ["computetarget", "list"]):
        assert [one["name"] for one in data(*words)["targets"]] == ["docker", "local"]
    elsewhere = project.parent
    assert len(data("targets", "--project", str(project), cwd=elsewhere)["targets"]) == 2
    assert len(data("targets", "ls", "--project", str(project), cwd=elsewhere)["targets"]) == 2


# --- machines reached by ssh --------------------------------------------------------------------------------

REMOTE = "type: remotedocker\naddress: 127.0.0.1:{port}\nusername: {user}\nsharedVolumes: true\n"


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    (tmp_path / "login").mkdir()
    with Sshd(SetEnv=f"HOME={tmp_path}/login") as server:
        yield server


def told(checks: Iterable[trial.Check]) -> dict[str, bool | None]:
    return {check.name: check.ok for check in checks}


def test_a_machine_is_looked_at_step_by_step(sshd: Sshd, tmp_path: Path) -> None:
    share = tmp_path / "share"
    found = told(machine.machine(sshd.connect(tmp_path / "c"), str(share)))
    assert list(found) == ["host key", "login", "home there", "disk there", "share there", "clock there"]
    assert all(found.values())
    assert share.is_dir()
    assert list(share.iterdir()) == []


def test_a_remote_target_is_looked_at_from_the_machine_to_the_container(
    project: Path, docker: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    # the home of the login is the test's own
    with Sshd(SetEnv=f"HOME={there}") as sshd:
        monkeypatch.setenv("AML_SSH_OPTIONS", " ".join(sshd.options))
        (project / "aml_config" / "box.compute").write_text(
            REMOTE.format(port=sshd.port, user=getpass.getuser())
            + f"privateKey: {sshd.user_key}\ndockerHost: {docker.host}\nbaseDockerImage: {BASE_IMAGE}\n"
            "nativeSharedDirectory: ~/.azureml/share/\n"
        )
        found = checks("box")
        assert list(found) == [
            *("AML_HOME", "host key", "login", "home there", "disk there", "share there", "clock there"),
            *("engine", "image", "python", "job folder", "share", "disk of the engine", "clock"),
        ]
        assert all(ok for ok, _, _ in found.values())
        assert found["share"][1].startswith(f"{there}/.azureml/share/local/default/iris")
        assert data("targets", "sweep", "box") == []
    assert not [name for name in os.listdir(there / ".azureml") if name.startswith("trial-")]


def test_the_step_that_fails_on_a_machine_is_named(sshd: Sshd, tmp_path: Path) -> None:
    sshd.write_known_hosts(make_key(tmp_path / "other").with_suffix(".pub").read_text())
    *before, last = machine.machine(sshd.connect(tmp_path / "a"), None)
    assert not before
    assert (last.name, last.ok) == ("host key", False)
    assert "aml targets trust box --replace" in last.fix
    sshd.write_known_hosts()
    *before, last = machine.machine(sshd.connect(tmp_path / "b", identity=None), None)
    assert told(before) == {"host key": True}
    assert (last.name, last.ok) == ("login", False)
    sshd.stop()
    (only,) = machine.machine(sshd.connect(tmp_path / "d"), None)
    assert (only.name, only.ok) == ("connection", False)


def test_a_share_that_a_login_cannot_write_fails(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = {one.name: one for one in machine.machine(sshd.connect(tmp_path / "c"), f"{tmp_path}/file/share")}
    assert found["share there"].ok is False
    assert found["share there"].fix


def test_a_scratch_folder_is_made_there_and_taken_away(sshd: Sshd, tmp_path: Path) -> None:
    with machine.Scratch(sshd.connect(tmp_path / "c")) as folder:
        assert os.listdir(folder) == ["here"]
    assert not os.path.exists(folder)


@pytest.fixture
def known(project: Path, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The known hosts of ssh, which asks nobody but the system where its user's home is."""
    (project / "aml_config" / "box.compute").write_text(REMOTE.format(port=sshd.port, user="x"))
    path = tmp_path / "known_hosts"
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "ssh"
    (tmp_path / "config").write_text(f"UserKnownHostsFile {path}\nGlobalKnownHostsFile none\n")
    wrapper.write_text(f'#!/bin/sh\nexec {need("ssh")} -F {tmp_path}/config "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return path


def test_a_host_key_is_shown_and_written_down_when_a_person_agrees(
    project: Path, sshd: Sshd, known: Path
) -> None:
    refused = data("targets", "trust", "box", status=2)
    assert "--yes" in refused["error"]["hint"]
    assert not known.exists()
    for answer, status in ((b"n", 1), (b"", 1), (b"y", 0)):
        assert not known.exists()
        with terminal("targets", "trust", "box", cwd=project) as shown:
            shown.expect(b"[y/N]")
            shown.send(answer + b"\n")
            assert shown.end() == status
        assert b"SHA256:" in shown.screen
    public = sshd.host_key.with_suffix(".pub").read_text().split()[1]
    assert public in known.read_text()
    (key,) = data("targets", "trust", "box", "--yes")["keys"]
    assert key["new"] is False
    assert data("targets", "trust", "local", "--yes", status=2)["error"]["code"] == "config.invalid"


def test_a_changed_host_key_needs_another_word(project: Path, sshd: Sshd, known: Path) -> None:
    other = make_key(project / "other").with_suffix(".pub").read_text()
    known.write_text(f"{sshd.known_name} {other}")
    refused = data("targets", "trust", "box", "--yes", status=125)
    assert refused["error"]["code"] == "target.hostkey_changed"
    assert data("targets", "trust", "box", "--yes", "--replace")["keys"][0]["new"]
    assert other.split()[1] not in known.read_text()


def test_a_machine_whose_key_is_not_known_fails_its_test_with_the_command_to_run(
    project: Path, known: Path
) -> None:
    found = checks("box", status=1)
    assert found["host key"][0] is False
    assert "aml targets trust box" in found["host key"][2]


def test_what_runs_left_on_a_machine_is_removed_there(sshd: Sshd, tmp_path: Path) -> None:
    connection = sshd.connect(tmp_path / "c")
    there = tmp_path / "login"
    for name in ("runs/aml-r_1-aa/job", "runs/aml-r_2-bb/job", "objects/ab", "objects/cd"):
        (there / ".azureml/remote" / name).mkdir(parents=True)
    old, new = there / ".azureml/remote/objects/ab/abc", there / ".azureml/remote/objects/cd/cde"
    for path in (old, new, there / ".azureml/remote/runs/aml-r_1-aa/job/log"):
        path.write_text("x" * 100)
    os.utime(old, (0, 0))
    for dry_run in (True, False):
        found = machine.sweep(connection, {"aml-r_1-aa", "aml-r_9-zz"}, 30.0, dry_run=dry_run)
        assert [(one.kind, one.removed) for one in found] == [("folder", not dry_run), ("files", not dry_run)]
        assert found[1].bytes == 100
        assert old.exists() is dry_run
    assert new.exists()
    assert sorted(os.listdir(there / ".azureml/remote/runs")) == ["aml-r_2-bb"]
    assert machine.sweep(connection, {"aml-r_1-aa"}, 30.0, dry_run=False) == []
