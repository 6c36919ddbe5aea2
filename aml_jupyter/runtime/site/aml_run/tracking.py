"""A program that sends MLflow to a server of its own must not look for this run there."""

import os

_OURS = ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_TOKEN")


def follow_server(module):
    """Take back what was set for this run's own server while another one is in use."""
    own = os.environ.get("AML_MLFLOW")
    choose = getattr(module, "set_tracking_uri", None)
    kept = {name: os.environ[name] for name in _OURS if name in os.environ}
    if not own or choose is None or os.environ.get("MLFLOW_TRACKING_URI") != own:
        return
    taken: "dict[str, str]" = {}

    def set_tracking_uri(uri, *args, **kwargs):
        answer = choose(uri, *args, **kwargs)
        if str(uri) == own:
            os.environ.update(taken)
            taken.clear()
        elif uri is not None:
            for name, value in kept.items():
                if os.environ.get(name) == value:
                    taken[name] = os.environ.pop(name)
        return answer

    set_tracking_uri.__module__, set_tracking_uri.__qualname__ = choose.__module__, choose.__qualname__
    set_tracking_uri.__name__, set_tracking_uri.__doc__ = choose.__name__, choose.__doc__
    module.set_tracking_uri = set_tracking_uri
