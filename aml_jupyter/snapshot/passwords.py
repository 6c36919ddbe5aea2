"""Taking passwords out of compute files, and credentials out of the addresses in dependency files.

Values become null, every other byte stays.  The file is edited, not parsed and written: YAML in block and
flow style and JSON, with whatever line ends, quotes and comments it has.  What cannot be understood for
certain is refused.
"""

from __future__ import annotations

import re

from aml_jupyter.errors import SnapshotError

_KEYS = rb"password|private_?key"
_KEY = re.compile(
    rb"(?im)(?:^(?:\xef\xbb\xbf)?(?P<block>[ \t]*(?:-[ \t]+)*)|(?P<flow>[{,][ \t\r\n]*))"
    rb"(?P<quote>[\"']?)(?P<key>" + _KEYS + rb")(?P=quote)[ \t]*:(?P<space>[ \t]*)"
)
_PROPERTY = re.compile(rb"(?:[&!][^\s,{}\[\]]*[ \t]+)*")
_DOUBLE = re.compile(rb'(?s)"(?:[^"\\]|\\.)*"')
_SINGLE = re.compile(rb"(?s)'(?:[^']|'')*'")
_PLAIN_BLOCK = re.compile(rb"(?:(?![ \t]+#)[^\r\n])*")
_PLAIN_FLOW = re.compile(rb"(?:(?![ \t]+#)[^\r\n,{}\[\]])*")
_LINE = re.compile(rb"[^\n]*\n?")
_ASKED_FOR = re.compile(rb"(?im)^[ \t]*\?[ \t]*[\"']?(?:" + _KEYS + rb")\b")
_NOTHING = frozenset([b"", b"null", b"~", b"''", b'""'])


def without_passwords(path: str, data: bytes) -> tuple[bytes, list[str]]:
    """The file's bytes with null for each password, and the keys that had one.

    Raises SnapshotError `snapshot.secret` for a file that is not understood.
    """
    if b"\0" in data or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise _refused(path, "is not UTF-8 text")
    if _ASKED_FOR.search(data):
        raise _refused(path, "has a password in a form that is not supported (`? key`)")
    out: list[bytes] = []
    keys: list[str] = []
    secrets: list[bytes] = []
    done = 0
    while match := _KEY.search(data, done):
        begin, end = _value(path, data, match)
        value = data[begin:end].strip()
        out.append(data[done:begin])
        if value.lower() in _NOTHING:
            out.append(data[begin:end])
        else:
            keys.append(match["key"].decode())
            secrets.append(value.strip(b"\"'"))
            # the value ends where its last character does: line ends and comments behind it stay
            end = begin + len(data[begin:end].rstrip())
            out.append((b"" if match["space"] else b" ") + b"null")
        done = end
    cleaned = b"".join([*out, data[done:]])
    if any(len(secret) > 5 and secret in cleaned for secret in secrets):
        raise _refused(path, "has its password a second time, in a comment or another value")
    return cleaned, keys


def without_credentials(path: str, data: bytes) -> tuple[bytes, bool]:
    """A dependency file's bytes without the credentials in its addresses, and whether there were any.

    Raises SnapshotError `snapshot.secret` for a file in which they may stand once more.
    """
    wide = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(data[:2])
    before = data.decode(wide or "utf-8", "surrogatepass" if wide else "surrogateescape")
    if "://" not in before and "\\" not in before:
        return data, False
    from aml_jupyter.config.private import blank

    after, secrets = blank(before)
    if any(secret in after for secret in secrets) or _is_left(path, after):
        raise SnapshotError(
            f"{path} has credentials that cannot be kept out of the snapshot for certain: in an address that"
            " is not written on one line, or a second time",
            code="snapshot.secret",
            hint=f"Write each address on one line, without escapes, or leave the file out: add /{path} to "
            ".amlignore.",
        )
    return after.encode(wide or "utf-8", "surrogatepass" if wide else "surrogateescape"), after != before


def _is_left(path: str, text: str) -> bool:
    """Whether credentials show once lines are joined and escapes resolved."""
    from aml_jupyter.config import yamlfile
    from aml_jupyter.config.private import blank
    from aml_jupyter.errors import ConfigError

    try:
        document = yamlfile.load(text.encode("utf-8", "replace"), path)
    except ConfigError:  # nobody can use it
        return False
    return any(blank(one)[0] != one for one in yamlfile.texts(document.data))


def _value(path: str, data: bytes, key: re.Match[bytes]) -> tuple[int, int]:
    """Where the value behind a key begins and ends."""
    begin = key.end()
    prefix = _PROPERTY.match(data, begin)
    begin = prefix.end() if prefix else begin
    first = data[begin : begin + 1]
    if first in b"\"'" and first:
        quoted = (_DOUBLE if first == b'"' else _SINGLE).match(data, begin)
        if quoted is None:
            raise _refused(path, "has a quote that is not closed")
        return begin, quoted.end()
    if first and first in b"[{*":
        raise _refused(path, "has a password that is no text")
    if key["flow"] is not None or data.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] == b"{":
        plain = _PLAIN_FLOW.match(data, begin)
        return begin, plain.end() if plain else begin
    plain = _PLAIN_BLOCK.match(data, begin)
    end = plain.end() if plain else begin
    return begin, _continued(data, end, len(key["block"]))


def _continued(data: bytes, end: int, indent: int) -> int:
    """The end of a value whose first line ends at `end`: lines indented deeper than its key belong to it."""
    rest = data.find(b"\n", end)
    if rest < 0:
        return end
    at = rest + 1
    while at < len(data):
        line = _LINE.match(data, at)
        text = line.group() if line else b""
        bare = text.lstrip(b" \t")
        if bare.strip():
            if len(text) - len(bare) <= indent:
                break
            end = at + len(text.rstrip())
        at += len(text)
    return end


def _refused(path: str, why: str) -> SnapshotError:
    return SnapshotError(
        f"{path} {why}, so its password cannot be kept out of the snapshot",
        code="snapshot.secret",
        hint=f"Write it as `password: <text>` on one line, or leave the file out: add /{path} to .amlignore.",
    )
