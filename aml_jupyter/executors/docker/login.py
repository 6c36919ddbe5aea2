"""What a run's supervisor needs to log in at a remote machine, found or asked for before the run exists."""

from __future__ import annotations

from aml_jupyter import credentials
from aml_jupyter.errors import TargetUnavailable
from aml_jupyter.executors.docker.there import COMMAND, There

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.config import Secret, Target


def known(target: Target) -> Secret | None:
    """The password of a target's machine without asking anybody."""
    if not target.host:
        return None
    who = (target.name, target.host, target.username)
    found = credentials.at_hand(*who)
    if found or target.password is None:
        return found
    if target.password.is_itself:
        credentials.remember(*who, target.password)
        return target.password
    return credentials.password_of(*who)


def passwords(target: Target, mapping: Mapping[str, Any]) -> dict[str, str]:
    """The password as the variable that a supervisor looks for; empty where none is known or needed.

    A person is asked when the target's file wants a password, none is known, and keys do not log in.
    `mapping` is the target as executors know it.  Raises TargetUnavailable `secret.needed` where nobody can
    be asked, `target.auth_failed` for what was typed.
    """
    found = known(target)
    if found is None and target.password is not None:
        found = _asked(target, mapping)
    return {credentials.variable(target.name): found.reveal()} if found else {}


def _asked(target: Target, mapping: Mapping[str, Any]) -> Secret | None:
    try:
        There.of(mapping).connection.run("true", timeout=COMMAND)
    except TargetUnavailable as error:
        if error.code != "secret.needed":  # whoever starts the run meets it again, and can wait
            return None
        typed = credentials.ask(f"Password of {target.username}@{target.address} (target {target.name}): ")
        if typed is None:
            raise
        assert target.host
        # what is wrong is not to be tried by a supervisor, again and again
        There({**mapping}, typed).connection.run("true", timeout=COMMAND)
        credentials.remember(target.name, target.host, target.username, typed)
        return typed
    return None


def passwords_of_job(target: Mapping[str, Any]) -> dict[str, str]:
    """The same for a run that exists, from the target in its `request.json`; nobody is asked."""
    if not target.get("address"):
        return {}
    who = (str(target["name"]), str(target["address"]), target.get("username"))
    found = credentials.password_of(*who) if target.get("password") else credentials.at_hand(*who)
    return {credentials.variable(who[0]): found.reveal()} if found else {}
