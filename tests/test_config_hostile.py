"""Configuration files that attack, and files mutated at random: a ConfigError at worst, and soon."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aml_jupyter.config import Secret, dependencies, find_project, parse, sdkv1, yamlfile
from aml_jupyter.config.identity import name_problem
from aml_jupyter.config.models import ComputeFile, RunConfigurationFile, known_keys
from aml_jupyter.errors import ConfigError
from tests.configuration import project_with
from tests.test_config import DOCKER, JSON, LOCAL, PRETTY_JSON, REMOTE, RUN

pytestmark = pytest.mark.usefixtures("home")

FIXTURE_IS_SAFE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def _fails(text: str | bytes, kind: str = "compute") -> ConfigError:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(ConfigError) as caught:
        (parse.compute if kind == "compute" else parse.run_configuration)(data, "x")
    return caught.value


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "!!python/name:os.system",
        "!!python/object/new:subprocess.Popen [['touch', '{marker}']]",
        "!local x",
        "!!str 3.10",
        "!!binary aGk=",
    ],
)
def test_C1_tags_are_refused_and_nothing_is_run(tmp_path: Path, value: str) -> None:
    marker = tmp_path / "marker"
    error = _fails(f"type: local\npythonLocation: {value.format(marker=marker)}\n")
    assert error.code == "config.invalid"
    assert "x:2: " in error.message
    assert "tags" in error.message
    assert not marker.exists()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(12)
)

_CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from aml_jupyter.config import parse
from aml_jupyter.errors import ConfigError
try:
    parse.compute(sys.stdin.buffer.read(), "x")
except ConfigError as error:
    print(error.code)
"""


def _in_a_child(data: bytes) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=data,
        capture_output=True,
        timeout=60,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def test_C2_an_alias_bomb_is_refused_within_a_gigabyte() -> None:
    assert _in_a_child(BOMB.encode()) == "config.too_big"


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "&a {b: *a}\n", "a: &a {b: {c: [*a]}}\n"])
def test_C2_an_alias_of_itself_is_refused(text: str) -> None:
    assert "holds itself" in _fails(text).message


def test_C2_a_few_aliases_are_read() -> None:
    text = "address: &host vm.example.org\ntype: remote\nusername: &u ann\npassword: *u\nclusterName: *host\n"
    assert parse.compute(text.encode(), "x").fields["options"] == {"clusterName": "vm.example.org"}


def test_C2_an_alias_to_nothing_does_not_show_its_name() -> None:
    error = _fails("type: remote\npassword: *hunter2\n")
    assert "hunter2" not in str(error)
    assert "quotes" in error.hint


@pytest.mark.parametrize(
    "data",
    [b"[" * 200_000, b"{a: " * 100_000, b"- " * 100_000, b"? " * 100_000, b"[" * 65 + b"]" * 65],
    ids=["lists", "maps", "dashes", "keys", "65 lists"],
)
def test_C3_deep_nesting_is_refused_and_the_process_lives(data: bytes) -> None:
    assert _in_a_child(data) == "config.too_big"


def test_C3_a_file_over_one_megabyte_is_refused(tmp_path: Path) -> None:
    project = project_with(tmp_path, {"x.compute": DOCKER + "#" * (1 << 20)})
    with pytest.raises(ConfigError) as caught:
        project.target("x")
    assert caught.value.code == "config.too_big"


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        b"a: [" + b"x, " * 349_000 + b"]",
        b"".join(b"k%d: v\n" % number for number in range(70_000)),
        b"a: " + b"x" * 1_048_000,
        b"a: '" + b"''" * 500_000 + b"'",
        b"{" + b'"a' * 300_000,
        b"#\n" * 500_000,
        b"\t" * 1_000_000,
        b"? " + b"a " * 500_000,
    ],
)
@pytest.mark.timeout(100)
def test_C3_the_largest_files_are_answered(data: bytes) -> None:
    try:
        parse.compute(data, "x")
    except ConfigError:
        pass


def test_C4_repeated_keys_are_told_with_both_lines() -> None:
    message = _fails("type: local\naddress: a\ntype: docker\n").message
    assert "x:3: type: repeated; line 1 has it too" in message


