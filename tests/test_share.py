"""Where the shared folder is for every kind of target, and that access to it never leaves it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aml_jupyter import share
from aml_jupyter.config import Project, Target
from aml_jupyter.confined import ConfinedError, FileFault, FileThere, MissingFile
from aml_jupyter.errors import ConfigError
from aml_jupyter.share import Share
from tests.requirements import need

DEFAULT = "~/.azureml/share/"


def project(**changes: str) -> Project:
    return Project(**{"root": "/p", "account": "A", "workspace": "W", "name": "P", **changes})


def target(kind: str = "local", base: str | None = DEFAULT, **changes: Any) -> Target:
    return Target(name=kind, kind=kind, native_shared_directory=base, **changes)


def resolved(found: Target, **options: Any) -> Share:
    answer = share.resolve(project(), found, **options)
    assert answer is not None
    return answer


@pytest.fixture
def mine(tmp_path: Path) -> Share:
    found = share.resolve(project(), target(base=str(tmp_path / "base")))
    assert found is not None
    assert share.create(found) == ()
    return found


# where it is


@pytest.mark.parametrize(
    ("system", "home", "base", "path"),
    [
        ("posix", "/h/ana", "~/.azureml/share", "/h/ana/.azureml/share/A/W/P/"),
        ("posix", "/h/ana", "~/.azureml/share/", "/h/ana/.azureml/share/A/W/P/"),
        ("posix", "/h/ana/", "~//x//", "/h/ana/x/A/W/P/"),
        ("posix", "/r", "~", "/r/A/W/P/"),
        ("posix", "/", "~/x", "/x/A/W/P/"),
        ("posix", "/h/ana", "/tmp/", "/tmp/A/W/P/"),
        ("posix", "/h/ana", "/", "/A/W/P/"),
        ("posix", "/h/ana", "/datadrive01/amlwbShare/", "/datadrive01/amlwbShare/A/W/P/"),
        ("posix", "/h/ana", "/a~b/my share", "/a~b/my share/A/W/P/"),
        ("darwin", "/Users/ana", DEFAULT, "/Users/ana/.azureml/share/A/W/P/"),
        ("darwin", "/Users/ana", "/Volumes/Big Disk/s", "/Volumes/Big Disk/s/A/W/P/"),
        ("windows", r"C:\Users\ana", "/tmp/", "C:\\tmp\\A\\W\\P\\"),
        ("windows", r"C:\Users\ana", DEFAULT, "C:\\Users\\ana\\.azureml\\share\\A\\W\\P\\"),
        ("windows", "C:\\Users\\ana\\", "~\\.azureml\\share\\", "C:\\Users\\ana\\.azureml\\share\\A\\W\\P\\"),
        ("windows", "C:/Users/ana", "~", "C:\\Users\\ana\\A\\W\\P\\"),
        ("windows", r"C:\Users\ana", r"D:\data", "D:\\data\\A\\W\\P\\"),
        ("windows", r"C:\Users\ana", "d:/data//x/", "d:\\data\\x\\A\\W\\P\\"),
        ("windows", r"C:\Users\ana", "\\\\server\\disk\\s", "\\\\server\\disk\\s\\A\\W\\P\\"),
        ("windows", r"C:\Users\ana", "\\tmp", "C:\\tmp\\A\\W\\P\\"),
        ("windows", r"C:\Users\ana", "D:\\", "D:\\A\\W\\P\\"),
    ],
)
def test_the_variable_of_a_local_target_is_the_folder_with_a_separator_at_its_end(
    system: str, home: str, base: str, path: str
) -> None:
    found = resolved(target(base=base), home=home, system=system)
    assert (found.variable, found.path, found.local) == (path, path, True)
    assert found.path == found.base + ("\\" if system == "windows" else "/").join(["A", "W", "P", ""])


def test_a_windows_path_without_a_disk_lies_on_the_current_one() -> None:
    assert resolved(target(base="/tmp/"), system="windows", drive="E:").path == "E:\\tmp\\A\\W\\P\\"


@pytest.mark.parametrize(
    ("system", "base"),
    [
        ("posix", "C:\\tmp"),
        ("posix", "C:/tmp"),
        ("posix", "\\\\server\\disk"),
        ("posix", "/a\\b"),
        ("posix", "share"),
        ("posix", "./share"),
        ("posix", "~other/share"),
        ("posix", "/a\0b"),
        ("posix", "/a\nb"),
        ("windows", "C:tmp"),
        ("windows", "share"),
        ("windows", "C:\\a<b"),
        ("windows", "C:\\a:b"),
        ("windows", "1:\\a"),
        ("darwin", "share"),
    ],
)
def test_a_base_that_is_no_folder_of_that_machine_is_refused_with_file_and_key(
    system: str, base: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        share.resolve(
            project(), target(base=base, file="/p/aml_config/local.compute"), system=system, home="/h"
        )
    assert caught.value.message.startswith("/p/aml_config/local.compute: nativeSharedDirectory: ")
    assert caught.value.hint


def test_the_home_is_that_of_the_caller(home: str) -> None:
    assert resolved(target()).path == os.path.dirname(home) + "/.azureml/share/A/W/P/"


@pytest.mark.parametrize("kind", ["docker", "remotedocker"])
def test_in_a_container_the_variable_is_exactly_azureml_share(kind: str) -> None:
    found = resolved(target(kind, shared_volumes=True), home="/h/ana")
    assert found.variable == "/azureml-share/"
    assert found.path == "/h/ana/.azureml/share/A/W/P/"
    assert found.local == (kind == "docker")


def test_a_local_run_and_one_in_a_container_here_have_the_same_folder(home: str) -> None:
    assert resolved(target()).path == resolved(target("docker", shared_volumes=True)).path


def test_the_home_of_another_machine_stays_open_until_it_is_known() -> None:
    found = resolved(target("remotedocker", shared_volumes=True))
    assert (found.path, found.variable) == ("~/.azureml/share/A/W/P/", "/azureml-share/")
    found = resolved(target("remote"))
    assert found.path == found.variable == "~/.azureml/share/A/W/P/"
    with pytest.raises(ConfinedError, match="target's machine"):
        share.create(found)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (target(base=None), ["nativeSharedDirectory"]),
        (target("remote", None), ["nativeSharedDirectory"]),
        (target("docker"), ["sharedVolumes: true"]),
        (target("remotedocker", shared_volumes=False), ["sharedVolumes: true"]),
        (target("docker", None, shared_volumes=True), ["nativeSharedDirectory"]),
        (target("docker", None), ["sharedVolumes: true", "nativeSharedDirectory"]),
        (target("cluster"), ["Blob"]),
        (target("cluster", shared_volumes=True), ["Blob"]),
    ],
)
def test_without_a_share_the_reason_says_what_is_missing(found: Target, words: list[str]) -> None:
    assert share.resolve(project(), found) is None
    reason = share.share_reason(found)
    assert all(word in reason for word in words)


def test_with_a_share_there_is_no_reason() -> None:
    assert share.share_reason(target()) == share.share_reason(target("docker", shared_volumes=True)) == ""


def test_C7_code_that_uses_the_share_is_refused_with_the_lines_to_add() -> None:
    text = "open(os.environ['AZUREML_NATIVE_SHARE_DIRECTORY'] + 'model.pkl')"
    with pytest.raises(ConfigError) as caught:
        share.require(target("docker"), text, "train.py")
    assert caught.value.code == "run.share_not_enabled"
    assert caught.value.hint.splitlines()[-2:] == [
        "sharedVolumes: true",
        "nativeSharedDirectory: ~/.azureml/share/",
    ]
    share.require(target("docker"), "print('no share here')", "train.py")
    share.require(target("docker", shared_volumes=True), text, "train.py")
    share.require(target(), text, "train.py")


def test_C8_a_share_on_a_cluster_is_unsupported_and_blob_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        share.require(target("cluster"), share.VARIABLE, "the cell")
    assert caught.value.code == "target.unsupported"
    assert "wasb://" in caught.value.hint


@pytest.mark.parametrize("what", ["account", "workspace", "name"])
@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "a/b", "/a", "a\0", "n" * 300, "CON", "con.txt", "a.", "a ", "a\\b", "a\nb", "a:b"],
)
def test_C9_a_component_that_cannot_be_a_folders_name_is_refused(what: str, name: str) -> None:
    for found in (target(), target("docker", shared_volumes=True), target("remote")):
        with pytest.raises(ConfigError) as caught:
            share.resolve(project(**{what: name}), found, home="/h/ana")
        assert caught.value.code == "config.invalid"


@given(st.text(max_size=60), st.sampled_from(["account", "workspace", "name"]))
def test_C9_no_text_leads_out_of_the_base(name: str, what: str) -> None:
    try:
        found = share.resolve(project(**{what: name}), target(base="/base"))
    except ConfigError:
        return
    assert found is not None
    assert os.path.normpath(found.path) + "/" == found.path
    assert found.path.startswith("/base/")
    assert found.path.count("/") == 5


@given(st.text(max_size=60), st.sampled_from(["posix", "windows", "darwin"]))
def test_any_base_is_absolute_and_ends_with_a_separator_or_is_refused(base: str, system: str) -> None:
    try:
        found = share.resolve(
            project(), target(base=base), home="C:\\h" if system == "windows" else "/h", system=system
        )
    except ConfigError:
        return
    if found is None:
        assert not base
    elif system == "windows":
        assert found.path.endswith("\\A\\W\\P\\")
        assert found.path[1:3] == ":\\" or found.path.startswith("\\\\")
        assert "/" not in found.path
    else:
        assert found.path.endswith("/A/W/P/")
        assert found.path.startswith("/")
        assert "//" not in found.path


# making it


def test_B10_X1_the_folder_is_made_for_its_user_alone_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        found = resolved(target(base=str(tmp_path / "new/base")))
        assert share.create(found) == ()
    finally:
        os.umask(old)
    for folder in ("new", "new/base", "new/base/A", "new/base/A/W", "new/base/A/W/P"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
    assert share.create(found) == ()


def test_B10_a_folder_that_everybody_may_change_is_warned_of(mine: Share) -> None:
    os.chmod(mine.path, 0o777)
    (warning,) = share.create(mine)
    assert "chmod 700" in warning
    os.chmod(mine.path, 0o700)
    os.chmod(mine.base, 0o777)
    (warning,) = share.create(mine)
    assert "every user" in warning
    os.chmod(mine.base, 0o1777)
    assert share.create(mine) == ()


@pytest.mark.root
def test_B10_a_folder_of_another_user_is_refused(mine: Share) -> None:
    need("root")
    os.chown(mine.path, 65534, 65534)
    with pytest.raises(ConfigError) as caught:
        share.create(mine)
    assert caught.value.code == "share.owner"


def test_B10_a_folder_replaced_by_a_link_or_file_is_refused(mine: Share, tmp_path: Path) -> None:
    (tmp_path / "elsewhere/P").mkdir(parents=True)
    folder = Path(mine.base, "A/W")
    (folder / "P").rmdir()
    folder.rmdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError) as caught:
        share.create(mine)
    assert caught.value.code == "share.link"
    with pytest.raises(FileFault):
        share.ls(mine)
    folder.unlink()
    folder.write_bytes(b"")
    with pytest.raises(ConfigError):
        share.create(mine)


def test_a_base_that_is_a_link_is_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "base").symlink_to("disk")
    found = resolved(target(base=str(tmp_path / "base")))
    share.create(found)
    assert (tmp_path / "disk/A/W/P").is_dir()


# its files


def test_files_go_in_and_come_out_whole(mine: Share, tmp_path: Path) -> None:
    source = tmp_path / "model.pkl"
    source.write_bytes(os.urandom(300_000))
    assert share.put(mine, str(source), "deep/m.pkl") == "deep/m.pkl"
    assert share.put(mine, str(source), "deep/") == "deep/model.pkl"
    assert share.put(mine, str(source), ".") == "model.pkl"
    assert [(e.path, e.kind) for e in share.ls(mine)] == [("deep", "dir"), ("model.pkl", "file")]
    assert [(e.path, e.size) for e in share.ls(mine, "deep/")] == [
        ("deep/m.pkl", 300_000),
        ("deep/model.pkl", 300_000),
    ]
    assert [e.path for e in share.ls(mine, "deep/m.pkl")] == ["deep/m.pkl"]
    into = share.get(mine, "deep/m.pkl", str(tmp_path / "back"))
    assert Path(into).read_bytes() == source.read_bytes()
    (tmp_path / "folder").mkdir()
    assert share.get(mine, "./deep/m.pkl", str(tmp_path / "folder")) == str(tmp_path / "folder/m.pkl")
    assert stat.S_IMODE(os.stat(mine.path + "deep/m.pkl").st_mode) == 0o600


def test_nothing_is_replaced_unless_asked(mine: Share, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    share.put(mine, str(one), "f")
    with pytest.raises(FileThere):
        share.put(mine, str(two), "f")
    assert Path(mine.path, "f").read_bytes() == b"1"
    share.put(mine, str(two), "f", overwrite=True)
    assert Path(mine.path, "f").read_bytes() == b"2"
    with pytest.raises(FileThere):
        share.get(mine, "f", str(one))
    assert one.read_bytes() == b"1"
    share.get(mine, "f", str(one), overwrite=True)
    assert one.read_bytes() == b"2"
    assert sorted(os.listdir(mine.path)) == ["f"]


def test_A7_B2_links_are_followed_neither_in_the_share_nor_at_the_destination(
    mine: Share, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    secret = tmp_path / "outside/secret"
    secret.write_bytes(b"secret")
    os.symlink(secret, mine.path + "file")
    os.symlink(tmp_path / "outside", mine.path + "folder")
    os.mkfifo(mine.path + "fifo")
    good = tmp_path / "good"
    good.write_bytes(b"good")
    for name in ("file", "folder/secret", "fifo", "folder"):
        with pytest.raises(ConfinedError):
            share.get(mine, name, str(tmp_path / "got"))
        assert not (tmp_path / "got").exists()
    for name in ("file", "folder/secret", "folder/new", "folder"):
        with pytest.raises(ConfinedError):
            share.put(mine, str(good), name)
    with pytest.raises(ConfinedError):
        share.rm(mine, "folder/secret")
    with pytest.raises(ConfinedError):
        share.ls(mine, "folder/secret")
    assert [(e.path, e.kind) for e in share.ls(mine, "folder/")] == [("folder", "link")]
    share.put(mine, str(good), "file", overwrite=True)
    share.put(mine, str(good), "plain")
    link = tmp_path / "link"
    link.symlink_to(secret)
    with pytest.raises(FileThere):
        share.get(mine, "plain", str(link))
    share.get(mine, "plain", str(link), overwrite=True)
    assert link.read_bytes() == b"good"
    assert not link.is_symlink()
    share.rm(mine, "folder", recursive=True)
    assert sorted(os.listdir(tmp_path / "outside")) == ["secret"]
    assert secret.read_bytes() == b"secret"


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "..", "a//b", "a\0b", "deep/..", "/", "//"]
)
def test_B1_names_that_lead_out_are_refused_by_every_verb(mine: Share, tmp_path: Path, name: str) -> None:
    (tmp_path / "f").write_bytes(b"")
    calls = (
        lambda: share.ls(mine, name),
        lambda: share.put(mine, str(tmp_path / "f"), name),
        lambda: share.get(mine, name, str(tmp_path / "new")),
        lambda: share.rm(mine, name, recursive=True),
    )
    for call in calls:
        with pytest.raises(ConfinedError) as caught:
            call()
        assert caught.value.code in ("name.invalid", "path.missing")
    assert sorted(os.listdir(tmp_path)) == ["base", "f"]
    assert os.listdir(mine.path) == []


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "..%2fx", "\u202egpj", "%2e%2e"])
def test_B1_misleading_names_are_not_put_but_can_be_removed(mine: Share, tmp_path: Path, name: str) -> None:
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(ConfinedError):
        share.put(mine, str(tmp_path / "f"), name)
    Path(mine.path, name).write_bytes(b"written by a script")
    assert [e.path for e in share.ls(mine)] == [name]
    share.rm(mine, name)
    assert share.ls(mine) == []


def test_a_folder_is_removed_with_its_content_only_when_asked_and_the_share_never(mine: Share) -> None:
    os.makedirs(mine.path + "d/e")
    Path(mine.path, "d/e/f").write_bytes(b"")
    with pytest.raises(FileFault) as caught:
        share.rm(mine, "d")
    assert "--recursive" in caught.value.hint
    share.rm(mine, "d", recursive=True)
    for name in ("", ".", "./"):
        with pytest.raises(ConfinedError):
            share.rm(mine, name, recursive=True)
    with pytest.raises(MissingFile):
        share.rm(mine, "d")
    assert os.path.isdir(mine.path)


def test_a_source_that_is_no_file_is_told(mine: Share, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for source in (tmp_path, tmp_path / "fifo", tmp_path / "none"):
        with pytest.raises(ConfinedError):
            share.put(mine, str(source), "x")
    (tmp_path / "real").write_bytes(b"real")
    (tmp_path / "link").symlink_to("real")
    share.put(mine, str(tmp_path / "link"), "x")
    assert Path(mine.path, "x").read_bytes() == b"real"


def test_B11_a_listing_ends_at_its_limit(mine: Share) -> None:
    for number in range(5):
        Path(mine.path, str(number)).write_bytes(b"")
    assert len(share.ls(mine, limit=5)) == 5
    with pytest.raises(ConfinedError) as caught:
        share.ls(mine, limit=4)
    assert caught.value.code == "budget.files"
