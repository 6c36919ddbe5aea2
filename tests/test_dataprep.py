"""`azureml.dataprep` inside runs: .dprep and .dsource files as the Workbench wrote them."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.requirements import need, python_versions
from tests.terminal import aml, data

RUNTIME = Path(__file__).resolve().parent.parent / "aml_jupyter" / "runtime"
IRIS = Path(__file__).resolve().parent / "projects" / "iris_2018"
VERSIONS = python_versions()
PLAIN = 'ArgumentVector: ["$file"]\nTarget: local\nFramework: Python\n'


@pytest.fixture(scope="module")
def dataprep() -> Iterator[Any]:
    """The modules of a run, in this process."""
    site = str(RUNTIME / "site")
    sys.path.insert(0, site)
    try:
        from azureml.dataprep import (  # type: ignore[import-not-found]
            _blocks,
            _documents,
            _execution,
            _tables,
            datasource,
            package,
        )

        yield SimpleNamespace(
            blocks=_blocks, documents=_documents, execution=_execution, tables=_tables,
            datasource=datasource, package=package, Exception=package.DataPrepException,
        )  # fmt: skip
    finally:
        sys.path.remove(site)


def block(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": name, "type": f"Microsoft.DPrep.{name}", "arguments": arguments}


def document(*blocks: dict[str, Any], identity: str = "flow") -> dict[str, Any]:
    return {"schemaVersion": 38, "activities": [{"id": identity, "name": identity, "blocks": list(blocks)}]}


def source(*paths: str, **parse: Any) -> list[dict[str, Any]]:
    details = [{"path": path} for path in paths or ("./rows.csv",)]
    return [
        block("DataSourceBlock", path={"target": 0, "resourceDetails": details}),
        block("ParseDelimitedBlock", **{"columnHeadersMode": 1, "separator": ",", **parse}),
    ]


def referring(path: str, **more: Any) -> dict[str, Any]:
    reference = {"referenceType": 1, "referenceContainerPath": path, "referencedActivityId": "flow", **more}
    return block("ReferenceActivityBlock", reference=reference)


class Folder:
    """A project's copy; `do` gives the columns that steps make of a text."""

    def __init__(self, path: Path, modules: Any) -> None:
        self.path, self.modules = path, modules

    def write(self, name: str, *blocks: dict[str, Any]) -> None:
        (self.path / name).write_text(json.dumps(document(*blocks)))

    def do(self, text: str, *steps: dict[str, Any], **parse: Any) -> dict[str, list[Any]]:
        (self.path / "rows.csv").write_text(text)
        self.write("x.dsource", *source(**parse), *steps)
        return self.columns("x.dsource")

    def columns(self, name: str, index: Any = 0) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = self.modules.execution.execute(name, index).columns
        return columns


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataprep: Any) -> Folder:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("AML_DATA_SOURCES", "AZUREML_NATIVE_SHARE_DIRECTORY", "AZUREML_OUTPUT_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    return Folder(work, dataprep)


# --- whole files --------------------------------------------------------------------------------------------


def test_the_iris_package_gives_its_150_rows(folder: Folder, dataprep: Any) -> None:
    shutil.copytree(IRIS, folder.path, dirs_exist_ok=True)
    frame = dataprep.package.run("flowers.dprep", dataflow_idx=0, spark=False)
    assert frame.shape == (150, 5)
    assert list(frame.columns) == ["Sepal Length", "Sepal Width", "Petal Length", "Petal Width", "Species"]
    assert [str(kind) for kind in frame.dtypes] == ["float64"] * 4 + ["object"]
    assert frame.iloc[0].tolist() == [5.1, 3.5, 1.4, 0.2, "Iris-setosa"]
    raw = dataprep.datasource.load_datasource("flowers.dsource", spark=False)
    assert raw.shape == (151, 5)  # the file ends with an empty line
    assert raw.isna().iloc[150].tolist() == [True] * 5


@pytest.mark.slow
def test_a_loop_over_a_script_with_a_package_runs_unmodified(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "iris"
    shutil.copytree(IRIS, project)
    (project / "aml_config" / "local.runconfig").write_text(PLAIN)
    (project / "loop.py").write_text(
        "import os\nfor rate in (4, 2):\n"
        "    os.system('az ml experiment submit -c local ./train_prepared.py {}'.format(rate))\n"
    )
    monkeypatch.chdir(project)
    done = aml("exec", sys.executable, "loop.py", timeout=120)
    assert done.stdout.count("shape: (150, 5)") == 2, done.stderr
    assert [run["metrics"]["Regularization Rate"] for run in data("runs")] == [2.0, 4.0]
    assert [one["path"] for one in data("ls", "@last")] == ["outputs/model.pkl"]


def test_run_configurations_say_which_data_and_how_much_of_it(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "iris"
    shutil.copytree(IRIS, project)
    (project / "train_and_share.py").unlink()  # what the share holds may be another thing tomorrow
    (project / "count.py").write_text(
        "from azureml.dataprep import datasource, package\nfrom azureml.dataprep._execution import execute\n"
        "print(len(execute('flowers.dprep', 0)), len(execute('flowers.dsource', 0)))\n"
    )
    shutil.copy(project / "flowers.dsource", project / "other.dsource")
    (project / "aml_config" / "few.runconfig").write_text(
        PLAIN + "DataSourceSettings:\n  flowers.dsource:\n    Sampling:\n      Sample: Ten\n"
    )
    (project / "aml_config" / "other.runconfig").write_text(
        PLAIN + "DataSourceSubstitutions:\n  flowers.dsource: other.dsource\nUseSampling: false\n"
    )
    document = json.loads((project / "other.dsource").read_text())
    document["activities"][0]["id"] = "another"
    document["activities"][0]["blocks"].append(
        block("FilterStringColumnBlock", columnId="Column5", filterResult=0,
              clauses=[{"operator": 10, "value": "setosa"}])
    )  # fmt: skip
    (project / "other.dsource").write_text(json.dumps(document))
    monkeypatch.chdir(project)
    assert aml("run", "few", "count.py").stdout == "10 10\n"
    assert aml("run", "other", "count.py", "--needed").stdout == "50 50\n"
    assert "not run again" in aml("run", "other", "count.py", "--needed").stderr
    assert len(data("runs")) == 2
    assert aml("rerun", "@last").stdout == "50 50\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_pyspark_run_gets_a_spark_frame(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need("java")
    need("pyspark")
    project = tmp_path / "iris"
    shutil.copytree(IRIS, project)
    (project / "aml_config" / "local.runconfig").write_text(PLAIN.replace("Python", "PySpark"))
    (project / "count.py").write_text(
        "from azureml.dataprep import package\n"
        "frame = package.run('flowers.dprep')\n"
        "print(type(frame).__module__.split('.')[0], frame.count(), frame.dtypes)\n"
        "frame.sparkSession.conf.set('spark.sql.shuffle.partitions', 2)\n"
        "print(frame.groupBy('Species').avg('Petal Width').count())\n"
        "print(type(package.run('flowers.dprep', spark=False)).__module__.split('.')[0])\n"
    )
    monkeypatch.chdir(project)
    lines = aml("run", "local", "count.py", timeout=200).stdout.splitlines()
    kinds = [(name, "double") for name in ("Sepal Length", "Sepal Width", "Petal Length", "Petal Width")]
    # what pyspark says of the pandas that is here
    lines = [line for line in lines if "pandas" not in line or line == "pandas"]
    lines = [line for line in lines if not line.startswith(" ")]
    assert lines == [f"pyspark 150 {[*kinds, ('Species', 'string')]}", "3", "pandas"]


@pytest.mark.parametrize("version", [next(iter(VERSIONS)), list(VERSIONS)[-1]])
def test_packages_are_read_without_pandas_by_every_python(tmp_path: Path, version: str) -> None:
    shutil.copytree(IRIS, tmp_path / "work")
    code = (
        "from azureml.dataprep import package\nfrom azureml.dataprep._execution import execute\n"
        "table = execute('flowers.dprep', 0)\nprint(len(table), table.kinds['Species'])\n"
        "try: package.run('flowers.dprep')\nexcept ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [VERSIONS[version], "-S", "-c", code], cwd=tmp_path / "work", capture_output=True, text=True,
        env={"PYTHONPATH": str(RUNTIME / "site"), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.stdout.splitlines()[0] == "150 string", done.stderr
    assert "conda_dependencies.yml" in done.stdout


def test_an_installed_dataprep_stays_visible(tmp_path: Path) -> None:
    other = tmp_path / "azureml"
    (other / "dataprep" / "api").mkdir(parents=True)
    (other / "__init__.py").write_text("__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n")
    (other / "dataprep" / "__init__.py").write_text(
        "print('loaded')\nfrom .api import VALUE\ndef read_csv(path): return path\n"
    )
    (other / "dataprep" / "api" / "__init__.py").write_text("VALUE = 7\n")
    code = (
        "import azureml.dataprep as dprep\nfrom azureml.dataprep import package, datasource\n"
        "print(package.run, datasource.load_datasource)\nimport azureml.dataprep.api\n"
        "print('before'); print(dprep.read_csv('x'), dprep.VALUE, package is dprep.package)\n"
        "try: dprep.nothing\nexcept AttributeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={"PYTHONPATH": f"{RUNTIME / 'site'}:{tmp_path}", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.stdout.splitlines()[1:] == [
        "before", "loaded", "x 7 True", "module 'azureml.dataprep' has no attribute 'nothing'",
    ]  # fmt: skip


def test_scripts_give_rows_from_memory(folder: Folder, dataprep: Any) -> None:
    shutil.copytree(IRIS, folder.path, dirs_exist_ok=True)
    rows = [[f"Column{at}" for at in range(1, 6)], [1.0, 2.0, 3.0, 4.0, "x"], [1.0, 2.0, 3.0, 4.0, None]]
    config = {str(folder.path / "flowers.dsource"): rows}
    frame = dataprep.package.run_on_data(config, "flowers.dprep", spark=False)
    assert frame.values.tolist() == [[1.0, 2.0, 3.0, 4.0, "x"]]
    dataprep.package.submit("flowers.dprep")


# --- texts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parse", "columns"),
    [
        ("a,b\n1,2\n", {}, {"a": ["1"], "b": ["2"]}),
        ("1,2\n3,4", {"columnHeadersMode": 0}, {"Column1": ["1", "3"], "Column2": ["2", "4"]}),
        ("a;b\r\n1;\r\n\r\n", {"separator": ";"}, {"a": ["1", ""], "b": ["", None]}),
        ("a,b\n1,2,3\n4\n", {}, {"a": ["1", "4"], "b": ["2", None], "Column3": ["3", None]}),
        ('a\n"x, ""y"""\n', {}, {"a": ['x, "y"']}),
        ('a\n"x\ny"\n', {"handleQuotedLineBreaks": True}, {"a": ["x\ny"]}),
        ('a\n"x\ny"\nz\n', {}, {"a": ["x\n", 'y"', "z"]}),
        ("a,a\n1,2\n", {}, {"a": ["1"], "a_2": ["2"]}),
        ("junk\na\n1\n", {"skipRowsMode": 1, "skipRows": 1}, {"a": ["1"]}),
        ("#c\na\n1\n", {"commentLineCharacter": "#"}, {"a": ["1"]}),
        ("\ufeffa\nü\n", {}, {"a": ["ü"]}),
        ("", {}, {}),
    ],
)
def test_texts_are_taken_apart(folder: Folder, text: str, parse: dict[str, Any], columns: Any) -> None:
    found = folder.do(text, **parse)
    if text.startswith('a\n"x\ny"\nz'):  # a quotation mark never reaches over the end of a line
        found = {name: [value.strip("\n") + "\n" * (at == 0) for at, value in enumerate(values)]
                 for name, values in found.items()}  # fmt: skip
    assert found == columns


@pytest.mark.parametrize(
    ("mode", "values"),
    [(0, ["a", "1", "a", "2"]), (1, ["1", "a", "2"]), (2, ["1", "2"]), (3, ["1", "2"])],
)
def test_several_files_are_one_table(folder: Folder, mode: int, values: list[str]) -> None:
    for name, text in (("one.csv", "a\n1\n"), ("two.csv", "a\n2\n")):
        (folder.path / name).write_text(text)
    folder.write("x.dsource", *source("./one.csv", "two.csv", columnHeadersMode=mode))
    assert list(folder.columns("x.dsource").values()) == [values]


def test_files_with_other_orders_of_columns_are_put_together(folder: Folder) -> None:
    (folder.path / "one.csv").write_text("a,b\n1,2\n")
    (folder.path / "two.csv").write_text("b,a,c\n3,4,5\n")
    folder.write("x.dsource", *source("one.csv", "two.csv", columnHeadersMode=2))
    assert folder.columns("x.dsource") == {"a": ["1", "4"], "b": ["2", "3"], "c": [None, "5"]}


@pytest.mark.parametrize(("number", "encoding"), [(0, "utf-8"), (1, "latin-1"), (4, "utf-16"), (7, "cp1252")])
def test_texts_have_encodings(folder: Folder, number: int, encoding: str, dataprep: Any) -> None:
    (folder.path / "rows.csv").write_bytes("a\nü\n".encode(encoding))
    folder.write("x.dsource", *source(fileEncoding=number))
    assert folder.columns("x.dsource") == {"a": ["ü"]}
    if number == 0:
        (folder.path / "rows.csv").write_bytes(b"a\n\xff\n")
        with pytest.raises(dataprep.Exception, match=r"rows\.csv is not utf-8"):
            folder.columns("x.dsource")


# --- steps --------------------------------------------------------------------------------------------------


def kinds(*columns: tuple[str, int]) -> dict[str, Any]:
    changes = [{"columnId": name, "typeProperty": kind, "typeArguments": {}} for name, kind in columns]
    return block("SetColumnTypesBlock", columnConversion=changes)


def clauses(name: str, *found: tuple[Any, ...], kind: str = "String", **more: Any) -> dict[str, Any]:
    listed = [dict(zip(("operator", "value"), one, strict=False)) for one in found]
    return block(f"Filter{kind}ColumnBlock", columnId=name, clauses=listed, **more)


def sampling(strategy: int, count: int = 2, *, disabled: bool = False, probability: float = 0.5) -> Any:
    one = {
        "sampleId": "s", "sampleName": "some", "sampleStrategy": strategy, "isDisabled": disabled,
        "topArguments": {"sampleCount": count}, "randomNArguments": {"sampleCount": count, "seed": 3},
        "randomPercentArguments": {"probability": probability},
    }  # fmt: skip
    return block("SampleBlock", samples=[one], activeSample="s")


TEXT = "a,b\n1,x\n2,y\n,\n3,x\n"
STEPS: list[tuple[str, list[dict[str, Any]], dict[str, list[Any]]]] = [
    ("rename", [block("ColumnRenameBlock", columnId="a", newColumnId="c")],
     {"c": ["1", "2", "", "3"], "b": ["x", "y", "", "x"]}),
    ("delete", [block("DeleteColumnBlock", columnIds=["a"])], {"b": ["x", "y", "", "x"]}),
    ("keep", [block("KeepColumnsBlock", columns={"type": 0, "details": {"selectedColumns": ["b"]}})],
     {"b": ["x", "y", "", "x"]}),
    ("text is", [clauses("b", (0, "x"), filterResult=0)], {"a": ["1", "3"], "b": ["x", "x"]}),
    ("remove text", [clauses("b", (0, "x"), filterResult=1)], {"a": ["2", ""], "b": ["y", ""]}),
    ("text is not", [clauses("b", (1, "x"))], {"a": ["2", ""], "b": ["y", ""]}),
    ("empty or y", [clauses("b", (6,), (8, "y"), clauseRelationship=1)], {"a": ["2", ""], "b": ["y", ""]}),
    ("all clauses", [clauses("b", (7,), (13, "x"), clauseRelationship=0)], {"a": ["2"], "b": ["y"]}),
    ("numbers", [kinds(("a", 3))], {"a": [1.0, 2.0, None, 3.0], "b": ["x", "y", "", "x"]}),
    ("no numbers", [kinds(("b", 3)), clauses("b", (5,), kind="Number")], {"a": [""], "b": [None]}),
    ("number above", [kinds(("a", 3)), clauses("a", (6, 1), kind="Number")],
     {"a": [2.0, 3.0], "b": ["y", "x"]}),
    ("number at most", [kinds(("a", 3)), clauses("a", (9, "2"), kind="Number")],
     {"a": [1.0, 2.0], "b": ["x", "y"]}),
    ("number is not", [kinds(("a", 3)), clauses("a", (1, 1), (3,), kind="Number")],
     {"a": [2.0, 3.0], "b": ["y", "x"]}),
    ("null numbers", [kinds(("a", 2)), clauses("a", (2,), kind="Number")], {"a": [None], "b": [""]}),
    ("convert", [block("ConvertColumnFieldTypeBlock", columnIds=["a"], decimalPoint=0),
                 block("ConvertColumnFieldTypeToStringBlock", columnIds=["a"])],
     {"a": ["1", "2", None, "3"], "b": ["x", "y", "", "x"]}),
    ("replace missing", [kinds(("a", 3)), block("MissingValuesBlock", action=2, replacementValue="0",
                                               columnIds=["a", "b"])],
     {"a": [1.0, 2.0, 0.0, 3.0], "b": ["x", "y", "0", "x"]}),
    ("remove missing", [block("RemoveRowOnColumnMissingValuesBlock", columnIds=["a"])],
     {"a": ["1", "2", "3"], "b": ["x", "y", "x"]}),
    ("distinct", [block("SelectRowsOnDistinctValuesInColumnBlock", columnIds=["b"])],
     {"a": ["1", "2", ""], "b": ["x", "y", ""]}),
    ("top", [sampling(0)], {"a": ["1", "2"], "b": ["x", "y"]}),
    ("whole file", [sampling(3)], {"a": ["1", "2", "", "3"], "b": ["x", "y", "", "x"]}),
    ("disabled", [sampling(0, disabled=True)], {"a": ["1", "2", "", "3"], "b": ["x", "y", "", "x"]}),
    ("no paths", [block("HandlePathColumnBlock", pathColumnOperation=0)],
     {"a": ["1", "2", "", "3"], "b": ["x", "y", "", "x"]}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:column")
@pytest.mark.parametrize(("steps", "columns"), [one[1:] for one in STEPS], ids=[one[0] for one in STEPS])
def test_steps_do_what_they_did(folder: Folder, steps: list[Any], columns: dict[str, list[Any]]) -> None:
    assert folder.do(TEXT, *steps) == columns


def test_random_samples_are_the_same_rows_in_every_run(folder: Folder) -> None:
    text = "a\n" + "\n".join(map(str, range(100))) + "\n"
    first = folder.do(text, sampling(1, 10))["a"]
    assert len(first) == 10
    assert first == sorted(first, key=int)
    assert folder.do(text, sampling(1, 10))["a"] == first
    half = folder.do(text, sampling(2))["a"]
    assert 20 < len(half) < 80
    assert folder.do(text, sampling(2))["a"] == half
    assert len(folder.do(text, sampling(1, 1000))["a"]) == 100


def test_dates_and_truth_are_values(folder: Folder, dataprep: Any) -> None:
    formats = {"dateTimeFormats": ["%m/%d/%Y %H:%M", "%Y"]}
    changes = [
        {"columnId": "d", "typeProperty": 4, "typeArguments": formats},
        {"columnId": "t", "typeProperty": 1},
        {"columnId": "n", "typeProperty": 2},
        {"columnId": "u", "typeProperty": 5},
    ]
    step = block("SetColumnTypesBlock", columnConversion=changes)
    text = "d,t,n,u\n1/2/2017 0:54,true,1,x\n2018,No,2,y\n,,3,z\n"
    assert folder.do(text, step) == {
        "d": [dt.datetime(2017, 1, 2, 0, 54), dt.datetime(2018, 1, 1), None],
        "t": [True, False, None],
        "n": [1, 2, 3],
        "u": ["x", "y", "z"],
    }
    frame = dataprep.datasource.load_datasource("x.dsource", spark=False)
    assert str(frame.dtypes["d"]).startswith("datetime64")
    assert (str(frame.dtypes["n"]), str(frame.dtypes["t"])) == ("int64", "object")


def test_values_that_cannot_be_converted_are_missing_and_told(folder: Folder) -> None:
    with pytest.warns(UserWarning, match="column 'a': 2 of 3 values are no number, such as 'x'"):
        assert folder.do("a\n1\nx\nnan\n", kinds(("a", 3))) == {"a": [1.0, None, None]}


def test_a_step_may_write_a_file_of_the_project(folder: Folder) -> None:
    path = {"target": 0, "resourceDetails": [{"path": "./outputs/made.csv"}]}
    write = block("WriteToCsvBlock", filePath=path, separator=";", na="NA")
    folder.do("a,b\n1,x\n,2\n", kinds(("a", 3)), write, block("DeleteColumnBlock", columnIds=["a"]))
    assert (folder.path / "outputs" / "made.csv").read_text() == "a;b\n1;x\nNA;2\n"


# --- references ---------------------------------------------------------------------------------------------


def test_dataflows_refer_to_others_and_to_steps_in_them(folder: Folder) -> None:
    (folder.path / "rows.csv").write_text("a\n1\n2\n")
    (folder.path / "sub").mkdir()
    folder.write(
        "sub/x.dsource", *source("../rows.csv"), block("ColumnRenameBlock", columnId="a", newColumnId="b")
    )
    whole = document(referring("./x.dsource"), identity="whole")["activities"]
    part = {"stepReferenceType": 0, "referencedStepId": "ParseDelimitedBlock", "fallback": 1}
    whole += document(referring("./x.dsource", referencedStep=part), identity="part")["activities"]
    inside = {"referenceType": 0, "referencedActivityId": "part"}
    whole += document(block("ReferenceActivityBlock", reference=inside), identity="last")["activities"]
    (folder.path / "sub" / "x.dprep").write_text(json.dumps({"activities": whole}))
    found = [list(folder.columns("sub/x.dprep", at)) for at in range(3)]
    assert found == [["b"], ["a"], ["a"]]


def test_a_dataflow_that_is_not_there_is_told_with_those_that_are(folder: Folder, dataprep: Any) -> None:
    folder.do("a\n1\n")
    for index in (1, -1, "0", True):
        with pytest.raises(dataprep.Exception, match="there is 0 flow"):
            folder.columns("x.dsource", index)


# --- what is not done, and files that mean harm -------------------------------------------------------------


@pytest.mark.parametrize("name", ["DeriveColumnByExample", "SplitColumnByExampleBlock", "CustomBlock"])
def test_a_step_that_is_not_done_is_refused_by_its_name_before_anything_is_done(
    folder: Folder, dataprep: Any, name: str
) -> None:
    written = block("WriteToCsvBlock", filePath={"path": "outputs/made.csv"})
    with pytest.raises(dataprep.Exception) as told:
        folder.do("a\n1\n", written, block(name, dsl="x"))
    assert f"x.dsource, dataflow flow, step 4 ({name}): {name} is not done here" in str(told.value)
    assert "read a CSV file" in str(told.value)
    assert not (folder.path / "outputs").exists()


BAD: list[tuple[dict[str, Any], str]] = [
    (block("ColumnRenameBlock", columnId="z", newColumnId="y"), "there is no column 'z'; there are a"),
    (block("ColumnRenameBlock", columnId=["z"], newColumnId="y"), "columnId is"),
    (block("DeleteColumnBlock"), "names no columns"),
    (clauses("a", (99, "x")), "operator 99"),
    (clauses("a", (0,)), "compares with None"),
    (clauses("a", (6, "x"), kind="Number"), "compares with 'x'"),
    (clauses("a"), "no clauses"),
    (kinds(("a", 8)), "the type 8"),
    (block("MissingValuesBlock", columnIds=["a"], action=9), "action is 9"),
    (block("HandlePathColumnBlock", pathColumnOperation=1), "remove the step"),
    (sampling(7), "strategy 7"),
    (sampling(0, 0), "has 0 rows"),
    (block("WriteToCsvBlock"), "no file to write"),
    (block("WriteToCsvBlock", filePath="../made.csv"), "leaves the project"),
    (block("WriteToCsvBlock", filePath="/tmp/made.csv"), "leaves the project"),
    ({"type": None}, "(none)"),
    ({"type": "Microsoft.DPrep.SetColumnTypesBlock", "arguments": [1]}, "columnConversion"),
]


@pytest.mark.parametrize(("step", "told"), BAD, ids=[told for _, told in BAD])
def test_a_step_that_makes_no_sense_is_told_with_its_place(
    folder: Folder, dataprep: Any, step: dict[str, Any], told: str
) -> None:
    with pytest.raises(dataprep.Exception) as found:
        folder.do("a\n1\n", step)
    assert told in str(found.value)
    assert "x.dsource, dataflow flow, step 3" in str(found.value)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("../secret.csv", "leaves the project"),
        ("/etc/passwd", "leaves the project"),
        ("link.csv", "leaves the project"),
        ("linked/secret.csv", "leaves the project"),
        ("https://x.blob.core.windows.net/c/a.csv", "not on this machine"),
        ("C:\\Users\\me\\a.csv", "write ./a.csv"),
        ("pipe", "is no file"),
        (".", "is no file"),
        ("absent.csv", "left out of the snapshot"),
        ("", "names no file"),
        ("a\0b", "names no file"),
    ],
)
def test_files_outside_the_project_and_what_is_no_file_are_refused(
    folder: Folder, dataprep: Any, path: str, told: str
) -> None:
    (folder.path.parent / "secret.csv").write_text("a\nplanted\n")
    (folder.path / "link.csv").symlink_to("../secret.csv")
    (folder.path / "linked").symlink_to("..")
    os.mkfifo(folder.path / "pipe")
    folder.write("x.dsource", *source(path))
    with pytest.raises(dataprep.Exception, match=told.replace(".", r"\.")):
        folder.columns("x.dsource")


def test_the_shared_folder_belongs_to_the_project(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "big.csv").write_text("a\n1\n")
    monkeypatch.setenv("AZUREML_NATIVE_SHARE_DIRECTORY", f"{tmp_path}/share/")
    folder.write("x.dsource", *source(f"{tmp_path}/share/big.csv"))
    assert folder.columns("x.dsource") == {"a": ["1"]}


def test_data_in_a_storage_account_is_told(folder: Folder, dataprep: Any) -> None:
    details = [{"path": "https://a.blob.core.windows.net/c/a.csv", "storageAccountName": "a"}]
    remote = block("DataSourceBlock", path={"target": 1, "resourceDetails": details})
    folder.write("x.dsource", remote, source()[1])
    with pytest.raises(dataprep.Exception, match=r"storage account.*DataSourceSubstitutions"):
        folder.columns("x.dsource")


def _deep(levels: int) -> str:
    return '{"activities": ' + "[" * levels + "]" * levels + "}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no file of data preparation"),
        ("[]", "no activities"),
        ('{"activities": []}', "no activities"),
        ('{"activities": [1]}', "no list of blocks"),
        ('{"activities": [{"blocks": []}]}', "no steps"),
        ('{"activities": [{"blocks": [1]}]}', "no list of blocks"),
        (_deep(1000), "nested more than"),
        (_deep(200_000), "nested more than"),
        ('{"activities": "' + "x" * (17 << 20) + '"}', "at most"),
        ("\xff", "no file of data preparation"),
    ],
)
def test_damaged_and_hostile_files_are_told_in_a_sentence(
    folder: Folder, dataprep: Any, text: str, told: str
) -> None:
    (folder.path / "x.dprep").write_text(text, encoding="latin-1")
    with pytest.raises(dataprep.Exception, match=told):
        folder.columns("x.dprep")


def test_dataflows_that_refer_to_themselves_end(folder: Folder, dataprep: Any) -> None:
    folder.write("a.dprep", referring("b.dprep"))
    folder.write("b.dprep", referring("a.dprep"))
    with pytest.raises(dataprep.Exception, match="refers to itself"):
        folder.columns("a.dprep")
    for at in range(30):
        folder.write(f"{at}.dprep", referring(f"{at + 1}.dprep"))
    with pytest.raises(dataprep.Exception, match="too many"):
        folder.columns("0.dprep")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, folder: Folder) -> Callable[..., None]:
    def ask(**found: Any) -> None:
        monkeypatch.setenv("AML_DATA_SOURCES", json.dumps({"sampling": True, **found}))

    return ask


