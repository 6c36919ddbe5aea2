"""What a project must be for a snapshot: within its limits, readable, without special files or links out."""

from __future__ import annotations

import os
import stat
from struct import unpack_from

from aml_jupyter.confined.names import is_device
from aml_jupyter.errors import SnapshotError
from aml_jupyter.plainjson import loads
from aml_jupyter.printable import shown_size
from aml_jupyter.snapshot.scan import FILES, HIDDEN, LINES, NAMES, SIZE, SKIPPED, STATS, WIDTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import NoReturn

    from aml_jupyter.snapshot.build import Builder
    from aml_jupyter.snapshot.scan import Record, Scan

HINT_FILES = 20_000
_SHOWN = 10
_MOST_LINKS = 40  # as the kernel does


def before_reading(scan: Scan, builder: Builder) -> None:
    """Raise SnapshotError for what the walk alone shows."""
    if builder.special:
        raise _special(builder.special)
    if scan.faults.unreadable:
        raise unreadable(scan, builder)
    if sum(record[FILES] for record in scan.now.values()) > scan.rules.max_files:
        too_many_files(scan)
    counted = counted_bytes(scan.now)
    if counted > scan.rules.max_bytes:
        raise _too_large(scan, builder, counted)
    if scan.rules.portable:
        _check_portable(path for path, _ in sent(scan.now))


def after_reading(scan: Scan, builder: Builder) -> dict[str, str]:
    """Raise SnapshotError for unreadable files and links out; the links that are not sent, with targets."""
    if scan.faults.unreadable:
        raise unreadable(scan, builder)
    links = dict(_links(scan.now))
    out = {path: target for path, target in links.items() if escapes(path, target, links)}
    if out and scan.rules.links != "skip":
        raise _link_escape(out)
    return out


def counted_bytes(now: dict[str, Record]) -> int:
    """The bytes that count towards the limit: all that is sent but the top-level `docs`."""
    return sum(
        record[SIZE] for path, record in now.items() if path != "docs" and not path.startswith("docs/")
    )


def sent(now: dict[str, Record]) -> Iterator[tuple[str, int]]:
    """The paths and sizes of the files and links that are sent."""
    for folder, record in now.items():
        if not record[FILES]:
            continue
        prefix = folder + "/" if folder else ""
        left_out = frozenset(record[SKIPPED])
        hidden = frozenset(record[HIDDEN])
        at = 8
        for name in record[NAMES].split("\0"):
            if name[-1:] == "/" or name in left_out:
                continue
            mode, size = unpack_from("=2q", record[STATS], at)
            at += 8 * WIDTH
            if name not in hidden:
                yield prefix + name, 0 if stat.S_ISLNK(mode) else size


def shown(path: str) -> str:
    """A path as people may see it: control characters and broken bytes escaped."""
    from aml_jupyter.confined import shown as visible

    return visible(path)


def listed(lines: Sequence[str]) -> str:
    """The first ten lines, indented, and how many more there are."""
    text = "".join(f"\n  {line}" for line in lines[:_SHOWN])
    return text if len(lines) <= _SHOWN else f"{text}\n  and {len(lines) - _SHOWN} more"


def every(lines: Sequence[str]) -> str:
    """All lines, indented."""
    return "".join(f"\n  {line}" for line in lines)


def ignore_line(path: str) -> str:
    """The line of an ignore file that leaves out exactly this path."""
    text = "".join("\\" + char if char in "*?[\\" else char for char in path)
    return "/" + (text[:-1] + "\\ " if text.endswith(" ") else text)


def changed(paths: list[str]) -> SnapshotError:
    """The error for files that did not hold still."""
    names = sorted(set(paths))
    return SnapshotError(
        f"these changed while the snapshot was taken, four times over:{listed([shown(p) for p in names])}",
        code="snapshot.changed",
        hint="Stop what writes them, or leave them out: add to .amlignore\n"
        + "\n".join("  " + shown(ignore_line(path)) for path in names[:_SHOWN]),
    )


