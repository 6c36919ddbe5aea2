"""Run a notebook cell or a project as an isolated snapshot on a compute target.

    %load_ext aml_jupyter                  the magics %%amlrun, %amlrun and %aml

    aml_jupyter.submit("local", "train.py", ["--rate", "0.1"])     start a run
    aml_jupyter.sweep("local", "train.py", {"rate": [0.1, 0.01]})  a run for each value
    aml_jupyter.run("@last").metrics                               an earlier one
    aml_jupyter.runs("metrics.accuracy > 0.9")                     many
    aml_jupyter.compare("@last~1", "@last")                        what differs between runs

Importing the package loads nothing else of it: each name loads what it needs when it is first used.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aml_jupyter.run import Run as Run
    from aml_jupyter.run import RunSet as RunSet
    from aml_jupyter.run import Sweep as Sweep
    from aml_jupyter.run import comparison as compare
    from aml_jupyter.run import find as run
    from aml_jupyter.run import submit as submit

__version__ = "0.1.0"
__all__ = [
    "Run",
    "RunSet",
    "Sweep",
    "__version__",
    "compare",
    "load_ipython_extension",
    "run",
    "runs",
    "submit",
    "sweep",
    "unload_ipython_extension",
]

# name -> the module that has it
_LATER = {"Run": "run", "RunSet": "run", "Sweep": "run", "submit": "run"}
# modules that are also functions of the same name: aml_jupyter.run(...), .runs(...) and so on
_CALLED = ("compare", "run", "runs", "sweep")


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; what `%load_ext aml_jupyter` calls."""
    from aml_jupyter import magics

    magics.load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take the magics away; what `%unload_ext aml_jupyter` calls.  Runs go on."""
    from aml_jupyter import magics

    magics.unload(shell)


def __getattr__(name: str) -> Any:
    if name not in _LATER and name not in _CALLED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name in _CALLED:
        return import_module(f"{__name__}.{name}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Called(type(sys)):  # type: ignore[misc]
    """A module that answers a call with the public function of its name."""

    def __call__(self, *args: object, **options: object) -> Any:
        from aml_jupyter.run import CALLS

        return CALLS[self.__name__.rpartition(".")[2]](*args, **options)


class _Package(type(sys)):  # type: ignore[misc]
    """This package: the import system sets a submodule as its attribute, and two of them can be called."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _CALLED and isinstance(value, type(sys)):
            value.__class__ = _Called
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
