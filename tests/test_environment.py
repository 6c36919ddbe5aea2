"""Environments: conda and Spark dependency files with the mistakes of real ones, and their digest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aml_jupyter.config import RunConfiguration
from aml_jupyter.environment import Conda, Environment, Spark, load
from aml_jupyter.errors import ConfigError
from tests.configuration import project_with

pytestmark = pytest.mark.usefixtures("home")

RUN = RunConfiguration(name="d", target="docker", framework="PySpark")
CONDA = """\
# Conda environment specification
name: project_environment
dependencies:
  # The python interpreter version.
  - python=3.5.2
  - scikit-learn
  - numpy >=1.13

  - pip:
    # The API for Azure Machine Learning Model Management Service.
    - azure-ml-api-sdk==0.1.0a10
    - https://azuremldownloads.example/wheels/azureml.assets-1.0.0-py3-none-any.whl
    - --extra-index-url https://index.example/simple
"""
SPARK = """\
configuration:
  "spark.driver.cores": "8"
  "spark.executor.instances":\t"2"\t# a tab
  "spark.driver.maxResultSize": 4g
  "spark.dynamicAllocation.enabled": false
  "spark.network.timeout": 3600
repositories:
  - "https://mmlspark.azureedge.net/maven"
packages:
  - group: "com.microsoft.ml.spark"
    artifact: "mmlspark_2.11"
    version: "0.7.91"
  - {group: org.example, artifact: two, version: 2.10}