def unreadable(scan: Scan, builder: Builder) -> SnapshotError:
    """The error that lists everything that cannot be read, also what was not tried yet."""
    found = dict(scan.faults.unreadable)
    for path, pending in builder.pending.items():
        for name, _ in pending.todo:
            full = f"{path}/{name}" if path else name
            if full not in found and not _readable(scan.fd, full):
                found[full] = os.strerror(13)
    lines = [f"{shown(path)}: {why}" for path, why in sorted(found.items())]
    return SnapshotError(
        f"{len(lines)} of the project's files or folders cannot be read:{every(lines)}",
        code="snapshot.unreadable",
        hint="Make them readable, or leave them out: add to .amlignore\n"
        + "\n".join("  " + shown(ignore_line(path)) for path in sorted(found)[:_SHOWN]),
    )


def _readable(root_fd: int, path: str) -> bool:
    try:
        return os.access(path, os.R_OK, dir_fd=root_fd, effective_ids=True, follow_symlinks=False)
    except (OSError, NotImplementedError):  # a path that is too long, or no such call: told when it is read
        return True


def _special(found: list[tuple[str, int]]) -> SnapshotError:
    kinds = {
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    lines = [f"{shown(path)}: {kinds.get(stat.S_IFMT(mode), 'no file')}" for path, mode in sorted(found)]
    return SnapshotError(
        f"the project holds what is neither file, folder nor link:{every(lines)}",
        code="snapshot.special_file",
        hint="Remove them, or leave them out: add to .amlignore\n"
        + "\n".join("  " + shown(ignore_line(path)) for path, _ in sorted(found)[:_SHOWN]),
    )


def too_many_files(scan: Scan) -> NoReturn:
    """Raise SnapshotError `snapshot.too_many_files` with the folders that hold most."""
    counts = sorted(((record[FILES], path) for path, record in scan.now.items()), reverse=True)[:_SHOWN]
    limit = scan.rules.max_files
    files = max(sum(record[FILES] for record in scan.now.values()), limit + 1)
    lines = [f"{count:>8} in {shown(path) or 'the project folder'}" for count, path in counts if count]
    fixes = [f"  {shown(ignore_line(path))}/" for count, path in counts if count and path]
    raise SnapshotError(
        f"the project has {files} files or more; a snapshot takes at most {limit}. Most are in{every(lines)}",
        code="snapshot.too_many_files",
        hint="Leave folders out by lines in .amlignore:\n"
        + "\n".join(fixes)
        + "\nor move them to the shared folder (`aml share put`), or raise the limit (--max-files).",
    )


def largest(now: dict[str, Record]) -> list[tuple[int, str]]:
    """The ten largest files that count, largest first."""
    from heapq import nsmallest

    counted = ((-size, path) for path, size in sent(now) if not path.startswith("docs/"))
    return [(-size, path) for size, path in nsmallest(_SHOWN, counted)]


def _too_large(scan: Scan, builder: Builder, counted: int) -> SnapshotError:
    limit = scan.rules.max_bytes
    top = largest(scan.now)
    lines = [f"{shown_size(size):>9}  {shown(path)}  ({why_sent(builder, path)})" for size, path in top]
    over, fixes = counted - limit, []
    for size, path in top:
        if over > 0:
            fixes.append(path)
            over -= size
    return SnapshotError(
        f"the project has {counted} bytes ({shown_size(counted)}) to send; a snapshot takes at most {limit} "
        f"({shown_size(limit)}). The largest files:{every(lines)}",
        code="snapshot.too_large",
        hint="Leave out what the run does not need, by lines in .amlignore:\n"
        + "\n".join(f"  {shown(ignore_line(path))}" for path in fixes)
        + "\nor move it to the shared folder, where every run finds it:\n"
        + "\n".join(f"  aml share put {_quoted(path)}" for path in fixes),
    )


def _quoted(path: str) -> str:
    from shlex import quote

    return shown(quote(path))


def why_sent(builder: Builder, path: str) -> str:
    """The rule that let a path in, or that there is none."""
    parts = path.split("/")
    for depth in range(len(parts), 0, -1):
        part = "/".join(parts[:depth])
        verdict = builder.around(part).decide(parts[depth - 1], part, depth < len(parts))
        if verdict.rule is not None and verdict.included:
            return f"let in by {verdict.rule}"
    return "no rule leaves it out"


def _links(now: dict[str, Record]) -> Iterator[tuple[str, str]]:
    for record in now.values():
        if b'["link"' in record[LINES]:
            for line in record[LINES].splitlines():
                if line.startswith(b'["link"'):
                    _, path, target = loads(line)
                    yield path, target


def escapes(path: str, target: str, links: dict[str, str]) -> bool:
    """Whether a link, resolved within the snapshot alone, leaves it; loops and dangling links do not."""
    at = path.split("/")[:-1]
    todo = target.split("/")[::-1]
    if target.startswith("/"):
        return True
    for _ in range(_MOST_LINKS * 256):
        if not todo:
            return False
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not at:
                return True
            at.pop()
            continue
        at.append(part)
        further = links.get("/".join(at))
        if further is not None:
            if further.startswith("/"):
                return True
            at.pop()
            todo += further.split("/")[::-1]
    return False  # a loop


def _link_escape(out: dict[str, str]) -> SnapshotError:
    lines = [f"{shown(path)} -> {shown(target)}" for path, target in sorted(out.items())]
    return SnapshotError(
        f"the project holds links that lead out of it, where nothing is copied:{every(lines)}",
        code="snapshot.link_escape",
        hint="Copy what they point to into the project or the shared folder, or leave them out: add to "
        ".amlignore\n" + "\n".join("  " + shown(ignore_line(path)) for path in sorted(out)[:_SHOWN]),
    )


def without_links(manifest: bytes, dropped: dict[str, str]) -> bytes:
    """A manifest without the lines of some links."""
    kept = []
    for line in manifest.splitlines(keepends=True):
        if line.startswith(b'["link"') and loads(line)[1] in dropped:
            continue
        kept.append(line)
    return b"".join(kept)


def warnings(files: int, dropped: dict[str, str], notes: list[str]) -> list[str]:
    """What the caller should be told of a snapshot that was taken."""
    found = list(notes)
    found += [
        f"{shown(path)} -> {shown(target)} leads out of the project and was left out"
        for path, target in sorted(dropped.items())
    ]
    if files >= HINT_FILES:
        found.append(
            f"the project has {files} files; runs start faster without those they do not need "
            "(`aml snapshot --dry-run` lists them, .amlignore leaves them out)"
        )
    return found


def _check_portable(paths: Iterable[str]) -> None:
    from unicodedata import normalize

    seen: dict[str, str] = {}
    clashes: list[str] = []
    unportable: set[str] = set()
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            part = "/".join(parts[:depth])
            folded = normalize("NFC", part).casefold()
            other = seen.setdefault(folded, part)
            if other != part:
                clashes.append(f"{shown(other)} and {shown(part)}")
        if not all(_is_portable(part) for part in parts):
            unportable.add(path)
    if clashes:
        raise SnapshotError(
            f"these names are one name on the target:{every(sorted(set(clashes)))}",
            code="snapshot.case_collision",
            hint="Rename one of each, or leave one out in .amlignore.",
        )
    if unportable:
        raise SnapshotError(
            f"these names cannot exist on the target:{every([shown(path) for path in sorted(unportable)])}",
            code="snapshot.name_unportable",
            hint="Rename them, or leave them out in .amlignore.",
        )


def _is_portable(name: str) -> bool:
    if name[-1] in ". " or is_device(name):
        return False
    return not any(char in '<>:"|?*\\' or char < " " or "\udc80" <= char <= "\udcff" for char in name)
