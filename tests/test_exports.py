"""The public names: there, callable, loaded when they are first used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import aml_jupyter

ROOT = Path(__file__).resolve().parent.parent


def answer(program: str) -> str:
    """What a fresh interpreter prints."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def test_a_bare_import_loads_no_other_module_of_the_package() -> None:
    program = "import aml_jupyter\nprint([name for name in sys.modules if name.startswith('aml_jupyter.')])"
    assert answer(program) == "[]"


@pytest.mark.parametrize("name", aml_jupyter.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(aml_jupyter, name) is not None
    assert name in dir(aml_jupyter)


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        aml_jupyter.nothing  # noqa: B018


@pytest.mark.parametrize(
    "imports",
    [
        "import aml_jupyter",
        "from aml_jupyter import *; import aml_jupyter",
        "import aml_jupyter.runs, aml_jupyter.run, aml_jupyter",
        "from aml_jupyter import runs, run; import aml_jupyter",
        "from aml_jupyter.runs.index import History; import aml_jupyter",
    ],
)
def test_run_and_runs_are_modules_that_can_be_called_however_they_were_imported(imports: str) -> None:
    program = (
        f"{imports}\nfrom aml_jupyter.errors import AmlError\n"
        "assert callable(aml_jupyter.runs) and aml_jupyter.runs.Record and aml_jupyter.run.Run\n"
        "try:\n    aml_jupyter.run('no-such-run-anywhere')\nexcept AmlError as error:\n    print(error.code)"
    )
    assert answer(program) == "run.unknown"


def test_an_error_of_a_cell_survives_pickling() -> None:
    program = (
        "import pickle\nfrom aml_jupyter.magics.submit import CellFailed\n"
        "from aml_jupyter.runs import Record\n"
        "error = CellFailed(Record(run_id='r_1', status='Failed', reason='run.oom', exit_code=3), ['a'])\n"
        "again = pickle.loads(pickle.dumps(error))\nprint(again.run_id, again.code, again.exit_code)"
    )
    assert answer(program) == "r_1 run.oom 3"
