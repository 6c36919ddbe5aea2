"""Artifacts of earlier runs as inputs of a later one, and which run was made from which.

resolve      references that a person types, as files that can be placed
made_from    the inputs of a run
used_by      the runs that were made from one
"""

from __future__ import annotations

import os
import re

from aml_jupyter import artifacts, assets, inputs, runs
from aml_jupyter.artifacts.remote import fetch, place_of
from aml_jupyter.artifacts.store import check_key
from aml_jupyter.errors import AmlError, ArtifactError, ConfigError, HistoryError, UsageError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from aml_jupyter.artifacts import Artifact
    from aml_jupyter.config import Project
    from aml_jupyter.runs import Record, RunDirectory

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
ASSET = "asset:"
# below the folder of inputs: what link files of the snapshot name
LINKED = ".assets"
# references to runs that hold a colon themselves
_WITH_COLON = ("@best:", "@max:", "@min:")
# bytes of a Python file that is searched for the names of link files
LARGEST_CODE = 4 << 20
# seconds that one waits for the index to learn what a run was used for
PATIENCE = 1.0
# files that a folder may bring
MOST_FILES = 100_000


class Given(Value):
    """An input of a run: `files` are (path below `place`, key in the store, SHA-256, size).

    `kind` is `file` or `folder`; `place` is where it comes to lie in the working copy.  `sha256` of a folder
    is that of the list of its files.  `asset` names the link file that led to it.
    """

    name: str
    run_id: str
    uuid: str
    path: str
    kind: str
    sha256: str
    size: int
    files: tuple[tuple[str, str, str, int], ...]
    asset: str = ""
    # the link file of the snapshot that asked for it; nobody gave it a name
    link: str = ""

    @property
    def variable(self) -> str:
        """The environment variable in which the run finds it."""
        return inputs.VARIABLE + self.name.upper()

    @property
    def place(self) -> str:
        """The path below the working copy that the variable names."""
        below = self._below
        return f"{below}/{self.files[0][0]}" if self.kind == "file" else below

    @property
    def _below(self) -> str:
        return f"{inputs.FOLDER}/{LINKED}/{self.name}" if self.link else f"{inputs.FOLDER}/{self.name}"

    def as_record(self) -> dict[str, Any]:
        """What the record of the run keeps."""
        names = ("name", "run_id", "uuid", "path", "kind", "sha256", "size", "asset", "link")
        found = {name: getattr(self, name) for name in names if getattr(self, name) != ""}
        return {**found, "files": len(self.files)}

    def as_job(self) -> list[dict[str, Any]]:
        """What the job is told of each file."""
        return [
            {"path": f"{self._below}/{path}", "key": key, "sha256": sha256, "size": size}
            for path, key, sha256, size in self.files
        ]


def resolve(given: Mapping[str, str], home: str, project: Project | None) -> tuple[Given, ...]:
    """The inputs that references mean: `RUN:PATH`, or `asset:NAME` and `asset:NAME@2` of the project.

    Raises UsageError, RunNotFound, ArtifactError `artifact.unknown`, `input.gone` where the bytes are not
    there any more, `input.unfinished` for a run that has not ended, ConfigError `asset.unknown`.
    """
    _check_names(given)
    return tuple(_one(name, reference, home, project) for name, reference in given.items())


def _check_names(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"--input {name!r}: the name of an input has letters, digits and _, and begins with no digit",
                hint="Such as --input model=@last:outputs/model.pkl",
            )
        if other := seen.get(name.upper()):
            raise UsageError(
                f"--input {name}: there is {other} already", hint="Names differ in more than case."
            )
        seen[name.upper()] = name


def _one(name: str, reference: str, home: str, project: Project | None) -> Given:
    if reference.startswith(ASSET):
        if project is None:
            raise UsageError(f"{reference}: assets are of a project, and here is none")
        link = assets.find(project.root, reference[len(ASSET) :])
        return of_link(name, link, home)
    run, path = split(reference)
    directory = runs.find(run, home, project)
    return of_run(name, directory, path)


