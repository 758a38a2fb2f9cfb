"""What one case comes to, before it is labelled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depprobe.operators import LogNorms


@dataclass
class Result:
    """Norms (T, sources or lags) of one case, and what the operator says of them.

    ``target`` (T,) are output positions, ``position`` the input positions they sit at; None where not known.
    Of a padded input, positions are counted among its ``tokens``, and ``padding_read`` blocks of padding are
    not zero.
    """

    norms: LogNorms
    target: NDArray[np.int64]
    position: NDArray[np.float64] | None
    method: str
    tolerance: float
    shape: tuple[int, ...]
    error_kind: str = "bound"
    zero_proof: str = ""
    log_floor: float = math.nan
    probes: int = 0
    deflated: int = 0
    tokens: int = 0
    padding_read: int = 0
