"""Projects, their compute targets and their run configurations: the only reader of `aml_config/`.

`listing` gives them as plain data, `edit` writes their files.
Reading a file that was read before imports neither yaml nor pydantic (`cache`).
"""

from __future__ import annotations

import os

from aml_jupyter.errors import ConfigError, TargetNotFound, UsageError
from aml_jupyter.frozen import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

FILE_SELECTED = "$file"
SHARE_BASE = "~/.azureml/share/"
# the variable by which `azureml.dataprep` in a run knows what the run configuration says of data sources
DATA_SOURCES = "AML_DATA_SOURCES"
KINDS = ("local", "docker", "remotedocker", "remote", "cluster")

_MARKERS = ("aml_config", ".azureml/project.json")


def aml_home() -> str:
    """The folder below which the product keeps everything: `AML_HOME`, else `~/.azureml`; absolute."""
    return os.path.abspath(os.path.expanduser(os.environ.get("AML_HOME") or "~/.azureml"))


class Secret:
    """A text that is never shown, compared in logs or written as JSON; `reveal()` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    @property
    def is_reference(self) -> bool:
        """Whether this only names an entry of the Workbench's key store, which is gone."""
        return self._text.startswith("AzureMlSecret=")

    @property
    def is_itself(self) -> bool:
        """Whether this is what it says, neither such a name nor the word `prompt`."""
        return not self.is_reference and self._text != "prompt"

    def __repr__(self) -> str:
        return "Secret(hidden)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


class Target(Value):
    """A compute target: what its `.compute` file says; `file` is None for the built-in `local`.

    `python_location` and the like stay as written; `~` belongs to the target's machine.
    """

    name: str
    kind: str
    type_text: str = ""
    native_shared_directory: str | None = None
    shared_volumes: bool = False
    python_location: str | None = None
    spark_submit_location: str | None = None
    base_docker_image: str | None = None
    address: str | None = None
    username: str | None = None
    password: Secret | None = None
    private_key: str | None = None
    docker_host: str | None = None
    nvidia_docker: bool = False
    user_managed_environment: bool | None = None
    yarn_deploy_mode: str | None = None
    options: Mapping[str, Any] = {}
    file: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def host(self) -> str | None:
        """The address without its port and brackets."""
        return _split_address(self.address)[0] if self.address else None

    @property
    def port(self) -> int | None:
        """The port of the address, or None where it names none."""
        return _split_address(self.address)[1] if self.address else None

    def __hash__(self) -> int:
        return hash((self.name, self.kind, self.file))


# what a project has without any file; one of the same name takes its place
BUILT_IN = {
    "local": Target(name="local", kind="local", type_text="local", native_shared_directory=SHARE_BASE),
    "docker": Target(
        name="docker",
        kind="docker",
        type_text="docker",
        native_shared_directory=SHARE_BASE,
        shared_volumes=True,
    ),
}


class RunConfiguration(Value):
    """What to run and how: a `.runconfig` file, or the defaults where a target is named alone.

    `framework` is None when the file does not say.  `target_settings` are what a successor's file says of
    its target; `Project.resolve` lays them over it.
    """

    name: str
    target: str
    argument_vector: tuple[str, ...] = (FILE_SELECTED,)
    environment_variables: Mapping[str, str] = {}
    framework: str | None = None
    conda_dependencies_file: str = "aml_config/conda_dependencies.yml"
    spark_dependencies_file: str = "aml_config/spark_dependencies.yml"
    prepare_environment: bool = False
    tracked_run: bool = True
    use_sampling: bool = True
    data_source_settings: Mapping[str, Any] = {}
    data_source_substitutions: Mapping[str, str] = {}
    description: str = ""
    target_settings: Mapping[str, Any] = {}
    file: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def uses_file_token(self) -> bool:
        """Whether the argument vector stands for whatever file is selected."""
        return FILE_SELECTED in self.argument_vector

    @property
    def script(self) -> str | None:
        """The script that the file itself names."""
        first = self.argument_vector[0]
        return None if first == FILE_SELECTED else first.replace("\\", "/")

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments that the file itself gives."""
        return self.argument_vector[1:]

    @property
    def variables(self) -> dict[str, str]:
        """What a run finds in its environment: the file's variables, and what it says of data sources."""
        found = dict(self.environment_variables)
        if not self.use_sampling or self.data_source_settings or self.data_source_substitutions:
            from aml_jupyter import plainjson

            asked = {
                "sampling": self.use_sampling,
                "settings": self.data_source_settings,
                "substitutions": self.data_source_substitutions,
            }
            found[DATA_SOURCES] = plainjson.dumps(asked)
        return found

    def command(self, script: str | None = None, arguments: Sequence[str] | None = None) -> tuple[str, ...]:
        """Script and arguments of a run.

        A script that is given takes the place of `$file`; without `$file` it replaces the whole vector.
        Arguments that are given replace the file's own.  Raises UsageError when no script is known.
        """
        if script is None:
            if self.script is None:
                raise UsageError(
                    f"run configuration {self.name} runs whatever script is named, and none is",
                    hint=f"Name one: aml run {self.name} SCRIPT [-- ARGUMENTS]",
                )
            return (self.script, *(arguments or self.arguments))
        if arguments:
            return (script, *arguments)
        if self.script is not None and not self.uses_file_token:
            return (script,)
        return tuple(script if word == FILE_SELECTED else word for word in self.argument_vector)

    def __hash__(self) -> int:
        return hash((self.name, self.target, self.argument_vector, self.file))

    def __repr__(self) -> str:
        # values of environment variables are often keys of storage accounts
        names = ", ".join(self.environment_variables)
        return (
            f"RunConfiguration(name={self.name!r}, target={self.target!r}, framework={self.framework!r}, "
            f"argument_vector={self.argument_vector!r}, environment_variables=[{names}], file={self.file!r})"
        )


