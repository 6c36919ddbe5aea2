"""The runs that an MLflow client sees: what it logged to them, within limits, and models it made."""

import time

import tracking_files
from tracking_errors import Refused, invalid, missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tracking_calls import Calls

    Arguments = dict[str, Any]

KEY, PARAM, TAG = 250, 6000, 8000  # characters, as at a server of MLflow
HELD = 10000  # values of a metric that are held for clients; events have them all
METRICS, WORDS = 2000, 5000  # names of a run
DATASETS = 100
NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")


def text_of(arguments: "Arguments", name: str, default: "str | None" = None) -> str:
    """A text of a call.  Raises Refused when it is none, or missing without a default."""
    value = arguments.get(name)
    if value is None:
        if default is None:
            raise invalid("the call has no %s" % name)
        return default
    if not isinstance(value, str):
        raise invalid("%s is no text" % name)
    return value


def whole(arguments: "Arguments", name: str, default: int) -> int:
    """A whole number, which may stand as text.  Raises Refused."""
    value = arguments.get(name)
    if value is None:
        return default
    try:
        found = int(value)
    except (TypeError, ValueError, OverflowError):
        raise invalid("%s is no whole number" % name) from None
    if abs(found) >= 1 << 63:
        raise invalid("%s is too large" % name)
    return found


def number(value: object) -> float:
    """A number, NaN and the infinities by their names.  Raises Refused."""
    if isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise invalid("the value of a metric is no number")
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise invalid("the value of a metric is no number") from None


def pairs(found: object, what: str) -> "list[tuple[str, str]]":
    """Keys and values of a list of a call.  Raises Refused."""
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise invalid("%s are no list of keys and values" % what)
    return [(text_of(one, "key"), text_of(one, "value", "")) for one in found]


def _key(name: str, what: str) -> str:
    if not name or len(name) > KEY or not name.isprintable():
        raise invalid("the name of a %s has 1 to %d characters that can be printed" % (what, KEY))
    return name


def _shown_number(value: float) -> "float | str":
    if value != value:  # noqa: PLR0124 - NaN
        return "NaN"
    return value if abs(value) != float("inf") else "Infinity" if value > 0 else "-Infinity"


