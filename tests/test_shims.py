"""What programs find inside a run: azureml.logging, aml_run, prompt output and the display of notebooks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from aml_jupyter.metrics import merge_metrics
from tests.receiver import RUNTIME, Outcome, make_job, run, run_script
from tests.requirements import python_versions

VERSIONS = python_versions()
IRIS = Path(__file__).parent / "projects" / "iris_2018"
every_python = pytest.mark.parametrize("version", list(VERSIONS))


def metrics(outcome: Outcome) -> dict[str, Any]:
    return merge_metrics(outcome.events, outcome.data)


@pytest.mark.slow
def test_a_script_of_2018_runs_unmodified(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    shutil.copytree(IRIS, tmp_path / "work", dirs_exist_ok=True)
    (tmp_path / "share").mkdir()
    environment = {"AZUREML_NATIVE_SHARE_DIRECTORY": f"{tmp_path}/share/"}
    outcome = run(job, [sys.executable, "train_and_share.py", "0.02"], environment)
    assert outcome.status == 0, outcome.err
    assert outcome.err == ""
    found = metrics(outcome)
    assert found["Regularization Rate"] == 0.02
    assert isinstance(found["Accuracy"], float)
    assert 0.5 < found["Accuracy"] <= 1
    for name in ("Precision", "Recall", "Thresholds"):
        assert isinstance(found[name], list)
        assert all(isinstance(one, float) for one in found[name])
    assert found["Classes"] == ["0", "1", "2"]
    assert (tmp_path / "share" / "model.pkl").is_file()
    assert (tmp_path / "work" / "outputs" / "model.pkl").is_file()
    assert (tmp_path / "work" / "outputs" / "prediction" / "class.txt").read_text() == "0"


@every_python
def test_the_logger_takes_every_kind_of_value(tmp_path: Path, version: str) -> None:
    source = """
from azureml.logging import get_azureml_logger
import collections, enum
log = get_azureml_logger()
class Level(enum.IntEnum): HIGH = 3
for name, value in [("i", 1), ("f", 0.5), ("s", "true"), ("b", True), ("l", [1, "a", [2.0]]), ("t", (1, 2)),
        ("n", None), ("d", {"a": 1}), ("nan", float("nan")),
        ("enum", Level.HIGH), ("inf", [float("-inf"), 1.0])]:
    request = log.log(name, value)
assert request.wait() is request and "inf" in repr(request), repr(request)
log.log("i", 2); log.log("l", "end")
log.upload("a/b.txt", "text"); log.upload("outputs/c.bin", b"\\0"); log.upload("d.txt", open(__file__))
for bad in ("../x", "/", "a/../../x", ""):
    try: log.upload(bad, b"")
    except ValueError: pass
    else: raise SystemExit(bad)
"""
    outcome = run_script(tmp_path, VERSIONS[version], source)
    assert (outcome.status, outcome.err) == (0, "")
    found = metrics(outcome)
    assert str(found.pop("nan")) == "nan"
    assert found == {
        "i": [1, 2], "f": 0.5, "s": "true", "b": True, "l": [1, "a", [2.0], "end"], "t": [1, 2], "n": "None",
        "d": "{'a': 1}", "enum": 3, "inf": [float("-inf"), 1.0],
    }  # fmt: skip
    outputs = tmp_path / "work" / "outputs"
    assert (outputs / "a" / "b.txt").read_text() == "text"
    assert (outputs / "c.bin").read_bytes() == b"\0"
    assert (outputs / "d.txt").read_text() == source


@pytest.mark.slow
def test_arrays_scalars_and_columns_become_numbers(tmp_path: Path) -> None:
    source = """
import numpy as np, pandas as pd, decimal
import aml_run
aml_run.log("f32", np.float32(0.5)); aml_run.log("i", np.int64(3)); aml_run.log("b", np.bool_(True))
aml_run.log("a", np.array([1.5, np.nan])); aml_run.log("m", np.eye(2)); aml_run.log("zero", np.array(7))
aml_run.log("s", pd.Series([1, 2])); aml_run.log("l", [np.float64(1.0), np.int8(2)])
aml_run.log("step", 1.0, step=np.int64(4)); aml_run.log("big", np.zeros(200_000))
aml_run.log("long", list(range(50_000)))
aml_run.log("other", decimal.Decimal("1.5")); aml_run.log("class", np.float32)
"""
    outcome = run_script(tmp_path, sys.executable, source)
    assert (outcome.status, outcome.err) == (0, "")
    found = metrics(outcome)
    assert str(found.pop("a")) == "[1.5, nan]"
    assert found.pop("long") == [*range(0, 50_000, 8), 49_999]
    assert str(found.pop("big")).startswith("array([0.")
    assert found == {
        "f32": 0.5, "i": 3, "b": True, "m": [[1.0, 0.0], [0.0, 1.0]], "zero": 7, "s": [1, 2], "l": [1.0, 2],
        "step": 1.0, "other": "Decimal('1.5')", "class": "<class 'numpy.float32'>",
    }  # fmt: skip
    assert [event["step"] for event in outcome.events if event["name"] == "step"] == [4]


def test_tables_and_images_are_logged(tmp_path: Path) -> None:
    source = """
