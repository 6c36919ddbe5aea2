"""Runs in Python: start one, find one, list many; and what one run can be asked."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, Self

    from aml_jupyter.card import Card
    from aml_jupyter.compare import Comparison
    from aml_jupyter.config import Project
    from aml_jupyter.experiment import Request
    from aml_jupyter.portability import Group, Verdict
    from aml_jupyter.rerunning import Verification
    from aml_jupyter.runs import Record, RunDirectory

# an artifact that is read into memory may have at most this many bytes, unless said otherwise
LARGEST_READ = 1 << 30
# a value that was logged as one may have at most this many bytes
LARGEST_VALUE = 64 << 20
# the most of a log that is given as one text, in bytes
LARGEST_LOG = 64 << 20


class Run:
    """One run, as it is now: every property reads anew, nothing is kept but where it lies."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    @property
    def id(self) -> str:
        """The run id."""
        return self._directory.run_id

    @property
    def record(self) -> Record:
        """Everything that is known of the run.  Raises RunNotFound when it was removed."""
        from aml_jupyter import runs

        return runs.read_record(self._directory)

    @property
    def status(self) -> str:
        """Such as `Running`, `Completed`, `Failed`, `Canceled`."""
        return self.record.status

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What the run logged so far, by name: one value, or a list in order."""
        record = self.record
        return record.metrics if record.ended else self._metrics_so_far()

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters it was given, and those that its program logged."""
        return self.record.all_params

    @property
    def phases(self) -> Mapping[str, float]:
        """Seconds spent in each phase: snapshot, prepare, start, run, collect."""
        return self.record.phases

    @property
    def artifacts(self) -> Artifacts:
        """What it left in `outputs/`, by path."""
        return Artifacts(self._directory)

    def wait(self, timeout: float | None = None) -> Self:
        """Block until the run has ended, at most `timeout` seconds; the run itself, whatever its ending.

        Raises RunFailed with code `run.wait_timeout`.
        """
        from aml_jupyter import experiment

        experiment.wait(self._directory, timeout)
        return self

    def cancel(self, *, kill: bool = False) -> Self:
        """Ask the run to end, or end every process of it at once; returns before it has."""
        from aml_jupyter import experiment

        if not self.record.ended:
            experiment.cancel(self._directory, kill=kill)
        return self

    def logs(self, tail: int | None = None) -> str:
        """What the run printed so far, or the last `tail` lines of it; at most 64 MiB from the end."""
        from aml_jupyter.follow import Follower, Text

        found = Follower(self._directory, tail=LARGEST_LOG)
        text = "".join(one.text for one in found.rest() if isinstance(one, Text))
        if tail is None:
            return text
        lines = text.splitlines(keepends=True)
        return "".join(lines[len(lines) - tail :] if 0 < tail < len(lines) else lines if tail > 0 else [])

    def read(self, path: str, limit: int = LARGEST_READ) -> bytes:
        """The bytes of an artifact, such as `outputs/model.pkl`; while the run goes on, those so far.

        Raises ArtifactError for an artifact that is not there, damaged, or larger than `limit` bytes.
        """
        from aml_jupyter import artifacts, unfinished

        if unfinished.goes_on(self._directory):
            return unfinished.read(self._directory, path, limit)
        return artifacts.read_artifact(self._directory, path, limit)

    def get(self, path: str = "", dest: str = ".", *, overwrite: bool = False) -> list[str]:
        """Copy an artifact, a folder of them or all into the folder `dest`; the paths written.

        While the run goes on, these are its outputs so far.  Raises ArtifactError.
        """
        from aml_jupyter import artifacts, unfinished

        if unfinished.goes_on(self._directory):
            return unfinished.get(self._directory, path, os.path.abspath(dest), overwrite=overwrite)
        return artifacts.get(self._directory, path, os.path.abspath(dest), overwrite=overwrite)

    def restore(self, into: str, *, force: bool = False) -> str:
        """Put the snapshot of the run, and its cell, into a folder; the folder's absolute path.

        Raises SnapshotError for a folder that is not empty unless `force`.
        """
        from aml_jupyter import experiment

        into = os.path.abspath(into)
        experiment.restore(self._directory, into, force=force)
        return into

    def rerun(
        self,
        target: str | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        verify: bool = False,
        tolerance: float = 1e-6,
        needed: bool = False,
        **options: Any,
    ) -> Any:
        """Repeat the run from what is kept of it and return at once: a Run.

        With `verify` the rerun is waited for and compared: a Verification, which has `same`, `word` and
        `rerun`; `tolerance` is the relative difference that metrics may have.  With `needed` a run like this
        that has completed is returned instead.  `environment` are variables that no record holds; `options`
        are fields of `experiment.Request`.  Raises AmlError.
        """
        from aml_jupyter import rerunning
        from aml_jupyter.experiment import Request

        request = Request(
            rerun_of=self.id,
            compute=target,
            params=dict(params or {}),
            environment=dict(environment or {}),
            needed=needed,
            **options,
        )
        if verify:
            rerunning.require_ended(self._directory)
        if needed and (done := _completed(request, None)):
            return done
        again = Run(rerunning.submit(request))
        return rerunning.verify(self._directory, again.wait()._directory, tolerance) if verify else again

    def verify(self, tolerance: float = 1e-6) -> Verification:
        """Compare a rerun, which is waited for, with the run that it repeats.

        Raises UsageError for one that repeats none, RunNotFound.
        """
        from aml_jupyter import rerunning

        original = rerunning.original_of(self._directory)
        return rerunning.verify(original, self.wait()._directory, tolerance)

    @property
    def made_from(self) -> list[dict[str, Any]]:
        """The artifacts of earlier runs that it was given: name, run id, path, SHA-256, size."""
        from aml_jupyter import lineage

        return lineage.made_from(self.record)

    @property
    def used_by(self) -> list[str]:
        """The ids of the runs that were given artifacts of this one, newest first."""
        from aml_jupyter import lineage

        return [
            run_id for kind, run_id in lineage.used_by(self.record, self._directory.home) if kind == "input"
        ]

    def promote(self, path: str, name: str | None = None, *, project: str | None = None) -> str:
        """Make an artifact the newest version of `assets/NAME.link` of a project; that file's path.

        Raises ArtifactError, ConfigError.
        """
        from aml_jupyter import lineage
        from aml_jupyter.config import find_project

        return lineage.promote(find_project(project).root, self._directory, path, name).file

    @property
    def card(self) -> Card:
        """What the run shows of itself."""
        from aml_jupyter.card import card_of

        record = self.record
        return card_of(self._directory, record, metrics=record.metrics if record.ended else self.metrics)

    def _metrics_so_far(self) -> dict[str, Any]:
        from aml_jupyter import runs
        from aml_jupyter.collection import read_events
        from aml_jupyter.metrics import merge_metrics

        directory = self._directory
        events = read_events(directory.events_jsonl)
        return merge_metrics(events, lambda sha256: runs.payload(directory, sha256, LARGEST_VALUE))

    def __getitem__(self, name: str) -> Any:
        return self.metrics[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self._directory == other._directory

    def __hash__(self) -> int:
        return hash(self._directory.path)

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.status}>"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.metrics)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        from aml_jupyter.card import bundle

        return bundle(self.card)


