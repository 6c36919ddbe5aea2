"""A run under PySpark: where Spark is at the target, and the spark-submit that takes the place of `python`.

The submitter reads this file, too, to refuse a run on this computer before it is made; at other targets only
the runtime can look.  Nothing is imported that the runtime does not have.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

SUBMIT = "spark-submit"
PROPERTIES = "spark.properties"
# what a Spark of one's own would say in its conf/: as quiet as a notebook wants it, and no fixed port
DEFAULTS = (("spark.log.level", "WARN"), ("spark.ui.port", "0"))
# what Spark itself hides in its web pages and logs, and the keys of storage accounts
REDACTION = "(?i)secret|password|token|credential|(access|account|private)[.]?key"
ASK = (
    "import importlib.util as util; found = util.find_spec('pyspark');"
    " print('aml', found and found.submodule_search_locations[0])"
)


class SparkMissing(Exception):
    """There is no Spark that could be used; the text says what was looked for, `hint` what to add."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


class Spark:
    """A spark-submit, the home of its Spark (empty when unknown), and of Java where that must be told."""

    def __init__(self, submit: str, home: str, java_home: str, configured: bool) -> None:
        self.submit = submit
        self.home = home
        self.java_home = java_home
        self.configured = configured  # has settings of its own, which are not to be overridden


def find(location: "str | None", python: str, environment: "Mapping[str, str]") -> Spark:
    """The Spark that a run finds; raises SparkMissing.

    `location` (sparkSubmitLocation), else SPARK_HOME, PATH, and a pyspark package of the interpreter.
    """
    submit = _find_submit(location, python, environment)
    home = _home(submit)
    if home:  # the scripts that pip puts on PATH ask some python where Spark is; this is where
        submit = home + "/bin/" + SUBMIT
    java_home = _find_java(submit, python, environment)
    folders = [environment.get("SPARK_CONF_DIR") or "", home and home + "/conf"]
    names = ("spark-defaults.conf", "log4j2.properties", "log4j.properties")
    configured = any(os.path.isfile(folder + "/" + name) for folder in folders if folder for name in names)
    return Spark(submit, home, java_home, configured)


def _find_submit(location: "str | None", python: str, environment: "Mapping[str, str]") -> str:
    name = location or SUBMIT
    if "/" in name or "\\" in name:
        path = os.path.abspath(os.path.expanduser(name))
        if not _is_program(path):
            raise SparkMissing(
                "sparkSubmitLocation %r is not a program" % name,
                "Set sparkSubmitLocation in the .compute file to the path of a spark-submit, or remove it.",
            )
        return path
    home = environment.get("SPARK_HOME")
    candidates = [home + "/bin/" + name] if home else []
    candidates += [folder + "/" + name for folder in environment.get("PATH", "").split(":") if folder]
    for path in candidates:
        if _is_program(path):
            return os.path.abspath(path)
    package = _packaged(os.path.dirname(python)) or _asked(python, environment)
    if not package:
        raise SparkMissing(
            "there is neither a %s on PATH nor a pyspark package in %s" % (name, python),
            "Add pyspark to the Python of the target (pip install pyspark, or a line of"
            " conda_dependencies.yml), set sparkSubmitLocation in the .compute file, or set"
            " Framework: Python.",
        )
    return package + "/bin/" + SUBMIT


def _is_program(path: str) -> bool:
    return os.access(path, os.X_OK) and not os.path.isdir(path)


def _is_home(folder: str) -> bool:
    # pyspark-client has no jars: it is a Spark for a server elsewhere
    return os.path.isdir(folder + "/jars") and _is_program(folder + "/bin/" + SUBMIT)


def _home(submit: str) -> str:
    """The folder of the Spark that a spark-submit belongs to, or empty for a program of another make."""
    for path in (submit, os.path.realpath(submit)):
        folder = os.path.dirname(path)
        if _is_home(os.path.dirname(folder)):
            return os.path.dirname(folder)
        if os.path.isfile(folder + "/find_spark_home.py"):
            return _packaged(folder)
    return ""


def _packaged(programs: str) -> str:
    """The pyspark package of the installation whose programs lie in a folder, or empty."""
    library = os.path.dirname(programs) + "/lib"
    try:
        names = sorted(os.listdir(library), reverse=True)
    except OSError:
        return ""
    for name in names:
        folder = "%s/%s/site-packages/pyspark" % (library, name)
        if name.startswith("python3") and _is_home(folder):
            return folder
    return ""


