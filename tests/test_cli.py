"""The command line itself: streams, exit statuses, words, names."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from aml_jupyter import cli, errors
from aml_jupyter.commands import VERBS, Parser, build, parse_seconds
from aml_jupyter.commands.resources import parse_size
from aml_jupyter.errors import UsageError
from tests.terminal import AML, aml, data, detached, environment, terminal, until


@pytest.fixture
def project(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "hello.py").write_text(
        "import sys\nprint('hello', *sys.argv[1:])\nprint('oh', file=sys.stderr)\n"
    )
    monkeypatch.chdir(folder)
    return folder


def shell(script: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `aml` is the command."""
    words = " ".join(AML)
    return subprocess.run(
        ["bash", "-c", f'aml() {{ {words} "$@"; }}\n{script}'],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


# --- words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str], home: str) -> None:
    assert cli.main([verb, "--help"]) == 0
    assert f"usage: aml {verb}" in capsys.readouterr().out


def test_the_help_lists_every_verb_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("  ")] == list(VERBS)


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("rnu local hello.py", "run"),
        ("run local hello.py --tmeout 3", "--timeout"),
        ("run local hello.py --detatch", "--detach"),
        ("runs --orderby created_utc", "--order-by"),
        ("share lss", "ls"),
        ("computetarget atach docker -n x", "attach"),
        ("computetarget list --jsno", "--json"),
        ("experiment sumbit hello.py", "submit"),
        ("run lcoal hello.py", "local"),
        ("runs --columns run_id,statsu", "status"),
    ],
)
def test_a_mistyped_word_names_the_nearest(
    project: Path, line: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line.split()) == 2
    told = capsys.readouterr()
    assert f"id you mean {near}?" in told.err
    assert not told.out


def test_options_may_stand_between_words(project: Path) -> None:
    parser, _ = build("run")
    options = parser.parse_args(["local", "--json", "hello.py", "-n", "first", "a", "b"])
    assert (options.target, options.script, options.arguments) == ("local", "hello.py", ["a", "b"])
    parser, _ = build("tag")
    assert parser.parse_args(["@last", "--remove", "old", "new"]).tags == ["new"]


def test_what_stands_behind_dashes_belongs_to_the_script(project: Path) -> None:
    done = aml("run", "local", "hello.py", "a", "--", "--json", "-n", "x", "--")
    assert done.stdout == "hello a --json -n x --\n"
    assert data("show")["name"] is None


def test_everything_behind_the_script_belongs_to_it_as_in_2018(project: Path) -> None:
    done = aml("experiment", "submit", "-c", "local", "hello.py", "--json", "-c", "docker", "--", "x")
    assert done.stdout == "hello --json -c docker -- x\n"
    assert done.returncode == 0
    assert aml("experiment", "submit", "-c", "local", "hello.py", "--", "--x").stdout == "hello --x\n"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "nan", "inf", "1e9d", "10 minutes"])
def test_what_is_no_time_is_a_usage_error(text: str) -> None:
    parser = Parser(prog="aml wait")
    parser.add_argument("--timeout", type=parse_seconds)
    with pytest.raises(UsageError, match="is not a time"):
        parser.parse_args([f"--timeout={text}"])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100", 100),
        ("25MB", 25 << 20),
        ("1GiB", 1 << 30),
        ("0.5k", 512),
        ("500kB", 500 << 10),
        ("512m", 512 << 20),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "nan", "inf", "1e99", "ten"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    parser = Parser(prog="aml run")
    parser.add_argument("--max-size", type=parse_size)
    with pytest.raises(UsageError, match="is not a size"):
        parser.parse_args([f"--max-size={text}"])


# --- exit statuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UsageError(""), 2),
        (errors.ConfigError(""), 2),
        (errors.TargetNotFound(""), 2),
        (errors.SnapshotError(""), 2),
        (errors.CellError(""), 2),
        (errors.ArtifactError(""), 2),
        (errors.ConfinedError(""), 2),
        (errors.RunNotFound(""), 3),
        (errors.RunNotFound("", code="run.ambiguous"), 4),
        (errors.HistoryError(""), 5),
        (errors.SnapshotError("", code="store.no_space"), 5),
        (errors.ArtifactError("", code="store.corrupt"), 5),
        (errors.TargetUnavailable(""), 125),
        (errors.AmlError("", code="supervisor.error"), 125),
        (errors.RunFailed("", exit_code=7), 7),
    ],
)
def test_every_kind_of_error_has_its_exit_status(error: errors.AmlError, status: int) -> None:
    assert cli.exit_status(error) == status


