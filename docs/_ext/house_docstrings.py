"""The house style of docstrings as numpydoc reads it.

In this code what follows ``name :`` is a sentence about the parameter, not a type, so it belongs in the
description.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"^(Parameters|Raises|Returns|Attributes|Yields)$")
ENTRY = re.compile(r"^(\S.*?) : (.+)$")


def reshape(lines: list[str]) -> list[str]:
    """Entries ``name : text`` of the sections that list things as ``name`` with the text below it."""
    made: list[str] = []
    section = False
    for number, line in enumerate(lines):
        underlined = number + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[number + 1])
        if underlined:
            section = bool(SECTION.match(line))
        entry = ENTRY.match(line)
        if section and entry:
            made += [entry[1], "    " + entry[2]]
        else:
            made.append(line)
    return made


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place, before numpydoc sees it."""
    lines[:] = reshape(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Run ahead of numpydoc, which comes at the default priority."""
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
