"""The fast JSON gives what the interpreter's own package gives."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aml_jupyter import plainjson

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans())
def test_values_are_written_and_read_as_json_does(value: object, sort_keys: bool) -> None:
    written = plainjson.dumps(value, sort_keys=sort_keys)
    assert written == json.dumps(value, sort_keys=sort_keys, separators=(",", ":"))
    assert plainjson.loads(written.encode()) == value


def test_numbers_that_are_no_json_are_read_and_written_as_json_does() -> None:
    assert plainjson.dumps([math.inf, -math.inf]) == "[Infinity,-Infinity]"
    assert math.isnan(plainjson.loads("NaN"))


@pytest.mark.parametrize("text", ["", "  ", "{", '{"a"}', "[1,]", '"\x01"', "1 2", "nul", '"abc'])
def test_broken_text_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        plainjson.loads(text)


def test_neither_re_nor_enum_is_imported() -> None:
    code = "import sys; from aml_jupyter import plainjson; print(plainjson.loads('[1]'), 're' in sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-E", "-c", code], capture_output=True, text=True, cwd=".")
    assert done.stdout.split() == ["[1]", "False"]


@pytest.mark.parametrize("text", ["{", '{"a', '"abc', '{"a": 1', "[1,", '"\\x"', "", "nul"])
def test_json_that_ends_too_early_is_a_value_error_also_where_nobody_loaded_json(text: str) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from aml_jupyter import plainjson\n"
        "assert 'json.decoder' not in sys.modules\n"
        "try: plainjson.loads(sys.argv[2])\n"
        "except ValueError: sys.exit(42)\n"
    )
    parent = str(Path(plainjson.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-S", "-E", "-s", "-c", code, parent, text], timeout=60)
    assert done.returncode == 42
