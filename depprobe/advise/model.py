r"""What a layer would cost at lengths and widths that were not measured, from those that were.

    time(n, d) = sum_i c_i u_i(n, d),    c_i >= 0 for all i
    u = 1, FLOPs of products with weights, FLOPs over pairs of positions, sequential steps, n d

The coefficients minimise the sum of squared relative errors over the measured points (non-negative least
squares, Lawson and Hanson 1974). The error stated is the root mean square of ln(predicted / measured) with
each measured point left out of the fit in turn. Bytes: u = 1, n d, pairs, d^2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from depprobe.complexity import Complexity, complexity
from depprobe.errors import BadInput
from depprobe.registry import Spec, layers

Terms = Callable[[Complexity, int, int], list[float]]


@dataclass(frozen=True)
class CostModel:
    """A fitted quantity of one layer.

    Attributes
    ----------
    spec : of the layer.
    terms : from formulas, n and d to the values u_i.
    coefficients : c_i, in the quantity's unit.
    error : root mean square of ln(predicted / measured), each point left out in turn.
    """

    spec: str
    terms: Terms
    coefficients: NDArray[np.float64]
    error: float

    def at(self, n: int, d: int, spec: str | None = None) -> float:
        """The quantity at length n and width d, of the layer or of one that differs from it in depth."""
        return float(np.dot(self.coefficients, self.terms(formulas(spec or self.spec, n, d), n, d)))


def formulas(spec: str, n: int, d: int) -> Complexity:
    """Formulas of a named layer at length n and width d; raises ``BadInput`` where there are none."""
    parsed = Spec.parse(spec)
    options = parsed.options()
    with torch.device("meta"):
        module = layers[parsed.name].build(d, **options)
    found = complexity(module, n)
    if found is None:
        raise BadInput(f"no formula for {spec}; register one with complexity.register")
    return found


def time_terms(found: Complexity, n: int, d: int) -> list[float]:
    """What the time of a pass is made of."""
    over_pairs = sum(flops for name, flops in found.flops.items() if name.endswith(("scores", "mixing")))
    return [1.0, found.total - over_pairs, over_pairs, found.sequential_steps, n * d]


def token_terms(found: Complexity, n: int, d: int) -> list[float]:
    """What the time of one more token is made of."""
    return [1.0, time_terms(found, n, d)[1] / n, found.state or 0]


def byte_terms(found: Complexity, n: int, d: int) -> list[float]:
    """What the bytes of a pass are made of."""
    return [1.0, n * d, found.pairs or 0, d * d]


def fit(spec: str, points: Mapping[tuple[int, int], float], terms: Terms) -> CostModel | None:
    """Fit one quantity of one layer; None where a point of it is unknown.

    Parameters
    ----------
    spec : which layer.
    points : (n, d) -> what was measured there.
    terms : of the sum.
    """
    measured = np.array(list(points.values()))
    if not np.isfinite(measured).all():
        return None
    rows = np.array([terms(formulas(spec, n, d), n, d) for n, d in points], dtype=np.float64)
    left_out = [
        np.log(max(rows[i] @ _solved(np.delete(rows, i, 0), np.delete(measured, i)), 1e-300) / measured[i])
        for i in range(len(rows))
    ]
    error = float(np.sqrt(np.mean(np.square(left_out))))
    return CostModel(spec, terms, _solved(rows, measured), error)


def _solved(rows: NDArray[np.float64], measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients that fit relative errors."""
    scale = np.abs(rows).max(0)
    scale[scale == 0] = 1.0
    found, _ = nnls(rows / scale / measured[:, None], np.ones(len(measured)))
    return np.asarray(found / scale, dtype=np.float64)
