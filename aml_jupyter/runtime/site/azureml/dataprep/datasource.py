"""`azureml.dataprep.datasource`: the data that .dsource files describe.

from azureml.dataprep import datasource

frame = datasource.load_datasource("ratings.dsource")
"""

from ._documents import DataPrepException
from ._execution import execute, to_frame

__all__ = ["DataPrepException", "load_datasource"]


def load_datasource(path, secrets=None, spark=None):  # noqa: ARG001 - a name scripts may use
    """Read a data source: a pandas DataFrame, or a Spark one in a PySpark run or with `spark=True`.

    Raises DataPrepException for a file that cannot be read and for a step that is not done here.
    """
    return to_frame(execute(path, 0), spark)
