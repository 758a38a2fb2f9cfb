"""The house style of docstrings as numpydoc reads it.

In this code what follows ``name :`` is a sentence about the parameter, not a type, and what is returned is
told in sentences; bars are mathematics, as in ||J||. numpydoc takes the first words for types, and
reStructuredText takes bars for substitutions.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

LISTS = {"Parameters", "Raises", "Attributes"}
ENTRY = re.compile(r"^(\S.*?) : (.+)$")
#: stands where numpydoc wants the type of what is returned; taken out of the finished page
RETURNED = "returned-value"


def reshape(lines: list[str]) -> list[str]:
    """The lines of a docstring with every description below its name."""
    made: list[str] = []
    section = ""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"-{3,}", following):
            section = line
            made.append(line)
        elif re.fullmatch(r"-{3,}", line):
            made += [line, RETURNED] if section == "Returns" else [line]
        elif section == "Examples":
            made.append(line)
        elif section in LISTS and (entry := ENTRY.match(line)):
            made += [entry[1], "    " + plain(entry[2])]
        elif section == "Returns":
            made.append("    " + plain(line))
        else:
            made.append(plain(line))
    return made


def plain(line: str) -> str:
    """A line whose bars mean nothing to reStructuredText, ``code`` apart."""
    pieces = re.split(r"(``.+?``)", line)
    return "".join(piece if piece.startswith("``") else piece.replace("|", r"\|") for piece in pieces)


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place, before numpydoc sees it."""
    lines[:] = reshape(lines)


def unwrap(app: Sphinx, doctree: nodes.document) -> None:
    """What is returned as text, without the word that stood for its type."""
    for term in list(doctree.findall(nodes.term)):
        if term.astext() == RETURNED:
            item = term.parent
            item.parent.replace_self(item[-1].children)


def setup(app: Sphinx) -> dict[str, Any]:
    """Run ahead of numpydoc, which comes at the default priority."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("doctree-read", unwrap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
