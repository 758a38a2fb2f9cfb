"""Where the package keeps files for later calls: ``$DEPPROBE_CACHE``, else ``~/.cache/depprobe``."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder, which may not be there yet; the standard ``$XDG_CACHE_HOME`` stands for ``~/.cache``."""
    if named := os.environ.get("DEPPROBE_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "depprobe"
