r"""A pass in which no factor rounds to 0, so that what is 0 there is 0 in exact arithmetic.

    exp(z), sigma(z), softmax(z), ...    see z / (1 + |z| / 8) in place of z
    a b, a / b, a^p, prod(a), A B, ...   where no factor is 0, are at least the smallest normal number

What is infinite, or beyond 1e20, is a mask and stays one. Numbers come out wrong, and only whether they are 0
counts. That a sum cancels to 0 is left as it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator

from depprobe.core.calling.environment import WatchingMode
from depprobe.operators.last_bits import has_memory
from depprobe.operators.masks import MASK

#: largest argument that is left
_MOST = 8.0
#: the same of error functions, which come to 1 sooner
_MOST_OF_ERF = 3.0
#: which argument of an operation decides how its result rounds
_ARGUMENTS = {
    **dict.fromkeys(
        ("exp", "exp2", "expm1", "sigmoid", "tanh", "erf", "erfc", "softplus", "silu", "gelu"), 0
    ),
    **dict.fromkeys(("elu", "mish", "log_sigmoid_forward", "_softmax", "_safe_softmax", "_log_softmax"), 0),
    **dict.fromkeys(("softplus_backward", "silu_backward", "gelu_backward", "mish_backward"), 1),
    "linalg_matrix_exp": 0,
    "log_sigmoid_backward": 1,
    "elu_backward": 5,
    "glu": 0,
    "glu_backward": 1,
}
#: operations that add up products, and how many of their arguments come before the factors
_PRODUCTS = {**dict.fromkeys(("mul", "prod", "cumprod", "mm", "bmm", "mv", "dot", "convolution"), 0)}
_PRODUCTS |= dict.fromkeys(("addmm", "baddbmm", "addmv", "addcmul", "linalg_vector_norm"), 1)
#: operations whose results are 0 only where their first argument is
_QUOTIENTS = frozenset({"div", "pow", "reciprocal", "rsqrt", "ldexp", "_to_copy"})


class UnroundedZeros(WatchingMode):
    """Keeps the arguments of exponentials small, and products from underflowing, while it is on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self.ran(func, args, kwargs)
        in_place = func.overloadpacket.__name__.endswith("_")
        name = func.overloadpacket.__name__.rstrip("_")
        args = _softened(name, args, in_place)
        if "out" in kwargs or kwargs.get("rounding_mode") or not _may_round(name):
            return self.ran(func, args, kwargs)
        before = (args[0].clone(), *args[1:]) if in_place else args
        out = self.ran(func, args, kwargs)
        if isinstance(out, Tensor) and out.is_floating_point() and has_memory(out):
            zero, least = out == 0, torch.finfo(out.dtype).tiny
            if bool(zero.any()):
                small = before[0] != 0
                if name in _PRODUCTS:
                    small = _underflow(func, _PRODUCTS[name], before, kwargs, least)
                out.masked_fill_(zero & small, least)
        return out


def _may_round(name: str) -> bool:
    return name in _PRODUCTS or name in _QUOTIENTS or name.startswith("special_")


def _underflow(func: Any, first: int, args: tuple[Any, ...], kwargs: Any, least: float) -> Tensor | bool:
    """Where all products that an operation adds up underflow although no factor of some of them is 0."""
    factors = [a for a in args[first : first + 2] if isinstance(a, Tensor | float)]
    if len(factors) == 2 and math.prod(map(_smallest, factors)) > least:
        return False
    sizes, standing = ([of(a) for a in args] for of in (_size, _stands))
    return (func(*sizes, **kwargs) == 0) & (func(*standing, **kwargs) != 0)


def _smallest(a: Tensor | float) -> float:
    """The smallest size of what is not 0."""
    if isinstance(a, float):
        return abs(a) or math.inf
    if not a.is_floating_point() or not a.numel():
        return 1.0
    return float(torch.where(a == 0, math.inf, a.abs()).min())


def _size(a: Any) -> Any:
    return a.abs() if isinstance(a, Tensor) and a.is_floating_point() else abs(a) if type(a) is float else a


def _stands(a: Any) -> Any:
    if isinstance(a, Tensor):
        return (a != 0).to(a.dtype)
    return float(a != 0) if type(a) is float else a


def _softened(name: str, args: tuple[Any, ...], in_place: bool) -> tuple[Any, ...]:
    """Arguments of an operation, that which decides how its result rounds made small."""
    at = _ARGUMENTS.get(name)
    if at is None or at >= len(args):
        return args
    z, most = args[at], _MOST_OF_ERF if name in ("erf", "erfc") else _MOST
    if name.startswith("glu"):
        axis = args[at + 1] if len(args) > at + 1 else -1
        value, gate = z.chunk(2, axis)
        soft = torch.cat([value, _soft(gate, most)], axis)
    else:
        soft = _soft(z, most)
    if in_place:
        z.copy_(soft)
        return args
    return (*args[:at], soft, *args[at + 1 :])


def _soft(z: Tensor, most: float) -> Tensor:
    size = z.abs()
    masked = size >= MASK
    if not bool(((size > most) & ~masked).any()):
        return z
    if not z.is_floating_point():
        return torch.where(masked, z, z / (1 + size / most))
    # one tensor in all, which may be large
    size.div_(most).add_(1)
    return torch.where(masked, z, torch.div(z, size, out=size), out=size)