def test_Z3_unknown_ambiguous_and_damaged_are_told_apart_and_json_stays_json(project: Path) -> None:
    first, second = detached("hello.py"), detached("hello.py")
    aml("wait", first, second)
    common = first[: next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)]
    assert data("show", "nosuch", status=3)["error"]["code"] == "run.unknown"
    assert data("show", common, status=4)["error"]["code"] == "run.ambiguous"
    record = Path(data("show", first)["directory"], "run.json")
    record.write_text(record.read_text()[:-40])
    assert data("show", first, status=5)["error"]["code"] == "record.corrupt"
    assert "record.corrupt" in [found["code"] for found in data("check", status=5)]
    assert second in {row["run_id"] for row in data("runs")}


VERBS_OF_A_RUN = [
    "show",
    "logs",
    "attach",
    "wait",
    "stop",
    "resume",
    "ls",
    "get",
    "restore",
    "tag",
    "note",
    "rm",
]


@pytest.mark.parametrize("verb", VERBS_OF_A_RUN)
def test_Z3_every_verb_refuses_an_unknown_run_the_same_way(project: Path, verb: str) -> None:
    more = {"restore": ["into"], "note": ["text"]}.get(verb, [])
    done = aml(verb, "nosuch", *more)
    assert done.returncode == 3
    assert done.stderr.startswith("aml: no run answers to 'nosuch'")
    assert done.stdout == ""


def test_a_mistake_in_the_line_is_json_too_when_json_is_asked_for(project: Path) -> None:
    assert data("run", "local", status=2)["error"]["code"] == "usage"
    assert data("run", "local", "hello.py", "--nosuch", status=2)["error"]["code"] == "usage"
    # here the word is the script's
    done = aml("run", "local", "nosuch.py", "--", "--json")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("source", "status"),
    [("", 0), ("raise SystemExit(7)", 7), ("1/0", 1), ("import os; os.kill(os.getpid(), 15)", 143)],
)
def test_the_exit_status_of_a_run_is_the_commands_own(project: Path, source: str, status: int) -> None:
    (project / "script.py").write_text(source)
    assert aml("run", "local", "script.py").returncode == status
    assert aml("attach").returncode == status
    assert aml("wait").returncode == status
    assert aml("run", "--no-raise-error", "local", "script.py").returncode == 0


def test_a_run_that_takes_too_long_ends_with_124(project: Path) -> None:
    (project / "script.py").write_text("import time; time.sleep(60)")
    assert aml("run", "local", "script.py", "--timeout", "0.2").returncode == 124
    assert data("show")["reason"] == "run.timeout"


def test_waiting_too_long_ends_with_124_and_the_run_goes_on(project: Path) -> None:
    (project / "script.py").write_text("import time; time.sleep(60)")
    run = detached("script.py")
    assert data("wait", run, "--timeout", "0.2", status=124)["error"]["code"] == "run.wait_timeout"
    assert data("show", run)["status"] in ("NotStarted", "Preparing", "Running")
    assert data("stop", run)[0]["status"] == "Canceled"
    assert aml("wait", run).returncode == 130


def test_L11_a_run_that_cannot_start_ends_with_125_or_2(project: Path) -> None:
    (project / "aml_config").mkdir()
    compute = project / "aml_config/old.compute"
    compute.write_text("type: local\npythonLocation: /no/such/python\n")
    done = aml("run", "old", "hello.py")
    assert done.returncode == 125
    assert "pythonLocation" in done.stderr
    assert str(compute) in done.stderr
    not_a_program = project / "text"
    not_a_program.write_text("text")
    compute.write_text(f"type: local\npythonLocation: {not_a_program}\n")
    assert aml("run", "old", "hello.py").returncode == 125
    assert data("runs") == []


# --- streams ------------------------------------------------------------------------------------------------


