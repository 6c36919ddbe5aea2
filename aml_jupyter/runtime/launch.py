"""From the first instruction to the user's process: claim the job, prepare its environment, fork, exec.

Every module imported here delays the user's process; json alone would double the time (it imports re, and
that enum).  What is not needed before the exec is imported while the child starts.
"""

import posix
import sys
import time

import identity
import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # to types they are one module
    from _socket import socket as Socket  # noqa: N812 - a class
    from collections.abc import Callable
    from typing import Any
else:
    import _signal

FORMAT = 1
# where this runtime lies: below the job, or mounted beside it
FOLDER = __file__.rpartition("/")[0] or "."
LINUX = sys.platform.startswith("linux")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
EXIT_NOT_STARTED = 125  # the command was never reached: the request itself is unusable
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
ENOENT, ENOTDIR = 2, 20
SOCKET_NAME = "events.sock"
TRACKING_VARIABLES = (b"MLFLOW_TRACKING_URI", b"MLFLOW_TRACKING_TOKEN", b"MLFLOW_RUN_ID", b"AML_MLFLOW")
PROXIES = (b"http_proxy", b"HTTP_PROXY", b"all_proxy", b"ALL_PROXY")
# what opens the stores and servers of this package, wherever a run inherits it
SECRETS = (
    *(b"AZURE_STORAGE_CONNECTION_STRING", b"AZURE_STORAGE_KEY", b"AZURE_STORAGE_SAS_TOKEN"),
    *(b"AZURE_CLIENT_SECRET", b"AWS_SECRET_ACCESS_KEY", b"AWS_SESSION_TOKEN", b"MLFLOW_TRACKING_PASSWORD"),
)
# what a notebook kernel leaves in its environment and a run must not act upon
KERNEL_LEFTOVERS = (b"JPY_", b"IPY_", b"PYDEVD_")


class Clock:
    """The start of the job by both clocks: durations come from the monotonic one only."""

    def __init__(self) -> None:
        self.wall = time.time()
        self.start = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start


def utc(seconds: float) -> str:
    """A wall clock time as `2018-01-31T12:00:00.000000Z`."""
    whole = int(seconds)
    return "%s.%06dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)), (seconds - whole) * 1e6)


class Started:
    """What the following of a job needs of its start; `refusal` is empty after an exec."""

    def __init__(self, job: bytes, request: "dict[str, Any]", clock: Clock) -> None:
        self.job = job
        self.request = request
        self.clock = clock
        self.pid = 0
        self.out = self.err = -1
        self.refusal = b""
        self.problem = "request.invalid"  # code of what kept it from starting
        self.wakeup = -1
        self.socket: "Socket | None" = None
        self.socket_path = b""
        self.data = -1
        self.reaper = False
        self.tracking: "Socket | None" = None  # where MLflow clients of the run knock
        self.variables: "dict[bytes, bytes]" = {}  # the environment of the user's process
        self.secrets: "dict[bytes, bytes]" = {}  # variables whose values are not to be printed


def run(job: str) -> None:
    """Run the job to its end; leaves the process by `_exit` whatever happens."""
    try:
        _run(job)
    except BaseException:  # noqa: BLE001 - the last place that can still say what went wrong
        _say_defect()
    finally:
        posix._exit(1)


def _run(job: str) -> None:
    clock = Clock()
    _detach()
    where = job.encode(sys.getfilesystemencoding(), "surrogateescape")
    if not where.startswith(b"/"):
        where = posix.getcwdb() + b"/" + where
    posix.chdir(where)  # names below the job stay short and are reached even when the path is moved
    wakeup = _install_signals()
    request, problem = _read_request()
    if not _claim(request.get("run_id", ""), clock):
        posix._exit(0)  # another runtime has this job
    started = Started(where, request, clock)
    started.wakeup = wakeup
    if not problem:
        problem = _start(started)
    import follow

    follow.follow(started, problem)


def _detach() -> None:
    try:
        posix.setsid()
    except PermissionError:  # already the leader of a session
        pass
    null = posix.open("/dev/null", posix.O_RDWR)
    for descriptor in (0, 1, 2):
        posix.dup2(null, descriptor)
    # a lock or pipe inherited from whoever forked this process must not live as long as the job does
    try:
        names = posix.listdir("/proc/self/fd" if LINUX else "/dev/fd")
    except OSError:
        names = [str(number) for number in range(256)]
    for name in names:
        if int(name) > 2:
            try:
                posix.close(int(name))
            except OSError:  # the descriptor of the listing itself
                pass


