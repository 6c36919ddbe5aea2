"""`aml secret`: secrets for runs, in the keyring."""

from __future__ import annotations

from aml_jupyter.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from aml_jupyter.commands.screen import Screen


def arguments_secret(parser: ArgumentParser) -> None:
    """Options of `aml secret set NAME` and `aml secret forget NAME`."""
    parser.add_argument("action", choices=["set", "forget"], help="keep it, or take it away")
    parser.add_argument("name", metavar="NAME", help="the variable that a run gets with --secret NAME")


def do_secret(options: Namespace, screen: Screen) -> int:
    """Put a secret into the keyring, or take it out."""
    from aml_jupyter import credentials
    from aml_jupyter.validation import check_environment

    name = options.name
    check_environment({name: ""})
    if options.action == "forget":
        known = credentials.forget_secret(name)
        screen.remark(f"{name} is {'no longer' if known else 'not'} in the keyring")
        return 0
    secret = credentials.ask(f"Value of {name}: ")
    if secret is None:
        raise UsageError(
            f"no value was given for {name}",
            code="secret.needed",
            hint=f"It is asked for on a terminal or in a notebook. Elsewhere set the variable {name}.",
        )
    credentials.keep_secret(name, secret)
    screen.remark(f"{name} is in the keyring: aml run TARGET SCRIPT --secret {name}")
    return 0