def test_data_go_to_standard_output_and_messages_to_standard_error(project: Path) -> None:
    done = aml("run", "local", "hello.py")
    assert done.stdout == "hello\n"
    assert done.stderr.startswith("RunId: project_")
    assert done.stderr.splitlines()[1:] == ["oh"]
    assert aml("run", "-q", "local", "hello.py").stdout == ""


def test_Z1_a_reader_that_leaves_ends_the_command_with_141_and_not_the_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = tmp_path / "enough"
    monkeypatch.setenv("ENOUGH", str(enough))
    (project / "script.py").write_text(
        "import itertools, os, time\nfor i in itertools.count():\n    print(i, flush=True)\n"
        "    time.sleep(0.02)\n    if os.path.exists(os.environ['ENOUGH']): break\n"
    )
    done = shell("aml run local script.py | head -1; echo ${PIPESTATUS[0]}")
    assert done.stdout.split() == ["0", "141"]
    assert "the run goes on: aml attach" in done.stderr
    assert "Traceback" not in done.stderr
    enough.touch()
    assert data("wait")[0]["status"] == "Completed"


def test_Z1_a_full_disk_behind_standard_output_is_no_success(project: Path) -> None:
    aml("run", "local", "hello.py")
    for line in ("runs", "show", "logs", "attach", "--help", "config", "run local hello.py", "check --json"):
        done = shell(f"aml {line} > /dev/full")
        assert done.returncode == 125, line
        assert "No space left" in done.stderr
        assert "Traceback" not in done.stderr


def test_Z1_closed_streams_are_survived(project: Path) -> None:
    aml("run", "local", "hello.py")
    done = shell("aml runs >&-")
    assert done.returncode == 125
    assert "cannot be written" in done.stderr
    assert shell("aml runs 2>&-").returncode == 0
    assert shell("aml nosuch 2>&-").returncode == 2
    assert shell("aml run local hello.py <&-").stdout == "hello\n"
    assert shell("aml run local hello.py >&- 2>&- <&-").returncode == 125
    assert [row["status"] for row in data("runs")] == ["Completed"] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX"},
        # no help by Python: what is printed must fit into ASCII
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_Z1_every_locale_prints_every_name(project: Path, changes: dict[str, str]) -> None:
    (project / "script.py").write_text("import os; os.write(1, 'grün ☃'.encode())")
    aml("run", "local", "script.py", "--name", "☃")
    for line in (["run", "local", "script.py"], ["runs"], ["show", "@last~1"], ["runs", "--json"], ["logs"]):
        done = aml(*line, env=changes)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert data("runs", env=changes)[1]["name"] == "☃"


def test_Z1_a_dumb_terminal_gets_no_colours(project: Path) -> None:
    (project / "script.py").write_text("print('\\x1b[31mred\\x1b[0m')")
    aml("run", "local", "script.py")
    with terminal("logs") as shown:
        assert shown.end() == 0
    assert b"\x1b[31mred" in shown.screen
    with terminal("logs", NO_COLOR="1") as shown:
        assert shown.end() == 0
    assert b"\x1b" not in shown.screen
    assert b"red" in shown.screen


def test_Z2_names_and_logs_never_steer_a_terminal(project: Path) -> None:
    (project / "script.py").write_text(
        "import os\n"
        "print('a\\x1b]0;title\\x07b\\x1b[2Jc\\x1b[31mred')\n"
        "for name in (b'\\x1b]0;evil\\x07', b'two\\nlines', b'-rf', b'caf\\xe9', b'back\\rwards'):\n"
        "    open(b'outputs/' + name, 'w').close()\n"
        "    open(b'x' + name, 'w').close()\n"
    )
    aml("run", "local", "script.py")
    for line in (
        ["logs"],
        ["ls"],
        ["show"],
        ["get", "@last", "-d", "out"],
        ["rescue", "@last"],
        ["attach"],
        ["runs"],
    ):
        with terminal(*line) as shown:
            assert shown.end() == 0, shown.screen
        assert not any(bad in shown.screen for bad in (b"\x1b]", b"\x07", b"\x1b[2J", b"\xe9")), (
            line,
            shown.screen,
        )
        assert b"\rwards" not in shown.screen
        assert b"two\r\nlines" not in shown.screen
    # a program gets the bytes
    paths = aml("get", "@last", "-d", "again").stdout
    assert os.fsencode(paths).count(b"caf\xe9") == 1
    assert (project / "again/outputs/-rf").exists()
    hostile = aml("show", "\x1b]0;evil\x07\n-rf")
    assert "\x1b" not in hostile.stderr


