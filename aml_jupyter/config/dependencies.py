"""What `conda_dependencies.yml` and `spark_dependencies.yml` say, with the mistakes people make in them."""

from __future__ import annotations

import re
import sys

from aml_jupyter.config import models, yamlfile
from aml_jupyter.config.parse import Parsed, finish, plain
from aml_jupyter.config.private import blank, is_private
from aml_jupyter.config.problems import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aml_jupyter.config.yamlfile import Path

CONDA_KEYS = ("name", "channels", "dependencies", "prefix", "variables", "platforms")
SPARK_KEYS = ("configuration", "repositories", "packages", "version")

# these are modules of Python and also packages of some channel or index
_ALSO_PACKAGES = {
    "readline",
    "zlib",
    "argparse",
    "typing",
    "dataclasses",
    "contextvars",
    "asyncio",
    "wsgiref",
}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_CONDA = re.compile(r"(?:[\w./:+-]+::)?(?P<name>[\w.-]+)(?P<spec>\s*[<>=!~].*|\s+\S.*)?(?:\[.*\])?")
_OPTIONS_WITH_VALUE = (
    "--extra-index-url",
    "--index-url",
    "-i",
    "--find-links",
    "-f",
    "--trusted-host",
    "-r",
    "--requirement",
    "-c",
    "--constraint",
    "-e",
    "--editable",
)


def conda(data: bytes, path: str) -> Parsed:
    """Read a conda environment file.  Raises ConfigError with every mistake that leaves it unclear."""
    reader = _open(
        data, path, CONDA_KEYS, other=SPARK_KEYS, kind="conda dependencies", other_kind="Spark settings"
    )
    found = _top(reader)
    packages: list[str] = []
    pip: list[str] = []
    for number, item in enumerate(_list(reader, "dependencies")):
        place: Path = ("dependencies", number)
        if isinstance(item, dict) and item:
            pip += _pip_section(reader, item, place)
        elif isinstance(item, str):
            _conda_item(reader, item, place, packages, pip)
        elif item is not None:
            reader.problem(place, "must be a package or a `pip:` section", "Write `- name=version`.")
    channels = [str(item) for item in _list(reader, "channels") if isinstance(item, str)]
    name = found.get("name")
    finish(reader)
    fields = {
        "name": str(name) if isinstance(name, str) else None,
        "channels": channels or ["defaults"],
        "dependencies": packages,
        "pip": pip,
        "python": _python_pin(packages),
    }
    return Parsed(fields=fields, warnings=reader.warnings, secret=_has_credentials(reader))


def spark(data: bytes, path: str) -> Parsed:
    """Read Spark settings.  Raises ConfigError with every mistake, or when it holds something else."""
    reader = _open(
        data, path, SPARK_KEYS, other=CONDA_KEYS, kind="Spark settings", other_kind="a conda environment"
    )
    _top(reader)
    configuration = _configuration(reader)
    repositories = []
    for number, item in enumerate(_list(reader, "repositories")):
        if isinstance(item, str) and not re.search(r"[\s,]", item) and not item.startswith("-"):
            repositories.append(str(item))
        elif item is not None:
            reader.problem(("repositories", number), "must be one address", 'Write `- "https://host/path"`.')
    packages = [
        _package(reader, item, ("packages", number))
        for number, item in enumerate(_list(reader, "packages"))
        if item is not None
    ]
    finish(reader)
    fields = {"configuration": configuration, "repositories": repositories, "packages": packages}
    secret = _has_credentials(reader) or any(map(is_private, configuration))
    return Parsed(fields=fields, warnings=reader.warnings, secret=secret)


def _has_credentials(reader: models.Reader) -> bool:
    # escapes in quotes are resolved in the values alone
    texts = (reader.document.text, *yamlfile.texts(reader.document.data))
    return any(blank(text)[0] != text for text in texts)


def _open(
    data: bytes, path: str, keys: tuple[str, ...], *, other: tuple[str, ...], kind: str, other_kind: str
) -> models.Reader:
    document = yamlfile.load(data, path)
    reader = models.Reader(document)
    if document.data is None:
        return reader  # nothing, or only comments: nothing is asked for
    if not isinstance(document.data, dict):
        what = "a list" if isinstance(document.data, list) else "one value"
        reader.problem((), f"the file is {what}, not {kind}", f"It begins with {keys[0]}: or {keys[2]}:.")
    elif not document.data.keys() & set(keys) and document.data.keys() & set(other):
        first = next(key for key in document.data if key in other)
        reader.problem(
            (first,),
            f"this file holds {other_kind}, not {kind}",
            "Point the run configuration at the right file.",
        )
    else:
        _warn_of_unknown(reader, keys)
    finish(reader)
    return reader


def _warn_of_unknown(reader: models.Reader, keys: tuple[str, ...]) -> None:
    for key in reader.document.data:
        if key not in keys:
            guess = nearest(key, keys)
            reader.warn((key,), f"unknown key {key!r}" + (f"; did you mean {guess}?" if guess else ""))


def _top(reader: models.Reader) -> dict[str, Any]:
    return reader.document.data if isinstance(reader.document.data, dict) else {}


def _list(reader: models.Reader, key: str) -> list[Any]:
    value = _top(reader).get(key)
    if value is None:
        return []
    if isinstance(value, list):
        return value
    reader.problem((key,), "must be a list", "Write one `- item` a line, indented.")
    return []


# --- conda --------------------------------------------------------------------------------------------------


