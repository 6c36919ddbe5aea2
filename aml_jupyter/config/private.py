"""What is secret in configuration: settings by their names, and the credentials that addresses carry.

Three forms of the latter are known: `https://user:password@host/`, the `/t/<token>/` of conda channels, and a
query that signs an address (`?sig=...`).
"""

from __future__ import annotations

import re

_PRIVATE = re.compile(
    r"(?i)password|passwd|secret|token|credential|(?:access|account|private|api)[._-]?key|\.sas\."
)
# groups: what stands before, the credentials
USER = re.compile(r"([a-zA-Z][\w+.-]*://)([^/\s'\"]+)@")
TOKEN = re.compile(r"(://[^\s'\"]*?)/t/([^/\s'\"]+)(?=/)")
QUERY = re.compile(
    r"(://[^\s?#'\"]*)(\?[^\s#'\"]*(?:sig|token|key|secret|password|auth|credential)[^\s#'\"]*)",
    re.IGNORECASE,
)
_SIGNS = re.compile(r"(?i)sig|token|key|secret|password|auth|credential")
# of what follows `://`: all that belongs to the address, a token in its path, a piece of its query
_ADDRESS = re.compile(r"[^\s'\"]*")
_PART = re.compile(r"/t/([^/]+)(?=/)")
_VALUE = re.compile(r"([?&;])([^=&;]*)(=?)([^&;]*)")
# the name of a variable is no secret
_VARIABLES = re.compile(r"(?:[^:]*:)?\$\{\w+\}")
_SCHEME = re.compile(r"[,;\[{]?[a-zA-Z][a-zA-Z0-9+.-]*\Z")
_LONGEST_SCHEME = 16
# a shorter one may stand elsewhere by chance
_TELLING = 6


def is_private(setting: str) -> bool:
    """Whether the value of a Spark setting is for its user's eyes only."""
    return _PRIVATE.search(setting) is not None


def without_user(match: re.Match[str]) -> str:
    """What stays of a match of `USER`."""
    return match[0] if _is_name(match[1], match[2]) else match[1]


def blank(text: str) -> tuple[str, set[str]]:
    """A text with `null`, or nothing, for the credentials of its addresses, and these.

    Names of variables stay.  Of the credentials only those are given that are found again for certain.
    Takes time in proportion to the text, whatever that is.
    """
    first, *rest = text.split("://")
    found: set[str] = set()
    done = [first]
    for number, part in enumerate(rest, 1):
        matched = _ADDRESS.match(part)
        assert matched
        address = matched[0].rstrip("]},")
        if address.rfind("${") > address.rfind("}"):
            address = matched[0][: len(address) + 1]
        if len(address) == len(part) and number < len(rest):
            # the scheme of the next one
            end = _SCHEME.search(address, max(0, len(address) - _LONGEST_SCHEME))
            address = address[: end.start()] if end else address
        done.append(_blank(done[-1][-_LONGEST_SCHEME:], address, found) + part[len(address) :])
    return "://".join(done), {one for one in found if len(one) >= _TELLING}


def _blank(before: str, address: str, found: set[str]) -> str:
    """What follows `://` in an address, without its credentials; these go to `found`."""

    def token(match: re.Match[str]) -> str:
        if match[1] == "null" or _VARIABLES.fullmatch(match[1]):
            return match[0]
        found.add(match[1])
        return "/t/null"

    def value(match: re.Match[str]) -> str:
        # without a name the whole is the value
        name, text = (match[2], match[4]) if match[3] else ("", match[2])
        if not text or text == "null" or _VARIABLES.fullmatch(text):
            return match[0]
        if not name or _SIGNS.search(name):
            found.add(text)
        return f"{match[1]}{name}{match[3]}null"

    host, slash, path = address.partition("/")
    user, at, behind = host.rpartition("@")
    if at and not _is_name(before + "://", user) and not _VARIABLES.fullmatch(user):
        found.add(user.partition(":")[2])
        host = behind
    path, sharp, fragment = (host + slash + path).partition("#")
    path, mark, query = path.partition("?")
    if _SIGNS.search(query):
        query = _VALUE.sub(value, mark + query)[1:]
    return _PART.sub(token, path) + mark + query + sharp + fragment


def _is_name(scheme: str, user: str) -> bool:
    # ssh://git@host needs the name to reach anything
    return ":" not in user and scheme.endswith(("ssh://", "git://"))
