"""The magics in a real kernel: what a person types, and what appears below the cell."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebooks import Cell, Notebook
from tests.terminal import environment, until

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 100).decode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("magics") / "iris"
    folder.mkdir()
    (folder / "train.py").write_text(
        "import sys\nprint('arguments', sys.argv[1:])\nopen('outputs/model.txt', 'w').write('m')\n"
    )
    (folder / "fails.py").write_text("import sys\nprint('before')\nsys.exit(7)\n")
    return folder


@pytest.fixture(scope="module")
def home_of_module(project: Path) -> str:
    return str(project.parent / "home" / ".azureml")


@pytest.fixture(scope="module")
def kernel(project: Path, home_of_module: str) -> Iterator[Notebook]:
    found = Notebook(str(project), AML_HOME=home_of_module, HOME=str(project.parent / "home"))
    try:
        assert found.run("%load_ext aml_jupyter").status == "ok"
        yield found
    finally:
        found.close()


def job_of(home: str, cell: Cell) -> Path:
    return Path(home) / "runs" / "local" / "default" / "iris" / cell.run_id / "job"


def test_a_cell_shows_what_it_prints_draws_and_is(kernel: Notebook) -> None:
    cell = kernel.run(
        "%%amlrun local --name shows\n"
        "import sys, aml_run\n"
        "print('out'); print('err', file=sys.stderr); print('out again')\n"
        f"aml_run.display({{'image/png': {PNG!r}, 'text/plain': 'a picture'}}, raw=True)\n"
        "handle = None\n"
        "[1, 2, 3]"
    )
    assert cell.status == "ok", cell.error
    assert cell.text() == "out\nout again\n"
    assert cell.text("stderr") == "err\n"
    assert cell.streams == [("stdout", "out\n"), ("stderr", "err\n"), ("stdout", "out again\n")]
    assert [one.get("text/plain") for one in cell.displays[1:]] == ["a picture", "[1, 2, 3]"]
    assert cell.displays[1]["image/png"] == PNG


def test_the_card_stands_first_and_is_replaced_in_place(kernel: Notebook) -> None:
    cell = kernel.run(
        "%%amlrun local -p rate=0.5 --tag a --tag b=c --message hello\n"
        "import aml_run\n"
        "for n in range(5): aml_run.log('loss', rate / (n + 1))\n"
        "open('outputs/model.bin', 'wb').write(b'12345'); open('lost.txt', 'w').write('x')\n"
        "print('trained')"
    )
    first = next(one for one in cell.messages if one["msg_type"] in ("display_data", "stream"))
    assert first["content"]["transient"]["display_id"] == f"aml-card-{cell.run_id}"
    cards = [one for one in cell.shown() if one.startswith("aml-card-")]
    assert len(cards) == 1
    for text in cell.card.values():
        for word in ("Completed", cell.run_id, "rate", "0.5", "loss", "outputs/model.bin", "5 B", "lost.txt"):
            assert word in text
        assert f"%aml rescue {cell.run_id} lost.txt" in text
        assert "hello" in text
    assert "trained" in cell.card["text/html"]
    assert "polyline" in cell.card["text/html"]


def test_a_script_gets_its_arguments_and_the_variable_is_the_run(kernel: Notebook) -> None:
    cell = kernel.run("%amlrun local --run mine train.py -- --rate 0.1 'a b'")
    assert cell.text() == "arguments ['--rate', '0.1', 'a b']\n"
    told = kernel.run("print(mine.id, mine.status, list(mine.artifacts), mine.read('outputs/model.txt'))")
    assert told.text() == f"{cell.run_id} Completed ['outputs/model.txt'] b'm'\n"


def test_an_error_points_into_the_cell_and_fails_it(kernel: Notebook) -> None:
    cell = kernel.run("%%amlrun local\n\nx = 1\nx / 0\n")
    assert cell.status == "error"
    assert "line 3" in cell.error
    assert "x / 0" in cell.error
    assert "ZeroDivisionError: division by zero" in cell.error
    assert "aml_jupyter" not in cell.error
    assert "ZeroDivisionError" not in cell.text("stderr"), "told once is enough"
    assert cell.reply is not None
    assert cell.reply["ename"] == "CellFailed"


def test_an_error_is_told_once_when_values_are_wanted_as_well(kernel: Notebook) -> None:
    for n in range(4):
        cell = kernel.run(f"%%amlrun local -o kept{n}\nkept{n} = {n}\nprint('before')\n1 / 0")
        assert cell.status == "error"
        assert cell.error.count("ZeroDivisionError: division by zero") == 1
        assert cell.streams == [("stdout", "before\n")]
        assert kernel.run(f"print(kept{n})").text() == f"{n}\n"


def test_a_log_that_a_cell_removes_is_shown_whole_with_a_warning(kernel: Notebook) -> None:
    cell = kernel.run(
        "%%amlrun local\nimport os\nprint('before', flush=True)\n"
        "os.unlink(os.environ['AML_JOB'] + '/log')\nprint('after')"
    )
    assert cell.status == "ok", cell.error
    assert cell.text() == "before\nafter\n"
    assert "log was removed or replaced" in cell.card["text/plain"]
    assert kernel.run(f"%aml logs {cell.run_id}").text().startswith("before\nafter\n")


def test_a_failed_script_raises_its_exit_code_and_can_be_only_reported(kernel: Notebook) -> None:
    cell = kernel.run("%amlrun local fails.py")
    assert cell.status == "error"
    assert "run.exit_nonzero" in cell.error
    assert cell.text() == "before\n"
    quiet = kernel.run("%amlrun local --no-raise-error fails.py")
    assert quiet.status == "ok"
    assert "Failed" in quiet.card["text/plain"]
    also = kernel.run("%%amlrun local --no-raise-error\n1 / 0")
    assert also.status == "ok"
    assert also.text("stderr").count("ZeroDivisionError") == 1


def test_values_go_in_and_come_back(kernel: Notebook) -> None:
    kernel.run("numbers = [1, 2, 3]\nlabel = 'x'")
    cell = kernel.run(
        "%%amlrun local -i numbers,label -o total --out twice\ntotal = sum(numbers)\ntwice = label * 2"
    )
    assert cell.status == "ok", cell.error
    assert kernel.run("print(total, twice)").text() == "6 xx\n"


def test_a_cell_is_told_what_it_would_lack_before_anything_is_sent(
    kernel: Notebook, home_of_module: str
) -> None:
    kernel.run("frame = [1]\nimport math as maths")
    before = set(Path(home_of_module).glob("ids/*"))
    cell = kernel.run("%%amlrun local\nprint(frame, maths.pi)")
    assert cell.status == "error"
    assert "--in frame" in cell.error
    assert "maths" in cell.error
    assert set(Path(home_of_module).glob("ids/*")) == before


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("%%amlrun local --nmae x", "did you mean --name?"),
        ("%%amlrun nowhere", "local"),
        ("%%amlrun", "Targets here: docker, local"),
        ("%%amlrun local --timeout soon", "is not a time"),
        ("%%amlrun local -p novalue", "NAME=VALUE"),
        ("%%amlrun local --in no_such_variable", "no variable no_such_variable"),
        ("%%amlrun local --in 1x", "is not the name of a variable"),
        ("%%amlrun local --name 'open", "quotation"),
        ("%%amlrun local --run import", "is not the name of a variable"),
        ("%%amlrun local --x=$(touch pwned) `touch pwned`", "unrecognized arguments"),
    ],
)
def test_K2_a_wrong_line_says_what_is_wrong_and_starts_nothing(
    kernel: Notebook, project: Path, line: str, told: str
) -> None:
    cell = kernel.run(line + "\n1")
    assert cell.status == "error"
    assert told in cell.error
    assert "Traceback" not in cell.error
    assert len(cell.error.splitlines()) <= 4
    assert not cell.displays
    assert not (project / "pwned").exists()


K1 = [
    "x = '''---\n{x} %s %(y)s $(id) `id` $HOME ${y}'''\n",
    "tab\t= 1\n\n\n",
    "# \u00e9\u4e2d\U0001f600 \u2028 \x0c\n",
    "text = 'a\\r\\nb'\r\nb = 2\r\n",
    "%%timeit_like = 1".replace("%%", "") + "\n",
    "s = '%%amlrun local'\n!echo hello\n",
    "import asyncio\nawait asyncio.sleep(0)\n",
    "'''" + "5 MB " * 1_000_000 + "''';\n",
]


@pytest.mark.parametrize("source", K1, ids=range(len(K1)))
def test_K1_the_bytes_of_a_cell_arrive_as_they_were_typed(
    kernel: Notebook, home_of_module: str, source: str
) -> None:
    cell = kernel.run("%%amlrun local\n" + source)
    assert cell.status == "ok", cell.error
    arrived = (job_of(home_of_module, cell) / "cell.py").read_bytes()
    assert hashlib.sha256(arrived).digest() == hashlib.sha256(source.encode()).digest()


@pytest.mark.parametrize("source", ["x = '\\ud800'.encode('utf-16', 'surrogatepass')\n", "x = 'a\x00b'\n"])
def test_K1_text_that_no_file_can_hold_is_refused_by_its_line(kernel: Notebook, source: str) -> None:
    if "ud800" in source:
        code = "get_ipython().run_cell_magic('amlrun', 'local', 'y = 1\\nx = \"\\ud800\"\\n')"
    else:
        code = "get_ipython().run_cell_magic('amlrun', 'local', 'y = 1\\nx = \"\\0\"\\n')"
    cell = kernel.run(code)
    assert cell.status == "error"
    assert "line 2 of the cell" in cell.error


def test_braces_and_dollars_are_replaced_in_the_line_and_never_in_the_cell(kernel: Notebook) -> None:
    kernel.run("rate = 0.25\nwho = 'local'")
    cell = kernel.run("%%amlrun {who} -p rate=$rate\nprint(rate, '{rate}', '$rate')")
    assert cell.text() == "0.25 {rate} $rate\n"


def test_the_options_are_shown_by_a_question_mark(kernel: Notebook) -> None:
    cell = kernel.run("%%amlrun?")
    assert cell.reply is not None
    text = cell.reply["payload"][0]["data"]["text/plain"]
    for word in ("--detach", "--in A,B", "--timeout TIME", "--from-run RUN", "examples:"):
        assert word in text
    assert kernel.run("%amlrun --help").status == "ok"


@pytest.mark.slow
def test_targets_verbs_and_options_are_completed(kernel: Notebook) -> None:
    def completed(text: str) -> list[str]:
        message = kernel.client.complete(text, reply=True, timeout=30)
        found: list[str] = message["content"]["matches"]
        return found

    assert any("local" in one for one in completed("%%amlrun lo"))
    assert any("--timeout" in one for one in completed("%amlrun local --time"))
    assert any("rescue" in one for one in completed("%aml res"))


def test_progress_bars_and_escape_sequences_arrive_folded_and_harmless(kernel: Notebook) -> None:
    cell = kernel.run(
        "%%amlrun local\n"
        "import sys, time\n"
        "for n in range(101): sys.stdout.write('\\r%d%%' % n)\n"
        "sys.stdout.write('\\n\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07\\x1b[2J\\x00end\\n')"
    )
    shown = cell.text()
    assert "100%" in shown
    assert shown.count("%") < 60
    assert "\x1b[31mred\x1b[0m" in shown
    assert "title" not in shown
    assert "\x1b[2J" not in shown
    assert "\x00" not in shown


def test_display_updates_replace_what_they_name_and_clear_output_keeps_the_card(kernel: Notebook) -> None:
    cell = kernel.run(
        "%%amlrun local\n"
        "import time, aml_run\n"
        "for n in range(200):\n"
        "    aml_run.display({'text/plain': str(n)}, raw=True, display_id='bar', update=n > 0)\n"
        "print('gone'); time.sleep(.3); aml_run.clear_output(); print('stays')"
    )
    assert cell.status == "ok", cell.error
    bars = [data for name, data in cell.shown().items() if name.endswith("-bar")]
    assert [one["text/plain"] for one in bars] == ["199"]
    assert len(cell.of("update_display_data")) < 60
    assert len(cell.of("clear_output")) == 1
    kinds = [one["msg_type"] for one in cell.messages]
    after = cell.messages[kinds.index("clear_output") + 1]
    assert after["content"]["transient"]["display_id"] == f"aml-card-{cell.run_id}"
    assert "Completed" in cell.card["text/plain"]


@pytest.mark.slow
def test_G1_a_long_output_stays_bounded_and_says_how_to_read_the_rest(kernel: Notebook) -> None:
    cell = kernel.run("%%amlrun local\nfor n in range(200_000): print(n, 'x' * 50)")
    assert len(cell.text()) == 256 << 10
    tail = next(data for name, data in cell.shown().items() if name.endswith("-tail"))
    assert "199999 xx" in tail["text/plain"]
    assert f"%aml logs {cell.run_id}" in tail["text/html"]
    assert "Completed" in cell.card["text/plain"]
    assert sum(len(str(one["content"])) for one in cell.messages) < 1_000_000


@pytest.mark.slow
def test_G1_a_flood_of_small_pieces_stays_below_the_limits_of_the_server(kernel: Notebook) -> None:
    cell = kernel.run(
        "%%amlrun local\nimport sys\nfor n in range(20_000):\n    print(n); print(n, file=sys.stderr)"
    )
    assert cell.status == "ok"
    times = [stamp for one, stamp in zip(cell.messages, cell.times, strict=True)]
    busiest = max(sum(begin <= one < begin + 3 for one in times) for begin in times)
    assert busiest < 3000
    assert len(cell.messages) < 2500


@pytest.mark.slow
def test_G2_one_line_of_ten_megabytes_is_cut(kernel: Notebook) -> None:
    cell = kernel.run("%%amlrun local\nprint('y' * 10_000_000, end='')")
    assert len(cell.text()) <= 256 << 10
    assert sum(len(str(one["content"])) for one in cell.messages) < 1_000_000


@pytest.mark.slow
def test_a_detached_run_returns_at_once_and_its_card_follows(kernel: Notebook) -> None:
    cell = kernel.run("%%amlrun local -d --run away\nimport time\ntime.sleep(1)\nprint('late')")
    assert cell.status == "ok"
    assert "Completed" not in cell.card["text/plain"]
    other = kernel.start("import time\ntime.sleep(3)\nprint('mine')")
    kernel.finish(other)
    assert other.text() == "mine\n"
    assert not other.of("display_data")
    assert "Completed" in cell.card["text/plain"]
    assert "late" in cell.card["text/html"]
    assert not cell.text()
    assert kernel.run("print(away.status, away.logs())").text() == "Completed late\n\n"


def test_a_run_is_attached_with_its_output_replayed(kernel: Notebook) -> None:
    first = kernel.run("%%amlrun local -q\nprint('once')\n[1]", cell_id="cell-7")
    assert not first.text()
    again = kernel.run("%aml attach @last")
    assert again.text() == "once\n"
    assert again.displays[1]["text/plain"] == "[1]"
    assert again.run_id == first.run_id
    cell = kernel.run("%aml attach @cell", cell_id="cell-7")
    assert cell.run_id == first.run_id


def test_verbs_are_those_of_the_command(kernel: Notebook) -> None:
    run = kernel.run("%amlrun local train.py")
    table = kernel.run("%aml runs --limit 2").displays[0]
    assert run.run_id in table["text/plain"]
    assert "<table>" in table["text/html"]
    assert kernel.run(f"%aml cat {run.run_id} outputs/model.txt").text() == "m"
    assert "Completed" in kernel.run(f"%aml show {run.run_id}").card["text/plain"]
    assert f'"run_id": "{run.run_id}"' in kernel.run(f"%aml show {run.run_id} --json").text()
    assert "did you mean rescue" in kernel.run("%aml rescu x").error
    assert "usage: %aml" in kernel.run("%aml").text()
    assert "arguments []" in kernel.run("%aml run local train.py").text()


def test_the_calling_notebook_is_left_out_and_the_cell_is_known(
    kernel: Notebook, project: Path, home_of_module: str
) -> None:
    (project / "work.ipynb").write_text("{}")
    kernel.run(f"__vsc_ipynb_file__ = {str(project / 'work.ipynb')!r}")
    cell = kernel.run("%%amlrun local\nimport os\nprint(os.path.exists('work.ipynb'))", cell_id="cell-9")
    assert cell.text() == "False\n"
    told = kernel.run("print(_run.record.notebook, _run.record.cell_id)")
    assert told.text() == "work.ipynb cell-9\n"
    kernel.run("del __vsc_ipynb_file__")


def test_an_environment_is_prepared_without_a_run(kernel: Notebook, home_of_module: str) -> None:
    before = sorted(Path(home_of_module).glob("ids/*"))
    for line in ("%%amlrun local --prepare-only\n1/0", "%amlrun local --prepare-only"):
        cell = kernel.run(line)
        assert cell.status == "ok"
        assert "version: 3." in cell.text()
    assert sorted(Path(home_of_module).glob("ids/*")) == before


def test_a_dry_run_tells_what_would_be_sent_and_sends_nothing(kernel: Notebook, home_of_module: str) -> None:
    before = set(Path(home_of_module).glob("ids/*"))
    cell = kernel.run("%%amlrun local --dry-run\n1")
    assert cell.status == "ok", cell.error
    assert "target: local" in cell.text()
    assert "train.py" in cell.text() + str(cell.displays)
    assert set(Path(home_of_module).glob("ids/*")) == before


def test_K5_the_same_cell_twice_is_two_runs(kernel: Notebook) -> None:
    code = "%%amlrun local -q\n1"
    ids = {kernel.run(code).run_id for _ in range(3)}
    assert len(ids) == 3


def test_a_run_that_is_timed_out_says_so(kernel: Notebook) -> None:
    cell = kernel.run("%%amlrun local --timeout 0.5s\nimport time\ntime.sleep(60)")
    assert cell.status == "error"
    assert "run.timeout" in cell.error


def test_unloading_takes_the_magics_away_and_loading_brings_them_back(kernel: Notebook) -> None:
    assert kernel.run("%unload_ext aml_jupyter").status == "ok"
    assert re.search("not found", kernel.run("%amlrun local train.py").text("stderr"))
    assert kernel.run("%load_ext aml_jupyter").status == "ok"
    assert kernel.run("%amlrun local train.py").status == "ok"


def test_a_flood_of_displays_is_counted_and_left_out(kernel: Notebook) -> None:
    cell = kernel.run(
        "%%amlrun local\nimport aml_run\n"
        "for n in range(6000): aml_run.display({'text/plain': 'd%d' % n}, raw=True)\nprint('done')"
    )
    assert cell.status == "ok", cell.error
    assert 500 < len(cell.displays) < 2600
    assert "displays are not shown here" in cell.text("stderr")
    assert "done" in cell.text()


def test_what_a_value_lacks_is_told_and_the_others_are_there(kernel: Notebook) -> None:
    kernel.run("good = bad = None")
    cell = kernel.run("%%amlrun local -o good,bad\ngood = 1\nbad = lambda: 0")
    assert cell.status == "error"
    assert "bad" in cell.error
    assert kernel.run("print(good)").text() == "1\n"


UNASKED = r"""
import sys
from aml_run import channel
run = b"cos\nsystem\n(S'touch ran'\ntR."
for name, kind, data in (("wanted", "json", b"[1]"), ("planted", "json", b"[2]"), ("ran", "pickle", run)):
    event = {"type": "value", "name": name, "encoding": kind, "file": channel.store(data), "kind": "x"}
    channel.emit({**event, "python": "%d.%d" % sys.version_info[:2]})
