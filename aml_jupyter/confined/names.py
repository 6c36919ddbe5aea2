"""One grammar for relative names, whoever wrote them: a project, a run, a browser, a manifest."""

from __future__ import annotations

import errno
import os

from aml_jupyter.errors import ConfinedError

# the longest path a caller may name, in bytes of UTF-8; what a walk found may be longer
MAX_PATH = 4096
# Azure stores no longer key, and Windows programs rarely open more
MAX_PORTABLE = 1024
MAX_COMPONENT = 255
# folders below each other; every level costs a system call and the 64th a descriptor
MAX_DEPTH = 10_000
_LONGEST = 1 << 22

_WINDOWS_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [f"{device}{digit}" for device in ("COM", "LPT") for digit in "0123456789¹²³"]
)
_FORBIDDEN = frozenset('<>:"|?*\\')


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
        fault = kind(f"{shown(path)}: {os.strerror(number)}", code=code, hint=hint)
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
    if path.isascii() and path.isprintable():
        return path
    return "".join(c if c.isprintable() and not _misleading(c) else _escaped(c) for c in path)


def _escaped(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is not UTF-8, carried by surrogateescape
        return f"\\x{number - 0xDC00:02x}"
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def check_name(path: str, *, portable: bool = False, limit: int = MAX_PATH) -> tuple[str, ...]:
    """The components of a relative POSIX path.

    Refuses what is empty or absolute, `.` and `..`, empty components (`a//b`, a slash at the end), NUL,
    components over 255 bytes and paths over `limit` bytes. `portable` also refuses what some file system,
    browser or object store reads differently: Windows' devices and characters, dots or spaces at an end,
    control, direction and undecodable characters, escaped or look-alike separators and dots.
    Raises ConfinedError `name.invalid`.
    """
    parts = tuple(path.split("/"))
    why = _fault(path, parts, limit)
    if why is None and portable:
        why = _portable_fault(path, parts)
    if why is not None:
        raise ConfinedError(
            f"{shown(path)!r} is not a name that may be used: {why}",
            code="name.invalid",
            hint="Use a relative path of ordinary names with / between them.",
        )
    return parts


def check_found(path: str) -> tuple[str, ...]:
    """The components of a path that a walk may have found: like `check_name`, as deep as a walk goes."""
    parts = check_name(path, limit=_LONGEST)
    if len(parts) > MAX_DEPTH:
        raise ConfinedError(f"{shown(path)!r} has {len(parts)} levels", code="name.invalid")
    return parts


def _fault(path: str, parts: tuple[str, ...], limit: int) -> str | None:
    if not path:
        return "it is empty"
    if path[0] == "/":
        return "it is absolute"
    if "\0" in path:
        return "it holds a NUL character"
    if len(path) * 4 > limit and _size(path) > limit:
        return f"it has over {limit} bytes"
    return next(filter(None, map(_component_fault, parts)), None)


def _component_fault(part: str) -> str | None:
    if part in ("", ".", ".."):
        return f"it holds the component {part!r}" if part else "it holds an empty component"
    if len(part) * 4 > MAX_COMPONENT and _size(part) > MAX_COMPONENT:
        return f"a component has over {MAX_COMPONENT} bytes"
    return None


def _size(text: str) -> int:
    # lone surrogates beyond surrogateescape cannot be a file's name: counted as UTF-8 would write them
    return len(text.encode("utf-8", "surrogatepass"))


def _portable_fault(path: str, parts: tuple[str, ...]) -> str | None:
    if len(path) > MAX_PORTABLE:
        return f"it has over {MAX_PORTABLE} characters"
    for character in path:
        if character in _FORBIDDEN:
            return f"it holds {character!r}, which Windows does not allow"
        if not character.isprintable() and character != " ":
            return f"it holds the character {_escaped(character)}"
        if not character.isascii() and _misleading(character):
            return f"it holds the character {_escaped(character)}"
    for part in parts:
        why = _portable_component(part)
        if why is not None:
            return why
    return None


def _misleading(character: str) -> bool:
    # fillers and joiners that are printable by Python's rule, yet show as nothing
    return character in "\u115f\u1160\u3164\uffa0\u034f\ufe0f"


def _portable_component(part: str) -> str | None:
    if part[-1] in ". " or part[0] == " ":
        return "a component begins with a space or ends with a space or dot"
    if part.split(".", 1)[0].rstrip(" ").upper() in _WINDOWS_DEVICES:
        return f"{part!r} is a device on Windows"
    if part.split(";", 1)[0] in (".", ".."):
        return f"some servers read {part!r} as a parent folder"
    lowered = part.lower().replace("%25", "%")
    while "%25" in lowered:
        lowered = lowered.replace("%25", "%")
    if any(code in lowered for code in ("%2e", "%2f", "%5c", "%00", "%c0", "%c1", "%u")):
        return f"some servers read {part!r} as a path"
    if not part.isascii():
        return _folded_fault(part)
    return None


def _folded_fault(part: str) -> str | None:
    # 3 ms to load, and needed for names beyond ASCII only
    import unicodedata

    folded = unicodedata.normalize("NFKC", part)
    if folded.strip(" ") in ("", ".", "..") or folded[-1] in ". " or not _FORBIDDEN.isdisjoint(folded):
        return f"{part!r} looks like a path"
    return f"{part!r} looks like a path" if "/" in folded else None