class Sweep(Run):
    """The run that has the trials of a sweep; iterate for them, ask for one by its number, from 1 on."""

    @property
    def trials(self) -> list[Run]:
        """Those of the trials that were not removed, in order."""
        from aml_jupyter import runs

        found = (runs.at(self._directory.home, one.run_id) for one in self._table().trials)
        return [Run(directory) for directory in found if directory is not None]

    @property
    def best(self) -> Run | None:
        """The trial with the best of the sweep's metric, of those that completed; None without one."""
        from aml_jupyter import runs

        best = self._table().best
        directory = runs.at(self._directory.home, best) if best else None
        return Run(directory) if directory is not None else None

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each trial: number, run_id, params, status, metric, duration."""
        rows: list[dict[str, Any]] = self._table().as_json()["trials"]
        return rows

    def _table(self) -> Any:
        from aml_jupyter.sweep.table import Trials

        return Trials(self._directory).look()

    def __getitem__(self, number: Any) -> Any:
        """A trial by its number, or a metric of the sweep by its name.  Raises IndexError, KeyError."""
        if isinstance(number, str):
            return self.metrics[number]
        if not 1 <= number <= len(self):
            raise IndexError(f"the trials of {self.id} are 1 to {len(self)}")
        return find(self._table().trials[number - 1].run_id)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.trials)

    def __len__(self) -> int:
        return len(self._table().trials)

    def __repr__(self) -> str:
        return f"<Sweep {self.id} {self.status}, {len(self)} trials>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        from aml_jupyter.sweep.shown import bundle

        return bundle(self._table())


class Artifacts:
    """The artifacts of a run: iterate for their paths, ask for one by its path."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    def _items(self) -> dict[str, Any]:
        from aml_jupyter import artifacts

        return {item.path: item for item in artifacts.listing(self._directory)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._items())

    def __len__(self) -> int:
        return len(self._items())

    def __contains__(self, path: object) -> bool:
        return path in self._items()

    def __getitem__(self, path: str) -> Any:
        """Path, size in bytes, SHA-256 and state of one artifact.  Raises KeyError."""
        return self._items()[path]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        from aml_jupyter.printable import safe_name, shown_size

        items = self._items().values()
        return "\n".join(f"{safe_name(one.path)}  {shown_size(one.size)}" for one in items) or "no artifacts"


