"""Outputs of runs, of those that go on too: listed, printed, downloaded, opened."""

from __future__ import annotations

import os
import sys
import time

from aml_jupyter.commands.watch import find_run
from aml_jupyter.config import aml_home
from aml_jupyter.errors import ArtifactError, UsageError
from aml_jupyter.printable import safe_name, shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Iterator

    from aml_jupyter.artifacts import Artifact
    from aml_jupyter.artifacts.transfer import Progress
    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.runs import RunDirectory

# seconds between two words on how far it is
PROGRESS = 0.2
# seconds in which a desktop's opener is waited for
OPENING = 5.0
# seconds that a copy stays which was made to be opened
KEPT = 7 * 86400.0
# what a desktop shows without running anything that stands in it
SHOWN = frozenset(
    [
        *("bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"),
        *("avi", "flac", "m4a", "mkv", "mov", "mp3", "mp4", "ogg", "wav", "webm"),
        *("csv", "json", "jsonl", "log", "md", "rst", "toml", "tsv", "txt", "yaml", "yml"),
        *("docx", "odp", "ods", "odt", "pdf", "pptx", "xlsx"),
    ]
)
# how programs begin, whatever the name of the file says
PROGRAMS = (b"#!", b"\x7fELF", b"MZ", b"[Desktop Entry]", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe")


def _remark(directory: RunDirectory, what: str, screen: Screen) -> None:
    screen.remark(f"aml: {directory.run_id} goes on: {what}, and may change")


def listed(directory: RunDirectory, wanted: str, screen: Screen) -> list[Artifact]:
    """The artifacts below a path, or the outputs so far.  Raises ArtifactError, TargetUnavailable."""
    from aml_jupyter import artifacts, unfinished

    if unfinished.goes_on(directory):
        items: Iterable[Artifact] = unfinished.so_far(directory)
        _remark(directory, "these are its outputs so far", screen)
    else:
        items = artifacts.listing(directory)
    wanted = wanted.strip("/")
    names = (wanted, f"outputs/{wanted}")
    return [
        item
        for item in items
        if not wanted or any(item.path == name or item.path.startswith(name + "/") for name in names)
    ]


def blocks(directory: RunDirectory, path: str, screen: Screen) -> Iterator[bytes]:
    """The bytes of an artifact, verified behind the last; of a run that goes on those that are there now."""
    from aml_jupyter import artifacts, unfinished

    if not unfinished.goes_on(directory):
        return artifacts.read_blocks(directory, path)
    found = unfinished.blocks(directory, path)
    _remark(directory, "this is what the file holds so far", screen)
    return found


def parse_range(text: str) -> tuple[int | None, int | None]:
    """`0-99` (the first hundred bytes), `100-` or `-100` (the last hundred).  Raises ArgumentTypeError."""
    import argparse
    import re

    found = re.fullmatch(r"(\d*)-(\d*)", text)
    start, end = (int(one) if one else None for one in (found.groups() if found else ("", "")))
    if (start is None and end is None) or (start is not None and end is not None and end < start):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of bytes such as 0-99, 100- or -100")
    return start, end


def part(found: Iterable[bytes], wanted: tuple[int | None, int | None], size: int | None) -> Iterator[bytes]:
    """The bytes of a range out of all; those around it are read as well, so that all are verified."""
    start, end = wanted
    if start is None:
        if size is None or end is None:
            raise UsageError("the last bytes of a file that grows are not known", hint="--range=START-")
        start, end = max(0, size - end), size - 1
    position = 0
    for block in found:
        first, last = start - position, len(block) if end is None else end + 1 - position
        position += len(block)
        if first < len(block) and last > 0:
            yield block[max(0, first) : max(0, last)]


def printed(directory: RunDirectory, options: Namespace, screen: Screen) -> Iterator[bytes]:
    """What `aml cat` prints."""
    found = blocks(directory, options.path, screen)
    wanted = getattr(options, "range", None)
    if wanted is None:
        return iter(found)
    size = None
    from aml_jupyter import artifacts, unfinished

    if not unfinished.goes_on(directory):
        size = artifacts.find(directory, options.path).size
    return part(found, wanted, size)


def download(directory: RunDirectory, options: Namespace, screen: Screen) -> list[str]:
    """What `aml get` does; the paths written."""
    from aml_jupyter import artifacts, unfinished

    into = os.path.abspath(options.dest)
    if unfinished.goes_on(directory):
        paths = unfinished.get(directory, options.path, into, overwrite=options.overwrite)
        _remark(directory, "these are its outputs so far", screen)
        return paths
    with Shown(screen) as shown:
        try:
            return artifacts.get(
                directory,
                options.path,
                into,
                overwrite=options.overwrite,
                resume=getattr(options, "resume", False),
                report=shown.tell,
            )
        except KeyboardInterrupt:
            shown.close()
            screen.remark("aml: the same command with --resume goes on from here")
            raise


class Shown:
    """How far a download is, on one line of a terminal; nowhere else."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.terminal = screen.err.isatty()
        self.due = time.monotonic() + PROGRESS
        self.width = 0

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, progress: Progress) -> None:
        """Show how much has come."""
        if not self.terminal or time.monotonic() < self.due:
            return
        self.due = time.monotonic() + PROGRESS
        share = f"{100 * progress.bytes_done // progress.bytes} %" if progress.bytes else ""
        text = f"{share:>5}  {shown_size(progress.bytes_done)} of {shown_size(progress.bytes)}"
        self.screen.err.write("\r" + text.ljust(self.width))
        self.screen.err.flush()
        self.width = len(text)

    def close(self) -> None:
        """Take the line away."""
        if self.width:
            self.screen.err.write("\r" + " " * self.width + "\r")
            self.screen.err.flush()
            self.width = 0


# ---- with the programs of a desktop


def arguments_open(parser: ArgumentParser) -> None:
    """Options of `aml open`."""
    parser.add_argument("run", metavar="RUN", nargs="?", default="@last", help="@last unless said")
    parser.add_argument("path", metavar="PATH", nargs="?", default="",
                        help="an artifact; the folder of all of them unless said")  # fmt: skip
    parser.add_argument("--print", dest="only_print", action="store_true", help="only print where it is")


def do_open(options: Namespace, screen: Screen) -> int:
    """Show a copy of an artifact with the program that the desktop has for it, and print where it is."""
    directory = find_run(options.run)
    path = _placed(directory, options.path, screen)
    screen.path(path)
    if options.only_print:
        return 0
    if why := unsafe(path):
        screen.remark(f"aml: not opened: {why}")
        return 0
    opener = find_opener()
    if opener is None:
        screen.remark("aml: here is no desktop to open it with")
        return 0
    _start([opener, path])
    return 0


def _placed(directory: RunDirectory, path: str, screen: Screen) -> str:
    """A copy of what is to be opened: whatever a program does to it, the artifact stays."""
    from aml_jupyter import artifacts, unfinished
    from aml_jupyter.confined import make_root, remove_tree

    opened = f"{aml_home()}/cache/opened"
    make_root(opened)
    _tidy(opened)
    into = f"{opened}/{directory.run_id}"
    make_root(into)
    path = path.strip("/")
    if unfinished.goes_on(directory):
        if os.path.lexists(into + "/so-far"):
            remove_tree(into + "/so-far")
        made = unfinished.get(directory, path, into + "/so-far")
        _remark(directory, "this is what it has written so far", screen)
        folder = into + "/so-far"
    else:
        found = artifacts.chosen(directory, path)
        folder = f"{into}/{found[0][0].sha256[:12] if len(found) == 1 else 'all'}"
        with Shown(screen) as shown:
            made = artifacts.get(directory, path, folder, overwrite=True, resume=True, report=shown.tell)
    return made[0] if len(made) == 1 and path else folder


def _tidy(opened: str) -> None:
    """Remove copies that were made long ago: nobody looks at them any more."""
    from aml_jupyter.confined import remove_tree

    for entry in list(os.scandir(opened)):
        if entry.is_dir(follow_symlinks=False) and time.time() - entry.stat().st_mtime > KEPT:
            remove_tree(entry.path)


def unsafe(path: str) -> str:
    """Why a file is not handed to a desktop, which might run it; empty for what it only shows."""
    if os.path.isdir(path):
        return ""
    name = safe_name(os.path.basename(path))
    ending = os.path.basename(path).rpartition(".")[2].lower()
    if "." not in name or ending not in SHOWN:
        return f"{name} is of a kind that may run programs; look at it with a program that you choose"
    from aml_jupyter.confined import Root

    with Root(os.path.dirname(path)) as folder:
        fd = folder.open_file(os.path.basename(path))
    try:
        begin = os.pread(fd, 64, 0).lstrip()
    finally:
        os.close(fd)
    if begin.startswith(PROGRAMS):
        return f"{name} begins like a program, whatever its name says"
    return ""


def find_opener() -> str | None:
    """The program by which this desktop opens files; None where there is no desktop."""
    from shutil import which

    if sys.platform == "darwin":
        return which("open")
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return which("xdg-open")
    return which("wslview")


def _start(words: list[str]) -> None:
    """Start a program that outlives this one; its words go nowhere."""
    import subprocess

    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # most hand it on and leave; one that shows it itself stays
        process.wait(OPENING)
    except subprocess.TimeoutExpired:
        return
    except OSError as error:
        raise ArtifactError(f"{words[0]} cannot be started: {error.strerror}", code="open.failed") from error
