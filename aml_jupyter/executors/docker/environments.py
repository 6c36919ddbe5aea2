"""The image that a job runs in: its base image as it is, or with the project's environment in it."""

from __future__ import annotations

from aml_jupyter.config import aml_home
from aml_jupyter.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aml_jupyter.environment.lock import Lock
    from aml_jupyter.executors import Tell
    from aml_jupyter.executors.docker.engine import Engine
    from aml_jupyter.executors.docker.images import Probe
    from aml_jupyter.executors.docker.place import Place
    from aml_jupyter.job import Job


def image_for(place: Place, job: Job, tell: Tell) -> dict[str, Any]:
    """The facts of the image of a job, which is pulled or built where it is not there."""
    from aml_jupyter.executors.docker import images

    engine = place.engine()
    name = str(job.target["image"])
    pull = str(job.resources.get("pull") or "missing")
    found = _there(engine, job) if pull != "always" else None
    base = str(found["Id"]) if found else images.ensure_image(engine.path, name, pull=pull, tell=tell)
    probe = images.probe_image(engine.path, base, tell)
    facts: dict[str, Any] = {"image_name": name, "base": base}
    if job.dependencies is None:
        if probe.python is None:
            raise ConfigError(
                f"the image {name} has no Python, and the project no environment that would bring one",
                code="image.no_python",
                hint="Write python=3.11 into aml_config/conda_dependencies.yml, or use another image.",
            )
        _require_spark(job, probe)
        return {**facts, "image": base, **_of_probe(probe)}
    return {**facts, **_with_environment(place, job, base, probe, tell)}


def known(place: Place, job: Job) -> dict[str, Any] | None:
    """The facts of the image of a job, when nothing has to be pulled, looked into, solved or built first."""
    from aml_jupyter.executors.docker import images

    wanted, engine = job.dependencies, place.engine()
    if job.resources.get("pull") == "always" or job.resources.get("no_cache"):
        return None
    base = _there(engine, job)
    probe = images.remembered(str(base["Id"])) if base else None
    if base is None or probe is None:
        return None
    if wanted is not None:
        from aml_jupyter.environment import solving

        lock = solving.kept(wanted, platform=probe.platform, base_python=probe.version)
        name = images.built_environment(engine.path, str(base["Id"]), lock) if lock else None
        made = engine.image(name) if name else None
        if made is None or wanted["relock"] or images.remembered(str(made["Id"])) is None:
            return None
    try:
        return image_for(place, job, lambda _: None)
    except ConfigError:  # told when the run is prepared
        return None


def _there(engine: Engine, job: Job) -> Mapping[str, Any] | None:
    """The image of a job where it is in the engine: the very one of a run that is repeated, else by name."""
    very = job.target.get("image_id")
    return (engine.image(str(very)) if very else None) or engine.image(str(job.target["image"]))


def _with_environment(place: Place, job: Job, base: str, probe: Probe, tell: Tell) -> dict[str, Any]:
    """Solve the environment, unless that was done, and build its image, unless that is there."""
    from aml_jupyter.environment import solving
    from aml_jupyter.executors.docker import images

    wanted = job.dependencies
    assert wanted is not None
    engine = place.engine()
    built = None
    lock = solving.kept(wanted, platform=probe.platform, base_python=probe.version)
    if lock is not None:
        built = images.built_environment(engine.path, base, lock)
    if built is None and not wanted["prepare"]:
        raise ConfigError(
            f"the environment of {wanted['configuration']!r} is not prepared, and its run configuration says"
            " PrepareEnvironment: false",
            code="environment.not_prepared",
            hint=f"aml experiment prepare -c {wanted['configuration']}   or set PrepareEnvironment: true",
        )
    if built is None:
        file = str(wanted["file"]).removeprefix(str(wanted["root"]) + "/")
        tell(f"making the environment of {file}, which is kept for later runs")
    if built is None or lock is None or wanted["relock"] or job.resources.get("no_cache"):
        lock, built = _make(place, job, base, probe, tell)
    inside = images.probe_image(engine.path, built, tell)
    _require_spark(job, inside)
    return {"image": built, "lock": lock.digest, **_of_probe(inside)}


def _make(place: Place, job: Job, base: str, probe: Probe, tell: Tell) -> tuple[Lock, str]:
    """The lock of a job, solved unless it is kept, and its image, built unless it is there."""
    from aml_jupyter.environment import building, credentials, solving
    from aml_jupyter.executors.docker import images

    wanted = job.dependencies
    assert wanted is not None
    no_cache = bool(job.resources.get("no_cache"))

    def solved(unbuildable: Mapping[str, str]) -> Lock:
        return solving.solve(
            wanted, platform=probe.platform, base_python=probe.version, tell=tell, unbuildable=unbuildable
        )

    def built(lock: Lock) -> str:
        return images.environment_image(
            place.engine().path,
            base,
            lock,
            tell=tell,
            no_cache=no_cache,
            local=place.local,
            credentials=credentials.of_file(wanted.get("file")),
        )

    return building.until_built(wanted, solved, built, tell)


def _require_spark(job: Job, probe: Probe) -> None:
    """Refuse a Spark session in an image that has not what one takes.  Raises ConfigError."""
    if job.spark is None:
        return
    missing = []
    if probe.spark_submit is None and not probe.pyspark:
        missing.append("Spark (the pip package pyspark, or a spark-submit in the image)")
    if probe.java is None and "JAVA_HOME" not in probe.variables:
        missing.append("Java (the conda package openjdk, or an image with a JRE)")
    if missing:
        raise ConfigError(
            f"Framework is PySpark, and the image {job.target['image']} with the project's environment has no"
            f" {' and no '.join(missing)}",
            code="target.spark_missing",
            hint="Add what is missing, or set Framework: Python in the run configuration.",
        )


def _of_probe(probe: Probe) -> dict[str, Any]:
    from aml_jupyter.packages import keep

    python = probe.python or ""
    about = {"python": python, "version": probe.version or "", "ipython": probe.ipython}
    return {**about, **keep(aml_home(), python, probe.packages)}
