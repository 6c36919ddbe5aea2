"""Variables on their way into a run and back."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aml_jupyter import runs, values
from aml_jupyter.confined import Root
from aml_jupyter.errors import ValueTransferError
from aml_jupyter.metrics import NAMES, POINTS, merge_metrics
from tests.made_runs import change, finished
from tests.requirements import python_versions

BERLIN = dt.timezone(dt.timedelta(hours=1))


def there_and_back(value: object, **options: Any) -> tuple[str, Any]:
    encoded = values.encode("x", value, **options)
    return encoded.encoding, values.decode(json.loads(json.dumps(encoded.as_json())), lambda _: encoded.data)


def same(a: Any, b: Any) -> bool:
    """Equal, with NaN equal to itself, and of the same types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        if math.isnan(a):
            return math.isnan(b)
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(same, a.values(), b.values()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (None, "json"),
        (True, "json"),
        (2**70, "json"),
        (math.nan, "json"),
        (-math.inf, "json"),
        (-0.0, "json"),
        (1e-310, "json"),
        ("a\ud800\U0001f600", "text"),
        ("", "text"),
        (b"\0\xff", "bytes"),
        ([1, [2.5, math.nan], "x", None], "json"),
        ((1, (2,)), "json"),
        ({1, 2}, "json"),
        (frozenset({"a"}), "json"),
        ({"a": 1, "$": {"$": "tuple"}}, "json"),
        ({1: "int", (1, 2): "tuple", None: 0}, "json"),
        (dt.datetime(2018, 3, 1, 12, 30, 1, 5, fold=1), "json"),
        (dt.datetime(2018, 3, 1, tzinfo=BERLIN), "json"),
        (dt.date(2018, 3, 1), "json"),
        (dt.time(1, 2, 3, tzinfo=dt.UTC), "json"),
        (dt.timedelta(-1, 5, 7), "json"),
        (decimal.Decimal("1.100"), "json"),
        (1 - 2j, "json"),
        (range(1, 9, 2), "json"),
        (bytearray(b"ab"), "json"),
        ([np.float64(0.5), {"m": [np.int32(3)]}], "json"),
        (np.float32(1.5), "npy"),
        (np.datetime64("2018-03-01"), "npy"),
        (np.bool_(True), "npy"),
    ],
)
def test_a_value_comes_back_as_it_was(value: object, encoding: str) -> None:
    used, back = there_and_back(value)
    assert used == encoding
    assert same(value, back)


def test_an_integer_too_long_to_print_comes_back() -> None:
    assert there_and_back([-(2**20000)])[1] == [-(2**20000)]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.tuples(inner, inner)
        | st.frozensets(st.integers() | st.text())
    ),
    max_leaves=20,
)


@given(plain)
@settings(max_examples=100)
def test_any_container_of_plain_values_comes_back_exactly(value: object) -> None:
    assert same(value, there_and_back(value)[1])


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3).T,
        np.array(5.5),
        np.array(["ä", "b"]),
        np.array([], dtype="f2"),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["2018", "NaT"], dtype="M8[s]"),
        np.array([1 + 2j]),
        np.array([1, 2], dtype=">i4"),
    ],
    ids=str,
)
def test_an_array_keeps_type_shape_and_bytes(array: Any) -> None:
    encoding, back = there_and_back(array)
    assert encoding == "npy"
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert type(back) is np.ndarray


days = pd.date_range("2018-03-01", periods=3, freq="D", name="day")
FRAMES = {
    "simple": pd.DataFrame({"a": [1, 2, 3], "b": [1.5, math.nan, 2], "c": ["x", None, "z"]}),
    "categories": pd.DataFrame({"a": pd.Categorical(["x", "y", "x"], categories=["y", "x"], ordered=True)}),
    "zone": pd.DataFrame({"a": days.tz_localize("Europe/Berlin")}, index=days),
    "nullable": pd.DataFrame(
        {
            "a": pd.array([1, None, 3], dtype="Int64"),
            "b": pd.array([True, None, False], dtype="boolean"),
            "c": pd.array(["a", None, "b"], dtype="string"),
        }
    ),
    "levels": pd.DataFrame(
        {("a", "x"): [1, 2], ("b", "y"): [3, 4]},
        index=pd.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["n", None]),
    ),
    "objects": pd.DataFrame({"a": pd.Series([1, "b", None, (1, 2)], dtype=object)}),
    "twice the same label": pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "numbers as labels": pd.DataFrame([[1, 2]]),
    "empty": pd.DataFrame(),
    "no rows": pd.DataFrame({"a": pd.Series([], dtype="i2")}),
    "durations": pd.DataFrame({"a": pd.to_timedelta([1, 2], unit="s")}),
    "named index": pd.DataFrame({"a": [1.0]}, index=pd.Index(["q"], name="key")),
}


