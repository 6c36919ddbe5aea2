"""Settings of a person (`AML_HOME/settings.json`) and of a project (`aml_config/settings.json`), which wins.

A key is known by `KEYS`; one that ends in a dot there is a family: `image.` and the name of an image.
"""

from __future__ import annotations

import os

from aml_jupyter.config import aml_home, images
from aml_jupyter.errors import AmlError, ConfigError, FormatError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FORMAT = 1
_LIMIT = 1 << 20
_LONGEST = 1000

IMAGE = "image."
STORE = "artifacts.store"
# key or family -> (how it is written, what it does)
KEYS = {
    IMAGE: ("image.NAME", "the image that is taken wherever the image NAME is asked for"),
    STORE: (STORE, "where runs are kept besides this computer: folder, azblob://CONTAINER, folder:///PATH"),
}

# how the values of the family `retention.` are written, and an example
_DAYS = (r"\d+(\.\d+)?[hdwy]", "90d")
_COUNT = (r"\d{1,9}", "20")
_SIZE = (r"\d+(\.\d+)?[kKmMgGtT]?[iI]?[bB]?", "20GB")
_RETENTION = {
    "retention.trash_days": (r"\d{1,5}", "30", "days that removed runs stay in the trash; 30 unless said"),
    "retention.keep_last": (*_COUNT, "aml gc keeps that many newest runs of a project"),
    "retention.keep_best": (*_COUNT, "aml gc keeps that many best runs of a project by retention.metric"),
    "retention.metric": (r".+", "acc:max", "what retention.keep_best goes by: NAME, NAME:max or NAME:min"),
    "retention.older_than": (*_DAYS, "aml gc keeps runs that are younger"),
    "retention.max_bytes": (
        r"\d+(\.\d+)?[kKmMgGtT]?[iI]?[bB]?",
        "20GB",
        "aml gc removes the oldest runs beyond that",
    ),
    "retention.drop_local": (*_DAYS, "aml gc drops copies of artifacts that a store has, of older runs"),
}
KEYS |= {key: (key, what) for key, (_, _, what) in _RETENTION.items()}

# in a settings file they would travel with the project, or stay on the disk for good
_CREDENTIALS = (
    r"(?i)://[^/\s@]+@"
    r"|(?:password|passwd|secret|token|account_?key|access_?key|api_?key|passphrase|sig)\s*[=:]\s*\S"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|\bbearer\s+\S"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_\w{20,}|\bglpat-\S{16,}|\beyJ[\w-]{10,}\.eyJ"
)


class Setting(Value):
    """One line of a settings file: `level` is `user` or `project`; `effective` unless the project's wins."""

    key: str
    value: str
    level: str
    file: str
    effective: bool = True


def value(project_root: str | None, key: str) -> str | None:
    """What is set for a key, the project's before the person's; None where neither says.

    Raises ConfigError for an unknown key or a damaged file.
    """
    known(key)
    for _, path in _places(project_root):
        if (found := _read(path).get(key)) is not None:
            return found
    return None


def mapped_image(project_root: str | None, name: str) -> str:
    """The image to take where `name` is asked for: itself, unless a setting `image.NAME` says another.

    `x`, `x:latest` and `docker.io/library/x` are one image.  Raises ConfigError for a damaged file.
    """
    wanted = images.same(name)
    for _, path in _places(project_root):
        for key, image in _read(path).items():
            if key.startswith(IMAGE) and images.same(key.removeprefix(IMAGE)) == wanted:
                return image
    return name


def settings(project_root: str | None) -> list[Setting]:
    """Everything that is set, in order of keys, the project's before the person's."""
    found = []
    seen: set[str] = set()
    for level, path in _places(project_root):
        lines = _read(path)
        found += [
            Setting(key=key, value=text, level=level, file=path, effective=key not in seen)
            for key, text in lines.items()
        ]
        seen |= lines.keys()
    return sorted(found, key=lambda one: (one.key, not one.effective))


def put(project_root: str | None, key: str, text: str) -> str:
    """Set a key for a project, or with None for the person; the path of the file.

    Raises ConfigError for an unknown key or an unfit value, FormatError for a file of a newer version.
    """
    known(key)
    _check_value(key, text)
    return _change(project_root, key, text)


def remove(project_root: str | None, key: str) -> bool:
    """Forget a key at one level; whether it was set there.  Raises what `put` raises."""
    path = file_of(project_root)
    if key not in _read(path):
        known(key)
        return False
    _change(project_root, key, None)
    return True


def file_of(project_root: str | None) -> str:
    """The settings file of a project, or with None the person's."""
    return f"{project_root}/aml_config/settings.json" if project_root else f"{aml_home()}/settings.json"


def known(key: str) -> None:
    """Raise ConfigError `config.unknown_key`, naming the nearest, for a key that nothing reads."""
    family = next((one for one in KEYS if one.endswith(".") and key.startswith(one)), None)
    if family is None and key not in KEYS:
        raise _unknown(key)
    if family == IMAGE and (problem := images.problem(key.removeprefix(IMAGE))):
        raise ConfigError(f"{key!r}: {key.removeprefix(IMAGE)!r} {problem}", code="config.invalid")


