r"""Where the gradient of a sparse pattern goes: which share of it falls on chosen sources.

    share of M at t = sum_{k in M, k != t} ||J[t,k]||_F^2 / sum_{k != t} ||J[t,k]||_F^2

    M      lags within half a window; lags that are multiples of a period P; the target's own document
    x_t    noise; pattern[t mod P] + noise; topic[document of t] + noise

Shapes: x (n, d); rows of the Jacobian by automatic differentiation, exact, one sample of a batch for each
output unit. Source: Child et al. 2019, section 4 (what patterns are for: images and text).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from depprobe.registry import layers

LAYERS = ("attention", "sliding-window", "dilated-attention", "block-attention")
PERIODS = (8, 16, 12, 15)
#: lengths of documents in blocks: boundaries on those of blocks, and not
DOCUMENTS = (3.0, 2.5)
DEPTHS = (1, 2)
HEADS, NOISE = 2, 0.5
INPUTS = ("nearby", *(f"period {P}" for P in PERIODS), *(f"documents of {b:g} blocks" for b in DOCUMENTS))


def squares(module: nn.Module, x: torch.Tensor, targets: Sequence[int]) -> NDArray[np.float64]:
    """Squared Frobenius norms of J[t,k], (targets, n), of a module that takes (batch, n, d)."""
    n, d = x.shape
    leaf = x.expand(len(targets) * d, n, d).clone().requires_grad_()
    y = module(leaf)
    cotangent = torch.zeros_like(y)
    sample = torch.arange(len(leaf))
    cotangent[sample, torch.tensor(targets).repeat_interleave(d), sample % d] = 1
    (gradient,) = torch.autograd.grad(y, leaf, cotangent)
    return gradient.square().sum(-1).view(len(targets), d, n).sum(1).numpy()


def cases(
    n: int, d: int, window: int, rng: np.random.Generator
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Each input with its sources: x (n, d), and whether source k belongs to target t (n, n)."""
    t, k = np.indices((n, n))
    block = math.isqrt(n - 1) + 1
    noise = rng.standard_normal((len(INPUTS), n, d))
    found = {INPUTS[0]: (noise[0], (t - k <= window // 2) & (k - t <= (window - 1) // 2))}
    for P, own in zip(PERIODS, noise[1:], strict=False):
        pattern = rng.standard_normal((P, d))
        found[f"period {P}"] = (pattern[np.arange(n) % P] + NOISE * own, (t - k) % P == 0)
    for blocks, own in zip(DOCUMENTS, noise[1 + len(PERIODS) :], strict=True):
        document = np.arange(n) // round(blocks * block)
        topic = rng.standard_normal((document[-1] + 1, d))
        found[f"documents of {blocks:g} blocks"] = (
            topic[document] + NOISE * own,
            document[:, None] == document,
        )
    return found


def pattern_shares(
    n: int, d: int, window: int, every: int, seeds: Sequence[int], report: Callable[[str], None]
) -> dict[str, NDArray[np.float64]]:
    """Shares over (layer, depth, input, seed), chance over (input,), reach over (layer, depth).

    ``share`` is the mean over targets, which are ``every`` so many positions; ``share_chance`` that of a
    Jacobian of equal norms, ``share_mask`` over (layer, input) that of equal norms where one layer has any;
    ``reach`` is the smallest share of sources that move a target.
    """
    # a distance that shares no factor with blocks, documents and periods, or all would stand alike in them
    targets = range(every // 2, n, every)
    others = np.arange(n) != np.array(targets)[:, None]
    share = np.zeros((len(LAYERS), len(DEPTHS), len(INPUTS), len(seeds)))
    reach = np.ones((len(LAYERS), len(DEPTHS)))
    chance, mask = np.zeros(len(INPUTS)), np.zeros((len(LAYERS), len(INPUTS)))
    for s, seed in enumerate(seeds):
        made = cases(n, d, window, np.random.default_rng([seed, n]))
        for i, name in enumerate(LAYERS):
            report(f"gradients through {name}, seed {seed}")
            options = {"window": window} if name == "sliding-window" else {}
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                deep = [layers[name].build(d, heads=HEADS, **options).double() for _ in range(max(DEPTHS))]
            for j, depth in enumerate(DEPTHS):
                for m, (x, belongs) in enumerate(made.values()):
                    found = squares(nn.Sequential(*deep[:depth]), torch.from_numpy(x), targets)
                    inside = belongs[targets] & others
                    share[i, j, m, s] = _share(found, inside, others)
                    chance[m] = _share(np.ones_like(found), inside, others)
                    if depth == 1:
                        mask[i, m] = _share(found > 0, inside, others)
                    reach[i, j] = min(reach[i, j], (found > 0).mean(1).min())
    return {"share": share, "share_chance": chance, "share_mask": mask, "reach": reach}


def _share(found: NDArray, inside: NDArray[np.bool_], others: NDArray[np.bool_]) -> float:
    """Mean over targets of what falls on the sources meant, of what falls on any but the target."""
    return float(((found * inside).sum(1) / (found * others).sum(1)).mean())
