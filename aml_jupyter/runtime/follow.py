"""From the exec of the user's process to `exit.json`: pump, watch, cancel, clean up, record."""

import posix
import resource  # wait4 needs it; now, while the script starts, it costs nothing
import time

import ending
import events
import evidence
import messages
import pump
import streams
import tree
from launch import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_NOT_STARTED, LINUX, utc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # to types they are one module

    import inbox
    from launch import Started
else:
    import _signal

HEARTBEAT = 2.0
LOG_LIMIT = 1 << 30
GRACE = 10.0
# of what the main process leaves behind: helpers that end by themselves, TERM, KILL, giving up (seconds)
LINGER, LINGER_TERM, LINGER_KILL = 1.0, 3.0, 4.5
SYNC_BEFORE = 16 << 20  # a longer log is made durable after the ending, not before
DRAIN = 1.0  # seconds for the last bytes
INFINITE = float("inf")


def follow(started: "Started", problem: str) -> None:
    """See the job to its end and leave the process."""
    posix.umask(0o077)
    job = Follower(started)
    if problem:
        job.refuse(EXIT_NOT_STARTED, started.problem, problem)
    else:
        job.check_exec()
        _sync_start()
    job.loop()
    job.finish()
    posix._exit(0)


class Follower:
    """One job: its process, its streams and how it is being ended."""

    def __init__(self, started: "Started") -> None:
        self.started = started
        self.clock = started.clock
        request = started.request
        self.run_id = request.get("run_id", "")
        self.journal = events.Journal(self.run_id, self.clock)
        self.log = pump.Log(int(_number(request.get("log_limit"), LOG_LIMIT)), self.journal)
        self.journal.log = self.log
        if started.secrets:
            import masking

            self.log.mask = masking.Mask(started.secrets.values())
            for name in masking.too_short(started.secrets):
                text = "%s is too short a secret to be told from other text: the log shows it" % name
                self.journal.warn("secret.short", text)
        self.streams = streams.Streams(started, self.log, self.journal, LINUX)
        self.streams.take = messages.Messages(self.journal, self.log, started, self.streams.read_pipes).take
        if started.tracking is not None:
            self.streams.watch(started.tracking.fileno(), self._open_door)
        self.tree = tree.Tree(started.pid, b"AML_JOB=" + started.job, started.reaper)
        self.deadline = self.clock.start + _number(request.get("timeout"), INFINITE)
        self.grace = _number(request.get("grace"), GRACE)
        self.error: "dict[str, str] | None" = None
        self.exit_code: "int | None" = None
        self.signal: "int | None" = None
        self.usage: "resource.struct_rusage | None" = None
        self.main_ended = INFINITE  # monotonic
        self.cancel: "str | None" = None
        self.timed_out = False
        self.killed = False  # by us
        self.kill_at = INFINITE
        self.next_beat = 0.0
        self.beat = 0
        self.leftovers = 0
        self.linger_step = 0
        self.linger_at = INFINITE
        self.door: "inbox.Inbox | None" = None
        self._prepare()

    def _open_door(self) -> int:
        """The first MLflow client is here: from now on a thread serves them, this one takes what they log."""
        import inbox

        assert self.started.tracking is not None
        self.streams.forget(self.started.tracking.fileno())
        if self.main_ended == INFINITE:
            self.door = inbox.Inbox(self.streams.take)
            self.streams.watch(self.door.reader, self.door.empty)
            self.door.serve(self.started)
        return 0

    def _prepare(self) -> None:
        self.heartbeat_fd = _open_quietly("heartbeat")
        self._heartbeat()
        self.ending = ending.Ending()
        self.memory = evidence.MemoryKills()

    # ---- how it starts -------------------------------------------------------------------------------------

    def check_exec(self) -> None:
        """Say that the user's process runs, or why it does not."""
        if not self.started.refusal:
            self.journal.emit("started", {"pid": self.started.pid})
            self.journal.flush()
            return
        import os

        number, what = self.started.refusal.split()
        text = os.strerror(int(number))
        if what == b"cwd":
            self._say(
                EXIT_NOT_EXECUTABLE, "run.folder", "cannot enter %s: %s" % (self.started.request["cwd"], text)
            )
            return
        code, name = (
            (EXIT_NOT_FOUND, "run.command_missing")
            if int(number) == 2
            else (EXIT_NOT_EXECUTABLE, "run.command")
        )
        self._say(code, name, "cannot start %s: %s" % (self.started.request["command"][0], text))

    def refuse(self, code: int, name: str, text: str) -> None:
        """End the job before it began."""
        self._say(code, name, text)
        self.main_ended = time.monotonic()

    def _say(self, code: int, name: str, text: str) -> None:
        self.exit_code = code
        self.error = {"code": name, "message": text}
        self.log.write(("aml: %s\n" % text).encode("utf-8", "replace"), True)
        self.journal.emit("error", {"ename": name, "evalue": text, "traceback": []})

    # ---- the loop ------------------------------------------------------------------------------------------

    def loop(self) -> None:
        """Until the main process and all that came from it are gone, or cannot be ended."""
        while not self._over():
            if self.streams.move(self._seconds()):
                self._read_wakeup()
            self.journal.flush()
            self._tick()

    def _seconds(self) -> float:
        now = time.monotonic()
        until = min(self.next_beat, self.kill_at, self.linger_at, self.deadline)
        return max(0.0, min(until - now, HEARTBEAT)) + 0.0005

    def _read_wakeup(self) -> None:
        try:
            numbers = posix.read(self.started.wakeup, 4096)
        except BlockingIOError:
            return
        self._reap()  # an ending that came first is the ending
        for number in numbers:
            if number == _signal.SIGUSR1 or (number == _signal.SIGTERM and self.cancel):
                self._stop("kill")
            elif number == _signal.SIGTERM:
                self._stop("terminate")

    # ---- how it ends ---------------------------------------------------------------------------------------

    def _reap(self) -> bool:
        """Collect ended children; returns whether any child is left."""
        while True:
            try:
                pid, status, usage = posix.wait4(-1, posix.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.started.pid:
                self._main_ended(status, usage)

    def _main_ended(self, status: int, usage: "resource.struct_rusage") -> None:
        self.main_ended = time.monotonic()
        self.usage = usage
        if self.error is None:
            if posix.WIFSIGNALED(status):
                self.signal = posix.WTERMSIG(status)
            else:
                self.exit_code = posix.WEXITSTATUS(status)
        self.kill_at = self.deadline = INFINITE
        self.linger_at = self.main_ended + (0 if self.cancel or self.timed_out else LINGER)
        if self.killed:  # the others had their time to end by themselves
            self.linger_step = 1

    def _over(self) -> bool:
        if self.main_ended == INFINITE:
            return False
        if self._reap() or (not self.tree.reaper and self.started.pid and self.tree.processes()):
            return self.linger_step == 3
        return True

    def _stop(self, how: str) -> None:
        if self.main_ended < INFINITE:
            if how == "kill":
                self.linger_at, self.linger_step = 0.0, max(1, self.linger_step)
            return
        self.cancel = how
        if how == "kill":
            self.kill_at = 0.0
        else:
            self._terminate()

    def _terminate(self) -> None:
        self.tree.terminate()
        self.kill_at = time.monotonic() + self.grace

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self.next_beat:
            self._heartbeat()
            self.log.check()
        if self.main_ended < INFINITE:
            self._clean_up(now)
            self.journal.flush()
            return
        if now >= self.deadline:
            self.timed_out = True
            self.deadline = INFINITE
            if not self.cancel:
                self._terminate()
        if now >= self.kill_at:
            self.killed = True
            if self.cancel:
                self.cancel = "kill"
            self.tree.kill()
            self.kill_at = now + 0.1  # whoever was born meanwhile
        self.journal.flush()

    def _clean_up(self, now: float) -> None:
        """What the main process left behind: a moment to end by itself, TERM, KILL, giving up."""
        if now < self.linger_at or self._over():
            return
        if self.linger_step == 0:
            self.leftovers = self.tree.terminate()
            self.linger_step = 1
            self.linger_at = self.main_ended + LINGER_TERM
        elif now < self.main_ended + LINGER_KILL:
            self.leftovers = max(self.leftovers, self.tree.kill())
            self.tree.chase()
            self.linger_step = 2
            self.linger_at = now + 0.1
        else:
            self.linger_step = 3
            self.journal.warn("run.leftovers", "some processes of the job could not be ended")

    def _heartbeat(self) -> None:
        now = time.monotonic()
        self.next_beat = now + HEARTBEAT
        self.beat += 1
        line = "%d %.3f %s" % (self.beat, now, utc(time.time()))
        try:
            posix.pwrite(self.heartbeat_fd, line.ljust(63).encode("ascii") + b"\n", 0)
        except OSError:  # no space, or no folder any more: readers go by pid as well
            pass

    # ---- the record ----------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Take what is still under way, write the last events and commit the ending."""
        self.streams.drain(DRAIN)
        if self.door is not None:
            self.door.close()
        now = self.clock.elapsed()
        duration = (self.main_ended - self.clock.start) if self.main_ended < INFINITE else now
        kills = self.memory.count()
        oom = kills > 0 and not self.killed and (self.memory.exact or self.signal == _signal.SIGKILL)
        if self.log.lost or self.journal.pending:
            self.ending.release()
        self.log.finish()
        record: "dict[str, object]" = {
            "exit_code": self.exit_code,
            "signal": self.signal,
            "oom": oom,
            "timeout": self.timed_out,
            "cancel": self.cancel,
        }
        self.journal.emit("ended", dict(record, dropped=self.journal.dropped, warnings=self.journal.warnings))
        self.journal.flush(last=True)
        self.journal.sync()
        short = self.log.offset <= SYNC_BEFORE
        if short:
            self.log.sync()
        if self.started.request.get("spark"):
            _remove_quietly("spark.properties")  # no more than the run needs its secrets
        self.ending.commit(dict({"format": 1, "run_id": self.run_id}, **self._record(record, duration)))
        if not short:
            self.log.sync()
        self._remove_socket()

    def _record(self, record: "dict[str, object]", duration: float) -> "dict[str, object]":
        usage = self.usage
        return dict(
            record,
            start_utc=utc(self.clock.wall),
            end_utc=utc(time.time()),
            duration=round(duration, 6),
            log_bytes=self.log.offset,
            log_dropped=self.log.dropped,
            events=self.journal.count,
            events_dropped=self.journal.dropped,
            leftovers=self.leftovers,
            error=self.error,
            cpu_seconds=round(usage.ru_utime + usage.ru_stime, 6) if usage else None,
            max_rss=usage.ru_maxrss * (1024 if LINUX else 1) if usage else None,
        )

    def _remove_socket(self) -> None:
        if self.started.socket is not None:
            self.started.socket.close()
            _remove_quietly(self.started.socket_path)


def _remove_quietly(path: "str | bytes") -> None:
    try:
        posix.unlink(path)
    except OSError:  # it is gone, or the job's folder is
        pass


def _sync_start() -> None:
    """Make it durable that this job was started: it must not be started again after a power cut."""
    for path in ("started.json", "."):
        try:
            fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
            posix.fsync(fd)
            posix.close(fd)
        except OSError:  # some file systems cannot sync a folder
            pass


def _number(value: object, default: float) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return value
    return default


def _open_quietly(path: str) -> int:
    try:
        return posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_NOFOLLOW | posix.O_CLOEXEC, 0o600)
    except OSError:
        return -1