class Project(Value):
    """A folder with its name in the history; `notice` is something to tell the person once."""

    root: str
    account: str
    workspace: str
    name: str
    scope_file: str | None = None
    notice: str | None = None

    @property
    def key(self) -> str:
        """`account/workspace/name`: below which runs and shared files are kept."""
        return f"{self.account}/{self.workspace}/{self.name}"

    @property
    def config_directory(self) -> str:
        """The folder of the configuration files, whether it exists or not."""
        return self.root + "/aml_config"

    def targets(self) -> list[str]:
        """Names of the compute targets, the built-in `local` among them."""
        return sorted({*self._stems(".compute"), *BUILT_IN})

    def run_configurations(self) -> list[str]:
        """Names of the run configurations, the built-in ones among them."""
        return sorted({*self._stems(".runconfig"), *BUILT_IN})

    def target(self, name: str) -> Target:
        """Read one target.  Raises TargetNotFound, or ConfigError with every mistake in its file."""
        if name in self._stems(".compute"):
            path = f"{self.config_directory}/{name}.compute"
            fields, warnings = self._load(path, "compute")
            password = fields.get("password")
            return Target(
                **{**fields, "password": Secret(password) if password else None},
                name=name,
                file=path,
                warnings=_told(path, warnings),
            )
        if name in BUILT_IN:
            return BUILT_IN[name]
        raise _unknown_target("compute target", name, self.targets())

    def run_configuration(self, name: str) -> RunConfiguration:
        """Read one run configuration.  Raises TargetNotFound, or ConfigError with every mistake in it."""
        if name in self._stems(".runconfig"):
            path = f"{self.config_directory}/{name}.runconfig"
            fields, warnings = self._load(path, "runconfig")
            vector = tuple(fields["argument_vector"])
            return RunConfiguration(
                **{**fields, "argument_vector": vector}, name=name, file=path, warnings=_told(path, warnings)
            )
        if name in BUILT_IN:
            return RunConfiguration(name=name, target=name)
        raise _unknown_target("run configuration", name, self.run_configurations())

    def dependency_files(self) -> tuple[str, ...]:
        """The files that run configurations name for Conda and Spark, relative to the project; sorted.

        What a damaged run configuration names is not known: there is no run of it.
        """
        found = {RunConfiguration.conda_dependencies_file, RunConfiguration.spark_dependencies_file}
        for name in self._stems(".runconfig"):
            try:
                fields, _ = self._load(f"{self.config_directory}/{name}.runconfig", "runconfig")
            except ConfigError:
                continue
            found |= {fields["conda_dependencies_file"], fields["spark_dependencies_file"]}
        return tuple(sorted({os.path.normpath(path.replace("\\", "/")) for path in found}))

    def resolve(self, name: str, compute: str | None = None) -> tuple[RunConfiguration, Target]:
        """The run configuration and target that TARGET means.

        A run configuration of that name; failing that a compute target of that name with the defaults.
        `compute` overrides the target.  Raises TargetNotFound, or ConfigError for a damaged file.
        """
        named = self._written_name(name)
        if named in self._stems(".runconfig"):
            chosen = self.run_configuration(named)
        elif named in self.targets():
            chosen = RunConfiguration(name=named, target=named)
        else:
            known = sorted({*self.run_configurations(), *self.targets()})
            raise _unknown_target("target", name, known)
        if compute is not None:
            chosen = chosen.replace(target=self._written_name(compute))
        return chosen, self._target_of(chosen, named_by_file=compute is None)

    def _target_of(self, chosen: RunConfiguration, *, named_by_file: bool) -> Target:
        if chosen.target not in self.targets():
            error = _unknown_target("compute target", chosen.target, self.targets())
            if named_by_file and chosen.file:
                error.message = f"{chosen.file}: Target: {error.message}"
            raise error
        return _overlaid(self.target(chosen.target), chosen.target_settings)

    def _written_name(self, name: str) -> str:
        """`aml_config/docker.runconfig` means `docker`."""
        bare = name.removeprefix("./").removeprefix("aml_config/")
        for ending in (".runconfig", ".compute"):
            if bare.endswith(ending) and bare.removesuffix(ending) in self._stems(ending):
                return bare.removesuffix(ending)
        return name

    def _stems(self, ending: str) -> list[str]:
        try:
            names = os.listdir(self.config_directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise ConfigError(
                f"{self.config_directory}: {error.strerror}", hint="Check its permissions."
            ) from None
        stems = (name.removesuffix(ending) for name in names if name.endswith(ending))
        return sorted(
            stem for stem in stems if stem and not stem.startswith(".") and not stem.endswith(" - Copy")
        )

    def _load(self, path: str, kind: str) -> tuple[dict[str, Any], list[tuple[int, str]]]:
        from aml_jupyter.config import cache

        return cache.load(path, kind, aml_home())


def find_project(start: str | None = None) -> Project:
    """The project that a folder or file belongs to; the current folder when None.

    The nearest folder upwards with `aml_config/` or `.azureml/project.json`, else the nearest with `.git`,
    else `start` itself.  A folder that nothing ran in has the name it would get (`registered`).  Raises
    ConfigError for a damaged scope file.
    """
    from aml_jupyter.config.identity import identify

    folder = os.path.abspath(os.getcwd() if start is None else start)
    if not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    root = (
        _nearest(folder, _MARKERS) or _nearest(folder, (".git",), stop_at=os.path.expanduser("~")) or folder
    )
    return Project(root=root, **identify(root, aml_home()).as_dict())


def registered(project: Project) -> Project:
    """The project with its name taken for good, which is another one if that name was taken meanwhile.

    Raises ConfigError for a damaged scope file, HistoryError `history.locked`.
    """
    from aml_jupyter.config.identity import identify

    return project.replace(**identify(project.root, aml_home(), register=True).as_dict())


def _nearest(folder: str, markers: Iterable[str], stop_at: str | None = None) -> str | None:
    here = folder
    while True:
        if here != folder and here in (stop_at, "/"):
            return None  # a home folder kept in git is no project
        if any(os.path.exists(f"{here}/{marker}") for marker in markers):
            return here
        above = os.path.dirname(here)
        if above == here:
            return None
        here = above


def _told(path: str, warnings: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    shown = "aml_config/" + os.path.basename(path)
    return tuple(f"{shown}:{line}: {text}" for line, text in warnings)


def _unknown_target(what: str, name: str, known: Sequence[str]) -> TargetNotFound:
    import difflib

    by_lower = {word.lower(): word for word in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    guess = f"Did you mean {by_lower[close[0]]}? " if close else ""
    return TargetNotFound(f"there is no {what} {name!r}", hint=f"{guess}There are: {', '.join(known)}.")


def _split_address(address: str) -> tuple[str, int | None]:
    host, colon, port = address.rpartition(":")
    if address.startswith("["):
        inside, _, after = address[1:].partition("]")
        return inside, int(after[1:]) if after.startswith(":") else None
    if not colon or ":" in host:  # several colons without brackets: an IPv6 address alone
        return address, None
    return host, int(port)


def _overlaid(target: Target, settings: Mapping[str, Any]) -> Target:
    if not settings:
        return target
    changes = dict(settings)
    if changes.pop("docker", False) and target.kind in ("local", "remote"):
        changes["kind"] = "docker" if target.kind == "local" else "remotedocker"
    return target.replace(**changes)
