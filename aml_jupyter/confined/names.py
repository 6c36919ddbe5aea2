"""One grammar for relative names, whoever wrote them: a project, a run, a browser, a manifest."""

from __future__ import annotations

import errno
import os
import sys

from aml_jupyter.errors import ConfinedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# the longest path a caller may name, in bytes of UTF-8; what a walk finds may be longer
MAX_PATH = 4096
MAX_FOUND = 1 << 15
# Azure stores no longer key, and Windows programs rarely open more
MAX_PORTABLE = 1024
MAX_COMPONENT = 255
# folders below each other: with MAX_FOUND it bounds what a walk of a hostile tree holds (64 MB)
MAX_DEPTH = 4096

_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [f"{device}{digit}" for device in ("COM", "LPT") for digit in "0123456789¹²³"]
)
_FORBIDDEN = frozenset('<>:"|?*\\')
# not printable by Python's rule, yet part of ordinary names: other spaces, joiners of emoji and Persian
_SPACES = frozenset(" \u00a0\u1680\u202f\u205f\u3000\u200c\u200d") | frozenset(
    map(chr, range(0x2000, 0x200B))
)
# letters that show as nothing
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")
# what a server that decodes once too often reads as a separator or NUL, overlong forms included
_ENCODED = ("%2f", "%5c", "%00", "%c0%a", "%c1%9", "%e0%80%a")


class FileFault(ConfinedError, OSError):
    """The system refused to open, read or write; also an OSError, with its `errno`."""

    code = "path.unreadable"

    @classmethod
    def of(cls, error: OSError, path: str) -> FileFault:
        """The fault of `path` that an OSError reports, with a stable code."""
        if isinstance(error, FileFault):
            return error
        number = error.errno or errno.EIO
        code, hint = _CODES.get(number, ("path.unreadable", ""))
        kind = _KINDS.get(number, FileFault)
        # the system's own words for a link that may not be followed speak of too many of them
        what = "leads through a symbolic link" if number == errno.ELOOP else os.strerror(number)
        fault = kind(f"{shown(path)}: {what}", code=code, hint=hint)
        fault.errno = number
        return fault


class MissingFile(FileFault, FileNotFoundError):
    """There is no such file or folder; also a FileNotFoundError."""

    code = "path.missing"


class FileThere(FileFault, FileExistsError):
    """A file or folder of that name is there already; also a FileExistsError."""

    code = "path.exists"


_KINDS: dict[int, type[FileFault]] = {errno.ENOENT: MissingFile, errno.EEXIST: FileThere}
_SPACE = "Free some space and try again; what was there before is untouched."
_CODES = {
    errno.ENOENT: ("path.missing", ""),
    errno.EEXIST: ("path.exists", ""),
    errno.ENOTEMPTY: ("path.exists", ""),
    errno.ELOOP: ("path.link", "Symbolic links are not followed here."),
    errno.ENOTDIR: ("path.not_folder", ""),
    errno.EISDIR: ("path.not_regular", ""),
    errno.ENXIO: ("path.not_regular", ""),
    errno.EACCES: ("path.denied", "Check the permissions of the file and of the folders above it."),
    errno.EPERM: ("path.denied", "Check who owns the file."),
    errno.EROFS: ("path.read_only", ""),
    errno.ENAMETOOLONG: ("name.invalid", ""),
    errno.EILSEQ: ("name.invalid", ""),
    errno.ENOSPC: ("store.no_space", _SPACE),
    errno.EDQUOT: ("store.no_space", _SPACE),
    errno.EFBIG: ("store.no_space", _SPACE),
}


def shown(path: str) -> str:
    """A name for people: control, direction and undecodable characters are escaped, long names cut."""
    if len(path) > 300:
        path = path[:200] + "..." + path[-80:]
    if path.isprintable():
        return path
    return "".join(character if _visible(character) else _escaped(character) for character in path)


