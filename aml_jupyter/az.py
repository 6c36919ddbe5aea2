"""The `az` that programs find under `aml exec`: `az ml ...` is done by aml, all else by the real az.

Started by its path, so that the package is found wherever it lies.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# group of `az ml` -> verb of aml
GROUPS = {
    "experiment": "experiment",
    "history": "history",
    "asset": "asset",
    "computetarget": "computetarget",
    "runconfiguration": "runconfiguration",
    "runconfigurations": "runconfiguration",
    # of the private preview
    "execute": "experiment",
    "computecontext": "computetarget",
}
# groups that have no meaning any more -> what to do instead
GONE = {
    "project": "A project is a folder: aml config --name NAME names it, aml restore RUN DIR brings back its"
    " files as they were, and Microsoft's sample projects are repositories on GitHub.",
    "notebook": "Start jupyter lab; %load_ext aml_jupyter in a notebook.",
    "datasource": "A .dsource file is JSON: copy one and change its path.",
    "account": "No account is needed: runs are kept below AML_HOME.",
    "workspace": "No workspace is needed: runs are kept below AML_HOME.",
}
USAGE = 2


def main(words: Sequence[str] | None = None) -> int:
    """Do one line; the exit status."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["ml"]:
        translated = translate(words[1:])
        if translated is not None:
            from aml_jupyter.cli import main as aml

            return aml(translated)
    return _real(words)


def translate(words: Sequence[str]) -> list[str] | None:
    """The words behind `az ml` as those behind `aml`; None for a group that aml does not have."""
    if not words or words[0] in ("-h", "--help"):
        return ["--help"]
    group, rest = words[0], list(words[1:])
    if group not in GROUPS:
        return None
    if group == "execute":
        rest = ["submit", *(rest[1:] if rest[:1] == ["start"] else rest)]
    if GROUPS[group] != "history" and rest[:1] != ["submit"]:
        rest = _without_output(rest)
    return [GROUPS[group], *rest]


def _without_output(words: Sequence[str]) -> list[str]:
    """Words without `-o FORM`, which every command of the Azure CLI has; JSON is asked for by `--json`."""
    found: list[str] = []
    waiting = iter(words)
    for word in waiting:
        option, equals, form = word.partition("=")
        if option in ("-o", "--output"):
            form = form if equals else next(waiting, "")
            found += ["--json"] * (form in ("json", "jsonc"))
        else:
            found.append(word)
    return found


def _real(words: Sequence[str]) -> int:
    """Become the real az; without one, say so."""
    from aml_jupyter.commands.program import NOT_RUNNABLE, NOT_THERE
    from aml_jupyter.printable import safe_name

    found = find_real()
    if found is not None:
        try:
            os.execv(found, [found, *words])  # noqa: S606 - its words are a list
        except OSError as error:
            print(f"az: {safe_name(found)} cannot be run: {error.strerror}", file=sys.stderr)
            return NOT_RUNNABLE
    if list(words[:1]) in (["--version"], ["-v"]):
        from aml_jupyter import __version__

        print(f"az ml is done by aml_jupyter {__version__}; the Azure CLI itself is not on PATH")
        return 0
    if words[:1] == ["ml"]:
        group = words[1]
        what = GONE.get(group) or f"Groups that aml does: {', '.join(GROUPS)}."
        print(f"az ml {safe_name(group)} is nothing that aml does. {what}", file=sys.stderr)
        return USAGE
    shown = safe_name(" ".join(["az", *words[:2]]))
    print(
        f"az: '{shown}' is not part of aml, and no other az is on PATH: install the Azure CLI for it",
        file=sys.stderr,
    )
    return NOT_THERE


def find_real() -> str | None:
    """The first az on PATH that is none of ours."""
    for folder in os.get_exec_path():
        path = os.path.join(folder, "az")
        if os.path.isfile(path) and os.access(path, os.X_OK) and not _is_ours(path):
            return path
    return None


def _is_ours(path: str) -> bool:
    from aml_jupyter.commands.program import MARK

    try:
        with open(path, "rb") as file:
            return MARK.encode() in file.read(200)
    except OSError:
        return False


if __name__ == "__main__":
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if root not in sys.path:
        sys.path.insert(0, root)
    sys.exit(main())
