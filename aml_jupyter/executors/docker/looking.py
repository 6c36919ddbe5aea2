"""The outputs of a run that goes on, out of its container or from the machine where they are written.

They are the work of whatever runs there, and it works on meanwhile: no link is followed, on the way to them
neither, and names, sizes and numbers are believed as little as behind a run's end.
"""

from __future__ import annotations

from aml_jupyter.confined.names import check_found
from aml_jupyter.demands import WORK_IN_CONTAINER
from aml_jupyter.errors import ArtifactError, ConfinedError
from aml_jupyter.executors.docker import containers
from aml_jupyter.executors.docker.copying import BLOCK, TOP, members, opened
from aml_jupyter.executors.docker.engine import EngineRefused
from aml_jupyter.executors.docker.helper import Helper, ordered

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator

    from aml_jupyter.executors import Take
    from aml_jupyter.executors.docker.engine import Engine
    from aml_jupyter.executors.docker.there import There
    from aml_jupyter.job import Job

# bytes of files that an engine is made to send for the sake of their names; sparse ones cost a run nothing
MOST_PASSED = 256 << 30
# of HTTP
GONE = 404


def in_container(engine: Engine, container: str, path: str, take: Take, *, content: bool) -> None:
    """Take the regular files at or below a path of the working copy in a container.

    An engine has no list of a container's files: for one, the archive that it sends is passed over.
    Raises ArtifactError `artifact.invalid` for a container that is gone, TargetUnavailable.
    """
    *above, last = check_found(path)
    folders = ["/".join(above[:count]) for count in range(len(above) + 1)]
    try:
        if not all(_is_folder(engine, container, folder) for folder in folders):
            return
        with engine.get_archive(container, _place(path)) as blocks, opened(blocks) as archive:
            files = _Files(archive, last, path, path)
            files.take(take, content=content)
    except EngineRefused as error:
        if error.status != GONE:
            raise
        if not container or engine.container(container) is None:
            raise ArtifactError("its container is gone", code="artifact.invalid") from error
        return
    for name, size in files.linked:  # asked for alone it is a file; the engine sends one archive at a time
        if content:
            in_container(engine, container, name, take, content=True)
        else:
            take(name, size, iter(()))


def _place(path: str) -> str:
    # no slash at the end: a link in its place is sent as a link
    return f"{WORK_IN_CONTAINER}/{path}" if path else WORK_IN_CONTAINER


def _is_folder(engine: Engine, container: str, path: str) -> bool:
    """Whether a path is a folder and no link: the engine itself would follow one on the way to a file."""
    with engine.get_archive(container, _place(path)) as blocks, opened(blocks) as archive:
        first = archive.next()
        return first is not None and first.isdir()


def on_machine(place: There, job: Job, path: str, take: Take, *, content: bool) -> None:
    """Take the regular files at or below a path of the working copy on another machine.

    Raises ArtifactError `artifact.invalid` for files that changed while they were sent, TargetUnavailable.
    """
    check_found(path)
    document = {"run": containers.container_name(job), "path": path, "content": content}
    with Helper(place, job, "give") as helper:
        helper.conversation.send(ordered({"do": "give"}, document))
        try:
            with opened(helper.conversation.output()) as archive:
                _Files(archive, TOP, "", path).take(take, content=content)
        except ArtifactError as error:
            if error.code == "artifact.invalid" and b'"errno"' not in helper.conversation.errors:
                helper.confirm()  # the line broke
            raise
        helper.confirm()


class _Files:
    """The regular files at or below a path that an archive has.

    Its members lie below `top`, which is `folder` in the working copy; `linked` are the second names of files
    with their sizes, which have no bytes in an archive.
    """

    def __init__(self, archive: tarfile.TarFile, top: str, folder: str, path: str) -> None:
        self._archive, self._top, self._folder, self._path = archive, top, folder, path
        self._sizes: dict[str, int] = {}
        self.linked: list[tuple[str, int]] = []

    def take(self, take: Take, *, content: bool) -> None:
        """Take each, in the order of the archive."""
        passed = 0
        for member in members(self._archive):
            name = self._name(member.name)
            if not name or name in self._sizes:
                continue
            if member.isreg():
                passed += 0 if content else member.size
                _check_passed(passed, name)
                self._sizes[name] = _size(member)
                take(name, self._sizes[name], self._data(member))
            elif member.islnk() and (first := self._name(member.linkname)) in self._sizes:
                self._sizes[name] = self._sizes[first]
                self.linked.append((name, self._sizes[name]))

    def _name(self, member: str) -> str:
        """The path in the working copy of a member; empty for what is none that was asked for."""
        head, _, rest = member.partition("/")
        name = "/".join(filter(None, (self._folder, rest)))
        if head != self._top or not f"{name}/".startswith(self._path + "/"):
            return ""
        try:
            check_found(name)
        except ConfinedError:
            return ""
        return name

    def _data(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        source = self._archive.extractfile(member)
        assert source is not None
        while block := source.read(BLOCK):
            yield block


def _check_passed(passed: int, name: str) -> None:
    if passed > MOST_PASSED:
        raise ArtifactError(
            f"the outputs so far, with {name}, have over {MOST_PASSED >> 30} GiB: too much to look through",
            code="artifact.too_big",
            hint="Name the file or folder that you want.",
        )


def _size(member: tarfile.TarInfo) -> int:
    written = member.pax_headers.get("AML.size", "")
    return int(written) if written.isdecimal() and len(written) < 19 else max(0, member.size)
