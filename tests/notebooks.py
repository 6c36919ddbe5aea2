"""A real kernel that runs cells, and everything it sent meanwhile."""

from __future__ import annotations

import os
import queue
import sys
import time
from typing import Any

from jupyter_client.manager import KernelManager

PATIENCE = 60.0


class Cell:
    """What one execution sent, in order; `reply` is its execute_reply, None while it runs."""

    def __init__(self, notebook: Notebook, message_id: str) -> None:
        self.notebook = notebook
        self.message_id = message_id
        self.messages: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.reply: dict[str, Any] | None = None
        self.idle = False

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Contents of the messages of one type."""
        return [one["content"] for one in self.messages if one["msg_type"] == kind]

    def text(self, stream: str = "stdout") -> str:
        """What was printed."""
        return "".join(one["text"] for one in self.of("stream") if one["name"] == stream)

    @property
    def streams(self) -> list[tuple[str, str]]:
        """Name and text of what was printed, in order; consecutive pieces of one stream are one."""
        found: list[tuple[str, str]] = []
        for one in self.of("stream"):
            before = found.pop()[1] if found and found[-1][0] == one["name"] else ""
            found.append((one["name"], before + one["text"]))
        return found

    @property
    def displays(self) -> list[dict[str, Any]]:
        """Bundles shown, updates apart."""
        return [one["data"] for one in self.of("display_data")]

    def shown(self) -> dict[str, dict[str, Any]]:
        """What each display id shows at last."""
        found: dict[str, dict[str, Any]] = {}
        for message in self.messages:
            if message["msg_type"] in ("display_data", "update_display_data"):
                found[message["content"]["transient"].get("display_id", "")] = message["content"]["data"]
        return found

    @property
    def card(self) -> dict[str, Any]:
        """The run's card as it stands."""
        return next(data for name, data in self.shown().items() if name.startswith("aml-card-"))

    @property
    def run_id(self) -> str:
        """The id of the run whose card is shown."""
        return next(name for name in self.shown() if name.startswith("aml-card-")).removeprefix("aml-card-")

    @property
    def status(self) -> str:
        """`ok` or `error`."""
        assert self.reply is not None
        return str(self.reply["status"])

    @property
    def error(self) -> str:
        """The traceback of the reply as one text."""
        assert self.reply is not None
        return "\n".join(self.reply.get("traceback", []))


class Notebook:
    """A kernel in a folder, with this interpreter."""

    def __init__(self, folder: str, **environment: str) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]  # type: ignore[attr-defined]
        spec = self.manager.kernel_spec
        assert spec is not None
        spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self.manager.start_kernel(cwd=folder, env={**os.environ, **environment})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)
        self.cells: dict[str, Cell] = {}

    def start(self, code: str, *, cell_id: str | None = None) -> Cell:
        """Send a cell and return at once."""
        session = self.client.session
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        message = session.msg("execute_request", content)
        if cell_id:
            message["metadata"]["cellId"] = cell_id
        self.client.shell_channel.send(message)
        cell = Cell(self, message["header"]["msg_id"])
        self.cells[cell.message_id] = cell
        return cell

    def run(self, code: str, *, cell_id: str | None = None, timeout: float = PATIENCE) -> Cell:
        """Run a cell to its end."""
        cell = self.start(code, cell_id=cell_id)
        self.finish(cell, timeout)
        return cell

    def finish(self, cell: Cell, timeout: float = PATIENCE) -> None:
        """Wait until a cell has ended and everything it sent is here."""
        self.until(lambda: cell.idle and cell.reply is not None, timeout)

    def until(self, condition: Any, timeout: float = PATIENCE) -> None:
        """Take in messages until something holds; TimeoutError otherwise."""
        due = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > due:
                raise TimeoutError("it did not happen")
            self._take(0.02)

    def _take(self, wait: float) -> None:
        try:
            message = self.client.get_iopub_msg(timeout=wait)
            while True:
                self._sort(message)
                message = self.client.get_iopub_msg(timeout=0)
        except queue.Empty:
            pass
        try:
            reply = self.client.get_shell_msg(timeout=0)
            cell = self.cells.get(reply["parent_header"].get("msg_id", ""))
            if cell is not None:
                cell.reply = reply["content"]
        except queue.Empty:
            pass

    def _sort(self, message: dict[str, Any]) -> None:
        cell = self.cells.get(message["parent_header"].get("msg_id", ""))
        if cell is None:
            return
        if message["msg_type"] == "status":
            cell.idle = message["content"]["execution_state"] == "idle"
        else:
            cell.messages.append(message)
            cell.times.append(time.time())

    def interrupt(self) -> None:
        """What the stop button does."""
        self.manager.interrupt_kernel()

    def close(self) -> None:
        """End the kernel at once."""
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
