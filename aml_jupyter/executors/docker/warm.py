"""Containers that wait for a run: made ahead of it, used once, gone when nobody comes.

`AML_HOME/warm/<target of a project>/` holds the wish (`wish.json`) and at most one `slot/`: two empty folders
that a started container has mounted as `job/` and the working copy, and `slot.json`, which says what the
container was made with.  Who takes a slot renames it into its run directory, so that one run has it and no
other; then its folders become those of the run, and a line on the container's standard input lets it go.
Whatever does not fit, is gone or fails leaves an ordinary start.
"""

from __future__ import annotations

import errno
import os
import time

from aml_jupyter import installation, plainjson, processes, working_copy
from aml_jupyter.config import aml_home
from aml_jupyter.confined import MissingFile, exchange, make_root, read_bounded, remove_tree, write_atomic
from aml_jupyter.controllog import ControlLog
from aml_jupyter.demands import WORK_IN_CONTAINER
from aml_jupyter.errors import AmlError, ConfigError, ConfinedError, TargetUnavailable
from aml_jupyter.executors.docker import containers
from aml_jupyter.executors.docker.containers import Places
from aml_jupyter.frozen import Value
from aml_jupyter.locks import exclusive, try_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from aml_jupyter.executors import Tell
    from aml_jupyter.executors.docker.engine import Engine
    from aml_jupyter.executors.docker.place import Place
    from aml_jupyter.job import Job

FORMAT = 1
# seconds that a container waits for a run unless said otherwise
IDLE = 1800.0
# one that has less time left is about to leave
LEAST = 5.0
# seconds in which a container that was told to go has claimed the job
CLAIMED = 20.0
# what can wait is done this long after a run began, or at its end: it takes the processor for a while
SETTLED = 1.0
LARGEST = 1 << 20
WISH, SLOT, PROBLEM, LOCK = "wish.json", "slot", "problem", "lock"
# in a run directory: the slot that the run has taken
TAKEN = "/warm"


class Slot(Value):
    """A container that waits, and what its two folders were when it mounted them (inode numbers).

    `until` in seconds since 1970; `process` is None where this kernel does not run the container.
    """

    mark: str
    key: str
    container: str
    socket: str
    until: float
    job: int
    work: int
    process: Mapping[str, Any] | None = None


class Kept(Value):
    """A target that is kept warm: seconds of its idle limit, whether a container waits, what went wrong."""

    project: str
    target: str
    idle: float
    waiting: bool
    until: float = 0.0
    problem: str = ""


# --- wishes -------------------------------------------------------------------------------------------------


def keep(place: Place, job: Job, facts: Mapping[str, Any], project: str, idle: float) -> None:
    """Keep a target of a project (`account/workspace/name`) warm, and start its first container now.

    `facts` are what `image_for` found.  Raises ConfigError `target.not_warmable`, TargetUnavailable.
    """
    check(place, job)
    folder = _folder(project, str(job.target["name"]))
    make_root(folder)
    _try_exchange(folder)
    wish = {"format": FORMAT, "project": project, "target": job.target["name"], "idle": idle}
    with exclusive(f"{folder}/{LOCK}"):
        write_atomic(f"{folder}/{WISH}", plainjson.dumps(wish).encode())
        _drop_all(folder)
        _fill(folder, place, job, facts, idle)


def stop(project: str, target: str) -> bool:
    """Keep a target warm no longer, and remove what waits; False when it was not kept."""
    folder = _folder(project, target)
    if not os.path.isdir(folder):
        return False
    with exclusive(f"{folder}/{LOCK}"):
        was = os.path.exists(f"{folder}/{WISH}")
        if was:
            os.unlink(f"{folder}/{WISH}")
        _drop_all(folder)
        remove_tree(folder)
    return was


