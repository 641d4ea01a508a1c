"""Formulas as MathML, which browsers draw by themselves: no script, no network."""

from __future__ import annotations

from typing import Any

import latex2mathml.converter
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html import HTMLTranslator


def visit_inline(translator: HTMLTranslator, node: nodes.math) -> None:
    """Writes a formula in a sentence."""
    translator.body.append(latex2mathml.converter.convert(node.astext()))
    raise nodes.SkipNode


def visit_block(translator: HTMLTranslator, node: nodes.math_block) -> None:
    r"""Writes a formula on lines of its own; ``&`` and ``\\\\`` align them."""
    text = node.astext()
    if "\\\\" in text and "\\begin" not in text:
        text = "\\begin{split}" + text + "\\end{split}"
    formula = latex2mathml.converter.convert(text, display="block")
    translator.body.append(f'<div class="math">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
