"""Runs the cell of a job: `python run_cell.py [arguments]`; AML_JOB names the job's folder."""

import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
if _here in sys.path[:1]:
    del sys.path[0]  # the program's own modules come first, and none of the runtime's are among them
if "aml_run" not in sys.modules and _here + "/site" not in sys.path:
    sys.path.insert(0, _here + "/site")  # PYTHONPATH was replaced or is ignored

from aml_run import cell  # noqa: E402

sys.exit(cell.main(os.environ.get("AML_JOB") or os.path.dirname(_here), sys.argv[1:]))
