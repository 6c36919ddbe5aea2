"""Writing configuration files: as the Workbench wrote them, and in place without losing a character."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aml_jupyter.config import Secret, find_project, yamlfile
from aml_jupyter.config.edit import attach, create_run_configuration, detach, set_keys
from aml_jupyter.errors import ConfigError, TargetNotFound, UsageError
from tests.configuration import project_with

pytestmark = pytest.mark.usefixtures("home")


def test_attach_writes_the_files_of_a_docker_engine_behind_ssh(tmp_path: Path) -> None:
    project = find_project(str(tmp_path))
    written = attach(
        project, "vm", "remotedocker", address="10.0.0.4", username="ann", password="AzureMlSecret=vm#ann#0f"
    )
    assert [os.path.relpath(path, tmp_path) for path in written] == [
        "aml_config/vm.compute",
        "aml_config/vm.runconfig",
    ]
    assert Path(written[0]).read_text() == (
        "address: 10.0.0.4\n"
        "baseDockerImage: microsoft/mmlspark:plus-0.9.9\n"
        "nativeSharedDirectory: ~/.azureml/share/\n"
        "password: AzureMlSecret=vm#ann#0f\n"
        "sharedVolumes: true\n"
        "type: remotedocker\n"
        "username: ann\n"
    )
    assert Path(written[1]).read_text() == (
        "ArgumentVector:\n- $file\n"
        "CondaDependenciesFile: aml_config/conda_dependencies.yml\n"
        "EnvironmentVariables: null\n"
        "Framework: PySpark\n"
        "PrepareEnvironment: false\n"
        "SparkDependenciesFile: aml_config/spark_dependencies.yml\n"
        "Target: vm\n"
        "TrackedRun: true\n"
        "UseSampling: true\n"
    )
    assert os.stat(written[0]).st_mode & 0o777 == 0o600
    configuration, target = find_project(str(tmp_path)).resolve("vm")
    assert (configuration.framework, target.kind, target.host) == ("PySpark", "remotedocker", "10.0.0.4")
    assert (configuration.warnings, target.warnings) == ((), ())


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("local", ["type", "pythonLocation", "nativeSharedDirectory"]),
        ("docker", ["type", "baseDockerImage", "sharedVolumes", "nativeSharedDirectory"]),
        ("localdocker", ["type", "baseDockerImage", "sharedVolumes", "nativeSharedDirectory"]),
        ("cluster", ["address", "password", "type", "username", "yarnDeployMode"]),
        (
            "remotedocker",
            [
                "address",
                "baseDockerImage",
                "nativeSharedDirectory",
                "password",
                "sharedVolumes",
                "type",
                "username",
            ],
        ),
        ("remote", ["address", "password", "pythonLocation", "type", "userManagedEnvironment", "username"]),
    ],
)
def test_each_kind_has_its_own_keys_in_order(tmp_path: Path, kind: str, keys: list[str]) -> None:
    login = {"address": "h", "username": "u"} if "address" in keys else {}
    written = attach(find_project(str(tmp_path)), "x", kind, **login)
    lines = Path(written[0]).read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == keys
    assert find_project(str(tmp_path)).resolve("x")[1].warnings == ()


def test_snake_case_keys_are_the_same(tmp_path: Path) -> None:
    project = find_project(str(tmp_path))
    attach(project, "d", "docker", base_docker_image="python:3.12", nvidia_docker=True)
    configuration, target = project.resolve("d")
    assert (target.base_docker_image, target.nvidia_docker) == ("python:3.12", True)
    assert configuration.framework == "Python"


def test_attach_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    project = find_project(str(tmp_path))
    with pytest.raises(UsageError, match="no kind of target"):
        attach(project, "x", "dokcer")
    with pytest.raises(UsageError, match="unknown key"):
        attach(project, "x", "docker", sharedVolume=True)
    for name in ("../x", "a/b", "", ".x", "con", "x - Copy"):
        with pytest.raises(UsageError, match="cannot name a target"):
            attach(project, name, "docker")
    with pytest.raises(ConfigError, match="username: is missing"):
        attach(project, "x", "remote", address="-oProxyCommand=x")
    assert not os.path.exists(project.config_directory)


COMMENTED = (
    "# The machine in the cellar\r\n"
    "type:   remotedocker   # not localdocker\r\n"
    '"address"\t: "10.0.0.4"  # ask Bob\r\n'
    "\r\n"
    "username: 'ann'\r\n"
    "#password: old\r\n"
    "baseDockerImage: a/b:1\r\n"
    "colour: red\r\n"
    "# the end"
)


def test_attach_changes_an_existing_file_without_losing_a_comment(tmp_path: Path) -> None:
    project = project_with(tmp_path, {"vm.compute": COMMENTED})
    path = Path(project.root, "aml_config", "vm.compute")
    path.chmod(0o640)
    attach(project, "vm", "remotedocker", address="10.0.0.5")
    text = path.read_bytes().decode()
    expected = COMMENTED.replace('"10.0.0.4"', "10.0.0.5").replace(
        "colour: red\r\n",
        "colour: red\r\nnativeSharedDirectory: ~/.azureml/share/\r\n"
        "password: null\r\nsharedVolumes: true\r\n",
    )
    assert text == expected
    assert path.stat().st_mode & 0o777 == 0o640


def test_attaching_the_same_again_writes_nothing(tmp_path: Path) -> None:
    project = find_project(str(tmp_path))
    assert attach(project, "d", "docker")
    assert attach(project, "d", "docker") == ()


def test_attach_keeps_the_run_configuration_that_is_there(tmp_path: Path) -> None:
    text = '{\n  "ArgumentVector": ["main.py"],\n  "Target": "other",\n  "Framework": "Python"\n}\n'
    project = project_with(tmp_path, {"d.runconfig": text})
    attach(project, "d", "docker")
    found = project.run_configuration("d")
    assert (found.target, found.script, found.framework) == ("d", "main.py", "Python")
    assert (
        Path(str(found.file))
        .read_text()
        .startswith('{\n  "ArgumentVector": ["main.py"],\n  "Target": "d",\n')
    )


def test_detach_removes_the_pair_and_nothing_else(tmp_path: Path) -> None:
    project = find_project(str(tmp_path))
    attach(project, "d", "docker")
    attach(project, "e", "docker")
    create_run_configuration(project, "d2", "d")
    removed = detach(project, "d")
    assert [os.path.basename(path) for path in removed] == ["d.compute", "d.runconfig"]
    assert sorted(os.listdir(project.config_directory)) == ["d2.runconfig", "e.compute", "e.runconfig"]
    with pytest.raises(TargetNotFound, match="to detach"):
        detach(project, "d")


def test_detach_leaves_a_run_configuration_that_runs_elsewhere(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"d.compute": "type: docker\n", "d.runconfig": "Target: local\n"}
    project = project_with(tmp_path, files)
    assert len(detach(project, "d")) == 1
    assert project.resolve("d")[1].name == "local"


def test_a_run_configuration_is_created_for_a_target(tmp_path: Path) -> None:
    project = find_project(str(tmp_path))
    path = create_run_configuration(
        project,
        "train",
        "local",
        {"argument_vector": ["train.py", "0.10"], "EnvironmentVariables": {"A": "no", "B": ""}},
    )
    assert "- train.py\n- '0.10'\n" in Path(path).read_text()
    found = project.run_configuration("train")
    assert found.command() == ("train.py", "0.10")
    assert found.environment_variables == {"A": "no", "B": ""}
    assert found.framework == "Python"
    with pytest.raises(TargetNotFound):
        create_run_configuration(project, "train", "nowhere")


def test_a_run_configuration_is_changed_in_place(tmp_path: Path) -> None:
    text = "# mine\nTarget: local # here\nArgumentVector:\n  - $file   # whatever\n  - 3\nFramework: Python\n"
    project = project_with(tmp_path, {"t.runconfig": text})
    create_run_configuration(project, "t", "local", {"framework": "PySpark", "argument_vector": ["a.py"]})
    found = Path(project.root, "aml_config", "t.runconfig").read_text()
    assert found.startswith('# mine\nTarget: local # here\nArgumentVector: ["a.py"]\nFramework: PySpark\n')
    assert project.run_configuration("t").argument_vector == ("a.py",)


def test_secrets_written_by_attach_come_back(tmp_path: Path) -> None:
    project = find_project(str(tmp_path))
    for number, password in enumerate(["it's: #1", "3.10", "~", "null", "a\tb", "é'\"", "*x", "yes"]):
        name = f"x{number}"
        if "\t" in password:
            with pytest.raises(ConfigError):
                attach(project, name, "remote", address="h", username="u", password=password)
            continue
        attach(project, name, "remote", address="h", username="u", password=password)
        assert project.target(name).password == Secret(password)


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    project = project_with(tmp_path, {})
    shared = tmp_path / "shared.compute"
    shared.write_text("type: docker # ours\n")
    Path(project.root, "aml_config", "d.compute").symlink_to(shared)
    attach(project, "d", "docker")
    assert Path(project.root, "aml_config", "d.compute").is_symlink()
    assert shared.read_text().startswith("type: localdocker # ours\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "# only a comment",
        "---\n",
        "a: |\n  text\n  more\n",
        "a: >-\n  text\n# end\n",
        "a:\n",
        "a: b",
        "{}",
        "{a: 1}",
    ],
)
def test_a_key_is_added_to_whatever_is_there(text: str) -> None:
    changed = set_keys(text, {"type": "docker"}, "x")
    before = yamlfile.load(text.encode(), "x").data or {}
    assert yamlfile.load(changed.encode(), "x").data == {**before, "type": "docker"}
    assert "# only" in changed if "# only" in text else True


@pytest.mark.parametrize("text", ["- a\n", "text", "a: 1\na: 2\n", "a: !x 1\n"])
def test_a_file_that_cannot_be_edited_tells_the_lines_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be changed in place") as caught:
        set_keys(text, {"type": "docker"}, "x")
    assert "type: docker" in caught.value.hint


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 10**6),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=3),
)
BODIES = [
    "# top\ntype: docker  # why\naddress: a\nlist:\n  - 1\n  - 2 # two\nmap:\n  b: c\nlast: x\n# end\n",
    '{"type": "docker", "address": "a",\n "list": [1, 2], "map": {"b": "c"}, "last": "x"}',
    "  type: docker\r\n  address: a\r\n  list: [1,\r\n   2]\r\n  map: {b: c}\r\n  last:",
]


@given(
    st.sampled_from(BODIES),
    st.dictionaries(
        st.sampled_from(["type", "address", "list", "map", "last", "new", "newer"]), VALUES, max_size=4
    ),
)
def test_keys_that_are_set_are_read_back_and_all_others_stay(body: str, values: dict[str, Any]) -> None:
    before = yamlfile.load(body.encode(), "x").data
    try:
        changed = set_keys(body, values, "x")
    except ConfigError:
        if all(str(value).isprintable() for value in values.values()):
            raise
        return
    after = yamlfile.load(changed.encode(), "x").data
    for key in before:
        if key not in values:
            assert after[key] == before[key]
    for key, value in values.items():
        assert _written(after[key]) == _written(value)
    for comment in ("# top", "# end"):
        assert (comment in changed) == (comment in body)


def _written(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return [str(item) for item in value]
    return None if value is None else str(value)


def test_text_of_a_command_line_becomes_flags_lists_and_maps(tmp_path: Path) -> None:
    project = find_project(str(tmp_path))
    compute = attach(project, "d", "docker", sharedVolumes="False", base_docker_image="true")[0]
    assert "sharedVolumes: false\n" in Path(compute).read_text()
    assert "baseDockerImage: 'true'\n" in Path(compute).read_text()
    given = {"ArgumentVector": "[a.py, '1']", "EnvironmentVariables": "{A: no}", "PrepareEnvironment": "true"}
    create_run_configuration(project, "r", "d", given)
    found = project.run_configuration("r")
    assert found.argument_vector == ("a.py", "1")
    assert found.environment_variables == {"A": "no"}
    assert found.prepare_environment
    assert found.warnings == ()
    with pytest.raises(ConfigError):
        attach(project, "d", "docker", sharedVolumes="maybe")
    with pytest.raises(ConfigError):
        create_run_configuration(project, "r", "d", {"ArgumentVector": "[a"})
