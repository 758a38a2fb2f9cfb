r"""What C9 measures: rows of attention by length, stacks of it by depth, and one before and after training.

    h_t = W_O sum_j a_tj v_j        J_tk = a_tk W_O W_V + what moves the weights
    stack      x <- attention(x), or x <- x + attention(x) (residual stream)

Shapes: x (n, d), noise; a (heads, n); results over (n or depth or lag, seed).
Source: Vaswani et al. 2017; Dong, Cordonnier and Loukas 2021 (rank collapse without a residual stream).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from depprobe.probes.jacobian import jacobian

if TYPE_CHECKING:
    from torch import Tensor, nn

DEPTHS = (1, 2, 3, 4, 6, 8)
STREAMS = ("none", "residual")
#: parts of the past whose medians are kept, from near to far
PARTS = 16

Tell = Callable[[str], None]


def attentions(d: int, heads: int, seed: int, layers: int, n: int) -> tuple[list[nn.Module], Tensor]:
    """Attention layers of one stack, each with weights of its own, and noise (n, d)."""
    from depprobe.runs.cases import cases_of_specs

    seeds = [seed + 1000 * index for index in range(layers)]
    cases = cases_of_specs([f"attention:heads={heads}"], None, n, d, 1, seeds, "float64", "cpu")
    return [case.build() for case in cases], cases[0].x


def weights_of_last(module: nn.Module, x: Tensor) -> np.ndarray:
    """Attention weights of the last position, (heads, n)."""
    import torch

    inner = module.weights
    assert isinstance(inner, torch.nn.MultiheadAttention)
    with torch.no_grad():
        packed = torch.nn.functional.linear(x, inner.in_proj_weight, inner.in_proj_bias)
        q, k, _ = packed.unflatten(-1, (3, inner.num_heads, inner.head_dim)).unbind(-3)
        scores = torch.einsum("he,jhe->hj", q[-1], k) / math.sqrt(inner.head_dim)
        weights: np.ndarray = scores.softmax(-1).numpy()
    return weights


def over_past(log_norms: np.ndarray) -> np.ndarray:
    """Medians of ln norms (n,) over equal parts of the past, from near to far; k = t is left out.

    Examples
    --------
    >>> over_past(np.arange(33.0))[[0, -1]].tolist()
    [30.5, 0.5]
    """
    return np.array([np.median(part) for part in np.array_split(log_norms[-2::-1], PARTS)])


def by_length(lengths: tuple[int, ...], d: int, seeds: list[int], tell: Tell) -> dict[str, np.ndarray]:
    """Norms of the last row over the past, of its own block, and its weights, for every n and seed."""
    from depprobe.ledger.training.trained_cell import Positions

    shape = (len(lengths), len(seeds))
    found = {name: np.empty(shape) for name in ("log_norm_own", "entropy", "largest_weight")}
    found |= {name: np.empty((*shape, PARTS)) for name in ("log_norm_past", "log_norm_past_positions")}
    for i, s in np.ndindex(shape):
        n = lengths[i]
        tell(f"attention, n = {n}")
        (layer,), x = attentions(d, 8, seeds[s], 1, n)
        # positions are added to the input, so that the Jacobian is that of the layer there
        plain, with_positions = (jacobian(layer, at).log_norm.values[0] for at in (x, Positions()(x)))
        a = weights_of_last(layer, x)
        found["log_norm_past"][i, s], found["log_norm_past_positions"][i, s] = map(
            over_past, (plain, with_positions)
        )
        found["log_norm_own"][i, s] = plain[-1]
        found["entropy"][i, s] = -(a * np.log(a)).sum(-1).mean() / math.log(n)
        found["largest_weight"][i, s] = n * a.max(-1).mean()
    return found


def by_depth(sizes: tuple[int, int, int], seeds: list[int], tell: Tell) -> dict[str, np.ndarray]:
    """Norms of stacks at the far half of the past, and how far their outputs differ between positions."""
    from torch import nn, no_grad

    from depprobe.layers.residual import Added

    n, d, heads = sizes
    shape = (len(STREAMS), len(DEPTHS), len(seeds))
    found = {name: np.empty(shape) for name in ("log_norm_far", "spread")}
    for i, stream in enumerate(STREAMS):
        for s, seed in enumerate(seeds):
            layers, x = attentions(d, heads, seed, max(DEPTHS), n)
            for j, depth in enumerate(DEPTHS):
                tell(f"{depth} layers, stream: {stream}")
                used = layers[:depth]
                stack = nn.Sequential(*(map(Added, used) if stream == "residual" else used))
                log_norms = jacobian(stack, x).log_norm.values[0]
                with no_grad():
                    y = stack(x)
                found["log_norm_far"][i, j, s] = np.median(log_norms[: n // 2])
                found["spread"][i, j, s] = float((y - y.mean(0)).norm() / y.norm())
    return found


def by_training(lags: tuple[int, ...], seeds: list[int], trainings: int, tell: Tell) -> dict[str, np.ndarray]:
    """Norms at the lag a copy task needs before and after training, and the loss over that of chance.

    Only the first ``trainings`` seeds are trained; the others are NaN.
    """
    from depprobe.ledger.training.trained_cell import Cell, train

    shape = (len(lags), len(seeds))
    found = {"log_norm_trained": np.full((2, *shape), np.nan), "relative_loss": np.full(shape, np.nan)}
    for i, s in np.ndindex(len(lags), trainings):
        tell(f"training, lag {lags[i]}")
        ds = train(
            Cell("attention:heads=4,causal=true", "copy", lags[i], seeds[s], math.inf, "adam", steps=200)
        )
        found["log_norm_trained"][:, i, s] = ds["log_rms"].sel(lag=lags[i], snapshot=["before", "after"])
        found["relative_loss"][i, s] = ds["relative_loss"]
    return found


def uniform(n: int = 41, d: int = 6) -> dict[str, Any]:
    """Causal attention with W_Q = 0: distance from W_O W_V / t, and the share J_40,7 of two layers (V14)."""
    import torch

    from depprobe.layers.attention import Attention

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pair = [Attention(d, 2, causal=True).double() for _ in range(2)]
    for layer in pair:
        with torch.no_grad():
            layer.weights.in_proj_weight[:d] = 0
    x = np.random.default_rng(0).standard_normal((n, d))
    with torch.no_grad():
        through = [layer.weights.out_proj.weight @ layer.weights.in_proj_weight[2 * d :] for layer in pair]
    one = jacobian(pair[0], x, targets="all").log_norm.values
    t = np.arange(1, n + 1)
    wanted = np.broadcast_to(float(through[0].norm().log()) - np.log(t)[:, None], one.shape)
    seen = t[:, None] >= t
    two = jacobian(torch.nn.Sequential(*pair), x, targets=[39]).log_norm.values[0, 6]
    return {
        "uniform_error": float(np.abs(one[seen] - wanted[seen]).max()),
        "uniform_share": math.exp(two - float((through[1] @ through[0]).norm().log())),
    }
