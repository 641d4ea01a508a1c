"""Settings of the documentation: `sphinx-build -W -b html docs docs/_build/html`."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "jaxmarl_lite"
author = "the authors of jaxmarl_lite"
release = version = metadata.version("jaxmarl-lite")
project_copyright = f"2026, {author}"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "library_tables",
    "learning_curves",
    "docstrings",
    "mathml",
    "notebooks",
]
exclude_patterns = ["_build", "_ext", "conf.py", "pictures.py", "**/.ipynb_checkpoints"]

# pages
myst_enable_extensions = [
    "amsmath",
    "attrs_block",
    "attrs_inline",
    "colon_fence",
    "deflist",
    "dollarmath",
]
myst_heading_anchors = 3

# tutorials are Python files with Markdown in comments; a page's name is its file's
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings with paths of the machine that built the page

# reference
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = False  # a default is shown by its value, not by the name of a constant
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "py:obj"

# looks
html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_title = "jaxmarl_lite"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_theme_options = {
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": True,
    "use_fullscreen_button": False,
}
html_context = {"default_mode": "auto"}  # light or dark, as the system is
html_css_files = ["style.css"]


def _named_functions(
    app: Any,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None] | None:
    """Shows a function that is a default by its name."""
    if signature is None or "<function " not in signature:
        return None
    return re.sub(r"<function ([\w.]+)>", r"\1", signature), returns


def setup(app: Any) -> None:
    """Connects to the reference."""
    app.connect("autodoc-process-signature", _named_functions)
