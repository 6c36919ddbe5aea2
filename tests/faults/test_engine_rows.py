"""Runs in containers, and what happens to their engine, their image and themselves meanwhile."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aml_jupyter import experiment, runs
from aml_jupyter.experiment import Request
from aml_jupyter.runs import Record
from tests.container_runs import (
    BOTH,
    COMPUTE,
    COUNTING,
    FOR_SOME_SECONDS,
    FOREVER,
    assert_no_gap,
    container_of,
    ended,
    hint,
    kept,
    let_end,
    message,
    project_in,
    run,
    states,
    submit,
    swept,
    wait_for,
)
from tests.engines import BASE_IMAGE, PrivateEngine
from tests.other_user import OtherUser
from tests.requirements import need
from tests.terminal import aml, data, until

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.root]


@pytest.fixture
def project(
    tmp_path: Path, home: str, private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> Path:
    return project_in(tmp_path, monkeypatch)


# --- D1: no engine ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_D1_an_engine_that_is_down_is_named_before_anything_is_prepared(
    project: Path, private_engine: PrivateEngine, how: str
) -> None:
    (private_engine.stop if how == "stopped" else private_engine.kill)()
    directory = submit(project, "print(1)")
    record = ended(directory, "Failed", "engine.unavailable")
    assert private_engine.socket in message(record)
    assert "Start Docker" in hint(record)
    assert set(states(directory)) <= {"Preparing", "Failed"}
    # the snapshot is kept: the same run can be repeated when the engine is back
    private_engine.start()
    again = experiment.submit(Request(script="script.py", target="docker", from_run=directory.run_id))
    ended(again, "Completed")


def test_D1_the_command_says_in_one_line_what_to_do(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "script.py").write_text("")
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/docker.sock")
    done = aml("run", "docker", "script.py")
    assert done.returncode == 125
    assert "/no/such/docker.sock does not answer: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_D1_a_user_without_permission_is_told_which_group_to_join(
    private_engine: PrivateEngine, other_user: OtherUser
) -> None:
    other_user.write("project/aml_config/docker.compute", COMPUTE.format(BASE_IMAGE, "true"))
    other_user.write("project/script.py", "print('hello')")
    done = other_user.aml("run", "docker", "script.py", cwd="project", DOCKER_HOST=private_engine.host)
    assert done.returncode == 125
    assert "Permission denied" in done.stderr
    assert "usermod -aG docker" in done.stderr


# --- D2, D3: images -----------------------------------------------------------------------------------------


def test_D2_an_image_that_cannot_be_had_is_named_with_what_brings_it(
    project: Path, private_engine: PrivateEngine
) -> None:
    for pull in ("missing", "never"):
        record = run(project, "", resources={"image": "localhost:9/nosuch:image", "pull": pull})
        assert (record.status, record.reason) == ("Failed", "image.missing")
        assert "localhost:9/nosuch:image" in message(record)
        assert "docker pull localhost:9/nosuch:image" in hint(record)
        assert "aml config set image.localhost:9/nosuch:image" in hint(record)
    assert private_engine.containers() == []


@BOTH
@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"network": "nosuch"}, "network nosuch not found"),
        ({"gpus": "all"}, "device driver"),
        ({"image": "no-python"}, "no Python"),
    ],
)
def test_D3_what_cannot_be_started_leaves_no_container(
    project: Path, private_engine: PrivateEngine, target: str, resources: dict[str, str], said: str
) -> None:
    if "image" in resources:
        private_engine.docker("run", "--name", "bare", BASE_IMAGE, "sh", "-c", "rm /usr/bin/python3*")
        private_engine.docker("commit", "bare", "no-python")
        private_engine.docker("rm", "bare")
    record = run(project, "print(1)", target, resources=resources)
    assert record.status == "Failed"
    assert said in message(record)
    assert hint(record)
    assert private_engine.containers() == []
    if "image" in resources:
        private_engine.docker("image", "rm", "no-python")


# --- D4: endings --------------------------------------------------------------------------------------------

EATER = "x = [bytearray(1 << 20) for _ in range(300)]"


@BOTH
def test_D4_the_exit_code_of_the_script_is_that_of_the_run(project: Path, target: str) -> None:
    record = run(project, "open('outputs/x', 'w'); import sys; sys.exit(7)", target)
    assert (record.status, record.reason, record.exit_code) == ("Failed", "run.exit_nonzero", 7)
    assert record.artifacts == 1


def test_D4_a_script_that_ignores_the_request_is_killed_after_its_grace(project: Path) -> None:
    source = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOREVER
    directory = submit(project, source)
    wait_for(directory, "up")
    assert aml("stop", directory.run_id).returncode == 0
    record = ended(directory, "Canceled", "canceled")
    assert record.signal == signal.SIGKILL
    assert record.artifacts == 1


@BOTH
def test_D4_a_script_that_is_killed_for_memory_says_so(project: Path, target: str) -> None:
    record = run(project, EATER, target, resources={"memory": 64 << 20})
    assert (record.status, record.reason, record.signal) == ("Failed", "run.oom", signal.SIGKILL)
    assert "64 MiB" in message(record)


def test_D4_a_child_that_is_killed_for_memory_is_a_warning(project: Path) -> None:
    source = f"import subprocess, sys; print(subprocess.run([sys.executable, '-c', {EATER!r}]).returncode)"
    record = run(project, source, resources={"memory": 64 << 20})
    assert record.status == "Completed"
    assert any("lack of memory" in warning for warning in record.warnings), record.warnings


# --- D5, D6: the engine goes and comes ----------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_D5_an_engine_that_ends_its_containers_is_named_as_the_cause(
    project: Path, private_engine: PrivateEngine, how: str, target: str
) -> None:
    directory = submit(project, COUNTING, target)
    wait_for(directory, "line 5")
    if how == "stopped":
        private_engine.stop()
    else:
        private_engine.kill()
        # nobody has ended it yet
        assert runs.read_record(directory).status == "Running"
    private_engine.start()
    record = ended(directory, "Failed", "run.engine_restarted")
    assert "live-restore" in message(record)
    assert_no_gap(directory, to_the_end=False)
    swept(directory)


@BOTH
def test_D5_D6_a_run_outlives_its_engine_and_its_log_has_no_gap(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    project = project_in(tmp_path, monkeypatch)
    with PrivateEngine(live_restore=True) as engine:
        engine.load_base()
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        directory = submit(project, FOR_SOME_SECONDS, target)
        wait_for(directory, "line 5")
        engine.kill()
        engine.start()
        wait_for(directory, "line 60")
        engine.restart()
        assert runs.read_record(directory).status == "Running"
        followed = aml("attach", directory.run_id)
        ended(directory, "Completed")
        assert followed.stdout == Path(directory.log).read_text()
        assert_no_gap(directory)
        assert kept(directory) == ["result"]
        assert engine.containers() == []


@BOTH
def test_D5_D6_a_run_that_ends_while_its_engine_is_down_is_taken_in_when_it_is_back(
    project: Path, private_engine: PrivateEngine, target: str
) -> None:
    directory = submit(project, FOR_SOME_SECONDS, target)
    wait_for(directory, "line 5")
    private_engine.kill()
    until(lambda: os.path.exists(directory.exit_json))
    if target == "copied":
        # its outputs are in a container that nobody can reach now
        until(lambda: "NotResponding" in states(directory))
        private_engine.start()
    ended(directory, "Completed")
    assert_no_gap(directory)
    assert kept(directory) == ["result"]
    if target == "docker":
        private_engine.start()
    swept(directory)


# --- D7: others do something to the container ---------------------------------------------------------------


def test_D7_a_container_that_was_removed_leaves_its_mounted_outputs(
    project: Path, private_engine: PrivateEngine
) -> None:
    directory = submit(project, FOREVER)
    wait_for(directory, "up")
    private_engine.docker("rm", "--force", container_of(private_engine, directory))
    record = ended(directory, "Failed", "run.lost")
    assert "container was" in message(record)
    assert kept(directory) == ["result"]


def test_D7_a_container_that_was_removed_with_its_copy_is_told_with_the_loss(
    project: Path, private_engine: PrivateEngine
) -> None:
    directory = submit(project, FOREVER, "copied")
    wait_for(directory, "up")
    private_engine.docker("rm", "--force", container_of(private_engine, directory))
    record = ended(directory, "Failed", "run.lost")
    assert record.artifacts_state == "failed"
    assert any("the container was removed" in warning for warning in record.warnings)
    assert "up" in Path(directory.log).read_text()


def test_D7_a_paused_container_is_told_and_goes_on(project: Path, private_engine: PrivateEngine) -> None:
    directory = submit(project, COUNTING)
    wait_for(directory, "line 5")
    container = container_of(private_engine, directory)
    private_engine.docker("pause", container)
    until(lambda: runs.read_record(directory).reason == "container.paused")
    private_engine.docker("unpause", container)
    until(lambda: runs.read_record(directory).status == "Running")
    let_end(directory)
    ended(directory, "Completed")
    assert_no_gap(directory)


@BOTH
def test_D7_a_paused_container_can_be_canceled(
    project: Path, private_engine: PrivateEngine, target: str
) -> None:
    directory = submit(project, FOREVER, target)
    wait_for(directory, "up")
    private_engine.docker("pause", container_of(private_engine, directory))
    assert aml("stop", directory.run_id).returncode == 0
    ended(directory, "Canceled", "canceled")
    assert kept(directory) == ["result"]


@BOTH
def test_D7_a_container_that_was_stopped_by_hand_ends_as_canceled_with_its_outputs(
    project: Path, private_engine: PrivateEngine, target: str
) -> None:
    directory = submit(project, FOREVER, target)
    wait_for(directory, "up")
    private_engine.docker("stop", container_of(private_engine, directory))
    ended(directory, "Canceled", "canceled")
    assert kept(directory) == ["result"]


@BOTH
@pytest.mark.parametrize("command", ["rename", "prune"])
def test_D7_renaming_and_pruning_do_not_disturb_a_run(
    project: Path, private_engine: PrivateEngine, target: str, command: str
) -> None:
    directory = submit(project, FOR_SOME_SECONDS, target)
    wait_for(directory, "line 5")
    if command == "rename":
        private_engine.docker("rename", container_of(private_engine, directory), "another-name")
    else:
        private_engine.docker("system", "prune", "--force", "--volumes")
    ended(directory, "Completed")
    assert_no_gap(directory)
    assert kept(directory) == ["result"]
    assert private_engine.containers() == []


def test_D7_an_image_that_is_removed_while_a_run_uses_it_is_missed_by_the_next_one_only(
    project: Path, private_engine: PrivateEngine
) -> None:
    private_engine.docker("tag", BASE_IMAGE, "removed-soon:1")
    directory = submit(project, COUNTING, resources={"image": "removed-soon:1", "pull": "never"})
    wait_for(directory, "line 5")
    private_engine.docker("image", "rm", "--force", "removed-soon:1")
    let_end(directory)
    ended(directory, "Completed")
    record = run(project, "", resources={"image": "removed-soon:1", "pull": "never"})
    assert record.reason == "image.missing"


# --- D8: what stands between engine and container -----------------------------------------------------------


@BOTH
def test_D8_a_killed_containerd_is_not_noticed(
    project: Path, private_engine: PrivateEngine, target: str
) -> None:
    directory = submit(project, FOR_SOME_SECONDS, target)
    wait_for(directory, "line 5")
    for pid in private_engine.processes("containerd"):
        os.kill(pid, signal.SIGKILL)
    ended(directory, "Completed")
    assert_no_gap(directory)
    assert kept(directory) == ["result"]


def test_D8_a_killed_shim_ends_the_run_and_leaves_no_process(
    project: Path, private_engine: PrivateEngine
) -> None:
    directory = submit(project, FOREVER)
    wait_for(directory, "up")
    assert private_engine.container_processes()
    for pid in private_engine.processes("containerd-shim-runc-v2"):
        os.kill(pid, signal.SIGKILL)
    record = ended(directory, "Failed", "run.lost")
    assert "ended from outside" in message(record)
    assert kept(directory) == ["result"]
    until(lambda: not private_engine.container_processes())


# --- D9: no space in the engine -----------------------------------------------------------------------------


@BOTH
def test_D9_a_full_disk_of_the_engine_is_not_taken_for_a_bad_image(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    project = project_in(tmp_path, monkeypatch)
    with PrivateEngine(disk=400 << 20) as engine:
        engine.load_base()
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        # the image is looked into while there is room
        assert run(project, "print(1)", target).status == "Completed"
        fill(engine.data / "ballast")
        (project / "data").write_bytes(os.urandom(1 << 20))
        record = run(project, "open('/azureml-run/big', 'wb').write(b'x' * 1000)", target)
        assert (record.status, record.reason) == ("Failed", "store.no_space"), record.error
        assert "no space left" in message(record)
        assert hint(record)
        (engine.data / "ballast").unlink()
        assert engine.containers() == []
        assert run(project, "print(1)", target).status == "Completed"


def fill(path: Path) -> None:
    """Take the last byte of a disk."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


