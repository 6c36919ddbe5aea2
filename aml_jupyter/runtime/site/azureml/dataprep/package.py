"""`azureml.dataprep.package`: the dataflows of .dprep files.

from azureml.dataprep.package import run

iris = run("iris.dprep", dataflow_idx=0)
"""

from ._documents import DataPrepException
from ._execution import execute, to_frame

__all__ = ["DataPrepException", "run", "run_on_data", "submit"]


def run(package_path, dataflow_idx=0, secrets=None, spark=None):  # noqa: ARG001 - a name scripts may use
    """Run a dataflow of a package: a pandas DataFrame, or a Spark one in a PySpark run or with `spark=True`.

    Raises DataPrepException for a file that cannot be read and for a step that is not done here.
    """
    return to_frame(execute(package_path, dataflow_idx), spark)


def run_on_data(user_config, package_path, dataflow_idx=0, secrets=None, spark=None):  # noqa: ARG001
    """The same on data in memory: `user_config` maps paths of .dsource files to lists of rows."""
    return to_frame(execute(package_path, dataflow_idx, dict(user_config)), spark)


def submit(package_path, dataflow_idx=0, secrets=None, spark=None):  # noqa: ARG001
    """Run a dataflow for what it writes."""
    execute(package_path, dataflow_idx)