def test_Z2_arguments_that_are_not_utf8_reach_the_script(project: Path) -> None:
    (project / "script.py").write_text("import os, sys; print(os.fsencode(sys.argv[1]))")
    word = os.fsdecode(b"caf\xe9\n\x1b[1m")
    assert aml("run", "local", "script.py", "--", word).stdout == "b'caf\\xe9\\n\\x1b[1m'\n"
    assert data("show")["arguments"] == [word]


def test_a_defect_keeps_its_traceback_and_never_looks_like_a_scripts_own_status(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from aml_jupyter.commands import history

    def broken(*_: object) -> int:
        raise KeyError("lost")

    monkeypatch.setattr(history, "do_runs", broken)
    assert cli.main(["runs", "--json"]) == 125
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["code"] == "defect"
    assert "KeyError: 'lost'" in told.err


# --- people -------------------------------------------------------------------------------------------------

TRAP = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


def test_ctrl_c_cancels_the_run(project: Path) -> None:
    (project / "script.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)")
    with terminal("run", "local", "script.py") as shown:
        shown.expect(b"ready")
        shown.send(b"\x03")
        assert shown.end() == 130
    assert b"canceling" in shown.screen
    assert b"Traceback" not in shown.screen
    assert data("show")["status"] == "Canceled"


def test_a_second_ctrl_c_kills_it(project: Path) -> None:
    (project / "script.py").write_text(TRAP)
    with terminal("run", "local", "script.py") as shown:
        shown.expect(b"ready")
        shown.send(b"\x03")
        shown.expect(b"no\r\n")
        shown.send(b"\x03")
        assert shown.end() == 130
    assert b"killing" in shown.screen
    assert data("show")["status"] == "Canceled"


def test_closing_the_terminal_leaves_the_run_alive(project: Path) -> None:
    (project / "script.py").write_text(
        "import os, time\nprint('ready', flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.02)\nprint('done')"
    )
    with terminal("run", "local", "script.py") as shown:
        shown.expect(b"ready")
        shown.hang_up()
        assert shown.end() in (-1, 125)
    record = data("show")
    assert record["status"] == "Running"
    Path(record["directory"], "work/go").touch()
    done = aml("attach")
    assert (done.returncode, done.stdout) == (0, "ready\ndone\n")


def test_logs_are_followed_from_another_process_while_the_run_goes_on(project: Path) -> None:
    (project / "script.py").write_text(
        "import os, sys, time\n"
        "print('one'); print('two', flush=True); print('bad', file=sys.stderr, flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.02)\n"
        "print('three')"
    )
    run = detached("script.py")
    directory = Path(data("show", run)["directory"])
    until(lambda: (directory / "job/log").exists() and b"bad" in (directory / "job/log").read_bytes())
    assert aml("logs", run).stdout == "one\ntwo\nbad\n"
    assert aml("logs", run, "--tail", "2").stdout == "two\nbad\n"
    assert aml("logs", run, "--tail", "0").stdout == ""
    followed = subprocess.Popen(
        [*AML, "logs", "-f", run],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert followed.stdout
    assert [followed.stdout.readline() for _ in range(3)] == ["one\n", "two\n", "bad\n"]
    (directory / "work/go").touch()
    assert followed.communicate(timeout=30) == ("three\n", "")
    assert followed.returncode == 0
    assert aml("logs", run, "--stderr").stdout == "bad\n"


def test_logs_of_binary_output_are_the_same_bytes(project: Path) -> None:
    (project / "script.py").write_text("import os; os.write(1, bytes(range(256)))")
    aml("run", "-q", "local", "script.py")
    done = subprocess.run([*AML, "logs"], env=environment(), capture_output=True, timeout=30)
    assert done.stdout == bytes(range(256))


def test_a_folder_that_is_gone_is_told(project: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell(f"cd {gone}; rmdir {gone}; aml run local hello.py; echo $?; aml runs; echo $?")
    assert done.stdout.split() == ["2", "2"]
    assert "the working folder is gone" in done.stderr
    assert aml("run", "--project", str(gone), "local", "hello.py").returncode == 2
