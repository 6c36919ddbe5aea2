"""Snapshots of real folders: what is taken, what is refused, and that it comes back as it was."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from aml_jupyter.errors import SnapshotError
from aml_jupyter.snapshot import Rules, Snapshot, Store, explain, git_state, restore
from aml_jupyter.snapshot.manifest import Entry
from tests.requirements import need

MIB = 1 << 20


@pytest.fixture
def store(home: str) -> Store:
    return Store(home + "/snapshots")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    write(folder, "train.py", b"print('hi')\n")
    write(folder, "src/model.py", b"x = 1\n")
    write(folder, "data/table.csv", b"a,b\n1,2\n")
    return folder


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def paths(store: Store, snapshot: Snapshot) -> set[str]:
    return {entry.path for entry in store.manifest(snapshot.id) if entry.kind != "dir"}


def refusal(store: Store, project: Path, rules: Rules | None = None) -> SnapshotError:
    with pytest.raises(SnapshotError) as caught:
        store.take(str(project), rules)
    return caught.value


def tree(folder: Path) -> dict[str, tuple[int, bytes | str | None]]:
    found: dict[str, tuple[int, bytes | str | None]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(folder))] = (mode, content)
    return found


def test_what_is_taken_comes_back_with_modes_links_and_empty_folders(
    store: Store, project: Path, tmp_path: Path
) -> None:
    (project / "empty/inner").mkdir(parents=True)
    write(project, "run.sh", b"#!/bin/sh\n").chmod(0o755)
    write(project, "kept.txt", b"r").chmod(0o440)
    write(project, "closed/a", b"a")
    (project / "closed").chmod(0o555)
    write(project, "big.bin", os.urandom(3 * MIB))
    write(project, "nothing", b"")
    (project / "latest").symlink_to("src/model.py")
    taken = store.take(str(project))
    store.materialize(taken.id, str(tmp_path / "copy"))
    assert tree(tmp_path / "copy") == tree(project)
    assert taken.files == 9
    assert store.check() == []


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o377])
def test_modes_come_back_whatever_the_umask(store: Store, project: Path, tmp_path: Path, umask: int) -> None:
    (project / "src").chmod(0o750)
    (project / "train.py").chmod(0o777)
    taken = store.take(str(project))
    before = os.umask(umask)
    try:
        store.materialize(taken.id, str(tmp_path / "copy"))
    finally:
        os.umask(before)
    assert tree(tmp_path / "copy") == tree(project)


def test_the_run_folder_shares_nothing_with_project_or_store(
    store: Store, project: Path, tmp_path: Path
) -> None:
    write(project, "big.bin", os.urandom(2 * MIB))
    taken = store.take(str(project))
    store.materialize(taken.id, str(tmp_path / "copy"))
    for path in (tmp_path / "copy").rglob("*"):
        if path.is_file():
            assert path.stat().st_nlink == 1
            path.write_bytes(b"spoilt")
    assert store.check() == []
    assert (project / "train.py").read_bytes() == b"print('hi')\n"


def test_equal_trees_have_one_id_and_an_unchanged_project_keeps_its_own(
    store: Store, project: Path, tmp_path: Path
) -> None:
    first = store.take(str(project))
    assert store.take(str(project)) == first
    store.materialize(first.id, str(tmp_path / "elsewhere"))
    assert store.take(str(tmp_path / "elsewhere")).id == first.id
    assert Store(str(tmp_path / "other" / "snapshots")).take(str(project)).id == first.id


def test_an_unchanged_project_is_compared_and_nothing_else(store: Store, project: Path) -> None:
    need("strace")
    store.take(str(project))
    code = f"from aml_jupyter.snapshot import Store\nStore({store.path!r}).take({str(project)!r})\n"
    code += (
        "import sys\nprint(sorted(name for name in sys.modules if name.startswith('aml_jupyter.snapshot')))"
    )
    done = subprocess.run(
        ["strace", "-e", "trace=openat", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "table.csv" not in done.stderr
    assert "model.py" not in done.stderr.replace("aml_jupyter", "")
    assert "build" not in done.stdout
    assert "ignore" not in done.stdout


@pytest.mark.parametrize(
    "change", ["content", "added", "removed", "mode", "renamed", "emptied folder", "ignored"]
)
def test_every_change_is_seen(store: Store, project: Path, change: str) -> None:
    before = store.take(str(project))
    if change == "content":
        write(project, "src/model.py", b"x = 2\n")
    elif change == "added":
        write(project, "src/new.py", b"")
    elif change == "removed":
        (project / "data/table.csv").unlink()
    elif change == "mode":
        (project / "train.py").chmod(0o755)
    elif change == "renamed":
        (project / "src").rename(project / "lib")
    elif change == "emptied folder":
        (project / "data/table.csv").unlink()
        (project / "data").rmdir()
    else:
        write(project, ".gitignore", b"*.csv\n")
    after = store.take(str(project))
    assert after.id != before.id
    assert after == Store(store.path + "/../fresh").take(str(project))
    assert store.take(str(project)) == after


def test_a_change_within_one_tick_of_the_clock_is_seen(store: Store, project: Path) -> None:
    for number in range(30):
        write(project, "train.py", b"%04d" % number)
        assert store.read(store.take(str(project)).id, "train.py") == b"%04d" % number


def test_a_file_replaced_with_its_size_and_times_kept_is_seen(store: Store, project: Path) -> None:
    path = project / "train.py"
    before = store.take(str(project))
    st = path.stat()
    path.write_bytes(b"print('HI')\n")
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
    assert store.take(str(project)).id != before.id


@pytest.mark.parametrize("seed", range(12))
def test_random_changes_give_the_same_as_a_store_that_never_saw_the_project(
    store: Store, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    project = tmp_path / "project"
    project.mkdir()
    names = [
        "a.py",
        "b.csv",
        ".gitignore",
        "c.log",
        "x/a.py",
        "x/y/b.csv",
        "x/.amlignore",
        "x/y/z/c.log",
        "w/d",
    ]
    lines = [b"*.csv", b"!b.csv", b"x/", b"/y", b"*.log", b"!*.log", b"z", b"w/", b"!*/"]
    for _ in range(12):
        for _ in range(chance.randint(0, 3)):
            name = chance.choice(names)
            path = project / name
            if chance.random() < 0.3 and path.exists():
                path.unlink()
            else:
                ignore = name.endswith("ignore")
                data = b"\n".join(chance.sample(lines, 2)) if ignore else b"%d" % chance.randint(0, 3)
                write(project, name, data)
        seen = store.take(str(project))
        assert seen.id == Store(str(tmp_path / f"fresh{chance.random()}" / "snapshots")).take(str(project)).id
        assert seen.files == len(paths(store, seen))
    assert store.check() == []


# the limits


def test_the_cap_is_exactly_26214400_bytes(store: Store, tmp_path: Path) -> None:
    project = tmp_path / "project"
    path = write(project, "data.bin", bytes(26_214_400))
    assert store.take(str(project)).bytes == 26_214_400
    path.write_bytes(bytes(26_214_401))
    assert refusal(store, project).code == "snapshot.too_large"


def test_docs_are_sent_but_not_counted_and_only_in_lower_case_at_the_top(
    store: Store, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    write(project, "docs/big.bin", bytes(25 * MIB + 1))
    write(project, "train.py", b"")
    assert "docs/big.bin" in paths(store, store.take(str(project)))
    (project / "docs").rename(project / "Docs")
    assert refusal(store, project).code == "snapshot.too_large"
    (project / "sub").mkdir()
    (project / "Docs").rename(project / "sub/docs")
    assert refusal(store, project).code == "snapshot.too_large"


def test_outputs_and_git_are_not_sent(store: Store, project: Path) -> None:
    write(project, "outputs/model.pkl", bytes(26 * MIB))
    write(project, ".git/objects/x", b"x")
    write(project, "src/outputs/kept.txt", b"x")
    assert paths(store, store.take(str(project))) >= {"src/outputs/kept.txt", "train.py"}
    assert not any(path.startswith((".git", "outputs")) for path in paths(store, store.take(str(project))))


def test_S1_too_large_names_the_largest_files_their_rules_and_the_fix(store: Store, project: Path) -> None:
    write(project, ".gitignore", b"*.bin\n")
    write(project, ".amlignore", b"!huge*.bin\n")
    for number in range(12):
        write(project, f"data/part {number}.csv", bytes(MIB + number))
    with open(write(project, "huge[1].bin", b""), "r+b") as file:
        file.truncate(4 << 40)  # to read it would take hours
    error = refusal(store, project)
    assert error.code == "snapshot.too_large"
    assert error.message.count("\n") == 10
    assert "huge[1].bin  (let in by .amlignore:1 !huge*.bin)" in error.message
    assert "data/part 11.csv  (no rule leaves it out)" in error.message
    assert "data/part 0.csv" not in error.message
    assert "\n  /huge\\[1].bin\n" in error.hint
    assert "aml share put 'huge[1].bin'" in error.hint


def test_S1_the_lines_of_the_hint_fix_it(store: Store, project: Path) -> None:
    for name in ("b*d [x].bin", "!first.bin", "#second.bin", "trailing .bin"):
        write(project, name, bytes(9 * MIB))
    error = refusal(store, project)
    lines = [line[2:] for line in error.hint.splitlines() if line.startswith("  /")]
    (project / ".amlignore").write_text("\n".join(lines) + "\n")
    store.take(str(project))


def test_S2_a_file_too_many_is_refused_in_time_and_a_hint_comes_before(store: Store, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for folder in range(10):
        at = project / f"part{folder}"
        at.mkdir(parents=True)
        for number in range(30):
            (at / f"f{number}").touch()
    assert store.take(str(project), Rules(max_files=300)).files == 300
    (project / "one_more").touch()
    error = refusal(store, project, Rules(max_files=300))
    assert error.code == "snapshot.too_many_files"
    assert "30 in part9" in error.message


@pytest.mark.slow
def test_S2_one_hundred_thousand_and_one_files_are_refused_before_any_is_read(
    store: Store, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    for folder in range(100):
        (project / f"d{folder}").mkdir(parents=True)
        fd = os.open(project / f"d{folder}", os.O_RDONLY)
        for number in range(1000):
            os.close(os.open(f"f{number}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)
    (project / "one_more").touch()
    (project / "one_more").write_text("token = 'ghp_0123456789abcdefghijABCDEFGHIJ012345'\n")
    assert refusal(store, project).code == "snapshot.too_many_files"
    assert refusal(store, project, Rules(max_files=200_000)).code != "snapshot.too_many_files"
    (project / "one_more").unlink()
    taken = store.take(str(project))
    assert taken.files == 100_000
    assert "runs start faster" in taken.warnings[0]


# links, special files, names


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("l", "/etc/passwd"),
        ("l", "../outside"),
        ("src/l", "../../outside"),
        ("l", "/proc/self/environ"),
        ("l", "src/here/../../outside"),
        ("l", "src/here/.."),
    ],
)
def test_S6_a_link_out_of_the_project_is_refused_or_skipped_and_never_followed(
    store: Store, project: Path, name: str, target: str
) -> None:
    write(project.parent, "outside", b"private")
    (project / "src/here").symlink_to("../.")
    (project / name).symlink_to(target)
    error = refusal(store, project)
    assert error.code == "snapshot.link_escape"
    assert f"{name} -> {target}" in error.message
    taken = store.take(str(project), Rules(links="skip"))
    assert name not in paths(store, taken)
    assert taken.files == len(paths(store, taken))
    assert any(target in warning for warning in taken.warnings)
    assert store.take(str(project), Rules(links="skip")) == taken


def test_S6_a_link_that_begins_to_lead_out_is_noticed(store: Store, project: Path) -> None:
    (project / "src/up").symlink_to("here/..")
    (project / "src/here").mkdir()
    store.take(str(project))
    (project / "src/here").rmdir()
    (project / "src/here").symlink_to("..")
    assert refusal(store, project).code == "snapshot.link_escape"


def test_S7_links_inside_loops_and_dangling_ones_are_kept_as_links(
    store: Store, project: Path, tmp_path: Path
) -> None:
    for name, target in [
        ("a", "b"),
        ("b", "a"),
        ("gone", "nowhere/at/all"),
        ("self", "self"),
        ("dir", "src"),
    ]:
        (project / name).symlink_to(target)
    (project / "src/up").symlink_to("../data/table.csv")
    taken = store.take(str(project))
    store.materialize(taken.id, str(tmp_path / "copy"))
    assert tree(tmp_path / "copy") == tree(project)


def test_S8_fifos_sockets_and_devices_are_refused_without_being_opened(store: Store, project: Path) -> None:
    import socket

    os.mkfifo(project / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(project / "src/socket"))
    error = refusal(store, project)
    assert error.code == "snapshot.special_file"
    assert "pipe: a FIFO" in error.message
    assert "src/socket: a socket" in error.message
    write(project, ".gitignore", b"pipe\nsocket\n")
    store.take(str(project))


@pytest.mark.root
def test_S8_a_device_is_refused(store: Store, project: Path) -> None:
    need("root")
    os.mknod(project / "null", 0o600 | 0o020000, os.makedev(1, 3))
    assert refusal(store, project).code == "snapshot.special_file"


def test_S10_odd_names_and_deep_paths_are_kept(store: Store, tmp_path: Path) -> None:
    project = os.fsencode(tmp_path / "project")
    os.mkdir(project)
    names = [
        b"\xff\xfe",
        b"new\nline",
        b"tab\t",
        b"esc\x1b[31m",
        "\u202ertl".encode(),
        b"n" * 255,
        b"\\u00e9",
        b" ",
    ]
    for name in names:
        with open(os.path.join(project, name), "wb") as file:
            file.write(name)
    fd = os.open(project, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d" * 20, dir_fd=fd)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("deepest", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    taken = store.take(os.fsdecode(project))
    assert taken.files == len(names) + 1
    assert store.take(os.fsdecode(project)) == taken
    store.materialize(taken.id, str(tmp_path / "copy"))
    assert set(os.listdir(os.fsencode(tmp_path / "copy"))) == set(os.listdir(project))
    assert store.take(str(tmp_path / "copy")).id == taken.id
    subprocess.run(["rm", "-rf", project, str(tmp_path / "copy")], check=True)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["Model.py", "model.py"], "snapshot.case_collision"),
        (["a/Sub/x", "a/sub/y"], "snapshot.case_collision"),
        (["caf\u00e9.py", "cafe\u0301.py"], "snapshot.case_collision"),
        (["aux.py"], "snapshot.name_unportable"),
        (["a:b"], "snapshot.name_unportable"),
        (["dot."], "snapshot.name_unportable"),
    ],
)
def test_S11_names_that_another_system_cannot_hold(
    store: Store, tmp_path: Path, names: list[str], code: str
) -> None:
    for name in names:
        write(tmp_path / "project", name, b"x")
    assert store.take(str(tmp_path / "project")).files == len(names)
    assert refusal(store, tmp_path / "project", Rules(portable=True)).code == code


def test_S16_hard_links_setuid_holes_and_old_times(store: Store, project: Path, tmp_path: Path) -> None:
    os.link(project / "train.py", project / "again.py")
    write(project, "setuid", b"x").chmod(0o4755)
    with open(write(project, "hole", b""), "r+b") as file:
        file.truncate(2 * MIB)
    os.utime(project / "src/model.py", (-86400, -86400))
    os.utime(project / "data/table.csv", (20_000_000_000, 20_000_000_000))
    taken = store.take(str(project))
    assert store.take(str(project)) == taken
    store.materialize(taken.id, str(tmp_path / "copy"))
    assert (tmp_path / "copy/setuid").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "copy/hole").read_bytes() == bytes(2 * MIB)
    assert (tmp_path / "copy/again.py").stat().st_nlink == 1


def test_S18_places_that_would_copy_the_world_or_themselves_are_refused(home: str, tmp_path: Path) -> None:
    store = Store(home + "/snapshots")
    os.makedirs(home + "/runs/x")
    for place in ("/", os.path.dirname(home), str(tmp_path), home, home + "/runs/x"):
        error = refusal(store, Path(place))
        assert error.code == "snapshot.refused", place
        assert "folder of its own" in error.hint


def test_a_missing_project_is_told(store: Store, tmp_path: Path) -> None:
    assert "No such file" in refusal(store, tmp_path / "nowhere").message


# what is left out


def test_options_come_last_and_an_include_opens_the_way_to_its_file(store: Store, project: Path) -> None:
    write(project, ".gitignore", b"data/\n")
    write(project, "data/other.csv", b"")
    assert "data/table.csv" not in paths(store, store.take(str(project)))
    taken = store.take(str(project), Rules(include=("/data/table.csv",), exclude=("*.sh", "src")))
    assert paths(store, taken) == {".gitignore", "train.py", "data/table.csv"}


def test_the_calling_notebook_is_left_out_by_its_exact_path(store: Store, project: Path) -> None:
    write(project, "a/n.ipynb", b"{}")
    write(project, "n.ipynb", b"{}")
    taken = store.take(str(project), Rules(leave_out=("n.ipynb",)))
    assert "a/n.ipynb" in paths(store, taken)
    assert "n.ipynb" not in paths(store, taken)
    write(project, "n.ipynb", b"{ }")
    assert store.take(str(project), Rules(leave_out=("n.ipynb",))).id == taken.id


def test_an_amlignore_lets_back_in_what_it_names(store: Store, project: Path) -> None:
    for name in ("secrets.toml", "lib/__pycache__/a.pyc", "logs/a.log", "server.pem"):
        write(project, name, b"x")
    write(project, ".gitignore", b"*.log\n")
    write(project, ".amlignore", b"!*.log\n!server.pem\n!*/\n")
    taken = paths(store, store.take(str(project)))
    assert {"logs/a.log", "server.pem"} <= taken
    assert not {"secrets.toml", "lib/__pycache__/a.pyc"} & taken


PLANTED = [
    ".env",
    ".env.production",
    "conf/.env.local",
    ".envrc",
    "id_rsa",
    "keys/id_ed25519",
    "server.pem",
    "tls/private.key",
    "cert.p12",
    "store.jks",
    ".aws/credentials",
    ".aws/config",
    ".ssh/known_hosts",
    ".netrc",
    ".pypirc",
    ".npmrc",
    ".git-credentials",
    "credentials.csv",
    ".pgpass",
    ".kube/config",
    ".docker/config.json",
    "service-account-prod.json",
    "client_secret_1.json",
    "kaggle.json",
    "secrets.yaml",
    "terraform.tfstate",
    "prod.tfvars",
    ".htpasswd",
    ".databrickscfg",
    "application_default_credentials.json",
    "vault.kdbx",
    "putty.ppk",
    ".git/config",
    "sub/.git/HEAD",
    ".ipynb_checkpoints/n-checkpoint.ipynb",
    "a/.ipynb_checkpoints/x",
    "__pycache__/m.pyc",
    "a/b.pyc",
    ".venv/lib/x.py",
    "venv/bin/python",
    "outputs/model.pkl",
    ".pytest_cache/v",
    ".mypy_cache/x",
    "node_modules/x/y.js",
    ".tox/x",
    ".DS_Store",
    "myenv/pyvenv.cfg",
    "myenv/lib/python3/site.py",
    "condaenv/conda-meta/history",
    "condaenv/bin/python",
    ".azuremlhistory_git/x",
    "azureml-logs/x",
    "a.egg-info/PKG-INFO",
    ".cache/x",
    ".svn/entries",
]


def test_S15_fifty_planted_files_stay_out_each_with_a_reason(store: Store, project: Path) -> None:
    assert len(PLANTED) >= 50
    for name in PLANTED:
        write(project, name, b"planted")
    write(project, ".env.example", b"KEY=")
    assert paths(store, store.take(str(project))) == {
        "train.py",
        "src/model.py",
        "data/table.csv",
        ".env.example",
    }
    decisions = explain(str(project)).decisions
    for name in PLANTED:
        why = [d for d in decisions if d.path == name or (d.path.endswith("/") and name.startswith(d.path))]
        assert why, name
        assert not why[0].included
        assert why[0].reason
        assert why[0].rule_source


def _token(*parts: str) -> str:
    return "".join(parts)


SECRETS = {
    "an AWS access key": "key = '" + _token("AKIA", "QWERTYUIOPASDFGH") + "'",
    "a GitHub token": _token("ghp_", "aB3" * 12),
    "a GitLab token": _token("glpat-", "aB3dE5gH7jK9mN1pQ3sT"),
    "a Slack token": _token("xoxb-", "238572093847-2093847502938-", "AbCdEfGhIjKlMnOpQrStUvWx"),
    "a Google API key": _token("AIza", "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6q"),
    "an API key (sk-...)": _token("sk-", "proj-", "aB3dE5gH7jK9mN1pQ3sTuV5wX7yZ9aB1cD3eF5gH7jK9"),
    "a Hugging Face token": _token("hf_", "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH"),
    "an npm token": _token("npm_", "aB3" * 12),
    "a Stripe key": _token("sk_", "live_", "aB3dE5gH7jK9mN1pQ3sTuV5w"),
    "a Databricks token": _token("dapi", "0123456789abcdef" * 2),
    "an Azure storage or service key": "DefaultEndpointsProtocol=https;"
    + _token("AccountKey=", "aB3dE5gH" * 10, "aB3dE5=="),
    "an Azure shared access signature": "https://x.blob.core.windows.net/c?sv=2020&"
    + _token("sig=", "aB3dE5gH" * 6),
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEA7bq" * 4 + "\n",
    "a password in an address": _token("postgres://admin:", "s3cr3tPw9", "@db.internal.net/x"),
}


@pytest.mark.parametrize("kind", sorted(SECRETS))
def test_S15_a_secret_in_a_file_stops_the_snapshot_and_is_never_shown(
    store: Store, project: Path, kind: str
) -> None:
    write(project, "src/conf.py", b"# settings\n\nvalue = " + SECRETS[kind].encode() + b"\n")
    error = refusal(store, project)
    assert error.code == "snapshot.secret"
    assert f"src/conf.py:3: {kind}" in error.message
    assert SECRETS[kind][-12:] not in str(error)
    taken = store.take(str(project), Rules(allow_secrets=True))
    assert kind in taken.warnings[0]
    assert store.take(str(project), Rules(allow_secrets=True)) == taken
    assert refusal(store, project).code == "snapshot.secret"


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN PRIVATE KEY-----",
        "postgres://user:password@localhost/db",
        "postgres://{user}:{password}@{host}/db",
        "https://example.com/@scope/package",
        "sha256:" + "ab12" * 16,
        "a_very_long_identifier_that_says_nothing = 1",
        "AccountKey=<your key here>",
    ],
)
def test_what_only_looks_like_a_secret_passes(store: Store, project: Path, text: str) -> None:
    write(project, "readme.md", text.encode() + b"\n")
    store.take(str(project))


# looking at it


def test_explain_gives_every_file_its_size_and_the_line_that_decided(store: Store, project: Path) -> None:
    write(project, ".gitignore", b"# data\n*.csv\n")
    write(project, "src/.amlignore", b"!*.csv\n")
    write(project, "src/in.csv", b"12345")
    write(project, "outputs/x", b"x")
    before = store.take(str(project))
    write(project, "train.py", b"changed")
    write(project, "new.py", b"")
    (project / "src/model.py").unlink()
    found = explain(str(project), store=store, since=before.id)
    by_path = {decision.path: decision for decision in found.decisions}
    assert by_path["data/table.csv"].rule_source == ".gitignore:2 *.csv"
    assert by_path["src/in.csv"].rule_source == "src/.amlignore:1 !*.csv"
    assert by_path["outputs/"].reason == "outputs of earlier runs"
    assert by_path["src/in.csv"].size == 5
    assert by_path["data/table.csv"].size == 8
    assert found.change is not None
    assert found.change.added == ("new.py",)
    assert found.change.removed == ("src/model.py",)
    assert found.change.changed == ("train.py",)
    assert {d.path for d in found.decisions if d.included} == paths(store, store.take(str(project)))
    assert found.largest[0].size == max(d.size for d in found.decisions if d.included)


def test_explain_tells_what_take_would_refuse(project: Path) -> None:
    os.mkfifo(project / "pipe")
    write(project, "big", bytes(26 * MIB))
    assert {error.code for error in explain(str(project)).refusals} == {"snapshot.special_file"}
    (project / "pipe").unlink()
    assert {error.code for error in explain(str(project)).refusals} == {"snapshot.too_large"}


def test_restore_fills_an_empty_folder_and_another_only_by_force(
    store: Store, project: Path, tmp_path: Path
) -> None:
    taken = store.take(str(project))
    target = tmp_path / "back"
    write(target, "train.py", b"mine")
    write(target, "other", b"stays")
    (target / "src").symlink_to(tmp_path)
    with pytest.raises(SnapshotError) as caught:
        restore(store, taken.id, str(target))
    assert caught.value.code == "restore.not_empty"
    assert (target / "train.py").read_bytes() == b"mine"
    restore(store, taken.id, str(target), force=True)
    assert (target / "train.py").read_bytes() == b"print('hi')\n"
    assert (target / "other").read_bytes() == b"stays"
    assert not (tmp_path / "model.py").exists()


def test_an_unknown_snapshot_is_told(store: Store) -> None:
    for snapshot_id in ("0" * 64, "../../etc/passwd", ""):
        with pytest.raises(SnapshotError) as caught:
            store.manifest(snapshot_id)
        assert caught.value.code == "snapshot.unknown"


def test_manifest_and_read(store: Store, project: Path) -> None:
    taken = store.take(str(project))
    assert [entry.path for entry in store.manifest(taken.id)] == [
        "train.py",
        "data",
        "data/table.csv",
        "src",
        "src/model.py",
    ]
    entry = store.manifest(taken.id)[0]
    assert isinstance(entry, Entry)
    assert (entry.size, entry.mode) == (12, 0o644)
    assert store.read(taken.id, "src/model.py") == b"x = 1\n"
    with pytest.raises(SnapshotError) as caught:
        store.read(taken.id, "nothing")
    assert caught.value.code == "snapshot.no_file"


# keeping


def test_gc_removes_what_no_run_needs_and_nothing_else(store: Store, project: Path, tmp_path: Path) -> None:
    write(project, "big.bin", os.urandom(2 * MIB))
    old = store.take(str(project))
    write(project, "big.bin", os.urandom(2 * MIB))
    new = store.take(str(project))
    assert store.gc([new.id]) == 0  # both are young
    freed = store.gc([new.id], dry_run=True, grace=0)
    assert freed > 2 * MIB
    assert store.gc([new.id], grace=0) == freed
    assert store.gc([new.id], grace=0) == 0
    with pytest.raises(SnapshotError):
        store.manifest(old.id)
    store.materialize(new.id, str(tmp_path / "copy"))
    assert store.check() == []
    assert store.take(str(project)) == new
    store.gc([], grace=0)
    assert store.take(str(project)) == new
    assert store.check() == []


@pytest.mark.slow
def test_many_small_takes_do_not_make_many_packs(store: Store, project: Path) -> None:
    ids = []
    for number in range(80):
        write(project, "train.py", b"%d" % number)
        os.utime(project / "train.py", (number, number))
        ids.append(store.take(str(project)).id)
    assert len(os.listdir(store.path + "/packs")) <= 40
    assert [store.read(snapshot_id, "train.py") for snapshot_id in ids] == [b"%d" % n for n in range(80)]
    assert store.check() == []


def _run_git(folder: Path, *arguments: str) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    names = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *names, *arguments], cwd=folder, env=environment, check=True, capture_output=True)


def test_git_state_has_commit_branch_and_a_diff_without_passwords(project: Path, home: str) -> None:
    need("git")
    assert git_state(str(project)) is None
    _run_git(project, "init", "-q")
    assert git_state(str(project)).commit == ""  # type: ignore[union-attr]
    write(project, "aml_config/vm.compute", b"password: old\n")
    _run_git(project, "add", "-A")
    _run_git(project, "commit", "-qm", "first")
    clean = git_state(str(project / "src"))
    assert clean is not None
    assert len(clean.commit) == 40
    assert (clean.branch, clean.dirty, clean.diff) == ("main", False, b"")
    write(project, "train.py", b"print('changed')\n")
    write(project, "aml_config/vm.compute", b"password: hunter22\n")
    dirty = git_state(str(project))
    assert dirty is not None
    assert dirty.dirty
    assert b"+print('changed')" in dirty.diff
    assert b"hunter22" not in dirty.diff
    write(project, "train.py", SECRETS["a GitHub token"].encode())
    held = git_state(str(project))
    assert held is not None
    assert held.diff == b""
    assert "a GitHub token" in held.withheld
