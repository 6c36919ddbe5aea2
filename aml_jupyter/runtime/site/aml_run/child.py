"""The main module of processes that multiprocessing spawns from a cell: the cell again, by another name.

As with a script, its statements run once more in each of them, but for those below
`if __name__ == "__main__":`.
"""


def _fill(namespace):
    import io
    import os
    import sys

    from aml_run import cell as cells
    from aml_run import values

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a pool ends its processes by a signal
    cell = cells.Cell(os.environ["AML_JOB"])
    try:
        tree = cells.parse(cell)
    except SyntaxError:
        from aml_run import shell

        tree = shell.without_magics(cell)
    code = compile(tree, cell.filename, "exec", cells.TOP_LEVEL_AWAIT, True)
    namespace["__file__"] = cell.path
    namespace.update(cell.params)
    values.fill(cell, namespace)
    if code.co_flags & cells.COROUTINE:
        import asyncio

        asyncio.run(eval(code, namespace))  # noqa: S307 - running the cell is the purpose
    else:
        exec(code, namespace)  # noqa: S102


_fill(globals())
