"""Writes the list of verbs and options in cli.md from the parsers themselves: `python docs/verbs.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent / "cli.md"
MARK = "<!-- below: written by docs/verbs.py; the tests hold it to the code -->\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _words(action: argparse.Action) -> str:
    """How an option or argument is written, as in `-n`, `--name NAME`."""
    if not action.option_strings:
        name = action.metavar or (", ".join(map(str, action.choices)) if action.choices else action.dest)
        shape = {"?": "[{}]", "*": "[{} ...]", "+": "{} ...", "...": "{} ..."}.get(str(action.nargs), "{}")
        return f"`{_escaped(shape.format(name))}`"
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return ", ".join(f"`{_escaped(option + value)}`" for option in action.option_strings)


def _table(parser: argparse.ArgumentParser) -> list[str]:
    rows = [
        f"| {_words(action)} | {_escaped(action.help or '')} |"
        for action in parser._actions
        if action.dest != "help"
        and not isinstance(action, argparse._SubParsersAction)
        and action.help != argparse.SUPPRESS
    ]
    return ["| option | |", "|---|---|", *rows, ""] if rows else []


def _actions(parser: argparse.ArgumentParser) -> dict[str, Any]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def generated() -> str:
    """Every verb with a table of its options, in the order of the help."""
    from aml_jupyter.commands import VERBS, build

    lines = ["", "## Verbs", ""]
    for verb, (_, description) in VERBS.items():
        parser, _ = build(verb)
        lines += [f"### aml {verb}", "", f"{description[0].upper()}{description[1:]}.", "", *_table(parser)]
        for name, action in _actions(parser).items():
            lines += [f"`aml {verb} {name}`", "", *_table(action)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Rewrite what stands below the mark."""
    written = PAGE.read_text(encoding="utf-8").partition(MARK)[0] + MARK
    PAGE.write_text(written + generated(), encoding="utf-8")
    print(f"wrote {PAGE.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
