"""Mathematics as MathML, which browsers draw by themselves: no script, no font and no network is needed."""

from __future__ import annotations

import re
from html import escape
from typing import Any, NoReturn

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator


def mathml(formula: str, display: str = "inline") -> str:
    """A formula as MathML, a thin space after named functions, which MathML leaves to the author."""
    return convert(re.sub(r"\\(ln|det)(?![a-z])", r"\\\1\\,", formula), display=display)


def inline(writer: HTML5Translator, node: nodes.math) -> NoReturn:
    """A formula within a line."""
    writer.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def block(writer: HTML5Translator, node: nodes.math_block) -> NoReturn:
    """A formula of its own, with its number where it has a label."""
    writer.body.append(writer.starttag(node, "div", CLASS="math"))
    writer.body.append(mathml(node.astext(), "block"))
    if node["number"]:
        number = get_node_equation_number(writer, node)
        writer.body.append(f'<span class="eqno">({escape(number)})</span>')
        writer.add_permalink_ref(node, "Link to this equation")
    writer.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Offer the renderer to Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
