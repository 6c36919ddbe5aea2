"""Sphinx: Markdown pages with MyST; `make docs` builds them and treats warnings as errors."""

from aml_jupyter import __version__

project = "aml_jupyter"
author = "the aml_jupyter developers"
copyright = f"2026, {author}"
release = version = __version__

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": False, "show_prev_next": True}
