"""One run as an RO-Crate: code, outputs, log and environment in a folder or archive that describes itself.

Follows RO-Crate 1.1 and the profile Process Run Crate 0.5; the description is plain JSON-LD, written here.
"""

from __future__ import annotations

import json
import os
import time
import urllib.parse
import zipfile

from aml_jupyter import artifacts
from aml_jupyter.config import aml_home
from aml_jupyter.confined import Root, read_bounded
from aml_jupyter.confined.names import check_found
from aml_jupyter.errors import AmlError, UsageError
from aml_jupyter.interchange.words import ended, finite, log_blocks, log_size, parameters, plain_text, points

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import IO, Any

    from aml_jupyter.runs import Record, RunDirectory

    Entity = dict[str, Any]

METADATA = "ro-crate-metadata.json"
CRATE = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
TERMS = "https://w3id.org/ro/terms/workflow-run"
PARTIAL = ".partial"
LARGEST_TEXT = 64 << 20
STATUS = {"Completed": "CompletedActionStatus"}
MEDIA = {
    "csv": "text/csv",
    "html": "text/html",
    "ipynb": "application/x-ipynb+json",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "md": "text/markdown",
    "png": "image/png",
    "py": "text/x-python",
    "svg": "image/svg+xml",
    "txt": "text/plain",
    "yaml": "application/yaml",
    "yml": "application/yaml",
}


def export(directory: RunDirectory, path: str, *, license_: str | None = None) -> int:
    """Write the crate of a run that has ended to a new folder, or to a new file that ends in `.zip`.

    Returns how many files it holds.  Raises ExportFailed `export.running`, UsageError `export.exists`,
    ArtifactError, SnapshotError.
    """
    if os.path.exists(directory.path + "/remote.json"):
        from aml_jupyter import syncing

        syncing.complete(directory, everything=True)
        syncing.need_snapshot(directory)
    record = ended(directory)
    if path.endswith(".zip"):
        return _to_archive(directory, record, path, license_)
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise _there(path)
    with Root.create(path, mode=0o755) as root:
        return _Crate(directory, record, lambda name, blocks: _write(root, name, blocks)).write(license_)


def _to_archive(directory: RunDirectory, record: Record, path: str, license_: str | None) -> int:
    folder, _, name = path.rpartition("/")
    with Root.create(folder or "/", mode=0o755) as root:
        if root.exists(name):
            raise _there(path)
        partial = f".{name}-{os.getpid()}{PARTIAL}"
        try:
            with (
                os.fdopen(root.create_file(partial, 0o644), "wb") as file,
                zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
            ):
                crate = _Crate(directory, record, lambda inner, blocks: _pack(archive, inner, blocks))
                count = crate.write(license_)
            root.rename(partial, name)
        except BaseException:
            if root.exists(partial):
                root.remove(partial)
            raise
    return count


def _there(path: str) -> UsageError:
    return UsageError(
        f"{path!a} is there already",
        code="export.exists",
        hint="Name a new folder, or a new file that ends in .zip.",
    )


def _write(root: Root, name: str, blocks: Iterable[bytes]) -> None:
    with os.fdopen(root.create_file(name, 0o644), "wb") as file:
        _fill(file, blocks)


def _pack(archive: zipfile.ZipFile, name: str, blocks: Iterable[bytes]) -> None:
    told = zipfile.ZipInfo(name.encode("utf-8", "replace").decode(), time.gmtime()[:6])
    told.compress_type = zipfile.ZIP_DEFLATED
    told.external_attr = 0o644 << 16
    with archive.open(told, "w", force_zip64=True) as file:
        _fill(file, blocks)


def _fill(file: IO[bytes], blocks: Iterable[bytes]) -> None:
    for block in blocks:
        file.write(block)


