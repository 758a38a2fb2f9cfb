r"""Convolution along time.

    y_t = b + sum_i W_i x_{s t + r i - p}                 taps i = 0 .. K-1

Shapes: x (n, d_in) or (batch, n, d_in), y (ceil(n / s), d), W_i (d, d_in / groups).
Kernel K, stride s, dilation r. Same padding takes p = r (K-1) / 2 on both sides, causal padding
p = r (K-1) on the left.
Source: Waibel et al. 1989.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from depprobe.complexity import Complexity, applications, checked, complexity
from depprobe.errors import BadInput
from depprobe.registry import layers

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def output_length(
    n: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    pad: tuple[int, int] = (0, 0),
    mode: str = "zeros",
) -> int:
    """Number of outputs of a convolution over n positions.

    Parameters
    ----------
    n, kernel, stride, dilation : lengths in positions.
    pad : positions added on the left and on the right.
    mode : what they hold: ``zeros``, ``reflect``, ``replicate`` or ``circular``.

    Raises
    ------
    BadInput : the padded input is shorter than the kernel, or the input too short to be mirrored or wrapped.

    Examples
    --------
    >>> output_length(9, 3, stride=2, pad=(1, 1))
    5
    """
    shortest = {"reflect": max(pad) + 1, "circular": max(pad)}.get(mode, 0)
    if n < shortest:
        raise BadInput(f"{mode} padding of {max(pad)} needs n >= {shortest}, not n = {n}")
    span = dilation * (kernel - 1) + 1
    if n + sum(pad) < span:
        raise BadInput(f"the kernel spans {span} positions and the padded input has {n + sum(pad)}")
    return (n + sum(pad) - span) // stride + 1


class Convolution(nn.Module):
    """One convolution along time, with time as the second last axis.

    Parameters
    ----------
    d_in, d : widths of input and output.
    kernel, stride, dilation, groups : as in ``nn.Conv1d``.
    padding_mode : ``zeros``, ``reflect``, ``replicate`` or ``circular``.
    causal : pad on the left only, so that output t reads no input after ``stride * t``.

    Raises
    ------
    BadInput : an option out of range; an even kernel with same padding; groups that do not divide the widths;
        causal padding with values from the future.

    Examples
    --------
    >>> import torch
    >>> Convolution(3, 5, kernel=3, stride=2)(torch.zeros(9, 3)).shape
    torch.Size([5, 5])
    """

    def __init__(
        self,
        d_in: int,
        d: int,
        *,
        kernel: int = 3,
        dilation: int = 1,
        stride: int = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        causal: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        given = {"kernel": kernel, "dilation": dilation, "stride": stride, "groups": groups}
        for name, value in given.items():
            if value < 1:
                raise BadInput(f"{name} must be at least 1, not {value}")
        if not causal and kernel % 2 == 0:
            raise BadInput(
                f"same padding needs an odd kernel, not {kernel}; use kernel={kernel + 1} or causal=true"
            )
        if d_in % groups or d % groups:
            raise BadInput(f"groups must divide d_in = {d_in} and d = {d}, and {groups} does not")
        if causal and padding_mode in ("reflect", "circular"):
            raise BadInput(
                f"padding_mode={padding_mode} shows later inputs to earlier outputs; "
                "causal=true takes zeros or replicate"
            )
        self.conv = nn.Conv1d(d_in, d, kernel, stride=stride, dilation=dilation, groups=groups, bias=bias)
        reach = dilation * (kernel - 1)
        self.pad = (reach, 0) if causal else (reach // 2, reach // 2)
        self.padding_mode, self.causal = padding_mode, causal

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, d_in) to (n_out, d), or the same with a batch in front."""
        conv = self.conv
        output_length(
            x.shape[-2],
            conv.kernel_size[0],
            stride=conv.stride[0],
            dilation=conv.dilation[0],
            pad=self.pad,
            mode=self.padding_mode,
        )
        rows = x.transpose(-1, -2)
        if self.padding_mode == "zeros":
            padded = nn.functional.pad(rows, self.pad)
        else:
            padded = nn.functional.pad(rows, self.pad, mode=self.padding_mode)
        y: Tensor = conv(padded)
        return y.transpose(-1, -2)

    def extra_repr(self) -> str:
        """The padding, which the inner module does not show."""
        return f"pad={self.pad}, padding_mode={self.padding_mode!r}"


@layers.register(
    "conv",
    equation="y_t = b + sum_i W_i x_{s t + r i - p}",
    citation="Waibel et al. 1989",
    causal=lambda causal=False, **options: causal,
    examples=(
        *("conv:kernel=5,dilation=2", "conv:kernel=4,causal=true", "conv:stride=2"),
        *("conv:padding_mode=reflect", "conv:padding_mode=circular,kernel=5"),
    ),
)
def conv(
    d: int,
    *,
    d_in: int | None = None,
    kernel: int = 3,
    dilation: int = 1,
    stride: int = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    causal: bool = False,
    bias: bool = True,
) -> nn.Module:
    """One convolution along time, with same or causal padding."""
    return Convolution(
        d_in or d,
        d,
        kernel=kernel,
        dilation=dilation,
        stride=stride,
        groups=groups,
        padding_mode=padding_mode,
        causal=causal,
        bias=bias,
    )


def _cost(conv: nn.Conv1d, n: int, pad: tuple[int, int], causal: bool, mode: str) -> Complexity:
    kernel, dilation, stride = conv.kernel_size[0], conv.dilation[0], conv.stride[0]
    n_out = output_length(checked(n), kernel, stride=stride, dilation=dilation, pad=pad, mode=mode)
    terms = kernel * conv.in_channels // conv.groups
    path = applications(n, pad[0])
    if mode == "circular" and pad[1]:
        path = 1  # wrapped around, the last output reads the first input
    elif mode != "replicate" and (n - 1) % dilation:
        path = None  # every way is a multiple of the dilation long
    return Complexity(
        {"convolution": 2 * n_out * terms * conv.out_channels},
        chain=2 * terms,
        sequential_steps=1,
        path_length=path if stride == 1 else None,
        n_out=n_out,
        reach=pad[0],
        state=dilation * (kernel - 1) * conv.in_channels if causal and stride == 1 else None,
    )


@complexity.register
def _(module: Convolution, n: int) -> Complexity:
    return _cost(module.conv, n, module.pad, module.causal, module.padding_mode)


@complexity.register
def _(module: nn.Conv1d, n: int) -> Complexity:
    left, right = module._reversed_padding_repeated_twice
    return _cost(module, n, (int(left), int(right)), False, module.padding_mode)
