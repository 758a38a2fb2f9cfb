"""Generated files are written only when they change, so that a second build reads only what is new."""

from __future__ import annotations

from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write ``text`` unless the file holds it already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
