"""What is asked of IPython: publish, print, the cell, the names of the notebook.  The only door to it."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Page:
    """The place below the running cell, and the kernel behind it."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell

    @property
    def live(self) -> bool:
        """Whether what was shown can be replaced: in a notebook, not in a terminal."""
        return getattr(self.shell, "kernel", None) is not None

    def publish(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        display_id: str | None = None,
        update: bool = False,
    ) -> None:
        """Show a MIME bundle, or replace what was shown under an id."""
        transient = {"display_id": display_id} if display_id else {}
        self.shell.display_pub.publish(
            data=dict(data), metadata=dict(metadata or {}), transient=transient, update=update
        )

    def write(self, stream: str, text: str) -> None:
        """Print as the cell's own standard output or error, at once and in order."""
        sink, other = (sys.stderr, sys.stdout) if stream == "stderr" else (sys.stdout, sys.stderr)
        other.flush()
        sink.write(text)
        # a kernel would keep it for another 0.2 s
        sink.flush()

    def clear(self, *, wait: bool) -> None:
        """Take away what the cell has shown."""
        self.shell.display_pub.clear_output(wait=wait)

    @property
    def leaving(self) -> bool:
        """Whether the kernel is being shut down or restarted."""
        return bool(getattr(self.shell, "exit_now", False))

    @property
    def names(self) -> dict[str, Any]:
        """The variables of the notebook."""
        names: dict[str, Any] = self.shell.user_ns
        return names

    def define(self, values: Mapping[str, Any]) -> None:
        """Set variables of the notebook."""
        self.shell.push(dict(values), interactive=False)

    def cell_id(self) -> str | None:
        """The id of the running cell, where the front end tells it."""
        parent = self._parent()
        metadata = parent.get("metadata") or {}
        found = metadata.get("cellId") or metadata.get("cell_id")
        return found if isinstance(found, str) else None

    def _parent(self) -> Mapping[str, Any]:
        kernel = getattr(self.shell, "kernel", None)
        if kernel is None:
            return {}
        parent = kernel.get_parent()
        return parent if isinstance(parent, dict) else {}

    def notebook(self) -> str | None:
        """The absolute path of the calling notebook, where a front end tells it."""
        told = self.names.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME")
        if not isinstance(told, str) or not told.endswith(".ipynb"):
            return None
        # some servers tell the path below their own root: the kernel starts beside its notebook
        for path in (told, os.path.basename(told)):
            if os.path.isfile(path):
                return os.path.abspath(path)
        return None
