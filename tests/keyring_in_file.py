"""A keyring for tests: a JSON file that the variable KEYRING_FILE names."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend


class FileKeyring(KeyringBackend):
    """Passwords by service and login."""

    priority = 0.1

    def _all(self) -> dict[str, str]:
        path = Path(os.environ["KEYRING_FILE"])
        found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def get_password(self, service: str, username: str) -> str | None:
        return self._all().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        text = json.dumps({**self._all(), f"{service} {username}": password})
        Path(os.environ["KEYRING_FILE"]).write_text(text)

    def delete_password(self, service: str, username: str) -> None:
        left = {name: value for name, value in self._all().items() if name != f"{service} {username}"}
        Path(os.environ["KEYRING_FILE"]).write_text(json.dumps(left))
