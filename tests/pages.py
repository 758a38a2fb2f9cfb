"""The code blocks of Markdown pages: those in Python run, and what stands below them is what they print.

On a page that starts from files, a block with the name of a file as its caption is that file, and a command
with its output right below it runs too.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
#: a file that a page shows: its name and what it holds
FILE = re.compile(r"^```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
#: estimates of rounding depend on the processor
ROUNDING = re.compile(r"up to \S+ \(relative\)")
PROGRESS = re.compile(r"^depprobe: \d+ %.*\n", re.MULTILINE)
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


def commands(block: str) -> list[str]:
    """The commands of a console block, each on one line."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def run_commands(page: str) -> int:
    """Write the files of a page here, then run its commands with an output below them; how many ran."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, content in FILE.findall(text):
        Path(name).write_text(content, encoding="utf-8")
    found = list(FENCE.finditer(text))
    ran = 0
    for fence, following in itertools.pairwise(found):
        if fence[1] != "console" or text[fence.end() : following.start()].strip():
            continue
        compare("".join(map(_output, commands(fence[2]))), following[2])
        ran += 1
    return ran


def _output(command: str) -> str:
    """What a command says, on stdout and stderr; those of the program run in this process."""
    words = shlex.split(command)
    if words[0] != "depprobe":
        words[0] = sys.executable if words[0] == "python" else words[0]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout
    from depprobe.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
        main(words[1:])
    assert not end.value.code, said.getvalue()
    # on a slow machine a run says how far it is
    return PROGRESS.sub("", said.getvalue())


def compare(printed: str, shown: str) -> None:
    """The same words and the same numbers, whatever the spaces: to 2 %, those with an exponent to 10 %."""
    printed, shown = (ROUNDING.sub("up to its rounding", text) for text in (printed, shown))
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split(), printed
    for value, expected in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        # of a number with an exponent two digits are printed
        rel = 0.1 if "e" in expected else 0.02
        assert float(value) == pytest.approx(float(expected), rel=rel), printed