def split(reference: str) -> tuple[str, str]:
    """The run and the path of `RUN:PATH`.  Raises UsageError."""
    lead = next((word for word in _WITH_COLON if reference.startswith(word)), "")
    run, colon, path = reference[len(lead) :].partition(":")
    if not colon or not run:
        raise UsageError(
            f"{reference!r} is no artifact of a run",
            hint="Such as @last:outputs/model.pkl, RUN:outputs/data (a folder) or asset:NAME",
        )
    return lead + run, path


def of_run(name: str, directory: RunDirectory, path: str) -> Given:
    """An artifact of a run, or a folder of them.  Raises ArtifactError."""
    record = runs.read_record(directory)
    if not record.ended:
        raise ArtifactError(
            f"{record.run_id} has not ended: its artifacts are kept when it does",
            code="input.unfinished",
            hint=f"aml wait {record.run_id}",
        )
    path = path.strip("/") or "outputs"
    found = artifacts.chosen(directory, path)
    if len(found) > MOST_FILES:
        raise ArtifactError(f"{path} of {record.run_id} has {len(found)} files", code="artifact.too_many")
    # those of a run that came from a store may be there alone
    fetch(directory, [item for item, _ in found])
    for item, _ in found:
        require(directory, record, item)
    alone = len(found) == 1 and found[0][0].path in (path, "outputs/" + path)
    files = tuple((name, item.key, item.sha256, item.size) for item, name in found)
    return Given(
        name=name,
        run_id=record.run_id,
        uuid=record.uuid,
        path=found[0][0].path if alone else path,
        kind="file" if alone else "folder",
        sha256=files[0][2] if alone else digest_of(files),
        size=sum(one[3] for one in files),
        files=files,
    )


def of_link(name: str, link: Any, home: str) -> Given:
    """The artifact that a link file names, as it was promoted.  Raises ArtifactError, RunNotFound."""
    directory = runs.find(link.run_id, home)
    found = of_run(name, directory, link.path)
    if found.sha256 != link.sha256 or (link.uuid and found.uuid != link.uuid):
        raise ArtifactError(
            f"{link.file}: {link.path} of {link.run_id} is not what was promoted",
            code="asset.changed",
            hint=f"aml show {link.run_id}; aml promote RUN PATH {link.name} makes a new version",
        )
    return found.replace(asset=f"{link.name}@{link.version}")


def linked(entries: Iterable[Any], read: Callable[[str], bytes], cell: bytes | None, home: str) -> Linked:
    """The artifacts of the link files in a snapshot whose names stand in its code or in the cell.

    What cannot be given is told to whoever asks for it inside the run, and no reason to refuse the run.
    """
    files = [entry for entry in entries if entry.kind == "file"]
    links = [one for one in files if _is_link(one.path) and one.size <= assets.LARGEST]
    if not links:
        return Linked()
    code = [cell or b"", *(read(one.path) for one in files if _is_code(one))]
    found: list[Given] = []
    problems: list[tuple[str, str, str, str]] = []
    for entry in links:
        if not any(entry.path.rpartition("/")[2].encode() in text for text in code):
            continue
        try:
            link = assets.read(entry.path, read(entry.path)).newest
        except AmlError:  # not ours; whoever opens it is told
            continue
        try:
            found.append(of_link(link.name, link, home).replace(link=entry.path))
        except AmlError as error:
            problems.append((entry.path, link.path, link.sha256, error.message))
    return Linked(given=tuple(found), problems=tuple(problems))


class Linked(Value):
    """What link files name; `problems` are (link file, path of the artifact, SHA-256, why not)."""

    given: tuple[Given, ...] = ()
    problems: tuple[tuple[str, str, str, str], ...] = ()

    def as_document(self, work: str) -> dict[str, Any]:
        """What the run reads: by link file, where the artifact lies below `work`."""
        placed: dict[str, Any] = {
            one.link: {"path": f"{work}/{one.place}", "artifact": one.path, "sha256": one.sha256}
            for one in self.given
        }
        for link, path, sha256, problem in self.problems:
            placed[link] = {"artifact": path, "sha256": sha256, "problem": problem}
        return placed