def test_C4_repeated_keys_inside_a_map_are_told() -> None:
    message = _fails("Target: local\nEnvironmentVariables: {A: 1, B: 2, A: 3}\n", "runconfig").message
    assert "x:2: EnvironmentVariables.A: repeated" in message


@pytest.mark.parametrize("text", ["type: local\n---\ntype: docker\n", "type: local\n...\ntype: docker\n"])
def test_C4_a_second_document_is_refused(text: str) -> None:
    assert "x:3: " in _fails(text).message or "x:2: " in _fails(text).message


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "\ufeff", "null\n"])
def test_C4_an_empty_file_names_the_keys_it_needs(text: str) -> None:
    assert "empty; it needs type" in _fails(text).message
    assert "needs ArgumentVector and Target" in _fails(text, "runconfig").message


@pytest.mark.parametrize("text", ["local", "3.10", "- a\n- b\n", "'type: local'", "[]"])
def test_C4_a_file_that_is_no_map_is_refused(text: str) -> None:
    assert "it needs type" in _fails(text).message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_C4_a_byte_order_mark_is_accepted(encoding: str) -> None:
    assert parse.compute(DOCKER.encode(encoding), "x").fields["kind"] == "docker"


def test_C4_bytes_that_are_not_text_are_told_with_their_place() -> None:
    error = _fails(b"type: local\n# caf\xe9\n")
    assert "x:2: byte 0xe9 is not UTF-8" in error.message
    assert error.hint == "Save the file as UTF-8."


@pytest.mark.parametrize("text", ["type: local\0", "type: lo\x07cal", "type: local\n\x1b[31m: 3\n"])
def test_C4_control_characters_are_told_with_their_place(text: str) -> None:
    message = _fails(text).message
    assert "control character U+" in message
    assert "\x1b" not in message
    assert "\0" not in message


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("3.10", "3.10"),
        ("22:22", "22:22"),
        ("no", "no"),
        ("1e3", "1e3"),
        ("0o17", "0o17"),
        ("2018-01-01", "2018-01-01"),
        ("~", "~"),
        ("~/share", "~/share"),
        ("'~'", "~"),
        ("''", ""),
        ("null", None),
        ("", None),
        (r"'C:\users\ann'", r"C:\users\ann"),
        (r"C:\users\ann", r"C:\users\ann"),
        (r'"C:\\users"', r"C:\users"),
        ("= x", "= x"),
        ("<<", "<<"),
    ],
)
def test_C5_text_is_read_as_it_was_written(written: str, read: str | None) -> None:
    fields = parse.compute(f"type: local\nnativeSharedDirectory: {written}\n".encode(), "x").fields
    assert fields["native_shared_directory"] == read


def test_C5_a_bare_tilde_is_told() -> None:
    warnings = parse.compute(b"type: local\nnativeSharedDirectory: ~\n", "x").warnings
    assert warnings == [
        (2, "nativeSharedDirectory: a bare ~ means nothing in YAML; read as the text ~ (put it in quotes)")
    ]


@pytest.mark.parametrize("written", [r'"C:\users"', r'"C:\xyz"', r'"C:\projects"'])
def test_C5_a_backslash_in_double_quotes_has_a_hint(written: str) -> None:
    error = _fails(f"type: local\npythonLocation: {written}\n")
    assert "x:2: pythonLocation: a backslash in double quotes" in error.message
    assert "single quotes" in error.hint


@pytest.mark.parametrize("written", [r'"C:\temp"', r'"C:\new"'])
def test_C5_a_backslash_that_became_a_tab_has_a_hint(written: str) -> None:
    error = _fails(f"type: local\npythonLocation: {written}\n")
    assert "holds the control character" in error.message
    assert "single quotes" in error.hint


def test_C5_environment_variables_are_text() -> None:
    text = "Target: local\nEnvironmentVariables: {A: no, B: 3.10, C: 22:22, D: ~, E: null, F: '', G: 010}\n"
    fields = parse.run_configuration(text.encode(), "x").fields
    assert fields["environment_variables"] == {
        "A": "no",
        "B": "3.10",
        "C": "22:22",
        "D": "~",
        "E": "",
        "F": "",
        "G": "010",
    }