def _conda_item(reader: models.Reader, item: str, place: Path, packages: list[str], pip: list[str]) -> None:
    text = " ".join(item.split())
    found = re.fullmatch(r"pip\s*[-:]\s*(\S.*)", text)
    if found:
        reader.warn(place, f"{text!r} is read as {found[1]!r} of the pip section")
        pip += _pip_item(reader, found[1], place)
    elif re.match(r"(?:https?|file)://", text) and not re.search(r"\.(?:conda|tar\.bz2)(?:#|$)", text):
        reader.warn(place, "an address in the conda list; read as part of the pip section")
        pip.append(text)
    elif text.startswith("-"):
        reader.warn(place, f"{text!r} is an option of pip; read as part of the pip section")
        pip += _pip_item(reader, text, place)
    elif _is_module(text):
        reader.warn(place, f"{text!r} is a module of Python itself, not a package; left out")
    elif "://" in text:
        packages.append(text)
    else:
        _conda_package(reader, text, place, packages)


def _conda_package(reader: models.Reader, text: str, place: Path, packages: list[str]) -> None:
    found = _CONDA.fullmatch(text)
    if found is None:
        reader.problem(place, f"{text!r} is no package", "Write name, name=version or name>=version.")
        return
    if "==" in text and "=" not in text.replace("==", ""):
        packages.append(text.replace(" ", ""))
    else:
        packages.append(re.sub(r"\s*([<>=!~]+)\s*", r"\1", text))


def _pip_section(reader: models.Reader, item: dict[str, Any], place: Path) -> list[str]:
    for other in (key for key in item if key != "pip"):
        reader.problem(
            (*place, other), "only `pip:` may hold a list here", f"Write `- {other}=version`.", at_key=True
        )
    value = item.get("pip")
    if isinstance(value, str):
        reader.warn((*place, "pip"), f"{str(value)!r} is no list; read as its only item")
        value = [value]
    if value is not None and not isinstance(value, list):
        reader.problem((*place, "pip"), "must be a list", "Write one `- name==version` a line.")
        return []
    found: list[str] = []
    waiting = ""
    for number, one in enumerate(value or []):
        where = (*place, "pip", number)
        if one is None:
            continue
        if not isinstance(one, str):
            reader.problem(where, "must be one requirement", "Write `- name==version`.")
            continue
        text = " ".join(one.split())
        if waiting and "://" in text and not text.startswith("-"):
            text = f"{waiting} {text}"
        waiting = text if text in _OPTIONS_WITH_VALUE else ""
        if waiting:
            reader.warn(where, f"{text} has no value; left out unless an address follows")
            continue
        found += _pip_item(reader, text, where)
    return found


def _pip_item(reader: models.Reader, text: str, place: Path) -> list[str]:
    if text.startswith("-") or "://" in text or text.endswith(".whl") or "/" in text:
        return [text]
    text, comment, rest = text.partition("#")
    text = text.strip()
    if comment and rest and not rest.startswith(" "):
        reader.warn(place, f"what follows # is left out: read as {text!r}")
    if _is_module(text):
        reader.warn(place, f"{text!r} is a module of Python itself, not a package; left out")
        return []
    single = re.fullmatch(r"([A-Za-z0-9][\w.-]*(?:\[[\w,. -]*\])?)\s*=\s*([^=\s].*)", text)
    if single:
        reader.warn(place, f"pip writes two ==: read as {single[1]}=={single[2]}")
        text = f"{single[1]}=={single[2]}"
    if not _NAME.match(text):
        reader.problem(place, f"{text!r} is no requirement", "Write name==version.")
        return []
    return [re.sub(r"\s*([<>=!~]=?=?|,)\s*", r"\1", text.partition(";")[0]) + _marker(text)]


def _marker(text: str) -> str:
    _, semicolon, marker = text.partition(";")
    return f" ; {marker.strip()}" if semicolon else ""


def _is_module(text: str) -> bool:
    return text in sys.stdlib_module_names and text not in _ALSO_PACKAGES


def _python_pin(packages: list[str]) -> str | None:
    for text in packages:
        found = _CONDA.fullmatch(text)
        if found and found["name"] == "python" and found["spec"]:
            return re.sub(r"^=+(?=\d)", "", found["spec"].strip())
    return None


# --- spark --------------------------------------------------------------------------------------------------


def _configuration(reader: models.Reader) -> dict[str, str]:
    value = _top(reader).get("configuration")
    if value is None:
        return {}
    if not isinstance(value, dict):
        reader.problem(
            ("configuration",), "must be a map", 'Write one `"spark.name": value` a line, indented.'
        )
        return {}
    settings = {}
    for key, setting in value.items():
        if isinstance(setting, str | None):
            settings[str(key)] = str(setting or "")
        else:
            reader.problem(("configuration", key), "must be one value", "Put the value in quotes.")
    return plain(settings)  # type: ignore[no-any-return]


def _package(reader: models.Reader, item: object, place: Path) -> str:
    parts: list[object] = []
    if isinstance(item, dict):
        parts = [item.get(key) for key in ("group", "artifact", "version")]
    elif isinstance(item, str):
        parts = list(item.split(":"))
    if len(parts) == 3 and all(isinstance(part, str) and re.fullmatch(r"[\w.-]+", part) for part in parts):
        return ":".join(map(str, parts))
    reader.problem(
        place, "must name group, artifact and version", "- {group: G, artifact: A, version: '1.0'}"
    )
    return ""
