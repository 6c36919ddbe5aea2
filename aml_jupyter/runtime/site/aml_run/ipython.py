"""`IPython.display.display` where no IPython shell runs: to the notebook instead of to a print."""

import functools
import sys

from aml_run import channel, show


def _elsewhere():
    """Whether the output is better left to IPython: it has a shell of its own, or this is no run."""
    shell = sys.modules.get("IPython.core.interactiveshell")
    return not channel.inside() or (shell is not None and shell.InteractiveShell.initialized())


def publish_display_data(data, metadata=None, *, transient=None, update=False, **_options):
    """Show a MIME bundle; stands in for IPython's function of that name."""
    show.publish(data, metadata, (transient or {}).get("display_id"), update)


def keep_display(module):
    """Give the display functions of a module of IPython a way to the notebook."""
    ours = {
        "display": show.display,
        "update_display": show.update_display,
        "clear_output": show.clear_output,
        "publish_display_data": publish_display_data,
    }
    for name, function in ours.items():
        original = module.__dict__.get(name)
        if original is not None and original.__module__ == module.__name__:
            setattr(module, name, _choice(original, function))


def _choice(original, function):
    @functools.wraps(original)
    def choose(*args, **kwargs):
        return (original if _elsewhere() else function)(*args, **kwargs)

    return choose