def _ignore_details(_number: int, _frame: object) -> None:
    """Exist so that the interpreter writes the signal's number to the wake-up pipe."""


def _install_signals() -> int:
    reader, writer = posix.pipe()
    posix.set_blocking(reader, False)
    posix.set_blocking(writer, False)
    for number in (_signal.SIGINT, _signal.SIGHUP, _signal.SIGPIPE):
        _signal.signal(number, _signal.SIG_IGN)
    for number in (_signal.SIGTERM, _signal.SIGUSR1, _signal.SIGCHLD):
        _signal.signal(number, _ignore_details)
    _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    return reader


def read_file(path: str) -> bytes:
    """The bytes of a small file; raises OSError."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        parts: "list[bytes]" = []
        while True:
            part = posix.read(fd, 1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
    finally:
        posix.close(fd)


def _read_request() -> "tuple[dict[str, Any], str]":
    try:
        request = plain.loads(read_file("request.json").decode("utf-8"))
        _check_request(request)
    except (OSError, ValueError, RecursionError) as error:
        return {}, "request.json cannot be used: %s" % (error or type(error).__name__)
    return request, ""


def _check_request(request: object) -> None:
    if not isinstance(request, dict) or not isinstance(request.get("format"), int):
        raise ValueError("it has no format")
    if request["format"] > FORMAT:
        raise ValueError("its format %d is newer than this runtime" % request["format"])
    command = request.get("command")
    if not isinstance(command, list) or not command or not all(isinstance(one, str) for one in command):
        raise ValueError("command is not a list of texts")
    if not isinstance(request.get("cwd"), str) or not isinstance(request.get("run_id"), str):
        raise ValueError("cwd or run_id is missing")
    environment = request.get("environment") or {}
    if not isinstance(environment, dict) or not all(isinstance(one, str) for one in environment.values()):
        raise ValueError("environment is not a table of texts")
    secrets = request.get("secrets") or []
    if not isinstance(secrets, list) or not all(isinstance(one, str) for one in secrets):
        raise ValueError("secrets is not a list of names")


def _claim(run_id: str, clock: Clock) -> bool:
    """Create `started.json` whole, or find that it is there: a killed claim leaves no half-written file."""
    text = identity.started(run_id, utc(clock.wall)).encode("ascii")
    temporary = ".started.%d.%d" % (posix.getpid(), time.monotonic_ns())
    fd = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
    try:
        posix.write(fd, text)
    finally:
        posix.close(fd)
    try:
        posix.link(temporary, "started.json")
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        return _claim_without_links(text)
    finally:
        posix.unlink(temporary)
    return True


def _claim_without_links(text: bytes) -> bool:
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
    try:
        fd = posix.open("started.json", flags, 0o600)
    except FileExistsError:
        return False
    posix.write(fd, text)
    posix.close(fd)
    return True


def _start(started: Started) -> str:
    try:
        _prepare_and_spawn(started)
    except OSError as error:  # no more processes or descriptors
        return "no process could be started: %s" % error.strerror
    except ValueError as error:  # half a surrogate pair in a name or value
        return "request.json cannot be used: %s" % error
    except Refused as error:
        return str(error)
    return ""


def _prepare_and_spawn(started: Started) -> None:
    prctl = _find_prctl()
    # what the user's process leaves behind becomes this process's child instead of init's
    started.reaper = prctl is not None and prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
    started.socket, started.socket_path = _bind(started.job)
    started.data = _make_data_folder()
    request = started.request
    environment = _environment(started)
    _open_tracking(started, environment)
    secret = {name.encode("utf-8", "surrogateescape") for name in request.get("secrets") or ()}
    secret.update(SECRETS if started.tracking else (*SECRETS, b"MLFLOW_TRACKING_TOKEN"))
    started.secrets = {name: value for name, value in environment.items() if name in secret}
    cwd = request["cwd"].encode("utf-8", "surrogateescape")
    try:
        posix.mkdir(cwd + b"/outputs", 0o777)
    except OSError:  # there already; or no such folder, which chdir will report
        pass
    words = request["command"]
    if not words[0]:
        # a target whose interpreter the submitter does not know: the one that runs this
        words = [sys.executable] + words[1:]
    if request.get("spark"):
        words, environment = _spark_submit(started, words, environment)
    command = [one.encode("utf-8", "surrogateescape") for one in words]
    _spawn(started, command, cwd, environment, prctl)


def _spark_submit(
    started: Started, words: "list[str]", environment: "dict[bytes, bytes]"
) -> "tuple[list[str], dict[bytes, bytes]]":
    """The spark-submit that runs the command, and its environment.  Raises Refused where there is none."""
    import sparksubmit

    def text(value: bytes) -> str:
        return value.decode("utf-8", "surrogateescape")

    variables = {text(name): text(value) for name, value in environment.items()}
    try:
        command, variables = sparksubmit.complete(
            words, started.request["spark"], variables, text(started.job)
        )
    except sparksubmit.SparkMissing as error:
        started.problem = "target.spark_missing"
        raise Refused("%s. %s" % (error, error.hint)) from None
    return command, {
        name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape")
        for name, value in variables.items()
    }


class Refused(Exception):
    """The target lacks what the job needs."""


def _find_prctl() -> "Callable[[int, int], int] | None":
    if not LINUX:
        return None
    try:
        import _ctypes  # ctypes itself takes 3 ms more

        address = _ctypes.dlsym(_ctypes.dlopen(None, 2), "prctl")  # type: ignore[arg-type]  # None: this program
    except (ImportError, OSError, AttributeError):
        return None
    return lambda option, value: _ctypes.call_cdeclfunction(address, (option, value, 0, 0, 0))


def _bind(job: bytes) -> "tuple[Socket | None, bytes]":
    import _socket

    endpoint = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    before = posix.umask(0o177)
    try:
        try:
            endpoint.bind(SOCKET_NAME)
            path = job + b"/" + SOCKET_NAME.encode()
        except OSError:  # some shared folders hold no sockets
            posix.umask(0o077)
            folder = b"/tmp/aml-%d-%d" % (posix.getpid(), time.monotonic_ns())
            posix.mkdir(folder, 0o700)
            path = folder + b"/" + SOCKET_NAME.encode()
            endpoint.bind(path)
    except OSError:
        return None, b""
    finally:
        posix.umask(before)
    endpoint.setblocking(False)
    return endpoint, path


def _open_tracking(started: Started, values: "dict[bytes, bytes]") -> None:
    """Have MLflow clients log into this run, by variables; whoever set the first one has a server already.

    What serves them is loaded when the first one connects: tracking.py.
    """
    uri = values.get(b"MLFLOW_TRACKING_URI")
    if uri is not None and uri == values.get(b"AML_MLFLOW"):  # this run was submitted inside another one
        for name in TRACKING_VARIABLES:
            values.pop(name, None)
    elif uri is not None:
        values.pop(b"AML_MLFLOW", None)
        return
    import _socket

    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
    except OSError:  # no loopback here: clients then do what they do without a server
        listener.close()
        return
    started.tracking = listener
    values[b"MLFLOW_TRACKING_URI"] = values[b"AML_MLFLOW"] = (
        b"http://127.0.0.1:%d" % listener.getsockname()[1]
    )
    values.setdefault(b"MLFLOW_TRACKING_TOKEN", b"aml-" + posix.urandom(16).hex().encode())
    values.setdefault(b"MLFLOW_RUN_ID", tracking_id(started.request["run_id"]).encode())
    # of pages that nobody serves
    values.setdefault(b"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", b"true")
    started.variables = values
    if any(values.get(name) for name in PROXIES):
        # a proxy is a way to other machines, and would be asked for this one
        for name in (b"no_proxy", b"NO_PROXY"):
            if values.get(name) != b"*":
                values[name] = b",".join(filter(None, [values.get(name), b"127.0.0.1"]))


def tracking_id(run_id: str) -> str:
    """The id of this run in MLflow's grammar: letters, digits, `_` and `-`."""
    kept = "".join(one if (one.isascii() and one.isalnum()) or one in "_-" else "-" for one in run_id[:255])
    return kept if kept[:1].isalnum() else "r" + kept[:254]


