"""Run a notebook cell or a project as an isolated snapshot on a compute target."""

__version__ = "0.1.0"
