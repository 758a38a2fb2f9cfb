"""The name of a result: a hash of all that bears on it, so that nothing stale is ever taken up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
#: parts of the package that bear on no number
_PRINTING = ("cli", "figures", "report")


def mark_of(facts: Mapping[str, Any]) -> str:
    """24 hexadecimal digits that follow from the facts, whatever their order.

    Examples
    --------
    >>> mark_of({"n": 10, "layer": "lstm"}) == mark_of({"layer": "lstm", "n": 10})
    True
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def content_of(path: Path) -> str:
    """A hash of what a file holds; of a folder, of the names and contents of its files."""
    if path.is_dir():
        return mark_of({file.name: content_of(file) for file in sorted(path.iterdir()) if file.is_file()})
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def code_version(*parts: str, beside: tuple[Path, ...] = ()) -> str:
    """A hash of the code that numbers follow from: of the package, or of these parts of it, and of torch.

    ``beside`` are further files.
    """
    files = [file for part in parts or [""] for file in (PACKAGE / part).rglob("*.py")]
    bearing = sorted(file for file in files if file.relative_to(PACKAGE).parts[0] not in _PRINTING)
    held = b"".join(file.read_bytes() for file in (*bearing, *beside))
    return hashlib.sha256(held + version("torch").encode()).hexdigest()