class TrackedRun:
    """One run as a client sees it; what it logs becomes events, its names with `prefix` in front."""

    def __init__(
        self,
        run_id: str,
        prefix: str,
        name: str,
        root: bytes,
        start: int,
        event: "Callable[[str, Arguments], None]",
    ) -> None:
        self.run_id = run_id
        self.prefix = prefix
        self.name = name
        self.root = root
        self.start = start
        self.end = 0
        self.status = "RUNNING"
        self.event = event
        self.params: "dict[str, str]" = {}
        self.tags: "dict[str, str]" = {}
        self.metrics: "dict[str, list[tuple[float, int, int]]]" = {}
        self.datasets: "list[Arguments]" = []
        self.models: "dict[str, list[Arguments]]" = {"model_inputs": [], "model_outputs": []}

    @property
    def artifact_uri(self) -> str:
        """Where its artifacts are, for clients."""
        from urllib.parse import quote

        return "mlflow-artifacts:/" + quote(self.root)

    # ---- what is logged ------------------------------------------------------------------------------------

    def log_metric(self, arguments: "Arguments") -> None:
        """Keep one value.  Raises Refused."""
        metric = self.checked_metric(arguments)
        if not self.has_it(arguments, *metric):
            self.keep_metric(*metric)

    def checked_metric(self, given: object) -> "tuple[str, float, int, int]":
        """Name, value, milliseconds since 1970 and step.  Raises Refused."""
        if not isinstance(given, dict):
            raise invalid("a metric is no object")
        name = _key(text_of(given, "key"), "metric")
        if name not in self.metrics and len(self.metrics) >= METRICS:
            raise Refused(400, "RESOURCE_EXHAUSTED", "a run has at most %d metrics" % METRICS)
        moment = whole(given, "timestamp", int(time.time() * 1000))
        return name, number(given.get("value")), moment, whole(given, "step", 0)

    def has_it(self, given: "Arguments", name: str, value: float, moment: int, step: int) -> bool:
        """Whether a client says again what it said, now of a model that has this value too."""
        held = self.metrics.get(name, []) if given.get("model_id") else []
        same = repr((value, moment, step))
        return any(one[1] == moment and repr(one) == same for one in held)

    def keep_metric(self, name: str, value: float, moment: int, step: int) -> None:
        """Keep a value that was checked."""
        held = self.metrics.setdefault(name, [])
        held.append((value, moment, step))
        if len(held) > HELD:
            del held[: HELD // 10]
        shown = _shown_number(value)
        fields = {"name": self.prefix + name, "value": shown, "kind": "scalar", "step": step, "time": moment}
        if isinstance(shown, str):
            fields["nonfinite"] = True
        self.event("metric", fields)

    def check_params(self, params: "list[tuple[str, str]]") -> None:
        """Whether these can be kept: a parameter never changes.  Raises Refused."""
        seen = dict(self.params)
        for name, value in params:
            _key(name, "parameter")
            if len(value) > PARAM:
                raise invalid(
                    "parameter %r has %d characters; at most %d are kept" % (name, len(value), PARAM)
                )
            if seen.setdefault(name, value) != value:
                raise invalid(
                    "Changing param values is not allowed. Param with key=%r was already logged with value=%r"
                    " for run ID=%r. Attempted logging new value %r." % (name, seen[name], self.run_id, value)
                )
        if len(seen) > WORDS:
            raise Refused(400, "RESOURCE_EXHAUSTED", "a run has at most %d parameters" % WORDS)

    def log_param(self, name: str, value: str) -> None:
        """Keep a parameter that was checked."""
        if name not in self.params:
            self.params[name] = value
            self.event("param", {"name": self.prefix + name, "value": value})

    def set_tag(self, name: str, value: str) -> None:
        """Keep or change a tag.  Raises Refused."""
        _key(name, "tag")
        if name not in self.tags and len(self.tags) >= WORDS:
            raise Refused(400, "RESOURCE_EXHAUSTED", "a run has at most %d tags" % WORDS)
        self.tags[name] = value[:TAG]
        if name == "mlflow.runName":
            self.name = value[:KEY]
        self._tell_tag(name, value[:TAG])

    def delete_tag(self, name: str) -> None:
        """Take a tag away.  Raises Refused."""
        if self.tags.pop(name, None) is None:
            raise missing("the run has no tag %r" % name[:KEY])
        self._tell_tag(name, None)

    def _tell_tag(self, name: str, value: "str | None") -> None:
        fields: "Arguments" = {"name": self.prefix + name, "value": value}
        if self.prefix:  # of a run inside this one: no label of this one
            fields["run"] = self.prefix[:-1]
        self.event("tag", fields)

    def log_inputs(self, arguments: "Arguments") -> None:
        """Keep which datasets were used, as far as they have names."""
        found = arguments.get("datasets") or []
        for one in found if isinstance(found, list) else []:
            dataset = one.get("dataset") if isinstance(one, dict) else None
            if not isinstance(dataset, dict) or len(self.datasets) >= DATASETS:
                continue
            self.datasets.append(one)
            known = {
                key: str(dataset.get(key, ""))[:1000] for key in ("name", "digest", "source_type", "source")
            }
            self.event("dataset", dict(known, name=self.prefix + known["name"]))
        self._keep_models("model_inputs", arguments)

    def log_outputs(self, arguments: "Arguments") -> None:
        """Keep which models were made."""
        self._keep_models("model_outputs", arguments)

    def _keep_models(self, what: str, arguments: "Arguments") -> None:
        found = arguments.get("models") or []
        if isinstance(found, list):
            self.models[what] += [one for one in found if isinstance(one, dict)][:DATASETS]

    def update(self, arguments: "Arguments") -> None:
        """Take over name, status and end.  Raises Refused."""
        status = arguments.get("status")
        if isinstance(status, str) and status in STATUSES:
            self.status = status
        self.end = whole(arguments, "end_time", self.end)
        name = text_of(arguments, "run_name", "")
        if name:
            self.set_tag("mlflow.runName", name)

    # ---- what clients see ----------------------------------------------------------------------------------

    def info(self, experiment: str) -> "Arguments":
        """Its facts."""
        found: "Arguments" = {
            "run_id": self.run_id,
            "run_uuid": self.run_id,
            "run_name": self.name,
            "experiment_id": experiment,
            "user_id": "",
            "status": self.status,
            "start_time": self.start,
            "artifact_uri": self.artifact_uri,
            "lifecycle_stage": "active",
        }
        return dict(found, end_time=self.end) if self.end else found

    def shown(self, experiment: str) -> "Arguments":
        """All of it, of metrics the last value by step and time."""
        last = {name: max(held, key=lambda one: (one[2], one[1])) for name, held in self.metrics.items()}
        return {
            "info": self.info(experiment),
            "data": {
                "metrics": [_shown_metric(name, *one) for name, one in last.items()],
                "params": [{"key": name, "value": value} for name, value in self.params.items()],
                "tags": [{"key": name, "value": value} for name, value in self.tags.items()],
            },
            "inputs": {"dataset_inputs": self.datasets, "model_inputs": self.models["model_inputs"]},
            "outputs": {"model_outputs": self.models["model_outputs"]},
        }

    def history(self, name: str) -> "list[Arguments]":
        """The values of a metric that are held, in order."""
        return [_shown_metric(name, *one) for one in self.metrics.get(name, [])]


def _shown_metric(name: str, value: float, moment: int, step: int) -> "Arguments":
    return {"key": name, "value": _shown_number(value), "timestamp": moment, "step": step}


class Models:
    """Models that clients of MLflow 3 log apart from runs: their files are artifacts of this run."""

    def __init__(self, experiment: str) -> None:
        self.experiment = experiment
        self.found: "dict[str, Arguments]" = {}
        self.folders: "set[str]" = set()

    def call(self, method: str, words: "list[str]", arguments: "Arguments", calls: "Calls") -> "Arguments":
        """Answer a call about models.  Raises Refused."""
        if not words:
            return {"model": self._create(arguments, calls)}
        if words == ["search"]:
            return {"models": list(self.found.values())}
        model = self.found.get(words[0])
        if model is None:
            raise missing("this run has no model %r" % words[0][:100])
        if words[1:2] == ["artifacts"]:
            return self._artifacts(model, arguments, calls)
        if words[1:2] == ["params"]:
            model["data"]["params"] += [{"key": k, "value": v} for k, v in _words(arguments, "params")]
        elif words[1:2] == ["tags"]:
            changed = dict(_words(arguments, "tags"))
            gone = set(changed) | set(words[2:3] if method == "DELETE" else [])
            kept = [one for one in model["info"]["tags"] if one["key"] not in gone]
            model["info"]["tags"] = kept + [{"key": k, "value": v} for k, v in changed.items()]
        elif method == "DELETE":
            raise invalid("a model is removed together with its run: aml rm RUN")
        elif method == "PATCH":
            model["info"]["status"] = arguments.get("status", "LOGGED_MODEL_READY")
            model["info"]["last_updated_timestamp_ms"] = int(time.time() * 1000)
        return {"model": model}

    def _create(self, arguments: "Arguments", calls: "Calls") -> "Arguments":
        if len(self.found) >= WORDS:
            raise Refused(400, "RESOURCE_EXHAUSTED", "a run has at most %d models" % WORDS)
        source = arguments.get("source_run_id")
        run = calls.run({"run_id": source}) if source else calls.main
        number_ = len(self.found) + 1
        name = text_of(arguments, "name", "") or "model-%d" % number_
        folder = "".join(one if one.isalnum() or one in "_-." else "-" for one in run.prefix + name)
        folder = folder.strip(".") if tracking_files.fits(folder.strip(".")) else "model-%d" % number_
        if folder.lower() in self.folders:
            folder = "%s-%d" % (folder, number_)
        self.folders.add(folder.lower())
        now = int(time.time() * 1000)
        info: "Arguments" = {
            "model_id": "m-%s-%d" % (calls.main.run_id[:200], number_),
            "experiment_id": self.experiment,
            "name": name,
            "creation_timestamp_ms": now,
            "last_updated_timestamp_ms": now,
            "artifact_uri": TrackedRun("", "", "", b"models/" + folder.encode(), 0, _ignore).artifact_uri,
            "status": "LOGGED_MODEL_PENDING",
            "model_type": text_of(arguments, "model_type", ""),
            "source_run_id": run.run_id,
            "tags": [{"key": k, "value": v} for k, v in _words(arguments, "tags")],
        }
        params = [{"key": k, "value": v} for k, v in _words(arguments, "params")]
        model = {"info": info, "data": {"params": params, "metrics": []}}
        self.found[info["model_id"]] = model
        return model

    def _artifacts(self, model: "Arguments", arguments: "Arguments", calls: "Calls") -> "Arguments":
        from urllib.parse import unquote

        root = unquote(model["info"]["artifact_uri"].partition(":/")[2])
        below = text_of(arguments, "artifact_directory_path", "").strip("/")
        where = root + ("/" + below if below else "")
        found = calls.files.listing(tracking_files.split(where.encode("utf-8", "surrogateescape")))
        prefix = below + "/" if below else ""
        return {
            "root_uri": model["info"]["artifact_uri"],
            "files": [dict(one, path=prefix + one["path"]) for one in found],
        }


def _words(arguments: "Arguments", name: str) -> "list[tuple[str, str]]":
    return [(_key(key, name), value[:TAG]) for key, value in pairs(arguments.get(name) or [], name)][:WORDS]


def _ignore(_kind: str, _fields: "Arguments") -> None:
    """A run of no one."""
