"""What the user's processes write: two pipes and one socket, read no more often than it pays."""

import _socket
import posix
import select
import time

import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from events import Journal
    from launch import Started
    from pump import Log

LINUX_MSG_TRUNC = getattr(_socket, "MSG_TRUNC", 0)
F_SETPIPE_SZ = 1031
PIPE_SIZE = 1 << 20
BUFFER = 1 << 20
FULL = 256 * 1024  # a read of this size was worth its system call
SMALL_READS_PER_SECOND = 300.0
SMALL_READS_AT_ONCE = 64.0
LONGEST_DELAY, SHORTEST_DELAY = 0.010, 0.001
MESSAGES_AT_ONCE = 256


class Streams:
    """Moves bytes from pipes to the log and datagrams to `take`; `wakeup` is watched for its owner."""

    def __init__(self, started: "Started", log: "Log", journal: "Journal", linux: bool) -> None:
        self.log = log
        self.journal = journal
        self.take: "Callable[[bytes], None]"  # set by the owner; called with the bytes of each message
        self.wakeup = started.wakeup
        self.socket = started.socket
        self.socket_fd = -1 if started.socket is None else started.socket.fileno()
        # without MSG_TRUNC a message over the limit arrives cut, as one that is no JSON
        self.flags = LINUX_MSG_TRUNC if linux else 0
        self.buffer = bytearray(BUFFER)
        self.view = memoryview(self.buffer)
        self.reads_left = SMALL_READS_AT_ONCE
        self.read_at = 0.0
        self.delay = 0.002
        self.urgent, self.all = select.poll(), select.poll()
        for descriptor in (self.wakeup, self.socket_fd):
            if descriptor >= 0:
                self.urgent.register(descriptor, select.POLLIN)
                self.all.register(descriptor, select.POLLIN)
        self.others: "dict[int, Callable[[], int]]" = {}
        self.pipes = {started.out: False, started.err: True} if started.pid else {}
        for descriptor in self.pipes:
            posix.set_blocking(descriptor, False)
            self.all.register(descriptor, select.POLLIN)
            if linux:
                _enlarge(descriptor)

    def move(self, seconds: float) -> bool:
        """Wait up to `seconds` for bytes and move them; returns whether `wakeup` is to be read."""
        if self.reads_left < 0:
            # many small reads cost more than the bytes: let some gather, yet hear signals and messages
            self.urgent.poll(self.delay * 1000)
            seconds = 0
        ready = [descriptor for descriptor, _ in self.all.poll(seconds * 1000)]
        # pipes first: a child's last words come before what its parent says on hearing of its end
        if any(descriptor in self.pipes for descriptor in ready):
            self._pace(self.read_pipes())
        if self.socket_fd in ready:
            self._read_socket()
        if self.others:
            for descriptor in ready:
                if descriptor in self.others:
                    self.others[descriptor]()
        return self.wakeup in ready

    def watch(self, descriptor: int, act: "Callable[[], int]") -> None:
        """Call `act` when there is something to read; it returns how much it took."""
        self.others[descriptor] = act
        self.all.register(descriptor, select.POLLIN)

    def forget(self, descriptor: int) -> None:
        """Watch it no longer."""
        del self.others[descriptor]
        self.all.unregister(descriptor)

    def _pace(self, size: int) -> None:
        now = time.monotonic()
        earned = (now - self.read_at) * SMALL_READS_PER_SECOND
        self.reads_left = min(SMALL_READS_AT_ONCE, self.reads_left + earned)
        self.read_at = now
        if size < FULL:
            self.reads_left -= 1
            self.delay = min(LONGEST_DELAY, self.delay * 1.5)
        else:
            self.delay = max(SHORTEST_DELAY, self.delay * 0.7)

    def read_pipes(self) -> int:
        """Read each pipe once, stdout first: what was printed comes before the error that followed it."""
        total = 0
        for descriptor, is_error in list(self.pipes.items()):
            try:
                size = posix.readv(descriptor, [self.buffer])
            except BlockingIOError:
                continue
            except OSError:
                size = 0
            if size:
                self.log.write(self.view[:size], is_error)
                total += size
            else:
                self.all.unregister(descriptor)
                posix.close(descriptor)
                del self.pipes[descriptor]
        return total

    def _read_socket(self) -> int:
        if self.socket is None:
            return 0
        for count in range(MESSAGES_AT_ONCE):
            try:
                size = self.socket.recv_into(self.buffer, messages.MESSAGE_LIMIT, self.flags)
            except BlockingIOError:
                return count
            except OSError as error:
                self.journal.warn("message.lost", "a message could not be received: %s" % error)
                return count
            if size > messages.MESSAGE_LIMIT:
                self.journal.warn("message.too_big", "a message of %d bytes was ignored" % size)
            else:
                # a copy: taking a message may read pipes meanwhile
                self.take(bytes(self.view[:size]))
        return MESSAGES_AT_ONCE

    def drain(self, seconds: float) -> None:
        """Take all there is; bounded, as what could not be ended may still write."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            moved = self._read_socket() + sum(act() for act in list(self.others.values()))
            if not self.read_pipes() + moved:
                return


def _enlarge(descriptor: int) -> None:
    import fcntl

    try:
        fcntl.fcntl(descriptor, F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:  # over the user's share of pipe memory: the usual size will do
        pass
