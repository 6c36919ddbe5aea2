"""Opening, listing, creating and removing below a folder, with everything a hostile folder may hold."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aml_jupyter import confined
from aml_jupyter.confined import (
    ConfinedError,
    FileFault,
    FileThere,
    MissingFile,
    Root,
    check_name,
    copy_fd,
    read_bounded,
    remove_tree,
    shown,
    write_atomic,
)
from tests.requirements import need

NEVER = [
    "",
    "/",
    "/abs",
    "//abs",
    ".",
    "..",
    "../x",
    "a/../b",
    "a/..",
    "a//b",
    "a/",
    "./a",
    "a/./b",
    "a\0b",
    "\0",
    "n" * 256,
    "é" * 128,
    "/".join(["n" * 100] * 60),
    "\ud800",
]
# harmless as names of files here, but read as something else by a person or a server
MISLEADING = [
    "..%2f..%2fetc",
    "%2e%2e",
    "%2E%2e/x",
    "%252e%252e",
    "%25252e.",
    "a%00.txt",
    "..%5cwin",
    "..%c0%af..",
    "..;/x",
    "..;a=b/x",
    "a\nb",
    "a\tb",
    "a\rb",
    "\x1b[2J",
    "\x7f",
    "\x85",
    "gpj.\u202eexe",
    "\u2066x",
    "a\u200fb",
    "\ufeffx",
    "\ufffe",
    "\U0001fffe",
    "a\u2028b",
    "\udcff.txt",
    "\u3164",
    "\uff0e\uff0e",
    "\u2025",
    "a\uff0fb",
    "x\uff3cy",
]
UNPORTABLE = [
    "..\\x",
    "a\\b",
    "C:x",
    "a:b",
    "<img onerror=x>",
    'a"b',
    "a|b",
    "a?",
    "a*",
    "CON",
    "con.txt",
    "aux .py",
    "NUL.tar.gz",
    "com1",
    "LPT9.log",
    "COM¹",
    "conin$",
    "a.",
    "a ",
    " a",
    "...",
    "x" * 250 + "/" + "y" * 250 + "/" + "z" * 250 + "/" + "w" * 250 + "/" + "v" * 25,
]
ORDINARY = [
    "a",
    "outputs/model.pkl",
    "Ein Büro/données (1).csv",
    "日本語/模型.bin",
    "50%.csv",
    "a%2eb",
    "100%unique",
    ".gitignore",
    "..a",
    "a..b",
    "console.py",
    "auxiliary",
    "com10",
    "Screenshot 10.00\u202fAM.png",
    "❤️\u200d🔥.png",
    "\u0645\u06cc\u200c\u062e.txt",
    "½",
    "/".join("d" * 300),
]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    with Root.create(str(tmp_path / "root")) as opened:
        yield opened
    remove_tree(str(tmp_path / "root"))


@contextmanager
def nobody() -> Iterator[None]:
    """Permissions count only for those who are not the superuser."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def umask(value: int) -> Iterator[None]:
    old = os.umask(value)
    try:
        yield
    finally:
        os.umask(old)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails for this process, as it does on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def write(root: Root, path: str, data: bytes = b"x") -> None:
    fd = root.create_file(path)
    os.write(fd, data)
    os.close(fd)


def create_many(root: Root) -> None:
    for number in range(30):
        os.close(root.create_file(f"inode{number}"))


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


# names


@pytest.mark.parametrize("name", NEVER)
def test_A6_a_name_that_leaves_the_folder_or_cannot_exist_is_never_taken(name: str) -> None:
    with pytest.raises(ConfinedError) as caught:
        check_name(name)
    assert caught.value.code == "name.invalid"
    str(caught.value).encode()


@pytest.mark.parametrize("name", MISLEADING)
def test_A6_a_plain_name_has_nothing_hidden_encoded_or_disguised(name: str) -> None:
    check_name(name)
    for options in ({"plain": True}, {"portable": True}):
        with pytest.raises(ConfinedError) as caught:
            check_name(name, **options)
        assert str(caught.value).splitlines()[0].isprintable()


@pytest.mark.parametrize("name", UNPORTABLE)
def test_A6_S11_a_portable_name_is_taken_by_windows_and_azure(name: str) -> None:
    check_name(name, plain=True)
    with pytest.raises(ConfinedError):
        check_name(name, portable=True)