def _make_data_folder() -> int:
    try:
        posix.mkdir("data", 0o700)
    except FileExistsError:
        pass
    return posix.open("data", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC)


def _inherited() -> "dict[bytes, bytes]":
    running = sys.modules.get("os")
    if running is not None:  # forked from a larger process, whose changes posix.environ does not show
        return dict(running.environb)
    return dict(posix.environ)


def _environment(started: Started) -> "dict[bytes, bytes]":
    asked = {
        name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape")
        for name, value in (started.request.get("environment") or {}).items()
    }
    values = {k: v for k, v in _inherited().items() if not k.startswith(KERNEL_LEFTOVERS)}
    program = started.request["command"][0].encode("utf-8", "surrogateescape")
    activated = values.get(b"VIRTUAL_ENV", b"")
    if program.startswith(b"/") and not program.startswith(activated.rstrip(b"/") + b"/"):
        # IPython would import from the one that the submitter had activated, beside the interpreter's own
        values.pop(b"VIRTUAL_ENV", None)
    values[b"MPLBACKEND"] = b"module://aml_run.figures"
    cwd = started.request["cwd"].encode("utf-8", "surrogateescape")
    values[b"AZUREML_OUTPUT_DIRECTORY"] = cwd + b"/outputs"
    values[b"PWD"] = cwd
    values.update(asked)
    site = FOLDER.encode("utf-8", "surrogateescape") + b"/site"
    before = values.get(b"PYTHONPATH")
    values[b"PYTHONPATH"] = site + b":" + before if before else site
    values[b"AZUREML_RUN_ID"] = started.request["run_id"].encode("utf-8", "surrogateescape")
    values[b"AML_JOB"] = started.job
    values[b"AML_EVENTS"] = started.socket_path
    return values


