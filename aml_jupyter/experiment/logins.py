"""Passwords of machines and package indexes: on their way from whoever submits to the supervisor."""

from __future__ import annotations

from aml_jupyter import demands, plainjson
from aml_jupyter.confined import read_bounded
from aml_jupyter.errors import ConfigError, ConfinedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aml_jupyter.config import Project, Target
    from aml_jupyter.experiment.request import Plan, Request
    from aml_jupyter.runs import Record, RunDirectory

LARGEST = 16 << 20


def handed_over(planned: Plan) -> dict[str, str]:
    """Variables for the supervisor of a run that are in no file, and that the run itself does not get.

    Raises what `passwords_for` raises.
    """
    found = passwords_for(planned.project, planned.target)
    if planned.dependencies is not None:
        from aml_jupyter.environment import credentials

        found.update(credentials.for_supervisor(planned.dependencies["file"]))
    return found


def passwords_for(project: Project, target: Target) -> dict[str, str]:
    """Variables for the supervisor of a run on a target; a person is asked where that is the only way.

    Raises TargetUnavailable `secret.needed`, `target.auth_failed`.
    """
    if target.kind != "remotedocker":
        return {}
    from aml_jupyter.executors.docker import login

    return login.passwords(target, demands.of_target(project, target, {}))


def ask_ahead(request: Request, project: Project) -> None:
    """Ask now for passwords that `submit` would ask for, while an interrupt still ends the question.

    Raises what `passwords_for` raises, and ConfigError.
    """
    for name in request.target.split(","):
        passwords_for(project, project.resolve(name.strip(), request.compute)[1])


def passwords_again(directory: RunDirectory, record: Record) -> dict[str, str]:
    """The same for a run that exists; nobody is asked."""
    if record.kind != "remotedocker":
        return {}
    from aml_jupyter.config import find_project
    from aml_jupyter.executors.docker import login

    mapping = _target(directory)
    try:
        # in clear it stands in the project alone
        target = find_project(record.project_root).target(record.target)
    except (ConfigError, OSError):  # the project has gone on since
        target = None
    if target and mapping and (target.host, target.username) == (mapping["address"], mapping["username"]):
        login.known(target)
    return login.passwords_of_job(mapping)


def waits_for_password(directory: RunDirectory) -> bool:
    """Whether a password is what a run's target wants."""
    return bool(_target(directory).get("password"))


def _target(directory: RunDirectory) -> dict[str, Any]:
    try:
        found = plainjson.loads(read_bounded(directory.job + "/request.json", LARGEST)).get("target")
    except (ConfinedError, OSError, ValueError, AttributeError):  # damaged: its supervisor tells
        return {}
    return found if isinstance(found, dict) else {}