@pytest.mark.parametrize("name", ORDINARY)
def test_A6_names_that_people_use_are_taken(name: str) -> None:
    assert check_name(name, plain=True, portable=True) == tuple(name.split("/"))


@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from(["..", ".", "a", "", "%2e", "\\", "\0", "/"])).map("/".join)
)
def test_A6_any_text_is_refused_by_name_or_stays_below_the_folder(name: str) -> None:
    try:
        parts = check_name(name)
    except ConfinedError:
        return
    assert os.path.normpath(os.path.join("/top", name)) == "/top/" + name
    assert all(0 < len(os.fsencode(part)) <= 255 and part not in (".", "..") for part in parts)


@given(st.binary(min_size=1, max_size=60))
def test_A6_any_bytes_that_can_be_a_name_round_trip(raw: bytes) -> None:
    name = os.fsdecode(raw)
    try:
        parts = check_name(name)
    except ConfinedError:
        assert raw.startswith(b"/") or b"\0" in raw or {b"", b".", b".."} & set(raw.split(b"/"))
    else:
        assert os.fsencode("/".join(parts)) == raw
        assert shown(name).encode()


@given(st.text(max_size=400))
def test_A6_a_shown_name_has_no_control_or_direction_character(name: str) -> None:
    text = shown(name)
    assert len(text) <= 3000
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or "\u202a" <= c <= "\u202e" for c in text)


# opening


def test_a_file_is_read_below_the_root_and_nowhere_else(root: Root, tmp_path: Path) -> None:
    write(root, "a/b/c.txt", b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    assert root.read_bytes("a/b/c.txt") == b"inside"
    for path in ("../secret", str(tmp_path / "secret"), "a/../../secret"):
        with pytest.raises(ConfinedError):
            root.open_file(path)


def test_S6_B2_links_are_never_followed_whatever_they_point_to(root: Root, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"outside")
    write(root, "folder/inside")
    links = {
        "absolute": "/etc/passwd",
        "out": "../outside/secret",
        "through": "../outside",
        "proc": "/proc/self/environ",
        "loop": "loop",
        "dangling": "nowhere",
        "in": "folder/inside",
        "infolder": "folder",
    }
    for name, target in links.items():
        os.symlink(target, name, dir_fd=root.fd)
    for path in (*links, "through/secret", "infolder/inside", "loop/x"):
        with pytest.raises(FileFault) as caught:
            root.read_bytes(path)
        assert caught.value.code == "path.link"
    for path in ("through/new", "infolder/new"):
        with pytest.raises(FileFault):
            root.create_file(path)
        with pytest.raises(FileFault):
            root.replace_file(path, b"")
        with pytest.raises(FileFault):
            root.remove_tree(path)
        assert not root.exists(path)
    assert {e.path: e.target for e in root.walk() if e.kind == "link"} == links
    assert sorted(os.listdir(tmp_path / "outside")) == ["secret"]


def test_S8_A3_B2_fifos_sockets_and_devices_are_not_opened_and_nothing_hangs(root: Root) -> None:
    os.mkfifo("fifo", dir_fd=root.fd)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(
            f"/proc/self/fd/{root.fd}/socket" if os.path.isdir("/proc/self/fd") else root.path + "/socket"
        )
        names = {"fifo": "fifo", "socket": "socket"}
        if os.geteuid() == 0:
            os.mknod("zero", stat.S_IFCHR | 0o600, os.makedev(1, 5), dir_fd=root.fd)
            names["zero"] = "device"
        assert {e.path: e.kind for e in root.walk()} == names
        for name in names:
            with pytest.raises(ConfinedError) as caught:
                root.open_file(name)
            assert caught.value.code == "path.not_regular"
            with pytest.raises(ConfinedError):
                read_bounded(f"{root.path}/{name}", 10)


def test_S8_a_writer_that_waits_at_a_fifo_is_not_woken(root: Root) -> None:
    os.mkfifo("fifo", dir_fd=root.fd)
    writer = subprocess.Popen(["sh", "-c", 'echo x > "$0"', root.path + "/fifo"])
    try:
        for _ in range(3):
            with pytest.raises(ConfinedError):
                root.read_bytes("fifo")
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.2)
    finally:
        writer.kill()
        writer.wait()


def test_C10_a_link_to_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "endless").symlink_to("/dev/zero")
    with pytest.raises(ConfinedError, match="not a regular file"):
        read_bounded(str(tmp_path / "endless"), 1000)


