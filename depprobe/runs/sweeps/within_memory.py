"""Memory that the machine does not have is refused to a cell, which fails, instead of ending the process.

    limit of the process's data = what it holds + what the machine, or its control group, has left

A system whose memory runs out kills the process; one whose own limit is reached raises an error, which is
kept as the reason of one cell. Where the system tells no numbers (Linux does), nothing is limited.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path

#: where a control group, version 2 or 1, says its limit, what it holds, and what of that it can give back
_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """Limit the data of this process to what there is; the limit goes as it came."""
    left = available()
    if not math.isfinite(left):
        yield
        return
    import resource

    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(_entry(Path("/proc/self/status"), "VmData") + left)
    if before != resource.RLIM_INFINITY:
        limit = min(limit, before)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def available() -> float:
    """Bytes that the machine, or the control group of this process, has left; inf where it is not told."""
    try:
        left = _entry(Path("/proc/meminfo"), "MemAvailable")
    except (OSError, ValueError):
        return math.inf
    for root, most, now, inactive in _GROUPS:
        for folder in _folders(root):
            with contextlib.suppress(OSError, ValueError):
                limit = float((folder / most).read_text())
                used = float((folder / now).read_text())
                used -= _entry(folder / "memory.stat", inactive, 1)
                left = min(left, limit - used)
    return max(0.0, left)


def _folders(root: Path) -> list[Path]:
    """The control groups of this process under a root, the root too, which is its own in a container."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kind, path = line.split(":", 2)
            if kind == ("memory" if root.name == "memory" else ""):
                own = root / path.lstrip("/")
                return [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return [root]


def _entry(file: Path, name: str, unit: int = 1024) -> float:
    """Bytes of an entry of a file of the system; raises ``ValueError`` where there is none."""
    found = re.search(rf"^{name}:?\s+(\d+)", file.read_text(), re.MULTILINE)
    if not found:
        raise ValueError(f"no {name} in {file}")
    return float(found[1]) * unit
