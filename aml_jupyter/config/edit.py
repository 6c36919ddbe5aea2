"""Writing configuration files: new ones as the Workbench wrote them, old ones changed key by key in place."""

from __future__ import annotations

import json
import os
import re

from aml_jupyter.config import SHARE_BASE, cache, models, parse, yamlfile
from aml_jupyter.config.identity import name_problem
from aml_jupyter.config.problems import nearest
from aml_jupyter.confined import write_atomic
from aml_jupyter.errors import ConfigError, TargetNotFound, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pydantic import BaseModel

    from aml_jupyter.config import Project
    from aml_jupyter.config.yamlfile import Node

IMAGE = "microsoft/mmlspark:plus-0.9.9"

# what each kind's file holds, in the order the Workbench wrote it; None is written as null
_TEMPLATES: dict[str, dict[str, Any]] = {
    "local": {"type": "local", "pythonLocation": "python", "nativeSharedDirectory": SHARE_BASE},
    "docker": {
        "type": "localdocker",
        "baseDockerImage": IMAGE,
        "sharedVolumes": True,
        "nativeSharedDirectory": SHARE_BASE,
    },
    "remotedocker": {
        "address": None,
        "baseDockerImage": IMAGE,
        "nativeSharedDirectory": SHARE_BASE,
        "password": None,
        "sharedVolumes": True,
        "type": "remotedocker",
        "username": None,
    },
    "remote": {
        "address": None,
        "password": None,
        "pythonLocation": "python",
        "type": "remote",
        "userManagedEnvironment": True,
        "username": None,
    },
    "cluster": {
        "address": None,
        "password": None,
        "type": "cluster",
        "username": None,
        "yarnDeployMode": "cluster",
    },
}


def attach(project: Project, name: str, kind: str, **keys: Any) -> tuple[str, ...]:
    """Write `<name>.compute` and `<name>.runconfig`, or change them in place; returns the paths written.

    `keys` are those of the file, also in snake case; text is taken as a command line gives it
    (`shared_volumes="true"`).  Raises UsageError for an unfit name, kind or key, ConfigError for a wrong
    value.
    """
    kind = models.KINDS.get(kind.lower(), kind)
    if kind not in _TEMPLATES:
        guess = nearest(kind, _TEMPLATES)
        hint = f"Did you mean {guess}? " if guess else ""
        raise UsageError(
            f"no kind of target is called {kind!r}", hint=f"{hint}Kinds: {', '.join(_TEMPLATES)}."
        )
    _check_name(name)
    given = _as_written(models.ComputeFile, keys)
    compute = f"{project.config_directory}/{name}.compute"
    template = _TEMPLATES[kind]
    text = _changed(compute, template, {**given, "type": template["type"]})
    parse.compute(text.encode(), compute)
    run_configuration = f"{project.config_directory}/{name}.runconfig"
    settings = {**_run_settings(name), "Framework": _framework(kind, given)}
    paired = _changed(run_configuration, settings, {"Target": name})
    parse.run_configuration(paired.encode(), run_configuration)
    return tuple(
        path for path, content in ((compute, text), (run_configuration, paired)) if _write(path, content)
    )


def detach(project: Project, name: str) -> tuple[str, ...]:
    """Remove `<name>.compute`, and `<name>.runconfig` where it runs there; returns the paths removed.

    Raises TargetNotFound.
    """
    compute = f"{project.config_directory}/{name}.compute"
    _check_name(name)
    if not os.path.lexists(compute):
        raise TargetNotFound(
            f"there is no compute target {name!r} to detach",
            hint=f"There are: {', '.join(project.targets())}.",
        )
    removed = [compute]
    if name in project.run_configurations():
        found = project.run_configuration(name)
        if found.file and found.target == name:
            removed.append(found.file)
    for path in removed:
        os.unlink(path)
    return tuple(removed)


def create_run_configuration(
    project: Project, name: str, target: str, keys: Mapping[str, Any] | None = None
) -> str:
    """Write `<name>.runconfig` for a target, or change it in place; returns its path.

    Raises TargetNotFound, UsageError for an unfit name or key, ConfigError for a wrong value.
    """
    _check_name(name)
    found = project.target(target)
    given = _as_written(models.RunConfigurationFile, keys or {})
    path = f"{project.config_directory}/{name}.runconfig"
    settings = {
        **_run_settings(target),
        "Framework": _framework(found.kind, {"baseDockerImage": found.base_docker_image}),
    }
    text = _changed(path, settings, {**given, "Target": target})
    parse.run_configuration(text.encode(), path)
    _write(path, text)
    return path


