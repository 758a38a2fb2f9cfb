r"""What pools and transposed convolutions cost.

    pool                      0 FLOPs: no products; n_out as torch gives it
    transposed convolution    2 n d_in d_out k / groups; an output sums ceil(k / stride) taps

Both mix the positions of a window, one step a layer; the past is carried as far as the padding on the left,
by a transposed convolution k - 1 less it. Where lengths change, how far depends on the outputs' places,
and no path is given.
"""

from __future__ import annotations

import torch
from torch import nn

from depprobe.complexity import Complexity, applications, checked, complexity
from depprobe.errors import BadInput


def _n_out(module: nn.Module, n: int) -> int:
    shapes_only = torch.empty(1, 1, checked(n), device="meta")
    try:
        return int(module(shapes_only).shape[-1])
    except RuntimeError as error:
        raise BadInput(f"n = {n} is too short for {type(module).__name__}: {error}") from error


def _one(value: int | str | tuple[int, ...]) -> int:
    return int(value[0]) if isinstance(value, tuple) else int(value)


def _pool(module: nn.Module, n: int) -> Complexity:
    stride, padding = (_one(getattr(module, name, 0)) for name in ("stride", "padding"))
    n_out = _n_out(module, n)
    path = applications(n, padding) if stride == 1 and n_out == n else None
    return Complexity(sequential_steps=1, path_length=path, n_out=n_out, reach=padding, state=None)


for _kind in (nn.MaxPool1d, nn.AvgPool1d, nn.LPPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d):
    complexity.register(_kind, _pool)


@complexity.register
def _(module: nn.ConvTranspose1d, n: int) -> Complexity:
    (kernel,), (stride,), (dilation,) = module.kernel_size, module.stride, module.dilation
    reach = max(0, dilation * (kernel - 1) - _one(module.padding)) // stride
    taps, width = -(-kernel // stride), module.in_channels // module.groups
    n_out = (checked(n) - 1) * stride - 2 * _one(module.padding) + dilation * (kernel - 1) + 1
    n_out += _one(module.output_padding)
    return Complexity(
        {"convolution": 2 * n * kernel * width * module.out_channels},
        chain=2 * taps * width,
        sequential_steps=1,
        path_length=applications(n, reach) if stride == 1 and n_out == n else None,
        n_out=n_out,
        reach=reach,
        state=None,
    )