def kept() -> Iterator[Kept]:
    """Every target that is kept warm."""
    home = aml_home() + "/warm"
    try:
        names = sorted(os.listdir(home))
    except FileNotFoundError:
        return
    for name in names:
        wish = _read(f"{home}/{name}/{WISH}")
        if not wish:
            continue
        slot = _slot(f"{home}/{name}/{SLOT}")
        waits = slot is not None and _lives(slot)
        yield Kept(
            project=str(wish.get("project")),
            target=str(wish.get("target")),
            idle=float(wish.get("idle", IDLE)),
            waiting=waits,
            until=slot.until if slot and waits else 0.0,
            problem=_text(f"{home}/{name}/{PROBLEM}"),
        )


def check(place: Place, job: Job) -> None:
    """Raise ConfigError `target.not_warmable` for a target for which no container can wait."""
    if place.local and job.target.get("shared_volumes"):
        return
    why = "its sharedVolumes is not true" if place.local else "its engine is on another machine"
    raise ConfigError(
        f"target {job.target['name']!r} cannot be kept warm: {why}",
        code="target.not_warmable",
        hint="A container that waits gets its files by a mount: type localdocker with sharedVolumes: true.",
    )


def _try_exchange(folder: str) -> None:
    """Refuse a file system on which two folders cannot change places.  Raises ConfigError."""
    names = [f"{folder}/try-{os.urandom(4).hex()}" for _ in range(2)]
    for name in names:
        os.mkdir(name, 0o700)
    try:
        if not exchange(*names):
            raise ConfigError(
                f"the system does not exchange folders below {folder}",
                code="target.not_warmable",
                hint="Runs start as ever; AML_HOME on a local disk of Linux would make this possible.",
            )
    finally:
        for name in names:
            os.rmdir(name)


def _folder(project: str, target: str) -> str:
    import hashlib

    return f"{aml_home()}/warm/{hashlib.sha256(f'{project}:{target}'.encode()).hexdigest()[:16]}"


def _folder_of(job: Job) -> str | None:
    """The folder of the wish for the target of a run, if there is one."""
    runs = aml_home() + "/runs/"
    if not job.directory.startswith(runs) or not os.path.isdir(aml_home() + "/warm"):
        return None
    folder = _folder(os.path.dirname(job.directory[len(runs) :]), str(job.target.get("name")))
    return folder if os.path.exists(f"{folder}/{WISH}") else None


# --- making a slot ------------------------------------------------------------------------------------------


def _fill(folder: str, place: Place, job: Job, facts: Mapping[str, Any], idle: float) -> None:
    """Start a container that waits.  The caller holds the lock, and there is no slot."""
    mark = os.urandom(8).hex()
    making = f"{folder}/{mark}"
    for name in ("", "/job", "/work"):
        os.mkdir(making + name, 0o700)
    engine = place.engine()
    name = _name(mark)
    try:
        installation.place(aml_home(), making)
        body = _body(place, job, facts, making)
        key = _key(engine, body, job)
        body["Cmd"] = [*body["Cmd"], str(idle)]
        body["Labels"] = containers.labels("warm", slot=mark)
        body["HostConfig"] = {**body["HostConfig"], "AutoRemove": True}
        until = time.time() + idle
        container = engine.create(name, body)
        if job.spark:
            from aml_jupyter.executors.docker import users

            users.make_known(engine, container, place.user())
        engine.start(container)
        found = engine.container(container)
        if found is None:
            raise TargetUnavailable(f"the container {name} ended at once", code="container.refused")
        slot = Slot(
            mark=mark,
            key=key,
            container=container,
            socket=engine.path,
            until=until,
            job=_inode(making + "/job"),
            work=_inode(making + "/work"),
            process=place.process(found),
        )
        write_atomic(f"{making}/slot.json", plainjson.dumps({"format": FORMAT, **slot.as_dict()}).encode())
        os.rename(making, f"{folder}/{SLOT}")
    except BaseException:
        engine.remove(name)
        remove_tree(making)
        raise


