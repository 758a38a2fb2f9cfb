r"""How much gradient arrives from a given distance, in as many layers as it takes to reach that far.

    ln arrival = ln ||J[n-1, n-1-lag]||_F - max_k ln ||J[n-1, k]||_F        mean over seeds

Exact for one layer; for a stack of them from ``COTANGENTS`` random cotangents, E ||v^T J||^2 = ||J||_F^2 for
v ~ N(0, I), an error below the spread over seeds. Measured at the length asked for where it is at most
``LONGEST``, ``STRETCH`` times that for recurrences, whose rows take time in proportion to n. Beyond, shorter
lengths (those that hold a window or block) are measured and continued:

    lag that fits in all of them       at this lag, in ln n: attention thins out as a power of n
    longer lag                         at lag = ratio n, ratio at least ``RATIO``, in ln n, or in n where that
                                       misses significantly and a line in n by less (a recurrence decays
                                       exponentially); then from lag / ratio to n as a short lag thins out

Weights are drawn, not trained; the width is ``WIDTH``, whatever the width of the layer asked for.
Source: Hutchinson 1989 (random probes).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from depprobe.advice.cost_model import is_recurrence, refusal
from depprobe.advice.stack_depth import stack
from depprobe.core.scaled import Scaled
from depprobe.operators import temporal_jacobian
from depprobe.runs.cases import cases_of_specs
from depprobe.store.finished import Finished

#: longest sequence measured, the lengths measured where a longer one is asked for, and how many times as
#: long they all are for recurrences
LONGEST, SHORTER, STRETCH = 512, (128, 256, 512), 8
#: width, draws of the weights, random cotangents for a stack
WIDTH, SEEDS, COTANGENTS = 32, 3, 8
#: root mean square of ln arrival about a line in ln n beyond which it is none; least lag over n
MISSES, RATIO = 0.5, 0.5
#: standard errors by which a slope must differ from 0 to be continued, and by which points may miss a line
_SIGNIFICANT = 3.0
#: lag at which it is measured how a short lag thins out
_SHORT_LAG = 64
#: what JSON holds in place of ln 0
_ZERO = -1e308


class Arrival(NamedTuple):
    """Mean of ln arrival, its standard error over seeds, and whether it was extrapolated.

    -inf where nothing arrives; NaN where what arrives is too small to be told from nothing.
    """

    log: float
    stderr: float
    extrapolated: bool


NOTHING, TOO_LITTLE = (Arrival(log, math.nan, False) for log in (-math.inf, math.nan))


def arrival(spec: str, n: int, lag: int, kept: Finished) -> Arrival:
    """Gradient that arrives from ``lag`` positions back in sequences of length n.

    Parameters
    ----------
    spec : of the layer, which is stacked as the lag needs it.
    n, lag : positions, lag < n.
    kept : where measured rows are kept, and taken up from.
    """
    if not stack(spec, n, lag, WIDTH).possible:
        return NOTHING
    stretch = STRETCH if is_recurrence(spec, WIDTH) else 1
    lengths = tuple(stretch * length for length in SHORTER if not refusal(spec, stretch * length, WIDTH))
    if n <= stretch * LONGEST:
        logs = _at(spec, n, lag, kept)
    elif lag < stretch * SHORTER[0]:
        found = _at_lengths(spec, dict.fromkeys(lengths, lag), kept)
        logs = thinned(lengths, found, n) if np.isfinite(found).all() else found
    else:
        ratio = max(RATIO, lag / n)
        alike = lag / ratio
        lags = {length: min(length - 1, round(ratio * length)) for length in lengths}
        found = _at_lengths(spec, lags, kept)
        logs = continued(lengths, found, alike) if np.isfinite(found).all() else found
        if np.isfinite(logs).all() and alike < n:
            short = _at_lengths(spec, dict.fromkeys(lengths, _SHORT_LAG), kept)
            logs = logs + thinned(lengths, short, n) - thinned(lengths, short, alike)
    if not np.isfinite(logs).all():
        return NOTHING if np.isneginf(logs).all() else TOO_LITTLE
    error = float(logs.std(ddof=1) / math.sqrt(SEEDS))
    return Arrival(min(0.0, float(logs.mean())), error, n > stretch * LONGEST)


def thinned(lengths: tuple[int, ...], logs: NDArray[np.float64], n: float) -> NDArray[np.float64]:
    """What was measured at one lag, (lengths, seeds), at length n: a line in ln n, level if not significant.

    Examples
    --------
    >>> thinned((1, 2, 4), np.array([[0.0, 0.1], [-1.0, -1.0], [-2.0, -2.1]]), 8).round(2).tolist()
    [-3.0, -3.2]
    """
    slopes, starts = np.polyfit(np.log(lengths), logs, 1)
    error = slopes.std(ddof=1) / math.sqrt(len(slopes))
    if abs(slopes.mean()) < _SIGNIFICANT * error:
        return np.asarray(logs.mean(0))
    return np.asarray(starts + slopes * math.log(n))


def continued(lengths: tuple[int, ...], logs: NDArray[np.float64], n: float) -> NDArray[np.float64]:
    """Lines through what was measured at some lengths, (lengths, seeds), continued to n: in ln n or in n.

    Examples
    --------
    >>> continued((1, 2, 4), np.array([[0.0, 0.0], [-1.0, -1.0], [-2.0, -2.0]]), 8).round(6).tolist()
    [-3.0, -3.0]
    >>> continued((1, 2, 3), np.array([[-0.1, -0.1], [-0.2, -0.2], [-0.3, -0.3]]), 9).round(6).tolist()
    [-0.9, -0.9]
    """
    means, noise = logs.mean(1), logs.std(1, ddof=1).mean() / math.sqrt(logs.shape[1])
    in_ln, in_n = (_misses(scale(lengths), means) for scale in (np.log, np.asarray))
    bent = in_ln > min(MISSES, _SIGNIFICANT * noise)
    scale = np.asarray if bent and in_n < in_ln else np.log
    slopes, starts = np.polyfit(scale(lengths), logs, 1)
    return np.asarray(starts + slopes * scale(n))


def _misses(at: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    slope, start = np.polyfit(at, values, 1)
    return math.sqrt(float(np.square(start + slope * at - values).mean()))


def _at_lengths(spec: str, lags: dict[int, int], kept: Finished) -> NDArray[np.float64]:
    """ln arrival at each length from its lag, (lengths, seeds)."""
    return np.array([_at(spec, length, lag, kept) for length, lag in lags.items()])


def _at(spec: str, n: int, lag: int, kept: Finished) -> NDArray[np.float64]:
    wanted = stack(spec, n, lag, WIDTH)
    if not wanted.possible:
        return np.full(SEEDS, -math.inf)
    return arrivals(wanted.spec, int(wanted.applications), n, kept)[:, lag]


def arrivals(spec: str, count: int, n: int, kept: Finished) -> NDArray[np.float64]:
    """ln arrival at the last position through so many layers, by seed and lag, (SEEDS, n)."""
    facts = {"arrivals": spec, "count": count, "n": n, "d": WIDTH, "seeds": SEEDS, "cotangents": COTANGENTS}
    known = kept.get(facts)
    if known is None:
        rows = np.array([_row(spec, count, n, seed) for seed in range(SEEDS)])
        known = {"logs": np.where(np.isneginf(rows), _ZERO, rows).tolist()}
        kept.put(facts, known)
    logs = np.array(known["logs"])
    return np.where(logs <= _ZERO, -np.inf, logs)


def _row(spec: str, count: int, n: int, seed: int) -> NDArray[np.float64]:
    """ln norms of the last row over the largest of them, by lag, (n,)."""
    # a layer of a stack has weights of its own
    seeds = [seed + 1000 * index for index in range(count)]
    cases = cases_of_specs([spec], None, n, WIDTH, 1, seeds, "float64", "cpu")
    if count == 1:
        norms = temporal_jacobian(cases[0].build(), cases[0].x).log_norms([n - 1], range(n)).values[0]
    else:
        norms = _estimated(nn.Sequential(*(case.build() for case in cases)), cases[0].x, seed)
    return np.asarray(norms[::-1] - np.fmax.reduce(norms))


def _estimated(module: nn.Module, x: torch.Tensor, seed: int) -> NDArray[np.float64]:
    """ln norms of the last row up to a constant, (n,), from random cotangents; NaN where all came out 0."""
    leaf = x.clone().requires_grad_()
    y = module(leaf)[-1]
    draws = torch.randn(COTANGENTS, len(y), generator=torch.Generator().manual_seed(seed), dtype=y.dtype)
    rows = [torch.autograd.grad(y, leaf, cotangent, retain_graph=True)[0] for cotangent in draws]
    norms = Scaled.plain(torch.stack(rows, 1)).log_norm((1, 2)).numpy()
    # a 0 may be an underflow: that nothing arrives is for the support to say
    return np.where(np.isneginf(norms), np.nan, norms)
