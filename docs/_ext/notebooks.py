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
from nbformat import NotebookNode
from sphinx.application import Sphinx

COLAB = (
    "https://colab.research.google.com/github/{repository}/blob/gh-pages/_static/notebooks/{name}"
)


def is_tutorial(app: Sphinx, docname: str) -> bool:
    """Returns whether a page is a notebook."""
    return docname.startswith("tutorials/") and Path(app.env.doc2path(docname)).suffix == ".py"


def add_links(app: Sphinx, docname: str, source: list[str]) -> None:
    """Puts the links on a page."""
    if is_tutorial(app, docname):
        name = docname.partition("/")[2]
        source[0] = with_links(source[0], name, os.environ.get("DOCS_REPOSITORY", ""))


def with_links(text: str, name: str, repository: str) -> str:
    """Returns the text of a tutorial with its links, in a cell below the introduction."""
    file = f"{name}.ipynb"
    links = f'<a href="../_static/notebooks/{file}" download>Download this notebook</a>'
    if repository:
        links += f' · <a href="{COLAB.format(repository=repository, name=file)}">Open in Colab</a>'
    introduction, code, rest = text.partition("\n# %%\n")
    return f"{introduction}\n# %% [markdown]\n# {links}\n{code}{rest}"


def notebook(path: Path, repository: str) -> NotebookNode:
    """Returns a tutorial as a notebook; in Colab its first cell installs the library."""
    document = jupytext.read(path)
    if repository:
        install = f"%pip install -q 'jaxmarl-lite[all] @ git+https://github.com/{repository}'"
        document.cells.insert(0, nbformat.v4.new_code_cell(install))
    return document


def write_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Writes the files."""
    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for docname in filter(lambda name: is_tutorial(app, name), app.env.found_docs):
        path = Path(app.env.doc2path(docname))
        document = notebook(path, os.environ.get("DOCS_REPOSITORY", ""))
        jupytext.write(document, folder / f"{path.stem}.ipynb")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects both."""
    app.connect("source-read", add_links)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
