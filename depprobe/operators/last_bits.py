r"""Numbers of a pass changed in their last bits, by which what rounding does to its results is seen.

    z (1 + eps s)      on the way forward, each floating number z that an operation makes, s = +-1 at random
    c (1 + eps s_c)    on the way back, a constant c that the dtype does not hold, s_c drawn once for each

A constant of a loop comes in at every step, so what it lost when it was rounded grows with the steps. Whole
numbers that no input changes stay whole: they are counts and positions. So do the largest and the smallest
number of a dtype, which stand for infinity in masks.
Source: Parker 1997 (Monte Carlo arithmetic).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._pytree import tree_leaves

from depprobe.core.calling.environment import WatchingMode

#: layouts that hold their numbers as values
_SPARSE = frozenset(getattr(torch, f"sparse_{kind}") for kind in ("coo", "csr", "csc", "bsr", "bsc"))
#: random signs that serve all numbers in turn
_POOL = 1 << 16
#: operations that pick from the numbers they are given, with which their results are to compare equal
_PICK = frozenset(
    {
        "topk", "sort", "kthvalue", "median", "max", "min", "amax", "amin", "cummax", "cummin", "maximum",
        "minimum", "fmax", "fmin", "clamp", "clamp_min", "clamp_max", "hardtanh", "where", "masked_fill",
        "index_fill", "fill", "constant_pad_nd",
    }
)  # fmt: skip
#: operations that pick where they are asked for lengths in the norm of infinity, or to reduce so
_LENGTHS = frozenset({"linalg_vector_norm", "norm", "_cdist_forward", "dist"})
_EXTREMES = frozenset({"amax", "amin", "max", "min"})
#: operations that give whole numbers, which may go on to be indices
_WHOLE = frozenset({"floor", "ceil", "round", "trunc", "sign", "arange"})
#: operations whose results end at 1, where who takes a probability or a cosine may refuse more
_TO_ONE = frozenset({"sigmoid", "_softmax", "tanh", "sin", "cos", "erf"})
#: operations whose constants are factors of what goes back
_FACTOR = frozenset({"mul", "div", "add", "sub", "rsub", "lerp", "addcmul", "addcdiv", "leaky_relu_backward"})


class Constants(WatchingMode):
    """Changes the constants that operations are given as factors, each in all its uses alike."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._draw = torch.Generator().manual_seed(seed)
        self._changed: dict[tuple[float, torch.dtype], float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not isinstance(func, HigherOrderOperator):
            name = func.overloadpacket.__name__.rstrip("_")  # in place it ends in an underscore
            if name in _FACTOR and any(type(a) is float for a in args):
                kind = next((a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point()), None)
                args = [self._constant(a, kind) if kind and type(a) is float else a for a in args]
        return self.ran(func, args, kwargs)

    def _constant(self, c: float, dtype: torch.dtype) -> float:
        if (kind := (c, dtype)) not in self._changed:
            sign = torch.randn((), generator=self._draw, device="cpu").sign().item()
            held = not math.isfinite(c) or torch.tensor(c, dtype=dtype, device="cpu").item() == c
            self._changed[kind] = c if held else c * (1 + torch.finfo(dtype).eps * sign)
        return self._changed[kind]


class LastBits(WatchingMode):
    """Changes the last bit of every floating number that an operation makes while it is on."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._signs = _signs(seed)
        self._factors: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._start = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = self.ran(func, args, kwargs)
        if isinstance(func, HigherOrderOperator):
            return out
        name = func.overloadpacket.__name__.rstrip("_")
        if not func.is_view and name not in _PICK | _WHOLE and not _picks(name, args):
            constant = not any(isinstance(a, Tensor) and a.requires_grad for a in tree_leaves((args, kwargs)))
            for made in _floating(out):
                if constant and torch.equal(made, made.round()):
                    continue  # counts and positions, which go on to be compared, or to be indices
                if made.is_contiguous():
                    self._change(made, name in _TO_ONE)
                else:
                    made.copy_(self.changed(made, name in _TO_ONE))
        return out

    def changed(self, made: Tensor, to_one: bool = False) -> Tensor:
        """The same with the last bits changed, and if ``to_one`` none larger than 1."""
        return self._change(made.clone(memory_format=torch.contiguous_format), to_one)

    def _change(self, made: Tensor, to_one: bool) -> Tensor:
        """In place, without a copy of what may be large."""
        if (kind := (made.dtype, made.device)) not in self._factors:
            signs = torch.from_numpy(self._signs).to(device=made.device)
            self._factors[kind] = (1 + torch.finfo(made.dtype).eps * signs).to(made.dtype)
        self._start = (self._start + 7919) % _POOL
        numbers, start = made.view(-1), self._start
        largest = torch.finfo(made.dtype).max
        for part in (numbers[: _POOL - start], *numbers[_POOL - start :].split(_POOL)):
            factors = self._factors[kind][start : start + len(part)]
            part.mul_(factors.masked_fill(part.abs() == largest, 1))
            if to_one:
                part.copy_(2 * part.clamp(-1, 1) - part)
            start = 0
        return made


class Repeat(NamedTuple):
    """What changes the numbers of one repeat."""

    seed: int

    def forward(self) -> LastBits:
        """A mode for the way forward."""
        return LastBits(self.seed)

    def backward(self) -> Constants:
        """A mode for the way back."""
        return Constants(self.seed)


@lru_cache(4)
def _signs(seed: int) -> NDArray[np.float64]:
    """Not as a tensor, which would be one of the mode that is on when they are first asked for."""
    return np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), _POOL)


def _picks(name: str, args: Any) -> bool:
    """Whether an operation that otherwise adds up picks the largest or the smallest of its numbers."""
    largest = name in _LENGTHS and any(type(a) is float and math.isinf(a) for a in args)
    return largest or any(isinstance(a, str) and a in _EXTREMES for a in args)


def _floating(out: Any) -> Iterator[Tensor]:
    """Tensors of floating numbers among the results of an operation, nested ones in parts."""
    if isinstance(out, (tuple, list)):
        for one in out:
            yield from _floating(one)
    # zeros of torch.func have no memory, and end the process if they are changed; fake tensors have none too
    elif isinstance(out, Tensor) and out.is_floating_point() and out.numel() and has_memory(out):
        if out.layout in (torch.strided, torch.jagged):
            yield from out.unbind() if out.is_nested else (out,)
        elif out.layout in _SPARSE:
            yield out._values() if out.layout is torch.sparse_coo else out.values()


def has_memory(x: Tensor) -> bool:
    """Whether a tensor holds numbers that can be written."""
    return not x.is_meta and not x._is_zerotensor() and getattr(x, "fake_mode", None) is None