def name_project(project: Project, name: str) -> Project:
    """Name a folder for good, in its `.azureml/project.json`.  Raises UsageError for an unfit name."""
    import uuid

    from aml_jupyter.config import find_project

    problem = name_problem(name)
    if problem:
        raise UsageError(f"{name!r} cannot name a project: it {problem}")
    path = f"{project.root}/.azureml/project.json"
    document: dict[str, Any] = {"Id": str(uuid.uuid4())}
    if project.scope_file:
        path = project.scope_file
        document = json.loads(cache.read(path).decode("utf-8-sig"))
        document["Scope"] = re.sub(r"(?i)(/projects/)[^/]*", lambda found: found[1] + name, document["Scope"])
    else:
        document["Scope"] = f"/accounts/{project.account}/workspaces/{project.workspace}/projects/{name}"
    _write(path, json.dumps(document, indent=2) + "\n")
    return find_project(project.root)


def _run_settings(target: str) -> dict[str, Any]:
    return {
        "ArgumentVector": ["$file"],
        "CondaDependenciesFile": parse.CONDA_FILE,
        "EnvironmentVariables": None,
        "Framework": "Python",
        "PrepareEnvironment": False,
        "SparkDependenciesFile": parse.SPARK_FILE,
        "Target": target,
        "TrackedRun": True,
        "UseSampling": True,
    }


def _framework(kind: str, given: dict[str, Any]) -> str:
    """PySpark where the target brings Spark along, as `attach` of 2018 wrote it."""
    if kind == "cluster":
        return "PySpark"
    image = given.get("baseDockerImage", IMAGE) or ""
    return "PySpark" if kind in ("docker", "remotedocker") and "mmlspark" in image else "Python"


def _check_name(name: str) -> None:
    problem = name_problem(name)
    if problem or name.startswith(".") or name.endswith(" - Copy"):
        raise UsageError(
            f"{name!r} cannot name a target: it {problem or 'is taken for a hidden file or a copy'}",
            hint="Use letters, digits, - and _.",
        )


