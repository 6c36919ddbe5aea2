"""What the calls of MLflow clients mean here: metrics, parameters and tags become events of this run.

The run itself is the one run that clients know at the beginning.  Runs that a program starts beside or below
it are kept inside it: what they log has their name in front.
"""

import re
import threading
import time

import plain
import tracking_files
from launch import tracking_id
from tracking_errors import Refused, invalid, missing
from tracking_runs import Models, TrackedRun, pairs, text_of, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from launch import Started

    Arguments = dict[str, Any]

VERSION = "2.22.0"  # of MLflow's interface, which clients adapt to
EXPERIMENT = "0"
ROOT = re.compile(r"^/(?:ajax-)?api/[23]\.0/mlflow/")
RUNS = 10000
PARENT, NAME = "mlflow.parentRunId", "mlflow.runName"
ONLY_PARENT = re.compile(r"""^\s*tags?\.[`"]?mlflow\.parentRunId[`"]?\s*=\s*(['"])([^'"]*)\1\s*$""")
REFUSALS = {
    "registered-models": "a run keeps no model registry; `aml promote RUN PATH NAME` gives a model a name",
    "model-versions": "a run keeps no model registry; `aml promote RUN PATH NAME` gives a model a name",
    "traces": "a run keeps no traces of MLflow",
}


