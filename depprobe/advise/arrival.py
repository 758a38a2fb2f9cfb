r"""How much gradient arrives from a given distance, in as many layers as it takes to reach that far.

    ln arrival = ln || J[n-1, n-1-lag] ||_F - max_k ln || J[n-1, k] ||_F        mean over seeds

Measured at the length asked for where it is at most ``LONGEST``. Beyond, three shorter lengths are measured,
with the lag in proportion where it would not fit, and the straight line is continued that fits better: in
length (recurrences, whose norms decay exponentially) or in ln length (attention, whose weights thin out).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from torch import nn

from depprobe.advise.model import formulas
from depprobe.cases import cases_of_specs
from depprobe.operators import temporal_jacobian
from depprobe.registry import Spec, layers
from depprobe.resume import FinishedPoints

#: longest sequence measured, and its shares measured where a longer one is asked for
LONGEST, _SHARES = 1024, (0.25, 0.5, 1.0)
#: width, and draws of the weights
WIDTH, SEEDS = 32, 3
#: layers in a stack beyond which one is out of reach
MOST_LAYERS = 16


class Arrival(NamedTuple):
    """Mean of ln arrival, its standard error over seeds, and whether it was extrapolated."""

    log: float
    stderr: float
    extrapolated: bool


def deep_enough(spec: str, lag: int) -> str:
    """The layer with as many levels as it takes to reach the lag, where its depth is an option of its own.

    Examples
    --------
    >>> deep_enough("dilated-conv", 999), deep_enough("lstm", 999)
    ('dilated-conv:depth=9', 'lstm')
    """
    parsed, found = Spec.parse(spec), formulas(spec, lag + 1, WIDTH)
    grows = "depth" in layers[parsed.name].options and "depth" not in parsed.settings
    if not grows or found.reach is None or found.path_length is None:
        return spec
    return str(Spec(parsed.name, {**parsed.settings, "depth": str(max(1, found.path_length))}))


def layers_needed(spec: str, lag: int) -> float:
    """How many times a layer must be applied for x_{t-lag} to reach h_t; inf where no number does.

    1 for a recurrence, which gets there in steps through time.
    """
    found = formulas(spec, lag + 1, WIDTH)
    if found.reach is None and found.pairs is None:
        return 1.0
    if found.path_length is None:
        return math.inf
    return float(max(1, -(-found.path_length // max(1, found.sequential_steps))))


def arrival(spec: str, n: int, lag: int, kept: FinishedPoints) -> Arrival:
    """Gradient that arrives from ``lag`` positions back in sequences of length n.

    Parameters
    ----------
    spec : of the layer.
    n, lag : positions, lag < n.
    kept : where measured points are kept, and taken up from.
    """
    if n <= LONGEST:
        logs = _measured(spec, n, lag, kept)
        return Arrival(float(np.mean(logs)), float(np.std(logs, ddof=1) / math.sqrt(len(logs))), False)
    lengths = [round(share * LONGEST) for share in _SHARES]
    lags = [lag if lag < lengths[0] else max(1, round(lag * length / n)) for length in lengths]
    logs = np.array([_measured(spec, length, k, kept) for length, k in zip(lengths, lags, strict=True)])
    means = logs.mean(1)
    if np.isneginf(means).any():
        return Arrival(-math.inf, math.nan, True)
    best, found = math.inf, math.nan
    for scale in (np.asarray, np.log):
        slope, start = np.polyfit(scale(lengths), means, 1)
        misfit = float(np.square(start + slope * scale(lengths) - means).sum())
        if misfit < best:
            best, found = misfit, float(start + slope * scale(n))
    return Arrival(found, float(logs[-1].std(ddof=1) / math.sqrt(SEEDS)), True)


def _measured(spec: str, n: int, lag: int, kept: FinishedPoints) -> np.ndarray:
    """ln arrival for each seed, (SEEDS,)."""
    facts = {"arrival": spec, "n": n, "lag": lag, "d": WIDTH, "seeds": SEEDS, "most": MOST_LAYERS}
    known = kept.get(facts)
    if known is None:
        with np.errstate(invalid="ignore"):
            rows = [_row(spec, n, lag, seed) for seed in range(SEEDS)]
        known = {"logs": [-1e308 if math.isinf(row[0] - row[1]) else row[0] - row[1] for row in rows]}
        kept.put(facts, known)
    logs = np.array(known["logs"])
    return np.where(logs <= -1e308, -np.inf, logs)


def _row(spec: str, n: int, lag: int, seed: int) -> tuple[float, float]:
    """ln norm at the lag, and the largest of the row."""
    needed = layers_needed(spec, lag)
    if needed > MOST_LAYERS:
        return -math.inf, 0.0
    # a layer of a stack has weights of its own
    seeds = [seed + 1000 * index for index in range(math.ceil(needed))]
    cases = cases_of_specs([spec], None, n, WIDTH, 1, seeds, "float64", "cpu")
    module = cases[0].build() if len(cases) == 1 else nn.Sequential(*(case.build() for case in cases))
    x = cases[0].x
    jacobian = temporal_jacobian(module, x)
    norms = jacobian.log_norms([n - 1], range(n)).values[0]
    return float(norms[n - 1 - lag]), float(np.nanmax(norms))
