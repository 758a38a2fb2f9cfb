r"""Steps from the last output back to the first input, counted on the support of each step's Jacobian.

    R_0 = {n},  R_{i+1} = {k : J[t,k] != 0 for some t in R_i}        counted: the fewest i with 1 in R_i

A step is an application of the layer to noise, its rows pulled back by automatic differentiation from random
cotangents on R_i; a level of a dilated stack has a dilation of its own. A recurrence is applied to all
positions at once, each reading its neighbour's state of the round before.
Shapes: x, h (n, d). Source: Vaswani et al. 2017, section 4 (path length).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from depprobe.registry import Spec, layers

WIDTH = 4
RECURRENCES = ("rnn", "gru", "lstm")
HEADS = {"attention", "sliding-window", "dilated-attention", "block-attention"}


def steps_back(name: str, n: int, seed: int = 0) -> int:
    """Steps of a named layer at length n; -1 where none lead there."""
    spec, generator = Spec.parse(name), torch.Generator().manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(n, WIDTH, generator=generator, dtype=torch.float64)

    def before(step: Callable[[Tensor], Tensor], reached: Tensor) -> Tensor:
        """Positions of a step's input that reached positions of its output move with."""
        x = noise().requires_grad_()
        y = step(x)
        (gradient,) = torch.autograd.grad(y, x, torch.randn(y.shape, generator=generator) * reached[:, None])
        return (gradient != 0).any(-1)

    def build(of: str, **options: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return layers[of].build(WIDTH, **options).double()

    reached = torch.zeros(n, dtype=torch.bool)
    reached[-1] = True
    if spec.name in RECURRENCES:
        module = build(spec.name)
        for rounds in range(n):
            if reached[0]:
                return rounds
            reached = before(lambda h: _round(module, h, noise()), reached)
        return -1
    options = dict(spec.options())
    if spec.name in HEADS:
        options["heads"] = 2
    base, kernel = options.pop("base", 2), options.get("kernel", 3)
    # a level of a stack differs from the last one; layers alike have the same support
    layer = build(spec.name, **options) if spec.name != "dilated-conv" else None
    for depth in range(n):
        if reached[0]:
            return depth
        level = layer or build("conv", kernel=kernel, dilation=base**depth, causal=True)
        reached = before(level, reached)
    return -1


def _round(module: nn.Module, states: Tensor, x: Tensor) -> Tensor:
    """New states (n, d): position t from its input and the state of t - 1."""
    earlier = torch.cat([torch.zeros_like(states[:1]), states[:-1]])[None]
    inner = next(part for part in module.modules() if isinstance(part, nn.RNNBase))
    state = (earlier, torch.zeros_like(earlier)) if isinstance(inner, nn.LSTM) else earlier
    one = x[:, None] if inner.batch_first else x[None]
    out = inner(one, state)[0]
    return out[:, 0] if inner.batch_first else out[0]
