"""`aml exec`: a program that finds an `az` on its PATH which hands `az ml ...` to aml."""

from __future__ import annotations

import os
import shlex
import sys

from aml_jupyter.config import aml_home
from aml_jupyter.confined import read_bounded, write_atomic
from aml_jupyter.errors import ConfinedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from aml_jupyter.commands.screen import Screen

# what a shell answers for a program that is not there, and for one that cannot be run
NOT_THERE, NOT_RUNNABLE = 127, 126
# tells an `az` of ours from any other
MARK = "# an az that hands `az ml` to aml"
LARGEST = 1 << 16
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def arguments_exec(parser: ArgumentParser) -> None:
    """`aml exec [--project DIR] [--] PROGRAM ARG...`."""
    parser.add_argument(
        "--project", metavar="DIR", help="the folder to run in; the working folder unless said"
    )
    parser.add_argument("words", nargs="...", metavar="PROGRAM ARG", help="the program, and all its words")


def do_exec(options: Namespace, screen: Screen) -> int:
    """Become the program, or in a notebook wait for it; its exit status."""
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        raise UsageError("aml exec: no program is named", hint="Such as: aml exec python run.py")
    if options.project is not None and not os.path.isdir(options.project):
        raise UsageError(f"--project {options.project!r} is not a folder")
    folder = place_az()
    variables = {**os.environ, "PATH": os.pathsep.join([folder, os.environ.get("PATH") or os.defpath])}
    try:
        return screen.become(words, variables, options.project)
    except FileNotFoundError:
        status, why = NOT_THERE, "there is no such program"
    except OSError as error:
        status, why = NOT_RUNNABLE, error.strerror or str(error)
    screen.remark(f"aml: {words[0]!r} cannot be run: {why}")
    return status


def place_az() -> str:
    """The folder below AML_HOME with the `az` of this interpreter, written unless it is there.

    Raises UsageError for an AML_HOME that cannot be in PATH.
    """
    import hashlib

    command = [sys.executable, "-P", f"{_PACKAGE}/az.py"]
    text = f'#!/bin/sh\n{MARK}\nexec {shlex.join(command)} "$@"\n'
    data = os.fsencode(text)
    # several installations may share a home
    folder = f"{aml_home()}/bin/{hashlib.sha256(data).hexdigest()[:16]}"
    if os.pathsep in folder:
        raise UsageError(
            f"AML_HOME holds a {os.pathsep!r}, so no folder in it can be found through PATH: {folder}",
            hint="Set AML_HOME to another folder.",
        )
    path = f"{folder}/az"
    try:
        there = read_bounded(path, LARGEST) == data and os.access(path, os.X_OK)
    except ConfinedError:
        there = False
    if not there:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        write_atomic(path, data, mode=0o700)
    return folder
