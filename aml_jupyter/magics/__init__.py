"""`%%amlrun`, `%amlrun` and `%aml`: parse, call, show.

Loading them costs a few milliseconds: what they do is loaded when one is first used.

options     the words behind the magic
page        what is asked of IPython, and nothing else of the package asks it anything
live        a run's output below its cell, bounded, with its card
submit      %%amlrun and %amlrun
keeper      cards of detached runs
verbs       %aml
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# changed runs that are looked at before the load returns, a tenth of a millisecond each
_AT_ONCE = 100
_NAMES = (("cell", "amlrun"), ("line", "amlrun"), ("line", "aml"))


def load(shell: Any) -> None:
    """Register the magics and their completions; runs whose supervisor died are given a new one."""
    for kind, name in _NAMES:
        shell.register_magic_function(_magic(shell, kind, name), kind, name)
    for word in ("%amlrun", "%%amlrun", "%aml"):
        shell.set_hook("complete_command", _complete, str_key=word)
    _continue_runs()
    _store_runs()


def unload(shell: Any) -> None:
    """Take the magics away; runs go on, their cards stay as they are."""
    for kind, name in _NAMES:
        shell.magics_manager.magics[kind].pop(name, None)
    for word in ("%amlrun", "%%amlrun", "%aml"):
        shell.strdispatchers["complete_command"].strs.pop(word, None)
    import sys

    keeper = sys.modules.get("aml_jupyter.magics.keeper")
    if keeper is not None:
        keeper.stop()
    submit = sys.modules.get("aml_jupyter.magics.submit")
    if submit is not None:
        submit.STANDBY.close()


def _magic(shell: Any, kind: str, name: str) -> Callable[..., None]:
    if (kind, name) == ("cell", "amlrun"):

        def run_cell(line: str, cell: str) -> None:
            from aml_jupyter.magics.submit import run_cell

            run_cell(shell, line, cell)

        return _described(run_cell, "%%amlrun")
    if name == "amlrun":

        def run_line(line: str) -> None:
            from aml_jupyter.magics.submit import run_line

            run_line(shell, line)

        return _described(run_line, "%amlrun")

    def verb(line: str) -> None:
        from aml_jupyter.magics.verbs import do

        do(shell, line)

    return _described(verb, "%aml")


def _described(function: Callable[..., None], name: str) -> Callable[..., None]:
    """Give a magic its help for `%%amlrun?`; it is made when it is asked for."""

    def getdoc() -> str:
        from aml_jupyter.magics.options import help_of

        return help_of(name)

    function.__doc__ = f"Runs on compute targets; {name}? shows the options."
    function.__name__ = name.lstrip("%")
    function.getdoc = getdoc  # type: ignore[attr-defined] # where IPython looks first
    return function


def _complete(_shell: object, event: Any) -> list[str]:
    from aml_jupyter.magics.options import complete

    return complete(event.line)


def _store_runs() -> None:
    """Have what is to be stored elsewhere stored, by a process of its own; one look where nothing is."""
    home = os.environ.get("AML_HOME") or os.path.expanduser("~/.azureml")
    try:
        if not os.listdir(home + "/push"):
            return
    except OSError:  # no run was ever to be stored elsewhere
        return
    from aml_jupyter import pending

    try:
        pending.start(home)
    except OSError:  # the end of the next run starts it
        return


def _continue_runs() -> None:
    """Give runs a supervisor that lost theirs; looks only at those marked as changed since the last look."""
    home = os.environ.get("AML_HOME") or os.path.expanduser("~/.azureml")
    try:
        changed = len(os.listdir(home + "/dirty"))
    except OSError:  # nothing was ever run here
        return
    if not changed:
        return
    from aml_jupyter.magics.keeper import continue_runs

    if changed <= _AT_ONCE:
        continue_runs()
    else:
        import threading

        threading.Thread(target=continue_runs, name="aml-continue", daemon=True).start()
