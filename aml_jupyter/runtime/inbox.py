"""What threads of the runtime hand to the one that writes events; loaded when an MLflow client connects."""

import _thread
import posix
import time
from _collections import deque  # type: ignore[import-not-found]  # collections itself would load twice as much

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from launch import Started

MOST = 5000  # messages that may wait; whoever has more waits too


class Inbox:
    """A queue of messages with a descriptor that can be polled."""

    def __init__(self, take: "Callable[[bytes], None]") -> None:
        self._take = take
        self._waiting: "deque[bytes]" = deque()
        self.reader, self._writer = posix.pipe()
        for descriptor in (self.reader, self._writer):
            posix.set_blocking(descriptor, False)
        self.partial: "set[bytes]" = set()  # files that are being written
        self.closed = False

    def put(self, message: bytes) -> None:
        """Hand over one message, from any thread; it will be taken before the run ends."""
        while len(self._waiting) > MOST:
            time.sleep(0.002)
        self._waiting.append(message)
        try:
            posix.write(self._writer, b".")
        except BlockingIOError:  # enough bytes wait there
            pass

    def empty(self) -> int:
        """Take all that waits; returns how many messages that were."""
        try:
            posix.read(self.reader, 1 << 16)
        except BlockingIOError:
            pass
        count = 0
        while self._waiting:
            self._take(self._waiting.popleft())
            count += 1
        return count

    def serve(self, started: "Started") -> None:
        """Serve the clients of `started.tracking` from a thread of its own."""
        _thread.start_new_thread(self._serve, (started,))

    def _serve(self, started: "Started") -> None:
        try:
            import tracking

            tracking.serve(started, self)
        except BaseException as error:  # noqa: BLE001 - a thread of ours must not end without a word
            if started.tracking is not None:
                started.tracking.close()  # clients are told at once that nobody is here
            self.put(
                _warning("MLflow clients cannot log into this run: %s: %s" % (type(error).__name__, error))
            )

    def close(self) -> None:
        """Remove what was being written when the run ended: half an artifact is none."""
        self.closed = True
        for path in list(self.partial):
            try:
                posix.unlink(path)
            except OSError:  # finished meanwhile, or gone
                pass


def _warning(text: str) -> bytes:
    import plain

    return b"j" + plain.dumps({"type": "warning", "code": "run.mlflow_unavailable", "text": text}).encode(
        "ascii"
    )
