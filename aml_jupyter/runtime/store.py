"""Files of runs on an engine's machine: receives what it lacks, lays runs out, gives back what they changed.

Runs in a container of its own (`python store.py FOLDER`, or as text by `-c`) with the folder mounted; speaks
by lines of JSON and raw bytes on standard input and output.

    objects/<2 hex>/<sha256>   contents, each once
    runtimes/<version>/        the runtime, each version once
    runs/<name>/               job/ and work/ as the run's container sees them, `laid_out` as they were made

Whatever is written is verified and appears by a rename: a line that breaks leaves nothing that looks whole.
"""

import hashlib
import json
import os
import shutil
import sys
import tarfile
import time
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Dict, Iterator, List, Tuple

BLOCK = 1 << 20


class Refused(Exception):
    """What came is not what was announced."""


def main(folder: str, source: "BinaryIO", answers: "BinaryIO") -> int:
    """Do what the first line asks; 0 when it was done whole."""
    os.umask(0o077)
    os.chdir(folder)
    line = source.readline()
    try:
        order = json.loads(line.decode("ascii"))
        document = json.loads(zlib.decompress(_exactly(source, order["size"])).decode("utf-8"))
        if order["do"] == "receive":
            receive(document, source, answers)
        elif order["do"] == "gather":
            gather(document["run"], answers)
        else:
            sweep(document["days"], answers)
    except (OSError, ValueError, KeyError, Refused, zlib.error, EOFError) as error:
        say = {"error": str(error) or type(error).__name__, "errno": getattr(error, "errno", None)}
        if order_of(line) == "gather":  # what it answers is an archive
            sys.stderr.write(json.dumps(say) + "\n")
        else:
            _say(answers, say)
        return 1
    return 0


def order_of(line: bytes) -> str:
    """What a first line asks for, as far as it can be read."""
    try:
        return str(json.loads(line.decode("ascii"))["do"])
    except (ValueError, KeyError, TypeError):
        return ""


def _say(answers: "BinaryIO", document: "Dict[str, Any]") -> None:
    answers.write(json.dumps(document).encode("ascii") + b"\n")
    answers.flush()


def _exactly(source: "BinaryIO", size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise EOFError("the line broke")
    return data


def receive(document: "Dict[str, Any]", source: "BinaryIO", answers: "BinaryIO") -> None:
    """Ask for the contents that are not here, then lay out the run.

    `contents` are SHA-256 in hex; `work`, `job` and `runtime` are rows
    `[kind, path, mode, content or target]` with an index into `contents`.
    """
    contents = document["contents"]
    missing = [number for number, digest in enumerate(contents) if not os.path.exists(_object(digest))]
    _say(answers, {"missing": missing})
    for number in missing:
        _store(contents[number], source)
    now = time.time()
    for digest in contents:
        os.utime(_object(digest), (now, now))  # sweep looks at when one was used last
    runtime = "runtimes/" + _name(document["version"])
    if not os.path.isdir(runtime):
        _appear(runtime, document["runtime"], contents)
    run = "runs/" + _name(document["run"])
    os.makedirs(run, exist_ok=True)
    if not os.path.isdir(run + "/job"):
        _appear(run + "/job", document["job"], contents)
    if not os.path.isdir(run + "/work"):
        _appear(run + "/work", document["work"], contents, run + "/laid_out")
    _say(answers, {"done": True})


def _name(text: str) -> str:
    if not text or "/" in text or text.startswith("."):
        raise Refused("%r is no name" % text)
    return text


def _object(digest: str) -> str:
    return "objects/%s/%s" % (digest[:2], digest)


def _store(digest: str, source: "BinaryIO") -> None:
    """Take in one content: its size on a line, its bytes."""
    left = int(source.readline() or b"-1")
    if left < 0:
        raise EOFError("the line broke")
    path = _object(digest)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = "%s.%s" % (path, os.urandom(8).hex())
    found = hashlib.sha256()
    try:
        with open(partial, "wb") as file:
            while left:
                block = _exactly(source, min(left, BLOCK))
                found.update(block)
                file.write(block)
                left -= len(block)
            file.flush()
            os.fsync(file.fileno())
        if found.hexdigest() != digest:
            raise Refused("a content is not what it was announced as")
        os.rename(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def _appear(folder: str, rows: "List[List[Any]]", contents: "List[str]", seen: "str" = "") -> None:
    """Make a tree under another name and rename it; `seen` is a file for how its files were when made."""
    partial = "%s.%s" % (folder, os.urandom(8).hex())
    made = {}
    try:
        os.makedirs(partial)
        for kind, path, mode, what in rows:
            where = partial + "/" + _below(path)
            if kind == "dir":
                os.makedirs(where, exist_ok=True)
                os.chmod(where, mode | 0o700)
            elif kind == "link":
                os.symlink(what, where)
            else:
                os.makedirs(os.path.dirname(where), exist_ok=True)
                shutil.copyfile(_object(contents[what]), where)
                os.chmod(where, mode | 0o600)
                about = os.stat(where)
                made[path] = [about.st_size, about.st_mtime_ns]
        if seen:
            os.makedirs(partial + "/outputs", exist_ok=True)
            with open(seen, "w", encoding="ascii") as file:
                json.dump(made, file)
        os.rename(partial, folder)
    finally:
        if os.path.exists(partial):
            shutil.rmtree(partial, ignore_errors=True)


def _below(path: str) -> str:
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise Refused("%r is no path" % path)
    return path


def gather(run: str, answers: "BinaryIO") -> None:
    """Give what a run added or changed in its working copy as an uncompressed tar."""
    folder = "runs/" + _name(run)
    with open(folder + "/laid_out", encoding="ascii") as file:
        made = json.load(file)
    archive = tarfile.open(fileobj=answers, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape")
    with archive:
        for path, about in _entries(folder + "/work", ""):
            if made.get(path) == [about.st_size, about.st_mtime_ns]:
                continue
            archive.add(os.path.join(folder, "work", path), "azureml-run/" + path, recursive=False)
    answers.flush()
    sys.stderr.write('{"done": true}\n')


def _entries(folder: str, prefix: str) -> "Iterator[Tuple[str, os.stat_result]]":
    """Files, folders and links below, parents first; what cannot be read is left out, and told."""
    try:
        names = sorted(os.listdir(folder + "/" + prefix))
    except OSError as error:
        sys.stderr.write(json.dumps({"unreadable": prefix, "error": str(error)}) + "\n")
        return
    for name in names:
        path = prefix + name
        about = os.lstat(folder + "/" + path)
        kind = about.st_mode & 0o170000
        if kind == 0o040000:
            yield path, about
            for entry in _entries(folder, path + "/"):
                yield entry
        elif kind == 0o120000 or (kind == 0o100000 and _readable(folder + "/" + path)):
            yield path, about


def _readable(path: str) -> bool:
    if os.access(path, os.R_OK):
        return True
    try:
        os.chmod(path, 0o600)
    except OSError as error:
        sys.stderr.write(json.dumps({"unreadable": path, "error": str(error)}) + "\n")
        return False
    return True


def sweep(days: float, answers: "BinaryIO") -> None:
    """Remove contents that no run has used for some days."""
    oldest = time.time() - days * 86400
    removed = freed = 0
    for folder, _, names in os.walk("objects"):
        for name in names:
            path = os.path.join(folder, name)
            try:
                about = os.stat(path)
                if about.st_mtime < oldest:
                    os.unlink(path)
                    removed += 1
                    freed += about.st_size
            except FileNotFoundError:
                continue
    _say(answers, {"done": True, "removed": removed, "bytes": freed})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer))
