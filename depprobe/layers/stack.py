r"""What stacks cost: one layer after another, and layers that act on each position by itself.

    FLOPs add, chains and steps follow one another: L steps for L layers that mix positions
    path length: through attention, one application a layer; through bands of reach r_1, ..., r_L, as many
    as add up to n - 1, the stack applied again or, where reaches grow geometrically, grown further

Source: Araujo, Norris and Sim 2019 (receptive fields of stacks).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count, cycle, islice, pairwise

from torch import nn

from depprobe.complexity import Complexity, applications, checked, complexity

_PER_POSITION: tuple[type[nn.Module], ...] = (
    *(nn.Identity, nn.Dropout, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU),
    *(nn.ELU, nn.LeakyReLU, nn.Softplus, nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d, nn.GroupNorm),
    *(nn.PReLU, nn.ReLU6, nn.SELU, nn.CELU, nn.Mish, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
    *(nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Threshold),
    *(nn.Dropout1d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)
#: of which the last axis is time, in a stack with one of these
_CHANNELS_FIRST = (nn.Conv1d, nn.ConvTranspose1d, nn.MaxPool1d, nn.AvgPool1d)


def _elementwise(module: nn.Module, n: int) -> Complexity:
    return Complexity(n_out=checked(n))


for _kind in _PER_POSITION:
    complexity.register(_kind, _elementwise)


def _of_features(module: nn.Softmax | nn.LogSoftmax, n: int) -> Complexity | None:
    """A softmax over the last axis; over another it may mix positions."""
    return _elementwise(module, n) if module.dim in (-1, 2) else None


for _softmax in (nn.Softmax, nn.LogSoftmax):
    complexity.register(_softmax, _of_features)


@complexity.register
def _(module: nn.Linear, n: int) -> Complexity:
    flops = {"product": 2 * checked(n) * module.weight.numel()}
    return Complexity(flops, chain=2 * module.in_features, n_out=n)


@complexity.register
def _(module: nn.Sequential, n: int) -> Complexity | None:
    parts: list[Complexity] = []
    length = checked(n)
    softmax = any(isinstance(child, nn.Softmax | nn.LogSoftmax) for child in module)
    if softmax and any(isinstance(child, _CHANNELS_FIRST) for child in module):
        return None  # over time
    for child in module:
        found = complexity(child, length)
        if found is None:
            return None
        parts.append(found)
        length = found.n_out
    states = [part.state for part in parts]
    pairs = [part.pairs for part in parts if part.pairs is not None]
    mixing = [part for part in parts if part.sequential_steps]
    return Complexity(
        {f"{index}.{name}": flops for index, part in enumerate(parts) for name, flops in part.flops.items()},
        chain=sum(part.chain for part in parts),
        sequential_steps=sum(part.sequential_steps for part in parts),
        path_length=_path_length(mixing, n),
        n_out=length,
        reach=None if any(part.reach is None for part in parts) else sum(part.reach or 0 for part in parts),
        pairs=sum(pairs) if pairs else None,
        state=None if None in states else sum(state or 0 for state in states),
        constant=sum(part.constant for part in parts),
    )


def _path_length(parts: list[Complexity], n: int) -> int | None:
    """Fewest applications and steps through the layers that mix positions."""
    if len(parts) == 1:
        return parts[0].path_length
    if any(part.n_out != parts[0].n_out for part in parts[:-1]) and all(part.reach for part in parts):
        return None  # the way through strides depends on where each output sits
    unlimited = [part for part in parts if part.reach is None]
    if unlimited:
        # what a band carries on the way need not be stepped through
        carried = sum(part.reach or 0 for part in parts)
        paths = [part.path_length for part in unlimited]
        if None in paths:
            return None
        shortest = min(path for path in paths if path is not None)
        steps = shortest if shortest <= 2 else max(0, shortest - carried)
        return len(parts) - 1 + steps
    reaches = [part.reach or 0 for part in parts]
    if not any(reaches):
        return applications(n, 0)
    distance = n - 1
    for used, reach in enumerate(islice(_continued(reaches), n)):
        if distance <= 0:
            return used
        distance -= reach
    return n - 1


def _continued(reaches: list[int]) -> Iterator[int]:
    """Reaches of a stack that goes on as it began: a geometric row grows, any other repeats."""
    ratio = reaches[1] // reaches[0] if reaches[0] else 0
    if ratio > 1 and all(b == ratio * a for a, b in pairwise(reaches)):
        return chain(reaches, (reaches[-1] * ratio**i for i in count(1)))
    return cycle(reaches)