def test_samples_and_sources_are_those_of_the_run_configuration(
    folder: Folder, dataprep: Any, asked: Callable[..., None]
) -> None:
    folder.do("a\n1\n2\n3\n", sampling(0, 1))
    folder.write("x.dprep", referring("x.dsource"))
    asked(sampling=False)
    assert len(folder.columns("x.dprep")["a"]) == 3
    asked(sampling=False, settings={"x.dsource": {"Sampling": {"Sample": "some"}}})
    assert len(folder.columns("x.dprep")["a"]) == 3
    folder.do(
        "a\n1\n2\n3\n", {**sampling(0, 1), "arguments": {**sampling(0, 1)["arguments"], "activeSample": ""}}
    )
    asked()
    assert len(folder.columns("x.dprep")["a"]) == 3
    for settings in ({"Sampling": {"Sample": "some"}}, {"Sampling": None, "Sample": "some"}):
        asked(settings={"x.dsource": settings})
        assert len(folder.columns("x.dprep")["a"]) == 1
    asked(settings={"./x.dsource": {"Sampling": {"Sample": "none"}}})
    with pytest.raises(dataprep.Exception, match="'none'; there is some"):
        folder.columns("x.dprep")
    asked(substitutions={"x.dsource": "../outside.dsource"})
    with pytest.raises(dataprep.Exception, match=r"outside.dsource leaves the project"):
        folder.columns("x.dprep")
