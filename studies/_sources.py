"""What a study's numbers were made by: its own code and the modules of depprobe it ran, each by a hash.

Documentation, comments and what draws do not bear on numbers: ``plot``, ``summary`` and functions whose
name starts with ``_draw`` are left out of the script, ``depprobe.figures`` and ``depprobe.cli`` of the
package.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from functools import cache
from pathlib import Path

import torch

from depprobe.store.marks import PACKAGE, code_version

STUDIES = Path(__file__).parent
_DRAWING = ("depprobe.figures", "depprobe.cli")
_DRAWERS = ("plot", "summary", "main", "_draw")


@cache
def mark(source: str) -> str:
    """Hash of what a source does: the same whatever its comments, layout, documentation and figures.

    Examples
    --------
    >>> mark("def compute(quick):\n    return 1") == mark("# why\ndef compute(quick):\n  return 1")
    True
    """
    tree = ast.parse(source)
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.FunctionDef) and node.name.startswith(_DRAWERS))
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def used(script: Path) -> dict[str, str]:
    """Marks of the script, of what it shares with other studies, and of the package's modules it ran."""
    files = {script.resolve()}
    for name, module in sys.modules.items():
        # the package, and what studies share: to find the file of every loaded module takes a second
        ours = name.partition(".")[0] == PACKAGE.name or name.startswith("_")
        file = getattr(module, "__file__", None) if ours else None
        if file is None or name.startswith(_DRAWING):
            continue
        path = Path(file).resolve()
        if path.is_relative_to(PACKAGE) or (path.parent == STUDIES and path.name.startswith("_")):
            files.add(path)
    root = PACKAGE.parent
    marks = {_named(path, root): mark(path.read_text(encoding="utf-8")) for path in sorted(files)}
    return marks | {"torch": torch.__version__}


def everything(script: Path) -> str:
    """One hash of all that could bear on numbers, before anything has run."""
    return code_version(beside=(*sorted(STUDIES.glob("_*.py")), script.resolve()))


def unchanged(marks: dict[str, str]) -> bool:
    """Whether every file is still as it was when the marks were taken."""
    for name, known in marks.items():
        if name == "torch":
            if known != torch.__version__:
                return False
            continue
        path = PACKAGE.parent / name
        if not path.is_file() or mark(path.read_text(encoding="utf-8")) != known:
            return False
    return bool(marks)


def _named(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