def _name(mark: str) -> str:
    return f"aml-warm-{mark}"


def _body(place: Place, job: Job, facts: Mapping[str, Any], making: str) -> dict[str, Any]:
    share = os.path.realpath(job.share) if job.share else None
    runtime = os.path.realpath(making + "/runtime")
    places = Places(job=making + "/job", runtime=runtime, work=making + "/work", share=share)
    return containers.body(job, places, facts, user=place.user(), stdin=True)


def _key(engine: Engine, body: Mapping[str, Any], job: Job) -> str:
    """A digest of all that a container has for good, except the two folders that become the run's."""
    import hashlib

    fixed = {name: value for name, value in body.items() if name not in ("Labels", "HostConfig")}
    host = dict(body["HostConfig"])
    # a folder that was removed and made again is another one
    mounted = [
        (one["Target"], one["Source"], _inode(one["Source"]))
        for one in host.pop("Mounts")
        if one["Target"] not in (containers.JOB_IN_CONTAINER, WORK_IN_CONTAINER)
    ]
    told = [
        FORMAT,
        engine.path,
        bool(job.spark),
        sorted(fixed.items()),
        sorted(host.items()),
        sorted(mounted),
    ]
    return hashlib.sha256(plainjson.dumps(told).encode()).hexdigest()


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


def _drop_all(folder: str) -> None:
    """Remove the slot and what killed makers left.  The caller holds the lock."""
    away = f"{folder}/{os.urandom(8).hex()}"
    try:
        os.rename(f"{folder}/{SLOT}", away)
    except FileNotFoundError:  # a run has it, or there was none
        pass
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        if os.path.isdir(path):
            _release(path)


def _release(path: str) -> None:
    """Remove a slot that nobody else can take, and its container.  Raises TargetUnavailable."""
    slot = _slot(path)
    if slot is not None:
        if _lives(slot):
            _engine(slot).remove(slot.container)
    elif os.path.isdir(path + "/job"):  # its maker was killed: a container there is nobody's
        from aml_jupyter.executors.docker.here import Here

        Here().engine().remove(_name(os.path.basename(path)))
    remove_tree(path)


def _engine(slot: Slot) -> Engine:
    from aml_jupyter.executors.docker.engine import Engine

    return Engine(slot.socket)


# --- reading ------------------------------------------------------------------------------------------------


