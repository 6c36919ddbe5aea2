"""Run configurations of the SDK that followed the Workbench: other keys, same folder, same file extension."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from aml_jupyter.config import models

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.config.yamlfile import Path

MARKS = frozenset({"script", "arguments", "target", "framework", "environment", "history", "command"})


def _arguments(value: object) -> list[str]:
    if value is None or value == []:
        return []
    return models.as_arguments(value) or []


class _Section(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Environment(_Section):
    environment_variables: models.Variables = Field({}, alias="environmentVariables")


class _Docker(_Section):
    enabled: models.Flag = None
    base_image: models.Text = Field(None, alias="baseImage")
    shared_volumes: models.Flag = Field(None, alias="sharedVolumes")
    gpu_support: models.Flag = Field(None, alias="gpuSupport")


class _Python(_Section):
    interpreter_path: models.Text = Field(None, alias="interpreterPath")
    user_managed: models.Flag = Field(None, alias="userManagedDependencies")
    conda_dependencies_file: models.Text = Field(None, alias="condaDependenciesFile")


class _History(_Section):
    output_collection: models.Flag = Field(None, alias="outputCollection")


class _Hdi(_Section):
    yarn_deploy_mode: models.Text = Field(None, alias="yarnDeployMode")


class _RunConfig(_Section):
    script: models.Text = None
    arguments: Annotated[list[str], BeforeValidator(_arguments)] = []
    target: models.Text = None
    framework: models.Text = None
    environment: models.Map = {}
    environment_variables: models.Variables = Field({}, alias="environmentVariables")
    history: models.Map = {}
    hdi: models.Map = {}
    spark: models.Map = {}
    prepare_environment: models.Flag = Field(None, alias="prepareEnvironment")
    auto_prepare_environment: models.Flag = Field(None, alias="autoPrepareEnvironment")


def read(reader: models.Reader) -> dict[str, Any]:
    """The fields of a RunConfiguration; what belongs to the target is in `target_settings`."""
    # such files hold dozens of keys for services that are gone: only a misspelt one of ours is worth a word
    found = reader.read(_RunConfig, sure=0.85)
    environment = found.get("environment") or {}
    docker = _section(reader, _Docker, environment, ("environment", "docker"))
    python = _section(reader, _Python, environment, ("environment", "python"))
    inner = _section(reader, _Environment, found, ("environment",))
    variables = inner.get("environment_variables") or found.get("environment_variables") or {}
    history = _section(reader, _History, found, ("history",))
    hdi = _section(reader, _Hdi, found, ("hdi",))
    prepare = found.get("prepare_environment")
    if prepare is None:
        prepare = found.get("auto_prepare_environment")
    vector = [found.get("script") or "$file", *(found.get("arguments") or [])]
    return {
        "target": found.get("target") or "local",
        "argument_vector": vector,
        "environment_variables": variables,
        "framework": _framework(reader, found.get("framework")),
        "conda_dependencies_file": python.get("conda_dependencies_file")
        or "aml_config/conda_dependencies.yml",
        "spark_dependencies_file": "aml_config/spark_dependencies.yml",
        "prepare_environment": prepare is not False,
        "tracked_run": history.get("output_collection") is not False,
        "use_sampling": True,
        "data_source_settings": {},
        "data_source_substitutions": {},
        "description": "",
        "target_settings": _target_settings(docker, python, hdi),
    }


def _section(
    reader: models.Reader, model: type[BaseModel], found: dict[str, Any], path: Path
) -> dict[str, Any]:
    value = found.get(str(path[-1]))
    if value is None:
        return {}
    if not isinstance(value, dict):
        reader.problem(path, "must be a map", "Write one `name: value` a line, indented.")
        return {}
    known = {key: value[key] for key in models.known_keys(model) if key in value}
    return reader.read(model, path, known) if known else {}


def _framework(reader: models.Reader, name: str | None) -> str | None:
    if name is None:
        return None
    if name.lower() in ("python", "pyspark"):
        return {"python": "Python", "pyspark": "PySpark"}[name.lower()]
    reader.warn(("framework",), f"framework {name} is run as Python")
    return "Python"


def _target_settings(docker: dict[str, Any], python: dict[str, Any], hdi: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if docker.get("enabled"):
        settings |= {"docker": True, "shared_volumes": docker.get("shared_volumes") is not False}
        settings |= {"nvidia_docker": bool(docker.get("gpu_support"))}
        settings["base_docker_image"] = docker.get("base_image")
    if python.get("user_managed"):
        settings["user_managed_environment"] = True
    settings["python_location"] = python.get("interpreter_path")
    settings["yarn_deploy_mode"] = hdi.get("yarn_deploy_mode")
    return {key: value for key, value in settings.items() if value is not None}
