"""The user's settings of uv and pip, as a build in a container is told of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aml_jupyter.environment import indexes
from aml_jupyter.environment.indexes import Settings
from aml_jupyter.environment.lock import Lock, Package

FOLDER = "/run/there"


def lock(*packages: Package, index: str | None = None, extra: tuple[str, ...] = ()) -> Lock:
    return Lock(
        platform="linux-64",
        python="3.11",
        owns_python=False,
        packages=packages,
        request="",
        index=index,
        extra_indexes=extra,
    )


@pytest.fixture(autouse=True)
def _own_home(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "NETRC"):
        monkeypatch.delenv(name, raising=False)


NOTHING = {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}


def settings(
    *, of: Lock | None = None, credentials: dict[str, str] | None = None, **environ: str
) -> Settings:
    """The settings of a user whose environment has just these variables, and no system-wide files."""
    return indexes.of_user(of or lock(), credentials or {}, {**NOTHING, **environ})


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_a_user_without_settings_takes_the_public_index() -> None:
    found = settings()
    assert (found.default, found.extra, found.find_links, found.no_index) == (None, (), (), False)
    told = indexes.for_uv(found, FOLDER)
    assert "UV_DEFAULT_INDEX" not in told
    assert told["UV_NO_CONFIG"] == "1"


def test_the_settings_of_pip_become_those_of_uv() -> None:
    path = write(
        Path(os.environ["HOME"], "pip.conf"),
        "[global]\nindex-url = https://me:word@index.example/simple\ntimeout = 77\n"
        "[install]\nextra-index-url =\n    https://one.example/simple\n    https://two.example/simple\n"
        "trusted-host = index.example\nproxy = http://proxy.example:3128\n",
    )
    told = indexes.for_uv(settings(PIP_CONFIG_FILE=path), FOLDER)
    assert told["UV_DEFAULT_INDEX"] == "https://me:word@index.example/simple"
    assert told["UV_INDEX"] == "https://one.example/simple https://two.example/simple"
    assert (told["UV_INSECURE_HOST"], told["UV_HTTP_TIMEOUT"]) == ("index.example", "77")
    assert (told["http_proxy"], told["https_proxy"]) == ("http://proxy.example:3128",) * 2


def test_variables_of_pip_come_before_its_files_and_uv_before_pip() -> None:
    path = write(Path(os.environ["HOME"], "pip.conf"), "[global]\nindex-url = https://file.example\n")
    found = settings(PIP_CONFIG_FILE=path, PIP_INDEX_URL="https://variable.example")
    assert found.default == "https://variable.example"
    found = settings(PIP_INDEX_URL="https://pip.example", UV_DEFAULT_INDEX="https://uv.example")
    assert (found.default, found.extra) == ("https://uv.example", ())


def test_a_configuration_of_uv_is_read_with_the_logins_of_its_named_indexes() -> None:
    path = write(
        Path(os.environ["HOME"], "uv.toml"),
        'extra-index-url = ["https://more.example/simple"]\n'
        '[[index]]\nname = "corp-index"\nurl = "https://corp.example/simple"\ndefault = true\n'
        '[[index]]\nurl = "https://other.example/simple"\n',
    )
    found = settings(
        UV_NO_CONFIG="",
        UV_CONFIG_FILE=path,
        UV_INDEX_CORP_INDEX_USERNAME="me",
        UV_INDEX_CORP_INDEX_PASSWORD="a/b",
    )
    assert found.default == "https://me:a%2Fb@corp.example/simple"
    assert set(found.extra) == {"https://other.example/simple", "https://more.example/simple"}


def test_the_indexes_of_a_lock_get_the_logins_of_the_moment() -> None:
    found = settings(
        of=lock(index="https://corp.example/simple", extra=("https://more.example/simple",)),
        credentials={"https://more.example": "you:other"},
        UV_DEFAULT_INDEX="https://me:word@corp.example/simple",
    )
    assert found.default == "https://me:word@corp.example/simple"
    assert found.extra == ("https://you:other@more.example/simple",)


def test_folders_of_this_machine_are_not_named_to_a_container(tmp_path: Path) -> None:
    found = settings(
        PIP_INDEX_URL=f"file://{tmp_path}/simple",
        PIP_EXTRA_INDEX_URL="https://one.example/simple",
        PIP_FIND_LINKS=f"{tmp_path} https://links.example/",
    )
    assert (found.default, found.extra) == ("https://one.example/simple", ())
    assert found.find_links == ("https://links.example/",)
    assert settings(PIP_INDEX_URL=f"file://{tmp_path}/simple").no_index


def test_only_the_hosts_that_are_asked_get_their_line_of_netrc() -> None:
    write(
        Path(os.environ["HOME"], ".netrc"),
        "machine asked.example login me password one\nmachine other.example login me password two\n",
    )
    found = settings(UV_DEFAULT_INDEX="https://asked.example/simple")
    assert found.netrc == "machine asked.example login me password one\n"
    assert indexes.for_pip(found, FOLDER)["NETRC"] == f"{FOLDER}/netrc"
    assert indexes.files(found)["netrc"] == b"machine asked.example login me password one\n"
    assert settings(UV_DEFAULT_INDEX="https://nobody.example/simple").netrc is None


def test_certificates_are_brought_and_named_by_every_name(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle.pem", "certificates")
    found = settings(PIP_CERT=bundle)
    assert indexes.files(found)["certificates.pem"] == b"certificates"
    for told in (indexes.for_uv(found, FOLDER), indexes.for_pip(found, FOLDER)):
        assert told["SSL_CERT_FILE"] == told["REQUESTS_CA_BUNDLE"] == f"{FOLDER}/certificates.pem"


@pytest.mark.parametrize(
    ("environ", "answer"),
    [
        ({"UV_DEFAULT_INDEX": "http://localhost:3141/root/pypi"}, True),
        ({"HTTPS_PROXY": "http://127.0.0.1:3128"}, True),
        ({"HTTPS_PROXY": "proxy.example:3128", "NO_PROXY": "localhost,127.0.0.1"}, False),
        ({"UV_INDEX": "https://one.example/localhost"}, False),
    ],
)
def test_what_answers_on_this_machine_alone_is_seen(environ: dict[str, str], answer: bool) -> None:
    assert indexes.is_loopback(indexes.of_user(lock(), {}, {**NOTHING, **environ})) is answer


def test_no_line_of_output_shows_a_password() -> None:
    write(Path(os.environ["HOME"], ".netrc"), "machine one.example login me password secret-one\n")
    found = settings(
        UV_DEFAULT_INDEX="https://me:secret%40two@one.example/simple",
        HTTP_PROXY="http://me:secret-three@proxy.example:3128",
    )
    line = "secret-one secret@two secret%40two secret-three https://you:unknown@two.example/x"
    assert indexes.hidden(found, line) == "**** **** **** **** https://two.example/x"
