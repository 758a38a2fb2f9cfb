r"""How many layers it takes for x_{t-lag} to reach h_t, and the layer or stack that has as many.

    band of reach r (convolution, window)   ceil(lag / r)
    stack whose depth is an option          levels until their reaches add up to the lag
    pattern of lags                         fewest of them that lead from n - 1 - lag to n - 1
    blocks                                  the path length of lag + 1 positions
    recurrence                              1: it gets there in steps through time

Source: Vaswani et al. 2017, table 1 (path lengths); Araujo, Norris and Sim 2019 (reaches add).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, singledispatch

import numpy as np
import torch
from torch import nn

from depprobe.advice.cost_model import formulas
from depprobe.complexity import complexity
from depprobe.layers.sparse_attention import SparseAttention
from depprobe.registry import Spec, layers

#: layers in a stack beyond which a lag is out of reach
MOST_LAYERS = 16


@dataclass(frozen=True)
class Stack:
    """A named layer, applied so many times.

    Attributes
    ----------
    base : the layer as it was asked for, which is what is measured.
    spec : the same with its depth, where that is an option of its own.
    applications : how many of ``spec``, one on another; inf where no number reaches.
    levels : layers in all that mix positions.
    multiple : cost over that of ``base``.
    """

    base: str
    spec: str
    applications: float
    levels: float
    multiple: float

    @property
    def possible(self) -> bool:
        """Whether a stack of ``MOST_LAYERS`` is enough."""
        return self.levels <= MOST_LAYERS


@lru_cache(maxsize=4096)
def stack(spec: str, n: int, lag: int, d: int) -> Stack:
    """As many layers as reach ``lag`` positions back in sequences of length n.

    Examples
    --------
    >>> stack("conv", 1000, 5, 64).levels, stack("dilated-conv", 1000, 999, 64).spec
    (5, 'dilated-conv:depth=9')
    """
    parsed = Spec.parse(spec)
    here = formulas(spec, n, d)
    if "depth" in layers[parsed.name].options and "depth" not in parsed.settings and here.reach is not None:
        levels = formulas(spec, lag + 1, d).path_length or math.inf
        if not math.isfinite(levels):
            return Stack(spec, spec, math.inf, math.inf, math.inf)
        deep = str(Spec(parsed.name, {**parsed.settings, "depth": str(levels)}))
        return Stack(spec, deep, 1, levels, levels / here.sequential_steps)
    with torch.device("meta"):
        module = layers[parsed.name].build(d, **parsed.options())
    count = applications(module, n, lag)
    levels = count if here.pairs is None and here.reach is None else count * here.sequential_steps
    return Stack(spec, spec, count, levels, count)


@singledispatch
def applications(module: nn.Module, n: int, lag: int) -> float:
    """Applications of a module that lead from position n - 1 - lag to n - 1; inf where no number does.

    Parameters
    ----------
    module : one that ``complexity`` knows.
    n, lag : positions, lag < n.
    """
    found = complexity(module, n)
    assert found is not None
    if found.reach is not None:
        return math.ceil(lag / found.reach) if found.reach else math.inf
    if found.pairs is None:
        return 1
    shorter = complexity(module, lag + 1)
    assert shorter is not None
    if shorter.path_length is None:
        return math.inf
    return max(1, math.ceil(shorter.path_length / max(1, shorter.sequential_steps)))


@applications.register
def _(module: SparseAttention, n: int, lag: int) -> float:
    lags = module.pattern.lags(n)
    if lags is None:  # what is seen depends on the block: the worst target is one at the end of lag + 1
        found = complexity(module, lag + 1)
        assert found is not None
        return found.path_length or math.inf
    if lags == list(range(lags[0], lags[-1] + 1)):
        return math.ceil(lag / lags[-1]) if lags[-1] else math.inf
    reached = np.zeros(n, dtype=bool)
    reached[n - 1] = True
    for count in range(1, n):
        before = reached.sum()
        at = np.flatnonzero(reached)[:, None] - np.array(lags)
        reached[at[(at >= 0) & (at < n)]] = True
        if reached[n - 1 - lag]:
            return count
        if reached.sum() == before:
            break
    return math.inf
