r"""Which input each tap of a convolution reads.

    q = s t + r i - p,    source(t, i) = q where 0 <= q < n, else by the padding mode:
    zeros: none      reflect: -q or 2 (n-1) - q      replicate: 0 or n-1      circular: q mod n

Letters: kernel K (taps i = 0 .. K-1), stride s, dilation r, p positions padded on the left.
Receptive-field arithmetic: Araujo, Norris and Sim 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from depprobe.core.calling.known import is_plain
from depprobe.layers.convolution import Convolution, output_length


@dataclass(frozen=True)
class Taps:
    """The taps of one convolution over ``n_in`` positions; ``pad`` is (left, right)."""

    kernel: int
    stride: int
    dilation: int
    pad: tuple[int, int]
    mode: str
    n_in: int

    @classmethod
    def of(cls, module: nn.Module, n_in: int) -> Taps | None:
        """The taps of ``nn.Conv1d`` or ``Convolution`` as they are; None for any other module.

        Raises
        ------
        BadInput : the input is too short for the kernel or the padding.
        """
        if isinstance(module, Convolution):
            if not is_plain(module, Convolution) or not _is_plain_conv(module.conv):
                return None
            conv, pad, mode = module.conv, module.pad, module.padding_mode
        elif isinstance(module, nn.Conv1d) and _is_plain_conv(module):
            conv, mode = module, module.padding_mode
            left, right = conv._reversed_padding_repeated_twice
            pad = (int(left), int(right))
        else:
            return None
        taps = cls(conv.kernel_size[0], conv.stride[0], conv.dilation[0], pad, mode, n_in)
        assert taps.n_out > 0
        return taps

    @property
    def span(self) -> int:
        """Positions from the first tap to the last."""
        return self.dilation * (self.kernel - 1)

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return output_length(
            self.n_in,
            self.kernel,
            stride=self.stride,
            dilation=self.dilation,
            pad=self.pad,
            mode=self.mode,
        )

    @property
    def is_causal(self) -> bool:
        """Whether only zeros are read beside the past: padded by the whole span, on the left."""
        return self.mode == "zeros" and self.pad == (self.span, 0)

    @property
    def origin(self) -> float:
        """Input position of output 0; output t sits at ``origin + stride * t``.

        The centre of the taps; the last tap where the padding makes the convolution causal; position 0
        where each output has its input, as with an even kernel under torch's ``padding='same'``.
        """
        if self.pad == (self.span, 0) or (self.stride == 1 and sum(self.pad) == self.span):
            return 0.0
        return self.span / 2 - self.pad[0]

    def reach(self, t: NDArray[np.int64]) -> NDArray[np.int64]:
        """Position that each tap of the outputs given would read, padding included: (T, K)."""
        return self.stride * t[:, None] + self.dilation * np.arange(self.kernel)[None, :] - self.pad[0]

    def sources(self, t: NDArray[np.int64]) -> NDArray[np.int64]:
        """Input position that each tap of the outputs given reads: (T, K), -1 for a padded zero."""
        q, n = self.reach(t), self.n_in
        if self.mode == "reflect":
            return np.where(q < 0, -q, np.where(q >= n, 2 * (n - 1) - q, q))
        if self.mode == "replicate":
            return q.clip(0, n - 1)
        if self.mode == "circular":
            return q % n
        return np.where((q >= 0) & (q < n), q, -1)

    def is_inner(self, t: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the outputs given read no padding: (T,)."""
        first = self.stride * t - self.pad[0]
        return (first >= 0) & (first + self.span < self.n_in)


def _is_plain_conv(module: nn.Conv1d) -> bool:
    return is_plain(module, nn.Conv1d) and type(module)._conv_forward is nn.Conv1d._conv_forward
