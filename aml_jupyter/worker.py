"""Starts the runs of the queue and the trials of sweeps in their turn, and can be killed at any moment.

Started by file path as `python -S -E -s worker.py AML_HOME`.  One process for all queues and sweeps of an
AML_HOME; it leaves when there is nothing to do.  What it holds that is in no file is what it was handed
through its inbox: environments and secrets of runs.  Everything else its successor reads in the entries and
the run directories; supervisors go on without it.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial

if __name__ == "__main__":
    # whoever started this waits until its first process has ended
    if os.fork():
        os._exit(0)
    # started by path, without site: the package's parent takes the place of its folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from aml_jupyter import experiment, plainjson, processes, queueing, runs
from aml_jupyter.errors import AmlError
from aml_jupyter.experiment.logins import passwords_again
from aml_jupyter.frozen import Value
from aml_jupyter.job import TERMINAL
from aml_jupyter.locks import try_lock
from aml_jupyter.starting import ForkedStarter, Starter, SupervisorGone, run_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from aml_jupyter.queueing import Entry
    from aml_jupyter.runs import Record, RunDirectory

# seconds between two looks at everything, should a word not arrive
LOOK = 5.0
# seconds until what went wrong is tried again, at first
FIRST_PAUSE = 0.25
# seconds between two looks for a supervisor that starts
STARTING_LOOK = 0.02
# seconds until a supervisor that was started has said who it is
STARTING = 15.0
# seconds between two looks at runs where the system does not tell the end of a process
BLIND_LOOK = 0.5
# new supervisors that a run gets when the ones before died
MOST_TRIES = 5
# bytes of the log of workers
LARGEST_LOG = 1 << 20
WAITING, ACTIVE, DONE, STUCK = "waiting", "active", "done", "stuck"


class Given(Value):
    """What a run is started with: the environment of whoever submitted it, and secrets on top of that."""

    environment: Mapping[str, str]
    secrets: Mapping[str, str]


def main(home: str) -> None:
    """Do the work of one AML_HOME, unless another process does it."""
    os.umask(0o077)
    os.chdir("/")
    post = queueing.Post(home)
    if post.take():
        Worker(home, post).work()


class Worker:
    """All that waits or goes on, and what was handed over for it."""

    def __init__(self, home: str, post: queueing.Post) -> None:
        self.home = home
        self.post = post
        self.given: dict[str, Given] = {}
        self.items: dict[str, Item] = {}
        self.places = Places(queueing.Settings(), ())
        # seconds until what went wrong is tried again; 0 while nothing does
        self.trouble = 0.0

    def work(self) -> None:
        """Until there is nothing to do."""
        while True:
            try:
                self._look()
            # the outermost edge: whatever it is, the other runs must have their turn
            except Exception:  # noqa: BLE001
                log(self.home, _traceback())
                time.sleep(1.0)
            if self._is_idle():
                if self.post.leave(self._is_done):
                    return
                continue  # something came meanwhile, and whoever brought it may have been killed since
            self._wait()
            self._take_over(self.post.read())

    def _take_over(self, messages: Iterable[Mapping[str, Any]]) -> None:
        for message in messages:
            given = Given(
                environment=_texts(message.get("environment")), secrets=_texts(message.get("secrets"))
            )
            for run_id in map(str, message["runs"]):
                before = self.given.get(run_id)
                # what was given later wins, what was given before stays
                self.given[run_id] = (
                    given.replace(secrets={**before.secrets, **given.secrets}) if before else given
                )

    def _look(self) -> None:
        self._take_over(self.post.read())
        troubled, self.trouble = self.trouble, 0.0
        found = {entry.run_id: entry for entry in queueing.entries(self.home)}
        for run_id in self.items.keys() - found.keys():
            self.items.pop(run_id).let_go()
        for run_id, entry in found.items():
            item = self.items.get(run_id)
            if item is None:
                item = self.items[run_id] = Item(self, entry)
            item.entry = entry
            self._do(item, item.tend)
        # in the order of the queue: an item that was met before may have been moved
        self.items = {run_id: self.items[run_id] for run_id in found if run_id in self.items}
        self._start_waiting()
        if self.trouble:
            self.trouble = min(LOOK, max(FIRST_PAUSE, troubled * 2))

    def _do(self, item: Item, do: Callable[[], None]) -> None:
        """Do something for one item; what is wrong with it keeps no other from its turn."""
        try:
            do()
        except (AmlError, OSError) as error:
            log(self.home, f"{item.entry.run_id}: {error}")
            self.trouble = LOOK

    def _start_waiting(self) -> None:
        try:
            settings = queueing.settings(self.home)
        except AmlError as error:  # damaged: as if nothing had been set
            log(self.home, str(error))
            settings = queueing.Settings()
        queue = [item for item in self.items.values() if not item.entry.direct]
        self.places = Places(settings, queue)
        for item in list(self.items.values()):
            if item.entry.direct:
                self._do(item, partial(item.start, item.entry.jobs))
        if settings.paused:
            return
        for item in queue:
            most = min(item.entry.jobs, len(item.active) + self.places.free)
            self._do(item, partial(item.start, most))

    def forget(self, item: Item) -> None:
        """An item has ended, or has nothing to be done for it any more."""
        queueing.drop(self.home, item.entry.run_id)
        self.items.pop(item.entry.run_id, None)
        for run_id in item.states:
            self.given.pop(run_id, None)

    def _is_idle(self) -> bool:
        """Whether a new worker could do as well: nothing goes on, and nothing is held that would be lost."""
        return all(item.is_idle() for item in self.items.values())

    def _is_done(self) -> bool:
        """Whether that is so and nothing has come since the last look."""
        there = {entry.run_id for entry in queueing.entries(self.home)}
        return self._is_idle() and there <= self.items.keys()

    def _wait(self) -> None:
        import select

        active = [one for item in self.items.values() for one in item.active.values()]
        ends = [one.end for one in active if one.end >= 0]
        seconds = LOOK
        if len(ends) < len(active):
            youngest = min(one.age() for one in active if one.end < 0)
            seconds = min(BLIND_LOOK, max(STARTING_LOOK, youngest / 10))
        if any(item.is_being_made() for item in self.items.values()):
            seconds = min(seconds, BLIND_LOOK)
        if self.trouble:
            seconds = min(seconds, self.trouble)
        select.select([self.post.inbox, *ends], [], [], seconds)


class Places:
    """How many more runs of the queue may go on, in all and at each target; counted once for a look."""

    def __init__(self, settings: queueing.Settings, queue: Iterable[Item]) -> None:
        self.free = settings.jobs
        self.limits = settings.targets
        self._taken: dict[str, int] = {}
        for item in queue:
            for active in item.active.values():
                self.take(active.target)

    def take(self, target: str) -> None:
        """One more goes on at a target."""
        self.free -= 1
        self._taken[target] = self._taken.get(target, 0) + 1

    def has_room(self, target: str) -> bool:
        """Whether the target has no limit of its own, or has not reached it."""
        most = self.limits.get(target)
        return most is None or self._taken.get(target, 0) < most


class Item:
    """An entry of the queue: a run, or a sweep with its trials."""

    def __init__(self, worker: Worker, entry: Entry) -> None:
        self.worker = worker
        self.entry = entry
        self.home = worker.home
        self.states: dict[str, str] = {}
        self.active: dict[str, Active] = {}
        self.failed = False
        self.ending: str | None = None
        self._lock = -1

    @property
    def parent(self) -> RunDirectory | None:
        """The run of the entry itself; None while it is being made, or when it was removed."""
        return runs.at(self.home, self.entry.run_id)

    def in_state(self, state: str) -> list[str]:
        """The runs in one state, in their order."""
        return [run_id for run_id, one in self.states.items() if one == state]

    def is_being_made(self) -> bool:
        """Whether its maker has not written it yet."""
        return not self.states

    def is_idle(self) -> bool:
        """Whether this worker can do nothing for it, and holds nothing for it that would be lost."""
        if self.in_state(ACTIVE):
            return False
        return not self.in_state(WAITING) or self.entry.waits == queueing.NEEDS_SECRETS

    # -- what happened since

    def tend(self) -> None:
        """Take in what happened: runs that ended or lost their supervisor, requests to cancel, the end."""
        parent = self.parent
        if parent is None:
            self._tend_missing()
            return
        if not self.states:
            self.states = {run_id: self._first_state(run_id) for run_id in self.entry.runs}
        for run_id in [*self.active, *self.in_state(STUCK)]:
            self._tend_run(run_id)
        if self.entry.sweep:
            self._tend_sweep(parent)
        if all(state == DONE for state in self.states.values()):
            self._finish(parent)

    def _tend_missing(self) -> None:
        """There is no such run: it is being made, its maker was killed over it, or it was removed."""
        if processes.is_alive(self.entry.maker) and not self.states:
            return
        if not self.states:
            for run_id in (*self.entry.trials, self.entry.run_id):
                self._discard(run_id)
        for run_id in self.in_state(WAITING):
            self._end_waiting(run_id)
        if not self.active:
            self.worker.forget(self)

    def _discard(self, run_id: str) -> None:
        """Take back what a killed maker left of a run: nobody was told of it."""
        directory = runs.at(self.home, run_id)
        if directory is None or runs.load_record(directory).status != "Queued":
            return  # never whole, or no run of this maker's
        if queueing.end_unstarted(directory):
            runs.discard(directory)

    def _first_state(self, run_id: str) -> str:
        """What a run is that another worker may have started."""
        directory = runs.at(self.home, run_id)
        if directory is None or self._ending(directory):
            self._note_ending(directory)
            return DONE
        if not runs.supervised(directory) and not os.path.exists(directory.status_jsonl):
            return WAITING
        self.active[run_id] = Active(directory)
        return ACTIVE

    def _tend_run(self, run_id: str) -> None:
        directory = runs.at(self.home, run_id)
        active = self.active.get(run_id)
        if directory is None or self._ending(directory):
            self._set(run_id, DONE)
            self._note_ending(directory)
            return
        if active is None:  # stuck: whoever gave it what it needed started it
            if runs.supervised(directory):
                self.active[run_id] = Active(directory)
                self._set(run_id, ACTIVE, keep=True)
            return
        if active.look():
            return
        record = runs.read_record(directory)
        if record.ended:
            self._tend_run(run_id)
        elif record.reason == queueing.NEEDS_SECRETS or active.tries >= MOST_TRIES:
            # a password that only a person has, or a machine that lets nobody live
            self._set(run_id, STUCK if self.entry.sweep else DONE)
        else:
            self._launch(directory, record, active)

    def _set(self, run_id: str, state: str, *, keep: bool = False) -> None:
        self.states[run_id] = state
        if not keep and (active := self.active.pop(run_id, None)):
            active.let_go()

    def _ending(self, directory: RunDirectory) -> str:
        """How a run ended, empty while it has not; one with a damaged record can be continued by nobody."""
        try:
            status = runs.load_record(directory).status
        except AmlError as error:
            log(self.home, f"{directory.run_id}: {error}")
            return "damaged"
        return status if status in TERMINAL else ""

    def _note_ending(self, directory: RunDirectory | None) -> None:
        if directory is not None and self._ending(directory) != "Completed":
            self.failed = True

    # -- sweeps

    def _tend_sweep(self, parent: RunDirectory) -> None:
        wanted = runs.cancel_request(parent)
        if wanted is None and self.entry.fail_fast and self.failed:
            wanted = runs.TERMINATE
        if self.active:
            self.hold()
        if wanted is None:
            return
        for run_id in self.in_state(WAITING):
            self._end_waiting(run_id)
        if wanted != self.ending:
            self.ending = wanted
            for active in self.active.values():
                experiment.cancel(active.directory, kill=wanted == runs.KILL, abandon=wanted == runs.ABANDON)

    def _end_waiting(self, run_id: str) -> None:
        directory = runs.at(self.home, run_id)
        if directory is None or queueing.end_unstarted(directory):
            self._set(run_id, DONE)
        else:  # somebody has just started it by hand
            self.active[run_id] = Active(directory)
            self._set(run_id, ACTIVE, keep=True)

    def hold(self) -> None:
        """Be the supervisor of the sweep, as far as anybody can see."""
        parent = self.parent
        if not self.entry.sweep or self._lock >= 0 or parent is None:
            return
        lock = os.open(parent.supervisor_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not try_lock(lock):
            os.close(lock)
            return
        self._lock = lock
        identity = processes.identity(os.getpid())
        os.ftruncate(lock, 0)
        os.pwrite(lock, plainjson.dumps({"format": 1, **identity}).encode(), 0)
        runs.append_status(parent, "Running")

    def _finish(self, parent: RunDirectory) -> None:
        if self.entry.sweep:
            self.hold()
            from aml_jupyter.sweep.ending import end

            end(parent, fail_fast=self.entry.fail_fast and self.ending is not None)
        self.let_go()
        self.worker.forget(self)

    def let_go(self) -> None:
        """Close what is open for it."""
        for active in self.active.values():
            active.let_go()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- starting

    def start(self, most: int) -> None:
        """Start what waits until `most` runs go on."""
        for run_id in self.in_state(WAITING):
            if len(self.active) >= most:
                return
            directory = runs.at(self.home, run_id)
            if directory is None or self._ending(directory):
                self._set(run_id, DONE)
                self._note_ending(directory)
                continue
            record = runs.load_record(directory)
            if not self._has_secrets(record):
                return
            if not self.entry.direct and not self.worker.places.has_room(record.target):
                return
            self.hold()
            active = self.active[run_id] = Active(directory)
            self._set(run_id, ACTIVE, keep=True)
            if not self.entry.direct:
                self.worker.places.take(active.target)
            self._launch(directory, record, active)
        if all(state == DONE for state in self.states.values()):
            self.tend()  # what waited was ended by others: not only at the next look

    def _has_secrets(self, record: Record) -> bool:
        """Whether all is there that a run is to be started with; the entry says when it is not."""
        given = self.worker.given.get(record.run_id)
        there = given is not None and given.secrets.keys() >= set(record.environment_secret)
        waits = "" if there or not record.environment_secret else queueing.NEEDS_SECRETS
        if waits != self.entry.waits:
            queueing.set_waits(self.home, self.entry.run_id, waits)
            self.entry = self.entry.replace(waits=waits)
        return not waits

    def _launch(self, directory: RunDirectory, record: Record, active: Active) -> None:
        """Give a run a supervisor, of the interpreter that it was submitted with."""
        given = self.worker.given.get(directory.run_id)
        environment = given.environment if given else run_environment()
        secrets = given.secrets if given else {}
        passwords = {} if given else passwords_again(directory, record)
        python = str(record.supervisor.get("executable", ""))
        other = python not in ("", sys.executable) and os.access(python, os.X_OK)
        starter = Starter(python) if other else ForkedStarter()
        active.begin()
        try:
            starter.go(directory.path, secrets, passwords, environment)
        except SupervisorGone as error:
            log(self.home, f"{directory.run_id}: {error}")
            active.began = -STARTING  # nobody is on the way


class Active:
    """A run that has a supervisor, or is about to; `end` tells its end, where the system can."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.target = _target_of(directory)
        self.end = -1
        self.tries = 0
        self.began = time.monotonic()

    def begin(self) -> None:
        """Expect a new supervisor."""
        self.let_go()
        self.tries += 1
        self.began = time.monotonic()

    def age(self) -> float:
        """Seconds since the supervisor was started."""
        return time.monotonic() - self.began

    def look(self) -> bool:
        """Whether it has a supervisor, or may still get the one that was started."""
        who = runs.supervisor_identity(self.directory)
        if who is not None and processes.is_alive(who):
            if self.end < 0:
                self.end = _opened(who)
            return True
        if runs.supervised(self.directory):
            return True
        if self.end >= 0:
            self.let_go()
            return False
        # it left before it was seen, or has not come yet
        return self.tries > 0 and self.age() < STARTING

    def let_go(self) -> None:
        """Close what tells its end."""
        if self.end >= 0:
            os.close(self.end)
            self.end = -1


def _target_of(directory: RunDirectory) -> str:
    try:
        return runs.load_record(directory).target
    except AmlError:  # damaged: it takes nobody's place
        return ""


def _opened(who: Mapping[str, Any]) -> int:
    """A descriptor that can be read once the process has ended; -1 where there is no such thing."""
    try:
        fd = os.pidfd_open(int(who["pid"]))
    except (AttributeError, OSError):
        return -1
    if processes.is_alive(who):
        return fd
    os.close(fd)
    return -1


def _texts(found: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def log(home: str, text: str) -> None:
    """Note what went wrong; a full disk must not cost more than the note."""
    path = queueing.folder(home) + "/worker.log"
    try:
        if os.path.exists(path) and os.stat(path).st_size > LARGEST_LOG:
            os.replace(path, path + ".1")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{runs.utc()} {text.rstrip()}\n".encode(errors="backslashreplace"))
        finally:
            os.close(fd)
    except OSError:
        return


def _traceback() -> str:
    import traceback

    return traceback.format_exc()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (AmlError, OSError) as error:  # whoever looks at the queue next starts another one
        log(sys.argv[1], str(error))
    os._exit(0)
