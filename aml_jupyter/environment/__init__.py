"""Environments: what `conda_dependencies.yml` and `spark_dependencies.yml` ask for, and its digest.

The digest is of the meaning: comments, quotes, order and the environment's name do not change it, nor do
credentials in addresses, which are not part of what is read.
"""

from __future__ import annotations

import json

from aml_jupyter.config import aml_home, cache
from aml_jupyter.confined import Root
from aml_jupyter.environment.credentials import strip
from aml_jupyter.errors import AmlError, ConfigError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.config import Project, RunConfiguration

CONDA_FILE = "aml_config/conda_dependencies.yml"
SPARK_FILE = "aml_config/spark_dependencies.yml"


class Conda(Value):
    """A conda environment; `python` is the version it pins (`3.5.2`), a range (`>=3.6`), or None."""

    name: str | None = None
    channels: tuple[str, ...] = ("defaults",)
    dependencies: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    python: str | None = None
    file: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no package is asked for, not even a Python: nothing but comments, say."""
        return not self.dependencies and not any(not item.startswith("-") for item in self.pip)

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked for; channels are in order of priority, the rest is not ordered."""
        options = [item for item in self.pip if item.startswith("-")]
        requirements = sorted({item for item in self.pip if not item.startswith("-")})
        return _digest(
            [self.channels, sorted({_folded(item) for item in self.dependencies}), options, requirements]
        )

    def asked(self) -> dict[str, Any]:
        """What a job asks for, as JSON."""
        return {
            "channels": list(self.channels),
            "dependencies": list(self.dependencies),
            "pip": list(self.pip),
            "python": self.python,
            "digest": self.digest,
            "file": self.file,
        }


class Spark(Value):
    """Settings of Spark: `packages` are `group:artifact:version`."""

    configuration: Mapping[str, str] = {}
    repositories: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    file: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked for."""
        return _digest([sorted(self.configuration.items()), self.repositories, sorted(set(self.packages))])


class Environment(Value):
    """What a run needs besides the project; a part is None where no file says anything of it."""

    conda: Conda | None = None
    spark: Spark | None = None
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of both parts: the same digest means the same environment."""
        return _digest([self.conda and self.conda.digest, self.spark and self.spark.digest])


def load(project: Project, run_configuration: RunConfiguration) -> Environment:
    """Read the environment of a run configuration; the Spark part unless its framework is Python.

    The two files of the template may be absent, another one may not.
    Raises ConfigError for a file that is absent, invalid, or outside the project.
    """
    warnings: list[str] = []
    conda = _part(project, run_configuration.conda_dependencies_file, "conda", warnings)
    spark = None
    if run_configuration.framework != "Python":
        spark = _part(project, run_configuration.spark_dependencies_file, "spark", warnings)
    return Environment(
        conda=Conda(**_tuples(conda)) if conda else None,
        spark=Spark(**_tuples(spark)) if spark else None,
        warnings=tuple(map(strip, warnings)),
    )


def _part(project: Project, written: str, kind: str, warnings: list[str]) -> dict[str, Any] | None:
    relative = written.replace("\\", "/").removeprefix("./")
    path = f"{project.root}/{relative}"
    try:
        with Root(project.root) as root:
            data = root.read_bytes(relative, cache.SIZE_LIMIT)
    except FileNotFoundError:
        if relative in (CONDA_FILE, SPARK_FILE):
            return None
        raise ConfigError(
            f"{path}: no such file", hint=f"A run configuration names it as {_KEYS[kind]}."
        ) from None
    except AmlError as error:
        code = "config.too_big" if error.code == "file.too_big" else "config.invalid"
        hint = error.hint or f"{_KEYS[kind]} names a file inside the project."
        raise ConfigError(f"{path}: {error.message}", code=code, hint=hint) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="Check its permissions.") from None
    fields, told = cache.meaning(data, path, kind, aml_home())
    warnings += [f"{relative}:{line}: {text}" for line, text in told]
    return {**fields, "file": path}


_KEYS = {"conda": "CondaDependenciesFile", "spark": "SparkDependenciesFile"}


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    # whoever fetches takes credentials from the file itself: credentials.of_file
    return {
        key: tuple(map(strip, value)) if isinstance(value, list) else value for key, value in fields.items()
    }


def _folded(package: str) -> str:
    return package if "://" in package else package.lower()


def _digest(value: object) -> str:
    return cache.sha256(json.dumps(value, separators=(",", ":")).encode())