@pytest.mark.parametrize("name", list(FRAMES))
@pytest.mark.parametrize("arrow", [False, True])
def test_a_frame_comes_back_with_index_and_types(name: str, arrow: bool) -> None:
    encoding, back = there_and_back(FRAMES[name], arrow=arrow)
    assert encoding in (("arrow", "table") if arrow else ("table",))
    pd.testing.assert_frame_equal(FRAMES[name], back, check_freq=not arrow)


def test_a_series_comes_back_with_its_name() -> None:
    series = pd.Series([1, 2], name=("q", 1), index=["a", "b"])
    pd.testing.assert_series_equal(series, there_and_back(series)[1])
    pd.testing.assert_series_equal(series, there_and_back({"s": [series]})[1]["s"][0])


def test_an_arrow_table_comes_back() -> None:
    import pyarrow as pa

    table = pa.table({"a": [1, None], "b": [[1], []]})
    encoding, back = there_and_back(table)
    assert encoding == "arrow"
    assert back.equals(table)


class Point:
    """Has no neutral form."""

    def __init__(self) -> None:
        self.x = 1


def test_pickle_is_the_last_resort_and_only_for_the_same_python() -> None:
    here = "{}.{}".format(*sys.version_info[:2])
    encoding, back = there_and_back(Point(), python=here)
    assert (encoding, back.x) == ("pickle", 1)
    with pytest.raises(ValueTransferError) as caught:
        values.encode("model", Point(), python="3.8")
    assert "'model'" in caught.value.message
    assert f"Python {here}" in caught.value.message
    assert "Python 3.8" in caught.value.message


def test_a_pickle_of_another_python_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    from hashlib import sha256

    canary = tmp_path / "ran"
    data = b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    item = {"name": "model", "encoding": "pickle", "kind": "a.B", "file": sha256(data).hexdigest()}
    for python in ("3.8", None, ""):
        with pytest.raises(ValueTransferError, match="'model'"):
            values.decode({**item, "python": python}, lambda _: data)
    assert not canary.exists()


def test_bytes_that_are_not_those_recorded_are_refused() -> None:
    encoded = values.encode("x", [1])
    with pytest.raises(ValueTransferError) as caught:
        values.decode(encoded.as_json(), lambda _: b"[2]")
    assert caught.value.code == "value.damaged"

    def gone(_: str) -> bytes:
        raise FileNotFoundError

    with pytest.raises(ValueTransferError) as caught:
        values.decode(encoded.as_json(), gone)
    assert caught.value.code == "value.missing"


@pytest.mark.parametrize("value", [len, math, Point, lambda: 1, (i for i in "a"), [].append])
def test_code_does_not_travel_as_a_value(value: object) -> None:
    with pytest.raises(ValueTransferError, match="code does not travel"):
        values.encode("x", value)


def test_what_only_the_notebook_defines_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Point, "__module__", "__main__")
    with pytest.raises(ValueTransferError, match=r"needs Point, which is defined in the notebook"):
        values.encode("x", [Point()])
    with pytest.raises(ValueTransferError, match="cannot be sent"):
        values.encode("x", iter([sys.stdout]))


def test_a_container_that_holds_itself_is_no_endless_loop() -> None:
    loop: list[object] = []
    loop.append(loop)
    encoding, back = there_and_back(loop)
    assert encoding == "pickle"
    assert back[0] is back


def test_previews_are_short() -> None:
    assert values.encode("x", np.zeros((3, 4))).preview == "numpy.ndarray, 3 x 4 of float64"
    assert values.encode("x", FRAMES["simple"]).preview == "pandas.DataFrame, 3 x 3"
    assert len(values.encode("x", "y" * 10**6).preview) <= 200
    assert values.encode("x", list(range(1000))).preview == "list of 1000"


@pytest.mark.parametrize("version", list(python_versions()))
def test_every_python_reads_what_another_wrote(version: str, tmp_path: Path) -> None:
    value = {"a": [1, math.inf, (2,)], 3: {dt.date(2018, 3, 1)}, "big": 2**80, "t": dt.datetime(2018, 1, 1)}
    encoded = values.encode("x", value)
    program = (
        "import sys, runpy; c = runpy.run_path(sys.argv[1]); data = sys.stdin.buffer.read();"
        "v = c['decode']({'encoding': 'json', 'name': 'x'}, data);"
        "sys.stdout.buffer.write(c['encode']('x', v)['data'])"
    )
    command = [python_versions()[version], "-I", "-c", program, values.CODEC]
    back = subprocess.run(command, input=encoded.data, capture_output=True, check=True).stdout
    assert same(value, there_and_back(value)[1])
    assert json.loads(back) == json.loads(encoded.data)


def metric(name: str, value: object, **more: Any) -> dict[str, Any]:
    return {"type": "metric", "name": name, "value": value, **more}