def _escaped(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is not UTF-8, carried by surrogateescape
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _visible(character: str) -> bool:
    return (character.isprintable() and character not in _FILLERS) or character in _SPACES


def check_name(
    path: str, *, plain: bool = False, portable: bool = False, limit: int = MAX_PATH
) -> tuple[str, ...]:
    """The components of a relative POSIX path.

    Always refused: what is empty or absolute, `.` and `..`, empty components (`a//b`, a slash at the end),
    NUL, components over 255 bytes, paths over `limit` bytes.
    `plain` also refuses what misleads a reader or a server: control, direction and undecodable characters,
    encoded or look-alike separators and dots. `portable`, besides, what Windows or Azure do not take: device
    names, `<>:"|?*` and backslash, spaces or dots at an end, over 1,024 characters.
    Raises ConfinedError `name.invalid`.
    """
    parts = tuple(path.split("/"))
    why = _fault(path, parts, limit)
    if why is None and (plain or portable):
        why = _first(_misleading, parts)
    if why is None and portable:
        why = _first(_unportable, parts)
        if len(path) > MAX_PORTABLE:
            why = f"it has over {MAX_PORTABLE} characters"
    if why is not None:
        raise ConfinedError(
            f"'{shown(path)}' is not a name that may be used: {why}",
            code="name.invalid",
            hint="Use a relative path of ordinary names with / between them.",
        )
    return parts


def check_found(path: str) -> tuple[str, ...]:
    """The components of a path that a walk may have found: like `check_name`, as deep as a walk goes."""
    parts = check_name(path, limit=MAX_FOUND)
    if len(parts) > MAX_DEPTH:
        raise ConfinedError(f"'{shown(path)}' has {len(parts)} levels", code="name.invalid")
    return parts


def _first(fault: Callable[[str], str | None], parts: tuple[str, ...]) -> str | None:
    return next(filter(None, map(fault, parts)), None)


def _fault(path: str, parts: tuple[str, ...], limit: int) -> str | None:
    if not path:
        return "it is empty"
    if path[0] == "/":
        return "it is absolute"
    if "\0" in path:
        return "it holds a NUL character"
    if len(path) * 4 > limit and _size(path) > limit:
        return f"it has over {limit} bytes"
    return _first(_unusable, parts)


def _unusable(part: str) -> str | None:
    if part in ("", ".", ".."):
        return f"it holds the component '{part}'" if part else "it holds an empty component"
    if len(part) > MAX_COMPONENT or not part.isascii():
        size = _size(part)
        if size > MAX_COMPONENT:
            return (
                f"a component has over {MAX_COMPONENT} bytes"
                if size < sys.maxsize
                else "no bytes stand for it"
            )
    return None


def _size(text: str) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(os.fsencode(text))
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte: no file has such a name
        return sys.maxsize


def _misleading(part: str) -> str | None:
    if not part.isprintable() or not _FILLERS.isdisjoint(part):
        hidden = next((character for character in part if not _visible(character)), None)
        if hidden is not None:
            return f"it holds the character {_escaped(hidden)}"
    if part.split(";", 1)[0] in (".", ".."):
        return f"some servers read '{shown(part)}' as a parent folder"
    if "%" in part and _decodes_to_path(part.lower()):
        return f"some servers read '{shown(part)}' as a path"
    if not part.isascii() and _folds_to_path(part):
        return f"'{shown(part)}' looks like a path"
    return None


def _decodes_to_path(part: str) -> bool:
    while "%25" in part:
        part = part.replace("%25", "%")
    return part.replace("%2e", ".") in (".", "..") or any(code in part for code in _ENCODED)


def _folds_to_path(part: str) -> bool:
    # 3 ms to load, and needed for names beyond ASCII only
    import unicodedata

    folded = unicodedata.normalize("NFKC", part)
    return "/" in folded or folded.strip(" ") in ("", ".", "..") or ("\\" in folded and "\\" not in part)


def is_device(name: str) -> bool:
    """Whether Windows keeps a file name for a device, whatever its ending."""
    return name.split(".", 1)[0].rstrip(" ").upper() in _DEVICES


def _unportable(part: str) -> str | None:
    if not _FORBIDDEN.isdisjoint(part):
        return 'it holds one of <>:"|?*\\, which Windows does not allow'
    if part[-1] in ". " or part[0] == " ":
        return "a component begins with a space or ends with a space or dot"
    if is_device(part):
        return f"'{shown(part)}' is a device on Windows"
    return None
