"""The one tree of verbs, options and arguments that the magics and the command share.

Building a parser costs more than a run's bookkeeping: only the verb that was typed is imported and built.
A verb's module holds `arguments_<verb>(parser)` and `do_<verb>(options, screen) -> exit code`.
"""

from __future__ import annotations

import argparse
import re
from importlib import import_module

from aml_jupyter.errors import UsageError
from aml_jupyter.printable import safe_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from aml_jupyter.commands.screen import Screen

# verb -> (module, what it does); in the order of the help
VERBS: dict[str, tuple[str, str]] = {
    "run": ("submit", "run a script of the project on a target"),
    "runs": ("history", "list runs, newest first"),
    "show": ("history", "everything that is known of one run"),
    "logs": ("watch", "print what a run printed"),
    "attach": ("watch", "follow a run as if it had been started here"),
    "wait": ("watch", "wait for a run to end"),
    "stop": ("watch", "cancel a run"),
    "resume": ("watch", "give a run whose supervisor died a new one"),
    "queue": ("queue", "what waits for its turn: list, rm, move, pause, resume, jobs"),
    "rerun": ("rerun", "repeat a run from what is kept of it; --verify: whether it does the same"),
    "diff": ("compare", "what differs between two runs"),
    "compare": ("compare", "runs beside each other"),
    "ls": ("files", "list a run's artifacts"),
    "cat": ("files", "print an artifact"),
    "get": ("files", "download artifacts"),
    "promote": ("assets", "name an artifact of a run in the project: assets/NAME.link"),
    "asset": ("assets", "list, download: what was promoted"),
    "push": ("store", "store runs where artifacts.store says, what is pending first"),
    "export": ("exports", "send runs to an MLflow server, or pack one as an RO-Crate"),
    "open": ("outputs", "show an artifact with the program that the desktop has for it"),
    "rescue": ("files", "fetch a file that a run wrote outside outputs/"),
    "restore": ("files", "put the snapshot of a run into a folder"),
    "tag": ("history", "add or remove tags"),
    "note": ("history", "write a note on a run"),
    "pin": ("history", "protect a run from rm and gc"),
    "rm": ("retention", "move runs with their artifacts to the trash, or remove them for good"),
    "undelete": ("retention", "bring runs back from the trash"),
    "gc": ("retention", "remove what no run needs any more, and runs by rules"),
    "check": ("retention", "look for damage in history, artifacts and snapshots, and mend it"),
    "targets": ("targets", "list compute targets and run configurations; test, sweep, trust, password, warm"),
    "env": ("environments", "environments: show, lock, diff, export"),
    "snapshot": ("files", "show what a snapshot would hold, and why"),
    "share": ("files", "the shared folder: path, ls, put, get, rm"),
    "secret": ("secrets", "keep a secret for runs in the keyring: set, forget"),
    "config": ("configuration", "show where everything is; set, get, unset, list settings"),
    "exec": ("program", "run a program for which `az ml` is aml"),
    "experiment": ("workbench", "submit, prepare, cancel, status, ...: the names of az ml experiment"),
    "history": (
        "run_history",
        "list, info, last, compare, download, promote, sync: the names of az ml history",
    ),
    "computetarget": ("configuration", "attach, detach, list: the names of az ml computetarget"),
    "runconfiguration": ("configuration", "create, list: the names of az ml runconfiguration"),
}


# verbs that take `--` as one of the script's words
WHOLE_LINE = ("experiment", "exec")