@given(st.data())
def test_C6_one_wrong_letter_in_a_key_is_told_with_the_right_key(data: st.DataObject) -> None:
    known = known_keys(ComputeFile)
    key = data.draw(st.sampled_from([key for key in known if len(key) > 6]))
    place = data.draw(st.integers(0, len(key) - 1))
    letter = data.draw(st.sampled_from("abcxyzQ"))
    wrong = key[:place] + letter + key[place + data.draw(st.integers(0, 1)) :]
    if wrong in known:
        return
    warnings = parse.compute(f"type: local\n{wrong}: x\n".encode(), "x").warnings
    assert warnings == [(2, f"unknown key {wrong!r}; did you mean {key}?")]


@pytest.mark.parametrize("value", ["maybe", "1", "[true]", "{a: b}", "2018-01-01", "'yes please'"])
def test_C6_a_wrong_value_of_a_known_key_is_an_error(value: str) -> None:
    message = _fails(f"type: docker\nsharedVolumes: {value}\n").message
    assert "x:2: sharedVolumes: must be true or false" in message


BAD_NAMES = [
    "..",
    ".",
    "a/b",
    "a\\b",
    "a\0b",
    "x" * 300,
    "CON",
    "nul.txt",
    "trailing.",
    " a",
    "a ",
    "",
    "a\nb",
    "a:b",
]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["accounts", "workspaces", "projects"])
def test_C9_a_hostile_scope_is_refused(tmp_path: Path, home: str, name: str, kind: str) -> None:
    names = {"accounts": "A", "workspaces": "W", "projects": "P", kind: name}
    scope = "/providers/M" + "".join(f"/{key}/{value}" for key, value in names.items())
    (tmp_path / ".azureml").mkdir()
    (tmp_path / ".azureml" / "project.json").write_text(json.dumps({"Id": "1", "Scope": scope}))
    if name == "" and kind == "projects":
        scope_error = "names no project|is empty"
    else:
        scope_error = r"project\.json:1: Scope: "
    with pytest.raises(ConfigError, match=scope_error) as caught:
        find_project(str(tmp_path))
    assert caught.value.code == "config.invalid"
    assert not os.path.exists(home)


@given(st.text(max_size=200))
def test_C9_a_name_that_passes_is_one_folder_everywhere(name: str) -> None:
    if not name_problem(name):
        assert os.path.basename(name) == name
        assert name not in (".", "..")
        assert not set(name) & set('/\\:\0*?"<>|')
        assert len(name.encode()) <= 128


@pytest.mark.parametrize("ending", ["compute", "runconfig"])
def test_C10_a_fifo_is_not_opened(tmp_path: Path, ending: str) -> None:
    project = project_with(tmp_path, {})
    os.mkfifo(f"{project.root}/aml_config/x.{ending}")
    with pytest.raises(ConfigError) as caught:  # to open it would wait for a writer for ever
        project.resolve("x")
    assert caught.value.code == "config.invalid"


def test_C10_a_device_a_folder_and_a_dead_link_are_refused(tmp_path: Path) -> None:
    project = project_with(tmp_path, {})
    folder = Path(project.root, "aml_config")
    (folder / "zero.compute").symlink_to("/dev/zero")
    (folder / "gone.compute").symlink_to("/nowhere")
    (folder / "loop.compute").symlink_to("loop.compute")
    (folder / "folder.compute").mkdir()
    for name in ("zero", "gone", "loop", "folder"):
        with pytest.raises(ConfigError, match=rf"{name}\.compute"):
            project.target(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="user id 0 reads everything")
def test_C10_an_unreadable_file_is_told(tmp_path: Path) -> None:
    project = project_with(tmp_path, {"x.compute": DOCKER})
    os.chmod(f"{project.root}/aml_config/x.compute", 0)
    with pytest.raises(ConfigError, match="ermission"):
        project.target("x")


