"""A cell before it is sent: names, IPython lines, paths, bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aml_jupyter.cell import check, to_bytes, write_cell
from aml_jupyter.errors import CellError, ValueTransferError
from aml_jupyter.scopes import names_taken


def taken(source: str) -> set[str]:
    import ast

    return set(names_taken(ast.parse(source)))


def missing(source: str, *names: str, **options: Any) -> set[str]:
    """The names of the kernel that a cell is told to miss."""
    try:
        check(source, set(names), **options)
    except CellError as error:
        if error.code != "cell.missing_names":
            raise
        told = error.message.rpartition(": ")[2]
        return {part.split(" ")[0] for part in told.split(", ")}
    return set()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("df.head()", {"df"}),
        ("df = 1\ndf", set()),
        ("df = df.dropna()", {"df"}),
        ("df += 1", {"df"}),
        ("df: int = df", {"df"}),
        ("df: int\ndf", {"df"}),
        ("import df", set()),
        ("import a.b as df\ndf", set()),
        ("from m import x as df\ndf", set()),
        ("for df in range(3): df", set()),
        ("for i in df: pass", {"df"}),
        ("for i in 'ab':\n    if i == 'b': df\n    df = 1", set()),
        ("for i in 'ab':\n    df += 1", {"df"}),
        ("while True:\n    df = 1\n    break\ndf", set()),
        ("if 1:\n    df = 1\ndf", set()),
        ("with open('x') as df: df", set()),
        ("with df as other: pass", {"df"}),
        ("try:\n    df\nexcept NameError:\n    df = 1", set()),
        ("try:\n    df\nexcept KeyError:\n    df = 1", {"df"}),
        ("try: pass\nexcept KeyError as df: df", set()),
        ("def f(df): return df\nf(1)", set()),
        ("def f(): return df\nf()", {"df"}),
        ("def f(): return df\ndf = 1\nf()", set()),
        ("def f():\n    df = 1\n    def g(): return df\n    return g", set()),
        ("def f():\n    global df\n    df = 1\nf()\ndf", set()),
        ("def f(a=df): pass", {"df"}),
        ("def f(a: df): pass", {"df"}),
        ("@df\ndef f(): pass", {"df"}),
        ("lambda df: df", set()),
        ("lambda x: df", {"df"}),
        ("[df for df in 'ab']", set()),
        ("[x for x in df]", {"df"}),
        ("[x for x in 'a' if df]", {"df"}),
        ("[y := x for x in 'a']\ny", set()),
        ("{k: df for k in 'a'}", {"df"}),
        ("class A:\n    df = 1\n    x = df", set()),
        ("class A:\n    df = 1\n    def f(self): return df", {"df"}),
        ("class A(df): pass", {"df"}),
        ("class A:\n    def f(self): return __class__", set()),
        ("def f():\n    class A:\n        df = 1\n        def g(self): return df\n    return A", {"df"}),
        ("match 1:\n    case df: df", set()),
        ("match 1:\n    case [*df]: df", set()),
        ("match {}:\n    case {'a': 1, **df}: df", set()),
        ("print(len([]), __name__, __file__)", set()),
        ("from m import *\ndf", set()),
        ("del df", set()),
        ("x = (df := 3) + df", set()),
        ("async def f():\n    async with df as y: return y", {"df"}),
        ("f'{df}'", {"df"}),
        ("df['a'] = 1", {"df"}),
        ("df.a = 1", {"df"}),
        ("try:\n    pass\nfinally:\n    df", {"df"}),
    ],
)
def test_names_a_cell_takes_from_the_kernel(source: str, expected: set[str]) -> None:
    assert taken(source) & {"df"} == expected
    assert missing(source, "df", "other") & {"df"} == expected


def test_values_sent_along_and_parameters_are_not_missing() -> None:
    assert missing("df + rate", "df", "rate", inputs=("df",), parameters=("rate",)) == set()
    assert missing("df + rate", "df", "rate", inputs=("df",)) == {"rate"}


def test_the_error_offers_the_exact_option_with_what_is_sent_already() -> None:
    with pytest.raises(CellError) as caught:
        check("x = a\ny = b + c", {"a": 1, "b": 2, "c": 3}, inputs=("a",))
    assert "--in a,b,c" in caught.value.hint
    assert "b (line 2)" in caught.value.message


def test_modules_functions_and_classes_are_imported_not_sent() -> None:
    def own() -> None: ...

    own.__module__ = "__main__"
    kernel = {"np": math, "helper": own, "dumps": json.dumps, "P": Path, "df": [1]}
    with pytest.raises(CellError) as caught:
        check("np.pi; helper(); dumps(1); P('x'); df", kernel)
    hint = caught.value.hint
    assert "`import math as np`" in hint
    assert "helper is a function of the notebook" in hint
    assert "`from json import dumps`" in hint
    assert "`from pathlib" in hint
    assert " as P`" in hint
    assert hint.splitlines()[0] == "Add --in df"


def test_a_variable_that_hides_a_builtin_is_missing_and_the_builtin_is_not() -> None:
    import builtins

    check("input", {"input": builtins.input})
    with pytest.raises(CellError, match="input"):
        check("input.shape", {"input": [1, 2]})


def test_names_nobody_knows_are_findings_not_errors() -> None:
    assert check("nobody + 1", {"df"}).unknown == ("nobody",)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("%matplotlib inline\nx = 1", [1]),
        ("x = 1\n!pip list\n", [2]),
        ("x = !ls\nx", [1]),
        ("a, b = %time 1, 2", [1]),
        ("len?\nx = 1", [1]),
        ("?len", [1]),
        ("for i in '':\n    !ls {i}\n", [2]),
        ("%%time\nx = 1\nx", [1]),
        ("%%bash\nls | grep x\n", [1]),
        ("x = 1\n%cd ..\n!a \\\n  b\ny = 2", [2, 3, 4]),
        ("%time x = 1", [1]),
    ],
)
def test_lines_for_ipython_are_found_with_their_numbers(source: str, lines: list[int]) -> None:
    assert [line.number for line in check(source).magic_lines] == lines
    assert check(source, ipython=True).magic_lines
    with pytest.raises(CellError) as caught:
        check(source, ipython=False)
    assert caught.value.code == "cell.ipython"
    assert f"line {lines[0]}:" in caught.value.hint


@pytest.mark.parametrize(
    "source", ["x = 5 % 3", "y = '''\n%magic\n!ls\n'''", "x != 1 if (x := 2) else 0", "x = (1\n% 2)"]
)
def test_python_that_looks_like_ipython_is_python(source: str) -> None:
    assert check(source, ipython=False).magic_lines == ()


def test_names_in_ipython_lines_count() -> None:
    assert missing("%time df.sum()", "df") == {"df"}
    assert missing("%%time\ndf.sum()", "df") == {"df"}
    assert missing("!echo {df} $other", "df", "other") == {"df", "other"}
    assert missing("df = 1\nx = !ls\nx", "df", "x") == set()


def test_a_syntax_error_is_told_in_the_coordinates_of_the_cell() -> None:
    with pytest.raises(CellError) as caught:
        check("x = 1\n\n  y = = 2\n")
    assert caught.value.code == "cell.syntax"
    assert "line 3" in caught.value.message


def test_a_newer_or_unknown_target_may_understand_what_this_python_does_not() -> None:
    for python in ((99, 0), None):
        found = check("x = = 1", python=python)
        assert any("not checked" in text for text in found.warnings)
    with pytest.raises(CellError):
        check("x = = 1", python=(3, 8))


def test_top_level_await_is_no_syntax_error() -> None:
    check("import asyncio\nawait asyncio.sleep(0)\nasync with x() as y: pass")


def test_an_indented_cell_is_checked_as_notebooks_run_it() -> None:
    assert missing("    x = df\n    x", "df") == {"df"}


def test_paths_that_leave_the_project_are_warned_of() -> None:
    def warned(source: str, **options: Any) -> str:
        return "\n".join(check(source, root="/home/u/proj", **options).warnings)

    assert "line 1" in warned("open('../data.csv')")
    assert "outside" in warned("open('a/../../data.csv')")
    assert "write 'data/a.csv'" in warned("open('/home/u/proj/data/a.csv')")
    assert warned("open('data/../x.csv')") == ""
    assert warned("open('../data.csv')", workdir="sub") == ""
    assert warned("open('../../data.csv')", workdir="sub") != ""
    assert warned("print('well .. then', '...', 'https://x/../y', '/home/u/project2/x', '..a/b')") == ""


def test_K1_text_that_no_file_can_hold_is_refused_with_its_line() -> None:
    with pytest.raises(CellError, match=r"line 2.*half of a character"):
        to_bytes("x = 1\ny = '\ud800'")
    with pytest.raises(CellError, match=r"line 1.*NUL"):
        check("x = '\0'")


texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))


def _survives(text: str, folder: Path) -> None:
    from tests.receiver import RUNTIME

    write_cell(str(folder), to_bytes(text), {}, (), {})
    assert (folder / "cell.py").read_bytes() == text.encode()
    assert (folder / "cell.py").read_bytes().decode("utf-8") == text
    assert RUNTIME.is_dir()


@given(texts)
@settings(max_examples=100)
def test_K1_the_bytes_of_a_cell_travel_exactly(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    _survives(text, tmp_path_factory.mktemp("job"))


@pytest.mark.soak
@given(texts)
@settings(max_examples=2000)
def test_K1_the_bytes_of_a_cell_travel_exactly_often(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    _survives(text, tmp_path_factory.mktemp("job"))


@given(texts)
@settings(max_examples=100)
def test_K1_any_text_is_checked_or_refused_with_a_cell_error(text: str) -> None:
    try:
        check(text, {"df"})
    except CellError:
        pass


def test_what_is_written_for_the_driver(tmp_path: Path) -> None:
    sent = write_cell(str(tmp_path), b"x", {"a": [1, 2]}, ("b",), {"rate": 0.5}, python="3.8")
    asked = json.loads((tmp_path / "cell.json").read_text())
    assert asked["params"] == {"rate": 0.5}
    assert asked["outputs"] == ["b"]
    assert asked["inputs"] == list(sent)
    assert (tmp_path / "inputs" / sent[0]["file"]).read_bytes() == b"[1, 2]"
    assert (tmp_path / "cell.py").stat().st_mode & 0o777 == 0o600


def test_a_value_that_cannot_travel_stops_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(ValueTransferError, match="'f' is a function"):
        write_cell(str(tmp_path), b"f", {"f": len}, (), {})
    assert not (tmp_path / "cell.py").exists()
