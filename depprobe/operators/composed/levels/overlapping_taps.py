r"""Norms right below a convolution from Gram matrices, without making the blocks.

    J[q] = sum of R_p W_i over the (p, i) that meet in q: tap i of position p reads q
    |J[q]|_F^2 = sum over pairs of them of < R_p^T R_p', W_i W_i'^T >

A product R_p^T R_p' serves every q in which p and p' meet, and W_i W_i'^T every p: on a units alive of d_in,
two products (a, r) x (r, a) for each position of a dilated stack replace three (r, a) x (a, d_in). The sum
loses digits where terms cancel; it is taken for known only where their sizes leave it nearly all.

Shapes: rows (P, r, a) on units (P, a), W_i (d_out, d_in). Source: the trace of a product is cyclic.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.scaled import Scaled, log_norms_of_squares, middle, peaks, within
from depprobe.operators.composed.levels.convolution import Conv

#: relative error of a norm, were all products of float64, up to which a sum is trusted
_ACCURACY = 2e-12
#: bytes of products that are worked on at once
_NEAR_BYTES = 8 << 20


class Meeting(NamedTuple):
    """Pairs of contributions that meet in a source.

    Shapes: first, second (M,) positions p <= p', whose product is R_p^T R_p'; taps (M, 2); into (M,) index of
    the source; times (M,) how often the pair counts.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    taps: NDArray[np.int64]
    into: NDArray[np.int64]
    times: NDArray[np.int64]

    @property
    def products(self) -> NDArray[np.int64]:
        """The distinct (p, p'): (N, 2)."""
        return np.unique(np.stack([self.first, self.second], 1), axis=0)

    @classmethod
    def of(cls, source: NDArray[np.int64], where: NDArray[np.int64]) -> Meeting:
        """All pairs, where tap i of position p reads source[p, i], (P, K), and -1 is nothing."""
        p, tap = np.nonzero(source >= 0)
        into = np.searchsorted(where, source[p, tap])
        order = np.argsort(into, kind="stable")
        p, tap, into = p[order], tap[order], into[order]
        found = []
        for gap in range(int(np.bincount(into).max(initial=0))):
            left = np.flatnonzero(into[: len(into) - gap] == into[gap:])
            right = left + gap
            # p <= p', as the transposed pair has the same trace
            left, right = np.where(p[left] <= p[right], (left, right), (right, left))
            taps = np.stack([tap[left], tap[right]], 1)
            found.append((p[left], p[right], taps, into[left], np.full(len(left), 2 if gap else 1)))
        return cls(*(np.concatenate(part) for part in zip(*found, strict=True)))


def log_norms_below(
    values: Tensor,
    units: Tensor,
    conv: Conv,
    source: NDArray[np.int64],
    where: NDArray[np.int64],
    memory: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """ln norms of the blocks at ``where`` (Q,) and which are known; None if it is no shorter way.

    Parameters
    ----------
    values, units : rows (P, r, a) on the units (P, a) of the convolution's output; each unit once.
    source : what each tap of each position reads, (P, K), -1 for nothing.
    where : the sources, ascending.
    memory : bytes that the Gram matrices of the taps may take a quarter of.
    """
    P, _, a = values.shape
    met = Meeting.of(source, where)
    products = met.products
    pairs = np.unique(met.taps, axis=0)
    size = values.element_size()
    if len(products) * a >= (source >= 0).sum() * conv.width:
        return None
    grams = 4 * len(pairs) * conv.matrix(0).shape[0] ** 2 * size
    peak = peaks(values, (1, 2))
    if not bool(peak.any()) or grams > memory or not within(peak, *middle(values.dtype)):
        return None
    lengths = Scaled.plain(values).log_norm((1, 2)).exp().cpu().numpy()
    total, terms = np.zeros(len(where)), np.zeros(len(where))
    key, keys = met.first * P + met.second, products[:, 0] * P + products[:, 1]
    for chosen, taps in _alike(met, np.searchsorted(keys, key), len(products)):
        gram = torch.stack([conv.gram(i, j) for i, j in taps], 2)
        sizes = Scaled.plain(gram).log_norm((0, 1)).exp().cpu().numpy()
        step = max(1, _NEAR_BYTES // (a * a * size * len(taps)))
        for part in (chosen[low : low + step] for low in range(0, len(chosen), step)):
            p, q = (torch.from_numpy(end).to(values.device) for end in products[part].T)
            product = torch.bmm(values[p].mT, values[q]).flatten(1)[:, None]
            traces = torch.bmm(product, gram[units[p][:, :, None], units[q][:, None, :]].flatten(1, 2))[:, 0]
            bound = lengths[products[part, 0]] * lengths[products[part, 1]]
            here = np.flatnonzero(np.isin(key, keys[part]))
            row = np.searchsorted(keys[part], key[here])
            column = (met.taps[here][:, None] == taps).all(2).argmax(1)
            np.add.at(total, met.into[here], met.times[here] * traces.double().cpu().numpy()[row, column])
            np.add.at(terms, met.into[here], met.times[here] * bound[row] * sizes[column])
    logs, known = log_norms_of_squares(torch.from_numpy(total), torch.from_numpy(terms), _ACCURACY)
    # a sum of nothing at all is not known either: what underflowed in narrower numbers looks the same
    limits = torch.finfo(values.dtype)
    return logs.numpy(), known.numpy() & (total > limits.tiny / limits.eps)


def _alike(
    met: Meeting, product: NDArray[np.int64], count: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Products that the same pairs of taps need, (n,) each ascending, and those pairs (m, 2)."""
    pairs, which = np.unique(met.taps, axis=0, return_inverse=True)
    needs = np.zeros((count, len(pairs)), dtype=bool)
    needs[product, which.reshape(-1)] = True
    kinds, kind = np.unique(needs, axis=0, return_inverse=True)
    for index, chosen in enumerate(kinds):
        yield np.flatnonzero(kind.reshape(-1) == index), pairs[chosen]