@pytest.mark.slow
def test_C10_a_file_replaced_while_it_is_read_is_one_of_the_two(tmp_path: Path) -> None:
    project = project_with(tmp_path, {"x.compute": LOCAL})
    path = Path(project.root, "aml_config", "x.compute")
    script = (
        "import os, sys\nfor n in range(4000):\n"
        " open('t', 'w').write(sys.argv[1 + n % 2])\n os.replace('t', 'x.compute')\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, LOCAL, DOCKER], cwd=path.parent)
    kinds = set()
    while child.poll() is None:
        kinds.add(project.target("x").kind)
    assert child.returncode == 0
    assert kinds <= {"local", "docker"}


@pytest.mark.parametrize(
    "address",
    [
        "host -oProxyCommand=touch${IFS}marker",
        "-oProxyCommand=touch",
        "--",
        "user@host",
        "host;reboot",
        "$(reboot)",
        "host:0",
        "host:70000",
        "host:ssh",
        "http://host",
        "host/path",
        "a..b",
        "host\\n",
        "é.example",
        "a" * 300,
        "'host '",
        "''",
    ],
)
def test_C11_an_address_outside_the_grammar_is_refused(address: str) -> None:
    message = _fails(f"type: remote\nusername: ann\naddress: {address}\n").message
    assert "x:3: address: " in message


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("10.0.0.4", "10.0.0.4", None),
        ("10.0.0.4:5022", "10.0.0.4", 5022),
        ("myhdi-ssh.azurehdinsight.net", "myhdi-ssh.azurehdinsight.net", None),
        ("dsvm_1", "dsvm_1", None),
        ("localhost:22", "localhost", 22),
        ("fe80::1", "fe80::1", None),
        ("'[fe80::1]:5022'", "fe80::1", 5022),
        ("'[::1]'", "::1", None),
    ],
)
def test_C11_addresses_are_taken_apart(tmp_path: Path, address: str, host: str, port: int | None) -> None:
    text = f"type: remote\nusername: ann\naddress: {address}\n"
    target = project_with(tmp_path, {"x.compute": text}).target("x")
    assert (target.host, target.port) == (host, port)


@pytest.mark.parametrize("name", ["-l root", "ann;reboot", "$(id)", "ann bob", "'-x'", "<YOUR USERNAME>"])
def test_C11_a_login_name_outside_the_grammar_is_refused(name: str) -> None:
    assert "x:2: username: " in _fails(f"type: remote\nusername: {name}\naddress: host\n").message


@pytest.mark.parametrize("name", ["ann", "CORP\\ann", "ann@corp.example", "ann.smith-2"])
def test_C11_real_login_names_are_read(name: str) -> None:
    assert (
        parse.compute(f"type: remote\nusername: {name}\naddress: host\n".encode(), "x").fields["username"]
        == name
    )


PLANTED = "pl4nted-Secret"


def test_C12_a_password_in_clear_is_warned_of_and_never_shown_or_kept(tmp_path: Path, home: str) -> None:
    text = f"type: remote\naddress: host\nusername: ann\npassword: {PLANTED}\n"
    run = f"Target: x\nEnvironmentVariables: {{STORAGE_ACCOUNT_KEY: {PLANTED}}}\n"
    project = project_with(tmp_path, {"x.compute": text, "x.runconfig": run})
    configuration, target = project.resolve("x")
    assert isinstance(target.password, Secret)
    assert target.password.reveal() == PLANTED
    assert target.warnings == (
        "aml_config/x.compute:4: password: stands here in clear text; an SSH key needs none",
    )
    shown = f"{target!r} {target} {target.password} {configuration!r} {target.as_dict()}"
    assert PLANTED not in shown
    with pytest.raises(TypeError):
        pickle.dumps(target)
    kept = [path.read_bytes() for path in Path(home).rglob("*") if path.is_file()]
    assert not any(PLANTED.encode() in content for content in kept)


