"""What a job asks of its target: where things lie there, the image, the environment."""

from __future__ import annotations

import sys

from aml_jupyter.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.config import Project, RunConfiguration, Target

CONTAINERS = ("docker", "remotedocker")
# notebooks of 2018 show the working copy under this path; the others are ours
WORK_IN_CONTAINER = "/azureml-run"
RUNTIME_IN_CONTAINER = "/run/aml-runtime"
# an interpreter that only the target knows: the one that the runtime is started with
PYTHON_OF_TARGET = ""


def work_folder(kind: str, directory: str) -> str:
    """Where the working copy of a run directory lies for the run's own processes."""
    return WORK_IN_CONTAINER if kind in CONTAINERS else directory + "/work"


def runtime_folder(kind: str, directory: str) -> str:
    """Where the runtime lies for the run's own processes."""
    return RUNTIME_IN_CONTAINER if kind in CONTAINERS else directory + "/job/runtime"


def of_target(project: Project, target: Target, resources: Mapping[str, Any]) -> dict[str, Any]:
    """What an executor needs of a compute target, as JSON; never its password."""
    if target.kind not in CONTAINERS:
        return {"name": target.name}
    from aml_jupyter.config import settings

    image = resources.get("image") or target.base_docker_image or default_image()
    found: dict[str, Any] = {
        "name": target.name,
        "file": target.file,
        "image": settings.mapped_image(project.root, str(image)),
        "shared_volumes": target.shared_volumes,
        "gpu": target.nvidia_docker,
    }
    if target.kind == "remotedocker":
        found.update(
            address=target.host,
            port=target.port,
            username=target.username,
            private_key=_key_file(target),
            engine=target.docker_host,
        )
        if target.password is not None:
            # that there is to be one, not which
            found["password"] = True
    return found


def _key_file(target: Target) -> str | None:
    """The private key that a file names by a path; a name of the Workbench's key store leads nowhere."""
    key = target.private_key
    return key if key and "/" in key else None


def default_image() -> str:
    """The image of a target that names none: the official one with the minor version of this interpreter."""
    return f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"


def manages_environment(target: Target) -> bool:
    """Whether the target's environment is made from the project's dependency file."""
    if target.kind in CONTAINERS:
        return not target.user_managed_environment
    return target.user_managed_environment is False


def dependencies(
    project: Project, configuration: RunConfiguration, target: Target, resources: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The environment that a job asks for, or None where it takes what the target has.

    `prepare` tells whether it may be made as part of the run.  Raises ConfigError for a damaged file.
    """
    if not manages_environment(target):
        return None
    from aml_jupyter import environment

    conda = environment.load(project, configuration).conda
    if conda is None:
        if target.kind not in CONTAINERS:
            raise ConfigError(
                f"{target.file or target.name}: userManagedEnvironment is false, and the project has no"
                f" {configuration.conda_dependencies_file} to make an environment from",
                hint="Write that file, or remove the line userManagedEnvironment to use pythonLocation.",
            )
        return None
    if conda.is_empty and target.kind in CONTAINERS:
        return None
    return {
        "channels": list(conda.channels),
        "dependencies": list(conda.dependencies),
        "pip": list(conda.pip),
        "python": conda.python,
        "digest": conda.digest,
        "file": conda.file,
        "root": project.root,
        # where no file says otherwise, nobody asked to prepare in a step of its own
        "prepare": configuration.prepare_environment or configuration.file is None,
        "configuration": configuration.name,
        "relax": bool(resources.get("relax")),
        "relock": bool(resources.get("relock")),
    }