def _as_written(model: type[BaseModel], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys by the names they have in the file; `base_docker_image` and `baseDockerImage` both do."""
    names = {name: field.alias or name for name, field in model.model_fields.items()}
    names |= {alias: alias for alias in names.values()}
    for key in keys:
        if key not in names:
            guess = nearest(key, names)
            raise UsageError(f"unknown key {key!r}", hint=f"Did you mean {guess}?" if guess else "")
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    return {names[key]: _typed(fields[names[key]].metadata, value) for key, value in keys.items()}


def _typed(metadata: list[Any], value: object) -> object:
    """What text of a command line stands for: true of a flag, `[a, b]` of a list, `{a: b}` of a map."""
    if not isinstance(value, str):
        return value
    if models.FLAG in metadata and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if any(one in metadata for one in models.COLLECTIONS) and value[:1] in ("[", "{"):
        return parse.plain(yamlfile.load(value.encode(), value).data)
    return value


def _changed(path: str, template: dict[str, Any], given: dict[str, Any]) -> str:
    """The file's text with `given` set; the rest of the template only where the file lacks it."""
    if not os.path.lexists(path):
        return "".join(
            f"{line}\n" for key, value in {**template, **given}.items() for line in _lines(key, value)
        )
    data = cache.read(path)
    document = yamlfile.load(data, path)
    there = document.data if isinstance(document.data, dict) else {}
    missing = {key: value for key, value in template.items() if key not in there}
    mark = "\ufeff" if data.startswith(b"\xef\xbb\xbf") else ""
    return mark + set_keys(document.text, {**missing, **given}, path)


def _write(path: str, text: str) -> bool:
    """Replace a file whole, keeping its permissions; False when nothing changed."""
    place = os.path.realpath(path)
    data = text.encode()
    folder = os.path.dirname(place)
    os.makedirs(folder, exist_ok=True)
    mode = 0o600 if "password:" in text else os.stat(folder).st_mode & 0o644
    if os.path.lexists(place):
        if cache.read(place) == data:
            return False
        mode = os.stat(place).st_mode & 0o777
    write_atomic(place, data, mode=mode)
    return True


# --- in place -----------------------------------------------------------------------------------------------


def set_keys(text: str, values: dict[str, Any], path: str) -> str:
    """The text with top-level keys set, every other character kept.

    Raises ConfigError when the file is invalid, or so written that a key cannot be changed by itself.
    """
    document = yamlfile.load(text.encode(), path)
    before = document.data if document.data is not None else {}
    root = document.root
    if not isinstance(before, dict) or document.problems:
        raise _not_in_place(path, values)
    changed = {
        key: value for key, value in values.items() if key not in before or not _same(before[key], value)
    }
    edits = _edits(text, root, changed)
    for _, (start, end, piece) in sorted(enumerate(edits), key=lambda one: (one[1][0], one[0]), reverse=True):
        text = text[:start] + piece + text[end:]
    try:
        after = yamlfile.load(text.encode(), path)
    except ConfigError:
        raise _not_in_place(path, changed) from None
    kept = {key: value for key, value in (after.data or {}).items() if key not in changed}
    wanted = {key: value for key, value in before.items() if key not in changed}
    if kept != wanted or not all(_same(after.data.get(key), value) for key, value in changed.items()):
        raise _not_in_place(path, changed)
    return text


def _not_in_place(path: str, values: dict[str, Any]) -> ConfigError:
    lines = "\n".join(line for key, value in values.items() for line in _lines(key, value))
    return ConfigError(f"{path}: cannot be changed in place", hint=f"Write these lines yourself:\n{lines}")


def _same(found: object, value: object) -> bool:
    """Whether what a file says is this value."""
    if isinstance(value, bool):
        return isinstance(found, yamlfile.Plain) and found.lower() == str(value).lower()
    if isinstance(value, list):
        return isinstance(found, list) and [str(item) for item in found] == [str(item) for item in value]
    if isinstance(value, dict):
        return isinstance(found, dict) and {k: str(v) for k, v in found.items()} == {
            k: str(v) for k, v in value.items()
        }
    return found is None if value is None else found == str(value)


def _edits(text: str, root: Node | None, changed: dict[str, Any]) -> list[tuple[int, int, str]]:
    pairs = {str(key.value): (key, value) for key, value in root.value} if root else {}
    flow = root is not None and root.flow
    edits = []
    added = {}
    for key, value in changed.items():
        if key not in pairs:
            added[key] = value
            continue
        key_node, value_node = pairs[key]
        colon = text.index(":", key_node.end) + 1
        piece = json.dumps(value) if flow else _inline(value)
        if (
            value_node.kind == "text"
            and value_node.end > value_node.index
            and text[value_node.index] not in "|>"
        ):
            edits.append((value_node.index, value_node.end, piece))
        else:
            edits.append((colon, max(colon, _last(value_node, text)), f" {piece}"))
    if added:
        edits.append(_added(text, root, added))
    return edits


def _last(node: Node, text: str) -> int:
    """Where the text of a value ends; a block's own end is where the next thing begins."""
    if node.kind == "text" or node.flow or not node.value:
        end = node.end
    else:
        child = node.value[-1]
        end = _last(child[1] if node.kind == "map" else child, text)
    while end > node.index and text[end - 1] in " \t\r\n":
        end -= 1
    return end


def _added(text: str, root: Node | None, added: dict[str, Any]) -> tuple[int, int, str]:
    end_of_line = "\r\n" if "\r\n" in text else "\n"
    if root is not None and root.flow:
        pieces = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in added.items()]
        place = _last(root.value[-1][1], text) if root.value else root.index + 1
        between = (
            f",{end_of_line}{' ' * root.value[0][0].column}" if "\n" in text[root.index : place] else ", "
        )
        lead = between if root.value else ""
        return place, place, lead + between.join(pieces)
    indent = " " * (root.value[0][0].column if root and root.value else 0)
    lines = [indent + line for key, value in added.items() for line in _lines(key, value)]
    block = end_of_line.join(lines)
    if root is None or not root.value:
        lead = end_of_line if text and not text.endswith("\n") else ""
        return len(text), len(text), lead + block + end_of_line
    key_node, value_node = root.value[-1]
    place = text.find("\n", max(_last(value_node, text), key_node.end))
    if place < 0:
        return len(text), len(text), end_of_line + block
    return place + 1, place + 1, block + end_of_line


def _lines(key: str, value: object) -> list[str]:
    """A key as its own lines in block style, as the Workbench wrote them."""
    if isinstance(value, list) and value:
        return [f"{key}:", *(f"- {_inline(item)}" for item in value)]
    if isinstance(value, dict) and value:
        return [f"{key}:", *(f"  {_inline(name)}: {_inline(item)}" for name, item in value.items())]
    return [f"{key}: {_inline(value)}"]


_TYPED = re.compile(r"(?i)null|~|true|false|yes|no|on|off|y|n|[-+.\d][\d.:,eExXoO_+-]*|\.(?:inf|nan)")
_ADDRESS_TEXT = re.compile(r"\d+\.\d+\.\d+\.\d+(?::\d+)?")
_UNQUOTED = re.compile(r"[\w./~$\\](?:[\w./~$\\@=+,-]|:(?=[^\s])|#(?<=\S#)| (?=[^\s#]))*")


def _inline(value: object) -> str:
    """A value on one line: without quotes where every reader of YAML then takes it for this text."""
    if not isinstance(value, str):
        return json.dumps(value)
    free = _ADDRESS_TEXT.fullmatch(value) or (
        _UNQUOTED.fullmatch(value) and not _TYPED.fullmatch(value) and not value.endswith((":", " "))
    )
    if free and value.isascii():
        return value
    if re.search(r"[\x00-\x1f\x7f-\x9f]", value):
        return json.dumps(value)
    return "'" + value.replace("'", "''") + "'"
