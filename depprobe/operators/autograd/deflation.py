r"""Deflation: the output directions in which the blocks of a row are largest are measured exactly.

    est = |Q^T J[t,k]|^2 + (d-q)/(m-q) sum_i |v_i^T J[t,k]|^2

Q (d, q) has orthonormal columns, v_1..v_(m-q) are orthonormal and Haar in their complement: unbiased for any
Q that was chosen apart from them. Q are the first left singular vectors of images of random tangents, one
run R_s of sources at a time, weighed alike, so that far sources with small blocks count as near ones do:

    [Y_1/|Y_1|, ..., Y_S/|Y_S|],    Y_s = sum_(k in R_s) J[t,k] W_k,    W_k (d_in, p) normal,    S p >= 2 q

S p forward products give the images for all targets. They may be inexact, which only makes Q a worse choice.
Source: Halko 2011 (range from random tangents); Meyer 2021 (exact part and random rest).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from depprobe.core.function import SequenceFunction
from depprobe.core.scaled import Scaled, log_hypot
from depprobe.errors import BadInput
from depprobe.operators.autograd import fisher
from depprobe.operators.autograd.forward_products import forward_products
from depprobe.operators.autograd.probe_statistics import Traces, traces
from depprobe.operators.autograd.products import Gathered

#: runs of sources, and fewest tangents of each
RUNS, LEAST_TANGENTS = 8, 2

Floats = NDArray[np.float64]


class Deflation:
    """Images of random tangents, and the directions that follow.

    Parameters
    ----------
    function : the module at one input.
    count : directions a target, q.
    seed : of the tangents.
    memory : bytes that the products may take.

    Raises
    ------
    BadInput : something in between has no second derivative.
    OverBudget : the products would not fit.
    """

    def __init__(self, function: SequenceFunction, count: int, seed: list[int], memory: int) -> None:
        n_in, d_in = function.shape[2:]
        runs = np.array_split(np.arange(n_in), min(RUNS, n_in))
        each = max(LEAST_TANGENTS, -(-2 * count // len(runs)))
        drawn = np.random.default_rng([*seed, count]).standard_normal((each, n_in, d_in))
        tangents = np.zeros((len(runs), *drawn.shape))
        for tangent, run in zip(tangents, runs, strict=True):
            tangent[:, run] = drawn[:, run]
        every = torch.from_numpy(tangents).flatten(0, 1).to(function.x)
        try:
            images = forward_products(function, every, memory)
        except RuntimeError as error:
            who = type(function.module).__name__
            raise BadInput(
                f"deflate={count} needs second derivatives, and something in {who} has none; leave it out"
            ) from error
        self.count, self._y = count, function.y
        # (n_out, S, p, d_out)
        self._images = images.unflatten(0, (len(runs), each)).permute(2, 0, 1, 3)

    def directions(self, t: int, norm: str) -> Floats:
        """Q^T (q, d_out); of the norm's own left side."""
        found = self._images[t].double()
        if norm == fisher.NORM:
            flat = fisher.root_times(found.flatten(0, 1).T, self._y[t]).T
            found = flat.reshape(found.shape)
        found = Scaled.plain(torch.where(found.isfinite(), found, 0.0)).rescaled((1, 2)).values
        size = found.square().sum((1, 2), keepdim=True).sqrt()
        unit = (found / torch.where(size == 0, 1.0, size)).flatten(0, 1).cpu().numpy()
        return np.asarray(np.linalg.svd(unit.T, full_matrices=False)[0].T[: self.count])


class Estimated:
    """What rows of one target come to: known directions (q, ...), and random ones of the rest (m - q, ...).

    Attributes
    ----------
    log_norm : ln of the estimated norms (columns,).
    share : how much of the estimated squares is of the rest, (columns,): 1 without known directions.
    mix, total : a random combination v of all output units (d_out,), and v^T J[t,:] where it was asked for.
    """

    def __init__(
        self,
        rest: Gathered,
        drawn: Floats,
        known: Gathered | None = None,
        directions: Floats | None = None,
    ) -> None:
        self._known, self._rest = known, rest
        m, d = drawn.shape
        self._left = d - (0 if directions is None else len(directions))
        weight = self._left / m
        random = rest.log_norm.cpu().numpy() + 0.5 * math.log(weight)
        self.log_norm, self.share = random, np.ones_like(random)
        mix = math.sqrt(weight) * drawn.sum(0)
        self.total = None if rest.total is None else math.sqrt(weight) * rest.total
        if known is not None and directions is not None:
            exact = known.log_norm.cpu().numpy()
            self.log_norm = log_hypot(exact, random)
            with np.errstate(invalid="ignore"):
                self.share = np.exp(2 * (random - self.log_norm))
            mix = mix + directions.sum(0)
            self.total = None if self.total is None or known.total is None else self.total + known.total
        self.mix = torch.from_numpy(mix)

    def traces(self) -> Traces:
        """Of the blocks, as far as rows were kept."""
        known = None if self._known is None else torch.cat(self._known.rows)
        return traces(torch.cat(self._rest.rows), self._left, known)
