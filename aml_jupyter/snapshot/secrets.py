"""Looking for secrets in the text files of a project.

Only known forms, so that a finding is worth stopping for. All but passwords in addresses hold twenty letters
and digits in a row: one pass finds such runs, and only what stands around them is looked at closely.
"""

from __future__ import annotations

from aml_jupyter.snapshot.findings import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LOOKED_AT = 1 << 20  # bytes of a file; what lies beyond is data
_HEAD = 8192  # a NUL in it makes a file binary
_RUN = b"w" * 20
_BEFORE, _AFTER = 64, 400
_KEY_END = b"PRIVATE KEY"
_KEY_NEAR = 240  # the head lines of an encrypted key stand between
_WORD = bytes(119 if (chr(byte).isalnum() and byte < 128) or byte == 43 else 32 for byte in range(256))


def find(path: str, data: bytes) -> list[Finding]:
    """The secrets in the first MiB of a text file; none in a binary file."""
    if b"\0" in data[:_HEAD]:
        return []
    if len(data) > LOOKED_AT:
        data = data[:LOOKED_AT]
    flat = data.translate(_WORD)
    run = flat.find(_RUN)
    found = set(_logins(data))
    if run >= 0:
        found.update(_tokens(data, flat, run))
    if not found:
        return []
    lines = sorted({(data.count(b"\n", 0, at) + 1, kind) for at, kind in found})
    return [Finding(path, line, kind) for line, kind in lines]


def _tokens(data: bytes, flat: bytes, at: int) -> Iterator[tuple[int, str]]:
    from aml_jupyter.snapshot import forms  # regular expressions: loaded once there is something to look at

    hint = forms.HINT
    while at >= 0:
        end = flat.find(b" ", at + len(_RUN))
        end = len(data) if end < 0 else end
        near = max(0, at - _BEFORE)
        if hint(data, near, at + len(_RUN)) is not None:
            yield from forms.tokens(data, near, min(end, at + _AFTER) + _BEFORE)
        key = data.rfind(_KEY_END, max(0, at - _KEY_NEAR), at)
        if key >= 0:
            yield from forms.private_keys(data, key)
        at = flat.find(_RUN, end)


def _logins(data: bytes) -> Iterator[tuple[int, str]]:
    at = data.find(b"@")
    while at >= 0:
        # decorators and matrix products have no address before them
        if not data[at - 1 : at].isspace():
            begin = data.rfind(b"://", max(0, at - 200), at)
            if begin >= 0:
                from aml_jupyter.snapshot import forms

                yield from forms.logins(data, begin)
        at = data.find(b"@", at + 1)