def _is_link(path: str) -> bool:
    return path.startswith("assets/") and path.endswith(".link") and path.count("/") == 1


def _is_code(entry: Any) -> bool:
    return bool(entry.path.endswith(".py")) and entry.size <= LARGEST_CODE


def digest_of(files: Sequence[tuple[str, str, str, int]]) -> str:
    """SHA-256 of the paths and hashes of a folder's files."""
    import hashlib

    lines = sorted(f"{path}\0{sha256}\n" for path, _, sha256, _ in files)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def require(directory: RunDirectory, record: Record, item: Artifact) -> None:
    """Raise ArtifactError `input.gone` where the bytes of an artifact are not kept on this computer."""
    try:
        check_key(item.key)
        found = artifacts.store_of(directory).stat(item.key)
    except AmlError as error:
        found, why = None, str(error.message)
    else:
        why = "they were deleted" if found is None else f"there are {found.size} bytes instead of {item.size}"
    if found is not None and found.size == item.size:
        return
    raise ArtifactError(
        f"{item.path} of {record.run_id}: its bytes are gone: {why}",
        code="input.gone",
        hint=f"Make them again: aml rerun {record.run_id}",
    )


def promote(
    root: str, directory: RunDirectory, path: str, name: str | None = None, *, note: str = ""
) -> assets.Asset:
    """Make an artifact of a run the newest version of an asset of a project.  Raises AmlError."""
    found = of_run("asset", directory, path)
    name = name or os.path.basename(found.path.rstrip("/")) or "outputs"
    link = assets.Link(
        name=name,
        version=0,
        run_id=found.run_id,
        uuid=found.uuid,
        path=found.path,
        kind=found.kind,
        sha256=found.sha256,
        size=found.size,
        files=len(found.files),
        store=_store_of(directory),
        created_utc=runs.utc(),
        note=note,
    )
    return assets.add(root, name, link)


def _store_of(directory: RunDirectory) -> str:
    """Where the artifacts of a run are kept, without credentials."""
    from aml_jupyter.environment.credentials import strip

    if (place := place_of(directory)) is not None:
        return place.store
    manifest = artifacts.read_manifest(directory)
    return strip(manifest.store) if manifest else "folder"


def check_places(given: Sequence[Given], entries: Iterable[Any]) -> None:
    """Raise ConfigError `input.name_taken` where the snapshot has files in the place of an input."""
    taken = {f"{inputs.FOLDER}/{one.name}": one for one in given}
    for entry in entries:
        if entry.path == inputs.FOLDER and entry.kind != "dir":
            raise ConfigError(
                f"the project has a file named {inputs.FOLDER}, where the inputs of a run lie",
                code="input.name_taken",
                hint=f"Rename it, or leave it out: --exclude /{inputs.FOLDER}",
            )
        top = "/".join(entry.path.split("/")[:2])
        if one := taken.get(top):
            raise ConfigError(
                f"the project has {entry.path} in the place of the input {one.name}",
                code="input.name_taken",
                hint=f"Give the input another name, or leave the project's out: --exclude /{top}",
            )


def made_from(record: Record) -> list[dict[str, Any]]:
    """The inputs of a run, as its record has them; what another one's record made up is left out."""
    return [dict(one) for one in record.inputs if isinstance(one, dict) and one.get("name")]


def used_by(record: Record, home: str) -> list[tuple[str, str]]:
    """The runs made from a run, newest first: (`input` or `rerun`, run id); asks the index alone."""
    if not record.uuid:
        return []
    try:
        with runs.History(home, patience=PATIENCE) as history:
            return [(kind, one.run_id) for kind, one in history.users(record.uuid)]
    except HistoryError as error:
        if error.code != "history.locked":
            raise
        return []  # a run is shown all the same