"""


def test_a_run_defines_only_what_was_asked_for(kernel: Notebook, project: Path) -> None:
    names = "print([name for name in ('wanted', 'planted', 'ran') if name in globals()])"
    for line in ("%%amlrun local -o wanted\nwanted = 1\n", "%%amlrun local\n"):
        cell = kernel.run(line + UNASKED)
        assert cell.status == "ok", cell.error
        assert kernel.run(names).text() == ("['wanted']\n" if "-o" in line else "[]\n")
        kernel.run("globals().pop('wanted', None)")
        assert kernel.run(f"%aml attach {cell.run_id}").status == "ok"
        assert kernel.run(names).text() == ("['wanted']\n" if "-o" in line else "[]\n")
        kernel.run("globals().pop('wanted', None)")
    assert not (project / "ran").exists()


NEVER_TOLD = (
    "from aml_jupyter.magics import submit\n"
    "from aml_jupyter.starting import Starter\n"
    "class Ends(Starter):\n"
    "    def go(self, directory, secrets, passwords=None): self.leave()\n"
    "submit.STANDBY.close()\n"
    "submit.STANDBY._ready = Ends()\n"
)


@pytest.mark.slow
def test_a_new_supervisor_gets_the_secrets_that_the_cell_still_holds(kernel: Notebook) -> None:
    kernel.run(NEVER_TOLD)
    cell = kernel.run("%%amlrun local -e TOKEN=s3cr3t\nimport os\nprint(len(os.environ['TOKEN']))")
    assert cell.status == "ok", cell.error
    assert cell.text() == "6\n"


@pytest.mark.slow
def test_attaching_to_a_run_that_needs_a_secret_says_how_to_give_it(kernel: Notebook) -> None:
    kernel.run(NEVER_TOLD)
    run_id = kernel.run("%%amlrun local -d -e TOKEN=s3cr3t\n1").run_id
    cell = kernel.run(f"%aml attach {run_id}")
    assert cell.status == "error"
    assert "secret.needed" in cell.error
    assert kernel.run(f"%aml resume {run_id} -e TOKEN=x").text() == f"{run_id} resumed\n"
    # the new supervisor is still starting
    until(lambda: kernel.run("print(_run.status)").text() != "NotResponding\n")
    again = kernel.run(f"%aml attach {run_id}")
    assert again.status == "ok", again.error


def test_long_metrics_stand_on_the_card_while_the_run_goes_on(kernel: Notebook, project: Path) -> None:
    cell = kernel.start(
        "%%amlrun local\nimport aml_run, time, os\naml_run.log('many', list(range(40_000)))\n"
        "for _ in range(600):\n    if os.path.exists(" + repr(str(project.parent / "seen")) + "): break\n"
        "    time.sleep(0.1)"
    )
    kernel.until(lambda: cell.displays and "many" in cell.card["text/plain"])
    (project.parent / "seen").touch()
    kernel.finish(cell)
    assert cell.status == "ok", cell.error


def test_no_artifact_or_log_steers_the_terminal_that_ipython_runs_on(
    kernel: Notebook, project: Path, home_of_module: str
) -> None:
    cell = kernel.run(
        "%%amlrun local -q\nimport os\nopen('outputs/a', 'wb').write(b'\\x1b]0;title\\x07\\x1b[2Jtext\\n')\n"
        "os.write(1, b'caf\\xe9 \\x1b[2Jprinted\\n');"
    )
    lines = ["%load_ext aml_jupyter", f"%aml cat {cell.run_id} outputs/a", f"%aml logs {cell.run_id}"]
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "-c", "\n".join(lines)],
        cwd=project,
        env=environment(AML_HOME=home_of_module, HOME=str(project.parent / "home")),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert b"text\ncaf\xef\xbf\xbd printed\n" in done.stdout
    assert b"\x1b" not in done.stdout
    assert "caf\ufffd printed" in kernel.run(f"%aml logs {cell.run_id}").text()


def test_W3_W4_a_saved_notebook_holds_no_folder_token_or_script(
    kernel: Notebook, home_of_module: str, project: Path
) -> None:
    cell = kernel.run("%%amlrun local -e TOKEN=s3cr3t-s3cr3t\nimport os\nprint(len(os.environ['TOKEN']))")
    assert cell.text() == "13\n"
    for data in (*cell.displays, *(one["data"] for one in cell.of("update_display_data"))):
        for text in data.values():
            assert home_of_module not in text
            assert str(project) not in text
            assert "s3cr3t" not in text
            assert "<script" not in text


@pytest.mark.slow
def test_B8_a_log_of_a_gigabyte_leaves_kernel_and_client_small(kernel: Notebook) -> None:
    def resident(pid: int, name: str) -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1])

    assert kernel.manager.provisioner is not None
    pids = (kernel.manager.provisioner.process.pid, os.getpid())  # type: ignore[attr-defined]
    before = {}
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        before[pid] = resident(pid, "VmRSS")
    block = "block = ('x' * 99 + '\\n') * 1000\nimport sys\nfor n in range(10_240): sys.stdout.write(block)"
    cell = kernel.run("%%amlrun local\n" + block, timeout=240)
    assert cell.status == "ok", cell.error
    for pid in pids:
        assert resident(pid, "VmHWM") - before[pid] < 64 << 10
    assert f"%aml logs {cell.run_id}" in str(cell.shown())


@pytest.mark.slow
def test_what_is_printed_appears_within_a_tenth_of_a_second(kernel: Notebook) -> None:
    source = "import time\nfor n in range(30):\n    time.sleep(0.11)\n    print(time.time())"
    cell = kernel.run("%%amlrun local\n" + source)
    late = sorted(
        stamp - float(line)
        for one, stamp in zip(cell.messages, cell.times, strict=True)
        if one["msg_type"] == "stream"
        for line in one["content"]["text"].split()
    )
    assert len(late) == 30
    assert late[len(late) // 2] < 0.1
