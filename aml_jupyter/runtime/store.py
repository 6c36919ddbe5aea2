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
# seconds between two words on how far it is
PAUSE = 2.0
# how a place of a run that goes on is opened: it may have become a link, or a FIFO that nobody writes to
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# folders below each other that are looked into, each with a descriptor
DEEPEST = 200


class Refused(Exception):
    """What came is not what was announced."""


class Vanished(Exception):
    """A content that was here is not any more: it has to be sent again."""


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
        elif order["do"] == "give":
            give(document, answers)
        else:
            gather(document, answers)
    except (OSError, ValueError, KeyError, Refused, Vanished, zlib.error, EOFError) as error:
        say = {
            "error": str(error) or type(error).__name__,
            "errno": getattr(error, "errno", None),
            "again": isinstance(error, Vanished),
        }
        if order_of(line) in ("gather", "give"):  # what it answers is an archive
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


class Progress:
    """Says every other second how many bytes have been taken in, also while none come."""

    def __init__(self, answers: "BinaryIO") -> None:
        self.answers = answers
        self.stored = 0
        self.due = time.monotonic() + PAUSE

    def add(self, size: int = 0) -> None:
        """Something was done."""
        self.stored += size
        if time.monotonic() >= self.due:
            _say(self.answers, {"stored": self.stored})
            self.due = time.monotonic() + PAUSE


def receive(document: "Dict[str, Any]", source: "BinaryIO", answers: "BinaryIO") -> None:
    """Ask for the contents that are not here, then lay out the run.

    `contents` are SHA-256 in hex; `work`, `job` and `runtime` are rows `[kind, path, mode, what]`: the index
    of a content, or the target of a link; contents in `private` are not kept beside the run.
    """
    contents = document["contents"]
    missing = [number for number, digest in enumerate(contents) if not _is_here(digest)]
    _say(answers, {"missing": missing})
    progress = Progress(answers)
    for number in missing:
        _store(contents[number], source, progress)
    runtime = "runtimes/" + _name(document["version"])
    if not os.path.isdir(runtime):
        _appear(runtime, document["runtime"], contents, progress)
    run = "runs/" + _name(document["run"])
    os.makedirs(run, exist_ok=True)
    for name in os.listdir(run):  # of one that was killed
        if name.startswith(("job.", "work.")):
            shutil.rmtree(run + "/" + name, ignore_errors=True)
    if not os.path.isdir(run + "/job"):
        _appear(run + "/job", document["job"], contents, progress)
    if not os.path.isdir(run + "/work"):
        _appear(run + "/work", document["work"], contents, progress, run + "/laid_out")
    for number in document["private"]:
        _forget(contents[number])
    _say(answers, {"done": True})


def _is_here(digest: str) -> bool:
    """Whether a content is here; the time of its last use is what a sweep looks at."""
    try:
        os.utime(_object(digest))
    except FileNotFoundError:
        return False
    return True


def _forget(digest: str) -> None:
    try:
        os.unlink(_object(digest))
    except FileNotFoundError:  # another run with the same one was faster
        pass


def _name(text: str) -> str:
    if not text or "/" in text or text.startswith("."):
        raise Refused("%r is no name" % text)
    return text


def _object(digest: str) -> str:
    return "objects/%s/%s" % (digest[:2], digest)


