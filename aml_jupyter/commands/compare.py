"""`aml diff`, `compare`: runs beside each other."""

from __future__ import annotations

import os

from aml_jupyter.commands import add_json
from aml_jupyter.commands.watch import find_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from aml_jupyter.commands.screen import Screen
    from aml_jupyter.compare import Comparison

# exit status of `diff`, as of diff(1)
DIFFERENT = 1
# option -> part, with what it shows
_PARTS = {
    "settings": ("settings", "target, script, arguments, ending"),
    "params": ("params", "parameters"),
    "metrics": ("metrics", "metrics"),
    "env": ("environment", "packages"),
    "code": ("code", "files of the snapshots, and cells"),
    "artifacts": ("artifacts", "outputs by their content"),
    "log": ("log", "what was printed"),
}


def arguments_diff(parser: ArgumentParser) -> None:
    """Options of `aml diff`."""
    parser.add_argument("first", metavar="A", help="a run, such as @last~1, a name or an id")
    parser.add_argument("second", metavar="B", nargs="?", default="@last", help="another; @last unless said")
    _add_options(parser)


def arguments_compare(parser: ArgumentParser) -> None:
    """Options of `aml compare`."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="from 2 to 20 runs; the first is the measure")
    _add_options(parser)


def _add_options(parser: ArgumentParser) -> None:
    for option, (_, what) in _PARTS.items():
        parser.add_argument(f"--{option}", action="store_true", help=f"only {what}; these can be combined")
    parser.add_argument("--all", action="store_true", help="values that are the same too")
    add_json(parser)


def comparison_of(options: Namespace) -> Comparison:
    """The comparison that a line asks for."""
    from aml_jupyter.compare import PARTS, compare

    references: Sequence[str] = getattr(options, "runs", None) or [options.first, options.second]
    chosen = [part for option, (part, _) in _PARTS.items() if getattr(options, option)]
    return compare([find_run(one) for one in references], chosen or PARTS)


def do_diff(options: Namespace, screen: Screen) -> int:
    """Show what differs between two runs; exit status 1 where anything but names and times does."""
    found = comparison_of(options)
    _show(found, options, screen)
    return 0 if found.same else DIFFERENT


def do_compare(options: Namespace, screen: Screen) -> int:
    """Show runs beside each other; exit status 0 whatever they are."""
    _show(comparison_of(options), options, screen)
    return 0


def _show(found: Comparison, options: Namespace, screen: Screen) -> None:
    if options.json:
        screen.json(found.as_json())
        return
    from aml_jupyter.compare.plain import WIDTH, text

    terminal = screen.out.isatty()
    colour = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    width = WIDTH
    if terminal:
        from shutil import get_terminal_size

        width = max(60, get_terminal_size().columns)
    screen.write(text(found, colour=colour, every=options.all, width=width) + "\n")
