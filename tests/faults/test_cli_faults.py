"""Secrets, other users, hostile projects, full disks and two who clean up: through the whole path."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter import experiment, retention, runs
from aml_jupyter.config import find_project
from aml_jupyter.experiment import Request
from aml_jupyter.runs import RunDirectory
from aml_jupyter.snapshot import Rules, Store
from tests.requirements import need
from tests.terminal import AML, aml, data, detached, environment, until

pytestmark = pytest.mark.faults


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "hello.py").write_text("print('hello')")
    monkeypatch.chdir(folder)
    return folder


def files(folder: str | Path) -> Iterator[Path]:
    return (path for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink())


def holding(folder: str | Path, text: str) -> list[str]:
    """The files and names below a folder that hold a text."""
    wanted = text.encode()
    named = [str(path) for path in Path(folder).rglob("*") if text in path.name]
    return named + [str(path) for path in files(folder) if wanted in path.read_bytes()]


# --- secrets ------------------------------------------------------------------------------------------------

SECRETS = {f"PLANTED_{number}": f"hush-{number:02}-{'x' * 20}" for number in range(50)}
CHECKS = """
import hashlib, os, sys
found = "".join(os.environ[f"PLANTED_{n}"] for n in range(50))
print(hashlib.sha256(found.encode()).hexdigest())
"""


def test_X2_N16_Z5_fifty_secrets_reach_the_script_and_are_written_nowhere(
    project: Path, home: str, tmp_path: Path
) -> None:
    import hashlib

    names = list(SECRETS)
    (project / "script.py").write_text(CHECKS)
    listed = tmp_path / "secret.env"
    listed.write_text("# kept\n" + "".join(f"export {name}='{SECRETS[name]}'\n" for name in names[:20]))
    words = [word for name in names[20:40] for word in ("-e", f"{name}={SECRETS[name]}")]
    words += [word for name in names[40:] for word in ("-e", name)]
    own = {name: SECRETS[name] for name in names[40:]}
    done = aml("run", "local", "script.py", "--env-file", str(listed), *words, env=own)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hashlib.sha256("".join(SECRETS.values()).encode()).hexdigest()
    assert not any(value in done.stderr for value in SECRETS.values())
    record = data("show")
    assert set(record["environment_secret"]) == set(names)
    for value in SECRETS.values():
        assert holding(home, value) == []
        assert value not in json.dumps(record)


def test_N16_a_run_that_lost_its_secrets_says_what_it_needs_and_gets_it(project: Path, home: str) -> None:
    (project / "script.py").write_text("import os; print(os.environ['TOKEN'])")
    directory = experiment.write(experiment.plan(Request(script="script.py", secrets={"TOKEN": "hush-hush"})))
    # its supervisor died before it began
    age(directory.path, 60)
    assert data("resume") == {directory.run_id: True}
    until(lambda: data("show")["reason"] == "secret.needed")
    assert data("show")["status"] == "NotResponding"
    assert "TOKEN" in Path(directory.control_log).read_text()
    # who waits is told as well, instead of waiting for ever
    done = aml("wait", "--timeout", "5", directory.run_id)
    assert done.returncode != 0
    assert data("resume", "-e", "TOKEN=hush-hush", directory.run_id) == {directory.run_id: True}
    assert aml("attach", directory.run_id).stdout == "***\n"
    assert holding(home, "hush-hush") == []


def test_Z5_secrets_are_not_taken_where_others_can_read_them(project: Path) -> None:
    done = aml(
        "computetarget", "attach", "remote", "-n", "far", "-a", "far.example", "--set", "password=hush"
    )
    assert done.returncode == 2
    assert "a password is not given on a command line" in done.stderr
    assert not (project / "aml_config").exists()
    told = aml("run", "local", "hello.py", "--", "--api-key=hush").stderr
    assert "arguments are kept with the run, --api-key as well" in told
    assert "hush" not in told


def test_a_damaged_list_of_variables_is_told_without_its_content(project: Path) -> None:
    (project / "bad.env").write_text("GOOD=1\nhush-hush\n")
    done = aml("run", "local", "hello.py", "--env-file", "bad.env")
    assert done.returncode == 2
    assert "bad.env:2" in done.stderr
    assert "hush" not in done.stderr
    for text in ("-e", "=x"), ("-e", "NOT_SET_ANYWHERE"), ("--env-file", "nosuch"), ("--env-file", "."):
        assert aml("run", "local", "hello.py", *text).returncode == 2


# --- other users --------------------------------------------------------------------------------------------


def test_X1_everything_is_the_users_alone_whatever_the_umask(project: Path, home: str) -> None:
    (project / "script.py").write_text(
        "import os\nopen('outputs/kept', 'w').write('x')\n"
        "open(os.environ['AZUREML_NATIVE_SHARE_DIRECTORY'] + 'shared', 'w').write('x')\n"
    )
    lines = [
        "run local script.py --name first --tag a", "runs", "tag first b", "check", "gc", "ls first",
        "share put hello.py", "snapshot", "get first -d ../got", "rescue first hello.py", "targets",
    ]  # fmt: skip
    command = " && ".join(" ".join([*AML, line]) for line in lines)
    done = subprocess.run(
        ["bash", "-c", f"umask 000; {command}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    open_to_others = []
    for path in [Path(home), *Path(home).rglob("*")]:
        below = path.relative_to(home).parts
        # below closed folders the working copy has the project's own modes, the share what scripts gave it
        inside_copy = len(below) > 6 and below[0] == "runs" and below[5] == "work"
        if path.is_symlink() or inside_copy or below[-1:] == ("shared",):
            continue
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            open_to_others.append(f"{oct(stat.S_IMODE(path.stat().st_mode))} {'/'.join(below)}")
    assert open_to_others == []


@pytest.mark.root
def test_X1_another_user_can_neither_read_nor_write(project: Path, home: str, tmp_path: Path) -> None:
    need("root")
    setpriv = need("setpriv")
    run = detached("hello.py")
    aml("wait", run)
    # all that leads there is open
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder) not in ("/", "/tmp"):
            folder.chmod(0o755)
    other = [setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    for command in (["ls", home], ["cat", f"{home}/index.sqlite"], ["touch", f"{home}/x"]):
        done = subprocess.run([*other, *command], capture_output=True, text=True)
        assert done.returncode != 0
        assert "Permission denied" in done.stderr


# --- hostile projects ---------------------------------------------------------------------------------------


def test_X6_a_hostile_project_executes_nothing_when_it_is_looked_at(project: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    touch = f"__import__('os').system('touch {proof}')"
    config = project / "aml_config"
    config.mkdir()
    (config / "evil.compute").write_text(f"type: !!python/object/apply:os.system ['touch {proof}']\n")
    (config / "bomb.compute").write_text("a: &a [x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)},*{chr(97 + i)}]\n" for i in range(25)))  # fmt: skip
    (config / "evil.runconfig").write_text("ArgumentVector: [$(touch x), `touch y`]\nTarget: ../../etc\n")
    (config / "\x1b]0;x\x07\n-rf.compute").write_text("type: local\n")
    (project / ".azureml").mkdir()
    for name in (
        "sitecustomize.py",
        "usercustomize.py",
        "aml_jupyter.py",
        "json.py",
        "conftest.py",
        "yaml.py",
    ):
        (project / name).write_text(f"{touch}\n")
    (project / "setup.cfg").write_text("[aml]\n")
    (project / "x.pth").write_text(f"import os; {touch}\n")
    (project / ".git/hooks").mkdir(parents=True)
    (project / ".git/config").write_text(
        f"[core]\n\trepositoryformatversion = 0\n\tfsmonitor = touch {proof}\n\tpager = touch {proof}\n"
        f'[diff]\n\texternal = touch {proof}\n[filter "x"]\n\tclean = touch {proof}\n'
    )
    (project / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (project / ".git/objects").mkdir()
    (project / ".git/refs").mkdir()
    (project / ".gitattributes").write_text("* filter=x diff=x\n")
    (project / "$(touch x)").write_text("x")
    for line in (
        ["targets"], ["targets", "--json"], ["config"], ["runs"], ["snapshot", "--dry-run"], ["snapshot"],
        ["runconfiguration", "list"], ["share", "ls"], ["check"], ["gc"],
        ["run", "--dry-run", "local", "hello.py"],
        ["run", "evil", "hello.py"], ["run", "-t", "bomb", "local", "hello.py"],
        ["share", "ls", "-c", "evil"],
    ):  # fmt: skip
        done = aml(*line)
        assert "Traceback" not in done.stderr, (line, done.stderr)
        assert "\x1b" not in done.stdout + done.stderr, line
        assert not proof.exists(), line
        assert not (project / "x").exists()


def test_X6_a_hostile_scope_never_leads_out_of_the_store(project: Path, home: str) -> None:
    (project / ".azureml").mkdir()
    for name in ("..", "../../../x", "/etc", "a/b", "\x1b[2J", "x" * 5000, "", "CON", "-rf"):
        scope = {"Id": "1", "Scope": f"/subscriptions/s/accounts/a/workspaces/w/projects/{name}"}
        (project / ".azureml/project.json").write_text(json.dumps(scope))
        done = aml("run", "-d", "local", "hello.py")
        assert "Traceback" not in done.stderr, (name, done.stderr)
        assert done.returncode in (0, 2), (name, done.stderr)
        (project / ".azureml/project.json").write_text("{" * 100_000)
        assert aml("runs").returncode == 2
    for one in runs.all_directories(home):
        assert one.path.startswith(home + "/runs/")


# --- full disks ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 24 MB that holds AML_HOME."""
    need("root")
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(mount)], capture_output=True)
    if done.returncode:
        pytest.skip("needs the right to mount a file system")
    monkeypatch.setenv("AML_HOME", str(mount / "aml"))
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "hello.py").write_text("print('hello')")
    monkeypatch.chdir(folder)
    try:
        yield mount
    finally:
        # a supervisor may still be closing its files
        until(lambda: subprocess.run(["umount", str(mount)], capture_output=True).returncode == 0)