class RunSet:
    """Runs of one snapshot on several targets, by target; iterate for the targets."""

    def __init__(self, group: Group) -> None:
        self._group = group

    @property
    def id(self) -> str:
        """The experiment id that the records of the runs share."""
        return self._group.experiment_id

    @property
    def runs(self) -> dict[str, Run]:
        """Those of the runs that were not removed, by target."""
        from aml_jupyter.config import aml_home

        return {target: Run(one) for target, one in self._group.directories(aml_home()).items()}

    @property
    def verdict(self) -> Verdict:
        """Whether they did the same, `pending` before all have ended."""
        from aml_jupyter import portability

        return portability.judge(self._group)

    def wait(self, timeout: float | None = None) -> Self:
        """Block until all have ended, at most `timeout` seconds, and keep the verdict.

        Raises RunFailed with code `run.wait_timeout`.
        """
        from aml_jupyter import portability

        due = None if timeout is None else time.monotonic() + timeout
        for run in self.runs.values():
            run.wait(None if due is None else max(0.0, due - time.monotonic()))
        portability.judge(self._group, keep=True)
        return self

    def cancel(self, *, kill: bool = False) -> Self:
        """Ask all of them to end; returns before they have."""
        for run in self.runs.values():
            run.cancel(kill=kill)
        return self

    def __getitem__(self, target: str) -> Run:
        return self.runs[target]

    def __iter__(self) -> Iterator[str]:
        return (target for target, _ in self._group.runs)

    def __len__(self) -> int:
        return len(self._group.runs)

    def __repr__(self) -> str:
        return f"<RunSet {self.id} {', '.join(self)}: {self.verdict.word}>"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        from aml_jupyter.portability.shown import bundle

        return bundle(self.verdict)


def submit(
    target: str = "local",
    script: str | None = None,
    arguments: Sequence[str] = (),
    *,
    project: str | None = None,
    **options: Any,
) -> Any:
    """Start a run of a script, or with `cell="..."` of Python source, and return at once: a Run.

    Several targets with commas, such as `local,docker`, start a run of one snapshot on each: a RunSet;
    `tolerance` is then the relative difference that their metrics may have.
    `project` is its folder, found from the working folder unless said.  `options` are fields of
    `experiment.Request`: compute, params, environment, inputs, outputs, timeout (seconds), name, tags,
    message, workdir, from_run, given (`{"model": "@last:outputs/model.pkl"}`); with `queue=True` the run
    waits in the queue for its turn, with `needed=True` one like it that has completed is returned.
    Raises AmlError for what cannot be run; nothing is left of it then.
    """
    from aml_jupyter import experiment
    from aml_jupyter.config import find_project

    several = "," in target
    compared = {"tolerance": options.pop("tolerance")} if several and "tolerance" in options else {}
    queue = options.pop("queue", False)
    needed = options.pop("needed", False)
    request = _request("submit", target, script, arguments, options).replace(needed=needed)
    if needed and not several and (done := _completed(request, find_project(project))):
        return done
    if queue:
        from aml_jupyter.experiment.queued import enqueue

        return Run(enqueue(request, find_project(project)))
    if several:
        from aml_jupyter import portability

        return RunSet(portability.submit(request, find_project(project), **compared))
    return Run(experiment.submit(request, find_project(project)))


def _completed(request: Request, project: Project | None) -> Run | None:
    from aml_jupyter import reuse

    found = reuse.look(request, project).directory
    return Run(found) if found else None


def _request(
    call: str, target: str, script: str | None, arguments: Sequence[str], options: dict[str, Any]
) -> Request:
    """The request of a call; its `options` are fields of one, and `cell`.  Raises UsageError."""
    from aml_jupyter import experiment
    from aml_jupyter.errors import UsageError

    cell = options.pop("cell", None)
    if isinstance(cell, str):
        from aml_jupyter.cell import to_bytes

        cell = to_bytes(cell)
    unknown = options.keys() - set(experiment.Request._fields)
    if unknown:
        known = ", ".join(experiment.Request._fields)
        raise UsageError(f"{call} has no option {', '.join(sorted(unknown))}", hint=f"Options: {known}")
    for name in ("tags", "outputs"):
        if name in options:
            options[name] = tuple(options[name])
    return experiment.Request(
        target=target,
        script=script,
        arguments=tuple(map(str, arguments)),
        cell=cell,
        **options,
    )


