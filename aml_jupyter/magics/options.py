"""The words behind a magic: `%%amlrun TARGET [options] [-- ARGS]`, completions and help."""

from __future__ import annotations

import shlex

from aml_jupyter.commands import VERBS, Parser, overview, split_after_dashes
from aml_jupyter.commands.submit import TARGET_HELP, add_run_options
from aml_jupyter.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

_CELL = """Run this cell, with a copy of the project, on a compute target.

The cell starts in the root of the copy. Its output appears here as it happens; what it writes to
outputs/ is kept with the run, and the shared folder stays. In this line, not in the cell, {name} and
$name are replaced by variables of this notebook."""
_LINE = """Run a script of the project on a compute target; everything behind -- belongs to the script."""
_EXAMPLES = """examples:
  %%amlrun local --name first -p rate=0.1      the cell below this line, with the variable rate
  %%amlrun local -i frame -o model             send a variable, bring one back
  %amlrun local train.py -- --epochs 3         a script
  %aml attach @last                            the output of a run that was started elsewhere"""


def words_of(line: str) -> list[str]:
    """The words of a line, quoted as in a shell; nothing is expanded.  Raises UsageError."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"the line cannot be read: {error}", hint="Close every quotation mark.") from None


def parser_of(name: str) -> Parser:
    """The parser of `%%amlrun` or `%amlrun`."""
    cell = name == "%%amlrun"
    parser = Parser(prog=name, description=_CELL if cell else _LINE, epilog=_EXAMPLES)
    add = parser.add_argument
    add("target", metavar="TARGET", nargs="?", help=TARGET_HELP)
    if cell:
        add("-i", "--in", dest="inputs", action="append", default=[], type=_names, metavar="A,B",
            help="variables of this notebook that the cell gets")  # fmt: skip
        add("-o", "--out", dest="outputs", action="append", default=[], type=_names, metavar="A,B",
            help="variables of the cell that this notebook gets")  # fmt: skip
    else:
        add("script", metavar="SCRIPT", nargs="?", help="a script of the project")
        add("arguments", metavar="ARG", nargs="*", help="its arguments; those with dashes behind --")
    add(
        "--run",
        default="_run",
        type=_name,
        metavar="VAR",
        help="the variable that is the run; _run unless said",
    )
    add(
        "--notebook",
        metavar="FILE",
        help="the calling notebook, which is not sent; found where it is told",
    )
    add_run_options(parser)
    return parser


def parse(name: str, line: str) -> Namespace:
    """The options of a line.  Raises UsageError; HelpShown after `--help` was printed."""
    before, after = split_after_dashes(words_of(line))
    try:
        options: Namespace = parser_of(name).parse_args(before)
    except UsageError as error:
        raise UsageError(error.message, hint=f"{name}? shows the options.") from None
    options.after = after
    for several in ("inputs", "outputs"):
        names = [one for part in getattr(options, several, []) for one in part]
        setattr(options, several, tuple(dict.fromkeys(names)))
    if options.target is None:
        raise UsageError(f"{name}: no target was given", hint=f"Targets here: {', '.join(targets())}")
    return options


def _names(text: str) -> list[str]:
    return [_name(part.strip()) for part in text.split(",") if part.strip()]


def _name(text: str) -> str:
    import argparse
    import keyword

    if not text.isidentifier() or keyword.iskeyword(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a variable")
    return text


def targets() -> list[str]:
    """The names that may stand as TARGET in the project of the working folder."""
    from aml_jupyter.config import find_project

    project = find_project()
    return sorted({*project.run_configurations(), *project.targets()})


def help_of(name: str) -> str:
    """What `%%amlrun?` shows."""
    return overview("%aml") if name == "%aml" else parser_of(name).format_help()


def complete(line: str) -> list[str]:
    """What may stand at the end of a line: targets, verbs, options, scripts."""
    words = line.split(" ")
    magic, last = words[0], words[-1]
    if "--" in words[1:-1]:
        return []
    if magic == "%aml" and len(words) == 2:
        found = list(VERBS)
    elif last.startswith("-"):
        found = _options(magic, words)
    elif magic == "%aml":
        found = ["@last", "@best:", "@cell"]
    else:
        found = _targets_behind(last) if len(words) == 2 else _scripts() if magic == "%amlrun" else []
    return sorted(word for word in found if word.startswith(last))


def _targets_behind(word: str) -> list[str]:
    """The targets that may stand at the end of `a,b`."""
    before = word[: word.rfind(",") + 1]
    return [before + name for name in targets()]


def _options(magic: str, words: list[str]) -> list[str]:
    if magic == "%aml":
        from aml_jupyter.commands import build

        try:
            parser, _ = build(words[1], prog="%aml")
        except UsageError:  # still being typed
            return []
    else:
        parser = parser_of(magic)
    return [option for option in parser._option_string_actions if option.startswith("--")]


def _scripts() -> list[str]:
    import os

    return [name for name in os.listdir(".") if name.endswith((".py", ".sh", ".r", ".R"))]