def test_a_name_logged_again_becomes_a_list_and_lists_concatenate() -> None:
    events = [
        metric("a", 1),
        metric("a", [2, 3], kind="list"),
        metric("a", 4),
        metric("b", "once"),
        metric("c", [7], kind="list"),
        {"type": "display", "data": {}},
        metric("n", "NaN", nonfinite=True),
        metric("s", "NaN"),
    ]
    merged = merge_metrics(events)
    assert math.isnan(merged.pop("n"))
    assert merged == {"a": [1, 2, 3, 4], "b": "once", "c": [7], "s": "NaN"}


def test_a_table_and_an_image_are_the_last_logged() -> None:
    tables = [metric("t", {"a": [1]}, kind="table"), metric("t", {"a": [2]}, kind="table")]
    merged = merge_metrics([*tables, metric("i", {"$data": "ab"}, kind="image")])
    assert merged == {"t": {"a": [2]}, "i": {"$data": "ab"}}


def test_long_metrics_are_thinned_and_keep_their_last_value() -> None:
    told: list[str] = []
    merged = merge_metrics((metric("loss", i) for i in range(5 * POINTS + 3)), warnings=told)
    assert len(merged["loss"]) <= POINTS + 1
    assert merged["loss"][0] == 0
    assert merged["loss"][-1] == 5 * POINTS + 2
    assert len(set(np.diff(merged["loss"][:-1]))) == 1
    assert "one in 8 is kept" in told[0]


def test_names_and_sizes_have_limits_that_are_told() -> None:
    told: list[str] = []
    merged = merge_metrics((metric(f"m{i}", i) for i in range(NAMES + 5)), warnings=told)
    assert len(merged) == NAMES
    assert "are not kept" in told[0]
    told = []
    merged = merge_metrics([metric("a", 1), metric("b", [0] * (2 << 20)), metric("c", 2)], warnings=told)
    assert merged == {"a": 1}
    assert "too large" in told[0]


@pytest.mark.slow
def test_whatever_a_run_logs_its_record_can_be_read_again(home: str) -> None:
    told: list[str] = []
    names = [metric("\U0001f600" * 900 + str(i), i) for i in range(75_000)]
    texts = [metric(names[0]["name"], ["\U0001f600" * 9000] * 20)] * 20
    merged = merge_metrics([*names, *texts], warnings=told)
    assert len(merged) == NAMES
    assert len(told) == 2
    assert max(map(len, told)) < 300
    assert f"{75_000 - NAMES} values" in told[0]
    directory = finished(home)
    change(directory, metrics=merged, warnings=tuple(told))
    assert os.path.getsize(directory.run_json) < 32 << 20
    assert runs.load_record(directory).metrics == merged


def test_events_behind_metrics_that_are_too_large_are_still_read() -> None:
    seen = []
    told: list[str] = []

    def events() -> Iterator[dict[str, Any]]:
        for number in range(5):
            yield metric(f"m{number}", [0] * (2 << 20))
            seen.append(number)

    assert merge_metrics(events(), warnings=told) == {}
    assert seen == [0, 1, 2, 3, 4]
    assert [text for text in told if "5 values are not kept" in text] == told


def test_values_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    deep: object = "NaN"
    for _ in range(100_000):
        deep = [deep]
    (tmp_path / "long").write_bytes(b"0" * 100)

    def read(name: str) -> bytes:
        with Root(str(tmp_path)) as root:
            return root.read_bytes(name, 10)

    in_file = [metric("f", {"$data": name, "encoding": "json"}) for name in ("long", "missing", "../f", "")]
    damaged = [metric("d", deep, nonfinite=True), metric("e", deep), *in_file]
    told: list[str] = []
    assert merge_metrics([*damaged, metric("a", 1)], read=read, warnings=told) == {"a": 1}
    assert told == ["6 logged values cannot be read and are not kept; the first is of metric 'd'"]


def test_a_metric_in_a_file_is_read_and_a_damaged_one_is_told() -> None:
    event = metric("a", {"$data": "00", "size": 3, "encoding": "json"}, kind="list")
    assert merge_metrics([event], read=lambda _: b"[1, 2]") == {"a": [1, 2]}
    for read in (None, lambda _: b"[1,"):
        told: list[str] = []
        assert merge_metrics([event, metric("b", 1)], read=read, warnings=told) == {"b": 1}
        assert len(told) == 1


def test_an_event_is_restored_from_its_files() -> None:
    files = {"1": b"abc", "2": b'{"x":1}'}
    data = {name: {"$data": str(i + 1)} for i, name in enumerate(("image/png", "a/x+json", "text/html"))}
    event = {"type": "display", "data": data, "metadata": {"$data": "2", "encoding": "json"}}

    def read(name: str) -> bytes:
        if name not in files:
            raise FileNotFoundError(name)
        return files[name]

    full = values.restored(event, read)
    assert full["data"] == {"image/png": "abc", "a/x+json": {"x": 1}}
    assert full["metadata"] == {"x": 1}