class _Crate:
    """A crate in the making: every file is written once and described beside it."""

    def __init__(
        self, directory: RunDirectory, record: Record, write: Callable[[str, Iterable[bytes]], None]
    ) -> None:
        self.directory = directory
        self.record = record
        self._write_file = write
        self.files: list[Entity] = []
        self.others: list[Entity] = []
        self.left_out: list[str] = []

    def write(self, license_: str | None) -> int:
        """Write all files, the description last; how many there are."""
        results = self._outputs()
        instrument = self._code()
        results += self._log()
        objects = [*self._parameters(), *self._inputs()]
        environment = self._environment()
        results += self._metrics()
        self._others()
        action = self._action(instrument, objects, results, environment)
        graph = [
            self._descriptor(),
            self._root(action, instrument, license_),
            *self.files,
            *self.others,
            action,
        ]
        context = [f"{CRATE}/context", f"{TERMS}/context"]
        text = json.dumps({"@context": context, "@graph": graph}, indent=2, allow_nan=False)
        self._write_file(METADATA, [text.encode("ascii")])
        return len(self.files) + 1

    # ---- files ---------------------------------------------------------------------------------------------

    def _add(self, path: str, name: str, blocks: Iterable[bytes], **more: object) -> Entity:
        check_found(path)
        size = 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for block in blocks:
                size += len(block)
                yield block

        self._write_file(path, counted())
        ending = path.rpartition(".")[2].lower()
        entity: Entity = {
            "@id": urllib.parse.quote(path.encode("utf-8", "replace")),
            "@type": "File",
            "name": plain_text(name),
            "contentSize": str(size),
            "encodingFormat": MEDIA.get(ending, "application/octet-stream"),
            **more,
        }
        self.files.append(entity)
        return entity

    def _outputs(self) -> list[Entity]:
        found = []
        for item in artifacts.listing(self.directory):
            if item.state == "rejected":
                self.left_out.append(item.path)
                continue
            blocks = artifacts.read_blocks(self.directory, item.path)
            found.append(self._add(item.path, item.path, blocks, sha256=item.sha256))
        return found

    def _code(self) -> Entity:
        """The snapshot below `code/`, and the cell beside it; what was run comes back."""
        from aml_jupyter.snapshot import Store

        store = Store(aml_home() + "/snapshots")
        script: Entity | None = None
        for entry in store.manifest(self.record.snapshot_id) if self.record.snapshot_id else ():
            if entry.kind == "link":
                self.left_out.append(f"code/{entry.path}")
            elif entry.kind == "file":
                blocks = [store.read(self.record.snapshot_id, entry.path)]
                made = self._add(f"code/{entry.path}", entry.path, blocks, sha256=entry.sha256)
                if entry.path == self.record.script_name:
                    script = made
        if self.record.cell_sha256:
            data = self._job_file("cell.py")
            script = self._add("code/cell.py", "the notebook's cell", [data]) if data else script
        if script is None:
            script = {"@id": "#program", "@type": "SoftwareApplication", "name": self._what()}
            self.others.append(script)
            return script
        script["@type"] = ["File", "SoftwareSourceCode"]
        script["programmingLanguage"] = {"@id": "#language"}
        script["encodingFormat"] = "text/x-python"
        script["version"] = self.record.snapshot_id or self.record.cell_sha256
        self.others.append({"@id": "#language", "@type": "ComputerLanguage", "name": "Python"})
        if self.record.python_version:
            self.others[-1]["version"] = self.record.python_version
        return script

    def _job_file(self, name: str) -> bytes:
        try:
            return read_bounded(f"{self.directory.job}/{name}", LARGEST_TEXT)
        except AmlError:  # none, or none of ours
            return b""

    def _log(self) -> list[Entity]:
        size = log_size(self.directory)
        if not size:
            return []
        blocks = log_blocks(self.directory, size)
        return [self._add("log.txt", "what the run printed", blocks, encodingFormat="text/plain")]

    def _environment(self) -> Entity | None:
        """What the run had below it: the lock with every package, or what was found there."""
        from aml_jupyter.environment.keeping import by_digest

        digest = self.record.environment.get("lock")
        lock = by_digest(digest) if isinstance(digest, str) and digest.isalnum() else None
        data = json.dumps(lock.to_json(), indent=1).encode("ascii") if lock else b""
        facts = self.record.environment
        name = "packages, with versions and hashes" if data else "interpreter and packages"
        data = data or json.dumps(finite(facts), indent=1).encode("ascii")
        return self._add("environment.json", name, [data]) if facts else None

    def _others(self) -> None:
        diff = b""
        try:
            diff = read_bounded(self.directory.git_diff, LARGEST_TEXT)
        except AmlError:  # no git, or no changes
            pass
        if diff:
            self._add(
                "uncommitted.diff", "changes that were not committed", [diff], encodingFormat="text/x-diff"
            )
        private = ("supervisor", "project_root", "share", "heartbeat_enabled")
        facts = {name: value for name, value in self.record.to_json().items() if name not in private}
        data = json.dumps(finite(facts), indent=1).encode("ascii")
        self._add("run.json", "the record of the run", [data])

    # ---- descriptions --------------------------------------------------------------------------------------

    def _metrics(self) -> list[Entity]:
        """The metrics as a table of all values, and the last value of each."""
        rows = list(points(self.directory, self.record))
        if not rows:
            return []
        lines = ["name,step,milliseconds,value"]
        lines += [f"{_cell(one.name)},{one.step},{one.moment},{one.value!r}" for one in rows]
        table = self._add("metrics.csv", "every value of every metric", [("\n".join(lines) + "\n").encode()])
        last = {one.name: one.value for one in rows}
        found = [
            {
                "@id": "#metric-" + urllib.parse.quote(name, safe=""),
                "@type": "PropertyValue",
                "name": plain_text(name),
                "value": finite(value),
            }
            for name, value in last.items()
        ]
        self.others += found
        return [table, *found]

    def _parameters(self) -> list[Entity]:
        words = parameters(self.record)
        if self.record.arguments:
            words = {"arguments": " ".join(self.record.arguments), **words}
        found = [
            {
                "@id": "#parameter-" + urllib.parse.quote(name, safe=""),
                "@type": "PropertyValue",
                "name": plain_text(name),
                "value": plain_text(value),
            }
            for name, value in words.items()
        ]
        self.others += found
        return found

    def _inputs(self) -> list[Entity]:
        """Artifacts of earlier runs that this one was given; they are named, not packed."""
        found = []
        for number, one in enumerate(getattr(self.record, "inputs", ())):
            if not isinstance(one, dict):
                continue
            words = {
                key: plain_text(str(value)) for key, value in one.items() if isinstance(value, (str, int))
            }
            name = words.get("name") or f"input {number + 1}"
            found.append(
                {
                    "@id": f"#input-{number + 1}",
                    "@type": "CreativeWork",
                    "name": name,
                    "description": ", ".join(f"{key}: {value}" for key, value in words.items()),
                }
            )
        self.others += found
        return found

    def _what(self) -> str:
        return plain_text(self.record.script_name or self.record.notebook or "cell")

    def _descriptor(self) -> Entity:
        return {
            "@id": METADATA,
            "@type": "CreativeWork",
            "about": {"@id": "./"},
            "conformsTo": {"@id": CRATE},
        }

    def _root(self, action: Entity, instrument: Entity, license_: str | None) -> Entity:
        record = self.record
        self.others += [
            {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        ]
        said = record.note or record.description
        text = f"{self._what()} on {record.target}: {record.status}. {said}".strip()
        if self.left_out:
            text += f" Not in this crate: {', '.join(self.left_out[:20])}."
        root: Entity = {
            "@id": "./",
            "@type": "Dataset",
            "name": plain_text(record.name or record.run_id),
            "identifier": record.uuid or record.run_id,
            "description": plain_text(text),
            "datePublished": _moment(record.end_time_utc or record.created_utc),
            "author": {"@id": self._agent()},
            "conformsTo": {"@id": PROFILE},
            "hasPart": [{"@id": one["@id"]} for one in self.files],
            "mentions": {"@id": action["@id"]},
            "keywords": ", ".join(
                plain_text(f"{key}={value}" if value else key) for key, value in record.tags.items()
            ),
        }
        if not root["keywords"]:
            del root["keywords"]
        if instrument in self.files:
            root["mainEntity"] = {"@id": instrument["@id"]}
        root["license"] = self._license(license_)
        return root

    def _agent(self) -> str:
        return "#agent-" + urllib.parse.quote(self.record.user_id or "unknown", safe="")

    def _license(self, stated: str | None) -> object:
        """A link where an address was given; crates must say something in any case."""
        if not stated or "://" not in stated or not stated.isprintable():
            return plain_text(stated or "None was stated: ask whoever made the run before you use this.")
        entity = {
            "@id": stated,
            "@type": "CreativeWork",
            "name": stated,
            "description": "license of this crate",
        }
        self.others.append(entity)
        return {"@id": stated}

    def _action(
        self, instrument: Entity, objects: list[Entity], results: list[Entity], environment: Entity | None
    ) -> Entity:
        record = self.record
        self.others.append(
            {"@id": self._agent(), "@type": "Person", "name": plain_text(record.user_id or "unknown")}
        )
        action: Entity = {
            "@id": "#" + urllib.parse.quote(record.run_id, safe=""),
            "@type": "CreateAction",
            "name": f"Run {plain_text(record.run_id)} of {self._what()}",
            "description": f"on {plain_text(record.target)} ({record.kind})",
            "startTime": _moment(record.start_time_utc or record.created_utc),
            "endTime": _moment(record.end_time_utc or record.created_utc),
            "actionStatus": "http://schema.org/" + STATUS.get(record.status, "FailedActionStatus"),
            "agent": {"@id": self._agent()},
            "instrument": {"@id": instrument["@id"]},
            "object": [{"@id": one["@id"]} for one in objects + ([environment] if environment else [])],
            "result": [{"@id": one["@id"]} for one in results],
        }
        if record.status != "Completed":
            told = (record.error or {}).get("message") or record.reason or record.status
            action["error"] = plain_text(told)
        image = record.environment.get("image")
        if isinstance(image, str) and record.kind in ("docker", "remotedocker"):
            action["containerImage"] = {"@id": "#image"}
            self.others.append(
                {
                    "@id": "#image",
                    "@type": "ContainerImage",
                    "additionalType": {"@id": TERMS + "#DockerImage"},
                    "name": plain_text(image),
                }
            )
        return {name: value for name, value in action.items() if value not in (None, [])}


def _moment(moment: str) -> str:
    """A moment without fractions of a second, as crates are to have it."""
    return moment[:19] + "+00:00"


def _cell(text: str) -> str:
    text = plain_text(text)
    return '"' + text.replace('"', '""') + '"' if any(one in text for one in ',"\n\r') else text
