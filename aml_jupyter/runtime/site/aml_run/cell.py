"""Runs a cell as the program `__main__`, and shows what a notebook would show of it."""

import _ast
import _frozen_importlib
import _frozen_importlib_external
import builtins
import os
import sys

from aml_run import channel, show, streams

TOP_LEVEL_AWAIT = getattr(_ast, "PyCF_ALLOW_TOP_LEVEL_AWAIT", 0)
COROUTINE = 0x80  # CO_COROUTINE of inspect, whose import takes 10 ms
LAST = "__aml_last__"


class Cell:
    """The text of a cell and what was asked for: `cell.py` and `cell.json` of a job's folder."""

    def __init__(self, job):
        self.path = os.path.join(job, "cell.py")
        self.inputs_folder = os.path.join(job, "inputs")
        with open(self.path, "rb") as file:
            self.source = decode(file.read())
        asked = {}
        try:
            with open(os.path.join(job, "cell.json"), "rb") as file:
                asked = channel.loads(file.read().decode("utf-8"))
        except FileNotFoundError:
            pass
        self.filename: str = asked.get("filename") or "<cell>"
        self.inputs = asked.get("inputs") or ()
        self.outputs = asked.get("outputs") or ()
        self.params = asked.get("params") or {}
        self.accepts = asked.get("accepts") or ()
        self.python = asked.get("python") or ""

    def lines(self):
        """The source as a list of lines, for tracebacks."""
        return [line + "\n" for line in self.source.replace("\r\n", "\n").replace("\r", "\n").split("\n")]

    def dedent(self):
        """Remove the first line's indentation from every line, as notebooks do; whether there was any."""
        lines = self.lines()
        first = next((line for line in lines if line.strip()), "")
        margin = first[: len(first) - len(first.lstrip())]
        if margin:
            self.source = "".join(line[len(margin) :] if line.startswith(margin) else line for line in lines)
        return bool(margin)

    def register(self, linecache):
        """Let tracebacks and `inspect` find the lines of the cell."""
        linecache.cache[self.filename] = (len(self.source), None, self.lines(), self.filename)


def decode(data):
    """The text of a cell: UTF-8, nothing translated, so that it is what the notebook held."""
    return data.decode("utf-8")


def main(job: str, arguments: "list[str]") -> int:
    """Run the cell of a job's folder; the exit status of the process."""
    cell = Cell(job)
    streams.install()
    sys.argv[:] = [cell.path] + arguments
    sys.path.insert(0, os.getcwd())
    namespace = sys.modules["__main__"].__dict__
    _prepare(cell, namespace)
    status = 0
    try:
        _fill(cell, namespace)
        _run(cell, namespace)
    except SystemExit as error:
        status = _exit_status(error.code)
    except BaseException as error:  # noqa: BLE001 - whatever the cell raises is shown as its own
        from aml_run import failure

        status = failure.report(error, cell)
    try:
        _flush_figures()
        if cell.outputs:
            from aml_run import values

            values.send_outputs(cell, namespace, failed=bool(status))
    except BaseException as error:  # noqa: BLE001 - a figure that cannot be drawn, an interrupt
        from aml_run import failure

        status = failure.report(error, cell) or status
    return status


def _prepare(cell, namespace):
    """Make `__main__` a program that was started from the cell's file, and that multiprocessing can spawn."""
    for name in [name for name in namespace if not name.startswith("__")]:
        del namespace[name]
    spec = _frozen_importlib.ModuleSpec("aml_run.child", None)
    namespace.update(__file__=cell.path, __doc__=None, __spec__=spec)
    vars(builtins).update(display=show.display, input=_no_input)
    if "linecache" in sys.modules:
        cell.register(sys.modules["linecache"])
    else:
        sys.meta_path.insert(0, _LinesAfterImport(cell))


class _LinesAfterImport:
    """Registers the cell's lines once linecache is imported: importing it for every cell takes too long."""

    def __init__(self, cell):
        self.cell = cell

    def find_spec(self, name, path=None, target=None):
        """Find nothing; wrap the loader of linecache once."""
        if name != "linecache":
            return None
        sys.meta_path.remove(self)
        spec = _frozen_importlib_external.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            self.cell.register(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # of this one loader
        return spec


def _no_input(prompt=""):
    """Stand in for input(): nobody is there to answer."""
    if prompt:
        sys.stdout.write(str(prompt))
    raise EOFError("standard input is empty in a run: pass a parameter (-p) or a value (--in) instead")


def _fill(cell, namespace):
    """Put parameters and values sent along into the cell's globals."""
    namespace.update(cell.params)
    if cell.inputs:
        from aml_run import values

        values.fill(cell, namespace)


def _run(cell, namespace):
    try:
        tree, problem = parse(cell), None
    except (SyntaxError, ValueError) as error:  # a NUL character is a ValueError to some versions
        tree, problem = None, error
    if problem or "get_ipython" in cell.source:
        shell = _shell()
        if shell is not None and shell.takes(cell):
            shell.run(cell, namespace)
            return
    if problem:
        raise problem
    keeps = _keep_last(tree, cell)
    code = compile(tree, cell.filename, "exec", TOP_LEVEL_AWAIT, True)
    if code.co_flags & COROUTINE:
        import asyncio

        asyncio.run(eval(code, namespace))  # noqa: S307 - running the cell is the purpose
    else:
        exec(code, namespace)  # noqa: S102
    if keeps:
        show.show_result(namespace.pop(LAST, None))


def parse(cell):
    """The syntax tree of a cell in plain Python; raises SyntaxError."""
    flags = _ast.PyCF_ONLY_AST | TOP_LEVEL_AWAIT
    try:
        return compile(cell.source, cell.filename, "exec", flags, True)
    except IndentationError:
        if not cell.dedent():
            raise
        return compile(cell.source, cell.filename, "exec", flags, True)


def _shell():
    """The module that runs cells by IPython, where IPython is installed."""
    if _frozen_importlib_external.PathFinder.find_spec("IPython") is None:
        return None
    from aml_run import shell

    return shell


def _keep_last(tree, cell):
    """Turn a last expression into an assignment, unless a semicolon follows it; whether there was one."""
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, _ast.Expr):
        return False
    assert last.end_lineno is not None  # the parser sets it
    after = cell.lines()[last.end_lineno - 1 :]
    after[0] = after[0].encode("utf-8")[last.end_col_offset :].decode("utf-8")
    if "".join(after).lstrip().startswith(";"):
        return False
    where = {name: getattr(last, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")}
    name = _ast.Name(id=LAST, ctx=_ast.Store(), **where)
    tree.body[-1] = _ast.Assign(targets=[name], value=last.value, type_comment=None, **where)
    return True


def _exit_status(code):
    """What a process ends with after sys.exit(code)."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    sys.stderr.write("%s\n" % (code,))
    return 1


def _flush_figures():
    figures = sys.modules.get("aml_run.figures")
    if figures is not None:
        figures.flush()
