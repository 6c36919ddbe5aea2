"""What may stand in each file, as pydantic models, and the reading of a document by one of them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from aml_jupyter.config.problems import Problem, is_secret_name, nearest
from aml_jupyter.config.yamlfile import Document, Path, Plain

KINDS = {
    "local": "local",
    "docker": "docker",
    "localdocker": "docker",
    "remotedocker": "remotedocker",
    "virtualmachine": "remotedocker",
    "remote": "remote",
    "cluster": "cluster",
}
RETIRED_TYPES = ("batchai", "containerinstance", "amlcompute", "aisupercomputer", "kubernetes", "datafactory")

_TRUE = ("true", "yes", "on")
_FALSE = ("false", "no", "off")


def _wrong(message: str, fix: str) -> PydanticCustomError:
    # the braces of a user's text are not a template: the message travels as a value
    return PydanticCustomError("config", "{told}", {"told": message, "fix": fix})


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"' if len(value) < 60 else f'"{value[:57]}..."'
    return {dict: "a map", list: "a list", type(None): "nothing"}.get(type(value), str(value))


def _warn(info: ValidationInfo, message: str) -> None:
    if info.context is not None:
        info.context["warn"](info.field_name, message)


def _as_text(value: object, info: ValidationInfo) -> str | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Plain):
        _warn(info, "is a placeholder in brackets; read as empty")
        return None
    if not isinstance(value, str):
        raise _wrong(
            f"must be text, not {_shown(value)}", "Write one value, in quotes if it has : [ ] { } or #."
        )
    if value == "~" and isinstance(value, Plain):
        _warn(info, "a bare ~ means nothing in YAML; read as the text ~ (put it in quotes)")
    found = re.search(r"[\x00-\x1f\x7f]", value)
    if found:
        raise _wrong(
            f"holds the control character U+{ord(found[0]):04X}",
            "In double quotes \\t and \\n are such characters: use single quotes, or / instead of \\.",
        )
    return str(value)


def _as_flag(value: object, info: ValidationInfo) -> bool | None:
    if value is None:
        return None
    word = value.lower() if isinstance(value, str) else ""
    if word not in _TRUE + _FALSE:
        raise _wrong(f"must be true or false, not {_shown(value)}", "Write true or false, without quotes.")
    if not isinstance(value, Plain):
        _warn(info, f"{_shown(value)} in quotes is text; read as {word}")
    return word in _TRUE


def _as_number(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"\d{1,9}", value):
        raise _wrong(f"must be a whole number, not {_shown(value)}", "Write digits only.")
    return int(value)


def as_arguments(value: object) -> list[str] | None:
    """A list of words, None for nothing.  Raises PydanticCustomError."""
    if value is None:
        return None
    if isinstance(value, str):
        raise _wrong(f"must be a list, not {_shown(value)}", f"Write [{value}], or one `- item` a line.")
    if not isinstance(value, list):
        raise _wrong(f"must be a list, not {_shown(value)}", 'Write ["$file"].')
    if not value:
        raise _wrong("is an empty list", 'Write ["$file"], or a script and its arguments.')
    for number, item in enumerate(value):
        if not isinstance(item, str):
            raise _wrong(f"item {number + 1} must be text, not {_shown(item)}", "Write one word an item.")
        if "\0" in item:
            raise _wrong(f"item {number + 1} holds a NUL character", "Remove it.")
    return [str(item) for item in value]


def _as_variables(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(
            f"must be a map of names and values, not {_shown(value)}", "Write one `NAME: value` a line."
        )
    for name, text in value.items():
        if not name or "=" in name or "\0" in name:
            raise _wrong(f"{_shown(name)} is no name of a variable", "Use letters, digits and _.")
        if not isinstance(text, str | None) or "\0" in (text or ""):
            raise _wrong(f"{name} must be one line of text", "Put the value in quotes.")
    return {str(name): str(text or "") for name, text in value.items()}


def _as_map(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(f"must be a map, not {_shown(value)}", "Write one `name: value` a line, indented.")
    return value


def _as_framework(value: object) -> str | None:
    if value is None:
        return None
    for name in ("Python", "PySpark"):
        if isinstance(value, str) and value.lower() == name.lower():
            return name
    guess = nearest(value, ("Python", "PySpark")) if isinstance(value, str) else ""
    raise _wrong(f"must be Python or PySpark, not {_shown(value)}", f"Write {guess or 'Python'}.")


_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_ADDRESS = re.compile(
    rf"(?:(?P<name>{_LABEL}(?:\.{_LABEL})*\.?)|\[(?P<v6>[0-9A-Fa-f:.]+(?:%\w+)?)\])(?::(?P<port>\d{{1,5}}))?"
)
_BARE_V6 = re.compile(r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:\.\d+){0,3}(?:%\w+)?")


def _as_address(value: object, info: ValidationInfo) -> str | None:
    text = _as_text(value, info)
    if text is None:
        return None
    if text.startswith("<") and text.endswith(">"):
        raise _wrong(f"{_shown(text)} is still the placeholder", "Write the machine's name or IP address.")
    if "@" in text:
        raise _wrong("holds an @", "Write the machine here and the name before the @ as `username`.")
    found = _ADDRESS.fullmatch(text)
    if len(text) > 255 or (found is None and not _BARE_V6.fullmatch(text)):
        raise _wrong(f"{_shown(text)} is no host name or IP address", "Write host, host:port or [IPv6]:port.")
    if found and found["port"] and not 0 < int(found["port"]) < 65536:
        raise _wrong(f"port {found['port']} does not exist", "Ports are 1 to 65535.")
    return text


def _as_username(value: object, info: ValidationInfo) -> str | None:
    text = _as_text(value, info)
    if text is None:
        return None
    if text.startswith("<") and text.endswith(">"):
        raise _wrong(f"{_shown(text)} is still the placeholder", "Write the login name.")
    if text.startswith("-") or re.search(r"[\s'\"`$;&|<>()]", text):
        raise _wrong(f"{_shown(text)} is no login name", "Write the name alone.")
    return text


# `edit` asks for these: what text of a command line stands for depends on the key
FLAG = BeforeValidator(_as_flag)
COLLECTIONS = (BeforeValidator(as_arguments), BeforeValidator(_as_variables), BeforeValidator(_as_map))

Text = Annotated[str | None, BeforeValidator(_as_text)]
Flag = Annotated[bool | None, FLAG]
Number = Annotated[int | None, BeforeValidator(_as_number)]
Arguments = Annotated[list[str] | None, COLLECTIONS[0]]
Variables = Annotated[dict[str, str], COLLECTIONS[1]]
Map = Annotated[dict[str, Any], COLLECTIONS[2]]
Framework = Annotated[Literal["Python", "PySpark"] | None, BeforeValidator(_as_framework)]
Address = Annotated[str | None, BeforeValidator(_as_address)]
Username = Annotated[str | None, BeforeValidator(_as_username)]


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ComputeFile(_File):
    """A `.compute` file."""

    type: Text = None
    base_docker_image: Text = Field(None, alias="baseDockerImage")
    shared_volumes: Flag = Field(None, alias="sharedVolumes")
    native_shared_directory: Text = Field(None, alias="nativeSharedDirectory")
    address: Address = None
    username: Username = None
    password: Text = None
    private_key: Text = Field(None, alias="privateKey")
    docker_host: Text = Field(None, alias="dockerHost")
    nvidia_docker: Flag = Field(None, alias="nvidiaDocker")
    user_managed_environment: Flag = Field(None, alias="userManagedEnvironment")
    python_location: Text = Field(None, alias="pythonLocation")
    spark_submit_location: Text = Field(None, alias="sparkSubmitLocation")
    yarn_deploy_mode: Text = Field(None, alias="yarnDeployMode")
    cluster: Flag = None
    native: Flag = None
    node_count: Number = Field(None, alias="nodeCount")
    subscription_id: Text = Field(None, alias="subscriptionId")
    resource_group: Text = Field(None, alias="resourceGroup")
    cluster_name: Text = Field(None, alias="clusterName")
    workspace_name: Text = Field(None, alias="workspaceName")


class RunConfigurationFile(_File):
    """A `.runconfig` file."""

    argument_vector: Arguments = Field(None, alias="ArgumentVector")
    target: Text = Field(None, alias="Target")
    environment_variables: Variables = Field({}, alias="EnvironmentVariables")
    framework: Framework = Field(None, alias="Framework")
    conda_dependencies_file: Text = Field(None, alias="CondaDependenciesFile")
    spark_dependencies_file: Text = Field(None, alias="SparkDependenciesFile")
    prepare_environment: Flag = Field(None, alias="PrepareEnvironment")
    tracked_run: Flag = Field(None, alias="TrackedRun")
    use_sampling: Flag = Field(None, alias="UseSampling")
    data_source_settings: Map = Field({}, alias="DataSourceSettings")
    data_source_substitutions: Variables = Field({}, alias="DataSourceSubstitutions")
    description: Text = Field(None, alias="Description")
    conda_file: Text = Field(None, alias="CondaFile")
    managed_environment: Flag = Field(None, alias="ManagedEnvironment")


class Reader:
    """Checks one document against a model and gathers everything there is to say about it."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems = list(document.problems)
        self.warnings: list[tuple[int, str]] = []

    def read(
        self, model: type[BaseModel], prefix: Path = (), data: object = None, *, sure: float = 0.0
    ) -> dict[str, Any]:
        """The fields of a map, by the model's names; wrong ones are left out and told in `problems`.

        An unknown key is told when it resembles a known one by at least `sure` (0 to 1).
        """
        found = self.document.data if data is None else data
        if not isinstance(found, dict):
            return {}
        self._warn_of_unknown(model, found, prefix, sure)

        def warn(field: str, message: str) -> None:
            key = model.model_fields[field].alias or field
            self.warn((*prefix, key), f"{key}: {message}")

        try:
            value = model.model_validate(found, context={"warn": warn})
        except ValidationError as error:
            wrong = {str(self._report(one, prefix)[0]) for one in error.errors()}
            rest = {key: item for key, item in found.items() if key not in wrong}
            if len(rest) == len(found):
                return {}
            value = model.model_validate(rest, context={"warn": lambda _field, _message: None})
        return {name: getattr(value, name) for name in model.model_fields}

    def problem(self, path: Path, message: str, fix: str = "", *, at_key: bool = False) -> None:
        """Note a mistake at a path."""
        self.problems.append(self.document.problem(path, message, fix, at_key=at_key))

    def warn(self, path: Path, message: str) -> None:
        """Note something that is told and does no harm."""
        line = self.document.problem(path, message, at_key=True).line
        self.warnings.append((line, message))

    def _report(self, error: Any, prefix: Path) -> Path:
        where: Path = tuple(error["loc"])
        context = error.get("ctx") or {}
        told = context.get("told") or error["msg"]
        if where and is_secret_name(str(where[0])):
            told = "must be text"
        self.problem((*prefix, *where), told, context.get("fix", ""))
        return where

    def _warn_of_unknown(
        self, model: type[BaseModel], found: dict[str, Any], prefix: Path, sure: float
    ) -> None:
        known = known_keys(model)
        for key in found:
            guess = nearest(key, known, max(sure, 0.7))
            if key not in known and (guess or not sure):
                hint = f"; did you mean {guess}?" if guess else ""
                self.warn((*prefix, key), f"unknown key {key!r}{hint}")


def known_keys(model: type[BaseModel]) -> list[str]:
    """The keys of a file as they are written in it."""
    return [field.alias or name for name, field in model.model_fields.items()]


def problem_at_start(document: Document, message: str, fix: str) -> Problem:
    """A problem of the file as a whole."""
    return document.problem((), message, fix)