class Calls:
    """Answers calls, one at a time; `put` takes messages for the run's events."""

    def __init__(
        self, started: "Started", put: "Callable[[bytes], None]", files: "tracking_files.Files"
    ) -> None:
        self._put = put
        self.files = files
        self.lock = threading.Lock()
        run_id = started.request["run_id"]
        self.project = run_id.rpartition("_")[0] or run_id
        self.experiment = self.project
        main = tracking_id(run_id)
        self.main = TrackedRun(main, "", run_id, b"run", int(started.clock.wall * 1000), self._event)
        self.main.tags[NAME] = run_id
        self.runs = {main: self.main}
        # whoever set this variable means the run that the program is in
        given = started.variables.get(b"MLFLOW_RUN_ID", b"").decode("utf-8", "replace")
        self.aliases = {given: main, run_id: main}
        self.names = set()  # type: set[str]
        self.models = Models(EXPERIMENT)

    def call(self, method: str, path: str, arguments: "Arguments") -> "Arguments":
        """The answer to a call.  Raises Refused."""
        match = ROOT.match(path)
        words = path[match.end() :].strip("/").split("/") if match else [""]
        with self.lock:
            if words[0] == "logged-models":
                return self.models.call(method, words[1:], arguments, self)
            act = ACTS.get("/".join(words))
            if act is None:
                why = REFUSALS.get(words[0], "a run of aml_jupyter does not know it")
                raise Refused(404, "ENDPOINT_NOT_FOUND", "%s %s: %s" % (method, path[:200], why))
            return act(self, arguments)

    def _event(self, kind: str, fields: "Arguments") -> None:
        message = dict(fields, type=kind)
        self._put(b"j" + plain.dumps(message).encode("ascii"))

    # ---- experiments ---------------------------------------------------------------------------------------

    def _shown_experiment(self, name: str = "") -> "Arguments":
        return {
            "experiment_id": EXPERIMENT,
            "name": name or self.experiment,
            "artifact_location": "mlflow-artifacts:/run",
            "lifecycle_stage": "active",
            "tags": [],
        }

    def get_experiment(self, arguments: "Arguments") -> "Arguments":
        """The project, under whatever name a program calls it."""
        name = text_of(arguments, "experiment_name", "") or text_of(arguments, "name", "")
        if name and name not in (self.experiment, "Default"):
            self.experiment = name
            self.main.set_tag("mlflow.experimentName", name)
        return {"experiment": self._shown_experiment(name)}

    def create_experiment(self, arguments: "Arguments") -> "Arguments":
        """There is one already: this project."""
        self.get_experiment(arguments)
        return {"experiment_id": EXPERIMENT}

    def search_experiments(self, _arguments: "Arguments") -> "Arguments":
        """The one there is."""
        return {"experiments": [self._shown_experiment()]}

    def nothing(self, _arguments: "Arguments") -> "Arguments":
        """Accept what has no meaning inside a run."""
        return {}

    # ---- runs ----------------------------------------------------------------------------------------------

    def run(self, arguments: "Arguments") -> TrackedRun:
        """The run that a call is about.  Raises Refused."""
        run_id = text_of(arguments, "run_id", "") or text_of(arguments, "run_uuid", "")
        if not run_id:
            raise invalid("the call names no run")
        found = self.runs.get(self.aliases.get(run_id, run_id))
        if found is None:
            raise missing(
                "Run %r is not known inside this run, which MLflow sees as %r. Other runs are in the history:"
                " aml runs" % (run_id[:100], self.main.run_id)
            )
        return found

    def get_run(self, arguments: "Arguments") -> "Arguments":
        """All of one run."""
        return {"run": self.run(arguments).shown(EXPERIMENT)}

    def create_run(self, arguments: "Arguments") -> "Arguments":
        """A run of the program's own, kept inside this one."""
        if len(self.runs) > RUNS:
            raise Refused(400, "RESOURCE_EXHAUSTED", "a program starts at most %d runs of MLflow" % RUNS)
        tags = dict(pairs(arguments.get("tags") or [], "tags"))
        name = self._free_name(text_of(arguments, "run_name", "") or tags.get(NAME, ""))
        run_id = "%s-%d" % (self.main.run_id[:240], len(self.runs))
        start = whole(arguments, "start_time", int(time.time() * 1000))
        run = TrackedRun(run_id, name + "/", name, b"runs/" + name.encode(), start, self._event)
        if len(self.runs) == 1:
            text = (
                "MLflow: the program started runs of its own; they are kept inside this one: their metrics,"
                " parameters and tags as NAME/..., their artifacts in outputs/mlflow-runs/NAME (first: %s)"
            )
            self._event("warning", {"code": "run.mlflow_runs", "text": text % name})
        self.runs[run_id] = run
        run.tags.update(tags)
        run.tags[NAME] = name
        return {"run": run.shown(EXPERIMENT)}

    def _free_name(self, wanted: str) -> str:
        kept = "".join(one if one.isalnum() or one in "_-. ()=," else "-" for one in wanted[:100])
        base = kept.strip(". ")
        if not tracking_files.fits(base) or not any(one.isalnum() for one in base):
            base = "run-%d" % len(self.runs)
        name, count = base, 1
        while name.lower() in self.names:
            count += 1
            name = "%s-%d" % (base, count)
        self.names.add(name.lower())
        return name

    def update_run(self, arguments: "Arguments") -> "Arguments":
        """Name and status; how this very run ends is decided by its process alone."""
        run = self.run(arguments)
        run.update(arguments)
        return {"run_info": run.info(EXPERIMENT)}

    def search_runs(self, arguments: "Arguments") -> "Arguments":
        """The runs of this program; the one filter that clients themselves use is by parent."""
        wanted = text_of(arguments, "filter", "") or ""
        found = list(self.runs.values())
        if wanted.strip():
            match = ONLY_PARENT.match(wanted)
            if match is None:
                raise invalid(
                    "inside a run only its own MLflow runs can be searched, without a filter; aml runs FILTER"
                )
            found = [one for one in found if one.tags.get(PARENT) == match.group(2)]
        most = whole(arguments, "max_results", 1000)
        return {"runs": [one.shown(EXPERIMENT) for one in found[: max(0, most)]]}

    def refuse_delete(self, _arguments: "Arguments") -> "Arguments":
        """Runs are removed from the history by people."""
        raise invalid("a run is not deleted from inside; aml rm RUN removes it later")

    # ---- what is logged ------------------------------------------------------------------------------------

    def log_metric(self, arguments: "Arguments") -> "Arguments":
        """One value."""
        self.run(arguments).log_metric(arguments)
        return {}

    def log_parameter(self, arguments: "Arguments") -> "Arguments":
        """One parameter, which never changes."""
        run = self.run(arguments)
        run.check_params([(text_of(arguments, "key"), text_of(arguments, "value", ""))])
        run.log_param(text_of(arguments, "key"), text_of(arguments, "value", ""))
        return {}

    def log_batch(self, arguments: "Arguments") -> "Arguments":
        """Metrics, parameters and tags: all of them or, when one is wrong, none."""
        run = self.run(arguments)
        metrics = arguments.get("metrics") or []
        if not isinstance(metrics, list):
            raise invalid("metrics are no list")
        params = pairs(arguments.get("params") or [], "params")
        tags = pairs(arguments.get("tags") or [], "tags")
        run.check_params(params)
        checked = [run.checked_metric(one) for one in metrics]
        for name, value in params:
            run.log_param(name, value)
        for given, metric in zip(metrics, checked):
            if not run.has_it(given, *metric):
                run.keep_metric(*metric)
        for name, value in tags:
            run.set_tag(name, value)
        return {}

    def set_tag(self, arguments: "Arguments") -> "Arguments":
        """A tag, which may change."""
        self.run(arguments).set_tag(text_of(arguments, "key"), text_of(arguments, "value", ""))
        return {}

    def delete_tag(self, arguments: "Arguments") -> "Arguments":
        """Take a tag away."""
        self.run(arguments).delete_tag(text_of(arguments, "key"))
        return {}

    def log_inputs(self, arguments: "Arguments") -> "Arguments":
        """Datasets and models that a run used."""
        self.run(arguments).log_inputs(arguments)
        return {}

    def log_outputs(self, arguments: "Arguments") -> "Arguments":
        """Models that a run made."""
        self.run(arguments).log_outputs(arguments)
        return {}

    def log_model(self, arguments: "Arguments") -> "Arguments":
        """What older clients say of a model whose files they have put."""
        run = self.run(arguments)
        model = text_of(arguments, "model_json", "")
        run.set_tag("mlflow.log-model.history", "[%s]" % model[:8000])
        return {}

    def metric_history(self, arguments: "Arguments") -> "Arguments":
        """The values of a metric in order, as many as are held."""
        return {"metrics": self.run(arguments).history(text_of(arguments, "metric_key"))}

    def list_artifacts(self, arguments: "Arguments") -> "Arguments":
        """Files and folders, their paths from the root of the run's artifacts."""
        run = self.run(arguments)
        below = text_of(arguments, "path", "").strip("/")
        where = run.root + (b"/" + below.encode("utf-8", "surrogateescape") if below else b"")
        found = self.files.listing(tracking_files.split(where))
        prefix = below + "/" if below else ""
        return {
            "root_uri": run.artifact_uri,
            "files": [dict(one, path=prefix + one["path"]) for one in found],
        }


ACTS: "dict[str, Callable[[Calls, Arguments], Arguments]]" = {
    "experiments/get": Calls.get_experiment,
    "experiments/get-by-name": Calls.get_experiment,
    "experiments/create": Calls.create_experiment,
    "experiments/search": Calls.search_experiments,
    "experiments/list": Calls.search_experiments,
    "experiments/set-experiment-tag": Calls.nothing,
    "experiments/delete-experiment-tag": Calls.nothing,
    "runs/get": Calls.get_run,
    "runs/create": Calls.create_run,
    "runs/update": Calls.update_run,
    "runs/search": Calls.search_runs,
    "runs/delete": Calls.refuse_delete,
    "runs/log-metric": Calls.log_metric,
    "runs/log-parameter": Calls.log_parameter,
    "runs/log-batch": Calls.log_batch,
    "runs/set-tag": Calls.set_tag,
    "runs/delete-tag": Calls.delete_tag,
    "runs/log-inputs": Calls.log_inputs,
    "runs/outputs": Calls.log_outputs,
    "runs/log-model": Calls.log_model,
    "metrics/get-history": Calls.metric_history,
    "artifacts/list": Calls.list_artifacts,
}