def _formatter(prog: str) -> argparse.HelpFormatter:
    # asking the terminal how wide it is imports shutil, for every option that is added
    return argparse.RawDescriptionHelpFormatter(prog, width=100)


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of ending the process, and names the nearest option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", _formatter)
        super().__init__(*args, **kwargs)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The options of a line; positional words may stand between them.  Raises UsageError, HelpShown."""
        swallows = (argparse.PARSER, argparse.REMAINDER)
        if any(action.nargs in swallows for action in self._get_positional_actions()):
            return super().parse_args(args, namespace)
        return self.parse_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the usage line as the hint."""
        raise UsageError(f"{self.prog}: {message}{self._nearest(message)}", hint=self.format_usage().strip())

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:  # noqa: ARG002
        """Leave after `--help`, without ending a notebook's kernel."""
        raise HelpShown(status)

    def _nearest(self, message: str) -> str:
        import difflib

        options, choices = self._known()
        if wrong := re.search("invalid choice: '(.*?)' \\(", message):
            near = difflib.get_close_matches(wrong[1], choices, n=1)
            return f"; did you mean {near[0]}?" if near else ""
        if not message.startswith("unrecognized arguments:"):
            return ""
        words = [word.split("=")[0] for word in message.split() if word.startswith("-")]
        near = [one for word in words for one in difflib.get_close_matches(word, options, n=1)]
        told = f"; did you mean {' '.join(near)}?" if near else ""
        takes_script = any(action.dest == "script" for action in self._actions)
        return told + (" (options of the script stand behind --)" if words and takes_script else "")

    def _known(self) -> tuple[list[str], list[str]]:
        """Every option and every choice of a positional word, those of actions below included."""
        options = list(self._option_string_actions)
        choices: list[str] = []
        for action in self._get_positional_actions():
            choices += map(str, action.choices or ())
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    options += parser._option_string_actions
        return options, choices


class HelpShown(Exception):
    """The help was printed; there is nothing else to do."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def build(verb: str, *, prog: str = "aml") -> tuple[Parser, Any]:
    """The parser of a verb and the function that does it.  Raises UsageError for an unknown verb."""
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        raise UsageError(
            f"{prog}: no verb {safe_name(verb)!r}" + (f"; did you mean {near[0]}?" if near else ""),
            hint=f"{prog} --help lists the verbs.",
        )
    module, description = VERBS[verb]
    holder = import_module(f"aml_jupyter.commands.{module}")
    parser = Parser(prog=f"{prog} {verb}", description=description)
    getattr(holder, f"arguments_{verb}")(parser)
    return parser, getattr(holder, f"do_{verb}")


def execute(arguments: Sequence[str], screen: Screen, *, prog: str = "aml") -> int:
    """Do what a line of words asks for; returns the exit status.  Raises AmlError."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        screen.write(overview(prog))
        return 0
    if arguments[0] == "--version":
        from aml_jupyter import __version__

        screen.write(f"aml_jupyter {__version__}\n")
        return 0
    verb, (rest, after) = arguments[0], split_after_dashes(arguments[1:])
    if verb in WHOLE_LINE:
        rest, after = list(arguments[1:]), []
    parser, do = build(verb, prog=prog)
    try:
        options = parser.parse_args(rest)
    except HelpShown as shown:
        return shown.status
    options.after = after
    # only now is it known whose word it was
    screen.as_json = getattr(options, "json", False)
    status: int = do(options, screen)
    return status


def as_verb(verb: str, words: Sequence[str], options: argparse.Namespace, screen: Screen, **more: Any) -> int:
    """Do what a verb does with these words, as another verb with its `options`; `more` are options of it.

    What the other verb was told of JSON, the project and overwriting holds.
    """
    parser, do = build(verb)
    found = parser.parse_args(list(words))
    told = {name: value for name, value in vars(options).items() if name in ("json", "project", "overwrite")}
    vars(found).update({**told, **more, "after": []})
    status: int = do(found, screen)
    return status


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that every verb with an answer has."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def split_after_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first `--` and those behind it, which belong to the script."""
    words = list(words)
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def overview(prog: str) -> str:
    """The verbs, a line each."""
    lines = [
        f"usage: {prog} VERB [options]",
        "",
        "Runs of a project on compute targets, and their history.",
        "",
    ]
    lines += [f"  {verb:<18}{description}" for verb, (_, description) in VERBS.items()]
    lines += ["", f"{prog} VERB --help shows the options of a verb.", ""]
    return "\n".join(lines)


def parse_seconds(text: str) -> float:
    """Seconds of `90`, `30s`, `10m`, `2h` or `1d`.  Raises ArgumentTypeError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 366 * 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30s, 10m or 2h")
    return seconds


def parse_pair(text: str) -> tuple[str, str]:
    """`NAME=VALUE`.  Raises ArgumentTypeError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
