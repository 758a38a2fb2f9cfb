"""What a cost was measured on: facts that times and bytes depend on, and nothing that names the machine."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

from depprobe.costs.timing import all_threads


def machine() -> dict[str, str | int]:
    """Processor, memory, system and libraries, as attributes of a dataset.

    ``cores`` this process may use; ``blas``, the library of matrix products; ``capability``, the instructions
    that kernels use.
    """
    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return {
        "cpu": _cpu(),
        "cores": all_threads(),
        "ram_bytes": _ram(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": str(torch.__version__),
        "blas": found[1] if found else "unknown",
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine() or "unknown"


def _ram() -> int:
    """Bytes of physical memory, 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