def _asked(python: str, environment: "Mapping[str, str]") -> str:
    """The pyspark package that an interpreter says it would import, or empty."""
    import subprocess

    try:
        done = subprocess.run(
            [python, "-c", ASK],
            env=dict(environment),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    first, _, folder = (
        done.stdout.decode("utf-8", "surrogateescape").strip().rpartition("\n")[2].partition(" ")
    )
    return folder if first == "aml" and _is_home(folder) else ""


def _find_java(submit: str, python: str, environment: "Mapping[str, str]") -> str:
    """The JAVA_HOME to set, empty where Spark's own scripts find Java; raises SparkMissing."""
    told = environment.get("JAVA_HOME")
    folders = [told + "/bin"] if told else environment.get("PATH", "").split(":")
    if any(_is_program(folder + "/java") for folder in folders if folder):
        return ""
    beside = os.path.dirname(python)  # where conda puts it
    if not told and _is_program(beside + "/java"):
        return os.path.dirname(beside)
    where = "JAVA_HOME=%s holds none" % told if told else "there is none on PATH"
    raise SparkMissing(
        "Spark (%s) needs Java, and %s" % (submit, where),
        "Install a Java runtime (17 or newer for Spark 4: openjdk-17-jre-headless of Debian and Ubuntu,"
        " openjdk of conda-forge) or set JAVA_HOME.",
    )


def arguments(settings: "Mapping[str, Any]", properties: str, *, configured: bool = False) -> "list[str]":
    """The options of spark-submit that stand for `spark_dependencies.yml`.

    `settings` holds `master`, `configuration`, `repositories`, `packages` and whether there are `private`
    settings, which lie in the file `properties`: other people see the command lines of a machine.
    """
    configuration: "Mapping[str, str]" = settings.get("configuration") or {}
    options: "list[str]" = []
    if settings.get("master") and "spark.master" not in configuration:
        options += ["--master", settings["master"]]
    for name in ("repositories", "packages"):
        if settings.get(name):
            options += ["--" + name, ",".join(settings[name])]
    defaults: "tuple[tuple[str, str], ...]" = () if configured else DEFAULTS
    if settings.get("private"):
        defaults += (("spark.redaction.regex", REDACTION),)
    for key, value in defaults:
        if key not in configuration:
            options += ["--conf", key + "=" + value]
    for key, value in configuration.items():
        options += ["--conf", key + "=" + value]
    if settings.get("private"):
        options += ["--properties-file", properties]
    return options


def command(
    words: "Sequence[str]", settings: "Mapping[str, Any]", spark: Spark, job: str
) -> "tuple[list[str], dict[str, str]]":
    """What to run instead of `python script arguments`, and the variables it needs.

    `job` is the job's folder at the target.
    """
    script = "./" + words[1] if words[1].startswith("-") else words[1]
    options = arguments(settings, job + "/" + PROPERTIES, configured=spark.configured)
    variables = {"PYSPARK_PYTHON": words[0], "PYSPARK_DRIVER_PYTHON": words[0]}
    if spark.home:
        variables["SPARK_HOME"] = spark.home
    if spark.java_home:
        variables["JAVA_HOME"] = spark.java_home
    return [spark.submit] + options + [script] + list(words[2:]), variables


def loopback(settings: "Mapping[str, Any]") -> "dict[str, str]":
    """Variables that keep a Spark without a cluster off the network; it needs no name of the machine then."""
    master = (settings.get("configuration") or {}).get("spark.master") or settings.get("master") or ""
    if not master.startswith("local"):
        return {}
    return {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_HOSTNAME": "localhost"}


def complete(
    words: "Sequence[str]", settings: "Mapping[str, Any]", environment: "Mapping[str, str]", job: str
) -> "tuple[list[str], dict[str, str]]":
    """Find Spark and turn the command of a job into its spark-submit; returns it with the whole environment.

    What `settings["given"]` names was set by a person and stays.  Raises SparkMissing.
    """
    spark = find(settings.get("location"), words[0], environment)
    argv, variables = command(words, settings, spark, job)
    given = settings.get("given") or ()
    added = {name: value for name, value in variables.items() if name not in given}
    return argv, dict(loopback(settings), **dict(environment, **added))
