"""Reading compute targets and run configurations: every key, every spelling, every irregular file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aml_jupyter.config import Secret, find_project, registered
from aml_jupyter.config.listing import compute_targets, run_configurations
from aml_jupyter.errors import ConfigError, TargetNotFound, UsageError
from tests.configuration import project_with

pytestmark = pytest.mark.usefixtures("home")

LOCAL = "type: local\npythonLocation: python\nnativeSharedDirectory: ~/.azureml/share/\n"
DOCKER = (
    "type: localdocker\nbaseDockerImage: microsoft/mmlspark:plus-0.9.9\n"
    "sharedVolumes: true\nnativeSharedDirectory: ~/.azureml/share/\n"
)
REMOTE = (
    "address: dsvm.example.org:5022\nbaseDockerImage: microsoft/mmlspark:plus-0.9.9\n"
    "nativeSharedDirectory: ~/.azureml/share/\n"
    "password: AzureMlSecret=vm#ann#0123456789abcdef0123456789abcdef\n"
    "sharedVolumes: true\ntype: remotedocker\nusername: ann\n"
)
RUN = (
    'ArgumentVector:\n  - "$file"\nTarget: docker\n'
    'EnvironmentVariables:\n  "EXAMPLE_ENV_VAR": "Example Value"\n'
    'Framework: PySpark\nCondaDependenciesFile: "aml_config/conda_dependencies.yml"\n'
    'SparkDependenciesFile: "aml_config/spark_dependencies.yml"\nPrepareEnvironment: true\nTrackedRun: true\n'
    "UseSampling: true\n"
)

JSON = (
    '{"ArgumentVector":["$file"],"Target":"docker","EnvironmentVariables":{"EXAMPLE_ENV_VAR":'
    '"Example Value"},"Framework":"PySpark","PrepareEnvironment":true}'
)
PRETTY_JSON = (
    '\n{\n\t"ArgumentVector":\t[\n\t\t"$file"\n\t],\r\n\t"Target": "docker",\n'
    '\t"EnvironmentVariables": {\n\t\t"EXAMPLE_ENV_VAR": "Example Value"\n\t},\n'
    '\t"Framework": "PySpark",\n\t"PrepareEnvironment": true\n}\n'
)


def test_a_project_without_aml_config_has_a_working_local_target(tmp_path: Path) -> None:
    project = find_project(str(tmp_path))
    configuration, target = project.resolve("local")
    assert project.targets() == ["docker", "local"]
    assert (target.kind, target.native_shared_directory, target.file) == ("local", "~/.azureml/share/", None)
    assert (configuration.target, configuration.framework, configuration.tracked_run) == ("local", None, True)
    assert configuration.command("train.py", ["1"]) == ("train.py", "1")


def test_every_key_of_a_compute_file_is_read(tmp_path: Path) -> None:
    text = (
        REMOTE + "privateKey: k\nnvidiaDocker: true\nuserManagedEnvironment: false\nyarnDeployMode: client\n"
    )
    text += "pythonLocation: /opt/py/bin/python\nsparkSubmitLocation: /opt/spark/bin/spark-submit\n"
    target = project_with(tmp_path, {"vm.compute": text}).target("vm")
    assert (target.kind, target.type_text) == ("remotedocker", "remotedocker")
    assert (target.address, target.host, target.port) == ("dsvm.example.org:5022", "dsvm.example.org", 5022)
    assert target.username == "ann"
    assert target.password == Secret("AzureMlSecret=vm#ann#0123456789abcdef0123456789abcdef")
    assert target.password.is_reference
    assert target.private_key == "k"
    assert target.nvidia_docker
    assert target.shared_volumes
    assert target.user_managed_environment is False
    assert target.yarn_deploy_mode == "client"
    assert target.python_location == "/opt/py/bin/python"
    assert target.spark_submit_location == "/opt/spark/bin/spark-submit"
    assert target.base_docker_image == "microsoft/mmlspark:plus-0.9.9"
    assert target.warnings == ()


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("local", "local"),
        ("docker", "docker"),
        ("localdocker", "docker"),
        ("remotedocker", "remotedocker"),
        ("virtualmachine", "remotedocker"),
        ("remote", "remote"),
        ("cluster", "cluster"),
    ],
)
def test_every_spelling_of_type_is_one_of_five_kinds(tmp_path: Path, written: str, kind: str) -> None:
    text = f"type: {written}\naddress: 10.0.0.4\nusername: ann\n"
    target = project_with(tmp_path, {"x.compute": text}).target("x")
    assert (target.kind, target.type_text) == (kind, written)


@pytest.mark.parametrize("written", ["batchai", "containerinstance", "dcker", "''", "[docker, local]"])
def test_another_type_is_refused_with_the_line(tmp_path: Path, written: str) -> None:
    project = project_with(tmp_path, {"x.compute": f"# a comment\ntype: {written}\n"})
    with pytest.raises(ConfigError, match=r"x\.compute:2: type: "):
        project.target("x")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("cluster: False\nnative: False\naddress: 10.0.0.4\nusername: ann\n", "remotedocker"),
        ("cluster: True\nnative: True\naddress: 10.0.0.4\nusername: ann\n", "cluster"),
        ("cluster: False\nnative: True\n", "local"),
        ("cluster: False\nnative: False\n", "docker"),
    ],
)
def test_files_of_before_the_preview_say_cluster_and_native(tmp_path: Path, text: str, kind: str) -> None:
    assert project_with(tmp_path, {"x.compute": text}).target("x").kind == kind


def test_every_key_of_a_run_configuration_is_read(tmp_path: Path) -> None:
    text = RUN + "DataSourceSettings:\n  iris.dsource:\n    Sampling:\n      Sample: Full File\n"
    text += "DataSourceSubstitutions:\n  a.dsource: b.dsource\n"
    found = project_with(tmp_path, {"docker.compute": DOCKER, "d.runconfig": text}).run_configuration("d")
    assert found.target == "docker"
    assert found.argument_vector == ("$file",)
    assert found.environment_variables == {"EXAMPLE_ENV_VAR": "Example Value"}
    assert found.framework == "PySpark"
    assert found.prepare_environment
    assert found.tracked_run
    assert found.use_sampling
    assert found.data_source_settings == {"iris.dsource": {"Sampling": {"Sample": "Full File"}}}
    assert found.data_source_substitutions == {"a.dsource": "b.dsource"}
    assert found.warnings == ()


def test_absent_keys_have_their_defaults(tmp_path: Path) -> None:
    found = project_with(tmp_path, {"d.runconfig": "Target: local\n"}).run_configuration("d")
    assert found.argument_vector == ("$file",)
    assert found.framework is None
    assert not found.prepare_environment
    assert found.tracked_run
    assert found.conda_dependencies_file == "aml_config/conda_dependencies.yml"
    assert found.spark_dependencies_file == "aml_config/spark_dependencies.yml"


def test_private_preview_files_are_read_without_a_warning(tmp_path: Path) -> None:
    document = {
        "ArgumentVector": ["$file"],
        "CondaFile": None,
        "Description": "Run in Docker",
        "EnvironmentVariables": None,
        "Framework": "PySpark",
        "ManagedEnvironment": True,
        "Target": "docker",
        "TrackedRun": True,
    }
    found = project_with(tmp_path, {"d.runconfig": json.dumps(document)}).run_configuration("d")
    assert (found.description, found.framework, found.warnings) == ("Run in Docker", "PySpark", ())


# --- irregular files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [LOCAL, DOCKER, REMOTE])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\r\n").rstrip(),
        lambda text: "\n\n" + text,
        lambda text: "---\n" + text,
        lambda text: "\ufeff" + text,
        lambda text: text.replace(": ", ":\t"),
        lambda text: text.replace(": ", ": \t "),
        lambda text: text.replace(": ", " : "),
        lambda text: "# a\tcomment\n\t# another\n" + text.replace("\n", "\t# why\n") + "   \t\n",
        lambda text: "".join(
            f'"{line.partition(": ")[0]}": "{line.partition(": ")[2]}"\n'
            if "true" not in line
            else line + "\n"
            for line in text.splitlines()
        ),
        lambda text: "".join(
            f"'{line.partition(': ')[0]}': {line.partition(': ')[2]}\n" for line in text.splitlines()
        ),
        lambda text: text.replace("true", "True"),
    ],
    ids=[
        "CRLF",
        "no newline at the end",
        "CRLF and no newline at the end",
        "leading blank lines",
        "document start",
        "byte order mark",
        "tab after the colon",
        "tab among blanks after the colon",
        "blank before the colon",
        "tabs in comments",
        "double quotes",
        "single-quoted keys",
        "True in capitals",
    ],
)
def test_irregular_compute_files_mean_the_same(tmp_path: Path, text: str, change: object) -> None:
    assert callable(change)
    plain = project_with(tmp_path / "a", {"x.compute": text}).target("x")
    odd = project_with(tmp_path / "b", {"x.compute": change(text)}).target("x")
    assert odd.replace(file=plain.file, warnings=()) == plain
    assert odd.warnings == ()


@pytest.mark.parametrize(
    "text",
    [
        RUN,
        RUN.replace('  - "$file"', "  - $file"),
        RUN.replace('  - "$file"', '- "$file"'),
        RUN.replace('\n  - "$file"', ' ["$file"]'),
        RUN.replace('\n  - "$file"', " [$file]"),
        RUN.replace("\n", "\r\n").rstrip(),
        JSON,
        PRETTY_JSON,
    ],
)
def test_irregular_run_configurations_mean_the_same(tmp_path: Path, text: str) -> None:
    found = project_with(tmp_path, {"d.runconfig": text}).run_configuration("d")
    assert found.argument_vector == ("$file",)
    assert found.environment_variables == {"EXAMPLE_ENV_VAR": "Example Value"}
    assert (found.target, found.framework, found.prepare_environment) == ("docker", "PySpark", True)
    assert found.warnings == ()


def test_null_sections_are_empty(tmp_path: Path) -> None:
    text = "ArgumentVector:\nTarget: docker\nEnvironmentVariables: null\nFramework:\n"
    text += "CondaDependenciesFile: null\n"
    text += "SparkDependenciesFile:\nDataSourceSettings:\n  # iris.dsource:\nDataSourceSubstitutions: Null\n"
    found = project_with(tmp_path, {"d.runconfig": text}).run_configuration("d")
    assert found.environment_variables == {}
    assert found.argument_vector == ("$file",)
    assert found.framework is None
    assert found.conda_dependencies_file == "aml_config/conda_dependencies.yml"
    empty_image = project_with(tmp_path, {"x.compute": "type: docker\nbaseDockerImage:\n"}).target("x")
    assert empty_image.base_docker_image is None


def test_a_placeholder_in_brackets_is_read_as_empty_and_told(tmp_path: Path) -> None:
    text = REMOTE.replace("AzureMlSecret=vm#ann#0123456789abcdef0123456789abcdef", "[AzureML Secret here]")
    target = project_with(tmp_path, {"vm.compute": text}).target("vm")
    assert target.password is None
    assert target.warnings == (
        "aml_config/vm.compute:4: password: is a placeholder in brackets; read as empty",
    )


def test_a_placeholder_for_an_address_is_named_as_such(tmp_path: Path) -> None:
    project = project_with(
        tmp_path, {"vm.compute": REMOTE.replace("dsvm.example.org:5022", "<YOUR DSVM IP>")}
    )
    with pytest.raises(ConfigError, match=r"vm\.compute:1: address: .* is still the placeholder"):
        project.target("vm")


def test_json_with_a_missing_comma_tells_file_line_and_key(tmp_path: Path) -> None:
    text = '\n{\n  "ArgumentVector": [ "$file" ],\n  "Target": "docker"\n  "PrepareEnvironment": true\n}\n'
    project = project_with(tmp_path, {"d.runconfig": text})
    with pytest.raises(ConfigError) as caught:
        project.run_configuration("d")
    assert "d.runconfig:5: PrepareEnvironment: a comma or } is missing" in caught.value.message
    assert '      "PrepareEnvironment": true\n      ^' in caught.value.message
    assert "comma" in caught.value.hint


def test_a_flag_that_swallowed_the_next_key_is_refused(tmp_path: Path) -> None:
    text = 'Target: local\nPrepareEnvironment: "true. \\"Framework\\": \\"Python\\""\n'
    project = project_with(tmp_path, {"d.runconfig": text})
    with pytest.raises(ConfigError, match=r"d\.runconfig:2: PrepareEnvironment: must be true or false"):
        project.run_configuration("d")


def test_tabs_as_indentation_are_refused_with_the_place(tmp_path: Path) -> None:
    project = project_with(tmp_path, {"d.runconfig": "Target: local\nEnvironmentVariables:\n\tA: b\n"})
    with pytest.raises(ConfigError, match=r"d\.runconfig:3: A: a tab where blanks must be") as caught:
        project.run_configuration("d")
    assert caught.value.hint == "Indent with spaces."


@pytest.mark.parametrize(
    "name",
    ["x.compute~", "x.compute.bak", "x - Copy.compute", "x.yml~", ".x.compute", ".compute", "x.amb"],
)
def test_stale_copies_are_no_targets(tmp_path: Path, name: str) -> None:
    project = project_with(tmp_path, {name: "[ nonsense", "docker.compute": DOCKER})
    assert project.targets() == ["docker", "local"]


def test_names_keep_their_case(tmp_path: Path) -> None:
    project = project_with(tmp_path, {"DSVM-Ubuntu-GPU.compute": LOCAL})
    assert project.targets() == ["DSVM-Ubuntu-GPU", "docker", "local"]
    with pytest.raises(TargetNotFound, match="Did you mean DSVM-Ubuntu-GPU"):
        project.target("dsvm-ubuntu-gpu")


def test_a_successors_run_configuration_is_recognised_and_mapped(tmp_path: Path) -> None:
    text = (
        "script: train.py\narguments: [--rate, 0.10]\ntarget: local\nframework: python\nnodeCount: 1\n"
        "autoPrepareEnvironment: false\nmpi:\n  processCountPerNode: 1\n"
        "environment:\n  environmentVariables:\n    A: 010\n  docker:\n    enabled: true\n"
        "    baseImage: mcr.example/base:1\n    sharedVolumes: true\n    gpuSupport: true\n"
        "  python:\n    interpreterPath: python3\n    userManagedDependencies: true\n"
        "    condaDependenciesFile: aml_config/other.yml\n"
        "history:\n  outputCollection: false\nhdi:\n  yarnDeployMode: client\n"
    )
    configuration, target = project_with(tmp_path, {"v1.runconfig": text}).resolve("v1")
    assert configuration.argument_vector == ("train.py", "--rate", "0.10")
    assert (configuration.script, configuration.arguments) == ("train.py", ("--rate", "0.10"))
    assert configuration.environment_variables == {"A": "010"}
    assert (configuration.framework, configuration.tracked_run) == ("Python", False)
    assert not configuration.prepare_environment
    assert configuration.conda_dependencies_file == "aml_config/other.yml"
    assert configuration.warnings == ()
    assert (target.kind, target.base_docker_image, target.nvidia_docker) == (
        "docker",
        "mcr.example/base:1",
        True,
    )
    assert (target.python_location, target.user_managed_environment) == ("python3", True)
    assert (target.shared_volumes, target.yarn_deploy_mode) == (True, "client")


# --- mistakes -----------------------------------------------------------------------------------------------


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = "type: lcal\nsharedVolumes: maybe\naddress: a b\ntype: docker\nnvidiaDocker: [yes, no]\n"
    with pytest.raises(ConfigError) as caught:
        project_with(tmp_path, {"x.compute": text}).target("x")
    told = caught.value.message
    assert "5 problems" in told
    for line, key in [(1, "type"), (2, "sharedVolumes"), (3, "address"), (4, "type"), (5, "nvidiaDocker")]:
        assert f"x.compute:{line}: {key}: " in told
    assert "    sharedVolumes: maybe\n                   ^" in told
    assert told.count("fix: ") == 5


def test_a_missing_key_is_named_with_the_line_to_add(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"address: is missing") as caught:
        project_with(tmp_path, {"x.compute": "type: remote\n"}).target("x")
    assert "username: is missing" in caught.value.message


def test_one_line_with_an_unreadable_file_among_targets_does_not_hide_the_others(tmp_path: Path) -> None:
    project = project_with(
        tmp_path,
        {
            "bad.compute": "type: [",
            "docker.compute": DOCKER,
            "d.runconfig": RUN,
            "bad.runconfig": "Target: 1: 2",
        },
    )
    rows = {row["name"]: row for row in compute_targets(project)}
    assert rows["docker"]["kind"] == "docker"
    assert rows["docker"]["error"] is None
    assert "bad.compute:1" in rows["bad"]["error"]
    runs = {row["name"]: row for row in run_configurations(project)}
    assert (runs["d"]["target"], runs["d"]["framework"]) == ("docker", "PySpark")
    assert runs["bad"]["error"]


# --- resolution ---------------------------------------------------------------------------------------------


def test_a_run_configuration_comes_before_a_target_of_the_same_name(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "docker.compute": DOCKER,
        "gpu.compute": DOCKER,
        "docker.runconfig": "Target: gpu\n",
    }
    configuration, target = project_with(tmp_path, files).resolve("docker")
    assert (configuration.name, configuration.target, target.name) == ("docker", "gpu", "gpu")


def test_a_target_alone_runs_with_a_default_configuration(tmp_path: Path) -> None:
    configuration, target = project_with(tmp_path, {"gpu.compute": DOCKER}).resolve("gpu")
    assert (configuration.target, configuration.file, target.kind) == ("gpu", None, "docker")


def test_compute_overrides_the_target_of_the_file(tmp_path: Path) -> None:
    project = project_with(tmp_path, {"docker.compute": DOCKER, "d.runconfig": RUN})
    configuration, target = project.resolve("d", "local")
    assert (configuration.target, target.kind) == ("local", "local")
    assert configuration.environment_variables == {"EXAMPLE_ENV_VAR": "Example Value"}


@pytest.mark.parametrize(
    "name", ["docker.runconfig", "aml_config/docker.runconfig", "./aml_config/docker.compute"]
)
def test_a_target_may_be_named_by_its_file(tmp_path: Path, name: str) -> None:
    project = project_with(tmp_path, {"docker.compute": DOCKER, "docker.runconfig": RUN})
    assert project.resolve(name)[1].name == "docker"


def test_an_unknown_target_lists_what_there_is_and_the_nearest(tmp_path: Path) -> None:
    project = project_with(tmp_path, {"docker.compute": DOCKER, "d.runconfig": RUN})
    with pytest.raises(TargetNotFound) as caught:
        project.resolve("dokcer")
    assert caught.value.code == "target.unknown"
    assert caught.value.hint == "Did you mean docker? There are: d, docker, local."


def test_a_run_configuration_that_points_nowhere_names_its_file(tmp_path: Path) -> None:
    project = project_with(tmp_path, {"docker.compute": DOCKER, "d.runconfig": "Target: docker-python\n"})
    with pytest.raises(TargetNotFound, match=r"d\.runconfig.*docker-python") as caught:
        project.resolve("d")
    assert "Did you mean docker?" in caught.value.hint


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "", ".", "\0"])
def test_a_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    project = project_with(tmp_path, {"docker.compute": DOCKER})
    (tmp_path / "secret.compute").write_text(LOCAL)
    with pytest.raises(TargetNotFound):
        project.resolve(name)


@pytest.mark.parametrize(
    ("vector", "script", "arguments", "command"),
    [
        (["$file"], "train.py", [], ("train.py",)),
        (["$file"], "train.py", ["0.1"], ("train.py", "0.1")),
        (["$file", "--rate", "0.1"], "train.py", None, ("train.py", "--rate", "0.1")),
        (["$file", "--rate", "0.1"], "train.py", ["--rate", "1"], ("train.py", "--rate", "1")),
        (["main.py", "234"], None, None, ("main.py", "234")),
        (["main.py", "234"], None, ["5"], ("main.py", "5")),
        (["main.py", "234"], "train.py", None, ("train.py",)),
        (["main.py", "$file"], "train.csv", None, ("main.py", "train.csv")),
        (["src\\main.py"], None, None, ("src/main.py",)),
    ],
)
def test_script_and_arguments_override_the_vector(
    tmp_path: Path,
    vector: list[str],
    script: str | None,
    arguments: list[str] | None,
    command: tuple[str, ...],
) -> None:
    text = json.dumps({"Target": "local", "ArgumentVector": vector})
    found = project_with(tmp_path, {"d.runconfig": text}).run_configuration("d")
    assert found.command(script, arguments) == command


def test_arguments_are_text_as_it_was_written(tmp_path: Path) -> None:
    text = "Target: local\nArgumentVector: [main.py, 234, 1e-3, 0.10, yes, ~, 22:22]\n"
    found = project_with(tmp_path, {"d.runconfig": text}).run_configuration("d")
    assert found.arguments == ("234", "1e-3", "0.10", "yes", "~", "22:22")


def test_without_a_script_the_file_token_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runs whatever script is named"):
        find_project(str(tmp_path)).run_configuration("local").command()


@pytest.mark.parametrize("vector", ["[]", "main.py", "{a: b}", "[a, [b]]", "[null]", "[a, {b: c}]"])
def test_a_vector_that_is_no_list_of_words_is_refused(tmp_path: Path, vector: str) -> None:
    project = project_with(tmp_path, {"d.runconfig": f"Target: local\nArgumentVector: {vector}\n"})
    with pytest.raises(ConfigError, match=r"d\.runconfig:2: ArgumentVector: "):
        project.run_configuration("d")


# --- the cache ----------------------------------------------------------------------------------------------

_WARM = """
import sys
from aml_jupyter.config import find_project
configuration, target = find_project(sys.argv[1]).resolve("d")
heavy = {"yaml", "pydantic", "dataclasses", "typing", "pathlib", "subprocess", "hashlib", "shutil"}
print(target.kind, configuration.environment_variables, sorted(heavy & set(sys.modules)))
"""


def test_a_warm_run_imports_neither_yaml_nor_pydantic(tmp_path: Path) -> None:
    project = project_with(tmp_path, {"docker.compute": DOCKER, "d.runconfig": RUN})
    project.resolve("d")
    here = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-E",
            "-s",
            "-c",
            f"import sys; sys.path.insert(0, {here!r})\n{_WARM}",
            project.root,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "docker {'EXAMPLE_ENV_VAR': 'Example Value'} []\n"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    project = project_with(tmp_path, {"x.compute": DOCKER})
    assert project.target("x").shared_volumes
    Path(project.root, "aml_config", "x.compute").write_text(DOCKER.replace("true", "false"))
    assert not project.target("x").shared_volumes


@pytest.mark.parametrize("damage", [b"", b"{", b"00000000\n[]", b"0\n{}", b"\xff\n\xff"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, home: str, damage: bytes) -> None:
    project = project_with(tmp_path, {"x.compute": DOCKER})
    before = project.target("x")
    kept = list(Path(home, "cache", "config").iterdir())
    assert len(kept) == 1
    kept[0].write_bytes(damage)
    assert project.target("x") == before
    assert project.target("x") == before


def test_a_home_that_cannot_be_written_does_not_stop_reading(tmp_path: Path, home: str) -> None:
    Path(home).parent.mkdir(exist_ok=True)
    Path(home).write_text("in the way")
    project = project_with(tmp_path, {"x.compute": DOCKER})
    assert project.target("x").kind == "docker"
    notice = registered(project).notice
    assert notice is not None
    assert "cannot be remembered" in notice


def test_warnings_name_the_file_that_was_read_not_the_one_in_the_cache(tmp_path: Path) -> None:
    odd = DOCKER + "colour: red\n"
    files: dict[str, str | bytes] = {"one.compute": odd, "two.compute": odd}
    project = project_with(tmp_path, files)
    assert project.target("one").warnings == ("aml_config/one.compute:5: unknown key 'colour'",)
    assert project.target("two").warnings == ("aml_config/two.compute:5: unknown key 'colour'",)
    assert project.target("two").options == {"colour": "red"}


# --- finding the project ------------------------------------------------------------------------------------


def test_the_nearest_folder_with_aml_config_is_the_project(tmp_path: Path) -> None:
    inner = tmp_path / "repository" / "a"
    (inner / "aml_config").mkdir(parents=True)
    (inner / "src" / "deep").mkdir(parents=True)
    (tmp_path / "repository" / ".git").mkdir()
    assert find_project(str(inner / "src" / "deep")).root == str(inner)
    assert find_project(str(tmp_path / "repository")).root == str(tmp_path / "repository")


def test_a_git_checkout_without_aml_config_is_a_project(tmp_path: Path) -> None:
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    (tmp_path / "repository" / "notebooks").mkdir()
    assert find_project(str(tmp_path / "repository" / "notebooks")).root == str(tmp_path / "repository")


def test_a_home_folder_kept_in_git_is_no_project(tmp_path: Path, home: str) -> None:
    user = Path(os.path.expanduser("~"))
    (user / ".git").mkdir(parents=True)
    (user / "analysis").mkdir()
    assert find_project(str(user / "analysis")).root == str(user / "analysis")


def test_a_notebook_file_stands_for_its_folder(tmp_path: Path) -> None:
    (tmp_path / "p" / "aml_config").mkdir(parents=True)
    (tmp_path / "p" / "a.ipynb").write_text("{}")
    assert find_project(str(tmp_path / "p" / "a.ipynb")).root == str(tmp_path / "p")


def test_the_current_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_project().root == str(tmp_path)


# --- what people read ---------------------------------------------------------------------------------------


def test_every_key_of_every_file_is_documented() -> None:
    from aml_jupyter.config import dependencies, models

    text = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text()
    keys = {*models.known_keys(models.ComputeFile), *models.known_keys(models.RunConfigurationFile)}
    keys |= {*dependencies.CONDA_KEYS, *dependencies.SPARK_KEYS, *models.KINDS, "Scope", "Id"}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


def test_everything_that_is_kept_is_for_its_owner_only(tmp_path: Path, home: str) -> None:
    project = project_with(tmp_path, {"docker.compute": DOCKER})
    project.target("docker")
    registered(project)
    modes = {path: path.stat().st_mode & 0o77 for path in [Path(home), *Path(home).rglob("*")]}
    assert len(modes) > 4
    assert set(modes.values()) == {0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("environment: 3\n", r"environment: must be a map"),
        ("environment:\n  docker: yes\n", r"v1\.runconfig:3: environment.docker: must be a map"),
        ("environment:\n  environmentVariables: [a]\n", r"environment.environmentVariables: must be a map"),
        (
            "environment:\n  docker:\n    enabled: maybe\n",
            r":4: environment.docker.enabled: must be true or false",
        ),
        ("arguments: a b\n", r":2: arguments: must be a list"),
        ("hdi: [a]\n", r":2: hdi: must be a map"),
    ],
)
def test_mistakes_in_a_successors_file_are_told_with_their_place(
    tmp_path: Path, text: str, said: str
) -> None:
    project = project_with(tmp_path, {"v1.runconfig": f"script: a.py\n{text}"})
    with pytest.raises(ConfigError, match=said):
        project.run_configuration("v1")
