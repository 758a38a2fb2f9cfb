r"""What a layer would cost at lengths and widths that were not measured, from those that were.

    cost(n, d) = sum_i c_i u_i(n, d),    c_i >= 0 for all i

    time of a pass      u = 1, FLOPs of products with weights, FLOPs over pairs of positions, steps, n d
    time of a token     u = 1, FLOPs of one position's products with weights, numbers kept in the state
    bytes of a pass     u = 1, n d, pairs, d^2

The coefficients minimise the sum of squared relative errors over the measured points (non-negative least
squares, Lawson and Hanson 1974). The error stated is the root mean square of ln(predicted / measured) with
each measured point left out of the fit in turn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from depprobe.complexity import Complexity, complexity
from depprobe.errors import BadInput
from depprobe.registry import Spec, layers

#: a length at which a formula is asked what kind of layer it is of
_SOME = 64

Terms = Callable[[Complexity, int, int], list[float]]


@dataclass(frozen=True)
class CostModel:
    """A fitted quantity of one layer.

    Attributes
    ----------
    terms : from formulas, n and d to the values u_i.
    coefficients : c_i, in the quantity's unit.
    error : root mean square of ln(predicted / measured), each point left out in turn.
    """

    terms: Terms
    coefficients: NDArray[np.float64]
    error: float

    def at(self, spec: str, n: int, d: int) -> float:
        """The quantity of the layer at length n and width d."""
        return float(np.dot(self.coefficients, self.terms(formulas(spec, n, d), n, d)))


@lru_cache(maxsize=1024)
def formulas(spec: str, n: int, d: int) -> Complexity:
    """Formulas of a named layer at length n and width d; raises ``BadInput`` where there are none."""
    parsed = Spec.parse(spec)
    with torch.device("meta"):
        module = layers[parsed.name].build(d, **parsed.options())
    found = complexity(module, n)
    if found is None:
        raise BadInput(f"no formula for {spec}; register one with complexity.register")
    return found


def is_recurrence(spec: str, d: int) -> bool:
    """Whether a named layer carries a state from position to position, with neither a reach nor pairs.

    Examples
    --------
    >>> is_recurrence("gru", 8), is_recurrence("conv", 8), is_recurrence("conv-attention", 8)
    (True, False, False)
    """
    with contextlib.suppress(BadInput):
        found = formulas(spec, _SOME, d)
        return found.reach is None and found.pairs is None
    return False  # a window or block longer than this is no recurrence


def refusal(spec: str, n: int, d: int) -> str:
    """Why a named layer cannot have this length and width, as a window longer than n; empty if it can."""
    try:
        formulas(spec, n, d)
    except BadInput as reason:
        return str(reason)
    return ""


def time_terms(found: Complexity, n: int, d: int) -> list[float]:
    """What the time of a pass is made of."""
    over_pairs = sum(flops for name, flops in found.flops.items() if name.endswith(("scores", "mixing")))
    return [1.0, found.total - over_pairs, over_pairs, found.sequential_steps, n * d]


def token_terms(found: Complexity, n: int, d: int) -> list[float]:
    """What per-token latency is made of."""
    return [1.0, time_terms(found, n, d)[1] / n, found.state or 0]


def byte_terms(found: Complexity, n: int, d: int) -> list[float]:
    """What the bytes of a pass are made of."""
    return [1.0, n * d, found.pairs or 0, d * d]


def fit(spec: str, points: Mapping[tuple[int, int], float], terms: Terms) -> CostModel:
    """Fit one quantity of one layer.

    Parameters
    ----------
    spec : which layer.
    points : (n, d) -> what was measured there; at least two.
    terms : of the sum.
    """
    measured = np.array(list(points.values()))
    rows = np.array([terms(formulas(spec, n, d), n, d) for n, d in points], dtype=np.float64)
    left_out = [rows[i] @ _solved(np.delete(rows, i, 0), np.delete(measured, i)) for i in range(len(rows))]
    # a fit that gives nothing at all at a point is as wrong there as a logarithm can say
    misses = np.log(np.maximum(left_out, np.finfo(np.float64).tiny) / measured)
    return CostModel(terms, _solved(rows, measured), float(np.sqrt(np.mean(np.square(misses)))))


def _solved(rows: NDArray[np.float64], measured: NDArray[np.float64]) -> NDArray[np.float64]:
    relative = rows / measured[:, None]
    scale = np.abs(relative).max(0)
    scale[scale == 0] = 1.0
    found, _ = nnls(relative / scale, np.ones(len(measured)))
    return np.asarray(found / scale, dtype=np.float64)
