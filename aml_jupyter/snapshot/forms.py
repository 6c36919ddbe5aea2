"""The forms of secrets, as regular expressions."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HINT = re.compile(
    rb"A[KS]IA|AIza|gh[opsru]_|github_pat_|glpat-|xox|sk-|hf_|npm_|pypi-|k_live_|SG\.|dapi|Key=|key=|sig=|8Q~"
).search
_KINDS = (
    ("an AWS access key", rb"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])"),
    ("a GitHub token", rb"\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_[A-Za-z0-9_]{22}"),
    ("a GitLab token", rb"\bglpat-[\w-]{20}"),
    ("a Slack token", rb"\bxox[abeoprs]-[0-9A-Za-z-]{20}"),
    ("a Google API key", rb"\bAIza[\w-]{35}"),
    ("an API key (sk-...)", rb"\bsk-(?:proj-|ant-|svcacct-|admin-|or-|lf-)?[\w-]{0,10}[A-Za-z0-9_]{28}"),
    ("a Hugging Face token", rb"\bhf_[A-Za-z0-9]{30}"),
    ("an npm token", rb"\bnpm_[A-Za-z0-9]{36}"),
    ("a PyPI token", rb"\bpypi-AgE[\w-]{50}"),
    ("a Stripe key", rb"\b[sr]k_live_[A-Za-z0-9]{20}"),
    ("a SendGrid key", rb"\bSG\.[\w-]{22}\.[\w-]{43}"),
    ("a Databricks token", rb"\bdapi[0-9a-f]{32}"),
    ("an Azure storage or service key", rb"(?i:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{42,86}==?"),
    ("an Azure shared access signature", rb"[?&]sig=[A-Za-z0-9%+/]{40}"),
    ("an Azure client secret", rb"[\w~.-]{3}8Q~[\w~.-]{31}"),
)
_TOKENS = re.compile(b"|".join(b"(" + pattern + b")" for _, pattern in _KINDS)).finditer
# a header alone, as programs and manuals have it, is no key
_PRIVATE_KEY = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:[\s\"',]|\\[nr]|(?:Proc-Type|DEK-Info|Version|Comment): ?[^\n\\]{0,80})*[A-Za-z0-9+/]{40}"
).match
_LOGIN = re.compile(rb"://[^\s:/@\"'<>{}$%*]{1,64}:([^\s:/@\"'<>{}$%*]{6,128})@([\w.-]{1,255})").match
_NO_SECRET = re.compile(
    rb"(?i)example|sample|dummy|placeholder|changeme|your[-_]?|xxxx|\.\.\.|0{8}|1234567890|^pass(?:word|wd)?$"
    rb"|^secret$|^passw0rd$|^password\d{0,3}$|^hunter2$"
).search
_NO_HOST = re.compile(
    rb"(?i)^(?:localhost|127\.|0\.0\.0\.0|host|hostname|server|[\w.-]*example\.)|\.(?:test|invalid|local)$"
).search


def tokens(data: bytes, begin: int, end: int) -> Iterator[tuple[int, str]]:
    """Where tokens stand in a stretch of text, and their kinds."""
    for match in _TOKENS(data, begin, end):
        if not _NO_SECRET(match.group()):
            yield match.start(), _KINDS[(match.lastindex or 1) - 1][0]


def private_keys(data: bytes, at: int) -> Iterator[tuple[int, str]]:
    """The private key whose header has `PRIVATE KEY` at a place."""
    begin = data.rfind(b"-----BEGIN", max(0, at - 40), at)
    if begin >= 0 and _PRIVATE_KEY(data, begin):
        yield begin, "a private key"


def logins(data: bytes, at: int) -> Iterator[tuple[int, str]]:
    """The password in the address whose `://` is at a place."""
    match = _LOGIN(data, at)
    if match and not _NO_SECRET(match.group(1)) and not _NO_HOST(match.group(2)):
        yield at, "a password in an address"