def find(reference: str = "@last", project: str | None = None) -> Run:
    """The run of a full id, a unique prefix, a name, `@last`, `@last~1` or `@best:METRIC`.

    Names and @ words are looked for in the project of the working folder first.  Raises RunNotFound.
    """
    from aml_jupyter import runs
    from aml_jupyter.config import aml_home, find_project

    directory = runs.find(reference, aml_home(), find_project(project))
    if os.path.exists(directory.path + "/remote.json"):
        from aml_jupyter import syncing

        syncing.complete_quietly(directory)
    return run_of(directory)


def run_of(directory: RunDirectory) -> Run:
    """The run of a directory: a Sweep where it has trials."""
    from aml_jupyter import runs
    from aml_jupyter.experiment import SWEEP

    return Sweep(directory) if runs.load_record(directory).kind == SWEEP else Run(directory)


def sweep(  # noqa: PLR0913 - what a line of a notebook can say of a sweep
    target: str = "local",
    script: str | None = None,
    params: Mapping[str, Any] | None = None,
    arguments: Sequence[str] = (),
    *,
    project: str | None = None,
    jobs: int = 1,
    max_trials: int | None = None,
    random: int | None = None,
    seed: int | None = None,
    metric: str = "",
    fail_fast: bool = False,
    queue: bool = False,
    needed: bool = False,
    **options: Any,
) -> Sweep:
    """Start a run for each combination of values of `params`, and return at once: a Sweep.

    `params` is such as `{"lr": [0.1, 0.01], "depth": range(1, 5), "rate": "0.1..1.0:0.1"}`; `jobs` trials go
    on at a time, without this process; `metric` (`accuracy`, `loss:min`) says which trial is best;
    with `needed` a run that has completed with the same code and values is a trial without being run again.
    `options` are those of `submit`, with `cell="..."` for Python source.  Raises AmlError for what cannot be
    run; nothing is left of it then.
    """
    from aml_jupyter import sweep as sweeps
    from aml_jupyter.config import find_project
    from aml_jupyter.sweep import axes

    asked = sweeps.Asked(
        axes=axes.of_mapping(params or {}),
        jobs=jobs,
        max_trials=max_trials,
        random=random,
        seed=seed,
        metric=metric,
        fail_fast=fail_fast,
        queue=queue,
    )
    request = _request("sweep", target, script, arguments, options).replace(needed=needed)
    found = find_project(project)

    def completed(one: Request) -> RunDirectory | None:
        from aml_jupyter import reuse

        return reuse.look(one, found).directory

    return Sweep(sweeps.submit(request, asked, found, completed if needed else None))


def table(
    where: str | None = None,
    order_by: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    limit: int = 50,
    *,
    project: str | None = None,
    all_projects: bool = False,
    hidden: bool = False,
) -> Any:
    """The newest runs of a project, as a DataFrame where pandas is installed, else as a list of dicts.

    `where` is a filter in MLflow's grammar, such as `metrics.accuracy > 0.9 and params.rate = '0.1'`;
    `order_by` is such as `created_utc` or `["metrics.accuracy DESC", "name"]`; `columns` such as
    `["run_id", "metrics.accuracy"]`.  Raises UsageError for a filter or column that cannot be.
    """
    from importlib.util import find_spec

    from aml_jupyter import runs
    from aml_jupyter.config import aml_home, find_project

    key = None if all_projects else find_project(project).key
    with runs.History(aml_home()) as history:
        rows = history.rows(order_by, columns=columns, limit=limit, project=key, hidden=hidden, where=where)
    return rows if find_spec("pandas") is None else runs.runs_frame(rows)


def comparison(
    *wanted: Run | str, parts: Sequence[str] | None = None, project: str | None = None
) -> Comparison:
    """Runs beside each other, each compared with the first; a notebook shows it, `as_json()` gives values.

    `parts` are some of settings, params, metrics, environment, code, artifacts, log; all unless said.
    Raises RunNotFound, and UsageError for fewer than two runs, more than 20, or a part that cannot be.
    """
    from aml_jupyter.compare import PARTS, compare
    from aml_jupyter.errors import UsageError

    unknown = sorted(set(parts or ()) - set(PARTS))
    if unknown:
        raise UsageError(f"runs have no part {', '.join(unknown)}", hint=f"Parts: {', '.join(PARTS)}")
    found = [one if isinstance(one, Run) else find(one, project) for one in wanted]
    return compare([one._directory for one in found], parts or PARTS)


# what a call of the modules `aml_jupyter.run`, `runs` and so on does
CALLS: dict[str, Callable[..., Any]] = {"compare": comparison, "run": find, "runs": table, "sweep": sweep}
