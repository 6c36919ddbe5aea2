"""Credentials in dependency files are used where packages are fetched, and are nowhere else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter import experiment
from aml_jupyter.config import find_project
from aml_jupyter.config.private import blank
from aml_jupyter.errors import SnapshotError
from aml_jupyter.snapshot import Rules, Store, git_state
from aml_jupyter.snapshot.passwords import without_credentials
from aml_jupyter.starting import Starter
from tests.base_image import BASE_IMAGE
from tests.configuration import project_with
from tests.engines import Engine
from tests.terminal import aml, data
from tests.wheel_index import PASSWORD, Index, served

SIGNATURE, TOKEN = "s1gned-pl4nted", "t0ken-pl4nted"
FILE = "aml_config/conda_dependencies.yml"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    made = Index()
    made.add("amlpip", "1.0")
    made.add("amlleaf", "1.5")
    with served(made) as running:
        yield running


def planted(index: Index) -> str:
    return f"""channels: [defaults]
# - https://conda.nowhere.example/t/{TOKEN}/chan
dependencies:
- pip:
  - --index-url http://ann:{PASSWORD}@{index.host}/simple
  - amlpip
  - amlleaf @ http://{index.host}/files/amlleaf-1.5-py3-none-any.whl?sig={SIGNATURE}&sv=2020
