"""Runs cells that are written for IPython (`%magic`, `!command`, `name?`) by the IPython of the target."""

import ast
import atexit
import os
import shutil
import sys
import tempfile
import warnings

import IPython
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from aml_run import failure, show
from aml_run.cell import TOP_LEVEL_AWAIT, Cell


class _Publisher(DisplayPublisher):
    """`display()` of the shell."""

    def publish(self, data, metadata=None, *_args, transient=None, update=False, **_options):
        """Show a MIME bundle."""
        show.publish(data, metadata, (transient or {}).get("display_id"), update)

    def clear_output(self, wait=False):
        """Clear what was shown."""
        show.clear_output(wait)


class _Results(DisplayHook):
    """The values of expressions."""

    def write_output_prompt(self):
        """Print no number: results are shown as such."""

    def write_format_data(self, format_dict, md_dict=None):
        """Show a result."""
        show.emit("result", format_dict, md_dict or {})

    def finish_displayhook(self):
        """Leave the stream as it is; the base class ends a line here."""


class _Shell(InteractiveShell):
    """A shell without history, colours and files of its own, which keeps what was raised."""

    failed: "BaseException | None" = None

    def showtraceback(self, exc_tuple=None, *_args, **_options):
        """Keep an exception: it is reported when the cell is over."""
        type(self).failed = exc_tuple[1] if exc_tuple else sys.exc_info()[1]

    def showsyntaxerror(self, *_args, **_options):
        """Keep a syntax error."""
        type(self).failed = sys.exc_info()[1]

    def enable_gui(self, gui=None):
        """Need no event loop: figures are drawn to images."""

    def ask_exit(self):
        """End the run where the cell says `exit`."""
        raise SystemExit(0)


def transformed(cell):
    """The cell in plain Python, or None when no line of it is IPython's."""
    try:
        text = TransformerManager().transform_cell(cell.source)
    except SyntaxError:
        return None
    return text if text.strip() != cell.source.strip() or "get_ipython" in text else None


def takes(cell):
    """Whether a cell is written for IPython."""
    return transformed(cell) is not None


def without_magics(cell):
    """The syntax tree of a cell without the statements that are IPython's."""
    text = transformed(cell) or cell.source
    tree = compile(text, cell.filename, "exec", ast.PyCF_ONLY_AST | TOP_LEVEL_AWAIT, True)
    tree.body = [one for one in tree.body if "get_ipython()" not in (ast.get_source_segment(text, one) or "")]
    return tree


def run(cell, namespace):
    """Run a cell as IPython would; raises what the cell raised."""
    shell = _start(cell, namespace)
    warnings.filterwarnings("ignore", message="To exit: use")
    result = shell.run_cell(cell.source, store_history=True)
    raised = result.error_before_exec or result.error_in_exec or shell.failed
    if raised is None:
        return
    failure.hidden.append(os.path.dirname(os.path.abspath(IPython.__file__)) + os.sep)
    if type(raised).__name__ == "UsageError":  # a magic was called wrongly: its sentence says it all
        raised = raised.with_traceback(None)
    raise raised


def _start(cell, namespace):
    folder = tempfile.mkdtemp(prefix="aml-ipython-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["IPYTHONDIR"] = folder
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor" if IPython.version_info[0] < 9 else "nocolor"
    config.InteractiveShell.banner1 = ""
    config.InteractiveShell.display_pub_class = _Publisher
    config.InteractiveShell.displayhook_class = _Results
    _Shell.display_pub_class = _Publisher  # type: ignore[assignment]  # a class in place of the trait for one
    _Shell.displayhook_class = _Results  # type: ignore[assignment]  # the same
    shell = _Shell.instance(user_module=sys.modules["__main__"], user_ns=namespace, config=config)
    shell.set_hook("show_in_pager", _page)
    assert shell.display_formatter is not None  # made by the shell's constructor
    png = shell.display_formatter.formatters["image/png"]
    png.for_type_by_name("matplotlib.figure", "Figure", _figure_png)

    def register(code: str, *_args: object, **_options: object) -> str:
        return _register(cell, code)

    shell.compile.cache = register  # type: ignore[assignment, method-assign]  # of this one compiler
    return shell


def _register(cell: Cell, code: str) -> str:
    """Name all code of the cell by the cell's name: tracebacks then point into its lines."""
    import linecache

    linecache.cache[cell.filename] = (len(code), None, code.splitlines(True), cell.filename)
    return cell.filename


def _figure_png(figure):
    from aml_run import figures

    return figures.png(figure)


def _page(_shell, data, start=0, screen_lines=0, pager_cmd=None):  # noqa: ARG001 - IPython passes them
    show.publish(data if isinstance(data, dict) else {"text/plain": data})
