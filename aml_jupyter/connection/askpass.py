"""Handing a password to ssh: through a FIFO, for one machine's prompt, never by an argument or a variable."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.config import Secret

# ssh may ask a machine on the way for its password with the same program: only the prompts of the machine
# that the password belongs to are answered, and the question for the passphrase of the key that was named
_PROGRAM = """#!/bin/sh
case $1 in
    "$AML_ASKPASS_LOGIN's password: ") ;;
    "($AML_ASKPASS_LOGIN) "*[Pp]assword*) ;;
    *" key '$AML_ASKPASS_KEY': ") [ -n "$AML_ASKPASS_KEY" ] || exit 1 ;;
    *) exit 1 ;;
esac
IFS= read -r line <"$AML_ASKPASS_FIFO" && printf '%s\\n' "$line"
"""
# a passphrase, a password, and one for each question of a keyboard-interactive login
_TIMES = 4


class Askpass:
    """Answers ssh's question for a password while it lasts; a context manager.

    `login` is `user@host` as ssh names them in its prompt, `key` the file whose passphrase it may be.
    """

    def __init__(self, folder: str, password: Secret, login: str, key: str | None) -> None:
        stem = f"{folder}/{os.getpid():x}-{os.urandom(4).hex()}"
        self._program = stem + ".askpass"
        self._fifo = stem + ".fifo"
        self._password = password
        self.environment = {
            "SSH_ASKPASS": self._program,
            "SSH_ASKPASS_REQUIRE": "force",
            # before OpenSSH 8.4 a display was what made ssh ask a program
            "DISPLAY": os.environ.get("DISPLAY") or ":0",
            "AML_ASKPASS_LOGIN": login,
            "AML_ASKPASS_KEY": key or "",
            "AML_ASKPASS_FIFO": self._fifo,
        }

    def __enter__(self) -> Askpass:
        fd = os.open(self._program, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
        with os.fdopen(fd, "w") as file:
            file.write(_PROGRAM)
        os.mkfifo(self._fifo, 0o600)
        # open for both ends, so that neither opening waits; the bytes lie in the kernel, not on a disk
        self._fd = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(self._fd, (os.fsencode(self._password.reveal()) + b"\n") * _TIMES)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        for path in (self._program, self._fifo):
            try:
                os.unlink(path)
            except FileNotFoundError:  # somebody tidied the folder
                pass