version: 2
"""


def loaded(tmp_path: Path, conda: str | bytes = "", spark: str | bytes = "") -> Environment:
    files = {"conda_dependencies.yml": conda, "spark_dependencies.yml": spark}
    return load(project_with(tmp_path, files), RUN)


def conda_of(tmp_path: Path, *items: str) -> tuple[Conda, tuple[str, ...]]:
    environment = loaded(tmp_path, "dependencies:\n" + "".join(f"  {item}\n" for item in items))
    assert environment.conda is not None
    prefix = "aml_config/conda_dependencies.yml:"
    return environment.conda, tuple(text.removeprefix(prefix) for text in environment.warnings)


def test_a_conda_environment_is_read(tmp_path: Path) -> None:
    found = loaded(tmp_path, CONDA)
    assert found.warnings == ()
    assert found.conda == Conda(
        name="project_environment",
        channels=("defaults",),
        dependencies=("python=3.5.2", "scikit-learn", "numpy>=1.13"),
        pip=(
            "azure-ml-api-sdk==0.1.0a10",
            "https://azuremldownloads.example/wheels/azureml.assets-1.0.0-py3-none-any.whl",
            "--extra-index-url https://index.example/simple",
        ),
        python="3.5.2",
        file=str(tmp_path / "iris" / "aml_config" / "conda_dependencies.yml"),
    )


def test_spark_settings_are_read_and_become_arguments_of_spark_submit(tmp_path: Path) -> None:
    found = loaded(tmp_path, CONDA, SPARK)
    assert found.warnings == ()
    assert found.spark is not None
    assert found.spark.configuration == {
        "spark.driver.cores": "8",
        "spark.executor.instances": "2",
        "spark.driver.maxResultSize": "4g",
        "spark.dynamicAllocation.enabled": "false",
        "spark.network.timeout": "3600",
    }
    assert found.spark.repositories == ("https://mmlspark.azureedge.net/maven",)
    assert found.spark.packages == ("com.microsoft.ml.spark:mmlspark_2.11:0.7.91", "org.example:two:2.10")


@pytest.mark.parametrize(
    "text", ["", "# all comments\n", "configuration: null\n", "configuration:\n  # a: b\n", "---\n"]
)
def test_settings_that_are_all_comments_ask_for_nothing(tmp_path: Path, text: str) -> None:
    found = loaded(tmp_path, text.replace("configuration", "dependencies"), text)
    assert found.conda is not None
    assert found.spark is not None
    assert found.conda.dependencies == ()
    assert (found.spark.configuration, found.spark.repositories, found.spark.packages) == ({}, (), ())


def test_absent_files_of_the_template_are_no_part(tmp_path: Path) -> None:
    assert load(project_with(tmp_path, {}), RUN) == Environment()


def test_an_absent_file_that_is_named_is_an_error(tmp_path: Path) -> None:
    project = project_with(tmp_path, {})
    with pytest.raises(ConfigError, match=r"Config/conda\.yml: no such file") as caught:
        load(project, RUN.replace(conda_dependencies_file="Config/conda.yml"))
    assert "CondaDependenciesFile" in caught.value.hint


def test_a_file_outside_aml_config_is_read_also_with_backslashes(tmp_path: Path) -> None:
    project = project_with(tmp_path, {})
    (tmp_path / "iris" / "Config").mkdir()
    (tmp_path / "iris" / "Config" / "c.yml").write_text(CONDA)
    found = load(project, RUN.replace(conda_dependencies_file=".\\Config\\c.yml"))
    assert found.conda is not None
    assert found.conda.python == "3.5.2"


@pytest.mark.parametrize(
    "name", ["../outside.yml", "/etc/passwd", "aml_config/link.yml", "linked/outside.yml", "aml_config"]
)
def test_a_file_outside_the_project_is_not_read(tmp_path: Path, name: str) -> None:
    project = project_with(tmp_path, {})
    (tmp_path / "outside.yml").write_text("secret: 1\n")
    os.symlink("../../outside.yml", tmp_path / "iris" / "aml_config" / "link.yml")
    os.symlink("..", tmp_path / "iris" / "linked")
    with pytest.raises(ConfigError) as caught:
        load(project, RUN.replace(conda_dependencies_file=name))
    assert "secret" not in str(caught.value)


def test_C10_a_fifo_is_not_opened(tmp_path: Path) -> None:
    project = project_with(tmp_path, {})
    os.mkfifo(f"{project.root}/aml_config/conda_dependencies.yml")
    with pytest.raises(ConfigError):
        load(project, RUN)


def test_spark_settings_of_a_python_run_are_not_read(tmp_path: Path) -> None:
    project = project_with(tmp_path, {"spark_dependencies.yml": "[ nonsense"})
    assert load(project, RUN.replace(framework="Python")).spark is None


# --- the mistakes of real files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["io", "os", "json", "pickle", "datetime"])
def test_modules_of_python_are_left_out_and_told(tmp_path: Path, name: str) -> None:
    conda, warnings = conda_of(tmp_path, "- numpy", f"- {name}", "- pip:", f"  - {name}", "  - requests")
    assert (conda.dependencies, conda.pip) == (("numpy",), ("requests",))
    assert warnings == (
        f"3: '{name}' is a module of Python itself, not a package; left out",
        f"5: '{name}' is a module of Python itself, not a package; left out",
    )


def test_packages_that_are_also_modules_stay(tmp_path: Path) -> None:
    conda, warnings = conda_of(tmp_path, "- readline", "- zlib")
    assert (conda.dependencies, warnings) == (("readline", "zlib"), ())


def test_a_pip_item_written_as_a_package_is_understood(tmp_path: Path) -> None:
    conda, warnings = conda_of(tmp_path, "- pip - azure-ml-api-sdk")
    assert (conda.dependencies, conda.pip) == ((), ("azure-ml-api-sdk",))
    assert warnings == ("2: 'pip - azure-ml-api-sdk' is read as 'azure-ml-api-sdk' of the pip section",)


def test_a_single_equals_sign_in_the_pip_section_is_understood(tmp_path: Path) -> None:
    conda, warnings = conda_of(tmp_path, "- pip:", "  - keras=2.0.8", "  - a[b] = 1")
    assert conda.pip == ("keras==2.0.8", "a[b]==1")
    assert warnings[0] == "3: pip writes two ==: read as keras==2.0.8"


def test_a_version_with_a_hash_sign_is_cut_there(tmp_path: Path) -> None:
    conda, warnings = conda_of(tmp_path, "- pip:", "  - azure-ml-api-sdk==0.1.0a11#0.1.0a9")
    assert conda.pip == ("azure-ml-api-sdk==0.1.0a11",)
    assert warnings == ("3: what follows # is left out: read as 'azure-ml-api-sdk==0.1.0a11'",)


def test_an_option_without_its_value_takes_the_address_that_follows(tmp_path: Path) -> None:
    conda, warnings = conda_of(
        tmp_path, "- pip:", "  - --extra-index-url", "  - https://i.example/simple", "  - a", "  - --pre"
    )
    assert conda.pip == ("--extra-index-url https://i.example/simple", "a", "--pre")
    assert len(warnings) == 1
    alone, _ = conda_of(tmp_path, "- pip:", "  - --extra-index-url", "  - a")
    assert alone.pip == ("a",)


def test_addresses_and_options_in_the_conda_list_go_to_pip(tmp_path: Path) -> None:
    conda, warnings = conda_of(
        tmp_path,
        "- https://h.example/x-1.0-py3-none-any.whl",
        "- --extra-index-url https://i.example",
        "- https://repo.example/linux-64/x-1.tar.bz2",
        "- conda-forge::numpy=1.13",
    )
    assert conda.pip == ("https://h.example/x-1.0-py3-none-any.whl", "--extra-index-url https://i.example")
    assert conda.dependencies == ("https://repo.example/linux-64/x-1.tar.bz2", "conda-forge::numpy=1.13")
    assert len(warnings) == 2


def test_a_local_wheel_and_requirements_with_markers_stay(tmp_path: Path) -> None:
    conda, warnings = conda_of(
        tmp_path,
        "- pip:",
        "  - wheels/my-1.0.whl",
        "  - 'a[x] >= 1, < 2; python_version < \"3\"'",
        "  - b ~= 2",
    )
    assert conda.pip == ("wheels/my-1.0.whl", 'a[x]>=1,<2 ; python_version < "3"', "b~=2")
    assert warnings == ()


@pytest.mark.parametrize(
    ("pin", "python"),
    [
        ("python=3.5.2", "3.5.2"),
        ("python==3.6", "3.6"),
        ("python >=3.6,<3.8", ">=3.6,<3.8"),
        ("python", None),
        ("python=3.10", "3.10"),
        ("pythonnet=1", None),
        ("python 3.6", "3.6"),
    ],
)
def test_the_version_of_python_is_known(tmp_path: Path, pin: str, python: str | None) -> None:
    assert conda_of(tmp_path, f"- {pin}")[0].python == python


def test_unknown_keys_are_told_with_the_nearest(tmp_path: Path) -> None:
    found = loaded(tmp_path, "dependences:\n  - numpy\nchannels:\n")
    told = "aml_config/conda_dependencies.yml:1: unknown key 'dependences'; did you mean dependencies?"
    assert found.warnings == (told,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dependencies:\n  - numpy\n  - pip:\n   - a\n", r"\.yml:4: this does not belong here"),
        ("dependencies:\n\t- numpy\n", r"\.yml:2: a tab where blanks must be"),
        ("dependencies:\n  - pip:\n    - a\n   - b\n", r"\.yml:4: this does not belong here"),
        ("dependencies: numpy\n", r"\.yml:1: dependencies: must be a list"),
        ("dependencies:\n  - [a]\n", r"\.yml:2: dependencies\[0\]: must be a package"),
        ("dependencies:\n  - azure: 1\n", r"\.yml:2: dependencies\[0\].azure: only `pip:`"),
        ("dependencies:\n  - pip: {a: b}\n", r"dependencies\[0\].pip: must be a list"),
        ("dependencies:\n  - pip:\n    - {a: b}\n", r"dependencies\[0\].pip\[0\]: must be one requirement"),
        ("dependencies:\n  - 'a b c; rm'\n  - '(x)'\n", r"'\(x\)' is no package"),
        ("numpy\n", r"the file is one value, not conda dependencies"),
        ("- numpy\n", r"the file is a list, not conda dependencies"),
        (SPARK.replace("version: 2\n", ""), r"\.yml:1: configuration: this file holds Spark settings"),
    ],
)
def test_what_has_no_meaning_is_an_error_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CONDA, r"spark_dependencies\.yml:2: name: this file holds a conda environment, not Spark settings"),
        ('configuration: {}\n  "spark.a": 1\n', r"\.yml:2: "),
        ("configuration:\n  a: [1]\n", r"configuration.a: must be one value"),
        ("configuration: [a]\n", r"configuration: must be a map"),
        (
            "packages:\n  - group: g\n    artifact: a\n",
            r"\.yml:2: packages\[0\]: must name group, artifact and version",
        ),
        ("packages:\n  - {group: 'g,x', artifact: a, version: 1}\n", r"packages\[0\]: must name"),
        ("repositories:\n  - 'http://a http://b'\n", r"repositories\[0\]: must be one address"),
    ],
)
def test_spark_settings_without_meaning_are_an_error_with_their_place(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        loaded(tmp_path, "", text)


# --- the digest ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip(),
        lambda text: "\n".join(line for line in text.splitlines() if "#" not in line),
        lambda text: text.replace("project_environment", "other"),
        lambda text: text.replace("- scikit-learn", '- "Scikit-Learn"'),
        lambda text: text.replace("numpy >=1.13", "numpy>=1.13"),
        lambda text: text.replace("  - scikit-learn\n", "").replace("  - pip:", "  - scikit-learn\n  - pip:"),
        lambda text: "channels: [defaults]\n" + text,
    ],
)
def test_writing_the_same_otherwise_keeps_the_digest(tmp_path: Path, change: object) -> None:
    assert callable(change)
    assert loaded(tmp_path / "a", CONDA).digest == loaded(tmp_path / "b", change(CONDA)).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("python=3.5.2", "python=3.6.2"),
        ("scikit-learn", "scikit-image"),
        ("0.1.0a10", "0.1.0a11"),
        ("name:", "channels: [conda-forge, defaults]\nname:"),
        ("index.example", "other.example"),
    ],
)
def test_asking_for_something_else_changes_the_digest(tmp_path: Path, old: str, new: str) -> None:
    assert loaded(tmp_path / "a", CONDA).digest != loaded(tmp_path / "b", CONDA.replace(old, new)).digest


def test_spark_settings_are_part_of_the_digest(tmp_path: Path) -> None:
    one = loaded(tmp_path / "a", CONDA, SPARK)
    two = loaded(tmp_path / "b", CONDA, SPARK.replace("4g", "8g"))
    assert one.digest != two.digest
    assert one.conda is not None
    assert two.conda is not None
    assert one.conda.digest == two.conda.digest
    assert Spark().digest == Spark(file="x").digest


def test_credentials_in_an_address_are_never_kept_or_shown(tmp_path: Path, home: str) -> None:
    text = "dependencies:\n  - pip:\n    - --extra-index-url https://ann:pl4nted@index.example/simple\n"
    assert loaded(tmp_path, text).conda is not None
    kept = [path.read_bytes() for path in Path(home).rglob("*") if path.is_file()]
    assert not any(b"pl4nted" in content for content in kept)
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text + "    - [https://ann:pl4nted@index.example]\n")
    assert "pl4nted" not in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text("abz=<>!~.0123-_#/:;,[]@ ()\t'\"", min_size=1, max_size=16)
        | st.sampled_from(["pip - x", "--pre", "python=3", "os", "https://u:p@h/x.whl"]),
        max_size=6,
    ),
    st.booleans(),
)
def test_whatever_the_packages_the_answer_is_an_environment_or_a_config_error(
    tmp_path: Path, items: list[str], in_pip: bool
) -> None:
    import json

    listed: object = [{"pip": items}] if in_pip else items
    try:
        found = loaded(tmp_path, json.dumps({"dependencies": listed}))
    except ConfigError:
        return
    assert found.conda is not None
    assert len(found.digest) == 64