def _unknown(key: str) -> ConfigError:
    import difflib

    written = [shape for shape, _ in KEYS.values()]
    first = key.partition(".")[0] + "."
    near = difflib.get_close_matches(first, KEYS, n=1) or difflib.get_close_matches(key, KEYS, n=1)
    guess = f"Did you mean {KEYS[near[0]][0]}? " if near else ""
    return ConfigError(
        f"there is no setting {key!r}",
        code="config.unknown_key",
        hint=f"{guess}There are: {', '.join(written)}.",
    )


def _check_value(key: str, text: str) -> None:
    import re

    if looks_secret(text):
        # the value itself is not repeated: it would stand in logs
        raise ConfigError(
            f"{key}: the value looks like it holds a password, key or token",
            code="config.secret",
            hint="Settings are files that others may read. Give it to a run with -e NAME=VALUE.",
        )
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise ConfigError(f"{key}: a value is a line of 1 to {_LONGEST} characters")
    if key.startswith(IMAGE) and (problem := images.problem(text)):
        raise ConfigError(f"{key}: {text!r} {problem}")
    if key in _RETENTION and not re.fullmatch(_RETENTION[key][0], text):
        raise ConfigError(
            f"{key}: {text!r} cannot be read", hint=f"Such as: aml config set {key} {_RETENTION[key][1]}"
        )
    if key == STORE and not _is_store(text):
        raise ConfigError(
            f"{key}: {text!r} is no store",
            hint="folder, folder:///PATH, azblob://CONTAINER[/PREFIX], s3://BUCKET[/PREFIX], gs://BUCKET[/PREFIX]",
        )


def looks_secret(text: str) -> bool:
    """Whether a text looks like it holds a password, key or token."""
    import re

    return re.search(_CREDENTIALS, text) is not None


def store_url(project_root: str | None) -> str | None:
    """The store of `artifacts.store` when it is another than the folder of this computer."""
    text = value(project_root, STORE)
    return text if text and text != "folder" else None


def _is_store(text: str) -> bool:
    """Whether this has the form of a store; the store itself looks at the rest."""
    import re

    return text == "folder" or re.fullmatch(r"[a-z][a-z0-9+]{1,20}://[^\s?#@]+", text) is not None


# --- the files ----------------------------------------------------------------------------------------------


def _places(project_root: str | None) -> list[tuple[str, str]]:
    """Level and path of each file, the one that wins first."""
    user = [("user", file_of(None))]
    return [("project", file_of(project_root)), *user] if project_root else user


def _read(path: str) -> dict[str, str]:
    """What a file sets; a file of a newer version as far as it is understood.  Raises ConfigError."""
    return _lines(_document(path), path)


def _document(path: str) -> dict[str, Any]:
    from aml_jupyter.confined import read_bounded

    try:
        data = read_bounded(path, _LIMIT)
    except FileNotFoundError:
        return {"format": FORMAT, "settings": {}}
    except AmlError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from None
    import json

    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"{path}:{getattr(error, 'lineno', 1)}: is not JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("settings"), dict):
        raise _damaged(f"{path}: has no settings")
    return document


def _damaged(message: str) -> ConfigError:
    return ConfigError(message, hint='It holds {"format": 1, "settings": {"KEY": "VALUE"}}.')


def _lines(document: Mapping[str, Any], path: str) -> dict[str, str]:
    found = {}
    for key, text in document["settings"].items():
        if not isinstance(text, str):
            raise _damaged(f"{path}: {key}: is no text")
        if key.startswith(IMAGE) and (problem := images.problem(text)):
            raise ConfigError(f"{path}: {key}: {text[:100]!r} {problem}", hint="aml config set KEY VALUE")
        found[key] = text
    return found


def _change(project_root: str | None, key: str, text: str | None) -> str:
    import json

    from aml_jupyter.confined import make_root, write_atomic
    from aml_jupyter.locks import exclusive

    path = file_of(project_root)
    folder = os.path.dirname(path)
    if project_root:
        os.makedirs(folder, exist_ok=True)
    else:
        make_root(folder)
    with exclusive(folder):
        document = _document(path)
        if document.get("format") != FORMAT:
            raise FormatError(
                f"{path} has format {document.get('format')!r}; this version writes format {FORMAT}",
                hint="Update aml_jupyter to change it; it can be read, not written.",
            )
        lines = document["settings"]
        lines.pop(key, None)
        if text is not None:
            lines[key] = text
        document["settings"] = dict(sorted(lines.items()))
        data = (json.dumps(document, indent=2) + "\n").encode()
        # a project's file is the project's: others who may read that may read this
        mode = os.stat(folder).st_mode & 0o644 if project_root else 0o600
        write_atomic(path, data, mode=mode)
    return path
