"""Settings of a person and of a project: set, read, refused."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from aml_jupyter.config import images, settings
from aml_jupyter.errors import AmlError, ConfigError, FormatError
from tests.terminal import aml, data

KEY = "image.microsoft/mmlspark:plus-0.9.9"


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "aml_config").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_a_setting_of_the_project_wins_over_that_of_the_person(project: Path, home: str) -> None:
    root = str(project)
    assert settings.value(root, KEY) is None
    assert settings.mapped_image(root, "microsoft/mmlspark:plus-0.9.9") == "microsoft/mmlspark:plus-0.9.9"
    assert settings.put(None, KEY, "python:3.11-slim") == f"{home}/settings.json"
    assert settings.value(root, KEY) == "python:3.11-slim"
    assert settings.put(root, KEY, "python:3.12") == f"{root}/aml_config/settings.json"
    assert settings.mapped_image(root, "microsoft/mmlspark:plus-0.9.9") == "python:3.12"
    assert settings.mapped_image(None, "microsoft/mmlspark:plus-0.9.9") == "python:3.11-slim"
    found = settings.settings(root)
    assert [(one.level, one.value, one.effective) for one in found] == [
        ("project", "python:3.12", True),
        ("user", "python:3.11-slim", False),
    ]
    assert settings.remove(root, KEY)
    assert not settings.remove(root, KEY)
    assert settings.value(root, KEY) == "python:3.11-slim"
    assert oct(os.stat(f"{home}/settings.json").st_mode & 0o777) == "0o600"


@pytest.mark.parametrize("asked", ["x", "x:latest", "library/x", "docker.io/library/x", "docker.io/x:latest"])
def test_every_spelling_of_an_image_is_mapped(project: Path, asked: str) -> None:
    settings.put(None, "image.docker.io/library/x", "y:1")
    assert settings.mapped_image(str(project), asked) == "y:1"
    assert settings.mapped_image(str(project), "x:1") == "x:1"
    assert settings.mapped_image(str(project), "host:5000/library/x") == "host:5000/library/x"


def test_a_mapping_is_taken_once_and_not_followed(project: Path) -> None:
    settings.put(None, "image.a", "b")
    settings.put(None, "image.b", "a")
    assert settings.mapped_image(str(project), "a") == "b"


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("python:3.11-slim", True),
        ("microsoft/mmlspark:plus-0.9.9", True),
        ("localhost/x", True),
        ("Host.example:5000/a/b__c:T_1.x", True),
        ("x@sha256:" + "a" * 64, True),
        ("sha256:" + "0" * 64, True),
        ("", False),
        ("-v/:/host", False),
        ("a b", False),
        ("a//b", False),
        ("Python:3", False),
        ("x:", False),
        ("x@sha256:12", False),
        ("../x", False),
        ("x\n", False),
        ("a" * 600, False),
    ],
)
def test_names_of_images_are_told_from_others(name: str, fits: bool) -> None:
    assert (images.problem(name) == "") is fits


def test_an_unknown_key_names_the_nearest(project: Path) -> None:
    with pytest.raises(ConfigError, match="no setting") as caught:
        settings.put(None, "imgae.x", "y")
    assert caught.value.code == "config.unknown_key"
    assert "Did you mean image.NAME?" in caught.value.hint
    for key in ("", "image", "image.", "image.-x", "image.A B"):
        with pytest.raises(ConfigError):
            settings.value(None, key)


@pytest.mark.parametrize(
    "text",
    [
        "https://me:hush@host/x",
        "password=hush",
        "AccountKey=hush",
        "-----BEGIN RSA PRIVATE KEY-----",
        "ghp_" + "a" * 36,
        "AKIA" + "A" * 16,
    ],
)
def test_a_value_that_looks_like_a_secret_is_refused_and_not_repeated(project: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.put(None, KEY, text)
    assert caught.value.code == "config.secret"
    assert text not in str(caught.value)
    assert settings.settings(None) == []


@pytest.mark.parametrize("text", ["", "a b", "A", "x\ny", "x" * 2000])
def test_a_value_that_is_no_image_is_refused(project: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        settings.put(None, KEY, text)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"settings": 3}', b'{"settings": {"image.x": 3}}', b"[" * 100_000,
     b'{"settings": {"image.x": "--privileged"}}', b" " * (2 << 20)],
)  # fmt: skip
def test_a_damaged_file_is_an_error_that_names_it(project: Path, content: bytes) -> None:
    path = project / "aml_config" / "settings.json"
    path.write_bytes(content)
    calls: list[Callable[[], object]] = [
        lambda: settings.value(str(project), KEY),
        lambda: settings.mapped_image(str(project), "x"),
        lambda: settings.put(str(project), KEY, "x"),
    ]
    for call in calls:
        with pytest.raises(AmlError, match=r"settings\.json"):
            call()
    assert path.read_bytes() == content


def test_a_file_that_is_no_file_is_never_waited_for(project: Path) -> None:
    os.mkfifo(project / "aml_config" / "settings.json")
    with pytest.raises(ConfigError, match="FIFO"):
        settings.value(str(project), KEY)


def test_a_file_of_a_newer_version_is_read_and_not_written(project: Path) -> None:
    path = project / "aml_config" / "settings.json"
    path.write_text(json.dumps({"format": 2, "settings": {KEY: "x", "colour": "red"}, "more": []}))
    assert settings.value(str(project), KEY) == "x"
    with pytest.raises(FormatError):
        settings.put(str(project), KEY, "y")


def test_settings_made_at_the_same_time_are_all_kept(project: Path) -> None:
    threads = [threading.Thread(target=settings.put, args=(None, f"image.x{n}", "y:1")) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(settings.settings(None)) == 20


def test_the_verb_sets_gets_lists_and_forgets(project: Path, home: str) -> None:
    assert data("config", "set", KEY, "python:3.11-slim")["file"] == f"{home}/settings.json"
    assert data("config", "set", KEY, "python:3.12", "--project-level")["level"] == "project"
    assert aml("config", "get", KEY).stdout == "python:3.12\n"
    assert [one["level"] for one in data("config", "list")] == ["project", "user"]
    assert "overridden" in aml("config", "list").stdout
    assert aml("config", "unset", KEY, "--project-level").returncode == 0
    assert aml("config", "get", KEY).stdout == "python:3.11-slim\n"
    assert data("config", "unset", KEY)["removed"]
    assert data("config", "get", KEY, status=2)["error"]["code"] == "config.not_set"
    assert data("config", "unset", KEY, status=2)["error"]["code"] == "config.not_set"
    assert data("config", "set", "nosuch", "x", status=2)["error"]["code"] == "config.unknown_key"
    assert data("config", "list") == []
    # without an action it shows where everything is, as before
    assert data("config")["AML_HOME"] == home
    other = project.parent / "other"
    other.mkdir()
    assert data("config", "--project", str(other))["project"] == str(other)
    assert data("config", "list", "--project", str(other)) == []
