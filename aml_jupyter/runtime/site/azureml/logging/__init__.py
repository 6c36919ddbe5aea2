"""`azureml.logging` as the scripts of 2017 and 2018 use it; what they log lands in the history of the run.

from azureml.logging import get_azureml_logger

run_logger = get_azureml_logger()
run_logger.log("Accuracy", 0.97)
"""

import os

from aml_run import metrics

__all__ = ["get_azureml_logger"]


class Request:
    """A value that was logged or uploaded; it is kept already, `wait` is there for scripts that call it."""

    def __init__(self, what):
        self._what = what

    def wait(self, timeout=None):  # noqa: ARG002 - the name scripts may use
        """Return at once."""
        return self

    def __repr__(self):
        return "<%s>" % self._what


class AzureMLLogger:
    """Logs values and keeps files of the run."""

    def log(self, name, value):
        """Record a number, text, list or array under a name; a name logged again holds all its values."""
        metrics.log(name, value)
        text = repr(metrics.convert(value))
        return Request("logged %s = %s" % (name, text if len(text) <= 80 else text[:77] + "..."))

    def upload(self, path, content):
        """Keep bytes, text or an open file as the artifact `outputs/<path>`."""
        if hasattr(content, "read"):
            content = content.read()
        data = content.encode("utf-8") if isinstance(content, str) else bytes(content)
        name = _inside_outputs(path)
        target = os.path.join(_outputs(), name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(data)
        return Request("uploaded outputs/%s, %d bytes" % (name, len(data)))

    def __repr__(self):
        return "<AzureMLLogger of run %s>" % os.environ.get("AZUREML_RUN_ID", "(none)")


def _outputs():
    return os.environ.get("AZUREML_OUTPUT_DIRECTORY") or os.path.abspath("outputs")


def _inside_outputs(path):
    parts = [part for part in str(path).replace("\\", "/").split("/") if part not in ("", ".")]
    if parts[:1] == ["outputs"]:
        parts = parts[1:]
    if not parts or ".." in parts:
        raise ValueError("%r does not name a file below outputs/" % (path,))
    return "/".join(parts)


_logger = AzureMLLogger()


def get_azureml_logger():
    """The logger of this run."""
    return _logger