# --- D10: whose the files are -------------------------------------------------------------------------------

WRITER = """
import os, sys
for folder in (".", "outputs", *sys.argv[1:]):
    os.makedirs(f"{folder}/made/below", exist_ok=True)
    open(f"{folder}/made/below/file", "w").write("whole")
print(os.getuid(), os.getgid(), os.path.expanduser("~"))
"""


@BOTH
def test_D10_files_of_a_run_belong_to_the_user_who_submitted_it(
    private_engine: PrivateEngine, docker_user: OtherUser, target: str
) -> None:
    shared = "true" if target == "docker" else "false"
    docker_user.write("project/aml_config/docker.compute", COMPUTE.format(BASE_IMAGE, shared))
    docker_user.write("project/script.py", WRITER)
    share = ["/azureml-share"] if target == "docker" else []
    command = ["run", "docker", "script.py", *share]
    done = docker_user.aml(*command, cwd="project", DOCKER_HOST=private_engine.host)
    assert (done.returncode, done.stdout) == (0, f"{docker_user.uid} {docker_user.uid} /tmp\n"), done.stderr
    paths = [docker_user.home, *docker_user.home.rglob("*")]
    assert {path.lstat().st_uid for path in paths} == {docker_user.uid}
    written = [path for path in paths if path.match("made/below/file")]
    # of the working copy, of the artifacts, and of the share where there is one
    assert len(written) == 2 + len(share)
    removed = docker_user.run("sh", "-c", "rm -r .azureml project")
    assert removed.returncode == 0, removed.stderr


