"""What git says of a project: commit, branch, what was not committed; asked only in a checkout."""

from __future__ import annotations

import os

from aml_jupyter.errors import SnapshotError
from aml_jupyter.frozen import Value
from aml_jupyter.snapshot.excludes import usually_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_DIFF_LIMIT = 16 << 20
_SECONDS = 30
# a snapshot sends these without their passwords
_COMPUTE_FILES = ":(exclude,glob)**/aml_config/*.compute*"
# a submodule has a configuration of its own, and what is changed in it is in no patch
_OWN_FILES = ("--ignore-submodules=dirty", "--", ".")
_SETTINGS = ("core.fsmonitor=false", "core.quotePath=true", "diff.external=", "core.hooksPath=/dev/null")


class GitState(Value):
    """A checkout: `commit` "" before the first one, `branch` "" on a detached head.

    `dirty` says that tracked files differ or untracked ones exist; `diff` is the binary-safe patch of tracked
    files below the project against the commit; `withheld` says why there is none although there are changes.
    """

    commit: str
    branch: str
    dirty: bool
    diff: bytes = b""
    withheld: str = ""


def git_state(
    root: str, *, dependency_files: Collection[str] = (), timeout: float = _SECONDS
) -> GitState | None:
    """The state of the checkout a project lies in; None when it lies in none or git cannot tell.

    The diff has none of the `dependency_files` whose addresses have credentials, before the change or after.
    """
    if not _in_checkout(root):
        return None
    filters = _own_filters(root, timeout)
    if filters is None:
        return None
    status = _git(root, timeout, *filters, "status", "--porcelain=v2", "--branch", "-z", *_OWN_FILES)
    if status is None:
        return None
    fields = status.decode("utf-8", "surrogateescape").split("\0")
    heads = dict(field[2:].partition(" ")[::2] for field in fields if field.startswith("# "))
    commit = heads.get("branch.oid", "")
    branch = heads.get("branch.head", "")
    dirty = any(field and not field.startswith("# ") for field in fields)
    commit = "" if commit == "(initial)" else commit
    diff, withheld = _diff(root, timeout, commit, filters, dependency_files) if dirty else (b"", "")
    return GitState(
        commit=commit,
        branch="" if branch == "(detached)" else branch,
        dirty=dirty,
        diff=diff,
        withheld=withheld,
    )


def _in_checkout(root: str) -> bool:
    path = os.path.realpath(root)
    while not os.path.lexists(os.path.join(path, ".git")):
        parent = os.path.dirname(path)
        if parent == path:
            return False
        path = parent
    return True


def _own_filters(root: str, timeout: float) -> list[str] | None:
    """Settings that switch off the filters which the checkout's own configuration defines; None: unknown.

    git would run them to compare files, and a checkout may come from somebody else.  The user's own stay.
    """
    listed = _git(root, timeout, "config", "--show-scope", "--includes", "--name-only", "-z", "--list")
    if listed is None:
        return None
    fields = listed.decode("utf-8", "surrogateescape").split("\0")
    pairs = zip(fields[::2], fields[1::2], strict=False)
    keys = {key for scope, key in pairs if scope in ("local", "worktree") and key.startswith("filter.")}
    names = {key[len("filter.") : key.rindex(".")] for key in keys if key.count(".") > 1}
    if any("=" in name for name in names):  # cannot be set from a command line
        return None
    off = [
        f"filter.{name}.{key}" for name in sorted(names) for key in ("clean=", "process=", "required=false")
    ]
    return [part for setting in off for part in ("-c", setting)]


def _diff(
    root: str, timeout: float, commit: str, filters: list[str], dependency_files: Collection[str]
) -> tuple[bytes, str]:
    if not commit:
        return b"", "there is no commit yet"
    options = ("--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--relative")
    names = _git(root, timeout, *filters, "diff", *options, "--name-only", "-z", "HEAD", *_OWN_FILES)
    if names is None:
        return b"", "git could not make it"
    # the diff goes into the run's record: nothing that a snapshot leaves out may be in it
    changed = [path for path in map(os.fsdecode, names.split(b"\0")) if path]
    out = [path for path in changed if usually_out(path)]
    for path in (path for path in changed if path in dependency_files and path not in out):
        alone = _git(root, timeout, *filters, "diff", *options, "HEAD", *_OWN_FILES[:-1], f":(literal){path}")
        if alone is None or _has_credentials(path, alone):
            out.append(path)
    paths = (_COMPUTE_FILES, *(f":(exclude,literal){path}" for path in out))
    diff = _git(root, timeout, *filters, "diff", *options, "HEAD", *_OWN_FILES, *paths)
    if diff is None:
        return b"", "git could not make it"
    if len(diff) > _DIFF_LIMIT:
        return b"", f"it has more than {_DIFF_LIMIT >> 20} MiB"
    from aml_jupyter.snapshot.secrets import find

    for finding in find("the uncommitted changes", diff):
        return b"", f"it seems to hold a secret ({finding.kind})"
    return diff, ""


def _has_credentials(path: str, diff: bytes) -> bool:
    from aml_jupyter.snapshot.passwords import without_credentials

    try:
        return b"GIT binary patch" in diff or without_credentials(path, diff)[1]
    except SnapshotError:
        return True


def _git(root: str, timeout: float, *arguments: str) -> bytes | None:
    import subprocess

    # variables that point to another repository, or make git run programs, do not hold here
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat"}
    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
    try:
        done = subprocess.run(
            ["git", "-C", root, *settings, *arguments],  # noqa: S607 - the user's own git
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):  # no git, or it waits for something: then nothing is known
        return None
    return done.stdout if done.returncode == 0 else None