def _read(path: str) -> dict[str, Any]:
    try:
        found = plainjson.loads(read_bounded(path, LARGEST))
    except (MissingFile, ConfinedError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("format") == FORMAT else {}


def _slot(path: str) -> Slot | None:
    found = _read(path + "/slot.json")
    return Slot(**{name: found[name] for name in Slot._fields}) if found else None


def _text(path: str) -> str:
    try:
        return read_bounded(path, LARGEST).decode(errors="replace")
    except ConfinedError:
        return ""


def _lives(slot: Slot) -> bool:
    """Whether the container of a slot is there."""
    if slot.process is not None:
        return processes.is_alive(slot.process)
    try:
        found = _engine(slot).container(slot.container)
    except AmlError:
        return False
    return found is not None and bool(found["State"].get("Running"))


def container_of(directory: str) -> str:
    """The container that the run of a directory has taken, or an empty text."""
    slot = _slot(directory + TAKEN)
    return slot.container if slot else ""


def mark_of(directory: str) -> str:
    """What the label `aml.slot` says of the container that a run has taken, or an empty text."""
    slot = _slot(directory + TAKEN)
    return slot.mark if slot else ""


def waiting() -> set[str]:
    """The marks of all slots that wait."""
    home = aml_home() + "/warm"
    try:
        slots = [_slot(f"{home}/{name}/{SLOT}") for name in os.listdir(home)]
    except FileNotFoundError:
        return set()
    return {slot.mark for slot in slots if slot}


# --- a run --------------------------------------------------------------------------------------------------


def waits(job: Job) -> bool:
    """Whether a container waits for runs of the target of a job."""
    folder = _folder_of(job)
    return folder is not None and os.path.isdir(f"{folder}/{SLOT}")


def expected(place: Place, job: Job, tell: Tell) -> bool:
    """Whether a container waits that a job may be able to take: its working copy is then made by `start`."""
    if os.path.isdir(job.directory + TAKEN):
        return True
    if _has_its_own(job):
        return False
    if not place.local or not job.target.get("shared_volumes") or (folder := _folder_of(job)) is None:
        return False
    waits = os.path.isdir(f"{folder}/{SLOT}")
    if not waits:
        tell("no container waits for this run: a new one")
    return waits


def _has_its_own(job: Job) -> bool:
    """Whether a container was started for this job alone."""
    from aml_jupyter.executors.docker import ahead

    return ahead.begun(job)


def _misfit(slot: Slot, place: Place, job: Job, facts: Mapping[str, Any]) -> str:
    """Why a slot is not for a job, or an empty text."""
    body = containers.body(job, place.places(job), facts, user=place.user(), stdin=True)
    if slot.key != _key(place.engine(), body, job):
        return "it was made with another image, runtime or share, or with other limits"
    if time.time() > slot.until - LEAST:
        return "its idle limit has passed"
    return "" if _lives(slot) else "it is gone"


def start(place: Place, job: Job, facts: Mapping[str, Any], secrets: Mapping[str, str]) -> Slot | None:
    """Start a job in the container that waits for it; None where an ordinary start is due.

    May be repeated after a kill at any point.  Raises TargetUnavailable while nobody knows whether it has.
    """
    mine = job.directory + TAKEN
    try:
        if not os.path.isdir(mine) and not _claim(place, job, facts):
            return None
        slot = _slot(mine)
        if slot is not None and _settle(job, slot) and _go(place, job, slot, secrets):
            return slot
    except TargetUnavailable:
        raise  # it may have been told to go: asked again, this goes on from here
    except BaseException:
        try:
            _give_up(job, "")
        except AmlError:  # then it leaves by itself
            pass
        raise
    _give_up(job, "the container that waited did not take this run: a new one")
    return None


def _claim(place: Place, job: Job, facts: Mapping[str, Any]) -> bool:
    """Take the slot of the target for this run alone; a working copy that is there is of a cold start."""
    if os.path.isdir(job.work) or place.has_started(job) or _has_its_own(job):
        return False
    folder = _folder_of(job)
    if folder is None:
        return False
    seen = _slot(f"{folder}/{SLOT}")
    if seen is None or (why := _misfit(seen, place, job, facts)):
        if seen is not None:
            _note(job, f"the container that waits cannot take this run: {why}; a new one")
        return False
    try:
        os.rename(f"{folder}/{SLOT}", job.directory + TAKEN)
    except OSError as error:
        # nobody waits any more, or the history is on another file system
        if error.errno not in (errno.ENOENT, errno.EXDEV):
            raise
        return False
    slot = _slot(job.directory + TAKEN)
    if slot is not None and (slot.mark == seen.mark or not _misfit(slot, place, job, facts)):
        return True
    _give_up(job, "the container that waited has made room for another kind: a new one")
    return False


def _settle(job: Job, slot: Slot) -> bool:
    """Make the two folders that the container has mounted those of the run, whatever was done of that."""
    mine = job.directory + TAKEN
    if _inode(job.job) != slot.job:
        if _inode(mine + "/job") != slot.job:
            return False
        try:
            _link_files(job.job, mine + "/job")
        except OSError:  # a file system that has no links between files
            return False
        if not exchange(job.job, mine + "/job"):
            return False
    if not os.path.isdir(job.work):
        if _inode(mine + "/work") != slot.work:
            return False
        working_copy.make(job, mine + "/work")
    return _inode(job.work) == slot.work


def _link_files(source: str, into: str) -> None:
    """Give a folder everything that another one holds, as links to the same files; both are ours."""
    with os.scandir(source) as entries:
        for entry in entries:
            path = f"{into}/{entry.name}"
            try:
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), path)
                elif entry.is_dir():
                    os.mkdir(path, 0o700)
                else:
                    os.link(entry.path, path)
            except FileExistsError:  # of an attempt that was killed
                pass
            if entry.is_dir(follow_symlinks=False):
                _link_files(entry.path, path)


