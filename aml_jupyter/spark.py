"""PySpark runs: whether a run is one, and what its target is told of `spark_dependencies.yml`.

The spark-submit itself is put together at the target, by `runtime/sparksubmit.py`, the very file that travels
with the run; it is read here by its path, so that a run on this computer is refused before it is made.
"""

from __future__ import annotations

import functools
import os
import re

from aml_jupyter import environment
from aml_jupyter.config.private import is_private
from aml_jupyter.environment import credentials
from aml_jupyter.errors import ConfigError, UsageError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType
    from typing import Any

    from aml_jupyter.config import Project, RunConfiguration, Target

FINDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "runtime", "sparksubmit.py")
# of a job's folder: settings that command lines must not show
PROPERTIES = "spark.properties"
# a Spark inside the target's own machine or container, on all its processors
MASTER = "local[*]"
_PACKAGE = re.compile(r"(?i)(?:[\w.-]+::)?pyspark(?![\w.-])")


class Session(Value):
    """What a PySpark run needs: `settings` is plain JSON, `properties` the text of the private ones."""

    settings: Mapping[str, Any]
    properties: bytes = b""


class Asked(Value):
    """A run as far as Spark is concerned; `variables` is the environment in which Spark is looked for.

    `python` is empty where only the target knows its interpreter, `given` names variables that a person set.
    """

    project: Project
    configuration: RunConfiguration
    target: Target
    python: str
    variables: Mapping[str, str]
    given: tuple[str, ...] = ()


def choose(asked: Asked, script: str | None, warnings: list[str]) -> tuple[str, Session | None]:
    """The framework of a run, and its session when that is PySpark.

    A run configuration that names no framework has PySpark where Spark is found and Python elsewhere; which
    one is added to `warnings`.  Raises ConfigError `target.spark_missing`, UsageError.
    """
    configuration = asked.configuration
    # without a file nobody left it open: starting Java costs seconds
    if configuration.framework == "Python" or (configuration.framework is None and not configuration.file):
        return "Python", None
    reason, hint = _look(asked)
    if configuration.framework is None:
        chosen = "Python" if hint else "PySpark"
        warnings.append(f"{configuration.file} names no Framework: {chosen} is used ({reason})")
        if hint:
            return chosen, None
    elif hint:
        raise ConfigError(
            f"{configuration.file or configuration.name}: Framework is PySpark, and for target"
            f" {asked.target.name!r} {reason}",
            code="target.spark_missing",
            hint=hint,
        )
    if script is not None and not script.endswith(".py"):
        raise UsageError(
            f"{script}: spark-submit takes a file for a Java archive unless its name ends in .py",
            hint="Rename the script, or set Framework: Python in the run configuration.",
        )
    return "PySpark", session(asked, warnings)


def session(asked: Asked, warnings: list[str]) -> Session:
    """The session that the run configuration's Spark file asks for.  Raises ConfigError for a bad file."""
    configuration = asked.configuration.replace(framework="PySpark")
    spark = environment.load(asked.project, configuration).spark or environment.Spark()
    private = {key: value for key, value in spark.configuration.items() if value and is_private(key)}
    kept = " and the snapshot keeps it as the project does" if private else " and no snapshot keeps it"
    repositories = spark.repositories
    if repositories and (logins := credentials.of_file(spark.file)):
        private["spark.jars.repositories"] = ",".join(credentials.insert(one, logins) for one in repositories)
        repositories = ()
    if private:
        warnings.append(
            f"{spark.file}: {', '.join(private)} is handed to Spark in a file that only you can read,{kept}"
        )
    settings = {
        "location": asked.target.spark_submit_location,
        "master": MASTER,
        "configuration": {key: value for key, value in spark.configuration.items() if key not in private},
        "repositories": list(repositories),
        "packages": list(spark.packages),
        "private": bool(private),
        "given": list(asked.given),
    }
    return Session(settings=settings, properties=_properties(private))


def submit_command(
    spark: environment.Spark | Mapping[str, Any] | None,
    *,
    submit: Sequence[str],
    script: str,
    arguments: Sequence[str],
    master: str = MASTER,
) -> tuple[str, ...]:
    """The command line of a spark-submit: options for the settings, the script and its arguments.

    `submit` begins it; `spark.master` of the settings is stronger than `master`.
    """
    fields = spark.as_dict() if isinstance(spark, environment.Spark) else dict(spark or {})
    options = _finder().arguments({**fields, "master": master}, PROPERTIES, configured=True)
    return (*submit, *options, script, *arguments)


def _look(asked: Asked) -> tuple[str, str]:
    """How it is known whether Spark is at the target, and what to add where it is not; else empty."""
    if not asked.python:
        return _look_at_dependencies(asked)
    finder = _finder()
    try:
        found = finder.find(asked.target.spark_submit_location, asked.python, asked.variables)
    except finder.SparkMissing as error:
        return str(error), error.hint
    return f"found {found.home or found.submit}", ""


def _look_at_dependencies(asked: Asked) -> tuple[str, str]:
    """What an environment that is still to be made will have; who says PySpark is believed until then."""
    if asked.configuration.framework == "PySpark":
        return "", ""
    image = asked.target.base_docker_image or ""
    if "spark" in image.lower():
        return f"the base image is {image}", ""
    file = asked.configuration.conda_dependencies_file
    conda = environment.load(asked.project, asked.configuration).conda
    if conda and any(map(_PACKAGE.match, (*conda.dependencies, *conda.pip))):
        return f"{file} lists pyspark", ""
    return f"neither {file} nor the base image names Spark", "Add pyspark there."


def _properties(settings: Mapping[str, str]) -> bytes:
    """A file of Java properties: ASCII, one setting a line."""
    return "".join(f"{_escaped(key)}={_escaped(value)}\n" for key, value in settings.items()).encode("ascii")


def _escaped(text: str) -> str:
    out = []
    for character in text:
        if character in " :=#!\\":
            out.append("\\" + character)
        elif " " < character <= "~":
            out.append(character)
        else:
            code = character.encode("utf-16-be", "surrogatepass").hex()
            out += ["\\u" + code[at : at + 4] for at in range(0, len(code), 4)]
    return "".join(out)


@functools.cache
def _finder() -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("aml_jupyter_sparksubmit", FINDER)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