def test_read_bounded_follows_a_link_to_a_file_of_ours(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"text")
    (tmp_path / "link").symlink_to("real")
    assert read_bounded(str(tmp_path / "link"), 4) == b"text"


def test_S1_more_than_the_limit_is_not_read(root: Root) -> None:
    write(root, "f", b"12345")
    assert root.read_bytes("f", 5) == b"12345"
    with pytest.raises(ConfinedError) as caught:
        root.read_bytes("f", 4)
    assert caught.value.code == "file.too_big"
    with pytest.raises(ConfinedError) as caught:
        read_bounded(root.path + "/f", 4)
    assert caught.value.code == "file.too_big"
    fd = root.create_file("sparse")
    os.truncate(fd, 10 << 30)
    os.close(fd)
    with pytest.raises(ConfinedError):
        root.read_bytes("sparse", 25 << 20)


def test_a_file_without_a_size_is_still_limited() -> None:
    if not os.path.exists("/proc/self/environ"):
        pytest.skip("needs /proc")
    assert len(read_bounded("/proc/self/status", 100_000)) > 100
    with pytest.raises(ConfinedError):
        read_bounded("/proc/self/status", 100)


def test_what_is_missing_or_there_is_also_the_error_python_programs_expect(root: Root) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        root.open_file("no/such")
    assert isinstance(missing.value, MissingFile)
    assert (missing.value.code, missing.value.errno) == ("path.missing", errno.ENOENT)
    write(root, "f")
    with pytest.raises(FileExistsError) as there:
        root.create_file("f")
    assert isinstance(there.value, FileThere)
    assert there.value.code == "path.exists"
    with pytest.raises(MissingFile):
        Root(root.path + "/none")
    with pytest.raises(MissingFile):
        read_bounded(root.path + "/none", 1)
    with pytest.raises(FileFault) as through:
        root.open_file("f/x")
    assert through.value.code == "path.not_folder"


def test_a_folder_that_may_be_passed_but_not_listed_still_gives_its_files(root: Root) -> None:
    write(root, "dark/known", b"seen")
    for path in ("", "/dark", "/dark/known"):
        os.chown(root.path + path, 65534, -1) if os.geteuid() == 0 else None
    os.chmod(root.path + "/dark", 0o300)
    with nobody():
        assert root.read_bytes("dark/known") == b"seen"
        (entry,) = root.walk()
        assert entry.error == "Permission denied"


# creating


def test_X1_modes_are_what_was_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    for value in (0, 0o022, 0o777):
        base = tmp_path / f"u{value}"
        with umask(value), Root.create(str(base / "deep/root")) as root:
            write(root, "a/b/file")
            root.replace_file("a/replaced", b"")
            root.make_dirs("m/n")
            os.close(root.create_file("shown", mode=0o644))
            write_atomic(str(base / "deep/atomic"), b"")
        top = base / "deep/root"
        assert {mode(p) for p in (base, base / "deep", top, top / "a", top / "a/b", top / "m/n")} == {0o700}
        assert {mode(p) for p in (top / "a/b/file", top / "a/replaced", base / "deep/atomic")} == {0o600}
        assert mode(top / "shown") == 0o644


def test_A7_creating_never_writes_into_what_is_there(root: Root, tmp_path: Path) -> None:
    (tmp_path / "authorized_keys").write_bytes(b"mine")
    os.symlink(tmp_path / "authorized_keys", "link", dir_fd=root.fd)
    os.link(tmp_path / "authorized_keys", "hard", dst_dir_fd=root.fd)
    for name in ("link", "hard"):
        with pytest.raises(FileThere):
            root.create_file(name)
        fd = root.create_file(name, exclusive=False)
        os.write(fd, b"new")
        os.close(fd)
        assert root.read_bytes(name) == b"new"
        root.replace_file(name, b"newer")
        assert root.read_bytes(name) == b"newer"
    assert (tmp_path / "authorized_keys").read_bytes() == b"mine"


def test_publish_does_not_replace_unless_told_to(root: Root) -> None:
    root.publish("d/f", lambda fd: os.write(fd, b"one"))
    with pytest.raises(FileThere):
        root.publish("d/f", lambda fd: os.write(fd, b"two"))
    assert root.read_bytes("d/f") == b"one"
    root.publish("d/f", lambda fd: os.write(fd, b"two"), overwrite=True)
    assert root.read_bytes("d/f") == b"two"
    assert [e.path for e in root.walk()] == ["d", "d/f"]