def _store(digest: str, source: "BinaryIO", progress: Progress) -> None:
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
                progress.add(len(block))
        if found.hexdigest() != digest:
            raise Refused("a content is not what it was announced as")
        os.rename(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
    progress.add()


def _copy(digest: str, where: str) -> None:
    """A content as a file.  It is verified: what a power cut left of one must not become a run's."""
    found = hashlib.sha256()
    try:
        with open(_object(digest), "rb") as file, open(where, "xb") as copy:
            for block in iter(lambda: file.read(BLOCK), b""):
                found.update(block)
                copy.write(block)
    except FileNotFoundError:
        raise Vanished("a content was removed meanwhile") from None
    if found.hexdigest() != digest:
        os.unlink(_object(digest))
        raise Vanished("a content was damaged")


def _appear(
    folder: str, rows: "List[List[Any]]", contents: "List[str]", progress: Progress, seen: "str" = ""
) -> None:
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
                _copy(contents[what], where)
                # what a run is given is not to be changed by mistake
                os.chmod(where, mode if kind == "given" else mode | 0o600)
                made[path] = _seen(os.stat(where))
            progress.add()
        if seen:
            os.makedirs(partial + "/outputs", exist_ok=True)
            with open(seen, "w", encoding="ascii") as file:
                json.dump(made, file)
        try:
            os.rename(partial, folder)
        except OSError:
            if not os.path.isdir(folder):  # made by another one meanwhile
                raise
    finally:
        if os.path.exists(partial):
            shutil.rmtree(partial, ignore_errors=True)


def _seen(about: os.stat_result) -> str:
    """What tells whether a file is still as it was."""
    return "%d %d %d" % (about.st_size, about.st_mtime_ns, about.st_ctime_ns)


def _below(path: str) -> str:
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise Refused("%r is no path" % path)
    return path


def gather(document: "Dict[str, Any]", answers: "BinaryIO") -> None:
    """Give what a run added or changed in its working copy as an uncompressed tar.

    Without what the asker has already: `have` are paths with what `AML.seen` said in their headers.
    """
    folder = "runs/" + _name(document["run"])
    work, have = folder + "/work", document["have"]
    with open(folder + "/laid_out", encoding="ascii") as file:
        made = json.load(file)
    archive = tarfile.open(fileobj=answers, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape")
    with archive:
        for path, about in _entries(work, ""):
            seen = _seen(about)
            if seen in (made.get(path), have.get(path)):
                continue
            place = os.path.join(work, path)
            member = archive.gettarinfo(place, "azureml-run/" + path)
            member.pax_headers = {"AML.seen": seen}
            if member.isreg():
                with open(place, "rb") as content:
                    archive.addfile(member, content)
            else:
                archive.addfile(member)
    answers.flush()
    sys.stderr.write('{"done": true}\n')


def give(document: "Dict[str, Any]", answers: "BinaryIO") -> None:
    """Give the regular files at or below a path of a working copy as they are now as an uncompressed tar.

    Without `content` they are empty there; `AML.size` in their headers says how large they are.  The run that
    goes on may put a link in any place meanwhile: each folder is opened in the one above it, links never.
    """
    *above, name = _below(document["path"]).split("/")
    archive = tarfile.open(fileobj=answers, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape")
    with archive:
        folder = os.open("runs/" + _name(document["run"]), FOLDER)
        try:
            for part in ["work"] + above:
                try:
                    below = os.open(part, FOLDER, dir_fd=folder)
                except OSError:  # not there, or not a folder
                    break
                os.close(folder)
                folder = below
            else:
                _give(archive, folder, name, document["path"], document["content"])
        finally:
            os.close(folder)
    answers.flush()
    sys.stderr.write('{"done": true}\n')


def _give(archive: "tarfile.TarFile", folder: int, name: str, path: str, content: bool) -> None:
    """Give a file, or what is below a folder; what is neither, or gone, or not to be read is left out."""
    try:
        kind = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode & 0o170000
        if kind not in (0o040000, 0o100000) or path.count("/") > DEEPEST:
            return
        fd = os.open(name, FOLDER if kind == 0o040000 else FILE, dir_fd=folder)
    except OSError:
        return
    try:
        if kind == 0o040000:
            for below in sorted(os.listdir(fd)):
                _give(archive, fd, below, path + "/" + below, content)
        else:
            _give_file(archive, fd, path, content)
    finally:
        os.close(fd)


def _give_file(archive: "tarfile.TarFile", fd: int, path: str, content: bool) -> None:
    about = os.fstat(fd)
    if about.st_mode & 0o170000 != 0o100000:  # another one took its place
        return
    member = tarfile.TarInfo("azureml-run/" + path)
    member.size = about.st_size if content else 0
    member.pax_headers = {"AML.size": str(about.st_size)}
    with os.fdopen(fd, "rb", closefd=False) as file:
        archive.addfile(member, file)  # as much as its header says, of one that grows


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer))
