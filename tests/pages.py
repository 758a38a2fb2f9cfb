"""The code blocks of Markdown pages: those in Python run, and what stands below them is what they print."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for found, block in FENCE.findall(text) if found == language]


def run(page: str, space: dict[str, object] | None = None) -> int:
    """Run the Python blocks of a page, one after the other; the number that ran.

    A ``text`` block right below one is what it prints, numbers to 2 %.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    space = {} if space is None else space
    found = list(FENCE.finditer(text))
    ran = 0
    for fence, following in zip(found, [*found[1:], None], strict=True):
        if fence[1] != "python":
            continue
        line = text.count("\n", 0, fence.start()) + 1
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + fence[2], page, "exec"), space)
        ran += 1
        if following and following[1] == "text" and not text[fence.end() : following.start()].strip():
            compare(printed.getvalue(), following[2])
    return ran


def compare(printed: str, shown: str) -> None:
    """The same words and the same numbers to 2 %, whatever the spaces."""
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split(), printed
    values, expected = ([float(number) for number in NUMBER.findall(text)] for text in (printed, shown))
    assert values == pytest.approx(expected, rel=0.02), printed