@pytest.mark.parametrize(
    "text",
    [
        "type: remote\npassword: {secret}\npassword: {secret}\n",
        "type: remote\npassword: [a, {secret}\n",
        'type: remote\npassword: "{secret}\n',
        'type: remote\npassword: "{secret}\\q"\n',
        "type: remote\npassword: {{a: {secret}}}\n",
        "type: remote\npassword: @{secret}\n",
        "type: remote\npassword: *{secret}\n",
        "type: remote\npassword: !{secret} x\n",
        "type: remote\npassword: !!python/name:{secret} x\n",
        "type: remote\npassword: x\n  {secret}: y\n",
        "type: remote\npassword: |\n  {secret}\n b\n",
        "type: remote\npassword:\n  - x\n  - {secret}\n  {secret}\n",
        '{{"type": "remote", "password": "{secret}" "address": "x"}}\n',
        '{{"type": "remote", "password": "{secret}", "address": "-x"}}\n',
        "type: remote\n'password' : {secret}\n x\n",
        "type: remote\nPassword: {secret}\n\tx: y\n",
        "type: remote\naddress: x\nusername: y\npassword: a: {secret}\n",
    ],
)
def test_C12_an_error_beside_a_password_does_not_show_it(text: str) -> None:
    assert PLANTED not in str(_fails(text.format(secret=PLANTED)))


# --- whatever is in the file --------------------------------------------------------------------------------

REAL = [
    LOCAL,
    DOCKER,
    REMOTE,
    RUN,
    JSON,
    PRETTY_JSON,
    "cluster: True\nnative: False\naddress: a\nusername: b\n",
]
PIECES = [
    ":",
    ": ",
    "\t",
    "\n",
    "\r\n",
    "- ",
    "  ",
    "[",
    "]",
    "{",
    "}",
    ",",
    '"',
    "'",
    "#",
    "&a ",
    "*a",
    "!x ",
    "|",
]
PIECES += [
    "~",
    "null",
    "true",
    "<<: ",
    "? ",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "\\",
    "\ufeff",
    "é",
    "\0",
    "pip:",
    "@",
    "`",
]
PARSERS = [parse.compute, parse.run_configuration, dependencies.conda, dependencies.spark]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    text = draw(st.sampled_from(REAL))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 12))
        text = text[:place] + draw(st.sampled_from(PIECES)) + text[place + cut :]
    return text.encode()


@FIXTURE_IS_SAFE
@given(st.sampled_from(PARSERS), mutated() | st.binary(max_size=60))
def test_whatever_is_in_a_file_the_answer_is_fields_or_a_config_error(
    parser: Callable[[bytes, str], parse.Parsed], data: bytes
) -> None:
    outcome = _outcome(parser, data)
    if isinstance(outcome, ConfigError):
        assert outcome.code in ("config.invalid", "config.too_big")
        assert outcome.message.startswith("x")
    else:
        assert isinstance(outcome, parse.Parsed)


def _outcome(parser: Callable[[bytes, str], parse.Parsed], data: bytes) -> object:
    try:
        return parser(data, "x")
    except ConfigError as error:
        return error


KEYS = [
    *known_keys(ComputeFile),
    *known_keys(RunConfigurationFile),
    *sdkv1.MARKS,
    "environmentVariables",
    "hdi",
]
KEYS += [
    *dependencies.CONDA_KEYS,
    *dependencies.SPARK_KEYS,
    "docker",
    "python",
    "enabled",
    "pip",
    "group",
    "",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.sampled_from(REAL),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@FIXTURE_IS_SAFE
@given(st.sampled_from(PARSERS), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8))
def test_whatever_value_a_key_has_the_answer_is_json_or_a_config_error(
    parser: Callable[[bytes, str], parse.Parsed], document: dict[str, object]
) -> None:
    outcome = _outcome(parser, json.dumps(document).encode())
    if isinstance(outcome, parse.Parsed):
        assert json.loads(json.dumps(outcome.fields)) == outcome.fields


@FIXTURE_IS_SAFE
@given(mutated())
def test_every_place_that_is_told_is_in_the_file(data: bytes) -> None:
    try:
        document = yamlfile.load(data, "x")
    except ConfigError:
        return
    lines = document.text.splitlines() or [""]
    for path in document.places:
        problem = document.problem(path, "")
        assert 0 <= problem.line <= len(lines) + 1


def test_known_keys_are_those_of_the_files() -> None:
    assert "baseDockerImage" in known_keys(ComputeFile)
    assert "ArgumentVector" in known_keys(RunConfigurationFile)