def _candidates(program: bytes, environment: "dict[bytes, bytes]") -> "list[bytes]":
    if b"/" in program:
        return [program]
    folders = environment.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin").split(b":")
    return [(folder or b".") + b"/" + program for folder in folders]


def _spawn(
    started: Started,
    command: "list[bytes]",
    cwd: bytes,
    environment: "dict[bytes, bytes]",
    prctl: "Callable[[int, int], int] | None",
) -> None:
    parent = posix.getpid()
    out, out_end = posix.pipe()
    err, err_end = posix.pipe()
    status, status_end = posix.pipe()
    candidates = _candidates(command[0], environment)
    # a signal between fork and exec would run this process's handler in the child and be lost
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGTERM, _signal.SIGUSR1, _signal.SIGCHLD))
    pid = posix.fork()
    if pid == 0:
        try:
            _become(parent, (out_end, err_end), cwd, started.request.get("umask"), prctl)
            _exec(candidates, command, environment)
        except OSError as error:
            posix.write(status_end, b"%d exec" % (error.errno or 0))
        except NotADirectory as error:
            posix.write(status_end, b"%d cwd" % error.errno)
        except ValueError:  # a NUL character in an argument or name
            posix.write(status_end, b"22 exec")
        finally:
            posix._exit(EXIT_NOT_FOUND)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    for descriptor in (out_end, err_end, status_end):
        posix.close(descriptor)
    started.pid, started.out, started.err = pid, out, err
    # waiting here gives the child the processor at once; working on makes it wait for a time slice (2 ms)
    started.refusal = posix.read(status, 64)
    posix.close(status)


class NotADirectory(Exception):
    """The working folder cannot be entered."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


def _become(
    parent: int,
    ends: "tuple[int, int]",
    cwd: bytes,
    umask: object,
    prctl: "Callable[[int, int], int] | None",
) -> None:
    posix.setsid()
    if isinstance(umask, int):
        posix.umask(umask & 0o777)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
        if posix.getppid() != parent:  # it died before the line above
            posix._exit(EXIT_NOT_STARTED)
    try:
        posix.chdir(cwd)
    except OSError as error:
        raise NotADirectory(error.errno or 0) from None
    posix.dup2(ends[0], 1)
    posix.dup2(ends[1], 2)
    for number in range(1, 32):
        if _signal.getsignal(number) not in (_signal.SIG_DFL, None):
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def _exec(candidates: "list[bytes]", command: "list[bytes]", environment: "dict[bytes, bytes]") -> None:
    found = None
    for path in candidates:
        try:
            posix.execve(path, command, environment)
        except OSError as error:
            if error.errno not in (ENOENT, ENOTDIR):
                found = found or error
            elif found is None and len(candidates) == 1:
                raise
    raise found or OSError(ENOENT, "not found")


def _say_defect() -> None:
    import traceback

    fd = posix.open("runtime.log", posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND, 0o600)
    posix.write(fd, traceback.format_exc().encode("utf-8", "backslashreplace"))
    posix.close(fd)