import aml_run, pandas as pd, matplotlib.pyplot as plt
aml_run.log_table("columns", {"a": [1, 2], "b": ["x", None]})
aml_run.log_table("rows", [{"a": 1}, {"a": 2, "b": 3.5}])
aml_run.log_table("lists", [[1, 2], [3]])
aml_run.log_table("frame", pd.DataFrame({"k": [1, 2], "v": ["a", "b"]}))
figure, axes = plt.subplots(); axes.plot([1, 2])
aml_run.log_image("figure", plot=figure); aml_run.log_image("axes", plot=axes)
aml_run.log_image("pyplot", plot=plt)
figure.savefig("outputs/x.png"); aml_run.log_image("file", path="outputs/x.png")
aml_run.log_image("bytes", bytes=b"\\xff\\xd8\\xff123")
try: aml_run.log_image("bad", bytes=b"text")
except ValueError: pass
try: aml_run.log_image("two", bytes=b"", path="x")
except ValueError: pass
"""
    outcome = run_script(tmp_path, sys.executable, source)
    assert (outcome.status, outcome.err) == (0, "")
    found = metrics(outcome)
    assert found["columns"] == {"a": [1, 2], "b": ["x", None]}
    assert found["rows"] == {"a": [1, 2], "b": [None, 3.5]}
    assert found["lists"] == {"0": [1, 3], "1": [2, None]}
    assert found["frame"] == {"k": [1, 2], "v": ["a", "b"]}
    for name in ("figure", "axes", "pyplot", "file"):
        place = found[name]
        assert isinstance(place, dict)
        assert place["mime"] == "image/png"
        assert outcome.data(place["$data"]).startswith(b"\x89PNG")
    assert "bad" not in found


@every_python
def test_outside_a_run_logging_does_nothing_and_says_so_once(tmp_path: Path, version: str) -> None:
    source = """
import aml_run
from azureml.logging import get_azureml_logger
aml_run.log("a", 1); aml_run.log_table("t", {"a": [1]})
aml_run.log_image("i", bytes=b"\\x89PNG\\r\\n\\x1a\\n")
get_azureml_logger().log("b", 2)
aml_run.display({"a": 1}); aml_run.clear_output()
"""
    command = [VERSIONS[version], "-c", source]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(RUNTIME / "site"), "PYTHONDONTWRITEBYTECODE": "1"}, cwd=tmp_path,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'a': 1}\n"
    assert done.stderr.count("\n") == 1
    assert "not part of a run" in done.stderr


@every_python
def test_the_namespace_azureml_stays_open_for_other_packages(tmp_path: Path, version: str) -> None:
    other = tmp_path / "other" / "azureml"
    (other / "core").mkdir(parents=True)
    (other / "__init__.py").write_text("__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n")
    (other / "core" / "__init__.py").write_text("NAME = 'core'\n")
    source = "import azureml.core, azureml.logging\nprint(azureml.core.NAME, azureml.logging.__file__)"
    job = make_job(tmp_path)
    path = f"{job}/runtime/site:{tmp_path}/other"
    outcome = run(job, [VERSIONS[version], "-c", source], {"PYTHONPATH": path})
    assert outcome.out.startswith("core ")
    assert "runtime/site" in outcome.out


@every_python
def test_printed_output_leaves_before_the_next_tick(tmp_path: Path, version: str) -> None:
    source = """
