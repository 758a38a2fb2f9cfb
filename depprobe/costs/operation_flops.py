r"""FLOPs of single operations that torch's counter does not know, or counts in another way.

    W h, a^T b               2 n m, 2 n
    a b^T                    2 n m, as the matrix product of a column and a row; written out, it is a product
                             of tensors each of which is spread over an axis of the other
    (W * h).sum(1)           2 n m: a tensor spread over an axis of another, and the product summed at once
    x^T W_o y of nn.Bilinear  2 n m for each W_o (n, m), and 2 m for what comes out; a gradient likewise
    complex products         8 a multiply-add, four times a real one
    sparse matrices          2 for each entry that is held and each column of the other
    grouped convolution      each gradient takes what the forward pass takes
    FFT of N numbers         5 N log2 N, of real ones half as many
    cumsum, cumprod, ...     1 an entry; complex: 2 a sum, 6 a product

Source: Cooley and Tukey 1965 (radix 2). A complex convolution is three real ones in torch, and counted so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import conv_flop_count, flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from depprobe.complexity import fft_flops

aten = torch.ops.aten
Formula = Callable[..., int]
#: scan -> FLOPs an entry, and a complex entry
_SCANS = {aten.cumsum: (1, 2), aten.cumprod: (1, 6), aten.logcumsumexp: (1, 2)}
_SPARSE = {torch.sparse_coo, torch.sparse_csr, torch.sparse_csc}
#: operations of torch's counter that write into their first argument
_IN_PLACE = {aten.addmm_: aten.addmm, aten.baddbmm_: aten.baddbmm}


def formulas() -> dict[Any, Formula]:
    """Operation -> FLOPs of arguments and ``out_val``, the ``custom_mapping`` of one ``FlopCounterMode``."""
    spread: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def product(a: Any, b: Any, *, out_val: Tensor) -> int:
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not _is_number(out_val):
            return 0
        smaller = [one.numel() < out_val.numel() for one in (a, b)]
        if any(smaller) and not all(smaller):
            spread[out_val] = True
        return 2 * out_val.numel() * all(smaller)

    def summed(x: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
        return 2 * x.numel() * spread.pop(x, False)

    products: dict[Any, Formula] = {
        **flop_registry,
        **{op: flop_registry[plain] for op, plain in _IN_PLACE.items()},
        **dict.fromkeys((aten.mv, aten.dot, aten.vdot), lambda a, b, **_: 2 * a.numel()),
        **dict.fromkeys((aten.addmv, aten.addmv_), lambda y, W, h, **_: 2 * W.numel()),
        **dict.fromkeys((aten.addr, aten.addr_), lambda S, a, b, **_: 2 * a.numel() * b.numel()),
        **dict.fromkeys((aten.addbmm, aten.addbmm_), lambda S, a, b, **_: 2 * a.numel() * b.shape[-1]),
        **dict.fromkeys((aten.sum, aten.mean), summed),
        aten.mul: product,
        aten.addcmul: lambda S, a, b, *, out_val, **_: product(a, b, out_val=out_val),
        aten.convolution_backward: _convolution_backward,
        aten._trilinear: _trilinear,
    }
    others: dict[Any, Formula] = {
        aten._fft_c2c: lambda x, dims, *_, **__: _transforms(x, dims),
        aten._fft_r2c: lambda x, dims, *_, **__: _transforms(x, dims) // 2,
        aten._fft_c2r: lambda x, dims, *_, out_val, **__: _transforms(out_val, dims) // 2,
    }
    for op, (real, complex_) in _SCANS.items():
        others[op] = partial(_scan, real, complex_)
    fourfold = {op: partial(_four_real_ones, formula) for op, formula in products.items()}
    return {op: _raw(formula) for op, formula in (fourfold | others).items()}


def _raw(formula: Formula) -> Formula:
    """A formula that torch's counter calls with tensors, not with their shapes."""
    formula._get_raw = True  # type: ignore[attr-defined]
    return formula


def _four_real_ones(formula: Formula, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    complex_ = isinstance(out_val, Tensor) and out_val.is_complex()
    return (4 if complex_ else 1) * _of_entries(formula(*args, out_val=out_val, **kwargs), args)


def _of_entries(flops: int, args: tuple[Any, ...]) -> int:
    """FLOPs of a product, less those of entries that a sparse matrix does not hold."""
    for one in args:
        if isinstance(one, Tensor) and one.layout in _SPARSE:
            held = one._values() if one.layout is torch.sparse_coo else one.values()
            flops = flops * held.numel() // max(1, one.numel())
    return flops


def _convolution_backward(g: Tensor, x: Tensor, w: Tensor, *rest: Any, out_val: Any, **_: Any) -> int:
    transposed, wanted = rest[-4], rest[-1]
    forward = conv_flop_count(list(x.shape), list(w.shape), list(g.shape), transposed=transposed)
    return sum(wanted[:2]) * forward


def _trilinear(*given: Any, **_: Any) -> int:
    """Of three tensors, spread over axes of the others: the first two in one product, then with the third."""
    tensors, spread, summed = given[:3], given[3:6], given[6]
    sizes = []
    for tensor, axes in zip(tensors, spread, strict=True):
        size = list(tensor.shape)
        for axis in sorted(axes):
            size.insert(axis, 1)
        sizes.append(size)
    pair = list(torch.broadcast_shapes(*sizes[:2]))
    left = [1 if axis in summed and axis in spread[2] else size for axis, size in enumerate(pair)]
    return 2 * (math.prod(pair) + math.prod(torch.broadcast_shapes(left, sizes[2])))


def _transforms(x: Tensor, dims: list[int]) -> int:
    """FLOPs of complex transforms along some axes."""
    length = math.prod(x.shape[dim] for dim in dims)
    return x.numel() // max(1, length) * fft_flops(length)


def _scan(real: int, complex_: int, x: Tensor, *_: Any, **__: Any) -> int:
    return x.numel() * (complex_ if x.is_complex() else real) * _is_number(x)


def _is_number(x: Tensor) -> bool:
    """Whether entries are floats, not the whole numbers of masks and positions."""
    return x.is_floating_point() or x.is_complex()
