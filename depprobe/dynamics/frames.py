"""What is asked of a frame of tangent columns: how many, how long it settles, from where it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.options import require
from depprobe.dynamics.benettin import Growth, Stretch, growth
from depprobe.errors import BadInput
from depprobe.units import counted

#: exponents measured unless a number is asked for
LEADING = 16
#: determinants are taken, besides where all exponents are, while S^3 n stays below this
_CHEAP = 2e9


def warmup_of(warmup: int | None, n: int) -> int:
    """Steps of the warm-up in a trajectory of n steps, a fifth by default; refuses one that is too long."""
    if n < 2:
        raise BadInput(f"n must be at least 2, not {n}")
    before = n // 5 if warmup is None else warmup
    if not 0 <= before < n:
        raise BadInput(f"the warm-up must lie between 0 and n - 1 = {n - 1} steps, not {before}")
    return before


def count_of(exponents: int | str | None, width: int) -> int:
    """How many exponents are asked for, on a state of this width; refuses more than it has."""
    if exponents is None:
        return min(LEADING, width)
    if exponents == "all":
        return width
    if isinstance(exponents, str) and exponents.isdigit():
        exponents = int(exponents)
    whole = isinstance(exponents, Integral) and not isinstance(exponents, bool)
    if not whole or not 1 <= int(exponents) <= width:
        raise BadInput(
            f"exponents must be all, or between 1 and the width {width} of the state, not {exponents!r}"
        )
    return int(exponents)


def require_frame(width: int, m: int, memory: int) -> None:
    """Refuse a frame (width, m) that would not fit the budget."""
    size = 8.0 * width * (12 * m + (2 * width if m == width else 0))
    require(
        size, memory, f"a frame of {counted(m, 'column')} on a state of {width}", "ask for fewer exponents"
    )


def grown(
    stretches: Iterable[Stretch],
    width: int,
    m: int,
    before: int,
    stops: NDArray[np.int64],
    like: Tensor,
    rng: np.random.Generator,
    report: Callable[[int], None],
) -> Growth:
    """Growth of a random frame (width, m) of the dtype and device of ``like``."""
    frame = torch.linalg.qr(torch.from_numpy(rng.standard_normal((width, m))))[0].to(like)

    def counted() -> Iterable[Stretch]:
        done = 0
        for stretch in stretches:
            yield stretch
            done += stretch.steps
            report(done)

    determinants = m == width or width**3 * int(before + stops[-1]) <= _CHEAP
    with torch.no_grad():
        return growth(counted(), frame, before, stops.tolist(), determinants)
