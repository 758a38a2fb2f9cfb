"""The package's own files that a call enters, counted with ``sys.setprofile``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import depprobe

ROOT = Path(depprobe.__file__).parent


def entered_files(call: Callable[[], object]) -> list[str]:
    """Paths within the package of the files in which a second call enters a function."""
    call()
    seen: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            seen.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    inside = (Path(name) for name in seen)
    return sorted(str(path.relative_to(ROOT)) for path in inside if path.is_relative_to(ROOT))