def fill(disk: Path, leave: int = 0) -> Path:
    """Take all space but `leave` bytes."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free, 1))
    return ballast


def assert_works_again(ballast: Path) -> None:
    ballast.unlink()
    assert aml("run", "local", "hello.py").stdout == "hello\n"
    assert aml("gc").returncode == 0
    assert [found for found in data("check") if found["code"] != "run.half_made"] == []


@pytest.mark.root
def test_G1_S15_a_disk_that_is_full_before_the_snapshot_leaves_no_run(small_disk: Path) -> None:
    aml("run", "local", "hello.py")
    Path("large.bin").write_bytes(os.urandom(4 << 20))
    ballast = fill(small_disk, leave=1 << 20)
    error = data("run", "local", "hello.py", status=5)["error"]
    assert error["code"] in ("store.no_space", "history.no_space")
    assert error["hint"]
    assert len(data("runs")) == 1
    assert_works_again(ballast)


@pytest.mark.root
def test_G2_a_disk_that_fills_while_the_run_prints_keeps_a_true_ending(small_disk: Path) -> None:
    Path("script.py").write_text(
        "import time\nprint('begin', flush=True)\n"
        "for _ in range(400):\n    print('x' * 99_999, flush=True)\nraise SystemExit(3)\n"
    )
    done = aml("run", "-q", "local", "script.py", timeout=120)
    assert done.returncode == 3, done.stderr
    record = data("show")
    assert (record["status"], record["exit_code"]) == ("Failed", 3)
    assert any("not kept" in text for text in record["warnings"])
    aml("rm", record["run_id"])
    assert aml("run", "local", "hello.py").stdout == "hello\n"


@pytest.mark.root
def test_G5_a_disk_that_is_full_at_collection_keeps_a_true_ending(small_disk: Path) -> None:
    Path("script.py").write_text(
        # a file with a second name is copied into the store, which needs room of its own
        "import os\nopen('outputs/model', 'wb').write(bytes(9 << 20))\nos.link('outputs/model', 'twin')\n"
        "print('ready', flush=True)\n"
        "import time\nwhile not os.path.exists('go'): time.sleep(0.02)\n"
    )
    run = detached("script.py")
    directory = RunDirectory(data("show", run)["directory"])
    until(lambda: os.path.exists(directory.log) and b"ready" in Path(directory.log).read_bytes())
    ballast = fill(small_disk)
    Path(directory.work, "go").touch()
    record = data("wait", run)[0]
    assert record["status"] == "Completed"
    shown = data("show", run)
    assert shown["artifacts_state"] == "failed"
    assert shown["warnings"]
    # what could not be kept stays where the run left it
    assert Path(directory.work, "outputs/model").read_bytes() == bytes(9 << 20)
    assert_works_again(ballast)


@pytest.mark.root
def test_G1_a_full_disk_answers_every_question(small_disk: Path) -> None:
    aml("run", "local", "hello.py", "--name", "first")
    ballast = fill(small_disk)
    for line in (
        ["runs"],
        ["show"],
        ["logs"],
        ["ls"],
        ["check"],
        ["targets"],
        ["snapshot", "--dry-run"],
        ["gc"],
    ):
        done = aml(*line)
        assert done.returncode == 0, (line, done.stderr)
        assert "Traceback" not in done.stderr
    for line in (["tag", "first", "x" * 9000], ["run", "local", "hello.py"]):
        done = aml(*line)
        assert "Traceback" not in done.stderr, (line, done.stderr)
    assert_works_again(ballast)


# --- cleaning up --------------------------------------------------------------------------------------------


def age(path: str, seconds: float) -> None:
    """Make a file or folder and all below look old."""
    then = time.time() - seconds
    for one in [path, *map(str, Path(path).rglob("*"))]:
        os.utime(one, (then, then), follow_symlinks=False)


def test_Z4_gc_while_runs_are_submitted_and_run_removes_nothing_of_theirs(project: Path, home: str) -> None:
    (project / "script.py").write_text("import time; time.sleep(0.3); print(open('data.txt').read())")
    cleaners = [
        subprocess.Popen(["bash", "-c", f"for i in 1 2 3 4; do {' '.join(AML)} gc || exit 1; done"],
                         env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    submitted = []
    for number in range(8):
        (project / "data.txt").write_text(str(number))
        submitted.append(experiment.submit(Request(script="script.py")))
    for number, directory in enumerate(submitted):
        assert experiment.wait(directory, 60).status == "Completed"
        assert Path(directory.log).read_text() == f"{number}\n"
    for cleaner in cleaners:
        _, told = cleaner.communicate(timeout=60)
        assert cleaner.returncode == 0, told
    assert data("check") == []


def test_gc_never_takes_the_snapshot_of_a_submit_in_progress(project: Path, home: str) -> None:
    store = Store(home + "/snapshots")
    experiment.wait(experiment.submit(Request(script="hello.py")))
    (project / "hello.py").write_text("print('new')")
    # a submit that was stopped between the last file it wrote and its record
    directory = experiment.write(experiment.plan(Request(script="hello.py")))
    record = Path(directory.run_json).read_bytes()
    os.unlink(directory.run_json)
    snapshot = runs.record.Record.from_json(json.loads(record)).snapshot_id
    age(home + "/snapshots", 7200)
    aml("gc")
    assert store.read(snapshot, "hello.py") == b"print('new')"
    Path(directory.run_json).write_bytes(record)
    age(directory.run_json, 60)
    assert data("resume", directory.run_id) == {directory.run_id: True}
    assert aml("attach", directory.run_id).stdout == "new\n"


def test_gc_removes_what_killed_processes_left_and_nothing_else(
    project: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "script.py").write_text(
        "for name in ('outputs/.aml-0123456789abcdef.tmp', '.aml-0123456789abcdef.tmp'):\n"
        "    open(name, 'w').write('mine')\n"
    )
    done = experiment.submit(Request(script="script.py"))
    kept = experiment.wait(done)
    half_made = runs.create(home, find_project())
    os.makedirs(half_made.job)
    removed = os.path.dirname(done.path) + "/.removing-project_1"
    os.mkdir(removed)
    leftovers = [f"{done.path}/.aml-aaaaaaaaaaaaaaaa.tmp", f"{home}/projects/.aml-bbbbbbbbbbbbbbbb.tmp"]
    for path in leftovers:
        Path(path).write_text("half")
    unreferenced = Store(home + "/snapshots").take(str(project), Rules(exclude=("*.py",)))
    everything = set(files(home))
    assert retention.collect_garbage(home) == retention.Freed()
    assert set(files(home)) - {Path(home, "gc.lock")} == everything - {Path(home, "gc.lock")}
    # an hour later
    age(home, 3600)
    now = time.time
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: now() + 3600)
        would = retention.collect_garbage(home, dry_run=True)
        assert (would.half_made, would.leftovers, would.working_copies) == (1, 3, 0)
        assert os.path.exists(removed)
        assert retention.collect_garbage(home) == would
    assert not any(map(os.path.exists, [half_made.path, removed, *leftovers]))
    assert Path(done.work, ".aml-0123456789abcdef.tmp").exists()
    if kept.artifacts:
        assert aml("cat", done.run_id, "outputs/.aml-0123456789abcdef.tmp").stdout == "mine"
    assert unreferenced.id not in os.listdir(home + "/snapshots/manifests")
    assert data("gc")["bytes"] == 0
    assert aml("run", "local", "hello.py").stdout == "hello\n"


def test_gc_keeps_the_working_copies_of_young_pinned_and_unfinished_runs(project: Path, home: str) -> None:
    (project / "script.py").write_text("import time; time.sleep(60)")
    old, pinned = (experiment.submit(Request(script="hello.py")) for _ in range(2))
    for one in (old, pinned):
        experiment.wait(one)
    unfinished = experiment.submit(Request(script="script.py"))
    aml("pin", pinned.run_id)
    for one in (old, pinned, unfinished):
        age(one.path, 30 * 86400)
    young = experiment.submit(Request(script="hello.py"))
    experiment.wait(young)
    assert data("gc")["working_copies"] == 1
    assert [os.path.isdir(one.work) for one in (old, pinned, unfinished, young)] == [False, True, True, True]
    assert aml("logs", old.run_id).stdout == "hello\n"
    done = aml("rescue", old.run_id, "hello.py")
    assert done.returncode == 2
    assert "gc" in done.stderr
    aml("stop", "--kill", unfinished.run_id)


def test_gc_does_nothing_while_a_record_is_damaged(project: Path, home: str) -> None:
    directory = experiment.submit(Request(script="hello.py"))
    experiment.wait(directory)
    Path(directory.run_json).write_text("{}")
    age(home, 30 * 86400)
    before = set(files(home))
    assert data("gc", status=5)["error"]["code"] == "record.corrupt"
    assert set(files(home)) - {Path(home, "gc.lock")} == before
    assert data("rm", directory.run_id) == [directory.run_id]
    assert data("gc")["bytes"] > 0


def test_Z4_a_run_that_goes_on_is_not_removed(project: Path) -> None:
    (project / "script.py").write_text("import time; time.sleep(60)")
    run = detached("script.py")
    assert data("rm", "--force", run, status=5)["error"]["code"] == "run.alive"
    assert data("stop", run)[0]["status"] == "Canceled"
    assert data("rm", run) == [run]
    assert data("runs") == []
