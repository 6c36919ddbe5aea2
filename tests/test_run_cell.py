"""A cell as the main program of a run, on every Python that this machine has."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter.cell import write_cell
from aml_jupyter.errors import ValueTransferError
from aml_jupyter.values import decode, restored
from tests.receiver import Outcome, make_job, run, run_cell
from tests.requirements import python_versions

VERSIONS = python_versions()
NEWEST = list(VERSIONS.values())[-1]
every_python = pytest.mark.parametrize("version", list(VERSIONS))


def cell(folder: Path, source: str, python: str = sys.executable, *arguments: str, **options: Any) -> Outcome:
    return run_cell(folder, python, textwrap.dedent(source).strip("\n"), *arguments, **options)


def story(outcome: Outcome) -> list[tuple[str, Any]]:
    """What arrived, neighbouring pieces of one stream joined, events by type and plain text."""
    told: list[tuple[str, Any]] = []
    for kind, data in outcome.parts:
        if kind == "j":
            told.append((data["type"], data.get("data", {}).get("text/plain")))
        elif told and told[-1][0] == kind:
            told[-1] = (kind, told[-1][1] + data.decode())
        else:
            told.append((kind, data.decode()))
    return told


def last_result(outcome: Outcome) -> Any:
    return outcome.of("result")[-1]["data"]["text/plain"]


@every_python
def test_streams_display_and_result_keep_their_exact_order(tmp_path: Path, version: str) -> None:
    source = """
        import sys, os
        print("one")
        print("two", file=sys.stderr)
        display({"three": 3})
        print("four", end="")
        sys.stderr.write("five")
        sys.stdout.buffer.write(b"six\\n"); sys.stdout.flush()
        os.system("echo seven")
        sys.stdout.write("eight\\n")
        [9]
    """
    outcome = cell(tmp_path, source, VERSIONS[version])
    assert outcome.status == 0
    told = story(outcome)
    assert [one for one in told if one[0] != "1"] == [
        ("o", "one\n"),
        ("e", "two\n"),
        ("display", "{'three': 3}"),
        ("o", "four"),
        ("e", "five"),
        (
            "o",
            "six\n" if ("1", "seven\n") in told[:8] and told.index(("1", "seven\n")) == 6 else "six\neight\n",
        ),
        *([("o", "eight\n")] if told.index(("1", "seven\n")) == 6 else []),
        ("result", "[9]"),
    ]


@every_python
def test_a_cell_is_the_main_program(tmp_path: Path, version: str) -> None:
    source = """
        import os, pickle, sys, inspect
        class Thing:
            def method(self): return 1
        assert __name__ == "__main__"
        assert sys.argv[1:] == ["a", "--b=c d"], sys.argv
        assert sys.path[0] == os.getcwd(), sys.path[0]
        assert os.path.isfile(__file__) and sys.argv[0] == __file__
        assert pickle.loads(pickle.dumps(Thing())).method() == 1
        assert inspect.getsource(Thing.method).strip() == "def method(self): return 1"
        assert inspect.getsource(Thing).startswith("class Thing")
        assert not sys.stdout.isatty() and sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2
        assert sys.stdout.encoding == "utf-8" and sys.stdin.read() == ""
        assert not [n for n in sys.path if n.endswith("/runtime")]
        import main_of_project
        leftovers = sorted(n for n in globals() if not n.startswith("__"))
        leftovers
    """
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "main_of_project.py").write_text("")
    outcome = cell(tmp_path, source, VERSIONS[version], "a", "--b=c d")
    assert (outcome.status, outcome.err) == (0, "")
    assert last_result(outcome) == "['Thing', 'inspect', 'main_of_project', 'os', 'pickle', 'sys']"


@every_python
@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("1", "1"), ("1;", None), ("1 ; # end", None), ("None", None), ("x = 1", None), ("x = 1; x", "1"),
        ("'a;b'", "'a;b'"), ("x = 2\nx # ;", "2"), ("", None), ("# only", None), ("if 1:\n    5", None),
        ("from __future__ import annotations\ndef f(a: nope): pass\nf.__annotations__", "{'a': 'nope'}"),
        ("import asyncio\nasync def f(): return 7\nawait f()", "7"),
        ("import asyncio\nawait asyncio.sleep(0)\n[await asyncio.sleep(0, i) for i in (0, 1)]", "[0, 1]"),
        ("  x = 3\n  x", "3"), ("x = '''a\r\nb'''\r\nx", "'a\\nb'"), ("é = 'ü'\né", "'ü'"), ("'é';", None),
        ("{'a': 1}", "{'a': 1}"), ("(\n1,\n2\n)", "(1, 2)"), ("%(a)s" and "'%s {x} $() `'", "'%s {x} $() `'"),
    ],
)  # fmt: skip
def test_the_last_expression_is_the_result(
    tmp_path: Path, version: str, source: str, result: str | None
) -> None:
    outcome = run_cell(tmp_path, VERSIONS[version], source.encode())
    assert (outcome.status, outcome.err) == (0, "")
    shown = [event["data"]["text/plain"] for event in outcome.of("result")]
    assert shown == ([] if result is None else [result])


@every_python
def test_a_traceback_points_into_the_lines_of_the_cell(tmp_path: Path, version: str) -> None:
    source = """
        import json
        def load(text):
            return json.loads(text)

        try:
            {}["k"]
        except KeyError:
            load("{")
    """
    outcome = cell(tmp_path, source, VERSIONS[version], filename="<cell 3>")
    assert outcome.status == 1
    (event,) = outcome.of("error")
    assert event["ename"] == "JSONDecodeError"
    assert event["evalue"].startswith("Expecting property name")
    text = "\n".join(event["traceback"])
    assert outcome.err == text + "\n"
    assert "aml_run" not in text
    assert "run_cell" not in text
    assert '  File "<cell 3>", line 8, in <module>\n    load("{")' in text
    assert '  File "<cell 3>", line 3, in load\n    return json.loads(text)' in text
    assert "During handling of the above exception" in text
    assert '{}["k"]' in text
    assert "\x1b" not in text


@every_python
@pytest.mark.parametrize(
    ("source", "status", "err"),
    [
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('bye')", 1, "bye\n"),
        ("raise SystemExit", 0, ""),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt\n"),
        ("import os; os._exit(5)", 5, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("x = (", 1, "SyntaxError"),
        ("x = 'a\0b'", 1, "null byte"),
        ("input('name? ')", 1, "standard input is empty"),
        ("class E(Exception):\n    def __str__(self): 1/0\nraise E", 1, "E"),
        ("import sys\nsys.excepthook = lambda *a: print('hooked', a[0].__name__)\n1/0", 1, ""),
        ("def f(): f()\nf()", 1, "RecursionError"),
        ("import nothing_of_that_name", 1, "ModuleNotFoundError"),
        ("x: int = 1\nraise ValueError('\\ud800')", 1, "ValueError"),
    ],
)
def test_a_cell_ends_as_a_program_does(
    tmp_path: Path, version: str, source: str, status: int, err: str
) -> None:
    outcome = run_cell(tmp_path, VERSIONS[version], source)
    assert outcome.status == status
    assert err in outcome.err
    if not err and status <= 0:
        assert outcome.err == ""
    assert "aml_run" not in outcome.err
    if status == 1 and "exit" not in source:
        assert len(outcome.of("error")) == 1


@every_python
def test_rich_objects_are_shown_in_all_their_forms(tmp_path: Path, version: str) -> None:
    source = """
        class Rich:
            def _repr_html_(self): return "<b>"
            def _repr_png_(self): return b"\\x89PNG", {"width": 3}
            def _repr_latex_(self): return None
            def _repr_json_(self): return {"a": [1]}
            def __repr__(self): return "rich"
        class Bundle:
            def _repr_mimebundle_(self, include=None, exclude=None):
                return {"text/plain": "own", "application/vnd.x+json": {"k": 1}}, {"m": 2}
            def _repr_html_(self): return "<i>"
        class Itself:
            def _ipython_display_(self): print("shows itself")
        class Broken:
            def _repr_html_(self): 1/0
            def __repr__(self): raise ValueError("no repr")
        class Anything:
            def __getattr__(self, name): return lambda *a, **k: "?"
            def __repr__(self): return "anything"
        display(Rich, Anything(), Itself(), Bundle(), Broken())
        h = display(Rich(), display_id=True, exclude=["text/html"])
        h.update(1)
        Rich()
    """
    outcome = cell(tmp_path, source, VERSIONS[version])
    assert outcome.status == 0
    cls, anything, bundle, broken, rich, update = outcome.of("display")
    assert cls["data"] == {"text/plain": "<class '__main__.Rich'>"}
    assert anything["data"] == {"text/plain": "anything"}
    assert bundle["data"] == {"text/plain": "own", "application/vnd.x+json": {"k": 1}, "text/html": "<i>"}
    assert bundle["metadata"] == {"m": 2}
    assert broken["data"] == {"text/plain": "<Broken>"}
    assert "no repr" in outcome.err
    assert "text/html" not in rich["data"]
    assert (update["update"], update["display_id"]) == (True, rich["display_id"])
    (result,) = outcome.of("result")
    assert result["data"] == {
        "text/html": "<b>", "image/png": "iVBORw==", "application/json": {"a": [1]}, "text/plain": "rich",
    }  # fmt: skip
    assert result["metadata"] == {"image/png": {"width": 3}}
    assert "shows itself" in outcome.out


@every_python
def test_long_containers_are_folded_and_cut(tmp_path: Path, version: str) -> None:
    source = "display(list(range(100000)), {'k' * 50: 'v' * 50}, {str(i): i for i in range(2000)})"
    outcome = cell(tmp_path, source, VERSIONS[version])
    long, wide, table = (event["data"]["text/plain"] for event in outcome.of("display"))
    assert long.count("\n") == 1000
    assert long.endswith("...]")
    assert wide == f"{{{'k' * 50!r}: {'v' * 50!r}}}"
    assert table.startswith("{'0': 0,\n '1': 1")


@pytest.mark.slow
def test_frames_images_and_figures_are_shown(tmp_path: Path) -> None:
    source = """
        import matplotlib.pyplot as plt, pandas as pd, PIL.Image
        display(pd.DataFrame({"a": [1]}), PIL.Image.new("RGB", (2, 2)))
        plt.plot([1, 2]); plt.show()
        figure, axes = plt.subplots(); axes.plot([3])
        shown, _ = plt.subplots()
        display(shown)
        print("end")
        figure
    """
    outcome = cell(tmp_path, source)
    assert (outcome.status, outcome.err) == (0, "")
    forms = [set(event["data"]) for event in outcome.of("display")]
    assert forms[0] == {"text/html", "text/plain"}
    assert {"image/png", "text/plain"} <= forms[1]
    assert (
        forms[2:] == [{"image/png", "text/plain"}] * 2
    )  # shown by plt.show() and display(), none at the end
    assert story(outcome)[-2:] == [("o", "end\n"), ("result", "<Figure size 640x480 with 1 Axes>")]


@pytest.mark.slow
def test_open_figures_are_shown_at_the_end_also_of_a_failed_cell(tmp_path: Path) -> None:
    outcome = cell(tmp_path, "import matplotlib.pyplot as plt\nplt.plot([1])\nplt.figure()\n1/0")
    assert outcome.status == 1
    assert [kind for kind, _ in story(outcome)] == ["error", "e", "display", "display"]
    png = restored(outcome.of("display")[0], outcome.data)["data"]["image/png"]
    assert png.startswith("iVBORw0KGgo")


@every_python
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_runs_functions_of_the_cell(tmp_path: Path, version: str, method: str) -> None:
    source = f"""
        import asyncio, multiprocessing, sys
        await asyncio.sleep(0)
        class Box:
            def __init__(self, value): self.value = value
        def square(box):
            print("child", box.value)
            return Box(box.value ** 2 + offset)
        if __name__ == "__main__":
            with multiprocessing.get_context("{method}").Pool(2) as pool:
                print([one.value for one in pool.map(square, [Box(1), Box(2)])])
    """
    outcome = cell(tmp_path, source, VERSIONS[version], params={"offset": 10})
    assert (outcome.status, outcome.err) == (0, "")
    assert sorted(outcome.out.splitlines()) == ["[11, 14]", "child 1", "child 2"]


@every_python
def test_threads_and_forks_print_whole_lines(tmp_path: Path, version: str) -> None:
    source = """
        import os, sys, threading
        def work(n):
            for i in range(5000): sys.stdout.write("%d-%05d\\n" % (n, i))
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        [t.start() for t in threads]
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                print("child"); sys.stdout.flush(); os._exit(0)
            os.waitpid(pid, 0)
        [t.join() for t in threads]
        print("end")
    """
    outcome = cell(tmp_path, source, VERSIONS[version], environment={"PYTHONWARNINGS": "ignore"})
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[-1] == "end"
    assert lines.count("child") == 5
    expected = sorted(f"{n}-{i:05d}" for n in range(4) for i in range(5000))
    assert sorted(line for line in lines if "-" in line) == expected


@every_python
def test_threads_that_print_after_a_fork_start_one_flusher_between_them(tmp_path: Path, version: str) -> None:
    source = """
        import os, sys, threading
        sys.setswitchinterval(1e-5)
        stop = False
        def work():
            while not stop: sys.stdout.write("-\\n")
        threads = [threading.Thread(target=work) for _ in range(4)]
        [t.start() for t in threads]
        for _ in range(40):
            pid = os.fork()
            if pid == 0: os._exit(0)
            os.waitpid(pid, 0)
        stop = True
        [t.join() for t in threads]
        def threads_left(): return len(os.listdir("/proc/self/task"))
        import time
        until = time.monotonic() + 10
        while threads_left() > 2 and time.monotonic() < until: time.sleep(0.01)
        print(threads_left())
    """
    outcome = cell(tmp_path, source, VERSIONS[version], environment={"PYTHONWARNINGS": "ignore"})
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.splitlines()[-1] in ("1", "2")  # the cell's own, and the flusher


@every_python
def test_output_of_a_cell_leaves_within_a_tick(tmp_path: Path, version: str) -> None:
    outcome = cell(tmp_path, "import time\nprint('a')\ntime.sleep(.6)\nprint('b')\ntime.sleep(.6)\n1", VERSIONS[version])  # fmt: skip  # noqa: E501
    first, second, last = outcome.times
    assert 0.4 < second - first < 0.8
    assert 0.4 < last - second < 0.8


def test_the_program_may_replace_or_close_the_streams(tmp_path: Path) -> None:
    source = """
        import contextlib, io, sys
        with contextlib.redirect_stdout(io.StringIO()) as kept: print("caught")
        sys.stdout.reconfigure(line_buffering=True)
        print(kept.getvalue(), end="")
        again = io.TextIOWrapper(sys.stdout.buffer, encoding="latin-1")
        print("\xe9", file=again, flush=True)
        again.detach()
        print("lone \\ud800")
        class Tee:
            def __init__(self, to): self.to = to
            def write(self, text): return self.to.write(text.upper())
            def flush(self): self.to.flush()
        sys.stdout = Tee(sys.stdout)
        print("tee")
        sys.stderr.close()
        1
    """
    outcome = cell(tmp_path, source)
    assert outcome.status == 0
    assert (
        b"".join(data for kind, data in outcome.parts if kind == "o") == b"caught\n\xe9\nlone \\ud800\nTEE\n"
    )
    assert last_result(outcome) == "1"


@every_python
def test_values_come_in_and_go_out(tmp_path: Path, version: str) -> None:
    job = make_job(tmp_path)
    inputs = {"text": "a\ud800", "raw": b"\0", "table": {1: [float("inf")], "t": (1, {2})}}
    source = b"assert (text, raw, table[1], rate) == ('a\\ud800', b'\\0', [float('inf')], 0.5)\nback = (table, text)\nkept = 3\n1/0"  # noqa: E501
    write_cell(str(job), source, inputs, ("back", "kept"), {"rate": 0.5}, python=version)
    outcome = run(job, [VERSIONS[version], str(job / "runtime" / "run_cell.py")])
    assert outcome.of("error")[0]["ename"] == "ZeroDivisionError", outcome.err
    back, kept = outcome.of("value")  # also of a cell that failed
    assert decode(back, outcome.data) == (inputs["table"], "a\ud800")
    assert decode(kept, outcome.data) == 3
    assert back["python"] == version
    assert kept["preview"] == "3"


def test_arrays_and_frames_come_in_and_go_out(tmp_path: Path) -> None:
    import numpy as np
    import pandas as pd

    job = make_job(tmp_path)
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    write_cell(
        str(job), b"df['c'] = a[0] * df.a\nm = a.max()", {"df": frame, "a": np.eye(2)}, ("df", "m"), {}
    )
    outcome = run(job, [sys.executable, str(job / "runtime" / "run_cell.py")])
    assert (outcome.status, outcome.err) == (0, "")
    back, most = outcome.of("value")
    pd.testing.assert_frame_equal(decode(back, outcome.data), frame.assign(c=[1.0, 0.0]))
    assert type(decode(most, outcome.data)) is np.float64


def test_a_failed_cell_is_not_blamed_for_the_values_it_did_not_come_to(tmp_path: Path) -> None:
    outcome = cell(tmp_path, "early = 1\n1 / 0\nlate = 2", outputs=["early", "late"])
    assert [event["ename"] for event in outcome.of("error")] == ["ZeroDivisionError"]
    assert [event["name"] for event in outcome.of("value")] == ["early"]


def test_a_frame_for_a_python_without_pandas_is_refused_by_name(tmp_path: Path) -> None:
    import pandas as pd

    job = make_job(tmp_path)
    write_cell(str(job), b"df", {"df": pd.DataFrame({"a": [1]})}, (), {})
    outcome = run(job, [NEWEST, "-S", "-I", str(job / "runtime" / "run_cell.py")])
    assert outcome.status == 1
    assert "'df' is a pandas" in outcome.of("error")[0]["evalue"]
    assert "aml_run" not in outcome.err


def test_what_cannot_be_brought_back_is_named(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    source = b"class Own: pass\nown = Own()\nfine = 1\nlock = __import__('threading').Lock()"
    write_cell(str(job), source, {}, ("own", "missing", "fine", "lock"), {})
    outcome = run(job, [sys.executable, str(job / "runtime" / "run_cell.py")])
    assert outcome.status == 1
    (error,) = outcome.of("error")
    assert error["ename"] == "ValueTransferError"
    for words in (
        "'own' (__main__.Own) needs Own",
        "'missing' was asked for",
        "'lock' (_thread.lock) cannot be sent",
    ):
        assert words in error["evalue"]
    assert [event["name"] for event in outcome.of("value")] == ["fine"]


def test_an_object_of_another_python_is_refused_with_both_versions(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    write_cell(str(job), b"import decimal\nx = decimal.Context()", {}, ("x",), {})
    oldest = next(iter(VERSIONS))
    if VERSIONS[oldest] == sys.executable:
        pytest.skip("needs two Python versions")
    outcome = run(job, [VERSIONS[oldest], str(job / "runtime" / "run_cell.py")])
    (error,) = outcome.of("error")
    assert "'x' (decimal.Context) can only be pickled" in error["evalue"]
    assert f"Python {oldest} cannot be read by Python 3.{sys.version_info[1]}" in error["evalue"]


def test_a_pickle_that_slipped_through_is_refused_before_loading(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    write_cell(str(job), b"x", {"x": slice(1, 2)}, (), {}, python="")
    outcome = run(job, [next(iter(VERSIONS.values())), str(job / "runtime" / "run_cell.py")])
    assert "was pickled by Python" in outcome.of("error")[0]["evalue"]
    with pytest.raises(ValueTransferError):
        write_cell(str(job), b"x", {"x": slice(1, 2)}, (), {}, python="3.8")


@pytest.mark.slow
def test_ipython_cells_run_by_the_ipython_of_the_target(tmp_path: Path) -> None:
    source = """
        %matplotlib inline
        import asyncio, sys
        import matplotlib.pyplot as plt
        listed = !echo a b
        !echo from the shell
        plt.plot([1, 2])
        %time print("timed")
        await asyncio.sleep(0)
        display(1)
        print("err", file=sys.stderr)
        len?
        listed
    """
    outcome = cell(tmp_path, source)
    assert outcome.status == 0, outcome.err
    told = story(outcome)
    assert "from the shell" in told[0][1]
    assert "timed\nCPU times" in outcome.out
    assert outcome.err == "err\n"
    assert ("display", "1") in told
    assert any(kind == "display" and str(text).startswith("Signature: len") for kind, text in told)
    assert last_result(outcome) == "['a b']"
    assert told[-1] == ("display", "<Figure size 640x480 with 1 Axes>")


@pytest.mark.parametrize(
    ("source", "status", "ename", "words"),
    [
        ("%nosuchmagic", 1, "UsageError", "not found"),
        ("%time 1\nx = (", 1, "SyntaxError", 'File "<cell>", line 2'),
        ("def f():\n    1/0\n%time f()", 1, "ZeroDivisionError", 'File "<cell>", line 2, in f\n    1/0'),
        ("%%time\nx = 1\n1/0", 1, "ZeroDivisionError", "ZeroDivisionError"),
        ("!exit 3\nimport sys\nsys.exit(4)", 4, None, ""),
        ("%time 1\nraise KeyboardInterrupt", -2, "KeyboardInterrupt", ""),
        ("%time 1\n2;", 0, None, ""),
        ("%time 1\nquit()", 0, None, ""),
    ],
)
def test_ipython_cells_end_as_others(
    tmp_path: Path, source: str, status: int, ename: str | None, words: str
) -> None:
    outcome = cell(tmp_path, source)
    assert outcome.status == status, outcome.err
    errors = outcome.of("error")
    assert [error["ename"] for error in errors] == ([ename] if ename else [])
    assert words in outcome.err
    assert outcome.err.count("Traceback") <= 1
    assert "aml_run" not in outcome.err
    assert "site-packages" not in outcome.err
    assert not outcome.of("result")


def test_an_ipython_cell_can_spawn_and_send_values(tmp_path: Path) -> None:
    source = """
        %time import multiprocessing
        !echo once
        import multiprocessing
        def double(x): return 2 * x
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool: doubled = pool.map(double, [1, 2])
    """
    outcome = cell(tmp_path, source, outputs=["doubled"])
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("once") == 1
    assert decode(outcome.of("value")[0], outcome.data) == [2, 4]


def test_ipython_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    outcome = cell(tmp_path, "%time 1\nget_ipython().ipython_dir")
    assert not (tmp_path / ".ipython").exists()
    assert not Path(last_result(outcome).strip("'")).exists()


def test_ipython_lines_without_ipython_are_a_syntax_error_of_that_line(tmp_path: Path) -> None:
    outcome = cell(tmp_path, "x = 1\n!ls", NEWEST, environment={"PYTHONNOUSERSITE": "1"})
    assert outcome.status == 1
    assert 'File "<cell>", line 2' in outcome.err


@every_python
def test_a_cell_runs_when_the_path_of_modules_is_lost(tmp_path: Path, version: str) -> None:
    job = make_job(tmp_path, "import aml_run\naml_run.log('a', 1)\nprint('x')\n6 * 7")
    outcome = run(job, [VERSIONS[version], "-I", "-B", str(job / "runtime" / "run_cell.py")])
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == "x\n"
    assert last_result(outcome) == "42"


def test_a_job_folder_with_a_long_name_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("é" * 40)
    deep.mkdir(parents=True)
    outcome = cell(deep, "print(1)\n2", NEWEST)
    assert outcome.out == "1\n"
    assert last_result(outcome) == "2"


@every_python
def test_big_outputs_arrive_whole(tmp_path: Path, version: str) -> None:
    source = """
        import sys
        print("x" * 5_000_000, flush=True)
        sys.stdout.buffer.write(bytes(range(256)) * 1000)
        "y" * 3_000_000
    """
    outcome = cell(tmp_path, source, VERSIONS[version])
    out = b"".join(data for kind, data in outcome.parts if kind == "o")
    assert out == b"x" * 5_000_000 + b"\n" + bytes(range(256)) * 1000
    assert all(len(data) < 32 * 1024 for kind, data in outcome.parts if kind == "o")
    data = restored(outcome.of("result")[0], outcome.data)["data"]
    assert data["text/plain"] == repr("y" * 3_000_000)


def test_a_runtime_that_is_gone_does_not_stop_the_cell(tmp_path: Path) -> None:
    import subprocess

    job = make_job(tmp_path, "print('a')\ndisplay(5)\nimport sys\nprint('e', file=sys.stderr)\n6")
    environment = {
        "AML_JOB": str(job),
        "AML_EVENTS": str(job / "no.sock"),
        "PYTHONPATH": f"{job}/runtime/site",
    }
    done = subprocess.run(
        [sys.executable, str(job / "runtime" / "run_cell.py")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\n5\n6\n", "e\n")
