"""A run on another machine that is given artifacts of an earlier one, and is run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from aml_jupyter import experiment
from aml_jupyter.experiment import Request
from aml_jupyter.run import Run
from tests.machines import Box
from tests.test_rerun_targets import MAKE, USE, ended


@pytest.mark.slow
@pytest.mark.root
def test_another_machine_is_given_artifacts_and_runs_them_again(
    box: Box, remote_project: Path, home: str
) -> None:
    (remote_project / "make.py").write_text(MAKE)
    (remote_project / "use.py").write_text(USE)
    made = ended(Request(script="make.py", target="box"))
    given = {"model": f"{made.run_id}:model.txt", "all": f"{made.run_id}:outputs"}
    run = Run(experiment.submit(Request(script="use.py", target="box", given=given))).wait(120)
    assert run.logs() == "the model ['deep', 'model.txt'] inputs/model/model.txt\n"
    assert run.record.not_kept == ()
    assert run.rerun(verify=True).same
