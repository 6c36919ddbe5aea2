"""Passwords of machines reached by ssh: a variable, what a person typed here, the keyring; never a file.

A supervisor has its password as the variable, in its memory; whoever starts it hands that over.
"""

from __future__ import annotations

import os
import sys

from aml_jupyter.config import Secret
from aml_jupyter.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "AML_PASSWORD_"
# the service under which the keyring has them
SERVICE = "aml_jupyter"

# what was typed, or stands in a `.compute` file, by the names of target and login; for this process alone
_remembered: dict[tuple[str, str], Secret] = {}


def variable(name: str) -> str:
    """The environment variable with the password of a target, such as `AML_PASSWORD_GPU_BOX` of `gpu-box`."""
    return PREFIX + "".join(c if c.isascii() and c.isalnum() else "_" for c in name).upper()


def entry(address: str, username: str | None) -> str:
    """The keyring's name for a login: `user@host`."""
    return f"{username or ''}@{address}"


def password_of(name: str, address: str, username: str | None) -> Secret | None:
    """The password of a machine: the variable's, one that is remembered, the keyring's; else None."""
    return at_hand(name, address, username) or _kept(entry(address, username))


def at_hand(name: str, address: str, username: str | None) -> Secret | None:
    """The password where this process has it already."""
    if text := os.environ.get(variable(name)):
        return Secret(text)
    return _remembered.get((name, entry(address, username)))


def remember(name: str, address: str, username: str | None, password: Secret) -> None:
    """Have a password at hand for as long as this process lives."""
    _remembered[name, entry(address, username)] = password


def without_passwords(variables: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that has no business with passwords."""
    return {key: value for key, value in variables.items() if not key.startswith(PREFIX)}


def ways(name: str) -> str:
    """What a person can do who was asked for a password where nobody can answer."""
    return (
        f"Set the variable {variable(name)}, keep the password in the keyring (aml targets password {name}),"
        " or let an SSH key of yours in there."
    )


def keep(name: str, address: str, username: str | None, password: Secret) -> None:
    """Store a password in the keyring.  Raises ConfigError `secret.no_keyring` where there is none."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise _no_keyring(name, "the package keyring is not installed") from None
    try:
        keyring.set_password(SERVICE, entry(address, username), password.reveal())
    except keyring.errors.NoKeyringError:
        raise _no_keyring(name, "this computer has no keyring that could be used") from None
    except keyring.errors.KeyringError as error:
        raise _no_keyring(name, f"the keyring does not take it: {type(error).__name__}") from None


def _no_keyring(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"the password was not stored: {why}",
        code="secret.no_keyring",
        hint=f"pip install 'aml_jupyter[secrets]' brings the package. Without it, set {variable(name)}.",
    )


def _kept(which: str) -> Secret | None:
    """What the keyring has; one that is locked, broken or not there has nothing."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        return None
    try:
        text = keyring.get_password(SERVICE, which)
    except keyring.errors.KeyringError:
        return None
    return Secret(text) if text else None


def ask(question: str) -> Secret | None:
    """What a person types, unseen, on a terminal or in a notebook; None where nobody can be asked."""
    import getpass

    # a notebook's kernel puts a method of its own there
    in_notebook = hasattr(getpass.getpass, "__self__")
    if not in_notebook and not (sys.stdin and sys.stdin.isatty()):
        return None
    try:
        text = getpass.getpass(question)
    except (EOFError, NotImplementedError):  # the window was closed, or a notebook that runs by itself
        return None
    return Secret(text) if text else None
