"""Variables and secrets that a person gives a run: they travel in memory and are written nowhere."""

from __future__ import annotations

import os

from aml_jupyter.errors import ConfinedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping


def add_variable_options(parser: ArgumentParser) -> None:
    """`-e`, `--env-file`, `--secret`."""
    add = parser.add_argument
    add("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]",
        help="an environment variable; without a value, this one's own; written nowhere")  # fmt: skip
    add("--env-file", action="append", default=[], metavar="FILE", help="variables, NAME=VALUE a line")
    add("--secret", action="append", default=[], metavar="NAME",
        help="a variable set here or kept by aml secret set NAME; printed, it becomes ***")  # fmt: skip


def environment_of(options: Namespace) -> dict[str, str]:
    """Variables of `--env-file` and `-e`, the latter winning.  Raises UsageError."""
    from aml_jupyter.validation import check_environment

    found: dict[str, str] = {}
    for path in options.env_file:
        found.update(_read_env_file(path))
    for text in options.env:
        name, equals, value = text.partition("=")
        if not equals and name not in os.environ:
            raise UsageError(f"-e {name}: there is no such variable here", hint=f"-e {name}=VALUE sets one.")
        found[name] = value if equals else os.environ[name]
    check_environment(found)
    return found


def secrets_of(options: Namespace) -> dict[str, str]:
    """Variables of `--secret`.  Raises UsageError `secret.unknown`."""
    from aml_jupyter.validation import check_environment

    found = {name: _secret(name) for name in options.secret}
    check_environment(found)
    return found


def _secret(name: str) -> str:
    from aml_jupyter import credentials

    found = credentials.secret_of(name)
    if found is None:
        raise UsageError(
            f"--secret {name}: neither a variable here nor the keyring has it",
            code="secret.unknown",
            hint=f"aml secret set {name} asks for it and keeps it in the keyring.",
        )
    return found.reveal()


def _read_env_file(path: str) -> Mapping[str, str]:
    from aml_jupyter.confined import read_bounded

    try:
        text = read_bounded(os.path.abspath(path), 1 << 20).decode()
    except ConfinedError as error:
        raise UsageError(f"--env-file {error.message}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--env-file {path!r} is not UTF-8: byte {error.start}") from error
    found = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        if not equals:
            # the line itself may be a secret
            raise UsageError(f"{path}:{number}: a line must be NAME=VALUE")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[name.strip()] = value
    return found
