"""The shared folder: where it is for a target, making it, and access that never leaves it.

resolve, share_reason        where it is, or why there is none
require                      refuse code that needs a share the target does not give
create                       make the folder before anything runs, and look at who owns it
ls, put, get, rm             files of the share, by names below it
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from aml_jupyter.config import SHARE_BASE
from aml_jupyter.confined import (
    Budget,
    ConfinedError,
    Entry,
    FileFault,
    Root,
    check_name,
    copy_fd,
    open_regular,
    scan,
    shown,
)
from aml_jupyter.errors import ConfigError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.config import Project, Target

VARIABLE = "AZUREML_NATIVE_SHARE_DIRECTORY"
# scripts and notebooks of 2018 hold this path literally
IN_CONTAINER = "/azureml-share/"

_BASE_LINE = f"nativeSharedDirectory: {SHARE_BASE}"
_VOLUMES_LINE = "sharedVolumes: true"
_CONTAINERS = ("docker", "remotedocker")
_HERE = ("local", "docker")


class Share(Value):
    """A shared folder.

    `path` is the folder on the machine that holds it and ends with that machine's separator; `variable` is
    what the user's process finds in AZUREML_NATIVE_SHARE_DIRECTORY; `local` tells whether `path` is on this
    machine. `base` and `key` (account/workspace/project) are what `path` is made of.
    """

    path: str
    variable: str
    local: bool
    base: str
    key: str


def resolve(
    project: Project, target: Target, *, home: str | None = None, system: str | None = None, drive: str = "C:"
) -> Share | None:
    """The share of a project on a target, or None where `share_reason` says why.

    `home` is the home of the run's user on the machine that holds the folder; for a remote machine whose home
    is not known yet `path` still begins with `~`. `system` (posix, darwin or windows) tells how that machine
    writes paths, `drive` the disk on which Windows puts a path without one. Raises ConfigError.
    """
    written = target.native_shared_directory
    if share_reason(target) or not written:
        return None
    here = target.kind in _HERE
    if system is None:
        system = "windows" if sys.platform == "win32" and here else "posix"
    names = tuple(_component(what, getattr(project, what)) for what in ("account", "workspace", "name"))
    if here and home is None:
        home = os.path.expanduser("~")
    try:
        base = _windows_base(written, home, drive) if system == "windows" else _posix_base(written, home)
    except ValueError as error:
        raise ConfigError(
            f"{target.file or target.name}: nativeSharedDirectory: {shown(written)!r} {error}",
            hint=f"Write for example  {_BASE_LINE}",
        ) from None
    separator = "\\" if system == "windows" else "/"
    path = base + separator.join(names) + separator
    return Share(
        path=path,
        variable=IN_CONTAINER if target.kind in _CONTAINERS else path,
        local=here,
        base=base,
        key="/".join(names),
    )


def _component(what: str, name: str) -> str:
    try:
        if len(check_name(name, portable=True)) == 1:
            return name
        why = "it holds a slash"
    except ConfinedError as error:
        why = error.message.rpartition(": ")[2]
    raise ConfigError(
        f"the {'project' if what == 'name' else what} '{shown(name)}' cannot be the name of a folder: {why}",
        hint="Names become folders: change the Scope in .azureml/project.json.",
    )


def _posix_base(written: str, home: str | None) -> str:
    """The base with one slash at its end; ValueError for what is no absolute path there."""
    _refuse_control(written)
    if (written[1:2] == ":" and written[:1].isalpha()) or written.startswith("\\\\"):
        raise ValueError("is a path of Windows, and the folder is on another system")
    if "\\" in written:
        raise ValueError("holds a backslash; write /")
    if written == "~" or written.startswith("~/"):
        written = (home or "~") + written[1:]
    elif not written.startswith("/"):
        raise ValueError("is neither absolute nor below ~")
    parts = [part for part in written.split("/") if part]
    lead = "" if written.startswith("~") else "/"
    return lead + "".join(part + "/" for part in parts)


def _windows_base(written: str, home: str | None, drive: str) -> str:
    """The base with one backslash at its end; ValueError for what is no absolute path there."""
    _refuse_control(written)
    path = written.replace("/", "\\")
    if path == "~" or path.startswith("~\\"):
        path = (home or "~").replace("/", "\\").rstrip("\\") + path[1:]
        if path.startswith("~"):
            return path.rstrip("\\") + "\\"
    if path.startswith("\\\\"):
        lead, rest = "\\\\", path[2:]
    elif path.startswith("\\"):
        lead, rest = drive + "\\", path[1:]
    elif path[1:3] == ":\\" and path[:1].isalpha():
        lead, rest = path[:3], path[3:]
    else:
        raise ValueError("is neither absolute nor below ~")
    parts = [part for part in rest.split("\\") if part]
    if any(character in part for part in parts for character in '<>:"|?*'):
        raise ValueError('holds one of <>:"|?*')
    return lead + "".join(part + "\\" for part in parts)


def _refuse_control(written: str) -> None:
    if any(ord(character) < 32 or ord(character) == 127 for character in written):
        raise ValueError("holds a control character")


def share_reason(target: Target) -> str:
    """Why a target has no share; empty when it has one."""
    place = target.file or f"the .compute file of {target.name}"
    base, volumes = target.native_shared_directory, target.shared_volumes
    if target.kind == "cluster":
        return "a Spark cluster has no shared folder; keep what later runs need in Blob storage"
    if target.kind in _CONTAINERS and not (base and volumes):
        lines = [line for line, there in ((_VOLUMES_LINE, volumes), (_BASE_LINE, base)) if not there]
        return f"{VARIABLE} is not set: {place} lacks  {'  and  '.join(lines)}"
    return "" if base else f"{VARIABLE} is not set: {place} lacks  {_BASE_LINE}"


def require(target: Target, text: str, name: str) -> None:
    """Refuse a script or cell whose text uses the share where the target has none.

    Raises ConfigError `run.share_not_enabled` with the lines to add, `target.unsupported` on a cluster.
    """
    reason = share_reason(target)
    if not reason or VARIABLE not in text:
        return
    if target.kind == "cluster":
        raise ConfigError(
            f"{name} uses {VARIABLE}, and {reason}",
            code="target.unsupported",
            hint="Read and write a wasb:// or abfs:// path, or run it on a local or Docker target.",
        )
    lines = f"{_VOLUMES_LINE}\n{_BASE_LINE}" if target.kind in _CONTAINERS else _BASE_LINE
    raise ConfigError(
        f"{name} uses {VARIABLE}, and {reason}",
        code="run.share_not_enabled",
        hint=f"{target.file or target.name + '.compute'} needs:\n{lines}",
    )


def create(share: Share) -> tuple[str, ...]:
    """Make the folder (0700, with those above it) and return what is to be warned of.

    Raises ConfigError `share.owner` when a folder of it belongs to another user, `share.link` when one is a
    symbolic link; FileFault when it cannot be made; ConfinedError when it is on another machine.
    """
    _require_here(share)
    warnings = []
    with Root.create(share.base) as base:
        made = ""
        for name in share.key.split("/"):
            made = f"{made}/{name}" if made else name
            try:
                base.make_dirs(made)
                found = base.lstat(made)
            except FileFault as error:
                raise _not_a_folder(share, made, error) from error
            warnings += _look_at(share.base + made, found)
        if os.fstat(base.fd).st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            warnings.append(
                f"{share.base} may be changed by every user of this machine: chmod o-w {share.base}"
            )
    return tuple(warnings)


def _not_a_folder(share: Share, made: str, error: FileFault) -> Exception:
    if error.code not in ("path.link", "path.not_folder"):
        return error
    what = "is a symbolic link" if error.code == "path.link" else "is a file"
    return ConfigError(
        f"{share.base}{made} {what}, and shared folders are not reached through one",
        code="share.link" if error.code == "path.link" else "path.not_folder",
        hint="Remove it, or set nativeSharedDirectory to the folder that is meant.",
    )


def _look_at(path: str, found: os.stat_result) -> list[str]:
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{path} belongs to user {found.st_uid}, not to you",
            code="share.owner",
            hint="Set nativeSharedDirectory to a folder of your own.",
        )
    if found.st_mode & stat.S_IWOTH:
        return [f"{path} may be changed by every user of this machine: chmod 700 {path}"]
    return []


def _require_here(share: Share) -> None:
    if not share.local:
        raise ConfinedError(f"{share.path} is on the target's machine", code="share.remote")


def _open(share: Share) -> Root:
    _require_here(share)
    with Root(share.base) as base:
        return base.folder(share.key)


def ls(share: Share, path: str = "", *, limit: int = 100_000) -> list[Entry]:
    """What is in a folder of the share, or the one file that `path` names, as Entry objects.

    Raises ConfinedError `name.invalid`, `path.link`, `budget.files` beyond `limit` names; MissingFile.
    """
    path = _tidy(path)
    with _open(share) as root:
        found = root.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            return [Entry(path, path.rpartition("/")[2], found)]
        with root.folder(path) as folder:
            try:
                return scan(folder.fd, path + "/" if path else "", Budget(limit, None))
            except OSError as error:
                raise FileFault.of(error, path or share.path) from error


def put(share: Share, source: str, path: str, *, overwrite: bool = False) -> str:
    """Copy a file of this machine into the share, whole or not at all; the name it has there.

    A `path` that is a folder of the share (or ends with a slash) takes the file in. Raises FileThere unless
    `overwrite`, ConfinedError for names and kinds that are refused.
    """
    with _open(share) as root:
        name = _tidy(path)
        if not name or path.endswith("/") or _is_folder(root, name):
            name = (f"{name}/" if name else "") + os.path.basename(source)
        check_name(name, plain=True)
        try:
            fd, found = open_regular(source, follow=True)
        except OSError as error:
            raise FileFault.of(error, source) from error
        try:
            mode = 0o700 if found.st_mode & stat.S_IXUSR else 0o600
            root.publish(name, lambda new: copy_fd(fd, new), mode=mode, overwrite=overwrite)
        finally:
            os.close(fd)
    return name


def get(share: Share, path: str, into: str, *, overwrite: bool = False) -> str:
    """Copy a file of the share to `into` (a new file, or a folder that takes it in); the path it has there.

    Raises FileThere when something is there unless `overwrite`; a link that is there is replaced, never
    followed. Raises MissingFile and ConfinedError.
    """
    path = _tidy(path)
    if os.path.isdir(into) and not os.path.islink(into):
        into = os.path.join(into, path.rpartition("/")[2])
    folder, name = os.path.split(os.path.abspath(into))
    with _open(share) as root:
        fd = root.open_file(path)
        try:
            mode = stat.S_IMODE(os.fstat(fd).st_mode) & 0o777 | 0o600
            with Root(folder) as outside:
                outside.publish(name, lambda new: copy_fd(fd, new), mode=mode, overwrite=overwrite)
        finally:
            os.close(fd)
    return os.path.join(folder, name)


def rm(share: Share, path: str, *, recursive: bool = False) -> None:
    """Remove a file, link or folder of the share; a folder that is not empty only with `recursive`.

    The share itself is never removed. Raises MissingFile, ConfinedError.
    """
    path = _tidy(path)
    with _open(share) as root:
        found = root.lstat(path) if path else None
        if found is None:
            raise ConfinedError("the shared folder itself is not removed", code="name.invalid")
        if recursive and stat.S_ISDIR(found.st_mode):
            root.remove_tree(path)
            return
        try:
            root.remove(path)
        except FileFault as error:
            if error.errno == errno.ENOTEMPTY:
                error.hint = "Remove it with all that is in it: --recursive."
            raise


def _tidy(path: str) -> str:
    """A path as people type it: `.` is the share itself, a slash at the end is allowed."""
    path = path.rstrip("/") if path.strip("/") else path
    path = path.removeprefix("./")
    return "" if path == "." else path


def _is_folder(root: Root, path: str) -> bool:
    try:
        return stat.S_ISDIR(root.lstat(path).st_mode)
    except FileFault:  # nothing there, or a link on the way: what follows says so
        return False
