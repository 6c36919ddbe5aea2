"""Passwords of machines reached by ssh, secrets for runs: a variable, what was typed, the keyring; no file.

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
    return at_hand(name, address, username) or kept(entry(address, username))


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
    _keep(entry(address, username), password, variable(name))


def secret_of(name: str) -> Secret | None:
    """The secret that runs know by the variable `name`: this process's variable, else the keyring's."""
    if text := os.environ.get(name):
        return Secret(text)
    return kept(_secret(name))


def keep_secret(name: str, secret: Secret) -> None:
    """Store a secret for runs in the keyring.  Raises ConfigError `secret.no_keyring` where there is none."""
    _keep(_secret(name), secret, name)


def forget_secret(name: str) -> bool:
    """Take a secret for runs out of the keyring; whether it was there."""
    if kept(_secret(name)) is None:
        return False
    import keyring
    import keyring.errors

    try:
        keyring.delete_password(SERVICE, _secret(name))
    except keyring.errors.KeyringError as error:
        raise ConfigError(
            f"the keyring keeps {name}: {type(error).__name__}",
            code="secret.no_keyring",
            hint=f"Remove the entry {_secret(name)!r} of {SERVICE} with the keyring's own program.",
        ) from None
    return True


def _secret(name: str) -> str:
    # a login has an @ in it, so the two never meet
    return f"variable {name}"


def _keep(which: str, secret: Secret, instead: str) -> None:
    """Store something in the keyring; `instead` is the variable that does without it."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise _no_keyring(instead, "the package keyring is not installed") from None
    try:
        keyring.set_password(SERVICE, which, secret.reveal())
    except keyring.errors.NoKeyringError:
        raise _no_keyring(instead, "this computer has no keyring that could be used") from None
    except keyring.errors.KeyringError as error:
        raise _no_keyring(instead, f"the keyring does not take it: {type(error).__name__}") from None


def _no_keyring(instead: str, why: str) -> ConfigError:
    return ConfigError(
        f"the password was not stored: {why}",
        code="secret.no_keyring",
        hint=f"pip install 'aml_jupyter[secrets]' brings the package. Without it, set {instead}.",
    )


def kept(which: str) -> Secret | None:
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
