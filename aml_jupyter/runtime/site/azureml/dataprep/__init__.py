"""`azureml.dataprep` of 2017: `package` runs .dprep files and `datasource` reads .dsource files.

A package of the same name that is installed stays visible: its modules, and its names at their first use.
"""

import importlib
import os

__path__ = __import__("pkgutil").extend_path(__path__, __name__)
_OURS = ("datasource", "package")
_waiting = [path for path in __path__[1:] if os.path.isfile(os.path.join(path, "__init__.py"))]


def __getattr__(name):
    if name in _OURS:
        return importlib.import_module(__name__ + "." + name)
    if _waiting and not name.startswith("_"):
        # the installed package's own names: loading them may take seconds
        path = os.path.join(_waiting.pop(0), "__init__.py")
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec"), globals())  # noqa: S102 - as an import would
        if name in globals():
            return globals()[name]
    raise AttributeError("module %r has no attribute %r" % (__name__, name))
