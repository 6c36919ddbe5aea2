"""From the bytes of a file to plain fields: what a warm run finds in the cache instead."""

from __future__ import annotations

from aml_jupyter.config import models, sdkv1, yamlfile
from aml_jupyter.config.problems import invalid_file, is_secret_name, nearest
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# for a password: ask whoever submits
PROMPT = "prompt"
CONDA_FILE = "aml_config/conda_dependencies.yml"
SPARK_FILE = "aml_config/spark_dependencies.yml"


class Parsed(Value):
    """`fields` are JSON; `warnings` are (line, text); `secret` files are never kept in the cache."""

    fields: dict[str, Any]
    warnings: list[tuple[int, str]]
    secret: bool = False


def compute(data: bytes, path: str) -> Parsed:
    """Read a `.compute` file.  Raises ConfigError with every mistake in it."""
    reader = _open(data, path, "type, and what that type needs")
    found = reader.read(models.ComputeFile)
    kind = _kind(reader, found)
    if kind in ("remote", "remotedocker", "cluster"):
        for key in ("address", "username"):
            if found.get(key) is None:
                _missing(reader, key, f"a target of type {found.get('type') or kind} needs it")
    mode = found.get("yarn_deploy_mode")
    if mode is not None and mode not in ("cluster", "client"):
        reader.problem(("yarnDeployMode",), f'must be cluster or client, not "{mode}"', "Write client.")
    password = found.get("password")
    clear = bool(password) and password != PROMPT and not str(password).startswith("AzureMlSecret=")
    if clear:
        reader.warn(("password",), "password: stands here in clear text; an SSH key needs none")
    finish(reader)
    options = {key: value for key, value in reader.document.data.items() if key not in _TARGET_KEYS}
    fields = {name: found[name] for name in _TARGET_FIELDS}
    fields |= {"kind": kind, "type_text": found["type"] or "", "options": plain(options)}
    fields["shared_volumes"] = bool(fields["shared_volumes"])
    fields["nvidia_docker"] = bool(fields["nvidia_docker"])
    secret = clear or any(map(is_secret_name, options))
    return Parsed(fields=fields, warnings=reader.warnings, secret=secret)


_TARGET_FIELDS = (
    "native_shared_directory",
    "shared_volumes",
    "python_location",
    "spark_submit_location",
    "base_docker_image",
    "address",
    "username",
    "password",
    "private_key",
    "docker_host",
    "nvidia_docker",
    "user_managed_environment",
    "yarn_deploy_mode",
)
_TARGET_KEYS = {models.ComputeFile.model_fields[name].alias or name for name in ("type", *_TARGET_FIELDS)}


def _kind(reader: models.Reader, found: dict[str, Any]) -> str:
    written = found.get("type")
    if written is None:
        return _kind_before_preview(reader, found)
    kind = models.KINDS.get(written.lower())
    if kind:
        return kind
    if written.lower() in models.RETIRED_TYPES:
        reader.problem(
            ("type",), f"{written} was a service of Azure that is not run here", "Use remote or docker."
        )
        return ""
    guess = nearest(written, models.KINDS)
    known = "local, docker, remotedocker, remote or cluster"
    reader.problem(("type",), f'must be {known}, not "{written}"', f"Write {guess}." if guess else "")
    return ""


def _kind_before_preview(reader: models.Reader, found: dict[str, Any]) -> str:
    """Files of before the public preview have `cluster` and `native` instead of `type`."""
    if found.get("cluster"):
        return "cluster"
    if found.get("cluster") is None and found.get("native") is None:
        if not any(problem.key in ("type", "cluster", "native") for problem in reader.problems):
            _missing(reader, "type", "every compute file needs it", "type: local")
        return ""
    if found.get("address"):
        return "remotedocker"
    return "local" if found.get("native") else "docker"


def run_configuration(data: bytes, path: str) -> Parsed:
    """Read a `.runconfig` file, also of the Workbench's successor.  Raises ConfigError with every mistake."""
    reader = _open(data, path, "ArgumentVector and Target")
    keys = reader.document.data.keys()
    if not keys & {"ArgumentVector", "Target"} and keys & sdkv1.MARKS:
        fields = sdkv1.read(reader)
    else:
        fields = _workbench_fields(reader)
    finish(reader)
    secret = any(map(is_secret_name, fields["environment_variables"]))
    return Parsed(fields=fields, warnings=reader.warnings, secret=secret)


def _workbench_fields(reader: models.Reader) -> dict[str, Any]:
    found = reader.read(models.RunConfigurationFile)
    if found.get("target") is None:
        _missing(reader, "Target", "it names the compute file", "Target: local")
    return {
        "target": found.get("target") or "",
        "argument_vector": found.get("argument_vector") or ["$file"],
        "environment_variables": found.get("environment_variables") or {},
        "framework": found.get("framework"),
        "conda_dependencies_file": found.get("conda_dependencies_file")
        or found.get("conda_file")
        or CONDA_FILE,
        "spark_dependencies_file": found.get("spark_dependencies_file") or SPARK_FILE,
        "prepare_environment": bool(found.get("prepare_environment")),
        "tracked_run": found.get("tracked_run") is not False,
        "use_sampling": found.get("use_sampling") is not False,
        "data_source_settings": plain(found.get("data_source_settings") or {}),
        "data_source_substitutions": found.get("data_source_substitutions") or {},
        "description": found.get("description") or "",
        "target_settings": {},
    }


def _open(data: bytes, path: str, needs: str) -> models.Reader:
    document = yamlfile.load(data, path)
    if not isinstance(document.data, dict):
        if document.data is None:
            message, fix = f"the file is empty; it needs {needs}", "Write one `key: value` a line."
        else:
            kind = "a list" if isinstance(document.data, list) else "one value"
            message, fix = f"the file is {kind}; it needs {needs}", "Write one `key: value` a line."
        problem = models.problem_at_start(document, message, fix)
        raise invalid_file(path, document.text, [*document.problems, problem])
    return models.Reader(document)


def _missing(reader: models.Reader, key: str, why: str, example: str = "") -> None:
    if any(problem.key == key for problem in reader.problems):
        return  # it is there and wrong, which was told
    reader.problem((key,), f"is missing: {why}", f"Add the line `{example or key + ': ...'}`.", at_key=True)


def finish(reader: models.Reader) -> None:
    """Raise ConfigError when anything was wrong."""
    if reader.problems:
        raise invalid_file(reader.document.path, reader.document.text, reader.problems)


def plain(value: Any) -> Any:
    """The value with ordinary text in it, as JSON would give it back."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