import sys, time
print("first"); time.sleep(0.6)
sys.stdout.buffer.write(b"second\\n"); time.sleep(0.6)
sys.stderr.write("third"); time.sleep(0.6)
print("last")
"""
    outcome = run_script(tmp_path, VERSIONS[version], source)
    assert outcome.status == 0
    arrived = dict(zip([data for _, data in outcome.parts], outcome.times, strict=True))
    assert list(arrived) == [b"first\n", b"second\n", b"third", b"last\n"]
    times = list(arrived.values())
    assert all(0.4 < later - before < 0.8 for before, later in pairwise(times)), times


@every_python
def test_output_survives_forks_threads_and_every_way_to_end(tmp_path: Path, version: str) -> None:
    source = """
import os, subprocess, sys, threading, time
print("before")
pid = os.fork()
if pid == 0:
    print("child"); time.sleep(0.2); print("late"); time.sleep(0.3); os._exit(0)
os.waitpid(pid, 0)
print("parent")
time.sleep(0.3)
for i in range(60000): print("line %05d" % i)
threads = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
os.system("echo shell")
subprocess.run(["echo", "program"])
pid = os.fork()
if pid == 0: os._exit(0)
os.waitpid(pid, 0)
print("end")
"""
    outcome = run_script(tmp_path, VERSIONS[version], source)
    assert outcome.status == 0
    assert outcome.err == ""
    lines = outcome.out.splitlines()
    assert lines[:4] == ["before", "child", "late", "parent"]
    assert lines[4:-3] == [f"line {i:05d}" for i in range(60000)]
    assert lines[-3:] == ["shell", "program", "end"]


@every_python
@pytest.mark.parametrize(
    "ending",
    ["sys.exit(3)", "1/0", "os._exit(4)", "threading.Timer(0.2, lambda: print('t')).start()",
     "os.kill(os.getpid(), 9)", "sys.stdout.close()", "sys.stdout = None", "os.close(1)",
     "atexit.register(print, 'exit')", "sys.stdout.detach()", "os.execv('/bin/echo', ['echo', 'x'])"],
)  # fmt: skip
def test_the_flusher_changes_no_ending(tmp_path: Path, version: str, ending: str) -> None:
    source = f"import atexit, os, sys, threading, time\nprint('x' * 100)\n{ending}\n"
    ours = run_script(tmp_path / "ours", VERSIONS[version], source)
    plain = subprocess.run(
        [VERSIONS[version], "-I", "-c", source], capture_output=True, stdin=subprocess.DEVNULL, cwd=tmp_path
    )
    assert ours.status == plain.returncode
    if "Timer" in ending or "atexit" in ending:
        assert ours.out == plain.stdout.decode()
    assert "Fatal" not in ours.err


@every_python
def test_the_next_sitecustomize_runs_too(tmp_path: Path, version: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import sys; sys.custom = __name__ + ' ' + __file__\n")
    job = make_job(tmp_path)
    source = "import sys, sitecustomize; print(sys.custom, sitecustomize.__file__)"
    path = f"{job}/runtime/site:{other}"
    outcome = run(job, [VERSIONS[version], "-c", source], {"PYTHONPATH": path})
    assert outcome.out.split() == ["sitecustomize", f"{other}/sitecustomize.py", f"{other}/sitecustomize.py"]


def test_a_program_may_fork_often_between_two_prints(tmp_path: Path) -> None:
    source = """
import os, sys
print("before")
for i in range(1100):  # more than calls may be nested
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
pid = os.fork()
if pid == 0: print("child"); sys.exit()
os.waitpid(pid, 0)
print("after")
"""
    outcome = run_script(tmp_path, sys.executable, source)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == "before\nchild\nafter\n"


def test_warnings_of_forking_with_threads_stay_those_of_the_program(tmp_path: Path) -> None:
    source = """
import os, time
print("x")
for i in range(5):
    time.sleep(0.06 * (i % 2))
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
    print(i)
"""
    newest = list(VERSIONS.values())[-1]
    outcome = run_script(tmp_path, newest, source, "-W", "error")
    assert (outcome.status, outcome.err) == (0, "")


@every_python
def test_the_modules_of_a_run_are_lint_and_compile_everywhere(tmp_path: Path, version: str) -> None:
    files = [str(path) for path in RUNTIME.rglob("*.py")]
    code = "import sys; [compile(open(f, 'rb').read(), f, 'exec') for f in sys.argv[1:]]"
    subprocess.run([VERSIONS[version], "-I", "-W", "error", "-c", code, *files], check=True)


def test_display_of_a_script_reaches_the_notebook(tmp_path: Path) -> None:
    source = """
