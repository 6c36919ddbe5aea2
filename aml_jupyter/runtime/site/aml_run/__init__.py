"""What a program may use inside a run: metrics, images, tables and rich output that appear in the notebook.

    import aml_run

    aml_run.log("loss", 0.12, step=3)
    aml_run.log_image("confusion", plot=figure)
    aml_run.log_table("scores", {"fold": [1, 2], "accuracy": [0.91, 0.93]})
    aml_run.display(frame)
    model = aml_run.input("model")
    account = aml_run.storage()

Outside a run every function does nothing, and says so once; `input` knows no name there, and `storage` reads
the same variables.
"""

__all__ = ["clear_output", "display", "input", "log", "log_image", "log_table", "storage", "update_display"]

_HOMES = {
    "input": "aml_run.given",
    "log": "aml_run.metrics",
    "log_image": "aml_run.metrics",
    "log_table": "aml_run.metrics",
    "storage": "aml_run.blob",
    "clear_output": "aml_run.show",
    "display": "aml_run.show",
    "update_display": "aml_run.show",
}


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError("module 'aml_run' has no attribute %r" % name)
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
