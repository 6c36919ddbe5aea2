"""First module of every Python started inside a run: printed output leaves promptly, display is kept.

Then the sitecustomize that would have been found without this one runs as usual.  Only modules that the
interpreter has loaded already, or that are part of it, are imported: this file delays every start.
"""

import _frozen_importlib
import _frozen_importlib_external
import _thread
import atexit
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal  # to types they are one module
    from collections.abc import Callable
    from types import ModuleType
else:
    import _signal

_TICK = 0.05  # seconds that printed text may wait
_TextStream = type(sys.__stderr__) if sys.__stderr__ else ()
_watched: "dict[str, Callable[[ModuleType], None]]" = {}  # name of a module -> what to do once it is loaded
# (hold, let go) of streams that several threads may be writing to
around_forks: "list[tuple[Callable[[], None], Callable[[], None]]]" = []


def _flush():
    """Pass on what waits in the standard streams; streams of the program's own making are left alone."""
    for stream in (sys.__stdout__, sys.stdout, sys.stderr):
        if isinstance(stream, _TextStream):
            try:
                stream.flush()
            except (ValueError, OSError):  # closed, or its reader is gone: the program's own print will tell
                pass


class _Flusher:
    """A thread that flushes every 50 ms; gone while a process forks: no child copies a held lock."""

    def __init__(self):
        self._reset()

    def _reset(self):
        self.running = False
        self.task = ""
        self.changing = _thread.allocate_lock()  # held while the thread is started, and from its end on
        self.wake = _thread.allocate_lock()
        self.done = _thread.allocate_lock()
        self.wake.acquire()
        self.done.acquire()

    def start(self):
        """Start the thread, unless another one does so or a fork is under way: nobody would stop a second."""
        changing = self.changing
        if not changing.acquire(False):
            return
        try:
            if not self.running:
                _thread.start_new_thread(self._run, (self.wake, self.done))
                self.running = True
        except RuntimeError:  # no more threads here, or the interpreter is ending
            pass
        finally:
            changing.release()

    def _run(self, wake, done):
        if hasattr(_signal, "pthread_sigmask"):  # signals are for the program's own threads
            _signal.pthread_sigmask(_signal.SIG_BLOCK, range(1, 32))
        self.task = "/proc/self/task/%d" % _thread.get_native_id()
        while not wake.acquire(True, _TICK):
            _flush()
        done.release()

    def stop(self, timeout=-1):
        """Wait for the thread's last flush: an interpreter that ends in the middle of one is aborted."""
        if self.running:
            self.running = False
            self.wake.release()
            self.done.acquire(True, timeout)

    def end(self):
        """Stop for good."""
        self.changing.acquire(True, 2)
        self.stop()

    def before_fork(self):
        self.changing.acquire(True, 2)  # to the end of the fork, after which there is a new one
        if self.running:
            self.stop(2)
            for _ in range(20):  # os.fork counts threads and warns of a second one
                if not os.path.exists(self.task):
                    break
                time.sleep(0.0002)
        _flush()
        for hold, _ in around_forks:
            hold()

    def after_fork(self):
        """Start again at the next print: the fork that just ended has not counted the threads yet."""
        self._reset()
        for _, let_go in around_forks:
            let_go()
        for stream in (sys.__stdout__, sys.stdout):
            # one is enough however many forks come before the next print
            if isinstance(stream, _TextStream) and not hasattr(stream.write, "starts_flusher"):
                stream.write = self._starter(stream)  # type: ignore[method-assign]  # of this one stream

    def _starter(self, stream):
        own = stream.__dict__.get("write")

        def write(text):
            if own is None:
                stream.__dict__.pop("write", None)
            else:
                stream.write = own
            if not self.running:
                self.start()
            return stream.write(text)

        write.starts_flusher = True  # type: ignore[attr-defined]  # which tells it from other writers
        return write

    def install(self):
        self.start()
        atexit.register(self.end)
        if hasattr(os, "register_at_fork"):
            after = self.after_fork
            os.register_at_fork(before=self.before_fork, after_in_parent=after, after_in_child=after)


class _AfterImport:
    """A finder that finds nothing of its own: it has a watched module looked at once it is loaded."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        watcher = _watched.pop(name, None)
        if watcher is None:
            return None
        spec = _frozen_importlib_external.PathFinder.find_spec(name, path, target)
        loader = spec and spec.loader
        if loader:
            run = loader.exec_module

            def exec_module(module):
                run(module)
                watcher(module)

            loader.exec_module = exec_module  # type: ignore[method-assign]  # of this one loader
        return spec


def _watch(name, watcher):
    if name in sys.modules:
        watcher(sys.modules[name])
    else:
        _watched[name] = watcher


def _flush_before_programs(module):
    """What was printed comes before what a started program prints."""
    start = module.Popen._execute_child

    def _execute_child(self, *args, **kwargs):
        _flush()
        return start(self, *args, **kwargs)

    _execute_child.__module__, _execute_child.__qualname__ = start.__module__, start.__qualname__
    module.Popen._execute_child = _execute_child


def _flush_before_shell(module):
    system = module.system

    def flush_and_run(command):
        _flush()
        return system(command)

    flush_and_run.__name__ = flush_and_run.__qualname__ = "system"
    flush_and_run.__module__ = module.__name__  # pickle looks it up there
    flush_and_run.__doc__ = system.__doc__
    module.system = flush_and_run


def _keep_display(module):
    from aml_run import ipython

    ipython.keep_display(module)


def _follow_tracking(module):
    from aml_run import tracking

    tracking.follow_server(module)


def _install():
    if isinstance(sys.stdout, _TextStream) and not sys.stdout.write_through:
        _Flusher().install()
        sys.modules["_aml_flusher"] = sys.modules[__name__]
    _watch("os", _flush_before_shell)
    _watch("subprocess", _flush_before_programs)
    _watch("IPython.core.display_functions", _keep_display)
    _watch("IPython.core.display", _keep_display)
    if os.environ.get("AML_MLFLOW"):
        _watch("mlflow.tracking._tracking_service.utils", _follow_tracking)
    sys.meta_path.insert(0, _AfterImport)


def _run_next():
    here = os.path.dirname(os.path.abspath(__file__))
    others = [path for path in sys.path if os.path.abspath(path) != here]
    spec = _frozen_importlib_external.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = _frozen_importlib.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if os.environ.get("AML_EVENTS"):
    _install()
_run_next()
