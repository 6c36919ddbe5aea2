"""Rows D11, D12 and D13: archives to and from containers."""

from __future__ import annotations

import ast
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aml_jupyter.errors import ArtifactError
from aml_jupyter.executors.docker.copying import unpack
from aml_jupyter.executors.docker.engine import Engine
from aml_jupyter.testing.executor import wait_for_end
from tests import container_runs, engines
from tests.engines import PrivateEngine
from tests.executors.docker_jobs import maker

PACKAGE = Path(__file__).resolve().parents[2] / "aml_jupyter"


def test_D11_no_archive_is_compressed_or_extracted_by_a_library() -> None:
    """Uncompressed archives alone are made and read, and none is unpacked by a call of tarfile."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("extractall", "extract"):
                found.append(f"{path.name}:{node.lineno} {node.attr}")
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
                if text[:2] in ("w:", "w|", "r:", "r|") and text[2:] not in ("", "tar"):
                    found.append(f"{path.name}:{node.lineno} {text}")
    assert found == []


@pytest.mark.slow
def test_D11_files_are_put_only_into_a_container_that_has_not_started(
    engine: engines.Engine, tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one call that puts a working copy somewhere comes between create and start."""
    from aml_jupyter.executors.docker import DockerExecutor

    monkeypatch.setenv("DOCKER_HOST", engine.host)
    states = []
    real = Engine.put_archive

    def look(self: Engine, container: str, path: str, blocks: Iterator[bytes]) -> None:
        found = self.container(container)
        assert found is not None
        states.append(found["State"]["Status"])
        real(self, container, path, blocks)

    monkeypatch.setattr(Engine, "put_archive", look)
    target = {"name": "docker", "image": engines.BASE_IMAGE, "shared_volumes": False}
    job = maker(tmp_path, home, "docker", target)("print('ran')")
    executor = DockerExecutor()
    executor.prepare(job, print)
    handle = executor.start(job, {})
    wait_for_end(executor, handle)
    executor.start(job, {})
    executor.discard(handle)
    assert states == ["created"]


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> Iterator[bytes]:
    """An archive in small blocks."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:", format=tarfile.PAX_FORMAT) as made:
        for info, data in members:
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    data = whole.getvalue()
    return (data[at : at + 700] for at in range(0, len(data), 700))


def member(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "outside" / "into"
    folder.mkdir(parents=True)
    (tmp_path / "outside" / "secret").write_text("untouched")
    return folder


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.mark.parametrize(
    "name",
    [
        "azureml-run/../secret",
        "azureml-run/../../outside/secret",
        "../secret",
        "/etc/passwd",
        "azureml-run//secret",
        "azureml-run/a/../../secret",
        "other/secret",
        "azureml-run/.",
        "azureml-run/..",
    ],
)
def test_D12_a_member_whose_name_leads_elsewhere_is_left_out(into: Path, name: str) -> None:
    unpack(archive((member(name), b"taken"), (member("azureml-run/kept"), b"kept")), str(into))
    assert files(into.parent)["secret"] == "untouched"
    assert set(files(into)) <= {"kept", "secret", "etc/passwd"}
    assert files(into)["kept"] == "kept"
    assert not (into.parent.parent / "secret").exists()


def test_D12_nothing_is_written_through_a_link_of_the_archive(into: Path) -> None:
    unpack(
        archive(
            (member("azureml-run/out", tarfile.SYMTYPE, link=".."), b""),
            (member("azureml-run/out/secret"), b"taken"),
            (member("azureml-run/file", tarfile.SYMTYPE, link="../secret"), b""),
            (member("azureml-run/file"), b"taken"),
            (member("azureml-run/hard", tarfile.LNKTYPE, link="azureml-run/file"), b""),
            (member("azureml-run/away", tarfile.LNKTYPE, link="../secret"), b""),
            (member("azureml-run/etc", tarfile.LNKTYPE, link="/etc/passwd"), b""),
        ),
        str(into),
    )
    assert files(into.parent)["secret"] == "untouched"
    assert files(into).get("file") == "taken"
    assert not (into / "away").exists()
    assert not (into / "etc").exists()


def test_D12_devices_setuid_and_closed_modes_do_not_arrive(into: Path) -> None:
    unpack(
        archive(
            (member("azureml-run/disk", tarfile.BLKTYPE), b""),
            (member("azureml-run/tty", tarfile.CHRTYPE), b""),
            (member("azureml-run/root", mode=0o6755), b"program"),
            (member("azureml-run/closed", mode=0), b"readable"),
        ),
        str(into),
    )
    assert os.stat(into / "root").st_mode & 0o7777 == 0o755
    assert (into / "closed").read_text() == "readable"
    for name in ("disk", "tty"):
        path = into / name
        assert not path.exists() or path.is_fifo()  # told like any other special file, never a device


def test_D12_a_size_that_no_disk_holds_ends_it_before_it_is_written(into: Path) -> None:
    info = member("azureml-run/huge")
    info.size = 1 << 60
    head = info.tobuf(tarfile.PAX_FORMAT)
    sent = []

    def endless() -> Iterator[bytes]:
        yield head
        while True:
            sent.append(1)
            yield bytes(1 << 16)

    with pytest.raises(ArtifactError) as caught:
        unpack(endless(), str(into))
    assert caught.value.code == "artifact.too_big"
    assert len(sent) < 100
    assert files(into) == {}


def test_D12_a_header_that_would_fill_the_memory_ends_it(into: Path) -> None:
    info = member("azureml-run/x", tarfile.XHDTYPE)
    info.size = 1 << 40
    sent = []

    def endless() -> Iterator[bytes]:
        yield info.tobuf(tarfile.USTAR_FORMAT if info.size < 8**11 else tarfile.GNU_FORMAT)
        while True:
            sent.append(1)
            assert len(sent) < 1000, "more than 64 MB of a header were taken"
            yield bytes(1 << 16)

    with pytest.raises(ArtifactError) as caught:
        unpack(endless(), str(into))
    assert caught.value.code in ("artifact.invalid", "artifact.too_big")


def test_D12_too_many_members_end_it(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aml_jupyter.executors.docker.copying.MOST_MEMBERS", 50)
    many = ((member(f"azureml-run/{number}"), b"") for number in range(100))
    with pytest.raises(ArtifactError, match="more than 50 files") as caught:
        unpack(archive(*many), str(into))
    assert caught.value.code == "artifact.too_big"


@pytest.mark.parametrize("cut", [100, 512, 700, 1100])
def test_D12_an_archive_that_breaks_off_is_no_whole_one(into: Path, cut: int) -> None:
    whole = b"".join(archive((member("azureml-run/a"), b"x" * 600)))
    with pytest.raises(ArtifactError) as caught:
        unpack(iter([whole[:cut]]), str(into))
    assert caught.value.code == "artifact.invalid"


HOSTILE = {
    "outputs a link": "os.rmdir('outputs'); os.symlink('/etc', 'outputs')",
    "outputs a link to the share": "os.rmdir('outputs'); os.symlink('/azureml-share', 'outputs')",
    "a link inside": "os.symlink('/etc/passwd', 'outputs/passwd')",
    "a link to a folder": "os.symlink('/etc', 'outputs/etc')",
    "a hard link": "open('a','w').write('mine'); os.link('a', 'outputs/passwd')",
}


@pytest.mark.slow
@pytest.mark.root
@container_runs.BOTH
@pytest.mark.parametrize("what", list(HOSTILE))
def test_D13_D12_links_in_the_place_of_outputs_bring_nothing_of_elsewhere(
    what: str,
    target: str,
    private_engine: PrivateEngine,
    tmp_path: Path,
    home: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = container_runs.project_in(tmp_path, monkeypatch)
    record = container_runs.run(project, f"import os\n{HOSTILE[what]}\nprint('done')", target)
    assert record.status == "Completed"
    kept = [path for path in Path(home, "artifacts").rglob("*") if path.is_file()]
    assert all(b"root:" not in path.read_bytes() for path in kept)
    if what == "a hard link":
        assert [path.read_text() for path in kept if path.name == "passwd"] == ["mine"]
    else:
        assert [path.name for path in kept if path.name in ("passwd", "hosts")] == []
        assert record.warnings