# --- D15: clocks --------------------------------------------------------------------------------------------


def test_D15_the_zone_of_a_container_is_its_own_matter(project: Path) -> None:
    before = datetime.now(UTC)
    record = run(project, "import time; print(time.tzname)", environment={"TZ": "Asia/Tokyo"})
    assert record.status == "Completed"
    assert within(record, before)


@pytest.mark.parametrize("days", ["+400d", "-400d"])
def test_D15_a_wrong_clock_in_the_container_does_not_enter_the_history(
    project: Path, private_engine: PrivateEngine, days: str
) -> None:
    need("faketime")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    private_engine.docker("create", "--name", "skewed", BASE_IMAGE)
    private_engine.docker("cp", str(library), "skewed:/usr/lib/libfaketime.so.1")
    variables = f"ENV LD_PRELOAD=/usr/lib/libfaketime.so.1 FAKETIME={days}"
    private_engine.docker("commit", "--change", variables, "skewed", "skewed:1")
    private_engine.docker("rm", "skewed")
    before = datetime.now(UTC)
    record = run(project, "import datetime; print(datetime.date.today())", resources={"image": "skewed:1"})
    private_engine.docker("image", "rm", "--force", "skewed:1")
    assert record.status == "Completed"
    assert within(record, before)
    assert record.duration is not None
    assert 0 <= record.duration < 60
    assert any("clock" in warning for warning in record.warnings), record.warnings
    (row,) = data("runs")
    assert row["start_time_utc"] == record.start_time_utc


def within(record: Record, before: datetime) -> bool:
    """Whether a run began and ended between a moment and now."""
    assert record.start_time_utc is not None
    assert record.end_time_utc is not None
    began, end = map(datetime.fromisoformat, (record.start_time_utc, record.end_time_utc))
    return before <= began <= end <= datetime.now(UTC)


@pytest.mark.slow
def test_D7_a_run_whose_outputs_are_gone_with_its_container_did_not_complete(
    private_engine: PrivateEngine, tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the working copy is in the container, its outputs are as well: until they are brought."""
    project = project_in(tmp_path, monkeypatch)
    directory = submit(project, FOREVER.replace("time.sleep(600)", "time.sleep(1)"), "copied")
    until(lambda: Path(directory.log).exists() and Path(directory.log).read_bytes())
    os.kill(runs.supervisor_identity(directory)["pid"], signal.SIGKILL)  # type: ignore[index]
    until(lambda: Path(directory.exit_json).exists())
    private_engine.remove_containers()
    record = experiment.wait(directory, 60)
    assert (record.status, record.reason) == ("Failed", "run.outputs_lost")
    assert record.artifacts_state == "failed"
