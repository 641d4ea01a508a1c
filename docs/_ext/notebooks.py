"""Publishes each tutorial as a notebook file, with a link to it and one that opens it in Colab.

The notebooks are written to ``_static/notebooks`` of the site, without outputs. The variable
``DOCS_REPOSITORY``, such as ``owner/name``, says where the site's branch ``gh-pages`` is on GitHub;
without it no page has the second link, because Colab opens notebooks of GitHub alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from sphinx.application import Sphinx

CELL = "# %% [markdown]\n# {links}\n\n"
COLAB = (
    "https://colab.research.google.com/github/{repository}/blob/gh-pages/_static/notebooks/{name}"
)


def is_tutorial(app: Sphinx, docname: str) -> bool:
    """Returns whether a page is a notebook."""
    return docname.startswith("tutorials/") and app.env.doc2path(docname).endswith(".py")


def add_links(app: Sphinx, docname: str, source: list[str]) -> None:
    """Puts the links below the introduction, in a cell of their own."""
    if not is_tutorial(app, docname):
        return
    name = f"{docname.partition('/')[2]}.ipynb"
    links = f'<a href="../_static/notebooks/{name}" download>Download this notebook</a>'
    if repository := os.environ.get("DOCS_REPOSITORY"):
        address = COLAB.format(repository=repository, name=name)
        links += f' &nbsp; <a class="colab" href="{address}">Open in Colab</a>'
    header, code, rest = source[0].partition("\n# %%\n")
    source[0] = f"{header}\n{CELL.format(links=links)}{code.lstrip()}{rest}"


def write_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Writes the files."""
    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for docname in filter(lambda name: is_tutorial(app, name), app.env.found_docs):
        path = Path(app.env.doc2path(docname))
        notebook = jupytext.read(path)
        if repository := os.environ.get("DOCS_REPOSITORY"):
            install = f"%pip install -q 'jaxmarl-lite[all] @ git+https://github.com/{repository}'"
            notebook.cells.insert(0, nbformat.v4.new_code_cell(install))
        jupytext.write(notebook, folder / f"{path.stem}.ipynb")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects both."""
    app.connect("source-read", add_links)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