import sys
print("before")
from IPython.display import HTML, clear_output, display, publish_display_data, update_display
handle = display(HTML("<b>1</b>"), display_id="one")
handle.update(HTML("<b>2</b>"))
update_display(HTML("<b>3</b>"), display_id="one")
publish_display_data({"text/plain": "raw"}, metadata={"text/plain": {"a": 1}})
clear_output(wait=True)
print("after")
"""
    outcome = run_script(tmp_path, sys.executable, source)
    assert (outcome.status, outcome.err) == (0, "")
    shown = outcome.of("display")
    assert [event["data"].get("text/html") for event in shown] == ["<b>1</b>", "<b>2</b>", "<b>3</b>", None]
    assert [event.get("update") for event in shown] == [None, True, True, None]
    assert {event.get("display_id") for event in shown[:3]} == {"one"}
    assert shown[3]["metadata"] == {"text/plain": {"a": 1}}
    assert outcome.of("clear_output") == [{"type": "clear_output", "wait": True}]
    assert outcome.out == "before\nafter\n"


@pytest.mark.slow
def test_figures_of_a_script_are_shown_and_its_own_backend_is_kept(tmp_path: Path) -> None:
    source = """
import matplotlib.pyplot as plt
plt.plot([1, 2]); plt.show()
assert plt.get_fignums() == []
plt.plot([3, 4]); plt.figure(2).gca().plot([1]); plt.show()
figure = plt.figure(); figure.gca().plot([1]); figure.show()
"""
    outcome = run_script(tmp_path / "a", sys.executable, source)
    assert (outcome.status, outcome.err) == (0, "")
    assert len(outcome.of("display")) == 4
    place = outcome.of("display")[0]["data"]["image/png"]
    assert outcome.data(place["$data"]).startswith(b"iVBOR")
    own = "import matplotlib; matplotlib.use('agg')\nimport matplotlib.pyplot as p\np.plot(1); p.savefig('x.png')"  # noqa: E501
    outcome = run_script(tmp_path / "b", sys.executable, own)
    assert (outcome.status, outcome.err, outcome.events) == (0, "", [])
    assert (tmp_path / "b" / "work" / "x.png").is_file()


@every_python
def test_events_of_forks_and_long_paths_arrive(tmp_path: Path, version: str) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    source = """
import os
import aml_run
aml_run.log("who", "parent")
pid = os.fork()
if pid == 0:
    aml_run.log("who", "child"); os._exit(0)
os.waitpid(pid, 0)
os.closerange(3, 256)
devnull = [os.open("/dev/null", os.O_RDWR) for _ in range(20)]
aml_run.log("who", "after closing everything")
"""
    outcome = run_script(deep, VERSIONS[version], source)
    assert (outcome.status, outcome.err) == (0, "")
    assert metrics(outcome)["who"] == ["parent", "child", "after closing everything"]


def test_a_run_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    source = "import aml_run\naml_run.log('a', 1)\naml_run.display(5)\nprint('done')"
    environment = {
        "AML_EVENTS": str(tmp_path / "nothing.sock"),
        "AML_JOB": str(job),
        "PYTHONPATH": f"{job}/runtime/site",
    }
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout == "5\ndone\n"


@pytest.mark.parametrize("size", [100, 20_000, 40_000, 300_000])
def test_a_message_of_any_size_arrives(tmp_path: Path, size: int) -> None:
    source = f"""
import aml_run
aml_run.display({{"text/plain": "é" * {size}, "application/json": {{"k": ["é" * {size}]}}}}, raw=True)
aml_run.log("many", ["x"] * {size // 10})
"""
    outcome = run_script(tmp_path, sys.executable, source)
    assert (outcome.status, outcome.err) == (0, "")
    from aml_jupyter.values import restored

    full = restored(outcome.of("display")[0], outcome.data)
    assert full["data"] == {"text/plain": "é" * size, "application/json": {"k": ["é" * size]}}
    assert len(restored(outcome.of("metric")[0], outcome.data)["value"]) == size // 10
    assert json.dumps(outcome.events)


@every_python
def test_what_is_wrapped_is_still_found_where_it_is_from(tmp_path: Path, version: str) -> None:
    source = """
import os, pickle, subprocess
assert pickle.loads(pickle.dumps(os.system)) is os.system
start = subprocess.Popen._execute_child
assert (start.__module__, start.__qualname__) == ("subprocess", "Popen._execute_child"), start
"""
    outcome = run_script(tmp_path, VERSIONS[version], source)
    assert (outcome.status, outcome.err) == (0, "")