def _go(place: Place, job: Job, slot: Slot, secrets: Mapping[str, str]) -> bool:
    """Tell the container to go and wait until its runtime has claimed the job; False when it has ended.

    A line that was told before is not told twice: standard input is closed after the first.
    """
    from aml_jupyter.executors.docker.engine import EngineRefused

    def taken() -> bool:
        return place.has_started(job)

    if not taken() and _lives(slot):
        try:
            _engine(slot).send(slot.container, containers.line(secrets), taken)
        except EngineRefused:  # it has ended, or was told before
            pass
    due = time.monotonic() + CLAIMED
    while not taken() and _lives(slot) and time.monotonic() < due:
        time.sleep(0.02)
    return taken()


def _give_up(job: Job, why: str) -> None:
    """Remove the slot that a run has taken; only then may the run start otherwise."""
    if why:
        _note(job, why)
    if os.path.isdir(job.directory + TAKEN):
        _release(job.directory + TAKEN)


def _note(job: Job, text: str) -> None:
    ControlLog(job.directory + "/control.log").add(text)


def discard(job_folder: str) -> None:
    """Remove what is left of a slot in the run directory of a `job/` that has ended."""
    taken = os.path.dirname(job_folder) + TAKEN
    if os.path.isdir(taken):
        remove_tree(taken)


# --- the next one -------------------------------------------------------------------------------------------


def after_start(place: Place, job: Job, facts: Mapping[str, Any], process: Mapping[str, Any] | None) -> None:
    """Do what can wait when a job has started: put its container in order, have the next one wait.

    In a process of its own, so that nobody waits for it.
    """
    folder, taken = _folder_of(job), _slot(job.directory + TAKEN)
    if folder is None and taken is None:
        return

    def work() -> None:
        if process:  # the processor is the run's for now
            processes.wait_end(process, SETTLED)
        if taken is not None:
            _tidy(job, taken)
        if folder is not None:
            _refill(folder, place, job, facts)

    _apart(work, f"{folder}/{PROBLEM}" if folder else "")


def _tidy(job: Job, taken: Slot) -> None:
    """Give the container that a run has taken the run's name; a run that ended meanwhile needs none."""
    try:
        _engine(taken).rename(taken.container, containers.container_name(job))
        remove_tree(job.directory + TAKEN + "/job")
    except (AmlError, OSError):  # it is being removed, and so is the folder
        return


def _refill(folder: str, place: Place, job: Job, facts: Mapping[str, Any]) -> None:
    """Have a container wait for the next run of this kind; whoever finds somebody at it leaves it to them."""
    lock = os.open(f"{folder}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not try_lock(lock):
            return
        wish = _read(f"{folder}/{WISH}")
        if not wish:
            return
        slot = _slot(f"{folder}/{SLOT}")
        if slot is not None and not _misfit(slot, place, job, facts):
            return
        _drop_all(folder)
        _fill(folder, place, job, facts, float(wish["idle"]))
    finally:
        os.close(lock)


def _apart(work: Callable[[], None], problem: str) -> None:
    """Do something in a process that holds nothing of this one, its locks least of all."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        if os.fork():
            os._exit(0)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        try:
            work()
            if problem and os.path.exists(problem):
                os.unlink(problem)
        # nobody waits for this process who could be told
        except Exception as error:  # noqa: BLE001
            if problem:
                write_atomic(problem, str(error).encode(errors="replace"), sync=False)
    finally:
        os._exit(0)