"""


def held(folder: str) -> list[str]:
    """The files below a folder that hold what was planted."""
    words = [word.encode() for word in (PASSWORD, SIGNATURE, TOKEN)]
    return [
        str(path)
        for path in Path(folder).rglob("*")
        if path.is_file() and any(word in path.read_bytes() for word in words)
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("https://joe:pw@h/simple", "https://h/simple"),
        ("[https://joe:p%40w@h/a,https://x@g/b]", "[https://h/a,https://g/b]"),
        ("https://h/x.whl?sig=abc&sv=2#sha256=1", "https://h/x.whl?sig=null&sv=null#sha256=1"),
        ("[https://h/x?sig=abc,https://j:w@h/y?sig=abc]", "[https://h/x?sig=null,https://h/y?sig=null]"),
        ("https://h/?onlyatoken", "https://h/?null"),
        ("https://h/t/tk-1/chan", "https://h/t/null/chan"),
        ("a @ git+https://ghp_abc@h/r.git@v1", "a @ git+https://h/r.git@v1"),
        ("a @ git+ssh://git@h/r.git", None),
        ("https://${USER}:${TOKEN}@h/t/${TOKEN}/x?token=${TOKEN}", None),
        ("https://h:8443/@scope/a@b?page=2", None),
    ],
)
def test_X3_only_the_credentials_of_an_address_go(before: str, after: str | None) -> None:
    expected = before if after is None else after
    assert blank(before)[0] == expected
    for coding in ("utf-8", "utf-16"):
        cleaned, found = without_credentials(FILE, f"- {before}\r\n".encode(coding))
        assert cleaned == f"- {expected}\r\n".encode(coding)
        assert found == (after is not None)


@pytest.mark.parametrize(
    "text",
    [
        'pip: ["https://joe:pl4nted\\\n  word@h/simple"]\n',
        'pip: ["https:\\/\\/joe:pl4nted@h/simple"]\n',
        "pip: [https://joe:pl4nted@h/simple]\nname: pl4nted\n",
    ],
)
def test_X3_what_may_leave_credentials_behind_is_refused(text: str) -> None:
    with pytest.raises(SnapshotError) as caught:
        without_credentials(FILE, text.encode())
    assert caught.value.code == "snapshot.secret"
    assert "pl4nted" not in str(caught.value)


def test_X3_files_that_run_configurations_name_are_sent_without_credentials(
    home: str, tmp_path: Path
) -> None:
    secret = f"pip: [https://h/x?sig={SIGNATURE}]\n"
    configuration = "Target: local\nCondaDependenciesFile: .\\aml_config\\own.yml\n"
    files = {"a.runconfig": configuration, "broken.runconfig": "- [", "own.yml": secret, "other.yml": secret}
    project = project_with(tmp_path, {**files, "conda_dependencies.yml": secret})
    named = (FILE, "aml_config/own.yml", "aml_config/spark_dependencies.yml")
    assert project.dependency_files() == named
    rules = Rules(dependency_files=project.dependency_files())
    store = Store(home + "/snapshots")
    taken = store.take(project.root, rules)
    assert store.read(taken.id, FILE) == b"pip: [https://h/x?sig=null]\n"
    assert store.read(taken.id, "aml_config/own.yml") == b"pip: [https://h/x?sig=null]\n"
    # nobody says that this one is a dependency file
    assert store.read(taken.id, "aml_config/other.yml") == secret.encode()
    assert [text for text in taken.warnings if "credentials" in text] == [
        f"{path}: credentials in addresses left out of the snapshot" for path in named[:2]
    ]
    assert store.take(project.root, rules) == taken
    # a file that is named from now on is not taken from memory
    (Path(project.root) / "aml_config/b.runconfig").write_text(
        "Target: local\nSparkDependenciesFile: aml_config/other.yml\n"
    )
    again = store.take(project.root, Rules(dependency_files=project.dependency_files()))
    assert store.read(again.id, "aml_config/other.yml") == b"pip: [https://h/x?sig=null]\n"


def test_X3_a_run_uses_the_credentials_and_nothing_keeps_them(
    index: Index, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_with(
        tmp_path,
        {
            "conda_dependencies.yml": planted(index),
            "local.compute": "type: local\nuserManagedEnvironment: false\n",
            "spark_dependencies.yml": f"repositories: ['https://ann:{PASSWORD}@nexus.example/r']\n",
        },
    )
    (Path(project.root) / "s.py").write_text(f"import amlpip, amlleaf\nprint(open('{FILE}').read())\n")
    monkeypatch.chdir(project.root)
    done = aml("run", "local", "s.py")
    assert done.returncode == 0, done.stderr
    assert "?sig=null&sv=null" in done.stdout
    assert f"{FILE}: credentials in addresses left out of the snapshot" in done.stderr
    assert any(SIGNATURE in path for path in index.asked)
    assert held(home) == []
    # the code of that run has no credentials: they come from the project once more
    done = aml("run", "local", "--from-run", "@last", "s.py", "--relock")
    assert done.returncode == 0, done.stderr
    assert held(home) == []


def test_X3_a_container_has_no_credentials(
    index: Index, engine: Engine, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    compute = f"type: localdocker\nbaseDockerImage: {BASE_IMAGE}\nsharedVolumes: false\n"
    project = project_with(tmp_path, {"conda_dependencies.yml": planted(index), "docker.compute": compute})
    words = [word.encode().hex() for word in (PASSWORD, SIGNATURE, TOKEN)]
    (Path(project.root) / "s.py").write_text(
        "import amlpip, amlleaf, os\n"
        f"words = [bytes.fromhex(word) for word in {words!r}]\n"
        "for top in ('/azureml-run', '/opt', '/run', '/tmp', '/root', '/var', '/etc'):\n"
        "    for folder, _, names in os.walk(top):\n"
        "        for name in names:\n"
        "            path = os.path.join(folder, name)\n"
        "            if os.path.isfile(path) and any(w in open(path, 'rb').read() for w in words):\n"
        "                print('HELD', path)\n"
        "print('looked')\n"
    )
    monkeypatch.chdir(project.root)
    done = aml("run", "docker", "s.py")
    assert done.returncode == 0, done.stderr
    assert "looked" in done.stdout
    assert "HELD" not in done.stdout
    assert held(home) == []
    os.unlink(f"{project.root}/{FILE}")
    gone = data("run", "docker", "--from-run", "@last", "s.py", status=2)["error"]
    assert gone["code"] == "environment.file_gone"
    assert FILE in gone["message"]
    image = data("show", "@last")["environment"]["image"]
    history = engine.docker("image", "history", "--no-trunc", image) + engine.docker("inspect", image)
    assert not any(word in history for word in (PASSWORD, SIGNATURE, TOKEN))
    engine.docker("image", "rm", "--force", image)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "docker"])
def test_X3_credentials_reach_the_supervisor_though_the_file_is_gone_and_the_run_has_none(
    kind: str, engine: Engine, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = {
        "local": "type: local\nuserManagedEnvironment: false\n",
        "docker": f"type: localdocker\nbaseDockerImage: {BASE_IMAGE}\n",
    }
    dependencies = "dependencies:\n- pip:\n  - --index-url {}\n  - amlpip\n"
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    with served(Index(password=True)) as index:
        index.add("amlpip", "1.0")
        written = {"conda_dependencies.yml": dependencies.format(index.url), "box.compute": compute[kind]}
        root = Path(project_with(tmp_path, {**written}).root)
        source = "import amlpip, os\nprint('has', [name for name in os.environ if 'CREDENTIALS' in name])\n"
        (root / "s.py").write_text(source)

        class Late(Starter):
            def go(self, *given: Any) -> None:
                (root / FILE).unlink()
                super().go(*given)

        request = experiment.Request(script="s.py", target="box")
        directory = experiment.submit(request, find_project(str(root)), Late)
        record = experiment.wait(directory, 120)
    assert record.status == "Completed", Path(directory.control_log).read_text()
    assert Path(directory.log).read_text() == "has []\n"
    assert held(home) == []
    if kind == "docker":
        engine.docker("image", "rm", "--force", record.environment["image"])


def test_X3_the_uncommitted_changes_of_a_checkout_hold_no_credentials(tmp_path: Path) -> None:
    root = Path(project_with(tmp_path, {"conda_dependencies.yml": "dependencies: []\n"}).root)
    (root / "a.py").write_text("1\n")

    def git(*words: str) -> None:
        command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b.example", *words]
        subprocess.run(command, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    (root / "a.py").write_text("2\n")
    (root / FILE).write_text("dependencies: [numpy]\n")
    files = find_project(str(root)).dependency_files()
    state = git_state(str(root), dependency_files=files)
    assert state is not None
    assert b"numpy" in state.diff
    (root / FILE).write_text(f"channels: [https://h/t/{TOKEN}/c]\n")
    state = git_state(str(root), dependency_files=files)
    assert state is not None
    assert b"a.py" in state.diff
    assert TOKEN.encode() not in state.diff