def test_S12_a_disk_that_fills_while_a_file_is_replaced_leaves_the_old_one_whole(root: Root) -> None:
    root.replace_file("d/f", b"old")
    with largest_file(1000):
        with pytest.raises(FileFault) as caught:
            root.replace_file("d/f", b"n" * 5000)
        assert caught.value.code == "store.no_space"
        with pytest.raises(FileFault) as caught:
            write_atomic(root.path + "/d/f", b"n" * 5000)
        assert caught.value.code == "store.no_space"
    assert root.read_bytes("d/f") == b"old"
    assert [e.path for e in root.walk()] == ["d", "d/f"]


@pytest.mark.root
def test_S12_a_really_full_file_system_leaves_the_old_file_whole(tmp_path: Path) -> None:
    need("root")
    mounted = tmp_path / "small"
    mounted.mkdir()
    if subprocess.run(
        [need("mount"), "-t", "tmpfs", "-o", "size=64k,nr_inodes=20", "none", mounted]
    ).returncode:
        pytest.skip("needs the right to mount")
    try:
        with Root(str(mounted)) as root:
            root.replace_file("f", b"old" * 1000)
            with pytest.raises(FileFault) as caught:
                root.replace_file("f", b"n" * 200_000)
            assert caught.value.code == "store.no_space"
            with pytest.raises(FileFault) as caught:
                create_many(root)
            assert caught.value.code == "store.no_space"
            with pytest.raises(FileFault):
                root.replace_file("f", b"new")
            assert root.read_bytes("f") == b"old" * 1000
            assert not [name for name in os.listdir(root.fd) if name.endswith(".tmp")]
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_an_interrupt_while_writing_leaves_nothing_behind(root: Root) -> None:
    def interrupted(fd: int) -> None:
        os.write(fd, b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        root.publish("f", interrupted, overwrite=True)
    assert list(root.walk()) == []


def test_make_dirs_and_rename_stay_below_the_root(root: Root) -> None:
    root.make_dirs("a/b/c")
    root.make_dirs("a/b/c")
    write(root, "f")
    root.rename("f", "a/b/g")
    assert root.exists("a/b/g")
    assert not root.exists("f")
    write(root, "f")
    with pytest.raises(FileThere):
        root.rename("f", "a/b/g", overwrite=False)
    with pytest.raises(FileFault) as caught:
        root.make_dirs("f/x")
    assert caught.value.code == "path.not_folder"
    with pytest.raises(ConfinedError):
        root.rename("f", "../f")


def test_two_threads_may_make_the_same_folders(root: Root) -> None:
    faults: list[Exception] = []

    def make(number: int) -> None:
        try:
            for i in range(50):
                write(root, f"d{i}/e/f{number}")
        except Exception as error:  # noqa: BLE001 - handed to the test, which must find none
            faults.append(error)

    threads = [threading.Thread(target=make, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert sum(e.kind == "file" for e in root.walk()) == 200


# walking


def test_walk_lists_folders_before_their_content_in_order(root: Root) -> None:
    for path in ("b/x", "a-b", "a/z", "a/y/q", "c"):
        write(root, path, b"12")
    assert [e.path for e in root.walk()] == ["a", "a/y", "a/y/q", "a/z", "a-b", "b", "b/x", "c"]
    assert [e.path for e in root.walk("a")] == ["a/y", "a/y/q", "a/z"]
    entry = next(root.walk("a/y"))
    assert (entry.name, entry.kind, entry.size, entry.mode, entry.nlink) == ("q", "file", 2, 0o600, 1)
    assert entry.mtime_ns == root.lstat("a/y/q").st_mtime_ns
    assert [e.path for e in root.walk(enter=lambda e: e.path != "a")] == ["a", "a-b", "b", "b/x", "c"]
    with pytest.raises(MissingFile):
        list(root.walk("none"))
    with pytest.raises(FileFault):
        list(root.walk("c"))


def test_S9_what_cannot_be_listed_is_told_and_the_rest_goes_on(root: Root) -> None:
    for path in ("dark/f", "half/f", "open/f"):
        write(root, path)
    for path in ("", "/dark", "/half", "/half/f", "/open"):
        os.chown(root.path + path, 65534, -1) if os.geteuid() == 0 else None
    os.chmod(root.path + "/dark", 0)
    os.chmod(root.path + "/half", 0o400)
    with nobody():
        found = {e.path: (e.kind, e.error) for e in root.walk()}
    assert found == {
        "dark": ("dir", "Permission denied"),
        "half": ("dir", None),
        "half/f": ("unknown", "Permission denied"),
        "open": ("dir", None),
        "open/f": ("file", None),
    }


def test_S10_every_name_the_disk_can_hold_is_listed_read_and_removed(root: Root) -> None:
    raws = [
        b"\xff\xfe",
        b"caf\xe9",
        b"new\nline",
        b"tab\t",
        b"\x1b[31m",
        "\u202egpj".encode(),
        b"n" * 255,
        b"\xed\xa0\x80",
    ]
    for raw in raws:
        write(root, os.fsdecode(raw), raw)
    found = {os.fsencode(e.path): root.read_bytes(e.path) for e in root.walk()}
    assert found == {raw: raw for raw in raws}
    for raw in raws:
        root.remove(os.fsdecode(raw))
    assert list(root.walk()) == []


def test_S10_a_path_far_beyond_the_systems_limit_is_walked_read_and_removed(root: Root) -> None:
    deep = "/".join(["n" * 200] * 80)
    write(root, deep + "/file", b"deep")
    write(root, deep + "/other/file", b"too")
    assert len(deep) > 4 * 4096 - 500
    assert root.read_bytes(deep + "/file") == b"deep"
    entries = list(root.walk())
    assert sum(e.kind == "dir" for e in entries) == 81
    assert not [e for e in entries if e.error]
    root.remove_tree("n" * 200)
    assert list(root.walk()) == []


@pytest.mark.slow
def test_S10_thousands_of_levels_need_few_descriptors(root: Root) -> None:
    fd = os.dup(root.fd)
    for _ in range(5000):
        os.mkdir("b", dir_fd=fd)
        os.mkdir("a", dir_fd=fd)
        below = os.open("a", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = open_descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 120, limits[1]))
    try:
        entries = list(root.walk())
        assert {e.error for e in entries} == {None, "File name too long"}
        assert len(entries) > 8000
        root.remove_tree("a")
        assert sorted(e.path for e in root.walk()) == ["b"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert open_descriptors() == before


def test_S2_a_walk_ends_at_its_budget_of_names_and_bytes(root: Root) -> None:
    for number in range(10):
        write(root, f"d/{number}", b"12345")
    assert len(list(root.walk(budget_files=11, budget_bytes=50))) == 11
    with pytest.raises(ConfinedError) as caught:
        list(root.walk(budget_files=10))
    assert caught.value.code == "budget.files"
    with pytest.raises(ConfinedError) as caught:
        list(root.walk(budget_bytes=49))
    assert caught.value.code == "budget.bytes"


def test_a_walk_that_is_left_early_closes_what_it_opened(root: Root) -> None:
    write(root, "a/b/c/d/e")
    before = open_descriptors()
    walk = root.walk()
    for _ in range(4):
        next(walk)
    del walk
    assert open_descriptors() == before


def test_faults_leave_no_descriptor_open(root: Root) -> None:
    write(root, "a/f")
    os.symlink("a", "l", dir_fd=root.fd)
    before = open_descriptors()
    for path in ("none/f", "l/f", "a/none", "a/f/x", "a"):
        for call in (root.open_file, root.create_file, root.remove, root.lstat, root.folder):
            if (path, call) in (("a/none", root.create_file), ("none/f", root.create_file)):
                continue
            try:
                opened = call(path)
            except ConfinedError:
                continue
            if isinstance(opened, Root):
                opened.close()
    assert open_descriptors() == before


# removing


def test_remove_tree_takes_links_away_and_leaves_what_they_point_to(root: Root, tmp_path: Path) -> None:
    (tmp_path / "outside/sub").mkdir(parents=True)
    (tmp_path / "outside/sub/keep").write_bytes(b"")
    write(root, "t/a/b")
    os.symlink(tmp_path / "outside", root.path + "/t/link")
    os.symlink(tmp_path / "outside", root.path + "/top")
    os.mkfifo(root.path + "/t/fifo")
    root.remove_tree("t")
    root.remove_tree("top")
    root.remove_tree("never/was")
    remove_tree(root.path + "/none/none")
    assert list(root.walk()) == []
    assert (tmp_path / "outside/sub/keep").exists()
    for path in ("/", "", "..", root.path + "/.."):
        with pytest.raises(ConfinedError):
            remove_tree(path)


def test_remove_tree_takes_away_folders_that_their_owner_locked(root: Root) -> None:
    write(root, "t/locked/inner/f")
    write(root, "t/readonly/f")
    if os.geteuid() == 0:
        for folder in ("", "/t", "/t/locked", "/t/locked/inner", "/t/readonly"):
            os.chown(root.path + folder, 65534, -1)
    os.chmod(root.path + "/t/locked/inner", 0o500)
    os.chmod(root.path + "/t/locked", 0)
    os.chmod(root.path + "/t/readonly", 0o500)
    with nobody():
        root.remove_tree("t")
    assert list(root.walk()) == []


@pytest.mark.root
def test_remove_tree_tells_what_it_could_not_remove_and_removes_the_rest(root: Root) -> None:
    need("root")
    write(root, "t/theirs/f")
    write(root, "t/ours")
    for folder in ("", "/t"):
        os.chown(root.path + folder, 65534, -1)
    with nobody(), pytest.raises(ConfinedError) as caught:
        root.remove_tree("t")
    assert caught.value.code == "path.not_removed"
    assert [e.path for e in root.walk()] == ["t", "t/theirs", "t/theirs/f"]


@pytest.mark.root
def test_remove_tree_does_not_cross_into_another_file_system(root: Root) -> None:
    need("root")
    root.make_dirs("t/mounted")
    if subprocess.run([need("mount"), "-t", "tmpfs", "none", root.path + "/t/mounted"]).returncode:
        pytest.skip("needs the right to mount")
    try:
        Path(root.path, "t/mounted/keep").write_bytes(b"")
        with pytest.raises(ConfinedError, match="another file system"):
            root.remove_tree("t")
        assert root.exists("t/mounted/keep")
    finally:
        subprocess.run(["umount", root.path + "/t/mounted"], check=True)


# copying


@pytest.mark.parametrize("size", [0, 1, 4096, 3_000_001])
@pytest.mark.parametrize("refused", [(), ("clone",), ("clone", "range"), ("clone", "range", "sendfile")])
def test_a_copy_is_equal_by_every_way_the_system_offers(
    root: Root, size: int, refused: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = os.fstat(root.fd).st_dev
    monkeypatch.setattr(confined.files, "_refused", {(way, device, device): True for way in refused})
    data = os.urandom(size)
    write(root, "from", data)
    source, destination = root.open_file("from"), root.create_file("to")
    try:
        assert copy_fd(source, destination) == size
    finally:
        os.close(source)
        os.close(destination)
    assert root.read_bytes("to") == data


def test_a_copy_goes_on_from_where_the_descriptors_stand(root: Root) -> None:
    write(root, "from", b"0123456789")
    source, destination = root.open_file("from"), root.create_file("to")
    os.read(source, 4)
    os.write(destination, b"head ")
    assert copy_fd(source, destination) == 6
    os.close(source)
    os.close(destination)
    assert root.read_bytes("to") == b"head 456789"


def test_a_copy_between_file_systems_and_from_a_pipe_works(root: Root) -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("needs /dev/shm")
    write(root, "from", b"z" * 300_000)
    folder = f"/dev/shm/aml-test-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        with Root.create(folder) as other:
            source, destination = root.open_file("from"), other.create_file("to")
            assert copy_fd(source, destination) == 300_000
            os.close(source)
            os.close(destination)
            assert other.read_bytes("to") == b"z" * 300_000
    finally:
        remove_tree(folder)
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)
    destination = root.create_file("piped")
    assert copy_fd(reader, destination) == 5
    os.close(reader)
    os.close(destination)


def test_S1_a_copy_ends_when_a_file_has_more_than_the_limit(root: Root) -> None:
    write(root, "from", b"z" * 1000)
    source = root.open_file("from")
    destination = root.create_file("to")
    try:
        with pytest.raises(ConfinedError) as caught:
            copy_fd(source, destination, limit=999)
        assert caught.value.code == "file.too_big"
        assert copy_fd(source, destination, limit=1000) == 1000
    finally:
        os.close(source)
        os.close(destination)


def test_nothing_heavy_is_imported() -> None:
    code = "import aml_jupyter.confined, sys; print(*sys.modules)"
    names = subprocess.run(
        [sys.executable, "-S", "-E", "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    heavy = {
        "dataclasses",
        "typing",
        "pathlib",
        "enum",
        "subprocess",
        "inspect",
        "tempfile",
        "logging",
        "shutil",
        "ctypes",
    }
    assert not heavy & set(names.stdout.split())
