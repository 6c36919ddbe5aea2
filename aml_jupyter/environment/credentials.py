"""Credentials in addresses: taken out before anything is kept, put back where something is fetched.

They are carried apart, as text by the place they belong to, and never enter a lock, a record, an image or the
text of an error.
"""

from __future__ import annotations

import os
import re

from aml_jupyter import plainjson
from aml_jupyter.config.private import QUERY, TOKEN, USER, without_user
from aml_jupyter.errors import AmlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from typing import Any

VARIABLE = "AML_INDEX_CREDENTIALS"
# what this process was handed by whoever submitted the run that it looks after
_handed_over: dict[str, str] = {}

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_ORIGIN = re.compile(r"[a-zA-Z][\w+.-]*://[^/\s?#]+")


def strip(text: str) -> str:
    """The text without the credentials of any address in it."""
    return QUERY.sub(r"\1", TOKEN.sub(r"\1", USER.sub(without_user, text)))


def separate(text: str) -> tuple[str, dict[str, str]]:
    """A text without its credentials, and those by where they belong; `${NAME}` is a variable's value."""
    found: dict[str, str] = {}
    for match in USER.finditer(text):
        clean = without_user(match)
        origin = _ORIGIN.match(clean + text[match.end() :])
        if origin and "@" not in clean:
            found[origin[0]] = _expanded(match[2])
    for match in TOKEN.finditer(text):
        origin = _ORIGIN.search(strip(_head(text, match.start(1)) + match[1] + "/"))
        if origin:
            found[f"{origin[0]}/t"] = _expanded(match[2])
    for match in QUERY.finditer(text):
        found[strip(_head(text, match.start(1)) + match[1])] = match[2]
    return strip(text), found


def of_file(path: str | None) -> dict[str, str]:
    """The credentials of a dependency file, by where they belong: as it was submitted, else as it is now."""
    return {**_in_file(path), **_handed_over}


def for_supervisor(path: str | None) -> dict[str, str]:
    """The credentials in a dependency file as the variable by which a supervisor gets them."""
    found = _in_file(path)
    return {VARIABLE: plainjson.dumps(found)} if found else {}


def take_over(environ: MutableMapping[str, str]) -> None:
    """Take what a supervisor was handed out of its environment, which is that of the run, into memory."""
    if text := environ.pop(VARIABLE, ""):
        _handed_over.update(plainjson.loads(text))


def _in_file(path: str | None) -> dict[str, str]:
    from aml_jupyter.config.cache import SIZE_LIMIT
    from aml_jupyter.confined import read_bounded

    if not path:
        return {}
    try:
        return separate(read_bounded(path, SIZE_LIMIT).decode(errors="replace"))[1]
    except (OSError, AmlError):
        return {}  # what needed them says so where it fetches


def separate_all(dependencies: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a job asks for without credentials, and these; the former may be kept, the latter never."""
    clean, found = dict(dependencies), dict[str, str]()
    for key in ("channels", "dependencies", "pip"):
        items = []
        for item in dependencies.get(key, ()):
            text, more = separate(item)
            items.append(text)
            found.update(more)
        clean[key] = items
    return clean, found


def are_signed(credentials: Mapping[str, str] | None) -> bool:
    """Whether an address is signed: what caches its content keeps the whole of it."""
    return any(value.startswith("?") for value in (credentials or {}).values())


def insert(text: str, credentials: Mapping[str, str]) -> str:
    """An item with the credentials of its host put back, for the moment of fetching."""

    def replaced(match: re.Match[str]) -> str:
        origin = match[0]
        scheme, _, host = origin.partition("://")
        user = credentials.get(origin)
        token = credentials.get(origin + "/t")
        made = f"{scheme}://{user}@{host}" if user and "@" not in host else origin
        return f"{made}/t/{token}" if token else made

    for address, query in credentials.items():
        if query.startswith("?"):
            text = re.sub(re.escape(address) + r"(?![\w?])", lambda match, q=query: match[0] + q, text)  # type: ignore[misc]
    return _ORIGIN.sub(replaced, text)


def _head(text: str, at: int) -> str:
    """The scheme that stands before `://` at a place of the text."""
    return re.search(r"[a-zA-Z][\w+.-]*$|$", text[:at])[0]  # type: ignore[index]  # it always matches


def _expanded(text: str) -> str:
    return _VARIABLE.sub(lambda name: os.environ.get(name[1], ""), text)
